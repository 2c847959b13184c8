//! The receipt of a run, from its row.

use sandbar_core::{
    app::{
        RunStatus,
        receipt::{Artifact, CausedBy, Denial, Receipt, Status, Usage, VERSION},
        run::RunArtifact,
    },
    limits::apps as limits,
};
use sandbar_store::{AppRun, ChainPlace};

/// What happened, for its place in the chain of its team.
pub(crate) fn receipt_of(run: &AppRun, place: ChainPlace) -> Receipt {
    let known = &run.doc.known;
    let captured = |artifact: &RunArtifact| {
        let sha256 = artifact.sha256.clone()?;
        Some(Artifact { path: artifact.path.clone(), sha256, size_bytes: artifact.size_bytes, captured_at_ms: artifact.captured_at_ms })
    };
    let denied = known.usage.iter().flat_map(|usage| &usage.denied_list).take(limits::RECEIPT_DENIALS_MAX);
    let reason = match (run.failure_reason, &known.message) {
        (Some(reason), Some(message)) => Some(short(&format!("{}: {message}", reason.as_str()))),
        (Some(reason), None) => Some(reason.as_str().to_owned()),
        (None, message) => message.as_deref().map(short),
    };
    let caller = run.doc.caller.as_ref();
    Receipt {
        version: VERSION,
        id: uuid::Uuid::now_v7().to_string(),
        team_id: run.team_id.clone(),
        app_id: run.app_id.clone(),
        app_name: run.app_name.clone(),
        app_version: run.version.max(0).unsigned_abs(),
        run_id: run.id.clone(),
        kind: run.doc.kind,
        name: Some(run.action.clone()),
        caused_by: CausedBy {
            cause: run.cause,
            user_id: caller.map(|caller| caller.user_id.clone()),
            key_id: caller.and_then(|caller| caller.key_id.clone()),
            schedule_id: run.schedule_id.clone(),
            tick_at_ms: run.tick_ms,
        },
        sandbox_id: run.sandbox_id.clone(),
        manifest_sha256: run.doc.manifest_sha256.clone(),
        source_sha256: run.doc.source_sha256.clone(),
        ground: run.doc.ground.clone(),
        // Also where it is not known whether it began; the reason says so.
        command: (known.context_id.is_some() || known.told_to_begin).then(|| run.doc.command.clone()),
        input_sha256: Some(run.doc.input_sha256.clone()),
        created_at_ms: run.created_at_ms,
        started_at_ms: run.started_at_ms,
        commanded_at_ms: known.commanded_at_ms,
        finished_at_ms: run.finished_at_ms.unwrap_or(run.created_at_ms),
        usage: Usage::of(known, run.doc.place),
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
        denied_total: known.usage.as_ref().map(|usage| usage.denied),
        denied: denied.map(|denied| Denial { destination: destination(&denied.host, denied.port), rule: short(&denied.rule), count: denied.times }).collect(),
        price: None,
        chain: run.team_id.clone(),
        sequence: place.seq,
        previous_sha256: place.prev_sha256,
        // Whoever signs writes it in.
        key_id: String::new(),
    }
}

/// An address of IPv6 stands in brackets, as in URLs.
fn destination(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn short(text: &str) -> String {
    text.chars().take(limits::RECEIPT_TEXT_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_address_ends_and_its_port_begins_is_clear() {
        for (host, want) in [("example.com", "example.com:80"), ("10.0.0.1", "10.0.0.1:80"), ("fd00:ec2::254", "[fd00:ec2::254]:80")] {
            assert_eq!(destination(host, 80), want);
        }
    }
}
