//! Runs of apps: begins those that wait, goes on with those that a server before was at, and ends those that nobody wants.
//!
//! A run is taken by a commit. One server has the data directory, so what is under way is known here and needs no lease. When the
//! server ends, runs are left where they are: their commands go on in their sandboxes, and the next server with them.

use std::{collections::HashSet, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use sandbar_node::error_text;
use sandbar_store::{AppRun, StoreError};
use tokio::task::JoinSet;
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

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    let mut runs: JoinSet<String> = JoinSet::new();
    let mut held: HashSet<String> = HashSet::new();
    let mut resumed = false;
    while !stop.is_cancelled() {
        match look(&app, &stop, &mut runs, &mut held, &mut resumed).await {
            Ok(()) => {}
            Err(StoreError::Closed) => break,
            Err(error) => tracing::error!(error = error_text(&error), "runs of apps that wait cannot be read; it is tried again"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.app_runs.changed.notified() => {}
            Some(done) = runs.join_next() => end(&mut held, done),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        while let Some(done) = runs.try_join_next() {
            end(&mut held, done);
        }
    }
    let _ = tokio::time::timeout(STOP_WITHIN, async { while runs.join_next().await.is_some() {} }).await;
    runs.shutdown().await;
}

async fn look(app: &SharedApp, stop: &CancellationToken, runs: &mut JoinSet<String>, held: &mut HashSet<String>, resumed: &mut bool) -> Result<(), StoreError> {
    if !*resumed {
        let left = app.store.app_runs_running().await?;
        if !left.is_empty() {
            tracing::info!(runs = left.len(), "runs of apps are gone on with");
        }
        for run in left {
            spawn(app, run, true, stop, runs, held);
        }
        *resumed = true;
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
        for run in app.store.app_runs_claim(now_ms()).await? {
            spawn(app, run, false, stop, runs, held);
        }
    }
    Ok(())
}

fn spawn(app: &SharedApp, run: AppRun, resumed: bool, stop: &CancellationToken, runs: &mut JoinSet<String>, held: &mut HashSet<String>) {
    if !held.insert(run.id.clone()) {
        return;
    }
    let (app, stop) = (app.clone(), stop.clone());
    runs.spawn(async move {
        let (id, mut run, mut resumed) = (run.id.clone(), run, resumed);
        loop {
            if AssertUnwindSafe(execute(app.clone(), run, resumed, stop.clone())).catch_unwind().await.is_ok() {
                return id;
            }
            tracing::error!(run = id, "a run failed inside the server; it is gone on with");
            tokio::time::sleep(AFTER_PANIC).await;
            match app.store.app_run_find(&id).await {
                Ok(Some(again)) if !again.status.is_final() => (run, resumed) = (again, true),
                _ => return id,
            }
        }
    });
}

fn end(held: &mut HashSet<String>, done: Result<String, tokio::task::JoinError>) {
    match done {
        Ok(id) => {
            held.remove(&id);
        }
        // Panics are caught in the task and nobody cancels one.
        Err(error) => tracing::error!(%error, "a task that runs an app's action was lost"),
    }
}
