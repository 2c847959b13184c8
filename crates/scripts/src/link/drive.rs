//! One call from its first frame to its last step.

use std::{collections::VecDeque, future, pin::Pin, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    CANCEL_MAX, Hold, Incoming, Link, Outgoing, Ran, Seat, WALL_GRACE,
    bounds::{self, Bounds, Broken, SAID_BYTES_MAX},
    recorder::Recorder,
    room::{Room, Rooms},
    tape::Tape,
};
use crate::{
    Call, Failure, FailureCode, Host, LogLine, Op, OpError, OpResult, Outcome, Recording, Usage,
    frame::{self, Asked, Done, Kind, Run, Settle},
    json::JsonFault,
};

/// Settled ops that an engine is sent ahead, before it has said what came of earlier ones: so many, of so many bytes together.
/// It is what an engine has to keep for a call.
const AHEAD_MAX: usize = 8;
const AHEAD_BYTES_MAX: usize = 1 << 20;
/// Answers that wait until an engine may be sent them. When they are so large together, no more are taken from who answers.
const QUEUED_BYTES_MAX: usize = 16 << 20;

/// Arguments of the ops that a call waits for, together. QuickJS has less to say at once; whoever has more waits for answers in between.
const ASKED_BYTES_MAX: usize = 32 << 20;
/// Of all ops of a call, one after the other too. An engine that says twice as much is given up.
const ASKED_ALL_BYTES_MAX: usize = SAID_BYTES_MAX / 2;

/// Number of the op, bytes of its arguments, and the answer.
type Flying<'h> = Pin<Box<dyn Future<Output = (u32, usize, OpResult)> + Send + 'h>>;

/// Who answers.
pub(super) enum Source<'h> {
    Host { host: &'h dyn Host, flying: FuturesUnordered<Flying<'h>>, bytes: usize, bytes_all: usize },
    Tape(Tape<'h>),
}

pub(super) struct Drive<'h> {
    /// None when the engine was gone already.
    seat: Option<Seat>,
    link: Link,
    source: Source<'h>,
    bounds: Bounds,
    recorder: Recorder,
    logs: Vec<LogLine>,
    wall: Duration,
    deadline: Instant,
    /// To be sent, each when there is room for it.
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    rooms: Rooms,
    /// Sent and not answered by a step: sizes.
    ahead: VecDeque<usize>,
}

/// How it came to an end.
enum End {
    Done(Done),
    TimeUp,
    Cancelled,
    Broken(Broken),
    Gone,
}

/// What there is to do next.
enum Event {
    Step(Option<Incoming>),
    Answer(u32, OpResult),
    Stuck,
    Sent,
    /// There was no room for answers, or there is again.
    Room,
    TimeUp,
    Cancelled,
}

impl<'h> Source<'h> {
    pub fn host(host: &'h dyn Host) -> Self {
        Self::Host { host, flying: FuturesUnordered::new(), bytes: 0, bytes_all: 0 }
    }

    pub fn tape(recording: &'h Recording) -> Self {
        Self::Tape(Tape::new(recording))
    }

    /// Refuses an op when its arguments are none, or too much is under way already.
    fn ask(&mut self, asked: Asked, fault: Option<JsonFault>, wall: Duration, room: &Room) -> Result<(), OpError> {
        match self {
            Self::Host { host, flying, bytes, bytes_all } => {
                if let Some(fault) = fault {
                    return Err(OpError::wrong(format!("what is asked for {fault}")));
                }
                let (host, length) = (*host, asked.args.get().len());
                if *bytes + length > ASKED_BYTES_MAX {
                    return Err(OpError::wrong(format!("what is asked for at once is larger than {ASKED_BYTES_MAX} bytes")));
                }
                if *bytes_all + length > ASKED_ALL_BYTES_MAX {
                    return Err(OpError::wrong(format!("what is asked for in one call is larger than {ASKED_ALL_BYTES_MAX} bytes")));
                }
                let held = room.try_hold(length).ok_or_else(|| OpError::wrong("too much is asked for at once by all calls together; try again"))?;
                *bytes += length;
                *bytes_all += length;
                flying.push(Box::pin(async move {
                    let _held = held;
                    let answer = if asked.op == Op::Sleep { doze(&asked.args, wall).await } else { host.op(asked.op, &asked.args).await };
                    (asked.seq, length, answer)
                }));
            }
            Self::Tape(tape) => tape.ask(&asked),
        }
        Ok(())
    }

