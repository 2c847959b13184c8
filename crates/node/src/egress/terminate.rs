//! TLS that is ended here and made anew: so that what is inside can be judged, or a secret put into it.
//!
//! The server is connected to first, and offered of the client's protocols those that can be carried; what it chooses is
//! what the client gets. Its certificate is verified here, for the name that the client said.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::http::{StatusCode, Version};
use bytes::Bytes;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sandbar_core::egress::{Verdict, normal_name};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use super::flow::Name;
use super::http::{self, Host, Link, Refusal, Session, Tasks, Upstream};
use super::proxy::Carrier;
use super::refuse;
use super::socket::{Meter, Socket, join};

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const HTTP_1: &[u8] = b"http/1.1";
pub(super) const HTTP_2: &[u8] = b"h2";

/// The TLS to a server, for one connection after another.
pub(super) struct Outer {
    name: ServerName<'static>,
    /// What the server may choose from.
    offer: Vec<Vec<u8>>,
    meter: Meter,
}

impl Outer {
    fn new(name: &str, offer: Vec<Vec<u8>>, meter: Meter) -> Result<Self, Refusal> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| Refusal::new(StatusCode::BAD_GATEWAY, "this is no name of a server"))?;
        Ok(Self { name, offer, meter })
    }

    /// A connection, over the early socket if there is one. A certificate is shown as it is held now.
    pub async fn connect(&self, carrier: &Carrier, early: Option<Arc<TcpStream>>) -> Result<TlsStream<Socket>, Refusal> {
        let mut config = ClientConfig::clone(&*configure(carrier)?);
        config.alpn_protocols.clone_from(&self.offer);
        let socket = match early {
            Some(socket) => socket,
            None => carrier.dial().await.map_err(|error| Refusal::unreached(&error))?,
        };
        let connector = TlsConnector::from(Arc::new(config));
        let work = connector.connect(self.name.clone(), Socket::outside(socket, self.meter.clone()));
        let failed = |why: &str| Refusal::new(StatusCode::BAD_GATEWAY, format!("no TLS with the server: {why}"));
        match tokio::time::timeout(HANDSHAKE_WITHIN, work).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(failed(&reason(&error))),
            Err(_) => Err(failed("it did not shake hands in time")),
        }
    }
}

/// Carries a client's TLS. With `http` the requests inside are judged.
pub(super) async fn serve(carrier: Arc<Carrier>, meter: Meter, first_bytes: Bytes, early: Option<Arc<TcpStream>>, http: bool) -> io::Result<()> {
    let inside = Socket::inside(Arc::clone(carrier.inside()), first_bytes);
    let start = within(LazyConfigAcceptor::new(rustls::server::Acceptor::default(), inside)).await?;
    let hello = start.client_hello();
    let said = hello.server_name().and_then(normal_name);
    let offered: Vec<Vec<u8>> = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
    let host = match (&carrier.evidence.said, said) {
        (Some((_, Name::Said { name, .. })), Some(said)) if *name == said => Host::Name(said),
        (Some((_, Name::Absent)), None) if hello.server_name().is_none() => Host::Absent,
        _ => {
            refuse::alert(carrier.inside(), refuse::UNRECOGNIZED_NAME).await;
            return Ok(());
        }
    };
    // Whoever says no name is asked for the address that it went to.
    let name = match &host {
        Host::Name(name) => name.clone(),
        Host::Absent | Host::Unreadable => carrier.evidence.flow.addr.to_string(),
    };
    let offer: Vec<Vec<u8>> = offered.iter().filter(|alpn| !http || [HTTP_1, HTTP_2].contains(&alpn.as_slice())).cloned().collect();
    let outer = match Outer::new(&name, offer.clone(), meter) {
        Ok(outer) => outer.connect(&carrier, early).await.map(|stream| (outer, stream)),
        Err(refusal) => Err(refusal),
    };
    let chosen = match &outer {
        Ok((_, stream)) => stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec),
        Err(_) if http => offer.into_iter().next(),
        Err(refusal) => {
            tracing::debug!(runtime = carrier.attached.runtime_id, %refusal, "TLS for a sandbox");
            refuse::alert(carrier.inside(), refuse::HANDSHAKE_FAILURE).await;
            return Ok(());
        }
    };
    let inner = carrier.inner.tls.server(&carrier.inner.authority, &name, chosen.as_deref()).map_err(io::Error::other)?;
    let inside = within(start.into_stream(inner)).await?;
    let tasks = Tasks { tracker: carrier.attached.tasks.clone(), cut: carrier.open.cut.clone() };
    let version = if chosen.as_deref() == Some(HTTP_2) { Version::HTTP_2 } else { Version::HTTP_11 };
    let upstream = match outer {
        Ok((_, outside)) if !http => return join(inside, outside).await,
        // The client knows what was chosen, so nothing else is offered any more.
        Ok((outer, outside)) => {
            let outer = Outer { offer: chosen.into_iter().collect(), ..outer };
            Upstream::new(Link::Tls(outer), version, tasks, Some(Box::new(outside)))
        }
        Err(refusal) => Upstream::new(Link::Refused(refusal), version, tasks, None),
    };
    http::serve(Arc::new(Session::new(carrier, Some(host), upstream)), inside, version).await
}

/// How the server is talked to: with a certificate of the client's if a rule says so.
fn configure(carrier: &Carrier) -> Result<Arc<ClientConfig>, Refusal> {
    let (attached, inner) = (&carrier.attached, &carrier.inner);
    let refusal = |error: super::tls::TlsError| Refusal::new(StatusCode::BAD_GATEWAY, error.to_string());
    let rule = {
        let policy = Arc::clone(&attached.state().policy);
        policy.certificate_for(&carrier.evidence.seen()).cloned()
    };
    match rule {
        None => inner.tls.client().map_err(refusal),
        Some(rule) => {
            let material = attached.materials().get(&rule.binding.source).cloned();
            let made = material.ok_or(super::tls::TlsError::Certificate).and_then(|material| attached.certificates.client(&inner.tls, &material));
            match made {
                Ok(config) => Ok(config),
                Err(_) if rule.fail_open => inner.tls.client().map_err(refusal),
                Err(_) => {
                    let verdict = Verdict::deny(format!("{} (its credential cannot be used)", rule.label));
                    let text = refuse::text(&verdict);
                    attached.record_flow(&carrier.evidence, verdict);
                    Err(Refusal::new(StatusCode::FORBIDDEN, text))
                }
            }
        }
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(HANDSHAKE_WITHIN, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What went wrong, in the words of TLS.
fn reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => error.to_string(),
        None => error.kind().to_string(),
    }
}
