//! The process that reads TypeScript: one source, one answer, behind the same walls as an engine. Its parser may need seconds, or for ever, for
//! a few bytes, and nobody can stop a thread: who waits ends the process.
//!
//! ```text
//! process: newline when it is ready                 JSON of a Result<code, SyntaxError>, end of the stream
//! host:                            source, end of the stream
//! ```

use std::{
    fs::File,
    io::{Read, Write},
    process::ExitCode,
    sync::{Arc, Barrier},
    thread,
};

use rustix::process::{Resource, Rlimit, setrlimit};
use sandbar_linux::confine;

use super::{WorkerError, complain_of_panics, desk::DeskError, with_stream};
use crate::typescript::{self, SOURCE_BYTES_MAX};

/// All that it may have, stack included. Flat code of the size that is allowed takes a sixth, this program included.
pub const MEMORY_BYTES: u64 = 128 << 20;
/// For some ten thousand levels of what is nested.
const STACK_BYTES: usize = 32 << 20;
/// Said when it is ready: what JSON allows before a value.
pub(crate) const READY: u8 = b'\n';

/// Answers the stream that is its standard input, once.
///
/// Call it first thing in a program: it expects to be the only thread.
pub fn main() -> ExitCode {
    with_stream(serve)
}

fn serve(stream: &Arc<File>) -> Result<(), WorkerError> {
    let surrendered = confine::detach(stream, None)?.surrender()?;
    complain_of_panics();
    let memory = Rlimit { current: Some(MEMORY_BYTES), maximum: Some(MEMORY_BYTES) };
    setrlimit(Resource::Data, memory).map_err(|error| WorkerError::Memory(error.into()))?;

    // It is there before the filter is, and reads nothing before it has its own.
    let steps = Arc::new(Barrier::new(2));
    let thread = thread::Builder::new().name("typescript".into()).stack_size(STACK_BYTES);
    let reader = {
        let (stream, steps) = (Arc::clone(stream), Arc::clone(&steps));
        let read = move || {
            steps.wait();
            steps.wait();
            confine::seal_thread()?;
            answer(&stream)
        };
        thread.spawn(read).map_err(WorkerError::Threads)?
    };
    steps.wait();
    // Which walls are missing is said by the engines of this machine, and not with every source.
    let _missing = surrendered.seal()?;
    steps.wait();
    confine::seal_thread()?;
    reader.join().unwrap_or(Err(WorkerError::Desk(DeskError::Host("what cannot be answered"))))
}

fn answer(mut stream: &File) -> Result<(), WorkerError> {
    stream.write_all(&[READY]).map_err(DeskError::Write)?;
    let mut source = Vec::with_capacity(SOURCE_BYTES_MAX + 1);
    stream.take(SOURCE_BYTES_MAX as u64 + 1).read_to_end(&mut source).map_err(DeskError::Read)?;
    let source = String::from_utf8(source).map_err(|_| DeskError::Host("what is no text"))?;
    let answer = serde_json::to_vec(&typescript::strip(&source)).map_err(|error| DeskError::Write(error.into()))?;
    stream.write_all(&answer).map_err(DeskError::Write)?;
    Ok(())
}
