//! Addresses that belong to the machine, its neighbours or nobody. No policy of a user opens them.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Prefix;

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> Prefix {
    Prefix::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), len)
}

const fn v6(a: u16, b: u16, c: u16, len: u8) -> Prefix {
    Prefix::new(IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), len)
}

/// From the IANA registries of special-purpose addresses (RFC 6890 and its updates).
const RANGES: &[(Prefix, &str)] = &[
    (v4(0, 0, 0, 0, 8), "this network"),
    (v4(10, 0, 0, 0, 8), "private network"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT; cloud services of some providers"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local; cloud metadata"),
    (v4(168, 63, 129, 16, 32), "the virtual machine's host in Azure: its secrets, at an address of the Internet"),
    (v4(172, 16, 0, 0, 12), "private network"),
    (v4(192, 0, 0, 0, 24), "IETF protocol assignments"),
    (v4(192, 0, 2, 0, 24), "documentation; not on the Internet"),
    (v4(192, 168, 0, 0, 16), "private network"),
    (v4(198, 18, 0, 0, 15), "benchmark networks"),
    (v4(198, 51, 100, 0, 24), "documentation; not on the Internet"),
    (v4(203, 0, 113, 0, 24), "documentation; not on the Internet"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved; broadcast"),
    // The unspecified address, loopback, and addresses that carry an IPv4 address in their low bits.
    (v6(0, 0, 0, 96), "IPv4-compatible; loopback"),
    (Prefix::new(IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xfffe, 0, 0)), 95), "IPv4-mapped"),
    (v6(0x64, 0xff9b, 0, 96), "NAT64: reaches IPv4 addresses past the IPv4 rules"),
    (v6(0x64, 0xff9b, 1, 48), "local NAT64: reaches IPv4 addresses past the IPv4 rules"),
    (v6(0x2001, 0, 0, 32), "Teredo: reaches IPv4 addresses past the IPv4 rules"),
    (v6(0x2001, 0xdb8, 0, 32), "documentation; not on the Internet"),
    (v6(0x2002, 0, 0, 16), "6to4: reaches IPv4 addresses past the IPv4 rules"),
    (v6(0xfc00, 0, 0, 7), "unique local addresses; cloud metadata"),
    (v6(0xfe80, 0, 0, 10), "link-local"),
    (v6(0xfec0, 0, 0, 10), "site-local (deprecated)"),
    (v6(0xff00, 0, 0, 8), "multicast"),
];

/// The protected ranges of this machine, and what its operator allows in spite of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protected {
    pub(super) ranges: Vec<(Prefix, &'static str)>,
    pub(super) allow: Vec<Prefix>,
    /// The operator allows an address of this machine.
    opens_machine: bool,
}

impl Protected {
    /// `hosts` are the machine's own addresses. `ipv6` says whether it can reach the IPv6 Internet at all; if not,
    /// refusing it at once makes programs try IPv4.
    pub fn new(allow: Vec<Prefix>, hosts: &[IpAddr], ipv6: bool) -> Self {
        let mut ranges = RANGES.to_vec();
        let opens_machine = hosts.iter().any(|host| allow.iter().any(|allow| allow.covers(&Prefix::host(host.to_canonical()))));
        for host in hosts {
            let host = Prefix::host(host.to_canonical());
            if !RANGES.iter().any(|(range, _)| range.covers(&host)) {
                ranges.push((host, "an address of this machine"));
            }
        }
        if !ipv6 {
            ranges.push((v6(0, 0, 0, 0), "this machine has no IPv6 route"));
        }
        Self { ranges, allow, opens_machine }
    }

    /// Why the address is refused to everybody; None when it is not.
    pub fn reason(&self, addr: IpAddr) -> Option<&'static str> {
        self.reason_range(&Prefix::host(addr.to_canonical()))
    }

    /// Whether the operator opened this very address, which would be refused else: the operator knows what is there.
    /// A range says less.
    pub fn is_opened(&self, addr: IpAddr) -> bool {
        let host = Prefix::host(addr.to_canonical());
        self.allow.contains(&host) && self.ranges.iter().any(|(range, _)| range.covers(&host))
    }

    /// Why the server itself does not connect to the address on behalf of a user, as for a webhook. Who allows one of the
    /// machine's own addresses has opened the services of this machine: for the server these are on loopback, too. What
    /// runs in a sandbox has a loopback of its own and reaches the machine's in no case.
    pub fn reason_for_server(&self, addr: IpAddr) -> Option<&'static str> {
        if self.opens_machine && addr.to_canonical().is_loopback() {
            return None;
        }
        self.reason(addr)
    }

    /// The same for a range that lies in every protected or allowed range wholly or not at all.
    pub(super) fn reason_range(&self, prefix: &Prefix) -> Option<&'static str> {
        if self.allow.iter().any(|allow| allow.covers(prefix)) {
            return None;
        }
        self.ranges.iter().find(|(range, _)| range.covers(prefix)).map(|(_, reason)| *reason)
    }
}
