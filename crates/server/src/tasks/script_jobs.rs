//! Runs what scripts are owed: what events, schedules and calls that nobody waits for have put in the queue. So many at a time
//! of a script, of a team and in all; whose turn it is goes around the teams.
//!
//! A job is taken by a commit before it runs, and what came of the run and of the job is one commit after it. One server has
//! the data directory, so what is under way is known here and needs no lease; what a killed server was at is run again.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use sandbar_core::script::{
    RunTrigger,
    retry::{self, Fate},
};
use sandbar_node::error_text;
use sandbar_scripts::{Failure, FailureCode};
use sandbar_store::{Busy, JobEnd, JobKind, RunStatus, ScriptJob, ScriptRun, StoreError};
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::app::{
    SharedApp,
    sandboxes::now_ms,
    scripts::{Ask, record},
};

/// The clock may be set, and who makes a job may not say so: look at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure of the store the next look is no sooner.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Where there was no room for a run, it is looked for after this and up to as much again.
const BUSY_AFTER_MS: i64 = 1000;
/// And after a fault of our own, which may come again.
const AFTER_PANIC: Duration = Duration::from_secs(30);
/// How often it is tried to keep what came of a run.
const FINISH_TRIES: u32 = 30;
/// What runs when the server ends has so long to end by itself; then it is given up, and run again by the next server.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Old jobs and events that are removed in one step.
const PRUNE_MAX: u32 = 500;

/// Who has run a job: team and script.
type Of = (String, String);

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    let _ended = app.script_jobs.ended.clone().drop_guard();
    let mut busy = Busy::default();
    let mut runs: JoinSet<Of> = JoinSet::new();
    while !stop.is_cancelled() {
        let wait = match start(&app, &stop, &mut busy, &mut runs).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::error!(error = error_text(&error), "runs that are owed cannot be read");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.scripts.jobs_changed.notified() => {}
            Some(done) = runs.join_next() => end(&mut busy, done),
            () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
        }
        while let Some(done) = runs.try_join_next() {
            end(&mut busy, done);
        }
    }
    let _ = tokio::time::timeout(STOP_WITHIN, async { while runs.join_next().await.is_some() {} }).await;
    // What is left stays taken in the database, and the next server finds it so.
    runs.shutdown().await;
}

/// Starts everything that is due and may run; returns how long nothing more will be.
async fn start(app: &SharedApp, stop: &CancellationToken, busy: &mut Busy, runs: &mut JoinSet<Of>) -> Result<Duration, StoreError> {
    // Each run leaves a row. On a full disk what is owed waits.
    if app.check_room().is_err() {
        return Ok(LOOK_EVERY);
    }
    let claimed = app.store.script_jobs_claim(now_ms(), busy.clone()).await?;
    if claimed.dropped > 0 {
        tracing::info!(dropped = claimed.dropped, "runs of functions that are gone or not active were dropped");
    }
    for job in claimed.jobs {
        let of = (job.team_id.clone(), job.script_id.clone());
        *busy.teams.entry(of.0.clone()).or_default() += 1;
        *busy.scripts.entry(of.1.clone()).or_default() += 1;
        let (app, stop, cancel) = (app.clone(), stop.clone(), app.script_jobs.begin(&job.id));
        runs.spawn(async move {
            let id = job.id.clone();
            // Whatever happens, its place is given back.
            if AssertUnwindSafe(attempt(&app, &stop, job, cancel)).catch_unwind().await.is_err() {
                tracing::error!(job = id, "a run that was owed failed inside the server; it is run again");
                tokio::time::sleep(AFTER_PANIC).await;
                interrupt(&app, &id, "it failed inside the server too often; the server's log says why").await;
            }
            app.script_jobs.end(&id);
            of
        });
    }
    Ok(claimed.next_at_ms.map_or(Duration::MAX, |at| Duration::from_millis((at - now_ms()).max(1).unsigned_abs())))
}

