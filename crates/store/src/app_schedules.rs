//! Schedules of apps and their ticks. What becomes of a tick, the run that it makes, and the next tick are one commit: so none
//! fires twice, and none is lost.

use std::collections::BTreeMap;

use rusqlite::Connection;
use sandbar_core::{
    app::{
        RunStatus,
        manifest::{Manifest, Schedule},
        schedule::{self, Keeper, Lifecycle},
    },
    limits::app_schedules as limits,
    schedule::{Next, Tick},
};

use crate::{
    NewAppRun, Store, StoreError,
    schedules::{self, Became, Kind},
};

mod rows;
mod step;

use rows::{COLUMNS, find, insert, of_app, update};

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
    /// None: what is stored cannot be read, and the reason says why.
    pub spec: Option<Schedule>,
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

/// The newest run of a schedule that is kept: of a tick, or of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppLastRun {
    pub run_id: String,
    pub status: RunStatus,
    /// When it was asked for.
    pub created_at_ms: i64,
}

/// What came of looking at a schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppStepped {
    pub fired: u64,
    pub skipped: u64,
    /// Runs were told to end.
    pub replaced: bool,
}

impl AppScheduleRecord {
    /// What it says, for what cannot do without.
    pub fn spec(&self) -> Result<&Schedule, StoreError> {
        self.spec.as_ref().ok_or_else(|| StoreError::Unfit(self.lifecycle_reason.clone().unwrap_or_default()))
    }
}

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

    /// The newest run of each schedule of an app that has one, by the id of the schedule.
    pub async fn app_schedules_last_runs(&self, app_id: &str) -> Result<BTreeMap<String, AppLastRun>, StoreError> {
        let app_id = app_id.to_owned();
        self.engine.read("look for the last runs of schedules", move |c| rows::last_runs(c, &app_id)).await
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
                let due = statement.query_map((now_ms, limit), rows::record)?.collect::<Result<_, _>>()?;
                let next = c.prepare_cached("SELECT min(due_at_ms) FROM app_schedule WHERE due_at_ms > ?1")?.query_row([now_ms], |row| row.get(0))?;
                Ok((due, next))
            })
            .await
    }

    /// Decides about the due ticks of a schedule, and makes the runs that are to be; or says of each why there is none.
    pub async fn app_schedule_step(&self, schedule: AppScheduleRecord, order: Result<NewAppRun, String>, now_ms: i64) -> Result<AppStepped, StoreError> {
        let seen = schedule.clone();
        let Some(decision) = self.engine.read("look at a schedule", move |c| step::look(c, &seen, now_ms)).await? else { return Ok(AppStepped::default()) };
        self.engine.write("fire a schedule", move |c| step::step(c, &schedule, &decision, order.as_ref(), now_ms)).await
    }

    /// Ends a schedule that cannot be read or carried out by any server.
    pub async fn app_schedule_failed(&self, id: &str, reason: &str, now_ms: i64) -> Result<(), StoreError> {
        let (id, reason) = (id.to_owned(), reason.to_owned());
        self.engine
            .write("end a schedule", move |c| {
                let sql = "UPDATE app_schedule SET lifecycle = 'failed', lifecycle_reason = ?2, next_tick_ms = NULL, due_at_ms = NULL, updated_at_ms = ?3,
                    generation = generation + 1 WHERE id = ?1 AND due_at_ms IS NOT NULL";
                c.prepare_cached(sql)?.execute((id, reason, now_ms))?;
                Ok(())
            })
            .await
    }

    /// After the clock was set back: next ticks that are further away than they should be come sooner, and what had come to its end by the
    /// clock comes again. What something was decided about stays decided.
    pub async fn app_schedules_rewind(&self, now_ms: i64) -> Result<usize, StoreError> {
        schedules::rewind::<Apps>(&self.engine, now_ms).await
    }

    /// What became of the ticks of a schedule, the newest first: those before a moment.
    pub async fn app_ticks_list(&self, schedule_id: &str, before_ms: Option<i64>, limit: u32) -> Result<Vec<AppTick>, StoreError> {
        let became = schedules::ticks::<Apps>(&self.engine, schedule_id, before_ms, limit).await?;
        Ok(became.into_iter().map(|Became { tick, decided_at_ms, made }| AppTick { tick, decided_at_ms, run_id: made }).collect())
    }

    /// Forgets the oldest ticks of schedules that have too many, at most `max` of each, and the oldest schedules that are gone. Returns
    /// how many rows.
    pub async fn app_schedules_prune(&self, max: u32) -> Result<usize, StoreError> {
        let ticks = schedules::prune::<Apps>(&self.engine, max).await?;
        let gone: Vec<String> = self
            .engine
            .read("look for schedules that are gone", move |c| {
                let sql = "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY app_id ORDER BY updated_at_ms DESC) AS nth
                    FROM app_schedule WHERE lifecycle = 'deleted') WHERE nth > ?1 LIMIT ?2";
                c.prepare_cached(sql)?.query_map((limits::APP_SCHEDULES_GONE_KEPT_MAX, max), |row| row.get(0))?.map(|row| Ok(row?)).collect()
            })
            .await?;
        let mut forgotten = 0;
        for id in gone {
            // With the rows of its ticks.
            let forget = move |c: &Connection| Ok(c.prepare_cached("DELETE FROM app_schedule WHERE id = ?1 AND lifecycle = 'deleted'")?.execute([id])?);
            forgotten += self.engine.write("forget a schedule that is gone", forget).await?;
        }
        Ok(ticks + forgotten)
    }
}

