//! Previews of apps and their public ports: closed until what serves them is ready, and what was printed, as it comes.

use serde_json::json;

use super::demo::{Demo, WITHIN, preview};
use crate::it::{
    harness::shared,
    http::{Api, Reply, eventually},
};

const WEB: (&str, &str) = ("web.py", include_str!("web.py"));

const PORTS: &str = "start:
  command: python3 web.py
  ports: [{port: 3000, autoStart: true}, {port: 3001, label: never}]
services:
  - name: shop
    command: PORT=3100 GO=open exec python3 web.py
    ports: [{port: 3100, access: public}]
    autoStart: true
";

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).unwrap_or_default()
}

#[test]
fn ports_are_closed_until_what_serves_them_is_ready() {
    let server = shared();
    let api = server.api();
    let demo = Demo::deploy(&api, "ports", PORTS, &[WEB]);
    demo.try_post("/previews", json!({})).error(&[409]);
    demo.post("/start", json!({}));
    let sandbox = demo.sandbox();
    let made = demo.try_post("/previews", json!({})).ok(201);
    assert_eq!((&made["port"], &made["resume"]), (&json!(3000), &json!(true)));
    demo.try_post("/previews", json!({ "port": 70000 })).error(&[400]);

    // Whoever has the link is let in, and waits for the app.
    let public = api.at_url(&made["url"]);
    let url = made["url"].as_str().unwrap();
    let opened = public.get(&url[url.find("/.sandbox0").unwrap()..]);
    assert_eq!(opened.status, 303, "{}", opened.text());
    let cookie = header(&opened, "set-cookie").split(';').next().unwrap().to_owned();
    let look = |public: &Api| public.try_send("GET", "/", &[("cookie", cookie.as_str())], b"").unwrap();
    assert_eq!((look(&public).status, &look(&public).value()["error"]["code"]), (503, &json!("preview_opening")));
    let page = public.try_send("GET", "/", &[("cookie", cookie.as_str()), ("accept", "text/html")], b"").unwrap();
    assert!(page.status == 503 && page.text().contains("is starting"), "{}", page.text());

    // The public port, too, for everybody.
    let services = sandbox.api.get(&sandbox.path("/services")).ok(200);
    let shop = api.at_url(&services["services"][0]["public_url"]);
    assert_eq!(shop.get("/").value()["error"]["code"], "preview_opening");
    sandbox.write("/workspace/open", b"");
    eventually("the shop", WITHIN, || Some(()).filter(|()| shop.get("/").body == b"hello").ok_or_else(|| shop.get("/").text()));
    // Whom it sends to its own machine stays on the public host.
    for (location, want) in [
        ("http://localhost:3100/z?x=1", "/z?x=1"),
        ("http://127.0.0.1:3100//evil.test", "/.//evil.test"),
        ("http://localhost:3000/z", "http://localhost:3000/z"),
        ("http://localhost/z", "http://localhost/z"),
        ("https://example.com/", "https://example.com/"),
    ] {
        let moved = shop.get(&format!("/?to={location}"));
        assert_eq!((moved.status, header(&moved, "location")), (302, want));
    }
    assert_eq!(look(&public).status, 503);
    sandbox.write("/workspace/go", b"");
    eventually("the app", WITHIN, || Some(()).filter(|()| look(&public).body == b"hello").ok_or_else(|| look(&public).text()));
    let ready = demo.status();
    assert_eq!((preview(&ready, 3000), preview(&ready, 3001), preview(&ready, 3100)), ("ready", "opening", "ready"));

    // A visitor wakes it, and meets it when it is ready again.
    sandbox.post("/pause", json!({}));
    demo.until("its sleep", |status| status["sandbox"]["awake"] == false);
    assert_eq!(shop.get("/").value()["error"]["code"], "unavailable", "a public port without autoStart wakes nothing");
    eventually("the app again", WITHIN, || Some(()).filter(|()| look(&public).body == b"hello").ok_or_else(|| look(&public).text()));

    demo.post("/stop", json!({}));
    assert_eq!(look(&public).value()["error"]["code"], "preview_closed");
    assert_eq!(shop.get("/").value()["error"]["code"], "preview_closed");
    assert!(sandbox.is_paused(), "what is closed is not woken for");
}

