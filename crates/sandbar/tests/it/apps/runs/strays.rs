//! What commands of an app start belongs to them, also what takes a session of its own: it is ended with them, and counted.

use super::*;
use crate::it::apps::demo::service;

const STRAYS: &str = r#"start:
  command: "echo x >>starts.txt; if [ $(wc -l <starts.txt) = 1 ]; then setsid python3 -m http.server 3000 & until python3 -c 'import socket; socket.create_connection((str(\"127.0.0.1\"), 3000))'; do sleep 0.05; done; exit 1; fi; exec python3 -m http.server 3000"
  ports: [{port: 3000}]
  restart: on-failure
services:
  - name: daemons
    command: "setsid sleep 5801 & (setsid sh -c 'sleep 5801; sleep 5801' &); sleep 5801"
  - name: forks
    command: "setsid sleep 5841 & (setsid sh -c 'sleep 5841; sleep 5841' &)"
    restart: never
actions:
  - name: long
    command: "setsid sleep 5811 & (setsid sh -c 'sleep 5811; sleep 5811' &); echo begun; sleep 5811"
  - name: brief
    command: "setsid sleep 5821 & (setsid sh -c 'sleep 5821; sleep 5821' &); sleep 5821"
    timeoutSeconds: 1
  - name: leaves
    command: "setsid -f sleep 5831"
  - name: hidden
    command: "setsid -f python3 -c 'import time; x = bytearray(150 << 20); del x; n = sum(i * i for i in range(3000000)); open(str(\"worked\"), str(\"w\")).close(); time.sleep(60)'; until [ -e worked ]; do sleep 0.05; done"
"#;

/// How many processes of a sandbox have a command that begins so.
#[track_caller]
fn count(sandbox: &Sandbox, command: &str) -> usize {
    let all = sandbox.sh_ok("for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f 2>/dev/null; echo; done");
    all.lines().filter(|line| line.starts_with(command)).count()
}

#[test]
fn what_a_command_starts_ends_with_it_and_is_counted() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "strays", STRAYS, &[]);
    let api = &demo.api;
    demo.post("/start", json!({}));
    // What the first one left has gone, so that the second has its port.
    demo.until("the second start", |status| status["state"] == "ready" && status["start"]["restarts"] == 1);
    let sandbox = demo.sandbox();
    assert_eq!((sandbox.sh_ok("wc -l </workspace/starts.txt").as_str(), count(&sandbox, "python3 -m http.server")), ("2\n", 1));

    demo.post("/services/daemons/start", json!({}));
    until("the service's processes", || count(&sandbox, "sleep 5801") == 3);
    demo.post("/services/daemons/stop", json!({}));
    until("their end", || count(&sandbox, "sleep 5801") == 0);

    // One that ended by itself is stopped with what it left.
    demo.post("/services/forks/start", json!({}));
    demo.until("its end", |status| service(status, "forks")["state"] == "exited");
    until("what it left", || count(&sandbox, "sleep 5841") == 2);
    demo.post("/services/forks/stop", json!({}));
    until("the end of that", || count(&sandbox, "sleep 5841") == 0);

    let long = ask(&demo, json!({ "action": "long" }));
    until("the run's processes", || count(&sandbox, "sleep 5811") == 3);
    api.post(&of(&long, "/cancel"), json!({})).ok(202);
    assert_eq!((ended(api, &long)["status"].clone(), count(&sandbox, "sleep 5811")), (json!("cancelled"), 0));
    let brief = run(&demo, json!({ "action": "brief" }));
    assert_eq!((&brief["status"], count(&sandbox, "sleep 5821")), (&json!("timed_out"), 0));
    // Who ends by himself leaves what he left.
    let leaves = run(&demo, json!({ "action": "leaves" }));
    assert_eq!((&leaves["status"], count(&sandbox, "sleep 5831")), (&json!("succeeded"), 1));

    let hidden = run(&demo, json!({ "action": "hidden" }));
    let receipt = api.get(&of(&hidden, "/receipt")).ok(200)["receipt"]["receipt"].clone();
    let usage = &receipt["usage"];
    assert_eq!(usage["sources"]["memory"], "command", "{receipt}");
    let figure = |name: &str| usage[name].as_u64().unwrap_or_default();
    assert!(figure("memory_peak_bytes") >= 150 << 20 && figure("cpu_us") > 50_000, "{receipt}");
}
