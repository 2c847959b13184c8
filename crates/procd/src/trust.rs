//! Whom programs inside trust besides the public authorities: the installation that ends their TLS and SSH where the
//! sandbox's policy wants it to. All of it is files of the sandbox's own, and what cannot be written to helps fewer
//! programs; only without our own two files it fails.
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use sandbar_procd_api::{Trust, Trusted};

use crate::files::replace::Replacement;
use crate::limits::TRUST_FILE_BYTES_MAX;

/// Where the two files lie, under the name that is published for them.
const DIR: &str = "/var/run/sandbox0/networking";
const CA: &str = "mitm-ca.crt";
/// The public authorities and ours.
const BUNDLE: &str = "ca-bundle.crt";
/// Where systems keep all that they trust in one file; the first that is there is taken for the whole.
const SYSTEM_BUNDLES: &[&str] = &[
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/certs/ca-bundle.crt",
    "etc/ssl/cert.pem",
];
/// Folders from which systems make these files again, with what a file has to be called there.
const ANCHORS: &[&str] = &["usr/local/share/ca-certificates/sandbar-egress.crt", "etc/pki/ca-trust/source/anchors/sandbar-egress.crt"];
/// Where OpenSSL looks for one certificate by its subject.
const BY_SUBJECT: &str = "etc/ssl/certs";
const BY_SUBJECT_FILE: &str = "sandbar-egress.pem";
const KNOWN_HOSTS: &str = "etc/ssh/ssh_known_hosts";
/// Between these lines stand ours.
const BEGIN: &str = "# Hosts whose SSH this sandbox's network policy lets the installation end.";
const END: &str = "# The end of these hosts.";

/// What programs look for certificates by.
const BUNDLE_VARIABLES: &[&str] = &["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"];
const CA_VARIABLE: &str = "SANDBOX0_NETWORK_MITM_CA_FILE";

/// Environment that is weaker than all other.
pub type Env = BTreeMap<String, String>;

/// Makes programs below `root` trust so, and says what has to be in their environment for it; `None` when that is only
/// known with the public authorities of somebody else. What is there already is not written again.
///
/// # Errors
/// Our own files cannot be written.
pub fn install(root: &Path, trust: &Trust) -> io::Result<(Trusted, Option<Env>)> {
    known_hosts(&root.join(KNOWN_HOSTS), &trust.known_hosts);
    if trust.ca_pem.is_empty() {
        return Ok((Trusted::default(), None));
    }
    let ca = trust.ca_pem.as_bytes();
    let system = SYSTEM_BUNDLES.iter().find_map(|path| read(&root.join(path)).ok()?.filter(|bundle| !bundle.is_empty()));
    let (bundle, is_foreign) = match (system, &trust.roots_pem) {
        (Some(bundle), _) => (bundle, false),
        (None, Some(roots)) => (roots.clone().into_bytes(), true),
        (None, None) => return Ok((Trusted { needs_roots: true }, None)),
    };
    let dir = our_dir(root)?;
    put(&dir.join(CA), ca)?;
    put(&dir.join(BUNDLE), &with(&bundle, ca))?;
    for (nth, path) in SYSTEM_BUNDLES.iter().map(|path| root.join(path)).enumerate() {
        let present = match read(&path) {
            Ok(Some(_)) if is_foreign => bundle.clone(),
            Ok(None) if is_foreign && nth == 0 => bundle.clone(),
            Ok(Some(present)) => present,
            // What cannot be read is somebody's own.
            Ok(None) | Err(_) => continue,
        };
        let _ = put(&path, &with(&present, ca));
    }
    for path in ANCHORS.iter().map(|path| root.join(path)).filter(|path| path.parent().is_some_and(Path::is_dir)) {
        let _ = put(&path, ca);
    }
    by_subject(&root.join(BY_SUBJECT), ca, &trust.ca_hash);
    let mut env: Env = BUNDLE_VARIABLES.iter().map(|name| ((*name).to_owned(), format!("{DIR}/{BUNDLE}"))).collect();
    env.insert(CA_VARIABLE.to_owned(), format!("{DIR}/{CA}"));
    Ok((Trusted::default(), Some(env)))
}

