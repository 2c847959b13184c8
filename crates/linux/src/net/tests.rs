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
    Plan { closed: false, prohibited: prohibited.iter().map(|p| prefix(p)).collect(), allowed: allowed.iter().map(|p| prefix(p)).collect() }
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
