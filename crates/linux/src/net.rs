//! A sandbox's network: a namespace with only `lo`, from which nothing leaves by itself.
//!
//! Every address is local there (AnyIP), and nftables sends each TCP connection that is not to the sandbox's own
//! loopback to one listener of the host, which asks the socket where it was meant to go. What an address alone
//! decides is refused by `prohibit` routes, so that `connect()` itself fails with EACCES. Datagrams come to a socket of
//! the host with the addresses that they have, as long as the plan lets any UDP leave. Everything else that is not
//! loopback is dropped on output, so that `sendto()` fails with EPERM.
//!
//! ```text
//! connect(93.184.216.34:443) -> table local: 0.0.0.0/0 local -> nat output: dnat 127.213.0.1:15001 -> the proxy
//! connect(10.0.0.5:5432)     -> table local: 10.0.0.0/8 prohibit -> EACCES
//! connect(127.0.0.1:8000)    -> the sandbox's own server
//! sendto(udp 9.9.9.9:53)     -> filter prerouting: tproxy to 127.213.0.1:15001 -> the proxy
//! the same, no UDP allowed   -> filter output: policy drop -> EPERM
//! ```
//!
//! An nft `reject` would be no substitute for the routes: a TCP connect refused in the output hook hangs.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

mod addresses;
mod netlink;
mod nft;
mod routes;
mod sockets;
mod udp;

pub use addresses::{AddressChanges, Prefix, host_addresses};
pub use sockets::{HostSockets, original_dst};
pub use udp::{DATAGRAM_BYTES_MAX, Datagram, Datagrams, Replies, Unreachable, receive};

/// Where the proxy listens in the namespace, on [`PROXY_ADDR`] and on `::1`, for TCP and UDP.
pub const PROXY_PORT: u16 = 15001;
/// The proxy's address for IPv4.
pub const PROXY_ADDR: Ipv4Addr = Ipv4Addr::new(127, 213, 0, 1);
/// The proxy's address for IPv6.
pub const PROXY_ADDR_V6: Ipv6Addr = Ipv6Addr::LOCALHOST;
/// The name server of the sandbox's `/etc/resolv.conf`, UDP and TCP.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 213, 0, 2);
/// The port of [`RESOLVER`].
pub const RESOLVER_PORT: u16 = 53;
/// The sandbox's own address, on `lo` beside 127.0.0.1. It is the source of its connections and counts as its
/// loopback. glibc's `AI_ADDRCONFIG` finds no IPv4 where only 127.0.0.1 exists. From 192.0.0.0/29 (RFC 7335), which
/// is meant for addresses that have a meaning only inside one machine, so it hides nobody's server.
pub const SANDBOX_ADDR: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);

const CLOSING_STACK_BYTES: usize = 64 << 10;

/// What the routes of a namespace refuse. The longest prefix wins; of equal ones the allowed.
/// What no prefix covers is open (it reaches the proxy), unless the plan is closed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Only loopback works; the lists are not looked at.
    pub closed: bool,
    /// Prefixes to which connect() fails with EACCES.
    pub prohibited: Vec<Prefix>,
    /// Prefixes punched out of shorter prohibited ones.
    pub allowed: Vec<Prefix>,
    /// UDP to what is open reaches the proxy; if not, it is refused in sendto().
    pub udp: bool,
}

