//! With a network namespace of a user namespace, as sandboxes have. They need root and are skipped without it; the
//! outside world is a server on an address of this machine.
#![allow(clippy::unwrap_used)]
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

use sandbar_core::egress::compile_value;
use serde_json::{Value, json};

use super::*;

mod audit;
mod logins;
mod names;
mod requests;
mod servers;
mod ssh;
mod udp;
mod world;
mod zone;

/// A fresh namespace; the process that made it is gone when this returns.
fn namespace() -> Option<OwnedFd> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let mut child = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", "echo; read x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
    Some(netns.into())
}

fn own_address(want: fn(&IpAddr) -> bool) -> Option<IpAddr> {
    net::host_addresses().unwrap().into_iter().find(want)
}

struct Bench {
    egress: Egress,
    handle: EgressHandle,
    netns: OwnedFd,
    outside: TcpListener,
    to: SocketAddr,
}

/// A sandbox that may reach the server `outside`.
async fn bench(policy: Policy, nameservers: Vec<SocketAddr>) -> Option<Bench> {
    let ours = own_address(|addr| addr.is_ipv4() && !addr.is_loopback())?;
    let netns = namespace()?;
    let outside = TcpListener::bind((ours, 0)).unwrap();
    let egress = Egress::with_nameservers(vec![Prefix::host(ours)], nameservers).unwrap();
    Some(attach(egress, netns, outside, policy))
}

fn attach(egress: Egress, netns: OwnedFd, outside: TcpListener, policy: Policy) -> Bench {
    let to = outside.local_addr().unwrap();
    let sockets = net::setup(netns.as_fd(), &egress.plan(&policy)).unwrap();
    let handle = egress.attach("rt-test", netns.try_clone().unwrap(), sockets, policy).unwrap();
    Bench { egress, handle, netns, outside, to }
}

/// Runs `program` as a program of the sandbox.
async fn inside<T: Send + 'static>(netns: &OwnedFd, program: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(netns.as_fd(), kind).unwrap();
        program()
    });
    tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap()
}

fn policy(value: Value) -> Policy {
    compile_value(&value).unwrap()
}

/// Connects, sends, half-closes and reads to the end.
fn fetch(to: SocketAddr) -> Result<String, ErrorKind> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3)).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut text = String::new();
    let talk = stream.write_all(b"hello ").and_then(|()| stream.shutdown(Shutdown::Write));
    talk.and_then(|()| stream.read_to_string(&mut text)).map_err(|e| e.kind())?;
    Ok(text)
}

