//! Schedules of apps.

use axum::{
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use sandbar_api::{error::ErrorEnvelope, reply::Envelope};
use sandbar_core::limits;
use sandbar_store::{AppLastRun, AppScheduleRecord, AppTick};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::runs::{REPLAYED, RunReply, idempotency_key, reply_of};
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
    http::{
        extract::{Json, OptionalJson},
        params::{Params, visible},
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
    /// The newest run, be it of a tick or of now.
    last_run_id: Option<String>,
    /// When that was asked for, as long as it is kept.
    last_run_at: Option<String>,
    /// `queued`, `running`, `succeeded`, `failed`, `timed_out` or `cancelled`.
    last_run_status: Option<&'static str>,
    next_run_at: Option<String>,
    /// As in a manifest. Null: what is stored of it cannot be read.
    #[schema(value_type = Option<Object>)]
    spec: Value,
    created_at: String,
    updated_at: String,
}

/// A run of now; an empty body asks for one, too.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AppScheduleRunRequest)]
struct RunNowRequest {
    /// As the header `Idempotency-Key`; where both are given they say the same. `idempotencyKey` is the same, too.
    #[serde(default, alias = "idempotencyKey")]
    idempotency_key: Option<String>,
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
    let schedules = app.app_schedules(&who, &name).await?;
    reply::ok(ScheduleList { schedules: views(&app, schedules).await? })
}

/// Make a schedule, written as in a manifest.
#[utoipa::path(post, path = "/api/v1/apps/{name}/schedules", tag = "apps", params(("name" = String, Path)), request_body = Object, responses(
    (status = 201, body = Envelope<ScheduleReply>), (status = 400, description = "details.diagnostics say what is wrong", body = ErrorEnvelope),
    (status = 404, body = ErrorEnvelope), (status = 409, description = "the name is taken, or nothing is deployed", body = ErrorEnvelope),
    (status = 422, description = "it never comes, or asks for what this server does not do", body = ErrorEnvelope), (status = 429, body = ErrorEnvelope),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Path(name): Path<String>, Json(given): Json<Value>) -> Result<ScheduleReply> {
    let made = app.create_app_schedule(&who, &name, given).await?;
    reply::with_status(StatusCode::CREATED, ScheduleReply { schedule: view(made, None) })
}

/// A schedule, by name or id.
#[utoipa::path(get, path = "/api/v1/apps/{name}/schedules/{schedule}", tag = "apps", params(("name" = String, Path), ("schedule" = String, Path)), responses(
    (status = 200, body = Envelope<ScheduleReply>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path((name, schedule)): Path<(String, String)>) -> Result<ScheduleReply> {
    shown(&app, app.app_schedule(&who, &name, &schedule).await?).await
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
    shown(&app, app.update_app_schedule(&who, &name, &schedule, given).await?).await
}

/// Delete a schedule. What it ran is kept.
#[utoipa::path(delete, path = "/api/v1/apps/{name}/schedules/{schedule}", tag = "apps", params(("name" = String, Path), ("schedule" = String, Path)), responses(
    (status = 200, body = Envelope<Object>), (status = 404, body = ErrorEnvelope), (status = 409, description = "the manifest keeps it", body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path((name, schedule)): Path<(String, String)>) -> Result<Value> {
    app.delete_app_schedule(&who, &name, &schedule).await?;
    reply::ok(json!({ "deleted": true }))
}

