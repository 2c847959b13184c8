//! Calls of functions: the frames of a reply as they come, and a WebSocket's both ways.

use bytes::{Buf, Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sandbar_procd_api::function::{Decoded, FunctionCall, FunctionEnd, FunctionStart, HEADER_BYTES, Kind, PAYLOAD_BYTES_MAX, SocketClose, decode, encode};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::{AgentBody, ProcdError};

/// Read from the socket at a time.
const READ_BYTES: usize = 64 << 10;

/// What the agent says about a call.
#[derive(Debug, Clone)]
pub enum FunctionFrame {
    Start(FunctionStart),
    /// A piece of the body.
    Chunk(Bytes),
    /// A message of a WebSocket.
    Text(String),
    /// A message of a WebSocket.
    Binary(Bytes),
    /// The handler closed the WebSocket.
    Close(SocketClose),
    /// Nothing follows.
    End(FunctionEnd),
}

/// The frames of a reply. Dropping it before its end ends the call.
pub struct FunctionReply {
    body: AgentBody,
    buffer: BytesMut,
}

impl FunctionReply {
    pub(super) fn new(body: AgentBody) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next frame; `None` when the agent went away before [`FunctionFrame::End`]. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<FunctionFrame>, ProcdError> {
        loop {
            if let Some(frame) = take(&mut self.buffer)? {
                if matches!(frame, FunctionFrame::End(_)) {
                    // Read to its end, the connection can be used again.
                    while let Some(Ok(_)) = self.body.frame().await {}
                }
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ProcdError::gone(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// A call with a WebSocket. Dropping both halves ends the call.
pub struct FunctionSocket {
    reader: FunctionReader,
    writer: FunctionWriter,
}

impl FunctionSocket {
    pub(super) async fn upgrade(response: Response<AgentBody>, call: &FunctionCall) -> Result<Self, ProcdError> {
        let upgraded = hyper::upgrade::on(response.map(AgentBody::into_incoming)).await.map_err(ProcdError::gone)?;
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        let mut writer = FunctionWriter { write };
        let call = serde_json::to_vec(call).map_err(|e| ProcdError::Protocol(format!("request: {e}")))?;
        writer.send(Kind::Request, &call).await?;
        Ok(Self { reader: FunctionReader { read, buffer: BytesMut::new() }, writer })
    }

    /// Both directions apart, so that each can have a task.
    pub fn split(self) -> (FunctionReader, FunctionWriter) {
        (self.reader, self.writer)
    }
}

/// What the handler says.
pub struct FunctionReader {
    read: ReadHalf<TokioIo<Upgraded>>,
    buffer: BytesMut,
}

impl FunctionReader {
    /// As [`FunctionReply::next`].
    pub async fn next(&mut self) -> Result<Option<FunctionFrame>, ProcdError> {
        loop {
            if let Some(frame) = take(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_BYTES);
            if self.read.read_buf(&mut self.buffer).await.map_err(ProcdError::Gone)? == 0 {
                return Ok(None);
            }
        }
    }
}

/// The way to the handler.
pub struct FunctionWriter {
    write: WriteHalf<TokioIo<Upgraded>>,
}

impl FunctionWriter {
    /// A message of at most [`PAYLOAD_BYTES_MAX`] bytes.
    pub async fn text(&mut self, message: &str) -> Result<(), ProcdError> {
        self.send(Kind::Text, message.as_bytes()).await
    }

    /// As [`FunctionWriter::text`].
    pub async fn binary(&mut self, message: &[u8]) -> Result<(), ProcdError> {
        self.send(Kind::Binary, message).await
    }

    /// The client has closed.
    pub async fn close(&mut self, close: &SocketClose) -> Result<(), ProcdError> {
        let close = serde_json::to_vec(close).map_err(|e| ProcdError::Protocol(format!("frame: {e}")))?;
        self.send(Kind::Close, &close).await
    }

    async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), ProcdError> {
        self.write.write_all(&encode(kind, payload)).await.map_err(ProcdError::Gone)?;
        self.write.flush().await.map_err(ProcdError::Gone)
    }
}

/// Takes one whole frame off the front.
fn take(buffer: &mut BytesMut) -> Result<Option<FunctionFrame>, ProcdError> {
    let (kind, bytes) = match decode(buffer, PAYLOAD_BYTES_MAX) {
        Decoded::Incomplete => return Ok(None),
        Decoded::Invalid => return Err(ProcdError::Protocol("frame: bad length or kind".into())),
        Decoded::Frame { kind, bytes } => (kind, bytes),
    };
    let mut payload = buffer.split_to(bytes).freeze();
    payload.advance(HEADER_BYTES);
    Ok(Some(match kind {
        Kind::Start => FunctionFrame::Start(json(&payload)?),
        Kind::Chunk => FunctionFrame::Chunk(payload),
        Kind::Text => FunctionFrame::Text(String::from_utf8_lossy(&payload).into_owned()),
        Kind::Binary => FunctionFrame::Binary(payload),
        Kind::Close => FunctionFrame::Close(json(&payload)?),
        Kind::End => FunctionFrame::End(json(&payload)?),
        Kind::Failed | Kind::Request => return Err(ProcdError::Protocol("frame: a kind that is not for the host".into())),
    }))
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ProcdError> {
    serde_json::from_slice(payload).map_err(|e| ProcdError::Protocol(format!("frame: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_of_any_cut_of_the_bytes() {
        let mut bytes = encode(Kind::Start, br#"{"status":200}"#);
        bytes.extend(encode(Kind::Chunk, b"hello"));
        bytes.extend(encode(Kind::End, b"{}"));
        for cut in 0..bytes.len() {
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = take(&mut buffer).expect("valid") {
                    seen.push(frame);
                }
            }
            assert!(matches!(&seen[..], [FunctionFrame::Start(_), FunctionFrame::Chunk(chunk), FunctionFrame::End(_)] if &chunk[..] == b"hello"));
        }
        for wrong in [encode(Kind::Start, b"no"), encode(Kind::Request, b"{}"), vec![0, 0, 0, 0, 2], vec![0, 0, 0, 1, 99], vec![255; 5]] {
            assert!(take(&mut BytesMut::from(&wrong[..])).is_err(), "{wrong:?}");
        }
    }
}