/// Answers one connection with what it said, twice.
fn echo_once(outside: &TcpListener) -> std::thread::JoinHandle<()> {
    let outside = outside.try_clone().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = outside.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        stream.write_all(text.repeat(2).as_bytes()).unwrap();
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_address_is_reached_and_others_are_refused() {
    let Some(bench) = bench(Policy::allow_all(), vec![]).await else {
        return;
    };
    let to = bench.to;
    let server = echo_once(&bench.outside);
    assert_eq!(inside(&bench.netns, move || fetch(to)).await, Ok("hello hello ".to_owned()));
    server.join().unwrap();
    for addr in ["169.254.169.254:80", "10.255.255.53:53", "[fd00:ec2::254]:80", "[::ffff:10.0.0.1]:80", "192.168.0.1:22"] {
        let addr = addr.parse().unwrap();
        assert_eq!(inside(&bench.netns, move || fetch(addr)).await, Err(ErrorKind::PermissionDenied), "{addr}");
    }
    // The proxy itself is nothing to talk to, and a server that is not there is a reset.
    let direct = SocketAddr::from((net::PROXY_ADDR, net::PROXY_PORT));
    let refused = inside(&bench.netns, move || fetch(direct)).await.unwrap_err();
    assert!(matches!(refused, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected), "{refused}");
    let nobody = TcpListener::bind((to.ip(), 0)).unwrap().local_addr().unwrap();
    assert!(inside(&bench.netns, move || fetch(nobody)).await.is_err());

    let counters = bench.handle.counters();
    assert_eq!((counters.allowed, counters.failed, counters.sent_bytes, counters.received_bytes), (2, 1, 6, 12));
    let decisions = bench.handle.decisions();
    assert_eq!((decisions[0].port, decisions[0].decision, decisions[0].sent_bytes + decisions[0].received_bytes), (to.port(), "allow", 18));

    bench.handle.close();
    tokio::time::timeout(Duration::from_secs(5), bench.handle.closed()).await.unwrap();
    assert!(inside(&bench.netns, move || fetch(to)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_change_at_runtime_and_cut_what_is_open() {
    let Some(bench) = bench(Policy::allow_all(), vec![]).await else {
        return;
    };
    let to = bench.to;
    let stream = inside(&bench.netns, move || TcpStream::connect(to).unwrap()).await;
    let (mut far, _) = bench.outside.accept().unwrap();
    far.write_all(b"x").unwrap();
    (&stream).read_exact(&mut [0]).unwrap();
    assert_eq!(bench.handle.counters().open, 1);

    let started = Instant::now();
    bench.handle.set_policy(Policy::block_all()).await.unwrap();
    eprintln!("set_policy took {:?}", started.elapsed());
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!((&stream).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(inside(&bench.netns, move || fetch(to)).await, Err(ErrorKind::PermissionDenied));

    // By port: the address stays open, the proxy refuses.
    let by_port = json!({"mode": "block-all", "egress": {"trafficRules": [
        {"action": "deny", "cidrs": [to.ip().to_string()], "ports": [{"port": to.port(), "protocol": "tcp"}]},
        {"action": "allow", "cidrs": [to.ip().to_string()]}]}});
    bench.handle.set_policy(policy(by_port)).await.unwrap();
    assert!(inside(&bench.netns, move || fetch(to)).await.is_err());
    let last = bench.handle.decisions().pop().unwrap();
    assert_eq!((last.decision, &*last.rule), ("deny", "egress.trafficRules[0]"));
    let elsewhere = "1.2.3.4:80".parse().unwrap();
    assert_eq!(inside(&bench.netns, move || fetch(elsewhere)).await, Err(ErrorKind::PermissionDenied));

    bench.handle.set_policy(Policy::allow_all()).await.unwrap();
    let server = echo_once(&bench.outside);
    assert_eq!(inside(&bench.netns, move || fetch(to)).await, Ok("hello hello ".to_owned()));
    server.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_policy_refuses_does_not_wait_for_other_sandboxes() {
    let Some(bench) = bench(Policy::allow_all(), vec![]).await else {
        return;
    };
    let to = bench.to;
    let stream = inside(&bench.netns, move || TcpStream::connect(to).unwrap()).await;
    let (mut far, _) = bench.outside.accept().unwrap();
    far.write_all(b"x").unwrap();
    (&stream).read_exact(&mut [0]).unwrap();
    let (done, until_done) = std::sync::mpsc::channel::<()>();
    let busy = bench.egress.inner.netns.run(move || until_done.recv().ok());
    let cut = tokio::task::spawn_blocking(move || {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let error = (&stream).read(&mut [0]).unwrap_err().kind();
        drop(done);
        error
    });
    let (_, set, cut) = tokio::join!(busy, bench.handle.set_policy(Policy::block_all()), cut);
    assert_eq!((set.is_ok(), cut.unwrap()), (true, ErrorKind::ConnectionReset));
    assert_eq!(inside(&bench.netns, move || fetch(to)).await, Err(ErrorKind::PermissionDenied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_adopts_and_a_stolen_port_stays_closed_until_it_is_free() {
    let Some(bench) = bench(Policy::allow_all(), vec![]).await else {
        return;
    };
    let Bench { egress, handle, netns, outside, to } = bench;
    handle.close();
    handle.closed().await;
    drop(handle);
    let adopted = egress.adopt("rt-test", netns.try_clone().unwrap(), Policy::allow_all()).await.unwrap();
    let server = echo_once(&outside);
    assert_eq!(fetch_when_served(&netns, to).await, Ok("hello hello ".to_owned()));
    server.join().unwrap();
    adopted.close();
    adopted.closed().await;
    drop(adopted);

    let steal = || (0..100).find_map(|_| TcpListener::bind((net::PROXY_ADDR, net::PROXY_PORT)).inspect_err(|_| std::thread::sleep(PAUSE)).ok()).unwrap();
    let thief = inside(&netns, steal).await;
    let adopted = egress.adopt("rt-test", netns.try_clone().unwrap(), Policy::block_all()).await.unwrap();
    assert_eq!(inside(&netns, move || fetch(to)).await, Err(ErrorKind::PermissionDenied));
    adopted.set_policy(Policy::allow_all()).await.unwrap();
    drop(thief);
    let server = echo_once(&outside);
    assert_eq!(fetch_when_served(&netns, to).await, Ok("hello hello ".to_owned()));
    server.join().unwrap();
    drop(adopted);
}

const PAUSE: Duration = Duration::from_millis(100);

/// Like [`fetch`] when the host's sockets are there. Processes that other tests are just starting hold closed ones for a moment.
async fn fetch_when_served(netns: &OwnedFd, to: SocketAddr) -> Result<String, ErrorKind> {
    let patient = move || {
        let deadline = Instant::now() + 2 * TAKEN_PORT_AGAIN_MAX;
        loop {
            match fetch(to) {
                Err(ErrorKind::ConnectionRefused) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                fetched => return fetched,
            }
        }
    };
    inside(netns, patient).await
}

/// A question for `name`, and the rcode and last four bytes of the reply.
fn resolve(name: &str) -> (u8, [u8; 4]) {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    socket.send_to(&packet, (net::RESOLVER, net::RESOLVER_PORT)).unwrap();
    let mut reply = [0; 512];
    let (len, _) = socket.recv_from(&mut reply).unwrap();
    assert_eq!(reply[..2], packet[..2]);

    // The same over TCP.
    let mut stream = TcpStream::connect((net::RESOLVER, net::RESOLVER_PORT)).unwrap();
    let mut framed = (packet.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&packet);
    stream.write_all(&framed).unwrap();
    let mut framed = vec![0; len + 2];
    stream.read_exact(&mut framed).unwrap();
    assert_eq!(framed[2..], reply[..len]);
    (reply[3] & 15, reply[len - 4..len].try_into().unwrap())
}

/// A name server over UDP and TCP: names that begin with `p` are at 10.0.0.1, all others at 9.8.7.6.
async fn name_server() -> SocketAddr {
    fn answer(question: &[u8]) -> Vec<u8> {
        let last = if question[13] == b'p' { [10, 0, 0, 1] } else { [9, 8, 7, 6] };
        let mut reply = question.to_vec();
        reply[2] |= 0x80;
        reply[7] = 1;
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        reply.extend_from_slice(&last);
        reply
    }
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp.local_addr().unwrap();
    let udp = tokio::net::UdpSocket::bind(addr).await.unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 512];
        while let Ok((len, from)) = udp.recv_from(&mut packet).await {
            udp.send_to(&answer(&packet[..len]), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = tcp.accept().await {
            let mut packet = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut packet).await.unwrap();
            let reply = answer(&packet);
            stream.write_u16(reply.len() as u16).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_resolved_and_protected_answers_are_not_given() {
    let server = name_server().await;
    let Some(bench) = bench(Policy::allow_all(), vec![server]).await else {
        return;
    };
    assert_eq!(inside(&bench.netns, || resolve("www.example.test")).await, (0, [9, 8, 7, 6]));
    assert_eq!(inside(&bench.netns, || resolve("private.example.test")).await.0, 5);
    let last = bench.handle.decisions().pop().unwrap();
    assert_eq!((last.host.as_deref(), last.decision), (Some("private.example.test"), "deny"));
    assert_eq!(inside(&bench.netns, || resolve("localhost")).await, (0, [127, 0, 0, 1]));
    bench.handle.set_policy(Policy::block_all()).await.unwrap();
    assert_eq!(inside(&bench.netns, || resolve("www.example.test")).await.0, 5);
    assert_eq!(inside(&bench.netns, || resolve("localhost")).await, (0, [127, 0, 0, 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_name_server_is_a_servfail_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let Some(bench) = bench(Policy::allow_all(), vec![silent.local_addr().unwrap()]).await else {
        return;
    };
    let started = Instant::now();
    assert_eq!(inside(&bench.netns, || resolve("www.example.test")).await.0, 2);
    // Over UDP; TCP is refused at once.
    assert!(started.elapsed() < Duration::from_secs(6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_connects_to_a_server_inside() {
    let Some(bench) = bench(Policy::block_all(), vec![]).await else {
        return;
    };
    let server = inside(&bench.netns, || TcpListener::bind("127.0.0.1:0").unwrap()).await;
    let addr = server.local_addr().unwrap();
    let stream = bench.handle.connect(addr).await.unwrap();
    server.accept().unwrap();
    drop((stream, server));
    assert_eq!(bench.handle.connect(addr).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    drop(bench.egress);
}
