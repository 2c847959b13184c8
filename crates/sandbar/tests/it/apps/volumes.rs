//! Volumes of apps: shared by its sandboxes, kept when these go, and of no other app.

use serde_json::{Value, json};

use super::{
    demo::{Demo, WITHIN},
    runs::{ask, ended, log_of, now, run, sandbar},
};
use crate::it::{
    harness::{Rng, Sandbox, Server, shared},
    http::{Api, eventually},
    machine,
    registry::Tar,
};

const VOLUMES: &str = "/api/v1/sandboxvolumes";

/// Actions that write and read, and a start command that does nothing.
fn manifest(volumes: &str) -> String {
    format!(
        r#"start:
  command: sleep 1000
actions:
  - name: add
    command: "echo $LINE >>/data/lines.txt"
  - name: show
    command: "cat /data/lines.txt"
  - name: fill
    command: "while true; do head -c 64k /dev/zero >>/data/big; sleep 0.01; done"
volumes:
{volumes}"#
    )
}

const DATA: &str = "  - {name: data, mountPath: /data, storageGb: 0.01}\n";

fn deploy(api: &Api, name: &str, volumes: &str) -> Demo {
    Demo::deploy(api, name, &manifest(volumes), &[])
}

#[track_caller]
fn add(demo: &Demo, line: &str, sandbox: &str) {
    let run = run(demo, json!({ "action": "add", "sandbox": sandbox, "env": { "LINE": line } }));
    assert_eq!(run["status"], "succeeded", "{run}\n{}", log_of(&demo.api, &run));
}

#[track_caller]
fn lines(demo: &Demo, sandbox: &str) -> String {
    let run = run(demo, json!({ "action": "show", "sandbox": sandbox }));
    log_of(&demo.api, &run)
}

#[track_caller]
fn volumes(demo: &Demo) -> Vec<Value> {
    demo.api.get(&demo.path("/volumes")).ok(200)["volumes"].as_array().unwrap().clone()
}

#[track_caller]
fn until_gone(api: &Api, volume: &Value) {
    eventually("the end of a volume", WITHIN, || match api.get(&format!("{VOLUMES}/{}", volume.as_str().unwrap())).status {
        404 => Ok(()),
        status => Err(status.to_string()),
    });
}

#[track_caller]
fn delete(demo: &Demo, query: &str) -> Value {
    demo.api.delete(&demo.path(query)).ok(200)
}

