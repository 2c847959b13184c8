//! Certificates from an authority, for the hosts that somebody asks for and that something is served on. The authority sees
//! that a name leads here by the TLS handshake itself (tls-alpn-01, RFC 8737), so that no other port is needed.
//!
//! ```text
//! handshake ──▶ has a certificate ──▶ goes on
//!     │ none            ▲
//!     ▼                 │ kept on disk, in memory
//! is served? ──▶ one order for all who wait ──▶ question of the authority, answered by another handshake
//!     │ no              │ failed: remembered, and not ordered again before its pause has passed
//!     ▼                 ▼
//!   refused          refused
//! ```

use std::{
    collections::HashMap,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use rustls::{
    client::verify_server_name,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use sandbar_core::{
    certificates::{Budget, Validity, WEEK, pause_after},
    public_host,
};
use sandbar_node::error_text;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{SharedApp, sandboxes::now_ms},
    config::AcmeConfig,
};

mod authority;
mod http;
mod kept;
mod validity;

use authority::{Authority, OrderError, blocking};
use http::Http;
use kept::Kept;

/// Below the data directory.
const FOLDER: &str = "acme";
/// Certificates that are kept.
const CERTIFICATES_MAX: usize = 2000;
/// From so many on, those of hosts that nothing is served on any more are given up before they end.
const CERTIFICATES_CROWDED: usize = CERTIFICATES_MAX / 4 * 3;
/// Orders with the authority at once,
const ORDERS_MAX: usize = 4;
/// and together with those that wait for their turn.
const ORDERS_WAITING_MAX: usize = 64;
/// Hosts whose failures are remembered.
const FAILURES_MAX: usize = 4096;
/// A handshake waits so long for a certificate. The order goes on without it.
const PATIENCE: Duration = Duration::from_secs(10);
/// From the beginning of an order to its certificate.
const ORDER_WITHIN: Duration = Duration::from_secs(180);
/// Bounds of the pause between two looks at what is to be renewed.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// After this time for what could not be looked at, or found no room.
const AGAIN: Duration = Duration::from_secs(60);

/// What is wrong with the settings or the disk.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    #[error("cannot {what} {path}")]
    Files {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} cannot be used as roots of the authority")]
    Ca {
        path: PathBuf,
        #[source]
        source: reqwest::Error,
    },
    #[error("{path} holds no certificate")]
    NoCa { path: PathBuf },
    #[error("the client for the authority")]
    Client(#[source] reqwest::Error),
    #[error("the server is stopping")]
    Stopping,
}

/// Why a host has no certificate at present.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoCertificate {
    #[error("nothing is served there")]
    NotServed,
    #[error("it cannot be told whether anything is served there")]
    Unknown,
    #[error("{text}; it is not tried again within {pause:?}")]
    Failed { text: String, pause: Duration },
    #[error("the orders for new hosts are used up for {0:?}")]
    Spent(Duration),
    #[error("it takes longer than a handshake waits")]
    Late,
    #[error("too many are ordered or kept")]
    Full,
}

/// All certificates of an authority, and the orders for more.
pub(crate) struct Acme {
    domain: String,
    authority: Authority,
    certificates: RwLock<HashMap<String, Arc<Certificate>>>,
    challenges: Arc<Challenges>,
    orders: Mutex<Orders>,
    places: Semaphore,
    begun: Instant,
    /// Woken when there is a new certificate.
    changed: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Proofs for the questions of an authority, by host.
#[derive(Debug, Default)]
pub(super) struct Challenges(Mutex<HashMap<String, Arc<CertifiedKey>>>);

struct Certificate {
    key: Arc<CertifiedKey>,
    validity: Validity,
}

struct Orders {
    /// Closed when done.
    under_way: HashMap<String, watch::Receiver<()>>,
    failures: HashMap<String, Failure>,
    budget: Budget,
}

#[derive(Clone)]
struct Failure {
    in_a_row: u32,
    text: String,
    retry_at: Instant,
}

/// Who counts for an order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Payer {
    /// The server's own name, and whatever had a certificate before.
    Nobody,
    Team(String),
}

