//! Runs that are owed, and those that were given up.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use sandbar_core::roles::Permission;
use sandbar_store::{JobFilter, JobState, ListedJob, ScriptTick, StoreError};
use tokio_util::sync::CancellationToken;

use super::{
    App,
    auth::Principal,
    sandboxes::{now_ms, store_failure},
};
use crate::error::ApiError;

/// What runs now, by job.
#[derive(Debug, Default)]
pub struct ScriptJobs {
    running: Mutex<HashMap<String, CancellationToken>>,
    /// The task has ended, and needs no engine any more.
    pub(crate) ended: CancellationToken,
}

impl ScriptJobs {
    /// A job runs from now on; the token is cancelled when it is not wanted any more.
    pub(crate) fn begin(&self, job_id: &str) -> CancellationToken {
        let token = CancellationToken::new();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(job_id.to_owned(), token.clone());
        token
    }

    pub(crate) fn end(&self, job_id: &str) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(job_id);
    }

    /// These are not wanted any more.
    pub(crate) fn cancel(&self, job_ids: &[String]) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for token in job_ids.iter().filter_map(|id| running.get(id)) {
            token.cancel();
        }
    }
}

impl App {
    /// For a server that starts: what the one before was at is run again, and schedules go by the clock of now.
    pub(crate) async fn recover_script_jobs(&self) -> Result<(), StoreError> {
        let now = now_ms();
        let (again, given_up) = self.store.script_jobs_recover(now).await?;
        let moved = self.store.script_schedules_rewind(now).await?;
        if again + given_up + moved > 0 {
            tracing::info!(again, given_up, moved, "runs that were owed and schedules were recovered");
        }
        Ok(())
    }

    /// Runs of the team that are or were owed, the newest first.
    pub async fn script_jobs(
        &self,
        who: &Principal,
        function: Option<&str>,
        state: Option<JobState>,
        before: Option<(i64, String)>,
        limit: u32,
    ) -> Result<Vec<ListedJob>, ApiError> {
        who.require(Permission::TeamAdmin)?;
        let script_id = self.script_id(who, function).await?;
        let filter = JobFilter { script_id, state };
        self.store.script_jobs_list(&who.team_id, filter, before, limit).await.map_err(|e| store_failure("listing jobs", &e))
    }

    /// Tries one dead letter again.
    pub async fn script_redrive_one(&self, who: &Principal, job_id: &str) -> Result<(), ApiError> {
        who.require(Permission::TeamAdmin)?;
        let failed = |e| store_failure("trying a dead letter again", &e);
        let (redriven, _) = self.store.script_jobs_redrive(&who.team_id, None, Some(job_id), now_ms()).await.map_err(failed)?;
        if redriven == 0 {
            return Err(match self.store.script_job_get(&who.team_id, job_id).await.map_err(failed)? {
                Some(job) if job.state == JobState::Dead => ApiError::conflict("its function is gone or not active, so it cannot be tried again"),
                _ => ApiError::not_found("dead letter", job_id),
            });
        }
        self.script_jobs_added();
        Ok(())
    }

    /// Tries all dead letters again, of one function or of all, and says how many there were.
    pub async fn script_redrive(&self, who: &Principal, function: Option<&str>) -> Result<usize, ApiError> {
        who.require(Permission::TeamAdmin)?;
        let (script_id, now) = (self.script_id(who, function).await?, now_ms());
        let mut redriven = 0;
        loop {
            let step = self.store.script_jobs_redrive(&who.team_id, script_id.as_deref(), None, now).await;
            let (count, more) = step.map_err(|e| store_failure("trying dead letters again", &e))?;
            redriven += count;
            self.script_jobs_added();
            if !more {
                return Ok(redriven);
            }
        }
    }

    /// Forgets a dead letter.
    pub async fn script_dead_letter_delete(&self, who: &Principal, job_id: &str) -> Result<(), ApiError> {
        who.require(Permission::TeamAdmin)?;
        self.store.script_job_delete_dead(&who.team_id, job_id).await.map_err(|e| store_failure("forgetting a dead letter", &e))
    }

    /// What became of the ticks of a schedule, the newest first.
    pub async fn script_ticks(&self, who: &Principal, function: &str, before_ms: Option<i64>, limit: u32) -> Result<Vec<ScriptTick>, ApiError> {
        who.require(Permission::TeamAdmin)?;
        let script_id = self.script_id(who, Some(function)).await?.unwrap_or_default();
        self.store.script_ticks_list(&script_id, before_ms, limit).await.map_err(|e| store_failure("listing ticks", &e))
    }

    /// The id of a function that was named by id or name.
    async fn script_id(&self, who: &Principal, function: Option<&str>) -> Result<Option<String>, ApiError> {
        let Some(function) = function else { return Ok(None) };
        let found = self.store.script_find(&who.team_id, function).await.map_err(|e| store_failure("reading a function", &e))?;
        found.map(|whole| Some(whole.script.id)).ok_or_else(|| ApiError::not_found("function", function))
    }
}
