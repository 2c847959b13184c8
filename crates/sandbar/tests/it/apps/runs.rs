//! Runs of actions: what they print and leave, how they end, and what is signed of that.

use std::process::{Command, Output};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::demo::{Demo, WITHIN};
use crate::it::{
    harness::{Sandbox, Server, TOKEN, shared},
    http::{Api, Incoming, Reply, eventually},
};

mod ends;
mod groups;
mod kills;
mod kills_anywhere;
mod start;
mod strays;
mod turns;
mod uploads;

const RUN_WAIT: &str = "/runs?wait=60";

/// Asks for a run and returns it once it has ended.
#[track_caller]
pub fn run(demo: &Demo, body: Value) -> Value {
    let asked = demo.try_post(RUN_WAIT, body).ok(202)["run"].clone();
    ended(&demo.api, &asked)
}

/// Asks for a run and does not wait.
#[track_caller]
pub fn ask(demo: &Demo, body: Value) -> Value {
    demo.try_post("/runs", body).ok(202)["run"].clone()
}

pub fn of(run: &Value, rest: &str) -> String {
    format!("/api/v1/app-runs/{}{rest}", run["id"].as_str().expect("an id"))
}

/// A run as it is now.
#[track_caller]
pub fn now(api: &Api, run: &Value) -> Value {
    api.get(&of(run, "")).ok(200)["run"].clone()
}

#[track_caller]
pub fn ended(api: &Api, run: &Value) -> Value {
    eventually("the end of a run", WITHIN, || {
        let run = api.get(&of(run, "?wait=30")).ok(200)["run"].clone();
        if run["finished_at"].is_null() { Err(run.to_string()) } else { Ok(run) }
    })
}

#[track_caller]
pub fn until_phase(api: &Api, run: &Value, phase: &str) {
    eventually(phase, WITHIN, || {
        let run = now(api, run);
        if run["phase"] == phase { Ok(()) } else { Err(run.to_string()) }
    });
}

#[track_caller]
pub fn log_of(api: &Api, run: &Value) -> String {
    let (mut text, mut since) = (String::new(), 0);
    loop {
        let piece = api.get(&of(run, &format!("/logs?since={since}"))).ok(200);
        text += piece["output"].as_str().unwrap();
        since = piece["cursor"].as_u64().unwrap();
        if piece["completed"] == true {
            return text;
        }
    }
}

/// The sandbox of a run, left as it is.
pub fn sandbox_of(api: &Api, run: &Value) -> std::mem::ManuallyDrop<Sandbox> {
    std::mem::ManuallyDrop::new(Sandbox { api: api.clone(), id: run["sandbox_id"].as_str().expect("a sandbox").to_owned() })
}

pub fn sandbar(api: &Api, args: &[&str]) -> Output {
    let url = format!("http://{}", api.addr());
    Command::new(env!("CARGO_BIN_EXE_sandbar")).args(["--url", &url, "--token", TOKEN]).args(args).output().unwrap()
}

