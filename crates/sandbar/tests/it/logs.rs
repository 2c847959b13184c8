//! What processes printed, read back: as text and line by line.

use std::time::Duration;

use serde_json::json;

use super::{
    harness::{Sandbox, shared},
    http::eventually,
};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn the_text_log_has_tails_limits_times_and_ages() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.sh_ok("for i in $(seq 1 300); do echo row$i; done");
    let get = |query: &str| sandbox.api.get(&sandbox.path(&format!("/logs{query}")));
    eventually("the log", SOON, || if get("").text().contains("row300\n") { Ok(()) } else { Err(get("").text()) });
    let all = get("");
    assert!(all.header("content-type").unwrap().starts_with("text/plain"));
    let rows = |text: &str| text.lines().filter(|line| line.contains("row")).count();
    assert_eq!(rows(&all.text()), 200, "200 lines are the default");
    assert_eq!(get("?tail_lines=5").text(), "row296\nrow297\nrow298\nrow299\nrow300\n");
    assert_eq!(rows(&get("?tail_lines=999999").text()), 300);
    let cut = get("?limit_bytes=20&tail_lines=5000");
    assert!(cut.body.len() <= 20 && cut.text().ends_with("row300\n"), "{}", cut.text());
    let timed = get("?timestamps=true&tail_lines=1").text();
    let (time, row) = timed.trim_end().split_once(' ').expect("a time and a row");
    assert_eq!(row, "row300");
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    assert_eq!(rows(&get("?since_seconds=3600&tail_lines=5000").text()), 300);
    // Nothing was printed in what is not yet over: an age that every line has passed.
    eventually("all lines are older than a second", SOON, || match rows(&get("?since_seconds=1").text()) {
        0 => Ok(()),
        n => Err(n.to_string()),
    });
    // Reading a log does not wake a sandbox.
    sandbox.post("/pause", json!({}));
    assert!(get("?tail_lines=1").text().contains("row300"));
    assert!(sandbox.is_paused());
}

#[test]
fn a_followed_log_shows_lines_as_they_come() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    sandbox.sh_ok("echo before");
    let mut follow = sandbox.api.stream(&sandbox.path("/logs?follow=true"), &[]);
    assert_eq!(follow.status, 200);
    assert_eq!(follow.line().unwrap(), "before");
    for i in 0..3 {
        sandbox.sh_ok(&format!("echo line{i}"));
        assert_eq!(follow.line().unwrap(), format!("line{i}"));
    }
    let mut watch = sandbox.api.stream(&sandbox.path("/observability/logs?watch=true"), &[]);
    assert!(watch.headers.iter().any(|(name, value)| name == "content-type" && value == "application/x-ndjson"));
    loop {
        let line: serde_json::Value = serde_json::from_str(&watch.line().unwrap()).expect("a line of JSON");
        if line["type"] == "log" && line["data"]["message"] == "line2" {
            break;
        }
    }
    // The end of the sandbox ends what follows it.
    let id = sandbox.id.clone();
    drop(sandbox);
    loop {
        match follow.line() {
            Ok(line) if line.is_empty() => break,
            Ok(_) => {}
            Err(error) => panic!("{id}: the followed log broke: {error}"),
        }
    }
}

#[test]
fn the_structured_log_names_sources_and_has_pages() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let done = sandbox.sh("echo out; echo err >&2; echo h\u{e9}llo");
    let context = done.context["id"].as_str().unwrap();
    let get = |query: &str| sandbox.api.get(&sandbox.path(&format!("/observability/logs?{query}"))).ok(200);
    let logs = eventually("three lines", SOON, || {
        let data = get(&format!("context_id={context}"));
        if data["logs"].as_array().unwrap().len() == 3 { Ok(data) } else { Err(data.to_string()) }
    });
    for entry in logs["logs"].as_array().unwrap() {
        for key in ["team_id", "sandbox_id", "region_id", "cluster_id", "occurred_at", "ingested_at", "message", "cursor"] {
            assert!(entry[key].is_string(), "{key}: {entry}");
        }
        assert_eq!(entry["context_id"], context);
    }
    let errors = get("stream=stderr");
    assert_eq!(errors["logs"][0]["message"], "err");
    assert_eq!(errors["logs"].as_array().unwrap().len(), 1);
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = get(&format!("limit=1&cursor={cursor}"));
        seen.extend(page["logs"].as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = super::http::encode(next),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, ["err", "h\u{e9}llo", "out"]);
}

#[test]
fn the_log_of_the_runtime_before_is_kept() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({ "hard_ttl": 2 }));
    sandbox.sh_ok("echo from-the-first");
    sandbox.api.get(&sandbox.path("/logs?previous=true")).error(&[404]);
    eventually("the cleaning", SOON, || if sandbox.get()["cleaned"] == true { Ok(()) } else { Err(sandbox.get().to_string()) });
    sandbox.sh_ok("echo from-the-second");
    let previous = sandbox.api.get(&sandbox.path("/logs?previous=true"));
    assert_eq!(previous.status, 200, "{}", previous.text());
    assert!(previous.text().contains("from-the-first") && !previous.text().contains("from-the-second"), "{}", previous.text());
    eventually("the new log", SOON, || {
        let text = sandbox.api.get(&sandbox.path("/logs")).text();
        if text.contains("from-the-second") && !text.contains("from-the-first") { Ok(()) } else { Err(text) }
    });
}
