//! A connection after its login: one task owns it, reads and writes at the same time, and hands data between the socket and
//! the channels. Nothing here waits for the owner of a channel.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    Channel, Event, Outcome, SshError, Stream,
    channel::Shared,
    limits::{
        DATA_BYTES_MAX, FORWARD_WINDOW_BYTES, FORWARDS_MAX, KEEPALIVE, KEEPALIVES_MAX, MESSAGE_BYTES, OUTPUT_BYTES_MAX, REQUESTS_MAX, SENDING_BYTES_MAX,
        SESSION_WINDOW_BYTES, SESSIONS_MAX, WINDOW_BYTES_MIN, WINDOWS_BYTES,
    },
    message::{self, disconnect},
    transport::Transport,
    wire::{Reader, Writer},
};

mod request;

use request::{lossy, parse};

const READ_BYTES: usize = 64 << 10;
/// While so much waits for the socket, channels wait.
const OUTPUT_BYTES_FULL: usize = 128 << 10;
const TICK: Duration = Duration::from_secs(1);
/// How long a client may take to hear why it is over.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
const UNASKED: SshError = SshError::Protocol("an answer that was not asked for");
/// Data that is no output.
const STDERR: u32 = 1;

/// What a client opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenKind {
    Session,
    /// A connection to a host and port.
    Tcp {
        host: String,
        port: u16,
    },
    /// A connection to a socket in the file system.
    Unix {
        path: String,
    },
}

/// A channel that a client wants. One that is dropped without an answer is refused.
#[derive(Debug)]
pub struct Open {
    pub kind: OpenKind,
    channel: Option<Channel>,
}

/// Why a channel is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Prohibited = 1,
    ConnectFailed = 2,
    UnknownType = 3,
    Shortage = 4,
}

impl Open {
    /// Opens it.
    pub fn accept(mut self) -> Option<Channel> {
        let channel = self.channel.take()?;
        let _ = channel.told.send(Told::Accept { id: channel.id });
        Some(channel)
    }

    /// Returns when nobody waits for it any more.
    pub async fn closed(&self) {
        if let Some(channel) = &self.channel {
            channel.closed().await;
        }
    }

    /// Does not.
    pub fn refuse(mut self, why: Refusal, text: impl Into<String>) {
        if let Some(channel) = self.channel.take() {
            let _ = channel.told.send(Told::Refuse { id: channel.id, why, text: text.into() });
        }
    }
}

/// Opens sessions at a server. Clones are the same.
#[derive(Debug, Clone)]
pub struct Opener {
    told: mpsc::UnboundedSender<Told>,
}

/// Why a session was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    #[error("the server opens no session: {0}")]
    Refused(String),
    #[error("{SESSIONS_MAX} sessions are open on this connection, which is as many as may be")]
    TooMany,
    #[error("the connection to the server has ended")]
    Gone,
}

impl Opener {
    /// Opens a session, while [`Session::run`] runs.
    ///
    /// # Errors
    /// The server refuses, or is gone.
    pub async fn session(&self) -> Result<Channel, NotOpened> {
        let (to, opened) = oneshot::channel();
        self.told.send(Told::Open { to }).map_err(|_| NotOpened::Gone)?;
        opened.await.unwrap_or(Err(NotOpened::Gone))
    }
}

/// What the owners of channels tell the session.
#[derive(Debug)]
pub(crate) enum Told {
    Open { to: oneshot::Sender<Result<Channel, NotOpened>> },
    Accept { id: u32 },
    Refuse { id: u32, why: Refusal, text: String },
    Data { id: u32, stream: Stream, data: Bytes },
    Grant { id: u32, bytes: u32 },
    Answer { id: u32, yes: bool },
    Request { id: u32, message: Vec<u8> },
    End { id: u32 },
    Exit { id: u32, outcome: Outcome },
    Close { id: u32 },
}

/// A channel on the session's side.
struct Entry {
    /// The other side's number of it.
    peer: u32,
    shared: Arc<Shared>,
    is_session: bool,
    accepted: bool,
    /// Who waits for the server to open it.
    opening: Option<oneshot::Sender<Result<Channel, NotOpened>>>,
    /// The window that it began with.
    window_bytes: u32,
    /// What the other side may still send.
    window: u32,
    /// Requests of the other side whose answers are not written yet.
    unanswered: usize,
    ended: bool,
    close_sent: bool,
    close_received: bool,
}

/// A connection after its login.
pub struct Session<S> {
    stream: S,
    wire: Wire,
    told: mpsc::UnboundedReceiver<Told>,
}

