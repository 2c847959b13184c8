//! The resolver of a sandbox: asks the name servers of the host, and keeps protected addresses out of the answers.
//!
//! Questions are written anew (a new id, no options but the size), so a program cannot smuggle more to a name server
//! than a name. An answer with a protected address is refused whole: a name that points at the machine's neighbours
//! has no business here, and half an answer would be a lie.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sandbar_core::egress::{App, Flow, Protected, Protocol, Verdict};
use sandbar_linux::net::{RESOLVER, RESOLVER_PORT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::{Attached, Inner};

mod message;
mod upstream;

pub(super) use upstream::{DEADLINE, Nameservers};

use message::{Answer, Query, Rcode};

/// Questions of one sandbox that are being answered; more get SERVFAIL.
const QUERIES_MAX: usize = 128;
/// And so many in a second, after so many at once: the name servers would rather slow the whole machine down than one sandbox.
const QUERIES_PER_S: f64 = 200.0;
const QUERIES_AT_ONCE: f64 = 400.0;
/// TCP connections of one sandbox to its resolver.
const CONNECTIONS_MAX: usize = 32;
const CONNECTION_IDLE: Duration = Duration::from_secs(10);
/// A question is far shorter.
const QUERY_BYTES_MAX: usize = 1024;
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// How often a sandbox may still ask the name servers.
pub(super) struct Questions {
    left: Mutex<(f64, Instant)>,
}

impl Default for Questions {
    fn default() -> Self {
        Self { left: Mutex::new((QUERIES_AT_ONCE, Instant::now())) }
    }
}

impl Questions {
    fn take(&self, now: Instant) -> bool {
        let mut left = super::lock(&self.left);
        let (before, since) = *left;
        let has = (before + now.saturating_duration_since(since).as_secs_f64() * QUERIES_PER_S).min(QUERIES_AT_ONCE);
        let may_ask = has >= 1.0;
        *left = (if may_ask { has - 1.0 } else { has }, now.max(since));
        may_ask
    }
}

pub(super) async fn listen_udp(attached: Arc<Attached>, inner: Arc<Inner>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let permits = Arc::new(Semaphore::new(QUERIES_MAX));
    let mut buffer = [0; QUERY_BYTES_MAX];
    loop {
        let received = tokio::select! {
            () = attached.stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let Ok((len, from)) = received else { continue };
        let packet = &buffer[..len];
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            if let Ok(query) = Query::parse(packet) {
                socket.try_send_to(&query.reply(Rcode::ServFail, &[]), from).ok();
            }
            continue;
        };
        let packet = packet.to_vec();
        let (shared, inner, socket) = (Arc::clone(&attached), Arc::clone(&inner), Arc::clone(&socket));
        attached.tasks.spawn(async move {
            let work = answer(&shared, &inner, &packet, Transport::Udp);
            let reply = tokio::select! {
                () = shared.stop.cancelled() => None,
                reply = work => reply,
            };
            if let Some(reply) = reply {
                socket.send_to(&reply, from).await.ok();
            }
            drop(permit);
        });
    }
}

pub(super) async fn listen_tcp(attached: Arc<Attached>, inner: Arc<Inner>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = attached.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        // Too many: closed at once.
        let (Ok(permit), Some(place)) = (Arc::clone(&permits).try_acquire_owned(), inner.places.take_for_question()) else {
            continue;
        };
        let (shared, inner) = (Arc::clone(&attached), Arc::clone(&inner));
        attached.tasks.spawn(async move {
            tokio::select! {
                () = shared.stop.cancelled() => {}
                _ = serve_tcp(&shared, &inner, stream) => {}
            }
            drop((permit, place));
        });
    }
}

