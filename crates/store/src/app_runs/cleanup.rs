//! What has to be cleaned up after runs, and what is kept of their sandboxes.

use rusqlite::OptionalExtension;
use sandbar_core::{
    app::{
        Cleanup, RunStatus,
        cleanup::{Ended, Stopped},
        run::{CleanupPolicy, RunDoc},
    },
    limits::app_runs as limits,
};

use super::{AppRun, SMALL, run, text};
use crate::{Store, StoreError};

impl Store {
    /// Runs that have to be cleaned up after and whose time has come. One whose time is too far away was put off by a clock that was
    /// set back since.
    pub async fn app_runs_uncleaned(&self, now_ms: i64, limit: u32) -> Result<Vec<AppRun>, StoreError> {
        self.engine
            .read("read runs that have to be cleaned up after", move |c| {
                let sql = format!(
                    "SELECT {SMALL}, input FROM app_run WHERE cleanup = 'pending' AND (cleanup_at_ms IS NULL OR cleanup_at_ms <= ?1 OR cleanup_at_ms > ?2)
                    ORDER BY cleanup_at_ms, created_at_ms, id LIMIT ?3"
                );
                let mut statement = c.prepare_cached(&sql)?;
                let farthest = now_ms.saturating_add(limits::RUN_CLEANUP_PAUSE_MAX_MS);
                statement.query_map((now_ms, farthest, limit), |row| Ok(run(row)))?.map(|row| row?).collect()
            })
            .await
    }

    /// Notes what came of cleaning up after a run, whatever that says of the run itself; of one that is to be done again, when.
    pub async fn app_run_cleaned(&self, id: &str, cleanup: Cleanup, again_at_ms: Option<i64>, doc: &RunDoc) -> Result<(), StoreError> {
        let (id, doc) = (id.to_owned(), text(doc)?);
        self.engine
            .write("note that a run was cleaned up after", move |c| {
                let sql = "UPDATE app_run SET cleanup = ?2, cleanup_at_ms = ?3, doc = ?4 WHERE id = ?1 AND cleanup IS NOT NULL";
                c.prepare_cached(sql)?.execute((id, cleanup.as_str(), again_at_ms, doc))?;
                Ok(())
            })
            .await
    }

    /// Sandboxes that were made for runs and are not being ended, with how the run is that each was made for, as far as there is one.
    pub async fn run_sandboxes(&self) -> Result<Vec<(String, Option<Ended>)>, StoreError> {
        self.engine
            .read("read sandboxes of runs", move |c| {
                let sql = "SELECT s.sandbox_id, s.run_id FROM app_sandbox AS s WHERE s.kind = 'run' AND s.state = 'wanted'";
                let mut sandboxes = c.prepare_cached(sql)?;
                let rows: Vec<(String, Option<String>)> = sandboxes.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
                let sql = "SELECT status, coalesce(CASE WHEN json_valid(doc) THEN json_extract(doc, '$.cleanup') END, ''), cleanup, sandbox_id FROM app_run WHERE id = ?1";
                let mut runs = c.prepare_cached(sql)?;
                let mut found = Vec::with_capacity(rows.len());
                for (sandbox_id, run_id) in rows {
                    let row: Option<(String, String, Option<String>, Option<String>)> =
                        runs.query_row([run_id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).optional()?;
                    let ended = row.map(|(status, policy, cleanup, own)| {
                        Some(Ended {
                            status: RunStatus::named(&status)?,
                            policy: CleanupPolicy::named(&policy)?,
                            cleanup: cleanup.as_deref().map(|text| Cleanup::named(text).ok_or(())).transpose().ok()?,
                            is_its_own: own.as_deref() == Some(sandbox_id.as_str()),
                        })
                    });
                    match ended {
                        // What cannot be read is left alone.
                        Some(None) => {}
                        Some(ended @ Some(_)) => found.push((sandbox_id, ended)),
                        None => found.push((sandbox_id, None)),
                    }
                }
                Ok(found)
            })
            .await
    }

    /// Sandboxes that were stopped after their runs and are kept, those that could not be archived among them, of one app or of all.
    pub async fn run_sandboxes_stopped(&self, app_id: Option<&str>) -> Result<Vec<Stopped>, StoreError> {
        let app_id = app_id.map(str::to_owned);
        self.engine
            .read("read sandboxes that are kept of runs", move |c| {
                let sql = "SELECT s.sandbox_id, s.app_id, r.schedule_id, CASE WHEN json_valid(r.doc) THEN json_extract(r.doc, '$.keep') END, r.created_at_ms
                    FROM app_sandbox AS s JOIN app_run AS r ON r.id = s.run_id
                    WHERE s.kind = 'run' AND s.state = 'wanted' AND (r.cleanup, CASE WHEN json_valid(r.doc) THEN json_extract(r.doc, '$.cleanup') END)
                        IN (VALUES ('succeeded', 'stop'), ('failed', 'archive')) AND (?1 IS NULL OR s.app_id = ?1)";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map([app_id], |row| {
                    Ok(Stopped { sandbox_id: row.get(0)?, app_id: row.get(1)?, schedule_id: row.get(2)?, keep: row.get(3)?, created_at_ms: row.get(4)? })
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Apps whose sandbox was woken for runs while they are offline.
    pub async fn apps_woken(&self) -> Result<Vec<String>, StoreError> {
        self.engine
            .read("look for apps that were woken for runs", |c| {
                // A row that cannot be read keeps nobody from the others.
                let sql = "SELECT id FROM app WHERE desired = 'offline' AND CASE WHEN json_valid(launch) THEN json_extract(launch, '$.woken') END ORDER BY id";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map([], |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }
}
