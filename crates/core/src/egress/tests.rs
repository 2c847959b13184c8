#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod names;
mod requests;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn protected(allow: &[&str]) -> Protected {
    let hosts = ["192.0.2.2".parse().unwrap(), "93.1.2.3".parse().unwrap(), "2600::5".parse().unwrap()];
    Protected::new(allow.iter().map(|p| prefix(p)).collect(), &hosts, true)
}

fn tcp(addr: &str, port: u16) -> Flow {
    Flow { addr: addr.parse().unwrap(), port, proto: Protocol::Tcp }
}

fn policy(value: Value) -> Policy {
    compile_value(&value).unwrap()
}

/// By address and port alone; what bytes have to tell is refused.
fn verdict(policy: &Policy, protected: &Protected, flow: Flow) -> Verdict {
    match judge(policy, protected, &Seen { flow, names: &[], said: Said::Nothing }) {
        Outcome::Decided { verdict, .. } => verdict,
        Outcome::Listen { silent } => Verdict { allow: false, ..silent },
    }
}

fn refused_by(policy: &Policy, protected: &Protected, flow: Flow) -> Option<Arc<str>> {
    let verdict = verdict(policy, protected, flow);
    (!verdict.allow).then_some(verdict.rule)
}

#[test]
fn protected_addresses_stay_closed() {
    let table = [
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.9",
        "192.168.1.1",
        "198.19.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "255.255.255.255",
        "93.1.2.3",
        "::",
        "::1",
        "::7f00:1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "2002:a00:1::",
        "2001::1",
        "2600::5",
    ];
    for addr in table {
        let flow = tcp(addr, 80);
        assert!(refused_by(&Policy::allow_all(), &protected(&[]), flow).unwrap().starts_with("protected"), "{addr}");
        let everything = protected(&["0.0.0.0/0", "::/0"]);
        assert_eq!(refused_by(&Policy::allow_all(), &everything, flow), None, "{addr} allowed by the operator");
    }
    for addr in ["1.1.1.1", "172.32.0.1", "93.1.2.4", "2600::6", "::ffff:1.1.1.1"] {
        assert_eq!(refused_by(&Policy::allow_all(), &protected(&[]), tcp(addr, 80)), None, "{addr}");
    }
    let no_ipv6 = Protected::new(vec![], &[], false);
    assert!(refused_by(&Policy::allow_all(), &no_ipv6, tcp("2600::6", 80)).is_some());
    assert!(verdict(&Policy::allow_all(), &protected(&[]), Flow { proto: Protocol::Udp, ..tcp("1.1.1.1", 53) }).allow);
}

#[test]
fn the_operator_opens_an_address_but_not_against_the_policy() {
    let protected = protected(&["192.0.2.2/32"]);
    let flow = tcp("192.0.2.2", 8080);
    assert!(verdict(&Policy::allow_all(), &protected, flow).allow);
    assert_eq!(&*verdict(&Policy::block_all(), &protected, flow).rule, "mode block-all");
    assert!(!verdict(&Policy::allow_all(), &protected, tcp("192.0.2.3", 8080)).allow);
}

#[test]
fn an_opened_address_is_one_that_was_meant() {
    let protected = protected(&["192.0.2.2/32", "10.0.0.0/8", "8.8.8.8/32"]);
    for (addr, opened) in [("192.0.2.2", true), ("10.1.2.3", false), ("8.8.8.8", false), ("9.9.9.9", false)] {
        assert_eq!(protected.is_opened(addr.parse().unwrap()), opened, "{addr}");
    }
}

