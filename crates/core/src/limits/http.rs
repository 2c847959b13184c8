//! Requests to the API, and lists.

/// Bytes of a JSON request body.
pub const JSON_BODY_MAX_BYTES: usize = 4 << 20;
/// Bytes of the body of a request that holds a template.
pub const TEMPLATE_BODY_MAX_BYTES: usize = 1 << 20;
/// Bytes of the body of a request that anybody may send, without a token.
pub const LOGIN_BODY_MAX_BYTES: usize = 16 << 10;
/// WebSockets at once; they do not count among the connections that are being answered.
pub const WEBSOCKETS_MAX: usize = 4096;
/// Rows of one page of a list.
pub const LIST_LIMIT_MIN: u32 = 1;
/// Rows of one page of a list.
pub const LIST_LIMIT_MAX: u32 = 200;
/// Rows of one page when the client names no number.
pub const LIST_LIMIT_DEFAULT: u32 = 50;
/// Rows that a list can be made to skip.
pub const LIST_OFFSET_MAX: u32 = i32::MAX as u32;
