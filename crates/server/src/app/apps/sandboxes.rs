//! The sandboxes of apps. The row comes before the sandbox and goes after it, so that whatever a killed server left half made has
//! an owner, and is found again by whoever looks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sandbar_core::{
    app::{SandboxKind, launch::Launch, manifest::Manifest},
    lifecycle,
    limits::deploys as limits,
    sandbox::{Base, SandboxRecord},
};
use sandbar_store::{AppRecord, AppSandboxRecord, AppVersionRecord, StoreError};

use super::{LOGS, ground::config_of, manifest_of, supervise::gates, volumes::Mounts};
use crate::{
    app::{
        App,
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

const ENDED_WITHIN: Duration = Duration::from_secs(limits::APP_SANDBOX_END_MAX_S);
/// Why builds failed that a server was in the middle of when it ended.
const INTERRUPTED: &str = "the server ended during the build; deploy again";

impl App {
    /// A new sandbox with the files of a version. Its row names the run that it is for.
    pub(crate) async fn make_app_sandbox(
        self: &Arc<Self>,
        app: &AppRecord,
        version: &AppVersionRecord,
        kind: SandboxKind,
        run_id: Option<&str>,
    ) -> Result<SandboxRecord, ApiError> {
        let Some(base) = version.base.clone() else {
            return Err(ApiError::conflict(format!("version {} of app {:?} is {}", version.number, app.name, version.state.as_str())));
        };
        self.make_sandbox_on(app, version, &manifest_of(version)?, kind, run_id, base).await
    }

    /// The same on other files, which the caller keeps.
    pub(super) async fn make_sandbox_on(
        self: &Arc<Self>,
        app: &AppRecord,
        version: &AppVersionRecord,
        manifest: &Manifest,
        kind: SandboxKind,
        run_id: Option<&str>,
        base: Base,
    ) -> Result<SandboxRecord, ApiError> {
        self.check_room()?;
        let id = sandbar_node::random_id("sb-");
        let row = AppSandboxRecord {
            sandbox_id: id.clone(),
            team_id: app.team_id.clone(),
            app_id: app.id.clone(),
            version: version.number,
            kind,
            run_id: run_id.map(str::to_owned),
            removing: false,
            created_at_ms: now_ms(),
        };
        let claim = lifecycle::Claim {
            id,
            team_id: app.team_id.clone(),
            user_id: version.created_by.clone().or_else(|| app.created_by.clone()).unwrap_or_default(),
            template_id: version.template_id.clone(),
            template: version.template.clone(),
            config: config_of(manifest, &app.name, version.number),
            mounts: Vec::new(),
            base: Some(base.clone()),
        };
        // To its end also when nobody waits any more: half of a sandbox is not left.
        let (made, app, manifest) = (Arc::clone(self), app.clone(), manifest.clone());
        let made = self.sandboxes.tasks.spawn(async move { made.make_row_and_sandbox(&app, row, claim, base, manifest).await });
        made.await.unwrap_or_else(|error| Err(ApiError::internal("making a sandbox of the app", &error)))
    }

    async fn make_row_and_sandbox(
        self: &Arc<Self>,
        app: &AppRecord,
        row: AppSandboxRecord,
        claim: lifecycle::Claim,
        base: Base,
        manifest: Manifest,
    ) -> Result<SandboxRecord, ApiError> {
        let id = row.sandbox_id.clone();
        let making = self.apps.making.begin(&id);
        let _pin = self.node.pin_base(&base);
        // With the row of the version, which is there after the pin, its files are too.
        self.store.app_sandbox_insert(&row).await.map_err(|error| match error {
            StoreError::Exists { .. } => ApiError::conflict("the app has a sandbox online already"),
            error => store_failure("saving the sandbox", &error),
        })?;
        let manifest = Arc::new(manifest);
        if row.kind != SandboxKind::Build {
            // Until something is kept up in it.
            gates::begin_closed(self, &id, &Launch::of(Arc::clone(&manifest), &app.name, row.version, &BTreeMap::new()));
        }
        let made = match self.app_mounts(app, &row, &claim.template, &manifest.volumes).await {
            Ok(Mounts { mounts, trees, pins: _pins }) => self.make(lifecycle::Claim { mounts, ..claim }, base, trees).await,
            Err(error) => Err(error),
        };
        drop(making);
        match made {
            Ok(record) => match self.store.app_sandbox_get(&id).await {
                Ok(Some(row)) if !row.removing => Ok(record),
                // It was not wanted any more while it was being made.
                Ok(_) => {
                    self.end_app_sandbox_now(id);
                    Err(ApiError::conflict("the sandbox was ended while it was being made: its app was deleted or stopped"))
                }
                Err(error) => {
                    self.end_app_sandbox(&id).await;
                    Err(store_failure("reading the sandbox", &error))
                }
            },
            Err(error) => {
                self.end_app_sandbox(&id).await;
                Err(error)
            }
        }
    }

    /// Ends a sandbox of an app behind the caller: its row says so first, and goes when the sandbox is gone. What fails is found again
    /// by the next look at all rows.
    pub(crate) async fn end_app_sandbox(self: &Arc<Self>, sandbox_id: &str) {
        match self.store.app_sandboxes_remove(vec![sandbox_id.to_owned()]).await {
            Ok(()) => self.end_app_sandbox_now(sandbox_id.to_owned()),
            Err(error) => tracing::error!(sandbox = sandbox_id, %error, "a sandbox of an app cannot be ended"),
        }
    }

    /// The same, and returns when it is gone; else why it is not yet.
    pub(super) async fn end_app_sandbox_wholly(self: &Arc<Self>, id: &str) -> Result<(), ApiError> {
        self.store.app_sandboxes_remove(vec![id.to_owned()]).await.map_err(|e| store_failure("ending a sandbox of the app", &e))?;
        if self.apps.making.has(id) {
            return Err(ApiError::unavailable("it is still being made"));
        }
        match tokio::time::timeout(ENDED_WITHIN, self.end(id)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.status() == 404 => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(ApiError::unavailable(format!("it has not ended within {} s", ENDED_WITHIN.as_secs()))),
        }
        self.previews.forget_gates(id);
        self.store.app_sandboxes_settle(vec![id.to_owned()]).await.map(drop).map_err(|e| store_failure("deleting the row of a sandbox of the app", &e))
    }

    /// Ends a sandbox whose row says so, once however many ask.
    pub(super) fn end_app_sandbox_now(self: &Arc<Self>, id: String) {
        // Whoever makes it sees its row after that.
        if self.apps.making.has(&id) {
            return;
        }
        let Some(removing) = self.apps.removing.begin(&id) else { return };
        let app = Arc::clone(self);
        self.sandboxes.tasks.spawn(async move {
            let ended = tokio::time::timeout(ENDED_WITHIN, app.end(&id)).await;
            match ended {
                Ok(Ok(())) => app.previews.forget_gates(&id),
                // Gone is what was wanted.
                Ok(Err(error)) if error.status() == 404 => app.previews.forget_gates(&id),
                // Its ports stay as they are.
                Ok(Err(error)) => tracing::warn!(sandbox = id, %error, "a sandbox of an app did not end; it will be tried again"),
                Err(_) => tracing::warn!(sandbox = id, "a sandbox of an app has not ended yet; it will be tried again"),
            }
            match app.store.app_sandboxes_settle(vec![id]).await {
                // Volumes may have waited for that.
                Ok(gone) if gone > 0 => app.apps.changed.notify_one(),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the row of a sandbox of an app is left; it will be tried again"),
            }
            drop(removing);
        });
    }

    /// Goes on with what a former look, or a former server, began to end, and with what nobody has any more. Can be repeated at any time.
    pub(crate) async fn reconcile_app_sandboxes(self: &Arc<Self>) -> Result<(), ApiError> {
        let rows = self.store.app_sandboxes_astray().await.map_err(|e| store_failure("reading sandboxes of apps", &e))?;
        for row in rows {
            let id = row.sandbox_id;
            if row.removing {
                self.end_app_sandbox_now(id);
                continue;
            }
            if self.apps.making.has(&id) {
                continue;
            }
            // Since the rows were read it may have been made; those of builds that are over go in any case.
            let version = match self.store.app_version(&row.app_id, row.version).await {
                Ok(version) => version,
                // It is there, and whoever needs it is told.
                Err(StoreError::Corrupt { .. }) => continue,
                Err(error) => return Err(store_failure("reading the version", &error)),
            };
            let is_needed = match row.kind {
                SandboxKind::Build => version.is_some_and(|version| version.state == sandbar_core::app::VersionState::Building),
                SandboxKind::App | SandboxKind::Run => version.is_some(),
            };
            if !is_needed || self.record_of(&id).await?.is_none() {
                self.end_app_sandbox(&id).await;
            }
        }
        Ok(())
    }

    /// After a start: builds that were cut short have failed. Their sandboxes are ended by the reconciler, which the server does not
    /// wait for. Before anything is served.
    pub(crate) async fn recover_apps(&self) -> Result<(), ApiError> {
        let cut = self.store.app_versions_interrupt(INTERRUPTED, now_ms()).await.map_err(|e| store_failure("reading versions", &e))?;
        if cut > 0 {
            tracing::info!(versions = cut, "builds of apps were cut short");
        }
        let folder = self.config.data_dir.join(LOGS);
        let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(()) };
        for id in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            // What cannot be read is there.
            if matches!(self.store.app_get(&id).await, Ok(None)) {
                self.remove_build_logs(&id);
            }
        }
        Ok(())
    }
}