#[test]
fn the_first_matching_rule_decides() {
    let policy = policy(json!({"mode": "block-all", "egress": {"trafficRules": [
        {"action": "deny", "cidrs": ["1.0.0.0/8"], "ports": [{"port": 22, "protocol": "tcp"}]},
        {"name": "net", "action": "allow", "cidrs": ["1.0.0.0/8", "2600::/16"]},
        {"action": "allow", "ports": [{"port": 8000, "endPort": 8010}, {"port": 53, "protocol": "udp"}]},
        {"action": "allow", "domains": ["example.com"]},
        {"action": "allow", "cidrs": ["3.0.0.0/8"], "appProtocols": ["tls"]},
    ]}}));
    let none = Protected::new(vec![], &[], true);
    let table = [
        ("1.2.3.4", 22, false, "egress.trafficRules[0]"),
        ("1.2.3.4", 23, true, "egress.trafficRules[1] `net`"),
        ("::ffff:1.2.3.4", 23, true, "egress.trafficRules[1] `net`"),
        ("2600::1", 1, true, "egress.trafficRules[1] `net`"),
        ("9.9.9.9", 8010, true, "egress.trafficRules[2]"),
        ("9.9.9.9", 8011, false, "mode block-all"),
        ("9.9.9.9", 53, false, "mode block-all"),
        ("8.8.8.8", 443, false, "mode block-all"),
    ];
    for (addr, port, allow, rule) in table {
        let verdict = verdict(&policy, &none, tcp(addr, port));
        assert_eq!((verdict.allow, &*verdict.rule), (allow, rule), "{addr}:{port}");
    }
}

#[test]
fn deprecated_lists() {
    let none = Protected::new(vec![], &[], true);
    let both = policy(json!({"mode": "block-all", "egress": {
        "allowedCidrs": ["1.0.0.0/8"], "allowedPorts": [{"port": 443}], "deniedCidrs": ["1.1.0.0/16"], "trafficRules": null}}));
    assert!(verdict(&both, &none, tcp("1.2.3.4", 443)).allow);
    assert!(!verdict(&both, &none, tcp("1.2.3.4", 80)).allow);
    assert!(!verdict(&both, &none, tcp("2.2.3.4", 443)).allow);
    assert_eq!(&*verdict(&both, &none, tcp("1.1.3.4", 443)).rule, "egress.deniedCidrs");
    let ports = policy(json!({"mode": "block-all", "egress": {"allowedPorts": [{"port": 443}]}}));
    assert!(verdict(&ports, &none, tcp("2.2.3.4", 443)).allow);
}

#[test]
fn names() {
    let open = Policy::allow_all();
    assert!(open.judge_name("any.test.").allow);
    assert!(!Policy::block_all().judge_name("any.test").allow);
    let some = policy(json!({"mode": "block-all", "egress": {"trafficRules": [
        {"action": "deny", "domains": ["bad.example.com"]}, {"action": "allow", "domains": ["*.example.com", "One.test."]}]}}));
    for (name, allow) in
        [("example.com", true), ("a.b.EXAMPLE.com.", true), ("bad.example.com", false), ("badexample.com", false), ("one.test", true), ("two.one.test", false)]
    {
        assert_eq!(some.judge_name(name).allow, allow, "{name}");
    }
    let cidr = policy(json!({"mode": "block-all", "egress": {"trafficRules": [{"action": "allow", "cidrs": ["1.0.0.0/8"]}]}}));
    assert!(!cidr.judge_name("any.test").allow);
    let port = policy(json!({"mode": "block-all", "egress": {"trafficRules": [{"action": "allow", "ports": [{"port": 443}]}]}}));
    assert!(port.judge_name("any.test").allow);
}

