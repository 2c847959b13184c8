//! Runs of which only so many are at once.

use super::*;

const GROUPS: &str = r#"actions:
  - name: one
    command: "echo $SANDBAR_RUN_ID >>begun; while ! test -e go; do sleep 0.05; done"
    concurrency: {group: deploys, policy: queue}
  - name: skip
    command: "true"
    concurrency: {group: deploys, policy: skip}
  - name: newest
    command: "while ! test -e go; do sleep 0.05; done"
    concurrency: {max: 1, policy: cancel}
  - name: many
    command: "echo x >>many; while ! test -e go; do sleep 0.05; done"
"#;

#[test]
fn groups_queue_skip_and_cancel() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-groups", GROUPS, &[]);
    let api = &demo.api;
    let first = ask(&demo, json!({ "action": "one" }));
    until_phase(api, &first, "commanding");
    let second = ask(&demo, json!({ "action": "one" }));
    let third = ask(&demo, json!({ "action": "one" }));

    let skipped = run(&demo, json!({ "action": "skip" }));
    assert_eq!((&skipped["status"], &skipped["failure_reason"]), (&json!("cancelled"), &json!("skipped")), "{skipped}");
    assert!(skipped["message"].as_str().unwrap().contains("of the group \"deploys\" as"), "{skipped}");
    assert_eq!(api.get(&of(&skipped, "/receipt")).ok(200)["receipt"]["receipt"]["command"], Value::Null, "it never ran");
    // One that waits is cancelled at once.
    assert_eq!(api.post(&of(&third, "/cancel"), json!({})).ok(202)["run"]["status"], "cancelled");
    assert_eq!(now(api, &second)["status"], "queued");

    let old = ask(&demo, json!({ "action": "newest" }));
    until_phase(api, &old, "commanding");
    let newer = ask(&demo, json!({ "action": "newest" }));
    assert_eq!(ended(api, &old)["status"], "cancelled");
    until_phase(api, &newer, "commanding");

    // Several at once is what happens otherwise.
    let several: Vec<_> = (0..3).map(|_| ask(&demo, json!({ "action": "many" }))).collect();
    for run in &several {
        until_phase(api, run, "commanding");
    }
    let sandbox = sandbox_of(api, &now(api, &first));
    until("all three", || sandbox.sh("cat /workspace/many").stdout == "x\nx\nx\n");
    sandbox.sh_ok("touch /workspace/go");
    for run in several.iter().chain([&first, &second, &newer]) {
        assert_eq!(ended(api, run)["status"], "succeeded");
    }
    let order: Vec<String> = sandbox.sh_ok("cat /workspace/begun").lines().map(str::to_owned).collect();
    assert_eq!(order, [first["id"].as_str().unwrap(), second["id"].as_str().unwrap()]);
}
