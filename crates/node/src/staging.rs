//! Archives of strangers on their way into a sandbox's files: unpacked beside everything else, looked at, and then made a layer.

use std::{fs::File, os::unix::fs::DirBuilderExt};

use sandbar_core::sandbox::Layer;
pub use sandbar_tree::Listed;
use sandbar_tree::{CopyOptions, Limits, Unpacked, unpack};

use crate::{
    Node, Pin, RuntimeError,
    roots::RootError,
    volumes::{ImportError, VolumeError},
};

/// What an archive brought; gone when this is dropped. No row names it, so a start removes what a killed server left.
pub struct Staged {
    node: Node,
    tree_id: String,
    pub unpacked: Unpacked,
    _pin: Pin,
}

/// Which paths of an archive become a layer.
pub type Keep = Box<dyn Fn(&[u8]) -> bool + Send>;

impl Node {
    /// Unpacks an archive: all of it or nothing.
    pub async fn stage(&self, archive: File, limits: Limits) -> Result<Staged, ImportError> {
        let (tree_id, pin) = self.volume_create(0, 0).await?;
        let mut staged = Staged { node: self.clone(), tree_id, unpacked: Unpacked::default(), _pin: pin };
        let into = self.inner.volumes.path(&staged.tree_id)?;
        let unpacked = tokio::task::spawn_blocking(move || unpack(archive, &into, &limits)).await;
        staged.unpacked = unpacked.map_err(|_| VolumeError::Stopped)??;
        Ok(staged)
    }
}

impl Staged {
    /// The bytes of a file at the top; none when there is no such name.
    pub async fn read(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, VolumeError> {
        let (top, name) = (self.node.inner.volumes.path(&self.tree_id)?, name.to_owned());
        let read = tokio::task::spawn_blocking(move || sandbar_tree::read_at_top(&top, &name, bytes_max)).await;
        Ok(read.map_err(|_| VolumeError::Stopped)??)
    }

    /// All names with what they are.
    pub async fn listing(&self) -> Result<Vec<Listed>, VolumeError> {
        let top = self.node.inner.volumes.path(&self.tree_id)?;
        let listed = tokio::task::spawn_blocking(move || sandbar_tree::listing(&top)).await;
        Ok(listed.map_err(|_| VolumeError::Stopped)??)
    }

    /// A layer with these files in the folder `folder` of the root, and what keeps it until a row names it. With `keep` only of the
    /// paths that it is true for.
    pub async fn layer(&self, folder: &str, keep: Option<Keep>) -> Result<(Layer, Pin), RuntimeError> {
        let node = &self.node;
        let from = node.inner.volumes.path(&self.tree_id)?;
        let root = node.create_root().await?;
        let pin = node.pin(&root.id);
        let to = node.inner.roots.upper(&root.id).join(folder);
        let options = CopyOptions { from_base: 0, to_base: root.uid_base(), bytes_max: None };
        let made = tokio::task::spawn_blocking(move || {
            let failed = |source| RuntimeError::Root(RootError::Io { what: "make", path: to.clone(), source });
            std::fs::DirBuilder::new().mode(0o755).create(&to).map_err(failed)?;
            sandbar_tree::copy(&from, &to, &options).map_err(RuntimeError::Copy)?;
            keep.map_or(Ok(()), |keep| sandbar_tree::prune(&to, &*keep)).map_err(RuntimeError::Copy)
        });
        match made.await.unwrap_or(Err(RuntimeError::Stopped)) {
            Ok(()) => Ok((Layer { root_id: root.id, uid_slot: root.uid_slot }, pin)),
            Err(error) => {
                node.remove_root(&root);
                Err(error)
            }
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.node.discard_tree(&self.tree_id);
    }
}
