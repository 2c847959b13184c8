//! A process for somebody who is connected; see `sandbar_procd_api::process`.
//!
//! Nothing is kept of it: what the host does not take is not read, so a process that prints more waits. Its end is told when
//! both streams have ended, so that nothing is lost; a stranger that holds them on is waited for as long as it prints, and some
//! seconds of silence ([`PROCESS_EOF_GRACE`]). A terminal ends with its process. When the host goes first, the process group is
//! hung up and a moment later killed.
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::process::Signal;
use sandbar_linux::process::{self, Ended};
use sandbar_procd_api::process::{
    ARGUMENTS_BYTES_MAX, DATA_BYTES_MAX, Decoded, Exit, HEADER_BYTES, Kind, Start, WINDOW_BYTES, bytes_taken, decode, encode, taken,
};
use sandbar_procd_api::{ErrorCode, PtySize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::agent::Agent;
use crate::body::Body;
use crate::context::start::{self, Program, create_failed, no_pipes, ours};
use crate::error::Failure;
use crate::http::Answer;
use crate::limits::{EOF_GRACE, HANGUP_GRACE, PROCESS_EOF_GRACE, PROCESSES_MAX};
use crate::signals;

const ARGUMENTS_MAX: usize = 4096;

/// How a process ended, and whether for want of memory.
type End = (Ended, bool);

/// Processes that run, by pid.
#[derive(Default)]
pub struct Processes {
    running: RefCell<HashMap<i32, Rc<Connected>>>,
    /// Connections, also those whose process has ended or not begun.
    open: Cell<usize>,
}

impl Processes {
    /// A process has ended; false when it is none of ours.
    pub fn reaped(&self, pid: i32, ended: Ended, oom: bool) -> bool {
        let Some(connected) = self.running.borrow_mut().remove(&pid) else { return false };
        connected.end.set(Some((ended, oom)));
        connected.ended.notify_one();
        true
    }
}

/// A place among the connections.
struct Place(Rc<Agent>);

impl Drop for Place {
    fn drop(&mut self) {
        let open = &self.0.processes.open;
        open.set(open.get().saturating_sub(1));
    }
}

/// What the parts of a connection share.
#[derive(Default)]
struct Connected {
    end: Cell<Option<End>>,
    ended: Notify,
    /// Frames for the host: bounded, since stream data is by the window.
    frames: RefCell<VecDeque<Vec<u8>>>,
    /// No frame follows.
    told: Cell<bool>,
    framed: Notify,
    /// Stream data that the host still takes.
    window: Cell<usize>,
    grown: Notify,
    /// What the process has not read, and whether nothing comes after.
    stdin: RefCell<BytesMut>,
    eof: Cell<bool>,
    fed: Notify,
    printed: Notify,
}

impl Connected {
    fn say(&self, frame: Vec<u8>) {
        self.frames.borrow_mut().push_back(frame);
        self.framed.notify_one();
    }

    async fn until_ended(&self) {
        while self.end.get().is_none() {
            self.ended.notified().await;
        }
    }

    /// Waits until the host takes more. Both streams may wait.
    async fn until_room(&self) {
        loop {
            let mut grown = std::pin::pin!(self.grown.notified());
            grown.as_mut().enable();
            if self.window.get() > 0 {
                return;
            }
            grown.await;
        }
    }

    /// Waits until nothing was printed for a while.
    async fn until_silent(&self, grace: Duration) {
        loop {
            let printed = tokio::time::timeout(grace, self.printed.notified()).await.is_ok();
            // Who cannot print because the host does not take it is not silent.
            if !printed && self.window.get() > 0 {
                return;
            }
        }
    }
}

/// A process and our ends of its streams.
struct Started {
    pid: i32,
    stdin: RefCell<Option<Rc<AsyncFd<OwnedFd>>>>,
    outs: Vec<(Kind, Rc<AsyncFd<OwnedFd>>)>,
    pty: bool,
}

/// Answers 101; what is started comes in the frames.
///
/// # Errors
/// `invalid_request` without the right Upgrade header, `too_many_contexts`.
pub fn upgrade(agent: &Rc<Agent>, mut request: Request<Incoming>) -> Answer {
    let asked = request.headers().get(UPGRADE).and_then(|v| v.to_str().ok());
    if !asked.is_some_and(|a| a.eq_ignore_ascii_case(sandbar_procd_api::process::UPGRADE)) {
        return Err(Failure::new(ErrorCode::InvalidRequest, "a process needs the header Upgrade: sandbar-process"));
    }
    let open = &agent.processes.open;
    if open.get() >= PROCESSES_MAX {
        let message = format!("{PROCESSES_MAX} processes of connected clients run, the limit of one sandbox");
        return Err(Failure::new(ErrorCode::TooManyContexts, message));
    }
    open.set(open.get() + 1);
    let place = Place(agent.clone());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        if let Ok(upgraded) = upgraded.await {
            serve(&place.0, TokioIo::new(upgraded)).await;
        }
        drop(place);
    });
    let mut response = Response::new(Body::Full(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(sandbar_procd_api::process::UPGRADE));
    Ok(response)
}

