//! A context: what was asked for, and the process that is its life now.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use sandbar_procd_api::{Context as Wire, ContextState, ContextType, CreateContext, ErrorCode, EventKind, Output};

use crate::agent::{Agent, now_ms};
use crate::error::Failure;
use crate::limits::{EOF_GRACE, EVENT_COMMAND_BYTES_MAX, PREVIEW_BYTES_MAX};
use crate::repl::Mode;
use crate::run::Run;

pub mod start;

use start::Plan;

/// A context.
pub struct Context {
    pub id: String,
    pub spec: CreateContext,
    pub created_ms: u64,
    plan: RefCell<Plan>,
    run: RefCell<Rc<Run>>,
    restarting: Cell<bool>,
}

impl Context {
    /// Starts a process and lists it.
    ///
    /// # Errors
    /// `invalid_request`, `create_failed`, `too_many_contexts`.
    pub async fn create(agent: &Rc<Agent>, spec: CreateContext) -> Result<Rc<Self>, Failure> {
        start::validate(&spec)?;
        agent.make_room()?;
        let id = format!("ctx-{}", start::random_hex());
        let (plan, run) = start::start(agent, &id, &spec).await?;
        let context = Rc::new(Self { id, spec, created_ms: now_ms(), plan: RefCell::new(plan), run: RefCell::new(run), restarting: Cell::new(false) });
        agent.add_context(context.clone());
        context.begin(agent);
        Ok(context)
    }

    /// The process of now, or the last one.
    pub fn run(&self) -> Rc<Run> {
        self.run.borrow().clone()
    }

    /// Tells of the new process and watches over it.
    fn begin(&self, agent: &Rc<Agent>) {
        let run = self.run();
        if !self.spec.untold {
            let plan = self.plan.borrow();
            agent.events.add(EventKind::ProcessStarted {
                context_id: self.id.clone(),
                kind: self.spec.kind,
                pid: run.pid as u32,
                alias: plan.alias.clone(),
                command: plan.command.as_deref().map(shortened),
                cwd: Some(plan.cwd.clone()),
                pty_size: self.spec.pty_size,
                term: plan.term.clone(),
            });
        }
        let limits = (self.spec.ttl_sec, self.spec.idle_timeout_sec);
        tokio::task::spawn_local(supervise(agent.clone(), run, limits, self.spec.untold));
    }

    /// The record for the host; texts are added by the caller.
    pub fn wire(&self, output: Output) -> Wire {
        let run = self.run();
        let plan = self.plan.borrow();
        let end = run.end();
        let running = end.is_none();
        Wire {
            id: self.id.clone(),
            kind: self.spec.kind,
            alias: plan.alias.clone(),
            command: plan.command.clone(),
            cwd: plan.cwd.clone(),
            env_vars: plan.shown_env.clone(),
            running,
            paused: false,
            pid: running.then_some(run.pid as u32),
            created_ms: self.created_ms,
            state: end.as_ref().map_or(ContextState::Running, |e| e.state),
            output: Output { exit_code: end.as_ref().map(|e| e.exit_code), reason: end.and_then(|e| e.reason), ..output },
        }
    }

    /// Ends the process and starts it anew.
    ///
    /// # Errors
    /// `restart_failed` when a restart is under way, the old process does not end or the new one does not start;
    /// `context_not_found` when it was deleted meanwhile.
    pub async fn restart(&self, agent: &Rc<Agent>) -> Result<(), Failure> {
        if self.restarting.replace(true) {
            return Err(Failure::new(ErrorCode::RestartFailed, "a restart of this context is under way"));
        }
        let restarted = self.restart_alone(agent).await;
        self.restarting.set(false);
        restarted
    }

    async fn restart_alone(&self, agent: &Rc<Agent>) -> Result<(), Failure> {
        let old = self.run();
        if !old.terminate("restarted: the context was restarted").await {
            return Err(Failure::new(ErrorCode::RestartFailed, "the process did not end, not even by SIGKILL"));
        }
        old.until_finished().await;
        agent.context(&self.id)?;
        let started = start::start(agent, &self.id, &self.spec).await;
        let (plan, run) = started.map_err(|f| Failure::new(ErrorCode::RestartFailed, f.0.message))?;
        *self.plan.borrow_mut() = plan;
        *self.run.borrow_mut() = run.clone();
        self.begin(agent);
        // It may have been deleted while the new process was started.
        if let Err(failure) = agent.context(&self.id) {
            run.terminate("deleted: the context was deleted").await;
            return Err(failure);
        }
        Ok(())
    }

