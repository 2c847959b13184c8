//! A call over an upgraded connection: a WebSocket's messages both ways.
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sandbar_procd_api::ErrorCode;
use sandbar_procd_api::function::{self, Decoded, FunctionCall, HEADER_BYTES, Kind, PAYLOAD_BYTES_MAX, decode, encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::call;
use crate::agent::Agent;
use crate::body::Body;
use crate::error::Failure;
use crate::http::Answer;
use crate::limits::{HEARTBEAT, JSON_BYTES_MAX};

/// Answers 101; the host's first frame is the call.
///
/// # Errors
/// `invalid_request` without the right Upgrade header.
pub fn upgrade(agent: &Rc<Agent>, mut request: Request<Incoming>) -> Answer {
    let asked = request.headers().get(UPGRADE).and_then(|v| v.to_str().ok());
    if !asked.is_some_and(|a| a.eq_ignore_ascii_case(function::UPGRADE)) {
        return Err(Failure::new(ErrorCode::InvalidRequest, "a function's socket needs the header Upgrade: sandbar-function"));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let agent = agent.clone();
    tokio::task::spawn_local(async move {
        if let Ok(upgraded) = upgraded.await {
            serve(agent, TokioIo::new(upgraded)).await;
        }
    });
    let mut response = Response::new(Body::Full(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(function::UPGRADE));
    Ok(response)
}

async fn serve(agent: Rc<Agent>, io: TokioIo<hyper::upgrade::Upgraded>) {
    let (mut from_host, mut to_host) = tokio::io::split(io);
    let mut buffer = BytesMut::new();
    let Some((Kind::Request, first)) = next(&mut from_host, &mut buffer, JSON_BYTES_MAX).await else { return };
    let Ok(asked) = serde_json::from_slice::<FunctionCall>(&first[HEADER_BYTES..]) else { return };
    let (frames, mut told) = mpsc::channel(2);
    let (inbox, messages) = mpsc::channel(2);
    tokio::task::spawn_local(call::run(agent, asked, frames, Some(messages)));
    let tell = async {
        // A host that has gone is noticed by writing alone while the handler reads nothing. The host passes over pieces of a
        // body.
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
        loop {
            let frame = tokio::select! {
                frame = told.recv() => match frame {
                    Some(Ok(frame)) => frame,
                    Some(Err(_)) | None => return,
                },
                _ = beat.tick() => encode(Kind::Chunk, &[]).into(),
            };
            if to_host.write_all(&frame).await.is_err() || to_host.flush().await.is_err() {
                return;
            }
        }
    };
    let listen = async {
        while let Some((kind, frame)) = next(&mut from_host, &mut buffer, PAYLOAD_BYTES_MAX).await {
            if matches!(kind, Kind::Text | Kind::Binary | Kind::Close) && inbox.send(frame).await.is_err() {
                // The call is over; it is read on until the host goes, so that it gets to see the end.
                continue;
            }
        }
    };
    tokio::select! {
        () = tell => {}
        () = listen => {}
    }
    let _ = to_host.shutdown().await;
}

/// The next frame, whole; `None` at the end of the connection or for something else than a frame.
async fn next(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut, max: usize) -> Option<(Kind, Bytes)> {
    loop {
        match decode(buffer, max) {
            Decoded::Frame { kind, bytes } => return Some((kind, buffer.split_to(bytes).freeze())),
            Decoded::Invalid => return None,
            Decoded::Incomplete => {
                buffer.reserve(64 << 10);
                if from.read_buf(buffer).await.ok()? == 0 || buffer.remaining() > max + HEADER_BYTES + (64 << 10) {
                    return None;
                }
            }
        }
    }
}
