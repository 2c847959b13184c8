//! Sandboxes: claim, look, change, end.

use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
};
use sandbar_api::{
    error::ErrorEnvelope,
    reply::{Envelope, Message},
    sandbox::{
        ClaimRequest, ClaimResponse, ExecutionStateRequest, PauseResponse, RefreshRequest, RefreshResponse, ResumeResponse, SandboxListResponse,
        SandboxResponse, SandboxStatusResponse, UpdateRequest,
    },
};
use sandbar_core::{
    lifecycle::{self, Profile},
    limits,
    roles::Permission,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Json, OptionalJson},
    params::{Params, shown},
    render,
    reply::{self, Result},
};
use crate::{
    app::{SharedApp, auth::Principal, sandboxes::ListSandboxes},
    error::ApiError,
};

/// `/api/v1/sandboxes` and what hangs on one sandbox's life.
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(claim, list))
        .routes(routes!(get, update, delete))
        .routes(routes!(status))
        .routes(routes!(refresh))
        .routes(routes!(pause))
        .routes(routes!(hibernate))
        .routes(routes!(resume))
}

/// Claim a sandbox from a template. It is ready for work when the reply comes.
#[utoipa::path(post, path = "/api/v1/sandboxes", tag = "sandboxes", request_body = ClaimRequest, responses(
    (status = 201, body = Envelope<ClaimResponse>),
    (status = 400, body = ErrorEnvelope), (status = 404, description = "unknown template", body = ErrorEnvelope),
    (status = 429, body = ErrorEnvelope), (status = 503, body = ErrorEnvelope),
))]
async fn claim(
    State(app): State<SharedApp>,
    who: Principal,
    Extension(profile): Extension<Profile>,
    Json(request): Json<ClaimRequest>,
) -> Result<ClaimResponse> {
    who.require(Permission::SandboxCreate)?;
    let record = app.claim(&who, request).await?;
    reply::created(render::claimed(&record, profile))
}

/// List the team's sandboxes, newest first.
#[utoipa::path(get, path = "/api/v1/sandboxes", tag = "sandboxes", params(
    ("status" = Option<String>, Query, description = "starting, running, paused, cleaned, failed, terminating or completed"),
    ("template_id" = Option<String>, Query, description = "only those claimed from this template"),
    ("paused" = Option<bool>, Query, description = "only paused ones, or only others"),
    ("instances" = Option<bool>, Query, description = "also those that serve functions or build apps"),
    ("limit" = Option<u32>, Query, description = "1 to 200, default 50"),
    ("offset" = Option<u32>, Query, description = "rows to skip"),
), responses((status = 200, body = Envelope<SandboxListResponse>), (status = 400, body = ErrorEnvelope)))]
async fn list(State(app): State<SharedApp>, who: Principal, Extension(profile): Extension<Profile>, params: Params) -> Result<SandboxListResponse> {
    who.require(Permission::SandboxRead)?;
    let query = list_query(&params, profile)?;
    let (offset, limit) = (query.offset, query.limit);
    let page = app.list(&who, query).await?;
    let sandboxes: Vec<_> = page.sandboxes.iter().map(|record| render::summary(record, profile)).collect();
    let has_more = sandboxes.len() as u64 == u64::from(limit) && u64::from(offset) + (sandboxes.len() as u64) < page.total;
    reply::ok(SandboxListResponse { sandboxes, count: page.total, has_more })
}

/// A sandbox in full.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}", tag = "sandboxes", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<SandboxResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Extension(profile): Extension<Profile>, Path(id): Path<String>) -> Result<SandboxResponse> {
    who.require(Permission::SandboxRead)?;
    let record = app.get(&who, &id).await?;
    reply::ok(render::full(&record, profile, &app))
}

/// A sandbox's state.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/status", tag = "sandboxes", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<SandboxStatusResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn status(State(app): State<SharedApp>, who: Principal, Extension(profile): Extension<Profile>, Path(id): Path<String>) -> Result<SandboxStatusResponse> {
    who.require(Permission::SandboxRead)?;
    let record = app.get(&who, &id).await?;
    reply::ok(render::status(&record, profile))
}

