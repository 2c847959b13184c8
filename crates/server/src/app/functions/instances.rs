//! The life of instances: sandboxes that serve revisions. The row comes first and goes last, so that a server that ends in
//! between leaves nothing that nobody owns.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_api::sandbox::SandboxConfig;
use sandbar_core::{
    function::{self, InstanceRecord, InstanceState, RevisionRecord, scale::Stage},
    lifecycle, limits,
    sandbox::Mount,
    service::RuntimeKind,
};
use sandbar_node::{
    Pin,
    warm::{self, Check},
};
use sandbar_store::{FunctionEvent, VolumeRecord};

use super::{
    event, function_failure,
    pool::{Pool, Slot, Why},
};
use crate::{
    app::{
        App,
        sandboxes::{now_ms, spec::Trees, store_failure},
        volumes,
    },
    error::ApiError,
};

/// An instance that was begun is ready within this time or has failed.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(limits::FUNCTION_START_MAX_S);
/// Its service tells better why it is late than the clock does.
const GRACE: Duration = Duration::from_secs(1);
/// A service that is up answers within this time.
const PROVED_WITHIN: Duration = Duration::from_secs(10);
const REMOVED_WITHIN: Duration = Duration::from_secs(limits::FUNCTION_REMOVE_MAX_S);

impl App {
    /// Starts an instance whose id was given by its pool, behind the caller.
    pub(super) fn start_instance(self: &Arc<Self>, pool: &Arc<Pool>, sandbox_id: String) {
        let (app, pool) = (Arc::clone(self), Arc::clone(pool));
        let making = self.functions.making.begin(&sandbox_id);
        self.sandboxes.tasks.spawn(async move {
            let began = Instant::now();
            let revision = Arc::clone(&pool.revision);
            let starting = about(&revision, &sandbox_id, "instance.starting", "starting", "an instance is being started");
            let make = async {
                let made = app.make_instance(&revision, &sandbox_id, began + READY_WITHIN);
                tokio::join!(made, app.note_function(&revision.function_id, starting)).0
            };
            tokio::pin!(make);
            let made = match tokio::time::timeout_at((began + READY_WITHIN + GRACE).into(), &mut make).await {
                Ok(made) => made,
                Err(_) => {
                    // Its place is somebody else's from now on; half of it is not left, so it is made first and then removed.
                    let reason = format!("it was not made within {} s", READY_WITHIN.as_secs());
                    pool.lost(&sandbox_id, reason.as_str());
                    app.note_function(&revision.function_id, about(&revision, &sandbox_id, "instance.failed", "failed", &reason)).await;
                    app.functions.changed.notify_one();
                    if let Err(why) = make.await {
                        tracing::info!(sandbox = sandbox_id, reason = why.full, "an instance that was late was not made");
                    }
                    drop(making);
                    return app.remove_instances(vec![sandbox_id.clone()]).await;
                }
            };
            drop(making);
            let startup_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
            let ready = match made {
                Ok(()) => app.store.instance_ready(&sandbox_id, now_ms(), startup_ms).await.map_err(|e| function_failure("saving the instance", &e).into()),
                Err(why) => Err(why),
            };
            match ready {
                Ok(()) => {
                    if let Err(error) = app.store.revision_proved(&revision.id, now_ms()).await {
                        tracing::warn!(revision = revision.id, %error, "that a revision was ready is not remembered");
                    }
                    pool.ready(&sandbox_id, startup_ms);
                    let text = format!("an instance was ready after {startup_ms} ms");
                    let ready = FunctionEvent { startup_ms: Some(startup_ms), ..about(&revision, &sandbox_id, "instance.ready", "ready", &text) };
                    app.note_function(&revision.function_id, ready).await;
                }
                Err(why) => app.lose_instance(&pool, &sandbox_id, why),
            }
            app.functions.changed.notify_one();
        });
    }

    /// Takes an instance that failed out of its pool, and removes it behind the caller.
    pub(super) fn lose_instance(self: &Arc<Self>, pool: &Arc<Pool>, sandbox_id: &str, why: impl Into<Why>) {
        let why = why.into();
        tracing::info!(sandbox = sandbox_id, revision = pool.revision.id, reason = why.full, "an instance is lost");
        pool.lost(sandbox_id, why.clone());
        let (app, revision, id) = (Arc::clone(self), Arc::clone(&pool.revision), sandbox_id.to_owned());
        let failed = about(&revision, sandbox_id, "instance.failed", "failed", &why.full);
        self.sandboxes.tasks.spawn(async move {
            app.note_function(&revision.function_id, failed).await;
            app.remove_instances(vec![id]).await;
        });
    }

