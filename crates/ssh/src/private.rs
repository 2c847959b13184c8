//! Private keys to log in with: read from the formats in which people have them, and used to sign.
//!
//! OpenSSH's own format, with a passphrase or without, and without one PKCS#8, PKCS#1 and SEC1. Signing is ring's.

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::{
    rand::SystemRandom,
    rsa::{KeyPairComponents, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
        RSA_PKCS1_SHA512, RsaKeyPair,
    },
};
use ssh_key::{
    Kdf, LineEnding, Mpint,
    private::{EcdsaKeypair, KeypairData},
};

use crate::{PublicKey, SshError, wire::Writer};

const OPENSSH: &str = "OPENSSH PRIVATE KEY";
/// What a passphrase may cost: the usual 16 to 24 rounds take a fraction of a second.
const ROUNDS_MAX: u32 = 256;

/// The longest number of an RSA key that can be used.
const RSA_BYTES_MAX: usize = 4096 / 8;

/// Why a text is no private key that can be used. None of these shows any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrivateKeyError {
    #[error("is no private key in PEM; known are OPENSSH PRIVATE KEY, PRIVATE KEY, RSA PRIVATE KEY and EC PRIVATE KEY")]
    Unreadable,
    #[error("is in OpenSSH's format and cannot be read: it is cut short, was changed, or is of a kind that is not known")]
    Damaged,
    #[error("is encrypted, and no passphrase was given")]
    NoPassphrase,
    #[error("is not opened by its passphrase")]
    WrongPassphrase,
    #[error("is encrypted in another format than OpenSSH's; ssh-keygen -p rewrites it")]
    Encryption,
    #[error("costs too much to open; allowed are {ROUNDS_MAX} rounds (ssh-keygen -p -a 16 rewrites it)")]
    Rounds,
    #[error("is of a kind that cannot be used; known are Ed25519, ECDSA on P-256 and P-384, and RSA of 2048 to 4096 bits")]
    Kind,
}

/// A private key.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

/// A curve for ECDSA, by what each part of the software calls it.
struct Curve {
    kind: &'static str,
    name: &'static str,
    signing: &'static EcdsaSigningAlgorithm,
    /// Its identifier in DER.
    oid: &'static [u8],
}

const P256: Curve = Curve {
    kind: "ecdsa-sha2-nistp256",
    name: "nistp256",
    signing: &ECDSA_P256_SHA256_FIXED_SIGNING,
    oid: &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
};
const P384: Curve =
    Curve { kind: "ecdsa-sha2-nistp384", name: "nistp384", signing: &ECDSA_P384_SHA384_FIXED_SIGNING, oid: &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22] };

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "private key of {:?}", self.public)
    }
}

impl PrivateKey {
    /// Reads a key. A passphrase takes a good part of a second, in which this does not return.
    ///
    /// # Errors
    /// It is none, or none that can be used, or the passphrase is not its own.
    pub fn from_pem(text: &str, passphrase: Option<&str>) -> Result<Self, PrivateKeyError> {
        let (label, der) = unwrap(text)?;
        match &*label {
            OPENSSH => Self::from_openssh(&der, passphrase),
            "PRIVATE KEY" => Self::from_pkcs8(&der),
            "RSA PRIVATE KEY" => Self::from_rsa(RsaKeyPair::from_der(&der).map_err(|_| PrivateKeyError::Kind)?),
            "EC PRIVATE KEY" => {
                let as_pkcs8 = |curve: &Curve| Self::from_ecdsa_pkcs8(curve, &sec1_as_pkcs8(curve, &der));
                as_pkcs8(&P256).or_else(|_| as_pkcs8(&P384))
            }
            "ENCRYPTED PRIVATE KEY" => Err(PrivateKeyError::Encryption),
            _ => Err(PrivateKeyError::Unreadable),
        }
    }

