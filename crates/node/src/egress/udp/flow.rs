//! The task of one flow.
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::BytesMut;
use rustix::io::Errno;
use rustix::net::SendFlags;
use sandbar_core::egress::sniff::{self, Named};
use sandbar_core::egress::{App, Verdict};
use sandbar_linux::net::{DATAGRAM_BYTES_MAX, Replies, Unreachable};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::known::{Judged, Known, Stage};
use super::{BURST, Listed, Queued};
use crate::egress::flow::{Evidence, Name};
use crate::egress::log::Entry;
use crate::egress::quic::{self, Step};
use crate::egress::{Inner, lock};

/// A flow ends when nothing was sent or answered for so long: with answers, without, and when it is a question to a
/// name server.
const IDLE: Duration = Duration::from_secs(180);
const IDLE_UNANSWERED: Duration = Duration::from_secs(60);
const IDLE_DNS: Duration = Duration::from_secs(10);
const PORT_DNS: u16 = 53;
/// How long a refusal is remembered; what is sent after that is judged and recorded again.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// How long the begin of a QUIC connection may take to say whom it is for, and how many datagrams are held until then.
const HELD_FOR: Duration = Duration::from_secs(3);
const HELD_DATAGRAMS_MAX: usize = 16;

/// Carries the datagrams of a flow both ways until it idles, fails or is cut.
pub(super) struct Carrier {
    listed: Listed,
    inner: Arc<Inner>,
    replies: Arc<Replies>,
    known: Known,
    queue: mpsc::Receiver<Queued>,
    last_used_ms: Arc<AtomicU64>,
    outside: Option<UdpSocket>,
    entry: Option<Arc<Entry>>,
    quic: quic::Reader,
    /// The policy asks for what datagrams say.
    listens: bool,
    /// Datagrams that wait until it is known whom a connection is for, and since when.
    held: Vec<Queued>,
    held_since: Instant,
    answered: bool,
    last_used: Instant,
}

/// Why a flow ends before it idles.
enum End {
    Cut,
    Failed(io::Error),
}

/// What there is to do.
enum Event {
    Sent(Queued),
    Answered,
    Due,
}

impl Carrier {
    pub fn new(listed: Listed, inner: Arc<Inner>, replies: Arc<Replies>, known: Known, queue: mpsc::Receiver<Queued>, last_used_ms: Arc<AtomicU64>) -> Self {
        let now = Instant::now();
        Self {
            listed,
            inner,
            replies,
            known,
            queue,
            last_used_ms,
            outside: None,
            entry: None,
            quic: quic::Reader::default(),
            listens: false,
            held: Vec::new(),
            held_since: now,
            answered: false,
            last_used: now,
        }
    }

    pub async fn run(mut self) {
        let (cut, make_room) = (self.listed.cut.clone(), self.listed.make_room.clone());
        let ended = tokio::select! {
            () = cut.cancelled() => Err(End::Cut),
            () = make_room.cancelled() => Ok(()),
            ended = self.carry() => ended,
        };
        match ended {
            Ok(()) => {}
            Err(End::Cut) => {
                if let Some(entry) = self.entry.as_ref().filter(|_| self.known.stage == Stage::Carried) {
                    entry.broke(self.listed.attached.cut_reason());
                }
                self.tell(Unreachable::Prohibited);
            }
            Err(End::Failed(error)) => {
                tracing::debug!(runtime = self.listed.attached.runtime_id, flow = ?self.known.silent.flow, %error, "a UDP flow failed");
                self.fail(error.to_string());
                self.tell(Unreachable::Port);
            }
        }
    }

    /// Of a flow that was allowed.
    fn fail(&self, reason: String) {
        if let Some(entry) = self.entry.as_ref().filter(|_| self.known.stage == Stage::Carried) {
            entry.failed(reason);
        }
    }

