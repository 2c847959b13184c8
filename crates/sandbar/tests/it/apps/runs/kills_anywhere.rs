//! The server is killed at any moment of anything that runs do: start, action, schedule, cleanup, stop. Whatever that met, each run ends
//! once, with one receipt, its command ran at most once, and nothing is on the machine that no row explains.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::it::{
    apps::{count, settled},
    harness::Rng,
    machine,
};

const ROUNDS: usize = 14;

/// Each says in a file of its sandbox and in its log that it began.
const APP: &str = r#"start:
  command: "sleep 0.2; exec python3 -m http.server 3000"
  ports: [{port: 3000}]
actions:
  - name: counted
    command: "echo $SANDBAR_RUN_ID >>count.txt; echo began; sleep 0.3; grep -c $SANDBAR_RUN_ID count.txt"
    artifactPaths: [count.txt]
  - name: served
    command: "echo $SANDBAR_RUN_ID >>count.txt; echo began; grep -c $SANDBAR_RUN_ID count.txt"
    artifactPaths: [count.txt]
    requiresStart: true
schedules:
  - {name: stopped, action: counted, cron: "0 3 1 1 *", retentionPolicy: {keepLast: 2}}
  - {name: archived, action: counted, cron: "0 3 1 1 *", runtimePolicy: run_and_archive}
  - {name: deleted, action: served, cron: "0 3 1 1 *", runtimePolicy: run_and_delete}
"#;

/// What is begun in a round, by chance. The server may be killed before it answers.
fn begin(demo: &Demo, rng: &mut Rng) {
    let post = |rest: &str, body: Value| drop(demo.api.try_json("POST", &demo.path(rest), &body));
    match rng.below(8) {
        0 => post("/runs", json!({ "action": "counted" })),
        1 => post("/runs", json!({ "action": "served" })),
        2 => post("/runs", json!({ "action": "counted", "sandbox": "fresh", "cleanup": "archive" })),
        3 => post("/runs", json!({ "action": "served", "sandbox": "fresh" })),
        4 => post("/schedules/stopped/run", json!({})),
        5 => post("/schedules/archived/run", json!({})),
        6 => post("/schedules/deleted/run", json!({})),
        _ if rng.below(2) == 0 => post("/start", json!({})),
        _ => post("/stop", json!({ "delete_sandbox": rng.below(3) == 0 })),
    }
}

#[track_caller]
fn all_runs(demo: &Demo) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = demo.api.get(&demo.path(&format!("/runs?limit=200{cursor}"))).ok(200);
        all.extend(page["runs"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

#[track_caller]
fn check(api: &Api, run: &Value, context: &str) {
    let run = ended(api, run);
    let (status, reason) = (run["status"].as_str().unwrap(), run["failure_reason"].as_str());
    let log = log_of(api, &run);
    let told = || format!("{run}\n{log}\n{context}");
    match (status, reason) {
        ("succeeded", None) => assert!(log.ends_with("began\n1\n"), "{}", told()),
        // It was in the way of a stop: before its command began, or in the middle of it.
        ("cancelled", Some("app_stopped")) | ("failed", Some("start_not_ready" | "sandbox_failed" | "sandbox_lost")) => {}
        _ => panic!("{}", told()),
    }
    assert!(log.matches("began\n").count() <= 1, "it ran once: {}", told());
    let id = run["id"].as_str().unwrap();
    if run["artifacts"][0]["status"] == "captured" {
        let text = api.get(&of(&run, "/artifacts/1")).text();
        assert!(text.lines().filter(|line| *line == id).count() <= 1, "it ran once: {text}");
    }
    let receipt = api.get(&of(&run, "/receipt")).ok(200)["receipt"]["receipt"].clone();
    assert_eq!((&receipt["run_id"], &receipt["status"]), (&run["id"], &run["status"]), "{}", told());
    assert_eq!(now(api, &run)["status"], run["status"], "its end stays");
}

#[test]
fn kills_at_any_moment_leave_no_run_in_between_and_no_sandbox_behind() {
    let (mut rng, seed) = Rng::seeded();
    eprintln!("seed {seed}");
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let demo = Demo::deploy(&api, "runs-anywhere", APP, &[]);
    for round in 0..ROUNDS {
        if round == ROUNDS / 2 {
            let often = json!({ "name": "often", "action": "counted", "cron": "* * * * * *", "runtimePolicy": "run_and_delete", "concurrencyPolicy": "skip" });
            demo.try_post("/schedules", often).ok(201);
        }
        std::thread::scope(|scope| {
            for _ in 0..=rng.below(3) {
                let mut rng = rng.fork();
                let demo = &demo;
                scope.spawn(move || begin(demo, &mut rng));
            }
            // The moment is what is random here; nothing is waited for.
            std::thread::sleep(Duration::from_millis(rng.below(1400) as u64));
            server.kill();
        });
        server.up();
    }
    demo.post("/schedules/often/stop", json!({}));
    let runs = all_runs(&demo);
    assert!(!runs.is_empty());
    for run in &runs {
        check(&api, run, &format!("seed {seed}"));
    }
    let mut receipts: BTreeMap<String, usize> = BTreeMap::new();
    for receipt in verify_chain(&api) {
        *receipts.entry(receipt["receipt"]["run_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let expected: BTreeMap<String, usize> = runs.iter().map(|run| (run["id"].as_str().unwrap().to_owned(), 1)).collect();
    assert_eq!(receipts, expected, "one receipt for each run, seed {seed}");
    // What is cleaned up after is cleaned up after, and each sandbox that is left has a row that says whose it is.
    eventually("the end of all cleanups", WITHIN, || {
        let pending = count(&server, "app_run WHERE cleanup = 'pending'");
        let strangers = count(&server, "sandbox WHERE id NOT IN (SELECT sandbox_id FROM app_sandbox)");
        let kept = count(&server, "app_sandbox WHERE kind = 'run'");
        let awake = count(&server, "sandbox WHERE observed = 'active' AND id IN (SELECT sandbox_id FROM app_sandbox WHERE kind = 'run')");
        if (pending, strangers, awake) == (0, 0, 0) && kept <= 2 {
            Ok(())
        } else {
            Err(format!("{pending} to clean up after, {strangers} of nobody, {kept} of runs, {awake} of these awake"))
        }
    });
    settled(&server);
    for run in &runs {
        let run = now(&api, run);
        assert!(matches!(run["cleanup"].as_str(), None | Some("succeeded" | "skipped")), "{run}");
    }
    // In the middle of its own end, too.
    for _ in 0..2 {
        let mut own = rng.fork();
        std::thread::scope(|scope| {
            scope.spawn(|| begin(&demo, &mut own));
            scope.spawn(|| drop(api.try_send("DELETE", &demo.path(""), &[], b"")));
            std::thread::sleep(Duration::from_millis(rng.below(600) as u64));
            server.kill();
        });
        server.up();
    }
    let _ = api.try_send("DELETE", &demo.path(""), &[], b"");
    settled(&server);
    assert_eq!(machine::rows(&server).len(), 0, "seed {seed}");
    eventually("the end of all runs", WITHIN, || match count(&server, "app_run WHERE status IN ('queued', 'running') OR receipt_id IS NULL") {
        0 => Ok(()),
        left => Err(format!("{left} runs, seed {seed}")),
    });
}
