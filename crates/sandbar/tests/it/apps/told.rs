//! What the command line tells of apps, and that what it does not tell is not so.

use serde_json::{Value, json};

use super::{
    demo::{Demo, WITHIN},
    runs::{ended, log_of, run, sandbar},
};
use crate::it::{
    harness::{Sandbox, Server, shared},
    http::{Api, eventually},
};

/// What a command prints, which has to succeed.
#[track_caller]
fn printed(api: &Api, args: &[&str]) -> String {
    let done = sandbar(api, args);
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[track_caller]
fn json_of(api: &Api, args: &[&str]) -> Value {
    let text = printed(api, &[&["-o", "json"], args].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}\n{text}"))
}

#[test]
fn what_is_no_file_is_told_and_never_waited_for() {
    let server = shared();
    let manifest = r#"actions:
  - name: odd
    command: "mkdir -p out real && mkfifo out/pipe alone && echo x >real/a && ln -s real linked && ln -s /etc outside && ln -s real/a file && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"out/sock\")' && echo y >out/own"
    artifactPaths: ["out/**", alone, "linked/*", "outside/*", "file/*"]
"#;
    let demo = Demo::deploy(&server.api(), "told-odd", manifest, &[]);
    for place in ["fresh", "app"] {
        if place == "app" {
            demo.redeploy(manifest, &[("fresh", "x")]);
        }
        let run = run(&demo, json!({ "action": "odd", "sandbox": place }));
        assert_eq!(run["status"], "succeeded", "{run}");
        let of = |path: &str| {
            let found = run["artifacts"].as_array().unwrap().iter().find(|artifact| artifact["path"] == path).unwrap_or(&Value::Null);
            (found["status"].as_str().unwrap_or_default().to_owned(), found["error"].as_str().unwrap_or_default().to_owned())
        };
        assert_eq!(of("out/own"), ("captured".to_owned(), String::new()), "{run}");
        for path in ["out/pipe", "out/sock", "alone"] {
            assert_eq!(of(path), ("failed".to_owned(), "it is a pipe, a socket or a device; artifacts are files".to_owned()), "{path}: {run}");
        }
        for path in ["linked", "outside"] {
            assert_eq!(of(path).0, "failed", "{path}: {run}");
            assert!(of(path).1.contains("link to a folder"), "{path}: {run}");
        }
        // A link to a file is none that leads anywhere.
        assert_eq!(of("file"), Default::default(), "{run}");
    }
}

const KINDS: &str = r#"start:
  command: exec sleep 1000
  readiness: {command: 'true'}
  ports:
    - {port: 3000}
    - {port: 3001, authPolicy: {type: bearer, tokenSha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}}
    - {port: 3002, authPolicy: {type: header, headerName: X-Preview-Key, valueSha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}}
    - {port: 3003, access: public}
actions:
  - {name: say, command: echo said; echo twice}
services:
  - {name: helper, command: echo helped}
mcp: {endpoints: [{port: 3001}]}
"#;

#[test]
fn who_is_let_in_is_told_of_each_port() {
    let server = shared();
    let api = server.api();
    let demo = Demo::deploy(&api, "told-ports", KINDS, &[]);
    let status = demo.status();
    let policies: Vec<_> = status["previews"].as_array().unwrap().iter().map(|port| port["auth_policy"].clone()).collect();
    assert_eq!(policies, [Value::Null, json!({"type": "bearer"}), json!({"type": "header", "header_name": "x-preview-key"}), Value::Null], "{status}");
    assert!(!status.to_string().contains("aaaa"), "{status}");
    let text = printed(&api, &["app", "status", &demo.name]);
    let access = |port: &str| text.lines().find(|line| line.starts_with(port)).unwrap_or_default().to_owned();
    for (port, who) in [("3000", " private "), ("3001", " bearer "), ("3002", " header x-preview-key "), ("3003", " public "), ("mcp", " bearer ")] {
        assert!(access(port).contains(who), "{port}: {text}");
    }
}

#[test]
fn runs_of_schedules_are_told_apart() {
    let server = shared();
    let api = server.api();
    let demo = Demo::deploy(&api, "told-kinds", KINDS, &[]);
    let table = [
        ("by-action", json!({ "action": "say" }), "action", "say"),
        ("by-command", json!({ "command": "echo commanded\necho again" }), "command", "echo commanded..."),
        ("by-service", json!({ "target": { "kind": "service", "name": "helper" } }), "service", "helper"),
        ("by-start", json!({ "target": { "kind": "start" }, "quotas": { "maxDurationSeconds": 1 } }), "start", "start"),
    ];
    for (name, more, ..) in &table {
        let mut spec = json!({ "name": name, "rate": "300 days", "runtimePolicy": "run_and_delete" });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        demo.try_post("/schedules", spec).ok(201);
        let asked = demo.try_post(&format!("/schedules/{name}/run"), json!({})).ok(202)["run"].clone();
        let run = ended(&api, &asked);
        assert_eq!(run["schedule"], *name, "{run}");
    }
    let text = printed(&api, &["app", "runs", "ls", &demo.name]);
    for (name, _, kind, what) in &table {
        let line = text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        let (kind, what) = (format!(" {kind} "), format!(" {what} "));
        assert!(line.contains(&kind) && line.contains(&what), "{name}: {line}");
    }
    let listed = printed(&api, &["app", "schedules", "ls", &demo.name]);
    assert!(listed.contains("service helper") && listed.contains("action say"), "{listed}");
    // What a schedule was called then is known when it is gone.
    demo.api.delete(&demo.path("/schedules/by-command")).ok(200);
    assert!(printed(&api, &["app", "runs", "ls", &demo.name]).contains("by-command"));
}

#[test]
fn every_command_prints_json_of_one_shape() {
    let server = shared();
    let api = server.api();
    let demo = Demo::deploy(&api, "told-json", KINDS, &[]);
    let name = demo.name.as_str();
    let ran = json_of(&api, &["app", "run", name, "say"]);
    let id = ran["id"].as_str().unwrap();
    for (args, key) in [
        (&["app", "ls"][..], "apps"),
        (&["app", "get", name], "live_version"),
        (&["app", "versions", name], "versions"),
        (&["app", "manifest", name], "manifest"),
        (&["app", "env", name], "env"),
        (&["app", "volumes", name], "volumes"),
        (&["app", "start", name], "state"),
        (&["app", "service", "start", name, "helper"], "state"),
        (&["app", "service", "stop", name, "helper"], ""),
        (&["app", "logs", name], "output"),
        (&["app", "logs", name, "--service", "helper"], "output"),
        (&["app", "open", name, "--print"], "url"),
        (&["app", "runs", "ls", name], "runs"),
        (&["app", "runs", "get", id], "command"),
        (&["app", "runs", "logs", id], "output"),
        (&["app", "runs", "cancel", id], "command"),
        (&["app", "receipts", "get", id], "receipt"),
        (&["app", "schedules", "add", name, r#"{"name": "s", "rate": "300 days", "action": "say"}"#], "spec"),
        (&["app", "schedules", "ls", name], "schedules"),
        (&["app", "schedules", "get", name, "s"], "spec"),
        (&["app", "schedules", "ticks", name, "s"], "ticks"),
        (&["app", "schedules", "stop", name, "s"], "spec"),
        (&["app", "schedules", "rm", name, "s"], "deleted"),
        (&["app", "rollback", name, "1"], "live_version"),
        (&["app", "stop", name], "stopped"),
        (&["app", "rm", name], "deleted"),
    ] {
        let value = json_of(&api, args);
        assert!(value.is_object() && (key.is_empty() || !value[key].is_null()), "{args:?}: {value}");
    }
    assert_eq!(json_of(&api, &["app", "runs", "logs", id])["output"], "said\ntwice\n");
    // Followed it is an object in each line, the last of which is the end.
    let followed = printed(&api, &["-o", "json", "app", "runs", "logs", id, "--follow"]);
    let lines: Vec<Value> = followed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["output"].as_str().unwrap()).collect::<String>(), "said\ntwice\n");
    assert_eq!(lines.last().unwrap()["completed"], true);
    assert!(json_of(&api, &["app", "artifacts", id]).is_array());
    let refused = sandbar(&api, &["-o", "json", "app", "get", "told-nobody"]);
    let error: Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!((refused.status.code(), &error["error"]["status"]), (Some(1), &json!(404)), "{error}");
}

const VOLUMES: &str = "actions:\n  - {name: add, command: 'echo $LINE >>/data/lines.txt; cat /data/lines.txt'}\n  - {name: hold, command: 'trap \"\" TERM; sleep 1000'}\nvolumes: [{name: data, mountPath: /data}]\n";

#[test]
fn volumes_that_were_deleted_are_gone_and_the_next_app_begins_anew() {
    let server = shared();
    let api = server.api();
    for round in ["first", "second"] {
        let demo = Demo::deploy(&api, "told-volumes", VOLUMES, &[]);
        demo.start();
        let added = run(&demo, json!({ "action": "add", "env": { "LINE": round } }));
        assert_eq!(log_of(&api, &added), format!("{round}\n"), "nothing of a former app");
        let listed = api.get(&demo.path("/volumes")).ok(200);
        let id = listed["volumes"][0]["id"].as_str().unwrap().to_owned();
        let shown = printed(&api, &["app", "volumes", &demo.name]);
        assert!(shown.contains("10.00 GiB") && shown.contains(" KiB"), "{shown}");
        assert!(printed(&api, &["volume", "get", &id]).contains("10.00 GiB"));
        let gone = sandbar(&api, &["app", "rm", &demo.name, "--volumes"]);
        assert_eq!((gone.status.code(), String::from_utf8_lossy(&gone.stderr).as_ref()), (Some(0), ""), "{gone:?}");
        assert_eq!(api.get(&format!("/api/v1/sandboxvolumes/{id}")).status, 404, "it was said to be deleted");
    }
}

#[test]
fn a_volume_that_somebody_still_has_is_said_to_go_later() {
    let server = shared();
    let api = server.api();
    let demo = Demo::deploy(&api, "told-held", VOLUMES, &[]);
    run(&demo, json!({ "action": "add", "env": { "LINE": "former" } }));
    let id = api.get(&demo.path("/volumes")).ok(200)["volumes"][0]["id"].as_str().unwrap().to_owned();
    let mounts = json!([{ "sandboxvolume_id": id, "mount_point": "/data" }]);
    let holder = api.post("/api/v1/sandboxes", json!({ "template": "default", "mounts": mounts })).ok(201)["sandbox_id"].as_str().unwrap().to_owned();
    let holder = Sandbox { api: api.clone(), id: holder };
    let gone = sandbar(&api, &["app", "rm", &demo.name, "--volumes"]);
    let told = String::from_utf8_lossy(&gone.stderr);
    assert!(gone.status.success() && told.contains(&format!("volume data ({id}) is deleted as soon as nothing uses it")), "{told}");
    assert_eq!(holder.sh_ok("cat /data/lines.txt"), "former\n", "nothing is taken from under it");
    let again = Demo::deploy(&api, "told-held", VOLUMES, &[]);
    let added = run(&again, json!({ "action": "add", "env": { "LINE": "anew" } }));
    assert_eq!(log_of(&api, &added), "anew\n");
    drop(holder);
    eventually("its end", WITHIN, || match api.get(&format!("/api/v1/sandboxvolumes/{id}")).status {
        404 => Ok(()),
        status => Err(status.to_string()),
    });
    api.delete(&again.path("?volumes=true")).ok(200);
}

#[test]
fn a_schedule_that_is_called_what_none_is_called_any_more_goes_on() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let demo = Demo::deploy(&api, "told-names", KINDS, &[]);
    for name in ["team/nightly", "back\\slash", "..", " edge"] {
        let refused = demo.try_post("/schedules", json!({ "name": name, "rate": "1 hour", "action": "say" })).error(&[400]);
        assert_eq!(refused["details"]["diagnostics"][0]["path"], "$.name", "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("without / and \\"), "{refused}");
    }
    demo.try_post("/schedules", json!({ "name": "former", "rate": "300 days", "action": "say", "runtimePolicy": "run_and_delete" })).ok(201);
    let db = rusqlite::Connection::open(server.data_dir().join("sandbar.db")).unwrap();
    db.busy_timeout(WITHIN).unwrap();
    let sql = "UPDATE app_schedule SET name = 'team/nightly', spec = json_set(spec, '$.name', 'team/nightly') WHERE name = 'former'";
    assert_eq!(db.execute(sql, []).unwrap(), 1);
    let at = demo.path("/schedules/team%2Fnightly");
    let changed = api.send("PATCH", &at, br#"{"cron":"* * * * * *"}"#).ok(200)["schedule"].clone();
    assert_eq!((&changed["name"], &changed["spec"]["name"]), (&json!("team/nightly"), &json!("team/nightly")), "{changed}");
    let fired = eventually("a tick", WITHIN, || {
        let found = api.get(&at).ok(200)["schedule"].clone();
        if found["execution_count"].as_u64() > Some(0) { Ok(found) } else { Err(found.to_string()) }
    });
    assert_eq!(ended(&api, &json!({ "id": fired["last_run_id"] }))["schedule"], "team/nightly");
    let refused = api.send("PATCH", &at, br#"{"name":"team/daily"}"#).error(&[400]);
    assert_eq!(refused["details"]["diagnostics"][0]["path"], "$.name", "{refused}");
    let renamed = sandbar(&api, &["app", "schedules", "set", &demo.name, "team/nightly", r#"{"name":"nightly"}"#]);
    assert!(renamed.status.success(), "{renamed:?}");
    assert!(printed(&api, &["app", "schedules", "get", &demo.name, "nightly"]).contains("action say"));
}
