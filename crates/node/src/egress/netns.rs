//! The thread that enters network namespaces. Threads of the runtime's pool never do: a task that ran there next would
//! speak from inside a sandbox if the way back failed, and setns is per thread.
use std::io;

use tokio::sync::{mpsc, oneshot};

use super::EgressError;

/// Jobs that may wait; further callers wait for a place.
const JOBS_MAX: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// Ends when it is dropped and its jobs are done.
pub(super) struct Netns {
    jobs: mpsc::Sender<Job>,
}

impl Netns {
    pub fn start() -> io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(JOBS_MAX);
        let run = move || {
            while let Some(job) = queue.blocking_recv() {
                job();
            }
        };
        std::thread::Builder::new().name("netns".to_owned()).spawn(run)?;
        Ok(Self { jobs })
    }

    /// Runs `work` there. It runs to its end even when the caller goes away.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, EgressError> {
        let (done, result) = oneshot::channel();
        let job = Box::new(move || {
            // A panic must not end the thread: all other sandboxes need it.
            if let Ok(value) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
                done.send(value).ok();
            }
        });
        self.jobs.send(job).await.map_err(|_| EgressError::Stopped)?;
        result.await.map_err(|_| EgressError::Stopped)
    }
}
