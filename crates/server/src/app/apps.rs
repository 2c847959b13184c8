//! Apps: rows, versions and what is known of them in memory. Taking a source in, building it and the sandboxes are below this file.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use axum::body::Body;
use sandbar_api::ErrorCode;
use sandbar_core::{
    app::{AppState, VersionState, manifest::Manifest, run::Withdrawn},
    limits::deploys as limits,
};
use sandbar_store::{AppRecord, AppSandboxRecord, AppVersionRecord, AppVolumeRecord, Pruned, StoreError, Which};
use tokio::sync::{Notify, Semaphore};

use crate::{
    app::{
        App,
        auth::Principal,
        functions::Ids,
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

mod build;
pub(crate) mod env;
mod ground;
pub(crate) mod log;
pub(crate) mod online;
pub(crate) mod output;
mod ports;
pub mod runs;
mod sandboxes;
mod schedules;
pub(crate) mod sealed;
mod shell;
mod source;
pub(crate) mod status;
mod steps;
pub(crate) mod supervise;
pub(crate) mod volumes;

use build::{Build, BuildStop};

/// Where logs of builds are kept, in the data directory.
const LOGS: &str = "app-builds";

/// What is known of apps in memory.
pub struct Apps {
    /// What ends a build, by app and version.
    builds: Mutex<HashMap<(String, i64), BuildStop>>,
    /// Of builds.
    places: Arc<Semaphore>,
    /// Sandboxes that are being made, whether anybody waits for them or not.
    making: Ids,
    /// Sandboxes that are being ended.
    removing: Ids,
    /// Apps that are brought online again and again until they are, and those whose stop is gone on with.
    bringing: Ids,
    stopping: Ids,
    /// Woken when sandboxes may have to be ended.
    pub(crate) changed: Notify,
    /// Changes whenever variables of some app do.
    env_epoch: AtomicU64,
}

/// What goes with the source of a new version.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deploy {
    pub message: Option<String>,
    /// Whether it is the live one as soon as it is ready.
    pub activate: bool,
}

/// An app with what is live and what is online of it.
pub(crate) struct AppWhole {
    pub app: AppRecord,
    pub live: Option<AppVersionRecord>,
    pub online: Option<AppSandboxRecord>,
    /// The version that is online says something else than the live one.
    pub outdated: bool,
    /// Of the start command.
    pub state: AppState,
}

impl Default for Apps {
    fn default() -> Self {
        Self {
            builds: Mutex::default(),
            places: Arc::new(Semaphore::new(limits::APP_BUILDS_AT_ONCE_MAX)),
            making: Ids::default(),
            removing: Ids::default(),
            bringing: Ids::default(),
            stopping: Ids::default(),
            changed: Notify::new(),
            env_epoch: AtomicU64::new(0),
        }
    }
}

impl App {
    /// The team's apps by name.
    pub(crate) async fn apps(&self, who: &Principal) -> Result<Vec<AppWhole>, ApiError> {
        let mut wholes = Vec::new();
        for app in self.store.apps_list(&who.team_id).await.map_err(|e| store_failure("listing apps", &e))? {
            match self.app_whole(app.clone()).await {
                Err(error) if error.details() == Some(&unreadable()) => {
                    wholes.push(AppWhole { app, live: None, online: None, outdated: false, state: AppState::None })
                }
                whole => wholes.push(whole?),
            }
        }
        Ok(wholes)
    }

    /// An app of the team.
    pub(crate) async fn app(&self, who: &Principal, name: &str) -> Result<AppRecord, ApiError> {
        let found = self.store.app_find(&who.team_id, name).await.map_err(|e| store_failure("reading the app", &e))?;
        found.ok_or_else(|| ApiError::not_found("app", name))
    }

    pub(crate) async fn app_whole(&self, app: AppRecord) -> Result<AppWhole, ApiError> {
        let live = match app.live_version {
            Some(number) => self.store.app_version(&app.id, number).await.map_err(|e| version_failure(&e))?,
            None => None,
        };
        let online = self.store.app_sandbox_online(&app.id).await.map_err(|e| store_failure("reading sandboxes of the app", &e))?;
        let outdated = match (&online, &live) {
            (Some(online), Some(live)) if online.version != live.number => {
                let has = self.store.app_version(&app.id, online.version).await.map_err(|e| store_failure("reading the version", &e))?;
                has.is_none_or(|has| (&has.manifest_sha256, &has.source_sha256) != (&live.manifest_sha256, &live.source_sha256))
            }
            _ => false,
        };
        let state = self.app_state(&app, online.as_ref());
        Ok(AppWhole { app, live, online, outdated, state })
    }

    /// The versions of an app, the newest first.
    pub(crate) async fn app_versions(&self, who: &Principal, name: &str) -> Result<(AppRecord, Vec<AppVersionRecord>), ApiError> {
        let app = self.app(who, name).await?;
        let versions = self.store.app_versions(&app.id).await.map_err(|e| store_failure("listing versions", &e))?;
        Ok((app, versions))
    }

    /// A version of an app.
    pub(crate) async fn app_version(&self, who: &Principal, name: &str, number: i64) -> Result<(AppRecord, AppVersionRecord), ApiError> {
        let app = self.app(who, name).await?;
        let version = self.version_of(&app, number).await?;
        // Read after it: one that is ready may be live since.
        Ok((self.app(who, name).await?, version))
    }

    pub(crate) async fn version_of(&self, app: &AppRecord, number: i64) -> Result<AppVersionRecord, ApiError> {
        let found = self.store.app_version(&app.id, number).await.map_err(|e| version_failure(&e))?;
        found.ok_or_else(|| ApiError::not_found("version", &number.to_string()))
    }

    /// What is started and run of an app. An app of which nothing could be built yet has none (409).
    pub(crate) async fn live_version(&self, app: &AppRecord) -> Result<AppVersionRecord, ApiError> {
        let Some(number) = app.live_version else {
            return Err(ApiError::conflict(format!("app {:?} has no version that is ready yet", app.name)));
        };
        self.version_of(app, number).await
    }

    /// Takes the source of a new version in, and begins to build it.
    pub(crate) async fn deploy_app(
        self: &Arc<Self>,
        who: &Principal,
        name: &str,
        deploy: Deploy,
        body: Body,
    ) -> Result<(AppRecord, AppVersionRecord), ApiError> {
        source::check_name(name)?;
        source::check_message(deploy.message.as_deref())?;
        self.check_room()?;
        // Before anything of it is taken in.
        self.store.app_not_building(&who.team_id, name).await.map_err(|e| store_failure("looking for a build", &e))?;
        let source = self.take_source(body).await?;
        self.check_schedule_names(who, name, &source.parsed.manifest).await?;
        let ground = self.app_ground(who, &source.parsed.manifest).await?;
        self.check_app_volumes(who, &source, &ground.template)?;
        let new = source.version(who, name, &deploy, &ground, now_ms());
        // A row without its build would keep everybody from deploying.
        let begun = self.whole(who, "deploying the app", move |this, who| async move {
            let (app, version) = this.store.app_version_begin(new).await.map_err(|e| store_failure("saving the version", &e))?;
            tracing::info!(
                action = "deploy",
                team = app.team_id,
                app = app.id,
                version = version.number,
                by = who.user_id,
                "a version of an app is being built"
            );
            this.begin_build(Build { app: app.clone(), version: version.clone(), who, source, ground, activate: deploy.activate });
            Ok((app, version))
        });
        begun.await
    }

    /// Ends the build of a version, which has failed then. One that is not being built is a conflict (409).
    pub(crate) async fn cancel_build(&self, who: &Principal, name: &str, number: i64) -> Result<(AppRecord, AppVersionRecord), ApiError> {
        let (app, version) = self.app_version(who, name, number).await?;
        let build = self.apps.lock().get(&(app.id.clone(), number)).cloned();
        let Some(build) = build.filter(|_| version.state == VersionState::Building) else {
            return Err(ApiError::conflict(format!("version {number} of app {name:?} is {}: no build of it is under way", version.state.as_str())));
        };
        tracing::info!(action = "cancel_build", team = app.team_id, app = app.id, version = number, by = who.user_id, "the build of a version is cancelled");
        build.cancel().await;
        let version = self.version_of(&app, number).await?;
        Ok((app, version))
    }

    /// Makes another version that is ready the live one.
    pub(crate) async fn rollback_app(&self, who: &Principal, name: &str, number: i64) -> Result<AppRecord, ApiError> {
        let app = self.app(who, name).await?;
        let app = self.store.app_set_live(&app.id, number, now_ms()).await.map_err(|e| store_failure("setting the live version", &e))?;
        tracing::info!(action = "rollback", team = app.team_id, app = app.id, version = number, by = who.user_id, "another version of an app is live");
        Ok(app)
    }

    /// Deletes an app with its versions. Its runs are cancelled first; a build under way ends, and so do its sandboxes, behind the caller.
    /// What is known of runs, and receipts, stays, and without `volumes` those of its volumes that do not go with its sandbox. Those that go
    /// are waited for, for a while.
    pub(crate) async fn delete_app(self: &Arc<Self>, who: &Principal, name: &str, volumes: bool) -> Result<VolumesAfter, ApiError> {
        let app = self.app(who, name).await?;
        let deleted = self.whole(who, "deleting the app", move |this, who| async move {
            let (team_id, app_name) = (app.team_id.clone(), app.name.clone());
            let left = this.delete_app_in_turn(&who, app, volumes).await?;
            Ok(VolumesAfter { left, ending: this.await_volumes_gone(&team_id, &app_name).await })
        });
        deleted.await
    }

    async fn delete_app_in_turn(self: &Arc<Self>, who: &Principal, app: AppRecord, volumes: bool) -> Result<Vec<AppVolumeRecord>, ApiError> {
        let turn = self.app_turns.of(&app.id);
        let _turn = turn.lock().await;
        self.withdraw_runs(&app.id, Which::All, Withdrawn::AppDeleted).await?;
        let deleted = self.store.app_delete(&app.id, volumes, now_ms()).await.map_err(|e| store_failure("deleting the app", &e))?;
        self.app_runs.changed.notify_one();
        self.apps.lock().iter().filter(|((id, _), _)| *id == app.id).for_each(|(_, build)| build.delete());
        deleted.bases.iter().for_each(|base| self.release(base));
        self.remove_build_logs(&app.id);
        deleted.sandboxes.into_iter().for_each(|id| self.end_app_sandbox_now(id));
        self.apps.changed.notify_one();
        let ended = deleted.volumes_ended.len();
        tracing::info!(action = "delete", team = app.team_id, app = app.id, by = who.user_id, volumes = ended, "an app was deleted");
        Ok(deleted.volumes_left)
    }

    /// The log of a build from a byte on.
    pub(crate) async fn app_build_log(&self, version: &AppVersionRecord, since: u64) -> Result<log::Piece, ApiError> {
        let finished = version.state != VersionState::Building;
        log::read(self.build_log(&version.app_id, version.number), since, limits::APP_LOG_READ_MAX_BYTES, finished).await
    }

    fn build_log(&self, app_id: &str, number: i64) -> PathBuf {
        self.config.data_dir.join(LOGS).join(app_id).join(format!("{number}.log"))
    }

    fn remove_build_logs(&self, app_id: &str) {
        let folder = self.config.data_dir.join(LOGS).join(app_id);
        tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder));
    }

    /// Gives up what rows named that made room for others.
    fn pruned(&self, app_id: &str, pruned: Pruned) {
        pruned.bases.iter().for_each(|base| self.release(base));
        let logs: Vec<PathBuf> = pruned.numbers.iter().map(|number| self.build_log(app_id, *number)).collect();
        if !logs.is_empty() {
            tokio::task::spawn_blocking(move || logs.into_iter().for_each(|log| drop(std::fs::remove_file(log))));
        }
    }
}

