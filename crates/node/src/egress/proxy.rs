//! Connections out of a sandbox: judged, dialled from the host, copied.
//!
//! The kernel has already accepted the connection when it arrives here, so a refusal and a failed dial both look like
//! a reset to the program.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustix::net::{Shutdown, sockopt};
use sandbar_core::egress::Verdict;
use sandbar_linux::net;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::log::Entry;
use super::{Attached, Inner, tcp_flow};

/// Connections that one sandbox may have open at once.
pub(super) const FLOWS_MAX: usize = 1024;
const DIAL_WITHIN: Duration = Duration::from_secs(10);
/// Buffer of each direction, held only while bytes wait in it.
const COPY_BUFFER_BYTES: usize = 32 << 10;
/// A peer that is gone without a word is noticed after about idle + 3 intervals.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_PROBES: u32 = 3;
/// After an accept that failed for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Places for connections, bounded so that sandboxes leave the server file descriptors to serve with.
pub(super) struct Places {
    all: Arc<Semaphore>,
    of_one: usize,
}

impl Places {
    /// A connection takes two file descriptors; half of what this process may open is for them, and an eighth of that
    /// for one sandbox at most.
    pub fn of_machine() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let files = files.current.and_then(|n| usize::try_from(n).ok()).unwrap_or(Semaphore::MAX_PERMITS);
        let all = (files / 4).clamp(1, Semaphore::MAX_PERMITS);
        Self { all: Arc::new(Semaphore::new(all)), of_one: (all / 8).clamp(1, FLOWS_MAX) }
    }

    /// The places of one sandbox, for IPv4 and IPv6 together.
    pub fn of_sandbox(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(self.of_one))
    }

    /// The places of one sandbox for UDP, which does not take them from its connections.
    pub fn of_sandbox_for_udp(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(self.of_one.min(super::udp::FLOWS_MAX)))
    }

    pub fn take(&self, of_sandbox: &Arc<Semaphore>) -> Option<Place> {
        let own = Arc::clone(of_sandbox).try_acquire_owned().ok()?;
        let shared = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _own: own, _shared: shared })
    }
}

/// Given back when it is dropped.
pub(super) struct Place {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

/// Accepts until the runtime is detached.
pub(super) async fn listen(attached: Arc<Attached>, inner: Arc<Inner>, listener: TcpListener, permits: Arc<Semaphore>) {
    loop {
        let accepted = tokio::select! {
            () = attached.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((inside, _)) => {
                let place = inner.places.take(&permits);
                let (shared, inner) = (Arc::clone(&attached), Arc::clone(&inner));
                attached.tasks.spawn(async move { serve(&shared, &inner, inside, place).await });
            }
            Err(error) => {
                tracing::debug!(%error, "accept in a sandbox");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn serve(attached: &Attached, inner: &Inner, inside: TcpStream, place: Option<Place>) {
    let to = net::original_dst(&inside).filter(|to| !net::is_own_loopback(to.ip()));
    let Some(to) = to else {
        // A program that called the proxy by its own address.
        return reset(&inside);
    };
    let flow = tcp_flow(to);
    let Some(_place) = place else {
        attached.record(None, flow, Verdict { allow: false, rule: "too many connections at once".into() });
        return reset(&inside);
    };
    let (verdict, open) = attached.admit(&inner.protected(), flow);
    let entry = attached.record(None, flow, verdict);
    let Some(open) = open else {
        return reset(&inside);
    };

    let outside = tokio::select! {
        () = open.cut.cancelled() => return reset(&inside),
        outside = dial(SocketAddr::new(flow.addr, flow.port)) => outside,
    };
    let outside = match outside {
        Ok(outside) => outside,
        Err(error) => {
            tracing::debug!(runtime = attached.runtime_id, %to, %error, "dial for a sandbox");
            attached.log.dial_failed();
            return reset(&inside);
        }
    };
    prepare(&inside);
    let ended = tokio::select! {
        () = open.cut.cancelled() => false,
        copied = copy(attached, &entry, &inside, &outside) => copied.is_ok(),
    };
    if !ended {
        reset(&inside);
        reset(&outside);
    }
}

async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let outside = tokio::time::timeout(DIAL_WITHIN, TcpStream::connect(to)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    prepare(&outside);
    Ok(outside)
}

/// Best effort: the connection works without.
fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).ok();
    sockopt::set_socket_keepalive(stream, true).ok();
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE).ok();
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL).ok();
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES).ok();
}

/// Makes the close of the stream a reset.
fn reset(stream: &TcpStream) {
    sockopt::set_socket_linger(stream, Some(Duration::ZERO)).ok();
}

/// Both ways until both sides have said that they are done.
async fn copy(attached: &Attached, entry: &Entry, inside: &TcpStream, outside: &TcpStream) -> io::Result<()> {
    let out = pump(inside, outside, |bytes| attached.log.sent(entry, bytes));
    let back = pump(outside, inside, |bytes| attached.log.received(entry, bytes));
    tokio::try_join!(out, back).map(|_| ())
}

async fn pump(from: &TcpStream, to: &TcpStream, count: impl Fn(u64)) -> io::Result<()> {
    loop {
        from.readable().await?;
        // Only now: most connections idle.
        let mut buffer = BytesMut::with_capacity(COPY_BUFFER_BYTES);
        match from.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(rustix::net::shutdown(to, Shutdown::Write)?),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        while !buffer.is_empty() {
            to.writable().await?;
            match to.try_write(&buffer) {
                Ok(len) => {
                    buffer.advance(len);
                    count(len as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
