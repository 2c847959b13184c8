//! What happened, and which scripts were told. An event and the runs that it makes are written in the transaction of the
//! change that it tells of: who sees the change has them all.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{
    limits,
    script::{ScriptSpec, pattern},
};

use crate::{
    JobKind, JobState, ScriptJob, Store, StoreError,
    script_jobs::{self, live_version},
};

/// The event that tells of a run that was given up.
pub const DEAD_LETTER_EVENT: &str = "system:job.dead_letter";

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewScriptEvent {
    /// One that was written before is the same event, and nobody is told again.
    pub id: String,
    pub team_id: String,
    /// `channel:event`
    pub target: String,
    /// JSON
    pub data: String,
    /// How many scripts it came through.
    pub depth: u32,
    /// The run that caused it.
    pub cause_run_id: Option<String>,
    /// JSON: in whose name scripts are told.
    pub subject: String,
    pub created_at_ms: i64,
}

/// An event and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptEvent {
    pub event: NewScriptEvent,
    /// Scripts that were told.
    pub jobs: u32,
    /// Why there are not more.
    pub note: Option<String>,
}

impl Store {
    /// Writes an event down and tells the scripts that ask for it; returns how many.
    pub async fn script_event_publish(&self, event: &NewScriptEvent) -> Result<u32, StoreError> {
        let event = event.clone();
        self.engine.write("publish an event", move |c| publish(c, &event)).await
    }

