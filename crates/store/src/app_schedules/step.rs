//! What becomes of due ticks: decided by what was read, and written if that is still so.

use rusqlite::Connection;
use sandbar_core::{
    app::{manifest::Schedule, run::RunCause, schedule},
    schedule::{ConcurrencyPolicy, Decision, State, decide},
};

use super::{AppScheduleRecord, AppStepped, Apps, rows};
use crate::{InsertedRun, NewAppRun, StoreError, app_runs::insert_run, schedules};

/// What is to become of the due ticks of a schedule that is still as it was seen. A decision about very many ticks takes a while,
/// and nobody who writes has to wait for it.
pub fn look(c: &Connection, seen: &AppScheduleRecord, now_ms: i64) -> Result<Option<Decision>, StoreError> {
    let c = &c.unchecked_transaction()?;
    let Some(next_tick_ms) = seen.next_tick_ms else { return Ok(None) };
    let spec = seen.spec()?;
    let accounted = schedules::accounted::<Apps>(c, &seen.id, next_tick_ms)?;
    let sql = "SELECT count(*) FILTER (WHERE status = 'queued'), count(*) FROM app_run WHERE schedule_id = ?1 AND schedule_id IS NOT NULL
        AND status IN ('queued', 'running') AND cancel_requested_at_ms IS NULL";
    let (waiting, unfinished): (usize, usize) = c.prepare_cached(sql)?.query_row([&seen.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let ticks = schedule::ticks(spec, seen.timed_at_ms).map_err(StoreError::Unfit)?;
    let state = State { id: &seen.id, ticks: &ticks, policy: &spec.policy, next_tick_ms, accounted: &accounted, busy: unfinished > 0, waiting, now_ms };
    let mut decision = decide(&state);
    schedule::cap(&mut decision, schedule::runs_left(spec, seen.execution_count));
    Ok(Some(decision))
}

/// Writes what was decided, and makes the runs.
pub fn step(c: &Connection, seen: &AppScheduleRecord, decision: &Decision, order: Result<&NewAppRun, &String>, now_ms: i64) -> Result<AppStepped, StoreError> {
    let mut stepped = AppStepped::default();
    let spec = seen.spec()?;
    if let Ok(order) = order {
        // A version that is gone meanwhile is no version to run: it is looked at again.
        let sql = "SELECT 1 FROM app_version WHERE app_id = ?1 AND number = ?2";
        if !c.prepare_cached(sql)?.exists((&seen.app_id, order.version))? {
            return Ok(stepped);
        }
    }
    let sql = "SELECT 1 FROM app_schedule WHERE id = ?1 AND generation = ?2";
    if !c.prepare_cached(sql)?.exists((&seen.id, seen.generation))? {
        // It was changed meanwhile, and is looked at again.
        return Ok(stepped);
    }
    if decision.replaces && order.is_ok() {
        let sql = "UPDATE app_run SET cancel_requested_at_ms = ?2 WHERE schedule_id = ?1 AND schedule_id IS NOT NULL AND status IN ('queued', 'running')
                AND cancel_requested_at_ms IS NULL";
        stepped.replaced = c.prepare_cached(sql)?.execute((&seen.id, now_ms))? > 0;
    }
    let mut last_run_id = seen.last_run_id.clone();
    for tick in &decision.ticks {
        let made = match order {
            Ok(order) if tick.fires => fire(c, seen, spec, order, tick.tick_ms, now_ms)?,
            Err(reason) if tick.fires => Err(reason.clone()),
            _ => Err(tick.reason.clone().unwrap_or_default()),
        };
        if schedules::keep::<Apps>(c, &seen.id, tick, made.as_deref().map_err(String::as_str), now_ms)? {
            stepped.fired += 1;
        } else {
            stepped.skipped += tick.count;
        }
        last_run_id = made.ok().or(last_run_id);
    }
    let execution_count = seen.execution_count + stepped.fired;
    let (lifecycle, lifecycle_reason) = match schedule::ended(spec, execution_count, decision.next) {
        Some((lifecycle, reason)) => (lifecycle, Some(reason)),
        None => (seen.lifecycle, seen.lifecycle_reason.clone()),
    };
    let (next_tick_ms, due_at_ms) = schedules::columns(decision.next);
    rows::update(c, AppScheduleRecord { lifecycle, lifecycle_reason, execution_count, last_run_id, next_tick_ms, due_at_ms, ..seen.clone() })?;
    Ok(stepped)
}

/// Makes the run of a tick; or says why there is none.
fn fire(c: &Connection, seen: &AppScheduleRecord, spec: &Schedule, order: &NewAppRun, tick_ms: i64, now_ms: i64) -> Result<Result<String, String>, StoreError> {
    let id = format!("{}.{tick_ms}", seen.id);
    if c.prepare_cached("SELECT 1 FROM app_run WHERE id = ?1")?.exists([&id])? {
        return Ok(Err("it fired before the clock was set back".to_owned()));
    }
    let run = NewAppRun {
        id: id.clone(),
        cause: RunCause::Schedule,
        schedule_id: Some(seen.id.clone()),
        tick_ms: Some(tick_ms),
        key: None,
        created_at_ms: now_ms,
        ..order.clone()
    };
    match insert_run(c, &run) {
        Ok(InsertedRun::Queued | InsertedRun::Skipped) => {}
        Ok(InsertedRun::Same { run_id } | InsertedRun::Other { run_id }) => return Ok(Err(format!("run {run_id} stands for it"))),
        Err(StoreError::TooMany { what, max }) => return Ok(Err(format!("there are {max} {what} already, which is the limit"))),
        Err(error) => return Err(error),
    }
    // Besides the group that its action may have.
    if spec.policy.concurrency_policy != ConcurrencyPolicy::Allow {
        c.prepare_cached("UPDATE app_run SET by_turns = 1 WHERE id = ?1")?.execute([&id])?;
    }
    Ok(Ok(id))
}
