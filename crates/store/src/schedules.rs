//! What schedules of scripts and of apps have in common: which ones are due, how they go by a clock that was set back, and what became
//! of their ticks, of which only so many are kept.

use rusqlite::{Connection, Row};
use sandbar_core::schedule::{Next, Tick};

use crate::{StoreError, engine::Engine};

/// Schedules that are written in one commit after the clock was set back, so that other writes get their turn.
const REWIND_STEP: usize = 200;
/// Schedules with too many ticks that are looked after in one go.
const PRUNE_STEP: u32 = 100;

/// Whose schedules.
pub(crate) trait Kind: 'static {
    /// The table of ticks, and its column that names the schedule and the one that names what a tick made.
    const TICKS: &'static str;
    const SCHEDULE: &'static str;
    const MADE: &'static str;
    /// Ticks that are kept of one schedule.
    const TICKS_KEPT_MAX: usize;

    /// A schedule that comes sooner by the clock of now, as it was seen, with what it comes at then.
    type Astray: Send + 'static;

    /// The schedules whose next tick is further away than it should be. One that cannot be read keeps no other from being set back.
    fn astray(c: &Connection, now_ms: i64) -> Result<Vec<Self::Astray>, StoreError>;

    /// Lets it come sooner, unless it was changed since it was seen. Returns how many.
    fn set_back(c: &Connection, astray: &Self::Astray, now_ms: i64) -> Result<usize, StoreError>;
}

/// What became of a tick, or of several skipped ones in a row, and what it made.
pub(crate) struct Became {
    pub tick: Tick,
    pub decided_at_ms: i64,
    pub made: Option<String>,
}

/// After the clock was set back: next ticks that are further away than they should be come sooner. Those that something was decided about
/// stay decided. Looking through all of them takes a while, and nobody who writes has to wait for it.
pub(crate) async fn rewind<K: Kind>(engine: &Engine, now_ms: i64) -> Result<usize, StoreError> {
    let mut astray = engine.read("look at schedules after the clock was set back", move |c| K::astray(c, now_ms)).await?;
    let mut moved = 0;
    while !astray.is_empty() {
        let step = astray.split_off(astray.len().saturating_sub(REWIND_STEP));
        let set_back = move |c: &Connection| step.iter().try_fold(0, |moved, one| Ok(moved + K::set_back(c, one, now_ms)?));
        moved += engine.write("set schedules back", set_back).await?;
    }
    Ok(moved)
}

/// Forgets the oldest ticks of schedules that have too many, at most `max` of each. Returns how many.
pub(crate) async fn prune<K: Kind>(engine: &Engine, max: u32) -> Result<usize, StoreError> {
    // Looking through all of them takes a while, and nobody who writes has to wait for it.
    let ids: Vec<String> = engine
        .read("look for schedules with many ticks", |c| {
            let (ticks, key) = (K::TICKS, K::SCHEDULE);
            let mut statement = c.prepare_cached(&format!("SELECT {key} FROM {ticks} GROUP BY {key} HAVING count(*) > ?1 LIMIT ?2"))?;
            statement.query_map((K::TICKS_KEPT_MAX, PRUNE_STEP), |row| row.get(0))?.map(|row| Ok(row?)).collect()
        })
        .await?;
    let mut removed = 0;
    for id in ids {
        removed += engine
            .write("forget ticks", move |c| {
                let (ticks, key) = (K::TICKS, K::SCHEDULE);
                let sql = format!(
                    "DELETE FROM {ticks} WHERE {key} = ?1 AND tick_ms IN
                        (SELECT tick_ms FROM {ticks} WHERE {key} = ?1 ORDER BY tick_ms DESC LIMIT ?2 OFFSET ?3)"
                );
                Ok(c.prepare_cached(&sql)?.execute((id, max, K::TICKS_KEPT_MAX))?)
            })
            .await?;
    }
    Ok(removed)
}

/// Ticks from a moment on that something was decided about, from and to, in order.
pub(crate) fn accounted<K: Kind>(c: &Connection, id: &str, from_ms: i64) -> Result<Vec<(i64, i64)>, StoreError> {
    let sql = format!("SELECT first_tick_ms, tick_ms FROM {} WHERE {} = ?1 AND tick_ms >= ?2 ORDER BY tick_ms", K::TICKS, K::SCHEDULE);
    let mut statement = c.prepare_cached(&sql)?;
    statement.query_map((id, from_ms), |row| Ok((row.get(0)?, row.get(1)?)))?.map(|row| Ok(row?)).collect()
}

/// Keeps what became of a tick: it fired if it made something. Returns whether it did.
pub(crate) fn keep<K: Kind>(c: &Connection, id: &str, tick: &Tick, made: Result<&str, &str>, now_ms: i64) -> Result<bool, StoreError> {
    let sql = format!(
        "INSERT INTO {} ({}, tick_ms, outcome, reason, first_tick_ms, count, decided_at_ms, {}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
            ON CONFLICT DO NOTHING",
        K::TICKS,
        K::SCHEDULE,
        K::MADE
    );
    let outcome = if made.is_ok() { "fired" } else { "skipped" };
    let reason = made.err().or(tick.reason.as_deref());
    c.prepare_cached(&sql)?.execute((id, tick.tick_ms, outcome, reason, tick.first_tick_ms, tick.count, now_ms, made.ok()))?;
    Ok(made.is_ok())
}

/// What became of the ticks of a schedule, the newest first: those before a moment.
pub(crate) async fn ticks<K: Kind>(engine: &Engine, id: &str, before_ms: Option<i64>, limit: u32) -> Result<Vec<Became>, StoreError> {
    let id = id.to_owned();
    engine
        .read("list ticks", move |c| {
            let sql = format!(
                "SELECT tick_ms, outcome, reason, first_tick_ms, count, decided_at_ms, {} FROM {} WHERE {} = ?1 AND tick_ms < ?2
                    ORDER BY tick_ms DESC LIMIT ?3",
                K::MADE,
                K::TICKS,
                K::SCHEDULE
            );
            let mut statement = c.prepare_cached(&sql)?;
            statement.query_map((id, before_ms.unwrap_or(i64::MAX), limit), became)?.map(|row| Ok(row?)).collect()
        })
        .await
}

fn became(row: &Row<'_>) -> rusqlite::Result<Became> {
    let tick = Tick { tick_ms: row.get(0)?, fires: row.get_ref(1)?.as_str()? == "fired", reason: row.get(2)?, first_tick_ms: row.get(3)?, count: row.get(4)? };
    Ok(Became { tick, decided_at_ms: row.get(5)?, made: row.get(6)? })
}

/// When the next tick is and when it is due, as columns.
pub(crate) fn columns(next: Option<Next>) -> (Option<i64>, Option<i64>) {
    next.map(|Next { tick_ms, due_at_ms }| (tick_ms, due_at_ms)).unzip()
}