#[test]
fn a_volume_is_shared_by_the_sandboxes_of_its_app_and_stays_when_they_go() {
    let server = shared();
    let api = server.api();
    let demo = deploy(&api, "vol-kept", DATA);
    let before = volumes(&demo);
    assert_eq!((&before[0]["name"], &before[0]["mount_path"], &before[0]["id"]), (&json!("data"), &json!("/data"), &Value::Null), "nobody needed it yet");
    // A run before the app is ever online, then the app, then both at once.
    add(&demo, "one", "fresh");
    demo.start();
    let sandbox = demo.sandbox();
    assert_eq!(sandbox.sh_ok("cat /data/lines.txt; echo two >>/data/lines.txt; stat -c %u:%g /data"), "one\n0:0\n");
    add(&demo, "three", "fresh");
    add(&demo, "four", "app");
    assert_eq!(sandbox.sh_ok("cat /data/lines.txt"), "one\ntwo\nthree\nfour\n", "runs beside it write into the same");
    let there = volumes(&demo)[0].clone();
    assert_eq!((&there["mounted"], &there["size_limit_bytes"], &there["delete_on_sandbox_delete"]), (&json!(true), &json!(10_737_419), &json!(false)));
    assert!(there["used_bytes"].as_u64().unwrap() > 0, "{there}");
    assert_eq!(demo.status()["volumes"][0]["id"], there["id"]);
    let listed = api.get(&format!("{VOLUMES}/{}", there["id"].as_str().unwrap())).ok(200);
    assert_eq!((&listed["app"], &listed["name"], &listed["access_mode"]), (&json!("vol-kept"), &json!("vol-kept/data"), &json!("RWX")));
    api.delete(&format!("{VOLUMES}/{}", there["id"].as_str().unwrap())).error(&[409]);

    // Stop and start, another version with a larger limit, another sandbox.
    demo.post("/stop", json!({}));
    demo.start();
    assert_eq!(demo.sandbox().sh_ok("tail -1 /data/lines.txt"), "four\n");
    demo.redeploy(&manifest("  - {name: data, mountPath: /data, storageGb: 0.02}\n  - {name: more, mountPath: /workspace/more}\n"), &[]);
    demo.start();
    assert_eq!(demo.sandbox().sh_ok("tail -1 /data/lines.txt; echo five >>/data/lines.txt; ls more | wc -l"), "four\n0\n");
    let (kept, more) = (volumes(&demo)[0].clone(), volumes(&demo)[1].clone());
    assert_eq!((&kept["id"], &kept["size_limit_bytes"]), (&there["id"], &json!(21_474_837)));
    demo.post("/stop", json!({ "delete_sandbox": true }));
    assert_eq!(lines(&demo, "fresh"), "one\ntwo\nthree\nfour\nfive\n");

    // One that no version declares any more is left, and said to be.
    demo.redeploy(&manifest(DATA), &[]);
    let left = volumes(&demo)[1].clone();
    assert_eq!((&left["id"], &left["mount_path"]), (&more["id"], &Value::Null), "{left}");
    let shown = sandbar(&api, &["app", "volumes", "vol-kept"]);
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.contains(there["id"].as_str().unwrap()) && text.contains("/data"), "{text}");
    let shown = sandbar(&api, &["app", "status", "vol-kept"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(there["id"].as_str().unwrap()), "{shown:?}");

    // The app goes, and its volumes stay until somebody says otherwise; by its name it has them again.
    let gone = delete(&demo, "");
    let mut names: Vec<_> = gone["volumes_left"].as_array().unwrap().iter().map(|left| left["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["data", "more"], "{gone}");
    let demo = deploy(&api, "vol-kept", DATA);
    assert_eq!(lines(&demo, "app"), "one\ntwo\nthree\nfour\nfive\n");
    delete(&demo, "?volumes=true");
    until_gone(&api, &there["id"]);
    until_gone(&api, &more["id"]);
}

#[test]
fn two_apps_have_nothing_in_common_though_their_volumes_are_called_the_same() {
    let server = shared();
    let api = server.api();
    let (one, other) = (deploy(&api, "vol-one", DATA), deploy(&api, "vol-other", DATA));
    add(&one, "mine", "fresh");
    add(&other, "its own", "app");
    assert_eq!((lines(&one, "app").as_str(), lines(&other, "fresh").as_str()), ("mine\n", "its own\n"));
    assert_ne!(volumes(&one)[0]["id"], volumes(&other)[0]["id"]);
    delete(&one, "?volumes=true");
    assert_eq!(lines(&other, "app"), "its own\n");
    delete(&other, "?volumes=true");
}

#[test]
fn a_volume_goes_with_the_sandbox_where_the_manifest_says_so() {
    let server = shared();
    let api = server.api();
    let demo = deploy(&api, "vol-with", "  - {name: data, mountPath: /data, deleteOnSandboxDelete: true}\n");
    demo.start();
    add(&demo, "one", "app");
    let first = volumes(&demo)[0]["id"].clone();
    // Pauses and new versions are no end of it.
    demo.post("/stop", json!({}));
    demo.redeploy(&manifest("  - {name: data, mountPath: /data, deleteOnSandboxDelete: true, storageGb: 1}\n"), &[]);
    demo.start();
    assert_eq!(lines(&demo, "app"), "one\n");
    demo.post("/stop", json!({ "delete_sandbox": true }));
    until_gone(&api, &first);
    demo.start();
    add(&demo, "two", "app");
    assert_eq!(lines(&demo, "fresh"), "two\n");
    // Deleted by the sandboxes' API it is deleted all the same.
    let second = volumes(&demo)[0]["id"].clone();
    assert_ne!(first, second);
    api.delete(&demo.sandbox().path("")).ok(202);
    until_gone(&api, &second);
    add(&demo, "three", "app");
    let third = volumes(&demo)[0]["id"].clone();
    assert_eq!(delete(&demo, "")["volumes_left"], json!([]));
    until_gone(&api, &third);
}

#[test]
fn a_full_volume_is_told_by_whatever_was_ended_for_it() {
    let server = shared();
    let api = server.api();
    let demo = deploy(&api, "vol-full", DATA);
    let filled = run(&demo, json!({ "action": "fill", "sandbox": "fresh", "timeout_seconds": 60 }));
    assert_eq!((&filled["status"], &filled["failure_reason"]), (&json!("failed"), &json!("disk_full")), "{filled}");
    let message = filled["message"].as_str().unwrap();
    assert!(message.contains("volume \"data\" is full") && message.contains("storageGb"), "{message}");
    // It can be looked into, and room be made.
    add(&demo, "x", "app");
    demo.start();
    assert_eq!(demo.sandbox().sh_ok("rm /data/big; cat /data/lines.txt"), "x\n");
    // What is kept up says it, too.
    demo.redeploy(&manifest(DATA).replace("sleep 1000", "while true; do head -c 64k /dev/zero >>/data/big; sleep 0.01; done"), &[]);
    demo.post("/start", json!({}));
    let failed = demo.until_state("failed");
    assert!(failed["start"]["last_end"]["message"].as_str().unwrap().contains("volume \"data\" is full"), "{failed}");
    delete(&demo, "?volumes=true");
}

#[test]
fn what_is_tried_out_does_nothing_to_what_is_kept() {
    let server = shared();
    let api = server.api();
    let demo = deploy(&api, "vol-tried", DATA);
    add(&demo, "kept", "app");
    // Setup and validation have empty ones.
    let trying = format!(
        "{}setup:\n  commands: ['ls /data | wc -l >seen.txt; echo bad >/data/lines.txt']\nvalidation:\n  commands: ['ls /data | wc -l; rm -rf /data/*']\n",
        manifest(DATA)
    );
    demo.redeploy(&trying, &[]);
    demo.start();
    let sandbox = demo.sandbox();
    assert_eq!(sandbox.sh_ok("cat seen.txt /data/lines.txt"), "0\nkept\n");
    // A fork of the sandbox has a copy.
    let fork = api.post(&sandbox.path("/fork"), json!({})).ok(201)["sandbox"]["id"].as_str().unwrap().to_owned();
    let fork = Sandbox { api: api.clone(), id: fork };
    assert_eq!(fork.sh_ok("cat /data/lines.txt; echo fork >/data/lines.txt"), "kept\n");
    let copy = fork.get()["mounts"][0]["sandboxvolume_id"].as_str().unwrap().to_owned();
    drop(fork);
    api.delete(&format!("{VOLUMES}/{copy}?force=true")).ok(200);
    // What is archived of a run is its sandbox's files, without those of volumes.
    let archived = run(&demo, json!({ "action": "add", "sandbox": "fresh", "cleanup": "archive", "env": { "LINE": "more" } }));
    let snapshot = eventually("the archive", WITHIN, || now(&api, &archived)["snapshot_id"].as_str().map(str::to_owned).ok_or_else(|| archived.to_string()));
    let alone = api.post("/api/v1/sandboxes", json!({ "template": "default", "snapshot_id": snapshot })).ok(201)["sandbox_id"].as_str().unwrap().to_owned();
    let alone = Sandbox { api: api.clone(), id: alone };
    assert_eq!(alone.sh_ok("ls -A /data | wc -l"), "0\n");
    assert_eq!(lines(&demo, "app"), "kept\nmore\n");
    delete(&demo, "?volumes=true");
}

#[test]
fn links_lead_no_volume_elsewhere() {
    let server = shared();
    let api = server.api();
    let at = "  - {name: data, mountPath: /workspace/a/data}\n";
    // In the source: a folder of the way is a link, if only to another one of it.
    let yaml = format!("schemaVersion: 1\n{}", manifest(at));
    let tar = Tar::default().file("b/x", b"").entry(b'2', "a", "b", 0o777, b"").file("sandbar.yaml", yaml.as_bytes()).done();
    let version = api.send("POST", "/api/v1/apps/vol-links/versions", &tar).ok(202)["version"].clone();
    let demo = Demo { api: api.clone(), name: "vol-links".to_owned() };
    eventually("the build", WITHIN, || {
        let found = api.get(&demo.path(&format!("/versions/{version}"))).ok(200);
        if found["state"] == "ready" { Ok(()) } else { Err(found.to_string()) }
    });
    let refused = demo.try_post("/start", json!({})).error(&[409]);
    assert_eq!(refused["message"], "nothing can be mounted at /workspace/a/data: a link or a file stands where a folder has to be");
    let failed = run(&demo, json!({ "action": "add", "sandbox": "fresh" }));
    assert_eq!((&failed["status"], &failed["failure_reason"]), (&json!("failed"), &json!("sandbox_failed")), "{failed}");
    // By the setup: it leaves a link in place of the folder.
    demo.redeploy(&format!("{}setup:\n  commands: ['mv a b; ln -s /etc a']\n", manifest(at)), &[]);
    let refused = demo.try_post("/start", json!({})).error(&[409]);
    assert!(refused["message"].as_str().unwrap().contains("/workspace/a/data"), "{refused}");
    // From inside: while it runs the way is moved away, and a link put in its place. The next launch does not follow it.
    demo.redeploy(&manifest(at), &[]);
    demo.start();
    let sandbox = demo.sandbox();
    sandbox.sh_ok("echo in >/workspace/a/data/f; mv /workspace/a /workspace/b; ln -s /root /workspace/a; cat /workspace/b/data/f");
    sandbox.post("/pause", json!({}));
    sandbox.post("/hibernate", json!({}));
    let resumed = api.post(&sandbox.path("/resume"), json!({}));
    assert!(resumed.status >= 400 && resumed.text().contains("attach the bind mount"), "{}", resumed.text());
    // Its files are there for the next sandbox.
    demo.post("/stop", json!({ "delete_sandbox": true }));
    demo.start();
    assert_eq!(demo.sandbox().sh_ok("cat /workspace/a/data/f; ls /root/data 2>/dev/null | wc -l"), "in\n0\n");
    delete(&demo, "?volumes=true");
}

#[test]
fn a_volume_is_refused_where_the_template_has_something_else() {
    let server = shared();
    let api = server.api();
    let spec = json!({ "mainContainer": { "image": "host", "resources": {} }, "ephemeralMounts": [{ "mountPath": "/scratch", "sizeLimit": "1Mi" }] });
    api.post("/api/v1/templates", json!({ "template_id": "vol-template", "spec": spec })).ok(201);
    let yaml = "schemaVersion: 1\nruntime: {base: vol-template}\nvolumes: [{name: a, mountPath: /data}, {name: b, mountPath: /scratch/b}]\n";
    let tar = Tar::default().file("sandbar.yaml", yaml.as_bytes()).done();
    let refused = api.send("POST", "/api/v1/apps/vol-refused/versions", &tar).error(&[422]);
    let diagnostic = &refused["details"]["diagnostics"][0];
    assert_eq!((&diagnostic["path"], &diagnostic["code"]), (&json!("$.volumes[1].mountPath"), &json!("unsafe_path")), "{refused}");
    assert_eq!((&diagnostic["line"], &diagnostic["column"]), (&json!(3), &json!(61)), "{refused}");
    api.delete("/api/v1/templates/vol-template").ok(200);
}

const ROUNDS: usize = 5;

#[test]
fn kills_lose_nothing_of_a_volume_and_leave_none_behind() {
    let (mut rng, seed) = Rng::seeded();
    eprintln!("seed {seed}");
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let demo = deploy(&api, "vol-kills", &format!("{DATA}  - {{name: scratch, mountPath: /scratch, deleteOnSandboxDelete: true}}\n"));
    let mut asked = Vec::new();
    for round in 0..ROUNDS {
        for sandbox in ["app", "fresh"] {
            let line = format!("{round}-{sandbox}");
            asked.push((ask(&demo, json!({ "action": "add", "sandbox": sandbox, "env": { "LINE": line } })), line));
        }
        // The moment is what is random here; nothing is waited for.
        std::thread::sleep(std::time::Duration::from_millis(rng.below(900) as u64));
        if round % 2 == 1 {
            let _ = api.try_send("POST", &demo.path("/stop"), &[], br#"{"delete_sandbox":true}"#);
        }
        server.kill();
        server.up();
    }
    let ends: Vec<_> = asked.iter().map(|(run, line)| (ended(&api, run), line)).collect();
    let there = lines(&demo, "fresh");
    for (run, line) in ends {
        let times = there.lines().filter(|there| there == line).count();
        assert!(times == 1 || (times == 0 && run["status"] != "succeeded"), "{line} is there {times} times (seed {seed}): {run}\n{there}");
    }
    let kept = volumes(&demo)[0]["id"].clone();
    delete(&demo, "");
    assert_eq!(api.get(VOLUMES).ok(200).as_array().unwrap().iter().filter(|volume| volume["id"] == kept).count(), 1);
    eventually("one volume", WITHIN, || {
        let left = api.get(VOLUMES).ok(200).as_array().unwrap().len();
        if left == 1 { Ok(()) } else { Err(format!("{left} volumes")) }
    });
    api.delete(&format!("{VOLUMES}/{}", kept.as_str().unwrap())).ok(200);
    eventually("a machine that matches the rows", WITHIN, || {
        let mut wrong = machine::violations(&server);
        let trees = std::fs::read_dir(server.data_dir().join("volumes")).unwrap().count();
        if trees > 0 {
            wrong.push(format!("{trees} trees of volumes"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
    });
}
