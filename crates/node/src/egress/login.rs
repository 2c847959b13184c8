//! Logins that are made for a client, in protocols that have one: the client never has the name nor the password.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandbar_core::credential::Material;
use sandbar_core::egress::{App, CredentialRule, Verdict};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::Sources;
use super::proxy::Carrier;
use super::socket::{Meter, Socket, Stream, join};

mod mqtt;
mod redis;
pub(super) mod socks5;

const LOGIN_WITHIN: Duration = Duration::from_secs(10);

/// A name and its password.
#[derive(Clone, Copy)]
pub(super) struct Login<'a> {
    pub username: &'a str,
    pub password: &'a str,
}

impl<'a> Login<'a> {
    pub fn of(material: &'a Material) -> Option<Self> {
        match material {
            Material::UsernamePassword { username, password } => Some(Self { username, password }),
            Material::Headers(_) | Material::ClientCertificate { .. } | Material::SshPrivateKey { .. } => None,
        }
    }
}

/// Why a client is not logged in; never with a word of the secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    #[error("its credential source holds no name and password")]
    Material,
    #[error("its credential source cannot be opened")]
    Closed,
    #[error("the name or the password is too long for this protocol")]
    Long,
    #[error("the client does not begin as the protocol says")]
    Client,
    #[error("the server did not take the credential")]
    Refused,
    /// The client has it from the server itself.
    #[error("the server did not take the credential: code {0} of CONNACK")]
    Connack(u8),
    #[error("the server does not answer as the protocol says")]
    Server,
    #[error("the connection broke during the login: {0}")]
    Broken(#[from] io::Error),
    #[error("the login took too long")]
    Late,
}

/// Carries a client that is logged in by a rule. `said` was read from it.
pub(super) async fn serve(carrier: &Carrier, meter: Meter, app: App, said: Bytes, early: Option<Arc<TcpStream>>) -> io::Result<()> {
    let (policy, sources) = carrier.attached.terms();
    let rule = policy.login_for(&carrier.evidence.seen(), app).cloned();
    // The policy has just changed: this connection is about to be cut.
    let rule = rule.ok_or(io::ErrorKind::ConnectionRefused)?;
    let socket = match early {
        Some(socket) => socket,
        None => carrier.dial().await.map_err(io::Error::other)?,
    };
    let mut inside = Socket::inside(Arc::clone(carrier.inside()), said);
    let entry = Arc::clone(&meter.entry);
    let mut outside = Socket::outside(socket, meter);
    let work = log_in(&sources, &rule, app, &mut inside, &mut outside);
    match tokio::time::timeout(LOGIN_WITHIN, work).await.unwrap_or(Err(LoginError::Late)) {
        Ok(Done::LoggedIn) => entry.logged_in(Arc::clone(&rule.label)),
        Ok(Done::Without) => return join(inside, outside).await,
        Err(error) => {
            carrier.attached.record_flow(&carrier.evidence.meant_by(&rule), Verdict::deny(format!("{} ({error})", rule.label)));
            if !matches!(error, LoginError::Connack(_)) {
                return Err(io::Error::other(error));
            }
            entry.broke(error.to_string());
        }
    }
    match app {
        App::Redis => redis::carry(inside, outside).await,
        App::Mqtt | App::Socks5 | App::Http | App::Tls | App::Ssh | App::Amqp | App::Dns | App::Mongodb => join(inside, outside).await,
    }
}

/// How a login went that did not fail.
enum Done {
    LoggedIn,
    /// There was nothing to log in with, and the rule lets its client go without.
    Without,
}

async fn log_in(sources: &Sources, rule: &CredentialRule, app: App, inside: &mut Socket, outside: &mut Socket) -> Result<Done, LoginError> {
    let materials = sources.materials();
    let login = materials.get(&rule.binding.source).and_then(|material| Login::of(material));
    let login = match login {
        Some(login) => login,
        None if rule.fail_open => return Ok(Done::Without),
        None if sources.is_closed(&rule.binding.source) => return Err(LoginError::Closed),
        None => return Err(LoginError::Material),
    };
    match app {
        App::Redis => redis::log_in(outside, login).await?,
        App::Mqtt => mqtt::log_in(inside, outside, login).await?,
        App::Socks5 => {
            let methods = socks5::greeted(inside).await?;
            socks5::log_in(outside, Some(login)).await?;
            socks5::welcome(inside, &methods).await?;
        }
        App::Http | App::Tls | App::Ssh | App::Amqp | App::Dns | App::Mongodb => return Err(LoginError::Material),
    }
    Ok(Done::LoggedIn)
}

async fn read_bytes(stream: &mut impl Stream, len: usize) -> Result<Vec<u8>, LoginError> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
