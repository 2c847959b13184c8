//! Files that runs are given: put where the manifest says, checked, kept until the run has ended.

use std::path::PathBuf;

use base64::{Engine, prelude::BASE64_STANDARD};

use super::*;

const TAKES: &str = r#"actions:
  - name: read
    command: "cat in/table.csv; ls in/photos; cat $SANDBAR_INPUT"
  - name: later
    command: "while ! test -e go; do sleep 0.05; done; cat in/table.csv"
    concurrency: 1
inputs:
  schema:
    type: object
    required: [table]
    additionalProperties: false
    properties:
      month: {type: string}
      table: {type: string, x-openpond-upload: {targetPath: in/table.csv, accept: [.csv, text/csv]}}
      photos: {type: array, minItems: 1, x-openpond-upload: {targetPath: in/photos, accept: [image/*], multiple: true}}
"#;

fn file(input: &str, name: &str, bytes: &[u8]) -> Value {
    json!({ "input": input, "name": name, "content_base64": BASE64_STANDARD.encode(bytes) })
}

fn photo(name: &str) -> Value {
    json!({ "input": "photos", "name": name, "content_type": "image/png", "content_base64": "UE5H" })
}

fn kept(server: &Server, run: &Value) -> PathBuf {
    server.data_dir().join("app-runs").join(run["id"].as_str().unwrap()).join("files")
}

#[test]
fn files_are_where_the_manifest_says_before_the_command_begins() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-uploads", TAKES, &[]);
    for place in ["app", "fresh"] {
        let given = json!([file("table", "October.CSV", b"a,b\n"), photo("one.png"), photo("two three.png")]);
        let run = run(&demo, json!({ "action": "read", "sandbox": place, "input": { "month": "may" }, "files": given }));
        let log = log_of(&demo.api, &run);
        assert_eq!(run["status"], "succeeded", "{log}");
        let input = r#"{"month":"may","photos":["/workspace/in/photos/one.png","/workspace/in/photos/two three.png"],"table":"/workspace/in/table.csv"}"#;
        assert_eq!(log, format!("a,b\none.png\ntwo three.png\n{input}"));
        let table = &run["files"][0];
        assert_eq!((&table["input"], &table["path"], &table["size_bytes"]), (&json!("table"), &json!("/workspace/in/table.csv"), &json!(4)));
        assert_eq!(table["sha256"], hex::encode(Sha256::digest(b"a,b\n")));
        assert!(!kept(&server, &run).exists(), "nobody reads it any more");
        // What was hashed is the input with its files.
        let whole = json!({ "input": run["input"], "files": run["files"] });
        assert_eq!(run["input_sha256"], hex::encode(Sha256::digest(whole.to_string())));
    }
}

#[test]
fn what_is_wrong_with_files_is_told_before_there_is_a_run() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-no-uploads", TAKES, &[]);
    let table = || file("table", "a.csv", b"a");
    for (files, input, status, says) in [
        (json!([]), json!({}), 422, "input.table: is required"),
        (json!([file("nothing", "a", b"")]), json!({}), 422, "files.nothing: is no file input: the app takes files as photos, table"),
        (json!([file("table", "a.exe", b"")]), json!({}), 422, "a.exe without a type is none of .csv, text/csv"),
        (json!([table(), table()]), json!({}), 422, "files.table: takes one file"),
        (json!([table()]), json!({ "table": "/etc/passwd" }), 422, "input.table: is given as a file"),
        (json!([table(), photo("../../etc/cron.d/x")]), json!({}), 422, "is no name for a file"),
        (json!([table(), photo("a"), photo("a")]), json!({}), 422, "two files would be"),
        (json!([{ "input": "table", "name": "a.csv", "content_base64": "###" }]), json!({}), 400, "files[0].content_base64"),
        (json!([{ "input": "table", "name": "a.csv" }]), json!({}), 400, "content_base64"),
        (Value::Array(vec![photo("x"); 21]), json!({}), 400, "a run may have 20"),
        (json!([file("table", "a.csv", &vec![b'x'; (16 << 20) + 1])]), json!({}), 413, "16777216 bytes together"),
    ] {
        let error = demo.try_post("/runs", json!({ "action": "read", "input": input, "files": files })).error(&[status]);
        assert!(error["message"].as_str().unwrap().contains(says), "{error} does not say {says}");
    }
    assert_eq!(demo.api.get(&demo.path("/runs")).ok(200)["runs"], json!([]));
}

#[test]
fn files_of_a_run_that_waits_are_kept_and_go_with_it() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-wait-uploads", TAKES, &[]);
    let api = &demo.api;
    let wish = |text: &[u8]| json!({ "action": "later", "files": [file("table", "a.csv", text)] });
    let first = ask(&demo, wish(b"first\n"));
    until_phase(api, &first, "commanding");
    let keyed = |body: Value| api.try_send("POST", &demo.path("/runs"), &[("idempotency-key", "k")], body.to_string().as_bytes()).unwrap();
    let second = keyed(wish(b"second\n")).ok(202)["run"].clone();
    assert_eq!(std::fs::read(kept(&server, &second).join("0")).unwrap(), b"second\n");
    // The same files are the same run, and others are not.
    assert_eq!(keyed(wish(b"second\n")).ok(202)["run"]["id"], second["id"]);
    keyed(wish(b"other\n")).error(&[409]);
    let third = ask(&demo, wish(b"third\n"));
    api.post(&of(&third, "/cancel"), json!({})).ok(202);
    assert_eq!(ended(api, &third)["status"], "cancelled");
    assert!(!kept(&server, &third).exists());
    sandbox_of(api, &now(api, &first)).write("/workspace/go", b"");
    assert_eq!(ended(api, &second)["status"], "succeeded");
    assert_eq!((log_of(api, &first), log_of(api, &second)), ("first\n".into(), "second\n".into()));
    // Of what was refused or was there already nothing is kept.
    assert!(!kept(&server, &first).exists() && !kept(&server, &second).exists());
    let rows: Vec<String> = demo.api.get(&demo.path("/runs")).ok(200)["runs"].as_array().unwrap().iter().map(|run| run["id"].to_string()).collect();
    assert_eq!(rows.len(), 3);
}

#[test]
fn what_is_too_much_is_refused_before_anything_is_kept() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let demo = Demo::deploy(&server.api(), "runs-much-uploads", TAKES, &[]);
    let wish = json!({ "action": "later", "files": [file("table", "a.csv", b"text")] });
    let first = ask(&demo, wish.clone());
    until_phase(&demo.api, &first, "commanding");
    let waits = ask(&demo, wish.clone());
    // As many bytes as a team may have would be many here.
    let db = rusqlite::Connection::open(server.data_dir().join("sandbar.db")).unwrap();
    db.busy_timeout(WITHIN).unwrap();
    let sql = "UPDATE app_run SET doc = json_set(doc, '$.files[0].size_bytes', 536870912) WHERE id = ?1 AND status = 'queued'";
    assert_eq!(db.execute(sql, [waits["id"].as_str()]).unwrap(), 1);
    // Whoever keeps something now fails by that.
    let (there, aside) = (server.data_dir().join("app-runs"), server.data_dir().join("aside"));
    std::fs::rename(&there, &aside).unwrap();
    std::fs::write(&there, "").unwrap();
    let refused = demo.try_post("/runs", wish).error(&[429]);
    assert!(refused["message"].as_str().unwrap().contains("bytes of files of this team's runs"), "{refused}");
    std::fs::remove_file(&there).unwrap();
    std::fs::rename(&aside, &there).unwrap();
    for run in [&waits, &first] {
        demo.api.post(&of(run, "/cancel"), json!({})).ok(202);
        assert_eq!(ended(&demo.api, run)["status"], "cancelled");
    }
}

#[test]
fn the_command_line_sends_files() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-cli-uploads", TAKES, &[]);
    let folder = std::env::temp_dir().join(format!("sandbar-it-uploads-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text) in [("t.csv", "x,y\n"), ("p.png", "PNG"), ("t.bin", "bin\n")] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let said = |input: &str, rest: &str| format!("{input}={}/{rest}", folder.display());
    let send = |files: &[&str]| {
        let mut args = vec!["app", "run", demo.name.as_str(), "read"];
        files.iter().for_each(|file| args.extend(["--file", file]));
        sandbar(&demo.api, &args)
    };
    let done = send(&[&said("table", "t.csv"), &said("photos", "p.png")]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stdout).starts_with("x,y\np.png\n"));
    let refused = send(&[&said("table", "t.bin")]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("t.bin without a type is none of"));
    let typed = send(&[&said("table", "t.bin;type=text/csv"), &said("photos", "p.png")]);
    assert!(String::from_utf8_lossy(&typed.stdout).starts_with("bin\n"), "{}", String::from_utf8_lossy(&typed.stderr));
    for (wrong, code) in [(said("table", "nothing.csv"), 1), ("table".to_owned(), 2)] {
        assert_eq!(send(&[&wrong]).status.code(), Some(code), "{wrong}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_file_may_lie_in_a_volume() {
    const IN_VOLUME: &str = "volumes: [{name: data, mountPath: /data}]
actions:
  - name: read
    command: cat /data/in/table.csv
inputs:
  schema:
    type: object
    properties:
      table: {type: string, x-openpond-upload: {targetPath: volumes/data/in/table.csv}}
";
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-volume-uploads", IN_VOLUME, &[]);
    let given = run(&demo, json!({ "action": "read", "sandbox": "fresh", "files": [file("table", "t", b"kept\n")] }));
    assert_eq!((log_of(&demo.api, &given), &given["files"][0]["path"]), ("kept\n".into(), &json!("/data/in/table.csv")));
    // It is the app's, and not the run's.
    assert_eq!(log_of(&demo.api, &run(&demo, json!({ "action": "read" }))), "kept\n");
    demo.api.delete(&demo.path("?volumes=true")).ok(200);
}
