//! The engine's process: QuickJS in WebAssembly, behind walls of its own ([`sandbar_linux::confine`]), at the other end of a stream.
//!
//! Order is everything here: what needs files comes first, then the walls, then the threads, then the filter of system calls,
//! and only then is anything read that a stranger has written. So whoever breaks out of WebAssembly finds a process that may
//! read from its stream, write to it and compute; no file, no network, no other process, no new thread.

pub(crate) mod desk;
#[cfg(test)]
pub(crate) mod fake;
pub mod strip;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{BufReader, Write},
    path::Path,
    process::ExitCode,
    sync::{Arc, Barrier, atomic::AtomicBool},
    thread,
};

use sandbar_linux::{confine, process};

use crate::{
    frame::{self, Checked, Done, Kind, Run, Settle, Step},
    quickjs,
};
use desk::{Desk, Machine};

/// Calls at once. Each may have a thread, so that it is the kernel who shares the processor among those that spin.
pub const CALLS_MAX: usize = 64;
/// Threads that run scripts, and one for what is only compiled: that need not wait for calls, however many there are.
pub const THREADS: usize = CALLS_MAX + 1;
const READ_BYTES: usize = 64 << 10;

/// Serves the stream that is its standard input until that ends. `cache_dir` is where the compiled engine is kept.
///
/// Call it first thing in a program: it expects to be the only thread.
pub fn main(cache_dir: Option<&Path>) -> ExitCode {
    with_stream(|stream| serve(stream, cache_dir))
}

fn with_stream(serve: impl FnOnce(&Arc<File>) -> Result<(), WorkerError>) -> ExitCode {
    let Some(stream) = process::inherited(0) else {
        complain("standard input is no stream");
        return ExitCode::FAILURE;
    };
    // One descriptor for both directions: the filter knows it by its number. It is closed after the last word was said: then we are killed.
    let stream = Arc::new(File::from(stream));
    match serve(&stream) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error("{0}")]
    Walls(#[from] confine::ConfineError),
    #[error("cannot load the engine: {0}")]
    Engine(String),
    #[error("cannot start threads: {0}")]
    Threads(#[source] std::io::Error),
    #[error("cannot limit its memory: {0}")]
    Memory(#[source] std::io::Error),
    #[error("{0}")]
    Desk(#[from] desk::DeskError),
}

fn serve(stream: &Arc<File>, cache_dir: Option<&Path>) -> Result<(), WorkerError> {
    let detached = confine::detach(stream, cache_dir)?;
    let engine = quickjs::Engine::open(cache_dir).map_err(|error| WorkerError::Engine(error.to_string()))?;
    // Once for all: what is made when it is first needed is made now, the file in memory that instances are mapped from.
    if let Some(error) = engine.check("", "").error {
        return Err(WorkerError::Engine(error.message));
    }
    let surrendered = detached.surrender()?;
    complain_of_panics();

    let desk = Arc::new(Desk::new(engine, Arc::clone(stream)));
    // All of them are there before the filter is, and none runs anything before it has its own.
    let (begun, sealed, ready) = (Arc::new(Barrier::new(THREADS + 1)), Arc::new(Barrier::new(THREADS + 1)), Arc::new(Barrier::new(THREADS + 1)));
    for number in 0..THREADS {
        let desk = Arc::clone(&desk);
        let (begun, sealed, ready) = (Arc::clone(&begun), Arc::clone(&sealed), Arc::clone(&ready));
        let thread = thread::Builder::new().name(format!("script-{number}")).stack_size(quickjs::THREAD_STACK_BYTES);
        thread
            .spawn(move || {
                begun.wait();
                sealed.wait();
                if let Err(error) = confine::seal_thread() {
                    complain(&error.to_string());
                    std::process::exit(1);
                }
                ready.wait();
                desk.work();
            })
            .map_err(WorkerError::Threads)?;
    }
    begun.wait();
    for missing in surrendered.seal()? {
        complain(&format!("this kernel, or who started the server, does without: {missing}"));
    }
    sealed.wait();
    confine::seal_thread()?;
    ready.wait();
    desk.say(&frame::encode(Kind::Ready, 0, b""))?;
    desk.read(BufReader::with_capacity(READ_BYTES, &**stream))?;
    Ok(())
}

fn complain_of_panics() {
    std::panic::set_hook(Box::new(|panic| complain(&format!("panicked: {panic}"))));
}

/// To whoever reads our standard error, without the ceremony of standard streams.
fn complain(text: &str) {
    let line: String = text.chars().take(1000).map(|c| if c.is_control() { ' ' } else { c }).chain(['\n']).collect();
    let _ = std::io::stderr().write_all(line.as_bytes());
}

impl Machine for quickjs::Engine {
    type Instance = quickjs::Instance;

    fn check(&self, code: &str, name: &str) -> Checked {
        self.check(code, name)
    }

    fn start(&self, run: Run, cancel: Arc<AtomicBool>) -> (Option<quickjs::Instance>, Step) {
        self.start(run, cancel)
    }

    fn settle(instance: &mut quickjs::Instance, settle: Settle) -> Step {
        instance.settle(settle)
    }

    fn cancel(instance: quickjs::Instance) -> Done {
        instance.cancel()
    }
}
