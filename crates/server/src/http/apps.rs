//! Apps: deploy, look, roll back, end.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
};
use sandbar_api::{
    app::{
        AppDeleteResponse, AppListData, AppManifestResponse, AppResponse, AppRollbackRequest, AppVersionListData, AppVersionResponse, AppVolumeLeft,
        AppVolumeListData, AppVolumeStatus, LogPieceResponse,
    },
    error::ErrorEnvelope,
    reply::Envelope,
};
use sandbar_core::{limits::deploys as limits, roles::Permission};
use sandbar_store::{AppRecord, AppVersionRecord, AppVolumeRecord};
use serde_json::Value;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Json, too_large},
    files::upload::Upload,
    params::Params,
    reply::{self, Result},
    time::rfc3339,
};
use crate::{
    app::{
        SharedApp,
        apps::{AppWhole, Deploy, VolumesAfter, log::Piece, volumes::AppVolume},
        auth::Principal,
    },
    error::ApiError,
};

mod env;
mod lifecycle;
mod runs;
mod schedules;

/// `/api/v1/apps`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, delete))
        .routes(routes!(versions, deploy))
        .routes(routes!(version))
        .routes(routes!(logs))
        .routes(routes!(cancel_build))
        .routes(routes!(rollback))
        .routes(routes!(volumes))
        .routes(routes!(manifest))
        .merge(lifecycle::router())
        .merge(runs::router())
        .merge(schedules::router())
        .merge(env::router())
}

/// The team's apps by name.
#[utoipa::path(get, path = "/api/v1/apps", tag = "apps", responses((status = 200, body = Envelope<AppListData>)))]
async fn list(State(app): State<SharedApp>, who: Principal) -> Result<AppListData> {
    who.require(Permission::FunctionRead)?;
    reply::ok(AppListData { apps: app.apps(&who).await?.into_iter().map(rendered).collect() })
}

/// An app.
#[utoipa::path(get, path = "/api/v1/apps/{name}", tag = "apps", params(("name" = String, Path)), responses(
    (status = 200, body = Envelope<AppResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>) -> Result<AppResponse> {
    who.require(Permission::FunctionRead)?;
    let record = app.app(&who, &name).await?;
    reply::ok(rendered(app.app_whole(record).await?))
}

/// Delete an app with its versions, variables and schedules. A build under way ends, and so do its sandboxes. Its runs and receipts can
/// still be read. Its volumes are kept, unless they go with its sandbox (`deleteOnSandboxDelete`) or `volumes` says otherwise; those that go
/// are waited for, 10 s at most.
#[utoipa::path(delete, path = "/api/v1/apps/{name}", tag = "apps", params(
    ("name" = String, Path), ("volumes" = Option<bool>, Query, description = "delete its volumes, too; default false"),
), responses((status = 200, body = Envelope<AppDeleteResponse>), (status = 404, body = ErrorEnvelope)))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>, params: Params) -> Result<AppDeleteResponse> {
    who.require(Permission::FunctionDelete)?;
    let volumes = params.boolean("volumes")?.unwrap_or(false);
    if volumes {
        who.require(Permission::VolumeDelete)?;
    }
    let VolumesAfter { left, ending } = app.whole(&who, "deleting an app", move |app, who| async move { app.delete_app(&who, &name, volumes).await }).await?;
    reply::ok(AppDeleteResponse { deleted: true, volumes_left: named_volumes(left), volumes_ending: named_volumes(ending) })
}

fn named_volumes(volumes: Vec<AppVolumeRecord>) -> Vec<AppVolumeLeft> {
    volumes.into_iter().map(|volume| AppVolumeLeft { name: volume.name, id: volume.volume.id }).collect()
}

/// The manifest of an app's live version, or of another.
#[utoipa::path(get, path = "/api/v1/apps/{name}/manifest", tag = "apps", operation_id = "app_manifest", params(
    ("name" = String, Path), ("version" = Option<i64>, Query, description = "default: the live one"),
), responses(
    (status = 200, body = Envelope<AppManifestResponse>), (status = 404, body = ErrorEnvelope), (status = 409, description = "no version is live", body = ErrorEnvelope),
))]
async fn manifest(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>, params: Params) -> Result<AppManifestResponse> {
    who.require(Permission::FunctionRead)?;
    let version = match params.integer("version", 1..=i64::MAX)? {
        Some(number) => app.app_version(&who, &name, number).await?.1,
        None => app.live_version(&app.app(&who, &name).await?).await?,
    };
    let manifest = serde_json::from_str(&version.manifest).map_err(|error| ApiError::internal("reading the manifest of a version", &error))?;
    reply::ok(AppManifestResponse { app: name, version: version.number, text: version.manifest_text, manifest, manifest_sha256: version.manifest_sha256 })
}

