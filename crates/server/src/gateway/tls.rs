//! TLS of the gateway's own listener: with a certificate from files, with those that an authority issues, or with both. Then
//! the one from files is for the hosts that it names, and for clients that name none.

use std::{io, path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    server::{Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::acme::{Acme, AcmeError};
use crate::{app::SharedApp, config::Config};

mod files;

use files::Files;

/// The protocol by which an authority asks its question (RFC 8737, 4).
const ALPN_OF_AUTHORITIES: &[u8] = b"acme-tls/1";

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
    #[error("certificates by ACME")]
    Acme(#[from] AcmeError),
}

/// TLS for connections of one listener.
pub(crate) struct Tls {
    certificates: Arc<Certificates>,
    server: Arc<ServerConfig>,
    /// For the questions of an authority.
    questions: Option<Arc<ServerConfig>>,
}

/// Which certificate a client is shown.
#[derive(Debug)]
struct Certificates {
    files: Option<Arc<Files>>,
    acme: Option<Arc<Acme>>,
}

impl Tls {
    /// Reads what there is; `None` when neither files nor an authority are configured.
    pub fn open(config: &Config) -> Result<Option<Self>, TlsError> {
        let certificates = Arc::new(Certificates {
            files: config.tls.as_ref().map(Files::open).transpose()?,
            acme: config.acme.as_ref().map(|acme| Acme::open(acme, &config.public_domain, &config.data_dir)).transpose()?,
        });
        if certificates.files.is_none() && certificates.acme.is_none() {
            return Ok(None);
        }
        let server = config_with(Arc::clone(&certificates) as _, &[b"h2", b"http/1.1"])?;
        let questions = certificates.acme.as_ref().map(|acme| {
            let mut questions = config_with(acme.challenges(), &[ALPN_OF_AUTHORITIES])?;
            questions.session_storage = Arc::new(NoServerSessionStorage {});
            questions.send_tls13_tickets = 0;
            Ok::<_, TlsError>(Arc::new(questions))
        });
        Ok(Some(Self { certificates, server: Arc::new(server), questions: questions.transpose()? }))
    }

    /// Shakes hands. `None` when it was an authority that asked, and has its answer.
    ///
    /// # Errors
    /// The connection broke, the client speaks no TLS that we speak, or the host that it names has no certificate.
    pub async fn accept(&self, app: &SharedApp, stream: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let hello = begun.client_hello();
        let host = hello.server_name().map(str::to_ascii_lowercase);
        let is_question = hello.alpn().is_some_and(|mut protocols| protocols.next() == Some(ALPN_OF_AUTHORITIES) && protocols.next().is_none());
        if is_question && let Some(questions) = &self.questions {
            let mut answered = begun.into_stream(Arc::clone(questions)).await?;
            answered.shutdown().await?;
            return Ok(None);
        }
        if let (Some(acme), Some(host)) = (&self.certificates.acme, &host)
            && !self.certificates.files.as_ref().is_some_and(|files| files.covers(host))
            && let Err(error) = acme.ensure(app, host).await
        {
            // The handshake goes on: that there is no certificate is told to the client in its own terms.
            tracing::debug!(host, %error, "a host has no certificate");
        }
        begun.into_stream(Arc::clone(&self.server)).await.map(Some)
    }

    /// What has to be done for it all the time: files are read again, certificates renewed.
    pub fn spawn_tasks(&self, app: &SharedApp, tracker: &TaskTracker, stop: &CancellationToken) {
        if let Some(files) = &self.certificates.files {
            tracker.spawn(Arc::clone(files).reload(stop.clone()));
        }
        if let Some(acme) = &self.certificates.acme {
            tracker.spawn(Arc::clone(acme).renew(app.clone(), stop.clone()));
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let files = self.files.as_ref();
        let Some(acme) = &self.acme else { return files.map(|files| files.key()) };
        let Some(host) = hello.server_name().map(str::to_ascii_lowercase) else { return files.map(|files| files.key()) };
        files.filter(|files| files.covers(&host)).map(|files| files.key()).or_else(|| acme.find(&host))
    }
}

fn config_with(certificates: Arc<dyn ResolvesServerCert>, protocols: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = builder.with_safe_default_protocol_versions().map_err(TlsError::Unfit)?.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}
