//! What the host and procd say to each other.
//!
//! HTTP/1.1 over the unix socket that procd inherits. A runtime keeps the procd it was started with, so a newer
//! server meets older agents: fields are only ever added, always with a default, and an agent is never asked for
//! what its [`Info::protocol`] does not know. A break in meaning raises [`PROTOCOL`], and the host keeps speaking
//! every protocol from [`PROTOCOL_MIN`] on.
//!
//! ```text
//! GET    /v1/info                                  -> Info
//! POST   /v1/assign            Assign              -> {}         env vars and ids, set at claim
//! GET    /v1/events?after=SEQ                      -> ndjson of Event, open until either side ends
//! POST   /v1/events/taken      Taken               -> {}          published events up to there are kept elsewhere
//! PUT    /v1/publishing        Publishing          -> Newest      whether programs inside may publish events
//! GET    /v1/contexts                              -> ContextList
//! POST   /v1/contexts          CreateContext       -> 201 Context (with output when wait_until_done)
//! GET    /v1/contexts/{id}                         -> Context
//! DELETE /v1/contexts/{id}                         -> {}
//! POST   /v1/contexts/{id}/restart                 -> Context
//! POST   /v1/contexts/{id}/exec    Input           -> ExecResult
//! POST   /v1/contexts/{id}/input   Input           -> {}
//! POST   /v1/contexts/{id}/resize  PtySize         -> {}
//! POST   /v1/contexts/{id}/signal  Signal          -> {}
//! GET    /v1/contexts/{id}/stats                   -> Stats
//! GET    /v1/contexts/{id}/attach  Upgrade: sandbar-attach -> 101, then frames (see `frame`)
//! GET    /v1/files?path=   [Range]                 -> 200/206 bytes
//! POST   /v1/files?path=[&mode=0644]   bytes       -> Written     atomic replace
//! POST   /v1/files?path=&mkdir=true[&recursive=true] -> 201 {}
//! DELETE /v1/files?path=                           -> {}
//! POST   /v1/files/move        Move                -> {}
//! GET    /v1/files/stat?path=                      -> FileInfo
//! GET    /v1/files/list?path=                      -> FileList
//! GET    /v1/files/watch?path=&recursive=          -> ndjson of WatchLine; the first is Subscribed
//! GET    /v1/stats                                 -> Stats of all processes
//! POST   /v1/connections/reset                     -> {}          close idle keep-alive state before a freeze
//!
//! since protocol 2:
//! POST   /v1/functions/call    FunctionCall        -> frames, the last one End (see `function`)
//! GET    /v1/functions/socket  Upgrade: sandbar-function -> 101, then frames both ways; the host's first is the call
//! POST   /v1/functions/check   FunctionCheck       -> FunctionChecked
//!
//! since protocol 3:
//! POST   /v1/trust             Trust               -> Trusted     whom programs inside trust from now on
//! GET    /v1/processes  Upgrade: sandbar-process   -> 101, then frames both ways (see `process`)
//!
//! since protocol 4:
//! GET    /v1/files?path=&beneath=FOLDER            -> 200 bytes; `path` is relative to the folder, and no link leads anywhere
//!
//! of agents that the host has just started itself:
//! POST   /v1/root              Enter               -> {}         from now on all paths, and links, are below this folder
//!
//! since protocol 5:
//! CreateContext.kept. An older agent overlooks it: to it belongs to a command what is in its session.
//! ```
//!
//! Errors are [`ErrorBody`] with the status of [`ErrorCode::status`].
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

mod context;
pub mod frame;
pub mod function;
pub mod process;

pub use context::*;

/// The protocol this crate describes.
pub const PROTOCOL: u32 = 5;
/// The first protocol that knows functions.
pub const PROTOCOL_FUNCTIONS: u32 = 2;
/// The first protocol that knows trust.
pub const PROTOCOL_TRUST: u32 = 3;
/// The first protocol that knows processes for somebody who is connected.
pub const PROTOCOL_PROCESS: u32 = 3;
/// The first protocol that reads files beneath a folder without following links.
pub const PROTOCOL_BENEATH: u32 = 4;
/// The oldest protocol the host still speaks.
pub const PROTOCOL_MIN: u32 = 1;