    /// The events of a team, the newest first: those before a moment and id.
    pub async fn script_events_list(&self, team_id: &str, before: Option<(i64, String)>, limit: u32) -> Result<Vec<ScriptEvent>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list events", move |c| {
                let (at, id) = before.unwrap_or((i64::MAX, String::new()));
                let sql = format!(
                    "SELECT {COLUMNS} FROM script_event WHERE team_id = ?1 AND created_at_ms <= ?2 AND (created_at_ms < ?2 OR id > ?3)
                    ORDER BY created_at_ms DESC, id LIMIT ?4"
                );
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map((team_id, at, id, limit), event)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Removes events that are too old, and of teams that have too many the oldest; at most `max`. Returns how many.
    pub async fn script_events_prune(&self, before_ms: i64, max: u32) -> Result<usize, StoreError> {
        // Looking through all of them takes a while, and nobody who writes has to wait for it.
        let much: Vec<String> = self
            .engine
            .read("look for teams with many events", move |c| {
                let sql = "SELECT id FROM (SELECT id, row_number() OVER newest AS nth, sum(bytes) OVER newest AS total FROM script_event
                        WINDOW newest AS (PARTITION BY team_id ORDER BY created_at_ms DESC, id))
                    WHERE nth > ?1 OR total > ?2 LIMIT ?3";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map((limits::SCRIPT_EVENTS_KEPT_MAX, limits::SCRIPT_EVENTS_KEPT_MAX_BYTES, max), |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await?;
        self.engine
            .write("remove old events", move |c| {
                let sql = "DELETE FROM script_event WHERE id IN (SELECT id FROM script_event WHERE created_at_ms < ?1 ORDER BY created_at_ms LIMIT ?2)";
                let removed = c.prepare_cached(sql)?.execute((before_ms, max))?;
                let mut remove = c.prepare_cached("DELETE FROM script_event WHERE id = ?1")?;
                much.into_iter().try_fold(removed, |removed, id| Ok(removed + remove.execute([id])?))
            })
            .await
    }
}

/// Writes an event down and makes one job for each script of the team that asks for it. For use in the transaction of the
/// change that it tells of, which fails with it when too much waits.
pub(crate) fn publish(c: &Connection, event: &NewScriptEvent) -> Result<u32, StoreError> {
    if let Some(jobs) = written_before(c, event)? {
        return Ok(jobs);
    }
    let told = if event.depth > limits::SCRIPT_EVENT_DEPTH_MAX { Vec::new() } else { asking(c, event)? };
    let note = (event.depth > limits::SCRIPT_EVENT_DEPTH_MAX).then(|| {
        format!("it came through {} scripts, and from more than {} on no others are told: this looks like a loop", event.depth, limits::SCRIPT_EVENT_DEPTH_MAX)
    });
    let mut jobs = 0u32;
    if !told.is_empty() {
        let input = format!(r#"{{"event":{},"data":{}}}"#, quoted(&event.target), event.data);
        script_jobs::check_room(c, &event.team_id, told.len(), input.len() * told.len())?;
        for asking in told {
            let job = ScriptJob {
                id: format!("{}.{}", event.id, asking.script_id),
                team_id: event.team_id.clone(),
                version: live_version(c, &asking.script_id, asking.last_version, &event.id)?,
                script_id: asking.script_id,
                kind: JobKind::Event,
                source: event.id.clone(),
                state: JobState::Pending,
                run_at_ms: event.created_at_ms,
                attempts: 0,
                interruptions: 0,
                give_up_at_ms: event.created_at_ms.saturating_add(i64::from(asking.spec.retry.max_age_seconds) * 1000),
                depth: event.depth,
                input: input.clone(),
                subject: event.subject.clone(),
                last_run_id: None,
                last_error: None,
                created_at_ms: event.created_at_ms,
                finished_at_ms: None,
            };
            jobs += u32::from(script_jobs::insert(c, &job)?);
        }
    }
    write(c, event, jobs, note.as_deref())?;
    Ok(jobs)
}

/// The event alone.
pub(crate) fn write(c: &Connection, event: &NewScriptEvent, jobs: u32, note: Option<&str>) -> Result<(), StoreError> {
    let sql = format!("INSERT INTO script_event ({COLUMNS}, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, octet_length(?4))");
    c.prepare_cached(&sql)?.execute((
        &event.id,
        &event.team_id,
        &event.target,
        &event.data,
        event.depth,
        &event.cause_run_id,
        &event.subject,
        event.created_at_ms,
        jobs,
        note,
    ))?;
    Ok(())
}

/// A script that asks for an event.
struct Asking {
    script_id: String,
    last_version: u32,
    spec: ScriptSpec,
}

fn asking(c: &Connection, event: &NewScriptEvent) -> Result<Vec<Asking>, StoreError> {
    let sql = "SELECT id, pattern, last_version, doc FROM script WHERE team_id = ?1 AND trigger = 'event' AND active AND pattern IS NOT NULL ORDER BY id";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query([&event.team_id])?;
    let mut asking = Vec::new();
    while let Some(row) = rows.next()? {
        if pattern::matches(row.get_ref(1)?.as_str().unwrap_or_default(), &event.target) {
            let spec = script_jobs::spec(row.get_ref(3)?.as_str().unwrap_or_default())?;
            asking.push(Asking { script_id: row.get(0)?, last_version: row.get(2)?, spec });
        }
    }
    Ok(asking)
}

/// How many were told of it then. Another event of the same id is refused.
fn written_before(c: &Connection, event: &NewScriptEvent) -> Result<Option<u32>, StoreError> {
    let sql = "SELECT jobs, team_id = ?2 AND target = ?3 AND data = ?4 FROM script_event WHERE id = ?1";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    match c.prepare_cached(sql)?.query_row((&event.id, &event.team_id, &event.target, &event.data), read).optional()? {
        Some((jobs, true)) => Ok(Some(jobs)),
        Some((_, false)) => Err(StoreError::Exists { what: "another event of this id" }),
        None => Ok(None),
    }
}

const COLUMNS: &str = "id, team_id, target, data, depth, cause_run_id, subject, created_at_ms, jobs, note";

fn event(row: &Row<'_>) -> rusqlite::Result<ScriptEvent> {
    Ok(ScriptEvent {
        event: NewScriptEvent {
            id: row.get(0)?,
            team_id: row.get(1)?,
            target: row.get(2)?,
            data: row.get(3)?,
            depth: row.get(4)?,
            cause_run_id: row.get(5)?,
            subject: row.get(6)?,
            created_at_ms: row.get(7)?,
        },
        jobs: row.get(8)?,
        note: row.get(9)?,
    })
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
