//! Who comes in: public keys, and nothing else (RFC 4252).
//!
//! What a doorkeeper does not know looks to the client like a key that it does not know: the same answer.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    PublicKey, Session, Settings, SshError,
    limits::{LOGIN_WITHIN, TRIES_MAX},
    message::{self, disconnect},
    transport::{Role, Transport},
    wire::{Reader, Writer},
};

const READ_BYTES: usize = 16 << 10;
/// What a login is for.
pub const SERVICE: &str = "ssh-connection";

/// Decides who may come in.
pub trait Doorkeeper {
    /// Whether a user may come in with a key. Asked when the key is offered and again when its signature was right.
    fn admits(&self, user: &str, key: &PublicKey) -> impl Future<Output = bool> + Send;
}

/// Somebody who has come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    pub user: String,
    pub key: PublicKey,
}

/// Takes a connection as far as the login.
///
/// # Errors
/// The client hung up, broke the protocol, or had no key that opens within [`LOGIN_WITHIN`].
pub async fn login<S, D>(stream: S, settings: Arc<Settings>, doorkeeper: &D) -> Result<(LoggedIn, Session<S>), SshError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Doorkeeper,
{
    let line = Line { transport: Transport::new(Role::Server(settings))?, stream };
    let mut entry = Entry { line, service: false, tries: 0 };
    let entered = tokio::time::timeout(LOGIN_WITHIN, entry.run(doorkeeper)).await;
    match entered.unwrap_or(Err(SshError::Late)) {
        Ok(who) => {
            entry.line.transport.trusted = true;
            Ok((who, Session::new(entry.line.transport, entry.line.stream)))
        }
        Err(error) => {
            entry.leave(&error).await;
            Err(error)
        }
    }
}

/// A connection before its login, one message after the other.
pub struct Line<S> {
    pub transport: Transport,
    pub stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// Sends what is to go, and waits for a message.
    pub async fn next(&mut self) -> Result<Vec<u8>, SshError> {
        loop {
            if let Some(payload) = self.transport.receive()? {
                return Ok(payload);
            }
            self.flush().await?;
            self.transport.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.transport.input).await? == 0 {
                return Err(SshError::Closed);
            }
        }
    }

    pub async fn flush(&mut self) -> Result<(), SshError> {
        self.stream.write_all_buf(&mut self.transport.output).await?;
        Ok(self.stream.flush().await?)
    }
}

