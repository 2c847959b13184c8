//! Who may do what: teams, keys, roles; and the descriptions that the API gives of itself.

use serde_json::{Value, json};

use super::{
    harness::{SANDBOXES, Sandbox, Server, TOKEN, shared},
    http::Api,
};

/// Somebody with a team of their own. The same address again is the same somebody.
pub fn member(server: &Server, email: &str) -> Api {
    let api = server.api();
    let account = json!({ "email": email, "password": "correct horse battery", "name": email });
    let reply = api.anonymous().post("/auth/register", account.clone());
    let reply = if reply.status == 409 { api.anonymous().post("/auth/login", account) } else { reply };
    let data = reply.value()["data"].clone();
    api.with_token(data["access_token"].as_str().unwrap_or_else(|| panic!("no login: {}", reply.text())))
}

fn key(api: &Api, roles: &[&str]) -> (Api, Value) {
    let made = api.post("/api-keys", json!({ "name": "test", "roles": roles })).ok(201);
    (api.with_token(made["key"].as_str().expect("the key's text")), made)
}

#[test]
fn another_teams_sandbox_does_not_exist() {
    let server = shared();
    let stranger = member(&server, "stranger@example.com");
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let context = sandbox.spawn(&["sleep", "86400"]);
    let context = |rest: &str| sandbox.path(&format!("/contexts/{}{rest}", context["id"].as_str().unwrap()));
    let tries = [
        stranger.get(&sandbox.path("")),
        stranger.get(&sandbox.path("/status")),
        stranger.put(&sandbox.path(""), json!({ "config": { "ttl": 1 } })),
        stranger.post(&sandbox.path("/pause"), json!({})),
        stranger.post(&sandbox.path("/resume"), json!({})),
        stranger.post(&sandbox.path("/refresh"), json!({})),
        stranger.delete(&sandbox.path("")),
        stranger.get(&sandbox.file("/etc/passwd")),
        stranger.send("POST", &sandbox.file("/workspace/x"), b"x"),
        stranger.get(&sandbox.path("/contexts")),
        stranger.get(&context("")),
        stranger.post(&context("/input"), json!({ "data": "x" })),
        stranger.post(&sandbox.path("/contexts"), json!({ "type": "cmd", "cmd": { "command": ["true"] } })),
        stranger.get(&sandbox.path("/logs")),
        stranger.get(&sandbox.path("/events")),
        stranger.get(&sandbox.path("/observability/logs")),
        stranger.get(&sandbox.path("/network")),
        stranger.put(&sandbox.path("/network"), json!({ "mode": "allow-all" })),
        stranger.put(&sandbox.path("/services"), json!({ "services": [] })),
    ];
    for reply in tries {
        reply.error(&[404]);
    }
    assert_eq!(stranger.ws(&context("/ws")).err(), Some(404));
    assert_eq!(stranger.ws(&sandbox.path("/files/watch")).err(), Some(404));
    assert_eq!(stranger.get(SANDBOXES).ok(200)["sandboxes"], json!([]));
    // Naming the team does not help.
    let team = sandbox.get()["team_id"].as_str().unwrap().to_owned();
    let reply = stranger.try_send("GET", &sandbox.path(""), &[("x-team-id", &team)], b"").unwrap();
    reply.error(&[403, 404]);
    assert_eq!(sandbox.sh_ok("echo mine"), "mine\n");
    assert!(!sandbox.is_paused());
}

#[test]
fn roles_allow_what_they_say() {
    let server = shared();
    let admin = server.api();
    let sandbox = Sandbox::claim(&admin, json!({}));
    let (viewer, _) = key(&admin, &["viewer"]);
    viewer.get(SANDBOXES).ok(200);
    viewer.get(&sandbox.path("")).ok(200);
    viewer.get(&sandbox.path("/events")).ok(200);
    let run = json!({ "type": "cmd", "cmd": { "command": ["true"] } });
    for reply in [
        viewer.post(SANDBOXES, json!({ "template": "default" })),
        viewer.delete(&sandbox.path("")),
        viewer.post(&sandbox.path("/pause"), json!({})),
        viewer.put(&sandbox.path(""), json!({ "config": { "ttl": 5 } })),
        viewer.post(&sandbox.path("/contexts"), run.clone()),
        viewer.send("POST", &sandbox.file("/workspace/x"), b"x"),
        viewer.delete(&sandbox.file("/etc/passwd")),
        viewer.put(&sandbox.path("/network"), json!({ "mode": "allow-all" })),
        viewer.put(&sandbox.path("/services"), json!({ "services": [] })),
        viewer.post("/api/v1/templates", json!({ "template_id": "x", "spec": {} })),
        viewer.post("/api-keys", json!({ "name": "more", "roles": ["viewer"] })),
    ] {
        reply.error(&[403]);
    }
    let (developer, _) = key(&admin, &["developer"]);
    developer.post(&sandbox.path("/contexts"), run).ok(201);
    let made = developer.post(SANDBOXES, json!({ "template": "default" })).ok(201);
    developer.delete(&format!("{SANDBOXES}/{}", made["sandbox_id"].as_str().unwrap())).ok(202);
    let spec = json!({ "mainContainer": { "image": "host", "resources": { "memory": "256Mi" } } });
    developer.post("/api/v1/templates", json!({ "template_id": "by-developer", "spec": spec })).error(&[403]);
    let (builder, _) = key(&admin, &["builder"]);
    builder.post("/api/v1/templates", json!({ "template_id": "by-builder", "spec": spec })).ok(201);
    builder.delete("/api/v1/templates/by-builder").ok(200);
    builder.post("/api-keys", json!({ "name": "x", "roles": ["admin"] })).error(&[403]);
}

