//! Calls that an executor runs for us now, and what they ask of us. What they may ask, how much, and in whose name was decided when
//! they began; when a call ends, whatever it still asked for is given up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use sandbar_core::limits;
use sandbar_scripts::{Host, Limits, Op, OpError, OpRecord, OpResult, Recording, recording::Answer};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::grants::{Claims, Signer};
use crate::app::sandboxes::now_ms;

/// Of arguments and answers in one recording.
const RECORDING_BYTES_MAX: usize = 2 << 20;

pub(super) struct LiveCalls {
    signer: Signer,
    calls: Mutex<HashMap<String, Arc<LiveCall>>>,
    places: Arc<Semaphore>,
}

/// A call that goes on.
pub(super) struct LiveCall {
    host: Arc<dyn Host>,
    ops: Vec<Op>,
    ended: CancellationToken,
    pending: Semaphore,
    record: Mutex<Record>,
    began: Instant,
}

struct Record {
    recording: Recording,
    asked: u32,
    answered: u32,
    ops_left: usize,
    room: usize,
}

/// A call's place in the list, until it is dropped.
pub(super) struct Open<'a> {
    calls: &'a LiveCalls,
    invocation: String,
    call: Arc<LiveCall>,
    pub grant: String,
    _place: OwnedSemaphorePermit,
}

impl LiveCalls {
    /// None when the machine gives no random numbers.
    pub fn new() -> Option<Self> {
        Some(Self { signer: Signer::new()?, calls: Mutex::default(), places: Arc::new(Semaphore::new(limits::SCRIPT_REMOTE_CALLS_MAX)) })
    }

    /// A place for a call, and its grant. `claims` says all but which call it is. None when there are too many.
    pub fn open(&self, mut claims: Claims, host: Arc<dyn Host>, limits: &Limits, seed: String) -> Option<Open<'_>> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        claims.invocation = uuid::Uuid::new_v4().to_string();
        let record = Record { recording: Recording { seed, ..Recording::default() }, asked: 0, answered: 0, ops_left: limits.ops, room: RECORDING_BYTES_MAX };
        let call = Arc::new(LiveCall {
            host,
            ops: claims.ops.iter().filter_map(|name| Op::named(name)).collect(),
            ended: CancellationToken::new(),
            pending: Semaphore::new(limits.ops_pending.min(Semaphore::MAX_PERMITS)),
            record: Mutex::new(record),
            began: Instant::now(),
        });
        self.calls().insert(claims.invocation.clone(), Arc::clone(&call));
        Some(Open { calls: self, grant: self.signer.sign(&claims), invocation: claims.invocation, call, _place: place })
    }

    /// The call that a grant is for, while it goes on.
    pub fn find(&self, grant: &str) -> Option<Arc<LiveCall>> {
        let claims = self.signer.verify(grant, now_ms())?;
        self.calls().get(&claims.invocation).cloned()
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<String, Arc<LiveCall>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open<'_> {
    /// Ends the call; what it asked for and was told.
    pub fn finish(self) -> Recording {
        self.call.ended.cancel();
        std::mem::take(&mut self.call.record().recording)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.call.ended.cancel();
        self.calls.calls().remove(&self.invocation);
    }
}

impl LiveCall {
    /// Answers an op of the call.
    pub async fn op(&self, op: Op, args: &RawValue) -> OpResult {
        let over = || OpError { code: sandbar_scripts::FailureCode::Cancelled, message: "the call has ended".to_owned() };
        if !self.ops.contains(&op) {
            return Err(OpError::denied(format!("{} is not among what this call may ask for", op.as_str())));
        }
        if self.ended.is_cancelled() {
            return Err(over());
        }
        let Ok(_pending) = self.pending.try_acquire() else {
            return Err(OpError::wrong("too many operations wait for an answer at once"));
        };
        let Some(seq) = self.record().asked(op, args, self.began) else {
            return Err(OpError::wrong("this call has asked for too much"));
        };
        let result = tokio::select! {
            result = self.host.op(op, args) => result,
            () = self.ended.cancelled() => return Err(over()),
        };
        self.record().answered(seq, &result, self.began);
        result
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// Its number; none when the call has asked too often.
    fn asked(&mut self, op: Op, args: &RawValue, began: Instant) -> Option<u32> {
        self.ops_left = self.ops_left.checked_sub(1)?;
        self.asked += 1;
        let args = if self.take(args.get().len()) { args.to_owned() } else { RawValue::NULL.to_owned() };
        self.recording.ops.push(OpRecord { seq: self.asked, op, args, asked_us: began.elapsed().as_micros() as u64, answer: None });
        Some(self.asked)
    }

    fn answered(&mut self, seq: u32, result: &OpResult, began: Instant) {
        let nth = self.answered;
        self.answered += 1;
        let bytes = result.as_ref().map_or_else(|error| error.message.len(), |value| value.get().len());
        let kept = self.take(bytes).then_some(result);
        // A call that is over has taken its recording with it.
        let Some(record) = self.recording.ops.iter_mut().find(|record| record.seq == seq) else { return };
        let took_us = (began.elapsed().as_micros() as u64).saturating_sub(record.asked_us);
        let value = kept.and_then(|result| result.as_ref().ok().cloned());
        let error = kept.and_then(|result| result.as_ref().err().cloned());
        record.answer = Some(Answer { nth, took_us, value, error });
    }

    fn take(&mut self, bytes: usize) -> bool {
        match self.room.checked_sub(bytes) {
            Some(room) if !self.recording.incomplete => self.room = room,
            _ => self.recording.incomplete = true,
        }
        !self.recording.incomplete
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, time::Duration};

    use sandbar_scripts::FailureCode;

    use super::*;
    use crate::app::scripts::Subject;

    /// Answers `db.one` with its arguments; never answers `fetch`.
    struct Echo;

    impl Host for Echo {
        fn op<'a>(&'a self, op: Op, args: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
            Box::pin(async move { if op == Op::Fetch { std::future::pending().await } else { Ok(args.to_owned()) } })
        }
    }

