//! Volumes: files that outlive sandboxes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /api/v1/sandboxvolumes`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct VolumeCreateRequest {
    #[serde(default)]
    pub name: Option<String>,
    /// `RWO` (one sandbox at a time, default), `ROX` (many, read-only) or `RWX` (many).
    #[serde(default)]
    pub access_mode: Option<String>,
    /// Begin with the files of this volume snapshot.
    #[serde(default)]
    pub snapshot_id: Option<String>,
    /// Owner of the volume's top folder; default 0.
    #[serde(default)]
    pub default_posix_uid: Option<u32>,
    #[serde(default)]
    pub default_posix_gid: Option<u32>,
    /// Most bytes of files, for example `10Gi`.
    #[serde(default)]
    pub size_limit: Option<String>,
}

/// A volume.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VolumeResponse {
    pub id: String,
    pub team_id: String,
    pub user_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub access_mode: String,
    /// Always `s0fs`, which clients of one generation require.
    pub backend: String,
    pub default_posix_uid: u32,
    pub default_posix_gid: u32,
    pub size_limit: String,
    /// The app that it is of. It goes with that, or is left by it; an app of that name which declares it has it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The volume that this one was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_volume_id: Option<String>,
    /// Sandboxes that have it mounted or will when they start.
    pub mounted_by: Vec<String>,
    pub created_at: String,
    pub updated_at: String,
}

/// `POST /api/v1/sandboxvolumes/{id}/fork`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct VolumeForkRequest {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub access_mode: Option<String>,
    #[serde(default)]
    pub default_posix_uid: Option<u32>,
    #[serde(default)]
    pub default_posix_gid: Option<u32>,
}

/// `POST /api/v1/sandboxvolumes/{id}/snapshots`; an empty body is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct VolumeSnapshotRequest {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
}

/// The files of a volume at one moment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VolumeSnapshotResponse {
    pub id: String,
    pub volume_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub size_bytes: u64,
    pub created_at: String,
}

/// The reply to a restore.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VolumeRestoreResponse {
    pub volume_id: String,
    pub snapshot_id: String,
    /// `restored`.
    pub status: String,
}

/// What an archive brought.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ArchiveImportResponse {
    pub files: u64,
    pub bytes: u64,
}
