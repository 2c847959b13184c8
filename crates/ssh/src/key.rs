//! Public keys of people: read, named by their fingerprint, and asked whether a signature is theirs.

use std::fmt;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use ring::{
    digest::{SHA256, digest},
    signature::{self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RsaPublicKeyComponents, UnparsedPublicKey},
};

use crate::wire::{Malformed, Reader};

/// Signature algorithms that a client may use, as the extension `server-sig-algs` names them.
pub const SIGNATURES: &str = "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,rsa-sha2-512,rsa-sha2-256,\
sk-ssh-ed25519@openssh.com,sk-ecdsa-sha2-nistp256@openssh.com";

const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 4096;
/// Of a key as bytes, which the longest RSA key fits.
const BLOB_BYTES_MAX: usize = 4 << 10;
/// A hardware key says with this bit that somebody touched it.
const TOUCHED: u8 = 1;

/// Why a text is no key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("is no public key; it has to be one line as in a .pub file, for example \"ssh-ed25519 AAAAC3... name\"")]
    Unreadable,
    #[error("is a private key; give the public one, from the file that ends in .pub")]
    Private,
    #[error("is of the kind {0:?}; known are ssh-ed25519, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ssh-rsa, and both kinds of hardware keys (sk-...)")]
    Kind(String),
    #[error("is an RSA key of {0} bits; allowed are {RSA_BITS_MIN} to {RSA_BITS_MAX}")]
    Bits(usize),
}

/// What a key is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ed25519,
    P256,
    P384,
    Rsa,
    SkEd25519,
    SkP256,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Ed25519, Self::P256, Self::P384, Self::Rsa, Self::SkEd25519, Self::SkP256];

    fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::P256 => "ecdsa-sha2-nistp256",
            Self::P384 => "ecdsa-sha2-nistp384",
            Self::Rsa => "ssh-rsa",
            Self::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            Self::SkP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    /// Whether a signature of this algorithm may be one of such a key.
    fn signs(self, algorithm: &str) -> bool {
        match self {
            Self::Rsa => matches!(algorithm, "rsa-sha2-256" | "rsa-sha2-512"),
            Self::Ed25519 | Self::P256 | Self::P384 | Self::SkEd25519 | Self::SkP256 => algorithm == self.name(),
        }
    }
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: Kind,
    blob: Vec<u8>,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.fingerprint())
    }
}

