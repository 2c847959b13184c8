//! What scripts ask of the server: `ctx.fetch`, mail, executors.

/// Entries of a list of hosts that `ctx.fetch` may ask.
pub const SCRIPT_FETCH_ALLOW_MAX: usize = 256;
/// Characters of a URL that stand in a message.
pub const SCRIPT_URL_SHOWN_MAX_CHARS: usize = 300;
/// Bytes of a URL.
pub const SCRIPT_URL_MAX_BYTES: usize = 8192;
/// Redirects that are followed.
pub const SCRIPT_FETCH_REDIRECTS_MAX: usize = 5;
/// Bytes of what is sent, and of what is answered.
pub const SCRIPT_FETCH_BODY_MAX_BYTES: usize = 6 << 20;
pub const SCRIPT_FETCH_ANSWER_MAX_BYTES: usize = 10 << 20;
/// Headers that a script sends, and that it is shown of an answer; bytes of names and values of these.
pub const SCRIPT_FETCH_HEADERS_MAX: usize = 64;
pub const SCRIPT_FETCH_HEADERS_MAX_BYTES: usize = 32 << 10;
pub const SCRIPT_FETCH_ANSWER_HEADERS_MAX: usize = 256;
/// Requests at once, of one team and in all.
pub const SCRIPT_FETCHES_PER_TEAM_MAX: usize = 64;
pub const SCRIPT_FETCHES_MAX: usize = 512;
/// Milliseconds of one request, whatever the run's deadline is.
pub const SCRIPT_FETCH_MAX_MS: u64 = 60_000;

/// People that one mail goes to.
pub const SCRIPT_MAIL_RECIPIENTS_MAX: usize = 50;
/// Bytes of a subject, and of text and HTML each.
pub const SCRIPT_MAIL_SUBJECT_MAX_BYTES: usize = 998;
pub const SCRIPT_MAIL_BODY_MAX_BYTES: usize = 1 << 20;
/// Mails that are sent at once, of one team and in all.
pub const SCRIPT_MAILS_PER_TEAM_MAX: usize = 4;
pub const SCRIPT_MAILS_MAX: usize = 16;
/// Mails that the scripts of a team send within an hour.
pub const SCRIPT_MAILS_PER_TEAM_HOUR_MAX: u32 = 1000;
/// Seconds within which an SMTP server has to answer.
pub const SCRIPT_MAIL_TIMEOUT_S: u64 = 20;
/// Mails of one team that are kept where no SMTP server is set, and bytes of these; beyond it the oldest go.
pub const OUTBOX_MAX: usize = 1000;
pub const OUTBOX_MAX_BYTES: u64 = 256 << 20;

/// Calls at an executor at once, of one team and in all.
pub const SCRIPT_REMOTE_CALLS_PER_TEAM_MAX: usize = 64;
pub const SCRIPT_REMOTE_CALLS_MAX: usize = 256;
/// Bytes of what an executor answers.
pub const SCRIPT_REMOTE_ANSWER_MAX_BYTES: usize = 16 << 20;
/// Bytes of what an executor is sent: code, input, and what JSON makes of them.
pub const SCRIPT_REMOTE_CALL_MAX_BYTES: usize = 16 << 20;
/// Bytes of what an executor asks for, and of the answer.
pub const SCRIPT_RPC_MAX_BYTES: usize = 8 << 20;
pub const SCRIPT_RPC_ANSWER_MAX_BYTES: usize = 34 << 20;
/// Milliseconds that a call's grant outlives its deadline.
pub const SCRIPT_GRANT_GRACE_MS: u64 = 3000;
