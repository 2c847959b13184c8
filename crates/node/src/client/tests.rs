use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;

use super::*;

static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

/// An agent of a few answers. `/v1/info` closes its connection when it is asked the second time.
fn serve(socket: &std::path::Path) {
    let listener = UnixListener::bind(socket).expect("bind");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            CONNECTIONS.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).with_upgrades());
        }
    });
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = |status: u16, text: &'static str| Response::builder().status(status).body(Full::new(Bytes::from(text))).expect("response");
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    Ok(match path.as_str() {
        "/v1/info" => text(200, r#"{"protocol":1,"version":"0","pid":1,"started_ms":1,"contexts":0}"#),
        "/v1/functions/call" => {
            use sandbar_procd_api::function::{Kind, encode};
            let frames = [(Kind::Start, &br#"{"status":201}"#[..]), (Kind::Chunk, b"body"), (Kind::End, b"{}")];
            Response::new(Full::new(frames.iter().flat_map(|(kind, payload)| encode(*kind, payload)).collect()))
        }
        "/v1/contexts" => text(200, r#"{"contexts":[]}"#),
        "/v1/files/list?path=%2Fa%20b" => text(404, r#"{"code":"directory_not_found","message":"no /a b"}"#),
        "/v1/files/stat?path=new" => text(409, r#"{"code":"code_of_the_future","message":"later"}"#),
        "/v1/events?after=3" => text(200, "{\"seq\":4,\"at_ms\":1,\"event\":\"heartbeat\"}\n\n{\"seq\":5,\"at_ms\":1,\"event\":\"of_the_future\"}\n"),
        "/v1/contexts/ctx-1/attach" => {
            tokio::spawn(async move {
                let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
                let mut io = TokioIo::new(upgraded);
                use sandbar_procd_api::frame::{Kind, encode};
                let mut bytes = encode(Kind::Stderr, "hé".as_bytes());
                bytes.extend(encode(Kind::Done, br#"{"exit_code":9,"state":"crashed"}"#));
                let _ = tokio::io::AsyncWriteExt::write_all(&mut io, &bytes).await;
            });
            Response::builder().status(101).header("connection", "upgrade").header("upgrade", "sandbar-attach").body(Full::default()).expect("response")
        }
        "/v1/files?path=close" => Response::builder().status(200).header("connection", "close").body(Full::new(Bytes::from("x"))).expect("response"),
        _ => text(500, "not json"),
    })
}

#[tokio::test]
async fn speaks_to_an_agent_behind_a_long_path() {
    let folder = std::env::temp_dir().join(format!("sandbar-client-{}-{}", std::process::id(), "x".repeat(90)));
    std::fs::create_dir_all(&folder).expect("folder");
    let short = std::env::temp_dir().join(format!("sandbar-client-{}.sock", std::process::id()));
    serve(&short);
    let socket = folder.join("procd.sock");
    std::fs::rename(&short, &socket).expect("rename");
    let client = ProcdClient::new(socket.clone());

    assert!(client.list_contexts().await.expect("list").is_empty());
    let error = client.list("/a b").await.expect_err("absent");
    assert!(error.is_code(ErrorCode::DirectoryNotFound), "{error}");
    match client.stat("new").await.expect_err("unknown code") {
        ProcdError::Api { status: 409, body } => assert_eq!(body.message, "later"),
        other => panic!("{other}"),
    }
    // An agent of before functions says so, and is asked once.
    assert_eq!([client.protocol().await.expect("told"), client.clone().protocol().await.expect("known")], [1, 1]);
    assert!(matches!(crate::trust::told(&client, Trust::default()).await, Err(crate::TrustError::Old)), "and is not asked for what it does not know");
    let source = sandbar_procd_api::function::FunctionSource::Code(String::new());
    let call = serde_json::from_value(serde_json::json!({ "source": source, "handler": "h", "request": {} })).expect("a call");
    let mut reply = client.call_function(&call).await.expect("reply");
    assert!(matches!(reply.next().await, Ok(Some(FunctionFrame::Start(start))) if start.status == 201 && !start.stream));
    assert!(matches!(reply.next().await, Ok(Some(FunctionFrame::Chunk(chunk))) if &chunk[..] == b"body"));
    assert!(matches!(reply.next().await, Ok(Some(FunctionFrame::End(end))) if end.failure.is_none()));
    assert_eq!(CONNECTIONS.load(Ordering::SeqCst), 1, "connections are used again");

    let mut events = client.events(3).await.expect("events");
    assert_eq!(events.next().await.expect("line").expect("event").seq, 4);
    assert_eq!(events.next().await.expect("line").expect("event").seq, 5);
    assert!(events.next().await.expect("end").is_none());

    let mut attached = client.attach("ctx-1").await.expect("attach");
    assert!(matches!(attached.next().await, Ok(Some(AttachedFrame::Output { data, .. })) if data == "hé"));
    assert!(matches!(attached.next().await, Ok(Some(AttachedFrame::Done(done))) if done.exit_code == 9));
    assert!(matches!(client.attach("ctx/../2").await, Err(ProcdError::Api { status: 500, .. })));

    let body = client.read_file("close", None).await.expect("read").into_body().collect().await.expect("body").to_bytes();
    assert_eq!(&body[..], b"x");
    client.list_contexts().await.expect("a closed connection is passed over");

    std::fs::remove_dir_all(&folder).expect("clean");
    client.forget_connections();
    assert!(matches!(client.info().await, Err(ProcdError::Gone(_))));
}
