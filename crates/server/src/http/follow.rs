//! Answers that go on: server-sent events, and the question, asked now and then, whether whoever reads them may still.

use std::time::Duration;

use axum::{
    Extension,
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use sandbar_core::roles::Permission;
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use super::standing::Farewell;
use crate::{
    app::{App, SharedApp, auth::Principal},
    error::ApiError,
};

/// Whoever follows has to be allowed to still; this often it is asked. A stream says as often that it lives.
pub(super) const VERIFY_EVERY: Duration = Duration::from_secs(10);

/// Who reads an answer that goes on.
pub(super) struct Reader {
    pub who: Principal,
    permission: Permission,
    verify_at: Instant,
}

impl Reader {
    /// Somebody who was allowed to just now.
    pub fn new(who: Principal, permission: Permission) -> Self {
        Self { who, permission, verify_at: Instant::now() + VERIFY_EVERY }
    }

    /// When it is to be asked again.
    pub fn verify_at(&self) -> Instant {
        self.verify_at
    }

    /// Refuses who may not read any more: a key can be deleted, a role taken away. True when it was asked just now.
    pub async fn verify(&mut self, app: &App) -> Result<bool, ApiError> {
        let now = Instant::now();
        if now < self.verify_at {
            return Ok(false);
        }
        self.who = app.auth.verify_again(&self.who).await?;
        self.who.require(self.permission)?;
        self.verify_at = now + VERIFY_EVERY;
        Ok(true)
    }
}

/// What there is to tell.
pub(super) enum Told {
    Event(String),
    /// Nothing follows this one.
    Last(String),
    /// Nothing came until it was to be asked again who reads.
    Nothing,
}

/// Something that is followed.
pub(super) trait Follow: Send + 'static {
    /// What comes next. Returns at `until` at the latest.
    fn next(&mut self, who: &Principal, until: Instant) -> impl Future<Output = Result<Told, ApiError>> + Send;
}

/// Whether a request asks for events.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    accepted.map(|value| value.split(';').next().unwrap_or_default().trim()).any(|value| value.eq_ignore_ascii_case("text/event-stream"))
}

/// Where a client was that comes again.
pub(super) fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default().trim()).filter(|id| !id.is_empty())
}

/// Server-sent events of what is followed, as long as whoever reads them may. What fails is the last event.
pub(super) fn events(app: SharedApp, reader: Reader, followed: impl Follow) -> Response {
    struct Following<F> {
        app: SharedApp,
        reader: Reader,
        followed: F,
        ended: bool,
    }
    let following = Following { app, reader, followed, ended: false };
    let events = stream::unfold(following, |mut following| async move {
        if following.ended {
            return None;
        }
        let told = loop {
            match following.reader.verify(&following.app).await {
                Ok(false) => {}
                Ok(true) => break Ok(": it goes on\n\n".to_owned()),
                Err(error) => break Err(error),
            }
            match following.followed.next(&following.reader.who, following.reader.verify_at()).await {
                Ok(Told::Event(event)) => break Ok(event),
                Ok(Told::Last(event)) => {
                    following.ended = true;
                    break Ok(event);
                }
                Ok(Told::Nothing) => {}
                Err(error) => break Err(error),
            }
        };
        let told = told.unwrap_or_else(|error| {
            following.ended = true;
            event("error", None, &json!({ "code": error.code(), "message": error.message() }))
        });
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(told)), following))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // For proxies that gather what comes.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (Extension(Farewell::Event), headers, Body::from_stream(events)).into_response()
}

/// An event. Its id is where a client that comes again goes on.
pub(super) fn event(name: &str, id: Option<&str>, data: &impl Serialize) -> String {
    // JSON has no line end of its own.
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_asked_for_by_their_type() {
        for (accept, asked) in [("text/event-stream", true), ("application/json, Text/Event-Stream;q=0.5", true), ("text/event-streams", false), ("*/*", false)]
        {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(is_asked(&headers), asked, "{accept}");
        }
        assert!(!is_asked(&HeaderMap::new()));
    }

    #[test]
    fn an_event_is_one_line_of_data() {
        assert_eq!(event("log", Some("rt-1.4"), &json!({ "output": "a\nb" })), "event: log\nid: rt-1.4\ndata: {\"output\":\"a\\nb\"}\n\n");
        assert_eq!(event("end", None, &1), "event: end\ndata: 1\n\n");
    }
}
