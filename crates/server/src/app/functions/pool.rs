//! The instances of a revision as its requests see them: who is ready, who has how much to do, who waits, and what went wrong
//! last. Rows say which instances there are; this is what of it lives only while the server does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sandbar_core::{
    function::{
        Autoscaling, RevisionRecord,
        scale::{self, Instance, Stage},
    },
    limits,
};
use sandbar_node::warm::PRINTED;
use tokio::sync::{Notify, futures::Notified};

use crate::{app::sandboxes::now_ms, error::ApiError};

/// An instance that was ready for so long failed for a reason of its own; sooner it is the revision that fails.
const STABLE: Duration = Duration::from_secs(10);
/// Failures that are further apart do not add up.
const REMEMBERED: Duration = Duration::from_secs(limits::FUNCTION_BACKOFF_MAX_S);
const DRAIN_WITHIN: Duration = Duration::from_secs(limits::FUNCTION_DRAIN_MAX_S);

/// The pools of all revisions that have or want instances.
#[derive(Default)]
pub(super) struct Pools {
    by_revision: Mutex<HashMap<String, Arc<Pool>>>,
}

/// The instances of one revision.
pub(super) struct Pool {
    pub revision: Arc<RevisionRecord>,
    state: Mutex<State>,
    /// Woken when an instance is ready, has failed or has less to do.
    changed: Notify,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    waiting: usize,
    failure: Option<Failure>,
}

/// One instance.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub sandbox_id: String,
    pub stage: Stage,
    pub in_flight: usize,
    idle_since: Instant,
    ready_since: Option<Instant>,
    draining_since: Option<Instant>,
    /// Somebody found nobody answering in it; it is being looked at.
    suspect: bool,
    pub created_at_ms: i64,
    pub ready_at_ms: Option<i64>,
    pub startup_ms: Option<i64>,
    pub last_used_ms: Option<i64>,
}

/// What went wrong last, and until when no other instance is started.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    count: u32,
    until: Instant,
    /// It could not even be started: whoever comes need not wait for the next one, which will fare no better.
    at_start: bool,
    pub why: Why,
    pub at_ms: i64,
}

/// Why nobody serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Why {
    /// As the function's owner is told.
    pub full: String,
    /// As strangers are: nothing of this machine, and nothing that the service printed.
    pub told: String,
}

/// Who is told why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    Owner,
    Stranger,
}

/// Where a request stands.
pub(super) enum Place {
    Serve(InFlight),
    /// Something will change; at this moment at the latest.
    Wait(Option<Instant>),
    /// There is nobody to wait for. With why, and when to ask again.
    Refused(Why, Duration),
    /// As many wait as may.
    Full,
}

/// A request that an instance serves; until it is dropped.
pub(super) struct InFlight {
    pool: Arc<Pool>,
    pub sandbox_id: String,
}

/// A request that waits; until it is dropped. Without a pool it has been served.
pub(super) struct Waiting(Option<Arc<Pool>>);

/// What is to be done about a pool.
#[derive(Default)]
pub(super) struct Plan {
    pub start: Vec<String>,
    /// Take no more requests from now on.
    pub drain: Vec<String>,
    /// Nothing runs in them any more, or they had their time.
    pub remove: Vec<String>,
}

impl Pools {
    /// The pool of a revision, made when there is none.
    pub fn of(&self, revision: &Arc<RevisionRecord>) -> Arc<Pool> {
        let mut pools = self.lock();
        let pool = pools
            .entry(revision.id.clone())
            .or_insert_with(|| Arc::new(Pool { revision: Arc::clone(revision), state: Mutex::default(), changed: Notify::new() }));
        Arc::clone(pool)
    }

