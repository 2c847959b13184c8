//! Serving from the sandbox that a revision was published from, and moving away from it in time: who deletes it, or puts another
//! service in place of the one that serves, must not cost a request its answer.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join_all};
use sandbar_core::{
    function::{PRODUCTION, RevisionRecord, serves_from_source},
    limits,
    sandbox::SandboxRecord,
};
use sandbar_node::error_text;
use tokio::sync::Notify;

use super::serve::{FunctionHost, Held, Lease};
use crate::app::App;

/// A source that does not serve a revision is not asked again for so long: each time may be a read of the database.
const DECLINED: Duration = Duration::from_secs(1);
/// Revisions of which that is remembered.
const DECLINED_MAX: usize = 10_000;
/// How long a sandbox counts as serving after its last request.
const RECENTLY: Duration = Duration::from_secs(60);
const LINGER_WITHIN: Duration = Duration::from_secs(limits::FUNCTION_LINGER_MAX_S);

/// Sandboxes that serve functions now, or did a moment ago.
#[derive(Default)]
pub(super) struct Sources {
    state: Arc<Mutex<State>>,
    /// Revisions whose source does not serve them, with the moment from which it is asked again; none = it is gone for good.
    declined: Mutex<HashMap<String, Option<Instant>>>,
    /// Woken when a request ended.
    ended: Arc<Notify>,
}

#[derive(Default)]
struct State {
    by_sandbox: HashMap<String, Use>,
    /// Deleted ones that go on until others are there in their place.
    lingering: HashSet<String>,
}

struct Use {
    in_flight: usize,
    last_used: Instant,
    /// Those that it served.
    revisions: HashMap<String, Arc<RevisionRecord>>,
}

/// A request that a source serves, or is about to; until it is dropped.
pub(super) struct SourceInFlight {
    state: Arc<Mutex<State>>,
    ended: Arc<Notify>,
    sandbox_id: String,
}

/// Lets a deleted sandbox take requests until it is dropped.
struct Lingering {
    state: Arc<Mutex<State>>,
    sandbox_id: String,
}

impl App {
    /// A place in the sandbox that the revision was published from, while that serves it; none = the revision has to serve itself,
    /// also when the source cannot.
    pub(super) async fn acquire_source(
        self: &Arc<Self>,
        host: &FunctionHost,
        revision: &Arc<RevisionRecord>,
        avoid: &[String],
        within: Duration,
    ) -> Option<Lease> {
        let sandbox_id = revision.source.sandbox_id().filter(|_| host.alias == PRODUCTION)?;
        let newest = host.known.newest_from_source.get(sandbox_id).copied().unwrap_or_default();
        let sources = &self.functions.sources;
        if sources.has_declined(&revision.id) {
            return None;
        }
        // Counted before the look: what is changed after it waits for us.
        let held = sources.hold(sandbox_id);
        let looked = match self.look(sandbox_id).await {
            Ok(Some(looked)) => looked,
            Ok(None) => {
                drop(held);
                let lease = self.acquire_lingering(sandbox_id, revision, newest);
                // A deleted sandbox never comes back.
                if lease.is_none() {
                    sources.decline(&revision.id, None);
                }
                return lease;
            }
            Err(error) => {
                tracing::warn!(sandbox = sandbox_id, error = error_text(&error), "a function's source cannot be read");
                return None;
            }
        };
        if !serves_from_source(revision, newest, &looked.0) {
            sources.decline(&revision.id, Some(Instant::now() + DECLINED));
            return None;
        }
        let (record, runtime) = match looked {
            (record, Some(runtime)) => (record, runtime),
            (record, None) => match self.wake(&record).await {
                Ok(woken) => woken,
                Err(error) => {
                    tracing::info!(sandbox = sandbox_id, %error, "a function's source cannot be woken; the revision serves itself");
                    return None;
                }
            },
        };
        let up = if avoid.iter().any(|id| id == sandbox_id) {
            self.ensure_service_again(&record, &runtime, &revision.service, within).await
        } else if self.is_service_up(&record, &runtime, &revision.service) {
            Ok(())
        } else {
            self.ensure_service(&record, &runtime, &revision.service, within).await
        };
        match up {
            Ok(()) => {
                sources.served(sandbox_id, revision);
                Some(Lease { runtime, sandbox_id: record.id.clone(), _held: Held::Source(held) })
            }
            Err(error) => {
                tracing::info!(sandbox = sandbox_id, %error, "the service of a function's source is down; the revision serves itself");
                None
            }
        }
    }