    fn claims(ops: &[&str]) -> Claims {
        Claims {
            invocation: String::new(),
            team_id: "t".into(),
            script_id: "s".into(),
            version: 1,
            subject: Subject::default(),
            ops: ops.iter().map(|&op| op.to_owned()).collect(),
            expires_at_ms: now_ms() + 60_000,
        }
    }

    fn limits(ops: usize, ops_pending: usize) -> Limits {
        let wall = Duration::from_secs(5);
        Limits { wall, cpu: wall, memory_bytes: 0, output_bytes: 0, log_lines: 0, log_bytes: 0, ops_pending, ops }
    }

    fn args(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[tokio::test]
    async fn a_grant_is_good_for_its_call_and_its_ops() {
        let calls = LiveCalls::new().unwrap();
        let open = calls.open(claims(&["db.one"]), Arc::new(Echo), &limits(2, 1), "00".into()).unwrap();
        let call = calls.find(&open.grant).expect("it goes on");
        assert!(calls.find("sbg1.x.y").is_none());
        assert_eq!(call.op(Op::EmailSend, &args("{}")).await.unwrap_err().code, FailureCode::Denied);
        assert_eq!(call.op(Op::DbOne, &args("[1]")).await.unwrap().get(), "[1]");
        assert_eq!(call.op(Op::DbOne, &args("[2]")).await.unwrap().get(), "[2]");
        assert!(call.op(Op::DbOne, &args("[3]")).await.unwrap_err().message.contains("too much"));
        let grant = open.grant.clone();
        let recording = open.finish();
        let seen: Vec<_> = recording.ops.iter().map(|op| (op.seq, op.args.get(), op.answer.as_ref().map(|answer| answer.nth))).collect();
        assert_eq!(seen, [(1, "[1]", Some(0)), (2, "[2]", Some(1))]);
        assert!(calls.find(&grant).is_none() && !recording.incomplete);
        assert_eq!(call.op(Op::DbOne, &args("[4]")).await.unwrap_err().code, FailureCode::Cancelled);
    }

    #[tokio::test]
    async fn what_is_under_way_ends_with_its_call() {
        let calls = LiveCalls::new().unwrap();
        let open = calls.open(claims(&["fetch", "db.one"]), Arc::new(Echo), &limits(9, 1), String::new()).unwrap();
        let call = calls.find(&open.grant).unwrap();
        let waits = tokio::spawn({
            let call = Arc::clone(&call);
            async move { call.op(Op::Fetch, &args("{}")).await }
        });
        while call.pending.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(call.op(Op::DbOne, &args("1")).await.unwrap_err().message.contains("at once"));
        let recording = open.finish();
        assert_eq!(waits.await.unwrap().unwrap_err().code, FailureCode::Cancelled);
        assert_eq!((recording.ops.len(), recording.ops[0].answer.is_none()), (1, true));
    }

    #[tokio::test]
    async fn an_expired_grant_opens_nothing_and_places_are_counted() {
        let calls = LiveCalls::new().unwrap();
        use sandbar_core::limits as bounds;
        let expired = Claims { expires_at_ms: now_ms() - 1, ..claims(&[]) };
        let open = calls.open(expired, Arc::new(Echo), &limits(1, 1), String::new()).unwrap();
        assert!(calls.find(&open.grant).is_none());
        let others: Vec<_> =
            (1..bounds::SCRIPT_REMOTE_CALLS_MAX).map(|_| calls.open(claims(&[]), Arc::new(Echo), &limits(1, 1), String::new()).unwrap()).collect();
        assert!(calls.open(claims(&[]), Arc::new(Echo), &limits(1, 1), String::new()).is_none());
        drop(others);
        drop(open);
        assert!(calls.open(claims(&[]), Arc::new(Echo), &limits(1, 1), String::new()).is_some() && calls.calls().is_empty());
    }
}