    /// Ends instances behind the caller: their rows say so first, and go when the sandboxes are gone. What fails is found again by
    /// the next look at all rows, since nobody has these instances any more.
    pub(crate) async fn remove_instances(self: &Arc<Self>, ids: Vec<String>) {
        if let Err(error) = self.store.instances_set(ids.clone(), InstanceState::Removing).await {
            tracing::error!(%error, "instances cannot be removed; it will be tried again");
            return;
        }
        for id in ids {
            self.end_instance(id);
        }
    }

    /// Ends the sandbox of an instance whose row says so, once however many ask. One that does not end keeps nobody else waiting.
    pub(super) fn end_instance(self: &Arc<Self>, id: String) {
        let Some(removing) = self.functions.removing.begin(&id) else { return };
        let app = Arc::clone(self);
        self.sandboxes.tasks.spawn(async move {
            let ended = tokio::time::timeout(REMOVED_WITHIN, app.end(&id)).await;
            drop(removing);
            match ended {
                Ok(Ok(())) => app.functions.changed.notify_one(),
                // Gone is what was wanted.
                Ok(Err(error)) if error.status() == 404 => app.functions.changed.notify_one(),
                Ok(Err(error)) => tracing::warn!(sandbox = id, %error, "an instance did not end; it will be tried again"),
                Err(_) => tracing::warn!(sandbox = id, "an instance has not ended yet; it will be tried again"),
            }
        });
    }

    /// Removes the rows of instances that are gone, with their volumes.
    pub(crate) async fn settle_instances(&self) -> Result<(), ApiError> {
        let trees = self.store.instances_settle().await.map_err(|e| store_failure("removing what is left of instances", &e))?;
        if !trees.is_empty() {
            self.node.release(trees);
            self.collect_soon.notify_one();
        }
        Ok(())
    }

    /// After a start: what serves goes on, what was being made is removed. Before anything is served.
    pub(crate) async fn recover_functions(&self) -> Result<(), ApiError> {
        let rows = self.store.instances_all().await.map_err(|e| store_failure("reading instances", &e))?;
        let now = Instant::now();
        let mut revisions: HashMap<String, Arc<RevisionRecord>> = HashMap::new();
        let mut half_made = Vec::new();
        for row in rows {
            let stage = match row.state {
                InstanceState::Starting => {
                    half_made.push(row.sandbox_id);
                    continue;
                }
                InstanceState::Removing => continue,
                InstanceState::Ready => Stage::Ready,
                InstanceState::Retiring => Stage::Retiring,
                InstanceState::Draining => Stage::Draining,
            };
            if !revisions.contains_key(&row.revision_id) {
                match self.store.revision_get(&row.revision_id).await {
                    Ok(found) => revisions.extend(found.map(|found| (found.revision.id.clone(), Arc::new(found.revision)))),
                    // What cannot be read serves nobody; it must not keep others from being served.
                    Err(error) => tracing::error!(revision = row.revision_id, sandbox = row.sandbox_id, %error, "an instance is given up"),
                }
            }
            match revisions.get(&row.revision_id) {
                Some(revision) => {
                    let mut slot = Slot::new(row.sandbox_id, stage, now, row.created_at_ms);
                    (slot.ready_at_ms, slot.startup_ms) = (row.ready_at_ms, row.startup_ms);
                    self.functions.pools.of(revision).adopt(slot);
                }
                None => half_made.push(row.sandbox_id),
            }
        }
        // Their sandboxes are ended by the reconciler, which the server does not wait for.
        if let Err(error) = self.store.instances_set(half_made, InstanceState::Removing).await {
            tracing::error!(%error, "instances cannot be removed; it will be tried again");
        }
        Ok(())
    }

