//! Why a sandbox did not do what it was asked, in the client's words.

use sandbar_api::ErrorCode;
use sandbar_core::{
    lifecycle::{self, LifecycleError},
    sandbox::{Observed, SandboxRecord},
};
use sandbar_node::error_text;
use sandbar_store::StoreError;

use crate::{app::room::full, error::ApiError};

/// What the client is told when the store refused.
pub(crate) fn store_failure(operation: &str, error: &StoreError) -> ApiError {
    match error {
        StoreError::Full => full(),
        StoreError::TooMany { .. } => ApiError::new(ErrorCode::QuotaExceeded, error.to_string()),
        StoreError::Stale { what, .. } => ApiError::conflict(format!("the {what} was changed by somebody else at the same time; try again")),
        StoreError::NotFound { what, id } => ApiError::not_found(what, id),
        StoreError::Quota(_) => ApiError::new(ErrorCode::QuotaExceeded, error.to_string()),
        StoreError::Mounted { .. } | StoreError::Bound { .. } => ApiError::conflict(error.to_string()),
        StoreError::Duplicate { .. } | StoreError::Unfit(_) => ApiError::conflict(error.to_string()),
        StoreError::Binding(_) | StoreError::Query(_) => ApiError::bad_request(error.to_string()),
        other => ApiError::internal(operation, &error_text(other)),
    }
}

/// What the client is told when the lifecycle refused.
pub(super) fn refusal(error: &LifecycleError, id: &str) -> ApiError {
    match error {
        LifecycleError::Invalid(violation) => ApiError::bad_request(violation.to_string()),
        LifecycleError::Deleted => ApiError::not_found("sandbox", id),
        LifecycleError::Cleaned | LifecycleError::Failed(_) => ApiError::conflict(error.to_string()),
    }
}

/// The answer to an access that may not wake the sandbox.
pub(super) fn asleep(record: &SandboxRecord) -> ApiError {
    let state = lifecycle::wire_status(record, lifecycle::Profile::Current);
    let reason = record.reason.as_deref().map(|text| format!(" ({text})")).unwrap_or_default();
    let observed = match record.observed {
        Observed::Cleaned => "cleaned",
        Observed::Failed => "failed",
        Observed::Starting | Observed::Active | Observed::Frozen | Observed::Hibernated => "paused",
    };
    ApiError::unavailable(format!("the sandbox is {observed}{reason} and its auto_resume is off; resume it first"))
        .with_details(serde_json::json!({ "status": state.status, "paused": state.paused, "lifecycle_state": observed, "auto_resume": false, "reason_code": record.reason_code, "reason": record.reason }))
}
