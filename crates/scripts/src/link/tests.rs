use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use proptest::prelude::*;
use serde_json::value::{RawValue, to_raw_value};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    Failure, FailureCode, Level, Limits, LogLine, Op, OpError, OpResult, User,
    frame::{Asked, Done, Step},
    worker::fake,
};

fn call(code: &str, wall_ms: u64) -> Call {
    let wall = Duration::from_millis(wall_ms);
    Call {
        code: code.into(),
        name: "test".into(),
        data: RawValue::from_string(r#"{"a": 1}"#.into()).unwrap(),
        user: User::default(),
        limits: Limits { wall, cpu: wall, memory_bytes: 64 << 20, output_bytes: 1000, log_lines: 100, log_bytes: 1000, ops_pending: 8, ops: 50 },
        seed: [7; 32],
        clock: None,
    }
}

const LONG_MS: u64 = 60_000;

/// Under way, checks too.
fn calls(link: &Link) -> usize {
    link.own.shared.calls().open.len()
}

/// Answers with a number of its own, after some turns of the scheduler.
struct Moody(AtomicU64);

impl Moody {
    fn next(&self) -> u64 {
        let x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^ (x >> 31)
    }
}

impl Host for Moody {
    fn op<'a>(&'a self, op: Op, _: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        Box::pin(async move {
            for _ in 0..self.next() % 60 {
                tokio::task::yield_now().await;
            }
            match self.next() % 5 {
                0 => Err(OpError::denied(format!("{} no {}", op.as_str(), self.next()))),
                1 => Ok(RawValue::NULL.to_owned()),
                _ => Ok(to_raw_value(&self.next()).unwrap()),
            }
        })
    }
}

/// Never answers, and counts whom it leaves waiting.
#[derive(Default)]
struct Silent(AtomicUsize);

impl Host for Silent {
    fn op<'a>(&'a self, _: Op, _: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.0);
        Box::pin(async move {
            let _waiting = waiting;
            std::future::pending().await
        })
    }
}

fn result_of(ran: &Ran) -> Result<Option<&str>, (FailureCode, &str)> {
    match &ran.outcome.result {
        Ok(value) => Ok(value.as_deref().map(RawValue::get)),
        Err(failure) => Err((failure.code, &failure.message)),
    }
}

