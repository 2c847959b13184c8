//! Schedules: they run actions in sandboxes of their own, and each time that they came is accounted for.

use serde_json::{Value, json};

use super::{
    demo::{Demo, WITHIN},
    runs::{ended, log_of, now, verify_chain},
};
use crate::it::{
    harness::{Server, shared},
    http::eventually,
};

mod asked;
mod targets;
mod unreadable;

const ACTIONS: &str = "actions:\n  - name: report\n    command: \"echo told $SANDBAR_INPUT_BASE64 | tee report.txt\"\n    artifactPaths: [report.txt]\n";

fn schedule(demo: &Demo, name: &str, rest: &str) -> String {
    demo.path(&format!("/schedules/{name}{rest}"))
}

#[track_caller]
fn is(demo: &Demo, name: &str) -> Value {
    demo.api.get(&schedule(demo, name, "")).ok(200)["schedule"].clone()
}

#[track_caller]
fn ticks(demo: &Demo, name: &str) -> Vec<Value> {
    demo.api.get(&schedule(demo, name, "/ticks?limit=200")).ok(200)["ticks"].as_array().unwrap().clone()
}

#[track_caller]
fn until(demo: &Demo, name: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    eventually(what, WITHIN, || {
        let found = is(demo, name);
        if so(&found) { Ok(found) } else { Err(found.to_string()) }
    })
}

#[test]
fn a_tick_runs_its_action_in_a_sandbox_of_its_own() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "ticking", ACTIONS, &[]);
    let made = json!({ "name": "often", "cron": "* * * * * *", "maxRuns": 2, "concurrencyPolicy": "allow", "runtimePolicy": "run_and_delete",
        "action": "report", "input": { "who": "me" } });
    let made = demo.try_post("/schedules", made).ok(201)["schedule"].clone();
    assert_eq!((&made["management_source"], &made["lifecycle_status"]), (&json!("api"), &json!("active")), "{made}");
    let over = until(&demo, "often", "the end of a schedule", |it| it["lifecycle_status"] == "max_runs_reached");
    assert_eq!((&over["execution_count"], &over["next_run_at"]), (&json!(2), &Value::Null), "{over}");
    let fired: Vec<_> = ticks(&demo, "often").into_iter().filter(|tick| tick["outcome"] == "fired").collect();
    assert_eq!(fired.len(), 2, "{fired:?}");
    for tick in &fired {
        let run = ended(&demo.api, &json!({ "id": tick["run_id"] }));
        assert_eq!((&run["status"], &run["cause"]), (&json!("succeeded"), &json!("schedule")), "{run}");
        assert_eq!(run["artifacts"][0]["status"], "captured", "{run}");
        assert!(log_of(&demo.api, &run).starts_with("told "));
        let cleaned = eventually("the sandbox to go", WITHIN, || {
            let run = now(&demo.api, &run);
            if run["cleanup"] == "succeeded" { Ok(run) } else { Err(run.to_string()) }
        });
        let sandbox = format!("/api/v1/sandboxes/{}", cleaned["sandbox_id"].as_str().unwrap());
        eventually("the sandbox to be gone", WITHIN, || match demo.api.get(&sandbox).status {
            404 => Ok(()),
            status => Err(status.to_string()),
        });
    }
    assert!(verify_chain(&demo.api).len() >= 2);
}

