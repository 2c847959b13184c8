//! What a call came to, in words that its author can use.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use wasmtime::Trap;

use super::{
    imports::{Ending, State},
    limits::Stop,
};
use crate::{
    Failure, FailureCode, Usage,
    frame::{Done, SyntaxError},
    json::JsonFault,
};

const STACK_EXCEEDED: &str = "Maximum call stack size exceeded";
const FRAMES_MAX: usize = 32;
const FRAME_CHARS_MAX: usize = 300;

/// Frames of ours, of built-ins, and the place in a text that is no JSON.
const NOT_THE_SCRIPTS: &[&str] = &["sandbar:", "(native)", "(missing)", "at <input>:"];

/// What `describe` in `prelude.js` says of something that was thrown.
#[derive(Debug, Default, Deserialize)]
struct Thrown {
    name: String,
    message: String,
    stack: Option<String>,
    /// Of an error of the host's that nobody caught: a [`FailureCode`], as it is written.
    code: Option<String>,
    /// `null` was thrown: what QuickJS does when there is not even memory for an error.
    nothing: Option<String>,
}

/// How the run ended, if it did.
pub(super) fn of_run(state: &mut State, entered: wasmtime::Result<()>) -> Option<Done> {
    let ending = state.ending.take();
    let refused = state.cap.refused;
    let result = if let Some(stop) = state.budget.stopping() {
        // Also when there is a result: it came too late, or the script went on after it was told to stop.
        let stack = match &ending {
            Some(Ending::Interrupted(stack)) => frames(stack),
            _ => None,
        };
        Err(Failure { stack, ..stopped(state, stop) })
    } else {
        match (ending, entered) {
            (Some(Ending::Value(value)), _) => Ok(Some(value)),
            (Some(Ending::Nothing), _) => Ok(None),
            (Some(Ending::TooLarge(length)), _) => {
                let message = format!("the result has {length} bytes: {} are allowed", state.output_bytes);
                Err(failure(FailureCode::PayloadTooLarge, "PayloadTooLargeError", message))
            }
            (Some(Ending::Unfit(fault)), _) => Err(fault.failure()),
            (Some(Ending::Thrown(description)), _) => Err(of_thrown(&description, refused, state.cap.most)),
            (Some(Ending::Unserializable(description)), _) => {
                let failure = of_thrown(&description, refused, state.cap.most);
                Err(match failure.code {
                    FailureCode::Memory => failure,
                    // Each level takes a part of the stack.
                    _ if failure.name == "RangeError" && failure.message == STACK_EXCEEDED => JsonFault::TooDeep.failure(),
                    _ => Failure {
                        code: FailureCode::Unserializable,
                        name: "UnserializableError".into(),
                        message: format!("the result is no JSON: {}", failure.message),
                        stack: failure.stack,
                    },
                })
            }
            (Some(Ending::Interrupted(_)), _) => Err(Failure::internal("the script was interrupted, and nobody asked for that")),
            (Some(Ending::Deadlock), _) => {
                let message = "the script waits for a promise that nothing will settle".into();
                Err(failure(FailureCode::UserError, "DeadlockError", message))
            }
            (None, Ok(())) => return None,
            (None, Err(error)) => Err(of_trap(&error, refused, state.cap.most, state.is_writing)),
        }
    };
    Some(done(state, result))
}

/// The last word on a call.
pub(super) fn done(state: &mut State, result: Result<Option<Box<RawValue>>, Failure>) -> Done {
    let (value, failure) = match result {
        Ok(value) => (value, None),
        Err(failure) => (None, Some(failure)),
    };
    let usage = Usage { cpu_us: state.budget.cpu_used().as_micros() as u64, peak_memory_bytes: state.cap.peak as u64 };
    Done { value, failure, usage, clock: state.clock.take() }
}

