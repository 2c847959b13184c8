//! Volumes, their snapshots and forks. Their files are in [`files`].

use axum::extract::{Path, State};
use sandbar_api::{
    error::ErrorEnvelope,
    reply::Envelope,
    volume::{VolumeCreateRequest, VolumeForkRequest, VolumeResponse, VolumeRestoreResponse, VolumeSnapshotRequest, VolumeSnapshotResponse},
};
use sandbar_core::{quantity, roles::Permission};
use sandbar_store::{VolumeRecord, VolumeSnapshotRecord};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::OptionalJson,
    params::Params,
    reply::{self, Result},
    time::rfc3339,
};
use crate::{
    app::{App, SharedApp, auth::Principal},
    error::ApiError,
};

mod archive;
mod files;

/// `/api/v1/sandboxvolumes`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, delete))
        .routes(routes!(fork))
        .routes(routes!(list_snapshots, create_snapshot))
        .routes(routes!(get_snapshot, delete_snapshot))
        .routes(routes!(restore))
        .merge(files::router())
        .merge(archive::router())
}

/// The team's volumes, oldest first.
#[utoipa::path(get, path = "/api/v1/sandboxvolumes", tag = "volumes", responses((status = 200, body = Envelope<Vec<VolumeResponse>>)))]
async fn list(State(app): State<SharedApp>, who: Principal) -> Result<Vec<VolumeResponse>> {
    who.require(Permission::VolumeRead)?;
    let mut volumes = Vec::new();
    for volume in app.volumes(&who).await? {
        volumes.push(rendered(&app, volume).await?);
    }
    reply::ok(volumes)
}

/// Make a volume, empty or with the files of a volume snapshot. The body may be empty.
#[utoipa::path(post, path = "/api/v1/sandboxvolumes", tag = "volumes", request_body = VolumeCreateRequest, responses(
    (status = 201, body = Envelope<VolumeResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 429, body = ErrorEnvelope),
))]
async fn create(State(app): State<SharedApp>, who: Principal, OptionalJson(request): OptionalJson<VolumeCreateRequest>) -> Result<VolumeResponse> {
    who.require(Permission::VolumeWrite)?;
    let volume = app.whole(&who, "making a volume", |app, who| async move { app.create_volume(&who, request).await }).await?;
    reply::created(rendered(&app, volume).await?)
}

/// A volume, and which sandboxes have it.
#[utoipa::path(get, path = "/api/v1/sandboxvolumes/{id}", tag = "volumes", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<VolumeResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<VolumeResponse> {
    who.require(Permission::VolumeRead)?;
    let volume = app.volume(&who, &id).await?;
    reply::ok(rendered(&app, volume).await?)
}

