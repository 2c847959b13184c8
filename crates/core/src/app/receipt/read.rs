//! Receipts from text: one, a JSON list of them, or one on each line; with them perhaps the checkpoint that their chain begins at.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{Signed, SignedCheckpoint};
use crate::limits::apps as limits;

/// What a text holds, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    pub receipts: Vec<Signed>,
    pub checkpoints: Vec<SignedCheckpoint>,
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

/// What an object is by.
#[derive(Deserialize)]
struct Which {
    checkpoint: Option<IgnoredAny>,
}

/// Reads one receipt, a JSON list of them, or one on each line.
pub fn read(text: &str) -> Result<Document, ReadError> {
    let text = text.trim();
    let none = |number, error: serde_json::Error| ReadError::NoReceipt { number, message: error.to_string() };
    if text.starts_with('[') {
        let items: Vec<Box<RawValue>> = serde_json::from_str(text).map_err(|error| none(1, error))?;
        return all(items.iter().map(|item| item.get()));
    }
    // One object over several lines, or several on one line each.
    let stream = serde_json::Deserializer::from_str(text).into_iter::<Box<RawValue>>();
    let items = stream.enumerate().map(|(at, item)| item.map_err(|error| none(at + 1, error))).collect::<Result<Vec<_>, _>>()?;
    all(items.iter().map(|item| item.get()))
}

fn all<'a>(items: impl Iterator<Item = &'a str>) -> Result<Document, ReadError> {
    let mut document = Document::default();
    for (at, item) in items.enumerate() {
        let number = at + 1;
        let none = |error: serde_json::Error| ReadError::NoReceipt { number, message: error.to_string() };
        if item.len() > limits::RECEIPT_MAX_BYTES {
            return Err(ReadError::TooLarge { number });
        }
        // What is no object is told of by what reads a receipt.
        if serde_json::from_str::<Which>(item).is_ok_and(|which| which.checkpoint.is_some()) {
            document.checkpoints.push(serde_json::from_str(item).map_err(none)?);
        } else {
            document.receipts.push(serde_json::from_str(item).map_err(none)?);
        }
    }
    if document.receipts.is_empty() { Err(ReadError::Empty) } else { Ok(document) }
}
