//! Connections from the host to where a sandbox wants to go.
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::flow::Evidence;
use super::socket::prepare;
use super::{Attached, Inner};

pub(super) const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// Why a server was not reached; the text is for the sandbox's user.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Connect(io::Error),
    #[error("no connection within {} s", DIAL_WITHIN.as_secs())]
    Late,
}

/// An admitted flow's connection.
pub(super) async fn dial(_attached: &Attached, _inner: &Inner, evidence: &Evidence) -> Result<TcpStream, DialError> {
    let flow = evidence.flow;
    connect(SocketAddr::new(flow.addr, flow.port)).await
}

async fn connect(to: SocketAddr) -> Result<TcpStream, DialError> {
    let outside = tokio::time::timeout(DIAL_WITHIN, TcpStream::connect(to)).await.map_err(|_| DialError::Late)?.map_err(DialError::Connect)?;
    prepare(&outside);
    Ok(outside)
}
