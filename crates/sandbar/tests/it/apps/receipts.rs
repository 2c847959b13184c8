//! Receipts tell of each run what it used itself, who made it run and what it may cost; the filtered ones are verified, too.

use std::process::Command;

use serde_json::{Value, json};

use super::{
    demo::{Demo, WITHIN},
    runs::{ended, now, of, run, sandbar},
};
use crate::it::{
    harness::{Server, shared},
    http::{Api, eventually},
};

const ACTIONS: &str = r#"resources:
  memoryGb: 0.5
actions:
  - name: large
    command: "python3 -c 'b = bytearray(120 << 20); open(\"large\", \"wb\").write(b[:16 << 20])'; echo left >left"
    artifactPaths: [left]
  - name: small
    command: "echo small"
  - name: leaves
    command: "(python3 -c 'import time; b = bytearray(130 << 20); open(\"there\", \"w\").close(); time.sleep(60)' >/dev/null 2>&1 &); until [ -e there ]; do sleep 0.05; done"
  - name: burn
    command: "python3 -c 'while True: pass'"
"#;

#[track_caller]
fn receipt(api: &Api, run: &Value) -> Value {
    api.get(&of(run, "/receipt")).ok(200)["receipt"]["receipt"].clone()
}

#[track_caller]
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn what_a_run_used_is_its_own() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "receipts-own", ACTIONS, &[]);
    let large = receipt(&demo.api, &run(&demo, json!({ "action": "large" })));
    let small = receipt(&demo.api, &run(&demo, json!({ "action": "small" })));
    assert_eq!(large["sandbox_id"], small["sandbox_id"], "both ran in the app's");
    for one in [&large, &small] {
        let sources = json!({ "cpu": "command", "memory": "command", "disk": "command", "network": "app_sandbox" });
        assert_eq!((&one["usage"]["sources"], &one["usage"]["network_partial"]), (&sources, &json!(false)), "{one}");
        assert!(one["usage"]["collecting_ms"].is_u64() && one["usage"]["duration_ms"].is_u64(), "{one}");
        assert!(one["commanded_at_ms"].as_i64() >= one["started_at_ms"].as_i64(), "{one}");
    }
    let (large, small) = (&large["usage"], &small["usage"]);
    assert!(number(&large["memory_peak_bytes"]) >= 120 << 20 && number(&large["disk_bytes"]) >= 16 << 20, "{large}");
    assert!(number(&small["memory_peak_bytes"]) < 60 << 20 && number(&small["disk_bytes"]) < 1 << 20, "what ran before it is not in it: {small}");
    assert!(number(&small["cpu_us"]) < number(&large["cpu_us"]), "{small} {large}");

    // What it left behind is its own, too, whoever waited for it.
    let leaves = receipt(&demo.api, &run(&demo, json!({ "action": "leaves" })));
    assert!(number(&leaves["usage"]["memory_peak_bytes"]) >= 125 << 20, "{leaves}");

    // In a sandbox of its own all of that counts.
    let fresh = receipt(&demo.api, &run(&demo, json!({ "action": "large", "sandbox": "fresh" })));
    let sources = json!({ "cpu": "run_sandbox", "memory": "run_sandbox", "disk": "run_sandbox", "network": "run_sandbox" });
    assert_eq!(fresh["usage"]["sources"], sources, "{fresh}");
    assert!(number(&fresh["usage"]["memory_peak_bytes"]) >= 120 << 20 && number(&fresh["usage"]["disk_bytes"]) >= 16 << 20, "{fresh}");
}

