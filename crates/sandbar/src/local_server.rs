//! A server of our own as a child process, for the demonstration and the benchmark.

use std::{
    ffi::OsString,
    fs::File,
    io::{Read, Seek, SeekFrom},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use crate::{client::Client, purge};

/// A server that is not ready by then has a fault.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// A server that has not ended by then is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// What is shown of the log of a server that failed.
const LOG_TAIL_BYTES: u64 = 4 << 10;

/// How to start it.
pub struct Options {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub token: String,
    /// Further arguments of `sandbar serve`.
    pub args: Vec<OsString>,
    /// Where its log goes; absent = our standard error.
    pub log: Option<PathBuf>,
}

/// A running server.
pub struct LocalServer {
    child: Child,
    pub client: Client,
    data_dir: PathBuf,
}

impl LocalServer {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It ended or was not ready in time; the error carries the end of its log.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let client = Client::new(&format!("http://{}", options.listen), &options.token)?;
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.arg("serve").arg("--data-dir").arg(&options.data_dir).arg("--listen").arg(options.listen.to_string()).args(&options.args);
        command.env("SANDBAR_BOOTSTRAP_TOKEN", &options.token).stdin(Stdio::null());
        // A group of its own: Ctrl-C reaches us, and we end it in order.
        command.process_group(0);
        if let Some(log) = &options.log {
            let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        let child = command.spawn().context("cannot start the server")?;
        let mut server = Self { child, client, data_dir: options.data_dir };
        match server.wait_ready().await {
            Ok(()) => Ok(server),
            Err(error) => {
                let tail = options.log.as_deref().and_then(|log| tail(log).ok()).unwrap_or_default();
                server.stop().await;
                Err(if tail.is_empty() { error } else { error.context(format!("the server's log ends with:\n{tail}")) })
            }
        }
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended at once: {status}");
            }
            if self.client.send(self.client.request(reqwest::Method::GET, "/readyz")).await.is_ok() {
                return Ok(());
            }
            if begun.elapsed() > READY_TIMEOUT {
                bail!("the server was not ready within {} s", READY_TIMEOUT.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Of its process; `None` when it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends the server; its sandboxes live on.
    pub async fn stop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    /// Ends the server, its sandboxes, and deletes its folder.
    pub async fn destroy(mut self) -> anyhow::Result<()> {
        self.stop().await;
        let data_dir = self.data_dir;
        tokio::task::spawn_blocking(move || purge::purge(&data_dir)).await?.map(drop)
    }
}

/// A port of the loopback that is free now.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).context("no free port on 127.0.0.1")
}

/// A key in the form of the API's own.
pub fn new_token() -> anyhow::Result<String> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(format!("s0_local_{}", hex::encode(bytes)))
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
