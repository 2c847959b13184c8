//! One process: started, listened to, and never left behind.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream as StdStream, process::CommandExt},
    },
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
    sync::oneshot,
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

use super::WorkersConfig;
use crate::{Link, LinkError};

/// Of what a worker complains: so many lines are logged, each so long.
const LINES_MAX: usize = 100;
const LINE_BYTES_MAX: u64 = 4 << 10;
/// Who says more than that is no engine of ours any more, and is ended.
const SAID_BYTES_MAX: usize = 1 << 20;
/// Orders that the launcher has not got to yet.
const ORDERS_MAX: usize = 64;

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("the server stops")]
    Closed,
    #[error("cannot make its stream: {0}")]
    Stream(#[source] io::Error),
    #[error("cannot execute it: {0}")]
    Spawn(#[source] io::Error),
    #[error("{0}")]
    Link(#[source] LinkError),
    /// With what it said itself.
    #[error("{0}: {1}")]
    Said(LinkError, String),
}

/// What a process is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Scripts ([`crate::worker::main`]).
    Engine,
    /// One source of TypeScript ([`crate::worker::strip::main`]).
    Strip,
}

/// A thread that starts processes, and lives as long as they may: they are ended when the thread that started them does.
#[derive(Debug)]
pub(super) struct Launcher {
    orders: mpsc::SyncSender<Order>,
}

struct Order {
    part: Part,
    started: oneshot::Sender<Result<Started, StartError>>,
}

struct Started {
    process: Process,
    stream: StdStream,
    complaints: ChildStderr,
}

/// A process that runs. It is ended when this is dropped.
pub(super) struct Running {
    pub stream: UnixStream,
    process: Process,
    complaints: Complaints,
}

struct Complaints {
    listening: JoinHandle<()>,
    last: Arc<Mutex<String>>,
}

/// Killed and reaped when it is dropped.
struct Process(Option<Child>);

impl Launcher {
    pub fn new(config: &WorkersConfig) -> Self {
        let (orders, taken) = mpsc::sync_channel::<Order>(ORDERS_MAX);
        let config = config.clone();
        let work = move || {
            for Order { part, started } in taken {
                // Who does not wait any more has it dropped, and that ends it.
                let _ = started.send(launch(&config, part));
            }
        };
        // Without the thread every order fails, and says so.
        if let Err(error) = thread::Builder::new().name("script-launcher".into()).spawn(work) {
            tracing::error!(%error, "the thread that starts script engines could not be started");
        }
        Self { orders }
    }

    /// Starts a process, and listens to it by a task of `tasks`.
    pub async fn launch(&self, part: Part, tasks: &TaskTracker) -> Result<Running, StartError> {
        let (order, started) = oneshot::channel();
        let Started { process, stream, complaints } = match self.orders.try_send(Order { part, started: order }) {
            Ok(()) => started.await.map_err(|_| StartError::Closed)??,
            Err(mpsc::TrySendError::Full(_)) => return Err(StartError::Spawn(io::ErrorKind::ResourceBusy.into())),
            Err(mpsc::TrySendError::Disconnected(_)) => return Err(StartError::Closed),
        };
        let complaints = tokio::process::ChildStderr::from_std(complaints).map_err(StartError::Stream)?;
        let stream = UnixStream::from_std(stream).map_err(StartError::Stream)?;
        let last = Arc::default();
        let listening = tasks.spawn(listen(complaints, process.id(), Arc::clone(&last)));
        Ok(Running { stream, process, complaints: Complaints { listening, last } })
    }
}

impl Running {
    /// Ends it, if it has not ended; returns how it did, and its last complaint.
    pub async fn end(self) -> (Option<ExitStatus>, String) {
        let Self { stream, process, complaints } = self;
        drop(stream);
        (process.end().await, complaints.last().await)
    }
}

impl Complaints {
    /// When there will be no more of them.
    async fn last(self) -> String {
        let _ = self.listening.await;
        std::mem::take(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Starts a worker and waits until it is ready. It is ended with its link, and reaped by a task of `tasks`.
pub(super) async fn start(launcher: &Launcher, tasks: &TaskTracker) -> Result<Link, StartError> {
    let Running { stream, process, mut complaints } = launcher.launch(Part::Engine, tasks).await?;
    let (read, write) = stream.into_split();
    match Link::open(read, write).await {
        Ok((link, gone)) => {
            tasks.spawn(async move {
                tokio::select! {
                    _ = gone => {}
                    // It has closed it, or says too much.
                    _ = &mut complaints.listening => {}
                }
                process.end().await;
            });
            Ok(link)
        }
        Err(error) => {
            process.end().await;
            let said = complaints.last().await;
            Err(if said.is_empty() { StartError::Link(error) } else { StartError::Said(error, said) })
        }
    }
}

fn launch(config: &WorkersConfig, part: Part) -> Result<Started, StartError> {
    let (ours, theirs) = StdStream::pair().map_err(StartError::Stream)?;
    ours.set_nonblocking(true).map_err(StartError::Stream)?;
    let mut command = Command::new(&config.program);
    command.arg0("sandbar").arg(&config.argument);
    match (part, &config.cache_dir) {
        (Part::Engine, Some(dir)) => _ = command.arg("--cache-dir").arg(dir),
        (Part::Engine, None) => {}
        (Part::Strip, _) => _ = command.arg("--strip"),
    }
    command.env_clear().current_dir("/").stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(StartError::Spawn)?;
    let complaints = child.stderr.take();
    let process = Process(Some(child));
    let complaints = complaints.ok_or_else(|| StartError::Stream(io::ErrorKind::BrokenPipe.into()))?;
    Ok(Started { process, stream: ours, complaints })
}

/// Logs what a process says of itself. More than is logged is read all the same, so that it never waits for us; up to a point.
async fn listen(complaints: tokio::process::ChildStderr, pid: u32, last: Arc<Mutex<String>>) {
    let mut complaints = BufReader::new(complaints);
    let (mut left, mut bytes_left) = (LINES_MAX, SAID_BYTES_MAX);
    loop {
        let mut line = Vec::new();
        match (&mut complaints).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(length) if length > bytes_left => {
                tracing::warn!(pid, "a script engine complained of too much and is ended");
                return;
            }
            Ok(length) if left == 0 => bytes_left -= length,
            Ok(length) => {
                bytes_left -= length;
                left -= 1;
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end();
                tracing::warn!(pid, said = ?text, "script engine");
                text.clone_into(&mut last.lock().unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

impl Process {
    fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    async fn end(mut self) -> Option<ExitStatus> {
        let child = self.0.take()?;
        tokio::task::spawn_blocking(move || bury(child)).await.ok()?
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            // It is killed in any case; a zombie stays when there is no thread to be had.
            let _ = thread::Builder::new().spawn(move || bury(child));
        }
    }
}

fn bury(mut child: Child) -> Option<ExitStatus> {
    let _ = child.kill();
    child.wait().ok()
}