#[test]
fn refused_addresses_are_in_runs_and_receipts() {
    let tries = r#"import socket
for kind, host, port in ((socket.SOCK_STREAM, "1.1.1.1", 443), (socket.SOCK_DGRAM, "9.9.9.9", 53), (socket.SOCK_STREAM, "10.0.0.1", 22)):
    try:
        s = socket.socket(socket.AF_INET, kind)
        s.settimeout(10)
        s.connect((host, port))
        s.send(b"x")
        print("got", s.recv(1))
    except OSError as e:
        print(e)
"#;
    let manifest = "network: {egress: block}\nactions:\n  - {name: try, command: python3 try.py}\n";
    let server = shared();
    let demo = Demo::deploy(&server.api(), "receipts-denied", manifest, &[("try.py", tries)]);
    // The second one soon after the first, in the same sandbox; the third in one of its own.
    for ask in [json!({ "action": "try" }), json!({ "action": "try" }), json!({ "action": "try", "sandbox": "fresh" })] {
        let ran = run(&demo, ask);
        assert_eq!(ran["status"], "succeeded", "{ran}");
        let found = receipt(&demo.api, &ran);
        assert_eq!((&ran["usage"]["denied"], &found["denied_total"]), (&json!(3), &json!(3)), "{ran} {found}");
        let mut told: Vec<_> =
            ran["usage"]["denied_list"].as_array().unwrap().iter().map(|one| ["protocol", "host", "port", "times"].map(|key| one[key].to_string())).collect();
        told.sort();
        assert_eq!(told, [["\"tcp\"", "\"1.1.1.1\"", "443", "1"], ["\"tcp\"", "\"10.0.0.1\"", "22", "1"], ["\"udp\"", "\"9.9.9.9\"", "53", "1"]], "{ran}");
        let mut signed: Vec<_> = found["denied"].as_array().unwrap().iter().map(|one| (one["destination"].as_str().unwrap(), one["count"].as_u64())).collect();
        signed.sort();
        assert_eq!(signed, [("1.1.1.1:443", Some(1)), ("10.0.0.1:22", Some(1)), ("9.9.9.9:53", Some(1))], "{found}");
    }
    // What no policy of an app opens is told of where all the rest is open, too.
    demo.redeploy(
        &manifest.replace("block", "allow").replace("try.py", "private.py"),
        &[("private.py", &tries.replace("1.1.1.1", "192.168.1.1").replace("9.9.9.9", "169.254.169.254"))],
    );
    let ran = run(&demo, json!({ "action": "try", "sandbox": "fresh" }));
    let rules: Vec<_> = ran["usage"]["denied_list"].as_array().unwrap().iter().map(|one| one["rule"].as_str().unwrap()).collect();
    assert!(rules.len() == 3 && rules.iter().all(|rule| rule.starts_with("protected address")), "{ran}");
}

#[test]
fn a_receipt_says_who_made_what_run_on_what() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "receipts-who", ACTIONS, &[]);
    let asked = run(&demo, json!({ "action": "large" }));
    let found = receipt(&demo.api, &asked);
    let caused = &found["caused_by"];
    assert_eq!((&found["kind"], &found["name"], &caused["cause"]), (&json!("action"), &json!("large"), &json!("api")), "{found}");
    assert!(caused["user_id"].is_string() && caused["schedule_id"].is_null() && caused["tick_at_ms"].is_null(), "{caused}");
    let ground = &found["ground"];
    assert!(ground["image"].is_string() && ground["template_id"].is_string() && !ground["layers"].as_array().unwrap().is_empty(), "{found}");
    let artifact = &found["artifacts"][0];
    assert!(artifact["captured_at_ms"].as_i64() <= found["finished_at_ms"].as_i64() && artifact["captured_at_ms"].is_i64(), "{found}");

    // One that never ran used nothing that anybody knows.
    let group = "actions:\n  - name: long\n    command: sleep 4714\n    concurrency: {policy: skip}\n";
    demo.redeploy(group, &[]);
    let fresh = json!({ "action": "long", "sandbox": "fresh" });
    let long = super::runs::ask(&demo, fresh.clone());
    super::runs::until_phase(&demo.api, &long, "commanding");
    let skipped = receipt(&demo.api, &run(&demo, fresh));
    demo.api.post(&of(&long, "/cancel"), json!({})).ok(202);
    for unknown in ["duration_ms", "cpu_us", "memory_peak_bytes", "disk_bytes", "network_sent_bytes"] {
        assert_eq!(skipped["usage"][unknown], Value::Null, "{skipped}");
    }
    assert_eq!((&skipped["denied_total"], &skipped["command"]), (&Value::Null, &Value::Null), "{skipped}");

    // By its id, and for nobody else.
    let by_id = format!("/api/v1/receipts/{}", found["id"].as_str().unwrap());
    assert_eq!(demo.api.get(&by_id).ok(200)["receipt"]["receipt"], found);
    demo.api.get("/api/v1/receipts/none").error(&[404]);
    let shown = sandbar(&demo.api, &["app", "receipts", "get", asked["id"].as_str().unwrap()]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success() && text.contains("(command)") && text.contains(found["id"].as_str().unwrap()), "{text}");
    let ran = ended(&demo.api, &long);
    assert_eq!(receipt(&demo.api, &ran)["status"], "cancelled");
}