fn end(busy: &mut Busy, done: Result<Of, tokio::task::JoinError>) {
    match done {
        Ok((team, script)) => {
            for (counts, key) in [(&mut busy.teams, team), (&mut busy.scripts, script)] {
                if let Some(count) = counts.get_mut(&key) {
                    *count -= 1;
                    if *count == 0 {
                        counts.remove(&key);
                    }
                }
            }
        }
        // Panics are caught in the task and nobody cancels one.
        Err(error) => tracing::error!(%error, "a task that runs what is owed was lost"),
    }
}

/// Runs a job once and writes down what came of it.
async fn attempt(app: &SharedApp, stop: &CancellationToken, job: ScriptJob, cancel: CancellationToken) {
    let ask = match prepare(app, &job, cancel.clone()).await {
        Ok(Ok(ask)) => ask,
        Ok(Err(reason)) => return end_without_run(app, &job.id, JobEnd::Dropped, reason).await,
        // It will never be any better.
        Err(error @ StoreError::Corrupt { .. }) => return end_without_run(app, &job.id, JobEnd::Dead, error.to_string()).await,
        Err(error) => {
            tracing::error!(job = job.id, error = error_text(&error), "a run that is owed cannot begin; it is tried again");
            return give_back(app, &job.id, now_ms() + AFTER_FAILURE.as_millis() as i64).await;
        }
    };
    let retry = ask.script.spec.retry;
    let (begun, id) = (record::begun(&ask, RunStatus::Running, now_ms()), ask.run_id.clone());
    let begin = async {
        match job.kind {
            JobKind::Async => app.store.script_run_begin(&id, now_ms()).await,
            JobKind::Event | JobKind::Cron => app.store.script_run_put(begun).await,
        }
    };
    // The row is written first, and the run does not wait for that: what comes of it is written after.
    let (begin, ran) = tokio::join!(biased; begin, app.run_script(ask));
    if let Err(error) = begin {
        tracing::warn!(job = job.id, error = error_text(&error), "the begin of a run was not recorded");
    }
    if ran.outcome.result.as_ref().is_err_and(Failure::is_busy) {
        return put_off(app, &job, ran.run).await;
    }
    let end = match &ran.outcome.result {
        Ok(_) => JobEnd::Succeeded,
        // The server ends. The run stays unfinished, and is run again by the next one.
        Err(failure) if stop.is_cancelled() && matches!(failure.code, FailureCode::Cancelled | FailureCode::Internal) && !cancel.is_cancelled() => return,
        Err(failure) => match retry::after(failure.code.as_str(), job.attempts, &retry, jitter(), now_ms()) {
            Fate::Retry { at_ms } => JobEnd::Retry { at_ms },
            Fate::Dead => JobEnd::Dead,
            Fate::Dropped => JobEnd::Dropped,
        },
    };
    finish(app, &job, ran.run, end).await;
}

/// It did not begin, since too many others were at it: that was no attempt, and it is tried again soon.
async fn put_off(app: &SharedApp, job: &ScriptJob, mut run: ScriptRun) {
    if job.kind == JobKind::Async {
        (run.status, run.finished_at_ms) = (RunStatus::Queued, None);
    }
    if let Err(error) = app.finish_script(run, None).await {
        tracing::warn!(job = job.id, error = error_text(&error), "that a run had to wait was not recorded");
    }
    give_back(app, &job.id, now_ms() + BUSY_AFTER_MS + (jitter() * BUSY_AFTER_MS as f64) as i64).await;
}

