//! A few threads for file work, so that a slow disk holds up nobody else. When no thread can be made (the sandbox has
//! used up its processes), the work is done in place: slower, but never a failure.
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::limits::{IO_STACK_BYTES, IO_THREAD_IDLE, IO_THREADS_MAX};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// The threads and their queue. The queue is bounded by the number of connections: each waits for its own job.
#[derive(Clone, Default)]
pub struct IoPool(Arc<(Mutex<State>, Condvar)>);

impl IoPool {
    /// Runs `work` on a thread and waits for its result.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let (send, receive) = oneshot::channel();
        self.submit(Box::new(move || {
            let _ = send.send(work());
        }));
        receive.await.unwrap_or_else(|_| Err(io::Error::other("the file worker ended")))
    }

    fn submit(&self, job: Job) {
        let mut state = self.lock();
        if state.idle <= state.jobs.len() && state.threads < IO_THREADS_MAX {
            let pool = self.clone();
            let thread = std::thread::Builder::new().stack_size(IO_STACK_BYTES).spawn(move || pool.work());
            match thread {
                Ok(_) => state.threads += 1,
                Err(_) if state.threads == 0 => {
                    drop(state);
                    return job();
                }
                Err(_) => {}
            }
        }
        state.jobs.push_back(job);
        drop(state);
        self.0.1.notify_one();
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (again, timeout) = self.0.1.wait_timeout(state, IO_THREAD_IDLE).unwrap_or_else(PoisonError::into_inner);
            state = again;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
