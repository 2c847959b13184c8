//! Previews from outside: who gets in, how often, for how long, and what both sides see of each other.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use tungstenite::Message;

use super::{
    harness::{Sandbox, Server, shared},
    http::{Api, Reply, encode, eventually},
};

const SOON: Duration = Duration::from_secs(60);
const WEB: &str = include_str!("gateway/web.py");
const PORT: u16 = 5173;
const COOKIE: &str = "__Host-sandbox0-preview";
const PLAIN: &str = "sandbox0-preview";
const PAGE: (&str, &str) = ("accept", "text/html,*/*");

/// A preview that was opened, from its visitor's side.
struct Visitor {
    preview: Value,
    public: Api,
    cookie: String,
}

impl Visitor {
    fn of(preview: Value) -> Self {
        let public = address_of(&preview).at_url(&preview["url"]);
        let opened = public.get(link(&preview));
        assert_eq!(opened.status, 303, "{}", opened.text());
        let cookie = cookies(&opened)[0].split(';').next().unwrap().to_owned();
        Self { preview, public, cookie }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut all = vec![("cookie", self.cookie.as_str())];
        all.extend_from_slice(headers);
        self.public.try_send(method, path, &all, b"").unwrap()
    }

    fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[])
    }

    fn path(&self, sandbox: &Sandbox) -> String {
        sandbox.path(&format!("/previews/{}", self.preview["id"].as_str().unwrap()))
    }
}

/// Public hosts are asked at the address of their URL.
fn address_of(preview: &Value) -> Api {
    let port = preview["url"].as_str().unwrap().split_once("localhost:").unwrap().1.split('/').next().unwrap().parse::<u16>().unwrap();
    Api::new((std::net::Ipv4Addr::LOCALHOST, port).into(), "").anonymous()
}

/// The path and query of the URL.
fn link(preview: &Value) -> &str {
    let url = preview["url"].as_str().unwrap();
    &url[url.find("/.sandbox0").unwrap()..]
}

fn cookies(reply: &Reply) -> Vec<&str> {
    reply.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str()).collect()
}

fn made(sandbox: &Sandbox, changes: Value) -> Value {
    let mut body = json!({ "port": PORT });
    for (key, value) in changes.as_object().unwrap() {
        body[key] = value.clone();
    }
    let reply = sandbox.api.post(&sandbox.path("/previews"), body);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    reply.ok(201)
}

/// A sandbox in which the application listens, on loopback alone.
fn serving(api: &Api) -> Sandbox {
    let sandbox = Sandbox::claim(api, json!({}));
    start(&sandbox, "");
    sandbox
}

fn start(sandbox: &Sandbox, arguments: &str) {
    sandbox.write("/workspace/web.py", WEB.as_bytes());
    sandbox.spawn(&["sh", "-c", &format!("SANDBOX0_SERVICE_PORT={PORT} exec python3 /workspace/web.py {arguments}")]);
    let probe = format!("import socket; socket.create_connection(('localhost', {PORT}))");
    eventually("it listens", SOON, || match sandbox.python(&probe).code {
        0 => Ok(()),
        code => Err(code.to_string()),
    });
}

fn header<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    seen["headers"].as_array().unwrap().iter().filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
}

