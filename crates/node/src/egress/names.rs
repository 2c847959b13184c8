//! Which names a sandbox was told an address for. A rule for a name holds for these addresses alone, so that neither a
//! Host header nor a TLS greeting opens an address to which the name does not lead.
//!
//! What a program says without having asked our resolver (it has a resolver of its own, or asked long ago) is asked
//! here: its word counts when the name servers say the same.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::dns::{self, Found};
use super::{Attached, Inner};

/// Pairs of a name and an address of one sandbox. The one that holds the shortest makes room for a new one.
const PINS_MAX: usize = 4096;
/// How short and how long a pin holds, whatever its time to live.
const HOLDS_MIN: Duration = Duration::from_secs(5);
const HOLDS_MAX: Duration = Duration::from_secs(5 * 60);
/// How long it is remembered afterwards, so that a program that still goes there has its name asked again.
const STALE_FOR: Duration = Duration::from_secs(60 * 60);
/// Names of one address that are asked again for one connection.
const STALE_MAX: usize = 4;
/// Names of one sandbox that are being asked for, or whose answer is remembered.
const ASKED_MAX: usize = 64;
/// A question over UDP comes to its end, whichever server answers.
const ASK_WITHIN: Duration = dns::DEADLINE;
/// How long it is remembered that there is no answer.
const NO_ANSWER_FOR: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Names {
    pins: Mutex<Pins>,
    asked: Mutex<HashMap<(Arc<str>, bool), Asked>>,
}

#[derive(Default)]
struct Pins {
    by_addr: HashMap<IpAddr, Vec<Pin>>,
    count: usize,
}

struct Pin {
    name: Arc<str>,
    until: Instant,
}

struct Asked {
    answer: watch::Receiver<Option<Found>>,
    since: Instant,
}

impl Names {
    /// The sandbox is told these addresses for this name. The name is in lower case, without the final dot.
    pub fn pin(&self, name: &str, addresses: &[IpAddr], ttl: Duration, now: Instant) {
        if addresses.is_empty() {
            return;
        }
        let name: Arc<str> = name.into();
        let until = now + ttl.clamp(HOLDS_MIN, HOLDS_MAX);
        let mut pins = super::lock(&self.pins);
        for addr in addresses {
            pins.put(addr.to_canonical(), Arc::clone(&name), until, now);
        }
    }

    /// The names that the address was told for and that still hold, the latest asked for first.
    pub fn of(&self, addr: IpAddr, now: Instant) -> Vec<Arc<str>> {
        let pins = super::lock(&self.pins);
        let here = pins.by_addr.get(&addr.to_canonical());
        here.into_iter().flatten().rev().filter(|pin| pin.until > now).map(|pin| Arc::clone(&pin.name)).collect()
    }

    /// The names that held once, the latest first.
    pub fn stale(&self, addr: IpAddr, now: Instant) -> Vec<Arc<str>> {
        let pins = super::lock(&self.pins);
        let here = pins.by_addr.get(&addr.to_canonical());
        let mut stale: Vec<&Pin> = here.into_iter().flatten().filter(|pin| pin.until <= now && pin.until + STALE_FOR > now).collect();
        stale.sort_by_key(|pin| std::cmp::Reverse(pin.until));
        stale.into_iter().take(STALE_MAX).map(|pin| Arc::clone(&pin.name)).collect()
    }

    fn is_pinned(&self, name: &str, addr: IpAddr, now: Instant) -> bool {
        let pins = super::lock(&self.pins);
        pins.by_addr.get(&addr.to_canonical()).is_some_and(|here| here.iter().any(|pin| &*pin.name == name && pin.until > now))
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<(Arc<str>, bool), Asked>> {
        super::lock(&self.asked)
    }
}

impl Pins {
    fn put(&mut self, addr: IpAddr, name: Arc<str>, until: Instant, now: Instant) {
        if let Some(here) = self.by_addr.get_mut(&addr)
            && let Some(at) = here.iter().position(|pin| pin.name == name)
        {
            // A shorter answer takes nothing back that was told before.
            here[at].until = here[at].until.max(until);
            // The latest asked for is the last.
            here[at..].rotate_left(1);
            return;
        }
        if self.count >= PINS_MAX {
            self.retain(|pin| pin.until + STALE_FOR > now);
        }
        if self.count >= PINS_MAX
            && let Some(oldest) = self.by_addr.values().flatten().map(|pin| pin.until).min()
        {
            self.retain(|pin| pin.until > oldest);
        }
        self.by_addr.entry(addr).or_default().push(Pin { name, until });
        self.count += 1;
    }

    fn retain(&mut self, keep: impl Fn(&Pin) -> bool) {
        self.by_addr.retain(|_, here| {
            here.retain(&keep);
            !here.is_empty()
        });
        self.count = self.by_addr.values().map(Vec::len).sum();
    }
}

impl Attached {
    /// Is the address one of the name's? When the sandbox was not told so, the name servers are asked if that `matters`.
    pub(super) async fn claims(self: &Arc<Self>, inner: &Arc<Inner>, name: &str, addr: IpAddr, matters: impl FnOnce() -> bool) -> bool {
        self.names.is_pinned(name, addr, Instant::now()) || matters() && self.belongs(inner, name, addr).await
    }