impl Acme {
    /// Reads what is kept. Nothing is asked of the authority before it is needed.
    pub fn open(config: &AcmeConfig, domain: &str, data_dir: &std::path::Path) -> Result<Arc<Self>, AcmeError> {
        // By authority: certificates of a test one are not shown when it is changed for a real one.
        let folder = hex::encode(&Sha256::digest(config.directory.as_bytes())[..8]);
        let kept = Kept::open(data_dir.join(FOLDER).join(folder))?;
        let certificates = load(&kept)?;
        let budget = Budget::new(config.orders_per_week, WEEK, issued(&certificates));
        tracing::info!(directory = config.directory, certificates = certificates.len(), "certificates are ordered when they are needed");
        Ok(Arc::new(Self {
            domain: domain.trim_end_matches('.').to_ascii_lowercase(),
            authority: Authority {
                directory: config.directory.clone(),
                contact: config.contact.clone(),
                http: Http::new(config.ca.as_deref())?,
                kept,
                account: tokio::sync::Mutex::default(),
            },
            certificates: RwLock::new(certificates),
            challenges: Arc::default(),
            orders: Mutex::new(Orders { under_way: HashMap::new(), failures: HashMap::new(), budget }),
            places: Semaphore::new(ORDERS_MAX),
            begun: Instant::now(),
            changed: Notify::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    pub fn challenges(&self) -> Arc<Challenges> {
        Arc::clone(&self.challenges)
    }

    /// The certificate of a host, if there is one that is valid.
    pub fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let certificate = self.certificates.read().unwrap_or_else(PoisonError::into_inner).get(host).cloned()?;
        (!certificate.validity.is_over(now_ms())).then(|| Arc::clone(&certificate.key))
    }

    /// Returns when a host has a certificate: orders one when it has none and something is served on it.
    pub async fn ensure(self: &Arc<Self>, app: &SharedApp, host: &str) -> Result<(), NoCertificate> {
        if self.find(host).is_some() {
            return Ok(());
        }
        if let Some(failure) = self.failure(host) {
            return Err(failure.into());
        }
        let payer = self.payer(app, host).await?.ok_or(NoCertificate::NotServed)?;
        let mut done = self.start(host, payer)?;
        let _closed = tokio::time::timeout(PATIENCE, done.changed()).await.map_err(|_| NoCertificate::Late)?;
        match self.failure(host) {
            _ if self.find(host).is_some() => Ok(()),
            Some(failure) => Err(failure.into()),
            None => Err(NoCertificate::Late),
        }
    }

    /// Renews certificates of hosts that something is served on, as they come to two thirds of their life, until stopped.
    pub async fn renew(self: Arc<Self>, app: SharedApp, stop: CancellationToken) {
        loop {
            let pause = tokio::select! {
                () = stop.cancelled() => break,
                pause = self.renew_due(&app) => pause,
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
                () = self.changed.notified() => {}
            }
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// One look at all certificates. Returns for how long there will be nothing to do.
    async fn renew_due(self: &Arc<Self>, app: &SharedApp) -> Duration {
        let known: Vec<_> = self.certificates.read().unwrap_or_else(PoisonError::into_inner).iter().map(|(host, c)| (host.clone(), c.validity)).collect();
        let crowded = known.len() > CERTIFICATES_CROWDED;
        let mut next = LOOK.1;
        let until = |at_ms: i64| Duration::from_millis(u64::try_from(at_ms.saturating_sub(now_ms())).unwrap_or(0));
        for (host, validity) in known {
            let is_due = now_ms() >= validity.renew_at_ms();
            if !is_due && !crowded {
                next = next.min(until(validity.renew_at_ms()));
                continue;
            }
            match self.payer(app, &host).await {
                Ok(Some(_)) if is_due => {}
                Ok(Some(_)) => continue,
                Ok(None) if crowded || validity.is_over(now_ms()) => {
                    self.forget(&host).await;
                    continue;
                }
                // Kept for as long as it is good: the host may be served again.
                Ok(None) => {
                    next = next.min(until(validity.not_after_ms));
                    continue;
                }
                Err(_) => {
                    next = next.min(AGAIN);
                    continue;
                }
            }
            match self.start(&host, Payer::Nobody) {
                Ok(mut done) => {
                    let _closed = done.changed().await;
                }
                Err(_) => next = next.min(AGAIN),
            }
            if let Some(failure) = self.failure(&host) {
                next = next.min(failure.retry_at.saturating_duration_since(Instant::now()));
            }
        }
        next.max(LOOK.0)
    }

    /// Who counts for a certificate of a host; nobody is asked for one of a host that nothing is served on.
    async fn payer(&self, app: &SharedApp, host: &str) -> Result<Option<Payer>, NoCertificate> {
        if public_host::is_api_name(host, &self.domain) {
            return Ok(Some(Payer::Nobody));
        }
        match app.team_served_at(public_host::read(host, &self.domain)).await {
            Ok(team) => Ok(team.map(Payer::Team)),
            Err(error) => {
                tracing::warn!(host, %error, "it cannot be told whether a host may have a certificate");
                Err(NoCertificate::Unknown)
            }
        }
    }

    /// Begins an order, or joins the one that is under way.
    fn start(self: &Arc<Self>, host: &str, payer: Payer) -> Result<watch::Receiver<()>, NoCertificate> {
        let kept = {
            let certificates = self.certificates.read().unwrap_or_else(PoisonError::into_inner);
            certificates.len() - usize::from(certificates.contains_key(host))
        };
        let mut orders = self.orders();
        if let Some(done) = orders.under_way.get(host) {
            return Ok(done.clone());
        }
        let now = Instant::now();
        if let Some(failure) = orders.failures.get(host).filter(|failure| failure.retry_at > now) {
            return Err(failure.clone().into());
        }
        // Of many hosts that wait for the same, none is remembered.
        if let Payer::Team(team) = &payer {
            orders.budget.look(team, self.clock()).map_err(NoCertificate::Spent)?;
        }
        if orders.failures.len() >= FAILURES_MAX {
            orders.failures.retain(|_, failure| failure.retry_at > now);
        }
        let full = orders.under_way.len() >= ORDERS_WAITING_MAX || orders.failures.len() >= FAILURES_MAX;
        if full || kept + orders.under_way.len() >= CERTIFICATES_MAX {
            return Err(NoCertificate::Full);
        }
        let (sender, done) = watch::channel(());
        orders.under_way.insert(host.to_owned(), done.clone());
        drop(orders);
        let under_way = UnderWay { acme: Arc::clone(self), host: host.to_owned(), _done: sender };
        self.tasks.spawn(async move {
            let (acme, host) = (&under_way.acme, under_way.host.as_str());
            let ordered = tokio::select! {
                () = acme.stop.cancelled() => return,
                ordered = tokio::time::timeout(ORDER_WITHIN, acme.order(host, payer)) => ordered,
            };
            match ordered.unwrap_or(Err(OrderError::Late(ORDER_WITHIN))) {
                Ok(()) => {
                    acme.orders().failures.remove(host);
                }
                Err(error) => acme.failed(host, &error),
            }
        });
        Ok(done)
    }

    /// One order, from the turn to the certificate in its place.
    async fn order(&self, host: &str, payer: Payer) -> Result<(), OrderError> {
        let _place = self.places.acquire().await.map_err(|_| AcmeError::Stopping)?;
        let account = self.authority.account().await?;
        // Only now, so that an authority that is away costs nobody a later order.
        match payer {
            Payer::Nobody => {}
            Payer::Team(team) => self.orders().budget.take(&team, self.clock()).map_err(OrderError::Spent)?,
        }
        let pem = self.authority.order(&account, host, &self.challenges).await?;
        let certificate = Certificate::read(host, pem.as_bytes())?;
        tracing::info!(host, not_after_ms = certificate.validity.not_after_ms, "there is a certificate");
        let (kept, name) = (self.authority.kept.clone(), host.to_owned());
        if let Err(error) = blocking(move || kept.put_host(&name, pem.as_bytes())).await {
            tracing::error!(host, error = error_text(&error), "the certificate is used and was not kept: after a restart it is ordered again");
        }
        self.certificates.write().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), Arc::new(certificate));
        self.changed.notify_one();
        Ok(())
    }

    fn failed(&self, host: &str, error: &OrderError) {
        if let OrderError::Spent(wait) = error {
            tracing::warn!(host, ?wait, "no certificate was ordered: the orders for new hosts are used up");
            return;
        }
        let mut orders = self.orders();
        let in_a_row = orders.failures.get(host).map_or(0, |failure| failure.in_a_row).saturating_add(1);
        let pause = pause_after(error.setback(), in_a_row);
        let text = error_text(error);
        tracing::warn!(host, error = text, again_after = ?pause, "no certificate was issued");
        orders.failures.insert(host.to_owned(), Failure { in_a_row, text, retry_at: Instant::now() + pause });
    }

    /// What keeps a host from being ordered now.
    fn failure(&self, host: &str) -> Option<Failure> {
        self.orders().failures.get(host).filter(|failure| failure.retry_at > Instant::now()).cloned()
    }

    async fn forget(&self, host: &str) {
        self.certificates.write().unwrap_or_else(PoisonError::into_inner).remove(host);
        let (kept, name) = (self.authority.kept.clone(), host.to_owned());
        match blocking(move || kept.remove_host(&name)).await {
            Ok(()) => tracing::info!(host, "the certificate of a host that is gone was removed"),
            Err(error) => tracing::warn!(host, error = error_text(&error), "the certificate of a host that is gone was not removed"),
        }
    }

    /// The budget's time: it began a week before the server did.
    fn clock(&self) -> Duration {
        WEEK + self.begun.elapsed()
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Failure> for NoCertificate {
    fn from(failure: Failure) -> Self {
        Self::Failed { text: failure.text, pause: failure.retry_at.saturating_duration_since(Instant::now()) }
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("domain", &self.domain).finish_non_exhaustive()
    }
}

/// An order that is under way; its end, however it comes, wakes those who wait.
struct UnderWay {
    acme: Arc<Acme>,
    host: String,
    _done: watch::Sender<()>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.acme.orders().under_way.remove(&self.host);
    }
}

impl Certificate {
    /// Reads key and chain from PEM and checks that they are for the host.
    fn read(host: &str, pem: &[u8]) -> Result<Self, OrderError> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| OrderError::Unfit("there is no key"))?;
        let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|_| OrderError::Unfit("the chain is no PEM"))?;
        let first = chain.first().ok_or(OrderError::Unfit("the chain is empty"))?;
        let validity = validity::validity(first).ok_or(OrderError::Unfit("it does not say how long it is valid"))?;
        if !covers(first, host) {
            return Err(OrderError::Unfit("it is for another host"));
        }
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider())?;
        key.keys_match()?;
        Ok(Self { key: Arc::new(key), validity })
    }
}

