//! Frames of an attached context, both ways after the upgrade: a big-endian u32 length of what follows, one kind
//! byte, the payload.

/// Payloads are never longer, so that one frame fits a WebSocket message that every client accepts.
pub const PAYLOAD_BYTES_MAX: usize = 32 << 10;
/// Length field and kind byte.
pub const HEADER_BYTES: usize = 5;

/// The kind byte. From the agent: `Stdout`, `Stderr`, `Pty` carry output that never ends within a UTF-8
/// character (bytes that are no UTF-8 are replaced), `Ready` and `Done` JSON. From the host: the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Stdout = 1,
    Stderr = 2,
    Pty = 3,
    /// [`Ready`]: the REPL has finished that input and waits for more.
    Ready = 4,
    /// [`Done`]: the process has ended; the last frame.
    Done = 5,
    /// [`Lost`]: output that is not kept any more. Agents from before this kind say so by a line in the output.
    Lost = 6,
    /// [`AttachInput`].
    Input = 16,
    /// [`crate::PtySize`].
    Resize = 17,
    /// [`crate::Signal`].
    Signal = 18,
    /// The end of a command's stdin, once it has read what was sent before. No payload. Terminals and REPLs have no
    /// such end; an agent that does not know this kind skips it.
    Eof = 19,
}

impl Kind {
    /// The kind for a byte; `None` for one that this protocol does not know (skip the frame).
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Pty,
            4 => Self::Ready,
            5 => Self::Done,
            6 => Self::Lost,
            16 => Self::Input,
            17 => Self::Resize,
            18 => Self::Signal,
            19 => Self::Eof,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Ready {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// This many bytes of a stream come next, were not taken in time and are gone.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Lost {
    pub stream: crate::Stream,
    pub bytes: u64,
}

impl Lost {
    /// The line that stands for it in a text.
    pub fn line(&self) -> String {
        format!("[sandbar: {} bytes of earlier output dropped]\n", self.bytes)
    }
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Done {
    pub exit_code: i32,
    pub state: crate::ContextState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// None of an agent that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Used>,
}

/// What a process used that has ended, by the kernel's count: with those that it waited for, and those of its session that it left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Used {
    /// From its start to its end.
    pub duration_ms: u64,
    pub cpu_us: u64,
    /// The most memory that one of the processes had at a time.
    pub memory_peak_bytes: u64,
    /// What they had written to disks, in blocks of 512 bytes.
    pub written_bytes: u64,
}

/// Input for the process. To a REPL that is idle it is code; while code runs it goes to that code's stdin, and
/// what is left unread there when the code ends is run as code, as on a terminal.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct AttachInput {
    pub data: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The bytes of a frame.
///
/// # Panics
/// Never in a correct program: callers split payloads at [`PAYLOAD_BYTES_MAX`]; a longer one is a bug.
pub fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&(payload.len() as u32 + 1).to_be_bytes());
    frame.push(kind as u8);
    frame.extend_from_slice(payload);
    frame
}

/// What the front of a buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// More bytes are needed.
    Incomplete,
    /// A frame, and how many bytes of the buffer it took. `kind` is `None` for an unknown one.
    Frame { kind: Option<Kind>, payload: &'a [u8], consumed: usize },
    /// The length field is zero or beyond the limit: end the connection.
    Invalid,
}

/// Looks for one frame at the front of `buffer`.
pub fn decode(buffer: &[u8]) -> Decoded<'_> {
    let Some(header) = buffer.first_chunk::<4>() else { return Decoded::Incomplete };
    let length = u32::from_be_bytes(*header) as usize;
    if length == 0 || length > PAYLOAD_BYTES_MAX + 1 {
        return Decoded::Invalid;
    }
    let Some(body) = buffer.get(4..4 + length) else { return Decoded::Incomplete };
    Decoded::Frame { kind: Kind::from_byte(body[0]), payload: &body[1..], consumed: 4 + length }
}
