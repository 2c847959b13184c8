//! Quotas of a team.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is limited. Only what every client generation knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuotaDimension {
    ActiveSandboxes,
    SandboxClaims,
    ApiRequests,
    NetworkEgressBytes,
    NetworkIngressBytes,
}

impl QuotaDimension {
    /// All of them, in the order of a list.
    pub const ALL: [Self; 5] = [Self::ActiveSandboxes, Self::SandboxClaims, Self::ApiRequests, Self::NetworkEgressBytes, Self::NetworkIngressBytes];

    /// The word in JSON and paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ActiveSandboxes => "active_sandboxes",
            Self::SandboxClaims => "sandbox_claims",
            Self::ApiRequests => "api_requests",
            Self::NetworkEgressBytes => "network_egress_bytes",
            Self::NetworkIngressBytes => "network_ingress_bytes",
        }
    }
}

/// One limit. Numbers are null where nothing is limited or counted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TeamQuota {
    pub team_id: String,
    pub dimension: QuotaDimension,
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
    /// `unlimited`, as no quotas are set on a machine of one's own.
    pub source: String,
}
