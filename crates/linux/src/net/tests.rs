//! In namespaces of their own; they need root and are skipped without it.
#![allow(clippy::unwrap_used)]
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::*;

fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').unwrap();
    Prefix { addr: addr.parse().unwrap(), len: len.parse().unwrap() }
}

fn plan(prohibited: &[&str], allowed: &[&str]) -> Plan {
    Plan { closed: false, prohibited: prohibited.iter().map(|p| prefix(p)).collect(), allowed: allowed.iter().map(|p| prefix(p)).collect(), udp: false }
}

/// A fresh network namespace, or None without root.
fn namespace() -> Option<OwnedFd> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let made = std::thread::spawn(|| {
        // SAFETY: only the network namespace of this thread changes, and the thread does nothing afterwards.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
    });
    Some(made.join().unwrap())
}

/// Runs `program` as a program of the sandbox would run.
fn in_sandbox<T: Send>(netns: &OwnedFd, program: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(netns.as_fd()).unwrap();
            program()
        });
        thread.join().unwrap()
    })
}

fn dial(addr: &str) -> Result<TcpStream, ErrorKind> {
    let started = Instant::now();
    let result = TcpStream::connect_timeout(&addr.parse().unwrap(), Duration::from_secs(3));
    assert!(started.elapsed() < Duration::from_secs(1), "connect to {addr} took {:?}", started.elapsed());
    result.map_err(|error| error.kind())
}

/// Accepts one connection and tells where it was meant to go.
fn accept(listener: &TcpListener) -> Option<SocketAddr> {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        match listener.accept() {
            Ok((stream, _)) => return original_dst(&stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("nothing came: {error}"),
        }
    }
}

#[test]
fn connections_reach_the_proxy_with_their_destination() {
    let Some(netns) = namespace() else { return };
    let started = Instant::now();
    let sockets = setup(netns.as_fd(), &plan(&["10.0.0.0/8", "169.254.0.0/16", "fc00::/7"], &["10.1.0.0/16"])).unwrap();
    eprintln!("setup took {:?}", started.elapsed());

    for addr in ["93.184.216.34:8000", "1.2.3.4:443", "10.1.2.3:5432", "[::ffff:9.9.9.9]:80"] {
        let stream = in_sandbox(&netns, || dial(addr)).unwrap();
        let meant: SocketAddr = addr.parse().unwrap();
        assert_eq!(accept(&sockets.tcp4), Some(SocketAddr::new(meant.ip().to_canonical(), meant.port())), "{addr}");
        drop(stream);
    }
    let _v6 = in_sandbox(&netns, || dial("[2001:db8::1]:443")).unwrap();
    assert_eq!(accept(sockets.tcp6.as_ref().unwrap()), Some("[2001:db8::1]:443".parse().unwrap()));
    // Straight to the proxy: its own address shows.
    let _direct = in_sandbox(&netns, || dial("127.213.0.1:15001")).unwrap();
    assert_eq!(accept(&sockets.tcp4), Some(SocketAddr::from((PROXY_ADDR, PROXY_PORT))));
    let _direct = in_sandbox(&netns, || dial("[::1]:15001")).unwrap();
    assert_eq!(accept(sockets.tcp6.as_ref().unwrap()), Some(SocketAddr::from((PROXY_ADDR_V6, PROXY_PORT))));

    for addr in ["10.0.0.5:5432", "169.254.169.254:80", "[fd00::1]:80", "[::ffff:169.254.169.254]:80"] {
        assert_eq!(in_sandbox(&netns, || dial(addr)).err(), Some(ErrorKind::PermissionDenied), "{addr}");
    }
}

/// To the kernel these are two connections; behind the redirection they would be one.
#[test]
fn one_source_port_serves_two_destinations() {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    let Some(netns) = namespace() else { return };
    let sockets = setup(netns.as_fd(), &Plan::default()).unwrap();
    let mut open = Vec::new();
    for addr in ["1.1.1.1:80", "2.2.2.2:80", "3.3.3.3:80"] {
        let to: SocketAddr = addr.parse().unwrap();
        open.push(in_sandbox(&netns, || {
            let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            sockopt::set_socket_reuseaddr(&fd, true).unwrap();
            bind(&fd, &SocketAddr::from(([192, 0, 0, 2], 40000))).unwrap();
            connect(&fd, &to).unwrap();
            fd
        }));
        assert_eq!(accept(&sockets.tcp4), Some(to));
    }
}

