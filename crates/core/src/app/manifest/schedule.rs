//! What of an app runs by itself.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Rate, Resources};
use crate::{app::amount::Amount, script};

/// When something of the app runs by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    pub name: String,
    /// One of the keys `cron`, `rate` and `once`.
    #[serde(flatten)]
    pub when: When,
    /// The keys `timezone`, `missedRunPolicy` and so on, as schedules of scripts have them.
    #[serde(flatten)]
    pub policy: script::Schedule,
    pub enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_at: Option<Timestamp>,
    /// None: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_runs: Option<u32>,
    pub target: Target,
    /// None: as the target says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires_start: Option<bool>,
    #[serde(default)]
    pub runtime_policy: RuntimePolicy,
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<Quotas>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_policy: Option<Retention>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What the runs get as their input, as it was written: defaults are applied for each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Five fields, or six with seconds first, or a name such as `@hourly`; see [`crate::script::cron`].
    Cron(String),
    Rate(Rate),
    Once(Timestamp),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Target {
    /// The start command, until it ends. Only in a sandbox of the run's own.
    Start,
    Action {
        name: String,
    },
    /// The service's command, until it ends. What it depends on is started before.
    Service {
        name: String,
    },
    /// A command of the schedule's own.
    Command {
        command: String,
    },
}

/// Where the runs of a schedule happen, and what becomes of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimePolicy {
    #[default]
    RunAndStop,
    RunAndArchive,
    RunAndDelete,
    /// In the app sandbox, which has to run.
    UseExistingRunning,
}

/// What a run may cost by the server's price table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    pub max_usd: Amount,
}

/// What is kept of the sandboxes that `run_and_stop` stops; none says it: the server's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// The newest of the schedule.
    pub keep_last: u32,
}

/// Further bounds of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quotas {
    /// From the begin of the run on, with its sandbox and all that is started before its command. What a command is given by
    /// itself holds, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duration_seconds: Option<u32>,
    /// The same as the budget's; of both the smaller one holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_spend_usd: Option<Amount>,
}

impl Schedule {
    /// What a run may cost, in millionths of a dollar.
    pub fn max_spend_micros(&self) -> Option<u64> {
        let said = [self.budget.map(|budget| budget.max_usd), self.quotas.and_then(|quotas| quotas.max_spend_usd)];
        said.into_iter().flatten().min().map(Amount::micros)
    }
}

named!(RuntimePolicy: RunAndStop = "run_and_stop", RunAndArchive = "run_and_archive", RunAndDelete = "run_and_delete", UseExistingRunning = "use_existing_running");
