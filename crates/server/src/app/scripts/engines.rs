//! Who runs the code of a script on this machine: one way to ask, whichever engine it is.

use std::{fs, os::unix::fs::DirBuilderExt, path::Path};

use std::path::Path;

use sandbar_core::script::provider::Provider;
use sandbar_scripts::{Call, CheckError, Failure, Host, Outcome, Recording, Replayed, Usage, Workers, WorkersConfig, frame::SyntaxError};
use tokio_util::sync::CancellationToken;

/// Where the compiled engine is kept, below the data directory.
const CACHE_DIR: &str = "script-cache";

/// The engines that there are.
pub struct Engines {
    /// Processes with QuickJS.
    workers: Workers,
}

impl Engines {
    /// Starts nothing yet. Without a folder for the compiled engine, each process compiles it.
    pub(crate) fn open(data_dir: &Path) -> Self {
        let dir = data_dir.join(CACHE_DIR);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        if let Err(error) = &made {
            tracing::warn!(%error, dir = %dir.display(), "the compiled engine of scripts cannot be kept; each worker compiles it anew");
        }
        Self { workers: Workers::new(WorkersConfig::new(made.is_ok().then_some(dir))) }
    }

    /// Starts an engine in the background, so that the first call need not wait for it.
    pub(crate) fn warm(&self) {
        self.workers.warm();
use sandbar_node::Node;
use sandbar_scripts::{Call, Failure, Host, Outcome, Recording, Usage, frame::SyntaxError};
use tokio_util::sync::CancellationToken;

use super::bun::Bun;

/// Why a script was not found good.
#[derive(Debug)]
pub(crate) enum Unchecked {
    Syntax(SyntaxError),
    /// Nothing is known of it.
    Engine(String),
}

/// The engines that there are.
pub struct Engines {
    bun: Bun,
}

impl Engines {
    /// `bun` is its program, where the operator named it.
    pub(crate) fn new(node: Node, bun: Option<&Path>) -> Self {
        Self { bun: Bun::new(node, bun) }
    }

    /// Runs a call; `host` answers what it asks for.
    pub(crate) async fn run(&self, provider: Provider, team_id: &str, call: Call, host: &dyn Host, cancel: &CancellationToken) -> (Outcome, Recording) {
        match provider {
            Provider::QuickJs => {
                let ran = self.workers.run(team_id, call, host, cancel).await;
                (ran.outcome, ran.recording)
            }
            Provider::BunWorker | Provider::RemoteHttp => {
                (failed(Failure::internal(format!("{} is not on this machine", provider.as_str()))), Recording::default())
            }
        }
        if provider == Provider::BunWorker {
            let ran = self.bun.run(team_id, call, host, cancel).await;
            return (ran.outcome, ran.recording);
        }
        (failed(Failure::internal("there is no engine")), Recording::default())
    }

    /// Runs a call with the answers of a recording; in what it asked for other things.
    pub(crate) async fn replay(&self, team_id: &str, call: Call, recording: &Recording, cancel: &CancellationToken) -> (Outcome, Recording, Vec<String>) {
        let Replayed { ran, diverged } = self.workers.replay(team_id, call, recording, cancel).await;
        (ran.outcome, ran.recording, diverged)
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

/// An end that came before a beginning.
pub(super) fn failed(failure: Failure) -> Outcome {
    Outcome { result: Err(failure), logs: Vec::new(), usage: Usage::default(), clock: None }
}

pub(super) fn strip(_: &str, _: &str) -> Result<String, SyntaxError> {
    Err(SyntaxError { message: "TypeScript is not there yet".to_owned(), line: 1, column: 1 })
}
