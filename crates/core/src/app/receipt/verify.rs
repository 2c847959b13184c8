//! Whether receipts are what they say.

use std::fmt;

use super::{PublicKey, Receipt, Signed, SignedCheckpoint, VERSION};

/// What is wrong with one receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("is of version {0}, which is not known here; {VERSION} is")]
    Version(u32),
    #[error("was signed with another key ({found}) than the one that is trusted ({trusted})")]
    OtherKey { found: String, trusted: String },
    #[error("names the key {named}, but comes with {found}")]
    KeyId { named: String, found: String },
    #[error("was altered: its content has the SHA-256 {found}, and it says {said}")]
    Altered { said: String, found: String },
    #[error("has a signature that is not of its content and key: it was altered, or signed by somebody else")]
    Signature,
}

/// What is wrong with a receipt of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainProblem {
    /// Its place in what was given, from 0 on.
    pub index: usize,
    pub id: String,
    pub sequence: u64,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error(transparent)]
    Receipt(#[from] VerifyError),
    #[error("belongs to the chain {found}, and those before to {before}")]
    OtherChain { before: String, found: String },
    #[error("was signed with another key ({found}) than those before ({before})")]
    KeyChanged { before: String, found: String },
    #[error("follows number {before}: {} between them are missing", .found - .before - 1)]
    Gap { before: u64, found: u64 },
    #[error("has a number that is not after the one before, {before}: the order is wrong, or it is there twice")]
    Order { before: u64 },
    #[error("does not follow the one before: that has the SHA-256 {before}, and it names {named}")]
    Link { before: String, named: String },
    #[error("is number {sequence} and names {named} as the one before; only number 1 has none before")]
    First { sequence: u64, named: String },
    #[error("is the first, and the {missing} before it are missing: no checkpoint says that they were given up")]
    Begin { missing: u64 },
    #[error("follows a checkpoint that {0}")]
    Checkpoint(#[source] VerifyError),
}

/// What receipts are looked at for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Each of them is what was signed, and those that are neighbours follow one another. Others may be missing between them, such as
    /// those of other apps.
    Each,
    /// And none is missing, from the first of the chain on or from where a checkpoint says that the others were given up.
    Chain,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// All that is wrong, in order.
    pub problems: Vec<ChainProblem>,
    /// Numbers between those of the receipts of which none is there.
    pub missing: u64,
}

impl fmt::Display for ChainProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "receipt {} (number {}) {}", self.id, self.sequence, self.problem)
    }
}

/// Whether a receipt is what was signed. Without a key that is trusted, this says only that it was not altered by somebody who
/// has not its key: the key that it comes with may be anybody's.
pub fn verify(signed: &Signed, trusted: Option<&PublicKey>) -> Result<(), VerifyError> {
    let Signed { receipt, sha256, signature, public_key } = signed;
    if receipt.version != VERSION {
        return Err(VerifyError::Version(receipt.version));
    }
    whose(public_key, trusted)?;
    let found = receipt.sha256();
    if found != *sha256 {
        return Err(VerifyError::Altered { said: cut(sha256), found });
    }
    proof(public_key, &receipt.message(), signature, &receipt.key_id)
}

fn whose(public_key: &PublicKey, trusted: Option<&PublicKey>) -> Result<(), VerifyError> {
    match trusted {
        Some(trusted) if trusted != public_key => Err(VerifyError::OtherKey { found: public_key.id(), trusted: trusted.id() }),
        _ => Ok(()),
    }
}

fn proof(public_key: &PublicKey, message: &[u8], signature: &str, key_id: &str) -> Result<(), VerifyError> {
    let signature = hex::decode(signature).map_err(|_| VerifyError::Signature)?;
    if !public_key.verifies(message, &signature) {
        return Err(VerifyError::Signature);
    }
    // After the signature: before it, what is named is anybody's word.
    if key_id != public_key.id() {
        return Err(VerifyError::KeyId { named: cut(key_id), found: public_key.id() });
    }
    Ok(())
}

