//! Metrics of one sandbox, ready for a chart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MetricDescriptor {
    pub name: String,
    /// `counter` or `gauge`.
    pub kind: String,
    pub unit: String,
    pub dimensions: Vec<String>,
    pub description: String,
}

/// `GET /api/v1/sandboxes/{id}/metrics/catalog`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MetricsCatalogResponse {
    pub metrics: Vec<MetricDescriptor>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MetricPoint {
    pub time: String,
    pub value: f64,
}

/// Points without a hole between them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MetricSegment {
    pub points: Vec<MetricPoint>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MetricSeries {
    pub metric: String,
    pub kind: String,
    pub unit: String,
    pub statistic: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dimensions: BTreeMap<String, String>,
    pub segments: Vec<MetricSegment>,
}

/// Where a metric has no points.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MetricGap {
    pub metric: String,
    pub start_time: String,
    pub end_time: String,
    /// `no_data` or `series_reset`.
    pub reason: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dimensions: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MetricFreshness {
    /// `fresh`, `stale` or `missing`.
    pub status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_observed_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
}

/// `GET /api/v1/sandboxes/{id}/metrics`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MetricsResponse {
    pub start_time: String,
    pub end_time: String,
    pub step_seconds: u32,
    pub series: Vec<MetricSeries>,
    pub freshness: MetricFreshness,
    pub gaps: Vec<MetricGap>,
    /// Whether some of what was asked for has gaps.
    pub partial: bool,
}
