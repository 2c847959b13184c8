//! The host's sockets in the namespace.
//!
//! A TCP port that the host listens on cannot be bound by the sandbox, neither on the same address nor on the
//! wildcard: SO_REUSEADDR does not help against a listener. UDP sockets have no listening state, so those
//! of the host must not set SO_REUSEADDR: two sockets that both set it may share a port. SO_REUSEPORT is never set.
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::udp::Datagrams;
use super::{NetError, PROXY_ADDR, PROXY_ADDR_V6, PROXY_PORT, RESOLVER, RESOLVER_PORT};

/// Connections that wait to be accepted; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 1024;

/// Nonblocking, close-on-exec.
#[derive(Debug)]
pub struct HostSockets {
    pub tcp4: TcpListener,
    /// Absent where the machine has no IPv6; then the sandbox has none either.
    pub tcp6: Option<TcpListener>,
    pub dns_udp: UdpSocket,
    pub dns_tcp: TcpListener,
    pub udp4: Datagrams,
    /// Absent together with `tcp6`.
    pub udp6: Option<Datagrams>,
}

/// In the current namespace.
pub(super) fn open() -> Result<HostSockets, NetError> {
    let tcp6 = match listener(SocketAddr::from((PROXY_ADDR_V6, PROXY_PORT))) {
        Ok(tcp6) => Some(tcp6),
        Err(NetError::Listen { source, .. }) if is_without_ipv6(&source) => None,
        Err(other) => return Err(other),
    };
    let datagrams = |addr: SocketAddr| Datagrams::open(addr).map_err(|source| NetError::Listen { addr, source });
    Ok(HostSockets {
        udp4: datagrams(SocketAddr::from((PROXY_ADDR, PROXY_PORT)))?,
        udp6: tcp6.as_ref().map(|_| datagrams(SocketAddr::from((PROXY_ADDR_V6, PROXY_PORT)))).transpose()?,
        tcp4: listener(SocketAddr::from((PROXY_ADDR, PROXY_PORT)))?,
        tcp6,
        dns_udp: datagram(RESOLVER, RESOLVER_PORT)?,
        dns_tcp: listener(SocketAddr::from((RESOLVER, RESOLVER_PORT)))?,
    })
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn listener(addr: SocketAddr) -> Result<TcpListener, NetError> {
    let open = || {
        let socket = stream(addr)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if addr.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        rustix::net::bind(&socket, &addr)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(|source| NetError::Listen { addr, source })
}

fn datagram(addr: Ipv4Addr, port: u16) -> Result<UdpSocket, NetError> {
    let addr = SocketAddr::from((addr, port));
    let open = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        rustix::net::bind(&socket, &addr)?;
        Ok(UdpSocket::from(socket))
    };
    open().map_err(|source| NetError::Listen { addr, source })
}

/// A nonblocking TCP socket of the address's family, in the current namespace.
pub(super) fn stream(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

/// Begins to connect a nonblocking socket.
pub(super) fn begin_connect(socket: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    match rustix::net::connect(socket, &addr) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Where the connection was meant to go before it was sent to the proxy. `None` when nothing redirected it and the
/// kernel does not know it; the proxy's own address when a program connected to the proxy directly.
pub fn original_dst(socket: &impl AsFd) -> Option<SocketAddr> {
    match sockopt::socket_domain(socket).ok()? {
        AddressFamily::INET => sockopt::ip_original_dst(socket).ok().map(SocketAddr::V4),
        AddressFamily::INET6 => sockopt::ipv6_original_dst(socket).ok().map(SocketAddr::V6),
        _ => None,
    }
}
