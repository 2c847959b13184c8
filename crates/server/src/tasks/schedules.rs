//! Lets schedules fire, of scripts and of apps alike. Which tick is next stands in rows, so a server that was away finds what it missed;
//! what becomes of a tick is decided by `core::schedule` and written in one commit with the run that it makes.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use sandbar_node::error_text;
use sandbar_store::StoreError;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::app::{SharedApp, sandboxes::now_ms};

/// Schedules of one look.
const PAGE: u32 = 256;
/// So many of them are stepped at once, so that their commits are one.
const AT_ONCE: usize = 32;
/// The clock may be set: look at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure of the store the next look is no sooner.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// After ticks were decided about, it is looked again what comes next.
const AGAIN_AFTER: Duration = Duration::from_millis(2);
/// A clock that went back by more than this was set.
const SET_BACK_MS: i64 = 1000;
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_MAX: u32 = 2000;

/// Whose schedules, and what is done with one that is due.
pub(super) trait Kind: Send + Sync + 'static {
    /// For the log.
    const WHOSE: &'static str;
    type Due: Send;

    fn app(&self) -> &SharedApp;
    /// Somebody changed one.
    fn changed(&self) -> &Notify;
    fn rewind(&self, now_ms: i64) -> impl Future<Output = Result<usize, StoreError>> + Send;
    fn prune(&self, max: u32) -> impl Future<Output = Result<usize, StoreError>> + Send;
    /// Those that are due, and when the first after these is.
    fn due(&self, now_ms: i64, limit: u32) -> impl Future<Output = Result<(Vec<Self::Due>, Option<i64>), StoreError>> + Send;
    /// Decides about the ticks of one. One that cannot be carried out keeps no other from firing; where it is to be tried again, this is
    /// false.
    fn step(&self, due: Self::Due) -> impl Future<Output = bool> + Send;
}

pub(super) async fn run<K: Kind>(kind: K, stop: CancellationToken) {
    let mut clock = Clock::default();
    let mut pruned: Option<Instant> = None;
    while !stop.is_cancelled() {
        if clock.was_set_back(Instant::now(), now_ms()) {
            match kind.rewind(now_ms()).await {
                Ok(moved) if moved > 0 => tracing::warn!(moved, of = K::WHOSE, "the clock was set back, and schedules with it"),
                Ok(_) => {}
                Err(error) => {
                    let error = error_text(&error);
                    tracing::error!(error, of = K::WHOSE, "schedules were not set back with the clock; they fire when it is that late again");
                }
            }
        }
        if pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
            pruned = Some(Instant::now());
            if let Err(error) = kind.prune(PRUNE_MAX).await {
                tracing::warn!(error = error_text(&error), of = K::WHOSE, "old ticks were not removed");
            }
        }
        let wait = match fire(&kind).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::error!(error = error_text(&error), of = K::WHOSE, "schedules cannot be read");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = kind.changed().notified() => {}
            () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
        }
    }
}

/// Fires what is due; returns how long nothing more will be.
async fn fire<K: Kind>(kind: &K) -> Result<Duration, StoreError> {
    // Each tick leaves a row. On a full disk ticks come late.
    if kind.app().check_room().is_err() {
        return Ok(AFTER_FAILURE);
    }
    let (due, next) = kind.due(now_ms(), PAGE).await?;
    // When those come next is only known after.
    let again = !due.is_empty();
    let stepped: Vec<bool> = stream::iter(due).map(|due| kind.step(due)).buffer_unordered(AT_ONCE).collect().await;
    if stepped.contains(&false) {
        return Ok(AFTER_FAILURE);
    }
    let until = |at: i64| Duration::from_millis((at - now_ms()).max(0).unsigned_abs());
    Ok(if again { AGAIN_AFTER } else { next.map_or(Duration::MAX, until) })
}

/// The clock on the wall beside one that is never set.
#[derive(Default)]
struct Clock {
    /// When it was looked last, and what the clock said. None: it is not known what it was set to while nobody looked.
    last: Option<(Instant, i64)>,
}

impl Clock {
    /// Whether it was set back since it was looked last, or may have been.
    fn was_set_back(&mut self, now: Instant, now_ms: i64) -> bool {
        let set_back = self.last.is_none_or(|(then, then_ms)| {
            let passed_ms = i64::try_from(now.saturating_duration_since(then).as_millis()).unwrap_or(i64::MAX);
            now_ms < then_ms.saturating_add(passed_ms).saturating_sub(SET_BACK_MS)
        });
        self.last = Some((now, now_ms));
        set_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_is_noticed() {
        let start = Instant::now();
        let mut clock = Clock::default();
        // Seconds that passed, what the clock says by then in milliseconds, and whether it was set back.
        for (passed, says, expected) in [
            (0, 1_000_000, true), // Nobody knows.
            (1, 1_001_000, false),
            (2, 1_001_100, false), // A little slow is not set.
            (3, 1_002_200, false),
            (4, 1_002_100, true),
            (5, 1_003_100, false),
            (6, 4_603_100, false), // Forward by an hour.
            (7, 1_004_100, true),  // And back.
            (8, 1_005_100, false),
            (9, i64::MIN, true),
        ] {
            assert_eq!(clock.was_set_back(start + Duration::from_secs(passed), says), expected, "after {passed} s");
        }
    }
}
