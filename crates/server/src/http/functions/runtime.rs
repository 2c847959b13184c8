//! What serves a function.

use axum::extract::{Path, State};
use sandbar_api::{
    error::ErrorEnvelope,
    function::{FunctionEvent, FunctionEventListData, FunctionRuntimeData},
    reply::Envelope,
};
use sandbar_core::roles::Permission;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::render;
use crate::{
    app::{SharedApp, auth::Principal},
    http::{
        reply::{self, Result},
        time::rfc3339,
    },
};

pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(get)).routes(routes!(restart)).routes(routes!(recycle)).routes(routes!(events))
}

/// What serves a function now: its instances, what happened to them last, and why there is none.
#[utoipa::path(get, path = "/api/v1/functions/{id}/runtime", tag = "functions", operation_id = "get_function_runtime", params(("id" = String, Path, description = "id or slug")), responses(
    (status = 200, body = Envelope<FunctionRuntimeData>), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<FunctionRuntimeData> {
    who.require(Permission::FunctionRead)?;
    reply::ok(FunctionRuntimeData { runtime: render::runtime(&app.function_runtime(&who, &id).await?) })
}

/// Replace the instances of a function. Others take over before those that serve now end; no request is lost. A failure that keeps
/// instances from being started is forgotten.
#[utoipa::path(post, path = "/api/v1/functions/{id}/runtime/restart", tag = "functions", operation_id = "restart_function_runtime", params(("id" = String, Path, description = "id or slug")), responses(
    (status = 200, body = Envelope<FunctionRuntimeData>), (status = 404, body = ErrorEnvelope), (status = 503, description = "the former ones go on", body = ErrorEnvelope),
))]
async fn restart(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<FunctionRuntimeData> {
    who.require(Permission::FunctionWrite)?;
    let view = app.whole(&who, "restarting a function", |app, who| async move { app.restart_function(&who, &id).await }).await?;
    reply::ok(FunctionRuntimeData { runtime: render::runtime(&view) })
}

/// The same as restart.
#[utoipa::path(post, path = "/api/v1/functions/{id}/runtime/recycle", tag = "functions", operation_id = "recycle_function_runtime", params(("id" = String, Path, description = "id or slug")), responses(
    (status = 200, body = Envelope<FunctionRuntimeData>), (status = 404, body = ErrorEnvelope), (status = 503, description = "the former ones go on", body = ErrorEnvelope),
))]
async fn recycle(state: State<SharedApp>, who: Principal, id: Path<String>) -> Result<FunctionRuntimeData> {
    restart(state, who, id).await
}

/// What happened to a function, the newest first.
#[utoipa::path(get, path = "/api/v1/functions/{id}/events", tag = "functions", operation_id = "list_function_events", params(("id" = String, Path, description = "id or slug")), responses(
    (status = 200, body = Envelope<FunctionEventListData>), (status = 404, body = ErrorEnvelope),
))]
async fn events(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<FunctionEventListData> {
    who.require(Permission::FunctionRead)?;
    let function = app.function(&who, &id).await?;
    let rendered = app.function_events(&function).await?.into_iter().map(|event| FunctionEvent {
        seq: event.seq,
        kind: event.kind,
        message: event.message,
        revision_number: event.revision_number,
        sandbox_id: event.sandbox_id,
        at: rfc3339(event.at_ms),
    });
    reply::ok(FunctionEventListData { events: rendered.collect() })
}
