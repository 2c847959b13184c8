//! Which runs begin next.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};
use sandbar_core::{
    limits,
    script::{ConcurrencyPolicy, Trigger},
};

use super::{COLUMNS, ScriptJob, job, spec};
use crate::{Store, StoreError};

/// What runs already: of each team and of each script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Busy {
    pub teams: HashMap<String, usize>,
    pub scripts: HashMap<String, usize>,
}

/// What was claimed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claimed {
    /// They run from now on, and this is an attempt.
    pub jobs: Vec<ScriptJob>,
    /// Not wanted any more: their script is gone or not active.
    pub dropped: usize,
    /// When the next one is due that is not yet.
    pub next_at_ms: Option<i64>,
}

/// Jobs that are dropped in one step.
const DROP_MAX: u32 = 1000;

impl Store {
    /// Takes due runs out of the queue, as many as may run beside the busy ones. Whose turn it is goes around the teams.
    pub async fn script_jobs_claim(&self, now_ms: i64, busy: Busy) -> Result<Claimed, StoreError> {
        self.engine.write("claim runs that are owed", move |c| claim(c, now_ms, &busy)).await
    }
}

fn claim(c: &Connection, now_ms: i64, busy: &Busy) -> Result<Claimed, StoreError> {
    let mut claimed = Claimed::default();
    let free = limits::SCRIPT_JOBS_AT_ONCE_MAX.saturating_sub(busy.teams.values().sum());
    if free == 0 {
        // When one ends it is looked again.
        return Ok(claimed);
    }
    let mut due: Vec<(i64, String, String)> = Vec::new();
    for script_id in waiting_scripts(c, now_ms)? {
        let max = match at_once(c, &script_id)? {
            Ok(max) => max,
            Err(reason) => {
                claimed.dropped += drop_waiting(c, &script_id, reason, now_ms)?;
                continue;
            }
        };
        let places = max.saturating_sub(busy.scripts.get(&script_id).copied().unwrap_or_default()).min(free);
        if places > 0 {
            let sql = "SELECT run_at_ms, team_id, id FROM script_job WHERE state = 'pending' AND script_id = ?1 AND run_at_ms <= ?2
                ORDER BY run_at_ms, id LIMIT ?3";
            let mut statement = c.prepare_cached(sql)?;
            let rows = statement.query_map((&script_id, now_ms, places), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            for row in rows {
                due.push(row?);
            }
        }
    }
    for id in around_the_teams(due, busy).into_iter().take(free) {
        let sql = format!("UPDATE script_job SET state = 'running', attempts = attempts + 1 WHERE id = ?1 AND state = 'pending' RETURNING {COLUMNS}");
        claimed.jobs.extend(c.prepare_cached(&sql)?.query_row([id], job).optional()?);
    }
    let sql = "SELECT min(run_at_ms) FROM script_job WHERE state = 'pending' AND run_at_ms > ?1";
    claimed.next_at_ms = c.prepare_cached(sql)?.query_row([now_ms], |row| row.get(0))?;
    Ok(claimed)
}

/// The first of each team, then the second of each, and so on, counting those that run; within a team the oldest first.
fn around_the_teams(mut due: Vec<(i64, String, String)>, busy: &Busy) -> Vec<String> {
    due.sort_unstable();
    let mut turns: HashMap<String, usize> = busy.teams.clone();
    let mut ranked: Vec<(usize, i64, String)> = Vec::with_capacity(due.len());
    for (run_at_ms, team_id, id) in due {
        let turn = turns.entry(team_id).or_default();
        if *turn < limits::SCRIPT_JOBS_AT_ONCE_PER_TEAM_MAX {
            ranked.push((*turn, run_at_ms, id));
        }
        *turn += 1;
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, id)| id).collect()
}

/// Scripts that anything is due of, by stepping from one to the next in the index.
fn waiting_scripts(c: &Connection, now_ms: i64) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT script_id, run_at_ms FROM script_job WHERE state = 'pending' AND script_id > ?1 ORDER BY script_id, run_at_ms LIMIT 1";
    let mut statement = c.prepare_cached(sql)?;
    let (mut found, mut last) = (Vec::new(), String::new());
    while let Some((next, first_ms)) = statement.query_row([&last], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).optional()? {
        if first_ms <= now_ms {
            found.push(next.clone());
        }
        last = next;
    }
    Ok(found)
}

/// How many of a script may run at once, or why none runs any more.
fn at_once(c: &Connection, script_id: &str) -> Result<Result<usize, &'static str>, StoreError> {
    let sql = "SELECT trigger, active, doc FROM script WHERE id = ?1";
    let mut statement = c.prepare_cached(sql)?;
    let mut rows = statement.query([script_id])?;
    let Some(row) = rows.next()? else { return Ok(Err("its function was deleted")) };
    if !row.get::<_, bool>(1)? {
        return Ok(Err("its function is not active"));
    }
    let spec = spec(row.get_ref(2)?.as_str().unwrap_or_default())?;
    // Runs of a schedule never overlap, unless that is asked for.
    if row.get_ref(0)?.as_str().ok().and_then(Trigger::named) == Some(Trigger::Cron) && spec.schedule.concurrency_policy != ConcurrencyPolicy::Allow {
        return Ok(Ok(1));
    }
    Ok(Ok(spec.concurrency.unwrap_or(limits::SCRIPT_CONCURRENCY_DEFAULT).max(1) as usize))
}

fn drop_waiting(c: &Connection, script_id: &str, reason: &str, now_ms: i64) -> Result<usize, StoreError> {
    let sql = "UPDATE script_job SET state = 'dropped', last_error = ?2, finished_at_ms = ?3, input = 'null', bytes = 0 WHERE id IN
        (SELECT id FROM script_job WHERE state = 'pending' AND script_id = ?1 LIMIT ?4)";
    Ok(c.prepare_cached(sql)?.execute((script_id, reason, now_ms, DROP_MAX))?)
}
