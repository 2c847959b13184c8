//! What is kept of an authority on disk: our account there, and each host's certificate with its key, one file for both so
//! that they always fit. Files are replaced as a whole and safe when a call returns.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::AcmeError;

/// Of one file.
const FILE_BYTES_MAX: u64 = 1 << 20;
const ACCOUNT: &str = "account.json";
/// What a host's file is called, after the host.
const SUFFIX: &str = ".pem";
/// What is being written; never read.
const UNFINISHED: &str = ".new";

/// The folder of one authority.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    dir: PathBuf,
}

impl Kept {
    /// Makes the folder when it is not there, and removes what a crash left unfinished.
    pub fn open(dir: PathBuf) -> Result<Self, AcmeError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed("make", &dir))?;
        for entry in fs::read_dir(&dir).map_err(failed("read", &dir))? {
            let path = entry.map_err(failed("read", &dir))?.path();
            if path.as_os_str().as_encoded_bytes().ends_with(UNFINISHED.as_bytes()) {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(Self { dir })
    }

    pub fn account(&self) -> Result<Option<Vec<u8>>, AcmeError> {
        match read(&self.dir.join(ACCOUNT), FILE_BYTES_MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(AcmeError::Files { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn put_account(&self, bytes: &[u8]) -> Result<(), AcmeError> {
        self.put(&self.dir.join(ACCOUNT), bytes)
    }

    /// Hosts with what was put for them, at most so many. One that cannot be read is left out and logged.
    pub fn hosts(&self, hosts_max: usize) -> Result<Vec<(String, Vec<u8>)>, AcmeError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed("read", &self.dir))? {
            let path = entry.map_err(failed("read", &self.dir))?.path();
            let Some(host) = path.file_name().and_then(OsStr::to_str).and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
            match read(&path, FILE_BYTES_MAX) {
                Ok(_) if found.len() >= hosts_max => {
                    tracing::warn!(hosts_max, "there are more certificates on disk than are kept; the rest is passed over");
                    break;
                }
                Ok(bytes) => found.push((host.to_owned(), bytes)),
                Err(error) => tracing::warn!(error = sandbar_node::error_text(&error), "a certificate was passed over"),
            }
        }
        Ok(found)
    }

    /// The host is a DNS name, and so no path.
    pub fn put_host(&self, host: &str, bytes: &[u8]) -> Result<(), AcmeError> {
        self.put(&self.of_host(host), bytes)
    }

    pub fn remove_host(&self, host: &str) -> Result<(), AcmeError> {
        let path = self.of_host(host);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(failed("remove", &path)),
        }
    }

    fn of_host(&self, host: &str) -> PathBuf {
        self.dir.join(format!("{host}{SUFFIX}"))
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), AcmeError> {
        let mut new = path.as_os_str().to_owned();
        new.push(UNFINISHED);
        let write = || {
            let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            fs::File::open(&self.dir)?.sync_all()
        };
        write().map_err(failed("write", path))
    }
}

/// Reads a file that should be small.
pub(super) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, AcmeError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes));
    read.and_then(|read| if read as u64 > bytes_max { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }).map_err(failed("read", path))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AcmeError {
    let path = path.to_owned();
    move |source| AcmeError::Files { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_ours_alone_and_what_was_unfinished_is_gone() {
        let dir = std::env::temp_dir().join(format!("sandbar-kept-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let kept = Kept::open(dir.join("acme/x")).expect("a folder");
        assert_eq!(kept.account().expect("readable"), None);
        kept.put_account(b"{}").expect("written");
        kept.put_host("a.example.test", b"1").expect("written");
        kept.put_host("a.example.test", b"2").expect("written");
        kept.put_host("b.example.test", b"3").expect("written");
        kept.remove_host("b.example.test").expect("removed");
        kept.remove_host("b.example.test").expect("removed");
        fs::write(dir.join("acme/x/c.example.test.pem.new"), b"half").expect("written");
        fs::write(dir.join("acme/x/huge.pem"), vec![0; FILE_BYTES_MAX as usize + 1]).expect("written");
        let kept = Kept::open(dir.join("acme/x")).expect("a folder");
        assert_eq!(kept.account().expect("readable").as_deref(), Some(&b"{}"[..]));
        assert_eq!(kept.hosts(10).expect("readable"), [("a.example.test".to_owned(), b"2".to_vec())]);
        let mode = |path: &str| fs::metadata(dir.join(path)).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode("acme/x"), mode("acme/x/a.example.test.pem"), mode("acme/x/account.json")), (0o700, 0o600, 0o600));
        assert!(!dir.join("acme/x/c.example.test.pem.new").exists());
        fs::remove_dir_all(dir).expect("removed");
    }
}
