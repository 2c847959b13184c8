//! What becomes of a run that nobody waits for, once it has failed.

use super::Retry;
use crate::limits;

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is tried again at this moment, unless it is too old by then.
    Retry { at_ms: i64 },
    /// Given up: a dead letter.
    Dead,
    /// Nobody wants it any more.
    Dropped,
}

/// Decides after a failure. `code` is that of the failure, `attempts` counts this one, `jitter` is from 0 to 1, so that runs that
/// failed together do not come back together.
pub fn after(code: &str, attempts: u32, retry: &Retry, jitter: f64, now_ms: i64) -> Fate {
    match code {
        "user_error" | "timeout" | "memory" | "internal" if attempts < retry.max_attempts => {
            Fate::Retry { at_ms: now_ms.saturating_add(backoff_ms(attempts, jitter)) }
        }
        "cancelled" => Fate::Dropped,
        // The same again would be refused again.
        _ => Fate::Dead,
    }
}

/// Four times as long each up to the cap, and up to half more.
fn backoff_ms(attempts: u32, jitter: f64) -> i64 {
    let base = limits::SCRIPT_BACKOFF_MS.saturating_mul(1 << (2 * attempts.saturating_sub(1).min(20))).min(limits::SCRIPT_BACKOFF_MAX_MS);
    base + (base as f64 * 0.5 * jitter.clamp(0.0, 1.0)) as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_may_go_well_is_tried_again() {
        let retry = Retry { max_attempts: 3, max_age_seconds: 60 };
        for (code, again) in [
            ("user_error", true),
            ("timeout", true),
            ("memory", true),
            ("internal", true),
            ("denied", false),
            ("unserializable", false),
            ("payload_too_large", false),
            ("something_new", false),
        ] {
            assert_eq!(after(code, 1, &retry, 0.0, 100), if again { Fate::Retry { at_ms: 2100 } } else { Fate::Dead }, "{code}");
            assert_eq!(after(code, 3, &retry, 0.0, 100), Fate::Dead, "{code}");
        }
        assert_eq!(after("cancelled", 1, &retry, 0.0, 0), Fate::Dropped);
        let waits: Vec<_> = (1..=8).map(|attempts| backoff_ms(attempts, 0.0)).collect();
        assert_eq!(waits, [2000, 8000, 32_000, 128_000, 512_000, 2_048_000, 3_600_000, 3_600_000]);
        assert_eq!(backoff_ms(2, 1.0), 12_000);
    }

    proptest! {
        #[test]
        fn a_retry_is_later(attempts in 0u32..1000, jitter in -1.0f64..2.0, now in any::<i64>()) {
            let retry = Retry { max_attempts: u32::MAX, max_age_seconds: 60 };
            let Fate::Retry { at_ms } = after("timeout", attempts, &retry, jitter, now) else { return Err(TestCaseError::fail("no retry")) };
            prop_assert!(at_ms > now || now > i64::MAX - limits::SCRIPT_BACKOFF_MAX_MS * 2);
            prop_assert!(at_ms.saturating_sub(now) <= limits::SCRIPT_BACKOFF_MAX_MS * 3 / 2);
        }
    }
}
