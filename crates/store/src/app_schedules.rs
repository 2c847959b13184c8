//! Schedules of apps and their ticks. What becomes of a tick, the run that it makes, and the next tick are one commit: so none
//! fires twice, and none is lost.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{
    app::{
        manifest::{Manifest, Schedule},
        run::{Group, RunCause},
        schedule::{self, Keeper, Lifecycle},
    },
    limits::app_schedules as limits,
    schedule::{ConcurrencyPolicy, Decision, Next, State, Tick, decide, next},
};

use crate::{InsertedRun, NewAppRun, Store, StoreError, app_runs::insert_run};

/// A schedule's row.
#[derive(Debug, Clone, PartialEq)]
pub struct AppScheduleRecord {
    pub id: String,
    pub team_id: String,
    pub app_id: String,
    pub name: String,
    pub keeper: Keeper,
    pub enabled: bool,
    pub lifecycle: Lifecycle,
    pub lifecycle_reason: Option<String>,
    pub spec: Schedule,
    /// Runs that its ticks made.
    pub execution_count: u64,
    pub last_run_id: Option<String>,
    pub next_tick_ms: Option<i64>,
    /// The same with its jitter.
    pub due_at_ms: Option<i64>,
    /// When it was made, or made to come at other times.
    pub timed_at_ms: i64,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    pub generation: i64,
}

/// What became of a tick, or of several skipped ones in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppTick {
    pub tick: Tick,
    pub decided_at_ms: i64,
    pub run_id: Option<String>,
}

/// What came of looking at a schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppStepped {
    pub fired: u64,
    pub skipped: u64,
    /// Runs were told to end.
    pub replaced: bool,
}

const COLUMNS: &str = "id, team_id, app_id, name, source, enabled, lifecycle, lifecycle_reason, spec, execution_count, last_run_id, next_tick_ms, due_at_ms,
    timed_at_ms, created_at_ms, updated_at_ms, generation";

impl Store {
    /// The schedules of an app by name, without those that are gone.
    pub async fn app_schedules_list(&self, app_id: &str) -> Result<Vec<AppScheduleRecord>, StoreError> {
        let app_id = app_id.to_owned();
        self.engine.read("list schedules", move |c| of_app(c, &app_id)).await
    }

    /// A schedule of whatever app, also one that is gone.
    pub async fn app_schedule_get(&self, id: &str) -> Result<Option<AppScheduleRecord>, StoreError> {
        let id = id.to_owned();
        self.engine.read("read a schedule", move |c| find(c, &id)).await
    }

    /// Makes a schedule that a client keeps.
    pub async fn app_schedule_insert(&self, schedule: AppScheduleRecord) -> Result<AppScheduleRecord, StoreError> {
        self.engine
            .write("make a schedule", move |c| {
                insert(c, &schedule)?;
                Ok(schedule)
            })
            .await
    }

    /// Writes what a client changed of a schedule of the generation that it saw.
    pub async fn app_schedule_update(&self, schedule: AppScheduleRecord) -> Result<AppScheduleRecord, StoreError> {
        self.engine.write("change a schedule", move |c| update(c, schedule)).await
    }

