//! Runs of schedules that are asked for, what is told of the last one, and whose a name is.

use super::*;
use crate::it::registry::Tar;

#[test]
fn a_run_of_now_is_made_once_for_a_key() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "asked-now", ACTIONS, &[]);
    let made = json!({ "name": "k1", "rate": "6 hours", "action": "report", "runtimePolicy": "run_and_delete" });
    let made = demo.try_post("/schedules", made).ok(201)["schedule"].clone();
    assert_eq!((&made["last_run_id"], &made["last_run_at"], &made["last_run_status"]), (&Value::Null, &Value::Null, &Value::Null), "{made}");

    let now = |header: Option<&str>, body: &str| {
        let headers: Vec<_> = header.map(|key| ("idempotency-key", key)).into_iter().collect();
        demo.api.try_send("POST", &schedule(&demo, "k1", "/run"), &headers, body.as_bytes()).unwrap()
    };
    let first = now(None, r#"{"idempotencyKey":"same"}"#);
    assert_eq!(first.header("idempotency-replayed"), None);
    let id = first.ok(202)["run"]["id"].clone();
    for (header, body) in [(None, r#"{"idempotency_key":"same"}"#), (Some("same"), ""), (Some("same"), "{}"), (Some("same"), r#"{"idempotencyKey":"same"}"#)] {
        let again = now(header, body);
        assert_eq!(again.header("idempotency-replayed"), Some("true"), "{header:?} {body}");
        assert_eq!(again.ok(202)["run"]["id"], id, "{header:?} {body}");
    }
    for (header, body, told) in [
        (None, r#"{"foo":1}"#, "foo"),
        (None, "no JSON", "JSON"),
        (None, r#"{"idempotencyKey":""}"#, "idempotency_key"),
        (None, r#"{"idempotencyKey":"a","idempotency_key":"a"}"#, "given twice"),
        (Some("other"), r#"{"idempotencyKey":"same"}"#, "another key"),
    ] {
        let refused = now(header, body).error(&[400]);
        assert!(refused["message"].as_str().unwrap().contains(told), "{body}: {refused}");
    }
    let other = now(None, "").ok(202)["run"].clone();
    assert_ne!(other["id"], id);
    ended(&demo.api, &json!({ "id": id }));
    ended(&demo.api, &other);
    let seen = is(&demo, "k1");
    assert_eq!((&seen["last_run_id"], &seen["last_run_status"]), (&other["id"], &json!("succeeded")), "{seen}");
    assert_eq!(seen["last_run_at"], other["created_at"], "{seen}");
    assert_eq!(demo.api.get(&demo.path("/schedules")).ok(200)["schedules"][0], seen);
    assert_eq!(demo.post("/schedules/k1/stop", json!({}))["schedule"]["last_run_status"], "succeeded");
}

#[test]
fn a_manifest_takes_no_schedule_from_who_made_it() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "hand-made", ACTIONS, &[]);
    let by_hand = demo.try_post("/schedules", json!({ "name": "nightly", "rate": "6 hours", "action": "report" })).ok(201)["schedule"].clone();
    let manifest = format!("{ACTIONS}schedules:\n  - {{name: other, rate: 1 hour, action: report}}\n  - {{name: nightly, cron: 0 3 * * *, action: report}}\n");
    let tar = Tar::default().file("sandbar.yaml", format!("schemaVersion: 1\nname: hand-made\n{manifest}").as_bytes()).done();
    for query in ["", "?activate=false"] {
        let refused = demo.api.send("POST", &demo.path(&format!("/versions{query}")), &tar).error(&[409]);
        assert_eq!(refused["details"]["diagnostics"][0]["path"], "$.schedules[1].name", "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("delete that one first"), "{refused}");
    }
    assert_eq!(demo.api.get(&demo.path("/versions")).ok(200)["versions"].as_array().unwrap().len(), 1, "nothing was begun");
    assert_eq!(is(&demo, "nightly"), by_hand);

    // A version that was there before has the name, and is live no more.
    assert_eq!(demo.api.delete(&schedule(&demo, "nightly", "")).status, 200);
    demo.redeploy(&manifest, &[]);
    assert_eq!(is(&demo, "nightly")["management_source"], "manifest");
    demo.redeploy(ACTIONS, &[]);
    let by_hand = demo.try_post("/schedules", json!({ "name": "nightly", "rate": "6 hours", "action": "report" })).ok(201)["schedule"].clone();
    let refused = demo.try_post("/rollback", json!({ "version": 2 })).error(&[409]);
    assert!(refused["message"].as_str().unwrap().contains("$.schedules[1].name"), "{refused}");
    assert_eq!((is(&demo, "nightly"), demo.api.get(&demo.path("")).ok(200)["live_version"].clone()), (by_hand, json!(3)));
}