/// All of it but the socket.
struct Wire {
    transport: Transport,
    channels: HashMap<u32, Entry>,
    next: u32,
    teller: mpsc::UnboundedSender<Told>,
    room: Arc<Semaphore>,
    opens: Vec<Open>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(crate) fn new(transport: Transport, stream: S) -> Self {
        let (teller, told) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(SENDING_BYTES_MAX));
        Self { stream, told, wire: Wire { transport, channels: HashMap::new(), next: 0, teller, room, opens: Vec::new() } }
    }

    /// Who opens sessions on it, if it is one to a server.
    pub fn opener(&self) -> Opener {
        Opener { told: self.wire.teller.clone() }
    }

    /// Serves the connection until it ends or `stop` says why it has to. What a client opens is handed to `open`, which must not wait.
    ///
    /// # Errors
    /// How it ended, when the other side did not simply hang up.
    pub async fn run(mut self, mut open: impl FnMut(Open), stop: impl Future<Output = String>) -> Result<(), SshError> {
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let wire = &mut self.wire;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = std::pin::pin!(stop);
        let (mut heard, mut asked) = (Instant::now(), 0);
        let ended = loop {
            if let Err(error) = wire.take_all() {
                break Err(error);
            }
            wire.opens.drain(..).for_each(&mut open);
            let waiting = wire.transport.output.len();
            wire.transport.input.reserve(READ_BYTES);
            let output: &[u8] = &wire.transport.output;
            tokio::select! {
                read = reader.read_buf(&mut wire.transport.input), if waiting < OUTPUT_BYTES_MAX => match read {
                    Ok(0) => break Ok(()),
                    Ok(_) => (heard, asked) = (Instant::now(), 0),
                    Err(error) => break Err(error.into()),
                },
                written = writer.write(output), if waiting > 0 => match written {
                    Ok(0) => break Ok(()),
                    Ok(written) => wire.transport.wrote(written),
                    Err(error) => break Err(error.into()),
                },
                told = self.told.recv(), if waiting < OUTPUT_BYTES_FULL && !wire.transport.is_exchanging() => {
                    let Some(told) = told else { break Ok(()) };
                    if let Err(error) = wire.tell(told) {
                        break Err(error);
                    }
                }
                _ = tick.tick() => {
                    if let Err(error) = wire.transport.renew() {
                        break Err(error);
                    }
                    if heard.elapsed() >= KEEPALIVE * (asked + 1) {
                        asked += 1;
                        if asked > KEEPALIVES_MAX {
                            break Err(SshError::Dead);
                        }
                        let message = Writer::message(message::GLOBAL_REQUEST).string("keepalive@openssh.com").boolean(true).done();
                        if let Err(error) = wire.transport.send(&message) {
                            break Err(error);
                        }
                    }
                }
                text = &mut stop => {
                    wire.transport.disconnect(disconnect::BY_APPLICATION, &text);
                    break Ok(());
                }
            }
        };
        for entry in wire.channels.values() {
            entry.shared.close();
        }
        if let Err(SshError::Protocol(text)) = &ended {
            wire.transport.disconnect(disconnect::PROTOCOL_ERROR, text);
        }
        let _ = tokio::time::timeout(LEAVE_WITHIN, async {
            writer.write_all(&wire.transport.output).await?;
            writer.shutdown().await
        })
        .await;
        match ended {
            Err(SshError::Closed) => Ok(()),
            ended => ended,
        }
    }
}

impl Wire {
    /// Does all that has come.
    fn take_all(&mut self) -> Result<(), SshError> {
        while self.transport.output.len() < OUTPUT_BYTES_MAX {
            let Some(payload) = self.transport.receive()? else { break };
            self.take(&payload)?;
        }
        Ok(())
    }

