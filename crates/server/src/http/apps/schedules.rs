//! Schedules of apps.

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use sandbar_api::{error::ErrorEnvelope, reply::Envelope};
use sandbar_core::limits;
use sandbar_store::{AppScheduleRecord, AppTick};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::runs::{RunReply, idempotency_key, reply_of};
use crate::{
    app::{SharedApp, auth::Principal},
    http::{
        extract::Json,
        params::Params,
        reply::{self, Result},
        time::rfc3339,
    },
};

/// A schedule as it is.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduleView {
    id: String,
    name: String,
    /// `api` or `manifest`: who keeps it.
    management_source: &'static str,
    enabled: bool,
    /// active, completed, expired, max_runs_reached, stopped, failed
    lifecycle_status: &'static str,
    lifecycle_reason: Option<String>,
    /// Runs that its ticks made.
    execution_count: u64,
    last_run_id: Option<String>,
    next_run_at: Option<String>,
    /// As in a manifest. Null: what is stored of it cannot be read.
    #[schema(value_type = Option<Object>)]
    spec: Value,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct ScheduleReply {
    schedule: ScheduleView,
}

#[derive(Debug, Serialize, ToSchema)]
struct ScheduleList {
    schedules: Vec<ScheduleView>,
}

/// What became of a tick, or of several skipped ones in a row.
#[derive(Debug, Serialize, ToSchema)]
struct TickView {
    scheduled_at: String,
    /// `fired` or `skipped`
    outcome: &'static str,
    reason: Option<String>,
    /// Of several skipped ones the first, and how many.
    first_scheduled_at: String,
    count: u64,
    decided_at: String,
    run_id: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct TickList {
    ticks: Vec<TickView>,
    /// `before` of the next page.
    next_before: Option<i64>,
}

/// `/api/v1/apps/{name}/schedules`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
        .routes(routes!(run))
        .routes(routes!(stop))
        .routes(routes!(resume))
        .routes(routes!(ticks))
}

/// The schedules of an app by name: those of its manifest and those of clients.
#[utoipa::path(get, path = "/api/v1/apps/{name}/schedules", tag = "apps", params(("name" = String, Path)), responses(
    (status = 200, body = Envelope<ScheduleList>), (status = 404, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>) -> Result<ScheduleList> {
    reply::ok(ScheduleList { schedules: app.app_schedules(&who, &name).await?.into_iter().map(view).collect() })
}

/// Make a schedule, written as in a manifest.
#[utoipa::path(post, path = "/api/v1/apps/{name}/schedules", tag = "apps", params(("name" = String, Path)), request_body = Object, responses(
    (status = 201, body = Envelope<ScheduleReply>), (status = 400, description = "details.diagnostics say what is wrong", body = ErrorEnvelope),
    (status = 404, body = ErrorEnvelope), (status = 409, description = "the name is taken, or nothing is deployed", body = ErrorEnvelope),
    (status = 422, description = "it never comes, or asks for what this server does not do", body = ErrorEnvelope), (status = 429, body = ErrorEnvelope),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>, Json(given): Json<Value>) -> Result<ScheduleReply> {
    let made = app.create_app_schedule(&who, &name, given).await?;
    reply::with_status(StatusCode::CREATED, ScheduleReply { schedule: view(made) })
}

/// A schedule, by name or id.
#[utoipa::path(get, path = "/api/v1/apps/{name}/schedules/{schedule}", tag = "apps", params(("name" = String, Path), ("schedule" = String, Path)), responses(
    (status = 200, body = Envelope<ScheduleReply>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path((name, schedule)): Path<(String, String)>) -> Result<ScheduleReply> {
    reply::ok(ScheduleReply { schedule: view(app.app_schedule(&who, &name, &schedule).await?) })
}

/// Change what is named of a schedule; `null` takes a key away. One that was stopped stays so until it is resumed, and one that the
/// manifest keeps is changed there.
#[utoipa::path(patch, path = "/api/v1/apps/{name}/schedules/{schedule}", tag = "apps", params(("name" = String, Path), ("schedule" = String, Path)), request_body = Object, responses(
    (status = 200, body = Envelope<ScheduleReply>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
    (status = 409, description = "the manifest keeps it, or another has its name", body = ErrorEnvelope),
    (status = 422, description = "it never comes, or asks for what this server does not do", body = ErrorEnvelope),
))]
async fn update(
    State(app): State<SharedApp>,
    who: Principal,
    Path((name, schedule)): Path<(String, String)>,
    Json(given): Json<Value>,
) -> Result<ScheduleReply> {
    reply::ok(ScheduleReply { schedule: view(app.update_app_schedule(&who, &name, &schedule, given).await?) })
}

