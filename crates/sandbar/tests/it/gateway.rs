//! The gateway from outside: what is let in, what it looks like to the service, what comes back, and what happens when the
//! sandbox sleeps or the service is not there.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tungstenite::Message;

use super::{
    harness::{SANDBOXES, Sandbox, Server, free_address, shared},
    http::{Api, Incoming, eventually},
};

const SOON: Duration = Duration::from_secs(60);
const WEB: &str = include_str!("gateway/web.py");
const PORT: u16 = 8080;

/// A route that lets everything in, with changes.
fn route(changes: Value) -> Value {
    let mut route = json!({ "id": "r", "path_prefix": "/", "resume": true });
    for (key, value) in changes.as_object().unwrap() {
        route[key] = value.clone();
    }
    route
}

fn service(command: &[&str], changes: Value) -> Value {
    json!({ "id": "web", "port": PORT, "runtime": { "type": "cmd", "command": command, "env_vars": { "TAG": "service" } }, "ingress": { "public": true, "routes": [route(changes)] } })
}

fn web(changes: Value) -> Value {
    service(&["python3", "-c", WEB], changes)
}

#[track_caller]
fn put(sandbox: &Sandbox, services: Value) -> Api {
    let reply = sandbox.api.put(&sandbox.path("/services"), json!({ "services": services })).ok(200);
    sandbox.api.at_url(&reply["services"][0]["public_url"])
}

/// A sandbox that serves the application, and its public host.
fn serving(api: &Api, changes: Value) -> (Sandbox, Api) {
    let sandbox = Sandbox::claim(api, json!({ "env_vars": { "TAG": "sandbox", "OWN": "1" } }));
    let public = put(&sandbox, json!([web(changes)]));
    (sandbox, public)
}

fn header<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    seen["headers"].as_array().unwrap().iter().filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
}

