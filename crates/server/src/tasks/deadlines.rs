//! Deadlines are rows: this task sleeps until the earliest, or until a row changed, and asks each sandbox that is due
//! to act. After a restart everything that became due meanwhile fires at once.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::{SharedApp, sandboxes::now_ms};

/// Sandboxes that act at once.
const BATCH: u32 = 64;
/// After a failure of the store or of a sandbox the next look is no sooner.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The clock may be set: look at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let wait = match look(&app).await {
            Ok(wait) => wait,
            Err(()) => AFTER_FAILURE,
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.sandboxes.deadlines_changed.notified() => {}
            () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
        }
    }
}

/// Lets everything that is due happen; returns how long nothing more will be.
async fn look(app: &SharedApp) -> Result<Duration, ()> {
    loop {
        let now = now_ms();
        let due = app.store.due(now, BATCH).await.map_err(|error| tracing::error!(%error, "deadlines cannot be read"))?;
        if due.is_empty() {
            break;
        }
        let mut acting = tokio::task::JoinSet::new();
        for id in due {
            let app = app.clone();
            acting.spawn(async move {
                let result = app.sandboxes.due(&id).await;
                result.map_err(|error| tracing::error!(sandbox = id, %error, "a deadline could not be carried out"))
            });
        }
        let results = acting.join_all().await;
        if results.iter().any(Result::is_err) {
            return Err(());
        }
    }
    let unread = |error| tracing::error!(%error, "deadlines cannot be read");
    let mut expiry = app.store.next_snapshot_expiry().await.map_err(unread)?;
    if expiry.is_some_and(|at| at <= now_ms()) {
        for base in app.store.snapshots_expire(now_ms()).await.map_err(unread)? {
            app.release(&base);
        }
        expiry = app.store.next_snapshot_expiry().await.map_err(unread)?;
    }
    let next = app.store.next_deadline().await.map_err(unread)?.into_iter().chain(expiry).min();
    let wait_ms = next.map_or(i64::MAX, |at| (at - now_ms()).max(1));
    Ok(Duration::from_millis(wait_ms.unsigned_abs()))
}
