use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::validate;

fn services(mut list: Value) -> Vec<Service> {
    // Required, and of no matter here.
    for service in list.as_array_mut().into_iter().flatten() {
        for route in service["ingress"].get_mut("routes").and_then(Value::as_array_mut).into_iter().flatten() {
            let route = route.as_object_mut().expect("an object");
            route.entry("resume").or_insert(json!(false));
        }
    }
    let normalised = validate::services(&list, "services").expect("they are valid");
    let typed = Service::list(Some(&normalised));
    assert_eq!(typed.len(), list.as_array().map_or(0, Vec::len), "each can be read");
    typed
}

fn service(id: &str, port: u16, routes: Value) -> Value {
    json!({ "id": id, "port": port, "ingress": { "public": true, "routes": routes } })
}

#[test]
fn every_kind_of_runtime_is_read() {
    let list = services(json!([
        { "id": "a", "port": 1, "ingress": { "public": false } },
        { "id": "b", "port": 2, "runtime": { "type": "manual" }, "ingress": { "public": false } },
        { "id": "c", "port": 3, "runtime": { "type": "cmd", "command": ["x"], "env_vars": { "A": "1" } }, "ingress": { "public": true }, "health_check": { "path": "up" } },
        { "id": "d", "port": 4, "runtime": { "type": "warm_process" }, "ingress": { "public": true } },
        { "id": "e", "runtime": { "type": "function", "function": { "runtime": "python", "source": { "type": "inline", "code": "x" } } }, "ingress": { "public": true } },
    ]));
    assert_eq!(list[0].kind(), &RuntimeKind::Manual);
    assert_eq!(list[2].runtime.as_ref().map(|r| r.env_vars["A"].as_str()), Some("1"));
    assert_eq!(list[2].health_check.as_ref().map(|h| h.path.as_str()), Some("/up"));
    assert_eq!(list[2].ingress.routes[0].path_prefix, "/");
    assert!(!list[2].ingress.routes[0].resume);
    assert_eq!(list[3].kind(), &RuntimeKind::WarmProcess { warm_process_name: String::new() });
    let RuntimeKind::Function { function } = list[4].kind() else { panic!("a function") };
    assert_eq!((function.handler.as_str(), list[4].port), ("handler", 49_983));
}

#[test]
fn the_longest_prefix_wins_and_segments_count() {
    let list = services(json!([
        service("one", 80, json!([{ "id": "root", "path_prefix": "/" }, { "id": "api", "path_prefix": "/api/" }])),
        service("two", 80, json!([{ "id": "deep", "path_prefix": "/api/v1" }, { "id": "again", "path_prefix": "/api" }])),
        service("other", 81, json!([{ "id": "x", "path_prefix": "/only" }])),
    ]));
    for (port, path, want) in [
        (80, "/", Some(("one", "root"))),
        (80, "/apix", Some(("one", "root"))),
        (80, "/api", Some(("one", "api"))),
        (80, "/api/", Some(("one", "api"))),
        (80, "/api/v1", Some(("two", "deep"))),
        (80, "/api/v1/x", Some(("two", "deep"))),
        (80, "/api/v12", Some(("one", "api"))),
        (80, "//api//v1", Some(("two", "deep"))),
        (80, "/%61pi/%76%31/x", Some(("two", "deep"))),
        (80, "/api%2Fv1", Some(("two", "deep"))),
        (80, "/api;a=b/v1;x", Some(("two", "deep"))),
        (80, "/;/api", Some(("one", "api"))),
        (81, "/only/x", Some(("other", "x"))),
        (81, "/", None),
        (82, "/", None),
    ] {
        let found = matching(&list, port, path);
        assert_eq!(found.map(|m| (m.service.id.as_str(), m.route.id.as_str())), want, "{port} {path}");
    }
}

#[test]
fn what_is_not_public_has_no_route() {
    let list = services(json!([{ "id": "a", "port": 80, "ingress": { "public": false, "routes": [{ "id": "r" }] } }]));
    assert_eq!(matching(&list, 80, "/"), None);
}

#[test]
fn a_rewrite_replaces_the_prefix_and_keeps_the_rest_as_it_came() {
    for (prefix, rewrite, path, want) in [
        ("/webhook", None, "/webhook/github", "/webhook/github"),
        ("/strip", Some("/"), "/strip/github", "/github"),
        ("/strip", Some("/"), "/strip", "/"),
        ("/strip", Some("/"), "/strip/", "/"),
        ("/old", Some("/new/v2"), "/old/x", "/new/v2/x"),
        ("/old", Some("/new/v2/"), "/old", "/new/v2"),
        ("/", Some("/base"), "/x/y", "/base/x/y"),
        ("/", Some("/base"), "/", "/base/"),
        ("/", None, "/a%2Fb//c", "/a%2Fb//c"),
        ("/old", Some("/new"), "/%6fld/a%2Fb", "/new/a%2Fb"),
        ("/old", Some("/new"), "//old//x", "/new//x"),
        ("/old", Some("/new"), "/old%2Fx", "/new/%2Fx"),
        ("/old", Some("/new"), "/old;a/x;b", "/new/x;b"),
    ] {
        let list = services(json!([service("s", 80, json!([{ "id": "r", "path_prefix": prefix, "rewrite_prefix": rewrite }]))]));
        assert_eq!(matching(&list, 80, path).map(|m| m.path).as_deref(), Some(want), "{prefix} {rewrite:?} {path}");
    }
}

