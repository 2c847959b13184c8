//! What scripts ask of whoever runs them: the ops behind `ctx`. One list for every engine.

use std::pin::Pin;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::FailureCode;

/// What `ctx` can ask for. `Sleep` (timers) is answered by whoever speaks with the engine; all others are the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Op {
    /// `{url, init?: {method?, headers?, body?, redirect?}}` → `{status, ok, text, url, headers, redirected}`
    #[serde(rename = "fetch")]
    Fetch,
    /// `{slug, query?: {filter?, sort?, limit?, offset?}}` → rows
    #[serde(rename = "db.list")]
    DbList,
    /// `{slug, id}` → row or null
    #[serde(rename = "db.one")]
    DbOne,
    /// `{to, subject, text?, html?}` → true
    #[serde(rename = "email.send")]
    EmailSend,
    /// `{name}` → text or null
    #[serde(rename = "secrets.get")]
    SecretsGet,
    /// `{ms}` → null
    #[serde(rename = "sleep")]
    Sleep,
}

impl Op {
    pub const ALL: [Self; 6] = [Self::Fetch, Self::DbList, Self::DbOne, Self::EmailSend, Self::SecretsGet, Self::Sleep];

    /// The name on every wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::DbList => "db.list",
            Self::DbOne => "db.one",
            Self::EmailSend => "email.send",
            Self::SecretsGet => "secrets.get",
            Self::Sleep => "sleep",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.as_str() == name)
    }
}

/// What a script reads when an op did not go well: an `Error` with this message, and `code` beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct OpError {
    /// `Denied`, `UserError` (wrong arguments, not found), or `Internal`.
    pub code: FailureCode,
    pub message: String,
}

/// JSON, or why there is none.
pub type OpResult = Result<Box<RawValue>, OpError>;

/// Answers the ops of one call. Dropping a future gives the op up.
pub trait Host: Send + Sync {
    fn op<'a>(&'a self, op: Op, args: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>>;
}

impl OpError {
    pub fn denied(message: impl Into<String>) -> Self {
        Self { code: FailureCode::Denied, message: message.into() }
    }

    pub fn wrong(message: impl Into<String>) -> Self {
        Self { code: FailureCode::UserError, message: message.into() }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self { code: FailureCode::Internal, message: message.into() }
    }
}
