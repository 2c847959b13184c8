//! What the command line does for apps without a server.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use sandbar_core::app::{
    receipt::{Artifact, CausedBy, Checkpoint, Key, Kind, Receipt, Signed, Status, Usage, VERSION, sign, sign_checkpoint},
    run::RunCause,
};
use serde_json::Value;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("sandbar-apps-offline-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        fs::write(&file, text).unwrap();
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Any server that it asked would refuse.
fn sandbar(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
    command.args(["--url", "http://127.0.0.1:1", "--token", "none"]).args(args).current_dir(dir).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn manifests_are_written_and_validated() {
    let folder = Folder::new("init");
    for template in ["node", "python", "static", "jobs"] {
        let dir = format!("{template}-app");
        let done = sandbar(&folder.0, &["app", "init", &dir, "--template", template]);
        assert!(done.status.success(), "{}", stderr(&done));
        let done = sandbar(&folder.0.join(&dir), &["app", "validate"]);
        assert!(done.status.success(), "{}", stdout(&done));
        assert!(stdout(&done).starts_with("sandbar.yaml: is right; it has "), "{}", stdout(&done));
        let again = sandbar(&folder.0, &["app", "init", &dir]);
        assert_eq!(again.status.code(), Some(1));
        assert!(stderr(&again).contains("is there already"), "{}", stderr(&again));
    }
    let none = sandbar(&folder.0, &["app", "validate"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(stderr(&none).contains("sandbar app init"), "{}", stderr(&none));
}

#[test]
fn what_is_wrong_with_a_manifest_is_printed_with_its_place() {
    let folder = Folder::new("validate");
    folder.write("openpond.yaml", "name: Shop\nactions:\n  - name: a\n    comand: x\n");
    let wrong = sandbar(&folder.0, &["app", "validate", "."]);
    assert_eq!(wrong.status.code(), Some(1));
    let text = stdout(&wrong);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("openpond.yaml:1:7: $.name: invalid_name: must "), "{lines:?}");
    assert!(lines[1].starts_with("openpond.yaml:3:5: $.actions[0].command: missing: "), "{lines:?}");
    assert!(lines[2].starts_with("openpond.yaml:4:5: $.actions[0].comand: unknown_key: is not known; did you mean command?"), "{lines:?}");
    for args in [&["app", "validate", "--json"][..], &["-o", "json", "app", "validate"]] {
        let wrong = sandbar(&folder.0, args);
        let json: Value = serde_json::from_slice(&wrong.stdout).unwrap();
        assert_eq!((json["ok"].as_bool(), wrong.status.code()), (Some(false), Some(1)));
        let diagnostic = &json["diagnostics"][0];
        assert_eq!((diagnostic["path"].as_str(), diagnostic["code"].as_str(), diagnostic["line"].as_u64()), (Some("$.name"), Some("invalid_name"), Some(1)));
    }
    folder.write("good.yaml", "name: shop\n");
    let right = sandbar(&folder.0, &["app", "validate", "good.yaml", "--json"]);
    let json: Value = serde_json::from_slice(&right.stdout).unwrap();
    assert_eq!((json["ok"].as_bool(), right.status.code()), (Some(true), Some(0)));
}

#[test]
fn the_schema_of_manifests_is_printed() {
    let schema = sandbar(Path::new("/"), &["app", "schema"]);
    let json: Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert_eq!(json["title"], "sandbar.yaml");
}

fn receipts(count: u64) -> Vec<Signed> {
    let key = Key::from_seed(&[7; 32]).unwrap();
    let mut receipts: Vec<Signed> = Vec::new();
    for sequence in 1..=count {
        let receipt = Receipt {
            version: VERSION,
            id: format!("rcpt-{sequence}"),
            team_id: "team".to_owned(),
            app_id: "app".to_owned(),
            app_name: "shop".to_owned(),
            app_version: 1,
            run_id: format!("run-{sequence}"),
            kind: Kind::Action,
            name: Some("report".to_owned()),
            caused_by: CausedBy { cause: RunCause::Api, user_id: Some("user".to_owned()), key_id: None, schedule_id: None, tick_at_ms: None },
            sandbox_id: None,
            manifest_sha256: "0".repeat(64),
            source_sha256: "2".repeat(64),
            ground: None,
            command: Some("make".to_owned()),
            input_sha256: None,
            created_at_ms: 1,
            started_at_ms: Some(2),
            commanded_at_ms: Some(2),
            finished_at_ms: 3,
            usage: Usage { cpu_us: Some(4), ..Usage::default() },
            status: Status::Succeeded,
            exit_code: Some(0),
            reason: None,
            artifacts: vec![Artifact { path: "a".to_owned(), sha256: "1".repeat(64), size_bytes: 5, captured_at_ms: Some(3) }],
            denied_total: Some(0),
            denied: Vec::new(),
            price: None,
            chain: "app".to_owned(),
            sequence,
            previous_sha256: receipts.last().map(|last| last.sha256.clone()),
            key_id: String::new(),
        };
        receipts.push(sign(&receipt, &key));
    }
    receipts
}

#[test]
fn receipts_are_verified_without_a_server() {
    let folder = Folder::new("receipts");
    let receipts = receipts(3);
    let key = receipts[0].public_key.to_string();
    let list = folder.write("list.json", &serde_json::to_string_pretty(&receipts).unwrap());
    let lines: Vec<_> = receipts.iter().rev().map(|signed| serde_json::to_string(signed).unwrap()).collect();
    folder.write("lines.jsonl", &lines.join("\n"));
    folder.write("one.json", &serde_json::to_string_pretty(&receipts[1]).unwrap());
    folder.write("key.pub", &format!("{key}\n"));
    for (args, wanted) in [
        (&["receipt", "verify", "list.json"][..], "3 receipts, numbers 1 to 3 without a gap, are as signed"),
        (&["receipt", "verify", "lines.jsonl", "--key", &key], "with the key that you trust"),
        (&["receipt", "verify", "one.json", "--key", "key.pub"], "receipt rcpt-2 (number 2) is as signed"),
        (&["receipt", "verify", "list.json", "--chain"], "3 receipts, numbers 1 to 3 without a gap, are as signed"),
    ] {
        let done = sandbar(&folder.0, args);
        assert!(done.status.success() && stdout(&done).contains(wanted), "{args:?}: {}{}", stdout(&done), stderr(&done));
    }

    let altered = fs::read_to_string(&list).unwrap().replacen("\"exit_code\": 0", "\"exit_code\": 1", 1);
    folder.write("altered.json", &altered);
    folder.write("gap.jsonl", &[lines[2].as_str(), &lines[0]].join("\n"));
    let done = sandbar(&folder.0, &["receipt", "verify", "gap.jsonl", "--key", &key]);
    assert!(done.status.success() && stdout(&done).starts_with("2 receipts, numbers 1 to 3 without 1 that are not here"), "{}", stdout(&done));
    // A part of a chain is whole where the server says what stands before it.
    let signer = Key::from_seed(&[7; 32]).unwrap();
    let checkpoint = |key: &Key| serde_json::to_string(&sign_checkpoint(&Checkpoint::new("app", 1, &receipts[0].sha256, 9), key)).unwrap();
    let rest = [lines[1].as_str(), lines[0].as_str()];
    folder.write("rest.jsonl", &rest.join("\n"));
    folder.write("kept.jsonl", &[&[checkpoint(&signer).as_str()][..], &rest].concat().join("\n"));
    folder.write("forged.jsonl", &[&[checkpoint(&Key::from_seed(&[8; 32]).unwrap()).as_str()][..], &rest].concat().join("\n"));
    folder.write("reordered.jsonl", &[lines[2].as_str(), &lines[0], &lines[1]].join("\n"));
    folder.write("cut.json", &fs::read_to_string(&list).unwrap()[..3000]);
    let done = sandbar(&folder.0, &["receipt", "verify", "kept.jsonl", "--chain", "--key", &key]);
    assert!(done.status.success(), "{}{}", stdout(&done), stderr(&done));
    let done = sandbar(&folder.0, &["receipt", "verify", "cut.json"]);
    assert!(done.status.code() == Some(1) && stderr(&done).contains("receipt 2 is none: it has no end"), "{}", stderr(&done));
    let other = Key::from_seed(&[8; 32]).unwrap().public_key().to_string();
    for (args, wanted) in [
        (&["receipt", "verify", "altered.json"][..], "was altered"),
        (&["receipt", "verify", "gap.jsonl", "--chain"], "1 between them are missing"),
        (&["receipt", "verify", "rest.jsonl", "--chain"], "no checkpoint says"),
        (&["receipt", "verify", "forged.jsonl", "--chain"], "follows a checkpoint that was signed with another key"),
        (&["receipt", "verify", "reordered.jsonl"], "the order is wrong"),
        (&["receipt", "verify", "list.json", "--key", &other], "with another key"),
    ] {
        let done = sandbar(&folder.0, args);
        assert_eq!(done.status.code(), Some(1), "{args:?}");
        assert!(stdout(&done).contains(wanted), "{args:?}: {}", stdout(&done));
    }
    let done = sandbar(&folder.0, &["receipt", "verify", "altered.json", "--json"]);
    let json: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((json["ok"].as_bool(), json["receipts"].as_u64(), done.status.code()), (Some(false), Some(3), Some(1)));
    let done = sandbar(&folder.0, &["receipt", "verify", "key.pub"]);
    assert!(stderr(&done).contains("receipt 1 is none"), "{}", stderr(&done));
}

/// What a command exits with whose output and errors nobody reads.
fn unread(dir: &Path, args: &[&str], stdout: Stdio, stderr: Stdio) -> Option<i32> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
    command.args(["--url", "http://127.0.0.1:1", "--token", "none"]).args(args).current_dir(dir).stdin(Stdio::null());
    command.stdout(stdout).stderr(stderr).status().unwrap().code()
}

/// The end of a pipe whose other end is closed.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_reader_that_has_gone_changes_nothing_but_what_is_read() {
    let folder = Folder::new("closed");
    folder.write("sandbar.yaml", "name: shop\n");
    folder.write("wrong.yaml", "nmae: shop\n");
    folder.write("receipts.json", "[]");
    folder.write("script.js", "export default () => { console.log('x'); throw new Error('y') }");
    let refused = Some(1);
    for (args, code) in [
        (&["version"][..], Some(0)),
        (&["--help"], Some(0)),
        (&["app", "--help"], Some(0)),
        (&["nonsense"], Some(2)),
        (&["completions", "bash"], Some(0)),
        (&["app", "schema"], Some(0)),
        (&["app", "validate"], Some(0)),
        (&["app", "validate", "wrong.yaml"], refused),
        (&["app", "validate", "none.yaml"], refused),
        (&["app", "deploy"], refused),
        (&["app", "ls"], refused),
        (&["app", "rm", "one", "two"], refused),
        (&["app", "run", "one", "two"], refused),
        (&["app", "run", "one", "two", "--env", "x"], None),
        (&["sandbox", "ls"], refused),
        (&["sandbox", "rm", "one", "two"], refused),
        (&["sandbox", "exec", "x", "true"], refused),
        (&["volume", "ls"], refused),
        (&["template", "ls"], refused),
        (&["image", "ls"], refused),
        (&["key", "create", "x"], refused),
        (&["script", "ls"], refused),
        (&["item", "ls", "x"], refused),
        (&["function", "ls"], refused),
        (&["webhook", "deliveries", "x"], None),
        (&["du"], refused),
        (&["receipt", "verify", "receipts.json"], None),
        (&["doctor"], None),
    ] {
        for form in ["table", "json"] {
            let args = [&["-o", form], args].concat();
            let read = unread(&folder.0, &args, Stdio::null(), Stdio::null());
            for (stdout, stderr) in [(closed(), Stdio::null()), (Stdio::null(), closed()), (closed(), closed())] {
                assert_eq!(unread(&folder.0, &args, stdout, stderr), read, "{args:?}");
            }
            assert!(read != Some(101) && (code.is_none() || read == code), "{args:?}: {read:?}");
        }
    }
    // What cannot be written is no success.
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(unread(&folder.0, &["app", "schema"], full.into(), Stdio::null()), refused);
}

#[test]
fn wrong_use_is_told_before_anything_is_sent() {
    let folder = Folder::new("wrong-use");
    folder.write("sandbar.yaml", "actions: [{name: a, command: x}]\n");
    folder.write("large.json", &format!("\"{}\"", "x".repeat(2 << 20)));
    for (args, told) in [
        (&["app", "run", "shop", "a", "--env", "X"][..], "--env \"X\" is not of the form NAME=VALUE"),
        (&["app", "run", "shop", "a", "--env", "X=1", "--env", "X=2"], "--env names X twice"),
        (&["app", "run", "shop", "a", "--input", "{"], "--input is no JSON"),
        (&["app", "run", "shop", "a", "--input", "@large.json"], "--input"),
        (&["app", "run", "shop", "a", "--file", "x"], "--file \"x\" is not of the form NAME=PATH"),
        (&["app", "run", "shop", "a", "--timeout", "soon"], "no whole number"),
        (&["app", "runs", "ls", "shop", "--limit", "-1"], ""),
        (&["app", "env", "shop", "A=1", "--unset", "A"], "A is named twice"),
        (&["app", "env", "shop", "SURELY_NOT_SET"], "SURELY_NOT_SET is no variable of this command's environment"),
        (&["app", "manifest", "shop", "first"], "no whole number"),
        (&["app", "deploy", "--name", "My Shop"], "\"My Shop\" is no name of an app"),
        (&["app", "schedules", "add", "shop", "nightly"], "the schedule is no JSON"),
        (&["app", "schedules", "set", "shop", "nightly", "@large.json"], "what is to be changed"),
    ] {
        let done = sandbar(&folder.0, args);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {}", stderr(&done));
        assert!(stderr(&done).contains(told) && stdout(&done).is_empty(), "{args:?}: {}", stderr(&done));
    }
    // What is wrong with a manifest is told to programs as the server tells it.
    folder.write("sandbar.yaml", "nmae: shop\n");
    let done = sandbar(&folder.0, &["-o", "json", "app", "deploy"]);
    let error: Value = serde_json::from_slice(&done.stderr).unwrap();
    let diagnostic = &error["error"]["details"]["diagnostics"][0];
    assert_eq!((&error["error"]["status"], &diagnostic["path"], &diagnostic["line"]), (&422.into(), &"$.nmae".into(), &1.into()), "{error}");
    assert!(stdout(&done).is_empty());
}
