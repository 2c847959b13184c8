//! What was used, in windows of an hour.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One figure of one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsageWindow {
    pub window_id: String,
    /// Such as `sandbox.cpu_seconds`.
    pub window_type: String,
    /// `sandbox` or `volume`.
    pub subject_type: String,
    pub subject_id: String,
    pub window_start: String,
    pub window_end: String,
    pub value: i64,
    pub unit: String,
    pub recorded_at: String,
    pub region_id: String,
    pub cluster_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UsageWindowPage {
    pub windows: Vec<UsageWindow>,
    /// Empty on the last page.
    pub next_cursor: String,
}
