//! Ports of an app, and who may see what they serve.

use serde::{Deserialize, Serialize};

use super::is_false;

/// A port that a process listens on, and who may see what it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    pub port: u16,
    #[serde(default)]
    pub protocol: Protocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default)]
    pub access: Access,
    /// What is shown first, and what readiness asks for where nothing else is said.
    pub path: String,
    /// A request with this secret is let in, besides the team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_policy: Option<AuthPolicy>,
    /// A request wakes the sandbox.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto_start: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Http,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    #[default]
    Private,
    Public,
}

/// A secret that opens a preview; only its SHA-256 is known, in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum AuthPolicy {
    /// `Authorization: Bearer TOKEN`.
    Bearer { token_sha256: String },
    /// A header of the owner's choosing, its name in lower case.
    Header { header_name: String, value_sha256: String },
}

named!(Protocol: Http = "http");
named!(Access: Private = "private", Public = "public");
