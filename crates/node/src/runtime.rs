//! A live runtime: the namespaces, cgroup, root and agent of a sandbox now.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sandbar_core::{egress::Policy, sandbox::Base};
use sandbar_linux::{
    cgroup::{Cgroup, CgroupError, Limits as CgroupLimits, Usage},
    launch::{Bind, LaunchError, LaunchSpec, Launched, Lower, Step, launch},
    net::{self, HostSockets},
    pidfd,
};
use sandbar_procd_api::fds;
use tokio::{io::unix::AsyncFd, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{ProcdClient, ProcdError},
    egress::{EgressError, EgressHandle, Terms},
    image::ImageError,
    roots::{Root, RootError},
    warm::{WarmError, WarmProcess},
};

/// A sandbox that was launched answers within this time or has failed.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Size of `/dev/shm`, which counts against the memory limit.
const SHM_BYTES: u64 = 64 << 20;
/// Open files per process.
const NOFILE: u64 = 65_536;
/// How long a runtime's processes may take to vanish after SIGKILL.
const DEATH_WITHIN: Duration = Duration::from_secs(10);
const REAP_PAUSE: Duration = Duration::from_millis(5);
const HOSTNAME: &str = "sandbox";
pub(crate) const SOCKET: &str = "procd.sock";

/// What a runtime may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    pub memory_bytes: u64,
    /// Thousandths of a core; 0 = no limit.
    pub cpu_millis: u64,
    pub pids: u64,
    /// Bytes of its own files; 0 = no limit.
    pub disk_bytes: u64,
}

impl Limits {
    fn of_cgroup(self) -> CgroupLimits {
        CgroupLimits { memory_bytes: self.memory_bytes, pids: self.pids, cpu_millis: self.cpu_millis, cpu_weight: 100 }
    }
}

/// What a runtime is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuntimeSpec {
    pub base: Base,
    pub limits: Limits,
    pub mounts: Vec<VolumeMount>,
    pub tmpfs: Vec<Tmpfs>,
    pub warm: Vec<WarmProcess>,
}

impl RuntimeSpec {
    /// Whether a runtime of one can become one of the other: limits can be changed, the ground cannot.
    pub fn is_alike(&self, other: &Self) -> bool {
        self.base == other.base && self.mounts == other.mounts && self.tmpfs == other.tmpfs && self.warm == other.warm
    }
}

/// A volume inside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeMount {
    pub tree_id: String,
    /// Relative to the root.
    pub target: PathBuf,
    pub read_only: bool,
}

/// A folder in memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tmpfs {
    /// Relative to the root.
    pub target: PathBuf,
    pub bytes: u64,
}

