//! Volumes: files that outlive sandboxes.

use futures_util::future::BoxFuture;
use sandbar_api::{
    ErrorCode,
    volume::{VolumeCreateRequest, VolumeForkRequest, VolumeSnapshotRequest},
};
use sandbar_core::{limits, quantity, sandbox::SandboxRecord, validate::Violation, volume::AccessMode};
use sandbar_node::{
    error_text,
    volumes::{Keeper, VolumeError},
};
use sandbar_store::{Holder, VolumeRecord, VolumeSnapshotRecord};
use tokio::sync::oneshot;

use crate::{
    app::{
        App,
        auth::Principal,
        room::full,
        sandboxes::{now_ms, store_failure, violations},
        snapshots::texts,
    },
    error::ApiError,
};

mod archive;

pub(crate) use archive::check_length;

/// Ids inside that may own a volume's top folder.
const POSIX_ID_MAX: u32 = 65_535;

impl App {
    /// A new volume: empty, or with the files of a volume snapshot.
    pub async fn create_volume(&self, who: &Principal, request: VolumeCreateRequest) -> Result<VolumeRecord, ApiError> {
        let VolumeCreateRequest { name, access_mode, snapshot_id, default_posix_uid, default_posix_gid, size_limit } = request;
        let mut wrong = texts(&[("name", &name, limits::NAME_MAX_CHARS)]);
        let access_mode = mode(access_mode.as_deref(), AccessMode::Rwo, &mut wrong);
        let size_limit_bytes = size(size_limit.as_deref(), &mut wrong);
        let (uid, gid) = (default_posix_uid.unwrap_or(0), default_posix_gid.unwrap_or(0));
        check_ids(uid, gid, &mut wrong);
        if !wrong.is_empty() {
            return Err(violations(wrong));
        }
        self.check_room()?;
        let (tree_id, _pin) = match snapshot_id.as_deref().filter(|id| !id.is_empty()) {
            Some(id) => {
                let snapshot = self.volume_snapshot_of_team(who, id).await?;
                check_fits(snapshot.size_bytes, size_limit_bytes)?;
                let _source = self.node.pin(&snapshot.tree_id);
                let (tree, _, pin) = self.node.volume_copy(&snapshot.tree_id).await.map_err(|error| failure("copying the snapshot", &error))?;
                (tree, pin)
            }
            None => self.node.volume_create(uid, gid).await.map_err(|error| failure("making the volume", &error))?,
        };
        self.insert_volume(who, name, access_mode, tree_id, size_limit_bytes, (uid, gid), None).await
    }

    /// The team's volumes, oldest first.
    pub async fn volumes(&self, who: &Principal) -> Result<Vec<VolumeRecord>, ApiError> {
        self.store.volumes_list(&who.team_id).await.map_err(|e| store_failure("listing volumes", &e))
    }

    /// One volume of the team.
    pub async fn volume(&self, who: &Principal, id: &str) -> Result<VolumeRecord, ApiError> {
        let found = self.store.volume_get(&who.team_id, id).await.map_err(|e| store_failure("reading the volume", &e))?;
        found.filter(|volume| volume.owner.is_none()).ok_or_else(|| ApiError::not_found("volume", id))
    }

    /// Sandboxes that have a volume or will when they start.
    pub async fn volume_holders(&self, id: &str) -> Result<Vec<Holder>, ApiError> {
        self.store.volume_holders(id).await.map_err(|e| store_failure("reading who has the volume", &e))
    }

    /// Deletes a volume with its snapshots. One that sandboxes have is deleted only with `force`: their processes end, and
    /// they start without it.
    pub async fn delete_volume(&self, who: &Principal, id: &str, force: bool) -> Result<(), ApiError> {
        let volume = self.volume(who, id).await?;
        if !force {
            self.check_left_by_app(id).await?;
        }
        if force {
            for holder in self.volume_holders(id).await? {
                self.detach_volume(&holder.sandbox_id, id).await?;
            }
        }
        let deleted = self.store.volume_delete(&who.team_id, id, force).await.map_err(|e| store_failure("deleting the volume", &e))?;
        // Those who came in between; nobody comes any more.
        for holder in &deleted.holders {
            self.detach_volume(holder, id).await.inspect_err(|error| tracing::warn!(sandbox = holder, %error, "a volume was not detached")).ok();
        }
        self.node.volume_end_keeper(&volume.tree_id).await;
        self.node.release(deleted.trees);
        self.collect_soon.notify_one();
        Ok(())
    }

