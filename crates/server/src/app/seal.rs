//! Secrets that have to be read again (other than tokens, of which a hash is enough) are kept sealed: whoever gets hold of
//! the database alone learns nothing.
//!
//! The key is a file beside the database, made at the first start. A sealed text names the way it was sealed, so that
//! another may come.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

/// The file of the key, in the data directory: 32 bytes in hexadecimal.
const KEY_FILE: &str = "secret.key";
const KEY_BYTES: usize = 32;
/// What every sealed text begins with; then, in base64, a nonce and what AES-256-GCM made of the secret.
const PREFIX: &str = "sealed:1:";

/// What a secret is for: one that was sealed for one purpose opens for no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    WebhookSecret,
    /// What a credential source of a team holds, so that no row can be put in another's place.
    Credential {
        team_id: &'a str,
        name: &'a str,
    },
    /// What a script is given by this name.
    ScriptSecret {
        script_id: &'a str,
        name: &'a str,
    },
    /// What an app is given for a variable.
    AppEnv {
        app_id: &'a str,
        name: &'a str,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("cannot {what} {path}")]
    Files {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no key: it has to hold 64 hexadecimal digits; without the right one, sealed secrets cannot be read again")]
    NoKey { path: PathBuf },
    #[error("the machine gives no random numbers")]
    NoRandom,
    #[error("the secret cannot be opened: it was sealed with another key, or changed")]
    Closed,
}

/// Seals and opens secrets.
pub struct Seal {
    path: PathBuf,
    key: LessSafeKey,
    random: SystemRandom,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

impl Purpose<'_> {
    fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::WebhookSecret => b"webhook secret".to_vec(),
            // Neither id nor name can hold a zero byte.
            Self::Credential { team_id, name } => format!("credential source\0{team_id}\0{name}").into_bytes(),
            Self::ScriptSecret { script_id, name } => format!("script secret\0{script_id}\0{name}").into_bytes(),
            Self::AppEnv { app_id, name } => format!("app variable\0{app_id}\0{name}").into_bytes(),
        }
    }
}

impl Seal {
    /// Reads the key of a data directory, or makes one. Blocks for the disk.
    pub fn open(data_dir: &Path) -> Result<Self, SealError> {
        let random = SystemRandom::new();
        let path = data_dir.join(KEY_FILE);
        let bytes = match fs::read_to_string(&path) {
            Ok(text) => read_key(&text).ok_or_else(|| SealError::NoKey { path: path.clone() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(data_dir, &path, &random)?,
            Err(source) => return Err(SealError::Files { what: "read", path, source }),
        };
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SealError::Closed)?;
        Ok(Self { path, key: LessSafeKey::new(key), random })
    }

    /// The file of the key.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret as it may be kept.
    pub fn seal(&self, purpose: Purpose<'_>, secret: &str) -> Result<String, SealError> {
        let mut sealed = vec![0; NONCE_LEN];
        self.random.fill(&mut sealed).map_err(|_| SealError::NoRandom)?;
        let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| SealError::NoRandom)?;
        let mut text = secret.as_bytes().to_vec();
        self.key.seal_in_place_append_tag(nonce, Aad::from(purpose.to_bytes()), &mut text).map_err(|_| SealError::Closed)?;
        sealed.append(&mut text);
        Ok(format!("{PREFIX}{}", BASE64_STANDARD.encode(sealed)))
    }

    /// The secret again.
    pub fn unseal(&self, purpose: Purpose<'_>, sealed: &str) -> Result<String, SealError> {
        let bytes = sealed.strip_prefix(PREFIX).and_then(|text| BASE64_STANDARD.decode(text).ok()).ok_or(SealError::Closed)?;
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN).ok_or(SealError::Closed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Closed)?;
        let mut text = text.to_vec();
        let opened = self.key.open_in_place(nonce, Aad::from(purpose.to_bytes()), &mut text).map_err(|_| SealError::Closed)?;
        String::from_utf8(opened.to_vec()).map_err(|_| SealError::Closed)
    }
}

/// Whether a stored text is sealed; those of the first versions are not.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(PREFIX)
}

fn read_key(text: &str) -> Option<[u8; KEY_BYTES]> {
    hex::decode(text.trim()).ok()?.try_into().ok()
}

/// Writes a new key so that it is there whole or not at all: what is sealed with it is lost without it.
fn make_key(data_dir: &Path, path: &Path, random: &SystemRandom) -> Result<[u8; KEY_BYTES], SealError> {
    let mut key = [0; KEY_BYTES];
    random.fill(&mut key).map_err(|_| SealError::NoRandom)?;
    let temporary = data_dir.join(format!("{KEY_FILE}.new"));
    let write = || {
        let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{}", hex::encode(key))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(data_dir)?.sync_all()
    };
    write().map_err(|source| SealError::Files { what: "make", path: path.to_owned(), source })?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("sandbar-seal-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).expect("a folder");
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_secret_opens_with_its_key_alone() {
        let (one, other) = (Dir::new("one"), Dir::new("other"));
        let seal = Seal::open(&one.0).expect("opens");
        let sealed = seal.seal(Purpose::WebhookSecret, "hush ä").expect("seals");
        assert!(is_sealed(&sealed) && !sealed.contains("hush"), "{sealed}");
        assert_ne!(sealed, seal.seal(Purpose::WebhookSecret, "hush ä").expect("seals"), "each time another");
        let again = Seal::open(&one.0).expect("opens again");
        assert_eq!(again.unseal(Purpose::WebhookSecret, &sealed).expect("opens"), "hush ä");
        assert!(Seal::open(&other.0).expect("opens").unseal(Purpose::WebhookSecret, &sealed).is_err());
        let mode = fs::metadata(one.0.join(KEY_FILE)).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_secret_opens_for_its_purpose_alone() {
        let dir = Dir::new("purpose");
        let seal = Seal::open(&dir.0).expect("opens");
        let of = |team_id, name| Purpose::Credential { team_id, name };
        let sealed = seal.seal(of("team", "github"), "hush").expect("seals");
        assert_eq!(seal.unseal(of("team", "github"), &sealed).expect("opens"), "hush");
        for other in [of("team", "gitlab"), of("other", "github"), of("teamg", "ithub"), Purpose::WebhookSecret] {
            assert!(seal.unseal(other, &sealed).is_err(), "{other:?}");
        }
    }

    #[test]
    fn what_was_changed_does_not_open() {
        let dir = Dir::new("changed");
        let seal = Seal::open(&dir.0).expect("opens");
        let sealed = seal.seal(Purpose::WebhookSecret, "hush").expect("seals");
        for at in PREFIX.len()..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("text");
            let opened = seal.unseal(Purpose::WebhookSecret, &changed);
            assert!(opened.is_err() || BASE64_STANDARD.decode(&changed[PREFIX.len()..]) == BASE64_STANDARD.decode(&sealed[PREFIX.len()..]), "{at}");
        }
        for nonsense in ["", "hush", PREFIX, "sealed:1:AAAA", "sealed:2:AAAA"] {
            assert!(seal.unseal(Purpose::WebhookSecret, nonsense).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn a_broken_key_is_not_replaced() {
        let dir = Dir::new("broken");
        fs::write(dir.0.join(KEY_FILE), "abc\n").expect("writes");
        assert!(matches!(Seal::open(&dir.0), Err(SealError::NoKey { .. })));
        assert_eq!(fs::read_to_string(dir.0.join(KEY_FILE)).expect("reads"), "abc\n");
    }
}
