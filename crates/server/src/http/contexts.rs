//! Contexts: processes inside a sandbox.

use axum::extract::{Path, State};
use sandbar_api::{
    context::{
        ContextInputRequest, ContextListResponse, ContextOutput, ContextResponse, ContextStatsResponse, CreateContextRequest, DeletedResponse,
        ResizeContextRequest, ResizedResponse, SignalContextRequest, SignaledResponse, WrittenResponse,
    },
    error::ErrorEnvelope,
    reply::Envelope,
};
use sandbar_core::{limits, roles::Permission};
use sandbar_procd_api::{Input, PtySize, Signal};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    reply::{self, Result},
};
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
};

mod convert;
pub(crate) mod ws;

/// `/api/v1/sandboxes/{id}/contexts`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get, delete))
        .routes(routes!(restart))
        .routes(routes!(input))
        .routes(routes!(exec))
        .routes(routes!(resize))
        .routes(routes!(signal))
        .routes(routes!(stats))
        .routes(routes!(ws::attach))
}

/// A body that may hold code or input for a process.
type Large<T> = Json<T, { limits::INPUT_BODY_MAX_BYTES }>;

/// Start a command or a REPL. With `wait_until_done` the reply comes when it has ended; going away before aborts the
/// wait and not the process.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/contexts", tag = "contexts", params(("id" = String, Path)), request_body = CreateContextRequest, responses(
    (status = 201, body = Envelope<ContextResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
    (status = 429, description = "too many contexts", body = ErrorEnvelope), (status = 503, description = "paused and not to be woken", body = ErrorEnvelope),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, Json(request): Large<CreateContextRequest>) -> Result<ContextResponse> {
    who.require(Permission::SandboxWrite)?;
    let create = convert::create(request)?;
    let context = app.create_context(&who, &id, &create).await?;
    reply::created(convert::context(context))
}

/// The contexts of a sandbox.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/contexts", tag = "contexts", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<ContextListResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<ContextListResponse> {
    who.require(Permission::SandboxRead)?;
    let contexts = app.list_contexts(&who, &id).await?;
    reply::ok(ContextListResponse { contexts: contexts.into_iter().map(convert::context).collect() })
}

/// A context with its output so far.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/contexts/{ctx}", tag = "contexts", params(("id" = String, Path), ("ctx" = String, Path)), responses(
    (status = 200, body = Envelope<ContextResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path((id, ctx)): Path<(String, String)>) -> Result<ContextResponse> {
    who.require(Permission::SandboxRead)?;
    reply::ok(convert::context(app.get_context(&who, &id, &ctx).await?))
}

/// End a context's processes and forget it.
#[utoipa::path(delete, path = "/api/v1/sandboxes/{id}/contexts/{ctx}", tag = "contexts", params(("id" = String, Path), ("ctx" = String, Path)), responses(
    (status = 200, body = Envelope<DeletedResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path((id, ctx)): Path<(String, String)>) -> Result<DeletedResponse> {
    who.require(Permission::SandboxWrite)?;
    app.delete_context(&who, &id, &ctx).await?;
    reply::ok(DeletedResponse { deleted: true })
}

/// Start a context's program again, under the same id and with nothing remembered.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/contexts/{ctx}/restart", tag = "contexts", params(("id" = String, Path), ("ctx" = String, Path)), responses(
    (status = 200, body = Envelope<ContextResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn restart(State(app): State<SharedApp>, who: Principal, Path((id, ctx)): Path<(String, String)>) -> Result<ContextResponse> {
    who.require(Permission::SandboxWrite)?;
    reply::ok(convert::context(app.restart_context(&who, &id, &ctx).await?))
}

/// Write to a context's standard input, exactly what is given.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/contexts/{ctx}/input", tag = "contexts", params(("id" = String, Path), ("ctx" = String, Path)), request_body = ContextInputRequest, responses(
    (status = 200, body = Envelope<WrittenResponse>), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope), (status = 410, body = ErrorEnvelope),
))]
async fn input(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, ctx)): Path<(String, String)>,
    Json(request): Large<ContextInputRequest>,
) -> Result<WrittenResponse> {
    who.require(Permission::SandboxWrite)?;
    app.write_to_context(&who, &id, &ctx, &Input { data: request.data }).await?;
    reply::ok(WrittenResponse { written: true })
}

/// Run code in a REPL (or give input to a command) and wait until it is done.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/contexts/{ctx}/exec", tag = "contexts", params(("id" = String, Path), ("ctx" = String, Path)), request_body = ContextInputRequest, responses(
    (status = 200, body = Envelope<ContextOutput>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 408, body = ErrorEnvelope), (status = 410, body = ErrorEnvelope),
))]
async fn exec(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, ctx)): Path<(String, String)>,
    Json(request): Large<ContextInputRequest>,
) -> Result<ContextOutput> {
    who.require(Permission::SandboxWrite)?;
    if request.data.is_empty() {
        return Err(ApiError::bad_request("data: must not be empty"));
    }
    let result = app.exec_in_context(&who, &id, &ctx, &Input { data: request.data }).await?;
    reply::ok(convert::exec_result(result))
}

/// Change the size of a context's terminal.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/contexts/{ctx}/resize", tag = "contexts", params(("id" = String, Path), ("ctx" = String, Path)), request_body = ResizeContextRequest, responses(
    (status = 200, body = Envelope<ResizedResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, description = "it has no terminal", body = ErrorEnvelope),
))]
async fn resize(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, ctx)): Path<(String, String)>,
    Json(request): Json<ResizeContextRequest>,
) -> Result<ResizedResponse> {
    who.require(Permission::SandboxWrite)?;
    let ResizeContextRequest { rows, cols } = request;
    if rows == 0 || cols == 0 {
        return Err(ApiError::bad_request("rows and cols must be at least 1"));
    }
    app.resize_context(&who, &id, &ctx, PtySize { rows, cols }).await?;
    reply::ok(ResizedResponse { resized: true })
}

/// Send a signal to a context's process group.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/contexts/{ctx}/signal", tag = "contexts", params(("id" = String, Path), ("ctx" = String, Path)), request_body = SignalContextRequest, responses(
    (status = 200, body = Envelope<SignaledResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn signal(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, ctx)): Path<(String, String)>,
    Json(request): Json<SignalContextRequest>,
) -> Result<SignaledResponse> {
    who.require(Permission::SandboxWrite)?;
    if request.signal.trim().is_empty() {
        return Err(ApiError::bad_request("signal: must not be empty"));
    }
    app.signal_context(&who, &id, &ctx, &Signal { signal: request.signal }).await?;
    reply::ok(SignaledResponse { signaled: true })
}

/// What a context's processes use.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/contexts/{ctx}/stats", tag = "contexts", params(("id" = String, Path), ("ctx" = String, Path)), responses(
    (status = 200, body = Envelope<ContextStatsResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn stats(State(app): State<SharedApp>, who: Principal, Path((id, ctx)): Path<(String, String)>) -> Result<ContextStatsResponse> {
    who.require(Permission::SandboxRead)?;
    let (context, stats) = app.context_stats(&who, &id, &ctx).await?;
    reply::ok(convert::stats(context, &stats))
}
