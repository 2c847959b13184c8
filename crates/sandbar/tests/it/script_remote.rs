//! What executors of scripts ask back, and where `ctx.fetch` comes to.

use serde_json::{Value, json};

use super::{
    harness::Server,
    http::{Api, Reply},
    receiver::{Answer, Receiver},
};

const RPC: &str = "/api/_internal/sandbox-rpc";
/// The secret that executors of old share with the server.
const SHARED: &str = "0123456789abcdef0123456789abcdef";

fn error_code(reply: &Reply) -> String {
    reply.value()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// The first team, and its first admin.
fn team(api: &Api) -> (String, String) {
    let team = api.get("/teams").ok(200)["teams"][0]["id"].as_str().unwrap().to_owned();
    let user = api.get("/users/me").ok(200)["id"].as_str().unwrap().to_owned();
    (team, user)
}

#[test]
fn without_a_setting_nobody_asks_back() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    for caller in [api.anonymous(), api.clone(), api.with_token(SHARED)] {
        let reply = caller.post(RPC, json!({"op": "fetch", "args": {}}));
        assert_eq!((reply.status, error_code(&reply).as_str()), (403, "FORBIDDEN"), "{}", reply.text());
    }
}

#[test]
fn who_knows_the_shared_secret_fetches_what_the_operator_allows() {
    let private = Receiver::ok();
    let receiver = Receiver::start(move |got| match got.path.as_str() {
        "/there" => Answer::With(307, "location: /here"),
        "/inside" => Answer::With(307, "location: http://10.0.0.1/"),
        "/elsewhere" => Answer::With(307, "location: http://localhost:1/"),
        _ => Answer::With(201, "x-answer: yes"),
    });
    let allow = format!("{},10.0.0.1,127.0.0.2:{}", receiver.addr, private.addr.port());
    let server = Server::start_with(&[
        ("SANDBAR_POOL_MIN_IDLE", "0"),
        ("SANDBOX_RPC_TOKEN", SHARED),
        ("FUNCTIONS_FETCH_ALLOW", &allow),
        ("SANDBAR_EGRESS_ALLOW", "127.0.0.1/32"),
    ]);
    let api = server.api();
    let (team_id, user_id) = team(&api);
    let caller = api.with_token(SHARED);
    for wrong in [api.anonymous(), api.clone(), api.with_token("0123456789abcdef0123456789abcdeF"), api.with_token("sbg1.e30.AAAA")] {
        let reply = wrong.post(RPC, json!({"op": "fetch", "args": {}}));
        assert_eq!((reply.status, error_code(&reply).as_str()), (401, "UNAUTHORIZED"), "{}", reply.text());
    }
    for body in [json!({"op": "eval", "args": {}}), json!({"op": "sleep", "args": {"ms": 1}}), json!({"args": {}}), json!([])] {
        let reply = caller.post(RPC, body);
        assert_eq!((reply.status, error_code(&reply).as_str()), (400, "BAD_REQUEST"), "{}", reply.text());
    }
    let rpc = |op: &str, args: Value, auth: Value| {
        let reply = caller.post(RPC, json!({"op": op, "args": args, "auth": auth}));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.value()
    };
    let auth = json!({"userId": user_id, "email": "x", "roles": ["whatever"], "tenantId": team_id});
    let fetch = |path: &str| {
        rpc(
            "fetch",
            json!({"url": receiver.url(path), "init": {"method": "POST", "body": "{}", "headers": {"authorization": "Bearer x", "host": "evil"}}}),
            auth.clone(),
        )
    };
    let reply = fetch("/here");
    assert_eq!(
        (&reply["ok"], &reply["value"]["status"], &reply["value"]["ok"], &reply["value"]["redirected"]),
        (&json!(true), &json!(201), &json!(true), &json!(false)),
        "{reply}"
    );
    assert!(reply["value"]["headers"].as_array().unwrap().contains(&json!(["x-answer", "yes"])), "{reply}");
    let reply = fetch("/there");
    assert_eq!((&reply["value"]["redirected"], &reply["value"]["url"]), (&json!(true), &json!(receiver.url("/here"))), "{reply}");
    let got = receiver.got();
    assert!(
        got.iter().all(|got| got.headers["host"] == receiver.addr.to_string()
            && got.headers["authorization"] == "Bearer x"
            && got.headers.contains_key("traceparent"))
    );
    for (path, words) in [("/inside", "10.0.0.1 is not reached"), ("/elsewhere", "URL not in fetch allow-list: http://localhost:1/")] {
        let reply = fetch(path);
        assert!(reply["ok"] == false && reply["code"] == "denied" && reply["error"].as_str().unwrap().contains(words), "{reply}");
    }
    for (url, words) in [
        ("http://example.com/".to_owned(), "URL not in fetch allow-list: http://example.com/"),
        (format!("http://127.0.0.2:{}/", private.addr.port()), "127.0.0.2 is not reached"),
        ("http://10.0.0.1/".to_owned(), "10.0.0.1 is not reached"),
        (format!("http://user@{}/", receiver.addr), "not in fetch allow-list"),
        (format!("file://{}/etc/passwd", receiver.addr.ip()), "not in fetch allow-list"),
    ] {
        let reply = rpc("fetch", json!([url]), auth.clone());
        assert!(reply["ok"] == false && reply["error"].as_str().unwrap().contains(words), "{url}: {reply}");
    }
    assert!(private.got().is_empty());
    // Arguments in their order are as good.
    assert_eq!(rpc("fetch", json!([receiver.url("/here"), {"method": "POST"}]), auth.clone())["value"]["status"], 201);
    // What is a script's own is for grants.
    for (op, args) in [("email.send", json!({"to": "a@b.test", "subject": "s", "text": "t"})), ("secrets.get", json!({"name": "KEY"}))] {
        let reply = rpc(op, args, auth.clone());
        assert!(reply["ok"] == false && reply["error"].as_str().unwrap().contains("needs a grant"), "{reply}");
    }
    // Whom it names has to be there.
    for auth in [json!({}), json!({"tenantId": "nowhere"}), json!({"tenantId": team_id, "userId": "nobody"}), Value::Null] {
        let reply = rpc("fetch", json!({"url": receiver.url("/here")}), auth.clone());
        assert!(reply["ok"] == false && reply["code"] == "denied", "{auth}: {reply}");
    }
}

#[test]
fn the_outbox_is_for_admins() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let api = server.api();
    assert_eq!(api.get("/api/outbox").value(), json!({"data": []}));
    for id in ["x", "..%2f..%2fsecret.key", "0000000000001-x"] {
        let reply = api.get(&format!("/api/outbox/{id}"));
        assert_eq!((reply.status, error_code(&reply).as_str()), (404, "NOT_FOUND"), "{}", reply.text());
    }
    assert_eq!(api.get("/api/outbox?limit=0").status, 400);
    assert_eq!(api.anonymous().get("/api/outbox").status, 401);
}
