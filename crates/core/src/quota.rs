//! What a team may have and do.

use serde::{Deserialize, Serialize};

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dimension {
    ActiveSandboxes,
    PausedSandboxes,
    /// Of sandboxes that start or run, by their limits.
    MemoryBytes,
    /// As memory; thousandths of a core.
    CpuMillis,
    /// As memory, but paused ones count too.
    DiskBytes,
    Volumes,
    Snapshots,
    /// Claims in a time.
    SandboxClaims,
    /// Requests in a time.
    ApiRequests,
    /// Bytes that sandboxes send in a time.
    NetworkEgressBytes,
    /// Counted, not limited.
    NetworkIngressBytes,
}

impl Dimension {
    pub const ALL: [Self; 11] = [
        Self::ActiveSandboxes,
        Self::PausedSandboxes,
        Self::MemoryBytes,
        Self::CpuMillis,
        Self::DiskBytes,
        Self::Volumes,
        Self::Snapshots,
        Self::SandboxClaims,
        Self::ApiRequests,
        Self::NetworkEgressBytes,
        Self::NetworkIngressBytes,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ActiveSandboxes => "active_sandboxes",
            Self::PausedSandboxes => "paused_sandboxes",
            Self::MemoryBytes => "memory_bytes",
            Self::CpuMillis => "cpu_millis",
            Self::DiskBytes => "disk_bytes",
            Self::Volumes => "volumes",
            Self::Snapshots => "snapshots",
            Self::SandboxClaims => "sandbox_claims",
            Self::ApiRequests => "api_requests",
            Self::NetworkEgressBytes => "network_egress_bytes",
            Self::NetworkIngressBytes => "network_ingress_bytes",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dimension| dimension.as_str() == name)
    }

    /// Whether every generation of clients knows the word, so that it may stand in a list.
    pub fn is_known_to_all(self) -> bool {
        matches!(self, Self::ActiveSandboxes | Self::SandboxClaims | Self::ApiRequests | Self::NetworkEgressBytes | Self::NetworkIngressBytes)
    }

    pub fn is_rate(self) -> bool {
        matches!(self, Self::SandboxClaims | Self::ApiRequests | Self::NetworkEgressBytes | Self::NetworkIngressBytes)
    }

    /// Whether a limit can be set.
    pub fn can_be_limited(self) -> bool {
        !matches!(self, Self::NetworkIngressBytes)
    }

    /// Whether it is measured as it is used, by intervals, and not asked for before: what is beyond the limit is stopped.
    pub fn is_metered(self) -> bool {
        matches!(self, Self::NetworkEgressBytes)
    }

    /// `count`, `claims`, `requests` or `bytes`.
    pub fn unit(self) -> &'static str {
        match self {
            Self::ActiveSandboxes | Self::PausedSandboxes | Self::CpuMillis | Self::Volumes | Self::Snapshots => "count",
            Self::SandboxClaims => "claims",
            Self::ApiRequests => "requests",
            Self::MemoryBytes | Self::DiskBytes | Self::NetworkEgressBytes | Self::NetworkIngressBytes => "bytes",
        }
    }
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the team's quota of {} is {limit}; {used} is in use and {asked} more was asked for", dimension.as_str())]
pub struct Exceeded {
    pub dimension: Dimension,
    pub limit: u64,
    pub used: u64,
    pub asked: u64,
}

/// Whether `asked` more fits.
pub fn check(dimension: Dimension, limit: u64, used: u64, asked: u64) -> Result<(), Exceeded> {
    if used.saturating_add(asked) <= limit { Ok(()) } else { Err(Exceeded { dimension, limit, used, asked }) }
}

/// So many in a time, with a reserve for bursts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub limit: u64,
    pub interval_ms: u64,
    pub burst: u64,
}

/// How full the reserve of a [`Rate`] is, in thousandths of one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    filled: u64,
    at_ms: Option<i64>,
}

