//! What is kept up inside sandboxes of apps: the start command and services, each by a task of its own, and one for their sandbox, which
//! tells them when it sleeps, wakes, or has other processes.
//!
//! Who asks twice joins. A server that starts anew keeps up again what a former one did, and finds the processes by what stands in
//! their environment; nothing that was ready before counts as ready then.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use sandbar_core::app::{
    AppState,
    launch::{Entry, Launch, SeenApp, SeenEntry},
    manifest::START,
    redact::Redactor,
    supervise::{Ending, Phase, Upkeep, Why},
};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::app::{App, sandboxes::now_ms};

mod driver;
pub(in crate::app) mod gates;
mod process;
mod watcher;

pub(crate) use driver::EntryView;
use driver::{Command, Driver, Fresh, Ground, Place};
use watcher::Watcher;

/// Commands that wait for one process; more would be the same again.
const COMMANDS_MAX: usize = 16;
/// A sandbox is looked at within this time.
const LOOKED_WITHIN: Duration = Duration::from_secs(5);

/// Who is kept up, by sandbox.
pub struct Supervisors {
    known: Mutex<HashMap<String, Supervised>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What is kept up in one sandbox. Clones are the same; it goes on without them.
#[derive(Clone)]
pub(crate) struct Supervised(Arc<Inner>);

struct Inner {
    sandbox_id: String,
    launch: Arc<Launch>,
    entries: BTreeMap<String, Handle>,
    ground: watch::Receiver<Ground>,
    redactor: RwLock<Arc<Redactor>>,
    /// The sandbox is there.
    alive: watch::Receiver<bool>,
    /// Ends the tasks, not the processes.
    stop: CancellationToken,
}

struct Handle {
    commands: mpsc::Sender<Command>,
    /// How many times it was wanted.
    asked: AtomicU64,
    view: watch::Receiver<EntryView>,
    /// What its next process is started with.
    fresh: watch::Sender<Fresh>,
}

/// Why the start command is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotReady {
    pub reason: Why,
    /// For people.
    pub text: String,
    pub log_tail: Vec<String>,
}

/// How something ended that was stopped.
#[derive(Debug, Clone)]
pub(crate) struct Stopped {
    pub name: String,
    /// None when it did not run.
    pub ending: Option<Ending>,
}

/// Whose sandbox it is, as far as that matters here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keeping {
    /// The app whose row remembers how its processes were seen.
    pub app_id: Option<String>,
    /// A sandbox whose processes have all ended, without anybody having paused it, is started again.
    pub revive: bool,
    /// What a former server knew.
    pub seen: SeenApp,
    /// Takes secrets out of what is kept of what was printed.
    pub redactor: Arc<Redactor>,
}

impl Default for Supervisors {
    fn default() -> Self {
        Self { known: Mutex::default(), tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }
}

impl App {
    /// Keeps up in a sandbox what is `wanted` of a launch: starts it, or joins what is under way. What is started from now on has the
    /// environment of this launch. Returns at once.
    pub(crate) fn supervise(self: &Arc<Self>, sandbox_id: &str, launch: &Arc<Launch>, wanted: &[String], keeping: Keeping) -> Supervised {
        let supervised = self.supervisors.supervise(self, sandbox_id, launch, keeping);
        for name in wanted {
            supervised.start(name);
        }
        supervised
    }

    /// What is kept up in a sandbox.
    pub(crate) fn supervised(&self, sandbox_id: &str) -> Option<Supervised> {
        self.supervisors.lock().get(sandbox_id).cloned()
    }

