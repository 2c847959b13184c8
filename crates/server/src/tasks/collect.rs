//! Removes layers and volumes' files that no row names any more.

use std::time::Duration;

use sandbar_node::{Collected, InUse, error_text};
use tokio_util::sync::CancellationToken;

use crate::app::SharedApp;

/// After something was released, so that a row of a series of deletions is one collection.
const SETTLE: Duration = Duration::from_secs(1);
/// For what was pinned when it was looked at.
const AGAIN: Duration = Duration::from_secs(3);
/// In any case this often.
const EVERY: Duration = Duration::from_secs(60);

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                app.collect_soon.notified().await;
                tokio::time::sleep(SETTLE).await;
            } => {}
            () = tokio::time::sleep(if app.node.has_uncollected() { AGAIN } else { EVERY }) => {}
        }
        collect(&app).await;
    }
}

/// One collection; `None` when there was nothing to collect, or the rows could not be read.
pub(crate) async fn collect(app: &SharedApp) -> Option<Collected> {
    let _one_at_a_time = app.collecting.lock().await;
    if !app.node.begin_collection() {
        return None;
    }
    // Read after the beginning: whatever is pinned since then is left alone.
    match app.store.named().await {
        Ok(named) => {
            let collected = app.node.collect(InUse { roots: named.roots, volumes: named.trees, images: named.images }).await;
            tracing::debug!(?collected, "collected");
            Some(collected)
        }
        Err(error) => {
            tracing::warn!(error = error_text(&error), "nothing was collected: the rows could not be read");
            None
        }
    }
}
