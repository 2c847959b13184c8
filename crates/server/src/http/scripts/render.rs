//! Scripts and runs as the wire shows them.

use std::collections::BTreeMap;

use sandbar_core::{
    limits,
    script::{AuthorKind, Part, Retry, Schedule, Trigger},
};
use sandbar_scripts::{LogLine, OpRecord};
use sandbar_store::{RunStatus, ScriptAlias, ScriptRun, ScriptWhole, VersionHead};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{
    app::scripts::{
        Subject,
        invoke::Sight,
        record::{self, RunDoc},
    },
    http::time::rfc3339,
};

/// Bytes of code in one list.
pub const KEPT_SOURCE_BYTES: usize = 8 << 20;

/// What a client says of a function. Each field may be absent: then it is kept, or is what it is unless said. Null sets `pattern`,
/// `description`, `timeoutMs`, `cpuMs`, `memoryMb`, `concurrency`, `authorKind`, `capabilities`, `fetchAllow`, `retry` and `schedule` back to what they are
/// unless said; for every other field it is refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionFields {
    /// `^[a-z][a-z0-9_-]*$`, at most 64 characters.
    pub name: Option<String>,
    /// `http` (the default), `event` or `cron`.
    pub trigger: Option<String>,
    /// Of events (`items:posts:*`) or of moments (`*/5 * * * *`); null for http.
    pub pattern: Option<String>,
    pub code: Option<String>,
    /// `javascript` (the default) or `typescript`.
    pub language: Option<String>,
    /// 50 to 60000.
    pub timeout_ms: Option<u32>,
    pub active: Option<bool>,
    /// Who wrote the code, as an admin of the team says: `operator` (trusted) or `tenant`.
    pub author_kind: Option<String>,
    /// As `authorKind` `operator`.
    pub trusted: Option<bool>,
    /// Who may invoke it: `admin` (the default), `authenticated`, `public` or `key`.
    pub access: Option<String>,
    /// In whose name it reads: `caller` (the default), `system` or `serviceAccount:NAME`.
    pub run_as: Option<String>,
    /// `fetch`, `db:read`, `db:read:SLUG`, `email`, `secrets`; null for all.
    pub capabilities: Option<Vec<String>>,
    /// Hosts, of those that the server allows.
    pub fetch_allow: Option<Vec<String>>,
    pub concurrency: Option<u32>,
    pub memory_mb: Option<u32>,
    pub cpu_ms: Option<u32>,
    #[schema(value_type = Object)]
    pub retry: Option<Retry>,
    /// Of the trigger cron; for another one it is refused.
    #[schema(value_type = Object)]
    pub schedule: Option<Schedule>,
    pub deterministic: Option<bool>,
    pub description: Option<String>,
}

/// A function.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionView {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub trigger: &'static str,
    pub pattern: Option<String>,
    /// Of the version that is live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    pub language: &'static str,
    pub timeout_ms: u32,
    pub active: bool,
    pub author_kind: Option<&'static str>,
    pub trusted: bool,
    pub access: &'static str,
    pub run_as: String,
    pub capabilities: Option<Vec<String>>,
    pub fetch_allow: Option<Vec<String>>,
    pub concurrency: u32,
    pub memory_mb: u32,
    pub cpu_ms: u32,
    #[schema(value_type = Object)]
    pub retry: Retry,
    #[schema(value_type = Object)]
    pub schedule: Schedule,
    pub deterministic: bool,
    /// The number of the version that is live, or has the greatest part of what is live.
    pub version: u32,
    /// SHA-256 of language and code of that version.
    pub hash: String,
    pub aliases: BTreeMap<String, Vec<PartView>>,
    /// Names.
    pub secrets: Vec<String>,
    pub created_at: String,
    pub updated_at: String,
    /// Of a schedule.
    pub next_run_at: Option<String>,
}

/// A version and its part of the calls.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct PartView {
    pub version: u32,
    pub weight: u32,
}

/// An alias.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AliasView {
    pub alias: String,
    pub version: u32,
    pub split: Vec<PartView>,
    pub updated_at: String,
}

/// A version.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionView {
    pub version: u32,
    pub hash: String,
    pub language: &'static str,
    pub author_kind: Option<&'static str>,
    pub created_by: Option<String>,
    pub created_at: String,
    /// Names of aliases that point to it.
    pub aliases: Vec<String>,
    /// Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// What a call came to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InvokeResult {
    pub ok: bool,
    /// Absent when the function returned nothing, or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub value: Option<Box<RawValue>>,
    pub logs: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// `user_error`, `timeout`, `memory`, `denied`, `cancelled`, `unserializable`, `payload_too_large` or `internal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    pub duration_ms: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log_entries: Vec<LogView>,
    /// What it had asked for and not been answered when it ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<String>,
    pub provider: Option<String>,
    pub run_id: String,
    pub version: u32,
}

