//! Runs that scripts are owed, those that were given up, and the ticks of schedules.

use axum::extract::{Path, State};
use sandbar_store::{JobState, ListedJob, ScriptTick};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::OptionalJson,
    params::Params,
    script_events::{cursor, limit, next_cursor},
    scripts::wire::{self, Data, Done, Failed, Page, Result},
    time::rfc3339,
};
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
};

/// `/api/jobs`, `/api/dead-letters` and `/api/functions/{id}/ticks`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(jobs))
        .routes(routes!(letters))
        .routes(routes!(redrive_all))
        .routes(routes!(redrive_one))
        .routes(routes!(forget))
        .routes(routes!(ticks))
}

/// A run that is or was owed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    id: String,
    function_id: String,
    version: u32,
    /// `event`, `cron` or `async`
    kind: &'static str,
    /// The id of the event, the moment of the tick, or the id of the run.
    source: String,
    /// `pending`, `running`, `succeeded`, `dead` or `dropped`
    state: &'static str,
    attempts: u32,
    /// Tries that the end of a server cut short; they are no attempts.
    interruptions: u32,
    /// When it is tried next; of one that waits.
    run_at: Option<String>,
    /// It is not tried again after this.
    give_up_at: String,
    /// How many scripts it came through.
    depth: u32,
    /// Bytes of what `ctx.data` is; 0 when it ended well or is not wanted any more. Its runs show it.
    input_bytes: u64,
    last_run_id: Option<String>,
    last_error: Option<String>,
    created_at: String,
    finished_at: Option<String>,
}

/// What became of a tick of a schedule.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TickView {
    /// The moment by the pattern.
    tick: String,
    /// Skipped ones in a row with one reason are one entry: the first of them.
    first_tick: String,
    /// And how many.
    count: u64,
    /// `fired` or `skipped`
    outcome: &'static str,
    /// Why it was skipped, or is late.
    reason: Option<String>,
    decided_at: String,
    job_id: Option<String>,
}

/// What is tried again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedriveRequest {
    /// Id or name; all functions without it.
    function: Option<String>,
}

/// How much is tried again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Redriven {
    redriven: usize,
}

/// Runs that are or were owed to scripts by events, schedules, and calls that nobody waits for, the newest first.
#[utoipa::path(get, path = "/api/jobs", tag = "scripts", operation_id = "list_script_jobs", params(
    ("function" = Option<String>, Query, description = "id or name"), ("state" = Option<String>, Query, description = "pending, running, succeeded, dead or dropped"),
    ("cursor" = Option<String>, Query, description = "nextCursor of the page before"), ("limit" = Option<u32>, Query, description = "1 to 200, default 50"),
), responses((status = 200, body = Page<JobView>), (status = 400, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed)))]
async fn jobs(State(app): State<SharedApp>, who: Principal, params: Params) -> Result<Page<JobView>> {
    let state = match params.text("state").map(JobState::named) {
        Some(None) => return Err(ApiError::bad_request(format!("state: must be one of {}", JobState::ALL.map(JobState::as_str).join(", ")))),
        known => known.flatten(),
    };
    page(&app, &who, &params, state).await
}

/// Runs that were given up, the newest first; they are kept for 90 days.
#[utoipa::path(get, path = "/api/dead-letters", tag = "scripts", operation_id = "list_script_dead_letters", params(
    ("function" = Option<String>, Query, description = "id or name"), ("cursor" = Option<String>, Query, description = "nextCursor of the page before"),
    ("limit" = Option<u32>, Query, description = "1 to 200, default 50"),
), responses((status = 200, body = Page<JobView>), (status = 403, body = Failed), (status = 404, body = Failed)))]
async fn letters(State(app): State<SharedApp>, who: Principal, params: Params) -> Result<Page<JobView>> {
    page(&app, &who, &params, Some(JobState::Dead)).await
}

