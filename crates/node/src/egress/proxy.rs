//! Connections out of a sandbox: judged, dialled from the host, carried.
//!
//! The kernel has already accepted the connection when it arrives here, so a refusal and a failed dial both look like
//! a reset to the program, unless it speaks a protocol in which it can be told more.
//!
//! ```text
//! admit --refused--> reset
//!   |----carried--> dial --> bytes as they are              address and port decide: nobody waits
//!   '--listening--> dial and let the server speak, if silence is allowed
//!                     '--> the client's first bytes --> judged again --refused--> told so in its own protocol
//!                            '--> bytes as they are | requests one by one | TLS made anew | a login
//! ```
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use sandbar_core::egress::sniff::Named;
use sandbar_core::egress::{App, Handling, Verdict};
use sandbar_linux::net;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::dial::{DialError, dial};
use super::flow::{Admitted, Evidence, Name, OpenFlow};
use super::listen::{Ears, Heard, SILENT_FOR};
use super::log::Entry;
use super::socket::{Meter, Pump, prepare, reset};
use super::{Attached, Inner, http, login, refuse, ssh_proxy, tcp_flow, terminate};

/// Connections that one sandbox may have open at once.
pub(super) const FLOWS_MAX: usize = 1024;
/// How long a server that speaks first waits for its client where a look may be needed. Servers of HTTP/2 greet whoever connects, and
/// what a client has read cannot be taken back when its own first bytes, a moment later, say that there is something to look into.
const HEAD_START: Duration = Duration::from_millis(100);
/// After an accept that failed for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Of all places, one sandbox has one in so many at most, and so a handful of them does not close everybody's way out.
const SHARES: usize = 16;
/// UDP flows of all sandboxes together take one in so many of the ports that this machine speaks from.
const UDP_PORTS: usize = 4;
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The kernel's default.
const PORTS: usize = 28_232;

/// Places for connections, UDP flows and questions, bounded so that sandboxes leave the server file descriptors and ports to serve with.
pub(super) struct Places {
    all: Arc<Semaphore>,
    udp: Arc<Semaphore>,
    of_one: usize,
    udp_of_one: usize,
}

/// The places of one sandbox, for IPv4 and IPv6 together. UDP takes half of them at most.
#[derive(Clone)]
pub(super) struct Share {
    all: Arc<Semaphore>,
    udp: Arc<Semaphore>,
}

impl Places {
    /// A connection takes two file descriptors; half of what this process may open is for them.
    pub fn of_machine() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let files = files.current.and_then(|n| usize::try_from(n).ok()).unwrap_or(Semaphore::MAX_PERMITS);
        let ports = std::fs::read_to_string(PORT_RANGE).ok().and_then(|range| ports(&range)).unwrap_or(PORTS);
        Self::new(files, ports)
    }

    fn new(files: usize, ports: usize) -> Self {
        let all = (files / 4).clamp(1, Semaphore::MAX_PERMITS);
        let udp = (ports / UDP_PORTS).clamp(1, all);
        let of_one = (all / SHARES).clamp(1, FLOWS_MAX);
        let udp_of_one = (of_one / 2).min(udp / SHARES).clamp(1, super::udp::FLOWS_MAX);
        Self { all: Arc::new(Semaphore::new(all)), udp: Arc::new(Semaphore::new(udp)), of_one, udp_of_one }
    }

    pub fn of_sandbox(&self) -> Share {
        Share { all: Arc::new(Semaphore::new(self.of_one)), udp: Arc::new(Semaphore::new(self.udp_of_one)) }
    }

    pub fn take(&self, of_sandbox: &Share) -> Option<Place> {
        take([&of_sandbox.all, &self.all])
    }

    pub fn take_for_udp(&self, of_sandbox: &Share) -> Option<Place> {
        take([&of_sandbox.udp, &of_sandbox.all, &self.udp, &self.all])
    }

    /// For a question to a name server, whose number is bounded for each sandbox where they are asked.
    pub fn take_for_question(&self) -> Option<Place> {
        take([&self.all])
    }
}