    /// The text of a key that can be used, without its passphrase: in OpenSSH's format when it had one, else as it was.
    ///
    /// # Errors
    /// As [`PrivateKey::from_pem`].
    pub fn opened(text: &str, passphrase: Option<&str>) -> Result<String, PrivateKeyError> {
        let (label, der) = unwrap(text)?;
        let mut opened = text.to_owned();
        if label == OPENSSH {
            let key = read_openssh(&der)?;
            if key.is_encrypted() {
                let key = decrypt(key, passphrase)?;
                opened = key.to_openssh(LineEnding::LF).map_err(|_| PrivateKeyError::Kind)?.to_string();
            }
        }
        Self::from_pem(&opened, None)?;
        Ok(opened)
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, PrivateKeyError> {
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Self::from_ed25519(pair);
        }
        if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
            return Self::from_rsa(pair);
        }
        Self::from_ecdsa_pkcs8(&P256, der).or_else(|_| Self::from_ecdsa_pkcs8(&P384, der))
    }

    fn from_ecdsa_pkcs8(curve: &Curve, der: &[u8]) -> Result<Self, PrivateKeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(curve.signing, der, &SystemRandom::new());
        Self::from_ecdsa(curve, pair.map_err(|_| PrivateKeyError::Kind)?)
    }

    fn from_openssh(bytes: &[u8], passphrase: Option<&str>) -> Result<Self, PrivateKeyError> {
        let key = decrypt(read_openssh(bytes)?, passphrase)?;
        let unusable = |_| PrivateKeyError::Kind;
        let ecdsa = |curve: &Curve, private: &[u8], public: &[u8]| {
            let pair = EcdsaKeyPair::from_private_key_and_public_key(curve.signing, private, public, &SystemRandom::new());
            Self::from_ecdsa(curve, pair.map_err(unusable)?)
        };
        match key.key_data() {
            KeypairData::Ed25519(pair) => {
                let pair = Ed25519KeyPair::from_seed_and_public_key(pair.private.as_ref(), pair.public.as_ref());
                Self::from_ed25519(pair.map_err(unusable)?)
            }
            KeypairData::Ecdsa(EcdsaKeypair::NistP256 { public, private }) => ecdsa(&P256, private.as_slice(), public.as_bytes()),
            KeypairData::Ecdsa(EcdsaKeypair::NistP384 { public, private }) => ecdsa(&P384, private.as_slice(), public.as_bytes()),
            KeypairData::Rsa(pair) => {
                fn number(number: &Mpint) -> Result<&[u8], PrivateKeyError> {
                    number.as_positive_bytes().ok_or(PrivateKeyError::Kind)
                }
                let (p, q, d) = (number(&pair.private.p)?, number(&pair.private.q)?, number(&pair.private.d)?);
                // Before anything is made of them.
                if [p, q, d].into_iter().any(|number| number.len() > RSA_BYTES_MAX) {
                    return Err(PrivateKeyError::Kind);
                }
                let components = KeyPairComponents {
                    public_key: PublicKeyComponents { n: number(&pair.public.n)?, e: number(&pair.public.e)? },
                    d,
                    p,
                    q,
                    dP: &remainder(d, &less_one(p)),
                    dQ: &remainder(d, &less_one(q)),
                    qInv: number(&pair.private.iqmp)?,
                };
                Self::from_rsa(RsaKeyPair::from_components(&components).map_err(unusable)?)
            }
            _ => Err(PrivateKeyError::Kind),
        }
    }

    fn from_ed25519(pair: Ed25519KeyPair) -> Result<Self, PrivateKeyError> {
        let public = Writer::default().string("ssh-ed25519").string(pair.public_key());
        Self::assemble(Pair::Ed25519(pair), public)
    }

    fn from_ecdsa(curve: &Curve, pair: EcdsaKeyPair) -> Result<Self, PrivateKeyError> {
        let public = Writer::default().string(curve.kind).string(curve.name).string(pair.public_key());
        Self::assemble(Pair::Ecdsa(pair), public)
    }

    fn from_rsa(pair: RsaKeyPair) -> Result<Self, PrivateKeyError> {
        let numbers: PublicKeyComponents<Vec<u8>> = pair.public().into();
        let public = Writer::default().string("ssh-rsa").positive(&numbers.e).positive(&numbers.n);
        Self::assemble(Pair::Rsa(Box::new(pair)), public)
    }

    fn assemble(pair: Pair, public: Writer) -> Result<Self, PrivateKeyError> {
        let public = PublicKey::from_blob(&public.done()).map_err(|_| PrivateKeyError::Kind)?;
        Ok(Self { pair, public })
    }

    /// The algorithms to sign with, best first, of those that a server says it takes.
    pub(crate) fn algorithms(&self, taken: Option<&str>) -> Vec<&'static str> {
        let ours: &[&str] = match self.pair {
            Pair::Rsa(_) => &["rsa-sha2-512", "rsa-sha2-256"],
            Pair::Ed25519(_) | Pair::Ecdsa(_) => return vec![self.public.kind()],
        };
        let is_taken = |name: &&str| taken.is_none_or(|taken| taken.split(',').any(|other| other == *name));
        let both: Vec<_> = ours.iter().copied().filter(is_taken).collect();
        if both.is_empty() { ours.to_vec() } else { both }
    }

    /// A signature as the protocol sends it.
    pub(crate) fn sign(&self, algorithm: &str, message: &[u8]) -> Result<Vec<u8>, SshError> {
        let random = SystemRandom::new();
        let writer = Writer::default().string(algorithm);
        Ok(match &self.pair {
            Pair::Ed25519(pair) => writer.string(pair.sign(message)),
            Pair::Ecdsa(pair) => {
                let signature = pair.sign(&random, message)?;
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                writer.string(Writer::default().positive(r).positive(s).done())
            }
            Pair::Rsa(pair) => {
                let padding = if algorithm == "rsa-sha2-512" { &RSA_PKCS1_SHA512 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, message, &mut signature)?;
                writer.string(signature)
            }
        }
        .done())
    }
}

