//! Connections from the host to where a sandbox wants to go: straight, or through the SOCKS5 server of its policy.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sandbar_core::egress::UpstreamProxy;
use tokio::net::TcpStream;

use super::dns::{self, Found};
use super::flow::Evidence;
use super::login::socks5::{self, Target};
use super::login::{Login, LoginError};
use super::socket::prepare;
use super::{Attached, Inner};

const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// Why a server was not reached; the text is for the sandbox's user.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Connect(io::Error),
    #[error("no connection within {} s", DIAL_WITHIN.as_secs())]
    Late,
    #[error("the policy's proxy is not reached: {0}")]
    Proxy(io::Error),
    #[error("the policy's proxy has no address")]
    ProxyNowhere,
    #[error("the policy's proxy is at a protected address: {0}")]
    ProxyProtected(&'static str),
    #[error("the policy's proxy: {0}")]
    Login(#[from] LoginError),
    #[error("the policy's proxy does not connect: {}", socks_reason(*.0))]
    Refused(u8),
}

/// An admitted flow's connection.
pub(super) async fn dial(attached: &Attached, inner: &Inner, evidence: &Evidence) -> Result<TcpStream, DialError> {
    let policy = Arc::clone(&attached.state().policy);
    let work = async {
        match policy.proxy() {
            Some(proxy) => through(attached, inner, proxy, evidence).await,
            None => TcpStream::connect(SocketAddr::new(evidence.flow.addr, evidence.flow.port)).await.map_err(DialError::Connect),
        }
    };
    let outside = tokio::time::timeout(DIAL_WITHIN, work).await.map_err(|_| DialError::Late)??;
    prepare(&outside);
    Ok(outside)
}

/// The proxy gets the name where the address is known to be one of it, so that it may go another way to it.
async fn through(attached: &Attached, inner: &Inner, proxy: &UpstreamProxy, evidence: &Evidence) -> Result<TcpStream, DialError> {
    let addr = find(attached, inner, &proxy.host).await.ok_or(DialError::ProxyNowhere)?;
    if let Some(reason) = inner.protected().reason(addr) {
        return Err(DialError::ProxyProtected(reason));
    }
    let materials = attached.materials();
    let login = match &proxy.credential {
        None => None,
        Some(binding) => {
            let login = materials.get(&binding.source).and_then(|material| Login::of(material));
            Some(login.ok_or(LoginError::Material)?)
        }
    };
    let mut outside = TcpStream::connect((addr, proxy.port)).await.map_err(DialError::Proxy)?;
    socks5::log_in(&mut outside, login).await?;
    let target = evidence.proven_name().map_or(Target::Addr(evidence.flow.addr), Target::Name);
    socks5::connect(&mut outside, target, evidence.flow.port).await?.map_err(DialError::Refused)?;
    Ok(outside)
}

async fn find(attached: &Attached, inner: &Inner, host: &str) -> Option<IpAddr> {
    if let Ok(addr) = host.parse::<IpAddr>() {
        return Some(addr.to_canonical());
    }
    for ipv6 in [false, true] {
        if let Found::At(addresses, _) = dns::find(attached, inner, host, ipv6).await {
            return addresses.first().map(IpAddr::to_canonical);
        }
    }
    None
}

/// RFC 1928, 6.
fn socks_reason(code: u8) -> &'static str {
    match code {
        2 => "its own rules refuse it",
        3 => "the network is not reached",
        4 => "the host is not reached",
        5 => "the server refuses connections",
        6 => "too many hops",
        _ => "a failure of its own",
    }
}
