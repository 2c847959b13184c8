//! Services that run: which process serves which port of a runtime. The first access starts it, everybody waits for that
//! one start, and it is kept up as long as its runtime lives.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sandbar_core::{
    sandbox::SandboxRecord,
    service::{HealthCheck, RuntimeKind, Service},
    validate,
};
use sandbar_node::{
    Runtime,
    warm::{self, Check},
};
use sandbar_procd_api::ContextType;
use tokio::sync::{Notify, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    app::{App, sandboxes::now_ms},
    error::ApiError,
};

mod keeper;

use keeper::{Keeper, Phase, State};

/// A server inside that is asked whether it is up answers within this time.
const PROBE_WITHIN: Duration = Duration::from_secs(2);
/// Pauses between two questions while a service starts: the first, doubled up to the second.
const PROBE_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));
/// Who comes to a service that is late waits only for so long: less than a browser is shown a page for.
const LATE_PATIENCE: Duration = Duration::from_millis(500);
/// Env vars that tell a process which service it is.
const ID: &str = "SANDBOX0_SERVICE_ID";
const PORT: &str = "SANDBOX0_SERVICE_PORT";
const RUNTIME: &str = "SANDBOX0_SERVICE_RUNTIME";

/// The keepers of all services that were accessed.
pub struct Services {
    keepers: Mutex<HashMap<Key, Kept>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A service of a runtime.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    runtime_id: String,
    service_id: String,
}

/// What is known of a keeper from outside. Dropping it ends the keeper, not the process.
#[derive(Clone)]
struct Kept {
    process: Arc<Process>,
    state: watch::Receiver<State>,
    look: Arc<Notify>,
    _stop: Arc<DropGuard>,
}

/// Why a service is not up.
enum NotUp {
    /// It runs, and after so long has not come up yet.
    Late(Duration),
    Said(ApiError),
}

/// What of a service makes its process: when it changes, a new one is started.
#[derive(Debug, Clone, PartialEq)]
struct Process {
    service_id: String,
    port: u16,
    command: Vec<String>,
    cwd: Option<String>,
    /// Of the service, with what tells it who it is.
    env: BTreeMap<String, String>,
    /// As the agent shows it: with the sandbox's own below.
    merged_env: BTreeMap<String, String>,
    health_check: Option<HealthCheck>,
}

impl Default for Services {
    fn default() -> Self {
        Self { keepers: Mutex::default(), tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }
}

impl App {
    /// Returns when a service can be asked: starts what can be started and waits for it, up to `within`.
    pub(crate) async fn ensure_service(
        self: &Arc<Self>,
        sandbox: &SandboxRecord,
        runtime: &Arc<Runtime>,
        service: &Service,
        within: Duration,
    ) -> Result<(), ApiError> {
        match service.kind() {
            RuntimeKind::Manual => Ok(()),
            RuntimeKind::Function { function } => self.check_handler(runtime, &service.id, function).await,
            RuntimeKind::Cmd { command, cwd } => {
                self.up(sandbox, runtime, service, Process::new(sandbox, service, command, cwd.as_deref()), within, false).await
            }
            RuntimeKind::WarmProcess { warm_process_name } => {
                if !is_warm_process(sandbox, runtime, warm_process_name).await {
                    return Err(unavailable(&format!("service {:?} must reference a cmd warm process that runs, {warm_process_name:?} is none", service.id)));
                }
                wait_ready(runtime, &readiness(service.port, service.health_check.as_ref()), within).await.map_err(|()| late(service, within))
            }
        }
    }

    /// The same, of a service that was up and has just refused a connection: looks again before it believes.
    pub(crate) async fn ensure_service_again(
        self: &Arc<Self>,
        sandbox: &SandboxRecord,
        runtime: &Arc<Runtime>,
        service: &Service,
        within: Duration,
    ) -> Result<(), ApiError> {
        match service.kind() {
            RuntimeKind::Cmd { command, cwd } => {
                self.up(sandbox, runtime, service, Process::new(sandbox, service, command, cwd.as_deref()), within, true).await
            }
            RuntimeKind::Manual | RuntimeKind::Function { .. } | RuntimeKind::WarmProcess { .. } => {
                self.ensure_service(sandbox, runtime, service, within).await
            }
        }
    }

