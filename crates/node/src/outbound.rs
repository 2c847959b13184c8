//! Requests of the server itself to addresses that users chose. They come from this machine and could reach what its
//! owner keeps from the world: each name is looked up for each request, what is protected is left out, and what is connected
//! to is what was looked at.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, RETRY_AFTER},
};
use sandbar_core::limits;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};

use crate::{egress::Egress, shares::Shares};

mod fetch;

pub use fetch::{FetchAsk, FetchError, Fetched, Redirects};

/// Names that are looked up at once: each takes a thread, for as long as its name servers are silent.
const LOOKUPS_MAX: usize = 64;
/// And for one team.
const LOOKUPS_PER_TEAM_MAX: usize = 8;
/// Connections that are kept for the next request to the same receiver.
const IDLE_MAX: usize = 4;
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

/// Asks what is not protected. Clones are the same.
#[derive(Clone)]
pub struct Outbound {
    client: Client,
    /// Of requests whose answers are shown: what is open to the server alone is closed to it, so that it shares no connection with
    /// the other.
    fetcher: Client,
    walls: Walls,
}

/// What may not be reached.
#[derive(Clone)]
enum Walls {
    /// What this machine's owner keeps from others.
    Of(Egress),
    /// Nothing: whoever asks owns this machine.
    None,
}

impl Walls {
    /// Why an address is not connected to; `is_shown` says whether whoever asks sees the answer.
    fn reason(&self, addr: IpAddr, is_shown: bool) -> Option<&'static str> {
        match self {
            Self::Of(egress) if is_shown => egress.protected().reason(addr),
            Self::Of(egress) => egress.protected().reason_for_server(addr),
            Self::None => None,
        }
    }
}

impl Outbound {
    pub(crate) fn new(egress: Egress) -> Result<Self, reqwest::Error> {
        Self::with_lookups(Walls::Of(egress), Arc::new(Lookups::new(Box::new(system_lookup))))
    }

    /// For a command of this machine's owner, and no server: nothing is protected from who asks.
    ///
    /// # Errors
    /// The certificates of this machine cannot be read.
    pub fn of_owner() -> Result<Self, reqwest::Error> {
        Self::with_lookups(Walls::None, Arc::new(Lookups::new(Box::new(system_lookup))))
    }

    fn with_lookups(walls: Walls, lookups: Arc<Lookups>) -> Result<Self, reqwest::Error> {
        let client = |is_shown| {
            let guard = Guard { lookups: Arc::clone(&lookups), walls: walls.clone(), is_shown };
            Client::builder()
                // A proxy would look names up itself, and reach what it likes.
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .dns_resolver(Arc::new(guard))
                .pool_max_idle_per_host(IDLE_MAX)
                .pool_idle_timeout(IDLE_FOR)
                .build()
        };
        Ok(Self { client: client(false)?, fetcher: client(true)?, walls })
    }

