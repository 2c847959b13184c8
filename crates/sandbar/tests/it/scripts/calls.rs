//! Calls: what they return, what they may not, and how often.

use std::time::Duration;

use serde_json::json;

use super::{FUNCTIONS, call, data, make, path, refused};
use crate::it::{harness::shared, http::eventually};

#[test]
fn a_call_returns_value_logs_and_how_long_it_took() {
    let server = shared();
    let api = server.api();
    make(&api, "c-echo", "console.log('got', ctx.data, 1n === 1n); console.warn('w'); return { data: ctx.data, user: ctx.user }", json!({}));
    let result = call(&api, "c-echo", json!({ "a": [1, "ä"] }));
    assert_eq!((&result["ok"], &result["value"]["data"]), (&json!(true), &json!({ "a": [1, "ä"] })));
    assert_eq!(result["logs"], json!(["got {\"a\":[1,\"ä\"]} true", "w"]));
    assert_eq!(result["logEntries"][1]["level"], "warn");
    assert!(result["durationMs"].as_f64().is_some_and(|ms| ms > 0.0) && result.get("error").is_none(), "{result}");
    assert_eq!((&result["provider"], &result["version"]), (&json!("quickjs"), &json!(1)));
    let user = &result["value"]["user"];
    assert!(user["id"].is_string() && user["email"].is_string() && user["roles"] == json!(["admin"]), "{user}");

    make(&api, "c-nothing", "", json!({ "code": "const x = 1" }));
    assert!(call(&api, "c-nothing", json!(null)).get("value").is_none());
    for body in [&b""[..], b"no JSON", b"{\"a\":"] {
        let reply = api.send("POST", &path("c-echo", "/invoke"), body);
        assert_eq!(reply.value()["value"]["data"], json!({}), "{}", reply.text());
    }
}

#[test]
fn a_call_that_fails_says_how() {
    let server = shared();
    let api = server.api();
    let rows = [
        ("c-throw", "function f() { throw new RangeError('no') }\nf()", json!({}), "user_error", "RangeError", "no"),
        ("c-text", "throw 'plain'", json!({}), "user_error", "", "plain"),
        ("c-loop", "for (;;) {}", json!({ "timeoutMs": 200 }), "timeout", "", "timed out after 200ms"),
        ("c-wait", "await new Promise((done) => setTimeout(done, 10000))", json!({ "timeoutMs": 100 }), "timeout", "", "timed out after 100ms"),
        ("c-cycle", "const a = {}; a.a = a; return a", json!({}), "unserializable", "", ""),
        ("c-big", "return 1n", json!({}), "unserializable", "", ""),
        ("c-memory", "const all = []; for (;;) all.push(new Array(1000).fill(1))", json!({ "memoryMb": 32 }), "memory", "", ""),
        ("c-fetch", "await ctx.fetch('https://nowhere.example/')", json!({}), "denied", "", "not in fetch allow-list"),
        ("c-db", "await ctx.db.list('nowhere')", json!({}), "user_error", "", "\"nowhere\" not found"),
        ("c-cap", "await ctx.email.send({ to: 'a@b.c', subject: 's', text: 't' })", json!({ "capabilities": [] }), "denied", "", "lacks the capability email"),
    ];
    for (name, code, more, failure, error_name, words) in rows {
        make(&api, name, code, more);
        let reply = api.post(&path(name, "/invoke"), json!({}));
        let result = reply.value();
        assert_eq!((reply.status, &result["ok"], &result["code"]), (500, &json!(false), &json!(failure)), "{name}: {result}");
        assert!(result["error"].as_str().is_some_and(|error| error.contains(words)), "{name}: {result}");
        assert!(error_name.is_empty() || result["errorName"] == error_name, "{name}: {result}");
        assert!(result["durationMs"].is_number() && result["logs"].is_array() && result.get("value").is_none(), "{name}: {result}");
    }
    let stack = api.post(&path("c-throw", "/invoke"), json!({})).value()["stack"].as_str().unwrap_or_default().to_owned();
    assert!(stack.contains("c-throw:1") && stack.contains("c-throw:2"), "{stack}");
}

