//! HTTP that is looked into, plain and within TLS.
use std::collections::BTreeMap;

use ::http::{Method, Request, Version, header};
use http_body_util::{BodyExt, Empty};
use sandbar_core::credential::Material;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::servers::{Client, connect_tls, full, serve, tls_client, tls_server, within};
use super::world::{bound, rules, world};
use super::*;

fn get(host: &str, path: &str) -> Request<super::servers::Body> {
    Request::get(path).header(header::HOST, host).body(Empty::new().boxed_unsync()).unwrap()
}

/// As HTTP/2 has it.
fn get2(scheme: &str, host: &str, path: &str) -> Request<super::servers::Body> {
    Request::get(format!("{scheme}://{host}{path}")).body(Empty::new().boxed_unsync()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_both_versions_go_through_one_by_one() {
    let paths = json!({"protocolRules": [{"name": "paths", "protocol": "http", "http": {"paths": {"deniedPrefixes": ["/secret"]}}}]});
    let Some(world) = world(rules(paths)).await else { return };
    let to = world.bench.to;
    serve(&world.bench.outside, None);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let answers = within(&world.bench.netns, move || async move {
            let make = |host: &str, path: &str| if version == Version::HTTP_2 { get2("http", host, path) } else { get(host, path) };
            let mut client = Client::new(tokio::net::TcpStream::connect(to).await.unwrap(), version).await;
            let mut answers = Vec::new();
            for (host, path) in [("a.test", "/x?y=1"), ("a.test", "/secret/x"), ("a.test", "/%73ecret"), ("b.test", "/x"), ("a.test", "/again")] {
                answers.push(client.fetch(make(host, path)).await);
            }
            // Both ways at once, with trailers at the end.
            let (parts, body) = tokio::sync::mpsc::channel::<&'static str>(1);
            let frames = futures_util::stream::unfold(body, |mut body| async {
                let part = body.recv().await?;
                Some((Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(bytes::Bytes::from_static(part.as_bytes()))), body))
            });
            let mut request = make("a.test", "/stream");
            *request.method_mut() = Method::POST;
            request.headers_mut().insert(header::TE, "trailers".parse().unwrap());
            *request.body_mut() = http_body_util::StreamBody::new(frames).boxed_unsync();
            parts.send("one").await.unwrap();
            let mut body = client.send(request).await.unwrap().into_body();
            let mut said = Vec::new();
            let mut trailers = None;
            for part in ["two", "three", ""] {
                if let Some(Ok(frame)) = body.frame().await {
                    said.push(frame.into_data().unwrap());
                }
                if !part.is_empty() {
                    parts.send(part).await.unwrap();
                }
            }
            drop(parts);
            while let Some(Ok(frame)) = body.frame().await {
                trailers = frame.into_trailers().ok();
            }
            assert_eq!(said, ["one", "two", "three"], "{version:?}");
            if version == Version::HTTP_2 {
                assert_eq!(trailers.unwrap()["grpc-status"], "0");
            }
            answers
        })
        .await;
        let (status, text) = &answers[0];
        let target = if version == Version::HTTP_2 { "http://a.test/x?y=1" } else { "/x?y=1" };
        assert_eq!(*status, 200, "{text}");
        assert!(text.starts_with(&format!("GET {target} {version:?}\n")), "{text}");
        let refused = (403, "refused by the sandbox's network policy: egress.protocolRules[0] `paths` (path)\n".to_owned());
        assert_eq!(answers[1], refused);
        assert_eq!(answers[2], refused);
        assert_eq!(answers[3].0, 403);
        assert_eq!(answers[4].0, 200);
    }
    let bytes = world.bench.handle.counters();
    assert!(bytes.sent_bytes > 200 && bytes.received_bytes > 200, "{bytes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_judged_and_then_left_alone() {
    let paths = json!({"protocolRules": [{"name": "paths", "protocol": "http", "http": {"paths": {"allowed": ["/ws"]}}}]});
    let Some(world) = world(rules(paths.clone())).await else { return };
    let to = world.bench.to;
    serve(&world.bench.outside, None);
    let ask = move |path: &'static str, token: &'static str| async move {
        let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nUpgrade: {token}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        (String::from_utf8(head).unwrap(), stream)
    };
    let echoed = within(&world.bench.netns, move || async move {
        let (head, mut stream) = ask("/ws", "websocket").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        stream.write_all(b"GET /x HTTP/1.1\r\n").await.unwrap();
        let mut echoed = [0; 17];
        stream.read_exact(&mut echoed).await.unwrap();
        (stream.into_std().unwrap(), String::from_utf8_lossy(&echoed).into_owned())
    })
    .await;
    assert_eq!(echoed.1, "GET /x HTTP/1.1\r\n");
    within(&world.bench.netns, move || async move {
        assert!(ask("/other", "websocket").await.0.starts_with("HTTP/1.1 403"));
    })
    .await;

    // A rule that refuses the request now ends what came of it.
    let other = json!({"protocolRules": [{"name": "paths", "protocol": "http", "http": {"paths": {"allowed": ["/other"]}}}]});
    world.bench.handle.set_policy(policy(rules(other))).await.unwrap();
    let mut stream = echoed.0;
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    // HTTP in another form is not asked for.
    let text = within(&world.bench.netns, move || async move {
        let (head, mut stream) = ask("/other", "h2c").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut text = vec![0; 512];
        let len = stream.read(&mut text).await.unwrap();
        String::from_utf8_lossy(&text[..len]).into_owned()
    })
    .await;
    assert!(!text.contains("upgrade") && !text.contains("http2-settings"), "{text}");

    // Nor is anything where a server could read another thing than we do, and it gets no other than was asked for.
    world.bench.handle.set_policy(policy(rules(json!({})))).await.unwrap();
    within(&world.bench.netns, move || async move {
        for tokens in ["websocket\r\nUpgrade: h2c", "h2c\r\nUpgrade: websocket", "websocket, h2c", "", " , h2c"] {
            let (head, mut stream) = ask("/other", tokens).await;
            assert!(head.starts_with("HTTP/1.1 200"), "{tokens}: {head}");
            let mut text = vec![0; 512];
            let len = stream.read(&mut text).await.unwrap();
            let text = String::from_utf8_lossy(&text[..len]).into_owned();
            assert!(!text.contains("upgrade") && !text.contains("http2-settings"), "{tokens}: {text}");
        }
        assert!(ask("/ws", "tcp").await.0.starts_with("HTTP/1.1 502"));
        assert!(ask("/ws", "WebSocket").await.0.starts_with("HTTP/1.1 101"));
    })
    .await;

    // What goes by in another protocol cannot be looked into for tools.
    let tools = json!({"protocolRules": [{"name": "tools", "protocol": "mcp", "domains": ["a.test"], "mcp": {"tools": {"denied": ["rm"]}}}]});
    world.bench.handle.set_policy(policy(rules(tools))).await.unwrap();
    within(&world.bench.netns, move || async move {
        assert!(ask("/ws", "websocket").await.0.starts_with("HTTP/1.1 403"));
    })
    .await;
    assert_eq!(world.bench.handle.decisions().pop().unwrap().rule, "egress.protocolRules[0] `tools` (an upgrade is not looked into)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_is_never_two() {
    let Some(world) = world(rules(json!({}))).await else { return };
    let to = world.bench.to;
    serve(&world.bench.outside, None);
    let table = [
        (
            "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: b.test\r\n\r\n",
            "b.test",
        ),
        ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "abcd"),
        ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "POST"),
        ("GET / HTTP/1.1\r\nHost: a.test\r\n Host: b.test\r\n\r\n", "GET"),
        ("GET / HTTP/1.1\nHost: a.test\n\nGET / HTTP/1.1\nHost: b.test\n\n", "b.test"),
        ("CONNECT b.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", "b.test"),
    ];
    for (bytes, never) in table {
        let text = inside(&world.bench.netns, move || {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            stream.write_all(bytes.as_bytes()).unwrap();
            // It may be over by now.
            stream.shutdown(Shutdown::Write).ok();
            let mut text = Vec::new();
            stream.read_to_end(&mut text).ok();
            String::from_utf8_lossy(&text).into_owned()
        })
        .await;
        let answered = text.split("HTTP/1.1 200 OK").skip(1).any(|answer| answer.contains(never));
        assert!(!answered, "{bytes:?}\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_that_may_not_be_called_are_refused_in_their_protocol() {
    let tools = json!({"protocolRules": [{"name": "tools", "protocol": "mcp", "domains": ["a.test"], "mcp": {"tools": {"denied": ["rm"]}}}]});
    let Some(world) = world(rules(tools)).await else { return };
    let to = world.bench.to;
    serve(&world.bench.outside, None);
    let answers = within(&world.bench.netns, move || async move {
        let mut answers = Vec::new();
        for (tool, encoding, filler) in [("ls", None, 0), ("rm", None, 0), ("ls", Some("gzip"), 0), ("ls", None, 1 << 20)] {
            let mut client = Client::new(tokio::net::TcpStream::connect(to).await.unwrap(), Version::HTTP_11).await;
            let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": tool, "x": "x".repeat(filler)}});
            let mut request = Request::post("/mcp").header(header::HOST, "a.test").body(full(&call.to_string())).unwrap();
            if let Some(encoding) = encoding {
                request.headers_mut().insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
            }
            answers.push(client.fetch(request).await);
        }
        answers
    })
    .await;
    assert!(answers[0].0 == 200 && answers[0].1.contains("\"ls\""), "{answers:?}");
    let error: Value = serde_json::from_str(&answers[1].1).unwrap();
    assert_eq!((answers[1].0, &error["id"], &error["error"]["code"]), (200, &json!(7), &json!(-32003)));
    assert_eq!((answers[2].0, answers[3].0), (415, 413));
}

fn token() -> Material {
    Material::Headers(BTreeMap::from([("token".to_owned(), "s3cret".to_owned())]))
}

fn bearer(rule: Value) -> Value {
    let mut whole = json!({"name": "key", "credentialRef": "secret", "domains": ["a.test"]});
    whole.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
    bound(whole, json!({"type": "http_headers", "httpHeaders": {"headers": [{"name": "Authorization", "valueTemplate": "Bearer {{ .token }}"}]}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_made_anew_with_a_secret_in_it() {
    let network = bearer(json!({"protocol": "https", "tlsMode": "terminate-reoriginate"}));
    let Some(world) = world(network.clone()).await else { return };
    let to = world.bench.to;
    serve(&world.bench.outside, Some(Arc::new(tls_server(&world.outside, "a.test", &["h2", "http/1.1"]))));
    let root = world.bench.egress.authority().certificate().clone();
    let ask = |alpn: &'static [&'static str], version: Version, host: &'static str| {
        let root = root.clone();
        within(&world.bench.netns, move || async move {
            let stream = connect_tls(to, "a.test", tls_client(&root, alpn)).await.unwrap();
            let chosen = stream.get_ref().1.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned());
            let mut client = Client::new(stream, version).await;
            let make = |path| if version == Version::HTTP_2 { get2("https", host, path) } else { get(host, path) };
            let one = client.fetch(make("/one")).await;
            let two = client.fetch(make("/two")).await;
            (chosen, one, two)
        })
    };
    // Before the secret is there, nothing goes out without it.
    let (_, one, _) = ask(&[], Version::HTTP_11, "a.test").await;
    assert_eq!(one, (403, "refused by the sandbox's network policy: egress.credentialRules[0] `key` (its credential source is not there)\n".to_owned()));
    world.give(network, token()).await;
    for (alpn, version) in [(&["h2", "http/1.1"][..], Version::HTTP_2), (&["http/1.1"], Version::HTTP_11), (&[], Version::HTTP_11), (&["h2"], Version::HTTP_2)]
    {
        let (chosen, one, two) = ask(alpn, version, "a.test").await;
        assert_eq!(chosen.as_deref(), alpn.first().copied());
        for (status, text) in [one, two] {
            assert!(status == 200 && text.contains("authorization: Bearer s3cret\n"), "{status} {text}");
        }
        // The name of the TLS and that of the request are one.
        let (_, one, _) = ask(alpn, version, "b.test").await;
        assert_eq!(one.0, 421, "{}", one.1);
    }
    let decisions = world.bench.handle.decisions();
    assert!(decisions.iter().any(|decision| decision.rule.contains("credential") && decision.host.as_deref() == Some("a.test")));
    assert!(!format!("{decisions:?}").contains("s3cret"));

    // Other names' TLS is not for us to look into, nor allowed here.
    let config = tls_client(&root, &[]);
    let refused = within(&world.bench.netns, move || async move { connect_tls(to, "b.test", config).await.map(drop).unwrap_err().to_string() }).await;
    assert!(refused.contains("AccessDenied"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_not_put_where_it_would_come_back_and_is_told_of_once() {
    let network = bearer(json!({"protocol": "http"}));
    let Some(world) = world(network.clone()).await else { return };
    world.give(network, token()).await;
    let to = world.bench.to;
    serve(&world.bench.outside, None);
    let answers = within(&world.bench.netns, move || async move {
        let mut client = Client::new(tokio::net::TcpStream::connect(to).await.unwrap(), Version::HTTP_11).await;
        let mut answers = Vec::new();
        for method in ["GET", "GET", "TRACE", "trace"] {
            let mut request = get("a.test", "/");
            *request.method_mut() = method.parse().unwrap();
            answers.push(client.fetch(request).await);
        }
        answers
    })
    .await;
    assert!(answers[..2].iter().all(|(status, text)| *status == 200 && text.contains("s3cret")), "{answers:?}");
    let refused = "refused by the sandbox's network policy: egress.credentialRules[0] `key` (TRACE would show its secret)\n".to_owned();
    assert_eq!(answers[2..], [(403, refused.clone()), (403, refused)]);
    let told = world.bench.handle.decisions().iter().filter(|decision| decision.rule.contains("with the credential")).count();
    assert_eq!((told, world.bench.handle.counters().allowed), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_a_secret_ends_with_its_rule() {
    let network = bearer(json!({"protocol": "http"}));
    let Some(world) = world(network.clone()).await else { return };
    world.give(network, token()).await;
    let to = world.bench.to;
    serve(&world.bench.outside, None);
    let mut stream = inside(&world.bench.netns, move || {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(b"POST /stream HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nabc").unwrap();
        let mut said = Vec::new();
        while !said.windows(3).any(|part| part == b"abc") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            said.extend(byte);
        }
        stream
    })
    .await;
    world.give(rules(json!({})), token()).await;
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_open_until_its_end_though_it_is_answered() {
    let paths = |path: &str| rules(json!({"protocolRules": [{"name": "paths", "protocol": "http", "http": {"paths": {"allowed": [path]}}}]}));
    let Some(world) = world(paths("/early")).await else { return };
    let to = world.bench.to;
    serve(&world.bench.outside, None);
    let (answered, is_answered) = tokio::sync::oneshot::channel();
    let client = within(&world.bench.netns, move || async move {
        let (parts, body) = tokio::sync::mpsc::channel::<&'static str>(1);
        let frames = futures_util::stream::unfold(body, |mut body| async {
            let part = body.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(bytes::Bytes::from_static(part.as_bytes()))), body))
        });
        let mut client = Client::new(tokio::net::TcpStream::connect(to).await.unwrap(), Version::HTTP_2).await;
        let mut request = get2("http", "a.test", "/early");
        *request.method_mut() = Method::POST;
        *request.body_mut() = http_body_util::StreamBody::new(frames).boxed_unsync();
        parts.send("one").await.unwrap();
        assert_eq!(client.fetch(request).await, (200, "early".to_owned()));
        answered.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(5), parts.closed()).await.is_ok()
    });
    let change = async {
        is_answered.await.unwrap();
        world.bench.handle.set_policy(policy(paths("/other"))).await.unwrap();
    };
    assert!(tokio::join!(client, change).0, "it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_gone_leaves_nothing_behind() {
    let Some(world) = world(rules(json!({}))).await else { return };
    let to = world.bench.to;
    let stream = within(&world.bench.netns, move || async move {
        let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
        stream.into_std().unwrap()
    })
    .await;
    let (mut silent, _) = world.bench.outside.accept().unwrap();
    silent.read_exact(&mut [0; 14]).unwrap();
    assert_eq!(world.bench.handle.counters().open, 1);
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    for _ in 0..50 {
        if world.bench.handle.counters().open == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("its place is still taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_of_requests_has_a_limit() {
    let tools = json!({"protocolRules": [{"name": "tools", "protocol": "mcp", "domains": ["a.test"], "mcp": {"tools": {"denied": ["rm"]}}}]});
    let Some(world) = world(rules(tools)).await else { return };
    let to = world.bench.to;
    serve(&world.bench.outside, None);
    let last = within(&world.bench.netns, move || async move {
        let mut held = Vec::new();
        for _ in 0..crate::egress::http::HELD_BYTES_MAX / 1_000_000 {
            let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
            stream.write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000001\r\n\r\n").await.unwrap();
            stream.write_all(&vec![b' '; 1_000_000]).await.unwrap();
            held.push(stream);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ask = async || {
            let mut client = Client::new(tokio::net::TcpStream::connect(to).await.unwrap(), Version::HTTP_11).await;
            let request = Request::post("/").header(header::HOST, "a.test").body(full(&" ".repeat(1_000_000))).unwrap();
            client.fetch(request).await.0
        };
        let refused = ask().await;
        drop(held);
        tokio::time::sleep(Duration::from_secs(1)).await;
        (refused, ask().await)
    })
    .await;
    assert_eq!(last, (503, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_who_it_should_be_gets_nothing() {
    let network = bearer(json!({"protocol": "https", "tlsMode": "terminate-reoriginate"}));
    let Some(world) = world(network.clone()).await else { return };
    world.give(network, token()).await;
    let to = world.bench.to;
    serve(&world.bench.outside, Some(Arc::new(tls_server(&world.outside, "other.test", &[]))));
    let config = tls_client(world.bench.egress.authority().certificate(), &["h2"]);
    let (status, text) = within(&world.bench.netns, move || async move {
        let stream = connect_tls(to, "a.test", config).await.unwrap();
        Client::new(stream, Version::HTTP_2).await.fetch(get2("https", "a.test", "/")).await
    })
    .await;
    assert_eq!(status, 502);
    assert!(text.starts_with("no TLS with the server: invalid peer certificate"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_shown_for_the_client() {
    let Some(world) = world(rules(json!({}))).await else { return };
    let to = world.bench.to;
    let key = rcgen::KeyPair::generate().unwrap();
    let issued = rcgen::CertificateParams::new(vec!["client.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(issued.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let server = world.outside.leaf("a.test").unwrap();
    let config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(server)));
    serve(&world.bench.outside, Some(Arc::new(config)));

    let rule = json!({"name": "mtls", "credentialRef": "secret", "protocol": "tls", "domains": ["a.test"], "tlsMode": "terminate-reoriginate"});
    let network = bound(rule, json!({"type": "tls_client_certificate"}));
    let root = world.bench.egress.authority().certificate().clone();
    let ask = || {
        let config = tls_client(&root, &["http/1.1"]);
        within(&world.bench.netns, move || async move {
            let stream = connect_tls(to, "a.test", config).await?;
            Ok::<_, std::io::Error>(Client::new(stream, Version::HTTP_11).await.fetch(get("a.test", "/")).await)
        })
    };
    world.bench.handle.set_policy(policy(network.clone())).await.unwrap();
    assert!(ask().await.unwrap_err().to_string().contains("HandshakeFailure"));
    let ca_pem = Some(world.outside.certificate_pem().to_owned());
    world.give(network, Material::ClientCertificate { certificate_pem: issued.pem(), private_key_pem: key.serialize_pem(), ca_pem }).await;
    for _ in 0..2 {
        assert_eq!(ask().await.unwrap().0, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn placeholders_are_filled_in_on_the_way() {
    let rule = json!({"name": "key", "credentialRef": "secret", "domains": ["a.test"], "protocol": "http"});
    let replacements = json!([{"placeholder": "PLACEHOLDER", "valueTemplate": "{{ .token }}", "locations": ["header", "query", "body"]}]);
    let network = bound(rule, json!({"type": "placeholder_substitution", "placeholderSubstitution": {"replacements": replacements}}));
    let Some(world) = world(network.clone()).await else { return };
    world.give(network, token()).await;
    let to = world.bench.to;
    serve(&world.bench.outside, None);
    let (status, text) = within(&world.bench.netns, move || async move {
        let mut client = Client::new(tokio::net::TcpStream::connect(to).await.unwrap(), Version::HTTP_11).await;
        let request =
            Request::post("/p?k=PLACEHOLDER").header(header::HOST, "a.test").header("x-key", "k=PLACEHOLDER").body(full("{\"key\":\"PLACEHOLDER\"}")).unwrap();
        client.fetch(request).await
    })
    .await;
    assert_eq!(status, 200);
    for part in ["POST /p?k=s3cret ", "x-key: k=s3cret\n", "content-length: 16\n", "{\"key\":\"s3cret\"}"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_connection_shows_the_certificate_of_its_time() {
    let rule = |name: &str| json!({"name": name, "credentialRef": "secret", "protocol": "https", "domains": ["a.test"], "tlsMode": "terminate-reoriginate"});
    let network = |name| bound(rule(name), json!({"type": "tls_client_certificate"}));
    let Some(world) = world(network("mtls")).await else { return };
    let to = world.bench.to;
    let certificate = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let issued = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let ca_pem = Some(world.outside.certificate_pem().to_owned());
        (issued.der().clone(), Material::ClientCertificate { certificate_pem: issued.pem(), private_key_pem: key.serialize_pem(), ca_pem })
    };
    let [(first_der, first), (second_der, second)] = ["first.test", "second.test"].map(certificate);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(first_der.clone()).unwrap();
    roots.add(second_der.clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config =
        builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(world.outside.leaf("a.test").unwrap())));
    // Each connection is for one request, and says whose it is.
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    world.bench.outside.set_nonblocking(true).unwrap();
    let outside = tokio::net::TcpListener::from_std(world.bench.outside.try_clone().unwrap()).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = outside.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let which = if stream.get_ref().1.peer_certificates().unwrap()[0] == first_der { "first" } else { "other" };
            stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{which}").as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });

    world.give(network("mtls"), first).await;
    let (ask, mut asked) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<Option<(u16, String)>>>(1);
    let config = tls_client(world.bench.egress.authority().certificate(), &["h2", "http/1.1"]);
    let client = within(&world.bench.netns, move || async move {
        let mut client = Client::new(connect_tls(to, "a.test", config).await.unwrap(), Version::HTTP_11).await;
        while let Some(reply) = asked.recv().await {
            let answer = match client.send(get("a.test", "/")).await {
                Ok(response) => {
                    Some((response.status().as_u16(), String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()))
                }
                Err(_) => None,
            };
            reply.send(answer).unwrap();
        }
    });
    let sender = &ask;
    let ask = async || {
        let (reply, answer) = tokio::sync::oneshot::channel();
        sender.send(reply).await.unwrap();
        // The server hangs up a moment later.
        let answer = answer.await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer
    };
    let said = |text: &str| Some((200, text.to_owned()));
    let asks = async {
        assert_eq!([ask().await, ask().await], [said("first"), said("first")]);
        world.give(network("mtls"), second).await;
        assert_eq!(ask().await, said("other"));
        world.give(network("mtls"), token()).await;
        let refused = "refused by the sandbox's network policy: egress.credentialRules[0] `mtls` (its credential cannot be used)\n";
        assert_eq!(ask().await, Some((403, refused.to_owned())));
        // Another rule is another client.
        world.give(network("other"), token()).await;
        assert_eq!(ask().await, None);
    };
    tokio::select! {
        () = client => unreachable!("it is asked as long as anybody may ask"),
        () = asks => {}
    }
}
