//! Archives into and out of volumes.

use axum::body::Body;
use sandbar_api::{ErrorCode, volume::ArchiveImportResponse};
use sandbar_core::{limits, quantity};
use sandbar_node::{
    error_text,
    volumes::{ArchiveFormat, ImportError, VolumeError},
};

use super::failure;
use crate::{
    app::{
        App,
        auth::Principal,
        room::full,
        streams::{keep, packed},
    },
    error::ApiError,
    http::extract::too_large,
};

/// Entries of one archive.
const ENTRIES_MAX: u64 = 1_000_000;

impl App {
    /// Unpacks an archive from a request's body into a folder of a volume: all of it or, when it is refused, nothing.
    pub async fn import_archive(&self, who: &Principal, id: &str, below: &str, body: Body) -> Result<ArchiveImportResponse, ApiError> {
        if below.split('/').any(|part| part == "..") {
            return Err(ApiError::bad_request("path: must not hold \"..\""));
        }
        let volume = self.volume(who, id).await?;
        self.check_room()?;
        let used = self.node.volume_bytes(&volume.tree_id).await.map_err(|error| failure("measuring the volume", &error))?;
        let bytes_max = volume.size_limit_bytes.saturating_sub(used);
        let spool = self.node.volume_spool().map_err(|error| failure("keeping the archive", &error))?;
        let spool = keep(self, spool, body).await?;
        let limits = sandbar_node::volumes::ArchiveLimits { entries_max: ENTRIES_MAX, bytes_max };
        let (node, tree, below) = (self.node.clone(), volume.tree_id.clone(), below.to_owned());
        // To its end, also when the client goes away now that all of it is here.
        let imported = self.sandboxes.tasks.spawn(async move { node.volume_import(&tree, spool, below, limits).await });
        match imported.await.unwrap_or(Err(ImportError::Volume(VolumeError::Stopped))) {
            Ok(unpacked) => Ok(ArchiveImportResponse { files: unpacked.files, bytes: unpacked.bytes }),
            Err(ImportError::Volume(error)) => Err(failure("unpacking the archive", &error)),
            Err(ImportError::Archive(error)) if error.is_disk_full() => Err(full()),
            Err(ImportError::Archive(error)) if error.is_too_large() => {
                let (left, limit) = (quantity::readable_bytes(bytes_max), quantity::readable_bytes(volume.size_limit_bytes));
                let text = format!("the archive does not fit: the volume's size limit is {limit}, of which {left} is left; nothing was changed");
                Err(ApiError::new(ErrorCode::InsufficientStorage, text))
            }
            Err(ImportError::Archive(error)) => Err(ApiError::bad_request(format!("{}; nothing was changed", error_text(&error)))),
        }
    }

    /// A volume's files as an archive, packed as fast as the client reads.
    pub async fn export_archive(&self, who: &Principal, id: &str, format: ArchiveFormat) -> Result<Body, ApiError> {
        let volume = self.volume(who, id).await?;
        let (node, id, pin) = (self.node.clone(), id.to_owned(), self.node.pin(&volume.tree_id));
        Ok(packed(move |out| {
            let packed = node.volume_export(&volume.tree_id, format, out);
            drop(pin);
            packed.map_err(|error| format!("an archive of volume {id} broke off: {}", error_text(&error)))
        }))
    }
}

/// Refuses a length that no archive may have.
pub(crate) fn check_length(length: Option<u64>) -> Result<(), ApiError> {
    if length.is_some_and(|length| length > limits::FILE_MAX_BYTES) { Err(too_large(limits::FILE_MAX_BYTES)) } else { Ok(()) }
}
