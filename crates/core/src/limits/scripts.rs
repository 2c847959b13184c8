//! Script functions, their calls and what is kept of these.

/// Scripts of one team.
pub const SCRIPTS_PER_TEAM_MAX: usize = 1000;
/// Characters of a script's name.
pub const SCRIPT_NAME_MAX_CHARS: usize = 64;
/// Bytes of a script's source.
pub const SCRIPT_CODE_MAX_BYTES: usize = 1 << 20;
/// Bytes of the body of a request that holds a script: its source escaped at its worst, and all else.
pub const SCRIPT_BODY_MAX_BYTES: usize = 8 << 20;
/// Milliseconds that a call may take.
pub const SCRIPT_TIMEOUT_MIN_MS: u32 = 50;
/// See [`SCRIPT_TIMEOUT_MIN_MS`].
pub const SCRIPT_TIMEOUT_MAX_MS: u32 = 60_000;
/// Milliseconds that a call may take when its script names no number.
pub const SCRIPT_TIMEOUT_DEFAULT_MS: u32 = 5000;
/// MiB of memory that a call may have.
pub const SCRIPT_MEMORY_MIN_MB: u32 = 16;
/// See [`SCRIPT_MEMORY_MIN_MB`].
pub const SCRIPT_MEMORY_MAX_MB: u32 = 512;
/// MiB of memory that a call may have when its script names no number.
pub const SCRIPT_MEMORY_DEFAULT_MB: u32 = 64;
/// Calls of one script at once.
pub const SCRIPT_CONCURRENCY_MAX: u32 = 100;
/// Calls of one script at once when it names no number.
pub const SCRIPT_CONCURRENCY_DEFAULT: u32 = 10;
/// Calls of all scripts of a team at once.
pub const SCRIPT_CONCURRENCY_PER_TEAM_MAX: usize = 128;
/// Calls of one script that wait until another ends.
pub const SCRIPT_WAITING_MAX: usize = 64;
/// Milliseconds that a call waits so.
pub const SCRIPT_WAITING_MAX_MS: u64 = 2000;
/// Bytes of the JSON that a call is given.
pub const SCRIPT_INPUT_MAX_BYTES: usize = 6 << 20;
/// Bytes of the JSON that a call returns.
pub const SCRIPT_OUTPUT_MAX_BYTES: usize = 6 << 20;
/// Lines that a call logs; what comes after them is dropped, and a line says so.
pub const SCRIPT_LOG_LINES_MAX: usize = 1000;
/// Bytes of these.
pub const SCRIPT_LOG_MAX_BYTES: usize = 256 << 10;
/// Ops of one call that wait for their answer at once.
pub const SCRIPT_OPS_PENDING_MAX: usize = 64;
/// Ops of one call.
pub const SCRIPT_OPS_MAX: usize = 1000;
/// Capabilities that a script may list.
pub const SCRIPT_CAPABILITIES_MAX: usize = 64;
/// Entries of a script's own allow list.
pub const SCRIPT_OWN_FETCH_ALLOW_MAX: usize = 64;
/// Bytes of one of them.
pub const SCRIPT_OWN_FETCH_ALLOW_MAX_BYTES: usize = 255;
/// Seconds of lateness after which a tick is skipped.
pub const SCRIPT_STARTING_DEADLINE_MAX_S: u32 = 7 * 86_400;
/// Versions of one script; the oldest that no alias names make room.
pub const SCRIPT_VERSIONS_MAX: usize = 200;
/// Aliases of one script.
pub const SCRIPT_ALIASES_MAX: usize = 32;
/// Secrets of one script.
pub const SCRIPT_SECRETS_MAX: usize = 64;
/// Characters of a secret's name.
pub const SCRIPT_SECRET_NAME_MAX_CHARS: usize = 64;
/// Bytes of a secret. A shorter one could not be kept out of logs without spoiling them.
pub const SCRIPT_SECRET_MIN_BYTES: usize = 4;
/// See [`SCRIPT_SECRET_MIN_BYTES`].
pub const SCRIPT_SECRET_MAX_BYTES: usize = 16 << 10;
/// Keys of one script.
pub const SCRIPT_KEYS_MAX: usize = 100;
/// Milliseconds that a run is kept.
pub const SCRIPT_RUN_KEPT_MS: i64 = 30 * 86_400_000;
/// Runs of one script that are kept.
pub const SCRIPT_RUNS_PER_SCRIPT_MAX: usize = 10_000;
/// Bytes of the runs of a team that are kept; the oldest go first.
pub const SCRIPT_RUNS_PER_TEAM_BYTES_MAX: usize = 512 << 20;
/// Calls of one script that nobody waits for and that have not ended.
pub const SCRIPT_ASYNC_PENDING_MAX: usize = 10_000;
/// Processes of Bun at once: one for each team that runs trusted scripts in it.
pub const SCRIPT_BUN_PROCESSES_MAX: usize = 8;
/// Characters of an idempotency key.
pub const IDEMPOTENCY_KEY_MAX_CHARS: usize = 255;
/// Milliseconds for which it is remembered.
pub const IDEMPOTENCY_KEPT_MS: i64 = 86_400_000;
