//! Certificates made by hand, and connections that look at what they are shown.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

/// Handshakes wait for orders; a hung one must not hang the test.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// An authority of the test's own.
pub struct Root {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Root {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Else it has the name of what it issues, and passes for that.
        params.distinguished_name.push(DnType::CommonName, "The test's root");
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for names or addresses, and its key.
    pub fn issue(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A connection by TLS, over which requests are sent one after the other.
pub struct Secure {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    host: String,
    /// What the server showed.
    pub certificate: CertificateDer<'static>,
}

impl Secure {
    /// Shakes hands for `host` and believes `root` alone.
    pub fn connect(addr: SocketAddr, host: &str, root: &str) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(root.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned()).unwrap()).unwrap();
        let mut stream = TcpStream::connect(addr).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(READ_WITHIN)).unwrap();
        while client.is_handshaking() {
            client.complete_io(&mut stream).map_err(|error| error.to_string())?;
        }
        let certificate = client.peer_certificates().unwrap()[0].clone().into_owned();
        Ok(Self { stream: BufReader::new(StreamOwned::new(client, stream)), host: host.to_owned(), certificate })
    }

    /// Status and body of an answer, by HTTP/1.1.
    pub fn get(&mut self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut status, mut length) = (0, 0);
        for at in 0.. {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "the connection ended");
            let line = line.trim().to_ascii_lowercase();
            if at == 0 {
                status = line.split(' ').nth(1).unwrap().parse().unwrap();
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }
}

/// What `curl` printed; `host` is looked for at `addr`.
pub fn curl(addr: SocketAddr, host: &str, args: &[&str]) -> Result<String, String> {
    let resolve = format!("{host}:{}:{}", addr.port(), addr.ip());
    let done = Command::new("curl").args(["-sS", "--max-time", "60", "--resolve", &resolve]).args(args).output().expect("curl is installed");
    if done.status.success() { Ok(String::from_utf8(done.stdout).unwrap()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}
