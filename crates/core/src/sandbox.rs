//! What is durable of a sandbox: what is wanted of it, what is true of it, and when something is due.

use std::{fmt, str::FromStr};

use sandbar_api::{sandbox::SandboxConfig, template::TemplateSpec};
use serde::{Deserialize, Serialize};

/// What is wanted of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// A runtime that runs, or that the next access may start.
    Active,
    /// No processes that run; files kept.
    Paused,
    /// No runtime and no files; the identity stays.
    Cleaned,
    /// Nothing, not even the row.
    Deleted,
}

/// What is true of a sandbox, as far as it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// A runtime is being made, or was when the server ended.
    Starting,
    /// A runtime runs.
    Active,
    /// A runtime exists and is frozen: memory and files kept.
    Frozen,
    /// No runtime: files kept.
    Hibernated,
    /// No runtime and no files.
    Cleaned,
    /// No runtime, since starting one failed. Files, if there were any, kept.
    Failed,
}

/// Neither name is one that was ever written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no state of a sandbox")]
pub struct UnknownState(pub String);

impl Desired {
    /// The name in storage.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Cleaned => "cleaned",
            Self::Deleted => "deleted",
        }
    }
}

impl Observed {
    /// The name in storage.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Frozen => "frozen",
            Self::Hibernated => "hibernated",
            Self::Cleaned => "cleaned",
            Self::Failed => "failed",
        }
    }

    /// Whether processes may exist in this state.
    pub fn has_runtime(self) -> bool {
        match self {
            Self::Starting | Self::Active | Self::Frozen => true,
            Self::Hibernated | Self::Cleaned | Self::Failed => false,
        }
    }
}

impl fmt::Display for Desired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Desired {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Active, Self::Paused, Self::Cleaned, Self::Deleted].into_iter().find(|state| state.as_str() == text).ok_or_else(|| UnknownState(text.to_owned()))
    }
}

impl FromStr for Observed {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Starting, Self::Active, Self::Frozen, Self::Hibernated, Self::Cleaned, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// Codes of `reason_code`, for programs; the sentence for people stands in `reason`.
pub mod reason {
    /// A client asked for it.
    pub const USER_REQUEST: &str = "user_request";
    /// Somebody used it.
    pub const ACCESSED: &str = "accessed";
    /// The ttl passed.
    pub const TTL_EXPIRED: &str = "ttl_expired";
    /// The hard ttl passed.
    pub const HARD_TTL_EXPIRED: &str = "hard_ttl_expired";
    /// It was paused for so long that only its files are kept.
    pub const HIBERNATE_AFTER: &str = "hibernate_after";
    /// The machine needed its memory.
    pub const MEMORY_PRESSURE: &str = "memory_pressure";
    /// Its processes did not outlive a restart of the machine or the server.
    pub const RESTARTED: &str = "restarted";
    /// Its first process ended by itself.
    pub const RUNTIME_EXITED: &str = "runtime_exited";
    /// It ran out of memory and its first process was killed.
    pub const OUT_OF_MEMORY: &str = "out_of_memory";
    /// A volume that it had mounted was deleted by force.
    pub const VOLUME_DELETED: &str = "volume_deleted";
    /// It is a fork that was never resumed.
    pub const FORKED: &str = "forked";
    /// It could not be started.
    pub const LAUNCH_FAILED: &str = "launch_failed";
}

/// A volume inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub volume_id: String,
    /// Absolute, clean.
    pub mount_point: String,
    pub read_only: bool,
}

/// A layer that nobody writes any more: the root of a former runtime. On disk its files have the ids of its range.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Layer {
    pub root_id: String,
    pub uid_slot: u32,
}

/// What lies below a writable root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Base {
    /// The image by its content (`host`, or `sha256:...`), whatever its name means by now.
    pub image: String,
    /// Top first; above the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
}

/// A sandbox's row. All times are milliseconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub id: String,
    pub team_id: String,
    pub user_id: String,
    pub template_id: String,
    /// The template as it was at claim.
    pub template: TemplateSpec,
    /// As claimed and updated, normalised.
    pub config: SandboxConfig,
    /// Volumes, in the order they were asked for.
    pub mounts: Vec<Mount>,
    /// What lies below its own files; none until its first start and after cleaning, when the template says.
    pub base: Option<Base>,

    pub desired: Desired,
    /// Advances with every accepted transition.
    pub desired_generation: i64,
    pub observed: Observed,
    /// The newest desired generation that came true.
    pub observed_generation: i64,
    /// Advances with every claim and resume: clients wait for it.
    pub runtime_generation: i64,

    /// The runtime that exists or is being made.
    pub runtime_id: Option<String>,
    /// The runtime before, whose log can still be read.
    pub previous_runtime_id: Option<String>,
    /// The writable layer; none before the first start and after cleaning.
    pub root_id: Option<String>,
    pub uid_slot: Option<u32>,
    pub pid: Option<u32>,
    /// Start time of `pid` in clock ticks since boot, which tells it from a later process of the same number.
    pub pid_start: Option<u64>,

    /// Why it is not running: a code of [`reason`].
    pub reason_code: Option<String>,
    /// Why it is not running, for people.
    pub reason: Option<String>,

    /// Seconds, 0 = off.
    pub ttl_s: u32,
    /// Seconds, 0 = off.
    pub hard_ttl_s: u32,
    pub expires_at_ms: Option<i64>,
    pub hard_expires_at_ms: Option<i64>,
    pub hibernate_at_ms: Option<i64>,

    pub claimed_at_ms: i64,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    /// Optimistic lock: an update names the version it saw, and the store writes the next one.
    pub version: i64,
}

impl SandboxRecord {
    /// Whether an access may wake the sandbox (the default).
    pub fn auto_resume(&self) -> bool {
        self.config.auto_resume.unwrap_or(true)
    }
}
