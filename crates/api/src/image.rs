//! Images, and what takes the disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// What sandboxes are made from.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageInfo {
    /// The digest of its configuration; `host` for the one that is built in.
    pub id: String,
    pub names: Vec<String>,
    /// Where it came from, for people.
    pub source: String,
    /// Of its layers on disk, also of those that it shares.
    pub size_bytes: u64,
    pub layers: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageListResponse {
    pub images: Vec<ImageInfo>,
    pub count: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageImportResponse {
    pub images: Vec<ImageInfo>,
}

/// `POST /api/v1/images/pull`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImagePullRequest {
    /// `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`
    pub name: String,
    /// What it is to be called here; its own name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_name: Option<String>,
    /// For the registry; kept nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// By HTTP without TLS; registries on loopback addresses are asked so in any case.
    #[serde(default)]
    pub plain_http: bool,
}

/// `POST /api/v1/images/build`: an image with what setup commands leave on another.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageBuildRequest {
    pub name: String,
    /// The image to begin with.
    pub base: String,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where commands run, and the image's programs begin; `/` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Written before the first command.
    #[serde(default)]
    pub files: Vec<ImageBuildFile>,
    /// Commands for `/bin/sh`, one after the other; the first that fails ends the build.
    #[serde(default)]
    pub run: Vec<String>,
    /// What the build may use, for example `2Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// A network policy for the build, as sandboxes have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub network: Option<Value>,
    /// Build anew, also when an image was built from the very same.
    #[serde(default)]
    pub no_cache: bool,
}

/// A file of a build: its text, or its bytes as base64.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageBuildFile {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Octal, `0644` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// One line of the reply while an image is pulled or built. The last is `done` or `error`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ImageProgress {
    /// What will come: how many layers, and their packed bytes.
    Layers {
        count: u32,
        bytes: u64,
    },
    /// So much of a layer is here.
    Downloaded {
        digest: String,
        bytes: u64,
        total: u64,
    },
    Unpacking {
        digest: String,
    },
    /// A layer is in place, or was there before.
    Ready {
        digest: String,
        was_there: bool,
    },
    /// A command of a build begins.
    Step {
        step: u32,
        of: u32,
        command: String,
    },
    /// What a command prints.
    Output {
        stream: String,
        data: String,
    },
    Done {
        image: ImageInfo,
    },
    Error {
        code: String,
        /// As an HTTP status.
        status: u16,
        message: String,
    },
    /// Nothing has happened for a while.
    Heartbeat,
}

/// What takes the disk.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StorageResponse {
    /// Of the filesystem that holds the data folder.
    pub disk_total_bytes: u64,
    pub disk_free_bytes: u64,
    pub parts: Vec<StoragePart>,
    /// The largest of what is counted, largest first.
    pub largest: Vec<StorageItem>,
    /// What `gc` would remove now.
    pub reclaimable: Vec<StorageItem>,
}

/// Everything of one kind.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StoragePart {
    pub kind: String,
    pub items: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StorageItem {
    pub kind: String,
    pub id: String,
    pub bytes: u64,
}

/// `POST /api/v1/storage/gc`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// Remove images too that have a name, when no template names them and nothing was made from them.
    #[serde(default)]
    pub unused_images: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GcResponse {
    pub images: u64,
    pub layers: u64,
    pub volumes: u64,
    pub downloads_bytes: u64,
    pub disk_free_before_bytes: u64,
    pub disk_free_after_bytes: u64,
}
