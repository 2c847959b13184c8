use sandbar_scripts::FailureCode;
use serde_json::{Value, json};

use super::*;

fn asker<'a>(secret: &'a (dyn Fn(&str) -> Option<String> + Sync)) -> Asker<'a> {
    Asker { team_id: "t", script: None, run_id: "0188ac24-0000-7000-8000-000000000001", depth: 2, secret: Some(secret) }
}

fn prepared(args: Value) -> Result<FetchAsk<'static>, OpError> {
    fn known(name: &str) -> Option<String> {
        (name == "KEY").then(|| "hush".to_owned())
    }
    let args = serde_json::value::to_raw_value(&args).expect("JSON");
    let allow: FetchAllow = "a.test".parse().expect("a list");
    prepare(asker(&known), &args, &Allowed { ceiling: &allow, own: None })
}

#[test]
fn only_we_are_told_which_run_asks() {
    let ask = prepared(json!({"url": "https://a.test"})).unwrap();
    assert!(ask.headers.keys().all(|name| !name.as_str().starts_with("x-sandbar-")), "{:?}", ask.headers);
    let none = |_: &str| None;
    let marks = marks(asker(&none));
    assert_eq!((&marks[DEPTH_HEADER], &marks[RUN_HEADER]), (&HeaderValue::from(3), &HeaderValue::from_static("0188ac24-0000-7000-8000-000000000001")));
}

#[test]
fn what_is_asked_is_sent_as_it_is_meant() {
    let ask = prepared(
        json!({"url": "https://a.test/x", "init": {"method": "post", "body": "{}", "headers": {"X-A": "1", "n": 2}, "redirect": "manual", "cache": "no"}}),
    )
    .unwrap();
    assert_eq!((ask.method, ask.url.as_str(), ask.redirects), (Method::POST, "https://a.test/x", Redirects::Manual));
    assert_eq!((&ask.headers["x-a"], &ask.headers["n"], &ask.headers["content-type"]), (&"1".parse().unwrap(), &"2".parse().unwrap(), &TEXT));
    assert_eq!(ask.headers["accept-encoding"], "identity");
    let trace = ask.headers["traceparent"].to_str().unwrap();
    assert!(trace.starts_with("00-0188ac24000070008000000000000001-") && trace.ends_with("-01") && trace.len() == 55, "{trace}");
    let ask = prepared(json!({"url": "https://a.test"})).unwrap();
    assert_eq!((ask.method, ask.redirects, ask.body), (Method::GET, Redirects::Follow(5), None));
    assert!(!ask.headers.contains_key("content-type"));
    let ask = prepared(json!({"url": "https://a.test", "init": null})).unwrap();
    assert_eq!(ask.method, Method::GET);
    let pairs = json!([["a", "1"], ["A", "2"], ["traceparent", "00-x"], ["content-type", "x/y"]]);
    let ask = prepared(json!({"url": "https://a.test", "init": {"method": "PROPFIND", "body": "", "headers": pairs}})).unwrap();
    assert_eq!(ask.headers.get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!((ask.headers["traceparent"].to_str().unwrap(), ask.headers["content-type"].to_str().unwrap(), ask.method.as_str()), ("00-x", "x/y", "PROPFIND"));
}

#[test]
fn what_carries_a_request_is_not_the_scripts_to_say() {
    let headers: Vec<_> = [
        "Host",
        "Connection",
        "Content-Length",
        "Transfer-Encoding",
        "TE",
        "Upgrade",
        "Expect",
        "Keep-Alive",
        "Trailer",
        "Proxy-Authorization",
        "Proxy-Connection",
        "X-Sandbar-Event-Id",
        "X-Sandbox0-Signature",
        "Accept-Encoding",
        "HTTP2-Settings",
    ]
    .map(|name| (name, "evil"))
    .to_vec();
    let ask = prepared(json!({"url": "https://a.test", "init": {"headers": headers}})).unwrap();
    assert!(ask.headers.values().all(|value| value != "evil"), "{:?}", ask.headers);
}

#[test]
fn secrets_are_put_in_and_marked() {
    let ask = prepared(json!({"url": "https://a.test", "init": {"headers": {"x-key": "k {{secrets.KEY}}", "x-b": "b"}}})).unwrap();
    assert_eq!((ask.headers["x-key"].to_str().unwrap(), ask.headers["x-key"].is_sensitive(), ask.headers["x-b"].is_sensitive()), ("k hush", true, false));
}

#[test]
fn the_secrets_that_are_wanted_are_known_before() {
    let names = |init: Value| secret_names(&serde_json::value::to_raw_value(&json!({"url": "x", "init": init})).unwrap()).into_iter().collect::<Vec<_>>();
    assert_eq!(names(json!({"headers": {"a": "{{secrets.B}} {{secrets.A}}", "b": "{{secrets.A}}", "c": 7}})), ["A", "B"]);
    assert_eq!(names(json!({"headers": [["a", "{{secrets.A}}"]], "body": "{{secrets.C}}"})), ["A"]);
    assert!(names(json!({})).is_empty() && names(json!(null)).is_empty());
}

#[test]
fn what_is_wrong_is_said() {
    let many: Vec<_> = (0..65).map(|n| (format!("x{n}"), "1")).collect();
    let long = "x".repeat(limits::SCRIPT_FETCH_HEADERS_MAX_BYTES + 1);
    let init = |init: Value| json!({"url": "https://a.test/", "init": init});
    use FailureCode::{Denied, UserError};
    for (args, code, words) in [
        (json!({"url": "https://b.test/"}), Denied, "URL not in fetch allow-list: https://b.test/"),
        (json!({"url": "file://a.test/etc/passwd"}), Denied, "not in fetch allow-list"),
        (json!({"url": "nonsense"}), UserError, "Invalid URL"),
        (json!({"url": format!("https://a.test/{}", "x".repeat(limits::SCRIPT_URL_MAX_BYTES))}), UserError, "at most"),
        (json!({}), UserError, "url"),
        (json!([]), UserError, "fetch takes"),
        (json!("https://a.test"), UserError, "fetch takes"),
        (init(json!({"method": "CONNECT"})), UserError, "CONNECT"),
        (init(json!({"method": "trace"})), UserError, "trace"),
        (init(json!({"method": "A B"})), UserError, "method"),
        (init(json!({"method": ""})), UserError, "method"),
        (init(json!({"body": "x"})), UserError, "no body"),
        (init(json!({"method": "POST", "body": {"a": 1}})), UserError, "fetch takes"),
        (init(json!({"redirect": "maybe"})), UserError, "fetch takes"),
        (init(json!({"headers": {"a b": "x"}})), UserError, "name of a header"),
        (init(json!({"headers": {"a": "x\r\ny: z"}})), UserError, "characters"),
        (init(json!({"headers": {"a": "ü"}})), UserError, "characters"),
        (init(json!({"headers": {"a": ["x"]}})), UserError, "text"),
        (init(json!({"headers": many})), UserError, "at most 64"),
        (init(json!({"headers": {"a": long}})), UserError, "at most"),
        (init(json!({"headers": {"a": "{{secrets.OTHER}}"}})), Denied, "OTHER"),
        (init(json!({"method": "POST", "body": "x".repeat(limits::SCRIPT_FETCH_BODY_MAX_BYTES + 1)})), UserError, "at most"),
    ] {
        let error = prepared(args.clone()).expect_err("is refused");
        assert!(error.code == code && error.message.contains(words), "{error:?}");
    }
}

fn fetched(content_type: &str, body: &[u8]) -> Fetched {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_str(content_type).unwrap());
    Fetched { status: 201, url: "https://a.test/y".parse().unwrap(), redirected: true, headers, body: body.to_vec() }
}

