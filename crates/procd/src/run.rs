//! One life of a context's process: its pipes, its output, its end.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use sandbar_linux::process::{Ended, Used};
use sandbar_procd_api::{ContextState, ContextType, ErrorCode, Kept, Output, Stream};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::agent::Agent;
use crate::error::Failure;
use crate::keep::agent::Keeper;
use crate::limits::*;
use crate::log::{Decoder, Log, Position, STREAMS};
use crate::repl::Mode;
use crate::repl::drive::Queue;
use crate::repl::terminal::Screen;

mod input;

use input::Input;

/// How a process ended.
#[derive(Debug, Clone)]
pub struct End {
    pub exit_code: i32,
    pub state: ContextState,
    pub reason: Option<String>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// How long it ran.
    pub after: Duration,
    pub used: Used,
}

/// Somebody who follows the output.
#[derive(Debug)]
pub struct Reader {
    pub at: Cell<Position>,
    /// When it last took something, or found nothing to take.
    pub progressed: Cell<Instant>,
    /// It stood still for too long: the process does not wait for it any more.
    pub given_up: Cell<bool>,
    /// Inputs that are done, each with the output that precedes the answer.
    pub readies: RefCell<VecDeque<(Position, Option<String>)>>,
}

impl Reader {
    /// Until when what it has not taken is kept for it.
    fn patience(&self) -> Instant {
        self.progressed.get() + READER_STALL_MAX
    }
}

/// Whether a stream may be read on.
enum Room {
    Now,
    /// When somebody has taken something, or at this moment.
    Later(Instant),
}

/// A process and what belongs to it.
pub struct Run {
    pub context_id: String,
    pub kind: ContextType,
    pub mode: Mode,
    pub pid: i32,
    pub started: Instant,
    pub log: RefCell<Log>,
    /// Output, answers or the end: readers look again.
    pub changed: Notify,
    /// The exit, an end of file, the end: waiters look again.
    pub state: Notify,
    /// A reader took something.
    pub taken: Notify,
    pub activity: Cell<Instant>,
    pub readers: RefCell<Vec<Rc<Reader>>>,
    /// The first reader is yet to come, and the process was started for it.
    pub expects: Cell<bool>,
    pub exit: RefCell<Option<End>>,
    /// What others used that it left behind.
    others: Cell<Used>,
    pub finished: Cell<bool>,
    /// Why we end it, when we do.
    pub reason: RefCell<Option<String>>,
    /// We end it, with all that belongs to it.
    pub ending: Cell<bool>,
    /// Who keeps what it starts, when somebody does.
    pub keeper: Option<Keeper>,
    pub queue: Queue,
    pub screen: Option<Screen>,
    /// CPU use when last asked: time and ticks.
    pub sampled: Cell<Option<(Instant, u64)>>,
    outs: RefCell<[Option<Rc<AsyncFd<OwnedFd>>>; STREAMS]>,
    decoders: RefCell<[Decoder; STREAMS]>,
    stdin: RefCell<Option<Rc<AsyncFd<OwnedFd>>>>,
    /// Our own hold on the reading end of a driver's stdin.
    stdin_reader: Option<OwnedFd>,
    input: RefCell<Input>,
    pty: bool,
}

/// The descriptors of a started process, and its keeper.
pub struct Pipes {
    pub outs: [Option<Rc<AsyncFd<OwnedFd>>>; STREAMS],
    pub stdin: Option<Rc<AsyncFd<OwnedFd>>>,
    pub stdin_reader: Option<OwnedFd>,
    pub pty: bool,
    pub keeper: Option<Keeper>,
}

impl Run {
    /// The record of a process that was just started.
    pub fn new(agent: &Agent, context_id: String, kind: ContextType, mode: Mode, pid: i32, pipes: Pipes) -> Self {
        let now = Instant::now();
        let screen = match &mode {
            Mode::Terminal { ready, clean } => Some(Screen::new(ready, *clean)),
            Mode::Command | Mode::Driver { .. } => None,
        };
        Self {
            context_id,
            kind,
            mode,
            pid,
            started: now,
            log: RefCell::new(Log::new(pipes.pty, agent.budget.clone())),
            changed: Notify::new(),
            state: Notify::new(),
            taken: Notify::new(),
            activity: Cell::new(now),
            readers: RefCell::default(),
            expects: Cell::new(false),
            exit: RefCell::new(None),
            others: Cell::default(),
            finished: Cell::new(false),
            reason: RefCell::new(None),
            ending: Cell::new(false),
            keeper: pipes.keeper,
            queue: Queue::default(),
            screen,
            sampled: Cell::new(None),
            outs: RefCell::new(pipes.outs),
            decoders: RefCell::default(),
            stdin: RefCell::new(pipes.stdin),
            stdin_reader: pipes.stdin_reader,
            input: RefCell::default(),
            pty: pipes.pty,
        }
    }

