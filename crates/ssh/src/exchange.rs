//! Agreeing on keys: KEXINIT, ECDH, and what keys are made of (RFC 4253, sections 7 and 8; RFC 8731, RFC 5656).

use ring::{
    agreement::{self, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, X25519},
    digest::{Context, SHA256},
    rand::{SecureRandom, SystemRandom},
};

use crate::{
    HostKey, HostKeys, SshError,
    cipher::Cipher,
    message,
    wire::{Reader, Writer},
};

/// Protects the first exchange against messages that somebody slipped in.
const STRICT_CLIENT: &str = "kex-strict-c-v00@openssh.com";
const STRICT_SERVER: &str = "kex-strict-s-v00@openssh.com";
const EXTENSIONS_CLIENT: &str = "ext-info-c";
/// Taken by no cipher that is agreed on; every client offers it.
const MAC: &str = "hmac-sha2-256";
const NO_COMPRESSION: &str = "none";

/// How a secret is agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    X25519,
    P256,
}

const METHODS: [(&str, Method); 3] =
    [("curve25519-sha256", Method::X25519), ("curve25519-sha256@libssh.org", Method::X25519), ("ecdh-sha2-nistp256", Method::P256)];

/// What both sides want.
#[derive(Debug, Clone)]
pub struct Agreed {
    method: Method,
    /// The algorithm of the server's signature.
    pub host_algorithm: String,
    /// From the client and to it.
    pub ciphers: (Cipher, Cipher),
    pub strict: bool,
    pub extensions: bool,
    /// The other side sent its first packet by a guess that was wrong.
    pub skip_guess: bool,
}

/// Whose words are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// Our KEXINIT, with the algorithms of host keys that we have or know.
pub fn offer(side: Side, host_algorithms: &str, random: &SystemRandom) -> Result<Vec<u8>, SshError> {
    let mut cookie = [0; 16];
    random.fill(&mut cookie)?;
    let markers: &[&str] = match side {
        Side::Client => &[EXTENSIONS_CLIENT, STRICT_CLIENT],
        Side::Server => &[STRICT_SERVER],
    };
    let methods: Vec<&str> = METHODS.iter().map(|(name, _)| *name).chain(markers.iter().copied()).collect();
    let ciphers = Cipher::ALL.map(Cipher::name).join(",");
    let mut writer = Writer::message(message::KEXINIT).raw(&cookie).string(methods.join(",")).string(host_algorithms);
    for list in [&*ciphers, &*ciphers, MAC, MAC, NO_COMPRESSION, NO_COMPRESSION, "", ""] {
        writer = writer.string(list);
    }
    Ok(writer.boolean(false).u32(0).done())
}

/// A KEXINIT as it was read.
struct Init<'a> {
    lists: [&'a str; 10],
    guessed: bool,
}

impl<'a> Init<'a> {
    fn read(payload: &'a [u8]) -> Result<Self, SshError> {
        let mut reader = Reader::new(payload);
        reader.take(17)?;
        let mut lists = [""; 10];
        for list in &mut lists {
            *list = reader.text()?;
        }
        let guessed = reader.boolean()?;
        reader.u32()?;
        reader.end()?;
        Ok(Self { lists, guessed })
    }

    fn names(&self, at: usize) -> impl Iterator<Item = &'a str> {
        self.lists[at].split(',')
    }

    fn first(&self, at: usize) -> Option<&'a str> {
        self.names(at).next()
    }
}

