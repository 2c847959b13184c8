//! A channel as its owner holds it: what the other side sends and asks for, and the way back.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::{
    limits::{DATA_BYTES_MAX, MESSAGE_BYTES, REQUEST_BYTES_MAX, REQUESTS_BYTES_MAX, REQUESTS_MAX},
    session::Told,
    wire::Writer,
};

/// What was taken is granted anew in steps of this part of the window.
const GRANT_PART: u32 = 8;

/// Where data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Status(u32),
    /// The signal's name without `SIG`.
    Signal(String),
}

/// A terminal that a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PtyRequest {
    pub term: String,
    pub cols: u32,
    pub rows: u32,
    /// Of the client's terminal (RFC 4254, section 8).
    pub modes: Vec<u8>,
}

/// What a client asks for on a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Pty(PtyRequest),
    Env {
        name: String,
        value: String,
    },
    Shell,
    Exec(Vec<u8>),
    Subsystem(String),
    Resize {
        cols: u32,
        rows: u32,
    },
    /// A signal's name without `SIG`.
    Signal(String),
    Agent,
    X11,
    /// Something that we do not know.
    Other(String),
}

impl Request {
    /// What it takes to keep it.
    fn bytes(&self) -> usize {
        match self {
            Self::Pty(pty) => pty.term.len() + pty.modes.len(),
            Self::Env { name, value } => name.len() + value.len(),
            Self::Exec(command) => command.len(),
            Self::Subsystem(name) | Self::Signal(name) | Self::Other(name) => name.len(),
            Self::Shell | Self::Resize { .. } | Self::Agent | Self::X11 => 0,
        }
    }

    /// As the protocol sends it after the channel's number; `None` for what we do not ask for.
    fn message(&self, wants_reply: bool) -> Option<Vec<u8>> {
        let head = |name: &str| Writer::default().string(name).boolean(wants_reply);
        let writer = match self {
            Self::Pty(pty) => head("pty-req").string(&pty.term).u32(pty.cols).u32(pty.rows).u32(0).u32(0).string(&pty.modes),
            Self::Env { name, value } => head("env").string(name).string(value),
            Self::Shell => head("shell"),
            Self::Exec(command) => head("exec").string(command),
            Self::Subsystem(name) => head("subsystem").string(name),
            Self::Resize { cols, rows } => head("window-change").u32(*cols).u32(*rows).u32(0).u32(0),
            Self::Signal(name) => head("signal").string(name),
            Self::Agent | Self::X11 | Self::Other(_) => return None,
        };
        Some(writer.done())
    }
}

/// What comes from the client, but for data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Whether the client waits for [`Channel::answer`].
    Request { request: Request, wants_reply: bool },
}

impl Event {
    fn bytes(&self) -> usize {
        let Self::Request { request, .. } = self;
        request.bytes()
    }
}

/// What the session has put there for the channel's owner.
#[derive(Debug, Default)]
struct Inbox {
    data: BytesMut,
    /// What a server's program wrote to its other stream.
    errors: BytesMut,
    eof: bool,
    closed: bool,
    events: VecDeque<Event>,
    event_bytes: usize,
    /// How a server's program ended.
    outcome: Option<Outcome>,
    /// Requests to a server that it has not answered, and its answers that nobody has taken.
    asked: u32,
    answers: VecDeque<bool>,
    /// Taken and not granted anew.
    taken: u32,
}

/// What the session and the owner of a channel share.
#[derive(Debug)]
pub(crate) struct Shared {
    inbox: Mutex<Inbox>,
    data: Notify,
    events: Notify,
    answered: Notify,
    /// What the other side takes.
    window: Mutex<u64>,
    grown: Notify,
    gone: Notify,
}

