//! Runs that are owed: of events, of schedules, and calls that nobody waits for. At least once each, and never twice to
//! success: what came of a run and what becomes of its job are one commit.

use rusqlite::{Connection, OptionalExtension, Row, types::Type};
use sandbar_core::{
    limits,
    script::{ScriptSpec, Split},
};
use sha2::{Digest, Sha256};

use crate::{NewScriptEvent, Store, StoreError, script_events};

mod claim;
mod letters;

pub use claim::{Busy, Claimed};
pub use letters::{JobFilter, ListedJob};

/// A run that is owed.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptJob {
    pub id: String,
    pub team_id: String,
    pub script_id: String,
    pub version: u32,
    pub kind: JobKind,
    /// The event's id, the tick's moment, or the run's id: with script, kind and version there is one job for it.
    pub source: String,
    pub state: JobState,
    pub run_at_ms: i64,
    pub attempts: u32,
    /// Tries that the end of the server cut short; they are no attempts.
    pub interruptions: u32,
    pub give_up_at_ms: i64,
    /// How many scripts it came through.
    pub depth: u32,
    /// JSON: what `ctx.data` will be.
    pub input: String,
    /// JSON: in whose name.
    pub subject: String,
    pub last_run_id: Option<String>,
    pub last_error: Option<String>,
    pub created_at_ms: i64,
    pub finished_at_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobKind {
    Event,
    Cron,
    /// A call that nobody waits for; its run has the job's source as its id.
    Async,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    Pending,
    Running,
    Succeeded,
    /// Given up: a dead letter.
    Dead,
    /// Not wanted any more: its script is gone or inactive, or another tick replaced it.
    Dropped,
}

/// What becomes of a job after a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    Succeeded,
    Retry { at_ms: i64 },
    Dead,
    Dropped,
}

impl JobKind {
    pub const ALL: [Self; 3] = [Self::Event, Self::Cron, Self::Async];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Cron => "cron",
            Self::Async => "async",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl JobState {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Succeeded, Self::Dead, Self::Dropped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl Store {
    /// Puts a run in the queue. False when it is there already.
    pub async fn script_job_insert(&self, job: &ScriptJob) -> Result<bool, StoreError> {
        let job = job.clone();
        self.engine
            .write("put a run in the queue", move |c| {
                check_room(c, &job.team_id, 1, job.input.len())?;
                insert(c, &job)
            })
            .await
    }

    /// Ends a job without a run. False when it is not running any more.
    pub async fn script_job_end(&self, job_id: &str, end: JobEnd, error: Option<String>, now_ms: i64) -> Result<bool, StoreError> {
        let job_id = job_id.to_owned();
        self.engine.write("end a run that was owed", move |c| Ok(end_job(c, &job_id, &end, None, error.as_deref(), now_ms)?.is_some())).await
    }

    /// Gives a job back that was claimed and not begun: that was no attempt.
    pub async fn script_job_release(&self, job_id: &str, at_ms: i64) -> Result<(), StoreError> {
        let job_id = job_id.to_owned();
        self.engine
            .write("give back a run that was owed", move |c| {
                let sql = "UPDATE script_job SET state = 'pending', run_at_ms = ?2, attempts = max(attempts - 1, 0) WHERE id = ?1 AND state = 'running'";
                c.prepare_cached(sql)?.execute((job_id, at_ms))?;
                Ok(())
            })
            .await
    }

    /// Gives a job back whose try was cut short: that was no attempt, but it counts as an interruption, and after too many the job
    /// is given up.
    pub async fn script_job_interrupt(&self, job_id: &str, cause: &str, at_ms: i64, now_ms: i64) -> Result<(), StoreError> {
        let (job_id, cause) = (job_id.to_owned(), cause.to_owned());
        self.engine
            .write("give back a run that was interrupted", move |c| {
                let sql = "UPDATE script_job SET state = 'pending', run_at_ms = ?2, attempts = max(attempts - 1, 0), interruptions = interruptions + 1
                    WHERE id = ?1 AND state = 'running' AND interruptions < ?3";
                if c.prepare_cached(sql)?.execute((&job_id, at_ms, limits::SCRIPT_INTERRUPTIONS_MAX))? == 0 {
                    end_job(c, &job_id, &JobEnd::Dead, None, Some(&cause), now_ms)?;
                }
                Ok(())
            })
            .await
    }

    /// After a start: what ran when the server ended is run again, unless that happened too often. Returns how many of each.
    pub async fn script_jobs_recover(&self, now_ms: i64) -> Result<(usize, usize), StoreError> {
        self.engine
            .write("recover runs that were owed", move |c| {
                let sql = "SELECT id FROM script_job WHERE state = 'running' AND interruptions >= ?1";
                let mut statement = c.prepare_cached(sql)?;
                let often: Vec<String> = statement.query_map([limits::SCRIPT_INTERRUPTIONS_MAX], |row| row.get(0))?.collect::<Result<_, _>>()?;
                let cause = format!("the server ended {} times while it ran", limits::SCRIPT_INTERRUPTIONS_MAX + 1);
                for id in &often {
                    end_job(c, id, &JobEnd::Dead, None, Some(&cause), now_ms)?;
                }
                let sql = "UPDATE script_job SET state = 'pending', run_at_ms = min(run_at_ms, ?1), attempts = max(attempts - 1, 0),
                    interruptions = interruptions + 1 WHERE state = 'running'";
                Ok((c.prepare_cached(sql)?.execute([now_ms])?, often.len()))
            })
            .await
    }
}

/// Puts a run in the queue. False when there is one for the same script, version, kind and source.
pub(crate) fn insert(c: &Connection, job: &ScriptJob) -> Result<bool, StoreError> {
    let sql = format!(
        "INSERT INTO script_job ({COLUMNS}, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
            octet_length(?13))
        ON CONFLICT DO NOTHING"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let inserted = statement.execute(rusqlite::params![
        job.id,
        job.team_id,
        job.script_id,
        job.version,
        job.kind.as_str(),
        job.source,
        job.state.as_str(),
        job.run_at_ms,
        job.attempts,
        job.interruptions,
        job.give_up_at_ms,
        job.depth,
        job.input,
        job.subject,
        job.last_run_id,
        job.last_error,
        job.created_at_ms,
        job.finished_at_ms,
    ])?;
    Ok(inserted > 0)
}

