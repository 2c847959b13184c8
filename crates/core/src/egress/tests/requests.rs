//! What requests may ask for, and which secret they get.
use super::*;

fn decide<'p>(policy: &'p Policy, name: &str, method: &str, target: &str, headers: &[(&str, &str)], tls: bool) -> RequestOutcome<'p> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let said = Said::Bytes { app: Some(if tls { App::Tls } else { App::Http }), name: Claim::Name { name, belongs: true } };
    let seen = Seen { flow: tcp("93.184.216.34", if tls { 443 } else { 80 }), names: &[], said };
    policy.judge_request(&Protected::new(vec![], &[], true), &seen, &Request { tls, method, path, query, headers })
}

fn is_allowed(outcome: &RequestOutcome<'_>) -> bool {
    matches!(outcome, RequestOutcome::Allow { .. })
}

#[test]
fn methods_and_paths() {
    let policy = policy(json!({"egress": {"protocolRules": [
        {"name": "read", "protocol": "http", "domains": ["api.test"], "http": {"methods": {"allowed": ["get", "HEAD", "POST"], "denied": ["POST"]},
            "paths": {"allowed": ["/v1/me"], "allowedPrefixes": ["/v1/repos", "/open/"], "denied": ["/v1/repos/secret"], "deniedPrefixes": ["/v1/repos/x"]}}},
    ]}}));
    let table = [
        ("GET", "/v1/me", true),
        ("GET", "/v1/me/", true),
        ("GET", "/v1/me?x=/other", true),
        ("HEAD", "/v1/repos", true),
        ("GET", "/v1/repos/a/b", true),
        ("GET", "/open/x", true),
        ("GET", "/v1/repos2", false),
        ("GET", "/v1/me/x", false),
        ("GET", "/v1/repos/secret", false),
        ("GET", "/v1/repos/secret/", false),
        ("GET", "/v1/repos/%73ecret", false),
        ("GET", "//v1//repos/secret", false),
        ("GET", "/v1/repos/secret;a=b", false),
        ("GET", "/v1/repos/x/y", false),
        ("GET", "/v1/repos/../admin", false),
        ("GET", "/v1/repos/%2e%2e/admin", false),
        ("GET", "/", false),
        ("GET", "*", false),
        ("POST", "/v1/me", false),
        ("DELETE", "/v1/me", false),
        ("get", "/v1/me", false),
        ("post", "/v1/me", false),
        ("GET", "/v1/repos\\x", false),
        ("GET", "/v1/repos/%00", false),
    ];
    for (method, target, want) in table {
        assert_eq!(is_allowed(&decide(&policy, "api.test", method, target, &[], false)), want, "{method} {target}");
    }
    assert!(is_allowed(&decide(&policy, "other.test", "DELETE", "/", &[], false)));
    let RequestOutcome::Deny(verdict) = decide(&policy, "api.test", "PUT", "/v1/me", &[], false) else { panic!("allowed") };
    assert_eq!(&*verdict.rule, "egress.protocolRules[0] `read` (method PUT)");
}

#[test]
fn a_request_that_names_another_host_is_judged_by_that() {
    let policy = policy(json!({"mode": "block-all", "egress": {"trafficRules": [{"action": "allow", "domains": ["one.test"]}]}}));
    assert!(is_allowed(&decide(&policy, "one.test", "GET", "/", &[], false)));
    assert!(!is_allowed(&decide(&policy, "two.test", "GET", "/", &[], false)));
}

#[test]
fn a_restriction_holds_where_its_path_is_unclear() {
    let policy = policy(json!({"egress": {"protocolRules": [
        {"protocol": "http", "domains": ["a.test"], "httpMatch": {"pathPrefixes": ["/admin"], "methods": ["POST"]}, "http": {"methods": {"denied": ["POST"]}}},
        {"protocol": "mcp", "domains": ["m.test"], "httpMatch": {"paths": ["/mcp"]}, "mcp": {"tools": {"allowed": ["x"]}}}]}}));
    for (method, path, want) in [
        ("POST", "/admin/x", false),
        ("POST", "/./admin/x", false),
        ("post", "/admin", false),
        ("POST", "/x/%2e%2e/admin", false),
        ("POST", "/other", true),
        ("GET", "/admin", true),
    ] {
        assert_eq!(is_allowed(&decide(&policy, "a.test", method, path, &[], false)), want, "{method} {path}");
    }
    for (path, rules) in [("/mcp", 1), ("/./mcp", 1), ("/other", 0)] {
        let RequestOutcome::Allow { mcp, .. } = decide(&policy, "m.test", "POST", path, &[], false) else { panic!("{path} is refused") };
        assert_eq!(mcp.len(), rules, "{path}");
    }
}

