//! Webhooks as decisions: which events there are, what they say, and what becomes of one that a receiver did not take.

use std::{fmt, str::FromStr};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    limits,
    sandbox::{Desired, SandboxRecord, reason},
};

mod pace;

pub use pace::{Bucket, Burst, Change};

/// Where the agent answers inside; clients of the May generation read it from the event.
const HTTP_PORT: u16 = limits::FUNCTION_SERVICE_PORT;
/// Ids that only the server gives.
const OWN_ID: &str = "evt_sandbox_deleted_";

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Ready,
    Paused,
    Resumed,
    Killed,
    Deleted,
    ProcessStarted,
    /// A process ended by itself, with whatever code.
    ProcessExited,
    /// A signal ended a process.
    ProcessCrashed,
    FileModified,
    /// Published by a program inside.
    Agent,
    /// Asked for by somebody who wants to see whether it arrives.
    Test,
}

/// What is given up first when too much waits. The order is the order of giving up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Told by what runs inside, as often as it likes.
    Cheap,
    /// Sent on purpose by a program inside.
    Published,
    /// Never given up for want of room.
    Lifecycle,
}

/// The name is none that was ever written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no type of event")]
pub struct UnknownKind(pub String);

impl Kind {
    const ALL: [Self; 11] = [
        Self::Ready,
        Self::Paused,
        Self::Resumed,
        Self::Killed,
        Self::Deleted,
        Self::ProcessStarted,
        Self::ProcessExited,
        Self::ProcessCrashed,
        Self::FileModified,
        Self::Agent,
        Self::Test,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "sandbox.ready",
            Self::Paused => "sandbox.paused",
            Self::Resumed => "sandbox.resumed",
            Self::Killed => "sandbox.killed",
            Self::Deleted => "sandbox.deleted",
            Self::ProcessStarted => "process.started",
            Self::ProcessExited => "process.exited",
            Self::ProcessCrashed => "process.crashed",
            Self::FileModified => "file.modified",
            Self::Agent => "agent.event",
            Self::Test => "webhook.test",
        }
    }

    pub fn class(self) -> Class {
        match self {
            Self::Ready | Self::Paused | Self::Resumed | Self::Killed | Self::Deleted | Self::Test => Class::Lifecycle,
            Self::Agent => Class::Published,
            Self::ProcessStarted | Self::ProcessExited | Self::ProcessCrashed | Self::FileModified => Class::Cheap,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// The body of a request, in the order in which its fields are sent.
#[derive(Serialize)]
struct Body<'a> {
    event_id: &'a str,
    event_type: &'a str,
    timestamp: &'a str,
    sandbox_id: &'a str,
    team_id: &'a str,
    payload: &'a Value,
}

/// The bytes that are posted, each time the same. `timestamp` is RFC 3339 in UTC.
pub fn body(event_id: &str, kind: Kind, timestamp: &str, sandbox_id: &str, team_id: &str, payload: &Value) -> String {
    let body = Body { event_id, event_type: kind.as_str(), timestamp, sandbox_id, team_id, payload };
    // Strings and a value that came from JSON: there is nothing that JSON could not say.
    serde_json::to_string(&body).unwrap_or_default()
}

/// The id of the event that is the last of a sandbox.
pub fn deleted_id(sandbox_id: &str) -> String {
    format!("{OWN_ID}{sandbox_id}")
}

/// Whether a program inside may call its event that: visible ASCII, and not as we call ours.
pub fn is_event_id(id: &str) -> bool {
    let visible = |byte: u8| byte.is_ascii_graphic();
    (1..=limits::WEBHOOK_EVENT_ID_MAX_BYTES).contains(&id.len()) && id.bytes().all(visible) && !id.starts_with(OWN_ID)
}

/// What a change of a sandbox's row means to its webhook. `former` is the row before, `kind` and `code` are those of the
/// event that is noted with the change.
///
/// A sandbox is *ready* when it begins with new files: at its claim, when it is resumed after it was cleaned, and when a
/// fork is resumed for the first time.
pub fn of_change(former: Option<&SandboxRecord>, record: &SandboxRecord, kind: &str, code: &str, message: &str) -> Vec<(Kind, Value)> {
    let ready = || (Kind::Ready, json!({ "http_port": HTTP_PORT, "sandbox_id": record.id }));
    let killed = |reason: &str| (Kind::Killed, json!({ "signal": "SIGKILL", "reason": reason, "reason_code": code, "message": message }));
    let had_runtime = former.is_some_and(|former| former.observed.has_runtime());
    match kind {
        "sandbox.ready" => vec![ready()],
        "sandbox.paused" => vec![(Kind::Paused, json!({ "resource_usage": {}, "reason": message, "reason_code": code }))],
        "sandbox.resumed" => {
            let begins = former.is_some_and(|former| former.desired == Desired::Cleaned || former.reason_code.as_deref() == Some(reason::FORKED));
            let resumed = json!({ "resumed": true, "reason": message, "reason_code": code, "runtime_generation": record.runtime_generation });
            begins.then(ready).into_iter().chain([(Kind::Resumed, resumed)]).collect()
        }
        "sandbox.runtime_lost" => vec![killed(code)],
        "sandbox.cleaned" => vec![killed(code)],
        "sandbox.volume_detached" if had_runtime && !record.observed.has_runtime() => vec![killed(code)],
        "sandbox.deleted" => {
            let deleted = (Kind::Deleted, json!({ "reason": "pod_deleted" }));
            had_runtime.then(|| killed("shutdown")).into_iter().chain([deleted]).collect()
        }
        _ => Vec::new(),
    }
}

/// What came of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A status, and how long the receiver asked us to wait.
    Answered { status: u16, retry_after_ms: Option<i64> },
    /// No answer in time, or no connection.
    Unreached,
    /// It was not tried: the target is none, or not one that may be reached.
    Refused,
}