impl PublicKey {
    /// From the bytes that the protocol sends.
    ///
    /// # Errors
    /// It is no key, or none that can be used.
    pub fn from_blob(blob: &[u8]) -> Result<Self, KeyError> {
        if blob.len() > BLOB_BYTES_MAX {
            return Err(KeyError::Unreadable);
        }
        let mut reader = Reader::new(blob);
        let name = reader.text().map_err(|_| KeyError::Unreadable)?;
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
            return Err(KeyError::Kind(name.chars().take(64).collect()));
        };
        check(kind, &mut reader)?;
        Ok(Self { kind, blob: blob.to_vec() })
    }

    /// From a line as in `authorized_keys` without options, or a `.pub` file; with its comment.
    ///
    /// # Errors
    /// As [`PublicKey::from_blob`].
    pub fn from_line(line: &str) -> Result<(Self, Option<String>), KeyError> {
        let line = line.trim();
        if line.contains("PRIVATE KEY") {
            return Err(KeyError::Private);
        }
        if line.chars().any(char::is_control) {
            return Err(KeyError::Unreadable);
        }
        let mut parts = line.splitn(3, ' ');
        let (Some(name), Some(text)) = (parts.next(), parts.next()) else { return Err(KeyError::Unreadable) };
        let blob = BASE64_STANDARD.decode(text).map_err(|_| KeyError::Unreadable)?;
        let key = Self::from_blob(&blob)?;
        if key.kind.name() != name {
            return Err(KeyError::Unreadable);
        }
        let comment = parts.next().map(str::trim).filter(|comment| !comment.is_empty()).map(str::to_owned);
        Ok((key, comment))
    }

    /// As in a `.pub` file, without a comment.
    pub fn line(&self) -> String {
        format!("{} {}", self.kind.name(), BASE64_STANDARD.encode(&self.blob))
    }

    /// The kind, as the protocol names it.
    pub fn kind(&self) -> &'static str {
        self.kind.name()
    }

    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// As `ssh-keygen -l` shows it: `SHA256:` and unpadded base64.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.blob)
    }

    /// Whether signatures of this algorithm are this key's.
    pub(crate) fn signs(&self, algorithm: &str) -> bool {
        self.kind.signs(algorithm)
    }

    /// Whether a signature, as the protocol sends it, is this key's of a message.
    pub fn has_signed(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        self.verify(algorithm, message, signature).is_ok_and(|valid| valid)
    }

    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Result<bool, Malformed> {
        let mut given = Reader::new(signature);
        if given.text()? != algorithm || !self.kind.signs(algorithm) {
            return Ok(false);
        }
        let signed = given.string()?;
        let mut key = Reader::new(&self.blob);
        key.string()?;
        let valid = match self.kind {
            Kind::Ed25519 => UnparsedPublicKey::new(&ED25519, key.string()?).verify(message, signed).is_ok(),
            Kind::P256 => {
                key.string()?;
                ecdsa(&ECDSA_P256_SHA256_FIXED, 32, key.string()?, message, signed)?
            }
            Kind::P384 => {
                key.string()?;
                ecdsa(&ECDSA_P384_SHA384_FIXED, 48, key.string()?, message, signed)?
            }
            Kind::Rsa => {
                let (e, n) = (key.positive()?, key.positive()?);
                let parameters = if algorithm == "rsa-sha2-512" { &signature::RSA_PKCS1_2048_8192_SHA512 } else { &signature::RSA_PKCS1_2048_8192_SHA256 };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signed).is_ok()
            }
            Kind::SkEd25519 | Kind::SkP256 => {
                if self.kind == Kind::SkP256 {
                    key.string()?;
                }
                let (point, application) = (key.string()?, key.string()?);
                let (flags, counter) = (given.byte()?, given.take(4)?);
                if flags & TOUCHED == 0 {
                    return Ok(false);
                }
                let mut covered = digest(&SHA256, application).as_ref().to_vec();
                covered.push(flags);
                covered.extend_from_slice(counter);
                covered.extend_from_slice(digest(&SHA256, message).as_ref());
                match self.kind {
                    Kind::SkP256 => ecdsa(&ECDSA_P256_SHA256_FIXED, 32, point, &covered, signed)?,
                    Kind::SkEd25519 | Kind::Ed25519 | Kind::P256 | Kind::P384 | Kind::Rsa => {
                        UnparsedPublicKey::new(&ED25519, point).verify(&covered, signed).is_ok()
                    }
                }
            }
        };
        given.end()?;
        Ok(valid)
    }
}

/// As `ssh-keygen -l` shows a key.
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", BASE64_STANDARD_NO_PAD.encode(digest(&SHA256, blob)))
}

/// Looks at the parts of a key.
fn check(kind: Kind, reader: &mut Reader<'_>) -> Result<(), KeyError> {
    let unreadable = |_: Malformed| KeyError::Unreadable;
    let sized = |bytes: &[u8], length: usize| if bytes.len() == length { Ok(()) } else { Err(KeyError::Unreadable) };
    let curve = |reader: &mut Reader<'_>, name: &str, length: usize| {
        if reader.text().map_err(unreadable)? != name {
            return Err(KeyError::Unreadable);
        }
        sized(reader.string().map_err(unreadable)?, length)
    };
    match kind {
        Kind::Ed25519 | Kind::SkEd25519 => sized(reader.string().map_err(unreadable)?, 32)?,
        Kind::P256 | Kind::SkP256 => curve(reader, "nistp256", 65)?,
        Kind::P384 => curve(reader, "nistp384", 97)?,
        Kind::Rsa => {
            let (_e, n) = (reader.positive().map_err(unreadable)?, reader.positive().map_err(unreadable)?);
            let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
            if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
                return Err(KeyError::Bits(bits));
            }
        }
    }
    if matches!(kind, Kind::SkEd25519 | Kind::SkP256) {
        reader.string().map_err(unreadable)?;
    }
    reader.end().map_err(unreadable)
}