    /// A source that is deleted serves until an instance is there in its place.
    fn acquire_lingering(&self, sandbox_id: &str, revision: &Arc<RevisionRecord>, newest: i64) -> Option<Lease> {
        let (record, runtime) = self.lingering(sandbox_id)?;
        let moved = self.functions.pools.find(&revision.id).is_some_and(|pool| pool.has_ready());
        if moved || !serves_from_source(revision, newest, &record) || !self.is_service_up(&record, &runtime, &revision.service) {
            return None;
        }
        let held = self.functions.sources.hold_lingering(sandbox_id)?;
        Some(Lease { runtime, sandbox_id: record.id.clone(), _held: Held::Source(held) })
    }

    /// What has to be waited for before the processes of a sandbox are ended: its functions get instances of their own, and what
    /// it serves comes to an end. None when it serves nothing. With its new record only those move that it does not serve any
    /// more; without one it is about to be deleted.
    pub(crate) fn leave_source(self: &Arc<Self>, sandbox_id: &str, now: Option<&SandboxRecord>) -> Option<BoxFuture<'static, ()>> {
        let (mut leaving, in_flight) = self.functions.sources.serving(sandbox_id);
        leaving.retain(|revision| now.is_none_or(|record| !serves_from_source(revision, revision.number, record)));
        if leaving.is_empty() && (in_flight == 0 || now.is_some()) {
            return None;
        }
        let lingering = now.is_none().then(|| self.functions.sources.linger(sandbox_id));
        let (app, sandbox_id) = (Arc::clone(self), sandbox_id.to_owned());
        Some(Box::pin(async move {
            let moved = async {
                join_all(leaving.iter().map(|revision| app.take_over(revision))).await;
                app.functions.sources.idle(&sandbox_id).await;
            };
            if tokio::time::timeout(LINGER_WITHIN, moved).await.is_err() {
                tracing::info!(sandbox = sandbox_id, "requests to a function are ended with its source");
            }
            drop(lingering);
        }))
    }

    /// Returns when a revision serves itself, or cannot.
    async fn take_over(self: &Arc<Self>, revision: &Arc<RevisionRecord>) {
        let known = self.known_function(&revision.function_id).await.ok().flatten();
        // Nobody is sent there any more.
        let Some(known) = known.filter(|known| known.serves(&revision.id)) else { return };
        if let Err(error) = self.acquire_own(&known.function, revision, &[], LINGER_WITHIN).await {
            tracing::warn!(function = known.function.id, revision = revision.number, %error, "a revision cannot take over from its source");
        }
    }
}

impl Sources {
    fn hold(&self, sandbox_id: &str) -> SourceInFlight {
        self.count(&mut self.lock(), sandbox_id)
    }

    /// While a deleted sandbox lingers; once it does not, nobody comes any more.
    fn hold_lingering(&self, sandbox_id: &str) -> Option<SourceInFlight> {
        let mut state = self.lock();
        state.lingering.contains(sandbox_id).then(|| self.count(&mut state, sandbox_id))
    }

    fn count(&self, state: &mut State, sandbox_id: &str) -> SourceInFlight {
        // What was never used was not used for long.
        let never = Instant::now().checked_sub(RECENTLY).unwrap_or_else(Instant::now);
        let used = state.by_sandbox.entry(sandbox_id.to_owned()).or_insert_with(|| Use { in_flight: 0, last_used: never, revisions: HashMap::new() });
        used.in_flight += 1;
        SourceInFlight { state: Arc::clone(&self.state), ended: Arc::clone(&self.ended), sandbox_id: sandbox_id.to_owned() }
    }