/// What follows from both KEXINITs; `theirs` says which one came from the other side. The client's order decides.
pub fn agree(said: &Said, theirs: Side) -> Result<Agreed, SshError> {
    let (client, server) = (Init::read(&said.client_init)?, Init::read(&said.server_init)?);
    let common = |at: usize, what: &'static str| {
        let found = client.names(at).find(|name| !name.is_empty() && server.names(at).any(|other| other == *name));
        found.ok_or(SshError::NothingInCommon(what))
    };
    let method = common(0, "key exchange method")?;
    let (_, method) = METHODS.iter().find(|(name, _)| *name == method).ok_or(SshError::NothingInCommon("key exchange method"))?;
    let host_algorithm = common(1, "kind of host key")?.to_owned();
    let cipher = |at: usize| {
        let name = common(at, "cipher")?;
        Cipher::ALL.into_iter().find(|cipher| cipher.name() == name).ok_or(SshError::NothingInCommon("cipher"))
    };
    let ciphers = (cipher(2)?, cipher(3)?);
    for at in [6, 7] {
        common(at, "compression")?;
    }
    let right_guess = [0, 1].into_iter().all(|at| client.first(at) == server.first(at));
    let guessed = match theirs {
        Side::Client => client.guessed,
        Side::Server => server.guessed,
    };
    Ok(Agreed {
        method: *method,
        host_algorithm,
        ciphers,
        strict: client.names(0).any(|name| name == STRICT_CLIENT) && server.names(0).any(|name| name == STRICT_SERVER),
        extensions: client.names(0).any(|name| name == EXTENSIONS_CLIENT),
        skip_guess: guessed && !right_guess,
    })
}

/// What both sides said before, which the exchange covers.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub client: Vec<u8>,
    pub server: Vec<u8>,
    pub client_init: Vec<u8>,
    pub server_init: Vec<u8>,
}

impl Said {
    /// The line with which a side said what it is.
    pub fn line(&mut self, side: Side) -> &mut Vec<u8> {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    pub fn init(&mut self, side: Side) -> &mut Vec<u8> {
        match side {
            Side::Client => &mut self.client_init,
            Side::Server => &mut self.server_init,
        }
    }
}

/// A secret that is shared now.
pub struct Shared {
    secret: Vec<u8>,
    hash: Vec<u8>,
}

/// Our half of an exchange.
pub struct Half {
    algorithm: &'static agreement::Algorithm,
    private: EphemeralPrivateKey,
    public: agreement::PublicKey,
}

impl Half {
    pub fn new(agreed: &Agreed, random: &SystemRandom) -> Result<Self, SshError> {
        let algorithm: &agreement::Algorithm = match agreed.method {
            Method::X25519 => &X25519,
            Method::P256 => &ECDH_P256,
        };
        let private = EphemeralPrivateKey::generate(algorithm, random)?;
        let public = private.compute_public_key()?;
        Ok(Self { algorithm, private, public })
    }

    /// The message with which a client begins.
    pub fn init(&self) -> Vec<u8> {
        Writer::message(message::KEX_ECDH_INIT).string(self.public.as_ref()).done()
    }

    fn share(self, said: &Said, side: Side, theirs: &[u8], host_key: &[u8]) -> Result<Shared, SshError> {
        let secret = agreement::agree_ephemeral(self.private, &UnparsedPublicKey::new(self.algorithm, theirs), <[u8]>::to_vec);
        let secret = secret.map_err(|_| SshError::Protocol("the half of the key exchange is no point"))?;
        let ours = self.public.as_ref();
        let (client, server) = match side {
            Side::Client => (ours, theirs),
            Side::Server => (theirs, ours),
        };
        let mut context = Context::new(&SHA256);
        let covered = Writer::default()
            .string(&said.client)
            .string(&said.server)
            .string(&said.client_init)
            .string(&said.server_init)
            .string(host_key)
            .string(client)
            .string(server)
            .positive(&secret)
            .done();
        context.update(&covered);
        Ok(Shared { secret, hash: context.finish().as_ref().to_vec() })
    }
}

/// Answers the client's half of the exchange.
pub fn answer(agreed: &Agreed, said: &Said, payload: &[u8], host_key: &HostKey, random: &SystemRandom) -> Result<(Shared, Vec<u8>), SshError> {
    let mut reader = Reader::new(&payload[1..]);
    let theirs = reader.string()?;
    reader.end()?;
    let half = Half::new(agreed, random)?;
    let public = half.public.as_ref().to_vec();
    let shared = half.share(said, Side::Server, theirs, host_key.blob())?;
    let reply = Writer::message(message::KEX_ECDH_REPLY).string(host_key.blob()).string(public).string(host_key.sign(&shared.hash)).done();
    Ok((shared, reply))
}

/// Takes the server's answer to our half, if it is from one of the keys that we know it by.
pub fn finish(agreed: &Agreed, said: &Said, payload: &[u8], half: Half, known: &HostKeys) -> Result<Shared, SshError> {
    let mut reader = Reader::new(&payload[1..]);
    let (host_key, theirs, signature) = (reader.string()?, reader.string()?, reader.string()?);
    reader.end()?;
    let key = known.check(host_key)?;
    let shared = half.share(said, Side::Client, theirs, host_key)?;
    if !key.has_signed(&agreed.host_algorithm, &shared.hash, signature) {
        return Err(SshError::Protocol("the host key's signature is wrong"));
    }
    Ok(shared)
}

impl Shared {
    /// The hash of the exchange; that of the first is the session's id.
    pub fn hash(&self) -> &[u8] {
        &self.hash
    }

