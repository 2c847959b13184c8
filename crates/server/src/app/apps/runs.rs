//! Runs of apps: asked for, looked at, cancelled. What happens in between is done by `tasks/app_runs.rs` with what lies below.
//!
//! ```text
//! queued ──claim──▶ running: preparing ─▶ starting ─▶ commanding ─▶ collecting ──▶ one final state and its receipt, in one commit
//! ```
//!
//! Each step is written before it begins, and a server that starts goes on where the one before was: the command is found in its
//! sandbox by the run's id in its environment, and is never started twice.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use sandbar_api::ErrorCode;
use sandbar_core::{
    app::{
        RunStatus,
        run::{RunArtifact, Verdict},
    },
    limits::app_runs as limits,
    roles::Permission,
};
use sandbar_store::{AppRecord, AppRun, AppRunEnd, AppRunFilter, CancelMet, InsertedRun};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{
        App, SharedApp,
        auth::Principal,
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

mod artifacts;
mod ask;
mod cleanup;
mod command;
mod execute;
mod files;
mod log;
mod place;
mod receipt;
mod uploads;
mod usage;

pub(crate) use super::log::Piece as LogPiece;
pub(crate) use ask::{Wish, plan};
pub(crate) use execute::execute;
pub(crate) use files::RunDir;
pub(crate) use receipt::receipt_of;
pub(crate) use uploads::WishFile;

/// What is known in memory of the runs of all apps.
#[derive(Default)]
pub struct AppRuns {
    live: Mutex<HashMap<String, Weak<Live>>>,
    server: ServerId,
    /// Somebody asked for a run, or does not want one any more.
    pub(crate) changed: Notify,
    /// A run ended that has to be cleaned up after.
    pub(crate) cleanup_soon: Notify,
}

/// By which a server knows what a former one wrote.
struct ServerId(String);

impl Default for ServerId {
    fn default() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }
}

/// A run that somebody runs, or waits for.
pub(crate) struct Live {
    /// It is not wanted any more.
    pub cancel: CancellationToken,
    /// It has ended.
    pub done: CancellationToken,
    /// Bytes of its log.
    pub logged: watch::Sender<u64>,
}

/// A run as it was asked for, and whether it was there already.
pub(crate) struct Asked {
    pub run: AppRun,
    pub replayed: bool,
}

impl AppRuns {
    pub(super) fn server_id(&self) -> &str {
        &self.server.0
    }

    /// What concerns a run from now on, for as long as somebody holds it.
    pub(crate) fn live(&self, run_id: &str) -> Arc<Live> {
        let mut all = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = all.get(run_id).and_then(Weak::upgrade) {
            return live;
        }
        all.retain(|_, live| live.strong_count() > 0);
        let live = Arc::new(Live { cancel: CancellationToken::new(), done: CancellationToken::new(), logged: watch::Sender::new(0) });
        all.insert(run_id.to_owned(), Arc::downgrade(&live));
        live
    }

    /// Whether somebody is at a run.
    pub(crate) fn is_held(&self, run_id: &str) -> bool {
        self.held(run_id).is_some()
    }

    fn held(&self, run_id: &str) -> Option<Arc<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).get(run_id).and_then(Weak::upgrade)
    }

    /// A run that is under way is not wanted any more.
    pub(crate) fn cancel(&self, run_id: &str) {
        if let Some(live) = self.held(run_id) {
            live.cancel.cancel();
        }
    }

    /// A run has ended, and its row says so.
    fn ended(&self, run_id: &str) {
        if let Some(live) = self.held(run_id) {
            live.done.cancel();
        }
        self.changed.notify_one();
        self.cleanup_soon.notify_one();
    }
}

pub(super) fn key_reused(run_id: &str) -> ApiError {
    let text = format!("this Idempotency-Key was used for run {run_id}, which was asked for otherwise; use another key for another run");
    ApiError::conflict(text).with_details(serde_json::json!({ "reason": "idempotency_key_reused", "run_id": run_id }))
}

