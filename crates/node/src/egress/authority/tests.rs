#![allow(clippy::unwrap_used)]
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::UnixTime;

use super::*;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("sandbar-authority-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a client says that trusts this authority alone.
fn verify(authority: &Authority, leaf: &CertifiedKey, server: &str, at: SystemTime) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
    verifier.verify_server_cert(&leaf.cert[0], &[], &ServerName::try_from(server).unwrap(), &[], at).map(|_| ())
}

#[test]
fn clients_that_trust_the_authority_take_its_leaves() {
    let authority = Authority::make().unwrap();
    let now = SystemTime::now();
    let long = format!("{}.{}.example.com", "a".repeat(60), "b".repeat(60));
    for server in ["example.com", "api.example.com", "under_score.example.com", "xn--bcher-kva.example", "8.8.8.8", "2001:db8::1", &long] {
        let leaf = authority.leaf(server).unwrap();
        verify(&authority, &leaf, server, now).unwrap_or_else(|error| panic!("{server}: {error}"));
        verify(&authority, &leaf, server, now + Duration::from_secs(23 * 3600)).unwrap();
        verify(&authority, &leaf, server, now - Duration::from_secs(1800)).unwrap();
        assert!(verify(&authority, &leaf, server, now + Duration::from_secs(25 * 3600)).is_err());
        assert!(verify(&authority, &leaf, "other.example", now).is_err());
        leaf.keys_match().unwrap();
    }
    let other = Authority::make().unwrap();
    assert!(verify(&authority, &other.leaf("example.com").unwrap(), "example.com", now).is_err());
}

#[test]
fn a_name_is_asked_for_in_any_spelling() {
    let authority = Authority::make().unwrap();
    let leaf = authority.leaf("Example.COM.").unwrap();
    verify(&authority, &leaf, "example.com", SystemTime::now()).unwrap();
    assert!(Arc::ptr_eq(&leaf, &authority.leaf("example.com").unwrap()), "made once");
    for nonsense in ["", ".", "*.example.com", "a b", "exa\u{e4}mple.com", "a..b", "-", &"a".repeat(300)] {
        assert!(matches!(authority.leaf(nonsense), Err(LeafError::Name(_))), "{nonsense:?}");
    }
}

#[test]
fn leaves_are_bounded_and_those_in_use_stay() {
    let authority = Authority::make().unwrap();
    let first = authority.leaf("kept.example").unwrap();
    let begun = Instant::now();
    for n in 0..3 * LEAVES_MAX {
        authority.leaf(&format!("n{n}.example")).unwrap();
        if n % 1000 == 0 {
            assert!(Arc::ptr_eq(&first, &authority.leaf("kept.example").unwrap()));
        }
    }
    let each = begun.elapsed() / (3 * LEAVES_MAX) as u32;
    assert!(each < Duration::from_millis(1), "{each:?}");
    let leaves = lock(&authority.leaves);
    assert!(leaves.young.len() <= LEAVES_MAX && leaves.old.len() <= LEAVES_MAX);
}

#[test]
fn an_old_leaf_is_made_anew() {
    let authority = Authority::make().unwrap();
    let leaf = authority.leaf("example.com").unwrap();
    lock(&authority.leaves).young.get_mut("example.com").unwrap().made_at -= LEAF_FRESH;
    assert!(!Arc::ptr_eq(&leaf, &authority.leaf("example.com").unwrap()));
}

#[test]
fn it_is_the_same_after_a_restart() {
    let dir = Dir::new("again");
    let first = Authority::open(&dir.0).unwrap();
    let leaf = first.leaf("example.com").unwrap();
    let again = Authority::open(&dir.0).unwrap();
    assert_eq!(first.certificate_pem(), again.certificate_pem());
    assert_eq!(fs::read_to_string(dir.0.join(CERTIFICATE_FILE)).unwrap(), first.certificate_pem());
    verify(&again, &leaf, "example.com", SystemTime::now()).unwrap();
    verify(&first, &again.leaf("example.com").unwrap(), "example.com", SystemTime::now()).unwrap();
    for file in [KEY_FILE, SSH_KEY_FILE] {
        let mode = fs::metadata(dir.0.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(first.ssh_host_key(), again.ssh_host_key());
    // A certificate that was lost is made again, and the former one is trusted further.
    fs::remove_file(dir.0.join(CERTIFICATE_FILE)).unwrap();
    let renewed = Authority::open(&dir.0).unwrap();
    verify(&first, &renewed.leaf("example.com").unwrap(), "example.com", SystemTime::now()).unwrap();
}

#[test]
fn what_does_not_fit_together_is_left_as_it_is() {
    let dir = Dir::new("unfit");
    fs::write(dir.0.join(KEY_FILE), "abc\n").unwrap();
    assert!(matches!(Authority::open(&dir.0), Err(AuthorityError::NoKey { .. })));
    assert_eq!(fs::read_to_string(dir.0.join(KEY_FILE)).unwrap(), "abc\n");
    fs::remove_file(dir.0.join(KEY_FILE)).unwrap();
    fs::write(dir.0.join(CERTIFICATE_FILE), Authority::make().unwrap().certificate_pem()).unwrap();
    assert!(matches!(Authority::open(&dir.0), Err(AuthorityError::NoCertificate { .. })));
}

/// Skipped where there is no OpenSSH.
#[test]
fn ssh_knows_the_hosts() {
    let authority = Authority::make().unwrap();
    let dir = Dir::new("ssh");
    let file = dir.0.join("known_hosts");
    fs::write(&file, authority.known_hosts(["git.example", "*.host.example"]).join("\n") + "\n").unwrap();
    let knows = |host: &str| {
        let found = Command::new("ssh-keygen").args(["-F", host, "-f", file.to_str().unwrap()]).stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    if !knows("git.example") {
        assert!(Command::new("ssh-keygen").arg("-?").output().is_err(), "the file cannot be read");
        eprintln!("skipped: needs ssh-keygen");
        return;
    }
    for host in ["[git.example]:2222", "host.example", "a.host.example", "[a.host.example]:22022"] {
        assert!(knows(host), "{host}");
    }
    for host in ["other.example", "nothost.example", "git.example.org"] {
        assert!(!knows(host), "{host}");
    }
}

/// What is asked of OpenSSL is skipped where there is none.
#[test]
fn openssl_agrees() {
    let openssl = |args: &[&str], input: &str| {
        let mut child = Command::new("openssl").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Some(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap())
    };
    let authority = Authority::make().unwrap();
    let Some(hash) = openssl(&["x509", "-noout", "-hash"], authority.certificate_pem()) else {
        eprintln!("skipped: needs openssl");
        return;
    };
    assert_eq!(hash.trim(), authority.subject_hash());
    let dir = Dir::new("openssl");
    fs::write(dir.0.join("ca.pem"), authority.certificate_pem()).unwrap();
    for server in ["example.com", "8.8.8.8"] {
        let leaf = authority.leaf(server).unwrap();
        fs::write(dir.0.join("leaf.pem"), pem(&leaf.cert[0])).unwrap();
        let (ca, leaf) = (dir.0.join("ca.pem"), dir.0.join("leaf.pem"));
        let said = openssl(&["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", ca.to_str().unwrap(), leaf.to_str().unwrap()], "").unwrap();
        assert!(said.ends_with(": OK\n"), "{said}");
    }
}
