//! What sandboxes reach: nothing of the machine and its neighbours, and what their policy says.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};

use serde_json::json;

use super::harness::{Sandbox, Server, shared};

mod events;
mod quota;
mod udp;

/// This machine's own address, if it has one besides loopback.
pub fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the kernel only says which address it would use.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// A server on the machine that says hello to everybody who connects.
fn greeter(ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                let _ = stream.write_all(b"hello\n");
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest);
            });
        }
    });
    addr
}

/// What connect() and the first read give: `hello`, or the name of the error and whether it was connect's.
fn connect(sandbox: &Sandbox, host: &str, port: u16) -> String {
    let code = format!(
        "import socket, errno\nfam = socket.AF_INET6 if ':' in {host:?} else socket.AF_INET\ns = socket.socket(fam)\ns.settimeout(30)\nstep = 'connect'\ntry:\n  s.connect(socket.getaddrinfo({host:?}, {port}, fam, socket.SOCK_STREAM)[0][4])\n  step = 'read'\n  print(s.recv(100).decode().strip() or 'closed')\nexcept socket.timeout: print(step, 'timeout')\nexcept OSError as e: print(step, errno.errorcode.get(e.errno, e))"
    );
    sandbox.python(&code).stdout.trim().to_owned()
}

fn is_refused_at_once(answer: &str) -> bool {
    ["EACCES", "EPERM", "ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED"].iter().any(|error| answer == format!("connect {error}"))
}

