//! Receipts from text as it comes: one, a JSON list of them, or one on each line; with them perhaps the checkpoint that their chain begins
//! at. No more of it than one of them is in memory.

use serde::{Deserialize, de::IgnoredAny};

use super::{Signed, SignedCheckpoint};
use crate::limits::apps as limits;

/// What a text holds, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Receipt(Box<Signed>),
    Checkpoint(SignedCheckpoint),
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
    #[error("there are more than {} checkpoints", limits::RECEIPT_CHECKPOINTS_MAX)]
    Checkpoints,
}

/// What an object is by.
#[derive(Deserialize)]
struct Which {
    checkpoint: Option<IgnoredAny>,
}

/// Takes a text apart into its objects.
#[derive(Debug, Default)]
pub struct Reader {
    place: Place,
    /// It began with a bracket.
    is_list: bool,
    /// Of the object that is read.
    object: Vec<u8>,
    depth: usize,
    string: InString,
    /// Objects that were read.
    number: usize,
    receipts: usize,
    checkpoints: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Begin,
    /// Behind a bracket, where a list may end; behind a comma, where it may not.
    First,
    Next,
    Object,
    After,
    /// Behind the end of a list.
    End,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum InString {
    #[default]
    No,
    Yes,
    Escaped,
}

impl Reader {
    /// Reads on: each object that is whole by then is handed out.
    pub fn feed(&mut self, bytes: &[u8], each: &mut impl FnMut(Item)) -> Result<(), ReadError> {
        for &byte in bytes {
            if self.place == Place::Object {
                if self.object.len() >= limits::RECEIPT_MAX_BYTES {
                    return Err(ReadError::TooLarge { number: self.number + 1 });
                }
                self.object.push(byte);
                self.within(byte);
                if self.depth == 0 {
                    self.whole(each)?;
                }
            } else if !byte.is_ascii_whitespace() {
                self.between(byte)?;
            }
        }
        Ok(())
    }

    /// At the end of the text.
    pub fn end(self) -> Result<(), ReadError> {
        match self.place {
            Place::Object => Err(self.none("it has no end")),
            Place::Begin | Place::First | Place::Next | Place::After if self.is_list => Err(self.none("the list has no end")),
            Place::Begin | Place::First | Place::Next | Place::After | Place::End if self.receipts == 0 => Err(ReadError::Empty),
            Place::Begin | Place::First | Place::Next | Place::After | Place::End => Ok(()),
        }
    }

    fn none(&self, message: &str) -> ReadError {
        ReadError::NoReceipt { number: self.number + 1, message: message.to_owned() }
    }

    /// Whether what is read is JSON at all is looked at when it is whole; here only where it ends.
    fn within(&mut self, byte: u8) {
        self.string = match (self.string, byte) {
            (InString::Escaped, _) => InString::Yes,
            (InString::Yes, b'\\') => InString::Escaped,
            (InString::Yes, b'"') => InString::No,
            (InString::Yes, _) => InString::Yes,
            (InString::No, b'"') => InString::Yes,
            (InString::No, _) => {
                match byte {
                    b'{' => self.depth += 1,
                    b'}' => self.depth -= 1,
                    _ => {}
                }
                InString::No
            }
        };
    }

    fn between(&mut self, byte: u8) -> Result<(), ReadError> {
        let begins_object = match self.place {
            Place::Begin | Place::First | Place::Next => true,
            // Without a list one follows the other.
            Place::After => !self.is_list,
            Place::Object | Place::End => false,
        };
        self.place = match (self.place, byte) {
            (_, b'{') if begins_object => {
                self.object.push(byte);
                self.depth = 1;
                Place::Object
            }
            (Place::Begin, b'[') => {
                self.is_list = true;
                Place::First
            }
            (Place::First, b']') => Place::End,
            (Place::After, b']') if self.is_list => Place::End,
            (Place::After, b',') if self.is_list => Place::Next,
            (Place::End, _) => return Err(self.none("it stands behind the end of the list")),
            (Place::After, _) if self.is_list => return Err(self.none("a comma or the end of the list is missing before it")),
            _ => return Err(self.none("it is no JSON object")),
        };
        Ok(())
    }

    fn whole(&mut self, each: &mut impl FnMut(Item)) -> Result<(), ReadError> {
        let number = self.number + 1;
        let none = |error: serde_json::Error| ReadError::NoReceipt { number, message: error.to_string() };
        // What is no object is told of by what reads a receipt.
        if serde_json::from_slice::<Which>(&self.object).is_ok_and(|which| which.checkpoint.is_some()) {
            self.checkpoints += 1;
            if self.checkpoints > limits::RECEIPT_CHECKPOINTS_MAX {
                return Err(ReadError::Checkpoints);
            }
            each(Item::Checkpoint(serde_json::from_slice(&self.object).map_err(none)?));
        } else {
            self.receipts += 1;
            each(Item::Receipt(serde_json::from_slice(&self.object).map_err(none)?));
        }
        self.object.clear();
        self.number = number;
        self.place = Place::After;
        Ok(())
    }
}