#[test]
fn udp_and_icmp_do_not_leave() {
    let Some(netns) = namespace() else { return };
    let _sockets = setup(netns.as_fd(), &plan(&["10.0.0.0/8"], &[])).unwrap();
    in_sandbox(&netns, || {
        let v4 = UdpSocket::bind("0.0.0.0:0").unwrap();
        let v6 = UdpSocket::bind("[::]:0").unwrap();
        for (socket, addr) in [(&v4, "9.9.9.9:53"), (&v4, "10.0.0.1:53"), (&v6, "[2001:db8::1]:53"), (&v6, "[::ffff:9.9.9.9]:53")] {
            assert_eq!(socket.send_to(b"x", addr).unwrap_err().kind(), ErrorKind::PermissionDenied, "{addr}");
        }
        // Own loopback works.
        let server = UdpSocket::bind("0.0.0.0:7000").unwrap();
        for own in ["127.0.0.1:7000", "192.0.0.2:7000", "127.9.9.9:7000"] {
            v4.send_to(b"x", own).unwrap();
            assert_eq!(server.recv_from(&mut [0; 8]).unwrap().0, 1);
        }
    });
}

/// What the program sent, once it is here.
fn next(datagrams: &Datagrams) -> (Vec<u8>, Datagram) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        match receive(&datagrams.socket, &mut buffer) {
            Ok(datagram) => return (buffer[..datagram.len].to_vec(), datagram),
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("nothing came: {error}"),
        }
    }
}

