//! From what somebody wishes to a run that waits.

use std::collections::BTreeMap;

use sandbar_core::{
    app::{
        Desired, canonical,
        inputs::{InputSchema, without_schema},
        manifest::{Block, Concurrency, ConcurrencyPolicy, Manifest, Runtime, START, Target},
        receipt::{Kind, check_budget},
        run::{Caller, CleanupPolicy, Ground, Group, GroupPolicy, Known, Place, RunCause, RunDoc, Terms},
        shell,
    },
    limits::{app_runs as limits, apps as manifest_limits},
    validate::Violation,
};
use sandbar_store::{AppRecord, AppVersionRecord, NewAppRun};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::uploads::{self, WishFile};
use crate::{
    app::{
        App,
        apps::manifest_of,
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

/// What is to be run, and how; what is not said is as the manifest says.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub target: Target,
    pub input: Option<Value>,
    /// Properties of the input that are files.
    pub files: Vec<WishFile>,
    pub place: Place,
    pub cleanup: CleanupPolicy,
    /// So many sandboxes of its schedule are kept when they are stopped.
    pub keep: Option<u32>,
    /// Stronger than the action's own.
    pub env: BTreeMap<String, String>,
    pub timeout_s: Option<u64>,
    pub requires_start: Option<bool>,
    pub idempotency_key: Option<String>,
    pub caused_by: Option<Caller>,
    /// What it may cost, in millionths of a dollar.
    pub max_spend_micros: Option<u64>,
}

/// A command of the manifest, found by what was wished.
struct Found<'a> {
    name: String,
    command: &'a str,
    block: Option<&'a Block>,
    concurrency: Option<&'a Concurrency>,
    timeout_s: u64,
}

impl App {
    pub(super) async fn new_run(&self, app: &AppRecord, wish: Wish) -> Result<NewAppRun, ApiError> {
        let version = self.version_to_run(app, wish.place).await?;
        // Told at once, and not by a run that fails.
        let manifest = manifest_of(&version)?;
        self.app_given_all(app, &manifest).await?;
        let mut run = plan(app, &version, &wish, RunCause::Api, now_ms())?;
        self.seal_said(&mut run, &manifest, &wish.env)?;
        Ok(run)
    }

    /// The version that a run of an app is of now: that of the app's sandbox, where it is to run there and the app is online, else the live
    /// one, of which the sandbox of an app that is offline is made anew.
    pub(crate) async fn version_to_run(&self, app: &AppRecord, place: Place) -> Result<AppVersionRecord, ApiError> {
        let failed = |e| store_failure("reading a version", &e);
        let online = match place {
            Place::App if app.desired == Desired::Online => self.store.app_sandbox_online(&app.id).await.map_err(failed)?.map(|sandbox| sandbox.version),
            Place::App | Place::Fresh => None,
        };
        let number = online.or(app.live_version).ok_or_else(|| ApiError::conflict(format!("app {:?} has no version that is ready; deploy one", app.name)))?;
        let found = self.store.app_version(&app.id, number).await.map_err(failed)?;
        found.ok_or_else(|| ApiError::not_found("version", &number.to_string()))
    }
}

impl App {
    /// Whether a run can be held to what it may cost; 422 when it cannot.
    pub(crate) fn check_spend(&self, max_micros: Option<u64>) -> Result<(), ApiError> {
        let Some(max_micros) = max_micros else { return Ok(()) };
        check_budget(self.receipts.prices().as_deref(), max_micros).map_err(|why| {
            let text = format!("budget.maxUsd: {why}");
            ApiError::with_status(422, sandbar_api::ErrorCode::BadRequest, text).with_details(json!({ "reason": "no_budget" }))
        })
    }
}

/// The run of a wish: its command, its input with defaults, its group.
pub(crate) fn plan(app: &AppRecord, version: &AppVersionRecord, wish: &Wish, cause: RunCause, now_ms: i64) -> Result<NewAppRun, ApiError> {
    let manifest = manifest_of(version)?;
    let found = find(&manifest, &wish.target)?;
    // The schema is that of actions; the other kinds are only asked for by schedules.
    let (input, files) = match wish.target {
        Target::Action { .. } => {
            let (given, files) = uploads::place(&manifest, wish.input.as_ref(), &wish.files).map_err(refused)?;
            (input(&manifest, given.as_ref())?, files)
        }
        Target::Start | Target::Service { .. } | Target::Command { .. } => (without_schema(wish.input.as_ref()).map_err(refused)?, Vec::new()),
    };
    let env = shell::said(&manifest, found.block, &wish.env);
    let requires_start = wish.requires_start.unwrap_or_else(|| found.block.is_some_and(|block| block.requires_start));
    if requires_start && manifest.start_command().is_none() {
        return Err(ApiError::bad_request("requires_start: the app has no start command"));
    }
    let artifact_paths = match found.block {
        Some(block) => manifest.artifact_paths(block).to_vec(),
        None => manifest.artifacts.paths.clone(),
    };
    let doc = RunDoc {
        command: found.command.to_owned(),
        cwd: found.block.and_then(|block| block.cwd.clone()),
        env,
        sealed_env: BTreeMap::new(),
        timeout_s: wish.timeout_s.unwrap_or(found.timeout_s),
        requires_start,
        place: wish.place,
        cleanup: wish.cleanup,
        keep: wish.keep,
        artifact_paths,
        input_sha256: if files.is_empty() { canonical::sha256(&input) } else { canonical::sha256(&json!({ "input": input, "files": files })) },
        files,
        manifest_sha256: version.manifest_sha256.clone(),
        source_sha256: version.source_sha256.clone(),
        caused_by: wish.caused_by.as_ref().map(|caller| caller.id().to_owned()),
        caller: wish.caused_by.clone(),
        kind: match wish.target {
            Target::Start => Kind::Start,
            Target::Action { .. } => Kind::Action,
            Target::Service { .. } => Kind::Service,
            Target::Command { .. } => Kind::Command,
        },
        schedule: None,
        ground: ground(version, &manifest),
        max_spend_micros: wish.max_spend_micros,
        terms: Terms::default(),
        known: Known::default(),
    };
    Ok(NewAppRun {
        id: uuid::Uuid::now_v7().to_string(),
        team_id: app.team_id.clone(),
        app_id: app.id.clone(),
        app_name: app.name.clone(),
        version: version.number,
        group: found.concurrency.map(|concurrency| group(&found.name, concurrency)),
        action: found.name,
        cause,
        schedule_id: None,
        tick_ms: None,
        key: wish.idempotency_key.clone().map(|key| (key, request_sha256(wish))),
        created_at_ms: now_ms,
        doc,
        input: input.to_string(),
    })
}

