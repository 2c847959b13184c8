//! Runs of apps: asked for, waited for, followed, cancelled, and what they left.

use std::{collections::BTreeMap, io::SeekFrom, time::Duration};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::BytesMut;
use futures_util::stream;
use sandbar_api::{ErrorCode, error::ErrorEnvelope, reply::Envelope};
use sandbar_core::{
    app::{
        RunStatus,
        manifest::Target,
        run::{CleanupPolicy, Place},
        shell::is_reserved,
    },
    limits::{self, app_runs, apps},
    range::{self, Wanted},
};
use sandbar_store::AppRunFilter;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, Take},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{
        SharedApp,
        apps::runs::{LogPiece, Wish, WishFile},
        auth::Principal,
    },
    error::ApiError,
    http::{
        extract::Json,
        follow::{is_asked, last_event_id},
        params::{Params, bounded, shown},
        reply::{self, Result},
    },
};

mod follow;
mod render;

use render::{ArtifactView, RunView};

/// One piece of a download.
const PIECE_BYTES: usize = 64 << 10;
/// Says that the run was there already.
pub(super) static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What is to be run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RunRequest {
    /// The name of an action.
    action: String,
    /// Looked at with the schema of the manifest; its defaults are filled in.
    input: Option<Value>,
    /// Files for the properties of the schema that have `x-openpond-upload`: at most 20, of 16 MiB together.
    #[serde(default)]
    files: Vec<FileRequest>,
    /// `app` (the default): the sandbox that the app has online; `fresh`: one of its own, made of the version's files.
    sandbox: Option<String>,
    /// What becomes of a fresh one: `delete` (the default), `stop`, `archive`.
    cleanup: Option<String>,
    /// Stronger than the action's own.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Shorter or longer than the action says.
    timeout_seconds: Option<u64>,
}

/// A file for a run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AppRunFileRequest)]
struct FileRequest {
    /// The property of the input; one within another after that and a dot.
    input: String,
    /// Of the file: its end may say what it is, and several files for one property are called so.
    name: String,
    /// Such as `text/csv`.
    content_type: Option<String>,
    content_base64: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunReply {
    run: RunView,
}

#[derive(Debug, Serialize, ToSchema)]
struct RunList {
    runs: Vec<RunView>,
    /// Of the next page.
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ArtifactList {
    artifacts: Vec<ArtifactView>,
}

/// A piece of what a run printed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunLogReply {
    output: String,
    /// `since` of the next piece.
    cursor: u64,
    /// Nothing follows.
    completed: bool,
}

impl From<LogPiece> for RunLogReply {
    fn from(piece: LogPiece) -> Self {
        let LogPiece { output, cursor, completed } = piece;
        Self { output, cursor, completed }
    }
}

/// `/api/v1/apps/{name}/runs` and `/api/v1/app-runs`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get))
        .routes(routes!(cancel))
        .routes(routes!(logs))
        .routes(routes!(artifacts))
        .routes(routes!(artifact))
}