    /// Ends the process and takes the context off the list.
    ///
    /// # Errors
    /// `delete_failed` when the process does not end.
    pub async fn delete(&self, agent: &Rc<Agent>) -> Result<(), Failure> {
        let gone = self.run().terminate("deleted: the context was deleted").await;
        agent.remove_context(&self.id);
        // A restart may have begun between.
        let now = self.run();
        if now.end().is_none() {
            now.terminate("deleted: the context was deleted").await;
        }
        if gone { Ok(()) } else { Err(Failure::new(ErrorCode::DeleteFailed, "the process did not end, not even by SIGKILL")) }
    }
}

/// Keeps the deadlines of a process and finishes its record when it has ended.
async fn supervise(agent: Rc<Agent>, run: Rc<Run>, (ttl_s, idle_s): (u64, u64), untold: bool) {
    let gone = || run.exit.borrow().is_some();
    let ttl = Duration::from_secs(ttl_s);
    let idle = Duration::from_secs(idle_s);
    loop {
        let now = Instant::now();
        let ttl_due = if ttl_s > 0 { run.started.checked_add(ttl) } else { None };
        let idle_due = if idle_s > 0 { run.activity.get().checked_add(idle) } else { None };
        let Some(due) = ttl_due.into_iter().chain(idle_due).min() else {
            run.until(gone).await;
            break;
        };
        if due <= now {
            let reason = if ttl_due.is_some_and(|at| at <= now) {
                format!("ttl: the context reached its ttl of {ttl_s} s")
            } else {
                format!("idle_timeout: no input or output for {idle_s} s")
            };
            run.terminate(&reason).await;
            run.until(gone).await;
            break;
        }
        if tokio::time::timeout_at(due.into(), run.until(gone)).await.is_ok() {
            break;
        }
    }
    if tokio::time::timeout(EOF_GRACE, run.until(|| run.at_eof())).await.is_err() {
        // Somebody else holds the pipes; what the process itself wrote is there by now.
        run.drain(&agent);
    }
    run.flush_screen(&agent);
    run.settle(&agent).await;
    // Before anybody hears of the end otherwise.
    if !untold {
        tell_end(&agent, &run);
    }
    run.finish();
}

fn tell_end(agent: &Agent, run: &Run) {
    let Some(end) = run.end() else { return };
    let log = run.log.borrow();
    agent.events.add(EventKind::ProcessExited {
        context_id: run.context_id.clone(),
        kind: run.kind,
        exit_code: end.exit_code,
        state: end.state,
        reason: end.reason,
        pid: Some(run.pid as u32),
        signal: end.signal,
        duration_ms: Some(u64::try_from(end.after.as_millis()).unwrap_or(u64::MAX)),
        stdout_preview: log.tail(0, PREVIEW_BYTES_MAX),
        stderr_preview: log.tail(1, PREVIEW_BYTES_MAX),
    });
}

/// A command for an event: its first arguments, as far as they go.
fn shortened(command: &[String]) -> Vec<String> {
    let mut left = EVENT_COMMAND_BYTES_MAX;
    let mut shown = Vec::new();
    for argument in command {
        let mut end = argument.len().min(left);
        while !argument.is_char_boundary(end) {
            end -= 1;
        }
        if end < argument.len() {
            shown.push(format!("{}...", &argument[..end]));
            break;
        }
        shown.push(argument.clone());
        left -= end;
    }
    shown
}

/// What a context's kind and mode say about the shape of its answers.
pub fn shows_streams(kind: ContextType, run: &Run) -> bool {
    match kind {
        ContextType::Cmd => run.splits_streams(),
        ContextType::Repl => matches!(run.mode, Mode::Driver { .. }) && run.splits_streams(),
    }
}
