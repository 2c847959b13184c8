//! Whether receipts are what they say.

use std::fmt;

use super::{Item, PublicKey, Receipt, Signed, SignedCheckpoint, VERSION};
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

/// Which receipt it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brief {
    pub id: String,
    pub sequence: u64,
    pub public_key: PublicKey,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong, in order; at most [`limits::RECEIPT_PROBLEMS_MAX`].
    pub problems: Vec<ChainProblem>,
    /// How much else is wrong.
    pub more_problems: usize,
    /// How many were looked at.
    pub receipts: usize,
    /// The oldest and the newest of them.
    pub ends: Option<(Brief, Brief)>,
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

/// Looks at receipts one after the other: whether they are what was signed, and follow one another as is demanded. It keeps the first and the
/// last of them.
#[derive(Debug)]
pub struct Verifier {
    trusted: Option<PublicKey>,
    demand: Demand,
    checkpoints: Vec<SignedCheckpoint>,
    first: Option<Box<Signed>>,
    last: Option<Box<Signed>>,
    count: usize,
    /// The newest comes first.
    backwards: bool,
    report: Report,
}

impl Verifier {
    pub fn new(trusted: Option<PublicKey>, demand: Demand) -> Self {
        Self { trusted, demand, checkpoints: Vec::new(), first: None, last: None, count: 0, backwards: false, report: Report::default() }
    }

    pub fn push(&mut self, item: Item) {
        match item {
            Item::Checkpoint(checkpoint) => self.checkpoints.push(checkpoint),
            Item::Receipt(signed) => self.receipt(signed),
        }
    }

    fn receipt(&mut self, signed: Box<Signed>) {
        let index = self.count;
        self.count += 1;
        if let Err(error) = verify(&signed, self.trusted.as_ref()) {
            self.report.wrong(index, &signed, error.into());
        }
        if (signed.receipt.sequence == 1) != signed.receipt.previous_sha256.is_none() {
            self.report.wrong(index, &signed, Problem::First { sequence: signed.receipt.sequence, named: named(&signed) });
        }
        if let Some(last) = self.last.take() {
            if index == 1 {
                self.backwards = last.receipt.chain == signed.receipt.chain && last.receipt.sequence > signed.receipt.sequence;
            }
            if self.backwards { self.pair(&signed, &last, index - 1) } else { self.pair(&last, &signed, index) }
        }
        if index == 0 {
            self.first = Some(signed.clone());
        }
        self.last = Some(signed);
    }

    /// Two that stand beside one another.
    fn pair(&mut self, before: &Signed, signed: &Signed, index: usize) {
        match link(before, signed) {
            Some(Problem::Gap { before, found }) => {
                if self.demand == Demand::Chain {
                    self.report.wrong(index, signed, Problem::Gap { before, found });
                }
                self.report.missing = self.report.missing.saturating_add(found - before - 1);
            }
            Some(problem) => self.report.wrong(index, signed, problem),
            None => {}
        }
        if signed.public_key != before.public_key && self.trusted.is_none() {
            let problem = Problem::KeyChanged { before: before.public_key.id(), found: signed.public_key.id() };
            self.report.wrong(index, signed, problem);
        }
    }

    /// What came of all of them.
    pub fn end(self) -> Report {
        let Self { trusted, demand, checkpoints, first, last, count, backwards, mut report } = self;
        let (oldest, newest, index) = if backwards { (last, first, count.saturating_sub(1)) } else { (first, last, 0) };
        if demand == Demand::Chain
            && let Some(signed) = &oldest
            && let Some(problem) = begin(signed, &checkpoints, trusted.as_ref())
        {
            report.wrong(index, signed, problem);
        }
        report.problems.sort_by_key(|problem| problem.index);
        report.receipts = count;
        report.ends = oldest.zip(newest).map(|(oldest, newest)| (oldest.brief(), newest.brief()));
        report
    }
}

impl Signed {
    fn brief(&self) -> Brief {
        Brief { id: cut(&self.receipt.id), sequence: self.receipt.sequence, public_key: self.public_key }
    }
}

impl Report {
    fn wrong(&mut self, index: usize, signed: &Signed, problem: Problem) {
        if self.problems.len() >= limits::RECEIPT_PROBLEMS_MAX {
            self.more_problems += 1;
            return;
        }
        self.problems.push(ChainProblem { index, id: cut(&signed.receipt.id), sequence: signed.receipt.sequence, problem });
    }

    /// Nothing is wrong.
    pub fn is_right(&self) -> bool {
        self.problems.is_empty()
    }
}

fn named(signed: &Signed) -> String {
    signed.receipt.previous_sha256.as_deref().map_or_else(|| "none".to_owned(), cut)
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
    (receipt.previous_sha256.as_ref() != Some(stands)).then(|| Problem::Link { before: cut(stands), named: named(first) })
}

/// Why one does not follow another.
fn link(before: &Signed, signed: &Signed) -> Option<Problem> {
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
    (receipt.previous_sha256.as_deref() != Some(hash.as_str())).then(|| Problem::Link { before: hash, named: named(signed) })
}

/// Texts of a stranger's in messages.
fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).take(80).collect()
}
