//! The owners of sandboxes: found, started and asked here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbar_core::sandbox::{Desired, Observed, SandboxRecord};
use sandbar_node::{Node, Runtime};
use sandbar_store::{NewEvent, Store};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::{
    actor::{Actor, COMMANDS_MAX, Command, End, View},
    follow,
    listeners::Listeners,
    refusal::store_failure,
    spec,
};
use crate::{
    app::{credentials::Credentials, usage::Usage, webhooks::Webhooks},
    error::ApiError,
};

/// The owners of sandboxes, by id.
pub struct Registry {
    pub(super) store: Store,
    pub(super) node: Node,
    usage: Arc<Usage>,
    webhooks: Arc<Webhooks>,
    pub(super) credentials: Arc<Credentials>,
    actors: Mutex<HashMap<String, Handle>>,
    /// Who is told when a sandbox got or lost its processes.
    pub(crate) listeners: Arc<Listeners>,
    /// Woken when some deadline may have come nearer.
    pub(crate) deadlines_changed: Arc<Notify>,
    /// Woken when something was released that may have to be collected.
    pub(crate) collect_soon: Arc<Notify>,
    pub(crate) tasks: TaskTracker,
}

#[derive(Clone)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    /// How far what happens inside is followed for a webhook.
    heard: Arc<follow::Heard>,
}

