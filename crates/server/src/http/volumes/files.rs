//! Files of a volume: as those of a sandbox, with paths from the volume's top.

use axum::{
    body::Body,
    extract::{
        Path, State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, Response},
};
use sandbar_api::{
    context::{DeletedResponse, WrittenResponse},
    error::ErrorEnvelope,
    file::{FileInfo, FileListResponse, MoveFileRequest, MovedResponse},
    reply::Envelope,
};
use sandbar_core::roles::Permission;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{SharedApp, auth::Principal, files::FileOwner},
    error::ApiError,
    http::{
        extract::Json,
        files::{self, file_info, path_of, watch::upgraded},
        params::Params,
        reply::{self, Result},
    },
};

/// `/api/v1/sandboxvolumes/{id}/files`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(read, write, remove)).routes(routes!(move_file)).routes(routes!(stat)).routes(routes!(list)).routes(routes!(watch))
}

/// Read a file of a volume.
#[utoipa::path(get, path = "/api/v1/sandboxvolumes/{id}/files", tag = "volumes", params(("id" = String, Path), ("path" = String, Query)), responses(
    (status = 200, content_type = "application/octet-stream", body = String), (status = 404, body = ErrorEnvelope),
))]
async fn read(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> std::result::Result<Response<Body>, ApiError> {
    who.require(Permission::VolumeRead)?;
    files::read_of(&app, &who, &FileOwner::Volume(id), &params, &headers).await
}

/// Write a file of a volume, or make a folder with `mkdir=true`.
#[utoipa::path(post, path = "/api/v1/sandboxvolumes/{id}/files", tag = "volumes", params(
    ("id" = String, Path), ("path" = String, Query), ("mode" = Option<String>, Query), ("mkdir" = Option<bool>, Query), ("recursive" = Option<bool>, Query),
), request_body(content = String, content_type = "application/octet-stream"), responses(
    (status = 200, body = Envelope<WrittenResponse>), (status = 404, body = ErrorEnvelope), (status = 507, description = "the size limit", body = ErrorEnvelope),
))]
async fn write(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> std::result::Result<Response<Body>, ApiError> {
    who.require(Permission::VolumeWrite)?;
    not_the_top(path_of(&params)?, params.text("mkdir").is_some())?;
    files::write_of(&app, &who, &FileOwner::Volume(id), &params, &headers, body).await
}

/// Remove a file or folder of a volume.
#[utoipa::path(delete, path = "/api/v1/sandboxvolumes/{id}/files", tag = "volumes", params(("id" = String, Path), ("path" = String, Query)), responses(
    (status = 200, body = Envelope<DeletedResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn remove(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<DeletedResponse> {
    who.require(Permission::VolumeWrite)?;
    let path = path_of(&params)?;
    not_the_top(path, false)?;
    app.remove_file(&who, &FileOwner::Volume(id), path).await?;
    reply::ok(DeletedResponse { deleted: true })
}

/// Move or rename within a volume.
#[utoipa::path(post, path = "/api/v1/sandboxvolumes/{id}/files/move", tag = "volumes", params(("id" = String, Path)), request_body = MoveFileRequest, responses(
    (status = 200, body = Envelope<MovedResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn move_file(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, Json(request): Json<MoveFileRequest>) -> Result<MovedResponse> {
    who.require(Permission::VolumeWrite)?;
    not_the_top(&request.source, false)?;
    not_the_top(&request.destination, false)?;
    files::move_of(&app, &who, &FileOwner::Volume(id), request).await
}

/// What a path of a volume names.
#[utoipa::path(get, path = "/api/v1/sandboxvolumes/{id}/files/stat", tag = "volumes", params(("id" = String, Path), ("path" = String, Query)), responses(
    (status = 200, body = Envelope<FileInfo>), (status = 404, body = ErrorEnvelope),
))]
async fn stat(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<FileInfo> {
    who.require(Permission::VolumeRead)?;
    reply::ok(file_info(app.stat_file(&who, &FileOwner::Volume(id), path_of(&params)?).await?))
}

/// The entries of a folder of a volume.
#[utoipa::path(get, path = "/api/v1/sandboxvolumes/{id}/files/list", tag = "volumes", params(("id" = String, Path), ("path" = String, Query)), responses(
    (status = 200, body = Envelope<FileListResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<FileListResponse> {
    who.require(Permission::VolumeRead)?;
    let entries = app.list_files(&who, &FileOwner::Volume(id), path_of(&params)?).await?;
    reply::ok(FileListResponse { entries: entries.into_iter().map(file_info).collect() })
}

/// Watch folders of a volume by WebSocket, as those of a sandbox.
#[utoipa::path(get, path = "/api/v1/sandboxvolumes/{id}/files/watch", tag = "volumes", params(("id" = String, Path)), responses(
    (status = 101, description = "switched to WebSocket"), (status = 404, body = ErrorEnvelope),
))]
async fn watch(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> std::result::Result<axum::response::Response, ApiError> {
    who.require(Permission::VolumeRead)?;
    upgraded(app, who, Permission::VolumeRead, FileOwner::Volume(id), upgrade).await
}

/// The top of a volume is there as long as the volume.
fn not_the_top(path: &str, may_be: bool) -> std::result::Result<(), ApiError> {
    let is_top = path.split('/').all(|part| matches!(part, "" | "." | ".."));
    if is_top && !may_be { Err(ApiError::bad_request("path: is the top of the volume; name something in it")) } else { Ok(()) }
}
