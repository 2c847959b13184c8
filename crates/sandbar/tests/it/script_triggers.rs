//! What makes scripts run without a caller: events, retries, dead letters, schedules; and the server killed meanwhile.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    harness::{Server, shared},
    http::{Api, Reply, encode, eventually},
};

mod kills;

/// A run with its tries on a busy machine.
const RUNS_WITHIN: Duration = Duration::from_secs(60);

/// `data` of a success.
#[track_caller]
fn data(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    reply.value()["data"].clone()
}

/// Everything that a list has, page by page.
#[track_caller]
fn all(api: &Api, path: &str) -> Vec<Value> {
    let separator = if path.contains('?') { '&' } else { '?' };
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let reply = api.get(&format!("{path}{separator}limit=200{cursor}"));
        rows.extend(data(&reply, 200).as_array().expect("a list").clone());
        match reply.value()["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encode(next)),
            None => return rows,
        }
    }
}

/// Makes a function of a name that no other test has, and returns its name.
#[track_caller]
fn function(api: &Api, name: &str, trigger: &str, pattern: &str, code: &str, more: Value) -> String {
    let mut body = json!({ "name": name, "trigger": trigger, "pattern": pattern, "code": code });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    data(&api.post("/api/functions", body), 201);
    name.to_owned()
}

fn jobs(api: &Api, function: &str, state: &str) -> Vec<Value> {
    all(api, &format!("/api/jobs?function={function}&state={state}"))
}

/// What a job was told, as its last run shows it.
fn input(api: &Api, job: &Value) -> Value {
    data(&api.get(&format!("/api/runs/{}", job["lastRunId"].as_str().unwrap())), 200)["input"].clone()
}

fn wait_for_jobs(api: &Api, function: &str, state: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} {state} runs of {function}"), RUNS_WITHIN, || {
        let found = jobs(api, function, state);
        if found.len() == count { Ok(found) } else { Err(json!(all(api, &format!("/api/jobs?function={function}"))).to_string()) }
    })
}

fn publish(api: &Api, channel: &str, event: &str, told: Value) -> Value {
    data(&api.post("/api/events", json!({ "channel": channel, "event": event, "data": told })), 202)
}

#[test]
fn an_event_runs_whoever_asks_for_it() {
    let server = shared();
    let api = server.api();
    let sum = function(&api, "t-sum", "event", "t-orders:*", "return { event: ctx.data.event, n: ctx.data.data.n + 1, user: ctx.user.id }", json!({}));
    function(&api, "t-other", "event", "t-orders:eu:paid", "return 1", json!({}));
    function(&api, "t-asleep", "event", "t-orders", "return 1", json!({ "active": false }));
    let published = publish(&api, "t-orders", "paid", json!({ "n": 41 }));
    assert_eq!(published["matched"], 1);
    let job = wait_for_jobs(&api, &sum, "succeeded", 1).remove(0);
    assert_eq!((&job["source"], &job["attempts"], &job["kind"]), (&published["id"], &json!(1), &json!("event")));
    let run = data(&api.get(&format!("/api/runs/{}", job["lastRunId"].as_str().unwrap())), 200);
    assert_eq!(run["output"], json!({ "event": "t-orders:paid", "n": 42, "user": null }), "{run}");
    let events = all(&api, "/api/events");
    let event = events.iter().find(|event| event["id"] == published["id"]).expect("the event");
    assert_eq!((&event["channel"], &event["event"], &event["matched"]), (&json!("t-orders"), &json!("paid"), &json!(1)));

    // The same key is the same event.
    let body = json!({ "channel": "t-orders", "event": "paid", "data": { "n": 1 } }).to_string();
    let send = |body: &str| api.try_send("POST", "/api/events", &[("idempotency-key", "k1")], body.as_bytes()).unwrap();
    let (first, second) = (data(&send(&body), 202), data(&send(&body), 202));
    assert_eq!(first, second);
    assert_eq!(send(&body.replace(":1", ":2")).status, 409);
    wait_for_jobs(&api, &sum, "succeeded", 2);
}

