//! Keys that sign receipts. They come as bytes: where those are kept is not known here.

use std::{fmt, str::FromStr};

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

const PUBLIC_BYTES: usize = 32;
/// Hex digits of a key's id.
const ID_CHARS: usize = 16;

/// An Ed25519 key that signs.
pub struct Key(Ed25519KeyPair);

/// Its public half. As text 64 hex digits, or `ed25519:` and these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; PUBLIC_BYTES]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the bytes are no Ed25519 key")]
    NoKey,
    #[error("a public key is 64 hex digits, with or without ed25519: before them")]
    NoPublicKey,
}

impl Key {
    /// Of 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|_| KeyError::NoKey)
    }

    /// Of a key as PKCS#8, version 1 or 2.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Self).map_err(|_| KeyError::NoKey)
    }

    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; PUBLIC_BYTES];
        // Of this algorithm it always has this length.
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.public_key().id())
    }
}

impl PublicKey {
    /// A short name: the begin of its SHA-256, in hex.
    pub fn id(&self) -> String {
        let mut id = hex::encode(Sha256::digest(self.0));
        id.truncate(ID_CHARS);
        id
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let mut bytes = [0; PUBLIC_BYTES];
        hex::decode_to_slice(text.strip_prefix("ed25519:").unwrap_or(text), &mut bytes).map_err(|_| KeyError::NoPublicKey)?;
        Ok(Self(bytes))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
