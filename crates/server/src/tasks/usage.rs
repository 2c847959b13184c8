//! Looks at every live sandbox in turns and adds up what it used.

use std::{collections::HashMap, sync::Arc};

use sandbar_core::{limits, metrics::Sample, sandbox::SandboxRecord};
use sandbar_node::{Runtime, error_text};
use sandbar_store::{StoreError, UsageAdd};
use tokio_util::sync::CancellationToken;

use crate::app::{
    SharedApp,
    sandboxes::now_ms,
    usage::{Ended, SAMPLE_EVERY, additions, sample},
};

/// All samples are kept for a day, then one of each five minutes.
const THIN_AFTER_MS: i64 = 86_400_000;
const THIN_EVERY_MS: i64 = 300_000;
/// Looks between two rounds of dropping old samples.
const LOOKS_PER_PRUNE: u32 = 40;
/// Results of calls that are dropped in one step.
const PRUNE_MAX: u32 = 200;

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    let mut looks = 0u32;
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(SAMPLE_EVERY) => false,
        };
        // Once more at the end, so that little is lost by a stop.
        look(&app).await;
        if stopped {
            return;
        }
        looks += 1;
        if looks.is_multiple_of(LOOKS_PER_PRUNE) {
            let now = now_ms();
            let pruned = app.store.samples_prune(now - limits::METRICS_RANGE_MAX_MS, now - THIN_AFTER_MS, THIN_EVERY_MS).await;
            if let Err(error) = pruned {
                tracing::warn!(error = error_text(&error), "old samples could not be dropped");
            }
            if let Err(error) = prune_invocations(&app).await {
                tracing::warn!(error = error_text(&error), "old results of calls could not be dropped");
            }
            if let Err(error) = prune_previews(&app).await {
                tracing::warn!(error = error_text(&error), "expired previews could not be dropped");
            }
        }
    }
}

/// In steps, so that others get to write in between.
async fn prune_invocations(app: &SharedApp) -> Result<(), StoreError> {
    let before_ms = now_ms() - limits::INVOCATION_KEPT_MS;
    while app.store.invocations_prune(before_ms, limits::INVOCATION_RESULTS_PER_TEAM_BYTES_MAX, PRUNE_MAX).await? >= PRUNE_MAX as usize {}
    Ok(())
}

async fn prune_previews(app: &SharedApp) -> Result<(), StoreError> {
    while app.store.previews_prune(now_ms(), PRUNE_MAX).await? >= PRUNE_MAX as usize {}
    Ok(())
}

type Live = Vec<(Arc<SandboxRecord>, Arc<Runtime>)>;

async fn look(app: &SharedApp) {
    let mut sums = Sums::default();
    // Before those that live, since one of them may be the next runtime of the same sandbox, whose counters begin anew.
    let mut ended = app.usage.take_ended();
    sums.add_ended(app, &ended).await;
    let live = app.sandboxes.live();
    for (record, _) in &live {
        sums.know(app, &record.id).await;
    }
    let known = sums.last.clone();
    let looked = tokio::task::spawn_blocking(move || sample_all(live, &known)).await;
    for (record, now) in looked.unwrap_or_default() {
        sums.add(&record, &now);
    }
    // One that ended meanwhile was looked at later.
    let late = app.usage.take_ended();
    sums.add_ended(app, &late).await;
    ended.extend(late);
    let Sums { adds, samples, last } = sums;
    if samples.is_empty() {
        return;
    }
    // The last room on a disk is for what frees some.
    let stored = match app.check_room() {
        Ok(()) => app.store.usage_add(adds, samples, now_ms()).await.map_err(|error| error_text(&error)),
        Err(error) => Err(error.to_string()),
    };
    match stored {
        Ok(()) => app.usage.seen(last.into_iter()),
        // Nothing is forgotten: the next look counts from the last one that was stored.
        Err(error) => {
            tracing::warn!(error, "usage could not be stored; it is added up with the next look");
            app.usage.give_back(ended);
        }
    }
}

/// What one look adds up.
#[derive(Default)]
struct Sums {
    adds: Vec<UsageAdd>,
    samples: Vec<(String, Sample)>,
    /// What was seen last of each sandbox.
    last: HashMap<String, Sample>,
}

impl Sums {
    async fn know(&mut self, app: &SharedApp, id: &str) {
        if !self.last.contains_key(id)
            && let Some(last) = last_seen(app, id).await
        {
            self.last.insert(id.to_owned(), last);
        }
    }

    async fn add_ended(&mut self, app: &SharedApp, ended: &[Ended]) {
        for Ended { record, sample } in ended {
            self.know(app, &record.id).await;
            self.add(record, sample);
        }
    }

    /// What was seen after it is left out: that was counted from an older look to a newer one already.
    fn add(&mut self, record: &SandboxRecord, now: &Sample) {
        let last = self.last.get(&record.id);
        if last.is_some_and(|last| last.at_ms >= now.at_ms) {
            return;
        }
        self.adds.extend(additions(record, last, now, record.claimed_at_ms));
        self.samples.push((record.id.clone(), now.clone()));
        self.last.insert(record.id.clone(), now.clone());
    }
}

async fn last_seen(app: &SharedApp, id: &str) -> Option<Sample> {
    match app.usage.last(id) {
        Some(last) => Some(last),
        // The server is new: what the former one stored.
        None => app.store.newest_sample(id).await.ok().flatten(),
    }
}

fn sample_all(live: Live, before: &HashMap<String, Sample>) -> Vec<(Arc<SandboxRecord>, Sample)> {
    live.into_iter()
        .filter(|(_, runtime)| !runtime.has_ended())
        .map(|(record, runtime)| {
            let now = sample(&runtime, before.get(&record.id), true, now_ms());
            (record, now)
        })
        .collect()
}
