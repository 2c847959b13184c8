//! HTTP out of a sandbox, request by request: each is read whole as far as its head, judged, and written anew to the
//! server. What is not judged is never a request there, since only what was read as one is written as one.
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sandbar_core::egress::{App, CredentialRule, Verdict, mcp};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Sources;
use super::credentials::{CredentialError, Secret};
use super::flow::{Allowed, Asked, Evidence, Name, OpenRequest};
use super::proxy::Carrier;
use super::refuse;
use super::socket::{Meter, Socket, Stream, join};

mod authority;
mod body;
mod refusal;
mod upstream;

pub(super) use authority::Host;
pub(super) use refusal::Refusal;
pub(super) use upstream::{Link, Upstream};

/// Of a request's or an answer's head.
pub(super) const HEAD_BYTES_MAX: usize = 128 << 10;
pub(super) const HEADERS_MAX: usize = 256;
/// Requests that one connection of HTTP/2 may have open.
pub(super) const STREAMS_MAX: u32 = 128;
/// What may be under way to or from one stream and one connection of HTTP/2, unread.
pub(super) const STREAM_WINDOW_BYTES: u32 = 1 << 20;
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;

/// What a body may fail with.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// HTTP in the clear. `early` is a connection to the server that was made before the client spoke.
pub(super) async fn serve_plain(carrier: Arc<Carrier>, meter: Meter, first_bytes: Bytes, early: Option<Arc<TcpStream>>) -> io::Result<()> {
    let version = if refuse::is_http2(&first_bytes) { Version::HTTP_2 } else { Version::HTTP_11 };
    let inside = Socket::inside(Arc::clone(carrier.inside()), first_bytes);
    let tasks = Tasks { tracker: carrier.attached.tasks.clone(), cut: carrier.open.cut.clone() };
    let early = early.map(|socket| Box::new(Socket::outside(socket, meter.clone())) as Box<dyn Stream>);
    let upstream = Upstream::new(Link::Plain(meter), version, tasks, early);
    serve(Arc::new(Session { carrier, secure: None, upstream, tunnel: Mutex::default() }), inside, version).await
}

/// Serves a client until it is done.
pub(super) async fn serve(session: Arc<Session>, inside: impl Stream + 'static, version: Version) -> io::Result<()> {
    let shared = Arc::clone(&session);
    let service = service_fn(move |request| {
        let session = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(session.answer(request).await) }
    });
    let io = TokioIo::new(inside);
    if version == Version::HTTP_2 {
        let mut builder = http2::Builder::new(session.upstream.tasks().clone());
        builder
            .auto_date_header(false)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        return builder.serve_connection(io, service).await.map_err(io::Error::other);
    }
    let mut builder = http1::Builder::new();
    builder.auto_date_header(false).preserve_header_case(true).half_close(true).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    builder.serve_connection(io, service).with_upgrades().await.map_err(io::Error::other)?;
    let tunnel = super::lock(&session.tunnel).take();
    match tunnel {
        Some(tunnel) => tunnel.run().await,
        None => Ok(()),
    }
}

/// A client's connection.
pub(super) struct Session {
    pub carrier: Arc<Carrier>,
    /// Whom the client meant by its TLS, if it came in one.
    pub secure: Option<Host>,
    pub upstream: Upstream,
    /// After an upgrade.
    pub tunnel: Mutex<Option<Tunnel>>,
}

/// Both sides of an upgrade, and the request that asked for it.
pub(super) struct Tunnel {
    client: OnUpgrade,
    server: OnUpgrade,
    _open: OpenRequest,
}

impl Tunnel {
    async fn run(self) -> io::Result<()> {
        let (client, server) = tokio::try_join!(self.client, self.server).map_err(io::Error::other)?;
        join(TokioIo::new(client), TokioIo::new(server)).await
    }
}

