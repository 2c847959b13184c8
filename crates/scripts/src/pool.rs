//! Worker processes: one for each team that has something to run, so that who breaks out of the engine finds only their own
//! team's calls; and one that is nobody's yet, so that a first call does not wait for a start. TypeScript is read by others ([`strip`]).
//!
//! ```text
//! call ─▶ seat of the team ─▶ its turn (so many at once) ─▶ the team's memory ─▶ memory of all ─▶ link
//! ```
//!
//! A worker has at most [`WorkersConfig::calls_per_worker_max`] calls, a team no more than its part of
//! [`WorkersConfig::memory_bytes_max`], and who finds no room for [`WorkersConfig::wait_max`] is refused and may come again.
//!
//! What is reserved is what calls are likely to take and not what they may: most wait for something, in a mebibyte or two. Who
//! takes more than that together with all others meets the kernel, which ends the largest worker first (see
//! `sandbar_linux::confine`), and that is the worker of the team that took it.

mod process;
mod seats;
mod strip;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Call, CheckError, Failure, FailureCode, Host, Link, Ran, Recording, Replayed, worker};
use process::{Launcher, StartError};
use seats::{Spare, State, User};
use strip::STRIPS_MAX;
pub use strip::StripError;

/// What a call is likely to take, whatever it may: an instance of the engine, and of the memory that its script may have so much.
const CALL_OVERHEAD_BYTES: u64 = 16 << 20;
const CALL_LIKELY_BYTES: u64 = 16 << 20;
/// Scripts of different teams that are compiled at once. They take nothing of what is there for calls, and so wait for none.
/// Of one team, one: its worker has one thread for it.
const CHECKS_MAX: usize = 8;
/// Of the machine's memory all calls may have this part, and no more than that.
const MEMORY_PART: u64 = 2;
const MEMORY_BYTES_MAX: u64 = 8 << 30;
/// For each worker of a team that is busy there is to be so much of it.
const WORKER_BYTES: u64 = 64 << 20;
/// Of memory that is reserved.
const MEMORY_UNIT: u64 = 1 << 20;
/// Workers that start at once, when it is known that they do start: the first one compiles the engine for all.
const STARTS_MAX: usize = 4;
/// A worker that was found gone is replaced so often for one call.
const TRIES_MAX: usize = 3;
/// Until all workers are reaped.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// What workers are and how many there may be.
#[derive(Debug, Clone)]
pub struct WorkersConfig {
    /// Executed with `argument`; `/proc/self/exe` is this very program, also after its file was replaced.
    pub program: PathBuf,
    pub argument: String,
    /// Where the compiled engine is kept, a folder that is there; without one each worker compiles it.
    pub cache_dir: Option<PathBuf>,
    /// More begin only when all of these have calls of other teams.
    pub workers_max: usize,
    /// How many there may be then. Each is of another team.
    pub workers_busy_max: usize,
    pub calls_per_worker_max: usize,
    /// Of one team, beyond those that run.
    pub waiting_max: usize,
    /// How long a call waits for its turn.
    pub wait_max: Duration,
    /// How long reading one source of TypeScript may take.
    pub strip_max: Duration,
    /// Of all calls at once, as it is reserved for them.
    pub memory_bytes_max: u64,
    /// A team may have this part of it.
    pub memory_team_part: u64,
    /// After which a worker without calls is ended.
    pub idle_max: Duration,
    /// Keep one worker started that is nobody's yet.
    pub spare: bool,
}