#[test]
fn what_servers_read_in_different_ways_is_seen_in_every_spelling() {
    for (what, paths) in [
        ("segments", "/.. /. /a/../b /a/%2e%2E/b /a/..%2fb /a/..;/b /a/.;x /a%5c..%5cb /a/. /a\\..\\b /./a /a%2f.%2f /x;%2f..%2fa /x;/..%2fa"),
        ("parameter", "/;%2fa /x;y%2Fa/b"),
        ("backslash", "/a\\b /a%5cb /a%5C \\a /%5c%5ca /a;x/b\\"),
        ("control", "/a%00 /a%00/b /%00a /a%0a /a%0D%0Ab /a%09 /a%7f /a\u{1}"),
    ] {
        for path in paths.split(' ') {
            assert!(unclear(path).is_some_and(|why| why.contains(what)), "{path}: {:?}", unclear(path));
            assert_eq!(plain_path(path), None, "{path}");
        }
    }
    for path in "/ /... /.well-known/x /a..b /..a /a/%2e%2e%2e /a%20b /caf%c3%a9 /caf%e9 /a%252e /a%255c /%zz /a% /a%3bb //".split(' ') {
        assert_eq!(unclear(path), None, "{path}");
    }
}

/// What asks for a credential cannot be gone around by another spelling of its path: it is found there, or the path is refused.
#[test]
fn no_spelling_goes_around_a_locked_route() {
    let list = services(json!([service("s", 80, json!([{ "id": "open", "path_prefix": "/" }, { "id": "locked", "path_prefix": "/private" }]))]));
    let taken = |path: &str| match unclear(path) {
        Some(_) => "refused".to_owned(),
        None => matching(&list, 80, path).expect("all is below /").route.id.clone(),
    };
    for (want, paths) in [
        (
            "locked",
            "/private /private/ /private/x //private /%70rivate /%70%72%69%76%61%74%65 /private%2fx /private%2Fx /private;a \
             /private;a=b/x /;/private /%2fprivate ///private /private//",
        ),
        (
            "refused",
            "/private\\x /private%5cx /private%5C \\private /\\private /private%00 /private%00.png /%00private /private%0a \
             /private%0d%0a /private%09 /private%7f /private/../private /x/../private /./private /%2e/private /x/%2e%2e/private \
             /x%2f..%2fprivate /x/..;/private /x/..;a=b/private /private/. /x\\..\\private /x;%2f..%2fprivate /;%2fprivate \
             /private;%00 /x;\\/private",
        ),
        // Other paths for every server that keeps to the standard: case counts, and what is decoded once stays as it is.
        (
            "open",
            "/ /Private /PRIVATE /privat /privatex /private. /private%20 /%2570rivate /private%252fx /private%3ba /private%3fx \
             /private%23x /private%c0%afx",
        ),
    ] {
        for path in paths.split(' ') {
            assert_eq!(taken(path), want, "{path}");
        }
    }
}

struct Shown(&'static str, &'static [u8]);

impl Credential for Shown {
    fn header(&self, name: &str) -> Option<&[u8]> {
        name.eq_ignore_ascii_case(self.0).then_some(self.1)
    }
}