fn sha256(text: &[u8]) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_request_reaches_the_service_as_it_was_sent_and_with_true_headers() {
    let server = shared();
    let (_sandbox, public) = serving(&server.api(), json!({ "auth": { "mode": "bearer", "bearer_token_sha256": sha256(b"tok") } }));
    assert_eq!(public.get("/x").status, 401);
    let headers = [
        ("authorization", "Bearer tok"),
        ("x-forwarded-for", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
        ("te", "trailers"),
        ("x-mine", "kept"),
    ];
    let reply = public.try_send("POST", "/a%2Fb//c/?q=%20x&y", &headers, b"hello").unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = reply.value();
    assert_eq!((seen["method"].as_str(), seen["path"].as_str()), (Some("POST"), Some("/a%2Fb//c/?q=%20x&y")));
    assert_eq!(seen["sha256"], sha256(b"hello"));
    assert_eq!(header(&seen, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(header(&seen, "x-forwarded-proto"), ["http"]);
    assert_eq!(header(&seen, "x-real-ip"), ["127.0.0.1"]);
    assert_eq!(header(&seen, "x-mine"), ["kept"]);
    assert!(header(&seen, "host")[0].contains("--p8080.localhost") && header(&seen, "host") == header(&seen, "x-forwarded-host"));
    for gone in ["authorization", "forwarded"] {
        assert!(header(&seen, gone).is_empty(), "{gone} in {seen}");
    }
    let env = &seen["env"];
    assert_eq!(
        [&env["TAG"], &env["OWN"], &env["SANDBOX0_SERVICE_ID"], &env["SANDBOX0_SERVICE_PORT"], &env["SANDBOX0_SERVICE_RUNTIME"]],
        ["service", "1", "web", "8080", "cmd"]
    );
    let reply = public.try_send("GET", "/cookies", &[("authorization", "Bearer tok")], b"").unwrap();
    let cookies: Vec<&str> = reply.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str()).collect();
    assert_eq!(cookies, ["a=1", "b=2; Path=/"]);
    assert_eq!(reply.header("x-hop"), None);
    assert_eq!(public.try_send("HEAD", "/x", &[("authorization", "Bearer tok")], b"").map(|r| r.status).unwrap_or(200), 200);
}

#[test]
fn bodies_stream_both_ways_and_trailers_arrive() {
    let server = shared();
    let (sandbox, public) = serving(&server.api(), json!({}));
    // Each event is read before the next one is allowed.
    let mut events = public.stream("/sse", &[]);
    assert_eq!(events.line().unwrap(), "data: 0");
    for gate in 1..3 {
        sandbox.write(&format!("/workspace/gate{gate}"), b"");
        assert_eq!(events.line().unwrap(), "");
        assert_eq!(events.line().unwrap(), format!("data: {gate}"));
    }
    drop(events);
    // Much more than any buffer.
    let body: Vec<u8> = (0..48 << 20).map(|i: u32| (i % 251) as u8).collect();
    let seen = public.send("PUT", "/up", &body).value();
    assert_eq!((seen["bytes"].as_u64(), seen["sha256"].as_str()), (Some(48 << 20), Some(sha256(&body).as_str())));
    let mut stream = public.open("POST", "/up", &[("transfer-encoding", "chunked"), ("trailer", "x-sum"), ("te", "trailers")], None).unwrap();
    stream.write_all(b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 11\r\n\r\n").unwrap();
    let seen = Incoming::read(stream).unwrap().whole().unwrap().value();
    assert_eq!(seen["sha256"], sha256(b"hello world"));
    assert_eq!(seen["trailers"], json!(["x-sum: 11"]));
    assert_eq!(public.get("/large?bytes=30000000").body.len(), 30_000_000);
    // A service that breaks off is not taken for one that ended.
    let stream = public.open("GET", "/break", &[], None).unwrap();
    assert!(Incoming::read(stream).and_then(Incoming::whole).is_err());
}

#[test]
fn a_web_socket_goes_through_and_connections_are_used_again() {
    let server = shared();
    let (_sandbox, public) = serving(&server.api(), json!({}));
    let mut socket = public.ws("/ws").expect("an upgrade");
    for message in [Message::text("hello"), Message::binary(vec![7u8; 100_000])] {
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message);
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    let before = public.get("/").value()["connections"].as_u64().unwrap();
    for _ in 0..20 {
        public.get("/");
    }
    let after = public.get("/").value()["connections"].as_u64().unwrap();
    assert!(after - before <= 2, "{before} connections became {after}");
}

#[test]
fn a_pause_ends_what_is_open() {
    let server = shared();
    let (sandbox, public) = serving(&server.api(), json!({}));
    let mut events = public.stream("/sse", &[]);
    assert_eq!(events.line().unwrap(), "data: 0");
    let mut socket = public.ws("/ws").expect("an upgrade");
    socket.send(Message::text("hello")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("hello"));
    sandbox.api.post(&sandbox.path("/pause"), json!({})).ok(200);
    // Without it both would wait until the client has had enough.
    let broke = std::iter::from_fn(|| Some(events.line())).take(3).find_map(Result::err).expect("it ended as if it were whole");
    assert!(!is_patience(broke.kind()), "{broke}");
    match socket.read() {
        Err(tungstenite::Error::Io(error)) => assert!(!is_patience(error.kind()), "{error}"),
        Err(_) => {}
        Ok(message) => panic!("{message}"),
    }
    // And it goes on as before.
    sandbox.write("/workspace/gate1", b"");
    sandbox.write("/workspace/gate2", b"");
    assert!(public.get("/sse").text().ends_with("data: 2\n\n"));
}

/// What our own timeout ends a read with.
fn is_patience(kind: std::io::ErrorKind) -> bool {
    matches!(kind, std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

#[test]
fn one_start_for_all_who_come_first_and_a_new_one_when_it_ends() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "1")]);
    let (sandbox, public) = serving(&server.api(), json!({}));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(public.get("/").status, 200));
        }
    });
    let starts = || sandbox.sh_ok("wc -l </workspace/starts").trim().to_owned();
    assert_eq!(starts(), "1");
    // A new server finds it running.
    server.kill();
    server.up();
    assert_eq!(public.get("/").status, 200);
    assert_eq!(starts(), "1");
    // Routes can change around it; a process cannot stay when its command changes.
    let public = put(&sandbox, json!([web(json!({ "methods": ["GET"] }))]));
    assert_eq!((public.get("/").status, public.post("/", json!({})).status), (200, 405));
    assert_eq!(starts(), "1");
    sandbox.sh_ok("kill -9 $(tail -1 /workspace/starts)");
    eventually("it is back", SOON, || match public.get("/").status {
        200 => Ok(()),
        status => Err(status.to_string()),
    });
    assert_eq!(starts(), "2");
    let mut changed = web(json!({}));
    changed["runtime"]["env_vars"] = json!({ "TAG": "second" });
    let public = put(&sandbox, json!([changed]));
    assert_eq!(public.get("/").value()["env"]["TAG"], "second");
    assert_eq!(starts(), "3");
    put(&sandbox, json!([service(&["sleep", "1000"], json!({}))]));
    eventually("the former process ends", SOON, || match sandbox.sh("kill -0 $(tail -1 /workspace/starts) 2>/dev/null").code {
        0 => Err("it runs".to_owned()),
        _ => Ok(()),
    });
}

