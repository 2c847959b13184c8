//! SSH with a key that the sandbox does not have: its client's connection ends here, where a public key of the policy's
//! lets it in, and another one is logged in at the server, which has to be known to the policy. Sessions go through, with
//! all that is asked for on them, and nothing else does.
//!
//! What goes wrong after the client's login is told to it as the reason for its disconnection, in the same words as to
//! the user who reads what was decided. None of them has anything of the key in it.
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sandbar_core::credential::Material;
use sandbar_core::egress::{App, Claim, CredentialRule, Projection, Said, Seen, SshProxy, Verdict};
use sandbar_ssh::{Account, ConnectError, Doorkeeper, HostKey, HostKeyError, HostKeys, PrivateKey, PrivateKeyError, PublicKey, Refusal, Session, Settings};
use tokio::net::TcpStream;

use super::Sources;
use super::dial::DialError;
use super::proxy::Carrier;
use super::refuse::drain;
use super::socket::{Meter, Pump, Socket};

mod relay;

const SOFTWARE: &str = "Sandbar";
/// Both sides of SSH speak at once. How long a server may be kept waiting for its client, whose line decides.
const HEAD_START: Duration = Duration::from_millis(500);
/// How long a client that was told why it is over may take to hang up.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// Why a client is not connected to its server; for its eyes, and never with anything secret.
#[derive(Debug, thiserror::Error)]
enum SshProxyError {
    #[error("its credential source holds no SSH key")]
    NoKey,
    #[error("its credential source cannot be opened")]
    Closed,
    #[error("the key of its credential source {0}")]
    Key(#[from] PrivateKeyError),
    #[error("the client showed no key of sandboxPublicKeys")]
    Stranger,
    #[error("the client left before its login")]
    Left,
    #[error("with the client: {0}")]
    Client(sandbar_ssh::SshError),
    #[error("the server is not reached: {0}")]
    Dial(#[from] DialError),
    #[error("knownHosts: {0}")]
    HostKey(HostKeyError),
    #[error("with the server: {0}")]
    Server(ConnectError),
}

impl From<ConnectError> for SshProxyError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::HostKey(error) => Self::HostKey(error),
            ConnectError::Denied | ConnectError::Ssh(_) => Self::Server(error),
        }
    }
}

/// Who may use the key: whoever can sign with one of these, under any name.
struct Keys {
    keys: Vec<PublicKey>,
    asked: AtomicBool,
}

impl Doorkeeper for Keys {
    async fn admits(&self, _user: &str, key: &PublicKey) -> bool {
        self.asked.store(true, Relaxed);
        self.keys.contains(key)
    }
}

/// How long the client of a flow has to speak before its server, so that it can still be let in by us.
pub(super) fn head_start(carrier: &Carrier) -> Duration {
    let policy = Arc::clone(&carrier.attached.state().policy);
    let seen = Seen { said: Said::Bytes { app: Some(App::Ssh), name: Claim::Absent }, ..carrier.evidence.seen() };
    if policy.login_for(&seen, App::Ssh).is_some() { HEAD_START } else { Duration::ZERO }
}

/// Carries a client of SSH by the rule that is for it. `said` was read from it; nothing was from the server.
pub(super) async fn serve(carrier: &Carrier, meter: Meter, said: Bytes, early: Option<Arc<TcpStream>>) -> io::Result<()> {
    let (policy, sources) = carrier.attached.terms();
    let rule = policy.login_for(&carrier.evidence.seen(), App::Ssh).cloned();
    // The policy has just changed: this connection is about to be cut.
    let rule = rule.ok_or(io::ErrorKind::ConnectionRefused)?;
    let Projection::SshProxy(proxy) = &rule.binding.projection else { return Err(io::ErrorKind::ConnectionRefused.into()) };
    let key = private_key(&sources, &rule).await;
    if key.is_err() && rule.fail_open {
        let outside = outside(carrier, early).await.map_err(io::Error::other)?;
        return carrier.copy(&meter, Pump::new(outside, Arc::clone(carrier.inside())), BytesMut::from(&*said)).await;
    }
    let entry = Arc::clone(&meter.entry);
    let refused = |error: &SshProxyError| {
        let text: Arc<str> = format!("{} ({error})", rule.label).into();
        carrier.attached.record_flow(&carrier.evidence.meant_by(&rule), Verdict::deny(Arc::clone(&text)));
        text
    };
    let client = match let_in(carrier, proxy, said).await {
        Ok(client) => client,
        Err(error) => {
            refused(&error);
            drain_after_farewell(carrier).await;
            return Ok(());
        }
    };
    let server = async {
        let account = account(carrier, &rule, proxy, key?);
        account.host_keys.any().map_err(SshProxyError::HostKey)?;
        let outside = outside(carrier, early).await?;
        Ok(sandbar_ssh::connect(Socket::outside(outside, meter), account).await?)
    };
    match server.await {
        Ok(server) => {
            entry.logged_in(Arc::clone(&rule.label));
            relay::relay(client, server).await;
        }
        Err(error) => {
            let text = refused(&error);
            let farewell = async { text.to_string() };
            let text = Arc::clone(&text);
            // How it ends is known already.
            let _ = client.run(move |open| open.refuse(Refusal::ConnectFailed, &*text), farewell).await;
        }
    }
    drain_after_farewell(carrier).await;
    Ok(())
}