impl InvokeResult {
    /// Who is no member is told what came of a call, and nothing of how.
    pub(crate) fn seen_by(self, sight: Sight) -> Self {
        match sight {
            Sight::Whole | Sight::Result => self,
            Sight::Answer => Self { logs: Vec::new(), log_entries: Vec::new(), stack: None, in_flight: Vec::new(), ..self },
        }
    }
}

/// A call that nobody waited for, as its caller sees it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InvocationView {
    pub id: String,
    /// `queued`, `running`, `succeeded` or `failed`.
    pub status: &'static str,
    pub created_at: String,
    pub finished_at: Option<String>,
    /// Null until it has ended.
    pub result: Option<InvokeResult>,
}

/// A line that was logged.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogView {
    /// `debug`, `log`, `info`, `warn` or `error`.
    #[schema(value_type = String)]
    pub level: sandbar_scripts::Level,
    pub at: String,
    pub text: String,
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunView {
    pub id: String,
    pub function_id: String,
    pub function: String,
    pub version: u32,
    /// `http`, `async`, `event`, `cron` or `replay`.
    pub trigger: &'static str,
    /// `queued`, `running`, `succeeded` or `failed`.
    pub status: &'static str,
    pub ok: Option<bool>,
    pub code: Option<String>,
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    pub provider: Option<String>,
    pub created_at: String,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub duration_ms: Option<f64>,
    pub cpu_ms: Option<f64>,
    pub peak_memory_bytes: Option<i64>,
    pub attempt: u32,
    pub hash: String,
    pub job_id: Option<String>,
    pub replay_of: Option<String>,
    pub subject: SubjectView,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<String>,
    /// These four are not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub input: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub output: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logs: Option<Vec<LogView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<Vec<OpView>>,
}

/// In whose name a run was.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubjectView {
    pub user_id: Option<String>,
    pub email: Option<String>,
    pub roles: Vec<String>,
}

/// What a run asked of its host.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpView {
    pub op: &'static str,
    #[schema(value_type = Value)]
    pub args: Box<RawValue>,
    /// After the start of the run.
    pub asked_ms: f64,
    /// Null when there was no answer before the end.
    pub took_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A function, with the code that is live where it is to be shown.
pub fn function(whole: ScriptWhole, code: Option<String>, next_run_at_ms: Option<i64>) -> FunctionView {
    let live = whole.live().cloned();
    let ScriptWhole { script, aliases, versions: _, secrets } = whole;
    let spec = script.spec;
    let timeout_ms = spec.timeout_ms.unwrap_or(limits::SCRIPT_TIMEOUT_DEFAULT_MS);
    let author_kind = live.as_ref().and_then(|live| live.author_kind);
    FunctionView {
        id: script.id,
        name: script.name,
        description: spec.description,
        trigger: script.trigger.as_str(),
        pattern: script.pattern,
        language: live.as_ref().map_or("javascript", |live| live.language.as_str()),
        timeout_ms,
        active: script.active,
        author_kind: author_kind.map(AuthorKind::as_str),
        trusted: author_kind == Some(AuthorKind::Operator),
        access: spec.access.as_str(),
        run_as: spec.run_as.to_string(),
        capabilities: spec.capabilities,
        fetch_allow: spec.fetch_allow,
        concurrency: spec.concurrency.unwrap_or(limits::SCRIPT_CONCURRENCY_DEFAULT),
        memory_mb: spec.memory_mb.unwrap_or(limits::SCRIPT_MEMORY_DEFAULT_MB),
        cpu_ms: spec.cpu_ms.unwrap_or(timeout_ms),
        retry: spec.retry,
        schedule: spec.schedule,
        deterministic: spec.deterministic,
        version: live.as_ref().map_or(0, |live| live.number),
        hash: live.as_ref().map(|live| live.hash.clone()).unwrap_or_default(),
        code,
        aliases: aliases.into_iter().map(|alias| (alias.alias, parts(alias.split.parts()))).collect(),
        secrets,
        created_at: rfc3339(script.created_at_ms),
        updated_at: rfc3339(script.updated_at_ms),
        next_run_at: next_run_at_ms.filter(|_| script.trigger == Trigger::Cron).map(rfc3339),
    }
}

fn parts(parts: &[Part]) -> Vec<PartView> {
    parts.iter().map(|part| PartView { version: part.version, weight: part.weight }).collect()
}

pub fn alias(alias: ScriptAlias) -> AliasView {
    AliasView { version: alias.split.main(), split: parts(alias.split.parts()), alias: alias.alias, updated_at: rfc3339(alias.updated_at_ms) }
}

