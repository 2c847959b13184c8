//! Schedules, of scripts and apps alike. What becomes of their ticks is decided here: each fires or is skipped, and which and why.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::limits;

pub mod cron;
mod every;

pub use every::{Every, Once};

/// Ticks that one decision is about. Of a schedule that was missed for longer the others follow in the next ones.
const TICKS_MAX: usize = 50_000;

/// When a schedule ticks: moments in milliseconds.
pub trait Ticks: std::fmt::Debug {
    /// The first after a moment. None where there is none any more.
    fn next_after(&self, at_ms: i64) -> Option<i64>;
}

/// What happens to ticks that came while nobody was there to fire them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedRunPolicy {
    Skip,
    #[default]
    RunOnce,
    RunAll,
}

/// What happens to a tick while the run of the one before goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConcurrencyPolicy {
    Allow,
    #[default]
    Skip,
    Queue,
    Replace,
}

/// How a schedule is kept, besides its pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// An IANA name.
    pub timezone: String,
    pub missed_run_policy: MissedRunPolicy,
    /// Of `run_all`.
    pub missed_runs_max: u32,
    /// A tick that is later than this is skipped.
    pub starting_deadline_seconds: Option<u32>,
    pub concurrency_policy: ConcurrencyPolicy,
    /// Each tick is late by up to this much.
    pub jitter_seconds: u32,
}

/// What is known of a schedule at a moment.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    /// By which jitter is told from that of others.
    pub id: &'a str,
    pub ticks: &'a dyn Ticks,
    pub policy: &'a Policy,
    /// The first tick that nothing was decided about.
    pub next_tick_ms: i64,
    /// Ticks from there on that something was decided about all the same, from and to, in order: the clock was set back since.
    pub accounted: &'a [(i64, i64)],
    /// A run of an earlier tick has not ended.
    pub busy: bool,
    /// So many wait for that.
    pub waiting: usize,
    pub now_ms: i64,
}

/// What becomes of the ticks that are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// In order, each tick once.
    pub ticks: Vec<Tick>,
    /// What has not ended of earlier ticks is dropped.
    pub replaces: bool,
    /// The first tick that nothing is decided about now. None where the calendar ends.
    pub next: Option<Next>,
}

/// The next tick, and when it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    pub tick_ms: i64,
    pub due_at_ms: i64,
}

/// What becomes of a tick, or of several skipped ones in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    pub first_tick_ms: i64,
    pub tick_ms: i64,
    pub count: u64,
    pub fires: bool,
    /// Why it is skipped, or why it is late.
    pub reason: Option<String>,
}

/// The first tick after a moment.
pub fn next(id: &str, ticks: &dyn Ticks, policy: &Policy, after_ms: i64) -> Option<Next> {
    let tick_ms = ticks.next_after(after_ms)?;
    Some(Next { tick_ms, due_at_ms: due_at_ms(id, policy, tick_ms, ticks.next_after(tick_ms)) })
}

/// Decides about all ticks that are due.
pub fn decide(state: &State<'_>) -> Decision {
    let (due, next) = due(state);
    // More of them are due than this decision is about: none of these is the last.
    let more = next.is_some_and(|next| next.due_at_ms <= state.now_ms);
    let mut decided = Decided::default();
    let policy = state.policy;
    let late_ms = |tick: &Next| state.now_ms - tick.due_at_ms;
    let too_late = |tick: &Next| policy.starting_deadline_seconds.is_some_and(|max| late_ms(tick) > i64::from(max) * 1000);
    let is_missed = |tick: &Next| late_ms(tick) > limits::SCRIPT_TICK_GRACE_MS;
    let last = due.iter().rposition(|tick| !too_late(tick)).filter(|_| !more);
    let mut missed_left = if more { usize::MAX } else { due.iter().filter(|tick| is_missed(tick) && !too_late(tick)).count() };
    let (mut busy, mut waiting) = (state.busy, state.waiting);
    for (position, due) in due.iter().enumerate() {
        let tick = due.tick_ms;
        if too_late(due) {
            decided.skip(tick, format!("it is later than startingDeadlineSeconds allows ({})", policy.starting_deadline_seconds.unwrap_or_default()));
            continue;
        }
        let missed = is_missed(due);
        if missed {
            let left = missed_left;
            missed_left = missed_left.saturating_sub(1);
            match policy.missed_run_policy {
                MissedRunPolicy::Skip => {
                    decided.skip(tick, "it was missed".to_owned());
                    continue;
                }
                MissedRunPolicy::RunOnce if last != Some(position) => {
                    decided.skip(tick, "it was missed, and a later one stands for it".to_owned());
                    continue;
                }
                MissedRunPolicy::RunAll if left > policy.missed_runs_max as usize => {
                    decided.skip(tick, format!("it was missed with more than missedRunsMax others ({})", policy.missed_runs_max));
                    continue;
                }
                MissedRunPolicy::RunOnce | MissedRunPolicy::RunAll => {}
            }
        }
        // What was missed and is made up for tick by tick never runs at once, and waits for what runs.
        let made_up = missed && policy.missed_run_policy == MissedRunPolicy::RunAll;
        match policy.concurrency_policy {
            ConcurrencyPolicy::Skip if busy && !made_up => decided.skip(tick, "the run of an earlier tick has not ended".to_owned()),
            ConcurrencyPolicy::Queue if waiting >= limits::SCRIPT_SCHEDULE_QUEUE_MAX => {
                decided.skip(tick, format!("{} runs of earlier ticks wait already", limits::SCRIPT_SCHEDULE_QUEUE_MAX));
            }
            ConcurrencyPolicy::Replace if last != Some(position) => decided.skip(tick, "a later one replaces it".to_owned()),
            _ => {
                decided.fire(tick, missed.then(|| format!("it is late by {} s", late_ms(due) / 1000)));
                (busy, waiting) = (true, waiting + 1);
            }
        }
    }
    let replaces = policy.concurrency_policy == ConcurrencyPolicy::Replace && state.busy && decided.ticks.iter().any(|tick| tick.fires);
    Decision { ticks: decided.ticks, replaces, next }
}

