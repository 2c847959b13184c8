//! Agreeing on keys: KEXINIT, ECDH, and what keys are made of (RFC 4253, sections 7 and 8; RFC 8731, RFC 5656).

use ring::{
    agreement::{self, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, X25519},
    digest::{Context, SHA256},
    rand::{SecureRandom, SystemRandom},
};

use crate::{
    HostKey, SshError,
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
    /// From the client and to it.
    pub ciphers: (Cipher, Cipher),
    pub strict: bool,
    pub extensions: bool,
    /// The client sent its first packet by a guess that was wrong.
    pub skip_guess: bool,
}

/// Our KEXINIT.
pub fn offer(random: &SystemRandom) -> Result<Vec<u8>, SshError> {
    let mut cookie = [0; 16];
    random.fill(&mut cookie)?;
    let methods: Vec<&str> = METHODS.iter().map(|(name, _)| *name).chain([STRICT_SERVER]).collect();
    let ciphers = Cipher::ALL.map(Cipher::name).join(",");
    let mut writer = Writer::message(message::KEXINIT).raw(&cookie).string(methods.join(",")).string(HostKey::kind());
    for list in [&*ciphers, &*ciphers, MAC, MAC, NO_COMPRESSION, NO_COMPRESSION, "", ""] {
        writer = writer.string(list);
    }
    Ok(writer.boolean(false).u32(0).done())
}

/// What follows from the client's KEXINIT. The client's order decides.
pub fn agree(theirs: &[u8]) -> Result<Agreed, SshError> {
    let mut reader = Reader::new(theirs);
    reader.take(17)?;
    let mut lists = [""; 10];
    for list in &mut lists {
        *list = reader.text()?;
    }
    let guessed = reader.boolean()?;
    reader.u32()?;
    reader.end()?;
    let names = |at: usize| lists[at].split(',');
    let (first, method) = names(0).find_map(|name| METHODS.iter().find(|(known, _)| *known == name)).ok_or(SshError::NothingInCommon("key exchange method"))?;
    if !names(1).any(|name| name == HostKey::kind()) {
        return Err(SshError::NothingInCommon("kind of host key"));
    }
    let cipher = |at: usize| {
        let found = names(at).find_map(|name| Cipher::ALL.into_iter().find(|cipher| cipher.name() == name));
        found.ok_or(SshError::NothingInCommon("cipher"))
    };
    let ciphers = (cipher(2)?, cipher(3)?);
    if !names(6).chain(names(7)).any(|name| name == NO_COMPRESSION) {
        return Err(SshError::NothingInCommon("compression"));
    }
    let right_guess = names(0).next() == Some(first) && names(1).next() == Some(HostKey::kind());
    Ok(Agreed {
        method: *method,
        ciphers,
        strict: names(0).any(|name| name == STRICT_CLIENT),
        extensions: names(0).any(|name| name == EXTENSIONS_CLIENT),
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

/// A secret that is shared now.
pub struct Shared {
    secret: Vec<u8>,
    hash: Vec<u8>,
}

/// Answers the client's half of the exchange.
pub fn answer(agreed: &Agreed, said: &Said, theirs: &[u8], host_key: &HostKey, random: &SystemRandom) -> Result<(Shared, Vec<u8>), SshError> {
    let algorithm: &agreement::Algorithm = match agreed.method {
        Method::X25519 => &X25519,
        Method::P256 => &ECDH_P256,
    };
    let own = EphemeralPrivateKey::generate(algorithm, random)?;
    let public = own.compute_public_key()?;
    let secret = agreement::agree_ephemeral(own, &UnparsedPublicKey::new(algorithm, theirs), <[u8]>::to_vec);
    let secret = secret.map_err(|_| SshError::Protocol("the half of the key exchange is no point"))?;
    let mut context = Context::new(&SHA256);
    let covered = Writer::default()
        .string(&said.client)
        .string(&said.server)
        .string(&said.client_init)
        .string(&said.server_init)
        .string(host_key.blob())
        .string(theirs)
        .string(public.as_ref())
        .positive(&secret)
        .done();
    context.update(&covered);
    let hash = context.finish().as_ref().to_vec();
    let reply = Writer::message(message::KEX_ECDH_REPLY).string(host_key.blob()).string(public.as_ref()).string(host_key.sign(&hash)).done();
    Ok((Shared { secret, hash }, reply))
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
        let agreed = agree(&init(lists, true)).unwrap();
        assert_eq!((agreed.method, agreed.ciphers), (Method::P256, (Cipher::Aes128Gcm, Cipher::Aes128Gcm)));
        assert!(agreed.strict && !agreed.extensions && agreed.skip_guess);
        for (at, text) in [(0, "diffie-hellman-group1-sha1"), (1, "ssh-rsa"), (2, "aes256-cbc"), (3, "")] {
            let mut wrong = lists;
            wrong[at] = text;
            assert!(matches!(agree(&init(wrong, false)), Err(SshError::NothingInCommon(_))), "{at}");
        }
        assert!(agree(&[message::KEXINIT; 40]).is_err());
    }
}
