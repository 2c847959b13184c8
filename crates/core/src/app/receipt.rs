//! Receipts: what a run was, what it used and what came of it, signed and chained.
//!
//! A receipt is a document of its own, good without the server that made it: whoever has the public key can tell that nothing in
//! it was changed, and whoever has several in a row that none is missing between them. What is signed is the canonical JSON
//! (see [`canonical`]), which is why all numbers are whole: money in millionths, times in milliseconds UTC.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{canonical, run};

mod checkpoint;
mod key;
mod price;
mod read;
#[cfg(test)]
mod tests;
mod usage;
mod verify;

pub use checkpoint::{Checkpoint, SignedCheckpoint, sign_checkpoint};
pub use key::{Key, KeyError, PublicKey};
pub use price::{BUDGET_CURRENCY, LineItem, NoBudget, Price, Prices, check_budget};
pub use read::{Item, ReadError, Reader};
pub use run::Ground;
pub use verify::{Brief, ChainProblem, Demand, Problem, Report, Verifier, VerifyError, verify, verify_checkpoint};

/// Of this form.
pub const VERSION: u32 = 1;
/// What is signed begins so: the same key signs nothing else that could be taken for it.
const DOMAIN: &str = "sandbar receipt 1\n";

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`VERSION`].
    pub version: u32,
    pub id: String,
    pub team_id: String,
    pub app_id: String,
    pub app_name: String,
    /// The number of the deployed version.
    pub app_version: u64,
    pub run_id: String,
    pub kind: Kind,
    /// Of the action or service.
    pub name: Option<String>,
    pub caused_by: CausedBy,
    /// Where it ran; none when it came to no sandbox.
    pub sandbox_id: Option<String>,
    /// SHA-256 of the manifest's canonical JSON.
    pub manifest_sha256: String,
    /// SHA-256 of the version's source.
    pub source_sha256: String,
    /// What lay below the files of the sandbox; none when that is not known.
    pub ground: Option<Ground>,
    /// As it was given to the shell. None when it never ran.
    pub command: Option<String>,
    /// SHA-256 of the canonical JSON of the input, with its defaults.
    pub input_sha256: Option<String>,
    pub created_at_ms: i64,
    /// When it began: its sandbox was looked for.
    pub started_at_ms: Option<i64>,
    /// When its command began.
    pub commanded_at_ms: Option<i64>,
    /// When all was over: what it left was fetched, too.
    pub finished_at_ms: i64,
    pub usage: Usage,
    pub status: Status,
    pub exit_code: Option<i32>,
    /// Why it ended so, when that is not clear from its status.
    pub reason: Option<String>,
    /// At most [`crate::limits::apps::RECEIPT_ARTIFACTS_MAX`].
    pub artifacts: Vec<Artifact>,
    /// All connections that were refused, those that are not in the list, too; none when that is not known.
    pub denied_total: Option<u64>,
    /// At most [`crate::limits::apps::RECEIPT_DENIALS_MAX`].
    pub denied: Vec<Denial>,
    /// None where the server has no prices.
    pub price: Option<Price>,
    /// The id of that within which receipts are counted: the team's.
    pub chain: String,
    /// From 1 on, without gaps.
    pub sequence: u64,
    /// Hash of the receipt before; none of the first.
    pub previous_sha256: Option<String>,
    /// [`PublicKey::id`] of the key that signs.
    pub key_id: String,
}

/// Who or what made it run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CausedBy {
    pub cause: run::RunCause,
    /// Who asked, if it was somebody; and by which key.
    pub user_id: Option<String>,
    pub key_id: Option<String>,
    pub schedule_id: Option<String>,
    /// The moment of the schedule that it is for.
    pub tick_at_ms: Option<i64>,
}

/// What was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[default]
    Action,
    Start,
    Service,
    /// A command of a schedule's own.
    Command,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
}

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// All of the sandbox that was made for the run.
    RunSandbox,
    /// The command and all that it started, by the kernel's count. Memory is that of the largest of them; disk is what
    /// they had written.
    Command,
    /// All of the app's sandbox while the command ran, with whatever else ran in it.
    AppSandbox,
}

/// What a run used. None: it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// From the start of the command to its end.
    pub duration_ms: Option<u64>,
    /// For which what it left was fetched after that.
    pub collecting_ms: Option<u64>,
    pub cpu_us: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    /// Of a sandbox: what its own files take in the end.
    pub disk_bytes: Option<u64>,
    pub network_sent_bytes: Option<u64>,
    pub network_received_bytes: Option<u64>,
    /// The server was started anew meanwhile: of the network, and of what it refused, only what came after that is counted.
    pub network_partial: bool,
    pub sources: Sources,
}

/// Where the figures come from; none of what is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    pub cpu: Option<Source>,
    pub memory: Option<Source>,
    pub disk: Option<Source>,
    pub network: Option<Source>,
}

/// A file that a run left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Relative to the workspace.
    pub path: String,
    pub sha256: String,
    pub size_bytes: u64,
    /// When it had been fetched.
    pub captured_at_ms: Option<i64>,
}

/// A connection that the network policy refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// A name or an address, with the port.
    pub destination: String,
    pub rule: String,
    pub count: u64,
}

/// A receipt and the proof of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    pub receipt: Receipt,
    /// Hash of the receipt, in lower-case hex, which the next one names.
    pub sha256: String,
    /// Ed25519 over `sandbar receipt 1`, a line feed and the receipt's canonical JSON; in lower-case hex.
    pub signature: String,
    /// The key to look with, in hex. That it is the server's is known only to who has it from elsewhere.
    pub public_key: PublicKey,
}

impl Receipt {
    /// The text that is hashed and signed.
    pub fn canonical(&self) -> String {
        // A struct of texts, whole numbers and lists of them is always JSON.
        canonical::text(&serde_json::to_value(self).unwrap_or(Value::Null))
    }

    pub fn sha256(&self) -> String {
        canonical::sha256(&serde_json::to_value(self).unwrap_or(Value::Null))
    }

    fn message(&self) -> Vec<u8> {
        format!("{DOMAIN}{}", self.canonical()).into_bytes()
    }
}

/// Signs a receipt, and writes the key's id into it.
pub fn sign(receipt: &Receipt, key: &Key) -> Signed {
    let public_key = key.public_key();
    let receipt = Receipt { key_id: public_key.id(), ..receipt.clone() };
    Signed { sha256: receipt.sha256(), signature: hex::encode(key.sign(&receipt.message())), public_key, receipt }
}
