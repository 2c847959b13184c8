//! Script functions: one run of one script, whoever asks for it.

use std::{sync::Arc, time::Duration};

use sandbar_core::script::RunTrigger;
use sandbar_scripts::Outcome;
use sandbar_store::{ScriptRecord, ScriptVersion};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub(crate) mod bun;

/// In whose name a script runs, and whose rules its reads go by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub user_id: Option<String>,
    pub email: Option<String>,
    /// Of the team, or `service:NAME`; none for the system.
    #[serde(default)]
    pub roles: Vec<String>,
}

/// A run that is wanted.
pub(crate) struct Ask {
    pub script: Arc<ScriptRecord>,
    pub version: Arc<ScriptVersion>,
    pub run_id: String,
    pub trigger: RunTrigger,
    /// What `ctx.data` is.
    pub data: Box<RawValue>,
    pub subject: Subject,
    /// How many scripts it came through.
    pub depth: u32,
    /// Which try of a job, from 1.
    pub attempt: u32,
    /// The job that is ended with it, in one commit.
    pub job_id: Option<String>,
    /// The run is told by it that it is not wanted any more.
    pub cancel: tokio_util::sync::CancellationToken,
}

/// What came of a run.
pub(crate) struct Ran {
    pub outcome: Outcome,
    /// `quickjs`, `bun-worker` or `remote-http`.
    pub provider: &'static str,
    pub duration: Duration,
}
