//! API keys.

use axum::extract::{Path, State};
use sandbar_api::{
    auth::{ApiKey, ApiKeyListResponse, CreateApiKeyRequest, CreateApiKeyResponse, CurrentApiKey, CurrentApiKeyResponse},
    error::ErrorEnvelope,
    reply::{Envelope, Message},
};
use sandbar_core::roles::Role;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    reply::{self, Result},
    time::rfc3339,
};
use crate::app::{
    SharedApp,
    auth::{NewKey, Principal},
};

/// `/api-keys`.
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(current)).routes(routes!(delete)).routes(routes!(deactivate))
}

/// The team's keys; for those who are no admin, their own.
#[utoipa::path(get, path = "/api-keys", tag = "api keys", responses((status = 200, body = Envelope<ApiKeyListResponse>), (status = 401, body = ErrorEnvelope)))]
async fn list(State(app): State<SharedApp>, who: Principal) -> Result<ApiKeyListResponse> {
    let keys = app.auth.list_keys(&who).await?;
    reply::ok(ApiKeyListResponse { api_keys: keys.into_iter().map(rendered).collect() })
}

/// Make a key. Only this reply holds its text.
#[utoipa::path(post, path = "/api-keys", tag = "api keys", request_body = CreateApiKeyRequest, responses(
    (status = 201, body = Envelope<CreateApiKeyResponse>), (status = 400, body = ErrorEnvelope), (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Json(request): Json<CreateApiKeyRequest>) -> Result<CreateApiKeyResponse> {
    let CreateApiKeyRequest { name, scope, roles, expires_in } = request;
    let (key, text) = app.auth.create_key(&who, NewKey { name, scope, roles, expires_in }).await?;
    reply::created(CreateApiKeyResponse {
        id: key.id,
        name: key.name,
        scope: key.scope,
        roles: names(&key.roles),
        team_id: key.team_id,
        key: text,
        expires_at: rfc3339(key.expires_at_ms),
        created_at: rfc3339(key.created_at_ms),
    })
}

/// The key that the request is made with, and what it may do.
#[utoipa::path(get, path = "/api-keys/current", tag = "api keys", responses((status = 200, body = Envelope<CurrentApiKeyResponse>), (status = 401, body = ErrorEnvelope)))]
async fn current(State(app): State<SharedApp>, who: Principal) -> Result<CurrentApiKeyResponse> {
    let key = app.auth.current_key(&who).await?;
    reply::ok(CurrentApiKeyResponse {
        api_key: CurrentApiKey {
            id: key.id,
            team_id: key.team_id,
            created_by: key.created_by,
            scope: key.scope,
            roles: names(&key.roles),
            permissions: who.permissions.iter().map(|permission| permission.as_str().to_owned()).collect(),
            is_active: key.is_active,
            expires_at: rfc3339(key.expires_at_ms),
        },
    })
}

/// Delete a key. It stops working at once.
#[utoipa::path(delete, path = "/api-keys/{id}", tag = "api keys", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<Message>), (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Message> {
    app.auth.delete_key(&who, &id).await?;
    reply::message("API key deleted")
}

/// Make a key useless but keep its row.
#[utoipa::path(post, path = "/api-keys/{id}/deactivate", tag = "api keys", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<Message>), (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn deactivate(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Message> {
    app.auth.deactivate_key(&who, &id).await?;
    reply::message("API key deactivated")
}

fn rendered(key: sandbar_store::ApiKey) -> ApiKey {
    ApiKey {
        id: key.id,
        team_id: key.team_id,
        user_id: key.created_by.clone(),
        created_by: key.created_by,
        name: key.name,
        scope: key.scope,
        roles: names(&key.roles),
        is_active: key.is_active,
        expires_at: rfc3339(key.expires_at_ms),
        created_at: rfc3339(key.created_at_ms),
        updated_at: rfc3339(key.updated_at_ms),
        last_used_at: key.last_used_at_ms.map(rfc3339),
        usage_count: key.usage_count,
    }
}

fn names(roles: &[Role]) -> Vec<String> {
    roles.iter().map(ToString::to_string).collect()
}
