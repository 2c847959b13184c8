//! Requests of the server itself to addresses that users chose. They come from this machine and could reach what its
//! owner keeps from the world: each name is looked up for each request, what is protected is left out, and what is connected
//! to is what was looked at.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, RETRY_AFTER},
};
use sandbar_core::limits;
use tokio::{sync::Semaphore, time::Instant};

use crate::egress::Egress;

/// Names that are looked up at once: each takes a thread, for as long as its name servers are silent.
const LOOKUPS_MAX: usize = 64;
/// Connections that are kept for the next request to the same receiver.
const IDLE_MAX: usize = 1;
const IDLE_FOR: Duration = Duration::from_secs(15);
/// Characters of a reason for the user.
const REASON_MAX_CHARS: usize = 200;

/// What a receiver answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    /// Its beginning; nothing of what sandboxes could not reach.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// It was not tried: the target is none that may be reached.
    #[error("{0}")]
    Refused(String),
    /// No connection, or no answer in time.
    #[error("{0}")]
    Failed(String),
}

/// Posts to what is not protected. Clones are the same.
#[derive(Clone)]
pub struct Outbound {
    client: Client,
    egress: Egress,
}

impl Outbound {
    pub(crate) fn new(egress: Egress) -> Result<Self, reqwest::Error> {
        let guard = Guard(Arc::new(Lookups { egress: egress.clone(), places: Arc::new(Semaphore::new(LOOKUPS_MAX)), under_way: Mutex::default() }));
        let client = Client::builder()
            // A proxy would look names up itself, and reach what it likes.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(guard))
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_FOR)
            .build()?;
        Ok(Self { client, egress })
    }

    /// Posts once. The answer's head has to come within `within`; of its body is taken what comes by then.
    pub async fn post(&self, url: &str, headers: HeaderMap, body: Bytes, within: Duration) -> Result<Answer, OutboundError> {
        let url = Url::parse(url).map_err(|_| OutboundError::Refused("the URL cannot be read".to_owned()))?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if let Some(reason) = host.parse().ok().and_then(|addr: IpAddr| self.egress.protected().reason_for_server(addr)) {
            return Err(OutboundError::Refused(format!("{host} is not reached: {reason} (the operator can allow it by --egress-allow)")));
        }
        let until = Instant::now() + within;
        let sent = self.client.post(url).headers(headers).body(body).send();
        let late = |_| OutboundError::Failed(format!("no answer within {} s", within.as_secs_f32()));
        let mut response = tokio::time::timeout_at(until, sent).await.map_err(late)?.map_err(|error| failure(&error))?;
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut answer = Answer { status: response.status().as_u16(), retry_after, body: Vec::new() };
        // What is open to the server alone is not for users to read.
        let is_open = response.remote_addr().is_some_and(|from| self.egress.protected().reason(from.ip()).is_none());
        while is_open && answer.body.len() < limits::WEBHOOK_ANSWER_MAX_BYTES {
            let Ok(Ok(Some(piece))) = tokio::time::timeout_at(until, response.chunk()).await else { break };
            let room = limits::WEBHOOK_ANSWER_MAX_BYTES - answer.body.len();
            answer.body.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        Ok(answer)
    }
}

/// Finds no protected address.
struct Guard(Arc<Lookups>);

struct Lookups {
    egress: Egress,
    places: Arc<Semaphore>,
    /// Names that are being looked up: one that nobody answers for takes one thread, however often it is asked for.
    under_way: Mutex<HashSet<String>>,
}

/// The name leads to protected addresses alone.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not reached: {reason} (the operator can allow it by --egress-allow)")]
struct AllProtected {
    name: String,
    reason: &'static str,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let lookups = Arc::clone(&self.0);
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let found = lookups.look_up(&name).await?;
            let protected = lookups.egress.protected();
            let mut reason = None;
            let open: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| {
                    let refused = protected.reason_for_server(address.ip());
                    reason = reason.or(refused);
                    refused.is_none()
                })
                .collect();
            match (open.is_empty(), reason) {
                (false, _) => Ok(Box::new(open.into_iter()) as Addrs),
                (true, Some(reason)) => Err(AllProtected { name, reason }.into()),
                (true, None) => Err(format!("{name} has no address").into()),
            }
        })
    }
}

impl Lookups {
    async fn look_up(self: &Arc<Self>, name: &str) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let place = Arc::clone(&self.places).acquire_owned().await?;
        if !self.names().insert(name.to_owned()) {
            return Err(format!("{name} is still being looked up").into());
        }
        let (lookups, asked) = (Arc::clone(self), name.to_owned());
        let found = tokio::task::spawn_blocking(move || {
            let found = (asked.as_str(), 0).to_socket_addrs().map(Iterator::collect);
            lookups.names().remove(&asked);
            drop(place);
            found
        });
        Ok(found.await??)
    }

    fn names(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error by its innermost cause, without the URL, which may hold what is nobody's business.
fn failure(error: &reqwest::Error) -> OutboundError {
    let mut text = "the connection failed".to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        if let Some(refused) = next.downcast_ref::<AllProtected>() {
            return OutboundError::Refused(refused.to_string());
        }
        text = next.to_string();
        cause = next.source();
    }
    OutboundError::Failed(text.chars().filter(|c| !c.is_control()).take(REASON_MAX_CHARS).collect())
}
