//! Pools with warm processes: up before anybody gets them, kept up, and honest about why they are not.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::{
    harness::{SANDBOXES, Sandbox, Server},
    http::{Api, eventually},
    machine,
};

const SOON: Duration = Duration::from_secs(60);

fn server() -> Server {
    Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")])
}

fn spec(min_idle: u32, warm: Value) -> Value {
    json!({ "mainContainer": { "image": "host", "resources": { "memory": "256Mi" } }, "envVars": { "FROM": "template" }, "pool": { "minIdle": min_idle, "maxIdle": 20 }, "warmProcesses": warm })
}

fn template(api: &Api, id: &str) -> Value {
    api.get(&format!("/api/v1/templates/{id}")).ok(200)
}

fn pool_is_full(api: &Api, id: &str, count: u32) {
    eventually("a full pool", SOON, || {
        let status = template(api, id)["status"].clone();
        if status["idleCount"] == count { Ok(()) } else { Err(status.to_string()) }
    });
}

const SERVE: &str = "mkdir -p /srv/w && cd /srv/w && echo $FROM-$OWN-$CLAIM >index.html && sleep 0.3 && exec python3 -m http.server 8000";

#[test]
fn a_claim_finds_warm_processes_up_and_they_stay_up() {
    let mut server = server();
    let api = server.api();
    let warm = json!([
        { "name": "web", "type": "cmd", "command": ["sh", "-c", SERVE], "envVars": { "OWN": "own" }, "probes": { "startup": { "exec": { "command": ["sh", "-c", "test $FROM-$OWN = template-own"] }, "failureThreshold": 3 }, "readiness": { "httpGet": { "port": 8000, "path": "/" } }, "liveness": { "tcpSocket": { "port": 8000 }, "periodSeconds": 1, "failureThreshold": 1 } } },
        { "type": "repl", "alias": "python" },
    ]);
    api.post("/api/v1/templates", json!({ "template_id": "warm", "spec": spec(1, warm) })).ok(201);
    pool_is_full(&api, "warm", 1);
    assert_eq!(template(&api, "warm")["status"]["conditions"][1]["status"], "True");
    let get = "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000').read().decode().strip())\"";
    let sandbox = Sandbox::claim_from(&api, "warm", json!({ "env_vars": { "CLAIM": "claim" } }));
    assert_eq!(sandbox.sh_ok(get), "template-own-\n", "no environment of a claim");
    assert_eq!(sandbox.sh_ok("echo $CLAIM"), "claim\n");
    let contexts = api.get(&sandbox.path("/contexts")).ok(200);
    assert_eq!(contexts["contexts"].as_array().unwrap().iter().filter(|context| context["running"] == true).count(), 2);
    // Cold, with an empty pool, it takes longer and is the same.
    let (second, third) = (Sandbox::claim_from(&api, "warm", json!({})), Sandbox::claim_from(&api, "warm", json!({})));
    assert_eq!(second.sh_ok(get), "template-own-\n");
    assert_eq!(third.sh_ok(get), "template-own-\n");
    // It ends, and is started again; over a restart of the server and a hibernation, too.
    let back = |sandbox: &Sandbox| {
        eventually("the process again", SOON, || {
            let done = sandbox.sh(get);
            // One that is started again after the claim may have the claim's environment.
            if done.stdout.starts_with("template-own-") { Ok(()) } else { Err(format!("{done:?}")) }
        });
    };
    sandbox.sh("pkill -f http.server");
    back(&sandbox);
    server.kill();
    server.up();
    sandbox.sh("pkill -f http.server");
    back(&sandbox);
    sandbox.post("/pause", json!({}));
    sandbox.post("/hibernate", json!({}));
    assert_eq!(sandbox.sh_ok(get), "template-own-\n");
}

