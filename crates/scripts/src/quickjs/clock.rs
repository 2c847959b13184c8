//! What a script's clock says.
//!
//! The real clock is told at a grain of one millisecond and written down, so that a replay reads the same. What is written
//! down is bounded without being cut: after [`FINE_MAX`] different readings the clock moves in steps of [`COARSE_MS`], which
//! a program that reads the clock without end does not notice and the recording of a minute survives.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::call::Clock;

const FINE_MAX: usize = 1024;
const COARSE_MS: i64 = 64;
/// Nothing gets here within the longest time that a run may have; then the clock stands.
const READINGS_MAX: usize = 4096;

pub(super) enum GuestClock {
    Real {
        told: Vec<(i64, u32)>,
    },
    /// `at` is the entry that is read, `used` how often it was. When all were, the last one stands; with none at all the clock
    /// stands at 1970-01-01T00:00:00Z.
    Replayed {
        readings: Vec<(i64, u32)>,
        at: usize,
        used: u32,
    },
}

impl GuestClock {
    pub(super) fn new(given: Option<Clock>) -> Self {
        match given {
            None => Self::Real { told: Vec::new() },
            Some(Clock(readings)) => Self::Replayed { readings, at: 0, used: 0 },
        }
    }

    /// Milliseconds since 1970, as the script is told.
    pub(super) fn read(&mut self) -> i64 {
        match self {
            Self::Real { told } => tell(told, real_ms()),
            Self::Replayed { readings, at, used } => {
                while *at + 1 < readings.len() && readings[*at].1 <= *used {
                    *at += 1;
                    *used = 0;
                }
                *used = used.saturating_add(1);
                readings.get(*at).map_or(0, |reading| reading.0)
            }
        }
    }

    /// The time of a line of the log. That is no reading.
    pub(super) fn stamp(&self) -> i64 {
        match self {
            Self::Real { .. } => real_ms(),
            Self::Replayed { readings, at, .. } => readings.get(*at).map_or(0, |reading| reading.0),
        }
    }

    /// What was told, if it was the real time.
    pub(super) fn take(&mut self) -> Option<Clock> {
        match self {
            Self::Real { told } => Some(Clock(std::mem::take(told))),
            Self::Replayed { .. } => None,
        }
    }
}

fn tell(told: &mut Vec<(i64, u32)>, real: i64) -> i64 {
    let full = told.len() >= READINGS_MAX;
    let coarse = told.len() >= FINE_MAX;
    if let Some((last, count)) = told.last_mut()
        && (full || real == *last || (coarse && (real - *last).abs() < COARSE_MS))
        && (*count < u32::MAX || full)
    {
        *count = count.saturating_add(1);
        return *last;
    }
    told.push((real, 1));
    real
}

fn real_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_reads_what_was_told() {
        let mut told = Vec::new();
        let first: Vec<i64> = [5, 5, 6, 6, 6, 9].into_iter().map(|real| tell(&mut told, real)).collect();
        assert_eq!(told, [(5, 2), (6, 3), (9, 1)]);
        let mut clock = GuestClock::new(Some(Clock(told)));
        let second: Vec<i64> = (0..6).map(|_| clock.read()).collect();
        assert_eq!(first, second);
        assert_eq!((clock.read(), clock.read(), clock.stamp()), (9, 9, 9), "the last one stands");
        assert_eq!(clock.take(), None);
    }

    #[test]
    fn nothing_to_read_is_1970() {
        let mut clock = GuestClock::new(Some(Clock::default()));
        assert_eq!((clock.read(), clock.stamp()), (0, 0));
    }

    #[test]
    fn what_is_told_is_bounded_and_a_replay_still_reads_the_same() {
        let mut told = Vec::new();
        let first: Vec<i64> = (0..600_000).map(|real| tell(&mut told, real)).collect();
        assert!(told.len() <= READINGS_MAX);
        let mut clock = GuestClock::new(Some(Clock(told)));
        assert!(first.into_iter().all(|value| clock.read() == value));
    }
}
