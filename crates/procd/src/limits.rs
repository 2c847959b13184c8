//! Every bound of the agent, in one place.
use std::time::Duration;

/// Contexts that are kept, running or not; finished ones go first, oldest first.
pub const CONTEXTS_MAX: usize = 1024;
/// Contexts whose process runs.
pub const RUNNING_MAX: usize = 256;
/// Output kept of one stream of a context, bookkeeping included.
pub const STREAM_BYTES_MAX: usize = 4 << 20;
/// Output kept of all contexts together. What readers have still to take may be as much again.
pub const OUTPUT_BYTES_MAX: usize = 32 << 20;
/// What a running context may keep even when all of them together are over their limit.
pub const STREAM_BYTES_MIN: usize = 64 << 10;
/// An output chunk grows up to this size.
pub const CHUNK_BYTES_MAX: usize = 16 << 10;
/// What a chunk costs beside its text.
pub const CHUNK_OVERHEAD_BYTES: usize = 64;
/// One read of a pipe.
pub const READ_BYTES: usize = 64 << 10;
/// How long a process waits for an attached reader that does not read.
pub const READER_STALL_MAX: Duration = Duration::from_secs(10);
/// How long a process waits, from its start on, for the reader that it was started for to attach.
pub const READER_EXPECTED_MAX: Duration = Duration::from_secs(10);
/// How long a finished process's pipes may stay open before it counts as done.
pub const EOF_GRACE: Duration = Duration::from_millis(100);
/// Between SIGTERM and SIGKILL.
pub const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long an end by SIGKILL is waited for.
pub const KILL_GRACE: Duration = Duration::from_secs(2);
/// How long a keeper may take to start its command.
pub const START_MAX: Duration = Duration::from_secs(20);
/// Bodies of JSON requests.
pub const JSON_BYTES_MAX: usize = 16 << 20;
/// Bytes of a refused upload that are read and thrown away before its connection is closed.
pub const DISCARD_BYTES_MAX: usize = 64 << 20;
/// A file of certificates, or of hosts and their keys, that is added to.
pub const TRUST_FILE_BYTES_MAX: u64 = 8 << 20;
/// Head of a request.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Exec calls that wait for their turn in one REPL.
pub const EXEC_QUEUE_MAX: usize = 64;
/// Messages of input that a process has not read yet, and their bytes.
pub const INPUT_MESSAGES_MAX: usize = 64;
pub const INPUT_BYTES_MAX: usize = 16 << 20;
/// Attached readers of one context.
pub const READERS_MAX: usize = 64;
/// Answers that an attached reader has not fetched yet.
pub const READIES_MAX: usize = 1024;
/// Events that are kept.
pub const EVENTS_MAX: usize = 1000;
/// Bytes of events that are sent in one piece, or one event.
pub const EVENT_LINES_BYTES: usize = 256 << 10;
/// Published events that nobody has taken yet, and their bytes.
pub const PUBLISHED_MAX: usize = 256;
pub const PUBLISHED_BYTES_MAX: usize = 4 << 20;
/// Events that programs may publish in a row, and from there on each second.
pub const PUBLISH_BURST: f64 = 256.0;
pub const PUBLISH_PER_SECOND: f64 = 50.0;
/// Programs that publish at once, and how long one may take.
pub const PUBLISH_CONNECTIONS_MAX: usize = 32;
pub const PUBLISH_WITHIN: Duration = Duration::from_secs(30);
/// How often a port is tried again that a program has.
pub const PUBLISH_AGAIN: Duration = Duration::from_secs(2);
/// Bytes of what a process printed that its last event shows, of each stream.
pub const PREVIEW_BYTES_MAX: usize = 1024;
/// Bytes of a command that its event shows.
pub const EVENT_COMMAND_BYTES_MAX: usize = 4096;
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// Between looks at the out-of-memory counter, while processes run.
pub const OOM_POLL: Duration = Duration::from_secs(1);
/// Log text that waits for the disk.
pub const LOG_PENDING_BYTES_MAX: usize = 1 << 20;
/// Connections at once.
pub const CONNECTIONS_MAX: usize = 1024;
/// One step of a file transfer.
pub const FILE_CHUNK_BYTES: usize = 64 << 10;
/// Entries of one directory listing.
pub const LIST_ENTRIES_MAX: usize = 100_000;
/// Directories that one watch follows.
pub const WATCHES_MAX: usize = 8192;
/// Threads for file work, and how long an idle one stays.
pub const IO_THREADS_MAX: usize = 4;
pub const IO_THREAD_IDLE: Duration = Duration::from_secs(5);
pub const IO_STACK_BYTES: usize = 1 << 20;
/// Nesting that a copy across file systems follows.
pub const COPY_DEPTH_MAX: usize = 200;
/// Nesting that a removal keeps open at once; deeper directories are lifted up first.
pub const REMOVE_DEPTH_MAX: usize = 32;
/// Processes for somebody who is connected.
pub const PROCESSES_MAX: usize = 256;
/// How long the streams of such a process may be silent after its end while somebody else holds them.
pub const PROCESS_EOF_GRACE: Duration = Duration::from_secs(10);
/// Between SIGHUP and SIGKILL for a process whose host has gone.
pub const HANGUP_GRACE: Duration = Duration::from_secs(2);
/// Calls of functions at once.
pub const FUNCTION_CALLS_MAX: usize = 64;
/// Processes that keep an imported module for the next call, and how long without one.
pub const ZYGOTES_MAX: usize = 8;
pub const ZYGOTE_IDLE: Duration = Duration::from_secs(60);
/// An import that a call has given up is waited for by new calls until it is so old.
pub const ZYGOTE_IMPORT_PATIENCE: Duration = Duration::from_secs(20);
/// Requests of calls that no handler has taken yet.
pub const FUNCTION_REQUESTS_BYTES_MAX: usize = 64 << 20;
/// Starts of one call's module: its files may change just then.
pub const FUNCTION_ATTEMPTS_MAX: usize = 4;
/// Streams that processes which outlive their call still print to.
pub const FUNCTION_LOOSE_MAX: usize = 64;
/// One message of a process that keeps a module.
pub const ZYGOTE_MESSAGE_BYTES_MAX: usize = 512 << 10;
/// A reply's status and headers.
pub const FUNCTION_START_BYTES_MAX: usize = 256 << 10;
/// How long the end of a call's process is waited for when its socket has ended without a reply, and the other way round.
pub const FUNCTION_END_GRACE: Duration = Duration::from_millis(200);
/// How long threads and exit functions of a call may go on once its reply is whole, unless its time is up before.
pub const FUNCTION_SETTLE_MAX: Duration = Duration::from_secs(30);
/// How long Python may take to look at a text.
pub const FUNCTION_CHECK_MAX: Duration = Duration::from_secs(20);
