//! What an app was given sealed does not stand in what others may read of its sandbox, and who may not read any more reads nothing.

use serde_json::{Value, json};

use super::{
    demo::{Demo, WITHIN},
    to_the_end,
};
use crate::it::{
    harness::shared,
    http::{eventually, next_frame},
};

const PEM: &str = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END KEY-----\n";
const TOKEN: &str = "s3cr3t-of-the-app";

const MANIFEST: &str = r#"inputs:
  env: [{name: PEM, required: true}, {name: TOKEN}]
start:
  command: 'printf "%s" "$PEM"; echo "token $TOKEN."; python3 -c "import json, os; print(json.dumps({\"pem\": os.environ[\"PEM\"]}))"; printf "$TOKEN" | cut -c1-9 | tr -d "\n"; exec sleep 1000'
services:
  - name: fails
    command: 'for n in 1 2 3; do printf "%s" "$PEM"; done; exit 3'
    restart: never
actions:
  - name: shows
    command: 'printf "%s" "$PEM"; echo "$TOKEN" | fold -w 4'
"#;

fn is_clean(what: &str, text: &str) {
    for secret in ["MIIEvQIBADANBgkqhkiG9w0B", "AQEFAASCBKcwggSjAgEAAoIB", TOKEN] {
        assert!(!text.contains(secret), "{what}: {text}");
    }
}

#[test]
fn sealed_variables_are_not_shown_of_an_apps_sandbox() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "sealed", MANIFEST, &[]);
    demo.try_post("/start", json!({})).error(&[409]);
    demo.api.put(&demo.path("/env"), json!({ "PEM": PEM, "TOKEN": TOKEN })).ok(200);
    demo.start();
    demo.post("/services/fails/start", json!({}));
    let sandbox = demo.sandbox();

    // Of the app: its log, however it is read, and how a process ended.
    let whole = eventually("its lines", WITHIN, || {
        let text = demo.logs("start");
        if text.contains("\"pem\"") { Ok(text) } else { Err(text) }
    });
    is_clean("log", &whole);
    assert!(whole.contains("token [secret TOKEN].") && whole.contains("{\"pem\": \"[secret PEM]\"}"), "{whole}");
    let failed = demo.until("its end", |status| super::demo::service(status, "fails")["state"] == "failed");
    is_clean("status", &failed.to_string());
    assert!(failed.to_string().contains("[secret PEM]"), "{failed}");

    // Of the sandbox: contexts with their environment and output, and its log.
    let contexts = sandbox.api.get(&sandbox.path("/contexts")).ok(200);
    let start = contexts["contexts"].as_array().unwrap().iter().find(|context| context["env_vars"]["SANDBAR_APP_ENTRY"] == "start").unwrap().clone();
    assert_eq!((&start["env_vars"]["PEM"], &start["env_vars"]["TOKEN"]), (&json!("[secret PEM]"), &json!("[secret TOKEN]")));
    is_clean("contexts", &contexts.to_string());
    let context = sandbox.path(&format!("/contexts/{}", start["id"].as_str().unwrap()));
    let got = sandbox.api.get(&context).ok(200).to_string();
    is_clean("context", &got);
    assert!(got.contains("token [secret TOKEN].") && !got.contains("s3cr3t-of"), "what is only begun is hidden, too: {got}");
    for log in ["/logs", "/logs?tail_lines=1", "/logs?limit_bytes=40", "/observability/logs"] {
        let reply = sandbox.api.get(&sandbox.path(log));
        assert_eq!(reply.status, 200);
        is_clean(log, &reply.text());
    }
    assert!(sandbox.api.get(&sandbox.path("/logs")).text().contains("token [secret TOKEN]."));
    let mut attached = sandbox.api.ws(&format!("{context}/ws")).unwrap();
    let mut seen = String::new();
    while !seen.contains("\"pem\"") {
        let frame = next_frame(&mut attached).expect("output");
        seen += frame["data"].as_str().unwrap_or_default();
    }
    is_clean("an attached context", &seen);
    assert!(seen.contains("[secret PEM]token [secret TOKEN]."), "{seen}");
    let mut followed = sandbox.api.stream(&sandbox.path("/observability/logs?watch=true"), &[]);
    let mut lines = String::new();
    while !lines.contains("\\\"pem\\\"") {
        lines += &followed.line().unwrap();
    }
    is_clean("a watched log", &lines);

    // Of a run.
    let run = super::runs::run(&demo, json!({ "action": "shows" }));
    is_clean("run", &super::runs::log_of(&demo.api, &run));
    is_clean("its row", &run.to_string());

    // Whoever runs commands of their own there, or reads its files, sees what is there: that is so, and told in docs/apps.md.
    assert_eq!(sandbox.sh_ok("tr '\\0' '\\n' </proc/$(pgrep -o -x sleep)/environ | grep -c ^TOKEN="), "1\n");
}

