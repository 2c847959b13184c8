//! Whether the server lives, and whether it can work.

use std::time::Duration;

use axum::extract::State;
use sandbar_api::{error::ErrorEnvelope, reply::Envelope};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::reply::{self, Result};
use crate::{app::SharedApp, error::ApiError};

/// `/healthz`, `/readyz`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready))
}

#[derive(Debug, Serialize, ToSchema)]
struct HealthResponse {
    status: &'static str,
    version: &'static str,
}

const OK: HealthResponse = HealthResponse { status: "ok", version: env!("CARGO_PKG_VERSION") };

/// A write that takes longer than this is no readiness.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, body = Envelope<HealthResponse>)), security(()))]
async fn live() -> Result<HealthResponse> {
    reply::ok(OK)
}

/// The state on disk can be written.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, body = Envelope<HealthResponse>), (status = 503, body = ErrorEnvelope)), security(()))]
async fn ready(State(app): State<SharedApp>) -> Result<HealthResponse> {
    match tokio::time::timeout(PROBE_TIMEOUT, app.store.probe()).await {
        Ok(Ok(())) => reply::ok(OK),
        Ok(Err(error)) => {
            tracing::error!(%error, "the store cannot be written");
            Err(ApiError::unavailable("the server's state cannot be written").retry_after(5))
        }
        Err(_) => Err(ApiError::unavailable(format!("the server's disk did not take a write within {} s", PROBE_TIMEOUT.as_secs())).retry_after(5)),
    }
}
