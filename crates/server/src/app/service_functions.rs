//! Services whose runtime is a function: one request is one call of an inline handler. The reply is sent whole, or as it
//! comes when the handler gives its body in its own time; a WebSocket is the handler's as long as it runs.

use std::{any::Any, collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{
        FromRequestParts, Request,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use sandbar_api::ErrorCode;
use sandbar_core::{
    limits,
    service::{Function, Route, RuntimeKind, Service, Source},
};
use sandbar_node::{
    Runtime,
    client::{FunctionFrame, FunctionReader, FunctionReply, ProcdError},
};
use sandbar_procd_api::function::{
    FailureKind, FunctionCall, FunctionCheck, FunctionEnd, FunctionFailure, FunctionLimit, FunctionSource, FunctionStart, SocketClose,
};
use serde_json::json;

use crate::{
    app::{
        App,
        contexts::unless_frozen,
        function_load::{FunctionLoad, Socket},
        sandbox_functions::{Refused, bad_response, know_functions, too_large, whole},
    },
    error::ApiError,
    http::{
        contexts::ws::{CLOSE_TIMEOUT, PING_EVERY, drain, refused},
        extract::read_counted,
    },
};

/// Imports the module anew for each request when it is set to `1` or `true` among the service's variables.
const COLD: &str = "SANDBAR_FUNCTION_COLD";
/// A close frame's reason has at most 123 bytes.
const REASON_MAX_BYTES: usize = 120;
const AWAY: u16 = 1001;
const BAD_REQUEST: u16 = 1008;
const FAILED: u16 = 1011;
const TRY_LATER: u16 = 1013;

/// What somebody wants kept until an answer is over.
pub type Lease = Box<dyn Any + Send + Sync>;

impl App {
    /// Whether a handler's code can be read at all; else why not.
    pub(crate) async fn check_handler(&self, runtime: &Arc<Runtime>, service_id: &str, function: &Function) -> Result<(), ApiError> {
        know_functions(runtime).await?;
        let Source::Inline { code } = &function.source;
        let check = FunctionCheck { path: format!("{service_id}.py"), code: code.clone() };
        let checked = unless_frozen(runtime, runtime.client.check_function(&check)).await?;
        match checked.message {
            None => Ok(()),
            Some(message) => {
                let at = checked.line.map(|line| format!("line {line}: ")).unwrap_or_default();
                Err(ApiError::unavailable(format!("service runtime unavailable: the code of service {service_id:?} cannot be read: {at}{message}")))
            }
        }
    }

    /// Answers a request to a service whose runtime is a function. Its path is rewritten already; `timeout` is the
    /// route's own. `lease` is kept for as long as the answer takes: to the end of a WebSocket or of a body that comes in its
    /// own time, and else until all of it is out of the sandbox.
    pub async fn call_service_function(
        &self,
        runtime: &Arc<Runtime>,
        service: &Service,
        route: &Route,
        request: Request,
        timeout: Option<Duration>,
        lease: Option<Lease>,
    ) -> Response {
        match answer(&self.function_load, runtime, (service, route), request, timeout, lease).await {
            Ok(response) => response,
            Err(refused) => {
                if let Refused::Function { failure, .. } = &refused {
                    tracing::debug!(service = service.id, kind = ?failure.kind, "a function did not answer");
                }
                refused.told_in_public().into_response()
            }
        }
    }
}

async fn answer(
    load: &Arc<FunctionLoad>,
    runtime: &Arc<Runtime>,
    (service, route): (&Service, &Route),
    request: Request,
    timeout: Option<Duration>,
    lease: Option<Lease>,
) -> Result<Response, Refused> {
    let RuntimeKind::Function { function } = service.kind() else {
        return Err(ApiError::internal("calling a function", &"the service has another runtime").into());
    };
    know_functions(runtime).await?;
    let (mut parts, body) = request.into_parts();
    if is_websocket(&parts) {
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|rejection| refused(&rejection))?;
        let place = load.open(&runtime.id)?;
        let call = call_of(service, route, function, &parts, &[], timeout);
        return Ok(websocket(Arc::clone(runtime), call, upgrade, (place, lease)));
    }
    // Until its reply begins; what comes in its own time is counted inside.
    let max = usize::try_from(function.max_concurrency).ok().filter(|max| *max > 0).unwrap_or(limits::FUNCTION_CALLS_MAX);
    let mut calling = load.enter(&runtime.id, &service.id, max)?;
    let body = read_counted(body, limits::FUNCTION_REQUEST_MAX_BYTES, |bytes| calling.grow(bytes)).await.map_err(|error| match error.status() {
        413 => ApiError::new(ErrorCode::RequestTooLarge, error.message()),
        _ => error,
    })?;
    let call = call_of(service, route, function, &parts, &body, timeout);
    drop(body);
    let mut reply = unless_frozen(runtime, runtime.client.call_function(&call)).await?;
    drop(call);
    calling.sent();
    let start = match unless_frozen(runtime, reply.next()).await? {
        Some(FunctionFrame::Start(start)) => start,
        Some(FunctionFrame::End(end)) => {
            whole(None, Bytes::new(), end)?;
            return Err(bad_response("the function gave no reply"));
        }
        Some(FunctionFrame::Chunk(_) | FunctionFrame::Text(_) | FunctionFrame::Binary(_) | FunctionFrame::Close(_)) | None => {
            return Err(bad_response("the function gave no reply"));
        }
    };
    let has_body = parts.method != Method::HEAD && !matches!(start.status, 204 | 205 | 304);
    let mut response = head(&start)?;
    if start.stream && has_body {
        if is_sse(&parts.headers) && !response.headers().contains_key(header::CONTENT_TYPE) {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        }
        *response.body_mut() = stream(Arc::clone(runtime), reply, lease);
        return Ok(response);
    }
    if start.stream {
        // Nobody is to see it, and it may never end.
        return Ok(response);
    }
    let body = rest(runtime, &mut reply).await?;
    if has_body {
        *response.body_mut() = Body::from(body);
    }
    Ok(response)
}

fn call_of(service: &Service, route: &Route, function: &Function, parts: &Parts, body: &[u8], timeout: Option<Duration>) -> FunctionCall {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut env_vars = service.runtime.as_ref().map(|runtime| runtime.env_vars.clone()).unwrap_or_default();
    let cold = env_vars.get(COLD).is_some_and(|value| matches!(value.as_str(), "1" | "true"));
    env_vars.insert("SANDBOX0_SERVICE_ID".to_owned(), service.id.clone());
    env_vars.insert("SANDBOX0_SERVICE_RUNTIME".to_owned(), "function".to_owned());
    // What comes in its own time has no end unless the route names one.
    let timeout_ms = match timeout {
        Some(timeout) => ms(timeout).min(limits::FUNCTION_TIMEOUT_MAX_MS),
        None if is_sse(&parts.headers) && !is_websocket(parts) => 0,
        None => limits::FUNCTION_TIMEOUT_DEFAULT_MS,
    };
    let Source::Inline { code } = &function.source;
    let query = parts.uri.query().unwrap_or("");
    FunctionCall {
        source: FunctionSource::Code(code.clone()),
        handler: function.handler.clone(),
        env_vars,
        cold,
        timeout_ms,
        stream_timeout_ms: timeout.map_or(0, ms),
        label: format!("service:{}", service.id),
        limit: (function.max_concurrency > 0).then(|| FunctionLimit { key: format!("service:{}", service.id), max: function.max_concurrency }),
        request: json!({
            "service_id": service.id, "route_id": route.id, "method": parts.method.as_str(), "path": unescaped(parts.uri.path()), "raw_path": parts.uri.path(),
            "raw_query": query, "query": query_of(query), "headers": headers_of(&parts.headers), "body_base64": BASE64.encode(body), "handler": function.handler,
            "timeout_ms": timeout_ms,
        }),
    }
}

/// A path without percent-encoding, which is how handlers know it; what is no UTF-8 then is replaced.
fn unescaped(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let escaped = after.first_chunk::<2>().filter(|_| byte == b'%').and_then(|[high, low]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok());
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn query_of(query: &str) -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        map.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    map
}

/// Headers as handlers know them: `Content-Type`, each with all its values. The gateway has taken out what was of one hop;
/// what it says itself to whoever serves the request is not for handlers.
fn headers_of(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| ![header::CONNECTION, header::UPGRADE, header::TE].contains(name)) {
        let spelled = name.as_str().split('-').map(capitalised).collect::<Vec<_>>().join("-");
        map.entry(spelled).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    map
}

fn capitalised(word: &str) -> String {
    let (first, rest) = word.split_at(word.len().min(1));
    first.to_ascii_uppercase() + rest
}

fn is_sse(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| value.to_ascii_lowercase().contains("text/event-stream"))
}

