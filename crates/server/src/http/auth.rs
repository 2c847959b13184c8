//! Logging in, out, and registering.

use axum::extract::State;
use sandbar_api::{
    auth::{AuthProvider, AuthProvidersResponse, ChangePasswordRequest, LoginRequest, LoginResponse, RefreshTokenRequest, RegisterRequest},
    error::ErrorEnvelope,
    reply::{Envelope, Message},
};
use sandbar_core::limits;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    reply::{self, Result},
    users,
};
use crate::{
    app::{
        SharedApp,
        auth::{Login, Principal},
    },
    gateway::Client,
};

/// A body that strangers may send.
type Small<T> = Json<T, { limits::LOGIN_BODY_MAX_BYTES }>;

/// `/auth`.
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(providers))
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(change_password))
        .routes(routes!(register))
}

/// The ways to log in.
#[utoipa::path(get, path = "/auth/providers", tag = "auth", security(), responses((status = 200, body = Envelope<AuthProvidersResponse>)))]
async fn providers() -> Result<AuthProvidersResponse> {
    let builtin = AuthProvider {
        id: "builtin".into(),
        name: "Email and password".into(),
        kind: "builtin".into(),
        browser_login_enabled: false,
        device_login_enabled: false,
    };
    reply::ok(AuthProvidersResponse { providers: vec![builtin] })
}

/// Log in with email and password.
#[utoipa::path(post, path = "/auth/login", tag = "auth", security(), request_body = LoginRequest, responses(
    (status = 200, body = Envelope<LoginResponse>), (status = 400, body = ErrorEnvelope), (status = 401, body = ErrorEnvelope), (status = 429, body = ErrorEnvelope),
))]
async fn login(State(app): State<SharedApp>, from: Client, Json(request): Small<LoginRequest>) -> Result<LoginResponse> {
    let login = app.auth.login(&request.email, &request.password, from.network()).await?;
    reply::ok(rendered(login))
}

/// Buy the next pair of tokens. A refresh token works once.
#[utoipa::path(post, path = "/auth/refresh", tag = "auth", security(), request_body = RefreshTokenRequest, responses(
    (status = 200, body = Envelope<LoginResponse>), (status = 400, body = ErrorEnvelope), (status = 401, body = ErrorEnvelope),
))]
async fn refresh(State(app): State<SharedApp>, Json(request): Small<RefreshTokenRequest>) -> Result<LoginResponse> {
    let login = app.auth.refresh_login(&request.refresh_token).await?;
    reply::ok(rendered(login))
}

/// End the login that the request is made with.
#[utoipa::path(post, path = "/auth/logout", tag = "auth", responses((status = 200, body = Envelope<Message>), (status = 401, body = ErrorEnvelope)))]
async fn logout(State(app): State<SharedApp>, who: Principal) -> Result<Message> {
    app.auth.logout(&who).await?;
    reply::message("logged out")
}

/// Change one's password. All of one's logins end.
#[utoipa::path(post, path = "/auth/change-password", tag = "auth", request_body = ChangePasswordRequest, responses(
    (status = 200, body = Envelope<Message>), (status = 400, body = ErrorEnvelope), (status = 401, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
))]
async fn change_password(State(app): State<SharedApp>, who: Principal, from: Client, Json(request): Json<ChangePasswordRequest>) -> Result<Message> {
    app.auth.change_password(&who, &request.old_password, &request.new_password, from.network()).await?;
    reply::message("password changed; log in again")
}

/// Make an account, where the operator allows it.
#[utoipa::path(post, path = "/auth/register", tag = "auth", security(), request_body = RegisterRequest, responses(
    (status = 201, body = Envelope<LoginResponse>), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn register(State(app): State<SharedApp>, from: Client, Json(request): Small<RegisterRequest>) -> Result<LoginResponse> {
    let login = app.auth.register(&request.email, &request.password, request.name.as_deref(), from.network()).await?;
    reply::created(rendered(login))
}

fn rendered(login: Login) -> LoginResponse {
    LoginResponse {
        access_token: login.access_token,
        refresh_token: login.refresh_token,
        expires_at: login.expires_at_ms / 1000,
        user: users::rendered(login.user),
    }
}
