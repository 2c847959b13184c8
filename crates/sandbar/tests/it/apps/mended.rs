//! What is wanted of an app is so in the end, also when something is refused or taken away in between.

use serde_json::{Value, json};

use super::{
    count,
    demo::{Demo, WITHIN, preview, service},
    runs::{ask, ended, log_of, now, run, until_phase},
    server,
};
use crate::it::{
    harness::{Sandbox, Server, shared},
    http::{Api, eventually},
};

const WEB: (&str, &str) = ("web.py", include_str!("web.py"));
const GO: (&str, &str) = ("go", "");

/// The database refuses what a trigger names, until this is dropped.
pub struct Refusal(rusqlite::Connection);

impl Refusal {
    pub fn of(server: &Server, what: &str) -> Self {
        let db = rusqlite::Connection::open(server.data_dir().join("sandbar.db")).unwrap();
        db.busy_timeout(WITHIN).unwrap();
        db.execute_batch(&format!("CREATE TRIGGER refuse BEFORE {what} BEGIN SELECT RAISE(ABORT, 'refused by a test'); END")).unwrap();
        Self(db)
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.0.execute_batch("DROP TRIGGER refuse").unwrap();
    }
}

/// What a sandbox's own preview of a port answers.
fn at_port(sandbox: &Sandbox, port: u16) -> impl Fn() -> (u16, Value) {
    let made = sandbox.api.post(&sandbox.path("/previews"), json!({ "port": port })).ok(201);
    let public: Api = sandbox.api.at_url(&made["url"]);
    let url = made["url"].as_str().unwrap();
    let reply = public.get(&url[url.find("/.sandbox0").unwrap()..]);
    assert_eq!(reply.status, 303, "{}", reply.text());
    let cookie = reply.headers.iter().find(|(name, _)| name == "set-cookie").unwrap().1.split(';').next().unwrap().to_owned();
    move || {
        let reply = public.try_send("GET", "/", &[("cookie", &cookie)], b"").unwrap();
        let code = serde_json::from_slice::<Value>(&reply.body).map_or(Value::Null, |body| body["error"]["code"].clone());
        (reply.status, code)
    }
}

#[test]
fn an_app_whose_sandbox_was_deleted_is_online_again_with_its_next_run() {
    let server = shared();
    let manifest = "start: {command: python3 web.py, ports: [{port: 3000}]}\nactions: [{name: look, command: 'true'}]\n";
    let demo = Demo::deploy(&server.api(), "deleted-under", manifest, &[WEB, GO]);
    assert_eq!(demo.start()["state"], "ready");
    let former = demo.sandbox();
    demo.api.delete(&former.path("")).ok(202);
    let run = run(&demo, json!({ "action": "look" }));
    assert_eq!(run["status"], "succeeded", "{run}");
    let again = demo.until_state("ready");
    assert_eq!((preview(&again, 3000), &again["sandbox"]["awake"]), ("ready", &json!(true)), "{again}");
    assert_ne!(again["sandbox"]["id"], former.id.as_str());
    let sandbox = demo.sandbox();
    assert_eq!(at_port(&sandbox, 4100)(), (503, json!("preview_closed")));
}

#[test]
fn no_port_is_open_of_what_was_woken_for_a_run() {
    let server = shared();
    let manifest = "start: {command: python3 web.py, ports: [{port: 3000}]}\nactions: [{name: serves, command: 'exec python3 -u -m http.server 3000'}]\n";
    let demo = Demo::deploy(&server.api(), "never-started", manifest, &[WEB, GO]);
    for place in ["app", "fresh"] {
        let run = ask(&demo, json!({ "action": "serves", "sandbox": place }));
        until_phase(&demo.api, &run, "commanding");
        eventually("that it listens", WITHIN, || {
            Some(()).filter(|()| log_of_so_far(&demo.api, &run).contains("Serving")).ok_or_else(|| log_of_so_far(&demo.api, &run))
        });
        let sandbox = super::runs::sandbox_of(&demo.api, &now(&demo.api, &run));
        for port in [3000, 4100] {
            assert_eq!(at_port(&sandbox, port)(), (503, json!("preview_closed")), "{place} {port}");
        }
        demo.api.post(&super::runs::of(&run, "/cancel"), json!({})).ok(202);
        ended(&demo.api, &run);
    }
}

