//! A process that has imported a module and forks for each call of it.
//!
//! What it says is not trusted: whoever speaks nonsense is ended, and every wait for it has the caller's deadline.
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};
use sandbar_linux::process::{self, Ended};
use sandbar_procd_api::function::{FailureKind, FunctionFailure, FunctionSource};
use serde::Deserialize;
use serde_json::json;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::output::Output;
use super::python::{failure, start, unavailable};
use crate::agent::Agent;
use crate::limits::{ZYGOTE_IDLE, ZYGOTE_IMPORT_PATIENCE, ZYGOTE_MESSAGE_BYTES_MAX};

/// What is imported, and in which environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub source: FunctionSource,
    pub env: BTreeMap<String, String>,
}

/// How far it is.
#[derive(Debug, Clone)]
pub enum Phase {
    Importing,
    /// With `once`, the process that imported has to serve the call itself: it has threads, or its files are so new that
    /// they might change without looking different.
    Ready {
        once: bool,
    },
    Failed(FunctionFailure),
    Gone,
}

/// What is known of one call.
#[derive(Debug, Clone, Default)]
pub struct CallState {
    pub pid: Option<i32>,
    /// The files have changed: somebody else has to serve it.
    pub stale: bool,
    pub error: Option<String>,
    /// The process has ended, with this status if that is known.
    pub exited: Option<Option<Ended>>,
}

/// The process.
pub struct Zygote {
    pub key: Key,
    pub pid: i32,
    /// What was printed while the module was imported.
    pub import: Rc<Output>,
    pub changed: Notify,
    pub used: Cell<Instant>,
    /// Somebody has it all to himself.
    pub taken: Cell<bool>,
    phase: RefCell<Phase>,
    control: Rc<AsyncFd<OwnedFd>>,
    calls: RefCell<HashMap<u64, CallState>>,
    next: Cell<u64>,
    waiting: Cell<usize>,
    ended: Cell<Option<Ended>>,
    began: Instant,
    agent: Weak<Agent>,
    listener: RefCell<Option<tokio::task::AbortHandle>>,
}

/// All that it may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    ready: bool,
    once: bool,
    failed: Option<String>,
    call: Option<u64>,
    pid: Option<i32>,
    stale: bool,
    error: Option<String>,
    exited: Option<u64>,
    status: Option<i32>,
}

