//! Redaction of a log whose lines are told one by one, those of several outputs among each other: each line has its own answer at once,
//! and a secret of several lines is found all the same.

use std::{collections::HashMap, hash::Hash};

use super::{
    EFFORT_MAX_BYTES, EFFORT_PER_BYTE, Redactor, TOO_ALIKE,
    swaps::{Begin, Over, Room},
};

/// Outputs that are in the middle of a secret at once. Beyond them all are forgotten: lines of secrets are still found by themselves.
const LANES_MAX: usize = 1024;

/// Takes secrets out of lines. What may still become a secret is taken out from its fourth byte on: nobody waits for the next line.
pub struct LineRedactor<Lane> {
    redactor: Redactor,
    /// The last bytes of outputs that may be the begin of a secret, as far as they were told.
    begun: HashMap<Lane, Vec<u8>>,
    spent: usize,
    over: bool,
}

impl<Lane: Eq + Hash> LineRedactor<Lane> {
    pub fn new(redactor: &Redactor) -> Self {
        Self { redactor: redactor.clone(), begun: HashMap::new(), spent: 0, over: false }
    }

    /// The same with other secrets from here on.
    pub fn renew(&mut self, redactor: &Redactor) {
        self.redactor = redactor.clone();
    }

    /// A line of an output, without its end; `goes_on` says that the next of the same output is the rest of it.
    pub fn line(&mut self, lane: Lane, text: &str, goes_on: bool) -> String {
        if self.redactor.is_empty() {
            return text.to_owned();
        }
        if self.over {
            return String::new();
        }
        self.spent = self.spent.saturating_sub((text.len() + 1).saturating_mul(EFFORT_PER_BYTE));
        let mut room = Room::new(usize::MAX, EFFORT_MAX_BYTES - self.spent);
        let told = self.told(lane, text, goes_on, &mut room);
        self.spent = EFFORT_MAX_BYTES - room.effort();
        told.unwrap_or_else(|Over| {
            self.over = true;
            TOO_ALIKE.trim_end().to_owned()
        })
    }

    fn told(&mut self, lane: Lane, text: &str, goes_on: bool, room: &mut Room) -> Result<String, Over> {
        let mut bytes = self.begun.remove(&lane).unwrap_or_default();
        let before = bytes.len();
        bytes.extend_from_slice(text.as_bytes());
        let end = bytes.len();
        if !goes_on {
            bytes.push(b'\n');
        }
        let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
        while at < bytes.len() {
            let (length, to) = match self.redactor.secrets.swaps.begin(&bytes[at..], true, room)? {
                Begin::Whole((from, to)) => (from.len(), Some(to)),
                Begin::Begun(swap) => {
                    if self.begun.len() >= LANES_MAX {
                        self.begun.clear();
                    }
                    self.begun.insert(lane, bytes[at..].to_vec());
                    mark_or_show(&mut out, &bytes[..end], (at.max(before), end), swap.map(|(_, to)| to));
                    break;
                }
                Begin::Nothing => (1, None),
            };
            mark_or_show(&mut out, &bytes[..end], (at.max(before), (at + length).min(end)), to);
            at += length;
        }
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

/// Puts a mark in the place of what of a secret is in this line, or what is none.
fn mark_or_show(out: &mut Vec<u8>, bytes: &[u8], (from, to): (usize, usize), mark: Option<&String>) {
    if from < to {
        out.extend_from_slice(mark.map_or(&bytes[from..to], |mark| mark.as_bytes()));
    }
}