#[tokio::test]
async fn calls_end_as_they_should() {
    let (link, _) = fake::link().await;
    let (moody, cancel) = (Moody(AtomicU64::new(1)), CancellationToken::new());
    assert_eq!(result_of(&link.run(call("echo", LONG_MS), &moody, &cancel).await), Ok(Some(r#"{"a": 1}"#)));
    assert_eq!(result_of(&link.run(call("undefined", LONG_MS), &moody, &cancel).await), Ok(None));
    assert_eq!(result_of(&link.run(call("panic", LONG_MS), &moody, &cancel).await), Err((FailureCode::Internal, "the engine panicked")));
    assert_eq!(result_of(&link.run(call("doze", LONG_MS), &moody, &cancel).await), Ok(Some(r#""null""#)));
    let (one, two, three) =
        tokio::join!(link.run(call("walk", LONG_MS), &moody, &cancel), link.run(call("echo", LONG_MS), &moody, &cancel), link.check("wrong", "name"));
    assert!(one.outcome.result.is_ok() && two.outcome.result.is_ok());
    assert_eq!(three.unwrap_err().to_string(), "unexpected token (line 3, column 9)");
    assert!(link.check("good", "name").await.is_ok());
    assert!(matches!(link.check("panic", "name").await, Err(CheckError::Syntax(_))));
    assert_eq!(one.recording.ops.len(), 40);
    assert_eq!(calls(&link), 0);
}

#[tokio::test]
async fn time_that_is_up_gives_up_what_is_under_way() {
    let (link, _) = fake::link().await;
    let (silent, cancel) = (Silent::default(), CancellationToken::new());
    let ran = link.run(call("wait", 50), &silent, &cancel).await;
    assert_eq!(result_of(&ran), Err((FailureCode::Timeout, "timed out after 50ms (waiting for fetch)")));
    assert_eq!(silent.0.load(Ordering::Relaxed), 0);
    assert_eq!(ran.outcome.usage.cpu_us, 5, "the engine's own last word is heard");
    assert!(ran.recording.ops[0].answer.is_none());
    let ran = link.run(call("slumber", 50), &silent, &cancel).await;
    assert_eq!(result_of(&ran), Err((FailureCode::Timeout, "timed out after 50ms (waiting for sleep, db.list)")));
    // One that is at it is told by a flag.
    let ran = link.run(call("spin", 50), &silent, &cancel).await;
    assert_eq!(result_of(&ran), Err((FailureCode::Timeout, "timed out after 50ms")));
    assert!(!link.is_gone());
}

#[tokio::test]
async fn who_cancels_or_goes_away_leaves_nothing_behind() {
    let (link, _) = fake::link().await;
    for code in ["wait", "spin"] {
        let (silent, cancel) = (Silent::default(), CancellationToken::new());
        let later = async {
            while calls(&link) == 0 {
                tokio::task::yield_now().await;
            }
            cancel.cancel();
        };
        let (ran, ()) = tokio::join!(link.run(call(code, LONG_MS), &silent, &cancel), later);
        assert_eq!(result_of(&ran), Err((FailureCode::Cancelled, "cancelled")));
    }
    let silent = Silent::default();
    for code in ["wait", "spin"] {
        let cancel = CancellationToken::new();
        let mut run = Box::pin(link.run(call(code, LONG_MS), &silent, &cancel));
        while calls(&link) == 0 {
            tokio::select! { _ = &mut run => panic!("it has not ended"), () = tokio::task::yield_now() => {} }
        }
        for _ in 0..100 {
            tokio::select! { _ = &mut run => panic!("it has not ended"), () = tokio::task::yield_now() => {} }
        }
        drop(run);
        while calls(&link) > 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(silent.0.load(Ordering::Relaxed), 0);
    assert!(!link.is_gone());
    assert_eq!(result_of(&link.run(call("undefined", LONG_MS), &silent, &CancellationToken::new()).await), Ok(None));
}

/// An engine that says these frames to whatever it is sent, the call's number put in.
fn hostile(says: Vec<(Kind, u32, Vec<u8>)>) -> DuplexStream {
    let (ours, mut theirs) = duplex(64 << 10);
    tokio::spawn(async move {
        theirs.write_all(&frame::encode(Kind::Ready, 0, b"")).await.unwrap();
        let mut buffer = [0; 4096];
        let _ = theirs.read(&mut buffer).await;
        for (kind, call, payload) in says {
            let _ = theirs.write_all(&frame::encode(kind, call, &payload)).await;
        }
        while theirs.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    });
    ours
}

async fn against(says: Vec<(Kind, u32, Vec<u8>)>) -> (Ran, Link) {
    let (read, write) = tokio::io::split(hostile(says));
    let (link, _) = Link::open(read, write).await.unwrap();
    let ran = link.run(call("x", 200), &Silent::default(), &CancellationToken::new()).await;
    (ran, link)
}

fn step(step: &Step) -> (Kind, u32, Vec<u8>) {
    (Kind::Step, 1, serde_json::to_vec(step).unwrap())
}

fn asks(seqs: impl IntoIterator<Item = u32>) -> (Kind, u32, Vec<u8>) {
    let ops = seqs.into_iter().map(|seq| Asked { seq, op: Op::Fetch, args: RawValue::NULL.to_owned() }).collect();
    step(&Step { ops, ..Step::default() })
}

fn ended_at(clock: Vec<(i64, u32)>) -> (Kind, u32, Vec<u8>) {
    let done = Done { value: None, failure: None, usage: Default::default(), clock: Some(crate::call::Clock(clock)) };
    step(&Step { done: Some(done), ..Step::default() })
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_lies_is_given_up() {
    for (says, why) in [
        (vec![(Kind::Step, 1, b"{".to_vec())], "a step that is no JSON of that form"),
        (vec![(Kind::Step, 1, br#"{"ops":[{"seq":1,"op":"exec","args":1}]}"#.to_vec())], "a step that is no JSON of that form"),
        (vec![(Kind::Step, 1, br#"{"done":{"value":[}}"#.to_vec())], "a step that is no JSON of that form"),
        (vec![(Kind::Checked, 1, b"{}".to_vec())], "an answer to a check that it was not asked for"),
        (vec![asks([1, 1])], "an op's number that it had used"),
        (vec![asks([0])], "an op's number that it had used"),
        (vec![asks([2]), asks([1])], "an op's number that it had used"),
        (vec![asks(1..10)], "more ops at once than are allowed"),
        (vec![step(&Step::default()); 3000], "more steps than there can be"),
        (vec![ended_at(vec![(1, 1); 4097])], "a clock that there cannot be"),
        (vec![ended_at(vec![(i64::MAX, 1)])], "a clock that there cannot be"),
    ] {
        let (ran, link) = against(says).await;
        assert_eq!(result_of(&ran), Err((FailureCode::Internal, format!("the engine ended (it sent {why})").as_str())));
        assert!(link.is_gone());
        let ran = link.run(call("x", 200), &Silent::default(), &CancellationToken::new()).await;
        assert_eq!(result_of(&ran).unwrap_err().0, FailureCode::Internal, "an engine that is gone");
    }
    for (says, why) in [
        (vec![(Kind::Step, 2, b"{}".to_vec())], "the engine speaks of a call that it was not sent"),
        (vec![(Kind::Ready, 1, Vec::new())], "the engine sent something that is no frame"),
        (vec![(Kind::Run, 1, b"{}".to_vec())], "the engine sent something that is no frame"),
    ] {
        let (ran, _) = against(says).await;
        assert_eq!(result_of(&ran), Err((FailureCode::Internal, why)));
    }
    // It says nothing at all, also when it is told to let go.
    let (ran, link) = against(vec![]).await;
    assert_eq!(result_of(&ran), Err((FailureCode::Timeout, "timed out after 200ms")));
    assert!(link.is_gone());
}

#[tokio::test]
async fn what_waits_for_the_host_is_bounded_in_bytes() {
    let large = |seq| Asked { seq, op: Op::Fetch, args: to_raw_value(&"x".repeat(12 << 20)).unwrap() };
    let (ours, mut theirs) = duplex(64 << 10);
    let engine = async {
        theirs.write_all(&frame::encode(Kind::Ready, 0, b"")).await.unwrap();
        for ops in [vec![large(1), large(2)], vec![large(3)]] {
            theirs.write_all(&frame::pack(Kind::Step, 1, &Step { ops, ..Step::default() }).unwrap()).await.unwrap();
        }
        loop {
            let mut bytes = [0; HEADER_BYTES];
            theirs.read_exact(&mut bytes).await.unwrap();
            let (kind, _, length) = frame::header(bytes).unwrap();
            let mut payload = vec![0; length];
            theirs.read_exact(&mut payload).await.unwrap();
            if kind == Kind::Settle {
                theirs.write_all(&frame::pack(Kind::Step, 1, &fake::value(None)).unwrap()).await.unwrap();
                return serde_json::from_slice::<frame::Settle>(&payload).unwrap();
            }
        }
    };
    let (read, write) = tokio::io::split(ours);
    let (silent, cancel) = (Silent::default(), CancellationToken::new());
    let run = async {
        let (link, _) = Link::open(read, write).await.unwrap();
        // Its call has to be known before the engine speaks of it.
        link.run(call("x", LONG_MS), &silent, &cancel).await
    };
    let (ran, settle) = tokio::join!(run, engine);
    assert_eq!((settle.seq, settle.error.map(|error| error.message)), (3, Some("what is asked for at once is larger than 33554432 bytes".to_owned())));
    assert_eq!(result_of(&ran), Ok(None));
}

/// Answers at once with 4 MiB, and counts.
#[derive(Default)]
struct Generous(AtomicUsize);

impl Host for Generous {
    fn op<'a>(&'a self, _: Op, _: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        Box::pin(async {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(to_raw_value(&"x".repeat(4 << 20)).unwrap())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_an_engine_does_not_take_are_not_fetched() {
    let (generous, cancel) = (Generous::default(), CancellationToken::new());
    // It asks for all that it may, and then reads no more.
    let (ours, mut theirs) = duplex(64 << 10);
    theirs.write_all(&frame::encode(Kind::Ready, 0, b"")).await.unwrap();
    let (read, write) = tokio::io::split(ours);
    let (link, _) = Link::open(read, write).await.unwrap();
    let mut many = call("x", 1000);
    many.limits.ops_pending = 50;
    let engine = async {
        theirs.read_exact(&mut [0; 100]).await.unwrap();
        let (kind, id, payload) = asks(1..=50);
        theirs.write_all(&frame::encode(kind, id, &payload)).await.unwrap();
    };
    let (ran, ()) = tokio::join!(link.run(many, &generous, &cancel), engine);
    assert_eq!(result_of(&ran).unwrap_err().0, FailureCode::Timeout);
    // One is on its way, and four are 16 MiB.
    assert_eq!(generous.0.load(Ordering::Relaxed), 5);
}

#[tokio::test(start_paused = true)]
async fn answers_that_engines_do_not_take_fill_their_room_and_no_more() {
    let (generous, cancel) = (Generous::default(), CancellationToken::new());
    let (ours, mut theirs) = duplex(64 << 10);
    theirs.write_all(&frame::encode(Kind::Ready, 0, b"")).await.unwrap();
    let (read, write) = tokio::io::split(ours);
    let (link, _) = Link::open(read, write).await.unwrap();
    let mut many = call("x", 1000);
    many.limits.ops_pending = 50;
    let engine = async {
        theirs.read_exact(&mut [0; 100]).await.unwrap();
        for id in 1..=10 {
            // They are known only one after the other.
            while link.own.shared.calls().last < id {
                tokio::task::yield_now().await;
            }
            theirs.write_all(&frame::encode(Kind::Step, id, &asks(1..=50).2)).await.unwrap();
        }
    };
    let runs = (0..10).map(|_| link.run(many.clone(), &generous, &cancel));
    tokio::join!(futures_util::future::join_all(runs), engine);
    let fetched = generous.0.load(Ordering::Relaxed);
    assert!((5..=17).contains(&fetched), "{fetched} answers of 4 MiB, and there is room for 64 MiB");
}

#[tokio::test]
async fn an_engine_that_nobody_has_any_more_is_ended() {
    let (link, task) = fake::link().await;
    let other = link.clone();
    drop(link);
    assert!(other.check("good", "name").await.is_ok() && !task.is_finished());
    drop(other);
    task.await.unwrap();
}

#[tokio::test]
async fn what_is_held_for_a_call_is_held_until_the_engine_lets_go() {
    #[derive(Debug)]
    struct Told(Arc<AtomicUsize>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (link, dropped) = (fake::link().await.0, Arc::new(AtomicUsize::new(0)));
    let (silent, cancel) = (Silent::default(), CancellationToken::new());
    {
        let mut run = Box::pin(link.run_holding(Some(Box::new(Told(Arc::clone(&dropped)))), call("wait", LONG_MS), &silent, &cancel));
        while silent.0.load(Ordering::Relaxed) == 0 {
            tokio::select! { _ = &mut run => panic!("it has not ended"), () = tokio::task::yield_now() => {} }
        }
    }
    assert_eq!((dropped.load(Ordering::Relaxed), calls(&link)), (0, 1));
    while calls(&link) > 0 {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn all_that_an_engine_says_of_a_call_is_bounded_in_bytes() {
    let mut bounds = bounds::Bounds::new(&call("x", 1).limits);
    let mut payload = vec![b' '; bounds::SAID_BYTES_MAX / 4];
    payload[..2].copy_from_slice(b"{}");
    for _ in 0..4 {
        assert!(bounds.step(&payload).is_ok());
    }
    assert_eq!(bounds.step(b"{}").unwrap_err(), bounds::Broken("more than there can be to say"));
}

#[tokio::test]
async fn what_is_too_much_is_cut() {
    let usage = crate::Usage { cpu_us: u64::MAX, peak_memory_bytes: u64::MAX };
    let lines = [i64::MIN, i64::MAX].map(|at_ms| LogLine { level: Level::Log, at_ms, text: String::new() }).to_vec();
    let said = Step { logs: lines, done: Some(Done { value: None, failure: Some(Failure::busy("x")), usage, clock: None }), ..Step::default() };
    let (ran, _) = against(vec![step(&said)]).await;
    assert_eq!((ran.outcome.usage.cpu_us, ran.outcome.usage.peak_memory_bytes), (5_450_000, 4 << 30));
    assert_eq!((ran.outcome.logs[0].at_ms, ran.outcome.logs[1].at_ms), (0, 253_402_300_799_999));
    assert!(!ran.outcome.result.unwrap_err().is_busy());

    let logs: Vec<LogLine> = (0..200).map(|n| LogLine { level: Level::Log, at_ms: n, text: "é".repeat(7) }).collect();
    let done = |value: Option<Box<RawValue>>, failure| Some(Done { value, failure, usage: Default::default(), clock: None });
    let (ran, link) = against(vec![step(&Step { logs, done: done(Some(to_raw_value(&"x".repeat(1000)).unwrap()), None), ..Step::default() })]).await;
    assert_eq!(result_of(&ran), Err((FailureCode::PayloadTooLarge, "the result is larger than 1000 bytes")));
    assert_eq!(ran.outcome.logs.len(), 101);
    assert!(!link.is_gone());
    let failure = Failure { code: FailureCode::UserError, name: "n".repeat(1 << 20), message: "m".repeat(1 << 20), stack: Some("s".repeat(1 << 20)) };
    let (ran, _) = against(vec![step(&Step { done: done(None, Some(failure)), ..Step::default() })]).await;
    let failure = ran.outcome.result.unwrap_err();
    assert_eq!((failure.name.len(), failure.message.len(), failure.stack.unwrap().len()), (256, 64 << 10, 64 << 10));
    let line = LogLine { level: Level::Log, at_ms: 0, text: "x".repeat(1 << 20) };
    let (ran, _) = against(vec![step(&Step { logs: vec![line], done: done(None, None), ..Step::default() })]).await;
    assert_eq!(ran.outcome.logs[0].text.len(), 1000 + 1024);
}

#[tokio::test]
async fn an_engine_that_is_not_ready_is_none() {
    for (bytes, want) in
        [(vec![], "the engine ended before it was ready"), (frame::encode(Kind::Step, 0, b""), "the engine began with something else than that it is ready")]
    {
        let (ours, mut theirs) = duplex(1024);
        theirs.write_all(&bytes).await.unwrap();
        drop(theirs);
        let (read, write) = tokio::io::split(ours);
        assert_eq!(Link::open(read, write).await.unwrap_err().to_string(), want);
    }
}

#[tokio::test]
async fn calls_under_way_end_with_their_engine() {
    let (link, task) = fake::link().await;
    let (silent, cancel) = (Silent::default(), CancellationToken::new());
    let end = async {
        while calls(&link) < 2 {
            tokio::task::yield_now().await;
        }
        link.end("the engine ended (for a test)");
    };
    let (one, two, ()) = tokio::join!(link.run(call("wait", LONG_MS), &silent, &cancel), link.run(call("spin", LONG_MS), &silent, &cancel), end);
    for ran in [one, two] {
        assert_eq!(result_of(&ran), Err((FailureCode::Internal, "the engine ended (for a test)")));
    }
    task.await.unwrap();
}

/// What must be the same in a run and in its replay.
fn gist(ran: &Ran) -> String {
    let mut ops = ran.recording.ops.clone();
    for op in &mut ops {
        op.asked_us = 0;
        if let Some(answer) = &mut op.answer {
            answer.took_us = 0;
        }
    }
    format!("{:?} {:?} {}", ran.outcome.result, ran.outcome.logs, serde_json::to_string(&ops).unwrap())
}

#[tokio::test]
async fn a_replay_of_what_was_cut_off_is_cut_off() {
    let (link, _) = fake::link().await;
    let cancel = CancellationToken::new();
    let ran = link.run(call("wait", 50), &Silent::default(), &cancel).await;
    // It does not wait for the time to be up once more.
    let again = link.replay(None, call("wait", LONG_MS), &ran.recording, &cancel).await;
    assert_eq!(result_of(&again.ran), Err((FailureCode::Timeout, "timed out after 60000ms (waiting for fetch)")));
    assert!(again.diverged.is_empty());
}

#[tokio::test]
async fn what_is_too_large_is_not_recorded() {
    struct Large;
    impl Host for Large {
        fn op<'a>(&'a self, _: Op, _: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
            Box::pin(async { Ok(to_raw_value(&"x".repeat(3 << 20)).unwrap()) })
        }
    }
    let (link, _) = fake::link().await;
    let cancel = CancellationToken::new();
    let mut large = call("wait", LONG_MS);
    large.limits.output_bytes = 4 << 20;
    let ran = link.run(large, &Large, &cancel).await;
    assert_eq!(result_of(&ran).unwrap().map(str::len), Some((3 << 20) + 6), "told all the same");
    assert!(ran.recording.incomplete && serde_json::to_string(&ran.recording).unwrap().len() < 1000);
    let again = link.replay(None, call("wait", LONG_MS), &ran.recording, &cancel).await;
    assert_eq!(result_of(&again.ran), Ok(Some(r#""Internal its answer was too large to be recorded""#)));
}

#[tokio::test]
async fn a_replay_says_what_is_different() {
    let (link, _) = fake::link().await;
    let cancel = CancellationToken::new();
    let ran = link.run(call("doze", LONG_MS), &Silent::default(), &cancel).await;
    let again = link.replay(None, call("wait", LONG_MS), &ran.recording, &cancel).await;
    assert_eq!(result_of(&again.ran), Ok(Some(r#""Internal not in the recording""#)));
    assert_eq!(again.diverged, ["asked now and not then: fetch 1"], "a timer is no difference");
    let again = link.replay(None, call("slumber", LONG_MS), &Recording::default(), &cancel).await;
    assert_eq!(result_of(&again.ran), Ok(Some(r#""Internal not in the recording""#)), "a timer that there was not comes last");
    assert_eq!(again.diverged, ["asked now and not then: db.list 1"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_replay_is_the_same_bit_for_bit(seed in any::<[u8; 32]>(), mood in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (link, _) = fake::link().await;
            let cancel = CancellationToken::new();
            let mut first = call("walk", LONG_MS);
            first.seed = seed;
            let ran = link.run(first, &Moody(AtomicU64::new(mood)), &cancel).await;
            assert!(ran.outcome.result.is_ok());
            // As it is kept.
            let recording: Recording = serde_json::from_str(&serde_json::to_string(&ran.recording).unwrap()).unwrap();
            let again = link.replay(None, call("walk", LONG_MS), &recording, &cancel).await;
            assert_eq!(gist(&ran), gist(&again.ran));
            assert!(again.diverged.is_empty(), "{:?}", again.diverged);
        });
    }

    #[test]
    fn whatever_an_engine_says_no_call_outlives_its_time(bytes in prop::collection::vec(any::<u8>(), 0..300), framed in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let says = if framed { frame::encode(Kind::Step, 1, &bytes) } else { bytes };
            let (ours, mut theirs) = duplex(64 << 10);
            theirs.write_all(&frame::encode(Kind::Ready, 0, b"")).await.unwrap();
            theirs.write_all(&says).await.unwrap();
            let (read, write) = tokio::io::split(ours);
            let (link, _) = Link::open(read, write).await.unwrap();
            let ran = link.run(call("x", 200), &Silent::default(), &CancellationToken::new()).await;
            assert!(ran.outcome.result.is_err());
            drop(theirs);
        });
    }

    #[test]
    fn headers_are_read_or_refused(bytes in any::<[u8; HEADER_BYTES]>()) {
        if let Some((kind, call, length)) = frame::header(bytes) {
            prop_assert!(length <= FRAME_BYTES_MAX);
            prop_assert_eq!(&frame::encode(kind, call, &vec![0; length.min(1 << 10)])[4..9], &bytes[4..9]);
        }
    }
}
