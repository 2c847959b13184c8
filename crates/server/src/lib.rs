//! The server: HTTP API, application and background tasks.
#![forbid(unsafe_code)]

pub mod error;
