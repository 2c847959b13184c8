//! The wire: what clients send and what they get, as plain types. No IO and no decisions.
//!
//! Every reply is `{"success":true,"data":...}`, every failure [`ErrorEnvelope`]. Optional fields are left out, never
//! null, but where a profile of the wire says otherwise.
#![forbid(unsafe_code)]

pub mod app;
pub mod app_lifecycle;
pub mod auth;
pub mod context;
pub mod credential;
pub mod error;
pub mod file;
pub mod function;
pub mod image;
pub mod log;
pub mod metrics;
pub mod network;
pub mod preview;
pub mod quota;
pub mod reply;
pub mod sandbox;
pub mod sandbox_function;
pub mod snapshot;
pub mod team;
pub mod template;
pub mod usage;
pub mod volume;
pub mod webhook;

pub use error::{ErrorCode, ErrorDetail, ErrorEnvelope};
