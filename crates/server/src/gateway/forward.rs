//! A request on its way to a server inside, and the answer on its way back. Both are passed on as they come; what is not
//! read here is not read there either.

use std::{
    any::Any,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::Request,
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::{
    body::{Body as HttpBody, Frame, SizeHint},
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use sandbar_api::ErrorCode;
use sandbar_core::{
    preview::PreviewRecord,
    service::{Route, RuntimeKind, Service},
};
use sandbar_node::{
    Runtime,
    connections::{KeptBody, SendError, Unsent},
};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Gateway, admit::Headers, headers, loopback, preview};
use crate::error::ApiError;

/// Where a request goes.
pub(super) struct Target<'a> {
    pub runtime: &'a Arc<Runtime>,
    pub service: &'a Service,
    pub route: &'a Route,
    /// By which it is reached.
    pub preview: Option<&'a Arc<PreviewRecord>>,
    /// A public port of an app.
    pub is_apps: bool,
}

/// How the answer is dressed, and what lasts as long as it does.
pub(super) struct Dress {
    /// As the caller named it.
    pub host: String,
    /// Put on it.
    pub headers: Headers,
    /// When the route's timeout has passed.
    pub deadline: Option<Instant>,
    /// Dropped when the last byte is sent.
    pub lease: Option<Box<dyn Any + Send + Sync>>,
    /// All of it, and what it becomes beyond an answer (a WebSocket), ends when this resolves.
    pub until: Option<BoxFuture<'static, ()>>,
}

/// Why there is no answer.
pub(super) enum Trouble {
    /// Nobody was asked: nothing listens, or the runtime has ended. The request is whole.
    Unasked(Box<Request>),
    /// The connection broke before an answer came. The request changes nothing and may be sent once more.
    Broke(Box<Request>),
    /// Its processes were stopped meanwhile. The request is there when it can be asked again.
    Paused(Option<Box<Request>>),
    /// Said to the caller.
    Said(ApiError),
}

/// A request that can be sent, and sent again when it has no body and changes nothing.
pub(super) struct Outgoing {
    request: Request,
    upgrade: Option<OnUpgrade>,
}

impl Outgoing {
    /// Turns a request that was let in into ours. `path` is what the service is asked for.
    pub fn new(mut request: Request, path: &str, host: &str, client: super::Client, credential: Option<&str>) -> Result<Self, ApiError> {
        let query = request.uri().query().map_or_else(String::new, |query| format!("?{query}"));
        let uri = Uri::try_from(format!("{path}{query}")).map_err(|_| ApiError::bad_request("the path is no valid one"))?;
        *request.uri_mut() = uri;
        headers::request(request.headers_mut(), host, client, credential);
        let wants = request.headers().contains_key(header::UPGRADE);
        let upgrade = wants.then(|| hyper::upgrade::on(&mut request));
        *request.version_mut() = axum::http::Version::HTTP_11;
        Ok(Self { request, upgrade })
    }

    /// The same through a preview.
    pub fn by_preview(mut self, preview: &PreviewRecord, host: &str) -> Self {
        preview::request(self.request.headers_mut(), preview, host);
        self
    }

    /// For those who answer it themselves.
    pub fn into_request(mut self) -> Request {
        if let Some(upgrade) = self.upgrade {
            self.request.extensions_mut().insert(upgrade);
        }
        self.request
    }

    /// After it came back.
    pub fn with_request(request: Request, upgrade: Option<OnUpgrade>) -> Self {
        Self { request, upgrade }
    }

    /// Sends it to a server inside. Gives it back when nobody was asked.
    pub async fn send(self, gateway: &Gateway, target: &Target<'_>, dress: &mut Option<Dress>) -> Result<Response, (Trouble, Option<OnUpgrade>)> {
        let Self { request, upgrade } = self;
        let again = copy(&request);
        let port = target.service.port;
        let tls = preview::is_tls(target.preview);
        let connections = gateway.upstreams.to(target.runtime, port, tls);
        let deadline = dress.as_ref().and_then(|dress| dress.deadline);
        let sending = async {
            if tls {
                connections.send(request, loopback::connect(target.runtime, port)).await
            } else {
                connections.send(request, target.runtime.connect(port)).await
            }
        };
        let sent = tokio::select! {
            sent = sending => sent,
            () = over(dress.as_mut().and_then(|dress| dress.until.as_mut())) => return Err((Trouble::Said(ended()), upgrade)),
            () = target.runtime.frozen() => {
                return Err((Trouble::Paused(again.map(Box::new)), upgrade));
            }
            () = passed(deadline) => return Err((Trouble::Said(late(target.route)), upgrade)),
        };
        let response = match sent {
            Ok(response) => response,
            Err(SendError::Connect { source, request: Unsent(request) }) => {
                tracing::debug!(error = %source, "nothing listens in a sandbox");
                return Err((Trouble::Unasked(request), upgrade));
            }
            Err(SendError::Broken(error)) => {
                tracing::debug!(%error, "a service broke off");
                let trouble = match again {
                    Some(request) => Trouble::Broke(Box::new(request)),
                    None if error.is_user() || error.is_body_write_aborted() => Trouble::Said(ApiError::bad_request("the body of the request broke off")),
                    None => Trouble::Said(broken()),
                };
                return Err((trouble, upgrade));
            }
        };
        let Some(dress) = dress.take() else { return Err((Trouble::Said(ApiError::internal("answering", &"an answer was sent twice")), upgrade)) };
        Ok(answer(gateway, response, upgrade, target, dress))
    }
}

