//! A script that runs without a server.

use std::process::Command;

use serde_json::{Value, json};

use crate::it::receiver::{Answer, Receiver};

/// Runs code as a file, with more arguments and environment; what it printed as JSON.
fn run(code: &str, args: &[&str], env: &[(&str, &str)]) -> Value {
    let file = std::env::temp_dir().join(format!("sandbar-it-local-{}-{:?}.js", std::process::id(), std::thread::current().id()));
    std::fs::write(&file, code).unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_sandbar"))
        .env_clear()
        // The engine is compiled once for all tests.
        .env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/script-cache-local"))
        .envs(env.iter().copied())
        .args(["-o", "json", "script", "run"])
        .arg(&file)
        .args(args)
        .output()
        .unwrap();
    std::fs::remove_file(file).unwrap();
    serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)))
}

#[test]
fn fetch_without_a_server_is_that_of_servers() {
    let other = Receiver::start(|_| Answer::Status(204));
    let elsewhere: &'static str = format!("location: {}", other.url("/x")).leak();
    let receiver = Receiver::start(move |got| match got.path.as_str() {
        "/moved" => Answer::With(301, "location: /here"),
        "/away" => Answer::With(307, elsewhere),
        _ => Answer::With(200, "x-answer: yes"),
    });
    let (base, allow) = (receiver.url(""), format!("{},{}", receiver.addr, other.addr));
    let code = "const asked = [];
        for (const [path, init] of ctx.data.asks) {
            try { const r = await ctx.fetch(ctx.data.base + path, init); asked.push([r.status, r.redirected]) } catch (error) { asked.push(error.message) }
        }
        return asked";
    let keyed = json!({"authorization": "Bearer x", "x-plain": "kept", "host": "evil"});
    let asks = json!([
        ["/moved", {"method": "PUT", "body": "b", "headers": keyed}],
        ["/moved", {"method": "POST", "body": "b", "headers": keyed}],
        ["/away", {"headers": keyed}],
        ["/moved", {"redirect": "manual"}],
        ["/moved", {"redirect": "error"}],
        ["/here", {"redirect": "maybe"}],
    ]);
    let data = json!({"base": base, "asks": asks}).to_string();
    let ran = run(code, &["--data", &data, "--fetch-allow", &allow], &[("HTTP_PROXY", "http://127.0.0.1:1"), ("http_proxy", "http://127.0.0.1:1")]);
    let value = ran["value"].as_array().unwrap_or_else(|| panic!("{ran}"));
    assert_eq!(value[..4], [json!([200, true]), json!([200, true]), json!([204, true]), json!([301, false])]);
    assert!(value[4].as_str().unwrap().contains("it redirects, which was not wanted") && value[5].as_str().unwrap().contains("fetch takes"), "{ran}");
    let got = receiver.got();
    let of: Vec<_> =
        got.iter().map(|got| (got.method.as_str(), got.path.as_str(), got.body.len(), got.headers.get("authorization").map(String::as_str))).collect();
    let key = Some("Bearer x");
    assert_eq!(of[..5], [("PUT", "/moved", 1, key), ("PUT", "/here", 1, key), ("POST", "/moved", 1, key), ("GET", "/here", 0, key), ("GET", "/away", 0, key)]);
    let away = &other.got()[0].headers;
    assert_eq!((away.get("authorization"), away.get("x-plain").map(String::as_str)), (None, Some("kept")));

    // What is allowed is said by the flag or as servers are told it, and is nothing unless it is said.
    let one = json!({"base": base, "asks": [["/here", null]]}).to_string();
    assert_eq!(run(code, &["--data", &one], &[("FUNCTIONS_FETCH_ALLOW", &allow)])["value"], json!([[200, false]]));
    let refused = run(code, &["--data", &one], &[]);
    assert!(refused["value"][0].as_str().is_some_and(|text| text.contains("not in fetch allow-list")), "{refused}");
}
