//! What a schedule may run, and what it asks of its runs.

use super::*;

const WHOLE: &str = r#"resources:
  memoryGb: 1
start:
  command: "echo $FROM started; exec python3 -m http.server 3000"
  ports: [{port: 3000}]
actions:
  - name: report
    command: "echo $FROM reported"
    env: {FROM: manifest}
    timeoutSeconds: 100
  - name: greedy
    command: "python3 -c 'b = bytearray(700_000_000)'"
services:
  - name: db
    command: "sleep 0.3; touch /tmp/db; sleep 1000"
    readiness: {command: "test -e /tmp/db"}
  - name: worker
    command: "test -e /tmp/db && echo $FROM worked"
    dependsOn: [db]
inputs:
  schema: {type: object, properties: {n: {type: integer}}, required: [n]}
"#;

/// Makes a schedule that does not come by itself, runs it, and returns its run once that has ended.
#[track_caller]
fn run_now(demo: &Demo, name: &str, more: Value) -> Value {
    let mut whole = json!({ "name": name, "rate": "300 days", "runtimePolicy": "run_and_delete", "env": { "FROM": "schedule" } });
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    demo.try_post("/schedules", whole).ok(201);
    let asked = demo.try_post(&format!("/schedules/{name}/run"), json!({})).ok(202)["run"].clone();
    ended(&demo.api, &asked)
}

#[test]
fn each_kind_of_target_runs() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "targets", WHOLE, &[]);
    let input = json!({ "n": 1 });
    let table = [
        ("action", json!({ "action": "report", "input": input }), "schedule reported\n"),
        ("command", json!({ "command": "echo $FROM commanded" }), "schedule commanded\n"),
        // What it depends on is ready before.
        ("service", json!({ "target": { "kind": "service", "name": "worker" } }), "schedule worked\n"),
        (
            "served",
            json!({ "command": "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:3000/').status)\"", "requiresStart": true }),
            "200\n",
        ),
    ];
    for (name, given, printed) in table {
        let run = run_now(&demo, name, given);
        assert_eq!(
            (&run["status"], &run["cause"], &run["sandbox"]),
            (&json!("succeeded"), &json!("schedule"), &json!("fresh")),
            "{run} {}",
            log_of(&demo.api, &run)
        );
        assert_eq!(log_of(&demo.api, &run), printed, "{run}");
        assert_ne!(run["receipt_id"], Value::Null, "{run}");
    }
    // A start command goes on until it ends or its time is up, whatever of it that is spent on.
    let start = run_now(&demo, "start", json!({ "target": { "kind": "start" }, "quotas": { "maxDurationSeconds": 5 } }));
    assert_eq!((&start["status"], &start["failure_reason"]), (&json!("timed_out"), &json!("timeout")), "{start}");
    assert!(start["message"].as_str().unwrap().contains("maxDurationSeconds (5 s)"), "{start}");
    // A bound of the schedule makes none of the action longer.
    let action = run_now(&demo, "long", json!({ "action": "report", "input": input, "quotas": { "maxDurationSeconds": 4000 } }));
    assert_eq!(action["timeout_seconds"], 100, "{action}");
}

#[test]
fn a_run_has_what_its_schedule_asks_for() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "asking", WHOLE, &[]);
    let input = json!({ "n": 1 });
    let own = run_now(&demo, "own", json!({ "action": "greedy", "input": input, "resources": { "memoryGb": 0.25 } }));
    assert_eq!((&own["status"], &own["failure_reason"]), (&json!("failed"), &json!("out_of_memory")), "{own}");
    let all = run_now(&demo, "all", json!({ "action": "greedy", "input": input }));
    assert_eq!(all["status"], "succeeded", "{all} {}", log_of(&demo.api, &all));
    for (name, given, path) in [
        ("a", json!({ "target": { "kind": "start" }, "runtimePolicy": "use_existing_running" }), "$.runtimePolicy"),
        ("b", json!({ "target": { "kind": "start" }, "requiresStart": true }), "$.requiresStart"),
        ("c", json!({ "action": "report" }), "$.input"),
    ] {
        let mut whole = json!({ "name": name, "rate": "1 hour" });
        whole.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        let refused = demo.try_post("/schedules", whole).error(&[400]);
        assert_eq!(refused["details"]["diagnostics"][0]["path"], path, "{refused}");
    }
}

#[test]
fn in_the_apps_sandbox_a_schedule_runs_only_while_the_app_is_online() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "existing", WHOLE, &[]);
    let existing = |name: &str, given: Value| {
        let mut whole = json!({ "name": name, "rate": "300 days", "runtimePolicy": "use_existing_running" });
        whole.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        demo.try_post("/schedules", whole).ok(201);
    };
    existing("report", json!({ "action": "report", "input": { "n": 1 } }));
    existing("worker", json!({ "target": { "kind": "service", "name": "worker" } }));
    existing("db", json!({ "target": { "kind": "service", "name": "db" } }));
    let now = |name: &str| demo.try_post(&format!("/schedules/{name}/run"), json!({}));
    assert!(now("report").error(&[409])["message"].as_str().unwrap().contains("not online"));
    demo.start();
    let run = ended(&demo.api, &now("report").ok(202)["run"]);
    assert_eq!((&run["status"], &run["sandbox"]), (&json!("succeeded"), &json!("app")), "{run}");
    // A service that is kept up there is not run a second time.
    let worked = ended(&demo.api, &now("worker").ok(202)["run"]);
    assert_eq!(worked["status"], "succeeded", "{worked} {}", log_of(&demo.api, &worked));
    assert!(now("db").error(&[409])["message"].as_str().unwrap().contains("runs in the app's sandbox already"));
    demo.post("/stop", json!({}));
    assert!(now("report").error(&[409])["message"].as_str().unwrap().contains("not online"), "its sandbox is there, and sleeps");
}