#[test]
fn protected_addresses_are_refused_in_connect() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let mut addresses: Vec<String> = [
        "169.254.169.254",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "198.18.0.1",
        "fd00:ec2::254",
        "fe80::1%lo",
        "64:ff9b::a00:1",
        "::ffff:10.0.0.1",
        "2002:a00:1::1",
    ]
    .map(str::to_owned)
    .to_vec();
    addresses.extend(own_address().map(|ip| ip.to_string()));
    let mut wrong = Vec::new();
    for address in &addresses {
        let answer = connect(&sandbox, address, 80);
        if !is_refused_at_once(&answer) {
            wrong.push(format!("{address}: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Where each refusal is listed, the proxy refuses, which sees it.
    let audited = Sandbox::claim(&server.api(), json!({ "network": { "egress": { "audit": true } } }));
    for address in &addresses {
        let answer = connect(&audited, address, 80);
        if !is_refused_at_once(&answer) && !answer.ends_with("ECONNRESET") {
            wrong.push(format!("{address}: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "with an audit: {}", wrong.join("\n"));
    if let Some(ip) = own_address() {
        let addr = greeter(ip);
        assert!(connect(&audited, &addr.ip().to_string(), addr.port()).ends_with("ECONNRESET"));
        let listed = audited.api.get(&audited.path("/network/events?decision=deny")).ok(200)["events"].clone();
        let is_listed = |address: &str, port: u16| listed.as_array().unwrap().iter().any(|event| event["addr"] == address && event["port"] == port);
        assert!(is_listed("169.254.169.254", 80) && is_listed("10.0.0.1", 80) && is_listed(&ip.to_string(), addr.port()), "{listed}");
    }
    if let Some(ip) = own_address() {
        // Where really somebody listens, too.
        let addr = greeter(ip);
        let answer = connect(&sandbox, &addr.ip().to_string(), addr.port());
        assert!(is_refused_at_once(&answer), "{answer}");
    }
}

#[test]
fn a_sandboxs_own_loopback_is_its_own() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let out = sandbox.python("import socket, threading\ns = socket.create_server(('0.0.0.0', 8000))\nthreading.Thread(target=lambda: s.accept()[0].send(b'mine'), daemon=True).start()\nprint(socket.create_connection(('127.0.0.1', 8000), 10).recv(10).decode())");
    assert_eq!(out.stdout, "mine\n", "{out:?}");
    // Its server on all addresses does not answer for an address of the world: that goes out, or is refused.
    let out = sandbox.python("import socket, threading\ns = socket.create_server(('0.0.0.0', 8001))\ndef serve():\n  while True: s.accept()[0].send(b'mine')\nthreading.Thread(target=serve, daemon=True).start()\ntry:\n  c = socket.socket(); c.settimeout(3); c.connect(('203.0.113.7', 8001)); print(c.recv(10))\nexcept OSError as e: print('not mine')");
    assert!(!out.stdout.contains("b'mine'"), "{out:?}");
    let loopback = greeter("127.0.0.1".parse().unwrap());
    assert_eq!(connect(&sandbox, "127.0.0.1", loopback.port()), "connect ECONNREFUSED", "the machine's loopback is reached");
}

#[test]
fn an_allowed_address_is_reached_and_policies_change_it_while_it_runs() {
    let Some(ip) = own_address() else {
        eprintln!("this machine has no address but loopback; nothing to reach");
        return;
    };
    let addr = greeter(ip);
    let server = Server::start_with(&[("SANDBAR_EGRESS_ALLOW", &format!("{ip}/32")), ("SANDBAR_POOL_MIN_IDLE", "1")]);
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let host = ip.to_string();
    assert_eq!(connect(&sandbox, &host, addr.port()), "hello");

    let closed = Sandbox::claim(&server.api(), json!({ "network": { "mode": "block-all" } }));
    let answer = connect(&closed, &host, addr.port());
    assert!(is_refused_at_once(&answer), "block-all: {answer}");
    assert!(is_refused_at_once(&connect(&closed, "1.1.1.1", 443)));
    let lookup = closed.python("import socket\ntry: print(socket.getaddrinfo('example.com', 80))\nexcept OSError: print('no name')");
    assert_eq!(lookup.stdout, "no name\n");

    let open = json!({ "mode": "block-all", "egress": { "allowedCidrs": [format!("{ip}/32")] } });
    closed.api.put(&closed.path("/network"), open.clone()).ok(200);
    assert_eq!(connect(&closed, &host, addr.port()), "hello", "what was allowed at run time");
    assert!(is_refused_at_once(&connect(&closed, "1.1.1.1", 443)));
    closed.api.put(&closed.path("/network"), json!({ "mode": "block-all" })).ok(200);
    assert!(is_refused_at_once(&connect(&closed, &host, addr.port())), "what was closed at run time");

    let denied = Sandbox::claim(&server.api(), json!({ "network": { "mode": "allow-all", "egress": { "deniedCidrs": [format!("{ip}/32")] } } }));
    assert!(!connect(&denied, &host, addr.port()).contains("hello"), "a denied CIDR");
    let port =
        Sandbox::claim(&server.api(), json!({ "network": { "mode": "allow-all", "egress": { "deniedPorts": [{ "port": addr.port(), "protocol": "tcp" }] } } }));
    assert!(!connect(&port, &host, addr.port()).contains("hello"), "a denied port");

    // An open connection that the new policy refuses is cut.
    let holder = sandbox.spawn(&[
        "python3",
        "-u",
        "-c",
        &format!("import socket\ns = socket.create_connection(({host:?}, {}))\nprint(s.recv(9))\nprint('end', s.recv(9))", addr.port()),
    ]);
    super::http::eventually("an open connection", std::time::Duration::from_secs(20), || {
        let now = sandbox.context(&holder["id"]);
        if now["stdout"].as_str().is_some_and(|text| text.contains("hello")) { Ok(()) } else { Err(now.to_string()) }
    });
    sandbox.api.put(&sandbox.path("/network"), json!({ "mode": "block-all" })).ok(200);
    super::http::eventually("the connection is cut", std::time::Duration::from_secs(20), || {
        let now = sandbox.context(&holder["id"]);
        if now["running"] == false { Ok(()) } else { Err(now.to_string()) }
    });
    // The policy is the sandbox's, not the runtime's: it holds after a pause and a restart of the server.
    closed.post("/pause", json!({}));
    closed.post("/resume", json!({}));
    assert!(is_refused_at_once(&connect(&closed, &host, addr.port())), "after a resume");
    let mut server = server;
    server.kill();
    server.up();
    assert!(is_refused_at_once(&connect(&closed, &host, addr.port())), "after a restart of the server");
    let fresh = Sandbox::claim(&server.api(), json!({}));
    assert_eq!(connect(&fresh, &host, addr.port()), "hello");
}

#[test]
fn the_resolver_answers_in_time_whatever_the_answer() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    // A name that nobody has: an answer or a refusal comes before the test's own patience ends.
    let out = sandbox.python("import socket\ntry: socket.getaddrinfo('nobody.invalid', 80); print('found')\nexcept OSError as e: print('none')");
    assert_eq!(out.stdout, "none\n", "{out:?}");
    assert_eq!(sandbox.python("import socket\nprint(socket.gethostbyname('localhost'))").stdout, "127.0.0.1\n");
    // Where no datagram may leave, no other resolver is reached.
    let closed = Sandbox::claim(&server.api(), json!({ "network": { "mode": "block-all" } }));
    let out = closed.python("import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ntry: s.sendto(b'x', ('8.8.8.8', 53)); print('sent')\nexcept OSError as e: print('refused')");
    assert_eq!(out.stdout, "refused\n", "{out:?}");
    let resolver = sandbox.sh_ok("cat /etc/resolv.conf");
    assert!(resolver.contains("nameserver 127."), "{resolver}");
}
