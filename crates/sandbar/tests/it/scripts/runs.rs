//! Runs: every call leaves one, and it can be run again.

use std::{io::Write, time::Duration};

use serde_json::json;

use super::{call, data, make, path, refused};
use crate::it::{
    harness::{Server, shared},
    http::eventually,
};

#[test]
fn every_call_leaves_a_run() {
    let server = shared();
    let api = server.api();
    make(&api, "r-all", "console.log('n', ctx.data.n); if (ctx.data.n === 2) throw new Error('two'); return ctx.data.n", json!({}));
    for n in 1..=3 {
        api.post(&path("r-all", "/invoke"), json!({ "n": n }));
    }
    let runs = data(&api.get(&path("r-all", "/runs")), 200);
    let seen: Vec<_> = runs.as_array().unwrap().iter().map(|run| (run["ok"].clone(), run["code"].clone(), run["error"].clone())).collect();
    assert_eq!(seen.len(), 3);
    assert!(seen.contains(&(json!(false), json!("user_error"), json!("two"))), "{runs}");
    assert!(runs[0].get("logs").is_none() && runs[0].get("input").is_none());
    for (query, count) in [
        ("status=failed", 1),
        ("status=succeeded", 2),
        ("code=user_error", 1),
        ("code=timeout", 0),
        ("trigger=http", 3),
        ("trigger=cron", 0),
        ("version=1", 3),
        ("version=2", 0),
        ("since=2001-01-01T00:00:00Z", 3),
        ("until=2001-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(data(&api.get(&path("r-all", &format!("/runs?{query}"))), 200).as_array().map(Vec::len), Some(count), "{query}");
        assert_eq!(data(&api.get(&format!("/api/runs?function=r-all&{query}")), 200).as_array().map(Vec::len), Some(count), "{query}");
    }
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let reply = api.get(&path("r-all", &format!("/runs?limit=1&logs=true{cursor}")));
        pages.extend(data(&reply, 200).as_array().unwrap().clone());
        match reply.value()["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(pages.iter().map(|run| run["id"].clone()).collect::<Vec<_>>(), runs.as_array().unwrap().iter().map(|run| run["id"].clone()).collect::<Vec<_>>());
    assert!(pages.iter().all(|run| run["logs"][0]["text"].as_str().is_some_and(|text| text.starts_with("n "))));

    let failed = pages.iter().find(|run| run["ok"] == false).unwrap();
    let whole = data(&api.get(&format!("/api/runs/{}", failed["id"].as_str().unwrap())), 200);
    assert_eq!((&whole["input"], &whole["function"], &whole["provider"]), (&json!({ "n": 2 }), &json!("r-all"), &json!("quickjs")));
    assert!(whole["cpuMs"].as_f64().is_some() && whole["peakMemoryBytes"].as_i64().is_some_and(|bytes| bytes > 0), "{whole}");
    assert!(whole["stack"].as_str().is_some_and(|stack| stack.contains("r-all:1")), "{whole}");
    // Runs outlive their function.
    let id = whole["functionId"].as_str().unwrap().to_owned();
    api.delete(&path("r-all", ""));
    assert_eq!(data(&api.get(&format!("/api/runs?function={id}")), 200).as_array().map(Vec::len), Some(3));
    refused(&api.get("/api/runs?function=r-all"), 404);
    // An id of nothing that this team has, or had.
    refused(&api.get("/api/functions/0192d3b4-0000-7000-8000-000000000000/runs"), 404);
}

#[test]
fn a_run_is_run_again_with_what_it_was_told() {
    let server = shared();
    let api = server.api();
    let code = "const key = await ctx.secrets.get('KEY'); const before = Date.now(); await new Promise((done) => setTimeout(done, 20));
        let error = ''; try { await ctx.fetch('https://nowhere.example/', { headers: { authorization: key } }) } catch (e) { error = e.message }
        return { random: Math.random(), uuid: crypto.randomUUID(), before, after: Date.now(), error, length: key.length }";
    make(&api, "r-again", code, json!({}));
    api.put(&path("r-again", "/secrets/KEY"), json!({ "value": "hush-hush" }));
    let result = call(&api, "r-again", json!({ "a": 1 }));
    let id = result["runId"].as_str().unwrap();
    let whole = data(&api.get(&format!("/api/runs/{id}")), 200);
    let ops: Vec<_> = whole["ops"].as_array().unwrap().iter().map(|op| op["op"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ops, ["secrets.get", "sleep", "fetch"], "{whole}");
    assert!(
        whole["ops"][2]["error"].as_str().is_some_and(|error| error.contains("allow-list")) && whole["ops"][1]["tookMs"].as_f64().is_some_and(|ms| ms >= 19.0)
    );

    let replayed = data(&api.post(&format!("/api/runs/{id}/replay"), json!({})), 200);
    assert_eq!((&replayed["same"], &replayed["differences"]), (&json!(true), &json!([])), "{replayed}");
    assert_eq!(replayed["result"]["value"], result["value"]);
    let again = data(&api.get(&format!("/api/runs/{}", replayed["result"]["runId"].as_str().unwrap())), 200);
    assert_eq!((&again["replayOf"], &again["trigger"]), (&json!(id), &json!("replay")));

    api.json("PATCH", &path("r-again", ""), &json!({ "code": format!("{}; ", code.replace("length: key.length", "length: 0")) }));
    let other = data(&api.post(&format!("/api/runs/{id}/replay"), json!({ "version": 2 })), 200);
    assert_eq!((&other["same"], &other["result"]["version"]), (&json!(false), &json!(2)), "{other}");
    assert!(other["differences"].as_array().unwrap().iter().any(|text| text == "its value is another"), "{other}");
    refused(&api.post(&format!("/api/runs/{id}/replay"), json!({ "version": 9 })), 404);
    refused(&api.post("/api/runs/none/replay", json!({})), 404);
    refused(&api.post(&format!("/api/runs/{id}/replay"), json!({ "versions": 1 })), 400);
}

#[test]
fn a_killed_server_leaves_no_run_that_goes_on_for_ever() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    make(&api, "r-killed", "await new Promise((done) => setTimeout(done, 30000))", json!({ "timeoutMs": 60_000 }));
    let asked = std::thread::spawn({
        let api = api.clone();
        move || api.try_send("POST", &path("r-killed", "/invoke"), &[("idempotency-key", "k")], b"{}")
    });
    let run = eventually("the run begins", Duration::from_secs(60), || {
        let runs = data(&api.get(&path("r-killed", "/runs?status=running")), 200);
        runs.as_array().and_then(|runs| runs.first()).map(|run| run["id"].as_str().unwrap().to_owned()).ok_or_else(|| runs.to_string())
    });
    server.kill();
    assert!(asked.join().unwrap().is_err());
    server.up();
    let api = server.api();
    let after = data(&api.get(&format!("/api/runs/{run}")), 200);
    assert_eq!((&after["status"], &after["code"]), (&json!("failed"), &json!("internal")), "{after}");
    let again = api.try_send("POST", &path("r-killed", "/invoke"), &[("idempotency-key", "k")], b"{}").unwrap();
    assert_eq!((again.status, again.header("idempotency-replayed")), (500, Some("true")), "{}", again.text());
    assert!(again.value()["error"].as_str().is_some_and(|error| error.contains("the server ended")));
}

#[test]
fn a_replay_that_nobody_waits_for_is_cancelled_and_kept() {
    let server = shared();
    let api = server.api();
    make(&api, "r-dropped", "return 1", json!({ "timeoutMs": 60_000, "concurrency": 1 }));
    let id = call(&api, "r-dropped", json!({}))["runId"].as_str().unwrap().to_owned();
    api.json("PATCH", &path("r-dropped", ""), &json!({ "code": "for (;;);" }));
    let body = br#"{"version":2}"#;
    let json = [("content-type", "application/json")];
    let mut stream = api.open("POST", &format!("/api/runs/{id}/replay"), &json, Some(body.len() as u64)).unwrap();
    stream.write_all(body).unwrap();
    let within = Duration::from_secs(50);
    let one = || api.post(&path("r-dropped", "/invoke?version=1"), json!({})).status;
    eventually("the replay has the only place", within, || if one() == 429 { Ok(()) } else { Err("free".to_owned()) });
    drop(stream);
    eventually("it is cancelled and kept", within, || {
        let runs = data(&api.get(&path("r-dropped", "/runs?trigger=replay")), 200);
        if runs[0]["code"] == "cancelled" { Ok(()) } else { Err(runs.to_string()) }
    });
    assert_eq!(one(), 200);
}