/// Whether a certificate names a host, itself or by a wildcard.
pub(super) fn covers(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host) else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
}

fn load(kept: &Kept) -> Result<HashMap<String, Arc<Certificate>>, AcmeError> {
    let mut certificates = HashMap::new();
    for (host, pem) in kept.hosts(CERTIFICATES_MAX)? {
        match Certificate::read(&host, &pem) {
            Ok(certificate) => {
                certificates.insert(host, Arc::new(certificate));
            }
            Err(error) => tracing::warn!(host, error = error_text(&error), "a certificate that was kept is passed over"),
        }
    }
    Ok(certificates)
}

/// When the certificates of the last week began, in the budget's time. It is not known which of them were renewals.
fn issued(certificates: &HashMap<String, Arc<Certificate>>) -> Vec<Duration> {
    let age = |c: &Certificate| Duration::from_millis(u64::try_from(now_ms().saturating_sub(c.validity.not_before_ms)).unwrap_or(0));
    certificates.values().filter_map(|certificate| WEEK.checked_sub(age(certificate))).collect()
}

impl Challenges {
    /// Answers an authority's question for a host until the guard is dropped.
    fn pose<'a>(&'a self, host: &str, proof: Arc<CertifiedKey>) -> Posed<'a> {
        self.lock().insert(host.to_owned(), proof);
        Posed { challenges: self, host: host.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<CertifiedKey>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.lock().get(&hello.server_name()?.to_ascii_lowercase()).cloned()
    }
}

/// A question that is answered.
struct Posed<'a> {
    challenges: &'a Challenges,
    host: String,
}

impl Drop for Posed<'_> {
    fn drop(&mut self) {
        self.challenges.lock().remove(&self.host);
    }
}