/// The two numbers of a signature side by side, as ring wants them.
fn ecdsa(algorithm: &'static signature::EcdsaVerificationAlgorithm, length: usize, point: &[u8], message: &[u8], signed: &[u8]) -> Result<bool, Malformed> {
    let mut reader = Reader::new(signed);
    let mut fixed = Vec::with_capacity(2 * length);
    for _ in 0..2 {
        let number = reader.positive()?;
        let zeros = length.checked_sub(number.len()).ok_or(Malformed)?;
        fixed.resize(fixed.len() + zeros, 0);
        fixed.extend_from_slice(number);
    }
    reader.end()?;
    Ok(UnparsedPublicKey::new(algorithm, point).verify(message, &fixed).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
    };

    use super::*;
    use crate::wire::Writer;

    const ED25519_LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGQhJPCh01tAbAxrqyNsbuyLSpWnBH+HvYbLdqXkSxK me@here";

    #[test]
    fn lines() {
        let (key, comment) = PublicKey::from_line(ED25519_LINE).unwrap();
        assert_eq!((key.kind(), comment.as_deref()), ("ssh-ed25519", Some("me@here")));
        assert_eq!(format!("{} me@here", key.line()), ED25519_LINE);
        assert!(key.fingerprint().starts_with("SHA256:") && key.fingerprint().len() == 50);
        let refused = |line: &str| PublicKey::from_line(line).unwrap_err();
        for line in ["", "ssh-ed25519", "ssh-ed25519 !!!", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJGQhJPCh01tAbAxrqyNsbuyLSpWnBH+HvYbLdqXkSxK", "a\nb c"] {
            assert_eq!(refused(line), KeyError::Unreadable, "{line:?}");
        }
        assert_eq!(refused("-----BEGIN OPENSSH PRIVATE KEY-----\nx"), KeyError::Private);
        let dss = BASE64_STANDARD.encode(crate::wire::Writer::default().string("ssh-dss").done());
        assert_eq!(refused(&format!("ssh-dss {dss}")), KeyError::Kind("ssh-dss".into()));
        let small = crate::wire::Writer::default().string("ssh-rsa").positive(&[1, 0, 1]).positive(&[0xff; 128]).done();
        assert_eq!(refused(&format!("ssh-rsa {}", BASE64_STANDARD.encode(small))), KeyError::Bits(1024));
    }

    type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

    /// Signs as a hardware key does (PROTOCOL.u2f), which is what the device does with what ssh hands it.
    struct Hardware {
        kind: Kind,
        blob: Vec<u8>,
        sign: Sign,
    }

    impl Hardware {
        fn new(kind: Kind, application: &str) -> Self {
            let random = SystemRandom::new();
            let head = Writer::default().string(kind.name());
            if kind == Kind::SkEd25519 {
                let pair = Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref()).unwrap();
                let blob = head.string(pair.public_key()).string(application).done();
                return Self { kind, blob, sign: Box::new(move |message| pair.sign(message).as_ref().to_vec()) };
            }
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
            let blob = head.string("nistp256").string(pair.public_key()).string(application).done();
            let sign = move |message: &[u8]| {
                let signature = pair.sign(&random, message).unwrap();
                let (r, s) = signature.as_ref().split_at(32);
                Writer::default().positive(r).positive(s).done()
            };
            Self { kind, blob, sign: Box::new(sign) }
        }

        /// Its signature when these are the flags and the counter, and that when these are said to be.
        fn signature(&self, application: &str, message: &[u8], (flags, counter): (u8, u32), (said_flags, said_counter): (u8, u32)) -> Vec<u8> {
            let hash = |bytes: &[u8]| digest(&SHA256, bytes).as_ref().to_vec();
            let covered = [hash(application.as_bytes()), vec![flags], counter.to_be_bytes().to_vec(), hash(message)].concat();
            Writer::default().string(self.kind.name()).string((self.sign)(&covered)).byte(said_flags).u32(said_counter).done()
        }
    }

    /// What OpenSSH says of a signature (PROTOCOL.sshsig).
    fn openssh_agrees(key: &PublicKey, signature: impl Fn(&[u8]) -> Vec<u8>) -> bool {
        let folder = std::env::temp_dir().join(format!("sandbar-ssh-sk-{}-{}", std::process::id(), key.kind()));
        std::fs::create_dir_all(&folder).unwrap();
        let head = |writer: Writer| writer.string("file").string("").string("sha256");
        let covered = head(Writer::default().raw(b"SSHSIG")).string(digest(&SHA256, b"message")).done();
        let signed = head(Writer::default().raw(b"SSHSIG").u32(1).string(key.blob())).string(signature(&covered)).done();
        let text = BASE64_STANDARD.encode(signed);
        let lines: Vec<&str> = text.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
        std::fs::write(folder.join("signature"), format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"))).unwrap();
        std::fs::write(folder.join("signers"), format!("me {}\n", key.line())).unwrap();
        std::fs::write(folder.join("message"), "message").unwrap();
        let verify = std::process::Command::new("ssh-keygen")
            .args(["-Y", "verify", "-I", "me", "-n", "file", "-f"])
            .arg(folder.join("signers"))
            .arg("-s")
            .arg(folder.join("signature"))
            .stdin(std::fs::File::open(folder.join("message")).unwrap())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        std::fs::remove_dir_all(&folder).unwrap();
        verify.unwrap().success()
    }

    #[test]
    fn hardware_keys_sign_what_openssh_says_they_do() {
        for kind in [Kind::SkEd25519, Kind::SkP256] {
            let hardware = Hardware::new(kind, "ssh:");
            let key = PublicKey::from_blob(&hardware.blob).unwrap();
            let touched = (TOUCHED, 7);
            assert!(openssh_agrees(&key, |message| hardware.signature("ssh:", message, touched, touched)), "{kind:?}");
            assert!(!openssh_agrees(&key, |message| hardware.signature("ssh:", message, touched, (TOUCHED, 8))), "{kind:?}");
            let check = |application: &str, signed, said| {
                let signature = hardware.signature(application, b"message", signed, said);
                key.has_signed(kind.name(), b"message", &signature)
            };
            assert!(check("ssh:", touched, touched) && check("ssh:", (5, 0), (5, 0)), "{kind:?}");
            assert!(!check("ssh:other", touched, touched), "{kind:?}: for another application");
            assert!(!check("ssh:", touched, (TOUCHED, 8)), "{kind:?}: another counter");
            assert!(!check("ssh:", (0, 7), touched), "{kind:?}: said to be touched");
            assert!(!check("ssh:", (0, 7), (0, 7)), "{kind:?}: not touched");
            let right = hardware.signature("ssh:", b"message", touched, touched);
            assert!(!key.has_signed(kind.name(), b"another", &right) && !key.has_signed("ssh-ed25519", b"message", &right), "{kind:?}");
            assert!(!key.has_signed(kind.name(), b"message", &right[..right.len() - 1]), "{kind:?}");
            assert!(!key.has_signed(kind.name(), b"message", &[&*right, &[0]].concat()), "{kind:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(blob: Vec<u8>, signature: Vec<u8>, kind in 0_usize..6, rest: Vec<u8>) {
            let _ = PublicKey::from_blob(&blob);
            let mut named = crate::wire::Writer::default().string(Kind::ALL[kind].name()).done();
            named.extend(&rest);
            let _ = PublicKey::from_blob(&named);
            let (key, _) = PublicKey::from_line(ED25519_LINE).unwrap();
            prop_assert!(!key.has_signed("ssh-ed25519", &blob, &signature));
        }
    }
}
