//! What sandboxes used: sampled from the kernel's own counters, summed by the hour, and kept for charts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sandbar_core::{
    metrics::{Metric, Range, Sample, Series, Statistic, series},
    sandbox::SandboxRecord,
};
use sandbar_node::Runtime;
use sandbar_store::{UsageAdd, UsageCursor, UsageRecord};

use crate::{
    app::{
        App,
        auth::Principal,
        egress_meter::EgressMeter,
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

/// How often live sandboxes are looked at.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(15);
pub const HOUR_MS: i64 = 3_600_000;
/// Samples of one query: 30 days of thinned ones and a day of all.
const SAMPLES_MAX: u32 = 20_000;
/// Ended runtimes that wait to be added up. More are told in the log and left out.
const ENDED_MAX: usize = 65_536;

/// The last look at a runtime that has ended since.
pub struct Ended {
    pub record: Arc<SandboxRecord>,
    pub sample: Sample,
}

/// What is added up, and what was seen last.
#[derive(Default)]
pub struct Usage {
    ended: Mutex<Vec<Ended>>,
    /// By sandbox.
    last: Mutex<HashMap<String, Sample>>,
    pub egress: EgressMeter,
}

/// What is summed: its name, its unit, and what to multiply a figure by.
const KINDS: [(&str, &str); 6] = [
    ("sandbox.cpu_time", "microseconds"),
    ("sandbox.memory_time", "byte_seconds"),
    ("sandbox.disk_time", "byte_seconds"),
    ("sandbox.run_time", "milliseconds"),
    ("sandbox.egress", "bytes"),
    ("sandbox.ingress", "bytes"),
];

/// The unit of a kind of sum.
pub fn unit_of(window_type: &str) -> &'static str {
    KINDS.iter().find(|(name, _)| *name == window_type).map_or("count", |(_, unit)| unit)
}

/// The kinds of sums there are.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

/// Looks at a live runtime. With `walk` it counts the sandbox's files, when it used the processor since `before`.
pub fn sample(runtime: &Runtime, before: Option<&Sample>, walk: bool, now_ms: i64) -> Sample {
    let usage = runtime.usage();
    let limits = runtime.limits();
    let network = runtime.network_counters();
    let unchanged = before.is_some_and(|before| before.runtime_id == runtime.id && before.cpu_usec == usage.cpu_usec);
    let counted = if walk && !unchanged { runtime.disk_usage().ok() } else { None };
    // What cannot be counted is as it was.
    let known = before.map_or((0, 0), |before| (before.disk_bytes, before.inodes));
    let (disk_bytes, inodes) = counted.map_or(known, |used| (used.bytes, used.inodes));
    Sample {
        at_ms: now_ms,
        runtime_id: runtime.id.clone(),
        cpu_usec: usage.cpu_usec,
        cpu_limit_millis: limits.cpu_millis,
        memory_bytes: usage.memory_bytes,
        working_set_bytes: usage.memory_bytes.saturating_sub(runtime.cached_file_bytes()),
        memory_limit_bytes: limits.memory_bytes,
        processes: usage.pids,
        disk_bytes,
        inodes,
        sent_bytes: network.sent_bytes,
        received_bytes: network.received_bytes,
        network_errors: network.refused + network.failed,
    }
}

impl Usage {
    /// Takes the last look at a runtime that is about to end.
    pub fn ends(&self, record: &Arc<SandboxRecord>, runtime: &Runtime) {
        self.egress.ends(record, runtime);
        let before = self.last(&record.id);
        let last = sample(runtime, before.as_ref(), false, now_ms());
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() < ENDED_MAX {
            ended.push(Ended { record: Arc::clone(record), sample: last });
        } else {
            tracing::warn!(sandbox = record.id, "too many sandboxes ended at once; the last seconds of one are not added up");
        }
    }

    /// Gives back what could not be added up.
    pub fn give_back(&self, mut former: Vec<Ended>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        former.append(&mut ended);
        former.truncate(ENDED_MAX);
        *ended = former;
    }

    /// Those that ended since this was asked last.
    pub fn take_ended(&self) -> Vec<Ended> {
        std::mem::take(&mut self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was seen of a sandbox last, since the server began.
    pub fn last(&self, sandbox_id: &str) -> Option<Sample> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).get(sandbox_id).cloned()
    }

    /// Replaces what was seen last by what was seen now.
    pub fn seen(&self, samples: impl Iterator<Item = (String, Sample)>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = samples.collect();
    }
}

/// What came on top between two looks, by hours. Without a look before, everything since `since_ms` counts.
pub fn additions(record: &SandboxRecord, before: Option<&Sample>, now: &Sample, since_ms: i64) -> Vec<UsageAdd> {
    let same = before.filter(|before| before.runtime_id == now.runtime_id);
    let from_ms = match (same, before) {
        (Some(before), _) => before.at_ms,
        // Another runtime than the one that was seen last: it began at most a look ago.
        (None, Some(before)) => before.at_ms.max(now.at_ms - SAMPLE_EVERY.as_millis() as i64),
        (None, None) => since_ms,
    };
    let from_ms = from_ms.clamp(now.at_ms - 24 * HOUR_MS, now.at_ms);
    // A counter that is lower than before began anew.
    let gained = |count: fn(&Sample) -> u64| match same {
        Some(before) if count(before) <= count(now) => count(now) - count(before),
        _ => count(now),
    };
    let span_ms = (now.at_ms - from_ms).max(0);
    // Byte seconds by the mean of both looks.
    let mean = |level: fn(&Sample) -> u64| same.map_or(level(now), |before| level(before) / 2 + level(now) / 2);
    let seconds = |level: u64, ms: i64| (u128::from(level) * ms.unsigned_abs() as u128 / 1000).try_into().unwrap_or(i64::MAX);
    let mut adds = Vec::new();
    let mut left = [gained(|s| s.cpu_usec), gained(|s| s.sent_bytes), gained(|s| s.received_bytes)];
    let mut at = from_ms;
    loop {
        let window_start_ms = at.div_euclid(HOUR_MS) * HOUR_MS;
        let end = (window_start_ms + HOUR_MS).min(now.at_ms).max(at);
        let is_last = end >= now.at_ms;
        let part_ms = end - at;
        // Counters are spread evenly; the last part takes what rounding left.
        let mut share = |index: usize, whole: u64| {
            let part = if is_last || span_ms == 0 {
                left[index]
            } else {
                (u128::from(whole) * part_ms.unsigned_abs() as u128 / span_ms.unsigned_abs() as u128) as u64
            };
            left[index] -= part.min(left[index]);
            i64::try_from(part).unwrap_or(i64::MAX)
        };
        let values = [
            share(0, gained(|s| s.cpu_usec)),
            seconds(mean(|s| s.memory_bytes), part_ms),
            seconds(mean(|s| s.disk_bytes), part_ms),
            part_ms,
            share(1, gained(|s| s.sent_bytes)),
            share(2, gained(|s| s.received_bytes)),
        ];
        for ((window_type, _), value) in KINDS.iter().zip(values).filter(|(_, value)| *value > 0) {
            adds.push(UsageAdd {
                team_id: record.team_id.clone(),
                window_start_ms,
                subject_type: "sandbox",
                subject_id: record.id.clone(),
                window_type,
                value,
            });
        }
        if is_last {
            return adds;
        }
        at = end;
    }
}

impl App {
    /// The newest sample's moment, and series of a sandbox.
    pub async fn metrics_of(&self, id: &str, metrics: Vec<Metric>, statistic: Statistic, range: Range) -> Result<(Option<i64>, Vec<Series>), ApiError> {
        // One step earlier, for rates to begin from.
        let from = range.start_ms.saturating_sub(2 * SAMPLE_EVERY.as_millis() as i64);
        let samples = self.store.samples(id, from, range.end_ms, SAMPLES_MAX).await.map_err(|e| store_failure("reading samples", &e))?;
        let newest = self.store.newest_sample(id).await.map_err(|e| store_failure("reading samples", &e))?;
        let made = tokio::task::spawn_blocking(move || metrics.into_iter().flat_map(|metric| series(metric, statistic, &samples, range)).collect());
        let made = made.await.map_err(|error| ApiError::internal("making series", &error))?;
        Ok((newest.map(|sample| sample.at_ms), made))
    }

    /// A page of a team's sums.
    pub async fn usage_windows(
        &self,
        who: &Principal,
        after: Option<UsageCursor>,
        window_type: Option<String>,
        limit: u32,
    ) -> Result<Vec<UsageRecord>, ApiError> {
        self.store.usage_list(&who.team_id, after, window_type, limit).await.map_err(|e| store_failure("reading usage", &e))
    }
}

#[cfg(test)]
mod tests {
    use sandbar_api::{sandbox::SandboxConfig, template::TemplateSpec};
    use sandbar_core::lifecycle::{Claim, claim};

    use super::*;

    fn record() -> SandboxRecord {
        let claimed = Claim {
            id: "sb-1".into(),
            team_id: "t".into(),
            user_id: "u".into(),
            template_id: "default".into(),
            template: TemplateSpec::default(),
            config: SandboxConfig::default(),
            mounts: Vec::new(),
            base: None,
        };
        claim(claimed, 0)
    }

    fn look(at_ms: i64, runtime: &str, cpu_usec: u64, memory_bytes: u64) -> Sample {
        Sample {
            at_ms,
            runtime_id: runtime.into(),
            cpu_usec,
            cpu_limit_millis: 0,
            memory_bytes,
            working_set_bytes: 0,
            memory_limit_bytes: 0,
            processes: 1,
            disk_bytes: 0,
            inodes: 0,
            sent_bytes: 0,
            received_bytes: 0,
            network_errors: 0,
        }
    }

    fn of(adds: &[UsageAdd], kind: &str) -> Vec<(i64, i64)> {
        adds.iter().filter(|add| add.window_type == kind).map(|add| (add.window_start_ms, add.value)).collect()
    }

    #[test]
    fn an_interval_is_cut_at_the_hour_and_loses_nothing() {
        let (before, now) = (look(HOUR_MS - 1000, "a", 10, 100), look(HOUR_MS + 2000, "a", 1010, 300));
        let adds = additions(&record(), Some(&before), &now, 0);
        assert_eq!(of(&adds, "sandbox.cpu_time"), [(0, 333), (HOUR_MS, 667)]);
        assert_eq!(of(&adds, "sandbox.memory_time"), [(0, 200), (HOUR_MS, 400)]);
        assert_eq!(of(&adds, "sandbox.run_time"), [(0, 1000), (HOUR_MS, 2000)]);
    }

    #[test]
    fn a_new_runtime_counts_from_nothing_and_a_first_look_from_the_claim() {
        let (before, now) = (look(1000, "a", 5000, 0), look(2000, "b", 70, 0));
        assert_eq!(of(&additions(&record(), Some(&before), &now, 0), "sandbox.cpu_time"), [(0, 70)]);
        let adds = additions(&record(), None, &now, 500);
        assert_eq!(of(&adds, "sandbox.run_time"), [(0, 1500)]);
        assert_eq!(of(&adds, "sandbox.cpu_time"), [(0, 70)]);
        assert!(additions(&record(), Some(&now), &look(2000, "b", 70, 0), 0).is_empty());
    }
}