    /// Schedules whose next tick is due: of each team the longest due first, then of each the second, and so on; and when the first
    /// after these is.
    pub async fn app_schedules_due(&self, now_ms: i64, limit: u32) -> Result<(Vec<AppScheduleRecord>, Option<i64>), StoreError> {
        self.engine
            .read("look for due schedules", move |c| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM (SELECT *, row_number() OVER (PARTITION BY team_id ORDER BY due_at_ms) AS nth
                        FROM app_schedule WHERE due_at_ms <= ?1) ORDER BY nth, due_at_ms LIMIT ?2"
                );
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map((now_ms, limit), |row| Ok(record(row)))?;
                let due = rows.map(|row| row?).collect::<Result<_, _>>()?;
                let next = c.prepare_cached("SELECT min(due_at_ms) FROM app_schedule WHERE due_at_ms > ?1")?.query_row([now_ms], |row| row.get(0))?;
                Ok((due, next))
            })
            .await
    }

    /// Decides about the due ticks of a schedule, and makes the runs that are to be; or says of each why there is none.
    pub async fn app_schedule_step(&self, schedule: AppScheduleRecord, order: Result<NewAppRun, String>, now_ms: i64) -> Result<AppStepped, StoreError> {
        let seen = schedule.clone();
        let Some(decision) = self.engine.read("look at a schedule", move |c| look(c, &seen, now_ms)).await? else { return Ok(AppStepped::default()) };
        self.engine.write("fire a schedule", move |c| step(c, &schedule, &decision, order.as_ref(), now_ms)).await
    }

    /// Ends a schedule that cannot be read or carried out by any server.
    pub async fn app_schedule_failed(&self, id: &str, reason: &str, now_ms: i64) -> Result<(), StoreError> {
        let (id, reason) = (id.to_owned(), reason.to_owned());
        self.engine
            .write("end a schedule", move |c| {
                let sql = "UPDATE app_schedule SET lifecycle = 'failed', lifecycle_reason = ?2, next_tick_ms = NULL, due_at_ms = NULL, updated_at_ms = ?3,
                    generation = generation + 1 WHERE id = ?1 AND lifecycle = 'active'";
                c.prepare_cached(sql)?.execute((id, reason, now_ms))?;
                Ok(())
            })
            .await
    }

    /// After the clock was set back: next ticks that are further away than they should be come sooner. Those that something was
    /// decided about stay decided.
    pub async fn app_schedules_rewind(&self, now_ms: i64) -> Result<usize, StoreError> {
        self.engine
            .write("set schedules back", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM app_schedule WHERE lifecycle = 'active' AND enabled");
                let mut statement = c.prepare_cached(&sql)?;
                let mut rows = statement.query([])?;
                let mut moved = 0;
                while let Some(row) = rows.next()? {
                    // One that cannot be read keeps no other from being set back.
                    let Ok(found) = record(row) else { continue };
                    let Ok(ticks) = schedule::ticks(&found.spec, found.timed_at_ms) else { continue };
                    let Some(next) = next(&found.id, &ticks, &found.spec.policy, now_ms) else { continue };
                    if found.next_tick_ms.is_none_or(|planned| planned > next.tick_ms) {
                        let sql = "UPDATE app_schedule SET next_tick_ms = ?2, due_at_ms = ?3, updated_at_ms = ?4, generation = generation + 1 WHERE id = ?1";
                        moved += c.prepare_cached(sql)?.execute((found.id, next.tick_ms, next.due_at_ms, now_ms))?;
                    }
                }
                Ok(moved)
            })
            .await
    }

    /// What became of the ticks of a schedule, the newest first: those before a moment.
    pub async fn app_ticks_list(&self, schedule_id: &str, before_ms: Option<i64>, limit: u32) -> Result<Vec<AppTick>, StoreError> {
        let id = schedule_id.to_owned();
        self.engine
            .read("list ticks", move |c| {
                let sql = "SELECT tick_ms, outcome, reason, first_tick_ms, count, decided_at_ms, run_id FROM app_tick
                    WHERE schedule_id = ?1 AND tick_ms < ?2 ORDER BY tick_ms DESC LIMIT ?3";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map((id, before_ms.unwrap_or(i64::MAX), limit), tick)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Forgets the oldest ticks of schedules that have too many, and the oldest schedules that are gone. Returns how many rows.
    pub async fn app_schedules_prune(&self, max: u32) -> Result<usize, StoreError> {
        self.engine
            .write("forget ticks", move |c| {
                let sql = "DELETE FROM app_tick WHERE (schedule_id, tick_ms) IN (SELECT schedule_id, tick_ms FROM
                    (SELECT schedule_id, tick_ms, row_number() OVER (PARTITION BY schedule_id ORDER BY tick_ms DESC) AS nth FROM app_tick)
                    WHERE nth > ?1 LIMIT ?2)";
                let ticks = c.prepare_cached(sql)?.execute((limits::APP_TICKS_KEPT_MAX, max))?;
                let sql = "DELETE FROM app_schedule WHERE id IN (SELECT id FROM
                    (SELECT id, row_number() OVER (PARTITION BY app_id ORDER BY updated_at_ms DESC) AS nth FROM app_schedule WHERE lifecycle = 'deleted')
                    WHERE nth > ?1 LIMIT ?2)";
                Ok(ticks + c.prepare_cached(sql)?.execute((limits::APP_SCHEDULES_GONE_KEPT_MAX, max))?)
            })
            .await
    }
}

