//! The task that keeps one service's process up.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_node::{
    Runtime,
    client::ProcdError,
    warm::{self, Check},
};
use sandbar_procd_api::{Cmd, Context, ContextType, CreateContext};
use tokio::sync::{Notify, watch};

use super::{ID, PROBE_PAUSE, PROBE_WITHIN, Process, RUNTIME, failed_event, lacking, readiness};
use crate::app::sandboxes::Registry;

/// How often it is looked at whether the process still runs.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Wait before a process that ended is started again; doubled up to the second figure while it goes on ending.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// One that runs and is not up after this time is late: who comes is told so soon.
const LATE_AFTER: Duration = Duration::from_secs(10);
/// A process that was up for so long has earned a start at once.
const STABLE: Duration = Duration::from_secs(10);

/// What a keeper publishes.
#[derive(Debug, Default)]
pub(super) struct State {
    pub phase: Phase,
    /// Advances with each look that came to an end.
    pub looks: u64,
    /// Since when it is being started, where that takes longer than it should.
    pub late: Option<Instant>,
}

#[derive(Debug, Default, PartialEq)]
pub(super) enum Phase {
    #[default]
    Starting,
    Up,
    /// It ended or could not be started, and is started again at a time.
    Down {
        text: String,
        retry_at: Instant,
    },
}

pub(super) struct Keeper {
    pub runtime: Arc<Runtime>,
    pub process: Arc<Process>,
    pub state: watch::Sender<State>,
    /// Somebody doubts that it is up.
    pub look: Arc<Notify>,
    pub sandbox_id: String,
    pub registry: Arc<Registry>,
}

impl Keeper {
    /// Goes on until it is dropped.
    pub async fn run(self) {
        let mut backoff = BACKOFF.0;
        loop {
            self.publish(Phase::Starting);
            let mut up_since = None;
            let text = match self.start().await {
                Ok(context_id) => self.watch(&context_id, &mut up_since).await,
                Err(text) => text,
            };
            tracing::info!(sandbox = self.sandbox_id, service = self.process.service_id, "a service is down");
            if up_since.is_some_and(|since: Instant| since.elapsed() >= STABLE) {
                backoff = BACKOFF.0;
                continue;
            }
            self.registry.note(&self.sandbox_id, failed_event(&self.process.service_id, &text));
            self.publish(Phase::Down { text, retry_at: Instant::now() + backoff });
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    fn publish(&self, phase: Phase) {
        self.state.send_modify(|state| {
            state.looks += u64::from(phase != Phase::Starting);
            state.phase = phase;
            state.late = None;
        });
    }

    /// The process of this service, perhaps one that a former server started. Others of the same service are ended first,
    /// since they hold the port.
    async fn start(&self) -> Result<String, String> {
        let failed = |error: &ProcdError| {
            let why = match error {
                ProcdError::Api { status: _, body } => body.message.clone(),
                ProcdError::Gone(_) | ProcdError::Protocol(_) => error.to_string(),
            };
            format!("service {:?} could not be started: {why}", self.process.service_id)
        };
        let contexts = self.runtime.client.list_contexts().await.map_err(|error| failed(&error))?;
        let mut found = None;
        for context in contexts.into_iter().filter(|context| context.running && service_of(context) == Some(&self.process.service_id)) {
            if found.is_none() && self.process.is(&context) {
                found = Some(context.id);
            } else if let Err(error) = self.runtime.client.delete_context(&context.id).await {
                tracing::debug!(%error, "the process of a former service had ended");
            }
        }
        if let Some(id) = found {
            return Ok(id);
        }
        let created = self.runtime.client.create_context(&self.process.context()).await;
        Ok(created.map_err(|error| failed(&error))?.id)
    }

    /// Waits until it is up, tells so, and returns why it is not any more.
    async fn watch(&self, context_id: &str, up_since: &mut Option<Instant>) -> String {
        let check = readiness(self.process.port, self.process.health_check.as_ref());
        loop {
            if let Err(text) = self.ready(context_id, &check).await {
                return text;
            }
            up_since.get_or_insert_with(Instant::now);
            self.publish(Phase::Up);
            if let Err(text) = self.while_up(context_id, &check).await {
                return text;
            }
            // It runs and does not answer: whoever comes waits with us.
            self.publish(Phase::Starting);
        }
    }

    async fn ready(&self, context_id: &str, check: &Check) -> Result<(), String> {
        let (mut pause, begun, mut told) = (PROBE_PAUSE.0, Instant::now(), false);
        loop {
            if self.passes(check).await {
                return Ok(());
            }
            self.runs(context_id).await?;
            if begun.elapsed() >= LATE_AFTER && !told {
                told = true;
                self.state.send_modify(|state| state.late = Some(begun));
                let text = format!(
                    "service {:?} {} after {} s",
                    self.process.service_id,
                    lacking(self.process.port, self.process.health_check.as_ref()),
                    LATE_AFTER.as_secs()
                );
                self.registry.note(&self.sandbox_id, failed_event(&self.process.service_id, &text));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PROBE_PAUSE.1);
        }
    }

    /// Returns when it does not answer any more although it was asked to, or with why it ended.
    async fn while_up(&self, context_id: &str, check: &Check) -> Result<(), String> {
        loop {
            let doubted = tokio::select! {
                () = self.look.notified() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            if self.runtime.is_frozen() {
                continue;
            }
            let ended = self.runs(context_id).await;
            // A server that went into the background leaves its first process behind, with success.
            if (doubted || ended.is_err()) && !self.passes(check).await {
                return ended;
            }
            if doubted {
                self.publish(Phase::Up);
            }
        }
    }

    async fn passes(&self, check: &Check) -> bool {
        warm::passes(&self.runtime, check, PROBE_WITHIN, &BTreeMap::new()).await
    }

    /// Fails with how it ended.
    async fn runs(&self, context_id: &str) -> Result<(), String> {
        let id = &self.process.service_id;
        match self.runtime.client.get_context(context_id).await {
            Ok(context) if context.running => Ok(()),
            Ok(context) => {
                let code = context.output.exit_code.map_or_else(String::new, |code| format!(" with exit code {code}"));
                let printed = warm::last_lines(&context.output.output_raw.unwrap_or_default());
                Err(format!("service {id:?} ended{code}{printed}"))
            }
            Err(error) => Err(format!("service {id:?} is not known any more: {error}")),
        }
    }
}

impl Process {
    /// Whether a context is this process, started by us or by a server before.
    pub(super) fn is(&self, context: &Context) -> bool {
        context.command.as_ref() == Some(&self.command) && context.env_vars == self.merged_env && self.cwd.as_ref().is_none_or(|cwd| *cwd == context.cwd)
    }

    fn context(&self) -> CreateContext {
        CreateContext {
            kind: ContextType::Cmd,
            repl: None,
            cmd: Some(Cmd { command: self.command.clone() }),
            wait_until_done: false,
            cwd: self.cwd.clone(),
            env_vars: self.env.clone(),
            pty_size: None,
            idle_timeout_sec: 0,
            ttl_sec: 0,
            untold: false,
            followed: false,
            kept: None,
        }
    }
}

/// The service that a context was started for.
pub(super) fn service_of(context: &Context) -> Option<&str> {
    let is_ours = context.kind == ContextType::Cmd && context.env_vars.get(RUNTIME).is_some_and(|runtime| runtime == "cmd");
    context.env_vars.get(ID).filter(|_| is_ours).map(String::as_str)
}