/// The error where nothing listens.
pub(super) fn nobody(service: &Service) -> ApiError {
    let hint = match service.kind() {
        RuntimeKind::Manual => "; it has to be started in the sandbox",
        RuntimeKind::Cmd { .. } | RuntimeKind::WarmProcess { .. } | RuntimeKind::Function { .. } => "",
    };
    ApiError::with_status(502, ErrorCode::Unavailable, format!("nothing listens on port {} of the sandbox{hint}", service.port)).retry_after(1)
}

/// The error where the processes were stopped.
pub(super) fn paused() -> ApiError {
    ApiError::unavailable("the sandbox was paused during the request").retry_after(1)
}

fn late(route: &Route) -> ApiError {
    ApiError::with_status(504, ErrorCode::Unavailable, format!("the service did not answer within the route's {} s", route.timeout_seconds))
}

/// The error where what a request came by is not good any more.
fn ended() -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, "the preview expired or was revoked during the request; make a new one")
}

/// The error where a service ends the connection instead of answering.
pub(super) fn broken() -> ApiError {
    ApiError::with_status(502, ErrorCode::Unavailable, "the service broke off before it answered").retry_after(1)
}

/// A request of which a second one can be made: it has no body and asks only.
fn copy(request: &Request) -> Option<Request> {
    let asks = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !asks || !request.body().is_end_stream() || request.headers().contains_key(header::UPGRADE) {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn answer(gateway: &Gateway, response: Response<KeptBody<Body>>, client: Option<OnUpgrade>, target: &Target<'_>, dress: Dress) -> Response {
    let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let (mut parts, body) = response.into_parts();
    headers::response(&mut parts.headers, &dress.host, is_upgrade, target.route);
    if let Some(preview) = target.preview {
        preview::response(&mut parts.headers, preview);
    }
    if target.is_apps {
        headers::public_location(&mut parts.headers, target.service.port);
    }
    let response = if is_upgrade {
        let Some(client) = client else {
            return ApiError::with_status(502, ErrorCode::Unavailable, "the service changed the protocol without being asked to").into_response();
        };
        let Some(place) = gateway.tunnel_places.take(Some(target.runtime.id.clone())) else {
            return ApiError::unavailable("too many connections are open here").retry_after(1).into_response();
        };
        let service = hyper::upgrade::on(Response::from_parts(parts.clone(), body.into_incoming()));
        let (stop, lease, deadline, mut until) = (gateway.stop.clone(), dress.lease, dress.deadline, dress.until);
        let runtime = Arc::clone(target.runtime);
        gateway.tunnels.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = passed(deadline) => {}
                () = over(until.as_mut()) => {}
                // Otherwise both sides would wait for a sandbox that stands still.
                () = runtime.frozen() => {}
                done = tunnel(client, service) => if let Err(error) = done {
                    tracing::debug!(%error, "a tunnel broke off");
                },
            }
            drop((lease, place));
        });
        Response::from_parts(parts, Body::empty())
    } else {
        let deadline = dress.deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        let (runtime, mut until) = (Arc::clone(target.runtime), dress.until);
        let until = async move {
            tokio::select! {
                () = over(until.as_mut()) => io::ErrorKind::PermissionDenied,
                () = runtime.frozen() => io::ErrorKind::ConnectionAborted,
            }
        };
        Response::from_parts(parts, Body::new(Answer { body, deadline, until: Some(Box::pin(until)), _lease: dress.lease }))
    };
    super::admit::with(response, &dress.headers)
}

async fn over(until: Option<&mut BoxFuture<'static, ()>>) {
    match until {
        Some(until) => until.await,
        None => std::future::pending().await,
    }
}

async fn tunnel(client: OnUpgrade, service: OnUpgrade) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (client, service): (Upgraded, Upgraded) = tokio::try_join!(client, service)?;
    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(service)).await?;
    Ok(())
}

/// The body of a service's answer.
struct Answer {
    body: KeptBody<Body>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Why it is cut before its end.
    until: Option<BoxFuture<'static, io::ErrorKind>>,
    _lease: Option<Box<dyn Any + Send + Sync>>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())));
        }
        if let Some(until) = &mut self.until
            && let Poll::Ready(why) = until.as_mut().poll(cx)
        {
            // It must not be polled again.
            self.until = None;
            return Poll::Ready(Some(Err(io::Error::from(why).into())));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
