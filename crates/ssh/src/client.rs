//! The client's side of a login: who the server is, then a public key (RFC 4252).

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    HostKeyError, HostKeys, PrivateKey, Session, SshError,
    limits::LOGIN_WITHIN,
    login::{Line, SERVICE},
    message::{self, disconnect},
    transport::{Role, Transport},
    wire::Writer,
};

/// How long a server may take to hear why it is over.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// Texts that a server wants shown before the login.
const BANNERS_MAX: usize = 16;

/// As whom to log in, and at whose server.
#[derive(Debug)]
pub struct Account {
    /// Who we are: visible ASCII without `-` and space.
    pub software: &'static str,
    pub user: String,
    pub key: PrivateKey,
    pub host_keys: HostKeys,
}

/// Why nobody is logged in at a server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    #[error("the server does not take the key for this user")]
    Denied,
    #[error(transparent)]
    Ssh(SshError),
}

impl From<SshError> for ConnectError {
    fn from(error: SshError) -> Self {
        match error {
            SshError::HostKey(error) => Self::HostKey(error),
            error => Self::Ssh(error),
        }
    }
}

/// Logs in at a server.
///
/// # Errors
/// It is not the server that is known, does not take the key, or cannot be talked to, within [`LOGIN_WITHIN`].
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(stream: S, account: Account) -> Result<Session<S>, ConnectError> {
    account.host_keys.any()?;
    let Account { software, user, key, host_keys } = account;
    let mut line = Line { transport: Transport::new(Role::Client { software, known: host_keys })?, stream };
    let entered = tokio::time::timeout(LOGIN_WITHIN, enter(&mut line, &user, &key)).await;
    match entered.unwrap_or(Err(ConnectError::Ssh(SshError::Late))) {
        Ok(()) => {
            line.transport.trusted = true;
            Ok(Session::new(line.transport, line.stream))
        }
        Err(error) => {
            let reason = match &error {
                ConnectError::HostKey(_) => disconnect::HOST_KEY_NOT_VERIFIABLE,
                ConnectError::Denied => disconnect::NO_MORE_AUTH_METHODS,
                ConnectError::Ssh(_) => disconnect::PROTOCOL_ERROR,
            };
            line.transport.disconnect(reason, "");
            let _ = tokio::time::timeout(LEAVE_WITHIN, line.flush()).await;
            Err(error)
        }
    }
}

async fn enter<S: AsyncRead + AsyncWrite + Unpin>(line: &mut Line<S>, user: &str, key: &PrivateKey) -> Result<(), ConnectError> {
    // Goes when there are keys.
    line.transport.send(&Writer::message(message::SERVICE_REQUEST).string("ssh-userauth").done())?;
    if answer(line).await? != message::SERVICE_ACCEPT {
        return Err(SshError::Protocol("another answer than the service's").into());
    }
    for algorithm in key.algorithms(line.transport.signatures.as_deref()) {
        line.transport.send(&request(line.transport.session_id(), user, key, algorithm)?)?;
        match answer(line).await? {
            message::USERAUTH_SUCCESS => return Ok(()),
            message::USERAUTH_FAILURE => {}
            _ => return Err(SshError::Protocol("another answer than the login's").into()),
        }
    }
    Err(ConnectError::Denied)
}

/// The number of the next message that is for us to read.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(line: &mut Line<S>) -> Result<u8, SshError> {
    for _ in 0..=BANNERS_MAX {
        let payload = line.next().await?;
        if payload[0] != message::USERAUTH_BANNER {
            return Ok(payload[0]);
        }
    }
    Err(SshError::Protocol("too many banners"))
}

fn request(session_id: &[u8], user: &str, key: &PrivateKey, algorithm: &str) -> Result<Vec<u8>, SshError> {
    let request =
        Writer::message(message::USERAUTH_REQUEST).string(user).string(SERVICE).string("publickey").boolean(true).string(algorithm).string(key.public().blob());
    let covered = Writer::default().string(session_id).raw(&request.clone().done()).done();
    Ok(request.string(key.sign(algorithm, &covered)?).done())
}
