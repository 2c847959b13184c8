//! The server's log.

use anyhow::Context;
use tracing_subscriber::{EnvFilter, fmt};

use crate::settings::{LogFormat, ServeSettings};

/// Sets up logging to standard error, once for the process.
pub fn start(settings: &ServeSettings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log_level).context("log_level is no tracing filter")?;
    // Where the log cannot be written there is no place to say so: that would end whatever was to be logged.
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = match settings.log {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("the log cannot be set up: {error}"))
}
