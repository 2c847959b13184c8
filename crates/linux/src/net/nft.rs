//! The namespace's nftables rules. Only the chain `udp` ever changes; policy is in the routes and in the proxy.
//!
//! ```text
//! table inet sandbar {
//!   chain redirect { type nat hook output priority -100; policy accept;
//!     ip daddr != 127.0.0.0/8 ip daddr != 192.0.0.2 meta l4proto tcp dnat ip to 127.213.0.1:15001
//!     ip6 daddr != ::1 meta l4proto tcp dnat ip6 to [::1]:15001 }
//!   chain udp {                                  # empty while no UDP may leave
//!     ip saddr 192.0.0.2 accept
//!     ip6 saddr ::1 accept }
//!   chain output { type filter hook output priority 0; policy drop;
//!     meta l4proto tcp accept
//!     ip daddr 127.0.0.0/8 accept
//!     ip daddr 192.0.0.2 accept
//!     ip6 daddr ::1 accept
//!     meta l4proto udp jump udp }
//!   chain divert { type filter hook prerouting priority -150; policy drop;
//!     meta l4proto tcp accept
//!     ip daddr 127.0.0.0/8 accept
//!     ip daddr 192.0.0.2 accept
//!     ip6 daddr ::1 accept
//!     meta nfproto ipv4 meta l4proto udp tproxy ip to 127.213.0.1:15001 accept
//!     meta nfproto ipv6 meta l4proto udp tproxy ip6 to [::1]:15001 accept }
//! }
//! ```
//!
//! A datagram that leaves by `output` comes back in through `lo`, where `divert` gives it to the host's socket with
//! its destination as it was. Programs see nothing of it, whatever they have bound: only the host's sockets are
//! transparent. The source is looked at because what comes back is sent to it: it has to be the sandbox's own.
use std::net::Ipv6Addr;

use rustix::io::Errno;

use super::netlink::{Batch, Body, NLM_F_APPEND, NLM_F_CREATE};
use super::{PROXY_ADDR, PROXY_ADDR_V6, PROXY_PORT, SANDBOX_ADDR};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const DELETE_RULE: u16 = SUBSYSTEM | 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const HOOK_PREROUTING: u32 = 0;
const HOOK_OUTPUT: u32 = 3;
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_JUMP: i32 = -3;
const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const PAYLOAD_NETWORK_HEADER: u32 = 1;
const NAT_DNAT: u32 = 1;
/// Offsets of the addresses in an IPv4 header.
const IPV4_SADDR: u32 = 12;
const IPV4_DADDR: u32 = 16;
/// Offsets of the addresses in an IPv6 header.
const IPV6_SADDR: u32 = 8;
const IPV6_DADDR: u32 = 24;

const TABLE: &str = "sandbar";
const REDIRECT: &str = "redirect";
const UDP: &str = "udp";
const OUTPUT: &str = "output";
const DIVERT: &str = "divert";

/// All of it, as one transaction.
pub(super) fn ruleset(udp: bool) -> Batch {
    let mut batch = begin();
    let mut table = message(NFPROTO_INET, 0);
    table.name(1, TABLE);
    batch.add("make the nftables table", NEW_TABLE, NLM_F_CREATE, table);
    chain(&mut batch, REDIRECT, Some(&Hook { kind: "nat", hook: HOOK_OUTPUT, priority: PRIORITY_DSTNAT, policy: NF_ACCEPT }));
    chain(&mut batch, UDP, None);
    chain(&mut batch, OUTPUT, Some(&Hook { kind: "filter", hook: HOOK_OUTPUT, priority: PRIORITY_FILTER, policy: NF_DROP }));
    chain(&mut batch, DIVERT, Some(&Hook { kind: "filter", hook: HOOK_PREROUTING, priority: PRIORITY_MANGLE, policy: NF_DROP }));
    rule(&mut batch, REDIRECT, |rule| {
        ipv4(rule);
        daddr4_in_127(rule, CMP_NEQ);
        daddr4(rule, CMP_NEQ);
        tcp(rule);
        dnat(rule, NFPROTO_IPV4, &PROXY_ADDR.octets());
    });
    rule(&mut batch, REDIRECT, |rule| {
        ipv6(rule);
        daddr6(rule, CMP_NEQ);
        tcp(rule);
        dnat(rule, NFPROTO_IPV6, &PROXY_ADDR_V6.octets());
    });
    for base in [OUTPUT, DIVERT] {
        rule(&mut batch, base, |rule| {
            tcp(rule);
            accept(rule);
        });
        rule(&mut batch, base, |rule| {
            ipv4(rule);
            daddr4_in_127(rule, CMP_EQ);
            accept(rule);
        });
        rule(&mut batch, base, |rule| {
            ipv4(rule);
            daddr4(rule, CMP_EQ);
            accept(rule);
        });
        rule(&mut batch, base, |rule| {
            ipv6(rule);
            daddr6(rule, CMP_EQ);
            accept(rule);
        });
    }
    rule(&mut batch, OUTPUT, |rule| {
        is_udp(rule);
        jump(rule, UDP);
    });
    rule(&mut batch, DIVERT, |rule| {
        ipv4(rule);
        is_udp(rule);
        tproxy(rule, NFPROTO_IPV4, &PROXY_ADDR.octets());
        accept(rule);
    });
    rule(&mut batch, DIVERT, |rule| {
        ipv6(rule);
        is_udp(rule);
        tproxy(rule, NFPROTO_IPV6, &PROXY_ADDR_V6.octets());
        accept(rule);
    });
    fill_udp(&mut batch, udp);
    end(&mut batch);
    batch
}

