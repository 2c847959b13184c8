//! What is written down of a run: what it is told at its begin, and what is known of it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{CleanupPolicy, Ending, Exit, Place};
use crate::app::{manifest::Resources, receipt::Kind, uploads::RunFile};

/// What is written down of a run besides its columns: first what it was told, then what is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunDoc {
    pub command: String,
    pub cwd: Option<String>,
    /// Stronger than what its sandbox has.
    pub env: BTreeMap<String, String>,
    /// What it was given itself for variables of the app that are secret, sealed as those are. Stronger than all others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sealed_env: BTreeMap<String, String>,
    pub timeout_s: u64,
    pub requires_start: bool,
    pub place: Place,
    pub cleanup: CleanupPolicy,
    /// So many sandboxes of its schedule are kept when they are stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u32>,
    pub artifact_paths: Vec<String>,
    /// Those that it was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<RunFile>,
    /// SHA-256, lower-case hex. With files of the object of `input` and `files`, else of the input alone.
    pub input_sha256: String,
    pub manifest_sha256: String,
    pub source_sha256: String,
    /// The user or key that asked.
    pub caused_by: Option<String>,
    /// The same, both of them.
    #[serde(default)]
    pub caller: Option<Caller>,
    #[serde(default)]
    pub kind: Kind,
    /// What the schedule was called that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// What its sandbox's files are made of.
    #[serde(default)]
    pub ground: Option<Ground>,
    /// What it may cost, in millionths of a dollar.
    #[serde(default)]
    pub max_spend_micros: Option<u64>,
    /// What a schedule asks of its runs besides.
    #[serde(default)]
    pub terms: Terms,
    #[serde(default)]
    pub known: Known,
}

/// What a schedule asks of its runs beyond what the manifest says of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// Of the run's own sandbox; stronger than those of the app.
    #[serde(skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// From the begin of the run on, its sandbox included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration_s: Option<u64>,
    /// Services that have to be ready before the command runs, each after what it depends on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

impl Terms {
    /// What is left of the time that a run may take which began at a moment. A clock that was set does not make it longer.
    pub fn left(&self, begun_ms: i64, now_ms: i64) -> Option<Duration> {
        let max = Duration::from_secs(self.max_duration_s?);
        let passed = Duration::from_millis(now_ms.saturating_sub(begun_ms).max(0).unsigned_abs());
        Some(max.saturating_sub(passed))
    }
}

impl RunDoc {
    /// In the place of one that is stored and cannot be read: so the run can still be shown, ended and cleaned up after. What it had of
    /// a sandbox is kept.
    pub fn unreadable(why: &str) -> Self {
        Self {
            command: String::new(),
            cwd: None,
            env: BTreeMap::new(),
            sealed_env: BTreeMap::new(),
            timeout_s: 0,
            requires_start: false,
            place: Place::Fresh,
            cleanup: CleanupPolicy::Stop,
            keep: None,
            artifact_paths: Vec::new(),
            files: Vec::new(),
            input_sha256: String::new(),
            manifest_sha256: String::new(),
            source_sha256: String::new(),
            caused_by: None,
            caller: None,
            kind: Kind::default(),
            schedule: None,
            ground: None,
            max_spend_micros: None,
            terms: Terms::default(),
            known: Known { unreadable: Some(why.to_owned()), ..Known::default() },
        }
    }
}

/// Who asked for a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub user_id: String,
    /// None: it was no key by which they came.
    pub key_id: Option<String>,
}

impl Caller {
    /// The key, where there is one.
    pub fn id(&self) -> &str {
        self.key_id.as_deref().unwrap_or(&self.user_id)
    }
}

/// What lies below the files of a run's sandbox: what the version was built to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ground {
    pub template_id: String,
    /// The snapshot that the manifest names.
    pub snapshot_id: Option<String>,
    /// The image by its content.
    pub image: String,
    /// Ids of the layers above it, top first.
    pub layers: Vec<String>,
}

/// What is known of a run that has begun.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// What was stored of the run cannot be read, and why: it is not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// It was one too many in its group, and is to end as such.
    pub skipped: bool,
    /// The runtime in which the command was or is to be started.
    pub runtime_id: Option<String>,
    /// The agent was or is to be told to start the command; without `context_id` it is not known whether it did.
    pub told_to_begin: bool,
    /// The command was started.
    pub context_id: Option<String>,
    pub commanded_at_ms: Option<i64>,
    /// When the end of the command was seen.
    pub exited_at_ms: Option<i64>,
    /// What the command used, as its agent counted.
    pub used: Option<CommandUse>,
    /// How long it took to fetch what it left.
    pub collecting_ms: Option<u64>,
    /// It is being ended.
    pub ending: Option<Ending>,
    pub exit: Option<Exit>,
    /// All processes of its sandbox were ended while it ran, because they went on writing beyond this limit.
    pub full: Option<String>,
    /// Why it did not succeed, in a sentence.
    pub message: Option<String>,
    /// The counters of the sandbox when the command began.
    pub before: Option<Counters>,
    /// The server that read them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_by: Option<String>,
    pub usage: Option<RunUsage>,
    pub artifacts: Vec<RunArtifact>,
    /// What it left was fetched, and what it used was measured.
    pub collected: bool,
    /// More was printed than is kept.
    pub log_cut: bool,
    pub cleanup_tries: u32,
    pub cleanup_error: Option<String>,
    /// The files that it left, when they were archived.
    pub snapshot_id: Option<String>,
}

/// Counters of a sandbox at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    pub cpu_us: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub denied: u64,
}

/// What a command used with all that it waited for, by the kernel's count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandUse {
    pub duration_ms: u64,
    pub cpu_us: u64,
    /// The most that one of its processes had.
    pub peak_memory_bytes: u64,
    pub written_bytes: u64,
}

/// What the sandbox of a run used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunUsage {
    /// All is what the sandbox used that was made for the run; else what the app's sandbox used while the command ran, with
    /// whatever else ran in it.
    pub own_sandbox: bool,
    pub cpu_us: u64,
    /// The most memory of the sandbox so far; none where the kernel does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// What the sandbox's own files take after it; none when they could not be measured.
    pub disk_bytes: Option<u64>,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Connections and names that were refused.
    pub denied: u64,
    pub denied_list: Vec<Denied>,
    /// The server was started anew meanwhile: of the network only what came after that is known.
    pub network_partial: bool,
}

/// What was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The name that was said, or the address.
    pub host: String,
    pub port: u16,
    pub protocol: String,
    pub rule: String,
    pub times: u64,
}

/// A file that a run left, or should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunArtifact {
    /// From 1 within its run.
    pub number: u32,
    /// Below the workspace; of one that is missing, the pattern.
    pub path: String,
    pub status: ArtifactStatus,
    pub size_bytes: u64,
    pub sha256: Option<String>,
    pub error: Option<String>,
    #[serde(default)]
    pub captured_at_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactStatus {
    Captured,
    Missing,
    Failed,
}

impl ArtifactStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Missing => "missing",
            Self::Failed => "failed",
        }
    }
}

impl Counters {
    /// The same without what is counted by the server and not by the kernel.
    #[must_use]
    pub fn without_network(self) -> Self {
        Self { sent_bytes: 0, received_bytes: 0, denied: 0, ..self }
    }

    /// What came since; a counter that began anew counts from there.
    pub fn since(self, before: Self) -> Self {
        let more = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        Self {
            cpu_us: more(self.cpu_us, before.cpu_us),
            sent_bytes: more(self.sent_bytes, before.sent_bytes),
            received_bytes: more(self.received_bytes, before.received_bytes),
            denied: more(self.denied, before.denied),
        }
    }
}
