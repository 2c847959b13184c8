//! Files of a sandbox.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of thing a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// Sockets, FIFOs and devices too.
    File,
    Dir,
    Symlink,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileInfo {
    pub name: String,
    pub path: String,
    #[serde(rename = "type")]
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits in octal: `0644`.
    pub mode: String,
    /// RFC 3339.
    pub mod_time: String,
    pub is_link: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
    /// There and true where the name is no UTF-8: it is shown with U+FFFD, and cannot be asked for by what is shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_lossy: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileListResponse {
    pub entries: Vec<FileInfo>,
}

/// A file as JSON, for clients that ask for it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileContentResponse {
    pub content: String,
    /// Always `base64`.
    pub encoding: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MoveFileRequest {
    pub source: String,
    pub destination: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MovedResponse {
    pub moved: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedResponse {
    pub created: bool,
}
