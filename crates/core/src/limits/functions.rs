//! Functions that are published: revisions, aliases, instances.

/// Functions of one team, those that were deleted not counted.
pub const FUNCTIONS_PER_TEAM_MAX: usize = 1000;
/// Revisions of one function.
pub const REVISIONS_PER_FUNCTION_MAX: usize = 500;
/// Aliases of one function.
pub const ALIASES_PER_FUNCTION_MAX: usize = 32;
/// Revisions that one alias divides its requests among.
pub const ALIAS_WEIGHTS_MAX: usize = 8;
/// The largest weight of one of them.
pub const ALIAS_WEIGHT_MAX: i64 = 1000;
/// Requests that wait for an instance of one revision.
pub const FUNCTION_WAITING_MAX: usize = 1000;
/// Instances of one revision that are being started at a time.
pub const FUNCTION_STARTS_MAX: usize = 2;
/// Seconds within which an instance has started and is ready, or has failed.
pub const FUNCTION_START_MAX_S: u64 = 60;
/// Seconds within which a revision has to show that it is ready before an alias moves to it: longer than a start takes at most.
pub const FUNCTION_PROOF_MAX_S: u64 = FUNCTION_START_MAX_S + 5;
/// Seconds within which the sandbox that a revision was published from serves it, or the revision serves itself.
pub const FUNCTION_SOURCE_UP_MAX_S: u64 = 15;
/// Seconds for which the end of an instance is waited for before it is tried again.
pub const FUNCTION_REMOVE_MAX_S: u64 = 60;
/// Seconds for which what still runs in an instance that is to go, or in a deleted source, is waited for.
pub const FUNCTION_DRAIN_MAX_S: u64 = 300;
/// Seconds for which a deleted sandbox that served a function goes on until its requests have moved or ended.
pub const FUNCTION_LINGER_MAX_S: u64 = 30;
/// Seconds after a failed start within which nobody tries again: at first, doubling with each failure.
pub const FUNCTION_BACKOFF_MIN_S: u64 = 1;
/// The longest of them.
pub const FUNCTION_BACKOFF_MAX_S: u64 = 60;
/// Seconds that idle instances of a revision are kept that no alias names any more.
pub const FUNCTION_INACTIVE_KEEP_S: u64 = 60;
/// Events that are kept of one function.
pub const FUNCTION_EVENTS_MAX: i64 = 50;
/// Events that stand in the state of a function's runtime.
pub const FUNCTION_EVENTS_SHOWN: usize = 20;
/// Bytes of what a client says about where a revision came from, as JSON.
pub const PROVENANCE_MAX_BYTES: usize = 16 << 10;
/// Functions whose aliases and revisions are kept in memory.
pub const FUNCTIONS_CACHED_MAX: usize = 10_000;
/// Bytes of their documents, about.
pub const FUNCTIONS_CACHED_MAX_BYTES: usize = 128 << 20;
