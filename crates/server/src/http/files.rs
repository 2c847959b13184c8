//! Files of a sandbox: streamed both ways, resolved inside.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use sandbar_api::{
    ErrorCode,
    context::{DeletedResponse, WrittenResponse},
    error::ErrorEnvelope,
    file::{CreatedResponse, FileContentResponse, FileInfo, FileKind, FileListResponse, MoveFileRequest, MovedResponse},
    reply::Envelope,
};
use sandbar_core::{limits, roles::Permission};
use sandbar_procd_api as agent;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Json, too_large},
    params::{Params, shown},
    reply::{self, Result},
    time::rfc3339_nanos,
};
use crate::{
    app::{App, SharedApp, auth::Principal, files::FileOwner},
    error::ApiError,
};

pub mod upload;
pub mod watch;

use upload::Upload;

/// `/api/v1/sandboxes/{id}/files`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(read, write, remove))
        .routes(routes!(move_file))
        .routes(routes!(stat))
        .routes(routes!(list))
        .routes(routes!(watch::watch))
}

/// Read a file. Its bytes come as `application/octet-stream`, whatever they are, with `Range` understood; with
/// `Accept: application/json` it comes as base64 in the envelope, up to 32 MiB.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/files", tag = "files", params(("id" = String, Path), ("path" = String, Query)), responses(
    (status = 200, content_type = "application/octet-stream", body = String), (status = 206, description = "the range asked for"),
    (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, description = "not a file", body = ErrorEnvelope), (status = 416, body = ErrorEnvelope),
))]
async fn read(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> std::result::Result<Response<Body>, ApiError> {
    who.require(Permission::SandboxRead)?;
    read_of(&app, &who, &FileOwner::Sandbox(id), &params, &headers).await
}

/// Write a file from the request's body, replacing it atomically and making missing folders; or make a folder with
/// `mkdir=true`.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/files", tag = "files", params(
    ("id" = String, Path), ("path" = String, Query), ("mode" = Option<String>, Query, description = "permission bits in octal, default 0644"),
    ("mkdir" = Option<bool>, Query), ("recursive" = Option<bool>, Query, description = "with mkdir: make missing parents, accept an existing folder"),
), request_body(content = String, content_type = "application/octet-stream"), responses(
    (status = 200, description = "written", body = Envelope<WrittenResponse>), (status = 201, description = "folder made", body = Envelope<CreatedResponse>),
    (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope), (status = 413, body = ErrorEnvelope), (status = 507, body = ErrorEnvelope),
))]
async fn write(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> std::result::Result<Response<Body>, ApiError> {
    who.require(Permission::SandboxWrite)?;
    write_of(&app, &who, &FileOwner::Sandbox(id), &params, &headers, body).await
}

/// Reads an owner's file as the request wants it.
pub async fn read_of(app: &App, who: &Principal, owner: &FileOwner, params: &Params, headers: &HeaderMap) -> std::result::Result<Response<Body>, ApiError> {
    let path = path_of(params)?;
    if wants_json(headers) {
        let file = app.read_file(who, owner, path, None).await?;
        return Ok(reply::ok(as_json(file).await?)?.into_response());
    }
    let file = app.read_file(who, owner, path, headers.get(header::RANGE).cloned()).await?;
    Ok(as_bytes(file, path))
}

/// Writes an owner's file from the request's body, or makes a folder.
pub async fn write_of(
    app: &App,
    who: &Principal,
    owner: &FileOwner,
    params: &Params,
    headers: &HeaderMap,
    body: Body,
) -> std::result::Result<Response<Body>, ApiError> {
    let path = path_of(params)?;
    if params.text("mkdir") == Some("true") {
        app.make_folder(who, owner, path, params.text("recursive") == Some("true")).await?;
        return Ok(reply::created(CreatedResponse { created: true })?.into_response());
    }
    let mode = mode_of(params)?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length| length > limits::FILE_MAX_BYTES) {
        return Err(too_large(limits::FILE_MAX_BYTES));
    }
    let upload = Upload::new(body, limits::FILE_MAX_BYTES);
    match app.write_file(who, owner, path, mode, length, Body::new(upload.clone())).await {
        Ok(agent::Written { bytes: _ }) => Ok(reply::ok(WrittenResponse { written: true })?.into_response()),
        Err(error) => {
            // The client's own failure explains the agent's; otherwise let it finish sending, so that it reads ours.
            let cause = upload.failure();
            upload.discard().await;
            Err(cause.unwrap_or(error))
        }
    }
}

