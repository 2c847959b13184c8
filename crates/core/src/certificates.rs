//! When certificates are ordered from an authority, and when they are not: it counts what it is asked for, and names that
//! are asked for too often get none for a week. Time is an argument: milliseconds since 1970, or a duration since some
//! common moment.

use std::{collections::HashMap, time::Duration};

use crate::service::{Bucket, RateLimit};

/// Certificates for new hosts that are ordered at once after a pause, and within an hour when none has gone before.
pub const ORDERS_PER_HOUR: u32 = 20;
/// The same of the hosts of one team, so that one cannot use up what is for all.
pub const ORDERS_PER_HOUR_AND_TEAM: u32 = 10;
/// Certificates for new hosts within a week, when nothing else is said: Let's Encrypt gives 50 for one registered domain,
/// and not all of them may be ordered by us.
pub const ORDERS_PER_WEEK: u32 = 40;
/// The same at most.
pub const ORDERS_PER_WEEK_MAX: u32 = 100_000;
/// So many teams use up those of a week, at least.
const TEAMS_OF_A_WEEK: u32 = 4;
pub const WEEK: Duration = Duration::from_secs(7 * 86_400);

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
    per_week: u32,
    all: Buckets,
    /// Of those that have ordered within the last week.
    teams: HashMap<String, Buckets>,
}

/// Each order is taken from both.
#[derive(Debug, Clone, Copy)]
struct Buckets {
    hour: Bucket,
    week: Bucket,
}

impl Budget {
    /// `issued` are the moments at which certificates that are known began, so that a restart gives nothing new. What was
    /// more than a week before `now` is worth nothing any more.
    pub fn new(per_week: u32, now: Duration, mut issued: Vec<Duration>) -> Self {
        let week = weekly(per_week);
        let mut bucket = Bucket::new(week, now.saturating_sub(WEEK));
        issued.retain(|at| (now.saturating_sub(WEEK)..=now).contains(at));
        issued.sort_unstable();
        for at in issued {
            // More than there were is none all the same.
            let _ = bucket.take(week, at);
        }
        Self { per_week, all: Buckets { hour: Bucket::new(hourly(ORDERS_PER_HOUR), now), week: bucket }, teams: HashMap::new() }
    }

    /// For how long there is no order for a host of a team, if there is none.
    pub fn look(&self, team: &str, now: Duration) -> Result<(), Duration> {
        let (of_all, of_team) = (both(ORDERS_PER_HOUR, self.per_week), self.of_team());
        let team = self.teams.get(team).map_or(Ok(()), |team| team.look(of_team, now));
        match (team, self.all.look(of_all, now)) {
            (Err(team), Err(all)) => Err(team.max(all)),
            (team, all) => team.and(all),
        }
    }

    /// Takes one order for a host of a team, from everything that it counts for or from nothing.
    pub fn take(&mut self, team: &str, now: Duration) -> Result<(), Duration> {
        let (of_all, of_team) = (both(ORDERS_PER_HOUR, self.per_week), self.of_team());
        self.teams.retain(|_, team| !team.is_full(of_team, now));
        self.look(team, now)?;
        self.teams.entry(team.to_owned()).or_insert_with(|| Buckets::new(of_team, now)).take(of_team, now)?;
        self.all.take(of_all, now)
    }

    fn of_team(&self) -> (RateLimit, RateLimit) {
        both(ORDERS_PER_HOUR_AND_TEAM, (self.per_week / TEAMS_OF_A_WEEK).max(1))
    }
}

impl Buckets {
    fn new((hour, week): (RateLimit, RateLimit), now: Duration) -> Self {
        Self { hour: Bucket::new(hour, now), week: Bucket::new(week, now) }
    }

    fn look(&self, (hour, week): (RateLimit, RateLimit), now: Duration) -> Result<(), Duration> {
        match (self.hour.look(hour, now), self.week.look(week, now)) {
            (Err(hour), Err(week)) => Err(hour.max(week)),
            (hour, week) => hour.and(week),
        }
    }

