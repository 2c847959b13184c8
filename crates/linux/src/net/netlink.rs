//! Netlink: messages in batches, one sendmsg for many.
//!
//! The kernel works through a batch while it is sent, in order, and always reports what it refuses. So only the last
//! message of a batch asks to be acknowledged: that answer, and no error among the others, means that all is done.
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::NetError;

pub(super) const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// struct nlmsghdr
const HEADER_BYTES: usize = 16;
/// What is sent at once: each error takes about 1 KiB of the socket's receive buffer (208 KiB by default).
const MESSAGES_PER_SEND_MAX: usize = 96;
const ANSWER_BYTES_MAX: usize = 32 << 10;

/// The body of a message, or of a nested attribute.
#[derive(Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // Attributes are far shorter than 64 KiB: addresses, names and a handful of nested ones.
        let len = (4 + value.len()) as u16;
        self.raw(&len.to_ne_bytes()).raw(&kind.to_ne_bytes()).raw(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A string attribute, ended by NUL.
    pub fn name(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Body)) -> &mut Self {
        let mut inner = Body::default();
        fill(&mut inner);
        self.attribute(kind | NLA_F_NESTED, &inner.0)
    }
}

struct Message {
    what: &'static str,
    kind: u16,
    flags: u16,
    /// An error that is as good as success.
    tolerated: Option<Errno>,
    body: Vec<u8>,
}

/// Messages to be sent together.
#[derive(Default)]
pub(super) struct Batch {
    messages: Vec<Message>,
    /// The kernel takes it as one transaction: never split it.
    whole: bool,
    /// An error that is as good as success for any of the messages.
    tolerated: Option<Errno>,
}

impl Batch {
    pub fn transaction() -> Self {
        Self { whole: true, ..Self::default() }
    }

    /// With an error that means, for every message that is added from now on, that nothing was left to do.
    pub fn tolerating(self, tolerated: Errno) -> Self {
        Self { tolerated: Some(tolerated), ..self }
    }

    /// Adds a message. `what` is said when the kernel refuses it.
    pub fn add(&mut self, what: &'static str, kind: u16, flags: u16, body: Body) {
        self.messages.push(Message { what, kind, flags: flags | NLM_F_REQUEST, tolerated: self.tolerated, body: body.0 });
    }

    /// Like [`Self::add`], where one error means that nothing was left to do.
    pub fn add_tolerant(&mut self, what: &'static str, kind: u16, flags: u16, tolerated: Errno, body: Body) {
        self.add(what, kind, flags, body);
        if let Some(last) = self.messages.last_mut() {
            last.tolerated = Some(tolerated);
        }
    }
}

pub(super) struct Socket {
    fd: OwnedFd,
    next_seq: u32,
}

impl Socket {
    pub fn route() -> Result<Self, NetError> {
        Self::open(None)
    }

    pub fn netfilter() -> Result<Self, NetError> {
        Self::open(Some(rustix::net::netlink::NETFILTER))
    }

    /// That is told of changes, by groups of them (rtnetlink(7)).
    pub fn route_changes(groups: u32) -> Result<Self, NetError> {
        let socket = Self::route()?;
        rustix::net::bind(&socket.fd, &SocketAddrNetlink::new(0, groups)).map_err(|errno| NetError::Netlink(errno.into()))?;
        Ok(socket)
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Forgets what has come; true when something had.
    pub fn drain(&self) -> bool {
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        let mut any = false;
        loop {
            match self.receive(&mut buffer) {
                // Too much for the kernel, or for us, is something too.
                Ok(_) | Err(Errno::NOBUFS | Errno::MSGSIZE) => any = true,
                Err(_) => return any,
            }
        }
    }

    /// `None` is NETLINK_ROUTE, protocol 0.
    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Self, NetError> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(|errno| NetError::Netlink(errno.into()))?;
        Ok(Self { fd, next_seq: 1 })
    }

    /// Sends the batch and returns the first error that the kernel had with any of it.
    pub fn run(&mut self, batch: &Batch) -> Result<(), NetError> {
        if batch.whole {
            // The last one only ends the transaction, and is never answered.
            return self.send(&batch.messages, batch.messages.len().saturating_sub(2));
        }
        batch.messages.chunks(MESSAGES_PER_SEND_MAX).try_for_each(|chunk| self.send(chunk, chunk.len() - 1))
    }

