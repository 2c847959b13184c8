//! Keeping one process of an app up: what is done next with it, by what was seen of it.
//!
//! ```text
//!   Idle --wanted--> Waiting --runs--> Starting --passes--> Ready <--passes/misses--> Unhealthy
//!                     ^  ^                |  |                |                           |
//!                     |  |   lost: asleep |  | ended, or not  | ended                     |
//!                     |  +----------------+  | ready in time  v                           v
//!                     |                      +------> again: Pausing --due--> Waiting <---+
//!                     +------ wanted --------------- rest:  Over
//!   any --unwanted--> Idle
//! ```
//!
//! Whoever drives it asks [`Upkeep::next`], does that, and says by [`Upkeep::see`] what came of it. Nothing here reads a clock:
//! `now_ms` is an argument.

use serde::{Deserialize, Serialize};

use super::{
    AppState,
    manifest::{Restart, RestartPolicy},
};

/// A process that ran for so long has earned a start at once, and all the restarts that it may have.
const STABLE_MS: i64 = 10_000;
/// Checks in a row that a ready process fails until it is unhealthy.
const MISSES_MAX: u32 = 3;

/// Why a process does not run any more, or was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// With exit code 0.
    Exited,
    /// With another one.
    ExitCode,
    /// By a signal that was not ours.
    Signal,
    /// The sandbox had no memory left.
    OutOfMemory,
    /// It ran for longer than it may.
    TimedOut,
    /// It ran, and did not pass its check in time.
    StartNotReady,
    /// It could not be started.
    NotStarted,
    /// Something that it depends on is over.
    DependencyFailed,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    pub why: Why,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// For people.
    pub text: String,
    pub at_ms: i64,
    /// The last lines that it printed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
}

/// What was seen of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Somebody wants it to run.
    Wanted,
    /// Nobody does any more; it is ended.
    Unwanted,
    /// Its sandbox has no processes now, or they stand still.
    Lost,
    /// It was found or started.
    Runs,
    /// It passed its check.
    Passed,
    /// It runs and did not.
    Missed,
    /// It ended, or could not be started, and may be started again.
    Ended(Ending),
    /// It cannot run, and trying again would not help.
    Blocked(Ending),
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something is asked.
    Rest,
    /// Find its process or start one. With `adopt` an end that nobody saw counts, else one is started in its place.
    Launch { adopt: bool },
    /// Ask its check, until this moment at most; then look again.
    Check { until_ms: i64 },
    /// Ask its check now and then.
    Look,
    /// Wait until a moment, and start it again.
    Pause { until_ms: i64 },
    /// End it: it was not ready in time.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Idle,
    Waiting { adopt: bool },
    Starting { since_ms: i64 },
    Ready { since_ms: i64, misses: u32 },
    Unhealthy { since_ms: i64 },
    Pausing { until_ms: i64 },
    Over { exited: bool },
}

/// One process that is kept up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upkeep {
    restart: Restart,
    /// How long it may take to pass its check.
    ready_within_ms: i64,
    phase: Phase,
    /// When the present process was found running.
    runs_since_ms: Option<i64>,
    pause_ms: i64,
    /// Restarts without a stable time between.
    in_a_row: u32,
    /// Restarts since somebody wanted it.
    restarts: u32,
    last: Option<Ending>,
}

impl Ending {
    /// From what the agent tells of a process that ended.
    pub fn of(name: &str, exit_code: Option<i32>, told: Option<&str>, at_ms: i64, log_tail: Vec<String>) -> Self {
        let code = told.and_then(|told| told.split(':').next()).unwrap_or_default();
        let (why, text) = match (code, exit_code) {
            ("ttl", _) => (Why::TimedOut, format!("{name:?} ran for longer than its timeoutSeconds and was ended")),
            ("out_of_memory", _) => (Why::OutOfMemory, format!("{name:?} was killed: the sandbox reached its memory limit")),
            ("signal", code) => {
                let signal = told.and_then(|told| told.split_once(": ")).map_or("a signal", |(_, signal)| signal);
                let code = code.map_or_else(String::new, |code| format!(" (exit code {code})"));
                (Why::Signal, format!("{name:?} was ended by {signal}{code}"))
            }
            (_, Some(0)) => (Why::Exited, format!("{name:?} exited with code 0")),
            (_, Some(code)) => (Why::ExitCode, format!("{name:?} exited with code {code}")),
            (_, None) => (Why::NotStarted, format!("{name:?} is not known any more")),
        };
        Self { why, exit_code, text, at_ms, log_tail }
    }

    pub fn new(why: Why, text: impl Into<String>, at_ms: i64) -> Self {
        Self { why, exit_code: None, text: text.into(), at_ms, log_tail: Vec::new() }
    }
}

impl Why {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::ExitCode => "exit_code",
            Self::Signal => "signal",
            Self::OutOfMemory => "out_of_memory",
            Self::TimedOut => "timed_out",
            Self::StartNotReady => "start_not_ready",
            Self::NotStarted => "not_started",
            Self::DependencyFailed => "dependency_failed",
        }
    }
}

impl Upkeep {
    pub fn new(restart: Restart, ready_within_ms: i64) -> Self {
        Self {
            restart,
            ready_within_ms,
            phase: Phase::Idle,
            runs_since_ms: None,
            pause_ms: i64::from(restart.backoff_ms),
            in_a_row: 0,
            restarts: 0,
            last: None,
        }
    }

