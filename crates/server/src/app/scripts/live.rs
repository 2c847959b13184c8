//! Calls that an executor runs for us now, and what they ask of us. What they may ask, how much, and in whose name was decided when
//! they began; when a call ends, whatever it still asked for is given up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sandbar_core::limits;
use sandbar_scripts::{Failure, Host, Limits, Op, OpError, OpResult, Recorder, Recording};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    grants::{Claims, Signer},
    reach::{Places, Taken},
};
use crate::app::sandboxes::now_ms;

pub(super) struct LiveCalls {
    signer: Signer,
    calls: Mutex<HashMap<String, Arc<LiveCall>>>,
    places: Places,
}

/// A call that goes on.
pub(super) struct LiveCall {
    host: Arc<dyn Host>,
    ops: Vec<Op>,
    ended: CancellationToken,
    pending: Semaphore,
    record: Mutex<Record>,
}

struct Record {
    /// None when the call has ended.
    recorder: Option<Recorder>,
    asked: u32,
    asked_max: usize,
}

/// A call's place in the list, until it is dropped.
pub(super) struct Open<'a> {
    calls: &'a LiveCalls,
    invocation: String,
    call: Arc<LiveCall>,
    pub grant: String,
    _place: Taken,
}

impl LiveCalls {
    /// None when the machine gives no random numbers.
    pub fn new() -> Option<Self> {
        let places = Places::new(limits::SCRIPT_REMOTE_CALLS_MAX, limits::SCRIPT_REMOTE_CALLS_PER_TEAM_MAX);
        Some(Self { signer: Signer::new()?, calls: Mutex::default(), places })
    }

    /// A place for a call of a team, after a while if need be.
    ///
    /// # Errors
    /// There was none: it may be tried again.
    pub async fn place(&self, team_id: &str) -> Result<Taken, Failure> {
        let within = Duration::from_millis(limits::SCRIPT_WAITING_MAX_MS);
        match tokio::time::timeout(within, self.places.take(team_id)).await {
            Ok(place) => place.map_err(|error| Failure::internal(error.message)),
            Err(_) => {
                let (each, all) = (limits::SCRIPT_REMOTE_CALLS_PER_TEAM_MAX, limits::SCRIPT_REMOTE_CALLS_MAX);
                Err(Failure::busy(format!("the executor has {each} calls of a team at once, and {all} in all")))
            }
        }
    }

    /// A call from now on, and its grant. `claims` says all but which call it is.
    pub fn open(&self, mut claims: Claims, host: Arc<dyn Host>, of: &Limits, seed: &[u8; 32], place: Taken) -> Open<'_> {
        claims.invocation = uuid::Uuid::new_v4().to_string();
        let call = Arc::new(LiveCall {
            host,
            ops: claims.ops.iter().filter_map(|name| Op::named(name)).collect(),
            ended: CancellationToken::new(),
            pending: Semaphore::new(of.ops_pending.min(Semaphore::MAX_PERMITS)),
            record: Mutex::new(Record { recorder: Some(Recorder::new(seed)), asked: 0, asked_max: of.ops }),
        });
        self.calls().insert(claims.invocation.clone(), Arc::clone(&call));
        Open { calls: self, grant: self.signer.sign(&claims), invocation: claims.invocation, call, _place: place }
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
        let recorder = self.call.record().recorder.take();
        recorder.map(|recorder| recorder.finish(None)).unwrap_or_default()
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
        let Some(seq) = self.record().asked(op, args) else {
            return Err(OpError::wrong("this call has asked for too much"));
        };
        let result = tokio::select! {
            result = self.host.op(op, args) => result,
            () = self.ended.cancelled() => return Err(over()),
        };
        if let Some(recorder) = &mut self.record().recorder {
            recorder.answered(seq, &result);
        }
        result
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// Its number; none when the call has asked too often, or has ended.
    fn asked(&mut self, op: Op, args: &RawValue) -> Option<u32> {
        let recorder = self.recorder.as_mut().filter(|_| (self.asked as usize) < self.asked_max)?;
        self.asked += 1;
        recorder.asked(self.asked, op, args);
        Some(self.asked)
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

    async fn open<'a>(calls: &'a LiveCalls, claims: Claims, limits: &Limits) -> Open<'a> {
        let place = calls.place(&claims.team_id).await.expect("a place");
        calls.open(claims, Arc::new(Echo), limits, &[7; 32], place)
    }

    fn args(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[tokio::test]
    async fn a_grant_is_good_for_its_call_and_its_ops() {
        let calls = LiveCalls::new().unwrap();
        let open = open(&calls, claims(&["db.one"]), &limits(2, 1)).await;
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
        assert_eq!(recording.seed, "07".repeat(32));
        assert_eq!(call.op(Op::DbOne, &args("[4]")).await.unwrap_err().code, FailureCode::Cancelled);
    }

    #[tokio::test]
    async fn what_is_under_way_ends_with_its_call() {
        let calls = LiveCalls::new().unwrap();
        let open = open(&calls, claims(&["fetch", "db.one"]), &limits(9, 1)).await;
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
    async fn an_expired_grant_opens_nothing_and_what_ended_is_forgotten() {
        let calls = LiveCalls::new().unwrap();
        let expired = Claims { expires_at_ms: now_ms() - 1, ..claims(&[]) };
        let gone = open(&calls, expired, &limits(1, 1)).await;
        assert!(calls.find(&gone.grant).is_none());
        drop(gone);
        assert!(calls.calls().is_empty());
    }

    #[tokio::test]
    async fn a_team_that_takes_all_its_places_keeps_no_other_waiting() {
        let calls = LiveCalls::new().unwrap();
        let mut held = Vec::new();
        for _ in 0..limits::SCRIPT_REMOTE_CALLS_PER_TEAM_MAX {
            held.push(calls.place("t").await.unwrap());
        }
        let refused = calls.place("t").await.unwrap_err();
        assert!(refused.is_busy() && refused.message.contains("of a team"), "{refused:?}");
        drop(calls.place("other").await.unwrap());
        // Who waits comes in when another ends.
        let (next, ()) = tokio::join!(calls.place("t"), async { drop(held.pop()) });
        drop(next.unwrap());
    }
}
