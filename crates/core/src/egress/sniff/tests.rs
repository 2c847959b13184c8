#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn known(app: App, name: Named) -> Sniff {
    Sniff::Known { app: Some(app), name }
}

fn is_more(sniff: &Sniff) -> bool {
    matches!(sniff, Sniff::More { .. })
}

fn name(text: &str) -> Named {
    Named::Name(text.to_owned())
}

/// A hello with these extensions.
fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, value) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend((value.len() as u16).to_be_bytes());
        list.extend(value);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((list.len() as u16).to_be_bytes());
    body.extend(list);
    let mut hello = vec![1];
    hello.extend(&(body.len() as u32).to_be_bytes()[1..]);
    hello.extend(body);
    hello
}

fn server_name(text: &str) -> (u16, Vec<u8>) {
    let mut value = ((text.len() + 3) as u16).to_be_bytes().to_vec();
    value.push(0);
    value.extend((text.len() as u16).to_be_bytes());
    value.extend(text.as_bytes());
    (0, value)
}

/// In records of at most `size` bytes.
fn records(hello: &[u8], size: usize) -> Vec<u8> {
    let record = |chunk: &[u8]| [&[22, 3, 1][..], &(chunk.len() as u16).to_be_bytes(), chunk].concat();
    hello.chunks(size).flat_map(record).collect()
}

#[test]
fn the_name_in_a_hello() {
    let table = [
        (hello(&[(10, vec![0, 2, 0, 29]), server_name("Good.Test"), (43, vec![2, 3, 4])]), name("good.test")),
        (hello(&[(10, vec![0, 2, 0, 29])]), Named::Absent),
        (hello(&[server_name("good.test"), (0xfe0d, vec![0; 9])]), Named::Hidden),
        (hello(&[server_name("good.test"), server_name("evil.test")]), Named::Hidden),
        (hello(&[server_name("10.0.0.1")]), Named::Hidden),
        (hello(&[(0, vec![0, 1, 0])]), Named::Hidden),
    ];
    for (hello, want) in table {
        for size in [1, 7, 1 << 14] {
            let bytes = records(&hello, size);
            assert_eq!(first_bytes(&bytes, false), known(App::Tls, want.clone()), "records of {size}");
            for end in 0..bytes.len() {
                assert!(is_more(&first_bytes(&bytes[..end], false)), "{end} of {}", bytes.len());
            }
            assert_eq!(first_bytes(&bytes[..bytes.len() - 1], true), known(App::Tls, Named::Hidden));
        }
    }
}

#[test]
fn requests() {
    let table = [
        ("GET / HTTP/1.1\r\nHost: Good.Test:8080\r\n\r\n", name("good.test")),
        ("GET / HTTP/1.1\nhOST:good.test\n\n", name("good.test")),
        ("\r\n\r\nPOST /x HTTP/1.1\r\nA: b\r\nHost: good.test\r\n\r\nbody", name("good.test")),
        ("GET http://good.test/x HTTP/1.1\r\nHost: good.test\r\n\r\n", name("good.test")),
        ("GET http://evil.test/x HTTP/1.1\r\nHost: good.test\r\n\r\n", Named::Hidden),
        ("GET http://good.test@evil.test/ HTTP/1.0\r\n\r\n", name("evil.test")),
        ("GET / HTTP/1.1\r\nHost: good.test\r\nHost: evil.test\r\n\r\n", Named::Hidden),
        ("GET / HTTP/1.1\r\nHost : evil.test\r\n\r\n", name("evil.test")),
        ("GET / HTTP/1.1\r\nHost: good.test\r\n\tevil.test\r\n\r\n", Named::Hidden),
        ("GET / HTTP/1.1\r\nHost: 1.2.3.4\r\n\r\n", Named::Absent),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Named::Hidden),
        ("GET / HTTP/1.0\r\n\r\n", Named::Absent),
        ("GET /\r\n", Named::Absent),
        ("get / http/1.1\r\nhost: x.test\r\n\r\n", name("x.test")),
        ("CONNECT evil.test:443 HTTP/1.1\r\nHost: good.test\r\n\r\n", name("good.test")),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Named::Later),
        // What some servers take for a request, and others for nothing.
        ("AMETHODOFMORETHAN25LETTERS / HTTP/1.1\r\nHost: evil.test\r\n\r\n", name("evil.test")),
        ("POST\t/x\tHTTP/1.1\r\nHost: good.test\r\n\r\n", Named::Hidden),
        ("GET  / HTTP/1.1\r\nHost: good.test\r\n\r\n", Named::Hidden),
        ("GET /a b HTTP/1.1\r\nHost: good.test\r\n\r\n", Named::Hidden),
        ("\u{b}GET\u{c}/ http/1.1\r\nHost: good.test\r\n\r\n", Named::Hidden),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: good.test\r\n\r\n", Named::Hidden),
    ];
    for (text, want) in table {
        assert_eq!(first_bytes(text.as_bytes(), false), known(App::Http, want), "{text:?}");
    }
    for text in ["", "G", "GET", "GET / HT", "GET / HTTP/1.1\r\nHost: x", "\r\n", "PRI * HTTP/2.0\r\n"] {
        assert!(is_more(&first_bytes(text.as_bytes(), false)), "{text:?}");
    }
    assert_eq!(first_bytes(b"GET / HTTP/1.1\r\nHost: x", true), known(App::Http, Named::Hidden));
    let long = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(BYTES_MAX / 6 + 1));
    assert_eq!(first_bytes(long.as_bytes(), false), known(App::Http, Named::Hidden));
}

