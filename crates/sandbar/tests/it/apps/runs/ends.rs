//! Runs end with their app, gracefully and in time; and what is down is woken for no artifact.

use super::*;
use crate::it::{apps::settled, machine};

const LONG: &str = r#"start:
  command: "python3 -m http.server 3000"
  ports: [{port: 3000}]
actions:
  - name: long
    command: "echo begun; trap 'echo ended in peace >left.txt; echo ending; exit 0' TERM; sleep 4720 & wait"
    artifactPaths: [left.txt]
  - name: next
    command: "touch next"
    concurrency: {group: one}
  - name: first
    command: "echo begun; sleep 4721"
    concurrency: {group: one}
  - name: steps
    command: "echo begun; while ! test -e go; do sleep 0.05; done; echo done"
  - name: quick
    command: "cat version.txt; echo x >>marks.txt"
    artifactPaths: [marks.txt]
"#;

#[track_caller]
fn begun(api: &Api, run: &Value) {
    until("its first line", || log_so_far(api, run).contains("begun"));
}

#[track_caller]
fn ended_as(api: &Api, run: &Value, status: &str, reason: &str) -> Value {
    let run = ended(api, run);
    assert_eq!((&run["status"], &run["failure_reason"]), (&json!(status), &json!(reason)), "{run}\n{}", log_of(api, &run));
    run
}

fn artifact(run: &Value) -> (&str, &str) {
    (run["artifacts"][0]["status"].as_str().unwrap(), run["artifacts"][0]["error"].as_str().unwrap_or_default())
}

#[test]
fn stopping_an_app_ends_what_runs_in_it_first() {
    let server = shared();
    for delete in [false, true] {
        let demo = Demo::deploy(&server.api(), &format!("runs-stop-{delete}"), LONG, &[("version.txt", "1")]);
        let api = &demo.api;
        demo.start();
        let long = ask(&demo, json!({ "action": "long" }));
        let first = ask(&demo, json!({ "action": "first" }));
        begun(api, &long);
        begun(api, &first);
        let waits = ask(&demo, json!({ "action": "next" }));
        let own = ask(&demo, json!({ "action": "long", "sandbox": "fresh" }));
        begun(api, &own);
        let sandbox = sandbox_of(api, &now(api, &long));
        let stopped = demo.post("/stop", json!({ "delete_sandbox": delete }));
        assert_eq!(stopped["sandbox"], if delete { "deleted" } else { "paused" }, "{stopped}");
        // When the stop is told, all of them have ended, and what they left is there.
        for run in [&long, &first, &waits] {
            let run = now(api, run);
            assert_eq!((&run["status"], &run["failure_reason"]), (&json!("cancelled"), &json!("app_stopped")), "{run}");
            assert_eq!(run["message"], "its app was stopped", "{run}");
        }
        let long = now(api, &long);
        assert_eq!(artifact(&long), ("captured", ""), "{long}");
        assert_eq!(api.get(&of(&long, "/artifacts/1")).text(), "ended in peace\n");
        assert!(log_of(api, &long).contains("ending\n"), "{}", log_of(api, &long));
        assert_eq!(api.get(&of(&waits, "/receipt")).ok(200)["receipt"]["receipt"]["command"], Value::Null, "it never ran");
        if !delete {
            assert!(sandbox.is_paused());
        }
        assert_eq!(demo.status()["desired"], "offline");
        // One in a sandbox of its own is none of the app's.
        assert_eq!(now(api, &own)["status"], "running");
        api.post(&of(&own, "/cancel"), json!({})).ok(202);
        ended_as(api, &own, "cancelled", "cancelled");
    }
    verify_chain(&server.api());
}