pub fn version(whole: &ScriptWhole, version: VersionHead, code: Option<String>) -> VersionView {
    let names = |alias: &&ScriptAlias| alias.split.parts().iter().any(|part| part.version == version.number && part.weight > 0);
    VersionView {
        version: version.number,
        hash: version.hash,
        language: version.language.as_str(),
        author_kind: version.author_kind.map(AuthorKind::as_str),
        created_by: version.created_by,
        created_at: rfc3339(version.created_at_ms),
        aliases: whole.aliases.iter().filter(names).map(|alias| alias.alias.clone()).collect(),
        code,
    }
}

/// What a run that has ended came to. `value` is what it returned, where that is at hand; else what was kept of it.
pub fn result(run: &ScriptRun, value: Option<Box<RawValue>>) -> InvokeResult {
    let RunDoc { error, in_flight, .. } = RunDoc::read(&run.doc);
    let lines = record::logs(run);
    let (error, error_name, stack) =
        error.map(|failure| (failure.message, failure.name, failure.stack)).map_or((None, None, None), |(a, b, c)| (Some(a), Some(b), c));
    InvokeResult {
        ok: run.status == RunStatus::Succeeded,
        value: value.or_else(|| raw(run.output.as_deref())),
        logs: lines.iter().map(|line| line.text.clone()).collect(),
        error,
        error_name,
        stack,
        code: run.error_code.clone(),
        duration_ms: ms(run.duration_us.unwrap_or_default()),
        log_entries: lines.into_iter().map(line).collect(),
        in_flight,
        provider: run.provider.clone(),
        run_id: run.id.clone(),
        version: run.version,
    }
}

/// A call that nobody waited for, for one who is no admin.
pub(crate) fn invocation(run: &ScriptRun, sight: Sight) -> InvocationView {
    InvocationView {
        id: run.id.clone(),
        status: run.status.as_str(),
        created_at: rfc3339(run.created_at_ms),
        finished_at: run.finished_at_ms.map(rfc3339),
        result: matches!(run.status, RunStatus::Succeeded | RunStatus::Failed).then(|| result(run, None).seen_by(sight)),
    }
}

/// A run; `is_whole` if all that is large was read with it.
pub fn run(run: ScriptRun, is_whole: bool) -> RunView {
    let doc = RunDoc::read(&run.doc);
    let recording = record::recording(&run);
    let (error, error_name, stack) = doc.error.map_or((None, None, None), |failure| (Some(failure.message), Some(failure.name), failure.stack));
    let logs = (is_whole || run.logs.is_some()).then(|| record::logs(&run).into_iter().map(line).collect());
    RunView {
        ok: match run.status {
            RunStatus::Succeeded => Some(true),
            RunStatus::Failed => Some(false),
            RunStatus::Queued | RunStatus::Running => None,
        },
        function_id: run.script_id,
        function: run.script_name,
        version: run.version,
        trigger: run.trigger.as_str(),
        status: run.status.as_str(),
        code: run.error_code,
        error,
        error_name,
        stack,
        provider: run.provider,
        created_at: rfc3339(run.created_at_ms),
        started_at: run.started_at_ms.map(rfc3339),
        finished_at: run.finished_at_ms.map(rfc3339),
        duration_ms: run.duration_us.map(ms),
        cpu_ms: run.cpu_us.map(ms),
        peak_memory_bytes: run.peak_memory_bytes,
        attempt: doc.attempt,
        hash: doc.hash,
        job_id: doc.job_id,
        replay_of: doc.replay_of,
        subject: subject(doc.subject),
        in_flight: doc.in_flight,
        input: is_whole.then(|| raw(Some(&run.input))).flatten(),
        output: raw(run.output.as_deref()),
        logs,
        ops: is_whole.then(|| recording.map(|recording| recording.ops.into_iter().map(op).collect()).unwrap_or_default()),
        id: run.id,
    }
}

fn subject(subject: Subject) -> SubjectView {
    let Subject { user_id, email, roles } = subject;
    SubjectView { user_id, email, roles }
}

fn op(record: OpRecord) -> OpView {
    let OpRecord { op, args, asked_us, answer, .. } = record;
    let (took_ms, value, error) =
        answer.map_or((None, None, None), |answer| (Some(answer.took_us as f64 / 1e3), answer.value, answer.error.map(|error| error.message)));
    OpView { op: op.as_str(), args, asked_ms: asked_us as f64 / 1e3, took_ms, value, error }
}

fn line(line: LogLine) -> LogView {
    LogView { level: line.level, at: rfc3339(line.at_ms), text: line.text }
}

fn raw(text: Option<&str>) -> Option<Box<RawValue>> {
    RawValue::from_string(text?.to_owned()).ok()
}

fn ms(us: i64) -> f64 {
    us as f64 / 1e3
}