/// What happens to an event after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Delivered,
    /// Try again at this moment.
    Retry {
        at_ms: i64,
    },
    /// Not again, unless somebody asks for it.
    Failed,
}

/// Decides after an attempt. `attempts` counts it; `jitter` is from 0 to 1, so that events that failed together do not come
/// back together; after `give_up_at_ms` nothing is tried again.
pub fn next(outcome: Outcome, attempts: u32, jitter: f64, give_up_at_ms: i64, now_ms: i64) -> Next {
    let asked_ms = match outcome {
        Outcome::Answered { status: 200..=299, .. } => return Next::Delivered,
        Outcome::Answered { status: 408 | 425 | 429 | 500.., retry_after_ms } => retry_after_ms,
        // A redirect is not followed: it could lead anywhere.
        Outcome::Answered { .. } | Outcome::Refused => return Next::Failed,
        Outcome::Unreached => None,
    };
    let wait_ms = backoff_ms(attempts, jitter).max(asked_ms.unwrap_or(0).clamp(0, limits::WEBHOOK_RETRY_AFTER_MAX_MS));
    let at_ms = now_ms.saturating_add(wait_ms);
    if at_ms < give_up_at_ms { Next::Retry { at_ms } } else { Next::Failed }
}

/// Doubles from half a second to the cap, and up to half more.
fn backoff_ms(attempts: u32, jitter: f64) -> i64 {
    let doubled = limits::WEBHOOK_BACKOFF_MS.saturating_mul(1 << attempts.saturating_sub(1).min(20));
    let base = doubled.min(limits::WEBHOOK_BACKOFF_MAX_MS);
    let more = base as f64 * 0.5 * jitter.clamp(0.0, 1.0);
    base.saturating_add(more as i64).min(limits::WEBHOOK_BACKOFF_MAX_MS)
}

/// Host and port that a URL leads to, in one way of writing: what shares them shares its fate. The URL was checked when it
/// was set.
pub fn receiver(url: &str) -> String {
    let lower = url.to_ascii_lowercase();
    let (rest, port) = match lower.strip_prefix("https://") {
        Some(rest) => (rest, 443),
        None => (lower.strip_prefix("http://").unwrap_or(&lower), 80),
    };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let names_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    if names_port { authority.to_owned() } else { format!("{}:{port}", authority.trim_end_matches(':')) }
}

#[cfg(test)]
mod tests;
