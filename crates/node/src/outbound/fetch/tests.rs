use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::header::HeaderValue;
use sandbar_core::egress::Prefix;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    egress::Egress,
    outbound::{Lookups, Walls},
};

/// A server that keeps what it was asked, head and body as they came, and answers by path.
struct Upstream {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    async fn start(answers: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let upstream = Self { addr: listener.local_addr().expect("an address"), asked: Arc::default() };
        let (asked, answers) = (Arc::clone(&upstream.asked), Arc::new(answers));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
                tokio::spawn(async move {
                    let mut got = Vec::new();
                    let mut piece = [0; 4096];
                    let whole = |got: &[u8]| {
                        let text = String::from_utf8_lossy(got).into_owned();
                        let (head, body) = text.split_once("\r\n\r\n")?;
                        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().expect("a number"));
                        (body.len() >= length).then_some(text)
                    };
                    let text = loop {
                        if let Some(text) = whole(&got) {
                            break text;
                        }
                        match stream.read(&mut piece).await {
                            Ok(0) | Err(_) => return,
                            Ok(n) => got.extend_from_slice(&piece[..n]),
                        }
                    };
                    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                    asked.lock().expect("a lock").push(text);
                    let answer = answers(&path);
                    let _ = stream.write_all(&answer).await;
                    if path == "/silent" {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        upstream
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("a lock"))
    }
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

fn to(location: &str, status: u16) -> Vec<u8> {
    answer(&format!("{status} Elsewhere\r\nlocation: {location}"), "")
}

/// What leads to loopback by name; what the test changes meanwhile; and nothing else is known. 127.0.0.1 is opened, as an operator
/// does it, and nothing else.
fn outbound(names: Arc<Mutex<HashMap<&'static str, Vec<&'static str>>>>) -> Outbound {
    let egress = Egress::with_nameservers(vec!["127.0.0.1/32".parse::<Prefix>().expect("a prefix")], Vec::new()).expect("starts");
    let lookup = move |name: &str| {
        let names = names.lock().expect("a lock");
        let addresses = names.get(name).ok_or_else(|| io::Error::other("nobody knows it"))?;
        Ok(addresses.iter().map(|addr| SocketAddr::new(addr.parse().expect("an address"), 0)).collect())
    };
    Outbound::with_lookups(Walls::Of(egress), Arc::new(Lookups::new(Box::new(lookup)))).expect("starts")
}

fn names(list: &[(&'static str, &[&'static str])]) -> Arc<Mutex<HashMap<&'static str, Vec<&'static str>>>> {
    Arc::new(Mutex::new(list.iter().map(|(name, addresses)| (*name, addresses.to_vec())).collect()))
}

fn ask(url: &str) -> FetchAsk<'static> {
    FetchAsk {
        team: "t",
        method: Method::GET,
        url: url.parse().expect("a URL"),
        headers: HeaderMap::new(),
        body: None,
        redirects: Redirects::Follow(5),
        answer_bytes_max: 1000,
        until: Instant::now() + Duration::from_secs(20),
    }
}

const ANY: fn(&Url) -> Result<HeaderMap, String> = |_| Ok(HeaderMap::new());

