//! What scripts are owed: events, runs that nobody waits for, schedules.

/// Bytes of a pattern of events, and of channel and event of one.
pub const SCRIPT_PATTERN_MAX_BYTES: usize = 256;
/// Segments of these.
pub const SCRIPT_TARGET_SEGMENTS_MAX: usize = 16;
/// Bytes of the pattern of a schedule.
pub const SCRIPT_CRON_MAX_BYTES: usize = 256;
/// Bytes of the data of an event that a client publishes, as JSON.
pub const SCRIPT_EVENT_DATA_MAX_BYTES: usize = 256 << 10;
/// Scripts that an event came through, from which on no more scripts are told of it: a loop ends here.
pub const SCRIPT_EVENT_DEPTH_MAX: u32 = 8;
/// Runs of one team's scripts that wait, and bytes of their input; what would make more is refused.
pub const SCRIPT_JOBS_WAITING_MAX: usize = 100_000;
pub const SCRIPT_JOBS_WAITING_MAX_BYTES: usize = 256 << 20;
/// Runs that nobody waits for, at once: in all, and of one team.
pub const SCRIPT_JOBS_AT_ONCE_MAX: usize = 64;
pub const SCRIPT_JOBS_AT_ONCE_PER_TEAM_MAX: usize = 16;
/// Tries of one run that may be asked for.
pub const SCRIPT_ATTEMPTS_MAX: u32 = 20;
/// Seconds within which it may be tried again.
pub const SCRIPT_RETRY_AGE_MAX_S: u32 = 7 * 86_400;
/// Milliseconds until a run is tried again for the first time; from there on four times as long each.
pub const SCRIPT_BACKOFF_MS: i64 = 2000;
/// Milliseconds between two tries at most.
pub const SCRIPT_BACKOFF_MAX_MS: i64 = 3_600_000;
/// Times that the end of the server may interrupt one run before it is given up: it may be the cause.
pub const SCRIPT_INTERRUPTIONS_MAX: u32 = 20;
/// Milliseconds that events and what became of runs that were owed can be read; dead letters for longer.
pub const SCRIPT_JOBS_KEPT_MS: i64 = 7 * 86_400_000;
pub const SCRIPT_DEAD_LETTERS_KEPT_MS: i64 = 90 * 86_400_000;
/// Dead letters of one team, and bytes of their inputs; beyond it the oldest go.
pub const SCRIPT_DEAD_LETTERS_PER_TEAM_MAX: usize = 50_000;
pub const SCRIPT_DEAD_LETTERS_PER_TEAM_MAX_BYTES: usize = 256 << 20;
/// Of one script in one state; beyond it the oldest go.
pub const SCRIPT_JOBS_KEPT_MAX: usize = 20_000;
/// Events of one team.
pub const SCRIPT_EVENTS_KEPT_MAX: usize = 100_000;
/// See [`SCRIPT_EVENTS_KEPT_MAX`].
pub const SCRIPT_EVENTS_KEPT_MAX_BYTES: usize = 256 << 20;
/// Ticks of one schedule.
pub const SCRIPT_TICKS_KEPT_MAX: usize = 20_000;
/// Runs of one schedule that wait for the one before.
pub const SCRIPT_SCHEDULE_QUEUE_MAX: usize = 100;
/// Missed ticks that are made up for at once.
pub const SCRIPT_MISSED_RUNS_MAX: u32 = 100;
/// Seconds by which a tick may be put off.
pub const SCRIPT_JITTER_MAX_S: u32 = 3600;
/// Active schedules of a team that come more often than once a minute.
pub const SCRIPT_SCHEDULES_BY_SECONDS_MAX: usize = 50;
/// Milliseconds after which a tick that did not fire counts as missed.
pub const SCRIPT_TICK_GRACE_MS: i64 = 10_000;
