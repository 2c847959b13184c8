//! What an address alone decides.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Action, Mode, Policy, Prefix, Protected, Protocol};

/// Prefixes to refuse before a connection is even tried. The longest one that contains an address decides about it;
/// what none contains is left to the judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// No address is left to the judge; the lists are empty.
    pub closed: bool,
    /// Some flow of UDP may be allowed, or has to be seen.
    pub udp: bool,
    pub prohibited: Vec<Prefix>,
    /// Left to the judge although they lie in a prohibited one.
    pub allowed: Vec<Prefix>,
}

/// The refusals that follow from a policy whatever the port.
///
/// All prefixes that the policy or the protection names divide the addresses into regions in which every address has
/// the same answer; each prefix stands for its region, which is what remains of it without the longer ones in it.
///
/// Where every refusal is to be seen none is left to routes: the judge refuses the same, and records it.
pub fn routes(policy: &Policy, protected: &Protected) -> Routes {
    if policy.audit {
        return Routes { closed: false, udp: true, prohibited: vec![], allowed: vec![] };
    }
    let everything = [Prefix::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), Prefix::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)];
    let named = protected.ranges.iter().map(|(range, _)| *range);
    let named = named.chain(protected.allow.iter().copied());
    let named = named.chain(policy.rules.iter().flat_map(|rule| rule.cidrs.iter().copied()));
    let is_open = |region: &Prefix, proto| may_be_allowed(policy, protected, region, proto);
    let mut udp = false;
    // Sorted by address, then length: a prefix comes after everything that covers it.
    let mut regions = BTreeMap::new();
    for region in everything.into_iter().chain(named) {
        let is_open_for_udp = is_open(&region, Protocol::Udp);
        udp |= is_open_for_udp;
        regions.insert(region, !is_open_for_udp && !is_open(&region, Protocol::Tcp));
    }

    let mut routes = Routes { closed: regions.values().all(|refused| *refused), udp, prohibited: vec![], allowed: vec![] };
    if routes.closed {
        return routes;
    }
    // The chain of prefixes that cover the present one, innermost last.
    let mut outer: Vec<(Prefix, bool)> = Vec::new();
    for (region, refused) in regions {
        while outer.last().is_some_and(|(last, _)| !last.covers(&region)) {
            outer.pop();
        }
        // What is around the whole family is open.
        let around = outer.last().is_some_and(|(_, refused)| *refused);
        match (around, refused) {
            (false, true) => routes.prohibited.push(region),
            (true, false) => routes.allowed.push(region),
            (true, true) | (false, false) => {}
        }
        outer.push((region, refused));
    }
    routes
}

/// True when some flow to the region's addresses may be allowed, by what is known before it says anything.
fn may_be_allowed(policy: &Policy, protected: &Protected, region: &Prefix, proto: Protocol) -> bool {
    let is_around_proxy = policy.proxy.is_some() && proto == Protocol::Udp;
    if is_around_proxy || protected.reason_range(region).is_some() {
        return false;
    }
    for rule in &policy.rules {
        let here = rule.cidrs.is_empty() || rule.cidrs.iter().any(|cidr| cidr.covers(region));
        if !here || !rule.is_for_protocol(proto) {
            continue;
        }
        match rule.action {
            Action::Allow => return true,
            Action::Deny if rule.ports.is_empty() && rule.is_plain() => return false,
            Action::Deny => {}
        }
    }
    policy.mode == Mode::AllowAll
}
