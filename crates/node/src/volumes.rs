//! Volumes: trees of files below `DATA/volumes` that no sandbox owns. On disk their ids are those inside, so nobody but
//! the server may enter the folder that holds them.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
};

use sandbar_tree::{CopyOptions, TreeError};

mod archive;
mod keeper;

pub use archive::{ArchiveFormat, ImportError};
pub use keeper::Keeper;
pub(crate) use keeper::Keepers;
pub use sandbar_tree::Limits as ArchiveLimits;

use crate::{
    Node, Pin, random_id,
    roots::{Roots, list_names},
};

/// What every tree's id begins with.
const PREFIX: &str = "tree-";

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the files of the volume ({0}) are not on this machine")]
    Missing(String),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("the server is stopping")]
    Stopped,
}

impl VolumeError {
    /// Whether the volume's own files are in the way: nested too deeply, or a file or link where a folder has to be.
    pub fn is_in_the_way(&self) -> bool {
        use rustix::io::Errno;
        let blocking = [Errno::NOTDIR, Errno::LOOP, Errno::ISDIR, Errno::NOTEMPTY, Errno::EXIST];
        match self {
            Self::Tree(TreeError::TooDeep { .. }) => true,
            Self::Tree(TreeError::Io { source, .. }) => blocking.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error())),
            Self::Tree(TreeError::TooLarge { .. }) | Self::Io { .. } | Self::Missing(_) | Self::Stopped => false,
        }
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
            Self::Tree(error) => error.is_disk_full(),
            Self::Missing(_) | Self::Stopped => false,
        }
    }
}

/// The folder of all trees.
#[derive(Debug, Clone)]
pub(crate) struct Volumes {
    dir: PathBuf,
}

impl Volumes {
    pub fn open(data_dir: &Path) -> Result<Self, VolumeError> {
        let dir = data_dir.join("volumes");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|source| VolumeError::Io { what: "make", path: dir.clone(), source })?;
        Ok(Self { dir })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn is_tree(&self, id: &str) -> bool {
        id.starts_with(PREFIX)
    }

    /// Where a tree is.
    pub fn path(&self, tree_id: &str) -> Result<PathBuf, VolumeError> {
        let path = self.dir.join(tree_id);
        // Ids come from rows, which are ours; all the same none may lead elsewhere.
        if !self.is_tree(tree_id) || tree_id.contains('/') || !path.is_dir() {
            return Err(VolumeError::Missing(tree_id.to_owned()));
        }
        Ok(path)
    }

    /// Moves a tree to the trash.
    pub fn remove(&self, tree_id: &str, roots: &Roots) {
        if let Ok(path) = self.path(tree_id) {
            roots.trash(&path, tree_id);
        }
    }

    /// Moves away what no row names.
    pub fn sweep(&self, owned: &HashSet<String>, roots: &Roots) {
        for id in list_names(&self.dir).iter().filter(|id| !owned.contains(*id)) {
            self.remove(id, roots);
        }
    }

    fn create(&self, uid: u32, gid: u32) -> Result<String, VolumeError> {
        let id = random_id(PREFIX);
        let path = self.dir.join(&id);
        let failed = |what| {
            let path = path.clone();
            move |source| VolumeError::Io { what, path, source }
        };
        fs::DirBuilder::new().mode(0o755).create(&path).map_err(failed("make"))?;
        chown(&path, Some(uid), Some(gid)).map_err(failed("give away"))?;
        Ok(id)
    }
}

impl Node {
    /// An empty tree, and what keeps it until a row names it.
    pub async fn volume_create(&self, uid: u32, gid: u32) -> Result<(String, Pin), VolumeError> {
        let volumes = self.inner.volumes.clone();
        let id = tokio::task::spawn_blocking(move || volumes.create(uid, gid)).await.unwrap_or(Err(VolumeError::Stopped))?;
        let pin = self.pin(&id);
        Ok((id, pin))
    }

    /// A copy of a tree, sharing its contents on disk where the filesystem can; with its bytes on disk.
    pub async fn volume_copy(&self, tree_id: &str) -> Result<(String, u64, Pin), VolumeError> {
        let from = self.inner.volumes.path(tree_id)?;
        let (copy, pin) = self.volume_create(0, 0).await?;
        let to = self.inner.volumes.path(&copy)?;
        let copied = tokio::task::spawn_blocking(move || {
            sandbar_tree::copy(&from, &to, &CopyOptions::default())?;
            Ok(sandbar_tree::measure(&to)?.bytes)
        });
        match copied.await.unwrap_or(Err(VolumeError::Stopped)) {
            Ok(bytes) => Ok((copy, bytes, pin)),
            Err(error) => {
                self.discard_tree(&copy);
                Err(error)
            }
        }
    }

    /// Removes a tree that no row ever named.
    pub(crate) fn discard_tree(&self, tree_id: &str) {
        self.inner.volumes.remove(tree_id, &self.inner.roots);
        let roots = self.inner.roots.clone();
        self.inner.tasks.spawn_blocking(move || roots.empty_trash());
    }

    /// What a tree takes on disk.
    pub async fn volume_bytes(&self, tree_id: &str) -> Result<u64, VolumeError> {
        let path = self.inner.volumes.path(tree_id)?;
        let measured = tokio::task::spawn_blocking(move || sandbar_tree::measure(&path).map_err(VolumeError::from));
        Ok(measured.await.unwrap_or(Err(VolumeError::Stopped))?.bytes)
    }
}
