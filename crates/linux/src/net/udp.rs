//! The way of datagrams out of a sandbox and back: one socket of the host that is given every datagram with the
//! addresses that it has, and a raw one that sends in the name of whom it was sent to.
//!
//! A socket of the host for each flow, bound to the flow's destination, would be the usual way to answer. It cannot be
//! bound while a program has the same port on all addresses, and programs could see that it is there. A raw socket
//! needs no port, and one is enough for all flows.
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sockopt};

/// No datagram has more payload: 65535 bytes less the headers of IPv4 and UDP.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Datagrams that wait to be read, as the kernel counts them; more are dropped.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
const UDP_HEADER_BYTES: usize = 8;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;
const TTL: u8 = 64;
/// Room for the one message that is asked for (an address), and some more.
const CONTROL_BYTES: usize = 128;

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    pub len: usize,
    pub from: SocketAddr,
    /// Where the program sent it.
    pub to: SocketAddr,
}

/// What a program is told of a datagram that will not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// Nobody is there: ECONNREFUSED on a connected socket.
    Port,
    /// It is forbidden: EHOSTUNREACH, or EACCES with IPv6.
    Prohibited,
}

/// Of one family, nonblocking.
#[derive(Debug)]
pub struct Datagrams {
    /// Every datagram that leaves arrives here, see [`receive`].
    pub socket: UdpSocket,
    pub replies: Replies,
}

/// Speaks to programs in the name of whom they spoke to.
#[derive(Debug)]
pub struct Replies {
    raw: OwnedFd,
}

impl Datagrams {
    /// In the current namespace.
    pub(super) fn open(addr: SocketAddr) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        if addr.is_ipv4() {
            enable(&socket, libc::SOL_IP, libc::IP_TRANSPARENT)?;
            enable(&socket, libc::SOL_IP, libc::IP_RECVORIGDSTADDR)?;
        } else {
            sockopt::set_ipv6_v6only(&socket, true)?;
            enable(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT)?;
            enable(&socket, libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR)?;
        }
        // The kernel's own default is fine, too.
        sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).ok();
        rustix::net::bind(&socket, &addr)?;
        // Of this protocol a raw socket receives nothing, and headers are the sender's.
        let raw = rustix::net::socket_with(family, SocketType::RAW, flags, Some(rustix::net::ipproto::RAW))?;
        Ok(Self { socket: socket.into(), replies: Replies { raw } })
    }
}

