//! What the processes of a sandbox printed: as text, and line by line with times and sources.

use std::time::Duration;

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use sandbar_api::{
    error::ErrorEnvelope,
    log::{LogsResponse, WatchLine},
    reply::Envelope,
};
use sandbar_core::roles::Permission;
use sandbar_procd_api::LogLine;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    follow::Reader,
    params::{Params, shown},
    reply,
    standing::Farewell,
    time::{now_ms, rfc3339},
};
use crate::{
    app::{
        App, SharedApp,
        apps::sealed::SealedLines,
        auth::Principal,
        logs::{Follower, Logs},
    },
    error::ApiError,
};

mod entries;
mod text;

use entries::{Query, entry};
use text::TextLog;

/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Looks between two looks at the sandbox itself, which may have another runtime by then, or be gone.
const LOOKS_PER_CHECK: u32 = 10;
/// A watched stream says this often that it lives.
const HEARTBEAT_EVERY_MS: i64 = 10_000;
/// The one container there is.
const CONTAINER: &str = "procd";

/// `/api/v1/sandboxes/{id}/logs` and `/observability/logs`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(read)).routes(routes!(observe))
}

/// The output of a sandbox's processes as text. Does not wake it.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/logs", tag = "observability", params(
    ("id" = String, Path), ("container" = Option<String>, Query, description = "procd, the only one"),
    ("tail_lines" = Option<u32>, Query, description = "default 200, at most 5000"), ("limit_bytes" = Option<u32>, Query, description = "default 1 MiB, at most 8 MiB; none by default when following"),
    ("follow" = Option<bool>, Query), ("previous" = Option<bool>, Query, description = "of the runtime before"), ("timestamps" = Option<bool>, Query),
    ("since_seconds" = Option<u32>, Query, description = "only what is newer"),
), responses((status = 200, content_type = "text/plain", body = String), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope)))]
async fn read(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<Response, ApiError> {
    who.require(Permission::SandboxRead)?;
    let text = TextLog::of(&params, now_ms())?;
    let (follow, previous) = (params.boolean("follow")?.unwrap_or_default(), params.boolean("previous")?.unwrap_or_default());
    if params.text("container").is_some_and(|container| container != CONTAINER) {
        return Err(ApiError::bad_request(format!("container: {} is not {CONTAINER}, the only one", shown(params.text("container").unwrap_or_default()))));
    }
    let logs = app.logs(&who, &id).await?;
    let runtime = if previous { logs.previous.clone() } else { logs.current.clone() };
    if previous && runtime.is_none() {
        return Err(ApiError::not_found("previous runtime of sandbox", &id));
    }
    let body = if follow && !previous {
        let (first, epoch) = (text.clone(), app.app_env_epoch());
        let sealed = app.sealed_lines(&id).await?;
        Body::from_stream(stream::try_unfold(Following::new(app, who, logs, (sealed, epoch)), move |following| follow_text(following, first.clone())))
    } else {
        let lines = match &runtime {
            Some(runtime) => app.read_log(runtime).await?,
            None => Vec::new(),
        };
        // After the lines: whoever printed a new value was given it before.
        Body::from(text.snapshot(&app.sealed_lines(&id).await?.hide(lines)))
    };
    Ok(as_text(body, &id, runtime.as_deref().unwrap_or_default()))
}

/// The output of a sandbox's processes line by line, oldest first. With `watch=true` a stream of JSON lines: `log` and
/// `heartbeat`. Does not wake the sandbox.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/observability/logs", tag = "observability", params(
    ("id" = String, Path), ("limit" = Option<u32>, Query, description = "1 to 1000, default 200"), ("cursor" = Option<String>, Query, description = "only what came after"),
    ("start_time" = Option<String>, Query), ("end_time" = Option<String>, Query), ("context_id" = Option<String>, Query),
    ("stream" = Option<String>, Query, description = "stdout, stderr or pty"), ("watch" = Option<bool>, Query),
), responses(
    (status = 200, body = Envelope<LogsResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn observe(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<Response, ApiError> {
    who.require(Permission::SandboxRead)?;
    let query = Query::of(&params)?;
    let watch = params.boolean("watch")?.unwrap_or_default();
    let logs = app.logs(&who, &id).await?;
    let epoch = app.app_env_epoch();
    let before = logs.previous.as_ref().filter(|previous| logs.current.as_ref() != Some(*previous) && query.reaches(previous, &logs));
    let older = match before {
        Some(previous) => app.read_log(previous).await?,
        None => Vec::new(),
    };
    let newer = match logs.current.as_ref().filter(|_| !watch) {
        Some(current) => app.read_log(current).await?,
        None => Vec::new(),
    };
    // After the lines: whoever printed a new value was given it before.
    let mut sealed = app.sealed_lines(&id).await?;
    let mut shown = |runtime: Option<&String>, lines: Vec<LogLine>| -> Vec<_> {
        let lines = sealed.hide(lines).into_iter();
        runtime.map(|runtime| lines.filter(|line| query.admits(runtime, line)).map(|line| entry(runtime, line, &logs)).collect()).unwrap_or_default()
    };
    let (older, newer) = (shown(before, older), shown(logs.current.as_ref(), newer));
    if watch {
        let watching = Watching { following: Following::new(app, who, logs, (sealed, epoch)), query, ready: older.into(), heartbeat_at_ms: 0, ended: false };
        let lines = stream::try_unfold(watching, watch_next);
        return Ok((Extension(Farewell::Line), [(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response());
    }
    let mut found = older;
    found.extend(newer);
    let is_more = found.len() > query.limit;
    found.truncate(query.limit);
    let last = found.last().map(|entry| entry.cursor.clone());
    let next_cursor = if is_more { last.clone() } else { None };
    Ok(reply::ok(LogsResponse { logs: found, next_cursor, watermark: last })?.into_response())
}

/// A log that is followed from runtime to runtime.
struct Following {
    app: SharedApp,
    reader: Reader,
    logs: Logs,
    /// Secrets of an app, and up to which change of them these are all.
    sealed: SealedLines,
    epoch: u64,
    follower: Option<Follower>,
    looks: u32,
    /// What was written so far, for text.
    written: Option<TextLog>,
}

impl Following {
    fn new(app: SharedApp, who: Principal, logs: Logs, (sealed, epoch): (SealedLines, u64)) -> Self {
        let follower = App::follow_log(&app, logs.current.as_deref());
        Self { app, reader: Reader::new(who, Permission::SandboxRead), logs, sealed, epoch, follower: Some(follower), looks: 0, written: None }
    }

    /// The next lines, after a pause when there are none; `None` when the sandbox is gone.
    async fn next(&mut self) -> Result<Option<Vec<LogLine>>, ApiError> {
        self.reader.verify(&self.app).await?;
        let Some(follower) = self.follower.take() else { return Ok(None) };
        let (follower, lines) = follower.look().await?;
        self.follower = Some(follower);
        if !lines.is_empty() {
            // After the lines: whoever printed a new value was given it before.
            let epoch = self.app.app_env_epoch();
            if epoch != self.epoch {
                self.sealed.renew(&self.app.sealed_lines(&self.logs.sandbox_id).await?);
                self.epoch = epoch;
            }
            return Ok(Some(self.sealed.hide(lines)));
        }
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_PER_CHECK) {
            match self.app.logs(&self.reader.who, &self.logs.sandbox_id).await {
                Ok(logs) => {
                    if logs.current != self.logs.current {
                        self.follower = Some(self.app.follow_log(logs.current.as_deref()));
                    }
                    self.logs = logs;
                }
                Err(error) if error.status() == 404 => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(Some(lines))
    }
}

/// The next piece of a followed text.
async fn follow_text(mut following: Following, first: TextLog) -> Result<Option<(bytes::Bytes, Following)>, ApiError> {
    loop {
        let Some(lines) = following.next().await? else { return Ok(None) };
        let piece = match &mut following.written {
            // What is there already is cut as asked; from then on all is given.
            None => {
                let mut text = first.clone();
                let piece = text.begin(&lines);
                following.written = Some(text);
                piece
            }
            Some(text) => text.go_on(&lines),
        };
        let Some(piece) = piece else { return Ok(None) };
        if !piece.is_empty() {
            return Ok(Some((piece.into(), following)));
        }
    }
}

struct Watching {
    following: Following,
    query: Query,
    ready: std::collections::VecDeque<sandbar_api::log::LogEntry>,
    heartbeat_at_ms: i64,
    ended: bool,
}

/// The next lines of a watched stream: all that is ready at once, so that a burst is not one write per line.
async fn watch_next(mut watching: Watching) -> Result<Option<(bytes::Bytes, Watching)>, ApiError> {
    let mut out = Vec::new();
    if watching.ended {
        return Ok(None);
    }
    loop {
        for entry in watching.ready.drain(..) {
            let cursor = entry.cursor.clone();
            push_line(&mut out, &WatchLine::Log { data: entry, cursor });
        }
        let now = now_ms();
        if out.is_empty() && now >= watching.heartbeat_at_ms {
            push_line(&mut out, &WatchLine::Heartbeat::<()> { time: rfc3339(now) });
        }
        if !out.is_empty() {
            watching.heartbeat_at_ms = now + HEARTBEAT_EVERY_MS;
            return Ok(Some((out.into(), watching)));
        }
        match watching.following.next().await {
            Ok(Some(lines)) => {
                let Some(current) = watching.following.logs.current.clone() else { continue };
                let admitted = lines.into_iter().filter(|line| watching.query.admits(&current, line));
                watching.ready.extend(admitted.map(|line| entry(&current, line, &watching.following.logs)));
            }
            Ok(None) => return Ok(None),
            Err(error) => {
                push_line(&mut out, &WatchLine::Error::<()> { error: error.message().to_owned() });
                watching.ended = true;
                return Ok(Some((out.into(), watching)));
            }
        }
    }
}

fn push_line(out: &mut Vec<u8>, line: &impl serde::Serialize) {
    if serde_json::to_writer(&mut *out, line).is_ok() {
        out.push(b'\n');
    }
}

fn as_text(body: Body, sandbox_id: &str, runtime_id: &str) -> Response {
    let mut response = Response::new(body);
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("x-sandbox-id"), value(sandbox_id));
    headers.insert(HeaderName::from_static("x-sandbox-pod-name"), value(runtime_id));
    headers.insert(HeaderName::from_static("x-sandbox-log-container"), HeaderValue::from_static(CONTAINER));
    response
}