    /// Ends what is kept up in a sandbox: services first, those that depend on others before these, and the start command last. Each gets
    /// SIGTERM, and SIGKILL after `grace`. The sandbox stays. Nothing runs in one that sleeps, so nothing is ended there.
    pub(crate) async fn unsupervise(self: &Arc<Self>, sandbox_id: &str, grace: Duration) -> Vec<Stopped> {
        let supervised = self.supervisors.lock().remove(sandbox_id);
        let Some(supervised) = supervised else { return Vec::new() };
        // Where its sandbox has not been looked at yet, it is not known what runs.
        let mut ground = supervised.0.ground.clone();
        let _ = tokio::time::timeout(LOOKED_WITHIN, ground.wait_for(|ground| ground.looked)).await;
        let mut all = Vec::new();
        for round in supervised.0.launch.stop_order() {
            all.extend(join_all(round.iter().map(|name| supervised.stop(name, grace))).await);
        }
        let launch = Arc::clone(&supervised.0.launch);
        // Nobody keeps up anything from here on, whoever else still looks at it.
        supervised.0.stop.cancel();
        gates::close(self, sandbox_id, &launch);
        all
    }
}

impl Supervisors {
    /// Ends the tasks; processes go on.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.lock().clear();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn supervise(&self, app: &Arc<App>, sandbox_id: &str, launch: &Arc<Launch>, keeping: Keeping) -> Supervised {
        let mut known = self.lock();
        if let Some(supervised) = known.get(sandbox_id).filter(|supervised| *supervised.0.alive.borrow()) {
            supervised.renew(launch, &keeping.redactor);
            return supervised.clone();
        }
        let stop = self.stop.child_token();
        let (ground, stands) = watch::channel(Ground::default());
        let (alive, lives) = watch::channel(true);
        let (end, ends) = watch::channel(0);
        let mut entries: BTreeMap<String, Handle> = BTreeMap::new();
        // Each stands after what it depends on.
        for entry in &launch.entries {
            let dependencies = entry.depends_on.iter().filter_map(|name| entries.get(name)).map(|handle| handle.view.clone()).collect();
            let seen = keeping.seen.entries.get(&entry.name).filter(|_| keeping.seen.sandbox_id == sandbox_id);
            let upkeep = begin(entry, seen);
            let (view, watched) = watch::channel(EntryView::new(entry, &upkeep, seen));
            let (commands, queue) = mpsc::channel(COMMANDS_MAX);
            let redactor = Arc::clone(&keeping.redactor);
            let (fresh, latest) = watch::channel((Arc::clone(entry), Arc::clone(&redactor)));
            let place = Place {
                entry: Arc::clone(entry),
                redactor,
                latest,
                ground: stands.clone(),
                ends: ends.clone(),
                dependencies,
                context_id: None,
                seen_to_end: None,
            };
            let driver = Driver { upkeep, heard: 0, view, commands: queue, place };
            self.spawn(&stop, driver.run());
            entries.insert(entry.name.clone(), Handle { commands, asked: AtomicU64::new(0), view: watched, fresh });
        }
        let views: Vec<watch::Receiver<EntryView>> = entries.values().map(|handle| handle.view.clone()).collect();
        if let Some(app_id) = keeping.app_id.clone() {
            self.spawn(&stop, remember(Arc::downgrade(app), app_id, sandbox_id.to_owned(), views.clone()));
        }
        // Before the first look nobody is let in.
        gates::begin(app, sandbox_id, launch);
        let gatekeeper = gates::Gatekeeper { app: Arc::downgrade(app), sandbox_id: sandbox_id.to_owned(), views, ground: stands.clone() };
        if !gatekeeper.views.is_empty() {
            self.spawn(&stop, gatekeeper.run());
        }
        let watcher = Watcher { app: Arc::downgrade(app), sandbox_id: sandbox_id.to_owned(), ground, alive, end, revive: keeping.revive };
        self.spawn(&stop, watcher.run(app.sandboxes.listeners.listen(sandbox_id)));
        let (sandbox_id, redactor) = (sandbox_id.to_owned(), RwLock::new(keeping.redactor));
        let inner = Inner { sandbox_id: sandbox_id.clone(), launch: Arc::clone(launch), entries, ground: stands, redactor, alive: lives, stop };
        let supervised = Supervised(Arc::new(inner));
        known.insert(sandbox_id, supervised.clone());
        supervised
    }

    /// A task of its own, until the server stops.
    pub(super) fn spawn_free(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(&self.stop, task);
    }

