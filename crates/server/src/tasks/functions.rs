//! Keeps instances of functions what rows and requests ask for: starts those that are to be warm, replaces, drains and removes,
//! and finishes what a former server began to remove.

use std::time::Duration;

use sandbar_node::error_text;
use tokio_util::sync::CancellationToken;

use crate::app::SharedApp;

const EVERY: Duration = Duration::from_secs(1);
/// Looks between two at all rows.
const ROWS_EVERY: u32 = 5;

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    let mut looks = 0;
    while !stop.is_cancelled() {
        if let Err(error) = app.reconcile_functions(looks % ROWS_EVERY == 0).await {
            tracing::error!(error = error_text(&error), "functions cannot be looked after; it will be tried again");
        }
        looks = looks.wrapping_add(1);
        let woken = tokio::select! {
            () = stop.cancelled() => false,
            () = app.functions.changed.notified() => true,
            () = tokio::time::sleep(EVERY) => false,
        };
        if woken {
            // A row of changes is one look.
            tokio::time::sleep(Duration::from_millis(20)).await;
            looks = 0;
        }
    }
}