#[test]
fn deleting_an_app_ends_all_of_its_runs_first() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let demo = Demo::deploy(&api, "runs-delete", LONG, &[("version.txt", "1")]);
    let runs: Vec<_> = ["app", "fresh"].iter().map(|place| ask(&demo, json!({ "action": "long", "sandbox": place }))).collect();
    runs.iter().for_each(|run| begun(&api, run));
    api.delete(&demo.path("")).ok(200);
    for run in &runs {
        let run = now(&api, run);
        assert_eq!((&run["status"], &run["failure_reason"]), (&json!("cancelled"), &json!("app_deleted")), "{run}");
        assert_eq!(artifact(&run), ("captured", ""), "{run}");
    }
    assert_eq!(verify_chain(&api).len(), 2);
    settled(&server);
    assert_eq!(machine::rows(&server).len(), 0);
}

#[test]
fn an_app_that_starts_with_another_version_ends_what_runs_in_the_former_sandbox() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-replace", LONG, &[("version.txt", "1")]);
    demo.start();
    let long = ask(&demo, json!({ "action": "long" }));
    begun(&demo.api, &long);
    demo.redeploy(LONG, &[("version.txt", "2")]);
    demo.start();
    let long = now(&demo.api, &long);
    assert_eq!((&long["status"], &long["failure_reason"]), (&json!("cancelled"), &json!("app_replaced")), "{long}");
    assert_eq!(artifact(&long), ("captured", ""), "{long}");
    let quick = run(&demo, json!({ "action": "quick" }));
    assert_eq!((&quick["version"], log_of(&demo.api, &quick).as_str()), (&json!(2), "2"));
}

#[test]
fn a_run_survives_a_pause_and_a_sandbox_that_is_down_stays_so() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let demo = Demo::deploy(&api, "runs-pause", LONG, &[("version.txt", "1")]);
    let steps = ask(&demo, json!({ "action": "steps" }));
    begun(&api, &steps);
    let sandbox = sandbox_of(&api, &now(&api, &steps));
    sandbox.post("/pause", json!({}));
    assert_eq!(now(&api, &steps)["phase"], "commanding");
    // Nor does a server that starts anew wake it to look after the run.
    server.kill();
    server.up();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(sandbox.is_paused());
    assert_eq!(now(&api, &steps)["status"], "running");
    sandbox.post("/resume", json!({}));
    sandbox.sh_ok("touch /workspace/go");
    let steps = ended(&api, &steps);
    assert_eq!((&steps["status"], log_of(&api, &steps).as_str()), (&json!("succeeded"), "begun\ndone\n"), "{steps}");

    // One that is cancelled in a sandbox that sleeps is ended there all the same.
    let long = ask(&demo, json!({ "action": "long" }));
    begun(&api, &long);
    sandbox.post("/pause", json!({}));
    api.post(&of(&long, "/cancel"), json!({})).ok(202);
    let long = ended_as(&api, &long, "cancelled", "cancelled");
    assert_eq!(artifact(&long), ("captured", ""), "{long}");

    let lost = ask(&demo, json!({ "action": "long", "sandbox": "fresh" }));
    begun(&api, &lost);
    let own = sandbox_of(&api, &now(&api, &lost));
    own.post("/pause", json!({}));
    own.post("/hibernate", json!({}));
    let lost = ended_as(&api, &lost, "failed", "sandbox_lost");
    let (status, error) = artifact(&lost);
    assert!(status == "failed" && error.contains("its sandbox does not run any more"), "{lost}");
}