/// What the client has sent and nobody will read would make the end of the connection a reset, and what it was told would
/// be lost.
async fn drain_after_farewell(carrier: &Carrier) {
    tokio::time::timeout(LEAVE_WITHIN, drain(carrier.inside())).await.ok();
}

/// The key to log in with. A passphrase takes long enough to be somebody else's work.
async fn private_key(sources: &Sources, rule: &CredentialRule) -> Result<PrivateKey, SshProxyError> {
    let missing = || if sources.is_closed(&rule.binding.source) { SshProxyError::Closed } else { SshProxyError::NoKey };
    let material = sources.materials().get(&rule.binding.source).cloned().ok_or_else(missing)?;
    let read = tokio::task::spawn_blocking(move || match &*material {
        Material::SshPrivateKey { private_key_pem, passphrase } => Ok(PrivateKey::from_pem(private_key_pem, passphrase.as_deref())?),
        Material::Headers(_) | Material::ClientCertificate { .. } | Material::UsernamePassword { .. } => Err(SshProxyError::NoKey),
    });
    read.await.unwrap_or(Err(SshProxyError::NoKey))
}

/// Logs the client in to us.
async fn let_in(carrier: &Carrier, proxy: &SshProxy, said: Bytes) -> Result<Session<Socket>, SshProxyError> {
    let lines = proxy.sandbox_public_keys.iter().flat_map(|text| text.lines());
    let keys = lines.filter_map(|line| PublicKey::from_line(line).ok()).map(|(key, _)| key).collect();
    let keys = Keys { keys, asked: AtomicBool::new(false) };
    let host_key = HostKey::from_pkcs8(carrier.inner.authority.ssh_host_key()).ok_or(SshProxyError::Client(sandbar_ssh::SshError::NoRandom))?;
    let settings = Arc::new(Settings { host_key, software: SOFTWARE });
    let socket = Socket::inside(Arc::clone(carrier.inside()), said);
    match sandbar_ssh::login(socket, settings, &keys).await {
        Ok((_, session)) => Ok(session),
        Err(sandbar_ssh::SshError::Closed | sandbar_ssh::SshError::TooManyTries) if keys.asked.load(Relaxed) => Err(SshProxyError::Stranger),
        Err(sandbar_ssh::SshError::Closed) => Err(SshProxyError::Left),
        Err(error) => Err(SshProxyError::Client(error)),
    }
}

/// As whom we log in, and by what the server is known: under the names that the rule is for, or by its address.
fn account(carrier: &Carrier, rule: &CredentialRule, proxy: &SshProxy, key: PrivateKey) -> Account {
    let seen = carrier.evidence.seen();
    let addr = seen.flow.addr.to_string();
    let is_meant = |name: &&Arc<str>| rule.is_for(&Seen { names: std::slice::from_ref(*name), ..seen });
    let hosts: Vec<&str> = carrier.evidence.names.iter().filter(is_meant).map(|name| &**name).chain([&*addr]).collect();
    let host_keys = HostKeys::of(proxy.known_hosts.iter().map(String::as_str), &hosts, seen.flow.port);
    Account { software: SOFTWARE, user: proxy.upstream_username.clone(), key, host_keys }
}

async fn outside(carrier: &Carrier, early: Option<Arc<TcpStream>>) -> Result<Arc<TcpStream>, DialError> {
    match early {
        Some(outside) => Ok(outside),
        None => carrier.dial().await,
    }
}
