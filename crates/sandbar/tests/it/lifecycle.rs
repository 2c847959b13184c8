//! The life of a sandbox: claim, pause, resume, deadlines, ends, and what is told about them.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    harness::{SANDBOXES, Sandbox, shared},
    http::{Api, eventually},
};

const SOON: Duration = Duration::from_secs(30);

/// Milliseconds since 1970 of a time in the API.
fn ms(time: &Value) -> i64 {
    time.as_str().unwrap_or_else(|| panic!("{time} is no time")).parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// A template of the team's own, removed at the end.
struct Template {
    api: Api,
    id: String,
}

impl Template {
    fn make(api: &Api, id: &str, more: Value) -> Self {
        let mut spec = json!({ "mainContainer": { "image": "host", "resources": { "memory": "256Mi" } } });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        api.post("/api/v1/templates", json!({ "template_id": id, "spec": spec })).ok(201);
        Self { api: api.clone(), id: id.to_owned() }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        let _ = self.api.try_send("DELETE", &format!("/api/v1/templates/{}", self.id), &[], b"");
    }
}

#[test]
fn a_claim_says_what_every_generation_of_clients_reads() {
    let server = shared();
    let api = server.api();
    let data = api.post(SANDBOXES, json!({ "template": "default" })).ok(201);
    let sandbox = Sandbox { api: api.clone(), id: data["sandbox_id"].as_str().unwrap().to_owned() };
    for key in ["sandbox_id", "status", "template", "pod_name", "runtime_id", "team_id", "user_id", "created_at", "updated_at"] {
        assert!(data[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {data}");
    }
    assert_eq!(data["status"], "running");
    let row = sandbox.get();
    assert_eq!((&row["paused"], &row["auto_resume"], &row["expires_at"], &row["hard_expires_at"]), (&json!(false), &json!(true), &Value::Null, &Value::Null));
    assert_eq!(row["power_state"]["phase"], "stable");
    assert!(row["runtime_generation"].as_i64().unwrap() >= 1);
    assert!(row.get("env_vars").is_none() && row.get("config").is_none(), "secrets are echoed: {row}");
    let id = sandbox.id.as_str();
    assert!(id.len() <= 30 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{id} is no DNS label");
    let status = api.get(&sandbox.path("/status")).ok(200);
    assert_eq!((&status["sandbox_id"], &status["status"]), (&json!(id), &json!("running")));
}

#[test]
fn a_pause_freezes_processes_and_a_resume_lets_them_go_on() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({ "auto_resume": false }));
    let context = sandbox.spawn(&["python3", "-u", "-c", "import time\nn = 0\nwhile True:\n  n += 1; print(n); time.sleep(0.02)"]);
    let last = || sandbox.context(&context["id"])["stdout"].as_str().unwrap_or("").lines().last().and_then(|line| line.parse::<u64>().ok()).unwrap_or(0);
    eventually("the counter", SOON, || if last() > 3 { Ok(()) } else { Err(last().to_string()) });
    let before = sandbox.get();
    let paused = sandbox.post("/pause", json!({}));
    assert_eq!((&paused["paused"], &paused["status"], &paused["power_state"]["observed"]), (&json!(true), &json!("paused"), &json!("paused")));
    // Again, with the body that another client sends: the same answer and no new generation.
    let again = sandbox.post("/pause", json!({ "memory": true }));
    assert_eq!(again["power_state"], paused["power_state"]);
    let row = sandbox.get();
    assert_eq!((&row["paused"], &row["status"], &row["reason_code"]), (&json!(true), &json!("paused"), &json!("user_request")));
    let resumed = sandbox.post("/resume", json!({}));
    assert_eq!((&resumed["resumed"], &resumed["power_state"]["phase"]), (&json!(true), &json!("stable")));
    let row = sandbox.get();
    assert!(row["runtime_generation"].as_i64() > before["runtime_generation"].as_i64(), "SDKs wait for a new generation");
    assert_eq!(row["runtime_id"], before["runtime_id"]);
    let now = sandbox.context(&context["id"]);
    assert_eq!((&now["pid"], &now["running"]), (&context["pid"], &json!(true)));
    let counted = last();
    eventually("the counter goes on", SOON, || if last() > counted { Ok(()) } else { Err(last().to_string()) });
    let generation = sandbox.get()["runtime_generation"].clone();
    sandbox.post("/resume", json!({}));
    assert_eq!(sandbox.get()["runtime_generation"], generation, "resuming what runs changed it");
}

#[test]
fn time_stands_still_for_a_paused_repl_and_its_state_is_kept() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let repl = sandbox.api.post(&sandbox.path("/contexts"), json!({ "type": "repl", "repl": { "alias": "python" } })).ok(201);
    let exec = |code: &str| {
        sandbox.api.post(&sandbox.path(&format!("/contexts/{}/exec", repl["id"].as_str().unwrap())), json!({ "data": code })).ok(200)["output_raw"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    exec("x = [1, 2]");
    for round in 0..5 {
        sandbox.post("/pause", json!({}));
        // The access wakes it.
        let out = exec(&format!("x.append({round}); print(sum(x))"));
        let want = 3 + (0..=round).sum::<i32>();
        assert!(out.contains(&want.to_string()), "{out}");
        assert!(!sandbox.is_paused());
    }
}

#[test]
fn a_hibernated_sandbox_keeps_its_files_and_gets_a_new_runtime() {
    let server = shared();
    let template = Template::make(&server.api(), "hibernates", json!({ "lifecycle": { "hibernateAfter": 1 } }));
    let sandbox = Sandbox::claim_from(&server.api(), &template.id, json!({ "env_vars": { "K": "kept" } }));
    sandbox
        .sh_ok("echo one > /workspace/a; echo two > /tmp/b; mkdir -p /workspace/d/e; ln -s a /workspace/link; chmod 751 /workspace/d; rm -f /etc/motd; sync");
    let tree = "cd / && find workspace tmp -printf '%p %m %u %s %l\\n' | sort; cat /workspace/a /tmp/b; ls /etc/motd 2>&1";
    let sleeper = sandbox.spawn(&["sleep", "86400"]);
    let before = sandbox.get();
    let was = sandbox.sh(tree).stdout;
    sandbox.post("/pause", json!({}));
    sandbox.wait_event("the hibernation", |event| event["type"] == "sandbox.hibernated");
    let row = sandbox.get();
    assert_eq!((&row["paused"], &row["status"]), (&json!(true), &json!("paused")));
    assert!(row["power_state"]["observed"] == "paused", "{row}");
    sandbox.post("/resume", json!({}));
    let after = sandbox.get();
    assert!(after["runtime_generation"].as_i64() > before["runtime_generation"].as_i64());
    assert_ne!(after["runtime_id"], before["runtime_id"]);
    assert_eq!(after["id"], before["id"]);
    assert_eq!(sandbox.sh(tree).stdout, was, "the files are others");
    assert_eq!(sandbox.sh_ok("echo $K"), "kept\n");
    sandbox.api.get(&sandbox.path(&format!("/contexts/{}", sleeper["id"].as_str().unwrap()))).error(&[404]);
}

#[test]
fn files_are_the_same_after_many_pauses_and_resumes() {
    let server = shared();
    let template = Template::make(&server.api(), "hibernates-at-once", json!({ "lifecycle": { "hibernateAfter": 0 } }));
    let sandbox = Sandbox::claim_from(&server.api(), &template.id, json!({}));
    let mut want = Vec::new();
    for round in 0..6u32 {
        sandbox.write(&format!("/workspace/f{round}"), format!("content {round}").repeat(1000).as_bytes());
        want.push(format!("content {round}").repeat(1000));
        if round % 2 == 1 {
            sandbox.write("/workspace/f0", b"changed");
            want[0] = "changed".into();
        }
        sandbox.post("/pause", json!({}));
        sandbox.post("/resume", json!({}));
        for (i, content) in want.iter().enumerate() {
            assert_eq!(sandbox.read(&format!("/workspace/f{i}")), content.as_bytes(), "round {round}, file {i}");
        }
    }
}

#[test]
fn a_ttl_pauses_and_a_refresh_arms_both_deadlines_from_now() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({ "ttl": 300, "hard_ttl": 3600 }));
    let first = sandbox.get();
    assert_eq!(ms(&first["expires_at"]) - ms(&first["claimed_at"]), 300_000);
    assert_eq!(ms(&first["hard_expires_at"]) - ms(&first["claimed_at"]), 3_600_000);
    let refreshed = sandbox.post("/refresh", json!({}));
    assert!(ms(&refreshed["expires_at"]) >= ms(&first["expires_at"]));
    assert_eq!(ms(&refreshed["hard_expires_at"]) - ms(&refreshed["expires_at"]), 3_300_000);
    let longer = sandbox.post("/refresh", json!({ "duration": 600 }));
    assert_eq!(ms(&longer["hard_expires_at"]) - ms(&longer["expires_at"]), 3_000_000, "the hard ttl is armed from its own value: {longer}");
    sandbox.api.post(&sandbox.path("/refresh"), json!({ "duration": 4000 })).error(&[400]);
    // An empty body is the default.
    sandbox.api.send("POST", &sandbox.path("/refresh"), b"").ok(200);
    // A resume does not arm the hard ttl again.
    let hard = sandbox.get()["hard_expires_at"].clone();
    sandbox.post("/pause", json!({}));
    sandbox.post("/resume", json!({}));
    assert_eq!(sandbox.get()["hard_expires_at"], hard);
    // 0 switches off, absent keeps.
    sandbox.api.put(&sandbox.path(""), json!({ "config": { "ttl": 0 } })).ok(200);
    let row = sandbox.get();
    assert_eq!((&row["expires_at"], &row["ttl"], &row["hard_ttl"]), (&Value::Null, &json!(0), &json!(3600)));

    let short = Sandbox::claim(&server.api(), json!({ "ttl": 1, "auto_resume": false }));
    short.wait_paused();
    let row = short.get();
    assert_eq!(row["reason_code"], "ttl_expired", "{row}");
    assert!(row["status_reason"].as_str().is_some_and(|text| text.contains("ttl")), "{row}");
    short.wait_event("the event", |event| event["type"] == "sandbox.paused" && event["reason_code"] == "ttl_expired");
}

#[test]
fn a_hard_ttl_cleans_and_an_access_restores() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({ "hard_ttl": 1, "env_vars": { "K": "kept" } }));
    sandbox.write("/workspace/f", b"x");
    eventually("the cleaning", SOON, || {
        let row = sandbox.get();
        if row["cleaned"] == true && row["power_state"]["phase"] == "stable" { Ok(()) } else { Err(row.to_string()) }
    });
    let row = sandbox.get();
    assert_eq!((&row["status"], &row["paused"], &row["lifecycle_state"], &row["runtime_id"]), (&json!("paused"), &json!(true), &json!("cleaned"), &json!("")));
    let may = sandbox.api.may().get(&sandbox.path("")).ok(200);
    assert_eq!(may["status"], "cleaned");
    // In that profile's lists the word is another: its clients know no `cleaned` there.
    let listed = sandbox.api.get("/compat/2026-05/api/v1/sandboxes?status=completed").ok(200);
    let listed = listed["sandboxes"].as_array().unwrap().iter().find(|listed| listed["id"] == may["id"]).expect("listed");
    assert_eq!((&listed["status"], &listed["cleaned"]), (&json!("completed"), &json!(true)));
    assert_eq!(row["reason_code"], "hard_ttl_expired");
    assert_eq!(sandbox.sh_ok("ls -A /workspace; echo $K"), "kept\n", "a fresh runtime has the configuration and none of the files");
    assert_eq!(sandbox.get()["cleaned"], Value::Null);

    let kept = Sandbox::claim(&server.api(), json!({ "hard_ttl": 1, "auto_resume": false }));
    eventually("the cleaning", SOON, || if kept.get()["cleaned"] == true { Ok(()) } else { Err(kept.get().to_string()) });
    let error = kept.api.get(&kept.file("/etc/passwd")).error(&[503]);
    assert_eq!(error["details"]["lifecycle_state"], "cleaned", "{error}");
}