    /// The next answer, when there is one. `idle`: the engine has said all that it had to say so far.
    async fn next(&mut self, idle: bool) -> Event {
        match self {
            Self::Host { flying, bytes, .. } => match flying.next().await {
                Some((seq, length, answer)) => {
                    *bytes -= length;
                    Event::Answer(seq, answer)
                }
                None => future::pending().await,
            },
            Self::Tape(tape) if idle => match tape.next() {
                Some((seq, answer)) => Event::Answer(seq, answer),
                None if tape.is_stuck() => Event::Stuck,
                None => future::pending().await,
            },
            Self::Tape(_) => future::pending().await,
        }
    }

    /// Gives up what is under way.
    fn finish(self) -> Vec<String> {
        match self {
            Self::Host { .. } => Vec::new(),
            Self::Tape(tape) => tape.finish(),
        }
    }
}

/// `sleep`. What is longer than the whole call may last is as good as that.
async fn doze(args: &RawValue, wall: Duration) -> OpResult {
    #[derive(Deserialize)]
    struct Args {
        ms: f64,
    }
    let Ok(Args { ms }) = serde_json::from_str(args.get()) else {
        return Err(OpError::wrong("a timer needs a number of milliseconds"));
    };
    let most = wall + WALL_GRACE * 2;
    sleep(Duration::try_from_secs_f64(ms.max(0.0) / 1000.0).unwrap_or(most).min(most)).await;
    Ok(RawValue::NULL.to_owned())
}

impl<'h> Drive<'h> {
    pub fn new(link: &Link, call: &Call, source: Source<'h>, hold: Option<Hold>) -> Self {
        let wall = call.limits.wall;
        Self {
            seat: link.seat(hold),
            link: link.clone(),
            source,
            bounds: Bounds::new(&call.limits),
            recorder: Recorder::new(&call.seed),
            logs: Vec::new(),
            wall,
            deadline: Instant::now() + wall,
            queue: VecDeque::new(),
            queued_bytes: 0,
            rooms: link.own.rooms.clone(),
            ahead: VecDeque::new(),
        }
    }

    /// The outcome, and what a replay did otherwise than its recording.
    pub async fn run(mut self, call: Call, cancel: &CancellationToken) -> (Ran, Vec<String>) {
        let Some(seat) = self.seat.take() else {
            let why = self.link.why_gone();
            return self.fail(Failure::internal(why));
        };
        let Some(run) = frame::pack(Kind::Run, seat.id, &wire(call)) else {
            let message = format!("code and data together are larger than {} bytes", frame::FRAME_BYTES_MAX);
            return self.fail(Failure { code: FailureCode::PayloadTooLarge, name: "RangeError".into(), message, stack: None });
        };
        self.enqueue(run);
        let mut seat = Leaving::new(seat);
        match self.pump(&mut seat, cancel).await {
            End::Done(done) => {
                seat.is_over();
                self.recorder.unhear(self.ahead.len() + self.queue.len());
                self.end(done)
            }
            End::TimeUp => {
                let mut failure = Failure::timeout(self.wall);
                let waiting = self.recorder.names_of_waiting();
                if !waiting.is_empty() {
                    failure.message = format!("{} (waiting for {waiting})", failure.message);
                }
                self.cut_off(seat, failure).await
            }
            End::Cancelled => {
                let failure = Failure { code: FailureCode::Cancelled, name: "CancelledError".into(), message: "cancelled".into(), stack: None };
                self.cut_off(seat, failure).await
            }
            End::Broken(Broken(why)) => {
                seat.is_over();
                self.link.end(format!("the engine ended (it sent {why})"));
                self.fail(Failure::internal(format!("the engine ended (it sent {why})")))
            }
            End::Gone => {
                seat.is_over();
                let why = self.link.why_gone();
                self.fail(Failure::internal(why))
            }
        }
    }

