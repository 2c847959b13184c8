//! TLS towards servers and towards sandboxes: whom we believe, and how sessions are taken up again.
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sandbar_core::credential::Material;

use super::{Authority, EgressError};

/// Servers whose last session is kept, and sessions of sandboxes.
const SESSIONS_MAX: usize = 1024;
/// Certificates of clients that one sandbox may have ready.
const CERTIFICATES_MAX: usize = 16;
const ROOTS_BYTES_MAX: u64 = 4 << 20;

/// Of this machine.
pub(super) struct Tls {
    /// Certificates that the operator wants believed besides the machine's.
    own: Vec<CertificateDer<'static>>,
    roots: OnceLock<Arc<RootCertStore>>,
    client: OnceLock<Option<Arc<ClientConfig>>>,
    server: Result<Arc<ServerConfig>, rustls::Error>,
}

/// Why there is no configuration; never with a word of the secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("TLS cannot be used on this machine")]
    Machine,
    #[error("the credential source holds no certificate and key that fit together")]
    Certificate,
    #[error("no certificate can be made for this server's name")]
    Leaf,
}

impl Tls {
    /// `ca_file` holds certificates in PEM.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, EgressError> {
        Ok(Self::with_roots(ca_file.map_or(Ok(Vec::new()), read_roots)?))
    }

    /// Believes these besides the machine's.
    pub fn with_roots(own: Vec<CertificateDer<'static>>) -> Self {
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().and_then(|builder| {
            let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
            config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
            config.ticketer = ring::Ticketer::new()?;
            config.send_tls13_tickets = 1;
            Ok(Arc::new(config))
        });
        Self { own, roots: OnceLock::new(), client: OnceLock::new(), server }
    }

    /// Towards a sandbox, as the server of this name.
    pub fn server(&self, authority: &Authority, name: &str, alpn: Option<&[u8]>) -> Result<Arc<ServerConfig>, TlsError> {
        let leaf = authority.leaf(name).map_err(|_| TlsError::Leaf)?;
        let mut config = ServerConfig::clone(self.server.as_ref().map_err(|_| TlsError::Machine)?);
        config.cert_resolver = Arc::new(Single(leaf));
        config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
        Ok(Arc::new(config))
    }

    /// Towards a server. The machine's roots are read when they are first needed.
    pub fn client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let made = self.client.get_or_init(|| builder(self.roots()).map(|builder| Arc::new(with_sessions(builder.with_no_client_auth()))).ok());
        made.clone().ok_or(TlsError::Machine)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let made = self.roots.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "certificates of this machine are not read");
            }
            roots.add_parsable_certificates(found.certs);
            roots.add_parsable_certificates(self.own.iter().cloned());
            Arc::new(roots)
        });
        Arc::clone(made)
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn builder(roots: Arc<RootCertStore>) -> Result<Builder, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots))
}

fn with_sessions(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    config
}

/// Of a sandbox: configurations with certificates of its credential sources. Sessions are never shared between sources.
#[derive(Default)]
pub(super) struct ClientCertificates {
    made: Mutex<Vec<(Arc<Material>, Arc<ClientConfig>)>>,
}

impl ClientCertificates {
    pub fn client(&self, tls: &Tls, material: &Arc<Material>) -> Result<Arc<ClientConfig>, TlsError> {
        let mut made = super::lock(&self.made);
        if let Some((_, config)) = made.iter().find(|(of, _)| Arc::ptr_eq(of, material)) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(with_certificate(tls, material)?);
        if made.len() >= CERTIFICATES_MAX {
            made.remove(0);
        }
        made.push((Arc::clone(material), Arc::clone(&config)));
        Ok(config)
    }
}

fn with_certificate(tls: &Tls, material: &Material) -> Result<ClientConfig, TlsError> {
    let Material::ClientCertificate { certificate_pem, private_key_pem, ca_pem } = material else {
        return Err(TlsError::Certificate);
    };
    let certificates = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(|_| TlsError::Certificate);
    let chain = certificates(certificate_pem)?;
    let key = PrivateKeyDer::from_pem_slice(private_key_pem.as_bytes()).map_err(|_| TlsError::Certificate)?;
    let builder = match ca_pem {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(pem)?);
            builder(Arc::new(roots)).map_err(|_| TlsError::Machine)?
        }
        None => builder(tls.roots()).map_err(|_| TlsError::Machine)?,
    };
    builder.with_client_auth_cert(chain, key).map(with_sessions).map_err(|_| TlsError::Certificate)
}

fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, EgressError> {
    let wrong = |source| EgressError::Roots { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(wrong)?.len();
    if size > ROOTS_BYTES_MAX {
        return Err(wrong(std::io::Error::other(format!("it is longer than {ROOTS_BYTES_MAX} bytes"))));
    }
    let pem = std::fs::read(path).map_err(wrong)?;
    let roots = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|error| wrong(std::io::Error::other(error)))?;
    let (used, _) = RootCertStore::empty().add_parsable_certificates(roots.iter().cloned());
    if used == 0 || used < roots.len() {
        return Err(wrong(std::io::Error::other("it has to hold certificates in PEM, and nothing else")));
    }
    Ok(roots)
}

/// One certificate, whatever the client asks for: it was made for what it asked.
#[derive(Debug)]
struct Single(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Single {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
