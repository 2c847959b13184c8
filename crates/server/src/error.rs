//! The one error that handlers return.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sandbar_api::{ErrorCode, ErrorDetail, ErrorEnvelope};
use sandbar_node::client::ProcdError;

/// A failure as the client will read it. Its cause, if any, was logged where it was handled.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    status: u16,
    code: String,
    message: String,
    details: Option<serde_json::Value>,
    retry_after_s: Option<u32>,
}

impl ApiError {
    /// An error with a public code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status: code.status(), code: code.as_str().into(), message: message.into(), details: None, retry_after_s: None }
    }

    /// An error whose status is not that of its code: some of the wire's own pairs are older than the codes.
    pub fn with_status(status: u16, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, ..Self::new(code, message) }
    }

    /// An error of the agent inside the sandbox, which has a vocabulary of its own.
    pub fn from_agent(error: &sandbar_procd_api::ErrorBody) -> Self {
        let code = serde_json::to_value(error.code).ok().and_then(|v| v.as_str().map(str::to_owned));
        let status = match error.code {
            // A program or folder that is not there is the caller's mistake, not a fault of the server.
            sandbar_procd_api::ErrorCode::CreateFailed => 400,
            other => other.status(),
        };
        Self { status, code: code.unwrap_or_else(|| "operation_failed".into()), message: error.message.clone(), details: None, retry_after_s: None }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("{what} {id:?} does not exist"))
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }

    /// A fault of ours: the cause goes to the log, the client gets a sentence.
    pub fn internal(operation: &str, cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(operation, %cause, "request failed");
        Self::new(ErrorCode::InternalError, format!("{operation} failed inside the server; its log says why"))
    }

    /// The same with a code that says more than that of its status.
    #[must_use]
    pub fn with_code(mut self, code: &str) -> Self {
        code.clone_into(&mut self.code);
        self
    }

    /// Adds machine-readable details.
    #[must_use]
    pub fn with_details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(details);
        self
    }

    /// The same with other words.
    #[must_use]
    pub fn with_message(mut self, change: impl FnOnce(&str) -> String) -> Self {
        self.message = change(&self.message);
        self
    }

    /// Tells the client when to try again, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    pub fn code(&self) -> &str {
        &self.code
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn details(&self) -> Option<&serde_json::Value> {
        self.details.as_ref()
    }
}

impl From<&ApiError> for ErrorDetail {
    fn from(error: &ApiError) -> Self {
        Self { code: error.code.clone(), message: error.message.clone(), details: error.details.clone() }
    }
}

impl From<ProcdError> for ApiError {
    fn from(error: ProcdError) -> Self {
        let cause = match &error {
            ProcdError::Api { status: _, body } => return Self::from_agent(body),
            ProcdError::Gone(cause) => cause as &dyn std::fmt::Display,
            ProcdError::Protocol(cause) => cause,
        };
        tracing::warn!(%error, %cause, "a call into a sandbox failed");
        crate::http::metrics::agent_failed();
        Self::unavailable("the sandbox did not answer; it may be ending or restarting").retry_after(1)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorEnvelope { success: false, error: ErrorDetail::from(&self) };
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // For those routes whose errors are written in another way.
        response.extensions_mut().insert(self);
        response
    }
}
