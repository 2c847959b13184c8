//! Processes, files and logs of a sandbox over HTTP.

/// Bytes of a request that carries code or input for a process.
pub const INPUT_BODY_MAX_BYTES: usize = 16 << 20;
/// Bytes of a file that is written in one request.
pub const FILE_MAX_BYTES: u64 = 10 << 30;
/// Bytes of a file that is read as JSON (base64) instead of as bytes.
pub const FILE_JSON_MAX_BYTES: usize = 32 << 20;
/// Folders that one WebSocket watches at once.
pub const WATCHES_PER_SOCKET_MAX: usize = 64;
/// Bytes of one text frame to a client; Python's websockets refuses 1 MiB, other clients less.
pub const WS_FRAME_MAX_BYTES: usize = 64 << 10;
/// Lines of a text log when the client names no number.
pub const LOG_TAIL_LINES_DEFAULT: usize = 200;
/// Lines of a text log.
pub const LOG_TAIL_LINES_MAX: usize = 5000;
/// Bytes of a text log that is not followed, when the client names no number.
pub const LOG_BYTES_DEFAULT: usize = 1 << 20;
/// Bytes of a text log that is not followed.
pub const LOG_BYTES_MAX: usize = 8 << 20;
/// Lines of one page of the structured log.
pub const LOG_PAGE_MAX: u32 = 1000;
/// Lines of one page of the structured log when the client names no number.
pub const LOG_PAGE_DEFAULT: u32 = 200;
/// Flows of one page of a sandbox's network events; more than a runtime keeps.
pub const NETWORK_EVENTS_PAGE_MAX: u32 = 2048;
/// Flows of one page when the client names no number.
pub const NETWORK_EVENTS_PAGE_DEFAULT: u32 = 200;
/// Logs that are read from disk at once; more readers wait.
pub const LOG_READS_MAX: usize = 8;
/// Seconds within which the next bytes of a request's JSON body must come.
pub const BODY_IDLE_MAX_S: u64 = 30;
/// Bytes of one argument of a command (the kernel takes 128 KiB with the end).
pub const ARGUMENT_MAX_BYTES: usize = (128 << 10) - 1;
/// Bytes of all arguments of a command.
pub const ARGUMENTS_TOTAL_MAX_BYTES: usize = 1 << 20;
