//! What is not to go on ends: builds that nobody wants, and what is open through a preview that is not good any more. What nobody
//! declared is closed.

use serde_json::{Value, json};

use super::{
    Deployed, SOON,
    demo::{Demo, WITHIN},
    settled, to_the_end,
};
use crate::it::{
    harness::shared,
    http::{Api, eventually},
};

const STREAMS: &str = r#"
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        while self.path == "/events":
            self.wfile.write(b"data: tick\n\n")
            time.sleep(0.1)
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        while True:
            self.rfile.read(1)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Handler).serve_forever()
"#;

#[test]
fn a_build_is_cancelled_and_another_can_begin() {
    let server = super::server();
    let api = server.api();
    let app = Deployed::new(&api);
    let build = |setup: &str| format!("schemaVersion: 1\nsetup: {{commands: ['{setup}']}}\n");
    app.ready("", &[("sandbar.yaml", &build("true"))]);
    let version = app.send("", &[("sandbar.yaml", &build("echo begun; sleep 1000"))]).ok(202)["version"].clone();
    eventually("its command", WITHIN, || {
        let piece = api.get(&app.path(&format!("/versions/{version}/logs"))).ok(200)["output"].as_str().unwrap().to_owned();
        if piece.contains("\nbegun\n") { Ok(()) } else { Err(piece) }
    });
    // Another deploy is refused before anything is read of it: this is no archive.
    let refused = api.send("POST", &app.path("/versions"), b"no archive at all").error(&[409]);
    assert!(refused["message"].as_str().unwrap().contains("cancel its build"), "{refused}");
    let cancelled = api.post(&app.path(&format!("/versions/{version}/cancel")), json!({})).ok(200);
    assert_eq!((&cancelled["state"], &cancelled["reason"]), (&json!("failed"), &json!("the build was cancelled")));
    assert!(app.log(&version).ends_with("failed: the build was cancelled\n"), "its log stays");
    assert_eq!(app.get()["live_version"], 1, "what is live stays");
    for (number, status) in [(version.to_string(), 409), ("1".to_owned(), 409), ("99".to_owned(), 404), ("x".to_owned(), 404)] {
        api.post(&app.path(&format!("/versions/{number}/cancel")), json!({})).error(&[status]);
    }
    settled(&server);

    // By hand, whatever is being built.
    app.send("", &[("sandbar.yaml", &build("sleep 1001"))]).ok(202);
    let (code, out, err) = super::command::sandbar(&api, &std::env::temp_dir(), &["app", "versions", "cancel", &app.name]);
    assert!(code == 0 && out.contains("is failed: the build was cancelled"), "{out}{err}");
    let (code, _, err) = super::command::sandbar(&api, &std::env::temp_dir(), &["app", "versions", "cancel", &app.name]);
    assert!(code != 0 && err.contains("is being built"), "{err}");
    let (code, out, err) = super::command::sandbar(&api, &std::env::temp_dir(), &["app", "versions", &app.name]);
    assert!(code == 0 && out.contains("live") && out.contains("failed"), "{out}{err}");
    app.ready("", &[("sandbar.yaml", &build("true; true"))]);
}

/// A preview that was opened: its public side and the cookie.
fn opened(api: &Api, made: &Value) -> (Api, String) {
    let public = api.at_url(&made["url"]);
    let url = made["url"].as_str().unwrap();
    let reply = public.get(&url[url.find("/.sandbox0").unwrap()..]);
    assert_eq!(reply.status, 303, "{}", reply.text());
    let cookie = reply.headers.iter().find(|(name, _)| name == "set-cookie").unwrap().1.split(';').next().unwrap().to_owned();
    (public, cookie)
}

#[test]
fn what_is_open_through_a_preview_ends_with_it() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "streams", "start: {command: python3 -u streams.py, ports: [{port: 3000}]}\n", &[("streams.py", STREAMS)]);
    assert_eq!(demo.start()["state"], "ready");
    let sandbox = demo.sandbox();
    for expires in [false, true] {
        let made = demo.try_post("/previews", json!({ "ttl_seconds": 900 })).ok(201);
        let (public, cookie) = opened(&demo.api, &made);
        let mut events = public.stream("/events", &[("cookie", &cookie)]);
        assert_eq!(events.status, 200);
        assert_eq!(events.line().unwrap(), "data: tick");
        let of = sandbox.path(&format!("/previews/{}", made["id"].as_str().unwrap()));
        // An upload that never ends, to somebody who never answers beyond the head.
        let mut upload = public.open("POST", "/upload", &[("cookie", &cookie)], Some(1 << 20)).unwrap();
        if expires {
            sandbox.api.put(&of, json!({ "ttl_seconds": 30 })).ok(200);
        } else {
            sandbox.api.delete(&of).ok(200);
        }
        to_the_end(&mut events);
        upload.set_read_timeout(Some(SOON)).unwrap();
        let answer = to_the_end(&mut upload);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{answer}");
        let after = public.try_send("GET", "/events", &[("cookie", &cookie)], b"").unwrap();
        assert_eq!(after.status, 401, "{}", after.text());
    }
}

#[test]
fn who_only_tries_a_link_changes_nothing() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "tried", "start: {command: python3 -u streams.py, ports: [{port: 3000}]}\n", &[("streams.py", STREAMS)]);
    assert_eq!(demo.start()["state"], "ready");
    let made = demo.try_post("/previews", json!({})).ok(201);
    let public = demo.api.at_url(&made["url"]);
    let id = made["id"].as_str().unwrap();
    for token in ["", "x", "pv-nobody.x", &format!("{id}."), &format!("{id}.wrong")] {
        assert_eq!(public.get(&format!("/.sandbox0/preview/bootstrap?token={token}")).status, 404, "{token}");
    }
    // The link is as good as before.
    let (public, cookie) = opened(&demo.api, &made);
    assert_eq!(public.try_send("GET", "/", &[("cookie", &cookie)], b"").unwrap().status, 200);
}

#[test]
fn ports_that_nobody_declared_are_listed_and_closed() {
    let server = shared();
    let manifest = "start:\n  command: 'python3 -m http.server 4100 & exec python3 -u streams.py'\n  ports: [{port: 3000}]\n";
    let demo = Demo::deploy(&server.api(), "unlisted", manifest, &[("streams.py", STREAMS)]);
    assert_eq!(demo.start()["state"], "ready");
    let status = demo.until("the other port", |status| status["unlisted"] == json!([4100]));
    assert_eq!(super::demo::preview(&status, 3000), "ready");
    let refused = demo.try_post("/previews", json!({ "port": 4100 })).error(&[400]);
    assert_eq!(refused["message"], "port: 4100 is not declared by the app, which declares 3000");
    let sandbox = demo.sandbox();
    let made = sandbox.api.post(&sandbox.path("/previews"), json!({ "port": 4100 })).ok(201);
    let (public, cookie) = opened(&demo.api, &made);
    let closed = public.try_send("GET", "/", &[("cookie", &cookie)], b"").unwrap();
    assert_eq!((closed.status, &closed.value()["error"]["code"]), (503, &json!("preview_closed")));
    assert!(closed.text().contains("Port 4100 is not declared by the app."), "{}", closed.text());
    let (code, out, err) = super::command::sandbar(&demo.api, &std::env::temp_dir(), &["app", "status", "unlisted"]);
    assert!(code == 0 && out.contains("4100"), "{out}{err}");
    demo.post("/stop", json!({ "delete_sandbox": true }));
    assert_eq!(demo.status()["unlisted"], json!([]));
}
