//! Which runs are not kept any longer. Their receipts are.

use rusqlite::Connection;
use sandbar_core::limits::app_runs as limits;

use super::FILES_BYTES;
use crate::{Store, StoreError};

/// Runs of one look at what is to be removed.
const PRUNE_MAX: u32 = 5000;
const ENDED: &str = "status NOT IN ('queued', 'running') AND (cleanup IS NULL OR cleanup <> 'pending')";

/// A run that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedRun {
    pub id: String,
    pub sandbox_id: Option<String>,
}

impl Store {
    /// Removes runs that have ended and are from before `before_ms`, and the oldest of apps and teams with more or larger ones than
    /// are kept; `step` in one commit. If there were very many, some are left.
    pub async fn app_runs_prune(&self, before_ms: i64, step: u32) -> Result<Vec<PrunedRun>, StoreError> {
        let ids: Vec<String> = self.engine.read("look for old runs", move |c| old(c, before_ms)).await?;
        let mut removed = Vec::new();
        for ids in ids.chunks(step.max(1) as usize) {
            let ids = ids.to_vec();
            let remove = move |c: &Connection| {
                let sql = format!("DELETE FROM app_run WHERE id = ?1 AND {ENDED} RETURNING id, sandbox_id");
                let mut remove = c.prepare_cached(&sql)?;
                let mut gone = Vec::new();
                for id in ids {
                    for row in remove.query_map([id], |row| Ok(PrunedRun { id: row.get(0)?, sandbox_id: row.get(1)? }))? {
                        gone.push(row?);
                    }
                }
                Ok(gone)
            };
            removed.extend(self.engine.write("remove old runs", remove).await?);
        }
        Ok(removed)
    }

    /// The ids of all runs that there are, for whoever looks after what belongs to none.
    pub async fn app_run_ids(&self) -> Result<Vec<String>, StoreError> {
        self.engine
            .read("read the ids of runs", move |c| {
                let mut statement = c.prepare_cached("SELECT id FROM app_run")?;
                statement.query_map([], |row| row.get(0))?.map(|row| Ok(row?)).collect()
            })
            .await
    }
}

fn old(c: &Connection, before_ms: i64) -> Result<Vec<String>, StoreError> {
    // Files are kept until their run has ended.
    let bytes = format!("log_bytes + artifact_bytes + octet_length(input) + CASE WHEN status IN ('queued', 'running') THEN {FILES_BYTES} ELSE 0 END");
    let sql = format!(
        "SELECT id FROM (SELECT id, status, cleanup, created_at_ms,
                row_number() OVER of_app AS nth, sum({bytes}) OVER of_app AS app_bytes,
                sum({bytes}) OVER (PARTITION BY team_id ORDER BY created_at_ms DESC, id) AS team_bytes
            FROM app_run WINDOW of_app AS (PARTITION BY app_id ORDER BY created_at_ms DESC, id))
        WHERE (nth > ?1 OR app_bytes > ?2 OR team_bytes > ?3 OR created_at_ms < ?4) AND {ENDED} LIMIT {PRUNE_MAX}"
    );
    let params = (limits::RUNS_PER_APP_MAX as i64, limits::RUNS_PER_APP_MAX_BYTES as i64, limits::RUNS_PER_TEAM_MAX_BYTES as i64, before_ms);
    let mut statement = c.prepare_cached(&sql)?;
    statement.query_map(params, |row| row.get(0))?.map(|row| Ok(row?)).collect()
}
