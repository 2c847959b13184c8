//! Runs as the wire has them.

use sandbar_core::app::{
    RunStatus,
    receipt::{Kind, Source, Usage},
    run::{Place, RunArtifact, RunUsage},
    uploads::RunFile,
};
use sandbar_store::AppRun;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::http::time::rfc3339;

/// A run of an app.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunView {
    id: String,
    app: String,
    app_id: String,
    version: i64,
    /// `action`, or of a schedule also `command`, `service` or `start`.
    #[schema(value_type = String)]
    kind: Kind,
    /// Of the action or the service; else the kind.
    action: String,
    /// `api` or `schedule`.
    cause: &'static str,
    schedule_id: Option<String>,
    /// What that schedule was called then.
    schedule: Option<String>,
    /// The moment of the schedule that it is for.
    scheduled_at: Option<String>,
    /// `queued`, `running`, `succeeded`, `failed`, `timed_out` or `cancelled`.
    status: &'static str,
    /// Of a running one how far it is: `preparing`, `starting`, `commanding` or `collecting`.
    phase: Option<&'static str>,
    /// Of one that did not succeed: `exit_code`, `signal`, `out_of_memory`, `disk_full`, `start_not_ready`, `sandbox_lost`, `timeout` and others.
    failure_reason: Option<&'static str>,
    message: Option<String>,
    exit_code: Option<i32>,
    command: String,
    cwd: Option<String>,
    timeout_seconds: u64,
    requires_start: bool,
    /// `app` or `fresh`.
    sandbox: &'static str,
    sandbox_id: Option<String>,
    cleanup_policy: Option<&'static str>,
    /// What came of that, which says nothing of the run: `pending`, `succeeded`, `failed` or `skipped`.
    cleanup: Option<&'static str>,
    cleanup_error: Option<String>,
    /// Of files that were archived.
    snapshot_id: Option<String>,
    concurrency_group: Option<String>,
    idempotency_key: Option<String>,
    cancel_requested_at: Option<String>,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    /// Of the command.
    duration_seconds: Option<f64>,
    log_bytes: u64,
    /// More was printed than is kept.
    log_cut: bool,
    artifacts: Vec<ArtifactView>,
    usage: Option<UsageView>,
    /// Those that it was given.
    files: Vec<FileView>,
    /// With files of the object of `input` and `files`, else of the input alone.
    input_sha256: String,
    receipt_id: Option<String>,
    caused_by: Option<String>,
    /// Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    input: Option<Box<RawValue>>,
}

/// A file that a run was given.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AppRunFile)]
pub(crate) struct FileView {
    /// The property of the input that it is.
    input: String,
    /// In the sandbox.
    path: String,
    size_bytes: u64,
    sha256: String,
}

/// A file that a run left, or should have.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ArtifactView {
    number: u32,
    /// Below the workspace; of one that is missing, what was looked for.
    path: String,
    /// `captured`, `missing` or `failed`.
    status: &'static str,
    size_bytes: u64,
    sha256: Option<String>,
    error: Option<String>,
    captured_at: Option<String>,
}

/// What a run used; `null` is what is not known.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageView {
    /// `run`: it had a sandbox of its own; `app`: it ran in the app's.
    scope: &'static str,
    cpu_seconds: Option<f64>,
    peak_memory_bytes: Option<u64>,
    /// What the files of a sandbox of its own take in the end; of a command in the app's sandbox what it had written.
    disk_bytes: Option<u64>,
    network_sent_bytes: Option<u64>,
    network_received_bytes: Option<u64>,
    /// The server was started anew meanwhile: of the network only what came after that is known.
    network_partial: bool,
    sources: SourcesView,
    denied: Option<u64>,
    denied_list: Vec<DeniedView>,
}

/// Where each figure comes from. `run_sandbox`: all of the sandbox that was made for the run; `command`: the command and all
/// that it started, by the kernel's count, of which memory is that of the largest process; `app_sandbox`: all of the app's sandbox while the command
/// ran.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SourcesView {
    #[schema(value_type = Option<String>)]
    cpu: Option<Source>,
    #[schema(value_type = Option<String>)]
    memory: Option<Source>,
    #[schema(value_type = Option<String>)]
    disk: Option<Source>,
    #[schema(value_type = Option<String>)]
    network: Option<Source>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeniedView {
    host: String,
    port: u16,
    protocol: String,
    rule: String,
    times: u64,
}

