//! The volumes of apps. Each is a volume of the team that all sandboxes of the app share (`RWX`: bind mounts on this one machine), made
//! when a sandbox first needs it. While a version is built there are empty ones in their place, which go with the build's sandbox: what
//! is tried out does nothing to what an app keeps.

use std::time::{Duration, Instant};

use sandbar_api::{sandbox::Mount as Asked, template::TemplateSpec};
use sandbar_core::{
    app::{
        SandboxKind,
        manifest::{Code, Diagnostic, Manifest, Volume},
    },
    roles::Permission,
    sandbox::{Mount, SandboxRecord},
    volume::{AccessMode, plan},
};
use sandbar_node::{Pin, error_text, random_id};
use sandbar_store::{AppRecord, AppSandboxRecord, AppVersionRecord, AppVolumeRecord, StoreError, VolumeRecord};

use super::{
    diagnosed, manifest_of,
    source::{Source, located},
};
use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{now_ms, spec::Trees, store_failure},
        volumes::failure,
    },
    error::ApiError,
};

/// So long whoever deletes volumes waits until they are gone, and looks again after that.
const GONE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a new sandbox of an app has mounted.
#[derive(Default)]
pub(super) struct Mounts {
    pub mounts: Vec<Mount>,
    pub trees: Trees,
    /// Until rows name the trees.
    pub pins: Vec<Pin>,
}

/// A volume as the manifest of an app says, and what there is of it.
pub(crate) struct AppVolume {
    pub name: String,
    pub mount_path: String,
    pub size_limit_bytes: u64,
    pub with_sandbox: bool,
    /// None: no sandbox has needed it yet.
    pub id: Option<String>,
    /// The app's sandbox has it.
    pub mounted: bool,
    /// What its files take; none where that was not asked for.
    pub used_bytes: Option<u64>,
}

impl App {
    /// Refuses volumes that whoever deploys may not make, or that cannot be where they are to be (422).
    pub(super) fn check_app_volumes(&self, who: &Principal, source: &Source, template: &TemplateSpec) -> Result<(), ApiError> {
        let manifest = &source.parsed.manifest;
        if manifest.volumes.is_empty() {
            return Ok(());
        }
        who.require(Permission::VolumeWrite)?;
        // Whether they exist by now makes no difference to where they may be.
        let asked: Vec<Asked> = manifest.volumes.iter().map(|volume| asked(&volume.name, volume)).collect();
        let Err(wrong) = plan(template, &asked, |_| Some(AccessMode::Rwx)) else { return Ok(()) };
        let place = |path: &str| path.replace("mounts[", "$.volumes[").replace(".mount_point", ".mountPath");
        let told = |wrong: &sandbar_core::validate::Violation| Diagnostic {
            path: place(&wrong.path),
            code: Code::UnsafePath,
            message: wrong.message.clone(),
            line: 1,
            column: 1,
        };
        Err(diagnosed(&located(&source.manifest_text, wrong.iter().map(told).collect())))
    }

    /// What a sandbox has mounted whose row was just written.
    pub(super) async fn app_mounts(&self, app: &AppRecord, row: &AppSandboxRecord, template: &TemplateSpec, volumes: &[Volume]) -> Result<Mounts, ApiError> {
        let (mut mounts, mut places) = (Mounts::default(), Vec::with_capacity(volumes.len()));
        for volume in volumes {
            let (record, pin) = match row.kind {
                SandboxKind::App | SandboxKind::Run => self.ensure_app_volume(app, row, volume).await?,
                SandboxKind::Build => self.scratch_volume(row, volume).await?,
            };
            places.push(asked(&record.id, volume));
            mounts.pins.extend(pin);
            mounts.trees.insert(record.id, record.tree_id);
        }
        // It was looked at when the version was deployed, with the same template.
        mounts.mounts = plan(template, &places, |_| Some(AccessMode::Rwx)).map_err(crate::app::sandboxes::violations)?;
        Ok(mounts)
    }

    /// Refuses what a new sandbox of an app would be refused for, as far as that is known before it is made; its volumes are made.
    pub(super) async fn check_app_sandbox(&self, app: &AppRecord, version: &AppVersionRecord) -> Result<(), ApiError> {
        self.check_room()?;
        if version.base.is_none() {
            return Err(ApiError::conflict(format!("version {} of app {:?} is {}", version.number, app.name, version.state.as_str())));
        }
        let row = AppSandboxRecord {
            sandbox_id: String::new(),
            team_id: app.team_id.clone(),
            app_id: app.id.clone(),
            version: version.number,
            kind: SandboxKind::App,
            run_id: None,
            removing: false,
            created_at_ms: now_ms(),
        };
        self.app_mounts(app, &row, &version.template, &manifest_of(version)?.volumes).await.map(drop)
    }

