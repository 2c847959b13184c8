//! The rows of schedules.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{
    app::{
        RunStatus,
        manifest::Schedule,
        schedule::{Keeper, Lifecycle},
    },
    limits::app_schedules as limits,
};

use super::{AppLastRun, AppScheduleRecord};
use crate::{StoreError, error::taken};

pub const COLUMNS: &str =
    "id, team_id, app_id, name, source, enabled, lifecycle, lifecycle_reason, spec, execution_count, last_run_id, next_tick_ms, due_at_ms,
    timed_at_ms, created_at_ms, updated_at_ms, generation";

pub fn of_app(c: &Connection, app_id: &str) -> Result<Vec<AppScheduleRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM app_schedule WHERE app_id = ?1 AND lifecycle <> 'deleted' ORDER BY name");
    let mut statement = c.prepare_cached(&sql)?;
    let rows = statement.query_map([app_id], record)?;
    rows.map(|row| Ok(row?)).collect()
}

pub fn find(c: &Connection, id: &str) -> Result<Option<AppScheduleRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM app_schedule WHERE id = ?1");
    Ok(c.prepare_cached(&sql)?.query_row([id], record).optional()?)
}

pub fn last_runs(c: &Connection, app_id: &str) -> Result<BTreeMap<String, AppLastRun>, StoreError> {
    // Several ticks may have made runs at once.
    let sql = "SELECT s.id, r.id, r.status, r.created_at_ms FROM app_schedule s JOIN app_run r ON r.id =
        (SELECT id FROM app_run WHERE schedule_id = s.id AND schedule_id IS NOT NULL ORDER BY created_at_ms DESC, tick_ms DESC, id DESC LIMIT 1)
        WHERE s.app_id = ?1 AND s.lifecycle <> 'deleted'";
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map([app_id], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?, row.get(3)?)))?;
    let mut last = BTreeMap::new();
    for row in rows {
        let (schedule_id, run_id, status, created_at_ms) = row?;
        let status = RunStatus::named(&status).ok_or_else(|| StoreError::corrupt("run", &status))?;
        last.insert(schedule_id, AppLastRun { run_id, status, created_at_ms });
    }
    Ok(last)
}

/// Stores a new one. An app may have a limited number.
pub fn insert(c: &Connection, schedule: &AppScheduleRecord) -> Result<(), StoreError> {
    let sql = "SELECT count(*), coalesce(sum(name = ?2), 0) FROM app_schedule WHERE app_id = ?1 AND lifecycle <> 'deleted'";
    let (count, same): (usize, usize) = c.prepare_cached(sql)?.query_row((&schedule.app_id, &schedule.name), |row| Ok((row.get(0)?, row.get(1)?)))?;
    if same > 0 {
        return Err(StoreError::Exists { what: "schedule" });
    }
    if count >= limits::APP_SCHEDULES_PER_APP_MAX {
        return Err(StoreError::TooMany { what: "schedules of this app", max: limits::APP_SCHEDULES_PER_APP_MAX });
    }
    let sql = format!("INSERT INTO app_schedule ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)");
    c.prepare_cached(&sql)?.execute(rusqlite::params![
        schedule.id,
        schedule.team_id,
        schedule.app_id,
        schedule.name,
        schedule.keeper.as_str(),
        schedule.enabled,
        schedule.lifecycle.as_str(),
        schedule.lifecycle_reason,
        schedule.spec.as_ref().map(text).transpose()?,
        schedule.execution_count as i64,
        schedule.last_run_id,
        schedule.next_tick_ms,
        schedule.due_at_ms,
        schedule.timed_at_ms,
        schedule.created_at_ms,
        schedule.updated_at_ms,
        schedule.generation,
    ])?;
    Ok(())
}

/// Writes what was changed of one of the generation that was seen. One that cannot be read keeps what is stored of it.
pub fn update(c: &Connection, schedule: AppScheduleRecord) -> Result<AppScheduleRecord, StoreError> {
    let due = schedule.due_at_ms.filter(|_| schedule.lifecycle == Lifecycle::Active && schedule.enabled);
    let next = schedule.next_tick_ms.filter(|_| due.is_some());
    let sql = "UPDATE app_schedule SET name = ?3, source = ?4, enabled = ?5, lifecycle = ?6, lifecycle_reason = ?7, spec = coalesce(?8, spec), execution_count = ?9, last_run_id = ?10,
        next_tick_ms = ?11, due_at_ms = ?12, timed_at_ms = ?13, updated_at_ms = ?14, generation = generation + 1 WHERE id = ?1 AND generation = ?2";
    let changed = c.prepare_cached(sql)?.execute(rusqlite::params![
        schedule.id,
        schedule.generation,
        schedule.name,
        schedule.keeper.as_str(),
        schedule.enabled,
        schedule.lifecycle.as_str(),
        schedule.lifecycle_reason,
        schedule.spec.as_ref().map(text).transpose()?,
        schedule.execution_count as i64,
        schedule.last_run_id,
        next,
        due,
        schedule.timed_at_ms,
        schedule.updated_at_ms,
    ]);
    // Another has its name.
    match changed.map_err(taken("schedule"))? {
        0 => Err(StoreError::Stale { what: "schedule", id: schedule.id }),
        _ => Ok(AppScheduleRecord { next_tick_ms: next, due_at_ms: due, generation: schedule.generation + 1, ..schedule }),
    }
}

fn text(spec: &Schedule) -> Result<String, StoreError> {
    serde_json::to_string(spec).map_err(|e| StoreError::corrupt("schedule", &e))
}

/// What of a row cannot be read is no reason to read none of the others: then there is no specification, and the reason says so.
pub fn record(row: &Row<'_>) -> rusqlite::Result<AppScheduleRecord> {
    let text = |column: usize| row.get::<_, String>(column);
    let (keeper, lifecycle, spec) = (text(4)?, text(6)?, text(8)?);
    let read = || -> Result<(Keeper, Lifecycle, Schedule), String> {
        let unknown = |column: &str, text: &str| format!("{column} is {text:?}");
        Ok((
            Keeper::named(&keeper).ok_or_else(|| unknown("source", &keeper))?,
            Lifecycle::named(&lifecycle).ok_or_else(|| unknown("lifecycle", &lifecycle))?,
            serde_json::from_str(&spec).map_err(|error| error.to_string())?,
        ))
    };
    let (keeper, lifecycle, spec, unreadable) = match read() {
        Ok((keeper, lifecycle, spec)) => (keeper, lifecycle, Some(spec), None),
        Err(why) => (Keeper::named(&keeper).unwrap_or(Keeper::Api), Lifecycle::Failed, None, Some(format!("what is stored of it cannot be read: {why}"))),
    };
    Ok(AppScheduleRecord {
        id: row.get(0)?,
        team_id: row.get(1)?,
        app_id: row.get(2)?,
        name: row.get(3)?,
        keeper,
        enabled: row.get(5)?,
        lifecycle,
        lifecycle_reason: unreadable.or(row.get(7)?),
        spec,
        execution_count: row.get::<_, i64>(9)?.max(0) as u64,
        last_run_id: row.get(10)?,
        next_tick_ms: row.get(11)?,
        due_at_ms: row.get(12)?,
        timed_at_ms: row.get(13)?,
        created_at_ms: row.get(14)?,
        updated_at_ms: row.get(15)?,
        generation: row.get(16)?,
    })
}
