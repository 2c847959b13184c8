//! Every execution of a script.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::script::RunTrigger;

use crate::{Idempotency, JobEnd, JobState, ScriptJob, Store, StoreError, script_jobs, scripts};

/// An execution. Texts are JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptRun {
    pub id: String,
    pub team_id: String,
    pub script_id: String,
    pub script_name: String,
    pub version: u32,
    pub trigger: RunTrigger,
    pub status: RunStatus,
    /// Of a failed one.
    pub error_code: Option<String>,
    pub provider: Option<String>,
    pub created_at_ms: i64,
    pub started_at_ms: Option<i64>,
    pub finished_at_ms: Option<i64>,
    pub duration_us: Option<i64>,
    pub cpu_us: Option<i64>,
    pub peak_memory_bytes: Option<i64>,
    /// All else that is small: error, subject, attempt, job, event, replayed run.
    pub doc: String,
    /// These four are not in lists.
    pub input: String,
    pub output: Option<String>,
    pub logs: Option<String>,
    pub recording: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    /// Nobody waits for it, and it has not begun.
    Queued,
    Running,
    Succeeded,
    Failed,
}

impl RunStatus {
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// Which runs of a team are listed.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    pub script_id: Option<String>,
    pub status: Option<RunStatus>,
    pub trigger: Option<RunTrigger>,
    pub version: Option<u32>,
    /// The code of an error.
    pub error_code: Option<String>,
    /// From this moment on.
    pub since_ms: Option<i64>,
    /// Before this moment.
    pub until_ms: Option<i64>,
    /// The last one of the page before: when it was made, and its id.
    pub after: Option<(i64, String)>,
    pub limit: u32,
}

/// Runs of one look at what is to be removed.
const PRUNE_MAX: u32 = 10_000;

const SMALL: &str = "id, team_id, script_id, script_name, version, trigger, status, error_code, provider, created_at_ms, started_at_ms, finished_at_ms,
    duration_us, cpu_us, peak_memory_bytes, doc";

impl Store {
    /// Stores a run, or what has become of it.
    pub async fn script_run_put(&self, run: ScriptRun) -> Result<(), StoreError> {
        self.engine.write("keep a run", move |c| put(c, &run)).await
    }

    /// Stores what came of a run, and ends the job that it was of, in one commit. A call that nobody waits for and that is tried
    /// again waits again: it is one run however often it is tried.
    pub async fn script_run_finish(&self, mut run: ScriptRun, job: Option<(String, JobEnd)>) -> Result<(), StoreError> {
        self.engine
            .write("finish a run", move |c| {
                let Some((job_id, end)) = job else { return put(c, &run) };
                let (error, now_ms) = (error_of(&run), run.finished_at_ms.unwrap_or(run.created_at_ms));
                let state = script_jobs::end_job(c, &job_id, &end, Some(&run.id), error.as_deref(), now_ms)?;
                // Whether it is tried again is known only now: a retry may come too late.
                if run.trigger == RunTrigger::Async && state == Some(JobState::Pending) {
                    (run.status, run.finished_at_ms) = (RunStatus::Queued, None);
                }
                put(c, &run)
            })
            .await
    }

    /// Stores a run that is owed and its job, and claims an idempotency key for it (key, SHA-256 of the body), all or nothing.
    pub async fn script_run_enqueue(&self, run: ScriptRun, job: ScriptJob, key: Option<(String, String)>) -> Result<Idempotency, StoreError> {
        self.engine
            .write("queue a run", move |c| {
                if let Some((key, body)) = key
                    && let used @ Idempotency::Used(_) = scripts::claim_key(c, &key, &body, &run)?
                {
                    return Ok(used);
                }
                script_jobs::check_room(c, &job.team_id, 1, job.input.len())?;
                put(c, &run)?;
                script_jobs::insert(c, &job)?;
                Ok(Idempotency::New)
            })
            .await
    }

