//! A process for somebody who is connected: its streams byte for byte, nothing kept, and its end when they go away.
//!
//! After the upgrade frames go both ways: a big-endian u32 length of what follows, one kind byte, the payload. The host
//! begins with any number of `Argument`s and a [`Start`]; the agent answers `Started` or `Failed`. From then on either side
//! may have [`WINDOW_BYTES`] of the streams on the way that the other has not said to have `Taken`, so that neither ever
//! has to stop reading: a signal is heard also while the process does not read.
//!
//! ```text
//! host:  Argument* Start  (Stdin | Eof | Resize | Signal | Taken)*
//! agent: Started | Failed (Stdout | Stderr | Taken)* Exit
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::PtySize;

/// The protocol of the upgrade.
pub const UPGRADE: &str = "sandbar-process";
/// Payloads with stream data are never longer.
pub const DATA_BYTES_MAX: usize = 32 << 10;
/// Other payloads are never longer: the kernel's limit of an argument.
pub const PAYLOAD_BYTES_MAX: usize = 128 << 10;
/// Bytes of all arguments, and of a [`Start`].
pub const ARGUMENTS_BYTES_MAX: usize = 1 << 20;
/// Stream data in one direction that was sent and not taken.
pub const WINDOW_BYTES: usize = 256 << 10;
/// Length field and kind byte.
pub const HEADER_BYTES: usize = 5;

/// What `procd connect` prints first when there is a connection; what follows are its bytes.
pub const CONNECTED: u8 = 6;

/// How a process is started. Its arguments, the program first, came before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Programs of which the first that exists is run in place of the first argument; empty = the first argument.
    #[serde(default)]
    pub programs: Vec<String>,
    #[serde(default)]
    pub cwd: Option<String>,
    /// Stronger than the sandbox's.
    #[serde(default)]
    pub env_vars: BTreeMap<String, String>,
    /// One terminal in place of three pipes.
    #[serde(default)]
    pub pty_size: Option<PtySize>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 128 and the signal when one ended it.
    pub code: i32,
    #[serde(default)]
    pub signal: Option<i32>,
    /// The kernel killed for want of memory just then.
    #[serde(default)]
    pub out_of_memory: bool,
}

/// The kind byte of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes that the process printed; a terminal has no other stream.
    Stdout = 1,
    Stderr = 2,
    /// [`Exit`]: both streams were read to their end. The last frame.
    Exit = 3,
    /// The process runs.
    Started = 4,
    /// [`crate::ErrorBody`]: there is none. The last frame.
    Failed = 5,
    /// Both ways: a u32 of bytes of stream data that need not be counted any more.
    Taken = 6,
    /// An argument, without NUL.
    Argument = 16,
    /// [`Start`].
    Start = 17,
    Stdin = 18,
    /// The end of stdin; a terminal has none.
    Eof = 19,
    /// [`PtySize`].
    Resize = 20,
    /// [`crate::Signal`].
    Signal = 21,
}

impl Kind {
    /// The kind for a byte; `None` for one that this protocol does not know (skip the frame).
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Exit,
            4 => Self::Started,
            5 => Self::Failed,
            6 => Self::Taken,
            16 => Self::Argument,
            17 => Self::Start,
            18 => Self::Stdin,
            19 => Self::Eof,
            20 => Self::Resize,
            21 => Self::Signal,
            _ => return None,
        })
    }
}

/// The bytes of a frame.
pub fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&(payload.len() as u32 + 1).to_be_bytes());
    frame.push(kind as u8);
    frame.extend_from_slice(payload);
    frame
}

/// A `Taken` frame.
pub fn taken(bytes: usize) -> Vec<u8> {
    encode(Kind::Taken, &u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes())
}

/// What a `Taken` frame says; `None` for nonsense.
pub fn bytes_taken(payload: &[u8]) -> Option<usize> {
    payload.try_into().ok().map(|bytes| u32::from_be_bytes(bytes) as usize)
}

/// What the front of a buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// More bytes are needed.
    Incomplete,
    /// A frame, and how many bytes it takes with its header. `kind` is `None` for an unknown one.
    Frame { kind: Option<Kind>, bytes: usize },
    /// The length is zero or beyond the limit: end the connection.
    Invalid,
}

/// Looks for one frame at the front of `buffer`.
pub fn decode(buffer: &[u8]) -> Decoded {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else { return Decoded::Incomplete };
    let [a, b, c, d, kind] = *header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let kind = Kind::from_byte(kind);
    let max = match kind {
        Some(Kind::Stdin | Kind::Stdout | Kind::Stderr) => DATA_BYTES_MAX,
        Some(Kind::Start) => ARGUMENTS_BYTES_MAX,
        _ => PAYLOAD_BYTES_MAX,
    };
    if length == 0 || length > max + 1 {
        return Decoded::Invalid;
    }
    if buffer.len() < 4 + length { Decoded::Incomplete } else { Decoded::Frame { kind, bytes: 4 + length } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_nonsense_does_not() {
        for (kind, payload) in [(Kind::Stdin, vec![0; DATA_BYTES_MAX]), (Kind::Eof, vec![]), (Kind::Argument, vec![255; PAYLOAD_BYTES_MAX])] {
            let bytes = encode(kind, &payload);
            assert_eq!(decode(&bytes[..bytes.len() - 1]), Decoded::Incomplete);
            assert_eq!(decode(&bytes), Decoded::Frame { kind: Some(kind), bytes: bytes.len() });
        }
        assert_eq!(decode(&[0, 0, 0, 1, 99]), Decoded::Frame { kind: None, bytes: 5 });
        for wrong in [encode(Kind::Stdin, &vec![0; DATA_BYTES_MAX + 1]), vec![0, 0, 0, 0, 18], vec![255; 5]] {
            assert_eq!(decode(&wrong), Decoded::Invalid);
        }
        assert_eq!(bytes_taken(&taken(70_000)[HEADER_BYTES..]), Some(70_000));
        assert_eq!(bytes_taken(b"no"), None);
    }
}
