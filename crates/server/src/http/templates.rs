//! Templates: how a sandbox is made.

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use sandbar_api::{
    error::ErrorEnvelope,
    reply::{Envelope, Message},
    sandbox::SandboxConfig,
    template::{TemplateCreateRequest, TemplateFromSandboxRequest, TemplateListResponse, TemplateResponse, TemplateStatus, TemplateUpdateRequest},
};
use sandbar_core::{limits, quantity, roles::Permission, validate};
use sandbar_store::TemplateRecord;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    reply::{self, Result},
    snapshots::idempotency_key,
    time::rfc3339,
};
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
};

/// A body that holds a template.
type Template<T> = Json<T, { limits::TEMPLATE_BODY_MAX_BYTES }>;

/// `/api/v1/templates`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete)).routes(routes!(from_sandbox))
}

/// The templates that the team can claim from.
#[utoipa::path(get, path = "/api/v1/templates", tag = "templates", responses((status = 200, body = Envelope<TemplateListResponse>)))]
async fn list(State(app): State<SharedApp>, who: Principal) -> Result<TemplateListResponse> {
    who.require(Permission::TemplateRead)?;
    let templates = render(&app, &who, app.templates(&who).await?).await?;
    reply::ok(TemplateListResponse { count: templates.len() as u64, templates })
}

/// Make a template of the team's own.
#[utoipa::path(post, path = "/api/v1/templates", tag = "templates", request_body = TemplateCreateRequest, responses(
    (status = 201, body = Envelope<TemplateResponse>), (status = 400, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Json(request): Template<TemplateCreateRequest>) -> Result<TemplateResponse> {
    who.require(Permission::TemplateCreate)?;
    let template = app.create_template(&who, request).await?;
    reply::created(render_one(&app, &who, template).await?)
}

/// Make a template whose sandboxes begin with the files that a sandbox has now. With an `Idempotency-Key` the same
/// request can be sent again.
#[utoipa::path(post, path = "/api/v1/templates/from-sandbox", tag = "templates", request_body = TemplateFromSandboxRequest, responses(
    (status = 202, body = Envelope<TemplateResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn from_sandbox(
    State(app): State<SharedApp>,
    who: Principal,
    headers: HeaderMap,
    Json(request): Template<TemplateFromSandboxRequest>,
) -> Result<TemplateResponse> {
    who.require(Permission::TemplateCreate)?;
    let key = idempotency_key(&headers)?.map(str::to_owned);
    let made = app.whole(&who, "making a template", |app, who| async move { app.template_from_sandbox(&who, request, key.as_deref()).await });
    let template = made.await?;
    reply::with_status(StatusCode::ACCEPTED, render_one(&app, &who, template).await?)
}

/// A template.
#[utoipa::path(get, path = "/api/v1/templates/{id}", tag = "templates", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<TemplateResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<TemplateResponse> {
    who.require(Permission::TemplateRead)?;
    let template = app.template(&who, &id).await?;
    reply::ok(render_one(&app, &who, template).await?)
}

/// Replace a template's specification. Built-in ones cannot be changed.
#[utoipa::path(put, path = "/api/v1/templates/{id}", tag = "templates", params(("id" = String, Path)), request_body = TemplateUpdateRequest, responses(
    (status = 200, body = Envelope<TemplateResponse>), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn update(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    Json(request): Template<TemplateUpdateRequest>,
) -> Result<TemplateResponse> {
    who.require(Permission::TemplateWrite)?;
    let template = app.update_template(&who, &id, request.spec).await?;
    reply::ok(render_one(&app, &who, template).await?)
}

/// Delete a template. Sandboxes keep what they were claimed with.
#[utoipa::path(delete, path = "/api/v1/templates/{id}", tag = "templates", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<Message>), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Message> {
    who.require(Permission::TemplateDelete)?;
    app.delete_template(&who, &id).await?;
    reply::message("template deleted")
}

async fn render(app: &SharedApp, who: &Principal, records: Vec<TemplateRecord>) -> std::result::Result<Vec<TemplateResponse>, ApiError> {
    let states = app.template_states(who, &records).await?;
    Ok(records.into_iter().zip(states).map(|(record, status)| response(record, Some(status))).collect())
}

async fn render_one(app: &SharedApp, who: &Principal, record: TemplateRecord) -> std::result::Result<TemplateResponse, ApiError> {
    let status = app.template_states(who, std::slice::from_ref(&record)).await?.pop();
    Ok(response(record, status))
}

/// `mainContainer.resources.memory` is always there: clients require it.
fn response(record: TemplateRecord, status: Option<TemplateStatus>) -> TemplateResponse {
    let mut spec = record.spec;
    let has = validate::effective_resources(&spec, &SandboxConfig::default());
    spec.main_container.resources.memory.get_or_insert_with(|| quantity::format_bytes(has.memory_bytes));
    TemplateResponse {
        template_id: record.id,
        scope: if record.team_id.is_some() { "team" } else { "public" }.to_owned(),
        team_id: record.team_id,
        user_id: record.user_id,
        spec,
        status,
        created_at: rfc3339(record.created_at_ms),
        updated_at: rfc3339(record.updated_at_ms),
    }
}
