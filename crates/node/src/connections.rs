//! HTTP/1.1 connections to one server: made on demand, kept while idle, bounded.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// What a body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Idle connections to one server. `B` is the body of requests.
pub struct Connections<B> {
    idle: Mutex<Vec<SendRequest<B>>>,
    idle_max: usize,
    /// What may be read ahead from the server. Bounds heads too.
    read_buffer_bytes_max: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError<B> {
    /// Nobody listens; the request was not sent and is given back.
    #[error("cannot connect")]
    Connect {
        #[source]
        source: io::Error,
        request: Unsent<B>,
    },
    /// The connection broke after the request was begun.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
}

/// A request that was not sent.
pub struct Unsent<B>(pub Box<Request<B>>);

impl<B> fmt::Debug for Unsent<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unsent")
    }
}

impl<B> Connections<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub fn new(idle_max: usize, read_buffer_bytes_max: usize) -> Self {
        Self { idle: Mutex::default(), idle_max, read_buffer_bytes_max }
    }

    /// Sends on an idle connection, or on one that `connect` makes. An idle connection that turns out to be closed is
    /// passed over only when nothing of the request was written to it.
    pub async fn send<S>(self: &Arc<Self>, mut request: Request<B>, connect: impl Future<Output = io::Result<S>>) -> Result<Response<KeptBody<B>>, SendError<B>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        while let Some(mut sender) = self.take_idle() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.keep(sender, response)),
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(SendError::Broken(refused.into_error())),
                },
            }
        }
        let stream = match connect.await {
            Ok(stream) => stream,
            Err(source) => return Err(SendError::Connect { source, request: Unsent(Box::new(request)) }),
        };
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(self.read_buffer_bytes_max).handshake(TokioIo::new(stream)).await.map_err(SendError::Broken)?;
        // Ends when the sender and the body in flight are dropped, or the server closes; its error reaches the call.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection into a sandbox ended");
            }
        });
        let response = sender.send_request(request).await.map_err(SendError::Broken)?;
        Ok(self.keep(sender, response))
    }

    fn keep(self: &Arc<Self>, sender: SendRequest<B>, response: Response<Incoming>) -> Response<KeptBody<B>> {
        response.map(|body| KeptBody { body, lease: Some((Arc::clone(self), sender)) })
    }
}

impl<B> Connections<B> {
    /// Closes what is idle.
    pub fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        idle.is_empty()
    }

    fn take_idle(&self) -> Option<SendRequest<B>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }

    fn put_idle(&self, sender: SendRequest<B>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.idle_max && !sender.is_closed() {
            idle.push(sender);
        }
    }
}

/// The body of a reply. Read to its end, its connection is used again; dropped before, the connection is closed.
pub struct KeptBody<B> {
    body: Incoming,
    lease: Option<(Arc<Connections<B>>, SendRequest<B>)>,
}

impl<B> KeptBody<B> {
    /// Gives back the plain body of an upgrade; the connection is the upgrade's from here on.
    pub fn into_incoming(mut self) -> Incoming {
        self.lease = None;
        self.body
    }
}

impl<B> Body for KeptBody<B> {
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
        if ended && let Some((connections, sender)) = self.lease.take() {
            connections.put_idle(sender);
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
