//! HTTP out of a sandbox, request by request: each is read whole as far as its head, judged, and written anew to the
//! server. What is not judged is never a request there, since only what was read as one is written as one.
use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sandbar_core::egress::{App, CredentialRule, Verdict, mcp};
use tokio::io::Interest;
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
mod held;
mod refusal;
mod upstream;

pub(super) use authority::Host;
#[cfg(test)]
pub(super) use held::HELD_BYTES_MAX;
pub(super) use held::Held;
pub(super) use refusal::Refusal;
pub(super) use upstream::{Link, Upstream};

/// Of a request's or an answer's head.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
pub(super) const HEADERS_MAX: usize = 256;
/// Requests that one connection of HTTP/2 may have open.
pub(super) const STREAMS_MAX: u32 = 32;
/// What of a connection of HTTP/2 may be here unread: of a server that is far away, and of the client, which is near.
pub(super) const SERVER_WINDOW_BYTES: u32 = 1 << 20;
const CLIENT_WINDOW_BYTES: u32 = 256 << 10;
/// What of a stream of HTTP/2 may be here unsent.
pub(super) const SEND_BUFFER_BYTES: usize = 32 << 10;
/// How long a client of HTTP/1 that has said all it wants to say may wait for its answers. Some are gone, and nothing tells.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(60);

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
    serve(Arc::new(Session::new(carrier, None, upstream)), inside, version).await
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
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .initial_stream_window_size(CLIENT_WINDOW_BYTES)
            .initial_connection_window_size(CLIENT_WINDOW_BYTES);
        return builder.serve_connection(io, service).await.map_err(io::Error::other);
    }
    let mut builder = http1::Builder::new();
    builder.auto_date_header(false).preserve_header_case(true).half_close(true).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    tokio::select! {
        served = builder.serve_connection(io, service).with_upgrades() => served.map_err(io::Error::other)?,
        () = is_gone(session.carrier.inside()) => return Err(io::Error::other("the client left before its answer")),
    }
    let tunnel = super::lock(&session.tunnel).take();
    match tunnel {
        Some(tunnel) => tunnel.run().await,
        None => Ok(()),
    }
}

/// Returns when a client is not to be waited for any more. Its end alone does not say so: it may still read.
async fn is_gone(inside: &TcpStream) {
    // Of a socket that no urgent data is asked of, only the end of the other side is an event of this kind.
    inside.ready(Interest::PRIORITY).await.ok();
    tokio::time::timeout(LAST_ANSWERS_WITHIN, inside.ready(Interest::ERROR)).await.ok();
}

/// A client's connection.
pub(super) struct Session {
    carrier: Arc<Carrier>,
    /// Whom the client meant by its TLS, if it came in one.
    secure: Option<Host>,
    upstream: Upstream,
    /// After an upgrade.
    tunnel: Mutex<Option<Tunnel>>,
    /// The rules whose secrets were used. Each is told of once.
    used: Mutex<HashSet<Arc<str>>>,
}

/// Both sides of an upgrade, and the request that asked for it.
pub(super) struct Tunnel {
    client: OnUpgrade,
    server: OnUpgrade,
    _open: Arc<OpenRequest>,
}

impl Tunnel {
    async fn run(self) -> io::Result<()> {
        let (client, server) = tokio::try_join!(self.client, self.server).map_err(io::Error::other)?;
        join(TokioIo::new(client), TokioIo::new(server)).await
    }
}

