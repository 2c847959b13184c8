//! The way into sandboxes by SSH: the user's name is the sandbox, the key says who it is.
//!
//! ```text
//! accept -> login (door) -> for each channel: rights now, wake -> session: a process inside   (session.rs)
//!                                                              -> forward: a connection inside (forward.rs)
//! ```
//!
//! Nothing is woken for somebody who has not come in, and nothing for a connection that only stands there: a channel is what
//! wakes. What the API may do decides here, too: the same rights, the same `auto_resume`, the same policy of the network.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use sandbar_ssh::{HostKey, Open, OpenKind, Settings, SshError};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::SharedApp,
    gateway::{Shares, network},
    http::prepare,
};

mod client;
mod door;
mod forward;
mod hostkey;
mod session;

pub use hostkey::HostKeyError;

use client::Client;
use door::Door;

/// Connections of all together, and of one sandbox.
const CONNECTIONS_MAX: usize = 1024;
const CONNECTIONS_PER_SANDBOX_MAX: usize = 32;
/// Connections that have not come in yet, of all together and of one address (of one network of IPv6). This machine speaks
/// for many.
const ENTERING_MAX: usize = 256;
const ENTERING_PER_ADDRESS_MAX: usize = 16;
/// After a failed accept (no file descriptors left, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long what is left of a connection may take after its end.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// How SSH is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pub port: u16,
    /// The host key as in a `known_hosts` file, without the host's name.
    pub host_key: String,
    pub fingerprint: String,
}

/// A listener with its key. Nothing is accepted yet.
pub struct Gate {
    listener: TcpListener,
    settings: Arc<Settings>,
    pub reach: Reach,
}

impl Gate {
    /// Takes a listener and the host key of the data directory, which is made at the first time. Blocks for the disk.
    pub fn open(listener: TcpListener, data_dir: &std::path::Path) -> Result<Self, HostKeyError> {
        let host_key = hostkey::open(data_dir)?;
        let port = listener.local_addr().map(|address| address.port()).unwrap_or_default();
        let reach = Reach { port, host_key: host_key.line(), fingerprint: host_key.fingerprint() };
        Ok(Self { listener, settings: Arc::new(settings(host_key)), reach })
    }

    /// Lets people in until `stop`, then tells them that the server stops.
    pub async fn run(self, app: SharedApp, stop: CancellationToken) {
        let all = Shares::new(CONNECTIONS_MAX, CONNECTIONS_PER_SANDBOX_MAX);
        let entering = Shares::new(ENTERING_MAX, ENTERING_PER_ADDRESS_MAX);
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "an SSH connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(entering) = entering.take((!speaks_for_many(peer.ip())).then(|| network(peer.ip()))) else {
                tracing::debug!(%peer, "too many SSH connections that have not come in");
                continue;
            };
            prepare(&stream);
            let connection = Connection { app: Arc::clone(&app), settings: Arc::clone(&self.settings), all: Arc::clone(&all), stop: stop.clone(), peer };
            connections.spawn(async move {
                match connection.serve(stream, entering).await {
                    Ok(()) => {}
                    // Whoever scans for servers says nothing new.
                    Err(error) => tracing::debug!(%peer, %error, "an SSH connection ended"),
                }
            });
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }
}

fn settings(host_key: HostKey) -> Settings {
    Settings { host_key, software: concat!("Sandbar_", env!("CARGO_PKG_VERSION")) }
}

fn speaks_for_many(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

/// A connection, and what it needs.
struct Connection {
    app: SharedApp,
    settings: Arc<Settings>,
    all: Arc<Shares<String>>,
    stop: CancellationToken,
    peer: SocketAddr,
}

impl Connection {
    async fn serve<P>(self, stream: TcpStream, entering: P) -> Result<(), SshError> {
        let door = Door::new(&self.app);
        let entered = tokio::select! {
            entered = sandbar_ssh::login(stream, Arc::clone(&self.settings), &door) => entered?,
            () = self.stop.cancelled() => return Ok(()),
        };
        drop(entering);
        let (who, session) = entered;
        let Some(sandbox) = door::sandbox_of(&who.user) else { return Ok(()) };
        let Some(_place) = self.all.take(Some(sandbox.to_owned())) else {
            let text = format!("too many SSH connections: {CONNECTIONS_PER_SANDBOX_MAX} of one sandbox and {CONNECTIONS_MAX} of all are the limit");
            return session.run(drop, std::future::ready(text)).await;
        };
        let fingerprint = who.key.fingerprint();
        let client = Arc::new(Client::new(Arc::clone(&self.app), sandbox.to_owned(), fingerprint.clone()));
        // The key may have gone since it was asked for: its channels are refused.
        let (user, key) = client.who().await.map(|(who, key)| (who.user_id, key)).unwrap_or_default();
        tracing::info!(sandbox, peer = %self.peer, user, key, fingerprint, "somebody has come in by SSH");
        let tasks = TaskTracker::new();
        let open = |open: Open| {
            let client = Arc::clone(&client);
            tasks.spawn(async move {
                match open.kind.clone() {
                    OpenKind::Session => session::serve(&client, open).await,
                    OpenKind::Tcp { host, port } => forward::tcp(&client, open, &host, port).await,
                    OpenKind::Unix { path } => forward::unix(&client, open, &path).await,
                }
            });
        };
        let stop = async {
            tokio::select! {
                () = self.stop.cancelled() => "the server stops; the sandbox goes on".to_owned(),
                text = client.barred() => text,
            }
        };
        let ended = session.run(open, stop).await;
        tasks.close();
        // Each notices that its channel is closed.
        if tokio::time::timeout(CLOSE_WITHIN, tasks.wait()).await.is_err() {
            tracing::warn!(sandbox, "something of an SSH connection did not end with it");
        }
        tracing::info!(sandbox, peer = %self.peer, user, key, "somebody has left by SSH");
        ended
    }
}

/// Listens where the default says, or says why not: somebody else may have that port, which is no reason not to start.
pub async fn listen_if_free(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!(%address, "somebody else listens where SSH would; sandboxes are not reached by SSH. Give another address with --ssh-listen, or off");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
