//! Where programs inside publish events of their own: a small server on the sandbox's loopback, which is there only while
//! the sandbox has somebody to tell.
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::rc::Rc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sandbar_procd_api::{PUBLISH_ID_BYTES_MAX, PUBLISH_PAYLOAD_BYTES_MAX, PUBLISH_PORT};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::agent::Agent;
use crate::events::Publish;
use crate::limits::{HEAD_BYTES_MAX, PUBLISH_AGAIN, PUBLISH_BURST, PUBLISH_CONNECTIONS_MAX, PUBLISH_PER_SECOND, PUBLISH_WITHIN};

const PATH: &str = "/api/v1/webhook/publish";
/// Of a body beside its payload.
const ENVELOPE_BYTES_MAX: usize = 16 << 10;

/// Whether and how fast programs may publish.
#[derive(Debug)]
pub struct Publisher {
    enabled: Cell<bool>,
    /// Somebody serves, or tries to.
    serving: Cell<bool>,
    rate: RefCell<(f64, Instant)>,
}

impl Default for Publisher {
    fn default() -> Self {
        Self { enabled: Cell::new(false), serving: Cell::new(false), rate: RefCell::new((PUBLISH_BURST, Instant::now())) }
    }
}

impl Publisher {
    fn may_pass(&self) -> bool {
        let mut rate = self.rate.borrow_mut();
        let now = Instant::now();
        let tokens = (rate.0 + now.duration_since(rate.1).as_secs_f64() * PUBLISH_PER_SECOND).min(PUBLISH_BURST);
        *rate = (if tokens >= 1.0 { tokens - 1.0 } else { tokens }, now);
        tokens >= 1.0
    }
}

/// Lets programs publish, or not. Once it serves it goes on, and says that nobody listens.
pub fn set(agent: &Rc<Agent>, enabled: bool) {
    agent.publisher.enabled.set(enabled);
    if !enabled || agent.publisher.serving.replace(true) {
        return;
    }
    // At once, so that a program that is started next finds it.
    let bound = bind();
    let agent = agent.clone();
    tokio::task::spawn_local(async move {
        let mut bound = bound;
        loop {
            match bound {
                Some(listener) => return serve(&agent, listener).await,
                // A program of the sandbox has the port.
                None if agent.publisher.enabled.get() => tokio::time::sleep(PUBLISH_AGAIN).await,
                None => {
                    agent.publisher.serving.set(false);
                    return;
                }
            }
            bound = bind();
        }
    });
}

fn bind() -> Option<TcpListener> {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, PUBLISH_PORT)).ok()?;
    listener.set_nonblocking(true).ok()?;
    TcpListener::from_std(listener).ok()
}

async fn serve(agent: &Rc<Agent>, listener: TcpListener) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(PUBLISH_CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        let agent = agent.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let agent = agent.clone();
                async move { Ok::<_, Infallible>(answer(&agent, request).await) }
            });
            let connection = http1::Builder::new().keep_alive(false).max_buf_size(HEAD_BYTES_MAX).serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(PUBLISH_WITHIN, connection).await;
            drop(place);
        });
    }
}

/// What a program sends.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    event_id: Option<String>,
    #[serde(default)]
    payload: Option<Value>,
}

async fn answer(agent: &Agent, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return refused(StatusCode::NOT_FOUND, "not_found", &format!("events are published by POST {PATH}"));
    }
    if request.method() != Method::POST {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "forbidden", "events are published by POST");
    }
    let body = match read(request).await {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    let event = match serde_json::from_slice::<Event>(&body) {
        Ok(event) => event,
        Err(error) => return refused(StatusCode::BAD_REQUEST, "invalid_request", &format!("the body is no JSON object with a payload: {error}")),
    };
    let payload = event.payload.unwrap_or_else(|| json!({}));
    let bytes = payload.to_string().len();
    if bytes > PUBLISH_PAYLOAD_BYTES_MAX {
        return too_large();
    }
    let event_id = match event.event_id.filter(|id| !id.is_empty()) {
        None => random_id(),
        Some(id) if id.len() <= PUBLISH_ID_BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic()) && !id.starts_with("evt_sandbox_deleted_") => id,
        Some(_) => {
            let text = format!("event_id must be at most {PUBLISH_ID_BYTES_MAX} visible ASCII characters, and not begin with evt_sandbox_deleted_");
            return refused(StatusCode::BAD_REQUEST, "invalid_request", &text);
        }
    };
    // Only now: while a body came it may have been told that nobody takes any more.
    if !agent.publisher.enabled.get() {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "webhook_unavailable", "the sandbox has no webhook, or is about to stop");
    }
    if !agent.publisher.may_pass() {
        return refused(StatusCode::TOO_MANY_REQUESTS, "webhook_enqueue_failed", &format!("more than {PUBLISH_PER_SECOND} events a second; try again"));
    }
    match agent.events.publish(&event_id, payload, bytes) {
        // Clients read it plainly or in the envelope of the API.
        Publish::Queued => reply(StatusCode::ACCEPTED, &json!({ "success": true, "event_id": event_id, "data": { "event_id": event_id } })),
        Publish::Full => refused(StatusCode::SERVICE_UNAVAILABLE, "webhook_enqueue_failed", "too many events wait to be taken; try again"),
    }
}

async fn read(request: Request<Incoming>) -> Result<Bytes, Box<Response<Full<Bytes>>>> {
    let mut incoming = request.into_body();
    let mut all = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let broken = |error| Box::new(refused(StatusCode::BAD_REQUEST, "invalid_request", &format!("the body broke off: {error}")));
        let frame = frame.map_err(broken)?;
        let Some(data) = frame.data_ref() else { continue };
        if all.len() + data.len() > PUBLISH_PAYLOAD_BYTES_MAX + ENVELOPE_BYTES_MAX {
            return Err(Box::new(too_large()));
        }
        all.extend_from_slice(data);
    }
    Ok(all.freeze())
}

fn too_large() -> Response<Full<Bytes>> {
    refused(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", &format!("the payload is larger than {PUBLISH_PAYLOAD_BYTES_MAX} bytes"))
}

fn refused(status: StatusCode, code: &str, message: &str) -> Response<Full<Bytes>> {
    let mut response = reply(status, &json!({ "success": false, "error": { "code": code, "message": message } }));
    if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `evt_` and a random UUID.
fn random_id() -> String {
    let mut bytes = [0_u8; 16];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("evt_{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