#[test]
fn receipts_of_one_app_are_right_and_no_chain() {
    let server = shared();
    let (one, other) = (Demo::deploy(&server.api(), "receipts-a", ACTIONS, &[]), Demo::deploy(&server.api(), "receipts-b", ACTIONS, &[]));
    for demo in [&one, &other, &one] {
        run(demo, json!({ "action": "small" }));
    }
    let listed = sandbar(&one.api, &["-o", "json", "app", "receipts", "receipts-a"]);
    let file = std::env::temp_dir().join(format!("sandbar-it-receipts-of-one-{}", std::process::id()));
    std::fs::write(&file, &listed.stdout).unwrap();
    let key = one.api.get("/api/v1/receipts/key").ok(200)["public_key"].as_str().unwrap().to_owned();
    let verify = |more: &[&str]| {
        let args = [&["receipt", "verify", file.to_str().unwrap(), "--key", &key], more].concat();
        let done = Command::new(env!("CARGO_BIN_EXE_sandbar")).args(args).output().unwrap();
        (done.status.success(), String::from_utf8(done.stdout).unwrap())
    };
    let (right, text) = verify(&[]);
    assert!(right && text.starts_with("2 receipts") && text.contains("that are not here"), "{text}");
    let (right, text) = verify(&["--chain"]);
    assert!(!right && text.contains("between them are missing"), "{text}");
    // One on each line they are the same, also from standard input.
    let list: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    std::fs::write(&file, list.iter().map(|signed| format!("{signed}\n")).collect::<String>()).unwrap();
    let stdin = std::fs::File::open(&file).unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_sandbar")).args(["receipt", "verify", "-", "--json"]).stdin(stdin).output().unwrap();
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&told["ok"], &told["receipts"], &told["more_problems"]), (&json!(true), &json!(2), &json!(0)), "{told}");
    // Others of the team may have run something meanwhile.
    assert!(told["missing"].as_u64() >= Some(1), "{told}");
    std::fs::remove_file(&file).unwrap();
}

/// A dollar for a second of a processor.
const PRICES: &str = "currency=USD,run_micros=10,cpu_hour_micros=3600000000";

fn scheduled(policy: &str, budget: &str) -> Value {
    let mut made = json!({ "name": "burning", "cron": "0 0 1 1 *", "runtimePolicy": policy, "action": "burn" });
    let budget: Value = serde_json::from_str(budget).unwrap();
    made.as_object_mut().unwrap().extend(budget.as_object().unwrap().clone());
    made
}

