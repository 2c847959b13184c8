//! Whether receipts are what they say.

use std::fmt;

use super::{PublicKey, Receipt, Signed, VERSION};
use crate::limits::apps as limits;

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
}

/// Why a text holds no receipts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("there is no receipt")]
    Empty,
    #[error("receipt {number} is none: {message}")]
    NoReceipt { number: usize, message: String },
    #[error("receipt {number} has more than {} bytes", limits::RECEIPT_MAX_BYTES)]
    TooLarge { number: usize },
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
    if let Some(trusted) = trusted
        && trusted != public_key
    {
        return Err(VerifyError::OtherKey { found: public_key.id(), trusted: trusted.id() });
    }
    let found = receipt.sha256();
    if found != *sha256 {
        return Err(VerifyError::Altered { said: cut(sha256), found });
    }
    let signature = hex::decode(signature).map_err(|_| VerifyError::Signature)?;
    if !public_key.verifies(&receipt.message(), &signature) {
        return Err(VerifyError::Signature);
    }
    // After the signature: before it, what the receipt names is anybody's word.
    if receipt.key_id != public_key.id() {
        return Err(VerifyError::KeyId { named: cut(&receipt.key_id), found: public_key.id() });
    }
    Ok(())
}

/// Whether receipts are what was signed, follow one another, and none between them is missing. They may begin anywhere in their
/// chain. Says everything that is wrong, in order.
pub fn verify_chain(receipts: &[Signed], trusted: Option<&PublicKey>) -> Vec<ChainProblem> {
    let mut problems = Vec::new();
    for (index, signed) in receipts.iter().enumerate() {
        let receipt = &signed.receipt;
        let mut wrong = |problem| problems.push(ChainProblem { index, id: cut(&receipt.id), sequence: receipt.sequence, problem });
        if let Err(error) = verify(signed, trusted) {
            wrong(error.into());
        }
        let named = || receipt.previous_sha256.as_deref().map_or_else(|| "none".to_owned(), cut);
        if (receipt.sequence == 1) != receipt.previous_sha256.is_none() {
            wrong(Problem::First { sequence: receipt.sequence, named: named() });
        }
        let Some(before) = index.checked_sub(1).and_then(|before| receipts.get(before)) else { continue };
        if let Some(problem) = link(before, signed, named) {
            wrong(problem);
        }
        if signed.public_key != before.public_key && trusted.is_none() {
            wrong(Problem::KeyChanged { before: before.public_key.id(), found: signed.public_key.id() });
        }
    }
    problems
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

/// Reads one receipt, a JSON list of them, or one on each line.
pub fn read(text: &str) -> Result<Vec<Signed>, ReadError> {
    let text = text.trim();
    let none = |number, error: serde_json::Error| ReadError::NoReceipt { number, message: error.to_string() };
    if text.starts_with('[') {
        let items: Vec<Box<serde_json::value::RawValue>> = serde_json::from_str(text).map_err(|error| none(1, error))?;
        return all(items.iter().map(|item| item.get()));
    }
    // One object over several lines, or several on one line each.
    let stream = serde_json::Deserializer::from_str(text).into_iter::<Box<serde_json::value::RawValue>>();
    let items = stream.enumerate().map(|(at, item)| item.map_err(|error| none(at + 1, error))).collect::<Result<Vec<_>, _>>()?;
    all(items.iter().map(|item| item.get()))
}

fn all<'a>(items: impl Iterator<Item = &'a str>) -> Result<Vec<Signed>, ReadError> {
    let read = |(at, item): (usize, &str)| {
        let number = at + 1;
        if item.len() > limits::RECEIPT_MAX_BYTES {
            return Err(ReadError::TooLarge { number });
        }
        serde_json::from_str::<Signed>(item).map_err(|error| ReadError::NoReceipt { number, message: error.to_string() })
    };
    let receipts = items.enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    if receipts.is_empty() { Err(ReadError::Empty) } else { Ok(receipts) }
}

/// Texts of a stranger's in messages.
fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).take(80).collect()
}
