//! The way out of a sandbox: a proxy and a resolver per runtime, which listen in its network namespace and speak from
//! the host.
//!
//! Nothing leaves a namespace by itself (see `sandbar_linux::net`). A connection arrives here with the address it was
//! meant for, is judged, dialled from the host and copied. What an address alone decides is refused by routes in the
//! namespace already; the judge decides again, so routes that lag behind a change open nothing.
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use sandbar_core::credential::Materials;
use sandbar_core::egress::{self as rules, App, Flow, Policy, Prefix, Protected, Protocol, Verdict};
use sandbar_linux::net::{self, HostSockets, NetError, Plan};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod authority;
mod credentials;
mod dial;
mod dns;
mod flow;
mod http;
mod listen;
mod log;
mod login;
mod names;
mod netns;
mod proxy;
mod quic;
mod refuse;
mod socket;
mod sources;
mod ssh_proxy;
mod terminate;
mod tls;
mod udp;

pub use authority::{Authority, AuthorityError, LeafError};
pub use log::{Counters, Decision, FlowLog, FlowState, Happened, Position};
pub use sources::{Source, Sources, Terms, Version};

use flow::{Evidence, Flows};
use log::{Entry, Log, Sums};
use names::Names;
use netns::Netns;
use tls::{ClientCertificates, Tls};

/// How often the machine's own addresses are looked at again when the kernel says nothing of a change.
const HOST_ADDRESSES_EVERY: Duration = Duration::from_secs(30);
/// How soon and how often a port is tried again that is taken. A program of the sandbox may have taken it while no server ran; but
/// also a process that this one is just starting holds for a moment what was closed here.
const TAKEN_PORT_AGAIN: Duration = Duration::from_millis(50);
const TAKEN_PORT_AGAIN_MAX: Duration = Duration::from_secs(5);

