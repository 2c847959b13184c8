//! Who runs the code of a script: one way to ask, whichever engine it is.

use std::sync::Arc;

use sandbar_core::script::provider::Provider;
use sandbar_scripts::{Call, Failure, Host, Outcome, Recording, Usage};
use tokio_util::sync::CancellationToken;

/// The engines that there are.
#[derive(Default)]
pub struct Engines {}

impl Engines {
    /// Runs a call; `host` answers what it asks for.
    pub(crate) async fn run(&self, provider: Provider, team_id: &str, call: Call, host: Arc<dyn Host>, cancel: &CancellationToken) -> (Outcome, Recording) {
        let _ = (provider, team_id, call, host, cancel);
        (failed(Failure::internal("there is no engine")), Recording::default())
    }

    /// Ends them.
    pub(crate) async fn close(&self) {}
}

/// An end that came before a beginning.
pub(super) fn failed(failure: Failure) -> Outcome {
    Outcome { result: Err(failure), logs: Vec::new(), usage: Usage::default(), clock: None }
}
