//! Serving from the sandbox that a revision was published from, and moving away from it in time: who deletes it, or puts another
//! service in place of the one that serves, must not cost a request its answer.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join_all};
use sandbar_core::{
    function::{FunctionRecord, PRODUCTION, RevisionRecord, serves_from_source},
    limits,
    sandbox::SandboxRecord,
    service::RuntimeKind,
};
use sandbar_node::{Runtime, error_text};
use tokio::sync::Notify;

use super::{
    instances::READY_WITHIN,
    pool::Audience,
    serve::{FunctionHost, Held, Lease},
};
use crate::{app::App, error::ApiError};

/// A source that does not serve a revision is not asked again for so long: each time may be a read of the database.
const DECLINED: Duration = Duration::from_secs(1);
/// One that should serve it and does not come up is left alone for so long.
const DOWN: Duration = Duration::from_secs(5);
/// One that takes longer to come up is down, however long its requests would wait.
const UP_WITHIN: Duration = Duration::from_secs(limits::FUNCTION_SOURCE_UP_MAX_S);
/// Revisions of which that is remembered.
const DECLINED_MAX: usize = 10_000;
/// How long a sandbox counts as serving after its last request.
const RECENTLY: Duration = Duration::from_secs(60);
const LINGER_WITHIN: Duration = Duration::from_secs(limits::FUNCTION_LINGER_MAX_S);

/// Sandboxes that serve functions now, or did a moment ago.
#[derive(Default)]
pub(super) struct Sources {
    state: Arc<Mutex<State>>,
    /// Revisions whose source does not serve them.
    declined: Mutex<HashMap<String, Declined>>,
    /// Revisions whose source is being waited for behind the requests.
    watched: Arc<Mutex<HashSet<String>>>,
    /// Woken when a request ended, or a sandbox was left.
    ended: Arc<Notify>,
}

/// Why a source does not serve a revision.
#[derive(Debug, Clone, Copy)]
enum Declined {
    /// It is gone for good.
    Gone,
    /// It serves something else; it is asked again from then on.
    Otherwise(Instant),
    /// It should, and did not come up. From then on it is looked at again, and until it is up an instance is better.
    Down(Instant),
}

/// What is known of a source before it is asked.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Asked,
    Declines,
    /// It was down when it was last looked at, which is a while ago.
    Doubtful,
}

