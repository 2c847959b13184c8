//! Whom the client of the rows talks to: small servers on an address of this machine, and a name server that knows them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::bench::gateway::answer;

/// What they are all called.
pub const NAME: &str = "upstream.bench.test";
/// A connection's first byte says what is wanted. None of these begins a protocol that anybody knows.
pub const ECHO: u8 = 0xff;
pub const SINK: u8 = 0xfe;
pub const SOURCE: u8 = 0xfd;
/// As many bytes as it takes to be sure that it is no protocol.
pub const ECHO_BYTES: usize = 16;
pub const DATAGRAM_BYTES: usize = 64;
/// Of one stream.
pub const STREAM_BYTES: usize = 512 << 20;
/// What the upstream sees of the credential that is put into requests on their way.
pub const CREDENTIAL: (&str, &str) = ("authorization", "Bearer upstream-of-the-benchmark");

const BUFFER_BYTES: usize = 128 << 10;
const DNS_BYTES_MAX: usize = 1500;
const DNS_HEADER_BYTES: usize = 12;
/// Longer than a run takes.
const TTL_SECONDS: u32 = 300;

/// Running servers; they end with the value.
pub struct Servers {
    pub tcp: SocketAddr,
    pub udp: SocketAddr,
    pub http: SocketAddr,
    pub tls: SocketAddr,
    pub dns: SocketAddr,
    /// Who certifies the one of TLS.
    pub root_pem: String,
    credentials: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Servers {
    pub async fn start(ip: Ipv4Addr) -> anyhow::Result<Self> {
        let mut tasks = JoinSet::new();
        let credentials = Arc::new(AtomicUsize::new(0));
        let listen = async || TcpListener::bind((ip, 0)).await.with_context(|| format!("cannot listen on {ip}"));
        let (tcp, http, tls) = (listen().await?, listen().await?, listen().await?);
        let udp = UdpSocket::bind((ip, 0)).await?;
        let dns = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (config, root_pem) = certified(ip)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let servers = (tcp.local_addr()?, udp.local_addr()?, http.local_addr()?, tls.local_addr()?, dns.local_addr()?);
        tasks.spawn(each(tcp, |stream| async move { serve_bytes(stream).await }));
        tasks.spawn(each(http, |stream| async move {
            answer(stream, |_| {}).await;
            Ok(())
        }));
        let seen = Arc::clone(&credentials);
        tasks.spawn(each(tls, move |stream| {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            async move {
                let stream = acceptor.accept(stream).await?;
                answer(stream, |head| {
                    if has_credential(head) {
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .await;
                Ok(())
            }
        }));
        tasks.spawn(echo_datagrams(udp));
        tasks.spawn(tell_names(dns, ip));
        let (tcp, udp, http, tls, dns) = servers;
        Ok(Self { tcp, udp, http, tls, dns, root_pem, credentials, _tasks: tasks })
    }

    /// Requests over TLS that had the credential, since this was asked last.
    pub fn take_credentials(&self) -> usize {
        self.credentials.swap(0, Ordering::Relaxed)
    }
}

fn has_credential(head: &[u8]) -> bool {
    let (name, value) = CREDENTIAL;
    String::from_utf8_lossy(head).lines().filter_map(|line| line.split_once(':')).any(|(is, held)| is.eq_ignore_ascii_case(name) && held.trim() == value)
}

/// A task for each connection.
async fn each<F: Future<Output = std::io::Result<()>> + Send + 'static>(listener: TcpListener, serve: impl Fn(TcpStream) -> F) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve(stream));
    }
}

async fn serve_bytes(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut read = stream.read(&mut buffer).await?;
    match buffer[0] {
        ECHO => {
            while read > 0 {
                stream.write_all(&buffer[..read]).await?;
                read = stream.read(&mut buffer).await?;
            }
        }
        SINK => {
            let mut all = 0;
            while read > 0 {
                all += read as u64;
                read = stream.read(&mut buffer).await?;
            }
            stream.write_all(&all.to_be_bytes()).await?;
        }
        SOURCE => {
            let mut left = STREAM_BYTES;
            while left > 0 {
                let some = left.min(buffer.len());
                stream.write_all(&buffer[..some]).await?;
                left -= some;
            }
        }
        _ => {}
    }
    Ok(())
}

async fn echo_datagrams(socket: UdpSocket) {
    let mut buffer = [0; DATAGRAM_BYTES];
    while let Ok((read, from)) = socket.recv_from(&mut buffer).await {
        let _ = socket.send_to(&buffer[..read], from).await;
    }
}

/// Answers every question with the one address, and questions for other things than addresses of IPv4 with nothing.
async fn tell_names(socket: UdpSocket, ip: Ipv4Addr) {
    let mut buffer = [0; DNS_BYTES_MAX];
    while let Ok((read, from)) = socket.recv_from(&mut buffer).await {
        if let Some(reply) = reply(&buffer[..read], ip) {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

/// The reply to a message of DNS with one question (RFC 1035, section 4).
fn reply(question: &[u8], ip: Ipv4Addr) -> Option<Vec<u8>> {
    let labels = question.get(DNS_HEADER_BYTES..)?;
    let mut name_bytes = 0;
    while *labels.get(name_bytes)? != 0 {
        name_bytes += usize::from(labels[name_bytes]) + 1;
    }
    let asked = labels.get(..name_bytes + 5)?;
    let wants_ipv4 = asked.ends_with(&[0, 1, 0, 1]);
    let mut reply = question[..2].to_vec();
    // An answer, recursion as it was desired and available; one question, so many answers, and nothing else.
    reply.extend([0x80 | question[2] & 0x01, 0x80, 0, 1, 0, u8::from(wants_ipv4), 0, 0, 0, 0]);
    reply.extend(asked);
    if wants_ipv4 {
        // The name again, by its place; type A, class IN.
        reply.extend([0xc0, DNS_HEADER_BYTES as u8, 0, 1, 0, 1]);
        reply.extend(TTL_SECONDS.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(ip.octets());
    }
    Some(reply)
}

/// TLS with a certificate of P-256 by an authority of its own, whose PEM is returned, too.
fn certified(ip: Ipv4Addr) -> anyhow::Result<(ServerConfig, String)> {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
    let (root_key, leaf_key) = (key()?, key()?);
    let mut root = CertificateParams::default();
    // Not the leaf's: who finds the same name on both takes the leaf for one that certifies itself.
    root.distinguished_name.push(DnType::CommonName, "authority of the benchmark");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key)?.pem();
    let mut leaf = CertificateParams::new([NAME.to_owned()])?;
    leaf.subject_alt_names.push(rcgen::SanType::IpAddress(IpAddr::V4(ip)));
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(root, root_key))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions()?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    Ok((builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key)?, root_pem))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_name_server_knows_one_address() {
        let ask = |kind: u8| [&[7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &b"\x01a\x04test\0"[..], &[0, kind, 0, 1]].concat();
        let told = reply(&ask(1), Ipv4Addr::new(192, 0, 2, 7)).unwrap();
        assert_eq!(told[..12], [7, 9, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert!(told.ends_with(&[0, 4, 192, 0, 2, 7]));
        assert_eq!(reply(&ask(28), Ipv4Addr::LOCALHOST).unwrap()[7], 0);
        for len in 0..ask(1).len() {
            assert_eq!(reply(&ask(1)[..len], Ipv4Addr::LOCALHOST), None, "{len} bytes");
        }
    }
}
