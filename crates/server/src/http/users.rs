//! One's own user.

use axum::extract::{Path, State};
use sandbar_api::{
    auth::{Identity, IdentityListResponse, UpdateUserRequest, User},
    error::ErrorEnvelope,
    reply::{Envelope, Message},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    reply::{self, Result},
    time::rfc3339,
};
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
};

/// `/users/me`.
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(me, update)).routes(routes!(identities)).routes(routes!(delete_identity))
}

/// The user behind the token; for an API key, who made it.
#[utoipa::path(get, path = "/users/me", tag = "users", responses((status = 200, body = Envelope<User>), (status = 401, body = ErrorEnvelope)))]
async fn me(State(app): State<SharedApp>, who: Principal) -> Result<User> {
    let user = app.auth.user(&who).await?;
    reply::ok(rendered(user))
}

/// Change one's name or picture.
#[utoipa::path(put, path = "/users/me", tag = "users", request_body = UpdateUserRequest, responses(
    (status = 200, body = Envelope<User>), (status = 400, body = ErrorEnvelope), (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
))]
async fn update(State(app): State<SharedApp>, who: Principal, Json(request): Json<UpdateUserRequest>) -> Result<User> {
    let user = app.auth.update_user(&who, request.name.as_deref(), request.avatar_url.as_deref()).await?;
    reply::ok(rendered(user))
}

/// The ways in which one can log in.
#[utoipa::path(get, path = "/users/me/identities", tag = "users", responses((status = 200, body = Envelope<IdentityListResponse>), (status = 401, body = ErrorEnvelope)))]
async fn identities(State(app): State<SharedApp>, who: Principal) -> Result<IdentityListResponse> {
    let user = app.auth.user(&who).await?;
    reply::ok(IdentityListResponse { identities: identities_of(&user) })
}

/// Give up a way to log in. The password is the only one here, and the last one stays.
#[utoipa::path(delete, path = "/users/me/identities/{id}", tag = "users", params(("id" = String, Path)), responses(
    (status = 400, body = ErrorEnvelope), (status = 401, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn delete_identity(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Message> {
    let user = app.auth.user(&who).await?;
    if identities_of(&user).iter().any(|identity| identity.id == id) {
        return Err(ApiError::bad_request("the last way to log in cannot be given up"));
    }
    Err(ApiError::not_found("identity", &id))
}

/// A user as clients see one.
pub(super) fn rendered(user: sandbar_store::User) -> User {
    User {
        id: user.id,
        email: user.email,
        name: user.name,
        avatar_url: user.avatar_url.filter(|url| !url.is_empty()),
        email_verified: user.email_verified,
        is_admin: user.is_admin,
        created_at: rfc3339(user.created_at_ms),
        updated_at: rfc3339(user.updated_at_ms),
    }
}

fn identities_of(user: &sandbar_store::User) -> Vec<Identity> {
    let password = user.password_hash.as_ref().map(|_| Identity { id: user.id.clone(), provider: "builtin".into(), created_at: user.created_at_ms / 1000 });
    password.into_iter().collect()
}
