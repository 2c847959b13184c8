//! The client of the rows: on the machine or inside a sandbox, it does one thing so many times and prints how long each
//! took. It blocks on its sockets, so that nothing of its own lies between it and the kernel.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use super::servers::{DATAGRAM_BYTES, ECHO, ECHO_BYTES, NAME, SINK, SOURCE, STREAM_BYTES};
use crate::{bench::gateway::BODY, output};

/// What takes longer has gone wrong.
const PATIENCE: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 128 << 10;
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Connect, a few bytes there and back, close.
    Connect,
    /// So many bytes to the server in one connection.
    StreamOut,
    /// So many bytes from the server in one connection.
    StreamIn,
    /// A datagram there and back.
    Datagram,
    /// An HTTP request on a connection that is kept.
    Request,
    /// A connection with a whole handshake of TLS and one request.
    TlsConnect,
    /// A request on a connection of TLS that is kept.
    TlsRequest,
}

#[derive(Debug, Args)]
pub struct ClientArgs {
    pub work: Work,
    /// The server, as HOST:PORT
    pub to: String,
    /// How often
    pub count: usize,
    /// Who certifies the server, in PEM
    #[arg(long, env = "SANDBOX0_NETWORK_MITM_CA_FILE", value_name = "FILE")]
    pub roots: Option<PathBuf>,
}

/// Prints nanoseconds as a JSON list.
pub fn run(args: &ClientArgs) -> anyhow::Result<()> {
    // Once, as a program does that remembers the answer.
    let to = args.to.to_socket_addrs().with_context(|| format!("cannot resolve {}", args.to))?.find(SocketAddr::is_ipv4).context("no address")?;
    let times = match args.work {
        Work::Connect => repeat(args.count, || echo(to))?,
        Work::StreamOut => repeat(args.count, || stream_out(to))?,
        Work::StreamIn => repeat(args.count, || stream_in(to))?,
        Work::Datagram => datagrams(to, args.count)?,
        Work::Request => {
            let mut connection = connect(to)?;
            repeat(args.count, || timed(|| ask(&mut connection)))?
        }
        Work::TlsConnect => {
            let config = tls(args)?;
            repeat(args.count, || tls_connect(&config, to))?
        }
        Work::TlsRequest => {
            let mut connection = secure(&tls(args)?, to)?;
            repeat(args.count, || timed(|| ask(&mut connection)))?
        }
    };
    output::line(&serde_json::to_string(&times.iter().map(Duration::as_nanos).collect::<Vec<_>>())?);
    Ok(())
}

fn repeat(count: usize, mut once: impl FnMut() -> anyhow::Result<Duration>) -> anyhow::Result<Vec<Duration>> {
    (0..count).map(|_| once()).collect()
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

fn connect(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn echo(to: SocketAddr) -> anyhow::Result<Duration> {
    timed(|| {
        let mut stream = connect(to)?;
        let mut back = [0; ECHO_BYTES];
        stream.write_all(&[ECHO; ECHO_BYTES])?;
        stream.read_exact(&mut back)?;
        ensure!(back == [ECHO; ECHO_BYTES], "other bytes came back");
        Ok(())
    })
}

fn stream_out(to: SocketAddr) -> anyhow::Result<Duration> {
    let mut stream = connect(to)?;
    let bytes = vec![SINK; BUFFER_BYTES];
    timed(|| {
        let mut left = STREAM_BYTES;
        while left > 0 {
            let some = left.min(bytes.len());
            stream.write_all(&bytes[..some])?;
            left -= some;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut told = [0; 8];
        stream.read_exact(&mut told)?;
        ensure!(u64::from_be_bytes(told) == STREAM_BYTES as u64, "the server read another number of bytes");
        Ok(())
    })
}

fn stream_in(to: SocketAddr) -> anyhow::Result<Duration> {
    let mut stream = connect(to)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    timed(|| {
        stream.write_all(&[SOURCE; ECHO_BYTES])?;
        let mut read = 0;
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                some => read += some,
            }
        }
        ensure!(read == STREAM_BYTES, "{read} bytes came, not {STREAM_BYTES}");
        Ok(())
    })
}

fn datagrams(to: SocketAddr, count: usize) -> anyhow::Result<Vec<Duration>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut back = [0; DATAGRAM_BYTES];
    repeat(count, || {
        timed(|| {
            socket.send(&[ECHO; DATAGRAM_BYTES])?;
            ensure!(socket.recv(&mut back)? == DATAGRAM_BYTES, "another datagram came back");
            Ok(())
        })
    })
}

/// One request for what the upstream serves.
fn ask(stream: &mut (impl Read + Write)) -> anyhow::Result<()> {
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {NAME}\r\n\r\n").as_bytes())?;
    stream.flush()?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(BODY.as_bytes()) {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the connection ended after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..read]);
        ensure!(answer.len() < ANSWER_BYTES_MAX, "another answer than that of the upstream");
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "not 200: {}", String::from_utf8_lossy(&answer));
    Ok(())
}

fn tls_connect(config: &Arc<ClientConfig>, to: SocketAddr) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let mut stream = secure(config, to)?;
    ask(&mut stream)?;
    let time = begun.elapsed();
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(time)
}

fn secure(config: &Arc<ClientConfig>, to: SocketAddr) -> anyhow::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(NAME)?;
    Ok(StreamOwned::new(ClientConnection::new(Arc::clone(config), name)?, connect(to)?))
}

/// Without sessions to take up again: each connection is a whole handshake.
fn tls(args: &ClientArgs) -> anyhow::Result<Arc<ClientConfig>> {
    let path = args.roots.as_ref().context("TLS needs --roots")?;
    let pem = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
