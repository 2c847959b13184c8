//! Ends sandboxes of apps that nobody has any more, and forgets what setups left that was not used for long.

use std::time::{Duration, Instant};

use sandbar_core::limits::deploys as limits;
use sandbar_node::error_text;
use tokio_util::sync::CancellationToken;

use crate::{app::SharedApp, http::time::now_ms};

const EVERY: Duration = Duration::from_secs(5);
/// Between two looks at what setups left.
const SETUPS_EVERY: Duration = Duration::from_secs(3600);

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    let mut next_setups = Instant::now();
    while !stop.is_cancelled() {
        if let Err(error) = app.reconcile_app_sandboxes().await {
            tracing::error!(error = error_text(&error), "sandboxes of apps cannot be looked after; it will be tried again");
        }
        if let Err(error) = app.reconcile_app_volumes().await {
            tracing::error!(error = error_text(&error), "volumes of apps cannot be looked after; it will be tried again");
        }
        if let Err(error) = app.reconcile_app_stops().await {
            tracing::error!(error = error_text(&error), "apps that are being stopped cannot be looked after; it will be tried again");
        }
        if Instant::now() >= next_setups {
            next_setups = Instant::now() + SETUPS_EVERY;
            match app.store.app_setups_expire(now_ms() - limits::APP_SETUP_UNUSED_MAX_MS).await {
                Ok(bases) => bases.iter().for_each(|base| app.release(base)),
                Err(error) => tracing::warn!(error = error_text(&error), "what setups left cannot be forgotten"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = app.apps.changed.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
