//! When certificates are ordered from an authority, and when they are not: it counts what it is asked for, and names that
//! are asked for too often get none for a week. Time is an argument: milliseconds since 1970, or a duration since some
//! common moment.

use std::{collections::HashMap, time::Duration};

use crate::service::{Bucket, RateLimit};

/// Certificates for new hosts that are ordered at once after a pause, and within an hour when none has gone before.
pub const ORDERS_PER_HOUR: u32 = 20;
/// The same of the hosts of one team, so that one cannot use up what is for all.
pub const ORDERS_PER_HOUR_AND_TEAM: u32 = 10;

/// From when until when a certificate is valid, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before_ms: i64,
    pub not_after_ms: i64,
}

impl Validity {
    /// After two thirds of its life.
    pub fn renew_at_ms(self) -> i64 {
        let life = self.not_after_ms.saturating_sub(self.not_before_ms).max(0);
        self.not_before_ms.saturating_add(life / 3 * 2)
    }

    pub fn is_over(self, now_ms: i64) -> bool {
        now_ms > self.not_after_ms
    }
}

/// What kept an order from becoming a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setback {
    /// The authority was not reached, or did not do its part. Nothing was counted.
    Away,
    /// It refused, or did not see us under that name. Authorities count this.
    Refused,
    /// It has counted enough.
    Limited,
}

/// For how long the host is not ordered again, after so many setbacks in a row.
pub fn pause_after(setback: Setback, in_a_row: u32) -> Duration {
    let (first, longest) = match setback {
        Setback::Away => (Duration::from_secs(5), Duration::from_secs(600)),
        Setback::Refused => (Duration::from_secs(300), Duration::from_secs(12 * 3600)),
        Setback::Limited => (Duration::from_secs(3600), Duration::from_secs(24 * 3600)),
    };
    first.saturating_mul(1 << in_a_row.saturating_sub(1).min(16)).min(longest)
}

/// What may still be ordered for new hosts. Renewals do not count: they are as many as there are certificates.
#[derive(Debug)]
pub struct Budget {
    all: Bucket,
    teams: HashMap<String, Bucket>,
}

impl Budget {
    pub fn new(now: Duration) -> Self {
        Self { all: Bucket::new(hourly(ORDERS_PER_HOUR), now), teams: HashMap::new() }
    }

    /// Takes one order for a host of a team, or tells for how long there is none.
    pub fn take(&mut self, team: &str, now: Duration) -> Result<(), Duration> {
        let (all, of_team) = (hourly(ORDERS_PER_HOUR), hourly(ORDERS_PER_HOUR_AND_TEAM));
        // Few are not full: each of them took an order within the last hour.
        self.teams.retain(|_, bucket| !bucket.is_full(of_team, now));
        // The team first: what it may not have is not taken from all.
        self.teams.entry(team.to_owned()).or_insert_with(|| Bucket::new(of_team, now)).take(of_team, now)?;
        self.all.take(all, now)
    }
}

fn hourly(orders: u32) -> RateLimit {
    RateLimit { rps: f64::from(orders) / 3600.0, burst: f64::from(orders), per_client: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_after_two_thirds() {
        let validity = Validity { not_before_ms: 1000, not_after_ms: 91_000 };
        assert_eq!(validity.renew_at_ms(), 61_000);
        assert!(!validity.is_over(91_000) && validity.is_over(91_001));
        for (not_before_ms, not_after_ms) in [(5, 1), (i64::MIN, i64::MAX), (i64::MAX, i64::MIN)] {
            let at = Validity { not_before_ms, not_after_ms }.renew_at_ms();
            assert!(at >= not_before_ms, "{not_before_ms} {not_after_ms} {at}");
        }
    }

    #[test]
    fn pauses_grow_and_end_growing() {
        for (setback, first, second, longest) in [(Setback::Away, 5, 10, 600), (Setback::Refused, 300, 600, 43_200), (Setback::Limited, 3600, 7200, 86_400)] {
            let pause = |in_a_row| pause_after(setback, in_a_row).as_secs();
            assert_eq!((pause(1), pause(2), pause(40), pause(u32::MAX)), (first, second, longest, longest), "{setback:?}");
            assert!((1..40).all(|n| pause(n) <= pause(n + 1)), "{setback:?}");
        }
    }

    #[test]
    fn one_team_does_not_use_up_the_orders_of_all() {
        let mut budget = Budget::new(Duration::ZERO);
        let now = Duration::ZERO;
        for _ in 0..ORDERS_PER_HOUR_AND_TEAM {
            assert_eq!(budget.take("a", now), Ok(()));
        }
        for _ in 0..100 {
            assert!(budget.take("a", now).is_err_and(|wait| wait > Duration::from_secs(300)));
        }
        for _ in 0..ORDERS_PER_HOUR - ORDERS_PER_HOUR_AND_TEAM {
            assert_eq!(budget.take("b", now), Ok(()));
        }
        assert!(budget.take("c", now).is_err_and(|wait| wait > Duration::from_secs(100)));
        assert_eq!(budget.take("a", now + Duration::from_secs(3600)), Ok(()));
        assert_eq!(budget.teams.len(), 1, "who has all orders again is forgotten");
    }
}