/// One question after the other until the program closes, idles or sends junk (None).
async fn serve_tcp(attached: &Attached, inner: &Inner, mut stream: TcpStream) -> Option<()> {
    loop {
        let read = async {
            let len = usize::from(stream.read_u16().await.ok()?);
            let mut packet = vec![0; Some(len).filter(|len| *len <= QUERY_BYTES_MAX)?];
            stream.read_exact(&mut packet).await.ok()?;
            Some(packet)
        };
        let packet = tokio::time::timeout(CONNECTION_IDLE, read).await.ok()??;
        let reply = answer(attached, inner, &packet, Transport::Tcp).await?;
        let write = async {
            stream.write_u16(u16::try_from(reply.len()).ok()?).await.ok()?;
            stream.write_all(&reply).await.ok()
        };
        tokio::time::timeout(CONNECTION_IDLE, write).await.ok()??;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// The reply to a packet; None when it deserves none.
async fn answer(attached: &Attached, inner: &Inner, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let query = match Query::parse(packet) {
        Ok(query) => query,
        Err(reply) => return reply,
    };
    attached.log.dns_query();
    if let Some(reply) = answer_locally(&query) {
        return Some(reply);
    }
    let (verdict, has_names) = {
        let policy = Arc::clone(&attached.state().policy);
        (policy.judge_name(query.name()), policy.has_names())
    };
    if !verdict.allow {
        return Some(refuse(attached, &query, verdict));
    }
    // Programs do without these records. With them they may greet a server in a way that hides its name from the rules.
    if has_names && message::TYPES_SERVICE.contains(&query.kind()) {
        return Some(query.reply(Rcode::NoError, &[]));
    }
    let Some((packet, answer)) = ask(attached, inner, &query, transport).await else {
        return Some(query.reply(Rcode::ServFail, &[]));
    };
    if answer.truncated {
        // Nothing of a cut answer is passed on: it may hide what its reader would still find.
        return Some(if transport == Transport::Udp { query.truncated() } else { query.reply(Rcode::ServFail, &[]) });
    }
    let protected = inner.protected();
    if let Some((addr, reason)) = find_protected(&answer, &protected) {
        let rule = format!("the name points at {addr}, a protected address: {reason}");
        return Some(refuse(attached, &query, Verdict { allow: false, rule: rule.into() }));
    }
    // Before the program knows: it may connect in the same moment.
    attached.names.pin(query.name(), &answer.of_name, ttl(&answer), Instant::now());
    if transport == Transport::Udp && packet.len() > query.udp_bytes_max() {
        return Some(query.truncated());
    }
    Some(query.adopt(packet))
}

/// None also when the sandbox asks too much, or all together do.
async fn ask(attached: &Attached, inner: &Inner, query: &Query, transport: Transport) -> Option<(Vec<u8>, Answer)> {
    if !attached.questions.take(Instant::now()) {
        return None;
    }
    let _place = inner.places.take_for_question()?;
    upstream::ask(&inner.nameservers, query, transport).await
}

/// What the name servers say of a name themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// For so long.
    At(Arc<[IpAddr]>, Duration),
    /// They know that there is no such name.
    Nowhere,
    /// They did not say, or what they said is not believed.
    Unknown,
}

/// The addresses of a name that a sandbox says it speaks to, asked anew.
pub(super) async fn find(attached: &Attached, inner: &Inner, name: &str, ipv6: bool) -> Found {
    let Some(query) = Query::for_addresses(name, ipv6) else {
        return Found::Unknown;
    };
    let mut asked = ask(attached, inner, &query, Transport::Udp).await;
    if asked.as_ref().is_some_and(|(_, answer)| answer.truncated) {
        asked = ask(attached, inner, &query, Transport::Tcp).await;
    }
    let Some((_, answer)) = asked else { return Found::Unknown };
    if answer.truncated || answer.failed || find_protected(&answer, &inner.protected()).is_some() {
        Found::Unknown
    } else if !answer.of_name.is_empty() {
        let ttl = ttl(&answer);
        Found::At(answer.of_name.into(), ttl)
    } else if answer.no_such_name {
        Found::Nowhere
    } else {
        // None of this kind: it may well have others, elsewhere.
        Found::Unknown
    }
}

fn find_protected(answer: &Answer, protected: &Protected) -> Option<(IpAddr, &'static str)> {
    answer.addresses.iter().find_map(|addr| Some((*addr, protected.reason(*addr)?)))
}

fn ttl(answer: &Answer) -> Duration {
    Duration::from_secs(answer.ttl_s.into())
}

fn refuse(attached: &Attached, query: &Query, verdict: Verdict) -> Vec<u8> {
    let resolver = Flow { addr: IpAddr::V4(RESOLVER), port: RESOLVER_PORT, proto: Protocol::Udp };
    attached.record(Some(query.name().to_owned()), Some(App::Dns), resolver, verdict);
    query.reply(Rcode::Refused, &[])
}

/// `localhost` and everything below it (RFC 6761).
fn answer_locally(query: &Query) -> Option<Vec<u8>> {
    let name = query.name();
    if name != "localhost" && !name.ends_with(".localhost") {
        return None;
    }
    let own: &[IpAddr] = match query.kind() {
        message::TYPE_A => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        message::TYPE_AAAA => &[IpAddr::V6(Ipv6Addr::LOCALHOST)],
        _ => &[],
    };
    Some(query.reply(Rcode::NoError, own))
}

/// `SocketAddr` of a name server by its address.
fn port_53(addr: IpAddr) -> SocketAddr {
    SocketAddr::new(addr, 53)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_asks_so_often_and_no_oftener() {
        let (questions, now) = (Questions::default(), Instant::now());
        let asked = |now| (0..1000).filter(|_| questions.take(now)).count();
        assert_eq!(asked(now), QUERIES_AT_ONCE as usize);
        assert_eq!(asked(now + Duration::from_secs(1)), QUERIES_PER_S as usize);
        assert_eq!(asked(now), 0, "time does not go back");
        assert_eq!(asked(now + Duration::from_secs(60)), QUERIES_AT_ONCE as usize);
    }
}
