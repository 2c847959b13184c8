//! Connections to one agent, by its socket.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;

use super::ProcdError;
pub use crate::connections::BoxError;
use crate::connections::{Connections, KeptBody, SendError};

/// The body of a request to the agent.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;
/// The body of a reply of the agent.
pub type AgentBody = KeptBody<RequestBody>;

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
    connections: Arc<Connections<RequestBody>>,
}

impl Pool {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, connections: Arc::new(Connections::new(IDLE_MAX, READ_BUFFER_BYTES_MAX)) }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) async fn send(&self, request: Request<RequestBody>) -> Result<Response<AgentBody>, ProcdError> {
        self.connections.send(request, self.connect()).await.map_err(|error| match error {
            SendError::Connect { source, request: _ } => ProcdError::Gone(source),
            SendError::Broken(error) => ProcdError::gone(error),
        })
    }

    pub(super) fn clear(&self) {
        self.connections.clear();
    }

    async fn connect(&self) -> io::Result<UnixStream> {
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
