use sandbar_scripts::{Limits, OpError, OpRecord, User, recording::Answer};
use serde_json::{json, value::RawValue};

use super::*;

fn call() -> Call {
    Call {
        code: String::new(),
        name: "s".into(),
        data: RawValue::NULL.to_owned(),
        user: User::default(),
        limits: Limits {
            wall: Duration::from_secs(1),
            cpu: Duration::from_secs(1),
            memory_bytes: 1 << 26,
            output_bytes: 20,
            log_lines: 3,
            log_bytes: 20,
            ops_pending: 1,
            ops: 1,
        },
        seed: [0; 32],
        clock: None,
    }
}

fn read(reply: serde_json::Value, recording: &Recording) -> Outcome {
    outcome(serde_json::from_str(&reply.to_string()).expect("a reply"), &call(), recording)
}

#[test]
fn what_others_answer_becomes_an_outcome() {
    let none = Recording::default();
    let value = |reply| read(reply, &none).result.unwrap().map(|value| value.get().to_owned());
    assert_eq!(value(json!({"ok": true, "value": {"a": 1}, "logs": []})).as_deref(), Some("{\"a\":1}"));
    assert_eq!(value(json!({"ok": true, "value": null, "logs": []})).as_deref(), Some("null"));
    assert_eq!(value(json!({"ok": true, "logs": []})), None);
    assert_eq!(read(json!({"ok": true, "value": "x".repeat(30)}), &none).result.unwrap_err().code, FailureCode::PayloadTooLarge);
    let denied = RawValue::NULL.to_owned();
    let error = Some(OpError::denied("URL not in fetch allow-list: http://x/"));
    let recording = Recording {
        ops: vec![OpRecord { seq: 1, op: Op::Fetch, args: denied, asked_us: 0, answer: Some(Answer { nth: 0, took_us: 0, value: None, error }) }],
        ..Recording::default()
    };
    for (reply, recording, code, name) in [
        (json!({"ok": false, "error": "boom"}), &none, FailureCode::UserError, "Error"),
        (json!({"ok": false}), &none, FailureCode::UserError, "Error"),
        (json!({"ok": false, "error": "timed out after 1000ms"}), &none, FailureCode::Timeout, "TimeoutError"),
        (json!({"ok": false, "error": "URL not in fetch allow-list: http://x/"}), &recording, FailureCode::Denied, "Error"),
        (json!({"ok": false, "error": "URL not in fetch allow-list: http://x/"}), &none, FailureCode::UserError, "Error"),
        (json!({"ok": false, "error": "x", "code": "memory", "errorName": "RangeError", "stack": "at a"}), &none, FailureCode::Memory, "RangeError"),
    ] {
        let failure = read(reply, recording).result.unwrap_err();
        assert_eq!((failure.code, failure.name.as_str()), (code, name));
    }
}

#[test]
fn logs_are_texts_and_bounded() {
    let texts = |reply: serde_json::Value| read(reply, &Recording::default()).logs.into_iter().map(|line| line.text).collect::<Vec<_>>();
    assert_eq!(texts(json!({"ok": true, "logs": ["a", {"b": 1}, 7]})), ["a", "{\"b\":1}", "7"]);
    assert_eq!(texts(json!({"ok": true, "logs": ["a", "b", "c", "d", "e", "f"]})), ["a", "b", "c", "d", "[log truncated]"]);
    assert_eq!(texts(json!({"ok": true, "logs": ["ä".repeat(30), "b"]})), [format!("{}{LOG_CUT}", "ä".repeat(10))]);
    assert_eq!(texts(json!({"ok": true, "logs": ["x"], "logLines": [{"level": "warn", "at_ms": 1, "text": "y"}]})), ["y"]);
}

#[test]
fn a_grant_has_the_ops_of_the_capabilities() {
    use Op::{DbList, DbOne, EmailSend, Fetch, SecretsGet};
    let of = |list: &[&str]| granted(&ScriptSpec { capabilities: Some(list.iter().map(|&text| text.to_owned()).collect()), ..ScriptSpec::default() });
    assert_eq!(granted(&ScriptSpec::default()), [Fetch, DbList, DbOne, EmailSend, SecretsGet]);
    assert_eq!(of(&[]), []);
    assert_eq!(of(&["fetch", "secrets"]), [Fetch, SecretsGet]);
    assert_eq!(of(&["db:read:posts", "email"]), [DbList, DbOne, EmailSend]);
    assert_eq!(of(&["fetcher", "dbase:read"]), []);
}