/// Change what can be changed at runtime. Absent fields are kept.
#[utoipa::path(put, path = "/api/v1/sandboxes/{id}", tag = "sandboxes", params(("id" = String, Path)), request_body = UpdateRequest, responses(
    (status = 200, body = Envelope<SandboxResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn update(
    State(app): State<SharedApp>,
    who: Principal,
    Extension(profile): Extension<Profile>,
    Path(id): Path<String>,
    Json(request): Json<UpdateRequest>,
) -> Result<SandboxResponse> {
    who.require(Permission::SandboxWrite)?;
    let Some(config) = request.config else { return Err(ApiError::bad_request("config: the field is required")) };
    let record = app.update(&who, &id, config).await?;
    reply::ok(render::full(&record, profile, &app))
}

/// Arm ttl and hard_ttl anew, from now. The body may be empty.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/refresh", tag = "sandboxes", params(("id" = String, Path)), request_body = RefreshRequest, responses(
    (status = 200, body = Envelope<RefreshResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn refresh(
    State(app): State<SharedApp>,
    who: Principal,
    Extension(profile): Extension<Profile>,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<RefreshRequest>,
) -> Result<RefreshResponse> {
    who.require(Permission::SandboxWrite)?;
    let record = app.refresh(&who, &id, request.duration).await?;
    reply::ok(render::refreshed(&record, profile))
}

/// Stop the processes and keep the state: the memory as long as the machine has it, with and without `memory`. The
/// body may be empty.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/pause", tag = "sandboxes", params(("id" = String, Path)), request_body = ExecutionStateRequest, responses(
    (status = 200, body = Envelope<PauseResponse>), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn pause(
    State(app): State<SharedApp>,
    who: Principal,
    Extension(profile): Extension<Profile>,
    Path(id): Path<String>,
    OptionalJson(request): OptionalJson<ExecutionStateRequest>,
) -> Result<PauseResponse> {
    who.require(Permission::SandboxWrite)?;
    let record = app.pause(&who, &id, request.memory.unwrap_or_default()).await?;
    reply::ok(render::paused(&record, profile))
}

/// Give a paused sandbox's memory back now: its processes end, its files stay. Resume starts it over them.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/hibernate", tag = "sandboxes", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<PauseResponse>), (status = 404, body = ErrorEnvelope), (status = 409, description = "it is not paused", body = ErrorEnvelope),
))]
async fn hibernate(State(app): State<SharedApp>, who: Principal, Extension(profile): Extension<Profile>, Path(id): Path<String>) -> Result<PauseResponse> {
    who.require(Permission::SandboxWrite)?;
    let record = app.hibernate(&who, &id).await?;
    reply::ok(render::paused(&record, profile))
}

/// Let a paused sandbox go on, or start a new runtime. The body may be empty.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/resume", tag = "sandboxes", params(("id" = String, Path)), request_body = ExecutionStateRequest, responses(
    (status = 200, body = Envelope<ResumeResponse>), (status = 404, body = ErrorEnvelope), (status = 503, body = ErrorEnvelope),
))]
async fn resume(
    State(app): State<SharedApp>,
    who: Principal,
    Extension(profile): Extension<Profile>,
    Path(id): Path<String>,
    OptionalJson(ExecutionStateRequest { memory: _ }): OptionalJson<ExecutionStateRequest>,
) -> Result<ResumeResponse> {
    who.require(Permission::SandboxWrite)?;
    let record = app.resume(&who, &id).await?;
    reply::ok(render::resumed(&record, profile))
}

/// End a sandbox for good: processes, files, identity. 202 at the root, 200 in the May profile.
#[utoipa::path(delete, path = "/api/v1/sandboxes/{id}", tag = "sandboxes", params(("id" = String, Path)), responses(
    (status = 202, body = Envelope<Message>), (status = 404, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Extension(profile): Extension<Profile>, Path(id): Path<String>) -> Result<Message> {
    who.require(Permission::SandboxDelete)?;
    app.delete(&who, &id).await?;
    let status = match profile {
        Profile::Current => StatusCode::ACCEPTED,
        Profile::May => StatusCode::OK,
    };
    reply::with_status(status, Message { message: "sandbox terminated successfully".to_owned() })
}

fn list_query(params: &Params, profile: Profile) -> std::result::Result<ListSandboxes, ApiError> {
    let statuses = match params.text("status") {
        None => None,
        Some(word) => Some(lifecycle::statuses_named(word, profile).ok_or_else(|| {
            let known = "starting, running, paused, cleaned, failed, terminating, completed";
            ApiError::bad_request(format!("status: {} is not one of {known}", shown(word)))
        })?),
    };
    Ok(ListSandboxes {
        statuses,
        template_id: params.text("template_id").map(str::to_owned),
        paused: params.boolean("paused")?,
        instances: params.boolean("instances")?.unwrap_or(false),
        limit: params.integer("limit", limits::LIST_LIMIT_MIN..=limits::LIST_LIMIT_MAX)?.unwrap_or(limits::LIST_LIMIT_DEFAULT),
        offset: params.integer("offset", 0..=limits::LIST_OFFSET_MAX)?.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use sandbar_core::lifecycle::Status;

    use super::*;

    #[test]
    fn the_list_takes_filters_and_refuses_what_it_does_not_know() {
        let query = |text| list_query(&Params::parse(text), Profile::Current);
        let plain = query("status=&template_id=").expect("empty filters are none");
        assert_eq!((plain.limit, plain.offset, plain.paused, plain.statuses), (50, 0, None, None));
        let full = query("status=failed&template_id=default&paused=F&limit=200&offset=7").expect("valid");
        assert_eq!((full.limit, full.offset, full.paused, full.statuses), (200, 7, Some(false), Some(vec![Status::Failed])));
        for text in ["limit=abc", "limit=0", "limit=201", "offset=-1", "offset=xyz", "offset=4294967296", "status=sleeping", "paused=maybe"] {
            assert_eq!(query(text).expect_err(text).status(), 400);
        }
    }
}
