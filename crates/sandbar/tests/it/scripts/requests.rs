//! What clients send: what is taken, and in which words the rest is refused.

use serde_json::{Value, json};

use super::{FUNCTIONS, call, data, make, path, refused};
use crate::it::harness::shared;

#[test]
fn refusals_speak_of_the_wire_and_not_of_the_program() {
    let server = shared();
    let api = server.api();
    make(&api, "q-words", "return 1", json!({}));
    let rows = [
        (api.put(&path("q-words", "/aliases/next"), json!({ "version": "one" })), "version: must be a whole number from 0 to 4294967295, not the text \"one\""),
        (api.put(&path("q-words", "/aliases/next"), json!({ "split": [{ "version": 1 }] })), "split[0].weight: is required"),
        (api.put(&path("q-words", "/aliases/next"), json!({ "versions": 1 })), "versions: is not known; there are version, split"),
        (api.post(&path("q-words", "/rollback"), json!({ "version": -1 })), "version: must be a whole number from 0 to 4294967295, not the number -1"),
        (api.post("/api/collections", json!({ "slug": "q", "fields": 7 })), "fields: must be a list, not the number 7"),
        (api.post("/api/collections", json!({ "fields": [] })), "slug: is required"),
        (api.post("/api/events", json!({ "event": "e" })), "channel: is required"),
        (api.post("/api/events", json!({ "channel": "q", "event": 1 })), "event: must be a text, not the number 1"),
        (api.post(FUNCTIONS, json!({ "name": "q", "code": "return 1", "trigger": "event", "pattern": "" })), "pattern: must not be empty"),
        (
            api.post(FUNCTIONS, json!({ "name": "q", "code": "return 1", "timezone": "UTC" })),
            "timezone: is a field of schedule: {\"schedule\": {\"timezone\": ...}}",
        ),
    ];
    for (reply, expected) in rows {
        assert_eq!(refused(&reply, 400), expected);
    }
    assert_eq!(refused(&api.get("/api"), 404), "there is no \"/api\"");
    for query in ["?alias=", "?version="] {
        assert!(refused(&api.post(&path("q-words", &format!("/invoke{query}")), json!({})), 400).contains("is empty"), "{query}");
    }
    let aliases = data(&api.get(&path("q-words", "/aliases")), 200);
    assert_eq!((aliases.as_array().map(Vec::len), &aliases[0]["alias"], &aliases[0]["version"]), (Some(1), &json!("live"), &json!(1)));
}

#[test]
fn modules_are_told_what_to_write_instead() {
    let server = shared();
    let api = server.api();
    for (language, code, line, column, words) in [
        ("javascript", "import x from 'y';\nreturn x", 1, 1, "imports nothing"),
        ("javascript", "const a = 1;\n  export default async () => a", 2, 3, "exports nothing"),
        ("typescript", "import { readFile } from 'node:fs';\nreturn 1", 1, 1, "imports nothing"),
        ("typescript", "export const handler = (a: number) => a", 1, 1, "exports nothing"),
    ] {
        let reply = api.post(FUNCTIONS, json!({ "name": "q-module", "code": code, "language": language }));
        let message = refused(&reply, 400);
        assert!(message.contains(words) && message.contains(&format!("(line {line}, column {column})")), "{code}: {message}");
        assert_eq!(reply.value()["error"]["details"]["line"], line, "{code}");
    }
}

#[test]
fn a_function_can_be_sent_back_as_it_was_read() {
    let server = shared();
    let api = server.api();
    make(&api, "q-back", "return 1", json!({ "trigger": "cron", "pattern": "@daily", "active": false, "schedule": { "timezone": "Europe/Berlin" } }));
    let read = data(&api.get(&path("q-back", "")), 200);
    let patch = |body: &Value| api.json("PATCH", &path("q-back", ""), body);
    assert_eq!(patch(&read).status, 200, "{}", patch(&read).text());
    assert_eq!(data(&api.get(&path("q-back", "")), 200)["version"], 1);
    for (field, value) in [("id", json!("x")), ("version", json!(7)), ("secrets", json!(["KEY"])), ("createdAt", json!("2020-01-01T00:00:00Z"))] {
        let message = refused(&patch(&json!({ field: value })), 400);
        assert!(message.starts_with(&format!("{field}: is set by the server and cannot be set; what can be set is name, ")), "{message}");
    }
    assert!(refused(&api.post(FUNCTIONS, read.clone()), 400).contains("id: is set by the server"));
    // What the other trigger has no use for goes by itself.
    assert_eq!(patch(&json!({ "trigger": "http" })).status, 200);
    let now = data(&api.get(&path("q-back", "")), 200);
    assert_eq!((&now["pattern"], &now["schedule"]["timezone"], &now["nextRunAt"]), (&json!(null), &json!("UTC"), &json!(null)));
    assert_eq!(refused(&patch(&json!({ "schedule": { "jitterSeconds": 1 } })), 400), "schedule: is for the trigger cron; the trigger of this function is http");
}

#[test]
fn changes_at_the_same_time_are_all_made() {
    let server = shared();
    let api = server.api();
    make(&api, "q-parallel", "return 0", json!({}));
    let threads: Vec<_> = (1..=12)
        .map(|n: u32| {
            let api = api.clone();
            let body = if n.is_multiple_of(3) { json!({ "code": format!("return {n}") }) } else { json!({ "timeoutMs": 1000 + n }) };
            std::thread::spawn(move || api.json("PATCH", &path("q-parallel", ""), &body).status)
        })
        .collect();
    let statuses: Vec<u16> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let now = data(&api.get(&path("q-parallel", "")), 200);
    assert_eq!(now["version"], 5, "four of them had another code");
    assert!(now["timeoutMs"].as_u64().is_some_and(|ms| ms > 1000), "{now}");
}

#[test]
fn a_body_is_data_whatever_it_is_called() {
    let server = shared();
    let api = server.api();
    make(&api, "q-body", "return ctx.data", json!({}));
    let send = |body: &[u8], kind: &str| api.try_send("POST", &path("q-body", "/invoke"), &[("content-type", kind)], body).unwrap();
    assert_eq!(send(b"\xef\xbb\xbf{\"a\":1}", "application/json").value()["value"], json!({ "a": 1 }));
    assert_eq!(send(b"[1]", "text/plain").value()["value"], json!([1]));
    assert_eq!(send(b"a=1&b=2", "application/x-www-form-urlencoded").value()["value"], json!({}));
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels)).into_bytes();
    assert_eq!(send(&nested(90), "application/json").status, 200);
    for levels in [101, 100_000] {
        assert_eq!(
            refused(&send(&nested(levels), "application/json"), 400),
            "the request body is nested too deep: at most 100 levels of lists and objects are allowed"
        );
    }
    make(&api, "q-deep", "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a", json!({ "timeoutMs": 60_000 }));
    let deep = api.post(&path("q-deep", "/invoke"), json!({})).value();
    assert_eq!((&deep["code"], &deep["error"]), (&json!("unserializable"), &json!("the result is nested too deep: 100 levels are allowed")));
    assert_eq!(call(&api, "q-body", json!(7))["value"], 7);
}