    fn take(&mut self, (hour, week): (RateLimit, RateLimit), now: Duration) -> Result<(), Duration> {
        self.hour.take(hour, now)?;
        self.week.take(week, now)
    }

    fn is_full(&self, (hour, week): (RateLimit, RateLimit), now: Duration) -> bool {
        self.hour.is_full(hour, now) && self.week.is_full(week, now)
    }
}

fn both(per_hour: u32, per_week: u32) -> (RateLimit, RateLimit) {
    (hourly(per_hour), weekly(per_week))
}

fn hourly(orders: u32) -> RateLimit {
    RateLimit { rps: f64::from(orders) / 3600.0, burst: f64::from(orders), per_client: false }
}

fn weekly(orders: u32) -> RateLimit {
    RateLimit { rps: f64::from(orders) / WEEK.as_secs_f64(), burst: f64::from(orders), per_client: false }
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

    const HOUR: Duration = Duration::from_secs(3600);

    /// How many orders of a team there are at a moment.
    fn all_of(budget: &mut Budget, team: &str, now: Duration) -> u32 {
        (0..1000).take_while(|_| budget.take(team, now).is_ok()).count() as u32
    }

    #[test]
    fn one_team_does_not_use_up_the_orders_of_all() {
        let mut budget = Budget::new(1000, WEEK, Vec::new());
        assert_eq!(all_of(&mut budget, "a", WEEK), ORDERS_PER_HOUR_AND_TEAM);
        assert!(budget.look("a", WEEK).is_err_and(|wait| (Duration::from_secs(300)..HOUR).contains(&wait)));
        assert_eq!(all_of(&mut budget, "b", WEEK), ORDERS_PER_HOUR - ORDERS_PER_HOUR_AND_TEAM);
        assert!(budget.take("c", WEEK).is_err_and(|wait| wait > Duration::from_secs(100)));
        assert!(!budget.teams.contains_key("c"), "who got none is not remembered");
        assert_eq!(budget.look("a", WEEK + HOUR), Ok(()));
        assert_eq!(budget.take("c", 3 * WEEK), Ok(()));
        assert_eq!(budget.teams.len(), 1, "who has all orders again is forgotten");
    }

    #[test]
    fn a_week_has_its_own_bound_and_a_team_a_quarter_of_it() {
        let mut budget = Budget::new(40, WEEK, Vec::new());
        for (team, hours, wanted) in [("a", 0, 10), ("b", 0, 10), ("a", 1, 0), ("c", 1, 10), ("d", 1, 10), ("e", 2, 0), ("a", 2, 0)] {
            assert_eq!(all_of(&mut budget, team, WEEK + HOUR * hours), wanted, "{team} after {hours} h");
        }
        assert!(budget.look("e", WEEK + HOUR * 2).is_err_and(|wait| (HOUR..HOUR * 5).contains(&wait)));
        assert_eq!(all_of(&mut budget, "e", WEEK + HOUR * 50), 10, "as many as have come back");
        assert_eq!(all_of(&mut budget, "a", WEEK * 4), 10);
    }

    #[test]
    fn a_restart_gives_no_new_week() {
        let now = WEEK * 2;
        for (issued, wanted) in [
            (Vec::new(), 10),
            (vec![now; 40], 0),
            (vec![now; 500], 0),
            (vec![now; 35], 5),
            // A whole week ago, or not of this world.
            (vec![Duration::ZERO; 40], 10),
            (vec![now + HOUR; 40], 10),
            // Half of them have come back since.
            (vec![now - WEEK / 2; 40], 10),
            ([vec![now; 20], vec![now - WEEK / 16; 20]].concat(), 2),
        ] {
            let mut budget = Budget::new(40, now, issued.clone());
            assert_eq!(all_of(&mut budget, "a", now), wanted, "{} issued, the first {:?}", issued.len(), issued.first());
        }
        assert_eq!(all_of(&mut Budget::new(1, now, Vec::new()), "a", now), 1, "the least is one");
    }
}
