//! Secrets of functions. No reply holds any of them.

use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    require_admin,
    wire::{self, Data, Done, Failed, Result},
};
use crate::{
    app::{SharedApp, auth::Principal},
    http::{extract::Json, time::rfc3339},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SecretRequest {
    value: String,
}

/// What can be known of a secret.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SecretView {
    name: String,
    /// Grows with each write.
    version: i64,
    updated_at: String,
}

pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(put, delete))
}

/// The secrets of a function by name.
#[utoipa::path(get, path = "/api/functions/{id}/secrets", tag = "scripts", params(("id" = String, Path, description = "id or name")), responses(
    (status = 200, body = Data<Vec<SecretView>>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Data<Vec<SecretView>>> {
    require_admin(&who)?;
    let secrets = app.script_secrets(&who, &id).await?;
    wire::data(secrets.into_iter().map(|secret| SecretView { name: secret.name, version: secret.version, updated_at: rfc3339(secret.updated_at_ms) }).collect())
}

/// Bind a secret to a function, in place of the former one of the name. Its runs get it by `ctx.secrets.get`.
#[utoipa::path(put, path = "/api/functions/{id}/secrets/{name}", tag = "scripts", params(("id" = String, Path, description = "id or name"), ("name" = String, Path)), request_body = SecretRequest, responses(
    (status = 200, body = Done), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn put(State(app): State<SharedApp>, who: Principal, Path((id, name)): Path<(String, String)>, Json(request): Json<SecretRequest>) -> Result<Done> {
    require_admin(&who)?;
    app.put_script_secret(&who, &id, &name, &request.value).await?;
    wire::done()
}

/// Take a secret away from a function.
#[utoipa::path(delete, path = "/api/functions/{id}/secrets/{name}", tag = "scripts", params(("id" = String, Path, description = "id or name"), ("name" = String, Path)), responses(
    (status = 200, body = Done), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path((id, name)): Path<(String, String)>) -> Result<Done> {
    require_admin(&who)?;
    app.delete_script_secret(&who, &id, &name).await?;
    wire::done()
}