#[test]
fn what_the_bytes_can_still_become() {
    let apps = |bytes: &[u8]| match first_bytes(bytes, false) {
        Sniff::More { apps } => apps,
        Sniff::Known { .. } => Vec::new(),
    };
    assert!(App::ALL.iter().all(|app| apps(b"").contains(app)));
    assert_eq!(apps(b"GET /"), [App::Http]);
    assert_eq!(apps(b"\x01\x02"), [App::Mongodb, App::Dns]);
    assert_eq!(apps(b"\x16"), [App::Tls, App::Mongodb, App::Dns]);
}

#[test]
fn other_protocols() {
    let mongo = [&58_u32.to_le_bytes()[..], &[1, 0, 0, 0, 0, 0, 0, 0], &2013_u32.to_le_bytes()].concat();
    let dns = [&29_u16.to_be_bytes()[..], &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], b"\x07example\x04test\0\0\x01\0\x01"].concat();
    let table: &[(&[u8], Option<App>)] = &[
        (b"SSH-2.0-OpenSSH_9.2\r\n", Some(App::Ssh)),
        (b"AMQP\0\0\x09\x01", Some(App::Amqp)),
        (b"\x10\x11\0\x04MQTT\x04\x02\0\x3c\0\x05abcde", Some(App::Mqtt)),
        (b"\x10\x80\x01\0\x06MQIsdp\x03", Some(App::Mqtt)),
        (b"*1\r\n$4\r\nPING\r\n", Some(App::Redis)),
        (&mongo, Some(App::Mongodb)),
        (b"\x05\x01\0", Some(App::Socks5)),
        (b"\x05\x02\0\x02", Some(App::Socks5)),
        (&dns, Some(App::Dns)),
        // PostgreSQL's wish for TLS, and its start.
        (b"\0\0\0\x08\x04\xd2\x16\x2f", None),
        (b"\0\0\0\x20\0\x03\0\0user\0app\0", None),
        (b"EHLO me\r\n", None),
        (b"\x04\x01\0\x50\x01\x02\x03\x04\0", None),
        (b"*x\r\n", None),
        (b"\x16\x04\x01\xff\xff", None),
        (b"hello there\r\n", None),
    ];
    for (bytes, want) in table {
        assert_eq!(first_bytes(bytes, false), Sniff::Known { app: *want, name: Named::Absent }, "{bytes:?}");
    }
    assert!(is_dns_question(&dns[2..]) && !is_dns_question(b"hello"));
}

proptest! {
    #[test]
    fn never_panics_and_comes_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..300), lead in prop::sample::select(vec![&b""[..], b"\x16\x03\x01", b"GET ", b"\x10", b"*3", b"\x05"])) {
        let bytes = [lead, &bytes].concat();
        let _ = first_bytes(&bytes, false);
        prop_assert!(!is_more(&first_bytes(&bytes, true)));
        let _ = client_hello(&bytes);
    }

    /// Once something was said it stays said, however the bytes came.
    #[test]
    fn more_bytes_change_nothing(bytes in "(GET|PUT) /[a-z]{0,9} HTTP/1.1\r\n(Host: [a-z]{1,5}\r\n){0,2}\r\n[a-z]{0,20}") {
        let whole = first_bytes(bytes.as_bytes(), false);
        for end in 0..bytes.len() {
            let part = first_bytes(&bytes.as_bytes()[..end], false);
            prop_assert!(is_more(&part) || part == whole, "{end}: {part:?}");
        }
    }
}
