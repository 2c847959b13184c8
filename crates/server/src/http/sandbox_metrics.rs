//! Metrics of one sandbox.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use sandbar_api::{
    error::ErrorEnvelope,
    metrics::{MetricDescriptor, MetricFreshness, MetricGap, MetricPoint, MetricSegment, MetricSeries, MetricsCatalogResponse, MetricsResponse},
    reply::Envelope,
};
use sandbar_core::{
    limits,
    metrics::{Metric, Range, Series, Statistic, step_s},
    roles::Permission,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    params::{Params, shown},
    reply::{self, Result},
    time::rfc3339,
};
use crate::{
    app::{SharedApp, auth::Principal, sandboxes::now_ms, usage::SAMPLE_EVERY},
    error::ApiError,
};

const HOUR_MS: i64 = 3_600_000;
/// Samples that come this late leave a hole.
const FRESH_S: f64 = 3.0 * SAMPLE_EVERY.as_secs() as f64;

/// `/api/v1/sandboxes/{id}/metrics`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(read)).routes(routes!(catalog))
}

/// What can be asked for.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/metrics/catalog", tag = "observability", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<MetricsCatalogResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn catalog(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<MetricsCatalogResponse> {
    who.require(Permission::SandboxRead)?;
    app.get(&who, &id).await?;
    let describe = |metric: Metric| MetricDescriptor {
        name: metric.name().to_owned(),
        kind: metric.kind().to_owned(),
        unit: metric.unit().to_owned(),
        dimensions: metric.dimensions().iter().map(|name| (*name).to_owned()).collect(),
        description: metric.description().to_owned(),
    };
    reply::ok(MetricsCatalogResponse { metrics: Metric::ALL.into_iter().map(describe).collect() })
}

/// Series for charts; the last hour when no times are given.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/metrics", tag = "observability", params(
    ("id" = String, Path), ("start_time" = Option<String>, Query), ("end_time" = Option<String>, Query),
    ("metrics" = Option<String>, Query, description = "names, separated by commas; all when absent"),
    ("step_seconds" = Option<u32>, Query), ("statistic" = Option<String>, Query), ("max_points" = Option<u32>, Query, description = "1 to 1000, default 240"),
), responses((status = 200, body = Envelope<MetricsResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope)))]
async fn read(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<MetricsResponse> {
    who.require(Permission::SandboxRead)?;
    app.get(&who, &id).await?;
    let now = now_ms();
    let end_ms = params.time_ms("end_time")?.unwrap_or(now);
    let start_ms = params.time_ms("start_time")?.unwrap_or(end_ms.saturating_sub(HOUR_MS));
    if start_ms >= end_ms {
        return Err(ApiError::bad_request("start_time: must be before end_time"));
    }
    if end_ms.saturating_sub(start_ms) > limits::METRICS_RANGE_MAX_MS {
        return Err(ApiError::bad_request(format!("start_time: the range may be at most {} days", limits::METRICS_RANGE_MAX_MS / 86_400_000)));
    }
    let points_max = params.integer("max_points", 1..=limits::METRICS_POINTS_MAX)?.unwrap_or(limits::METRICS_POINTS_DEFAULT);
    let asked_s = params.integer("step_seconds", 1..=86_400u32)?;
    let statistic = match params.text("statistic") {
        None => Statistic::Auto,
        Some(name) => Statistic::named(name)
            .ok_or_else(|| ApiError::bad_request(format!("statistic: {} is not one of auto, average, last, maximum, minimum, rate", shown(name))))?,
    };
    let metrics = metrics(params.text("metrics"))?;
    let step_seconds = step_s(start_ms, end_ms, asked_s, points_max, SAMPLE_EVERY.as_secs() as u32);
    let range = Range { start_ms, end_ms, step_ms: i64::from(step_seconds) * 1000 };
    let (newest, series) = app.metrics_of(&id, metrics, statistic, range).await?;
    let freshness = match newest {
        None => MetricFreshness { status: "missing".into(), newest_observed_at: None, age_seconds: None },
        Some(at_ms) => {
            let age_seconds = (now - at_ms).max(0) as f64 / 1000.0;
            let status = if age_seconds <= FRESH_S { "fresh" } else { "stale" };
            MetricFreshness { status: status.into(), newest_observed_at: Some(rfc3339(at_ms)), age_seconds: Some(age_seconds) }
        }
    };
    let gaps: Vec<MetricGap> = series.iter().flat_map(gaps).collect();
    reply::ok(MetricsResponse {
        start_time: rfc3339(start_ms),
        end_time: rfc3339(end_ms),
        step_seconds,
        partial: !gaps.is_empty(),
        series: series.into_iter().map(rendered).collect(),
        freshness,
        gaps,
    })
}

fn metrics(names: Option<&str>) -> std::result::Result<Vec<Metric>, ApiError> {
    let Some(names) = names else { return Ok(Metric::ALL.to_vec()) };
    let mut found = Vec::new();
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let metric = Metric::named(name).ok_or_else(|| ApiError::bad_request(format!("metrics: {} is not one; see metrics/catalog", shown(name))))?;
        if !found.contains(&metric) {
            found.push(metric);
        }
    }
    Ok(found)
}

fn dimensions(series: &Series) -> BTreeMap<String, String> {
    series.dimension.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn gaps(series: &Series) -> Vec<MetricGap> {
    let gap = |gap: &sandbar_core::metrics::Gap| MetricGap {
        metric: series.metric.name().to_owned(),
        start_time: rfc3339(gap.start_ms),
        end_time: rfc3339(gap.end_ms),
        reason: gap.reason.to_owned(),
        dimensions: dimensions(series),
    };
    series.gaps.iter().map(gap).collect()
}

fn rendered(series: Series) -> MetricSeries {
    MetricSeries {
        metric: series.metric.name().to_owned(),
        kind: series.metric.kind().to_owned(),
        unit: series.unit.to_owned(),
        statistic: series.statistic.name().to_owned(),
        dimensions: dimensions(&series),
        segments: series
            .segments
            .into_iter()
            .map(|segment| MetricSegment { points: segment.points.into_iter().map(|(at, value)| MetricPoint { time: rfc3339(at), value }).collect() })
            .collect(),
    }
}