#[test]
fn checks_come_in_their_order() {
    let server = shared();
    let api = server.api();
    make(&api, "c-event", "return 1", json!({ "trigger": "event", "pattern": "c:none", "active": false }));
    make(&api, "c-asleep", "return 1", json!({ "active": false }));
    let developer = super::data_of_key(&api, &["developer"]);
    refused(&api.anonymous().post(&path("c-nowhere", "/invoke"), json!({})), 401);
    refused(&developer.post(&path("c-nowhere", "/invoke"), json!({})), 403);
    refused(&developer.post(&path("c-asleep", "/invoke"), json!({})), 403);
    refused(&api.post(&path("c-nowhere", "/invoke"), json!({})), 404);
    assert!(refused(&api.post(&path("c-event", "/invoke"), json!({})), 400).contains("trigger event"));
    assert!(refused(&api.post(&path("c-asleep", "/invoke"), json!({})), 403).contains("inactive"));
}

#[test]
fn too_much_is_refused() {
    let server = shared();
    let api = server.api();
    make(&api, "c-size", "return ctx.data.length ?? 0", json!({}));
    let text = |bytes: usize| format!("\"{}\"", "a".repeat(bytes - 2)).into_bytes();
    let reply = api.send("POST", &path("c-size", "/invoke"), &text(6 << 20));
    assert_eq!((reply.status, &reply.value()["value"]), (200, &json!((6 << 20) - 2)));
    assert!(refused(&api.send("POST", &path("c-size", "/invoke"), &text((6 << 20) + 1)), 413).contains("6291456"));
    make(&api, "c-out", "return 'a'.repeat(7 * 1024 * 1024)", json!({ "memoryMb": 128 }));
    let reply = api.post(&path("c-out", "/invoke"), json!({}));
    assert_eq!((reply.status, &reply.value()["code"]), (500, &json!("payload_too_large")), "{}", reply.text());
}

#[test]
fn calls_at_once_are_limited() {
    let server = shared();
    let api = server.api();
    make(&api, "c-slow", "await new Promise((done) => setTimeout(done, 6000)); return 1", json!({ "concurrency": 1, "timeoutMs": 20_000 }));
    let first = std::thread::spawn({
        let api = api.clone();
        move || api.post(&path("c-slow", "/invoke"), json!({})).status
    });
    // Whichever comes first runs for longer than the other waits.
    let second = api.post(&path("c-slow", "/invoke"), json!({}));
    let statuses = [first.join().unwrap(), second.status];
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
    if second.status == 429 {
        refused(&second, 429);
        assert_eq!(second.header("retry-after"), Some("1"));
    }
}

#[test]
fn a_call_that_nobody_waits_for_runs_once() {
    let server = shared();
    let api = server.api();
    make(&api, "c-async", "return { got: ctx.data.n, who: ctx.user.email }", json!({}));
    for (path, headers) in [(path("c-async", "/invoke?mode=async"), &[][..]), (path("c-async", "/invoke"), &[("prefer", "respond-async, wait=1")][..])] {
        let reply = api.try_send("POST", &path, headers, b"{\"n\":7}").unwrap();
        assert_eq!(reply.status, 202, "{}", reply.text());
        let id = reply.value()["invocationId"].as_str().unwrap().to_owned();
        let place = reply.header("location").unwrap().to_owned();
        assert_eq!(place, format!("/api/invocations/{id}"));
        let run = eventually("the call has run", Duration::from_secs(60), || {
            let run = data(&api.get(&place), 200);
            if run["finishedAt"].is_string() { Ok(run) } else { Err(run.to_string()) }
        });
        assert_eq!((&run["status"], &run["output"]["got"], &run["trigger"]), (&json!("succeeded"), &json!(7), &json!("async")), "{run}");
        assert!(run["output"]["who"].is_string());
        assert_eq!(data(&api.get(&format!("/api/runs/{id}")), 200), run);
    }
    refused(&api.post(&path("c-async", "/invoke?mode=later"), json!({})), 400);
}