/// Our folder, which is also there under the name that is published for it.
fn our_dir(root: &Path) -> io::Result<PathBuf> {
    let dir = root.join("run/sandbox0/networking");
    std::fs::create_dir_all(&dir)?;
    let published = root.join(DIR.trim_start_matches('/'));
    if published.is_dir() {
        return Ok(dir);
    }
    let var_run = root.join("var/run");
    if std::fs::symlink_metadata(&var_run).is_err() {
        std::fs::create_dir_all(root.join("var"))?;
        symlink("../run", &var_run)?;
    } else {
        // A folder of its own.
        symlink("../../run/sandbox0", var_run.join("sandbox0"))?;
    }
    Ok(dir)
}

/// A link by the hash of its subject, as `openssl rehash` makes it, unless there is one.
fn by_subject(dir: &Path, ca: &[u8], hash: &str) {
    let is_hash = hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_hash || !dir.is_dir() || put(&dir.join(BY_SUBJECT_FILE), ca).is_err() {
        return;
    }
    for n in 0..10 {
        let link = dir.join(format!("{hash}.{n}"));
        let made = symlink(BY_SUBJECT_FILE, &link);
        if made.is_ok() || read(&link).is_ok_and(|present| present.as_deref() == Some(ca)) {
            return;
        }
    }
}

/// Lets these lines, and no others of ours, stand in a file. One that cannot be read is left as it is.
fn known_hosts(path: &Path, lines: &[String]) {
    let Ok(present) = read(path) else { return };
    let present = present.unwrap_or_default();
    let mut wanted = theirs(&present);
    let lines: Vec<&str> = lines.iter().map(String::as_str).filter(|line| !line.contains(['\n', '\r'])).collect();
    if !lines.is_empty() {
        if !wanted.is_empty() && !wanted.ends_with(b"\n") {
            wanted.push(b'\n');
        }
        wanted.extend([BEGIN, "\n", &lines.join("\n"), "\n", END, "\n"].concat().into_bytes());
    }
    if wanted != present {
        let _ = put(path, &wanted);
    }
}

/// A file without what stands between our two lines. Where the second is missing, nobody can say what is ours: only the
/// first goes.
fn theirs(present: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(present.len());
    // Where what may be ours begins in what is kept.
    let mut began = None;
    for line in present.split_inclusive(|byte| *byte == b'\n') {
        match line.trim_ascii_end() {
            text if text == BEGIN.as_bytes() => began = Some(kept.len()),
            text if text == END.as_bytes() => kept.truncate(began.take().unwrap_or(kept.len())),
            _ => kept.extend_from_slice(line),
        }
    }
    kept
}

/// A bundle that has our certificate in it.
fn with(bundle: &[u8], ca: &[u8]) -> Vec<u8> {
    let wanted = ca.trim_ascii();
    let is_in = match (std::str::from_utf8(bundle), std::str::from_utf8(wanted)) {
        (Ok(bundle), Ok(wanted)) => bundle.contains(wanted),
        // Comments in another encoding.
        _ => bundle.windows(wanted.len()).any(|part| part == wanted),
    };
    if is_in {
        return bundle.to_vec();
    }
    let line_end: &[u8] = if bundle.is_empty() || bundle.ends_with(b"\n") { b"" } else { b"\n" };
    [bundle, line_end, wanted, b"\n"].concat()
}

/// What a file holds; `None` where there is none.
///
/// # Errors
/// There is something that is no file, or too large, or that cannot be read.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // One that somebody put a pipe in place of is not waited for.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file: File = match OpenOptions::new().read(true).custom_flags(nonblock).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(TRUST_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > TRUST_FILE_BYTES_MAX {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(Some(bytes)),
    }
}

