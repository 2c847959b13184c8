//! Start, readiness, services, ends and stops, also of a server that is killed.

use std::{sync::Arc, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::demo::{Demo, WITHIN, preview, service};
use crate::it::{
    harness::{Sandbox, Server, shared},
    http::eventually,
    machine,
};

const WEB: (&str, &str) = ("web.py", include_str!("web.py"));
const GO: (&str, &str) = ("go", "");

/// The first example of the mission, with stand-ins for its commands.
const EXAMPLE: &str = r#"start:
  command: "python3 web.py"
  ports:
    - port: 3000
      label: web
      path: /
  timeoutSeconds: 900
actions:
  - name: generate-report
    command: "true"
    timeoutSeconds: 900
    artifactPaths:
      - artifacts/report.json
  - name: smoke-test
    command: "true"
    timeoutSeconds: 300
    requiresStart: true
services:
  - name: worker
    command: "echo working; exec sleep 1000"
"#;

fn server() -> Arc<Server> {
    shared()
}

#[test]
fn the_example_of_the_mission_is_ready_only_when_it_answers() {
    let server = server();
    let demo = Demo::deploy(&server.api(), "example", EXAMPLE, &[WEB]);
    let offline = demo.status();
    assert_eq!((&offline["desired"], &offline["state"], preview(&offline, 3000)), (&json!("offline"), &json!("none"), "closed"));
    assert_eq!(offline["sandbox"], Value::Null);

    let starting = demo.post("/start", json!({}));
    assert_eq!((&starting["desired"], &starting["state"], preview(&starting, 3000)), (&json!("online"), &json!("starting"), "opening"));
    eventually("its first line", WITHIN, || Some(()).filter(|()| demo.logs("start").contains("starting example start")).ok_or_else(|| demo.logs("start")));
    // It runs and does not listen: that is not ready, though the sandbox is of use.
    let running = demo.status();
    assert_eq!((&running["state"], preview(&running, 3000)), (&json!("starting"), "opening"));
    let sandbox = demo.sandbox();
    assert_eq!(sandbox.sh_ok("echo $SANDBAR_APP"), "example\n");
    sandbox.write("/workspace/go", b"");
    let ready = demo.until_state("ready");
    assert_eq!((preview(&ready, 3000), &ready["previews"][0]["label"], &ready["previews"][0]["access"]), ("ready", &json!("web"), &json!("private")));
    assert!(ready["start"]["pid"].is_number() && ready["start"]["ready_at"].is_string(), "{ready}");
    // Nobody asked for it.
    assert_eq!(service(&ready, "worker")["state"], "none");

    // A second start joins: the same process, and only one.
    let again = demo.start();
    assert_eq!((&again["state"], &again["start"]["pid"], &again["sandbox"]["id"]), (&json!("ready"), &ready["start"]["pid"], &ready["sandbox"]["id"]));
    assert_eq!(servers(&sandbox), 1);

    // The worker when somebody asks.
    let with = demo.post("/services/worker/start", json!({}));
    assert_ne!(service(&with, "worker")["state"], "none");
    demo.until("the worker", |status| service(status, "worker")["state"] == "ready");
    eventually("its line", WITHIN, || Some(()).filter(|()| demo.logs("worker") == "working\n").ok_or_else(|| demo.logs("worker")));
    let before = service(&demo.status(), "worker")["pid"].clone();
    let after = demo.post("/services/worker/restart", json!({}));
    assert_ne!(service(&demo.until("the worker again", |status| service(status, "worker")["state"] == "ready"), "worker")["pid"], before, "{after}");
    let stopped = demo.post("/services/worker/stop", json!({}));
    assert_eq!(stopped["stopped"]["reason"], "signal");
    assert_eq!(service(&demo.status(), "worker")["state"], "none");
    demo.try_post("/services/nope/start", json!({})).error(&[404]);
    demo.try_post("/start", json!({ "services": ["nope"] })).error(&[400]);

    // A graceful end, and the files are kept.
    let summary = demo.post("/stop", json!({}));
    assert_eq!((&summary["sandbox"], &summary["stopped"][0]["name"]), (&json!("paused"), &json!("start")), "{summary}");
    let off = demo.status();
    assert_eq!((&off["desired"], &off["state"], preview(&off, 3000)), (&json!("offline"), &json!("none"), "closed"));
    assert!(sandbox.is_paused());
    assert_eq!(sandbox.read("/workspace/bye"), b"bye");
    assert!(demo.logs("start").contains("bye"), "{}", demo.logs("start"));
    assert!(demo.status()["state"] == "none", "an access wakes the sandbox, not the app");

    let deleted = demo.post("/stop", json!({ "delete_sandbox": true }));
    assert_eq!(deleted["sandbox"], "deleted");
    assert_eq!(demo.status()["sandbox"], Value::Null);
    demo.try_post("/services/worker/start", json!({})).error(&[409]);
}

/// How many processes of the web server there are.
fn servers(sandbox: &Sandbox) -> u32 {
    let count = "import os\nprint(sum(b'web.py' in open(f'/proc/{p}/cmdline','rb').read().split(b'\\0') for p in os.listdir('/proc') if p.isdigit()))";
    sandbox.python(count).stdout.trim().parse().unwrap()
}

#[test]
fn ready_is_what_the_manifest_says() {
    let server = server();
    let api = server.api();
    let at = |readiness: &str| format!("start:\n  command: python3 web.py\n  ports: [{{port: 3000, path: /bad}}]\n{readiness}");

    // The path of the port answers 500, which is not ready; another path is.
    let by_path = Demo::deploy(&api, "by-path", &at("  readiness: {path: /health}\n"), &[WEB, GO]);
    by_path.post("/start", json!({}));
    let sandbox = by_path.sandbox();
    eventually("that it listens", WITHIN, || Some(()).filter(|()| by_path.logs("start").contains("listening")).ok_or_default());
    assert_eq!(by_path.status()["state"], "starting");
    sandbox.write("/workspace/health", b"404");
    by_path.until_state("ready");
    // It is looked at later, too.
    sandbox.write("/workspace/health", b"500");
    let ill = by_path.until_state("unhealthy");
    assert_eq!(preview(&ill, 3000), "ready");
    sandbox.write("/workspace/health", b"200");
    by_path.until_state("ready");

    let by_port = Demo::deploy(&api, "by-port", &at("  readiness: {port: 3000}\n"), &[WEB, GO]);
    assert_eq!(by_port.start()["state"], "ready");

    let by_command = Demo::deploy(&api, "by-command", &at("  readiness: {command: test -f ok, intervalMs: 50}\n"), &[WEB, GO]);
    by_command.post("/start", json!({}));
    eventually("that it listens", WITHIN, || Some(()).filter(|()| by_command.logs("start").contains("listening")).ok_or_default());
    assert_eq!(by_command.status()["state"], "starting");
    by_command.sandbox().write("/workspace/ok", b"");
    by_command.until_state("ready");

    // By default the path of the first port decides.
    let by_default = Demo::deploy(&api, "by-default", &at("  readiness: {timeoutSeconds: 2}\n"), &[WEB, GO]);
    let failed = by_default.start();
    assert_eq!((&failed["state"], &failed["start"]["last_end"]["reason"]), (&json!("failed"), &json!("start_not_ready")), "{failed}");
    let message = failed["start"]["last_end"]["message"].as_str().unwrap();
    assert!(message.contains("did not answer /bad on port 3000 with a status below 500 within 2 s"), "{message}");
    assert!(failed["start"]["last_end"]["log_tail"].as_array().unwrap().contains(&json!("listening")), "{failed}");
    assert_eq!(preview(&failed, 3000), "closed");
    // It was ended, and its sandbox is of use.
    assert_eq!(servers(&by_default.sandbox()), 0);
}

#[test]
fn ends_say_why() {
    let server = server();
    let api = server.api();
    let exited = Demo::deploy(&api, "exited", "start: {command: echo done}\n", &[]);
    exited.post("/start", json!({}));
    let status = exited.until_state("exited");
    assert_eq!((&status["start"]["last_end"]["exit_code"], &status["sandbox"]["awake"]), (&json!(0), &json!(true)));
    eventually("its line", WITHIN, || Some(()).filter(|()| exited.logs("start") == "done\n").ok_or_else(|| exited.logs("start")));

    let failing = "start:\n  command: for i in $(seq 1 150); do echo line $i; done; exit 3\n  ports: [{port: 3000}]\n";
    let failed = Demo::deploy(&api, "failing", failing, &[]);
    let status = failed.start();
    let last = &status["start"]["last_end"];
    assert_eq!((&status["state"], &last["reason"], &last["exit_code"]), (&json!("failed"), &json!("exit_code"), &json!(3)), "{status}");
    let tail = last["log_tail"].as_array().unwrap();
    assert_eq!((tail.len(), &tail[0], &tail[99]), (100, &json!("line 51"), &json!("line 150")));
    // The sandbox stays, and a start starts it again.
    assert_eq!(failed.sandbox().sh_ok("echo alive"), "alive\n");
    assert_eq!(failed.start()["state"], "failed");
    eventually("both logs", WITHIN, || Some(()).filter(|()| failed.logs("start").lines().count() == 300).ok_or_default());

    let nowhere = Demo::deploy(&api, "nowhere", "start: {command: echo hi, cwd: not/there}\n", &[]);
    nowhere.post("/start", json!({}));
    assert_eq!(nowhere.until_state("failed")["start"]["last_end"]["reason"], "not_started");

    // Without a start command the sandbox is of use, and a preview is closed until somebody listens.
    let none = Demo::deploy(&api, "no-start", "actions: [{name: a, command: 'true'}]\nstart: {ports: [{port: 3000}]}\n", &[WEB, GO]);
    let status = none.start();
    assert_eq!((&status["state"], &status["start"], preview(&status, 3000)), (&json!("none"), &Value::Null, "closed"));
    none.sandbox().spawn(&["python3", "-m", "http.server", "3000"]);
    none.until("somebody listens", |status| preview(status, 3000) == "ready");
}

const SERVICES: &str = "start: {command: exec sleep 1000}
services:
  - {name: crashing, command: 'echo try; exit 1', restart: {policy: on-failure, maxRestarts: 2, backoffMs: 100}, autoStart: true}
  - {name: leaving, command: 'echo once', autoStart: true}
  - {name: api, command: 'echo api; exec sleep 1000', dependsOn: [db]}
  - {name: db, command: 'exec sleep 1000', readiness: {command: test -f db-ready, intervalMs: 50}}
  - {name: orphan, command: 'exec sleep 1000', dependsOn: [broken]}
  - {name: broken, command: 'exit 4', restart: never}
launch: {services: [api]}
";

#[test]
fn services_are_started_in_order_and_again_with_pauses() {
    let server = server();
    let demo = Demo::deploy(&server.api(), "services", SERVICES, &[]);
    demo.start();
    let over = demo.until("the restarts", |status| service(status, "crashing")["state"] == "failed");
    assert_eq!(service(&over, "crashing")["restarts"], 2);
    eventually("three tries", WITHIN, || Some(()).filter(|()| demo.logs("crashing") == "try\ntry\ntry\n").ok_or_else(|| demo.logs("crashing")));
    demo.until("a service that leaves", |status| service(status, "leaving")["state"] == "exited");

    let waiting = demo.until("the database", |status| service(status, "api")["waits_for"] == "db");
    assert_eq!((&service(&waiting, "db")["state"], &service(&waiting, "api")["pid"]), (&json!("starting"), &Value::Null));
    demo.sandbox().write("/workspace/db-ready", b"");
    demo.until("what depends on it", |status| service(status, "api")["state"] == "ready");

    demo.post("/services/orphan/start", json!({}));
    let orphan = demo.until("what cannot be", |status| service(status, "orphan")["state"] == "failed");
    assert_eq!(service(&orphan, "orphan")["last_end"]["reason"], "dependency_failed");
    let message = service(&orphan, "orphan")["last_end"]["message"].as_str().unwrap();
    assert!(message.contains("\"broken\" exited with code 4"), "{message}");

    // Killed from inside, it comes back.
    let pid = service(&demo.status(), "db")["pid"].clone();
    demo.sandbox().sh_ok(&format!("kill -9 {pid}"));
    let back = demo.until("the database again", |status| service(status, "db")["state"] == "ready" && service(status, "db")["pid"] != pid);
    assert_eq!((&service(&back, "db")["restarts"], &service(&back, "db")["last_end"]["reason"]), (&json!(1), &json!("signal")));

    // Who depends on something is ended before it, the start command last.
    let summary = demo.post("/stop", json!({ "delete_sandbox": true }));
    let order: Vec<_> = summary["stopped"].as_array().unwrap().iter().map(|stopped| stopped["name"].as_str().unwrap()).collect();
    assert_eq!(order, ["api", "db", "start"], "{summary}");
}

#[test]
fn what_was_ready_is_checked_again_after_a_sleep() {
    let server = server();
    let demo = Demo::deploy(&server.api(), "sleeper", EXAMPLE, &[WEB, GO]);
    let ready = demo.start();
    assert_eq!(ready["state"], "ready", "{ready}");
    let sandbox = demo.sandbox();
    sandbox.post("/pause", json!({ "memory": true }));
    let asleep = demo.until("its sleep", |status| status["sandbox"]["awake"] == false);
    assert_eq!((&asleep["state"], preview(&asleep, 3000), &asleep["desired"]), (&json!("none"), "closed", &json!("online")));
    sandbox.post("/resume", json!({}));
    let again = demo.until_state("ready");
    assert_eq!(again["start"]["pid"], ready["start"]["pid"]);

    // Of one whose processes are gone they are started again, by whatever wakes it.
    sandbox.post("/pause", json!({}));
    eventually("its end", WITHIN, || {
        sandbox.api.post(&sandbox.path("/pause"), json!({}));
        let hibernated = demo.api.post(&sandbox.path("/hibernate"), json!({}));
        if hibernated.status == 200 { Ok(()) } else { Err(hibernated.text()) }
    });
    assert_eq!(demo.status()["state"], "none");
    assert_eq!(sandbox.sh_ok("echo awake"), "awake\n");
    let anew = demo.until_state("ready");
    assert!(anew["start"]["started_at"].as_str() > ready["start"]["started_at"].as_str());
}

#[test]
fn nothing_counts_as_ready_after_a_restore_before_it_has_passed_again() {
    let server = server();
    let manifest = "start: {command: python3 web.py, ports: [{port: 3000}], readiness: {path: /health, timeoutSeconds: 300}}\n";
    let demo = Demo::deploy(&server.api(), "restored", manifest, &[WEB, GO, ("health", "200")]);
    assert_eq!(demo.start()["state"], "ready");
    let sandbox = demo.sandbox();
    // It would not pass now, and sleeps before anybody has looked.
    sandbox.write("/workspace/health", b"503");
    sandbox.post("/pause", json!({ "memory": true }));
    sandbox.post("/resume", json!({}));
    let awake = demo.until("its processes", |status| status["sandbox"]["awake"] == true);
    assert_eq!((&awake["state"], preview(&awake, 3000)), (&json!("starting"), "opening"), "{awake}");
    sandbox.write("/workspace/health", b"200");
    let again = demo.until_state("ready");
    assert_eq!(preview(&again, 3000), "ready");
}

#[test]
fn a_new_version_is_online_after_a_start_unless_the_old_one_is_kept() {
    let server = server();
    let demo = Demo::deploy(&server.api(), "versions", "start: {command: echo one; exec sleep 1000}\n", &[]);
    // However many start it, there is one sandbox and one process.
    let all: Vec<Value> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| demo.start())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let first = &all[0];
    for other in &all {
        assert_eq!((&other["sandbox"]["id"], &other["start"]["pid"], &other["state"]), (&first["sandbox"]["id"], &first["start"]["pid"], &json!("ready")));
    }
    eventually("one line", WITHIN, || Some(()).filter(|()| demo.logs("start") == "one\n").ok_or_else(|| demo.logs("start")));
    assert_eq!((&first["online_version"], &first["outdated"]), (&json!(1), &json!(false)));
    demo.redeploy("start: {command: echo two; exec sleep 1000}\n", &[]);
    let outdated = demo.status();
    assert_eq!((&outdated["online_version"], &outdated["live_version"], &outdated["outdated"]), (&json!(1), &json!(2), &json!(true)));
    let kept = demo.post("/start", json!({ "keep": true, "wait": true }));
    assert_eq!((&kept["online_version"], &kept["start"]["pid"]), (&json!(1), &first["start"]["pid"]));
    let replaced = demo.start();
    assert_eq!((&replaced["online_version"], &replaced["outdated"], &replaced["state"]), (&json!(2), &json!(false), &json!("ready")), "{replaced}");
    assert_ne!(replaced["sandbox"]["id"], first["sandbox"]["id"]);
    eventually("its line", WITHIN, || Some(()).filter(|()| demo.logs("start") == "two\n").ok_or_else(|| demo.logs("start")));
}

