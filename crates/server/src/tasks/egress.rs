//! Measures what teams send against their quotas.

use std::time::Duration;

use sandbar_node::error_text;
use tokio_util::sync::CancellationToken;

use crate::app::SharedApp;

/// A team sends for so long beyond its quota at most, and waits for so long after an interval has passed.
const EVERY: Duration = Duration::from_millis(500);
/// Looks between two writes of what was counted: what a server that is killed forgets at most.
const LOOKS_PER_STORE: u32 = 10;

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    let mut looks = 0u32;
    loop {
        app.measure_egress();
        let stopped = stop.is_cancelled();
        // The last room on a disk is for what frees some.
        if (stopped || looks.is_multiple_of(LOOKS_PER_STORE))
            && app.check_room().is_ok()
            && let Err(error) = app.usage.egress.store(&app.store).await
        {
            tracing::warn!(error = error_text(&error), "what teams sent could not be stored; it is with the next look");
        }
        if stopped {
            return;
        }
        looks += 1;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