/// Why a namespace's network could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("enter the network namespace")]
    Enter(#[source] io::Error),
    #[error("open a netlink socket")]
    Netlink(#[source] io::Error),
    #[error("{what}")]
    Refused {
        what: &'static str,
        #[source]
        errno: Errno,
    },
    #[error("the kernel's netlink answer is incomplete")]
    NoAnswer,
    #[error("listen on {addr} in the sandbox")]
    Listen {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl NetError {
    /// True when a program of the sandbox holds a port of the host (possible only while no server runs).
    pub fn is_port_taken(&self) -> bool {
        matches!(self, Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Makes the whole network of a fresh namespace and the host's sockets in it.
///
/// The calling thread enters the namespace and comes back; the process aborts if it cannot come back.
pub fn setup(netns: BorrowedFd<'_>, plan: &Plan) -> Result<HostSockets, NetError> {
    let wanted = routes::wanted(plan);
    inside(netns, || {
        let mut route = netlink::Socket::route()?;
        route.run(&routes::interface())?;
        let sockets = sockets::open()?;
        route.run(&routes::initial(&wanted, sockets.tcp6.is_some()))?;
        netlink::Socket::netfilter()?.run(&nft::ruleset(plan.udp && !plan.closed))?;
        Ok(sockets)
    })
}

/// Makes the host's sockets in a namespace that [`setup`] prepared earlier (after a restart of the server).
pub fn open_sockets(netns: BorrowedFd<'_>) -> Result<HostSockets, NetError> {
    inside(netns, sockets::open)
}

/// Changes the routes and the rule for UDP to what the plan says. Idempotent. At no moment is anything open that is refused both before
/// and after; established connections are the proxy's to end.
pub fn apply(netns: BorrowedFd<'_>, plan: &Plan) -> Result<(), NetError> {
    let wanted = routes::wanted(plan);
    let udp = plan.udp && !plan.closed;
    inside(netns, || {
        let mut netfilter = netlink::Socket::netfilter()?;
        if !udp {
            netfilter.run(&nft::set_udp(false))?;
        }
        let mut route = netlink::Socket::route()?;
        let present = routes::present(&mut route)?;
        // A namespace without IPv6 has no IPv6 entries of ours, and nothing to close.
        let ipv6 = present.keys().any(|prefix| prefix.addr.is_ipv6());
        for step in routes::change(&present, &wanted, ipv6) {
            route.run(&step)?;
        }
        if udp {
            netfilter.run(&nft::set_udp(true))?;
        }
        close_elsewhere(netfilter);
        Ok(())
    })
}

/// Closing a netfilter socket waits until the rules that were removed are freed, some 10 ms after they have lost their
/// effect. Nobody else has to wait for that.
fn close_elsewhere(netfilter: netlink::Socket) {
    // Without a thread it is closed here.
    std::thread::Builder::new().name("nft-close".to_owned()).stack_size(CLOSING_STACK_BYTES).spawn(move || drop(netfilter)).ok();
}

/// Begins to connect to a server in the sandbox: a nonblocking socket whose connect may still be in progress.
/// Writable means done; ask `take_error` then.
pub fn connect(netns: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = inside(netns, || sockets::stream(addr).map_err(NetError::Enter)).map_err(|error| match error {
        NetError::Enter(source) => source,
        other => io::Error::other(other),
    })?;
    sockets::begin_connect(&socket, addr)?;
    Ok(TcpStream::from(socket))
}

/// Runs `work` on this thread in another network namespace.
fn inside<T>(netns: BorrowedFd<'_>, work: impl FnOnce() -> Result<T, NetError>) -> Result<T, NetError> {
    let home = Home(std::fs::File::open("/proc/thread-self/ns/net").map_err(NetError::Enter)?);
    enter(netns).map_err(|errno| NetError::Enter(errno.into()))?;
    let result = work();
    drop(home);
    result
}

fn enter(netns: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::thread::move_into_link_name_space(netns, Some(rustix::thread::LinkNameSpaceType::Network))
}

/// The namespace to return to, also when the work panics.
struct Home(std::fs::File);

impl Drop for Home {
    fn drop(&mut self) {
        if enter(self.0.as_fd()).is_err() {
            // Going on would dial and listen for the host from inside a sandbox.
            std::process::abort();
        }
    }
}

/// True for the addresses that stay inside the sandbox.
pub fn is_own_loopback(addr: IpAddr) -> bool {
    match addr.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4 == SANDBOX_ADDR,
        IpAddr::V6(v6) => v6.is_loopback(),
    }
}

#[cfg(test)]
mod tests;