/// Why a sandbox's network could not be attached or changed.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    #[error("start the network thread")]
    Thread(#[source] io::Error),
    #[error("the network thread has ended")]
    Stopped,
    #[error("use the sandbox's sockets")]
    Sockets(#[source] io::Error),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("read the certificates of {}", path.display())]
    Roots {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the authority of the egress")]
    Authority(#[from] AuthorityError),
}

/// The egress of this machine. Clones are the same.
#[derive(Clone)]
pub struct Egress {
    inner: Arc<Inner>,
}

struct Inner {
    allow: Vec<Prefix>,
    protected: RwLock<Arc<Protected>>,
    netns: Netns,
    nameservers: dns::Nameservers,
    /// Who certifies us to the sandboxes.
    authority: Authority,
    tls: Tls,
    attached: Mutex<Vec<Weak<Attached>>>,
    /// Of connections of all sandboxes together.
    places: proxy::Places,
    totals: Arc<Sums>,
}

impl Egress {
    /// `allow` is what the operator opens of the protected addresses. Names are asked of `nameservers`, or of
    /// those of /etc/resolv.conf. Servers are believed whom the machine believes, and besides whom the certificates in `ca_file`
    /// certify. Call it within a tokio runtime.
    pub fn new(allow: Vec<Prefix>, nameservers: Option<Vec<SocketAddr>>, authority: Authority, ca_file: Option<&Path>) -> Result<Self, EgressError> {
        let nameservers = nameservers.map_or_else(dns::Nameservers::system, dns::Nameservers::fixed);
        Self::start(allow, nameservers, authority, Tls::new(ca_file)?)
    }

    /// Like [`Self::new`], with name servers of the caller's choice and an authority that nobody knows.
    pub fn with_nameservers(allow: Vec<Prefix>, nameservers: Vec<SocketAddr>) -> Result<Self, EgressError> {
        Self::start(allow, dns::Nameservers::fixed(nameservers), Authority::make()?, Tls::new(None)?)
    }

    fn start(allow: Vec<Prefix>, nameservers: dns::Nameservers, authority: Authority, tls: Tls) -> Result<Self, EgressError> {
        let inner = Arc::new(Inner {
            protected: RwLock::new(Arc::new(look_around(&allow)?)),
            allow,
            netns: Netns::start().map_err(EgressError::Thread)?,
            nameservers,
            authority,
            tls,
            attached: Mutex::default(),
            places: proxy::Places::of_machine(),
            totals: Arc::default(),
        });
        tokio::spawn(keep_host_addresses(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Who certifies us to the sandboxes.
    pub fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    /// What all sandboxes did since the server began.
    pub fn totals(&self) -> Counters {
        self.inner.totals.read()
    }

    /// The routes that a namespace has to have for this policy.
    pub fn plan(&self, policy: &Policy) -> Plan {
        plan(policy, &self.inner.protected())
    }

    /// Serves a runtime whose namespace was set up with [`Self::plan`] of this very policy. Without sockets its egress
    /// stays closed. Call it within a tokio runtime.
    pub fn attach(&self, runtime_id: &str, netns: OwnedFd, sockets: impl Into<Option<HostSockets>>, policy: Policy) -> Result<EgressHandle, EgressError> {
        let handle = self.register(runtime_id, netns, policy);
        if let Some(sockets) = sockets.into() {
            handle.attached.serve(&self.inner, sockets)?;
        }
        Ok(handle)
    }

    /// Serves a runtime of an earlier server: opens the sockets again and brings the routes up to date. When a
    /// program of the sandbox has taken a port in the meantime, the egress stays closed until the port is free.
    pub async fn adopt(&self, runtime_id: &str, netns: OwnedFd, terms: impl Into<Terms>) -> Result<EgressHandle, EgressError> {
        let terms = terms.into();
        let handle = self.register(runtime_id, netns, terms.policy.clone());
        handle.attached.state().plan = None;
        handle.set_policy(terms).await?;
        if let Err(error) = handle.attached.open_and_serve(&self.inner).await {
            let EgressError::Net(taken) = &error else {
                return Err(error);
            };
            if !taken.is_port_taken() {
                return Err(error);
            }
            tracing::warn!(runtime = runtime_id, error = %taken, "egress is closed: the sandbox holds a port of the host");
            let (attached, inner) = (Arc::downgrade(&handle.attached), Arc::downgrade(&self.inner));
            handle.attached.tasks.spawn(retry_sockets(attached, inner, handle.attached.stop.clone()));
        }
        Ok(handle)
    }

    fn register(&self, runtime_id: &str, netns: OwnedFd, policy: Policy) -> EgressHandle {
        let plan = self.plan(&policy);
        let attached = Arc::new(Attached {
            runtime_id: runtime_id.to_owned(),
            netns: Arc::new(netns),
            state: Mutex::new(State { policy: Arc::new(policy), sources: Sources::default(), plan: Some(plan), flows: Flows::default(), suspended: None }),
            log: Log::new(Arc::clone(&self.inner.totals)),
            names: Names::default(),
            certificates: ClientCertificates::default(),
            held: http::Held::default(),
            udp: udp::Flows::default(),
            questions: dns::Questions::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let mut all = lock(&self.inner.attached);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&attached));
        EgressHandle { attached, inner: Arc::clone(&self.inner) }
    }
}

impl Egress {
    /// What nobody may reach, by what is known of this machine's addresses now.
    pub(crate) fn protected(&self) -> Arc<Protected> {
        self.inner.protected()
    }
}

impl Inner {
    fn protected(&self) -> Arc<Protected> {
        Arc::clone(&self.protected.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One runtime's egress. Dropping it ends every connection.
pub struct EgressHandle {
    attached: Arc<Attached>,
    inner: Arc<Inner>,
}

impl EgressHandle {
    /// Puts a policy in force before it returns: for new connections, in the namespace's routes, and for open
    /// connections, which are reset when they are refused now.
    pub async fn set_policy(&self, terms: impl Into<Terms>) -> Result<(), EgressError> {
        if self.attached.enforce(terms.into(), &self.inner.protected()) {
            return Ok(());
        }
        self.attached.bring_routes(&self.inner).await
    }

    pub fn counters(&self) -> Counters {
        self.attached.log.counters()
    }

    /// The latest decisions, oldest first.
    pub fn decisions(&self) -> Vec<Decision> {
        self.attached.log.decisions()
    }

    /// The same for who reads along, also when the runtime has ended.
    pub fn flows(&self) -> FlowLog {
        self.attached.log.reading()
    }

    /// By [`Self::suspend`], with this for a rule.
    pub fn suspended(&self) -> Option<Arc<str>> {
        self.attached.state().suspended.clone()
    }

    /// Refuses every flow, and cuts those that are open, with this for a rule; None lets the policy decide again.
    pub fn suspend(&self, rule: Option<Arc<str>>) {
        let mut state = self.attached.state();
        state.suspended = rule;
        if state.suspended.is_some() {
            state.flows.cut();
            self.attached.udp.cut();
        } else {
            // What was refused meanwhile is not remembered.
            self.attached.udp.judge(&state.policy, &self.inner.protected());
        }
    }

    /// Connects from the host to a server inside the sandbox, such as 127.0.0.1:8000.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let netns = Arc::clone(&self.attached.netns);
        let begun = self.inner.netns.run(move || net::connect(netns.as_fd(), addr)).await;
        let stream = tokio::net::TcpStream::from_std(begun.map_err(io::Error::other)??)?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }

    /// Ends every connection and listens no more. Dropping the handle does the same.
    pub fn close(&self) {
        self.attached.stop.cancel();
        self.attached.tasks.close();
    }

    /// Returns when every task has ended after [`Self::close`].
    pub async fn closed(&self) {
        self.attached.tasks.wait().await;
    }
}

impl Drop for EgressHandle {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the tasks of a runtime share.
struct Attached {
    runtime_id: String,
    netns: Arc<OwnedFd>,
    state: Mutex<State>,
    log: Log,
    names: Names,
    certificates: ClientCertificates,
    held: http::Held,
    udp: udp::Flows,
    questions: dns::Questions,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct State {
    policy: Arc<Policy>,
    /// What the policy's bindings refer to.
    sources: Sources,
    /// The routes of the namespace, which may lag behind the policy; None when they are not known.
    plan: Option<Plan>,
    flows: Flows,
    /// Everything is refused, with this for a rule.
    suspended: Option<Arc<str>>,
}

impl Attached {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn serve(self: &Arc<Self>, inner: &Arc<Inner>, sockets: HostSockets) -> Result<(), EgressError> {
        let listener = |socket| tokio::net::TcpListener::from_std(socket).map_err(EgressError::Sockets);
        let (tcp4, dns_tcp) = (listener(sockets.tcp4)?, listener(sockets.dns_tcp)?);
        let tcp6 = sockets.tcp6.map(listener).transpose()?;
        let dns_udp: UdpSocket = sockets.dns_udp;
        let dns_udp = tokio::net::UdpSocket::from_std(dns_udp).map_err(EgressError::Sockets)?;
        let share = inner.places.of_sandbox();
        for socket in std::iter::once(tcp4).chain(tcp6) {
            let (attached, inner) = (Arc::clone(self), Arc::clone(inner));
            self.tasks.spawn(proxy::listen(attached, inner, socket, share.clone()));
        }
        for datagrams in std::iter::once(sockets.udp4).chain(sockets.udp6) {
            self.tasks.spawn(udp::listen(Arc::clone(self), Arc::clone(inner), datagrams, share.clone()));
        }
        self.tasks.spawn(dns::listen_udp(Arc::clone(self), Arc::clone(inner), dns_udp));
        self.tasks.spawn(dns::listen_tcp(Arc::clone(self), Arc::clone(inner), dns_tcp));
        Ok(())
    }

    async fn open_and_serve(self: &Arc<Self>, inner: &Arc<Inner>) -> Result<(), EgressError> {
        let netns = Arc::clone(&self.netns);
        let sockets = inner.netns.run(move || net::open_sockets(netns.as_fd())).await??;
        self.serve(inner, sockets)
    }

    /// The secrets that the policy refers to, as they are now. To be asked for anew with each request.
    fn materials(&self) -> Materials {
        self.terms().1.materials()
    }

    /// The policy, and the sources that this very policy refers to.
    fn terms(&self) -> (Arc<Policy>, Sources) {
        let state = self.state();
        (Arc::clone(&state.policy), state.sources.clone())
    }

    /// Puts a policy in force for the judge, and cuts what it refuses. True when the namespace's routes are its already.
    fn enforce(&self, terms: Terms, protected: &Protected) -> bool {
        let Terms { policy, sources } = terms;
        let plan = plan(&policy, protected);
        let mut state = self.state();
        state.sources = sources;
        if *state.policy != policy {
            state.flows.judge(&state.policy, &policy, protected);
            self.udp.judge(&policy, protected);
            state.policy = Arc::new(policy);
        }
        state.plan.as_ref() == Some(&plan)
    }

    /// Cuts what the policy in force refuses by what is known of this machine's addresses now.
    fn judge_again(&self, protected: &Protected) {
        let state = self.state();
        state.flows.judge(&state.policy, &state.policy, protected);
        self.udp.judge(&state.policy, protected);
    }

    /// Brings the namespace's routes to what the policy says that is in force by then. So it does not matter which of
    /// two changes comes first here, on the one thread of all namespaces.
    async fn bring_routes(self: &Arc<Self>, inner: &Arc<Inner>) -> Result<(), EgressError> {
        let (attached, shared) = (Arc::clone(self), Arc::clone(inner));
        let work = move || {
            let (policy, known) = {
                let mut state = attached.state();
                (Arc::clone(&state.policy), state.plan.take())
            };
            let plan = plan(&policy, &shared.protected());
            if known.as_ref() != Some(&plan) {
                net::apply(attached.netns.as_fd(), &plan)?;
            }
            attached.state().plan = Some(plan);
            Ok(())
        };
        inner.netns.run(work).await?
    }

    /// Why a flow that is cut just now is cut.
    fn cut_reason(&self) -> String {
        if self.stop.is_cancelled() {
            return "the sandbox's network was closed".to_owned();
        }
        self.state().suspended.as_ref().map_or_else(|| "cut by a change of policy".to_owned(), |rule| format!("cut: {rule}"))
    }

    fn record(&self, host: Option<String>, app: Option<App>, flow: Flow, verdict: Verdict) -> Arc<Entry> {
        if !verdict.allow {
            tracing::debug!(runtime = self.runtime_id, ?flow, host, rule = &*verdict.rule, "egress refused");
        }
        self.log.record(host, app, flow, verdict)
    }

    fn record_flow(&self, evidence: &Evidence, verdict: Verdict) -> Arc<Entry> {
        let host = self.name_that_decided(evidence, &verdict).or_else(|| evidence.host().map(str::to_owned));
        self.record(host, evidence.app(), evidence.flow, verdict)
    }

    /// Of several names for an address the one by which a flow was decided, when its client said none.
    fn name_that_decided(&self, evidence: &Evidence, verdict: &Verdict) -> Option<String> {
        if evidence.names.len() < 2 || evidence.is_named() {
            return None;
        }
        let policy = Arc::clone(&self.state().policy);
        // What nobody may reach is decided by the address, whatever its names.
        let protected = Protected::new(Vec::new(), &[], true);
        let is_decided_by = |name: &&Arc<str>| {
            let seen = rules::Seen { names: std::slice::from_ref(*name), ..evidence.seen() };
            match rules::judge(&policy, &protected, &seen) {
                rules::Outcome::Decided { verdict: other, .. } | rules::Outcome::Listen { silent: other } => other == *verdict,
            }
        };
        evidence.names.iter().find(is_decided_by).map(|name| name.to_string())
    }

    /// What else is to be said of a flow that was recorded.
    fn note_flow(&self, evidence: &Evidence, verdict: Verdict) {
        self.log.note(evidence.host().map(str::to_owned), evidence.app(), evidence.flow, verdict);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plan(policy: &Policy, protected: &Protected) -> Plan {
    let routes = rules::routes(policy, protected);
    let convert = |list: Vec<Prefix>| list.iter().map(|p| net::Prefix { addr: p.addr(), len: p.len() }).collect();
    Plan { closed: routes.closed, prohibited: convert(routes.prohibited), allowed: convert(routes.allowed), udp: routes.udp }
}

fn look_around(allow: &[Prefix]) -> Result<Protected, NetError> {
    let mut hosts: Vec<IpAddr> = net::host_addresses()?;
    hosts.sort();
    hosts.dedup();
    Ok(Protected::new(allow.to_vec(), &hosts, has_ipv6_route()))
}

/// True when the machine would speak to the IPv6 Internet from a global address. With a private one alone most
/// connections would fail after they were accepted, and programs would not fall back to IPv4. Connecting a UDP socket
/// sends nothing.
fn has_ipv6_route() -> bool {
    let far = SocketAddr::from(([0x2600, 0, 0, 0, 0, 0, 0, 1], 53));
    let source = UdpSocket::bind("[::]:0").and_then(|socket| socket.connect(far).and_then(|()| socket.local_addr()));
    source.is_ok_and(|source| match source.ip() {
        IpAddr::V6(v6) => v6.octets()[0] & 0xe0 == 0x20,
        IpAddr::V4(_) => false,
    })
}

/// Ends with the egress.
async fn keep_host_addresses(inner: Weak<Inner>) {
    #[expect(deprecated, reason = "the safe constructor; what it watches has one descriptor as long as it lives, which is what it asks for")]
    let opened = net::AddressChanges::open().map_err(io::Error::other).and_then(AsyncFd::new);
    let changes = opened.inspect_err(|error| tracing::warn!(%error, "changes of the machine's addresses are noticed late")).ok();
    loop {
        tokio::time::timeout(HOST_ADDRESSES_EVERY, changed(changes.as_ref())).await.ok();
        let Some(inner) = inner.upgrade() else { return };
        let protected = match look_around(&inner.allow) {
            Ok(protected) => protected,
            Err(error) => {
                tracing::warn!(error = crate::error_text(&error), "the machine's addresses are not known anew; the former ones hold");
                continue;
            }
        };
        if protected == *inner.protected() {
            continue;
        }
        tracing::info!("the machine's addresses have changed");
        *inner.protected.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(protected);
        let attached: Vec<_> = lock(&inner.attached).iter().filter_map(Weak::upgrade).collect();
        let now = inner.protected();
        for attached in &attached {
            attached.judge_again(&now);
        }
        for attached in attached {
            if let Err(error) = attached.bring_routes(&inner).await {
                tracing::warn!(%error, "routes of a sandbox are out of date");
            }
        }
    }
}

/// Returns when an address of this machine has come or gone.
async fn changed(changes: Option<&AsyncFd<net::AddressChanges>>) {
    while let Some(changes) = changes
        && let Ok(mut ready) = changes.readable().await
    {
        let any = changes.get_ref().take();
        ready.clear_ready();
        if any {
            return;
        }
    }
    std::future::pending().await
}

async fn retry_sockets(attached: Weak<Attached>, inner: Weak<Inner>, stop: CancellationToken) {
    let mut pause = TAKEN_PORT_AGAIN;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(TAKEN_PORT_AGAIN_MAX);
        let (Some(attached), Some(inner)) = (attached.upgrade(), inner.upgrade()) else {
            return;
        };
        if attached.open_and_serve(&inner).await.is_ok() {
            return;
        }
    }
}

/// A TCP flow to where a socket was meant to go.
fn tcp_flow(to: SocketAddr) -> Flow {
    Flow { addr: to.ip().to_canonical(), port: to.port(), proto: Protocol::Tcp }
}

#[cfg(test)]
mod tests;
