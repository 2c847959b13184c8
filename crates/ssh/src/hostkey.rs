//! The key by which clients know the server again.

use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};

use crate::{PublicKey, SshError, key, wire::Writer};

const KIND: &str = "ssh-ed25519";

/// An Ed25519 key.
pub struct HostKey {
    pair: Ed25519KeyPair,
    blob: Vec<u8>,
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.fingerprint())
    }
}

impl HostKey {
    /// Makes one, as PKCS#8.
    ///
    /// # Errors
    /// The machine gives no random numbers.
    pub fn generate() -> Result<Vec<u8>, SshError> {
        Ok(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())?.as_ref().to_vec())
    }

    /// Reads what [`HostKey::generate`] made; `None` for something else.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
        let blob = Writer::default().string(KIND).string(pair.public_key()).done();
        Some(Self { pair, blob })
    }

    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// As in a `known_hosts` file, without the host's name.
    pub fn line(&self) -> String {
        PublicKey::from_blob(&self.blob).map(|key| key.line()).unwrap_or_default()
    }

    /// As clients show it.
    pub fn fingerprint(&self) -> String {
        key::fingerprint(&self.blob)
    }

    pub(crate) fn kind() -> &'static str {
        KIND
    }

    /// One that pretends to be another.
    #[cfg(test)]
    pub(crate) fn showing(self, other: &Self) -> Self {
        Self { blob: other.blob.clone(), ..self }
    }

    /// A signature as the protocol sends it.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        Writer::default().string(KIND).string(self.pair.sign(message)).done()
    }
}