/// File descriptors that procd inherits, by number.
pub mod fds {
    /// The listening unix stream socket.
    pub const LISTEN: i32 = 3;
    /// Two log segments, opened for read, write and append by the host (see [`crate::LogLine`]).
    pub const LOG_A: i32 = 4;
    /// The second segment.
    pub const LOG_B: i32 = 5;
    /// The runtime's out-of-memory counter (`memory.events` on cgroup v2, `memory.oom_control` on v1), read only.
    pub const OOM: i32 = 6;
    /// The first number that procd may use itself.
    pub const FIRST_FREE: i32 = 7;
}

/// A log segment is emptied and begun anew when the other one has reached this size.
pub const LOG_SEGMENT_BYTES_MAX: u64 = 8 << 20;
/// A longer line is logged in pieces of this many bytes.
pub const LOG_LINE_BYTES_MAX: usize = 16 << 10;

/// One line of a log segment, as JSON followed by `\n`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Unique and growing within a runtime, over both segments.
    pub n: u64,
    /// Unix time in milliseconds.
    pub t: u64,
    /// Context id.
    pub c: String,
    pub s: Stream,
    /// The text without its line end. Bytes that are not UTF-8 have become U+FFFD.
    pub m: String,
    /// True when the line goes on in the next record (it was longer than [`LOG_LINE_BYTES_MAX`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
    Pty,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Info {
    pub protocol: u32,
    /// Version of the sandbar that built this procd.
    pub version: String,
    pub pid: u32,
    /// Unix time in milliseconds.
    pub started_ms: u64,
    pub contexts: u32,
    /// Set by [`Assign`].
    #[serde(default)]
    pub sandbox_id: Option<String>,
}

/// Gives a pooled runtime its owner. Idempotent; the last one holds for processes started afterwards.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Assign {
    pub sandbox_id: String,
    /// Image and template env vars, already merged, weakest first.
    #[serde(default)]
    pub base_env: BTreeMap<String, String>,
    /// The sandbox's own `config.env_vars`; stronger than `base_env`, weaker than a context's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Default working directory of contexts; made when absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Programs inside may publish events (see [`PUBLISH_PORT`]).
    #[serde(default)]
    pub publishing: bool,
}

/// Where programs inside publish events, on the sandbox's own loopback:
/// `POST http://127.0.0.1:49983/api/v1/webhook/publish {event_id?, payload}` -> 202 `{event_id}`.
pub const PUBLISH_PORT: u16 = 49_983;
/// Bytes of a published payload, as JSON.
pub const PUBLISH_PAYLOAD_BYTES_MAX: usize = 256 << 10;
/// Bytes of the id that a program gives its event: visible ASCII.
pub const PUBLISH_ID_BYTES_MAX: usize = 128;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Publishing {
    pub enabled: bool,
}

/// The number of the newest event; 0 when there is none, or of an agent that does not tell.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Newest {
    #[serde(default)]
    pub seq: u64,
}

/// Published events up to this number need not be kept any more.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Taken {
    pub seq: u64,
}

/// Whom programs inside trust besides the public authorities. Idempotent; the last one holds for processes started afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The authority that certifies servers whose TLS is ended outside; empty when none is.
    #[serde(default)]
    pub ca_pem: String,
    /// The hash by which OpenSSL looks for its subject: eight hexadecimal digits.
    #[serde(default)]
    pub ca_hash: String,
    /// Public authorities, for a sandbox that has none of its own. Only sent when it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roots_pem: Option<String>,
    /// Lines as in `known_hosts` for hosts whose SSH is ended outside. Those of before are taken away.
    #[serde(default)]
    pub known_hosts: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    /// Nothing was done about the authority: it needs `roots_pem`.
    #[serde(default)]
    pub needs_roots: bool,
}