/// All that lies below and in a root.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    /// Top first.
    pub lowers: Vec<Lower>,
    pub binds: Vec<Bind>,
    pub tmpfs: Vec<sandbar_linux::launch::Tmpfs>,
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Volume(#[from] crate::volumes::VolumeError),
    #[error("copy the sandbox's files")]
    Copy(#[source] sandbar_tree::TreeError),
    #[error(transparent)]
    Warm(#[from] WarmError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("cgroup: {0}")]
    Cgroup(#[from] CgroupError),
    #[error("launch: {0}")]
    Launch(#[from] LaunchError),
    #[error("network: {0}")]
    Network(String),
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error("cannot prepare {path}")]
    Files {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent of the new runtime did not answer")]
    Agent(#[source] ProcdError),
    #[error("the agent of the new runtime did not answer within {} s", READY_WITHIN.as_secs())]
    Late,
    #[error("the new runtime ended before it was ready")]
    Ended,
    #[error("the launcher has stopped")]
    Stopped,
    #[error("processes of the runtime are still there {} s after SIGKILL", DEATH_WITHIN.as_secs())]
    Undead,
}

impl RuntimeError {
    /// Whether the sandbox's folders are nested too deeply to be copied.
    pub fn is_too_deep(&self) -> bool {
        matches!(self, Self::Copy(sandbar_tree::TreeError::TooDeep { .. }))
    }

    /// Where inside a mount cannot be, because a link or a file stands in its way.
    pub fn blocked_mount(&self) -> Option<&Path> {
        use rustix::io::Errno;
        match self {
            Self::Launch(LaunchError::Step { step: Step::Bind, path: Some(path), source })
                if [Errno::LOOP, Errno::NOTDIR].iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error())) =>
            {
                Some(path)
            }
            _ => None,
        }
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        let full = |source: &io::Error| matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::Copy(error) => error.is_disk_full(),
            Self::Volume(error) => error.is_disk_full(),
            Self::Root(RootError::Io { source, .. }) | Self::Files { source, .. } => full(source),
            _ => false,
        }
    }
}

/// A running (or frozen) sandbox on this machine.
pub struct Runtime {
    pub id: String,
    pub root: Root,
    pub pid: u32,
    /// Start time of `pid` in clock ticks since boot: with it a pid names one process for good.
    pub pid_start: u64,
    pub client: ProcdClient,
    upper: PathBuf,
    dir: PathBuf,
    limits: Mutex<Limits>,
    cgroup: Cgroup,
    pidfd: Arc<OwnedFd>,
    egress: EgressHandle,
    ended: CancellationToken,
    frozen: watch::Sender<bool>,
    /// Whether every warm process is up, as far as is known.
    well: AtomicBool,
    /// When and why all processes but the agent were ended last.
    ended_for: Mutex<Option<(i64, String)>>,
}

/// Everything that the launching thread makes, before the agent was asked.
pub(crate) struct Raw {
    launched: Launched,
    sockets: HostSockets,
    cgroup: Cgroup,
}

/// Where a runtime's parts are.
pub(crate) struct Place<'a> {
    pub id: &'a str,
    pub dir: &'a Path,
    pub upper: &'a Path,
    pub work: &'a Path,
}

/// Makes the processes and walls of a runtime. Runs on a launcher thread. Leaves nothing behind when it fails.
pub(crate) fn launch_raw(
    hierarchy: &sandbar_linux::cgroup::Hierarchy,
    ground: &Ground,
    agent: &File,
    root: &Root,
    place: &Place<'_>,
    limits: Limits,
    plan: &net::Plan,
) -> Result<Raw, RuntimeError> {
    fs::create_dir_all(place.dir).map_err(|source| files(place.dir, source))?;
    let listener = listen(place.dir)?;
    let log = |name: &str| {
        let path = place.dir.join(name);
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true).mode(0o600);
        options.open(&path).map_err(|source| files(&path, source))
    };
    let (log_a, log_b) = (log("log.a")?, log("log.b")?);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(|s| files(Path::new("/dev/null"), s))?;
    let cgroup = hierarchy.create(place.id, &limits.of_cgroup())?;
    let oom = cgroup.open_oom_counter();
    let mut inherited = vec![
        (null.as_fd(), 0),
        (null.as_fd(), 1),
        (null.as_fd(), 2),
        (listener.as_fd(), fds::LISTEN),
        (log_a.as_fd(), fds::LOG_A),
        (log_b.as_fd(), fds::LOG_B),
    ];
    if let Ok(oom) = &oom {
        inherited.push((oom.as_fd(), fds::OOM));
    }
    let env: Vec<CString> = Vec::new();
    let spec = LaunchSpec {
        uid_base: root.uid_base(),
        lowers: &ground.lowers,
        upper: place.upper,
        work: place.work,
        binds: &ground.binds,
        tmpfs: &ground.tmpfs,
        hostname: HOSTNAME,
        shm_bytes: SHM_BYTES,
        nofile: NOFILE,
        file_size_max_bytes: limits.disk_bytes,
        agent: agent.as_fd(),
        argv: &[c"procd".to_owned()],
        env: &env,
        fds: &inherited,
        cgroup: &cgroup,
    };
    let mut sockets = None;
    let launched = launch(&spec, &mut |netns| {
        sockets = Some(net::setup(netns, plan).map_err(|error| error.to_string())?);
        Ok(())
    });
    match (launched, sockets) {
        (Ok(launched), Some(sockets)) => Ok(Raw { launched, sockets, cgroup }),
        (launched, _) => {
            cgroup.kill().ok();
            cgroup.remove().ok();
            Err(launched.err().map_or_else(|| RuntimeError::Network("no sockets were made".into()), Into::into))
        }
    }
}

