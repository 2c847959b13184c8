//! The receipt of a run, from its row.

use sandbar_core::{
    app::{
        RunStatus,
        manifest::START,
        receipt::{Artifact, Denial, Kind, Receipt, Status, Usage, UsageOf, VERSION},
        run::{Place, RunArtifact},
    },
    limits::apps as limits,
};
use sandbar_store::{AppRun, ChainPlace};

/// What happened, for its place in the chain of its team.
pub(crate) fn receipt_of(run: &AppRun, place: ChainPlace) -> Receipt {
    let known = &run.doc.known;
    let finished_at_ms = run.finished_at_ms.unwrap_or(run.created_at_ms);
    let used = known.usage.clone().unwrap_or_default();
    let usage = Usage {
        duration_ms: known.commanded_at_ms.map_or(0, |begun_ms| (finished_at_ms - begun_ms).max(0).unsigned_abs()),
        cpu_us: used.cpu_us,
        memory_peak_bytes: used.peak_memory_bytes,
        disk_bytes: used.disk_bytes,
        network_sent_bytes: used.sent_bytes,
        network_received_bytes: used.received_bytes,
    };
    let captured = |artifact: &RunArtifact| {
        let sha256 = artifact.sha256.clone()?;
        Some(Artifact { path: artifact.path.clone(), sha256, size_bytes: artifact.size_bytes })
    };
    let denied = used.denied_list.into_iter().take(limits::RECEIPT_DENIALS_MAX);
    let reason = match (run.failure_reason, &known.message) {
        (Some(reason), Some(message)) => Some(short(&format!("{}: {message}", reason.as_str()))),
        (Some(reason), None) => Some(reason.as_str().to_owned()),
        (None, message) => message.as_deref().map(short),
    };
    Receipt {
        version: VERSION,
        id: uuid::Uuid::now_v7().to_string(),
        team_id: run.team_id.clone(),
        app_id: run.app_id.clone(),
        app_name: run.app_name.clone(),
        app_version: run.version.max(0).unsigned_abs(),
        run_id: run.id.clone(),
        kind: if run.action == START { Kind::Start } else { Kind::Action },
        name: Some(run.action.clone()),
        schedule_id: run.schedule_id.clone(),
        sandbox_id: run.sandbox_id.clone(),
        manifest_sha256: run.doc.manifest_sha256.clone(),
        files: Some(format!("source sha256:{}", run.doc.source_sha256)),
        command: known.context_id.is_some().then(|| run.doc.command.clone()),
        input_sha256: Some(run.doc.input_sha256.clone()),
        created_at_ms: run.created_at_ms,
        started_at_ms: run.started_at_ms,
        finished_at_ms,
        usage,
        usage_of: if run.doc.place == Place::Fresh { UsageOf::Run } else { UsageOf::AppSandbox },
        status: match run.status {
            RunStatus::Succeeded => Status::Succeeded,
            RunStatus::TimedOut => Status::TimedOut,
            RunStatus::Cancelled => Status::Cancelled,
            // Nothing else ends.
            RunStatus::Failed | RunStatus::Queued | RunStatus::Running => Status::Failed,
        },
        exit_code: known.exit.as_ref().map(|exit| exit.code),
        reason,
        artifacts: known.artifacts.iter().filter_map(captured).take(limits::RECEIPT_ARTIFACTS_MAX).collect(),
        denied_total: used.denied,
        denied: denied
            .map(|denied| Denial { destination: format!("{}:{}", denied.host, denied.port), rule: short(&denied.rule), count: denied.times })
            .collect(),
        price: None,
        chain: run.team_id.clone(),
        sequence: place.seq,
        previous_sha256: place.prev_sha256,
        // Whoever signs writes it in.
        key_id: String::new(),
    }
}

fn short(text: &str) -> String {
    text.chars().take(limits::RECEIPT_TEXT_MAX_CHARS).collect()
}
