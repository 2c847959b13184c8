//! The server: HTTP API, application and background tasks.
#![forbid(unsafe_code)]

pub mod app;
pub mod config;
pub mod error;
pub mod executor;
mod gateway;
pub mod http;
mod run;
mod ssh;
mod tasks;

pub use config::{AcmeConfig, Config, ScriptsConfig, SshListen, TlsConfig};
pub use run::{Server, StartError};
