//! Apps: what is durable of them, and the decisions about them.

use serde::{Deserialize, Serialize};

pub mod amount;
pub mod artifact;
pub mod canonical;
pub mod cleanup;
pub mod inputs;
pub mod launch;
pub mod manifest;
pub mod receipt;
pub mod run;
pub mod schedule;
pub mod shell;
pub mod supervise;
pub mod uploads;
pub mod volume;

pub use crate::redact;

/// What is wanted of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Its sandbox is there, with entrypoint and the services that were asked for.
    Online,
    #[default]
    Offline,
}

/// How its entrypoint is, as far as it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppState {
    /// There is no entrypoint, or nobody asked for it.
    #[default]
    None,
    Starting,
    Ready,
    /// It was ready, runs, and does not pass its check any more.
    Unhealthy,
    /// It ended with exit code 0.
    Exited,
    /// It ended otherwise, could not be started, or was not ready in time.
    Failed,
}

/// Whether somebody who opens a preview meets the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreviewState {
    #[default]
    Closed,
    Opening,
    Ready,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Queued,
    Running,
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
}

/// Of a running one, where somebody who goes on with it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its sandbox is made or woken.
    #[default]
    Preparing,
    /// The entrypoint is started and waited for.
    Starting,
    /// The command runs, or is about to: a process that has the run's id in its environment is it.
    Commanding,
    /// The command ended; logs and artifacts are fetched.
    Collecting,
}

/// What a sandbox of an app is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxKind {
    /// The one that is online.
    App,
    /// One run.
    Run,
    /// Building a version.
    Build,
}

/// How far a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    Building,
    /// It has files, and never changes any more.
    Ready,
    Failed,
}

/// What came of cleaning up after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleanup {
    Pending,
    Succeeded,
    Failed,
    Skipped,
}

impl RunStatus {
    pub const ALL: [Self; 6] = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::TimedOut, Self::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether nothing follows any more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

impl Phase {
    pub const ALL: [Self; 4] = [Self::Preparing, Self::Starting, Self::Commanding, Self::Collecting];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Commanding => "commanding",
            Self::Collecting => "collecting",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }
}

impl SandboxKind {
    pub const ALL: [Self; 3] = [Self::App, Self::Run, Self::Build];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Run => "run",
            Self::Build => "build",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl VersionState {
    pub const ALL: [Self; 3] = [Self::Building, Self::Ready, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl Desired {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        [Self::Online, Self::Offline].into_iter().find(|desired| desired.as_str() == text)
    }
}

impl Cleanup {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Succeeded, Self::Failed, Self::Skipped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cleanup| cleanup.as_str() == text)
    }
}