fn is_websocket(parts: &Parts) -> bool {
    let values = parts.headers.get_all(header::UPGRADE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}

/// A response without its body.
fn head(start: &FunctionStart) -> Result<Response, Refused> {
    // A handler's reply is the last one to its request.
    let status = StatusCode::from_u16(start.status).ok().filter(|status| !status.is_informational());
    let status = status.ok_or_else(|| bad_response(format!("the function's status {} cannot be sent", start.status)))?;
    if start.headers.values().map(Vec::len).sum::<usize>() > limits::FUNCTION_HEADERS_MAX {
        return Err(bad_response(format!("the function's reply has more than {} headers", limits::FUNCTION_HEADERS_MAX)));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    for (name, values) in &start.headers {
        let shown = crate::http::params::shown(name);
        let name = HeaderName::try_from(name.as_str()).map_err(|_| bad_response(format!("the function's header {shown} is no header")))?;
        // What is of one hop is taken out by the gateway.
        if name == header::CONTENT_LENGTH {
            continue;
        }
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad_response(format!("the value of the function's header {shown} is none")))?;
            response.headers_mut().append(name.clone(), value);
        }
    }
    Ok(response)
}

/// The body of a reply that comes whole.
async fn rest(runtime: &Runtime, reply: &mut FunctionReply) -> Result<Bytes, Refused> {
    unless_frozen(runtime, async {
        let mut body = BytesMut::new();
        loop {
            match reply.next().await? {
                Some(FunctionFrame::Chunk(chunk)) => body.extend_from_slice(&chunk),
                Some(FunctionFrame::End(end)) => {
                    return Ok(match end.failure {
                        Some(failure) => Err(Refused::Function { failure, logs: end.logs }),
                        None => Ok(body.freeze()),
                    });
                }
                Some(FunctionFrame::Start(_) | FunctionFrame::Text(_) | FunctionFrame::Binary(_) | FunctionFrame::Close(_)) => {}
                None => return Err(ProcdError::Gone(std::io::Error::other("the reply broke off"))),
            }
            if body.len() > limits::FUNCTION_REPLY_MAX_BYTES {
                return Ok(Err(too_large()));
            }
        }
    })
    .await?
}

