//! Schedules of scripts and their ticks. What becomes of a tick, the run that it makes, and the next tick are one commit: so
//! none fires twice, and none is lost.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{
    limits,
    schedule::{self, Decision, Next, State, Tick, cron},
    script::{self, ScriptSpec, Trigger},
};

use crate::{
    JobKind, JobState, ScriptJob, ScriptRecord, Store, StoreError,
    schedules::{self, Became, Kind},
    script_jobs::{self, SYSTEM, live_version, spec},
};

/// When a script runs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptSchedule {
    pub script_id: String,
    pub next_tick_ms: Option<i64>,
    /// The same with its jitter.
    pub due_at_ms: Option<i64>,
}

/// What became of a tick, or of several skipped ones in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptTick {
    pub tick: Tick,
    pub decided_at_ms: i64,
    pub job_id: Option<String>,
}

/// What came of looking at a schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stepped {
    pub fired: u64,
    pub skipped: u64,
    /// Jobs that are not wanted any more, and may be running.
    pub replaced: Vec<String>,
}

/// What a decision goes by.
struct Seen {
    team_id: String,
    pattern: String,
    timezone: String,
    next_tick_ms: i64,
    last_version: u32,
    spec: ScriptSpec,
    decision: Decision,
}

impl Store {
    /// When a script runs next, if it has a schedule.
    pub async fn script_schedule_get(&self, script_id: &str) -> Result<Option<ScriptSchedule>, StoreError> {
        let id = script_id.to_owned();
        self.engine
            .read("read a schedule", move |c| {
                let sql = "SELECT next_tick_ms, due_at_ms FROM script_schedule WHERE script_id = ?1";
                let read = |row: &Row<'_>| Ok(ScriptSchedule { script_id: id.clone(), next_tick_ms: row.get(0)?, due_at_ms: row.get(1)? });
                Ok(c.prepare_cached(sql)?.query_row([&id], read).optional()?)
            })
            .await
    }

    /// Scripts whose next tick is due: of each team the longest due first, then of each the second, and so on; and when the first after these is.
    pub async fn script_schedules_due(&self, now_ms: i64, limit: u32) -> Result<(Vec<String>, Option<i64>), StoreError> {
        self.engine
            .read("look for due schedules", move |c| {
                let sql = "SELECT script_id FROM (SELECT script_id, due_at_ms, row_number() OVER (PARTITION BY team_id ORDER BY due_at_ms) AS nth
                    FROM script_schedule WHERE due_at_ms <= ?1) ORDER BY nth, due_at_ms LIMIT ?2";
                let mut statement = c.prepare_cached(sql)?;
                let due = statement.query_map((now_ms, limit), |row| row.get(0))?.collect::<Result<_, _>>()?;
                let next = c.prepare_cached("SELECT min(due_at_ms) FROM script_schedule WHERE due_at_ms > ?1")?.query_row([now_ms], |row| row.get(0))?;
                Ok((due, next))
            })
            .await
    }

    /// Decides about the due ticks of a script, and makes the runs that are to be.
    pub async fn script_schedule_step(&self, script_id: &str, now_ms: i64) -> Result<Stepped, StoreError> {
        let id = script_id.to_owned();
        let Some(seen) = self.engine.read("look at a schedule", move |c| look(c, &id, now_ms)).await? else { return Ok(Stepped::default()) };
        let id = script_id.to_owned();
        self.engine.write("fire a schedule", move |c| step(c, &id, &seen, now_ms)).await
    }

    /// After the clock was set back: next ticks that are further away than they should be come sooner. Those that something was
    /// decided about stay decided.
    pub async fn script_schedules_rewind(&self, now_ms: i64) -> Result<usize, StoreError> {
        schedules::rewind::<Scripts>(&self.engine, now_ms).await
    }

    /// What became of the ticks of a script, the newest first: those before a moment.
    pub async fn script_ticks_list(&self, script_id: &str, before_ms: Option<i64>, limit: u32) -> Result<Vec<ScriptTick>, StoreError> {
        let became = schedules::ticks::<Scripts>(&self.engine, script_id, before_ms, limit).await?;
        Ok(became.into_iter().map(|Became { tick, decided_at_ms, made }| ScriptTick { tick, decided_at_ms, job_id: made }).collect())
    }

    /// Forgets the oldest ticks of schedules that have too many, at most `max` of each. Returns how many.
    pub async fn script_ticks_prune(&self, max: u32) -> Result<usize, StoreError> {
        schedules::prune::<Scripts>(&self.engine, max).await
    }
}

/// Schedules of scripts.
struct Scripts;

/// A schedule that comes sooner by the clock of now.
struct Astray {
    script_id: String,
    pattern: String,
    timezone: String,
    planned_ms: Option<i64>,
    next: Next,
}