    /// Whether its streams are told apart in answers.
    pub fn splits_streams(&self) -> bool {
        !self.pty
    }

    /// The ends of the output, by slot, for the tasks that read them.
    pub fn outs(&self) -> Vec<(usize, Rc<AsyncFd<OwnedFd>>)> {
        self.outs.borrow().iter().enumerate().filter_map(|(slot, fd)| Some((slot, fd.clone()?))).collect()
    }

    /// True when no output can come any more.
    pub fn at_eof(&self) -> bool {
        self.outs.borrow().iter().all(Option::is_none)
    }

    /// Waits until `condition` holds; it is asked whenever the state changes.
    pub async fn until(&self, mut condition: impl FnMut() -> bool) {
        loop {
            let notified = self.state.notified();
            let mut notified = std::pin::pin!(notified);
            notified.as_mut().enable();
            if condition() {
                return;
            }
            notified.await;
        }
    }

    /// Waits for the end of process and output.
    pub async fn until_finished(&self) {
        self.until(|| self.finished.get()).await;
    }

    /// How it ended; `None` while the process runs.
    pub fn end(&self) -> Option<End> {
        self.exit.borrow().clone()
    }

    /// The process was reaped.
    pub fn exited(&self, ended: Ended, oom: bool, used: Used) {
        let (exit_code, signal) = match ended {
            Ended::Exited(code) => (code, None),
            Ended::Signaled(signal) => (128 + signal, Some(signal)),
        };
        let state = match exit_code {
            0 => ContextState::Stopped,
            137 => ContextState::Killed,
            _ => ContextState::Crashed,
        };
        let mut reason = self.reason.borrow_mut().take();
        if reason.is_none() && oom && exit_code == 137 {
            reason = Some("out_of_memory: the sandbox reached its memory limit and the kernel killed the process".to_owned());
        }
        if reason.is_none()
            && let Some(signal) = signal
        {
            reason = Some(format!("signal: {}", crate::signals::name(signal)));
        }
        *self.exit.borrow_mut() = Some(End { exit_code, state, reason, signal, after: self.started.elapsed(), used });
        self.state.notify_waiters();
        self.changed.notify_waiters();
    }

    /// Counts what somebody used whom it left behind.
    pub fn count(&self, used: Used) {
        self.others.set(self.others.get().plus(used));
    }

    /// Counts what all used that belonged to it, now that nothing does any more.
    pub fn recount(&self, used: Used) {
        self.others.set(Used::default());
        if let Some(end) = self.exit.borrow_mut().as_mut() {
            end.used = used;
        }
    }

    /// What those used whom it left behind.
    pub fn others(&self) -> Used {
        self.others.get()
    }

    /// Nothing is waited for any more: the end is told.
    pub fn finish(&self) {
        self.finished.set(true);
        *self.stdin.borrow_mut() = None;
        *self.input.borrow_mut() = Input::default();
        self.state.notify_waiters();
        self.changed.notify_waiters();
    }

    // ---------------------------------------------------------------- output

    /// Reads what is there into the log. `Ok(n)` bytes were read; 0 is the end of the stream.
    fn read_some(&self, agent: &Agent, slot: usize, fd: &OwnedFd) -> Result<usize, Errno> {
        let mut scratch = agent.scratch.borrow_mut();
        if scratch.is_empty() {
            scratch.resize(READ_BYTES, 0);
        }
        let read = loop {
            match rustix::io::read(fd, scratch.as_mut_slice()) {
                Err(Errno::INTR) => {}
                // The last process has closed its side of the terminal.
                Err(Errno::IO) if self.pty => break 0,
                Err(e) => return Err(e),
                Ok(n) => break n,
            }
        };
        let mut decoders = self.decoders.borrow_mut();
        if read == 0 {
            decoders[slot].finish(|text| self.emit(agent, slot, text));
        } else {
            decoders[slot].push(&scratch[..read], |text| self.emit(agent, slot, text));
        }
        drop(decoders);
        drop(scratch);
        self.activity.set(Instant::now());
        agent.enforce_budget(self);
        self.changed.notify_waiters();
        Ok(read)
    }

    fn emit(&self, agent: &Agent, slot: usize, text: &str) {
        match &self.screen {
            Some(screen) => screen.push(text, |clean| self.keep(agent, slot, clean)),
            None => self.keep(agent, slot, text),
        }
    }