/// The volumes of an app, with what their files take.
#[utoipa::path(get, path = "/api/v1/apps/{name}/volumes", tag = "apps", operation_id = "app_volumes", params(("name" = String, Path)), responses(
    (status = 200, body = Envelope<AppVolumeListData>), (status = 404, body = ErrorEnvelope),
))]
async fn volumes(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>) -> Result<AppVolumeListData> {
    who.require(Permission::FunctionRead)?;
    let volumes = app.app_volumes(&who, &name).await?.into_iter().map(rendered_volume).collect();
    reply::ok(AppVolumeListData { volumes })
}

/// Deploy a version: a tar (plain, gzip or zstd) or zip of the source, with the manifest at its top (`sandbar.yaml`, else
/// `openpond.yaml`). The first deploy makes the app. The version is built behind the reply: its state and log tell how that goes.
#[utoipa::path(post, path = "/api/v1/apps/{name}/versions", tag = "apps", params(
    ("name" = String, Path), ("message" = Option<String>, Query), ("activate" = Option<bool>, Query, description = "whether it is live as soon as it is ready; default true"),
), request_body(content = String, content_type = "application/x-tar"), responses(
    (status = 202, body = Envelope<AppVersionResponse>), (status = 400, description = "also an archive with an entry that breaks a rule", body = ErrorEnvelope),
    (status = 404, description = "what the manifest is to be made on does not exist", body = ErrorEnvelope),
    (status = 409, description = "a version is being built", body = ErrorEnvelope), (status = 413, body = ErrorEnvelope),
    (status = 422, description = "the manifest is wrong; details.diagnostics say where", body = ErrorEnvelope), (status = 429, body = ErrorEnvelope), (status = 507, body = ErrorEnvelope),
))]
async fn deploy(
    State(app): State<SharedApp>,
    who: Principal,
    Path(name): Path<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<AppVersionResponse> {
    who.require(Permission::FunctionCreate)?;
    let ask = Deploy { message: params.text("message").map(str::to_owned), activate: params.boolean("activate")?.unwrap_or(true) };
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limits::APP_SOURCE_ARCHIVE_MAX_BYTES) {
        return Err(too_large(limits::APP_SOURCE_ARCHIVE_MAX_BYTES));
    }
    let upload = Upload::new(body, limits::APP_SOURCE_ARCHIVE_MAX_BYTES);
    match app.deploy_app(&who, &name, ask, Body::new(upload.clone())).await {
        Ok((app, record)) => reply::with_status(StatusCode::ACCEPTED, rendered_version(&app, record, false)),
        Err(error) => {
            // The client's own failure explains ours; otherwise let it finish sending, so that it reads the answer.
            let cause = upload.failure();
            upload.discard().await;
            Err(cause.unwrap_or(error))
        }
    }
}

/// The versions of an app, the newest first.
#[utoipa::path(get, path = "/api/v1/apps/{name}/versions", tag = "apps", params(("name" = String, Path)), responses(
    (status = 200, body = Envelope<AppVersionListData>), (status = 404, body = ErrorEnvelope),
))]
async fn versions(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>) -> Result<AppVersionListData> {
    who.require(Permission::FunctionRead)?;
    let (record, versions) = app.app_versions(&who, &name).await?;
    reply::ok(AppVersionListData { versions: versions.into_iter().map(|version| rendered_version(&record, version, false)).collect() })
}

/// A version of an app, with its manifest.
#[utoipa::path(get, path = "/api/v1/apps/{name}/versions/{version}", tag = "apps", params(("name" = String, Path), ("version" = i64, Path)), responses(
    (status = 200, body = Envelope<AppVersionResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn version(State(app): State<SharedApp>, who: Principal, Path((name, number)): Path<(String, String)>) -> Result<AppVersionResponse> {
    who.require(Permission::FunctionRead)?;
    let (record, version) = app.app_version(&who, &name, number_of(&number)?).await?;
    reply::ok(rendered_version(&record, version, true))
}

/// The log of a version's build, from a byte on.
#[utoipa::path(get, path = "/api/v1/apps/{name}/versions/{version}/logs", tag = "apps", params(
    ("name" = String, Path), ("version" = i64, Path), ("since" = Option<u64>, Query, description = "the cursor of the answer before; default 0"),
), responses((status = 200, body = Envelope<LogPieceResponse>), (status = 404, body = ErrorEnvelope)))]
async fn logs(State(app): State<SharedApp>, who: Principal, Path((name, number)): Path<(String, String)>, params: Params) -> Result<LogPieceResponse> {
    who.require(Permission::FunctionRead)?;
    let since = params.integer("since", 0..=u64::MAX)?.unwrap_or(0);
    let (_, version) = app.app_version(&who, &name, number_of(&number)?).await?;
    let Piece { output, cursor, completed } = app.app_build_log(&version, since).await?;
    reply::ok(LogPieceResponse { output, cursor, completed })
}