    /// Bytes for a purpose, `A` to `F`.
    pub fn derive(&self, purpose: u8, session: &[u8], length: usize) -> Vec<u8> {
        let head = Writer::default().positive(&self.secret).raw(&self.hash).done();
        let mut bytes = Vec::with_capacity(length + 32);
        while bytes.len() < length {
            let mut context = Context::new(&SHA256);
            context.update(&head);
            if bytes.is_empty() {
                context.update(&[purpose]);
                context.update(session);
            } else {
                context.update(&bytes);
            }
            bytes.extend_from_slice(context.finish().as_ref());
        }
        bytes.truncate(length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(lists: [&str; 10], guessed: bool) -> Vec<u8> {
        let mut writer = Writer::message(message::KEXINIT).raw(&[0; 16]);
        for list in lists {
            writer = writer.string(list);
        }
        writer.boolean(guessed).u32(0).done()
    }

    #[test]
    fn the_first_of_the_client_that_we_know_is_taken() {
        let gcm = "aes256-ctr,aes128-gcm@openssh.com,chacha20-poly1305@openssh.com";
        let lists = [
            "sntrup,ecdh-sha2-nistp256,curve25519-sha256,kex-strict-c-v00@openssh.com",
            "rsa-sha2-512,ssh-ed25519",
            gcm,
            gcm,
            MAC,
            MAC,
            "zlib,none",
            "none",
            "",
            "",
        ];
        let said = |client_init| {
            let server_init = offer(Side::Server, HostKey::kind(), &SystemRandom::new()).unwrap();
            Said { client_init, server_init, ..Said::default() }
        };
        let agreed = agree(&said(init(lists, true)), Side::Client).unwrap();
        assert_eq!((agreed.method, agreed.ciphers), (Method::P256, (Cipher::Aes128Gcm, Cipher::Aes128Gcm)));
        assert!(agreed.strict && !agreed.extensions && agreed.skip_guess);
        assert!(!agree(&said(init(lists, true)), Side::Server).unwrap().skip_guess, "the guess was ours");
        for (at, text) in [(0, "diffie-hellman-group1-sha1"), (1, "ssh-rsa"), (2, "aes256-cbc"), (3, "")] {
            let mut wrong = lists;
            wrong[at] = text;
            assert!(matches!(agree(&said(init(wrong, false)), Side::Client), Err(SshError::NothingInCommon(_))), "{at}");
        }
        let ours = offer(Side::Client, "rsa-sha2-512,ssh-ed25519", &SystemRandom::new()).unwrap();
        let agreed = agree(&said(ours), Side::Server).unwrap();
        assert_eq!((agreed.method, &*agreed.host_algorithm, agreed.strict, agreed.extensions), (Method::X25519, "ssh-ed25519", true, true));
        assert!(agree(&said(vec![message::KEXINIT; 40]), Side::Client).is_err());
    }
}
