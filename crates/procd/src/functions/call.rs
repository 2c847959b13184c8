//! One call: a process, its request, the frames of its reply, its end.
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sandbar_linux::process::{self, Ended};
use sandbar_procd_api::function::{
    Decoded, FailureKind, FunctionCall, FunctionEnd, FunctionFailure, FunctionStart, HEADER_BYTES, Kind, LOG_BYTES_MAX, PAYLOAD_BYTES_MAX, REPLY_BYTES_MAX,
    STDERR_TRUNCATED, decode, encode,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::output::Output;
use super::python::{failure, unavailable};
use super::zygote::{CallState, Key, Phase, Zygote};
use super::{Functions, Place, Weight};
use crate::agent::Agent;
use crate::limits::{FUNCTION_ATTEMPTS_MAX, FUNCTION_END_GRACE, FUNCTION_SETTLE_MAX, FUNCTION_START_BYTES_MAX};

/// Where the frames go.
pub type Frames = mpsc::Sender<io::Result<Bytes>>;

/// The length field of a frame.
const LENGTH_BYTES: usize = 4;
/// Rounds of looking for what is left in a session.
const SESSION_ROUNDS_MAX: usize = 8;
/// Processes that are looked at in a round.
const PROCESSES_MAX: usize = 16_384;

struct Call {
    agent: Rc<Agent>,
    asked: FunctionCall,
    /// The frame with the request, until a handler takes it.
    request: RefCell<Option<(Vec<u8>, Weight)>>,
    frames: Frames,
    /// When it is given up; `None` = never.
    due: Cell<Option<Instant>>,
    /// The session of the process that runs the handler.
    session: Cell<Option<i32>>,
    zygote: RefCell<Option<Rc<Zygote>>>,
    output: RefCell<Option<Rc<Output>>>,
}

/// Runs a call to its end. `inbox` has the frames of a client's WebSocket.
pub async fn run(agent: Rc<Agent>, mut asked: FunctionCall, frames: Frames, inbox: Option<mpsc::Receiver<Bytes>>) {
    let place = Functions::enter(&agent, asked.limit.as_ref());
    let due = Cell::new(after(asked.timeout_ms));
    let request = place.and_then(|place| {
        // One copy of it is kept, and not for longer than until its handler has it.
        let request = frame_of(&asked.handler, asked.request.take(), inbox.is_some());
        let weight = Functions::weigh(&agent, request.len())?;
        Ok((place, (request, weight)))
    });
    let session = Cell::new(None);
    let (place, request) = request.map_or_else(|failure| (Err(failure), None), |(place, request)| (Ok(place), Some(request)));
    let call = Call { agent, asked, request: RefCell::new(request), frames, due, session, zygote: RefCell::default(), output: RefCell::default() };
    let ended = match place {
        Ok(place) => call.until_over(inbox, place).await,
        Err(failure) => Some(Err(failure)),
    };
    call.request.take();
    // Nobody is there to be told.
    let Some(ended) = ended else { return };
    let logs = match (call.output.take(), call.zygote.take()) {
        (Some(output), zygote) => output.logs(zygote.as_ref().map(|z| &*z.import)),
        (None, Some(zygote)) => zygote.import.logs(None),
        (None, None) => Vec::new(),
    };
    let end = FunctionEnd { failure: ended.err().map(cut), logs };
    let _ = call.frames.send(Ok(encode(Kind::End, &serde_json::to_vec(&end).unwrap_or_default()).into())).await;
}

/// The frame of a request, as its handler's process reads it.
fn frame_of(handler: &str, request: serde_json::Value, is_socket: bool) -> Vec<u8> {
    let mut frame = encode(Kind::Request, &[]);
    let asked = json!({ "handler": handler, "socket": is_socket, "request": request });
    // Writing into memory does not fail, and a value has no keys that are not text.
    let _ = serde_json::to_writer(&mut frame, &asked);
    let length = u32::try_from(frame.len() - LENGTH_BYTES).unwrap_or(u32::MAX);
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    frame
}

/// A failure whose words fit into the last frame, whatever the handler's process said.
fn cut(mut failure: FunctionFailure) -> FunctionFailure {
    if failure.message.len() > LOG_BYTES_MAX {
        failure.message.truncate(failure.message.floor_char_boundary(LOG_BYTES_MAX));
        failure.message.push_str(&format!("\n{STDERR_TRUNCATED}\n"));
    }
    failure
}

fn after(ms: u64) -> Option<Instant> {
    if ms == 0 { None } else { Instant::now().checked_add(Duration::from_millis(ms)) }
}

fn bad(message: impl Into<String>) -> FunctionFailure {
    failure(FailureKind::BadResponse, message)
}

/// What an attempt came to.
enum Attempt {
    /// Its reply is whole; the process may have something left to do.
    Done(Option<Rest>),
    /// The process was not fit for it, and nothing of the call was done.
    Again,
}

impl Call {
    /// `None` when the caller has gone.
    async fn until_over(&self, inbox: Option<mpsc::Receiver<Bytes>>, place: Place) -> Option<Result<(), FunctionFailure>> {
        let ended = {
            let work = self.work(inbox);
            let mut work = std::pin::pin!(work);
            loop {
                let due = self.due.get();
                let wait = async {
                    match due {
                        Some(due) => tokio::time::sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    ended = work.as_mut() => break Some(ended),
                    () = wait => if self.due.get().is_some_and(|due| due <= Instant::now()) {
                        self.give_up();
                        break Some(Err(failure(FailureKind::TimedOut, "function invocation timed out")));
                    },
                    () = self.frames.closed() => break None,
                }
            }
        };
        let (ended, rest) = match ended {
            Some(Ok(rest)) => (Some(Ok(())), rest),
            Some(Err(failure)) => (Some(Err(failure)), None),
            None => (None, None),
        };
        match (self.session.get(), rest) {
            (Some(session), Some(rest)) => drop(tokio::task::spawn_local(rest.until_ended(session, self.due.get(), place))),
            (Some(session), None) => {
                let _ = process::signal_group_only(session, 9);
                if !matches!(ended, Some(Ok(()))) {
                    end_session(&self.agent, session).await;
                }
            }
            (None, _) => {}
        }
        if let Some(output) = &*self.output.borrow() {
            output.close(&self.agent);
        }
        ended
    }

    /// Out of time: a process that did not even begin the call is not to hold up others.
    fn give_up(&self) {
        if let Some(zygote) = self.zygote.borrow().as_ref().filter(|zygote| self.session.get().is_none() && zygote.is_stuck()) {
            self.agent.functions.forget(zygote);
        }
    }

    async fn work(&self, mut inbox: Option<mpsc::Receiver<Bytes>>) -> Result<Option<Rest>, FunctionFailure> {
        let key = Key { source: self.asked.source.clone(), env: self.asked.env_vars.clone() };
        let label = if self.asked.label.is_empty() { "function" } else { self.asked.label.as_str() };
        for _ in 0..FUNCTION_ATTEMPTS_MAX {
            let (zygote, once) = Functions::obtain(&self.agent, &key, label, self.asked.cold, &self.zygote).await?;
            match self.attempt(&zygote, once, label, &mut inbox).await? {
                Attempt::Done(rest) => return Ok(rest),
                Attempt::Again => self.agent.functions.forget(&zygote),
            }
        }
        Err(unavailable("its files change all the time, or it ends itself while it is imported"))
    }

    async fn attempt(&self, zygote: &Rc<Zygote>, once: bool, label: &str, inbox: &mut Option<mpsc::Receiver<Bytes>>) -> Result<Attempt, FunctionFailure> {
        let no = |e: rustix::io::Errno| unavailable(&crate::error::describe(&e.into()));
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(no)?;
        process::set_nonblocking(&ours).map_err(no)?;
        let channel = UnixStream::from_std(StdStream::from(ours)).map_err(|e| unavailable(&crate::error::describe(&e)))?;
        let (output, [out, err]) = Output::open(&self.agent, label)?;
        *self.output.borrow_mut() = Some(output.clone());
        let Some(number) = zygote.send(once, [theirs.as_fd(), out.as_fd(), err.as_fd()]) else {
            output.close(&self.agent);
            return Ok(Attempt::Again);
        };
        drop((theirs, out, err));
        let held = Number(zygote.clone(), number);
        let begun = zygote
            .until(|| {
                let call = zygote.call(number);
                let over = call.pid.is_some() || call.stale || call.error.is_some() || matches!(zygote.phase(), Phase::Gone | Phase::Failed(_));
                over.then_some(call)
            })
            .await;
        match begun {
            CallState { error: Some(error), .. } => return Err(unavailable(&error)),
            CallState { pid: Some(pid), .. } => self.session.set(Some(pid)),
            CallState { .. } => {
                output.close(&self.agent);
                return Ok(Attempt::Again);
            }
        }
        let is_settling = self.converse(channel, inbox, &output, zygote, || held.exited(once)).await?;
        Ok(Attempt::Done(is_settling.then_some(Rest { call: held, once })))
    }

    /// Gives the request, passes on the frames of both sides. True when the process still does something after its reply.
    async fn converse(
        &self,
        channel: UnixStream,
        inbox: &mut Option<mpsc::Receiver<Bytes>>,
        output: &Output,
        zygote: &Rc<Zygote>,
        exited: impl Fn() -> Option<Option<Ended>>,
    ) -> Result<bool, FunctionFailure> {
        let (mut from, mut to) = channel.into_split();
        let is_socket = inbox.is_some();
        let request = self.request.take();
        let feed = async {
            // Who does not read is noticed by what it says, or does not say.
            let mut open = match &request {
                Some((request, _)) => to.write_all(request).await.is_ok(),
                None => false,
            };
            drop(request);
            while let Some(inbox) = inbox.as_mut().filter(|_| open) {
                let frame = inbox.recv().await.unwrap_or_else(|| encode(Kind::Close, b"{\"code\":1006}").into());
                open = to.write_all(&frame).await.is_ok();
            }
            std::future::pending::<()>().await;
        };
        let hear = async {
            let mut buffer = BytesMut::new();
            let mut reply = Reply::default();
            loop {
                match decode(&buffer, PAYLOAD_BYTES_MAX) {
                    Decoded::Invalid => return Err(bad("the function's process wrote something else than a reply to the socket of its reply")),
                    Decoded::Frame { kind, bytes } => {
                        let frame = buffer.split_to(bytes).freeze();
                        if self.take(&mut reply, kind, frame, is_socket).await? {
                            return Ok(reply.settling);
                        }
                        continue;
                    }
                    Decoded::Incomplete => buffer.reserve(64 << 10),
                }
                let read = tokio::select! {
                    biased;
                    read = from.read_buf(&mut buffer) => read,
                    // Others may hold the socket open; what the process itself wrote is there by now.
                    _ = zygote.until(&exited) => match tokio::time::timeout(FUNCTION_END_GRACE, from.read_buf(&mut buffer)).await {
                        Ok(read) => read,
                        Err(_) => Ok(0),
                    },
                };
                if !matches!(read, Ok(1..)) {
                    let ended = tokio::time::timeout(FUNCTION_END_GRACE, zygote.until(&exited)).await.ok().flatten();
                    output.drain(&self.agent);
                    return Err(self.ended_early(output, ended));
                }
            }
        };
        tokio::select! {
            ended = hear => ended,
            () = feed => Ok(false),
        }
    }

    /// Takes one frame of the handler's; true when it was the last.
    async fn take(&self, reply: &mut Reply, kind: Kind, mut frame: Bytes, is_socket: bool) -> Result<bool, FunctionFailure> {
        let whole = frame.clone();
        frame.advance(HEADER_BYTES);
        match kind {
            Kind::Start => {
                let start = serde_json::from_slice::<FunctionStart>(&frame).ok().filter(|start| (100..=599).contains(&start.status));
                let Some(start) = start.filter(|_| !reply.started) else { return Err(bad("the function's reply does not begin as one")) };
                if frame.len() > FUNCTION_START_BYTES_MAX {
                    return Err(failure(
                        FailureKind::TooLarge,
                        format!("function response is too large: its headers have more than {FUNCTION_START_BYTES_MAX} bytes"),
                    ));
                }
                (reply.started, reply.stream) = (true, start.stream);
                if start.stream {
                    self.due.set(after(self.asked.stream_timeout_ms));
                }
                self.pass_on(whole).await
            }
            Kind::Chunk if reply.started => {
                reply.bytes += frame.len();
                if !reply.stream && reply.bytes > REPLY_BYTES_MAX {
                    return Err(failure(FailureKind::TooLarge, format!("function response is too large: its body has more than {REPLY_BYTES_MAX} bytes")));
                }
                self.pass_on(whole).await
            }
            Kind::Text | Kind::Binary | Kind::Close if is_socket => self.pass_on(whole).await,
            Kind::End if reply.started => {
                reply.settling = !frame.is_empty();
                Ok(true)
            }
            Kind::Failed => {
                let told = serde_json::from_slice::<FunctionFailure>(&frame);
                Err(told.unwrap_or_else(|_| bad("the function failed without words")))
            }
            Kind::Chunk | Kind::Text | Kind::Binary | Kind::Close | Kind::End | Kind::Request => Err(bad("the function's reply is out of order")),
        }
    }

    async fn pass_on(&self, frame: Bytes) -> Result<bool, FunctionFailure> {
        // Who does not take it any more is noticed elsewhere.
        let _ = self.frames.send(Ok(frame)).await;
        Ok(false)
    }

    fn ended_early(&self, output: &Output, ended: Option<Ended>) -> FunctionFailure {
        let oom = self.agent.look_for_oom(None);
        let mut message = format!("the function's process ended without a reply{}", how(ended, oom));
        let printed = output.text(1);
        if !printed.is_empty() {
            message.push('\n');
            message.push_str(&printed);
        }
        failure(if ended == Some(Ended::Exited(0)) { FailureKind::BadResponse } else { FailureKind::Failed }, message)
    }
}

#[derive(Default)]
struct Reply {
    started: bool,
    stream: bool,
    bytes: usize,
    settling: bool,
}

/// Forgets a call's number.
struct Number(Rc<Zygote>, u64);

impl Number {
    /// How its process ended, if it has and that is known.
    fn exited(&self, once: bool) -> Option<Option<Ended>> {
        if once { self.0.ended().map(Some) } else { self.0.call(self.1).exited }
    }
}

/// A process that has said its reply and waits for its threads, or runs what is to run at its end.
struct Rest {
    call: Number,
    once: bool,
}

impl Rest {
    /// It counts as a call as long as it takes, and has no longer than the call would have had.
    async fn until_ended(self, session: i32, due: Option<Instant>, _place: Place) {
        let limit = Instant::now() + FUNCTION_SETTLE_MAX;
        let limit = due.map_or(limit, |due| due.min(limit));
        let _ = tokio::time::timeout_at(limit, self.call.0.until(|| self.call.exited(self.once))).await;
        let _ = process::signal_group_only(session, 9);
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.0.end_call(self.1);
    }
}

/// The end of a process in words that follow others.
pub fn how(ended: Option<Ended>, oom: bool) -> String {
    match ended {
        None => String::new(),
        Some(Ended::Exited(code)) => format!(", with exit code {code}"),
        Some(Ended::Signaled(9)) if oom => ": the sandbox reached its memory limit and the kernel killed it".to_owned(),
        Some(Ended::Signaled(signal)) => format!(", by {}", crate::signals::name(signal)),
    }
}

/// Ends every process of a session, whatever group it is in.
async fn end_session(agent: &Rc<Agent>, session: i32) {
    // It may not have made its session yet.
    if let Some(pid) = rustix::process::Pid::from_raw(session) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    for _ in 0..SESSION_ROUNDS_MAX {
        let found = agent.io.run(move || Ok(members(session))).await.unwrap_or_default();
        if found.is_empty() {
            return;
        }
        for pid in found.into_iter().filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn members(session: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let is_member = |pid: &i32| {
        let Ok(text) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
        let text = String::from_utf8_lossy(&text);
        // The name may hold anything; the fields begin behind its last bracket: state, parent, group, session.
        let Some((_, rest)) = text.rsplit_once(") ") else { return false };
        let mut fields = rest.split(' ');
        fields.next().is_some_and(|state| state != "Z" && state != "X") && fields.nth(2).and_then(|f| f.parse().ok()) == Some(session)
    };
    pids.filter(|pid| *pid > 1).take(PROCESSES_MAX).filter(is_member).collect()
}
