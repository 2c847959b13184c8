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
    page_saying(StatusCode::SERVICE_UNAVAILABLE, "Starting", "Starting.", Some(1))
}

/// A page with a sentence, which may be anybody's. With seconds it asks again by itself.
pub(super) fn page_saying(status: StatusCode, title: &str, text: &str, again_s: Option<u32>) -> Response {
    let mut response = (status, Html(html(title, text, again_s))).into_response();
    if let Some(seconds) = again_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn html(title: &str, text: &str, again_s: Option<u32>) -> String {
    let (title, text) = (escaped(title), escaped(text));
    let refresh = again_s.map_or_else(String::new, |seconds| format!("<meta http-equiv=\"refresh\" content=\"{seconds}\">"));
    let again = if again_s.is_some() { " This page reloads by itself." } else { "" };
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">{refresh}\
<meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
<style>body{{font:16px system-ui,sans-serif;display:grid;place-items:center;min-height:100vh;margin:0;color:#333;background:#fafafa}}\
p{{max-width:40em;padding:1em;white-space:pre-wrap}}</style>\
</head><body><p>{text}{again}</p></body></html>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