    /// Notes that a run which waited has begun. Nothing when it is gone.
    pub async fn script_run_begin(&self, id: &str, now_ms: i64) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.engine
            .write("begin a run", move |c| {
                let sql = "UPDATE script_run SET status = 'running', started_at_ms = ?2 WHERE id = ?1 AND status IN ('queued', 'running')";
                c.prepare_cached(sql)?.execute((id, now_ms))?;
                Ok(())
            })
            .await
    }

    /// For a server that starts: runs that somebody waited for are failed, since nobody waits any more and nobody goes on with
    /// them; so are those of events and schedules, whose jobs get another one. Calls that nobody waits for wait again: each is
    /// one run however often it is tried. Returns how many were failed.
    pub async fn script_runs_interrupt(&self, doc_error: &str, now_ms: i64) -> Result<usize, StoreError> {
        let error = doc_error.to_owned();
        self.engine
            .write("interrupt runs", move |c| {
                c.execute("UPDATE script_run SET status = 'queued', started_at_ms = NULL WHERE status = 'running' AND trigger = 'async'", [])?;
                let sql = "UPDATE script_run SET status = 'failed', error_code = 'internal', finished_at_ms = ?2, doc = json_set(doc, '$.error', json(?1))
                    WHERE status IN ('queued', 'running') AND trigger <> 'async'";
                Ok(c.execute(sql, (error, now_ms))?)
            })
            .await
    }

    /// A whole run of a team.
    pub async fn script_run_get(&self, team_id: &str, id: &str) -> Result<Option<ScriptRun>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .read("read a run", move |c| {
                let sql = format!("SELECT {SMALL}, input, output, logs, recording FROM script_run WHERE id = ?1 AND team_id = ?2");
                c.prepare_cached(&sql)?.query_row((id, team_id), |row| Ok(run(row))).optional()?.transpose()
            })
            .await
    }

    /// A whole run of whatever team.
    pub async fn script_run_find(&self, id: &str) -> Result<Option<ScriptRun>, StoreError> {
        let id = id.to_owned();
        self.engine
            .read("read a run", move |c| {
                let sql = format!("SELECT {SMALL}, input, output, logs, recording FROM script_run WHERE id = ?1");
                c.prepare_cached(&sql)?.query_row([id], |row| Ok(run(row))).optional()?.transpose()
            })
            .await
    }

    /// Runs of a team, the newest first, without what is large of them; with their logs if they are asked for.
    pub async fn script_runs_list(&self, team_id: &str, filter: RunFilter, with_logs: bool) -> Result<Vec<ScriptRun>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list runs", move |c| {
                let logs = if with_logs { "logs" } else { "NULL" };
                // A team's or a script's index, whichever is asked by.
                let which = if filter.script_id.is_some() { "script_id = ?2 AND team_id = ?1" } else { "team_id = ?1 AND ?2 IS NULL" };
                let sql = format!(
                    "SELECT {SMALL}, '', NULL, {logs}, NULL FROM script_run WHERE {which} AND (?3 IS NULL OR status = ?3) AND (?4 IS NULL OR trigger = ?4)
                    AND (?5 IS NULL OR version = ?5) AND (?6 IS NULL OR error_code = ?6) AND (?7 IS NULL OR created_at_ms >= ?7)
                    AND (?8 IS NULL OR created_at_ms < ?8) AND (?9 IS NULL OR created_at_ms < ?9 OR (created_at_ms = ?9 AND id > ?10))
                    ORDER BY created_at_ms DESC, id LIMIT ?11"
                );
                let (after_ms, after_id) = filter.after.unzip();
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map(
                    (
                        team_id,
                        filter.script_id,
                        filter.status.map(RunStatus::as_str),
                        filter.trigger.map(RunTrigger::as_str),
                        filter.version,
                        filter.error_code,
                        filter.since_ms,
                        filter.until_ms,
                        after_ms,
                        after_id,
                        filter.limit,
                    ),
                    |row| Ok(run(row)),
                )?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Removes runs that have ended: those from before `before_ms`, and the oldest of scripts with more than `per_script` and of
    /// teams with more than `team_bytes`; `step` in one commit. Returns how many there were; if there were very many, some are left.
    pub async fn script_runs_prune(&self, before_ms: i64, per_script: usize, team_bytes: usize, step: u32) -> Result<usize, StoreError> {
        // Looked for once, in indexes that have all that this goes by.
        let ids: Vec<String> = self
            .engine
            .read("look for old runs", move |c| {
                let ended = "status NOT IN ('queued', 'running')";
                let many = format!(
                    "SELECT id FROM (SELECT id, status, row_number() OVER (PARTITION BY script_id ORDER BY created_at_ms DESC, id) AS nth
                        FROM script_run INDEXED BY script_run_by_script)
                    WHERE nth > ?1 AND {ended} LIMIT {PRUNE_MAX}"
                );
                let large = format!(
                    "SELECT id FROM (SELECT id, status, created_at_ms, sum(bytes) OVER (PARTITION BY team_id ORDER BY created_at_ms DESC, id) AS total
                        FROM script_run INDEXED BY script_run_by_team)
                    WHERE (total > ?1 OR created_at_ms < ?2) AND {ended} LIMIT {PRUNE_MAX}"
                );
                let mut ids: Vec<String> = c.prepare_cached(&many)?.query_map([per_script as i64], |row| row.get(0))?.collect::<Result<_, _>>()?;
                let mut statement = c.prepare_cached(&large)?;
                for id in statement.query_map((team_bytes as i64, before_ms), |row| row.get(0))? {
                    ids.push(id?);
                }
                ids.sort_unstable();
                ids.dedup();
                Ok(ids)
            })
            .await?;
        let mut removed = 0;
        for ids in ids.chunks(step.max(1) as usize) {
            let ids = ids.to_vec();
            let remove = move |c: &Connection| {
                let mut remove = c.prepare_cached("DELETE FROM script_run WHERE id = ?1 AND status NOT IN ('queued', 'running')")?;
                ids.into_iter().try_fold(0, |removed, id| Ok(removed + remove.execute([id])?))
            };
            removed += self.engine.write("remove old runs", remove).await?;
        }
        Ok(removed)
    }
}

