//! Runs: what one is told at its begin, what is known of it while it goes on, and the decisions about it.

use serde::{Deserialize, Serialize};

use super::RunStatus;

mod doc;
mod turns;

pub use doc::{ArtifactStatus, Caller, CommandUse, Counters, Denied, Ground, Known, RunArtifact, RunDoc, RunUsage, Terms};
pub use turns::{AtOnce, Waiting, begin_next};

/// What asked for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunCause {
    Api,
    Schedule,
}

/// Where a run's command is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the one sandbox that the app has online.
    App,
    /// In a sandbox of its own, made of the version's files.
    Fresh,
}

/// What becomes of a run's own sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CleanupPolicy {
    /// It is paused, and kept as long as the run.
    Stop,
    /// Its files are kept as a snapshot, and it is deleted.
    Archive,
    Delete,
}

/// Runs of an app that are at once only so many at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub max: u32,
    pub policy: GroupPolicy,
}

/// What happens to a run that is one too many in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupPolicy {
    /// It waits for its turn.
    Queue,
    /// It ends at once, as cancelled.
    Skip,
    /// The oldest is cancelled, and it waits until that has ended.
    Cancel,
}

/// Why a run did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// Its version or its app is gone.
    VersionGone,
    /// There is no sandbox for it.
    SandboxFailed,
    /// The entrypoint was not ready in time; the command was never run.
    StartNotReady,
    /// The command could not be started.
    CommandFailed,
    /// The command ended with another exit code than 0.
    ExitCode,
    /// A signal ended it that was not ours.
    Signal,
    OutOfMemory,
    /// It made a volume, or the files of its sandbox, larger than they may be, and was ended for it.
    DiskFull,
    /// The sandbox ended, and the command with it.
    SandboxLost,
    /// Its time was up.
    Timeout,
    /// It cost more than it may.
    BudgetExhausted,
    Cancelled,
    /// Its group was busy.
    Skipped,
    /// The app was stopped, deleted or started in another sandbox while the run waited for its sandbox or ran there.
    AppStopped,
    AppDeleted,
    AppReplaced,
    /// A fault of the server.
    Internal,
}

/// Why we end a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Timeout,
    /// It costs more than it may.
    Budget,
    /// It may cost only so much, and there are no prices any more.
    Unpriced,
    Cancelled,
}

/// Why a run is not wanted any more of which nobody said so itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Withdrawn {
    AppStopped,
    AppDeleted,
    AppReplaced,
}

/// How a command ended, as the agent told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub code: i32,
    pub by: ExitBy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitBy {
    Itself,
    /// The name of the signal.
    Signal(String),
    OutOfMemory,
    /// The agent's own bound of its time.
    Ttl,
    /// Somebody asked the agent to end it: mostly we.
    Asked,
}

impl Exit {
    /// From an exit code and the reason that the agent gives with it.
    pub fn told(code: i32, reason: Option<&str>) -> Self {
        let (word, rest) = reason.unwrap_or_default().split_once(':').unwrap_or_default();
        let by = match word {
            "out_of_memory" => ExitBy::OutOfMemory,
            "signal" => ExitBy::Signal(rest.trim().to_owned()),
            "ttl" => ExitBy::Ttl,
            "deleted" | "restarted" => ExitBy::Asked,
            _ => ExitBy::Itself,
        };
        Self { code, by }
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub status: RunStatus,
    pub reason: Option<FailureReason>,
    pub message: Option<String>,
}

impl Verdict {
    pub fn failed(reason: FailureReason, message: impl Into<String>) -> Self {
        Self { status: RunStatus::Failed, reason: Some(reason), message: Some(message.into()) }
    }

    pub fn cancelled() -> Self {
        Self { status: RunStatus::Cancelled, reason: Some(FailureReason::Cancelled), message: Some("it was cancelled".to_owned()) }
    }