/// Writes a file as a whole, unless it is as it should be.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if read(path).is_ok_and(|present| present.as_deref() == Some(bytes)) {
        return Ok(());
    }
    let mut new = Replacement::begin(path, None)?;
    new.file.write_all(bytes)?;
    new.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nb3Vycw==\n-----END CERTIFICATE-----\n";
    const PUBLIC: &str = "-----BEGIN CERTIFICATE-----\ncHVibGlj\n-----END CERTIFICATE-----\n";

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("procd-trust-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&root);
            std::fs::create_dir_all(&root).unwrap();
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Self(root)
        }

        fn text(&self, path: &str) -> String {
            std::fs::read_to_string(self.0.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
        }

        fn install(&self, roots: Option<&str>, known_hosts: &[&str]) -> (Trusted, Option<Env>) {
            let trust = Trust {
                ca_pem: CERTIFICATE.to_owned(),
                ca_hash: "0a1b2c3d".to_owned(),
                roots_pem: roots.map(str::to_owned),
                known_hosts: known_hosts.iter().map(|line| (*line).to_owned()).collect(),
            };
            install(&self.0, &trust).unwrap()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn files(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut queue = vec![root.to_owned()];
        while let Some(dir) = queue.pop() {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                match entry.file_type().unwrap() {
                    kind if kind.is_dir() => queue.push(entry.path()),
                    kind if kind.is_symlink() => {
                        found.push((entry.path(), std::fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()));
                    }
                    _ => found.push((entry.path(), std::fs::read(entry.path()).unwrap())),
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn the_systems_store_gets_our_authority_once() {
        let root = Root::new("debian", &[("etc/ssl/certs/ca-certificates.crt", PUBLIC), ("usr/local/share/ca-certificates/README", ""), ("run/x", "")]);
        let (trusted, env) = root.install(None, &[]);
        assert!(!trusted.needs_roots);
        let env = env.unwrap();
        assert_eq!(env["SANDBOX0_NETWORK_MITM_CA_FILE"], "/var/run/sandbox0/networking/mitm-ca.crt");
        assert_eq!(env["SSL_CERT_FILE"], "/var/run/sandbox0/networking/ca-bundle.crt");
        assert_eq!(env.len(), 7);
        assert_eq!(root.text("var/run/sandbox0/networking/mitm-ca.crt"), CERTIFICATE);
        assert_eq!(root.text("run/sandbox0/networking/ca-bundle.crt"), format!("{PUBLIC}{CERTIFICATE}"));
        assert_eq!(root.text("etc/ssl/certs/ca-certificates.crt"), format!("{PUBLIC}{CERTIFICATE}"));
        assert_eq!(root.text("etc/ssl/certs/0a1b2c3d.0"), CERTIFICATE);
        assert_eq!(root.text("usr/local/share/ca-certificates/sandbar-egress.crt"), CERTIFICATE);
        assert!(!root.0.join("etc/ssh").exists());
        let before = files(&root.0);
        root.install(None, &[]);
        assert_eq!(files(&root.0), before, "a second time changes nothing");
    }

    #[test]
    fn where_there_is_no_store_one_is_handed_over() {
        let root = Root::new("bare", &[]);
        let (trusted, env) = root.install(None, &[]);
        assert!(trusted.needs_roots && env.is_none());
        assert!(!root.0.join("run").exists());
        let (trusted, env) = root.install(Some(PUBLIC), &[]);
        assert!(!trusted.needs_roots && env.is_some());
        for path in ["var/run/sandbox0/networking/ca-bundle.crt", "etc/ssl/certs/ca-certificates.crt"] {
            assert_eq!(root.text(path), format!("{PUBLIC}{CERTIFICATE}"));
        }
        let (trusted, env) = root.install(None, &[]);
        assert!(!trusted.needs_roots && env.is_some(), "from now on it has one");
    }

    #[test]
    fn strange_files_are_left_alone_and_not_waited_for() {
        let root = Root::new("strange", &[("etc/ssl/cert.pem", PUBLIC.trim_end()), ("etc/ssl/certs/0a1b2c3d.0", "another"), ("var/run/own", "")]);
        let fifo = root.0.join("etc/ssl/certs/ca-certificates.crt");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        std::fs::create_dir_all(root.0.join("etc/ssl/ca-bundle.pem")).unwrap();
        root.install(None, &[]);
        assert!(std::fs::metadata(&fifo).unwrap().len() == 0 && !fifo.is_file());
        assert_eq!(root.text("etc/ssl/cert.pem"), format!("{PUBLIC}{CERTIFICATE}"));
        assert_eq!(root.text("etc/ssl/certs/0a1b2c3d.1"), CERTIFICATE);
        assert_eq!(root.text("etc/ssl/certs/0a1b2c3d.0"), "another");
        assert_eq!(root.text("var/run/sandbox0/networking/mitm-ca.crt"), CERTIFICATE, "also where it is a folder of its own");
    }

    #[test]
    fn hosts_come_and_go() {
        let root = Root::new("hosts", &[("etc/ssl/cert.pem", PUBLIC), ("etc/ssh/ssh_known_hosts", "theirs ssh-ed25519 AAAA")]);
        root.install(None, &["git.example ssh-ed25519 BBBB", "bad\nline"]);
        let text = root.text("etc/ssh/ssh_known_hosts");
        assert_eq!(text, format!("theirs ssh-ed25519 AAAA\n{BEGIN}\ngit.example ssh-ed25519 BBBB\n{END}\n"));
        root.install(None, &["other.example ssh-ed25519 BBBB"]);
        assert!(!root.text("etc/ssh/ssh_known_hosts").contains("git.example"));
        let (_, env) = install(&root.0, &Trust::default()).unwrap();
        assert!(env.is_none());
        assert_eq!(root.text("etc/ssh/ssh_known_hosts"), "theirs ssh-ed25519 AAAA\n");
    }

    #[test]
    fn the_hosts_of_others_stay_whatever_they_are() {
        let root = Root::new("theirs", &[("etc/ssh/ssh_known_hosts", "")]);
        let path = root.0.join(KNOWN_HOSTS);
        let trust = |lines: &[&str]| Trust { known_hosts: lines.iter().map(|line| (*line).to_owned()).collect(), ..Trust::default() };
        let ours = format!("{BEGIN}\nours\n{END}\n");
        for (before, after) in [
            // Of another encoding, and of another system.
            (b"caf\xe9 ssh-rsa AAAA\r\n".to_vec(), [b"caf\xe9 ssh-rsa AAAA\r\n", ours.as_bytes()].concat()),
            (format!("a\n{BEGIN}\nformer\n{END}\nb").into_bytes(), format!("a\nb\n{ours}").into_bytes()),
            // An end without a beginning, and a beginning without an end.
            (format!("a\n{END}\nb\n").into_bytes(), format!("a\nb\n{ours}").into_bytes()),
            (format!("a\n{BEGIN}\nb\nc\n").into_bytes(), format!("a\nb\nc\n{ours}").into_bytes()),
            (format!("{BEGIN}\na\n{BEGIN}\nformer\n{END}\n").into_bytes(), format!("a\n{ours}").into_bytes()),
        ] {
            std::fs::write(&path, &before).unwrap();
            install(&root.0, &trust(&["ours"])).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), after, "{}", String::from_utf8_lossy(&before));
        }
        std::fs::write(&path, "no end of line").unwrap();
        install(&root.0, &trust(&[])).unwrap();
        assert_eq!(root.text(KNOWN_HOSTS), "no end of line");

        let large = vec![b'#'; TRUST_FILE_BYTES_MAX as usize + 1];
        std::fs::write(&path, &large).unwrap();
        install(&root.0, &trust(&["ours"])).unwrap();
        assert!(std::fs::read(&path).unwrap() == large, "one that is not read is not replaced");
    }

    #[test]
    fn a_store_that_is_not_read_is_not_replaced() {
        let root = Root::new("large", &[("etc/ssl/certs/ca-certificates.crt", "")]);
        let (path, large) = (root.0.join(SYSTEM_BUNDLES[0]), vec![b'#'; TRUST_FILE_BYTES_MAX as usize + 1]);
        std::fs::write(&path, &large).unwrap();
        let (_, env) = root.install(Some(PUBLIC), &[]);
        assert!(env.is_some());
        assert!(std::fs::read(&path).unwrap() == large);
    }
}