    fn served(&self, sandbox_id: &str, revision: &Arc<RevisionRecord>) {
        let mut state = self.lock();
        let Some(used) = state.by_sandbox.get_mut(sandbox_id) else { return };
        used.last_used = Instant::now();
        if !used.revisions.contains_key(&revision.id) {
            used.revisions.insert(revision.id.clone(), Arc::clone(revision));
        }
    }

    fn linger(&self, sandbox_id: &str) -> Lingering {
        self.lock().lingering.insert(sandbox_id.to_owned());
        Lingering { state: Arc::clone(&self.state), sandbox_id: sandbox_id.to_owned() }
    }

    /// The revisions that a sandbox serves now, or did a moment ago, and how many requests it serves.
    pub fn serving(&self, sandbox_id: &str) -> (Vec<Arc<RevisionRecord>>, usize) {
        let state = self.lock();
        let used = state.by_sandbox.get(sandbox_id).filter(|used| used.in_flight > 0 || used.last_used.elapsed() < RECENTLY);
        used.map(|used| (used.revisions.values().cloned().collect(), used.in_flight)).unwrap_or_default()
    }

    /// Resolves when a sandbox serves nothing; nobody comes any more, if it lingers.
    async fn idle(&self, sandbox_id: &str) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            {
                let mut state = self.lock();
                if state.by_sandbox.get(sandbox_id).is_none_or(|used| used.in_flight == 0) {
                    state.lingering.remove(sandbox_id);
                    return;
                }
            }
            ended.await;
        }
    }

    /// Forgets who serves nothing any more.
    pub fn prune(&self) {
        self.lock().by_sandbox.retain(|_, used| used.in_flight > 0 || used.last_used.elapsed() < RECENTLY);
    }

    fn decline(&self, revision_id: &str, until: Option<Instant>) {
        let mut declined = self.declined.lock().unwrap_or_else(PoisonError::into_inner);
        if declined.len() >= DECLINED_MAX {
            declined.clear();
        }
        declined.insert(revision_id.to_owned(), until);
    }

    fn has_declined(&self, revision_id: &str) -> bool {
        let declined = self.declined.lock().unwrap_or_else(PoisonError::into_inner);
        declined.get(revision_id).is_some_and(|until| until.is_none_or(|until| Instant::now() < until))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).lingering.remove(&self.sandbox_id);
    }
}

impl Drop for SourceInFlight {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(used) = state.by_sandbox.get_mut(&self.sandbox_id) else { return };
        used.in_flight = used.in_flight.saturating_sub(1);
        if !used.revisions.is_empty() {
            used.last_used = Instant::now();
        }
        let idle = used.in_flight == 0;
        drop(state);
        if idle {
            self.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_lingers_takes_requests_until_it_is_idle() {
        let sources = Sources::default();
        assert!(sources.hold_lingering("sb").is_none(), "it does not linger");
        let first = sources.hold("sb");
        let lingering = sources.linger("sb");
        let second = sources.hold_lingering("sb").expect("it lingers");
        drop(first);
        assert!(tokio::time::timeout(Duration::from_millis(20), sources.idle("sb")).await.is_err(), "one is under way");
        drop(second);
        sources.idle("sb").await;
        assert!(sources.hold_lingering("sb").is_none(), "whoever comes after the last goes elsewhere");
        drop(lingering);
        let dropped = sources.linger("sb");
        drop(dropped);
        assert!(sources.hold_lingering("sb").is_none());
    }

    #[test]
    fn a_source_that_declined_is_asked_again_after_a_while_or_never() {
        let sources = Sources::default();
        assert!(!sources.has_declined("r"));
        sources.decline("r", Some(Instant::now() + Duration::from_secs(60)));
        sources.decline("s", Some(Instant::now()));
        sources.decline("t", None);
        assert_eq!(["r", "s", "t"].map(|revision| sources.has_declined(revision)), [true, false, true]);
    }
}