impl Session {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.exchange(request).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        }
    }

    async fn exchange(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let asked = self.ask(&request).await?;
        let evidence = asked.evidence.clone();
        let open = self.carrier.open.ask(&self.carrier.inner, asked);
        let (allowed, open) = open.map_err(|verdict| self.refused(&evidence, verdict))?;
        let upgrade = take_upgrade(&mut request);
        let (parts, body) = request.into_parts();
        let mut request = Request::from_parts(parts, body.map_err(BoxError::from).boxed_unsync());
        self.prepare(&mut request, &evidence, allowed).await?;
        let response = self.upstream.send(&self.carrier, request).await?;
        self.pass_back(response, upgrade, open)
    }

    /// What the request is judged by.
    async fn ask(&self, request: &Request<Incoming>) -> Result<Asked, Refusal> {
        if *request.method() == Method::CONNECT {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not carried where requests are looked into"));
        }
        let host = Host::of(request)?;
        if let Some(server) = &self.secure
            && host != *server
        {
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "the request is for another server than the TLS connection"));
        }
        let app = Some(if self.secure.is_some() { App::Tls } else { App::Http });
        let (flow, names) = (self.carrier.evidence.flow, self.carrier.names());
        let asked = |name| Asked {
            evidence: Evidence { flow, names: names.clone(), said: Some((app, name)) },
            tls: self.secure.is_some(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        };
        let name = match host {
            Host::Absent => return Ok(asked(Name::Absent)),
            Host::Unreadable => return Ok(asked(Name::Hidden)),
            Host::Name(name) => name,
        };
        let [with_it, without] = [true, false].map(|belongs| asked(Name::Said { name: name.clone(), belongs }));
        let (attached, inner) = (&self.carrier.attached, &self.carrier.inner);
        let matters = || attached.is_request_judged_differently(inner, &with_it, &without);
        let belongs = attached.claims(inner, &name, flow.addr, matters).await;
        Ok(if belongs { with_it } else { without })
    }

    /// Judges what a request asks for in its body, and puts a secret into it.
    async fn prepare(&self, request: &mut Request<Body>, evidence: &Evidence, allowed: Allowed) -> Result<(), Refusal> {
        let Allowed { verdict, credential, sources, mcp } = allowed;
        let secret = match &credential {
            Some(rule) => self.secret(rule, &sources, evidence)?,
            None => None,
        };
        let has_body = !request.body().is_end_stream();
        if has_body && (!mcp.is_empty() || secret.as_ref().is_some_and(Secret::wants_body)) {
            let mut bytes = body::collect(request, mcp::BODY_BYTES_MAX).await?;
            if let Some(mcp::Refused { verdict, reply }) = mcp::judge(&mcp.iter().collect::<Vec<_>>(), &bytes) {
                let refusal = self.refused(evidence, verdict);
                return Err(reply.map_or(refusal, |reply| Refusal::json(StatusCode::OK, reply.to_string())));
            }
            if let Some(replaced) = secret.as_ref().and_then(|secret| secret.put_into_body(&bytes)) {
                bytes = replaced.into();
            }
            body::set(request, bytes);
        }
        let (Some(rule), Some(secret)) = (credential, secret) else { return Ok(()) };
        let mut uri = request.uri().clone();
        if let Err(error) = secret.put(&mut uri, request.headers_mut()) {
            // Part of it may be in the request by now, so it cannot go on.
            return Err(self.refused(evidence, Verdict::deny(format!("{} ({error})", rule.label))));
        }
        *request.uri_mut() = uri;
        let rule = format!("{} (with the credential of {})", verdict.rule, rule.label);
        self.carrier.attached.record_flow(evidence, Verdict { allow: true, rule: rule.into() });
        Ok(())
    }

    /// None when it cannot be made and the request may go without.
    fn secret(&self, rule: &CredentialRule, sources: &Sources, evidence: &Evidence) -> Result<Option<Secret>, Refusal> {
        let materials = sources.materials();
        let material = materials.get(&rule.binding.source);
        match Secret::make(&rule.binding.projection, material.map(|material| &**material)) {
            Ok(secret) => Ok(Some(secret)),
            Err(_) if rule.fail_open => Ok(None),
            Err(error) => {
                let error = if sources.is_closed(&rule.binding.source) { CredentialError::Closed } else { error };
                Err(self.refused(evidence, Verdict::deny(format!("{} ({error})", rule.label))))
            }
        }
    }

    fn refused(&self, evidence: &Evidence, verdict: Verdict) -> Refusal {
        let text = refuse::text(&verdict);
        self.carrier.attached.record_flow(evidence, verdict);
        Refusal::new(StatusCode::FORBIDDEN, text)
    }

    /// The server's answer, as the client's.
    fn pass_back(&self, mut response: Response<Incoming>, upgrade: Option<OnUpgrade>, open: OpenRequest) -> Result<Response<Body>, Refusal> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response.map(|body| Answer { body, _open: open }.boxed_unsync()));
        }
        let Some(client) = upgrade else {
            return Err(Refusal::new(StatusCode::BAD_GATEWAY, "the server changed the protocol without being asked to"));
        };
        let server = hyper::upgrade::on(&mut response);
        *super::lock(&self.tunnel) = Some(Tunnel { client, server, _open: open });
        Ok(response.map(|_| refusal::empty()))
    }
}

/// The client's side of an upgrade that it asks for. An upgrade to HTTP in another form is not asked for: its requests
/// would go by unseen, and a server that is not asked answers as it is.
fn take_upgrade(request: &mut Request<Incoming>) -> Option<OnUpgrade> {
    let wanted = request.headers().get(UPGRADE)?.as_bytes().to_ascii_lowercase();
    let is_http = |token: &[u8]| [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|http| token.trim_ascii().starts_with(http));
    if request.version() == Version::HTTP_11 && !wanted.split(|byte| *byte == b',').any(is_http) {
        return Some(hyper::upgrade::on(request));
    }
    let headers = request.headers_mut();
    for name in ["upgrade", "http2-settings"] {
        headers.remove(name);
    }
    let closes = headers.get_all(CONNECTION).iter().any(|value| value.as_bytes().to_ascii_lowercase().windows(5).any(|part| part == b"close"));
    headers.remove(CONNECTION);
    if closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    None
}

/// The body of an answer; until its end the request counts as open.
struct Answer {
    body: Incoming,
    _open: OpenRequest,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx).map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where the tasks of a connection run: they end with it.
#[derive(Clone)]
pub(super) struct Tasks {
    pub tracker: TaskTracker,
    pub cut: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        let cut = self.cut.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                _ = work => {}
            }
        });
    }
}