#[test]
fn errors_name_the_field() {
    let table = [
        (json!({"mode": "open"}), "mode"),
        (json!({"mode": 7}), "mode"),
        (json!([]), ""),
        (json!({"egress": {"trafficRules": [{"action": "allow", "cidrs": ["1.2.3.4", "10.0.0.0/33"]}]}}), "egress.trafficRules[0].cidrs[1]"),
        (json!({"egress": {"trafficRules": [{"action": "allow", "cidrs": ["10.0.0.0/+8"]}]}}), "egress.trafficRules[0].cidrs[0]"),
        (json!({"egress": {"allowedCidrs": ["x"]}}), "egress.allowedCidrs[0]"),
        (json!({"egress": {"trafficRules": [{"action": "allow", "ports": [{"port": 65536}]}]}}), "egress.trafficRules[0].ports[0].port"),
        (json!({"egress": {"trafficRules": [{"action": "allow", "ports": [{"port": "x"}]}]}}), "egress.trafficRules[0].ports[0].port"),
        (json!({"egress": {"trafficRules": [{"action": "allow", "ports": [{"port": 9, "endPort": 8}]}]}}), "egress.trafficRules[0].ports[0].endPort"),
        (json!({"egress": {"deniedPorts": [{"port": 1, "protocol": "sctp"}]}}), "egress.deniedPorts[0].protocol"),
        (json!({"egress": {"trafficRules": [{"action": "drop", "cidrs": ["1.2.3.4"]}]}}), "egress.trafficRules[0].action"),
        (json!({"egress": {"trafficRules": [{"cidrs": ["1.2.3.4"]}]}}), "egress.trafficRules[0].action"),
        (json!({"egress": {"trafficRules": [{"action": "allow"}]}}), "egress.trafficRules[0]"),
        (json!({"egress": {"trafficRules": [{"action": "allow", "domains": ["a b"]}]}}), "egress.trafficRules[0].domains[0]"),
        (json!({"egress": {"trafficRules": [{"action": "allow", "appProtocols": ["ftp"]}]}}), "egress.trafficRules[0].appProtocols[0]"),
        (json!({"egress": {"trafficRules": [{"action": "allow", "domains": ["a.b"]}], "allowedDomains": ["a.b"]}}), "egress.trafficRules"),
        (
            json!({"egress": {"trafficRules": [{"name": "n", "action": "allow", "domains": ["a.b"]}, {"name": "n", "action": "deny", "domains": ["a.c"]}]}}),
            "egress.trafficRules[1].name",
        ),
        (json!({"egress": {"protocolRules": [{"protocol": "ftp"}]}}), "egress.protocolRules[0].protocol"),
        (json!({"egress": {"protocolRules": [{"protocol": "http"}]}}), "egress.protocolRules[0]"),
        (json!({"egress": {"protocolRules": [{"protocol": "http", "http": {}}]}}), "egress.protocolRules[0].http"),
        (json!({"egress": {"protocolRules": [{"protocol": "http", "http": {"methods": ["GET"]}}]}}), "egress.protocolRules[0].http.methods"),
        (
            json!({"egress": {"protocolRules": [{"protocol": "http", "http": {"methods": {"allowed": ["GE T"]}}}]}}),
            "egress.protocolRules[0].http.methods.allowed[0]",
        ),
        (
            json!({"egress": {"protocolRules": [{"protocol": "http", "http": {"paths": {"denied": ["a/../b"]}}}]}}),
            "egress.protocolRules[0].http.paths.denied[0]",
        ),
        (json!({"egress": {"protocolRules": [{"protocol": "mcp", "mcp": {"tools": {"allowed": ["x"]}}, "tlsMode": "on"}]}}), "egress.protocolRules[0].tlsMode"),
        (json!({"egress": {"trafficRules": [{"action": "allow", "domain": ["a.b"], "ports": [{"port": 1}]}]}}), "egress.trafficRules[0].domain"),
        (json!({"egress": {"trafficRules": [{"action": "allow", "domains": ["bücher.example"]}]}}), "egress.trafficRules[0].domains[0]"),
        (json!({"egress": {"trafficRules": [{"action": "allow", "domains": ["10.0.0.1"]}]}}), "egress.trafficRules[0].domains[0]"),
        (json!({"egress": {"proxy": {"type": "socks5", "address": "h"}}}), "egress.proxy.address"),
        (json!({"egress": {"proxy": {"type": "socks5", "address": "h:1", "credentialRef": "x"}}}), "egress.proxy.credentialRef"),
        (json!({"egress": {"proxy": {"type": "http", "address": "h:1"}}}), "egress.proxy.type"),
        (json!({"egress": {"audit": "yes"}}), "egress.audit"),
        (json!({"egress": {"audit": 1}}), "egress.audit"),
    ];
    for (value, path) in table {
        let errors = compile_value(&value).unwrap_err();
        assert_eq!(errors[0].path, path, "{value}: {errors:?}");
    }
    assert_eq!(compile_value(&Value::Null).unwrap(), Policy::allow_all());
    assert_eq!(compile_value(&json!({"mode": null, "egress": null})).unwrap(), Policy::allow_all());
}

