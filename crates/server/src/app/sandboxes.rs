//! Sandboxes: what clients can do with them. Each sandbox has one owner, its actor; this file finds it, asks it and
//! answers from what it published.

use std::{collections::HashMap, sync::Arc, time::Instant};

use futures_util::future::BoxFuture;
use sandbar_api::{
    ErrorCode,
    sandbox::{ClaimRequest, Mount, UpdateConfig},
    template::TemplateSpec,
};
use sandbar_core::{
    lifecycle::{self, Status},
    limits,
    sandbox::{Base, Desired, Observed, SandboxRecord, reason},
    validate,
};
use sandbar_node::{Origin, Runtime, error_text};
use sandbar_store::{EventRecord, ListFilter, NewEvent};

use crate::{
    app::{App, auth::Principal, images::Absence, room::full, webhooks},
    error::ApiError,
};

mod actor;
mod follow;
pub(crate) mod listeners;
mod recovery;
mod refusal;
mod registry;
pub(crate) mod spec;

pub(crate) use actor::now_ms;
pub(crate) use actor::{Captured, layers_of};
use actor::{Command, Reply, View};
pub(crate) use refusal::store_failure;
pub use registry::Registry;

/// What a client wants to see of its team's sandboxes.
#[derive(Debug, Clone, Default)]
pub struct ListSandboxes {
    /// Any of these; `None` = all.
    pub statuses: Option<Vec<Status>>,
    pub template_id: Option<String>,
    pub paused: Option<bool>,
    /// Also those that serve functions or build apps.
    pub instances: bool,
    pub limit: u32,
    pub offset: u32,
}

/// What a list shows that names no status: all but those that are being deleted, which are gone for clients.
const LISTED: [Status; 5] = [Status::Starting, Status::Running, Status::Paused, Status::Cleaned, Status::Failed];

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page {
    pub sandboxes: Vec<SandboxRecord>,
    /// Rows in all pages.
    pub total: u64,
}

