//! Listening and answering until told to stop.

use std::{io, pin::pin, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections at once; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Within this time a client must have sent the head of a request, and the next one on a kept connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Requests in flight may end within this time after the stop; streams are cut then.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept (no file descriptors left, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` on `listener` until `stop`, then lets requests in flight end for a few seconds.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    static PLACES: Semaphore = Semaphore::const_new(CONNECTIONS_MAX);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &PLACES) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                connections.spawn(answer(stream, place, router.clone(), stop.clone()));
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

async fn accept<'a>(listener: &TcpListener, places: &'a Semaphore) -> io::Result<(TcpStream, SemaphorePermit<'a>)> {
    let place = places.acquire().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

/// Answers the requests of one connection. A WebSocket leaves it and lives on by itself.
async fn answer(stream: TcpStream, place: SemaphorePermit<'static>, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = pin!(connection);
    let result = tokio::select! {
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
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended badly");
    }
    drop(place);
}
