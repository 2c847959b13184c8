//! Quotas of teams, and what is summed of their use.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    api::member,
    harness::{SANDBOXES, Sandbox, Server},
    http::{Api, Reply, eventually},
};

fn quota(api: &Api, dimension: &str, body: Value) {
    api.put(&format!("/api/v1/quotas/{dimension}"), body).ok(200);
}

fn lift(api: &Api, dimension: &str) {
    api.delete(&format!("/api/v1/quotas/{dimension}")).ok(200);
}

/// Refused, and the figures are in the words.
#[track_caller]
fn refused(reply: &Reply, words: &[&str]) {
    let error = reply.error(&[429]);
    let message = error["message"].as_str().unwrap().to_owned();
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn quotas_hold_at_every_door_and_after_a_restart() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let claim = || api.post(SANDBOXES, json!({ "template": "default" }));
    quota(&api, "active_sandboxes", json!({ "limit_value": 1 }));
    let first = Sandbox::claim(&api, json!({}));
    refused(&claim(), &["active_sandboxes is 1", "1 is in use", "1 more"]);
    first.post("/pause", json!({}));
    let second = Sandbox::claim(&api, json!({}));
    // By resuming and by any access.
    refused(&api.post(&first.path("/resume"), json!({})), &["active_sandboxes is 1"]);
    refused(&api.get(&first.file("/etc/hostname")), &["active_sandboxes is 1"]);
    assert!(first.is_paused());
    server.kill();
    server.up();
    refused(&claim(), &["active_sandboxes is 1"]);
    second.post("/pause", json!({}));
    first.post("/resume", json!({}));
    assert_eq!(api.get("/api/v1/quotas/active_sandboxes").ok(200)["current"], 1);
    lift(&api, "active_sandboxes");

    let memory = api.get("/api/v1/quotas/memory_bytes").ok(200)["current"].as_u64().unwrap();
    quota(&api, "memory_bytes", json!({ "limit_value": memory + (64 << 20) }));
    refused(&claim(), &["memory_bytes", &memory.to_string()]);
    let resize = |bytes: u64| api.put(&first.path(""), json!({ "config": { "resources": { "memory": format!("{}Mi", bytes >> 20) } } }));
    refused(&resize(memory + (65 << 20)), &["memory_bytes"]);
    resize(memory + (64 << 20)).ok(200);
    lift(&api, "memory_bytes");

    quota(&api, "volumes", json!({ "limit_value": 0 }));
    refused(&api.post("/api/v1/sandboxvolumes", json!({})), &["volumes is 0"]);
    quota(&api, "snapshots", json!({ "limit_value": 0 }));
    refused(&api.post(&first.path("/snapshots"), json!({})), &["snapshots is 0"]);
    quota(&api, "paused_sandboxes", json!({ "limit_value": 1 }));
    refused(&api.post(&first.path("/fork"), json!({})), &["paused_sandboxes is 1"]);
    lift(&api, "paused_sandboxes");

    quota(&api, "sandbox_claims", json!({ "limit_value": 1, "interval_ms": 60_000, "burst_value": 2 }));
    let claimed: Vec<Reply> = (0..3).map(|_| claim()).collect();
    assert_eq!(claimed.iter().map(|reply| reply.status).collect::<Vec<_>>(), [201, 201, 429]);
    refused(&claimed[2], &["sandbox_claims is 1 in 60000 ms", "try again in"]);
    assert_eq!(claimed[2].value()["error"]["code"], "claim_start_throttled");
    let wait: u64 = claimed[2].headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after")).unwrap().1.parse().unwrap();
    assert!((50..=60).contains(&wait), "{wait}");
}

#[test]
fn the_operator_sets_the_quotas_of_any_team_and_nobody_else() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0"), ("SANDBAR_REGISTRATION", "true")]);
    let api = server.api();
    let other = member(&server, "quota@example.com");
    let team = other.get("/teams").ok(200)["teams"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/quotas/active_sandboxes?team_id={team}");
    assert_eq!(api.put(&path, json!({ "limit_value": 0 })).ok(200)["team_id"], team.as_str());
    refused(&other.post(SANDBOXES, json!({ "template": "default" })), &["active_sandboxes is 0"]);
    assert_eq!(api.get("/api/v1/quotas/active_sandboxes").ok(200)["unlimited"], true, "the operator's own team has none");
    assert_eq!(api.get(&path).ok(200)["limit_value"], 0);
    assert_eq!(other.get("/api/v1/quotas/active_sandboxes").ok(200)["limit_value"], 0);
    for reply in [other.put(&path, json!({ "limit_value": 9 })), other.delete(&path)] {
        reply.error(&[403]);
    }
    let own = api.get("/teams").ok(200)["teams"][0]["id"].as_str().unwrap().to_owned();
    other.get(&format!("/api/v1/quotas/active_sandboxes?team_id={own}")).error(&[403]);
    api.put("/api/v1/quotas/volumes?team_id=none", json!({ "limit_value": 9 })).error(&[404]);
    api.delete(&path).ok(200);
    drop(Sandbox::claim(&other, json!({})));
}

fn sum(api: &Api, kind: &str, sandbox: &str) -> i64 {
    let page = api.get(&format!("/api/v1/usage/windows?window_type={kind}")).ok(200);
    let of_it = page["windows"].as_array().unwrap().iter().filter(|window| window["sandbox_id"] == sandbox);
    of_it.map(|window| window["value"].as_i64().unwrap()).sum()
}

#[test]
fn usage_counts_runtimes_that_ended_and_outlives_the_server() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let sandbox = Sandbox::claim(&api, json!({}));
    let id = sandbox.id.clone();
    let burn = "import time\nwhile time.process_time() < 0.3: pass";
    for _ in 0..2 {
        assert_eq!(sandbox.python(burn).code, 0);
        sandbox.post("/pause", json!({}));
        sandbox.post("/hibernate", json!({}));
    }
    // The next runtime of the same sandbox is there before anybody has looked.
    assert_eq!(sandbox.python(burn).code, 0);
    assert!(server.terminate().success());
    server.up();
    let cpu = sum(&api, "sandbox.cpu_time", &id);
    assert!((900_000..10_000_000).contains(&cpu), "{cpu} µs of at least 900000");
    assert!(sum(&api, "sandbox.run_time", &id) >= 900);
    // Nothing twice: who sleeps uses no more.
    sandbox.post("/pause", json!({}));
    sandbox.post("/hibernate", json!({}));
    assert!(server.terminate().success());
    server.up();
    let settled = sum(&api, "sandbox.cpu_time", &id);
    assert!(settled < cpu + 500_000, "{settled} after {cpu}");
    drop(sandbox);
    eventually("the end of the sandbox", Duration::from_secs(10), || match api.get(&format!("{SANDBOXES}/{id}")).status {
        404 => Ok(()),
        status => Err(status.to_string()),
    });
    assert_eq!(sum(&api, "sandbox.cpu_time", &id), settled);
}
