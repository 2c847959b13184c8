//! What a run used, by the counters of its sandbox.

use std::sync::Arc;

use sandbar_core::{
    app::run::{Counters, Denied, Place, RunUsage},
    limits::app_runs as limits,
};
use sandbar_node::Runtime;
use sandbar_store::AppRun;

pub(super) fn counters(runtime: &Runtime) -> Counters {
    let (used, network) = (runtime.usage(), runtime.network_counters());
    Counters { cpu_us: used.cpu_usec, sent_bytes: network.sent_bytes, received_bytes: network.received_bytes, denied: network.refused }
}

/// Of a sandbox that was made for the run all that it used; of the app's what it used since the command began. None: the command
/// began in another runtime, whose counters are gone.
pub(super) async fn measure(run: &AppRun, runtime: &Arc<Runtime>, resumed: bool) -> Option<RunUsage> {
    let known = &run.doc.known;
    if known.runtime_id.as_deref() != Some(runtime.id.as_str()) {
        return None;
    }
    let since = counters(runtime).since(known.before.unwrap_or_default());
    let disk = {
        let runtime = Arc::clone(runtime);
        tokio::task::spawn_blocking(move || runtime.disk_usage_bytes()).await
    };
    let begun_ms = match run.doc.place {
        Place::App => known.commanded_at_ms.unwrap_or_default(),
        Place::Fresh => 0,
    };
    let (flows, _) = runtime.egress().flows().after(0, limits::RUN_DENIED_MAX, |flow| flow.decision == "deny" && flow.at_ms >= begun_ms);
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
        peak_memory_bytes: runtime.usage().memory_peak_bytes,
        disk_bytes: disk.ok().and_then(Result::ok).unwrap_or_default(),
        sent_bytes: since.sent_bytes,
        received_bytes: since.received_bytes,
        denied: since.denied,
        denied_list,
        network_partial: resumed,
    })
}
