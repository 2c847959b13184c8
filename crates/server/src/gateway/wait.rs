//! What is shown while a sandbox wakes for longer than people like to stare at nothing.

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{Html, IntoResponse, Response},
};

/// After this time the caller is told to come again.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Whether it is a person's browser that wants to show a page.
pub(super) fn is_browser(parts: &Parts) -> bool {
    let header = |headers: &HeaderMap, name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mode = header(&parts.headers, "sec-fetch-mode");
    parts.method == Method::GET
        && mode.is_none_or(|mode| mode == "navigate")
        && header(&parts.headers, "accept").is_some_and(|accept| accept.contains("text/html"))
}

/// A page that asks again by itself.
pub(super) fn page() -> Response {
    const PAGE: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"1\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>Starting</title>\
<style>body{font:16px system-ui,sans-serif;display:grid;place-items:center;min-height:100vh;margin:0;color:#333;background:#fafafa}</style>\
</head><body><p>Starting. This page reloads by itself.</p></body></html>";
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, Html(PAGE)).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
