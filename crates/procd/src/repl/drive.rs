//! Running code in a REPL whose end is known: one piece at a time, the rest queued.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};

use super::{Framing, Mode};
use crate::agent::Agent;
use crate::error::Failure;
use crate::limits::{EXEC_QUEUE_MAX, READIES_MAX};
use crate::log::Position;
use crate::run::{Reader, Run, finished, input_full};

/// From where to where in the log the output of a piece of code lies.
pub type Span = (Position, Position);

/// An attached reader and the name it gave its input.
pub type Asker = (Rc<Reader>, Option<String>);

/// A piece of code.
#[derive(Debug)]
struct Item {
    code: String,
    reply: Option<oneshot::Sender<Span>>,
    asker: Option<Asker>,
}

/// What waits to be run, and whether something runs.
#[derive(Debug, Default)]
pub struct Queue {
    items: RefCell<VecDeque<Item>>,
    busy: Cell<bool>,
    /// Those who gave input to running code and want to know when the REPL is idle again.
    askers: RefCell<Vec<Asker>>,
    wake: Notify,
}

impl Queue {
    fn add(&self, item: Item) -> Result<(), Failure> {
        let mut items = self.items.borrow_mut();
        if items.len() >= EXEC_QUEUE_MAX {
            return Err(input_full());
        }
        items.push_back(item);
        self.wake.notify_one();
        Ok(())
    }

    fn idle(&self) -> bool {
        !self.busy.get() && self.items.borrow().is_empty()
    }

    async fn next(&self) -> Item {
        loop {
            if let Some(item) = self.items.borrow_mut().pop_front() {
                return item;
            }
            self.wake.notified().await;
        }
    }
}

impl Reader {
    /// Tells the reader that its input is done, once it has read the output up to `position`.
    pub fn answer(&self, position: Position, request_id: Option<String>) {
        let mut readies = self.readies.borrow_mut();
        if readies.len() < READIES_MAX {
            readies.push_back((position, request_id));
        }
    }
}

impl Run {
    /// Queues code and waits until it has run; when the process ends meanwhile, until all of that is known. For a
    /// command it is input, and its end is awaited.
    ///
    /// # Errors
    /// `process_finished`, `input_buffer_full`.
    pub async fn exec(self: &Rc<Self>, code: &str) -> Result<Span, Failure> {
        if self.exit.borrow().is_some() {
            return Err(finished());
        }
        if self.mode == Mode::Command {
            let from = self.log.borrow().end();
            let mut code = code.to_owned();
            if !code.ends_with(['\n', '\r']) {
                code.push('\n');
            }
            self.write(code.as_bytes())?;
            self.until_finished().await;
            return Ok((from, self.log.borrow().end()));
        }
        let (reply, receive) = oneshot::channel();
        self.queue.add(Item { code: code.to_owned(), reply: Some(reply), asker: None })?;
        match receive.await {
            Ok(span) => Ok(span),
            Err(_) => Err(finished()),
        }
    }

    /// Gives input: to the code that runs, or, to an idle driver, as code.
    ///
    /// # Errors
    /// As [`Run::write`] and [`Run::exec`].
    pub fn input(self: &Rc<Self>, agent: &Rc<Agent>, data: &str, asker: Option<Asker>) -> Result<(), Failure> {
        match self.mode {
            Mode::Command => self.write(data.as_bytes()),
            Mode::Terminal { .. } => {
                let waiting = asker.map(|asker| (asker, self.prompts()));
                self.write(data.as_bytes())?;
                if let Some((asker, prompts)) = waiting {
                    self.clone().answer_at_prompt(agent.clone(), asker, prompts);
                }
                Ok(())
            }
            Mode::Driver { .. } => {
                if self.exit.borrow().is_some() {
                    return Err(finished());
                }
                if self.queue.idle() {
                    return self.queue.add(Item { code: data.to_owned(), reply: None, asker });
                }
                self.write(data.as_bytes())?;
                if let Some(asker) = asker {
                    let mut askers = self.queue.askers.borrow_mut();
                    if askers.len() < READIES_MAX {
                        askers.push(asker);
                    }
                }
                Ok(())
            }
        }
    }

