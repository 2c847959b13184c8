//! Functions of a sandbox over HTTP: kept, called, called without waiting; and services whose runtime is a function.

use std::{io::Read, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use tungstenite::{Message, protocol::CloseFrame};

use super::{
    harness::{Sandbox, Server, shared},
    http::{Api, Reply, eventually},
};

const SOON: Duration = Duration::from_secs(60);

fn put(sandbox: &Sandbox, name: &str, source: &str) -> Reply {
    sandbox.api.try_send("PUT", &sandbox.path(&format!("/functions/{name}")), &[("content-type", "text/x-python")], source.as_bytes()).unwrap()
}

#[track_caller]
fn keep(sandbox: &Sandbox, name: &str, source: &str) {
    let reply = put(sandbox, name, source);
    assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
}

fn invoke(sandbox: &Sandbox, name: &str, request: Value) -> Reply {
    sandbox.api.post(&sandbox.path(&format!("/functions/{name}/invoke")), request)
}

fn decoded(data: &Value) -> String {
    String::from_utf8(BASE64.decode(data["body_base64"].as_str().expect("a body")).unwrap()).unwrap()
}

#[track_caller]
fn body(sandbox: &Sandbox, name: &str, request: Value) -> String {
    decoded(&invoke(sandbox, name, request).ok(200))
}

#[test]
fn a_handler_is_told_the_request_and_its_answer_comes_back() {
    let server = shared();
    let mut sandbox = Sandbox::claim(&server.api(), json!({ "env_vars": { "WHO": "sandbox" } }));
    // Written as any file, as the published example does.
    sandbox.write(
        "/workspace/functions/main.py",
        b"import base64\nimport json\n\ndef handler(request):\n    raw = base64.b64decode(request.get('body_base64') or 'e30=')\n    payload = json.loads(raw.decode('utf-8'))\n    name = payload.get('name', 'world')\n    return {'status': 200, 'headers': {'content-type': 'application/json'}, 'body': {'message': f'hello {name}'}}\n",
    );
    for api in [sandbox.api.clone(), sandbox.api.may()] {
        sandbox.api = api;
        let data = invoke(&sandbox, "main", json!({ "method": "POST", "path": "/hello", "body_base64": BASE64.encode(r#"{"name":"Ada"}"#) })).ok(200);
        assert_eq!(data["status"], 200);
        assert_eq!(data["headers"], json!({ "content-type": "application/json" }));
        assert_eq!(decoded(&data), r#"{"message":"hello Ada"}"#);
        // No body at all is the default.
        let reply = sandbox.api.send("POST", &sandbox.path("/functions/main/invoke"), b"").ok(200);
        assert_eq!(decoded(&reply), r#"{"message":"hello world"}"#);
    }
    keep(
        &sandbox,
        "echo",
        "import os\ndef handler(request):\n    print('seen')\n    return {'status': 404, 'headers': {'x': ['a', 'b']}, 'body': [request, os.getcwd(), os.environ['WHO']]}\nclass A:\n    async def b(r): return r['method']\n",
    );
    let request = json!({ "method": "put", "path": "/p", "query": { "q": ["1", "ä"], "one": "2" }, "headers": { "X-A": ["b"] }, "timeout_ms": 5000 });
    let data = invoke(&sandbox, "echo", request).ok(200);
    assert_eq!((&data["status"], &data["headers"]["x"]), (&json!(404), &json!(["a", "b"])));
    assert_eq!(data["logs"], json!([{ "stream": "stdout", "text": "seen\n" }]));
    let seen: Value = serde_json::from_str(&decoded(&data)).unwrap();
    let wanted = json!({
        "method": "PUT", "path": "/p", "query": { "q": ["1", "ä"], "one": ["2"] }, "raw_query": "one=2&q=1&q=%C3%A4", "headers": { "X-A": ["b"] },
        "body_base64": "", "handler": "handler", "timeout_ms": 5000,
    });
    assert_eq!(seen, json!([wanted, "/workspace", "sandbox"]));
    assert_eq!(body(&sandbox, "echo", json!({ "handler": "A.b", "cold": true })), "POST");
    // The paths that are published.
    sandbox.sh_ok("test -x /procd/bin/procd && test -x /procd/runtimes/python-runner");
    let by_hand = sandbox.sh("echo '{\"method\":\"X\"}' | /procd/runtimes/python-runner /workspace/functions/echo.py A.b");
    assert_eq!(serde_json::from_str::<Value>(&by_hand.stdout).unwrap(), json!({ "status": 200, "headers": {}, "body_base64": "WA==" }), "{by_hand:?}");
    assert_eq!(sandbox.sh("/procd/runtimes/python-runner").code, 64);
    assert_eq!(sandbox.sh("PATH=/nowhere /procd/runtimes/python-runner a b").code, 127);
    // What is printed is in the sandbox's log, under the function's name.
    eventually("the log", SOON, || {
        let log = sandbox.api.get(&sandbox.path("/observability/logs?context_id=function:echo")).ok(200);
        let found = log["logs"].as_array().is_some_and(|lines| lines.iter().any(|line| line["message"] == "seen"));
        if found { Ok(()) } else { Err(log.to_string()) }
    });
}

#[test]
fn what_is_wrong_with_a_call_is_told_in_order() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    keep(
        &sandbox,
        "f",
        "import time\ndef handler(r): return 'x'\ndef slow(r): time.sleep(100)\ndef bad(r):\n    print('said', flush=True)\n    raise ValueError('why')\ndef wrong(r): return {'status': 700}\ndef large(r): return 'x' * (5 << 20)\n",
    );
    let code = |reply: &Reply, status: u16| {
        assert_eq!(reply.status, status, "{}", reply.text());
        reply.value()["error"]["code"].as_str().unwrap().to_owned()
    };
    for name in ["..%2f..%2fetc%2fpasswd", "a.py", "a%20b", "%00", "%C3%A9"] {
        assert_eq!(code(&invoke(&sandbox, name, json!({})), 400), "bad_request", "{name}");
        assert_eq!(code(&put(&sandbox, name, ""), 400), "bad_request", "{name}");
        assert_eq!(code(&sandbox.api.delete(&sandbox.path(&format!("/functions/{name}"))), 400), "bad_request", "{name}");
    }
    // The function is looked for before the call is looked at.
    let large = vec![b' '; (8 << 20) + 1];
    let to = |name: &str, bytes: &[u8]| sandbox.api.send("POST", &sandbox.path(&format!("/functions/{name}/invoke")), bytes);
    assert_eq!(code(&to("absent", &large), 404), "not_found");
    assert_eq!(code(&to("absent", b"{"), 404), "not_found");
    assert_eq!(code(&invoke(&sandbox, "absent", json!({})), 404), "not_found");
    assert_eq!(code(&invoke(&sandbox, "absent", json!({ "async": true })), 404), "not_found");
    assert_eq!(code(&to("f", &large), 413), "request_too_large");
    for wrong in [
        json!({ "timeout_ms": -1 }),
        json!({ "timeout_ms": 120_001 }),
        json!({ "timeout_ms": "5" }),
        json!({ "path": "x" }),
        json!({ "handler": "a b" }),
        json!({ "method": "A B" }),
        json!({ "body_base64": "%" }),
        json!({ "query": { "a": 1 } }),
        json!([]),
    ] {
        assert_eq!(code(&invoke(&sandbox, "f", wrong.clone()), 400), "bad_request", "{wrong}");
    }
    assert_eq!(code(&to("f", b"{"), 400), "bad_request");
    assert_eq!(code(&invoke(&sandbox, "f", json!({ "handler": "slow", "timeout_ms": 300 })), 504), "unavailable");
    let failed = invoke(&sandbox, "f", json!({ "handler": "bad" }));
    assert_eq!(code(&failed, 500), "function_failed");
    let error = &failed.value()["error"];
    assert!(error["message"].as_str().unwrap().contains("ValueError: why"), "{error}");
    assert_eq!(error["details"]["logs"][0], json!({ "stream": "stdout", "text": "said\n" }));
    assert_eq!(code(&invoke(&sandbox, "f", json!({ "handler": "absent" })), 500), "function_failed");
    assert_eq!(code(&invoke(&sandbox, "f", json!({ "handler": "wrong" })), 502), "unavailable");
    assert!(invoke(&sandbox, "f", json!({ "handler": "large" })).error(&[502])["message"].as_str().unwrap().starts_with("function response is too large"));
    // Whoever may not write, or has another team's id, gets nowhere.
    assert_eq!(sandbox.api.anonymous().post(&sandbox.path("/functions/f/invoke"), json!({})).status, 401);
    assert_eq!(sandbox.api.post("/api/v1/sandboxes/sb-none/functions/f/invoke", json!({})).status, 404);
    assert_eq!(sandbox.api.get(&sandbox.path("/functions/f/invoke")).status, 405);
    // No python3: the image is there, its interpreter is not in the path.
    let bare = Sandbox::claim(&server.api(), json!({ "env_vars": { "PATH": "/nowhere" } }));
    keep(&bare, "f", "def handler(r): return 1");
    assert_eq!(code(&invoke(&bare, "f", json!({})), 503), "unavailable");
}

#[test]
fn functions_are_kept_listed_and_removed() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let list = || sandbox.api.get(&sandbox.path("/functions")).ok(200);
    assert_eq!(list(), json!({ "functions": [], "count": 0 }));
    let made = put(&sandbox, "b", "def handler(r): return 1\n").ok(201);
    assert_eq!((&made["name"], &made["path"], &made["size"]), (&json!("b"), &json!("/workspace/functions/b.py"), &json!(25)));
    assert_eq!(body(&sandbox, "b", json!({})), "1");
    sandbox.api.put(&sandbox.path("/functions/b"), json!({ "source": "def handler(r): return 2\n" })).ok(200);
    assert_eq!(body(&sandbox, "b", json!({})), "2");
    keep(&sandbox, "a", "");
    sandbox.sh_ok("cd /workspace/functions && mkdir -p __pycache__ d.py && touch note.txt 'x y.py' && ln -s b.py link.py");
    let names: Vec<String> = list()["functions"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["a", "b", "link"]);
    assert_eq!(sandbox.api.get(&sandbox.path("/functions/b")).ok(200)["source"], "def handler(r): return 2\n");
    let wrong = put(&sandbox, "b", "x = 1\ndef handler(r)\n  return 3\n");
    let error = wrong.error(&[400]);
    assert!(error["message"].as_str().unwrap().starts_with("source: line 2: SyntaxError") && error["details"]["line"] == 2, "{error}");
    assert_eq!(put(&sandbox, "b", &"#".repeat((256 << 10) + 1)).error(&[413])["code"], "request_too_large");
    assert_eq!(sandbox.api.try_send("PUT", &sandbox.path("/functions/b"), &[], b"\xff").unwrap().status, 400);
    assert_eq!(body(&sandbox, "b", json!({})), "2");
    sandbox.api.delete(&sandbox.path("/functions/b")).ok(200);
    for path in ["/functions/b", "/functions/absent"] {
        assert_eq!(sandbox.api.get(&sandbox.path(path)).status, 404, "{path}");
        assert_eq!(sandbox.api.delete(&sandbox.path(path)).status, 404, "{path}");
    }
    assert_eq!(sandbox.api.delete(&sandbox.path("/functions/d")).status, 409);
    assert_eq!(invoke(&sandbox, "b", json!({})).status, 404);
}

#[test]
fn results_of_calls_that_nobody_waits_for_are_kept() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    keep(
        &sandbox,
        "f",
        "import os, time\ndef handler(r):\n    while not os.path.exists('/workspace/gate'): time.sleep(0.02)\n    return r['path']\ndef bad(r): raise ValueError('why')\ndef long(r): time.sleep(100)\ndef big(r): return 'x' * (2 << 20)\n",
    );
    let begin = |request: Value| {
        let data = invoke(&sandbox, "f", request).ok(202);
        assert_eq!(data["status"], "running");
        data["invocation_id"].as_str().unwrap().to_owned()
    };
    let look = |id: &str| sandbox.api.get(&sandbox.path(&format!("/functions/f/invocations/{id}"))).ok(200);
    let ended =
        |id: &str| eventually("the end of a call", SOON, || Some(look(id)).filter(|seen| seen["status"] != "running").ok_or_else(|| look(id).to_string()));
    let waiting = begin(json!({ "async": true, "path": "/a" }));
    assert_eq!(look(&waiting)["status"], "running");
    let path = sandbox.path("/functions/f/invoke");
    let preferred = sandbox.api.try_send("POST", &path, &[("prefer", "respond-async, wait=5")], b"").unwrap().ok(202);
    sandbox.write("/workspace/gate", b"");
    let done = ended(&waiting);
    assert_eq!((&done["status"], decoded(&done["response"]).as_str()), (&json!("succeeded"), "/a"));
    assert!(done["finished_at"].is_string() && done["function"] == "f");
    assert_eq!(ended(preferred["invocation_id"].as_str().unwrap())["status"], "succeeded");
    let failed = ended(&begin(json!({ "async": true, "handler": "bad" })));
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("function_failed")));
    assert!(failed["error"]["message"].as_str().unwrap().contains("why"));
    let big = ended(&begin(json!({ "async": true, "handler": "big" })));
    assert!(big["status"] == "failed" && big["error"]["message"].as_str().unwrap().contains("1048576"), "{big}");
    assert_eq!(sandbox.api.get(&sandbox.path("/functions/other/invocations")).ok(200)["count"], 0);
    assert_eq!(sandbox.api.get(&sandbox.path(&format!("/functions/other/invocations/{waiting}"))).status, 404);
    // A server that dies leaves nothing that seems to go on.
    let long = begin(json!({ "async": true, "handler": "long", "timeout_ms": 110_000 }));
    server.kill();
    server.up();
    let interrupted = ended(&long);
    assert!(interrupted["status"] == "failed" && interrupted["error"]["message"].as_str().unwrap().contains("restart"), "{interrupted}");
    let listed = sandbox.api.get(&sandbox.path("/functions/f/invocations")).ok(200);
    assert_eq!((&listed["count"], &listed["invocations"][0]["invocation_id"]), (&json!(5), &json!(long)));
    assert!(listed["invocations"].as_array().unwrap().iter().all(|call| call["response"].is_null()));
    // The runtime outlived the server, and serves.
    assert_eq!(body(&sandbox, "f", json!({})), "/");
}

#[test]
fn calls_and_pauses() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    keep(
        &sandbox,
        "f",
        "import os, time\ndef handler(r): return str(os.getppid())\ndef slow(r):\n    open('/workspace/begun', 'w').close()\n    time.sleep(100)\n",
    );
    // Old enough to be kept in memory.
    std::thread::sleep(Duration::from_millis(200));
    let first = body(&sandbox, "f", json!({}));
    assert_eq!(body(&sandbox, "f", json!({})), first, "the module stays imported");
    sandbox.post("/pause", json!({}));
    assert_eq!(body(&sandbox, "f", json!({})), first, "also over a pause that keeps the memory");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| invoke(&sandbox, "f", json!({ "handler": "slow", "timeout_ms": 100_000 })));
        eventually("the call", SOON, || {
            let seen = sandbox.api.get(&sandbox.file("/workspace/begun")).status;
            if seen == 200 { Ok(()) } else { Err(seen.to_string()) }
        });
        sandbox.post("/pause", json!({}));
        assert_eq!(slow.join().unwrap().status, 503);
    });
    sandbox.post("/hibernate", json!({}));
    assert_ne!(body(&sandbox, "f", json!({})), first, "a call wakes the sandbox, and imports anew");
}

