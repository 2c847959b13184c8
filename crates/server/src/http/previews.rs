//! Private ways to the ports of a sandbox. What lets one in is in the reply to their making and nowhere else.

use axum::{
    extract::{Path, State},
    http::{HeaderName, header},
};
use sandbar_api::{
    error::ErrorEnvelope,
    preview::{PreviewCreateRequest, PreviewListResponse, PreviewRenewRequest, PreviewResponse},
    reply::{Envelope, Message},
};
use sandbar_core::{
    preview::{self, PreviewRecord},
    roles::Permission,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Json, OptionalJson},
    reply::{self, Reply},
    time::rfc3339,
};
use crate::{
    app::{SharedApp, auth::Principal, sandboxes::violations},
    error::ApiError,
};

/// A reply that nobody on its way keeps.
pub(super) type Result<T> = std::result::Result<([(HeaderName, &'static str); 1], Reply<T>), ApiError>;

/// `/api/v1/sandboxes/{id}/previews`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get, renew, delete))
}

/// Make a preview of a port. Its URL works once; who opens it sees what listens there.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/previews", tag = "services", params(("id" = String, Path)), request_body = PreviewCreateRequest, responses(
    (status = 201, body = Envelope<PreviewResponse>), (status = 400, body = ErrorEnvelope), (status = 403, description = "the port is reserved", body = ErrorEnvelope),
    (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope), (status = 429, description = "there are too many", body = ErrorEnvelope),
    (status = 503, body = ErrorEnvelope),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, Json(request): Json<PreviewCreateRequest>) -> Result<PreviewResponse> {
    who.require(Permission::SandboxWrite)?;
    let PreviewCreateRequest { port, protocol, path, ttl_seconds, resume } = request;
    let new = preview::wanted(port, protocol.as_deref(), path.as_deref(), ttl_seconds, resume.unwrap_or(false)).map_err(violations)?;
    let made = app.create_preview(&who, &id, new).await?;
    private(reply::created(PreviewResponse { url: made.url, ..rendered(&app, &made.record) }))
}

/// One's own previews of a sandbox that are good.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/previews", tag = "services", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<PreviewListResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<PreviewListResponse> {
    who.require(Permission::SandboxRead)?;
    let previews = app.previews(&who, &id).await?.iter().map(|preview| rendered(&app, preview)).collect();
    private(reply::ok(PreviewListResponse { previews }))
}

/// One of one's own previews.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/previews/{preview_id}", tag = "services", params(("id" = String, Path), ("preview_id" = String, Path)), responses(
    (status = 200, body = Envelope<PreviewResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path((id, preview_id)): Path<(String, String)>) -> Result<PreviewResponse> {
    who.require(Permission::SandboxRead)?;
    let preview = app.preview(&who, &id, &preview_id).await?;
    private(reply::ok(rendered(&app, &preview)))
}

/// Let a preview be good for longer. The body may be empty.
#[utoipa::path(put, path = "/api/v1/sandboxes/{id}/previews/{preview_id}", tag = "services", params(("id" = String, Path), ("preview_id" = String, Path)),
    request_body = PreviewRenewRequest, responses(
    (status = 200, body = Envelope<PreviewResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
    (status = 409, description = "it is of a former runtime, or the sandbox sleeps", body = ErrorEnvelope),
))]
async fn renew(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, preview_id)): Path<(String, String)>,
    OptionalJson(request): OptionalJson<PreviewRenewRequest>,
) -> Result<PreviewResponse> {
    who.require(Permission::SandboxWrite)?;
    let ttl_ms = preview::ttl_ms(request.ttl_seconds).map_err(|violation| violations(vec![violation]))?;
    let preview = app.renew_preview(&who, &id, &preview_id, ttl_ms).await?;
    private(reply::ok(rendered(&app, &preview)))
}

/// Revoke a preview.
#[utoipa::path(delete, path = "/api/v1/sandboxes/{id}/previews/{preview_id}", tag = "services", params(("id" = String, Path), ("preview_id" = String, Path)), responses(
    (status = 200, body = Envelope<Message>), (status = 404, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path((id, preview_id)): Path<(String, String)>) -> Result<Message> {
    who.require(Permission::SandboxWrite)?;
    app.delete_preview(&who, &id, &preview_id).await?;
    private(reply::message("preview revoked"))
}

pub(super) fn private<T>(reply: reply::Result<T>) -> Result<T> {
    Ok(([(header::CACHE_CONTROL, "no-store")], reply?))
}

pub(super) fn rendered(app: &SharedApp, preview: &PreviewRecord) -> PreviewResponse {
    let target_url = app.preview_target(preview);
    PreviewResponse {
        id: preview.id.clone(),
        sandbox_id: preview.sandbox_id.clone(),
        port: preview.port,
        protocol: preview.protocol.as_str().to_owned(),
        url: target_url.clone(),
        target_url,
        resume: preview.wakes,
        created_at: rfc3339(preview.created_at_ms),
        opened_at: preview.opened_at_ms.map(rfc3339),
        expires_at: rfc3339(preview.expires_at_ms),
        runtime_generation: preview.runtime_generation,
    }
}