/// Makes the schedules of an app what the manifest of its live version says, in the transaction that makes it live. One that stays
/// the same keeps its next tick; one of the same name that a client kept is the manifest's from then on.
pub(crate) fn reconcile(c: &Connection, team_id: &str, app_id: &str, manifest: &str, now_ms: i64) -> Result<(), StoreError> {
    let manifest: Manifest = serde_json::from_str(manifest).map_err(|e| StoreError::corrupt("manifest", &e))?;
    let there = of_app(c, app_id)?;
    for old in there.iter().filter(|old| old.keeper == Keeper::Manifest && !manifest.schedules.iter().any(|spec| spec.name == old.name)) {
        let reason = Some("the manifest does not name it any more".to_owned());
        update(c, AppScheduleRecord { lifecycle: Lifecycle::Deleted, lifecycle_reason: reason, updated_at_ms: now_ms, ..old.clone() })?;
    }
    for spec in manifest.schedules {
        match there.iter().find(|old| old.name == spec.name) {
            Some(old) if old.keeper == Keeper::Manifest && old.spec == spec => {}
            Some(old) => {
                let again = AppScheduleRecord { keeper: Keeper::Manifest, updated_at_ms: now_ms, ..retimed(old.clone(), spec, now_ms)? };
                update(c, again)?;
            }
            None => {
                let id = c.prepare_cached("SELECT lower(hex(randomblob(16)))")?.query_row([], |row| row.get(0))?;
                insert(c, &fresh(id, team_id, app_id, Keeper::Manifest, spec, now_ms)?)?;
            }
        }
    }
    Ok(())
}

/// A schedule that begins now.
pub fn fresh(id: String, team_id: &str, app_id: &str, keeper: Keeper, spec: Schedule, now_ms: i64) -> Result<AppScheduleRecord, StoreError> {
    let record = AppScheduleRecord {
        id,
        team_id: team_id.to_owned(),
        app_id: app_id.to_owned(),
        name: spec.name.clone(),
        keeper,
        enabled: spec.enabled,
        lifecycle: Lifecycle::Active,
        lifecycle_reason: None,
        spec,
        execution_count: 0,
        last_run_id: None,
        next_tick_ms: None,
        due_at_ms: None,
        timed_at_ms: now_ms,
        created_at_ms: now_ms,
        updated_at_ms: now_ms,
        generation: 1,
    };
    let spec = record.spec.clone();
    begun(record, spec, now_ms)
}

/// A schedule with another specification. Where it comes at the same times as before, its next tick stays; else it begins now.
pub fn retimed(old: AppScheduleRecord, spec: Schedule, now_ms: i64) -> Result<AppScheduleRecord, StoreError> {
    let stays = schedule::is_same_time(&old.spec, &spec) && old.lifecycle == Lifecycle::Active && old.enabled && spec.enabled;
    if stays && schedule::runs_left(&spec, old.execution_count) != Some(0) {
        return Ok(AppScheduleRecord { spec, ..old });
    }
    begun(old, spec, now_ms)
}

fn begun(old: AppScheduleRecord, spec: Schedule, now_ms: i64) -> Result<AppScheduleRecord, StoreError> {
    let next = schedule::first(&old.id, &spec, now_ms).map_err(StoreError::Unfit)?;
    let (lifecycle, lifecycle_reason) = match schedule::ended(&spec, old.execution_count, next) {
        Some((lifecycle, reason)) => (lifecycle, Some(reason)),
        None => (Lifecycle::Active, None),
    };
    let next = next.filter(|_| lifecycle == Lifecycle::Active && spec.enabled);
    let (next_tick_ms, due_at_ms) = next.map(|next| (next.tick_ms, next.due_at_ms)).unzip();
    Ok(AppScheduleRecord { enabled: spec.enabled, lifecycle, lifecycle_reason, spec, next_tick_ms, due_at_ms, timed_at_ms: now_ms, ..old })
}