/// A body as the handler gives it, which ends with an error when the handler does. When the client goes away the call is dropped, and with it ended.
fn stream(runtime: Arc<Runtime>, reply: FunctionReply, lease: Option<Lease>) -> Body {
    let pieces = futures_util::stream::unfold((runtime, reply, lease), |(runtime, mut reply, lease)| async move {
        loop {
            let frame = tokio::select! {
                frame = reply.next() => frame,
                () = runtime.frozen() => Ok(None),
            };
            // What goes wrong after the first byte breaks the answer off: one that is not whole must not look so.
            match frame {
                Ok(Some(FunctionFrame::Chunk(chunk))) => return Some((Ok(chunk), (runtime, reply, lease))),
                Ok(Some(FunctionFrame::End(FunctionEnd { failure: None, .. }))) => return None,
                Ok(Some(FunctionFrame::End(FunctionEnd { failure: Some(failure), .. }))) => {
                    tracing::debug!(kind = ?failure.kind, "a function's answer breaks off");
                    let error = std::io::Error::other("the function did not end well");
                    return Some((Err(error), (runtime, reply, lease)));
                }
                Ok(None) | Err(_) => return Some((Err(std::io::ErrorKind::ConnectionAborted.into()), (runtime, reply, lease))),
                Ok(Some(FunctionFrame::Start(_) | FunctionFrame::Text(_) | FunctionFrame::Binary(_) | FunctionFrame::Close(_))) => {}
            }
        }
    });
    Body::from_stream(pieces)
}

// --- WebSockets -------------------------------------------------------------------------------------------------------

fn websocket(runtime: Arc<Runtime>, call: FunctionCall, upgrade: WebSocketUpgrade, held: (Socket, Option<Lease>)) -> Response {
    let max = limits::FUNCTION_REPLY_MAX_BYTES;
    upgrade.max_message_size(max).max_frame_size(max).on_upgrade(move |socket| async move {
        converse(&runtime, &call, socket).await;
        drop(held);
    })
}

async fn converse(runtime: &Runtime, call: &FunctionCall, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let opened = unless_frozen(runtime, runtime.client.function_socket(call)).await;
    let (reader, mut writer) = match opened {
        Ok(opened) => opened.split(),
        Err(_) => {
            close(&mut sink, FAILED, "the sandbox did not answer").await;
            return drain(&mut stream).await;
        }
    };
    let tell = tell(&mut sink, reader, runtime);
    let mut tell = std::pin::pin!(tell);
    let listen = async {
        loop {
            let sent = match stream.next().await {
                Some(Ok(Message::Text(text))) => writer.text(&text).await,
                Some(Ok(Message::Binary(bytes))) => writer.binary(&bytes).await,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.as_ref().map_or(1005, |frame| frame.code);
                    let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                    let _ = writer.close(&SocketClose { code, reason }).await;
                    return;
                }
                Some(Err(_)) | None => {
                    let _ = writer.close(&SocketClose { code: 1006, reason: String::new() }).await;
                    return;
                }
            };
            if sent.is_err() {
                // The other direction tells how it ended.
                return std::future::pending().await;
            }
        }
    };
    let is_told = tokio::select! {
        () = tell.as_mut() => true,
        () = listen => false,
    };
    if is_told {
        drain(&mut stream).await;
    } else {
        // The client has gone: the handler may come to its end, and is ended then.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, tell).await;
    }
}