impl WorkersConfig {
    pub fn new(cache_dir: Option<PathBuf>) -> Self {
        let memory_bytes_max = memory_total().map_or(MEMORY_BYTES_MAX, |total| (total / MEMORY_PART).min(MEMORY_BYTES_MAX));
        Self {
            program: "/proc/self/exe".into(),
            argument: "script-engine".into(),
            cache_dir,
            workers_max: 32,
            workers_busy_max: usize::try_from(memory_bytes_max / WORKER_BYTES).unwrap_or(usize::MAX).max(32),
            calls_per_worker_max: worker::CALLS_MAX,
            waiting_max: 1024,
            wait_max: Duration::from_secs(2),
            strip_max: Duration::from_secs(5),
            memory_bytes_max,
            memory_team_part: 4,
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
    checks: Arc<Semaphore>,
    launcher: Launcher,
    starts: Semaphore,
    strips: Semaphore,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// A call that may begin.
struct Entered {
    link: Link,
    place: Place,
}

/// What a call has until the engine has let go of it.
#[derive(Debug)]
struct Place {
    user: User,
    _permits: Vec<OwnedSemaphorePermit>,
}

/// What a call wants to have room for.
#[derive(Debug, Clone, Copy)]
enum Want {
    Run,
    Check,
}

/// Why a call does not begin.
enum Refused {
    Failed(Failure),
    /// Too many others are at it.
    Busy(String),
}

impl Workers {
    /// Starts nothing yet.
    pub fn new(mut config: WorkersConfig) -> Self {
        // Workers begin elsewhere.
        config.cache_dir = config.cache_dir.map(|dir| std::path::absolute(&dir).unwrap_or(dir));
        let memory = config.units();
        let inner = Inner {
            launcher: Launcher::new(&config),
            state: Mutex::default(),
            left: Notify::new(),
            memory: Arc::new(Semaphore::new(memory)),
            checks: Arc::new(Semaphore::new(CHECKS_MAX)),
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

    /// Runs a script in the worker of its team. An engine that cannot be had is an internal failure of the call, and one that has no
    /// room for it at the moment such a one as [`Failure::is_busy`] tells of.
    pub async fn run(&self, team_id: &str, call: Call, host: &dyn Host, cancel: &CancellationToken) -> Ran {
        match self.enter(team_id, Want::Run, cancel).await {
            Ok(Entered { link, place }) => link.run_holding(Some(Box::new(place)), call, host, cancel).await,
            Err(refused) => refused.ran(&call),
        }
    }

    /// Runs a script as it ran before.
    pub async fn replay(&self, team_id: &str, call: Call, recording: &Recording, cancel: &CancellationToken) -> Replayed {
        match self.enter(team_id, Want::Run, cancel).await {
            Ok(Entered { link, place }) => link.replay(Some(Box::new(place)), call, recording, cancel).await,
            Err(refused) => Replayed { ran: refused.ran(&call), diverged: Vec::new() },
        }
    }

    /// Whether a script of this team can be compiled. The first ever waits until the engine itself is.
    ///
    /// # Errors
    /// Where it is wrong; or why that is not known.
    pub async fn check(&self, team_id: &str, code: &str, name: &str) -> Result<(), CheckError> {
        match self.enter(team_id, Want::Check, &CancellationToken::new()).await {
            Ok(Entered { link, place }) => {
                let (code, name) = (code.to_owned(), name.to_owned());
                // It has its place until the engine has answered, whether somebody waits for that or not.
                let checked = self.inner.tasks.spawn(async move {
                    let _place = place;
                    link.check(&code, &name).await
                });
                checked.await.unwrap_or_else(|_| Err(CheckError::Engine("the server stops".to_owned())))
            }
            Err(Refused::Failed(failure)) => Err(CheckError::Engine(failure.message)),
            Err(Refused::Busy(why)) => Err(CheckError::Busy(why)),
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
            (links, state.spare.take_ready())
        };
        for link in links.into_iter().chain(spare) {
            link.end("the server stops");
        }
        self.inner.tasks.close();
        // One that the kernel does not end would hold up the end of the server.
        if timeout(SHUTDOWN_MAX, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("script engines have not ended; they are left to the kernel");
        }
    }

    async fn enter(&self, team_id: &str, want: Want, cancel: &CancellationToken) -> Result<Entered, Refused> {
        let inner = &self.inner;
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                Err(Refused::Failed(Failure { code: FailureCode::Cancelled, name: "CancelledError".into(), message: "cancelled".into(), stack: None }))
            }
            () = inner.closing.cancelled() => Err(stopping()),
            entered = async {
                let place = timeout(inner.config.wait_max, inner.place(team_id, want)).await;
                let place = place.unwrap_or_else(|_| Err(Refused::Busy(format!("there was no room for the call within {} ms", inner.config.wait_max.as_millis()))))?;
                // To wait for an engine that is on its way is no waiting for others.
                let link = inner.link(place.user.team_id()).await.map_err(Refused::Failed)?;
                Ok(Entered { link, place })
            } => entered,
        }
    }
}

impl Inner {
    async fn place(self: &Arc<Self>, team_id: &str, want: Want) -> Result<Place, Refused> {
        let user = self.sit(team_id).await?;
        let room = self.state().room(team_id).ok_or_else(stopping)?;
        let closed = |_| stopping();
        let permits = match want {
            Want::Run => {
                let turn = room.turns.acquire_owned().await.map_err(closed)?;
                // Where that is more than there is, a call has all of it.
                let units = ((CALL_OVERHEAD_BYTES + CALL_LIKELY_BYTES) / MEMORY_UNIT) as usize;
                let (own, all) = (units.min(self.config.team_units()), units.min(self.config.units()));
                let own = room.memory.acquire_many_owned(own as u32).await.map_err(closed)?;
                vec![turn, own, Arc::clone(&self.memory).acquire_many_owned(all as u32).await.map_err(closed)?]
            }
            Want::Check => {
                let own = room.checks.acquire_owned().await.map_err(closed)?;
                vec![own, Arc::clone(&self.checks).acquire_owned().await.map_err(closed)?]
            }
        };
        Ok(Place { user, _permits: permits })
    }

    /// One that wants more than there is has all of it.
    async fn reserve(&self, bytes: u64) -> Result<OwnedSemaphorePermit, AcquireError> {
        let units = (bytes.div_ceil(MEMORY_UNIT) as usize).min(self.config.units());
        Arc::clone(&self.memory).acquire_many_owned(units as u32).await
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
        let spare = self.state().spare.take_ready();
        let link = match spare {
            Some(link) => link,
            None => {
                let _one = self.starting().await?;
                // The first ever takes what it was waiting for.
                let spare = self.state().spare.take_ready();
                match spare {
                    Some(link) => link,
                    None => self.start().await?,
                }
            }
        };
        // Whoever ends them all has perhaps been here already.
        if self.closing.is_cancelled() {
            link.end("the server stops");
            return Err(StartError::Closed);
        }
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
                started = async {
                    let one = inner.starting().await?;
                    Ok::<_, StartError>((inner.start().await?, one))
                } => started,
                () = inner.closing.cancelled() => return,
            };
            let mut state = inner.state();
            state.spare = match started {
                Ok((link, _)) if inner.closing.is_cancelled() => {
                    link.end("the server stops");
                    Spare::None
                }
                // Before the next may start, who finds this one.
                Ok((link, _one)) => Spare::Ready(link),
                Err(error) => {
                    tracing::warn!(%error, "no spare script engine could be started");
                    Spare::None
                }
            };
        });
    }