#[test]
fn the_same_key_is_the_same_call() {
    let server = shared();
    let api = server.api();
    make(&api, "c-once", "if (ctx.data.fail) throw new Error('x'); return Math.random()", json!({}));
    let ask = |key: &str, body: &str| api.try_send("POST", &path("c-once", "/invoke"), &[("idempotency-key", key)], body.as_bytes()).unwrap();
    let first = ask("k-1", "{}");
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None));
    let again = ask("k-1", "{}");
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
    for field in ["ok", "value", "logs", "runId", "durationMs", "version"] {
        assert_eq!(first.value()[field], again.value()[field], "{field}");
    }
    assert_ne!(ask("k-2", "{}").value()["value"], first.value()["value"]);
    assert!(refused(&ask("k-1", "{\"other\":1}"), 409).contains("another body"));
    assert_eq!(ask("k-1", "{\"other\":1}").value()["error"]["code"], "IDEMPOTENCY_KEY_REUSED");
    let failed = ask("k-3", "{\"fail\":true}");
    let again = ask("k-3", "{\"fail\":true}");
    assert_eq!((failed.status, again.status), (500, 500));
    assert_eq!(failed.value()["error"], again.value()["error"]);
    assert!(refused(&ask(&"k".repeat(256), "{}"), 400).contains("1 to 255"));
    let queued = |key: &str| api.try_send("POST", &path("c-once", "/invoke?mode=async"), &[("idempotency-key", key)], b"{}").unwrap();
    let (one, two) = (queued("k-4"), queued("k-4"));
    assert_eq!((one.status, two.status), (202, 202));
    assert_eq!(one.value()["invocationId"], two.value()["invocationId"]);
    // Of a call that is still running.
    make(&api, "c-once-slow", "await new Promise((done) => setTimeout(done, 3000)); return 1", json!({}));
    let slow = || api.try_send("POST", &path("c-once-slow", "/invoke"), &[("idempotency-key", "k")], b"{}").unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(slow);
        eventually("the call runs", Duration::from_secs(30), || {
            let runs = data(&api.get(&path("c-once-slow", "/runs?status=running")), 200);
            if runs == json!([]) { Err(runs.to_string()) } else { Ok(()) }
        });
        let second = slow();
        // On a slow machine it may have ended meanwhile.
        let goes_on = second.status == 409 && second.header("retry-after").is_some() && second.value()["error"]["code"] == "IDEMPOTENCY_IN_PROGRESS";
        assert!(goes_on || second.header("idempotency-replayed").is_some(), "{}", second.text());
        assert_eq!(first.join().unwrap().status, 200);
    });
}

#[test]
fn secrets_are_given_and_not_shown() {
    let server = shared();
    let api = server.api();
    let code =
        "const key = await ctx.secrets.get('API_KEY'); console.log('key', key, { key }); if (ctx.data.fail) throw new Error(key + '!'); return key.length";
    make(&api, "c-secret", code, json!({}));
    refused(&api.put(&path("c-secret", "/secrets/API_KEY"), json!({ "value": "abc" })), 400);
    refused(&api.put(&path("c-secret", "/secrets/1%20x"), json!({ "value": "abcdef" })), 400);
    refused(&api.put(&path("c-secret", "/secrets/API_KEY"), json!({ "secret": "abcdef" })), 400);
    for value in ["first-value", "s3cr3t-\"value\""] {
        assert_eq!(api.put(&path("c-secret", "/secrets/API_KEY"), json!({ "value": value })).value(), json!({ "ok": true }));
    }
    let listed = data(&api.get(&path("c-secret", "/secrets")), 200);
    assert_eq!((listed[0]["name"].as_str(), &listed[0]["version"]), (Some("API_KEY"), &json!(2)));
    assert_eq!(data(&api.get(&path("c-secret", "")), 200)["secrets"], json!(["API_KEY"]));
    let result = call(&api, "c-secret", json!({}));
    assert_eq!(result["value"], 14);
    assert_eq!(result["logs"], json!(["key [secret API_KEY] {\"key\":\"[secret API_KEY]\"}"]));
    let failed = api.post(&path("c-secret", "/invoke"), json!({ "fail": true }));
    assert_eq!(failed.value()["error"], "[secret API_KEY]!", "{}", failed.text());
    for run in data(&api.get(&path("c-secret", "/runs")), 200).as_array().unwrap() {
        let whole = api.get(&format!("/api/runs/{}", run["id"].as_str().unwrap())).text();
        assert!(!whole.contains("s3cr3t") && whole.contains("[secret API_KEY]"), "{whole}");
    }
    assert!(!server.log().contains("s3cr3t"));
    let database = std::fs::read(server.data_dir().join("sandbar.db")).unwrap();
    assert!(!database.windows(6).any(|bytes| bytes == b"s3cr3t"));
    assert_eq!(api.delete(&path("c-secret", "/secrets/API_KEY")).value(), json!({ "ok": true }));
    refused(&api.delete(&path("c-secret", "/secrets/API_KEY")), 404);
    make(&api, "c-secret-none", "return await ctx.secrets.get('API_KEY')", json!({}));
    assert_eq!(call(&api, "c-secret-none", json!({}))["value"], json!(null), "those of others are not given");
    refused(&api.get(&format!("{FUNCTIONS}/none/secrets")), 404);
}
