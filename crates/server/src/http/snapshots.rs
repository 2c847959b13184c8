//! Snapshots, restores and forks of sandboxes.

use axum::{
    Extension,
    extract::{Path, State},
    http::HeaderMap,
};
use sandbar_api::{
    error::ErrorEnvelope,
    reply::Envelope,
    snapshot::{ForkRequest, ForkResponse, RestoreRequest, RestoreResponse, SnapshotCreateRequest, SnapshotListResponse, SnapshotResponse},
};
use sandbar_core::{
    lifecycle::{self, Profile},
    roles::Permission,
};
use sandbar_store::SnapshotRecord;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Json, OptionalJson},
    render,
    reply::{self, Result},
    time::rfc3339,
};
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
};

/// `/api/v1/sandboxes/{id}/snapshots`, `/rootfs` and `/fork`, and `/api/v1/sandbox-rootfs-snapshots`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(list_all))
        .routes(routes!(get, delete))
        .routes(routes!(restore))
        .routes(routes!(fork))
        .routes(routes!(rebase))
}

/// Keep the files of a sandbox as they are now. Of one without processes nothing is copied. The body may be empty.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/snapshots", tag = "snapshots", params(("id" = String, Path)), request_body = SnapshotCreateRequest, responses(
    (status = 201, body = Envelope<SnapshotResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn create(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<SnapshotCreateRequest>,
) -> Result<SnapshotResponse> {
    who.require(Permission::SandboxWrite)?;
    let made = app.whole(&who, "taking a snapshot", |app, who| async move { app.create_snapshot(&who, &id, request).await });
    reply::created(rendered(made.await?))
}

/// The snapshots of a sandbox, oldest first.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/snapshots", tag = "snapshots", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<SnapshotListResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<SnapshotListResponse> {
    who.require(Permission::SandboxRead)?;
    let snapshots: Vec<_> = app.snapshots(&who, &id).await?.into_iter().map(rendered).collect();
    reply::ok(SnapshotListResponse { count: snapshots.len() as u64, snapshots })
}

/// All snapshots of the team, oldest first; those of sandboxes that are gone, too.
#[utoipa::path(get, path = "/api/v1/sandbox-rootfs-snapshots", tag = "snapshots", responses((status = 200, body = Envelope<SnapshotListResponse>)))]
async fn list_all(State(app): State<SharedApp>, who: Principal) -> Result<SnapshotListResponse> {
    who.require(Permission::SandboxRead)?;
    let snapshots: Vec<_> = app.team_snapshots(&who).await?.into_iter().map(rendered).collect();
    reply::ok(SnapshotListResponse { count: snapshots.len() as u64, snapshots })
}

/// One snapshot. It outlives its sandbox.
#[utoipa::path(get, path = "/api/v1/sandbox-rootfs-snapshots/{snapshot_id}", tag = "snapshots", params(("snapshot_id" = String, Path)), responses(
    (status = 200, body = Envelope<SnapshotResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<SnapshotResponse> {
    who.require(Permission::SandboxRead)?;
    reply::ok(rendered(app.snapshot(&who, &id).await?))
}

/// Delete a snapshot. What was made from it stays.
#[utoipa::path(delete, path = "/api/v1/sandbox-rootfs-snapshots/{snapshot_id}", tag = "snapshots", params(("snapshot_id" = String, Path)), responses(
    (status = 200, body = Envelope<Object>), (status = 404, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Value> {
    who.require(Permission::SandboxWrite)?;
    app.delete_snapshot(&who, &id).await?;
    reply::ok(json!({ "deleted": true }))
}

/// Put the files of a snapshot in place of a paused sandbox's own. It stays paused; memory that was kept is given up.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/rootfs/restore", tag = "snapshots", params(("id" = String, Path)), request_body = RestoreRequest, responses(
    (status = 200, body = Envelope<RestoreResponse>), (status = 404, body = ErrorEnvelope), (status = 409, description = "it is not paused", body = ErrorEnvelope),
))]
async fn restore(
    State(app): State<SharedApp>,
    who: Principal,
    Extension(profile): Extension<Profile>,
    Path(id): Path<String>,
    Json(request): Json<RestoreRequest>,
) -> Result<RestoreResponse> {
    who.require(Permission::SandboxWrite)?;
    let (sandbox_id, snapshot_id) = (id.clone(), request.snapshot_id.clone());
    let restored = app.whole(&who, "restoring a snapshot", |app, who| async move { app.restore_snapshot(&who, &sandbox_id, &snapshot_id).await });
    let record = restored.await?;
    let status = lifecycle::wire_status(&record, profile).status.to_owned();
    reply::ok(RestoreResponse { sandbox_id: id, snapshot_id: request.snapshot_id, status })
}

/// A new sandbox, paused, with the files and configuration of this one. The body may be empty.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/fork", tag = "snapshots", params(("id" = String, Path)), request_body = ForkRequest, responses(
    (status = 201, body = Envelope<ForkResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn fork(
    State(app): State<SharedApp>,
    who: Principal,
    Extension(profile): Extension<Profile>,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<ForkRequest>,
) -> Result<ForkResponse> {
    who.require(Permission::SandboxWrite)?;
    who.require(Permission::SandboxCreate)?;
    app.admit_claim(&who)?;
    let source = id.clone();
    let record = app.whole(&who, "forking a sandbox", |app, who| async move { app.fork(&who, &source, request).await }).await?;
    reply::created(ForkResponse { source_sandbox_id: id, sandbox: render::full(&record, profile, &app) })
}

/// Changing the image under a sandbox's files is refused: what was installed into them belongs to the image they were
/// made on.
#[utoipa::path(put, path = "/api/v1/sandboxes/{id}/rootfs/rebase", tag = "snapshots", params(("id" = String, Path)), responses(
    (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn rebase(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Value> {
    who.require(Permission::SandboxWrite)?;
    app.get(&who, &id).await?;
    let text = "this server does not put a sandbox's files on another image; claim a sandbox of a template with that image and copy what is needed";
    Err(ApiError::conflict(text))
}

/// The key of a request that may be sent again: at most 255 bytes.
pub fn idempotency_key(headers: &HeaderMap) -> std::result::Result<Option<&str>, ApiError> {
    const BYTES_MAX: usize = 255;
    match headers.get("idempotency-key").map(|value| value.to_str()) {
        None => Ok(None),
        Some(Ok(key)) if !key.is_empty() && key.len() <= BYTES_MAX => Ok(Some(key)),
        Some(_) => Err(ApiError::bad_request(format!("Idempotency-Key: must be 1 to {BYTES_MAX} visible ASCII characters"))),
    }
}

fn rendered(snapshot: SnapshotRecord) -> SnapshotResponse {
    SnapshotResponse {
        id: snapshot.id,
        sandbox_id: snapshot.sandbox_id,
        name: snapshot.name,
        description: snapshot.description,
        expires_at: snapshot.expires_at_ms.map(rfc3339),
        created_at: rfc3339(snapshot.created_at_ms),
    }
}
