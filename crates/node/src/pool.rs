//! The warm pool: complete, started runtimes that nobody owns yet. A claim takes one out of memory; the refill runs
//! behind and yields to claims.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sandbar_core::pacing::{self, Machine, Pace};
use tokio::sync::{Notify, Semaphore};

use crate::{
    Node,
    launcher::Priority,
    runtime::{Runtime, RuntimeSpec},
};

/// A pool is never larger, whatever a template asks for.
const IDLE_MAX: u32 = 1000;
/// Wait after a launch for the pool failed; doubled up to the second figure while it goes on failing.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Runtimes with warm processes that come up at one time; most of them wait for a probe.
const SLOW_MAX: usize = 16;
/// Of those, for one pool whose last one came up. Of one that never did, or not the last time, a single one: it may take
/// its whole time to fail, and others wait for the places.
const SLOW_PER_POOL_MAX: u32 = 4;
/// How long the refill stands back while claims wait for launches.
const YIELD: Duration = Duration::from_millis(2);
/// The refill begins when no claim has come for this long, so that it does not take the processor from the next one of
/// a series, but after the second figure in any case.
const QUIET: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// Idle runtimes whose agent died are looked for this often.
const CHECK_EVERY: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct Pools {
    pools: Mutex<HashMap<String, Pool>>,
    changed: Notify,
    last_claim: Mutex<Option<Instant>>,
}

struct Pool {
    spec: RuntimeSpec,
    min_idle: u32,
    idle: VecDeque<Arc<Runtime>>,
    /// On their way into it.
    starting: u32,
    /// Whether the last launch succeeded.
    proven: bool,
    /// Launches that failed in a row.
    failures: u32,
    /// Not before this, after a failure.
    next_try: Option<Instant>,
    last_error: Option<String>,
}

/// What a pool looks like now.
#[derive(Debug, Clone)]
pub struct PoolStatus {
    pub key: String,
    pub min_idle: u32,
    pub idle: u32,
    /// Why the last launch failed, until one succeeds.
    pub last_error: Option<String>,
}

impl Pools {
    /// An idle runtime of the right image; its limits may still have to be changed.
    pub fn pop(&self, key: &str, spec: &RuntimeSpec) -> Option<Arc<Runtime>> {
        let mut pools = self.lock();
        let pool = pools.get_mut(key).filter(|pool| pool.spec.is_alike(spec))?;
        // One that ended by itself stays for the refill to clear away.
        let alive = pool.idle.iter().position(|runtime| !runtime.has_ended() && runtime.is_well());
        let taken = alive.and_then(|at| pool.idle.remove(at));
        drop(pools);
        *self.last_claim.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.changed.notify_one();
        taken
    }

    /// Sets what is kept; returns runtimes that are too many or of a former kind.
    pub fn keep(&self, key: &str, spec: RuntimeSpec, min_idle: u32) -> Vec<Arc<Runtime>> {
        let mut pools = self.lock();
        let mut surplus = Vec::new();
        let min_idle = min_idle.min(IDLE_MAX);
        if min_idle == 0 {
            surplus.extend(pools.remove(key).into_iter().flat_map(|pool| pool.idle));
        } else {
            let pool = pools.entry(key.to_owned()).or_insert_with(|| Pool {
                spec: spec.clone(),
                min_idle,
                idle: VecDeque::new(),
                starting: 0,
                proven: false,
                failures: 0,
                next_try: None,
                last_error: None,
            });
            if pool.spec != spec {
                surplus.extend(pool.idle.drain(..));
                pool.spec = spec;
                (pool.proven, pool.failures, pool.next_try, pool.last_error) = (false, 0, None, None);
            }
            pool.min_idle = min_idle;
            while pool.idle.len() > min_idle as usize {
                surplus.extend(pool.idle.pop_back());
            }
        }
        drop(pools);
        self.changed.notify_one();
        surplus
    }

    pub fn status(&self) -> Vec<PoolStatus> {
        let pools = self.lock();
        pools
            .iter()
            .map(|(key, pool)| PoolStatus {
                key: key.clone(),
                min_idle: pool.min_idle,
                idle: u32::try_from(pool.idle.len()).unwrap_or(u32::MAX),
                last_error: pool.last_error.clone(),
            })
            .collect()
    }

    /// Ends all pools.
    pub fn drain(&self) -> Vec<Arc<Runtime>> {
        self.lock().drain().flat_map(|(_, pool)| pool.idle).collect()
    }