    async fn up(
        self: &Arc<Self>,
        sandbox: &SandboxRecord,
        runtime: &Arc<Runtime>,
        service: &Service,
        process: Process,
        within: Duration,
        again: bool,
    ) -> Result<(), ApiError> {
        let until = Instant::now() + within;
        if !self.services.keeps(runtime, &process) {
            self.source_left(&sandbox.id, within).await;
        }
        let kept = self.services.keeper(self, sandbox, runtime, process);
        match kept.up(until.saturating_duration_since(Instant::now()), again).await {
            Ok(()) => Ok(()),
            Err(NotUp::Said(error)) => Err(error),
            Err(NotUp::Late(after)) => {
                let printed = last_printed(runtime, &service.id).await.unwrap_or_default();
                Err(late(service, after).with_message(|text| format!("{text}{printed}")))
            }
        }
    }

    /// Ends the process of a service that is started here, and returns when another is up in its place.
    pub(crate) async fn restart_service(
        self: &Arc<Self>,
        sandbox: &SandboxRecord,
        runtime: &Arc<Runtime>,
        service: &Service,
        within: Duration,
    ) -> Result<(), ApiError> {
        let RuntimeKind::Cmd { .. } = service.kind() else { return Ok(()) };
        // A new keeper starts it at once; the old one would wait for a while as after a failure.
        self.services.lock().remove(&Key { runtime_id: runtime.id.clone(), service_id: service.id.clone() });
        let contexts = runtime.client.list_contexts().await.map_err(|error| unavailable(&format!("service {:?} was not ended: {error}", service.id)))?;
        for context in contexts.iter().filter(|context| context.running && keeper::service_of(context) == Some(&service.id)) {
            if let Err(error) = runtime.client.delete_context(&context.id).await {
                tracing::debug!(runtime = runtime.id, %error, "the process of a service had ended");
            }
        }
        self.ensure_service(sandbox, runtime, service, within).await
    }

    /// Whether a service is known to be up, so that nothing has to be waited for.
    pub(crate) fn is_service_up(&self, sandbox: &SandboxRecord, runtime: &Runtime, service: &Service) -> bool {
        match service.kind() {
            RuntimeKind::Manual | RuntimeKind::Function { .. } => true,
            // Kept up by the node; a connection that is refused tells the rest.
            RuntimeKind::WarmProcess { warm_process_name } => is_of_template(sandbox, warm_process_name) && runtime.is_well(),
            RuntimeKind::Cmd { command, cwd } => {
                let key = Key { runtime_id: runtime.id.clone(), service_id: service.id.clone() };
                let kept = self.services.lock().get(&key).cloned();
                kept.is_some_and(|kept| kept.state.borrow().phase == Phase::Up && *kept.process == Process::new(sandbox, service, command, cwd.as_deref()))
            }
        }
    }

    /// What a service lacks that is started and not up yet, and the last lines that its process printed.
    pub(crate) async fn why_not_up(&self, runtime: &Runtime, service: &Service) -> String {
        let printed = last_printed(runtime, &service.id).await.unwrap_or_default();
        format!("service {:?} {}{printed}", service.id, lack(service))
    }

