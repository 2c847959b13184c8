//! Functions: published services with revisions, aliases and a runtime.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `POST /api/v1/functions`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionCreateRequest {
    /// Default: the service's display name, else its id.
    #[serde(default)]
    pub name: Option<String>,
    pub source: FunctionSourceRequest,
    #[serde(default)]
    pub autoscaling: Option<FunctionAutoscaling>,
}

/// `POST /api/v1/functions/{id}/revisions`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionRevisionCreateRequest {
    pub source: FunctionSourceRequest,
    /// Let `production` point to it once it was ready (default true).
    #[serde(default)]
    pub promote: Option<bool>,
}

/// What is published: a service of a sandbox (`sandbox_id` and `service_id`, or the same in `sandbox_service`), or a
/// specification.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct FunctionSourceRequest {
    /// `sandbox_service` (default) or `revision_spec`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub sandbox_id: Option<String>,
    #[serde(default)]
    pub service_id: Option<String>,
    #[serde(default)]
    pub sandbox_service: Option<FunctionSandboxService>,
    #[serde(default)]
    pub revision_spec: Option<FunctionRevisionSpec>,
    /// Kept and returned as it came.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub provenance: Option<Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct FunctionSandboxService {
    #[serde(default)]
    pub sandbox_id: Option<String>,
    #[serde(default)]
    pub service_id: Option<String>,
}

/// What a revision is made from.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionRevisionSpec {
    pub template_id: String,
    /// A service as in `PUT /api/v1/sandboxes/{id}/services`.
    #[schema(value_type = Object)]
    pub runtime_service: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<FunctionRevisionMount>>,
    /// Kept and returned; nothing here uses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub static_assets: Option<Value>,
    /// Kept and returned; nothing here uses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub env_refs: Option<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionRevisionMount {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub mount_point: String,
    /// `read_only` or `read_write` (default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub materialization: Option<String>,
    pub source: FunctionMountSource,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionMountSource {
    /// `sandbox_volume` or `volume_snapshot`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandboxvolume_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_sandboxvolume_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
}

/// How many instances serve a revision. All four are given together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionAutoscaling {
    /// 0 to 100, default 0.
    pub min_warm: i64,
    /// 1 to 1000, default 20.
    pub max_active: i64,
    /// 1 to 1000, default 80.
    pub target_concurrency: i64,
    /// 30 to 86400, default 300.
    pub scale_down_after_seconds: i64,
}

/// `PUT /api/v1/functions/{id}`. Absent = keep.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct FunctionUpdateRequest {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub enabled: Option<bool>,
    #[serde(default)]
    pub autoscaling: Option<FunctionAutoscaling>,
}

/// `PUT /api/v1/functions/{id}/aliases/{alias}`: one revision, or several with weights.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct FunctionAliasUpdateRequest {
    #[serde(default)]
    pub revision_number: Option<i64>,
    #[serde(default)]
    pub weights: Option<Vec<FunctionWeight>>,
    /// Whether a client stays with the revision that it got first (default false).
    #[serde(default)]
    pub sticky: Option<bool>,
}

/// A revision's part of the requests to an alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionWeight {
    pub revision_number: i64,
    /// 0 to 1000; parts of the sum of all.
    pub weight: i64,
}

/// A function.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionResponse {
    pub id: String,
    pub team_id: String,
    pub name: String,
    pub slug: String,
    pub domain_label: String,
    /// What `production` points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_revision_id: Option<String>,
    pub enabled: bool,
    pub autoscaling: FunctionAutoscaling,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<String>,
    pub host: String,
    pub url: String,
}

/// A revision.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionRevisionResponse {
    pub id: String,
    pub function_id: String,
    pub team_id: String,
    pub revision_number: i64,
    /// `sandbox_service` or `revision_spec`.
    pub source_type: String,
    pub revision_spec: FunctionRevisionSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub provenance: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_sandbox_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_service_id: Option<String>,
    pub source_template_id: String,
    pub restore_mounts: Vec<FunctionRestoreMount>,
    #[schema(value_type = Object)]
    pub service_snapshot: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_sandbox_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_updated_at: Option<String>,
    /// When it was ready for the first time; a revision that never was is not promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    pub created_at: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionRestoreMount {
    /// The revision's own copy.
    pub sandboxvolume_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_sandboxvolume_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    pub mount_point: String,
}

/// An alias.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionAliasResponse {
    pub function_id: String,
    pub alias: String,
    /// The revision with the greatest weight.
    pub revision_id: String,
    pub revision_number: i64,
    pub weights: Vec<FunctionWeight>,
    pub sticky: bool,
    /// Where it is served; none when the name would be too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_by: Option<String>,
    pub updated_at: String,
}

/// What serves a function now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionRuntimeResponse {
    pub function_id: String,
    pub revision_id: String,
    pub revision_number: i64,
    /// `idle`, `active` or `disabled`.
    pub state: String,
    /// `idle`, `provisioning`, `starting`, `ready`, `draining`, `failed` or `disabled`.
    pub phase: String,
    pub autoscaling: FunctionAutoscaling,
    /// `unknown`, `checking`, `ready` or `failed`.
    pub readiness_state: String,
    /// Who serves now: `source` (the sandbox that it was published from) or `revision` (instances of its own).
    pub serving: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_sandbox_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_updated_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_duration_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<String>,
    pub instances: Vec<FunctionInstanceResponse>,
    /// The newest first.
    pub recent_events: Vec<FunctionRuntimeEvent>,
}

/// A sandbox that serves a revision.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionInstanceResponse {
    pub id: String,
    pub team_id: String,
    pub function_id: String,
    pub revision_id: String,
    pub revision_number: i64,
    pub sandbox_id: String,
    /// `starting`, `ready`, `draining` or `failed`.
    pub state: String,
    pub readiness_state: String,
    /// Requests that it serves now.
    pub in_flight: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_duration_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
    pub created_at: String,
    pub updated_at: String,
}

/// Something that happened to an instance.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionRuntimeEvent {
    pub id: String,
    pub team_id: String,
    pub function_id: String,
    pub revision_id: String,
    pub phase: String,
    pub readiness_state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_sandbox_id: Option<String>,
    pub reason: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_duration_ms: Option<i64>,
    pub created_at: String,
}

/// Something that happened to a function.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionEvent {
    pub seq: i64,
    /// Such as `function.published`, `alias.set` or `instance.ready`.
    pub kind: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_number: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    pub at: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionListData {
    pub functions: Vec<FunctionResponse>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionData {
    pub function: FunctionResponse,
    /// What was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionCreateData {
    pub function: FunctionResponse,
    pub revision: FunctionRevisionResponse,
    pub alias: FunctionAliasResponse,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionRevisionListData {
    /// The newest first.
    pub revisions: Vec<FunctionRevisionResponse>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionRevisionData {
    pub revision: FunctionRevisionResponse,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionRevisionCreateData {
    pub revision: FunctionRevisionResponse,
    /// Whether `production` points to it now.
    pub promoted: bool,
    /// Why it was not promoted although that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion_error: Option<crate::ErrorDetail>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionAliasListData {
    /// By name.
    pub aliases: Vec<FunctionAliasResponse>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionAliasData {
    pub alias: FunctionAliasResponse,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionRuntimeData {
    pub runtime: FunctionRuntimeResponse,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionEventListData {
    /// The newest first.
    pub events: Vec<FunctionEvent>,
}