impl Kind for Scripts {
    const TICKS: &'static str = "script_tick";
    const SCHEDULE: &'static str = "script_id";
    const MADE: &'static str = "job_id";
    const TICKS_KEPT_MAX: usize = limits::SCRIPT_TICKS_KEPT_MAX;
    type Astray = Astray;

    fn astray(c: &Connection, now_ms: i64) -> Result<Vec<Astray>, StoreError> {
        let sql = "SELECT p.script_id, p.pattern, p.timezone, p.next_tick_ms, s.doc FROM script_schedule p JOIN script s ON s.id = p.script_id";
        let mut statement = c.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let mut astray = Vec::new();
        while let Some(row) = rows.next()? {
            let (script_id, pattern, timezone): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let planned_ms: Option<i64> = row.get(3)?;
            let (Ok(cron), Ok(spec)) = (parse(&pattern, &timezone), spec(row.get_ref(4)?.as_str().unwrap_or_default())) else { continue };
            let next = schedule::next(&script_id, &cron, &spec.schedule, now_ms);
            if let Some(next) = next.filter(|next| planned_ms.is_none_or(|planned_ms| planned_ms > next.tick_ms)) {
                astray.push(Astray { script_id, pattern, timezone, planned_ms, next });
            }
        }
        Ok(astray)
    }

    fn set_back(c: &Connection, astray: &Astray, now_ms: i64) -> Result<usize, StoreError> {
        let sql = "UPDATE script_schedule SET next_tick_ms = ?5, due_at_ms = ?6, updated_at_ms = ?7
            WHERE script_id = ?1 AND pattern = ?2 AND timezone = ?3 AND next_tick_ms IS ?4";
        let Astray { script_id, pattern, timezone, planned_ms, next } = astray;
        Ok(c.prepare_cached(sql)?.execute((script_id, pattern, timezone, planned_ms, next.tick_ms, next.due_at_ms, now_ms))?)
    }
}

/// Makes the schedule of a script what its record says, in the transaction that writes the record. One that stays the same
/// keeps its next tick; one that is new, or another, begins now.
pub(crate) fn sync_schedule(c: &Connection, script: &ScriptRecord, now_ms: i64) -> Result<(), StoreError> {
    let pattern = script.pattern.as_ref().filter(|_| script.trigger == Trigger::Cron && script.active);
    let Some(pattern) = pattern else {
        c.prepare_cached("DELETE FROM script_schedule WHERE script_id = ?1")?.execute([&script.id])?;
        return Ok(());
    };
    let policy = &script.spec.schedule;
    let cron = parse(pattern, &policy.timezone)?;
    if cron.is_by_seconds() {
        check_by_seconds(c, script)?;
    }
    let next = schedule::next(&script.id, &cron, policy, now_ms);
    let sql = "INSERT INTO script_schedule (script_id, team_id, pattern, timezone, next_tick_ms, due_at_ms, updated_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
        ON CONFLICT (script_id) DO UPDATE SET pattern = excluded.pattern, timezone = excluded.timezone, next_tick_ms = excluded.next_tick_ms,
            due_at_ms = excluded.due_at_ms, updated_at_ms = excluded.updated_at_ms
        WHERE pattern <> excluded.pattern OR timezone <> excluded.timezone";
    let (tick_ms, due_at_ms) = schedules::columns(next);
    c.prepare_cached(sql)?.execute((&script.id, &script.team_id, pattern, &policy.timezone, tick_ms, due_at_ms, now_ms))?;
    Ok(())
}