    /// Ends the processes of services that are not there any more, or not as they were. Behind the reply of the change.
    pub(crate) fn services_changed(self: &Arc<Self>, sandbox: &SandboxRecord, runtime: Arc<Runtime>) {
        let wanted: HashMap<String, Arc<Process>> = Service::list(sandbox.config.services.as_ref())
            .iter()
            .filter_map(|service| match service.kind() {
                RuntimeKind::Cmd { command, cwd } => Some((service.id.clone(), Arc::new(Process::new(sandbox, service, command, cwd.as_deref())))),
                RuntimeKind::Manual | RuntimeKind::Function { .. } | RuntimeKind::WarmProcess { .. } => None,
            })
            .collect();
        self.services.lock().retain(|key, kept| key.runtime_id != runtime.id || wanted.get(&key.service_id).is_some_and(|process| *process == kept.process));
        self.services.tasks.spawn(async move {
            let contexts = match runtime.client.list_contexts().await {
                Ok(contexts) => contexts,
                Err(error) => {
                    tracing::warn!(runtime = runtime.id, %error, "processes of former services were not ended");
                    return;
                }
            };
            for context in contexts.iter().filter(|context| context.running && context.kind == ContextType::Cmd) {
                let Some(id) = keeper::service_of(context) else { continue };
                if wanted.get(id).is_none_or(|process| !process.is(context))
                    && let Err(error) = runtime.client.delete_context(&context.id).await
                {
                    tracing::debug!(runtime = runtime.id, %error, "the process of a former service had ended");
                }
            }
        });
    }
}

impl Services {
    /// Ends the keepers; processes go on.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.lock().clear();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Whether a process has a keeper as it is.
    fn keeps(&self, runtime: &Runtime, process: &Process) -> bool {
        let key = Key { runtime_id: runtime.id.clone(), service_id: process.service_id.clone() };
        self.lock().get(&key).is_some_and(|kept| *kept.process == *process && kept.state.has_changed().is_ok())
    }

