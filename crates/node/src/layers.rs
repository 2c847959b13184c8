//! Layers: roots that nobody writes any more. They are made by a row that names them so, or by a copy.

use std::{
    collections::HashSet,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

use sandbar_core::{
    image::is_digest,
    sandbox::{Base, Layer},
};
use sandbar_linux::launch::overlay_view;
use sandbar_tree::CopyOptions;

use crate::{Node, Pin, RuntimeError, image::ImageError, roots::Root};

/// What rows name.
#[derive(Debug, Default)]
pub struct InUse {
    /// Live roots and layers.
    pub roots: HashSet<String>,
    /// Trees of volumes and of their snapshots.
    pub volumes: HashSet<String>,
    /// Contents of images.
    pub images: HashSet<String>,
}

/// What a collection removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    pub layers: usize,
    pub volumes: usize,
    /// Of images.
    pub images: usize,
}

impl Node {
    /// Keeps a base from being collected until a row names it.
    pub fn pin_base(&self, base: &Base) -> Pin {
        self.inner.pins.pin(Pin::ids_of(base))
    }

    /// Keeps a root, or a tree of a volume, from being collected until a row names it.
    pub fn pin(&self, id: &str) -> Pin {
        self.inner.pins.pin(vec![id.to_owned()])
    }

    /// Whether nothing was ever written to a root.
    pub fn is_root_empty(&self, root: &Root) -> bool {
        std::fs::read_dir(self.inner.roots.upper(&root.id)).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// A layer with the files that a root has now, and what keeps it until a row names it. Nobody may write to the root
    /// meanwhile.
    pub async fn copy_root(&self, root: &Root) -> Result<(Layer, Pin), RuntimeError> {
        let made = self.create_root().await?;
        let pin = self.pin(&made.id);
        let roots = self.inner.roots.clone();
        let options = CopyOptions { from_base: root.uid_base(), to_base: made.uid_base(), bytes_max: None };
        let (from, to) = (roots.upper(&root.id), roots.upper(&made.id));
        let copied = tokio::task::spawn_blocking(move || sandbar_tree::copy(&from, &to, &options)).await;
        match copied {
            Ok(Ok(_)) => Ok((Layer { root_id: made.id, uid_slot: made.uid_slot }, pin)),
            Ok(Err(error)) => {
                self.remove_root(&made);
                Err(RuntimeError::Copy(error))
            }
            Err(_) => {
                self.remove_root(&made);
                Err(RuntimeError::Stopped)
            }
        }
    }

    /// One layer in place of all that a base has, with the same files to see. The base stays as it is.
    pub async fn flatten(&self, base: &Base) -> Result<(Base, Pin), RuntimeError> {
        let image = self.inner.images.get(&base.image)?;
        let made = self.create_root().await?;
        let pin = self.pin(&made.id);
        let own = made.uid_base();
        let below: Vec<_> = image.lowers.iter().map(sandbar_linux::launch::Lower::shared).collect();
        let mut all = self.layers(&base.layers);
        all.extend(below.iter().cloned());
        let to = self.inner.roots.upper(&made.id);
        let flattened = tokio::task::spawn_blocking(move || {
            let merged = overlay_view(&all, own)?;
            let image = overlay_view(&below, own)?;
            sandbar_tree::difference(&path_of(&image), &path_of(&merged), &to, own, own).map_err(RuntimeError::Copy)
        })
        .await
        .unwrap_or(Err(RuntimeError::Stopped));
        match flattened {
            Ok(()) => {
                let layers = vec![Layer { root_id: made.id, uid_slot: made.uid_slot }];
                Ok((Base { image: base.image.clone(), layers }, pin))
            }
            Err(error) => {
                self.remove_root(&made);
                Err(error)
            }
        }
    }

    /// Says that a row named these roots or trees and does not any more. If no other does, the next collection removes them.
    pub fn release(&self, ids: impl IntoIterator<Item = String>) {
        self.inner.pins.release(ids);
    }

    /// Begins a collection; `false` when nothing was released. Call it before the rows are read that [`Node::collect`] is
    /// to go by.
    pub fn begin_collection(&self) -> bool {
        self.inner.pins.begin()
    }

    /// Whether what was released is still to be collected, since somebody worked with it when it was looked at.
    pub fn has_uncollected(&self) -> bool {
        self.inner.pins.has_released()
    }

    /// Removes contents of images that have no name, unless they are in use or pinned, layers that no image has, and what is
    /// left of downloads. Begin the collection before the rows are read. Returns how many images went, and the bytes of
    /// downloads.
    pub async fn collect_images(&self, in_use: InUse) -> Result<(usize, u64), ImageError> {
        let node = self.clone();
        let collected = tokio::task::spawn_blocking(move || {
            let inner = &node.inner;
            let mut gone = 0;
            for id in inner.images.nameless().iter().filter(|id| !in_use.images.contains(*id) && !inner.pins.is_held(id)) {
                gone += usize::from(inner.images.forget(id)?);
            }
            inner.images.sweep_layers(&inner.roots);
            let downloads = inner.images.sweep_downloads();
            inner.roots.empty_trash();
            Ok((gone, downloads))
        });
        collected.await.unwrap_or(Err(ImageError::Stopped))
    }

    /// Removes what was released, no row names and nobody is working with.
    pub async fn collect(&self, in_use: InUse) -> Collected {
        let node = self.clone();
        let collected = tokio::task::spawn_blocking(move || {
            let inner = &node.inner;
            let mut collected = Collected::default();
            let is_used = |id: &str| in_use.roots.contains(id) || in_use.volumes.contains(id) || in_use.images.contains(id);
            for id in inner.pins.take_unused(is_used) {
                if is_digest(&id) {
                    match inner.images.forget(&id) {
                        Ok(gone) => collected.images += usize::from(gone),
                        Err(error) => tracing::warn!(image = id, %error, "an image that nobody uses could not be removed"),
                    }
                } else if inner.volumes.is_tree(&id) {
                    inner.volumes.remove(&id, &inner.roots);
                    collected.volumes += 1;
                } else {
                    inner.roots.remove_by_id(&id);
                    collected.layers += 1;
                }
            }
            if collected.images > 0 {
                inner.images.sweep_layers(&inner.roots);
            }
            inner.roots.empty_trash();
            collected
        });
        collected.await.unwrap_or_default()
    }
}

pub(crate) fn path_of(tree: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/.", tree.as_raw_fd()))
}