impl App {
    /// Does something to its end in a task of its own: a client that goes away must not leave half of it.
    pub(crate) async fn whole<T, F>(
        self: &Arc<Self>,
        who: &Principal,
        operation: &'static str,
        run: impl FnOnce(Arc<Self>, Principal) -> F,
    ) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let done = self.sandboxes.tasks.spawn(run(Arc::clone(self), who.clone()));
        done.await.unwrap_or_else(|error| Err(ApiError::internal(operation, &error)))
    }

    /// Makes a sandbox and returns when it can be used.
    pub async fn claim(self: &Arc<Self>, who: &Principal, request: ClaimRequest) -> Result<SandboxRecord, ApiError> {
        let started = Instant::now();
        let result = self.whole(who, "claiming a sandbox", |app, who| async move { app.claim_now(&who, request).await }).await;
        self.metrics.claimed(result.is_ok(), started.elapsed());
        result
    }

    async fn claim_now(&self, who: &Principal, request: ClaimRequest) -> Result<SandboxRecord, ApiError> {
        if request.template.trim().is_empty() {
            return Err(ApiError::bad_request("template is required: the id of a template, for example \"default\""));
        }
        self.admit_claim(who)?;
        self.check_room()?;
        let mut config = validate::claim(request.config.as_ref()).map_err(violations)?;
        self.webhooks.seal_secret(&mut config, None)?;
        let template = self.template(who, request.template.trim()).await?;
        let snapshot = match request.snapshot_id.as_deref().filter(|snapshot| !snapshot.is_empty()) {
            Some(id) => Some(self.snapshot(who, id).await?.base),
            None => None,
        };
        let files = snapshot.as_ref().or(template.base.as_ref());
        let base = spec::base_of(&self.node, &template.spec, files).map_err(|text| {
            let not_ready = |text: &str| ApiError::new(ErrorCode::TemplateNotReady, format!("template {:?} cannot be used: {text}", template.id));
            match self.image_absence(spec::image_of(&template.spec), text) {
                Absence::Pulling => not_ready("its image is being pulled").retry_after(1),
                Absence::Failed(text) | Absence::Missing(text) => not_ready(&text),
            }
        })?;
        // From here on until the row names it.
        let _pin = self.node.pin_base(&base);
        if let Some(id) = request.snapshot_id.as_deref().filter(|_| snapshot.is_some()) {
            // Deleted in between, it may have been collected before the pin.
            self.snapshot(who, id).await?;
        } else if template.base.is_some() && self.template(who, &template.id).await?.base != template.base {
            return Err(ApiError::conflict(format!("template {:?} was changed at the same time; try again", template.id)));
        }
        let (mounts, trees) = self.mounts(who, &template.spec, request.mounts.as_deref().unwrap_or_default()).await?;
        let claim = lifecycle::Claim {
            id: sandbar_node::random_id("sb-"),
            team_id: who.team_id.clone(),
            user_id: who.user_id.clone(),
            template_id: template.id.clone(),
            template: template.spec,
            config,
            mounts,
            base: Some(base.clone()),
        };
        self.make(claim, base, trees).await
    }

    /// Launches a sandbox and writes its row, with what lies below its files and where the files of its volumes are.
    pub(crate) async fn make(&self, claim: lifecycle::Claim, base: Base, trees: spec::Trees) -> Result<SandboxRecord, ApiError> {
        let now = now_ms();
        let mut record = lifecycle::claim(claim, now);
        let pool = spec::pool_key(&spec::pool_spec(&self.node, &record.template, base.clone()));
        let runtime_spec = spec::runtime_spec(&self.node, &record, base, &trees).map_err(ApiError::bad_request)?;
        let policy = spec::policy(&record).map_err(ApiError::bad_request)?;
        self.credentials.check(&record).await?;
        let terms = self.credentials.terms(&record.team_id, policy).await.map_err(|e| store_failure("reading credential sources", &e))?;
        let (runtime, origin) = self.node.take(&pool, &runtime_spec).await.map_err(|error| launch_failure(&error))?;
        self.metrics.launched(origin == Origin::Pool);
        spec::set_runtime(&mut record, &runtime);
        let record = lifecycle::observe(&record, lifecycle::Observation::Started, now).record;
        let warning = match spec::make_own(&self.node, &runtime, &record, terms).await {
            Ok(warning) => {
                self.usage.egress.begins(&record, &runtime);
                warning
            }
            Err(text) => {
                self.node.discard(runtime);
                return Err(ApiError::unavailable(format!("the new sandbox did not come up: {text}")).retry_after(1));
            }
        };
        let mut ready = vec![NewEvent::new(now, "sandbox.ready", format!("claimed from template {}", record.template_id))];
        ready.extend(warning);
        let told = webhooks::attach(None, &record, None, &mut ready);
        if let Err(error) = self.store.sandbox_insert_on(&record, &ready, trees).await {
            self.node.discard(runtime);
            return Err(store_failure("saving the sandbox", &error));
        }
        self.sandboxes.own(record.clone(), Some(runtime));
        if told {
            self.webhooks.changed.notify_one();
        }
        if lifecycle::next_deadline(&record).is_some() {
            self.sandboxes.deadlines_changed.notify_one();
        }
        Ok(record)
    }

    /// Where volumes go in a new sandbox, and where their files are.
    async fn mounts(&self, who: &Principal, template: &TemplateSpec, asked: &[Mount]) -> Result<(Vec<sandbar_core::sandbox::Mount>, spec::Trees), ApiError> {
        let mut volumes = HashMap::new();
        for mount in asked.iter().take(limits::MOUNTS_MAX) {
            let found = self.store.volume_get(&who.team_id, &mount.sandboxvolume_id).await.map_err(|e| store_failure("reading the volume", &e))?;
            let volume = found.filter(|volume| volume.owner.is_none()).ok_or_else(|| ApiError::not_found("volume", &mount.sandboxvolume_id))?;
            volumes.insert(volume.id.clone(), volume);
        }
        let mounts = sandbar_core::volume::plan(template, asked, |id| volumes.get(id).map(|volume| volume.access_mode)).map_err(violations)?;
        Ok((mounts, volumes.into_values().map(|volume| (volume.id, volume.tree_id)).collect()))
    }

    /// A page of the team's sandboxes, newest first.
    pub async fn list(&self, who: &Principal, query: ListSandboxes) -> Result<Page, ApiError> {
        let ListSandboxes { statuses, template_id, paused, instances, limit, offset } = query;
        let statuses = Some(statuses.unwrap_or_else(|| LISTED.to_vec()));
        let filter = ListFilter { team_id: who.team_id.clone(), statuses, template_id, paused, instances, limit, offset };
        let (sandboxes, total) = self.store.sandbox_list(filter).await.map_err(|e| store_failure("listing sandboxes", &e))?;
        Ok(Page { sandboxes, total })
    }

    /// One sandbox of the team; another team's does not exist.
    pub async fn get(&self, who: &Principal, id: &str) -> Result<SandboxRecord, ApiError> {
        Ok(self.view_of(who, id).await?.record.as_ref().clone())
    }

    /// Changes what can be changed at runtime.
    pub async fn update(self: &Arc<Self>, who: &Principal, id: &str, update: UpdateConfig) -> Result<SandboxRecord, ApiError> {
        let replaces_services = update.services.is_some();
        let update = Box::new(update);
        let record = self.ask(who, id, |reply| Command::Update { update, only_services: false, reply }).await?;
        if replaces_services {
            self.end_former_services(&record);
        }
        self.sandboxes.follow(&record);
        self.webhooks.changed.notify_one();
        Ok(record)
    }

    /// Replaces the services wholly; an empty list clears them.
    pub async fn put_services(self: &Arc<Self>, who: &Principal, id: &str, services: serde_json::Value) -> Result<SandboxRecord, ApiError> {
        let update = Box::new(UpdateConfig { services: Some(services), ..UpdateConfig::default() });
        let record = self.ask(who, id, |reply| Command::Update { update, only_services: true, reply }).await?;
        self.end_former_services(&record);
        Ok(record)
    }

    /// Ends the processes of services that are not there any more. Who was served by them as a function moves away first.
    fn end_former_services(self: &Arc<Self>, record: &SandboxRecord) {
        let runtime_of = |app: &Self, id: &str| app.sandboxes.find(id).and_then(|view| Some((view.record, view.runtime?)));
        let Some((_, runtime)) = runtime_of(self, &record.id) else { return };
        let Some(linger) = self.leave_source(&record.id, Some(record)) else { return self.services_changed(record, runtime) };
        let (app, id) = (Arc::clone(self), record.id.clone());
        self.sandboxes.tasks.spawn(async move {
            linger.await;
            // As it is by now.
            if let Some((record, runtime)) = runtime_of(&app, &id) {
                app.services_changed(&record, runtime);
            }
        });
    }

    /// Sets the deadlines anew.
    pub async fn refresh(&self, who: &Principal, id: &str, duration_s: Option<i32>) -> Result<SandboxRecord, ApiError> {
        self.ask(who, id, |reply| Command::Refresh { duration_s, reply }).await
    }

    /// Stops the processes and keeps all state. The memory is kept for the template's `hibernateAfter` and while the
    /// machine has room; with `memory` until the sandbox is resumed.
    pub async fn pause(&self, who: &Principal, id: &str, memory: bool) -> Result<SandboxRecord, ApiError> {
        let text = lifecycle::reason_text(reason::USER_REQUEST).to_owned();
        let record = self.ask(who, id, |reply| Command::Pause { code: reason::USER_REQUEST, text, memory, reply }).await?;
        if memory && record.observed != Observed::Frozen {
            return Err(ApiError::conflict("the sandbox is paused, but its memory is already given back; only its files are kept"));
        }
        Ok(record)
    }

    /// Gives a paused sandbox's memory back; its files are kept.
    pub async fn hibernate(&self, who: &Principal, id: &str) -> Result<SandboxRecord, ApiError> {
        let record = self.ask(who, id, |reply| Command::Hibernate { code: reason::USER_REQUEST, reply }).await?;
        match record.observed {
            Observed::Hibernated => Ok(record),
            Observed::Starting | Observed::Active | Observed::Frozen | Observed::Cleaned | Observed::Failed => {
                Err(ApiError::conflict("only a paused sandbox can be hibernated; pause it first"))
            }
        }
    }

    /// Makes it run again.
    pub async fn resume(&self, who: &Principal, id: &str) -> Result<SandboxRecord, ApiError> {
        self.ask(who, id, |reply| Command::Resume { reply }).await
    }

    /// Its files as they are now.
    pub(crate) async fn capture(&self, who: &Principal, id: &str) -> Result<Captured, ApiError> {
        let view = self.view_of(who, id).await?;
        self.sandboxes.ask(view.record.as_ref().clone(), |reply| Command::Capture { reply }).await
    }

    /// The same of a sandbox of whatever team.
    pub(crate) async fn capture_of(&self, record: SandboxRecord) -> Result<Captured, ApiError> {
        self.sandboxes.ask(record, |reply| Command::Capture { reply }).await
    }

    /// Puts other files in place of a paused sandbox's own. `text` is for its events.
    pub(crate) async fn restore(&self, who: &Principal, id: &str, base: Base, text: String) -> Result<SandboxRecord, ApiError> {
        self.ask(who, id, |reply| Command::Restore { base, text, reply }).await
    }

    /// Takes a volume away from a sandbox, of whatever state.
    pub(crate) async fn detach_volume(&self, sandbox_id: &str, volume_id: &str) -> Result<(), ApiError> {
        let Some(record) = self.record_of(sandbox_id).await? else { return Ok(()) };
        self.sandboxes.ask(record, |reply| Command::Detach { volume_id: volume_id.to_owned(), reply }).await.map(drop)
    }

    /// What is known of a sandbox of whatever team, unless it is deleted.
    pub(crate) async fn record_of(&self, id: &str) -> Result<Option<SandboxRecord>, ApiError> {
        let found = match self.sandboxes.find(id) {
            Some(view) => Some(view.record.as_ref().clone()),
            None => self.store.sandbox_get(None, id).await.map_err(|e| store_failure("reading the sandbox", &e))?,
        };
        Ok(found.filter(|record| record.desired != Desired::Deleted))
    }

    /// Does something while none of these sandboxes runs, nor begins to. When one of them cannot be asked, `work` is dropped undone.
    pub(crate) async fn hold_still(&self, sandboxes: Vec<SandboxRecord>, work: BoxFuture<'static, ()>) {
        let mut work = work;
        for record in sandboxes.into_iter().rev() {
            let registry = Arc::clone(&self.sandboxes);
            let inner = work;
            work = Box::pin(async move {
                let id = record.id.clone();
                if let Err(error) = registry.ask(record, |reply| Command::Hold { work: inner, reply }).await {
                    tracing::debug!(sandbox = id, %error, "a sandbox was not held still");
                }
            });
        }
        work.await;
    }

    /// Ends it for good. What it serves as a function moves elsewhere first, behind the reply.
    pub async fn delete(self: &Arc<Self>, who: &Principal, id: &str) -> Result<(), ApiError> {
        let record = self.get(who, id).await?;
        let linger = self.leave_source(id, None);
        self.sandboxes.ask(record, |reply| Command::Delete { linger, reply }).await?;
        // Volumes may go with it.
        self.apps.changed.notify_one();
        Ok(())
    }

    /// Ends a sandbox of whatever team; one that is gone is ended.
    pub(crate) async fn end(&self, id: &str) -> Result<(), ApiError> {
        let Some(record) = self.record_of(id).await? else { return Ok(()) };
        self.sandboxes.ask(record, |reply| Command::Delete { linger: None, reply }).await.map(drop)
    }

    /// A sandbox that is deleted and whose processes linger.
    pub(crate) fn lingering(&self, id: &str) -> Option<(Arc<SandboxRecord>, Arc<Runtime>)> {
        let view = self.sandboxes.find(id).filter(|view| view.record.desired == Desired::Deleted)?;
        let runtime = view.runtime.filter(|runtime| !runtime.has_ended() && !runtime.is_frozen())?;
        Some((view.record, runtime))
    }

    /// The live runtime of a sandbox, to do something inside: wakes it when it sleeps and may be woken.
    pub async fn access(&self, who: &Principal, id: &str) -> Result<Arc<Runtime>, ApiError> {
        let view = self.view_of(who, id).await?;
        let awake = view.record.desired == Desired::Active && view.record.observed == Observed::Active;
        if let Some(runtime) = view.runtime.filter(|runtime| awake && !runtime.has_ended()) {
            return Ok(runtime);
        }
        let woken = self.sandboxes.ask(view.record.as_ref().clone(), |reply| Command::Wake { reply }).await?;
        woken.runtime.ok_or_else(|| ApiError::unavailable("the sandbox is waking up").retry_after(1))
    }

    /// A sandbox as its public hosts see it: whoever's it is, with its runtime when it is awake.
    pub(crate) async fn look(&self, id: &str) -> Result<Option<(Arc<SandboxRecord>, Option<Arc<Runtime>>)>, ApiError> {
        let view = match self.sandboxes.find(id) {
            Some(view) => view,
            None => {
                let found = self.store.sandbox_get(None, id).await.map_err(|e| store_failure("reading the sandbox", &e))?;
                let Some(record) = found else { return Ok(None) };
                View { record: Arc::new(record), runtime: None }
            }
        };
        let awake = view.record.desired == Desired::Active && view.record.observed == Observed::Active;
        let runtime = view.runtime.filter(|runtime| awake && !runtime.has_ended());
        Ok((view.record.desired != Desired::Deleted).then_some((view.record, runtime)))
    }

    /// Wakes a sandbox because somebody accesses it, if it may be woken.
    pub(crate) async fn wake(&self, record: &SandboxRecord) -> Result<(Arc<SandboxRecord>, Arc<Runtime>), ApiError> {
        let woken = self.sandboxes.ask(record.clone(), |reply| Command::Wake { reply }).await?;
        let runtime = woken.runtime.ok_or_else(|| ApiError::unavailable("the sandbox is waking up").retry_after(1))?;
        Ok((woken.record, runtime))
    }

    /// Makes a sandbox of whatever team run again, also one that no access may wake.
    pub(crate) async fn bring_up(&self, record: &SandboxRecord) -> Result<(Arc<SandboxRecord>, Arc<Runtime>), ApiError> {
        let up = self.sandboxes.ask(record.clone(), |reply| Command::Resume { reply }).await?;
        let runtime = up.runtime.ok_or_else(|| ApiError::unavailable("the sandbox is waking up").retry_after(1))?;
        Ok((up.record, runtime))
    }

    /// Pauses a sandbox of whatever team; with `end` its processes end.
    pub(crate) async fn put_down(&self, record: SandboxRecord, text: &str, end: bool) -> Result<(), ApiError> {
        let text = text.to_owned();
        let paused = self.sandboxes.ask(record, |reply| Command::Pause { code: reason::USER_REQUEST, text, memory: false, reply }).await?;
        if end && paused.record.observed == Observed::Frozen {
            self.sandboxes.hibernate(paused.record.as_ref().clone(), reason::USER_REQUEST).await?;
        }
        Ok(())
    }

    /// Replaces the services of a sandbox of whatever team.
    pub(crate) async fn serve_by(self: &Arc<Self>, record: &SandboxRecord, services: serde_json::Value) -> Result<(), ApiError> {
        let update = Box::new(UpdateConfig { services: Some(services), ..UpdateConfig::default() });
        let changed = self.sandboxes.ask(record.clone(), |reply| Command::Update { update, only_services: true, reply }).await?;
        self.end_former_services(&changed.record);
        Ok(())
    }

    /// What happened to a sandbox, oldest first.
    pub async fn events(&self, who: &Principal, id: &str, after: i64, limit: u32) -> Result<Vec<EventRecord>, ApiError> {
        self.view_of(who, id).await?;
        self.store.events_list(id, after, limit).await.map_err(|error| store_failure("listing events", &error))
    }

    /// How many sandboxes of all teams are in which state.
    pub async fn sandbox_counts(&self) -> Result<Vec<(String, u64)>, ApiError> {
        self.store.sandbox_counts().await.map_err(|error| store_failure("counting sandboxes", &error))
    }

    async fn ask(&self, who: &Principal, id: &str, command: impl FnOnce(Reply) -> Command) -> Result<SandboxRecord, ApiError> {
        let view = self.view_of(who, id).await?;
        let answer = self.sandboxes.ask(view.record.as_ref().clone(), command).await?;
        Ok(answer.record.as_ref().clone())
    }

    /// The runtime of a sandbox, if it has one. Does not wake it.
    pub(super) async fn runtime_of(&self, who: &Principal, id: &str) -> Result<Option<Arc<Runtime>>, ApiError> {
        Ok(self.view_of(who, id).await?.runtime)
    }

    async fn view_of(&self, who: &Principal, id: &str) -> Result<View, ApiError> {
        let view = match self.sandboxes.find(id) {
            Some(view) => view,
            None => {
                let found = self.store.sandbox_get(Some(&who.team_id), id).await.map_err(|e| store_failure("reading the sandbox", &e))?;
                let record = found.ok_or_else(|| ApiError::not_found("sandbox", id))?;
                View { record: Arc::new(record), runtime: None }
            }
        };
        if view.record.team_id != who.team_id || view.record.desired == Desired::Deleted {
            return Err(ApiError::not_found("sandbox", id));
        }
        Ok(view)
    }
}

/// Several things wrong with a request, each with its path.
pub(crate) fn violations(found: Vec<validate::Violation>) -> ApiError {
    let text = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let details: Vec<_> = found.iter().map(|v| serde_json::json!({ "field": v.path, "message": v.message })).collect();
    ApiError::bad_request(text).with_details(serde_json::json!({ "violations": details }))
}

/// What the client is told when the machine refused something other than a launch.
pub(crate) fn runtime_failure(operation: &str, error: &sandbar_node::RuntimeError) -> ApiError {
    if error.is_disk_full() {
        return full();
    }
    if error.is_too_deep() {
        return ApiError::conflict(error_text(error));
    }
    ApiError::internal(operation, &error_text(error))
}

fn launch_failure(error: &sandbar_node::RuntimeError) -> ApiError {
    if error.is_disk_full() {
        return full();
    }
    if let Some(at) = error.blocked_mount() {
        return ApiError::conflict(format!("nothing can be mounted at /{}: a link or a file stands where a folder has to be", at.display()));
    }
    let text = error_text(error);
    tracing::error!(error = text, "a sandbox could not be launched");
    ApiError::new(ErrorCode::Unavailable, format!("a sandbox could not be started: {text}")).retry_after(1)
}