    /// The keeper of a process, started when there is none or one of a former configuration.
    fn keeper(&self, app: &Arc<App>, sandbox: &SandboxRecord, runtime: &Arc<Runtime>, process: Process) -> Kept {
        let key = Key { runtime_id: runtime.id.clone(), service_id: process.service_id.clone() };
        let mut keepers = self.lock();
        if let Some(kept) = keepers.get(&key).filter(|kept| *kept.process == process && kept.state.has_changed().is_ok()) {
            return kept.clone();
        }
        let (state, watched) = watch::channel(State::default());
        let stop = self.stop.child_token();
        let kept = Kept { process: Arc::new(process), state: watched, look: Arc::default(), _stop: Arc::new(stop.clone().drop_guard()) };
        let keeper = Keeper {
            runtime: Arc::clone(runtime),
            process: Arc::clone(&kept.process),
            state,
            look: Arc::clone(&kept.look),
            sandbox_id: sandbox.id.clone(),
            registry: Arc::clone(&app.sandboxes),
        };
        let (app, ours) = (Arc::downgrade(app), key.clone());
        self.tasks.spawn(async move {
            let runtime = Arc::clone(&keeper.runtime);
            tokio::select! {
                () = stop.cancelled() => return,
                () = runtime.ended() => {}
                () = keeper.run() => {}
            }
            // With its runtime goes its place, unless somebody else has it by now.
            if let Some(app) = app.upgrade() {
                app.services.lock().retain(|key, kept| *key != ours || kept.state.has_changed().is_ok());
            }
        });
        keepers.insert(key, kept.clone());
        kept
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Waits until it is up. With `again` only what was found out from now on counts.
    async fn up(mut self, within: Duration, again: bool) -> Result<(), NotUp> {
        let (seen, late_since) = {
            let state = self.state.borrow();
            (state.looks, state.late)
        };
        let within = if late_since.is_some() { within.min(LATE_PATIENCE) } else { within };
        if again {
            self.look.notify_one();
        }
        let settled = self.state.wait_for(|state| (!again || state.looks > seen) && state.phase != Phase::Starting);
        match tokio::time::timeout(within, settled).await {
            Ok(Ok(state)) => match &state.phase {
                Phase::Up | Phase::Starting => Ok(()),
                Phase::Down { text, retry_at } => {
                    let wait = retry_at.saturating_duration_since(Instant::now()).as_secs_f64().ceil().max(1.0) as u32;
                    Err(NotUp::Said(unavailable(text).retry_after(wait)))
                }
            },
            Ok(Err(_)) => Err(NotUp::Said(unavailable("the sandbox is ending or restarting"))),
            Err(_) => Err(NotUp::Late(late_since.map_or(within, |since| since.elapsed()))),
        }
    }
}

impl Process {
    fn new(sandbox: &SandboxRecord, service: &Service, command: &[String], cwd: Option<&str>) -> Self {
        let mut env = service.runtime.as_ref().map(|runtime| runtime.env_vars.clone()).unwrap_or_default();
        env.extend([(ID.to_owned(), service.id.clone()), (PORT.to_owned(), service.port.to_string()), (RUNTIME.to_owned(), "cmd".to_owned())]);
        let mut merged_env = sandbox.config.env_vars.clone().unwrap_or_default();
        merged_env.extend(env.clone());
        Self {
            service_id: service.id.clone(),
            port: service.port,
            command: command.to_vec(),
            cwd: cwd.filter(|cwd| !cwd.is_empty()).map(str::to_owned),
            env,
            merged_env,
            health_check: service.health_check.clone(),
        }
    }
}

/// What a service has to pass to count as up: its health check, or that it listens.
fn readiness(port: u16, health_check: Option<&HealthCheck>) -> Check {
    match health_check {
        Some(health) => Check::Http { port, path: health.path.clone(), headers: Vec::new(), passing: warm::PASSING },
        None => Check::Tcp(port),
    }
}

async fn wait_ready(runtime: &Arc<Runtime>, check: &Check, within: Duration) -> Result<(), ()> {
    let asked = async {
        let mut pause = PROBE_PAUSE.0;
        while !warm::passes(runtime, check, PROBE_WITHIN, &BTreeMap::new()).await {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PROBE_PAUSE.1);
        }
    };
    tokio::time::timeout(within, asked).await.map_err(drop)
}

/// By the name in the template, or by the id of a context that is a running command.
async fn is_warm_process(sandbox: &SandboxRecord, runtime: &Runtime, name: &str) -> bool {
    if is_of_template(sandbox, name) {
        return true;
    }
    !name.is_empty() && runtime.client.get_context(name).await.is_ok_and(|context| context.kind == ContextType::Cmd && context.running)
}

fn is_of_template(sandbox: &SandboxRecord, name: &str) -> bool {
    let processes = sandbox.template.warm_processes.as_deref().unwrap_or_default();
    let is_it = |(index, process): (usize, &sandbar_api::template::WarmProcess)| {
        process.kind == "cmd" && (process.alias.as_deref() == Some(name) || validate::warm_name(process, index) == name)
    };
    !name.is_empty() && processes.iter().enumerate().any(is_it)
}

fn late(service: &Service, within: Duration) -> ApiError {
    unavailable(&format!("service {:?} {} after {:.1} s", service.id, lack(service), within.as_secs_f64())).retry_after(1)
}

/// What keeps a service whose process runs from being up.
fn lack(service: &Service) -> String {
    lacking(service.port, service.health_check.as_ref())
}

/// The last lines that the process of a service printed, as a clause.
async fn last_printed(runtime: &Runtime, service_id: &str) -> Option<String> {
    let contexts = runtime.client.list_contexts().await.ok()?;
    let started = contexts.into_iter().find(|context| context.running && keeper::service_of(context) == Some(service_id))?;
    let context = runtime.client.get_context(&started.id).await.ok()?;
    Some(warm::last_lines(&context.output.output_raw.unwrap_or_default()))
}

/// What keeps it from being up.
fn lacking(port: u16, health_check: Option<&HealthCheck>) -> String {
    match health_check {
        Some(health) => format!("does not pass its health check {} on port {port}", health.path),
        None => format!("does not listen on port {port}"),
    }
}

fn unavailable(text: &str) -> ApiError {
    ApiError::unavailable(format!("service runtime unavailable: {text}")).retry_after(1)
}

/// The event that tells the owner of a service that failed.
fn failed_event(service_id: &str, text: &str) -> sandbar_store::NewEvent {
    let data = serde_json::json!({ "service_id": service_id });
    sandbar_store::NewEvent { data, ..sandbar_store::NewEvent::new(now_ms(), "service.failed", text) }
}