#[test]
fn a_service_that_does_not_come_up_says_why_and_a_mended_one_comes_up_at_once() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let public = put(&sandbox, json!([service(&["sh", "-c", "echo starting; echo no database >&2; exit 7"], json!({}))]));
    let reply = public.get("/");
    let error = reply.error(&[503]);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("exit code 7") && message.contains("no database"), "{message}");
    assert!(reply.header("retry-after").is_some());
    sandbox.wait_event("the event", |event| event["type"] == "service.failed");
    let public = put(&sandbox, json!([service(&["/no/such/program"], json!({}))]));
    public.get("/").error(&[503]);
    let public = put(&sandbox, json!([service(&["sleep", "1000"], json!({ "timeout_seconds": 1 }))]));
    let message = public.get("/").error(&[503])["message"].as_str().unwrap().to_owned();
    assert!(message.contains("does not listen on port 8080"), "{message}");
    // A browser gets a page that asks again; a program an answer that it can read.
    let page = public.try_send("GET", "/", &[("accept", "text/html,*/*")], b"").unwrap();
    assert!(page.status == 503 && page.text().contains("http-equiv=\"refresh\""), "{}", page.text());
    let public = put(&sandbox, json!([web(json!({}))]));
    assert_eq!(public.get("/").status, 200);
}

#[test]
fn what_sleeps_is_woken_only_where_its_route_and_its_owner_say_so() {
    let server = shared();
    let api = server.api();
    let (sandbox, public) = serving(&api, json!({}));
    assert_eq!(public.get("/").status, 200);
    let pause = |hibernate: bool| {
        sandbox.post("/pause", json!({}));
        if hibernate {
            sandbox.post("/hibernate", json!({}));
        }
    };
    for hibernate in [false, true] {
        pause(hibernate);
        assert_eq!(public.get("/").status, 200, "hibernated: {hibernate}");
        assert!(!sandbox.is_paused());
    }
    // Nobody wakes it who is not let in.
    let closed = json!({ "auth": { "mode": "bearer", "bearer_token_sha256": sha256(b"tok") } });
    let public = put(&sandbox, json!([web(closed)]));
    pause(true);
    assert_eq!(public.get("/").status, 401);
    assert!(sandbox.is_paused());
    let public = put(&sandbox, json!([web(json!({ "resume": false }))]));
    let message = public.get("/").error(&[503])["message"].as_str().unwrap().to_owned();
    assert!(message.contains("resume is disabled"), "{message}");
    assert!(sandbox.is_paused());
    sandbox.api.put(&sandbox.path(""), json!({ "config": { "auto_resume": false } })).ok(200);
    let message = public.get("/").error(&[503])["message"].as_str().unwrap().to_owned();
    assert!(message.contains("auto_resume is disabled"), "{message}");
    // A cleaned sandbox has its public hosts still.
    let cleaned = Sandbox::claim(&api, json!({ "hard_ttl": 1 }));
    let public = put(&cleaned, json!([web(json!({}))]));
    eventually("it is cleaned", SOON, || if cleaned.get()["cleaned"] == true { Ok(()) } else { Err(cleaned.get().to_string()) });
    assert_eq!(public.get("/").status, 200);
}

#[test]
fn a_manual_service_is_only_forwarded_to() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let mut manual = web(json!({}));
    manual["runtime"] = json!({ "type": "manual" });
    let public = put(&sandbox, json!([manual]));
    let message = public.get("/").error(&[502])["message"].as_str().unwrap().to_owned();
    assert!(message.contains("nothing listens on port 8080"), "{message}");
    sandbox.write("/workspace/web.py", WEB.as_bytes());
    // Many development servers listen on the loopback address of IPv6 alone.
    sandbox.spawn(&["sh", "-c", "SANDBOX0_SERVICE_PORT=8080 exec python3 /workspace/web.py v6"]);
    eventually("it is up", SOON, || match public.get("/").status {
        200 => Ok(()),
        status => Err(status.to_string()),
    });
}