impl Registry {
    pub fn new(store: Store, node: Node, usage: Arc<Usage>, webhooks: Arc<Webhooks>, credentials: Arc<Credentials>) -> Arc<Self> {
        Arc::new(Self {
            store,
            node,
            usage,
            webhooks,
            credentials,
            actors: Mutex::default(),
            listeners: Arc::default(),
            deadlines_changed: Arc::default(),
            collect_soon: Arc::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// What the owner of a sandbox last published, if it has one now.
    pub(super) fn find(&self, id: &str) -> Option<View> {
        self.lock().get(id).map(|handle| handle.view.borrow().clone())
    }

    /// Live runtimes with their sandboxes.
    pub(crate) fn live(&self) -> Vec<(Arc<SandboxRecord>, Arc<Runtime>)> {
        let actors = self.lock();
        actors
            .values()
            .filter_map(|handle| {
                let view = handle.view.borrow();
                view.runtime.clone().map(|runtime| (Arc::clone(&view.record), runtime))
            })
            .collect()
    }

    /// Asks the owner of a sandbox, which is started for it when there is none.
    pub(super) async fn ask<T>(
        self: &Arc<Self>,
        record: SandboxRecord,
        command: impl FnOnce(oneshot::Sender<Result<T, ApiError>>) -> Command,
    ) -> Result<T, ApiError> {
        let id = record.id.clone();
        let (reply, answer) = oneshot::channel();
        let mut command = command(reply);
        let mut record = Some(record);
        // An owner that has just ended for want of work is replaced, once.
        for _ in 0..2 {
            let owner = self.lock().get(&id).cloned();
            let handle = match owner {
                Some(handle) => Some(handle),
                None => match record.take() {
                    Some(record) => Some(self.own(record, None)),
                    None => self.reload(&id).await?,
                },
            };
            let Some(handle) = handle else { return Err(ApiError::not_found("sandbox", &id)) };
            command = match handle.commands.try_send(command) {
                Ok(()) => {
                    return answer.await.unwrap_or_else(|_| Err(ApiError::not_found("sandbox", &id)));
                }
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return Err(ApiError::unavailable("too many requests wait for this sandbox").retry_after(1));
                }
                Err(mpsc::error::TrySendError::Closed(command)) => command,
            };
            record = None;
            tokio::task::yield_now().await;
        }
        Err(ApiError::unavailable("the sandbox is busy; try again").retry_after(1))
    }

    async fn reload(self: &Arc<Self>, id: &str) -> Result<Option<Handle>, ApiError> {
        let record = self.store.sandbox_get(None, id).await.map_err(|e| store_failure("reading the sandbox", &e))?;
        Ok(record.filter(|record| record.desired != Desired::Deleted).map(|record| self.own(record, None)))
    }

    /// Sends without waiting for an answer; lost when nobody owns the sandbox.
    pub(crate) fn note(&self, id: &str, event: NewEvent) {
        if let Some(handle) = self.lock().get(id) {
            let _ = handle.commands.try_send(Command::Note { event });
        }
    }

    /// Carries out what is due for a sandbox.
    pub(crate) async fn due(self: &Arc<Self>, id: &str) -> Result<(), ApiError> {
        let record = match self.find(id) {
            Some(view) => Some(view.record.as_ref().clone()),
            None => self.store.sandbox_get(None, id).await.map_err(|e| store_failure("reading the sandbox", &e))?,
        };
        match record {
            Some(record) => self.ask(record, |reply| Command::Due { reply }).await.map(drop),
            None => Ok(()),
        }
    }

    /// Hibernates a paused sandbox for `code`.
    pub(crate) async fn hibernate(self: &Arc<Self>, record: SandboxRecord, code: &'static str) -> Result<(), ApiError> {
        self.ask(record, |reply| Command::Hibernate { code, reply }).await.map(drop)
    }

    /// An owner that nobody knows of yet.
    pub(super) fn hire(&self, record: SandboxRecord, runtime: Option<Arc<Runtime>>) -> (Actor, Handle) {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (view, watched) = watch::channel(View { record: Arc::new(record.clone()), runtime: runtime.clone() });
        let heard = Arc::<follow::Heard>::default();
        // What a former server still had to tell is not known.
        let is_frozen = record.observed == Observed::Frozen;
        let trust_due = is_frozen.then(|| spec::policy(&record).ok()).flatten().and_then(|policy| self.node.trust_for(&policy));
        let actor = Actor {
            store: self.store.clone(),
            node: self.node.clone(),
            usage: Arc::clone(&self.usage),
            webhooks: Arc::clone(&self.webhooks),
            credentials: Arc::clone(&self.credentials),
            record,
            runtime,
            view,
            commands,
            listeners: Arc::clone(&self.listeners),
            deadlines_changed: Arc::clone(&self.deadlines_changed),
            collect_soon: Arc::clone(&self.collect_soon),
            events: Vec::new(),
            keep_memory: false,
            launched_on: spec::Trees::new(),
            trust_due,
            outdated: false,
            heard: Arc::clone(&heard),
        };
        (actor, Handle { commands: sender, view: watched, heard })
    }

    /// Begins to follow what happens in a sandbox that has a webhook and an owner.
    pub(super) fn follow(&self, record: &SandboxRecord) {
        if record.config.webhook.is_some()
            && let Some(handle) = self.lock().get(&record.id).filter(|handle| handle.heard.begin())
        {
            let follower = follow::Follower { store: self.store.clone(), webhooks: Arc::clone(&self.webhooks), heard: Arc::clone(&handle.heard) };
            self.tasks.spawn(follower.run(handle.view.clone()));
        }
    }

    /// Starts the owner of a sandbox, unless it has one.
    pub(super) fn own(self: &Arc<Self>, record: SandboxRecord, runtime: Option<Arc<Runtime>>) -> Handle {
        let mut actors = self.lock();
        if let Some(handle) = actors.get(&record.id).filter(|handle| !handle.commands.is_closed()) {
            return handle.clone();
        }
        let (id, known) = (record.id.clone(), record.clone());
        let (mut actor, handle) = self.hire(record, runtime);
        actors.insert(id.clone(), handle.clone());
        drop(actors);
        self.follow(&known);
        let registry = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                let end = actor.run().await;
                let mut actors = registry.lock();
                // Under the lock nobody can find us to send more; what was sent before is still served.
                if end == End::Gone || actor.commands.is_empty() {
                    actors.remove(&id);
                    actor.commands.close();
                    return;
                }
            }
        });
        handle
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
