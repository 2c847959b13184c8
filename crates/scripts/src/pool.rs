//! Worker processes: one for each team that has something to run, so that who breaks out of the engine finds only their own
//! team's calls; and one that is nobody's yet, so that a first call does not wait for a start. TypeScript is read by others ([`strip`]).
//!
//! ```text
//! call ─▶ seat of the team ─▶ its turn (so many at once) ─▶ memory (so much on this machine) ─▶ link
//! ```
//!
//! A worker has at most [`WorkersConfig::calls_per_worker_max`] calls, all of them together no more memory than
//! [`WorkersConfig::memory_bytes_max`]: what calls may take is reserved before they begin.

mod process;
mod strip;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{AcquireError, Notify, OnceCell, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Call, CheckError, Failure, FailureCode, Host, Link, Outcome, Ran, Recording, Replayed, Usage};
use process::{Launcher, StartError};
use strip::STRIPS_MAX;
pub use strip::StripError;

/// What an instance of the engine takes beside the memory that its script may have.
const CALL_OVERHEAD_BYTES: u64 = 32 << 20;
/// What compiling a script may take.
const CHECK_BYTES: u64 = 256 << 20;
/// Of memory that is reserved.
const MEMORY_UNIT: u64 = 1 << 20;
/// Workers that start at once, when it is known that they do start: the first one compiles the engine for all.
const STARTS_MAX: usize = 4;
/// A worker that was found gone is replaced so often for one call.
const TRIES_MAX: usize = 3;

/// What workers are and how many there may be.
#[derive(Debug, Clone)]
pub struct WorkersConfig {
    /// Executed with `argument`; `/proc/self/exe` is this very program, also after its file was replaced.
    pub program: PathBuf,
    pub argument: String,
    /// Where the compiled engine is kept, a folder that is there; without one each worker compiles it.
    pub cache_dir: Option<PathBuf>,
    pub workers_max: usize,
    pub calls_per_worker_max: usize,
    /// Of one team, beyond those that run.
    pub waiting_max: usize,
    /// How long a call waits for its turn.
    pub wait_max: Duration,
    /// How long reading one source of TypeScript may take.
    pub strip_max: Duration,
    /// Of all calls at once.
    pub memory_bytes_max: u64,
    /// After which a worker without calls is ended.
    pub idle_max: Duration,
    /// Keep one worker started that is nobody's yet.
    pub spare: bool,
}

impl WorkersConfig {
    pub fn new(cache_dir: Option<PathBuf>) -> Self {
        Self {
            program: "/proc/self/exe".into(),
            argument: "script-engine".into(),
            cache_dir,
            workers_max: 32,
            calls_per_worker_max: 64,
            waiting_max: 1024,
            wait_max: Duration::from_secs(60),
            strip_max: Duration::from_secs(5),
            memory_bytes_max: 8 << 30,
            idle_max: Duration::from_secs(60),
            spare: true,
        }
    }
}

/// Clones are the same workers.
#[derive(Debug, Clone)]
pub struct Workers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: WorkersConfig,
    state: Mutex<State>,
    /// A seat has nobody any more.
    left: Notify,
    memory: Arc<Semaphore>,
    launcher: Launcher,
    starts: Semaphore,
    strips: Semaphore,
    closing: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    seats: HashMap<String, Seat>,
    /// Turns of teams that have TypeScript to read.
    strips: HashMap<String, Arc<Semaphore>>,
    spare: Spare,
    /// Somebody ends idle workers.
    swept: bool,
    /// One has started: the engine is compiled.
    started: bool,
}

#[derive(Debug)]
struct Seat {
    worker: Arc<OnceCell<Link>>,
    turns: Arc<Semaphore>,
    /// Calls that have or want the worker.
    users: usize,
    used: Instant,
}

#[derive(Debug, Default)]
enum Spare {
    #[default]
    None,
    Starting,
    Ready(Link),
}

/// A call's hold on its team's seat.
struct User<'w> {
    inner: &'w Inner,
    team_id: &'w str,
}

/// A call that may begin.
struct Entered<'w> {
    link: Link,
    _memory: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
    _user: User<'w>,
}