/// Run an action. It waits for its turn and runs whether or not somebody waits; `wait` waits for its end, or so long. With an
/// `Idempotency-Key` the same request makes one run, as long as that is kept.
#[utoipa::path(post, path = "/api/v1/apps/{name}/runs", tag = "apps", params(
    ("name" = String, Path), ("wait" = Option<u64>, Query, description = "seconds, at most 600"),
), request_body = RunRequest, responses(
    (status = 202, body = Envelope<RunReply>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
    (status = 409, description = "the key was used otherwise, or nothing is deployed", body = ErrorEnvelope),
    (status = 413, body = ErrorEnvelope), (status = 422, description = "the input or a file does not fit the manifest", body = ErrorEnvelope), (status = 429, body = ErrorEnvelope),
))]
async fn create(
    State(app): State<SharedApp>,
    who: Principal,
    Path(name): Path<String>,
    params: Params,
    headers: HeaderMap,
    Json(mut request): Json<RunRequest, { app_runs::RUN_REQUEST_MAX_BYTES }>,
) -> std::result::Result<Response, ApiError> {
    let wait = params.integer("wait", 0..=app_runs::RUN_WAIT_MAX_S)?.unwrap_or_default();
    let files = files(std::mem::take(&mut request.files)).await?;
    let wish = Wish { files, ..wish(&who, request, &headers)? };
    let asked = app.ask_for_run(&who, &name, wish).await?;
    let run = if wait > 0 { app.app_run_wait(&who, &asked.run.id, Duration::from_secs(wait)).await? } else { asked.run };
    let place = HeaderValue::from_str(&format!("/api/v1/app-runs/{}", run.id));
    let mut response = reply::with_status(StatusCode::ACCEPTED, RunReply { run: render::run(run, true) })?.into_response();
    response.headers_mut().extend(place.ok().map(|place| (header::LOCATION, place)));
    if asked.replayed {
        response.headers_mut().insert(REPLAYED.clone(), HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Runs of an app, the newest first; also of one that was deleted, by its name or id.
#[utoipa::path(get, path = "/api/v1/apps/{name}/runs", tag = "apps", params(
    ("name" = String, Path), ("action" = Option<String>, Query), ("status" = Option<String>, Query), ("schedule_id" = Option<String>, Query),
    ("limit" = Option<u32>, Query, description = "1 to 200, default 50"), ("cursor" = Option<String>, Query),
), responses((status = 200, body = Envelope<RunList>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope)))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>, params: Params) -> Result<RunList> {
    let limit = params.integer("limit", limits::LIST_LIMIT_MIN..=limits::LIST_LIMIT_MAX)?.unwrap_or(limits::LIST_LIMIT_DEFAULT);
    let status = match params.text("status") {
        None => None,
        Some(text) => Some(RunStatus::named(text).ok_or_else(|| {
            let all = RunStatus::ALL.map(RunStatus::as_str).join(", ");
            ApiError::bad_request(format!("status: {} is none of {all}", shown(text)))
        })?),
    };
    let filter = AppRunFilter {
        app_id: None,
        action: params.text("action").map(str::to_owned),
        status,
        schedule_id: params.text("schedule_id").map(str::to_owned),
        after: params.text("cursor").map(read_cursor).transpose()?,
        // One more shows whether there is another page.
        limit: limit + 1,
    };
    let mut runs = app.app_runs(&who, &name, filter).await?;
    let more = runs.len() > limit as usize;
    runs.truncate(limit as usize);
    let next_cursor = runs.last().filter(|_| more).map(|run| format!("{}_{}", run.created_at_ms, run.id));
    reply::ok(RunList { runs: runs.into_iter().map(|run| render::run(run, false)).collect(), next_cursor })
}

fn read_cursor(text: &str) -> std::result::Result<(i64, String), ApiError> {
    let read = text.split_once('_').and_then(|(ms, id)| Some((ms.parse().ok()?, id.to_owned())));
    read.ok_or_else(|| ApiError::bad_request(format!("cursor: {} is no next_cursor of a page", shown(text))))
}

