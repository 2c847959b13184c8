//! Who runs the code of a script on this machine: one way to ask, whichever engine it is.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

use sandbar_api::ErrorCode;
use sandbar_core::script::provider::Provider;
use sandbar_node::Node;
use sandbar_scripts::{Call, CheckError, Failure, Host, Outcome, Recording, Replayed, StripError, Workers, WorkersConfig};
use tokio_util::sync::CancellationToken;

use super::bun::Bun;
use crate::{config::ScriptsConfig, error::ApiError};

/// Where the compiled engine is kept, below the data directory.
const CACHE_DIR: &str = "script-cache";

/// The engines that there are.
pub struct Engines {
    /// Processes with QuickJS.
    workers: Workers,
    bun: Bun,
}

impl Engines {
    /// Starts nothing yet. Without a folder for the compiled engine, each process compiles it.
    pub(crate) fn new(data_dir: &Path, config: &ScriptsConfig, node: Node) -> Self {
        let dir = config.cache_dir.clone().unwrap_or_else(|| data_dir.join(CACHE_DIR));
        let made = make_private(&dir);
        if let Err(error) = &made {
            tracing::warn!(%error, dir = %dir.display(), "the compiled engine of scripts cannot be kept; each worker compiles it anew");
        }
        Self { workers: Workers::new(WorkersConfig::new(made.is_ok().then_some(dir))), bun: Bun::new(node, config.bun.as_deref()) }
    }

    /// Starts an engine in the background, so that the first call need not wait for it.
    pub(crate) fn warm(&self) {
        self.workers.warm();
    }

    /// Runs a call; `host` answers what it asks for.
    pub(crate) async fn run(&self, provider: Provider, team_id: &str, call: Call, host: &dyn Host, cancel: &CancellationToken) -> (Outcome, Recording) {
        let ran = match provider {
            Provider::QuickJs => self.workers.run(team_id, call, host, cancel).await,
            Provider::BunWorker => self.bun.run(team_id, call, host, cancel).await,
            Provider::RemoteHttp => return (Outcome::failed(Failure::internal("remote-http is not on this machine")), Recording::default()),
        };
        (ran.outcome, ran.recording)
    }

    /// Runs a call with the answers of a recording; in what it asked for other things.
    pub(crate) async fn replay(&self, team_id: &str, call: Call, recording: &Recording, cancel: &CancellationToken) -> (Outcome, Recording, Vec<String>) {
        let Replayed { ran, diverged } = self.workers.replay(team_id, call, recording, cancel).await;
        (ran.outcome, ran.recording, diverged)
    }

    /// TypeScript without its types.
    pub(crate) async fn strip(&self, team_id: &str, source: &str) -> Result<String, StripError> {
        self.workers.strip(team_id, source).await
    }

    /// Whether code can be compiled.
    pub(crate) async fn check(&self, team_id: &str, code: &str, name: &str) -> Result<(), CheckError> {
        self.workers.check(team_id, code, name).await
    }

    /// Ends them.
    pub(crate) async fn close(&self) {
        self.workers.shutdown().await;
        self.bun.close();
    }
}

/// Makes a folder that is ours alone. What lies there is run.
fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let found = fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a folder that only its owner, who has to be us, may write to"));
    }
    Ok(())
}

/// Every engine that may run the call is at others.
pub(super) fn busy(why: &str) -> ApiError {
    ApiError::new(ErrorCode::FunctionConcurrencyExceeded, format!("too many functions are running: {why}")).retry_after(1)
}

/// Refuses what did not begin since there was no room for it.
pub(super) fn begun(outcome: &Outcome) -> Result<(), ApiError> {
    match &outcome.result {
        Err(failure) if failure.is_busy() => Err(busy(&failure.message)),
        _ => Ok(()),
    }
}