    fn take(&mut self, payload: &[u8]) -> Result<(), SshError> {
        let mut reader = Reader::new(&payload[1..]);
        match payload[0] {
            message::CHANNEL_DATA => {
                let (id, data) = (reader.u32()?, reader.string()?);
                self.data(id, Stream::Out, data)
            }
            message::CHANNEL_EXTENDED_DATA => {
                let (id, stream, data) = (reader.u32()?, reader.u32()?, reader.string()?);
                if self.transport.is_client() && stream == STDERR {
                    return self.data(id, Stream::Err, data);
                }
                // A client has no second stream; what it sends there counts and is dropped.
                let length = data.len() as u32;
                self.spend(id, length)?;
                self.grant(id, length)
            }
            message::CHANNEL_WINDOW_ADJUST => {
                let (id, bytes) = (reader.u32()?, reader.u32()?);
                self.entry(id)?.shared.grow(bytes);
                Ok(())
            }
            message::CHANNEL_REQUEST if self.transport.is_client() => self.hear(reader),
            message::CHANNEL_REQUEST => self.request(reader),
            message::CHANNEL_OPEN if self.transport.is_client() => {
                let (_name, peer) = (reader.string()?, reader.u32()?);
                self.refuse(peer, Refusal::Prohibited, "nothing is opened from this side")
            }
            message::CHANNEL_OPEN => self.open(reader),
            message::CHANNEL_OPEN_CONFIRMATION => {
                let (id, peer, window, packet_bytes_max) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
                self.opened(id, peer, window, packet_bytes_max)
            }
            message::CHANNEL_OPEN_FAILURE => {
                let (id, _why, text) = (reader.u32()?, reader.u32()?, lossy(reader.string()?));
                let opening = self.channels.get_mut(&id).and_then(|entry| entry.opening.take()).ok_or(UNASKED)?;
                self.channels.remove(&id);
                let _ = opening.send(Err(NotOpened::Refused(text)));
                Ok(())
            }
            message::CHANNEL_EOF => {
                let id = reader.u32()?;
                self.entry(id)?.shared.end();
                Ok(())
            }
            message::CHANNEL_CLOSE => {
                let id = reader.u32()?;
                let entry = self.entry(id)?;
                entry.close_received = true;
                entry.shared.close();
                // Else its owner closes it too, and may say before how its program ended: clients close when both sides
                // have sent all that they had, and wait for that.
                if entry.close_sent { self.close(id) } else { Ok(()) }
            }
            message::GLOBAL_REQUEST => {
                let (_name, wants_reply) = (reader.string()?, reader.boolean()?);
                // Nothing is forwarded from inside to the client, and a keepalive is answered by any answer.
                if wants_reply { self.transport.send(&[message::REQUEST_FAILURE]) } else { Ok(()) }
            }
            // Answers to our keepalives.
            message::REQUEST_SUCCESS | message::REQUEST_FAILURE => Ok(()),
            message::CHANNEL_SUCCESS | message::CHANNEL_FAILURE => {
                let id = reader.u32()?;
                let yes = payload[0] == message::CHANNEL_SUCCESS;
                if self.entry(id)?.shared.answer(yes) { Ok(()) } else { Err(UNASKED) }
            }
            message::USERAUTH_REQUEST => Ok(()),
            _ => self.transport.unimplemented(),
        }
    }

    fn entry(&mut self, id: u32) -> Result<&mut Entry, SshError> {
        self.channels.get_mut(&id).filter(|entry| entry.accepted).ok_or(SshError::Protocol("a channel that there is not"))
    }

    fn spend(&mut self, id: u32, length: u32) -> Result<(), SshError> {
        let entry = self.entry(id)?;
        entry.window = entry.window.checked_sub(length).ok_or(SshError::Protocol("more data than was granted"))?;
        Ok(())
    }

    fn data(&mut self, id: u32, stream: Stream, data: &[u8]) -> Result<(), SshError> {
        self.spend(id, data.len() as u32)?;
        let entry = self.entry(id)?;
        if entry.close_sent {
            return Ok(());
        }
        entry.shared.put(stream, data);
        Ok(())
    }

    fn grant(&mut self, id: u32, bytes: u32) -> Result<(), SshError> {
        let Some(entry) = self.channels.get_mut(&id).filter(|entry| !entry.close_sent) else { return Ok(()) };
        entry.window += bytes;
        self.transport.send(&Writer::message(message::CHANNEL_WINDOW_ADJUST).u32(entry.peer).u32(bytes).done())
    }

