//! This installation's certificate authority. A flow whose request is looked into, or given a credential, ends at us in
//! the name of the server that it was meant for; the sandbox trusts us because this authority is among its roots. Nobody
//! else has a reason to.
//!
//! The key is all that has to be kept: the authority's name and its certificate follow from it. It is made once and lies
//! in the data directory, where sandboxes see nothing. Keys of leaves live in memory only.
//!
//! The same for SSH is a host key, which is ours whatever host a sandbox means.
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ED25519, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls::RootCertStore;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SigningKey};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::lock;

/// The authority's key and its certificate, in the data directory.
const KEY_FILE: &str = "egress-ca.key";
const CERTIFICATE_FILE: &str = "egress-ca.crt";
/// The host key of SSH.
const SSH_KEY_FILE: &str = "egress-ssh.key";
const SSH_KEY_KIND: &str = "ssh-ed25519";
/// Of either file.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// What the authority is called; a part of its key's digest comes after it, so that two installations differ.
const NAME: &str = "Sandbar egress authority";
const ORGANIZATION: &str = "Sandbar";
/// How long the authority's certificate is valid. Sandboxes live shorter, and it cannot be replaced in all of them at once.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
const LEAF_LIFE: Duration = Duration::from_secs(86_400);
/// A leaf that is older is made anew.
const LEAF_FRESH: Duration = Duration::from_secs(LEAF_LIFE.as_secs() / 2);
/// Certificates begin that much before they are made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(3600);
/// Leaves in each of the two generations that are kept.
const LEAVES_MAX: usize = 2048;
/// Characters of a common name (RFC 5280, appendix A.1).
const COMMON_NAME_MAX_CHARS: usize = 64;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot {what} {path}")]
    Files {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no key of an egress authority; with another one, sandboxes do not trust what they are shown any more")]
    NoKey {
        path: PathBuf,
        #[source]
        source: rcgen::Error,
    },
    #[error("{path} is no certificate of the key beside it; remove it to have it made again")]
    NoCertificate { path: PathBuf },
    #[error("make a key or a certificate")]
    Make(#[from] rcgen::Error),
    #[error("use the key of leaves")]
    LeafKey(#[source] rustls::Error),
}

/// Why a server's name got no certificate.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    #[error("{0:?} is no name of a server")]
    Name(String),
    #[error("the machine gives no random numbers")]
    NoRandom,
    #[error("sign a certificate")]
    Sign(#[from] rcgen::Error),
}

/// Makes certificates in the name of servers.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    name: AuthorityName,
    leaf_key: KeyPair,
    leaf_signer: Arc<dyn SigningKey>,
    leaves: Mutex<Leaves>,
    ssh_key: KeyPair,
}

/// The authority's name, in the two parts that it consists of.
struct AuthorityName {
    common: String,
}

/// Certificates by server. When the young are as many as may be, they become the old, and what was old and not asked for
/// since is forgotten.
#[derive(Default)]
struct Leaves {
    young: HashMap<String, Leaf>,
    old: HashMap<String, Leaf>,
}

#[derive(Clone)]
struct Leaf {
    key: Arc<CertifiedKey>,
    made_at: SystemTime,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("name", &self.name.common).finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads the authority of a data directory, or makes one. Blocks for the disk.
    ///
    /// # Errors
    /// What is there cannot be read or does not fit together; it is left as it is.
    pub fn open(data_dir: &Path) -> Result<Self, AuthorityError> {
        let key = kept_key(data_dir, KEY_FILE, &PKCS_ECDSA_P256_SHA256)?;
        let ssh_key = kept_key(data_dir, SSH_KEY_FILE, &PKCS_ED25519)?;
        let path = data_dir.join(CERTIFICATE_FILE);
        let certificate = match read(&path)? {
            Some(pem) => of_key(&pem, &key).ok_or(AuthorityError::NoCertificate { path })?,
            None => {
                let certificate = self_signed(&key)?;
                write(data_dir, &path, &pem(&certificate), 0o644)?;
                certificate
            }
        };
        Self::assemble(key, certificate, ssh_key)
    }

    /// One that nobody knows, and that ends with the value.
    pub fn make() -> Result<Self, AuthorityError> {
        let key = new_key()?;
        let certificate = self_signed(&key)?;
        Self::assemble(key, certificate, KeyPair::generate_for(&PKCS_ED25519)?)
    }

    fn assemble(key: KeyPair, certificate: CertificateDer<'static>, ssh_key: KeyPair) -> Result<Self, AuthorityError> {
        let leaf_key = new_key()?;
        let leaf_der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let leaf_signer = any_ecdsa_type(&leaf_der).map_err(AuthorityError::LeafKey)?;
        let name = AuthorityName::of(&key);
        let pem = pem(&certificate);
        Ok(Self { issuer: Issuer::new(authority_params(&key), key), certificate, pem, name, leaf_key, leaf_signer, leaves: Mutex::default(), ssh_key })
    }

    /// The authority's certificate, for those that are to trust it.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The same in binary.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// By which number OpenSSL looks for the certificate in a folder of such: eight hexadecimal digits, to which `.0` is
    /// appended, or the next digit when that is taken.
    pub fn subject_hash(&self) -> String {
        self.name.openssl_hash()
    }

    /// The key by which sandboxes know whoever ends their SSH: Ed25519, as PKCS#8.
    pub fn ssh_host_key(&self) -> &[u8] {
        self.ssh_key.serialized_der()
    }

    /// The same as lines of a `known_hosts` file, for hosts like `example.com` and `*.example.com`, at any port.
    pub fn known_hosts<'a>(&self, hosts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let field = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
        let key = BASE64_STANDARD.encode([field(SSH_KEY_KIND.as_bytes()), field(self.ssh_key.public_key_raw())].concat());
        let line = |host: &str| {
            let names = [Some(host), host.strip_prefix("*.")];
            let patterns: Vec<String> = names.into_iter().flatten().map(|name| format!("{name},[{name}]:*")).collect();
            format!("{} {SSH_KEY_KIND} {key}", patterns.join(","))
        };
        hosts.into_iter().map(line).collect()
    }

    /// A certificate for a server, a DNS name or an IP address, with its key. It is valid for a good part of a day.
    ///
    /// # Errors
    /// What was given is neither.
    pub fn leaf(&self, server_name: &str) -> Result<Arc<CertifiedKey>, LeafError> {
        let no_name = || LeafError::Name(server_name.chars().take(COMMON_NAME_MAX_CHARS).collect());
        let name = server_name.strip_suffix('.').unwrap_or(server_name).to_ascii_lowercase();
        let now = SystemTime::now();
        if let Some(leaf) = lock(&self.leaves).find(&name, now) {
            return Ok(leaf.key);
        }
        let san = match ServerName::try_from(name.as_str()).map_err(|_| no_name())? {
            ServerName::IpAddress(addr) => SanType::IpAddress(IpAddr::from(addr)),
            // There are no other kinds so far.
            _ => SanType::DnsName(name.as_str().try_into().map_err(|_| no_name())?),
        };
        // Outside of the lock: two that ask at once get two, of which one is kept.
        let key = Arc::new(self.sign(&name, san, now)?);
        lock(&self.leaves).put(name, Leaf { key: Arc::clone(&key), made_at: now });
        Ok(key)
    }

    fn sign(&self, name: &str, san: SanType, now: SystemTime) -> Result<CertifiedKey, LeafError> {
        let mut params = CertificateParams::default();
        // Some software knows certificates by issuer and number, and refuses two that agree in both.
        let mut serial = [0; 16];
        getrandom::fill(&mut serial).map_err(|_| LeafError::NoRandom)?;
        serial[0] &= 0x7f;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = DistinguishedName::new();
        if name.len() <= COMMON_NAME_MAX_CHARS {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = vec![san];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, LEAF_LIFE);
        let certificate = params.signed_by(&self.leaf_key, &self.issuer)?;
        Ok(CertifiedKey::new(vec![certificate.der().clone()], Arc::clone(&self.leaf_signer)))
    }
}