    /// The volume of an app, made when there is none; as large as the live version says.
    async fn ensure_app_volume(&self, app: &AppRecord, row: &AppSandboxRecord, volume: &Volume) -> Result<(VolumeRecord, Option<Pin>), ApiError> {
        let failed = |error: StoreError| store_failure("making a volume of the app", &error).with_message(|text| format!("volume {:?}: {text}", volume.name));
        let found = self.store.app_volume_find(&app.team_id, &app.name, &volume.name).await.map_err(failed)?;
        let (found, pin) = match found {
            Some(found) => (found, None),
            None => {
                let (tree_id, pin) = self.node.volume_create(0, 0).await.map_err(|error| failure("making a volume of the app", &error))?;
                let (by, called) = (app.created_by.clone().unwrap_or_default(), format!("{}/{}", app.name, volume.name));
                let new = AppVolumeRecord {
                    volume: VolumeRecord { name: Some(called), ..fresh(&app.team_id, by, tree_id.clone(), volume) },
                    app_name: app.name.clone(),
                    name: volume.name.clone(),
                    with_sandbox: volume.delete_on_sandbox_delete,
                    removing: false,
                };
                let there = self.store.app_volume_insert(&new).await;
                if !there.as_ref().is_ok_and(|there| there.volume.tree_id == tree_id) {
                    // Refused, or somebody else was faster.
                    self.release_tree(tree_id);
                }
                let there = there.map_err(failed)?;
                tracing::info!(team = app.team_id, app = app.id, volume = there.volume.id, name = volume.name, "a volume of an app was made");
                (there, Some(pin))
            }
        };
        let mut record = found.volume;
        let says = (volume.size_limit_bytes(), volume.delete_on_sandbox_delete);
        if app.live_version == Some(row.version) && (record.size_limit_bytes, found.with_sandbox) != says {
            self.store.app_volume_set(&record.id, says.0, says.1, now_ms()).await.map_err(failed)?;
            record.size_limit_bytes = says.0;
        }
        Ok((record, pin))
    }

    /// An empty volume that only one sandbox has.
    async fn scratch_volume(&self, row: &AppSandboxRecord, volume: &Volume) -> Result<(VolumeRecord, Option<Pin>), ApiError> {
        let (tree_id, pin) = self.node.volume_create(0, 0).await.map_err(|error| failure("making a volume for the build", &error))?;
        let record = VolumeRecord { access_mode: AccessMode::Rwo, owner: Some(row.sandbox_id.clone()), ..fresh(&row.team_id, String::new(), tree_id, volume) };
        if let Err(error) = self.store.app_scratch_insert(&record).await {
            self.release_tree(record.tree_id);
            return Err(store_failure("making a volume for the build", &error));
        }
        Ok((record, Some(pin)))
    }

    /// The sandbox of an app is deleted on purpose: volumes that are to go with it do, as soon as no run has them.
    pub(super) async fn end_volumes_with_sandbox(&self, app: &AppRecord) -> Result<(), ApiError> {
        self.store.app_volumes_end(&app.team_id, &app.name).await.map_err(|e| store_failure("ending volumes of the app", &e))?;
        self.apps.changed.notify_one();
        Ok(())
    }

    /// Waits until the volumes of an app that are to be deleted are gone, and no longer than a bound: returns those that are not. A run under
    /// way may have them. What cannot be found out is no failure of whoever waits: all of it happens behind them anyway.
    pub(super) async fn await_volumes_gone(&self, team_id: &str, app_name: &str) -> Vec<AppVolumeRecord> {
        let until = Instant::now() + GONE_WITHIN;
        loop {
            // What keeps others from going is told by whoever looks after all of them.
            let _ = self.reconcile_app_volumes().await;
            match self.store.app_volumes_ending(team_id, app_name).await {
                Ok(ending) if ending.is_empty() || Instant::now() >= until => return ending,
                Ok(_) => tokio::time::sleep(LOOK_EVERY).await,
                Err(error) => {
                    tracing::warn!(app = app_name, error = error_text(&error), "volumes of an app were not waited for");
                    return Vec::new();
                }
            }
        }
    }