impl Session {
    pub fn new(carrier: Arc<Carrier>, secure: Option<Host>, upstream: Upstream) -> Self {
        Self { carrier, secure, upstream, tunnel: Mutex::default(), used: Mutex::default() }
    }

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
        let open = Arc::new(open);
        let upgrade = Upgrade::take(&mut request);
        if let (Some(rule), Some(_)) = (allowed.mcp.first(), &upgrade) {
            return Err(self.refused(&evidence, Verdict::deny(format!("{} (an upgrade is not looked into)", rule.label))));
        }
        let mut request = request.map(|body| Half { body, _open: Arc::clone(&open) }.boxed_unsync());
        self.prepare(&mut request, &evidence, allowed).await?;
        let response = self.upstream.send(&self.carrier, request).await?;
        self.pass_back(response, upgrade, open)
    }

    /// What the request is judged by.
    async fn ask(&self, request: &Request<Incoming>) -> Result<Asked, Refusal> {
        if *request.method() == Method::CONNECT {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not carried where requests are looked into"));
        }
        let room = self.carrier.attached.held.take_head(request)?;
        let host = Host::of(request)?;
        if let Some(server) = &self.secure
            && host != *server
        {
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "the request is for another server than the TLS connection"));
        }
        let app = Some(if self.secure.is_some() { App::Tls } else { App::Http });
        let (flow, names) = (self.carrier.evidence.flow, self.carrier.names());
        let evidence = |name| Evidence { flow, names: names.clone(), said: Some((app, name)) };
        let asked = |evidence| Asked {
            evidence,
            tls: self.secure.is_some(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            _room: room,
        };
        let name = match host {
            Host::Absent => return Ok(asked(evidence(Name::Absent))),
            Host::Unreadable => return Ok(asked(evidence(Name::Hidden))),
            Host::Name(name) => name,
        };
        let [with_it, without] = [true, false].map(|belongs| evidence(Name::Said { name: name.clone(), belongs }));
        let asked = asked(without);
        let (attached, inner) = (&self.carrier.attached, &self.carrier.inner);
        let matters = || attached.is_request_judged_differently(inner, &asked, &with_it, &asked.evidence);
        let belongs = attached.claims(inner, &name, flow.addr, matters).await;
        Ok(if belongs { Asked { evidence: with_it, ..asked } } else { asked })
    }

    /// Judges what a request asks for in its body, and puts a secret into it.
    async fn prepare(&self, request: &mut Request<Body>, evidence: &Evidence, allowed: Allowed) -> Result<(), Refusal> {
        let Allowed { verdict, credential, sources, mcp } = allowed;
        let secret = match &credential {
            Some(rule) => self.secret(rule, &sources, evidence)?,
            None => None,
        };
        if let (Some(rule), Some(_)) = (&credential, &secret)
            && request.method().as_str().eq_ignore_ascii_case("TRACE")
        {
            return Err(self.refused(evidence, Verdict::deny(format!("{} (TRACE would show its secret)", rule.label))));
        }
        let has_body = !request.body().is_end_stream();
        if has_body && (!mcp.is_empty() || secret.as_ref().is_some_and(Secret::wants_body)) {
            let held = &self.carrier.attached.held;
            let (mut bytes, mut room) = body::collect(request, mcp::BODY_BYTES_MAX, held).await?;
            if let Some(mcp::Refused { verdict, reply }) = mcp::judge(&mcp.iter().collect::<Vec<_>>(), &bytes) {
                let refusal = self.refused(evidence, verdict);
                return Err(reply.map_or(refusal, |reply| Refusal::json(StatusCode::OK, reply.to_string())));
            }
            if let Some(replaced) = secret.as_ref().and_then(|secret| secret.put_into_body(&bytes)) {
                room.merge(held.take(replaced.len().saturating_sub(bytes.len()))?);
                bytes = replaced.into();
            }
            body::set(request, bytes, room);
        }
        let (Some(rule), Some(secret)) = (credential, secret) else { return Ok(()) };
        let mut uri = request.uri().clone();
        if let Err(error) = secret.put(&mut uri, request.headers_mut()) {
            // Part of it may be in the request by now, so it cannot go on.
            return Err(self.refused(evidence, Verdict::deny(format!("{} ({error})", rule.label))));
        }
        *request.uri_mut() = uri;
        if super::lock(&self.used).insert(Arc::clone(&rule.label)) {
            let rule = format!("{} (with the credential of {})", verdict.rule, rule.label);
            self.carrier.attached.note_flow(evidence, Verdict { allow: true, rule: rule.into() });
        }
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
    fn pass_back(&self, mut response: Response<Incoming>, upgrade: Option<Upgrade>, open: Arc<OpenRequest>) -> Result<Response<Body>, Refusal> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response.map(|body| Half { body, _open: open }.boxed_unsync()));
        }
        let is_asked_for = |upgrade: &Upgrade| upgraded(response.headers()).is_some_and(|to| to.eq_ignore_ascii_case(upgrade.to.as_bytes()));
        let Some(Upgrade { client, .. }) = upgrade.filter(is_asked_for) else {
            return Err(Refusal::new(StatusCode::BAD_GATEWAY, "the server changed to a protocol that it was not asked for"));
        };
        let server = hyper::upgrade::on(&mut response);
        *super::lock(&self.tunnel) = Some(Tunnel { client, server, _open: open });
        Ok(response.map(|_| refusal::empty()))
    }
}

/// What a client wants to speak from here on, and its side of it.
struct Upgrade {
    to: HeaderValue,
    client: OnUpgrade,
}

impl Upgrade {
    /// An upgrade to HTTP in another form is not asked for: its requests would go by unseen, and a server that is not
    /// asked answers as it is. Nor is one of several, of which the server would choose.
    fn take(request: &mut Request<Incoming>) -> Option<Self> {
        if !request.headers().contains_key(UPGRADE) {
            return None;
        }
        let is_http = |token: &[u8]| [&b"http"[..], b"h2", b"h3", b"tls"].iter().any(|http| token.to_ascii_lowercase().starts_with(http));
        let to = upgraded(request.headers()).filter(|token| !is_http(token)).and_then(|token| HeaderValue::from_bytes(token).ok());
        if request.version() == Version::HTTP_11
            && let Some(to) = to
        {
            return Some(Self { to, client: hyper::upgrade::on(request) });
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
}

/// The one protocol that a head's `Upgrade` names.
fn upgraded(headers: &HeaderMap) -> Option<&[u8]> {
    let mut lines = headers.get_all(UPGRADE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let token = line.as_bytes().trim_ascii();
    let is_one = !token.is_empty() && token.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',');
    is_one.then_some(token)
}

/// The body of a request or of its answer; until the end of both the request counts as open.
struct Half {
    body: Incoming,
    _open: Arc<OpenRequest>,
}

impl HttpBody for Half {
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