#[tokio::test]
async fn an_answer_is_told_as_it_is() {
    let upstream = Upstream::start(|_| answer("404 No\r\nx-a: 1\r\nx-a: 2\r\ncontent-type: text/plain", "nothing")).await;
    let outbound = outbound(names(&[("a.test", &["127.0.0.1"])]));
    let mut ask = ask(&format!("http://a.test:{}/x?y=1#z", upstream.addr.port()));
    ask.method = Method::PUT;
    ask.body = Some(Bytes::from_static(b"hello"));
    ask.headers.insert("x-b", HeaderValue::from_static("3"));
    let fetched = outbound.fetch(ask, ANY).await.expect("an answer");
    assert_eq!((fetched.status, fetched.redirected, &fetched.body[..]), (404, false, &b"nothing"[..]));
    assert_eq!(fetched.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    let asked = upstream.asked();
    assert!(asked[0].starts_with("PUT /x?y=1 HTTP/1.1\r\n") && asked[0].contains("x-b: 3\r\n") && asked[0].ends_with("\r\n\r\nhello"), "{asked:?}");
    assert!(asked[0].contains(&format!("host: a.test:{}\r\n", upstream.addr.port())), "{asked:?}");
}

#[tokio::test]
async fn what_is_protected_is_not_reached() {
    let upstream = Upstream::start(|_| answer("200 OK", "secret")).await;
    let port = upstream.addr.port();
    let outbound = outbound(names(&[
        ("inner.test", &["10.0.0.1"]),
        ("mixed.test", &["10.0.0.1", "127.0.0.1"]),
        ("meta.test", &["169.254.169.254", "::ffff:169.254.169.254"]),
    ]));
    for host in
        ["127.0.0.2", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "0.0.0.0", "[fd00::1]", "[64:ff9b::7f00:1]", "inner.test", "meta.test"]
    {
        let refused = outbound.fetch(ask(&format!("http://{host}:{port}/")), ANY).await;
        assert!(matches!(&refused, Err(FetchError::Refused(text)) if text.contains("is not reached")), "{host}: {refused:?}");
    }
    assert!(matches!(outbound.fetch(ask("http://unknown.test/"), ANY).await, Err(FetchError::Failed(_))));
    // Of a name's addresses those that may be reached are.
    assert_eq!(outbound.fetch(ask(&format!("http://mixed.test:{port}/")), ANY).await.expect("an answer").body, b"secret");
    assert_eq!(outbound.fetch(ask(&format!("http://2130706433:{port}/")), ANY).await.expect("an answer").body, b"secret");
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_by_now_is_looked_at_again() {
    let upstream = Upstream::start(|_| answer("200 OK", "")).await;
    let names = names(&[("rebind.test", &["127.0.0.1"])]);
    let outbound = outbound(Arc::clone(&names));
    let url = format!("http://rebind.test:{}/", upstream.addr.port());
    assert!(outbound.fetch(ask(&url), ANY).await.is_ok());
    names.lock().expect("a lock").insert("rebind.test", vec!["127.0.0.3"]);
    assert!(matches!(outbound.fetch(ask(&url), ANY).await, Err(FetchError::Refused(_))));
    assert_eq!(upstream.asked().len(), 1);
}

#[tokio::test]
async fn each_step_of_a_redirect_is_judged() {
    let upstream = Upstream::start(|path| match path {
        "/private" => to("http://10.0.0.1/x", 302),
        "/named" => to("http://inner.test/x", 302),
        "/file" => to("file:///etc/passwd", 302),
        "/other" => to("//b.test/x", 302),
        "/bad" => to("http://[/", 302),
        "/loop" => to("/loop", 302),
        "/relative" => to("sub/x", 307),
        "/nowhere" => answer("302 Found", "as it is"),
        _ => answer("200 OK", "arrived"),
    })
    .await;
    let outbound = outbound(names(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"]), ("inner.test", &["10.0.0.1"])]));
    let base = format!("http://a.test:{}", upstream.addr.port());
    let judge = |url: &Url| if url.host_str() == Some("b.test") || url.scheme() == "file" { Err(format!("not {url}")) } else { Ok(HeaderMap::new()) };
    for path in ["/private", "/named", "/file", "/other"] {
        let refused = outbound.fetch(ask(&format!("{base}{path}")), judge).await;
        assert!(matches!(refused, Err(FetchError::Refused(_))), "{path}: {refused:?}");
    }
    assert!(matches!(outbound.fetch(ask(&format!("{base}/bad")), judge).await, Err(FetchError::Failed(_))));
    assert_eq!(outbound.fetch(ask(&format!("{base}/nowhere")), judge).await.expect("an answer").body, b"as it is");
    upstream.asked();
    assert_eq!(outbound.fetch(ask(&format!("{base}/loop")), judge).await, Err(FetchError::TooManyRedirects(5)));
    assert_eq!(upstream.asked().len(), 6);
    let arrived = outbound.fetch(ask(&format!("{base}/relative#f")), judge).await.expect("an answer");
    assert_eq!((arrived.redirected, arrived.url.as_str()), (true, format!("{base}/sub/x#f").as_str()));
    let mut manual = ask(&format!("{base}/private"));
    manual.redirects = Redirects::Manual;
    assert_eq!(outbound.fetch(manual, judge).await.expect("an answer").headers["location"], "http://10.0.0.1/x");
    let mut refuse = ask(&format!("{base}/private"));
    refuse.redirects = Redirects::Refuse;
    assert_eq!(outbound.fetch(refuse, judge).await, Err(FetchError::Redirected));
}

#[tokio::test]
async fn what_is_redirected_changes_as_browsers_do_it() {
    // Status, method sent, method and whether there is a body afterwards.
    let table = [
        (301, "POST", "GET", false),
        (302, "POST", "GET", false),
        (302, "PUT", "PUT", true),
        (303, "POST", "GET", false),
        (303, "PUT", "GET", false),
        (303, "HEAD", "HEAD", true),
        (307, "POST", "POST", true),
        (308, "DELETE", "DELETE", true),
    ];
    let upstream = Upstream::start(|path| match path.strip_prefix("/by") {
        Some(status) => to("/there", status.parse().expect("a status")),
        None => answer("204 Done", ""),
    })
    .await;
    let outbound = outbound(names(&[("a.test", &["127.0.0.1"])]));
    for (status, method, then, keeps_body) in table {
        let mut ask = ask(&format!("http://a.test:{}/by{status}", upstream.addr.port()));
        ask.method = method.parse().expect("a method");
        ask.headers.insert("content-type", HeaderValue::from_static("text/x"));
        ask.headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        ask.body = Some(Bytes::from_static(b"body"));
        outbound.fetch(ask, ANY).await.expect("an answer");
        let asked = upstream.asked();
        assert!(asked[1].starts_with(&format!("{then} /there ")), "{status} {method}: {asked:?}");
        assert_eq!((asked[1].ends_with("body"), asked[1].contains("content-type")), (keeps_body, keeps_body), "{status} {method}: {asked:?}");
        assert!(asked[1].contains("authorization: Bearer x"), "the same origin: {asked:?}");
    }
}

#[tokio::test]
async fn what_only_one_may_be_told_is_told_to_it_alone() {
    let there = Upstream::start(|_| answer("204 Done", "")).await;
    let location = format!("http://b.test:{}/", there.addr.port());
    let upstream = Upstream::start(move |path| if path == "/away" { to(&location, 307) } else { to("/away", 307) }).await;
    let outbound = outbound(names(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])]));
    let judge = |url: &Url| {
        let mut besides = HeaderMap::new();
        if url.host_str() == Some("a.test") {
            besides.insert("x-mark", HeaderValue::from_static("ours"));
        }
        Ok(besides)
    };
    let mut ask = ask(&format!("http://a.test:{}/", upstream.addr.port()));
    ask.headers.insert("x-mark", HeaderValue::from_static("theirs"));
    outbound.fetch(ask, judge).await.expect("an answer");
    for asked in upstream.asked() {
        assert!(asked.contains("x-mark: ours") && !asked.contains("theirs"), "{asked}");
    }
    assert!(there.asked()[0].contains("x-mark: theirs"), "what the script says itself is its own");
}

#[tokio::test]
async fn who_owns_the_machine_reaches_all_of_it() {
    let upstream = Upstream::start(|_| answer("200 OK", "mine")).await;
    let outbound = Outbound::of_owner().expect("starts");
    for host in ["127.0.0.1", "localhost"] {
        let fetched = outbound.fetch(ask(&format!("http://{host}:{}/", upstream.addr.port())), ANY).await.expect("an answer");
        assert_eq!(fetched.body, b"mine");
    }
    assert!(matches!(outbound.fetch(ask("http://127.0.0.1/"), |_| Err("no".to_owned())).await, Err(FetchError::Refused(_))), "also the first is judged");
}

#[tokio::test]
async fn credentials_stay_with_the_origin() {
    let there = Upstream::start(|_| answer("204 Done", "")).await;
    let location = format!("http://b.test:{}/", there.addr.port());
    let upstream = Upstream::start(move |_| to(&location, 307)).await;
    let outbound = outbound(names(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])]));
    let mut ask = ask(&format!("http://a.test:{}/", upstream.addr.port()));
    ask.headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    ask.headers.insert(COOKIE, HeaderValue::from_static("s=x"));
    ask.headers.insert("x-plain", HeaderValue::from_static("kept"));
    let mut secret = HeaderValue::from_static("hush");
    secret.set_sensitive(true);
    ask.headers.insert("x-key", secret);
    outbound.fetch(ask, ANY).await.expect("an answer");
    let (first, second) = (upstream.asked().remove(0), there.asked().remove(0));
    for header in ["authorization: Bearer x", "cookie: s=x", "x-key: hush"] {
        assert!(first.contains(header) && !second.contains(header), "{second}");
    }
    assert!(second.contains("x-plain: kept"));
}