#[test]
fn templates_merge() {
    let base = json!({"mode": "block-all", "x": 1, "egress": {"trafficRules": [{"name": "a", "action": "allow"}, {"name": "b"}, {"action": "deny"}]}});
    let over = json!({"mode": "allow-all", "egress": {"trafficRules": [{"name": "b", "action": "deny"}, {"action": "allow"}], "y": 2}});
    let want = json!({"mode": "allow-all", "x": 1, "egress": {"y": 2, "trafficRules": [
        {"name": "a", "action": "allow"}, {"name": "b", "action": "deny"}, {"action": "deny"}, {"action": "allow"}]}});
    assert_eq!(merge(&base, &over), want);
    assert_eq!(merge(&base, &want), want, "what is in force, sent back, changes nothing");
    assert_eq!(merge(&base, &Value::Null), base);
    assert_eq!(merge(&Value::Null, &over), over);
}

#[test]
fn routes_of_the_usual_policies() {
    let protected = protected(&["192.0.2.2/32", "10.0.0.0/8"]);
    let open = routes(&Policy::allow_all(), &protected);
    assert!(!open.closed && open.allowed == [prefix("192.0.2.2/32")]);
    assert!(open.prohibited.contains(&prefix("169.254.0.0/16")) && open.prohibited.contains(&prefix("93.1.2.3/32")));
    assert!(!open.prohibited.contains(&prefix("10.0.0.0/8")));
    let closed = routes(&Policy::block_all(), &protected);
    assert!(closed.closed && closed.prohibited.is_empty());
    let some = policy(json!({"mode": "block-all", "egress": {"trafficRules": [
        {"action": "deny", "cidrs": ["1.1.0.0/16"]}, {"action": "allow", "cidrs": ["1.0.0.0/8", "192.168.0.0/16"]}]}}));
    let some = routes(&some, &protected);
    assert_eq!(some.prohibited, [prefix("0.0.0.0/0"), prefix("1.1.0.0/16"), prefix("::/0")]);
    assert_eq!(some.allowed, [prefix("1.0.0.0/8")]);
}

#[test]
fn with_an_audit_the_judge_refuses_what_routes_would() {
    let protected = protected(&[]);
    for mode in ["block-all", "allow-all"] {
        let quiet = policy(json!({"mode": mode}));
        for unsaid in [json!({"mode": mode, "egress": {"audit": null}}), json!({"mode": mode, "egress": {"audit": false}})] {
            assert_eq!(policy(unsaid), quiet);
        }
        let audited = policy(json!({"mode": mode, "egress": {"audit": true}}));
        assert_eq!(routes(&audited, &protected), Routes { closed: false, udp: true, prohibited: vec![], allowed: vec![] });
        for addr in ["1.1.1.1", "10.0.0.1", "127.0.0.1", "169.254.169.254", "93.1.2.3", "2600::5", "fd00:ec2::254", "::ffff:10.0.0.1"] {
            for proto in [Protocol::Tcp, Protocol::Udp] {
                let flow = Flow { proto, ..tcp(addr, 443) };
                assert_eq!(verdict(&audited, &protected, flow), verdict(&quiet, &protected, flow), "{mode} {addr}");
            }
        }
    }
    let base = json!({"mode": "block-all", "egress": {"audit": true}});
    assert_eq!(merge(&base, &json!({"mode": "allow-all"}))["egress"], json!({"audit": true}));
    assert_eq!(merge(&base, &json!({"egress": {"audit": false}}))["egress"], json!({"audit": false}));
    assert_eq!(merge(&json!({"mode": "block-all"}), &json!({"egress": {"audit": true}})), base);
}

