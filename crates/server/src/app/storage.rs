//! What takes the disk, and giving back what nobody needs.

use std::collections::{HashMap, HashSet};

use sandbar_api::image::{GcRequest, GcResponse, StorageItem, StoragePart, StorageResponse};
use sandbar_node::{InUse, OnDisk, error_text};

use crate::{
    app::{
        App, SharedApp,
        auth::Principal,
        sandboxes::{spec, store_failure},
    },
    error::ApiError,
    tasks::collect::collect,
};

/// Items that are named one by one.
const LARGEST_MAX: usize = 20;

impl App {
    /// Everything on disk by kind. Walks all files.
    pub async fn storage(&self, who: &Principal) -> Result<StorageResponse, ApiError> {
        self.auth.require_operator(who).await?;
        let disk = self.node.on_disk().await;
        let named = self.store.named().await.map_err(|e| store_failure("reading what rows name", &e))?;
        let records = self.store.sandboxes_all().await.map_err(|e| store_failure("reading sandboxes", &e))?;
        let snapshots = self.store.volume_snapshot_trees().await.map_err(|e| store_failure("reading volume snapshots", &e))?;
        let sandboxes: HashMap<&str, &str> = records.iter().filter_map(|record| Some((record.root_id.as_deref()?, record.id.as_str()))).collect();
        let mut items: Vec<StorageItem> = Vec::new();
        let mut item = |kind: &str, id: &str, bytes: u64| items.push(StorageItem { kind: kind.to_owned(), id: id.to_owned(), bytes });
        for (root, bytes) in &disk.roots {
            match sandboxes.get(root.as_str()) {
                Some(sandbox) => item("sandbox", sandbox, *bytes),
                None if named.roots.contains(root) => item("layer", root, *bytes),
                // Idle ones in pools, builds, keepers of volumes, and what is about to go.
                None => item("other", root, *bytes),
            }
        }
        for (tree, bytes) in &disk.volumes {
            match snapshots.get(tree) {
                Some((snapshot, true)) => item("volume_snapshot", snapshot, *bytes),
                Some((volume, false)) => item("volume", volume, *bytes),
                None => item("other", tree, *bytes),
            }
        }
        for (layer, bytes) in &disk.image_layers {
            item("image_layer", layer, *bytes);
        }
        for (runtime, bytes) in &disk.logs {
            item("log", runtime, *bytes);
        }
        for (digest, bytes) in &disk.downloads {
            item("download", digest, *bytes);
        }
        item("host_image", "host", disk.host_image_bytes);
        if disk.trash_bytes > 0 {
            item("trash", "trash", disk.trash_bytes);
        }
        let reclaimable = self.reclaimable(&disk, &named.images);
        Ok(rendered(&disk, items, reclaimable))
    }

    /// Removes what nothing names any more.
    pub async fn gc(self: &SharedApp, who: &Principal, request: GcRequest) -> Result<GcResponse, ApiError> {
        self.auth.require_operator(who).await?;
        let before = self.node.free_disk_bytes();
        if request.unused_images {
            self.untag_unused().await?;
        }
        let collected = collect(self).await.unwrap_or_default();
        let one_at_a_time = self.collecting.lock().await;
        // Begun before the rows are read.
        self.node.begin_collection();
        let named = self.store.named().await.map_err(|e| store_failure("reading what rows name", &e))?;
        let in_use = InUse { roots: named.roots, volumes: named.trees, images: named.images };
        let images = self.node.collect_images(in_use).await.map_err(|error| ApiError::internal("removing images", &error_text(&error)))?;
        drop(one_at_a_time);
        Ok(GcResponse {
            images: collected.images as u64 + images.0 as u64,
            layers: collected.layers as u64,
            volumes: collected.volumes as u64,
            downloads_bytes: images.1,
            disk_free_before_bytes: before,
            disk_free_after_bytes: self.node.free_disk_bytes(),
        })
    }

    /// Takes the names of images that no template names and nothing was made from.
    async fn untag_unused(&self) -> Result<(), ApiError> {
        let named = self.store.named().await.map_err(|e| store_failure("reading what rows name", &e))?;
        let templates = self.store.templates_all().await.map_err(|e| store_failure("reading templates", &e))?;
        let images = self.node.images();
        let wanted: HashSet<String> = templates.iter().filter_map(|template| images.resolve(spec::image_of(&template.spec)).ok()).collect();
        for view in images.list() {
            if !wanted.contains(&view.record.id) && !named.images.contains(&view.record.id) && !view.names.is_empty() {
                let (node, id) = (self.node.clone(), view.record.id);
                let untagged = tokio::task::spawn_blocking(move || node.images().untag(&id)).await;
                if let Ok(Err(error)) = untagged {
                    return Err(ApiError::internal("removing an image", &error_text(&error)));
                }
            }
        }
        Ok(())
    }

    fn reclaimable(&self, disk: &OnDisk, named: &HashSet<String>) -> Vec<StorageItem> {
        let images = self.node.images();
        let mut needed: HashSet<String> = HashSet::new();
        let nameless: HashSet<String> = images.nameless().into_iter().filter(|id| !named.contains(id)).collect();
        let item = |kind: &str, id: &str, bytes: u64| StorageItem { kind: kind.to_owned(), id: id.to_owned(), bytes };
        for view in images.list().into_iter().filter(|view| !nameless.contains(&view.record.id)) {
            needed.extend(view.record.layers.iter().map(|layer| layer.folder().to_owned()));
        }
        let layers = disk.image_layers.iter().filter(|(layer, _)| !needed.contains(layer));
        let mut found: Vec<_> = layers.map(|(layer, bytes)| item("image_layer", layer, *bytes)).collect();
        found.extend(disk.downloads.iter().map(|(digest, bytes)| item("download", digest, *bytes)));
        found
    }
}

fn rendered(disk: &OnDisk, mut items: Vec<StorageItem>, reclaimable: Vec<StorageItem>) -> StorageResponse {
    let mut parts: Vec<StoragePart> = Vec::new();
    for item in &items {
        match parts.iter_mut().find(|part| part.kind == item.kind) {
            Some(part) => {
                part.items += 1;
                part.bytes += item.bytes;
            }
            None => parts.push(StoragePart { kind: item.kind.clone(), items: 1, bytes: item.bytes }),
        }
    }
    parts.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.kind.cmp(&b.kind)));
    items.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.id.cmp(&b.id)));
    items.truncate(LARGEST_MAX);
    StorageResponse { disk_total_bytes: disk.total_bytes, disk_free_bytes: disk.free_bytes, parts, largest: items, reclaimable }
}
