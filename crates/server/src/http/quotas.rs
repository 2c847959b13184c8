//! Quotas of a team. Everybody in it may read them; the operator sets them.

use axum::extract::{Path, State};
use sandbar_api::{
    error::ErrorEnvelope,
    quota::{QuotaPutRequest, TeamQuota},
    reply::Envelope,
};
use sandbar_core::{quota::Dimension, roles::Permission};
use sandbar_store::QuotaRecord;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    params::{Params, shown},
    reply::{self, Result},
};
use crate::{
    app::{SharedApp, auth::Principal, quotas::QuotaView},
    error::ApiError,
};

/// The longest interval of a rate.
const INTERVAL_MAX_MS: u64 = 86_400_000;
/// What is measured as it is used is looked at every so often; shorter intervals would mean little.
const METERED_INTERVAL_MIN_MS: u64 = 1000;
/// Beyond this no number means anything.
const VALUE_MAX: u64 = i64::MAX as u64;

/// `/api/v1/quotas`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, put, delete))
}

/// The team's quotas: those that every client knows, or with `all` all there are.
#[utoipa::path(get, path = "/api/v1/quotas", tag = "quotas", params(("all" = Option<bool>, Query), ("team_id" = Option<String>, Query, description = "another team, for the operator")), responses(
    (status = 200, body = Envelope<Vec<TeamQuota>>), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, params: Params) -> Result<Vec<TeamQuota>> {
    who.require(Permission::QuotaRead)?;
    let all = params.boolean("all")?.unwrap_or(false);
    let dimensions: Vec<_> = Dimension::ALL.into_iter().filter(|dimension| all || dimension.is_known_to_all()).collect();
    let team_id = team_of(&app, &who, &params).await?;
    let quotas = app.quotas(&team_id, &dimensions).await?;
    reply::ok(quotas.into_iter().map(|quota| rendered(quota, &team_id)).collect())
}

/// One quota of the team.
#[utoipa::path(get, path = "/api/v1/quotas/{dimension}", tag = "quotas", params(("dimension" = String, Path), ("team_id" = Option<String>, Query)), responses(
    (status = 200, body = Envelope<TeamQuota>), (status = 400, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(dimension): Path<String>, params: Params) -> Result<TeamQuota> {
    who.require(Permission::QuotaRead)?;
    let team_id = team_of(&app, &who, &params).await?;
    let quota = app.quotas(&team_id, &[named(&dimension)?]).await?.remove(0);
    reply::ok(rendered(quota, &team_id))
}

/// Sets a quota of the team, or of the one that `team_id` names. Only the operator may.
#[utoipa::path(put, path = "/api/v1/quotas/{dimension}", tag = "quotas", params(("dimension" = String, Path), ("team_id" = Option<String>, Query)), request_body = QuotaPutRequest, responses(
    (status = 200, body = Envelope<TeamQuota>), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn put(
    State(app): State<SharedApp>,
    who: Principal,
    Path(dimension): Path<String>,
    params: Params,
    Json(body): Json<QuotaPutRequest>,
) -> Result<TeamQuota> {
    app.auth.require_operator(&who).await?;
    let dimension = named(&dimension)?;
    if !dimension.can_be_limited() {
        return Err(ApiError::bad_request(format!("dimension: {} is counted and cannot be limited", dimension.as_str())));
    }
    if !dimension.is_rate() && (body.interval_ms.is_some() || body.burst_value.is_some()) {
        return Err(ApiError::bad_request(format!("{} is no rate: it has no interval_ms and no burst_value", dimension.as_str())));
    }
    if dimension.is_metered() && (body.interval_ms.is_none_or(|interval| interval < METERED_INTERVAL_MIN_MS) || body.burst_value.is_some()) {
        return Err(ApiError::bad_request(format!(
            "{} is measured by intervals: it needs an interval_ms of at least {METERED_INTERVAL_MIN_MS}, and has no burst_value",
            dimension.as_str()
        )));
    }
    if body.interval_ms.is_some_and(|interval| !(1..=INTERVAL_MAX_MS).contains(&interval)) {
        return Err(ApiError::bad_request(format!("interval_ms: must be from 1 to {INTERVAL_MAX_MS}")));
    }
    if body.limit_value > VALUE_MAX || body.burst_value.is_some_and(|burst| burst == 0 || burst > VALUE_MAX) {
        return Err(ApiError::bad_request(format!("limit_value must be from 0, burst_value from 1, to {VALUE_MAX}")));
    }
    let team_id = team_of(&app, &who, &params).await?;
    let quota = QuotaRecord { team_id: team_id.clone(), dimension, limit: body.limit_value, interval_ms: body.interval_ms, burst: body.burst_value };
    reply::ok(rendered(app.put_quota(quota).await?, &team_id))
}

/// Lifts a quota of the team, or of the one that `team_id` names. Only the operator may.
#[utoipa::path(delete, path = "/api/v1/quotas/{dimension}", tag = "quotas", params(("dimension" = String, Path), ("team_id" = Option<String>, Query)), responses(
    (status = 200, body = Envelope<Object>), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(dimension): Path<String>, params: Params) -> Result<Value> {
    app.auth.require_operator(&who).await?;
    app.delete_quota(&team_of(&app, &who, &params).await?, named(&dimension)?).await?;
    reply::ok(json!({ "deleted": true }))
}

/// The caller's team, or the one that the operator names.
async fn team_of(app: &SharedApp, who: &Principal, params: &Params) -> std::result::Result<String, ApiError> {
    match params.text("team_id").filter(|id| *id != who.team_id) {
        None => Ok(who.team_id.clone()),
        Some(id) => {
            app.auth.require_operator(who).await?;
            app.check_team(id).await?;
            Ok(id.to_owned())
        }
    }
}

fn named(name: &str) -> std::result::Result<Dimension, ApiError> {
    Dimension::named(name).ok_or_else(|| {
        let known: Vec<_> = Dimension::ALL.into_iter().map(Dimension::as_str).collect();
        ApiError::bad_request(format!("dimension: {} is not one of {}", shown(name), known.join(", ")))
    })
}

fn rendered(quota: QuotaView, team_id: &str) -> TeamQuota {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let QuotaView { dimension, set, current } = quota;
    let limit = set.as_ref().map(|set| set.limit);
    TeamQuota {
        team_id: team_id.to_owned(),
        dimension: dimension.as_str().to_owned(),
        kind: if dimension.is_rate() { "rate" } else { "capacity" }.to_owned(),
        limit_value: limit.map(number),
        interval_ms: set.as_ref().filter(|_| dimension.is_rate()).map(|set| number(set.interval_ms.unwrap_or(1000))),
        burst_value: set.as_ref().filter(|_| dimension.is_rate() && !dimension.is_metered()).map(|set| number(set.burst.unwrap_or(set.limit))),
        current: current.map(number),
        remaining: limit.zip(current).map(|(limit, current)| number(limit.saturating_sub(current))),
        unlimited: set.is_none(),
        unit: dimension.unit().to_owned(),
        source: if set.is_some() { "team_override" } else { "unlimited" }.to_owned(),
    }
}
