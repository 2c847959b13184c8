use proptest::prelude::*;

use super::*;

fn list(text: &str) -> FetchAllow {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn passes(allow: &str, url: &str) -> bool {
    judge(url, &list(allow), None).is_ok()
}

#[test]
fn a_list_lets_pass_what_it_names() {
    let yes = [
        ("api.example.com", "https://api.example.com/v1?x=1#y"),
        ("api.example.com", "http://api.example.com"),
        ("cdn.io", "https://assets.cdn.io/"),
        ("cdn.io", "https://a.b.cdn.io/"),
        ("*.cdn.io", "https://assets.cdn.io/"),
        ("*.cdn.io", "https://a.b.cdn.io/"),
        ("a.test, b.test ,", "https://b.test/"),
        ("*", "https://anything.test:8443/"),
        ("*", "http://127.0.0.1:1/"),
        // Ports.
        ("a.test:8080", "http://a.test:8080/"),
        ("a.test:443", "https://a.test/"),
        ("a.test:443", "http://a.test:443/"),
        ("*.a.test:8080", "http://x.a.test:8080/"),
        ("a.test", "http://a.test:80/"),
        ("a.test", "https://a.test:443/"),
        // Spelling.
        ("A.Test", "HTTPS://a.TEST/"),
        ("a.test.", "https://a.test/"),
        ("a.test", "https://a.test./"),
        ("bücher.test", "https://xn--bcher-kva.test/"),
        ("xn--bcher-kva.test", "https://BÜCHER.test/"),
        ("a.test", "https://a。test/"),
        ("a_b.test", "https://a_b.test/"),
        ("a.test", "  https://a.test/\n"),
        // Addresses.
        ("127.0.0.1", "http://2130706433/"),
        ("127.0.0.1", "http://0177.0.0.1/"),
        ("127.0.0.1", "http://0x7f.1/"),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/"),
        ("127.0.0.1:8080", "http://127.1:8080/"),
        ("2130706433", "http://127.0.0.1/"),
        ("[::1]", "http://[0:0:0:0:0:0:0:1]/"),
        ("[::1]:9", "http://[::1]:9/"),
        ("[::ffff:10.0.0.1]", "http://10.0.0.1/"),
    ];
    for (allow, url) in yes {
        assert!(passes(allow, url), "{allow} {url}");
    }
}

#[test]
fn and_nothing_else() {
    let no = [
        ("", "https://a.test/"),
        ("a.test", "https://b.test/"),
        ("a.test", "https://xa.test/"),
        ("a.test", "https://a.test.evil/"),
        ("a.test", "https://evil/a.test"),
        ("a.test", "https://evil?a.test"),
        ("a.test", "https://evil#.a.test"),
        ("a.test", "https://evil\\.a.test/"),
        ("*.cdn.io", "https://cdn.io/"),
        ("*.cdn.io", "https://xcdn.io/"),
        ("*.cdn.io", "https://.cdn.io/"),
        ("assets.cdn.io", "https://cdn.io/"),
        // Ports.
        ("a.test", "https://a.test:8443/"),
        ("a.test", "http://a.test:443/"),
        ("a.test", "https://a.test:80/"),
        ("a.test:8080", "http://a.test/"),
        ("a.test:80", "https://a.test/"),
        // Schemes.
        ("*", "file:///etc/passwd"),
        ("a.test", "file://a.test/etc/passwd"),
        ("*", "ftp://a.test/"),
        ("*", "ws://a.test/"),
        ("*", "data:text/plain,x"),
        ("*", "javascript:1"),
        ("*", "gopher://a.test/"),
        ("*", "unix:/var/run/x.sock"),
        // Who names a user may mean another host than it seems.
        ("a.test", "https://a.test@evil/"),
        ("a.test", "https://user@a.test/"),
        ("a.test", "https://user:pass@a.test/"),
        ("a.test", "https://:pass@a.test/"),
        ("*", "https://user@a.test/"),
        // Addresses have nothing below them and are no names.
        ("127.0.0.1", "http://127.0.0.2/"),
        ("127.0.0.1", "http://x.127.0.0.1/"),
        ("0.0.1", "http://127.0.0.1/"),
        ("a.test", "http://127.0.0.1/"),
        // No URLs.
        ("*", ""),
        ("*", "a.test"),
        ("*", "//a.test/"),
        ("*", "https://"),
        ("*", "http://a b/"),
        ("*", "http://1.2.3.4.5/"),
        ("*", "http://[::1/"),
        ("*", "http://a.test:99999/"),
    ];
    for (allow, url) in no {
        assert!(!passes(allow, url), "{allow} {url}");
    }
}

#[test]
fn a_script_can_only_take_hosts_away() {
    let own = |entries: &[&str]| FetchAllow::of(entries.iter().copied()).unwrap();
    let cases: &[(Option<&[&str]>, bool, bool)] = &[
        // a.test and b.test, where the operator allows a.test and c.test.
        (None, true, false),
        (Some(&[]), false, false),
        (Some(&["*"]), true, false),
        (Some(&["a.test"]), true, false),
        (Some(&["b.test"]), false, false),
        (Some(&["b.test", "*.a.test"]), false, false),
        (Some(&["test"]), true, false),
    ];
    for (entries, a, b) in cases {
        let own = entries.map(own);
        let passes = |url| judge(url, &list("a.test,c.test"), own.as_ref()).is_ok();
        assert_eq!((passes("https://a.test/"), passes("https://b.test/")), (*a, *b), "{entries:?}");
    }
}

#[test]
fn what_is_no_entry_is_an_error() {
    for text in [
        "https://a.test",
        "a.test/path",
        "a.test/",
        "user@a.test",
        "a.test:",
        "a.test:0",
        "a.test:65536",
        "a.test:x",
        "a.test:+80",
        "a b.test",
        "a.*.test",
        "**",
        "*.",
        "*a.test",
        "*.*.test",
        "*:80",
        "*.127.0.0.1",
        "::1",
        "[::1",
        "a..test",
        ".a.test",
        ".",
        "%61.test",
        "a.test?x",
        "a.test#x",
        "1.2.3.4.5",
        "a.test:80:80",
    ] {
        let error = text.parse::<FetchAllow>().expect_err(text);
        assert!(error.to_string().contains(text), "{text}: {error}");
    }
    let many = vec!["a.test"; limits::SCRIPT_FETCH_ALLOW_MAX + 1];
    assert!(matches!(FetchAllow::of(many), Err(EntryError::TooMany(_))));
}

#[test]
fn a_refusal_names_the_url_as_it_was_asked_for() {
    let refusal = judge("https://evil.test/x", &list("a.test"), None).unwrap_err();
    assert_eq!(refusal.to_string(), "URL not in fetch allow-list: https://evil.test/x");
    let long = format!("https://evil.test/{}", "x".repeat(5000));
    assert!(judge(&long, &list("a.test"), None).unwrap_err().to_string().len() < 400);
    assert_eq!(judge("nonsense", &list("*"), None).unwrap_err().to_string(), "Invalid URL: nonsense");
}

#[test]
fn lists_are_shown_as_they_are_read() {
    for text in ["", "*", "a.test", "*.a.test:80,b.test:1", "127.0.0.1:80,[::1]:9"] {
        assert_eq!(list(text).to_string(), text);
    }
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(entry in "\\PC{0,40}", url in "\\PC{0,60}") {
        if let Ok(allow) = entry.parse::<FetchAllow>() {
            let _ = judge(&url, &allow, None);
            // What is shown means the same when it is read again.
            prop_assert_eq!(allow.to_string().parse::<FetchAllow>(), Ok(allow));
        }
    }

    #[test]
    fn what_passes_a_host_goes_to_that_host(
        prefix in "[a-z0-9@:/.\\\\#?%_-]{0,12}", middle in "(a\\.test|A\\.TEST|a\\.test\\.)?", suffix in "[a-z0-9@:/.\\\\#?%_-]{0,12}",
    ) {
        let text = format!("http://{prefix}{middle}{suffix}");
        if let Ok(url) = judge(&text, &list("a.test"), None) {
            let host = url.host_str().unwrap().trim_end_matches('.');
            prop_assert!(host == "a.test" || host.ends_with(".a.test"), "{}", url);
            prop_assert!(url.port().is_none() && url.username().is_empty());
        }
    }

    #[test]
    fn a_narrower_list_allows_no_more(hosts in prop::collection::vec("[ab]\\.test", 0..3), own in prop::collection::vec("([ab]\\.test|\\*)", 0..3), asked in "[abc]\\.test") {
        let (ceiling, own) = (FetchAllow::of(hosts.iter().map(String::as_str)).unwrap(), FetchAllow::of(own.iter().map(String::as_str)).unwrap());
        let url = format!("https://{asked}/");
        let both = judge(&url, &ceiling, Some(&own)).is_ok();
        prop_assert_eq!(both, judge(&url, &ceiling, None).is_ok() && judge(&url, &own, None).is_ok());
    }
}
