//! How routes below `/api/` other than `/api/v1` speak: `{"data": ...}`, `{"ok": true}`, and errors as
//! `{"error": {"code": "BAD_REQUEST", "message": ..., "details"?: ...}}`.
//!
//! Handlers return [`ApiError`] as everywhere. Whatever becomes of one on its way out, it stands in its response, and
//! [`render`], outside of everything else, writes it anew for these routes.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{error::ApiError, http::MAY};

/// A success: its status and its body.
#[derive(Debug)]
pub struct Reply<T>(StatusCode, T);

/// What handlers return.
pub type Result<T> = std::result::Result<Reply<T>, ApiError>;

/// `{"data": ...}`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Data<T> {
    pub data: T,
}

/// A part of a list, and how to ask for the next one.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    pub data: Vec<T>,
    /// Send it as `cursor`; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// `{"ok": true}`
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Always true.
    pub ok: bool,
}

/// The body of every failure.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Failed {
    pub error: FailedDetail,
}

/// What stands under `error`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FailedDetail {
    /// `BAD_REQUEST`, `UNAUTHORIZED`, `FORBIDDEN`, `NOT_FOUND`, `CONFLICT`, `IDEMPOTENCY_IN_PROGRESS`,
    /// `IDEMPOTENCY_KEY_REUSED`, `PAYLOAD_TOO_LARGE`, `TOO_MANY_REQUESTS`, `INTERNAL`, ...
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

/// 200 with data.
pub fn data<T>(data: T) -> Result<Data<T>> {
    Ok(Reply(StatusCode::OK, Data { data }))
}

/// 201 with data.
pub fn created<T>(data: T) -> Result<Data<T>> {
    Ok(Reply(StatusCode::CREATED, Data { data }))
}

/// 200 with a part of a list.
pub fn page<T>(data: Vec<T>, next_cursor: Option<String>) -> Result<Page<T>> {
    Ok(Reply(StatusCode::OK, Page { data, next_cursor }))
}

/// 200 with `{"ok": true}`.
pub fn done() -> Result<Done> {
    Ok(Reply(StatusCode::OK, Done { ok: true }))
}

/// A body of another shape, with a status.
pub fn with_status<T>(status: StatusCode, body: T) -> Result<T> {
    Ok(Reply(status, body))
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.1) {
            Ok(json) => {
                let mut response = Response::new(Body::from(json));
                *response.status_mut() = self.0;
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => ApiError::internal("rendering the reply", &error).into_response(),
        }
    }
}

/// The layer that writes errors of these routes.
pub async fn render(request: Request, next: Next) -> Response {
    let ours = is_ours(request.uri().path());
    let mut response = next.run(request).await;
    if ours && let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let body = Failed { error: FailedDetail { code: code(&error), message: error.message().to_owned(), details: error.details().cloned() } };
        let json = serde_json::to_vec(&body).unwrap_or_default();
        // Its length, if it has one already, is that of the other body.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(json);
    }
    response
}

/// Whether a path is that of a route that speaks so.
fn is_ours(path: &str) -> bool {
    let path = path.strip_prefix(MAY).unwrap_or(path);
    path.strip_prefix("/api").is_some_and(|rest| rest.is_empty() || rest.strip_prefix('/').is_some_and(|rest| rest.split('/').next() != Some("v1")))
}

/// One code for each status, whatever the other generation of the wire calls it, but for those that only say more.
fn code(error: &ApiError) -> String {
    match (error.status(), error.code()) {
        (429, _) => "TOO_MANY_REQUESTS".to_owned(),
        (500, _) => "INTERNAL".to_owned(),
        (_, code) => code.to_ascii_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use sandbar_api::ErrorCode;

    use super::*;

    #[test]
    fn only_routes_of_scripts_speak_so() {
        for path in ["/api/functions", "/api/functions/x/invoke", "/api", "/api/", "/api/v12", "/compat/2026-05/api/items/x", "/api//v1"] {
            assert!(is_ours(path), "{path}");
        }
        for path in ["/api/v1", "/api/v1/functions", "/compat/2026-05/api/v1/sandboxes", "/", "/healthz", "/apis/functions", "/x/api/functions"] {
            assert!(!is_ours(path), "{path}");
        }
    }

    #[test]
    fn codes_are_upper_case_and_one_for_each_status() {
        let cases = [
            (ErrorCode::BadRequest, "BAD_REQUEST"),
            (ErrorCode::Unauthorized, "UNAUTHORIZED"),
            (ErrorCode::Forbidden, "FORBIDDEN"),
            (ErrorCode::NotFound, "NOT_FOUND"),
            (ErrorCode::MethodNotAllowed, "METHOD_NOT_ALLOWED"),
            (ErrorCode::Conflict, "CONFLICT"),
            (ErrorCode::PayloadTooLarge, "PAYLOAD_TOO_LARGE"),
            (ErrorCode::QuotaExceeded, "TOO_MANY_REQUESTS"),
            (ErrorCode::FunctionConcurrencyExceeded, "TOO_MANY_REQUESTS"),
            (ErrorCode::InternalError, "INTERNAL"),
            (ErrorCode::Unavailable, "UNAVAILABLE"),
            (ErrorCode::InsufficientStorage, "INSUFFICIENT_STORAGE"),
        ];
        for (given, wanted) in cases {
            assert_eq!(code(&ApiError::new(given, "x")), wanted);
        }
    }
}
