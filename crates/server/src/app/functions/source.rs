//! Serving from the sandbox that a revision was published from, and moving away from it in time: who deletes it, or puts another
//! service in place of the one that serves, must not cost a request its answer.

use std::{
    collections::HashMap,
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

/// How long a sandbox counts as serving after its last request.
const RECENTLY: Duration = Duration::from_secs(60);
const LINGER_WITHIN: Duration = Duration::from_secs(limits::FUNCTION_LINGER_MAX_S);

/// Sandboxes that serve functions now, or did a moment ago.
#[derive(Default)]
pub(super) struct Sources {
    by_sandbox: Arc<Mutex<HashMap<String, Use>>>,
    /// Woken when a request ended.
    ended: Arc<Notify>,
}

struct Use {
    in_flight: usize,
    last_used: Instant,
    revisions: HashMap<String, Arc<RevisionRecord>>,
}

/// A request that a source serves; until it is dropped.
pub(super) struct SourceInFlight {
    by_sandbox: Arc<Mutex<HashMap<String, Use>>>,
    ended: Arc<Notify>,
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
        let looked = match self.look(sandbox_id).await {
            Ok(Some(looked)) => looked,
            Ok(None) => return self.acquire_lingering(sandbox_id, revision, newest),
            Err(error) => {
                tracing::warn!(sandbox = sandbox_id, error = error_text(&error), "a function's source cannot be read");
                return None;
            }
        };
        if !serves_from_source(revision, newest, &looked.0) {
            return None;
        }
        // Counted from here on, so that nobody ends it under the request.
        let held = self.functions.sources.hold(sandbox_id, revision);
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
            Ok(()) => Some(Lease { runtime, sandbox_id: record.id.clone(), _held: Held::Source(held) }),
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
        let held = self.functions.sources.hold(sandbox_id, revision);
        Some(Lease { runtime, sandbox_id: record.id.clone(), _held: Held::Source(held) })
    }

    /// What has to be waited for before the processes of a sandbox are ended: its functions get instances of their own, and what
    /// it serves comes to an end. None when it serves nothing. With its new record only those move that it does not serve any
    /// more.
    pub(crate) fn leave_source(self: &Arc<Self>, sandbox_id: &str, now: Option<&SandboxRecord>) -> Option<BoxFuture<'static, ()>> {
        let mut leaving = self.functions.sources.serving(sandbox_id);
        leaving.retain(|revision| now.is_none_or(|record| !serves_from_source(revision, revision.number, record)));
        if leaving.is_empty() {
            return None;
        }
        let (app, sandbox_id) = (Arc::clone(self), sandbox_id.to_owned());
        Some(Box::pin(async move {
            let moved = async {
                join_all(leaving.iter().map(|revision| app.take_over(revision))).await;
                app.functions.sources.idle(&sandbox_id).await;
            };
            if tokio::time::timeout(LINGER_WITHIN, moved).await.is_err() {
                tracing::info!(sandbox = sandbox_id, "requests to a function are ended with its source");
            }
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
    fn hold(&self, sandbox_id: &str, revision: &Arc<RevisionRecord>) -> SourceInFlight {
        let now = Instant::now();
        let mut uses = self.lock();
        let used = uses.entry(sandbox_id.to_owned()).or_insert_with(|| Use { in_flight: 0, last_used: now, revisions: HashMap::new() });
        used.in_flight += 1;
        used.last_used = now;
        if !used.revisions.contains_key(&revision.id) {
            used.revisions.insert(revision.id.clone(), Arc::clone(revision));
        }
        SourceInFlight { by_sandbox: Arc::clone(&self.by_sandbox), ended: Arc::clone(&self.ended), sandbox_id: sandbox_id.to_owned() }
    }

    /// The revisions that a sandbox serves now, or did a moment ago.
    pub fn serving(&self, sandbox_id: &str) -> Vec<Arc<RevisionRecord>> {
        let uses = self.lock();
        let used = uses.get(sandbox_id).filter(|used| used.in_flight > 0 || used.last_used.elapsed() < RECENTLY);
        used.map(|used| used.revisions.values().cloned().collect()).unwrap_or_default()
    }

    /// Resolves when a sandbox serves nothing.
    async fn idle(&self, sandbox_id: &str) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.lock().get(sandbox_id).is_none_or(|used| used.in_flight == 0) {
                return;
            }
            ended.await;
        }
    }

    /// Forgets who serves nothing any more.
    pub fn prune(&self) {
        self.lock().retain(|_, used| used.in_flight > 0 || used.last_used.elapsed() < RECENTLY);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Use>> {
        self.by_sandbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SourceInFlight {
    fn drop(&mut self) {
        let mut uses = self.by_sandbox.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(used) = uses.get_mut(&self.sandbox_id) else { return };
        used.in_flight = used.in_flight.saturating_sub(1);
        used.last_used = Instant::now();
        let idle = used.in_flight == 0;
        drop(uses);
        if idle {
            self.ended.notify_waiters();
        }
    }
}