    async fn pump(&mut self, seat: &mut Leaving, cancel: &CancellationToken) -> End {
        let out = self.link.own.out.clone();
        loop {
            let idle = self.ahead.is_empty() && self.queue.is_empty();
            let until = if idle { self.deadline } else { self.deadline + WALL_GRACE };
            let may_send = self.may_send();
            // What would answer stands still meanwhile.
            let (may_take, is_full) = (self.queued_bytes < QUEUED_BYTES_MAX, self.rooms.answers.is_full());
            let event = tokio::select! {
                biased;
                () = cancel.cancelled() => Event::Cancelled,
                step = seat.steps().recv() => Event::Step(step),
                permit = out.reserve(), if may_send => {
                    let (Ok(permit), Some(outgoing)) = (permit, self.queue.pop_front()) else { return End::Gone };
                    self.queued_bytes -= outgoing.frame.len();
                    self.ahead.push_back(outgoing.frame.len());
                    permit.send(outgoing);
                    seat.was_sent();
                    Event::Sent
                }
                event = self.rooms.answers.unless_full(self.source.next(idle)), if may_take && !is_full => event.unwrap_or(Event::Room),
                () = self.rooms.answers.wait(), if may_take && is_full => Event::Room,
                () = sleep_until(until) => Event::TimeUp,
            };
            let end = match event {
                Event::Step(None) => return End::Gone,
                Event::Step(Some(incoming)) => self.step(seat.id(), &incoming).unwrap_or_else(|broken| Some(End::Broken(broken))),
                Event::Answer(seq, answer) => {
                    self.answer(seat.id(), seq, answer);
                    None
                }
                Event::Sent | Event::Room => None,
                Event::Cancelled => return End::Cancelled,
                Event::Stuck | Event::TimeUp => return End::TimeUp,
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn may_send(&self) -> bool {
        let Some(next) = self.queue.front() else { return false };
        let bytes: usize = self.ahead.iter().sum();
        self.ahead.is_empty() || (self.ahead.len() < AHEAD_MAX && bytes + next.frame.len() <= AHEAD_BYTES_MAX)
    }

    fn step(&mut self, call: u32, incoming: &Incoming) -> Result<Option<End>, Broken> {
        if incoming.kind != Kind::Step {
            return Err(Broken("an answer to a check that it was not asked for"));
        }
        let step = self.bounds.step(&incoming.payload)?;
        self.ahead.pop_front();
        self.bounds.log(&mut self.logs, step.logs);
        for mut asked in step.ops {
            let fault = bounds::tidy_args(&mut asked).err();
            self.bounds.asked(&asked, self.recorder.waiting(asked.op))?;
            self.recorder.asked(asked.seq, asked.op, &asked.args);
            // Nobody would be told.
            let seq = asked.seq;
            if step.done.is_none()
                && let Err(refused) = self.source.ask(asked, fault, self.wall, &self.rooms.args)
            {
                self.answer(call, seq, Err(refused));
            }
        }
        Ok(step.done.map(|done| self.bounds.done(done)).transpose()?.map(End::Done))
    }

    fn answer(&mut self, call: u32, seq: u32, mut answer: OpResult) {
        let settled = settle(call, seq, &answer).unwrap_or_else(|| {
            answer = Err(OpError::wrong(format!("the answer is larger than {} bytes", frame::FRAME_BYTES_MAX)));
            settle(call, seq, &answer).unwrap_or_default()
        });
        self.recorder.answered(seq, &answer);
        self.enqueue(settled);
    }

    fn enqueue(&mut self, frame: Vec<u8>) {
        self.queued_bytes += frame.len();
        let held = self.rooms.answers.hold(frame.len());
        self.queue.push_back(Outgoing { frame, _held: Some(held) });
    }

    /// Ends a call that the engine has not ended.
    async fn cut_off(mut self, mut seat: Leaving, failure: Failure) -> (Ran, Vec<String>) {
        // What is under way for the script is given up first, whatever the engine does.
        let source = std::mem::replace(&mut self.source, Source::host(&Nobody));
        let diverged = source.finish();
        let (bounds, logs) = (&mut self.bounds, &mut self.logs);
        let last = seat
            .leave(|incoming| {
                let step = bounds.step(&incoming.payload).ok()?;
                bounds.log(logs, step.logs);
                step.done.and_then(|done| bounds.done(done).ok())
            })
            .await;
        let done = match last {
            // It ended it by itself meanwhile, and knows better where.
            Some(Done { failure: Some(own), usage, clock, .. }) if own.code == failure.code && own.code == FailureCode::Timeout => {
                Done { value: None, failure: Some(own), usage, clock }
            }
            Some(Done { usage, clock, .. }) => Done { value: None, failure: Some(failure), usage, clock },
            None => Done { value: None, failure: Some(failure), usage: Usage::default(), clock: None },
        };
        let (ran, _) = self.end(done);
        (ran, diverged)
    }

    fn fail(self, failure: Failure) -> (Ran, Vec<String>) {
        self.end(Done { value: None, failure: Some(failure), usage: Usage::default(), clock: None })
    }

    fn end(self, done: Done) -> (Ran, Vec<String>) {
        let recording = self.recorder.finish(done.clock.clone());
        let result = done.failure.map_or(Ok(done.value), Err);
        let outcome = Outcome { result, logs: self.logs, usage: done.usage, clock: done.clock };
        (Ran { outcome, recording }, self.source.finish())
    }
}

/// What is left when a source was taken away.
struct Nobody;

impl Host for Nobody {
    fn op<'a>(&'a self, _: Op, _: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        Box::pin(future::pending())
    }
}

/// A seat that is not left before the engine has ended its call, also when whoever ran it has gone away: it is cancelled then.
struct Leaving {
    seat: Option<Seat>,
    /// The engine knows of it.
    sent: bool,
}

impl Leaving {
    fn new(seat: Seat) -> Self {
        Self { seat: Some(seat), sent: false }
    }

    fn id(&self) -> u32 {
        self.seat.as_ref().map_or(0, |seat| seat.id)
    }

    fn steps(&mut self) -> &mut mpsc::Receiver<Incoming> {
        match &mut self.seat {
            Some(seat) => &mut seat.steps,
            None => unreachable!("taken only by what ends it"),
        }
    }

    fn was_sent(&mut self) {
        self.sent = true;
    }

    fn is_over(&mut self) {
        self.seat = None;
    }

    /// Cancels the call and waits for its end, as `last` finds it. An engine that does not end it is given up.
    async fn leave(&mut self, last: impl FnMut(&Incoming) -> Option<Done> + Send) -> Option<Done> {
        let seat = self.seat.as_mut()?;
        let done = if self.sent { leave(seat, last).await } else { None };
        self.seat = None;
        done
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some(mut seat) = self.seat.take().filter(|_| self.sent) else { return };
        let last = |incoming: &Incoming| serde_json::from_slice::<frame::Step>(&incoming.payload).ok()?.done;
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { leave(&mut seat, last).await })),
            Err(_) => seat.link.end("the engine ended (with the server)"),
        }
    }
}