#[test]
fn a_preview_opens_once_for_whoever_has_its_url() {
    let server = shared();
    let sandbox = serving(&server.api());
    let preview = made(&sandbox, json!({ "path": "/start?a=1#top" }));
    assert_eq!((preview["port"].as_u64(), preview["protocol"].as_str(), preview["resume"].as_bool()), (Some(5173), Some("http"), Some(false)));
    assert!(preview["target_url"].as_str().unwrap().ends_with("/start?a=1#top") && preview["runtime_generation"] == 1, "{preview}");
    let public = server.api().at_url(&preview["url"]);
    let closed = public.get("/").error(&[404]);
    assert_eq!(closed, server.api().at("sb-aaaaaaaaaaaaaaaa--p5173.localhost").get("/").error(&[404]), "it is private");
    // Who only looks at the link does not use it up.
    public.try_send("HEAD", link(&preview), &[], b"").ok();
    assert_eq!(public.post(link(&preview), json!({})).status, 405);
    public.try_send("GET", link(&preview), &[("sec-purpose", "prefetch;prerender")], b"").unwrap().error(&[503]);
    let id = preview["id"].as_str().unwrap();
    for token in [format!("{id}.{}", "A".repeat(43)), id.to_owned(), "x.y".to_owned(), String::new()] {
        public.get(&format!("/.sandbox0/preview/bootstrap?token={token}&next=/")).error(&[404]);
    }
    let other_port = server.api().at(&format!("{}--p9.localhost", sandbox.id));
    other_port.get(link(&preview)).error(&[404]);
    let opened = public.get(link(&preview));
    assert_eq!((opened.status, opened.header("location")), (303, Some("/start?a=1#top")));
    assert_eq!((opened.header("cache-control"), opened.header("referrer-policy")), (Some("no-store"), Some("no-referrer")));
    let [secure, plain] = cookies(&opened)[..] else { panic!("{:?}", opened.headers) };
    let value = secure.strip_prefix(COOKIE).unwrap().split(';').next().unwrap();
    assert_eq!(secure, format!("{COOKIE}{value}; Path=/; HttpOnly; Secure; SameSite=None; Partitioned"));
    assert_eq!(plain, format!("{PLAIN}{value}; Path=/; HttpOnly; SameSite=Lax"));
    // Used up for everybody but who used it.
    public.get(link(&preview)).error(&[404]);
    let page = public.try_send("GET", link(&preview), &[PAGE], b"").unwrap();
    assert!(page.status == 404 && page.text().contains("used before"), "{}", page.text());
    let with = |api: &Api, path: &str, cookie: &str| api.try_send("GET", path, &[("cookie", cookie)], b"").unwrap();
    assert_eq!(with(&public, link(&preview), &format!("{COOKIE}{value}")).status, 303);
    for name in [COOKIE, PLAIN] {
        let seen = with(&public, "/x", &format!("mine=1; {name}{value}; theirs=2")).value();
        assert_eq!(header(&seen, "cookie"), ["mine=1; theirs=2"], "{name} does not reach the service");
    }
    assert!(header(&with(&public, "/x", &format!("{COOKIE}{value}")).value(), "cookie").is_empty());
    // The cookie of one port opens no other, and a wrong one nothing.
    with(&other_port, "/", &format!("{COOKIE}{value}")).error(&[401]);
    with(&public, "/", &format!("{COOKIE}={id}.wrong")).error(&[401]);
    with(&server.api().at("sb-aaaaaaaaaaaaaaaa--p5173.localhost"), "/", &format!("{COOKIE}{value}")).error(&[401]);
    with(&public, "/", &format!("{COOKIE}=nonsense")).error(&[401]);
    let listed = sandbox.api.get(&sandbox.path("/previews")).ok(200);
    assert!(listed["previews"][0]["opened_at"].is_string() && !listed.to_string().contains("token="), "{listed}");
}

#[test]
fn the_way_on_from_a_link_stays_on_its_host() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    for next in ["//evil.test", "/\\evil.test", "\\\\evil.test", "https://evil.test/", "javascript:alert(1)", "/\t/evil.test", "/\n/evil.test", "x", ""] {
        let preview = made(&sandbox, json!({ "path": "/home" }));
        let (link, _) = link(&preview).split_once("&next=").unwrap();
        let opened = server.api().at_url(&preview["url"]).get(&format!("{link}&next={}", encode(next).replace('/', "%2F")));
        assert_eq!((opened.status, opened.header("location")), (303, Some("/home")), "{next:?}");
    }
    let refused = |body: Value| sandbox.api.post(&sandbox.path("/previews"), body).error(&[400])["message"].as_str().unwrap().to_owned();
    for (body, field) in [
        (json!({}), "port"),
        (json!({ "port": 0 }), "port"),
        (json!({ "port": 70_000 }), "port"),
        (json!({ "port": 80, "path": "//evil.test" }), "path"),
        (json!({ "port": 80, "path": "/\\evil.test" }), "path"),
        (json!({ "port": 80, "path": "http://evil.test/" }), "path"),
        (json!({ "port": 80, "ttl_seconds": 29 }), "ttl_seconds"),
        (json!({ "port": 80, "ttl_seconds": 3601 }), "ttl_seconds"),
        (json!({ "port": 80, "protocol": "ws" }), "protocol"),
    ] {
        assert!(refused(body.clone()).starts_with(field), "{body}");
    }
    assert_eq!(sandbox.api.post(&sandbox.path("/previews"), json!({ "port": 49_983 })).error(&[403])["code"], "forbidden");
    let listed = sandbox.api.get(&sandbox.path("/previews")).ok(200)["previews"].as_array().unwrap().len();
    for _ in listed..64 {
        made(&sandbox, json!({}));
    }
    sandbox.api.post(&sandbox.path("/previews"), json!({ "port": PORT })).error(&[429]);
}