impl Shared {
    pub fn new(window: u32) -> Arc<Self> {
        Arc::new(Self {
            inbox: Mutex::default(),
            data: Notify::new(),
            events: Notify::new(),
            answered: Notify::new(),
            window: Mutex::new(u64::from(window)),
            grown: Notify::new(),
            gone: Notify::new(),
        })
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn window(&self) -> MutexGuard<'_, u64> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, stream: Stream, data: &[u8]) {
        let mut inbox = self.inbox();
        match stream {
            Stream::Out => inbox.data.extend_from_slice(data),
            Stream::Err => inbox.errors.extend_from_slice(data),
        }
        drop(inbox);
        self.data.notify_one();
    }

    /// Of several the first one holds.
    pub fn exited(&self, outcome: Outcome) {
        self.inbox().outcome.get_or_insert(outcome);
        self.events.notify_one();
    }

    /// False when nothing was asked for.
    pub fn answer(&self, yes: bool) -> bool {
        let mut inbox = self.inbox();
        let Some(asked) = inbox.asked.checked_sub(1) else { return false };
        inbox.asked = asked;
        inbox.answers.push_back(yes);
        drop(inbox);
        self.answered.notify_one();
        true
    }

    pub fn end(&self) {
        self.inbox().eof = true;
        self.data.notify_one();
    }

    /// False when too many wait already. Of sizes of a terminal only the last one matters.
    pub fn ask(&self, event: Event) -> bool {
        let mut inbox = self.inbox();
        // One that wants an answer gets it.
        let is_size = |event: &Event| matches!(event, Event::Request { request: Request::Resize { .. }, wants_reply: false });
        if is_size(&event) && inbox.events.back().is_some_and(is_size) {
            inbox.events.pop_back();
        }
        let bytes = inbox.event_bytes + event.bytes();
        if inbox.events.len() >= REQUESTS_MAX || bytes > REQUESTS_BYTES_MAX {
            return false;
        }
        inbox.event_bytes = bytes;
        inbox.events.push_back(event);
        drop(inbox);
        self.events.notify_one();
        true
    }

    pub fn close(&self) {
        self.inbox().closed = true;
        self.data.notify_one();
        self.events.notify_one();
        self.answered.notify_one();
        self.grown.notify_one();
        self.gone.notify_waiters();
    }

    pub fn grow(&self, bytes: u32) {
        let mut window = self.window();
        *window = window.saturating_add(u64::from(bytes)).min(u64::from(u32::MAX));
        drop(window);
        self.grown.notify_one();
    }
}

/// A session or forwarded connection. Dropping it closes it, as has to be done when the other side has.
#[derive(Debug)]
pub struct Channel {
    pub(crate) id: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) told: mpsc::UnboundedSender<Told>,
    /// Bytes on their way to the socket.
    pub(crate) room: Arc<Semaphore>,
    /// The longest message with data that the client takes.
    pub(crate) packet_bytes_max: u32,
    /// What the client may send that nobody has taken.
    pub(crate) window_bytes: u32,
}

/// Nobody is there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the channel is closed")]
pub struct Gone;

impl Channel {
    /// The next data; `None` at its end. Cancel-safe; for one reader at a time.
    pub async fn read(&self) -> Option<Bytes> {
        self.read_either().await.map(|(_, data)| data)
    }

    /// The next data, and which stream of a server's program it is of. Else as [`Channel::read`].
    pub async fn read_either(&self) -> Option<(Stream, Bytes)> {
        loop {
            let waiting = self.shared.data.notified();
            {
                let mut inbox = self.shared.inbox();
                let stream = if inbox.errors.is_empty() { Stream::Out } else { Stream::Err };
                let data = match stream {
                    Stream::Out => &mut inbox.data,
                    Stream::Err => &mut inbox.errors,
                };
                if !data.is_empty() {
                    let length = data.len().min(DATA_BYTES_MAX as usize);
                    let data = data.split_to(length).freeze();
                    inbox.taken += length as u32;
                    if inbox.taken >= self.window_bytes / GRANT_PART && !inbox.eof && !inbox.closed {
                        let bytes = std::mem::take(&mut inbox.taken);
                        let _ = self.told.send(Told::Grant { id: self.id, bytes });
                    }
                    return Some((stream, data));
                }
                if inbox.eof || inbox.closed {
                    return None;
                }
            }
            waiting.await;
        }
    }