impl Runtime {
    /// Gives a launched runtime its place in the server. With `ask` it waits until the agent answers; without, the
    /// caller has something to ask of it anyway.
    pub(crate) async fn start(
        raw: Raw,
        root: Root,
        place: Place<'_>,
        limits: Limits,
        egress: &crate::egress::Egress,
        ask: bool,
    ) -> Result<Arc<Self>, RuntimeError> {
        let Raw { launched, sockets, cgroup } = raw;
        let pidfd = Arc::new(launched.pidfd);
        let process = (launched.pid, launched.start_time_ticks, Arc::clone(&pidfd));
        let attached = egress.attach(place.id, launched.netns, sockets, Policy::allow_all()).map_err(RuntimeError::from);
        let assembled = attached.and_then(|egress| Self::assemble(place.id, root, process, cgroup.clone(), egress, place.dir, place.upper, limits));
        let runtime = match assembled {
            Ok(runtime) => runtime,
            Err(error) => {
                // Nobody else knows of it yet.
                tokio::task::spawn_blocking(move || end_unknown(&cgroup, &pidfd)).await.ok();
                return Err(error);
            }
        };
        if !ask {
            return Ok(runtime);
        }
        let answer = tokio::select! {
            answer = tokio::time::timeout(READY_WITHIN, runtime.client.info()) => answer,
            () = runtime.ended.cancelled() => {
                runtime.destroy().await.ok();
                return Err(RuntimeError::Ended);
            }
        };
        let failure = match answer {
            Ok(Ok(_)) => return Ok(runtime),
            Ok(Err(error)) => RuntimeError::Agent(error),
            Err(_) => RuntimeError::Late,
        };
        runtime.destroy().await.ok();
        Err(failure)
    }

    /// Takes over a runtime that a former server left running. `None` when it is not there any more.
    pub(crate) async fn adopt(
        hierarchy: &sandbar_linux::cgroup::Hierarchy,
        place: Place<'_>,
        root: Root,
        (pid, pid_start): (u32, u64),
        limits: Limits,
        terms: Terms,
        egress: &crate::egress::Egress,
    ) -> Result<Option<Arc<Self>>, RuntimeError> {
        let Some(cgroup) = hierarchy.open(place.id) else { return Ok(None) };
        let Ok(pidfd) = pidfd::open(pid) else { return Ok(None) };
        // Only after the pidfd is held does an equal start time prove that it is that very process.
        if !pidfd::is_same(pid, pid_start) {
            return Ok(None);
        }
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let netns: OwnedFd = File::open(&path).map_err(|source| files(&path, source))?.into();
        let attached = egress.adopt(place.id, netns, terms).await?;
        Self::assemble(place.id, root, (pid, pid_start, Arc::new(pidfd)), cgroup, attached, place.dir, place.upper, limits).map(Some)
    }

    #[expect(clippy::too_many_arguments, reason = "private: the parts of a runtime, each once")]
    fn assemble(
        id: &str,
        root: Root,
        (pid, pid_start, pidfd): (u32, u64, Arc<OwnedFd>),
        cgroup: Cgroup,
        egress: EgressHandle,
        dir: &Path,
        upper: &Path,
        limits: Limits,
    ) -> Result<Arc<Self>, RuntimeError> {
        let is_frozen = cgroup.is_frozen().unwrap_or(false);
        let ended = CancellationToken::new();
        #[expect(deprecated, reason = "the safe constructor; an OwnedFd names one descriptor as long as it lives, which is what it asks for")]
        let watched = AsyncFd::new(Arc::clone(&pidfd)).map_err(|source| files(dir, source))?;
        let token = ended.clone();
        tokio::spawn(async move {
            // A pidfd becomes readable when its process has ended.
            let _ = watched.readable().await;
            pidfd::reap(watched.get_ref());
            token.cancel();
        });
        Ok(Arc::new(Self {
            id: id.to_owned(),
            root,
            pid,
            pid_start,
            client: ProcdClient::new(dir.join(SOCKET)),
            upper: upper.to_owned(),
            dir: dir.to_owned(),
            limits: Mutex::new(limits),
            cgroup,
            pidfd,
            egress,
            ended,
            frozen: watch::Sender::new(is_frozen),
            well: AtomicBool::new(true),
            ended_for: Mutex::default(),
        }))
    }

