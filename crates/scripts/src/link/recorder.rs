//! Writes down what a run asks and what it is told, as far as there is room.

use std::{collections::BTreeMap, time::Instant};

use serde_json::value::RawValue;

use crate::{Op, OpRecord, OpResult, Recording, call::Clock, recording::Answer};

/// Of arguments and answers in one recording.
const RECORDING_BYTES_MAX: usize = 2 << 20;
/// What a record takes aside from those, about.
const RECORD_BYTES: usize = 128;
/// Ops that a message names.
const NAMED_MAX: usize = 8;

/// Of one run.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    ops: Vec<OpRecord>,
    /// Number of an op that waits, and its place in `ops`; none for one that there was no room for.
    waiting: BTreeMap<u32, (Op, Option<usize>)>,
    answers: u32,
    room: usize,
    incomplete: bool,
    seed: String,
}

impl Recorder {
    /// Begins with the run.
    pub fn new(seed: &[u8; 32]) -> Self {
        Self {
            started: Instant::now(),
            ops: Vec::new(),
            waiting: BTreeMap::new(),
            answers: 0,
            room: RECORDING_BYTES_MAX,
            incomplete: false,
            seed: hex::encode(seed),
        }
    }

    /// An op was asked for.
    pub fn asked(&mut self, seq: u32, op: Op, args: &RawValue) {
        let place = self.take(RECORD_BYTES).then(|| {
            let args = if self.take(args.get().len()) { args } else { RawValue::NULL }.to_owned();
            let asked_us = self.started.elapsed().as_micros() as u64;
            self.ops.push(OpRecord { seq, op, args, asked_us, answer: None });
            self.ops.len() - 1
        });
        self.waiting.insert(seq, (op, place));
    }

    /// It was answered. What was not asked for, or was answered before, is left alone.
    pub fn answered(&mut self, seq: u32, result: &OpResult) {
        let Some((_, place)) = self.waiting.remove(&seq) else { return };
        let nth = self.answers;
        self.answers += 1;
        let bytes = match result {
            Ok(value) => value.get().len(),
            Err(error) => error.message.len(),
        };
        let kept = place.is_some() && self.take(bytes);
        if let Some(record) = place.and_then(|place| self.ops.get_mut(place)) {
            let took_us = (self.started.elapsed().as_micros() as u64).saturating_sub(record.asked_us);
            let (value, error) = if kept { (result.as_ref().ok().cloned(), result.as_ref().err().cloned()) } else { (None, None) };
            record.answer = Some(Answer { nth, took_us, value, error });
        }
    }

    /// Of the kind of `op`: timers, or all others.
    pub(super) fn waiting(&self, op: Op) -> usize {
        self.waiting.values().filter(|(waiting, _)| (*waiting == Op::Sleep) == (op == Op::Sleep)).count()
    }

    /// `fetch, db.list`: what has no answer yet.
    pub(super) fn names_of_waiting(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (op, _) in self.waiting.values() {
            if !names.contains(&op.as_str()) && names.len() < NAMED_MAX {
                names.push(op.as_str());
            }
        }
        names.join(", ")
    }

    /// The last answers were not heard any more: the script had ended before.
    pub(super) fn unhear(&mut self, last: usize) {
        let heard = self.answers.saturating_sub(last as u32);
        for record in &mut self.ops {
            record.answer = record.answer.take().filter(|answer| answer.nth < heard);
        }
    }

    /// What was written down; with what the clock said, where an engine tells.
    pub fn finish(self, clock: Option<Clock>) -> Recording {
        Recording { ops: self.ops, clock, seed: self.seed, incomplete: self.incomplete }
    }

    /// Whether there is room for so much more. When once there is none the recording is of no use, and takes no more.
    fn take(&mut self, bytes: usize) -> bool {
        match self.room.checked_sub(bytes) {
            Some(left) if !self.incomplete => self.room = left,
            _ => self.incomplete = true,
        }
        !self.incomplete
    }
}