#[test]
fn a_killed_server_is_followed_by_one_that_goes_on() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let demo = Demo::deploy(&server.api(), "survivor", EXAMPLE, &[WEB, GO]);
    let failing = Demo::deploy(&server.api(), "over", "start: {command: echo bad; exit 3}\n", &[]);
    demo.post("/start", json!({ "services": "all", "wait": true }));
    let ready = demo.until("all of it", |status| status["state"] == "ready" && service(status, "worker")["state"] == "ready");
    failing.start();
    failing.until_state("failed");

    server.kill();
    server.up();
    let again = demo.until_state("ready");
    assert_eq!(again["start"]["pid"], ready["start"]["pid"]);
    let worker = demo.until("the worker", |status| service(status, "worker")["state"] == "ready");
    assert_eq!(service(&worker, "worker")["pid"], service(&ready, "worker")["pid"]);
    assert!(demo.logs("start").contains("listening"));
    // What was over is so still, with its reason.
    let over = failing.status();
    assert_eq!((&over["state"], &over["start"]["last_end"]["exit_code"]), (&json!("failed"), &json!(3)), "{over}");

    // The end of a process that no server saw.
    let processes = machine::processes(&server.instance);
    let web = processes
        .iter()
        .find(|process| process.inner_pid as u64 == ready["start"]["pid"].as_u64().unwrap() && process.command.contains("web.py"))
        .expect("it runs");
    let pid = Pid::from_raw(i32::try_from(web.pid).unwrap()).unwrap();
    server.kill();
    kill_process(pid, Signal::KILL).unwrap();
    server.up();
    let ended = demo.until_state("failed");
    assert_eq!(ended["start"]["last_end"]["reason"], "signal");
    assert_eq!(demo.start()["state"], "ready");

    // A sandbox that dies is started again, since nobody wanted it to.
    let init = processes.iter().find(|process| process.inner_pid == 1 && process.runtime_id == web.runtime_id).expect("a pid 1");
    kill_process(Pid::from_raw(i32::try_from(init.pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    demo.until("another process", |status| status["state"] == "ready" && status["start"]["started_at"] != again["start"]["started_at"]);

    // A stop that a server did not come to the end of.
    let stopper = demo.api.clone();
    let path = demo.path("/stop");
    let asked = std::thread::spawn(move || stopper.try_json("POST", &path, &json!({})));
    eventually("the stop", WITHIN, || Some(()).filter(|()| demo.status()["desired"] == "offline").ok_or_default());
    server.kill();
    let _ = asked.join();
    server.up();
    let sandbox = demo.sandbox();
    eventually("its end", Duration::from_secs(30), || Some(()).filter(|()| sandbox.is_paused()).ok_or_else(|| demo.status().to_string()));
    assert_eq!(demo.status()["desired"], "offline");
}

/// An answer that is not there yet.
trait OkOrDefault<T> {
    fn ok_or_default(self) -> Result<T, String>;
}

impl<T> OkOrDefault<T> for Option<T> {
    fn ok_or_default(self) -> Result<T, String> {
        self.ok_or_else(|| "not yet".to_owned())
    }
}
