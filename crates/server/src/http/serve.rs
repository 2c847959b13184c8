//! Listening and answering until told to stop.

use std::{convert::Infallible, io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::gateway::{Front, Tls};

/// Connections at once, of all listeners; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 16_384;
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
/// Between two looks at the first bytes of a connection.
const PEEK_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Serves `front` on `listener` until `stop`, then lets requests in flight end for a few seconds.
pub(crate) async fn serve(listener: TcpListener, front: Front, tls: Option<Arc<Tls>>, stop: CancellationToken) {
    static PLACES: Semaphore = Semaphore::const_new(CONNECTIONS_MAX);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &PLACES) => accepted,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                let (front, tls, stop) = (front.clone(), tls.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, peer, front, tls, stop).await;
                    drop(place);
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

async fn accept<'a>(listener: &TcpListener, places: &'a Semaphore) -> io::Result<(TcpStream, IpAddr, SemaphorePermit<'a>)> {
    let place = places.acquire().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer.ip(), place))
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
        tokio::time::sleep(PEEK_PAUSE).await;
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
