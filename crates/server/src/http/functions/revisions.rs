//! Revisions of functions.

use axum::extract::{Path, State};
use sandbar_api::{
    error::{ErrorDetail, ErrorEnvelope},
    function::{FunctionRevisionCreateData, FunctionRevisionCreateRequest, FunctionRevisionData, FunctionRevisionListData},
    reply::{Envelope, Message},
};
use sandbar_core::roles::Permission;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::render;
use crate::{
    app::{SharedApp, auth::Principal, functions::Promotion},
    error::ApiError,
    http::{
        extract::Json,
        params::shown,
        reply::{self, Result},
    },
};

pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, delete))
}

/// The revisions of a function, the newest first.
#[utoipa::path(get, path = "/api/v1/functions/{id}/revisions", tag = "functions", operation_id = "list_function_revisions", params(("id" = String, Path, description = "id or slug")), responses(
    (status = 200, body = Envelope<FunctionRevisionListData>), (status = 404, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<FunctionRevisionListData> {
    who.require(Permission::FunctionRead)?;
    let function = app.function(&who, &id).await?;
    let rows = app.function_revisions(&function).await?;
    let rendered = rows.iter().map(|row| render::revision(&row.revision, row.proved_at_ms, app.revision_instance(&row.revision.id)));
    reply::ok(FunctionRevisionListData { revisions: rendered.collect() })
}

/// Publish a new revision. With `promote` (the default) `production` points to it as soon as an instance of it was ready; when that
/// fails it stays where it was, and `promotion_error` says why.
#[utoipa::path(post, path = "/api/v1/functions/{id}/revisions", tag = "functions", operation_id = "create_function_revision", params(("id" = String, Path, description = "id or slug")), request_body = FunctionRevisionCreateRequest, responses(
    (status = 201, body = Envelope<FunctionRevisionCreateData>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
    (status = 409, description = "another publish is under way", body = ErrorEnvelope),
))]
async fn create(
    State(app): State<SharedApp>,
    who: Principal,
    Path(id): Path<String>,
    Json(request): Json<FunctionRevisionCreateRequest>,
) -> Result<FunctionRevisionCreateData> {
    who.require(Permission::FunctionWrite)?;
    let made = app.whole(&who, "publishing a revision", |app, who| async move { app.create_revision(&who, &id, request).await });
    let (revision, promotion) = made.await?;
    let (promoted, promotion_error) = match promotion {
        Promotion::NotAsked => (false, None),
        Promotion::Done => (true, None),
        Promotion::Refused(error) => {
            (false, Some(ErrorDetail { code: error.code().to_owned(), message: error.message().to_owned(), details: error.details().cloned() }))
        }
    };
    let runtime = app.revision_instance(&revision.id);
    reply::created(FunctionRevisionCreateData { revision: render::revision(&revision, None, runtime), promoted, promotion_error })
}

/// A revision by its number.
#[utoipa::path(get, path = "/api/v1/functions/{id}/revisions/{revision_number}", tag = "functions", operation_id = "get_function_revision", params(("id" = String, Path, description = "id or slug"), ("revision_number" = i64, Path)), responses(
    (status = 200, body = Envelope<FunctionRevisionData>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path((id, number)): Path<(String, String)>) -> Result<FunctionRevisionData> {
    who.require(Permission::FunctionRead)?;
    let number = parse(&number)?;
    let function = app.function(&who, &id).await?;
    let row = app.function_revision(&function, number).await?;
    reply::ok(FunctionRevisionData { revision: render::revision(&row.revision, row.proved_at_ms, app.revision_instance(&row.revision.id)) })
}

/// Delete a revision with its files. One that an alias points to is kept.
#[utoipa::path(delete, path = "/api/v1/functions/{id}/revisions/{revision_number}", tag = "functions", operation_id = "delete_function_revision", params(("id" = String, Path, description = "id or slug"), ("revision_number" = i64, Path)), responses(
    (status = 200, body = Envelope<Message>), (status = 404, body = ErrorEnvelope), (status = 409, description = "an alias points to it", body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path((id, number)): Path<(String, String)>) -> Result<Message> {
    who.require(Permission::FunctionDelete)?;
    let number = parse(&number)?;
    app.whole(&who, "deleting a revision", move |app, who| async move { app.delete_revision(&who, &id, number).await }).await?;
    reply::message("revision deleted")
}

fn parse(number: &str) -> std::result::Result<i64, ApiError> {
    match number.parse() {
        Ok(number) if number > 0 => Ok(number),
        Ok(_) | Err(_) => Err(ApiError::bad_request(format!("revision_number: {} is no number from 1 on", shown(number)))),
    }
}
