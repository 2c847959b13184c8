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
    /// Empty only where the whole webhook is, which is none.
    #[serde(default)]
    pub url: String,
    /// Key of the HMAC signature; never returned, and kept sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Folder whose changes are reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch_dir: Option<String>,
}

/// A webhook as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = SandboxWebhook)]
pub struct WebhookView {
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch_dir: Option<String>,
    /// Whether what is posted is signed.
    pub has_secret: bool,
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
    /// What is absent in it stays. `null` removes the webhook, when nothing else is sent.
    #[serde(default, deserialize_with = "null_as_sent")]
    #[schema(value_type = Option<Webhook>)]
    pub webhook: Option<Value>,
    /// Whatever else was sent.
    #[serde(flatten, skip_serializing)]
    #[schema(ignore)]
    pub extra: Map<String, Value>,
}

/// Tells a `null` that was sent from nothing.
fn null_as_sent<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// `POST /api/v1/sandboxes/{id}/refresh`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = SandboxRefreshRequest)]
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

/// The reply to a claim: the union of what all client generations read.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClaimResponse {
    pub sandbox_id: String,
    pub template: String,
    pub team_id: String,
    pub user_id: String,
    pub status: String,
    /// The runtime's id, under its older name.
    pub pod_name: String,
    pub runtime_id: String,
    pub runtime_generation: i64,
    pub cluster_id: Option<String>,
    pub power_state: PowerState,
    pub claimed_at: String,
    pub created_at: String,
    pub updated_at: String,
    pub expires_at: Option<String>,
    pub hard_expires_at: Option<String>,
}

/// How a sandbox is reached by SSH.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct SandboxSsh {
    pub host: String,
    pub port: u16,
    pub username: String,
}

/// A sandbox in full. Environment variables and secrets are never in it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxResponse {
    pub id: String,
    pub template_id: String,
    pub team_id: String,
    pub user_id: String,
    /// `starting`, `running`, `paused`, `failed` or `terminating`; in the May profile `cleaned` and never `paused`.
    pub status: String,
    pub paused: bool,
    pub auto_resume: bool,
    pub power_state: PowerState,
    /// The runtime's id, under its older name; empty while there is none.
    pub pod_name: String,
    /// Empty while there is none.
    pub runtime_id: String,
    /// Goes up with every start and resume.
    pub runtime_generation: i64,
    /// `cleaned` when the runtime and its files were destroyed and the identity kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle_state: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cleaned: bool,
    /// Why it is not running, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<String>,
    /// Why it is not running, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// How it is reached by SSH, when the server can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SandboxSsh>,
    #[schema(value_type = Vec<Object>)]
    pub services: Vec<Value>,
    #[schema(value_type = Vec<Object>)]
    pub mounts: Vec<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Configured seconds; 0 = off.
    pub ttl: u32,
    /// Configured seconds; 0 = off.
    pub hard_ttl: u32,
    pub claimed_at: String,
    pub created_at: String,
    pub updated_at: String,
    /// Null when off; in the May profile `0001-01-01T00:00:00Z`.
    pub expires_at: Option<String>,
    pub hard_expires_at: Option<String>,
}

/// A row of the list of sandboxes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxSummary {
    pub id: String,
    pub template_id: String,
    pub status: String,
    pub paused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle_state: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cleaned: bool,
    pub power_state: PowerState,
    pub pod_name: String,
    pub runtime_id: String,
    pub runtime_generation: i64,
    pub cluster_id: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    pub expires_at: Option<String>,
    pub hard_expires_at: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxListResponse {
    pub sandboxes: Vec<SandboxSummary>,
    /// Rows on all pages.
    pub count: u64,
    pub has_more: bool,
}

/// `GET /api/v1/sandboxes/{id}/status`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxStatusResponse {
    pub sandbox_id: String,
    pub template_id: String,
    pub team_id: String,
    pub user_id: String,
    pub status: String,
    pub paused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle_state: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cleaned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    pub power_state: PowerState,
    pub pod_name: String,
    pub runtime_id: String,
    pub runtime_generation: i64,
    pub claimed_at: String,
    pub created_at: String,
    pub updated_at: String,
    pub expires_at: Option<String>,
    pub hard_expires_at: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PauseResponse {
    pub sandbox_id: String,
    pub paused: bool,
    pub status: String,
    pub power_state: PowerState,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ResumeResponse {
    pub sandbox_id: String,
    pub resumed: bool,
    pub status: String,
    pub runtime_generation: i64,
    pub power_state: PowerState,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = SandboxRefreshResponse)]
pub struct RefreshResponse {
    pub sandbox_id: String,
    pub expires_at: Option<String>,
    pub hard_expires_at: Option<String>,
}

/// `PUT /api/v1/sandboxes/{id}/services`: all services, replacing those before.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServicesUpdateRequest {
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub services: Option<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServicesResponse {
    pub sandbox_id: String,
    /// Each as it was given, with `publishable`, `publish_blockers` and `public_url`.
    #[schema(value_type = Vec<Object>)]
    pub services: Vec<Value>,
    /// Public hosts are below this name.
    pub exposure_domain: String,
}
