//! The buckets of all routes.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sandbar_core::service::{Bucket, RateLimit};

/// Buckets that are remembered. Beyond, who needs a new one is refused.
const BUCKETS_MAX: usize = 100_000;

/// Whose requests count together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The sandbox or the function.
    pub scope: String,
    pub service_id: String,
    pub route_id: String,
    pub client: Option<IpAddr>,
}

pub(super) struct Limiter {
    begun: Instant,
    buckets: Mutex<HashMap<Key, (Bucket, RateLimit)>>,
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
        Self { begun: Instant::now(), buckets: Mutex::default() }
    }
}

impl Limiter {
    pub fn take(&self, key: Key, limit: RateLimit) -> Result<(), Limited> {
        let now = self.begun.elapsed();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&key) {
            buckets.retain(|_, (bucket, limit)| !bucket.is_full(*limit, now));
            if buckets.len() >= BUCKETS_MAX {
                return Err(Limited::Overrun);
            }
        }
        let (bucket, known) = buckets.entry(key).or_insert_with(|| (Bucket::new(limit, now), limit));
        *known = limit;
        bucket.take(limit, now).map_err(Limited::For)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_services_and_clients_have_buckets_of_their_own() {
        let limiter = Limiter::default();
        let limit = RateLimit { rps: 0.001, burst: 1.0, per_client: true };
        let key = |scope: &str, service: &str, client: Option<[u8; 4]>| Key {
            scope: scope.into(),
            service_id: service.into(),
            route_id: "r".into(),
            client: client.map(IpAddr::from),
        };
        for key in [key("a", "s", None), key("a", "t", None), key("b", "s", None), key("a", "s", Some([1, 1, 1, 1])), key("a", "s", Some([1, 1, 1, 2]))] {
            assert_eq!(limiter.take(key.clone(), limit), Ok(()), "{key:?}");
            assert!(matches!(limiter.take(key.clone(), limit), Err(Limited::For(wait)) if wait > Duration::from_secs(100)), "{key:?}");
        }
    }
}