fn with_credentials(rules: Value) -> Policy {
    let header = |name: &str| {
        json!({"ref": name, "sourceRef": "source", "projection": {"type": "http_headers",
        "httpHeaders": {"headers": [{"name": "Authorization", "valueTemplate": "Bearer {{ .token }}"}]}}, "cachePolicy": {"ttl": "5m"}})
    };
    policy(json!({"egress": {"credentialRules": rules}, "credentialBindings": [header("a"), header("b"),
        {"ref": "cert", "sourceRef": "c", "projection": {"type": "tls_client_certificate", "tlsClientCertificate": {}}},
        {"ref": "user", "sourceRef": "u", "projection": {"type": "username_password"}}]}))
}

fn credential(outcome: RequestOutcome<'_>) -> Option<String> {
    match outcome {
        RequestOutcome::Allow { credential, .. } => credential.map(|rule| rule.binding.name.clone()),
        RequestOutcome::Deny(verdict) => panic!("{verdict:?}"),
    }
}

#[test]
fn the_credential_of_a_request() {
    let policy = with_credentials(json!([
        {"name": "rest", "credentialRef": "a", "domains": ["*.api.test"], "protocol": "http"},
        {"name": "writes", "credentialRef": "b", "domains": ["api.test"], "protocol": "http",
         "httpMatch": {"methods": ["POST"], "pathPrefixes": ["/w"], "query": [{"name": "k", "values": ["v w"]}], "headers": [{"name": "X-Mode", "present": false}]}},
        {"credentialRef": "a", "domains": ["off.test"], "rollout": "disabled"},
        {"credentialRef": "a", "domains": ["tls.test"], "tlsMode": "terminate-reoriginate"},
    ]));
    let post = |target, headers: &[(&str, &str)]| credential(decide(&policy, "api.test", "POST", target, headers, false));
    assert_eq!(post("/w/x?k=v+w", &[]).as_deref(), Some("b"), "the one with conditions that fit goes first");
    assert_eq!(post("/w/x?k=v%20w&k=1", &[]).as_deref(), Some("b"));
    assert_eq!(post("/w/x?k=v", &[]).as_deref(), Some("a"));
    assert_eq!(post("/w/x?k=v+w", &[("x-mode", "1")]).as_deref(), Some("a"));
    assert_eq!(post("/x?k=v+w", &[]).as_deref(), Some("a"));
    assert_eq!(credential(decide(&policy, "sub.api.test", "GET", "/", &[], false)).as_deref(), Some("a"));
    assert_eq!(credential(decide(&policy, "other.test", "GET", "/", &[], false)), None);
    assert_eq!(credential(decide(&policy, "api.test", "GET", "/", &[], true)), None, "for plain HTTP only");
    assert_eq!(credential(decide(&policy, "off.test", "GET", "/", &[], false)), None);
    assert_eq!(credential(decide(&policy, "tls.test", "GET", "/", &[], true)).as_deref(), Some("a"));
    assert_eq!(credential(decide(&policy, "tls.test", "GET", "/", &[], false)), None, "not in the clear");
    assert_eq!(policy.source_refs().collect::<std::collections::BTreeSet<_>>(), ["source"].into());
}

#[test]
fn a_secret_goes_only_where_the_name_is_sure() {
    let policy = with_credentials(json!([{"credentialRef": "a", "domains": ["api.test"], "tlsMode": "terminate-reoriginate"}]));
    let protected = Protected::new(vec![], &[], true);
    let request = Request { tls: true, method: "GET", path: "/", query: None, headers: &[] };
    let told = ["api.test".into()];
    for name in [Claim::Absent, Claim::Hidden, Claim::Later, Claim::Name { name: "api.test", belongs: false }, Claim::Name { name: "xapi.test", belongs: true }]
    {
        let seen = Seen { flow: tcp("1.1.1.1", 443), names: &told, said: Said::Bytes { app: Some(App::Tls), name } };
        assert!(!matches!(policy.judge_request(&protected, &seen, &request), RequestOutcome::Allow { credential: Some(_), .. }), "{name:?}");
    }
}

