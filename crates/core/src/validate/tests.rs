use super::*;
use proptest::prelude::*;
use serde_json::json;

fn config(value: Value) -> SandboxConfig {
    serde_json::from_value(value).expect("config parses")
}

fn paths<T: std::fmt::Debug>(result: Result<T, Vec<Violation>>) -> Vec<String> {
    result.expect_err("refused").into_iter().map(|v| v.path).collect()
}

fn claimed(value: Value) -> Result<SandboxConfig, Vec<Violation>> {
    claim(Some(&config(value)))
}

/// A service with one field changed by a JSON pointer; null removes it.
fn service(changes: &[(&str, Value)]) -> Value {
    let mut service = json!({"id": "api", "port": 8080, "runtime": {"type": "cmd", "command": ["python3", "-m", "http.server"]}, "ingress": {"public": true, "routes": [{"id": "r", "path_prefix": "/", "resume": true}]}});
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let parent = service.pointer_mut(parent).and_then(Value::as_object_mut).expect("a parent");
        if value.is_null() {
            parent.remove(key);
        } else {
            parent.insert(key.to_owned(), value.clone());
        }
    }
    service
}

#[test]
fn claims_that_are_good() {
    for value in [
        json!({}),
        json!({"ttl": 0, "hard_ttl": 0}),
        json!({"hard_ttl": 300}),
        json!({"ttl": 300}),
        json!({"ttl": 300, "hard_ttl": 300}),
        json!({"ttl": 400, "hard_ttl": 0}),
        json!({"ttl": i32::MAX}),
        json!({"webhook": {"url": "https://[::1]:8080/x?y#z", "secret": "s", "watch_dir": "/workspace"}}),
        json!({"resources": {"memory": "32Mi", "cpu": "500m", "ephemeralStorage": "1Gi"}}),
        json!({"network": {"mode": "block-all"}, "services": []}),
        json!({"auto_resume": false, "services": [service(&[("/ingress/routes/0/resume", json!(false))])]}),
    ] {
        assert!(claimed(value.clone()).is_ok(), "{value}");
    }
    for unset in [json!({}), json!({"url": ""}), json!({"url": " ", "secret": "", "watch_dir": ""})] {
        assert_eq!(claimed(json!({"webhook": unset})).expect("good").webhook, None, "an SDK's way to set none");
    }
    assert_eq!(claim(None), Ok(SandboxConfig::default()));
}

#[test]
fn claims_that_are_refused_name_the_field() {
    for (value, path) in [
        (json!({"ttl": -1}), "config.ttl"),
        (json!({"hard_ttl": -5}), "config.hard_ttl"),
        (json!({"ttl": 100, "hard_ttl": 50}), "config.ttl"),
        (json!({"env_vars": {"A": "a\u{0}"}}), "config.env_vars.A"),
        (json!({"env_vars": {"A": "x".repeat(limits::ENV_VALUE_MAX_BYTES + 1)}}), "config.env_vars.A"),
        (json!({"webhook": {"url": "ftp://x"}}), "config.webhook.url"),
        (json!({"webhook": {"secret": "s"}}), "config.webhook.url"),
        (json!({"webhook": {"url": "http://"}}), "config.webhook.url"),
        (json!({"webhook": {"url": "http://:80"}}), "config.webhook.url"),
        (json!({"webhook": {"url": "http://x:port"}}), "config.webhook.url"),
        (json!({"webhook": {"url": "http://a b"}}), "config.webhook.url"),
        (json!({"webhook": {"url": "http://user:password@x"}}), "config.webhook.url"),
        (json!({"webhook": {"url": format!("http://x/{}", "x".repeat(limits::URL_MAX_BYTES))}}), "config.webhook.url"),
        (json!({"webhook": {"url": "http://x", "secret": "x".repeat(limits::WEBHOOK_SECRET_MAX_BYTES + 1)}}), "config.webhook.secret"),
        (json!({"webhook": {"url": "http://x", "watch_dir": "rel"}}), "config.webhook.watch_dir"),
        (json!({"resources": {"memory": "1Mi"}}), "config.resources.memory"),
        (json!({"resources": {"memory": "257Gi"}}), "config.resources.memory"),
        (json!({"resources": {"memory": "lots"}}), "config.resources.memory"),
        (json!({"resources": {"cpu": "-1"}}), "config.resources.cpu"),
        (json!({"network": {"mode": "maybe"}}), "config.network.mode"),
        (json!({"network": []}), "config.network"),
        (json!({"services": {}}), "config.services"),
        (json!({"services": [1]}), "config.services[0]"),
        (json!({"auto_resume": false, "services": [service(&[])]}), "config.auto_resume"),
    ] {
        let found = paths(claimed(value.clone()));
        assert_eq!(found, [path], "{value}");
    }
}

