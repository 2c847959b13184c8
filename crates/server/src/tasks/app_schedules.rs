//! Lets schedules of apps fire. Which tick is next stands in rows, so a server that was away finds what it missed; what becomes of a
//! tick is decided by `core::schedule` and written in one commit with the run that it makes.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use sandbar_node::error_text;
use sandbar_store::{AppScheduleRecord, StoreError};
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
/// A clock that went back by more than this was set.
const SET_BACK_MS: i64 = 1000;
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_MAX: u32 = 2000;

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    // What the clock would say if it had not been set since.
    let (mut began, mut began_ms) = (Instant::now(), i64::MAX);
    let mut pruned: Option<Instant> = None;
    while !stop.is_cancelled() {
        let expected_ms = began_ms.saturating_add(began.elapsed().as_millis() as i64);
        if now_ms() < expected_ms.saturating_sub(SET_BACK_MS) {
            match app.store.app_schedules_rewind(now_ms()).await {
                Ok(moved) if moved > 0 => tracing::warn!(moved, "the clock was set back, and schedules with it"),
                Ok(_) => {}
                Err(error) => tracing::error!(error = error_text(&error), "schedules were not set back with the clock; they fire when it is that late again"),
            }
        }
        (began, began_ms) = (Instant::now(), now_ms());
        if pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
            pruned = Some(Instant::now());
            if let Err(error) = app.store.app_schedules_prune(PRUNE_MAX).await {
                tracing::warn!(error = error_text(&error), "old ticks were not removed");
            }
        }
        let wait = match fire(&app).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::error!(error = error_text(&error), "schedules of apps cannot be read");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.app_schedules.notified() => {}
            () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
        }
    }
}

/// Fires what is due; returns how long nothing more will be.
async fn fire(app: &SharedApp) -> Result<Duration, StoreError> {
    // Each tick leaves a row. On a full disk ticks come late.
    if app.check_room().is_err() {
        return Ok(AFTER_FAILURE);
    }
    let (due, next) = app.store.app_schedules_due(now_ms(), PAGE).await?;
    let more = due.len() == PAGE as usize;
    let stepped: Vec<bool> = stream::iter(due).map(|schedule| step(app, schedule)).buffer_unordered(AT_ONCE).collect().await;
    if stepped.contains(&false) {
        return Ok(AFTER_FAILURE);
    }
    let until = |at: i64| Duration::from_millis((at - now_ms()).max(0).unsigned_abs());
    Ok(if more { Duration::ZERO } else { next.map_or(Duration::MAX, until) })
}

/// One that cannot be carried out keeps no other from firing; then this is false.
async fn step(app: &SharedApp, schedule: AppScheduleRecord) -> bool {
    let id = schedule.id.clone();
    // What cannot be run now is no reason to run it later: its tick says why.
    let order = match app.run_of_schedule(&schedule, None, None).await {
        Err(error) if error.status() >= 500 => {
            tracing::error!(schedule = id, %error, "a schedule did not fire; it is tried again");
            return false;
        }
        order => order.map_err(|error| error.to_string()),
    };
    match app.store.app_schedule_step(schedule, order, now_ms()).await {
        Ok(stepped) => {
            if stepped.fired > 0 || stepped.replaced {
                app.app_runs.changed.notify_one();
            }
            if stepped.skipped > 0 {
                tracing::debug!(schedule = id, skipped = stepped.skipped, "ticks were skipped");
            }
            true
        }
        Err(StoreError::Unfit(reason)) => {
            tracing::error!(schedule = id, reason, "a schedule cannot be read, and ends");
            app.store.app_schedule_failed(&id, &reason, now_ms()).await.is_ok()
        }
        Err(error) => {
            tracing::error!(schedule = id, error = error_text(&error), "a schedule did not fire; it is tried again");
            false
        }
    }
}
