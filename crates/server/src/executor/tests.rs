use std::sync::Mutex;

use sandbar_scripts::{FailureCode, Level, Op, OpError, Usage};
use serde_json::{Value, json, value::RawValue};

use super::*;

/// Does what the code says: `echo` returns data and user; `op NAME ARGS` returns what that came to; `wait` waits until it is cancelled;
/// `limits` returns these.
#[derive(Default)]
struct Fake {
    cancelled: Arc<Mutex<Vec<String>>>,
}

impl Engine for Fake {
    fn run<'a>(&'a self, tenant: &'a str, call: Call, host: Arc<dyn Host>, cancel: CancellationToken) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move {
            let value = match call.code.split_once(' ') {
                Some(("op", rest)) => {
                    let (name, args) = rest.split_once(' ').expect("arguments");
                    let args = RawValue::from_string(args.to_owned()).expect("JSON");
                    match host.op(Op::named(name).expect("an op"), &args).await {
                        Ok(value) => Ok(serde_json::from_str(value.get()).expect("JSON")),
                        Err(OpError { code, message }) => Err(Failure { code, name: "Error".into(), message, stack: None }),
                    }
                }
                _ if call.code == "wait" => {
                    cancel.cancelled().await;
                    self.cancelled.lock().expect("a lock").push(call.name);
                    Err(Failure::timeout(call.limits.wall))
                }
                _ if call.code == "limits" => {
                    Ok(json!([call.limits.wall.as_millis() as u64, call.limits.cpu.as_millis() as u64, call.limits.memory_bytes >> 20, call.name]))
                }
                _ => Ok(json!({"data": serde_json::from_str::<Value>(call.data.get()).expect("JSON"), "user": call.user, "tenant": tenant})),
            };
            let logs = vec![LogLine { level: Level::Warn, at_ms: 1, text: "line".into() }];
            let result = value.map(|value| Some(serde_json::value::to_raw_value(&value).expect("JSON")));
            Outcome { result, logs, usage: Usage { cpu_us: 7, peak_memory_bytes: 8 }, clock: None }
        })
    }
}

struct Running {
    addr: SocketAddr,
    client: reqwest::Client,
    cancelled: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    async fn start(main_origins: &[&str], concurrency: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let engine = Fake::default();
        let running = Self {
            addr: listener.local_addr().expect("an address"),
            client: reqwest::Client::new(),
            cancelled: Arc::clone(&engine.cancelled),
            stop: CancellationToken::new(),
        };
        let config = ExecutorConfig { main_origins: main_origins.iter().map(|&origin| origin.to_owned()).collect(), concurrency };
        tokio::spawn(serve(listener, config, Arc::new(engine), running.stop.clone()));
        running
    }

    async fn run(&self, body: Value) -> (u16, Value) {
        let response = self.client.post(format!("http://{}/run", self.addr)).body(body.to_string()).send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.expect("a body")).expect("JSON"))
    }
}

