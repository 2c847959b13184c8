//! Functions of a sandbox: handlers that it runs, and calls of them.

/// Characters of a function's name.
pub const FUNCTION_NAME_MAX_CHARS: usize = 128;
/// Characters of the name of a handler.
pub const FUNCTION_HANDLER_MAX_CHARS: usize = 256;
/// Characters of the method that a handler is told.
pub const FUNCTION_METHOD_MAX_CHARS: usize = 32;
/// Bytes of the path that a handler is told.
pub const FUNCTION_PATH_MAX_BYTES: usize = 8192;
/// Bytes of a request for a function: of the JSON of a call, of the body of a request to a service.
pub const FUNCTION_REQUEST_MAX_BYTES: usize = 8 << 20;
/// Bytes of the body of a function's reply that does not come in its own time, and of one message of its WebSocket.
pub const FUNCTION_REPLY_MAX_BYTES: usize = 4 << 20;
/// Values of all headers of a function's reply to a request from outside.
pub const FUNCTION_HEADERS_MAX: usize = 1000;
/// Milliseconds that a call may take when it names no number.
pub const FUNCTION_TIMEOUT_DEFAULT_MS: u64 = 30_000;
/// Milliseconds that a call may take.
pub const FUNCTION_TIMEOUT_MAX_MS: u64 = 120_000;
/// Calls of one sandbox whose result is kept, and calls that are under way so.
pub const INVOCATIONS_PER_SANDBOX_MAX: usize = 100;
/// Calls of one sandbox that nobody waits for.
pub const INVOCATIONS_RUNNING_MAX: usize = 64;
/// Milliseconds for which a result is kept.
pub const INVOCATION_KEPT_MS: i64 = 24 * 3_600_000;
/// Bytes of a kept result.
pub const INVOCATION_RESULT_MAX_BYTES: usize = 1 << 20;
/// Bytes of all kept results of a team; the oldest go first.
pub const INVOCATION_RESULTS_PER_TEAM_BYTES_MAX: usize = 256 << 20;
/// Calls of one function in a sandbox that names no number itself, from the first byte of a request on.
pub const FUNCTION_CALLS_MAX: usize = 64;
/// Bytes of requests to handlers that the server holds at once, in all and for one sandbox.
pub const FUNCTION_REQUESTS_BYTES_MAX: usize = 256 << 20;
/// See [`FUNCTION_REQUESTS_BYTES_MAX`].
pub const FUNCTION_REQUESTS_PER_SANDBOX_BYTES_MAX: usize = 64 << 20;
/// WebSockets of handlers at once, in all and of one sandbox.
pub const FUNCTION_SOCKETS_MAX: usize = 4096;
/// See [`FUNCTION_SOCKETS_MAX`].
pub const FUNCTION_SOCKETS_PER_SANDBOX_MAX: usize = 128;