    /// Adds text to the output and to the log files.
    pub fn keep(&self, agent: &Agent, slot: usize, text: &str) {
        let mut log = self.log.borrow_mut();
        log.push(slot, text);
        let stream: Stream = log.stream(slot);
        drop(log);
        agent.journal.push(&self.context_id, stream, text);
    }

    /// Follows one stream until its end.
    pub async fn pump(self: Rc<Self>, agent: Rc<Agent>, slot: usize, fd: Rc<AsyncFd<OwnedFd>>) {
        loop {
            self.hold(&agent, slot).await;
            let Ok(mut guard) = fd.readable().await else { break };
            match self.read_some(&agent, slot, fd.get_ref()) {
                Ok(0) => break,
                Ok(n) => {
                    drop(guard);
                    if n == READ_BYTES {
                        tokio::task::yield_now().await;
                    }
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(_) => break,
            }
        }
        if self.screen.is_some() {
            self.flush_screen(&agent);
        }
        self.outs.borrow_mut()[slot] = None;
        agent.journal.end_of_stream(&self.context_id, self.log.borrow().stream(slot));
        self.state.notify_waiters();
        self.changed.notify_waiters();
    }

    /// Shows what a terminal REPL's cleaner still holds back.
    pub fn flush_screen(&self, agent: &Agent) {
        if let Some(screen) = &self.screen {
            screen.flush(|text| self.keep(agent, 0, text));
            self.changed.notify_waiters();
        }
    }

    /// Reads, without waiting, everything that is in the pipes at this moment.
    pub fn drain(&self, agent: &Agent) {
        for (slot, fd) in self.outs() {
            let mut left = rustix::io::ioctl_fionread(fd.get_ref()).unwrap_or(READ_BYTES as u64);
            while left > 0 {
                match self.read_some(agent, slot, fd.get_ref()) {
                    Ok(n) if n > 0 => left = left.saturating_sub(n as u64),
                    Ok(_) | Err(_) => break,
                }
            }
        }
    }

    /// Waits while reading more would take unread output from a reader, as long as that one is waited for.
    async fn hold(&self, agent: &Agent, slot: usize) {
        loop {
            let taken = self.taken.notified();
            match self.room(agent, slot) {
                Room::Now => return,
                Room::Later(at) => {
                    let _ = tokio::time::timeout_at(at.into(), taken).await;
                }
            }
        }
    }

    fn room(&self, agent: &Agent, slot: usize) -> Room {
        let crowded = agent.is_crowded(self);
        let log = self.log.borrow();
        if !crowded && log.kept(slot) + 4 * READ_BYTES <= STREAM_BYTES_MAX {
            return Room::Now;
        }
        let start = Position::default();
        // Who has all of it waits for more, whatever little pieces cost.
        let would_lose = |at: &Position| match log.behind(at, slot) {
            0 => false,
            behind => crowded || behind + 8 * READ_BYTES >= log.behind(&start, slot),
        };
        let now = Instant::now();
        let mut deadline: Option<Instant> = None;
        for reader in self.readers.borrow().iter().filter(|r| !r.given_up.get() && would_lose(&r.at.get())) {
            match reader.patience() {
                until if until <= now => reader.given_up.set(true),
                until => deadline = deadline.into_iter().chain([until]).min(),
            }
        }
        let until = self.started + READER_EXPECTED_MAX;
        if self.expects.get() && until > now && would_lose(&start) {
            deadline = deadline.into_iter().chain([until]).min();
        }
        deadline.map_or(Room::Now, Room::Later)
    }

    /// Up to where nobody has still to take something of a stream.
    fn taken_up_to(&self, slot: usize) -> u64 {
        let now = Instant::now();
        let is_expecting = self.expects.get() && self.started + READER_EXPECTED_MAX > now;
        let readers = self.readers.borrow();
        let waited = readers.iter().filter(|r| !r.given_up.get() && r.patience() > now);
        waited.map(|r| r.at.get()).chain(is_expecting.then(Position::default)).map(|at| at.of(slot)).min().unwrap_or(u64::MAX)
    }

    /// Whether somebody has still to take some of what is kept.
    pub fn is_awaited(&self) -> bool {
        let end = self.log.borrow().end();
        (0..STREAMS).any(|slot| self.taken_up_to(slot) < end.of(slot))
    }

    /// Gives back memory: keeps little, and what somebody has still to take.
    pub fn shrink(&self) {
        for slot in 0..STREAMS {
            let before = self.taken_up_to(slot);
            self.log.borrow_mut().shrink(slot, STREAM_BYTES_MIN, before);
        }
    }

    /// What it printed and how it ended, without the texts.
    pub fn outcome(&self, from: &Position) -> Output {
        let end = self.end().filter(|_| self.finished.get());
        let log = self.log.borrow();
        Output {
            exit_code: end.as_ref().map(|e| e.exit_code),
            reason: end.and_then(|e| e.reason),
            truncated: log.truncated() && *from == Position::default(),
            ..Output::default()
        }
    }

    // ---------------------------------------------------------------- input

    /// Queues bytes for the process's stdin or terminal.
    ///
    /// Sets the size of the terminal.
    ///
    /// # Errors
    /// `pty_unavailable`, `process_finished`, `resize_failed`.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<(), Failure> {
        if !self.pty {
            return Err(Failure::new(ErrorCode::PtyUnavailable, "the context has no terminal"));
        }
        let fd = self.stdin.borrow().clone();
        let Some(fd) = fd.filter(|_| self.exit.borrow().is_none()) else { return Err(finished()) };
        self.activity.set(Instant::now());
        sandbar_linux::pty::resize(fd.get_ref(), rows, cols).map_err(|e| Failure::new(ErrorCode::ResizeFailed, format!("the terminal refused the size: {e}")))
    }