#[test]
fn environment_is_trimmed_and_bounded() {
    let kept = claimed(json!({"env_vars": {" A ": "1", "": "x", "  ": "y", "B=C": "z", "D": ""}})).expect("good").env_vars.expect("kept");
    assert_eq!(kept.into_iter().collect::<Vec<_>>(), [("A".to_owned(), "1".to_owned()), ("D".to_owned(), String::new())]);
    let many: BTreeMap<_, _> = (0..=limits::ENV_VARS_MAX).map(|n| (format!("V{n}"), String::new())).collect();
    assert_eq!(paths(env_vars(&many, "e")), ["e"]);
    let large: BTreeMap<_, _> = (0..9).map(|n| (format!("V{n}"), "x".repeat(limits::ENV_VALUE_MAX_BYTES))).collect();
    assert_eq!(paths(env_vars(&large, "e")), ["e"]);
}

#[test]
fn a_webhook_can_be_changed() {
    let stored = claimed(json!({"webhook": {"url": "http://x/", "secret": "s", "watch_dir": "/w"}})).expect("good");
    let apply = |value: Value| update(&stored, &serde_json::from_value::<UpdateConfig>(value).expect("parses"));
    let webhook = |value: Value| apply(json!({ "webhook": value })).expect("good").webhook;
    let of = |url: &str, secret: Option<&str>, watch_dir: Option<&str>| {
        Some(sandbar_api::sandbox::Webhook { url: url.into(), secret: secret.map(str::to_owned), watch_dir: watch_dir.map(str::to_owned) })
    };
    assert_eq!(apply(json!({"ttl": 1})).expect("good").webhook, stored.webhook, "absent");
    assert_eq!(webhook(json!({"url": "https://y/"})), of("https://y/", Some("s"), Some("/w")), "the rest stays");
    assert_eq!(webhook(json!({"secret": "t"})), of("http://x/", Some("t"), Some("/w")));
    assert_eq!(webhook(json!({"secret": null, "watch_dir": "", "url": "http://x/"})), of("http://x/", None, None));
    for alone in [json!({"webhook": null}), json!({"webhook": {}}), json!({"webhook": {"url": ""}})] {
        assert_eq!(apply(alone.clone()).expect("good").webhook, None, "{alone}");
    }
    assert_eq!(apply(json!({"webhook": null, "ttl": 5})).expect("good").webhook, stored.webhook, "beside others it is an SDK's");
    for (value, path) in [
        (json!("http://x"), "config.webhook"),
        (json!({"url": 5}), "config.webhook.url"),
        (json!({"url": "ftp://x"}), "config.webhook.url"),
        (json!({"watch_dir": "rel"}), "config.webhook.watch_dir"),
        (json!({"secret": "x".repeat(limits::WEBHOOK_SECRET_MAX_BYTES + 1)}), "config.webhook.secret"),
    ] {
        assert_eq!(paths(apply(json!({ "webhook": value }))), [path]);
    }
}

#[test]
fn updates() {
    let stored = claimed(json!({"ttl": 300, "hard_ttl": 3600, "services": [service(&[])]})).expect("good");
    let apply = |value: Value| update(&stored, &serde_json::from_value::<UpdateConfig>(value).expect("parses"));
    let next = apply(json!({"ttl": 100, "services": []})).expect("good");
    assert_eq!((next.ttl, next.services.clone()), (Some(100), stored.services.clone()), "an empty list beside others is an SDK's");
    assert_eq!(apply(json!({"services": []})).expect("good").services, Some(json!([])));
    assert_eq!(apply(json!({"env_vars": {}, "webhook": null, "services": null})).expect("good"), stored);
    assert_eq!(paths(apply(json!({"ttl": 4000}))), ["config.ttl"]);
    assert_eq!(paths(apply(json!({"hard_ttl": 200}))), ["config.ttl"]);
    assert_eq!(apply(json!({"hard_ttl": 0, "ttl": 9999})).expect("good").hard_ttl, Some(0));
    assert_eq!(paths(apply(json!({"auto_resume": false}))), ["config.auto_resume"]);
    assert_eq!(paths(apply(json!({"env_vars": {"A": "1"}}))), ["config.env_vars"]);
    let sized = apply(json!({"resources": {"memory": "64Mi"}})).expect("good");
    let sized = update(&sized, &UpdateConfig { resources: Some(Resources { cpu: Some("1".into()), ..Resources::default() }), ..UpdateConfig::default() })
        .expect("good");
    let kept = effective_resources(&TemplateSpec::default(), &sized);
    assert_eq!((kept.memory_bytes, kept.cpu_millis, kept.disk_bytes), (64 << 20, 1000, limits::DISK_DEFAULT_BYTES));
}