/// Has the command line verify all receipts of the team, offline and with the server's key.
#[track_caller]
pub fn verify_chain(api: &Api) -> Vec<Value> {
    let listed = sandbar(api, &["--output", "json", "app", "receipts"]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let file = std::env::temp_dir().join(format!("sandbar-it-receipts-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::write(&file, &listed.stdout).unwrap();
    let key = api.get("/api/v1/receipts/key").ok(200)["public_key"].as_str().unwrap().to_owned();
    let verified = Command::new(env!("CARGO_BIN_EXE_sandbar")).args(["receipt", "verify", file.to_str().unwrap(), "--key", &key]).output().unwrap();
    assert!(verified.status.success(), "{}{}", String::from_utf8_lossy(&verified.stdout), String::from_utf8_lossy(&verified.stderr));
    // One digit of one of them changed is found.
    let text = String::from_utf8(listed.stdout).unwrap();
    if let Some(at) = text.find("\"cpu_us\": ") {
        let mut altered = text.clone();
        altered.insert(at + "\"cpu_us\": ".len(), '1');
        std::fs::write(&file, altered).unwrap();
        let refused = Command::new(env!("CARGO_BIN_EXE_sandbar")).args(["receipt", "verify", file.to_str().unwrap()]).output().unwrap();
        assert!(!refused.status.success(), "an altered receipt was let pass");
    }
    let _ = std::fs::remove_file(&file);
    serde_json::from_str::<Vec<Value>>(&text).unwrap()
}

const ACTIONS: &str = r#"actions:
  - name: report
    command: "mkdir -p artifacts/deep && printf '{\"n\":1}' >artifacts/report.json && echo two >artifacts/deep/b.txt && echo made && echo oops >&2"
    artifactPaths:
      - artifacts/report.json
      - artifacts/none.json
      - artifacts/**/*.txt
  - name: links
    command: "mkdir -p out && ln -sfn /etc/passwd out/link && ln -sfn /etc out/dir && echo mine >out/own && ln -sfn out linked"
    artifactPaths: ["out/*", "out/dir/passwd", "linked/own", "out"]
  - name: says
    command: "cat $SANDBAR_INPUT; echo; stat -c '%a' $SANDBAR_INPUT; echo $SANDBAR_INPUT_BASE64 | base64 -d; echo; echo $OPENPOND_REPLAY_PARAMS_BASE64 | base64 -d; echo; echo $SANDBAR_APP $SANDBAR_APP_VERSION $MORE $(pwd); test -n \"$SANDBAR_RUN_ID\""
    cwd: sub
    env:
      MORE: action
  - name: fails
    command: "echo before; exit 7"
  - name: stubborn
    command: "(trap '' TERM; echo $$ >pid; exec python3 -c 'import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(4711)' >/dev/null 2>&1) & sleep 4712"
    timeoutSeconds: 1
  - name: long
    command: "echo begun; trap 'echo ending; exit 0' TERM; sleep 4713 & wait"
  - name: greedy
    command: "python3 -c 'b = bytearray(2_000_000_000)'"
"#;

const SCHEMA: &str = "inputs:\n  schema:\n    type: object\n    properties:\n      name: {type: string}\n      count: {type: integer, default: 3}\n    required: [name]\n    additionalProperties: false\n";

fn deploy(name: &str) -> (std::sync::Arc<Server>, Demo) {
    let server = shared();
    let demo = Demo::deploy(&server.api(), name, &format!("resources:\n  memoryGb: 0.5\n{ACTIONS}"), &[("sub/x", "")]);
    (server, demo)
}

#[test]
fn a_report_is_captured_and_what_is_missing_fails_nothing() {
    let (_server, demo) = deploy("runs-report");
    let run = run(&demo, json!({ "action": "report" }));
    assert_eq!((&run["status"], &run["exit_code"], &run["failure_reason"]), (&json!("succeeded"), &json!(0), &Value::Null), "{run}");
    let artifacts = demo.api.get(&of(&run, "/artifacts")).ok(200)["artifacts"].as_array().unwrap().clone();
    let seen: Vec<_> = artifacts.iter().map(|artifact| (artifact["path"].as_str().unwrap(), artifact["status"].as_str().unwrap())).collect();
    assert_eq!(seen, [("artifacts/report.json", "captured"), ("artifacts/none.json", "missing"), ("artifacts/deep/b.txt", "captured")]);
    let sum = hex::encode(Sha256::digest(b"{\"n\":1}"));
    assert_eq!((&artifacts[0]["sha256"], &artifacts[0]["size_bytes"]), (&json!(sum), &json!(7)));
    let bytes = demo.api.get(&of(&run, "/artifacts/1"));
    assert_eq!((bytes.status, bytes.text().as_str()), (200, "{\"n\":1}"));
    assert_eq!(bytes.header("content-disposition"), Some("attachment; filename=\"report.json\"; filename*=UTF-8''report.json"));
    assert_eq!((bytes.header("x-content-type-options"), bytes.header("content-type")), (Some("nosniff"), Some("application/octet-stream")));
    parts_of(&demo, &of(&run, "/artifacts/1"), &bytes);
    demo.api.get(&of(&run, "/artifacts/2")).error(&[404]);
    demo.api.get(&of(&run, "/artifacts/99")).error(&[404]);
    let log = log_of(&demo.api, &run);
    assert!(log == "made\noops\n" || log == "oops\nmade\n", "{log:?}");

    // Nothing was started for it.
    let status = demo.status();
    assert_eq!((&status["desired"], &status["state"]), (&json!("offline"), &json!("none")));
    let usage = &run["usage"];
    assert_eq!((&usage["scope"], &usage["sources"]["cpu"], &usage["sources"]["network"]), (&json!("app"), &json!("command"), &json!("app_sandbox")), "{run}");
    assert!(run["usage"]["cpu_seconds"].as_f64().unwrap() > 0.0 && run["usage"]["peak_memory_bytes"].as_u64().unwrap() > 0, "{run}");

    let receipt = demo.api.get(&of(&run, "/receipt")).ok(200)["receipt"]["receipt"].clone();
    assert_eq!((&receipt["run_id"], &receipt["status"], &receipt["exit_code"]), (&run["id"], &json!("succeeded"), &json!(0)));
    assert_eq!(receipt["artifacts"].as_array().unwrap().len(), 2);
    assert_eq!((&receipt["artifacts"][0]["sha256"], &receipt["name"]), (&json!(sum), &json!("report")));
    let listed = demo.api.get(&demo.path("/runs?action=report&status=succeeded")).ok(200);
    assert_eq!(listed["runs"][0]["id"], run["id"]);
    let all = demo.api.get(&format!("/api/v1/receipts?app={}", demo.name)).ok(200)["receipts"].clone();
    assert_eq!(all[0]["receipt"]["run_id"], run["id"]);
    verify_chain(&demo.api);

    // The same by the command line.
    let done = sandbar(&demo.api, &["app", "run", &demo.name, "report"]);
    assert!(done.status.success(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("made\n"), "{done:?}");
    let dir = std::env::temp_dir().join(format!("sandbar-it-artifacts-{}", std::process::id()));
    let fetched = sandbar(&demo.api, &["app", "artifacts", run["id"].as_str().unwrap(), "--dir", dir.to_str().unwrap()]);
    assert!(fetched.status.success(), "{fetched:?}");
    assert_eq!(std::fs::read_to_string(dir.join("artifacts/report.json")).unwrap(), "{\"n\":1}");
    std::fs::remove_dir_all(dir).unwrap();
    let failed = sandbar(&demo.api, &["app", "run", &demo.name, "fails"]);
    assert_eq!(failed.status.code(), Some(7), "{failed:?}");
    assert!(String::from_utf8_lossy(&failed.stdout).contains("before\n"), "{failed:?}");
}

#[test]
fn nothing_is_captured_by_way_of_a_link() {
    let (_server, demo) = deploy("runs-links");
    let run = run(&demo, json!({ "action": "links" }));
    assert_eq!(run["status"], "succeeded", "{run}");
    for artifact in run["artifacts"].as_array().unwrap() {
        let (path, error) = (artifact["path"].as_str().unwrap(), artifact["error"].as_str().unwrap_or_default());
        match path {
            "out/own" => assert_eq!(artifact["status"], "captured", "{artifact}"),
            "out/link" | "out/dir" | "out/dir/passwd" | "linked/own" => assert!(artifact["status"] == "failed" && error.contains("link"), "{artifact}"),
            "out" => assert!(artifact["status"] == "failed" && error.contains("folder"), "{artifact}"),
            _ => panic!("{artifact}"),
        }
    }
    assert_eq!(run["artifacts"].as_array().unwrap().len(), 6, "{run}");
}

#[test]
fn input_is_looked_at_filled_in_and_handed_over() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "runs-input", &format!("{SCHEMA}{ACTIONS}"), &[("sub/x", "")]);
    let refused = demo.try_post("/runs", json!({ "action": "says", "input": { "count": "x", "other": 1 } })).error(&[422]);
    let fields: Vec<_> = refused["details"]["violations"].as_array().unwrap().iter().map(|one| one["field"].as_str().unwrap()).collect();
    for field in ["input.name", "input.count", "input.other"] {
        assert!(fields.contains(&field), "{refused}");
    }
    assert_eq!(demo.api.get(&demo.path("/runs")).ok(200)["runs"], json!([]), "a wrong one makes no run");
    let said = run(&demo, json!({ "action": "says", "input": { "name": "é" }, "env": { "MORE": "run" } }));
    assert_eq!(said["status"], "succeeded", "{said}");
    let lines: Vec<_> = log_of(&demo.api, &said).lines().map(str::to_owned).collect();
    let input: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(input, json!({ "name": "é", "count": 3 }));
    assert_eq!(lines[1], "600");
    assert_eq!(serde_json::from_str::<Value>(&lines[2]).unwrap(), input);
    assert_eq!(serde_json::from_str::<Value>(&lines[3]).unwrap(), json!({ "input": input }));
    assert_eq!(lines[4], "runs-input 1 run /workspace/sub");
    // Nothing of it is left in the app's sandbox.
    assert_eq!(sandbox_of(&demo.api, &said).sh_ok("ls /run/sandbar/runs | wc -l").trim(), "0");
    demo.try_post("/runs", json!({ "action": "nothing" })).error(&[400]);
    demo.try_post("/runs", json!({ "action": "says", "sandbox": "other" })).error(&[400]);
    demo.try_post("/runs", json!({ "action": "says", "env": { "SANDBAR_RUN_ID": "x" } })).error(&[400]);
    demo.try_post("/runs", json!({ "action": "says", "timeout": 1 })).error(&[400]);
}

#[test]
fn how_a_command_ended_is_told() {
    let (_server, demo) = deploy("runs-ends");
    let failed = run(&demo, json!({ "action": "fails" }));
    assert_eq!((&failed["status"], &failed["failure_reason"], &failed["exit_code"]), (&json!("failed"), &json!("exit_code"), &json!(7)));
    let greedy = run(&demo, json!({ "action": "greedy" }));
    assert_eq!((&greedy["status"], &greedy["failure_reason"]), (&json!("failed"), &json!("out_of_memory")), "{greedy}");
    let receipt = demo.api.get(&of(&greedy, "/receipt")).ok(200)["receipt"]["receipt"].clone();
    assert!(receipt["reason"].as_str().unwrap().starts_with("out_of_memory"), "{receipt}");
}

#[test]
fn a_timeout_ends_the_whole_group_and_says_so() {
    let (_server, demo) = deploy("runs-timeout");
    let run = run(&demo, json!({ "action": "stubborn" }));
    assert_eq!((&run["status"], &run["failure_reason"]), (&json!("timed_out"), &json!("timeout")), "{run}");
    assert!(log_of(&demo.api, &run).contains("longer than its 1 s"), "{run}");
    // The child that ignores SIGTERM is gone, and so is the other.
    let left = sandbox_of(&demo.api, &run).sh_ok("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep(471[1])\\|sleep 471[2]' || true");
    assert_eq!(left.trim(), "0");
}

#[test]
fn a_run_is_cancelled_while_it_goes_on() {
    let (_server, demo) = deploy("runs-cancel");
    let run = ask(&demo, json!({ "action": "long" }));
    until("its first line", || log_so_far(&demo.api, &run).contains("begun"));
    demo.api.get(&of(&run, "/receipt")).error(&[409]);
    demo.api.post(&of(&run, "/cancel"), json!({})).ok(202);
    let run = ended(&demo.api, &run);
    assert_eq!((&run["status"], &run["failure_reason"]), (&json!("cancelled"), &json!("cancelled")), "{run}");
    // It was asked first.
    assert!(log_of(&demo.api, &run).contains("ending\n"), "{}", log_of(&demo.api, &run));
    assert_eq!(demo.api.post(&of(&run, "/cancel"), json!({})).ok(202)["run"]["status"], "cancelled", "once more changes nothing");
    demo.api.post("/api/v1/app-runs/nothing/cancel", json!({})).error(&[404]);
}

#[track_caller]
fn until(what: &str, so: impl Fn() -> bool) {
    eventually(what, WITHIN, || if so() { Ok(()) } else { Err("it is not so".to_owned()) });
}

fn log_so_far(api: &Api, run: &Value) -> String {
    api.get(&of(run, "/logs")).ok(200)["output"].as_str().unwrap().to_owned()
}

/// Reads events up to one of a name: ids and data of the ones before.
fn events(stream: &mut Incoming, until: &str) -> Vec<(u64, Value)> {
    let (mut all, mut name, mut id) = (Vec::new(), String::new(), 0);
    loop {
        let line = stream.line().unwrap();
        if let Some(text) = line.strip_prefix("event: ") {
            name = text.to_owned();
        } else if let Some(text) = line.strip_prefix("id: ") {
            id = text.parse().unwrap();
        } else if let Some(text) = line.strip_prefix("data: ") {
            all.push((id, serde_json::from_str(text).unwrap()));
            if name == until {
                return all;
            }
        }
    }
}

#[test]
fn a_log_is_followed_and_gone_on_with() {
    let server = shared();
    let steps = "actions:\n  - name: steps\n    command: \"echo one; while ! test -e go; do sleep 0.05; done; echo two é\"\n";
    let demo = Demo::deploy(&server.api(), "runs-sse", steps, &[]);
    let run = ask(&demo, json!({ "action": "steps" }));
    let accept = ("accept", "text/event-stream");
    let mut stream = demo.api.stream(&of(&run, "/logs"), &[accept]);
    assert_eq!(stream.status, 200);
    let first = events(&mut stream, "output");
    assert_eq!((first[0].0, &first[0].1["output"]), (4, &json!("one\n")));
    drop(stream);
    until_phase(&demo.api, &run, "commanding");
    sandbox_of(&demo.api, &now(&demo.api, &run)).sh_ok("touch /workspace/go");
    // Another connection goes on after what the first one heard.
    let mut stream = demo.api.stream(&of(&run, "/logs"), &[accept, ("last-event-id", "4")]);
    let rest = events(&mut stream, "end");
    let text: String = rest.iter().filter_map(|(_, data)| data["output"].as_str()).collect();
    assert_eq!(text, "two é\n");
    let (id, end) = rest.last().unwrap();
    assert_eq!((*id, &end["status"], &end["exit_code"]), ("one\ntwo é\n".len() as u64, &json!("succeeded"), &json!(0)));
    assert_eq!(log_of(&demo.api, &run), "one\ntwo é\n");
    let middle = demo.api.get(&of(&run, "/logs?since=4")).ok(200);
    assert_eq!((&middle["output"], &middle["cursor"], &middle["completed"]), (&json!("two é\n"), &json!(11), &json!(true)));
    demo.api.get(&of(&run, "/logs?since=x")).error(&[400]);
}

#[test]
fn who_asks_twice_by_one_key_gets_one_run() {
    let (_server, demo) = deploy("runs-key");
    let post = |key: &str, body: &Value| {
        let path = demo.path("/runs");
        demo.api.try_send("POST", &path, &[("idempotency-key", key), ("content-type", "application/json")], body.to_string().as_bytes()).unwrap()
    };
    let (body, other) = (json!({ "action": "report" }), json!({ "action": "fails" }));
    let first = post("k-1", &body);
    let id = first.ok(202)["run"]["id"].clone();
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = post("k-1", &body);
    assert_eq!((&again.ok(202)["run"]["id"], again.header("idempotency-replayed")), (&id, Some("true")));
    let refused = post("k-1", &other).error(&[409]);
    assert_eq!((&refused["details"]["reason"], &refused["details"]["run_id"]), (&json!("idempotency_key_reused"), &id));
    post(&"k".repeat(300), &body).error(&[400]);
    assert_ne!(post("k-2", &body).ok(202)["run"]["id"], id);
    assert_eq!(demo.api.get(&demo.path("/runs")).ok(200)["runs"].as_array().unwrap().len(), 2);
}

#[test]
fn a_fresh_sandbox_is_the_runs_own_and_goes_with_it() {
    let (_server, demo) = deploy("runs-fresh");
    let run = run(&demo, json!({ "action": "report", "sandbox": "fresh" }));
    assert_eq!((&run["status"], &run["sandbox"], &run["usage"]["scope"]), (&json!("succeeded"), &json!("fresh"), &json!("run")), "{run}");
    let cleaned = until_cleaned(&demo.api, &run);
    assert_eq!(cleaned["cleanup"], "succeeded", "{cleaned}");
    let path = format!("/api/v1/sandboxes/{}", run["sandbox_id"].as_str().unwrap());
    until("no sandbox", || demo.api.get(&path).status == 404);
    assert_eq!(demo.status()["sandbox"], Value::Null, "the app has none online");

    let kept = run_fresh(&demo, "stop");
    assert_eq!(kept["cleanup"], "succeeded", "{kept}");
    let sandbox = sandbox_of(&demo.api, &kept);
    assert_eq!(sandbox.get()["paused"], true);
    assert_eq!(sandbox.sh_ok("cat /workspace/artifacts/report.json"), "{\"n\":1}", "it can be looked into");

    let archived = run_fresh(&demo, "archive");
    assert_eq!(archived["cleanup"], "succeeded", "{archived}");
    let snapshot = archived["snapshot_id"].as_str().expect("a snapshot").to_owned();
    let listed = demo.api.get(&format!("/api/v1/sandboxes/{}/snapshots", archived["sandbox_id"].as_str().unwrap())).ok(200);
    assert!(listed.to_string().contains(&snapshot), "{listed}");
    demo.try_post("/runs", json!({ "action": "report", "cleanup": "stop" })).error(&[400]);
}

fn run_fresh(demo: &Demo, policy: &str) -> Value {
    until_cleaned(&demo.api, &run(demo, json!({ "action": "report", "sandbox": "fresh", "cleanup": policy })))
}

fn until_cleaned(api: &Api, run: &Value) -> Value {
    eventually("cleaned up", WITHIN, || {
        let run = now(api, run);
        if run["cleanup"] == "pending" { Err(run.to_string()) } else { Ok(run) }
    })
}

/// What is sent of an artifact of 7 bytes for a range.
#[track_caller]
fn parts_of(demo: &Demo, path: &str, whole: &Reply) {
    let etag = whole.header("etag").expect("an ETag").to_owned();
    assert_eq!((whole.header("accept-ranges"), whole.body.len()), (Some("bytes"), 7));
    let table = [
        ("bytes=1-3", None, 206, &b"\"n\""[..], Some("bytes 1-3/7")),
        ("bytes=-2", None, 206, b"1}", Some("bytes 5-6/7")),
        ("bytes=5-", Some(etag.as_str()), 206, b"1}", Some("bytes 5-6/7")),
        ("bytes=5-", Some("\"other\""), 200, b"{\"n\":1}", None),
        ("bytes=0-1,3-4", None, 200, b"{\"n\":1}", None),
        ("bytes=7-", None, 416, b"", Some("bytes */7")),
    ];
    for (range, if_range, status, body, told) in table {
        let mut headers = vec![("range", range)];
        headers.extend(if_range.map(|of| ("if-range", of)));
        let reply = demo.api.try_send("GET", path, &headers, b"").unwrap();
        assert_eq!((reply.status, reply.header("content-range")), (status, told), "{range} {if_range:?}");
        if status != 416 {
            assert_eq!((reply.body.as_slice(), reply.header("etag")), (body, Some(etag.as_str())), "{range} {if_range:?}");
        }
    }
    // What has no body has no parts.
    let Incoming { status, headers, .. } = Incoming::read(demo.api.open("HEAD", path, &[("range", "bytes=1-3")], None).unwrap()).unwrap();
    let head = Reply { status, headers, body: Vec::new() };
    assert_eq!((head.status, head.header("content-range"), head.header("content-length")), (200, None, Some("7")));
}
