//! Posts what waits for webhooks: one event of a sandbox after the other, many sandboxes at a time, and of each receiver and
//! each team only so many that one who does not answer keeps nobody else waiting.
//!
//! When something is due stands in rows. One server has the data directory, so what is under way is known here and needs no
//! lease; what a killed server was about to post is posted again.

use std::{collections::HashMap, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use sandbar_core::{
    limits,
    webhook::{self, Next},
};
use sandbar_node::error_text;
use sandbar_store::{Due, Ended, StoreError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::{SharedApp, sandboxes::now_ms, webhooks::Posted};

/// Rows of one look.
const PAGE: u32 = 64;
/// The clock may be set: look at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// After a failure of the store the next look is no sooner.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// And after a fault of our own, which may come again.
const AFTER_PANIC: Duration = Duration::from_secs(30);
/// How often old deliveries are removed, and how many in one step.
const PRUNE_EVERY_MS: i64 = 60_000;
const PRUNE_MAX: u32 = 2000;

/// What is under way.
#[derive(Default)]
struct Flight {
    /// By sandbox: team, and receiver for that team.
    busy: HashMap<String, (String, String)>,
    teams: HashMap<String, usize>,
    places: HashMap<String, usize>,
}

impl Flight {
    fn admits(&self, due: &Due) -> bool {
        let of = |counts: &HashMap<String, usize>, key: &str| counts.get(key).copied().unwrap_or_default();
        self.busy.len() < limits::WEBHOOK_TRIES_MAX
            && !self.busy.contains_key(&due.sandbox_id)
            && of(&self.teams, &due.team_id) < limits::WEBHOOK_TRIES_PER_TEAM_MAX
            && of(&self.places, &due.place()) < limits::WEBHOOK_TRIES_PER_RECEIVER_MAX
    }

    fn begin(&mut self, due: &Due) {
        let place = due.place();
        *self.teams.entry(due.team_id.clone()).or_default() += 1;
        *self.places.entry(place.clone()).or_default() += 1;
        self.busy.insert(due.sandbox_id.clone(), (due.team_id.clone(), place));
    }

    fn end(&mut self, sandbox_id: &str) {
        let Some((team, place)) = self.busy.remove(sandbox_id) else { return };
        for (counts, key) in [(&mut self.teams, team), (&mut self.places, place)] {
            if let Some(count) = counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&key);
                }
            }
        }
    }

    /// Teams and receivers that have as many as they may.
    fn full(&self) -> Vec<String> {
        let over =
            |counts: &HashMap<String, usize>, max: usize| counts.iter().filter(|(_, count)| **count >= max).map(|(key, _)| key.clone()).collect::<Vec<_>>();
        let mut full = over(&self.teams, limits::WEBHOOK_TRIES_PER_TEAM_MAX);
        full.extend(over(&self.places, limits::WEBHOOK_TRIES_PER_RECEIVER_MAX));
        full
    }
}

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    let mut flight = Flight::default();
    let mut tries: JoinSet<String> = JoinSet::new();
    let mut pruned_at_ms = 0;
    while !stop.is_cancelled() {
        if now_ms() - pruned_at_ms >= PRUNE_EVERY_MS {
            pruned_at_ms = now_ms();
            prune(&app).await;
        }
        let wait = match start(&app, &mut flight, &mut tries).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::error!(error = error_text(&error), "webhooks cannot be read");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.webhooks.changed.notified() => {}
            Some(done) = tries.join_next() => end(&mut flight, done),
            () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
        }
        while let Some(done) = tries.try_join_next() {
            end(&mut flight, done);
        }
    }
    // Each has a bound of a few seconds; cut off, it would be posted once more.
    while tries.join_next().await.is_some() {}
}

fn end(flight: &mut Flight, done: Result<String, tokio::task::JoinError>) {
    match done {
        Ok(sandbox_id) => flight.end(&sandbox_id),
        // Panics are caught in the task and nobody cancels one.
        Err(error) => tracing::error!(%error, "a task that posts to a webhook was lost"),
    }
}