/// Opens or closes the way of UDP out of a namespace, in one moment. A namespace that an earlier server made may lack
/// the chain: then UDP stays closed there, and that is no error. (To make sure of the chain here would cost 10 ms: the
/// kernel waits for an RCU grace period when a chain is named that exists.)
pub(super) fn set_udp(open: bool) -> Batch {
    let mut batch = begin().tolerating(Errno::NOENT);
    let mut flush = message(NFPROTO_INET, 0);
    flush.name(1, TABLE).name(2, UDP);
    batch.add("empty an nftables chain", DELETE_RULE, 0, flush);
    fill_udp(&mut batch, open);
    end(&mut batch);
    batch
}

fn fill_udp(batch: &mut Batch, open: bool) {
    if !open {
        return;
    }
    rule(batch, UDP, |rule| {
        ipv4(rule);
        payload(rule, IPV4_SADDR, 4);
        compare(rule, CMP_EQ, &SANDBOX_ADDR.octets());
        accept(rule);
    });
    rule(batch, UDP, |rule| {
        ipv6(rule);
        payload(rule, IPV6_SADDR, 16);
        compare(rule, CMP_EQ, &Ipv6Addr::LOCALHOST.octets());
        accept(rule);
    });
}

fn begin() -> Batch {
    let mut batch = Batch::transaction();
    batch.add("begin the nftables transaction", BATCH_BEGIN, 0, message(0, SUBSYSTEM >> 8));
    batch
}

fn end(batch: &mut Batch) {
    batch.add("end the nftables transaction", BATCH_END, 0, message(0, SUBSYSTEM >> 8));
}

/// struct nfgenmsg: family, version, resource id (big endian).
fn message(family: u8, resource: u16) -> Body {
    let mut body = Body::default();
    body.raw(&[family, 0]).raw(&resource.to_be_bytes());
    body
}

/// Where a base chain is called, and what becomes of what it does not decide.
struct Hook {
    kind: &'static str,
    hook: u32,
    priority: i32,
    policy: u32,
}

/// Without a hook it is only jumped to.
fn chain(batch: &mut Batch, name: &str, hook: Option<&Hook>) {
    let mut body = message(NFPROTO_INET, 0);
    body.name(1, TABLE).name(3, name);
    if let Some(hook) = hook {
        body.nest(4, |at| {
            at.attribute(1, &hook.hook.to_be_bytes()).attribute(2, &hook.priority.to_be_bytes());
        });
        body.attribute(5, &hook.policy.to_be_bytes()).name(7, hook.kind);
    }
    batch.add("make an nftables chain", NEW_CHAIN, NLM_F_CREATE, body);
}

fn rule(batch: &mut Batch, chain: &str, fill: impl FnOnce(&mut Body)) {
    let mut body = message(NFPROTO_INET, 0);
    body.name(1, TABLE).name(2, chain).nest(4, fill);
    batch.add("make an nftables rule", NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, body);
}

