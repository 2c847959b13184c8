//! Bad input: every row is a mistake of a client, and the answer that says so. Never a 500, never a hung connection,
//! always the envelope.

use std::{
    io::{Read, Write},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    harness::{SANDBOXES, Sandbox, shared},
    http::{Incoming, Reply, eventually},
};

/// What must stand in the message or its details: the path of the field.
struct Bad {
    method: &'static str,
    path: String,
    body: Vec<u8>,
    status: u16,
    names: &'static str,
}

fn bad(method: &'static str, path: impl Into<String>, body: Value, status: u16, names: &'static str) -> Bad {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    Bad { method, path: path.into(), body, status, names }
}

fn raw(method: &'static str, path: impl Into<String>, body: &[u8], status: u16) -> Bad {
    Bad { method, path: path.into(), body: body.to_vec(), status, names: "" }
}

fn claim(config: Value) -> Value {
    json!({ "template": "default", "config": config })
}

/// How the answer is wrong, if it is.
fn wrong(bad: &Bad, reply: &Reply) -> Option<String> {
    let body = reply.value();
    let error = &body["error"];
    let is_envelope = body["success"] == json!(false) && error["code"].is_string() && error["message"].as_str().is_some_and(|text| !text.is_empty());
    let says = error.to_string();
    let shown = String::from_utf8_lossy(&bad.body[..bad.body.len().min(120)]).into_owned();
    let has_id = reply.header("x-request-id").is_some();
    (reply.status != bad.status || !is_envelope || !says.contains(bad.names) || !has_id)
        .then(|| format!("{} {} {shown}: want {} naming {:?}, got {} {}", bad.method, bad.path, bad.status, bad.names, reply.status, reply.text()))
}

