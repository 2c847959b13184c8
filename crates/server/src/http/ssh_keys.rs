//! One's own SSH keys.

use axum::extract::{Path, State};
use sandbar_api::{
    auth::{CreateSSHPublicKeyRequest, SSHPublicKey, SSHPublicKeyListResponse},
    error::ErrorEnvelope,
    reply::{Envelope, Message},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    params::Params,
    reply::{self, Result},
    time::rfc3339,
};
use crate::app::{SharedApp, auth::Principal};

/// `/users/me/ssh-keys`.
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(delete))
}

/// One's keys for the team of the request, or everybody's.
#[utoipa::path(get, path = "/users/me/ssh-keys", tag = "users", params(
    ("all" = Option<bool>, Query, description = "those of all members, for admins of the team"),
), responses(
    (status = 200, body = Envelope<SSHPublicKeyListResponse>), (status = 400, body = ErrorEnvelope), (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, params: Params) -> Result<SSHPublicKeyListResponse> {
    let all = params.boolean("all")?.unwrap_or(false);
    let keys = if all { app.auth.list_team_ssh_keys(&who).await? } else { app.auth.list_ssh_keys(&who).await? };
    reply::ok(SSHPublicKeyListResponse { ssh_keys: keys.into_iter().map(rendered).collect() })
}

/// Add a public key. It opens the team's sandboxes by SSH as long as one may write them, and as the API key is good that adds it.
#[utoipa::path(post, path = "/users/me/ssh-keys", tag = "users", request_body = CreateSSHPublicKeyRequest, responses(
    (status = 201, body = Envelope<SSHPublicKey>), (status = 400, body = ErrorEnvelope), (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
    (status = 409, body = ErrorEnvelope),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Json(request): Json<CreateSSHPublicKeyRequest>) -> Result<SSHPublicKey> {
    let key = app.auth.add_ssh_key(&who, &request.name, &request.public_key).await?;
    reply::created(rendered(key))
}

/// Delete a key, an admin of the team anybody's. It lets nobody in any more; connections that are open stay.
#[utoipa::path(delete, path = "/users/me/ssh-keys/{id}", tag = "users", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<Message>), (status = 401, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Message> {
    app.auth.delete_ssh_key(&who, &id).await?;
    reply::message("SSH key deleted")
}

fn rendered(key: sandbar_store::SshKey) -> SSHPublicKey {
    SSHPublicKey {
        id: key.id,
        user_id: key.user_id,
        api_key_id: key.api_key_id,
        name: key.name,
        public_key: key.public_key,
        key_type: key.key_type,
        fingerprint_sha256: key.fingerprint,
        comment: key.comment,
        created_at: rfc3339(key.created_at_ms),
        updated_at: rfc3339(key.updated_at_ms),
    }
}