    /// Refuses a volume of an app that is there.
    async fn check_left_by_app(&self, id: &str) -> Result<(), ApiError> {
        let failed = |e| store_failure("reading the app of the volume", &e);
        let Some(of) = self.store.app_volume_of(id).await.map_err(failed)? else { return Ok(()) };
        if self.store.app_find(&of.volume.team_id, &of.app_name).await.map_err(failed)?.is_none() {
            return Ok(());
        }
        let text = format!("volume {id:?} is {:?} of app {:?}; it goes with the app, or is deleted by force", of.name, of.app_name);
        Err(ApiError::conflict(text))
    }

    /// The app that a volume is of, if it is one's.
    pub(crate) async fn app_of_volume(&self, id: &str) -> Result<Option<String>, ApiError> {
        let found = self.store.app_volume_of(id).await.map_err(|e| store_failure("reading the app of the volume", &e))?;
        Ok(found.map(|found| found.app_name))
    }

    /// A new volume with the files that another has now.
    pub async fn fork_volume(&self, who: &Principal, id: &str, request: VolumeForkRequest) -> Result<VolumeRecord, ApiError> {
        let source = self.volume(who, id).await?;
        let mut wrong = texts(&[("name", &request.name, limits::NAME_MAX_CHARS)]);
        let access_mode = mode(request.access_mode.as_deref(), source.access_mode, &mut wrong);
        let owner = (request.default_posix_uid.unwrap_or(source.uid), request.default_posix_gid.unwrap_or(source.gid));
        check_ids(owner.0, owner.1, &mut wrong);
        if !wrong.is_empty() {
            return Err(violations(wrong));
        }
        self.check_room()?;
        let (tree_id, _, _pin) = self.copy_still(&source).await?;
        let name = request.name.or(source.name);
        self.insert_volume(who, name, access_mode, tree_id, source.size_limit_bytes, owner, Some(source.id)).await
    }

    /// Keeps the files of a volume as they are now.
    pub async fn create_volume_snapshot(&self, who: &Principal, id: &str, request: VolumeSnapshotRequest) -> Result<VolumeSnapshotRecord, ApiError> {
        let volume = self.volume(who, id).await?;
        let wrong = texts(&[("name", &request.name, limits::NAME_MAX_CHARS), ("description", &request.description, limits::TEXT_MAX_CHARS)]);
        if !wrong.is_empty() {
            return Err(violations(wrong));
        }
        self.check_room()?;
        let (tree_id, size_bytes, _pin) = self.copy_still(&volume).await?;
        let snapshot = VolumeSnapshotRecord {
            id: uuid::Uuid::new_v4().to_string(),
            volume_id: volume.id,
            name: request.name,
            description: request.description,
            tree_id,
            size_bytes,
            created_at_ms: now_ms(),
        };
        if let Err(error) = self.store.volume_snapshot_insert(&snapshot).await {
            self.release_tree(snapshot.tree_id);
            return Err(store_failure("saving the snapshot", &error));
        }
        Ok(snapshot)
    }

    /// The snapshots of a volume, oldest first.
    pub async fn volume_snapshots(&self, who: &Principal, id: &str) -> Result<Vec<VolumeSnapshotRecord>, ApiError> {
        self.volume(who, id).await?;
        self.store.volume_snapshots_list(id).await.map_err(|e| store_failure("listing snapshots", &e))
    }

    /// One snapshot of a volume.
    pub async fn volume_snapshot(&self, who: &Principal, volume_id: &str, id: &str) -> Result<VolumeSnapshotRecord, ApiError> {
        let snapshot = self.volume_snapshot_of_team(who, id).await?;
        if snapshot.volume_id == volume_id { Ok(snapshot) } else { Err(ApiError::not_found("snapshot", id)) }
    }

