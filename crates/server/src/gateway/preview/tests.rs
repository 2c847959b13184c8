use super::*;

fn preview(protocol: Protocol) -> PreviewRecord {
    PreviewRecord {
        id: "pv-a".into(),
        sandbox_id: "sb-a".into(),
        team_id: "team".into(),
        user_id: "user".into(),
        key_id: None,
        port: 5173,
        protocol,
        path: "/".into(),
        wakes: false,
        runtime_generation: 1,
        bootstrap_sha256: None,
        session_sha256: None,
        created_at_ms: 0,
        opened_at_ms: None,
        expires_at_ms: 1,
    }
}

fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect()
}

#[test]
fn the_server_inside_is_asked_as_on_its_own_machine() {
    let host = "sb-a--p5173.localhost:8700";
    let sent = [
        ("host", host),
        ("x-sandbox-id", "sb-b"),
        ("x-sandbox0-preview-origin", "https://evil.test"),
        ("x-mine", "kept"),
        ("origin", "http://sb-a--p5173.localhost:8700"),
    ];
    let mut plain = map(&sent);
    request(&mut plain, &preview(Protocol::Http), host);
    assert_eq!(all(&plain, "host"), ["localhost:5173"]);
    assert_eq!(all(&plain, "x-mine"), ["kept"]);
    assert_eq!(all(&plain, "origin"), ["http://sb-a--p5173.localhost:8700"], "forms are judged by what the page really is");
    assert!(all(&plain, "x-sandbox-id").is_empty() && all(&plain, "x-sandbox0-preview-origin").is_empty());
    for (protocol, origin, want) in [
        (Protocol::Http, "http://sb-a--p5173.localhost:8700", "http://localhost:5173"),
        (Protocol::Https, "https://sb-a--p5173.localhost:8700", "https://localhost:5173"),
        (Protocol::Http, "https://evil.test", "https://evil.test"),
        (Protocol::Http, "null", "null"),
    ] {
        let mut upgrade = map(&[("connection", "upgrade"), ("upgrade", "websocket"), ("origin", origin)]);
        request(&mut upgrade, &preview(protocol), host);
        assert_eq!(all(&upgrade, "origin"), [want], "{origin}");
    }
}

#[test]
fn the_browser_stays_on_the_public_host() {
    let mut headers = map(&[
        ("location", "http://localhost:5173/login"),
        ("x-frame-options", "DENY"),
        ("content-security-policy", "default-src 'self'; frame-ancestors 'none'"),
        ("content-security-policy", "frame-ancestors 'self'"),
        ("set-cookie", "a=1; Domain=localhost; SameSite=Lax"),
        ("set-cookie", "__Host-sandbox0-preview=stolen; Path=/; Secure"),
        ("x-kept", "yes"),
    ]);
    response(&mut headers, &preview(Protocol::Http));
    for (name, want) in [
        ("location", vec!["/login"]),
        ("x-frame-options", vec![]),
        ("content-security-policy", vec!["default-src 'self'"]),
        ("set-cookie", vec!["a=1; Secure; SameSite=None; Partitioned"]),
        ("x-kept", vec!["yes"]),
    ] {
        assert_eq!(all(&headers, name), want, "{name}");
    }
}

#[test]
fn the_cookie_without_secure_is_for_a_machine_of_ones_own_only() {
    assert_eq!(cookies("pv-a.s", false), ["__Host-sandbox0-preview=pv-a.s; Path=/; HttpOnly; Secure; SameSite=None; Partitioned"]);
    assert_eq!(cookies("pv-a.s", true)[1], "sandbox0-preview=pv-a.s; Path=/; HttpOnly; SameSite=Lax");
}

#[test]
fn a_reason_cannot_become_part_of_the_page() {
    let page = wait::html("T<", "a <script>\"&'", Some(1));
    assert!(page.contains("a &lt;script&gt;&quot;&amp;&#39;") && page.contains("T&lt;") && !page.contains("<script>"), "{page}");
    assert!(page.contains("http-equiv=\"refresh\"") && !wait::html("T", "t", None).contains("http-equiv"));
}

#[test]
fn a_closed_port_says_why_to_people_and_programs() {
    for (opening, code) in [(true, "preview_opening"), (false, "preview_closed")] {
        let closed = |browser| Closed { opening, reason: "the app is <stopped>".into() }.into_response(browser);
        for response in [closed(true), closed(false)] {
            assert_eq!(response.status(), 503);
            assert_eq!(
                (&response.headers()[header::RETRY_AFTER], &response.headers()[header::CACHE_CONTROL]),
                (&HeaderValue::from_static("1"), &HeaderValue::from_static("no-store"))
            );
        }
        let error = closed(false).extensions().get::<ApiError>().map(|error| (error.code().to_owned(), error.message().to_owned()));
        assert_eq!(error, Some((code.to_owned(), "the app is <stopped>".to_owned())));
        assert_eq!(closed(true).headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    }
}