/// Schedules of apps.
struct Apps;

/// A schedule that comes sooner by the clock of now: of which generation, from when it counts then, and its next tick.
struct Astray {
    id: String,
    generation: i64,
    timed_at_ms: i64,
    next: Next,
}

impl Kind for Apps {
    const TICKS: &'static str = "app_tick";
    const SCHEDULE: &'static str = "schedule_id";
    const MADE: &'static str = "run_id";
    const TICKS_KEPT_MAX: usize = limits::APP_TICKS_KEPT_MAX;
    type Astray = Astray;

    fn astray(c: &Connection, now_ms: i64) -> Result<Vec<Astray>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM app_schedule WHERE lifecycle IN ('active', 'expired') AND enabled");
        let mut statement = c.prepare_cached(&sql)?;
        let mut astray = Vec::new();
        for found in statement.query_map([], rows::record)? {
            let AppScheduleRecord { id, generation, spec, timed_at_ms, next_tick_ms, execution_count, .. } = found?;
            let Some(spec) = spec.filter(|spec| schedule::runs_left(spec, execution_count) != Some(0)) else { continue };
            if let Ok(Some((timed_at_ms, next))) = schedule::sooner(&id, &spec, timed_at_ms, next_tick_ms, now_ms) {
                astray.push(Astray { id, generation, timed_at_ms, next });
            }
        }
        Ok(astray)
    }

    fn set_back(c: &Connection, astray: &Astray, now_ms: i64) -> Result<usize, StoreError> {
        let sql = "UPDATE app_schedule SET lifecycle = 'active', lifecycle_reason = NULL, next_tick_ms = ?3, due_at_ms = ?4, timed_at_ms = ?5,
            updated_at_ms = ?6, generation = generation + 1 WHERE id = ?1 AND generation = ?2";
        let Astray { id, generation, timed_at_ms, next } = astray;
        Ok(c.prepare_cached(sql)?.execute((id, generation, next.tick_ms, next.due_at_ms, timed_at_ms, now_ms))?)
    }
}