#[test]
fn previews_are_their_makers_alone() {
    let server = shared();
    let sandbox = serving(&server.api());
    let visitor = Visitor::of(made(&sandbox, json!({})));
    let account = json!({ "email": format!("{}@example.com", sandbox.id), "password": "long enough", "name": "A" });
    let stranger = server.api().anonymous().post("/auth/register", account).ok(201);
    let stranger = server.api().with_token(stranger["access_token"].as_str().unwrap());
    let path = visitor.path(&sandbox);
    stranger.post(&sandbox.path("/previews"), json!({ "port": PORT })).error(&[404]);
    stranger.get(&sandbox.path("/previews")).error(&[404]);
    stranger.get(&path).error(&[404]);
    stranger.put(&path, json!({})).error(&[404]);
    stranger.try_send("DELETE", &path, &[], b"").unwrap().error(&[404]);
    let other = Sandbox::claim(&server.api(), json!({}));
    let id = visitor.preview["id"].as_str().unwrap();
    other.api.get(&other.path(&format!("/previews/{id}"))).error(&[404]);
    assert_eq!(visitor.get("/").status, 200);
    // Renewed, and revoked: at once for requests, soon for what is open.
    let renewed = sandbox.api.put(&path, json!({ "ttl_seconds": 3600 })).ok(200);
    assert!(renewed["expires_at"].as_str() > visitor.preview["expires_at"].as_str() && renewed["url"] == renewed["target_url"], "{renewed}");
    sandbox.api.put(&path, json!({ "ttl_seconds": 5 })).error(&[400]);
    let mut socket = visitor.public.ws_with("/ws", &[("cookie", &visitor.cookie)]).expect("an upgrade");
    socket.send(Message::text("a")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("a"));
    sandbox.api.try_send("DELETE", &path, &[], b"").unwrap().ok(200);
    visitor.get("/").error(&[401]);
    let page = visitor.ask("GET", "/", &[PAGE]);
    assert!(page.status == 401 && page.text().contains("revoked"), "{}", page.text());
    while socket.read().is_ok() {}
    sandbox.api.get(&path).error(&[404]);
}