// --- Services ---------------------------------------------------------------------------------------------------------

fn function(id: &str, code: &str, function: Value, route: Value) -> Value {
    let mut runtime = json!({ "type": "function", "function": { "runtime": "python", "handler": "handler", "source": { "type": "inline", "code": code } } });
    for (key, value) in function.as_object().unwrap() {
        match key.as_str() {
            "env_vars" => runtime["env_vars"] = value.clone(),
            key => runtime["function"][key] = value.clone(),
        }
    }
    let mut routes = json!({ "id": "r", "path_prefix": format!("/{id}"), "resume": true });
    for (key, value) in route.as_object().unwrap() {
        routes[key] = value.clone();
    }
    json!({ "id": id, "runtime": runtime, "ingress": { "public": true, "routes": [routes] } })
}

#[track_caller]
fn publish(sandbox: &Sandbox, services: Value) -> Api {
    let reply = sandbox.api.put(&sandbox.path("/services"), json!({ "services": services })).ok(200);
    sandbox.api.at_url(&reply["services"][0]["public_url"])
}

#[test]
fn a_service_may_be_a_function() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({ "env_vars": { "A": "sandbox", "B": "sandbox" } }));
    let echo = "import os, base64\nn = 0\ndef handler(r):\n    global n\n    n += 1\n    print('handled', flush=True)\n    return {'status': 201, 'headers': {'x-a': ['1', '2'], 'connection': 'close, x-b', 'content-length': '1'}, 'body': {**r, 'n': n, 'env': [os.environ['A'], os.environ['B']]}}\n";
    let bad = "def handler(r): raise RuntimeError('secret')\n";
    let public = publish(
        &sandbox,
        json!([
            function(
                "echo",
                echo,
                json!({ "env_vars": { "A": "service" } }),
                json!({ "path_prefix": "/echo", "rewrite_prefix": "/in", "methods": ["POST"], "timeout_seconds": 3600 })
            ),
            function("bad", bad, json!({}), json!({})),
            function("odd", "def handler(r): return {'headers': {'a b': 'c'}}\n", json!({}), json!({})),
            function("none", "def handler(r): return None\n", json!({}), json!({})),
            function("slow", "import time\ndef handler(r): time.sleep(100)\n", json!({}), json!({ "timeout_seconds": 1 })),
        ]),
    );
    let reply = public.try_send("POST", "/echo/x%2Fy?q=1&q=2", &[("x-many", "a"), ("x-many", "b"), ("content-type", "text/x")], b"\0\xff").unwrap();
    assert_eq!(reply.status, 201, "{}", reply.text());
    let seen = reply.value();
    for (key, value) in [
        ("service_id", json!("echo")),
        ("route_id", json!("r")),
        ("method", json!("POST")),
        ("raw_query", json!("q=1&q=2")),
        ("query", json!({ "q": ["1", "2"] })),
        ("body_base64", json!("AP8=")),
        ("n", json!(1)),
        ("env", json!(["service", "sandbox"])),
    ] {
        assert_eq!(seen[key], value, "{key}");
    }
    assert_eq!((&seen["path"], &seen["raw_path"]), (&json!("/in/x/y"), &json!("/in/x%2Fy")));
    assert_eq!((&seen["headers"]["X-Many"], &seen["headers"]["Content-Type"]), (&json!(["a", "b"]), &json!(["text/x"])));
    let many: Vec<_> = reply.headers.iter().filter(|(name, _)| name == "x-a").map(|(_, value)| value.as_str()).collect();
    assert_eq!(many, ["1", "2"]);
    assert_eq!(public.send("POST", "/echo", b"").value()["n"], 1);
    assert_eq!(public.get("/echo").status, 405);
    assert_eq!(public.send("POST", "/echo", &vec![0; (8 << 20) + 1]).error(&[413])["code"], "request_too_large");
    let failed = public.get("/bad");
    assert_eq!(failed.error(&[500])["code"], "function_failed");
    assert!(!failed.text().contains("secret") && !failed.text().contains("Traceback"), "{}", failed.text());
    assert_eq!(public.get("/odd").status, 502);
    assert_eq!((public.get("/none").status, public.get("/none").body.len()), (204, 0));
    assert_eq!(public.get("/slow").status, 504);
    // The owner finds out from the log.
    eventually("the log", SOON, || {
        let log = sandbox.api.get(&sandbox.path("/observability/logs?context_id=service:bad&limit=1000")).ok(200).to_string();
        if log.contains("RuntimeError: secret") { Ok(()) } else { Err(log) }
    });
    // Replaced code counts from the next request on, and a sleeping sandbox is woken.
    let public = publish(&sandbox, json!([function("echo", "def handler(r): return 'new'\n", json!({}), json!({}))]));
    assert_eq!(public.get("/echo").text(), "new");
    sandbox.post("/pause", json!({}));
    assert_eq!(public.get("/echo").text(), "new");
}

