//! What passes between host and engine: frames over a stream, many calls at a time.
//!
//! A frame is a big-endian u32 length of what follows, a kind byte, a big-endian u32 that the host chose for the call, and JSON.
//!
//! ```text
//! host:   Run  (Settle | Cancel)*        for each call
//!         Check
//! engine: Ready  (Step | Checked)*       the last step of a call has `done`
//! ```
//!
//! One step is what came of one entry into the script (its start, or one settled op): what it logged, what it asks for now,
//! and its end if it has ended. An engine that sends none of that has nothing more to say: there is a step for every entry.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Failure, LogLine, Op, OpError, Usage, User, call::Clock};

/// Of one frame, header aside: a payload of 6 MiB, escaped at its worst, fits.
pub const FRAME_BYTES_MAX: usize = 40 << 20;
/// Length, kind and call.
pub const HEADER_BYTES: usize = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Run`]
    Run = 1,
    /// [`Settle`]
    Settle = 2,
    /// No payload: the call is not wanted any more. It is answered by a last step.
    Cancel = 3,
    /// [`Check`]
    Check = 4,
    /// No payload, call 0: it can be sent calls.
    Ready = 16,
    /// [`Step`]
    Step = 17,
    /// [`Checked`]
    Checked = 18,
}

/// Begin a call.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    pub code: String,
    pub name: String,
    pub data: Box<RawValue>,
    pub user: User,
    pub timeout_ms: u64,
    pub cpu_ms: u64,
    pub memory_bytes: u64,
    pub output_bytes: usize,
    pub log_lines: usize,
    pub log_bytes: usize,
    pub ops_pending: usize,
    pub ops: usize,
    /// 64 hexadecimal digits.
    pub seed: String,
    pub clock: Option<Clock>,
}

/// An op was answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settle {
    /// As in [`Asked::seq`].
    pub seq: u32,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Box<RawValue>>,
    /// There is this or a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<OpError>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogLine>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ops: Vec<Asked>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Done>,
}

/// Something that a script asks for. Numbers count from 1 in each call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    pub seq: u32,
    pub op: Op,
    pub args: Box<RawValue>,
}

/// The end of a call.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// None with `failure`, or when the script returned `undefined`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    #[serde(default)]
    pub usage: Usage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
}

/// Compile and do not run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Check {
    pub code: String,
    pub name: String,
}

/// Where the code is wrong, if it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub error: Option<SyntaxError>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} (line {line}, column {column})")]
pub struct SyntaxError {
    pub message: String,
    /// Both from 1.
    pub line: u32,
    pub column: u32,
}

impl Kind {
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Run, Self::Settle, Self::Cancel, Self::Check, Self::Ready, Self::Step, Self::Checked].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A value that is there; `null` is one, and not none.
pub(crate) fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(from).map(Some)
}

/// The bytes of a frame with a payload that is JSON already.
pub fn encode(kind: Kind, call: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&(payload.len() as u32 + 5).to_be_bytes());
    frame.push(kind as u8);
    frame.extend_from_slice(&call.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The bytes of a frame; `None` when its payload would be larger than one may be.
pub fn pack(kind: Kind, call: u32, payload: &impl Serialize) -> Option<Vec<u8>> {
    let mut frame = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut frame, payload).ok()?;
    let length = frame.len() - HEADER_BYTES;
    if length > FRAME_BYTES_MAX {
        return None;
    }
    frame[..4].copy_from_slice(&(length as u32 + 5).to_be_bytes());
    frame[4] = kind as u8;
    frame[5..HEADER_BYTES].copy_from_slice(&call.to_be_bytes());
    Some(frame)
}

/// Kind, call and the length of the payload that follows a header; `None` for nonsense.
pub fn header(bytes: [u8; HEADER_BYTES]) -> Option<(Kind, u32, usize)> {
    let [a, b, c, d, kind, call @ ..] = bytes;
    let length = (u32::from_be_bytes([a, b, c, d]) as usize).checked_sub(5)?;
    (length <= FRAME_BYTES_MAX).then_some((Kind::from_byte(kind)?, u32::from_be_bytes(call), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_a_value() {
        for (text, want) in [(r#"{"seq":1,"value":null}"#, Some("null")), (r#"{"seq":1,"value":[ 1 ]}"#, Some("[ 1 ]")), (r#"{"seq":1}"#, None)] {
            let settle: Settle = serde_json::from_str(text).unwrap();
            assert_eq!(settle.value.as_deref().map(RawValue::get), want);
            assert_eq!(serde_json::to_string(&settle).unwrap(), text);
        }
        assert_eq!(serde_json::from_str::<Done>(r#"{"value":null}"#).unwrap().value.unwrap().get(), "null");
    }

    #[test]
    fn headers_are_read_as_they_were_written() {
        for kind in [Kind::Run, Kind::Settle, Kind::Cancel, Kind::Check, Kind::Ready, Kind::Step, Kind::Checked] {
            let frame = encode(kind, 0xdead_beef, b"{}");
            assert_eq!(header(frame[..HEADER_BYTES].try_into().unwrap()), Some((kind, 0xdead_beef, 2)));
        }
        assert_eq!(pack(Kind::Checked, 7, &Checked { error: None }), Some(encode(Kind::Checked, 7, br#"{"error":null}"#)));
        assert_eq!(pack(Kind::Settle, 7, &"x".repeat(FRAME_BYTES_MAX)), None);
        assert_eq!(header([0, 0, 0, 4, 1, 0, 0, 0, 0]), None, "shorter than its own header");
        assert_eq!(header([255; HEADER_BYTES]), None);
    }
}