/// What the job asks for; or why nobody wants it any more.
async fn prepare(app: &SharedApp, job: &ScriptJob, cancel: CancellationToken) -> Result<Result<Ask, String>, StoreError> {
    let Some(whole) = app.store.script_get(&job.script_id).await? else { return Ok(Err("its function was deleted".to_owned())) };
    if !whole.script.active {
        return Ok(Err("its function is not active".to_owned()));
    }
    let Some(version) = app.store.script_version(&job.script_id, job.version).await? else {
        return Ok(Err(format!("version {} of its function is gone", job.version)));
    };
    let data = RawValue::from_string(job.input.clone()).map_err(|e| StoreError::Corrupt { what: "input of a run", cause: e.to_string() })?;
    let subject = serde_json::from_str(&job.subject).map_err(|e| StoreError::Corrupt { what: "subject of a run", cause: e.to_string() })?;
    let (trigger, run_id) = match job.kind {
        JobKind::Event => (RunTrigger::Event, Uuid::now_v7().to_string()),
        JobKind::Cron => (RunTrigger::Cron, Uuid::now_v7().to_string()),
        JobKind::Async => (RunTrigger::Async, job.source.clone()),
    };
    Ok(Ok(Ask {
        script: Arc::new(whole.script),
        version: Arc::new(version),
        run_id,
        trigger,
        data,
        subject,
        depth: job.depth,
        attempt: job.attempts,
        job_id: Some(job.id.clone()),
        origin: None,
        cancel,
    }))
}

/// Keeps what came of a run. It is done, so this is tried for a while before it is run again.
async fn finish(app: &SharedApp, job: &ScriptJob, run: ScriptRun, end: JobEnd) {
    for _ in 0..FINISH_TRIES {
        match app.finish_script(run.clone(), Some((job.id.clone(), end.clone()))).await {
            Ok(()) => return,
            Err(StoreError::Closed) => return,
            Err(error) => tracing::error!(job = job.id, error = error_text(&error), "what came of a run was not recorded; it is tried again"),
        }
        tokio::time::sleep(AFTER_FAILURE).await;
    }
    // It has run: that is worth more than what it said.
    match app.finish_script(record::small(run), Some((job.id.clone(), end))).await {
        Ok(()) => tracing::error!(job = job.id, "what came of a run could not be recorded; that it ended is"),
        Err(StoreError::Closed) => {}
        Err(error) => {
            tracing::error!(job = job.id, error = error_text(&error), "what came of a run could not be recorded; it is run again");
            interrupt(app, &job.id, "what came of it could not be recorded").await;
        }
    }
}

async fn end_without_run(app: &SharedApp, job_id: &str, end: JobEnd, reason: String) {
    if let Err(error) = app.store.script_job_end(job_id, end, Some(reason), now_ms()).await {
        tracing::error!(job = job_id, error = error_text(&error), "a run that cannot be was not ended");
        give_back(app, job_id, now_ms() + AFTER_FAILURE.as_millis() as i64).await;
    }
}

/// Back into the queue as often as that may be, however long it takes to write that.
async fn interrupt(app: &SharedApp, job_id: &str, cause: &str) {
    loop {
        let now = now_ms();
        match app.store.script_job_interrupt(job_id, cause, now + AFTER_FAILURE.as_millis() as i64, now).await {
            Ok(()) | Err(StoreError::Closed) => return,
            Err(error) => tracing::error!(job = job_id, error = error_text(&error), "a run that was cut short was not given back; it is tried again"),
        }
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

/// Back into the queue, however long that takes: else it would wait for the next server.
async fn give_back(app: &SharedApp, job_id: &str, at_ms: i64) {
    loop {
        match app.store.script_job_release(job_id, at_ms).await {
            Ok(()) | Err(StoreError::Closed) => return,
            Err(error) => tracing::error!(job = job_id, error = error_text(&error), "a run that is owed was not given back; it is tried again"),
        }
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

/// Removes old jobs and events.
pub(super) async fn prune(app: &SharedApp) {
    let pruned = async {
        let now = now_ms();
        // In steps, so that others get to write in between.
        while app.store.script_jobs_prune(now, PRUNE_MAX).await? >= PRUNE_MAX as usize {}
        while app.store.script_events_prune(now - sandbar_core::limits::SCRIPT_JOBS_KEPT_MS, PRUNE_MAX).await? >= PRUNE_MAX as usize {}
        Ok::<_, StoreError>(())
    };
    if let Err(error) = pruned.await {
        tracing::warn!(error = error_text(&error), "old events and runs that were owed were not removed");
    }
}

/// From 0 to 1.
fn jitter() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}