    /// Serves the queue of a driver until the process ends.
    pub async fn drive(self: Rc<Self>, agent: Rc<Agent>, framing: Framing, boot: Option<&'static str>, code: AsyncFd<OwnedFd>, done: AsyncFd<OwnedFd>) {
        let gone = || self.exit.borrow().is_some();
        if let Some(boot) = boot {
            tokio::select! {
                _ = send(&code, framing.frame(boot)) => {}
                () = self.until(gone) => {}
            }
        }
        loop {
            let item = tokio::select! {
                item = self.queue.next() => item,
                () = self.until(gone) => break,
            };
            self.queue.busy.set(true);
            let from = self.log.borrow().end();
            let ran = tokio::select! {
                ran = converse(&code, framing.frame(&item.code), &done) => ran.is_ok(),
                () = self.until(gone) => false,
            };
            if !ran {
                // Its control pipes are closed, so it has ended, is about to, or can be of no more use.
                if tokio::time::timeout(crate::limits::EOF_GRACE * 10, self.until(gone)).await.is_err() {
                    self.terminate("repl: the interpreter closed its control pipe").await;
                }
                self.until_finished().await;
                if let Some(reply) = item.reply {
                    let _ = reply.send((from, self.log.borrow().end()));
                }
                break;
            }
            self.drain(&agent);
            self.activity.set(std::time::Instant::now());
            let until = self.log.borrow().end();
            if let Some(reply) = item.reply {
                let _ = reply.send((from, until));
            }
            let left = self.take_leftovers();
            if left.iter().any(|b| !b.is_ascii_whitespace()) {
                let code = String::from_utf8_lossy(&left).into_owned();
                if let Some(asker) = item.asker {
                    self.queue.askers.borrow_mut().insert(0, asker);
                }
                self.queue.items.borrow_mut().push_front(Item { code, reply: None, asker: None });
                continue;
            }
            for (reader, request_id) in item.asker.into_iter().chain(self.queue.askers.take()) {
                reader.answer(until, request_id);
            }
            self.queue.busy.set(false);
            self.changed.notify_waiters();
        }
        self.abandon();
    }

    /// Serves the queue of a terminal REPL until the process ends.
    pub async fn drive_terminal(self: Rc<Self>, agent: Rc<Agent>) {
        let gone = || self.exit.borrow().is_some();
        tokio::select! {
            () = self.first_prompt() => {}
            () = self.until(gone) => {}
        }
        loop {
            let item = tokio::select! {
                item = self.queue.next() => item,
                () = self.until(gone) => break,
            };
            self.queue.busy.set(true);
            self.flush_screen(&agent);
            let from = self.log.borrow().end();
            tokio::select! {
                () = self.type_code(&item.code) => {}
                () = self.until_finished() => {}
            }
            self.flush_screen(&agent);
            if let Some(reply) = item.reply {
                let _ = reply.send((from, self.log.borrow().end()));
            }
            self.queue.busy.set(false);
        }
        self.abandon();
    }

    /// Nobody is going to run what is left: dropping the replies tells those who wait.
    fn abandon(&self) {
        self.queue.items.borrow_mut().clear();
        self.queue.askers.borrow_mut().clear();
    }
}

async fn send(fd: &AsyncFd<OwnedFd>, frame: Vec<u8>) -> Result<(), Errno> {
    let mut rest = frame.as_slice();
    while !rest.is_empty() {
        match rustix::io::write(fd.get_ref(), rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut guard = fd.writable().await.map_err(|_| Errno::IO)?;
                // The write decides; a stale readiness must not make this a loop.
                match rustix::io::write(fd.get_ref(), rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(Errno::AGAIN) => guard.clear_ready(),
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e),
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Sends a frame of code and waits for the byte that says it has ended.
async fn converse(code: &AsyncFd<OwnedFd>, frame: Vec<u8>, done: &AsyncFd<OwnedFd>) -> Result<(), Errno> {
    send(code, frame).await?;
    loop {
        let mut guard = done.readable().await.map_err(|_| Errno::IO)?;
        let mut byte = [0_u8; 1];
        match rustix::io::read(done.get_ref(), &mut byte) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => guard.clear_ready(),
            Err(e) => return Err(e),
        }
    }
}