/// The ticks that are due, and the first that is not or that is too many.
fn due(state: &State<'_>) -> (Vec<Next>, Option<Next>) {
    let mut due = Vec::new();
    let mut tick_ms = state.next_tick_ms;
    loop {
        let following = state.ticks.next_after(tick_ms);
        let due_at_ms = due_at_ms(state.id, state.policy, tick_ms, following);
        if due_at_ms > state.now_ms || due.len() >= TICKS_MAX {
            return (due, Some(Next { tick_ms, due_at_ms }));
        }
        let place = state.accounted.partition_point(|(_, to)| *to < tick_ms);
        if state.accounted.get(place).is_none_or(|(from, _)| *from > tick_ms) {
            due.push(Next { tick_ms, due_at_ms });
        }
        let Some(following) = following else { return (due, None) };
        tick_ms = following;
    }
}

/// A tick is put off by an amount that follows from it, so that it is the same whenever it is looked at; and by less than until the
/// next one, which would find it waiting otherwise.
fn due_at_ms(id: &str, policy: &Policy, tick_ms: i64, following_ms: Option<i64>) -> i64 {
    if policy.jitter_seconds == 0 {
        return tick_ms;
    }
    let digest = Sha256::new().chain_update(id).chain_update(tick_ms.to_le_bytes()).finalize();
    let number = digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let until_next = following_ms.map_or(u64::MAX, |next| next.saturating_sub(tick_ms).max(1).unsigned_abs());
    tick_ms.saturating_add((number % (u64::from(policy.jitter_seconds) * 1000).min(until_next)).cast_signed())
}

impl MissedRunPolicy {
    pub const ALL: [Self; 3] = [Self::Skip, Self::RunOnce, Self::RunAll];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::RunOnce => "run_once",
            Self::RunAll => "run_all",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text)
    }
}

impl ConcurrencyPolicy {
    pub const ALL: [Self; 4] = [Self::Allow, Self::Skip, Self::Queue, Self::Replace];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::Queue => "queue",
            Self::Replace => "replace",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            timezone: "UTC".to_owned(),
            missed_run_policy: MissedRunPolicy::default(),
            missed_runs_max: 10,
            starting_deadline_seconds: None,
            concurrency_policy: ConcurrencyPolicy::default(),
            jitter_seconds: 0,
        }
    }
}

#[derive(Default)]
struct Decided {
    ticks: Vec<Tick>,
}

impl Decided {
    fn fire(&mut self, tick_ms: i64, reason: Option<String>) {
        self.ticks.push(Tick { first_tick_ms: tick_ms, tick_ms, count: 1, fires: true, reason });
    }

    /// Those in a row with one reason are one entry.
    fn skip(&mut self, tick_ms: i64, reason: String) {
        match self.ticks.last_mut() {
            Some(last) if !last.fires && last.reason.as_ref() == Some(&reason) => {
                last.tick_ms = tick_ms;
                last.count += 1;
            }
            _ => self.ticks.push(Tick { first_tick_ms: tick_ms, tick_ms, count: 1, fires: false, reason: Some(reason) }),
        }
    }
}

#[cfg(test)]
mod tests;
