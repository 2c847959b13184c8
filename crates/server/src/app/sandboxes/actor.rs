//! The task that owns one sandbox. Others send it a closed set of commands and read what it last published; nobody
//! else changes the sandbox's row or runtime.
//!
//! A command becomes a decision of `core::lifecycle`, the decision's effects are carried out on the node, what was seen
//! goes back into the lifecycle, and the record is written once at the end: a server that is killed in between has
//! acknowledged nothing, and the next one finds the difference between row and machine. Only where something is
//! destroyed is the intent written first.

mod config;
mod end;
mod ground;
mod hear;
mod launch;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use sandbar_api::sandbox::UpdateConfig;
use sandbar_core::{
    lifecycle::{self, Effect, LifecycleError, Observation, Transition},
    sandbox::{Base, Desired, Observed, SandboxRecord, reason},
};
use sandbar_node::{Node, Root, Runtime, error_text};
use sandbar_procd_api::Trust;
use sandbar_store::{NewEvent, Store, StoreError};
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub(crate) use ground::Captured;

use super::{
    follow::Heard,
    listeners::Listeners,
    refusal::{asleep, refusal, store_failure},
    spec,
};
use crate::{
    app::{
        credentials::Credentials,
        usage::Usage,
        webhooks::{self, Webhooks},
    },
    error::ApiError,
};

/// Commands that wait for one sandbox; more is refused, not queued.
pub(super) const COMMANDS_MAX: usize = 256;
/// An actor without a runtime and without commands ends after this time.
const IDLE: Duration = Duration::from_secs(60);

/// What an actor publishes.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub record: Arc<SandboxRecord>,
    /// Present while processes exist, frozen ones too.
    pub runtime: Option<Arc<Runtime>>,
}

pub(super) type Reply = oneshot::Sender<Result<View, ApiError>>;

/// All that can be asked of a sandbox's owner.
pub(super) enum Command {
    /// With `memory` it stays frozen until it is resumed, however long that is.
    Pause {
        code: &'static str,
        text: String,
        memory: bool,
        reply: Reply,
    },
    /// Give the memory back; only what is paused is hibernated.
    Hibernate {
        code: &'static str,
        reply: Reply,
    },
    Resume {
        reply: Reply,
    },
    /// Resume because of an access, if the sandbox allows that.
    Wake {
        reply: Reply,
    },
    Refresh {
        duration_s: Option<i32>,
        reply: Reply,
    },
    Update {
        update: Box<UpdateConfig>,
        only_services: bool,
        reply: Reply,
    },
    Delete {
        /// What its processes go on for, behind the reply.
        linger: Option<BoxFuture<'static, ()>>,
        reply: Reply,
    },
    /// Something may be due.
    Due {
        reply: Reply,
    },
    /// Take its files as they are.
    Capture {
        reply: oneshot::Sender<Result<Captured, ApiError>>,
    },
    /// Put other files in their place.
    Restore {
        base: Base,
        text: String,
        reply: Reply,
    },
    /// Take a volume away from it.
    Detach {
        volume_id: String,
        reply: Reply,
    },
    /// Hold its processes still while something is done with what they use.
    Hold {
        work: BoxFuture<'static, ()>,
        reply: Reply,
    },
    /// Something happened that the user should be able to read.
    Note {
        event: NewEvent,
    },
}

pub(super) struct Actor {
    pub store: Store,
    pub node: Node,
    pub usage: Arc<Usage>,
    pub webhooks: Arc<Webhooks>,
    pub credentials: Arc<Credentials>,
    pub record: SandboxRecord,
    pub runtime: Option<Arc<Runtime>>,
    pub view: watch::Sender<View>,
    pub commands: mpsc::Receiver<Command>,
    pub listeners: Arc<Listeners>,
    pub deadlines_changed: Arc<Notify>,
    pub collect_soon: Arc<Notify>,
    /// Written with the next change of the row.
    pub events: Vec<NewEvent>,
    /// The pause under way is to last in memory.
    pub keep_memory: bool,
    /// Where the files of its volumes were at the launch that the next write tells of.
    pub launched_on: spec::Trees,
    /// Whom its programs may trust, where they could not be told yet: it is frozen, or its agent did not answer.
    pub trust_due: Option<Trust>,
    /// A write found the row gone or of another version than ours.
    pub outdated: bool,
    /// How far what happens inside was taken for its webhook.
    pub heard: Arc<Heard>,
}