struct Entry<S> {
    line: Line<S>,
    service: bool,
    tries: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Entry<S> {
    async fn run<D: Doorkeeper>(&mut self, doorkeeper: &D) -> Result<LoggedIn, SshError> {
        loop {
            let payload = self.line.next().await?;
            if let Some(who) = self.take(&payload, doorkeeper).await? {
                self.line.flush().await?;
                return Ok(who);
            }
        }
    }

    /// Says why, as far as that is possible.
    async fn leave(&mut self, error: &SshError) {
        let reason = match error {
            SshError::Protocol(_) => disconnect::PROTOCOL_ERROR,
            SshError::NothingInCommon(_) => disconnect::KEY_EXCHANGE_FAILED,
            SshError::TooManyTries | SshError::Late => disconnect::NO_MORE_AUTH_METHODS,
            SshError::Io(_) | SshError::Closed | SshError::Dead | SshError::NoRandom | SshError::HostKey(_) => return,
        };
        self.line.transport.disconnect(reason, &error.to_string());
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), self.line.flush()).await;
    }

    async fn take<D: Doorkeeper>(&mut self, payload: &[u8], doorkeeper: &D) -> Result<Option<LoggedIn>, SshError> {
        let mut reader = Reader::new(&payload[1..]);
        match payload[0] {
            message::SERVICE_REQUEST => {
                if reader.string()? != b"ssh-userauth" {
                    return Err(SshError::Protocol("a service that there is not"));
                }
                reader.end()?;
                self.service = true;
                self.line.transport.send(&Writer::message(message::SERVICE_ACCEPT).string("ssh-userauth").done())?;
                Ok(None)
            }
            message::USERAUTH_REQUEST if self.service => {
                self.tries += 1;
                if self.tries > TRIES_MAX {
                    return Err(SshError::TooManyTries);
                }
                let (user, service, method) = (reader.text()?, reader.string()?, reader.string()?);
                if service != SERVICE.as_bytes() {
                    return Err(SshError::Protocol("a login to a service that there is not"));
                }
                match method {
                    b"publickey" => self.publickey(user, reader, doorkeeper).await,
                    _ => self.refuse().map(|()| None),
                }
            }
            _ => Err(SshError::Protocol("a message before the login")),
        }
    }

    async fn publickey<D: Doorkeeper>(&mut self, user: &str, mut reader: Reader<'_>, doorkeeper: &D) -> Result<Option<LoggedIn>, SshError> {
        let (signed, algorithm, blob) = (reader.boolean()?, reader.text()?, reader.string()?);
        let signature = if signed { Some(reader.string()?) } else { None };
        reader.end()?;
        let key = PublicKey::from_blob(blob).ok().filter(|key| key.signs(algorithm));
        let admitted = match &key {
            Some(key) => doorkeeper.admits(user, key).await,
            None => false,
        };
        let Some(key) = key.filter(|_| admitted) else { return self.refuse().map(|()| None) };
        let Some(signature) = signature else {
            self.line.transport.send(&Writer::message(message::USERAUTH_PK_OK).string(algorithm).string(blob).done())?;
            return Ok(None);
        };
        let covered = Writer::default()
            .string(self.line.transport.session_id())
            .byte(message::USERAUTH_REQUEST)
            .string(user)
            .string(SERVICE)
            .string("publickey")
            .boolean(true)
            .string(algorithm)
            .string(blob)
            .done();
        if !key.has_signed(algorithm, &covered, signature) {
            return self.refuse().map(|()| None);
        }
        self.line.transport.send(&[message::USERAUTH_SUCCESS])?;
        Ok(Some(LoggedIn { user: user.to_owned(), key }))
    }

    fn refuse(&mut self) -> Result<(), SshError> {
        self.line.transport.send(&Writer::message(message::USERAUTH_FAILURE).string("publickey").boolean(false).done())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostKey, HostKeyError, HostKeys, PrivateKey, private::tests::fresh};

    struct Only(PublicKey);

    impl Doorkeeper for Only {
        async fn admits(&self, user: &str, key: &PublicKey) -> bool {
            matches!(user, "somebody" | "somebody else") && *key == self.0
        }
    }

    fn host_key() -> HostKey {
        HostKey::from_pkcs8(&HostKey::generate().unwrap()).unwrap()
    }

    /// What a login says and what its signature is of.
    #[derive(Debug, Clone)]
    struct Said {
        session: Vec<u8>,
        user: String,
        service: String,
        algorithm: String,
        blob: Vec<u8>,
    }

    impl Said {
        fn request(&self) -> Writer {
            let Self { user, service, algorithm, blob, .. } = self;
            Writer::message(message::USERAUTH_REQUEST).string(user).string(service).string("publickey").boolean(true).string(algorithm).string(blob)
        }
    }

    /// Logs in with a request whose signature is of what `lie` makes of it; afterwards `spoil` may change it. What the
    /// server answers; nothing when it hangs up.
    async fn knock(key: &PrivateKey, lie: impl Fn(&mut Said), spoil: impl Fn(&mut Vec<u8>)) -> Option<u8> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let host_key = host_key();
        let known = HostKeys::of([format!("here {}", host_key.line()).as_str()], &["here"], 22);
        let door = Only(key.public().clone());
        let settings = Arc::new(Settings { host_key, software: "Test" });
        let client = async {
            let mut line = Line { transport: Transport::new(Role::Client { software: "Test", known }).unwrap(), stream: ours };
            line.transport.send(&Writer::message(message::SERVICE_REQUEST).string("ssh-userauth").done()).unwrap();
            assert_eq!(line.next().await.unwrap()[0], message::SERVICE_ACCEPT);
            let said = Said {
                session: line.transport.session_id().to_vec(),
                user: "somebody".to_owned(),
                service: SERVICE.to_owned(),
                algorithm: key.algorithms(None)[0].to_owned(),
                blob: key.public().blob().to_vec(),
            };
            let mut signed = said.clone();
            lie(&mut signed);
            let covered = Writer::default().string(&signed.session).raw(&signed.request().done()).done();
            let mut signature = key.sign(&said.algorithm, &covered).unwrap();
            spoil(&mut signature);
            line.transport.send(&said.request().string(signature).done()).unwrap();
            line.next().await.ok().map(|answer| answer[0])
        };
        let server = login(theirs, settings, &door);
        tokio::select! {
            answer = client => answer,
            Err(_) = server => None,
        }
    }

    #[tokio::test]
    async fn every_field_that_is_signed_counts() {
        for kind in ["ed25519", "ecdsa", "rsa"] {
            let key = fresh(kind);
            let (refused, other) = (Some(message::USERAUTH_FAILURE), fresh(kind));
            assert_eq!(knock(&key, |_| {}, |_| {}).await, Some(message::USERAUTH_SUCCESS), "{kind}");
            assert_eq!(knock(&key, |said| said.session[0] ^= 1, |_| {}).await, refused, "{kind}: another session");
            assert_eq!(knock(&key, |said| said.session.clear(), |_| {}).await, refused, "{kind}: no session");
            assert_eq!(knock(&key, |said| said.user.push_str(" else"), |_| {}).await, refused, "{kind}: another user");
            assert_eq!(knock(&key, |said| said.service.push('x'), |_| {}).await, refused, "{kind}: another service");
            assert_eq!(knock(&key, |said| said.algorithm = "rsa-sha2-256".to_owned(), |_| {}).await, refused, "{kind}: another algorithm");
            assert_eq!(knock(&key, |said| said.blob = other.public().blob().to_vec(), |_| {}).await, refused, "{kind}: another key");
            let spoil = |signature: &mut Vec<u8>| *signature.last_mut().unwrap() ^= 1;
            assert_eq!(knock(&key, |_| {}, spoil).await, refused, "{kind}: a wrong signature");
            assert_eq!(knock(&key, |_| {}, |signature| signature[5] ^= 1).await, refused, "{kind}: a signature of another kind");
            assert_eq!(knock(&key, |_| {}, |signature| signature.push(0)).await, refused, "{kind}: a signature with more behind");
            assert_eq!(knock(&key, |_| {}, Vec::clear).await, refused, "{kind}: no signature");
        }
    }

    /// Whether our client takes a server that shows one key and signs with another.
    #[tokio::test]
    async fn a_server_has_to_sign_with_the_key_that_it_shows() {
        let shown = host_key();
        let line = format!("here {}", shown.line());
        for (host_key, is_right) in [(host_key().showing(&shown), false), (shown, true)] {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            let key = fresh("ed25519");
            let door = Only(key.public().clone());
            let account = crate::Account { software: "Test", user: "somebody".into(), key, host_keys: HostKeys::of([line.as_str()], &["here"], 22) };
            let server = login(theirs, Arc::new(Settings { host_key, software: "Test" }), &door);
            let (client, _) = tokio::join!(crate::connect(ours, account), server);
            match client {
                Ok(_) => assert!(is_right),
                Err(error) => assert!(!is_right && error.to_string().contains("the host key's signature is wrong"), "{error}"),
            }
        }
        assert!(matches!(HostKeys::of([line.as_str()], &["here"], 22).check(host_key().blob()), Err(HostKeyError::Other(_))));
    }

    /// New keys cost more than most of what can be asked for.
    #[tokio::test]
    async fn nobody_gets_new_keys_before_the_login() {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let host_key = host_key();
        let known = HostKeys::of([format!("here {}", host_key.line()).as_str()], &["here"], 22);
        let door = Only(fresh("ed25519").public().clone());
        let client = async {
            let mut line = Line { transport: Transport::new(Role::Client { software: "Test", known }).unwrap(), stream: ours };
            line.transport.send(&Writer::message(message::SERVICE_REQUEST).string("ssh-userauth").done()).unwrap();
            line.next().await.unwrap();
            line.transport.offer().unwrap();
            let _ = line.next().await;
            std::future::pending::<()>().await;
        };
        let server = login(theirs, Arc::new(Settings { host_key, software: "Test" }), &door);
        tokio::select! {
            () = client => {}
            entered = server => assert!(matches!(entered, Err(SshError::Protocol("new keys were asked for too soon")))),
        }
    }
}
