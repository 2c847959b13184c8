//! A context over a WebSocket: output as it comes, input as it is typed. Text frames of one JSON object each.
//!
//! The agent is read only as fast as the client takes it: a slow client holds back its own connection and nothing else.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{
        Path, State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use sandbar_api::error::ErrorEnvelope;
use sandbar_core::{
    limits,
    roles::{Permission, Permissions},
};
use sandbar_node::{
    Runtime,
    client::{AttachReader, AttachWriter, AttachedFrame, ProcdError},
};
use sandbar_procd_api::{PtySize, Signal, Stream, frame::Lost};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::convert::state_name;
use crate::{
    app::{SharedApp, apps::sealed::SealedOutput, auth::Principal, standing::Standing},
    error::ApiError,
};

/// So that proxies and half-open connections are noticed.
pub const PING_EVERY: Duration = Duration::from_secs(20);
/// How long a client may take to answer our close.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// "Normal closure"; any other code is an error to clients.
pub const CLOSE_NORMAL: u16 = 1000;
/// "Policy violation".
const CLOSE_POLICY: u16 = 1008;
/// What fits into a close frame beside its code.
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Attach to a context by WebSocket.
///
/// Client to server: `{"type":"input","data","request_id"?}`, `{"type":"resize","rows","cols"}`,
/// `{"type":"signal","signal"}`; anything else is written to the standard input as it is. Server to client:
/// `{"type":"output","source":"stdout|stderr|pty","data"}`, `{"type":"done","request_id"}` when a REPL has finished an
/// input, and at the end `{"type":"done","exit_code","state"}`, then a close with 1000. Output from before comes first. A command that
/// was not waited for holds its output back until the first client attaches, for ten seconds at most. What a client does not take in time
/// may be lost: then a frame of `stderr` (of `pty` in a terminal) says so and has `lost_bytes`, and the last one `"truncated":true`.
/// Who may not write the sandbox any more is closed with 1008.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/contexts/{ctx}/ws", tag = "contexts", params(("id" = String, Path), ("ctx" = String, Path)), responses(
    (status = 101, description = "switched to WebSocket"), (status = 400, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
pub async fn attach(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, ctx)): Path<(String, String)>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    who.require(Permission::SandboxWrite)?;
    let (upgrade, place) = checked(upgrade)?;
    let standing = Standing::new(&app, &who, Permissions::of(&[Permission::SandboxWrite]));
    let (runtime, attached, sealed) = app.attach_context(&who, &id, &ctx).await?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        let (reader, writer) = attached.split();
        let (sink, mut stream) = socket.split();
        tokio::select! {
            // Ends when the process has, or who is attached may not be any more: everything is said and closed.
            () = write_out(sink, (reader, sealed), &runtime, standing.clone()) => drain(&mut stream).await,
            // Ends when the client goes; the process stays.
            () = read_in(&mut stream, writer, standing.clone()) => {}
            () = unheard(standing) => {}
        }
        drop(place);
    }))
}

/// An upgrade with our limits and its place among the WebSockets, to be kept as long as the socket; or an error in the
/// envelope.
pub fn checked(upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>) -> Result<(WebSocketUpgrade, SemaphorePermit<'static>), ApiError> {
    static PLACES: Semaphore = Semaphore::const_new(limits::WEBSOCKETS_MAX);
    let upgrade = upgrade.map_err(|rejection| refused(&rejection))?;
    let place = PLACES
        .try_acquire()
        .map_err(|_| ApiError::unavailable(format!("{} WebSockets are open, which is the limit", limits::WEBSOCKETS_MAX)).retry_after(1))?;
    Ok((upgrade.max_message_size(limits::INPUT_BODY_MAX_BYTES).max_frame_size(limits::INPUT_BODY_MAX_BYTES), place))
}

/// What is no WebSocket's request.
pub fn refused(rejection: &WebSocketUpgradeRejection) -> ApiError {
    ApiError::bad_request(format!("this is a WebSocket endpoint: {}", rejection.body_text()))
}

/// After our close: reads on until the client has closed too, so that unread input does not turn into a reset that
/// would take the last frames with it.
pub async fn drain(stream: &mut SplitStream<WebSocket>) {
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, async { while let Some(Ok(_)) = stream.next().await {} }).await;
}

/// A frame to the client.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame<'a> {
    Output {
        source: &'static str,
        data: &'a str,
        /// The data only says that so many bytes are missing here.
        #[serde(skip_serializing_if = "Option::is_none")]
        lost_bytes: Option<u64>,
    },
    Done(Done),
}

#[derive(Default, Serialize)]
struct Done {
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Some of its output was lost on the way.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// Closes a socket of somebody who may not have it any more.
pub async fn dismiss(sink: &mut SplitSink<WebSocket, Message>, error: &ApiError) {
    let mut reason = error.message().to_owned();
    reason.truncate(reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX));
    let _ = sink.send(Message::Close(Some(CloseFrame { code: CLOSE_POLICY, reason: reason.into() }))).await;
}

