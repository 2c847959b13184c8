//! What executors of scripts ask back, and where `ctx.fetch` comes to.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

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

/// Hands connections on, as what stands before a server does.
fn door_to(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for outside in listener.incoming().flatten() {
            let Ok(inside) = TcpStream::connect(to) else { continue };
            for (mut from, mut to) in [(outside.try_clone().unwrap(), inside.try_clone().unwrap()), (inside, outside)] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    addr
}

#[test]
fn a_loop_of_calls_ends_and_no_stranger_is_told_of_it() {
    let stranger = Receiver::ok();
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0"), ("FUNCTIONS_FETCH_ALLOW", "*"), ("SANDBAR_EGRESS_ALLOW", "127.0.0.1/32")]);
    let api = server.api();
    // It asks a stranger and then calls itself, and says how often it was called.
    let code = "await ctx.fetch(ctx.data.stranger);
        const r = await ctx.fetch(ctx.data.self, { method: 'POST', body: JSON.stringify(ctx.data) });
        return r.status === 508 ? 1 : 1 + JSON.parse(r.text).value";
    let made = api.post("/api/functions", json!({"name": "loop", "code": code, "access": "public", "timeoutMs": 60_000}));
    let id = made.value()["data"]["id"].as_str().expect("is made").to_owned();
    // By its own address, and through a door that it does not know as its own: there the trace says it.
    for address in [api.addr(), door_to(api.addr())] {
        let url = format!("http://{address}/api/functions/{id}/invoke");
        let reply = api.post(&format!("/api/functions/{id}/invoke"), json!({"self": url, "stranger": stranger.url("/")}));
        // The first, eight more, and the ninth is refused.
        assert_eq!((reply.status, &reply.value()["value"]), (200, &json!(9)), "{}", reply.text());
    }
    let got = stranger.got();
    assert_eq!(got.len(), 18);
    assert!(got.iter().all(|got| got.headers.keys().all(|name| !name.starts_with("x-sandbar-"))), "{:?}", got[0].headers);
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

/// An executor of the test's own: what it does with a call is up to the test.
struct Executor {
    addr: SocketAddr,
    calls: Arc<Mutex<Vec<Value>>>,
}

impl Executor {
    fn start(run: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, calls) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (kept, run) = (Arc::clone(&calls), Arc::new(run));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, run) = (Arc::clone(&kept), Arc::clone(&run));
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    let mut length = 0;
                    loop {
                        let mut line = String::new();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 {
                            return;
                        }
                        if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                            length = said.trim().parse().unwrap();
                        }
                        if line == "\r\n" {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let call: Value = serde_json::from_slice(&body).unwrap();
                    kept.lock().unwrap().push(call.clone());
                    let (status, answer) = run(&call);
                    let _ = write!(reader.get_mut(), "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}", answer.len());
                });
            }
        });
        Self { addr, calls }
    }

    fn calls(&self) -> Vec<Value> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