/// A server that is asked back: answers by the op, and keeps what it was asked and by which token.
async fn main_app() -> (String, Arc<Mutex<Vec<(String, Value)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let (origin, asked) = (format!("http://{}", listener.local_addr().expect("an address")), Arc::new(Mutex::new(Vec::new())));
    let kept = Arc::clone(&asked);
    let rpc = post(async move |request: Request<Body>| {
        let token = request.headers()["authorization"].to_str().expect("text").to_owned();
        let body: Value = serde_json::from_slice(&extract::read(request.into_body(), 1 << 20).await.expect("a body")).expect("JSON");
        let answer = match body["op"].as_str() {
            Some("fetch") => (StatusCode::OK, r#"{"ok":false,"error":"URL not in fetch allow-list: x"}"#),
            Some("db.one") => (StatusCode::OK, r#"{"ok":true,"value":null}"#),
            Some("db.list") => (StatusCode::OK, r#"{"ok":true,"value":[1]}"#),
            Some("email.send") => (StatusCode::UNAUTHORIZED, "no"),
            _ => (StatusCode::OK, "nonsense"),
        };
        kept.lock().expect("a lock").push((token, body));
        answer
    });
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/api/_internal/sandbox-rpc", rpc)).await });
    (origin, asked)
}

#[tokio::test]
async fn it_answers_as_others_do_and_says_more() {
    let executor = Running::start(&[], 4).await;
    let health = executor.client.get(format!("http://{}/health", executor.addr)).send().await.expect("an answer");
    assert_eq!(health.text().await.expect("a body"), "ok");
    let user = json!({"id": "u", "email": null, "roles": ["admin"], "tenantId": "t"});
    let (status, reply) = executor.run(json!({"code": "echo", "data": {"a": [1]}, "user": user, "timeoutMs": 100})).await;
    assert_eq!(status, 200);
    assert_eq!(
        reply,
        json!({
            "ok": true, "value": {"data": {"a": [1]}, "user": {"id": "u", "email": null, "roles": ["admin"]}, "tenant": "t"}, "logs": ["line"],
            "logLines": [{"level": "warn", "at_ms": 1, "text": "line"}], "usage": {"cpu_us": 7, "peak_memory_bytes": 8},
        })
    );
}

#[tokio::test]
async fn limits_are_kept_within_bounds() {
    let executor = Running::start(&[], 4).await;
    for (given, limits) in [
        (json!({}), json!([5000, 5000, 64, "function"])),
        (json!({"timeoutMs": 1}), json!([50, 50, 64, "function"])),
        (json!({"timeoutMs": 1e9, "cpuMs": 100, "name": "n"}), json!([60000, 100, 64, "n"])),
        (json!({"timeoutMs": 100.7, "cpuMs": 5000, "memoryBytes": 1}), json!([100, 100, 16, "function"])),
        (json!({"timeoutMs": null, "memoryBytes": u64::MAX}), json!([5000, 5000, 512, "function"])),
    ] {
        let mut body = given.clone();
        body["code"] = json!("limits");
        assert_eq!(executor.run(body).await.1["value"], limits, "{given}");
    }
}

#[tokio::test]
async fn ops_go_to_the_server_that_the_call_comes_from() {
    let ((origin, asked), executor) = (main_app().await, Running::start(&[], 4).await);
    let run = |code: &str| {
        executor.run(
            json!({"code": code, "mainOrigin": format!("{origin}/"), "rpcToken": "grant", "user": {"id": "u", "email": "e", "roles": [], "tenantId": "t"}}),
        )
    };
    let (_, reply) = run(r#"op db.list {"slug":"posts"}"#).await;
    assert_eq!(reply["value"], json!([1]));
    let (token, body) = asked.lock().expect("a lock").remove(0);
    assert_eq!(
        (token.as_str(), body),
        ("Bearer grant", json!({"op": "db.list", "args": {"slug": "posts"}, "auth": {"userId": "u", "email": "e", "roles": [], "tenantId": "t"}}))
    );
    let (_, reply) = run("op db.one {}").await;
    assert_eq!((reply["ok"].clone(), reply.get("value")), (json!(true), Some(&Value::Null)));
    for (op, error, code) in [
        ("fetch", "URL not in fetch allow-list: x", "denied"),
        ("email.send", "sandbox-rpc http 401: no", "internal"),
        ("secrets.get", "sandbox-rpc returned non-JSON body", "internal"),
    ] {
        let (status, reply) = run(&format!("op {op} {{}}")).await;
        assert_eq!((status, &reply["ok"], &reply["error"], &reply["code"]), (200, &json!(false), &json!(error), &json!(code)));
    }
}

#[tokio::test]
async fn who_names_no_server_has_nobody_to_ask() {
    let executor = Running::start(&[], 4).await;
    for body in [json!({}), json!({"mainOrigin": "http://127.0.0.1:1"}), json!({"rpcToken": "x"}), json!({"rpcToken": "", "mainOrigin": ""})] {
        let mut body = body;
        body["code"] = json!("op db.one {}");
        let (status, reply) = executor.run(body).await;
        assert_eq!((status, &reply["code"]), (200, &json!("user_error")));
        assert!(reply["error"].as_str().expect("text").starts_with("ctx.* host bridges require SANDBOX_RPC_TOKEN + SELF_URL"));
    }
    let (_, reply) = executor.run(json!({"code": "op db.one {}", "mainOrigin": "http://127.0.0.1:1", "rpcToken": "x"})).await;
    assert!(reply["error"].as_str().expect("text").starts_with("sandbox-rpc failed: "), "{reply}");
}

#[tokio::test]
async fn only_servers_that_are_named_are_asked() {
    let executor = Running::start(&["http://main.test:1/"], 4).await;
    let (status, reply) = executor.run(json!({"code": "echo", "mainOrigin": "http://other.test", "rpcToken": "x"})).await;
    assert_eq!((status, &reply["ok"]), (400, &json!(false)));
    for origin in ["file:///x", "nonsense", "http://u:p@main.test:1"] {
        assert_eq!(executor.run(json!({"code": "echo", "mainOrigin": origin, "rpcToken": "x"})).await.0, 400, "{origin}");
    }
    assert_eq!(executor.run(json!({"code": "echo", "mainOrigin": "http://MAIN.test:1", "rpcToken": "x"})).await.0, 200);
    let open = |origins: &[&str]| {
        let config = ExecutorConfig { main_origins: origins.iter().map(|&origin| origin.to_owned()).collect(), concurrency: 1 };
        router(config, Arc::new(Fake::default()), SocketAddr::from(([0, 0, 0, 0], 8790)))
    };
    assert!(matches!(open(&[]), Err(ExecutorError::Open(_))));
    assert!(matches!(open(&["main.test"]), Err(ExecutorError::Origin(_))));
    assert!(open(&["*"]).is_ok() && open(&["https://main.test"]).is_ok());
}

#[tokio::test]
async fn a_body_that_is_none_is_400_in_the_same_shape() {
    let executor = Running::start(&[], 4).await;
    for body in ["", "x", "[]", "{}", r#"{"code":7}"#] {
        let response = executor.client.post(format!("http://{}/run", executor.addr)).body(body).send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), 400, "{body}");
        let reply: Value = serde_json::from_str(&response.text().await.expect("a body")).expect("JSON");
        assert!(reply["ok"] == false && reply["logs"] == json!([]) && reply["error"].is_string(), "{reply}");
    }
}

#[tokio::test]
async fn who_hangs_up_is_not_worked_for() {
    let executor = Running::start(&[], 1).await;
    let waits = executor.client.post(format!("http://{}/run", executor.addr)).body(json!({"code": "wait", "name": "first"}).to_string()).send();
    let waits = tokio::spawn(waits);
    // It has the only place once another is not let in.
    let (status, reply) = loop {
        let answer = executor.run(json!({"code": "echo"})).await;
        if answer.0 != 200 {
            break answer;
        }
    };
    assert_eq!((status, &reply["ok"]), (503, &json!(false)));
    waits.abort();
    let _ = waits.await;
    while executor.cancelled.lock().expect("a lock").is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(executor.run(json!({"code": "echo"})).await.0, 200, "its place is free");
    assert_eq!(*executor.cancelled.lock().expect("a lock"), ["first"]);
    assert_eq!(FailureCode::Timeout.as_str(), "timeout");
}