/// How many ports a range has, such as `32768 60999`.
fn ports(range: &str) -> Option<usize> {
    let mut ends = range.split_ascii_whitespace().map(str::parse::<usize>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    (last + 1).checked_sub(first)
}

fn take<const N: usize>(from: [&Arc<Semaphore>; N]) -> Option<Place> {
    let permits: Option<Vec<_>> = from.into_iter().map(|permits| Arc::clone(permits).try_acquire_owned().ok()).collect();
    Some(Place { _permits: permits? })
}

/// Given back when it is dropped.
pub(super) struct Place {
    _permits: Vec<OwnedSemaphorePermit>,
}

/// Accepts until the runtime is detached.
pub(super) async fn listen(attached: Arc<Attached>, inner: Arc<Inner>, listener: TcpListener, share: Share) {
    loop {
        let accepted = tokio::select! {
            () = attached.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((inside, _)) => {
                let place = inner.places.take(&share);
                let (shared, inner) = (Arc::clone(&attached), Arc::clone(&inner));
                attached.tasks.spawn(async move { serve(shared, inner, inside, place).await });
            }
            Err(error) => {
                tracing::debug!(%error, "accept in a sandbox");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn serve(attached: Arc<Attached>, inner: Arc<Inner>, inside: TcpStream, place: Option<Place>) {
    let to = net::original_dst(&inside).filter(|to| !net::is_own_loopback(to.ip()));
    let Some(to) = to else {
        // A program that called the proxy by its own address.
        return reset(&inside);
    };
    let mut evidence = Evidence { flow: tcp_flow(to), names: attached.names.of(to.ip(), Instant::now()), said: None };
    let Some(_place) = place else {
        attached.record_flow(&evidence, Verdict::deny("too many connections at once"));
        return reset(&inside);
    };
    if evidence.names.is_empty() && attached.listens(&inner, &evidence) {
        attached.renew(&inner, to.ip()).await;
        evidence.names = attached.names.of(to.ip(), Instant::now());
    }
    let (silent, verdict, open) = match attached.admit(&inner, evidence.clone()) {
        Admitted::Refused(verdict) => {
            attached.record_flow(&evidence, verdict);
            return reset(&inside);
        }
        Admitted::Carried(verdict, open) => (false, verdict, open),
        Admitted::Listening(verdict, open) => (true, verdict, open),
    };
    let ends = Ends { inside: Arc::new(inside), outside: Arc::default() };
    let cut = open.cut.clone();
    let entry = Arc::new(OnceLock::new());
    let carrier = Carrier { attached: Arc::clone(&attached), inner, ends: ends.clone(), open: Arc::new(open), evidence, entry: Arc::clone(&entry) };
    let work = async {
        match silent {
            true => carrier.listen(verdict).await,
            false => carrier.pass(verdict).await,
        }
    };
    let ended = tokio::select! {
        () = cut.cancelled() => Err(io::Error::other(attached.cut_reason())),
        ended = work => ended,
    };
    let entry = entry.get();
    // Many a server ends its TLS without a word when all is said.
    let is_over = |error: &io::Error| ends_early(error) && entry.is_some_and(|entry| entry.has_received());
    let broken = ended.err().filter(|error| !is_over(error));
    if let (Some(error), Some(entry)) = (&broken, entry) {
        entry.broke(reason(error));
    }
    // What still runs for it has nobody left to run for.
    cut.cancel();
    if broken.is_some() {
        ends.reset();
    }
}

/// Whether a connection ended where its protocol had more to say.
fn ends_early(error: &(dyn Error + 'static)) -> bool {
    let is_end = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof || error.get_ref().is_some_and(|inner| ends_early(inner));
    error.downcast_ref().is_some_and(is_end) || error.source().is_some_and(ends_early)
}

/// Why a flow broke, for users. Libraries tell their own users more.
fn reason(error: &io::Error) -> String {
    if ends_early(error) {
        return "the connection ended early".to_owned();
    }
    let text = error.to_string();
    text.split(": https://").next().unwrap_or_default().to_owned()
}

/// The sockets of a flow, for who ends it.
#[derive(Clone)]
struct Ends {
    inside: Arc<TcpStream>,
    /// The latest to the server.
    outside: Arc<Mutex<Option<Arc<TcpStream>>>>,
}

impl Ends {
    fn reset(&self) {
        reset(&self.inside);
        if let Some(outside) = super::lock(&self.outside).as_deref() {
            reset(outside);
        }
    }
}

/// An admitted flow on its way.
pub(super) struct Carrier {
    pub attached: Arc<Attached>,
    pub inner: Arc<Inner>,
    pub open: Arc<OpenFlow>,
    pub evidence: Evidence,
    ends: Ends,
    /// Made when it is decided about, or when the server speaks first.
    entry: Arc<OnceLock<Arc<Entry>>>,
}

impl Carrier {
    pub fn inside(&self) -> &Arc<TcpStream> {
        &self.ends.inside
    }

    /// Counts what goes to and comes from the server.
    pub fn meter(&self, verdict: &Verdict) -> Meter {
        let entry = self.entry.get_or_init(|| self.attached.record_flow(&self.evidence, verdict.clone()));
        Meter { attached: Arc::clone(&self.attached), entry: Arc::clone(entry) }
    }

    /// A connection to the server, by way of the policy's proxy if it has one.
    pub async fn dial(&self) -> Result<Arc<TcpStream>, DialError> {
        let dialled = dial(&self.attached, &self.inner, &self.evidence).await;
        let outside = Arc::new(dialled.inspect_err(|error| {
            tracing::debug!(runtime = self.attached.runtime_id, flow = ?self.evidence.flow, %error, "dial for a sandbox");
            if let Some(entry) = self.entry.get() {
                entry.failed(error.to_string());
            }
        })?);
        *super::lock(&self.ends.outside) = Some(Arc::clone(&outside));
        Ok(outside)
    }

    /// Bytes go through as they are.
    async fn pass(self, verdict: Verdict) -> io::Result<()> {
        let meter = self.meter(&verdict);
        let outside = self.dial().await.map_err(io::Error::other)?;
        self.copy(&meter, Pump::new(outside, Arc::clone(self.inside())), BytesMut::new()).await
    }

    /// Both ways until both sides have said that they are done. `said` was read from the client already.
    pub async fn copy(&self, meter: &Meter, mut back: Pump, said: BytesMut) -> io::Result<()> {
        prepare(self.inside());
        let mut out = Pump::with(Arc::clone(self.inside()), Arc::clone(back.from()), said);
        tokio::try_join!(out.run(|bytes| meter.sent(bytes)), back.run(|bytes| meter.received(bytes))).map(|_| ())
    }

    /// Waits for the client's first bytes, which decide. Where silence is allowed, its server is connected to at once
    /// and may speak first.
    async fn listen(mut self, silent: Verdict) -> io::Result<()> {
        let inside = Arc::clone(self.inside());
        let mut ears = Ears::new((!silent.allow).then_some(SILENT_FOR));
        let mut early = None;
        let heard = if silent.allow {
            let outside = self.dial().await.inspect_err(|error| self.meter(&silent).entry.failed(error.to_string())).map_err(io::Error::other)?;
            let mut back = Pump::new(outside, Arc::clone(&inside));
            let head_start = ssh_proxy::head_start(&self).max(HEAD_START);
            let server = async {
                tokio::time::sleep(head_start).await;
                back.run(|bytes| self.meter(&silent).received(bytes)).await
            };
            let heard = tokio::select! {
                // What both have said by now begins with the client.
                biased;
                heard = ears.listen(&inside, |apps| self.is_settled(apps)) => heard?,
                ended = server => {
                    ended?;
                    ears.listen(&inside, |apps| self.is_settled(apps)).await?
                }
            };
            early = Some(back);
            heard
        } else {
            ears.listen(&inside, |apps| self.is_settled(apps)).await?
        };
        let heard = match (heard, &mut early) {
            (Heard::Late, Some(back)) if back.has_begun() => self.listen_on(&mut ears, back, &silent).await?,
            (heard, _) => heard,
        };
        let (app, name) = match (heard, early) {
            (Heard::Said { app, name }, back) => {
                early = back;
                (app, name)
            }
            (Heard::Nothing, Some(back)) => {
                let meter = self.meter(&silent);
                return self.copy(&meter, back, BytesMut::new()).await;
            }
            (Heard::Nothing, None) => return self.refuse(silent),
            (Heard::Late, _) if ears.bytes.is_empty() => return self.refuse(silent),
            (Heard::Late, _) => return self.refuse(Verdict::deny("its first bytes did not come in time")),
        };
        self.evidence = self.hear(app, name).await;
        let (verdict, handling) = self.open.learn(&self.inner, self.evidence.clone());
        if !verdict.allow {
            self.attached.record_flow(&self.evidence, verdict.clone());
            refuse::refuse(&inside, &self.evidence, &ears.bytes, &verdict).await;
            return Ok(());
        }
        if handling != Handling::Pass && early.as_ref().is_some_and(Pump::has_begun) {
            return self.refuse(Verdict::deny("the server spoke before its client, so it cannot be looked into"));
        }
        prepare(&inside);
        let meter = self.meter(&verdict);
        let early_socket = early.as_ref().map(|back| Arc::clone(back.from()));
        match handling {
            Handling::Pass => {
                let back = match early {
                    Some(back) => back,
                    None => Pump::new(self.dial().await.map_err(io::Error::other)?, Arc::clone(&inside)),
                };
                self.copy(&meter, back, ears.bytes).await
            }
            Handling::Http => http::serve_plain(Arc::new(self), meter, ears.bytes.freeze(), early_socket).await,
            Handling::Terminate { http } => terminate::serve(Arc::new(self), meter, ears.bytes.freeze(), early_socket, http).await,
            Handling::Login(App::Ssh) => ssh_proxy::serve(&self, meter, ears.bytes.freeze(), early_socket).await,
            Handling::Login(app) => login::serve(&self, meter, app, ears.bytes.freeze(), early_socket).await,
        }
    }

    /// Where the server spoke first, its client may take its time: nothing of what it said goes on before it is known.
    async fn listen_on(&self, ears: &mut Ears, back: &mut Pump, silent: &Verdict) -> io::Result<Heard> {
        ears.take_time();
        tokio::select! {
            heard = ears.listen(self.inside(), |apps| self.is_settled(apps)) => heard,
            ended = back.run(|bytes| self.meter(silent).received(bytes)) => {
                ended?;
                ears.listen(self.inside(), |apps| self.is_settled(apps)).await
            }
        }
    }

    /// Whether it makes no difference any more which of these the client speaks, or something unknown. Who can still say a
    /// name has to be waited for, however long it is quiet: it may be one that changes everything.
    fn is_settled(&self, apps: &[App]) -> bool {
        let speaking = |app| Evidence { flow: self.evidence.flow, names: self.names(), said: Some((app, Name::Absent)) };
        let unknown = speaking(None);
        apps.iter().all(|app| !app.has_names() && !self.attached.is_judged_differently(&self.inner, &unknown, &speaking(Some(*app))))
    }

    /// Notes a refusal that its client cannot be told in words.
    fn refuse(&self, verdict: Verdict) -> io::Result<()> {
        self.attached.record_flow(&self.evidence, verdict);
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    /// The evidence with what the client said.
    async fn hear(&self, app: Option<App>, name: Named) -> Evidence {
        let flow = self.evidence.flow;
        let with = |name| Evidence { flow, names: self.names(), said: Some((app, name)) };
        let name = match name {
            Named::Absent => return with(Name::Absent),
            Named::Hidden => return with(Name::Hidden),
            Named::Later => return with(Name::Later),
            Named::Name(name) => name,
        };
        let [with_it, without] = [true, false].map(|belongs| with(Name::Said { name: name.clone(), belongs }));
        let matters = || self.attached.is_judged_differently(&self.inner, &with_it, &without);
        let belongs = self.attached.claims(&self.inner, &name, flow.addr, matters).await;
        if belongs { with(Name::Said { name, belongs }) } else { without }
    }

    /// The names that the sandbox was told the address for: by now, or when it connected.
    pub fn names(&self) -> Vec<Arc<str>> {
        let names = self.attached.names.of(self.evidence.flow.addr, Instant::now());
        if names.is_empty() { self.evidence.names.clone() } else { names }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_handful_of_sandboxes_leaves_places_to_others() {
        assert_eq!(ports("32768\t60999\n"), Some(PORTS));
        for files in [256, 1024, 4096, 1 << 20] {
            let places = Places::new(files, PORTS);
            let mut held = Vec::new();
            for _ in 0..8 {
                let share = places.of_sandbox();
                held.extend(std::iter::from_fn(|| places.take_for_udp(&share)));
                held.extend(std::iter::from_fn(|| places.take(&share)));
            }
            let other = places.of_sandbox();
            assert!(places.take(&other).is_some() && places.take_for_udp(&other).is_some() && places.take_for_question().is_some(), "{files}");
            drop(held);
            let shares: Vec<_> = (0..100).map(|_| places.of_sandbox()).collect();
            let flows: Vec<_> = shares.iter().flat_map(|share| std::iter::from_fn(|| places.take_for_udp(share))).collect();
            assert!(flows.len() <= PORTS / UDP_PORTS, "{files}");
        }
    }

    #[test]
    fn an_early_end_is_seen_through_whoever_tells_of_it() {
        let url = || io::Error::new(io::ErrorKind::UnexpectedEof, "no close_notify: https://docs.example/rustls");
        for error in [url(), io::Error::other(url()), io::Error::other(io::Error::other(url()))] {
            assert!(ends_early(&error));
            assert_eq!(reason(&error), "the connection ended early");
        }
        let other = io::Error::other("it broke: https://docs.example");
        assert!(!ends_early(&other));
        assert_eq!(reason(&other), "it broke");
    }
}
