//! Runs as they are looked at.

use sandbar_store::{RunFilter, ScriptRun};

use crate::{
    app::{App, auth::Principal, sandboxes::store_failure},
    error::ApiError,
};

impl App {
    /// Runs of the team, the newest first. What is large of them is left out, but for their logs if they are asked for.
    pub(crate) async fn script_runs(&self, who: &Principal, filter: RunFilter, with_logs: bool) -> Result<Vec<ScriptRun>, ApiError> {
        self.store.script_runs_list(&who.team_id, filter, with_logs).await.map_err(|e| store_failure("listing runs", &e))
    }

    /// A whole run.
    pub(crate) async fn script_run(&self, who: &Principal, id: &str) -> Result<ScriptRun, ApiError> {
        let found = self.store.script_run_get(&who.team_id, id).await.map_err(|e| store_failure("reading the run", &e))?;
        found.ok_or_else(|| ApiError::not_found("run", id))
    }
}
