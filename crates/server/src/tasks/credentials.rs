//! After a start: reads what adopted sandboxes need of credential sources and could not get at once. Ends when it is all there.

use std::time::Duration;

use sandbar_node::error_text;
use tokio_util::sync::CancellationToken;

use crate::app::SharedApp;

/// Between two tries, twice as long each time.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    let mut pause = PAUSE_MIN;
    while let Err(error) = app.credentials.read_missed().await {
        tracing::warn!(error = error_text(&error), "sandboxes still go without some of their credentials");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