/// An op of a call, asked back for with what the call gave.
fn ask_back(call: &Value, op: &str, args: Value) -> (u16, Value) {
    let origin: SocketAddr = call["mainOrigin"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
    let api = Api::new(origin, call["rpcToken"].as_str().unwrap());
    // In somebody else's name: nobody believes that.
    let reply = api.post(RPC, json!({"op": op, "args": args, "auth": {"userId": "root", "roles": ["admin"], "tenantId": "other"}}));
    (reply.status, reply.value())
}

#[test]
fn an_executor_runs_scripts_and_asks_back_with_a_grant() {
    let executor = Executor::start(|call| match call["code"].as_str().unwrap() {
        "return 'ops'" => {
            let ops = [
                ("secrets.get", json!({"name": "KEY"})),
                ("secrets.get", json!(["OTHER"])),
                ("email.send", json!({"to": "ann@b.test", "subject": "s", "text": "t"})),
                ("db.one", json!(["nope", "1"])),
                ("fetch", json!(["http://a.test/"])),
            ];
            let answers: Vec<Value> = ops.into_iter().map(|(op, args)| ask_back(call, op, args).1).collect();
            (200, json!({"ok": true, "value": answers, "logs": ["one", {"two": 2}]}).to_string())
        }
        "throw new TypeError('x')" => (200, json!({"ok": false, "error": "x", "logs": ["before"]}).to_string()),
        "return undefined" => (200, json!({"ok": true, "logs": []}).to_string()),
        "return 'busy'" => (503, "no\nroom".to_owned()),
        "return 'html'" => (200, "<html>".to_owned()),
        _ => (404, String::new()),
    });
    let url = format!("http://{}/", executor.addr);
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0"), ("FUNCTIONS_EXEC_URL", &url)]);
    let api = server.api();
    let (team_id, user_id) = team(&api);
    let make = |name: &str, code: &str| {
        let reply = api.post("/api/functions", json!({"name": name, "trigger": "http", "code": code, "timeoutMs": 2000}));
        assert_eq!(reply.status, 201, "{}", reply.text());
    };
    let invoke = |name: &str| {
        let reply = api.post(&format!("/api/functions/{name}/invoke"), json!({"n": 1}));
        (reply.status, reply.value())
    };
    make("ops", "return 'ops'");
    let kept = api.put("/api/functions/ops/secrets/KEY", json!({"value": "hush-hush"}));
    assert!(kept.status < 300, "{}", kept.text());
    let (status, ran) = invoke("ops");
    assert_eq!((status, &ran["ok"], &ran["provider"]), (200, &json!(true), &json!("remote-http")), "{ran}");
    let call = executor.calls().remove(0);
    assert_eq!(
        (&call["data"], &call["timeoutMs"], &call["user"]["id"], &call["user"]["tenantId"]),
        (&json!({"n": 1}), &json!(2000.0), &json!(user_id), &json!(team_id)),
        "{call}"
    );
    let answers = ran["value"].as_array().unwrap();
    assert!(answers[0]["ok"] == true && answers[0]["value"] == "hush-hush", "{answers:?}");
    assert_eq!((&answers[1]["value"], &answers[2]["value"]), (&Value::Null, &json!(true)), "{answers:?}");
    assert_eq!(answers[3]["error"], "Collection \"nope\" not found");
    assert!(answers[4]["error"].as_str().unwrap().contains("URL not in fetch allow-list: http://a.test/"), "{answers:?}");
    let mail = api.get("/api/outbox").value()["data"][0].clone();
    assert_eq!((&mail["to"], &mail["script"]), (&json!(["ann@b.test"]), &json!("ops")), "{mail}");
    let raw = api.get(&format!("/api/outbox/{}", mail["id"].as_str().unwrap())).value()["data"]["raw"].clone();
    assert!(raw.as_str().unwrap().contains("\r\nTo: ann@b.test\r\n"), "{raw}");
    // The call is over, and so is its grant.
    assert_eq!(ask_back(&call, "secrets.get", json!({"name": "KEY"})).0, 401);
    for (name, code, result) in [
        ("thrown", "throw new TypeError('x')", json!({"ok": false, "error": "x", "code": "user_error"})),
        ("nothing", "return undefined", json!({"ok": true})),
        ("busy", "return 'busy'", json!({"ok": false, "error": "executor http 503: no room", "code": "internal"})),
        ("html", "return 'html'", json!({"ok": false, "error": "executor returned non-JSON body", "code": "internal"})),
        ("lost", "return 'lost'", json!({"ok": false, "error": "executor http 404: ", "code": "internal"})),
    ] {
        make(name, code);
        let (status, ran) = invoke(name);
        assert_eq!(status, if result["ok"] == true { 200 } else { 500 }, "{ran}");
        for (field, value) in result.as_object().unwrap() {
            assert_eq!(&ran[field], value, "{name}: {ran}");
        }
        assert!(result["ok"] != true || ran.get("value").is_none(), "{ran}");
    }
}

#[test]
fn an_executor_that_is_not_there_or_never_answers_is_said() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0"), ("SANDBAR_FUNCTIONS_EXEC_URL", &url), ("SANDBAR_FUNCTIONS_SANDBOX", "remote-http")]);
    let api = server.api();
    let made = api.post("/api/functions", json!({"name": "f", "trigger": "http", "code": "return 1", "timeoutMs": 50}));
    assert_eq!(made.status, 201, "{}", made.text());
    let ran = api.post("/api/functions/f/invoke", json!({})).value();
    assert_eq!((&ran["ok"], &ran["error"], &ran["code"]), (&json!(false), &json!("timed out after 50ms"), &json!("timeout")), "{ran}");
    drop(silent);
    let ran = api.post("/api/functions/f/invoke", json!({})).value();
    assert!(ran["error"].as_str().unwrap().starts_with("executor fetch failed: "), "{ran}");
}
