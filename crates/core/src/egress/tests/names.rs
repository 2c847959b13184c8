//! What names decide, told and claimed.
use super::*;

const HERE: &str = "93.184.216.34";

fn said(app: Option<App>, name: Claim<'_>) -> Said<'_> {
    Said::Bytes { app, name }
}

fn own(name: &str) -> Claim<'_> {
    Claim::Name { name, belongs: true }
}

fn foreign(name: &str) -> Claim<'_> {
    Claim::Name { name, belongs: false }
}

fn outcome(policy: &Policy, told: &[&str], port: u16, said: Said<'_>) -> Outcome {
    let names: Vec<Arc<str>> = told.iter().map(|name| (*name).into()).collect();
    judge(policy, &Protected::new(vec![], &[], true), &Seen { flow: tcp(HERE, port), names: &names, said })
}

fn allowed(policy: &Policy, told: &[&str], said: Said<'_>) -> bool {
    outcome(policy, told, 443, said).is_allowed()
}

#[test]
fn an_allowed_name_has_to_be_the_addresss_own() {
    let policy = policy(json!({"mode": "block-all", "egress": {"trafficRules": [{"action": "allow", "domains": ["*.good.test"]}]}}));
    use App::{Http, Ssh, Tls};
    let (good, cdn) = (["good.test"], ["good.test", "evil.test"]);
    let table: &[(&[&str], Option<App>, Claim<'_>, bool)] = &[
        (&good, Some(Tls), own("good.test"), true),
        (&[], Some(Tls), own("a.good.test"), true),
        (&[], Some(Http), own("good.test"), true),
        // Spoofed: the address is somebody else's.
        (&[], Some(Tls), foreign("good.test"), false),
        (&good, Some(Http), foreign("good.test"), false),
        // On a shared address, another of its names.
        (&cdn, Some(Tls), own("evil.test"), false),
        (&cdn, Some(Http), own("xgood.test"), false),
        // Left out, or hidden, where one could be said.
        (&good, Some(Tls), Claim::Absent, false),
        (&good, Some(Http), Claim::Absent, false),
        (&good, Some(Tls), Claim::Hidden, false),
        // Protocols without a place for it live by what the sandbox was told.
        (&good, Some(Ssh), Claim::Absent, true),
        (&good, None, Claim::Absent, true),
        (&[], Some(Ssh), Claim::Absent, false),
        (&["evil.test"], None, Claim::Absent, false),
    ];
    for (told, app, claim, want) in table {
        assert_eq!(allowed(&policy, told, said(*app, *claim)), *want, "told {told:?}, {app:?} to {claim:?}");
    }
    assert_eq!(outcome(&policy, &good, 5432, Said::Nothing), Outcome::Listen { silent: Verdict { allow: true, rule: "egress.trafficRules[0]".into() } });
    assert_eq!(outcome(&policy, &[], 5432, Said::Nothing), Outcome::Listen { silent: Verdict::deny("mode block-all") });
}

#[test]
fn a_denied_name_is_denied_where_it_could_be() {
    let policy = policy(json!({"egress": {"trafficRules": [{"action": "deny", "domains": ["evil.test"]}]}}));
    use App::{Http, Tls};
    let table: &[(&[&str], Option<App>, Claim<'_>, bool)] = &[
        (&["fine.test"], Some(Tls), own("fine.test"), true),
        (&[], Some(Http), own("fine.test"), true),
        (&["fine.test"], None, Claim::Absent, true),
        // Left out, or a lie: whoever lives at the address could be meant.
        (&["fine.test"], Some(Http), Claim::Absent, false),
        (&["fine.test"], Some(Tls), Claim::Absent, false),
        (&["fine.test"], Some(Tls), foreign("other.test"), false),
        (&["fine.test"], Some(Tls), own("evil.test"), false),
        (&["fine.test"], Some(Http), foreign("evil.test"), false),
        (&["fine.test"], Some(Tls), Claim::Hidden, false),
        // Nobody asked for this address by name: it may be anybody's.
        (&[], None, Claim::Absent, false),
        (&[], Some(Tls), Claim::Absent, false),
        (&[], Some(Tls), foreign("fine.test"), false),
        (&["evil.test"], None, Claim::Absent, false),
    ];
    for (told, app, claim, want) in table {
        assert_eq!(allowed(&policy, told, said(*app, *claim)), *want, "told {told:?}, {app:?} to {claim:?}");
    }
}

#[test]
fn rules_by_address_never_wait() {
    let policy = policy(json!({"mode": "block-all", "egress": {"trafficRules": [
        {"action": "allow", "domains": ["good.test"]}, {"action": "allow", "cidrs": ["93.184.0.0/16"], "ports": [{"port": 5432}]}]}}));
    assert!(outcome(&policy, &[], 5432, Said::Nothing).is_allowed(), "whatever the first rule says, it is allowed");
    assert!(matches!(outcome(&policy, &[], 443, Said::Nothing), Outcome::Listen { .. }));
    for mode in [Policy::allow_all(), Policy::block_all()] {
        assert!(matches!(outcome(&mode, &[], 443, Said::Nothing), Outcome::Decided { .. }));
    }
}

#[test]
fn protocols_are_told_apart() {
    let policy = policy(json!({"mode": "block-all", "egress": {"trafficRules": [
        {"action": "deny", "appProtocols": ["ssh"], "ports": [{"port": 443}]},
        {"action": "allow", "appProtocols": ["tls", "ssh", "dns"]}, {"action": "allow", "appProtocols": ["udp"], "ports": [{"port": 9}]}]}}));
    let table = [(Some(App::Tls), 443, true), (Some(App::Ssh), 443, false), (Some(App::Ssh), 22, true), (Some(App::Http), 80, false), (None, 80, false)];
    for (app, port, want) in table {
        assert_eq!(outcome(&policy, &[], port, said(app, Claim::Absent)).is_allowed(), want, "{app:?} at {port}");
    }
    let none = Protected::new(vec![], &[], true);
    let udp = |port, said| judge(&policy, &none, &Seen { flow: Flow { proto: Protocol::Udp, ..tcp(HERE, port) }, names: &[], said }).is_allowed();
    assert!(udp(9, Said::Nothing) && !udp(10, said(None, Claim::Absent)) && udp(53, said(Some(App::Dns), Claim::Absent)));
    assert!(!outcome(&policy, &[], 9, said(None, Claim::Absent)).is_allowed(), "udp is not tcp");
}

#[test]
fn what_is_looked_into() {
    let http = json!({"methods": {"allowed": ["GET"]}});
    let policy_of = |rule: Value| policy(json!({"egress": {"protocolRules": [rule]}}));
    let placed = policy_of(json!({"protocol": "http", "domains": ["api.test"], "http": http}));
    let handling = |policy: &Policy, app, claim| match outcome(policy, &["api.test"], 443, said(app, claim)) {
        Outcome::Decided { verdict, handling } => verdict.allow.then_some(handling),
        Outcome::Listen { .. } => None,
    };
    assert!(matches!(outcome(&placed, &[], 443, Said::Nothing), Outcome::Listen { .. }));
    assert_eq!(handling(&placed, Some(App::Http), own("api.test")), Some(Handling::Http));
    assert_eq!(handling(&placed, Some(App::Http), own("other.test")), Some(Handling::Http), "the next request may name this place");
    assert_eq!(handling(&placed, Some(App::Http), Claim::Later), Some(Handling::Http));
    assert_eq!(handling(&placed, Some(App::Tls), own("api.test")), None, "TLS would go by unseen");
    assert_eq!(handling(&placed, Some(App::Tls), Claim::Hidden), None);
    assert_eq!(handling(&placed, None, Claim::Absent), None, "no HTTP");
    assert_eq!(handling(&placed, Some(App::Tls), own("other.test")), Some(Handling::Pass));
    let seen = policy_of(json!({"protocol": "http", "domains": ["api.test"], "http": http, "tlsMode": "terminate-reoriginate"}));
    assert_eq!(handling(&seen, Some(App::Tls), own("api.test")), Some(Handling::Terminate { http: true }));
    assert!(seen.needs_trust() && !placed.needs_trust());
    let unseen = policy_of(json!({"protocol": "http", "domains": ["api.test"], "http": http, "tlsMode": "passthrough"}));
    assert_eq!(handling(&unseen, Some(App::Tls), own("api.test")), Some(Handling::Pass));
    let anywhere = policy_of(json!({"protocol": "http", "http": http}));
    assert_eq!(handling(&anywhere, Some(App::Redis), Claim::Absent), Some(Handling::Pass), "the rule is about HTTP wherever it is");
    assert_eq!(handling(&anywhere, Some(App::Tls), own("x.test")), None);
    let names = policy(json!({"mode": "block-all", "egress": {"trafficRules": [{"action": "allow", "domains": ["api.test"]}]}}));
    assert_eq!(handling(&names, Some(App::Http), own("api.test")), Some(Handling::Http), "the next request may name another");
    assert_eq!(handling(&names, Some(App::Tls), own("api.test")), Some(Handling::Pass));
}

#[test]
fn nothing_goes_around_the_proxy() {
    let policy = policy(json!({"egress": {"proxy": {"type": "socks5", "address": "p.test:1080"}}}));
    let none = Protected::new(vec![], &[], true);
    let seen = |proto| Seen { flow: Flow { proto, ..tcp(HERE, 53) }, names: &[], said: Said::Nothing };
    assert!(judge(&policy, &none, &seen(Protocol::Tcp)).is_allowed() && !judge(&policy, &none, &seen(Protocol::Udp)).is_allowed());
    assert!(!routes(&policy, &none).udp && routes(&Policy::allow_all(), &none).udp && !routes(&Policy::block_all(), &none).udp);
    assert_eq!(policy.proxy().map(|proxy| (proxy.host.as_str(), proxy.port)), Some(("p.test", 1080)));
}

#[test]
fn names_are_compared_in_one_form() {
    let table = [
        ("Example.COM.", Some("example.com")),
        ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
        ("_srv.a-b.test", Some("_srv.a-b.test")),
        ("a..b", None),
        ("", None),
        (".", None),
        ("bücher.example", None),
        // Addresses in every spelling that a resolver may take for one.
        ("10.0.0.1", None),
        ("2130706433", None),
        ("0x7f000001", None),
        ("127.1", None),
        ("017700000001", None),
        ("a b", None),
        ("a\0.b", None),
    ];
    for (text, want) in table {
        assert_eq!(normal_name(text).as_deref(), want, "{text:?}");
    }
    let table = [
        ("example.com", Some((Ok("example.com"), None))),
        ("EXAMPLE.com.:8080", Some((Ok("example.com"), Some(8080)))),
        ("[::1]:80", Some((Err("::1"), Some(80)))),
        ("[::ffff:1.2.3.4]", Some((Err("1.2.3.4"), None))),
        ("1.2.3.4:", Some((Err("1.2.3.4"), None))),
        ("::1", None),
        ("a:b", None),
        ("a:99999", None),
        ("[::1", None),
        ("[example.com]", None),
        ("user@example.com", None),
    ];
    for (text, want) in table {
        let want = want.map(|(host, port): (Result<&str, &str>, _)| (host.map(str::to_owned).map_err(|addr| addr.parse().unwrap()), port));
        assert_eq!(host_of_authority(text), want, "{text:?}");
    }
}

fn any_claim() -> impl Strategy<Value = (u8, bool)> {
    (0u8..5, any::<bool>())
}

proptest! {
    /// What is not allowed with all that could be said is not allowed without a look; and a decision without a look
    /// holds for all that could be said.
    #[test]
    fn a_decision_without_a_look_holds(
        rules in prop::collection::vec(super::any_rule(), 0..5),
        block in any::<bool>(),
        told in prop::sample::select(vec![vec![], vec!["a.test"], vec!["b.test"], vec!["a.test", "b.test"]]),
        (claim, belongs) in any_claim(),
        app in prop::sample::select(vec![None, Some(App::Http), Some(App::Tls), Some(App::Ssh)]),
        addr in super::any_prefix(),
        port in 0u16..12,
    ) {
        let mode = if block { Mode::BlockAll } else { Mode::AllowAll };
        let policy = Policy { rules, ..Policy::of_mode(mode) };
        let names: Vec<Arc<str>> = told.iter().map(|name| (*name).into()).collect();
        let protected = Protected::new(vec![], &[], true);
        let flow = Flow { addr: addr.addr(), port, proto: Protocol::Tcp };
        let claim = match claim {
            0 => Claim::Absent,
            1 => Claim::Hidden,
            2 => Claim::Later,
            3 => Claim::Name { name: "a.test", belongs },
            _ => Claim::Name { name: "b.test", belongs },
        };
        let blind = judge(&policy, &protected, &Seen { flow, names: &names, said: Said::Nothing });
        let told = judge(&policy, &protected, &Seen { flow, names: &names, said: said(app, claim) });
        if let Outcome::Decided { verdict, .. } = blind {
            prop_assert_eq!(verdict.allow, told.is_allowed());
        }
        prop_assert!(matches!(told, Outcome::Decided { .. }), "bytes decide");
    }
}

/// What a change of policy takes at its longest: by hand, with `--nocapture`.
#[test]
fn the_largest_policy_is_judged_soon() {
    let rule = |number: usize| json!({"action": "deny", "domains": (0..1024).map(|n| format!("n{n}.r{number}.test")).collect::<Vec<_>>()});
    let policy = policy(json!({"mode": "allow-all", "egress": {"trafficRules": (0..256).map(rule).collect::<Vec<_>>()}}));
    let started = std::time::Instant::now();
    for number in 0..1024 {
        let name = format!("www.n{number}.test");
        assert!(allowed(&policy, &[&name], said(Some(App::Tls), own(&name))));
    }
    eprintln!("1024 flows took {:?}", started.elapsed());
    assert!(!allowed(&policy, &[], said(Some(App::Tls), own("n7.r255.test"))));
}