/// Whether so much more may wait in a team.
pub(crate) fn check_room(c: &Connection, team_id: &str, jobs: usize, bytes: usize) -> Result<(), StoreError> {
    let sql = "SELECT jobs, bytes FROM script_backlog WHERE team_id = ?1";
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?.max(0) as usize, row.get::<_, i64>(1)?.max(0) as usize));
    let (waiting, waiting_bytes) = c.prepare_cached(sql)?.query_row([team_id], read).optional()?.unwrap_or_default();
    if waiting + jobs > limits::SCRIPT_JOBS_WAITING_MAX {
        return Err(StoreError::TooMany { what: "runs of this team's scripts that wait", max: limits::SCRIPT_JOBS_WAITING_MAX });
    }
    if waiting_bytes + bytes > limits::SCRIPT_JOBS_WAITING_MAX_BYTES {
        return Err(StoreError::TooMany { what: "bytes of input of this team's runs that wait", max: limits::SCRIPT_JOBS_WAITING_MAX_BYTES });
    }
    Ok(())
}

/// What becomes of a job after a run; for use in the transaction that writes what came of the run. A job that is not running
/// any more has ended already and stays as it is: then this is none. A retry that would come too late gives it up.
pub(crate) fn end_job(
    c: &Connection,
    job_id: &str,
    end: &JobEnd,
    run_id: Option<&str>,
    error: Option<&str>,
    now_ms: i64,
) -> Result<Option<JobState>, StoreError> {
    let (state, at_ms) = match end {
        JobEnd::Succeeded => (JobState::Succeeded, None),
        JobEnd::Retry { at_ms } => (JobState::Pending, Some(*at_ms)),
        JobEnd::Dead => (JobState::Dead, None),
        JobEnd::Dropped => (JobState::Dropped, None),
    };
    let sql = format!(
        "UPDATE script_job SET state = CASE WHEN ?3 >= give_up_at_ms THEN 'dead' ELSE ?2 END, run_at_ms = coalesce(?3, run_at_ms),
            finished_at_ms = CASE WHEN ?3 < give_up_at_ms THEN NULL ELSE ?4 END, last_run_id = coalesce(?5, last_run_id), last_error = ?6,
            input = CASE WHEN ?2 IN ('succeeded', 'dropped') THEN 'null' ELSE input END,
            bytes = CASE WHEN ?2 IN ('succeeded', 'dropped') THEN 0 ELSE bytes END
        WHERE id = ?1 AND state = 'running' RETURNING {COLUMNS}"
    );
    let ended = c.prepare_cached(&sql)?.query_row((job_id, state.as_str(), at_ms, now_ms, run_id, error), job).optional()?;
    let Some(job) = ended else { return Ok(None) };
    if job.state == JobState::Dead {
        tell_of_dead_letter(c, &job, now_ms)?;
    }
    Ok(Some(job.state))
}