/// Passes on what the handler says, and at its end how it ended.
async fn tell(sink: &mut SplitSink<WebSocket, Message>, mut reader: FunctionReader, runtime: &Runtime) {
    let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
    let mut closed: Option<SocketClose> = None;
    loop {
        let frame = tokio::select! {
            frame = reader.next() => frame,
            () = runtime.frozen() => return close(sink, AWAY, "the sandbox was paused").await,
            _ = ping.tick() => match sink.send(Message::Ping(Bytes::new())).await {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let sent = match frame {
            Ok(Some(FunctionFrame::Text(text))) => sink.send(Message::text(text)).await,
            Ok(Some(FunctionFrame::Binary(bytes))) => sink.send(Message::Binary(bytes)).await,
            Ok(Some(FunctionFrame::Close(told))) => {
                close(sink, sendable(told.code), &told.reason).await;
                closed = Some(told);
                Ok(())
            }
            Ok(Some(FunctionFrame::Start(_) | FunctionFrame::Chunk(_))) => Ok(()),
            Ok(Some(FunctionFrame::End(end))) => {
                if closed.is_none() {
                    let (code, reason) = end.failure.as_ref().map_or((1000, ""), closing);
                    close(sink, code, reason).await;
                }
                return;
            }
            Ok(None) | Err(_) => return close(sink, FAILED, "the sandbox was restarted or ended").await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// How a failure is told to a WebSocket's client, who is anybody.
fn closing(failure: &FunctionFailure) -> (u16, &str) {
    match failure.kind {
        FailureKind::Busy => (TRY_LATER, &failure.message),
        FailureKind::Unavailable => (TRY_LATER, "the function cannot be started now"),
        FailureKind::BadHandler => (BAD_REQUEST, &failure.message),
        FailureKind::TimedOut => (FAILED, "function invocation timed out"),
        FailureKind::NoRuntime => (FAILED, "function runtime unavailable"),
        FailureKind::NotFound | FailureKind::Failed | FailureKind::BadResponse | FailureKind::TooLarge | FailureKind::Unknown => {
            (FAILED, "the function failed")
        }
    }
}

/// A close code that may stand in a frame.
fn sendable(code: u16) -> u16 {
    if matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) { code } else { 1000 }
}

async fn close(sink: &mut SplitSink<WebSocket, Message>, code: u16, reason: &str) {
    let mut end = reason.len().min(REASON_MAX_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let frame = CloseFrame { code, reason: reason[..end].into() };
    let _ = sink.send(Message::Close(Some(frame))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_all_their_values_and_none_of_the_gateways() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "upgrade"), ("upgrade", "websocket"), ("content-type", "a/b"), ("x-many", "1"), ("x-many", "2"), ("te", "trailers")]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let seen = headers_of(&headers);
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["Content-Type", "X-Many"]);
        assert_eq!(seen["X-Many"], ["1", "2"]);
        let start = |status, headers: &[(&str, &str)]| FunctionStart {
            status,
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect(),
            stream: false,
        };
        let response = head(&start(201, &[("Content-Length", "9"), ("X-A", "b")])).expect("a head");
        assert_eq!((response.status().as_u16(), response.headers().len(), response.headers()["x-a"].to_str().ok()), (201, 1, Some("b")));
        let mut many = start(200, &[]);
        many.headers.insert("x".into(), vec![String::new(); 100_000]);
        assert!(head(&many).is_err());
        for wrong in [start(101, &[]), start(99, &[]), start(200, &[("a b", "c")]), start(200, &[("a", "b\r\nc: d")])] {
            assert!(head(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn paths_are_unescaped_once() {
        for (path, seen) in
            [("/a%20b", "/a b"), ("/%C3%A9", "/é"), ("/%2525", "/%25"), ("/%zz%2", "/%zz%2"), ("/%ff", "/\u{fffd}"), ("/%+1", "/%+1"), ("/", "/")]
        {
            assert_eq!(unescaped(path), seen, "{path}");
        }
    }

    #[test]
    fn queries_are_maps_of_lists() {
        assert_eq!(
            query_of("a=1&b=%20&a=2&c"),
            BTreeMap::from([("a".into(), vec!["1".into(), "2".into()]), ("b".into(), vec![" ".into()]), ("c".into(), vec![String::new()])])
        );
    }

    #[test]
    fn failures_close_with_a_code_that_says_whose_they_are() {
        let of = |kind| closing(&FunctionFailure { kind, message: "words".into() }).0;
        assert_eq!([FailureKind::Busy, FailureKind::BadHandler, FailureKind::Failed, FailureKind::TimedOut].map(of), [1013, 1008, 1011, 1011]);
        assert_eq!([1000, 1005, 1006, 4001, 0].map(sendable), [1000, 1000, 1000, 4001, 1000]);
    }
}
