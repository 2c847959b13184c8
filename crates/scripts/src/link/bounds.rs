//! What an engine may say of one call. What goes beyond it without harm is cut; what an engine cannot have meant ends it.

use sandbar_core::text::shorten;
use serde_json::value::RawValue;

use super::{CANCEL_MAX, WALL_GRACE};
use crate::{
    Failure, FailureCode, Limits, LogLine, Op,
    call::{Clock, SLEEPS_MAX, SLEEPS_PENDING_MAX},
    frame::{Asked, Done, Step, SyntaxError},
    json::{self, JsonFault},
};

/// Of a failure's name, in bytes.
const NAME_MAX: usize = 256;
/// Of its message and of its stack, in bytes.
const TEXT_MAX: usize = 64 << 10;
/// Steps that answer nothing: what an engine says between. Each log line and each op may come alone.
const STEPS_MORE_MAX: usize = 1024;
/// Of all steps of a call, as they came. What a script may ask for is less, and it is told so.
pub(super) const SAID_BYTES_MAX: usize = 256 << 20;
/// Readings of a clock that an engine may have told of: QuickJS writes down no more.
const READINGS_MAX: usize = 4096;
/// What a clock of JavaScript can say, in milliseconds from 1970.
const TIME_MAX: i64 = 8_640_000_000_000_000;
/// The end of the year 9999: what can be written as a time everywhere.
const STAMP_MAX: i64 = 253_402_300_799_999;
/// What can be addressed with 32 bits.
const PEAK_BYTES_MAX: u64 = 4 << 30;
/// Lines and bytes of an engine's own note that there were more.
const NOTE_LINES: usize = 1;
const NOTE_BYTES: usize = 1 << 10;

/// One call's.
#[derive(Debug)]
pub(super) struct Bounds {
    steps_left: usize,
    ops_left: usize,
    pending_max: usize,
    sleeps_left: usize,
    last_seq: u32,
    lines_left: usize,
    log_bytes_left: usize,
    output_bytes: usize,
    bytes_left: usize,
    cpu_us_max: u64,
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
            sleeps_left: SLEEPS_MAX,
            last_seq: 0,
            lines_left: limits.log_lines.saturating_add(NOTE_LINES),
            log_bytes_left: limits.log_bytes.saturating_add(NOTE_BYTES),
            output_bytes: limits.output_bytes,
            bytes_left: SAID_BYTES_MAX,
            // One thread is at it, until it is given up.
            cpu_us_max: (limits.wall + WALL_GRACE + CANCEL_MAX).as_micros() as u64,
        }
    }

    /// Reads a step.
    pub fn step(&mut self, payload: &[u8]) -> Result<Step, Broken> {
        self.bytes_left = self.bytes_left.checked_sub(payload.len()).ok_or(Broken("more than there can be to say"))?;
        self.steps_left = self.steps_left.checked_sub(1).ok_or(Broken("more steps than there can be"))?;
        serde_json::from_slice(payload).map_err(|_| Broken("a step that is no JSON of that form"))
    }

    /// An op is asked for while `pending` others of its kind wait: timers, or all others.
    pub fn asked(&mut self, asked: &Asked, pending: usize) -> Result<(), Broken> {
        if asked.seq <= self.last_seq {
            return Err(Broken("an op's number that it had used"));
        }
        self.last_seq = asked.seq;
        let pending_max = if asked.op == Op::Sleep {
            self.sleeps_left = self.sleeps_left.checked_sub(1).ok_or(Broken("more timers than are allowed"))?;
            // Its end is another entry.
            self.steps_left = self.steps_left.saturating_add(1);
            SLEEPS_PENDING_MAX
        } else {
            self.ops_left = self.ops_left.checked_sub(1).ok_or(Broken("more ops than are allowed"))?;
            self.pending_max
        };
        if pending >= pending_max {
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
            shorten(&mut line.text, self.log_bytes_left);
            self.lines_left -= 1;
            self.log_bytes_left -= line.text.len();
            line.at_ms = line.at_ms.clamp(0, STAMP_MAX);
            into.push(line);
        }
    }

    /// The end, with a result that is not too large.
    pub fn done(&self, mut done: Done) -> Result<Done, Broken> {
        if let Some(Clock(readings)) = &done.clock
            && (readings.len() > READINGS_MAX || readings.iter().any(|(at, _)| !(-TIME_MAX..=TIME_MAX).contains(at)))
        {
            return Err(Broken("a clock that there cannot be"));
        }
        done.usage.cpu_us = done.usage.cpu_us.min(self.cpu_us_max);
        done.usage.peak_memory_bytes = done.usage.peak_memory_bytes.min(PEAK_BYTES_MAX);
        if done.failure.is_none() && done.value.as_ref().is_some_and(|value| value.get().len() > self.output_bytes) {
            let message = format!("the result is larger than {} bytes", self.output_bytes);
            done.failure = Some(Failure { code: FailureCode::PayloadTooLarge, name: "RangeError".into(), message, stack: None });
        }
        if done.failure.is_none()
            && let Some(value) = done.value.take()
        {
            match json::tidy(value) {
                Ok(value) => done.value = Some(value),
                Err(fault) => done.failure = Some(fault.failure()),
            }
        }
        if let Some(failure) = &mut done.failure {
            done.value = None;
            // What an engine ends has begun.
            if failure.is_busy() {
                failure.name = "InternalError".to_owned();
            }
            shorten(&mut failure.name, NAME_MAX);
            shorten(&mut failure.message, TEXT_MAX);
            if let Some(stack) = &mut failure.stack {
                shorten(stack, TEXT_MAX);
            }
        }
        Ok(done)
    }
}

