//! TypeScript becomes JavaScript by leaving its types out: what goes is replaced by spaces, so every line and column stays
//! where its author wrote it. What would need code to be made (enums, namespaces, parameter properties) is refused.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use swc_common::{
    GLOBALS, Globals, SourceMap,
    errors::{DiagnosticBuilder, Emitter, Handler},
    sync::Lrc,
};
use swc_ecma_parser::TsSyntax;
use swc_ts_fast_strip::{Mode, Options, operate};

use crate::frame::SyntaxError;

/// More than anybody writes by hand. The parser descends as deep as the code is nested, so its stack goes with this.
pub const SOURCE_BYTES_MAX: usize = 128 << 10;
const STACK_BYTES: usize = 512 << 20;
const TIME_MAX: Duration = Duration::from_secs(5);
const THREADS_MAX: usize = 8;
const HEAD: &str = "async function script(ctx) {\n";
const TAIL: &str = "\n}";

/// The body of an async function, without its types.
pub fn strip(code: &str) -> Result<String, SyntaxError> {
    if code.len() > SOURCE_BYTES_MAX {
        return Err(nowhere(format!("the code has {} bytes: {SOURCE_BYTES_MAX} are allowed", code.len())));
    }
    let wrapped = format!("{HEAD}{code}{TAIL}");
    let lines = code.split('\n').count() as u32;
    let stripped = elsewhere(wrapped);
    let stripped = stripped.map_err(|error| within(error, lines))?;
    let body = stripped.split_once('\n').and_then(|(_, rest)| rest.rsplit_once('\n')).map(|(body, _)| body.to_owned());
    body.ok_or_else(|| nowhere("the code cannot be read".into()))
}

/// On a thread of its own: what is parsed is a stranger's, and so are its depth and the time that it takes. Nothing can stop the
/// parser; who waits gives up, and of those that go on there are only so many.
fn elsewhere(wrapped: String) -> Result<String, SyntaxError> {
    static AT_WORK: AtomicUsize = AtomicUsize::new(0);
    struct Place;
    impl Drop for Place {
        fn drop(&mut self) {
            AT_WORK.fetch_sub(1, SeqCst);
        }
    }
    if AT_WORK.fetch_add(1, SeqCst) >= THREADS_MAX {
        drop(Place);
        return Err(nowhere("too much TypeScript is being read at once: try again".into()));
    }
    let place = Place;
    let (answer, answered) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("typescript".into()).stack_size(STACK_BYTES);
    let started = thread.spawn(move || {
        let _place = place;
        let read = catch_unwind(AssertUnwindSafe(|| without_types(wrapped)));
        let _ = answer.send(read.unwrap_or_else(|_| Err(nowhere("the code cannot be read".into()))));
    });
    if started.is_err() {
        return Err(nowhere("there is no room to read TypeScript: try again".into()));
    }
    answered.recv_timeout(TIME_MAX).unwrap_or_else(|_| Err(nowhere(format!("the code takes more than {} s to read", TIME_MAX.as_secs()))))
}

fn without_types(wrapped: String) -> Result<String, SyntaxError> {
    let map: Lrc<SourceMap> = Lrc::default();
    let first = Arc::new(Mutex::new(None));
    let handler = Handler::with_emitter(false, false, Box::new(First { error: Arc::clone(&first), map: Lrc::clone(&map) }));
    let options = Options {
        module: Some(false),
        parser: TsSyntax { decorators: true, ..TsSyntax::default() },
        mode: Mode::StripOnly,
        deprecated_ts_module_as_error: Some(true),
        ..Options::default()
    };
    let outcome = GLOBALS.set(&Globals::new(), || operate(&map, &handler, wrapped, options));
    let said = first.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (outcome, said) {
        (_, Some(error)) => Err(error),
        (Ok(output), None) => Ok(output.code),
        (Err(error), None) => Err(nowhere(error.message)),
    }
}

/// Keeps the first thing that is wrong.
struct First {
    error: Arc<Mutex<Option<SyntaxError>>>,
    map: Lrc<SourceMap>,
}

impl Emitter for First {
    fn emit(&mut self, diagnostic: &mut DiagnosticBuilder<'_>) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_some() {
            return;
        }
        let place = diagnostic.span.primary_span().map(|span| self.map.lookup_char_pos(span.lo));
        let (line, column) = place.map_or((1, 1), |place| (place.line as u32, place.col.0 as u32 + 1));
        *error = Some(SyntaxError { message: diagnostic.message(), line, column });
    }
}

/// From the wrapped code's lines to the author's.
fn within(error: SyntaxError, lines: u32) -> SyntaxError {
    SyntaxError { line: error.line.saturating_sub(1).clamp(1, lines), ..error }
}

fn nowhere(message: String) -> SyntaxError {
    SyntaxError { message, line: 1, column: 1 }
}