#[test]
fn credentials_of_connections() {
    let policy = with_credentials(json!([
        {"credentialRef": "cert", "domains": ["db.test"], "protocol": "tls", "tlsMode": "terminate-reoriginate", "ports": [{"port": 443}]},
        {"credentialRef": "user", "domains": ["db.test"], "protocol": "redis", "ports": [{"port": 443}]},
        {"credentialRef": "user", "domains": ["db.test"], "protocol": "mqtt"},
    ]));
    let told = [Arc::from("db.test")];
    let seen = |app, name| Seen { flow: tcp("1.1.1.1", 443), names: &told, said: Said::Bytes { app: Some(app), name } };
    let protected = Protected::new(vec![], &[], true);
    let tls = seen(App::Tls, Claim::Name { name: "db.test", belongs: true });
    assert!(matches!(judge(&policy, &protected, &tls), Outcome::Decided { handling: Handling::Terminate { http: false }, .. }));
    assert!(policy.certificate_for(&tls).is_some());
    let redis = seen(App::Redis, Claim::Absent);
    assert!(matches!(judge(&policy, &protected, &redis), Outcome::Decided { handling: Handling::Login(App::Redis), .. }));
    assert!(policy.login_for(&redis, App::Redis).is_some());
    let at = |port| Seen { flow: tcp("1.1.1.1", port), said: Said::Bytes { app: Some(App::Mqtt), name: Claim::Absent }, ..redis };
    assert!(policy.login_for(&at(1883), App::Mqtt).is_some() && policy.login_for(&at(443), App::Mqtt).is_none(), "without ports: the usual one");
    assert!(policy.login_for(&Seen { names: &[], ..redis }, App::Redis).is_none(), "nobody asked for this address by its name");
}

#[test]
fn a_part_may_use_bindings_of_its_template() {
    let part = json!({"egress": {"credentialRules": [{"name": "h", "credentialRef": "there", "domains": ["a.test"], "rollout": "disabled"}]}});
    assert_eq!(check_part(&part), []);
    assert_eq!(compile_value(&part).unwrap_err()[0].path, "egress.credentialRules[0].credentialRef");
    assert_eq!(check_part(&json!({"mode": "open"}))[0].path, "mode");
}

#[test]
fn what_is_wrong_with_credentials() {
    let binding = |projection: Value| json!([{"ref": "a", "sourceRef": "s", "projection": projection}]);
    let headers = |name: &str, template: &str| json!({"type": "http_headers", "httpHeaders": {"headers": [{"name": name, "valueTemplate": template}]}});
    let fine = || binding(headers("x-key", "{{ .k }}"));
    let rule = |more: Value| {
        let mut rule = json!({"credentialRef": "a", "domains": ["a.test"]});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([rule])
    };
    let table = [
        (fine(), rule(json!({"domains": []})), "egress.credentialRules[0].domains"),
        (fine(), rule(json!({"credentialRef": "b"})), "egress.credentialRules[0].credentialRef"),
        (fine(), rule(json!({"protocol": "https"})), "egress.credentialRules[0].tlsMode"),
        (fine(), rule(json!({"protocol": "redis"})), "egress.credentialRules[0].protocol"),
        (fine(), rule(json!({"failurePolicy": "open"})), "egress.credentialRules[0].failurePolicy"),
        (fine(), rule(json!({"ports": [{"port": 1, "protocol": "udp"}]})), "egress.credentialRules[0].ports[0].protocol"),
        (fine(), rule(json!({"httpMatch": {"path": ["/"]}})), "egress.credentialRules[0].httpMatch.path"),
        (binding(headers("Host", "x")), json!([]), "credentialBindings[0].projection.httpHeaders.headers[0].name"),
        (binding(headers("x", "{{ range }}")), json!([]), "credentialBindings[0].projection.httpHeaders.headers[0].valueTemplate"),
        (binding(json!({"type": "http_headers"})), json!([]), "credentialBindings[0].projection.httpHeaders"),
        (binding(json!({"type": "magic"})), json!([]), "credentialBindings[0].projection.type"),
        (binding(json!({"type": "username_password", "sshProxy": {}})), json!([]), "credentialBindings[0].projection.sshProxy"),
        (
            binding(json!({"type": "ssh_proxy", "sshProxy": {"upstreamUsername": "git", "sandboxPublicKeys": ["k"]}})),
            json!([]),
            "credentialBindings[0].projection.sshProxy.knownHosts",
        ),
        (
            binding(
                json!({"type": "placeholder_substitution", "placeholderSubstitution": {"replacements": [{"placeholder": "abc", "valueTemplate": "x", "locations": ["body"]}]}}),
            ),
            json!([]),
            "credentialBindings[0].projection.placeholderSubstitution.replacements[0].placeholder",
        ),
        (json!([{"ref": "a", "sourceRef": "", "projection": {"type": "username_password"}}]), json!([]), "credentialBindings[0].sourceRef"),
        (
            json!([{"ref": "a", "sourceRef": "s", "projection": {"type": "username_password"}, "cachePolicy": {"ttl": "soon"}}]),
            json!([]),
            "credentialBindings[0].cachePolicy.ttl",
        ),
    ];
    for (bindings, rules, path) in table {
        let policy = json!({"egress": {"credentialRules": rules}, "credentialBindings": bindings});
        let errors = compile_value(&policy).unwrap_err();
        assert_eq!(errors[0].path, path, "{policy}: {errors:?}");
    }
}