pub(crate) fn run(run: AppRun, whole: bool) -> RunView {
    let known = run.doc.known;
    let used = Usage::of(&known, run.doc.place);
    let fresh = run.doc.place == Place::Fresh;
    let is_measured = known.usage.is_some() || known.used.is_some();
    RunView {
        id: run.id,
        app: run.app_name,
        app_id: run.app_id,
        version: run.version,
        kind: run.doc.kind,
        action: run.action,
        cause: run.cause.as_str(),
        schedule_id: run.schedule_id,
        schedule: run.doc.schedule,
        scheduled_at: run.tick_ms.map(rfc3339),
        status: run.status.as_str(),
        phase: (run.status == RunStatus::Running).then(|| run.phase.as_str()),
        failure_reason: run.failure_reason.map(|reason| reason.as_str()),
        message: known.message,
        exit_code: known.exit.map(|exit| exit.code),
        command: run.doc.command,
        cwd: run.doc.cwd,
        timeout_seconds: run.doc.timeout_s,
        requires_start: run.doc.requires_start,
        sandbox: run.doc.place.as_str(),
        sandbox_id: run.sandbox_id,
        cleanup_policy: fresh.then(|| run.doc.cleanup.as_str()),
        cleanup: run.cleanup.map(|cleanup| cleanup.as_str()),
        cleanup_error: known.cleanup_error,
        snapshot_id: known.snapshot_id,
        concurrency_group: run.group,
        idempotency_key: run.idempotency_key,
        cancel_requested_at: run.cancel_requested_at_ms.map(rfc3339),
        created_at: rfc3339(run.created_at_ms),
        started_at: run.started_at_ms.map(rfc3339),
        finished_at: run.finished_at_ms.map(rfc3339),
        duration_seconds: used.duration_ms.map(|ms| ms as f64 / 1000.0),
        log_bytes: run.log_bytes,
        log_cut: known.log_cut,
        artifacts: known.artifacts.into_iter().map(artifact).collect(),
        usage: is_measured.then(|| usage(fresh, &used, known.usage)),
        files: run.doc.files.into_iter().map(file).collect(),
        input_sha256: run.doc.input_sha256,
        receipt_id: run.receipt_id,
        caused_by: run.doc.caused_by,
        input: if whole { RawValue::from_string(run.input).ok() } else { None },
    }
}

fn file(file: RunFile) -> FileView {
    let RunFile { input, path, size_bytes, sha256 } = file;
    FileView { input, path, size_bytes, sha256 }
}

pub(crate) fn artifact(artifact: RunArtifact) -> ArtifactView {
    let RunArtifact { number, path, status, size_bytes, sha256, error, captured_at_ms } = artifact;
    ArtifactView { number, path, status: status.as_str(), size_bytes, sha256, error, captured_at: captured_at_ms.map(rfc3339) }
}

fn usage(fresh: bool, used: &Usage, sandbox: Option<RunUsage>) -> UsageView {
    let sources = used.sources;
    UsageView {
        scope: if fresh { "run" } else { "app" },
        cpu_seconds: used.cpu_us.map(|us| us as f64 / 1e6),
        peak_memory_bytes: used.memory_peak_bytes,
        disk_bytes: used.disk_bytes,
        network_sent_bytes: used.network_sent_bytes,
        network_received_bytes: used.network_received_bytes,
        network_partial: used.network_partial,
        sources: SourcesView { cpu: sources.cpu, memory: sources.memory, disk: sources.disk, network: sources.network },
        denied: sandbox.as_ref().map(|sandbox| sandbox.denied),
        denied_list: sandbox
            .into_iter()
            .flat_map(|sandbox| sandbox.denied_list)
            .map(|denied| DeniedView { host: denied.host, port: denied.port, protocol: denied.protocol, rule: denied.rule, times: denied.times })
            .collect(),
    }
}
