//! Routes of the namespace, all in table `local`, where the longest prefix wins.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use super::netlink::{self, Batch, Body, NLM_F_CREATE, NLM_F_REPLACE};
use super::{NetError, Plan, Prefix, SANDBOX_ADDR};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
/// Always the index of `lo`.
const LOOPBACK_INDEX: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_LOCAL: u8 = 255;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const RTN_PROHIBIT: u8 = 8;
/// Marks the routes that are ours, among those that the kernel made.
const PROTOCOL: u8 = 213;
/// struct rtmsg
const RTMSG_BYTES: usize = 12;

/// What a route does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is local, so that nftables can send it to the proxy.
    Open,
    /// connect() fails with EACCES.
    Prohibited,
}

pub(super) type Entries = BTreeMap<Prefix, Kind>;

/// `lo` up, with the sandbox's own address.
pub(super) fn interface() -> Batch {
    let mut batch = Batch::default();
    let mut up = Body::default();
    // struct ifinfomsg: family, pad, type, index, flags, change
    up.raw(&[0; 4]).raw(&LOOPBACK_INDEX.to_ne_bytes()).raw(&IFF_UP.to_ne_bytes()).raw(&IFF_UP.to_ne_bytes());
    batch.add("set lo up", RTM_NEWLINK, 0, up);
    let mut addr = Body::default();
    // struct ifaddrmsg: family, prefix length, flags, scope, index
    addr.raw(&[AF_INET, 32, 0, RT_SCOPE_UNIVERSE]).raw(&LOOPBACK_INDEX.to_ne_bytes());
    addr.attribute(IFA_LOCAL, &SANDBOX_ADDR.octets()).attribute(IFA_ADDRESS, &SANDBOX_ADDR.octets());
    batch.add("give lo the sandbox's address", RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, addr);
    batch
}

/// The entries that the plan means. Both default routes are always among them.
pub(super) fn wanted(plan: &Plan) -> Entries {
    let default = if plan.closed { Kind::Prohibited } else { Kind::Open };
    let mut entries = Entries::new();
    entries.insert(Prefix { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: 0 }, default);
    entries.insert(Prefix { addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED), len: 0 }, default);
    if !plan.closed {
        entries.extend(plan.prohibited.iter().map(|p| (p.normal(), Kind::Prohibited)));
        entries.extend(plan.allowed.iter().map(|p| (p.normal(), Kind::Open)));
        // These are the sandbox's own; a route of ours would take the place of the kernel's.
        entries.retain(|prefix, _| !is_kernels(*prefix));
    }
    entries
}

/// Prefixes for which the kernel has a local route of its own, which has to stay.
fn is_kernels(prefix: Prefix) -> bool {
    match prefix.addr {
        IpAddr::V4(v4) => (v4.is_loopback() && prefix.len >= 8) || (v4 == SANDBOX_ADDR && prefix.len == 32),
        IpAddr::V6(v6) => v6.is_loopback() && prefix.len == 128,
    }
}

/// The first routes of a fresh namespace.
pub(super) fn initial(wanted: &Entries, ipv6: bool) -> Batch {
    let mut batch = Batch::default();
    for (prefix, kind) in wanted.iter().filter(|(prefix, _)| ipv6 || prefix.addr.is_ipv4()) {
        add(&mut batch, *prefix, *kind);
    }
    batch
}

/// Our entries as the kernel has them.
pub(super) fn present(route: &mut netlink::Socket) -> Result<Entries, NetError> {
    let mut entries = Entries::new();
    for family in [AF_INET, AF_INET6] {
        let mut request = [0; RTMSG_BYTES];
        request[0] = family;
        let listed = route.dump(RTM_GETROUTE, &request, |kind, body| {
            if kind == RTM_NEWROUTE
                && let Some((prefix, kind)) = parse(body)
            {
                entries.insert(prefix, kind);
            }
        });
        match listed {
            // A kernel without IPv6.
            Err(NetError::Refused { errno: Errno::OPNOTSUPP | Errno::AFNOSUPPORT, .. }) if family == AF_INET6 => {}
            other => other?,
        }
    }
    Ok(entries)
}