#[test]
fn a_pause_under_a_run_of_an_app_that_is_online_ends_nothing() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-pause-online", LONG, &[("version.txt", "1")]);
    let api = &demo.api;
    assert_eq!(demo.start()["state"], "ready");
    let steps = ask(&demo, json!({ "action": "steps" }));
    begun(api, &steps);
    let sandbox = sandbox_of(api, &now(api, &steps));
    sandbox.post("/pause", json!({}));
    assert_eq!((&now(api, &steps)["status"], &demo.status()["desired"]), (&json!("running"), &json!("online")));
    // Another one wakes it, and finds what was there.
    let quick = run(&demo, json!({ "action": "quick" }));
    assert_eq!((&quick["status"], &quick["sandbox_id"]), (&json!("succeeded"), &json!(sandbox.id)), "{quick}");
    assert_eq!(demo.until_state("ready")["sandbox"]["id"], sandbox.id.as_str());
    assert_eq!(now(api, &steps)["phase"], "commanding");
    sandbox.sh_ok("touch /workspace/go");
    let steps = ended(api, &steps);
    assert_eq!((&steps["status"], log_of(api, &steps).as_str()), (&json!("succeeded"), "begun\ndone\n"), "{steps}");
    assert!(!sandbox.is_paused(), "an app that is online stays so");
}

#[test]
fn a_run_in_an_app_that_is_offline_wakes_its_sandbox_and_puts_it_down_again() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-offline", LONG, &[("version.txt", "1")]);
    let api = &demo.api;
    let quick = run(&demo, json!({ "action": "quick" }));
    assert_eq!(quick["status"], "succeeded", "{quick}");
    let sandbox = sandbox_of(api, &quick);
    assert!(sandbox.is_paused(), "before the end of the last run is told");
    // What it left is there for the next one.
    let again = run(&demo, json!({ "action": "quick" }));
    assert_eq!((&again["sandbox_id"], api.get(&of(&again, "/artifacts/1")).text().as_str()), (&quick["sandbox_id"], "x\nx\n"));
    assert!(sandbox.is_paused());

    // The last one does it.
    let steps = ask(&demo, json!({ "action": "steps" }));
    begun(api, &steps);
    assert_eq!(run(&demo, json!({ "action": "quick" }))["status"], "succeeded");
    assert!(!sandbox.is_paused());
    sandbox.sh_ok("touch /workspace/go");
    assert_eq!(ended(api, &steps)["status"], "succeeded");
    sandbox.wait_paused();
    // Whoever uses it meanwhile keeps it.
    sandbox.sh_ok("rm /workspace/go");
    let steps = ask(&demo, json!({ "action": "steps" }));
    begun(api, &steps);
    demo.start();
    sandbox.sh_ok("touch /workspace/go");
    assert_eq!(ended(api, &steps)["status"], "succeeded");
    assert_eq!((&demo.status()["state"], sandbox.is_paused()), (&json!("ready"), false), "somebody started it");
    demo.post("/stop", json!({}));

    // A new version is what runs then, in a sandbox of its own, once nothing runs in the former one any more.
    sandbox.sh_ok("rm /workspace/go");
    let steps = ask(&demo, json!({ "action": "steps" }));
    begun(api, &steps);
    demo.redeploy(LONG, &[("version.txt", "2")]);
    let newer = ask(&demo, json!({ "action": "quick" }));
    until_phase(api, &newer, "preparing");
    assert_eq!(now(api, &steps)["status"], "running");
    sandbox.sh_ok("touch /workspace/go");
    assert_eq!(ended(api, &steps)["status"], "succeeded");
    let newer = ended(api, &newer);
    assert_eq!((&newer["status"], &newer["version"], log_of(api, &newer).as_str()), (&json!("succeeded"), &json!(2), "2"), "{newer}");
    assert_ne!(newer["sandbox_id"], quick["sandbox_id"]);
    // The same once more is the same version to whoever runs it.
    demo.redeploy(LONG, &[("version.txt", "2")]);
    let same = run(&demo, json!({ "action": "quick" }));
    assert_eq!((&same["status"], &same["version"], &same["sandbox_id"]), (&json!("succeeded"), &json!(3), &newer["sandbox_id"]), "{same}");
}

