//! Archives into and out of volumes. They are unpacked beside the volume first, so that one that is refused leaves
//! nothing of itself in it.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::OpenOptionsExt,
};

use sandbar_tree::{ArchiveError, Limits, Unpacked, merge, pack_tar, pack_zip, unpack};

use super::VolumeError;
use crate::Node;

/// How a tree is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    Tar,
    Zip,
}

/// Why an archive did not get into a volume.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

impl Node {
    /// A nameless file on the disk of volumes, for an archive on its way in.
    pub fn volume_spool(&self) -> Result<File, VolumeError> {
        let dir = self.inner.volumes.dir();
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(rustix::fs::OFlags::TMPFILE.bits().cast_signed());
        options.open(dir).map_err(|source| VolumeError::Io { what: "make a file in", path: dir.to_owned(), source })
    }

    /// Unpacks an archive into the folder `below` of a tree, which is made where it is missing.
    pub async fn volume_import(&self, tree_id: &str, archive: File, below: String, limits: Limits) -> Result<Unpacked, ImportError> {
        let (staging, _pin) = self.volume_create(0, 0).await?;
        let (from, to) = (self.inner.volumes.path(&staging)?, self.inner.volumes.path(tree_id)?);
        let unpacked = tokio::task::spawn_blocking(move || {
            let unpacked = unpack(archive, &from, &limits)?;
            merge(&from, &to, &below).map_err(VolumeError::from)?;
            Ok(unpacked)
        });
        let result = unpacked.await.unwrap_or(Err(VolumeError::Stopped.into()));
        self.discard_tree(&staging);
        result
    }

    /// Packs a tree into `out`. Blocks as long as that takes.
    pub fn volume_export(&self, tree_id: &str, format: ArchiveFormat, out: impl Write) -> Result<(), VolumeError> {
        let path = self.inner.volumes.path(tree_id)?;
        match format {
            ArchiveFormat::Tar => pack_tar(&path, out)?,
            ArchiveFormat::Zip => pack_zip(&path, out)?,
        }
        Ok(())
    }
}