/// Prefixes from few bits, so that they meet.
fn any_prefix() -> impl Strategy<Value = Prefix> {
    (any::<bool>(), 0u8..=255, 0u8..=255, 0u8..=24).prop_map(|(v6, a, b, len)| {
        if v6 {
            Prefix::new(IpAddr::from([u16::from_be_bytes([a, b]) & 0xe1ff, 0, 0, 0, 0, 0, 0, 1]), len)
        } else {
            Prefix::new(IpAddr::from([a & 0xcb, b & 0x83, 0, 1]), len)
        }
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let range = (prop::option::of(any::<bool>()), 1u16..6, 0u16..4).prop_map(|(tcp, first, more)| PortRange {
        proto: tcp.map(|tcp| if tcp { Protocol::Tcp } else { Protocol::Udp }),
        first,
        last: first + more,
    });
    (any::<bool>(), prop::collection::vec(any_prefix(), 0..4), prop::collection::vec(range, 0..3), any::<bool>(), any::<bool>()).prop_map(
        |(allow, cidrs, ports, named, app)| Rule {
            label: "r".into(),
            action: if allow { Action::Allow } else { Action::Deny },
            cidrs,
            ports,
            domains: named.then(|| Domain::Exact("a.test".into())).into_iter().collect(),
            apps: if app { vec![AppMatch::App(App::Http)] } else { vec![] },
        },
    )
}

proptest! {
    /// The routes never refuse what the judge allows, and the judge allows nothing that they refuse.
    #[test]
    fn routes_agree_with_the_judge(
        rules in prop::collection::vec(any_rule(), 0..5),
        block in any::<bool>(),
        audit in any::<bool>(),
        allow in prop::collection::vec(any_prefix(), 0..3),
        hosts in prop::collection::vec(any_prefix(), 0..3),
        probes in prop::collection::vec(any_prefix(), 1..20),
    ) {
        let policy = Policy { rules, audit, ..Policy::of_mode(if block { Mode::BlockAll } else { Mode::AllowAll }) };
        let hosts: Vec<IpAddr> = hosts.iter().map(Prefix::addr).collect();
        let protected = Protected::new(allow.clone(), &hosts, true);
        let routes = routes(&policy, &protected);
        let probes = probes.iter().map(Prefix::addr).chain(hosts.iter().copied()).chain(allow.iter().map(Prefix::addr));
        for addr in probes {
            let longest = |list: &[Prefix]| list.iter().filter(|p| p.contains(addr)).map(Prefix::len).max();
            let refused = routes.closed || match (longest(&routes.prohibited), longest(&routes.allowed)) {
                (Some(no), Some(yes)) => no > yes,
                (Some(_), None) => true,
                (None, _) => false,
            };
            for port in 0..12 {
                let verdict = verdict(&policy, &protected, Flow { addr, port, proto: Protocol::Tcp });
                prop_assert!(!(refused && verdict.allow), "{addr}:{port} {verdict:?} {routes:?}");
                if protected.reason(addr).is_some() {
                    prop_assert!(!verdict.allow, "{addr}:{port} is protected: {verdict:?}");
                }
            }
            prop_assert!(!(audit && refused), "{addr} is refused where nobody sees it: {routes:?}");
            if !audit && protected.reason(addr).is_some() {
                prop_assert!(refused, "{addr} is protected but its route is open: {routes:?}");
            }
        }
    }

    #[test]
    fn prefixes_round_trip(prefix in any_prefix()) {
        prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
        prop_assert!(prefix.contains(prefix.addr()));
    }

    #[test]
    fn compile_never_panics(text in "[0-9a-f:./*,a-z -]{0,40}", port in any::<i64>()) {
        let _ = compile_value(&json!({"mode": "block-all", "egress": {"trafficRules": [
            {"action": "allow", "cidrs": [text], "domains": [text], "ports": [{"port": port, "endPort": port}]}]}}));
    }
}

#[test]
fn the_server_reaches_loopback_when_the_machine_is_open() {
    let own: IpAddr = "198.19.0.7".parse().expect("an address");
    let allow = |text: &str| vec![text.parse::<Prefix>().expect("a prefix")];
    let table = [
        // Nothing allowed, something else allowed, the machine allowed.
        (Vec::new(), false),
        (allow("10.0.0.0/8"), false),
        (allow("198.19.0.7/32"), true),
        (allow("198.18.0.0/15"), true),
    ];
    for (allow, opens) in table {
        let protected = Protected::new(allow.clone(), &[own], true);
        for addr in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            let addr: IpAddr = addr.parse().expect("an address");
            assert_eq!(protected.reason_for_server(addr).is_none(), opens, "{addr} with {allow:?}");
            assert!(protected.reason(addr).is_some(), "{addr} from inside");
        }
        for addr in ["169.254.169.254", "192.168.1.1", "0.0.0.0", "::", "fd00::1", "64:ff9b::7f00:1"] {
            assert!(protected.reason_for_server(addr.parse().expect("an address")).is_some(), "{addr} with {allow:?}");
        }
        assert!(protected.reason_for_server("1.1.1.1".parse().expect("an address")).is_none());
    }
    let explicit = Protected::new(allow("127.0.0.1/32"), &[own], true);
    assert!(explicit.reason_for_server("127.0.0.1".parse().expect("an address")).is_none());
}
