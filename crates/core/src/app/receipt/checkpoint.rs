//! Checkpoints: receipts are kept for a time, and the first one that is left follows one that is gone. What stands in its place is
//! signed like a receipt, so that nobody else can cut a chain and call it whole.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Key, PublicKey, VERSION, canonical};

/// What is signed begins so, and with it no receipt does.
const DOMAIN: &str = "sandbar receipts checkpoint 1\n";

/// Up to where the receipts of a chain are not kept any longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// [`VERSION`].
    pub version: u32,
    pub chain: String,
    /// The number of the last one that is gone.
    pub sequence: u64,
    /// Its hash, which the next one names.
    pub sha256: String,
    pub removed_at_ms: i64,
    /// [`PublicKey::id`] of the key that signs.
    pub key_id: String,
}

/// A checkpoint and the proof of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedCheckpoint {
    pub checkpoint: Checkpoint,
    /// Ed25519 over `sandbar receipts checkpoint 1`, a line feed and the checkpoint's canonical JSON; in lower-case hex.
    pub signature: String,
    pub public_key: PublicKey,
}

impl Checkpoint {
    /// What stands for the receipts of a chain up to a number.
    pub fn new(chain: &str, sequence: u64, sha256: &str, removed_at_ms: i64) -> Self {
        Self { version: VERSION, chain: chain.to_owned(), sequence, sha256: sha256.to_owned(), removed_at_ms, key_id: String::new() }
    }

    pub(super) fn message(&self) -> Vec<u8> {
        // A struct of texts and whole numbers is always JSON.
        format!("{DOMAIN}{}", canonical::text(&serde_json::to_value(self).unwrap_or(Value::Null))).into_bytes()
    }
}

/// Signs a checkpoint, and writes the key's id into it.
pub fn sign_checkpoint(checkpoint: &Checkpoint, key: &Key) -> SignedCheckpoint {
    let public_key = key.public_key();
    let checkpoint = Checkpoint { key_id: public_key.id(), ..checkpoint.clone() };
    SignedCheckpoint { signature: hex::encode(key.sign(&checkpoint.message())), public_key, checkpoint }
}
