//! One worker process: started, listened to, and never left behind.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream as StdStream, process::CommandExt},
    },
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
    sync::oneshot,
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

/// Why there is no worker.
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

/// A thread that starts processes, and lives as long as they may: they are ended when the thread that started them does.
#[derive(Debug)]
pub(super) struct Launcher {
    orders: mpsc::SyncSender<oneshot::Sender<Result<Started, StartError>>>,
}

struct Started {
    process: Process,
    stream: StdStream,
    complaints: ChildStderr,
}

/// Killed and reaped when it is dropped.
struct Process(Option<Child>);

impl Launcher {
    pub fn new(config: &WorkersConfig) -> Self {
        let (orders, taken) = mpsc::sync_channel::<oneshot::Sender<Result<Started, StartError>>>(ORDERS_MAX);
        let config = config.clone();
        let work = move || {
            for order in taken {
                // Who does not wait any more has it dropped, and that ends it.
                let _ = order.send(launch(&config));
            }
        };
        // Without the thread every order fails, and says so.
        if let Err(error) = thread::Builder::new().name("script-launcher".into()).spawn(work) {
            tracing::error!(%error, "the thread that starts script engines could not be started");
        }
        Self { orders }
    }

    async fn launch(&self) -> Result<Started, StartError> {
        let (order, started) = oneshot::channel();
        match self.orders.try_send(order) {
            Ok(()) => started.await.map_err(|_| StartError::Closed)?,
            Err(mpsc::TrySendError::Full(_)) => Err(StartError::Spawn(io::ErrorKind::ResourceBusy.into())),
            Err(mpsc::TrySendError::Disconnected(_)) => Err(StartError::Closed),
        }
    }
}

/// Starts a worker and waits until it is ready. It is ended with its link, and reaped by a task of `tasks`.
pub(super) async fn start(launcher: &Launcher, tasks: &TaskTracker) -> Result<Link, StartError> {
    let Started { process, stream, complaints } = launcher.launch().await?;
    let last = Arc::new(Mutex::new(String::new()));
    let complaints = tokio::process::ChildStderr::from_std(complaints).map_err(StartError::Stream)?;
    let mut listening = tasks.spawn(listen(complaints, process.id(), Arc::clone(&last)));
    let (read, write) = UnixStream::from_std(stream).map_err(StartError::Stream)?.into_split();
    match Link::open(read, write).await {
        Ok((link, gone)) => {
            tasks.spawn(async move {
                tokio::select! {
                    _ = gone => {}
                    // It has closed it, or says too much.
                    _ = &mut listening => {}
                }
                process.end().await;
            });
            Ok(link)
        }
        Err(error) => {
            process.end().await;
            let _ = listening.await;
            let said = std::mem::take(&mut *last.lock().unwrap_or_else(PoisonError::into_inner));
            Err(if said.is_empty() { StartError::Link(error) } else { StartError::Said(error, said) })
        }
    }
}

fn launch(config: &WorkersConfig) -> Result<Started, StartError> {
    let (ours, theirs) = StdStream::pair().map_err(StartError::Stream)?;
    ours.set_nonblocking(true).map_err(StartError::Stream)?;
    let mut command = Command::new(&config.program);
    command.arg0("sandbar").arg(&config.argument);
    if let Some(dir) = &config.cache_dir {
        command.arg("--cache-dir").arg(dir);
    }
    command.env_clear().current_dir("/").stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(StartError::Spawn)?;
    let complaints = child.stderr.take();
    let process = Process(Some(child));
    let complaints = complaints.ok_or_else(|| StartError::Stream(io::ErrorKind::BrokenPipe.into()))?;
    Ok(Started { process, stream: ours, complaints })
}

/// Logs what a worker says of itself. More than is logged is read all the same, so that it never waits for us; up to a point.
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

    async fn end(mut self) {
        if let Some(child) = self.0.take() {
            let _ = tokio::task::spawn_blocking(move || bury(child)).await;
        }
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

fn bury(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}
