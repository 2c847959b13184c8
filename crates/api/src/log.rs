//! Output and events of a sandbox.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// One line that a process printed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    pub team_id: String,
    pub sandbox_id: String,
    pub region_id: String,
    pub cluster_id: String,
    /// RFC 3339.
    pub occurred_at: String,
    /// RFC 3339.
    pub ingested_at: String,
    pub message: String,
    /// Where to go on after this line.
    pub cursor: String,
    pub context_id: String,
    /// `stdout`, `stderr` or `pty`.
    pub stream: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogsResponse {
    /// Oldest first.
    pub logs: Vec<LogEntry>,
    /// Where to go on, when there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Cursor of the newest line that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<String>,
}

/// A line of a watched stream.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WatchLine<T> {
    Log {
        data: T,
        cursor: String,
    },
    Event {
        data: T,
        cursor: String,
    },
    /// So many were forgotten before they could be told.
    Missed {
        count: i64,
    },
    Heartbeat {
        time: String,
    },
    Error {
        error: String,
    },
}

/// Something that happened to a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxEvent {
    /// Grows within a sandbox.
    pub seq: i64,
    /// RFC 3339.
    pub at: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<String>,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub details: Option<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxEventsResponse {
    /// Oldest first.
    pub events: Vec<SandboxEvent>,
    /// Give it as `after` to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<i64>,
}

/// An event in the shape of the observability API.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ObservabilityEvent {
    pub event_id: String,
    pub schema_version: u32,
    pub team_id: String,
    pub sandbox_id: String,
    pub region_id: String,
    pub cluster_id: String,
    pub occurred_at: String,
    pub ingested_at: String,
    /// Always `manager`.
    pub source: String,
    /// `lifecycle` or `process`.
    pub event_type: String,
    /// Always `effect`.
    pub phase: String,
    pub outcome: String,
    #[schema(value_type = Object)]
    pub actor: Value,
    /// What happened, for example `sandbox.paused`.
    pub action: String,
    #[schema(value_type = Object)]
    pub resource: Value,
    pub operation_id: String,
    #[schema(value_type = Object)]
    pub producer: Value,
    /// Not signed: `signature_status` says `unavailable`.
    #[schema(value_type = Object)]
    pub integrity: Value,
    #[schema(value_type = Object)]
    pub attributes: Map<String, Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ObservabilityEventsResponse {
    pub events: Vec<ObservabilityEvent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<String>,
}
