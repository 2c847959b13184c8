//! The server is killed at any moment of a run: the command runs once, the run ends once, and its receipt is in the chain.

use std::time::Duration;

use super::*;
use crate::it::{harness::Rng, machine};

const ROUNDS: usize = 8;

/// Each says in a file of the sandbox that it began; in a sandbox of its own it leaves that file.
const COUNTED: &str = r#"actions:
  - name: counted
    command: "echo $SANDBAR_RUN_ID >>count.txt; echo one; sleep 0.4; echo two; grep -c $SANDBAR_RUN_ID count.txt"
    artifactPaths: [count.txt]
  - name: lost
    command: "echo begun; sleep 1000"
"#;

#[test]
fn kills_end_each_run_once_and_start_none_twice() {
    let (mut rng, seed) = Rng::seeded();
    eprintln!("seed {seed}");
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let demo = Demo::deploy(&api, "runs-kills", COUNTED, &[]);
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        for sandbox in ["app", "fresh"] {
            all.push(ask(&demo, json!({ "action": "counted", "sandbox": sandbox })));
        }
        // The moment is what is random here; nothing is waited for.
        std::thread::sleep(Duration::from_millis(rng.below(900) as u64));
        server.kill();
        server.up();
        if round % 3 == 2 {
            std::thread::sleep(Duration::from_millis(rng.below(200) as u64));
            server.kill();
            server.up();
        }
    }
    for asked in &all {
        let run = ended(&api, asked);
        let log = log_of(&api, &run);
        assert_eq!(run["status"], "succeeded", "{run}\n{log}\n{}", server.log_tail());
        assert_eq!(log, "one\ntwo\n1\n", "{run}");
        let receipt = api.get(&of(&run, "/receipt")).ok(200)["receipt"]["receipt"].clone();
        assert_eq!((&receipt["run_id"], &receipt["status"]), (&run["id"], &json!("succeeded")));
        let text = api.get(&of(&run, "/artifacts/1")).text();
        let id = run["id"].as_str().unwrap();
        assert_eq!(text.lines().filter(|line| *line == id).count(), 1, "it ran once: {text}");
    }
    let receipts = verify_chain(&api);
    assert_eq!(receipts.len(), all.len(), "one receipt for each");
    // No sandbox of a run is left.
    eventually("no sandboxes of runs", WITHIN, || {
        let sandboxes = api.get("/api/v1/sandboxes").ok(200)["sandboxes"].as_array().map_or(0, Vec::len);
        if sandboxes <= 1 { Ok(()) } else { Err(format!("{sandboxes} sandboxes")) }
    });
    drop(demo);
    eventually("a machine that matches the rows", WITHIN, || {
        let wrong = machine::violations(&server);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
    });
}

#[test]
fn a_command_that_is_lost_with_its_sandbox_is_not_started_again() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let demo = Demo::deploy(&api, "runs-lost", COUNTED, &[]);
    let runs: Vec<_> = ["app", "fresh"].iter().map(|sandbox| ask(&demo, json!({ "action": "lost", "sandbox": sandbox }))).collect();
    for run in &runs {
        until("its first line", || log_so_far(&api, run).contains("begun"));
    }
    // One loses its processes while the server runs, the other one while it does not.
    let app = now(&api, &runs[0]);
    let sandbox = sandbox_of(&api, &app);
    sandbox.post("/pause", json!({}));
    sandbox.post("/hibernate", json!({}));
    let fresh = now(&api, &runs[1])["sandbox_id"].as_str().unwrap().to_owned();
    let row = machine::rows(&server).into_iter().find(|row| row.id == fresh).expect("a row");
    server.kill();
    let pid = rustix::process::Pid::from_raw(i32::try_from(row.pid.expect("a process")).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    server.up();
    for run in &runs {
        let run = ended(&api, run);
        assert_eq!((&run["status"], &run["failure_reason"]), (&json!("failed"), &json!("sandbox_lost")), "{run}");
        assert_eq!(log_of(&api, &run).matches("begun").count(), 1, "it was not started again");
    }
    assert_eq!(verify_chain(&api).len(), 2);
}

#[test]
fn a_cancel_and_a_timeout_outlive_the_server() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let demo = Demo::deploy(&api, "runs-outlive", COUNTED, &[]);
    let cancelled = ask(&demo, json!({ "action": "lost" }));
    let late = ask(&demo, json!({ "action": "lost", "timeout_seconds": 1 }));
    for run in [&cancelled, &late] {
        until("its first line", || log_so_far(&api, run).contains("begun"));
    }
    api.post(&of(&cancelled, "/cancel"), json!({})).ok(202);
    server.kill();
    server.up();
    assert_eq!(ended(&api, &cancelled)["status"], "cancelled");
    assert_eq!(ended(&api, &late)["status"], "timed_out");
    assert_eq!(verify_chain(&api).len(), 2);
}

const KEPT_UP: &str = r#"start:
  command: "echo $$ >>began.txt; trap 'echo bye >bye.txt; exit 0' TERM; python3 -m http.server 3000 & wait"
  ports: [{port: 3000}]
  restart: {policy: always, backoffMs: 100}
actions:
  - name: long
    requiresStart: true
    command: "echo begun; while ! test -e go; do sleep 0.05; done"
"#;

#[test]
fn what_a_run_needs_is_kept_up_over_a_restart_and_ended_with_a_warning() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let demo = Demo::deploy(&api, "runs-kept-up", KEPT_UP, &[]);
    let run = ask(&demo, json!({ "action": "long", "sandbox": "fresh", "cleanup": "stop" }));
    until("its first line", || log_so_far(&api, &run).contains("begun"));
    server.kill();
    server.up();
    let sandbox = sandbox_of(&api, &now(&api, &run));
    let began = || sandbox.sh_ok("cat /workspace/began.txt").lines().count();
    assert_eq!(began(), 1, "what runs is found");
    sandbox.sh_ok("kill -9 $(cat /workspace/began.txt)");
    until("another one", || began() == 2);
    sandbox.write("/workspace/go", b"");
    assert_eq!(ended(&api, &run)["status"], "succeeded");
    until("the cleanup", || now(&api, &run)["cleanup"] == "succeeded");
    sandbox.post("/resume", json!({}));
    assert_eq!(sandbox.sh_ok("cat /workspace/bye.txt"), "bye\n");
}

#[test]
fn commands_of_others_are_not_taken_for_that_of_a_run() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let demo = Demo::deploy(&api, "runs-forged", COUNTED, &[]);
    let run = ask(&demo, json!({ "action": "lost" }));
    until("its first line", || log_so_far(&api, &run).contains("begun"));
    let sandbox = sandbox_of(&api, &now(&api, &run));
    for _ in 0..8 {
        sandbox.run_with(&["echo", "forged"], json!({ "env_vars": { "SANDBAR_RUN_ID": run["id"] } }));
    }
    server.kill();
    server.up();
    api.post(&of(&run, "/cancel"), json!({})).ok(202);
    let run = ended(&api, &run);
    assert_eq!(run["status"], "cancelled", "{run}");
    assert!(!log_of(&api, &run).contains("forged"));
}
