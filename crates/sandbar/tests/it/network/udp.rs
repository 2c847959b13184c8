//! Datagrams, from Python in a sandbox to a server on this machine's own addresses.
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use serde_json::{Value, json};

use super::super::harness::{Sandbox, Server};
use super::own_address;

/// This machine's own address of IPv6, if it has one besides loopback.
fn own_address_v6() -> Option<IpAddr> {
    let socket = UdpSocket::bind("[::]:0").ok()?;
    socket.connect("[2001:db8::1]:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    // Link-local ones need a scope.
    Some(ip).filter(|ip| !ip.is_loopback() && matches!(ip, IpAddr::V6(v6) if *v6 != Ipv6Addr::UNSPECIFIED && v6.segments()[0] & 0xffc0 != 0xfe80))
}

/// Sends everything back, until the process ends.
fn echo(ip: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    let addr = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 65_507];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], from);
        }
    });
    addr
}

/// What comes back, or the error's name.
fn ask(sandbox: &Sandbox, to: SocketAddr, connected: bool) -> String {
    let (ip, port) = (to.ip(), to.port());
    let code = format!(
        "import socket, errno\n\
         s = socket.socket(socket.AF_INET6 if ':' in '{ip}' else socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.settimeout(10)\n\
         try:\n\
         \x20 if {connected}: s.connect(('{ip}', {port})); s.send(b'hello')\n\
         \x20 else: s.sendto(b'hello', ('{ip}', {port}))\n\
         \x20 data, who = s.recvfrom(100)\n\
         \x20 print(data.decode(), who[1] == {port})\n\
         except socket.timeout: print('timeout')\n\
         except OSError as e: print(errno.errorcode[e.errno])",
        connected = if connected { "True" } else { "False" },
    );
    sandbox.python(&code).stdout.trim().to_owned()
}

fn is_refused(answer: &str) -> bool {
    ["EACCES", "EPERM", "EHOSTUNREACH"].contains(&answer)
}

#[test]
fn udp_goes_where_the_policy_says() {
    let Some(ip) = own_address() else {
        eprintln!("this machine has no address but loopback; nothing to reach");
        return;
    };
    let ips: Vec<IpAddr> = std::iter::once(ip).chain(own_address_v6()).collect();
    let allow: Vec<String> = ips.iter().map(ToString::to_string).collect();
    let server = Server::start_with(&[("SANDBAR_EGRESS_ALLOW", &allow.join(",")), ("SANDBAR_POOL_MIN_IDLE", "1")]);
    let open = Sandbox::claim(&server.api(), json!({}));
    let closed = Sandbox::claim(&server.api(), json!({ "network": { "mode": "block-all" } }));
    let put = |policy: Value| closed.api.put(&closed.path("/network"), policy).ok(200);
    for ip in ips {
        let (to, other) = (echo(ip), echo(ip));
        assert_eq!(ask(&open, to, true), "hello True", "{to}");
        assert_eq!(ask(&open, to, false), "hello True", "{to}");
        assert!(is_refused(&ask(&closed, to, false)), "block-all: {to}");

        put(json!({ "mode": "block-all", "egress": { "trafficRules": [
            { "action": "allow", "cidrs": [ip.to_string()], "ports": [{ "port": to.port(), "protocol": "udp" }] }] } }));
        assert_eq!(ask(&closed, to, true), "hello True", "{to}");
        assert!(is_refused(&ask(&closed, other, true)), "another port: {other}");
        put(json!({ "mode": "block-all", "egress": { "trafficRules": [
            { "action": "allow", "cidrs": [ip.to_string()], "ports": [{ "port": to.port(), "protocol": "tcp" }] }] } }));
        assert_eq!(ask(&closed, to, true), "EPERM", "no rule for UDP: refused in send()");
        put(json!({ "mode": "block-all" }));
        assert!(is_refused(&ask(&closed, to, true)), "closed again: {to}");
    }
    for far in ["169.254.169.254:53", "10.0.0.1:53", "224.0.0.251:5353"] {
        assert_eq!(ask(&open, far.parse().unwrap(), false), "EACCES", "{far}");
    }
    // The sandbox's own loopback needs nobody.
    let own = closed.python(
        "import socket\na, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in 'ab')\na.bind(('0.0.0.0', 15002)); b.settimeout(5)\nb.sendto(b'own', ('127.0.0.1', 15002)); print(a.recv(9))",
    );
    assert_eq!(own.stdout, "b'own'\n", "{own:?}");
}
