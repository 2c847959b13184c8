//! The key by which clients know this server again: a file of the data directory, made at the first start.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use sandbar_ssh::HostKey;

/// The file: PKCS#8 in PEM.
const KEY_FILE: &str = "ssh_host_key.pem";
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    #[error("cannot {what} {path}")]
    Files {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no Ed25519 key in PKCS#8; remove it and a new one is made, which clients will warn of")]
    NoKey { path: PathBuf },
    #[error("no SSH host key can be made")]
    NotMade(#[source] sandbar_ssh::SshError),
}

/// Reads the key of a data directory, or makes one. Blocks for the disk.
pub(super) fn open(data_dir: &Path) -> Result<HostKey, HostKeyError> {
    let path = data_dir.join(KEY_FILE);
    let pkcs8 = match fs::read_to_string(&path) {
        Ok(text) => {
            keep_private(&path)?;
            decode(&text)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pkcs8 = HostKey::generate().map_err(HostKeyError::NotMade)?;
            write(data_dir, &path, &pkcs8)?;
            Some(pkcs8)
        }
        Err(source) => return Err(HostKeyError::Files { what: "read", path, source }),
    };
    pkcs8.and_then(|pkcs8| HostKey::from_pkcs8(&pkcs8)).ok_or(HostKeyError::NoKey { path })
}

/// A copy from elsewhere may be for others to read.
fn keep_private(path: &Path) -> Result<(), HostKeyError> {
    let failed = |what| move |source| HostKeyError::Files { what, path: path.to_owned(), source };
    let mut permissions = fs::metadata(path).map_err(failed("read"))?.permissions();
    if permissions.mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", permissions.mode() & 0o777), "others could read the SSH host key; now they cannot");
        permissions.set_mode(0o600);
        fs::set_permissions(path, permissions).map_err(failed("protect"))?;
    }
    Ok(())
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let inner = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    BASE64_STANDARD.decode(inner.split_whitespace().collect::<String>()).ok()
}

/// Under another name first: half a key would be none.
fn write(data_dir: &Path, path: &Path, pkcs8: &[u8]) -> Result<(), HostKeyError> {
    let half = data_dir.join(format!("{KEY_FILE}.new"));
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| HostKeyError::Files { what, path, source }
    };
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&half).map_err(failed("make", &half))?;
    writeln!(file, "{BEGIN}\n{}\n{END}", BASE64_STANDARD.encode(pkcs8)).map_err(failed("write", &half))?;
    file.sync_all().map_err(failed("write", &half))?;
    fs::rename(&half, path).map_err(failed("make", path))?;
    fs::File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(failed("write", data_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_for_nobody_else_to_read() {
        let dir = std::env::temp_dir().join(format!("sandbar-hostkey-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let first = open(&dir).unwrap().fingerprint();
        assert_eq!(open(&dir).unwrap().fingerprint(), first);
        let path = dir.join(KEY_FILE);
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(open(&dir).unwrap().fingerprint(), first);
        assert_eq!(mode(), 0o600, "whatever it was");
        fs::write(&path, "nonsense").unwrap();
        assert!(matches!(open(&dir), Err(HostKeyError::NoKey { .. })));
        fs::remove_dir_all(&dir).unwrap();
    }
}
