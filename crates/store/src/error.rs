//! What can go wrong with durable state.

use std::sync::Arc;

use rusqlite::ffi::ErrorCode;

/// A failure of the store. Whatever it is, nothing of the failed verb was stored, and the store goes on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The row was changed since it was read: read it again and decide again.
    #[error("{what} {id:?} was changed meanwhile")]
    Stale { what: &'static str, id: String },
    #[error("{what} {id:?} does not exist")]
    NotFound { what: &'static str, id: String },
    /// A unique name or id is taken.
    #[error("{what} exists already")]
    Exists { what: &'static str },
    /// Something else still needs it.
    #[error("{what} is still in use")]
    InUse { what: &'static str, by: Vec<(&'static str, u64)> },
    /// A named limit is reached.
    #[error("there are {max} {what} already, which is the limit")]
    TooMany { what: &'static str, max: usize },
    /// A quota of the team is reached.
    #[error(transparent)]
    Quota(sandbar_core::quota::Exceeded),
    /// Another sandbox has a volume that only one may have, or that is not to change.
    #[error("volume {volume:?} is mounted by sandbox {by:?}")]
    Mounted { volume: String, by: String },
    /// A network policy binds a credential source that is not there, or that does not fit.
    #[error(transparent)]
    Binding(sandbar_core::credential::BindingError),
    /// Somebody binds a credential source.
    #[error("credential source {name:?} is in use by {}{}", by.join(", "), if *others > 0 { format!(" and {others} others") } else { String::new() })]
    Bound { name: String, by: Vec<String>, others: usize },
    /// Another item has the same value in a field in which no two may.
    #[error("another item has the same {field}")]
    Duplicate { field: String },
    /// A change of a collection's fields that its items do not fit.
    #[error("{0}")]
    Unfit(String),
    /// A query was given up.
    #[error("{0}")]
    Query(&'static str),
    #[error("the disk that holds the database is full")]
    Full,
    /// The database was written by a newer version of the program.
    #[error("the database has schema {found}, this program knows schemas up to {known}; use the newer program")]
    Newer { found: i64, known: i64 },
    /// A stored value that this program cannot read.
    #[error("a stored {what} cannot be read: {cause}")]
    Corrupt { what: &'static str, cause: String },
    /// The database or its disk failed.
    #[error("the database failed to {operation}")]
    Database { operation: &'static str, source: Arc<rusqlite::Error> },
    #[error("the database file cannot be opened")]
    File(#[source] Arc<std::io::Error>),
    /// The store was shut down.
    #[error("the database is closed")]
    Closed,
}

impl StoreError {
    /// Names the verb in which a bare database error happened.
    pub(crate) fn during(self, operation: &'static str) -> Self {
        match self {
            Self::Database { operation: "", source } => Self::Database { operation, source },
            other => other,
        }
    }

    pub(crate) fn corrupt(what: &'static str, cause: &dyn std::fmt::Display) -> Self {
        Self::Corrupt { what, cause: cause.to_string() }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Database { operation: "", source: Arc::new(error) },
        }
    }
}

/// Whether a unique index or a primary key refused it.
pub(crate) fn is_taken(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|e| matches!(e.extended_code, rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY))
}

/// Turns a refusal by a unique index into [`StoreError::Exists`].
pub(crate) fn taken(what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| if is_taken(&error) { StoreError::Exists { what } } else { error.into() }
}
