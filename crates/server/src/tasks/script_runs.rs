//! Removes runs of scripts that are too old, too many or too large to be kept.

use std::{sync::atomic::Ordering, time::Duration};

use sandbar_core::limits;
use sandbar_node::error_text;
use tokio_util::sync::CancellationToken;

use crate::app::{SharedApp, sandboxes::now_ms};

/// Between two looks when nothing hurries.
const EVERY: Duration = Duration::from_secs(60);
/// Rows in one step, so that other writes get their turn.
const STEP: u32 = 200;

pub async fn run(app: SharedApp, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
            () = app.scripts.prune_soon.notified() => {}
        }
        // What is owed goes on meanwhile, in its own task.
        super::script_jobs::prune(&app).await;
        app.scripts.stored_bytes.store(0, Ordering::Relaxed);
        let mut removed = 0;
        while !stop.is_cancelled() {
            let before_ms = now_ms() - limits::SCRIPT_RUN_KEPT_MS;
            match app.store.script_runs_prune(before_ms, limits::SCRIPT_RUNS_PER_SCRIPT_MAX, limits::SCRIPT_RUNS_PER_TEAM_BYTES_MAX, STEP).await {
                Ok(0) => break,
                Ok(some) => removed += some,
                Err(error) => {
                    tracing::error!(error = error_text(&error), "old runs of scripts could not be removed; it is tried again");
                    break;
                }
            }
        }
        if removed > 0 {
            tracing::debug!(removed, "old runs of scripts were removed");
        }
    }
}