#[test]
fn replacing_services() {
    let stored = SandboxConfig { auto_resume: Some(false), ..SandboxConfig::default() };
    assert_eq!(paths(replace_services(&stored, &json!({}))), ["services"]);
    assert_eq!(paths(replace_services(&stored, &json!({"services": null}))), ["services"]);
    assert_eq!(paths(replace_services(&stored, &json!({"services": [service(&[])]}))), ["services"]);
    assert_eq!(replace_services(&stored, &json!({"services": []})).expect("good").services, Some(json!([])));
}

#[test]
fn services_are_normalised() {
    let sent = service(&[
        ("/id", json!(" API ")),
        ("/health_check", json!({"path": "health"})),
        ("/runtime/env_vars", json!({" A ": "1", "B=": "2"})),
        (
            "/ingress/routes",
            json!([{"id": "R1", "path_prefix": "hook", "rewrite_prefix": "", "methods": ["get", "GET", "*"], "resume": false, "timeout_seconds": 5,
            "auth": {"mode": "Header", "bearer_token_sha256": "zz", "header_name": "x-api-key", "header_value_sha256": "AB".repeat(32)},
            "cors": {"allowed_origins": ["HTTPS://Example.com:8443", "https://example.com:8443", "*"], "allowed_headers": ["content-type", "Content-Type"], "allowed_methods": ["put"], "max_age_seconds": 5},
            "rate_limit": {"rps": 1.5, "burst": 3}}]),
        ),
    ]);
    let list = services(&json!([sent]), "services").expect("good");
    let route = json!({"id": "r1", "path_prefix": "/hook", "methods": ["GET", "*"], "resume": false, "timeout_seconds": 5,
        "auth": {"mode": "header", "header_name": "X-Api-Key", "header_value_sha256": "ab".repeat(32)},
        "cors": {"allowed_origins": ["https://example.com:8443", "*"], "allowed_headers": ["Content-Type"], "allowed_methods": ["PUT"], "max_age_seconds": 5},
        "rate_limit": {"rps": 1.5, "burst": 3}});
    let expected = json!([{"id": "api", "port": 8080, "health_check": {"path": "/health"}, "runtime": {"type": "cmd", "command": ["python3", "-m", "http.server"], "env_vars": {"A": "1"}}, "ingress": {"public": true, "routes": [route]}}]);
    assert_eq!(list, expected);
    assert_eq!(services(&list, "services").expect("idempotent"), list);
}

#[test]
fn a_public_service_without_routes_gets_one() {
    let list = services(&json!([service(&[("/ingress/routes", json!(null))]), service(&[("/id", json!("b")), ("/ingress", json!({"public": false}))])]), "s")
        .expect("good");
    assert_eq!(list[0]["ingress"]["routes"], json!([{"id": "api", "path_prefix": "/", "resume": false}]));
    assert_eq!(list[1]["ingress"]["routes"], json!([]));
}

