//! Contexts: REPLs and commands, what is asked of them and what they say.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContextType {
    Repl,
    Cmd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContextState {
    Created,
    Starting,
    Running,
    Paused,
    /// Exit code 0.
    Stopped,
    /// Ended by SIGKILL (exit code 137).
    Killed,
    /// Any other end.
    Crashed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtySize {
    pub rows: u16,
    pub cols: u16,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateContext {
    #[serde(rename = "type")]
    pub kind: ContextType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repl: Option<Repl>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Cmd>,
    #[serde(default)]
    pub wait_until_done: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(default)]
    pub env_vars: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty_size: Option<PtySize>,
    /// Seconds without input or output after which the context ends; 0 = never.
    #[serde(default)]
    pub idle_timeout_sec: u64,
    /// Seconds after its creation at which the context ends; 0 = never.
    #[serde(default)]
    pub ttl_sec: u64,
    /// No events tell of it: it is the host's own, such as a probe.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untold: bool,
    /// Somebody is about to attach to this command: what it prints is kept for whoever comes first, and beyond what is kept the
    /// command waits, for some seconds at most.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub followed: bool,
    /// All that the command starts belongs to it, also what takes a session of its own: to be signalled, ended and counted. For
    /// commands without a terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// For how long what a command has started belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// What is there when the command has ended by itself goes on, and is nobody's.
    UntilEnd,
    /// What it leaves running goes on until the context is restarted or deleted.
    UntilDeleted,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cmd {
    pub command: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Repl {
    /// `python` when empty.
    #[serde(default)]
    pub alias: String,
    /// Code to run first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repl_config: Option<ReplConfig>,
}

/// A REPL of the user's own: field for field the public `repl_config`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReplConfig {
    pub name: String,
    #[serde(default)]
    pub display_name: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
    pub candidates: Vec<ReplCandidate>,
    #[serde(default)]
    pub env: Vec<ReplEnvVar>,
    #[serde(default)]
    pub default_term: Option<String>,
    #[serde(default)]
    pub prompt: Option<ReplPrompt>,
    #[serde(default)]
    pub ready: Option<ReplReady>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReplCandidate {
    pub name: String,
    #[serde(default)]
    pub args: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReplEnvVar {
    pub name: String,
    #[serde(default)]
    pub value: Option<String>,
    /// `term` or `prompt`.
    #[serde(default)]
    pub value_from: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReplPrompt {
    #[serde(default)]
    pub custom_prompt: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReplReady {
    /// `prompt_token` or `startup_delay`.
    #[serde(default)]
    pub mode: Option<String>,
    #[serde(default)]
    pub token: Option<String>,
    #[serde(default)]
    pub startup_delay_ms: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Context {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: ContextType,
    /// The REPL's name; absent for commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    pub cwd: String,
    /// The merged environment of sandbox and context (without `base_env`).
    pub env_vars: BTreeMap<String, String>,
    pub running: bool,
    pub paused: bool,
    pub pid: Option<u32>,
    /// Unix time in milliseconds.
    pub created_ms: u64,
    pub state: ContextState,
    #[serde(flatten)]
    pub output: Output,
}

/// What a finished or awaited context printed, and how it ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Output {
    /// Both streams in the order they were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_raw: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it ended, when that is more than its own exit: `out_of_memory: ...`, `ttl: ...`, `idle_timeout: ...`,
    /// `signal: ...`, `deleted: ...`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// True when older output than the cap was dropped; a marker stands in its place in the text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContextList {
    pub contexts: Vec<Context>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    pub data: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Signal {
    /// Name with or without `SIG`, in any case, or a number.
    pub signal: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecResult {
    pub state: ContextState,
    #[serde(flatten)]
    pub output: Output,
}