    /// Sends a signal to the process group, and to all else that belongs to the process.
    ///
    /// # Errors
    /// `process_finished`, `signal_failed`.
    pub fn signal(&self, number: i32) -> Result<(), Failure> {
        let keeper = self.keeper.as_ref().filter(|keeper| keeper.has_rest());
        if let Some(keeper) = keeper {
            keeper.signal(number);
        }
        if self.exit.borrow().is_some() {
            return if keeper.is_some() { Ok(()) } else { Err(finished()) };
        }
        match sandbar_linux::process::signal_group(self.pid, number) {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => Err(finished()),
            Err(e) => Err(Failure::new(ErrorCode::SignalFailed, format!("the signal was not sent: {e}"))),
        }
    }

    /// Ends the process and all that belongs to it: TERM, some seconds later KILL. Returns whether they are gone.
    pub async fn terminate(&self, reason: &str) -> bool {
        let gone = || self.exit.borrow().is_some();
        self.ending.set(true);
        if gone() {
            // What it left behind in its group still holds our pipes.
            if !self.at_eof() {
                let _ = sandbar_linux::process::signal_group_only(self.pid, rustix::process::Signal::KILL.as_raw());
            }
            return self.end_kept().await;
        }
        self.reason.borrow_mut().get_or_insert_with(|| reason.to_owned());
        let send = |signal: rustix::process::Signal| {
            let _ = sandbar_linux::process::signal_group(self.pid, signal.as_raw());
            if let Some(keeper) = &self.keeper {
                keeper.signal(signal.as_raw());
            }
        };
        send(rustix::process::Signal::TERM);
        if self.pty {
            // An interactive shell ignores TERM.
            send(rustix::process::Signal::HUP);
        }
        send(rustix::process::Signal::CONT);
        if tokio::time::timeout(TERM_GRACE, self.until(gone)).await.is_err() {
            send(rustix::process::Signal::KILL);
            let is_rest_gone = self.end_kept().await;
            return tokio::time::timeout(KILL_GRACE, self.until(gone)).await.is_ok() && is_rest_gone;
        }
        // The leader is gone; the rest of its group had the same warning.
        let _ = sandbar_linux::process::signal_group_only(self.pid, rustix::process::Signal::KILL.as_raw());
        if let Some(keeper) = &self.keeper {
            // What took a session of its own has a moment for its end, too.
            let _ = tokio::time::timeout(KILL_GRACE, self.until(|| keeper.is_gone())).await;
        }
        self.end_kept().await
    }

    /// Kills what is left of all that its keeper keeps. They had the same warning.
    async fn end_kept(&self) -> bool {
        match &self.keeper {
            Some(keeper) => keeper.end(self).await,
            None => true,
        }
    }

    /// The process has ended: waits until all has that ends with it, and lets go of what goes on.
    pub async fn settle(&self, agent: &Agent) {
        agent.count_rest(self);
        let Some(keeper) = &self.keeper else { return };
        let goes = self.ending.get() || keeper.kept == Kept::UntilEnd;
        if goes {
            if !self.ending.get() {
                keeper.let_go();
            }
            let _ = tokio::time::timeout(2 * KILL_GRACE, self.until(|| keeper.is_gone())).await;
        }
        if goes && !self.ending.get() {
            keeper.leave();
        }
    }
}

/// The process has ended.
pub fn finished() -> Failure {
    Failure::new(ErrorCode::ProcessFinished, "the process has finished")
}

/// Too much input waits.
pub fn input_full() -> Failure {
    Failure::new(ErrorCode::InputBufferFull, "the process has not yet read its earlier input")
}