async fn leave(seat: &mut Seat, mut last: impl FnMut(&Incoming) -> Option<Done>) -> Option<Done> {
    let until = Instant::now() + CANCEL_MAX;
    let cancel = frame::encode(Kind::Cancel, seat.id, b"");
    let done = timeout_at(until, async {
        seat.link.own.out.send(Outgoing { frame: cancel, _held: None }).await.ok()?;
        while let Some(incoming) = seat.steps.recv().await {
            if let Some(done) = last(&incoming) {
                return Some(done);
            }
        }
        None
    });
    done.await.unwrap_or_else(|_| {
        seat.link.end("the engine ended (it did not let go of a call in time)");
        None
    })
}

fn wire(call: Call) -> Run {
    let limits = call.limits;
    Run {
        code: call.code,
        name: call.name,
        data: call.data,
        user: call.user,
        timeout_ms: limits.wall.as_millis() as u64,
        cpu_ms: limits.cpu.as_millis() as u64,
        memory_bytes: limits.memory_bytes,
        output_bytes: limits.output_bytes,
        log_lines: limits.log_lines,
        log_bytes: limits.log_bytes,
        ops_pending: limits.ops_pending,
        ops: limits.ops,
        seed: hex::encode(call.seed),
        clock: call.clock,
    }
}

fn settle(call: u32, seq: u32, answer: &OpResult) -> Option<Vec<u8>> {
    let settle = match answer {
        Ok(value) => Settle { seq, value: Some(value.clone()), error: None },
        Err(error) => Settle { seq, value: None, error: Some(error.clone()) },
    };
    frame::pack(Kind::Settle, call, &settle)
}