#[test]
fn function_services_have_their_port() {
    let function = json!({"type": "function", "function": {"runtime": "python", "source": {"type": "inline", "code": "def handler(r): pass"}}});
    for port in [json!(null), json!(0), json!(49983)] {
        let list = services(&json!([service(&[("/runtime", function.clone()), ("/port", port.clone())])]), "s").expect("good");
        assert_eq!((&list[0]["port"], &list[0]["runtime"]["function"]["handler"]), (&json!(49983), &json!("handler")), "{port}");
    }
    for (changes, path) in [
        (vec![("/runtime", function.clone())], "s[0].port"),
        (vec![("/port", json!(49983))], "s[0].port"),
        (vec![("/port", json!(null)), ("/runtime", json!({"type": "function"}))], "s[0].runtime.function"),
        (
            vec![("/port", json!(null)), ("/runtime", json!({"type": "function", "function": {"runtime": "ruby", "source": {"type": "inline", "code": "x"}}}))],
            "s[0].runtime.function.runtime",
        ),
        (vec![("/port", json!(null)), ("/runtime", json!({"type": "function", "function": {"runtime": "python"}}))], "s[0].runtime.function.source"),
        (
            vec![
                ("/port", json!(null)),
                (
                    "/runtime",
                    json!({"type": "function", "function": {"runtime": "python", "source": {"type": "inline", "code": "x".repeat(limits::FUNCTION_CODE_MAX_BYTES + 1)}}}),
                ),
            ],
            "s[0].runtime.function.source.code",
        ),
        (
            vec![
                ("/port", json!(null)),
                (
                    "/runtime",
                    json!({"type": "function", "function": {"runtime": "python", "max_concurrency": 1025, "source": {"type": "inline", "code": "x"}}}),
                ),
            ],
            "s[0].runtime.function.max_concurrency",
        ),
    ] {
        assert_eq!(paths(services(&json!([service(&changes)]), "s")), [path], "{changes:?}");
    }
}

#[test]
fn services_that_are_refused_name_the_field() {
    let sha = json!("0".repeat(63));
    let many: Vec<_> = (0..=limits::ROUTES_PER_SERVICE_MAX).map(|n| json!({"id": format!("r{n}"), "resume": false})).collect();
    for (pointer, value, path) in [
        ("/id", json!(null), "s[0].id"),
        ("/id", json!("a_b"), "s[0].id"),
        ("/id", json!("-a"), "s[0].id"),
        ("/id", json!("a".repeat(64)), "s[0].id"),
        ("/port", json!(null), "s[0].port"),
        ("/port", json!(0), "s[0].port"),
        ("/port", json!(65536), "s[0].port"),
        ("/port", json!("80"), "s[0].port"),
        ("/runtime", json!("cmd"), "s[0].runtime"),
        ("/runtime/type", json!(null), "s[0].runtime.type"),
        ("/runtime/type", json!("vm"), "s[0].runtime.type"),
        ("/runtime/command", json!([]), "s[0].runtime.command"),
        ("/runtime/command", json!(null), "s[0].runtime.command"),
        ("/runtime/env_vars", json!({"A": 1}), "s[0].runtime.env_vars"),
        ("/ingress", json!(null), "s[0].ingress"),
        ("/ingress", json!([]), "s[0].ingress"),
        ("/ingress/public", json!(null), "s[0].ingress.public"),
        ("/ingress/public", json!("yes"), "s[0].ingress.public"),
        ("/ingress/routes", json!({}), "s[0].ingress.routes"),
        ("/ingress/routes", json!(many), "s[0].ingress.routes"),
        ("/ingress/routes", json!([{"id": "a", "resume": false}, {"id": "A", "resume": false, "path_prefix": "/a"}]), "s[0].ingress.routes[1].id"),
        ("/ingress/routes", json!([{"resume": false}]), "s[0].ingress.routes[0].id"),
        ("/ingress/routes", json!([{"id": "a"}]), "s[0].ingress.routes[0].resume"),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "auht": {"mode": "none"}}]), "s[0].ingress.routes[0].auht"),
        (
            "/ingress/routes",
            json!([{"id": "a", "resume": true, "rate_limit": {"rps": 1, "burst": 1, "per": "client"}}]),
            "s[0].ingress.routes[0].rate_limit.per",
        ),
        ("/ingres", json!({}), "s[0].ingres"),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "methods": ["a b"]}]), "s[0].ingress.routes[0].methods"),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "methods": vec!["GET"; 17]}]), "s[0].ingress.routes[0].methods"),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "path_prefix": "/a?b"}]), "s[0].ingress.routes[0].path_prefix"),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "path_prefix": "/a/../b"}]), "s[0].ingress.routes[0].path_prefix"),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "path_prefix": "/a%5cb"}]), "s[0].ingress.routes[0].path_prefix"),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "timeout_seconds": -1}]), "s[0].ingress.routes[0].timeout_seconds"),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "auth": {"mode": "basic"}}]), "s[0].ingress.routes[0].auth.mode"),
        (
            "/ingress/routes",
            json!([{"id": "a", "resume": true, "auth": {"mode": "bearer", "bearer_token_sha256": sha}}]),
            "s[0].ingress.routes[0].auth.bearer_token_sha256",
        ),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "auth": {"mode": "bearer"}}]), "s[0].ingress.routes[0].auth.bearer_token_sha256"),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "cors": {"allowed_origins": ["example.com"]}}]), "s[0].ingress.routes[0].cors.allowed_origins"),
        (
            "/ingress/routes",
            json!([{"id": "a", "resume": true, "cors": {"allowed_origins": ["https://example.com/x"]}}]),
            "s[0].ingress.routes[0].cors.allowed_origins",
        ),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "rate_limit": {"rps": 0, "burst": 1}}]), "s[0].ingress.routes[0].rate_limit.rps"),
        ("/ingress/routes", json!([{"id": "a", "resume": true, "rate_limit": {"rps": 1}}]), "s[0].ingress.routes[0].rate_limit.burst"),
    ] {
        assert_eq!(paths(services(&json!([service(&[(pointer, value.clone())])]), "s")), [path], "{pointer} {value}");
    }
    assert_eq!(paths(services(&json!([service(&[]), service(&[("/id", json!("API"))])]), "s")), ["s[1].id"]);
}