/// Stores a run, or what has become of it.
pub(crate) fn put(c: &Connection, run: &ScriptRun) -> Result<(), StoreError> {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let bytes = run.doc.len() + run.input.len() + length(&run.output) + length(&run.logs) + length(&run.recording);
    let sql = format!(
        "INSERT INTO script_run ({SMALL}, input, output, logs, recording, bytes)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)
        ON CONFLICT (id) DO UPDATE SET version = excluded.version, status = excluded.status, error_code = excluded.error_code, provider = excluded.provider,
            started_at_ms = excluded.started_at_ms, finished_at_ms = excluded.finished_at_ms, duration_us = excluded.duration_us, cpu_us = excluded.cpu_us,
            peak_memory_bytes = excluded.peak_memory_bytes, doc = excluded.doc, input = excluded.input, output = excluded.output, logs = excluded.logs,
            recording = excluded.recording, bytes = excluded.bytes"
    );
    c.prepare_cached(&sql)?.execute(rusqlite::params![
        run.id,
        run.team_id,
        run.script_id,
        run.script_name,
        run.version,
        run.trigger.as_str(),
        run.status.as_str(),
        run.error_code,
        run.provider,
        run.created_at_ms,
        run.started_at_ms,
        run.finished_at_ms,
        run.duration_us,
        run.cpu_us,
        run.peak_memory_bytes,
        run.doc,
        run.input,
        run.output,
        run.logs,
        run.recording,
        bytes,
    ])?;
    Ok(())
}

/// The message of a run that failed.
fn error_of(run: &ScriptRun) -> Option<String> {
    let doc: serde_json::Value = serde_json::from_str(&run.doc).ok()?;
    Some(doc.get("error")?.get("message")?.as_str()?.to_owned())
}

fn run(row: &Row<'_>) -> Result<ScriptRun, StoreError> {
    let (trigger, status): (String, String) = (row.get(5)?, row.get(6)?);
    Ok(ScriptRun {
        id: row.get(0)?,
        team_id: row.get(1)?,
        script_id: row.get(2)?,
        script_name: row.get(3)?,
        version: row.get(4)?,
        trigger: RunTrigger::named(&trigger).ok_or_else(|| StoreError::corrupt("run", &format!("trigger {trigger:?}")))?,
        status: RunStatus::named(&status).ok_or_else(|| StoreError::corrupt("run", &format!("status {status:?}")))?,
        error_code: row.get(7)?,
        provider: row.get(8)?,
        created_at_ms: row.get(9)?,
        started_at_ms: row.get(10)?,
        finished_at_ms: row.get(11)?,
        duration_us: row.get(12)?,
        cpu_us: row.get(13)?,
        peak_memory_bytes: row.get(14)?,
        doc: row.get(15)?,
        input: row.get(16)?,
        output: row.get(17)?,
        logs: row.get(18)?,
        recording: row.get(19)?,
    })
}