    /// How a server's program ended; `None` when the channel is closed before that is said. Cancel-safe; for one reader at a
    /// time.
    pub async fn outcome(&self) -> Option<Outcome> {
        loop {
            let waiting = self.shared.events.notified();
            {
                let mut inbox = self.shared.inbox();
                if inbox.outcome.is_some() || inbox.closed {
                    return inbox.outcome.take();
                }
            }
            waiting.await;
        }
    }

    /// Asks a server for something, and says whether it does it; without `wants_reply` that is supposed. For one asker at a
    /// time.
    ///
    /// # Errors
    /// The channel is closed.
    pub async fn request(&self, request: &Request, wants_reply: bool) -> Result<bool, Gone> {
        let Some(message) = request.message(wants_reply).filter(|message| message.len() <= REQUEST_BYTES_MAX) else { return Ok(false) };
        let permit = self.room.acquire_many((message.len() + MESSAGE_BYTES) as u32).await.map_err(|_| Gone)?;
        if wants_reply {
            self.shared.inbox().asked += 1;
        }
        self.told.send(Told::Request { id: self.id, message }).map_err(|_| Gone)?;
        permit.forget();
        if !wants_reply {
            return Ok(true);
        }
        loop {
            let waiting = self.shared.answered.notified();
            {
                let mut inbox = self.shared.inbox();
                if let Some(yes) = inbox.answers.pop_front() {
                    return Ok(yes);
                }
                if inbox.closed {
                    return Err(Gone);
                }
            }
            waiting.await;
        }
    }

    /// The next thing that the client asks for; `None` when the channel is closed. Cancel-safe; for one reader at a time.
    pub async fn event(&self) -> Option<Event> {
        loop {
            let waiting = self.shared.events.notified();
            {
                let mut inbox = self.shared.inbox();
                if let Some(event) = inbox.events.pop_front() {
                    inbox.event_bytes -= event.bytes();
                    return Some(event);
                }
                if inbox.closed {
                    return None;
                }
            }
            waiting.await;
        }
    }

    /// Answers a request that wants it.
    pub fn answer(&self, yes: bool) {
        let _ = self.told.send(Told::Answer { id: self.id, yes });
    }

    /// Sends data as fast as the client takes it. For one writer at a time.
    ///
    /// # Errors
    /// The channel is closed.
    pub async fn write(&self, stream: Stream, mut data: Bytes) -> Result<(), Gone> {
        while !data.is_empty() {
            let length = self.reserve(data.len()).await?;
            let permit = self.room.acquire_many((length + MESSAGE_BYTES) as u32).await.map_err(|_| Gone)?;
            // Given back when it has become a packet.
            permit.forget();
            self.told.send(Told::Data { id: self.id, stream, data: data.split_to(length) }).map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Room in the client's window, at least a byte.
    async fn reserve(&self, wanted: usize) -> Result<usize, Gone> {
        loop {
            let waiting = self.shared.grown.notified();
            if self.shared.inbox().closed {
                return Err(Gone);
            }
            {
                let mut window = self.shared.window();
                let max = self.packet_bytes_max.min(DATA_BYTES_MAX);
                let length = (wanted as u64).min(*window).min(u64::from(max));
                if length > 0 {
                    *window -= length;
                    return Ok(length as usize);
                }
            }
            waiting.await;
        }
    }

    /// Ends our direction.
    pub fn end(&self) {
        let _ = self.told.send(Told::End { id: self.id });
    }

    /// Says how the program ended. The channel is closed by dropping it.
    pub fn exit(&self, outcome: Outcome) {
        let _ = self.told.send(Told::Exit { id: self.id, outcome });
    }

    /// Returns when the client has closed it, or is gone.
    pub async fn closed(&self) {
        let mut gone = std::pin::pin!(self.shared.gone.notified());
        gone.as_mut().enable();
        if !self.shared.inbox().closed {
            gone.await;
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let _ = self.told.send(Told::Close { id: self.id });
    }
}