    pub fn withdrawn(why: Withdrawn) -> Self {
        let (reason, message) = match why {
            Withdrawn::AppStopped => (FailureReason::AppStopped, "its app was stopped"),
            Withdrawn::AppDeleted => (FailureReason::AppDeleted, "its app was deleted"),
            Withdrawn::AppReplaced => (FailureReason::AppReplaced, "its app was started with another version, in a new sandbox"),
        };
        Self { status: RunStatus::Cancelled, reason: Some(reason), message: Some(message.to_owned()) }
    }

    pub fn skipped(group: &str) -> Self {
        let whose = match group.split_once(':') {
            Some((kind @ ("group" | "action"), name)) => format!("the {kind} {name:?}"),
            _ => format!("the group {group:?}"),
        };
        let message = format!("so many runs of {whose} as may be at once were there already");
        Self { status: RunStatus::Cancelled, reason: Some(FailureReason::Skipped), message: Some(message) }
    }

    pub fn over_budget() -> Self {
        Self::failed(FailureReason::BudgetExhausted, "it came to cost more than it may, and was ended with all its processes")
    }

    pub fn unpriced() -> Self {
        Self::failed(FailureReason::BudgetExhausted, "it may cost only so much, and the server has no prices any more by which that could be told")
    }

    pub fn timed_out(timeout_s: u64) -> Self {
        let message = format!("it ran for longer than its {timeout_s} s and was ended with all its processes");
        Self { status: RunStatus::TimedOut, reason: Some(FailureReason::Timeout), message: Some(message) }
    }

    /// The run, and not only its command, took too long.
    pub fn took_too_long(max_s: u64) -> Self {
        let message = format!("it took longer than its quotas.maxDurationSeconds ({max_s} s) and was ended with all its processes");
        Self { status: RunStatus::TimedOut, reason: Some(FailureReason::Timeout), message: Some(message) }
    }

    /// What is stored of it is of no use.
    pub fn unreadable(why: &str) -> Self {
        Self::failed(FailureReason::Internal, format!("what is stored of the run cannot be read: {why}"))
    }
}

/// What came of a command that began. A command that ended by itself just before it was to be ended did so; when how it ended was
/// lost with the server, it is what it was to be ended for.
pub fn verdict(exit: Option<&Exit>, ending: Option<Ending>, timeout_s: u64) -> Verdict {
    let ended_by_us = || match ending {
        Some(Ending::Timeout) => Verdict::timed_out(timeout_s),
        Some(Ending::Budget) => Verdict::over_budget(),
        Some(Ending::Unpriced) => Verdict::unpriced(),
        Some(Ending::Cancelled) => Verdict::cancelled(),
        None => Verdict::failed(FailureReason::Signal, "somebody ended its process in the sandbox"),
    };
    let Some(exit) = exit else {
        return match ending {
            Some(_) => ended_by_us(),
            None => Verdict::failed(FailureReason::SandboxLost, "its sandbox ended, and the command with it"),
        };
    };
    match &exit.by {
        ExitBy::Asked => ended_by_us(),
        ExitBy::Ttl if matches!(ending, Some(Ending::Cancelled | Ending::Budget | Ending::Unpriced)) => ended_by_us(),
        ExitBy::Ttl => Verdict::timed_out(timeout_s),
        ExitBy::OutOfMemory => Verdict::failed(FailureReason::OutOfMemory, "the sandbox reached its memory limit and the kernel killed the command"),
        ExitBy::Signal(name) => Verdict::failed(FailureReason::Signal, format!("the signal {name} ended it")),
        ExitBy::Itself if exit.code == 0 => Verdict { status: RunStatus::Succeeded, reason: None, message: None },
        ExitBy::Itself => Verdict::failed(FailureReason::ExitCode, format!("it ended with exit code {}", exit.code)),
    }
}

impl Verdict {
    /// The same of a command of which nobody knows whether it began: that is said.
    #[must_use]
    pub fn or_untold(mut self, known: &Known) -> Self {
        if known.told_to_begin && known.context_id.is_none() {
            let text = self.message.take().map_or_else(String::new, |text| format!("{text}; "));
            self.message = Some(format!("{text}it is not known whether its command had begun"));
        }
        self
    }

