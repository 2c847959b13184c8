//! `sandbar app` itself: a folder is sent as its ignore files leave it, and a person reads what came of it.

use std::{fs, path::Path, process::Command};

use super::*;
use crate::it::harness::TOKEN;

/// Runs the program in a folder; its exit code, standard output and standard error.
pub(super) fn sandbar(api: &Api, dir: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", dir).current_dir(dir);
    let done = command.args(["--url", &format!("http://{}", api.addr()), "--token", TOKEN]).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap_or(-1), text(done.stdout), text(done.stderr))
}

#[test]
fn a_folder_is_deployed_by_the_command_line() {
    let server = server();
    let app = Deployed::new(&server.api());
    let dir = server.data_dir().parent().unwrap().join("source");
    for folder in [".git", "node_modules"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    for (name, text) in [
        (
            "sandbar.yaml",
            "schemaVersion: 1\nstart:\n  command: python3 -m http.server 3000\nvalidation:\n  commands: ['ls -A; test ! -e node_modules; test ! -e .git; test ! -e local.txt; test -x run.sh']\n",
        ),
        (".gitignore", "node_modules/\n"),
        (".sandbarignore", "local.txt\n"),
        (".git/HEAD", "x"),
        ("node_modules/a.js", "x"),
        ("local.txt", "x"),
        ("run.sh", "#!/bin/sh\n"),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    fs::set_permissions(dir.join("run.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (code, out, err) = sandbar(&app.api, &dir, &["app", "deploy", "--name", &app.name, "-m", "the first"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(err.contains("==> validation command: ls -A") && err.contains("run.sh"), "the log is shown: {err}");
    assert!(out.contains(&format!("version 1 of {} is ready and live", app.name)) && out.contains("sandbar app start"), "{out}");

    fs::write(dir.join("n.txt"), "2").unwrap();
    let (code, out, err) = sandbar(&app.api, &dir, &["app", "deploy", ".", "--name", &app.name, "--no-activate", "-o", "json"]);
    let version: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{code} {out}{err}"));
    assert_eq!((code, &version["version"], &version["live"]), (0, &json!(2), &json!(false)));
    let (code, out, _) = sandbar(&app.api, &dir, &["app", "rollback", &app.name, "2"]);
    assert!(code == 0 && out.contains("version 2"), "{out}");
    let (code, out, _) = sandbar(&app.api, &dir, &["app", "rollback", &app.name]);
    assert!(code == 0 && out.contains("version 1"), "{out}");
    let (_, out, _) = sandbar(&app.api, &dir, &["app", "versions", &app.name]);
    assert!(out.contains("the first") && out.contains("live"), "{out}");
    let (_, out, _) = sandbar(&app.api, &dir, &["app", "ls"]);
    assert!(out.contains(&app.name), "{out}");
    let (_, out, _) = sandbar(&app.api, &dir, &["app", "get", &app.name]);
    assert!(out.contains("live version"), "{out}");

    fs::write(dir.join("sandbar.yaml"), "schemaVersion: 1\nsetup:\n  commands: ['echo the reason; exit 4']\n").unwrap();
    let (code, _, err) = sandbar(&app.api, &dir, &["app", "deploy", "--name", &app.name]);
    assert!(code != 0 && err.contains("the reason") && err.contains("exit code 4"), "{err}");
    fs::write(dir.join("sandbar.yaml"), "schemaVersion: 1\nstart: []\n").unwrap();
    let (code, _, err) = sandbar(&app.api, &dir, &["app", "deploy", "--name", &app.name]);
    assert!(code != 0 && err.contains("sandbar.yaml:2:") && err.contains("$.start"), "{err}");

    let (code, _, err) = sandbar(&app.api, &dir, &["app", "delete", &app.name]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(app.api.get(&app.path("")).status, 404);
    settled(&server);
}

#[test]
fn what_ran_of_an_app_that_is_deleted_is_found_by_its_name_and_id() {
    let server = server();
    let api = server.api();
    let yaml = "actions:\n  - {name: fails, command: \"echo told; exit 3\"}\n";
    let demo = super::demo::Demo::deploy(&api, "left-behind", yaml, &[]);
    let dir = server.data_dir().parent().unwrap().to_owned();
    let (code, out, err) = sandbar(&api, &dir, &["app", "run", "left-behind", "fails"]);
    assert_eq!((code, out.as_str()), (3, "told\n"), "{err}");
    let (_, text, _) = sandbar(&api, &dir, &["app", "manifest", "left-behind"]);
    assert!(text.ends_with(yaml), "{text}");
    let (_, out, _) = sandbar(&api, &dir, &["app", "manifest", "left-behind", "1", "-o", "json"]);
    let manifest: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&manifest["version"], &manifest["manifest"]["actions"][0]["name"]), (&json!(1), &json!("fails")));
    let list = api.get(APPS).ok(200)["apps"][0].clone();
    assert_eq!((&list["state"], &list["desired"]), (&json!("none"), &json!("offline")), "{list}");
    let (code, out, err) = sandbar(&api, &dir, &["app", "rm", "left-behind", "-o", "json"]);
    assert_eq!(
        (code, serde_json::from_str::<Value>(&out).unwrap()),
        (0, json!({ "deleted": ["left-behind"], "failed": [], "volumes_left": [], "volumes_ending": [] })),
        "{err}"
    );
    drop(demo);
    for name in ["left-behind", list["id"].as_str().unwrap()] {
        let runs = api.get(&format!("{APPS}/{name}/runs")).ok(200)["runs"].clone();
        assert_eq!((runs.as_array().unwrap().len(), &runs[0]["exit_code"]), (1, &json!(3)), "{name}");
        let receipts = api.get(&format!("/api/v1/receipts?app={name}")).ok(200)["receipts"].clone();
        assert_eq!(receipts[0]["receipt"]["run_id"], runs[0]["id"], "{name}");
        let (_, out, _) = sandbar(&api, &dir, &["app", "runs", "logs", runs[0]["id"].as_str().unwrap(), "-o", "json"]);
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["output"], "told\n");
    }
    api.get(&format!("{APPS}/never-was/runs")).error(&[404]);
}

#[test]
fn a_service_that_is_started_is_waited_for() {
    let server = server();
    let api = server.api();
    let yaml = "services:\n  - {name: web, command: 'sleep 0.5; exec python3 -m http.server 3000', ports: [{port: 3000}]}\n  - {name: bad, command: 'echo the reason; exit 3', restart: never}\n";
    let demo = super::demo::Demo::deploy(&api, "waits-for", yaml, &[]);
    demo.start();
    let dir = server.data_dir().parent().unwrap().to_owned();
    let state = |out: &str| super::demo::service(&serde_json::from_str::<Value>(out).unwrap_or_else(|_| panic!("{out}")), "web")["state"].clone();
    for what in ["start", "restart"] {
        let (code, out, err) = sandbar(&api, &dir, &["app", "service", what, "waits-for", "web", "-o", "json"]);
        assert_eq!((code, state(&out)), (0, json!("ready")), "{what}: {err}");
    }
    let (code, out, err) = sandbar(&api, &dir, &["app", "service", "restart", "waits-for", "web", "--no-wait", "-o", "json"]);
    assert_eq!((code, state(&out)), (0, json!("starting")), "{err}");
    for what in ["start", "restart"] {
        let (code, out, err) = sandbar(&api, &dir, &["app", "service", what, "waits-for", "bad"]);
        assert!(code == 1 && err.contains("service bad of waits-for failed: exit_code: ") && out.contains("the reason"), "{code} {out} {err}");
    }
    // A log from its beginning; what is not known is told before a cursor that is none.
    assert_eq!(api.get(&demo.path("/logs?source=bad&since=0")).ok(200)["output"], api.get(&demo.path("/logs?source=bad")).ok(200)["output"]);
    assert!(api.get(&demo.path("/logs?source=bad&since=1")).error(&[400])["message"].as_str().unwrap().contains("since"));
    api.get(&demo.path("/logs?source=none&since=1")).error(&[404]);
}
