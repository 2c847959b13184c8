//! Every execution of a script.

use sandbar_core::script::RunTrigger;

/// An execution. Texts are JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptRun {
    pub id: String,
    pub team_id: String,
    pub script_id: String,
    pub script_name: String,
    pub version: u32,
    pub trigger: RunTrigger,
    pub status: RunStatus,
    /// Of a failed one.
    pub error_code: Option<String>,
    pub provider: Option<String>,
    pub created_at_ms: i64,
    pub started_at_ms: Option<i64>,
    pub finished_at_ms: Option<i64>,
    pub duration_us: Option<i64>,
    pub cpu_us: Option<i64>,
    pub peak_memory_bytes: Option<i64>,
    /// All else that is small: error, subject, attempt, job, event, replayed run.
    pub doc: String,
    /// These four are not in lists.
    pub input: String,
    pub output: Option<String>,
    pub logs: Option<String>,
    pub recording: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    /// Nobody waits for it, and it has not begun.
    Queued,
    Running,
    Succeeded,
    Failed,
}

impl RunStatus {
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}
