//! A process inside for somebody who is connected: its streams byte for byte, each as fast as its reader.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::{Buf, Bytes, BytesMut};
use http::Response;
use hyper_util::rt::TokioIo;
use sandbar_procd_api::{
    ErrorBody, PtySize, Signal,
    process::{DATA_BYTES_MAX, Decoded, Exit, HEADER_BYTES, Kind, Start, WINDOW_BYTES, bytes_taken, decode, encode, taken},
};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc},
};

use super::{AgentBody, ProcdError};

/// Read from the socket at a time.
const READ_BYTES: usize = 64 << 10;

/// What a process says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessFrame {
    Stdout(Bytes),
    Stderr(Bytes),
    /// It has ended; nothing follows.
    Exit(Exit),
}

/// What the process prints. Not reading holds back the process, and nothing else.
#[derive(Debug)]
pub struct ProcessOutput {
    frames: mpsc::UnboundedReceiver<Result<ProcessFrame, ProcdError>>,
    commands: mpsc::UnboundedSender<Vec<u8>>,
    /// Stream data that waits here.
    unread: Arc<AtomicUsize>,
}

/// The way to a process. When this and the output are dropped, the process is hung up.
#[derive(Debug, Clone)]
pub struct ProcessInput {
    commands: mpsc::UnboundedSender<Vec<u8>>,
    room: Arc<Semaphore>,
}

/// Starts a process by way of an upgraded connection.
pub(super) async fn start(response: Response<AgentBody>, arguments: &[Vec<u8>], start: &Start) -> Result<(ProcessInput, ProcessOutput), ProcdError> {
    let upgraded = hyper::upgrade::on(response.map(AgentBody::into_incoming)).await.map_err(ProcdError::gone)?;
    begin(TokioIo::new(upgraded), arguments, start).await
}