    fn open(&mut self, mut reader: Reader<'_>) -> Result<(), SshError> {
        let (name, peer, window, packet_bytes_max) = (reader.string()?, reader.u32()?, reader.u32()?, reader.u32()?);
        let kind = match name {
            b"session" => Ok(OpenKind::Session),
            b"direct-tcpip" => {
                let (host, port) = (reader.text()?.to_owned(), reader.u32()?);
                u16::try_from(port).ok().filter(|port| *port > 0).map(|port| OpenKind::Tcp { host, port }).ok_or((Refusal::ConnectFailed, "that is no port"))
            }
            b"direct-streamlocal@openssh.com" => Ok(OpenKind::Unix { path: reader.text()?.to_owned() }),
            _ => Err((Refusal::UnknownType, "channels of this kind are not known")),
        };
        let is_session = matches!(kind, Ok(OpenKind::Session));
        let alike = self.channels.values().filter(|entry| entry.is_session == is_session).count();
        let kind = kind.and_then(|kind| {
            let max = if is_session { SESSIONS_MAX } else { FORWARDS_MAX };
            if alike < max { Ok(kind) } else { Err((Refusal::Shortage, "too many channels are open on this connection")) }
        });
        let kind = match kind {
            Ok(kind) if packet_bytes_max > 0 => kind,
            Ok(_) => return Err(SshError::Protocol("a channel that takes no data")),
            Err((why, text)) => return self.refuse(peer, why, text),
        };
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let window_bytes = self.window_for(if is_session { SESSION_WINDOW_BYTES } else { FORWARD_WINDOW_BYTES });
        let shared = Shared::new(window);
        let entry = Entry {
            peer,
            shared: Arc::clone(&shared),
            is_session,
            accepted: false,
            opening: None,
            window_bytes,
            window: window_bytes,
            unanswered: 0,
            ended: false,
            close_sent: false,
            close_received: false,
        };
        self.channels.insert(id, entry);
        let channel = Channel { id, shared, told: self.teller.clone(), room: Arc::clone(&self.room), packet_bytes_max, window_bytes };
        self.opens.push(Open { kind, channel: Some(channel) });
        Ok(())
    }

    /// Half of what is left for windows, within bounds.
    fn window_for(&self, wanted: u32) -> u32 {
        let given: u32 = self.channels.values().map(|entry| entry.window_bytes).sum();
        (WINDOWS_BYTES.saturating_sub(given) / 2).clamp(WINDOW_BYTES_MIN, wanted)
    }

    fn refuse(&mut self, peer: u32, why: Refusal, text: &str) -> Result<(), SshError> {
        self.transport.send(&Writer::message(message::CHANNEL_OPEN_FAILURE).u32(peer).u32(why as u32).string(text).string("").done())
    }

    fn request(&mut self, mut reader: Reader<'_>) -> Result<(), SshError> {
        let (id, name, wants_reply) = (reader.u32()?, reader.text()?, reader.boolean()?);
        let request = parse(name, &mut reader)?;
        let entry = self.entry(id)?;
        if !entry.is_session {
            let peer = entry.peer;
            return if wants_reply { self.transport.send(&Writer::message(message::CHANNEL_FAILURE).u32(peer).done()) } else { Ok(()) };
        }
        if entry.close_sent {
            return Ok(());
        }
        entry.unanswered += usize::from(wants_reply);
        if entry.unanswered <= REQUESTS_MAX && entry.shared.ask(Event::Request { request, wants_reply }) {
            return Ok(());
        }
        Err(SshError::Protocol("too many requests at once"))
    }