#[test]
fn previews_end_with_the_key_that_made_them() {
    let server = shared();
    let admin = server.api();
    let sandbox = serving(&admin);
    let key = |more: Value| {
        let mut body = json!({ "name": "previews", "roles": ["developer"] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = admin.post("/api-keys", body).ok(201);
        (admin.with_token(made["key"].as_str().unwrap()), format!("/api-keys/{}", made["id"].as_str().unwrap()))
    };
    let of = |api: &Api| api.post(&sandbox.path("/previews"), json!({ "port": PORT })).ok(201);
    let own = Visitor::of(of(&admin));
    for deactivates in [false, true] {
        let (api, path) = key(json!({}));
        let visitor = Visitor::of(of(&api));
        let unopened = of(&api);
        let mut socket = visitor.public.ws_with("/ws", &[("cookie", &visitor.cookie)]).expect("an upgrade");
        socket.send(Message::text("a")).unwrap();
        assert_eq!((socket.read().unwrap(), visitor.get("/").status), (Message::text("a"), 200));
        if deactivates {
            admin.send("POST", &format!("{path}/deactivate"), b"").ok(200);
        } else {
            admin.delete(&path).ok(200);
        }
        while socket.read().is_ok() {}
        eventually("its end", SOON, || Some(()).filter(|()| visitor.get("/").status == 401).ok_or_else(String::new));
        visitor.public.get(link(&unopened)).error(&[404]);
        assert_eq!(own.get("/").status, 200, "those of others stay");
    }
    // Nor is one good for longer than a key that expires, whoever renews it.
    let (api, _) = key(json!({ "expires_in": "20s" }));
    let brief = of(&api);
    assert!(brief["expires_at"].as_str() < own.preview["expires_at"].as_str(), "{brief}");
    let path = sandbox.path(&format!("/previews/{}", brief["id"].as_str().unwrap()));
    let renewed = admin.put(&path, json!({ "ttl_seconds": 3600 })).ok(200);
    assert_eq!(renewed["expires_at"], brief["expires_at"]);
}

#[test]
fn the_service_is_asked_as_on_its_own_machine_and_the_browser_stays_outside() {
    let server = shared();
    let sandbox = serving(&server.api());
    let visitor = Visitor::of(made(&sandbox, json!({})));
    let host = format!("{}--p{PORT}.localhost:{}", sandbox.id, server.api().addr().port());
    let seen =
        visitor.ask("POST", "/a%2Fb?c=%20", &[("x-sandbox-id", "x"), ("x-sandbox0-anything", "x"), ("x-forwarded-host", "evil.test"), ("x-mine", "1")]).value();
    assert_eq!((seen["method"].as_str(), seen["path"].as_str()), (Some("POST"), Some("/a%2Fb?c=%20")));
    for (name, want) in [("host", "localhost:5173"), ("x-forwarded-host", &host), ("x-forwarded-proto", "http"), ("x-mine", "1")] {
        assert_eq!(header(&seen, name), [want], "{name}");
    }
    assert!(header(&seen, "x-sandbox-id").is_empty() && header(&seen, "x-sandbox0-anything").is_empty());
    for (location, want) in [
        ("http://localhost:5173/in?x#y", "/in?x#y"),
        ("http://127.0.0.1:5173//evil.test/", "/.//evil.test/"),
        ("https://example.com/out", "https://example.com/out"),
        ("/plain", "/plain"),
    ] {
        let moved = visitor.get(&format!("/answer?status=302&Location={}", encode(location)));
        assert_eq!((moved.status, moved.header("location")), (302, Some(want)));
    }
    let query = [
        ("X-Frame-Options", "DENY"),
        ("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'"),
        ("Set-Cookie", "a=1; Domain=localhost; SameSite=Strict; Path=/x"),
        ("X-Kept", "yes"),
    ];
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let answer = visitor.get(&format!("/answer?{}", query.join("&")));
    assert_eq!(
        (answer.header("x-frame-options"), answer.header("content-security-policy"), answer.header("x-kept")),
        (None, Some("default-src 'self'"), Some("yes"))
    );
    assert_eq!(cookies(&answer), ["a=1; Path=/x; Secure; SameSite=None; Partitioned"]);
    let answer = visitor.get(&format!("/answer?Set-Cookie={}", encode(&format!("{COOKIE}=x; Path=/; Secure"))));
    assert!(cookies(&answer).is_empty(), "the service cannot replace what opened the preview");
    // A WebSocket comes from the service's own page, or from that of another port of the sandbox.
    let other = format!("http://{}", host.replace("--p5173", "--p3000"));
    for (origin, want) in [(format!("http://{host}"), "http://localhost:5173"), (other.clone(), other.as_str())] {
        let mut socket = visitor.public.ws_with("/ws", &[("cookie", &visitor.cookie), ("origin", &origin)]).expect("an upgrade");
        socket.send(Message::text(want)).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text(want));
        let head = format!(
            "GET /ws HTTP/1.1\r\nhost: {host}\r\ncookie: {}\r\norigin: {origin}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            visitor.cookie
        );
        let answer = first_bytes(&visitor.public, head.as_bytes());
        assert!(answer.to_ascii_lowercase().contains(&format!("x-origin: {want}\r\n")), "{answer}");
    }
    assert_eq!(visitor.public.ws("/ws").err(), Some(404));
    // What others have in the same browser opens none, and changes nothing.
    for origin in ["http://evil.test", "null", "http://localhost:5173", "http://sb-a--p5173.localhost"] {
        assert_eq!(visitor.public.ws_with("/ws", &[("cookie", &visitor.cookie), ("origin", origin)]).err(), Some(403), "{origin}");
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let refused = visitor.ask(method, "/x", &[("origin", origin)]).error(&[403]);
            assert!(refused["code"] == "forbidden" && refused["message"].as_str().unwrap().contains("another origin"), "{refused}");
        }
        assert_eq!(visitor.ask("GET", "/x", &[("origin", origin)]).status, 200, "{origin}");
    }
    let own = format!("http://{host}");
    for headers in [vec![("origin", own.as_str())], vec![("origin", other.as_str())], vec![("origin", "null"), ("sec-fetch-site", "same-origin")], vec![]] {
        assert_eq!(visitor.ask("POST", "/x", &headers).status, 200, "{headers:?}");
    }
    // What comes slowly comes as it comes.
    let mut events = visitor.public.stream("/sse", &[("cookie", &visitor.cookie)]);
    assert_eq!(events.line().unwrap(), "data: 0");
    drop(events);
    assert_eq!(visitor.get("/large?bytes=3000000").body.len(), 3_000_000);
    visitor.get("/a/../b").error(&[400]);
}

