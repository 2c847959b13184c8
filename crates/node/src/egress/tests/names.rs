//! Rules for names: what a client says counts only where the name servers say the same.
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;

use super::zone::{Said, Zone};
use super::*;

fn v4(addr: SocketAddr) -> Ipv4Addr {
    match addr.ip() {
        IpAddr::V4(addr) => addr,
        IpAddr::V6(_) => unreachable!("the test's own address"),
    }
}

fn only(domain: &str) -> Policy {
    policy(json!({"mode": "block-all", "egress": {"trafficRules": [{"name": "only", "action": "allow", "domains": [domain]}]}}))
}

/// Answers every request on every connection with 200 and the Host that it has.
fn say_host(outside: &TcpListener) {
    let outside = outside.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in outside.incoming() {
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                while let Some(head) = read_head(&mut stream) {
                    let host = head.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap_or("none").to_owned();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{host}", host.len());
                    stream.get_mut().write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
}

/// To the empty line; None at the end.
fn read_head(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// Requests with these heads on one connection: what came for each, as status and body.
fn request(to: SocketAddr, heads: &[&str]) -> Vec<Result<String, ErrorKind>> {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut stream = BufReader::new(stream);
    let mut one = |head: &str| -> std::io::Result<String> {
        stream.get_mut().write_all(format!("{head}\r\n\r\n").as_bytes())?;
        let head = read_head(&mut stream).ok_or(ErrorKind::UnexpectedEof)?;
        let len = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(|len| len.parse().unwrap())).unwrap_or(0);
        let mut body = vec![0; len];
        stream.read_exact(&mut body)?;
        Ok(format!("{} {}", &head[9..12], String::from_utf8(body).unwrap().trim_end()))
    };
    heads.iter().map(|head| one(head).map_err(|error| error.kind())).collect()
}

const REFUSED: &str = "403 refused by the sandbox's network policy: mode block-all";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_holds_where_it_leads_to() {
    let zone = Zone::serve().await;
    let Some(bench) = bench(only("*.a.test"), vec![zone.addr]).await else { return };
    let to = bench.to;
    for name in ["a.test", "b.test", "www.a.test"] {
        zone.at(name, v4(to));
    }
    zone.at("far.a.test", Ipv4Addr::new(9, 9, 9, 9));
    zone.at("near.a.test", Ipv4Addr::new(10, 0, 0, 1));
    zone.say("v6.a.test", Said::At(vec![], 60));
    zone.say("alias.a.test", Said::Alias("cdn.test"));
    zone.at("cdn.test", v4(to));
    say_host(&bench.outside);

    // Nothing was asked of our resolver: the name servers are asked for what the client says.
    let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}");
    let table = [
        ("a.test", "200 a.test"),
        ("WWW.A.test.", "200 WWW.A.test."),
        ("www.a.test:8080", "200 www.a.test:8080"),
        ("alias.a.test", "200 alias.a.test"),
        // The operator opened this address, and nobody knows the name: an address of a network of the operator's own.
        ("unknown.a.test", "200 unknown.a.test"),
        ("cdn.test", REFUSED),
        ("b.test", REFUSED),
        ("far.a.test", REFUSED),
        ("near.a.test", REFUSED),
        // There is such a name, if without an address of this kind.
        ("v6.a.test", REFUSED),
        ("unknown.test", REFUSED),
        ("a.test.b.test", REFUSED),
        ("9.9.9.9", REFUSED),
        ("xa.test", REFUSED),
        ("a.te\u{301}st", REFUSED),
        ("0x7f.1", REFUSED),
    ];
    for (host, want) in table {
        let head = get(host);
        let got = inside(&bench.netns, move || request(to, &[&head])).await;
        assert_eq!(got, [Ok(want.to_owned())], "{host}");
    }
    for head in [
        "GET / HTTP/1.0",
        "GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test",
        "GET http://a.test/ HTTP/1.1\r\nHost: b.test",
        "GET http://b.test/ HTTP/1.1\r\nHost: a.test",
    ] {
        let got = inside(&bench.netns, move || request(to, &[head])).await;
        assert!(got[0].as_ref().is_ok_and(|answer| answer.starts_with("403") || answer.starts_with("400")), "{head}: {got:?}");
    }

    // Each request of a connection is judged.
    let heads = [get("a.test"), get("b.test"), get("a.test")];
    let got = inside(&bench.netns, move || request(to, &[&heads[0], &heads[1], &heads[2]])).await;
    assert_eq!(got, ["200 a.test", REFUSED, "200 a.test"].map(|text| Ok(text.to_owned())));
    let decisions = bench.handle.decisions();
    let refused = decisions.iter().rfind(|flow| flow.host.as_deref() == Some("b.test")).unwrap();
    // It was refused before.
    assert_eq!((refused.app, refused.decision, refused.times), (Some("http"), "deny", 2));

    // A name that leads elsewhere now is believed no more than its name servers.
    zone.at("moved.a.test", v4(to));
    let head = get("moved.a.test");
    let got = inside(&bench.netns, move || request(to, &[&head])).await;
    assert_eq!(got, [Ok("200 moved.a.test".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_speak_first_where_its_name_was_asked_for() {
    let zone = Zone::serve().await;
    let Some(bench) = bench(only("mail.test"), vec![zone.addr]).await else { return };
    let to = bench.to;
    zone.say("mail.test", Said::At(vec![v4(to)], 0));
    let outside = bench.outside.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in outside.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(b"220 hello\r\n").ok();
            let mut said = [0; 64];
            while let Ok(len @ 1..) = stream.read(&mut said) {
                stream.write_all(&said[..len]).ok();
            }
        }
    });
    let talk = move || -> std::io::Result<String> {
        let stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut stream = BufReader::new(stream);
        let mut text = String::new();
        stream.read_line(&mut text)?;
        stream.get_mut().write_all(b"ehlo x\r\n")?;
        stream.read_line(&mut text)?;
        Ok(text)
    };
    // Nobody asked for the name: only a client that says something could say whom it means.
    let unasked = inside(&bench.netns, talk).await.map_err(|error| error.kind());
    assert!(matches!(unasked, Err(ErrorKind::WouldBlock | ErrorKind::ConnectionReset)), "{unasked:?}");
    assert_eq!(inside(&bench.netns, || resolve("mail.test")).await.0, 0);
    assert_eq!(inside(&bench.netns, talk).await.unwrap(), "220 hello\r\nehlo x\r\n");
    let last = bench.handle.decisions().pop().unwrap();
    assert_eq!((last.host.as_deref(), last.decision, &*last.rule), (Some("mail.test"), "allow", "egress.trafficRules[0] `only`"));
    // After its time the name is asked for again, and leads here still.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(inside(&bench.netns, talk).await.unwrap(), "220 hello\r\nehlo x\r\n");
    // Another one does not, when it leads elsewhere by then.
    zone.at("mail.test", Ipv4Addr::new(9, 9, 9, 9));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let moved = inside(&bench.netns, talk).await.map_err(|error| error.kind());
    assert!(matches!(moved, Err(ErrorKind::WouldBlock | ErrorKind::ConnectionReset)), "{moved:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_greeted_may_take_its_time() {
    let zone = Zone::serve().await;
    let Some(bench) = bench(only("mail.test"), vec![zone.addr]).await else { return };
    let to = bench.to;
    zone.at("mail.test", v4(to));
    assert_eq!(inside(&bench.netns, || resolve("mail.test")).await.0, 0);
    let outside = bench.outside.try_clone().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = outside.accept().unwrap();
        stream.write_all(b"220 hello\r\n").unwrap();
        let mut said = [0; 8];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(&said).unwrap();
    });
    let echoed = inside(&bench.netns, move || {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.read_exact(&mut [0; 11]).unwrap();
        stream.write_all(b"eh").unwrap();
        std::thread::sleep(Duration::from_secs(11));
        stream.write_all(b"lo x\r\n").unwrap();
        let mut echoed = [0; 8];
        stream.read_exact(&mut echoed).map(|()| echoed)
    })
    .await;
    assert_eq!(&echoed.unwrap(), b"ehlo x\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_message_is_not_held_where_more_of_it_changes_nothing() {
    let zone = Zone::serve().await;
    let Some(bench) = bench(only("short.test"), vec![zone.addr]).await else { return };
    let to = bench.to;
    zone.at("short.test", v4(to));
    assert_eq!(inside(&bench.netns, || resolve("short.test")).await.0, 0);
    let outside = bench.outside.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in outside.incoming() {
            let mut stream = stream.unwrap();
            let mut said = [0; 3];
            if stream.read_exact(&mut said).is_ok() {
                stream.write_all(&said).ok();
            }
        }
    });
    let short = move |bytes: [u8; 3]| {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut echoed = [0; 3];
        stream.read_exact(&mut echoed).map(|()| echoed).map_err(|error| error.kind())
    };
    assert_eq!(inside(&bench.netns, move || short([0, 32, 1])).await, Ok([0, 32, 1]));
    assert_eq!(inside(&bench.netns, move || short(*b"GET")).await, Err(ErrorKind::WouldBlock), "it may still say another name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_is_not_past_its_judge() {
    let zone = Zone::serve().await;
    let denied = json!({"mode": "allow-all", "egress": {"trafficRules": [{"name": "no b", "action": "deny", "domains": ["b.test"]}]}});
    let Some(bench) = bench(policy(denied), vec![zone.addr]).await else { return };
    let to = bench.to;
    for name in ["a.test", "b.test"] {
        zone.at(name, v4(to));
    }
    say_host(&bench.outside);
    assert_eq!(inside(&bench.netns, || resolve("b.test")).await.0, 5);
    assert_eq!(inside(&bench.netns, || resolve("a.test")).await.0, 0);
    let slowly = move |host: &'static str| {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        for part in ["GE", "T / HT", "TP/1.1\r\nHost: ", host, "\r\n", "\r\n"] {
            stream.write_all(part.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        let mut text = vec![0; 1024];
        let len = stream.read(&mut text).unwrap();
        String::from_utf8_lossy(&text[..len]).into_owned()
    };
    assert!(inside(&bench.netns, move || slowly("a.test")).await.starts_with("HTTP/1.1 200"));
    let refused = inside(&bench.netns, move || slowly("b.test")).await;
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("no b"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_is_gone_takes_its_connections_along() {
    let zone = Zone::serve().await;
    let Some(bench) = bench(only("a.test"), vec![zone.addr]).await else { return };
    let to = bench.to;
    zone.at("a.test", v4(to));
    say_host(&bench.outside);
    let stream = inside(&bench.netns, move || TcpStream::connect(to).unwrap()).await;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (&stream).write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    assert!((&stream).read(&mut [0; 256]).unwrap() > 0);
    bench.handle.set_policy(only("b.test")).await.unwrap();
    assert_eq!((&stream).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}