    /// Deletes a snapshot of a volume; one that is gone already is deleted too.
    pub async fn delete_volume_snapshot(&self, who: &Principal, volume_id: &str, id: &str) -> Result<(), ApiError> {
        self.volume(who, volume_id).await?;
        let tree = self.store.volume_snapshot_delete(volume_id, id).await.map_err(|e| store_failure("deleting the snapshot", &e))?;
        tree.into_iter().for_each(|tree| self.release_tree(tree));
        Ok(())
    }

    /// Gives a volume the files of one of its snapshots. Not while a sandbox has it.
    pub async fn restore_volume(&self, who: &Principal, volume_id: &str, snapshot_id: &str) -> Result<(), ApiError> {
        let volume = self.volume(who, volume_id).await?;
        let snapshot = self.volume_snapshot(who, volume_id, snapshot_id).await?;
        if let Some(holder) = self.volume_holders(volume_id).await?.into_iter().find(|holder| holder.holds) {
            let text = format!("volume {volume_id:?} is mounted by sandbox {:?}; it can be restored when no sandbox has it", holder.sandbox_id);
            return Err(ApiError::conflict(text));
        }
        let _source = self.node.pin(&snapshot.tree_id);
        let (tree, _, _pin) = self.node.volume_copy(&snapshot.tree_id).await.map_err(|error| failure("copying the snapshot", &error))?;
        match self.store.volume_replace_tree(volume_id, volume.version, &tree, now_ms()).await {
            Ok(before) => {
                self.node.volume_end_keeper(&before).await;
                self.release_tree(before);
                Ok(())
            }
            Err(error) => {
                self.release_tree(tree);
                Err(store_failure("restoring the volume", &error))
            }
        }
    }

    /// Who serves the files of a volume.
    pub(crate) async fn volume_keeper(&self, who: &Principal, id: &str) -> Result<Keeper, ApiError> {
        let volume = self.volume(who, id).await?;
        let error = match self.node.volume_keeper(&volume.tree_id, volume.size_limit_bytes).await {
            Ok(keeper) => return Ok(keeper),
            Err(error) => error,
        };
        if error.is_disk_full() {
            return Err(full());
        }
        // Somebody may have deleted it meanwhile, or given it other files.
        if self.volume(who, id).await?.tree_id != volume.tree_id {
            return Err(ApiError::conflict("the volume's files were replaced at the same time; try again"));
        }
        tracing::warn!(volume = id, error = error_text(&error), "a volume's files cannot be served");
        Err(ApiError::unavailable("the volume's files cannot be served now").retry_after(1))
    }

    /// Refuses what does not fit into a volume any more.
    pub(crate) async fn check_volume_room(&self, who: &Principal, id: &str, more_bytes: u64) -> Result<(), ApiError> {
        let volume = self.volume(who, id).await?;
        let used = self.node.volume_bytes(&volume.tree_id).await.map_err(|error| failure("measuring the volume", &error))?;
        check_fits(used.saturating_add(more_bytes), volume.size_limit_bytes)
    }

