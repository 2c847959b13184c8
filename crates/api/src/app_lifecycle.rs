//! Apps as they run: started, stopped, looked at.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::{AppVolumeLeft, AppVolumeStatus};

/// `POST /api/v1/apps/{name}/start`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppStartRequest {
    /// Names of services that start, too, or `"all"`; besides those that the manifest starts.
    #[serde(default)]
    pub services: Option<AppServices>,
    /// Whether the reply waits until the app is ready or is not to be. Not by default.
    #[serde(default)]
    pub wait: Option<bool>,
    /// Whether a sandbox that has another version than the live one is kept. By default a new one takes its place.
    #[serde(default)]
    pub keep: Option<bool>,
}

/// Names, or `"all"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum AppServices {
    Names(Vec<String>),
    Word(String),
}

/// `POST /api/v1/apps/{name}/stop`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppStopRequest {
    /// Whether the sandbox is deleted with its files. By default it is paused and keeps them.
    #[serde(default)]
    pub delete_sandbox: Option<bool>,
}

/// What a stop came to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppStopResponse {
    pub app: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// What became of it: `paused`, `deleted`, or `none` when there was none.
    pub sandbox: String,
    /// What ran, in the order in which it was ended.
    pub stopped: Vec<AppStoppedResponse>,
    /// Volumes that go with the sandbox and are being deleted still.
    #[serde(default)]
    pub volumes_ending: Vec<AppVolumeLeft>,
    pub duration_ms: u64,
}

/// How a process ended that was stopped.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppStoppedResponse {
    /// `start`, or the name of a service.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    pub reason: String,
    pub message: String,
}

/// `GET /api/v1/apps/{name}/status`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppStatusResponse {
    pub app: String,
    /// `online` or `offline`: what is wanted of it.
    pub desired: String,
    /// Of the start command: `none`, `starting`, `ready`, `unhealthy`, `exited` or `failed`. None also while the sandbox sleeps.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_version: Option<i64>,
    /// The version of the sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online_version: Option<i64>,
    /// That version is another than the live one: a start brings the live one online.
    pub outdated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<AppSandboxStatus>,
    /// Absent when the app has no start command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<AppProcessStatus>,
    pub services: Vec<AppProcessStatus>,
    pub previews: Vec<AppPortStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<AppVolumeStatus>,
    /// Ports on which somebody listens and that the manifest does not declare. They have no preview.
    pub unlisted: Vec<u16>,
    /// Where the app speaks the Model Context Protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mcp: Vec<AppMcpStatus>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppSandboxStatus {
    pub id: String,
    /// As in the sandbox's own record.
    pub status: String,
    pub awake: bool,
}

/// A process of an app that is or would be kept up.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppProcessStatus {
    /// `start`, or the name of a service.
    pub name: String,
    /// `none`, `starting`, `ready`, `unhealthy`, `exited` or `failed`.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<String>,
    /// Since somebody started it.
    pub restarts: u32,
    /// When it is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<String>,
    /// The service that has to be ready before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// How it ended last, since somebody started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<AppProcessEnd>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppProcessEnd {
    /// `exited`, `exit_code`, `signal`, `out_of_memory`, `timed_out`, `start_not_ready`, `not_started` or `dependency_failed`.
    pub reason: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    pub at: String,
    /// The last lines that it printed.
    pub log_tail: Vec<String>,
}

/// A declared port, and whether who opens it meets the app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppPortStatus {
    pub port: u16,
    /// `start`, or the name of the service that it belongs to.
    pub process: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub path: String,
    /// `private` or `public`.
    pub access: String,
    /// Of a private one that lets in who sends a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_policy: Option<AppAuthPolicyStatus>,
    /// `closed`, `opening` or `ready`.
    pub state: String,
    /// Where it is seen by whoever may: a private one with a preview's cookie. Absent while the app has no sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Where the secret is sent that opens a port.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppAuthPolicyStatus {
    /// `bearer` or `header`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a `header`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_name: Option<String>,
}

/// A place where an app speaks the Model Context Protocol.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppMcpStatus {
    /// As the manifest calls it, else `mcp`.
    pub name: String,
    pub port: u16,
    pub path: String,
    /// `start`, or the name of the service that answers.
    pub process: String,
    /// `private` or `public`, as its port.
    pub access: String,
    /// As its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_policy: Option<AppAuthPolicyStatus>,
    /// `closed`, `opening` or `ready`, as its port.
    pub state: String,
    /// Absent while the app has no sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// `POST /api/v1/apps/{name}/services/{service}/stop`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppServiceStopResponse {
    /// Absent when it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<AppStoppedResponse>,
}

/// `GET /api/v1/apps/{name}/logs`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppLogResponse {
    pub output: String,
    /// What `since` is to be in the next request.
    pub cursor: String,
    /// Nothing more comes, unless it is started again.
    pub completed: bool,
}

/// `POST /api/v1/apps/{name}/previews`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppPreviewRequest {
    /// The first declared port by default.
    #[serde(default)]
    pub port: Option<u16>,
    /// What the link leads to; the port's own path by default.
    #[serde(default)]
    pub path: Option<String>,
    /// Instead of both: an endpoint of the Model Context Protocol by its name, an empty one for the first.
    #[serde(default)]
    pub mcp: Option<String>,
    /// 30 to 3600, 900 by default.
    #[serde(default)]
    pub ttl_seconds: Option<i64>,
}