    /// The same, told as what it is: of a command that was ended because a volume, or its sandbox, was full.
    pub fn or_full(self, full: Option<String>) -> Self {
        match (self.reason, full) {
            (Some(FailureReason::Signal | FailureReason::ExitCode), Some(text)) => Self::failed(FailureReason::DiskFull, text),
            _ => self,
        }
    }
}

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }

            pub fn named(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text)
            }
        }
    };
}

words!(RunCause { Api = "api", Schedule = "schedule" });
words!(Place { App = "app", Fresh = "fresh" });
words!(CleanupPolicy { Stop = "stop", Archive = "archive", Delete = "delete" });
words!(GroupPolicy { Queue = "queue", Skip = "skip", Cancel = "cancel" });
words!(Withdrawn { AppStopped = "app_stopped", AppDeleted = "app_deleted", AppReplaced = "app_replaced" });
words!(FailureReason {
    VersionGone = "version_gone",
    SandboxFailed = "sandbox_failed",
    StartNotReady = "start_not_ready",
    CommandFailed = "command_failed",
    ExitCode = "exit_code",
    Signal = "signal",
    OutOfMemory = "out_of_memory",
    DiskFull = "disk_full",
    SandboxLost = "sandbox_lost",
    Timeout = "timeout",
    BudgetExhausted = "budget_exhausted",
    Cancelled = "cancelled",
    Skipped = "skipped",
    AppStopped = "app_stopped",
    AppDeleted = "app_deleted",
    AppReplaced = "app_replaced",
    Internal = "internal",
});

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_run_takes_no_longer_than_it_may() {
        let bounded = Terms { max_duration_s: Some(60), ..Terms::default() };
        // Begun at, now, and the seconds that are left.
        for (begun, now, left) in [(1000, 1000, 60), (1000, 31_000, 30), (1000, 61_000, 0), (1000, 900_000, 0), (5000, 1000, 60), (i64::MIN, i64::MAX, 0)] {
            assert_eq!(bounded.left(begun, now), Some(Duration::from_secs(left)), "from {begun} at {now}");
        }
        assert_eq!(Terms::default().left(0, i64::MAX), None);
    }

    #[test]
    fn how_a_command_ended_says_what_came_of_its_run() {
        use FailureReason as Why;
        use RunStatus as Is;
        let cases = [
            (Some((0, None)), None, Is::Succeeded, None),
            (Some((3, None)), None, Is::Failed, Some(Why::ExitCode)),
            (Some((137, Some("out_of_memory: the sandbox reached its memory limit"))), None, Is::Failed, Some(Why::OutOfMemory)),
            (Some((139, Some("signal: SEGV"))), None, Is::Failed, Some(Why::Signal)),
            // The agent's bound comes first when the server was away.
            (Some((143, Some("ttl: the context reached its ttl of 5 s"))), None, Is::TimedOut, Some(Why::Timeout)),
            (Some((143, Some("ttl: the context reached its ttl of 5 s"))), Some(Ending::Cancelled), Is::Cancelled, Some(Why::Cancelled)),
            (Some((143, Some("deleted: the context was deleted"))), Some(Ending::Timeout), Is::TimedOut, Some(Why::Timeout)),
            // One that answers SIGTERM with success was ended all the same.
            (Some((0, Some("deleted: the context was deleted"))), Some(Ending::Cancelled), Is::Cancelled, Some(Why::Cancelled)),
            (Some((143, Some("deleted: the context was deleted"))), None, Is::Failed, Some(Why::Signal)),
            // It was faster.
            (Some((0, None)), Some(Ending::Timeout), Is::Succeeded, None),
            (Some((2, None)), Some(Ending::Cancelled), Is::Failed, Some(Why::ExitCode)),
            (Some((143, Some("ttl: the context reached its ttl of 5 s"))), Some(Ending::Budget), Is::Failed, Some(Why::BudgetExhausted)),
            (Some((143, Some("deleted: the context was deleted"))), Some(Ending::Budget), Is::Failed, Some(Why::BudgetExhausted)),
            (Some((0, None)), Some(Ending::Budget), Is::Succeeded, None),
            (Some((143, Some("deleted: the context was deleted"))), Some(Ending::Unpriced), Is::Failed, Some(Why::BudgetExhausted)),
            (None, Some(Ending::Budget), Is::Failed, Some(Why::BudgetExhausted)),
            (None, Some(Ending::Timeout), Is::TimedOut, Some(Why::Timeout)),
            (None, Some(Ending::Cancelled), Is::Cancelled, Some(Why::Cancelled)),
            (None, None, Is::Failed, Some(Why::SandboxLost)),
        ];
        for (exit, ending, status, reason) in cases {
            let told = exit.map(|(code, reason)| Exit::told(code, reason));
            let found = verdict(told.as_ref(), ending, 5);
            assert_eq!((found.status, found.reason), (status, reason), "{exit:?} {ending:?}");
            assert_eq!(found.message.is_some(), status != Is::Succeeded);
        }
    }

    #[test]
    fn whether_a_command_began_is_said_where_nobody_knows() {
        let lost = || verdict(None, None, 5);
        let said = "its sandbox ended, and the command with it";
        for (told_to_begin, context_id, message) in [
            (false, None, said.to_owned()),
            (true, Some("c".to_owned()), said.to_owned()),
            (true, None, format!("{said}; it is not known whether its command had begun")),
        ] {
            let found = lost().or_untold(&Known { told_to_begin, context_id, ..Known::default() });
            assert_eq!((found.reason, found.message), (Some(FailureReason::SandboxLost), Some(message)));
        }
    }

    #[test]
    fn counters_of_the_network_begin_anew_with_the_server() {
        let before = Counters { cpu_us: 10, sent_bytes: 10, received_bytes: 10, denied: 1 };
        let now = Counters { cpu_us: 15, sent_bytes: 12, received_bytes: 40, denied: 2 };
        assert_eq!(now.since(before.without_network()), Counters { cpu_us: 5, sent_bytes: 12, received_bytes: 40, denied: 2 });
    }

    #[test]
    fn a_command_that_was_ended_on_a_full_disk_says_so() {
        let killed = Exit::told(137, Some("signal: KILL"));
        let full = Some("volume \"data\" is full".to_owned());
        let found = verdict(Some(&killed), None, 5).or_full(full.clone());
        assert_eq!((found.status, found.reason, &found.message), (RunStatus::Failed, Some(FailureReason::DiskFull), &full));
        assert_eq!(verdict(Some(&killed), None, 5).or_full(None).reason, Some(FailureReason::Signal));
        for other in [Exit::told(0, None), Exit::told(143, Some("deleted: x"))] {
            let ending = Some(Ending::Cancelled).filter(|_| other.code != 0);
            assert_eq!(verdict(Some(&other), ending, 5).or_full(full.clone()), verdict(Some(&other), ending, 5));
        }
    }

    #[test]
    fn a_run_too_many_is_told_by_the_names_of_the_manifest() {
        for (group, whose) in
            [("group:g1", "the group \"g1\""), ("action:a", "the action \"a\""), ("group:a:b", "the group \"a:b\""), ("old", "the group \"old\"")]
        {
            let message = Verdict::skipped(group).message.unwrap();
            assert_eq!(message, format!("so many runs of {whose} as may be at once were there already"));
        }
    }

    #[test]
    fn words_are_those_of_the_wire() {
        for word in FailureReason::ALL {
            assert_eq!(serde_json::to_value(word).unwrap(), word.as_str());
            assert_eq!(FailureReason::named(word.as_str()), Some(*word));
        }
        assert_eq!(serde_json::to_value(CleanupPolicy::Archive).unwrap(), CleanupPolicy::Archive.as_str());
        assert_eq!(Counters { cpu_us: 5, ..Counters::default() }.since(Counters { cpu_us: 7, ..Counters::default() }).cpu_us, 5);
    }
}
