//! TLS of the gateway's own listener: a certificate from files, which are read again when they change.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::TlsConfig;

/// How often it is looked at whether the files changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("certificate and key cannot be used together")]
    Unfit(#[source] rustls::Error),
}

/// TLS for connections of one listener.
pub(crate) struct Tls {
    pub acceptor: TlsAcceptor,
    files: Arc<Files>,
}

/// The certificate from files.
#[derive(Debug)]
struct Files {
    config: TlsConfig,
    key: RwLock<Arc<CertifiedKey>>,
}

impl Tls {
    /// Reads the certificate. What cannot be read now is an error; what cannot be read later is logged, and the former one
    /// goes on being used.
    pub fn open(config: &TlsConfig) -> Result<Self, TlsError> {
        let files = Arc::new(Files { key: RwLock::new(Arc::new(read(config)?)), config: config.clone() });
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut server =
            builder.with_safe_default_protocol_versions().map_err(TlsError::Unfit)?.with_no_client_auth().with_cert_resolver(Arc::clone(&files) as _);
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), files })
    }

    /// Reads the files again whenever they change, until stopped.
    pub async fn reload(files: Arc<Self>, stop: CancellationToken) {
        let files = &files.files;
        let mut known = stamps(&files.config);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = stamps(&files.config);
            if now == known {
                continue;
            }
            match read(&files.config) {
                Ok(key) => {
                    *files.key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                    known = now;
                    tracing::info!("the certificate was read again");
                }
                // Perhaps only one of the two was replaced yet.
                Err(error) => tracing::warn!(error = sandbar_node::error_text(&error), "the new certificate cannot be used; the former one is"),
            }
        }
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read(config: &TlsConfig) -> Result<CertifiedKey, TlsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Read { path, source }
    };
    let certificates = CertificateDer::pem_file_iter(&config.certificate)
        .map_err(failed(&config.certificate))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed(&config.certificate))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: config.certificate.clone() });
    }
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(failed(&config.key))?;
    let certified = CertifiedKey::from_der(certificates, key, &ring::default_provider()).map_err(TlsError::Unfit)?;
    certified.keys_match().map_err(TlsError::Unfit)?;
    Ok(certified)
}

fn stamps(config: &TlsConfig) -> [Option<SystemTime>; 2] {
    [&config.certificate, &config.key].map(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok())
}
