//! What is kept of a run besides its columns.

use sandbar_scripts::{Failure, LogLine, Recording};
use sandbar_store::{RunStatus, ScriptRun};
use serde::{Deserialize, Serialize};

use super::{Ask, Subject};

/// The small rest of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunDoc {
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    pub subject: Subject,
    #[serde(default)]
    pub depth: u32,
    #[serde(default = "first")]
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// The run that it is a replay of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
    /// Of the code.
    #[serde(default)]
    pub hash: String,
    /// Ops that had no answer when the run ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<String>,
}

fn first() -> u32 {
    1
}

impl RunDoc {
    pub fn of(ask: &Ask) -> Self {
        Self {
            subject: ask.subject.clone(),
            depth: ask.depth,
            attempt: ask.attempt,
            job_id: ask.job_id.clone(),
            hash: ask.version.hash.clone(),
            ..Self::default()
        }
    }

    /// What was kept; a run whose rest cannot be read is shown without it.
    pub fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

/// A run that has not ended.
pub(crate) fn begun(ask: &Ask, status: RunStatus, now_ms: i64) -> ScriptRun {
    ScriptRun {
        id: ask.run_id.clone(),
        team_id: ask.script.team_id.clone(),
        script_id: ask.script.id.clone(),
        script_name: ask.script.name.clone(),
        version: ask.version.number,
        trigger: ask.trigger,
        status,
        error_code: None,
        provider: None,
        created_at_ms: now_ms,
        started_at_ms: (status == RunStatus::Running).then_some(now_ms),
        finished_at_ms: None,
        duration_us: None,
        cpu_us: None,
        peak_memory_bytes: None,
        doc: RunDoc::of(ask).text(),
        input: ask.data.get().to_owned(),
        output: None,
        logs: None,
        recording: None,
    }
}

/// The same run without its largest texts, for whoever has no need of them.
pub(super) fn without_texts(run: &mut ScriptRun) -> ScriptRun {
    let (input, output, recording) = (std::mem::take(&mut run.input), run.output.take(), run.recording.take());
    let small = run.clone();
    (run.input, run.output, run.recording) = (input, output, recording);
    small
}

/// A run without what is large of it, for a disk that has next to no room.
pub(crate) fn small(run: ScriptRun) -> ScriptRun {
    ScriptRun { output: None, logs: None, recording: None, ..run }
}

/// The lines that a run logged.
pub(crate) fn logs(run: &ScriptRun) -> Vec<LogLine> {
    run.logs.as_deref().and_then(|logs| serde_json::from_str(logs).ok()).unwrap_or_default()
}

/// What it asked for.
pub(crate) fn recording(run: &ScriptRun) -> Option<Recording> {
    serde_json::from_str(run.recording.as_deref()?).ok()
}
