//! What a run used, by the counters of its sandbox; in the end, and while it goes on, where it may cost only so much.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{
    app::{
        receipt::{Prices, Usage},
        run::{CommandUse, Counters, Denied, Known, Place, RunUsage},
    },
    limits::app_runs as limits,
};
use sandbar_node::Runtime;
use sandbar_store::AppRun;

use super::AppRuns;
use crate::app::receipts::Receipts;

/// Between two looks at what a run has cost, and at what its files take, for which all of them are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_AT_DISK_EVERY: Duration = Duration::from_secs(10);

/// What the counters of the sandbox were when the command began. Those of the network begin anew with each server.
fn before(known: &Known, server_id: &str) -> Counters {
    let before = known.before.unwrap_or_default();
    if known.before_by.as_deref() == Some(server_id) { before } else { before.without_network() }
}

pub(super) fn counters(runtime: &Runtime) -> Counters {
    let (used, network) = (runtime.usage(), runtime.network_counters());
    Counters { cpu_us: used.cpu_usec, sent_bytes: network.sent_bytes, received_bytes: network.received_bytes, denied: network.refused }
}

/// Of a sandbox that was made for the run all that it used; of the app's what it used since the command began. None: the command
/// began in another runtime, whose counters are gone.
pub(super) async fn measure(run: &AppRun, runtime: &Arc<Runtime>, server_id: &str, resumed: bool) -> Option<RunUsage> {
    let known = &run.doc.known;
    if known.runtime_id.as_deref() != Some(runtime.id.as_str()) {
        return None;
    }
    let since = counters(runtime).since(before(known, server_id));
    let disk = {
        let runtime = Arc::clone(runtime);
        tokio::task::spawn_blocking(move || runtime.disk_usage_bytes()).await
    };
    let begun_ms = match run.doc.place {
        Place::App => known.commanded_at_ms.unwrap_or_default(),
        Place::Fresh => 0,
    };
    let (flows, _) = runtime.egress().flows().after(0, limits::RUN_DENIED_MAX, |flow| flow.decision == "deny" && flow.last_at_ms >= begun_ms);
    let denied_list = flows
        .into_iter()
        .map(|flow| Denied {
            host: flow.host.unwrap_or_else(|| flow.addr.to_string()),
            port: flow.port,
            protocol: flow.proto.to_owned(),
            rule: flow.rule,
            times: flow.times,
        })
        .collect();
    Some(RunUsage {
        own_sandbox: run.doc.place == Place::Fresh,
        cpu_us: since.cpu_us,
        peak_memory_bytes: peak(runtime),
        disk_bytes: disk.ok().and_then(Result::ok),
        sent_bytes: since.sent_bytes,
        received_bytes: since.received_bytes,
        denied: since.denied,
        denied_list,
        network_partial: resumed,
    })
}

/// The most memory so far; none where the kernel does not tell.
fn peak(runtime: &Runtime) -> Option<u64> {
    Some(runtime.usage().memory_peak_bytes).filter(|bytes| *bytes > 0)
}

/// Looks now and then at what a run has cost so far.
pub(super) struct Meter {
    prices: Arc<Prices>,
    max_micros: u64,
    server_id: String,
    /// When the command began, and milliseconds that it had run for already.
    begun: Option<(Instant, u64)>,
    /// The most memory that its processes had at a time, as far as it was seen.
    peak_bytes: u64,
    disk: Option<(Instant, Option<u64>)>,
}

impl Meter {
    /// None: it may cost what it does.
    pub fn new(receipts: &Receipts, runs: &AppRuns, max_micros: Option<u64>, ran_ms: Option<u64>) -> Option<Self> {
        let begun = ran_ms.map(|ran_ms| (Instant::now(), ran_ms));
        let server_id = runs.server_id().to_owned();
        Some(Self { prices: receipts.prices()?, max_micros: max_micros?, server_id, begun, peak_bytes: 0, disk: None })
    }

    /// Whether the run costs more by now than it may.
    pub async fn is_over(&mut self, known: &Known, place: Place, runtime: &Arc<Runtime>, context_id: &str) -> bool {
        let ran_ms = self.begun.map_or(0, |(at, ran_ms)| ran_ms.saturating_add(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)));
        let since = counters(runtime).since(before(known, &self.server_id));
        let sandbox = RunUsage {
            own_sandbox: place == Place::Fresh,
            cpu_us: since.cpu_us,
            peak_memory_bytes: peak(runtime),
            disk_bytes: self.disk(place, runtime).await,
            sent_bytes: since.sent_bytes,
            received_bytes: since.received_bytes,
            ..RunUsage::default()
        };
        let used = match place {
            Place::Fresh => None,
            Place::App => self.command(runtime, context_id).await,
        };
        let now = Known { used, usage: Some(sandbox), ..Known::default() };
        let usage = Usage { duration_ms: Some(ran_ms), ..Usage::of(&now, place) };
        self.prices.bill(&usage).total_micros > self.max_micros
    }

    /// What the command used in the app's sandbox, by its agent's word. None: it does not tell, and the sandbox's counters have to do.
    async fn command(&mut self, runtime: &Runtime, context_id: &str) -> Option<CommandUse> {
        let stats = tokio::time::timeout(LOOK_EVERY * 5, runtime.client.context_stats(context_id)).await.ok()?.ok()?;
        self.peak_bytes = self.peak_bytes.max(stats.memory_rss);
        Some(CommandUse { duration_ms: 0, cpu_us: stats.cpu_us?, peak_memory_bytes: self.peak_bytes, written_bytes: stats.io_write_bytes })
    }

    async fn disk(&mut self, place: Place, runtime: &Arc<Runtime>) -> Option<u64> {
        if place == Place::App || self.prices.disk_gib_micros == 0 {
            return None;
        }
        if let Some((at, bytes)) = self.disk
            && at.elapsed() < LOOK_AT_DISK_EVERY
        {
            return bytes;
        }
        let runtime = Arc::clone(runtime);
        let bytes = tokio::task::spawn_blocking(move || runtime.disk_usage_bytes()).await.ok().and_then(Result::ok);
        self.disk = Some((Instant::now(), bytes));
        bytes
    }
}
