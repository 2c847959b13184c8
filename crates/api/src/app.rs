//! Apps: what was deployed, and its versions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppResponse {
    pub id: String,
    /// Unique in the team; what it is addressed by.
    pub name: String,
    /// What its manifest says it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The newest version that there ever was.
    pub last_version: i64,
    /// The version that is started and run; absent until one could be built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_version: Option<i64>,
    /// `online` or `offline`: what is wanted of it.
    pub desired: String,
    /// Of the start command, as in a status.
    pub state: String,
    /// The sandbox that it has online.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// The version of that sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online_version: Option<i64>,
    /// That version is another than the live one: a start brings the live one online.
    pub outdated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    pub created_at: String,
    pub updated_at: String,
}

/// `GET /api/v1/apps`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppListData {
    pub apps: Vec<AppResponse>,
}

/// A version of an app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppVersionResponse {
    pub app_id: String,
    pub app: String,
    /// From 1, in the order of deploys.
    pub version: i64,
    /// `building`, `ready` or `failed`.
    pub state: String,
    /// Why it failed, with the last that was printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it is what is started and run.
    pub live: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// SHA-256 of the normalised manifest, in lower-case hex.
    pub manifest_sha256: String,
    /// SHA-256 of all names and contents, in lower-case hex.
    pub source_sha256: String,
    pub source_bytes: u64,
    pub template_id: String,
    /// Normalised. Only of a single version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub manifest: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
}

/// `GET /api/v1/apps/{name}/versions`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppVersionListData {
    /// The newest first.
    pub versions: Vec<AppVersionResponse>,
}

/// `POST /api/v1/apps/{name}/rollback`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppRollbackRequest {
    pub version: i64,
}

/// A part of a log, from a byte on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogPieceResponse {
    pub output: String,
    /// What to send as `since` for what follows.
    pub cursor: u64,
    /// Nothing follows any more.
    pub completed: bool,
}

/// `GET /api/v1/apps/{name}/manifest`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppManifestResponse {
    pub app: String,
    pub version: i64,
    /// As it was written.
    pub text: String,
    /// Normalised, with all defaults.
    #[schema(value_type = Object)]
    pub manifest: serde_json::Value,
    /// Of that, SHA-256 in lower-case hex.
    pub manifest_sha256: String,
}

/// `DELETE /api/v1/apps/{name}`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppDeleteResponse {
    pub deleted: bool,
    /// Volumes that are kept; an app of this name that declares them has them again.
    pub volumes_left: Vec<AppVolumeLeft>,
    /// Volumes that are being deleted still. An app of this name has new ones in their place.
    #[serde(default)]
    pub volumes_ending: Vec<AppVolumeLeft>,
}

/// A volume that an app left.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppVolumeLeft {
    /// In the manifest.
    pub name: String,
    pub id: String,
}

/// `GET /api/v1/apps/{name}/volumes`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppVolumeListData {
    /// Those of the live version first, then what is left of former ones.
    pub volumes: Vec<AppVolumeStatus>,
}

/// A volume of an app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppVolumeStatus {
    pub name: String,
    /// Absent until a sandbox of the app needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Absent when the live version does not declare it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
    pub size_limit_bytes: u64,
    /// What its files take. Not in a status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// The sandbox that the app has online has it.
    pub mounted: bool,
    /// It goes when that sandbox is deleted.
    pub delete_on_sandbox_delete: bool,
}

/// `GET /api/v1/apps/{name}/env`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppEnvData {
    /// What the live version asks for, and what was given besides.
    pub env: Vec<AppEnvResponse>,
}

/// A variable of an app, without its value.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppEnvResponse {
    pub name: String,
    /// Somebody gave it.
    pub given: bool,
    /// The manifest of the live version asks for it.
    pub asked: bool,
    /// Without it nothing of the app is started or run.
    pub required: bool,
    /// It is taken out of what commands print.
    pub secret: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
}
