//! Sandboxes: requests and the parts of their configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// `POST /api/v1/sandboxes`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClaimRequest {
    /// Id of the template to claim from.
    #[serde(default)]
    pub template: String,
    #[serde(default)]
    pub config: Option<SandboxConfig>,
    /// Volumes to mount.
    #[serde(default)]
    pub mounts: Option<Vec<Mount>>,
    /// Start from this snapshot's files.
    #[serde(default)]
    pub snapshot_id: Option<String>,
}

/// A volume at a path.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Mount {
    pub sandboxvolume_id: String,
    pub mount_point: String,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The configuration given at claim. Kept whole: what a later part serves is stored and returned as it came.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SandboxConfig {
    /// Default environment of the sandbox's processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// Seconds until the sandbox is paused; 0 = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<i32>,
    /// Seconds until the runtime is cleaned; 0 = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_ttl: Option<i32>,
    /// Network policy (camelCase inside). Validated by `core::egress`, stored as sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub network: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Wake a paused sandbox when it is accessed (default true).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    /// Services (see `PUT /services`). Validated by `core::validate`, stored normalised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub services: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Whatever else was sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: Map<String, Value>,
}

/// Resource limits a sandbox asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Resources {
    /// Memory, for example `512Mi` or `1Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// CPU, for example `2` or `500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Disk for the sandbox's own files, for example `10Gi`.
    #[serde(default, rename = "ephemeralStorage", skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<String>,
}

/// Where events of a sandbox are posted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    pub url: String,
    /// Key of the HMAC signature; never returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Folder whose changes are reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch_dir: Option<String>,
}

/// `PUT /api/v1/sandboxes/{id}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UpdateRequest {
    #[serde(default)]
    pub config: Option<UpdateConfig>,
}

/// What can be changed at runtime. Absent = keep.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct UpdateConfig {
    #[serde(default)]
    pub ttl: Option<i32>,
    #[serde(default)]
    pub hard_ttl: Option<i32>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub network: Option<Value>,
    #[serde(default)]
    pub auto_resume: Option<bool>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub services: Option<Value>,
    #[serde(default)]
    pub resources: Option<Resources>,
    #[serde(default)]
    pub env_vars: Option<Value>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub webhook: Option<Value>,
}

/// `POST /api/v1/sandboxes/{id}/refresh`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct RefreshRequest {
    /// Seconds from now; absent or 0 = the configured ttl.
    #[serde(default)]
    pub duration: Option<i32>,
}

/// `POST /api/v1/sandboxes/{id}/pause` and `/resume`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ExecutionStateRequest {
    /// Keep the processes' memory.
    #[serde(default)]
    pub memory: Option<bool>,
}

/// Desired against observed power.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PowerState {
    /// `active` or `paused`.
    pub desired: String,
    pub desired_generation: i64,
    /// `active` or `paused`.
    pub observed: String,
    pub observed_generation: i64,
    /// `stable`, `pausing` or `resuming`.
    pub phase: String,
}
