//! What a team may send in a time.
use std::time::Duration;

use serde_json::{Value, json};

use super::super::{
    harness::{Sandbox, Server},
    http::eventually,
};
use super::{connect, greeter, own_address};

const QUOTA: &str = "/api/v1/quotas/network_egress_bytes";
const DAY_MS: u64 = 86_400_000;

/// Sends so many bytes to a server, which takes what comes.
fn send(sandbox: &Sandbox, host: &str, port: u16, bytes: usize) {
    let out = sandbox
        .python(&format!("import socket\ns = socket.create_connection(({host:?}, {port}), 10)\ns.sendall(b'x' * {bytes})\ns.shutdown(1)\nprint(s.recv(9))"));
    assert!(out.stdout.contains("hello"), "{out:?}");
}

#[test]
fn a_team_beyond_its_quota_of_bytes_is_stopped_until_it_is_not() {
    let ip = own_address().expect("an address of this machine besides loopback, to send to");
    let (host, addr) = (ip.to_string(), greeter(ip));
    let mut server = Server::start_with(&[("SANDBAR_EGRESS_ALLOW", &host)]);
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let limit = |server: &Server, bytes: u64, interval_ms: u64| server.api().put(QUOTA, json!({ "limit_value": bytes, "interval_ms": interval_ms })).ok(200);
    let current = |server: &Server| server.api().get(QUOTA).ok(200)["current"].as_u64().unwrap();
    let is_reached = |wanted: bool| {
        eventually("the quota is looked after", Duration::from_secs(10), || {
            let answer = connect(&sandbox, &host, addr.port());
            if (answer == "hello") == wanted { Ok(()) } else { Err(answer) }
        });
    };
    for wrong in
        [json!({ "limit_value": 5 }), json!({ "limit_value": 5, "interval_ms": 10 }), json!({ "limit_value": 5, "interval_ms": 5000, "burst_value": 5 })]
    {
        server.api().put(QUOTA, wrong).error(&[400]);
    }

    limit(&server, 150_000, DAY_MS);
    let holder = sandbox.spawn(&[
        "python3",
        "-u",
        "-c",
        &format!("import socket\ns = socket.create_connection(({host:?}, {}))\nprint(s.recv(9))\nprint('end', s.recv(9))", addr.port()),
    ]);
    send(&sandbox, &host, addr.port(), 100_000);
    eventually("what was sent is counted", Duration::from_secs(5), || if current(&server) >= 100_000 { Ok(()) } else { Err(current(&server).to_string()) });
    is_reached(true);
    send(&sandbox, &host, addr.port(), 100_000);
    is_reached(false);
    eventually("the open connection is cut", Duration::from_secs(10), || {
        let now = sandbox.context(&holder["id"]);
        if now["running"] == false { Ok(()) } else { Err(now.to_string()) }
    });
    let events = sandbox.api.get(&sandbox.path("/network/events?decision=deny")).ok(200);
    let rule = events["events"][0]["rule"].as_str().unwrap();
    assert!(rule.starts_with("the team's quota of network_egress_bytes (150000 in 86400000 ms) is used up until "), "{events}");
    let fresh = Sandbox::claim(&server.api(), json!({}));
    assert_ne!(connect(&fresh, &host, addr.port()), "hello", "a new sandbox of the same team");

    limit(&server, 1_000_000, DAY_MS);
    is_reached(true);
    // One that ends counts no more than it sent: what it did is in the sum already.
    send(&fresh, &host, addr.port(), 300_000);
    eventually("what was sent is counted", Duration::from_secs(5), || if current(&server) >= 500_000 { Ok(()) } else { Err(current(&server).to_string()) });
    drop(fresh);
    // Nor is what one sent in its last moment lost.
    let brief = Sandbox::claim(&server.api(), json!({}));
    send(&brief, &host, addr.port(), 100_000);
    drop(brief);
    eventually("the end is counted", Duration::from_secs(5), || if current(&server) >= 600_000 { Ok(()) } else { Err(current(&server).to_string()) });
    // Some looks later.
    std::thread::sleep(Duration::from_secs(2));
    assert!(current(&server) < 700_000, "{}", current(&server));
    is_reached(true);
    let used = current(&server);
    server.terminate();
    server.up();
    assert!(current(&server) >= used, "a restart forgets nothing");
    limit(&server, used, DAY_MS);
    is_reached(false);

    // When the interval has passed.
    limit(&server, 50_000, 4000);
    is_reached(true);
    send(&sandbox, &host, addr.port(), 100_000);
    is_reached(true);
    limit(&server, 0, DAY_MS);
    is_reached(false);
    server.api().delete(QUOTA).ok(200);
    assert_eq!(connect(&sandbox, &host, addr.port()), "hello", "a quota is lifted when that is answered");
    limit(&server, 0, DAY_MS);
    is_reached(false);
    limit(&server, 1_000_000, DAY_MS);
    assert_eq!(connect(&sandbox, &host, addr.port()), "hello", "a higher one holds when it is answered");
    server.api().delete(QUOTA).ok(200);
    let lifted: Value = server.api().get(QUOTA).ok(200);
    assert_eq!(lifted["unlimited"], true);
}