/// Returns when somebody may not have their socket any more and did not take that they were told so.
pub async fn unheard(standing: Standing) {
    standing.over().await;
    tokio::time::sleep(2 * CLOSE_TIMEOUT).await;
}

async fn write_out(
    mut sink: SplitSink<WebSocket, Message>,
    (mut reader, mut sealed): (AttachReader, Option<SealedOutput>),
    runtime: &Arc<Runtime>,
    mut standing: Standing,
) {
    let mut over = std::pin::pin!(standing.clone().over());
    let mut truncated = false;
    let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
    loop {
        let frame = tokio::select! {
            frame = reader.next() => frame,
            error = &mut over => return dismiss(&mut sink, &error).await,
            _ = ping.tick() => match sink.send(Message::Ping(bytes::Bytes::new())).await {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        if let Err(error) = standing.pass().await {
            return dismiss(&mut sink, &error).await;
        }
        let (mut messages, last) = match frame {
            Ok(Some(AttachedFrame::Output { stream, data })) => {
                let data = match &mut sealed {
                    Some(sealed) => sealed.push(stream, &data),
                    None => data,
                };
                (if data.is_empty() { Vec::new() } else { output_messages(stream, &data) }, false)
            }
            Ok(Some(AttachedFrame::Lost(lost))) => {
                truncated = true;
                (lost_messages(lost, sealed.as_mut()), false)
            }
            Ok(Some(AttachedFrame::Ready(ready))) => (vec![json(&Frame::Done(Done { request_id: ready.request_id, ..Done::default() }))], false),
            Ok(Some(AttachedFrame::Done(done))) => {
                let done = Done { request_id: None, exit_code: Some(done.exit_code), state: Some(state_name(done.state)), reason: done.reason, truncated };
                (vec![json(&Frame::Done(done))], true)
            }
            Ok(None) => (vec![vanished(None, runtime)], true),
            Err(error) => (vec![vanished(Some(&error), runtime)], true),
        };
        if last && let Some(sealed) = &mut sealed {
            let rest = sealed.finish().into_iter().flat_map(|(stream, text)| output_messages(stream, &text));
            messages.splice(0..0, rest);
        }
        for message in messages {
            if sink.send(Message::text(message)).await.is_err() {
                return;
            }
        }
        if last {
            let close = CloseFrame { code: CLOSE_NORMAL, reason: "".into() };
            let _ = sink.send(Message::Close(Some(close))).await;
            return;
        }
    }
}

/// The done frame of a process whose end nobody reported: its runtime ended, and it with that.
fn vanished(error: Option<&ProcdError>, runtime: &Runtime) -> String {
    let reason = match (runtime.has_ended(), error) {
        (true, _) | (false, None) => "runtime_ended: the sandbox was paused, restarted or ended".to_owned(),
        (false, Some(error)) => format!("connection_lost: {error}"),
    };
    json(&Frame::Done(Done { exit_code: Some(137), state: Some("killed"), reason: Some(reason), ..Done::default() }))
}

fn source(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
        Stream::Pty => "pty",
    }
}

/// Tells of output that is gone: where people read, never within what a program printed to be read by others.
fn lost_messages(lost: Lost, sealed: Option<&mut SealedOutput>) -> Vec<String> {
    let line = lost.line();
    let held = sealed.map(|sealed| sealed.push(lost.stream, &line)).unwrap_or_default();
    let held = held.strip_suffix(&line).unwrap_or(&held);
    let mut messages = if held.is_empty() { Vec::new() } else { output_messages(lost.stream, held) };
    let at = if lost.stream == Stream::Pty { Stream::Pty } else { Stream::Stderr };
    messages.push(json(&Frame::Output { source: source(at), data: &line, lost_bytes: Some(lost.bytes) }));
    messages
}

/// Output as frames that are short enough for every client. JSON may make a byte six, so text that has grown is cut.
fn output_messages(stream: Stream, data: &str) -> Vec<String> {
    const PIECE_BYTES: usize = limits::WS_FRAME_MAX_BYTES / 6 - 64;
    let source = source(stream);
    let whole = json(&Frame::Output { source, data, lost_bytes: None });
    if whole.len() < limits::WS_FRAME_MAX_BYTES {
        return vec![whole];
    }
    let (mut rest, mut messages) = (data, Vec::new());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
        messages.push(json(&Frame::Output { source, data: piece, lost_bytes: None }));
        rest = after;
    }
    messages
}

fn json(frame: &Frame<'_>) -> String {
    serde_json::to_string(frame).unwrap_or_default()
}