#[test]
fn a_route_that_one_with_another_credential_hides_is_refused() {
    let route = |id: &str, prefix: &str, more: &[(&str, Value)]| {
        let mut route = json!({"id": id, "path_prefix": prefix, "resume": true});
        more.iter().for_each(|(key, value)| route[*key] = value.clone());
        route
    };
    let at = |id: &str, port: u16, routes: Value| service(&[("/id", json!(id)), ("/port", json!(port)), ("/ingress/routes", routes)]);
    let locked = [("auth", json!({"mode": "bearer", "bearer_token_sha256": "ab".repeat(32)}))];
    let function = |id: &str| {
        let runtime = json!({"type": "function", "function": {"runtime": "python", "source": {"type": "inline", "code": "x"}}});
        service(&[("/id", json!(id)), ("/port", json!(null)), ("/runtime", runtime)])
    };
    let hidden = "s[0].ingress.routes[1].path_prefix";
    for (list, wrong) in [
        (json!([at("a", 1, json!([route("x", "/", &[]), route("y", "/", &locked)]))]), vec![hidden]),
        (json!([at("a", 1, json!([route("x", "/api", &[]), route("y", "/api/", &locked)]))]), vec![hidden]),
        (json!([at("a", 1, json!([route("x", "/api", &[]), route("y", "//%61pi;v=1", &locked)]))]), vec![hidden]),
        // The method takes no part in the choice.
        (
            json!([at("a", 1, json!([route("x", "/", &[("methods", json!(["GET"])), locked[0].clone()]), route("y", "", &[("methods", json!(["POST"]))])]))]),
            vec![hidden],
        ),
        // Where both ask for the same, the first is taken, and no door stands open.
        (json!([at("a", 1, json!([route("x", "/", &[]), route("y", "/", &[])]))]), vec![]),
        (json!([at("a", 1, json!([route("x", "/api", &[]), route("y", "/API", &[]), route("z", "/api/v1", &[])]))]), vec![]),
        // Services of one port.
        (json!([at("a", 1, json!([route("x", "/", &[])])), at("b", 1, json!([route("x", "/", &locked)]))]), vec!["s[1].ingress.routes[0].path_prefix"]),
        (json!([at("a", 1, json!([route("x", "/", &locked)])), at("b", 1, json!([route("x", "/", &[])]))]), vec!["s[1].ingress.routes[0].path_prefix"]),
        (json!([at("a", 1, json!([route("x", "/", &locked)])), at("b", 1, json!([route("x", "/", &locked)]))]), vec![]),
        (json!([at("a", 1, json!(null)), at("b", 1, json!([route("x", "/", &[("auth", json!({"mode": "none"}))])]))]), vec![]),
        (json!([at("a", 1, json!([route("x", "/", &[])])), at("b", 1, json!([route("x", "/b", &[])]))]), vec![]),
        (json!([at("a", 1, json!([route("x", "/", &[])])), at("b", 2, json!([route("x", "/", &[])]))]), vec![]),
        // Nobody but the owner comes to it.
        (json!([at("a", 1, json!(null)), service(&[("/id", json!("b")), ("/port", json!(1)), ("/ingress", json!({"public": false}))])]), vec![]),
        // Functions are published one by one.
        (json!([function("a"), function("b")]), vec![]),
    ] {
        let found = services(&list, "s").err().unwrap_or_default();
        assert_eq!(found.iter().map(|violation| violation.path.as_str()).collect::<Vec<_>>(), wrong, "{list} {found:?}");
    }
}