async fn serve(agent: &Rc<Agent>, io: impl AsyncRead + AsyncWrite) {
    let (mut from_host, mut to_host) = tokio::io::split(io);
    let mut buffer = BytesMut::new();
    let Some((arguments, asked)) = asked(&mut from_host, &mut buffer).await else { return };
    let connected = Rc::new(Connected::default());
    connected.window.set(WINDOW_BYTES);
    let started = match begin(agent, arguments, &asked) {
        Ok(started) => started,
        Err(failure) => {
            let body = serde_json::to_vec(&failure.0).unwrap_or_default();
            let _ = to_host.write_all(&encode(Kind::Failed, &body)).await;
            let _ = to_host.shutdown().await;
            return;
        }
    };
    agent.processes.running.borrow_mut().insert(started.pid, connected.clone());
    connected.say(encode(Kind::Started, &[]));
    let work = async {
        talk(&connected, &started).await;
        connected.told.set(true);
        connected.framed.notify_one();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        () = tell(&connected, &mut to_host) => {}
        () = listen(&connected, &started, &mut from_host, &mut buffer) => {}
    }
    let _ = to_host.shutdown().await;
    if connected.end.get().is_none() {
        drop((from_host, to_host));
        hang_up(&connected, started).await;
    }
}

/// What is to be started.
async fn asked(from_host: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Option<(Vec<Vec<u8>>, Start)> {
    let (mut arguments, mut total) = (Vec::new(), 0);
    loop {
        let (kind, payload) = next(from_host, buffer).await?;
        total += payload.len();
        if arguments.len() >= ARGUMENTS_MAX || total > 2 * ARGUMENTS_BYTES_MAX {
            return None;
        }
        match kind {
            Some(Kind::Argument) => arguments.push(payload.to_vec()),
            Some(Kind::Start) => return Some((arguments, serde_json::from_slice(&payload).ok()?)),
            _ => {}
        }
    }
}

fn begin(agent: &Rc<Agent>, mut arguments: Vec<Vec<u8>>, asked: &Start) -> Result<Started, Failure> {
    let invalid = |message: &str| Failure::new(ErrorCode::InvalidRequest, message);
    let first = arguments.first().ok_or_else(|| invalid("there is no program to start"))?;
    let name = String::from_utf8_lossy(first).into_owned();
    if asked.pty_size.is_some_and(|size| size.rows == 0 || size.cols == 0) {
        return Err(invalid("pty_size needs rows and cols above 0"));
    }
    let (_, mut env) = start::environment(agent, &asked.env_vars);
    if asked.pty_size.is_some() {
        env.entry("TERM".to_owned()).or_insert_with(|| "xterm-256color".to_owned());
    }
    let cwd = start::working_directory(agent, asked.cwd.as_deref())?;
    let path = env.get("PATH").cloned().unwrap_or_default();
    let programs = if asked.programs.is_empty() { std::slice::from_ref(&name) } else { &asked.programs };
    let found = programs.iter().map(|program| Ok((program, start::find_executable(program, &path, &cwd)?)));
    let (program, file) = found.reduce(Result::or).unwrap_or_else(|| Err(create_failed("there is no program to start")))?;
    if !asked.programs.is_empty()
        && let Some(first) = arguments.first_mut()
    {
        *first = program.clone().into_bytes();
    }
    let program = Program {
        file: start::c_string(file)?,
        argv: arguments.into_iter().map(start::c_string).collect::<Result<_, _>>()?,
        env: env.iter().map(|(key, value)| start::c_string(format!("{key}={value}"))).collect::<Result<_, _>>()?,
        cwd: start::c_string(cwd)?,
        name,
    };
    if let Some(size) = asked.pty_size {
        let pty = sandbar_linux::pty::open(size.rows, size.cols).map_err(|e| create_failed(format!("no terminal for the process: {e}")))?;
        let controller = ours(pty.controller)?;
        let side = pty.terminal.as_fd();
        let pid = start::spawn(&program, &[(side, 0), (side, 1), (side, 2)], true)?;
        return Ok(Started { pid, stdin: RefCell::new(Some(controller.clone())), outs: vec![(Kind::Stdout, controller)], pty: true });
    }
    let (theirs_in, stdin) = process::pipe().map_err(no_pipes)?;
    let (stdout, theirs_out) = process::pipe().map_err(no_pipes)?;
    let (stderr, theirs_err) = process::pipe().map_err(no_pipes)?;
    let (stdin, stdout, stderr) = (ours(stdin)?, ours(stdout)?, ours(stderr)?);
    let pid = start::spawn(&program, &[(theirs_in.as_fd(), 0), (theirs_out.as_fd(), 1), (theirs_err.as_fd(), 2)], false)?;
    Ok(Started { pid, stdin: RefCell::new(Some(stdin)), outs: vec![(Kind::Stdout, stdout), (Kind::Stderr, stderr)], pty: false })
}

/// From the process to the host until its end is told.
async fn talk(connected: &Connected, started: &Started) {
    let outs = async {
        match started.outs.as_slice() {
            [(a, one), (b, other)] => {
                tokio::join!(pump(connected, *a, one, false), pump(connected, *b, other, false));
            }
            outs => {
                for (kind, fd) in outs {
                    pump(connected, *kind, fd, started.pty).await;
                }
            }
        }
    };
    let ended = async {
        connected.until_ended().await;
        connected.until_silent(if started.pty { EOF_GRACE } else { PROCESS_EOF_GRACE }).await;
    };
    let whole = async {
        tokio::select! {
            // The streams are closed; the process may go on.
            () = outs => connected.until_ended().await,
            () = ended => {}
        }
    };
    tokio::select! {
        () = whole => {}
        () = feed(connected, started) => {}
    }
    let Some((ended, out_of_memory)) = connected.end.get() else { return };
    let exit = match ended {
        Ended::Exited(code) => Exit { code, signal: None, out_of_memory: out_of_memory && code == 137 },
        Ended::Signaled(signal) => Exit { code: 128 + signal, signal: Some(signal), out_of_memory: out_of_memory && signal == 9 },
    };
    connected.say(encode(Kind::Exit, &serde_json::to_vec(&exit).unwrap_or_default()));
}

/// One stream, as fast as the host takes it.
async fn pump(connected: &Connected, kind: Kind, fd: &AsyncFd<OwnedFd>, pty: bool) {
    let mut piece = vec![0; DATA_BYTES_MAX];
    loop {
        connected.until_room().await;
        let Ok(mut guard) = fd.readable().await else { return };
        // The other stream may have been faster.
        let most = connected.window.get().min(DATA_BYTES_MAX);
        if most == 0 {
            continue;
        }
        match rustix::io::read(fd.get_ref(), &mut piece[..most]) {
            Ok(0) => return,
            // The last process has closed its side of the terminal.
            Err(Errno::IO) if pty => return,
            Ok(length) => {
                connected.window.set(connected.window.get() - length);
                connected.say(encode(kind, &piece[..length]));
                connected.printed.notify_one();
                drop(guard);
                tokio::task::yield_now().await;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => guard.clear_ready(),
            Err(_) => return,
        }
    }
}

/// From the host to the process's stdin. Never returns: somebody may still have to be told that what comes was taken.
async fn feed(connected: &Connected, started: &Started) {
    loop {
        let piece = {
            let mut stdin = connected.stdin.borrow_mut();
            let length = stdin.len().min(DATA_BYTES_MAX);
            stdin.split_to(length)
        };
        if piece.is_empty() {
            if connected.eof.get() && !started.pty {
                *started.stdin.borrow_mut() = None;
            }
            connected.fed.notified().await;
            continue;
        }
        let fd = started.stdin.borrow().clone();
        // What nobody will read is thrown away, as by a shell.
        if let Some(fd) = fd
            && write(&fd, &piece).await.is_err()
            && !started.pty
        {
            *started.stdin.borrow_mut() = None;
        }
        connected.say(taken(piece.len()));
    }
}

async fn write(fd: &AsyncFd<OwnedFd>, mut rest: &[u8]) -> Result<(), Errno> {
    while !rest.is_empty() {
        let Ok(mut guard) = fd.writable().await else { return Err(Errno::PIPE) };
        match rustix::io::write(fd.get_ref(), rest) {
            Ok(length) => rest = &rest[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => guard.clear_ready(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends frames until all is told or the host is gone.
async fn tell(connected: &Connected, to_host: &mut (impl AsyncWrite + Unpin)) {
    loop {
        let frame = connected.frames.borrow_mut().pop_front();
        match frame {
            Some(frame) => {
                if to_host.write_all(&frame).await.is_err() {
                    return;
                }
            }
            None if connected.told.get() => {
                let _ = to_host.flush().await;
                return;
            }
            None => {
                if to_host.flush().await.is_err() {
                    return;
                }
                connected.framed.notified().await;
            }
        }
    }
}

/// Takes what the host says; returns when it is gone, or speaks nonsense.
async fn listen(connected: &Connected, started: &Started, from_host: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) {
    while let Some((kind, payload)) = next(from_host, buffer).await {
        match kind {
            Some(Kind::Stdin) => {
                let mut stdin = connected.stdin.borrow_mut();
                if stdin.len() + payload.len() > WINDOW_BYTES {
                    return;
                }
                stdin.extend_from_slice(&payload);
                connected.fed.notify_one();
            }
            Some(Kind::Eof) => {
                connected.eof.set(true);
                connected.fed.notify_one();
            }
            Some(Kind::Taken) => {
                let Some(bytes) = bytes_taken(&payload) else { return };
                connected.window.set(connected.window.get().saturating_add(bytes).min(WINDOW_BYTES));
                connected.grown.notify_waiters();
            }
            Some(Kind::Resize) => {
                if let (Ok(size), Some((_, controller)), true) = (serde_json::from_slice::<PtySize>(&payload), started.outs.first(), started.pty)
                    && size.rows > 0
                    && size.cols > 0
                {
                    let _ = sandbar_linux::pty::resize(controller.get_ref(), size.rows, size.cols);
                }
            }
            Some(Kind::Signal) => {
                let signal = serde_json::from_slice::<sandbar_procd_api::Signal>(&payload).ok();
                if let Some(number) = signal.and_then(|signal| signals::parse(&signal.signal))
                    && connected.end.get().is_none()
                {
                    // One that has ended just now needs none.
                    let _ = process::signal_group(started.pid, number);
                }
            }
            Some(Kind::Stdout | Kind::Stderr | Kind::Exit | Kind::Started | Kind::Failed | Kind::Argument | Kind::Start) | None => {}
        }
    }
}

/// The next frame; `None` at the end of the connection or for something else than a frame.
async fn next(from_host: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Option<(Option<Kind>, BytesMut)> {
    loop {
        match decode(buffer) {
            Decoded::Frame { kind, bytes } => {
                let mut payload = buffer.split_to(bytes);
                payload.advance(HEADER_BYTES);
                return Some((kind, payload));
            }
            Decoded::Invalid => return None,
            Decoded::Incomplete => {
                buffer.reserve(64 << 10);
                if from_host.read_buf(buffer).await.ok()? == 0 {
                    return None;
                }
            }
        }
    }
}

/// Ends a process that nobody listens to any more.
async fn hang_up(connected: &Connected, started: Started) {
    let pid = started.pid;
    for signal in [Signal::HUP, Signal::CONT] {
        let _ = process::signal_group(pid, signal.as_raw());
    }
    // A terminal hangs up by itself.
    drop(started);
    let _ = tokio::time::timeout(HANGUP_GRACE, connected.until_ended()).await;
    let _ = process::signal_group_only(pid, Signal::KILL.as_raw());
}
