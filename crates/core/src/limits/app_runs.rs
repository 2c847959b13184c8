//! Limits of runs of apps: how many, how long, and what of them is kept.

/// Runs at once, in all, when nothing is said; and as many as may be said.
pub const RUNS_AT_ONCE_DEFAULT: u32 = 64;
pub const RUNS_AT_ONCE_MAX: u32 = 1000;
/// Runs of a team that wait.
pub const RUNS_WAITING_PER_TEAM_MAX: usize = 1000;
/// Bytes of the files of a team's runs that have not ended.
pub const RUNS_FILES_PER_TEAM_MAX_BYTES: usize = 512 << 20;
/// Seconds that a run's command may take when its action says nothing.
pub const RUN_TIMEOUT_DEFAULT_S: u64 = 3600;
/// Seconds after the server's own clock at which the agent ends a command by itself.
pub const RUN_TTL_MARGIN_S: u64 = 30;
/// Bytes of a run's input that stand in its environment, too; a longer one is in its file alone.
pub const RUN_INPUT_ENV_MAX_BYTES: usize = 16 << 10;
/// Files that a run may be given, their bytes together, and bytes of the name of one.
pub const RUN_FILES_MAX: usize = 20;
pub const RUN_FILES_MAX_BYTES: usize = 16 << 20;
pub const RUN_FILE_NAME_MAX_BYTES: usize = 255;
/// Bytes of a request for a run as JSON, with its input and its files in base64.
pub const RUN_REQUEST_MAX_BYTES: usize = 24 << 20;
/// Bytes of a run's output that are kept; what follows is dropped.
pub const RUN_LOG_MAX_BYTES: u64 = 16 << 20;
/// Bytes of a log that one request reads.
pub const RUN_LOG_READ_MAX_BYTES: u64 = 1 << 20;
/// Variables that a request may give its run, names and values together in bytes.
pub const RUN_ENV_MAX: usize = 100;
pub const RUN_ENV_MAX_BYTES: usize = 64 << 10;
/// Of a sandbox, runs whose own secret variables are hidden in what it prints: the newest.
pub const RUNS_SEALED_MAX: usize = 200;
/// Artifacts of one run.
pub const RUN_ARTIFACTS_MAX: usize = 200;
/// Bytes of one artifact, and of all of one run.
pub const RUN_ARTIFACT_MAX_BYTES: u64 = 256 << 20;
pub const RUN_ARTIFACTS_MAX_BYTES: u64 = 1 << 30;
/// Folders that are looked into for artifacts, and what is found there.
pub const RUN_ARTIFACT_FOLDERS_MAX: usize = 2000;
pub const RUN_ARTIFACT_ENTRIES_MAX: usize = 50_000;
/// Seconds within which all artifacts have to be fetched.
pub const RUN_ARTIFACTS_WITHIN_S: u64 = 300;
/// Runs of an app that are kept, and for how long.
pub const RUNS_PER_APP_MAX: usize = 1000;
pub const RUN_KEPT_MS: i64 = 30 * 86_400_000;
/// Bytes of logs, artifacts and inputs that are kept: of an app, of a team.
pub const RUNS_PER_APP_MAX_BYTES: u64 = 4 << 30;
pub const RUNS_PER_TEAM_MAX_BYTES: u64 = 16 << 30;
/// Seconds for which a request may wait for its run.
pub const RUN_WAIT_MAX_S: u64 = 600;
/// How often archiving is tried, and milliseconds between two tries of any cleanup: at first, doubled each time up to the second.
pub const RUN_CLEANUP_TRIES_MAX: u32 = 5;
pub const RUN_CLEANUP_PAUSE_MS: i64 = 5_000;
pub const RUN_CLEANUP_PAUSE_MAX_MS: i64 = 600_000;
/// Sandboxes of one schedule that are kept stopped when nothing is said, and as many as may be asked for.
pub const RUN_STOPPED_KEPT_DEFAULT: u32 = 10;
pub const RUN_STOPPED_KEPT_MAX: u32 = 100;
/// Seconds that runs get to end, with their artifacts, when their app is stopped, deleted or replaced.
pub const RUNS_END_WITHIN_S: u64 = 60;
/// What was refused by the network, as far as a run's usage tells it one by one.
pub const RUN_DENIED_MAX: usize = 100;
