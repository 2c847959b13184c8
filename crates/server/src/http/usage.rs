//! Usage by the hour.

use axum::extract::State;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sandbar_api::{
    error::ErrorEnvelope,
    reply::Envelope,
    usage::{UsageWindow, UsageWindowPage},
};
use sandbar_core::{limits, roles::Permission};
use sandbar_store::{UsageCursor, UsageRecord};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    params::{Params, shown},
    render::HERE,
    reply::{self, Result},
    time::rfc3339,
};
use crate::{
    app::{
        SharedApp,
        auth::Principal,
        usage::{HOUR_MS, kinds, unit_of},
    },
    error::ApiError,
};

/// `/api/v1/usage/windows`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list))
}

/// What the team's sandboxes used, hour by hour, oldest first. The present hour grows.
#[utoipa::path(get, path = "/api/v1/usage/windows", tag = "usage", params(
    ("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query, description = "1 to 1000, default 200"), ("window_type" = Option<String>, Query),
), responses((status = 200, body = Envelope<UsageWindowPage>), (status = 400, body = ErrorEnvelope)))]
async fn list(State(app): State<SharedApp>, who: Principal, params: Params) -> Result<UsageWindowPage> {
    who.require(Permission::UsageRead)?;
    let limit = params.integer("limit", 1..=limits::LOG_PAGE_MAX)?.unwrap_or(limits::LOG_PAGE_DEFAULT);
    let window_type = match params.text("window_type") {
        None => None,
        Some(kind) if kinds().any(|known| known == kind) => Some(kind.to_owned()),
        Some(kind) => {
            let known: Vec<_> = kinds().collect();
            return Err(ApiError::bad_request(format!("window_type: {} is not one of {}", shown(kind), known.join(", "))));
        }
    };
    let after = params.text("cursor").map(parse).transpose()?;
    let windows = app.usage_windows(&who, after, window_type, limit).await?;
    let next_cursor = windows.last().filter(|_| windows.len() == limit as usize).map(cursor).unwrap_or_default();
    reply::ok(UsageWindowPage { windows: windows.into_iter().map(rendered).collect(), next_cursor })
}

fn rendered(record: UsageRecord) -> UsageWindow {
    UsageWindow {
        window_id: cursor(&record),
        unit: unit_of(&record.window_type).to_owned(),
        window_type: record.window_type,
        sandbox_id: Some(record.subject_id.clone()).filter(|_| record.subject_type == "sandbox"),
        subject_type: record.subject_type,
        subject_id: record.subject_id,
        window_start: rfc3339(record.window_start_ms),
        window_end: rfc3339(record.window_start_ms + HOUR_MS),
        value: record.value,
        recorded_at: rfc3339(record.recorded_at_ms),
        region_id: HERE.to_owned(),
        cluster_id: HERE.to_owned(),
    }
}

/// Names a window, and the page behind it.
fn cursor(record: &UsageRecord) -> String {
    let place = serde_json::json!([record.window_start_ms, record.subject_type, record.subject_id, record.window_type]);
    BASE64_URL_SAFE_NO_PAD.encode(place.to_string())
}

fn parse(text: &str) -> std::result::Result<UsageCursor, ApiError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    let place = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    place.ok_or_else(|| ApiError::bad_request("cursor: is not one that this server gave"))
}