impl App {
    /// Asks for a run of an app. To its end also when nobody waits any more: of files that are kept there is then a row, or they are gone.
    pub(crate) async fn ask_for_run(self: &SharedApp, who: &Principal, app: &str, wish: Wish) -> Result<Asked, ApiError> {
        who.require(Permission::FunctionWrite)?;
        let app = self.app(who, app).await?;
        self.whole(who, "asking for a run", move |this, _| async move { this.ask_for_run_of(app, wish).await }).await
    }

    async fn ask_for_run_of(self: &SharedApp, app: AppRecord, wish: Wish) -> Result<Asked, ApiError> {
        // First of all: what has become of the app since is nothing to who asks again for what he was given.
        if let Some(key) = &wish.idempotency_key
            && let Some(asked) = self.asked_before(&app.id, key, &ask::request_sha256(&wish)).await?
        {
            return Ok(asked);
        }
        self.check_room()?;
        let files = wish.files.clone();
        let new = self.new_run(&app, wish).await?;
        let id = new.id.clone();
        if !files.is_empty() {
            self.store.app_run_check(&new.team_id, new.files_bytes()).await.map_err(|e| store_failure("asking for a run", &e))?;
        }
        // From before there are files until there is a row, so that they are not taken for those of nobody.
        let _live = self.app_runs.live(&id);
        self.keep_run_files(&id, &files).await?;
        let inserted = self.store.app_run_insert(new).await;
        if !files.is_empty() && !matches!(inserted, Ok(InsertedRun::Queued | InsertedRun::Skipped)) {
            self.drop_run_files(&id).await;
        }
        let inserted = inserted.map_err(|e| store_failure("asking for a run", &e))?;
        let (id, replayed) = match inserted {
            InsertedRun::Queued => (id, false),
            InsertedRun::Skipped => {
                self.end_unbegun(&self.run_of(&id).await?).await?;
                (id, false)
            }
            InsertedRun::Same { run_id } => (run_id, true),
            InsertedRun::Other { run_id } => return Err(key_reused(&run_id)),
        };
        self.app_runs.changed.notify_one();
        Ok(Asked { run: self.run_of(&id).await?, replayed })
    }

    /// The run that was asked for with a key; one that was asked for otherwise is a conflict (409).
    pub(super) async fn asked_before(&self, app_id: &str, key: &str, request_sha256: &str) -> Result<Option<Asked>, ApiError> {
        match self.store.app_run_by_key(app_id, key).await.map_err(|e| store_failure("looking for a run by its key", &e))? {
            None => Ok(None),
            Some((run_id, of)) if of == request_sha256 => Ok(Some(Asked { run: self.run_of(&run_id).await?, replayed: true })),
            Some((run_id, _)) => Err(key_reused(&run_id)),
        }
    }

    async fn run_of(&self, id: &str) -> Result<AppRun, ApiError> {
        let found = self.store.app_run_find(id).await.map_err(|e| store_failure("reading a run", &e))?;
        found.ok_or_else(|| ApiError::not_found("run", id))
    }

    /// A run of the team.
    pub(crate) async fn app_run(&self, who: &Principal, id: &str) -> Result<AppRun, ApiError> {
        who.require(Permission::FunctionRead)?;
        let found = self.store.app_run_get(&who.team_id, id).await.map_err(|e| store_failure("reading a run", &e))?;
        found.ok_or_else(|| ApiError::not_found("run", id))
    }

    /// A run once it has ended, or as it is after so long.
    pub(crate) async fn app_run_wait(&self, who: &Principal, id: &str, within: Duration) -> Result<AppRun, ApiError> {
        let live = self.app_runs.live(id);
        let run = self.app_run(who, id).await?;
        if run.status.is_final() || within.is_zero() {
            return Ok(run);
        }
        let _ = tokio::time::timeout(within.min(Duration::from_secs(limits::RUN_WAIT_MAX_S)), live.done.cancelled()).await;
        self.app_run(who, id).await
    }

    /// Runs of an app, the newest first. One that was deleted is found by its name or id all the same.
    pub(crate) async fn app_runs(&self, who: &Principal, app: &str, filter: AppRunFilter) -> Result<Vec<AppRun>, ApiError> {
        who.require(Permission::FunctionRead)?;
        let found = self.store.app_id_of(&who.team_id, app).await.map_err(|e| store_failure("reading an app", &e))?;
        let app_id = found.ok_or_else(|| ApiError::not_found("app", app))?;
        let filter = AppRunFilter { app_id: Some(app_id), ..filter };
        self.store.app_runs_list(&who.team_id, filter).await.map_err(|e| store_failure("listing runs", &e))
    }

