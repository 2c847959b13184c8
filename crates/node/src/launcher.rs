//! Threads that launch. A launch enters namespaces of its child and must therefore never run on a thread that others
//! use; these live as long as the process. What a claim waits for goes before what the pool orders.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

type Job = Box<dyn FnOnce() + Send>;

/// Two launchers keep two cores busy: most of a launch is waiting for the kernel's locks.
const THREADS: usize = 2;

/// Where a launch stands in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for it.
    Claim,
    /// For the pool.
    Refill,
}

#[derive(Clone)]
pub struct Launcher {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    changed: Condvar,
}

#[derive(Default)]
struct Queues {
    claims: VecDeque<Job>,
    refills: VecDeque<Job>,
    closed: bool,
}

impl Launcher {
    /// Starts the threads. They end when the last handle has gone.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        for number in 0..THREADS {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("launcher-{number}")).spawn(move || {
                while let Some(job) = shared.next() {
                    job();
                }
            })?;
        }
        Ok(Self { shared })
    }

    /// Runs `work` on a launcher thread. `None` when the launcher was closed or the work panicked.
    pub async fn run<T: Send + 'static>(&self, priority: Priority, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let job: Job = Box::new(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            if let Ok(value) = result {
                let _ = reply.send(value);
            }
        });
        {
            let mut queues = self.shared.lock();
            if queues.closed {
                return None;
            }
            match priority {
                Priority::Claim => queues.claims.push_back(job),
                Priority::Refill => queues.refills.push_back(job),
            }
        }
        self.shared.changed.notify_one();
        answer.await.ok()
    }

    /// Whether somebody's claim waits for a launch.
    pub fn has_waiting_claims(&self) -> bool {
        !self.shared.lock().claims.is_empty()
    }

    /// Ends the threads after the launch they are at.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut queues = self.lock();
        loop {
            if queues.closed {
                return None;
            }
            if let Some(job) = queues.claims.pop_front().or_else(|| queues.refills.pop_front()) {
                return Some(job);
            }
            queues = self.changed.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
