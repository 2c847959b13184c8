//! From configuration to a server that answers, and back.

use std::{
    fs,
    io::{self, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::sandbox::SandboxRecord;
use sandbar_node::{Node, NodeError, error_text, room};
use sandbar_store::{Store, StoreError};
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{
        App, SharedApp,
        apps::{Apps, online::Turns, runs::AppRuns, supervise::Supervisors},
        auth, builtin,
        credentials::Credentials,
        functions::Functions,
        images::ImageJobs,
        previews::Previews,
        quotas::Quotas,
        receipts::{ReceiptKeyError, Receipts},
        sandbox_functions,
        sandboxes::Registry,
        script_jobs::ScriptJobs,
        scripts::{self, ReachError, Scripts, engines::Engines, reach::Reach},
        seal::{Seal, SealError},
        services::Services,
        usage::Usage,
        webhooks::Webhooks,
    },
    config::{Config, SshListen},
    gateway::{Front, Gateway, Side, Tls, TlsError},
    http,
    ssh::{self, HostKeyError},
    tasks,
};

/// How long a data directory may still be held by what is left of a killed server.
const LOCK_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot {what} {path}")]
    Files {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another server (pid {pid}) uses the data directory {path}; stop it or choose another with --data-dir")]
    InUse { path: PathBuf, pid: String },
    #[error("cannot listen on {address}")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("TLS of the gateway")]
    Tls(#[from] TlsError),
    #[error("SSH host key")]
    SshHostKey(#[from] HostKeyError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    ReceiptKey(#[from] ReceiptKeyError),
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("sandboxes of the last run cannot be recovered: {0}")]
    Recovery(String),
}

/// A server that has recovered and listens.
pub struct Server {
    pub app: SharedApp,
    listener: TcpListener,
    /// The gateway's own.
    public: Option<TcpListener>,
    tls: Option<Arc<Tls>>,
    ssh: Option<ssh::Gate>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Held until the end: one server per data directory.
    _lock: fs::File,
}

impl Server {
    /// Opens the data directory, recovers what the last run left, and listens. Nothing is served yet.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let lock = lock_data_dir(&config.data_dir)?;
        // Before the long part, so that a port that is taken is told at once.
        let listener = bind(config.listen).await?;
        let public = match config.gateway_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let ssh_listener = match config.ssh_listen {
            SshListen::Off => None,
            SshListen::IfFree(address) => ssh::listen_if_free(address).await.map_err(|source| StartError::Listen { address, source })?,
            SshListen::At(address) => Some(bind(address).await?),
        };
        let ssh = ssh_listener.map(|listener| ssh::Gate::open(listener, &config.data_dir)).transpose()?;
        let tls = Tls::open(&config)?.map(Arc::new);
        if room::give_up_reserve(&config.data_dir).unwrap_or(false) {
            tracing::warn!("the disk is full: nothing that needs room on it will be done until there is some");
        }
        let seal = Arc::new(Seal::open(&config.data_dir)?);
        let receipts = Receipts::open(&config.data_dir, config.prices.clone())?;
        let reach = Reach::open(&config, &config.data_dir)?;
        if let Ok(address) = listener.local_addr() {
            reach.listens(address);
        }
        let store = open_store(config.data_dir.join("sandbar.db")).await?;
        let auth = auth::Auth::start(&store, config.bootstrap_token.as_deref(), config.registration).await?;
        reach.mailer.outbox.forget_deleted(&store).await?;
        builtin::ensure(&store, config.pool_min_idle).await?;
        let mut records = store.sandboxes_all().await?;
        let named = store.named().await?;
        let slots = records.iter().filter_map(|record| record.uid_slot).chain(named.slots.iter().copied()).collect();
        sandbox_functions::interrupt(&store).await?;
        scripts::interrupt(&store).await?;
        let node = Node::start(config.node.clone(), slots).await?;
        let webhooks = Webhooks::new(Arc::clone(&seal), node.outbound().clone(), config.data_dir.clone());
        seal_stored(&store, &webhooks, &mut records).await?;
        let credentials = Credentials::new(store.clone(), Arc::clone(&seal));
        check_key(&seal, &credentials, &webhooks, &records).await?;
        let usage = Arc::new(Usage::default());
        let quotas = Quotas::start(&store).await?;
        let sandboxes = Registry::new(store.clone(), node.clone(), Arc::clone(&usage), Arc::clone(&webhooks), Arc::clone(&credentials));
        let collect_soon = Arc::clone(&sandboxes.collect_soon);
        let engines = Engines::new(&config.data_dir, &config.scripts, node.clone());
        let app = Arc::new(App {
            config,
            store,
            auth,
            node,
            metrics: http::Metrics::new(),
            quotas,
            usage,
            webhooks,
            credentials,
            sandboxes,
            services: Services::default(),
            previews: Previews::default(),
            functions: Functions::default(),
            apps: Apps::default(),
            app_runs: AppRuns::default(),
            app_schedules: Notify::new(),
            receipts,
            supervisors: Supervisors::default(),
            app_turns: Turns::default(),
            function_load: Arc::default(),
            scripts: Scripts::new(engines, seal),
            script_jobs: ScriptJobs::default(),
            gateway: Gateway::default(),
            ssh: ssh.as_ref().map(|ssh| ssh.reach.clone()),
            reach,
            image_jobs: ImageJobs::default(),
            templates_changed: Notify::new(),
            collect_soon,
            collecting: tokio::sync::Mutex::default(),
        });
        app.usage.egress.restore(&app.store).await?;
        let recovered = app.sandboxes.recover(records, named).await.map_err(|error| StartError::Recovery(error.to_string()))?;
        tracing::info!(?recovered, "recovered");
        app.recover_script_jobs().await?;
        app.recover_apps().await.map_err(|error| StartError::Recovery(error.to_string()))?;
        app.recover_online_apps().await.map_err(|error| StartError::Recovery(error.to_string()))?;
        app.recover_functions().await.map_err(|error| StartError::Recovery(error.to_string()))?;
        Ok(Self { app, listener, public, tls, ssh, stop: CancellationToken::new(), tasks: TaskTracker::new(), _lock: lock })
    }

    /// Where the API listens (the port is real, also when the configuration said 0).
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Cancel this to end [`Server::run`].
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves until stopped; then requests are drained, tasks end, and idle runtimes of the pool are removed.
    /// Sandboxes go on running without a server.
    pub async fn run(self) {
        let Self { app, listener, public, tls, ssh, stop, tasks: tracker, _lock } = self;
        app.scripts.engines.warm();
        tracker.spawn(tasks::pools::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::deadlines::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::watch::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::collect::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::usage::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::egress::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::credentials::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::apps::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::app_runs::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::app_schedules::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::app_cleanup::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::functions::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::webhooks::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::script_runs::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::script_jobs::run(app.clone(), stop.clone()));
        tracker.spawn(tasks::script_schedules::run(app.clone(), stop.clone()));
        let front = |side| Front { app: app.clone(), router: http::router(app.clone()), side };
        if let Some(tls) = &tls {
            tls.spawn_tasks(&app, &tracker, &stop);
        }
        if let Some(public) = public {
            tracker.spawn(http::serve(public, front(Side::Public), tls, stop.clone()));
        }
        if let Some(ssh) = ssh {
            tracker.spawn(ssh.run(app.clone(), stop.clone()));
        }
        http::serve(listener, front(Side::Both), None, stop.clone()).await;
        stop.cancel();
        app.gateway.close().await;
        app.script_jobs.ended.cancelled().await;
        app.scripts.close().await;
        app.services.close().await;
        app.supervisors.close().await;
        tracker.close();
        tracker.wait().await;
        app.scripts.engines.close().await;
        app.node.shutdown().await;
        if let Err(error) = app.store.close().await {
            tracing::error!(error = error_text(&error), "the database did not close cleanly; it recovers at the next start");
        }
    }
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

async fn open_store(path: PathBuf) -> Result<Store, StoreError> {
    tokio::task::spawn_blocking(move || Store::open(&path)).await.unwrap_or(Err(StoreError::Closed))
}

/// Seals secrets that the first versions kept plainly.
async fn seal_stored(store: &Store, webhooks: &Webhooks, records: &mut [SandboxRecord]) -> Result<(), StartError> {
    for record in records {
        if webhooks.seal_stored(record)? {
            record.version = store.sandbox_update(record, record.version, &[]).await?;
        }
    }
    Ok(())
}

/// Says what a key that is not the one of before leaves without use: nothing else does until it is needed.
async fn check_key(seal: &Seal, credentials: &Credentials, webhooks: &Webhooks, records: &[SandboxRecord]) -> Result<(), StartError> {
    let mut closed: Vec<String> = credentials.closed_kinds().await?.into_iter().map(|kind| format!("credential sources of kind {kind}")).collect();
    if records.iter().any(|record| webhooks.is_closed(record)) {
        closed.push("secrets of webhooks".to_owned());
    }
    if !closed.is_empty() {
        tracing::error!(
            key = %seal.path().display(),
            closed = closed.join(", "),
            "the key's file is not the one that stored secrets were sealed with, and they cannot be opened; put the former file back and start again, or write the secrets anew"
        );
    }
    Ok(())
}

/// Makes the data directory and claims it for this process.
fn lock_data_dir(dir: &Path) -> Result<fs::File, StartError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| StartError::Files { what, path, source }
    };
    // Others may pass through: sandboxes' processes, which are strangers to the host, own folders below.
    fs::DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(failed("make", dir))?;
    let path = dir.join("lock");
    let mut file = fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path).map_err(failed("open", &path))?;
    match lock(&file) {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let pid = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            return Err(StartError::InUse { path: dir.to_owned(), pid });
        }
        Err(fs::TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
    }
    // Over what is there and never shorter: on a full disk what was given back would not be had again.
    file.rewind().and_then(|()| writeln!(file, "{:<10}", std::process::id())).map_err(failed("write", &path))?;
    Ok(file)
}

/// Locks, and waits a moment for the children of a server that was killed just now: until they notice, they hold copies
/// of its files.
fn lock(file: &fs::File) -> Result<(), fs::TryLockError> {
    let end = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            result => return result,
        }
    }
}
