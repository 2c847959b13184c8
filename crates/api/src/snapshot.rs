//! Snapshots of a sandbox's files, and forks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::sandbox::SandboxResponse;

/// `POST /api/v1/sandboxes/{id}/snapshots`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct SnapshotCreateRequest {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// RFC 3339; at this moment the snapshot is deleted.
    #[serde(default)]
    pub expires_at: Option<String>,
}

/// The files of a sandbox at one moment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SnapshotResponse {
    pub id: String,
    pub sandbox_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    pub created_at: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SnapshotListResponse {
    pub snapshots: Vec<SnapshotResponse>,
    pub count: u64,
}

/// `POST /api/v1/sandboxes/{id}/rootfs/restore`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RestoreRequest {
    pub snapshot_id: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RestoreResponse {
    pub sandbox_id: String,
    pub snapshot_id: String,
    pub status: String,
}

/// `POST /api/v1/sandboxes/{id}/fork`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ForkRequest {
    #[serde(default)]
    pub config: Option<ForkConfig>,
    /// Fork the processes' memory too; refused where the machine cannot.
    #[serde(default)]
    pub memory: Option<bool>,
}

/// What a fork has of its own; the rest is its source's.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ForkConfig {
    #[serde(default)]
    pub ttl: Option<i32>,
    #[serde(default)]
    pub hard_ttl: Option<i32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ForkResponse {
    pub source_sandbox_id: String,
    /// Paused, with the source's files.
    pub sandbox: SandboxResponse,
}