/// How an actor ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing to own at present.
    Idle,
    /// The sandbox is gone, or what this owner knows of it is worth nothing any more.
    Gone,
}

impl Actor {
    /// Serves commands until the sandbox is gone or there has been nothing to own for a while.
    pub async fn run(&mut self) -> End {
        loop {
            let runtime = self.runtime.clone();
            let ended = async {
                match &runtime {
                    Some(runtime) => runtime.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = self.commands.recv() => {
                    let Some(command) = command else { return End::Idle };
                    self.notice_loss().await;
                    // A command that is dropped here is answered as for a sandbox that is gone.
                    if !self.is_current().await || self.serve(command).await || !self.is_current().await {
                        return End::Gone;
                    }
                }
                () = ended => {
                    self.lost().await;
                    if !self.is_current().await {
                        return End::Gone;
                    }
                }
                () = tokio::time::sleep(IDLE), if runtime.is_none() => return End::Idle,
            }
        }
    }

    /// Makes row and machine agree after a restart of the server.
    pub async fn recover(&mut self) {
        if self.record.desired == Desired::Deleted {
            return;
        }
        let now = now_ms();
        let gap = match (&self.runtime, self.record.observed) {
            (None, observed) if observed.has_runtime() => {
                let text = "its processes did not outlive a restart; its files are kept";
                self.note("sandbox.runtime_lost", reason::RESTARTED, text);
                Some(Observation::RuntimeLost { code: reason::RESTARTED, text: text.into() })
            }
            (Some(runtime), Observed::Active) if runtime.is_frozen() => Some(Observation::Frozen),
            (Some(runtime), Observed::Frozen) if !runtime.is_frozen() => Some(Observation::Thawed),
            _ => None,
        };
        let transition = match gap {
            Some(observation) => lifecycle::observe(&self.record, observation, now),
            None => Transition { record: self.record.clone(), effects: lifecycle::next_effect(&self.record).into_iter().collect(), changed: false },
        };
        if (transition.changed || !transition.effects.is_empty())
            && let Err(error) = self.carry_out(transition).await
        {
            tracing::error!(sandbox = self.record.id, %error, "a sandbox could not be recovered");
        }
    }

    /// Whether this owner can go on. After a write that found another row than ours the row is right: it is taken over
    /// when it is of the same runtime; else whoever asks next begins with what is stored.
    async fn is_current(&mut self) -> bool {
        if !self.outdated {
            return true;
        }
        let row = match self.store.sandbox_get(None, &self.record.id).await {
            Ok(row) => row.filter(|row| row.desired != Desired::Deleted),
            Err(error) => {
                tracing::error!(sandbox = self.record.id, error = error_text(&error), "a row could not be read again");
                return true;
            }
        };
        self.outdated = false;
        match (row, self.runtime.take()) {
            (Some(row), runtime) if row.runtime_id.as_ref() == runtime.as_ref().map(|runtime| &runtime.id) => {
                self.record = row;
                self.runtime = runtime;
                self.publish();
                true
            }
            (_, runtime) => {
                if let Some(runtime) = runtime
                    && let Err(error) = runtime.destroy().await
                {
                    tracing::error!(sandbox = self.record.id, error = error_text(&error), "a runtime without a row is left to the next start");
                }
                false
            }
        }
    }

    /// True when the sandbox is gone.
    async fn serve(&mut self, command: Command) -> bool {
        match command {
            Command::Pause { code, text, memory, reply } => {
                let decided = lifecycle::pause(&self.record, code, &text, now_ms()).map(|transition| keep(transition, memory));
                self.keep_memory = memory;
                self.answer(decided, "sandbox.paused", code, &text, reply).await;
                self.keep_memory = false;
            }
            Command::Hibernate { code, reply } => {
                let wanted = self.record.desired == Desired::Paused && self.record.observed == Observed::Frozen;
                let effects = if wanted { vec![Effect::Hibernate] } else { Vec::new() };
                let decided = Ok(Transition { record: self.record.clone(), effects, changed: false });
                self.answer(decided, "sandbox.hibernated", code, lifecycle::reason_text(code), reply).await;
            }
            Command::Resume { reply } => {
                let decided = lifecycle::resume(&self.record, now_ms());
                self.answer(decided, "sandbox.resumed", reason::USER_REQUEST, "a client asked for it", reply).await;
            }
            // Nobody waits for it any more, and whoever comes asks anew.
            Command::Wake { reply } if reply.is_closed() => {}
            Command::Wake { reply } => {
                if !self.is_awake() && !self.record.auto_resume() {
                    let _ = reply.send(Err(asleep(&self.record)));
                } else {
                    let decided = lifecycle::resume(&self.record, now_ms());
                    self.answer(decided, "sandbox.resumed", reason::ACCESSED, "it was accessed", reply).await;
                }
            }
            Command::Refresh { duration_s, reply } => {
                let decided = lifecycle::refresh(&self.record, duration_s, now_ms());
                self.answer(decided, "sandbox.refreshed", reason::USER_REQUEST, "its deadlines were set anew", reply).await;
            }
            Command::Update { update, only_services, reply } => {
                let result = self.update(&update, only_services).await;
                let _ = reply.send(result.map(|()| self.view()));
            }
            Command::Capture { reply } => {
                let captured = self.capture().await;
                let _ = reply.send(captured);
            }
            Command::Restore { base, text, reply } => {
                let restored = self.restore(base, &text).await;
                let _ = reply.send(restored.map(|()| self.view()));
            }
            Command::Detach { volume_id, reply } => {
                let detached = self.detach(&volume_id).await;
                let _ = reply.send(detached.map(|()| self.view()));
            }
            Command::Hold { work, reply } => {
                let held = match self.runtime.clone() {
                    Some(runtime) => runtime.hold_still(work).await.map_err(|error| super::runtime_failure("holding the sandbox still", &error)),
                    None => {
                        work.await;
                        Ok(())
                    }
                };
                let _ = reply.send(held.map(|()| self.view()));
            }
            Command::Delete { linger, reply } => return self.delete(linger, reply).await,
            Command::Due { reply } => {
                if let Some(transition) = lifecycle::on_deadline(&self.record, now_ms()) {
                    let (kind, code) = match transition.effects.first() {
                        Some(Effect::Hibernate) => ("sandbox.hibernated", reason::HIBERNATE_AFTER),
                        Some(Effect::Destroy { .. }) => ("sandbox.cleaned", reason::HARD_TTL_EXPIRED),
                        Some(Effect::Launch | Effect::Freeze | Effect::Thaw) | None => match transition.record.desired {
                            Desired::Cleaned => ("sandbox.cleaned", reason::HARD_TTL_EXPIRED),
                            Desired::Active | Desired::Paused | Desired::Deleted => ("sandbox.paused", reason::TTL_EXPIRED),
                        },
                    };
                    self.answer(Ok(transition), kind, code, lifecycle::reason_text(code), reply).await;
                } else {
                    let _ = reply.send(Ok(self.view()));
                }
            }
            Command::Note { event } => {
                if let Err(error) = self.store.event_append(&self.record.id, &[event]).await {
                    tracing::warn!(sandbox = self.record.id, %error, "an event was not recorded");
                }
            }
        }
        false
    }

    async fn answer(&mut self, decided: Result<Transition, LifecycleError>, kind: &str, code: &str, text: &str, reply: Reply) {
        let result = match decided {
            Err(error) => Err(refusal(&error, &self.record.id)),
            Ok(transition) if !transition.changed && transition.effects.is_empty() => Ok(()),
            Ok(transition) => {
                self.note(kind, code, text);
                self.carry_out(transition).await
            }
        };
        let _ = reply.send(result.map(|()| self.view()));
    }

    /// Notes an event, to be written with the record that it explains.
    fn note(&mut self, kind: &str, code: &str, text: &str) {
        let data = serde_json::json!({ "reason_code": code });
        self.events.push(NewEvent { data, ..NewEvent::new(now_ms(), kind, text) });
    }

    /// Carries out a decision to its end and writes the record.
    async fn carry_out(&mut self, transition: Transition) -> Result<(), ApiError> {
        self.check_quotas(&transition).await?;
        if !transition.effects.iter().any(hear::silences) {
            return self.act(transition).await;
        }
        self.hear_out().await;
        let done = self.act(transition).await;
        self.listen().await;
        done
    }

    async fn act(&mut self, transition: Transition) -> Result<(), ApiError> {
        let mut record = transition.record;
        let mut effects = VecDeque::from(transition.effects);
        let thaws = effects.contains(&Effect::Thaw);
        let mut failure = None;
        // Of the row as it was: a new start after a cleaning has no root yet.
        let root_before = spec::root_of(&self.record);
        while let Some(effect) = effects.pop_front() {
            if let Effect::Destroy { .. } = effect {
                record = self.write(record).await?;
            }
            let (observation, failed) = self.perform(effect, &mut record, root_before.as_ref()).await;
            failure = failure.or(failed);
            if let Some(observation) = observation {
                let seen = lifecycle::observe(&record, observation, now_ms());
                record = seen.record;
                if effects.is_empty() && failure.is_none() {
                    effects.extend(seen.effects);
                }
            }
        }
        if self.keep_memory {
            record.hibernate_at_ms = None;
        }
        if let Err(error) = self.write(record).await {
            self.undo().await;
            return Err(error);
        }
        // Behind the write, since an agent can be kept busy from inside.
        if thaws
            && let Some(warning) = self.tell_trust().await
            && let Err(error) = self.store.event_append(&self.record.id, &[warning]).await
        {
            tracing::warn!(sandbox = self.record.id, %error, "an event was not recorded");
        }
        failure.map_or(Ok(()), Err)
    }

    /// Who may not run again is told before anything is started; the write at the end would find the same.
    async fn check_quotas(&mut self, transition: &Transition) -> Result<(), ApiError> {
        let starts = |effect: &Effect| match effect {
            Effect::Launch | Effect::Thaw => true,
            Effect::Freeze | Effect::Hibernate | Effect::Destroy { .. } => false,
        };
        if !transition.effects.iter().any(starts) {
            return Ok(());
        }
        let running = SandboxRecord { observed: Observed::Active, ..transition.record.clone() };
        self.store.sandbox_check(&running).await.map_err(|error| {
            self.events.clear();
            store_failure("reading quotas", &error)
        })
    }

    /// One effect on the machine: what was seen of it, and what the client is to be told when it failed.
    async fn perform(&mut self, effect: Effect, record: &mut SandboxRecord, root_before: Option<&Root>) -> (Option<Observation>, Option<ApiError>) {
        match effect {
            Effect::Launch => self.launch(record).await,
            Effect::Freeze => match self.runtime.clone() {
                Some(runtime) => match runtime.freeze().await {
                    Ok(()) => (Some(Observation::Frozen), None),
                    Err(error) => (None, Some(ApiError::internal("pausing the sandbox", &error_text(&error)))),
                },
                None => (Some(lost("its runtime had ended before it was paused")), None),
            },
            Effect::Thaw => match self.runtime.clone().filter(|runtime| !runtime.has_ended()) {
                Some(runtime) => match runtime.thaw().await {
                    Ok(()) => (Some(Observation::Thawed), None),
                    Err(error) => (None, Some(ApiError::internal("resuming the sandbox", &error_text(&error)))),
                },
                // It died while frozen: its files are there, so it starts anew.
                None => {
                    self.drop_runtime(record);
                    self.launch(record).await
                }
            },
            Effect::Hibernate => match self.end_runtime().await {
                Ok(()) => (Some(Observation::Hibernated), None),
                Err(error) => (None, Some(error)),
            },
            Effect::Destroy { root } => match self.end_runtime().await {
                Ok(()) => {
                    if root && let Some(root) = root_before {
                        self.node.remove_root(root);
                        record.uid_slot = None;
                    }
                    (Some(Observation::Cleaned), None)
                }
                Err(error) => (None, Some(error)),
            },
        }
    }

    /// The sandbox names a base no more: what nobody else names of it can go.
    fn release(&self, base: Option<&Base>) {
        self.node.release(layers_of(base));
        self.collect_soon.notify_one();
    }

    /// Writes the record with the events that belong to it, and publishes it.
    async fn write(&mut self, mut record: SandboxRecord) -> Result<SandboxRecord, ApiError> {
        let mut events = std::mem::take(&mut self.events);
        let told = webhooks::attach(Some(&self.record), &record, self.runtime.as_deref(), &mut events);
        let seen = self.record.version;
        match self.store.sandbox_update_on(&record, seen, &events, std::mem::take(&mut self.launched_on)).await {
            Ok(version) => {
                record.version = version;
                let former = std::mem::replace(&mut self.record, record.clone());
                // Only the runtime before the present one keeps its logs.
                if former.base.is_some() && record.base.is_none() {
                    self.release(former.base.as_ref());
                }
                for stale in former.previous_runtime_id.iter().filter(|id| record.previous_runtime_id.as_ref() != Some(id)) {
                    self.node.remove_logs(stale);
                }
                self.publish();
                self.deadlines_changed.notify_one();
                if told {
                    self.webhooks.changed.notify_one();
                }
                Ok(record)
            }
            Err(error) => {
                if let StoreError::Stale { .. } | StoreError::NotFound { .. } = error {
                    tracing::warn!(sandbox = record.id, error = error_text(&error), "an owner knew an old row");
                    self.outdated = true;
                }
                Err(store_failure("saving the sandbox", &error))
            }
        }
    }

    /// After a write failed: brings the machine back to what the row says.
    async fn undo(&mut self) {
        let Some(runtime) = self.runtime.clone() else { return };
        let frozen = runtime.is_frozen();
        let undone = if self.record.runtime_id.as_ref() == Some(&runtime.id) {
            match self.record.observed {
                Observed::Active if frozen => runtime.thaw().await,
                Observed::Frozen if !frozen => runtime.freeze().await,
                Observed::Active | Observed::Frozen | Observed::Starting | Observed::Hibernated | Observed::Cleaned | Observed::Failed => Ok(()),
            }
        } else {
            // It was started for the write that failed.
            self.runtime = None;
            runtime.destroy().await
        };
        if let Err(error) = undone {
            tracing::error!(sandbox = self.record.id, error = error_text(&error), "the machine differs from the row until the next start");
        }
    }

    fn is_awake(&self) -> bool {
        self.record.desired == Desired::Active && self.record.observed == Observed::Active && self.runtime.as_ref().is_some_and(|runtime| !runtime.has_ended())
    }

    fn publish(&self) {
        self.view.send_replace(self.view());
        self.listeners.tell(&self.record.id);
    }

    fn view(&self) -> View {
        View { record: Arc::new(self.record.clone()), runtime: self.runtime.clone() }
    }
}

/// Ids of the layers that a base names.
pub(crate) fn layers_of(base: Option<&Base>) -> Vec<String> {
    let ids = |base: &Base| base.layers.iter().map(|layer| layer.root_id.clone()).chain([base.image.clone()]).collect::<Vec<_>>();
    base.into_iter().flat_map(ids).collect()
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A pause that is to keep the memory, of a sandbox that is paused already.
fn keep(mut transition: Transition, memory: bool) -> Transition {
    if memory && !transition.changed && transition.record.hibernate_at_ms.take().is_some() {
        transition.changed = true;
    }
    transition
}

fn lost(text: &str) -> Observation {
    Observation::RuntimeLost { code: reason::RUNTIME_EXITED, text: text.into() }
}