#[test]
fn a_template_that_does_not_come_up_says_why_and_keeps_no_other_waiting() {
    let server = server();
    let api = server.api();
    let broken = json!([{ "name": "bad", "type": "cmd", "command": ["sh", "-c", "echo cannot find the config >&2; exit 3"] }]);
    let silent = json!([{ "name": "mute", "type": "cmd", "command": ["sleep", "1000"], "probes": { "readiness": { "exec": { "command": ["false"] }, "failureThreshold": 2 } } }]);
    api.post("/api/v1/templates", json!({ "template_id": "broken", "spec": spec(2, broken) })).ok(201);
    api.post("/api/v1/templates", json!({ "template_id": "silent", "spec": spec(2, silent) })).ok(201);
    api.post("/api/v1/templates", json!({ "template_id": "good", "spec": spec(3, json!([])) })).ok(201);
    pool_is_full(&api, "good", 3);
    let says = |id: &str, words: &[&str]| {
        eventually("the reason", SOON, || {
            let status = template(&api, id)["status"].clone();
            let message = status["conditions"][1]["message"].as_str().unwrap_or_default().to_owned();
            if words.iter().all(|word| message.contains(word)) { Ok(()) } else { Err(status.to_string()) }
        });
    };
    says("broken", &["\"bad\"", "exit code 3", "cannot find the config"]);
    says("silent", &["\"mute\"", "2 times in a row"]);
    let refused = api.post(SANDBOXES, json!({ "template": "broken" })).error(&[503]);
    assert!(refused["message"].as_str().unwrap().contains("cannot find the config"), "{refused}");
    for id in ["broken", "silent"] {
        api.delete(&format!("/api/v1/templates/{id}")).ok(200);
    }
    let wrong = [
        json!([{ "type": "cmd" }]),
        json!([{ "type": "daemon" }]),
        json!([{ "type": "repl" }]),
        json!([{ "type": "cmd", "command": ["x"], "probes": { "liveness": {} } }]),
        json!([{ "type": "cmd", "command": ["x"], "probes": { "startup": { "tcpSocket": { "port": 0 } } } }]),
        json!([{ "type": "cmd", "command": ["x"], "name": "a" }, { "type": "cmd", "command": ["y"], "name": "a" }]),
    ];
    for warm in wrong {
        let refused = api.post("/api/v1/templates", json!({ "template_id": "wrong", "spec": spec(0, warm.clone()) }));
        assert_eq!(refused.status, 400, "{warm}");
    }
}

/// More of them than there are places for slow starts at one time.
#[test]
fn templates_that_never_come_up_leave_room_for_those_that_do() {
    let server = server();
    let api = server.api();
    let never = json!([{ "name": "mute", "type": "cmd", "command": ["sleep", "1000"], "probes": { "startup": { "exec": { "command": ["false"] }, "failureThreshold": 600 } } }]);
    for n in 0..6 {
        let mut spec = spec(4, never.clone());
        // Each has a pool of its own.
        spec["envVars"]["N"] = json!(n.to_string());
        api.post("/api/v1/templates", json!({ "template_id": format!("never-{n}"), "spec": spec })).ok(201);
    }
    eventually("all places taken", SOON, || {
        let names: BTreeSet<String> =
            machine::processes(&server.instance).into_iter().filter(|p| p.command.contains("sleep 1000")).map(|p| p.runtime_id).collect();
        if names.len() >= 4 { Ok(()) } else { Err(format!("{names:?}")) }
    });
    api.post("/api/v1/templates", json!({ "template_id": "works", "spec": spec(3, json!([{ "name": "s", "type": "cmd", "command": ["sleep", "1000"] }])) }))
        .ok(201);
    pool_is_full(&api, "works", 3);
}

#[test]
fn no_idle_one_is_handed_out_twice_and_a_changed_template_drains_them() {
    let server = server();
    let api = server.api();
    api.post("/api/v1/templates", json!({ "template_id": "many", "spec": spec(5, json!([])) })).ok(201);
    pool_is_full(&api, "many", 5);
    let sandboxes: Vec<Sandbox> = std::thread::scope(|scope| {
        let claims: Vec<_> = (0..30).map(|_| scope.spawn(|| Sandbox::claim_from(&api, "many", json!({})))).collect();
        claims.into_iter().map(|claim| claim.join().unwrap()).collect()
    });
    let runtimes: BTreeSet<String> = sandboxes.iter().map(|sandbox| sandbox.get()["runtime_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(runtimes.len(), 30);
    drop(sandboxes);
    pool_is_full(&api, "many", 5);
    let before: BTreeSet<String> = machine::processes(&server.instance).into_iter().map(|process| process.runtime_id).collect();
    let mut changed = spec(2, json!([{ "name": "s", "type": "cmd", "command": ["sleep", "1000"] }]));
    changed["envVars"]["FROM"] = json!("changed");
    api.put("/api/v1/templates/many", json!({ "spec": changed })).ok(200);
    pool_is_full(&api, "many", 2);
    eventually("only new ones", SOON, || {
        let now: BTreeSet<String> = machine::processes(&server.instance).into_iter().map(|process| process.runtime_id).collect();
        if now.is_disjoint(&before) && now.len() == 2 { Ok(()) } else { Err(format!("{now:?}")) }
    });
}