#[test]
fn a_key_is_looked_up_before_anything_else() {
    let server = shared();
    let schema = "inputs:\n  schema: {type: object, properties: {n: {type: integer}}}\n";
    let demo = Demo::deploy(&server.api(), "runs-keys", &format!("{schema}{LONG}"), &[("version.txt", "1")]);
    let key = [("idempotency-key", "once"), ("content-type", "application/json")];
    let send = |body: &Value| demo.api.try_send("POST", &demo.path("/runs"), &key, body.to_string().as_bytes()).unwrap();
    let body = json!({ "action": "quick", "input": { "n": 1 } });
    let first = send(&body).ok(202)["run"].clone();
    ended(&demo.api, &first);
    // Neither the action nor the input would be taken by now.
    demo.redeploy("actions: [{name: other, command: \"true\"}]\ninputs:\n  schema: {type: object, required: [m]}\n", &[]);
    let again = send(&body);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.ok(202)["run"]["id"], first["id"]);
    let refused = send(&json!({ "action": "quick", "input": { "n": 2 } })).error(&[409]);
    assert_eq!((&refused["details"]["reason"], &refused["details"]["run_id"]), (&json!("idempotency_key_reused"), &first["id"]), "{refused}");
    let unknown = demo.try_post("/runs", json!({ "action": "a" })).error(&[400]);
    assert!(unknown["message"].as_str().unwrap().contains("no action \"a\";"), "{unknown}");
}

#[test]
fn of_stopped_sandboxes_a_schedule_keeps_few_and_what_cannot_be_archived_is_paused() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let schedules = "schedules:
  - {name: kept, action: quick, cron: \"0 3 1 1 *\", retentionPolicy: {keepLast: 2}}
  - {name: archived, action: quick, cron: \"0 3 1 1 *\", runtimePolicy: run_and_archive}
  - {name: existing, action: quick, cron: \"0 3 1 1 *\", runtimePolicy: use_existing_running}
";
    let demo = Demo::deploy(&api, "runs-kept", &format!("{LONG}{schedules}"), &[("version.txt", "1")]);
    let once = |name: &str| {
        let run = demo.try_post(&format!("/schedules/{name}/run"), json!({})).ok(202)["run"].clone();
        ended(&api, &run)
    };
    let cleaned = |run: &Value, so: &dyn Fn(&Value) -> bool| {
        eventually("a cleanup", WITHIN, || {
            let run = now(&api, run);
            if so(&run) { Ok(run) } else { Err(run.to_string()) }
        })
    };
    let runs: Vec<Value> = (0..4).map(|_| cleaned(&once("kept"), &|run| run["cleanup"] == "succeeded")).collect();
    let there = |run: &Value| api.get(&format!("/api/v1/sandboxes/{}", run["sandbox_id"].as_str().unwrap())).status == 200;
    eventually("the newest two", WITHIN, || {
        let left: Vec<bool> = runs.iter().map(there).collect();
        if left == [false, false, true, true] { Ok(()) } else { Err(format!("{left:?}")) }
    });
    assert!(runs[2..].iter().all(|run| sandbox_of(&api, run).is_paused()));
    // They count as any other: two here.
    assert_eq!(api.get("/api/v1/quotas/paused_sandboxes").ok(200)["current"], 2);
    assert!(api.get("/api/v1/quotas/disk_bytes").ok(200)["current"].as_u64().unwrap() > 0);

    api.put("/api/v1/quotas/snapshots", json!({ "limit_value": 0 })).ok(200);
    let archived = cleaned(&once("archived"), &|run| run["cleanup_error"].is_string());
    assert_eq!((&archived["status"], &archived["cleanup"]), (&json!("succeeded"), &json!("pending")), "{archived}");
    assert!(sandbox_of(&api, &archived).is_paused(), "it does not go on running");
    api.delete("/api/v1/quotas/snapshots").ok(200);
    let archived = cleaned(&archived, &|run| run["cleanup"] == "succeeded");
    assert!(archived["snapshot_id"].is_string() && archived["cleanup_error"].is_null(), "{archived}");
    assert!(!there(&archived));

    // A sandbox that is there is no app that is online.
    assert_eq!(run(&demo, json!({ "action": "quick" }))["status"], "succeeded");
    let refused = demo.try_post("/schedules/existing/run", json!({})).error(&[409]);
    assert!(refused["message"].as_str().unwrap().contains("not online"), "{refused}");
    demo.start();
    assert_eq!(once("existing")["status"], "succeeded");
}

#[test]
fn a_run_that_is_under_way_and_that_nobody_has_at_hand_is_gone_on_with() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let demo = Demo::deploy(&api, "runs-unheld", LONG, &[("version.txt", "1")]);
    let first = ask(&demo, json!({ "action": "first" }));
    begun(&api, &first);
    let next = ask(&demo, json!({ "action": "next" }));
    // As a task leaves it that is lost between the commit and its first step. No server starts anew for it.
    let db = rusqlite::Connection::open(server.data_dir().join("sandbar.db")).unwrap();
    db.busy_timeout(WITHIN).unwrap();
    let begun = db.execute("UPDATE app_run SET status = 'running', started_at_ms = created_at_ms WHERE id = ?1 AND status = 'queued'", [next["id"].as_str()]);
    assert_eq!(begun.unwrap(), 1);
    let next = ended(&api, &next);
    assert_eq!(next["status"], "succeeded", "{next}");
    assert_eq!(now(&api, &first)["status"], "running");
}

const FLOOD: &str = r#"actions:
  - name: flood
    command: "yes begun"
  - name: torrent
    command: "echo begun; yes x | head -c 40000000; echo last >&2"
  - name: many
    command: "mkdir out other && echo x >other/x && python3 -c 'for n in range(100_001): open(\"out/%d\" % n, \"w\").close()'"
    artifactPaths: ["out/*", "other/*"]
"#;

#[test]
fn one_that_never_stops_printing_is_ended_all_the_same() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-flood", FLOOD, &[]);
    let api = &demo.api;
    ended_as(api, &ask(&demo, json!({ "action": "flood", "timeout_seconds": 1 })), "timed_out", "timeout");
    let run = ask(&demo, json!({ "action": "flood", "sandbox": "fresh" }));
    begun(api, &run);
    api.post(&of(&run, "/cancel"), json!({})).ok(202);
    let run = ended(api, &run);
    assert_eq!((&run["status"], &run["failure_reason"]), (&json!("cancelled"), &json!("cancelled")), "{run}");
}