pub(super) fn stopped(state: &State, stop: Stop) -> Failure {
    match stop {
        Stop::Wall => Failure::timeout(state.budget.wall()),
        Stop::Cpu => {
            Failure { message: format!("timed out after {}ms of processor time", state.budget.cpu().as_millis()), ..Failure::timeout(state.budget.cpu()) }
        }
        Stop::Cancelled => failure(FailureCode::Cancelled, "CancelledError", "the call was cancelled".into()),
    }
}

pub(super) fn out_of_memory(most: usize) -> Failure {
    failure(FailureCode::Memory, "MemoryError", format!("the script needs more memory than it may have: {} MiB", most >> 20))
}

/// Where code is wrong, from what the compiler threw.
pub(super) fn of_syntax(description: &str, code: &str) -> SyntaxError {
    let thrown: Thrown = serde_json::from_str(description).unwrap_or_default();
    let place = thrown.stack.as_deref().and_then(|stack| stack.lines().next()).and_then(|line| {
        let mut numbers = line.trim_end_matches(')').rsplit(':');
        let column: u32 = numbers.next()?.parse().ok()?;
        Some((numbers.next()?.parse::<u32>().ok()?, column))
    });
    let message = if thrown.message.is_empty() { "the code is too large".into() } else { thrown.message };
    let (line, column) = place.unwrap_or((1, 1));
    // What is missing at the end is noticed after the end.
    let lines = code.split('\n').count() as u32;
    if line > lines {
        let last = code.rsplit('\n').next().unwrap_or_default();
        return SyntaxError { message, line: lines, column: last.chars().count() as u32 + 1 };
    }
    SyntaxError { message, line: line.max(1), column: column.max(1) }
}

fn of_thrown(description: &str, refused: bool, most: usize) -> Failure {
    let thrown: Option<Thrown> = serde_json::from_str(description).ok();
    // Without memory for its message an error says that it is invalid.
    let is_starved = |thrown: &Thrown| {
        thrown.nothing.is_some() || thrown.name == "InternalError" && thrown.message.starts_with("out of memory") || thrown.message == "Invalid error message"
    };
    let starved = thrown.as_ref().is_none_or(is_starved);
    // Text that is put together and not looked at takes hardly any memory, until it is longer than memory could ever be.
    let endless = thrown.as_ref().is_some_and(|thrown| thrown.name == "InternalError" && thrown.message == "string too long");
    if refused && starved || endless {
        return Failure { stack: thrown.and_then(|thrown| thrown.stack).as_deref().and_then(frames), ..out_of_memory(most) };
    }
    let Some(thrown) = thrown else {
        return failure(FailureCode::UserError, "Error", "something was thrown that cannot be read".into());
    };
    let code = if thrown.code.as_deref() == Some(FailureCode::Denied.as_str()) { FailureCode::Denied } else { FailureCode::UserError };
    Failure { code, name: thrown.name, message: thrown.message, stack: thrown.stack.as_deref().and_then(frames) }
}

fn of_trap(error: &wasmtime::Error, refused: bool, most: usize, is_writing: bool) -> Failure {
    match error.downcast_ref::<Trap>() {
        // QuickJS does not expect to find no memory everywhere.
        _ if refused => out_of_memory(most),
        // The guest's stack lies below its data: what runs out of it runs out of memory.
        Some(Trap::StackOverflow | Trap::MemoryOutOfBounds) if is_writing => JsonFault::TooDeep.failure(),
        Some(Trap::StackOverflow | Trap::MemoryOutOfBounds) => failure(FailureCode::UserError, "RangeError", STACK_EXCEEDED.into()),
        _ => Failure::internal(format!("the engine broke down: {error:#}")),
    }
}

fn failure(code: FailureCode, name: &str, message: String) -> Failure {
    Failure { code, name: name.into(), message, stack: None }
}