    /// Does not want a run any more. One that waits ends at once; the command of another is ended, and its group with it.
    pub(crate) async fn cancel_run(self: &SharedApp, who: &Principal, id: &str) -> Result<AppRun, ApiError> {
        who.require(Permission::FunctionWrite)?;
        let met = self.store.app_run_cancel(&who.team_id, id, now_ms()).await.map_err(|e| store_failure("cancelling a run", &e))?;
        match met {
            None => return Err(ApiError::not_found("run", id)),
            Some(CancelMet::Final) => {}
            // Somebody may have begun it between.
            Some(CancelMet::Queued | CancelMet::Running) => {
                let run = self.app_run(who, id).await?;
                if run.status == RunStatus::Queued {
                    self.end_unbegun(&run).await?;
                }
                self.app_runs.cancel(id);
                self.app_runs.changed.notify_one();
            }
        }
        self.app_run(who, id).await
    }

    /// Ends a run that nothing was begun of, because it is not wanted.
    pub(crate) async fn end_unbegun(self: &SharedApp, run: &AppRun) -> Result<(), ApiError> {
        let verdict = match (&run.group, run.withdrawn) {
            (Some(group), _) if run.doc.known.skipped => Verdict::skipped(group),
            (_, Some(why)) => Verdict::withdrawn(why),
            (_, None) => Verdict::cancelled(),
        };
        let mut doc = run.doc.clone();
        doc.known.message = verdict.message;
        let end = AppRunEnd {
            id: run.id.clone(),
            from: RunStatus::Queued,
            status: verdict.status,
            failure_reason: verdict.reason,
            cleanup: None,
            finished_at_ms: now_ms(),
            log_bytes: 0,
            artifact_bytes: 0,
            doc,
        };
        let ended = self.store.app_run_finish(end, self.receipts.signer()).await.map_err(|e| store_failure("ending a run", &e))?;
        if ended.is_some() {
            if !run.doc.files.is_empty() {
                self.drop_run_files(&run.id).await;
            }
            self.app_runs.ended(&run.id);
            self.rest_app_behind(run);
        }
        Ok(())
    }

    /// What a run printed, from a place on.
    pub(crate) async fn app_run_log(&self, who: &Principal, id: &str, since: u64) -> Result<LogPiece, ApiError> {
        let run = self.app_run(who, id).await?;
        self.read_run_log(&run, since).await
    }

    /// Of a run that was read before it is asked here: so nothing that was printed before its end is missed.
    pub(crate) async fn read_run_log(&self, run: &AppRun, since: u64) -> Result<LogPiece, ApiError> {
        super::log::read(self.run_dir(&run.id).log(), since, limits::RUN_LOG_READ_MAX_BYTES, run.status.is_final()).await
    }

    /// The file of an artifact that was captured.
    pub(crate) async fn app_run_artifact(&self, who: &Principal, id: &str, number: u32) -> Result<(RunArtifact, tokio::fs::File), ApiError> {
        let run = self.app_run(who, id).await?;
        let found = run.doc.known.artifacts.iter().find(|artifact| artifact.number == number);
        let artifact = found.ok_or_else(|| ApiError::not_found("artifact", &number.to_string()))?;
        if artifact.sha256.is_none() {
            let why = artifact.error.clone().unwrap_or_else(|| artifact.status.as_str().to_owned());
            return Err(ApiError::new(ErrorCode::NotFound, format!("artifact {number} ({:?}) was not captured: {why}", artifact.path)));
        }
        let path = self.run_dir(&run.id).artifact(number);
        let file = tokio::fs::File::open(&path).await.map_err(|e| ApiError::internal("opening an artifact", &e))?;
        Ok((artifact.clone(), file))
    }

    pub(crate) fn run_dir(&self, run_id: &str) -> RunDir {
        RunDir::of(&self.config.data_dir, run_id)
    }
}