fn find<'a>(manifest: &'a Manifest, target: &'a Target) -> Result<Found<'a>, ApiError> {
    let long = u64::from(manifest_limits::APP_COMMAND_TIMEOUT_MAX_S);
    match target {
        Target::Action { name } => {
            let action = manifest.find_action(name).ok_or_else(|| {
                let names: Vec<_> = manifest.actions.iter().map(|action| action.name.as_str()).collect();
                let known = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
                ApiError::bad_request(format!("action: the app has no action {}; {known}", crate::http::params::shown(name)))
            })?;
            let timeout_s = action.block.timeout_seconds.map_or(limits::RUN_TIMEOUT_DEFAULT_S, u64::from);
            Ok(Found { name: name.clone(), command: &action.command, block: Some(&action.block), concurrency: action.concurrency.as_ref(), timeout_s })
        }
        Target::Start => {
            let start = manifest.start.as_ref().and_then(|start| Some((start.command.as_deref()?, &start.block)));
            let (command, block) = start.ok_or_else(|| ApiError::bad_request("the app has no start command"))?;
            let timeout_s = block.timeout_seconds.map_or(long, u64::from);
            Ok(Found { name: START.to_owned(), command, block: Some(block), concurrency: None, timeout_s })
        }
        Target::Service { name } => {
            let service =
                manifest.find_service(name).ok_or_else(|| ApiError::bad_request(format!("the app has no service {}", crate::http::params::shown(name))))?;
            let timeout_s = service.block.timeout_seconds.map_or(long, u64::from);
            Ok(Found { name: name.clone(), command: &service.command, block: Some(&service.block), concurrency: None, timeout_s })
        }
        Target::Command { command } => {
            Ok(Found { name: "command".to_owned(), command, block: None, concurrency: None, timeout_s: limits::RUN_TIMEOUT_DEFAULT_S })
        }
    }
}

/// The input with its defaults, or everything that is wrong with it.
fn input(manifest: &Manifest, given: Option<&Value>) -> Result<Value, ApiError> {
    let applied = match &manifest.inputs.schema {
        None => without_schema(given),
        Some(schema) => match InputSchema::compile(schema) {
            Ok(schema) => schema.apply(given),
            // It was looked at when the version was deployed.
            Err(problems) => {
                let text = problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; ");
                return Err(ApiError::internal("reading the schema of an app's inputs", &text));
            }
        },
    };
    applied.map_err(refused)
}

/// 422 with the path of each thing that is wrong.
fn refused(wrong: Vec<Violation>) -> ApiError {
    let text = wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let list: Vec<_> = wrong.iter().map(|violation| json!({ "field": violation.path, "message": violation.message })).collect();
    ApiError::with_status(422, sandbar_api::ErrorCode::BadRequest, text).with_details(json!({ "reason": "input_invalid", "violations": list }))
}

/// What the version's files were built to.
fn ground(version: &AppVersionRecord, manifest: &Manifest) -> Option<Ground> {
    let base = version.base.as_ref()?;
    let snapshot_id = match &manifest.runtime {
        Runtime::Snapshot(id) => Some(id.clone()),
        Runtime::Base(_) | Runtime::Image(_) => None,
    };
    let layers = base.layers.iter().map(|layer| layer.root_id.clone()).collect();
    Some(Ground { template_id: version.template_id.clone(), snapshot_id, image: base.image.clone(), layers })
}

/// Groups of the manifest and those of single actions do not meet.
fn group(action: &str, concurrency: &Concurrency) -> Group {
    let name = match &concurrency.group {
        Some(group) => format!("group:{group}"),
        None => format!("action:{action}"),
    };
    let policy = match concurrency.policy {
        ConcurrencyPolicy::Queue => GroupPolicy::Queue,
        ConcurrencyPolicy::Skip => GroupPolicy::Skip,
        ConcurrencyPolicy::Cancel => GroupPolicy::Cancel,
    };
    Group { name, max: concurrency.max.max(1), policy }
}

/// What two requests with one key have to have in common. What the manifest adds is not of the request.
pub(super) fn request_sha256(wish: &Wish) -> String {
    let Wish { target, input, files, place, cleanup, keep: _, env, timeout_s, requires_start, idempotency_key: _, caused_by: _, max_spend_micros } = wish;
    let mut request = json!([target, input, place, cleanup, env, timeout_s, requires_start, max_spend_micros]);
    if let Some(request) = request.as_array_mut().filter(|_| !files.is_empty()) {
        request.push(files.iter().map(|file| json!([file.input, file.filename, file.content_type, file.sha256])).collect());
    }
    hex::encode(Sha256::digest(canonical::text(&request)))
}
