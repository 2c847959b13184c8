//! Under an audit nothing is refused where nobody sees it.
use super::*;

const FAR: [&str; 8] = [
    "1.1.1.1:443",
    "169.254.169.254:80",
    "10.255.255.53:53",
    "192.168.0.1:22",
    "127.213.0.9:80",
    "[fd00:ec2::254]:80",
    "[2600::1]:443",
    "[::ffff:10.0.0.1]:80",
];

/// Sends a datagram from a fresh socket; whether the program is told that it went nowhere.
fn send(to: SocketAddr) -> Result<usize, ErrorKind> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket.connect(to).and_then(|()| socket.send(b"x")).and_then(|_| socket.recv(&mut [0; 9])).map_err(|error| error.kind())
}

/// What was refused, as long as that takes to be written down.
async fn refused(handle: &EgressHandle, to: SocketAddr, proto: &str) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let is_it = |flow: &Decision| (flow.addr, flow.port, flow.proto) == (to.ip().to_canonical(), to.port(), proto);
        if let Some(found) = handle.decisions().into_iter().find(is_it) {
            assert_eq!(found.decision, "deny", "{to} {proto}");
            return Some(found.rule);
        }
        if Instant::now() > deadline {
            return None;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refused_address_is_listed_and_stays_refused() {
    for mode in ["block-all", "allow-all"] {
        let audited = policy(json!({"mode": mode, "egress": {"audit": true}}));
        let Some(bench) = bench(audited.clone(), vec![]).await else {
            return;
        };
        let may_be_open = |to: SocketAddr| mode == "allow-all" && ["1.1.1.1", "2600::1"].contains(&to.ip().to_string().as_str());
        let far: Vec<SocketAddr> = FAR.iter().map(|addr| addr.parse().unwrap()).filter(|to| !may_be_open(*to)).collect();
        for to in far {
            let (tcp, udp) = inside(&bench.netns, move || (fetch(to), send(to))).await;
            assert!(tcp.is_err() && udp.is_err(), "{mode} {to}: {tcp:?} {udp:?}");
            if net::is_own_loopback(to.ip()) {
                continue;
            }
            // It is the proxy that refuses, and not a route.
            assert_ne!(tcp, Err(ErrorKind::PermissionDenied), "{mode} {to}");
            for proto in ["tcp", "udp"] {
                let rule = refused(&bench.handle, to, proto).await.unwrap_or_else(|| panic!("{mode} {to} {proto} is not listed"));
                assert!(rule.starts_with("protected address") || rule == "mode block-all", "{rule}");
            }
        }
        assert_eq!(bench.handle.counters().allowed, 0);
        // The machine's loopback is the sandbox's own, and so nobody's.
        let host = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        assert_eq!(inside(&bench.netns, move || fetch(host)).await, Err(ErrorKind::ConnectionRefused));

        // Without it the routes refuse again, and nobody sees it.
        let (seen, to) = (bench.handle.decisions().len(), "192.168.7.7:80".parse().unwrap());
        bench.handle.set_policy(policy(json!({ "mode": mode }))).await.unwrap();
        assert_eq!(inside(&bench.netns, move || fetch(to)).await, Err(ErrorKind::PermissionDenied));
        assert_eq!(bench.handle.decisions().len(), seen);
        bench.handle.set_policy(audited).await.unwrap();
        assert!(inside(&bench.netns, move || fetch(to)).await.is_err());
        assert!(refused(&bench.handle, to, "tcp").await.is_some(), "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_allowed_goes_on_under_an_audit() {
    let Some(bench) = bench(policy(json!({"egress": {"audit": true}})), vec![]).await else {
        return;
    };
    let to = bench.to;
    let server = echo_once(&bench.outside);
    assert_eq!(inside(&bench.netns, move || fetch(to)).await, Ok("hello hello ".to_owned()));
    server.join().unwrap();
    let block = json!({"mode": "block-all", "egress": {"audit": true, "trafficRules": [{"action": "allow", "cidrs": [to.ip().to_string()]}]}});
    bench.handle.set_policy(policy(block)).await.unwrap();
    let server = echo_once(&bench.outside);
    assert_eq!(inside(&bench.netns, move || fetch(to)).await, Ok("hello hello ".to_owned()));
    server.join().unwrap();
    // To many at once nothing goes.
    let sent = inside(&bench.netns, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        ["224.0.0.251:5353", "255.255.255.255:67"].map(|to| socket.send_to(b"x", to).map_err(|error| error.kind()))
    })
    .await;
    eprintln!("to many: {sent:?}; {:?}", bench.handle.decisions());
    assert!(bench.handle.decisions().iter().all(|flow| flow.decision == "deny" || flow.addr == to.ip()));
}