#[test]
fn credentials() {
    // sha256 of "tok1".
    let digest = "6e7d9f5ba3eb5ef1b0b0d1e6ba2c9b2b50e6c2a3a1bdf33d0a5b7c8a7d1f0a00";
    let real = {
        use sha2::Digest;
        sha2::Sha256::digest(b"tok1").iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let with = |auth: Value| services(json!([service("s", 80, json!([{ "id": "r", "auth": auth }]))]))[0].ingress.routes[0].clone();
    let bearer = with(json!({ "mode": "bearer", "bearer_token_sha256": real.to_uppercase() }));
    assert_eq!(bearer.authorize(&Shown("authorization", b"Bearer tok1")), Ok(()));
    assert_eq!(bearer.authorize(&Shown("authorization", b"bearer tok1")), Err(Denied::MissingBearer));
    assert_eq!(bearer.authorize(&Shown("x", b"Bearer tok1")), Err(Denied::MissingBearer));
    assert_eq!(bearer.authorize(&Shown("authorization", b"Bearer tok1 ")), Err(Denied::InvalidBearer));
    assert_eq!(bearer.authorize(&Shown("authorization", b"Bearer ")), Err(Denied::InvalidBearer));
    let other = with(json!({ "mode": "bearer", "bearer_token_sha256": digest }));
    assert_eq!(other.authorize(&Shown("authorization", b"Bearer tok1")), Err(Denied::InvalidBearer));
    let header = with(json!({ "mode": "header", "header_name": "x-key", "header_value_sha256": real }));
    assert_eq!(header.authorize(&Shown("X-Key", b"tok1")), Ok(()));
    assert_eq!(header.authorize(&Shown("X-Key", b"no")), Err(Denied::InvalidHeader));
    assert_eq!(header.authorize(&Shown("Y", b"tok1")), Err(Denied::InvalidHeader));
    assert_eq!(header.credential_header(), Some("X-Key"));
    assert_eq!(with(json!({ "mode": "none" })).authorize(&Shown("y", b"")), Ok(()));
}

#[test]
fn cors_answers() {
    let with = |cors: Value| services(json!([service("s", 80, json!([{ "id": "r", "methods": ["GET", "POST"], "cors": cors }]))]))[0].ingress.routes[0].clone();
    let route = with(
        json!({ "allowed_origins": ["https://a.test"], "allowed_headers": ["x-a"], "expose_headers": ["x-b"], "allow_credentials": true, "max_age_seconds": 60 }),
    );
    let ask = |method, origin, wanted| route.cors(CorsAsked { method, origin, wanted });
    assert_eq!(ask("GET", None, None), CorsAnswer::Pass(vec![]));
    assert_eq!(ask("OPTIONS", None, Some("GET")), CorsAnswer::Pass(vec![]));
    assert_eq!(ask("OPTIONS", Some("https://b.test"), Some("GET")), CorsAnswer::OriginRefused);
    assert_eq!(ask("GET", Some("https://b.test"), None), CorsAnswer::Pass(vec![("Vary", "Origin".into())]));
    assert_eq!(ask("OPTIONS", Some("https://a.test"), Some("DELETE")), CorsAnswer::MethodRefused);
    let CorsAnswer::Preflight(headers) = ask("OPTIONS", Some("https://A.test"), Some("POST")) else { panic!("a preflight") };
    for (name, value) in [
        ("Access-Control-Allow-Origin", "https://A.test"),
        ("Vary", "Origin"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Allow-Methods", "GET, POST"),
        ("Access-Control-Allow-Headers", "X-A"),
        ("Access-Control-Max-Age", "60"),
    ] {
        assert!(headers.contains(&(name, value.to_owned())), "{name} in {headers:?}");
    }
    let CorsAnswer::Pass(headers) = ask("GET", Some("https://a.test"), None) else { panic!("passes") };
    assert!(headers.contains(&("Access-Control-Expose-Headers", "X-B".to_owned())));
    let any = with(json!({ "allowed_origins": ["*"], "allowed_methods": ["*"] }));
    let CorsAnswer::Preflight(headers) = any.cors(CorsAsked { method: "OPTIONS", origin: Some("null"), wanted: Some("PATCH") }) else { panic!("a preflight") };
    assert!(headers.contains(&("Access-Control-Allow-Origin", "*".to_owned())) && headers.contains(&("Access-Control-Allow-Methods", "PATCH".to_owned())));
}

proptest! {
    #[test]
    fn a_bucket_never_lets_more_through_than_it_says(rps in 0.1f64..1000.0, burst in 0.1f64..100.0, steps in proptest::collection::vec(0u64..500, 1..200)) {
        let limit = RateLimit { rps, burst, per_client: false };
        let mut bucket = Bucket::new(limit, Duration::ZERO);
        let (mut now, mut through) = (Duration::ZERO, 0u32);
        for step in steps {
            now += Duration::from_millis(step);
            match bucket.take(limit, now) {
                Ok(()) => through += 1,
                Err(wait) => {
                    let mut later = bucket;
                    prop_assert!(later.take(limit, now + wait + Duration::from_micros(1)).is_ok());
                }
            }
            prop_assert!(f64::from(through) <= burst.max(1.0) + now.as_secs_f64() * rps + 1e-6);
        }
    }

    #[test]
    fn matching_never_panics_and_a_rewrite_begins_with_a_slash(path in "/[a-z/%.2fF\\PC]{0,40}", prefix in "/[a-z/]{0,8}") {
        let list = services(json!([service("s", 80, json!([{ "id": "r", "path_prefix": prefix, "rewrite_prefix": "/n" }]))]));
        if let Some(matched) = matching(&list, 80, &path) {
            prop_assert!(matched.path.starts_with("/n"));
        }
        unclear(&path);
    }
}
