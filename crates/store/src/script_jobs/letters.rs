//! What became of runs that were owed: to be read, tried again, and forgotten.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::limits;

use super::{COLUMNS, JobState, ScriptJob, check_room, job, live_version, spec};
use crate::{Store, StoreError};

/// A job in a list: without its input, which may be large.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedJob {
    /// Its input is empty.
    pub job: ScriptJob,
    pub input_bytes: u64,
}

/// Which jobs are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub script_id: Option<String>,
    pub state: Option<JobState>,
}

/// What is needed of a dead letter to try it again.
struct Letter {
    id: String,
    script_id: String,
    source: String,
    bytes: usize,
}

/// Jobs that are tried again in one step.
const REDRIVE_MAX: u32 = 500;

impl Store {
    /// Jobs of a team, the newest first: those before a moment and id.
    pub async fn script_jobs_list(&self, team_id: &str, filter: JobFilter, before: Option<(i64, String)>, limit: u32) -> Result<Vec<ListedJob>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list runs that were owed", move |c| {
                let (at, id) = before.unwrap_or((i64::MAX, String::new()));
                let of_script = if filter.script_id.is_some() { "script_id = ?5" } else { "?5 IS NULL" };
                let in_state = if filter.state.is_some() { "state = ?6" } else { "?6 IS NULL" };
                let listed = |row: &Row<'_>| Ok(ListedJob { job: job(row)?, input_bytes: row.get(18)? });
                let columns = COLUMNS.replace("input", "''");
                let sql = format!(
                    "SELECT {columns}, bytes FROM script_job WHERE team_id = ?1 AND created_at_ms <= ?2 AND (created_at_ms < ?2 OR id > ?3)
                    AND {of_script} AND {in_state} ORDER BY created_at_ms DESC, id LIMIT ?4"
                );
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map((team_id, at, id, limit, filter.script_id, filter.state.map(JobState::as_str)), listed)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// A job of a team.
    pub async fn script_job_get(&self, team_id: &str, id: &str) -> Result<Option<ScriptJob>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .read("read a run that was owed", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM script_job WHERE id = ?1 AND team_id = ?2");
                Ok(c.prepare_cached(&sql)?.query_row((id, team_id), job).optional()?)
            })
            .await
    }

    /// Tries dead letters of a script again, or one of them, from the first attempt on and with the version that is live now.
    /// Those whose script is gone or not active stay. Returns how many, and whether there may be more.
    pub async fn script_jobs_redrive(&self, team_id: &str, script_id: Option<&str>, job_id: Option<&str>, now_ms: i64) -> Result<(usize, bool), StoreError> {
        let (team_id, script_id, job_id) = (team_id.to_owned(), script_id.map(str::to_owned), job_id.map(str::to_owned));
        self.engine
            .write("try dead letters again", move |c| {
                let which = if job_id.is_some() { "id = ?3" } else { "?3 IS NULL" };
                let sql = format!(
                    "SELECT id, script_id, source, bytes FROM script_job WHERE team_id = ?1 AND state = 'dead' AND (?2 IS NULL OR script_id = ?2) AND {which}
                    AND script_id IN (SELECT id FROM script WHERE team_id = ?1 AND active) ORDER BY created_at_ms LIMIT ?4"
                );
                let mut statement = c.prepare_cached(&sql)?;
                let letter = |row: &Row<'_>| Ok(Letter { id: row.get(0)?, script_id: row.get(1)?, source: row.get(2)?, bytes: row.get(3)? });
                let dead: Vec<Letter> = statement.query_map((&team_id, script_id, job_id, REDRIVE_MAX), letter)?.collect::<Result<_, _>>()?;
                check_room(c, &team_id, dead.len(), dead.iter().map(|job| job.bytes).sum())?;
                for job in &dead {
                    let sql = "SELECT last_version, doc FROM script WHERE id = ?1";
                    let (last_version, doc): (u32, String) = c.prepare_cached(sql)?.query_row([&job.script_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
                    let give_up_at_ms = now_ms.saturating_add(i64::from(spec(&doc)?.retry.max_age_seconds) * 1000);
                    let version = live_version(c, &job.script_id, last_version, &job.source)?;
                    // A version that was run for this already keeps that row.
                    let sql = "UPDATE script_job SET state = 'pending', attempts = 0, interruptions = 0, run_at_ms = ?2, give_up_at_ms = ?3,
                            finished_at_ms = NULL, version = CASE WHEN EXISTS (SELECT 1 FROM script_job o WHERE o.script_id = script_job.script_id
                                AND o.kind = script_job.kind AND o.source = script_job.source AND o.version = ?4) THEN version ELSE ?4 END
                        WHERE id = ?1 AND state = 'dead'";
                    c.prepare_cached(sql)?.execute((&job.id, now_ms, give_up_at_ms, version))?;
                }
                Ok((dead.len(), dead.len() == REDRIVE_MAX as usize))
            })
            .await
    }

    /// Forgets a dead letter.
    pub async fn script_job_delete_dead(&self, team_id: &str, id: &str) -> Result<(), StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .write("forget a dead letter", move |c| {
                let sql = "DELETE FROM script_job WHERE id = ?1 AND team_id = ?2 AND state = 'dead'";
                let removed = c.prepare_cached(sql)?.execute((&id, team_id))?;
                if removed == 0 { Err(StoreError::NotFound { what: "dead letter", id }) } else { Ok(()) }
            })
            .await
    }

    /// Forgets what ended long ago, and of scripts that have too much of it, and teams with too many dead letters, the oldest; at most
    /// `max` of each. Returns how many.
    pub async fn script_jobs_prune(&self, now_ms: i64, max: u32) -> Result<usize, StoreError> {
        // Looking through all of them takes a while, and nobody who writes has to wait for it.
        let (much, letters) = self.engine.read("look for scripts that were owed much", move |c| Ok((scripts_with_much(c)?, letters_too_many(c, max)?))).await?;
        self.engine
            .write("forget runs that were owed", move |c| {
                let mut removed = 0;
                let sql = "DELETE FROM script_job WHERE id IN
                    (SELECT id FROM script_job WHERE state = ?1 AND finished_at_ms < ?2 AND finished_at_ms IS NOT NULL ORDER BY finished_at_ms LIMIT ?3)";
                for state in [JobState::Succeeded, JobState::Dropped, JobState::Dead] {
                    let kept = if state == JobState::Dead { limits::SCRIPT_DEAD_LETTERS_KEPT_MS } else { limits::SCRIPT_JOBS_KEPT_MS };
                    removed += c.prepare_cached(sql)?.execute((state.as_str(), now_ms.saturating_sub(kept), max))?;
                }
                for (script_id, state) in much {
                    let sql = "DELETE FROM script_job WHERE id IN (SELECT id FROM script_job WHERE script_id = ?1 AND state = ?2
                        ORDER BY created_at_ms DESC, id LIMIT ?3 OFFSET ?4)";
                    removed += c.prepare_cached(sql)?.execute((script_id, state, max, limits::SCRIPT_JOBS_KEPT_MAX))?;
                }
                // One that is tried again meanwhile is none any more.
                let mut forget = c.prepare_cached("DELETE FROM script_job WHERE id = ?1 AND state = 'dead'")?;
                letters.into_iter().try_fold(removed, |removed, id| Ok(removed + forget.execute([id])?))
            })
            .await
    }
}

/// Scripts and states of which there is more than is kept.
fn scripts_with_much(c: &Connection) -> Result<Vec<(String, String)>, StoreError> {
    let sql = "SELECT script_id, state FROM script_job WHERE state NOT IN ('pending', 'running') GROUP BY script_id, state HAVING count(*) > ?1";
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map([limits::SCRIPT_JOBS_KEPT_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Dead letters that are more than a team may keep, or more bytes: the oldest of its scripts.
fn letters_too_many(c: &Connection, max: u32) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT id FROM (SELECT id, row_number() OVER newest AS nth, sum(bytes) OVER newest AS total FROM script_job WHERE state = 'dead'
            WINDOW newest AS (PARTITION BY team_id ORDER BY created_at_ms DESC, id))
        WHERE nth > ?1 OR total > ?2 LIMIT ?3";
    let mut statement = c.prepare_cached(sql)?;
    let bounds = (limits::SCRIPT_DEAD_LETTERS_PER_TEAM_MAX, limits::SCRIPT_DEAD_LETTERS_PER_TEAM_MAX_BYTES, max);
    let rows = statement.query_map(bounds, |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
