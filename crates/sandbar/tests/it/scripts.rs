//! Script functions from outside: made, changed, called and looked at.

use serde_json::{Value, json};

use super::{
    api::member,
    harness::shared,
    http::{Api, Reply},
};

mod access;
mod calls;
mod local;
mod requests;
mod runs;
mod versions;

const FUNCTIONS: &str = "/api/functions";

/// `data` of a success.
#[track_caller]
fn data(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    reply.value()["data"].clone()
}

/// The message of a refusal, which has to be of this status and shape.
#[track_caller]
fn refused(reply: &Reply, status: u16) -> String {
    let body = reply.value();
    assert_eq!(reply.status, status, "{}", reply.text());
    let code = body["error"]["code"].as_str().expect("a code");
    assert!(code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') && body.get("success").is_none(), "{}", reply.text());
    body["error"]["message"].as_str().expect("a message").to_owned()
}

fn path(name: &str, rest: &str) -> String {
    format!("{FUNCTIONS}/{name}{rest}")
}

/// Makes a function with a name that no other test has.
#[track_caller]
fn make(api: &Api, name: &str, code: &str, more: Value) -> Value {
    let mut body = json!({ "name": name, "code": code });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    data(&api.post(FUNCTIONS, body), 201)
}

/// Calls a function and returns the result of one that went well.
#[track_caller]
fn call(api: &Api, name: &str, input: Value) -> Value {
    let reply = api.post(&path(name, "/invoke"), input);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.value()
}

#[test]
fn a_function_is_made_changed_and_deleted() {
    let server = shared();
    let api = server.api();
    let made = make(&api, "s-crud", "return 1", json!({ "timeoutMs": 100, "description": "one" }));
    let id = made["id"].as_str().unwrap().to_owned();
    let expected = json!({
        "name": "s-crud", "trigger": "http", "pattern": null, "code": "return 1", "language": "javascript", "timeoutMs": 100, "active": true, "authorKind": null,
        "trusted": false, "access": "admin", "runAs": "caller", "capabilities": null, "fetchAllow": null, "concurrency": 10, "memoryMb": 64, "cpuMs": 100,
        "deterministic": false, "version": 1, "secrets": [], "nextRunAt": null, "description": "one", "aliases": { "live": [{ "version": 1, "weight": 1 }] },
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&made[field], value, "{field}: {made}");
    }
    assert_eq!(made["hash"].as_str().map(str::len), Some(64));
    assert!(made["createdAt"].as_str().is_some_and(|at| at.ends_with('Z')));
    assert_eq!(data(&api.get(&path("s-crud", "")), 200), data(&api.get(&path(&id, "")), 200));
    assert_eq!(refused(&api.post(FUNCTIONS, json!({ "name": "s-crud", "code": "return 2" })), 409), "a function of this name exists already");

    let changed = api.json("PATCH", &path(&id, ""), &json!({ "timeoutMs": 200, "description": null }));
    assert_eq!((changed.status, changed.value()), (200, json!({ "ok": true })));
    let now = data(&api.get(&path(&id, "")), 200);
    assert_eq!((&now["timeoutMs"], &now["description"], &now["code"], &now["version"]), (&json!(200), &json!(null), &json!("return 1"), &json!(1)));
    api.json("PATCH", &path("s-crud", ""), &json!({ "name": "s-crud-renamed", "code": "return 2" }));
    let now = data(&api.get(&path(&id, "")), 200);
    assert_eq!((&now["name"], &now["version"], &now["code"]), (&json!("s-crud-renamed"), &json!(2), &json!("return 2")));

    let list = data(&api.get(FUNCTIONS), 200);
    assert!(list.as_array().unwrap().iter().any(|function| function["id"] == id));
    let deleted = api.delete(&path(&id, ""));
    assert_eq!((deleted.status, deleted.value()), (200, json!({ "ok": true })));
    assert!(refused(&api.get(&path(&id, "")), 404).contains(&id));
    refused(&api.delete(&path(&id, "")), 404);
    refused(&api.json("PATCH", &path(&id, ""), &json!({})), 404);
}

#[test]
fn what_cannot_be_a_function_is_told_by_field() {
    let server = shared();
    let api = server.api();
    make(&api, "s-bad", "return 1", json!({}));
    let rows = [
        (json!({}), "name: is required"),
        (json!({ "name": "x" }), "code: is required"),
        (json!({ "name": "X", "code": "return 1" }), "name: must match ^[a-z][a-z0-9_-]*$"),
        (json!({ "name": "x", "code": "" }), "code: must not be empty"),
        (json!({ "name": "x", "code": "return 1", "timeoutMs": 49 }), "timeoutMs: must be a whole number from 50 to 60000"),
        (json!({ "name": "x", "code": "return 1", "timeoutMs": 60_001 }), "timeoutMs: must be a whole number from 50 to 60000"),
        (json!({ "name": "x", "code": "return 1", "trigger": "soon" }), "trigger: must be one of http, event, cron"),
        (json!({ "name": "x", "code": "return 1", "pattern": "a:b" }), "pattern: must be null for the trigger http: it is for the triggers event and cron"),
        (json!({ "name": "x", "code": "return 1", "trigger": "event" }), "pattern: is required"),
        (json!({ "name": "x", "code": "return 1", "trigger": "event", "pattern": "a::b" }), "pattern: "),
        (json!({ "name": "x", "code": "return 1", "trigger": "cron", "pattern": "99 * * * *" }), "pattern: "),
        (json!({ "name": "x", "code": "return 1", "trigger": "cron", "pattern": "* * * * *", "schedule": { "timezone": "Mars/Base" } }), "schedule.timezone: "),
        (json!({ "name": "x", "code": "return 1", "active": 1 }), "active: must be true or false"),
        (json!({ "name": "x", "code": "return 1", "access": "all" }), "access: must be one of"),
        (json!({ "name": "x", "code": "return 1", "runAs": "root" }), "runAs: must be"),
        (json!({ "name": "x", "code": "return 1", "capabilities": ["db:write"] }), "capabilities: "),
        (json!({ "name": "x", "code": "return 1", "fetchAllow": ["http://x/"] }), "fetchAllow: "),
        (json!({ "name": "x", "code": "return 1", "timeout": 1 }), "timeout: is no field of a function"),
        (json!({ "name": "x", "code": "const = 1" }), "code: "),
        (json!({ "name": "x", "code": "return 1 }" }), "code: "),
    ];
    for (body, expected) in rows {
        let message = refused(&api.post(FUNCTIONS, body.clone()), 400);
        assert!(message.contains(expected), "{body}: {message}");
    }
    let syntax = api.post(FUNCTIONS, json!({ "name": "x", "code": "const a = 1;\nreturn a +* 2;" })).value();
    assert_eq!(syntax["error"]["details"]["line"], 2, "{syntax}");
    assert!(syntax["error"]["details"]["column"].as_u64().is_some_and(|column| column > 1), "{syntax}");
    for body in [json!({ "code": "return (" }), json!({ "timeoutMs": 1 }), json!({ "pattern": "a" }), json!({ "trigger": "cron" }), json!({ "nothing": 1 })] {
        refused(&api.json("PATCH", &path("s-bad", ""), &body), 400);
    }
    refused(&api.send("POST", FUNCTIONS, b"{"), 400);
    refused(&api.send("POST", FUNCTIONS, b""), 400);
    refused(&api.post(FUNCTIONS, json!([1])), 400);
    assert!(refused(&api.send("POST", FUNCTIONS, &vec![b' '; (8 << 20) + 1]), 413).contains("8388608"));
    assert_eq!(data(&api.get(&path("s-bad", "")), 200)["version"], 1, "what is refused changes nothing");
}

#[test]
fn errors_of_these_routes_have_a_shape_of_their_own() {
    let server = shared();
    let api = server.api();
    let errors = [
        (api.get("/api/nothing"), 404, "NOT_FOUND"),
        (api.send("PUT", FUNCTIONS, b"{}"), 405, "METHOD_NOT_ALLOWED"),
        (api.anonymous().get(FUNCTIONS), 401, "UNAUTHORIZED"),
        (api.with_token("s0_default_0").get(FUNCTIONS), 401, "UNAUTHORIZED"),
        (api.get("/api/functions/%ff"), 400, "BAD_REQUEST"),
        (api.get("/api/runs?limit=0"), 400, "BAD_REQUEST"),
        (api.get("/api/runs?status=lost"), 400, "BAD_REQUEST"),
        (api.get("/api/runs?cursor=x"), 400, "BAD_REQUEST"),
        (api.get("/api/runs/none"), 404, "NOT_FOUND"),
    ];
    for (reply, status, code) in errors {
        refused(&reply, status);
        assert_eq!(reply.value()["error"]["code"], code);
        assert!(reply.header("x-request-id").is_some());
    }
    assert_eq!(api.get("/api/v1/nothing").value()["success"], false, "those of the other routes stay as they are");
    assert_eq!(api.anonymous().get(FUNCTIONS).header("www-authenticate"), Some("Bearer"));
}

#[test]
fn only_admins_of_the_team_see_its_functions() {
    let server = shared();
    let api = server.api();
    make(&api, "s-own", "return 1", json!({}));
    let stranger = member(&server, "s-stranger@example.com");
    for reply in [stranger.get(&path("s-own", "")), stranger.delete(&path("s-own", "")), stranger.post(&path("s-own", "/rollback"), json!({}))] {
        refused(&reply, 404);
    }
    assert_eq!(data(&stranger.get(FUNCTIONS), 200), json!([]));
    let key = data_of_key(&api, &["developer"]);
    for reply in [key.get(FUNCTIONS), key.get(&path("s-own", "")), key.post(FUNCTIONS, json!({})), key.get("/api/runs"), key.get(&path("s-own", "/secrets"))] {
        refused(&reply, 403);
    }
}

/// Asks with a key of these roles.
fn data_of_key(api: &Api, roles: &[&str]) -> Api {
    let made = api.post("/api-keys", json!({ "name": "scripts", "roles": roles })).ok(201);
    api.with_token(made["key"].as_str().unwrap())
}
