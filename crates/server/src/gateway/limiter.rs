//! The buckets of all routes.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sandbar_core::service::{Bucket, RateLimit};

/// Sandboxes and functions whose buckets are remembered, and buckets of one. Beyond, who needs a new one is refused.
const SCOPES_MAX: usize = 50_000;
const BUCKETS_MAX: usize = 4096;
/// Between two looks at which buckets can be forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// Whose requests count together, within a sandbox or a function.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub service_id: String,
    pub route_id: String,
    /// For IPv6 its network: addresses within are one's own to choose.
    pub client: Option<IpAddr>,
}

pub(super) struct Limiter {
    begun: Instant,
    scopes: Mutex<Scopes>,
}

#[derive(Default)]
struct Scopes {
    by_id: HashMap<String, Scope>,
    pruned: Duration,
}

#[derive(Default)]
struct Scope {
    buckets: HashMap<Key, (Bucket, RateLimit)>,
    pruned: Duration,
}

/// Why a request is not let through.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Limited {
    /// For so long.
    For(Duration),
    /// Too many to count them.
    Overrun,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { begun: Instant::now(), scopes: Mutex::default() }
    }
}

impl Limiter {
    pub fn take(&self, scope: &str, key: Key, limit: RateLimit) -> Result<(), Limited> {
        let now = self.begun.elapsed();
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let Scopes { by_id, pruned } = &mut *scopes;
        if by_id.len() >= SCOPES_MAX && !by_id.contains_key(scope) {
            if due(pruned, now) {
                by_id.retain(|_, scope| {
                    scope.forget(now);
                    !scope.buckets.is_empty()
                });
            }
            if by_id.len() >= SCOPES_MAX {
                return Err(Limited::Overrun);
            }
        }
        let scope = by_id.entry(scope.to_owned()).or_default();
        if scope.buckets.len() >= BUCKETS_MAX && !scope.buckets.contains_key(&key) {
            if due(&mut scope.pruned, now) {
                scope.forget(now);
            }
            if scope.buckets.len() >= BUCKETS_MAX {
                return Err(Limited::Overrun);
            }
        }
        let (bucket, known) = scope.buckets.entry(key).or_insert_with(|| (Bucket::new(limit, now), limit));
        *known = limit;
        bucket.take(limit, now).map_err(Limited::For)
    }
}

impl Scope {
    fn forget(&mut self, now: Duration) {
        self.buckets.retain(|_, (bucket, limit)| !bucket.is_full(*limit, now));
    }
}

fn due(pruned: &mut Duration, now: Duration) -> bool {
    let is_due = now.saturating_sub(*pruned) >= PRUNE_EVERY;
    if is_due {
        *pruned = now;
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_services_and_clients_have_buckets_of_their_own() {
        let limiter = Limiter::default();
        let limit = RateLimit { rps: 0.001, burst: 1.0, per_client: true };
        let key = |service: &str, client: Option<[u8; 4]>| Key { service_id: service.into(), route_id: "r".into(), client: client.map(IpAddr::from) };
        for (scope, key) in
            [("a", key("s", None)), ("a", key("t", None)), ("b", key("s", None)), ("a", key("s", Some([1, 1, 1, 1]))), ("a", key("s", Some([1, 1, 1, 2])))]
        {
            assert_eq!(limiter.take(scope, key.clone(), limit), Ok(()), "{scope} {key:?}");
            assert!(matches!(limiter.take(scope, key.clone(), limit), Err(Limited::For(wait)) if wait > Duration::from_secs(100)), "{scope} {key:?}");
        }
    }

    #[test]
    fn one_scope_cannot_fill_the_table_of_others() {
        let limiter = Limiter::default();
        let limit = RateLimit { rps: 0.001, burst: 2.0, per_client: true };
        let key = |client: u32| Key { service_id: "s".into(), route_id: "r".into(), client: Some(IpAddr::from(client.to_be_bytes())) };
        let refused = (0..BUCKETS_MAX as u32 + 1).map(|client| limiter.take("a", key(client), limit)).filter(|taken| *taken == Err(Limited::Overrun)).count();
        assert_eq!(refused, 1);
        assert_eq!(limiter.take("b", key(u32::MAX), limit), Ok(()));
        assert_eq!(limiter.take("a", key(0), limit), Ok(()), "who is known goes on");
    }
}