#[test]
fn what_a_client_does_wrong_is_told_with_the_path_of_the_field() {
    let server = shared();
    let api = server.api();
    let sandbox = Sandbox::claim(&api, json!({}));
    let own = |rest: &str| sandbox.path(rest);
    let none = |rest: &str| format!("{SANDBOXES}/sb-aaaaaaaaaaaaaaaa{rest}");
    let context = sandbox.spawn(&["sleep", "86400"]);
    let context = |rest: &str| sandbox.path(&format!("/contexts/{}{rest}", context["id"].as_str().unwrap()));
    let route = |more: Value| {
        let mut route = json!({ "id": "r", "path_prefix": "/", "resume": false });
        for (key, value) in more.as_object().unwrap() {
            route[key] = value.clone();
        }
        json!({ "services": [{ "id": "web", "port": 8080, "ingress": { "public": true, "routes": [route] } }] })
    };

    let mut hidden = route(json!({}));
    let routes = hidden["services"][0]["ingress"]["routes"].as_array_mut().unwrap();
    routes.push(json!({ "id": "s", "path_prefix": "/", "resume": false, "auth": { "mode": "bearer", "bearer_token_sha256": "ab".repeat(32) } }));

    let rows = vec![
        // Claim.
        bad("POST", SANDBOXES, json!({ "template": "no-such-template" }), 404, "no-such-template"),
        bad("POST", SANDBOXES, json!({}), 400, "template"),
        bad("POST", SANDBOXES, json!({ "template": "" }), 400, "template"),
        bad("POST", SANDBOXES, json!({ "template": 7 }), 400, "template"),
        bad("POST", SANDBOXES, json!({ "template": null }), 400, "template"),
        bad("POST", SANDBOXES, json!({ "template": "../default" }), 404, ""),
        bad("POST", SANDBOXES, json!({ "template": "default", "config": [] }), 400, "config"),
        bad("POST", SANDBOXES, json!({ "template": "default", "config": "x" }), 400, "config"),
        bad("POST", SANDBOXES, claim(json!({ "ttl": -1 })), 400, "config.ttl"),
        bad("POST", SANDBOXES, claim(json!({ "hard_ttl": -5 })), 400, "config.hard_ttl"),
        bad("POST", SANDBOXES, claim(json!({ "ttl": 2_147_483_648_u64 })), 400, "config.ttl"),
        raw("POST", SANDBOXES, b"{\"template\":\"default\",\"config\":{\"ttl\":1e400}}", 400),
        bad("POST", SANDBOXES, claim(json!({ "ttl": 1.5 })), 400, "config.ttl"),
        bad("POST", SANDBOXES, claim(json!({ "ttl": "60" })), 400, "config.ttl"),
        bad("POST", SANDBOXES, claim(json!({ "ttl": 600, "hard_ttl": 60 })), 400, "config.ttl"),
        bad("POST", SANDBOXES, claim(json!({ "auto_resume": "yes" })), 400, "config.auto_resume"),
        bad("POST", SANDBOXES, claim(json!({ "env_vars": { "A": 1 } })), 400, "config.env_vars.A"),
        bad("POST", SANDBOXES, claim(json!({ "env_vars": ["A=1"] })), 400, "config.env_vars"),
        bad("POST", SANDBOXES, claim(json!({ "env_vars": { "A": "x".repeat(70_000) } })), 400, "config.env_vars.A"),
        bad("POST", SANDBOXES, claim(json!({ "env_vars": { "A": "a\u{0}b" } })), 400, "config.env_vars.A"),
        bad("POST", SANDBOXES, claim(json!({ "resources": { "memory": "much" } })), 400, "config.resources.memory"),
        bad("POST", SANDBOXES, claim(json!({ "resources": { "memory": "1Ki" } })), 400, "config.resources.memory"),
        bad("POST", SANDBOXES, claim(json!({ "resources": { "memory": "99999999999999999999Gi" } })), 400, "config.resources.memory"),
        bad("POST", SANDBOXES, claim(json!({ "resources": { "memory": "-1Gi" } })), 400, "config.resources.memory"),
        bad("POST", SANDBOXES, claim(json!({ "resources": { "cpu": "0" } })), 400, "config.resources.cpu"),
        bad("POST", SANDBOXES, claim(json!({ "resources": { "ephemeralStorage": "1" } })), 400, "config.resources.ephemeralStorage"),
        bad("POST", SANDBOXES, claim(json!({ "network": { "mode": "open" } })), 400, "config.network.mode"),
        bad("POST", SANDBOXES, claim(json!({ "network": { "mode": "block-all", "egress": { "allowedCidrs": ["10.0.0.0/99"] } } })), 400, "allowedCidrs[0]"),
        bad(
            "POST",
            SANDBOXES,
            claim(json!({ "network": { "mode": "block-all", "egress": { "trafficRules": [{ "name": "x", "action": "maybe" }] } } })),
            400,
            "trafficRules[0].action",
        ),
        bad("POST", SANDBOXES, claim(json!({ "webhook": { "url": "ftp://x" } })), 400, "config.webhook.url"),
        bad("POST", SANDBOXES, claim(json!({ "webhook": { "url": "http://user:password@x/" } })), 400, "config.webhook.url"),
        bad("POST", SANDBOXES, claim(json!({ "webhook": { "url": "http://x/", "secret": "x".repeat(2000) } })), 400, "config.webhook.secret"),
        bad("POST", SANDBOXES, claim(json!({ "webhook": { "url": "http://x/", "watch_dir": "relative" } })), 400, "config.webhook.watch_dir"),
        bad("POST", SANDBOXES, claim(json!({ "services": {} })), 400, "config.services"),
        bad("POST", SANDBOXES, claim(json!({ "services": [{ "id": "web", "port": 8080 }] })), 400, "config.services[0].ingress"),
        bad("POST", SANDBOXES, json!({ "template": "default", "mounts": [{ "sandboxvolume_id": "none", "mount_point": "/data" }] }), 404, "none"),
        bad("POST", SANDBOXES, json!({ "template": "default", "mounts": [{}] }), 400, "mounts[0]"),
        bad("POST", SANDBOXES, json!({ "template": "default", "snapshot_id": "none" }), 404, "none"),
        raw("POST", SANDBOXES, b"", 400),
        raw("POST", SANDBOXES, b"{", 400),
        raw("POST", SANDBOXES, b"not json", 400),
        raw("POST", SANDBOXES, b"[]", 400),
        raw("POST", SANDBOXES, b"null", 400),
        raw("POST", SANDBOXES, b"\xff\xfe", 400),
        raw("POST", SANDBOXES, b"{\"template\":\"default\"} trailing", 400),
        raw("POST", SANDBOXES, "[".repeat(100_000).as_bytes(), 400),
        raw("POST", SANDBOXES, &vec![b' '; 5 << 20], 413),
        raw("POST", SANDBOXES, format!("{{\"template\":\"{}\"}}", "x".repeat(5 << 20)).as_bytes(), 413),
        // List.
        bad("GET", format!("{SANDBOXES}?limit=0"), Value::Null, 400, "limit"),
        bad("GET", format!("{SANDBOXES}?limit=201"), Value::Null, 400, "limit"),
        bad("GET", format!("{SANDBOXES}?limit=-1"), Value::Null, 400, "limit"),
        bad("GET", format!("{SANDBOXES}?limit=ten"), Value::Null, 400, "limit"),
        bad("GET", format!("{SANDBOXES}?limit=99999999999999999999"), Value::Null, 400, "limit"),
        bad("GET", format!("{SANDBOXES}?offset=-1"), Value::Null, 400, "offset"),
        bad("GET", format!("{SANDBOXES}?status=sleepy"), Value::Null, 400, "status"),
        bad("GET", format!("{SANDBOXES}?paused=maybe"), Value::Null, 400, "paused"),
        // One that does not exist.
        bad("GET", none(""), Value::Null, 404, ""),
        bad("GET", none("/status"), Value::Null, 404, ""),
        bad("PUT", none(""), json!({ "config": { "ttl": 5 } }), 404, ""),
        bad("DELETE", none(""), Value::Null, 404, ""),
        bad("POST", none("/pause"), json!({}), 404, ""),
        bad("POST", none("/resume"), json!({}), 404, ""),
        bad("POST", none("/refresh"), json!({}), 404, ""),
        bad("POST", none("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["true"] } }), 404, ""),
        bad("GET", none("/files?path=/etc/passwd"), Value::Null, 404, ""),
        bad("GET", none("/logs"), Value::Null, 404, ""),
        bad("GET", none("/events"), Value::Null, 404, ""),
        bad("GET", none("/network"), Value::Null, 404, ""),
        bad("GET", none("/services"), Value::Null, 404, ""),
        bad("GET", format!("{SANDBOXES}/%00"), Value::Null, 404, ""),
        bad("GET", format!("{SANDBOXES}/..%2f..%2fetc"), Value::Null, 404, ""),
        bad("GET", format!("{SANDBOXES}/{}", "x".repeat(3000)), Value::Null, 404, ""),
        // Update, refresh, pause.
        bad("PUT", own(""), json!({}), 400, "config"),
        bad("PUT", own(""), json!({ "config": { "ttl": -1 } }), 400, "config.ttl"),
        bad("PUT", own(""), json!({ "config": { "ttl": 600, "hard_ttl": 60 } }), 400, "config.ttl"),
        bad("PUT", own(""), json!({ "config": { "env_vars": { "A": "b" } } }), 400, "config.env_vars"),
        bad("PUT", own(""), json!({ "config": { "webhook": { "url": "http://user:password@x/" } } }), 400, "config.webhook.url"),
        bad("PUT", own(""), json!({ "config": { "webhook": { "watch_dir": "/x" } } }), 400, "config.webhook.url"),
        bad("PUT", own(""), json!({ "config": { "webhook": 5 } }), 400, "config.webhook"),
        bad("PUT", own(""), json!({ "config": { "network": { "mode": 5 } } }), 400, "config.network"),
        bad("POST", own("/refresh"), json!({ "duration": -1 }), 400, "duration"),
        bad("POST", own("/refresh"), json!({ "duration": "long" }), 400, "duration"),
        bad("POST", own("/refresh"), json!({ "duration": 99_999_999_999_u64 }), 400, "duration"),
        bad("POST", own("/pause"), json!({ "memory": "yes" }), 400, "memory"),
        bad("PUT", own("/network"), json!([]), 400, ""),
        bad("PUT", own("/network"), json!({ "mode": "half" }), 400, "mode"),
        bad("PUT", own("/services"), json!({}), 400, "services"),
        bad("PUT", own("/services"), json!({ "services": [{ "id": "", "ingress": {} }] }), 400, "services[0].id"),
        bad("PUT", own("/services"), route(json!({ "path_prefix": 7 })), 400, "routes[0].path_prefix"),
        bad("PUT", own("/services"), route(json!({ "path_prefix": "/a/../b" })), 400, "routes[0].path_prefix"),
        bad("PUT", own("/services"), hidden, 400, "routes[1].path_prefix"),
        bad("PUT", own("/services"), route(json!({ "timeout_seconds": -1 })), 400, "routes[0].timeout_seconds"),
        bad("PUT", own("/services"), route(json!({ "auth": { "mode": "magic" } })), 400, "routes[0].auth"),
        // Contexts.
        bad("POST", own("/contexts"), json!({ "type": "banana" }), 400, "type"),
        bad("POST", own("/contexts"), json!({}), 400, "type"),
        bad("POST", own("/contexts"), json!({ "type": "cmd" }), 400, "cmd.command"),
        bad("POST", own("/contexts"), json!({ "type": "cmd", "cmd": { "command": [] } }), 400, "cmd.command"),
        bad("POST", own("/contexts"), json!({ "type": "cmd", "cmd": { "command": "ls" } }), 400, "cmd.command"),
        bad("POST", own("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["a", 1] } }), 400, "cmd.command[1]"),
        bad("POST", own("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["a\u{0}"] } }), 400, "cmd.command[0]"),
        bad("POST", own("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["true"] }, "repl": {} }), 400, "repl"),
        bad("POST", own("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["true"] }, "ttl_sec": -1 }), 400, "ttl_sec"),
        bad(
            "POST",
            own("/contexts"),
            json!({ "type": "cmd", "cmd": { "command": ["true"] }, "pty_size": { "rows": 70_000, "cols": 80 } }),
            400,
            "pty_size.rows",
        ),
        bad("POST", own("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["true"] }, "env_vars": { "A": [] } }), 400, "env_vars.A"),
        bad("POST", own("/contexts"), json!({ "type": "repl", "repl": { "alias": "klingon" } }), 400, "klingon"),
        bad("POST", own("/contexts"), json!({ "type": "repl", "repl": { "repl_config": { "name": "x", "candidates": [] } } }), 400, "candidates"),
        bad("GET", own("/contexts/ctx-00000000"), Value::Null, 404, ""),
        bad("DELETE", own("/contexts/ctx-00000000"), Value::Null, 404, ""),
        bad("POST", own("/contexts/ctx-00000000/exec"), json!({ "data": "1" }), 404, ""),
        bad("POST", own("/contexts/..%2f..%2finfo/exec"), json!({ "data": "1" }), 404, ""),
        bad("POST", context("/input"), json!({}), 400, "data"),
        bad("POST", context("/input"), json!({ "data": 1 }), 400, "data"),
        bad("POST", context("/exec"), json!({ "data": "" }), 400, "data"),
        bad("POST", context("/resize"), json!({ "rows": 0, "cols": 80 }), 400, "rows"),
        bad("POST", context("/resize"), json!({ "rows": 24 }), 400, "cols"),
        bad("POST", context("/signal"), json!({ "signal": "" }), 400, "signal"),
        bad("POST", context("/signal"), json!({ "signal": "BOGUS" }), 400, "BOGUS"),
        bad("POST", context("/signal"), json!({ "signal": "99" }), 400, "99"),
        // Files.
        bad("GET", own("/files"), Value::Null, 400, "path"),
        bad("GET", own("/files?path=/none"), Value::Null, 404, ""),
        bad("GET", own("/files?path=/tmp"), Value::Null, 409, ""),
        bad("GET", own("/files?path=%00"), Value::Null, 400, "path"),
        bad("GET", own(&format!("/files?path=/{}", "x".repeat(5000))), Value::Null, 400, "path"),
        bad("POST", own("/files?path=/tmp"), json!("x"), 409, ""),
        bad("POST", own("/files?path=/tmp/f&mode=rwx"), json!("x"), 400, "mode"),
        bad("POST", own("/files?path=/tmp/f&mode=77777"), json!("x"), 400, "mode"),
        bad("POST", own("/files?path=/none/deep/er&mkdir=true"), Value::Null, 404, ""),
        bad("POST", own("/files?path=/tmp&mkdir=true"), Value::Null, 409, ""),
        bad("POST", own("/files?path=/etc/passwd/under"), json!("x"), 409, ""),
        bad("GET", own("/files/stat?path=/none"), Value::Null, 404, ""),
        bad("GET", own("/files/list?path=/none"), Value::Null, 404, ""),
        bad("POST", own("/files?path=a%ff"), json!("x"), 400, "path: is not UTF-8"),
        bad("GET", own("/files?path=a%fe"), Value::Null, 400, "path: is not UTF-8"),
        bad("DELETE", own("/files?path=a%fe"), Value::Null, 400, "path: is not UTF-8"),
        bad("GET", own("/files/list?path=/%c3"), Value::Null, 400, "path: is not UTF-8"),
        bad("GET", own("/files/stat?path=/%c3"), Value::Null, 400, "path: is not UTF-8"),
        bad("GET", own("/files/list?path=/etc/passwd"), Value::Null, 409, ""),
        bad("POST", own("/files/move"), json!({ "source": "/none", "destination": "/tmp/x" }), 404, ""),
        bad("POST", own("/files/move"), json!({ "source": "/etc/passwd" }), 400, "destination"),
        bad("POST", own("/files/move"), json!({ "source": "", "destination": "/tmp/x" }), 400, "source"),
        // Logs and events.
        bad("GET", own("/logs?tail_lines=many"), Value::Null, 400, "tail_lines"),
        bad("GET", own("/logs?container=other"), Value::Null, 400, "container"),
        bad("GET", own("/logs?follow=perhaps"), Value::Null, 400, "follow"),
        bad("GET", own("/events?limit=0"), Value::Null, 400, "limit"),
        bad("GET", own("/events?after=x"), Value::Null, 400, "after"),
        bad("GET", own("/observability/logs?start_time=yesterday"), Value::Null, 400, "start_time"),
        bad("GET", own("/observability/logs?stream=stdin"), Value::Null, 400, "stream"),
        // Templates.
        bad("GET", "/api/v1/templates/none", Value::Null, 404, ""),
        bad("POST", "/api/v1/templates", json!({ "spec": { "mainContainer": { "image": "host", "resources": {} } } }), 400, "template_id"),
        bad("POST", "/api/v1/templates", json!({ "template_id": "x", "spec": {} }), 400, "spec"),
        bad(
            "POST",
            "/api/v1/templates",
            json!({ "template_id": "Bad Id!", "spec": { "mainContainer": { "image": "host", "resources": {} } } }),
            400,
            "template_id",
        ),
        bad("DELETE", "/api/v1/templates/default", Value::Null, 403, ""),
        // Routes.
        bad("GET", "/api/v1/nothing", Value::Null, 404, ""),
        bad("PATCH", SANDBOXES, json!({}), 405, ""),
        bad("POST", own(""), json!({}), 405, ""),
        bad("GET", own("/contexts/ctx-00000000/ws"), Value::Null, 400, ""),
        bad("GET", own("/files/watch"), Value::Null, 400, ""),
        bad("POST", "/api-keys", json!({ "name": "x", "roles": ["king"] }), 400, "roles"),
        bad("POST", "/api-keys", json!({ "name": "" }), 400, "name"),
        bad("POST", "/api-keys", json!({ "name": "x", "expires_in": "soon" }), 400, "expires_in"),
        bad("GET", "/teams/none", Value::Null, 404, ""),
        bad("POST", "/auth/login", json!({ "email": "x@example.com", "password": "wrong-password" }), 401, ""),
        bad("POST", "/auth/login", json!({ "email": "x@example.com" }), 400, "password"),
    ];
    assert!(rows.len() >= 60);
    let mut found = Vec::new();
    for bad in &rows {
        match api.try_send(bad.method, &bad.path, &[("content-type", "application/json")], &bad.body) {
            Ok(reply) => found.extend(wrong(bad, &reply)),
            Err(error) => found.push(format!("{} {}: {error}", bad.method, bad.path)),
        }
    }
    assert!(found.is_empty(), "{} of {}:\n{}", found.len(), rows.len(), found.join("\n"));
    // Nothing of it left a trace.
    let listed = api.get(&format!("{SANDBOXES}?limit=200")).ok(200);
    assert!(listed["sandboxes"].as_array().unwrap().iter().any(|row| row["id"] == sandbox.id.as_str()));
    assert_eq!(sandbox.sh_ok("echo well"), "well\n");
}

#[test]
fn strangers_and_wrong_tokens_get_401_on_every_path() {
    let server = shared();
    let api = server.api();
    let sandbox = Sandbox::claim(&api, json!({}));
    for path in [
        SANDBOXES.to_owned(),
        sandbox.path(""),
        sandbox.path("/files?path=/etc/passwd"),
        sandbox.path("/logs"),
        sandbox.path("/contexts"),
        "/api/v1/templates".into(),
        "/api-keys".into(),
        "/users/me".into(),
        "/teams".into(),
    ] {
        api.anonymous().get(&path).error(&[401]);
        api.with_token("s0_default_000000000000000000000000000000000000000000000000").get(&path).error(&[401]);
        api.with_token("x").get(&path).error(&[401]);
        api.with_token(&"x".repeat(6000)).get(&path).error(&[401]);
    }
    assert_eq!(api.anonymous().ws(&sandbox.path("/files/watch")).err(), Some(401));
    for path in ["/healthz", "/readyz", "/metadata"] {
        assert_eq!(api.anonymous().get(path).status, 200, "{path}");
    }
}

#[test]
fn access_to_a_paused_sandbox_that_may_not_be_woken_is_503_with_its_state() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({ "auto_resume": false }));
    let context = sandbox.spawn(&["sleep", "86400"]);
    sandbox.post("/pause", json!({}));
    let api = &sandbox.api;
    let context = |rest: &str| sandbox.path(&format!("/contexts/{}{rest}", context["id"].as_str().unwrap()));
    let replies = [
        api.get(&sandbox.file("/etc/passwd")),
        api.send("POST", &sandbox.file("/workspace/x"), b"x"),
        api.delete(&sandbox.file("/workspace/x")),
        api.get(&sandbox.path("/files/stat?path=/")),
        api.get(&sandbox.path("/files/list?path=/")),
        api.post(&sandbox.path("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["true"] } })),
        api.get(&sandbox.path("/contexts")),
        api.get(&context("")),
        api.post(&context("/input"), json!({ "data": "x" })),
        api.post(&context("/signal"), json!({ "signal": "TERM" })),
    ];
    for reply in replies {
        let error = reply.error(&[503]);
        assert!(error["message"].as_str().unwrap().contains("paused"), "{error}");
        assert_eq!(error["details"]["paused"], true, "{error}");
        assert_eq!(error["details"]["auto_resume"], false, "{error}");
    }
    assert_eq!(api.ws(&context("/ws")).err(), Some(503));
    assert!(sandbox.is_paused(), "an access woke it");
    sandbox.post("/resume", json!({}));
    assert_eq!(sandbox.sh_ok("echo awake"), "awake\n");
}

#[test]
fn broken_http_neither_hangs_nor_kills_the_server() {
    let server = shared();
    let api = server.api();
    let sandbox = Sandbox::claim(&api, json!({}));
    // A body that breaks off is no file.
    for path in [sandbox.file("/workspace/half"), sandbox.path("/contexts"), SANDBOXES.to_owned()] {
        let mut stream = api.open("POST", &path, &[], Some(1000)).unwrap();
        stream.write_all(b"{\"only\":").unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    }
    for request in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\0\0\0\0",
        b"GET /api/v1/sandboxes HTTP/9.9\r\n\r\n",
        b"POST /api/v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /api/v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut stream = std::net::TcpStream::connect(api.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.0 4"), "{text}");
    }
    // An announced file beyond the limit is refused before it is sent.
    let stream = api.open("POST", &sandbox.file("/workspace/huge"), &[], Some(1 << 50)).unwrap();
    let reply = Incoming::read(stream).unwrap().whole().unwrap();
    reply.error(&[413]);
    assert_eq!(api.get(&sandbox.file("/workspace/half")).status, 404, "half a file is there");
    // What had come of a file lies beside it under a name of its own until its sender is known to be gone.
    eventually("what broke off is removed", Duration::from_secs(60), || match sandbox.sh_ok("ls -A /workspace; echo well").as_str() {
        "well\n" => Ok(()),
        other => Err(other.to_owned()),
    });
}
