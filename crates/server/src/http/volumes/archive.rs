//! Archives into and out of volumes.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Response, header},
};
use sandbar_api::{error::ErrorEnvelope, reply::Envelope, volume::ArchiveImportResponse};
use sandbar_core::{limits, roles::Permission};
use sandbar_node::volumes::ArchiveFormat;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{SharedApp, auth::Principal, volumes::check_length},
    error::ApiError,
    http::{
        files::{path_of, upload::Upload},
        params::{Params, shown},
        reply::{self, Result},
    },
};

/// `/api/v1/sandboxvolumes/{id}/files/archive`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(import, export))
}

/// Unpack a tar (plain, gzip or zstd) or a zip into a folder of a volume; which it is, its first bytes tell. What it
/// brings takes the place of files of the same name. One that breaks a rule is refused as a whole.
#[utoipa::path(put, path = "/api/v1/sandboxvolumes/{id}/files/archive", tag = "volumes", params(
    ("id" = String, Path), ("path" = Option<String>, Query, description = "the folder; the top of the volume when absent"),
), request_body(content = String, content_type = "application/octet-stream"), responses(
    (status = 200, body = Envelope<ArchiveImportResponse>), (status = 400, description = "an entry breaks a rule", body = ErrorEnvelope),
    (status = 404, body = ErrorEnvelope), (status = 413, body = ErrorEnvelope), (status = 507, description = "it does not fit", body = ErrorEnvelope),
))]
async fn import(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<ArchiveImportResponse> {
    who.require(Permission::VolumeWrite)?;
    let below = if params.text("path").is_some() { path_of(&params)? } else { "/" };
    check_length(headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()))?;
    let upload = Upload::new(body, limits::FILE_MAX_BYTES);
    match app.import_archive(&who, &id, below, Body::new(upload.clone())).await {
        Ok(done) => reply::ok(done),
        Err(error) => {
            // The client's own failure explains ours; otherwise let it finish sending, so that it reads the answer.
            let cause = upload.failure();
            upload.discard().await;
            Err(cause.unwrap_or(error))
        }
    }
}

/// All files of a volume as a `tar` (default) or `zip`.
#[utoipa::path(get, path = "/api/v1/sandboxvolumes/{id}/files/archive", tag = "volumes", params(("id" = String, Path), ("format" = Option<String>, Query)), responses(
    (status = 200, content_type = "application/x-tar", body = String), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn export(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> std::result::Result<Response<Body>, ApiError> {
    who.require(Permission::VolumeRead)?;
    let (format, kind, ending) = match params.text("format") {
        None | Some("tar") => (ArchiveFormat::Tar, "application/x-tar", "tar"),
        Some("zip") => (ArchiveFormat::Zip, "application/zip", "zip"),
        Some(other) => return Err(ApiError::bad_request(format!("format: {} is not tar or zip", shown(other)))),
    };
    let mut response = Response::new(app.export_archive(&who, &id, format).await?);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let name = HeaderValue::from_str(&format!("attachment; filename=\"{id}.{ending}\"")).unwrap_or(HeaderValue::from_static("attachment"));
    headers.insert(header::CONTENT_DISPOSITION, name);
    Ok(response)
}