#[test]
fn what_is_printed_without_end_is_kept_up_to_one_and_that_is_said() {
    const MOST: usize = 16 << 20;
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-torrent", FLOOD, &[]);
    let run = run(&demo, json!({ "action": "torrent" }));
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("succeeded"), &json!(0)), "{run}");
    let log = log_of(&demo.api, &run);
    let kept = server.data_dir().join("app-runs").join(run["id"].as_str().unwrap()).join("log");
    assert_eq!(std::fs::metadata(kept).unwrap().len() as usize, log.len());
    assert!(log.starts_with("begun\n") && log.len() < MOST + 200, "{}", log.len());
    let (lost, cut) = (log.contains("bytes of earlier output dropped]\n"), log.ends_with("[sandbar: what follows is not kept: the log of a run has an end]\n"));
    assert!(lost || cut, "{}", log.len());
    assert_eq!(run["log_cut"], cut, "{run}");
}

#[test]
fn a_folder_that_cannot_be_listed_is_told_of() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-many", FLOOD, &[]);
    let done = run(&demo, json!({ "action": "many", "sandbox": "fresh" }));
    assert_eq!(done["status"], "succeeded", "{done}");
    let all = done["artifacts"].as_array().unwrap();
    let of = |path: &str| all.iter().find(|artifact| artifact["path"] == path).unwrap_or_else(|| panic!("{path} in {all:?}"));
    assert_eq!(of("out")["status"], "failed");
    assert!(of("out")["error"].as_str().unwrap().contains("more than 100000 entries"), "{all:?}");
    assert_eq!(of("other/x")["status"], "captured");
}