/// What a PEM calls its content, and the content.
fn unwrap(text: &str) -> Result<(String, Vec<u8>), PrivateKeyError> {
    let (_, rest) = text.split_once("-----BEGIN ").ok_or(PrivateKeyError::Unreadable)?;
    let (label, rest) = rest.split_once("-----").ok_or(PrivateKeyError::Unreadable)?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----")).ok_or(PrivateKeyError::Unreadable)?;
    if body.contains("ENCRYPTED") {
        return Err(PrivateKeyError::Encryption);
    }
    let body: String = body.split_ascii_whitespace().collect();
    Ok((label.to_owned(), BASE64_STANDARD.decode(body).map_err(|_| PrivateKeyError::Unreadable)?))
}

/// What PKCS#8 puts around a key of SEC1 (RFC 5958, RFC 5915).
fn sec1_as_pkcs8(curve: &Curve, sec1: &[u8]) -> Vec<u8> {
    const VERSION: [u8; 3] = [0x02, 0x01, 0x00];
    const EC_PUBLIC_KEY: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let algorithm = der(0x30, &[&EC_PUBLIC_KEY, curve.oid].concat());
    der(0x30, &[&VERSION, &*algorithm, &der(0x04, sec1)].concat())
}

/// A value of ASN.1 that is shorter than 64 KiB, which keys are; with a longer one it is nothing that can be read.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [&*head, content].concat()
}

/// A key without its passphrase, if it has one.
fn decrypt(key: ssh_key::PrivateKey, passphrase: Option<&str>) -> Result<ssh_key::PrivateKey, PrivateKeyError> {
    if !key.is_encrypted() {
        return Ok(key);
    }
    if matches!(key.kdf(), Kdf::Bcrypt { rounds, .. } if *rounds > ROUNDS_MAX) {
        return Err(PrivateKeyError::Rounds);
    }
    key.decrypt(passphrase.ok_or(PrivateKeyError::NoPassphrase)?).map_err(|_| PrivateKeyError::WrongPassphrase)
}

/// A prime less one: it is odd.
fn less_one(prime: &[u8]) -> Vec<u8> {
    let mut bytes = prime.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last &= !1;
    }
    bytes
}

/// The remainder of a division, bit by bit; what it does hangs on the lengths alone. OpenSSH's format leaves out two
/// numbers that ring wants and that follow from the others.
fn remainder(number: &[u8], by: &[u8]) -> Vec<u8> {
    let mut rest = vec![0_u8; by.len() + 1];
    for at in 0..number.len() * 8 {
        let mut carry = number[at / 8] >> (7 - at % 8) & 1;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        let mut less = rest.clone();
        let mut borrow = 0;
        for (byte, by) in less.iter_mut().rev().zip(by.iter().rev().chain([&0])) {
            let difference = i16::from(*byte) - i16::from(*by) - borrow;
            (*byte, borrow) = (difference as u8, i16::from(difference < 0));
        }
        // All ones when it was not less.
        let keep = (borrow - 1) as u8;
        for (byte, less) in rest.iter_mut().zip(&less) {
            *byte = *less & keep | *byte & !keep;
        }
    }
    let zeros = rest.iter().take_while(|byte| **byte == 0).count();
    rest.split_off(zeros)
}

/// Keys of the curve that is not served here cannot always be read: their numbers may begin with zeros. They are sound all the same.
fn read_openssh(bytes: &[u8]) -> Result<ssh_key::PrivateKey, PrivateKeyError> {
    const UNSERVED: &[u8] = b"ecdsa-sha2-nistp521";
    ssh_key::PrivateKey::from_bytes(bytes).map_err(|_| match bytes.windows(UNSERVED.len()).any(|name| name == UNSERVED) {
        true => PrivateKeyError::Kind,
        false => PrivateKeyError::Damaged,
    })
}

