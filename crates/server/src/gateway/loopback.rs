//! TLS to a development server on a sandbox's own loopback. There is nobody between, and such servers make their certificates
//! up, so whichever is shown is taken.

use std::{
    io,
    sync::{Arc, LazyLock},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use sandbar_node::Runtime;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Who accepts a connection and does not speak TLS may say nothing at all.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

static CONNECTOR: LazyLock<Option<TlsConnector>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().ok()?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Whoever(provider))).with_no_client_auth();
    Some(TlsConnector::from(Arc::new(config)))
});

/// Connects to a port of a runtime.
pub(super) async fn connect(runtime: &Runtime, port: u16) -> io::Result<TlsStream<TcpStream>> {
    let connector = CONNECTOR.as_ref().ok_or_else(|| io::Error::other("TLS has no protocol version"))?;
    let stream = runtime.connect(port).await?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    tokio::time::timeout(HANDSHAKE_WITHIN, connector.connect(name, stream)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Takes whichever certificate; whoever shows it still has to have its key.
#[derive(Debug)]
struct Whoever(Arc<CryptoProvider>);

impl ServerCertVerifier for Whoever {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