/// The next datagram of [`Datagrams::socket`]; `WouldBlock` when none waits. What the buffer cannot hold of it is lost.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut from = [0u8; mem::size_of::<libc::sockaddr_in6>()];
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a message header without anything.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = from.as_mut_ptr().cast();
    message.msg_namelen = from.len() as u32;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer of the header is to memory of this function, writable and as long as said.
    let len = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let from = from.get(..message.msg_namelen as usize).and_then(socket_address);
    let to = control.0.get(..message.msg_controllen as usize).and_then(original_destination);
    match (from, to) {
        (Some(from), Some(to)) => Ok(Datagram { len, from, to }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Replies {
    /// Sends a datagram to a program in the name of another address. Both are of this socket's family.
    pub fn reply(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let mut udp = [0; UDP_HEADER_BYTES];
        let len = UDP_HEADER_BYTES + payload.len();
        udp[0..2].copy_from_slice(&from.port().to_be_bytes());
        udp[2..4].copy_from_slice(&to.port().to_be_bytes());
        udp[4..6].copy_from_slice(&u16::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?.to_be_bytes());
        if let (IpAddr::V6(source), IpAddr::V6(target)) = (from.ip(), to.ip()) {
            // With IPv4 none is as good.
            let sum = checksum(pseudo_header(source, target, len, PROTOCOL_UDP), &[&udp, payload]);
            udp[6..8].copy_from_slice(&if sum == 0 { u16::MAX } else { sum }.to_be_bytes());
        }
        self.send(from.ip(), to.ip(), PROTOCOL_UDP, &udp, payload)
    }

    /// Tells a program that what it sent to `from` will not arrive. Both addresses are of this socket's family.
    pub fn refuse(&self, from: SocketAddr, to: SocketAddr, why: Unreachable) -> io::Result<()> {
        // The beginning of what the program sent: the kernel finds the socket by it.
        let mut quoted = ip_header(to.ip(), from.ip(), PROTOCOL_UDP, UDP_HEADER_BYTES)?;
        quoted.extend_from_slice(&to.port().to_be_bytes());
        quoted.extend_from_slice(&from.port().to_be_bytes());
        quoted.extend_from_slice(&[0, UDP_HEADER_BYTES as u8, 0, 0]);
        let mut icmp = [0; 8];
        match (from.ip(), to.ip()) {
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                // Type 1 is "destination unreachable" (RFC 4443).
                icmp[..2].copy_from_slice(&[1, if why == Unreachable::Port { 4 } else { 1 }]);
                let sum = checksum(pseudo_header(source, target, icmp.len() + quoted.len(), PROTOCOL_ICMPV6), &[&icmp, &quoted]);
                icmp[2..4].copy_from_slice(&sum.to_be_bytes());
                self.send(from.ip(), to.ip(), PROTOCOL_ICMPV6, &icmp, &quoted)
            }
            _ => {
                // Type 3 is "destination unreachable" (RFC 792, RFC 1812).
                icmp[..2].copy_from_slice(&[3, if why == Unreachable::Port { 3 } else { 13 }]);
                let sum = checksum(0, &[&icmp, &quoted]);
                icmp[2..4].copy_from_slice(&sum.to_be_bytes());
                self.send(from.ip(), to.ip(), PROTOCOL_ICMP, &icmp, &quoted)
            }
        }
    }

    fn send(&self, from: IpAddr, to: IpAddr, protocol: u8, header: &[u8], payload: &[u8]) -> io::Result<()> {
        let ip = ip_header(from, to, protocol, header.len() + payload.len())?;
        let parts = [io::IoSlice::new(&ip), io::IoSlice::new(header), io::IoSlice::new(payload)];
        let to = SocketAddr::new(to, 0);
        rustix::net::sendmsg_addr(&self.raw, &to, &parts, &mut SendAncillaryBuffer::default(), SendFlags::DONTWAIT)?;
        Ok(())
    }
}

/// As aligned as the kernel writes it.
#[repr(align(8))]
struct Control([u8; CONTROL_BYTES]);

fn enable(socket: &OwnedFd, level: i32, option: i32) -> io::Result<()> {
    let on: i32 = 1;
    // SAFETY: the value is an int, which is what these options take, and is only read.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), mem::size_of::<i32>() as u32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The address among the control messages (struct cmsghdr: length as a word, level, type; then the value, aligned).
fn original_destination(mut control: &[u8]) -> Option<SocketAddr> {
    const WORD: usize = mem::size_of::<usize>();
    const HEADER: usize = WORD + 8;
    loop {
        let header = control.get(..HEADER)?;
        let len = usize::from_ne_bytes(header[..WORD].try_into().ok()?);
        let level = i32::from_ne_bytes(header[WORD..WORD + 4].try_into().ok()?);
        let kind = i32::from_ne_bytes(header[WORD + 4..].try_into().ok()?);
        let value = control.get(HEADER..len)?;
        if matches!((level, kind), (libc::SOL_IP, libc::IP_ORIGDSTADDR) | (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR)) {
            return socket_address(value);
        }
        control = control.get(len.next_multiple_of(WORD)..)?;
    }
}

/// struct sockaddr_in or sockaddr_in6: family, port; then the address, for IPv6 after four bytes more.
fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match family {
        libc::AF_INET => Some(SocketAddrV4::new(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?), port).into()),
        libc::AF_INET6 => Some(SocketAddrV6::new(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?), port, 0, 0).into()),
        _ => None,
    }
}

/// For `len` bytes after it.
fn ip_header(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> io::Result<Vec<u8>> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(IPV4_HEADER_BYTES + len).map_err(too_long)?.to_be_bytes();
            // Version and length in words, service, total length, id and fragment; the kernel adds the checksum.
            let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, TTL, protocol, 0, 0];
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            Ok(header)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let len = u16::try_from(len).map_err(too_long)?.to_be_bytes();
            let mut header = Vec::with_capacity(IPV6_HEADER_BYTES);
            header.extend_from_slice(&[0x60, 0, 0, 0, len[0], len[1], protocol, TTL]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            Ok(header)
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The sum of what the checksums of IPv6 also cover (RFC 8200, 8.1).
fn pseudo_header(from: Ipv6Addr, to: Ipv6Addr, len: usize, protocol: u8) -> u64 {
    let addresses = from.segments().into_iter().chain(to.segments());
    addresses.map(u64::from).sum::<u64>() + len as u64 + u64::from(protocol)
}

/// The Internet's checksum (RFC 1071). All parts but the last have an even length.
fn checksum(start: u64, parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum = words.fold(start, |sum, pair| sum + u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
