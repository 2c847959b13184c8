//! What becomes of the sandbox that was made for a run. It says nothing of the run itself.

use std::time::Duration;

use sandbar_core::{
    app::{
        Cleanup,
        cleanup::{Next, after_failure, is_needed, surplus},
        run::{CleanupPolicy, Known},
    },
    sandbox::{Observed, SandboxRecord},
};
use sandbar_node::error_text;
use sandbar_store::{AppRun, SnapshotRecord};

use super::execute::Beside;
use crate::{
    app::{
        App, SharedApp,
        sandboxes::{Captured, layers_of, now_ms, store_failure},
    },
    error::ApiError,
};

/// How long one try may take.
const WITHIN: Duration = Duration::from_secs(120);
/// What a run's services and entrypoint get between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

impl App {
    /// Cleans up after a run that has ended, once more. What came of it is a row again: tried later, if it did not come to its end.
    pub(crate) async fn clean_up(self: &SharedApp, run: AppRun) {
        let mut doc = run.doc.clone();
        let cleaned = match tokio::time::timeout(WITHIN, self.try_clean_up(&run, &mut doc.known)).await {
            Ok(cleaned) => cleaned,
            Err(_) => Err(ApiError::unavailable(format!("it took more than {} s", WITHIN.as_secs()))),
        };
        let (cleanup, again_at_ms) = match cleaned {
            Ok(cleanup) => {
                doc.known.cleanup_error = None;
                (cleanup, None)
            }
            Err(error) => {
                doc.known.cleanup_tries += 1;
                doc.known.cleanup_error = Some(error.message().to_owned());
                tracing::warn!(run = run.id, tries = doc.known.cleanup_tries, %error, "the sandbox of a run was not cleaned up");
                match after_failure(doc.cleanup, doc.known.cleanup_tries, now_ms()) {
                    Next::Again { at_ms } => (Cleanup::Pending, Some(at_ms)),
                    Next::GivenUp => (Cleanup::Failed, None),
                }
            }
        };
        if let Err(error) = self.store.app_run_cleaned(&run.id, cleanup, again_at_ms, &doc).await {
            tracing::warn!(run = run.id, error = error_text(&error), "what came of cleaning up after a run was not recorded; it is done again");
        }
        if cleanup == Cleanup::Succeeded && doc.cleanup == CleanupPolicy::Stop {
            self.keep_few_stopped(Some(&run.app_id)).await;
        }
    }

    async fn try_clean_up(self: &SharedApp, run: &AppRun, known: &mut Known) -> Result<Cleanup, ApiError> {
        let rows = self.store.app_sandboxes_of(&run.app_id).await.map_err(|e| store_failure("reading sandboxes of a run", &e))?;
        let ids: Vec<String> = rows.into_iter().filter(|row| row.run_id.as_deref() == Some(run.id.as_str())).map(|row| row.sandbox_id).collect();
        if ids.is_empty() && run.sandbox_id.is_none() {
            return Ok(Cleanup::Skipped);
        }
        for id in ids {
            // Only the one that it ran in is worth keeping.
            let policy = if run.sandbox_id.as_deref() == Some(id.as_str()) { run.doc.cleanup } else { CleanupPolicy::Delete };
            if policy != CleanupPolicy::Delete {
                if let Err(error) = self.keep_up_run_again(run, &id, Beside::Find).await {
                    tracing::warn!(run = run.id, %error, "what a run had running beside its command gets no warning before its sandbox ends");
                }
                self.unsupervise(&id, GRACE).await;
                // One that cannot be archived does not go on running, and nothing writes while it is.
                if let Some(record) = self.record_of(&id).await? {
                    self.lay_down(record).await?;
                }
            }
            match policy {
                CleanupPolicy::Stop => continue,
                CleanupPolicy::Archive => self.archive(run, &id, known).await?,
                CleanupPolicy::Delete => {}
            }
            self.end_app_sandbox_wholly(&id).await?;
        }
        Ok(Cleanup::Succeeded)
    }

    async fn lay_down(&self, record: SandboxRecord) -> Result<(), ApiError> {
        match record.observed {
            Observed::Hibernated | Observed::Cleaned | Observed::Failed => Ok(()),
            Observed::Starting | Observed::Active | Observed::Frozen => self.put_down(record, "its run has ended", true).await,
        }
    }

    /// Ends those of the sandboxes that stopped after their runs which are more than are kept.
    pub(crate) async fn keep_few_stopped(self: &SharedApp, app_id: Option<&str>) {
        let stopped = match self.store.run_sandboxes_stopped(app_id).await {
            Ok(stopped) => stopped,
            Err(error) => return tracing::warn!(error = error_text(&error), "sandboxes that are kept of runs were not counted; it is tried again"),
        };
        for sandbox_id in surplus(stopped) {
            tracing::debug!(sandbox = sandbox_id, "a stopped sandbox of a run makes room for newer ones");
            self.end_app_sandbox(&sandbox_id).await;
        }
    }

    /// Keeps the files of a run's sandbox as a snapshot; once, also when a server before died just after that.
    async fn archive(&self, run: &AppRun, sandbox_id: &str, known: &mut Known) -> Result<(), ApiError> {
        let failed = |e| store_failure("archiving the files of a run", &e);
        let name = format!("run {}", run.id);
        let kept = self.store.snapshots_list(&run.team_id, sandbox_id).await.map_err(failed)?;
        if let Some(kept) = kept.into_iter().find(|snapshot| snapshot.name.as_deref() == Some(name.as_str())) {
            known.snapshot_id = Some(kept.id);
            return Ok(());
        }
        let Some(record) = self.record_of(sandbox_id).await? else { return Ok(()) };
        self.check_room()?;
        self.store.snapshot_check(&run.team_id, sandbox_id).await.map_err(failed)?;
        let user_id = record.user_id.clone();
        let Captured { base, record: _, pin: _pin } = self.capture_of(record).await?;
        let snapshot = SnapshotRecord {
            id: uuid::Uuid::new_v4().to_string(),
            team_id: run.team_id.clone(),
            user_id,
            sandbox_id: sandbox_id.to_owned(),
            name: Some(name),
            description: Some(format!("what {} of app {} left", run.action, run.app_name)),
            base,
            expires_at_ms: None,
            created_at_ms: now_ms(),
        };
        if let Err(error) = self.store.snapshot_insert(&snapshot).await {
            self.node.release(layers_of(Some(&snapshot.base)));
            self.collect_soon.notify_one();
            return Err(failed(error));
        }
        known.snapshot_id = Some(snapshot.id);
        Ok(())
    }

    /// Ends sandboxes that were made for runs which are gone, or which have no use for them any more.
    pub(crate) async fn sweep_run_sandboxes(self: &SharedApp) -> Result<usize, ApiError> {
        let rows = self.store.run_sandboxes().await.map_err(|e| store_failure("reading sandboxes of runs", &e))?;
        let mut swept = 0;
        for (sandbox_id, run) in rows {
            if !is_needed(run) {
                self.end_app_sandbox(&sandbox_id).await;
                swept += 1;
            }
        }
        Ok(swept)
    }
}
