//! A sandbox's services: kept, validated and shown here; served by the gateway.

use axum::{
    Extension,
    extract::{Path, State},
};
use sandbar_api::{
    error::ErrorEnvelope,
    reply::Envelope,
    sandbox::{ServicesResponse, ServicesUpdateRequest},
};
use sandbar_core::{lifecycle::Profile, roles::Permission, sandbox::SandboxRecord};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    render,
    reply::{self, Result},
};
use crate::{
    app::{SharedApp, auth::Principal},
    config::Config,
    error::ApiError,
};

/// `/api/v1/sandboxes/{id}/services`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(get, put))
}

/// The services of a sandbox.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/services", tag = "services", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<ServicesResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Extension(profile): Extension<Profile>, Path(id): Path<String>) -> Result<ServicesResponse> {
    who.require(Permission::SandboxRead)?;
    let record = app.get(&who, &id).await?;
    reply::ok(rendered(&record, profile, &app.config))
}

/// Replace all services of a sandbox. An empty list clears them.
#[utoipa::path(put, path = "/api/v1/sandboxes/{id}/services", tag = "services", params(("id" = String, Path)), request_body = ServicesUpdateRequest, responses(
    (status = 200, body = Envelope<ServicesResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn put(
    State(app): State<SharedApp>,
    who: Principal,
    Extension(profile): Extension<Profile>,
    Path(id): Path<String>,
    Json(request): Json<ServicesUpdateRequest>,
) -> Result<ServicesResponse> {
    who.require(Permission::SandboxWrite)?;
    let Some(services) = request.services else { return Err(ApiError::bad_request("services is required")) };
    let record = app.put_services(&who, &id, services).await?;
    reply::ok(rendered(&record, profile, &app.config))
}

fn rendered(record: &SandboxRecord, profile: Profile, config: &Config) -> ServicesResponse {
    ServicesResponse { sandbox_id: record.id.clone(), services: render::services(record, profile, config), exposure_domain: config.public_domain.clone() }
}
