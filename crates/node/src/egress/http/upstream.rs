//! The connection to the server of a client's requests: one at a time, made when there is something to ask.
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;

use super::refusal::Refusal;
use super::{Body, HEAD_BYTES_MAX, HEADERS_MAX, SEND_BUFFER_BYTES, SERVER_WINDOW_BYTES, STREAMS_MAX, Tasks};
use crate::egress::proxy::Carrier;
use crate::egress::socket::{Meter, Socket, Stream};
use crate::egress::terminate::{HTTP_2, Outer};

/// How the server is reached.
pub(in super::super) enum Link {
    Plain(Meter),
    Tls(Outer),
    /// It cannot be, for this reason.
    Refused(Refusal),
}

pub(in super::super) struct Upstream {
    link: Link,
    version: Version,
    tasks: Tasks,
    /// A connection that was made before.
    early: std::sync::Mutex<Option<Box<dyn Stream>>>,
    sender: Mutex<Option<Sender>>,
}

enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

impl Sender {
    async fn is_usable(&mut self) -> bool {
        match self {
            Self::One(one) => one.ready().await.is_ok(),
            Self::Two(two) => two.ready().await.is_ok(),
        }
    }

    /// For requests beside the one that has it.
    fn shared(&self) -> Option<Self> {
        match self {
            Self::One(_) => None,
            Self::Two(two) => Some(Self::Two(two.clone())),
        }
    }
}

impl Upstream {
    pub fn new(link: Link, version: Version, tasks: Tasks, early: Option<Box<dyn Stream>>) -> Self {
        Self { link, version, tasks, early: std::sync::Mutex::new(early), sender: Mutex::default() }
    }

    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Sends a request. When a connection that was used before turns out to be closed and nothing of the request was
    /// written to it, it goes over a new one.
    pub async fn send(&self, carrier: &Carrier, mut request: Request<Body>) -> Result<Response<Incoming>, Refusal> {
        loop {
            let (mut sender, is_new) = self.sender(carrier).await?;
            let sent = match &mut sender {
                Sender::One(one) => one.try_send_request(request).await,
                Sender::Two(two) => two.try_send_request(request).await,
            };
            if let Sender::One(_) = sender {
                self.sender.lock().await.get_or_insert(sender);
            }
            match sent {
                Ok(response) => return Ok(response),
                Err(error) => request = unsent(error, is_new)?,
            }
        }
    }

    /// The one that is there, or a new one. Of HTTP/1 it is taken, for one request.
    async fn sender(&self, carrier: &Carrier) -> Result<(Sender, bool), Refusal> {
        // Held while connecting: who asks meanwhile waits for the same connection.
        let mut place = self.sender.lock().await;
        if let Some(mut sender) = place.take()
            && sender.is_usable().await
        {
            *place = sender.shared();
            return Ok((sender, false));
        }
        let early = crate::egress::lock(&self.early).take();
        let stream = match early {
            Some(stream) => stream,
            None => self.connect(carrier).await?,
        };
        let sender = self.shake_hands(stream).await.map_err(|_| broken())?;
        *place = sender.shared();
        Ok((sender, true))
    }

    async fn connect(&self, carrier: &Carrier) -> Result<Box<dyn Stream>, Refusal> {
        match &self.link {
            Link::Plain(meter) => {
                let socket = carrier.dial().await.map_err(|error| Refusal::unreached(&error))?;
                Ok(Box::new(Socket::outside(socket, meter.clone())))
            }
            Link::Tls(outer) => {
                let stream = outer.connect(carrier, None).await?;
                // The client goes on with what was chosen at first.
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
                if is_http2 != (self.version == Version::HTTP_2) {
                    return Err(Refusal::new(StatusCode::BAD_GATEWAY, "the server speaks another version of HTTP than before"));
                }
                Ok(Box::new(stream))
            }
            Link::Refused(refusal) => Err(refusal.clone()),
        }
    }

    async fn shake_hands(&self, stream: Box<dyn Stream>) -> hyper::Result<Sender> {
        let io = TokioIo::new(stream);
        if self.version == Version::HTTP_2 {
            let mut builder = http2::Builder::new(self.tasks.clone());
            builder
                .max_concurrent_streams(STREAMS_MAX)
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .max_send_buf_size(SEND_BUFFER_BYTES)
                .initial_stream_window_size(SERVER_WINDOW_BYTES)
                .initial_connection_window_size(SERVER_WINDOW_BYTES);
            let (sender, connection) = builder.handshake(io).await?;
            hyper::rt::Executor::execute(&self.tasks, connection);
            return Ok(Sender::Two(sender));
        }
        let mut builder = http1::Builder::new();
        builder.preserve_header_case(true).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        let (sender, connection) = builder.handshake(io).await?;
        hyper::rt::Executor::execute(&self.tasks, connection.with_upgrades());
        Ok(Sender::One(sender))
    }
}

/// The request again, to be sent once more.
fn unsent(mut error: TrySendError<Request<Body>>, is_new: bool) -> Result<Request<Body>, Refusal> {
    match error.take_message() {
        Some(request) if !is_new => Ok(request),
        Some(_) | None if error.error().is_user() || error.error().is_body_write_aborted() => {
            Err(Refusal::new(StatusCode::BAD_REQUEST, "the body of the request broke off"))
        }
        Some(_) | None => Err(broken()),
    }
}

fn broken() -> Refusal {
    Refusal::new(StatusCode::BAD_GATEWAY, "the server broke off before it answered")
}
