//! A call of a script and what comes of it.

use std::time::Duration;

use sandbar_core::limits;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// JavaScript: the body of an async function of `ctx`.
    pub code: String,
    /// What stack traces call it.
    pub name: String,
    /// `ctx.data`.
    pub data: Box<RawValue>,
    /// `ctx.user`.
    pub user: User,
    pub limits: Limits,
    /// Of everything random in it.
    pub seed: [u8; 32],
    /// What its clock says, when that was written down before; else the real time.
    pub clock: Option<Clock>,
}

/// `ctx.user`; nobody for events and schedules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: Option<String>,
    pub email: Option<String>,
    #[serde(default)]
    pub roles: Vec<String>,
}

/// Timers that wait at a time, as far as an engine asks for each, and timers of one call. They are no ops ([`Limits::ops`]).
pub const SLEEPS_PENDING_MAX: usize = 1000;
pub const SLEEPS_MAX: usize = 100_000;

/// The end of a line that is longer than there was room for. Bun's worker has the same words.
pub const LOG_CUT: &str = " [cut off here: the log is full, further lines are left out]";

/// What a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From its start to its end.
    pub wall: Duration,
    /// Of a processor; waiting for the host costs nothing.
    pub cpu: Duration,
    pub memory_bytes: u64,
    pub output_bytes: usize,
    pub log_lines: usize,
    pub log_bytes: usize,
    /// Ops that wait for an answer at once, and ops in all. Timers are counted apart.
    pub ops_pending: usize,
    pub ops: usize,
}

impl Limits {
    /// Those of every call that whoever runs scripts makes; its time, its memory and its time of a processor (else its time) are its
    /// owner's to say.
    pub fn of(wall: Duration, cpu: Option<Duration>, memory_bytes: u64) -> Self {
        Self {
            wall,
            cpu: cpu.unwrap_or(wall),
            memory_bytes,
            output_bytes: limits::SCRIPT_OUTPUT_MAX_BYTES,
            log_lines: limits::SCRIPT_LOG_LINES_MAX,
            log_bytes: limits::SCRIPT_LOG_MAX_BYTES,
            ops_pending: limits::SCRIPT_OPS_PENDING_MAX,
            ops: limits::SCRIPT_OPS_MAX,
        }
    }
}

/// What a script's clock said, in order: milliseconds since 1970 and how often each was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock(pub Vec<(i64, u32)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Debug,
    Log,
    Info,
    Warn,
    Error,
}

/// One call of `console`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub level: Level,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    pub text: String,
}

/// What a call came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// JSON; none when the script returned `undefined`.
    pub result: Result<Option<Box<RawValue>>, Failure>,
    pub logs: Vec<LogLine>,
    pub usage: Usage,
    /// What the clock said, when it was the real one and the engine can tell.
    pub clock: Option<Clock>,
}

impl Outcome {
    /// An end that came before a beginning.
    pub fn failed(failure: Failure) -> Self {
        Self { result: Err(failure), logs: Vec::new(), usage: Usage::default(), clock: None }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub cpu_us: u64,
    pub peak_memory_bytes: u64,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: FailureCode,
    /// `Error`, `TypeError`, or whatever the script threw calls itself.
    pub name: String,
    pub message: String,
    /// Frames of the script alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// It threw.
    UserError,
    /// It was still at it when its time was up.
    Timeout,
    /// It wanted more memory than it may have.
    Memory,
    /// It asked for what it may not, and did not catch that.
    Denied,
    Cancelled,
    /// What it returned is no JSON.
    Unserializable,
    /// What it returned is too much.
    PayloadTooLarge,
    /// The engine failed, not the script.
    Internal,
}

impl FailureCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserError => "user_error",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
            Self::Unserializable => "unserializable",
            Self::PayloadTooLarge => "payload_too_large",
            Self::Internal => "internal",
        }
    }
}

/// Of a failure that is none of the engine either.
const BUSY_NAME: &str = "BusyError";

impl Failure {
    /// It did not begin, since too many others were at it.
    pub fn busy(message: impl Into<String>) -> Self {
        Self { name: BUSY_NAME.into(), ..Self::internal(message) }
    }

    /// Whether it did not even begin and may be tried again.
    pub fn is_busy(&self) -> bool {
        self.code == FailureCode::Internal && self.name == BUSY_NAME
    }

    /// The time of a call was up.
    pub fn timeout(wall: Duration) -> Self {
        Self { code: FailureCode::Timeout, name: "TimeoutError".into(), message: format!("timed out after {}ms", wall.as_millis()), stack: None }
    }

    /// A fault that is not the script's.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { code: FailureCode::Internal, name: "InternalError".into(), message: message.into(), stack: None }
    }
}
