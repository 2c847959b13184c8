//! Asking the name servers of the host.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::message::{Answer, Query};
use super::{Transport, port_53};

/// As resolvers do: more lines of resolv.conf are not looked at.
const SERVERS_MAX: usize = 3;
/// One for each server. Fewer servers have several: a packet may be lost, and who is slow the first time knows the second.
const TRIES: usize = SERVERS_MAX;
/// One try; all fit into [`DEADLINE`].
const TRY_WITHIN: Duration = Duration::from_millis(900);
/// How long a question takes at most.
pub(in super::super) const DEADLINE: Duration = Duration::from_secs(3);
const RESOLV_CONF: &str = "/etc/resolv.conf";
const RESOLV_CONF_BYTES_MAX: usize = 64 << 10;
/// How old the read file may be.
const FRESH_FOR: Duration = Duration::from_secs(5);
const PACKET_BYTES_MAX: usize = 4096;

/// Where names are asked.
pub(in super::super) struct Nameservers {
    fixed: Option<Vec<SocketAddr>>,
    read: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Nameservers {
    /// Those of /etc/resolv.conf, which is read again when it may have changed.
    pub fn system() -> Self {
        Self { fixed: None, read: Mutex::default() }
    }

    pub fn fixed(servers: Vec<SocketAddr>) -> Self {
        Self { fixed: Some(servers), read: Mutex::default() }
    }

    async fn list(&self) -> Vec<SocketAddr> {
        if let Some(fixed) = &self.fixed {
            return fixed.clone();
        }
        if let Some((at, servers)) = &*crate::egress::lock(&self.read)
            && at.elapsed() < FRESH_FOR
        {
            return servers.clone();
        }
        let text = tokio::fs::read(RESOLV_CONF).await.unwrap_or_default();
        let servers = parse(&String::from_utf8_lossy(&text[..text.len().min(RESOLV_CONF_BYTES_MAX)]));
        *crate::egress::lock(&self.read) = Some((Instant::now(), servers.clone()));
        servers
    }
}

/// The name servers of a resolv.conf; the machine itself when it names none (resolv.conf(5)).
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some("nameserver")
            && let Some(Ok(addr)) = words.next().map(str::parse::<IpAddr>)
            && servers.len() < SERVERS_MAX
        {
            servers.push(port_53(addr));
        }
    }
    if servers.is_empty() {
        servers.push(port_53(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
    servers
}

/// The first good answer, as it came and as read. None when no server gave one in time.
pub(super) async fn ask(nameservers: &Nameservers, query: &Query, transport: Transport) -> Option<(Vec<u8>, Answer)> {
    let work = async {
        let servers = nameservers.list().await;
        for (try_number, server) in servers.iter().cycle().take(TRIES).enumerate() {
            let once = async {
                match transport {
                    Transport::Udp => ask_udp(*server, query).await,
                    Transport::Tcp => ask_tcp(*server, query).await,
                }
            };
            match tokio::time::timeout(TRY_WITHIN, once).await {
                Ok(Some(answer)) => return Some(answer),
                Ok(None) => {
                    tracing::debug!(%server, try_number, "no good answer from a name server")
                }
                Err(_) => {
                    tracing::debug!(%server, try_number, "no answer from a name server in time")
                }
            }
        }
        None
    };
    tokio::time::timeout(DEADLINE, work).await.ok().flatten()
}

/// A socket of its own, connected: others than the server cannot answer, and the kernel chooses a random port.
async fn ask_udp(server: SocketAddr, query: &Query) -> Option<(Vec<u8>, Answer)> {
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    let id = random_id()?;
    socket.send(&query.upstream(id)).await.ok()?;
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        let len = socket.recv(&mut packet).await.ok()?;
        // What answers another question is passed over: it may be an attempt to be first.
        if let Some(answer) = query.read_answer(id, &packet[..len]) {
            packet.truncate(len);
            return Some((packet, answer));
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &Query) -> Option<(Vec<u8>, Answer)> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    let id = random_id()?;
    let question = query.upstream(id);
    let mut framed = (question.len() as u16).to_be_bytes().to_vec();
    framed.extend(question);
    stream.write_all(&framed).await.ok()?;
    let mut packet = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut packet).await.ok()?;
    let answer = query.read_answer(id, &packet)?;
    Some((packet, answer))
}

fn random_id() -> Option<u16> {
    Some(getrandom::u32().ok()? as u16)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::message::Rcode;
    use super::*;

    #[tokio::test]
    async fn the_last_server_is_asked_in_time() {
        let mut servers = Vec::new();
        for _ in 0..SERVERS_MAX {
            servers.push(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses = servers.iter().map(|server| server.local_addr().unwrap()).collect();
        let last = servers.pop().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 512];
            let (len, from) = last.recv_from(&mut packet).await.unwrap();
            let reply = Query::parse(&packet[..len]).unwrap().reply(Rcode::NoError, &["1.2.3.4".parse().unwrap()]);
            last.send_to(&reply, from).await.unwrap();
        });
        let query = Query::for_addresses("a.test", false).unwrap();
        let (_, answer) = ask(&Nameservers::fixed(addresses), &query, Transport::Udp).await.unwrap();
        assert_eq!(answer.of_name, ["1.2.3.4".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn resolv_conf() {
        let text = "# x\nsearch a.b\nnameserver 10.0.0.1\n nameserver ::1 \nnameserver fe80::1%eth0\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n";
        let servers: Vec<_> = parse(text).iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53", "1.1.1.1:53"]);
        assert_eq!(parse(""), ["127.0.0.1:53".parse().unwrap()]);
    }
}
