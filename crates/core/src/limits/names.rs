//! Names and texts that clients give.

/// Characters of an id that is also a DNS label.
pub const LABEL_MAX_CHARS: usize = 63;
/// Characters of a name given by a user.
pub const NAME_MAX_CHARS: usize = 128;
/// Characters of a longer text given by a user (descriptions, scopes).
pub const TEXT_MAX_CHARS: usize = 1024;
/// Bytes of a path given by a client.
pub const PATH_MAX_BYTES: usize = 4096;
/// Bytes of a URL given by a client.
pub const URL_MAX_BYTES: usize = 2048;
