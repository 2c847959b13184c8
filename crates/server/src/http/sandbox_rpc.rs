//! What executors of scripts ask back. Not for clients: who has no grant of a call that goes on is refused.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use sandbar_core::limits;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{extract, scripts::wire::Failed};
use crate::{app::SharedApp, error::ApiError};

/// `/api/_internal/sandbox-rpc`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(rpc))
}

/// An op of a script that an executor runs. 200 for what came of it, good or bad.
#[utoipa::path(post, path = "/api/_internal/sandbox-rpc", tag = "scripts", responses(
    (status = 200, description = "{ok, value?, error?}"), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 413, body = Failed),
))]
async fn rpc(State(app): State<SharedApp>, headers: HeaderMap, request: Request) -> Result<Response, ApiError> {
    // Who is nobody is refused before a byte of the body is waited for.
    let caller = app.rpc_caller(bearer(&headers))?;
    let body = extract::read(request.into_body(), limits::SCRIPT_RPC_MAX_BYTES).await?;
    let reply = app.sandbox_rpc(caller, &body).await?;
    let json = serde_json::to_vec(&reply).map_err(|error| ApiError::internal("rendering the reply", &error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from(json)).into_response())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
