//! Limits of what is kept up in apps.

/// Lines of the end of a log that go with a failure.
pub const LOG_TAIL_LINES_MAX: usize = 100;
/// Characters of one of them.
pub const LOG_TAIL_LINE_MAX_CHARS: usize = 1000;
/// Former processes of one entry whose lines are found in the log.
pub const PROCESSES_REMEMBERED_MAX: usize = 16;
/// Bytes of a log that one reply holds.
pub const LOG_REPLY_MAX_BYTES: usize = 1 << 20;
/// Seconds that a process is given to end by itself.
pub const STOP_GRACE_S: u64 = 10;
/// Seconds that a request waits for an app to be ready.
pub const WAIT_MAX_S: u64 = 3600;
