//! A machine that is easy to steer: its scripts are single words.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::value::{RawValue, to_raw_value};
use tokio::task::JoinHandle;

use super::desk::{Desk, Machine};
use crate::{
    Failure, FailureCode, Level, Link, LogLine, Op, Usage,
    frame::{self, Asked, Checked, Done, Kind, Run, Settle, Step, SyntaxError},
};

/// Ops of a walk that wait at once.
const PENDING_MAX: u64 = 8;

pub(crate) struct Fake;

/// What a script is at.
pub(crate) enum Guest {
    /// Says what it was told.
    Wait,
    /// Asks on and on, and what it asks follows from the seed and from every answer so far and their order.
    Walk { state: u64, seq: u32, left: u32, waiting: BTreeMap<u32, Op> },
}

/// One end for [`Link::open`]; the other has a desk with two threads.
pub(crate) async fn link() -> (Link, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let desk = Arc::new(Desk::new(Fake, theirs.try_clone().unwrap()));
    desk.say(&frame::encode(Kind::Ready, 0, b"")).unwrap();
    for _ in 0..2 {
        let desk = Arc::clone(&desk);
        thread::spawn(move || desk.work());
    }
    thread::spawn(move || desk.read(theirs));
    ours.set_nonblocking(true).unwrap();
    let (read, write) = tokio::net::UnixStream::from_std(ours).unwrap().into_split();
    Link::open(read, write).await.unwrap()
}

impl Machine for Fake {
    type Instance = Guest;

    fn check(&self, code: &str, _: &str) -> Checked {
        assert_ne!(code, "panic");
        Checked { error: (code == "wrong").then(|| SyntaxError { message: "unexpected token".into(), line: 3, column: 9 }) }
    }

    fn start(&self, run: Run, cancel: Arc<AtomicBool>) -> (Option<Guest>, Step) {
        match run.code.as_str() {
            "echo" => (None, value(Some(run.data))),
            "undefined" => (None, value(None)),
            "panic" => panic!("as told"),
            "spin" => {
                while !cancel.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                (None, ended(FailureCode::Cancelled))
            }
            "wait" => (Some(Guest::Wait), ask(&[(1, Op::Fetch, "1")])),
            "doze" => (Some(Guest::Wait), ask(&[(1, Op::Sleep, r#"{"ms":1}"#)])),
            "slumber" => (Some(Guest::Wait), ask(&[(1, Op::Sleep, r#"{"ms":1e12}"#), (2, Op::DbList, "1")])),
            "walk" => {
                let state = run.seed.bytes().fold(7, mix);
                let mut guest = Guest::Walk { state, seq: 0, left: 40, waiting: BTreeMap::new() };
                let step = guest.walk();
                (step.done.is_none().then_some(guest), step)
            }
            other => (None, value(Some(to_raw_value(&format!("no {other}")).unwrap()))),
        }
    }

    fn settle(guest: &mut Guest, settle: Settle) -> Step {
        let told = match (&settle.value, &settle.error) {
            (Some(value), _) => value.get().to_owned(),
            (None, Some(error)) => format!("{:?} {}", error.code, error.message),
            (None, None) => "nothing".to_owned(),
        };
        match guest {
            Guest::Wait => value(Some(to_raw_value(&told).unwrap())),
            Guest::Walk { state, waiting, .. } => {
                let op = waiting.remove(&settle.seq).unwrap();
                *state = told.bytes().chain(settle.seq.to_be_bytes()).chain([op as u8]).fold(*state, mix);
                guest.walk()
            }
        }
    }

    fn cancel(_: Guest) -> Done {
        ended(FailureCode::Cancelled).done.unwrap()
    }
}

impl Guest {
    fn walk(&mut self) -> Step {
        let Self::Walk { state, seq, left, waiting } = self else { unreachable!() };
        let mut step = Step { logs: vec![line(&format!("{state:x}"))], ..Step::default() };
        // At least one when nothing is under way.
        let more = (*state % 4).max(u64::from(waiting.is_empty())).min(u64::from(*left)).min(PENDING_MAX - waiting.len() as u64);
        for _ in 0..more {
            *state = mix(*state, 1);
            *seq += 1;
            *left -= 1;
            let op = Op::ALL[(*state % 6) as usize];
            let args = if op == Op::Sleep { format!(r#"{{"ms":{}}}"#, *state % 3) } else { format!(r#"{{"n":{}}}"#, *state % 5) };
            waiting.insert(*seq, op);
            step.ops.push(Asked { seq: *seq, op, args: RawValue::from_string(args).unwrap() });
        }
        if waiting.is_empty() {
            step.done = value(Some(to_raw_value(&format!("{state:x}")).unwrap())).done;
        }
        step
    }
}

fn mix(state: u64, byte: u8) -> u64 {
    let state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    state ^ (state >> 29)
}

fn line(text: &str) -> LogLine {
    LogLine { level: Level::Log, at_ms: 0, text: text.to_owned() }
}

pub(crate) fn ask(ops: &[(u32, Op, &str)]) -> Step {
    let ops = ops.iter().map(|(seq, op, args)| Asked { seq: *seq, op: *op, args: RawValue::from_string((*args).to_owned()).unwrap() });
    Step { ops: ops.collect(), ..Step::default() }
}

pub(crate) fn value(value: Option<Box<RawValue>>) -> Step {
    Step { done: Some(Done { value, failure: None, usage: Usage { cpu_us: 5, peak_memory_bytes: 6 }, clock: None }), ..Step::default() }
}

fn ended(code: FailureCode) -> Step {
    let failure = Failure { code, name: "Error".into(), message: "as told".into(), stack: None };
    Step { done: Some(Done { value: None, failure: Some(failure), usage: Usage { cpu_us: 5, peak_memory_bytes: 6 }, clock: None }), ..Step::default() }
}
