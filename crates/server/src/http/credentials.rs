//! Credential sources: secrets that sandboxes use and never see. No reply holds any of them.

use axum::extract::{Path, State};
use sandbar_api::{
    credential::{CredentialSourceMetadata, CredentialSourceWriteRequest},
    error::ErrorEnvelope,
    reply::{Envelope, Message},
};
use sandbar_core::{limits, roles::Permission};
use serde_json::Value;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    reply::{self, Result},
    time::rfc3339,
};
use crate::app::{SharedApp, auth::Principal, credentials::Listed};

/// A body that holds a secret.
type Secret = Json<Value, { limits::CREDENTIAL_BODY_MAX_BYTES }>;

/// `/api/v1/credential-sources`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete))
}

/// The team's sources by name.
#[utoipa::path(get, path = "/api/v1/credential-sources", tag = "credentials", responses(
    (status = 200, body = Envelope<Vec<CredentialSourceMetadata>>), (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal) -> Result<Vec<CredentialSourceMetadata>> {
    who.require(Permission::CredentialSourceRead)?;
    reply::ok(app.credential_sources(&who).await?.into_iter().map(rendered).collect())
}

/// Make a source.
#[utoipa::path(post, path = "/api/v1/credential-sources", tag = "credentials", request_body = CredentialSourceWriteRequest, responses(
    (status = 201, body = Envelope<CredentialSourceMetadata>), (status = 400, body = ErrorEnvelope), (status = 401, body = ErrorEnvelope),
    (status = 403, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Json(body): Secret) -> Result<CredentialSourceMetadata> {
    who.require(Permission::CredentialSourceWrite)?;
    let created = app.whole(&who, "making a credential source", |app, who| async move { app.create_credential_source(&who, &body).await });
    reply::created(rendered(created.await?))
}

/// What can be known of a source.
#[utoipa::path(get, path = "/api/v1/credential-sources/{name}", tag = "credentials", params(("name" = String, Path)), responses(
    (status = 200, body = Envelope<CredentialSourceMetadata>), (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
    (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>) -> Result<CredentialSourceMetadata> {
    who.require(Permission::CredentialSourceRead)?;
    reply::ok(rendered(app.credential_source(&who, &name).await?))
}

/// Put another secret in its place. When the reply comes, every sandbox of the team uses it, in connections that are open
/// from their next request on. The kind stays.
#[utoipa::path(put, path = "/api/v1/credential-sources/{name}", tag = "credentials", params(("name" = String, Path)), request_body = CredentialSourceWriteRequest, responses(
    (status = 200, body = Envelope<CredentialSourceMetadata>), (status = 400, body = ErrorEnvelope), (status = 401, body = ErrorEnvelope),
    (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn update(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>, Json(body): Secret) -> Result<CredentialSourceMetadata> {
    who.require(Permission::CredentialSourceWrite)?;
    let rotated = app.whole(&who, "rotating a credential source", |app, who| async move { app.rotate_credential_source(&who, &name, body).await });
    reply::ok(rendered(rotated.await?))
}

/// Delete a source that no sandbox, template or function's revision binds.
#[utoipa::path(delete, path = "/api/v1/credential-sources/{name}", tag = "credentials", params(("name" = String, Path)), responses(
    (status = 200, body = Envelope<Message>), (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
    (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>) -> Result<Message> {
    who.require(Permission::CredentialSourceDelete)?;
    app.whole(&who, "deleting a credential source", |app, who| async move { app.delete_credential_source(&who, &name).await }).await?;
    reply::message("credential source deleted")
}

fn rendered(listed: Listed) -> CredentialSourceMetadata {
    let Listed { source, is_readable } = listed;
    CredentialSourceMetadata {
        name: source.name,
        resolver_kind: source.kind.as_str().to_owned(),
        current_version: source.version,
        status: if is_readable { "active" } else { "unreadable" }.to_owned(),
        created_at: rfc3339(source.created_at_ms),
        updated_at: rfc3339(source.updated_at_ms),
    }
}