    /// One that was kept up before, by a server that is gone: `over` is how it had ended for good, if it had.
    #[must_use]
    pub fn again(mut self, over: Option<Ending>) -> Self {
        self.phase = match &over {
            Some(ending) => Phase::Over { exited: ending.why == Why::Exited },
            None => Phase::Waiting { adopt: true },
        };
        self.last = over;
        self
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How it ended last, since somebody wanted it.
    pub fn last(&self) -> Option<&Ending> {
        self.last.as_ref()
    }

    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// How it is for everybody else.
    pub fn state(&self) -> AppState {
        match self.phase {
            Phase::Idle => AppState::None,
            Phase::Waiting { .. } | Phase::Starting { .. } | Phase::Pausing { .. } => AppState::Starting,
            Phase::Ready { .. } => AppState::Ready,
            Phase::Unhealthy { .. } => AppState::Unhealthy,
            Phase::Over { exited: true } => AppState::Exited,
            Phase::Over { exited: false } => AppState::Failed,
        }
    }

    pub fn next(&self, now_ms: i64) -> Next {
        match self.phase {
            Phase::Idle | Phase::Over { .. } => Next::Rest,
            Phase::Waiting { adopt } => Next::Launch { adopt },
            Phase::Starting { since_ms } => {
                let until_ms = since_ms.saturating_add(self.ready_within_ms);
                if now_ms >= until_ms { Next::End } else { Next::Check { until_ms } }
            }
            Phase::Ready { .. } | Phase::Unhealthy { .. } => Next::Look,
            Phase::Pausing { until_ms } if now_ms >= until_ms => Next::Launch { adopt: false },
            Phase::Pausing { until_ms } => Next::Pause { until_ms },
        }
    }

    pub fn see(&mut self, seen: Seen, now_ms: i64) {
        self.phase = match (seen, self.phase) {
            (Seen::Unwanted, _) => {
                self.forget();
                Phase::Idle
            }
            // It joins what is under way.
            (Seen::Wanted, phase @ (Phase::Waiting { .. } | Phase::Starting { .. } | Phase::Ready { .. } | Phase::Unhealthy { .. })) => phase,
            (Seen::Wanted, Phase::Idle | Phase::Over { .. } | Phase::Pausing { .. }) => {
                self.forget();
                Phase::Waiting { adopt: false }
            }
            // What is over or unwanted stays so whatever is seen of a process that is none of ours by now.
            (_, phase @ (Phase::Idle | Phase::Over { .. })) => phase,
            (Seen::Lost, Phase::Waiting { adopt: false }) => Phase::Waiting { adopt: false },
            (Seen::Lost, _) => {
                self.runs_since_ms = None;
                Phase::Waiting { adopt: true }
            }
            (Seen::Runs, Phase::Waiting { .. } | Phase::Pausing { .. }) => {
                self.runs_since_ms = Some(now_ms);
                Phase::Starting { since_ms: now_ms }
            }
            (Seen::Runs, phase) => phase,
            (Seen::Passed, Phase::Starting { .. }) => Phase::Ready { since_ms: now_ms, misses: 0 },
            (Seen::Passed, Phase::Ready { since_ms, .. } | Phase::Unhealthy { since_ms }) => Phase::Ready { since_ms, misses: 0 },
            (Seen::Missed, Phase::Ready { since_ms, misses }) if misses + 1 >= MISSES_MAX => Phase::Unhealthy { since_ms },
            (Seen::Missed, Phase::Ready { since_ms, misses }) => Phase::Ready { since_ms, misses: misses + 1 },
            (Seen::Passed | Seen::Missed, phase) => phase,
            (Seen::Ended(ending), _) => self.ended(ending, now_ms),
            (Seen::Blocked(ending), _) => {
                self.runs_since_ms = None;
                self.last = Some(ending);
                Phase::Over { exited: false }
            }
        };
    }

    fn ended(&mut self, ending: Ending, now_ms: i64) -> Phase {
        let stable = self.runs_since_ms.take().is_some_and(|since| now_ms.saturating_sub(since) >= STABLE_MS) && ending.why != Why::StartNotReady;
        let exited = ending.why == Why::Exited;
        self.last = Some(ending);
        if stable {
            (self.in_a_row, self.pause_ms) = (0, i64::from(self.restart.backoff_ms));
        }
        let again = match self.restart.policy {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => !exited,
            RestartPolicy::Always => true,
        };
        if !again || self.restart.max_restarts.is_some_and(|max| self.in_a_row >= max) {
            return Phase::Over { exited };
        }
        self.in_a_row += 1;
        self.restarts = self.restarts.saturating_add(1);
        let until_ms = now_ms.saturating_add(self.pause_ms);
        self.pause_ms = (self.pause_ms * 2).min(i64::from(self.restart.backoff_max_ms));
        Phase::Pausing { until_ms }
    }

    fn forget(&mut self) {
        (self.runs_since_ms, self.pause_ms, self.in_a_row, self.restarts, self.last) = (None, i64::from(self.restart.backoff_ms), 0, 0, None);
    }
}

/// The last lines of what was printed, each cut.
pub fn tail(printed: &str, lines_max: usize, chars_max: usize) -> Vec<String> {
    let mut lines: Vec<String> = printed.lines().rev().take(lines_max).map(|line| line.chars().take(chars_max).collect()).collect();
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests;