#[tokio::test]
async fn too_much_and_too_late_are_said() {
    let upstream = Upstream::start(|path| match path {
        "/said" => b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n".to_vec(),
        "/chunks" => [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n".to_vec(), vec![b'x'; 1001], b"\r\n0\r\n\r\n".to_vec()].concat(),
        "/fits" => answer("200 OK", &"x".repeat(1000)),
        "/cut" => b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".to_vec(),
        "/garbage" => b"220 smtp.test ESMTP\r\n".to_vec(),
        _ => Vec::new(),
    })
    .await;
    let outbound = outbound(names(&[]));
    let url = |path: &str| format!("http://{}{path}", upstream.addr);
    for path in ["/said", "/chunks"] {
        assert_eq!(outbound.fetch(ask(&url(path)), ANY).await, Err(FetchError::TooLarge { max_bytes: 1000 }), "{path}");
    }
    assert_eq!(outbound.fetch(ask(&url("/fits")), ANY).await.expect("fits").body.len(), 1000);
    for path in ["/cut", "/garbage"] {
        assert!(matches!(outbound.fetch(ask(&url(path)), ANY).await, Err(FetchError::Failed(_))), "{path}");
    }
    let mut late = ask(&url("/silent"));
    late.until = Instant::now() + Duration::from_millis(50);
    assert_eq!(outbound.fetch(late, ANY).await, Err(FetchError::Late));
}
