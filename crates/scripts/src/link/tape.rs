//! Answers from a recording: the world as a run saw it, once more.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::value::RawValue;

use crate::{Call, Op, OpError, OpResult, Recording, call::Clock, frame::Asked};

/// Sentences about differences, and the bytes of arguments that one quotes at most.
const DIVERGED_MAX: usize = 100;
const QUOTED_MAX: usize = 200;

#[derive(Debug)]
pub(super) struct Tape<'r> {
    recording: &'r Recording,
    /// What was asked and not asked again yet, by what it is.
    left: HashMap<Op, HashMap<&'r str, VecDeque<usize>>>,
    /// By when it is to be answered.
    waiting: BTreeMap<When, u32>,
    /// In flight at the end of the recorded run: it had no answer.
    without_answer: usize,
    answers: HashMap<u32, Found>,
    diverged: Vec<String>,
}

/// When an op is answered, next to others that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    /// There is nothing to wait for.
    Now(u32),
    Recorded(u32),
    /// In the order in which they were asked.
    Last(u32),
}

#[derive(Debug, Clone, Copy)]
enum Found {
    Record(usize),
    /// A timer that there was not.
    Sleep,
    Nothing,
}

/// The clock and what is random are part of the world.
pub(super) fn prepare(call: &mut Call, recording: &Recording) {
    let mut seed = [0; 32];
    if hex::decode_to_slice(&recording.seed, &mut seed).is_ok() {
        call.seed = seed;
    }
    // It stands still where nothing is known about it.
    let known = recording.clock.clone().or_else(|| call.clock.take());
    call.clock = Some(known.unwrap_or_else(|| Clock(vec![(0, 1)])));
}

impl<'r> Tape<'r> {
    pub fn new(recording: &'r Recording) -> Self {
        let mut left: HashMap<Op, HashMap<&str, VecDeque<usize>>> = HashMap::new();
        for (place, record) in recording.ops.iter().enumerate() {
            left.entry(record.op).or_default().entry(record.args.get()).or_default().push_back(place);
        }
        Self { recording, left, waiting: BTreeMap::new(), without_answer: 0, answers: HashMap::new(), diverged: Vec::new() }
    }

    pub fn ask(&mut self, asked: &Asked) {
        let place = self.left.get_mut(&asked.op).and_then(|left| left.get_mut(asked.args.get())).and_then(VecDeque::pop_front);
        let (when, found) = match place {
            Some(place) => match &self.recording.ops[place].answer {
                Some(answer) => (When::Recorded(answer.nth), Found::Record(place)),
                None => {
                    self.without_answer += 1;
                    return;
                }
            },
            // Timers are no asking of the host, and not every engine says a word of them.
            None if asked.op == Op::Sleep => (When::Last(asked.seq), Found::Sleep),
            None => {
                self.differs("asked now and not then", asked.op, &asked.args);
                (When::Now(asked.seq), Found::Nothing)
            }
        };
        // Two answers of one number are a recording that was made up; the order among them is anybody's.
        let mut when = when;
        while self.waiting.contains_key(&when) {
            when = When::Last(asked.seq);
        }
        self.waiting.insert(when, asked.seq);
        self.answers.insert(asked.seq, found);
    }

    /// The next answer; none when all that waits had none.
    pub fn next(&mut self) -> Option<(u32, OpResult)> {
        let (_, seq) = self.waiting.pop_first()?;
        let answer = match self.answers.remove(&seq) {
            Some(Found::Record(place)) => self.answer(place),
            Some(Found::Sleep) => Ok(RawValue::NULL.to_owned()),
            Some(Found::Nothing) | None => Err(OpError::internal("not in the recording")),
        };
        Some((seq, answer))
    }

    /// Whether something waits that will have no answer.
    pub fn is_stuck(&self) -> bool {
        self.waiting.is_empty() && self.without_answer > 0
    }

    /// All differences.
    pub fn finish(mut self) -> Vec<String> {
        let mut unasked: Vec<usize> = std::mem::take(&mut self.left).into_values().flat_map(HashMap::into_values).flatten().collect();
        unasked.sort_unstable();
        for place in unasked {
            let record = &self.recording.ops[place];
            if record.op == Op::Sleep {
                continue;
            }
            self.differs("asked then and not now", record.op, &record.args);
        }
        self.diverged
    }

    fn answer(&self, place: usize) -> OpResult {
        let answer = self.recording.ops[place].answer.as_ref();
        match answer.map(|answer| (&answer.value, &answer.error)) {
            Some((Some(value), _)) => Ok(value.clone()),
            Some((None, Some(error))) => Err(error.clone()),
            Some((None, None)) | None => Err(OpError::internal("its answer was too large to be recorded")),
        }
    }

    fn differs(&mut self, how: &str, op: Op, args: &RawValue) {
        if self.diverged.len() < DIVERGED_MAX {
            let args = args.get();
            // Whole or not at all: in a part nobody could tell what is secret.
            let quoted = if args.len() <= QUOTED_MAX { args.to_owned() } else { format!("({} bytes)", args.len()) };
            self.diverged.push(format!("{how}: {} {quoted}", op.as_str()));
        } else if self.diverged.len() == DIVERGED_MAX {
            self.diverged.push("and more".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_whole_or_not_at_all() {
        let recording = Recording::default();
        let mut tape = Tape::new(&recording);
        for (seq, length) in [(1, QUOTED_MAX - 2), (2, QUOTED_MAX)] {
            let args = serde_json::value::to_raw_value(&"x".repeat(length)).unwrap();
            tape.ask(&Asked { seq, op: Op::Fetch, args });
        }
        let whole = format!("asked now and not then: fetch \"{}\"", "x".repeat(QUOTED_MAX - 2));
        assert_eq!(tape.finish(), [whole, "asked now and not then: fetch (202 bytes)".to_owned()]);
    }
}