async fn page(app: &SharedApp, who: &Principal, params: &Params, state: Option<JobState>) -> Result<Page<JobView>> {
    let (limit, before) = (limit(params)?, cursor(params)?);
    let jobs = app.script_jobs(who, params.text("function"), state, before, limit).await?;
    let next = jobs.last().filter(|_| jobs.len() == limit as usize).map(|last| next_cursor(last.job.created_at_ms, &last.job.id));
    wire::page(jobs.into_iter().map(job).collect(), next)
}

/// Try all dead letters again, or those of one function: from the first attempt on, with the version that is live now.
#[utoipa::path(post, path = "/api/dead-letters/redrive", tag = "scripts", operation_id = "redrive_script_dead_letters", request_body = RedriveRequest, responses(
    (status = 200, body = Data<Redriven>), (status = 403, body = Failed), (status = 404, body = Failed), (status = 429, body = Failed),
))]
async fn redrive_all(State(app): State<SharedApp>, who: Principal, OptionalJson(request): OptionalJson<RedriveRequest>) -> Result<Data<Redriven>> {
    wire::data(Redriven { redriven: app.script_redrive(&who, request.function.as_deref()).await? })
}

/// Try a dead letter again.
#[utoipa::path(post, path = "/api/dead-letters/{id}/redrive", tag = "scripts", operation_id = "redrive_script_dead_letter", params(("id" = String, Path)), responses(
    (status = 200, body = Data<Redriven>), (status = 403, body = Failed), (status = 404, body = Failed),
    (status = 409, description = "its function is gone or not active", body = Failed), (status = 429, body = Failed),
))]
async fn redrive_one(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Data<Redriven>> {
    app.script_redrive_one(&who, &id).await?;
    wire::data(Redriven { redriven: 1 })
}

/// Forget a dead letter.
#[utoipa::path(delete, path = "/api/dead-letters/{id}", tag = "scripts", operation_id = "delete_script_dead_letter", params(("id" = String, Path)), responses(
    (status = 200, body = Done), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn forget(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Done> {
    app.script_dead_letter_delete(&who, &id).await?;
    wire::done()
}

/// What became of the ticks of a schedule, the newest first: each fired or was skipped, with the reason.
#[utoipa::path(get, path = "/api/functions/{id}/ticks", tag = "scripts", operation_id = "list_script_ticks", params(
    ("id" = String, Path, description = "id or name"), ("cursor" = Option<String>, Query, description = "nextCursor of the page before"),
    ("limit" = Option<u32>, Query, description = "1 to 200, default 50"),
), responses((status = 200, body = Page<TickView>), (status = 403, body = Failed), (status = 404, body = Failed)))]
async fn ticks(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<Page<TickView>> {
    let (limit, before) = (limit(&params)?, params.integer("cursor", i64::MIN..=i64::MAX)?);
    let ticks = app.script_ticks(&who, &id, before, limit).await?;
    let next = ticks.last().filter(|_| ticks.len() == limit as usize).map(|last| last.tick.tick_ms.to_string());
    wire::page(ticks.into_iter().map(tick).collect(), next)
}

fn job(listed: ListedJob) -> JobView {
    let ListedJob { job, input_bytes } = listed;
    JobView {
        run_at: (job.state == JobState::Pending).then(|| rfc3339(job.run_at_ms)),
        input_bytes,
        id: job.id,
        function_id: job.script_id,
        version: job.version,
        kind: job.kind.as_str(),
        source: job.source,
        state: job.state.as_str(),
        attempts: job.attempts,
        interruptions: job.interruptions,
        give_up_at: rfc3339(job.give_up_at_ms),
        depth: job.depth,
        last_run_id: job.last_run_id,
        last_error: job.last_error,
        created_at: rfc3339(job.created_at_ms),
        finished_at: job.finished_at_ms.map(rfc3339),
    }
}

fn tick(row: ScriptTick) -> TickView {
    let ScriptTick { tick, decided_at_ms, job_id } = row;
    TickView {
        tick: rfc3339(tick.tick_ms),
        first_tick: rfc3339(tick.first_tick_ms),
        count: tick.count,
        outcome: if tick.fires { "fired" } else { "skipped" },
        reason: tick.reason,
        decided_at: rfc3339(decided_at_ms),
        job_id,
    }
}