fn first_bytes(api: &Api, request: &[u8]) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(api.addr()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[test]
fn a_preview_is_of_one_runtime_unless_it_may_wake_the_sandbox() {
    let server = shared();
    let sandbox = serving(&server.api());
    let bound = Visitor::of(made(&sandbox, json!({})));
    let waking = Visitor::of(made(&sandbox, json!({ "resume": true })));
    assert_eq!((bound.get("/").status, waking.get("/").status), (200, 200));
    sandbox.post("/pause", json!({}));
    let message = bound.get("/").error(&[401])["message"].as_str().unwrap().to_owned();
    assert!(message.contains("not running") && sandbox.is_paused(), "{message}");
    assert_eq!(waking.get("/").status, 200, "its processes go on where they were");
    assert!(!sandbox.is_paused());
    let message = bound.get("/").error(&[401])["message"].as_str().unwrap().to_owned();
    assert!(message.contains("resumed"), "{message}");
    sandbox.api.put(&waking.path(&sandbox), json!({})).ok(200);
    sandbox.api.put(&bound.path(&sandbox), json!({})).error(&[409]);
    sandbox.api.put(&bound.path(&sandbox), json!({})).error(&[404]);
    // The owner's word is the stronger one.
    sandbox.api.put(&sandbox.path(""), json!({ "config": { "auto_resume": false } })).ok(200);
    sandbox.post("/pause", json!({}));
    waking.get("/").error(&[503]);
    sandbox.api.post(&sandbox.path("/previews"), json!({ "port": PORT })).error(&[503]);
    assert!(sandbox.is_paused());
    sandbox.api.put(&sandbox.path(""), json!({ "config": { "auto_resume": true } })).ok(200);
    // To make one for what runs is an access like others.
    let preview = made(&sandbox, json!({}));
    assert!(!sandbox.is_paused() && preview["runtime_generation"] == sandbox.get()["runtime_generation"], "{preview}");
}

#[test]
fn where_nothing_listens_it_is_said_and_public_services_stay_what_they_are() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let visitor = Visitor::of(made(&sandbox, json!({})));
    let error = visitor.get("/").error(&[502]);
    assert!(error["message"].as_str().unwrap().contains("nothing listens on port 5173"), "{error}");
    let page = visitor.ask("GET", "/", &[PAGE]);
    assert!(page.status == 502 && page.text().contains("Nothing listens on port 5173") && page.text().contains("http-equiv=\"refresh\""), "{}", page.text());
    // The loopback address of IPv6 alone.
    start(&sandbox, "v6");
    assert_eq!(visitor.get("/").status, 200);
    let service = json!({ "id": "web", "port": PORT, "runtime": { "type": "manual" }, "ingress": { "public": true, "routes": [{ "id": "r", "path_prefix": "/only", "resume": false }] } });
    sandbox.api.put(&sandbox.path("/services"), json!({ "services": [service] })).ok(200);
    assert_eq!((visitor.get("/other").status, visitor.public.get("/other").status, visitor.public.get("/only").status), (200, 404, 200));
    // A page of somebody else comes to the public one like everybody.
    let foreign = |path: &str| visitor.ask("POST", path, &[("origin", "http://evil.test")]);
    assert_eq!((foreign("/only").status, foreign("/other").status), (200, 403));
    let stale = |path: &str| visitor.public.try_send("GET", path, &[("cookie", &format!("{COOKIE}=pv-x.y"))], b"").unwrap();
    stale("/other").error(&[401]);
    let seen = stale("/only").value();
    assert!(header(&seen, "cookie").is_empty() && header(&seen, "host")[0].contains("--p5173."), "{seen}");
}