#[test]
fn blockers_in_order() {
    for (changes, blockers) in [
        (vec![], vec![]),
        (vec![("/ingress", json!({"public": false}))], vec!["not_public"]),
        (vec![("/ingress", json!({"public": false})), ("/runtime", json!(null))], vec!["not_public", "missing_runtime"]),
        (vec![("/runtime", json!({"type": "manual"}))], vec!["manual_runtime"]),
        (vec![("/runtime", json!({"type": ""}))], vec!["manual_runtime"]),
        (vec![("/runtime", json!({"type": "warm_process"}))], vec!["missing_warm_process_name"]),
        (vec![("/runtime", json!({"type": "warm_process", "warm_process_name": "w"}))], vec![]),
    ] {
        let list = services(&json!([service(&changes)]), "s").expect("good");
        assert_eq!(publish_blockers(&list[0]), blockers, "{changes:?}");
    }
}

#[test]
fn templates() {
    let spec = |value: Value| serde_json::from_value::<TemplateSpec>(value).expect("parses");
    assert_eq!(template(&spec(json!({"mainContainer": {"image": "host", "resources": {"memory": "1Gi"}}, "pool": {"minIdle": 2, "maxIdle": 4}}))), []);
    let wrong =
        template(&spec(json!({"mainContainer": {"image": " ", "resources": {"memory": "1"}}, "pool": {"minIdle": 5, "maxIdle": 4}, "network": {"mode": "x"}})));
    let found: Vec<_> = wrong.iter().map(|v| v.path.as_str()).collect();
    assert_eq!(found, ["spec.mainContainer.image", "spec.mainContainer.resources.memory", "spec.network.mode", "spec.pool.minIdle"]);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from)
    ];
    let keys = prop::sample::select(vec![
        "id",
        "port",
        "runtime",
        "type",
        "command",
        "env_vars",
        "function",
        "source",
        "code",
        "ingress",
        "public",
        "routes",
        "resume",
        "path_prefix",
        "methods",
        "auth",
        "mode",
        "cors",
        "allowed_origins",
        "rate_limit",
        "rps",
        "burst",
        "health_check",
    ]);
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..6).prop_map(|map| json!(map))
        ]
    })
}

proptest! {
    /// Nothing that a client can send panics, what is taken is taken again unchanged, and blockers can be asked of it.
    #[test]
    fn services_never_panic_and_settle(value in any_json()) {
        if let Ok(list) = services(&json!([value]), "s") {
            prop_assert_eq!(services(&list, "s").expect("settled"), list.clone());
            publish_blockers(&list[0]);
        }
    }

    #[test]
    fn urls_never_panic(url in "(https?://)?[\\[\\]@:/?#a-z0-9. ]{0,24}") {
        let _ = webhook::http_url(&url);
    }
}

#[test]
fn mounts_of_a_template() {
    use sandbar_api::template::{EphemeralMount, VolumeMount};
    let volume = |path: &str| VolumeMount { name: "v".into(), mount_path: path.into(), read_only: false };
    let memory = |path: &str, size: &str| EphemeralMount { mount_path: path.into(), size_limit: size.into() };
    let check = |volumes: Vec<VolumeMount>, in_memory: Vec<EphemeralMount>| {
        let mut spec = TemplateSpec { volume_mounts: Some(volumes), ephemeral_mounts: Some(in_memory), ..TemplateSpec::default() };
        spec.main_container.image = "host".into();
        template(&spec).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(check(vec![volume("/data"), volume("/more")], vec![memory("/cache", "64Mi")]), "");
    assert!(check(vec![volume("/etc")], vec![]).starts_with("spec.volumeMounts[0].mountPath"));
    assert!(check(vec![volume("/d")], vec![memory("/d/cache", "1Mi")]).contains("another mount, /d"));
    for size in ["", "0", "1", "-1Mi", "lots", "99999999Ti"] {
        assert!(check(vec![], vec![memory("/cache", size)]).contains("sizeLimit"), "{size}");
    }
    assert!(check((0..40).map(|n| volume(&format!("/v{n}"))).collect(), vec![]).contains("40; 32 is the limit"));
}
