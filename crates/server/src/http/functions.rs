//! Functions: publish, look, change, end. Their revisions and aliases are in [`revisions`] and [`aliases`], what serves them in
//! [`runtime`]; the gateway serves them.

use axum::extract::{Path, State};
use sandbar_api::{
    error::ErrorEnvelope,
    function::{FunctionCreateData, FunctionCreateRequest, FunctionData, FunctionListData, FunctionUpdateRequest},
    reply::Envelope,
};
use sandbar_core::{
    function::{FunctionRecord, PRODUCTION},
    roles::Permission,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    reply::{self, Result},
};
use crate::{
    app::{App, SharedApp, auth::Principal},
    error::ApiError,
};

mod aliases;
mod render;
mod revisions;
mod runtime;

/// `/api/v1/functions`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
        .merge(revisions::router())
        .merge(aliases::router())
        .merge(runtime::router())
}

/// The team's functions, the last changed first.
#[utoipa::path(get, path = "/api/v1/functions", tag = "functions", operation_id = "list_functions", responses((status = 200, body = Envelope<FunctionListData>)))]
async fn list(State(app): State<SharedApp>, who: Principal) -> Result<FunctionListData> {
    who.require(Permission::FunctionRead)?;
    let functions = app.functions(&who).await?;
    let rendered = functions.iter().map(|(function, split)| render::function(function, split.as_ref(), &app.config));
    reply::ok(FunctionListData { functions: rendered.collect() })
}

/// Publish a service of a sandbox, or a specification, as a function. Its first revision holds the service, the configuration and
/// all files as they are now, and `production` points to it.
#[utoipa::path(post, path = "/api/v1/functions", tag = "functions", operation_id = "create_function", request_body = FunctionCreateRequest, responses(
    (status = 201, body = Envelope<FunctionCreateData>), (status = 400, description = "also when the service is not publishable, with details.blockers", body = ErrorEnvelope),
    (status = 404, body = ErrorEnvelope), (status = 409, description = "the name is taken", body = ErrorEnvelope), (status = 429, body = ErrorEnvelope),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Json(request): Json<FunctionCreateRequest>) -> Result<FunctionCreateData> {
    who.require(Permission::FunctionCreate)?;
    let made = app.whole(&who, "publishing a function", |app, who| async move { app.create_function(&who, request).await });
    let (function, revision, alias) = made.await?;
    reply::created(FunctionCreateData {
        revision: render::revision(&revision, None, None),
        alias: render::alias(&alias, &function, &app.config),
        function: render::function(&function, Some(&alias.split), &app.config),
    })
}

/// A function by id or slug.
#[utoipa::path(get, path = "/api/v1/functions/{id}", tag = "functions", operation_id = "get_function", params(("id" = String, Path, description = "id or slug")), responses(
    (status = 200, body = Envelope<FunctionData>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<FunctionData> {
    who.require(Permission::FunctionRead)?;
    let function = app.function(&who, &id).await?;
    reply::ok(data(&app, function).await?)
}

/// Change a function: its name, whether it is served, how many instances it may have. Slug and host stay. Absent fields are kept.
#[utoipa::path(put, path = "/api/v1/functions/{id}", tag = "functions", operation_id = "update_function", params(("id" = String, Path, description = "id or slug")), request_body = FunctionUpdateRequest, responses(
    (status = 200, body = Envelope<FunctionData>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn update(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, Json(request): Json<FunctionUpdateRequest>) -> Result<FunctionData> {
    who.require(Permission::FunctionWrite)?;
    let function = app.update_function(&who, &id, request).await?;
    reply::ok(data(&app, function).await?)
}

/// Delete a function with its revisions, aliases and instances. Its slug and its host stay taken.
#[utoipa::path(delete, path = "/api/v1/functions/{id}", tag = "functions", operation_id = "delete_function", params(("id" = String, Path, description = "id or slug")), responses(
    (status = 200, body = Envelope<FunctionData>), (status = 404, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<FunctionData> {
    who.require(Permission::FunctionDelete)?;
    let function = app.whole(&who, "deleting a function", |app, who| async move { app.delete_function(&who, &id).await }).await?;
    reply::ok(FunctionData { function: render::function(&function, None, &app.config), message: Some("function deleted".to_owned()) })
}

async fn data(app: &App, function: FunctionRecord) -> std::result::Result<FunctionData, ApiError> {
    let production = app.function_alias(&function, PRODUCTION).await?;
    Ok(FunctionData { function: render::function(&function, production.as_ref().map(|alias| &alias.split), &app.config), message: None })
}
