//! Datagrams, from programs in a namespace to a server on the machine's own address.
use std::io::{BufRead, BufReader};
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::egress::quic;

/// A server that sends everything back until it is dropped.
struct Echo {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Echo {
    fn start(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let addr = socket.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut buffer = [0; 65_507];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..len], from).ok();
                }
            }
        });
        Self { addr, stop }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn client(to: SocketAddr) -> Result<UdpSocket, ErrorKind> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket.connect(to).map_err(|error| error.kind())?;
    Ok(socket)
}

fn ask(socket: &UdpSocket, bytes: &[u8]) -> Result<usize, ErrorKind> {
    let mut buffer = [0; 65_507];
    let answer = socket.send(bytes).and_then(|_| socket.recv(&mut buffer)).map_err(|error| error.kind())?;
    assert_eq!(&buffer[..answer], bytes);
    Ok(answer)
}

/// Sends from a fresh socket and waits for the echo.
fn echo(to: SocketAddr) -> Result<usize, ErrorKind> {
    ask(&client(to)?, b"hello")
}

fn is_forbidden(result: &Result<usize, ErrorKind>) -> bool {
    matches!(result, Err(ErrorKind::PermissionDenied | ErrorKind::HostUnreachable))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_are_carried_counted_and_cut_by_policy() {
    let Some(bench) = bench(Policy::allow_all(), vec![]).await else {
        return;
    };
    let server = Echo::start(bench.to.ip());
    let to = server.addr;
    let socket = inside(&bench.netns, move || {
        // Who has the port of the server is not in the way.
        let thief = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, to.port())).unwrap();
        let socket = client(to).unwrap();
        for len in [0, 5, 1400, 9000, 65_507] {
            assert_eq!(ask(&socket, &vec![7; len]), Ok(len), "{len}");
        }
        thief.set_nonblocking(true).unwrap();
        assert_eq!(thief.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock);
        socket
    })
    .await;
    let sum = 5 + 1400 + 9000 + 65_507;
    // The last is counted when it is on its way.
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut counters = bench.handle.counters();
    while counters.received_bytes < sum && Instant::now() < deadline {
        tokio::task::yield_now().await;
        counters = bench.handle.counters();
    }
    assert_eq!((counters.allowed, counters.open, counters.sent_bytes, counters.received_bytes), (1, 1, sum, sum));
    let decision = bench.handle.decisions().pop().unwrap();
    assert_eq!((decision.port, decision.proto, decision.decision, decision.sent_bytes, decision.received_bytes), (to.port(), "udp", "allow", sum, sum));

    // Nobody listens: the program is told, and can try again.
    let nobody = UdpSocket::bind((to.ip(), 0)).unwrap().local_addr().unwrap();
    assert_eq!(inside(&bench.netns, move || echo(nobody)).await, Err(ErrorKind::ConnectionRefused));
    // What a route refuses.
    for far in ["169.254.169.254:53", "10.0.0.1:53", "[fd00:ec2::254]:53"] {
        let far = far.parse().unwrap();
        assert_eq!(inside(&bench.netns, move || echo(far)).await, Err(ErrorKind::PermissionDenied), "{far}");
    }

    let started = Instant::now();
    bench.handle.set_policy(Policy::block_all()).await.unwrap();
    eprintln!("set_policy took {:?}", started.elapsed());
    assert!(is_forbidden(&ask(&socket, b"again")), "an open flow is cut");
    assert_eq!(inside(&bench.netns, move || echo(to)).await, Err(ErrorKind::PermissionDenied));
    assert_eq!(bench.handle.counters().open, 0);

    // By address, port and protocol.
    let ip = to.ip().to_string();
    let only = json!({"mode": "block-all", "egress": {"trafficRules": [{"name": "echo", "action": "allow", "cidrs": [ip], "ports": [{"port": to.port(), "protocol": "udp"}]}]}});
    bench.handle.set_policy(policy(only)).await.unwrap();
    assert_eq!(inside(&bench.netns, move || echo(to)).await, Ok(5));
    let other = Echo::start(to.ip());
    let elsewhere = other.addr;
    let refused = inside(&bench.netns, move || echo(elsewhere)).await;
    assert!(is_forbidden(&refused), "{refused:?}");
    let tcp = bench.to;
    assert!(inside(&bench.netns, move || fetch(tcp)).await.is_err(), "TCP is not UDP");
    let decisions = bench.handle.decisions();
    assert!(decisions.iter().any(|decision| decision.port == elsewhere.port() && decision.decision == "deny" && decision.rule == "mode block-all"));
    assert!(decisions.iter().any(|decision| decision.port == to.port() && decision.rule.contains("echo")));

    // What is refused and then allowed does not wait for anything to be forgotten.
    bench.handle.set_policy(Policy::allow_all()).await.unwrap();
    assert_eq!(inside(&bench.netns, move || echo(elsewhere)).await, Ok(5));
    bench.handle.close();
    tokio::time::timeout(Duration::from_secs(5), bench.handle.closed()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_flows_is_bounded() {
    let Some(bench) = bench(Policy::allow_all(), vec![]).await else {
        return;
    };
    let server = Echo::start(bench.to.ip());
    let to = server.addr;
    let answered = inside(&bench.netns, move || {
        let sockets: Vec<UdpSocket> = (0..2000).map_while(|_| client(to).ok()).collect();
        for socket in &sockets {
            socket.send(b"flood").ok();
        }
        std::thread::sleep(Duration::from_millis(500));
        sockets.iter().filter(|socket| socket.set_nonblocking(true).is_ok() && socket.recv(&mut [0; 9]).is_ok()).count()
    })
    .await;
    let counters = bench.handle.counters();
    eprintln!("answered {answered}, {counters:?}");
    assert!(answered > 0 && counters.open as usize <= udp_flows_max(), "{answered} {counters:?}");
    assert!(bench.handle.decisions().iter().any(|decision| decision.rule == "too many UDP flows at once"));
    // Room is made for new ones before long.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let found = inside(&bench.netns, move || (0..20).any(|_| echo_soon(to))).await;
    assert!(found, "idle flows make room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_sandbox_reaches_nothing_until_it_is_resumed() {
    let Some(bench) = bench(Policy::allow_all(), vec![]).await else {
        return;
    };
    let server = Echo::start(bench.to.ip());
    let (to, tcp) = (server.addr, bench.to);
    let socket = inside(&bench.netns, move || {
        let socket = client(to).unwrap();
        ask(&socket, b"one").unwrap();
        socket
    })
    .await;
    let stream = inside(&bench.netns, move || TcpStream::connect(tcp).unwrap()).await;
    let (mut far, _) = bench.outside.accept().unwrap();
    far.write_all(b"x").unwrap();
    (&stream).read_exact(&mut [0]).unwrap();
    let reading = bench.handle.flows();
    let (mut position, _) = reading.position(0);
    assert!(reading.look(&mut position).flows.iter().all(|flow| flow.state == FlowState::Open));

    bench.handle.suspend(Some("quota".into()));
    assert!(is_forbidden(&ask(&socket, b"two")));
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!((&stream).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(inside(&bench.netns, move || fetch(tcp)).await.is_err());
    assert!(is_forbidden(&inside(&bench.netns, move || echo(to)).await));
    let seen = reading.look(&mut position).flows;
    assert_eq!(seen.iter().filter(|flow| flow.state == FlowState::Failed && flow.reason.as_deref() == Some("cut: quota")).count(), 2, "{seen:?}");
    assert!(seen.iter().filter(|flow| flow.decision == "deny").all(|flow| flow.rule == "quota"), "{seen:?}");

    bench.handle.suspend(None);
    assert_eq!(inside(&bench.netns, move || echo(to)).await, Ok(5));
    let talk = echo_once(&bench.outside);
    assert_eq!(inside(&bench.netns, move || fetch(tcp)).await, Ok("hello hello ".to_owned()));
    talk.join().unwrap();
}

fn udp_flows_max() -> usize {
    crate::egress::udp::FLOWS_MAX
}

fn echo_soon(to: SocketAddr) -> bool {
    let socket = client(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    ask(&socket, b"hello").is_ok()
}

/// A name server by which names that begin with `n` are at `ours`, and all others elsewhere.
fn names_at(ours: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let IpAddr::V4(ours) = ours else { panic!("an IPv4 address") };
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut question) {
            // Without the options behind the question.
            let end = 12 + question[12..len].iter().position(|byte| *byte == 0).unwrap() + 5;
            let mut reply = question[..end].to_vec();
            reply[2] |= 0x80;
            reply[7] = 1;
            reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            reply.extend_from_slice(&if question[13] == b'n' { ours.octets() } else { [9, 8, 7, 6] });
            reply[11] = 0;
            socket.send_to(&reply, from).ok();
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_allowed_as_a_question_stays_one() {
    let Some(bench) = bench(Policy::allow_all(), vec![]).await else {
        return;
    };
    let server = Echo::start(bench.to.ip());
    let to = server.addr;
    let rule = |action: &str, mode: &str| {
        let rule = json!({"action": action, "cidrs": [to.ip().to_string()], "appProtocols": ["dns"]});
        policy(json!({"mode": mode, "egress": {"trafficRules": [rule]}}))
    };
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
    let again = question.clone();
    question[0] = 0x21;
    for (first, policy, then) in [(question.clone(), rule("allow", "block-all"), b"hello".to_vec()), (b"hello".to_vec(), rule("deny", "allow-all"), question)] {
        bench.handle.set_policy(policy).await.unwrap();
        let (first, more) = (first.clone(), if first == b"hello" { first } else { again.clone() });
        let answers = inside(&bench.netns, move || {
            let socket = client(to).unwrap();
            [first, more, then].map(|bytes| ask(&socket, &bytes))
        });
        let [first, more, then] = answers.await;
        assert!(first.is_ok() && more.is_ok() && is_forbidden(&then), "{first:?} {more:?} {then:?}");
    }
}

fn only_named(port: u16) -> Policy {
    policy(json!({"mode": "block-all", "egress": {"trafficRules": [
        {"name": "named", "action": "allow", "domains": ["name.test"], "ports": [{"port": port, "protocol": "udp"}]}]}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_is_judged_by_the_name_that_it_says() {
    let Some(ours) = own_address(|addr| addr.is_ipv4() && !addr.is_loopback()) else { return };
    let Some(bench) = bench(Policy::allow_all(), vec![names_at(ours)]).await else {
        return;
    };
    let server = Echo::start(ours);
    let to = server.addr;
    bench.handle.set_policy(only_named(to.port())).await.unwrap();

    // What is no QUIC says no name, and nobody has asked for one yet.
    for junk in [b"hello".to_vec(), vec![0x41; 1300]] {
        assert!(is_forbidden(&inside(&bench.netns, move || ask(&client(to).unwrap(), &junk)).await));
    }
    for (name, allowed) in [("name.test", true), ("NAME.test.", true), ("nother.test", false), ("elsewhere.test", false)] {
        let datagrams = quic::tests::begin(name);
        let answers = inside(&bench.netns, move || {
            let socket = client(to).unwrap();
            // In two datagrams, of which none alone says it; they come in their order.
            let mut answer = [0; 2000];
            datagrams.iter().for_each(|datagram| assert_eq!(socket.send(datagram).unwrap(), datagram.len()));
            datagrams.iter().take_while(|sent| socket.recv(&mut answer).is_ok_and(|len| answer[..len] == sent[..])).count()
        });
        assert_eq!(answers.await, if allowed { 2 } else { 0 }, "{name}");
        let last = bench.handle.decisions().pop().unwrap();
        assert_eq!((last.decision == "allow", last.host.as_deref()), (allowed, Some(name.to_lowercase().trim_end_matches('.'))), "{name}");
    }

    // Not an unknown version, nor a name that never comes.
    let mut unknown = quic::tests::begin("name.test")[0].clone();
    unknown[4] = 0x7f;
    assert!(is_forbidden(&inside(&bench.netns, move || ask(&client(to).unwrap(), &unknown)).await));
    let begun = quic::tests::begin("name.test");
    let forbidden = inside(&bench.netns, move || {
        let socket = client(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
        ask(&socket, &begun[0])
    });
    assert!(is_forbidden(&forbidden.await));

    // A second connection over an allowed flow is looked at, too.
    let (good, bad) = (quic::tests::begin("name.test"), quic::tests::begin("nother.test"));
    let result = inside(&bench.netns, move || {
        let socket = client(to).unwrap();
        good.iter().for_each(|datagram| assert_eq!(socket.send(datagram).unwrap(), 1200));
        let answers = (0..2).filter(|_| socket.recv(&mut [0; 2000]).is_ok()).count();
        bad.iter().for_each(|datagram| assert_eq!(socket.send(datagram).unwrap(), 1200));
        (answers, socket.recv(&mut [0; 2000]).map_err(|error| error.kind()))
    });
    assert_eq!(result.await, (2, Err(ErrorKind::HostUnreachable)));
}

/// With a client and a server that others have written; needs `aioquic` of PyPI, for the Python of
/// SANDBAR_TEST_QUIC_PYTHON or `python3`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_client_of_quic_is_let_through_by_name() {
    let python = std::env::var("SANDBAR_TEST_QUIC_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !Command::new(&python).args(["-c", "import aioquic"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: needs aioquic");
        return;
    }
    let Some(ours) = own_address(|addr| addr.is_ipv4() && !addr.is_loopback()) else { return };
    let Some(bench) = bench(Policy::allow_all(), vec![names_at(ours)]).await else {
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/egress/tests/quic.py");
    let dir = std::env::temp_dir().join(format!("sandbar-quic-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=name.test",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ])
        .current_dir(&dir)
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    let mut server = Command::new(&python)
        .args([script, "server", &ours.to_string()])
        .args([dir.join("cert.pem"), dir.join("key.pem")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
    let port: u16 = port.trim().parse().unwrap();
    let run = |name: &'static str, version: &'static str| {
        let python = python.clone();
        let netns = bench.netns.try_clone().unwrap();
        async move {
            let run = move || {
                let mut client = Command::new(python);
                client.args([script, "client", &ours.to_string(), &port.to_string(), name, version]);
                String::from_utf8(client.output().unwrap().stdout).unwrap().trim().to_owned()
            };
            inside(&netns, run).await
        }
    };
    assert_eq!(run("name.test", "").await, "same", "allow-all");
    bench.handle.set_policy(only_named(port)).await.unwrap();
    for (name, version, expected) in [
        ("name.test", "", "same"),
        ("name.test", "v2", "same"),
        ("nother.test", "", "failed"),
        ("elsewhere.test", "", "failed"),
        ("nother.test", "v2", "failed"),
    ] {
        let started = Instant::now();
        assert_eq!(run(name, version).await, expected, "{name} {version}");
        eprintln!("{name} {version}: {expected} in {:?}", started.elapsed());
    }
    server.kill().unwrap();
    server.wait().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    for decision in bench.handle.decisions() {
        eprintln!("{decision:?}");
    }
}
