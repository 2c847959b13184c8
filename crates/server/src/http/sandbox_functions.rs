//! Functions of a sandbox: handlers in Python, run once for each call.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use sandbar_api::{
    ErrorCode,
    context::DeletedResponse,
    error::ErrorEnvelope,
    reply::Envelope,
    sandbox_function::{
        FunctionInvokeRequest, FunctionInvokeResponse, InvocationListResponse, InvocationResponse, SandboxFunctionListResponse, SandboxFunctionPutRequest,
        SandboxFunctionResponse,
    },
};
use sandbar_core::{
    limits,
    roles::Permission,
    validate::functions::{self, Invoke},
};
use sandbar_store::{InvocationRecord, InvocationStatus};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{is_blank, parse, read, read_counted},
    reply::{self, Result},
    time::{rfc3339, rfc3339_nanos},
};
use crate::{
    app::{SharedApp, auth::Principal, function_load::Calling, sandbox_functions::FunctionFile, sandboxes::violations},
    error::ApiError,
};

/// Source as JSON may be longer than the source: every byte may be escaped.
const PUT_BODY_MAX_BYTES: usize = limits::FUNCTION_CODE_MAX_BYTES * 6 + 1024;

/// `/api/v1/sandboxes/{id}/functions`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, put, delete))
        .routes(routes!(invoke))
        .routes(routes!(invocations))
        .routes(routes!(invocation))
}

/// Call a function. The call's status is 200 whatever the function's own is. With `async` (or `Prefer: respond-async`) it
/// is answered at once, and the result is kept for a day.
#[utoipa::path(post, path = "/api/v1/sandboxes/{id}/functions/{name}/invoke", tag = "functions", params(("id" = String, Path), ("name" = String, Path)), request_body = FunctionInvokeRequest, responses(
    (status = 200, body = Envelope<FunctionInvokeResponse>), (status = 202, description = "begun", body = Envelope<InvocationResponse>),
    (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 413, description = "request_too_large", body = ErrorEnvelope),
    (status = 429, description = "too many calls at once", body = ErrorEnvelope), (status = 500, description = "function_failed: the handler raised", body = ErrorEnvelope),
    (status = 502, description = "what the handler returned is no reply, or too large", body = ErrorEnvelope), (status = 503, body = ErrorEnvelope),
    (status = 504, description = "timed out", body = ErrorEnvelope),
))]
async fn invoke(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> std::result::Result<Response, ApiError> {
    who.require(Permission::SandboxWrite)?;
    // Counted by itself: it is no limit of the function's own, which the sandbox has.
    let mut calling = app.function_load.enter(&id, "", limits::FUNCTION_CALLS_MAX)?;
    let (invoke, later) = match asked(&headers, body, &mut calling).await {
        Ok(asked) => asked,
        // A function that is not there is told before what is wrong with the call.
        Err(error) => return Err(app.missing_function(&who, &id, &name).await.unwrap_or(error)),
    };
    if later {
        let invocation_id = app.invoke_function_later(&who, &id, &name, (invoke, calling)).await?;
        let status = InvocationStatus::Running.as_str();
        return Ok(reply::with_status(StatusCode::ACCEPTED, json!({ "invocation_id": invocation_id, "function": name, "status": status }))?.into_response());
    }
    Ok(reply::ok(app.invoke_function(&who, &id, &name, (invoke, calling)).await?)?.into_response())
}

async fn asked(headers: &HeaderMap, body: Body, calling: &mut Calling) -> std::result::Result<(Invoke, bool), ApiError> {
    let bytes = read_counted(body, limits::FUNCTION_REQUEST_MAX_BYTES, |bytes| calling.grow(bytes)).await.map_err(renamed)?;
    let request = if is_blank(&bytes) { FunctionInvokeRequest::default() } else { parse::<Option<FunctionInvokeRequest>>(&bytes)?.unwrap_or_default() };
    let prefers = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let later = request.later == Some(true) || prefers.map(str::trim).any(|preference| preference.eq_ignore_ascii_case("respond-async"));
    Ok((functions::invoke(request).map_err(violations)?, later))
}

/// A body that is too large has a name of its own here.
fn renamed(error: ApiError) -> ApiError {
    if error.status() == 413 { ApiError::new(ErrorCode::RequestTooLarge, error.message()) } else { error }
}

/// The functions of a sandbox, by name.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/functions", tag = "functions", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<SandboxFunctionListResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn list(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<SandboxFunctionListResponse> {
    who.require(Permission::SandboxRead)?;
    let functions: Vec<_> = app.sandbox_functions(&who, &id).await?.into_iter().map(file).collect();
    reply::ok(SandboxFunctionListResponse { count: functions.len() as u64, functions })
}