#[test]
fn routes_have_timeouts_and_pages_of_other_origins_their_preflights() {
    let server = shared();
    let cors = json!({ "timeout_seconds": 1, "methods": ["GET", "PUT"], "cors": { "allowed_origins": ["https://a.test"], "allowed_headers": ["x-a"] } });
    let (_sandbox, public) = serving(&server.api(), cors);
    eventually("it is up", SOON, || if public.get("/").status == 200 { Ok(()) } else { Err(String::new()) });
    public.get("/slow?s=30").error(&[504]);
    let ask = |origin: &str, method: &str| public.try_send("OPTIONS", "/", &[("origin", origin), ("access-control-request-method", method)], b"").unwrap();
    let granted = ask("https://a.test", "PUT");
    assert_eq!(
        (granted.status, granted.header("access-control-allow-origin"), granted.header("access-control-allow-methods")),
        (204, Some("https://a.test"), Some("GET, PUT"))
    );
    ask("https://b.test", "PUT").error(&[403]);
    ask("https://a.test", "DELETE").error(&[405]);
    let origin = |origin: &str| public.try_send("GET", "/cookies", &[("origin", origin)], b"").unwrap();
    assert_eq!(origin("https://a.test").header("access-control-allow-origin"), Some("https://a.test"));
    assert_eq!(origin("https://b.test").header("access-control-allow-origin"), None, "the service's own word does not count");
    let refused = public.post("/", json!({}));
    assert_eq!(refused.header("allow"), Some("GET, PUT"));
    assert_eq!(refused.error(&[405])["code"], "forbidden");
}

#[test]
fn strangers_learn_nothing_and_the_api_answers_on_no_public_host() {
    let server = shared();
    let api = server.api();
    let (sandbox, public) = serving(&api, json!({ "path_prefix": "/only" }));
    let known = public.get("/other").error(&[404]);
    for host in [
        "sb-aaaaaaaaaaaaaaaa--p8080.localhost",
        &format!("{}--p9.localhost", sandbox.id),
        &format!("{}--p08080.localhost", sandbox.id),
        "nothing.localhost",
        "a.b.localhost",
        "x_y.localhost",
    ] {
        let asked = api.at(host);
        assert_eq!(asked.get("/only").error(&[404]), known, "{host}");
        for path in ["/api/v1/sandboxes", "/readyz", "/metrics", "/openapi.json"] {
            let reply = asked.try_send("GET", path, &[("authorization", &format!("Bearer {}", super::harness::TOKEN))], b"").unwrap();
            assert_eq!(reply.error(&[404]), known, "{host}{path}");
        }
    }
    for path in ["/only/../x", "/only/%2e%2e/x", "/only/..%2fx", "/only\\x", "/only%5cx", "/only%00", "/only%0ax"] {
        public.get(path).error(&[400]);
    }
    let mut sandbox_gone = public.clone();
    drop(sandbox);
    eventually("its host goes with it", SOON, || match sandbox_gone.get("/only").status {
        404 => Ok(()),
        status => Err(status.to_string()),
    });
    sandbox_gone = api.at("localhost");
    assert_eq!(sandbox_gone.get("/readyz").status, 200, "the API's own name");
}