    async fn make_instance(self: &Arc<Self>, revision: &RevisionRecord, sandbox_id: &str, until: Instant) -> Result<(), Why> {
        self.check_room()?;
        let _base = self.node.pin_base(&revision.base);
        let _sources: Vec<Pin> = revision.mounts.iter().map(|mount| self.node.pin(&mount.tree_id)).collect();
        let (volumes, _copies) = self.copy_volumes(revision, sandbox_id).await?;
        let trees: Trees = volumes.iter().map(|volume| (volume.id.clone(), volume.tree_id.clone())).collect();
        let mount = |(mount, volume): (&function::RevisionMount, &VolumeRecord)| Mount {
            volume_id: volume.id.clone(),
            mount_point: mount.mount_point.clone(),
            read_only: mount.read_only,
        };
        let mounts = revision.mounts.iter().zip(&volumes).map(mount).collect();
        let now = now_ms();
        let row = InstanceRecord {
            sandbox_id: sandbox_id.to_owned(),
            team_id: revision.team_id.clone(),
            function_id: revision.function_id.clone(),
            revision_id: revision.id.clone(),
            state: InstanceState::Starting,
            created_at_ms: now,
            ready_at_ms: None,
            startup_ms: None,
        };
        // With the row of the revision, which is there after the pins, its files are too.
        if let Err(error) = self.store.instance_insert(&row, volumes).await {
            trees.into_values().for_each(|tree| self.release_tree(tree));
            return Err(function_failure("saving the instance", &error).into());
        }
        let claim = lifecycle::Claim {
            id: sandbox_id.to_owned(),
            team_id: revision.team_id.clone(),
            user_id: revision.created_by.clone().unwrap_or_default(),
            template_id: revision.template_id.clone(),
            template: revision.template.clone(),
            config: SandboxConfig {
                auto_resume: Some(true),
                services: Some(serde_json::json!([function::instance_service(&revision.service_snapshot)])),
                ..revision.config.clone()
            },
            mounts,
            base: Some(revision.base.clone()),
        };
        let record = self.make(claim, revision.base.clone(), trees).await?;
        let Some((record, Some(runtime))) = self.look(&record.id).await? else {
            return Err(Why::from("its processes ended before its service was ready"));
        };
        let within = until.saturating_duration_since(Instant::now());
        self.ensure_service(&record, &runtime, &revision.service, within).await.map_err(|error| Why::of_service(&error))?;
        match (revision.service.kind(), &revision.service.health_check) {
            (RuntimeKind::Cmd { .. } | RuntimeKind::WarmProcess { .. }, Some(health)) => {
                // It is up as services are; a function's answers with success, and not with where else to go.
                let check = Check::Http { port: revision.service.port, path: health.path.clone(), headers: Vec::new(), passing: 200..300 };
                match warm::passes(&runtime, &check, PROVED_WITHIN, &BTreeMap::new()).await {
                    true => Ok(()),
                    false => {
                        let text = format!("service {:?} does not answer its health check {} with 2xx, as a function has to", revision.service.id, health.path);
                        Err(Why::from(text.as_str()))
                    }
                }
            }
            (RuntimeKind::Cmd { .. } | RuntimeKind::WarmProcess { .. } | RuntimeKind::Manual | RuntimeKind::Function { .. }, _) => Ok(()),
        }
    }

    /// A copy of each volume of a revision for one instance alone.
    async fn copy_volumes(&self, revision: &RevisionRecord, sandbox_id: &str) -> Result<(Vec<VolumeRecord>, Vec<Pin>), ApiError> {
        let (mut made, mut pins) = (Vec::<VolumeRecord>::with_capacity(revision.mounts.len()), Vec::with_capacity(revision.mounts.len()));
        let now = now_ms();
        for mount in &revision.mounts {
            let (tree_id, _, pin) = match self.node.volume_copy(&mount.tree_id).await {
                Ok(copied) => copied,
                Err(error) => {
                    made.into_iter().for_each(|volume| self.release_tree(volume.tree_id));
                    return Err(volumes::failure("copying a volume of the revision", &error));
                }
            };
            pins.push(pin);
            made.push(VolumeRecord {
                id: sandbar_node::random_id("vol-"),
                team_id: revision.team_id.clone(),
                user_id: revision.created_by.clone().unwrap_or_default(),
                name: None,
                access_mode: mount.access_mode,
                tree_id,
                size_limit_bytes: mount.size_limit_bytes,
                uid: mount.uid,
                gid: mount.gid,
                source_volume_id: Some(mount.volume_id.clone()),
                owner: Some(sandbox_id.to_owned()),
                created_at_ms: now,
                updated_at_ms: now,
                version: 1,
            });
        }
        Ok((made, pins))
    }
}

/// An event about an instance.
pub(super) fn about(revision: &RevisionRecord, sandbox_id: &str, kind: &str, phase: &str, text: &str) -> FunctionEvent {
    FunctionEvent {
        phase: Some(phase.to_owned()),
        revision_id: Some(revision.id.clone()),
        revision_number: Some(revision.number),
        sandbox_id: Some(sandbox_id.to_owned()),
        ..event(kind, text)
    }
}
