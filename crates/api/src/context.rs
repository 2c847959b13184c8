//! Contexts: processes inside a sandbox.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a context runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContextKind {
    /// Keeps state between inputs.
    Repl,
    /// Runs once.
    Cmd,
}

/// `POST /api/v1/sandboxes/{id}/contexts`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateContextRequest {
    #[serde(rename = "type")]
    pub kind: ContextKind,
    #[serde(default)]
    pub repl: Option<ReplRequest>,
    #[serde(default)]
    pub cmd: Option<CmdRequest>,
    /// Reply when a command has ended, or when a REPL has run its first input.
    #[serde(default)]
    pub wait_until_done: Option<bool>,
    /// Working directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Stronger than the sandbox's.
    #[serde(default)]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// A terminal of this size; without it a command has pipes.
    #[serde(default)]
    pub pty_size: Option<PtySizeRequest>,
    /// Seconds without input or output after which it ends; 0 = never.
    #[serde(default)]
    pub idle_timeout_sec: Option<u32>,
    /// Seconds after its creation at which it ends; 0 = never.
    #[serde(default)]
    pub ttl_sec: Option<u32>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct CmdRequest {
    /// Program and arguments; no shell takes part.
    #[serde(default)]
    pub command: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ReplRequest {
    /// `python` when empty.
    #[serde(default)]
    pub alias: Option<String>,
    /// Code to run first.
    #[serde(default)]
    pub input: Option<String>,
    #[serde(default)]
    pub repl_config: Option<ReplConfig>,
}

/// A REPL of one's own.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ReplConfig {
    pub name: String,
    #[serde(default)]
    pub display_name: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// Programs to try, in this order.
    pub candidates: Vec<ReplCandidate>,
    #[serde(default)]
    pub env: Option<Vec<ReplEnvVar>>,
    #[serde(default)]
    pub default_term: Option<String>,
    #[serde(default)]
    pub prompt: Option<ReplPrompt>,
    #[serde(default)]
    pub ready: Option<ReplReady>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ReplCandidate {
    pub name: String,
    #[serde(default)]
    pub args: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ReplEnvVar {
    pub name: String,
    #[serde(default)]
    pub value: Option<String>,
    /// `term` or `prompt`.
    #[serde(default)]
    pub value_from: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ReplPrompt {
    #[serde(default)]
    pub custom_prompt: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ReplReady {
    #[serde(default)]
    pub mode: Option<ReplReadyMode>,
    #[serde(default)]
    pub token: Option<String>,
    #[serde(default)]
    pub startup_delay_ms: Option<u32>,
}

/// How the end of the start is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplReadyMode {
    PromptToken,
    StartupDelay,
}

impl ReplReadyMode {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PromptToken => "prompt_token",
            Self::StartupDelay => "startup_delay",
        }
    }
}

/// Of a terminal, in characters. Absent or 0 is the default.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct PtySizeRequest {
    #[serde(default)]
    pub rows: Option<u16>,
    #[serde(default)]
    pub cols: Option<u16>,
}

/// `POST .../contexts/{ctx}/input` and `/exec`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContextInputRequest {
    pub data: String,
}

/// `POST .../contexts/{ctx}/resize`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct ResizeContextRequest {
    #[schema(minimum = 1)]
    pub rows: u16,
    #[schema(minimum = 1)]
    pub cols: u16,
}

/// `POST .../contexts/{ctx}/signal`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SignalContextRequest {
    /// A name with or without `SIG`, in any case, or a number.
    pub signal: String,
}

/// A context.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContextResponse {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: ContextKind,
    /// The REPL's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    pub cwd: String,
    /// Those of the sandbox and the context, merged.
    pub env_vars: BTreeMap<String, String>,
    pub running: bool,
    pub paused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// RFC 3339, whole seconds.
    pub created_at: String,
    #[serde(flatten)]
    pub output: ContextOutput,
}

/// What a context printed and how it ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ContextOutput {
    /// Both streams in the order in which they were read. Each capture keeps the last 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_raw: Option<String>,
    /// Of a command without a terminal that printed something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// Once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// `stopped`, `killed` or `crashed`, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why it ended, when that is more than its own exit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// True when older output was dropped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContextListResponse {
    pub contexts: Vec<ContextResponse>,
}

/// `GET .../contexts/{ctx}/stats`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContextStatsResponse {
    pub context_id: String,
    #[serde(rename = "type")]
    pub kind: ContextKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    pub running: bool,
    pub paused: bool,
    pub usage: ResourceUsage,
}

/// What processes use. Sizes in bytes.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ResourceUsage {
    pub cpu_percent: f64,
    pub memory_rss: u64,
    pub memory_vms: u64,
    pub open_files: u64,
    pub thread_count: u64,
    pub io_read_bytes: u64,
    pub io_write_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeletedResponse {
    pub deleted: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WrittenResponse {
    pub written: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ResizedResponse {
    pub resized: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SignaledResponse {
    pub signaled: bool,
}