    async fn carry(&mut self) -> Result<(), End> {
        self.begin().await?;
        loop {
            let due = self.due();
            let event = tokio::select! {
                queued = self.queue.recv() => queued.map_or(Event::Due, Event::Sent),
                readable = readable(self.outside.as_ref()) => {
                    readable.map_err(End::Failed)?;
                    Event::Answered
                }
                () = tokio::time::sleep_until(due) => Event::Due,
            };
            match event {
                Event::Sent(queued) => self.take(queued).await?,
                Event::Answered => self.pass_back()?,
                Event::Due if Instant::now() < self.due() => {}
                // Servers would wait on, but not for us to learn whom it is for.
                Event::Due if !self.held.is_empty() => self.learn(self.known.with(Some(App::Tls), Name::Hidden)).await?,
                Event::Due => return Ok(()),
            }
        }
    }

    fn due(&self) -> Instant {
        if !self.held.is_empty() {
            return self.held_since + HELD_FOR;
        }
        self.last_used
            + match self.known.stage {
                Stage::Refused => REFUSED_FOR,
                _ if self.listed.ends.destination.port() == PORT_DNS => IDLE_DNS,
                _ if self.answered => IDLE,
                _ => IDLE_UNANSWERED,
            }
    }

    /// Judges by addresses and ports.
    async fn begin(&mut self) -> Result<(), End> {
        if self.known.silent.names.is_empty() && self.judge() == Judged::Listen {
            let attached = &self.listed.attached;
            attached.renew(&self.inner, self.known.silent.flow.addr).await;
            self.known.silent.names = attached.names.of(self.known.silent.flow.addr, std::time::Instant::now());
        }
        self.decide().await
    }

    /// Judges by all that is known, and puts the decision into the table in the same moment: a policy that changes just
    /// now either judges it first or finds it there.
    fn judge(&mut self) -> Judged {
        let attached = &self.listed.attached;
        let state = attached.state();
        let judged = match &state.suspended {
            Some(rule) => Judged::Refused(Verdict::deny(Arc::clone(rule))),
            None => self.known.judge(&state.policy, &self.inner.protected()),
        };
        self.known.stage = match judged {
            Judged::Allowed(_) => Stage::Carried,
            Judged::Refused(_) => Stage::Refused,
            Judged::Listen => Stage::Undecided,
        };
        if let Some(open) = lock(&attached.udp.table).open.get_mut(&self.listed.ends) {
            open.known = self.known.clone();
        }
        judged
    }

