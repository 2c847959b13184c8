//! The log of a run as server-sent events.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use sandbar_core::roles::Permission;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    app::{SharedApp, apps::runs::Live, auth::Principal},
    error::ApiError,
};

/// A stream says this often that it lives, and whoever follows has to be allowed to still.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);

/// Whether a request asks for events.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    accepted.map(|value| value.split(';').next().unwrap_or_default().trim()).any(|value| value.eq_ignore_ascii_case("text/event-stream"))
}

struct Following {
    app: SharedApp,
    who: Principal,
    id: String,
    live: Arc<Live>,
    cursor: u64,
    verify_at: Instant,
    ended: bool,
}

/// Events from a place on.
pub(super) async fn stream(app: SharedApp, who: Principal, id: String, since: u64) -> Result<Response, ApiError> {
    // Refused before anything is sent.
    app.app_run(&who, &id).await?;
    let live = app.app_runs.live(&id);
    let following = Following { app, who, id, live, cursor: since, verify_at: Instant::now() + HEARTBEAT_EVERY, ended: false };
    let events = stream::unfold(following, |mut following| async move {
        if following.ended {
            return None;
        }
        let event = match following.next().await {
            Ok(event) => event,
            Err(error) => {
                following.ended = true;
                event("error", None, &json!({ "code": error.code(), "message": error.message() }))
            }
        };
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(event)), following))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // For proxies that gather what comes.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

impl Following {
    async fn next(&mut self) -> Result<String, ApiError> {
        let mut logged = self.live.logged.subscribe();
        loop {
            if Instant::now() >= self.verify_at {
                self.who = self.app.auth.verify_again(&self.who).await?;
                self.who.require(Permission::FunctionRead)?;
                self.verify_at = Instant::now() + HEARTBEAT_EVERY;
                return Ok(": it goes on\n\n".to_owned());
            }
            logged.mark_unchanged();
            let done = self.live.done.is_cancelled();
            let run = self.app.app_run(&self.who, &self.id).await?;
            let piece = self.app.read_run_log(&run, self.cursor).await?;
            self.cursor = piece.cursor;
            if !piece.output.is_empty() {
                return Ok(event("output", Some(piece.cursor), &json!({ "output": piece.output, "cursor": piece.cursor })));
            }
            if piece.completed {
                self.ended = true;
                let end = json!({ "status": run.status, "failure_reason": run.failure_reason, "exit_code": run.doc.known.exit.map(|exit| exit.code), "cursor": piece.cursor });
                return Ok(event("end", Some(piece.cursor), &end));
            }
            tokio::select! {
                _ = logged.changed() => {}
                () = self.live.done.cancelled(), if !done => {}
                () = tokio::time::sleep_until(self.verify_at) => {}
            }
        }
    }
}

fn event(name: &str, id: Option<u64>, data: &serde_json::Value) -> String {
    // JSON has no line end of its own.
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n")
}
