//! What a call prints: the beginning of it is kept for the caller, all of it goes to the log.
use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::io::Errno;
use sandbar_procd_api::function::{FunctionLog, LOG_BYTES_MAX, STDERR_TRUNCATED, STDOUT_TRUNCATED};
use sandbar_procd_api::{LOG_LINE_BYTES_MAX, Stream};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::python::unavailable;
use crate::agent::Agent;
use crate::limits::{FUNCTION_LOOSE_MAX, READ_BYTES};
use crate::log::Decoder;

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

#[derive(Default)]
struct Side {
    reader: Option<Rc<AsyncFd<OwnedFd>>>,
    decoder: Decoder,
    kept: String,
    cut: bool,
    /// A begun line. The log is given whole lines, since calls at the same time have the same name there.
    line: String,
    task: Option<tokio::task::AbortHandle>,
}

/// Both streams of a call, or of a module that is imported.
pub struct Output {
    label: String,
    sides: [RefCell<Side>; 2],
    /// Nothing more is kept for the caller.
    full: Cell<bool>,
    /// Its call, or its process, is over.
    closed: Cell<bool>,
    /// Nothing goes to the log.
    quiet: bool,
    changed: Notify,
}

impl Output {
    /// Makes the pipes and begins to read; without a label for nobody's log. Returns their writing ends too.
    ///
    /// # Errors
    /// `unavailable` without descriptors.
    pub fn open(agent: &Rc<Agent>, label: &str) -> Result<(Rc<Self>, [OwnedFd; 2]), sandbar_procd_api::function::FunctionFailure> {
        let pipe = || {
            let (reader, writer) = sandbar_linux::process::pipe().map_err(|e| unavailable(&e.to_string()))?;
            sandbar_linux::process::set_nonblocking(&reader).map_err(|e| unavailable(&e.to_string()))?;
            let reader = crate::fd::watch(reader).map_err(|e| unavailable(&crate::error::describe(&e)))?;
            Ok((Rc::new(reader), writer))
        };
        let ((out, out_writer), (err, err_writer)) = (pipe()?, pipe()?);
        let side = |reader| RefCell::new(Side { reader: Some(reader), ..Side::default() });
        let output = Rc::new(Self {
            label: label.to_owned(),
            sides: [side(out), side(err)],
            full: Cell::new(false),
            closed: Cell::new(false),
            quiet: label.is_empty(),
            changed: Notify::new(),
        });
        for slot in 0..STREAMS.len() {
            let task = tokio::task::spawn_local(output.clone().pump(agent.clone(), slot));
            output.sides[slot].borrow_mut().task = Some(task.abort_handle());
        }
        Ok((output, [out_writer, err_writer]))
    }

    async fn pump(self: Rc<Self>, agent: Rc<Agent>, slot: usize) {
        let Some(reader) = self.sides[slot].borrow().reader.clone() else { return };
        loop {
            let Ok(mut guard) = reader.readable().await else { break };
            match self.read_some(&agent, slot, reader.get_ref()) {
                Ok(0) => break,
                Ok(_) => {
                    drop(guard);
                    // Who prints without a pause holds up nobody else.
                    tokio::task::yield_now().await;
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(_) => break,
            }
        }
        self.end_line(&agent, slot);
        self.sides[slot].borrow_mut().reader = None;
        self.changed.notify_waiters();
        if self.closed.get() {
            agent.functions.loose.set(agent.functions.loose.get().saturating_sub(1));
        }
    }

    fn read_some(&self, agent: &Agent, slot: usize, fd: &OwnedFd) -> Result<usize, Errno> {
        let mut scratch = agent.scratch.borrow_mut();
        if scratch.is_empty() {
            scratch.resize(READ_BYTES, 0);
        }
        let read = loop {
            match rustix::io::read(fd, scratch.as_mut_slice()) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
                Ok(n) => break n,
            }
        };
        let Side { decoder, kept, cut, line, .. } = &mut *self.sides[slot].borrow_mut();
        let full = self.full.get() || self.closed.get();
        decoder.push(&scratch[..read], |text| {
            if !full {
                keep(kept, cut, text);
            }
            if self.quiet {
                return;
            }
            line.push_str(text);
            let whole = match line.rfind('\n') {
                Some(end) => end + 1,
                None if line.len() > LOG_LINE_BYTES_MAX => line.len(),
                None => return,
            };
            agent.journal.push(&self.label, STREAMS[slot], &line[..whole]);
            line.drain(..whole);
        });
        Ok(read)
    }

    fn end_line(&self, agent: &Agent, slot: usize) {
        let mut line = std::mem::take(&mut self.sides[slot].borrow_mut().line);
        if !line.is_empty() {
            line.push('\n');
            agent.journal.push(&self.label, STREAMS[slot], &line);
        }
    }

    /// Reads, without waiting, what is in the pipes at this moment.
    pub fn drain(&self, agent: &Agent) {
        for (slot, side) in self.sides.iter().enumerate() {
            let Some(reader) = side.borrow().reader.clone() else { continue };
            let mut left = rustix::io::ioctl_fionread(reader.get_ref()).unwrap_or(READ_BYTES as u64);
            while left > 0 {
                match self.read_some(agent, slot, reader.get_ref()) {
                    Ok(n) if n > 0 => left = left.saturating_sub(n as u64),
                    Ok(_) | Err(_) => break,
                }
            }
        }
    }

    /// Keeps what was printed up to now; what follows goes to the log alone.
    pub fn stop_keeping(&self, agent: &Agent) {
        self.drain(agent);
        self.full.set(true);
    }

    /// The call is over. Who still prints is followed for the log, unless there are too many.
    pub fn close(&self, agent: &Agent) {
        self.drain(agent);
        if self.closed.replace(true) {
            return;
        }
        for (slot, side) in self.sides.iter().enumerate() {
            self.end_line(agent, slot);
            let mut side = side.borrow_mut();
            if side.reader.is_none() {
                continue;
            }
            let loose = agent.functions.loose.get();
            if loose < FUNCTION_LOOSE_MAX {
                agent.functions.loose.set(loose + 1);
            } else if let Some(task) = side.task.take() {
                task.abort();
                side.reader = None;
            }
        }
    }

    /// Waits until nobody can print any more.
    pub async fn ended(&self) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if self.sides.iter().all(|side| side.borrow().reader.is_none()) {
                return;
            }
            changed.await;
        }
    }

    /// What was kept of one stream.
    pub fn text(&self, slot: usize) -> String {
        self.sides[slot].borrow().kept.clone()
    }

    /// What was kept, after what was printed when the module was imported.
    pub fn logs(&self, import: Option<&Output>) -> Vec<FunctionLog> {
        let both = |slot: usize| {
            let (mut text, mut cut) = (String::new(), false);
            for output in import.into_iter().chain([self]) {
                let side = output.sides[slot].borrow();
                keep(&mut text, &mut cut, &side.kept);
                cut |= side.cut;
            }
            if cut {
                text.push_str(if slot == 0 { STDOUT_TRUNCATED } else { STDERR_TRUNCATED });
            }
            FunctionLog { stream: STREAMS[slot], text }
        };
        [both(0), both(1)].into_iter().filter(|log| !log.text.is_empty()).collect()
    }
}

fn keep(kept: &mut String, cut: &mut bool, text: &str) {
    let mut end = text.len().min(LOG_BYTES_MAX - kept.len().min(LOG_BYTES_MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    kept.push_str(&text[..end]);
    *cut |= end < text.len();
}
