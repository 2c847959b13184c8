//! A certificate from files, read again when they change.

use std::{
    fs,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;

use super::{super::acme, TlsError};
use crate::config::TlsConfig;

/// How often it is looked at whether the files changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Files {
    config: TlsConfig,
    key: RwLock<Arc<CertifiedKey>>,
}

impl Files {
    /// Reads the certificate. What cannot be read now is an error; what cannot be read later is logged, and the former one
    /// goes on being used.
    pub fn open(config: &TlsConfig) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { key: RwLock::new(Arc::new(read(config)?)), config: config.clone() }))
    }

    pub fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the certificate is for a host.
    pub fn covers(&self, host: &str) -> bool {
        self.key().end_entity_cert().is_ok_and(|certificate| acme::covers(certificate, host))
    }

    /// Reads the files again whenever they change, until stopped.
    pub async fn reload(self: Arc<Self>, stop: CancellationToken) {
        let mut known = stamps(&self.config);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = stamps(&self.config);
            if now == known {
                continue;
            }
            match read(&self.config) {
                Ok(key) => {
                    *self.key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                    known = now;
                    tracing::info!("the certificate was read again");
                }
                // Perhaps only one of the two was replaced yet.
                Err(error) => tracing::warn!(error = sandbar_node::error_text(&error), "the new certificate cannot be used; the former one is"),
            }
        }
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