#[test]
fn a_sandbox_can_be_deleted_in_every_state_and_only_once() {
    let server = shared();
    let api = server.api();
    let running = Sandbox::claim(&api, json!({}));
    let paused = Sandbox::claim(&api, json!({}));
    paused.post("/pause", json!({}));
    let cleaned = Sandbox::claim(&api, json!({ "hard_ttl": 1 }));
    eventually("the cleaning", SOON, || if cleaned.get()["cleaned"] == true { Ok(()) } else { Err(cleaned.get().to_string()) });
    for sandbox in [&running, &paused, &cleaned] {
        let reply = api.delete(&sandbox.path(""));
        assert_eq!(reply.ok(202)["message"], "sandbox terminated successfully");
        for again in [api.get(&sandbox.path("")), api.delete(&sandbox.path("")), api.post(&sandbox.path("/resume"), json!({}))] {
            again.error(&[404]);
        }
        let listed = api.get(&format!("{SANDBOXES}?limit=200")).ok(200);
        assert!(!listed["sandboxes"].as_array().unwrap().iter().any(|row| row["id"] == sandbox.id.as_str()));
    }
}

#[test]
fn the_list_has_filters_and_pages() {
    let server = shared();
    let api = super::api::member(&server, "pages@example.com");
    let template = Template::make(&api, "listed", json!({}));
    let mine: Vec<_> = (0..3).map(|_| Sandbox::claim(&api, json!({}))).collect();
    let other = Sandbox::claim_from(&api, &template.id, json!({}));
    mine[0].post("/pause", json!({}));
    let list = |query: &str| api.get(&format!("{SANDBOXES}?{query}")).ok(200);
    let ids = |data: &Value| data["sandboxes"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let all = list("");
    assert_eq!((&all["count"], &all["has_more"]), (&json!(4), &json!(false)));
    assert_eq!(ids(&all)[0], other.id, "newest first");
    let first = list("limit=3");
    assert_eq!((first["sandboxes"].as_array().unwrap().len(), &first["count"], &first["has_more"]), (3, &json!(4), &json!(true)));
    let second = list("limit=3&offset=3");
    assert_eq!((second["sandboxes"].as_array().unwrap().len(), &second["has_more"]), (1, &json!(false)));
    let mut both = ids(&first);
    both.extend(ids(&second));
    assert_eq!(both, ids(&all));
    assert_eq!(ids(&list("paused=true")), std::slice::from_ref(&mine[0].id));
    assert_eq!(ids(&list("status=paused")), std::slice::from_ref(&mine[0].id));
    assert_eq!(ids(&list("status=running")).len(), 3);
    assert_eq!(ids(&list("template_id=listed")), std::slice::from_ref(&other.id));
    assert_eq!(list("template_id=none")["sandboxes"], json!([]));
    assert_eq!(list("offset=100")["sandboxes"], json!([]));
}

#[test]
fn configuration_is_kept_whole_and_can_be_changed() {
    let server = shared();
    let service = json!({ "id": "web", "port": 8080, "ingress": { "public": true, "routes": [{ "id": "r", "path_prefix": "/", "resume": false }] } });
    let config = json!({ "services": [service], "network": { "mode": "block-all", "egress": { "allowedCidrs": ["203.0.113.0/24"] } }, "webhook": { "url": "http://127.0.0.1:1/hook", "secret": "hush" } });
    let sandbox = Sandbox::claim(&server.api(), config);
    let services = sandbox.api.get(&sandbox.path("/services")).ok(200);
    assert_eq!(services["services"][0]["id"], "web");
    assert!(services["services"][0]["public_url"].as_str().unwrap().contains(&format!("{}--p8080.", sandbox.id)));
    let network = sandbox.api.get(&sandbox.path("/network")).ok(200);
    assert_eq!((&network["mode"], &network["egress"]["allowedCidrs"]), (&json!("block-all"), &json!(["203.0.113.0/24"])));
    assert!(!sandbox.api.get(&sandbox.path("")).text().contains("hush"), "the webhook's secret is shown");
    let updated = sandbox.api.put(&sandbox.path(""), json!({ "config": { "ttl": 60, "auto_resume": false } })).ok(200);
    assert_eq!((&updated["ttl"], &updated["auto_resume"]), (&json!(60), &json!(false)));
    sandbox.api.put(&sandbox.path("/services"), json!({ "services": [{ "id": "web", "port": 8080, "ingress": { "public": true, "routes": [{ "id": "r", "path_prefix": "/", "resume": true }] } }] })).error(&[400]);
    assert_eq!(sandbox.api.put(&sandbox.path("/services"), json!({ "services": [] })).ok(200)["services"], json!([]));
    sandbox.api.put(&sandbox.path(""), json!({ "config": { "resources": { "memory": "300Mi" } } })).ok(200);
    assert_eq!(sandbox.get()["resources"]["memory"], "300Mi");
}

#[test]
fn environment_has_the_documented_precedence() {
    let server = shared();
    let template = Template::make(
        &server.api(),
        "env",
        json!({ "envVars": { "A": "template", "B": "template", "C": "template", "D": "template" }, "mainContainer": { "image": "host", "resources": { "memory": "256Mi" }, "env": [{ "name": "B", "value": "container" }, { "name": "C", "value": "container" }, { "name": "D", "value": "container" }] } }),
    );
    let sandbox =
        Sandbox::claim_from(&server.api(), &template.id, json!({ "env_vars": { "C": "sandbox", "D": "sandbox", " E ": "trimmed", "X=Y": "dropped" } }));
    let out = sandbox.run_with(&["sh", "-c", "echo $A $B $C $D $E; env | grep -c dropped"], json!({ "env_vars": { "D": "context" } }));
    assert_eq!(out.stdout, "template container sandbox context trimmed\n0\n");
    assert_eq!(sandbox.sh_ok("echo $D"), "sandbox\n", "an override leaked");
    let context = sandbox.run_with(&["true"], json!({ "env_vars": { "D": "context" } })).context;
    assert_eq!((&context["env_vars"]["C"], &context["env_vars"]["D"]), (&json!("sandbox"), &json!("context")));
}

#[test]
fn events_tell_the_story_with_reasons() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.post("/pause", json!({}));
    sandbox.post("/resume", json!({}));
    sandbox.api.put(&sandbox.path(""), json!({ "config": { "ttl": 500 } })).ok(200);
    let events = sandbox.events();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let mut at = 0;
    for kind in ["sandbox.ready", "sandbox.paused", "sandbox.resumed", "sandbox.updated"] {
        at += kinds[at..].iter().position(|found| *found == kind).unwrap_or_else(|| panic!("{kind} is missing or out of order: {kinds:?}"));
    }
    assert!(events.windows(2).all(|pair| pair[0]["seq"].as_i64() < pair[1]["seq"].as_i64()));
    assert!(events.iter().all(|event| event["message"].as_str().is_some_and(|text| !text.is_empty())));
    let paused = events.iter().find(|event| event["type"] == "sandbox.paused").unwrap();
    assert_eq!(paused["reason_code"], "user_request", "{paused}");
    let after = events[0]["seq"].as_i64().unwrap();
    let rest = sandbox.api.get(&sandbox.path(&format!("/events?after={after}&limit=1"))).ok(200);
    assert_eq!(rest["events"].as_array().unwrap().len(), 1);
    assert_eq!(rest["events"][0]["seq"], events[1]["seq"]);
    let observed = sandbox.api.get(&sandbox.path("/observability/events")).ok(200);
    assert_eq!(observed["events"][0]["schema_version"], 2);
}

