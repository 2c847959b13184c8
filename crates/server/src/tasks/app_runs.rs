//! Runs of apps: begins those that wait, goes on with those that a server before was at, and ends those that nobody wants.
//!
//! A run is taken by a commit. One server has the data directory, so what is under way is known here and needs no lease. When the
//! server ends, runs are left where they are: their commands go on in their sandboxes, and the next server with them.

use std::{collections::HashMap, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use sandbar_core::app::run::AtOnce;
use sandbar_node::error_text;
use sandbar_store::{AppRun, StoreError};
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::app::{SharedApp, apps::runs::execute, sandboxes::now_ms};

/// The scheduler asks for runs within commits of its own, and others may not say so: look at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a fault of our own, which may come again.
const AFTER_PANIC: Duration = Duration::from_secs(30);
/// What runs when the server ends has so long to write where it is.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Runs that are ended in one look because nobody wants them.
const UNWANTED_MAX: u32 = 100;

/// Runs under way here, by the task that each has.
#[derive(Default)]
struct Held {
    tasks: JoinSet<()>,
    ids: HashMap<task::Id, String>,
}

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    let mut held = Held::default();
    while !stop.is_cancelled() {
        match look(&app, &stop, &mut held).await {
            Ok(()) => {}
            Err(StoreError::Closed) => break,
            Err(error) => tracing::error!(error = error_text(&error), "runs of apps that wait cannot be read; it is tried again"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.app_runs.changed.notified() => {}
            Some(done) = held.tasks.join_next_with_id() => held.end(done),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        while let Some(done) = held.tasks.try_join_next_with_id() {
            held.end(done);
        }
    }
    let _ = tokio::time::timeout(STOP_WITHIN, async { while held.tasks.join_next().await.is_some() {} }).await;
    held.tasks.shutdown().await;
}

async fn look(app: &SharedApp, stop: &CancellationToken, held: &mut Held) -> Result<(), StoreError> {
    // What a server before left, and what a task of this one gave up.
    for id in app.store.app_runs_running().await? {
        if held.has(&id) {
            continue;
        }
        match app.store.app_run_find(&id).await {
            Ok(Some(run)) if !run.status.is_final() => {
                tracing::info!(run = id, "a run of an app is gone on with");
                held.spawn(app, run, true, stop);
            }
            Ok(_) => {}
            Err(StoreError::Closed) => return Err(StoreError::Closed),
            // It keeps nobody from the others.
            Err(error) => tracing::error!(run = id, error = error_text(&error), "a run that is under way cannot be read; it is tried again"),
        }
    }
    for run in app.store.app_runs_unwanted(UNWANTED_MAX).await? {
        if let Err(error) = app.end_unbegun(&run).await {
            tracing::warn!(run = run.id, %error, "a run that nobody wants was not ended; it is tried again");
        }
    }
    for id in app.store.app_runs_to_cancel().await? {
        app.app_runs.cancel(&id);
    }
    // Each run leaves something. On a full disk what waits goes on waiting.
    if app.check_room().is_ok() {
        for run in app.store.app_runs_claim(AtOnce::of(app.config.app_runs_at_once as usize), now_ms()).await? {
            held.spawn(app, run, false, stop);
        }
    }
    Ok(())
}

impl Held {
    fn has(&self, run_id: &str) -> bool {
        self.ids.values().any(|id| id == run_id)
    }

    fn spawn(&mut self, app: &SharedApp, run: AppRun, resumed: bool, stop: &CancellationToken) {
        let (app, stop, id) = (app.clone(), stop.clone(), run.id.clone());
        let task = self.tasks.spawn(async move {
            let id = run.id.clone();
            if AssertUnwindSafe(execute(app, run, resumed, stop.clone())).catch_unwind().await.is_err() {
                tracing::error!(run = id, "a run failed inside the server; it is gone on with");
                // Its row is as it was, and whoever looks goes on with it.
                let _ = tokio::time::timeout(AFTER_PANIC, stop.cancelled()).await;
            }
        });
        self.ids.insert(task.id(), id);
    }

    fn end(&mut self, done: Result<(task::Id, ()), task::JoinError>) {
        let task = match done {
            Ok((task, ())) => task,
            Err(error) => {
                tracing::error!(%error, "a task that runs an app's action was lost");
                error.id()
            }
        };
        self.ids.remove(&task);
    }
}
