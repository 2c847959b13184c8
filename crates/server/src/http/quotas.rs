//! Quotas: none are set on a machine of one's own, and clients are told so.

use axum::extract::Path;
use sandbar_api::{
    error::ErrorEnvelope,
    quota::{QuotaDimension, TeamQuota},
    reply::Envelope,
};
use sandbar_core::roles::Permission;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    params::shown,
    reply::{self, Result},
};
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
};

/// `/api/v1/quotas`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get))
}

/// The team's quotas.
#[utoipa::path(get, path = "/api/v1/quotas", tag = "quotas", responses((status = 200, body = Envelope<Vec<TeamQuota>>)))]
async fn list(who: Principal) -> Result<Vec<TeamQuota>> {
    who.require(Permission::QuotaRead)?;
    reply::ok(QuotaDimension::ALL.into_iter().map(|dimension| quota(dimension, &who.team_id)).collect())
}

/// One quota of the team.
#[utoipa::path(get, path = "/api/v1/quotas/{dimension}", tag = "quotas", params(("dimension" = QuotaDimension, Path)), responses(
    (status = 200, body = Envelope<TeamQuota>), (status = 400, body = ErrorEnvelope),
))]
async fn get(who: Principal, Path(dimension): Path<String>) -> Result<TeamQuota> {
    who.require(Permission::QuotaRead)?;
    let known = QuotaDimension::ALL.into_iter().find(|known| known.as_str() == dimension);
    let known = known.ok_or_else(|| ApiError::bad_request(format!("dimension: {} is not one", shown(&dimension))))?;
    reply::ok(quota(known, &who.team_id))
}

fn quota(dimension: QuotaDimension, team_id: &str) -> TeamQuota {
    let (kind, unit) = match dimension {
        QuotaDimension::ActiveSandboxes => ("capacity", "count"),
        QuotaDimension::SandboxClaims => ("rate", "claims"),
        QuotaDimension::ApiRequests => ("rate", "requests"),
        QuotaDimension::NetworkEgressBytes | QuotaDimension::NetworkIngressBytes => ("rate", "bytes"),
    };
    TeamQuota {
        team_id: team_id.to_owned(),
        dimension,
        kind: kind.to_owned(),
        limit_value: None,
        interval_ms: None,
        burst_value: None,
        current: None,
        remaining: None,
        unlimited: true,
        unit: unit.to_owned(),
        source: "unlimited".to_owned(),
    }
}
