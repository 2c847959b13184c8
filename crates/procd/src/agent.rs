//! Everything that the agent knows, on one thread: the contexts, who they belong to, what happened.
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use sandbar_linux::process::{Ended, Reaped, Used};
use sandbar_procd_api::{Assign, ErrorCode, EventKind, Info, PROTOCOL, Trust, Trusted};
use tokio::sync::Notify;

use crate::context::Context;
use crate::error::Failure;
use crate::events::Events;
use crate::functions::Functions;
use crate::io::IoPool;
use crate::journal::Journal;
use crate::limits::*;
use crate::log::Budget;
use crate::process::Processes;
use crate::publish::{self, Publisher};
use crate::run::Run;
use crate::stats::Of;
use crate::trust;

/// Unix time in milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// The out-of-memory counter of the runtime.
#[derive(Default)]
struct Oom {
    file: Option<File>,
    kills: Cell<u64>,
    grew: Cell<Option<Instant>>,
    polling: Cell<bool>,
}

/// The agent.
pub struct Agent {
    pub started_ms: u64,
    pub assign: RefCell<Assign>,
    /// Weaker than every other environment.
    pub trust_env: RefCell<trust::Env>,
    pub events: Events,
    pub publisher: Publisher,
    pub budget: Rc<Budget>,
    pub scratch: RefCell<Vec<u8>>,
    pub journal: Rc<Journal>,
    pub io: IoPool,
    pub functions: Functions,
    pub processes: Processes,
    /// Connections that idle are to close.
    pub reset: Notify,
    /// CPU use of everything when last asked.
    pub sampled: Cell<Option<(Instant, u64)>>,
    contexts: RefCell<BTreeMap<u64, Rc<Context>>>,
    next_context: Cell<u64>,
    /// Contexts that are about to be listed, by the order in which they were begun.
    starts: RefCell<BTreeSet<u64>>,
    next_start: Cell<u64>,
    started: Notify,
    pids: RefCell<HashMap<i32, Rc<Run>>>,
    /// Until their end is told, by the session that each has.
    sessions: RefCell<HashMap<i32, Rc<Run>>>,
    oom: Oom,
}

impl Agent {
    /// An agent without contexts.
    pub fn new(log_a: Option<OwnedFd>, log_b: Option<OwnedFd>, oom: Option<OwnedFd>) -> Rc<Self> {
        let io = IoPool::default();
        let agent = Self {
            started_ms: now_ms(),
            assign: RefCell::default(),
            trust_env: RefCell::default(),
            events: Events::default(),
            publisher: Publisher::default(),
            budget: Rc::default(),
            scratch: RefCell::default(),
            journal: Journal::new(log_a, log_b, io.clone()),
            io,
            functions: Functions::default(),
            processes: Processes::default(),
            reset: Notify::new(),
            sampled: Cell::new(None),
            contexts: RefCell::default(),
            next_context: Cell::new(0),
            starts: RefCell::default(),
            next_start: Cell::new(0),
            started: Notify::new(),
            pids: RefCell::default(),
            sessions: RefCell::default(),
            oom: Oom { file: oom.map(File::from), ..Oom::default() },
        };
        agent.oom.kills.set(agent.read_oom().unwrap_or(0));
        Rc::new(agent)
    }

    /// What the host asks first.
    pub fn info(&self) -> Info {
        let sandbox_id = Some(self.assign.borrow().sandbox_id.clone()).filter(|id| !id.is_empty());
        Info {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_ms: self.started_ms,
            contexts: self.contexts.borrow().len() as u32,
            sandbox_id,
        }
    }

    /// Takes over owner, environment and working directory.
    pub async fn assign(self: &Rc<Self>, assign: Assign) {
        let cwd = assign.cwd.clone();
        publish::set(self, assign.publishing);
        *self.assign.borrow_mut() = assign;
        // What was imported saw the environment of before.
        self.functions.forget_all();
        // It is there in the usual image: nobody waits for a thread then.
        if let Some(cwd) = cwd.filter(|cwd| !Path::new(cwd).is_dir()) {
            // A directory that cannot be made shows when a process is started in it.
            let _ = self.io.run(move || std::fs::create_dir_all(cwd)).await;
        }
    }

