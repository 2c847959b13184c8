//! This machine: makes what the rows intend. Images, roots, launches, the pool, pause and egress. Knows nothing of
//! teams, requests or the store; `server` joins the two.
#![forbid(unsafe_code)]

use std::{
    collections::HashSet,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use sandbar_core::{
    egress::{Policy, Prefix},
    sandbox::Layer,
};
use sandbar_linux::{
    cgroup::Hierarchy,
    launch::{Bind, Lower},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub mod client;
pub mod connections;
pub mod egress;
pub mod enclosed;
pub mod image;
mod launcher;
mod layers;
mod listening;
pub mod outbound;
mod pins;
mod pool;
pub mod room;
pub mod roots;
pub mod runtime;
pub mod shares;
pub mod staging;
mod storage;
mod trust;
pub mod volumes;
pub mod warm;

pub use layers::{Collected, InUse};
pub use pins::Pin;
pub use pool::PoolStatus;
pub use roots::Root;
pub use runtime::{Limits, Runtime, RuntimeError, RuntimeSpec, Tmpfs, VolumeMount};
pub use storage::OnDisk;
pub use trust::TrustError;

use image::{ImageError, Images};
use launcher::{Launcher, Priority};
use pool::Pools;
use roots::{RootError, Roots, make_private_dir};
use runtime::{Ground, Place};
use warm::WarmProcess;

/// How often it is looked at whether an adopted runtime runs again.
const FROZEN_LOOK: std::time::Duration = std::time::Duration::from_secs(1);

/// What the node is told at the start.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub data_dir: PathBuf,
    /// The agent's program, static, to be pid 1 of every sandbox.
    pub agent: &'static [u8],
    /// Prefixes that sandboxes may reach although they are protected.
    pub egress_allow: Vec<Prefix>,
    /// Where names are asked; none: as /etc/resolv.conf says.
    pub nameservers: Option<Vec<SocketAddr>>,
    /// Certificates of servers that are believed besides the machine's, where TLS is ended for a sandbox: a PEM file.
    pub egress_ca_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cgroups: {0}")]
    Cgroup(#[from] sandbar_linux::cgroup::CgroupError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Volumes(#[from] volumes::VolumeError),
    #[error(transparent)]
    Egress(#[from] egress::EgressError),
    #[error("an HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
    #[error("cannot use {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// A runtime as the rows know it, to be taken over after a restart of the server.
#[derive(Debug, Clone)]
pub struct Adoptable {
    pub runtime_id: String,
    pub root: Root,
    pub pid: u32,
    pub pid_start: u64,
    pub limits: Limits,
    pub terms: egress::Terms,
    pub warm: Vec<WarmProcess>,
}

/// What the rows own; everything else on this machine below our names is swept.
#[derive(Debug, Default)]
pub struct Owned {
    /// Runtimes that live.
    pub runtimes: HashSet<String>,
    /// Runtimes whose logs are kept.
    pub logs: HashSet<String>,
    /// Live roots and layers.
    pub roots: HashSet<String>,
    /// Trees of volumes and of their snapshots.
    pub volumes: HashSet<String>,
    /// Contents of images.
    pub images: HashSet<String>,
}

/// Handle to this machine's part; cheap to clone.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    runtimes_dir: PathBuf,
    images: Images,
    agent: Arc<File>,
    roots: Roots,
    volumes: volumes::Volumes,
    keepers: volumes::Keepers,
    pins: pins::Pins,
    hierarchy: Arc<Hierarchy>,
    launcher: Launcher,
    egress: egress::Egress,
    outbound: outbound::Outbound,
    pools: Pools,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Node {
    /// Gets this machine ready: cgroups, images, launcher threads. `uid_slots` are the ranges that rows own.
    pub async fn start(config: NodeConfig, uid_slots: Vec<u32>) -> Result<Self, NodeError> {
        let data_dir = &config.data_dir;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| NodeError::Io { path, source }
        };
        let runtimes_dir = data_dir.join("runtimes");
        make_private_dir(&runtimes_dir)?;
        let hierarchy = Arc::new(Hierarchy::detect(&instance_of(data_dir))?);
        tracing::info!(cgroups = hierarchy.describe(), "cgroups are usable");
        let roots = Roots::open(data_dir, uid_slots)?;
        let images = Images::open(data_dir, config.agent, &roots)?;
        let agent_path = images.agent_path();
        let agent = File::open(&agent_path).map_err(io(&agent_path))?;
        let authority = egress::Authority::open(data_dir).map_err(egress::EgressError::from)?;
        let egress = egress::Egress::new(config.egress_allow, config.nameservers, authority, config.egress_ca_file.as_deref())?;
        let inner = Inner {
            runtimes_dir,
            images,
            agent: Arc::new(agent),
            roots,
            volumes: volumes::Volumes::open(data_dir)?,
            keepers: volumes::Keepers::default(),
            pins: pins::Pins::default(),
            hierarchy,
            launcher: Launcher::start().map_err(io(data_dir))?,
            outbound: outbound::Outbound::new(egress.clone()).map_err(NodeError::Client)?,
            egress,
            pools: Pools::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let node = Self { inner: Arc::new(inner) };
        node.start_refill();
        node.start_keepers();
        Ok(node)
    }

    /// A runtime for a new sandbox: from the pool `key`, or launched now when that is empty. The caller owns it; until
    /// a row names it, a restart of the server sweeps it.
    pub async fn take(&self, key: &str, spec: &RuntimeSpec) -> Result<(Arc<Runtime>, Origin), RuntimeError> {
        if let Some(runtime) = self.inner.pools.pop(key, spec) {
            if runtime.limits() != spec.limits
                && let Err(error) = self.set_limits(&runtime, spec.limits).await
            {
                self.discard(runtime);
                return Err(error);
            }
            return Ok((runtime, Origin::Pool));
        }
        let root = self.create_root().await?;
        match self.launch_with(spec, root.clone(), Priority::Claim).await {
            Ok(runtime) => Ok((runtime, Origin::Cold)),
            Err(error) => {
                self.inner.roots.remove(&root);
                Err(error)
            }
        }
    }

    /// Requests to addresses that users chose.
    pub fn outbound(&self) -> &outbound::Outbound {
        &self.inner.outbound
    }

    /// The certificate of the authority that certifies the egress to the sandboxes, in PEM.
    pub fn egress_authority_pem(&self) -> &str {
        self.inner.egress.authority().certificate_pem()
    }

    /// The images of this machine.
    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// What a spec lies on, as paths.
    fn ground(&self, spec: &RuntimeSpec) -> Result<Ground, RuntimeError> {
        let image = self.inner.images.get(&spec.base.image)?;
        let mut lowers = self.layers(&spec.base.layers);
        lowers.extend(image.lowers.iter().map(Lower::shared));
        let mut binds = image.binds.clone();
        for mount in &spec.mounts {
            let source = self.inner.volumes.path(&mount.tree_id)?;
            binds.push(Bind { source, target: mount.target.clone(), read_only: mount.read_only, idmap: true });
        }
        let tmpfs = spec.tmpfs.iter().map(|tmpfs| sandbar_linux::launch::Tmpfs { target: tmpfs.target.clone(), bytes: tmpfs.bytes }).collect();
        Ok(Ground { lowers, binds, tmpfs })
    }

    fn layers(&self, layers: &[Layer]) -> Vec<Lower> {
        layers.iter().map(|layer| Lower { path: self.inner.roots.upper(&layer.root_id), base: roots::uid_base_of(layer.uid_slot) }).collect()
    }

    /// Puts new limits in force on a live runtime. What it uses beyond them may make this fail.
    pub async fn set_limits(&self, runtime: &Arc<Runtime>, limits: Limits) -> Result<(), RuntimeError> {
        runtime.set_limits(limits).await?;
        let (roots, root) = (self.inner.roots.clone(), runtime.root.clone());
        let _ = tokio::task::spawn_blocking(move || roots.limit(&root, limits.disk_bytes)).await;
        Ok(())
    }

    /// A new runtime over an existing root. Its agent has been started; the caller's first call finds out whether it
    /// answers.
    pub async fn launch(&self, spec: &RuntimeSpec, root: Root) -> Result<Arc<Runtime>, RuntimeError> {
        self.launch_with(spec, root, Priority::Claim).await
    }

    /// An empty root, for a sandbox whose files were cleaned.
    pub async fn create_root(&self) -> Result<Root, RuntimeError> {
        // The disk may be slow, and nobody else is to wait for it.
        let roots = self.inner.roots.clone();
        match tokio::task::spawn_blocking(move || roots.create()).await {
            Ok(root) => Ok(root?),
            Err(_) => Err(RuntimeError::Stopped),
        }
    }

    /// Takes over a runtime that a former server left running; `None` when it has ended meanwhile.
    pub async fn adopt(&self, known: Adoptable) -> Result<Option<Arc<Runtime>>, RuntimeError> {
        let paths = self.paths(&known.runtime_id, &known.root);
        let process = (known.pid, known.pid_start);
        let adopted = Runtime::adopt(&self.inner.hierarchy, paths.place(), known.root, process, known.limits, known.terms, &self.inner.egress).await?;
        if let Some(runtime) = adopted.clone().filter(|_| !known.warm.is_empty()) {
            let node = self.clone();
            tokio::spawn(async move {
                while runtime.is_frozen() && !runtime.has_ended() {
                    tokio::time::sleep(FROZEN_LOOK).await;
                }
                match warm::find(&runtime, &known.warm).await {
                    Ok(ids) => node.keep_warm(&runtime, &known.warm, ids),
                    Err(error) => tracing::warn!(runtime = runtime.id, error = error_text(&error), "warm processes are not looked after"),
                }
            });
        }
        Ok(adopted)
    }

    /// Discards a root: gone at once by name, its files are deleted in the background.
    pub fn remove_root(&self, root: &Root) {
        self.inner.roots.remove(root);
        let roots = self.inner.roots.clone();
        self.inner.tasks.spawn_blocking(move || roots.empty_trash());
    }

    /// Forgets a runtime's logs.
    pub fn remove_logs(&self, runtime_id: &str) {
        let _ = fs::remove_dir_all(self.inner.runtimes_dir.join(runtime_id));
    }

    /// Folder of a runtime's log segments, whether it lives or not.
    pub fn log_dir(&self, runtime_id: &str) -> PathBuf {
        self.inner.runtimes_dir.join(runtime_id)
    }

    /// Ends and removes what no row owns: processes, cgroups, sockets, folders. Runs after a start, before anything
    /// is launched, and is safe to repeat then.
    pub async fn sweep(&self, owned: Owned) -> Result<usize, NodeError> {
        let node = self.clone();
        let swept = tokio::task::spawn_blocking(move || node.sweep_now(&owned)).await;
        swept.unwrap_or(Ok(0))
    }

    /// Keeps `min_idle` runtimes of this kind ready under `key`; 0 ends the pool.
    pub fn keep_pool(&self, key: &str, spec: RuntimeSpec, min_idle: u32) {
        for surplus in self.inner.pools.keep(key, spec, min_idle) {
            self.discard(surplus);
        }
    }

    /// What all sandboxes sent, received and were refused since the server began.
    pub fn network_totals(&self) -> egress::Counters {
        self.inner.egress.totals()
    }

    pub fn pools(&self) -> Vec<PoolStatus> {
        self.inner.pools.status()
    }

    /// Ends a runtime and discards its root.
    pub fn discard(&self, runtime: Arc<Runtime>) {
        let node = self.clone();
        self.inner.tasks.spawn(async move {
            node.destroy_with_root(&runtime).await;
        });
    }

    /// Stops refilling, ends what is idle and waits for work in flight. Sandboxes that somebody owns go on.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        for runtime in self.inner.pools.drain() {
            self.discard(runtime);
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.launcher.close();
        self.inner.hierarchy.remove_if_empty();
    }

    async fn destroy_with_root(&self, runtime: &Arc<Runtime>) {
        if let Err(error) = runtime.destroy().await {
            tracing::warn!(runtime = runtime.id, %error, "a runtime did not end; its root is left to the next sweep");
            return;
        }
        self.remove_logs(&runtime.id);
        self.inner.roots.remove(&runtime.root);
        let roots = self.inner.roots.clone();
        let _ = tokio::task::spawn_blocking(move || roots.empty_trash()).await;
    }

    async fn launch_with(&self, spec: &RuntimeSpec, root: Root, priority: Priority) -> Result<Arc<Runtime>, RuntimeError> {
        self.launch_on(self.ground(spec)?, spec, root, priority).await
    }

    async fn launch_on(&self, ground: Ground, spec: &RuntimeSpec, root: Root, priority: Priority) -> Result<Arc<Runtime>, RuntimeError> {
        let runtime_id = random_id("rt-");
        let paths = self.paths(&runtime_id, &root);
        let limits = spec.limits;
        let raw = {
            let (hierarchy, agent) = (Arc::clone(&self.inner.hierarchy), Arc::clone(&self.inner.agent));
            let (root, paths, plan) = (root.clone(), paths.clone(), self.inner.egress.plan(&Policy::allow_all()));
            let roots = self.inner.roots.clone();
            self.inner
                .launcher
                .run(priority, move || {
                    roots.limit(&root, limits.disk_bytes);
                    runtime::launch_raw(&hierarchy, &ground, &agent, &root, &paths.place(), limits, &plan)
                })
                .await
                .unwrap_or(Err(RuntimeError::Stopped))
        };
        let started = match raw {
            // Who claims makes the runtime its own next, which tells the same.
            Ok(raw) => Runtime::start(raw, root, paths.place(), limits, &self.inner.egress, priority == Priority::Refill).await,
            Err(error) => Err(error),
        };
        let warmed = match started {
            Ok(runtime) => self.warm_up(runtime, &spec.warm).await,
            Err(error) => Err(error),
        };
        if warmed.is_err() {
            self.remove_logs(&runtime_id);
        }
        warmed
    }

    /// Starts warm processes and sees that they stay up. A runtime in which they do not come up is ended.
    async fn warm_up(&self, runtime: Arc<Runtime>, processes: &[WarmProcess]) -> Result<Arc<Runtime>, RuntimeError> {
        if processes.is_empty() {
            return Ok(runtime);
        }
        let started = tokio::select! {
            started = warm::start(&runtime, processes) => started,
            () = tokio::time::sleep(warm::UP_WITHIN) => Err(warm::WarmError::late(&processes[0].name)),
            () = self.inner.stop.cancelled() => Err(warm::WarmError::stopped(&processes[0].name)),
        };
        match started {
            Ok(ids) => {
                self.keep_warm(&runtime, processes, ids);
                Ok(runtime)
            }
            Err(error) => {
                if let Err(undead) = runtime.destroy().await {
                    tracing::error!(runtime = runtime.id, error = error_text(&undead), "a runtime that did not come up is left to the next start");
                }
                Err(error.into())
            }
        }
    }

    fn keep_warm(&self, runtime: &Arc<Runtime>, processes: &[WarmProcess], ids: Vec<String>) {
        for (process, id) in processes.iter().zip(ids) {
            // Not among the tasks that a stop waits for: these live as long as their runtime.
            let (kept, stop) = (warm::keep(Arc::clone(runtime), process.clone(), id), self.inner.stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = kept => {}
                }
            });
        }
    }

    fn sweep_now(&self, owned: &Owned) -> Result<usize, NodeError> {
        let inner = &self.inner;
        let mut swept = 0;
        for name in inner.hierarchy.list()? {
            if owned.runtimes.contains(&name) {
                continue;
            }
            swept += 1;
            // Half-made ones too.
            if let Err(error) = inner.hierarchy.clear(&name) {
                tracing::warn!(runtime = name, %error, "an orphan's cgroup could not be removed");
            }
        }
        for name in roots::list_names(&inner.runtimes_dir) {
            if owned.runtimes.contains(&name) {
                continue;
            }
            if owned.logs.contains(&name) {
                // Nobody listens there any more.
                let _ = fs::remove_file(inner.runtimes_dir.join(&name).join(runtime::SOCKET));
            } else {
                self.remove_logs(&name);
            }
        }
        for id in inner.roots.list() {
            if !owned.roots.contains(&id) {
                inner.roots.remove_by_id(&id);
            }
        }
        inner.volumes.sweep(&owned.volumes, &inner.roots);
        for id in inner.images.nameless().iter().filter(|id| !owned.images.contains(*id)) {
            inner.images.forget(id)?;
        }
        inner.images.sweep_layers(&inner.roots);
        inner.roots.empty_trash();
        Ok(swept)
    }

    fn paths(&self, runtime_id: &str, root: &Root) -> Paths {
        Paths {
            id: runtime_id.to_owned(),
            dir: self.inner.runtimes_dir.join(runtime_id),
            upper: self.inner.roots.upper(&root.id),
            work: self.inner.roots.work(&root.id),
        }
    }
}

/// Where a runtime came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Pool,
    Cold,
}

#[derive(Clone)]
struct Paths {
    id: String,
    dir: PathBuf,
    upper: PathBuf,
    work: PathBuf,
}

impl Paths {
    fn place(&self) -> Place<'_> {
        Place { id: &self.id, dir: &self.dir, upper: &self.upper, work: &self.work }
    }
}

/// Tells servers on one machine apart: 8 hex digits of the data directory's path.
pub fn instance_of(data_dir: &Path) -> String {
    use sha2::Digest;
    let canonical = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    hex::encode(&sha2::Sha256::digest(canonical.as_os_str().as_encoded_bytes())[..4])
}

/// `prefix` and 16 random letters and digits.
pub fn random_id(prefix: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0u8; 16];
    // Without the kernel's random numbers nothing here could be trusted.
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes.iter().fold(prefix.to_owned(), |mut id, byte| {
        id.push(char::from(ALPHABET[usize::from(byte & 31)]));
        id
    })
}

/// An error and all its causes on one line.
pub fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}