/// Resource use of what belongs to a context, or of the whole sandbox. Sizes in bytes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stats {
    pub cpu_percent: f64,
    pub memory_rss: u64,
    pub memory_vms: u64,
    pub open_files: u64,
    pub thread_count: u64,
    pub process_count: u64,
    pub io_read_bytes: u64,
    pub io_write_bytes: u64,
    #[serde(default)]
    pub contexts: u64,
    #[serde(default)]
    pub running_contexts: u64,
    /// Processor time so far of the processes that run, and of those that they waited for, in microseconds. None of an agent that
    /// does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    pub seq: u64,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    ProcessStarted {
        context_id: String,
        #[serde(rename = "type")]
        kind: ContextType,
        pid: u32,
        alias: Option<String>,
        command: Option<Vec<String>>,
        #[serde(default)]
        cwd: Option<String>,
        #[serde(default)]
        pty_size: Option<PtySize>,
        /// What `TERM` is, for one with a terminal.
        #[serde(default)]
        term: Option<String>,
    },
    /// Told when its output is read to the end.
    ProcessExited {
        context_id: String,
        #[serde(rename = "type")]
        kind: ContextType,
        exit_code: i32,
        state: ContextState,
        reason: Option<String>,
        #[serde(default)]
        pid: Option<u32>,
        /// The signal that ended it, when one did.
        #[serde(default)]
        signal: Option<i32>,
        #[serde(default)]
        duration_ms: Option<u64>,
        /// The end of what it printed.
        #[serde(default)]
        stdout_preview: String,
        #[serde(default)]
        stderr_preview: String,
    },
    /// A program inside published something.
    Published { event_id: String, payload: serde_json::Value },
    /// The memory limit was reached and the kernel killed this many processes since the last such event.
    OutOfMemory { kills: u64, context_id: Option<String> },
    /// Keeps the stream alive and proves that the agent answers.
    Heartbeat,
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Written {
    pub bytes: u64,
}

/// A folder that becomes the root of everything the agent does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enter {
    pub path: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Move {
    pub source: String,
    pub destination: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileType {
    File,
    Dir,
    Symlink,
    /// Socket, FIFO or device.
    Other,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileInfo {
    pub name: String,
    pub path: String,
    #[serde(rename = "type")]
    pub kind: FileType,
    pub size: u64,
    /// Permission bits in octal, four digits: `0644`.
    pub mode: String,
    /// Unix time in nanoseconds.
    pub mtime_ns: i64,
    pub is_link: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
    /// Whether `path` is no UTF-8: it stands here with U+FFFD for what cannot be written, and is no name by which to ask for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_lossy: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileList {
    pub entries: Vec<FileInfo>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WatchLine {
    Subscribed {
        path: String,
    },
    /// `event` is create, write, remove, rename, chmod, or invalidate (events were lost: look again).
    Event {
        event: String,
        path: String,
        /// What a file that was moved here was called before, within what is watched.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        old_path: Option<String>,
    },
    Error {
        code: ErrorCode,
        message: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    pub code: ErrorCode,
    pub message: String,
}

/// The in-sandbox vocabulary of error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    InvalidRequest,
    ContextNotFound,
    ProcessFinished,
    ProcessNotRunning,
    InputBufferFull,
    PtyUnavailable,
    ExecTimeout,
    CreateFailed,
    DeleteFailed,
    RestartFailed,
    WriteFailed,
    ResizeFailed,
    SignalFailed,
    TooManyContexts,
    FileNotFound,
    DirectoryNotFound,
    FileTooLarge,
    PermissionDenied,
    PathExists,
    PathNotDirectory,
    PathNotFile,
    RangeNotSatisfiable,
    DiskFull,
    OperationFailed,
    RequestTooLarge,
    MethodNotAllowed,
    NotFound,
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::PermissionDenied => 403,
            Self::ContextNotFound | Self::FileNotFound | Self::DirectoryNotFound | Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::ExecTimeout => 408,
            Self::ProcessNotRunning | Self::InputBufferFull | Self::PtyUnavailable | Self::PathExists | Self::PathNotDirectory | Self::PathNotFile => 409,
            Self::ProcessFinished => 410,
            Self::FileTooLarge | Self::RequestTooLarge => 413,
            Self::RangeNotSatisfiable => 416,
            Self::TooManyContexts => 429,
            Self::DiskFull => 507,
            Self::CreateFailed
            | Self::DeleteFailed
            | Self::RestartFailed
            | Self::WriteFailed
            | Self::ResizeFailed
            | Self::SignalFailed
            | Self::OperationFailed => 500,
        }
    }
}