    /// Waits for the end of a series of claims.
    async fn quiet(&self) {
        let begun = Instant::now();
        while begun.elapsed() < QUIET.1 {
            let since = self.last_claim.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed());
            match since {
                Some(since) if since < QUIET.0 => tokio::time::sleep(QUIET.0 - since).await,
                _ => return,
            }
        }
    }

    /// A pool that is short of runtimes; the one that lacks the largest part of its own first.
    /// The caller launches one for it and then calls [`Pools::put`] or [`Pools::note_failure`].
    fn shortest(&self, slow_too: bool) -> Option<(String, RuntimeSpec)> {
        let now = Instant::now();
        let mut pools = self.lock();
        pools
            .iter_mut()
            .filter(|(_, pool)| (pool.idle.len() as u32) + pool.starting < pool.min_idle && pool.next_try.is_none_or(|at| at <= now))
            .filter(|(_, pool)| pool.spec.warm.is_empty() || (slow_too && pool.starting < if pool.proven { SLOW_PER_POOL_MAX } else { 1 }))
            .min_by_key(|(_, pool)| (pool.idle.len() + pool.starting as usize) * 1000 / pool.min_idle.max(1) as usize)
            .map(|(key, pool)| {
                pool.starting += 1;
                (key.clone(), pool.spec.clone())
            })
    }

    /// How long until a pool that failed may be tried again.
    fn until_next_try(&self) -> Duration {
        let now = Instant::now();
        let pools = self.lock();
        let short = pools.values().filter(|pool| (pool.idle.len() as u32) + pool.starting < pool.min_idle);
        short.filter_map(|pool| pool.next_try).map(|at| at.saturating_duration_since(now)).min().unwrap_or(CHECK_EVERY)
    }

    /// Puts a new runtime in; given back when the pool changed meanwhile.
    fn put(&self, key: &str, spec: &RuntimeSpec, runtime: Arc<Runtime>) -> Option<Arc<Runtime>> {
        let mut pools = self.lock();
        let mut pool = pools.get_mut(key);
        if let Some(pool) = &mut pool {
            pool.starting = pool.starting.saturating_sub(1);
            (pool.proven, pool.failures, pool.next_try) = (true, 0, None);
        }
        match pool {
            Some(pool) if &pool.spec == spec && (pool.idle.len() as u32) < pool.min_idle => {
                pool.last_error = None;
                pool.idle.push_back(runtime);
                None
            }
            _ => Some(runtime),
        }
    }

    fn note_failure(&self, key: &str, error: String) {
        if let Some(pool) = self.lock().get_mut(key) {
            pool.starting = pool.starting.saturating_sub(1);
            let wait = BACKOFF.0.saturating_mul(1 << pool.failures.min(16)).min(BACKOFF.1);
            pool.proven = false;
            pool.failures = pool.failures.saturating_add(1);
            pool.next_try = Some(Instant::now() + wait);
            pool.last_error = Some(error);
        }
    }

    fn take_ended(&self) -> Vec<Arc<Runtime>> {
        let mut ended = Vec::new();
        for pool in self.lock().values_mut() {
            let (dead, alive) = pool.idle.drain(..).partition::<Vec<_>, _>(|runtime| runtime.has_ended());
            pool.idle.extend(alive);
            ended.extend(dead);
        }
        ended
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// The one task that fills pools, so that no slot has two owners.
    pub(crate) fn start_refill(&self) {
        let node = self.clone();
        self.inner.tasks.spawn(async move { node.refill().await });
    }

    async fn refill(&self) {
        let pools = &self.inner.pools;
        let stop = &self.inner.stop;
        let slow = Arc::new(Semaphore::new(SLOW_MAX));
        // Only waits are cut short by a stop: a launch under way is finished and then discarded by its owner.
        while !stop.is_cancelled() {
            for runtime in pools.take_ended() {
                tracing::warn!(runtime = runtime.id, "an idle runtime ended by itself");
                self.discard(runtime);
            }
            if self.inner.launcher.has_waiting_claims() {
                tokio::time::sleep(YIELD).await;
                continue;
            }
            let Some((key, spec)) = pools.shortest(slow.available_permits() > 0) else {
                // A claim or a change wakes us at once; the check is for runtimes that died in the pool.
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = pools.changed.notified() => {}
                    () = tokio::time::sleep(pools.until_next_try().min(CHECK_EVERY)) => {}
                }
                continue;
            };
            pools.quiet().await;
            match pacing::next_launch(machine(), spec.limits.memory_bytes) {
                Pace::NoMemory => {
                    pools.note_failure(&key, "too little free memory to keep idle sandboxes".into());
                    continue;
                }
                Pace::After(wait) => tokio::time::sleep(wait).await,
            }
            if spec.warm.is_empty() {
                self.fill(&key, &spec).await;
                continue;
            }
            // Whose processes take their time, or never come up, keeps no other pool waiting.
            let Ok(place) = Arc::clone(&slow).acquire_owned().await else { return };
            let node = self.clone();
            self.inner.tasks.spawn(async move {
                node.fill(&key, &spec).await;
                drop(place);
                node.inner.pools.changed.notify_one();
            });
        }
    }

    /// Launches one runtime for a pool.
    async fn fill(&self, key: &str, spec: &RuntimeSpec) {
        let launched = match self.create_root().await {
            Ok(root) => match self.launch_with(spec, root.clone(), Priority::Refill).await {
                Err(error) => {
                    self.inner.roots.remove(&root);
                    Err(error)
                }
                ok => ok,
            },
            Err(error) => Err(error),
        };
        match launched {
            Ok(runtime) => {
                if let Some(surplus) = self.inner.pools.put(key, spec, runtime) {
                    self.discard(surplus);
                }
            }
            Err(error) => {
                let text = crate::error_text(&error);
                tracing::warn!(pool = key, error = text, "a launch for the pool failed");
                self.inner.pools.note_failure(key, text);
            }
        }
    }
}

/// What the machine is busy with now.
fn machine() -> Machine {
    let available = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let runnable = || {
        let text = std::fs::read_to_string("/proc/loadavg").ok()?;
        let running = text.split_whitespace().nth(3)?.split('/').next()?.parse::<u64>().ok()?;
        // This thread is one of them.
        Some(running.saturating_sub(1))
    };
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    Machine { free_memory_bytes: available(), runnable: runnable(), cores }
}
