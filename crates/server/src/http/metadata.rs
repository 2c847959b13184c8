//! What kind of server this is. One server is one region.

use axum::{
    extract::{Path, State},
    http::{HeaderMap, header},
};
use sandbar_api::{
    auth::{GatewayMetadata, Region, RegionListResponse, SshMetadata},
    error::ErrorEnvelope,
    reply::Envelope,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::reply::{self, Result};
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
};

const REGION: &str = "default";

/// `/metadata` and `/regions`.
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(metadata)).routes(routes!(regions)).routes(routes!(region))
}

/// What kind of server this is.
#[utoipa::path(get, path = "/metadata", tag = "server", security(), responses((status = 200, body = Envelope<GatewayMetadata>)))]
async fn metadata(State(app): State<SharedApp>) -> Result<GatewayMetadata> {
    let ssh = app.ssh.as_ref().map(|ssh| SshMetadata {
        host: app.config.public_domain.clone(),
        port: ssh.port,
        host_key: ssh.host_key.clone(),
        fingerprint_sha256: ssh.fingerprint.clone(),
    });
    reply::ok(GatewayMetadata { gateway_mode: "direct".into(), service: "sandbar".into(), version: env!("CARGO_PKG_VERSION").into(), ssh })
}

/// The regions: this server.
#[utoipa::path(get, path = "/regions", tag = "server", responses((status = 200, body = Envelope<RegionListResponse>), (status = 401, body = ErrorEnvelope)))]
async fn regions(_who: Principal, headers: HeaderMap) -> Result<RegionListResponse> {
    reply::ok(RegionListResponse { regions: vec![this_one(&headers)] })
}

/// A region.
#[utoipa::path(get, path = "/regions/{id}", tag = "server", params(("id" = String, Path)), responses((status = 200, body = Envelope<Region>), (status = 404, body = ErrorEnvelope)))]
async fn region(_who: Principal, Path(id): Path<String>, headers: HeaderMap) -> Result<Region> {
    if id == REGION { reply::ok(this_one(&headers)) } else { Err(ApiError::not_found("region", &id)) }
}

/// Reached by the name that the client used.
fn this_one(headers: &HeaderMap) -> Region {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or("localhost");
    let scheme = headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok()).filter(|scheme| *scheme == "https").unwrap_or("http");
    Region { id: REGION.into(), display_name: "This server".into(), regional_gateway_url: format!("{scheme}://{host}"), enabled: true }
}