#[test]
fn keys_end_and_are_shown_only_once() {
    let server = shared();
    let admin = server.api();
    let (holder, made) = key(&admin, &["developer"]);
    let text = made["key"].as_str().unwrap();
    let parts: Vec<_> = text.split('_').collect();
    assert!(parts.len() == 3 && parts[0] == "s0" && parts[2].len() == 48, "{text}");
    assert_eq!(holder.get("/api-keys/current").ok(200)["api_key"]["id"], made["id"]);
    assert!(!admin.get("/api-keys").text().contains(text), "a list shows the text of a key");
    assert!(!admin.get("/api-keys").text().contains(TOKEN));
    let id = made["id"].as_str().unwrap();
    admin.send("POST", &format!("/api-keys/{id}/deactivate"), b"").ok(200);
    holder.get(SANDBOXES).error(&[401]);
    admin.delete(&format!("/api-keys/{id}")).ok(200);
    admin.delete(&format!("/api-keys/{id}")).error(&[404]);
    let brief = admin.post("/api-keys", json!({ "name": "brief", "roles": ["viewer"], "expires_in": "1s" })).ok(201);
    let brief = admin.with_token(brief["key"].as_str().unwrap());
    super::http::eventually("the key expires", std::time::Duration::from_secs(20), || match brief.get(SANDBOXES).status {
        401 => Ok(()),
        status => Err(status.to_string()),
    });
}

#[test]
fn logins_begin_go_on_and_end() {
    let server = shared();
    let api = member(&server, "login@example.com");
    let me = api.get("/users/me").ok(200);
    assert_eq!(me["email"], "login@example.com");
    let teams = api.get("/teams").ok(200);
    assert_eq!(teams["teams"].as_array().unwrap().len(), 1);
    let login = json!({ "email": "login@example.com", "password": "correct horse battery" });
    let data = api.anonymous().post("/auth/login", login).ok(200);
    assert!(data["expires_at"].as_i64().is_some());
    let refreshed = api.anonymous().post("/auth/refresh", json!({ "refresh_token": data["refresh_token"] })).ok(200);
    let fresh = api.with_token(refreshed["access_token"].as_str().unwrap());
    fresh.get("/users/me").ok(200);
    // The refresh token was for one use.
    api.anonymous().post("/auth/refresh", json!({ "refresh_token": data["refresh_token"] })).error(&[401]);
    fresh.get("/users/me").error(&[401]);
    api.send("POST", "/auth/logout", b"").ok(200);
    api.get("/users/me").error(&[401]);
}

#[test]
fn pools_follow_the_templates() {
    let server = shared();
    let api = server.api();
    let spec = |image: &str| json!({ "mainContainer": { "image": image, "resources": { "memory": "200Mi" } }, "pool": { "minIdle": 1, "maxIdle": 1 } });
    // One that can never be launched must not hold up the others.
    api.post("/api/v1/templates", json!({ "template_id": "nowhere", "spec": spec("nowhere:1") })).ok(201);
    api.post(SANDBOXES, json!({ "template": "nowhere" })).error(&[409]);
    api.post("/api/v1/templates", json!({ "template_id": "kept", "spec": spec("host") })).ok(201);
    super::http::eventually("the new template's pool fills", std::time::Duration::from_secs(30), || {
        let status = api.get("/api/v1/templates/kept").ok(200)["status"].clone();
        if status["idleCount"] == 1 { Ok(()) } else { Err(status.to_string()) }
    });
    for template in ["nowhere", "kept"] {
        api.delete(&format!("/api/v1/templates/{template}")).ok(200);
    }
}

#[test]
fn the_api_describes_itself() {
    let server = shared();
    let api = server.api();
    let openapi = api.anonymous().get("/openapi.json");
    assert_eq!(openapi.status, 200);
    let openapi = openapi.value();
    assert!(openapi["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    for path in ["/api/v1/sandboxes", "/api/v1/sandboxes/{id}/pause", "/api/v1/sandboxes/{id}/files", "/api-keys"] {
        assert!(openapi["paths"].get(path).is_some(), "{path} is not described");
    }
    let docs = api.anonymous().get("/docs");
    assert_eq!(docs.status, 200);
    assert!(docs.header("content-type").unwrap().starts_with("text/html"));
    let metrics = api.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.text().lines().any(|line| line.starts_with("# TYPE")), "{}", metrics.text());
    let templates = api.get("/api/v1/templates").ok(200);
    let default = templates["templates"].as_array().unwrap().iter().find(|template| template["template_id"] == "default").expect("the template `default`");
    assert!(default["spec"]["mainContainer"]["resources"]["memory"].is_string());
    assert_eq!(api.anonymous().get("/metadata").ok(200)["gateway_mode"], "direct");
    let reply = api.try_send("GET", SANDBOXES, &[("x-request-id", "my-own-id")], b"").unwrap();
    assert!(reply.header("x-request-id").is_some());
}

#[test]
fn a_server_whose_log_nobody_reads_serves_on() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    server.kill();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    server.up_with(|command| {
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
    });
    let api = server.api();
    let sandbox = Sandbox::claim(&api, json!({}));
    assert_eq!(sandbox.sh_ok("echo said"), "said\n");
    drop(sandbox);
    assert_eq!(api.get("/api/v1/none").status, 404);
    assert!(server.terminate().success());
}
