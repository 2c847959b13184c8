//! What takes the disk of this machine.

use std::path::Path;

use crate::{Node, room::free_bytes, roots::list_names};

/// What lies on disk, in bytes by name.
#[derive(Debug, Default)]
pub struct OnDisk {
    /// Roots and layers of sandboxes.
    pub roots: Vec<(String, u64)>,
    /// Trees of volumes and of their snapshots.
    pub volumes: Vec<(String, u64)>,
    /// Layers of images, by digest.
    pub image_layers: Vec<(String, u64)>,
    /// The built-in image.
    pub host_image_bytes: u64,
    pub downloads: Vec<(String, u64)>,
    /// Logs of sandboxes' processes, by runtime.
    pub logs: Vec<(String, u64)>,
    pub trash_bytes: u64,
    /// Of the filesystem.
    pub total_bytes: u64,
    pub free_bytes: u64,
}

impl Node {
    /// Measures everything. Walks all trees: for people who ask, not for hot paths.
    pub async fn on_disk(&self) -> OnDisk {
        let node = self.clone();
        tokio::task::spawn_blocking(move || node.measure_disk()).await.unwrap_or_default()
    }

    /// Free bytes of the disk that the data is on.
    pub fn free_disk_bytes(&self) -> u64 {
        free_bytes(self.inner.images.dir()).unwrap_or(0)
    }

    fn measure_disk(&self) -> OnDisk {
        let inner = &self.inner;
        let images = inner.images.dir();
        let named =
            |dir: &Path, of: &dyn Fn(&str) -> u64| list_names(dir).into_iter().map(|name| (of(&name), name)).map(|(bytes, name)| (name, bytes)).collect();
        let (layers, downloads) = (images.join("layers"), images.join("downloads"));
        OnDisk {
            roots: inner.roots.list().into_iter().map(|id| (bytes_of(&inner.roots.upper(&id)), id)).map(|(bytes, id)| (id, bytes)).collect(),
            volumes: named(inner.volumes.dir(), &|name| bytes_of(&inner.volumes.dir().join(name))),
            image_layers: named(&layers, &|name| bytes_of(&layers.join(name))),
            host_image_bytes: list_names(images)
                .iter()
                .filter(|name| ["host-", "top-", "bottom-"].iter().any(|kind| name.starts_with(kind)))
                .map(|name| bytes_of(&images.join(name)))
                .sum(),
            downloads: named(&downloads, &|name| bytes_of(&downloads.join(name))),
            logs: named(&inner.runtimes_dir, &|name| bytes_of(&inner.runtimes_dir.join(name))),
            trash_bytes: bytes_of(inner.roots.trash_dir()),
            total_bytes: rustix::fs::statvfs(images).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize)),
            free_bytes: self.free_disk_bytes(),
        }
    }
}

/// What a file or tree takes. What vanishes meanwhile, or is too deep, counts for nothing.
fn bytes_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => sandbar_tree::measure(path).map_or(0, |measured| measured.bytes),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    }
}