#[test]
fn a_server_inside_may_speak_tls_with_a_certificate_of_its_own() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let script = r#"
import http.server, ssl
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.headers["host"].encode()
        self.send_response(302 if self.path == "/go" else 200)
        self.send_header("location", "https://localhost:5173/there")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
s = http.server.ThreadingHTTPServer(("127.0.0.1", 5173), H)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
c.load_cert_chain("/tmp/c.pem", "/tmp/k.pem")
s.socket = c.wrap_socket(s.socket, server_side=True)
s.serve_forever()
"#;
    sandbox
        .sh_ok("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /tmp/k.pem -out /tmp/c.pem -days 1 -subj /CN=whoever 2>&1");
    sandbox.write("/workspace/tls.py", script.as_bytes());
    sandbox.spawn(&["python3", "/workspace/tls.py"]);
    let visitor = Visitor::of(made(&sandbox, json!({ "protocol": "https" })));
    eventually("it is up", SOON, || match visitor.get("/") {
        reply if reply.status == 200 => Ok(()),
        reply => Err(reply.text()),
    });
    assert_eq!(visitor.get("/").text(), "localhost:5173");
    assert_eq!(visitor.get("/go").header("location"), Some("/there"));
}

#[test]
fn previews_outlive_the_server_and_no_longer_than_they_should() {
    let mut server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0")]);
    let sandbox = serving(&server.api());
    let visitor = Visitor::of(made(&sandbox, json!({})));
    let unopened = made(&sandbox, json!({}));
    server.kill();
    server.up();
    assert_eq!(visitor.get("/").status, 200);
    server.kill();
    let sql = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(c.execute('UPDATE preview SET expires_at_ms = 1').rowcount); c.commit()";
    let done = Command::new("python3").args(["-c", sql]).arg(server.data_dir().join("sandbar.db")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "2", "{}", String::from_utf8_lossy(&done.stderr));
    server.up();
    visitor.get("/").error(&[401]);
    visitor.public.get(link(&unopened)).error(&[404]);
    sandbox.api.put(&visitor.path(&sandbox), json!({})).error(&[404]);
    assert_eq!(sandbox.api.get(&sandbox.path("/previews")).ok(200)["previews"], json!([]));
    // The hash is all that is stored of what opens one.
    let secret = link(&unopened).split_once('.').unwrap().1.split_once("token=").unwrap().1.split_once('.').unwrap().1.split('&').next().unwrap().to_owned();
    let files = ["sandbar.db", "sandbar.db-wal"].map(|name| std::fs::read(server.data_dir().join(name)).unwrap_or_default());
    assert!(secret.len() == 43 && files.iter().all(|file| !file.windows(secret.len()).any(|part| part == secret.as_bytes())), "{secret}");
}