    /// Posts once for a team. The answer's head has to come within `within`; of its body is taken what comes by then.
    pub async fn post(&self, team: &str, url: &str, headers: HeaderMap, body: Bytes, within: Duration) -> Result<Answer, OutboundError> {
        let url = Url::parse(url).map_err(|_| OutboundError::Refused("the URL cannot be read".to_owned()))?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if let Some(reason) = host.parse().ok().and_then(|addr: IpAddr| self.walls.reason(addr, false)) {
            return Err(OutboundError::Refused(format!("{host} is not reached: {reason} (the operator can allow it by --egress-allow)")));
        }
        let until = Instant::now() + within;
        let sent = TEAM.scope(team.to_owned(), self.client.post(url).headers(headers).body(body).send());
        let late = |_| OutboundError::Failed(format!("no answer within {} s", within.as_secs_f32()));
        let mut response = tokio::time::timeout_at(until, sent).await.map_err(late)?.map_err(|error| failure(&error))?;
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut answer = Answer { status: response.status().as_u16(), retry_after, body: Vec::new() };
        // What is open to the server alone is not for users to read.
        let is_open = response.remote_addr().is_some_and(|from| self.walls.reason(from.ip(), true).is_none());
        while is_open && answer.body.len() < limits::WEBHOOK_ANSWER_MAX_BYTES {
            let Ok(Ok(Some(piece))) = tokio::time::timeout_at(until, response.chunk()).await else { break };
            let room = limits::WEBHOOK_ANSWER_MAX_BYTES - answer.body.len();
            answer.body.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        Ok(answer)
    }
}

tokio::task_local! {
    /// For whom the request is whose name is looked up.
    static TEAM: String;
}

/// Finds no protected address.
struct Guard {
    lookups: Arc<Lookups>,
    walls: Walls,
    /// Whether users see what is answered.
    is_shown: bool,
}

/// Addresses of a name, in a thread that may wait.
type Lookup = Box<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

fn system_lookup(name: &str) -> io::Result<Vec<SocketAddr>> {
    (name, 0).to_socket_addrs().map(Iterator::collect)
}

struct Lookups {
    lookup: Lookup,
    places: Arc<Semaphore>,
    teams: Shares,
    /// Names that are being looked up, each for all who ask: one that nobody answers for takes one thread, however often it
    /// is asked for.
    under_way: Mutex<HashMap<String, watch::Receiver<Option<Found>>>>,
}

/// Addresses of a name, or why there are none.
type Found = Result<Arc<[SocketAddr]>, Arc<str>>;

/// A lookup that is under way; its end, however it comes, makes room.
struct UnderWay {
    lookups: Arc<Lookups>,
    name: String,
    _places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.lookups.names().remove(&self.name);
    }
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
        let (lookups, walls, is_shown) = (Arc::clone(&self.lookups), self.walls.clone(), self.is_shown);
        // Asked here: the future may be polled by another task.
        let team = TEAM.try_with(Clone::clone).unwrap_or_default();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let found = lookups.look_up(&team, &name).await?;
            let mut reason = None;
            let open: Vec<SocketAddr> = found
                .iter()
                .copied()
                .filter(|address| {
                    let refused = walls.reason(address.ip(), is_shown);
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
    fn new(lookup: Lookup) -> Self {
        Self { lookup, places: Arc::new(Semaphore::new(LOOKUPS_MAX)), teams: Shares::new(LOOKUPS_PER_TEAM_MAX), under_way: Mutex::default() }
    }

    async fn look_up(self: &Arc<Self>, team: &str, name: &str) -> Result<Arc<[SocketAddr]>, Box<dyn std::error::Error + Send + Sync>> {
        let joined = self.names().get(name).cloned();
        let mut found = match joined {
            Some(found) => found,
            None => {
                // The team's first: who waits for it takes nothing of what is for all.
                let of_team = self.teams.of(team).acquire_owned().await?;
                let of_all = Arc::clone(&self.places).acquire_owned().await?;
                let lookups = Arc::clone(self);
                self.begin(name, (of_team, of_all), move |name| (lookups.lookup)(name))
            }
        };
        let found = found.wait_for(Option::is_some).await.map_err(|_| format!("{name} was not looked up to the end"))?.clone();
        match found {
            Some(Ok(addresses)) => Ok(addresses),
            Some(Err(text)) => Err(text.to_string().into()),
            None => Err(format!("{name} was not looked up").into()),
        }
    }

    /// Begins to look a name up, or joins who began meanwhile.
    fn begin(
        self: &Arc<Self>,
        name: &str,
        places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
        ask: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> watch::Receiver<Option<Found>> {
        let mut names = self.names();
        if let Some(found) = names.get(name) {
            return found.clone();
        }
        let (sender, found) = watch::channel(None);
        names.insert(name.to_owned(), found.clone());
        drop(names);
        let under_way = UnderWay { lookups: Arc::clone(self), name: name.to_owned(), _places: places };
        tokio::task::spawn_blocking(move || {
            let found = ask(&under_way.name).map(Arc::from).map_err(|error| Arc::from(error.to_string()));
            // Whoever asks from here on begins anew.
            drop(under_way);
            sender.send_replace(Some(found));
        });
        found
    }

    fn names(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Option<Found>>>> {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn who_asks_for_a_name_that_is_looked_up_waits_for_the_same_answer() {
        let lookups = Arc::new(Lookups::new(Box::new(system_lookup)));
        let places = || {
            let of_team = lookups.teams.of("a").try_acquire_owned().expect("a place of the team");
            (of_team, Arc::clone(&lookups.places).try_acquire_owned().expect("a place"))
        };
        let (answer, asked) = mpsc::channel::<()>();
        let address = SocketAddr::from(([192, 0, 2, 1], 0));
        let first = lookups.begin("slow.test", places(), move |_| asked.recv().map(|()| vec![address]).map_err(io::Error::other));
        let second = lookups.begin("slow.test", places(), |_| Err(io::Error::other("it was asked for twice")));
        assert!(first.borrow().is_none() && second.borrow().is_none());
        assert_eq!(lookups.places.available_permits(), LOOKUPS_MAX - 1, "it takes one thread");
        let others: Vec<_> = (1..LOOKUPS_PER_TEAM_MAX).map(|_| places()).collect();
        assert!(lookups.teams.of("a").try_acquire_owned().is_err() && lookups.teams.of("b").try_acquire_owned().is_ok());
        // Who joins needs no place of its own.
        let third = tokio::spawn({
            let lookups = Arc::clone(&lookups);
            async move { lookups.look_up("a", "slow.test").await.map_err(|error| error.to_string()) }
        });
        tokio::task::yield_now().await;
        answer.send(()).expect("it waits");
        assert_eq!(third.await.expect("ends").expect("is found")[..], [address]);
        for mut found in [first, second] {
            assert_eq!(found.wait_for(Option::is_some).await.expect("is told").as_ref(), Some(&Ok(Arc::from([address]))));
        }
        drop(others);
        assert!(lookups.names().is_empty(), "whoever asks next asks anew");
        assert_eq!(lookups.places.available_permits(), LOOKUPS_MAX);
    }

    /// Notes for whom it is asked, and finds nothing.
    #[derive(Default)]
    struct Asks(Mutex<Vec<Option<String>>>);

    impl Resolve for Asks {
        fn resolve(&self, _: Name) -> Resolving {
            self.0.lock().expect("a lock").push(TEAM.try_with(Clone::clone).ok());
            Box::pin(async { Err("nothing".into()) })
        }
    }

    #[tokio::test]
    async fn it_is_known_for_whom_a_name_is_looked_up() {
        let asks = Arc::new(Asks::default());
        let client = Client::builder().no_proxy().dns_resolver(Arc::clone(&asks)).build().expect("a client");
        for team in ["a", "b"] {
            assert!(TEAM.scope(team.to_owned(), client.post("http://somewhere.test/").send()).await.is_err());
        }
        assert_eq!(*asks.0.lock().expect("a lock"), [Some("a".to_owned()), Some("b".to_owned())]);
    }
}