#[test]
fn a_run_that_costs_more_than_it_may_is_ended() {
    let server = Server::start_with(&[("SANDBAR_PRICES", PRICES)]);
    let api = server.api();
    let demo = Demo::deploy(&api, "burning", ACTIONS, &[]);
    demo.start();
    for (policy, budget) in [("run_and_delete", r#"{"budget":{"maxUsd":0.5}}"#), ("use_existing_running", r#"{"quotas":{"maxSpendUsd":0.5}}"#)] {
        demo.try_post("/schedules", scheduled(policy, budget)).ok(201);
        let asked = demo.try_post("/schedules/burning/run", json!({})).ok(202)["run"].clone();
        let over = ended(&api, &asked);
        assert_eq!((&over["status"], &over["failure_reason"]), (&json!("failed"), &json!("budget_exhausted")), "{policy}: {over}");
        let found = receipt(&api, &over);
        assert!(found["reason"].as_str().unwrap().starts_with("budget_exhausted: "), "{found}");
        let (price, usage) = (&found["price"], &found["usage"]);
        assert!(number(&price["total_micros"]) > 500_000 && number(&usage["cpu_us"]) > 400_000, "{policy}: {found}");
        assert_eq!((&price["currency"], &price["unknown"]), (&json!("USD"), &json!([])), "{found}");
        let labels: Vec<_> = price["line_items"].as_array().unwrap().iter().map(|item| item["label"].as_str().unwrap()).collect();
        assert_eq!(labels, ["run", "processor"]);
        demo.api.delete(&demo.path("/schedules/burning")).ok(200);
        if policy == "use_existing_running" {
            assert_eq!(usage["sources"]["cpu"], "command", "{found}");
            assert_eq!(demo.sandbox().sh("pgrep -f '[w]hile True'").code, 1, "nothing of it goes on");
        } else {
            eventually("the sandbox to go", WITHIN, || {
                let run = now(&api, &over);
                if run["cleanup"] == "succeeded" { Ok(()) } else { Err(run.to_string()) }
            });
        }
    }
    let refused = demo.try_post("/schedules", scheduled("run_and_delete", r#"{"budget":{"maxUsd":0.000005}}"#)).error(&[422]);
    assert!(refused["message"].as_str().unwrap().contains("each run costs 0.00001 USD"), "{refused}");
}

#[test]
fn a_budget_without_prices_is_refused() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "no-prices", ACTIONS, &[]);
    for budget in [r#"{"budget":{"maxUsd":0.5}}"#, r#"{"quotas":{"maxSpendUsd":0.5}}"#] {
        let refused = demo.try_post("/schedules", scheduled("run_and_delete", budget)).error(&[422]);
        let diagnostic = &refused["details"]["diagnostics"][0];
        assert!(diagnostic["message"].as_str().unwrap().contains("has no prices"), "{refused}");
    }
    let manifest = format!("name: no-prices\n{ACTIONS}schedules:\n  - {{name: s, cron: \"@daily\", action: small, budget: {{maxUsd: 1}}}}\n");
    let tar = crate::it::registry::Tar::default().file("sandbar.yaml", manifest.as_bytes()).done();
    let refused = demo.api.send("POST", &demo.path("/versions"), &tar).error(&[422]);
    let diagnostic = &refused["details"]["diagnostics"][0];
    assert_eq!((&diagnostic["path"], &diagnostic["code"]), (&json!("$.schedules[0].budget.maxUsd"), &json!("unsupported_key")), "{refused}");
}

#[test]
fn what_a_run_needs_costs_it_before_its_command_begins() {
    let server = Server::start_with(&[("SANDBAR_PRICES", PRICES)]);
    let api = server.api();
    let burns = "start:\n  command: \"python3 -c 'while True: pass'\"\n  ports: [{port: 3000}]\nactions:\n  - {name: burn, command: \"touch ran\", requiresStart: true}\n";
    let demo = Demo::deploy(&api, "burning-start", burns, &[]);
    demo.try_post("/schedules", scheduled("run_and_delete", r#"{"budget":{"maxUsd":0.5}}"#)).ok(201);
    let over = ended(&api, &demo.try_post("/schedules/burning/run", json!({})).ok(202)["run"].clone());
    assert_eq!((&over["status"], &over["failure_reason"]), (&json!("failed"), &json!("budget_exhausted")), "{over}");
    assert_eq!(receipt(&api, &over)["command"], Value::Null);
}
