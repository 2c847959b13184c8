//! What takes the disk, for the operator.

use axum::extract::State;
use sandbar_api::{
    error::ErrorEnvelope,
    image::{GcRequest, GcResponse, StorageResponse},
    reply::Envelope,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::OptionalJson,
    reply::{self, Result},
};
use crate::app::{SharedApp, auth::Principal};

/// `/api/v1/storage`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(get)).routes(routes!(gc))
}

/// What takes the disk, by kind, and what is largest. Walks all files. Only the operator may.
#[utoipa::path(get, path = "/api/v1/storage", tag = "storage", responses((status = 200, body = Envelope<StorageResponse>), (status = 403, body = ErrorEnvelope)))]
async fn get(State(app): State<SharedApp>, who: Principal) -> Result<StorageResponse> {
    reply::ok(app.storage(&who).await?)
}

/// Remove what nothing names any more. The body may be empty. Only the operator may.
#[utoipa::path(post, path = "/api/v1/storage/gc", tag = "storage", request_body = GcRequest, responses(
    (status = 200, body = Envelope<GcResponse>), (status = 403, body = ErrorEnvelope),
))]
async fn gc(State(app): State<SharedApp>, who: Principal, OptionalJson(request): OptionalJson<GcRequest>) -> Result<GcResponse> {
    reply::ok(app.gc(&who, request).await?)
}
