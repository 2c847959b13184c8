//! Previews of sandboxes' ports.

/// Seconds for which a preview is good, at least, at most, and when its maker names no number.
pub const PREVIEW_TTL_MIN_S: i64 = 30;
/// See [`PREVIEW_TTL_MIN_S`].
pub const PREVIEW_TTL_MAX_S: i64 = 3600;
/// See [`PREVIEW_TTL_MIN_S`].
pub const PREVIEW_TTL_DEFAULT_S: i64 = 900;
/// Previews of one sandbox that are good at once.
pub const PREVIEWS_PER_SANDBOX_MAX: usize = 64;
/// Bytes of the path that a preview opens.
pub const PREVIEW_PATH_MAX_BYTES: usize = 2048;
/// Previews whose rows are kept in memory.
pub const PREVIEWS_KNOWN_MAX: usize = 4096;
