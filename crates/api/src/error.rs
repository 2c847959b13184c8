//! Failures as the client reads them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The public error codes, each with its HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    TemplateNotReady,
    Gone,
    RequestTimeout,
    PayloadTooLarge,
    /// [`ErrorCode::PayloadTooLarge`] as functions call it.
    RequestTooLarge,
    /// Understood, and wrong: `details` says where.
    Unprocessable,
    QuotaExceeded,
    ClaimStartThrottled,
    FunctionConcurrencyExceeded,
    Unavailable,
    SandboxResumeFailed,
    /// What a port of the sandbox leads to is not to be reached now.
    PreviewClosed,
    /// It is being started.
    PreviewOpening,
    InternalError,
    /// A handler raised, or its process ended.
    FunctionFailed,
    InsufficientStorage,
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict | Self::TemplateNotReady => 409,
            Self::Gone => 410,
            Self::PayloadTooLarge | Self::RequestTooLarge => 413,
            Self::Unprocessable => 422,
            Self::QuotaExceeded | Self::ClaimStartThrottled | Self::FunctionConcurrencyExceeded => 429,
            Self::InternalError | Self::FunctionFailed => 500,
            Self::Unavailable | Self::SandboxResumeFailed | Self::PreviewClosed | Self::PreviewOpening => 503,
            Self::InsufficientStorage => 507,
        }
    }

    /// The code as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::TemplateNotReady => "template_not_ready",
            Self::Gone => "gone",
            Self::RequestTimeout => "request_timeout",
            Self::PayloadTooLarge => "payload_too_large",
            Self::RequestTooLarge => "request_too_large",
            Self::Unprocessable => "unprocessable",
            Self::QuotaExceeded => "quota_exceeded",
            Self::ClaimStartThrottled => "claim_start_throttled",
            Self::FunctionConcurrencyExceeded => "function_concurrency_exceeded",
            Self::Unavailable => "unavailable",
            Self::SandboxResumeFailed => "sandbox_resume_failed",
            Self::PreviewClosed => "preview_closed",
            Self::PreviewOpening => "preview_opening",
            Self::InternalError => "internal_error",
            Self::FunctionFailed => "function_failed",
            Self::InsufficientStorage => "insufficient_storage",
        }
    }
}

/// What stands under `error`. `code` is text, since an error of the agent inside keeps its own code.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

/// The body of every failure.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorEnvelope {
    /// Always false.
    pub success: bool,
    pub error: ErrorDetail,
}
