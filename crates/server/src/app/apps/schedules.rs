//! Schedules of apps: who keeps them, and the runs that they make. They fire in `tasks/app_schedules.rs`.

use std::collections::BTreeMap;

use sandbar_core::{
    app::{
        manifest::{self, RuntimePolicy, Schedule},
        run::{Caller, CleanupPolicy, Place, RunCause},
        schedule::{Keeper, Lifecycle},
    },
    roles::Permission,
};
use sandbar_store::{AppRecord, AppScheduleRecord, AppTick, InsertedRun, NewAppRun, StoreError, fresh_schedule, retimed_schedule};
use serde_json::{Map, Value, json};

use super::runs::{Asked, Wish, plan};
use crate::{
    app::{
        App,
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
        let id = uuid::Uuid::new_v4().to_string();
        let record = fresh_schedule(id, &app.team_id, &app.id, Keeper::Api, spec, now_ms()).map_err(refused)?;
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
        self.check_room()?;
        let record = self.app_schedule(who, app, name).await?;
        let mut run = self.run_of_schedule(&record, Some(who.caller()), key).await?;
        run.schedule_id = Some(record.id);
        let id = run.id.clone();
        let inserted = self.store.app_run_insert(run).await.map_err(|e| store_failure("asking for a run", &e))?;
        self.app_runs.changed.notify_one();
        let (id, replayed) = match inserted {
            InsertedRun::Queued | InsertedRun::Skipped => (id, false),
            InsertedRun::Same { run_id } => (run_id, true),
            InsertedRun::Other { run_id } => {
                let text = format!("this Idempotency-Key was used for run {run_id}, which was asked for otherwise; use another key for another run");
                return Err(ApiError::conflict(text).with_details(json!({ "reason": "idempotency_key_reused", "run_id": run_id })));
            }
        };
        Ok(Asked { run: self.app_run(who, &id).await?, replayed })
    }

    /// What became of the ticks of a schedule, the newest first.
    pub(crate) async fn app_ticks(&self, who: &Principal, app: &str, name: &str, before_ms: Option<i64>, limit: u32) -> Result<Vec<AppTick>, ApiError> {
        let record = self.app_schedule(who, app, name).await?;
        self.store.app_ticks_list(&record.id, before_ms, limit).await.map_err(|e| store_failure("listing ticks", &e))
    }

    /// The run that a schedule makes as things are.
    pub(crate) async fn run_of_schedule(&self, record: &AppScheduleRecord, caused_by: Option<Caller>, key: Option<String>) -> Result<NewAppRun, ApiError> {
        let app = self.store.app_get(&record.app_id).await.map_err(|e| store_failure("reading an app", &e))?;
        let app = app.ok_or_else(|| ApiError::not_found("app", &record.app_id))?;
        let wish = wish(&record.spec, caused_by, key);
        self.check_spend(wish.max_spend_micros)?;
        if wish.place == Place::App && self.store.app_sandbox_online(&app.id).await.map_err(|e| store_failure("reading a sandbox", &e))?.is_none() {
            return Err(ApiError::conflict("the app is not online, and the schedule's runtimePolicy is use_existing_running"));
        }
        let version = self.version_to_run(&app, wish.place).await?;
        plan(&app, &version, &wish, RunCause::Schedule, now_ms())
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
                let spec = self.read_schedule(app, merged(&record.spec, given)?).await?;
                retimed_schedule(AppScheduleRecord { name: spec.name.clone(), ..record }, spec, now_ms()).map_err(refused)
            }
            (Change::Delete, _) => Ok(ended(record, Lifecycle::Deleted, "it was deleted by a request")),
            (Change::Stop, Lifecycle::Active) => Ok(ended(record, Lifecycle::Stopped, "it was stopped by a request")),
            (Change::Stop, _) | (Change::Resume, Lifecycle::Active) => Ok(record),
            (Change::Resume, Lifecycle::Stopped | Lifecycle::Failed) => {
                let spec = record.spec.clone();
                retimed_schedule(record, spec, now_ms()).map_err(refused)
            }
            (Change::Resume, over) => Err(ApiError::conflict(format!("the schedule has ended ({}); change it so that it comes again", over.as_str()))),
        }
    }

    /// A schedule as it stands in a manifest, read together with what it may run: what is live of the app.
    async fn read_schedule(&self, app: &AppRecord, given: Value) -> Result<Schedule, ApiError> {
        let version = self.version_to_run(app, Place::Fresh).await?;
        let mut whole: Value = serde_json::from_str(&version.manifest).map_err(|e| ApiError::internal("reading a manifest", &e))?;
        if let Some(whole) = whole.as_object_mut() {
            whole.insert("schedules".to_owned(), Value::Array(vec![given]));
        }
        match manifest::parse(&whole.to_string()) {
            Ok(mut parsed) => {
                let spec = parsed.manifest.schedules.pop().ok_or_else(|| ApiError::internal("reading a schedule", &"there is none"))?;
                self.check_spend(spec.max_spend_micros())?;
                Ok(spec)
            }
            Err(diagnostics) => {
                let place = |path: &str| path.strip_prefix("$.schedules[0]").map_or_else(|| path.to_owned(), |rest| format!("${rest}"));
                let text = diagnostics.iter().map(|one| format!("{}: {}", place(&one.path), one.message)).collect::<Vec<_>>().join("; ");
                let list: Vec<_> =
                    diagnostics.iter().map(|one| json!({ "path": place(&one.path), "code": one.code.as_str(), "message": one.message })).collect();
                Err(ApiError::bad_request(text).with_details(json!({ "diagnostics": list })))
            }
        }
    }
}

fn ended(record: AppScheduleRecord, lifecycle: Lifecycle, reason: &str) -> AppScheduleRecord {
    AppScheduleRecord { lifecycle, lifecycle_reason: Some(reason.to_owned()), ..record }
}

/// What is stored with what is given in its place, as it would stand in a manifest.
fn merged(spec: &Schedule, given: &Map<String, Value>) -> Result<Value, ApiError> {
    const WHEN: [&str; 3] = ["cron", "rate", "once"];
    let stored = serde_json::to_value(spec).map_err(|e| ApiError::internal("reading a schedule", &e))?;
    let Value::Object(mut whole) = stored else { return Err(ApiError::internal("reading a schedule", &"it is no object")) };
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

fn wish(spec: &Schedule, caused_by: Option<Caller>, idempotency_key: Option<String>) -> Wish {
    let (place, cleanup) = match spec.runtime_policy {
        RuntimePolicy::RunAndStop => (Place::Fresh, CleanupPolicy::Stop),
        RuntimePolicy::RunAndArchive => (Place::Fresh, CleanupPolicy::Archive),
        RuntimePolicy::RunAndDelete => (Place::Fresh, CleanupPolicy::Delete),
        RuntimePolicy::UseExistingRunning => (Place::App, CleanupPolicy::Stop),
    };
    Wish {
        target: spec.target.clone(),
        input: spec.input.clone(),
        place,
        cleanup,
        env: spec.env.clone().into_iter().collect::<BTreeMap<_, _>>(),
        timeout_s: spec.quotas.and_then(|quotas| quotas.max_duration_seconds).map(u64::from),
        requires_start: spec.requires_start,
        idempotency_key,
        caused_by,
        max_spend_micros: spec.max_spend_micros(),
    }
}

fn refused(error: StoreError) -> ApiError {
    match error {
        StoreError::Exists { .. } => ApiError::conflict("the app has a schedule of that name already"),
        error => store_failure("saving the schedule", &error),
    }
}