/// Arguments that any reader takes; or why not, and none.
pub(super) fn tidy_args(asked: &mut Asked) -> Result<(), JsonFault> {
    let args = std::mem::replace(&mut asked.args, RawValue::NULL.to_owned());
    asked.args = json::tidy(args)?;
    Ok(())
}

pub(crate) fn cut_syntax_error(mut error: SyntaxError) -> SyntaxError {
    shorten(&mut error.message, TEXT_MAX);
    error
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits() -> Limits {
        let wall = Duration::from_secs(1);
        Limits { wall, cpu: wall, memory_bytes: 1, output_bytes: 1000, log_lines: 1, log_bytes: 1, ops_pending: 1, ops: 2 }
    }

    fn asked(seq: u32, op: Op, args: &str) -> Asked {
        Asked { seq, op, args: RawValue::from_string(args.into()).unwrap() }
    }

    #[test]
    fn timers_are_no_ops_and_are_bounded() {
        let mut bounds = Bounds::new(&limits());
        let mut ask = |seq, op, pending| bounds.asked(&asked(seq, op, "1"), pending);
        assert_eq!(ask(1, Op::Fetch, 0), Ok(()));
        assert_eq!(ask(2, Op::Sleep, 1), Ok(()));
        assert_eq!(ask(3, Op::DbOne, 0), Ok(()));
        assert_eq!(ask(4, Op::Sleep, SLEEPS_PENDING_MAX), Err(Broken("more ops at once than are allowed")));
        assert!((5..SLEEPS_MAX as u32 + 3).all(|seq| ask(seq, Op::Sleep, 0).is_ok()));
        assert_eq!(ask(u32::MAX, Op::Sleep, 0), Err(Broken("more timers than are allowed")));
        let mut bounds = Bounds::new(&limits());
        let steps = (1..10_000).take_while(|seq| bounds.asked(&asked(*seq, Op::Sleep, "1"), 0).is_ok() && bounds.step(b"{}").is_ok());
        assert_eq!(steps.count(), 9999, "each has a step of its own");
    }

    #[test]
    fn values_and_arguments_are_what_any_reader_takes() {
        let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
        let bounds = Bounds::new(&limits());
        for (value, want) in [
            (r#"{"a":"\ud83d"}"#, Ok(r#"{"a":"\ufffd"}"#)),
            ("[1e999]", Err("the result has a number that is too large")),
            (&deep, Err("the result is nested too deep: 100 levels are allowed")),
        ] {
            let done = Done { value: Some(RawValue::from_string(value.into()).unwrap()), failure: None, usage: Default::default(), clock: None };
            let done = bounds.done(done).unwrap();
            let failure = done.failure.as_ref().map(|failure| (failure.code, failure.message.as_str()));
            assert_eq!(done.value.as_deref().map(RawValue::get), want.ok());
            assert_eq!(failure, want.err().map(|message| (FailureCode::Unserializable, message)));
            let mut asked = asked(1, Op::Fetch, value);
            assert_eq!(tidy_args(&mut asked).is_ok(), want.is_ok());
            assert_eq!(asked.args.get(), want.unwrap_or("null"));
        }
    }
}
