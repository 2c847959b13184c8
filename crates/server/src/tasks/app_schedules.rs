//! Lets schedules of apps fire.

use sandbar_node::error_text;
use sandbar_store::{AppScheduleRecord, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::schedules::{self, Kind};
use crate::app::{SharedApp, sandboxes::now_ms};

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    schedules::run(Apps(app), stop).await;
}

struct Apps(SharedApp);

impl Kind for Apps {
    const WHOSE: &'static str = "apps";
    type Due = AppScheduleRecord;

    fn app(&self) -> &SharedApp {
        &self.0
    }

    fn changed(&self) -> &Notify {
        &self.0.app_schedules
    }

    async fn rewind(&self, now_ms: i64) -> Result<usize, StoreError> {
        self.0.store.app_schedules_rewind(now_ms).await
    }

    async fn prune(&self, max: u32) -> Result<usize, StoreError> {
        self.0.store.app_schedules_prune(max).await
    }

    async fn due(&self, now_ms: i64, limit: u32) -> Result<(Vec<AppScheduleRecord>, Option<i64>), StoreError> {
        self.0.store.app_schedules_due(now_ms, limit).await
    }

    async fn step(&self, schedule: AppScheduleRecord) -> bool {
        let id = schedule.id.clone();
        let stepped = async {
            // What cannot be run now is no reason to run it later: its tick says why.
            let order = self.0.order_of_schedule(&schedule).await?.map_err(|error| error.message().to_owned());
            self.0.store.app_schedule_step(schedule, order, now_ms()).await
        };
        match stepped.await {
            Ok(stepped) => {
                if stepped.fired > 0 || stepped.replaced {
                    self.0.app_runs.changed.notify_one();
                }
                if stepped.skipped > 0 {
                    tracing::debug!(schedule = id, skipped = stepped.skipped, "ticks were skipped");
                }
                true
            }
            // No server can carry it out, and it is told of once.
            Err(StoreError::Unfit(reason)) => {
                tracing::error!(schedule = id, reason, "a schedule cannot be read, and ends");
                self.0.store.app_schedule_failed(&id, &reason, now_ms()).await.is_ok()
            }
            Err(error) => {
                tracing::error!(schedule = id, error = error_text(&error), "a schedule did not fire; it is tried again");
                false
            }
        }
    }
}