    /// A turn to start one.
    async fn starting(&self) -> Result<SemaphorePermit<'_>, StartError> {
        self.starts.acquire().await.map_err(|_| StartError::Closed)
    }

    async fn start(self: &Arc<Self>) -> Result<Link, StartError> {
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

impl WorkersConfig {
    fn units(&self) -> usize {
        usize::try_from(self.memory_bytes_max / MEMORY_UNIT).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize))
    }

    fn team_units(&self) -> usize {
        (self.units() / usize::try_from(self.memory_team_part).unwrap_or(1).max(1)).max(1)
    }
}

impl Refused {
    fn ran(self, call: &Call) -> Ran {
        let failure = match self {
            Self::Failed(failure) => failure,
            Self::Busy(why) => Failure::busy(why),
        };
        Ran::failed(call, failure)
    }
}

fn stopping() -> Refused {
    Refused::Failed(Failure::internal("the server stops"))
}

/// Of this machine, in bytes.
fn memory_total() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_calls_is_a_part_of_the_machine_s() {
        let total = memory_total().unwrap();
        assert!(total > 64 << 20);
        let config = WorkersConfig::new(None);
        assert!(config.memory_bytes_max <= total / 2 && config.memory_bytes_max <= 8 << 30);
        assert_eq!(config.team_units(), config.units() / 4);
        let small = WorkersConfig { memory_bytes_max: 1, ..config };
        assert_eq!((small.units(), small.team_units()), (1, 1));
    }
}
