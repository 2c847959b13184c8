//! Calls of functions: what the host asks for, and the frames that come of it.
//!
//! A frame is a big-endian u32 length of what follows, one kind byte, the payload. The same frames travel between the
//! agent and the process that runs the handler.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The payload of a frame that carries a piece of a body or a message. The call itself may be longer.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// The body of a reply that does not come in its own time, and one message of a WebSocket.
pub const REPLY_BYTES_MAX: usize = 4 << 20;
/// What is kept of each of the streams that a call prints to.
pub const LOG_BYTES_MAX: usize = 64 << 10;
/// What stands after text that was cut.
pub const STDERR_TRUNCATED: &str = "[stderr truncated]";
/// The same for the other stream.
pub const STDOUT_TRUNCATED: &str = "[stdout truncated]";
/// The protocol of a socket's upgrade.
pub const UPGRADE: &str = "sandbar-function";

/// One call of a handler.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FunctionCall {
    pub source: FunctionSource,
    /// Dotted names below the module.
    pub handler: String,
    /// Stronger than the sandbox's.
    #[serde(default)]
    pub env_vars: BTreeMap<String, String>,
    /// Import anew for this call.
    #[serde(default)]
    pub cold: bool,
    /// Milliseconds until the whole reply, or until the first piece of one that comes in its own time; 0 = any.
    #[serde(default)]
    pub timeout_ms: u64,
    /// Milliseconds until the end of a reply that comes in its own time, and of a WebSocket; 0 = any.
    #[serde(default)]
    pub stream_timeout_ms: u64,
    /// The context id of its lines in the log.
    #[serde(default)]
    pub label: String,
    /// Calls at once that are counted together.
    #[serde(default)]
    pub limit: Option<FunctionLimit>,
    /// What the handler is given.
    pub request: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionSource {
    /// A file inside.
    Path(String),
    /// Never written to disk.
    Code(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FunctionLimit {
    pub key: String,
    /// At least 1.
    pub max: u32,
}

/// Asks whether Python would compile a text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FunctionCheck {
    pub path: String,
    pub code: String,
}

/// What is wrong with a text; no message = nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionChecked {
    #[serde(default)]
    pub line: Option<u32>,
    #[serde(default)]
    pub column: Option<u32>,
    #[serde(default)]
    pub message: Option<String>,
}

/// The kind byte of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`FunctionStart`], before any chunk.
    Start = 1,
    /// Bytes of the body.
    Chunk = 2,
    /// Nothing follows. To the host it is a [`FunctionEnd`].
    End = 3,
    /// [`FunctionFailure`], from the handler's process to the agent only.
    Failed = 4,
    /// A message of a WebSocket, both ways.
    Text = 5,
    /// A message of a WebSocket, both ways.
    Binary = 6,
    /// [`SocketClose`], both ways.
    Close = 7,
    /// The call: the first frame to whoever runs it.
    Request = 16,
}

impl Kind {
    /// The kind for a byte; `None` for one that this protocol does not know.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Start,
            2 => Self::Chunk,
            3 => Self::End,
            4 => Self::Failed,
            5 => Self::Text,
            6 => Self::Binary,
            7 => Self::Close,
            16 => Self::Request,
            _ => return None,
        })
    }
}

/// How a reply begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionStart {
    /// From 100 to 599.
    pub status: u16,
    #[serde(default)]
    pub headers: BTreeMap<String, Vec<String>>,
    /// The body comes in its own time.
    #[serde(default)]
    pub stream: bool,
}

/// How a call ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionEnd {
    #[serde(default)]
    pub failure: Option<FunctionFailure>,
    #[serde(default)]
    pub logs: Vec<FunctionLog>,
}

/// What a call printed to one stream, at most [`LOG_BYTES_MAX`] and a mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionLog {
    pub stream: crate::Stream,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionFailure {
    pub kind: FailureKind,
    /// For `failed` it may be the handler's traceback.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// There is no such file.
    NotFound,
    /// There is no Python.
    NoRuntime,
    /// Too many calls at once.
    Busy,
    TimedOut,
    /// The handler raised, or its process ended.
    Failed,
    /// What the handler returned is no reply.
    BadResponse,
    TooLarge,
    /// The handler is not for this kind of request.
    BadHandler,
    /// The process cannot be made.
    Unavailable,
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketClose {
    pub code: u16,
    #[serde(default)]
    pub reason: String,
}

/// Length field and kind byte.
pub const HEADER_BYTES: usize = 5;

/// The bytes of a frame.
pub fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&u32::try_from(payload.len() + 1).unwrap_or(u32::MAX).to_be_bytes());
    frame.push(kind as u8);
    frame.extend_from_slice(payload);
    frame
}

/// What the front of a buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// More bytes are needed.
    Incomplete,
    /// A frame: its kind, and how many bytes it takes with its header.
    Frame { kind: Kind, bytes: usize },
    /// An unknown kind, or a length of zero or beyond the limit.
    Invalid,
}

/// Looks for one frame with a payload of at most `max` bytes at the front of `buffer`.
pub fn decode(buffer: &[u8], max: usize) -> Decoded {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else { return Decoded::Incomplete };
    let [a, b, c, d, kind] = *header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let Some(kind) = Kind::from_byte(kind) else { return Decoded::Invalid };
    if length == 0 || length > max + 1 {
        return Decoded::Invalid;
    }
    if buffer.len() < 4 + length { Decoded::Incomplete } else { Decoded::Frame { kind, bytes: 4 + length } }
}
