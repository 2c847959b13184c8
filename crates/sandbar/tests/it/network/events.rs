//! What came of a sandbox's flows, as its user sees it.
use serde_json::{Value, json};

use super::super::{
    harness::{Sandbox, Server, shared},
    http::Incoming,
};
use super::{connect, greeter, own_address};

/// The next line of a followed stream that is of this kind.
fn next(stream: &mut Incoming, kind: &str) -> Value {
    loop {
        let line: Value = serde_json::from_str(&stream.line().unwrap()).unwrap();
        if line["type"] == kind {
            return line;
        }
    }
}

#[test]
fn with_an_audit_every_refusal_is_listed() {
    let server = shared();
    let plain = Sandbox::claim(&server.api(), json!({ "network": { "mode": "block-all" } }));
    assert_eq!(plain.api.get(&plain.path("/network")).ok(200), json!({ "mode": "block-all" }), "a field that nobody named is not told");
    let policy = json!({ "mode": "block-all", "egress": { "audit": true } });
    let sandbox = Sandbox::claim(&server.api(), json!({ "network": policy }));
    assert_eq!(sandbox.api.get(&sandbox.path("/network")).ok(200), policy);
    let tries = "import socket, errno
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
  for host in ('1.1.1.1', '10.0.0.1'):
    try:
      s = socket.socket(socket.AF_INET, kind); s.settimeout(10); s.connect((host, 443)); s.send(b'x'); print('got', s.recv(1))
    except OSError as e: print(errno.errorcode.get(e.errno, e))";
    let out = sandbox.python(tries).stdout;
    assert!(!out.contains("got") && !out.contains("EACCES") && out.lines().count() == 4, "{out}");
    assert!(!plain.python(tries).stdout.contains("got"));
    let listed = sandbox.api.get(&sandbox.path("/network/events?decision=deny")).ok(200)["events"].clone();
    let mut seen: Vec<_> = listed.as_array().unwrap().iter().map(|event| ["protocol", "addr"].map(|key| event[key].as_str().unwrap().to_owned())).collect();
    seen.sort();
    assert_eq!(seen, [["tcp", "1.1.1.1"], ["tcp", "10.0.0.1"], ["udp", "1.1.1.1"], ["udp", "10.0.0.1"]]);
    assert_eq!(plain.api.get(&plain.path("/network/events")).ok(200)["events"], json!([]));
    // It can be asked for, and done without, at any time; what it is not is refused.
    plain.api.put(&plain.path("/network"), policy).ok(200);
    assert!(connect(&plain, "1.1.1.1", 443).ends_with("ECONNRESET"));
    assert_eq!(plain.api.get(&plain.path("/network/events")).ok(200)["events"][0]["rule"], "mode block-all");
    plain.api.put(&plain.path("/network"), json!({ "mode": "block-all" })).ok(200);
    assert_eq!(connect(&plain, "1.1.1.1", 443), "connect EACCES");
    plain.api.put(&plain.path("/network"), json!({ "egress": { "audit": "yes" } })).error(&[400]);
}