    /// A copy of a volume's files while no sandbox writes to them.
    pub(crate) async fn copy_still(&self, volume: &VolumeRecord) -> Result<(String, u64, sandbar_node::Pin), ApiError> {
        let _source = self.node.pin(&volume.tree_id);
        let (reply, answer) = oneshot::channel();
        let (node, tree) = (self.node.clone(), volume.tree_id.clone());
        let work: BoxFuture<'static, ()> = Box::pin(async move {
            let _ = reply.send(node.volume_copy(&tree).await);
        });
        let mut writers: Vec<String> =
            self.volume_holders(&volume.id).await?.into_iter().filter(|holder| !holder.read_only).map(|holder| holder.sandbox_id).collect();
        // Always in the same order, so that two that hold several never wait for each other.
        writers.sort();
        // Also who sleeps: it could wake, and write, in the middle of the copy.
        let mut held: Vec<SandboxRecord> = Vec::with_capacity(writers.len());
        for id in &writers {
            held.extend(self.record_of(id).await?);
        }
        self.hold_still(held, work).await;
        let copied = answer.await.map_err(|_| ApiError::unavailable("a sandbox that has the volume is busy; try again").retry_after(1))?;
        copied.map_err(|error| failure("copying the volume", &error))
    }

    #[expect(clippy::too_many_arguments, reason = "private: the parts of a new row, each once")]
    async fn insert_volume(
        &self,
        who: &Principal,
        name: Option<String>,
        access_mode: AccessMode,
        tree_id: String,
        size_limit_bytes: u64,
        (uid, gid): (u32, u32),
        source_volume_id: Option<String>,
    ) -> Result<VolumeRecord, ApiError> {
        let now = now_ms();
        let volume = VolumeRecord {
            id: sandbar_node::random_id("vol-"),
            team_id: who.team_id.clone(),
            user_id: who.user_id.clone(),
            name: name.filter(|name| !name.is_empty()),
            access_mode,
            tree_id,
            size_limit_bytes,
            uid,
            gid,
            source_volume_id,
            owner: None,
            created_at_ms: now,
            updated_at_ms: now,
            version: 1,
        };
        if let Err(error) = self.store.volume_insert(&volume).await {
            self.release_tree(volume.tree_id);
            return Err(store_failure("saving the volume", &error));
        }
        Ok(volume)
    }

    pub(crate) async fn volume_snapshot_of_team(&self, who: &Principal, id: &str) -> Result<VolumeSnapshotRecord, ApiError> {
        let found = self.store.volume_snapshot_get(&who.team_id, id).await.map_err(|e| store_failure("reading the snapshot", &e))?;
        found.ok_or_else(|| ApiError::not_found("snapshot", id))
    }

    pub(crate) fn release_tree(&self, tree: String) {
        self.node.release([tree]);
        self.collect_soon.notify_one();
    }
}

fn mode(name: Option<&str>, default: AccessMode, wrong: &mut Vec<Violation>) -> AccessMode {
    match name.filter(|name| !name.is_empty()) {
        None => default,
        Some(name) => AccessMode::named(name).unwrap_or_else(|| {
            wrong.push(Violation::new("access_mode", "must be RWO, ROX or RWX"));
            default
        }),
    }
}

fn size(text: Option<&str>, wrong: &mut Vec<Violation>) -> u64 {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return limits::VOLUME_SIZE_DEFAULT_BYTES };
    match quantity::parse_bytes(text) {
        Ok(bytes) if (limits::VOLUME_SIZE_MIN_BYTES..=limits::VOLUME_SIZE_MAX_BYTES).contains(&bytes) => bytes,
        _ => {
            let (min, max) = (quantity::format_bytes(limits::VOLUME_SIZE_MIN_BYTES), quantity::format_bytes(limits::VOLUME_SIZE_MAX_BYTES));
            wrong.push(Violation::new("size_limit", format!("must be a size from {min} to {max}, such as 10Gi")));
            limits::VOLUME_SIZE_DEFAULT_BYTES
        }
    }
}

fn check_ids(uid: u32, gid: u32, wrong: &mut Vec<Violation>) {
    for (name, id) in [("default_posix_uid", uid), ("default_posix_gid", gid)] {
        if id > POSIX_ID_MAX {
            wrong.push(Violation::new(name, format!("must be from 0 to {POSIX_ID_MAX}")));
        }
    }
}

fn check_fits(bytes: u64, limit: u64) -> Result<(), ApiError> {
    if bytes <= limit {
        return Ok(());
    }
    let (bytes, limit) = (quantity::readable_bytes(bytes), quantity::readable_bytes(limit));
    Err(ApiError::new(ErrorCode::InsufficientStorage, format!("the volume would hold {bytes}; its size limit is {limit}")))
}

/// What the client is told when the machine refused something with a volume.
pub(crate) fn failure(operation: &str, error: &VolumeError) -> ApiError {
    if error.is_disk_full() {
        return full();
    }
    if error.is_in_the_way() {
        return ApiError::conflict(format!("{operation}: {}", error_text(error)));
    }
    if let VolumeError::Missing(_) = error {
        // Between the look at the row and the files somebody else was faster.
        tracing::warn!(operation, error = error_text(error), "files of a volume are gone");
        return ApiError::conflict("the files were replaced or deleted by somebody else at the same time; try again");
    }
    ApiError::internal(operation, &error_text(error))
}
