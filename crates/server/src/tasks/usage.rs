//! Looks at every live sandbox in turns and adds up what it used.

use std::{collections::HashMap, sync::Arc};

use sandbar_core::{limits, metrics::Sample, sandbox::SandboxRecord};
use sandbar_node::{Runtime, error_text};
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
        }
    }
}

type Live = Vec<(Arc<SandboxRecord>, Arc<Runtime>)>;

async fn look(app: &SharedApp) {
    // First those that live: one that ends meanwhile is in the second list with a later look.
    let live = app.sandboxes.live();
    let mut before: HashMap<String, Sample> = HashMap::with_capacity(live.len());
    for (record, _) in &live {
        if let Some(last) = last_seen(app, &record.id).await {
            before.insert(record.id.clone(), last);
        }
    }
    let known = before.clone();
    let looked = tokio::task::spawn_blocking(move || sample_all(live, &known)).await;
    let Ok(seen) = looked else { return };
    let mut adds = Vec::new();
    let mut samples = Vec::with_capacity(seen.len());
    for (record, now) in &seen {
        adds.extend(additions(record, before.get(&record.id), now, record.claimed_at_ms));
        samples.push((record.id.clone(), now.clone()));
        before.insert(record.id.clone(), now.clone());
    }
    for Ended { record, sample: now } in app.usage.take_ended() {
        let last = match before.get(&record.id) {
            Some(last) => Some(last.clone()),
            None => last_seen(app, &record.id).await,
        };
        // Older than what was seen of its next runtime: that one's sums begin where this one ends.
        if last.as_ref().is_none_or(|last| last.at_ms < now.at_ms) {
            adds.extend(additions(&record, last.as_ref(), &now, record.claimed_at_ms));
            samples.push((record.id.clone(), now.clone()));
            before.insert(record.id.clone(), now);
        }
    }
    if samples.is_empty() {
        return;
    }
    match app.store.usage_add(adds, samples, now_ms()).await {
        Ok(()) => app.usage.seen(before.into_iter()),
        // Nothing is forgotten: the next look counts from the last one that was stored.
        Err(error) => tracing::warn!(error = error_text(&error), "usage could not be stored; it is added up with the next look"),
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