#[test]
fn flows_are_listed_followed_and_summed() {
    let Some(ip) = own_address() else {
        eprintln!("this machine has no address but loopback; nothing to reach");
        return;
    };
    let (open, denied) = (greeter(ip), greeter(ip));
    let server = Server::start_with(&[("SANDBAR_EGRESS_ALLOW", &ip.to_string())]);
    let policy = json!({ "mode": "allow-all", "egress": { "trafficRules": [
        { "name": "not there", "action": "deny", "cidrs": [ip.to_string()], "ports": [{ "port": denied.port() }] }] } });
    let sandbox = Sandbox::claim(&server.api(), json!({ "network": policy }));
    let events = |query: &str| sandbox.api.get(&sandbox.path(&format!("/network/events{query}"))).ok(200);
    assert_eq!(events(""), json!({ "events": [], "next_after": 0, "missed": 0, "running": true }));

    let mut follow = sandbox.api.stream(&sandbox.path("/network/events?follow=true"), &[]);
    next(&mut follow, "heartbeat");
    // Somebody else follows with a key that is deleted then.
    let key = server.api().post("/api-keys", json!({ "name": "test", "roles": ["viewer"] })).ok(201);
    let mut revoked = server.api().with_token(key["key"].as_str().unwrap()).stream(&sandbox.path("/network/events?follow=true"), &[]);
    next(&mut revoked, "heartbeat");
    server.api().delete(&format!("/api-keys/{}", key["id"].as_str().unwrap())).ok(200);
    let host = ip.to_string();
    assert_eq!(connect(&sandbox, &host, open.port()), "hello");
    assert!(!connect(&sandbox, &host, denied.port()).contains("hello"));

    let begun = next(&mut follow, "event");
    assert_eq!((&begun["data"]["addr"], &begun["data"]["port"]), (&json!(host), &json!(open.port())));
    let refused = loop {
        let event = next(&mut follow, "event");
        if event["data"]["decision"] == "deny" {
            break event;
        }
        // The first one ends meanwhile.
        assert_eq!((&event["cursor"], &event["data"]["state"]), (&begun["cursor"], &json!("closed")));
        assert_eq!(event["data"]["bytes_received"], 6);
    };
    assert!(refused["data"]["rule"].as_str().unwrap().contains("not there"), "{refused}");

    // Whatever happens, and the next heartbeat, is told it at most.
    let last = (0..20).map(|_| serde_json::from_str::<Value>(&revoked.line().unwrap()).unwrap()).find(|line| line["type"] != "event");
    assert_eq!(last.unwrap()["type"], "error");

    let page = events("?limit=1");
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
    assert_eq!(page["next_after"], page["events"][0]["seq"]);
    let rest = events(&format!("?after={}", page["next_after"]));
    assert_eq!(rest["events"][0]["seq"].to_string(), refused["cursor"].as_str().unwrap());
    let last = &rest["next_after"];
    assert_eq!(last.to_string(), refused["cursor"].as_str().unwrap());
    assert_eq!(events(&format!("?after={last}")), json!({ "events": [], "next_after": last, "missed": 0, "running": true }));
    let only = events("?decision=deny");
    assert_eq!((only["events"].as_array().unwrap().len(), &only["events"][0]["port"]), (1, &json!(denied.port())));
    assert_eq!(events("?since=2100-01-01T00:00:00Z")["events"], json!([]));
    for wrong in ["?decision=maybe", "?limit=0", "?limit=9999", "?after=-1", "?since=noon", "?follow=true&limit=3"] {
        sandbox.api.get(&sandbox.path(&format!("/network/events{wrong}"))).error(&[400]);
    }

    let metrics = server.api().get("/metrics").text();
    let sum =
        |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {metrics}")).trim().parse::<u64>().unwrap();
    assert!(sum("sandbar_network_flows_total{outcome=\"allowed\"}") >= 1);
    assert!(sum("sandbar_network_flows_total{outcome=\"refused\"}") >= 1);
    assert_eq!(sum("sandbar_network_traffic_bytes_total{direction=\"received\"}"), 6);

    // Without a runtime there is nothing, and nothing is woken.
    sandbox.post("/pause", json!({}));
    sandbox.post("/hibernate", json!({}));
    super::super::http::eventually("the runtime has ended", std::time::Duration::from_secs(20), || {
        let now = events("");
        if now["running"] == false { Ok(()) } else { Err(now.to_string()) }
    });
    assert_eq!(events(""), json!({ "events": [], "next_after": 0, "missed": 0, "running": false }));
    assert!(sandbox.is_paused());
    // Who follows goes on with the next runtime, and numbers grow.
    sandbox.post("/resume", json!({}));
    assert_eq!(connect(&sandbox, &host, open.port()), "hello");
    let later = next(&mut follow, "event");
    assert!(later["data"]["seq"].as_i64() > refused["data"]["seq"].as_i64(), "{later} {refused}");
    server.api().get(&sandbox.path("/network/events").replace(sandbox.get()["id"].as_str().unwrap(), "nobody")).error(&[404]);
}
