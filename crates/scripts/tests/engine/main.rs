//! Scripts in the engine, without anybody around it: what they can do, how they end.

#![allow(clippy::unwrap_used)]

mod behaviour;
mod bench;
mod hostile;
mod timers;
mod typescript;
mod web;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, LazyLock},
};

use sandbar_scripts::{
    Failure, FailureCode, LogLine, Op, OpError, User,
    call::Clock,
    frame::{Asked, Done, Run, Settle},
    quickjs::{Engine, THREAD_STACK_BYTES},
};
use serde_json::{Value, json, value::RawValue};

/// One for all tests: compiling takes its time, and a cache keeps it for the next run.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::open(Some(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled"))).unwrap());

/// A call and what its host says.
struct Call {
    run: Run,
    host: Box<dyn Fn(Op, Value) -> Result<Value, OpError> + Send>,
}

struct Ended {
    value: Option<Value>,
    failure: Option<Failure>,
    logs: Vec<LogLine>,
    done: Done,
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

fn call(code: &str) -> Call {
    Call {
        run: Run {
            code: code.into(),
            name: "job".into(),
            data: raw(&json!({"n": 41})),
            user: User::default(),
            timeout_ms: 30_000,
            cpu_ms: 30_000,
            memory_bytes: 64 << 20,
            output_bytes: 6 << 20,
            log_lines: 1000,
            log_bytes: 256 << 10,
            ops_pending: 64,
            ops: 1000,
            seed: "07".repeat(32),
            clock: None,
        },
        host: Box::new(host),
    }
}

/// What the host of these tests knows.
fn host(op: Op, args: Value) -> Result<Value, OpError> {
    match op {
        Op::Sleep => Ok(Value::Null),
        Op::Fetch if args["url"] == "https://denied/" => Err(OpError::denied("URL not in fetch allow-list: https://denied/")),
        Op::Fetch => {
            Ok(json!({"status": 200, "ok": true, "text": args.to_string(), "url": args["url"], "headers": {"content-type": "text/plain"}, "redirected": false}))
        }
        Op::DbOne if args["slug"] == "missing" => Err(OpError::wrong("Collection \"missing\" not found")),
        Op::DbOne => Ok(json!({"id": args["id"], "slug": args["slug"]})),
        Op::DbList => Ok(json!([args["query"]])),
        Op::EmailSend => Ok(json!(true)),
        Op::SecretsGet => Ok(if args["name"] == "KEY" { json!("s3cret") } else { Value::Null }),
    }
}

impl Call {
    fn with(mut self, change: impl FnOnce(&mut Run)) -> Self {
        change(&mut self.run);
        self
    }

    /// Plays the host: answers whatever is asked, in the order of asking. In a thread with the stack that a worker's have.
    fn end(self) -> Ended {
        std::thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(|| self.play()).unwrap().join().unwrap()
    }

    fn play(self) -> Ended {
        let (mut instance, mut step) = ENGINE.start(self.run, Arc::default());
        let mut logs = Vec::new();
        let mut asked: VecDeque<Asked> = VecDeque::new();
        loop {
            logs.append(&mut step.logs);
            asked.extend(step.ops);
            if let Some(mut done) = step.done {
                let value = done.value.take().map(|value| serde_json::from_str(value.get()).unwrap());
                return Ended { value, failure: done.failure.take(), logs, done };
            }
            let next = asked.pop_front().expect("the script waits and asks for nothing");
            let answer = (self.host)(next.op, serde_json::from_str(next.args.get()).unwrap());
            let (value, error) = match answer {
                Ok(value) => (Some(raw(&value)), None),
                Err(error) => (None, Some(error)),
            };
            step = instance.as_mut().unwrap().settle(Settle { seq: next.seq, value, error });
        }
    }

    fn value(self) -> Value {
        let code = self.run.code.clone();
        let ended = self.end();
        assert_eq!(ended.failure, None, "{code}");
        ended.value.unwrap_or(Value::Null)
    }

    fn failure(self) -> Failure {
        let code = self.run.code.clone();
        let ended = self.end();
        ended.failure.unwrap_or_else(|| panic!("{code} gave {:?}", ended.value))
    }
}

fn value(code: &str) -> Value {
    call(code).value()
}

fn failure(code: &str) -> (FailureCode, String, String) {
    let failure = call(code).failure();
    (failure.code, failure.name, failure.message)
}
