//! Script functions: what they are made of and the decisions about them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub mod access;
pub mod alias;
pub mod capability;
pub mod collection;
pub mod draft;
pub mod fetch_allow;
pub mod item;
pub mod mail;
mod module_syntax;
pub mod moment;
pub mod pattern;
pub mod provider;
pub mod query;
pub mod retry;

pub use crate::schedule::{ConcurrencyPolicy, MissedRunPolicy, Policy as Schedule, cron};
pub use alias::{LIVE, Part, Split};
pub use draft::Draft;
pub use module_syntax::module_syntax;

/// What makes a script run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    Http,
    Event,
    Cron,
}

/// What made a run happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunTrigger {
    Http,
    /// A call that nobody waits for.
    Async,
    Event,
    Cron,
    /// Of a run that was.
    Replay,
}

/// Who may invoke a script with the trigger http.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    #[default]
    Admin,
    /// Whoever has a key or login of the team.
    Authenticated,
    /// Everybody.
    Public,
    /// Who has a key of this very script.
    Key,
}

/// In whose name `ctx.db` reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RunAs {
    /// Who invoked it; the system for events and schedules.
    #[default]
    Caller,
    /// Nobody: what is public can be read.
    System,
    /// A name of the owner's choosing, which rules of collections can name as the role `service:NAME`.
    ServiceAccount(String),
}

/// Who wrote the code, as its owner says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthorKind {
    /// Trusted: it may run under `bun-worker`.
    Operator,
    Tenant,
}

/// What the source of a script is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    #[default]
    JavaScript,
    TypeScript,
}

/// How often a run that failed is tried again (events, schedules, calls that nobody waits for).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    pub max_attempts: u32,
    pub max_age_seconds: u32,
}

/// What a script's owner decides, besides name, trigger, pattern and code.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScriptSpec {
    pub description: Option<String>,
    /// None: the default of [`crate::limits`].
    pub timeout_ms: Option<u32>,
    pub cpu_ms: Option<u32>,
    pub memory_mb: Option<u32>,
    pub access: Access,
    pub run_as: RunAs,
    /// `fetch`, `db:read`, `db:read:SLUG`, `email`, `secrets`; none: all of them.
    pub capabilities: Option<Vec<String>>,
    /// Narrows the server's allow list of `ctx.fetch`; none: as it is.
    pub fetch_allow: Option<Vec<String>>,
    /// Calls at once.
    pub concurrency: Option<u32>,
    pub retry: Retry,
    pub schedule: Schedule,
    /// Time stands still and chance comes from the code and the input.
    pub deterministic: bool,
}

impl Trigger {
    pub const ALL: [Self; 3] = [Self::Http, Self::Event, Self::Cron];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Event => "event",
            Self::Cron => "cron",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trigger| trigger.as_str() == text)
    }
}

impl RunTrigger {
    pub const ALL: [Self; 5] = [Self::Http, Self::Async, Self::Event, Self::Cron, Self::Replay];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Async => "async",
            Self::Event => "event",
            Self::Cron => "cron",
            Self::Replay => "replay",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trigger| trigger.as_str() == text)
    }
}

impl Access {
    pub const ALL: [Self; 4] = [Self::Admin, Self::Authenticated, Self::Public, Self::Key];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Authenticated => "authenticated",
            Self::Public => "public",
            Self::Key => "key",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|access| access.as_str() == text)
    }
}

impl AuthorKind {
    pub const ALL: [Self; 2] = [Self::Operator, Self::Tenant];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Tenant => "tenant",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl Language {
    pub const ALL: [Self; 2] = [Self::JavaScript, Self::TypeScript];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::JavaScript => "javascript",
            Self::TypeScript => "typescript",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.as_str() == text)
    }
}

/// What `ctx.data` of a tick's run is.
pub fn tick_input(pattern: &str, tick_ms: i64, now_ms: i64) -> String {
    let iso = |ms: i64| Timestamp::from_millisecond(ms).map(|at| format!("{at:.3}")).ok();
    json!({ "firedAt": iso(now_ms), "pattern": pattern, "scheduledAt": iso(tick_ms) }).to_string()
}

impl RunAs {
    /// `caller`, `system` or `serviceAccount:NAME`.
    pub fn named(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "caller" => Some(Self::Caller),
            None if text == "system" => Some(Self::System),
            Some(("serviceAccount", name)) if draft::is_name(name) => Some(Self::ServiceAccount(name.to_owned())),
            _ => None,
        }
    }
}

impl std::fmt::Display for RunAs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Caller => f.write_str("caller"),
            Self::System => f.write_str("system"),
            Self::ServiceAccount(name) => write!(f, "serviceAccount:{name}"),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: 3, max_age_seconds: 24 * 60 * 60 }
    }
}

impl Serialize for RunAs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RunAs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::named(&text).ok_or_else(|| serde::de::Error::custom("runAs is caller, system or serviceAccount:NAME"))
    }
}