    /// Asks the server for a session.
    fn ask(&mut self, to: oneshot::Sender<Result<Channel, NotOpened>>) -> Result<(), SshError> {
        if self.channels.len() >= SESSIONS_MAX {
            let _ = to.send(Err(NotOpened::TooMany));
            return Ok(());
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let window_bytes = self.window_for(SESSION_WINDOW_BYTES);
        let entry = Entry {
            peer: 0,
            shared: Shared::new(0),
            is_session: true,
            accepted: false,
            opening: Some(to),
            window_bytes,
            window: window_bytes,
            unanswered: 0,
            ended: false,
            close_sent: false,
            close_received: false,
        };
        self.channels.insert(id, entry);
        self.transport.send(&Writer::message(message::CHANNEL_OPEN).string("session").u32(id).u32(window_bytes).u32(DATA_BYTES_MAX).done())
    }

    fn opened(&mut self, id: u32, peer: u32, window: u32, packet_bytes_max: u32) -> Result<(), SshError> {
        let entry = self.channels.get_mut(&id).ok_or(UNASKED)?;
        let opening = entry.opening.take().ok_or(UNASKED)?;
        if packet_bytes_max == 0 {
            return Err(SshError::Protocol("a channel that takes no data"));
        }
        entry.peer = peer;
        entry.accepted = true;
        entry.shared.grow(window);
        let (shared, window_bytes) = (Arc::clone(&entry.shared), entry.window_bytes);
        let channel = Channel { id, shared, told: self.teller.clone(), room: Arc::clone(&self.room), packet_bytes_max, window_bytes };
        // When nobody waits any more it is closed by being dropped.
        let _ = opening.send(Ok(channel));
        Ok(())
    }

    /// What a server says of a program.
    fn hear(&mut self, mut reader: Reader<'_>) -> Result<(), SshError> {
        let (id, name, wants_reply) = (reader.u32()?, reader.string()?, reader.boolean()?);
        let outcome = match name {
            b"exit-status" => Some(Outcome::Status(reader.u32()?)),
            b"exit-signal" => Some(Outcome::Signal(lossy(reader.string()?))),
            _ => None,
        };
        let entry = self.entry(id)?;
        if let Some(outcome) = outcome {
            entry.shared.exited(outcome);
        }
        if wants_reply { self.say(id, Writer::message(message::CHANNEL_FAILURE), Writer::default()) } else { Ok(()) }
    }

    fn tell(&mut self, told: Told) -> Result<(), SshError> {
        match told {
            Told::Open { to } => self.ask(to),
            Told::Request { id, message } => {
                self.room.add_permits(message.len() + MESSAGE_BYTES);
                self.say(id, Writer::message(message::CHANNEL_REQUEST), Writer::default().raw(&message))
            }
            Told::Accept { id } => {
                let Some(entry) = self.channels.get_mut(&id) else { return Ok(()) };
                entry.accepted = true;
                let confirmation = Writer::message(message::CHANNEL_OPEN_CONFIRMATION).u32(entry.peer).u32(id).u32(entry.window).u32(DATA_BYTES_MAX);
                self.transport.send(&confirmation.done())
            }
            Told::Refuse { id, why, text } => match self.channels.remove(&id) {
                Some(entry) => self.refuse(entry.peer, why, &text),
                None => Ok(()),
            },
            Told::Data { id, stream, data } => {
                self.room.add_permits(data.len() + MESSAGE_BYTES);
                let Some(entry) = self.channels.get(&id).filter(|entry| !entry.close_sent && !entry.ended) else { return Ok(()) };
                let message = match stream {
                    Stream::Out => Writer::message(message::CHANNEL_DATA).u32(entry.peer),
                    Stream::Err => Writer::message(message::CHANNEL_EXTENDED_DATA).u32(entry.peer).u32(STDERR),
                };
                self.transport.send(&message.string(&data).done())
            }
            Told::Grant { id, bytes } => self.grant(id, bytes),
            Told::Answer { id, yes } => {
                if let Some(entry) = self.channels.get_mut(&id) {
                    entry.unanswered = entry.unanswered.saturating_sub(1);
                }
                let number = if yes { message::CHANNEL_SUCCESS } else { message::CHANNEL_FAILURE };
                self.say(id, Writer::message(number), Writer::default())
            }
            Told::End { id } => match self.channels.get_mut(&id) {
                Some(entry) if !entry.ended && !entry.close_sent => {
                    entry.ended = true;
                    let peer = entry.peer;
                    self.transport.send(&Writer::message(message::CHANNEL_EOF).u32(peer).done())
                }
                Some(_) | None => Ok(()),
            },
            Told::Exit { id, outcome } => {
                let rest = match outcome {
                    Outcome::Status(status) => Writer::default().string("exit-status").boolean(false).u32(status),
                    Outcome::Signal(name) => Writer::default().string("exit-signal").boolean(false).string(name).boolean(false).string("").string(""),
                };
                self.say(id, Writer::message(message::CHANNEL_REQUEST), rest)
            }
            // One that nobody has accepted is refused, and goes like that.
            Told::Close { id } => match self.channels.get(&id) {
                Some(entry) if !entry.accepted => {
                    let peer = entry.peer;
                    self.channels.remove(&id);
                    self.refuse(peer, Refusal::ConnectFailed, "the channel was not opened")
                }
                Some(_) | None => self.close(id),
            },
        }
    }

    /// Sends a message about a channel that is not closed.
    fn say(&mut self, id: u32, message: Writer, rest: Writer) -> Result<(), SshError> {
        match self.channels.get(&id).filter(|entry| !entry.close_sent) {
            Some(entry) => self.transport.send(&message.u32(entry.peer).raw(&rest.done()).done()),
            None => Ok(()),
        }
    }

    /// Closes our side, once, and forgets a channel that is closed on both.
    fn close(&mut self, id: u32) -> Result<(), SshError> {
        let Some(entry) = self.channels.get_mut(&id) else { return Ok(()) };
        let (peer, first, last) = (entry.peer, !std::mem::replace(&mut entry.close_sent, true), entry.close_received);
        if last {
            self.channels.remove(&id);
        }
        if first { self.transport.send(&Writer::message(message::CHANNEL_CLOSE).u32(peer).done()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