#[test]
fn the_may_profile_has_its_own_words() {
    let server = shared();
    let may = server.api().may();
    let data = may.post(SANDBOXES, json!({ "template": "default" })).ok(201);
    let sandbox = Sandbox { api: server.api(), id: data["sandbox_id"].as_str().unwrap().to_owned() };
    let row = may.get(&sandbox.path("")).ok(200);
    assert_eq!((&row["expires_at"], &row["hard_expires_at"]), (&json!("0001-01-01T00:00:00Z"), &json!("0001-01-01T00:00:00Z")));
    sandbox.post("/pause", json!({}));
    let row = may.get(&sandbox.path("")).ok(200);
    assert_eq!((&row["status"], &row["paused"]), (&json!("running"), &json!(true)));
    let reply = may.delete(&sandbox.path(""));
    assert_eq!(reply.ok(200)["message"], "sandbox terminated successfully");
    may.get(&sandbox.path("")).error(&[404]);
}

#[test]
fn many_claims_at_once_get_sandboxes_of_their_own() {
    let server = shared();
    let api = server.api();
    let made: Vec<Sandbox> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12)
            .map(|i| {
                let api = &api;
                scope.spawn(move || {
                    let sandbox = Sandbox::claim(api, json!({ "env_vars": { "N": i.to_string() } }));
                    assert_eq!(sandbox.sh_ok("echo $N; echo $N > /workspace/n"), format!("{i}\n"));
                    sandbox
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a claim")).collect()
    });
    let runtimes: std::collections::BTreeSet<_> = made.iter().map(|sandbox| sandbox.get()["runtime_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(runtimes.len(), made.len(), "two claims took one runtime");
    for (i, sandbox) in made.iter().enumerate() {
        assert_eq!(sandbox.read("/workspace/n"), format!("{i}\n").as_bytes());
    }
}