fn parse(body: &[u8]) -> Option<(Prefix, Kind)> {
    let header = body.get(..RTMSG_BYTES)?;
    let (family, len, table, protocol) = (header[0], header[1], header[4], header[5]);
    if protocol != PROTOCOL || table != RT_TABLE_LOCAL {
        return None;
    }
    let kind = match header[7] {
        RTN_LOCAL => Kind::Open,
        RTN_PROHIBIT => Kind::Prohibited,
        _ => return None,
    };
    let unspecified = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let addr = netlink::attributes(&body[RTMSG_BYTES..]).find(|(kind, _)| *kind == RTA_DST).map_or(Some(unspecified), |(_, value)| netlink::address(value))?;
    Some((Prefix { addr, len }, kind))
}

/// The steps from one set of entries to another, so that in between nothing is open that is refused in both:
/// first close, then open, then remove old openings, and only then old refusals (removing one of those earlier could
/// bare an opening that is about to go).
pub(super) fn change(present: &Entries, wanted: &Entries, ipv6: bool) -> Vec<Batch> {
    let mut steps = Vec::new();
    let mut step = |batch: Batch, used: bool| {
        if used {
            steps.push(batch);
        }
    };
    for kind in [Kind::Prohibited, Kind::Open] {
        let mut batch = Batch::default();
        let mut used = false;
        for (prefix, wanted_kind) in wanted.iter().filter(|(prefix, _)| ipv6 || prefix.addr.is_ipv4()) {
            if *wanted_kind == kind && present.get(prefix) != Some(&kind) {
                add(&mut batch, *prefix, kind);
                used = true;
            }
        }
        step(batch, used);
    }
    for kind in [Kind::Open, Kind::Prohibited] {
        let mut batch = Batch::default();
        let mut used = false;
        for (prefix, present_kind) in present {
            if *present_kind == kind && !wanted.contains_key(prefix) {
                remove(&mut batch, *prefix, kind);
                used = true;
            }
        }
        step(batch, used);
    }
    steps
}

fn add(batch: &mut Batch, prefix: Prefix, kind: Kind) {
    let what = match kind {
        Kind::Open => "add a local route",
        Kind::Prohibited => "add a prohibit route",
    };
    batch.add(what, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route(prefix, kind));
}

fn remove(batch: &mut Batch, prefix: Prefix, kind: Kind) {
    batch.add_tolerant("remove a route", RTM_DELROUTE, 0, Errno::SRCH, route(prefix, kind));
}

fn route(prefix: Prefix, kind: Kind) -> Body {
    let (family, source) = match prefix.addr {
        IpAddr::V4(_) => (AF_INET, IpAddr::V4(SANDBOX_ADDR)),
        IpAddr::V6(_) => (AF_INET6, IpAddr::V6(Ipv6Addr::LOCALHOST)),
    };
    let (kind_byte, scope) = match (kind, family) {
        (Kind::Open, AF_INET) => (RTN_LOCAL, RT_SCOPE_HOST),
        (Kind::Open, _) => (RTN_LOCAL, RT_SCOPE_UNIVERSE),
        (Kind::Prohibited, _) => (RTN_PROHIBIT, RT_SCOPE_UNIVERSE),
    };
    let mut body = Body::default();
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
    body.raw(&[family, prefix.len, 0, 0, RT_TABLE_LOCAL, PROTOCOL, scope, kind_byte]).raw(&[0; 4]);
    if prefix.len > 0 {
        body.attribute(RTA_DST, &netlink::address_bytes(prefix.addr));
    }
    if kind == Kind::Open {
        body.attribute(RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
        // Without it the source would be the destination, so that a connection could meet itself.
        body.attribute(RTA_PREFSRC, &netlink::address_bytes(source));
    }
    body
}
