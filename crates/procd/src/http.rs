//! The routes.
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use sandbar_procd_api::{
    Assign, ContextList, ContextState, ContextType, CreateContext, Enter, ErrorCode, ExecResult, Input, Move, Newest, PtySize, Publishing, Signal, Taken,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::body::Body;
use crate::context::{Context, shows_streams};
use crate::error::Failure;
use crate::limits::{HEARTBEAT, JSON_BYTES_MAX};
use crate::log::Position;
use crate::{attach, files, functions, json, process, publish, signals, stats, watch};

pub type Answer = Result<Response<Body>, Failure>;

/// Answers one request.
pub async fn serve(agent: Rc<Agent>, request: Request<Incoming>) -> Response<Body> {
    match route(agent, request).await {
        Ok(response) => response,
        Err(failure) => {
            let status = StatusCode::from_u16(failure.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = serde_json::to_vec(&failure.0).unwrap_or_default();
            with_status(json_bytes(body), status)
        }
    }
}

async fn route(agent: Rc<Agent>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let segments: Vec<&str> = path.strip_prefix("/v1/").unwrap_or("").split('/').collect();
    match (&method, segments.as_slice()) {
        (&Method::GET, ["info"]) => json(&agent.info()),
        (&Method::POST, ["assign"]) => {
            let assign: Assign = body(request).await?;
            agent.assign(assign).await;
            done()
        }
        (&Method::GET, ["events"]) => events(agent, &request),
        (&Method::POST, ["events", "taken"]) => {
            let taken: Taken = body(request).await?;
            agent.events.taken(taken.seq);
            done()
        }
        (&Method::PUT, ["publishing"]) => {
            let publishing: Publishing = body(request).await?;
            publish::set(&agent, publishing.enabled);
            json(&Newest { seq: agent.events.newest() })
        }
        (&Method::POST, ["root"]) => {
            let enter: Enter = body(request).await?;
            agent.enter(enter.path)?;
            done()
        }
        (&Method::POST, ["trust"]) => json(&agent.trust(body(request).await?).await?),
        (&Method::GET, ["contexts"]) => {
            agent.until_listed().await;
            let contexts = agent.contexts().iter().map(|c| c.wire(Default::default())).collect();
            json(&ContextList { contexts })
        }
        (&Method::POST, ["contexts"]) => create(agent, body(request).await?).await,
        (&Method::GET, ["contexts", id]) => {
            let context = agent.context(id)?;
            let end = context.run().log.borrow().end();
            context_json(&context, (Position::default(), end))
        }
        (&Method::DELETE, ["contexts", id]) => {
            let context = agent.context(id)?;
            finish_anyway(async move { context.delete(&agent).await }).await?;
            done()
        }
        (&Method::POST, ["contexts", id, "restart"]) => {
            let context = agent.context(id)?;
            let restarted = context.clone();
            finish_anyway(async move { restarted.restart(&agent).await }).await?;
            json(&context.wire(Default::default()))
        }
        (&Method::POST, ["contexts", id, "exec"]) => {
            let context = agent.context(id)?;
            let input: Input = body(request).await?;
            if input.data.is_empty() {
                return Err(Failure::new(ErrorCode::InvalidRequest, "data is empty"));
            }
            exec(&context, &input.data).await
        }
        (&Method::POST, ["contexts", id, "input"]) => {
            let context = agent.context(id)?;
            let input: Input = body(request).await?;
            if !input.data.is_empty() {
                context.run().input(&agent, &input.data, None)?;
            }
            done()
        }
        (&Method::POST, ["contexts", id, "resize"]) => {
            let context = agent.context(id)?;
            let size: PtySize = body(request).await?;
            resize(&context.run(), size)?;
            done()
        }
        (&Method::POST, ["contexts", id, "signal"]) => {
            let context = agent.context(id)?;
            let signal: Signal = body(request).await?;
            send_signal(&context.run(), &signal.signal)?;
            done()
        }
        (&Method::GET, ["contexts", id, "stats"]) => {
            let context = agent.context(id)?;
            json(&stats::of_context(&agent, &context.run()).await)
        }
        (&Method::GET, ["contexts", id, "attach"]) => attach::upgrade(agent.clone(), agent.context(id)?.run(), request),
        (&Method::GET, ["files"]) => files::read(&agent, request).await,
        (&Method::POST, ["files"]) => files::write(&agent, request).await,
        (&Method::DELETE, ["files"]) => files::remove(&agent, request).await,
        (&Method::POST, ["files", "move"]) => {
            let movement: Move = body(request).await?;
            files::rename(&agent, movement).await
        }
        (&Method::GET, ["files", "stat"]) => files::stat(&agent, request).await,
        (&Method::GET, ["files", "list"]) => files::list(&agent, request).await,
        (&Method::GET, ["files", "watch"]) => watch::start(&agent, &request),
        (&Method::POST, ["functions", "call"]) => functions::call(&agent, body(request).await?),
        (&Method::POST, ["functions", "check"]) => json(&functions::check(&agent, body(request).await?).await?),
        (&Method::GET, ["functions", "socket"]) => functions::socket::upgrade(&agent, request),
        (&Method::GET, ["processes"]) => process::upgrade(&agent, request),
        (&Method::GET, ["stats"]) => json(&stats::of_all(&agent).await),
        (&Method::POST, ["connections", "reset"]) => {
            agent.reset.notify_waiters();
            done()
        }
        (
            _,
            ["info" | "assign" | "root" | "trust" | "events" | "contexts" | "files" | "stats" | "publishing" | "processes"]
            | ["events", "taken"]
            | ["contexts", _]
            | ["contexts", _, "restart" | "exec" | "input" | "resize" | "signal" | "stats" | "attach"]
            | ["files", "move" | "stat" | "list" | "watch"]
            | ["functions", "call" | "check" | "socket"]
            | ["connections", "reset"],
        ) => Err(Failure::new(ErrorCode::MethodNotAllowed, format!("{method} is not for {path}"))),
        _ => Err(Failure::new(ErrorCode::NotFound, format!("there is no {path}"))),
    }
}

/// Goes on to the end even when the one who asked hangs up.
async fn finish_anyway(work: impl Future<Output = Result<(), Failure>> + 'static) -> Result<(), Failure> {
    match tokio::task::spawn_local(work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(ErrorCode::OperationFailed, "the work was ended")),
    }
}

async fn create(agent: Rc<Agent>, spec: CreateContext) -> Answer {
    let wait = spec.wait_until_done;
    let context = begin(&agent, spec).await?;
    let run = context.run();
    let input = context.spec.repl.as_ref().and_then(|r| r.input.clone()).filter(|i| !i.is_empty());
    let response = match (context.spec.kind, input) {
        (ContextType::Cmd, _) if wait => {
            run.until_finished().await;
            let end = run.log.borrow().end();
            context_json(&context, (Position::default(), end))?
        }
        (ContextType::Repl, Some(input)) if wait => {
            let span = run.exec(&input).await?;
            context_json(&context, span)?
        }
        (ContextType::Repl, Some(input)) => {
            let run = run.clone();
            tokio::task::spawn_local(async move { run.exec(&input).await });
            json(&context.wire(Default::default()))?
        }
        (ContextType::Cmd | ContextType::Repl, _) => json(&context.wire(Default::default()))?,
    };
    Ok(with_status(response, StatusCode::CREATED))
}

/// Starts a context. One that takes its time is listed also when whoever asked for it hangs up.
async fn begin(agent: &Rc<Agent>, spec: CreateContext) -> Result<Rc<Context>, Failure> {
    if spec.kept.is_none() {
        return Context::create(agent, spec).await;
    }
    let agent = agent.clone();
    let started = tokio::task::spawn_local(async move { agent.starting(Context::create(&agent, spec)).await });
    started.await.unwrap_or_else(|_| Err(Failure::new(ErrorCode::OperationFailed, "the work was ended")))
}

async fn exec(context: &Context, code: &str) -> Answer {
    let run = context.run();
    let span = run.exec(code).await?;
    let output = run.outcome(&span.0);
    let state = run.end().filter(|_| run.finished.get()).map_or(ContextState::Running, |e| e.state);
    let streams = shows_streams(context.spec.kind, &run);
    json::with_output(&ExecResult { state, output }, &run, span, streams).map(json_bytes).map_err(Failure::from)
}

fn context_json(context: &Context, span: (Position, Position)) -> Answer {
    let run = context.run();
    let output = run.outcome(&span.0);
    let streams = shows_streams(context.spec.kind, &run);
    json::with_output(&context.wire(output), &run, span, streams).map(json_bytes).map_err(Failure::from)
}

/// Sets a terminal's size.
///
/// # Errors
/// `invalid_request`, and those of [`crate::run::Run::resize`].
pub fn resize(run: &crate::run::Run, size: PtySize) -> Result<(), Failure> {
    if size.rows == 0 || size.cols == 0 {
        return Err(Failure::new(ErrorCode::InvalidRequest, "rows and cols must be above 0"));
    }
    run.resize(size.rows, size.cols)
}

/// Sends a signal by name or number.
///
/// # Errors
/// `invalid_request`, and those of [`crate::run::Run::signal`].
pub fn send_signal(run: &crate::run::Run, name: &str) -> Result<(), Failure> {
    let number = signals::parse(name).ok_or_else(|| Failure::new(ErrorCode::InvalidRequest, format!("unsupported signal {name:?}")))?;
    run.signal(number)
}

fn events(agent: Rc<Agent>, request: &Request<Incoming>) -> Answer {
    let query = Query::of(request);
    let mut after = match query.get("after") {
        Some(text) => text.parse::<u64>().map_err(|_| Failure::new(ErrorCode::InvalidRequest, "after is the number of an event"))?,
        None => 0,
    };
    let (send, receive) = mpsc::channel(2);
    tokio::task::spawn_local(async move {
        loop {
            let added = agent.events.added.notified();
            let mut added = std::pin::pin!(added);
            added.as_mut().enable();
            let (lines, next) = agent.events.lines_after(after);
            after = next;
            if !lines.is_empty() {
                if send.send(Ok(lines.into())).await.is_err() {
                    return;
                }
                continue;
            }
            let quiet = tokio::select! {
                () = added => false,
                () = tokio::time::sleep(HEARTBEAT) => true,
                () = send.closed() => return,
            };
            if quiet {
                // Not kept: it says nothing about yesterday.
                let at_ms = crate::agent::now_ms();
                let heartbeat = sandbar_procd_api::Event { seq: after, at_ms, kind: sandbar_procd_api::EventKind::Heartbeat };
                let mut line = serde_json::to_vec(&heartbeat).unwrap_or_default();
                line.push(b'\n');
                if send.send(Ok(line.into())).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(ndjson(receive))
}

// -------------------------------------------------------------------- shapes

/// The decoded query of a request.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the query; what is no percent-encoding stays as it is.
    pub fn of<T>(request: &Request<T>) -> Self {
        let query = request.uri().query().unwrap_or("");
        let pairs = query.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// True for the literal `true`.
    pub fn is_true(&self, key: &str) -> bool {
        self.get(key) == Some("true")
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                i += 1;
            }
            (byte, ..) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Failure> {
    let too_large = || Failure::new(ErrorCode::RequestTooLarge, format!("the body is larger than {JSON_BYTES_MAX} bytes"));
    let mut incoming = request.into_body();
    let mut all = BytesMut::new();
    let mut received = 0;
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|e| Failure::new(ErrorCode::InvalidRequest, format!("the body broke off: {e}")))?;
        let Some(data) = frame.data_ref() else { continue };
        received += data.len();
        if received <= JSON_BYTES_MAX {
            all.extend_from_slice(data);
            continue;
        }
        // A little too much is read to its end, so that the one who still writes gets to see the answer.
        all = BytesMut::new();
        if received > 4 * JSON_BYTES_MAX {
            return Err(too_large());
        }
    }
    if received > JSON_BYTES_MAX {
        return Err(too_large());
    }
    Ok(serde_json::from_slice(&all)?)
}

/// An answer of JSON.
///
/// # Errors
/// When the value cannot be written as JSON.
pub fn json<T: Serialize>(value: &T) -> Answer {
    Ok(json_bytes(serde_json::to_vec(value)?))
}

/// The answer that has nothing to say.
///
/// # Errors
/// Never.
pub fn done() -> Answer {
    Ok(json_bytes(b"{}".to_vec()))
}

fn json_bytes(bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::Full(Some(Bytes::from(bytes))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A stream of JSON lines.
pub fn ndjson(lines: mpsc::Receiver<std::io::Result<Bytes>>) -> Response<Body> {
    let mut response = Response::new(Body::Stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

/// The same answer with another status.
pub fn with_status(mut response: Response<Body>, status: StatusCode) -> Response<Body> {
    *response.status_mut() = status;
    response
}
