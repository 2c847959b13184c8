//! Runs of functions: looked at, and run again.

use axum::extract::{Path, State};
use sandbar_core::{limits, script::RunTrigger};
use sandbar_store::{RunFilter, RunStatus};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::OptionalJson,
    params::{Params, shown},
    scripts::{
        render::{self, InvocationView, InvokeResult, RunView},
        require_admin,
        wire::{self, Data, Failed, Page, Result},
    },
};
use crate::{
    app::{
        App, SharedApp,
        auth::Principal,
        scripts::invoke::{Caller, Sight},
    },
    error::ApiError,
};

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReplayRequest {
    /// None: the version that ran then.
    version: Option<u32>,
}

/// What a replay came to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ReplayView {
    replay_of: String,
    result: InvokeResult,
    /// Whether it came to the same.
    same: bool,
    /// In what it differs.
    differences: Vec<String>,
}

/// A call that nobody waited for, for admins and for whoever made it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Invocation {
    Run(Box<RunView>),
    Result(Box<InvocationView>),
}

/// `/api/runs`, `/api/functions/{id}/runs` and `/api/invocations`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(list_of_function))
        .routes(routes!(get_of_function))
        .routes(routes!(get))
        .routes(routes!(get_invocation))
        .routes(routes!(replay))
}

/// Runs of the team, the newest first.
#[utoipa::path(get, path = "/api/runs", tag = "scripts", params(
    ("function" = Option<String>, Query, description = "id or name"), ("status" = Option<String>, Query), ("trigger" = Option<String>, Query),
    ("version" = Option<u32>, Query), ("code" = Option<String>, Query), ("since" = Option<String>, Query), ("until" = Option<String>, Query),
    ("logs" = Option<bool>, Query, description = "with what they logged"), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query),
), responses((status = 200, body = Page<RunView>), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed)))]
async fn list(State(app): State<SharedApp>, who: Principal, params: Params) -> Result<Page<RunView>> {
    require_admin(&who)?;
    let script_id = match params.text("function") {
        Some(function) => Some(script_id(&app, &who, function).await?),
        None => None,
    };
    listed(&app, &who, &params, script_id).await
}

/// Runs of a function, the newest first.
#[utoipa::path(get, path = "/api/functions/{id}/runs", tag = "scripts", params(("id" = String, Path, description = "id or name"),
    ("status" = Option<String>, Query), ("trigger" = Option<String>, Query), ("version" = Option<u32>, Query), ("code" = Option<String>, Query),
    ("since" = Option<String>, Query), ("until" = Option<String>, Query), ("logs" = Option<bool>, Query), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query),
), responses((status = 200, body = Page<RunView>), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed)))]
async fn list_of_function(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<Page<RunView>> {
    require_admin(&who)?;
    let script_id = script_id(&app, &who, &id).await?;
    listed(&app, &who, &params, Some(script_id)).await
}

/// A whole run: what it was given, what it returned, logged and asked for.
#[utoipa::path(get, path = "/api/runs/{id}", tag = "scripts", params(("id" = String, Path)), responses(
    (status = 200, body = Data<RunView>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Data<RunView>> {
    require_admin(&who)?;
    wire::data(render::run(app.script_run(&who, &id).await?, true))
}

/// A whole run of a function.
#[utoipa::path(get, path = "/api/functions/{id}/runs/{run}", tag = "scripts", params(("id" = String, Path, description = "id or name"), ("run" = String, Path)), responses(
    (status = 200, body = Data<RunView>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn get_of_function(State(app): State<SharedApp>, who: Principal, Path((id, run)): Path<(String, String)>) -> Result<Data<RunView>> {
    require_admin(&who)?;
    let script_id = script_id(&app, &who, &id).await?;
    let found = app.script_run(&who, &run).await?;
    if found.script_id != script_id {
        return Err(ApiError::not_found("run", &run));
    }
    wire::data(render::run(found, true))
}

/// A call that nobody waited for. Admins see the whole run; whoever made it sees what came of it: a member, the holder of a key of the
/// function, or, of a call that nobody was named for, whoever knows its id.
#[utoipa::path(get, path = "/api/invocations/{id}", tag = "scripts", security((), ("bearer" = [])), params(("id" = String, Path)), responses(
    (status = 200, body = Data<Invocation>), (status = 401, body = Failed), (status = 404, body = Failed),
))]
async fn get_invocation(State(app): State<SharedApp>, caller: Caller, Path(id): Path<String>) -> Result<Data<Invocation>> {
    let (run, sight) = app.script_invocation(caller, &id).await?;
    wire::data(match sight {
        Sight::Whole => Invocation::Run(Box::new(render::run(run, true))),
        Sight::Result | Sight::Answer => Invocation::Result(Box::new(render::invocation(&run, sight))),
    })
}