/// The script's own frames.
fn frames(stack: &str) -> Option<String> {
    let kept: Vec<String> = stack
        .lines()
        .filter(|line| line.trim_start().starts_with("at ") && !NOT_THE_SCRIPTS.iter().any(|part| line.contains(part)))
        .take(FRAMES_MAX)
        .map(|line| placed(line).chars().take(FRAME_CHARS_MAX).collect())
        .collect();
    (!kept.is_empty()).then(|| kept.join("\n"))
}

/// A frame without its place when that is none: lines count from 1.
fn placed(line: &str) -> Cow<'_, str> {
    let place = line.rsplit_once('(').map(|(called, place)| (called, place.trim_end_matches(')')));
    let mut numbers = place.map_or(line, |(_, place)| place).rsplit(':');
    let is_none = numbers.next().is_some_and(|column| column.parse::<u32>().is_ok()) && numbers.next().is_some_and(|line| line.parse() == Ok(0_u32));
    match place {
        Some((called, _)) if is_none => called.trim_end().into(),
        None if is_none => format!("{} <anonymous>", &line[..line.find("at ").map_or(0, |at| at + 2)]).into(),
        Some(_) | None => line.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_scripts_frames_stay() {
        let stack = "Error: x\n    at f (job:1:2)\n    at map (native)\n    at <input>:1:2\n    at <anonymous> (sandbar:prelude:3:4)\n    at g (job:5:6)\n";
        assert_eq!(frames(stack).as_deref(), Some("    at f (job:1:2)\n    at g (job:5:6)"));
        assert_eq!(frames("    at map (native)"), None);
        assert_eq!(
            frames("    at f (job:0:0)\n    at job:0:1\n    at g (job:10:0)\n    at job:7:20").as_deref(),
            Some("    at f\n    at <anonymous>\n    at g (job:10:0)\n    at job:7:20")
        );
        assert_eq!(frames(&"    at f (job:1:2)\n".repeat(100)).unwrap().lines().count(), FRAMES_MAX);
    }

    #[test]
    fn places_are_read_from_the_end() {
        let of = |stack: &str, code: &str| of_syntax(&format!(r#"{{"name":"SyntaxError","message":"m","stack":{stack:?}}}"#), code);
        assert_eq!(of("    at a:b:2:7\n", "x\ny"), SyntaxError { message: "m".into(), line: 2, column: 7 });
        assert_eq!(of("    at job:3:1\n", "if (x) {\nfo"), SyntaxError { message: "m".into(), line: 2, column: 3 });
        assert_eq!(of("", ""), SyntaxError { message: "m".into(), line: 1, column: 1 });
    }

    #[test]
    fn want_of_memory_is_told_from_an_error_that_only_says_so() {
        let starved = r#"{"name":"InternalError","message":"out of memory"}"#;
        assert_eq!(of_thrown(starved, true, 1 << 20).code, FailureCode::Memory);
        assert_eq!(of_thrown(starved, false, 1 << 20).code, FailureCode::UserError);
        assert_eq!(of_thrown("", true, 1 << 20).code, FailureCode::Memory);
        assert_eq!(of_thrown("", false, 1 << 20).code, FailureCode::UserError);
        let denied = r#"{"name":"Error","message":"no","code":"denied"}"#;
        assert_eq!(of_thrown(denied, true, 1 << 20).code, FailureCode::Denied);
        let strange = of_thrown(r#"{"name":"Error","message":"no","code":"E_LIST"}"#, false, 1 << 20);
        assert_eq!((strange.code, strange.message.as_str()), (FailureCode::UserError, "no"));
        let wordless = r#"{"name":"TypeError","message":"Invalid error message"}"#;
        assert_eq!((of_thrown(wordless, true, 1 << 20).code, of_thrown(wordless, false, 1 << 20).code), (FailureCode::Memory, FailureCode::UserError));
        let endless = r#"{"name":"InternalError","message":"string too long"}"#;
        assert_eq!(of_thrown(endless, false, 1 << 20).code, FailureCode::Memory);
    }
}