impl Bucket {
    /// Takes one, or says in how many milliseconds there will be one.
    pub fn take(&mut self, rate: Rate, now_ms: i64) -> Result<(), u64> {
        let full = rate.burst.max(1).saturating_mul(1000);
        let interval = rate.interval_ms.max(1);
        let gained = match self.at_ms {
            None => full,
            Some(at) => {
                let passed = now_ms.saturating_sub(at).max(0).unsigned_abs();
                let gained = u128::from(passed) * u128::from(rate.limit) * 1000 / u128::from(interval);
                u64::try_from(gained).unwrap_or(u64::MAX)
            }
        };
        // Time that did not yet make a thousandth is not lost.
        if gained > 0 || self.at_ms.is_none() {
            self.at_ms = Some(now_ms);
        }
        self.filled = self.filled.saturating_add(gained).min(full);
        if self.filled >= 1000 {
            self.filled -= 1000;
            return Ok(());
        }
        if rate.limit == 0 {
            return Err(interval);
        }
        Err((u128::from(1000 - self.filled) * u128::from(interval)).div_ceil(u128::from(rate.limit) * 1000).try_into().unwrap_or(u64::MAX))
    }
}

/// What was used in the present interval. Intervals begin at multiples of their length, counted from 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metered {
    start_ms: i64,
    used: u64,
}

impl Metered {
    pub fn add(&mut self, more: u64, interval_ms: u64, now_ms: i64) {
        *self = Self { start_ms: start_of(interval_ms, now_ms), used: self.used(interval_ms, now_ms).saturating_add(more) };
    }

    /// Nothing of an interval that has passed, or that had another length.
    pub fn used(&self, interval_ms: u64, now_ms: i64) -> u64 {
        if self.start_ms == start_of(interval_ms, now_ms) { self.used } else { 0 }
    }
}

/// When the present interval ends, in milliseconds since 1970.
pub fn end_of(interval_ms: u64, now_ms: i64) -> i64 {
    start_of(interval_ms, now_ms).saturating_add_unsigned(interval_ms.max(1))
}

fn start_of(interval_ms: u64, now_ms: i64) -> i64 {
    let interval_ms = i64::try_from(interval_ms.max(1)).unwrap_or(i64::MAX);
    now_ms.div_euclid(interval_ms) * interval_ms
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rate_has_a_burst_and_refills() {
        let rate = Rate { limit: 2, interval_ms: 1000, burst: 3 };
        let mut bucket = Bucket::default();
        assert_eq!([0, 0, 0].map(|at| bucket.take(rate, at)), [Ok(()); 3]);
        assert_eq!(bucket.take(rate, 0), Err(500));
        assert_eq!(bucket.take(rate, 499), Err(1));
        assert_eq!(bucket.take(rate, 500), Ok(()));
        assert_eq!(bucket.take(rate, 500), Err(500));
        let mut none = Bucket::default();
        let never = Rate { limit: 0, interval_ms: 1000, burst: 0 };
        assert_eq!(none.take(never, 0), Ok(()), "a reserve holds at least one");
        assert_eq!(none.take(never, 9_999_999), Err(1000));
    }

    proptest! {
        #[test]
        fn no_more_than_burst_and_rate(limit in 1u64..20, burst in 1u64..20, steps in prop::collection::vec(0i64..400, 1..200)) {
            let rate = Rate { limit, interval_ms: 1000, burst };
            let (mut bucket, mut now, mut taken) = (Bucket::default(), 0, 0u64);
            for step in steps {
                now += step;
                taken += u64::from(bucket.take(rate, now).is_ok());
            }
            prop_assert!(taken <= burst + limit * now.unsigned_abs() / 1000 + 1);
        }
    }

    #[test]
    fn what_is_used_is_forgotten_with_its_interval() {
        let mut metered = Metered::default();
        metered.add(5, 1000, 10_000);
        metered.add(6, 1000, 10_999);
        assert_eq!((metered.used(1000, 10_999), metered.used(1000, 11_000), end_of(1000, 10_999)), (11, 0, 11_000));
        metered.add(7, 1000, 11_000);
        assert_eq!(metered.used(1000, 11_500), 7);
        assert_eq!(metered.used(3000, 11_500), 0, "another interval");
        metered.add(u64::MAX, 0, 1);
        assert_eq!(metered.used(0, 1), u64::MAX);
    }

    #[test]
    fn what_does_not_fit_is_told_in_numbers() {
        assert!(check(Dimension::Volumes, 3, 2, 1).is_ok());
        let error = check(Dimension::MemoryBytes, 10, 8, 3).expect_err("too much");
        assert_eq!(error.to_string(), "the team's quota of memory_bytes is 10; 8 is in use and 3 more was asked for");
        for dimension in Dimension::ALL {
            assert_eq!(Dimension::named(dimension.as_str()), Some(dimension));
        }
    }
}