/// What is to become of the due ticks of a schedule that is still as it was seen. A decision about very many ticks takes a while,
/// and nobody who writes has to wait for it.
fn look(c: &Connection, seen: &AppScheduleRecord, now_ms: i64) -> Result<Option<Decision>, StoreError> {
    let c = c.unchecked_transaction()?;
    let Some(next_tick_ms) = seen.next_tick_ms else { return Ok(None) };
    let mut statement = c.prepare_cached("SELECT first_tick_ms, tick_ms FROM app_tick WHERE schedule_id = ?1 AND tick_ms >= ?2 ORDER BY tick_ms")?;
    let accounted: Vec<(i64, i64)> = statement.query_map((&seen.id, next_tick_ms), |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let sql = "SELECT count(*) FILTER (WHERE status = 'queued'), count(*) FROM app_run WHERE schedule_id = ?1 AND status IN ('queued', 'running')
        AND cancel_requested_at_ms IS NULL";
    let (waiting, unfinished): (usize, usize) = c.prepare_cached(sql)?.query_row([&seen.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let ticks = schedule::ticks(&seen.spec, seen.timed_at_ms).map_err(StoreError::Unfit)?;
    let state = State { id: &seen.id, ticks: &ticks, policy: &seen.spec.policy, next_tick_ms, accounted: &accounted, busy: unfinished > 0, waiting, now_ms };
    let mut decision = decide(&state);
    schedule::cap(&mut decision, schedule::runs_left(&seen.spec, seen.execution_count));
    Ok(Some(decision))
}

fn step(c: &Connection, seen: &AppScheduleRecord, decision: &Decision, order: Result<&NewAppRun, &String>, now_ms: i64) -> Result<AppStepped, StoreError> {
    let mut stepped = AppStepped::default();
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
        let sql =
            "UPDATE app_run SET cancel_requested_at_ms = ?2 WHERE schedule_id = ?1 AND status IN ('queued', 'running') AND cancel_requested_at_ms IS NULL";
        stepped.replaced = c.prepare_cached(sql)?.execute((&seen.id, now_ms))? > 0;
    }
    let mut last_run_id = seen.last_run_id.clone();
    for tick in &decision.ticks {
        let made = match order {
            Ok(order) if tick.fires => fire(c, seen, order, tick.tick_ms, now_ms)?,
            Err(reason) if tick.fires => Err(reason.clone()),
            _ => Err(tick.reason.clone().unwrap_or_default()),
        };
        let (run_id, reason) = match made {
            Ok(run_id) => (Some(run_id), tick.reason.clone()),
            Err(reason) => (None, Some(reason)),
        };
        let outcome = if run_id.is_some() { "fired" } else { "skipped" };
        if run_id.is_some() {
            stepped.fired += 1;
            last_run_id.clone_from(&run_id);
        } else {
            stepped.skipped += tick.count;
        }
        let sql = "INSERT INTO app_tick (schedule_id, tick_ms, outcome, reason, first_tick_ms, count, decided_at_ms, run_id)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING";
        c.prepare_cached(sql)?.execute((&seen.id, tick.tick_ms, outcome, reason, tick.first_tick_ms, tick.count, now_ms, run_id))?;
    }
    let execution_count = seen.execution_count + stepped.fired;
    let (lifecycle, lifecycle_reason) = match schedule::ended(&seen.spec, execution_count, decision.next) {
        Some((lifecycle, reason)) => (lifecycle, Some(reason)),
        None => (seen.lifecycle, seen.lifecycle_reason.clone()),
    };
    let (next_tick_ms, due_at_ms) = decision.next.map(|Next { tick_ms, due_at_ms }| (tick_ms, due_at_ms)).unzip();
    update(c, AppScheduleRecord { lifecycle, lifecycle_reason, execution_count, last_run_id, next_tick_ms, due_at_ms, ..seen.clone() })?;
    Ok(stepped)
}

/// Makes the run of a tick; or says why there is none.
fn fire(c: &Connection, seen: &AppScheduleRecord, order: &NewAppRun, tick_ms: i64, now_ms: i64) -> Result<Result<String, String>, StoreError> {
    let id = format!("{}.{tick_ms}", seen.id);
    if c.prepare_cached("SELECT 1 FROM app_run WHERE id = ?1")?.exists([&id])? {
        return Ok(Err("it fired before the clock was set back".to_owned()));
    }
    // Runs of one schedule that wait for one another are a group; those of an action that has a group wait in that.
    let own = (seen.spec.policy.concurrency_policy != ConcurrencyPolicy::Allow).then(|| Group::one_by_one(format!("schedule:{}", seen.id)));
    let run = NewAppRun {
        id: id.clone(),
        cause: RunCause::Schedule,
        schedule_id: Some(seen.id.clone()),
        tick_ms: Some(tick_ms),
        group: order.group.clone().or(own),
        key: None,
        created_at_ms: now_ms,
        ..order.clone()
    };
    Ok(match insert_run(c, &run) {
        Ok(InsertedRun::Queued | InsertedRun::Skipped) => Ok(id),
        Ok(InsertedRun::Same { run_id } | InsertedRun::Other { run_id }) => Err(format!("run {run_id} stands for it")),
        Err(StoreError::TooMany { what, max }) => Err(format!("there are {max} {what} already, which is the limit")),
        Err(error) => return Err(error),
    })
}

fn of_app(c: &Connection, app_id: &str) -> Result<Vec<AppScheduleRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM app_schedule WHERE app_id = ?1 AND lifecycle <> 'deleted' ORDER BY name");
    let mut statement = c.prepare_cached(&sql)?;
    let rows = statement.query_map([app_id], |row| Ok(record(row)))?;
    rows.map(|row| row?).collect()
}

fn find(c: &Connection, id: &str) -> Result<Option<AppScheduleRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM app_schedule WHERE id = ?1");
    c.prepare_cached(&sql)?.query_row([id], |row| Ok(record(row))).optional()?.transpose()
}

