//! Previews: private ways to the ports of a sandbox.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /api/v1/sandboxes/{id}/previews`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PreviewCreateRequest {
    /// 1 to 65535; something has to listen there, on the loopback address or on all.
    pub port: i64,
    /// How the server inside is spoken to: `http` (the default) or `https`.
    #[serde(default)]
    pub protocol: Option<String>,
    /// What is opened first: a path with one slash at its beginning. `/` by default.
    #[serde(default)]
    pub path: Option<String>,
    /// 30 to 3600, 900 by default.
    #[serde(default)]
    pub ttl_seconds: Option<i64>,
    /// Whether a request through it may wake the sandbox. Then it is good beyond a pause, too. Not by default.
    #[serde(default)]
    pub resume: Option<bool>,
}

/// `PUT /api/v1/sandboxes/{id}/previews/{preview_id}`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct PreviewRenewRequest {
    /// From now: 30 to 3600, 900 by default.
    #[serde(default)]
    pub ttl_seconds: Option<i64>,
}

/// A preview.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PreviewResponse {
    pub id: String,
    pub sandbox_id: String,
    pub port: u16,
    pub protocol: String,
    /// To be opened by whoever shall see it. The reply to the making of a preview is the only one with the secret in it, which
    /// works once; later it is the same as `target_url`.
    pub url: String,
    /// Where it leads.
    pub target_url: String,
    pub resume: bool,
    pub created_at: String,
    /// When its URL was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<String>,
    pub expires_at: String,
    /// Of the runtime that it was made for. Without `resume` it is good for no other.
    pub runtime_generation: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PreviewListResponse {
    /// One's own that are good, oldest first.
    pub previews: Vec<PreviewResponse>,
}
