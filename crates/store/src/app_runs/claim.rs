//! Which runs begin next.

use rusqlite::{Connection, OptionalExtension};
use sandbar_core::app::run::{AtOnce, Waiting, begin_next};

use super::{AppRun, SMALL, run};
use crate::{Store, StoreError};

impl Store {
    /// Begins runs that wait, as many as may run beside those that do. They run from now on, and whoever claims goes on with them.
    pub async fn app_runs_claim(&self, max: AtOnce, now_ms: i64) -> Result<Vec<AppRun>, StoreError> {
        self.engine.write("claim runs of apps", move |c| claim(c, max, now_ms)).await
    }
}

fn claim(c: &Connection, max: AtOnce, now_ms: i64) -> Result<Vec<AppRun>, StoreError> {
    let mut statement = c.prepare_cached("SELECT team_id, app_id FROM app_run WHERE status = 'running' AND status IN ('queued', 'running')")?;
    let running: Vec<(String, String)> = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    if running.len() >= max.all {
        // When one ends it is looked again.
        return Ok(Vec::new());
    }
    // Each look names the unfinished ones as the indices do, which have no others: runs that ended are many.
    // Of each schedule that takes turns the first that waits, if none of it runs; of each app as many as may run at once, and of each group
    // as many as have room in it: so nobody's queue hides another's.
    let sql = "WITH ready AS (
            SELECT id, team_id, app_id, created_at_ms, concurrency_group, concurrency_max FROM app_run AS w
            WHERE status = 'queued' AND status IN ('queued', 'running') AND cancel_requested_at_ms IS NULL AND (by_turns = 0 OR NOT EXISTS (
                SELECT 1 FROM app_run AS r WHERE r.schedule_id = w.schedule_id AND r.schedule_id IS NOT NULL AND r.status IN ('queued', 'running')
                    AND r.by_turns = 1 AND (r.status = 'running' OR (r.cancel_requested_at_ms IS NULL AND (r.created_at_ms, r.id) < (w.created_at_ms, w.id)))))),
        ranked AS (
            SELECT *, row_number() OVER (PARTITION BY app_id, concurrency_group ORDER BY created_at_ms, id) AS nth FROM ready)
        SELECT id, team_id, app_id, created_at_ms FROM ranked AS q
        WHERE nth <= min(coalesce(concurrency_max, ?1), ?1) AND (concurrency_group IS NULL OR nth + (SELECT count(*) FROM app_run AS r
            WHERE r.app_id = q.app_id AND r.concurrency_group = q.concurrency_group AND r.concurrency_group IS NOT NULL
                AND r.status IN ('queued', 'running') AND r.status = 'running') <= concurrency_max)";
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map([max.app], |row| Ok(Waiting { id: row.get(0)?, team_id: row.get(1)?, app_id: row.get(2)?, created_at_ms: row.get(3)? }))?;
    let waiting = rows.collect::<Result<Vec<_>, _>>()?;
    if waiting.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("UPDATE app_run SET status = 'running', started_at_ms = ?2 WHERE id = ?1 AND status = 'queued' RETURNING {SMALL}, input");
    let mut begin = c.prepare_cached(&sql)?;
    let mut claimed = Vec::new();
    for id in begin_next(waiting, &running, max) {
        claimed.extend(begin.query_row((id, now_ms), |row| Ok(run(row))).optional()?.transpose()?);
    }
    Ok(claimed)
}