/// Run now what the schedule runs, whether or not it is active. It counts as no tick. With a key the same request makes one run, as long
/// as that is kept.
#[utoipa::path(post, path = "/api/v1/apps/{name}/schedules/{schedule}/run", tag = "apps", params(("name" = String, Path), ("schedule" = String, Path)), request_body = RunNowRequest, responses(
    (status = 202, body = Envelope<RunReply>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
    (status = 409, body = ErrorEnvelope), (status = 429, body = ErrorEnvelope),
))]
async fn run(
    State(app): State<SharedApp>,
    who: Principal,
    Path((name, schedule)): Path<(String, String)>,
    headers: HeaderMap,
    OptionalJson(request): OptionalJson<RunNowRequest>,
) -> std::result::Result<Response, ApiError> {
    let key = key_of(idempotency_key(&headers)?, request.idempotency_key.as_deref())?;
    let asked = app.run_app_schedule(&who, &name, &schedule, key).await?;
    let mut response = reply::with_status(StatusCode::ACCEPTED, reply_of(asked.run))?.into_response();
    if asked.replayed {
        response.headers_mut().insert(REPLAYED.clone(), HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The key of a request that may say it in its header, in its body, or in both.
fn key_of(header: Option<String>, body: Option<&str>) -> std::result::Result<Option<String>, ApiError> {
    let Some(body) = body.map(|body| visible("idempotency_key", body)).transpose()? else { return Ok(header) };
    if header.is_some_and(|header| header != body) {
        return Err(ApiError::bad_request("idempotency_key: is another key than that of the header Idempotency-Key; say one of them, or the same"));
    }
    Ok(Some(body))
}

/// Let it come no more until it is resumed, whoever keeps it.
#[utoipa::path(post, path = "/api/v1/apps/{name}/schedules/{schedule}/stop", tag = "apps", params(("name" = String, Path), ("schedule" = String, Path)), responses(
    (status = 200, body = Envelope<ScheduleReply>), (status = 404, body = ErrorEnvelope),
))]
async fn stop(State(app): State<SharedApp>, who: Principal, Path((name, schedule)): Path<(String, String)>) -> Result<ScheduleReply> {
    shown(&app, app.stop_app_schedule(&who, &name, &schedule).await?).await
}

/// Let one that was stopped come again, from now on.
#[utoipa::path(post, path = "/api/v1/apps/{name}/schedules/{schedule}/resume", tag = "apps", params(("name" = String, Path), ("schedule" = String, Path)), responses(
    (status = 200, body = Envelope<ScheduleReply>), (status = 404, body = ErrorEnvelope), (status = 409, description = "it has ended", body = ErrorEnvelope),
))]
async fn resume(State(app): State<SharedApp>, who: Principal, Path((name, schedule)): Path<(String, String)>) -> Result<ScheduleReply> {
    shown(&app, app.resume_app_schedule(&who, &name, &schedule).await?).await
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

async fn views(app: &SharedApp, schedules: Vec<AppScheduleRecord>) -> std::result::Result<Vec<ScheduleView>, ApiError> {
    let Some(first) = schedules.first() else { return Ok(Vec::new()) };
    let mut last = app.app_schedules_last_runs(&first.app_id).await?;
    Ok(schedules.into_iter().map(|schedule| (last.remove(&schedule.id), schedule)).map(|(last, schedule)| view(schedule, last)).collect())
}

async fn shown(app: &SharedApp, schedule: AppScheduleRecord) -> Result<ScheduleReply> {
    let last = app.app_schedules_last_runs(&schedule.app_id).await?.remove(&schedule.id);
    reply::ok(ScheduleReply { schedule: view(schedule, last) })
}

fn view(record: AppScheduleRecord, last: Option<AppLastRun>) -> ScheduleView {
    let (last_run_id, last_run_at, last_run_status) = match last {
        Some(last) => (Some(last.run_id), Some(rfc3339(last.created_at_ms)), Some(last.status.as_str())),
        None => (record.last_run_id, None, None),
    };
    ScheduleView {
        id: record.id,
        name: record.name,
        management_source: record.keeper.as_str(),
        enabled: record.enabled,
        lifecycle_status: record.lifecycle.as_str(),
        lifecycle_reason: record.lifecycle_reason,
        execution_count: record.execution_count,
        last_run_id,
        last_run_at,
        last_run_status,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_said_in_one_way_or_the_same_in_both() {
        type Key = Option<&'static str>;
        let table: [(Key, Key, std::result::Result<Key, ()>); 7] = [
            (None, None, Ok(None)),
            (Some("k"), None, Ok(Some("k"))),
            (None, Some("k"), Ok(Some("k"))),
            (Some("k"), Some(" k"), Ok(Some("k"))),
            (Some("k"), Some("other"), Err(())),
            (None, Some(""), Err(())),
            (None, Some("\u{e9}"), Err(())),
        ];
        for (header, body, expected) in table {
            let found = key_of(header.map(str::to_owned), body);
            assert_eq!(found.as_ref().map(Option::as_deref).map_err(|_| ()), expected, "{header:?} {body:?}");
        }
    }
}