#[test]
fn a_value_that_was_changed_is_hidden_as_long_as_it_is_in_use() {
    let server = shared();
    let slow = "inputs: {env: [{name: TOKEN}]}\nstart: {command: 'while [ ! -e go ]; do sleep 0.05; done; echo \"is $TOKEN.\"; exec sleep 1000'}\n";
    let demo = Demo::deploy(&server.api(), "rotated", slow, &[]);
    demo.api.put(&demo.path("/env"), json!({ "TOKEN": "the-former-value" })).ok(200);
    demo.start();
    demo.api.put(&demo.path("/env"), json!({ "TOKEN": "the-value-to-come" })).ok(200);
    let sandbox = demo.sandbox();
    sandbox.write("/workspace/go", b"");
    let text = eventually("its line", WITHIN, || Some(demo.logs("start")).filter(|text| text.contains("is ")).ok_or_else(String::new));
    assert_eq!(text, "is [secret TOKEN].\n");
    assert!(!sandbox.api.get(&sandbox.path("/contexts")).text().contains("the-former-value"));
    assert!(!sandbox.api.get(&sandbox.path("/logs")).text().contains("the-former-value"));
}

#[test]
fn a_value_that_a_run_brings_itself_is_hidden_as_the_one_that_it_takes_the_place_of() {
    const OWN: &str = "other-secret-9";
    let server = shared();
    let yaml = r#"inputs: {env: [{name: K, required: true}, {name: OPEN, secret: false}]}
actions:
  - {name: p, command: 'echo "is $K and $OPEN"; touch begun; while ! test -e go; do sleep 0.05; done; echo "was $K"'}
schedules:
  - {name: s, rate: 6 hours, action: p, env: {K: other-secret-9}, enabled: false}
"#;
    let demo = Demo::deploy(&server.api(), "overridden", yaml, &[]);
    demo.api.put(&demo.path("/env"), json!({ "K": "the-secret-of-the-app" })).ok(200);
    demo.start();
    let sandbox = demo.sandbox();
    let mut followed = sandbox.api.stream(&sandbox.path("/observability/logs?watch=true"), &[]);
    let run = super::runs::ask(&demo, json!({ "action": "p", "env": { "K": OWN, "OPEN": "plain-text" } }));
    let path = |rest: &str| super::runs::of(&run, rest);
    eventually("its first line", WITHIN, || {
        let log = demo.api.get(&path("/logs")).ok(200).to_string();
        if log.contains("is [secret K] and plain-text") { Ok(()) } else { Err(log) }
    });
    let contexts = sandbox.api.get(&sandbox.path("/contexts")).ok(200).to_string();
    assert!(contexts.contains(r#""K":"[secret K]""#) && contexts.contains("plain-text") && !contexts.contains(OWN), "{contexts}");
    let mut seen = String::new();
    while !seen.contains("plain-text") {
        seen += &followed.line().unwrap();
    }
    sandbox.write("/workspace/go", b"");
    let run = super::runs::ended(&demo.api, &run);
    assert_eq!(run["status"], "succeeded", "{run}");
    while !seen.contains("was ") {
        seen += &followed.line().unwrap();
    }
    // Its log, what is left of it in its sandbox's, its row and its receipt.
    let log = super::runs::log_of(&demo.api, &run);
    assert_eq!(log, "is [secret K] and plain-text\nwas [secret K]\n");
    let all = [log, seen, sandbox.api.get(&sandbox.path("/logs")).text(), run.to_string(), demo.api.get(&path("/receipt")).ok(200).to_string()];
    for text in &all {
        assert!(!text.contains(OWN), "{text}");
    }
    assert!(all[2].contains("was [secret K]"), "{}", all[2]);

    // The same of what a schedule says.
    let asked = demo.try_post("/schedules/s/run", json!({})).ok(202)["run"].clone();
    let fresh = eventually("its begin", WITHIN, || {
        let now = super::runs::now(&demo.api, &asked);
        let text = demo.api.get(&super::runs::of(&asked, "/logs")).ok(200).to_string();
        if text.contains("is ") { Ok(super::runs::sandbox_of(&demo.api, &now)) } else { Err(now.to_string()) }
    });
    assert!(!fresh.api.get(&fresh.path("/logs")).text().contains(OWN));
    fresh.write("/workspace/go", b"");
    let log = super::runs::log_of(&demo.api, &super::runs::ended(&demo.api, &asked));
    assert_eq!(log, "is [secret K] and \nwas [secret K]\n");
}

#[test]
fn who_may_not_read_any_more_is_not_read_to() {
    let server = shared();
    let admin = server.api();
    let demo = Demo::deploy(&admin, "followed", "start: {command: 'while :; do echo tick; sleep 0.2; done'}\n", &[]);
    demo.start();
    let made = admin.post("/api-keys", json!({ "name": "follower", "roles": ["viewer"] })).ok(201);
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    let viewer = admin.with_token(key);
    let sandbox = demo.sandbox();
    let mut streams = [
        viewer.stream(&demo.path("/logs"), &[("accept", "text/event-stream")]),
        viewer.stream(&sandbox.path("/logs?follow=true"), &[]),
        viewer.stream(&sandbox.path("/observability/logs?watch=true"), &[]),
    ];
    for stream in &mut streams {
        assert_eq!(stream.status, 200);
        assert!(!stream.line().unwrap().is_empty());
    }
    admin.delete(&format!("/api-keys/{id}")).ok(200);
    for mut stream in streams {
        // Within seconds, though there is always something new.
        to_the_end(&mut stream);
    }
}

#[test]
fn a_followed_log_says_why_it_ends() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "goes", "start: {command: 'echo one; exec sleep 1000'}\n", &[]);
    demo.start();
    let mut events = demo.api.stream(&demo.path("/logs"), &[("accept", "text/event-stream")]);
    demo.api.delete(&demo.path("")).ok(200);
    let told = to_the_end(&mut events);
    let last = told.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().unwrap_or_default();
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["code"], "not_found", "{told}");
}