#[test]
fn what_is_printed_can_be_followed_from_any_place() {
    let server = shared();
    let talking = "start: {command: 'echo one; while [ ! -e more ]; do sleep 0.05; done; echo two >&2; exec sleep 1000'}\n";
    let demo = Demo::deploy(&server.api(), "talking", talking, &[]);
    demo.start();
    eventually("its line", WITHIN, || Some(()).filter(|()| demo.logs("start") == "one\n").ok_or_else(|| demo.logs("start")));
    let mut events = server.api().stream(&demo.path("/logs"), &[("accept", "text/event-stream")]);
    let mut next = || {
        let (mut id, mut data) = (String::new(), String::new());
        loop {
            let line = events.line().unwrap();
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.to_owned();
            }
            if let Some(text) = line.strip_prefix("data: ") {
                data = text.to_owned();
            }
            if line.is_empty() && !data.is_empty() {
                return (id, serde_json::from_str::<serde_json::Value>(&data).unwrap());
            }
        }
    };
    let (id, first) = next();
    assert_eq!((&first["output"], &first["cursor"], &first["completed"]), (&json!("one\n"), &json!(id), &json!(false)));
    demo.sandbox().write("/workspace/more", b"");
    assert_eq!(next().1["output"], "two\n");
    let rest = demo.api.get(&demo.path(&format!("/logs?since={id}"))).ok(200);
    assert_eq!(rest["output"], "two\n");
    demo.post("/stop", json!({ "delete_sandbox": true }));
    demo.api.get(&demo.path("/logs?since=nonsense")).error(&[400]);
    demo.api.get(&demo.path("/logs?source=nobody")).error(&[404]);
}

#[test]
fn the_command_line_starts_looks_and_stops() {
    let server = shared();
    let demo = Demo::deploy(&server.api(), "by-hand", PORTS, &[WEB, ("go", ""), ("open", "")]);
    let run = |arguments: &[&str]| super::command::sandbar(&demo.api, &std::env::temp_dir(), arguments);
    let (code, out, err) = run(&["app", "start", "by-hand"]);
    assert!(code == 0 && out.contains("ready"), "{out}{err}");
    demo.until("the shop", |status| preview(status, 3100) == "ready");
    let (code, out, err) = run(&["app", "status", "by-hand"]);
    assert!(code == 0 && out.contains("shop") && out.contains("3100") && out.contains("public"), "{out}{err}");
    eventually("its lines", WITHIN, || {
        let (_, out, err) = run(&["app", "logs", "by-hand", "--service", "shop"]);
        if out.contains("starting by-hand shop") { Ok(()) } else { Err(out + &err) }
    });
    let (code, out, err) = run(&["app", "open", "by-hand", "--print"]);
    assert!(code == 0 && out.contains("--p3000.") && out.contains("/.sandbox0/preview/bootstrap?"), "{out}{err}");
    let (code, out, err) = run(&["app", "service", "stop", "by-hand", "shop"]);
    assert!(code == 0 && out.contains("shop"), "{out}{err}");
    let (code, _, err) = run(&["app", "start", "by-hand", "--service", "nobody"]);
    assert!(code != 0 && err.contains("the app has no service \"nobody\"; it has shop"), "{err}");
    let (code, out, err) = run(&["app", "stop", "by-hand"]);
    assert!(code == 0 && out.contains("paused"), "{out}{err}");
}

#[test]
fn endpoints_of_models_are_told_with_their_place() {
    let server = shared();
    let manifest = format!("{PORTS}mcp: {{endpoints: [{{name: tools, port: 3000, path: /tools}}, {{port: 3100, service: shop}}]}}\n");
    let demo = Demo::deploy(&server.api(), "models", &manifest, &[WEB, ("go", ""), ("open", "")]);
    let offline = demo.status()["mcp"].clone();
    assert_eq!((&offline[0]["name"], &offline[0]["path"], offline[0].get("url")), (&json!("tools"), &json!("/tools"), None));
    demo.start();
    let status = demo.until("the shop", |status| preview(status, 3100) == "ready");
    let seen = |at: usize| {
        let endpoint = &status["mcp"][at];
        ["name", "process", "access", "state"].map(|key| endpoint[key].as_str().unwrap_or_default())
    };
    assert_eq!((seen(0), seen(1)), (["tools", "start", "private", "ready"], ["mcp", "shop", "public", "ready"]));
    let url = |of: &serde_json::Value| of["url"].as_str().unwrap().to_owned();
    assert!(url(&status["mcp"][0]).ends_with("/tools") && url(&status["previews"][0]).contains("--p3000."), "{status}");
    // The public one is there for everybody at what the status says.
    assert_eq!(demo.api.at_url(&status["mcp"][1]["url"]).get("/mcp").body, b"hello");
    for (wish, port, path) in [
        (json!({ "mcp": "tools" }), 3000, "/tools"),
        (json!({ "mcp": "" }), 3000, "/tools"),
        (json!({ "mcp": "mcp" }), 3100, "/mcp"),
        (json!({ "port": 3100, "path": "/x?y=1" }), 3100, "/x?y=1"),
    ] {
        let made = demo.try_post("/previews", wish).ok(201);
        assert!(made["port"] == port && made["target_url"].as_str().unwrap().ends_with(path), "{made}");
    }
    for (wish, says) in [
        (json!({ "mcp": "nothing" }), "it has tools, mcp"),
        (json!({ "mcp": "tools", "port": 3000 }), "leave out the others"),
        (json!({ "path": "//elsewhere" }), "path"),
    ] {
        let error = demo.try_post("/previews", wish).error(&[400]);
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
}
