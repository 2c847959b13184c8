use proptest::prelude::*;
use sandbar_api::{sandbox::SandboxConfig, template::TemplateSpec};

use super::*;

fn sandbox(generation: i64) -> SandboxRecord {
    let claim = crate::lifecycle::Claim {
        id: "sb-a".into(),
        team_id: "team".into(),
        user_id: "user".into(),
        template_id: "default".into(),
        template: TemplateSpec::default(),
        config: SandboxConfig::default(),
        mounts: vec![],
        base: None,
    };
    SandboxRecord { runtime_generation: generation, ..crate::lifecycle::claim(claim, 0) }
}

fn preview(wakes: bool) -> PreviewRecord {
    PreviewRecord {
        id: "pv-a".into(),
        sandbox_id: "sb-a".into(),
        team_id: "team".into(),
        user_id: "user".into(),
        key_id: None,
        port: 3000,
        protocol: Protocol::Http,
        path: "/".into(),
        wakes,
        runtime_generation: 4,
        bootstrap_sha256: None,
        session_sha256: None,
        created_at_ms: 0,
        opened_at_ms: None,
        expires_at_ms: 1000,
    }
}

#[test]
fn a_preview_is_good_for_one_runtime_unless_it_wakes() {
    use Admission::{Over as Gone, Serve, Wake};
    for (wakes, generation, awake, now, want) in [
        (false, 4, true, 999, Serve),
        (false, 4, true, 1000, Gone(Over::Expired)),
        (false, 4, false, 0, Gone(Over::Asleep)),
        (false, 5, true, 0, Gone(Over::FormerRuntime)),
        (false, 5, false, 0, Gone(Over::FormerRuntime)),
        (true, 4, true, 0, Serve),
        (true, 9, true, 0, Serve),
        (true, 9, false, 0, Wake),
        (true, 9, true, 1000, Gone(Over::Expired)),
    ] {
        assert_eq!(preview(wakes).admit(&sandbox(generation), awake, now), want, "wakes {wakes} generation {generation} awake {awake} at {now}");
    }
    for other in [SandboxRecord { team_id: "x".into(), ..sandbox(4) }, SandboxRecord { id: "x".into(), ..sandbox(4) }] {
        assert_eq!(preview(true).admit(&other, true, 0), Gone(Over::Expired));
    }
    assert!(preview(false).is_of("team", "user") && !preview(false).is_of("team", "x") && !preview(false).is_of("x", "user"));
}

#[test]
fn what_is_wanted_is_read_and_what_cannot_be_is_named() {
    let full = wanted(3000, Some("HTTPS"), Some("/a?b=1#c"), Some(30), true).expect("good");
    assert_eq!(full, NewPreview { port: 3000, protocol: Protocol::Https, path: "/a?b=1#c".into(), ttl_ms: 30_000, wakes: true });
    let least = wanted(1, None, None, None, false).expect("good");
    assert_eq!(least, NewPreview { port: 1, protocol: Protocol::Http, path: "/".into(), ttl_ms: 900_000, wakes: false });
    assert_eq!(wanted(1, Some(""), Some(""), Some(0), false).expect("zero values count as absent"), least);
    let wrong = wanted(0, Some("ftp"), Some("x"), Some(29), false).expect_err("all of it is wrong");
    assert_eq!(wrong.iter().map(|v| v.path.as_str()).collect::<Vec<_>>(), ["port", "protocol", "path", "ttl_seconds"]);
    for port in [-1, 65_536, i64::MAX] {
        assert!(wanted(port, None, None, None, false).is_err());
    }
    for ttl in [-1, 3601, i64::MIN] {
        assert!(ttl_ms(Some(ttl)).is_err());
    }
}

#[test]
fn paths_that_lead_to_another_host_are_refused() {
    for good in ["/", "/a/b", "/?x=//y", "/a//b", "/#/route", "/%2f%2fevil", "/@evil", "/a?next=http://x"] {
        assert_eq!(same_origin_path(good), Some(good));
    }
    for bad in [
        "",
        "a",
        "//evil",
        "//evil/x",
        "/\\evil",
        "\\\\evil",
        "/a\\b",
        "http://evil",
        "https:/evil",
        "javascript:x",
        "/\t/evil",
        "/\n/evil",
        " /a",
        "/a b",
        "/ä",
        "/\0",
        "?x",
        "#x",
    ] {
        assert_eq!(same_origin_path(bad), None, "{bad:?}");
    }
    assert_eq!(same_origin_path(&format!("/{}", "a".repeat(limits::PREVIEW_PATH_MAX_BYTES))), None);
}

#[test]
fn credentials_are_an_id_and_a_secret() {
    assert_eq!(split_credential("pv-a.s_e-c"), Some(("pv-a", "s_e-c")));
    for bad in ["", ".", "a", "a.", ".b", "a.b.c", "a.b c", "a.b;c", &format!("a.{}", "b".repeat(129))] {
        assert_eq!(split_credential(bad), None, "{bad:?}");
    }
}