#[test]
fn the_manifest_keeps_its_schedules() {
    let server = shared();
    let with = |rest: &str| format!("{ACTIONS}schedules:\n  - name: nightly\n    cron: \"0 3 * * *\"\n    timezone: Europe/Berlin\n    action: report\n{rest}");
    let demo = Demo::deploy(&server.api(), "nightly", &with(""), &[]);
    let first = is(&demo, "nightly");
    assert_eq!((&first["management_source"], &first["spec"]["timezone"]), (&json!("manifest"), &json!("Europe/Berlin")), "{first}");
    assert_ne!(first["next_run_at"], Value::Null);
    for refused in [demo.api.send("PATCH", &schedule(&demo, "nightly", ""), br#"{"cron":"0 4 * * *"}"#), demo.api.delete(&schedule(&demo, "nightly", ""))] {
        assert_eq!(refused.status, 409, "{}", refused.text());
    }
    // A run of now is no tick.
    let asked = demo.try_post("/schedules/nightly/run", json!({})).ok(202)["run"].clone();
    assert_eq!(ended(&demo.api, &asked)["status"], "succeeded");
    assert_eq!(is(&demo, "nightly")["execution_count"], 0);
    assert_eq!(ticks(&demo, "nightly"), Vec::<Value>::new());
    let stopped = demo.post("/schedules/nightly/stop", json!({}))["schedule"].clone();
    assert_eq!((&stopped["lifecycle_status"], &stopped["next_run_at"]), (&json!("stopped"), &Value::Null));
    // Whatever the manifest says then, it stays so until it is resumed.
    demo.redeploy(&with("    missedRunPolicy: skip\n"), &[]);
    let stopped = is(&demo, "nightly");
    assert_eq!((&stopped["lifecycle_status"], &stopped["spec"]["missedRunPolicy"]), (&json!("stopped"), &json!("skip")), "{stopped}");
    let again = demo.post("/schedules/nightly/resume", json!({}))["schedule"].clone();
    assert_eq!(again["lifecycle_status"], "active");
    demo.redeploy(&with(""), &[]);
    assert_eq!(is(&demo, "nightly")["lifecycle_status"], "active");
    demo.redeploy(&with("  - name: more\n    rate: 6 hours\n    action: report\n"), &[]);
    assert_eq!(is(&demo, "nightly")["id"], first["id"], "one that stays the same stays");
    is(&demo, "more");
    demo.redeploy(ACTIONS, &[]);
    let left = demo.api.get(&demo.path("/schedules")).ok(200);
    assert_eq!(left["schedules"], json!([]), "those that the manifest does not name are gone");
}

#[test]
fn what_is_wrong_with_a_schedule_is_said() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "wrong", ACTIONS, &[]);
    let table = [
        (json!({ "name": "a", "cron": "61 * * * *", "action": "report" }), "$.cron"),
        (json!({ "name": "a", "cron": "* * * * *", "rate": "5 minutes", "action": "report" }), "$"),
        (json!({ "name": "a", "rate": "1 second", "action": "report" }), "$.rate"),
        (json!({ "name": "a", "rate": "1 hour", "action": "none" }), "schedule action target does not exist: none"),
        (json!({ "name": "a", "rate": "1 hour", "action": "report", "timezone": "Mars/Base" }), "$.timezone"),
        (json!({ "name": "a", "rate": "1 hour", "action": "report", "wrong": 1 }), "wrong"),
        (json!({ "name": "a", "rate": "1 hour", "target": { "kind": "start" } }), "schedule start target does not exist"),
        (json!({ "name": "a", "rate": "1 hour", "action": "report", "runtimePolicy": "use_existing_running", "resources": { "cpu": 1 } }), "$.resources"),
    ];
    for (given, told) in table {
        let refused = demo.try_post("/schedules", given.clone());
        assert_eq!(refused.status, 400, "{given}: {}", refused.text());
        assert!(refused.text().contains(told), "{given}: {}", refused.text());
    }
    let made = json!({ "name": "twice", "rate": "1 hour", "action": "report" });
    demo.try_post("/schedules", made.clone()).ok(201);
    assert_eq!(demo.try_post("/schedules", made).status, 409);
    // What never comes is refused with what is allowed.
    for (given, path) in [
        (json!({ "name": "b", "once": "2020-01-01T00:00:00Z", "action": "report" }), "$.once"),
        (json!({ "name": "b", "rate": "1 hour", "endAt": "2020-01-01T00:00:00Z", "action": "report" }), "$.endAt"),
    ] {
        let refused = demo.try_post("/schedules", given.clone()).error(&[422]);
        assert_eq!(refused["details"]["diagnostics"][0]["path"], path, "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("must be a moment after now"), "{refused}");
    }
    let past = demo.api.send("PATCH", &schedule(&demo, "twice", ""), br#"{"once":"2020-01-01T00:00:00Z"}"#).error(&[422]);
    assert_eq!(past["details"]["diagnostics"][0]["path"], "$.once", "{past}");
    // A name that another has.
    demo.try_post("/schedules", json!({ "name": "other", "rate": "1 hour", "action": "report" })).ok(201);
    let taken = demo.api.send("PATCH", &schedule(&demo, "twice", ""), br#"{"name":"other"}"#).error(&[409]);
    assert!(taken["message"].as_str().unwrap().contains("that name"), "{taken}");
    let renamed = demo.api.send("PATCH", &schedule(&demo, "other", ""), br#"{"name":"another"}"#).ok(200)["schedule"].clone();
    assert_eq!(renamed["name"], "another");
    let changed = demo.api.send("PATCH", &schedule(&demo, "twice", ""), br#"{"cron":"0 4 * * *","endAt":"2099-01-01T00:00:00Z"}"#).ok(200)["schedule"].clone();
    assert_eq!((&changed["spec"]["cron"], &changed["spec"]["rate"]), (&json!("0 4 * * *"), &Value::Null), "{changed}");
    assert_eq!(demo.api.delete(&schedule(&demo, "twice", "")).status, 200);
    assert_eq!(demo.api.get(&schedule(&demo, "twice", "")).status, 404);
}

#[test]
fn ticks_of_a_killed_server_are_made_up_for_or_skipped_and_none_runs_twice() {
    let mut server = Server::start_with(&[]);
    let demo = Demo::deploy(&server.api(), "killed", ACTIONS, &[]);
    let made = json!({ "name": "s", "cron": "* * * * * *", "concurrencyPolicy": "skip", "runtimePolicy": "run_and_delete", "action": "report" });
    demo.try_post("/schedules", made).ok(201);
    for _ in 0..3 {
        let before = ticks(&demo, "s").len();
        eventually("more ticks", WITHIN, || if ticks(&demo, "s").len() > before { Ok(()) } else { Err(before.to_string()) });
        server.kill();
        server.up();
    }
    demo.post("/schedules/s/stop", json!({}));
    let all = ticks(&demo, "s");
    let fired: Vec<_> = all.iter().filter(|tick| tick["outcome"] == "fired").collect();
    assert!(!fired.is_empty());
    for tick in &fired {
        let run = ended(&demo.api, &json!({ "id": tick["run_id"] }));
        assert_eq!(run["status"], "succeeded", "{run}");
        assert_ne!(run["receipt_id"], Value::Null, "{run}");
    }
    assert!(all.iter().all(|tick| tick["outcome"] == "fired" || tick["reason"].is_string()), "{all:?}");
    // Every second is either fired or skipped, once.
    let seconds: u64 = all.iter().map(|tick| tick["count"].as_u64().unwrap()).sum();
    let at = |tick: &Value, key: &str| tick[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second();
    let span = at(&all[0], "scheduled_at") - at(all.last().unwrap(), "first_scheduled_at") + 1;
    assert_eq!(seconds, u64::try_from(span).unwrap(), "{all:?}");
    assert_eq!(verify_chain(&demo.api).len(), fired.len());
}
