//! Decisions without IO: the lifecycle of a sandbox, deadlines, validation, roles, limits. Time is an argument.
#![forbid(unsafe_code)]

pub mod app;
pub mod certificates;
pub mod credential;
pub mod egress;
pub mod function;
pub mod image;
pub mod lifecycle;
pub mod limits;
pub mod metrics;
pub mod pacing;
pub mod preview;
pub mod public_host;
pub mod quantity;
pub mod quota;
pub mod range;
pub mod redact;
pub mod roles;
pub mod sandbox;
pub mod schedule;
pub mod script;
pub mod service;
pub mod text;
pub mod validate;
pub mod volume;
pub mod webhook;
