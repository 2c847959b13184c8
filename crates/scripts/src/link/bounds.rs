//! What an engine may say of one call. What goes beyond it without harm is cut; what an engine cannot have meant ends it.

use crate::{
    Failure, FailureCode, Limits, LogLine,
    frame::{Asked, Done, Step, SyntaxError},
};

/// Of a failure's name, in bytes.
const NAME_MAX: usize = 256;
/// Of its message and of its stack, in bytes.
const TEXT_MAX: usize = 64 << 10;
/// Steps that answer nothing: what an engine says between. Each log line and each op may come alone.
const STEPS_MORE_MAX: usize = 1024;
/// Lines and bytes of an engine's own note that there were more.
const NOTE_LINES: usize = 1;
const NOTE_BYTES: usize = 1 << 10;

/// One call's.
#[derive(Debug)]
pub(super) struct Bounds {
    steps_left: usize,
    ops_left: usize,
    pending_max: usize,
    last_seq: u32,
    lines_left: usize,
    log_bytes_left: usize,
    output_bytes: usize,
}

/// An engine that is not to be believed any more, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken(pub &'static str);

impl Bounds {
    pub fn new(limits: &Limits) -> Self {
        let steps = limits.ops.saturating_mul(2).saturating_add(limits.log_lines).saturating_add(STEPS_MORE_MAX);
        Self {
            steps_left: steps,
            ops_left: limits.ops,
            pending_max: limits.ops_pending,
            last_seq: 0,
            lines_left: limits.log_lines.saturating_add(NOTE_LINES),
            log_bytes_left: limits.log_bytes.saturating_add(NOTE_BYTES),
            output_bytes: limits.output_bytes,
        }
    }

    /// Reads a step.
    pub fn step(&mut self, payload: &[u8]) -> Result<Step, Broken> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(Broken("more steps than there can be"))?;
        serde_json::from_slice(payload).map_err(|_| Broken("a step that is no JSON of that form"))
    }

    /// An op is asked for while `pending` others wait.
    pub fn asked(&mut self, asked: &Asked, pending: usize) -> Result<(), Broken> {
        if asked.seq <= self.last_seq {
            return Err(Broken("an op's number that it had used"));
        }
        self.last_seq = asked.seq;
        self.ops_left = self.ops_left.checked_sub(1).ok_or(Broken("more ops than are allowed"))?;
        if pending >= self.pending_max {
            return Err(Broken("more ops at once than are allowed"));
        }
        Ok(())
    }

    /// As many of the lines as there is room for.
    pub fn log(&mut self, into: &mut Vec<LogLine>, lines: Vec<LogLine>) {
        for mut line in lines {
            if self.lines_left == 0 || self.log_bytes_left == 0 {
                return;
            }
            cut(&mut line.text, self.log_bytes_left);
            self.lines_left -= 1;
            self.log_bytes_left -= line.text.len();
            into.push(line);
        }
    }

    /// The end, with a result that is not too large.
    pub fn done(&self, mut done: Done) -> Done {
        if done.failure.is_none() && done.value.as_ref().is_some_and(|value| value.get().len() > self.output_bytes) {
            let message = format!("the result is larger than {} bytes", self.output_bytes);
            done.failure = Some(Failure { code: FailureCode::PayloadTooLarge, name: "RangeError".into(), message, stack: None });
        }
        if let Some(failure) = &mut done.failure {
            done.value = None;
            cut(&mut failure.name, NAME_MAX);
            cut(&mut failure.message, TEXT_MAX);
            if let Some(stack) = &mut failure.stack {
                cut(stack, TEXT_MAX);
            }
        }
        done
    }
}

pub(crate) fn cut_syntax_error(mut error: SyntaxError) -> SyntaxError {
    cut(&mut error.message, TEXT_MAX);
    error
}

fn cut(text: &mut String, bytes_max: usize) {
    text.truncate(text.floor_char_boundary(bytes_max));
}