/// Starts everything that is due and may be; returns how long nothing more will be.
async fn start(app: &SharedApp, flight: &mut Flight, tries: &mut JoinSet<String>) -> Result<Duration, StoreError> {
    loop {
        let (now, busy) = (now_ms(), flight.busy.keys().cloned().collect());
        let page = app.store.webhook_due(now, PAGE, busy, flight.full()).await?;
        let mut started = false;
        for due in page {
            if flight.admits(&due) {
                started = true;
                flight.begin(&due);
                let app = app.clone();
                tries.spawn(async move {
                    let sandbox_id = due.sandbox_id.clone();
                    // Whatever happens, the sandbox does not stay busy.
                    if AssertUnwindSafe(attempt(&app, due)).catch_unwind().await.is_err() {
                        tracing::error!(sandbox = sandbox_id, "posting to a webhook failed inside the server; it is tried again");
                        tokio::time::sleep(AFTER_PANIC).await;
                    }
                    sandbox_id
                });
            }
        }
        if !started || flight.busy.len() >= limits::WEBHOOK_TRIES_MAX {
            let next = app.store.webhook_next(now).await?;
            return Ok(Duration::from_millis(next.map_or(u64::MAX, |at| (at - now_ms()).max(1).unsigned_abs())));
        }
    }
}

/// Posts once and writes down what came of it.
async fn attempt(app: &SharedApp, due: Due) {
    let number = due.attempts.saturating_add(1);
    let Posted { outcome, attempt } = app.webhooks.post(&due.team_id, &due.url, due.secret.as_deref(), &due.event_id, number, &due.body).await;
    let (ended, word) = match webhook::next(outcome, number, jitter(), due.give_up_at_ms, attempt.at_ms) {
        Next::Delivered => (Ended::Delivered, "delivered"),
        Next::Retry { at_ms } => (Ended::Retry { at_ms }, "retried"),
        Next::Failed => (Ended::Failed, "failed"),
    };
    app.metrics.webhook_tried(word);
    if let Err(error) = app.store.webhook_attempted(&due.sandbox_id, due.seq, &attempt, ended).await {
        tracing::error!(sandbox = due.sandbox_id, error = error_text(&error), "what came of a webhook's delivery was not recorded; it is posted again");
        // Its moment is still the same: without a wait it would be posted over and over.
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

async fn prune(app: &SharedApp) {
    let pruned = async {
        // In steps, so that others get to write in between.
        while app.store.webhook_prune_teams(limits::WEBHOOK_TEAM_MAX, limits::WEBHOOK_TEAM_MAX_BYTES, PRUNE_MAX).await? {}
        while app.store.webhook_prune(now_ms() - limits::WEBHOOK_KEPT_MAX_MS, PRUNE_MAX).await? >= PRUNE_MAX as usize {}
        Ok::<_, StoreError>(())
    };
    if let Err(error) = pruned.await {
        tracing::warn!(error = error_text(&error), "old deliveries were not removed");
    }
}

/// From 0 to 1.
fn jitter() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(sandbox: usize, team: &str, receiver: &str) -> Due {
        Due {
            seq: 1,
            sandbox_id: format!("sb-{sandbox}"),
            team_id: team.into(),
            receiver: receiver.into(),
            event_id: "evt".into(),
            body: String::new(),
            attempts: 0,
            give_up_at_ms: 0,
            url: String::new(),
            secret: None,
        }
    }

    #[test]
    fn one_receiver_and_one_team_leave_room_for_others() {
        let mut flight = Flight::default();
        let mut sandbox = 0;
        let mut fill = |flight: &mut Flight, team: &str, receiver: &str| {
            let before = flight.busy.len();
            loop {
                sandbox += 1;
                let due = due(sandbox, team, receiver);
                if !flight.admits(&due) {
                    return flight.busy.len() - before;
                }
                flight.begin(&due);
            }
        };
        assert_eq!(fill(&mut flight, "a", "dead:80"), limits::WEBHOOK_TRIES_PER_RECEIVER_MAX);
        assert_eq!(flight.full(), ["a dead:80"]);
        assert_eq!(fill(&mut flight, "b", "dead:80"), limits::WEBHOOK_TRIES_PER_RECEIVER_MAX, "another team has its own");
        for n in 0..10 {
            fill(&mut flight, "a", &format!("{n}:80"));
        }
        assert_eq!(flight.teams["a"], limits::WEBHOOK_TRIES_PER_TEAM_MAX);
        assert!(flight.full().contains(&"a".to_owned()));
        assert!(flight.admits(&due(0, "c", "well:80")));
        assert!(!flight.admits(&due(1, "c", "well:80")), "of one sandbox there is one at a time");
        let busy: Vec<_> = flight.busy.keys().cloned().collect();
        for sandbox_id in busy {
            flight.end(&sandbox_id);
        }
        assert!(flight.teams.is_empty() && flight.places.is_empty() && flight.full().is_empty());
    }
}