    async fn belongs(self: &Arc<Self>, inner: &Arc<Inner>, name: &str, addr: IpAddr) -> bool {
        let policy = Arc::clone(&self.state().policy);
        if !policy.judge_name(name).allow {
            return false;
        }
        match self.find(inner, name.to_owned(), addr.is_ipv6()).await {
            Found::At(addresses, _) => addresses.iter().any(|found| found.to_canonical() == addr),
            // The operator's own network, whose names the name servers need not know.
            Found::Nowhere => inner.protected().is_opened(addr),
            Found::Unknown => false,
        }
    }

    /// The names that the address was told for once, asked again; those to which it still belongs hold anew.
    pub(super) async fn renew(self: &Arc<Self>, inner: &Arc<Inner>, addr: IpAddr) {
        let policy = Arc::clone(&self.state().policy);
        let stale = self.names.stale(addr, Instant::now());
        let asked: Vec<_> =
            stale.into_iter().filter(|name| policy.judge_name(name).allow).filter_map(|name| self.ask(inner, name, addr.to_canonical().is_ipv6())).collect();
        let answered = async {
            for mut answer in asked {
                answer.wait_for(Option::is_some).await.ok();
            }
        };
        tokio::time::timeout(ASK_WITHIN, answered).await.ok();
    }

    /// One question at a time for all who want to know the same; its answer becomes a pin.
    async fn find(self: &Arc<Self>, inner: &Arc<Inner>, name: String, ipv6: bool) -> Found {
        let Some(mut answer) = self.ask(inner, name.into(), ipv6) else {
            return Found::Unknown;
        };
        match tokio::time::timeout(ASK_WITHIN, answer.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone().unwrap_or(Found::Unknown),
            Ok(Err(_)) | Err(_) => Found::Unknown,
        }
    }

    /// None when too much is being asked.
    fn ask(self: &Arc<Self>, inner: &Arc<Inner>, name: Arc<str>, ipv6: bool) -> Option<watch::Receiver<Option<Found>>> {
        let mut asked = self.names.asked();
        let now = Instant::now();
        if let Some(same) = asked.get(&(Arc::clone(&name), ipv6))
            && now < same.since + NO_ANSWER_FOR
        {
            return Some(same.answer.clone());
        }
        if asked.len() >= ASKED_MAX {
            asked.retain(|_, asked| now < asked.since + NO_ANSWER_FOR);
        }
        if asked.len() >= ASKED_MAX {
            return None;
        }
        let (told, answer) = watch::channel(None);
        asked.insert((Arc::clone(&name), ipv6), Asked { answer: answer.clone(), since: now });
        drop(asked);
        let (attached, inner) = (Arc::clone(self), Arc::clone(inner));
        self.tasks.spawn(async move {
            let found = tokio::select! {
                () = attached.stop.cancelled() => Found::Unknown,
                found = tokio::time::timeout(ASK_WITHIN, dns::find(&attached, &inner, &name, ipv6)) => found.unwrap_or(Found::Unknown),
            };
            if let Found::At(addresses, ttl) = &found {
                attached.names.pin(&name, addresses, *ttl, Instant::now());
            }
            told.send_replace(Some(found));
        });
        Some(answer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn addr(last: u8) -> IpAddr {
        IpAddr::from([9, 9, 9, last])
    }

    #[test]
    fn a_pin_holds_for_its_time_and_is_remembered_for_a_while() {
        let (names, now) = (Names::default(), Instant::now());
        names.pin("a.test", &[addr(1), addr(2)], Duration::ZERO, now);
        names.pin("b.test", &[addr(1)], Duration::from_secs(86_400), now);
        assert_eq!(names.of(addr(1), now).len(), 2);
        assert!(names.is_pinned("a.test", addr(2), now) && !names.is_pinned("b.test", addr(2), now));
        assert!(names.is_pinned("a.test", "::ffff:9.9.9.2".parse().unwrap(), now));
        let later = now + HOLDS_MIN;
        assert_eq!(names.of(addr(1), later), ["b.test".into()]);
        assert_eq!(names.stale(addr(1), later), ["a.test".into()]);
        assert!(names.of(addr(1), now + HOLDS_MAX).is_empty());
        assert!(names.stale(addr(1), now + HOLDS_MAX + STALE_FOR).is_empty());
    }

    #[test]
    fn pins_are_bounded_and_the_longest_lived_stay() {
        let (names, now) = (Names::default(), Instant::now());
        names.pin("long.test", &[addr(1)], HOLDS_MAX, now);
        for number in 0..2 * PINS_MAX {
            names.pin(&format!("n{number}.test"), &[addr(2)], Duration::from_secs(10), now + Duration::from_millis(number as u64));
        }
        assert!(super::super::lock(&names.pins).count <= PINS_MAX);
        assert!(names.is_pinned("long.test", addr(1), now));
    }
}
