//! Listening and answering until told to stop.

use std::{convert::Infallible, io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::gateway::{Front, Shares, Tls, network};

/// Connections of a listener at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16_384;
/// Connections of one address (of one network of IPv6) at once; more are closed. This machine and proxies that are trusted
/// speak for many.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 1024;
/// A peer that has gone without a word is noticed: after a silence of so long,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// asked so often,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// or when what was sent stays unacknowledged for so long.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(120);
/// Within this time a client must have sent the head of a request, and the next one on a kept connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Within this time a client must have finished the handshake of TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests in flight may end within this time after the stop; streams are cut then.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept (no file descriptors left, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A head has at most so many headers,
const HEADERS_MAX: usize = 128;
/// and so many bytes. More is answered with 431.
const HEAD_BYTES_MAX: usize = 128 << 10;
/// Requests at once on one connection of HTTP/2.
const STREAMS_MAX: u32 = 256;
/// With these bytes a connection of HTTP/2 begins that was not negotiated.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Between two looks at the first bytes of a connection, doubled up to the second.
const PEEK_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Serves `front` on `listener` until `stop`, then lets requests in flight end for a few seconds.
pub(crate) async fn serve(listener: TcpListener, front: Front, tls: Option<Arc<Tls>>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let shares = Shares::new(CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                let Some(share) = shares.take((!front.speaks_for_many(peer)).then(|| network(peer))) else {
                    tracing::debug!(%peer, "too many connections of one address");
                    continue;
                };
                let (front, tls, stop) = (front.clone(), tls.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, peer, front, tls, stop).await;
                    drop((place, share));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    prepare(&stream);
    Ok((stream, peer.ip(), place))
}

/// Best effort: the connection works without.
pub(crate) fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).ok();
    sockopt::set_socket_keepalive(stream, true).ok();
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE).ok();
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL).ok();
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES).ok();
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MAX.as_millis() as u32).ok();
}

async fn connection(stream: TcpStream, peer: IpAddr, front: Front, tls: Option<Arc<Tls>>, stop: CancellationToken) {
    let Some(tls) = tls else {
        let version = tokio::select! {
            () = stop.cancelled() => return,
            version = tokio::time::timeout(HEAD_TIMEOUT, version_of(&stream)) => version,
        };
        if let Ok(Ok(Some(version))) = version {
            answer(stream, version, peer, false, front, stop).await;
        }
        return;
    };
    let handshake = tokio::select! {
        () = stop.cancelled() => return,
        handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(&front.app, stream)) => handshake,
    };
    match handshake {
        Ok(Ok(Some(stream))) => {
            let version = if stream.get_ref().1.alpn_protocol() == Some(b"h2") { Version::Http2 } else { Version::Http1 };
            answer(stream, version, peer, true, front, stop).await;
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
        Err(_) => tracing::debug!("a handshake took too long"),
    }
}

/// What a client speaks, by its first bytes, which stay unread; `None` when it sends none.
async fn version_of(stream: &TcpStream) -> io::Result<Option<Version>> {
    let mut bytes = [0u8; PREFACE.len()];
    let mut pause = PEEK_PAUSE.0;
    loop {
        let read = stream.peek(&mut bytes).await?;
        if read == 0 {
            return Ok(None);
        }
        if !PREFACE.starts_with(&bytes[..read]) {
            return Ok(Some(Version::Http1));
        }
        if read == PREFACE.len() {
            return Ok(Some(Version::Http2));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PEEK_PAUSE.1);
    }
}

/// Answers the requests of one connection. What is upgraded leaves it and lives on by itself.
async fn answer<S>(stream: S, version: Version, peer: IpAddr, tls: bool, front: Front, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let front = front.clone();
        async move { Ok::<_, Infallible>(front.answer(request, peer, tls).await) }
    });
    let io = TokioIo::new(stream);
    // The two kinds of connections are used alike and have no trait in common.
    macro_rules! drive {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            tokio::select! {
                result = connection.as_mut() => result,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    match tokio::time::timeout(DRAIN_TIMEOUT, connection).await {
                        Ok(result) => result,
                        Err(_) => {
                            tracing::info!("a connection was cut at the end");
                            Ok(())
                        }
                    }
                }
            }
        }};
    }
    let result = match version {
        Version::Http1 => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX);
            drive!(builder.serve_connection(io, service).with_upgrades())
        }
        Version::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEAD_BYTES_MAX as u32);
            builder.keep_alive_interval(HEAD_TIMEOUT / 2).keep_alive_timeout(HEAD_TIMEOUT / 2);
            drive!(builder.serve_connection(io, service))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended badly");
    }
}
