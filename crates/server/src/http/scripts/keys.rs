//! Keys of functions.

use axum::extract::{Path, State};
use sandbar_store::ScriptKey;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    require_admin,
    wire::{self, Data, Done, Failed, Result},
};
use crate::{
    app::{SharedApp, auth::Principal},
    http::{extract::OptionalJson, time::rfc3339},
};

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct KeyRequest {
    /// What it is for.
    #[serde(default)]
    name: String,
}

/// A key of a function.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct KeyView {
    id: String,
    name: String,
    created_at: String,
    /// Only in the reply that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(delete))
}

/// The keys of a function, oldest first.
#[utoipa::path(get, path = "/api/functions/{id}/keys", tag = "scripts", params(("id" = String, Path, description = "id or name")), responses(
    (status = 200, body = Data<Vec<KeyView>>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Data<Vec<KeyView>>> {
    require_admin(&who)?;
    wire::data(app.script_keys(&who, &id).await?.into_iter().map(|key| rendered(key, None)).collect())
}

/// Make a key of a function, with which it can be invoked when its access is `key`. Only this reply holds its text.
#[utoipa::path(post, path = "/api/functions/{id}/keys", tag = "scripts", params(("id" = String, Path, description = "id or name")), request_body = KeyRequest, responses(
    (status = 201, body = Data<KeyView>), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn create(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<KeyRequest>,
) -> Result<Data<KeyView>> {
    require_admin(&who)?;
    let (key, text) = app.create_script_key(&who, &id, &request.name).await?;
    wire::created(rendered(key, Some(text)))
}

/// Delete a key of a function. It opens nothing any more.
#[utoipa::path(delete, path = "/api/functions/{id}/keys/{key}", tag = "scripts", params(("id" = String, Path, description = "id or name"), ("key" = String, Path)), responses(
    (status = 200, body = Done), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path((id, key)): Path<(String, String)>) -> Result<Done> {
    require_admin(&who)?;
    app.delete_script_key(&who, &id, &key).await?;
    wire::done()
}

fn rendered(key: ScriptKey, text: Option<String>) -> KeyView {
    KeyView { id: key.id, name: key.name, created_at: rfc3339(key.created_at_ms), key: text }
}