/// A run; with `wait` once it has ended, or so many seconds later.
#[utoipa::path(get, path = "/api/v1/app-runs/{id}", tag = "apps", params(("id" = String, Path), ("wait" = Option<u64>, Query, description = "seconds, at most 600")), responses(
    (status = 200, body = Envelope<RunReply>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<RunReply> {
    let wait = params.integer("wait", 0..=app_runs::RUN_WAIT_MAX_S)?.unwrap_or_default();
    reply::ok(RunReply { run: render::run(app.app_run_wait(&who, &id, Duration::from_secs(wait)).await?, true) })
}

/// Cancel a run. One that waits ends at once; the command of another gets SIGTERM with its whole group, and some seconds later SIGKILL.
/// One that has ended stays as it is.
#[utoipa::path(post, path = "/api/v1/app-runs/{id}/cancel", tag = "apps", params(("id" = String, Path)), responses(
    (status = 202, body = Envelope<RunReply>), (status = 404, body = ErrorEnvelope),
))]
async fn cancel(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<RunReply> {
    reply::with_status(StatusCode::ACCEPTED, RunReply { run: render::run(app.cancel_run(&who, &id).await?, true) })
}

/// What a run printed, both streams in the order in which they were read, from byte `since` on. With `Accept: text/event-stream` a
/// stream of events `output` whose ids are cursors (a client that comes again with `Last-Event-ID` goes on there), and `end` at last.
#[utoipa::path(get, path = "/api/v1/app-runs/{id}/logs", tag = "apps", params(("id" = String, Path), ("since" = Option<u64>, Query)), responses(
    (status = 200, body = Envelope<RunLogReply>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn logs(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> std::result::Result<Response, ApiError> {
    let since = params.integer("since", 0..=u64::MAX)?.unwrap_or_default();
    if !is_asked(&headers) {
        return Ok(reply::ok(RunLogReply::from(app.app_run_log(&who, &id, since).await?))?.into_response());
    }
    let since = match last_event_id(&headers) {
        None => since,
        Some(text) => text.parse().map_err(|_| ApiError::bad_request(format!("Last-Event-ID: {} is no cursor of a log", shown(text))))?,
    };
    follow::stream(app, who, id, since).await
}

/// The files that a run left, and those that it should have.
#[utoipa::path(get, path = "/api/v1/app-runs/{id}/artifacts", tag = "apps", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<ArtifactList>), (status = 404, body = ErrorEnvelope),
))]
async fn artifacts(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<ArtifactList> {
    let run = app.app_run(&who, &id).await?;
    reply::ok(ArtifactList { artifacts: run.doc.known.artifacts.into_iter().map(render::artifact).collect() })
}

/// The bytes of an artifact, or a single range of them (`Range`, and `If-Range` with its `ETag`).
#[utoipa::path(get, path = "/api/v1/app-runs/{id}/artifacts/{number}", tag = "apps", params(("id" = String, Path), ("number" = u32, Path)), responses(
    (status = 200, description = "the bytes", content_type = "application/octet-stream"),
    (status = 206, description = "those of the range", content_type = "application/octet-stream"), (status = 404, body = ErrorEnvelope),
    (status = 416, description = "nothing of it is in the range; Content-Range says how long it is", body = ErrorEnvelope),
))]
async fn artifact(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, number)): Path<(String, String)>,
    method: Method,
    asked: HeaderMap,
) -> std::result::Result<Response, ApiError> {
    let number = number.parse().map_err(|_| ApiError::not_found("artifact", &number))?;
    let (artifact, mut file) = app.app_run_artifact(&who, &id, number).await?;
    let name = artifact.path.rsplit('/').next().unwrap_or_default();
    let size = artifact.size_bytes;
    let etag = artifact.sha256.map(|sha256| format!("\"{sha256}\""));
    let said = |name: HeaderName| asked.get(name).and_then(|value| value.to_str().ok());
    // Of what has no body nothing is a part.
    let range = said(header::RANGE).filter(|_| method == Method::GET);
    let (status, from, to) = match range::wanted(range, said(header::IF_RANGE), etag.as_deref(), size) {
        Wanted::Whole => (StatusCode::OK, 0, size),
        Wanted::Part { from, to } => (StatusCode::PARTIAL_CONTENT, from, to),
        Wanted::Outside => {
            let text = format!("Range: nothing of the {size} bytes of the artifact is in it");
            let mut refused = ApiError::with_status(416, ErrorCode::BadRequest, text).into_response();
            refused.headers_mut().extend(HeaderValue::from_str(&format!("bytes */{size}")).ok().map(|value| (header::CONTENT_RANGE, value)));
            return Ok(refused);
        }
    };
    if from > 0 {
        file.seek(SeekFrom::Start(from)).await.map_err(|e| ApiError::internal("reading an artifact", &e))?;
    }
    let mut response = Response::new(bytes_of(file.take(to - from)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {from}-{}/{size}", to - 1);
        headers.extend(HeaderValue::from_str(&range).ok().map(|value| (header::CONTENT_RANGE, value)));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(to - from));
    // What a stranger's program wrote is not shown as a page of ours.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    headers.extend(HeaderValue::from_str(&disposition(name)).ok().map(|value| (header::CONTENT_DISPOSITION, value)));
    headers.extend(etag.and_then(|etag| HeaderValue::from_str(&etag).ok()).map(|tag| (header::ETAG, tag)));
    Ok(response)
}

/// A file as fast as the client takes it.
fn bytes_of(file: Take<File>) -> Body {
    Body::from_stream(stream::try_unfold(file, |mut file| async move {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let read = file.read_buf(&mut piece).await?;
        Ok::<_, std::io::Error>((read > 0).then(|| (piece.freeze(), file)))
    }))
}

/// `attachment`, with a name that nobody can break out of.
fn disposition(name: &str) -> String {
    use std::fmt::Write as _;
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    let mut encoded = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            // Writing into a text does not fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

fn wish(who: &Principal, request: RunRequest, headers: &HeaderMap) -> std::result::Result<Wish, ApiError> {
    let RunRequest { action, input, sandbox, cleanup, env, timeout_seconds, .. } = request;
    let place = word("sandbox", sandbox, Place::named, Place::ALL.iter().map(|place| place.as_str()))?.unwrap_or(Place::App);
    let policy = word("cleanup", cleanup, CleanupPolicy::named, CleanupPolicy::ALL.iter().map(|policy| policy.as_str()))?;
    if policy.is_some() && place == Place::App {
        return Err(ApiError::bad_request("cleanup: is for runs in a fresh sandbox; that of the app stays as it is"));
    }
    check_env(&env)?;
    let max = u64::from(apps::APP_COMMAND_TIMEOUT_MAX_S);
    if timeout_seconds.is_some_and(|seconds| !(1..=max).contains(&seconds)) {
        return Err(ApiError::bad_request(format!("timeout_seconds: must be from 1 to {max}")));
    }
    Ok(Wish {
        target: Target::Action { name: action },
        input,
        files: Vec::new(),
        place,
        cleanup: policy.unwrap_or(CleanupPolicy::Delete),
        keep: None,
        env,
        timeout_s: timeout_seconds,
        requires_start: None,
        idempotency_key: idempotency_key(headers)?,
        caused_by: Some(who.caller()),
        max_spend_micros: None,
    })
}

/// The bytes of files, off this thread: there may be many of them.
async fn files(requests: Vec<FileRequest>) -> std::result::Result<Vec<WishFile>, ApiError> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    if requests.len() > app_runs::RUN_FILES_MAX {
        return Err(ApiError::bad_request(format!("files: there are {}; a run may have {}", requests.len(), app_runs::RUN_FILES_MAX)));
    }
    let read = move || {
        let mut left = app_runs::RUN_FILES_MAX_BYTES;
        let mut files = Vec::with_capacity(requests.len());
        for (at, FileRequest { input, name, content_type, content_base64 }) in requests.into_iter().enumerate() {
            let decoded = BASE64_STANDARD.decode(content_base64);
            let bytes = decoded.map_err(|error| ApiError::bad_request(format!("files[{at}].content_base64: is no base64: {error}")))?;
            left = left.checked_sub(bytes.len()).ok_or_else(|| {
                let text = format!("files: have more than {} bytes together; bring larger ones in by the sandbox's files", app_runs::RUN_FILES_MAX_BYTES);
                ApiError::new(ErrorCode::PayloadTooLarge, text)
            })?;
            files.push(WishFile { input, filename: name, content_type, sha256: hex::encode(Sha256::digest(&bytes)), bytes: bytes.into() });
        }
        Ok(files)
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(ApiError::internal("reading files", &error)))
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> std::result::Result<Option<String>, ApiError> {
    bounded(headers, "idempotency-key")
}

pub(super) fn reply_of(run: sandbar_store::AppRun) -> RunReply {
    RunReply { run: render::run(run, true) }
}

fn word<T>(
    field: &str,
    given: Option<String>,
    named: impl Fn(&str) -> Option<T>,
    all: impl Iterator<Item = &'static str>,
) -> std::result::Result<Option<T>, ApiError> {
    let Some(text) = given else { return Ok(None) };
    let refused = || ApiError::bad_request(format!("{field}: {} is none of {}", shown(&text), all.collect::<Vec<_>>().join(", ")));
    named(&text).map(Some).ok_or_else(refused)
}

fn check_env(env: &BTreeMap<String, String>) -> std::result::Result<(), ApiError> {
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if env.len() > app_runs::RUN_ENV_MAX || bytes > app_runs::RUN_ENV_MAX_BYTES {
        let text = format!("env: may have {} variables with {} bytes together", app_runs::RUN_ENV_MAX, app_runs::RUN_ENV_MAX_BYTES);
        return Err(ApiError::bad_request(text));
    }
    for (name, value) in env {
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.as_bytes()[0].is_ascii_digit();
        if !is_name {
            return Err(ApiError::bad_request(format!("env: {} is no name of a variable: letters, digits and _", shown(name))));
        }
        if is_reserved(name) {
            return Err(ApiError::bad_request(format!("env.{name}: is set by the server")));
        }
        if value.contains('\0') {
            return Err(ApiError::bad_request(format!("env.{name}: must not hold a zero byte")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_break_out_of_their_header() {
        assert_eq!(disposition("report.json"), "attachment; filename=\"report.json\"; filename*=UTF-8''report.json");
        assert_eq!(disposition("a\"b\r\nc é"), "attachment; filename=\"a_b__c__\"; filename*=UTF-8''a%22b%0D%0Ac%20%C3%A9");
    }
}