    fn spawn(&self, stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        let stop = stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled_owned(task).await });
    }

    /// Forgets a sandbox that is gone.
    fn forget(&self, sandbox_id: &str) {
        self.lock().remove(sandbox_id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Supervised>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a process before anything is seen of it.
fn begin(entry: &Entry, seen: Option<&SeenEntry>) -> Upkeep {
    let upkeep = Upkeep::new(entry.restart, entry.ready_within_ms);
    match seen {
        None => upkeep,
        Some(seen) => match seen.state {
            AppState::None => upkeep,
            AppState::Exited | AppState::Failed => upkeep.again(seen.last.clone()),
            AppState::Starting | AppState::Ready | AppState::Unhealthy => upkeep.again(None),
        },
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl EntryView {
    fn new(entry: &Arc<Entry>, upkeep: &Upkeep, seen: Option<&SeenEntry>) -> Self {
        Self {
            entry: Arc::clone(entry),
            state: upkeep.state(),
            phase: upkeep.phase(),
            heard: 0,
            last: upkeep.last().cloned(),
            restarts: 0,
            waits_for: None,
            processes: seen.map(|seen| seen.processes.clone()).unwrap_or_default(),
            pid: None,
            started_at_ms: None,
            listening: Vec::new(),
        }
    }

    /// When it is started again, if it waits for that.
    pub fn retry_at_ms(&self) -> Option<i64> {
        match self.phase {
            Phase::Pausing { until_ms } => Some(until_ms),
            Phase::Idle | Phase::Waiting { .. } | Phase::Starting { .. } | Phase::Ready { .. } | Phase::Unhealthy { .. } | Phase::Over { .. } => None,
        }
    }

    /// Since when it is ready.
    pub fn ready_at_ms(&self) -> Option<i64> {
        match self.phase {
            Phase::Ready { since_ms, .. } | Phase::Unhealthy { since_ms } => Some(since_ms),
            Phase::Idle | Phase::Waiting { .. } | Phase::Starting { .. } | Phase::Pausing { .. } | Phase::Over { .. } => None,
        }
    }
}

impl Supervised {
    pub fn sandbox_id(&self) -> &str {
        &self.0.sandbox_id
    }

    pub fn redactor(&self) -> Arc<Redactor> {
        Arc::clone(&self.0.redactor.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on processes are started with what this launch says. What runs keeps what it was started with.
    pub fn renew(&self, launch: &Launch, redactor: &Arc<Redactor>) {
        *self.0.redactor.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(redactor);
        for entry in &launch.entries {
            if let Some(handle) = self.0.entries.get(&entry.name) {
                handle.fresh.send_replace((Arc::clone(entry), Arc::clone(redactor)));
            }
        }
    }

    pub fn launch(&self) -> &Arc<Launch> {
        &self.0.launch
    }

    /// Wants an entry, with nothing of what it depends on.
    pub fn start(&self, name: &str) {
        if let Some(handle) = self.0.entries.get(name) {
            // Whatever is in a full queue is the same again. It is counted behind, so that nobody waits for one that was not sent.
            if handle.commands.try_send(Command::Start).is_ok() {
                handle.asked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns when what was wanted has been heard, in a sandbox that was looked at: so that whoever looks now sees it.
    pub async fn heard(&self) {
        let heard = async {
            let _ = self.0.ground.clone().wait_for(|ground| ground.runtime.is_some()).await;
            for handle in self.0.entries.values() {
                let asked = handle.asked.load(Ordering::Relaxed);
                let _ = handle.view.clone().wait_for(|view| view.heard >= asked).await;
            }
        };
        let _ = tokio::time::timeout(LOOKED_WITHIN, heard).await;
    }

    /// Ends an entry, and returns when it has ended.
    pub async fn stop(&self, name: &str, grace: Duration) -> Stopped {
        let stopped = async {
            let handle = self.0.entries.get(name)?;
            let (reply, answer) = oneshot::channel();
            handle.commands.send(Command::Stop { grace, reply }).await.ok()?;
            answer.await.ok()?
        };
        Stopped { name: name.to_owned(), ending: stopped.await }
    }

    pub fn view(&self, name: &str) -> Option<EntryView> {
        self.0.entries.get(name).map(|handle| handle.view.borrow().clone())
    }

    /// Whether the sandbox runs.
    pub fn is_awake(&self) -> bool {
        self.0.ground.borrow().runtime.is_some()
    }

    /// The ports on which somebody listens now, declared or not.
    pub async fn listening(&self) -> BTreeSet<u16> {
        let runtime = self.0.ground.borrow().runtime.clone();
        let Some(runtime) = runtime else { return BTreeSet::new() };
        let listening = tokio::task::spawn_blocking(move || runtime.listening_ports()).await;
        match listening.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(ports) => ports,
            Err(error) => {
                tracing::warn!(sandbox = self.0.sandbox_id, %error, "it is not known on which ports somebody listens");
                BTreeSet::new()
            }
        }
    }

    /// Returns when the start command is ready; at once when there is none. It is to be wanted.
    pub async fn ready(&self, within: Duration) -> Result<(), NotReady> {
        self.entry_ready(START, within).await
    }

    /// The same of any entry.
    pub async fn entry_ready(&self, name: &str, within: Duration) -> Result<(), NotReady> {
        let Some(handle) = self.0.entries.get(name) else { return Ok(()) };
        let (mut view, mut alive) = (handle.view.clone(), self.0.alive.clone());
        let until = Instant::now() + within;
        let asked = handle.asked.load(Ordering::Relaxed);
        let settled = async {
            tokio::select! {
                // What was over before somebody wanted it may not have been told yet that somebody does.
                settled = view.wait_for(|view| view.state == AppState::Ready || (is_over(view.state) && view.heard >= asked)) => {
                    settled.map(|view| view.clone()).ok()
                }
                _ = alive.wait_for(|alive| !*alive) => None,
            }
        };
        let text = |what: &str| format!("{name:?} is not ready: {what}");
        match tokio::time::timeout_at(until.into(), settled).await {
            Ok(Some(view)) if view.state == AppState::Ready => Ok(()),
            Ok(Some(view)) => Err(match view.last {
                Some(last) => NotReady { reason: last.why, text: last.text, log_tail: last.log_tail },
                None => NotReady { reason: Why::NotStarted, text: text("it was stopped"), log_tail: Vec::new() },
            }),
            Ok(None) => Err(NotReady { reason: Why::NotStarted, text: text("it was stopped, or its sandbox is gone"), log_tail: Vec::new() }),
            Err(_) => {
                let log_tail = self.log_tail(name).await;
                Err(NotReady { reason: Why::StartNotReady, text: text(&format!("it did not become so within {} s", within.as_secs())), log_tail })
            }
        }
    }

    /// The last lines that a process printed which runs.
    async fn log_tail(&self, name: &str) -> Vec<String> {
        let runtime = self.0.ground.borrow().runtime.clone();
        let context = self.view(name).and_then(|view| view.processes.last().cloned());
        match (runtime, context) {
            (Some(runtime), Some((of, context))) if of == runtime.id => process::printed(&runtime, &self.redactor(), &context).await,
            _ => Vec::new(),
        }
    }

    /// How all is seen, for a server to come.
    fn seen(sandbox_id: &str, views: &[watch::Receiver<EntryView>]) -> SeenApp {
        let seen = |view: &watch::Receiver<EntryView>| {
            let view = view.borrow();
            (view.entry.name.clone(), SeenEntry { state: view.state, last: view.last.clone(), processes: view.processes.clone() })
        };
        SeenApp { sandbox_id: sandbox_id.to_owned(), entries: views.iter().map(seen).collect() }
    }
}

fn is_over(state: AppState) -> bool {
    matches!(state, AppState::None | AppState::Exited | AppState::Failed)
}

/// Keeps in the app's row how its processes were seen, whenever that changes.
async fn remember(app: Weak<App>, app_id: String, sandbox_id: String, views: Vec<watch::Receiver<EntryView>>) {
    let changed = Arc::<Notify>::default();
    let mut following: Vec<_> = Vec::new();
    for view in &views {
        let (mut view, changed) = (view.clone(), Arc::clone(&changed));
        following.push(async move {
            while view.changed().await.is_ok() {
                changed.notify_one();
            }
        });
    }
    let write = async {
        let mut last = None;
        loop {
            changed.notified().await;
            let seen = Supervised::seen(&sandbox_id, &views);
            if last.as_ref() == Some(&seen) {
                continue;
            }
            let Some(app) = app.upgrade() else { return };
            let written = match serde_json::to_value(&seen) {
                Ok(value) => app.store.app_seen(&app_id, &value).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match written {
                Ok(()) => last = Some(seen),
                Err(error) => tracing::warn!(app = app_id, error, at_ms = now_ms(), "how an app is was not remembered"),
            }
        }
    };
    tokio::join!(join_all(following), write);
}
