//! Events of sandboxes, and how they are delivered.

/// Milliseconds until an event is tried again for the first time; from there on it doubles.
pub const WEBHOOK_BACKOFF_MS: i64 = 500;
/// Milliseconds between two tries at most.
pub const WEBHOOK_BACKOFF_MAX_MS: i64 = 300_000;
/// Milliseconds that a receiver may make us wait by `Retry-After`.
pub const WEBHOOK_RETRY_AFTER_MAX_MS: i64 = 3_600_000;
/// Milliseconds after which an event is given up.
pub const WEBHOOK_WINDOW_MS: i64 = 86_400_000;
/// Milliseconds within which a receiver has to answer.
pub const WEBHOOK_TRY_MAX_MS: u64 = 5000;
/// Bytes of a receiver's answer that are kept for the log.
pub const WEBHOOK_ANSWER_MAX_BYTES: usize = 4096;
/// Tries at once, of one receiver for one team, of one team, and in all.
pub const WEBHOOK_TRIES_PER_RECEIVER_MAX: usize = 8;
pub const WEBHOOK_TRIES_PER_TEAM_MAX: usize = 32;
pub const WEBHOOK_TRIES_MAX: usize = 256;
/// Events of one sandbox that wait; beyond it the oldest from inside are given up, never those of its lifecycle.
pub const WEBHOOK_PENDING_MAX: usize = 1000;
/// Bytes of all events of one sandbox that wait.
pub const WEBHOOK_PENDING_MAX_BYTES: usize = 16 << 20;
/// Events of its lifecycle that one sandbox may have waiting, after which the oldest go all the same.
pub const WEBHOOK_LIFECYCLE_PENDING_MAX: usize = 10_000;
/// Events of one sandbox that are done with and can still be read.
pub const WEBHOOK_KEPT_MAX: usize = 1000;
/// Bytes of these.
pub const WEBHOOK_KEPT_MAX_BYTES: usize = 16 << 20;
/// Events of one team's sandboxes in one state (waiting, delivered, failed); beyond it the oldest go, whatever they are:
/// sandboxes come and go faster than a dead receiver comes back.
pub const WEBHOOK_TEAM_MAX: usize = 100_000;
/// Bytes of these.
pub const WEBHOOK_TEAM_MAX_BYTES: usize = 1 << 30;
/// Milliseconds that they can be read.
pub const WEBHOOK_KEPT_MAX_MS: i64 = 7 * 86_400_000;
/// Bytes of the id that a program gives its event.
pub const WEBHOOK_EVENT_ID_MAX_BYTES: usize = 128;
/// Bytes of the payload of an event that a program publishes.
pub const WEBHOOK_PAYLOAD_MAX_BYTES: usize = 256 << 10;
/// Bytes of each field of a process's event.
pub const WEBHOOK_FIELD_MAX_BYTES: usize = 4096;
/// Bytes of what a process printed that its last event shows, of each stream.
pub const WEBHOOK_PREVIEW_MAX_BYTES: usize = 1024;
/// Events from inside that one sandbox may have in a row, and from there on each second.
pub const WEBHOOK_INSIDE_BURST: u32 = 500;
pub const WEBHOOK_INSIDE_PER_SECOND: u32 = 50;
/// Changes of files that are told of one burst.
pub const WEBHOOK_BURST_FILES_MAX: usize = 256;