#[test]
fn datagrams_reach_the_host_and_are_answered() {
    let Some(netns) = namespace() else { return };
    let open = Plan { udp: true, ..plan(&["10.0.0.0/8"], &[]) };
    let sockets = setup(netns.as_fd(), &open).unwrap();
    let udp6 = sockets.udp6.as_ref().unwrap();
    let client = |any: &'static str| {
        in_sandbox(&netns, move || {
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            socket
        })
    };
    // Who has the same port on all addresses, before and after, is not in the way and sees nothing.
    let (thief4, thief6) = (client("0.0.0.0:5353"), client("[::1]:5353"));
    let mut answer = [0; DATAGRAM_BYTES_MAX];
    for (any, far, host) in [
        ("0.0.0.0:0", "9.9.9.9:5353", &sockets.udp4),
        ("0.0.0.0:0", "9.9.9.9:15001", &sockets.udp4),
        ("[::]:0", "[::ffff:9.9.9.9]:5353", &sockets.udp4),
        ("[::]:0", "[2001:db8::1]:5353", udp6),
    ] {
        let program = client(any);
        let far: SocketAddr = far.parse().unwrap();
        let canonical = SocketAddr::new(far.ip().to_canonical(), far.port());
        // What does not fit into a packet of `lo` (65536 bytes) with its headers would be cut, and is lost.
        for len in [0, 1, 1200, 1471, if canonical.is_ipv4() { DATAGRAM_BYTES_MAX } else { 65_488 }] {
            let sent: Vec<u8> = (0..len).map(|i| i as u8).collect();
            program.send_to(&sent, far).unwrap();
            let (received, datagram) = next(host);
            assert_eq!((received, datagram.to), (sent.clone(), canonical));
            host.replies.reply(datagram.to, datagram.from, &sent).unwrap();
            let (len, from) = program.recv_from(&mut answer).unwrap();
            assert_eq!((&answer[..len], from), (&sent[..], far));
        }
        // A connected socket learns why nothing comes.
        program.connect(far).unwrap();
        for (why, errors) in
            [(Unreachable::Port, [ErrorKind::ConnectionRefused; 2]), (Unreachable::Prohibited, [ErrorKind::HostUnreachable, ErrorKind::PermissionDenied])]
        {
            program.send(b"x").unwrap();
            let (_, datagram) = next(host);
            host.replies.refuse(datagram.to, datagram.from, why).unwrap();
            let error = program.recv(&mut answer).unwrap_err().kind();
            assert!(errors.contains(&error), "{far}: {error}");
        }
    }
    for thief in [thief4, thief6] {
        thief.set_nonblocking(true).unwrap();
        assert_eq!(thief.recv(&mut answer).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    in_sandbox(&netns, || {
        // No program can be what another one takes for the world: what its socket would get is dropped.
        let world = UdpSocket::bind("9.9.9.9:99").unwrap();
        let program = UdpSocket::bind("192.0.0.2:7001").unwrap();
        world.connect("192.0.0.2:7001").unwrap();
        program.connect("9.9.9.9:99").unwrap();
        program.send(b"out").unwrap();
        world.set_nonblocking(true).unwrap();
        assert_eq!(world.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
    assert_eq!(receive(&sockets.udp4.socket, &mut answer).unwrap_err().kind(), ErrorKind::WouldBlock);
    in_sandbox(&netns, || {
        // From an address that is not the sandbox's, no answer could come back.
        let borrowed = UdpSocket::bind("8.8.8.8:0").unwrap();
        assert_eq!(borrowed.send_to(b"x", "9.9.9.9:53").unwrap_err().kind(), ErrorKind::PermissionDenied);
        let program = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(program.send_to(b"x", "10.0.0.1:53").unwrap_err().kind(), ErrorKind::PermissionDenied);
        // The host's socket cannot be shared, and straight to it its own address shows.
        for taken in ["127.213.0.1:15001", "0.0.0.0:15001", "[::1]:15001", "[::]:15001"] {
            assert_eq!(UdpSocket::bind(taken).unwrap_err().kind(), ErrorKind::AddrInUse, "{taken}");
        }
        program.send_to(b"x", "127.213.0.1:15001").unwrap();
    });
    assert_eq!(next(&sockets.udp4).1.to, SocketAddr::from((PROXY_ADDR, PROXY_PORT)));
}

/// As an earlier server made it: without the chain.
#[test]
fn an_older_namespace_keeps_udp_closed() {
    let Some(netns) = namespace() else { return };
    inside(netns.as_fd(), || {
        let mut netfilter = netlink::Socket::netfilter()?;
        netfilter.run(&nft::set_udp(true))?;
        netfilter.run(&nft::set_udp(false))
    })
    .unwrap();
}

#[test]
fn udp_opens_and_closes_with_the_plan() {
    let Some(netns) = namespace() else { return };
    let sockets = setup(netns.as_fd(), &Plan::default()).unwrap();
    let program = in_sandbox(&netns, || UdpSocket::bind("0.0.0.0:0").unwrap());
    let program6 = in_sandbox(&netns, || UdpSocket::bind("[::]:0").unwrap());
    let send = || (program.send_to(b"x", "9.9.9.9:53").map_err(|e| e.kind()), program6.send_to(b"x", "[2001:db8::1]:53").map_err(|e| e.kind()));
    let refused = (Err(ErrorKind::PermissionDenied), Err(ErrorKind::PermissionDenied));
    assert_eq!(send(), refused);
    for _ in 0..2 {
        let started = Instant::now();
        apply(netns.as_fd(), &Plan { udp: true, ..Plan::default() }).unwrap();
        eprintln!("apply took {:?}", started.elapsed());
        apply(netns.as_fd(), &Plan { udp: true, ..Plan::default() }).unwrap();
        assert_eq!(send(), (Ok(1), Ok(1)));
        next(&sockets.udp4);
        next(sockets.udp6.as_ref().unwrap());
        let started = Instant::now();
        apply(netns.as_fd(), &Plan { udp: true, closed: true, ..Plan::default() }).unwrap();
        eprintln!("closing took {:?}", started.elapsed());
        assert_eq!(send(), refused);
        apply(netns.as_fd(), &Plan::default()).unwrap();
        assert_eq!(send(), refused);
    }
}

/// How long the network of a sandbox takes; for people to read.
#[test]
#[ignore = "measures"]
fn setup_time() {
    let mut times: Vec<Duration> = (0..200)
        .map_while(|_| {
            let netns = namespace()?;
            let plan = plan(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"], &[]);
            let started = Instant::now();
            let sockets = setup(netns.as_fd(), &plan).unwrap();
            let took = started.elapsed();
            drop(sockets);
            Some(took)
        })
        .collect();
    times.sort();
    if let (Some(half), Some(most)) = (times.get(times.len() / 2), times.get(times.len() * 9 / 10)) {
        eprintln!("setup: p50 {half:?}, p90 {most:?}");
    }
}

#[test]
fn own_servers_keep_their_ports_and_host_ports_are_not_to_be_had() {
    let Some(netns) = namespace() else { return };
    let sockets = setup(netns.as_fd(), &Plan::default()).unwrap();
    in_sandbox(&netns, || {
        let own = TcpListener::bind("0.0.0.0:8000").unwrap();
        for addr in ["127.0.0.1:8000", "192.0.0.2:8000", "0.0.0.0:8000"] {
            let mut stream = dial(addr).unwrap();
            own.accept().unwrap().0.write_all(b"own").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert_eq!(text, "own", "{addr}");
        }
        let _out = dial("93.184.216.34:8000").unwrap();
        assert_eq!(accept(&sockets.tcp4), Some("93.184.216.34:8000".parse().unwrap()));
        own.set_nonblocking(true).unwrap();
        assert_eq!(own.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "the own server is not the world");

        // std sets SO_REUSEADDR on listeners.
        for taken in ["127.213.0.1:15001", "0.0.0.0:15001", "127.213.0.2:53", "0.0.0.0:53", "[::]:15001"] {
            assert_eq!(TcpListener::bind(taken).unwrap_err().kind(), ErrorKind::AddrInUse, "{taken}");
        }
        for taken in ["127.213.0.2:53", "0.0.0.0:53"] {
            let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).unwrap();
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
            rustix::net::sockopt::set_socket_reuseport(&socket, true).unwrap();
            let addr: SocketAddr = taken.parse().unwrap();
            assert_eq!(rustix::net::bind(&socket, &addr), Err(Errno::ADDRINUSE), "{taken}");
        }
    });

    // After a restart of the server.
    drop(sockets);
    let sockets = open_sockets(netns.as_fd()).unwrap();
    let _out = in_sandbox(&netns, || dial("1.1.1.1:1")).unwrap();
    assert_eq!(accept(&sockets.tcp4), Some("1.1.1.1:1".parse().unwrap()));
    drop(sockets);
    let _thief = in_sandbox(&netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PROXY_PORT))).unwrap();
    assert!(open_sockets(netns.as_fd()).unwrap_err().is_port_taken());
}

#[test]
fn plans_change_at_runtime() {
    let Some(netns) = namespace() else { return };
    let closed = Plan { closed: true, ..Plan::default() };
    let open = plan(&["10.0.0.0/8", "fc00::/7"], &[]);
    let sockets = setup(netns.as_fd(), &closed).unwrap();
    let refused = Some(ErrorKind::PermissionDenied);
    let check = |addr: &'static str| in_sandbox(&netns, move || dial(addr)).err();

    for addr in ["1.2.3.4:80", "[2001:db8::1]:80", "10.0.0.1:80", "[::ffff:1.2.3.4]:80"] {
        assert_eq!(check(addr), refused, "closed: {addr}");
    }
    in_sandbox(&netns, || {
        let v4 = TcpListener::bind("127.0.0.1:8000").unwrap();
        let v6 = TcpListener::bind("[::1]:8000").unwrap();
        dial("127.0.0.1:8000").unwrap();
        dial("[::1]:8000").unwrap();
        drop((v4, v6));
    });
    for round in 0..2 {
        let started = Instant::now();
        apply(netns.as_fd(), &open).unwrap();
        eprintln!("apply took {:?}", started.elapsed());
        apply(netns.as_fd(), &open).unwrap();
        assert_eq!(check("1.2.3.4:80"), None, "round {round}");
        assert_eq!(accept(&sockets.tcp4), Some("1.2.3.4:80".parse().unwrap()));
        assert_eq!(check("[2001:db8::1]:80"), None);
        assert_eq!(check("10.0.0.1:80"), refused);
        assert_eq!(check("[fd00::1]:80"), refused);
        // Only what is punched out.
        apply(netns.as_fd(), &plan(&["0.0.0.0/0", "::/0"], &["10.2.0.0/16", "2001:db8:1::/48"])).unwrap();
        assert_eq!(check("1.2.3.4:80"), refused);
        assert_eq!(check("10.2.0.1:80"), None);
        assert_eq!(check("10.3.0.1:80"), refused);
        assert_eq!(check("[2001:db8:1::1]:80"), None);
        assert_eq!(check("[2001:db8:2::1]:80"), refused);
        apply(netns.as_fd(), &closed).unwrap();
        assert_eq!(check("10.2.0.1:80"), refused);
        assert_eq!(check("[2001:db8:1::1]:80"), refused);
        while sockets.tcp4.accept().is_ok() {}
    }
}

#[test]
fn the_host_connects_into_the_sandbox() {
    let Some(netns) = namespace() else { return };
    let _sockets = setup(netns.as_fd(), &Plan { closed: true, ..Plan::default() }).unwrap();
    let server = in_sandbox(&netns, || TcpListener::bind("127.0.0.1:9000")).unwrap();
    let stream = connect(netns.as_fd(), "127.0.0.1:9000".parse().unwrap()).unwrap();
    server.accept().unwrap().0.write_all(b"hello").unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut text = String::new();
    (&stream).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert!(!is_own_loopback("192.0.0.3".parse().unwrap()));
    assert!(host_addresses().unwrap().contains(&"127.0.0.1".parse().unwrap()));
}

#[test]
fn changes_close_before_they_open() {
    let entries = |p: &Plan| routes::wanted(p);
    let before = entries(&plan(&["10.0.0.0/8"], &["10.1.0.0/16"]));
    let after = entries(&plan(&["10.1.0.0/16", "0.0.0.0/0"], &["10.0.0.0/8"]));
    // Close 10.1/16 and the default, open 10/8: two steps, nothing to remove.
    assert_eq!(routes::change(&before, &after, true).len(), 2);
    assert_eq!(routes::change(&after, &after, true).len(), 0);
    let closed = entries(&Plan { closed: true, ..plan(&[], &["10.0.0.0/8"]) });
    assert_eq!(closed.len(), 2, "a closed plan has no openings");
}

#[test]
fn a_new_address_is_told_of() {
    let Some(netns) = namespace() else { return };
    let changes = in_sandbox(&netns, || AddressChanges::open().unwrap());
    assert!(!changes.take());
    let _sockets = setup(netns.as_fd(), &Plan { closed: true, ..Plan::default() }).unwrap();
    assert!(changes.take());
    assert!(!changes.take());
}
