//! Apps from outside: what is deployed is what is there, a build that fails says why, and nothing is left of what is deleted.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    harness::{SANDBOXES, Server},
    http::{Api, eventually},
    machine,
};

mod command;
mod demo;
mod kills;
mod lifecycle;
mod mended;
mod previews;
mod receipts;
mod runs;
mod schedules;
mod sealed;
mod shut;
mod told;
mod volumes;

const APPS: &str = "/api/v1/apps";
const SOON: Duration = Duration::from_secs(60);

/// An app, deleted when it is dropped.
struct Deployed {
    api: Api,
    name: String,
}

impl Deployed {
    fn new(api: &Api) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self { api: api.clone(), name: format!("it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)) }
    }

    fn path(&self, rest: &str) -> String {
        format!("{APPS}/{}{rest}", self.name)
    }

    /// Sends files as a new version; returns the answer.
    #[track_caller]
    fn send(&self, query: &str, files: &[(&str, &str)]) -> super::http::Reply {
        self.api.send("POST", &self.path(&format!("/versions{query}")), &archive(files))
    }

    /// Deploys and waits for the end of the build.
    #[track_caller]
    fn deploy(&self, query: &str, files: &[(&str, &str)]) -> Value {
        let version = self.send(query, files).ok(202);
        assert_eq!(version["state"], "building");
        self.built(&version["version"])
    }

    #[track_caller]
    fn built(&self, number: &Value) -> Value {
        eventually("the end of a build", SOON, || {
            let version = self.api.get(&self.path(&format!("/versions/{number}"))).ok(200);
            if version["state"] == "building" { Err(version.to_string()) } else { Ok(version) }
        })
    }

    #[track_caller]
    fn ready(&self, query: &str, files: &[(&str, &str)]) -> Value {
        let version = self.deploy(query, files);
        assert_eq!(version["state"], "ready", "{version}\n{}", self.log(&version["version"]));
        version
    }

    /// All of a build's log, in small steps.
    #[track_caller]
    fn log(&self, number: &Value) -> String {
        let (mut text, mut since) = (String::new(), 0);
        loop {
            let piece = self.api.get(&self.path(&format!("/versions/{number}/logs?since={since}"))).ok(200);
            text += piece["output"].as_str().unwrap();
            since = piece["cursor"].as_u64().unwrap();
            if piece["completed"] == true {
                return text;
            }
        }
    }

    #[track_caller]
    fn get(&self) -> Value {
        self.api.get(&self.path("")).ok(200)
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        let _ = self.api.try_send("DELETE", &self.path(""), &[], b"");
    }
}

/// What comes of a stream up to its end, which has to come.
#[track_caller]
fn to_the_end(stream: &mut impl std::io::Read) -> String {
    let until = std::time::Instant::now() + SOON;
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        all.extend_from_slice(&piece[..read]);
        assert!(std::time::Instant::now() < until, "it still goes on");
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn server() -> Server {
    Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")])
}

/// Rows of a table of the server's database.
fn count(server: &Server, what: &str) -> i64 {
    let db = rusqlite::Connection::open_with_flags(server.data_dir().join("sandbar.db"), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    db.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
}

/// Waits until nothing is left that no row names.
#[track_caller]
fn settled(server: &Server) {
    eventually("a machine that matches the rows", SOON, || {
        let mut wrong = machine::violations(server);
        let astray = count(server, "app_sandbox WHERE state = 'removing' OR sandbox_id NOT IN (SELECT id FROM sandbox)");
        if astray > 0 {
            wrong.push(format!("{astray} sandboxes of apps are to be ended"));
        }
        let (layers, _) = machine::names_of_state(server);
        let live: Vec<String> = roots_of_sandboxes(server);
        for entry in std::fs::read_dir(server.data_dir().join("roots")).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !layers.contains(&name) && !live.contains(&name) {
                wrong.push(format!("root {name} is nobody's"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
    });
}

fn roots_of_sandboxes(server: &Server) -> Vec<String> {
    let db = rusqlite::Connection::open_with_flags(server.data_dir().join("sandbar.db"), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut query = db.prepare("SELECT root_id FROM sandbox WHERE root_id IS NOT NULL").unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// How often setup commands ran, by what they left: nothing else is the same in each.
const COUNTING: &str = "cat requirements.txt >installed.txt; cat /proc/sys/kernel/random/uuid >stamp.txt";

fn manifest(more: &str) -> String {
    format!("schemaVersion: 1\nsetup:\n  commands:\n    - \"{COUNTING}\"\n{more}")
}

/// What validation commands see is what a version has.
fn shows(path: &str) -> String {
    format!("validation:\n  commands:\n    - 'echo \"[$(cat {path} 2>/dev/null)]\"'\n")
}

#[track_caller]
fn shown(app: &Deployed, version: &Value) -> String {
    let log = app.log(&version["version"]);
    let line = log.lines().find(|line| line.starts_with('[')).unwrap_or_else(|| panic!("nothing was shown: {log}"));
    line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).unwrap_or(line).to_owned()
}

#[test]
fn a_source_becomes_versions_of_which_one_is_live() {
    let server = server();
    let app = Deployed::new(&server.api());
    let files = |text| {
        [
            ("sandbar.yaml", "schemaVersion: 1\ndescription: tells a text\nstart:\n  command: python3 -m http.server 3000\n  ports:\n    - port: 3000\n"),
            ("app/index.html", text),
        ]
    };
    let first = app.ready("?message=the%20first", &files("one"));
    assert_eq!((&first["version"], &first["live"], &first["message"]), (&json!(1), &json!(true), &json!("the first")));
    assert_eq!(first["manifest"]["start"]["command"], "python3 -m http.server 3000");
    let whole = app.get();
    assert_eq!((&whole["live_version"], &whole["description"], &whole["desired"]), (&json!(1), &json!("tells a text"), &json!("offline")));
    let waiting = app.ready("?activate=false", &files("two"));
    assert_eq!((&waiting["live"], &app.get()["live_version"], &app.get()["last_version"]), (&json!(false), &json!(1), &json!(2)));
    assert_ne!(first["source_sha256"], waiting["source_sha256"]);
    assert_eq!(first["manifest_sha256"], waiting["manifest_sha256"]);
    let third = app.ready("", &files("one"));
    assert_eq!((&third["live"], &third["source_sha256"]), (&json!(true), &first["source_sha256"]));
    assert_eq!(app.api.post(&app.path("/rollback"), json!({ "version": 2 })).ok(200)["live_version"], 2);
    app.api.post(&app.path("/rollback"), json!({ "version": 9 })).error(&[404]);
    let versions = app.api.get(&app.path("/versions")).ok(200)["versions"].clone();
    let numbers: Vec<_> =
        versions.as_array().unwrap().iter().map(|version| (version["version"].as_i64().unwrap(), version["live"].as_bool().unwrap())).collect();
    assert_eq!(numbers, [(3, false), (2, true), (1, false)]);
    assert!(app.api.get(APPS).ok(200)["apps"].as_array().unwrap().iter().any(|other| other["name"] == app.name.as_str()));

    app.api.delete(&app.path("")).ok(200);
    assert_eq!(app.api.get(&app.path("")).status, 404);
    assert_eq!((count(&server, "app"), count(&server, "app_version")), (0, 0));
    settled(&server);
    eventually("no layer", SOON, || match std::fs::read_dir(server.data_dir().join("roots")).unwrap().count() {
        0 => Ok(()),
        left => Err(format!("{left} roots")),
    });
    assert_eq!(std::fs::read_dir(server.data_dir().join("app-builds")).map_or(0, Iterator::count), 0, "its logs are gone, too");
}

#[test]
fn what_is_wrong_with_a_manifest_is_told_before_anything_is_made() {
    let server = server();
    let app = Deployed::new(&server.api());
    let refused = app.send("", &[("sandbar.yaml", "schemaVersion: 1\nstart:\n  comand: x\nactions:\n  - name: a\n    command: b\n    timeoutSeconds: 0\n")]);
    let error = refused.error(&[422]);
    assert_eq!((&error["code"], &error["details"]["ok"]), (&json!("unprocessable"), &json!(false)));
    let found: Vec<_> =
        error["details"]["diagnostics"].as_array().unwrap().iter().map(|found| (found["path"].as_str().unwrap(), found["line"].as_u64().unwrap())).collect();
    assert!(found.contains(&("$.start.comand", 3)) && found.contains(&("$.actions[0].timeoutSeconds", 7)), "{error}");
    assert!(error["message"].as_str().unwrap().starts_with("sandbar.yaml: 2 things are wrong"), "{error}");
    for (files, status, says) in [
        (&[("main.py", "")][..], 422, "sandbar.yaml"),
        (&[("sandbar.yaml", "schemaVersion: 1\nruntime:\n  base: nothing\n")][..], 404, "runtime.base"),
        (&[("sandbar.yaml", "schemaVersion: 1\nruntime:\n  snapshot: nothing\n")][..], 404, "snapshot"),
        (&[("sandbar.yaml", "schemaVersion: 1\nruntime:\n  image:\n    ref: example.com/nothing:1\n")][..], 409, "operator"),
        (&[("sandbar.yaml", "schemaVersion: 1\nvolumes:\n  - name: data\n    mountPath: /etc/data\n")][..], 422, "mountPath"),
        (&[("sandbar.yaml", "schemaVersion: 1\nruntime:\n  dockerfile: {}\n")][..], 422, "dockerfile"),
    ] {
        let error = app.send("", files).error(&[status]);
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    app.api.send("POST", &app.path("/versions"), b"this is no archive").error(&[400, 422]);
    app.api.send("POST", &format!("{APPS}/No_Name/versions"), &archive(&[("sandbar.yaml", "schemaVersion: 1\n")])).error(&[400]);
    assert_eq!((count(&server, "app"), count(&server, "app_version"), count(&server, "app_sandbox")), (0, 0, 0));
    // A manifest by the other name is read where there is none by the first.
    let version = app.ready("", &[("openpond.yaml", "schemaVersion: 1\n")]);
    assert_eq!(version["version"], 1);
    settled(&server);
}

#[test]
fn a_setup_is_not_run_again_while_nothing_has_changed_that_it_reads() {
    let server = server();
    let (app, other) = (Deployed::new(&server.api()), Deployed::new(&server.api()));
    let whole = manifest(&shows("stamp.txt"));
    let files = |yaml: &str, requirements: &str, main: &str| {
        [("sandbar.yaml".to_owned(), yaml.to_owned()), ("requirements.txt".to_owned(), requirements.to_owned()), ("main.py".to_owned(), main.to_owned())]
    };
    let deploy = |app: &Deployed, yaml: &str, requirements: &str, main: &str| {
        let files = files(yaml, requirements, main);
        let version = app.ready("", &files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect::<Vec<_>>());
        shown(app, &version)
    };
    // Without inputs all of the source is read.
    let first = deploy(&app, &whole, "a", "1");
    assert_eq!(deploy(&app, &whole, "a", "1"), first, "the same is not set up again");
    assert_eq!(deploy(&other, &whole, "a", "1"), first, "not of another app of the team either");
    assert_ne!(deploy(&app, &whole, "a", "2"), first);
    // With inputs only those are.
    let some = manifest(&format!("  inputs: [requirements.txt]\n{}", shows("stamp.txt")));
    let narrow = deploy(&app, &some, "a", "1");
    assert_ne!(narrow, first);
    assert_eq!(deploy(&app, &some, "a", "2"), narrow);
    assert_ne!(deploy(&app, &some, "b", "2"), narrow);
    // The commands see nothing else, and the source lies on top of what they left.
    let sees = "schemaVersion: 1\nsetup:\n  commands: ['ls >seen.txt; echo built >main.py; mkdir -p deps; echo x >deps/x']\n  inputs: [requirements.txt]\nvalidation:\n  commands:\n    - 'echo \"[$(cat seen.txt | tr \"\\n\" \" \")/ $(cat main.py) $(cat deps/x)]\"'\n";
    assert_eq!(deploy(&app, sees, "a", "mine"), "requirements.txt seen.txt / mine x");
    drop((app, other));
    settled(&server);
    assert_eq!(count(&server, "app_setup"), 0, "what setups left goes with the apps that used it");
}

#[test]
fn a_build_that_fails_says_why_and_leaves_the_live_version_alone() {
    let server = server();
    let app = Deployed::new(&server.api());
    app.ready("", &[("sandbar.yaml", "schemaVersion: 1\n")]);
    let failed = app.deploy("", &[("sandbar.yaml", "schemaVersion: 1\nsetup:\n  commands: ['echo one', 'echo no such package >&2; exit 3', 'echo never']\n")]);
    assert_eq!((&failed["state"], &failed["live"]), (&json!("failed"), &json!(false)));
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("setup command 2 of 3 failed with exit code 3") && reason.contains("no such package"), "{reason}");
    let log = app.log(&failed["version"]);
    assert!(log.contains("==> setup command 1 of 3: echo one\none\n") && log.contains("no such package") && !log.contains("never\n"), "{log}");
    app.api.post(&app.path("/rollback"), json!({ "version": 2 })).error(&[409]);

    let invalid = app.deploy("", &[("sandbar.yaml", "schemaVersion: 1\nvalidation:\n  commands: ['test -f main.py']\n")]);
    assert!(invalid["reason"].as_str().unwrap().contains("validation command failed with exit code 1"), "{invalid}");
    let unanswered = "schemaVersion: 1\nstart:\n  command: exit 7\nvalidation:\n  commands: ['true']\n  probes:\n    - port: 3000\n";
    let unanswered = app.deploy("", &[("sandbar.yaml", unanswered)]);
    assert!(unanswered["reason"].as_str().unwrap().contains("the app ended before probe"), "{unanswered}");
    assert_eq!(app.get()["live_version"], 1);
    // What is validated is kept without what the validation wrote.
    let answered = "schemaVersion: 1\nstart:\n  command: python3 -m http.server 3000\nvalidation:\n  commands: ['touch left.txt']\n  probes:\n    - port: 3000\n      path: /left.txt\n    - port: 3000\n      path: /nothing\n      expectedStatus: 404\n";
    app.ready("", &[("sandbar.yaml", answered)]);
    settled(&server);
    let sandboxes = app.api.get(SANDBOXES).ok(200);
    assert_eq!(sandboxes["sandboxes"].as_array().map_or(0, Vec::len), 0, "{sandboxes}");
}

#[test]
fn an_app_is_built_one_version_at_a_time_and_deleting_it_ends_the_build() {
    let server = server();
    let app = Deployed::new(&server.api());
    let slow = "schemaVersion: 1\nsetup:\n  commands: ['echo begun; sleep 1000']\n";
    let first = app.send("", &[("sandbar.yaml", slow)]).ok(202);
    eventually("the build to run", SOON, || {
        let log = app.api.get(&app.path(&format!("/versions/{}/logs", first["version"]))).ok(200);
        if log["output"].as_str().unwrap().contains("begun") { Ok(()) } else { Err(log.to_string()) }
    });
    let refused = app.send("", &[("sandbar.yaml", "schemaVersion: 1\n")]).error(&[409]);
    assert!(refused["message"].as_str().unwrap().contains("version 1"), "{refused}");
    app.api.delete(&app.path("")).ok(200);
    settled(&server);
    assert_eq!((count(&server, "app_sandbox"), count(&server, "sandbox")), (0, 0));
    // Its name is free again.
    assert_eq!(app.ready("", &[("sandbar.yaml", "schemaVersion: 1\n")])["version"], 1);
}

#[test]
fn old_versions_make_room() {
    let server = server();
    let app = Deployed::new(&server.api());
    app.ready("", &[("sandbar.yaml", "schemaVersion: 1\n"), ("n", "0")]);
    for n in 1..24 {
        app.ready("?activate=false", &[("sandbar.yaml", "schemaVersion: 1\n"), ("n", &n.to_string())]);
    }
    let versions = app.api.get(&app.path("/versions")).ok(200)["versions"].clone();
    let numbers: Vec<_> = versions.as_array().unwrap().iter().map(|version| version["version"].as_i64().unwrap()).collect();
    let expected: Vec<i64> = (6..=24).rev().chain([1]).collect();
    assert_eq!(numbers, expected, "all but the live one go by age");
    settled(&server);
}

#[test]
fn what_an_app_is_given_is_sealed_and_taken_out_of_what_is_printed() {
    let server = server();
    let app = Deployed::new(&server.api());
    let yaml = "schemaVersion: 1\ninputs:\n  env:\n    - name: API_KEY\n      required: true\n      description: of the service\n    - name: MODE\n      secret: false\nvalidation:\n  commands: ['echo \"[$API_KEY $MODE $OTHER]\"']\n";
    let files = [("sandbar.yaml", yaml)];
    assert_eq!(shown(&app, &app.ready("", &files)), "  ", "a deploy needs no values");
    let env = app.api.get(&app.path("/env")).ok(200)["env"].clone();
    assert_eq!(
        (&env[0]["name"], &env[0]["given"], &env[0]["required"], &env[0]["description"]),
        (&json!("API_KEY"), &json!(false), &json!(true), &json!("of the service"))
    );
    let given = app.api.put(&app.path("/env"), json!({ "API_KEY": "very-secret-1", "MODE": "plain", "OTHER": "nobody asks" })).ok(200);
    assert!(given["env"].as_array().unwrap().iter().all(|env| env["given"] == true) && !given.to_string().contains("very-secret-1"), "{given}");
    assert_eq!(shown(&app, &app.ready("", &files)), "[secret API_KEY] plain ", "only what is asked for is handed out");
    let stored = std::fs::read(server.data_dir().join("sandbar.db")).unwrap();
    let wal = std::fs::read(server.data_dir().join("sandbar.db-wal")).unwrap_or_default();
    for bytes in [stored, wal] {
        assert!(!bytes.windows(13).any(|window| window == b"very-secret-1"), "it is stored sealed");
    }
    app.api.put(&app.path("/env"), json!({ "API_KEY": null })).ok(200);
    assert_eq!(app.api.get(&app.path("/env")).ok(200)["env"][0]["given"], false);
    for (body, says) in [
        (json!({ "1A": "x" }), "env."),
        (json!({ "A B": "x" }), "env."),
        (json!({ "A": 1 }), "A"),
        (json!({ "SANDBAR_APP_ENTRY": "x" }), "set by the server"),
        (json!({ "A": "x".repeat(40_000) }), "bytes"),
    ] {
        let error = app.api.put(&app.path("/env"), body).error(&[400]);
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
}
