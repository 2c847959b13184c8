//! Script functions: make, look, change, end. Calling them is in [`invoke`], their versions and aliases in [`versions`], secrets and
//! keys in files of their own.

use axum::extract::{Path, State};
use sandbar_core::limits;
use serde_json::{Map, Value};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::Json;
use crate::{
    app::{SharedApp, auth::Principal},
    error::ApiError,
};

mod invoke;
mod keys;
pub mod render;
mod secrets;
mod versions;
pub mod wire;

use render::{FunctionFields, FunctionView, KEPT_SOURCE_BYTES};
use wire::{Data, Done, Failed, Result};

/// A body that describes a script.
type Fields = Json<Map<String, Value>, { limits::SCRIPT_BODY_MAX_BYTES }>;

/// `/api/functions`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
        .merge(invoke::router())
        .merge(versions::router())
        .merge(secrets::router())
        .merge(keys::router())
}

/// Refuses (403) who is no admin of the team.
pub(super) fn require_admin(who: &Principal) -> std::result::Result<(), ApiError> {
    if who.roles.contains(&sandbar_core::roles::Role::Admin) && !who.team_id.is_empty() {
        return Ok(());
    }
    Err(ApiError::new(sandbar_api::ErrorCode::Forbidden, "only admins of the team may do this"))
}

/// The team's functions by name. Of very much code, that of the last ones is left out.
#[utoipa::path(get, path = "/api/functions", tag = "scripts", responses((status = 200, body = Data<Vec<FunctionView>>), (status = 401, body = Failed), (status = 403, body = Failed)))]
async fn list(State(app): State<SharedApp>, who: Principal) -> Result<Data<Vec<FunctionView>>> {
    require_admin(&who)?;
    let mut room = KEPT_SOURCE_BYTES;
    let mut views = Vec::new();
    for whole in app.scripts(&who).await? {
        let next_run_at = app.script_next_run(&whole.script).await?;
        let code = match room.checked_sub(whole.live().map_or(0, |live| live.source_bytes)) {
            Some(left) => {
                room = left;
                match app.live_source(&whole).await {
                    // It was deleted, or another is live, meanwhile.
                    Err(error) if error.status() == 404 => None,
                    read => read?,
                }
            }
            None => None,
        };
        views.push(render::function(whole, code, next_run_at));
    }
    wire::data(views)
}

/// Make a function. Its code is the body of an async function of `ctx`; it is compiled, and where that fails the reply says where.
#[utoipa::path(post, path = "/api/functions", tag = "scripts", request_body = FunctionFields, responses(
    (status = 201, body = Data<FunctionView>), (status = 400, description = "of code that cannot be compiled with details.line and details.column", body = Failed),
    (status = 401, body = Failed), (status = 403, body = Failed), (status = 409, description = "the name is taken", body = Failed),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Json(fields): Fields) -> Result<Data<FunctionView>> {
    require_admin(&who)?;
    let made = app.whole(&who, "creating a function", |app, who| async move { app.create_script(&who, &fields).await }).await?;
    let (code, next_run_at) = (app.live_source(&made).await?, app.script_next_run(&made.script).await?);
    wire::created(render::function(made, code, next_run_at))
}

/// A function by id or name.
#[utoipa::path(get, path = "/api/functions/{id}", tag = "scripts", params(("id" = String, Path, description = "id or name")), responses(
    (status = 200, body = Data<FunctionView>), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Data<FunctionView>> {
    require_admin(&who)?;
    let whole = app.script(&who, &id).await?;
    let (code, next_run_at) = (app.live_source(&whole).await?, app.script_next_run(&whole.script).await?);
    wire::data(render::function(whole, code, next_run_at))
}

/// Change a function. Absent fields are kept, but for the pattern and the schedule of another trigger; another code is a new version,
/// which is live at once. Of changes at the same time each is made, one after the other. What the server sets (`id`, `version`, `hash`,
/// `aliases`, `secrets`, `createdAt`, `updatedAt`) may be sent as it is, and is else refused.
#[utoipa::path(patch, path = "/api/functions/{id}", tag = "scripts", params(("id" = String, Path, description = "id or name")), request_body = FunctionFields, responses(
    (status = 200, body = Done), (status = 400, body = Failed), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
    (status = 409, body = Failed),
))]
async fn update(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, Json(fields): Fields) -> Result<Done> {
    require_admin(&who)?;
    app.whole(&who, "changing a function", |app, who| async move { app.update_script(&who, &id, &fields).await }).await?;
    wire::done()
}

/// Delete a function with its versions, secrets and keys. Its runs can still be read.
#[utoipa::path(delete, path = "/api/functions/{id}", tag = "scripts", params(("id" = String, Path, description = "id or name")), responses(
    (status = 200, body = Done), (status = 401, body = Failed), (status = 403, body = Failed), (status = 404, body = Failed),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Done> {
    require_admin(&who)?;
    app.whole(&who, "deleting a function", |app, who| async move { app.delete_script(&who, &id).await }).await?;
    wire::done()
}