    /// Resolves when pid 1 of the runtime has ended, for whatever reason.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Whether every warm process is up, as far as is known.
    pub fn is_well(&self) -> bool {
        self.well.load(Ordering::Relaxed)
    }

    pub(crate) fn set_well(&self, well: bool) {
        self.well.store(well, Ordering::Relaxed);
    }

    /// Connects to a server inside, on its loopback address; many development servers listen on that of IPv6 alone.
    pub async fn connect(&self, port: u16) -> io::Result<tokio::net::TcpStream> {
        match self.egress.connect((std::net::Ipv4Addr::LOCALHOST, port).into()).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // Where there is none either, the first answer is the one that people look for.
                self.egress.connect((std::net::Ipv6Addr::LOCALHOST, port).into()).await.map_err(|_| error)
            }
            result => result,
        }
    }

    /// Stops every process where it stands; memory is kept.
    pub async fn freeze(self: &Arc<Self>) -> Result<(), RuntimeError> {
        self.on_cgroup(|cgroup| cgroup.freeze()).await?;
        self.frozen.send_replace(true);
        Ok(())
    }

    /// Does something while no process of the sandbox runs, without it counting as paused: who waits for an answer from
    /// inside goes on waiting.
    pub async fn hold_still<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> Result<T, RuntimeError> {
        if self.is_frozen() {
            return Ok(work.await);
        }
        self.on_cgroup(|cgroup| cgroup.freeze()).await?;
        let done = work.await;
        self.on_cgroup(|cgroup| cgroup.thaw()).await?;
        Ok(done)
    }

    /// Lets the processes go on.
    pub async fn thaw(self: &Arc<Self>) -> Result<(), RuntimeError> {
        self.on_cgroup(|cgroup| cgroup.thaw()).await?;
        self.frozen.send_replace(false);
        Ok(())
    }

    /// Resolves when the runtime is frozen (at once, if it is), so that nobody waits for an answer from inside that
    /// cannot come.
    pub async fn frozen(&self) {
        // The sender lives as long as we do.
        let _ = self.frozen.subscribe().wait_for(|frozen| *frozen).await;
    }

    pub fn is_frozen(&self) -> bool {
        self.cgroup.is_frozen().unwrap_or(false)
    }

    pub fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies new limits; memory that is in use beyond them makes this fail.
    pub(crate) async fn set_limits(self: &Arc<Self>, limits: Limits) -> Result<(), RuntimeError> {
        if limits == self.limits() {
            return Ok(());
        }
        self.on_cgroup(move |cgroup| cgroup.set_limits(&limits.of_cgroup())).await?;
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        Ok(())
    }

    /// Puts a network policy in force before it returns, for open connections too.
    pub async fn set_policy(&self, terms: impl Into<Terms>) -> Result<(), RuntimeError> {
        Ok(self.egress.set_policy(terms).await?)
    }

    /// Network decisions and counters.
    pub fn egress(&self) -> &EgressHandle {
        &self.egress
    }

    pub fn usage(&self) -> Usage {
        self.cgroup.usage()
    }

    /// Memory that the kernel would give back first, in bytes.
    pub fn cached_file_bytes(&self) -> u64 {
        self.cgroup.inactive_file_bytes()
    }

    /// What went out and came in since the server knows this runtime.
    pub fn network_counters(&self) -> crate::egress::Counters {
        self.egress.counters()
    }

    /// Processes that the kernel has killed for want of memory since the runtime began.
    pub fn oom_kills(&self) -> u64 {
        self.cgroup.oom_kills()
    }

    /// Bytes that the sandbox's own files take. Walks the tree: not for hot paths.
    pub fn disk_usage_bytes(&self) -> io::Result<u64> {
        sandbar_linux::quota::usage_bytes(&self.upper)
    }

    /// What the sandbox's own files take. Walks the tree, and fails for one that is nested too deeply.
    pub fn disk_usage(&self) -> Result<sandbar_tree::Measured, sandbar_tree::TreeError> {
        sandbar_tree::measure(&self.upper)
    }

    /// Kills every process but the agent, and remembers why.
    pub fn kill_all_but_agent(&self, at_ms: i64, why: &str) {
        *self.ended_for.lock().unwrap_or_else(PoisonError::into_inner) = Some((at_ms, why.to_owned()));
        for pid in self.cgroup.procs().unwrap_or_default() {
            if pid != self.pid
                && let Ok(process) = pidfd::open(pid)
            {
                // One that ended meanwhile is what was wanted.
                pidfd::kill(&process).ok();
            }
        }
    }

    /// Why all processes that there were since a moment have been ended, if they have.
    pub fn ended_for(&self, since_ms: i64) -> Option<String> {
        let ended = self.ended_for.lock().unwrap_or_else(PoisonError::into_inner);
        ended.as_ref().filter(|(at_ms, _)| *at_ms >= since_ms).map(|(_, why)| why.clone())
    }

    /// Folder with the log segments.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Kills everything and returns when no process is left; safe to call in any state and twice.
    pub async fn destroy(self: &Arc<Self>) -> Result<(), RuntimeError> {
        self.egress.close();
        let killed = self.on_cgroup(|cgroup| cgroup.kill()).await;
        if tokio::time::timeout(DEATH_WITHIN, self.ended()).await.is_err() {
            killed?;
            return Err(RuntimeError::Undead);
        }
        let runtime = Arc::clone(self);
        // The kernel gives the cgroup back a moment after the last process: nobody waits for that.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = runtime.cgroup.remove() {
                tracing::warn!(runtime = runtime.id, %error, "a cgroup could not be removed; the sweep will try again");
            }
            let _ = fs::remove_file(runtime.dir.join(SOCKET));
        });
        Ok(())
    }

    async fn on_cgroup(self: &Arc<Self>, work: impl FnOnce(&Cgroup) -> Result<(), CgroupError> + Send + 'static) -> Result<(), RuntimeError> {
        let runtime = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&runtime.cgroup)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(RuntimeError::Stopped),
        }
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("id", &self.id).field("pid", &self.pid).field("pidfd", &self.pidfd.as_raw_fd()).finish_non_exhaustive()
    }
}

/// Ends a runtime that got no place in the server, and reaps it.
fn end_unknown(cgroup: &Cgroup, pidfd: &OwnedFd) {
    if let Err(error) = cgroup.kill() {
        tracing::error!(%error, "the processes of a runtime could not be ended; the next start will try again");
        return;
    }
    let until = std::time::Instant::now() + DEATH_WITHIN;
    while pidfd::reap(pidfd).is_none() && std::time::Instant::now() < until {
        std::thread::sleep(REAP_PAUSE);
    }
    if let Err(error) = cgroup.remove() {
        tracing::warn!(%error, "a cgroup could not be removed; the sweep will try again");
    }
}

/// The agent's listening socket. Bound by way of the folder's descriptor, since a socket's path is limited to 107
/// bytes and a data directory is not.
fn listen(dir: &Path) -> Result<UnixListener, RuntimeError> {
    let handle = File::open(dir).map_err(|source| files(dir, source))?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(|source| files(dir, source))?;
    listener.set_nonblocking(true).map_err(|source| files(dir, source))?;
    Ok(listener)
}

fn files(path: &Path, source: io::Error) -> RuntimeError {
    RuntimeError::Files { path: path.to_owned(), source }
}