    async fn decide(&mut self) -> Result<(), End> {
        match self.judge() {
            Judged::Listen => self.listens = true,
            Judged::Refused(verdict) => self.refuse(verdict),
            Judged::Allowed(verdict) => {
                if self.outside.is_none() {
                    self.record(verdict);
                    self.outside = Some(connect(self.listed.ends.destination).await.map_err(End::Failed)?);
                }
                if !self.quic.is_waiting() {
                    for queued in std::mem::take(&mut self.held) {
                        self.pass(&queued.bytes)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, verdict: Verdict) {
        self.entry = Some(self.listed.attached.record_flow(self.known.evidence(), verdict));
    }

    fn refuse(&mut self, verdict: Verdict) {
        self.record(verdict);
        self.last_used = Instant::now();
        self.outside = None;
        self.held.clear();
        self.tell(Unreachable::Prohibited);
    }

    /// Best effort: the program learns it by waiting otherwise.
    fn tell(&self, why: Unreachable) {
        self.replies.refuse(self.listed.ends.destination, self.listed.ends.program, why).ok();
    }

    async fn take(&mut self, queued: Queued) -> Result<(), End> {
        match self.known.stage {
            Stage::Refused => self.tell(Unreachable::Prohibited),
            Stage::Carried if !self.listens => self.pass(&queued.bytes)?,
            Stage::Carried | Stage::Undecided => self.look(queued).await?,
        }
        Ok(())
    }

    /// Reads whom a datagram is for. Also later ones: each may begin a connection to somebody else.
    async fn look(&mut self, queued: Queued) -> Result<(), End> {
        let said = match self.quic.read(&queued.bytes) {
            Step::Drop => return Ok(()),
            Step::More => None,
            // In the order in which they came.
            Step::Pass if !self.held.is_empty() => None,
            Step::Pass => {
                let app = sniff::is_dns_question(&queued.bytes).then_some(App::Dns);
                // Each may be something else than those before.
                if self.known.stage == Stage::Carried && self.known.includes(app) {
                    return self.pass(&queued.bytes);
                }
                Some(self.known.with(app, Name::Absent))
            }
            Step::Hidden => Some(self.known.with(Some(App::Tls), Name::Hidden)),
            Step::Hello(hello) => Some(self.greeted(&hello).await),
        };
        if self.held.is_empty() {
            self.held_since = Instant::now();
        }
        if self.held.len() < HELD_DATAGRAMS_MAX {
            self.held.push(queued);
        }
        match said {
            Some(evidence) => self.learn(evidence).await,
            None => Ok(()),
        }
    }

    /// What a ClientHello says, and whether that is the address of it.
    async fn greeted(&self, hello: &[u8]) -> Evidence {
        let name = match sniff::client_hello(hello) {
            Named::Absent => return self.known.with(Some(App::Tls), Name::Absent),
            Named::Hidden | Named::Later => return self.known.with(Some(App::Tls), Name::Hidden),
            Named::Name(name) => name,
        };
        let attached = &self.listed.attached;
        let [with_it, without] = [true, false].map(|belongs| self.known.with(Some(App::Tls), Name::Said { name: name.clone(), belongs }));
        let matters = || attached.is_judged_differently(&self.inner, &with_it, &without);
        if attached.claims(&self.inner, &name, self.known.silent.flow.addr, matters).await { with_it } else { without }
    }

    async fn learn(&mut self, evidence: Evidence) -> Result<(), End> {
        if !self.known.learn(evidence) {
            self.known.stage = Stage::Refused;
            self.refuse(Verdict::deny("too many names over one UDP flow"));
            return Ok(());
        }
        self.decide().await
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), End> {
        let Some(outside) = &self.outside else { return Ok(()) };
        self.last_used = Instant::now();
        // Not by the runtime, which learns only later that a fresh socket is writable.
        match rustix::net::send(outside, bytes, SendFlags::DONTWAIT) {
            Ok(len) => {
                if let Some(entry) = &self.entry {
                    self.listed.attached.log.sent(entry, len as u64);
                }
                Ok(())
            }
            // The network could not take this one; the next may pass.
            Err(Errno::AGAIN | Errno::MSGSIZE | Errno::NOBUFS) => Ok(()),
            Err(errno) => Err(End::Failed(errno.into())),
        }
    }

    fn pass_back(&mut self) -> Result<(), End> {
        let Some(outside) = &self.outside else { return Ok(()) };
        // Only now: most flows idle.
        let mut buffer = BytesMut::with_capacity(DATAGRAM_BYTES_MAX);
        for _ in 0..BURST {
            buffer.clear();
            match outside.try_recv_buf(&mut buffer) {
                Ok(len) => {
                    self.answered = true;
                    let sent = self.replies.reply(self.listed.ends.destination, self.listed.ends.program, &buffer[..len]);
                    if let (Ok(()), Some(entry)) = (sent, &self.entry) {
                        self.listed.attached.log.received(entry, len as u64);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(End::Failed(error)),
            }
        }
        self.last_used = Instant::now();
        self.last_used_ms.store(self.listed.attached.udp.now_ms(), Relaxed);
        Ok(())
    }
}

async fn readable(outside: Option<&UdpSocket>) -> io::Result<()> {
    match outside {
        Some(outside) => {
            if outside.ready(Interest::READABLE | Interest::ERROR).await?.is_error() {
                // Nobody listens there, for example. Whoever sent first has taken it already.
                outside.take_error()?.map_or(Ok(()), Err)?;
                outside.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into())).ok();
            }
            Ok(())
        }
        None => std::future::pending().await,
    }
}

async fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let outside = UdpSocket::bind(any).await?;
    outside.connect(to).await?;
    Ok(outside)
}
