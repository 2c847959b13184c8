//! What every request goes through: an id, a span, a line in the log, a count, and a net below panics.

use std::{panic::AssertUnwindSafe, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use sandbar_api::ErrorCode;
use tracing::Instrument;

use crate::{app::SharedApp, error::ApiError};

/// Where the id of a request stands, both ways.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An id of the client's is kept when it has at most this many visible ASCII characters.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// The middleware around all routes.
pub async fn observe(State(app): State<SharedApp>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = client_id(&request).unwrap_or_else(new_id);
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = method_name(request.method());
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), method, route);
    let in_flight = InFlight::new(&app);
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let answer = match answer {
        Ok(response) if is_bare_refusal(&response) => Ok(enveloped(response).await),
        other => other,
    };
    drop(in_flight);
    let _entered = span.entered();
    let mut response = answer.unwrap_or_else(|panic| ApiError::internal("answering the request", &panic_text(panic.as_ref())).into_response());
    let (status, took) = (response.status().as_u16(), began.elapsed());
    app.metrics.answered(method, &route, status, took);
    tracing::info!(status, latency_ms = took.as_micros() as f64 / 1e3, "answered");
    response.headers_mut().insert(REQUEST_ID.clone(), id);
    response
}

/// Counts down even when the client goes away and the future is dropped.
struct InFlight<'a>(&'a SharedApp);

impl<'a> InFlight<'a> {
    fn new(app: &'a SharedApp) -> Self {
        app.metrics.in_flight.inc();
        Self(app)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.in_flight.dec();
    }
}

/// The framework refuses some requests itself (a path that is no UTF-8, mostly), in plain text.
fn is_bare_refusal(response: &Response) -> bool {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    (status.is_client_error() || status.is_server_error()) && !kind.starts_with("application/json")
}

async fn enveloped(response: Response) -> Response {
    const TEXT_BYTES_MAX: usize = 4 << 10;
    let status = response.status();
    let text = axum::body::to_bytes(response.into_body(), TEXT_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let text = if text.trim().is_empty() { status.canonical_reason().unwrap_or("the request was refused") } else { text.trim() };
    let code = match status.as_u16() {
        401 => ErrorCode::Unauthorized,
        403 => ErrorCode::Forbidden,
        404 => ErrorCode::NotFound,
        405 => ErrorCode::MethodNotAllowed,
        408 => ErrorCode::RequestTimeout,
        413 => ErrorCode::PayloadTooLarge,
        400..=499 => ErrorCode::BadRequest,
        _ => ErrorCode::InternalError,
    };
    ApiError::new(code, text).into_response()
}

fn client_id(request: &Request) -> Option<HeaderValue> {
    let id = request.headers().get(&REQUEST_ID)?;
    let fits = !id.is_empty() && id.len() <= REQUEST_ID_CHARS_MAX && id.as_bytes().iter().all(u8::is_ascii_graphic);
    fits.then(|| id.clone())
}

fn new_id() -> HeaderValue {
    let id = uuid::Uuid::new_v4().simple().to_string();
    HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("-"))
}

/// A bounded set of names, since each becomes a label.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".to_owned())
}