    /// Deletes volumes of apps that are to go and that no sandbox has any more. Can be repeated at any time. Those of builds go with what is
    /// left of functions' instances.
    pub(crate) async fn reconcile_app_volumes(&self) -> Result<(), ApiError> {
        let failed = |e: StoreError| store_failure("deleting volumes of apps", &e);
        for (team_id, id) in self.store.app_volumes_removable().await.map_err(failed)? {
            let Some(volume) = self.store.volume_get(&team_id, &id).await.map_err(failed)? else { continue };
            match self.store.volume_delete(&team_id, &id, false).await {
                Ok(deleted) => {
                    self.node.volume_end_keeper(&volume.tree_id).await;
                    self.node.release(deleted.trees);
                    self.collect_soon.notify_one();
                    tracing::info!(team = team_id, volume = id, "a volume of an app was deleted");
                }
                // Somebody mounted it just now: it waits for them.
                Err(StoreError::Mounted { .. } | StoreError::NotFound { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// The volumes of an app, as the manifest of its live version says, with what their files take.
    pub(crate) async fn app_volumes(&self, who: &Principal, name: &str) -> Result<Vec<AppVolume>, ApiError> {
        let app = self.app(who, name).await?;
        let whole = self.app_whole(app).await?;
        let sandbox = match &whole.online {
            Some(row) => self.record_of(&row.sandbox_id).await?,
            None => None,
        };
        let manifest = whole.live.as_ref().map(manifest_of).transpose()?;
        let mut volumes = self.volumes_of_app(&whole.app, manifest.as_ref(), sandbox.as_ref()).await?;
        for volume in &mut volumes {
            let Some(id) = &volume.id else { continue };
            let Some(record) = self.store.volume_get(&whole.app.team_id, id).await.map_err(|e| store_failure("reading the volume", &e))? else { continue };
            volume.used_bytes = Some(self.node.volume_bytes(&record.tree_id).await.map_err(|error| failure("measuring the volume", &error))?);
        }
        Ok(volumes)
    }

    /// The same without what they take: what the manifest says first, then what is left of former versions.
    pub(super) async fn volumes_of_app(
        &self,
        app: &AppRecord,
        manifest: Option<&Manifest>,
        sandbox: Option<&SandboxRecord>,
    ) -> Result<Vec<AppVolume>, ApiError> {
        let mut there = self.store.app_volumes(&app.team_id, &app.name).await.map_err(|e| store_failure("reading volumes of the app", &e))?;
        let has = |id: &str| sandbox.is_some_and(|sandbox| sandbox.mounts.iter().any(|mount| mount.volume_id == id));
        let mut volumes = Vec::new();
        for volume in manifest.map(|manifest| manifest.volumes.as_slice()).unwrap_or_default() {
            let at = there.iter().position(|there| there.name == volume.name);
            let record = at.map(|at| there.remove(at).volume);
            volumes.push(AppVolume {
                name: volume.name.clone(),
                mount_path: volume.mount_path.clone(),
                size_limit_bytes: record.as_ref().map_or_else(|| volume.size_limit_bytes(), |record| record.size_limit_bytes),
                with_sandbox: volume.delete_on_sandbox_delete,
                mounted: record.as_ref().is_some_and(|record| has(&record.id)),
                id: record.map(|record| record.id),
                used_bytes: None,
            });
        }
        let left = there.into_iter().map(|left| AppVolume {
            mount_path: String::new(),
            size_limit_bytes: left.volume.size_limit_bytes,
            with_sandbox: left.with_sandbox,
            mounted: has(&left.volume.id),
            name: left.name,
            id: Some(left.volume.id),
            used_bytes: None,
        });
        volumes.extend(left);
        Ok(volumes)
    }
}

fn asked(id: &str, volume: &Volume) -> Asked {
    Asked { sandboxvolume_id: id.to_owned(), mount_point: volume.mount_path.clone(), extra: Default::default() }
}

fn fresh(team_id: &str, user_id: String, tree_id: String, volume: &Volume) -> VolumeRecord {
    let now = now_ms();
    VolumeRecord {
        id: random_id("vol-"),
        team_id: team_id.to_owned(),
        user_id,
        name: None,
        access_mode: AccessMode::Rwx,
        tree_id,
        size_limit_bytes: volume.size_limit_bytes(),
        uid: 0,
        gid: 0,
        source_volume_id: None,
        owner: None,
        created_at_ms: now,
        updated_at_ms: now,
        version: 1,
    }
}
