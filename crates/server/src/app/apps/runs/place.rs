//! The app's sandbox, as runs have it: whoever needs it wakes it, and in an app that is offline the last run puts it down again. Runs end
//! before their sandbox does.
//!
//! What is done here is done in the app's turn, and that a sandbox was woken for runs stands in the app's row before it is: so the next
//! server puts it down when this one is killed in between.

use std::{sync::Arc, time::Duration};

use sandbar_core::{
    app::{
        Desired,
        run::{Place, Withdrawn},
    },
    limits::app_runs as limits,
    sandbox::{Observed, SandboxRecord},
};
use sandbar_store::{AppRecord, AppRun, Which};
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::Live;
use crate::{
    app::{
        App, SharedApp,
        apps::online::{Start, asked_of},
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

/// How often it is looked whether the runs in a former version's sandbox have ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
const END_WITHIN: Duration = Duration::from_secs(limits::RUNS_END_WITHIN_S);

/// The sandbox of an app that is to be put down, and the turn in which that is so.
pub(super) struct Rest {
    app: AppRecord,
    record: Option<SandboxRecord>,
    _turn: OwnedMutexGuard<()>,
}

impl App {
    /// The app's sandbox for a run, awake; where the run needs the start command, with the app online. Of an app that is online it is
    /// the one that there is; one that is offline has the live version from then on, once the runs have ended that are in a former one's.
    pub(super) async fn app_sandbox_for(self: &Arc<Self>, run: &AppRun, live: &Arc<Live>, stop: &CancellationToken) -> Result<SandboxRecord, ApiError> {
        // To its end also when the run does not wait any more; then nothing new is begun.
        let (this, run, live, stop) = (Arc::clone(self), run.clone(), Arc::clone(live), stop.clone());
        let done = self.sandboxes.tasks.spawn(async move {
            loop {
                if let Some(record) = this.try_app_sandbox_for(&run, &live).await? {
                    return Ok(record);
                }
                if tokio::time::timeout(LOOK_EVERY, stop.cancelled()).await.is_ok() {
                    return Err(ApiError::unavailable("the server ends"));
                }
            }
        });
        done.await.unwrap_or_else(|error| Err(ApiError::internal("waking the sandbox of the app", &error)))
    }

    /// None: not yet.
    async fn try_app_sandbox_for(self: &Arc<Self>, run: &AppRun, live: &Live) -> Result<Option<SandboxRecord>, ApiError> {
        let turn = self.app_turns.of(&run.app_id).lock_owned().await;
        if live.cancel.is_cancelled() {
            return Err(ApiError::conflict("the run is not wanted any more"));
        }
        let app = self.app_by_id(&run.app_id).await?;
        let whole = self.app_whole(app.clone()).await?;
        // Nor is one exchanged that has the version which the run was asked for in.
        let keep = app.desired == Desired::Online || whole.online.as_ref().is_some_and(|online| online.version == run.version);
        if let (false, true, Some(online)) = (keep, whole.outdated, &whole.online)
            && self.has_runs(&app.id, Which::In(online.sandbox_id.clone()), Some(&run.id)).await?
        {
            drop(turn);
            return Ok(None);
        }
        // One that is online is so with all of it, also where somebody deleted its sandbox.
        let is_kept_up = match &whole.online {
            Some(online) => self.supervised(&online.sandbox_id).is_some() && self.record_of(&online.sandbox_id).await?.is_some(),
            None => false,
        };
        if run.doc.requires_start || (app.desired == Desired::Online && !is_kept_up) {
            let supervised = self.bring_online_in_turn(app, Start { services: None, keep }).await?;
            self.note_sandbox(run, supervised.sandbox_id()).await?;
            let record = self.record_of(supervised.sandbox_id()).await?;
            return record.map(Some).ok_or_else(|| ApiError::unavailable("the sandbox of the app was deleted just now").retry_after(1));
        }
        let version = self.live_version(&app).await?;
        let is_awake = match &whole.online {
            Some(online) => self.look(&online.sandbox_id).await?.is_some_and(|(_, runtime)| runtime.is_some()),
            None => false,
        };
        let stays = is_awake && (keep || !whole.outdated);
        let app = match app.desired == Desired::Online || stays || asked_of(&app).woken {
            true => app,
            false => self.want(app, Desired::Offline, |asked| asked.woken = true).await?,
        };
        let (_, record) = self.app_sandbox_up(&app, &version, keep).await?;
        self.note_sandbox(run, &record.id).await?;
        Ok(Some(record))
    }

    /// Within the app's turn: whoever replaces the sandbox finds the runs in it by their rows.
    async fn note_sandbox(&self, run: &AppRun, sandbox_id: &str) -> Result<(), ApiError> {
        self.store.app_run_step(&run.id, run.phase, Some(sandbox_id), &run.doc).await.map_err(|e| store_failure("saving the sandbox of a run", &e))
    }

    /// Has runs end because their app does, and waits until they have, with all that is kept of them; but not for ever: then this is false,
    /// and what is left of them ends with the processes of their sandbox.
    pub(in crate::app::apps) async fn withdraw_runs(&self, app_id: &str, which: Which, why: Withdrawn) -> Result<bool, ApiError> {
        let ids = self.store.app_runs_withdraw(app_id, which, why, now_ms()).await.map_err(|e| store_failure("ending the runs of an app", &e))?;
        if ids.is_empty() {
            return Ok(true);
        }
        // Held before they are looked at, so that no end is missed.
        let lives: Vec<Arc<Live>> = ids.iter().map(|id| self.app_runs.live(id)).collect();
        ids.iter().for_each(|id| self.app_runs.cancel(id));
        self.app_runs.changed.notify_one();
        let ended = async {
            for (id, live) in ids.iter().zip(&lives) {
                let found = self.store.app_run_find(id).await.map_err(|e| store_failure("reading a run", &e))?;
                if found.is_some_and(|run| !run.status.is_final()) {
                    live.done.cancelled().await;
                }
            }
            Ok(true)
        };
        tokio::time::timeout(END_WITHIN, ended).await.unwrap_or_else(|_| {
            tracing::warn!(app = app_id, within = ?END_WITHIN, "runs of an app have not ended; their sandbox ends all the same");
            Ok(false)
        })
    }

    /// Puts the app's sandbox down when it was woken for runs and there are no more of them.
    pub(crate) async fn rest_app(self: &SharedApp, app_id: &str) {
        let turn = self.app_turns.of(app_id).lock_owned().await;
        let rested = match self.app_to_rest(app_id, None, turn).await {
            Ok(Some(rest)) => self.put_to_rest(rest).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match rested {
            Ok(()) => {}
            Err(error) if error.status() == 404 => {}
            Err(error) => tracing::warn!(app = app_id, %error, "the sandbox of an app that was woken for a run was not put down; it is tried again"),
        }
    }

    /// The same before the end of a run is told, if nobody is at the app just now: who hears of the end then meets a sandbox that stays
    /// as it is.
    pub(super) async fn app_to_rest_after(self: &SharedApp, run: &AppRun) -> Option<Rest> {
        let turn = self.app_turns.of(&run.app_id).try_lock_owned().ok()?;
        self.app_to_rest(&run.app_id, Some(&run.id), turn).await.ok().flatten()
    }

    async fn app_to_rest(&self, app_id: &str, besides: Option<&str>, turn: OwnedMutexGuard<()>) -> Result<Option<Rest>, ApiError> {
        let app = self.app_by_id(app_id).await?;
        if app.desired == Desired::Online || !asked_of(&app).woken || self.has_runs(app_id, Which::OfApp, besides).await? {
            return Ok(None);
        }
        let online = self.store.app_sandbox_online(app_id).await.map_err(|e| store_failure("reading sandboxes of the app", &e))?;
        let record = match online {
            Some(row) => self.record_of(&row.sandbox_id).await?.filter(|record| record.observed == Observed::Active),
            None => None,
        };
        if let Some(record) = &record
            && self.is_busy(&record.id).await
        {
            return Ok(None);
        }
        Ok(Some(Rest { app, record, _turn: turn }))
    }

    /// Whether somebody has something running in a sandbox, who would wait in vain for the end of that. It is looked again later.
    async fn is_busy(&self, sandbox_id: &str) -> bool {
        let Ok(Some((_, Some(runtime)))) = self.look(sandbox_id).await else { return false };
        // An agent that does not answer serves nobody.
        let contexts = tokio::time::timeout(ANSWERS_WITHIN, runtime.client.list_contexts()).await;
        contexts.is_ok_and(|contexts| contexts.is_ok_and(|contexts| contexts.iter().any(|context| context.running)))
    }

    pub(super) async fn put_to_rest(&self, rest: Rest) -> Result<(), ApiError> {
        if let Some(record) = rest.record {
            self.put_down(record, "the runs have ended that it was woken for", false).await?;
        }
        self.want(rest.app, Desired::Offline, |asked| asked.woken = false).await.map(drop)
    }

    /// What a killed server left awake.
    pub(crate) async fn rest_apps(self: &SharedApp) -> Result<(), ApiError> {
        for app_id in self.store.apps_woken().await.map_err(|e| store_failure("reading apps", &e))? {
            self.rest_app(&app_id).await;
        }
        Ok(())
    }

    /// After the end of a run, behind it.
    pub(super) fn rest_app_behind(self: &SharedApp, run: &AppRun) {
        if run.doc.place == Place::App {
            let (app, app_id) = (Arc::clone(self), run.app_id.clone());
            self.sandboxes.tasks.spawn(async move { app.rest_app(&app_id).await });
        }
    }

    async fn has_runs(&self, app_id: &str, which: Which, besides: Option<&str>) -> Result<bool, ApiError> {
        self.store.app_has_runs(app_id, which, besides).await.map_err(|e| store_failure("looking for runs of the app", &e))
    }
}