impl Zygote {
    /// Starts Python, which begins to import.
    ///
    /// # Errors
    /// `not_found`, `no_runtime`, `unavailable`.
    pub fn start(agent: &Rc<Agent>, key: Key, label: &str) -> Result<Rc<Self>, FunctionFailure> {
        let task = match &key.source {
            FunctionSource::Path(path) => {
                if !std::fs::metadata(path).is_ok_and(|m| m.is_file()) {
                    return Err(failure(FailureKind::NotFound, format!("there is no file {path}")));
                }
                json!({ "path": path })
            }
            FunctionSource::Code(code) => json!({ "code": code }),
        };
        let no = |e: Errno| unavailable(&crate::error::describe(&e.into()));
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(no)?;
        process::set_nonblocking(&ours).map_err(no)?;
        let control = Rc::new(crate::fd::watch(ours).map_err(|e| unavailable(&crate::error::describe(&e)))?);
        let (import, [out, err]) = Output::open(agent, label)?;
        let started = start(agent, "agent", &task, &key.env, &[out.as_fd(), err.as_fd(), theirs.as_fd()]);
        let pid = match started {
            Ok(pid) => pid,
            Err(failure) => {
                import.close(agent);
                return Err(failure);
            }
        };
        let zygote = Rc::new(Self {
            key,
            pid,
            import,
            changed: Notify::new(),
            used: Cell::new(Instant::now()),
            taken: Cell::new(false),
            phase: RefCell::new(Phase::Importing),
            control: control.clone(),
            calls: RefCell::default(),
            next: Cell::new(0),
            waiting: Cell::new(0),
            ended: Cell::new(None),
            began: Instant::now(),
            agent: Rc::downgrade(agent),
            listener: RefCell::new(None),
        });
        agent.functions.add_process(&zygote);
        let listener = tokio::task::spawn_local(listen(agent.clone(), Rc::downgrade(&zygote), control));
        *zygote.listener.borrow_mut() = Some(listener.abort_handle());
        Ok(zygote)
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    fn enter(&self, phase: Phase) {
        *self.phase.borrow_mut() = phase;
        self.changed.notify_waiters();
    }

    /// Waits until `condition` gives something; it is asked whenever anything changes.
    pub async fn until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = condition() {
                return found;
            }
            changed.await;
        }
    }

    /// Waits for the end of the import. When the last one gives up waiting, so does the import.
    pub async fn imported(self: &Rc<Self>) -> Phase {
        struct Waiting<'a>(&'a Zygote);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
                if self.0.waiting.get() == 0 && matches!(*self.0.phase.borrow(), Phase::Importing) {
                    self.0.kill();
                    self.0.enter(Phase::Gone);
                }
            }
        }
        self.waiting.set(self.waiting.get() + 1);
        let _waiting = Waiting(self);
        self.until(|| Some(self.phase()).filter(|phase| !matches!(phase, Phase::Importing))).await
    }

    /// Hands over a call with its socket and its two streams. Returns its number; `None` when the process is not fit any
    /// more.
    pub fn send(&self, once: bool, fds: [BorrowedFd<'_>; 3]) -> Option<u64> {
        let call = self.next.get();
        self.next.set(call + 1);
        let text = json!({ "call": call, "once": once }).to_string();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return None;
        }
        self.used.set(Instant::now());
        self.calls.borrow_mut().insert(call, CallState::default());
        let sent = rustix::net::sendmsg(self.control.get_ref(), &[IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        if sent.is_err() {
            self.calls.borrow_mut().remove(&call);
            return None;
        }
        Some(call)
    }

    /// What is known of a call.
    pub fn call(&self, call: u64) -> CallState {
        self.calls.borrow().get(&call).cloned().unwrap_or_default()
    }

    /// Forgets a call.
    pub fn end_call(&self, call: u64) {
        self.calls.borrow_mut().remove(&call);
        self.used.set(Instant::now());
    }

    /// Whether calls are under way or waiting.
    pub fn is_busy(&self) -> bool {
        self.waiting.get() > 0 || !self.calls.borrow().is_empty()
    }

    /// Whether one whose call got no process in time is not to be waited for by others: an import may take long, but a
    /// process that has imported answers at once.
    pub fn is_stuck(&self) -> bool {
        !matches!(self.phase(), Phase::Importing) || self.began.elapsed() > ZYGOTE_IMPORT_PATIENCE
    }

    /// How the process itself ended.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.get()
    }

    /// The process was reaped.
    pub fn reaped(&self, ended: Ended) {
        self.ended.set(Some(ended));
        if matches!(self.phase(), Phase::Importing | Phase::Ready { .. }) {
            self.enter(Phase::Gone);
        }
        self.changed.notify_waiters();
    }

    /// Ends the process and what it started while it imported; calls have sessions of their own.
    fn kill(&self) {
        if self.ended.get().is_none() {
            let _ = process::signal_group_only(self.pid, 9);
        }
    }

    /// Takes in what it said; false for nonsense.
    fn hear(&self, agent: &Agent, said: Said) -> bool {
        if let Some(text) = said.failed {
            self.import.drain(agent);
            self.enter(Phase::Failed(failure(FailureKind::Failed, text)));
            return true;
        }
        if said.ready {
            if !matches!(self.phase(), Phase::Importing) {
                return false;
            }
            self.import.stop_keeping(agent);
            self.enter(Phase::Ready { once: said.once });
            return true;
        }
        let mut calls = self.calls.borrow_mut();
        let known = match (said.call, said.exited) {
            (Some(call), None) => calls.get_mut(&call).map(|state| {
                state.pid = said.pid.filter(|pid| *pid > 1);
                state.stale = said.stale;
                state.error = said.error;
            }),
            (None, Some(call)) => calls.get_mut(&call).map(|state| state.exited = Some(said.status.map(ended_by))),
            (None, None) | (Some(_), Some(_)) => return false,
        };
        drop(calls);
        if known.is_some() {
            self.changed.notify_waiters();
        }
        // What is said of a call that is over is no nonsense, only late.
        true
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.kill();
        if let Some(listener) = self.listener.take() {
            listener.abort();
        }
        if let Some(agent) = self.agent.upgrade() {
            self.import.close(&agent);
        }
    }
}

/// A status as wait gives it.
fn ended_by(status: i32) -> Ended {
    match status & 0x7f {
        0 => Ended::Exited((status >> 8) & 0xff),
        signal => Ended::Signaled(signal),
    }
}

/// Hears what the process says until it ends, or until nobody has needed it for long.
async fn listen(agent: Rc<Agent>, weak: Weak<Zygote>, control: Rc<AsyncFd<OwnedFd>>) {
    loop {
        let ready = tokio::time::timeout(ZYGOTE_IDLE / 4, control.readable()).await;
        let Some(zygote) = weak.upgrade() else { return };
        match ready {
            Err(_) => {
                if !zygote.is_busy() && zygote.used.get().elapsed() > ZYGOTE_IDLE {
                    agent.functions.forget(&zygote);
                }
            }
            Ok(Err(_)) => break,
            Ok(Ok(mut guard)) => match receive(control.get_ref()) {
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Ok(message) if !message.is_empty() => {
                    let understood = serde_json::from_slice::<Said>(&message).is_ok_and(|said| zygote.hear(&agent, said));
                    if !understood {
                        zygote.kill();
                        break;
                    }
                    drop((guard, zygote));
                    // Who talks without a pause holds up nobody else.
                    tokio::task::yield_now().await;
                }
                Ok(_) | Err(_) => break,
            },
        }
    }
    let Some(zygote) = weak.upgrade() else { return };
    // A process that serves its one call has closed its end.
    if !zygote.taken.get() {
        agent.functions.forget(&zygote);
        if !matches!(zygote.phase(), Phase::Failed(_)) {
            zygote.import.drain(&agent);
            zygote.enter(Phase::Gone);
        }
    }
}

fn receive(control: &OwnedFd) -> Result<Vec<u8>, Errno> {
    // With nothing there now, a message of any size may come before it is read; what did not fit would be lost.
    let length = match rustix::io::ioctl_fionread(control).unwrap_or(0) as usize {
        0 => ZYGOTE_MESSAGE_BYTES_MAX,
        length => length.min(ZYGOTE_MESSAGE_BYTES_MAX),
    };
    let mut message = vec![0; length];
    let read = rustix::io::read(control, message.as_mut_slice())?;
    message.truncate(read);
    Ok(message)
}