async fn read_in(stream: &mut SplitStream<WebSocket>, mut writer: AttachWriter, mut standing: Standing) {
    while let Some(Ok(message)) = stream.next().await {
        if standing.pass().await.is_err() {
            // The other half hears of it, too, and closes.
            std::future::pending::<()>().await;
        }
        let sent = match message {
            Message::Text(text) => forward(&mut writer, text.as_str()).await,
            Message::Binary(bytes) => forward(&mut writer, &String::from_utf8_lossy(&bytes)).await,
            // The answer to a close is sent by reading on.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(()),
        };
        if let Err(error) = sent {
            // The other half hears of it from the agent, says how it ended and closes.
            tracing::debug!(%error, "input did not reach its context");
            std::future::pending::<()>().await;
        }
    }
}

async fn forward(writer: &mut AttachWriter, text: &str) -> Result<(), ProcdError> {
    match Request::parse(text) {
        Request::Input { data, request_id, eof: false } => writer.input(&data, request_id.as_deref()).await,
        Request::Input { data, request_id, eof: true } => {
            if !data.is_empty() {
                writer.input(&data, request_id.as_deref()).await?;
            }
            writer.end_input().await
        }
        Request::Resize(size) => writer.resize(size).await,
        Request::Signal(signal) => writer.signal(&Signal { signal }).await,
        Request::Raw => writer.input(text, None).await,
        Request::Invalid => Ok(()),
    }
}

/// What a client's frame asks for.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Input {
        data: String,
        request_id: Option<String>,
        /// A command finds the end of its stdin after the data.
        eof: bool,
    },
    Resize(PtySize),
    Signal(String),
    /// Not ours: input as it stands.
    Raw,
    /// Ours, but with fields that make no sense; there is no frame to say so.
    Invalid,
}

/// A request id is repeated to the client, and fits a frame.
const REQUEST_ID_BYTES_MAX: usize = 1024;

impl Request {
    fn parse(text: &str) -> Self {
        let Ok(Value::Object(mut fields)) = serde_json::from_str(text) else { return Self::Raw };
        let mut take_text = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        match take_text("type").as_deref() {
            Some("input") => {
                let request_id = take_text("request_id").or_else(|| take_text("requestId"));
                let request_id = request_id.filter(|id| id.len() <= REQUEST_ID_BYTES_MAX);
                let data = take_text("data").unwrap_or_default();
                Self::Input { data, request_id, eof: fields.get("eof") == Some(&Value::Bool(true)) }
            }
            Some("resize") => {
                let mut side = |name: &str| fields.remove(name)?.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
                match (side("rows"), side("cols")) {
                    (Some(rows), Some(cols)) => Self::Resize(PtySize { rows, cols }),
                    _ => Self::Invalid,
                }
            }
            Some("signal") => match fields.remove("signal") {
                Some(Value::String(signal)) if signal.len() <= 32 => Self::Signal(signal),
                Some(Value::Number(number)) => Self::Signal(number.to_string()),
                _ => Self::Invalid,
            },
            _ => Self::Raw,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_request_id_are_read_and_the_rest_is_raw() {
        let input = |data: &str, id: Option<&str>| Request::Input { data: data.into(), request_id: id.map(Into::into), eof: false };
        assert_eq!(Request::parse(r#"{"type":"input","data":"x\n","request_id":"r"}"#), input("x\n", Some("r")));
        assert_eq!(Request::parse(r#"{"type":"input","data":"x","requestId":"r"}"#), input("x", Some("r")));
        assert_eq!(Request::parse(r#"{"type":"input"}"#), input("", None));
        assert_eq!(Request::parse(r#"{"type":"input","eof":true}"#), Request::Input { data: String::new(), request_id: None, eof: true });
        assert_eq!(Request::parse(r#"{"type":"resize","rows":24,"cols":80}"#), Request::Resize(PtySize { rows: 24, cols: 80 }));
        assert_eq!(Request::parse(r#"{"type":"signal","signal":"INT"}"#), Request::Signal("INT".into()));
        for text in [r#"{"type":"resize","rows":-1,"cols":80}"#, r#"{"type":"resize","rows":70000,"cols":1}"#, r#"{"type":"signal"}"#] {
            assert_eq!(Request::parse(text), Request::Invalid, "{text}");
        }
        for text in ["ls\n", "", "{", "[1]", "42", "\"x\"", r#"{"type":"other"}"#, r#"{"a":1}"#, r#"{"type":5}"#] {
            assert_eq!(Request::parse(text), Request::Raw, "{text}");
        }
    }

    #[test]
    fn frames_stay_below_their_limit_whatever_is_printed() {
        for data in ["\0".repeat(32 << 10), "\u{1}é".repeat(10 << 10), "plain".repeat(6000)] {
            let messages = output_messages(Stream::Pty, &data);
            assert!(messages.iter().all(|message| message.len() < limits::WS_FRAME_MAX_BYTES));
            let back: String = messages.iter().map(|m| serde_json::from_str::<Value>(m).expect("json")["data"].as_str().expect("text").to_owned()).collect();
            assert_eq!(back, data);
        }
    }
}
