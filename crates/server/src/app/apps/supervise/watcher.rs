//! The task that watches the sandbox below: when it has processes that run, and when some of them has ended.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use sandbar_core::sandbox::{Desired, Observed, SandboxRecord};
use sandbar_node::{Runtime, error_text};
use sandbar_procd_api::EventKind;
use tokio::sync::watch;

use super::driver::Ground;
use crate::{
    app::{App, sandboxes::listeners::Listening},
    error::ApiError,
};

/// Wait before a sandbox is started again whose processes have all ended; doubled up to the second figure while that goes on.
const REVIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// One that ran for so long has earned the first of these again.
const STABLE: Duration = Duration::from_secs(10);
/// It is looked again after this time though nothing was heard.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Between attempts to reach an agent, or the store.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Watcher {
    pub app: Weak<App>,
    pub sandbox_id: String,
    pub ground: watch::Sender<Ground>,
    pub alive: watch::Sender<bool>,
    /// Advances whenever some process in the sandbox has ended.
    pub end: watch::Sender<u64>,
    pub revive: bool,
}

/// Up to which event a runtime was listened to.
#[derive(Default)]
struct Told {
    runtime_id: String,
    upto: u64,
}

enum Look {
    Awake(Arc<Runtime>),
    Asleep(Arc<SandboxRecord>),
    Gone,
}

impl Watcher {
    /// Goes on until the sandbox is gone.
    pub async fn run(self, listening: Listening) {
        let mut pause = REVIVE.0;
        let mut told = Told::default();
        loop {
            match self.look().await {
                Ok(Look::Awake(runtime)) => {
                    let since = Instant::now();
                    self.stand_on(Some(Arc::clone(&runtime)));
                    self.while_awake(&runtime, &listening, &mut told).await;
                    if since.elapsed() >= STABLE {
                        pause = REVIVE.0;
                    }
                }
                Ok(Look::Asleep(record)) => {
                    self.stand_on(None);
                    if !self.revive || record.desired != Desired::Active || record.observed == Observed::Starting {
                        tokio::select! {
                            () = listening.heard() => {}
                            () = tokio::time::sleep(LOOK_EVERY) => {}
                        }
                        continue;
                    }
                    // Nobody wanted it to end. Whoever accesses it meanwhile wakes it sooner.
                    if tokio::time::timeout(pause, listening.heard()).await.is_ok() {
                        continue;
                    }
                    pause = (pause * 2).min(REVIVE.1);
                    let Some(app) = self.app.upgrade() else { return };
                    if let Err(error) = app.bring_up(&record).await {
                        tracing::warn!(sandbox = self.sandbox_id, %error, "the sandbox of an app cannot be started again yet");
                    }
                }
                Ok(Look::Gone) => break,
                Err(error) => {
                    tracing::warn!(sandbox = self.sandbox_id, %error, "it is not known how the sandbox of an app is");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        self.stand_on(None);
        self.alive.send_replace(false);
        if let Some(app) = self.app.upgrade() {
            app.supervisors.forget(&self.sandbox_id);
            app.previews.forget_gates(&self.sandbox_id);
        }
    }

    async fn look(&self) -> Result<Look, ApiError> {
        let Some(app) = self.app.upgrade() else { return Ok(Look::Gone) };
        Ok(match app.look(&self.sandbox_id).await? {
            None => Look::Gone,
            Some((_, Some(runtime))) => Look::Awake(runtime),
            Some((record, None)) => Look::Asleep(record),
        })
    }

    fn stand_on(&self, runtime: Option<Arc<Runtime>>) {
        self.ground.send_if_modified(|ground| {
            let is_same = match (&ground.runtime, &runtime) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            ground.runtime = runtime;
            let looked = std::mem::replace(&mut ground.looked, true);
            !is_same || !looked
        });
    }

    /// Returns when the sandbox may not run any more.
    async fn while_awake(&self, runtime: &Arc<Runtime>, listening: &Listening, told: &mut Told) {
        if told.runtime_id != runtime.id {
            *told = Told { runtime_id: runtime.id.clone(), upto: 0 };
        }
        tokio::select! {
            () = self.follow(runtime, &mut told.upto) => {}
            () = runtime.ended() => {}
            () = runtime.frozen() => {}
            () = listening.heard() => {}
        }
        // Its owner writes down what has become of it.
        if runtime.has_ended() || runtime.is_frozen() {
            self.stand_on(None);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Tells when processes in the sandbox end, for as long as it has an agent.
    async fn follow(&self, runtime: &Arc<Runtime>, upto: &mut u64) {
        loop {
            let told = async {
                let mut events = runtime.client.events(*upto).await?;
                while let Some(event) = events.next().await? {
                    *upto = event.seq.max(*upto);
                    if let EventKind::ProcessExited { .. } = event.kind {
                        self.end.send_modify(|ends| *ends += 1);
                    }
                }
                Ok::<(), sandbar_node::client::ProcdError>(())
            };
            if let Err(error) = told.await {
                tracing::debug!(sandbox = self.sandbox_id, error = error_text(&error), "the events of a sandbox broke off");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