    /// Makes programs trust those outside that end their TLS and SSH.
    ///
    /// # Errors
    /// `write_failed`.
    pub async fn trust(&self, trust: Trust) -> Result<Trusted, Failure> {
        let installed = self.io.run(move || trust::install(Path::new("/"), &trust)).await;
        let failed = |error| Failure::new(ErrorCode::WriteFailed, format!("programs cannot be made to trust the egress: {error}"));
        let (trusted, env) = installed.map_err(failed)?;
        if let Some(env) = env.filter(|env| *env != *self.trust_env.borrow()) {
            *self.trust_env.borrow_mut() = env;
            // What was imported saw the environment of before.
            self.functions.forget_all();
        }
        Ok(trusted)
    }

    /// Makes a folder the root of this process. Whoever made the links in there wrote them for a place of their own; so they lead
    /// nowhere else. All threads have one root.
    ///
    /// # Errors
    /// `operation_failed`; then the root is what it was.
    pub fn enter(&self, path: String) -> Result<(), Failure> {
        let failed = |error: rustix::io::Errno| Failure::new(ErrorCode::OperationFailed, format!("{path} cannot be made the root: {error}"));
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        let folder = rustix::fs::open(path.as_str(), flags, rustix::fs::Mode::empty()).map_err(failed)?;
        rustix::process::fchdir(&folder).map_err(failed)?;
        rustix::process::chroot(".").map_err(failed)
    }

    /// The default working directory.
    pub fn cwd(&self) -> String {
        let cwd = self.assign.borrow().cwd.clone().unwrap_or_default();
        if cwd.starts_with('/') { cwd } else { format!("/{cwd}") }
    }

    // -------------------------------------------------------------- contexts

    /// All contexts, oldest first.
    pub fn contexts(&self) -> Vec<Rc<Context>> {
        self.contexts.borrow().values().cloned().collect()
    }

    /// A context by its id.
    ///
    /// # Errors
    /// `context_not_found`.
    pub fn context(&self, id: &str) -> Result<Rc<Context>, Failure> {
        let found = self.contexts.borrow().values().find(|c| c.id == id).cloned();
        found.ok_or_else(|| Failure::new(ErrorCode::ContextNotFound, format!("there is no context {id:?}")))
    }

    /// Makes room for one more running context.
    ///
    /// # Errors
    /// `too_many_contexts`.
    pub fn make_room(&self) -> Result<(), Failure> {
        let mut contexts = self.contexts.borrow_mut();
        // The one that asks is among those that start.
        let starting = self.starts.borrow().len().saturating_sub(1);
        let running = contexts.values().filter(|c| c.run().end().is_none()).count() + starting;
        if running >= RUNNING_MAX {
            let message = format!("{running} contexts are running, the limit of one sandbox is {RUNNING_MAX}");
            return Err(Failure::new(ErrorCode::TooManyContexts, message));
        }
        while contexts.len() + starting >= CONTEXTS_MAX {
            let oldest = contexts.iter().find(|(_, c)| c.run().finished.get()).map(|(order, _)| *order);
            match oldest {
                Some(order) => {
                    let removed = contexts.remove(&order);
                    // What it left running goes on, and is nobody's.
                    if let Some(keeper) = removed.map(|context| context.run()).as_ref().and_then(|run| run.keeper.as_ref()) {
                        keeper.leave();
                    }
                }
                None => {
                    let message = format!("there are {CONTEXTS_MAX} contexts, the limit of one sandbox");
                    return Err(Failure::new(ErrorCode::TooManyContexts, message));
                }
            }
        }
        Ok(())
    }

    /// Lists a new context.
    pub fn add_context(&self, context: Rc<Context>) {
        let order = self.next_context.get();
        self.next_context.set(order + 1);
        self.contexts.borrow_mut().insert(order, context);
    }

    /// Runs what starts a context; until it has, [`Agent::until_listed`] waits.
    pub async fn starting<T>(&self, start: impl Future<Output = T>) -> T {
        let number = self.next_start.replace(self.next_start.get() + 1);
        self.starts.borrow_mut().insert(number);
        let started = start.await;
        self.starts.borrow_mut().remove(&number);
        self.started.notify_waiters();
        started
    }

    /// Waits for the contexts that are being started by now: whoever looks for one that he asked for and heard nothing of finds it.
    pub async fn until_listed(&self) {
        let next = self.next_start.get();
        loop {
            let mut started = std::pin::pin!(self.started.notified());
            started.as_mut().enable();
            if self.starts.borrow().first().is_none_or(|first| *first >= next) {
                return;
            }
            started.await;
        }
    }

    /// Takes a context off the list.
    pub fn remove_context(&self, id: &str) {
        self.contexts.borrow_mut().retain(|_, c| c.id != id);
    }

