//! What the sandboxes of teams send, measured against their quotas. What was sent is known only afterwards, so a team
//! that is beyond its quota is stopped: its sandboxes' flows are cut, and new ones are refused until the interval has
//! passed or the quota is another.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbar_core::{
    quota::{Dimension, Metered, end_of},
    sandbox::SandboxRecord,
};
use sandbar_node::Runtime;
use sandbar_store::{QuotaRecord, Store, StoreError};

use crate::{app::quotas::INTERVAL_DEFAULT_MS, http::time::rfc3339};

/// Where it is kept what was used.
const KEY: &str = "egress_used";
/// Ended runtimes that wait to be counted. More are not.
const ENDED_MAX: usize = 65_536;

#[derive(Default)]
pub struct EgressMeter {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By team, of those that have a quota.
    used: HashMap<String, Metered>,
    /// Teams that are beyond theirs, with what is told as the rule.
    beyond: HashMap<String, Arc<str>>,
    /// Bytes that were counted, by runtime.
    counted: HashMap<String, u64>,
    ended: Vec<Sent>,
    changed: bool,
}

/// What a runtime has sent since it began.
struct Sent {
    team_id: String,
    runtime_id: String,
    bytes: u64,
}

impl Sent {
    fn of(record: &SandboxRecord, runtime: &Runtime) -> Self {
        Self { team_id: record.team_id.clone(), runtime_id: runtime.id.clone(), bytes: runtime.network_counters().sent_bytes }
    }
}

impl EgressMeter {
    /// Goes on with what a former server counted.
    pub async fn restore(&self, store: &Store) -> Result<(), StoreError> {
        if let Some(text) = store.meta_get(KEY).await? {
            // What cannot be read is as good as nothing: the next interval is right again.
            self.lock().used = serde_json::from_str(&text).unwrap_or_default();
        }
        Ok(())
    }

    /// A runtime has become a sandbox's own.
    pub fn begins(&self, record: &SandboxRecord, runtime: &Runtime) {
        if let Some(rule) = self.lock().beyond.get(&record.team_id) {
            runtime.egress().suspend(Some(Arc::clone(rule)));
        }
    }

    /// Takes the last look at a runtime that is about to end.
    pub fn ends(&self, record: &SandboxRecord, runtime: &Runtime) {
        let sent = Sent::of(record, runtime);
        let mut state = self.lock();
        if state.ended.len() < ENDED_MAX {
            state.ended.push(sent);
        }
    }

    /// What was used of a quota in the present interval.
    pub fn used(&self, quota: &QuotaRecord, now_ms: i64) -> u64 {
        self.lock().used.get(&quota.team_id).map_or(0, |used| used.used(interval_of(quota), now_ms))
    }

    /// Counts what was sent since the last look, and stops or lets go whom that concerns.
    pub fn look(&self, live: &[(Arc<SandboxRecord>, Arc<Runtime>)], quotas: &[QuotaRecord], now_ms: i64) {
        let now: Vec<_> = live.iter().map(|(record, runtime)| Sent::of(record, runtime)).collect();
        let mut state = self.lock();
        state.count(&now, quotas, now_ms);
        for (record, runtime) in live {
            let wanted = state.beyond.get(&record.team_id);
            if runtime.egress().suspended().as_ref() != wanted {
                runtime.egress().suspend(wanted.cloned());
            }
        }
    }

    /// Keeps what was counted since this was called last.
    pub async fn store(&self, store: &Store) -> Result<(), StoreError> {
        let text = {
            let mut state = self.lock();
            if !std::mem::take(&mut state.changed) {
                return Ok(());
            }
            serde_json::to_string(&state.used).unwrap_or_default()
        };
        let stored = store.meta_set(KEY, &text).await;
        if stored.is_err() {
            self.lock().changed = true;
        }
        stored
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, now: &[Sent], quotas: &[QuotaRecord], now_ms: i64) {
        let ended = std::mem::take(&mut self.ended);
        let intervals: HashMap<&str, u64> = quotas.iter().map(|quota| (&*quota.team_id, interval_of(quota))).collect();
        for sent in now.iter().chain(&ended) {
            let counted = self.counted.entry(sent.runtime_id.clone()).or_default();
            let more = sent.bytes.saturating_sub(*counted);
            *counted = sent.bytes.max(*counted);
            if let Some(interval_ms) = intervals.get(&*sent.team_id).filter(|_| more > 0) {
                self.used.entry(sent.team_id.clone()).or_default().add(more, *interval_ms, now_ms);
                self.changed = true;
            }
        }
        // One whose end has only begun, or has failed, is looked at again.
        let alive: HashSet<&str> = now.iter().map(|sent| &*sent.runtime_id).collect();
        self.counted.retain(|id, _| alive.contains(&**id));
        self.used.retain(|team_id, _| intervals.contains_key(&**team_id));
        self.beyond = quotas
            .iter()
            .filter(|quota| self.used.get(&quota.team_id).map_or(0, |used| used.used(interval_of(quota), now_ms)) >= quota.limit)
            .map(|quota| (quota.team_id.clone(), rule(quota, now_ms)))
            .collect();
    }
}

fn interval_of(quota: &QuotaRecord) -> u64 {
    quota.interval_ms.unwrap_or(INTERVAL_DEFAULT_MS)
}

fn rule(quota: &QuotaRecord, now_ms: i64) -> Arc<str> {
    let interval_ms = interval_of(quota);
    let until = rfc3339(end_of(interval_ms, now_ms));
    format!("the team's quota of {} ({} in {interval_ms} ms) is used up until {until}", Dimension::NetworkEgressBytes.as_str(), quota.limit).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(runtime_id: &str, bytes: u64) -> Sent {
        Sent { team_id: "t".to_owned(), runtime_id: runtime_id.to_owned(), bytes }
    }

    #[test]
    fn a_runtime_that_ends_is_counted_once() {
        let quotas = [QuotaRecord { team_id: "t".to_owned(), dimension: Dimension::NetworkEgressBytes, limit: 10, interval_ms: Some(60_000), burst: None }];
        let mut state = State::default();
        // What lives, what has begun to end, and what is used by then.
        let looks: [(&[Sent], Option<Sent>, u64); 6] = [
            (&[sent("a", 6)], None, 6),
            (&[sent("a", 6)], Some(sent("a", 6)), 6),
            (&[sent("a", 6)], None, 6),
            (&[sent("a", 7)], Some(sent("a", 7)), 7),
            (&[], None, 7),
            // One that came and went between two looks.
            (&[], Some(sent("b", 2)), 9),
        ];
        for (step, (now, ended, used)) in looks.into_iter().enumerate() {
            state.ended.extend(ended);
            state.count(now, &quotas, 1000);
            assert_eq!(state.used["t"].used(interval_of(&quotas[0]), 1000), used, "look {step}");
            assert_eq!(state.counted.len(), now.len(), "look {step}");
        }
        assert!(state.beyond.is_empty());
        state.count(&[sent("c", 1)], &quotas, 1000);
        assert!(state.beyond.contains_key("t"));
    }
}