fn expression(rule: &mut Body, name: &str, fill: impl FnOnce(&mut Body)) {
    rule.nest(1, |element| {
        element.name(1, name).nest(2, fill);
    });
}

fn meta(rule: &mut Body, key: u32) {
    expression(rule, "meta", |e| {
        e.attribute(1, &REGISTER_1.to_be_bytes()).attribute(2, &key.to_be_bytes());
    });
}

fn compare(rule: &mut Body, operator: u32, value: &[u8]) {
    expression(rule, "cmp", |e| {
        e.attribute(1, &REGISTER_1.to_be_bytes()).attribute(2, &operator.to_be_bytes());
        e.nest(3, |data| {
            data.attribute(1, value);
        });
    });
}

fn payload(rule: &mut Body, offset: u32, len: u32) {
    expression(rule, "payload", |e| {
        e.attribute(1, &REGISTER_1.to_be_bytes()).attribute(2, &PAYLOAD_NETWORK_HEADER.to_be_bytes());
        e.attribute(3, &offset.to_be_bytes()).attribute(4, &len.to_be_bytes());
    });
}

fn immediate(rule: &mut Body, register: u32, value: &[u8]) {
    expression(rule, "immediate", |e| {
        e.attribute(1, &register.to_be_bytes()).nest(2, |data| {
            data.attribute(1, value);
        });
    });
}

fn ipv4(rule: &mut Body) {
    meta(rule, META_NFPROTO);
    compare(rule, CMP_EQ, &[NFPROTO_IPV4]);
}

fn ipv6(rule: &mut Body) {
    meta(rule, META_NFPROTO);
    compare(rule, CMP_EQ, &[NFPROTO_IPV6]);
}

fn tcp(rule: &mut Body) {
    meta(rule, META_L4PROTO);
    compare(rule, CMP_EQ, &[IPPROTO_TCP]);
}

fn is_udp(rule: &mut Body) {
    meta(rule, META_L4PROTO);
    compare(rule, CMP_EQ, &[IPPROTO_UDP]);
}

/// The first byte of the address is all that 127.0.0.0/8 says.
fn daddr4_in_127(rule: &mut Body, operator: u32) {
    payload(rule, IPV4_DADDR, 1);
    compare(rule, operator, &[127]);
}

fn daddr4(rule: &mut Body, operator: u32) {
    payload(rule, IPV4_DADDR, 4);
    compare(rule, operator, &SANDBOX_ADDR.octets());
}

fn daddr6(rule: &mut Body, operator: u32) {
    payload(rule, IPV6_DADDR, 16);
    compare(rule, operator, &Ipv6Addr::LOCALHOST.octets());
}

fn accept(rule: &mut Body) {
    expression(rule, "immediate", |e| {
        e.attribute(1, &REGISTER_VERDICT.to_be_bytes()).nest(2, |data| {
            data.nest(2, |verdict| {
                verdict.attribute(1, &NF_ACCEPT.to_be_bytes());
            });
        });
    });
}

fn jump(rule: &mut Body, chain: &str) {
    expression(rule, "immediate", |e| {
        e.attribute(1, &REGISTER_VERDICT.to_be_bytes()).nest(2, |data| {
            data.nest(2, |verdict| {
                verdict.attribute(1, &NFT_JUMP.to_be_bytes()).name(2, chain);
            });
        });
    });
}

fn tproxy(rule: &mut Body, family: u8, addr: &[u8]) {
    immediate(rule, REGISTER_1, addr);
    immediate(rule, REGISTER_2, &PROXY_PORT.to_be_bytes());
    expression(rule, "tproxy", |e| {
        e.attribute(1, &u32::from(family).to_be_bytes());
        e.attribute(2, &REGISTER_1.to_be_bytes()).attribute(3, &REGISTER_2.to_be_bytes());
    });
}

fn dnat(rule: &mut Body, family: u8, addr: &[u8]) {
    immediate(rule, REGISTER_1, addr);
    immediate(rule, REGISTER_2, &PROXY_PORT.to_be_bytes());
    expression(rule, "nat", |e| {
        e.attribute(1, &NAT_DNAT.to_be_bytes()).attribute(2, &u32::from(family).to_be_bytes());
        e.attribute(3, &REGISTER_1.to_be_bytes()).attribute(5, &REGISTER_2.to_be_bytes());
    });
}