impl Workers {
    /// Starts nothing yet.
    pub fn new(mut config: WorkersConfig) -> Self {
        // Workers begin elsewhere.
        config.cache_dir = config.cache_dir.map(|dir| std::path::absolute(&dir).unwrap_or(dir));
        let memory = usize::try_from(config.memory_bytes_max / MEMORY_UNIT).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let inner = Inner {
            launcher: Launcher::new(&config),
            state: Mutex::default(),
            left: Notify::new(),
            memory: Arc::new(Semaphore::new(memory)),
            starts: Semaphore::new(1),
            strips: Semaphore::new(STRIPS_MAX),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts the spare worker in the background, if there is to be one.
    pub fn warm(&self) {
        self.inner.refill();
    }

    /// Runs a script in the worker of its team. An engine that cannot be had is an internal failure of the call.
    pub async fn run(&self, team_id: &str, call: Call, host: &dyn Host, cancel: &CancellationToken) -> Ran {
        match self.enter(team_id, call.limits.memory_bytes, cancel).await {
            Ok(entered) => entered.link.run(call, host, cancel).await,
            Err(failure) => refused(&call, failure),
        }
    }

    /// Runs a script as it ran before.
    pub async fn replay(&self, team_id: &str, call: Call, recording: &Recording, cancel: &CancellationToken) -> Replayed {
        match self.enter(team_id, call.limits.memory_bytes, cancel).await {
            Ok(entered) => entered.link.replay(call, recording, cancel).await,
            Err(failure) => Replayed { ran: refused(&call, failure), diverged: Vec::new() },
        }
    }

    /// Whether a script of this team can be compiled.
    ///
    /// # Errors
    /// Where it is wrong; or why that is not known.
    pub async fn check(&self, team_id: &str, code: &str, name: &str) -> Result<(), CheckError> {
        match self.enter(team_id, CHECK_BYTES, &CancellationToken::new()).await {
            Ok(entered) => entered.link.check(code, name).await,
            Err(failure) => Err(CheckError::Engine(failure.message)),
        }
    }

    /// How many there are, the spare one aside.
    pub fn count(&self) -> usize {
        self.inner.state().seats.len()
    }

    /// Ends all workers, and the calls that they have.
    pub async fn shutdown(&self) {
        self.inner.closing.cancel();
        let (links, spare) = {
            let mut state = self.inner.state();
            let links: Vec<Link> = state.seats.values().filter_map(|seat| seat.worker.get().cloned()).collect();
            (links, std::mem::take(&mut state.spare))
        };
        for link in links.into_iter().chain(spare.into_link()) {
            link.end("the server stops");
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    async fn enter<'w>(&'w self, team_id: &'w str, memory_bytes: u64, cancel: &CancellationToken) -> Result<Entered<'w>, Failure> {
        let inner = &*self.inner;
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Failure { code: FailureCode::Cancelled, name: "CancelledError".into(), message: "cancelled".into(), stack: None }),
            () = inner.closing.cancelled() => Err(Failure::internal("the server stops")),
            entered = timeout(inner.config.wait_max, self.wait(team_id, memory_bytes)) => {
                entered.unwrap_or_else(|_| Err(Failure::internal(format!("there was no room for the call within {} s", inner.config.wait_max.as_secs()))))
            }
        }
    }

    async fn wait<'w>(&'w self, team_id: &'w str, memory_bytes: u64) -> Result<Entered<'w>, Failure> {
        let inner = &self.inner;
        let user = inner.sit(team_id).await?;
        let turns = inner.turns(team_id).ok_or_else(|| Failure::internal("the engine was taken away"))?;
        let closed = |_| Failure::internal("the server stops");
        let turn = turns.acquire_owned().await.map_err(closed)?;
        let memory = inner.reserve(memory_bytes + CALL_OVERHEAD_BYTES).await.map_err(closed)?;
        let link = inner.link(team_id).await?;
        Ok(Entered { link, _memory: memory, _turn: turn, _user: user })
    }
}

impl Inner {
    /// A seat for the team, in which it stays as long as it has users.
    async fn sit<'w>(self: &'w Arc<Self>, team_id: &'w str) -> Result<User<'w>, Failure> {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if self.try_sit(team_id)? {
                return Ok(User { inner: self, team_id });
            }
            left.await;
        }
    }

    /// False when all seats are taken by others who use them.
    fn try_sit(self: &Arc<Self>, team_id: &str) -> Result<bool, Failure> {
        let mut state = self.state();
        if let Some(seat) = state.seats.get_mut(team_id) {
            if seat.users >= self.config.calls_per_worker_max + self.config.waiting_max {
                return Err(Failure::internal(format!("{} calls of this team wait already", self.config.waiting_max)));
            }
            seat.users += 1;
            return Ok(true);
        }
        if state.seats.len() >= self.config.workers_max {
            let longest = state.seats.iter().filter(|(_, seat)| seat.users == 0).min_by_key(|(_, seat)| seat.used);
            let Some(team_id) = longest.map(|(team_id, _)| team_id.clone()) else { return Ok(false) };
            state.remove(&team_id);
        }
        let turns = Arc::new(Semaphore::new(self.config.calls_per_worker_max));
        state.seats.insert(team_id.to_owned(), Seat { worker: Arc::default(), turns, users: 1, used: Instant::now() });
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.config.idle_max, self.closing.clone()));
        }
        Ok(true)
    }

    /// One that wants more than there is has all of it.
    async fn reserve(&self, bytes: u64) -> Result<OwnedSemaphorePermit, AcquireError> {
        let units = bytes.div_ceil(MEMORY_UNIT).min(self.config.memory_bytes_max / MEMORY_UNIT);
        Arc::clone(&self.memory).acquire_many_owned(units as u32).await
    }

    fn turns(&self, team_id: &str) -> Option<Arc<Semaphore>> {
        self.state().seats.get(team_id).map(|seat| Arc::clone(&seat.turns))
    }

    /// The team's worker, started if need be.
    async fn link(self: &Arc<Self>, team_id: &str) -> Result<Link, Failure> {
        for _ in 0..TRIES_MAX {
            let worker = self.state().seats.get(team_id).map(|seat| Arc::clone(&seat.worker));
            let worker = worker.ok_or_else(|| Failure::internal("the engine was taken away"))?;
            let link = worker.get_or_try_init(|| self.take_or_start()).await;
            let link = link.map_err(|error| Failure::internal(format!("the engine could not be started: {error}")))?;
            if !link.is_gone() {
                return Ok(link.clone());
            }
            if let Some(seat) = self.state().seats.get_mut(team_id).filter(|seat| Arc::ptr_eq(&seat.worker, &worker)) {
                seat.worker = Arc::default();
            }
        }
        Err(Failure::internal("the engine ends as soon as it has started"))
    }

    async fn take_or_start(self: &Arc<Self>) -> Result<Link, StartError> {
        let spare = match &self.state().spare {
            Spare::Ready(_) => true,
            Spare::None | Spare::Starting => false,
        };
        let spare = spare.then(|| std::mem::take(&mut self.state().spare).into_link()).flatten().filter(|link| !link.is_gone());
        let link = match spare {
            Some(link) => link,
            None => self.start().await?,
        };
        self.refill();
        Ok(link)
    }

    /// Starts another spare worker when there is none.
    fn refill(self: &Arc<Self>) {
        let mut state = self.state();
        let wanted = match &state.spare {
            Spare::None => true,
            Spare::Starting => false,
            Spare::Ready(link) => link.is_gone(),
        };
        if !wanted || !self.config.spare || self.closing.is_cancelled() {
            return;
        }
        state.spare = Spare::Starting;
        drop(state);
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            let started = tokio::select! {
                started = inner.start() => started,
                () = inner.closing.cancelled() => return,
            };
            let mut state = inner.state();
            state.spare = match started {
                Ok(link) if inner.closing.is_cancelled() => {
                    link.end("the server stops");
                    Spare::None
                }
                Ok(link) => Spare::Ready(link),
                Err(error) => {
                    tracing::warn!(%error, "no spare script engine could be started");
                    Spare::None
                }
            };
        });
    }

    async fn start(self: &Arc<Self>) -> Result<Link, StartError> {
        let _one = self.starts.acquire().await.map_err(|_| StartError::Closed)?;
        let link = process::start(&self.launcher, &self.tasks).await?;
        if !std::mem::replace(&mut self.state().started, true) {
            self.starts.add_permits(STARTS_MAX - 1);
        }
        Ok(link)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, team_id: &str) {
        if let Some(link) = self.seats.remove(team_id).and_then(|seat| seat.worker.get().cloned()) {
            link.end("the engine was not used any more");
        }
    }
}

impl Spare {
    fn into_link(self) -> Option<Link> {
        match self {
            Self::Ready(link) => Some(link),
            Self::None | Self::Starting => None,
        }
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.inner.state().seats.get_mut(self.team_id) {
            seat.users -= 1;
            seat.used = Instant::now();
        }
        self.inner.left.notify_waiters();
    }
}

/// Ends workers that nobody has used for a while.
async fn sweep(inner: Weak<Inner>, idle_max: Duration, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(idle_max / 4) => {}
            () = closing.cancelled() => return,
        }
        let Some(inner) = inner.upgrade() else { return };
        let mut state = inner.state();
        let idle = state.seats.iter().filter(|(_, seat)| seat.users == 0 && seat.used.elapsed() >= idle_max);
        for team_id in idle.map(|(team_id, _)| team_id.clone()).collect::<Vec<_>>() {
            state.remove(&team_id);
        }
    }
}

fn refused(call: &Call, failure: Failure) -> Ran {
    let outcome = Outcome { result: Err(failure), logs: Vec::new(), usage: Usage::default(), clock: None };
    Ran { outcome, recording: Recording { seed: hex::encode(call.seed), ..Recording::default() } }
}