#[test]
fn bodies_come_as_the_handler_gives_them() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let events = "import os, time\ndef handler(r):\n    def events():\n        for n in range(3):\n            while n and not os.path.exists(f'/workspace/gate{n}'): time.sleep(0.01)\n            yield f'data: {n}\\n\\n'\n    return {'headers': {'content-type': 'text/event-stream'}, 'body': events()}\n";
    let endless = "import os, time, asyncio\nasync def handler(r):\n    n = 0\n    while True:\n        open('/workspace/beat', 'w').write(str(n))\n        yield f'data: {n}\\n\\n'\n        n += 1\n        await asyncio.sleep(0.02)\n";
    let public = publish(
        &sandbox,
        json!([
            function("sse", events, json!({}), json!({})),
            function("endless", endless, json!({}), json!({})),
            function("early", "def handler(r):\n    raise ValueError\n    yield 1\n", json!({}), json!({})),
            function("late", "def handler(r):\n    yield 'first'\n    raise ValueError\n", json!({}), json!({})),
            function("gone", "import os\ndef handler(r):\n    yield 'first'\n    os._exit(1)\n", json!({}), json!({})),
            function(
                "tired",
                "import time\ndef handler(r):\n    while True:\n        yield 'first'\n        time.sleep(0.1)\n",
                json!({}),
                json!({ "timeout_seconds": 2 })
            ),
            function("list", "def handler(r): return [1, 2]\n", json!({}), json!({})),
        ]),
    );
    let accept = [("accept", "text/event-stream")];
    let mut stream = public.stream("/sse", &accept);
    assert_eq!(stream.status, 200);
    assert_eq!(stream.line().unwrap(), "data: 0");
    for gate in 1..3 {
        sandbox.write(&format!("/workspace/gate{gate}"), b"");
        assert_eq!(stream.line().unwrap(), "");
        assert_eq!(stream.line().unwrap(), format!("data: {gate}"));
    }
    let mut stream = public.stream("/endless", &accept);
    assert!(stream.headers.iter().any(|(name, value)| name == "content-type" && value == "text/event-stream"));
    for _ in 0..5 {
        stream.line().unwrap();
    }
    drop(stream);
    // The handler ends with its client.
    eventually("an end of the beats", SOON, || {
        let before = sandbox.read("/workspace/beat");
        std::thread::sleep(Duration::from_millis(500));
        let after = sandbox.read("/workspace/beat");
        if before == after { Ok(()) } else { Err(format!("{before:?} {after:?}")) }
    });
    assert_eq!(public.try_send("GET", "/early", &accept, b"").unwrap().status, 500);
    // What breaks off is not to be taken for what has ended.
    for path in ["/late", "/gone", "/tired"] {
        let mut stream = public.stream(path, &accept);
        assert_eq!(stream.status, 200, "{path}");
        let mut body = Vec::new();
        assert!(stream.read_to_end(&mut body).is_err(), "{path}: {}", String::from_utf8_lossy(&body));
        assert!(body.starts_with(b"first"), "{path}");
    }
    assert_eq!(public.try_send("GET", "/list", &accept, b"").unwrap().text(), "[1,2]");
}

