//! The server: HTTP API, application and background tasks.
#![forbid(unsafe_code)]

pub mod app;
pub mod config;
pub mod error;
mod gateway;
pub mod http;
mod run;
mod tasks;

pub use config::{AcmeConfig, Config, TlsConfig};
pub use run::{Server, StartError};