/// Delete a schedule. What it ran is kept.
#[utoipa::path(delete, path = "/api/v1/apps/{name}/schedules/{schedule}", tag = "apps", params(("name" = String, Path), ("schedule" = String, Path)), responses(
    (status = 200, body = Envelope<Object>), (status = 404, body = ErrorEnvelope), (status = 409, description = "the manifest keeps it", body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path((name, schedule)): Path<(String, String)>) -> Result<Value> {
    app.delete_app_schedule(&who, &name, &schedule).await?;
    reply::ok(json!({ "deleted": true }))
}

/// Run now what the schedule runs, whether or not it is active. It counts as no tick.
#[utoipa::path(post, path = "/api/v1/apps/{name}/schedules/{schedule}/run", tag = "apps", params(("name" = String, Path), ("schedule" = String, Path)), responses(
    (status = 202, body = Envelope<RunReply>), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope), (status = 429, body = ErrorEnvelope),
))]
async fn run(State(app): State<SharedApp>, who: Principal, Path((name, schedule)): Path<(String, String)>, headers: HeaderMap) -> Result<RunReply> {
    let asked = app.run_app_schedule(&who, &name, &schedule, idempotency_key(&headers)?).await?;
    reply::with_status(StatusCode::ACCEPTED, reply_of(asked.run))
}

/// Let it come no more until it is resumed, whoever keeps it.
#[utoipa::path(post, path = "/api/v1/apps/{name}/schedules/{schedule}/stop", tag = "apps", params(("name" = String, Path), ("schedule" = String, Path)), responses(
    (status = 200, body = Envelope<ScheduleReply>), (status = 404, body = ErrorEnvelope),
))]
async fn stop(State(app): State<SharedApp>, who: Principal, Path((name, schedule)): Path<(String, String)>) -> Result<ScheduleReply> {
    reply::ok(ScheduleReply { schedule: view(app.stop_app_schedule(&who, &name, &schedule).await?) })
}

/// Let one that was stopped come again, from now on.
#[utoipa::path(post, path = "/api/v1/apps/{name}/schedules/{schedule}/resume", tag = "apps", params(("name" = String, Path), ("schedule" = String, Path)), responses(
    (status = 200, body = Envelope<ScheduleReply>), (status = 404, body = ErrorEnvelope), (status = 409, description = "it has ended", body = ErrorEnvelope),
))]
async fn resume(State(app): State<SharedApp>, who: Principal, Path((name, schedule)): Path<(String, String)>) -> Result<ScheduleReply> {
    reply::ok(ScheduleReply { schedule: view(app.resume_app_schedule(&who, &name, &schedule).await?) })
}

/// What became of each tick, the newest first. Skipped ones say why.
#[utoipa::path(get, path = "/api/v1/apps/{name}/schedules/{schedule}/ticks", tag = "apps", params(
    ("name" = String, Path), ("schedule" = String, Path), ("limit" = Option<u32>, Query, description = "1 to 200, default 50"), ("before" = Option<i64>, Query),
), responses((status = 200, body = Envelope<TickList>), (status = 404, body = ErrorEnvelope)))]
async fn ticks(State(app): State<SharedApp>, who: Principal, Path((name, schedule)): Path<(String, String)>, params: Params) -> Result<TickList> {
    let limit = params.integer("limit", limits::LIST_LIMIT_MIN..=limits::LIST_LIMIT_MAX)?.unwrap_or(limits::LIST_LIMIT_DEFAULT);
    let before = params.integer("before", 0..=i64::MAX)?;
    let ticks = app.app_ticks(&who, &name, &schedule, before, limit).await?;
    let next_before = ticks.last().filter(|_| ticks.len() == limit as usize).map(|last| last.tick.tick_ms);
    reply::ok(TickList { ticks: ticks.into_iter().map(tick).collect(), next_before })
}

fn view(record: AppScheduleRecord) -> ScheduleView {
    ScheduleView {
        id: record.id,
        name: record.name,
        management_source: record.keeper.as_str(),
        enabled: record.enabled,
        lifecycle_status: record.lifecycle.as_str(),
        lifecycle_reason: record.lifecycle_reason,
        execution_count: record.execution_count,
        last_run_id: record.last_run_id,
        next_run_at: record.due_at_ms.map(rfc3339),
        spec: serde_json::to_value(&record.spec).unwrap_or_default(),
        created_at: rfc3339(record.created_at_ms),
        updated_at: rfc3339(record.updated_at_ms),
    }
}

fn tick(AppTick { tick, decided_at_ms, run_id }: AppTick) -> TickView {
    TickView {
        scheduled_at: rfc3339(tick.tick_ms),
        outcome: if run_id.is_some() { "fired" } else { "skipped" },
        reason: tick.reason,
        first_scheduled_at: rfc3339(tick.first_tick_ms),
        count: tick.count,
        decided_at: rfc3339(decided_at_ms),
        run_id,
    }
}