#[derive(Default)]
struct State {
    by_sandbox: HashMap<String, Use>,
    /// Deleted ones that go on until others are there in their place.
    lingering: HashSet<String>,
    /// Those whose former services still serve, with how many changes wait for that to end.
    leaving: HashMap<String, usize>,
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

/// Keeps others from ending the former services of a sandbox until it is dropped.
struct Leaving {
    state: Arc<Mutex<State>>,
    ended: Arc<Notify>,
    sandbox_id: String,
}

/// Whose source is being waited for; until it is dropped.
struct Watched {
    all: Arc<Mutex<HashSet<String>>>,
    revision_id: String,
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
        match sources.standing(&revision.id) {
            Standing::Asked => {}
            Standing::Declines => return None,
            Standing::Doubtful => {
                if self.functions.pools.find(&revision.id).is_some_and(|pool| pool.has_ready()) {
                    self.watch_source(sandbox_id, revision, false);
                    return None;
                }
            }
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
                    sources.decline(&revision.id, Declined::Gone);
                }
                return lease;
            }
            Err(error) => {
                tracing::warn!(sandbox = sandbox_id, error = error_text(&error), "a function's source cannot be read");
                return None;
            }
        };
        if !serves_from_source(revision, newest, &looked.0) {
            sources.decline(&revision.id, Declined::Otherwise(Instant::now() + DECLINED));
            return None;
        }
        let again = avoid.iter().any(|id| id == sandbox_id);
        let up = match looked {
            (record, Some(runtime)) if !again && self.is_service_up(&record, &runtime, &revision.service) => Some((record, runtime)),
            (record, runtime) => {
                // We count as in flight, so whoever waits for what is in flight must not be waited for.
                if sources.is_leaving(sandbox_id) {
                    return None;
                }
                // Who asks may go away at any moment; what is found out is for those after it too.
                self.watch_source(sandbox_id, revision, again);
                let raised = tokio::time::timeout(within, self.raise_source((record, runtime), revision, again, within)).await;
                raised.ok().and_then(Result::ok)
            }
        };
        let (record, runtime) = up?;
        sources.served(sandbox_id, revision);
        Some(Lease { runtime, sandbox_id: record.id.clone(), _held: Held::Source(held) })
    }

    /// Wakes a source and waits for its service.
    async fn raise_source(
        self: &Arc<Self>,
        (record, runtime): (Arc<SandboxRecord>, Option<Arc<Runtime>>),
        revision: &RevisionRecord,
        again: bool,
        within: Duration,
    ) -> Result<(Arc<SandboxRecord>, Arc<Runtime>), ApiError> {
        let (record, runtime) = match runtime {
            Some(runtime) => (record, runtime),
            None => self.wake(&record).await?,
        };
        if again {
            self.ensure_service_again(&record, &runtime, &revision.service, within).await?;
        } else {
            self.ensure_service(&record, &runtime, &revision.service, within).await?;
        }
        Ok((record, runtime))
    }

    /// Finds out behind the requests whether a source comes up, once however many ask, and remembers that it does not.
    fn watch_source(self: &Arc<Self>, sandbox_id: &str, revision: &Arc<RevisionRecord>, again: bool) {
        let Some(watched) = self.functions.sources.watch(&revision.id) else { return };
        let (app, revision, sandbox_id) = (Arc::clone(self), Arc::clone(revision), sandbox_id.to_owned());
        self.sandboxes.tasks.spawn(async move {
            let raised = async {
                match app.look(&sandbox_id).await? {
                    Some(looked) => app.raise_source(looked, &revision, again, UP_WITHIN).await.map(drop),
                    // Whoever asks next finds that out too.
                    None => Ok(()),
                }
            };
            let why = match tokio::time::timeout(UP_WITHIN, raised).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.message().to_owned()),
                Err(_) => Some("it is not up in time".to_owned()),
            };
            match why {
                None => app.functions.sources.is_up(&revision.id),
                Some(reason) => {
                    tracing::info!(sandbox = sandbox_id, revision = revision.id, reason, "a function's source is down; the revision serves itself");
                    app.functions.sources.decline(&revision.id, Declined::Down(Instant::now() + DOWN));
                }
            }
            drop(watched);
        });
    }

    /// Returns when the former services of a sandbox serve nobody any more, within a time: a process that is started in their
    /// place ends them.
    pub(crate) async fn source_left(&self, sandbox_id: &str, within: Duration) {
        if self.functions.sources.is_leaving(sandbox_id) {
            // What is late is ended.
            let _ = tokio::time::timeout(within, self.functions.sources.left(sandbox_id)).await;
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
        let leaving_it = now.is_some().then(|| self.functions.sources.leave(sandbox_id));
        let (app, sandbox_id) = (Arc::clone(self), sandbox_id.to_owned());
        Some(Box::pin(async move {
            let moved = async {
                join_all(leaving.iter().map(|revision| app.take_over(revision))).await;
                app.functions.sources.idle(&sandbox_id).await;
            };
            if tokio::time::timeout(LINGER_WITHIN, moved).await.is_err() {
                tracing::info!(sandbox = sandbox_id, "requests to a function are ended with its source");
            }
            drop((lingering, leaving_it));
        }))
    }

    /// Starts the service of a revision's source anew, where that runs and serves it: an instance serves meanwhile, so that nobody
    /// who calls notices.
    pub(super) async fn restart_source(self: &Arc<Self>, function: &FunctionRecord, revision: &Arc<RevisionRecord>) -> Result<(), ApiError> {
        let Some(sandbox_id) = revision.source.sandbox_id() else { return Ok(()) };
        let Some((record, Some(runtime))) = self.look(sandbox_id).await? else { return Ok(()) };
        let RuntimeKind::Cmd { .. } = revision.service.kind() else { return Ok(()) };
        drop(self.acquire_own((function, revision), &[], Audience::Owner, READY_WITHIN).await?);
        let sources = &self.functions.sources;
        sources.decline(&revision.id, Declined::Down(Instant::now() + LINGER_WITHIN + READY_WITHIN));
        // What is late is ended.
        let _ = tokio::time::timeout(LINGER_WITHIN, sources.idle(sandbox_id)).await;
        let restarted = self.restart_service(&record, &runtime, &revision.service, READY_WITHIN).await;
        match restarted {
            Ok(()) => sources.is_up(&revision.id),
            Err(_) => sources.decline(&revision.id, Declined::Down(Instant::now() + DOWN)),
        }
        restarted
    }

    /// Returns when a revision serves itself, or cannot.
    async fn take_over(self: &Arc<Self>, revision: &Arc<RevisionRecord>) {
        let known = self.known_function(&revision.function_id).await.ok().flatten();
        // Nobody is sent there any more.
        let Some(known) = known.filter(|known| known.serves(&revision.id)) else { return };
        if let Err(error) = self.acquire_own((&known.function, revision), &[], Audience::Owner, LINGER_WITHIN).await {
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

    fn leave(&self, sandbox_id: &str) -> Leaving {
        *self.lock().leaving.entry(sandbox_id.to_owned()).or_default() += 1;
        Leaving { state: Arc::clone(&self.state), ended: Arc::clone(&self.ended), sandbox_id: sandbox_id.to_owned() }
    }

    fn is_leaving(&self, sandbox_id: &str) -> bool {
        self.lock().leaving.contains_key(sandbox_id)
    }

    /// Resolves when nobody waits for the former services of a sandbox any more.
    async fn left(&self, sandbox_id: &str) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.is_leaving(sandbox_id) {
                return;
            }
            ended.await;
        }
    }

    /// Begins to watch the source of a revision; none when somebody does already.
    fn watch(&self, revision_id: &str) -> Option<Watched> {
        let is_first = self.watched.lock().unwrap_or_else(PoisonError::into_inner).insert(revision_id.to_owned());
        is_first.then(|| Watched { all: Arc::clone(&self.watched), revision_id: revision_id.to_owned() })
    }

    fn decline(&self, revision_id: &str, why: Declined) {
        let mut declined = self.declined.lock().unwrap_or_else(PoisonError::into_inner);
        if declined.len() >= DECLINED_MAX {
            declined.clear();
        }
        declined.insert(revision_id.to_owned(), why);
    }

    /// A source came up, so that it is not doubted any more.
    fn is_up(&self, revision_id: &str) {
        self.declined.lock().unwrap_or_else(PoisonError::into_inner).remove(revision_id);
    }

    fn standing(&self, revision_id: &str) -> Standing {
        let now = Instant::now();
        match self.declined.lock().unwrap_or_else(PoisonError::into_inner).get(revision_id) {
            None => Standing::Asked,
            Some(Declined::Gone) => Standing::Declines,
            Some(Declined::Otherwise(until) | Declined::Down(until)) if now < *until => Standing::Declines,
            Some(Declined::Otherwise(_)) => Standing::Asked,
            Some(Declined::Down(_)) => Standing::Doubtful,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = state.leaving.get_mut(&self.sandbox_id) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                state.leaving.remove(&self.sandbox_id);
            }
        }
        drop(state);
        self.ended.notify_waiters();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.revision_id);
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
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(60));
        for (why, expected) in [
            (None, Standing::Asked),
            (Some(Declined::Gone), Standing::Declines),
            (Some(Declined::Otherwise(later)), Standing::Declines),
            (Some(Declined::Otherwise(now)), Standing::Asked),
            (Some(Declined::Down(later)), Standing::Declines),
            (Some(Declined::Down(now)), Standing::Doubtful),
        ] {
            if let Some(why) = why {
                sources.decline("r", why);
            }
            assert_eq!(sources.standing("r"), expected, "{why:?}");
        }
        sources.is_up("r");
        assert_eq!(sources.standing("r"), Standing::Asked);
    }

    #[test]
    fn one_watches_a_source() {
        let sources = Sources::default();
        let watched = sources.watch("r").expect("nobody does");
        assert!(sources.watch("r").is_none() && sources.watch("s").is_some());
        drop(watched);
        assert!(sources.watch("r").is_some());
    }

    #[tokio::test]
    async fn who_puts_others_in_place_of_services_waits_until_they_are_left() {
        let sources = Sources::default();
        sources.left("sb").await;
        let (first, second) = (sources.leave("sb"), sources.leave("sb"));
        drop(first);
        let mut left: BoxFuture<'_, ()> = Box::pin(sources.left("sb"));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut left).await.is_err(), "one change still waits");
        drop(second);
        left.await;
    }
}