#[test]
fn a_write_of_an_item_runs_whoever_asks_for_it() {
    let server = shared();
    let api = server.api();
    let posts = json!({ "slug": "t-posts", "name": "Posts", "fields": [{ "name": "title", "type": "string" }] });
    assert_eq!(api.post("/api/collections", posts).status, 201);
    let code = "return [ctx.data.event, ctx.data.data.title, ctx.user.id]";
    let told = function(&api, "t-posts", "event", "items:t-posts:*", code, json!({}));
    let made = api.try_send("POST", "/api/items/t-posts", &[("x-sandbar-script-depth", "3")], br#"{"title":"First"}"#).unwrap();
    let item = data(&made, 201);
    let job = wait_for_jobs(&api, &told, "succeeded", 1).remove(0);
    assert_eq!((&job["depth"], &input(&api, &job)["data"]["id"]), (&json!(3), &item["id"]));
    let run = data(&api.get(&format!("/api/runs/{}", job["lastRunId"].as_str().unwrap())), 200);
    assert_eq!(run["output"], json!(["items:t-posts:created", "First", null]), "{run}");
    assert_eq!(api.delete(&format!("/api/items/t-posts/{}", item["id"].as_str().unwrap())).status, 200);
    assert_eq!(input(&api, &wait_for_jobs(&api, &told, "succeeded", 2)[0])["event"], "items:t-posts:deleted");
}

#[test]
fn what_cannot_be_published_is_refused() {
    let server = shared();
    let api = server.api();
    for (body, status, word) in [
        (json!({ "channel": "items:posts", "event": "created" }), 403, "items"),
        (json!({ "channel": "system", "event": "job.dead_letter" }), 403, "system"),
        (json!({ "channel": "", "event": "x" }), 400, "channel"),
        (json!({ "channel": "a", "event": "" }), 400, "event"),
        (json!({ "channel": "a", "event": "b:c" }), 400, "event"),
        (json!({ "channel": "a:*", "event": "b" }), 400, "channel"),
        (json!({ "channel": "a b", "event": "b" }), 400, "channel"),
        (json!({ "event": "b" }), 400, "channel"),
        (json!({ "channel": "a", "event": "b", "dta": 1 }), 400, "dta"),
        (json!({ "channel": "a", "event": "b", "data": "x".repeat(300 << 10) }), 413, "bytes"),
    ] {
        let reply = api.post("/api/events", body);
        assert_eq!(reply.status, status, "{}", reply.text());
        assert!(reply.value()["error"]["message"].as_str().is_some_and(|message| message.contains(word)), "{word}: {}", reply.text());
    }
    assert_eq!(api.anonymous().post("/api/events", json!({ "channel": "a", "event": "b" })).status, 401);
    for path in ["/api/jobs?state=lost", "/api/jobs?cursor=x", "/api/events?limit=0"] {
        assert_eq!(api.get(path).status, 400, "{path}");
    }
    for path in ["/api/jobs?function=nobody", "/api/functions/nobody/ticks"] {
        assert_eq!(api.get(path).status, 404, "{path}");
    }
    assert_eq!(api.post("/api/dead-letters/nobody/redrive", json!({})).status, 404);
    assert_eq!(api.delete("/api/dead-letters/nobody").status, 404);
    for (trigger, pattern) in [("event", "a:po*"), ("event", ""), ("cron", "61 * * * *"), ("cron", "0 0 31 2 *"), ("cron", "")] {
        let body = json!({ "name": "t-wrong", "trigger": trigger, "pattern": pattern, "code": "return 1" });
        assert_eq!(api.post("/api/functions", body).status, 400, "{trigger} {pattern:?}");
    }
    let body = json!({ "name": "t-wrong", "trigger": "cron", "pattern": "@daily", "code": "return 1", "schedule": { "timezone": "Mars/Base" } });
    assert_eq!(api.post("/api/functions", body).status, 400);
}

#[test]
fn a_run_that_fails_is_tried_again_then_given_up_and_can_be_redriven() {
    let server = shared();
    let api = server.api();
    let watch = function(&api, "t-watch", "event", "system:job.dead_letter", "return ctx.data.data.functionName", json!({}));
    let bad = function(&api, "t-bad", "event", "t-bad", "throw new Error('no luck')", json!({ "retry": { "maxAttempts": 2 } }));
    publish(&api, "t-bad", "x", json!(null));
    let letter = wait_for_jobs(&api, &bad, "dead", 1).remove(0);
    assert_eq!((&letter["attempts"], &letter["lastError"]), (&json!(2), &json!("no luck")));
    let letters = all(&api, &format!("/api/dead-letters?function={bad}"));
    assert_eq!(letters.len(), 1);
    let told = eventually("the letter's event", RUNS_WITHIN, || {
        let told = jobs(&api, &watch, "succeeded");
        let of_bad = |job: &&Value| input(&api, job)["data"]["functionName"] == "t-bad";
        told.iter().find(of_bad).cloned().ok_or_else(|| json!(told).to_string())
    });
    assert_eq!((&told["depth"], &input(&api, &told)["event"]), (&json!(1), &json!("system:job.dead_letter")));
    // What is refused is not tried again: it would be refused again.
    let cycle = function(&api, "t-cycle", "event", "t-cycle", "const a = {}; a.a = a; return a", json!({}));
    publish(&api, "t-cycle", "x", json!(null));
    assert_eq!(wait_for_jobs(&api, &cycle, "dead", 1)[0]["attempts"], 1);

    let id = data(&api.get(&format!("/api/functions/{bad}")), 200)["id"].as_str().unwrap().to_owned();
    assert_eq!(api.json("PATCH", &format!("/api/functions/{id}"), &json!({ "code": "return 'mended'" })).status, 200);
    let redriven = data(&api.post("/api/dead-letters/redrive", json!({ "function": bad })), 200);
    assert_eq!(redriven["redriven"], 1);
    let job = wait_for_jobs(&api, &bad, "succeeded", 1).remove(0);
    assert_eq!((&job["id"], &job["version"]), (&letter["id"], &json!(2)));
    let cycles = all(&api, &format!("/api/dead-letters?function={cycle}"));
    assert_eq!(api.delete(&format!("/api/dead-letters/{}", cycles[0]["id"].as_str().unwrap())).status, 200);
    assert!(all(&api, &format!("/api/dead-letters?function={cycle}")).is_empty());
}

#[test]
fn a_loop_of_events_ends() {
    let server = shared();
    let api = server.api();
    let looped = function(&api, "t-loop", "event", "t-loop", "return 1", json!({}));
    let body = json!({ "channel": "t-loop", "event": "x" }).to_string();
    let send = |depth: &str| data(&api.try_send("POST", "/api/events", &[("x-sandbar-script-depth", depth)], body.as_bytes()).unwrap(), 202);
    assert_eq!(send("8")["matched"], 1);
    let ended = send("9");
    assert_eq!(ended["matched"], 0);
    let event = all(&api, "/api/events").into_iter().find(|event| event["id"] == ended["id"]).unwrap();
    assert!(event["note"].as_str().is_some_and(|note| note.contains("loop")), "{event}");
    assert_eq!(wait_for_jobs(&api, &looped, "succeeded", 1)[0]["depth"], 8);
}

#[test]
fn a_schedule_fires_and_says_so() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    let tick = function(&api, "tick", "cron", "* * * * * *", "return ctx.data", json!({ "schedule": { "timezone": "Europe/Berlin" } }));
    assert!(data(&api.get("/api/functions/tick"), 200)["nextRunAt"].is_string());
    let ticks = eventually("three ticks", RUNS_WITHIN, || {
        let ticks = all(&api, "/api/functions/tick/ticks");
        if ticks.len() >= 3 { Ok(ticks) } else { Err(json!(ticks).to_string()) }
    });
    let fired = ticks.iter().rfind(|tick| tick["outcome"] == "fired").expect("one fired");
    let job = eventually("its run", RUNS_WITHIN, || {
        let done = jobs(&api, &tick, "succeeded");
        done.iter().find(|job| job["id"] == fired["jobId"]).cloned().ok_or_else(|| json!(done).to_string())
    });
    assert_eq!(input(&api, &job)["pattern"], "* * * * * *");
    // Put to sleep, it stops; nothing that came meanwhile is made up for.
    let id = data(&api.get("/api/functions/tick"), 200)["id"].as_str().unwrap().to_owned();
    assert_eq!(api.json("PATCH", &format!("/api/functions/{id}"), &json!({ "active": false })).status, 200);
    assert!(data(&api.get("/api/functions/tick"), 200)["nextRunAt"].is_null());
}
