//! Following a process: all kept output, then what comes, both ways over one connection.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sandbar_procd_api::frame::{self, AttachInput, Decoded, Done, Kind, Lost, PAYLOAD_BYTES_MAX, Ready, Used};
use sandbar_procd_api::{ErrorCode, PtySize, Signal, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::agent::Agent;
use crate::body::Body;
use crate::error::Failure;
use crate::http::{resize, send_signal};
use crate::limits::{JSON_BYTES_MAX, READERS_MAX};
use crate::log::{Log, Piece, Position};
use crate::run::{Reader, Run};

const PROTOCOL_NAME: &str = "sandbar-attach";

/// Answers 101 and serves the frames.
///
/// # Errors
/// `invalid_request` without the right Upgrade header, `too_many_contexts` when too many follow already.
pub fn upgrade(agent: Rc<Agent>, run: Rc<Run>, mut request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let asked = request.headers().get(UPGRADE).and_then(|v| v.to_str().ok());
    if !asked.is_some_and(|a| a.eq_ignore_ascii_case(PROTOCOL_NAME)) {
        return Err(Failure::new(ErrorCode::InvalidRequest, "attach needs the header Upgrade: sandbar-attach"));
    }
    if run.readers.borrow().len() >= READERS_MAX {
        let message = format!("{READERS_MAX} clients follow this context already");
        return Err(Failure::new(ErrorCode::TooManyContexts, message));
    }
    let reader = Rc::new(Reader { at: Cell::default(), progressed: Cell::new(Instant::now()), given_up: Cell::new(false), readies: RefCell::default() });
    run.expects.set(false);
    run.readers.borrow_mut().push(reader.clone());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        if let Ok(upgraded) = upgraded.await {
            serve(&agent, &run, &reader, TokioIo::new(upgraded)).await;
        }
        run.readers.borrow_mut().retain(|r| !Rc::ptr_eq(r, &reader));
        run.taken.notify_waiters();
    });
    let mut response = Response::new(Body::Full(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL_NAME));
    Ok(response)
}

async fn serve(agent: &Rc<Agent>, run: &Rc<Run>, reader: &Rc<Reader>, io: impl AsyncRead + AsyncWrite) {
    let (from_host, mut to_host) = tokio::io::split(io);
    tokio::select! {
        () = tell(run, reader, &mut to_host) => {}
        () = listen(agent, run, reader, from_host) => {}
    }
    let _ = to_host.shutdown().await;
}

enum Next {
    Frame(Vec<u8>),
    Done(Vec<u8>),
    Wait,
}

/// Sends output, answers and the end.
async fn tell(run: &Run, reader: &Reader, to_host: &mut (impl AsyncWrite + Unpin)) {
    loop {
        let changed = run.changed.notified();
        let mut changed = std::pin::pin!(changed);
        changed.as_mut().enable();
        match next(run, reader) {
            Next::Frame(bytes) => {
                if to_host.write_all(&bytes).await.is_err() {
                    return;
                }
                reader.progressed.set(Instant::now());
                reader.given_up.set(false);
                run.taken.notify_waiters();
            }
            Next::Done(bytes) => {
                let _ = to_host.write_all(&bytes).await;
                let _ = to_host.flush().await;
                return;
            }
            Next::Wait => {
                if to_host.flush().await.is_err() {
                    return;
                }
                reader.progressed.set(Instant::now());
                changed.await;
            }
        }
    }
}

