//! Connections to one agent: made on demand, kept while idle, bounded.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;

use super::ProcdError;

/// What a body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a request to the agent.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// Idle connections kept for a runtime; each costs a file descriptor here and one in the agent.
const IDLE_MAX: usize = 4;
/// The kernel's limit for a socket path is 108 bytes with its end; longer ones go through /proc/self/fd.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// What hyper may read ahead of us from the agent. Bounds heads too.
const READ_BUFFER_BYTES_MAX: usize = 256 << 10;
/// A full backlog (many callers while the agent is frozen) is tried again this often,
const CONNECT_ATTEMPTS_MAX: u32 = 40;
/// with this pause between.
const CONNECT_PAUSE: Duration = Duration::from_millis(25);

pub(super) struct Pool {
    socket: PathBuf,
    idle: Mutex<Vec<SendRequest<RequestBody>>>,
}

impl Pool {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, idle: Mutex::new(Vec::new()) }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends on an idle connection, or on a new one. An idle connection that turns out to be closed is passed over
    /// only when nothing of the request was written to it.
    pub(super) async fn send(self: &Arc<Self>, mut request: Request<RequestBody>) -> Result<Response<AgentBody>, ProcdError> {
        while let Some(mut sender) = self.take_idle() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.keep(sender, response)),
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(ProcdError::gone(refused.into_error())),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await.map_err(ProcdError::gone)?;
        Ok(self.keep(sender, response))
    }

    pub(super) fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn take_idle(&self) -> Option<SendRequest<RequestBody>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }

    fn put_idle(&self, sender: SendRequest<RequestBody>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push(sender);
        }
    }

    fn keep(self: &Arc<Self>, sender: SendRequest<RequestBody>, response: Response<Incoming>) -> Response<AgentBody> {
        response.map(|body| AgentBody { body, lease: Some((Arc::clone(self), sender)) })
    }

    async fn connect(&self) -> Result<SendRequest<RequestBody>, ProcdError> {
        let stream = self.connect_stream().await.map_err(ProcdError::Gone)?;
        let (sender, connection) = http1::Builder::new().max_buf_size(READ_BUFFER_BYTES_MAX).handshake(TokioIo::new(stream)).await.map_err(ProcdError::gone)?;
        // Ends when the sender and the body in flight are dropped, or the agent closes; its error reaches the call.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to an agent ended");
            }
        });
        Ok(sender)
    }

    async fn connect_stream(&self) -> io::Result<UnixStream> {
        let mut attempts = 0;
        loop {
            match connect_path(&self.socket).await {
                // A unix socket with a full backlog answers EAGAIN instead of waiting.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && attempts < CONNECT_ATTEMPTS_MAX => {
                    attempts += 1;
                    tokio::time::sleep(CONNECT_PAUSE).await;
                }
                result => return result,
            }
        }
    }
}

async fn connect_path(socket: &Path) -> io::Result<UnixStream> {
    if socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return UnixStream::connect(socket).await;
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket has no folder"));
    };
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&folder).to_string()).join(name);
    UnixStream::connect(short).await
}

/// The body of a reply. Read to its end, its connection is used again; dropped before, the connection is closed.
pub struct AgentBody {
    body: Incoming,
    lease: Option<(Arc<Pool>, SendRequest<RequestBody>)>,
}

impl AgentBody {
    /// Gives back the plain response of an upgrade; the connection is the upgrade's from here on.
    pub(super) fn into_incoming(mut self) -> Incoming {
        self.lease = None;
        self.body
    }
}

impl Body for AgentBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = match &frame {
            None => true,
            Some(Ok(_)) => self.body.is_end_stream(),
            Some(Err(_)) => {
                self.lease = None;
                false
            }
        };
        if ended && let Some((pool, sender)) = self.lease.take() {
            pool.put_idle(sender);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // The lease goes back when the end is polled, so the end has to be polled: an empty body too.
        self.lease.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