#[cfg(test)]
pub mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_remainder_is_one(number: u128, by in 1_u64..) {
            let bytes = remainder(&number.to_be_bytes(), &by.to_be_bytes());
            let rest = bytes.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
            prop_assert_eq!(rest, number % u128::from(by));
        }

        #[test]
        fn no_text_does_harm(text in "\\PC{0,100}", body: Vec<u8>, at in 0_usize..4) {
            let _ = PrivateKey::from_pem(&text, Some("x"));
            let label = ["OPENSSH PRIVATE KEY", "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"][at];
            let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(&body));
            prop_assert!(PrivateKey::from_pem(&pem, Some("x")).is_err());
        }
    }

    struct Folder(std::path::PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A new key as ssh-keygen makes it.
    pub fn fresh(kind: &str) -> PrivateKey {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = Folder(std::env::temp_dir().join(format!("sandbar-ssh-fresh-{}-{number}", std::process::id())));
        std::fs::create_dir_all(&folder.0).unwrap();
        let path = folder.0.join("key");
        run("ssh-keygen", &["-q", "-t", kind, "-N", "", "-f", path.to_str().unwrap()]);
        PrivateKey::from_pem(&std::fs::read_to_string(path).unwrap(), None).unwrap()
    }

    fn run(program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn keys_of_every_kind_and_format() {
        let folder = Folder(std::env::temp_dir().join(format!("sandbar-ssh-private-{}", std::process::id())));
        let _ = std::fs::remove_dir_all(&folder.0);
        std::fs::create_dir_all(&folder.0).unwrap();
        let path = folder.0.join("key");
        let file = path.to_str().unwrap();
        for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("rsa", "2048"), ("rsa", "4096")] {
            let _ = std::fs::remove_file(&path);
            run("ssh-keygen", &["-q", "-t", kind, "-b", bits, "-N", "", "-f", file]);
            let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
            let public = PublicKey::from_line(&public).unwrap().0;
            let check = |passphrase: Option<&str>| {
                let key = PrivateKey::from_pem(&std::fs::read_to_string(&path).unwrap(), passphrase)?;
                assert_eq!(*key.public(), public, "{kind} {bits}");
                for algorithm in key.algorithms(None) {
                    assert!(public.has_signed(algorithm, b"message", &key.sign(algorithm, b"message").unwrap()), "{kind} {bits}");
                }
                Ok(())
            };
            check(None).unwrap();
            run("ssh-keygen", &["-q", "-p", "-P", "", "-N", "a secret", "-f", file]);
            check(Some("a secret")).unwrap();
            let opened = PrivateKey::opened(&std::fs::read_to_string(&path).unwrap(), Some("a secret")).unwrap();
            assert_eq!(*PrivateKey::from_pem(&opened, None).unwrap().public(), public);
            assert_eq!(PrivateKey::opened(&opened, None).as_ref(), Ok(&opened), "{kind} {bits}");
            assert_eq!(check(Some("another")), Err(PrivateKeyError::WrongPassphrase));
            assert_eq!(check(None), Err(PrivateKeyError::NoPassphrase));
            run("ssh-keygen", &["-q", "-p", "-P", "a secret", "-N", "", "-f", file]);
            if kind != "ed25519" {
                for format in ["PEM", "PKCS8"] {
                    run("ssh-keygen", &["-q", "-p", "-m", format, "-P", "", "-N", "", "-f", file]);
                    check(None).unwrap();
                }
                run("ssh-keygen", &["-q", "-p", "-m", "PEM", "-P", "", "-N", "a secret", "-f", file]);
                assert_eq!(check(Some("a secret")), Err(PrivateKeyError::Encryption));
            }
        }
        run("openssl", &["genpkey", "-algorithm", "ed25519", "-out", file]);
        let pem = std::fs::read_to_string(&path).unwrap();
        assert_eq!(PrivateKey::from_pem(&pem, None).unwrap().public().kind(), "ssh-ed25519");
        let _ = std::fs::remove_file(&path);
        run("ssh-keygen", &["-q", "-t", "ecdsa", "-b", "521", "-N", "", "-f", file]);
        let pem = std::fs::read_to_string(&path).unwrap();
        assert_eq!(PrivateKey::from_pem(&pem, None).unwrap_err(), PrivateKeyError::Kind);
        let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        assert_eq!(PrivateKey::from_pem(&public, None).unwrap_err(), PrivateKeyError::Unreadable);
    }
}