/// An app may have a limited number.
fn insert(c: &Connection, schedule: &AppScheduleRecord) -> Result<(), StoreError> {
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
        text(&schedule.spec)?,
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

fn update(c: &Connection, schedule: AppScheduleRecord) -> Result<AppScheduleRecord, StoreError> {
    let due = schedule.due_at_ms.filter(|_| schedule.lifecycle == Lifecycle::Active && schedule.enabled);
    let next = schedule.next_tick_ms.filter(|_| due.is_some());
    let sql = "UPDATE app_schedule SET name = ?3, source = ?4, enabled = ?5, lifecycle = ?6, lifecycle_reason = ?7, spec = ?8, execution_count = ?9, last_run_id = ?10,
        next_tick_ms = ?11, due_at_ms = ?12, timed_at_ms = ?13, updated_at_ms = ?14, generation = generation + 1 WHERE id = ?1 AND generation = ?2";
    let changed = c.prepare_cached(sql)?.execute(rusqlite::params![
        schedule.id,
        schedule.generation,
        schedule.name,
        schedule.keeper.as_str(),
        schedule.enabled,
        schedule.lifecycle.as_str(),
        schedule.lifecycle_reason,
        text(&schedule.spec)?,
        schedule.execution_count as i64,
        schedule.last_run_id,
        next,
        due,
        schedule.timed_at_ms,
        schedule.updated_at_ms,
    ])?;
    match changed {
        0 => Err(StoreError::Stale { what: "schedule", id: schedule.id }),
        _ => Ok(AppScheduleRecord { next_tick_ms: next, due_at_ms: due, generation: schedule.generation + 1, ..schedule }),
    }
}

fn text(spec: &Schedule) -> Result<String, StoreError> {
    serde_json::to_string(spec).map_err(|e| StoreError::corrupt("schedule", &e))
}

fn record(row: &Row<'_>) -> Result<AppScheduleRecord, StoreError> {
    let text = |column: usize| row.get::<_, String>(column);
    let unknown = |column: &str, text: &str| StoreError::corrupt("schedule", &format!("{column} {text:?}"));
    let (keeper, lifecycle, spec) = (text(4)?, text(6)?, text(8)?);
    Ok(AppScheduleRecord {
        id: row.get(0)?,
        team_id: row.get(1)?,
        app_id: row.get(2)?,
        name: row.get(3)?,
        keeper: Keeper::named(&keeper).ok_or_else(|| unknown("source", &keeper))?,
        enabled: row.get(5)?,
        lifecycle: Lifecycle::named(&lifecycle).ok_or_else(|| unknown("lifecycle", &lifecycle))?,
        lifecycle_reason: row.get(7)?,
        spec: serde_json::from_str(&spec).map_err(|e| StoreError::corrupt("schedule", &e))?,
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

fn tick(row: &Row<'_>) -> rusqlite::Result<AppTick> {
    let tick = Tick { tick_ms: row.get(0)?, fires: row.get_ref(1)?.as_str()? == "fired", reason: row.get(2)?, first_tick_ms: row.get(3)?, count: row.get(4)? };
    Ok(AppTick { tick, decided_at_ms: row.get(5)?, run_id: row.get(6)? })
}