/// Whether a checkpoint is what was signed; as [`verify`].
pub fn verify_checkpoint(signed: &SignedCheckpoint, trusted: Option<&PublicKey>) -> Result<(), VerifyError> {
    let SignedCheckpoint { checkpoint, signature, public_key } = signed;
    if checkpoint.version != VERSION {
        return Err(VerifyError::Version(checkpoint.version));
    }
    whose(public_key, trusted)?;
    proof(public_key, &checkpoint.message(), signature, &checkpoint.key_id)
}

/// Whether receipts are what was signed, and follow one another as is demanded.
pub fn verify_chain(receipts: &[Signed], checkpoints: &[SignedCheckpoint], trusted: Option<&PublicKey>, demand: Demand) -> Report {
    let mut report = Report::default();
    for (index, signed) in receipts.iter().enumerate() {
        let receipt = &signed.receipt;
        let mut wrong = |problem| report.problems.push(ChainProblem { index, id: cut(&receipt.id), sequence: receipt.sequence, problem });
        if let Err(error) = verify(signed, trusted) {
            wrong(error.into());
        }
        let named = || receipt.previous_sha256.as_deref().map_or_else(|| "none".to_owned(), cut);
        if (receipt.sequence == 1) != receipt.previous_sha256.is_none() {
            wrong(Problem::First { sequence: receipt.sequence, named: named() });
        }
        let Some(before) = index.checked_sub(1).and_then(|before| receipts.get(before)) else {
            if demand == Demand::Chain
                && let Some(problem) = begin(signed, checkpoints, trusted)
            {
                wrong(problem);
            }
            continue;
        };
        match link(before, signed, named) {
            Some(Problem::Gap { before, found }) => {
                if demand == Demand::Chain {
                    wrong(Problem::Gap { before, found });
                }
                report.missing = report.missing.saturating_add(found - before - 1);
            }
            Some(problem) => wrong(problem),
            None => {}
        }
        if signed.public_key != before.public_key && trusted.is_none() {
            wrong(Problem::KeyChanged { before: before.public_key.id(), found: signed.public_key.id() });
        }
    }
    report
}

/// Why a chain does not begin with a receipt. One that a checkpoint names as the next begins it.
fn begin(first: &Signed, checkpoints: &[SignedCheckpoint], trusted: Option<&PublicKey>) -> Option<Problem> {
    let receipt = &first.receipt;
    if receipt.sequence <= 1 {
        return None;
    }
    let Some(signed) = checkpoints.iter().find(|signed| signed.checkpoint.chain == receipt.chain && signed.checkpoint.sequence == receipt.sequence - 1) else {
        return Some(Problem::Begin { missing: receipt.sequence - 1 });
    };
    // Somebody else's would let anybody cut a chain.
    if let Err(error) = verify_checkpoint(signed, Some(trusted.unwrap_or(&first.public_key))) {
        return Some(Problem::Checkpoint(error));
    }
    let stands = &signed.checkpoint.sha256;
    (receipt.previous_sha256.as_ref() != Some(stands))
        .then(|| Problem::Link { before: cut(stands), named: receipt.previous_sha256.as_deref().map_or_else(|| "none".to_owned(), cut) })
}

/// Why one does not follow another.
fn link(before: &Signed, signed: &Signed, named: impl FnOnce() -> String) -> Option<Problem> {
    let (last, receipt): (&Receipt, &Receipt) = (&before.receipt, &signed.receipt);
    if receipt.chain != last.chain {
        return Some(Problem::OtherChain { before: cut(&last.chain), found: cut(&receipt.chain) });
    }
    if receipt.sequence <= last.sequence {
        return Some(Problem::Order { before: last.sequence });
    }
    if receipt.sequence - last.sequence > 1 {
        return Some(Problem::Gap { before: last.sequence, found: receipt.sequence });
    }
    // What the one before hashes to, not what it says that it does.
    let hash = last.sha256();
    (receipt.previous_sha256.as_deref() != Some(hash.as_str())).then(|| Problem::Link { before: hash, named: named() })
}

/// Texts of a stranger's in messages.
fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).take(80).collect()
}