/// Sends bytes as they are; the status of the first answer, 0 when there is none.
fn raw(api: &Api, request: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(api.addr()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    // One that refuses may have closed by then.
    let _ = stream.write_all(request);
    let mut answer = vec![0; 16 << 10];
    let read = stream.read(&mut answer).unwrap_or(0);
    answer.truncate(read);
    // Only now: who ends before the answer has come is taken for gone.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut answer);
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    (status, answer)
}

#[test]
fn requests_that_could_be_read_in_two_ways_are_refused() {
    let server = shared();
    let api = server.api();
    let (sandbox, public) = serving(&api, json!({}));
    assert_eq!(public.get("/").status, 200);
    let host = format!("{}--p{PORT}.localhost", sandbox.id);
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    for head in [
        "content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "content-length: +5\r\n\r\nhello",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "x-a: 1\r\n folded: 2\r\n\r\n",
        "x-a : 1\r\n\r\n",
        "host: other\r\n\r\n",
        "x-a: \0\r\n\r\n",
    ] {
        let (status, answer) = raw(&api, format!("POST /up HTTP/1.1\r\nhost: {host}\r\n{head}{smuggled}").as_bytes());
        let text = String::from_utf8_lossy(&answer);
        assert!(status == 400 || answer.is_empty(), "{head:?}: {text}");
        assert!(!text.contains("\"path\""), "{head:?} reached the service: {text}");
    }
    // Where all readers agree by now, it is read so: the same length twice is one, and chunks make a length void. The length
    // does not reach the service, and what comes behind is another request, to whom it says, if it is read at all.
    for (head, bytes) in [("content-length: 5\r\ncontent-length: 5\r\n\r\nhello", 5), ("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 0)] {
        let (status, answer) = raw(&api, format!("POST /up HTTP/1.1\r\nhost: {host}\r\n{head}{smuggled}").as_bytes());
        let text = String::from_utf8_lossy(&answer);
        assert!(status == 200 && text.contains(&format!("\"bytes\": {bytes},")) && text.matches("\"path\"").count() == 1, "{head:?}: {text}");
        assert!(bytes > 0 || !text.contains("[\"content-length\""), "{head:?}: {text}");
    }
    // Chunks that are none break the request off, and what comes behind is no second one.
    let (status, answer) =
        raw(&api, format!("POST /up HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n{smuggled}").as_bytes());
    assert!((status == 0 || status >= 400) && !String::from_utf8_lossy(&answer).contains("smuggled"), "{}", String::from_utf8_lossy(&answer));
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    assert_eq!(raw(&api, format!("GET / HTTP/1.1\r\nhost: {host}\r\n{many}\r\n").as_bytes()).0, 431);
    let long = "x".repeat(300 << 10);
    assert_eq!(raw(&api, format!("GET / HTTP/1.1\r\nhost: {host}\r\nx: {long}\r\n\r\n").as_bytes()).0, 431);
    assert!(matches!(raw(&api, format!("GET /{long} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).0, 414 | 431));
    assert_eq!(raw(&api, b"GET / HTTP/1.1\r\n\r\n").0, 400);
    assert_eq!(public.get("/").status, 200);
}

#[test]
fn the_gateways_own_listener_leads_to_public_hosts_only() {
    let gateway = free_address();
    let server =
        Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0"), ("SANDBAR_GATEWAY_LISTEN", &gateway.to_string()), ("SANDBAR_TRUSTED_PROXIES", "127.0.0.0/8")]);
    let api = server.api();
    let (sandbox, public) = serving(&api, json!({ "rate_limit": { "rps": 0.01, "burst": 2, "per_client": true } }));
    let url = api.get(&sandbox.path("/services")).ok(200)["services"][0]["public_url"].clone();
    assert!(url.as_str().unwrap().ends_with(&format!(".localhost:{}", gateway.port())), "{url}");
    let outside = public.via(gateway);
    // A proxy that is trusted says who asks, and each of those has a bucket of its own.
    let from = |client: &str| outside.try_send("GET", "/", &[("x-forwarded-for", &format!("6.6.6.6, {client}"))], b"").unwrap();
    let first = from("9.9.9.9");
    assert_eq!(header(&first.value(), "x-forwarded-for"), ["9.9.9.9"]);
    assert_eq!([from("9.9.9.9").status, from("9.9.9.9").status, from("9.9.9.8").status], [200, 429, 200]);
    assert!(from("9.9.9.9").header("retry-after").is_some());
    for host in ["localhost", &gateway.to_string(), "elsewhere.test"] {
        api.at(host).via(gateway).get("/readyz").error(&[404]);
    }
    assert_eq!(api.at("api.localhost").via(gateway).get("/readyz").status, 200);
    assert_eq!(api.get(SANDBOXES).status, 200);
    // HTTP/2 without TLS, by those who know.
    let url = format!("http://{}--p{PORT}.localhost:{}/h2", sandbox.id, gateway.port());
    let curl = Command::new("curl")
        .args([
            "-sS",
            "--http2-prior-knowledge",
            "--resolve",
            &format!("{}--p{PORT}.localhost:{}:127.0.0.1", sandbox.id, gateway.port()),
            "-H",
            "x-forwarded-for: 5.5.5.5",
            "-b",
            "a=1",
            "-w",
            "%{http_version}",
            &url,
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&curl.stdout);
    assert!(curl.status.success() && text.contains("\"path\": \"/h2\"") && text.ends_with('2'), "{text} {}", String::from_utf8_lossy(&curl.stderr));
}