impl Leaves {
    fn find(&mut self, name: &str, now: SystemTime) -> Option<Leaf> {
        let fresh = |leaf: &Leaf| now.duration_since(leaf.made_at).is_ok_and(|age| age < LEAF_FRESH);
        if let Some(leaf) = self.young.get(name) {
            return Some(leaf).filter(|leaf| fresh(leaf)).cloned();
        }
        let leaf = self.old.remove(name).filter(fresh)?;
        self.put(name.to_owned(), leaf.clone());
        Some(leaf)
    }

    fn put(&mut self, name: String, leaf: Leaf) {
        if self.young.len() >= LEAVES_MAX && !self.young.contains_key(&name) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, leaf);
    }
}

impl AuthorityName {
    fn of(key: &KeyPair) -> Self {
        Self { common: format!("{NAME} {}", hex::encode(&Sha256::digest(key.public_key_raw())[..4])) }
    }

    fn distinguished(&self) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, ORGANIZATION);
        name.push(DnType::CommonName, self.common.as_str());
        name
    }

    /// OpenSSL's `X509_NAME_hash`: of the name's parts in lower case, as UTF-8, without what encloses the whole.
    fn openssl_hash(&self) -> String {
        const ORGANIZATION_OID: [u8; 3] = [0x55, 0x04, 0x0a];
        const COMMON_NAME_OID: [u8; 3] = [0x55, 0x04, 0x03];
        let parts = [(ORGANIZATION_OID, ORGANIZATION), (COMMON_NAME_OID, &self.common)];
        let canonical = parts.iter().flat_map(|(oid, value)| {
            let value = der(0x0c, value.to_ascii_lowercase().as_bytes());
            der(0x31, &der(0x30, &[der(0x06, oid), value].concat()))
        });
        let digest = Sha1::digest(canonical.collect::<Vec<u8>>());
        format!("{:08x}", u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]))
    }
}

