//! After runs of apps: what becomes of their sandboxes, and what is kept of them, for how long.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use sandbar_core::limits::app_runs as limits;
use sandbar_node::error_text;
use sandbar_store::StoreError;
use tokio_util::sync::CancellationToken;

use crate::app::{SharedApp, apps::runs::RunDir, sandboxes::now_ms};

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at what is not kept any longer, and at what belongs to nobody.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// Between two looks for folders that belong to no run.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Cleanups at once, and in one look.
const AT_ONCE: usize = 4;
const LOOK_MAX: u32 = 64;
/// Rows in one step, so that other writes get their turn.
const STEP: u32 = 100;

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    let (mut next_prune, mut next_sweep) = (Instant::now(), Instant::now());
    loop {
        match clean(&app, &stop).await {
            Ok(()) => {}
            Err(StoreError::Closed) => return,
            Err(error) => tracing::error!(error = error_text(&error), "runs that have to be cleaned up after cannot be read; it is tried again"),
        }
        if Instant::now() >= next_prune {
            next_prune = Instant::now() + PRUNE_EVERY;
            prune(&app).await;
        }
        if Instant::now() >= next_sweep {
            next_sweep = Instant::now() + SWEEP_EVERY;
            if let Err(error) = sweep_folders(&app).await {
                tracing::warn!(%error, "folders of runs that are gone were not looked for");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = app.app_runs.cleanup_soon.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn clean(app: &SharedApp, stop: &CancellationToken) -> Result<(), StoreError> {
    let runs = app.store.app_runs_uncleaned(now_ms(), LOOK_MAX).await?;
    let all = stream::iter(runs).for_each_concurrent(AT_ONCE, |run| app.clean_up(run));
    tokio::select! {
        () = stop.cancelled() => {}
        () = all => {}
    }
    Ok(())
}

async fn prune(app: &SharedApp) {
    match app.store.app_runs_prune(now_ms() - limits::RUN_KEPT_MS, STEP).await {
        Ok(gone) => {
            for run in gone {
                remove(app, run.id).await;
            }
        }
        Err(error) => tracing::error!(error = error_text(&error), "old runs of apps could not be removed; it is tried again"),
    }
    match app.prune_receipts().await {
        Ok(0) => {}
        Ok(gone) => tracing::info!(gone, "receipts that are not kept any longer were removed"),
        Err(error) => tracing::error!(error = error_text(&error), "old receipts could not be removed; it is tried again"),
    }
    match app.sweep_run_sandboxes().await {
        Ok(0) => {}
        Ok(swept) => tracing::info!(swept, "sandboxes of runs that have no use for them were ended"),
        Err(error) => tracing::warn!(%error, "sandboxes of runs were not looked after; it is tried again"),
    }
    app.keep_few_stopped(None).await;
    if let Err(error) = app.rest_apps().await {
        tracing::warn!(%error, "apps that were woken for runs were not looked after; it is tried again");
    }
}

/// After its row: a folder without one is found later.
async fn remove(app: &SharedApp, run_id: String) {
    let dir = app.run_dir(&run_id);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || dir.remove()).await {
        tracing::warn!(run = run_id, %error, "what was kept of a run was not removed; it is tried again");
    }
}

/// Removes folders of runs that have no row.
async fn sweep_folders(app: &SharedApp) -> std::io::Result<()> {
    let data_dir = app.config.data_dir.clone();
    let found = tokio::task::spawn_blocking(move || RunDir::all(&data_dir)).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))?;
    // Read after the folders: what has a row by now is known, and whatever is about to get one is held since before it had a folder.
    let found: Vec<String> = found.into_iter().filter(|id| !app.app_runs.is_held(id)).collect();
    let known: HashSet<String> = app.store.app_run_ids().await.map_err(std::io::Error::other)?.into_iter().collect();
    for id in found.into_iter().filter(|id| !known.contains(id)) {
        remove(app, id).await;
    }
    Ok(())
}