    pub fn find(&self, revision_id: &str) -> Option<Arc<Pool>> {
        self.lock().get(revision_id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.lock().values().cloned().collect()
    }

    pub fn of_function(&self, function_id: &str) -> Vec<Arc<Pool>> {
        self.lock().values().filter(|pool| pool.revision.function_id == function_id).cloned().collect()
    }

    /// Lets the next request try again at once.
    pub fn forgive(&self, function_id: &str) {
        for pool in self.of_function(function_id) {
            pool.lock().failure = None;
        }
    }

    /// Forgets pools that nobody needs: without instances, without anybody who waits, and nothing to remember.
    pub fn prune(&self) {
        let now = Instant::now();
        self.lock().retain(|_, pool| {
            let state = pool.lock();
            let quiet = state.slots.is_empty() && state.waiting == 0 && state.failure.as_ref().is_none_or(|failure| failure.until + REMEMBERED < now);
            // Somebody else has it at hand and is about to do something with it.
            !quiet || Arc::strong_count(pool) > 1
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Pool>>> {
        self.by_revision.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Finds a place for a request, and says which instances are to be started besides: those have their ids and count
    /// from now on.
    pub fn place(self: &Arc<Self>, waits: &mut Option<Waiting>, scaling: &Autoscaling) -> (Place, Vec<String>) {
        let now = Instant::now();
        let mut state = self.lock();
        let others = state.waiting - usize::from(waits.is_some());
        let instances = state.instances(now);
        let choice = scale::choose(&instances, others, scaling);
        let start = if state.is_backing_off(now) { 0 } else { choice.start };
        let started = state.begin(start, now);
        // What is free was told to those who wait; who comes now takes only what they leave.
        let has_turn = waits.is_some() || others == 0 || scale::free(&instances, scaling) > others;
        if let Some(slot) = choice.instance.filter(|_| has_turn).and_then(|index| state.slots.get_mut(index)) {
            slot.in_flight += 1;
            slot.last_used_ms = Some(now_ms());
            let sandbox_id = slot.sandbox_id.clone();
            if let Some(mut waited) = waits.take() {
                // From now on it counts as what is served.
                waited.0 = None;
                state.waiting = state.waiting.saturating_sub(1);
            }
            return (Place::Serve(InFlight { pool: Arc::clone(self), sandbox_id }), started);
        }
        let hopeless = !state.slots.iter().any(|slot| matches!(slot.stage, Stage::Starting | Stage::Ready | Stage::Retiring));
        let failure = state.failure.clone().filter(|failure| hopeless && failure.until > now);
        let again_at = failure.as_ref().map(|failure| failure.until);
        if let Some(failure) = failure.filter(|failure| failure.at_start) {
            return (Place::Refused(failure.why, failure.until - now), started);
        }
        if waits.is_none() {
            if state.waiting >= limits::FUNCTION_WAITING_MAX {
                return (Place::Full, started);
            }
            state.waiting += 1;
            *waits = Some(Waiting(Some(Arc::clone(self))));
        }
        (Place::Wait(again_at), started)
    }

    /// Resolves when something changed since this was called.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// An instance is ready.
    pub fn ready(&self, sandbox_id: &str, startup_ms: i64) {
        let mut state = self.lock();
        // One that ends soon after it was ready is not forgotten by the next that is.
        state.failure.take_if(|failure| failure.at_start);
        if let Some(slot) = state.slot(sandbox_id) {
            slot.stage = Stage::Ready;
            slot.idle_since = Instant::now();
            slot.ready_since = Some(Instant::now());
            slot.ready_at_ms = Some(now_ms());
            slot.startup_ms = Some(startup_ms);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// An instance could not be started, or is there no more. One that was ready for a while says nothing about the next.
    pub fn lost(&self, sandbox_id: &str, why: impl Into<Why>) {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(index) = state.slots.iter().position(|slot| slot.sandbox_id == sandbox_id) {
            let slot = state.slots.remove(index);
            if slot.ready_at_ms.is_none() || slot.ready_since.is_some_and(|since| since.elapsed() < STABLE) {
                let recent = state.failure.as_ref().filter(|failure| now < failure.until + REMEMBERED);
                let count = recent.map_or(0, |failure| failure.count).saturating_add(1);
                let at_start = slot.ready_at_ms.is_none();
                // The first time that one ends may be an accident.
                let wait = if at_start || count > 1 { scale::backoff(count) } else { Duration::ZERO };
                state.failure = Some(Failure { count, until: now + wait, at_start, why: why.into(), at_ms: now_ms() });
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes over what a former server left.
    pub fn adopt(&self, slot: Slot) {
        let mut state = self.lock();
        if state.slot(&slot.sandbox_id).is_none() {
            state.slots.push(slot);
        }
    }

    /// Begins to look at an instance in which somebody found nobody answering; `false` when somebody does already.
    pub fn doubt(&self, sandbox_id: &str) -> bool {
        let mut state = self.lock();
        let slot = state.slot(sandbox_id).filter(|slot| !slot.suspect && matches!(slot.stage, Stage::Ready | Stage::Retiring));
        slot.map(|slot| slot.suspect = true).is_some()
    }

    /// It answers after all.
    pub fn trust(&self, sandbox_id: &str) {
        if let Some(slot) = self.lock().slot(sandbox_id) {
            slot.suspect = false;
        }
        self.changed.notify_waiters();
    }

    /// All that serve now are to be replaced. Returns which.
    pub fn retire(&self) -> Vec<String> {
        let mut state = self.lock();
        state.failure = None;
        let mut retired = Vec::new();
        for slot in state.slots.iter_mut().filter(|slot| slot.stage == Stage::Ready) {
            slot.stage = Stage::Retiring;
            retired.push(slot.sandbox_id.clone());
        }
        retired
    }

    /// Whether an instance serves that was not to be replaced.
    pub fn has_ready(&self) -> bool {
        self.lock().slots.iter().any(|slot| slot.stage == Stage::Ready && !slot.suspect)
    }

    /// What is to be done now, with instances given that are to be started and to be drained. `serves` says whether requests may
    /// come; `gone` that the revision is no more, or its function switched off.
    pub fn plan(&self, serves: bool, gone: bool, scaling: &Autoscaling) -> Plan {
        let now = Instant::now();
        let mut state = self.lock();
        let mut plan = Plan::default();
        let surplus = match gone {
            true => (0..state.slots.len()).filter(|index| matches!(state.slots[*index].stage, Stage::Ready | Stage::Retiring)).collect(),
            false => scale::surplus(&state.instances(now), serves, scaling),
        };
        for index in surplus {
            if let Some(slot) = state.slots.get_mut(index) {
                slot.stage = Stage::Draining;
                slot.draining_since = Some(now);
                plan.drain.push(slot.sandbox_id.clone());
            }
        }
        let done = |slot: &Slot| {
            let since = slot.draining_since.unwrap_or(slot.idle_since);
            slot.stage == Stage::Draining && (slot.in_flight == 0 || now.saturating_duration_since(since) >= DRAIN_WITHIN)
        };
        plan.remove = state.slots.iter().filter(|slot| done(slot)).map(|slot| slot.sandbox_id.clone()).collect();
        state.slots.retain(|slot| !done(slot));
        if !gone && !state.is_backing_off(now) {
            let missing = scale::missing(&state.instances(now), serves, scaling);
            plan.start = state.begin(missing, now);
        }
        plan
    }

    pub fn slots(&self) -> Vec<Slot> {
        self.lock().slots.clone()
    }

    pub fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn slot(&mut self, sandbox_id: &str) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.sandbox_id == sandbox_id)
    }

    fn instances(&self, now: Instant) -> Vec<Instance> {
        let view = |slot: &Slot| Instance {
            stage: slot.stage,
            in_flight: slot.in_flight,
            idle: now.saturating_duration_since(slot.idle_since),
            avoided: slot.suspect,
        };
        self.slots.iter().map(view).collect()
    }

    fn is_backing_off(&self, now: Instant) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.until > now)
    }

    fn begin(&mut self, count: usize, now: Instant) -> Vec<String> {
        let ids: Vec<String> = (0..count).map(|_| sandbar_node::random_id("sb-")).collect();
        self.slots.extend(ids.iter().map(|id| Slot::new(id.clone(), Stage::Starting, now, now_ms())));
        ids
    }
}

impl Slot {
    pub fn new(sandbox_id: String, stage: Stage, now: Instant, created_at_ms: i64) -> Self {
        Self {
            sandbox_id,
            stage,
            in_flight: 0,
            idle_since: now,
            ready_since: None,
            draining_since: (stage == Stage::Draining).then_some(now),
            suspect: false,
            created_at_ms,
            ready_at_ms: None,
            startup_ms: None,
            last_used_ms: None,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        if let Some(slot) = state.slot(&self.sandbox_id) {
            slot.in_flight = slot.in_flight.saturating_sub(1);
            slot.idle_since = Instant::now();
        }
        drop(state);
        // One has left, one can come.
        self.pool.changed.notify_one();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(pool) = self.0.take() else { return };
        let mut state = pool.lock();
        state.waiting = state.waiting.saturating_sub(1);
        drop(state);
        // It may have been its turn.
        pool.changed.notify_one();
    }
}

impl Why {
    /// A service is not up: what it printed is its owner's.
    pub fn of_service(error: &ApiError) -> Self {
        let full = error.message().to_owned();
        Self { told: full.split_once(PRINTED).map_or(full.as_str(), |(before, _)| before).to_owned(), full }
    }

    pub fn told(&self, to: Audience) -> &str {
        match to {
            Audience::Owner => &self.full,
            Audience::Stranger => &self.told,
        }
    }
}

impl From<&str> for Why {
    fn from(text: &str) -> Self {
        Self { full: text.to_owned(), told: text.to_owned() }
    }
}

/// What this machine could not do.
impl From<ApiError> for Why {
    fn from(error: ApiError) -> Self {
        Self { full: error.message().to_owned(), told: "an instance could not be started".to_owned() }
    }
}

/// The answer to a request for which nobody is there.
pub(super) fn unavailable(revision: &RevisionRecord, reason: &str, retry_after: Duration) -> ApiError {
    let seconds = retry_after.as_secs_f64().ceil().clamp(1.0, 3600.0) as u32;
    ApiError::unavailable(format!("function sandbox is not available: {reason}"))
        .with_details(serde_json::json!({
            "function_id": revision.function_id,
            "revision_id": revision.id,
            "revision_number": revision.number,
            "source_sandbox_id": revision.source.sandbox_id(),
            "source_service_id": revision.source.service_id(),
            "reason": reason,
        }))
        .retry_after(seconds)
}

#[cfg(test)]
mod tests;