#[test]
fn a_web_socket_is_the_handlers() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let echo = "async def handler(request, ws):\n    await ws.send(request['path'])\n    async for message in ws:\n        if message == 'end': break\n        await ws.send(message)\n    print('ended', flush=True)\n";
    let public = publish(
        &sandbox,
        json!([
            function("echo", echo, json!({}), json!({})),
            function("one", "def handler(request): return 'x'\n", json!({}), json!({})),
            function("bad", "async def handler(request, ws):\n    await ws.receive()\n    raise ValueError\n", json!({}), json!({})),
            function("code", "async def handler(request, ws):\n    await ws.close(4321, 'because')\n", json!({}), json!({})),
            function(
                "single",
                "async def handler(request, ws):\n    await ws.send('in')\n    await ws.receive()\n",
                json!({ "max_concurrency": 1 }),
                json!({})
            ),
        ]),
    );
    let closed = |socket: &mut tungstenite::WebSocket<std::net::TcpStream>| loop {
        match socket.read() {
            Ok(Message::Close(frame)) => break frame.map(|CloseFrame { code, reason }| (u16::from(code), reason.to_string())),
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let mut socket = public.ws("/echo/p").expect("an upgrade");
    assert_eq!(socket.read().unwrap(), Message::text("/echo/p"));
    for message in [Message::text("héllo"), Message::binary(vec![0, 255]), Message::text("x".repeat(1 << 20))] {
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message);
    }
    socket.send(Message::text("end")).unwrap();
    assert_eq!(closed(&mut socket).map(|(code, _)| code), Some(1000));
    // The client closes: the handler sees the end of the messages.
    let mut socket = public.ws("/echo").expect("an upgrade");
    socket.read().unwrap();
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    eventually("both handlers' last words", SOON, || {
        let log = sandbox.api.get(&sandbox.path("/observability/logs?context_id=service:echo")).ok(200).to_string();
        if log.matches("ended").count() == 2 { Ok(()) } else { Err(log) }
    });
    let end = |path: &str| {
        let mut socket = public.ws(path).expect("an upgrade");
        socket.send(Message::text("x")).unwrap();
        closed(&mut socket).expect("a code")
    };
    assert_eq!(end("/one").0, 1008);
    assert_eq!(end("/bad"), (1011, "the function failed".into()));
    assert_eq!(end("/code"), (4321, "because".into()));
    let mut first = public.ws("/single").expect("an upgrade");
    assert_eq!(first.read().unwrap(), Message::text("in"));
    assert_eq!(end("/single").0, 1013);
    drop(first);
    eventually("a free place", SOON, || {
        let mut socket = public.ws("/single").map_err(|status| status.to_string())?;
        match socket.read() {
            Ok(Message::Text(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_service_has_as_many_calls_at_once_as_it_says() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let code = "import os, time\ndef handler(r):\n    open(f'/workspace/in-{os.getpid()}', 'w').close()\n    while not os.path.exists('/workspace/gate'): time.sleep(0.02)\n    return 'through'\n";
    let public = publish(
        &sandbox,
        json!([function("two", code, json!({ "max_concurrency": 2 }), json!({})), function("other", "def handler(r): return 'free'\n", json!({}), json!({}))]),
    );
    std::thread::scope(|scope| {
        let held: Vec<_> = (0..2).map(|_| scope.spawn(|| public.get("/two").text())).collect();
        eventually("both calls", SOON, || {
            let seen = sandbox.sh_ok("ls /workspace | grep -c in- || true");
            if seen.trim() == "2" { Ok(()) } else { Err(seen) }
        });
        let refused = public.get("/two");
        assert_eq!(refused.error(&[429])["code"], "function_concurrency_exceeded");
        assert_eq!(public.get("/other").text(), "free");
        sandbox.write("/workspace/gate", b"");
        assert!(held.into_iter().all(|call| call.join().unwrap() == "through"));
    });
    assert_eq!(public.get("/two").text(), "through");
}