/// Publishes that a run was given up; not for the runs of those who are told of such.
fn tell_of_dead_letter(c: &Connection, job: &ScriptJob, now_ms: i64) -> Result<(), StoreError> {
    if job.kind == JobKind::Event {
        let sql = "SELECT target = ?2 FROM script_event WHERE id = ?1";
        let told = c.prepare_cached(sql)?.query_row((&job.source, script_events::DEAD_LETTER_EVENT), |row| row.get::<_, bool>(0)).optional()?;
        // One whose event was removed by now could be one of them.
        if told != Some(false) {
            return Ok(());
        }
    }
    let name: Option<String> = c.prepare_cached("SELECT name FROM script WHERE id = ?1")?.query_row([&job.script_id], |row| row.get(0)).optional()?;
    let data = serde_json::json!({
        "jobId": job.id,
        "functionId": job.script_id,
        "functionName": name,
        "version": job.version,
        "kind": job.kind.as_str(),
        "source": job.source,
        "attempts": job.attempts,
        "error": job.last_error,
        "runId": job.last_run_id,
    });
    let event = NewScriptEvent {
        id: format!("dead.{}.{now_ms}", job.id),
        team_id: job.team_id.clone(),
        target: script_events::DEAD_LETTER_EVENT.to_owned(),
        data: data.to_string(),
        depth: job.depth + 1,
        cause_run_id: job.last_run_id.clone(),
        subject: SYSTEM.to_owned(),
        created_at_ms: now_ms,
    };
    match script_events::publish(c, &event) {
        // The letter itself is there to be read.
        Err(StoreError::TooMany { .. }) => script_events::write(c, &event, 0, Some("too many runs of this team's scripts wait")),
        published => published.map(drop),
    }
}

/// In nobody's name.
pub(crate) const SYSTEM: &str = "{}";

/// The version that runs now for a key: by the alias `live`, the same one for the same key, or the newest.
pub(crate) fn live_version(c: &Connection, script_id: &str, last_version: u32, key: &str) -> Result<u32, StoreError> {
    let sql = "SELECT split FROM script_alias WHERE script_id = ?1 AND alias = 'live'";
    let split: Option<String> = c.prepare_cached(sql)?.query_row([script_id], |row| row.get(0)).optional()?;
    let Some(split) = split else { return Ok(last_version) };
    let split: Split = serde_json::from_str(&split).map_err(|e| StoreError::corrupt("alias", &e))?;
    let digest = Sha256::digest(key.as_bytes());
    Ok(split.choose(digest.iter().take(8).fold(0, |place, byte| place << 8 | u64::from(*byte))))
}

pub(crate) fn spec(text: &str) -> Result<ScriptSpec, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::corrupt("script", &e))
}

const COLUMNS: &str = "id, team_id, script_id, version, kind, source, state, run_at_ms, attempts, interruptions, give_up_at_ms, depth, input, subject,
    last_run_id, last_error, created_at_ms, finished_at_ms";

fn job(row: &Row<'_>) -> rusqlite::Result<ScriptJob> {
    let unknown = |column| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, "an unknown word".into());
    Ok(ScriptJob {
        id: row.get(0)?,
        team_id: row.get(1)?,
        script_id: row.get(2)?,
        version: row.get(3)?,
        kind: JobKind::named(row.get_ref(4)?.as_str()?).ok_or_else(|| unknown(4))?,
        source: row.get(5)?,
        state: JobState::named(row.get_ref(6)?.as_str()?).ok_or_else(|| unknown(6))?,
        run_at_ms: row.get(7)?,
        attempts: row.get(8)?,
        interruptions: row.get(9)?,
        give_up_at_ms: row.get(10)?,
        depth: row.get(11)?,
        input: row.get(12)?,
        subject: row.get(13)?,
        last_run_id: row.get(14)?,
        last_error: row.get(15)?,
        created_at_ms: row.get(16)?,
        finished_at_ms: row.get(17)?,
    })
}
