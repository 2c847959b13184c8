//! What runs in an app: its start command, actions and services.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{is_false, port::Port};
use crate::limits::apps as limits;

/// What start, actions and services have in common, but for the command itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// Relative to the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// After so long an action is killed. A start command and services are not; none: no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// The start command has to be ready before.
    #[serde(default, skip_serializing_if = "is_false")]
    pub requires_start: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Patterns relative to the workspace, see [`super::artifact`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifact_paths: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// The app's own process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// None: no process; the ports answer when somebody starts one that listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    #[serde(flatten)]
    pub block: Block,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    pub restart: Restart,
}

/// A command that runs and ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    pub name: String,
    pub command: String,
    #[serde(flatten)]
    pub block: Block,
    /// None: any number of runs at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
}

/// A further long-running process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    pub name: String,
    pub command: String,
    #[serde(flatten)]
    pub block: Block,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// It starts with the app, also when nobody asked for it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto_start: bool,
    /// Services that have to be ready before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    pub restart: Restart,
}

/// When a process is ready. With neither path, port nor command: when the first declared port answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Readiness {
    /// Answered below 500 by `port`, or by the first declared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Ends with 0. Then neither path nor port are said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    pub timeout_seconds: u32,
    pub interval_ms: u32,
}

/// What happens when a process has ended that should go on. In YAML also the policy alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restart {
    pub policy: RestartPolicy,
    /// Before the first restart; each further one in a row waits twice as long.
    pub backoff_ms: u32,
    pub backoff_max_ms: u32,
    /// In a row; none: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_restarts: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    Never,
    OnFailure,
    Always,
}

/// How many runs there are at once. In YAML also the number alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Concurrency {
    /// Actions of one group run one at a time. None: only runs of this action count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// 1 in a group.
    pub max: u32,
    pub policy: ConcurrencyPolicy,
}

/// What becomes of a run that is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConcurrencyPolicy {
    /// It waits.
    #[default]
    Queue,
    /// It ends at once, as cancelled.
    Skip,
    /// The oldest that runs is cancelled.
    Cancel,
}

/// What starts together with the start command.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Launch {
    #[serde(default, skip_serializing_if = "LaunchServices::is_empty")]
    pub services: LaunchServices,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// Services that a launch starts, besides those with `autoStart` and what they depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchServices {
    All,
    Named(Vec<String>),
}

impl Default for LaunchServices {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

impl LaunchServices {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Named(names) if names.is_empty())
    }
}

impl Serialize for LaunchServices {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for LaunchServices {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Named(Vec<String>),
            Word(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Named(names) => Ok(Self::Named(names)),
            Form::Word(word) if word == "all" => Ok(Self::All),
            Form::Word(_) => Err(serde::de::Error::custom("launch.services is a list of names or all")),
        }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            path: None,
            port: None,
            command: None,
            timeout_seconds: limits::APP_READINESS_TIMEOUT_DEFAULT_S,
            interval_ms: limits::APP_READINESS_INTERVAL_DEFAULT_MS,
        }
    }
}

impl Restart {
    /// With the default bounds.
    pub const fn of(policy: RestartPolicy) -> Self {
        Self { policy, backoff_ms: limits::APP_RESTART_BACKOFF_DEFAULT_MS, backoff_max_ms: limits::APP_RESTART_BACKOFF_MAX_DEFAULT_MS, max_restarts: None }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self::of(RestartPolicy::Never)
    }
}

named!(RestartPolicy: Never = "never", OnFailure = "on-failure", Always = "always");
named!(ConcurrencyPolicy: Queue = "queue", Skip = "skip", Cancel = "cancel");