/// End the build of a version, which has failed then. What is live stays as it is. Returns when the build is over, or ten seconds later
/// while it still ends.
#[utoipa::path(post, path = "/api/v1/apps/{name}/versions/{version}/cancel", tag = "apps", params(("name" = String, Path), ("version" = i64, Path)), responses(
    (status = 200, body = Envelope<AppVersionResponse>), (status = 404, body = ErrorEnvelope), (status = 409, description = "no build of it is under way", body = ErrorEnvelope),
))]
async fn cancel_build(State(app): State<SharedApp>, who: Principal, Path((name, number)): Path<(String, String)>) -> Result<AppVersionResponse> {
    who.require(Permission::FunctionCreate)?;
    let (record, version) = app.cancel_build(&who, &name, number_of(&number)?).await?;
    reply::ok(rendered_version(&record, version, false))
}

/// Make another version that is ready the live one. What is online goes on as it is until the app is started again.
#[utoipa::path(post, path = "/api/v1/apps/{name}/rollback", tag = "apps", params(("name" = String, Path)), request_body = AppRollbackRequest, responses(
    (status = 200, body = Envelope<AppResponse>), (status = 404, body = ErrorEnvelope), (status = 409, description = "it is not ready", body = ErrorEnvelope),
))]
async fn rollback(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>, Json(request): Json<AppRollbackRequest>) -> Result<AppResponse> {
    who.require(Permission::FunctionWrite)?;
    let record = app.rollback_app(&who, &name, request.version).await?;
    reply::ok(rendered(app.app_whole(record).await?))
}

fn number_of(text: &str) -> std::result::Result<i64, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("version", text))
}

pub(super) fn rendered_volume(volume: AppVolume) -> AppVolumeStatus {
    AppVolumeStatus {
        name: volume.name,
        id: volume.id,
        mount_path: Some(volume.mount_path).filter(|path| !path.is_empty()),
        size_limit_bytes: volume.size_limit_bytes,
        used_bytes: volume.used_bytes,
        mounted: volume.mounted,
        delete_on_sandbox_delete: volume.with_sandbox,
    }
}

pub(super) fn rendered(whole: AppWhole) -> AppResponse {
    let AppWhole { app, live, online, outdated, state } = whole;
    let manifest = live.and_then(|live| serde_json::from_str::<Value>(&live.manifest).ok());
    AppResponse {
        id: app.id,
        name: app.name,
        description: manifest.and_then(|manifest| manifest["description"].as_str().map(str::to_owned)),
        last_version: app.last_version,
        live_version: app.live_version,
        desired: app.desired.as_str().to_owned(),
        state: lifecycle::state(state).to_owned(),
        sandbox_id: online.as_ref().map(|online| online.sandbox_id.clone()),
        online_version: online.map(|online| online.version),
        outdated,
        created_by: app.created_by,
        created_at: rfc3339(app.created_at_ms),
        updated_at: rfc3339(app.updated_at_ms),
    }
}

fn rendered_version(app: &AppRecord, version: AppVersionRecord, whole: bool) -> AppVersionResponse {
    AppVersionResponse {
        app: app.name.clone(),
        version: version.number,
        state: version.state.as_str().to_owned(),
        reason: version.reason,
        live: app.live_version == Some(version.number),
        message: version.message,
        manifest_sha256: version.manifest_sha256,
        source_sha256: version.source_sha256,
        source_bytes: version.source_bytes,
        template_id: version.template_id,
        manifest: if whole { serde_json::from_str(&version.manifest).ok() } else { None },
        created_by: version.created_by,
        created_at: rfc3339(version.created_at_ms),
        finished_at: version.finished_at_ms.map(rfc3339),
        app_id: version.app_id,
    }
}
