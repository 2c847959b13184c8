//! Actions that need the app to run.

use super::*;
use crate::it::apps::mended::Refusal;

#[test]
fn an_action_waits_for_the_app_or_never_runs() {
    let server = shared();
    let web = r#"start:
  command: "sleep 0.5; exec python3 -m http.server 3000"
  ports: [{port: 3000}]
actions:
  - name: smoke-test
    command: "python3 -c \"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:3000/').status)\""
    requiresStart: true
"#;
    let demo = Demo::deploy(&server.api(), "runs-start", web, &[]);
    let smoke = run(&demo, json!({ "action": "smoke-test" }));
    assert_eq!(smoke["status"], "succeeded", "{smoke} {}", log_of(&demo.api, &smoke));
    assert!(log_of(&demo.api, &smoke).contains("200\n"));
    assert_eq!(demo.status()["state"], "ready");
    // Once more joins what runs; in a sandbox of its own it is started there.
    assert_eq!(run(&demo, json!({ "action": "smoke-test" }))["status"], "succeeded");
    let fresh = run(&demo, json!({ "action": "smoke-test", "sandbox": "fresh" }));
    assert_eq!(fresh["status"], "succeeded", "{fresh} {}", log_of(&demo.api, &fresh));

    for (name, start) in [("runs-broken", "command: \"echo no good; exit 3\""), ("runs-slow", "command: \"sleep 1000\"")] {
        let yaml = format!(
            "start:\n  {start}\n  ports: [{{port: 3000}}]\n  readiness: {{port: 3000, timeoutSeconds: 1}}\nactions:\n  - name: check\n    command: \"touch ran\"\n    requiresStart: true\n    artifactPaths: [ran]\n"
        );
        let demo = Demo::deploy(&server.api(), name, &yaml, &[]);
        let check = run(&demo, json!({ "action": "check" }));
        assert_eq!((&check["status"], &check["failure_reason"], &check["exit_code"]), (&json!("failed"), &json!("start_not_ready"), &Value::Null), "{check}");
        if name == "runs-broken" {
            assert!(check["message"].as_str().unwrap().contains("no good"), "{check}");
        }
        let receipt = demo.api.get(&of(&check, "/receipt")).ok(200)["receipt"]["receipt"].clone();
        assert_eq!(receipt["command"], Value::Null);
        assert!(receipt["reason"].as_str().unwrap().starts_with("start_not_ready"), "{receipt}");
        assert_eq!(sandbox_of(&demo.api, &check).sh("test -e /workspace/ran").code, 1, "the command was never run");
    }
}

#[test]
fn a_run_that_is_cancelled_when_the_app_is_ready_never_runs() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let web =
        "start: {command: 'exec python3 -m http.server 3000', ports: [{port: 3000}]}\nactions: [{name: check, command: 'touch ran', requiresStart: true}]\n";
    for (place, wish) in [("app", json!({ "action": "check" })), ("fresh", json!({ "action": "check", "sandbox": "fresh", "cleanup": "stop" }))] {
        let demo = Demo::deploy(&server.api(), &format!("runs-ready-{place}"), web, &[]);
        let api = &demo.api;
        // Its command cannot begin before that is written.
        let refusal = Refusal::of(&server, "UPDATE ON app_run WHEN NEW.phase = 'commanding'");
        let check = ask(&demo, wish);
        until("its begin to be refused", || server.log().contains("how far a run is was not recorded") && now(api, &check)["phase"] == "starting");
        if place == "app" {
            demo.until_state("ready");
        }
        let sandbox = sandbox_of(api, &now(api, &check));
        assert_eq!(sandbox.sh("test -e /workspace/ran").code, 1);
        api.post(&of(&check, "/cancel"), json!({})).ok(202);
        let check = ended(api, &check);
        assert_eq!((&check["status"], &check["failure_reason"], &check["exit_code"]), (&json!("cancelled"), &json!("cancelled"), &Value::Null), "{check}");
        drop(refusal);
        assert_eq!(api.get(&of(&check, "/receipt")).ok(200)["receipt"]["receipt"]["command"], Value::Null, "it never ran");
        assert_eq!(sandbox.sh("test -e /workspace/ran").code, 1);
        if place == "app" {
            assert_eq!(demo.status()["state"], "ready", "the app goes on");
        }
    }
}
