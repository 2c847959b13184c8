//! Lets schedules of scripts fire.

use sandbar_node::error_text;
use sandbar_store::StoreError;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::schedules::{self, Kind};
use crate::app::{SharedApp, sandboxes::now_ms};

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    schedules::run(Scripts(app), stop).await;
}

struct Scripts(SharedApp);

impl Kind for Scripts {
    const WHOSE: &'static str = "functions";
    /// The id of a script.
    type Due = String;

    fn app(&self) -> &SharedApp {
        &self.0
    }

    fn changed(&self) -> &Notify {
        &self.0.scripts.schedules_changed
    }

    async fn rewind(&self, now_ms: i64) -> Result<usize, StoreError> {
        self.0.store.script_schedules_rewind(now_ms).await
    }

    async fn prune(&self, max: u32) -> Result<usize, StoreError> {
        self.0.store.script_ticks_prune(max).await
    }

    async fn due(&self, now_ms: i64, limit: u32) -> Result<(Vec<String>, Option<i64>), StoreError> {
        self.0.store.script_schedules_due(now_ms, limit).await
    }

    async fn step(&self, script_id: String) -> bool {
        match self.0.store.script_schedule_step(&script_id, now_ms()).await {
            Ok(stepped) => {
                self.0.script_jobs.cancel(&stepped.replaced);
                if stepped.fired > 0 {
                    self.0.script_jobs_added();
                }
                if stepped.skipped > 0 {
                    tracing::debug!(script = script_id, skipped = stepped.skipped, "ticks were skipped");
                }
                true
            }
            Err(error) => {
                tracing::error!(script = script_id, error = error_text(&error), "a schedule did not fire; it is tried again");
                false
            }
        }
    }
}
