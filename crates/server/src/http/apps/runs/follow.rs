//! The log of a run as server-sent events.

use std::sync::Arc;

use axum::response::Response;
use sandbar_core::roles::Permission;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    app::{SharedApp, apps::runs::Live, auth::Principal},
    error::ApiError,
    http::follow::{Follow, Reader, Told, event, events},
};

struct RunFollowed {
    app: SharedApp,
    id: String,
    live: Arc<Live>,
    cursor: u64,
}

/// Events from a place on.
pub(super) async fn stream(app: SharedApp, who: Principal, id: String, since: u64) -> Result<Response, ApiError> {
    // Refused before anything is sent.
    app.app_run(&who, &id).await?;
    let live = app.app_runs.live(&id);
    let followed = RunFollowed { app: SharedApp::clone(&app), id, live, cursor: since };
    Ok(events(app, Reader::new(who, Permission::FunctionRead), followed))
}

impl Follow for RunFollowed {
    async fn next(&mut self, who: &Principal, until: Instant) -> Result<Told, ApiError> {
        let mut logged = self.live.logged.subscribe();
        loop {
            logged.mark_unchanged();
            let done = self.live.done.is_cancelled();
            let run = self.app.app_run(who, &self.id).await?;
            let piece = self.app.read_run_log(&run, self.cursor).await?;
            self.cursor = piece.cursor;
            let id = piece.cursor.to_string();
            if !piece.output.is_empty() {
                return Ok(Told::Event(event("output", Some(&id), &json!({ "output": piece.output, "cursor": piece.cursor }))));
            }
            if piece.completed {
                let end = json!({ "status": run.status, "failure_reason": run.failure_reason, "exit_code": run.doc.known.exit.map(|exit| exit.code), "cursor": piece.cursor });
                return Ok(Told::Last(event("end", Some(&id), &end)));
            }
            tokio::select! {
                _ = logged.changed() => {}
                () = self.live.done.cancelled(), if !done => {}
                () = tokio::time::sleep_until(until) => return Ok(Told::Nothing),
            }
        }
    }
}
