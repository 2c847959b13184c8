//! The server: HTTP API, application and background tasks.
#![forbid(unsafe_code)]

pub mod app;
pub mod config;
pub mod error;
pub mod http;
mod run;
mod tasks;

pub use config::Config;
pub use run::{Server, StartError};