/// A function with its source.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/functions/{name}", tag = "functions", params(("id" = String, Path), ("name" = String, Path)), responses(
    (status = 200, body = Envelope<SandboxFunctionResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn get(State(app): State<SharedApp>, who: Principal, Path((id, name)): Path<(String, String)>) -> Result<SandboxFunctionResponse> {
    who.require(Permission::SandboxRead)?;
    reply::ok(file(app.sandbox_function(&who, &id, &name).await?))
}

/// Make or replace a function: the body is its source, at most 256 KiB, or JSON with `source`. What Python cannot compile
/// is refused. The next call has the new source.
#[utoipa::path(put, path = "/api/v1/sandboxes/{id}/functions/{name}", tag = "functions", params(("id" = String, Path), ("name" = String, Path)), request_body(content(
    (String = "text/x-python"), (SandboxFunctionPutRequest = "application/json"),
)), responses(
    (status = 200, description = "replaced", body = Envelope<SandboxFunctionResponse>), (status = 201, description = "made", body = Envelope<SandboxFunctionResponse>),
    (status = 400, description = "not a name, or Python cannot compile it", body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
    (status = 413, description = "request_too_large", body = ErrorEnvelope),
))]
async fn put(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> std::result::Result<Response, ApiError> {
    who.require(Permission::SandboxWrite)?;
    let bytes = read(body, PUT_BODY_MAX_BYTES).await.map_err(renamed)?;
    let is_json = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_some_and(|kind| kind.split(';').next() == Some("application/json"));
    let source = if is_json {
        parse::<SandboxFunctionPutRequest>(&bytes)?.source
    } else {
        String::from_utf8(bytes.to_vec()).map_err(|_| ApiError::bad_request("the source of a function must be UTF-8"))?
    };
    let (made, is_new) = app.put_sandbox_function(&who, &id, &name, source).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(reply::with_status(status, file(made))?.into_response())
}

/// Remove a function's file.
#[utoipa::path(delete, path = "/api/v1/sandboxes/{id}/functions/{name}", tag = "functions", params(("id" = String, Path), ("name" = String, Path)), responses(
    (status = 200, body = Envelope<DeletedResponse>), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path((id, name)): Path<(String, String)>) -> Result<DeletedResponse> {
    who.require(Permission::SandboxWrite)?;
    app.delete_sandbox_function(&who, &id, &name).await?;
    reply::ok(DeletedResponse { deleted: true })
}

/// The calls of a function that nobody waited for, newest first: the last 100 of the sandbox, for a day.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/functions/{name}/invocations", tag = "functions", params(("id" = String, Path), ("name" = String, Path)), responses(
    (status = 200, body = Envelope<InvocationListResponse>), (status = 404, body = ErrorEnvelope),
))]
async fn invocations(State(app): State<SharedApp>, who: Principal, Path((id, name)): Path<(String, String)>) -> Result<InvocationListResponse> {
    who.require(Permission::SandboxRead)?;
    let invocations = app.invocations(&who, &id, &name).await?.into_iter().map(rendered).collect::<std::result::Result<Vec<_>, _>>()?;
    reply::ok(InvocationListResponse { count: invocations.len() as u64, invocations })
}

/// A call that nobody waited for, with what came of it.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/functions/{name}/invocations/{invocation_id}", tag = "functions", params(
    ("id" = String, Path), ("name" = String, Path), ("invocation_id" = String, Path),
), responses((status = 200, body = Envelope<InvocationResponse>), (status = 404, body = ErrorEnvelope)))]
async fn invocation(State(app): State<SharedApp>, who: Principal, Path((id, name, invocation)): Path<(String, String, String)>) -> Result<InvocationResponse> {
    who.require(Permission::SandboxRead)?;
    reply::ok(rendered(app.invocation(&who, &id, &name, &invocation).await?)?)
}

fn file(file: FunctionFile) -> SandboxFunctionResponse {
    let FunctionFile { name, info, source } = file;
    SandboxFunctionResponse { name, path: info.path, size: info.size, modified_at: rfc3339_nanos(info.mtime_ns), source }
}

fn rendered(record: InvocationRecord) -> std::result::Result<InvocationResponse, ApiError> {
    let InvocationRecord { id, sandbox_id: _, function, status, created_at_ms, finished_at_ms, result } = record;
    let result: Value = match result {
        Some(text) => serde_json::from_str(&text).map_err(|error| ApiError::internal("reading an invocation", &error))?,
        None => Value::Null,
    };
    let unreadable = |error: serde_json::Error| ApiError::internal("reading an invocation", &error);
    let (response, error) = match status {
        InvocationStatus::Succeeded => (serde_json::from_value(result).map_err(unreadable)?, None),
        InvocationStatus::Failed => (None, serde_json::from_value(result).map_err(unreadable)?),
        InvocationStatus::Running => (None, None),
    };
    Ok(InvocationResponse {
        invocation_id: id,
        function,
        status: status.as_str().to_owned(),
        created_at: rfc3339(created_at_ms),
        finished_at: finished_at_ms.map(rfc3339),
        response,
        error,
    })
}
