//! Quotas of a team.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PUT /api/v1/quotas/{dimension}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct QuotaPutRequest {
    /// 0 or more.
    pub limit_value: u64,
    /// Of rates: `limit_value` in this time; default 1000.
    #[serde(default)]
    pub interval_ms: Option<u64>,
    /// Of rates: so many at once; default `limit_value`.
    #[serde(default)]
    pub burst_value: Option<u64>,
}

/// One limit. Numbers are null where nothing is limited or counted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TeamQuota {
    pub team_id: String,
    /// `active_sandboxes`, `paused_sandboxes`, `memory_bytes`, `cpu_millis`, `disk_bytes`, `volumes`, `snapshots`, `sandbox_claims`, `api_requests`,
    /// `network_egress_bytes` or `network_ingress_bytes`.
    pub dimension: String,
    /// `capacity` or `rate`.
    pub kind: String,
    pub limit_value: Option<i64>,
    pub interval_ms: Option<i64>,
    pub burst_value: Option<i64>,
    pub current: Option<i64>,
    pub remaining: Option<i64>,
    pub unlimited: bool,
    /// `count`, `claims`, `requests` or `bytes`.
    pub unit: String,
    /// `team_override` or `unlimited`.
    pub source: String,
}