#[test]
fn locations_on_the_own_machine_stay_on_the_public_host() {
    for (value, want) in [
        ("http://localhost:3000/a?b#c", Some("/a?b#c")),
        ("HTTP://LocalHost:3000/", Some("/")),
        ("http://localhost:3000", Some("/")),
        ("http://localhost:3000?x=1", Some("/?x=1")),
        ("https://127.0.0.1:3000/a", Some("/a")),
        ("http://127.9.9.9/a", Some("/a")),
        ("http://0.0.0.0:3000/a", Some("/a")),
        ("http://[::1]:3000/a", Some("/a")),
        ("http://[::1]/a", Some("/a")),
        ("http://[::]:3000", Some("/")),
        ("//localhost:3000/a", Some("/a")),
        ("http://localhost:3000//evil.test/", Some("/.//evil.test/")),
        ("http://localhost:3000/\\evil.test/", Some("/./\\evil.test/")),
        ("http://localhost:3000/\t/evil.test/", Some("/.//evil.test/")),
        ("http://localhost:3000\\evil", Some("/evil")),
        ("http://localhost:3001/a", None),
        ("http://localhost:99999/a", None),
        ("http://localhost.evil.test/a", None),
        ("http://localhost@evil.test/a", None),
        ("http://evil@localhost:3000/a", None),
        ("http://10.0.0.1:3000/a", None),
        ("http://[2001:db8::1]:3000/a", None),
        ("https://example.com/a", None),
        ("/relative", None),
        ("relative", None),
        ("ftp://localhost:3000/", None),
        ("", None),
    ] {
        assert_eq!(rewrite::location(value, 3000).as_deref(), want, "{value:?}");
        let named = value.replace(['\t', '\n', '\r'], "").contains(":3000");
        assert_eq!(rewrite::public_location(value, 3000).as_deref(), want.filter(|_| named), "{value:?} of a public port");
    }
}

#[test]
fn cookies_of_the_service_are_kept_in_frames_and_ours_are_not_touched() {
    for (cookie, want) in [
        ("a=1", Some("a=1; Secure; SameSite=None; Partitioned")),
        (
            "a=1; Path=/; HttpOnly; Domain=localhost; SameSite=Strict; secure; PARTITIONED; Max-Age=5",
            Some("a=1; Path=/; HttpOnly; Max-Age=5; Secure; SameSite=None; Partitioned"),
        ),
        ("domain=x; DOMAIN = .localhost;", Some("domain=x; Secure; SameSite=None; Partitioned")),
        ("__Host-sandbox0-preview=x; Path=/; Secure", None),
        (" __host-SANDBOX0-preview = x", None),
        ("sandbox0-preview=", None),
        ("sandbox0-preview2=x", Some("sandbox0-preview2=x; Secure; SameSite=None; Partitioned")),
    ] {
        assert_eq!(rewrite::set_cookie(cookie.as_bytes()).map(|c| String::from_utf8(c).expect("text")).as_deref(), want, "{cookie}");
    }
    for (cookies, want) in [
        ("a=1", Some("a=1")),
        ("a=1; __Host-sandbox0-preview=pv-a.b; c=2", Some("a=1; c=2")),
        ("__Host-sandbox0-preview=x;sandbox0-preview=y", None),
        ("", None),
    ] {
        assert_eq!(rewrite::cookies_without_ours(cookies.as_bytes()).map(|c| String::from_utf8(c).expect("text")).as_deref(), want, "{cookies}");
    }
    assert_eq!(rewrite::cookie("a=1; __Host-sandbox0-preview=pv-a.b", COOKIE), Some("pv-a.b"));
    assert_eq!(rewrite::cookie("__Host-sandbox0-preview=pv-a.b", PLAIN_COOKIE), None);
    assert_eq!(rewrite::cookie("sandbox0-preview2=x", PLAIN_COOKIE), None);
}

#[test]
fn pages_may_be_framed_and_keep_the_rest_of_their_policy() {
    for (value, want) in [
        ("frame-ancestors 'none'", None),
        ("default-src 'self'; Frame-Ancestors 'self' ; img-src *;", Some("default-src 'self'; img-src *")),
        ("frame-ancestors *, default-src 'none'", Some("default-src 'none'")),
        ("default-src 'none'", Some("default-src 'none'")),
        ("frame-ancestorsx y", Some("frame-ancestorsx y")),
        ("", None),
    ] {
        assert_eq!(rewrite::policy(value).as_deref(), want, "{value:?}");
    }
}

#[test]
fn own_origins_and_internal_headers_are_told() {
    for (origin, own) in [
        ("http://sb-a--p1.localhost:8700", true),
        ("https://SB-A--p1.localhost:8700", true),
        ("http://sb-a--p1.localhost", false),
        ("http://sb-b--p1.localhost:8700", false),
        ("null", false),
        ("sb-a--p1.localhost:8700", false),
        ("http://sb-a--p1.localhost:8700/", false),
    ] {
        assert_eq!(rewrite::is_own_origin(origin, "sb-a--p1.localhost:8700"), own, "{origin}");
    }
    for (name, internal) in [("x-sandbox-id", true), ("x-exposure-port", true), ("x-sandbox0-preview-origin", true), ("x-sandbox", false), ("cookie", false)] {
        assert_eq!(rewrite::is_internal(name), internal, "{name}");
    }
}

proptest! {
    #[test]
    fn a_rewritten_location_never_leaves_its_host(host in "(localhost|127\\.0\\.0\\.1|\\[::1\\])", path in "[/\\\\a-z.?#@:\t]{0,12}") {
        if let Some(location) = rewrite::location(&format!("http://{host}:3000{path}"), 3000) {
            let bytes = location.as_bytes();
            prop_assert!(bytes[0] == b'/' && !matches!(bytes.get(1), Some(b'/' | b'\\')), "{location:?}");
            prop_assert!(!location.contains('\t'));
        }
    }

    #[test]
    fn nothing_a_stranger_sends_is_too_much(text in ".{0,200}") {
        let _ = (rewrite::location(&text, 80), rewrite::policy(&text), rewrite::set_cookie(text.as_bytes()), rewrite::cookies_without_ours(text.as_bytes()));
        let _ = (split_credential(&text), rewrite::cookie(&text, COOKIE));
        if let Some(path) = same_origin_path(&text) {
            prop_assert!(path.starts_with('/') && !path.starts_with("//") && !path.contains('\\'));
        }
    }
}