/// Run a run again with what it was told then (answers of `ctx`, clock and chance), under its version or another. Nothing goes out.
#[utoipa::path(post, path = "/api/runs/{id}/replay", tag = "scripts", params(("id" = String, Path)), request_body = ReplayRequest, responses(
    (status = 200, body = Data<ReplayView>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed), (status = 409, body = Failed),
))]
async fn replay(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<ReplayRequest>,
) -> Result<Data<ReplayView>> {
    require_admin(&who)?;
    let replayed = app.replay_script(&who, &id, request.version).await?;
    let value = replayed.outcome.result.ok().flatten();
    wire::data(ReplayView {
        replay_of: id,
        result: render::result(&replayed.run, value),
        same: replayed.differences.is_empty(),
        differences: replayed.differences,
    })
}

async fn listed(app: &App, who: &Principal, params: &Params, script_id: Option<String>) -> Result<Page<RunView>> {
    let named = |name: &str, all: &[&str]| match params.text(name) {
        None => Ok(None),
        Some(text) if all.contains(&text) => Ok(Some(text)),
        Some(text) => Err(ApiError::bad_request(format!("{name}: {} is none of {}", shown(text), all.join(", ")))),
    };
    let limit = params.integer("limit", limits::LIST_LIMIT_MIN..=limits::LIST_LIMIT_MAX)?.unwrap_or(limits::LIST_LIMIT_DEFAULT);
    let filter = RunFilter {
        script_id,
        status: named("status", &RunStatus::ALL.map(RunStatus::as_str))?.and_then(RunStatus::named),
        trigger: named("trigger", &RunTrigger::ALL.map(RunTrigger::as_str))?.and_then(RunTrigger::named),
        version: params.integer("version", 1..=u32::MAX)?,
        error_code: params.text("code").map(str::to_owned),
        since_ms: params.time_ms("since")?,
        until_ms: params.time_ms("until")?,
        after: params.text("cursor").map(read_cursor).transpose()?,
        // One more shows whether there is another page.
        limit: limit + 1,
    };
    let mut runs = app.script_runs(who, filter, params.boolean("logs")?.unwrap_or(false)).await?;
    let more = runs.len() > limit as usize;
    runs.truncate(limit as usize);
    let next = runs.last().filter(|_| more).map(|run| format!("{}_{}", run.created_at_ms, run.id));
    wire::page(runs.into_iter().map(|run| render::run(run, false)).collect(), next)
}

fn read_cursor(text: &str) -> std::result::Result<(i64, String), ApiError> {
    let read = text.split_once('_').and_then(|(ms, id)| Some((ms.parse().ok()?, id.to_owned())));
    read.ok_or_else(|| ApiError::bad_request(format!("cursor: {} is no nextCursor of a page", shown(text))))
}

/// Also of a function that is gone, by its id, as long as there are runs of it.
async fn script_id(app: &App, who: &Principal, id_or_name: &str) -> std::result::Result<String, ApiError> {
    match app.script(who, id_or_name).await {
        Ok(whole) => Ok(whole.script.id),
        Err(error) if error.status() == 404 && uuid::Uuid::parse_str(id_or_name).is_ok() => {
            let any = RunFilter { script_id: Some(id_or_name.to_owned()), limit: 1, ..RunFilter::default() };
            if app.script_runs(who, any, false).await?.is_empty() { Err(error) } else { Ok(id_or_name.to_owned()) }
        }
        Err(error) => Err(error),
    }
}
