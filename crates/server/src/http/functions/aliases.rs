//! Aliases of functions.

use axum::extract::{Path, State};
use sandbar_api::{
    error::ErrorEnvelope,
    function::{FunctionAliasData, FunctionAliasListData, FunctionAliasUpdateRequest},
    reply::{Envelope, Message},
};
use sandbar_core::roles::Permission;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::render;
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
    http::{
        extract::Json,
        reply::{self, Result},
    },
};

pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, put, delete))
}

/// The aliases of a function by name.
#[utoipa::path(get, path = "/api/v1/functions/{id}/aliases", tag = "functions", operation_id = "list_function_aliases", params(("id" = String, Path, description = "id or slug")), responses(
    (status = 200, body = Envelope<FunctionAliasListData>), (status = 404, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<FunctionAliasListData> {
    who.require(Permission::FunctionRead)?;
    let function = app.function(&who, &id).await?;
    let aliases = app.function_aliases(&function).await?;
    reply::ok(FunctionAliasListData { aliases: aliases.iter().map(|alias| render::alias(alias, &function, &app.config)).collect() })
}

/// An alias.
#[utoipa::path(get, path = "/api/v1/functions/{id}/aliases/{alias}", tag = "functions", operation_id = "get_function_alias", params(("id" = String, Path, description = "id or slug"), ("alias" = String, Path)), responses(
    (status = 200, body = Envelope<FunctionAliasData>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path((id, alias)): Path<(String, String)>) -> Result<FunctionAliasData> {
    who.require(Permission::FunctionRead)?;
    let function = app.function(&who, &id).await?;
    let found = app.function_alias(&function, &alias).await?;
    let found = found.ok_or_else(|| ApiError::not_found("alias", &alias))?;
    reply::ok(FunctionAliasData { alias: render::alias(&found, &function, &app.config) })
}

/// Let an alias point to a revision, or divide its requests among several. `production` moves to a revision only when an instance of
/// it was ready (409 with the reason otherwise); setting it back is a rollback.
#[utoipa::path(put, path = "/api/v1/functions/{id}/aliases/{alias}", tag = "functions", operation_id = "put_function_alias", params(("id" = String, Path, description = "id or slug"), ("alias" = String, Path, description = "a DNS label")), request_body = FunctionAliasUpdateRequest, responses(
    (status = 200, body = Envelope<FunctionAliasData>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn put(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, alias)): Path<(String, String)>,
    Json(request): Json<FunctionAliasUpdateRequest>,
) -> Result<FunctionAliasData> {
    who.require(Permission::FunctionWrite)?;
    let function = app.function(&who, &id).await?;
    let set = app.whole(&who, "setting an alias", |app, who| async move { app.put_alias(&who, &id, &alias, request).await });
    reply::ok(FunctionAliasData { alias: render::alias(&set.await?, &function, &app.config) })
}

/// Delete an alias, but for `production`.
#[utoipa::path(delete, path = "/api/v1/functions/{id}/aliases/{alias}", tag = "functions", operation_id = "delete_function_alias", params(("id" = String, Path, description = "id or slug"), ("alias" = String, Path)), responses(
    (status = 200, body = Envelope<Message>), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path((id, alias)): Path<(String, String)>) -> Result<Message> {
    who.require(Permission::FunctionDelete)?;
    app.delete_alias(&who, &id, &alias).await?;
    reply::message("alias deleted")
}
