//! Limits of deploying apps: what is taken in, what a build may do, and what is kept.

// --- Source ---------------------------------------------------------------------------------------------------------

/// Bytes of an archive with the source of an app, as it is sent.
pub const APP_SOURCE_ARCHIVE_MAX_BYTES: u64 = 256 << 20;
/// Bytes of its files, unpacked.
pub const APP_SOURCE_MAX_BYTES: u64 = 1 << 30;
/// Files, folders and links of a source.
pub const APP_SOURCE_ENTRIES_MAX: u64 = 100_000;
/// Characters of the message of a version.
pub const APP_MESSAGE_MAX_CHARS: usize = 1000;

// --- Builds ---------------------------------------------------------------------------------------------------------

/// Seconds that a build may take, and of it the time that probes may wait for an answer.
pub const APP_BUILD_MAX_S: u64 = 3600;
pub const APP_PROBE_MAX_S: u64 = 120;
/// Builds at once on this server; more wait.
pub const APP_BUILDS_AT_ONCE_MAX: usize = 4;
/// Bytes of the log of a build; what is printed after that is counted and left out.
pub const APP_BUILD_LOG_MAX_BYTES: u64 = 4 << 20;
/// Bytes of a log that one answer holds.
pub const APP_LOG_READ_MAX_BYTES: u64 = 256 << 10;
/// Lines, and bytes, of a command's output that tell why a build failed.
pub const APP_REASON_LINES_MAX: usize = 20;
pub const APP_REASON_MAX_BYTES: usize = 4 << 10;

// --- Kept -----------------------------------------------------------------------------------------------------------

/// Apps of one team.
pub const APPS_PER_TEAM_MAX: usize = 1000;
/// Versions of one app; older ones that nobody needs make room for new ones.
pub const APP_VERSIONS_MAX: usize = 20;
/// What setups left, of one team; the one that was not used for the longest time makes room.
pub const APP_SETUPS_PER_TEAM_MAX: usize = 50;
/// Milliseconds after which such a one is not kept for a next build any more.
pub const APP_SETUP_UNUSED_MAX_MS: i64 = 14 * 86_400_000;
/// Seconds that the sandbox of an app may take to end before it is tried again.
pub const APP_SANDBOX_END_MAX_S: u64 = 60;
/// Bytes of a value that an app is given for a variable, and of the body of a request that gives such.
pub const APP_ENV_VALUE_MAX_BYTES: usize = 32 << 10;
pub const APP_ENV_BODY_MAX_BYTES: usize = 1 << 20;
/// Variables that an app is given.
pub const APP_ENV_MAX: usize = 100;
/// Former values that are still taken out of what is printed: of a variable, and of all of an app.
pub const APP_ENV_FORMER_OF_NAME_MAX: usize = 8;
pub const APP_ENV_FORMER_MAX: usize = 200;
