//! Datagrams, from programs in a namespace to a server on the machine's own address.
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

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
    let counters = bench.handle.counters();
    assert_eq!((counters.allowed, counters.open, counters.sent_bytes, counters.received_bytes), (1, 1, sum, sum));
    let decision = bench.handle.decisions().pop().unwrap();
    assert_eq!((decision.port, decision.proto, decision.decision, decision.bytes), (to.port(), "udp", "allow", 2 * sum));

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

fn udp_flows_max() -> usize {
    crate::egress::udp::FLOWS_MAX
}

fn echo_soon(to: SocketAddr) -> bool {
    let socket = client(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    ask(&socket, b"hello").is_ok()
}
