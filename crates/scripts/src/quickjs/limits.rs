//! Time and memory of one call.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::ResourceLimiter;

const TICK: Duration = Duration::from_millis(1);
/// The ticker goes on for so long with nothing to measure: waking it costs more than a tick.
const IDLE_TICKS: u32 = 50;
/// What a script has left between being told to stop, which QuickJS does at the next branch and says where, and being stopped.
const GRACE_TICKS: u32 = 5;

/// Why a script has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Wall,
    Cpu,
    Cancelled,
}

/// What a tick comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tick {
    GoOn,
    Trap,
}

/// The time that a call may take.
pub(super) struct Budget {
    started: Instant,
    wall: Duration,
    cpu: Duration,
    cpu_used: Duration,
    /// The thread's clock when it entered the guest.
    entered: Option<Duration>,
    cancel: Arc<AtomicBool>,
    stopping: Option<Stop>,
    grace: u32,
}

impl Budget {
    pub(super) fn new(wall: Duration, cpu: Duration, cancel: Arc<AtomicBool>) -> Self {
        Self { started: Instant::now(), wall, cpu, cpu_used: Duration::ZERO, entered: None, cancel, stopping: None, grace: GRACE_TICKS }
    }

    pub(super) fn enter(&mut self) {
        self.entered = Some(thread_cpu());
    }

    pub(super) fn leave(&mut self) {
        self.cpu_used = self.cpu_used();
        self.entered = None;
    }

    pub(super) fn cpu_used(&self) -> Duration {
        self.cpu_used + self.entered.map_or(Duration::ZERO, |entered| thread_cpu().saturating_sub(entered))
    }

    /// Once for each tick while the guest runs.
    pub(super) fn tick(&mut self) -> Tick {
        if self.stopping.is_some() {
            self.grace = self.grace.saturating_sub(1);
            if self.grace == 0 {
                return Tick::Trap;
            }
        }
        self.look();
        Tick::GoOn
    }

    /// Whether the script has to stop, and why.
    pub(super) fn look(&mut self) -> Option<Stop> {
        if self.stopping.is_none() {
            self.stopping = if self.cancel.load(SeqCst) {
                Some(Stop::Cancelled)
            } else if self.started.elapsed() >= self.wall {
                Some(Stop::Wall)
            } else if self.cpu_used() >= self.cpu {
                Some(Stop::Cpu)
            } else {
                None
            };
        }
        self.stopping
    }

    /// What was seen last.
    pub(super) fn stopping(&self) -> Option<Stop> {
        self.stopping
    }

    pub(super) fn wall(&self) -> Duration {
        self.wall
    }

    pub(super) fn cpu(&self) -> Duration {
        self.cpu
    }
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The memory that a call may have: all of the guest's, not what QuickJS counts.
pub(super) struct MemoryCap {
    pub(super) most: usize,
    pub(super) peak: usize,
    pub(super) refused: bool,
}

impl MemoryCap {
    pub(super) fn new(most: usize) -> Self {
        Self { most, peak: 0, refused: false }
    }
}

impl ResourceLimiter for MemoryCap {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.most {
            self.refused = true;
            return Ok(false);
        }
        self.peak = self.peak.max(desired);
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, _desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

/// A thread that counts milliseconds for the engine while anything runs in it.
pub(super) struct Ticker(Arc<Shared>);

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
    stop: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// While there is one, the ticker ticks.
pub(super) struct Running<'a>(&'a Shared);

impl Ticker {
    pub(super) fn start(engine: wasmtime::Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().name("script-ticker".into()).spawn(move || of_thread.tick(&engine))?;
        Ok(Self(shared))
    }

    pub(super) fn run(&self) -> Running<'_> {
        self.0.running.fetch_add(1, SeqCst);
        if self.0.asleep.load(SeqCst) {
            self.0.wake();
        }
        Running(&self.0)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.stop.store(true, SeqCst);
        self.0.wake();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Shared {
    fn wake(&self) {
        let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_all();
    }

    fn tick(&self, engine: &wasmtime::Engine) {
        let mut idle = 0;
        while !self.stop.load(SeqCst) {
            idle = if self.running.load(SeqCst) == 0 { idle + 1 } else { 0 };
            if idle > IDLE_TICKS {
                let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
                // Who begins to run either sees that this thread sleeps, or is seen by it here.
                self.asleep.store(true, SeqCst);
                while self.running.load(SeqCst) == 0 && !self.stop.load(SeqCst) {
                    held = self.wake.wait(held).unwrap_or_else(PoisonError::into_inner);
                }
                self.asleep.store(false, SeqCst);
                idle = 0;
            }
            thread::sleep(TICK);
            engine.increment_epoch();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(wall: Duration, cpu: Duration) -> (Budget, Arc<AtomicBool>) {
        let cancel = Arc::new(AtomicBool::new(false));
        (Budget::new(wall, cpu, Arc::clone(&cancel)), cancel)
    }

    #[test]
    fn who_has_to_stop_is_told_first_and_stopped_later() {
        let (mut budget, cancel) = budget(Duration::MAX, Duration::MAX);
        assert_eq!((budget.tick(), budget.stopping()), (Tick::GoOn, None));
        cancel.store(true, SeqCst);
        assert_eq!((budget.tick(), budget.stopping()), (Tick::GoOn, Some(Stop::Cancelled)));
        assert_eq!((1..GRACE_TICKS).map(|_| budget.tick()).filter(|tick| *tick == Tick::Trap).count(), 0);
        assert_eq!(budget.tick(), Tick::Trap);
    }

    #[test]
    fn both_times_count() {
        assert_eq!(budget(Duration::ZERO, Duration::MAX).0.look(), Some(Stop::Wall));
        assert_eq!(budget(Duration::MAX, Duration::ZERO).0.look(), Some(Stop::Cpu));
    }

    #[test]
    fn memory_is_capped() {
        let mut cap = MemoryCap::new(100);
        assert!(cap.memory_growing(0, 100, None).unwrap());
        assert!(!cap.memory_growing(100, 101, None).unwrap());
        assert_eq!((cap.peak, cap.refused), (100, true));
    }
}