/// Remove a file, a link (not its target), or a folder with all that it holds.
#[utoipa::path(delete, path = "/api/v1/sandboxes/{id}/files", tag = "files", params(("id" = String, Path), ("path" = String, Query)), responses(
    (status = 200, body = Envelope<DeletedResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn remove(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<DeletedResponse> {
    who.require(Permission::SandboxWrite)?;
    app.remove_file(&who, &FileOwner::Sandbox(id), path_of(&params)?).await?;
    reply::ok(DeletedResponse { deleted: true })
}

/// Move or rename.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/files/move", tag = "files", params(("id" = String, Path)), request_body = MoveFileRequest, responses(
    (status = 200, body = Envelope<MovedResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn move_file(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, Json(request): Json<MoveFileRequest>) -> Result<MovedResponse> {
    who.require(Permission::SandboxWrite)?;
    move_of(&app, &who, &FileOwner::Sandbox(id), request).await
}

/// Moves an owner's file.
pub async fn move_of(app: &App, who: &Principal, owner: &FileOwner, request: MoveFileRequest) -> Result<MovedResponse> {
    check_path("source", &request.source)?;
    check_path("destination", &request.destination)?;
    app.move_file(who, owner, &agent::Move { source: request.source, destination: request.destination }).await?;
    reply::ok(MovedResponse { moved: true })
}

/// What a path names. Links are not followed.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/files/stat", tag = "files", params(("id" = String, Path), ("path" = String, Query)), responses(
    (status = 200, body = Envelope<FileInfo>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn stat(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<FileInfo> {
    who.require(Permission::SandboxRead)?;
    reply::ok(file_info(app.stat_file(&who, &FileOwner::Sandbox(id), path_of(&params)?).await?))
}

/// The entries of a folder.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/files/list", tag = "files", params(("id" = String, Path), ("path" = String, Query)), responses(
    (status = 200, body = Envelope<FileListResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, description = "not a folder", body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<FileListResponse> {
    who.require(Permission::SandboxRead)?;
    let entries = app.list_files(&who, &FileOwner::Sandbox(id), path_of(&params)?).await?;
    reply::ok(FileListResponse { entries: entries.into_iter().map(file_info).collect() })
}

pub fn path_of(params: &Params) -> std::result::Result<&str, ApiError> {
    params.readable("path")?;
    let path = params.required("path")?;
    check_path("path", path)?;
    Ok(path)
}

fn check_path(name: &str, path: &str) -> std::result::Result<(), ApiError> {
    if path.is_empty() {
        return Err(ApiError::bad_request(format!("{name}: must not be empty")));
    }
    if path.contains('\0') {
        return Err(ApiError::bad_request(format!("{name}: holds a NUL character")));
    }
    if path.len() > limits::PATH_MAX_BYTES {
        return Err(ApiError::bad_request(format!("{name}: may have at most {} bytes", limits::PATH_MAX_BYTES)));
    }
    Ok(())
}

fn mode_of(params: &Params) -> std::result::Result<Option<&str>, ApiError> {
    let Some(mode) = params.text("mode") else { return Ok(None) };
    let octal = (3..=4).contains(&mode.len()) && mode.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    if octal { Ok(Some(mode)) } else { Err(ApiError::bad_request(format!("mode: {} is not octal such as 0644", shown(mode)))) }
}

/// The original also takes a JSON `Content-Type` of the request for the wish to get JSON.
fn wants_json(headers: &HeaderMap) -> bool {
    let names_json = |name| {
        headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).is_some_and(|value| value.to_ascii_lowercase().contains("application/json"))
    };
    names_json(header::ACCEPT) || names_json(header::CONTENT_TYPE)
}

async fn as_json(file: Response<Body>) -> std::result::Result<FileContentResponse, ApiError> {
    let body = Limited::new(file.into_body(), limits::FILE_JSON_MAX_BYTES).collect().await;
    match body {
        Ok(body) => Ok(FileContentResponse { content: BASE64.encode(body.to_bytes()), encoding: "base64".to_owned() }),
        Err(error) if is_too_long(error.as_ref()) => {
            let message = format!("a file of more than {} bytes cannot be read as JSON; ask for application/octet-stream", limits::FILE_JSON_MAX_BYTES);
            Err(ApiError::new(ErrorCode::PayloadTooLarge, message))
        }
        Err(error) => {
            tracing::warn!(%error, "a file broke off while it was read");
            Err(ApiError::unavailable("the sandbox stopped answering while the file was read"))
        }
    }
}

/// Whether the limit of a body was passed, however deep the error of it lies.
fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_long)
}

/// Never with the type of the content: clients would take a JSON file for an envelope, and browsers would run HTML.
fn as_bytes(file: Response<Body>, path: &str) -> Response<Body> {
    let (agent, body) = file.into_parts();
    let mut response = Response::new(body);
    *response.status_mut() = if agent.status == StatusCode::PARTIAL_CONTENT { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let headers = response.headers_mut();
    for name in [header::CONTENT_LENGTH, header::CONTENT_RANGE, header::LAST_MODIFIED] {
        if let Some(value) = agent.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, disposition(path));
    response
}

/// `attachment` with the file's own name, encoded so that it can hold anything.
fn disposition(path: &str) -> HeaderValue {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut value = String::from("attachment; filename*=UTF-8''");
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => value.push(char::from(byte)),
            _ => value.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("attachment"))
}

pub fn file_info(info: agent::FileInfo) -> FileInfo {
    FileInfo {
        name: info.name,
        path: info.path,
        kind: match info.kind {
            agent::FileType::File | agent::FileType::Other => FileKind::File,
            agent::FileType::Dir => FileKind::Dir,
            agent::FileType::Symlink => FileKind::Symlink,
        },
        size: info.size,
        mode: info.mode,
        mod_time: rfc3339_nanos(info.mtime_ns),
        is_link: info.is_link,
        link_target: info.link_target,
        is_lossy: info.is_lossy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_modes_are_checked_before_a_sandbox_is_woken() {
        for query in ["", "path=", "path=a%00b", "path=a%ff", "path=%C3", &format!("path={}", "x".repeat(5000))] {
            assert_eq!(path_of(&Params::parse(query)).expect_err(query).status(), 400);
        }
        assert_eq!(path_of(&Params::parse("path=..%2Fx")).expect("relative"), "../x");
        for (query, good) in [("", true), ("mode=0644", true), ("mode=755", true), ("mode=0888", false), ("mode=rw", false), ("mode=07777", false)] {
            assert_eq!(mode_of(&Params::parse(query)).is_ok(), good, "{query}");
        }
    }

    #[test]
    fn names_survive_in_the_disposition() {
        assert_eq!(disposition("/a/b c\r\n\"é.txt"), "attachment; filename*=UTF-8''b%20c%0D%0A%22%C3%A9.txt");
        assert_eq!(disposition("/"), "attachment; filename*=UTF-8''");
    }

    #[test]
    fn json_is_given_to_those_who_ask() {
        let headers = |name, value: &'static str| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        assert!(wants_json(&headers(header::ACCEPT, "application/json")));
        assert!(wants_json(&headers(header::CONTENT_TYPE, "Application/JSON; charset=utf-8")));
        assert!(!wants_json(&headers(header::ACCEPT, "*/*")));
        assert!(!wants_json(&HeaderMap::new()));
    }
}