fn next(run: &Run, reader: &Reader) -> Next {
    let mut at = reader.at.get();
    let due = reader.readies.borrow().front().is_some_and(|(position, _)| Log::reached(&at, position));
    if due {
        let ready = reader.readies.borrow_mut().pop_front();
        let request_id = ready.and_then(|(_, request_id)| request_id);
        return Next::Frame(encode_json(Kind::Ready, &Ready { request_id }));
    }
    let log = run.log.borrow();
    let limit = reader.readies.borrow().front().map_or_else(|| log.end(), |(position, _)| *position);
    let kind = |slot: usize| match log.stream(slot) {
        Stream::Stdout => Kind::Stdout,
        Stream::Stderr => Kind::Stderr,
        Stream::Pty => Kind::Pty,
    };
    match log.next(&at, &limit, PAYLOAD_BYTES_MAX) {
        Some(Piece::Text(slot, text)) => {
            let bytes = frame::encode(kind(slot), text.as_bytes());
            Log::advance(&mut at, slot, text.len() as u64);
            reader.at.set(at);
            Next::Frame(bytes)
        }
        Some(Piece::Lost(slot, bytes)) => {
            Log::advance(&mut at, slot, bytes);
            reader.at.set(at);
            Next::Frame(encode_json(Kind::Lost, &Lost { stream: log.stream(slot), bytes }))
        }
        None => match run.end().filter(|_| run.finished.get()) {
            Some(end) => {
                let all = end.used.plus(run.others());
                let used = Used {
                    duration_ms: u64::try_from(end.after.as_millis()).unwrap_or(u64::MAX),
                    cpu_us: all.cpu_us,
                    memory_peak_bytes: all.memory_peak_bytes,
                    written_bytes: all.written_bytes,
                };
                let done = Done { exit_code: end.exit_code, state: end.state, reason: end.reason, used: Some(used) };
                Next::Done(encode_json(Kind::Done, &done))
            }
            None => Next::Wait,
        },
    }
}

fn encode_json<T: serde::Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    let mut payload = serde_json::to_vec(value).unwrap_or_default();
    if payload.len() > PAYLOAD_BYTES_MAX {
        payload = b"{}".to_vec();
    }
    frame::encode(kind, &payload)
}

/// Takes input, sizes and signals; returns when the host is gone.
async fn listen(agent: &Rc<Agent>, run: &Rc<Run>, reader: &Rc<Reader>, mut from_host: impl AsyncRead + Unpin) {
    let mut buffer = Vec::new();
    loop {
        let consumed = match frame::decode(&buffer) {
            Decoded::Incomplete => {
                if buffer.len() > JSON_BYTES_MAX {
                    return;
                }
                match from_host.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => continue,
                }
            }
            Decoded::Invalid => return,
            Decoded::Frame { kind, payload, consumed } => {
                // A client that sends what cannot be done is not told: the frames have no place for it.
                match kind {
                    Some(Kind::Input) => {
                        if let Ok(input) = serde_json::from_slice::<AttachInput>(payload) {
                            take_input(agent, run, reader, input).await;
                        }
                    }
                    Some(Kind::Resize) => {
                        if let Ok(size) = serde_json::from_slice::<PtySize>(payload) {
                            let _ = resize(run, size);
                        }
                    }
                    Some(Kind::Signal) => {
                        if let Ok(signal) = serde_json::from_slice::<Signal>(payload) {
                            let _ = send_signal(run, &signal.signal);
                        }
                    }
                    Some(Kind::Eof) => run.end_input(),
                    Some(Kind::Stdout | Kind::Stderr | Kind::Pty | Kind::Ready | Kind::Done | Kind::Lost) | None => {}
                }
                consumed
            }
        };
        buffer.drain(..consumed);
        if buffer.is_empty() && buffer.capacity() > PAYLOAD_BYTES_MAX {
            buffer = Vec::new();
        }
    }
}

/// Gives input to the process; while it cannot take more, the client waits, as on a terminal.
async fn take_input(agent: &Rc<Agent>, run: &Rc<Run>, reader: &Rc<Reader>, input: AttachInput) {
    loop {
        let asker = input.request_id.clone().map(|id| (reader.clone(), Some(id)));
        match run.input(agent, &input.data, asker) {
            Err(failure) if failure.0.code == ErrorCode::InputBufferFull => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Ok(()) | Err(_) => return,
        }
    }
}

const _: () = assert!(size_of::<Position>() <= 16);
