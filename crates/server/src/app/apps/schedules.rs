//! Schedules of apps: who keeps them, and the runs that they make. They fire in `tasks/app_schedules.rs`.

use std::collections::BTreeMap;

use sandbar_core::{
    app::{
        AppState, Desired, SandboxKind,
        manifest::{self, Code, Diagnostic, Manifest, RuntimePolicy, Schedule, Target},
        run::{Caller, CleanupPolicy, Place, RunCause, Terms},
        schedule::{self, Keeper, Lifecycle},
    },
    roles::Permission,
    sandbox::SandboxRecord,
};
use sandbar_store::{
    AppLastRun, AppRecord, AppRun, AppScheduleRecord, AppTick, AppVersionRecord, InsertedRun, NewAppRun, StoreError, fresh_schedule, resumed_schedule,
    retimed_schedule,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    manifest_of,
    runs::{Asked, Wish, key_reused, plan},
    source::unsupported,
};
use crate::{
    app::{
        App, SharedApp,
        auth::Principal,
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

/// A change that met another is tried so often.
const TRIES: u32 = 5;

/// What is to become of a schedule.
enum Change {
    /// These keys; `null` takes one away.
    Set(Map<String, Value>),
    Stop,
    Resume,
    Delete,
}

impl App {
    /// The schedules of an app by name.
    pub(crate) async fn app_schedules(&self, who: &Principal, app: &str) -> Result<Vec<AppScheduleRecord>, ApiError> {
        who.require(Permission::FunctionRead)?;
        let app = self.app(who, app).await?;
        self.store.app_schedules_list(&app.id).await.map_err(|e| store_failure("listing schedules", &e))
    }

    /// The newest runs of the schedules of an app, by their ids.
    pub(crate) async fn app_schedules_last_runs(&self, app_id: &str) -> Result<BTreeMap<String, AppLastRun>, ApiError> {
        self.store.app_schedules_last_runs(app_id).await.map_err(|e| store_failure("looking for the last runs of schedules", &e))
    }

    /// Refuses a manifest whose schedules have names that others have which it does not keep (409).
    pub(super) async fn check_schedule_names(&self, who: &Principal, name: &str, manifest: &Manifest) -> Result<(), ApiError> {
        let Some(app) = self.store.app_find(&who.team_id, name).await.map_err(|e| store_failure("reading the app", &e))? else { return Ok(()) };
        let there = self.store.app_schedules_list(&app.id).await.map_err(|e| store_failure("listing schedules", &e))?;
        let taken = schedule::names_taken(&manifest.schedules, there.iter().map(|there| (there.name.as_str(), there.keeper)));
        let diagnostics: Vec<Diagnostic> = taken.iter().map(schedule::NameTaken::diagnostic).collect();
        if diagnostics.is_empty() {
            return Ok(());
        }
        let text = diagnostics.iter().map(|one| format!("{}: {}", one.path, one.message)).collect::<Vec<_>>().join("; ");
        Err(ApiError::conflict(text).with_details(json!({ "reason": "schedule_name_taken", "diagnostics": diagnostics })))
    }

    /// A schedule of an app, by name or id.
    pub(crate) async fn app_schedule(&self, who: &Principal, app: &str, name_or_id: &str) -> Result<AppScheduleRecord, ApiError> {
        let all = self.app_schedules(who, app).await?;
        let found = all.iter().find(|schedule| schedule.name == name_or_id).or_else(|| all.iter().find(|schedule| schedule.id == name_or_id));
        found.cloned().ok_or_else(|| ApiError::not_found("schedule", name_or_id))
    }

    /// Makes a schedule that the client keeps: written as in a manifest.
    pub(crate) async fn create_app_schedule(&self, who: &Principal, app: &str, given: Value) -> Result<AppScheduleRecord, ApiError> {
        who.require(Permission::FunctionWrite)?;
        let app = self.app(who, app).await?;
        let spec = self.read_schedule(&app, given).await?;
        let now_ms = now_ms();
        comes(&spec, now_ms)?;
        let id = uuid::Uuid::new_v4().to_string();
        let record = fresh_schedule(id, &app.team_id, &app.id, Keeper::Api, spec, now_ms).map_err(refused)?;
        let made = self.store.app_schedule_insert(record).await.map_err(refused)?;
        self.app_schedules.notify_one();
        Ok(made)
    }

    /// Changes what is named of a schedule; `null` takes a key away.
    pub(crate) async fn update_app_schedule(&self, who: &Principal, app: &str, name: &str, given: Value) -> Result<AppScheduleRecord, ApiError> {
        let Value::Object(given) = given else { return Err(ApiError::bad_request("the body must be an object with the keys to change")) };
        self.change_schedule(who, app, name, Change::Set(given)).await
    }

    /// Lets a schedule come no more until it is started again, whoever keeps it.
    pub(crate) async fn stop_app_schedule(&self, who: &Principal, app: &str, name: &str) -> Result<AppScheduleRecord, ApiError> {
        self.change_schedule(who, app, name, Change::Stop).await
    }

    /// Lets one that was stopped, or that failed, come again from now on. What it missed meanwhile it was not to do.
    pub(crate) async fn resume_app_schedule(&self, who: &Principal, app: &str, name: &str) -> Result<AppScheduleRecord, ApiError> {
        self.change_schedule(who, app, name, Change::Resume).await
    }

    /// Takes a schedule away. What it ran is kept.
    pub(crate) async fn delete_app_schedule(&self, who: &Principal, app: &str, name: &str) -> Result<(), ApiError> {
        self.change_schedule(who, app, name, Change::Delete).await.map(drop)
    }

    /// Runs what a schedule runs, now, whether or not it is active. It counts as no tick.
    pub(crate) async fn run_app_schedule(&self, who: &Principal, app: &str, name: &str, key: Option<String>) -> Result<Asked, ApiError> {
        who.require(Permission::FunctionWrite)?;
        let record = self.app_schedule(who, app, name).await?;
        // What the schedule says by now is not of the request.
        let key = key.map(|key| (key, hex::encode(Sha256::digest(format!("schedule {}", record.id)))));
        if let Some((key, request_sha256)) = &key
            && let Some(asked) = self.asked_before(&record.app_id, key, request_sha256).await?
        {
            return Ok(asked);
        }
        self.check_room()?;
        let mut run = self.run_of_schedule(&record, Some(who.caller())).await.map_err(refused)??;
        run.key = key;
        run.schedule_id = Some(record.id);
        let id = run.id.clone();
        let inserted = self.store.app_run_insert(run).await.map_err(|e| store_failure("asking for a run", &e))?;
        self.app_runs.changed.notify_one();
        let (id, replayed) = match inserted {
            InsertedRun::Queued | InsertedRun::Skipped => (id, false),
            InsertedRun::Same { run_id } => (run_id, true),
            InsertedRun::Other { run_id } => return Err(key_reused(&run_id)),
        };
        Ok(Asked { run: self.app_run(who, &id).await?, replayed })
    }

    /// What became of the ticks of a schedule, the newest first.
    pub(crate) async fn app_ticks(&self, who: &Principal, app: &str, name: &str, before_ms: Option<i64>, limit: u32) -> Result<Vec<AppTick>, ApiError> {
        let record = self.app_schedule(who, app, name).await?;
        self.store.app_ticks_list(&record.id, before_ms, limit).await.map_err(|e| store_failure("listing ticks", &e))
    }

    /// The run that a tick makes as things are, or why it makes none. A failure is none of the schedule, but for one that cannot be read.
    pub(crate) async fn order_of_schedule(&self, record: &AppScheduleRecord) -> Result<Result<NewAppRun, ApiError>, StoreError> {
        self.run_of_schedule(record, None).await
    }

    async fn run_of_schedule(&self, record: &AppScheduleRecord, caused_by: Option<Caller>) -> Result<Result<NewAppRun, ApiError>, StoreError> {
        let spec = record.spec()?;
        if let Err(refused) = self.check_spend(spec.max_spend_micros()) {
            return Ok(Err(refused));
        }
        let place = place_of(spec);
        let (app, version) = match self.ground_of_run(&record.app_id, spec, place).await {
            Ok(Ok(ground)) => ground,
            Ok(Err(refused)) => return Ok(Err(refused)),
            // What is stored does not become readable by trying again.
            Err(StoreError::Corrupt { what, cause }) => return Ok(Err(ApiError::conflict(format!("the stored {what} cannot be read: {cause}")))),
            Err(error) => return Err(error),
        };
        let Ok(manifest) = serde_json::from_str::<Manifest>(&version.manifest) else {
            return Ok(Err(ApiError::conflict(format!("the stored manifest of version {} cannot be read; deploy the app again", version.number))));
        };
        let wish = wish(spec, place, caused_by);
        Ok(plan(&app, &version, &wish, RunCause::Schedule, now_ms()).and_then(|mut run| {
            let terms = terms_of(spec, &manifest);
            run.doc.timeout_s = run.doc.timeout_s.min(terms.max_duration_s.unwrap_or(u64::MAX));
            run.doc.terms = terms;
            run.doc.schedule = Some(record.name.clone());
            self.seal_said(&mut run, &manifest, &wish.env)?;
            Ok(run)
        }))
    }

    /// The app and the version that a schedule's run is of; or why there is none.
    async fn ground_of_run(&self, app_id: &str, spec: &Schedule, place: Place) -> Result<Result<(AppRecord, AppVersionRecord), ApiError>, StoreError> {
        let Some(app) = self.store.app_get(app_id).await? else { return Ok(Err(ApiError::not_found("app", app_id))) };
        let number = match place {
            Place::Fresh => app.live_version,
            Place::App => {
                let online = self.store.app_sandbox_online(&app.id).await?.filter(|_| app.desired == Desired::Online);
                let Some(online) = online else {
                    return Ok(Err(ApiError::conflict("the app is not online, and the schedule's runtimePolicy is use_existing_running")));
                };
                if let Target::Service { name } = &spec.target
                    && self.supervised(&online.sandbox_id).and_then(|supervised| supervised.view(name)).is_some_and(|view| is_up(view.state))
                {
                    return Ok(Err(ApiError::conflict(format!("the service {name:?} runs in the app's sandbox already"))));
                }
                Some(online.version)
            }
        };
        let Some(number) = number else {
            return Ok(Err(ApiError::conflict(format!("app {:?} has no version that is ready; deploy one", app.name))));
        };
        let version = self.store.app_version(&app.id, number).await?;
        Ok(version.map(|version| (app, version)).ok_or_else(|| ApiError::not_found("version", &number.to_string())))
    }

    /// A sandbox of a run's own, with what a schedule asks for it in place of what the manifest says.
    pub(super) async fn make_run_sandbox(self: &SharedApp, app: &AppRecord, version: &AppVersionRecord, run: &AppRun) -> Result<SandboxRecord, ApiError> {
        let asked = &run.doc.terms.resources;
        let Some(base) = version.base.clone().filter(|_| !asked.is_empty()) else {
            return self.make_app_sandbox(app, version, SandboxKind::Run, Some(&run.id)).await;
        };
        let mut manifest = manifest_of(version)?;
        let resources = &mut manifest.resources;
        resources.cpu = asked.cpu.or(resources.cpu);
        resources.memory_gb = asked.memory_gb.or(resources.memory_gb);
        resources.disk_gb = asked.disk_gb.or(resources.disk_gb);
        self.make_sandbox_on(app, version, &manifest, SandboxKind::Run, Some(&run.id), base).await
    }

    async fn change_schedule(&self, who: &Principal, app: &str, name: &str, change: Change) -> Result<AppScheduleRecord, ApiError> {
        who.require(Permission::FunctionWrite)?;
        let found = self.app(who, app).await?;
        let mut tries = 0;
        loop {
            tries += 1;
            let record = self.app_schedule(who, app, name).await?;
            let changed = self.changed_schedule(&found, record, &change).await?;
            match self.store.app_schedule_update(AppScheduleRecord { updated_at_ms: now_ms(), ..changed }).await {
                Ok(record) => {
                    self.app_schedules.notify_one();
                    return Ok(record);
                }
                // It fired meanwhile.
                Err(StoreError::Stale { .. }) if tries < TRIES => {}
                Err(error) => return Err(refused(error)),
            }
        }
    }

    async fn changed_schedule(&self, app: &AppRecord, record: AppScheduleRecord, change: &Change) -> Result<AppScheduleRecord, ApiError> {
        if record.keeper == Keeper::Manifest && matches!(change, Change::Set(_) | Change::Delete) {
            let text = format!("the schedule {:?} is kept by the manifest; change it there and deploy, or stop it", record.name);
            return Err(ApiError::conflict(text).with_details(json!({ "reason": "kept_by_manifest" })));
        }
        match (change, record.lifecycle) {
            (Change::Set(given), _) => {
                let spec = self.read_changed(app, &record.name, merged(record.spec.as_ref(), given)?).await?;
                let now_ms = now_ms();
                if record.spec.as_ref().is_none_or(|old| !schedule::is_same_time(old, &spec)) {
                    comes(&spec, now_ms)?;
                }
                retimed_schedule(AppScheduleRecord { name: spec.name.clone(), ..record }, spec, now_ms).map_err(refused)
            }
            (Change::Delete, _) => Ok(ended(record, Lifecycle::Deleted, "it was deleted by a request")),
            (Change::Stop, Lifecycle::Active) => Ok(ended(record, Lifecycle::Stopped, "it was stopped by a request")),
            (Change::Stop, _) | (Change::Resume, Lifecycle::Active) => Ok(record),
            (Change::Resume, Lifecycle::Stopped | Lifecycle::Failed) => resumed_schedule(record, now_ms()).map_err(refused),
            (Change::Resume, over) => Err(ApiError::conflict(format!("the schedule has ended ({}); change it so that it comes again", over.as_str()))),
        }
    }

    /// One that was there before may be called what none is called any more, and keeps that until it is called otherwise.
    async fn read_changed(&self, app: &AppRecord, name: &str, mut whole: Value) -> Result<Schedule, ApiError> {
        if manifest::is_command_name(name) || whole["name"] != name {
            return self.read_schedule(app, whole).await;
        }
        whole["name"] = "schedule".into();
        Ok(Schedule { name: name.to_owned(), ..self.read_schedule(app, whole).await? })
    }

    /// A schedule as it stands in a manifest, read together with what it may run: what is live of the app.
    async fn read_schedule(&self, app: &AppRecord, given: Value) -> Result<Schedule, ApiError> {
        let version = self.version_to_run(app, Place::Fresh).await?;
        let mut whole: Value = serde_json::from_str(&version.manifest).map_err(|e| ApiError::internal("reading a manifest", &e))?;
        if let Some(whole) = whole.as_object_mut() {
            whole.insert("schedules".to_owned(), Value::Array(vec![given]));
        }
        let mut parsed = manifest::parse(&whole.to_string()).map_err(|diagnostics| wrong(400, &diagnostics))?;
        // The rest of the manifest was deployed as it is.
        let refused: Vec<_> = unsupported(&parsed, self.receipts.prices().as_deref()).into_iter().filter(|one| one.path.starts_with(AT)).collect();
        if !refused.is_empty() {
            return Err(wrong(422, &refused));
        }
        parsed.manifest.schedules.pop().ok_or_else(|| ApiError::internal("reading a schedule", &"there is none"))
    }
}

/// Where a schedule stands that is read as if it were of a manifest.
const AT: &str = "$.schedules[0]";

/// What is wrong with a schedule, with paths within it.
fn wrong(status: u16, diagnostics: &[Diagnostic]) -> ApiError {
    let place = |path: &str| path.strip_prefix(AT).map_or_else(|| path.to_owned(), |rest| format!("${rest}"));
    let text = diagnostics.iter().map(|one| format!("{}: {}", place(&one.path), one.message)).collect::<Vec<_>>().join("; ");
    let list: Vec<_> = diagnostics.iter().map(|one| json!({ "path": place(&one.path), "code": one.code.as_str(), "message": one.message })).collect();
    ApiError::with_status(status, sandbar_api::ErrorCode::BadRequest, text).with_details(json!({ "diagnostics": list }))
}

/// Refuses a schedule that never comes (422).
fn comes(spec: &Schedule, now_ms: i64) -> Result<(), ApiError> {
    // Which one it is matters to jitter alone.
    let never = schedule::never_comes("", spec, now_ms).map_err(ApiError::bad_request)?;
    never.map_or(Ok(()), |why| {
        let at = Diagnostic { path: format!("$.{}", why.path), code: Code::OutOfRange, message: why.message, line: 1, column: 1 };
        Err(wrong(422, &[at]))
    })
}

fn is_up(state: AppState) -> bool {
    match state {
        AppState::Starting | AppState::Ready | AppState::Unhealthy => true,
        AppState::None | AppState::Exited | AppState::Failed => false,
    }
}

fn ended(record: AppScheduleRecord, lifecycle: Lifecycle, reason: &str) -> AppScheduleRecord {
    AppScheduleRecord { lifecycle, lifecycle_reason: Some(reason.to_owned()), ..record }
}

/// What is stored with what is given in its place, as it would stand in a manifest.
fn merged(spec: Option<&Schedule>, given: &Map<String, Value>) -> Result<Value, ApiError> {
    const WHEN: [&str; 3] = ["cron", "rate", "once"];
    let stored = serde_json::to_value(spec).map_err(|e| ApiError::internal("reading a schedule", &e))?;
    let mut whole = match stored {
        Value::Object(whole) => whole,
        // Of one that cannot be read nothing is kept.
        _ => Map::new(),
    };
    // Exactly one of them says when it comes.
    if WHEN.iter().any(|key| given.get(*key).is_some_and(|value| !value.is_null())) {
        whole.retain(|key, _| !WHEN.contains(&key.as_str()));
    }
    for (key, value) in given {
        match value {
            Value::Null => whole.remove(key),
            value => whole.insert(key.clone(), value.clone()),
        };
    }
    Ok(Value::Object(whole))
}

fn place_of(spec: &Schedule) -> Place {
    match spec.runtime_policy {
        RuntimePolicy::RunAndStop | RuntimePolicy::RunAndArchive | RuntimePolicy::RunAndDelete => Place::Fresh,
        RuntimePolicy::UseExistingRunning => Place::App,
    }
}

fn wish(spec: &Schedule, place: Place, caused_by: Option<Caller>) -> Wish {
    let cleanup = match spec.runtime_policy {
        RuntimePolicy::RunAndStop | RuntimePolicy::UseExistingRunning => CleanupPolicy::Stop,
        RuntimePolicy::RunAndArchive => CleanupPolicy::Archive,
        RuntimePolicy::RunAndDelete => CleanupPolicy::Delete,
    };
    Wish {
        target: spec.target.clone(),
        input: spec.input.clone(),
        files: Vec::new(),
        place,
        cleanup,
        keep: spec.retention_policy.map(|retention| retention.keep_last),
        env: spec.env.clone().into_iter().collect::<BTreeMap<_, _>>(),
        timeout_s: None,
        requires_start: spec.requires_start,
        idempotency_key: None,
        caused_by,
        max_spend_micros: spec.max_spend_micros(),
    }
}

/// What a schedule asks of its runs beyond what the manifest says.
fn terms_of(spec: &Schedule, manifest: &Manifest) -> Terms {
    let needs = match &spec.target {
        Target::Service { name } => manifest.in_order([name.as_str()]).iter().map(|service| service.name.clone()).filter(|needed| needed != name).collect(),
        Target::Start | Target::Action { .. } | Target::Command { .. } => Vec::new(),
    };
    Terms { resources: spec.resources, max_duration_s: spec.quotas.and_then(|quotas| quotas.max_duration_seconds).map(u64::from), needs }
}

fn refused(error: StoreError) -> ApiError {
    match error {
        StoreError::Exists { .. } => ApiError::conflict("the app has a schedule of that name already"),
        StoreError::Unfit(why) => ApiError::conflict(why),
        error => store_failure("saving the schedule", &error),
    }
}
