//! Versions and aliases of functions.

use axum::extract::{Path, State};
use sandbar_core::script::{Part, Split};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    render::{self, AliasView, FunctionView, PartView, VersionView},
    require_admin,
    wire::{self, Data, Done, Failed, Result},
};
use crate::{
    app::{SharedApp, auth::Principal, sandboxes::violations},
    error::ApiError,
    http::extract::{Json, OptionalJson},
};

/// Where an alias is to point: to one version, or to two.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AliasRequest {
    version: Option<u32>,
    split: Option<Vec<PartView>>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RollbackRequest {
    /// None: the newest before the one that is live.
    version: Option<u32>,
}

pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(list_aliases))
        .routes(routes!(put_alias, delete_alias))
        .routes(routes!(roll_back))
}

/// The versions of a function that are kept, the newest first.
#[utoipa::path(get, path = "/api/functions/{id}/versions", tag = "scripts", params(("id" = String, Path, description = "id or name")), responses(
    (status = 200, body = Data<Vec<VersionView>>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Data<Vec<VersionView>>> {
    require_admin(&who)?;
    let (whole, versions) = app.script_versions(&who, &id).await?;
    wire::data(versions.into_iter().map(|version| render::version(&whole, version, None)).collect())
}

/// A version with its code.
#[utoipa::path(get, path = "/api/functions/{id}/versions/{version}", tag = "scripts", params(("id" = String, Path, description = "id or name"), ("version" = u32, Path)), responses(
    (status = 200, body = Data<VersionView>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path((id, version)): Path<(String, String)>) -> Result<Data<VersionView>> {
    require_admin(&who)?;
    let whole = app.script(&who, &id).await?;
    let number = version.parse().map_err(|_| ApiError::not_found("version", &version))?;
    let version = app.script_version(&whole, number).await?;
    let (head, source) = version.into_head();
    wire::data(render::version(&whole, head, Some(source)))
}

/// The aliases of a function by name, `live` among them.
#[utoipa::path(get, path = "/api/functions/{id}/aliases", tag = "scripts", params(("id" = String, Path, description = "id or name")), responses(
    (status = 200, body = Data<Vec<AliasView>>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn list_aliases(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Data<Vec<AliasView>>> {
    require_admin(&who)?;
    wire::data(app.script(&who, &id).await?.aliases.into_iter().map(render::alias).collect())
}

/// Let an alias point to a version, or divide its calls between two by weight.
#[utoipa::path(put, path = "/api/functions/{id}/aliases/{alias}", tag = "scripts", params(("id" = String, Path, description = "id or name"), ("alias" = String, Path)), request_body = AliasRequest, responses(
    (status = 200, body = Data<AliasView>), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn put_alias(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, alias)): Path<(String, String)>,
    Json(request): Json<AliasRequest>,
) -> Result<Data<AliasView>> {
    require_admin(&who)?;
    let split = match (request.version, request.split) {
        (Some(version), None) => Split::of(vec![Part { version, weight: 1 }]),
        (None, Some(parts)) => Split::of(parts.into_iter().map(|part| Part { version: part.version, weight: part.weight }).collect()),
        (Some(_), Some(_)) | (None, None) => return Err(ApiError::bad_request("an alias has either version or split, a list of {version, weight}")),
    };
    let split = split.map_err(|wrong| violations(vec![wrong]))?;
    wire::data(render::alias(app.put_script_alias(&who, &id, &alias, split).await?))
}

/// Delete an alias, but for `live`.
#[utoipa::path(delete, path = "/api/functions/{id}/aliases/{alias}", tag = "scripts", params(("id" = String, Path, description = "id or name"), ("alias" = String, Path)), responses(
    (status = 200, body = Done), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed), (status = 409, body = Failed),
))]
async fn delete_alias(State(app): State<SharedApp>, who: Principal, Path((id, alias)): Path<(String, String)>) -> Result<Done> {
    require_admin(&who)?;
    app.delete_script_alias(&who, &id, &alias).await?;
    wire::done()
}

/// Make a former version live.
#[utoipa::path(post, path = "/api/functions/{id}/rollback", tag = "scripts", params(("id" = String, Path, description = "id or name")), request_body = RollbackRequest, responses(
    (status = 200, body = Data<FunctionView>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed), (status = 409, body = Failed),
))]
async fn roll_back(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<RollbackRequest>,
) -> Result<Data<FunctionView>> {
    require_admin(&who)?;
    let whole = app.roll_back_script(&who, &id, request.version).await?;
    let (code, next_run_at) = (app.live_source(&whole).await?, app.script_next_run(&whole.script).await?);
    wire::data(render::function(whole, code, next_run_at))
}
