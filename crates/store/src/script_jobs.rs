//! Runs that are owed: of events, of schedules, and calls that nobody waits for. At least once each, and never twice to
//! success: what came of a run and what becomes of its job are one commit.

/// A run that is owed.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptJob {
    pub id: String,
    pub team_id: String,
    pub script_id: String,
    pub version: u32,
    pub kind: JobKind,
    /// The event's id, the tick's moment, or the run's id: with script, kind and version there is one job for it.
    pub source: String,
    pub state: JobState,
    pub run_at_ms: i64,
    pub attempts: u32,
    pub give_up_at_ms: i64,
    /// How many scripts it came through.
    pub depth: u32,
    /// JSON: what `ctx.data` will be.
    pub input: String,
    /// JSON: in whose name.
    pub subject: String,
    pub last_run_id: Option<String>,
    pub last_error: Option<String>,
    pub created_at_ms: i64,
    pub finished_at_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    Event,
    Cron,
    /// A call that nobody waits for; its run has the job's source as its id.
    Async,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    Pending,
    Running,
    Succeeded,
    /// Given up: a dead letter.
    Dead,
    /// Not wanted any more: its script is gone or inactive, or another tick replaced it.
    Dropped,
}

/// What becomes of a job after a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    Succeeded,
    Retry { at_ms: i64 },
    Dead,
    Dropped,
}

impl JobKind {
    pub const ALL: [Self; 3] = [Self::Event, Self::Cron, Self::Async];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Cron => "cron",
            Self::Async => "async",
        }
    }
}

impl JobState {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Succeeded, Self::Dead, Self::Dropped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
        }
    }
}

/// Ends a job by what came of a run of it.
pub(crate) fn end_job(c: &rusqlite::Connection, job_id: &str, end: &JobEnd, run_id: &str, error: Option<&str>, now_ms: i64) -> Result<(), crate::StoreError> {
    let (state, run_at_ms) = match end {
        JobEnd::Succeeded => (JobState::Succeeded, None),
        JobEnd::Retry { at_ms } => (JobState::Pending, Some(*at_ms)),
        JobEnd::Dead => (JobState::Dead, None),
        JobEnd::Dropped => (JobState::Dropped, None),
    };
    let sql = "UPDATE script_job SET state = ?2, run_at_ms = coalesce(?3, run_at_ms), last_run_id = ?4, last_error = ?5,
        finished_at_ms = CASE WHEN ?3 IS NULL THEN ?6 END WHERE id = ?1 AND state = 'running'";
    c.prepare_cached(sql)?.execute((job_id, state.as_str(), run_at_ms, run_id, error, now_ms))?;
    Ok(())
}
