//! How a record looks to clients of the two generations of the wire.

use std::{fmt, str::FromStr};

use sandbar_api::sandbox::PowerState;

use crate::sandbox::{Desired, Observed, SandboxRecord, UnknownState};

/// A generation of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// The root: `starting running paused failed terminating` and nothing else.
    #[default]
    Current,
    /// `/compat/2026-05`: knows `cleaned`, does not know `paused`.
    May,
}

/// A sandbox's state in one word, before a profile renders it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Starting,
    Running,
    Paused,
    Cleaned,
    Failed,
    Terminating,
}

impl Status {
    /// The name in storage.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cleaned => "cleaned",
            Self::Failed => "failed",
            Self::Terminating => "terminating",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Starting, Self::Running, Self::Paused, Self::Cleaned, Self::Failed, Self::Terminating]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// What a profile says of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireStatus {
    pub status: &'static str,
    pub paused: bool,
    /// Sent as `cleaned: true` and `lifecycle_state: "cleaned"` where `status` cannot say it.
    pub cleaned: bool,
}

/// The state in one word. A runtime that was lost counts as paused, as the next access wakes it.
pub fn status(record: &SandboxRecord) -> Status {
    match (record.desired, record.observed) {
        (Desired::Deleted, _) => Status::Terminating,
        (Desired::Cleaned, _) => Status::Cleaned,
        (Desired::Active | Desired::Paused, Observed::Starting) => Status::Starting,
        (Desired::Active | Desired::Paused, Observed::Active) => Status::Running,
        (Desired::Active | Desired::Paused, Observed::Frozen | Observed::Hibernated) => Status::Paused,
        (Desired::Active | Desired::Paused, Observed::Cleaned) => Status::Cleaned,
        (Desired::Active | Desired::Paused, Observed::Failed) => Status::Failed,
    }
}

/// The state as a profile renders it.
pub fn wire_status(record: &SandboxRecord, profile: Profile) -> WireStatus {
    let status = status(record);
    let name = match (profile, status) {
        (Profile::Current, Status::Cleaned) => Status::Paused.as_str(),
        (Profile::May, Status::Paused) => Status::Running.as_str(),
        (Profile::Current, Status::Starting | Status::Running | Status::Paused | Status::Failed | Status::Terminating) => status.as_str(),
        (Profile::May, Status::Starting | Status::Running | Status::Cleaned | Status::Failed | Status::Terminating) => status.as_str(),
    };
    WireStatus { status: name, paused: is_paused(status), cleaned: status == Status::Cleaned }
}

/// The state as a profile renders it in a row of a list. The May generation has another vocabulary there, without
/// `cleaned`, and its clients refuse a whole list for one word that they do not know.
pub fn listed_status(record: &SandboxRecord, profile: Profile) -> WireStatus {
    let mut status = wire_status(record, profile);
    if profile == Profile::May && status.cleaned {
        status.status = "completed";
    }
    status
}

/// Whether `paused` is true in this state.
pub fn is_paused(status: Status) -> bool {
    match status {
        Status::Paused | Status::Cleaned => true,
        Status::Starting | Status::Running | Status::Failed | Status::Terminating => false,
    }
}

/// The states that a client of this profile means by a word in a list filter; none when the word is not one.
/// `cleaned` and `completed` are understood in both profiles.
pub fn statuses_named(word: &str, profile: Profile) -> Option<Vec<Status>> {
    let statuses = match word {
        "starting" => vec![Status::Starting],
        "running" => match profile {
            Profile::Current => vec![Status::Running],
            Profile::May => vec![Status::Running, Status::Paused],
        },
        "paused" => match profile {
            Profile::Current => vec![Status::Paused, Status::Cleaned],
            Profile::May => vec![Status::Paused],
        },
        "cleaned" => vec![Status::Cleaned],
        "failed" => vec![Status::Failed],
        "terminating" => vec![Status::Terminating],
        "completed" => match profile {
            // No sandbox of ours completes by itself.
            Profile::Current => Vec::new(),
            // The word for a cleaned one in this profile's lists, see [`listed_status`].
            Profile::May => vec![Status::Cleaned],
        },
        _ => return None,
    };
    Some(statuses)
}

/// Desired against observed power.
pub fn power_state(record: &SandboxRecord) -> PowerState {
    let desired_active = record.desired == Desired::Active;
    let observed_active = match record.observed {
        Observed::Active => true,
        Observed::Starting | Observed::Frozen | Observed::Hibernated | Observed::Cleaned | Observed::Failed => false,
    };
    let name = |active| if active { "active" } else { "paused" };
    let stable = desired_active == observed_active && record.desired_generation == record.observed_generation;
    let phase = match (stable, desired_active) {
        (true, _) => "stable",
        (false, true) => "resuming",
        (false, false) => "pausing",
    };
    PowerState {
        desired: name(desired_active).to_owned(),
        desired_generation: record.desired_generation,
        observed: name(observed_active).to_owned(),
        observed_generation: record.observed_generation,
        phase: phase.to_owned(),
    }
}