    /// Running contexts.
    pub fn running(&self) -> u64 {
        self.pids.borrow().len() as u64
    }

    /// Keeps the output of all contexts within the common limit: that of finished ones goes first, oldest first.
    pub fn enforce_budget(&self, run: &Run) {
        if self.budget.used() > OUTPUT_BYTES_MAX {
            self.clear_finished(run, OUTPUT_BYTES_MAX);
        }
        if self.budget.used() > OUTPUT_BYTES_MAX {
            run.shrink();
        }
    }

    /// Whether one more read would be beyond the common limit, whatever finished contexts leave.
    pub fn is_crowded(&self, run: &Run) -> bool {
        let limit = OUTPUT_BYTES_MAX - READ_BYTES;
        if self.budget.used() > limit {
            self.clear_finished(run, limit);
        }
        self.budget.used() > limit
    }

    /// Forgets the output of finished contexts down to `limit`, and twice as much of those that somebody still reads.
    fn clear_finished(&self, run: &Run, limit: usize) {
        for context in self.contexts.borrow().values() {
            let other = context.run();
            let used = self.budget.used();
            if used <= limit {
                return;
            }
            if other.finished.get() && !std::ptr::eq(&*other, run) && (used > 2 * limit || !other.is_awaited()) {
                other.log.borrow_mut().clear();
            }
        }
        // Those that only go on for long hold nobody up.
        for other in self.contexts.borrow().values().map(|context| context.run()) {
            if self.budget.used() <= limit {
                return;
            }
            if !other.finished.get() && !std::ptr::eq(&*other, run) && !other.is_awaited() {
                other.shrink();
            }
        }
    }

    // ------------------------------------------------------------- processes

    /// Remembers whose process this is.
    pub fn add_process(self: &Rc<Self>, run: Rc<Run>) {
        self.sessions.borrow_mut().insert(run.pid, run.clone());
        self.pids.borrow_mut().insert(run.pid, run);
        if self.oom.file.is_some() && !self.oom.polling.replace(true) {
            let agent = self.clone();
            tokio::task::spawn_local(async move {
                while !agent.pids.borrow().is_empty() {
                    tokio::time::sleep(OOM_POLL).await;
                    agent.look_for_oom(None);
                }
                agent.oom.polling.set(false);
            });
        }
    }

    /// Counts what a process that has ended left behind and goes on, as far as it used something by now; what it uses later is its own.
    pub fn count_rest(&self, run: &Run) {
        self.reap();
        self.sessions.borrow_mut().remove(&run.pid);
        // A keeper counts by itself.
        if run.keeper.is_none() && sandbar_linux::process::is_group(run.pid) {
            run.count(crate::stats::of_rest(Of::Session(run.pid)));
        }
    }

    /// Ends what has ended: our own processes and the orphans.
    pub fn reap(&self) {
        while let Some(Reaped { pid, session, ended, used }) = sandbar_linux::process::reap() {
            let run = self.pids.borrow_mut().remove(&pid);
            let Some(run) = run else {
                // What a context's process left behind is its own, too.
                if let Some(owner) = self.sessions.borrow().get(&session) {
                    owner.count(used);
                }
                let oom = self.look_for_oom(None);
                if !self.processes.reaped(pid, ended, oom) {
                    self.functions.reaped(pid, ended);
                }
                continue;
            };
            self.ended(&run, ended, used);
        }
    }

    /// The process of a context has ended.
    pub fn ended(&self, run: &Run, ended: Ended, used: Used) {
        if run.end().is_some() {
            return;
        }
        self.pids.borrow_mut().remove(&run.pid);
        let oom = self.look_for_oom(Some(&run.context_id));
        run.exited(ended, oom, used);
        if self.pids.borrow().is_empty() {
            *self.scratch.borrow_mut() = Vec::new();
        }
    }

    /// True when the kernel has killed for memory just now.
    pub fn look_for_oom(&self, context: Option<&str>) -> bool {
        let Some(kills) = self.read_oom() else { return false };
        let before = self.oom.kills.replace(kills);
        if kills > before {
            self.oom.grew.set(Some(Instant::now()));
            let context_id = context.map(str::to_owned);
            self.events.add(EventKind::OutOfMemory { kills: kills - before, context_id });
        }
        self.oom.grew.get().is_some_and(|at| at.elapsed() < 2 * OOM_POLL)
    }

    fn read_oom(&self) -> Option<u64> {
        let mut text = [0_u8; 1024];
        let length = self.oom.file.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }
}