/// Refuses one more schedule that comes more often than once a minute, where a team has enough of them: each tick is a commit.
fn check_by_seconds(c: &Connection, script: &ScriptRecord) -> Result<(), StoreError> {
    let sql = "SELECT pattern, timezone FROM script_schedule WHERE team_id = ?1 AND script_id <> ?2";
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map((&script.team_id, &script.id), |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut others = 0;
    for row in rows {
        let (pattern, timezone) = row?;
        others += usize::from(parse(&pattern, &timezone).is_ok_and(|cron| cron.is_by_seconds()));
    }
    let max = limits::SCRIPT_SCHEDULES_BY_SECONDS_MAX;
    if others >= max { Err(StoreError::TooMany { what: "active schedules of this team that come more often than once a minute", max }) } else { Ok(()) }
}

fn parse(pattern: &str, timezone: &str) -> Result<cron::Schedule, StoreError> {
    cron::Schedule::parse(pattern, timezone).map_err(|e| StoreError::corrupt("schedule", &e))
}

/// What is to become of the due ticks; none without a schedule. A decision about very many ticks takes a while, and nobody
/// who writes has to wait for it.
fn look(c: &Connection, script_id: &str, now_ms: i64) -> Result<Option<Seen>, StoreError> {
    let c = &c.unchecked_transaction()?;
    let sql = "SELECT p.team_id, p.pattern, p.timezone, p.next_tick_ms, s.last_version, s.doc FROM script_schedule p JOIN script s ON s.id = p.script_id
        WHERE p.script_id = ?1 AND p.next_tick_ms IS NOT NULL";
    type Found = (String, String, String, i64, u32, String);
    let read = |row: &Row<'_>| -> rusqlite::Result<Found> { Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)) };
    let found = c.prepare_cached(sql)?.query_row([script_id], read).optional()?;
    let Some((team_id, pattern, timezone, next_tick_ms, last_version, doc)) = found else { return Ok(None) };
    let accounted = schedules::accounted::<Scripts>(c, script_id, next_tick_ms)?;
    let count = |state: JobState| -> Result<usize, StoreError> {
        let sql = match state {
            JobState::Pending => "SELECT count(*) FROM script_job WHERE script_id = ?1 AND state = 'pending' AND kind = 'cron'",
            _ => "SELECT count(*) FROM script_job WHERE script_id = ?1 AND state = 'running' AND kind = 'cron'",
        };
        Ok(c.prepare_cached(sql)?.query_row([script_id], |row| row.get(0))?)
    };
    let (waiting, running) = (count(JobState::Pending)?, count(JobState::Running)?);
    let (cron, spec) = (parse(&pattern, &timezone)?, spec(&doc)?);
    let busy = waiting + running > 0;
    let state = State { id: script_id, ticks: &cron, policy: &spec.schedule, next_tick_ms, accounted: &accounted, busy, waiting, now_ms };
    let decision = schedule::decide(&state);
    Ok(Some(Seen { team_id, pattern, timezone, next_tick_ms, last_version, spec, decision }))
}

fn step(c: &Connection, script_id: &str, seen: &Seen, now_ms: i64) -> Result<Stepped, StoreError> {
    let mut stepped = Stepped::default();
    let (tick_ms, due_at_ms) = schedules::columns(seen.decision.next);
    let sql = "UPDATE script_schedule SET next_tick_ms = ?5, due_at_ms = ?6, updated_at_ms = ?7
        WHERE script_id = ?1 AND pattern = ?2 AND timezone = ?3 AND next_tick_ms = ?4";
    let row = (script_id, &seen.pattern, &seen.timezone, seen.next_tick_ms, tick_ms, due_at_ms, now_ms);
    if c.prepare_cached(sql)?.execute(row)? == 0 {
        // It was changed meanwhile, and is looked at again.
        return Ok(stepped);
    }
    if seen.decision.replaces {
        let sql = "UPDATE script_job SET state = 'dropped', last_error = 'a later tick replaced it', finished_at_ms = ?2, input = 'null', bytes = 0
            WHERE script_id = ?1 AND kind = 'cron' AND state IN ('pending', 'running') RETURNING id";
        stepped.replaced = c.prepare_cached(sql)?.query_map((script_id, now_ms), |row| row.get(0))?.collect::<Result<_, _>>()?;
    }
    for tick in &seen.decision.ticks {
        let made = if tick.fires { fire(c, script_id, seen, tick.tick_ms, now_ms)? } else { Err(tick.reason.clone().unwrap_or_default()) };
        if schedules::keep::<Scripts>(c, script_id, tick, made.as_deref().map_err(String::as_str), now_ms)? {
            stepped.fired += 1;
        } else {
            stepped.skipped += tick.count;
        }
    }
    Ok(stepped)
}

/// Makes the run of a tick; or says why there is none.
fn fire(c: &Connection, script_id: &str, seen: &Seen, tick_ms: i64, now_ms: i64) -> Result<Result<String, String>, StoreError> {
    let input = script::tick_input(&seen.pattern, tick_ms, now_ms);
    match script_jobs::check_room(c, &seen.team_id, 1, input.len()) {
        Err(StoreError::TooMany { what, max }) => return Ok(Err(format!("there are {max} {what} already, which is the limit"))),
        checked => checked?,
    }
    let source = tick_ms.to_string();
    let job = ScriptJob {
        id: format!("{script_id}.{tick_ms}"),
        team_id: seen.team_id.clone(),
        script_id: script_id.to_owned(),
        version: live_version(c, script_id, seen.last_version, &source)?,
        kind: JobKind::Cron,
        source,
        state: JobState::Pending,
        run_at_ms: now_ms,
        attempts: 0,
        interruptions: 0,
        give_up_at_ms: now_ms.saturating_add(i64::from(seen.spec.retry.max_age_seconds) * 1000),
        depth: 0,
        input,
        subject: SYSTEM.to_owned(),
        last_run_id: None,
        last_error: None,
        created_at_ms: now_ms,
        finished_at_ms: None,
    };
    // There can only be one already if its tick was forgotten and the clock set back far since.
    Ok(if script_jobs::insert(c, &job)? { Ok(job.id) } else { Err("it fired before the clock was set back".to_owned()) })
}
