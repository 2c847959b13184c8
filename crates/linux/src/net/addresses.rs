//! Prefixes, and the addresses of this machine.
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use super::netlink;

/// An address range. Host bits are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    pub addr: IpAddr,
    /// Bits, at most 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// The same range with zero host bits and a length that the family has.
    pub(super) fn normal(self) -> Self {
        match self.addr {
            IpAddr::V4(v4) => {
                let len = self.len.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                Self { addr: IpAddr::V4((v4.to_bits() & mask).into()), len }
            }
            IpAddr::V6(v6) => {
                let len = self.len.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                Self { addr: IpAddr::V6((v6.to_bits() & mask).into()), len }
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// struct ifaddrmsg
const IFADDRMSG_BYTES: usize = 8;

/// The addresses of all interfaces of this machine (of the calling thread's network namespace), loopback included.
///
/// # Errors
/// When the kernel does not tell, for example for want of file descriptors. What is known from before holds then.
pub fn host_addresses() -> Result<Vec<IpAddr>, super::NetError> {
    let mut route = netlink::Socket::route()?;
    let mut found = Vec::new();
    route.dump(RTM_GETADDR, &[0; IFADDRMSG_BYTES], |kind, body| {
        if kind != RTM_NEWADDR || body.len() < IFADDRMSG_BYTES {
            return;
        }
        // On a point-to-point interface IFA_ADDRESS is the other end.
        let mut local = None;
        for (kind, value) in netlink::attributes(&body[IFADDRMSG_BYTES..]) {
            if kind == IFA_LOCAL || (kind == IFA_ADDRESS && local.is_none()) {
                local = netlink::address(value);
            }
        }
        found.extend(local);
    })?;
    Ok(found)
}

/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;

/// Readable when an interface of this machine (of the network namespace in which it was opened) has got or lost an address.
pub struct AddressChanges(netlink::Socket);

impl AddressChanges {
    pub fn open() -> Result<Self, super::NetError> {
        netlink::Socket::route_changes(ADDRESS_GROUPS).map(Self)
    }

    /// Forgets the changes so far, without waiting; true when there were some.
    pub fn take(&self) -> bool {
        self.0.drain()
    }
}

impl AsRawFd for AddressChanges {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd().as_raw_fd()
    }
}