/// Delete a volume with its files and snapshots. One that sandboxes have is deleted only with `force`: their processes
/// end, and they start without it.
#[utoipa::path(delete, path = "/api/v1/sandboxvolumes/{id}", tag = "volumes", params(("id" = String, Path), ("force" = Option<bool>, Query)), responses(
    (status = 200, body = Envelope<Object>), (status = 404, body = ErrorEnvelope), (status = 409, description = "a sandbox has it", body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<Value> {
    who.require(Permission::VolumeDelete)?;
    let force = params.boolean("force")?.unwrap_or(false);
    app.whole(&who, "deleting a volume", |app, who| async move { app.delete_volume(&who, &id, force).await }).await?;
    reply::ok(json!({ "deleted": true }))
}

/// A new volume with the files that this one has now. The body may be empty.
#[utoipa::path(post, path = "/api/v1/sandboxvolumes/{id}/fork", tag = "volumes", params(("id" = String, Path)), request_body = VolumeForkRequest, responses(
    (status = 201, body = Envelope<VolumeResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn fork(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<VolumeForkRequest>,
) -> Result<VolumeResponse> {
    who.require(Permission::VolumeWrite)?;
    let volume = app.whole(&who, "forking a volume", |app, who| async move { app.fork_volume(&who, &id, request).await }).await?;
    reply::created(rendered(&app, volume).await?)
}

/// The snapshots of a volume, oldest first.
#[utoipa::path(get, path = "/api/v1/sandboxvolumes/{id}/snapshots", tag = "volumes", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<Vec<VolumeSnapshotResponse>>), (status = 404, body = ErrorEnvelope),
))]
async fn list_snapshots(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Vec<VolumeSnapshotResponse>> {
    who.require(Permission::VolumeRead)?;
    reply::ok(app.volume_snapshots(&who, &id).await?.into_iter().map(snapshot).collect())
}

/// Keep the files of a volume as they are now; sandboxes that write to it stand still meanwhile. The body may be empty.
#[utoipa::path(post, path = "/api/v1/sandboxvolumes/{id}/snapshots", tag = "volumes", params(("id" = String, Path)), request_body = VolumeSnapshotRequest, responses(
    (status = 201, body = Envelope<VolumeSnapshotResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn create_snapshot(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<VolumeSnapshotRequest>,
) -> Result<VolumeSnapshotResponse> {
    who.require(Permission::VolumeWrite)?;
    let made = app.whole(&who, "taking a snapshot", |app, who| async move { app.create_volume_snapshot(&who, &id, request).await });
    reply::created(snapshot(made.await?))
}

/// One snapshot of a volume.
#[utoipa::path(get, path = "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}", tag = "volumes", params(("id" = String, Path), ("snapshot_id" = String, Path)), responses(
    (status = 200, body = Envelope<VolumeSnapshotResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn get_snapshot(State(app): State<SharedApp>, who: Principal, Path((id, snapshot_id)): Path<(String, String)>) -> Result<VolumeSnapshotResponse> {
    who.require(Permission::VolumeRead)?;
    reply::ok(snapshot(app.volume_snapshot(&who, &id, &snapshot_id).await?))
}

/// Delete a snapshot of a volume. One that is gone already is deleted too.
#[utoipa::path(delete, path = "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}", tag = "volumes", params(("id" = String, Path), ("snapshot_id" = String, Path)), responses(
    (status = 200, body = Envelope<Object>), (status = 404, body = ErrorEnvelope),
))]
async fn delete_snapshot(State(app): State<SharedApp>, who: Principal, Path((id, snapshot_id)): Path<(String, String)>) -> Result<Value> {
    who.require(Permission::VolumeWrite)?;
    app.delete_volume_snapshot(&who, &id, &snapshot_id).await?;
    reply::ok(json!({ "deleted": true }))
}

/// Give a volume the files of one of its snapshots. Not while a sandbox has it.
#[utoipa::path(post, path = "/api/v1/sandboxvolumes/{id}/snapshots/{snapshot_id}/restore", tag = "volumes", params(("id" = String, Path), ("snapshot_id" = String, Path)), responses(
    (status = 200, body = Envelope<VolumeRestoreResponse>), (status = 404, body = ErrorEnvelope), (status = 409, description = "a sandbox has it", body = ErrorEnvelope),
))]
async fn restore(State(app): State<SharedApp>, who: Principal, Path((id, snapshot_id)): Path<(String, String)>) -> Result<VolumeRestoreResponse> {
    who.require(Permission::VolumeWrite)?;
    let (volume, snapshot) = (id.clone(), snapshot_id.clone());
    app.whole(&who, "restoring a volume", |app, who| async move { app.restore_volume(&who, &volume, &snapshot).await }).await?;
    reply::ok(VolumeRestoreResponse { volume_id: id, snapshot_id, status: "restored".to_owned() })
}

async fn rendered(app: &App, volume: VolumeRecord) -> std::result::Result<VolumeResponse, ApiError> {
    let mounted_by = app.volume_holders(&volume.id).await?.into_iter().map(|holder| holder.sandbox_id).collect();
    let app_name = app.app_of_volume(&volume.id).await?;
    Ok(VolumeResponse {
        id: volume.id,
        app: app_name,
        team_id: volume.team_id,
        user_id: volume.user_id,
        name: volume.name,
        access_mode: volume.access_mode.as_str().to_owned(),
        backend: "s0fs".to_owned(),
        default_posix_uid: volume.uid,
        default_posix_gid: volume.gid,
        size_limit: quantity::format_bytes(volume.size_limit_bytes),
        source_volume_id: volume.source_volume_id,
        mounted_by,
        created_at: rfc3339(volume.created_at_ms),
        updated_at: rfc3339(volume.updated_at_ms),
    })
}

fn snapshot(record: VolumeSnapshotRecord) -> VolumeSnapshotResponse {
    VolumeSnapshotResponse {
        id: record.id,
        volume_id: record.volume_id,
        name: record.name,
        description: record.description,
        size_bytes: record.size_bytes,
        created_at: rfc3339(record.created_at_ms),
    }
}
