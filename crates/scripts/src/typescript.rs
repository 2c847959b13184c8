//! TypeScript becomes JavaScript by leaving its types out: what goes is replaced by spaces, so every line and column stays
//! where its author wrote it. What would need code to be made (enums, namespaces, parameter properties) is refused.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
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
const HEAD: &str = "async function script(ctx) {\n";
const TAIL: &str = "\n}";

/// The body of an async function, without its types.
///
/// Nothing can stop the parser, which takes as much time, stack and memory as it likes with what a stranger has written: that belongs into a
/// process of its own, and [`crate::Workers::strip`] has one. Here it is the caller's thread.
///
/// # Errors
/// Where the code is wrong.
pub fn strip(code: &str) -> Result<String, SyntaxError> {
    check_size(code)?;
    let wrapped = format!("{HEAD}{code}{TAIL}");
    let lines = code.split('\n').count() as u32;
    let stripped = catch_unwind(AssertUnwindSafe(|| without_types(wrapped))).unwrap_or_else(|_| Err(nowhere("the code cannot be read")));
    let stripped = stripped.map_err(|error| within(error, lines))?;
    let body = stripped.split_once('\n').and_then(|(_, rest)| rest.rsplit_once('\n')).map(|(body, _)| body.to_owned());
    body.ok_or_else(|| nowhere("the code cannot be read"))
}

/// Whether there is not more of it than is read.
pub(crate) fn check_size(code: &str) -> Result<(), SyntaxError> {
    if code.len() <= SOURCE_BYTES_MAX {
        return Ok(());
    }
    Err(nowhere(format!("the code has {} bytes: {SOURCE_BYTES_MAX} are allowed", code.len())))
}

/// What is wrong with the code as a whole.
pub(crate) fn nowhere(message: impl Into<String>) -> SyntaxError {
    SyntaxError { message: message.into(), line: 1, column: 1 }
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