/// A value of ASN.1 that is shorter than 128 bytes, as all parts of our name are.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, content.len() as u8], content].concat()
}

/// A key that is kept in a file, or made and put there.
fn kept_key(data_dir: &Path, file: &str, algorithm: &'static SignatureAlgorithm) -> Result<KeyPair, AuthorityError> {
    let path = data_dir.join(file);
    match read(&path)? {
        Some(pem) => KeyPair::from_pem_and_sign_algo(&pem, algorithm).map_err(|source| AuthorityError::NoKey { path, source }),
        None => {
            let key = KeyPair::generate_for(algorithm)?;
            write(data_dir, &path, &key.serialize_pem(), 0o600)?;
            Ok(key)
        }
    }
}

fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

/// Good for nothing but certificates of servers that sign no others.
fn authority_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = AuthorityName::of(key).distinguished();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    set_validity(&mut params, SystemTime::now(), AUTHORITY_LIFE);
    params
}

fn self_signed(key: &KeyPair) -> Result<CertificateDer<'static>, rcgen::Error> {
    Ok(authority_params(key).self_signed(key)?.der().clone())
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, life: Duration) {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + life;
}

/// The certificate of a file, when it is one of this key.
fn of_key(pem: &str, key: &KeyPair) -> Option<CertificateDer<'static>> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).ok()?;
    roots.roots.first()?.subject_public_key_info.ends_with(key.public_key_raw()).then_some(certificate)
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.encode(certificate);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    lines.fold("-----BEGIN CERTIFICATE-----\n".to_owned(), |pem, line| pem + &line + "\n") + "-----END CERTIFICATE-----\n"
}

/// `None` when the file is not there.
fn read(path: &Path) -> Result<Option<String>, AuthorityError> {
    let mut text = String::new();
    match fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(AuthorityError::Files { what: "read", path: path.to_owned(), source }),
    }
}

/// Writes a file so that it is there whole or not at all.
fn write(data_dir: &Path, path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let new = path.with_extension("new");
    let write = || {
        // What a crash left may have another mode.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        fs::File::open(data_dir)?.sync_all()
    };
    write().map_err(|source| AuthorityError::Files { what: "make", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
