//! An attached context: frames both ways over the upgraded connection.

use bytes::{Buf, Bytes, BytesMut};
use http::Response;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sandbar_procd_api::{
    PtySize, Signal, Stream,
    frame::{self, AttachInput, Decoded, Done, Kind, Lost, PAYLOAD_BYTES_MAX, Ready},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::{AgentBody, ProcdError};

/// Read from the socket at a time; a whole frame fits.
const READ_BYTES: usize = 64 << 10;

/// What the agent says about an attached context.
#[derive(Debug, Clone)]
pub enum AttachedFrame {
    /// Whole UTF-8 characters, at most [`PAYLOAD_BYTES_MAX`] bytes.
    Output { stream: Stream, data: String },
    /// Output that comes next and is gone.
    Lost(Lost),
    /// The REPL has finished that input.
    Ready(Ready),
    /// The process has ended; nothing follows.
    Done(Done),
}

/// A context that one is attached to. Not reading from it holds back the agent's sending, not the process.
pub struct Attached {
    reader: AttachReader,
    writer: AttachWriter,
}

impl Attached {
    pub(super) async fn upgrade(response: Response<AgentBody>) -> Result<Self, ProcdError> {
        let upgraded = hyper::upgrade::on(response.map(AgentBody::into_incoming)).await.map_err(ProcdError::gone)?;
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        Ok(Self { reader: AttachReader { read, buffer: BytesMut::new() }, writer: AttachWriter { write } })
    }

    /// The next frame; see [`AttachReader::next`].
    pub async fn next(&mut self) -> Result<Option<AttachedFrame>, ProcdError> {
        self.reader.next().await
    }

    /// Both directions apart, so that each can have a task.
    pub fn split(self) -> (AttachReader, AttachWriter) {
        (self.reader, self.writer)
    }
}

/// The agent's frames.
pub struct AttachReader {
    read: ReadHalf<TokioIo<Upgraded>>,
    buffer: BytesMut,
}

impl AttachReader {
    /// The next frame; `None` when the agent closed without [`AttachedFrame::Done`]. Frames of unknown kinds are
    /// passed over. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<AttachedFrame>, ProcdError> {
        loop {
            match take_frame(&mut self.buffer)? {
                Some((Some(kind), payload)) => {
                    if let Some(frame) = parse(kind, &payload)? {
                        return Ok(Some(frame));
                    }
                }
                Some((None, _)) => {}
                None => {
                    self.buffer.reserve(READ_BYTES);
                    if self.read.read_buf(&mut self.buffer).await.map_err(ProcdError::Gone)? == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

/// The way to the process.
pub struct AttachWriter {
    write: WriteHalf<TokioIo<Upgraded>>,
}

impl AttachWriter {
    /// Writes input, in several frames when it is long; `request_id` goes with the last one.
    pub async fn input(&mut self, data: &str, request_id: Option<&str>) -> Result<(), ProcdError> {
        for (piece, last) in pieces(data) {
            let request_id = request_id.filter(|_| last).map(str::to_owned);
            self.send(Kind::Input, &AttachInput { data: piece.to_owned(), request_id }).await?;
        }
        Ok(())
    }

    /// Ends a command's stdin. Agents that know no such thing go on waiting for input.
    pub async fn end_input(&mut self) -> Result<(), ProcdError> {
        self.write.write_all(&frame::encode(Kind::Eof, &[])).await.map_err(ProcdError::Gone)?;
        self.write.flush().await.map_err(ProcdError::Gone)
    }

    pub async fn resize(&mut self, size: PtySize) -> Result<(), ProcdError> {
        self.send(Kind::Resize, &size).await
    }

    pub async fn signal(&mut self, signal: &Signal) -> Result<(), ProcdError> {
        self.send(Kind::Signal, signal).await
    }

    async fn send(&mut self, kind: Kind, payload: &impl Serialize) -> Result<(), ProcdError> {
        let payload = serde_json::to_vec(payload).map_err(|e| ProcdError::Protocol(format!("frame: {e}")))?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(ProcdError::Protocol("frame: the request is too long".into()));
        }
        self.write.write_all(&frame::encode(kind, &payload)).await.map_err(ProcdError::Gone)?;
        self.write.flush().await.map_err(ProcdError::Gone)
    }
}

/// Bytes of text whose JSON always fits a frame: a byte takes at most six, and the request id its part.
const INPUT_PIECE_BYTES: usize = 4 << 10;

/// Text in pieces of whole characters, each with whether it is the last. Empty text is one empty piece.
fn pieces(mut text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut end = text.len().min(INPUT_PIECE_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, rest) = text.split_at(end);
        text = rest;
        ended = rest.is_empty();
        Some((piece, ended))
    })
}

fn take_frame(buffer: &mut BytesMut) -> Result<Option<(Option<Kind>, Bytes)>, ProcdError> {
    let (kind, length, consumed) = match frame::decode(buffer) {
        Decoded::Incomplete => return Ok(None),
        Decoded::Invalid => return Err(ProcdError::Protocol("frame: bad length".into())),
        Decoded::Frame { kind, payload, consumed } => (kind, payload.len(), consumed),
    };
    let mut whole = buffer.split_to(consumed);
    whole.advance(consumed - length);
    Ok(Some((kind, whole.freeze())))
}

fn parse(kind: Kind, payload: &[u8]) -> Result<Option<AttachedFrame>, ProcdError> {
    let output = |stream| Ok(Some(AttachedFrame::Output { stream, data: String::from_utf8_lossy(payload).into_owned() }));
    match kind {
        Kind::Stdout => output(Stream::Stdout),
        Kind::Stderr => output(Stream::Stderr),
        Kind::Pty => output(Stream::Pty),
        Kind::Ready => json(payload).map(|ready| Some(AttachedFrame::Ready(ready))),
        Kind::Done => json(payload).map(|done| Some(AttachedFrame::Done(done))),
        Kind::Lost => json(payload).map(|lost| Some(AttachedFrame::Lost(lost))),
        // The host's own kinds mean nothing from the agent.
        Kind::Input | Kind::Resize | Kind::Signal | Kind::Eof => Ok(None),
    }
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ProcdError> {
    serde_json::from_slice(payload).map_err(|e| ProcdError::Protocol(format!("frame: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_input_is_cut_between_characters_and_only_its_end_is_the_last() {
        let text = "é".repeat(5000);
        let all: Vec<_> = pieces(&text).collect();
        assert_eq!(all.iter().map(|(piece, _)| *piece).collect::<String>(), text);
        assert!(all.iter().all(|(piece, _)| piece.len() <= INPUT_PIECE_BYTES));
        assert_eq!(all.iter().filter(|(_, last)| *last).count(), 1);
        assert_eq!(pieces("").collect::<Vec<_>>(), [("", true)]);
    }

    #[test]
    fn frames_come_out_of_any_cut_of_the_bytes() {
        let mut bytes = frame::encode(Kind::Stdout, b"hello");
        bytes.extend(frame::encode(Kind::Done, br#"{"exit_code":0,"state":"stopped"}"#));
        for cut in 0..bytes.len() {
            let (mut buffer, mut kinds) = (BytesMut::new(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                buffer.extend_from_slice(part);
                while let Some((kind, _)) = take_frame(&mut buffer).expect("valid") {
                    kinds.push(kind);
                }
            }
            assert_eq!(kinds, [Some(Kind::Stdout), Some(Kind::Done)]);
        }
    }
}