/// Makes the schedules of an app what the manifest of its live version says, in the transaction that makes it live. One that stays
/// the same keeps its next tick. Refused where a client keeps one of the same name.
pub(crate) fn reconcile(c: &Connection, team_id: &str, app_id: &str, manifest: &str, now_ms: i64) -> Result<(), StoreError> {
    let manifest: Manifest =
        serde_json::from_str(manifest).map_err(|error| StoreError::Unfit(format!("the stored manifest of the version cannot be read: {error}")))?;
    let there = of_app(c, app_id)?;
    if let Some(taken) = schedule::names_taken(&manifest.schedules, there.iter().map(|old| (old.name.as_str(), old.keeper))).first() {
        return Err(StoreError::Unfit(format!("{}: {taken}", taken.diagnostic().path)));
    }
    for old in there.iter().filter(|old| old.keeper == Keeper::Manifest && !manifest.schedules.iter().any(|spec| spec.name == old.name)) {
        let reason = Some("the manifest does not name it any more".to_owned());
        update(c, AppScheduleRecord { lifecycle: Lifecycle::Deleted, lifecycle_reason: reason, updated_at_ms: now_ms, ..old.clone() })?;
    }
    for spec in manifest.schedules {
        match there.iter().find(|old| old.name == spec.name) {
            Some(old) if old.spec.as_ref() == Some(&spec) => {}
            Some(old) => {
                let again = AppScheduleRecord { updated_at_ms: now_ms, ..retimed(old.clone(), spec, now_ms)? };
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

/// A schedule that begins now. One that never comes any more has expired.
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
        spec: None,
        execution_count: 0,
        last_run_id: None,
        next_tick_ms: None,
        due_at_ms: None,
        timed_at_ms: now_ms,
        created_at_ms: now_ms,
        updated_at_ms: now_ms,
        generation: 1,
    };
    begun(record, spec, now_ms)
}

/// A schedule with another specification. One that somebody stopped stays so until it is resumed. Where it comes at the same times as
/// before, its next tick stays, and so does its end; else it begins now.
pub fn retimed(old: AppScheduleRecord, spec: Schedule, now_ms: i64) -> Result<AppScheduleRecord, StoreError> {
    let is_same_time = old.spec.as_ref().is_some_and(|old| schedule::is_same_time(old, &spec));
    let stays = match old.lifecycle {
        Lifecycle::Stopped | Lifecycle::Deleted => true,
        // Another command brings back no moment that has passed.
        Lifecycle::Completed | Lifecycle::Expired => is_same_time,
        Lifecycle::Active => is_same_time && old.enabled && spec.enabled && schedule::runs_left(&spec, old.execution_count) != Some(0),
        Lifecycle::MaxRunsReached | Lifecycle::Failed => false,
    };
    if stays {
        return Ok(AppScheduleRecord { enabled: spec.enabled, spec: Some(spec), ..old });
    }
    begun(old, spec, now_ms)
}

/// A schedule that was stopped, or that failed, comes again from now on. What it missed meanwhile it was not to do.
pub fn resumed(old: AppScheduleRecord, now_ms: i64) -> Result<AppScheduleRecord, StoreError> {
    let spec = old.spec()?.clone();
    begun(old, spec, now_ms)
}

fn begun(old: AppScheduleRecord, spec: Schedule, now_ms: i64) -> Result<AppScheduleRecord, StoreError> {
    let next = schedule::first(&old.id, &spec, now_ms).map_err(StoreError::Unfit)?;
    let (lifecycle, lifecycle_reason) = match schedule::over(&old.id, &spec, old.execution_count, next, now_ms).map_err(StoreError::Unfit)? {
        Some((lifecycle, reason)) => (lifecycle, Some(reason)),
        None => (Lifecycle::Active, None),
    };
    let (next_tick_ms, due_at_ms) = schedules::columns(next.filter(|_| lifecycle == Lifecycle::Active && spec.enabled));
    Ok(AppScheduleRecord { enabled: spec.enabled, lifecycle, lifecycle_reason, spec: Some(spec), next_tick_ms, due_at_ms, timed_at_ms: now_ms, ..old })
}