#[test]
fn answers_are_shown_as_text() {
    let shown: Value = serde_json::from_str(render(&fetched("text/plain", "hé\u{0}".as_bytes())).unwrap().get()).unwrap();
    assert_eq!(
        shown,
        json!({"status": 201, "ok": true, "text": "hé\u{0}", "url": "https://a.test/y", "redirected": true, "headers": [["content-type", "text/plain"]]})
    );
    for (content_type, body, text) in [
        ("text/plain; charset=ISO-8859-1", &b"h\xe9"[..], "hé"),
        ("text/plain; charset=\"latin1\"", b"h\xe9", "hé"),
        ("text/plain; charset=utf-8", b"h\xe9", "h\u{fffd}"),
        ("application/json", b"\xef\xbb\xbf{}", "{}"),
        ("", b"", ""),
    ] {
        assert_eq!(super::text(body, Some(&HeaderValue::from_str(content_type).unwrap())), text, "{content_type}");
    }
}

#[test]
fn what_nobody_asked_for_is_not_unpacked_and_what_grows_is_refused() {
    let mut packed = fetched("text/plain", b"\x1f\x8b");
    packed.headers.insert("content-encoding", HeaderValue::from_static("gzip"));
    assert!(render(&packed).unwrap_err().message.contains("gzip"));
    packed.body.clear();
    assert!(render(&packed).is_ok());
    assert!(render(&fetched("text/plain", &vec![0; limits::SCRIPT_FETCH_ANSWER_MAX_BYTES])).unwrap_err().message.starts_with("response_too_large"));
}