    /// `acknowledged` is the index of the message that has to be answered.
    fn send(&mut self, messages: &[Message], acknowledged: usize) -> Result<(), NetError> {
        let first = self.next_seq;
        let mut bytes = Vec::with_capacity(messages.iter().map(|m| HEADER_BYTES + m.body.len()).sum());
        for (at, message) in messages.iter().enumerate() {
            let ack = if at == acknowledged { NLM_F_ACK } else { 0 };
            write_message(&mut bytes, message.kind, message.flags | ack, self.next_seq, &message.body);
            self.next_seq += 1;
        }
        self.send_bytes(&bytes)?;

        let mut complete = false;
        let mut refused = None;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        loop {
            let len = match self.receive(&mut buffer) {
                Ok(len) => len,
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(NetError::Netlink(errno.into())),
            };
            for (kind, seq, body) in MessageIter(&buffer[..len]) {
                if kind != NLMSG_ERROR || body.len() < 4 {
                    continue;
                }
                let at = seq.checked_sub(first).map(|at| at as usize);
                complete |= at == Some(acknowledged);
                let message = at.and_then(|at| messages.get(at));
                let Some(errno) = failure(body) else { continue };
                if message.and_then(|m| m.tolerated) != Some(errno) && refused.is_none() {
                    refused = Some(NetError::Refused { what: message.map_or("netlink batch", |m| m.what), errno });
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None if complete => Ok(()),
            None => Err(NetError::NoAnswer),
        }
    }

    /// Asks for a list and gives each message's type and body to `each`.
    pub fn dump(&mut self, kind: u16, body: &[u8], mut each: impl FnMut(u16, &[u8])) -> Result<(), NetError> {
        let mut bytes = Vec::new();
        write_message(&mut bytes, kind, NLM_F_REQUEST | NLM_F_DUMP, self.next_seq, body);
        self.next_seq += 1;
        self.send_bytes(&bytes)?;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        loop {
            let len = self.receive(&mut buffer).map_err(|errno| match errno {
                Errno::AGAIN => NetError::NoAnswer,
                other => NetError::Netlink(other.into()),
            })?;
            for (kind, _, body) in MessageIter(&buffer[..len]) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR if body.len() >= 4 => {
                        let errno = failure(body).unwrap_or(Errno::PROTO);
                        return Err(NetError::Refused { what: "netlink dump", errno });
                    }
                    _ => each(kind, body),
                }
            }
        }
    }

    fn send_bytes(&self, bytes: &[u8]) -> Result<(), NetError> {
        let sent = rustix::net::send(&self.fd, bytes, SendFlags::empty()).map_err(|e| NetError::Netlink(e.into()))?;
        if sent != bytes.len() {
            return Err(NetError::Netlink(io::Error::from(io::ErrorKind::WriteZero)));
        }
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let (_, len) = rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC)?;
        // With MSG_TRUNC the length is that of the datagram, also when it did not fit.
        if len > buffer.len() { Err(Errno::MSGSIZE) } else { Ok(len) }
    }
}

/// What an NLMSG_ERROR of at least four bytes says; zero is success.
fn failure(body: &[u8]) -> Option<Errno> {
    let code = i32::from_ne_bytes([body[0], body[1], body[2], body[3]]);
    // rustix's Errno holds 1..4095 only.
    (-4095..0).contains(&code).then(|| Errno::from_raw_os_error(-code))
}

fn write_message(into: &mut Vec<u8>, kind: u16, flags: u16, seq: u32, body: &[u8]) {
    into.extend_from_slice(&((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    into.extend_from_slice(&kind.to_ne_bytes());
    into.extend_from_slice(&flags.to_ne_bytes());
    into.extend_from_slice(&seq.to_ne_bytes());
    into.extend_from_slice(&0u32.to_ne_bytes());
    into.extend_from_slice(body);
    into.resize(into.len().next_multiple_of(4), 0);
}

/// (type, sequence number, body) of each message of a datagram.
struct MessageIter<'a>(&'a [u8]);

impl<'a> Iterator for MessageIter<'a> {
    type Item = (u16, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..HEADER_BYTES)?;
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let seq = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let body = self.0.get(HEADER_BYTES..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, seq, body))
    }
}

/// (type, value) of each attribute.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// An address in an attribute, by its length.
pub(super) fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

/// An address as an attribute's value.
pub(super) fn address_bytes(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