async fn begin<S>(stream: S, arguments: &[Vec<u8>], start: &Start) -> Result<(ProcessInput, ProcessOutput), ProcdError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut read, mut write) = tokio::io::split(stream);
    let mut asked: Vec<u8> = arguments.iter().flat_map(|argument| encode(Kind::Argument, argument)).collect();
    asked.extend(encode(Kind::Start, &serde_json::to_vec(start).map_err(|e| ProcdError::Protocol(format!("request: {e}")))?));
    write.write_all(&asked).await.map_err(ProcdError::Gone)?;
    write.flush().await.map_err(ProcdError::Gone)?;
    let mut buffer = BytesMut::new();
    loop {
        match next(&mut read, &mut buffer).await? {
            Some((Some(Kind::Started), _)) => break,
            Some((Some(Kind::Failed), payload)) => {
                let body: ErrorBody = serde_json::from_slice(&payload).map_err(|e| ProcdError::Protocol(format!("frame: {e}")))?;
                return Err(ProcdError::Api { status: body.code.status(), body });
            }
            Some(_) => {}
            None => return Err(ProcdError::gone("the agent closed the connection")),
        }
    }
    let (commands, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
    let (said, frames) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(WINDOW_BYTES));
    let (given, unread) = (Arc::clone(&room), Arc::<AtomicUsize>::default());
    let read_here = Arc::clone(&unread);
    tokio::spawn(async move {
        let send = async {
            // Ends when nobody holds the process any more. The agent always reads.
            while let Some(command) = queue.recv().await {
                if write.write_all(&command).await.is_err() || write.flush().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let receive = async {
            loop {
                let frame = match next(&mut read, &mut buffer).await {
                    Ok(Some((kind, payload))) => parse(kind, payload, &given, &unread),
                    Ok(None) => Err(ProcdError::gone("the agent closed the connection")),
                    Err(error) => Err(error),
                };
                let last = matches!(frame, Err(_) | Ok(Some(ProcessFrame::Exit(_))));
                if let Some(frame) = frame.transpose()
                    && said.send(frame).is_err()
                {
                    // The output is not wanted; the input may be.
                    std::future::pending::<()>().await;
                }
                if last {
                    given.close();
                    return;
                }
            }
        };
        tokio::select! {
            () = send => {}
            () = receive => {}
        }
    });
    Ok((ProcessInput { commands: commands.clone(), room }, ProcessOutput { frames, commands, unread: read_here }))
}

fn parse(kind: Option<Kind>, payload: Bytes, room: &Semaphore, unread: &AtomicUsize) -> Result<Option<ProcessFrame>, ProcdError> {
    let nonsense = || ProcdError::Protocol("frame: nonsense, or more than was asked for".to_owned());
    if matches!(kind, Some(Kind::Stdout | Kind::Stderr)) && unread.fetch_add(payload.len(), Ordering::Relaxed) + payload.len() > WINDOW_BYTES {
        return Err(nonsense());
    }
    Ok(match kind {
        Some(Kind::Stdout) => Some(ProcessFrame::Stdout(payload)),
        Some(Kind::Stderr) => Some(ProcessFrame::Stderr(payload)),
        Some(Kind::Exit) => Some(ProcessFrame::Exit(serde_json::from_slice(&payload).map_err(|_| nonsense())?)),
        Some(Kind::Taken) => {
            let bytes = bytes_taken(&payload).ok_or_else(nonsense)?;
            if room.available_permits() + bytes > WINDOW_BYTES {
                return Err(nonsense());
            }
            room.add_permits(bytes);
            None
        }
        _ => None,
    })
}

/// The next frame; `None` at the end. Cancel-safe.
async fn next(read: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<Option<(Option<Kind>, Bytes)>, ProcdError> {
    loop {
        match decode(buffer) {
            Decoded::Frame { kind, bytes } => {
                let mut payload = buffer.split_to(bytes).freeze();
                payload.advance(HEADER_BYTES);
                return Ok(Some((kind, payload)));
            }
            Decoded::Invalid => return Err(ProcdError::Protocol("frame: bad length".into())),
            Decoded::Incomplete => {
                buffer.reserve(READ_BYTES);
                if read.read_buf(buffer).await.map_err(ProcdError::Gone)? == 0 {
                    return Ok(None);
                }
            }
        }
    }
}

impl ProcessOutput {
    /// The next frame; an error when the agent went away before [`ProcessFrame::Exit`]. Cancel-safe.
    pub async fn next(&mut self) -> Result<ProcessFrame, ProcdError> {
        let frame = self.frames.recv().await.unwrap_or_else(|| Err(ProcdError::gone("the process is told to be over")))?;
        if let ProcessFrame::Stdout(data) | ProcessFrame::Stderr(data) = &frame {
            self.unread.fetch_sub(data.len(), Ordering::Relaxed);
            let _ = self.commands.send(taken(data.len()));
        }
        Ok(frame)
    }
}

impl ProcessInput {
    /// Sends to its stdin, and waits while it reads nothing.
    pub async fn write(&self, mut data: Bytes) {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(DATA_BYTES_MAX));
            let Ok(permit) = self.room.acquire_many(piece.len() as u32).await else { return };
            permit.forget();
            let _ = self.commands.send(encode(Kind::Stdin, &piece));
        }
    }

    /// Ends its stdin. A terminal has no such end.
    pub fn end(&self) {
        let _ = self.commands.send(encode(Kind::Eof, &[]));
    }

    pub fn resize(&self, size: PtySize) {
        self.send(Kind::Resize, &size);
    }

    pub fn signal(&self, signal: &Signal) {
        self.send(Kind::Signal, signal);
    }

    fn send(&self, kind: Kind, value: &impl Serialize) {
        if let Ok(payload) = serde_json::to_vec(value) {
            let _ = self.commands.send(encode(kind, &payload));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_taken_is_not_sent() {
        let (ours, mut agent) = tokio::io::duplex(1 << 20);
        let begun = tokio::spawn(async move { begin(ours, &[b"cat".to_vec()], &Start::default()).await });
        let mut buffer = BytesMut::new();
        assert_eq!(next(&mut agent, &mut buffer).await.unwrap().unwrap().0, Some(Kind::Argument));
        assert_eq!(next(&mut agent, &mut buffer).await.unwrap().unwrap().0, Some(Kind::Start));
        agent.write_all(&encode(Kind::Started, &[])).await.unwrap();
        let (input, mut output) = begun.await.unwrap().unwrap();
        let writing = tokio::spawn(async move {
            input.write(vec![7; WINDOW_BYTES + 1].into()).await;
            input.end();
            input
        });
        let mut got = 0;
        while got < WINDOW_BYTES {
            got += next(&mut agent, &mut buffer).await.unwrap().unwrap().1.len();
        }
        assert!(!writing.is_finished());
        agent.write_all(&taken(1)).await.unwrap();
        assert_eq!(next(&mut agent, &mut buffer).await.unwrap().unwrap().1.len(), 1);
        assert_eq!(next(&mut agent, &mut buffer).await.unwrap().unwrap().0, Some(Kind::Eof));
        agent.write_all(&encode(Kind::Stderr, b"oh")).await.unwrap();
        assert_eq!(output.next().await.unwrap(), ProcessFrame::Stderr(Bytes::from_static(b"oh")));
        assert_eq!(next(&mut agent, &mut buffer).await.unwrap().unwrap().0, Some(Kind::Taken));
        agent.write_all(&taken(WINDOW_BYTES * 2)).await.unwrap();
        assert!(matches!(output.next().await, Err(ProcdError::Protocol(_))), "more is taken than was sent");
    }
}