fn log_of_so_far(api: &Api, run: &Value) -> String {
    api.get(&super::runs::of(run, "/logs")).ok(200)["output"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_started_anew_has_what_the_app_is_given_then() {
    let server = shared();
    let manifest = r#"inputs: {env: [{name: TOKEN, required: true}]}
start: {command: '[ "$TOKEN" = right-value ] || exit 3; exec sleep 1000', restart: never}
services:
  - {name: again, command: '[ "$TOKEN" = right-value ] || exit 3; exec sleep 1000', restart: {policy: always, backoffMs: 500, backoffMaxMs: 500}}
  - {name: tells, command: 'case "$TOKEN" in right-*) echo right;; last-*) echo last;; *) echo wrong;; esac; exec sleep 1000'}
"#;
    let demo = Demo::deploy(&server.api(), "given-anew", manifest, &[]);
    let give = |value: &str| drop(demo.api.put(&demo.path("/env"), json!({ "TOKEN": value })).ok(200));
    give("wrong-value");
    demo.post("/start", json!({ "services": "all", "wait": true }));
    let failed = demo.until_state("failed");
    assert_eq!(failed["start"]["last_end"]["exit_code"], 3);
    demo.until("wrong", |_| demo.logs("tells") == "wrong\n");
    give("right-value");
    // By its policy, in whatever state the app is.
    demo.until("what is started by its policy", |status| service(status, "again")["state"] == "ready");
    // By whoever starts it.
    assert_eq!(demo.start()["state"], "ready");
    demo.post("/services/tells/restart", json!({}));
    demo.until("right", |_| demo.logs("tells") == "wrong\nright\n");
    give("last-value");
    demo.post("/services/tells/restart", json!({}));
    demo.until("last", |_| demo.logs("tells") == "wrong\nright\nlast\n");
    // What runs keeps what it was started with.
    let status = demo.status();
    assert_eq!((&status["state"], service(&status, "again")["state"].as_str()), (&json!("ready"), Some("ready")));
}

#[test]
fn a_value_that_was_changed_is_hidden_after_restarts_and_stops() {
    let mut server = server();
    let manifest = r#"inputs: {env: [{name: TOKEN}]}
start: {command: 'while [ ! -e go ]; do sleep 0.05; done; echo "is $TOKEN."; exec sleep 1000'}
actions: [{name: waits, command: 'while [ ! -e go ]; do sleep 0.05; done; echo "was $TOKEN."'}]
"#;
    let demo = Demo::deploy(&server.api(), "rotated-twice", manifest, &[]);
    let give = |value: Value| drop(demo.api.put(&demo.path("/env"), json!({ "TOKEN": value })).ok(200));
    give(json!("the-first-value"));
    demo.start();
    let run = ask(&demo, json!({ "action": "waits" }));
    until_phase(&demo.api, &run, "commanding");
    give(json!("the-second-value"));
    give(Value::Null);
    give(json!("the-third-value"));
    server.kill();
    server.up();
    let sandbox = demo.sandbox();
    demo.until("what runs", |status| status["start"]["pid"].is_number());
    sandbox.write("/workspace/go", b"");
    let text = eventually("its line", WITHIN, || Some(demo.logs("start")).filter(|text| text.contains("is ")).ok_or_else(String::new));
    assert_eq!(text, "is [secret TOKEN].\n");
    assert_eq!(ended(&demo.api, &run)["status"], "succeeded");
    assert_eq!(log_of(&demo.api, &run), "was [secret TOKEN].\n");
    let clean = |what: &str| {
        let shown = [demo.logs("start"), sandbox.api.get(&sandbox.path("/logs")).text(), demo.status().to_string()].concat();
        assert!(!shown.contains("the-first-value") && shown.contains("[secret TOKEN]"), "{what}: {shown}");
    };
    assert!(!sandbox.api.get(&sandbox.path("/contexts")).text().contains("the-first-value"));
    clean("running");
    demo.post("/stop", json!({}));
    clean("stopped");
    server.kill();
    server.up();
    clean("of a server that never saw it run");
}

#[test]
fn a_start_whose_new_sandbox_is_refused_is_gone_on_with() {
    let server = server();
    let api = server.api();
    let start = |text: &str| format!("start: {{command: 'echo {text}; exec sleep 1000'}}\n");
    let demo = Demo::deploy(&api, "refused", &start("one"), &[]);
    demo.start();
    demo.redeploy(&start("two"), &[]);
    let refusal = Refusal::of(&server, "INSERT ON sandbox");
    demo.try_post("/start", json!({})).error(&[500, 503]);
    // Asked again and again it is refused as often, and tried by one.
    demo.try_post("/start", json!({})).error(&[500, 503]);
    assert_eq!(demo.status()["desired"], "online");
    drop(refusal);
    let again = demo.until("the new version", |status| status["state"] == "ready" && status["online_version"] == 2);
    assert_eq!(again["outdated"], false);

    // One that was offline stays so.
    demo.post("/stop", json!({ "delete_sandbox": true }));
    let refusal = Refusal::of(&server, "INSERT ON sandbox");
    demo.try_post("/start", json!({})).error(&[500, 503]);
    assert_eq!(demo.status()["desired"], "offline");
    drop(refusal);
    assert_eq!(demo.start()["state"], "ready");
}

#[test]
fn a_new_version_that_cannot_be_takes_nothing_from_the_one_that_is() {
    let server = server();
    let api = server.api();
    let demo = Demo::deploy(&api, "kept-up", "start: {command: 'echo one; exec sleep 1000'}\n", &[]);
    let before = demo.start();
    let pid = before["start"]["pid"].clone();
    demo.redeploy("start: {command: 'echo two; exec sleep 1000'}\nvolumes: [{name: data, mountPath: /data}]\n", &[]);
    let refusal = Refusal::of(&server, "INSERT ON app_volume");
    demo.try_post("/start", json!({})).error(&[500, 503]);
    let kept = demo.status();
    assert_eq!((&kept["state"], &kept["online_version"], &kept["outdated"]), (&json!("ready"), &json!(1), &json!(true)), "{kept}");
    assert_eq!((&kept["start"]["pid"], &kept["sandbox"]["id"]), (&pid, &before["sandbox"]["id"]), "{kept}");
    assert_eq!(demo.logs("start"), "one\n");
    drop(refusal);
    let again = demo.start();
    assert_eq!((&again["state"], &again["online_version"]), (&json!("ready"), &json!(2)), "{again}");
    assert_ne!(again["sandbox"]["id"], before["sandbox"]["id"]);
    demo.api.delete(&demo.path("?volumes=true")).ok(200);
}

#[test]
fn a_stop_that_is_refused_is_gone_on_with() {
    let server = server();
    let demo = Demo::deploy(&server.api(), "goes-on", "start: {command: 'echo one; exec sleep 1000'}\n", &[]);
    demo.start();
    let sandbox = demo.sandbox();
    let refusal = Refusal::of(&server, "UPDATE ON sandbox WHEN NEW.desired = 'paused'");
    demo.try_post("/stop", json!({})).error(&[500, 503]);
    assert!(!sandbox.is_paused());
    drop(refusal);
    eventually("its end", WITHIN, || Some(()).filter(|()| sandbox.is_paused()).ok_or_else(|| demo.status().to_string()));
    eventually("the end of the stop", WITHIN, || match count(&server, "app WHERE json_extract(launch, '$.stopping') IS NOT NULL") {
        0 => Ok(()),
        left => Err(left.to_string()),
    });
    assert_eq!(demo.logs("start"), "one\n", "nothing was started for it");
    assert_eq!(demo.start()["state"], "ready");
}

#[test]
fn what_cannot_be_ended_stays_closed_and_keeps_its_volumes() {
    let server = server();
    let manifest = "start: {command: python3 web.py, ports: [{port: 3000}]}\nvolumes: [{name: data, mountPath: /data, deleteOnSandboxDelete: true}]\n";
    let demo = Demo::deploy(&server.api(), "stays", manifest, &[WEB, GO]);
    assert_eq!(demo.start()["state"], "ready");
    let sandbox = demo.sandbox();
    let other = at_port(&sandbox, 4100);
    let refusal = Refusal::of(&server, "UPDATE ON sandbox WHEN NEW.desired = 'deleted'");
    demo.api.delete(&sandbox.path("")).error(&[500, 503]);
    assert_eq!(count(&server, "app_volume WHERE state = 'kept'"), 1, "nothing of it goes before it does");
    demo.post("/stop", json!({ "delete_sandbox": true }));
    let log = |text: &str| server.log().contains(text);
    eventually("a try", WITHIN, || Some(()).filter(|()| log("a sandbox of an app did not end")).ok_or_else(String::new));
    assert_eq!(other(), (503, json!("preview_closed")));
    drop(refusal);
    eventually("its end", WITHIN, || match count(&server, "app_sandbox") + count(&server, "sandbox") + count(&server, "app_volume") {
        0 => Ok(()),
        left => Err(left.to_string()),
    });

    // Deleted by the sandboxes' API it takes them with it.
    demo.start();
    demo.api.delete(&demo.sandbox().path("")).ok(202);
    eventually("the end of its volume", WITHIN, || match count(&server, "app_volume") {
        0 => Ok(()),
        left => Err(left.to_string()),
    });
}
