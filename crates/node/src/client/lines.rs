//! Replies that go on: one JSON value per line, until either side ends.

use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::{AgentBody, ProcdError};

/// A longer line ends the stream.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Values as the agent sends them. Dropping it closes the stream.
pub struct Lines<T> {
    body: AgentBody,
    buffer: BytesMut,
    /// How much of the buffer holds no line end.
    searched: usize,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    pub(super) fn new(body: AgentBody) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0, value: PhantomData }
    }

    /// The next value; `None` when the agent ended the stream properly. Cancel-safe: nothing is lost when the
    /// future is dropped.
    pub async fn next(&mut self) -> Result<Option<T>, ProcdError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
                let end = self.searched + end;
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                self.searched = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|e| ProcdError::Protocol(format!("line: {e}")));
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_BYTES_MAX {
                return Err(ProcdError::Protocol(format!("line of more than {LINE_BYTES_MAX} bytes")));
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