/// What became of the volumes of an app that was deleted.
pub(crate) struct VolumesAfter {
    /// They stay.
    pub left: Vec<AppVolumeRecord>,
    /// They are being deleted still.
    pub ending: Vec<AppVolumeRecord>,
}

impl Apps {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, i64), BuildStop>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a version's manifest says.
pub(crate) fn manifest_of(version: &AppVersionRecord) -> Result<Manifest, ApiError> {
    serde_json::from_str(&version.manifest).map_err(|error| {
        let text = format!("the stored manifest of version {} cannot be read: {error}; deploy the app again", version.number);
        ApiError::new(ErrorCode::InternalError, text).with_details(unreadable())
    })
}

/// What cannot be read does not become readable by trying again.
fn version_failure(error: &StoreError) -> ApiError {
    match error {
        StoreError::Corrupt { what, cause } => {
            let text = format!("the stored {what} cannot be read: {cause}; deploy the app again");
            ApiError::new(ErrorCode::InternalError, text).with_details(unreadable())
        }
        error => store_failure("reading the version", error),
    }
}

/// Details of an error by which it is told from one that passes.
pub(crate) fn unreadable() -> serde_json::Value {
    serde_json::json!({ "reason": "unreadable" })
}

/// What is wrong with a manifest (422).
pub(crate) fn diagnosed(diagnostics: &[sandbar_core::app::manifest::Diagnostic]) -> ApiError {
    let count = diagnostics.len();
    let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
    let text = if count == 1 { format!("the manifest is wrong: {first}") } else { format!("{count} things are wrong with the manifest; the first: {first}") };
    ApiError::new(ErrorCode::Unprocessable, text).with_details(serde_json::json!({ "ok": false, "diagnostics": diagnostics }))
}
