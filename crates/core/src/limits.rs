//! Every limit of the product: its name, its unit and its value, in this one place.
//!
//! Whoever refuses something because of a limit names the limit in the error.

pub mod app_launch;
pub mod app_runs;
pub mod apps;
pub mod deploys;
mod previews;

pub use previews::*;

// --- HTTP -----------------------------------------------------------------------------------------------------------

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

// --- Names ----------------------------------------------------------------------------------------------------------

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

// --- Sandbox configuration ------------------------------------------------------------------------------------------

/// Seconds of a ttl, a hard ttl or a refresh.
pub const TTL_MAX_S: i32 = i32::MAX;
/// Variables of one environment.
pub const ENV_VARS_MAX: usize = 1024;
/// Bytes of the name of an environment variable.
pub const ENV_NAME_MAX_BYTES: usize = 256;
/// Bytes of the value of an environment variable (the kernel's limit for one string is 128 KiB).
pub const ENV_VALUE_MAX_BYTES: usize = 64 << 10;
/// Bytes of all names and values of one environment.
pub const ENV_TOTAL_MAX_BYTES: usize = 512 << 10;
/// Bytes of a webhook's secret.
pub const WEBHOOK_SECRET_MAX_BYTES: usize = 1024;
/// Volumes mounted in one sandbox.
pub const MOUNTS_MAX: usize = 32;
/// Sandboxes that one team may own at once, running or not.
pub const SANDBOXES_PER_TEAM_MAX: usize = 100_000;

// --- Credentials ----------------------------------------------------------------------------------------------------

/// Credential sources of one team.
pub const CREDENTIALS_PER_TEAM_MAX: usize = 1000;
/// Characters of the name of a credential source.
pub const CREDENTIAL_NAME_MAX_CHARS: usize = 128;
/// Bytes of the body of a request that holds a credential source.
pub const CREDENTIAL_BODY_MAX_BYTES: usize = 1 << 20;
/// Values of one source of headers.
pub const CREDENTIAL_VALUES_MAX: usize = 64;
/// Characters of the name by which templates know a value.
pub const CREDENTIAL_VALUE_NAME_MAX_CHARS: usize = 64;
/// Bytes of a value, a user's name or a password.
pub const CREDENTIAL_VALUE_MAX_BYTES: usize = 16 << 10;
/// Bytes of a private key.
pub const CREDENTIAL_KEY_MAX_BYTES: usize = 32 << 10;
/// Bytes of a chain of certificates, or of the authorities of a server.
pub const CREDENTIAL_CERTIFICATES_MAX_BYTES: usize = 128 << 10;
/// Bytes of the passphrase of a private key.
pub const CREDENTIAL_PASSPHRASE_MAX_BYTES: usize = 1024;

// --- Services -------------------------------------------------------------------------------------------------------

/// Services of one sandbox.
pub const SERVICES_MAX: usize = 64;
/// Routes of one service.
pub const ROUTES_PER_SERVICE_MAX: usize = 32;
/// Methods of one route.
pub const METHODS_PER_ROUTE_MAX: usize = 16;
/// Values of one list of a CORS policy.
pub const CORS_VALUES_MAX: usize = 32;
/// Arguments of a service's command.
pub const COMMAND_ARGS_MAX: usize = 256;
/// Bytes of a service's command, all arguments together.
pub const COMMAND_MAX_BYTES: usize = 128 << 10;
/// Bytes of the inline code of a function service.
pub const FUNCTION_CODE_MAX_BYTES: usize = 256 << 10;
/// Calls that a function service serves at once.
pub const FUNCTION_CONCURRENCY_MAX: i64 = 1024;
/// The port of every function service; no other service may take it.
pub const FUNCTION_SERVICE_PORT: u16 = 49_983;
/// The body of a request to a published function.
pub const FUNCTION_BODY_MAX_BYTES: u64 = 32 << 20;
/// Seconds of a route's timeout.
pub const ROUTE_TIMEOUT_MAX_S: i64 = 86_400;
/// Requests per second and burst of a route's rate limit.
pub const ROUTE_RATE_MAX: f64 = 1_000_000.0;

// --- Functions of a sandbox -----------------------------------------------------------------------------------------

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

// --- Resources ------------------------------------------------------------------------------------------------------

/// Bytes of memory of a sandbox whose template names none.
pub const MEMORY_DEFAULT_BYTES: u64 = 1 << 30;
/// Fewest bytes of memory of a sandbox.
pub const MEMORY_MIN_BYTES: u64 = 32 << 20;
/// Most bytes of memory of a sandbox.
pub const MEMORY_MAX_BYTES: u64 = 256 << 30;
/// Thousandths of a CPU of a sandbox whose template names none.
pub const CPU_DEFAULT_MILLIS: u64 = 2000;
/// Fewest thousandths of a CPU.
pub const CPU_MIN_MILLIS: u64 = 10;
/// Most thousandths of a CPU.
pub const CPU_MAX_MILLIS: u64 = 1_024_000;
/// Bytes of a sandbox's own files when its template names none.
pub const DISK_DEFAULT_BYTES: u64 = 10 << 30;
/// Fewest bytes of a sandbox's own files.
pub const DISK_MIN_BYTES: u64 = 16 << 20;
/// Most bytes of a sandbox's own files.
pub const DISK_MAX_BYTES: u64 = 16 << 40;
/// Processes and threads of a sandbox.
pub const PIDS_DEFAULT: u64 = 1024;
/// Open files of one process of a sandbox.
pub const NOFILE_DEFAULT: u64 = 65_536;
/// Bytes of /dev/shm of a sandbox.
pub const SHM_DEFAULT_BYTES: u64 = 64 << 20;

// --- Lifecycle ------------------------------------------------------------------------------------------------------

/// Seconds that a paused sandbox stays frozen in memory when its template does not say.
pub const HIBERNATE_AFTER_DEFAULT_S: u32 = 600;
/// Idle sandboxes that a template may keep.
pub const POOL_MAX_IDLE: u32 = 1000;
/// Events that are kept of one sandbox.
pub const EVENTS_PER_SANDBOX_MAX: i64 = 1000;
/// Bytes of the text of a reason.
pub const REASON_MAX_BYTES: usize = 2048;

// --- Access ---------------------------------------------------------------------------------------------------------

/// Characters of a password.
pub const PASSWORD_MIN_CHARS: usize = 8;
/// Bytes of a password, so that hashing one stays cheap.
pub const PASSWORD_MAX_BYTES: usize = 1024;
/// Bytes of a bearer token.
pub const TOKEN_MAX_BYTES: usize = 4096;
/// Templates of one team.
pub const TEMPLATES_PER_TEAM_MAX: usize = 200;
/// API keys of one team.
pub const API_KEYS_PER_TEAM_MAX: usize = 1000;
/// Public keys of one user in one team.
pub const SSH_KEYS_PER_USER_MAX: usize = 100;
/// Bytes of a public key's line, which the longest RSA key fits.
pub const SSH_KEY_MAX_BYTES: usize = 8 << 10;
/// Members of one team.
pub const MEMBERS_PER_TEAM_MAX: usize = 1000;
/// Teams that one user may own.
pub const TEAMS_PER_USER_MAX: usize = 100;
/// Seconds that an access token lives.
pub const ACCESS_TOKEN_TTL_S: i64 = 3600;
/// Seconds that a refresh token lives.
pub const REFRESH_TOKEN_TTL_S: i64 = 30 * 86_400;
/// Login attempts for one account within [`LOGIN_WINDOW_S`].
pub const LOGIN_ATTEMPTS_MAX: u32 = 10;
/// Seconds over which login attempts are counted.
pub const LOGIN_WINDOW_S: i64 = 60;

// --- Processes, files and logs of a sandbox over HTTP -----------------------------------------------------------------

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
/// Layers that lie on top of an image; from there on they are made one.
pub const LAYERS_MAX: usize = 64;
/// Parts of a mount point.
pub const MOUNT_DEPTH_MAX: usize = 32;
pub const SNAPSHOTS_PER_SANDBOX_MAX: usize = 100;
pub const SNAPSHOTS_PER_TEAM_MAX: usize = 10_000;
pub const VOLUMES_PER_TEAM_MAX: usize = 1000;
/// Snapshots of one volume.
pub const VOLUME_SNAPSHOTS_MAX: usize = 100;
pub const VOLUME_SIZE_DEFAULT_BYTES: u64 = 10 << 30;
pub const VOLUME_SIZE_MIN_BYTES: u64 = 1 << 20;
pub const VOLUME_SIZE_MAX_BYTES: u64 = 1 << 40;
pub const WARM_PROCESSES_MAX: usize = 16;
/// The largest figure of a probe: seconds, or times in a row.
pub const PROBE_VALUE_MAX: u32 = 600;
pub const EPHEMERAL_MOUNTS_MAX: usize = 16;
/// The smallest folder in memory.
pub const EPHEMERAL_MIN_BYTES: u64 = 64 << 10;
/// Points of one series of metrics.
pub const METRICS_POINTS_MAX: u32 = 1000;
pub const METRICS_POINTS_DEFAULT: u32 = 240;
/// The longest time that one query of metrics may span.
pub const METRICS_RANGE_MAX_MS: i64 = 30 * 86_400_000;

// --- Images -----------------------------------------------------------------------------------------------------------

/// Bytes of an archive of images that is imported.
pub const IMAGE_ARCHIVE_MAX_BYTES: u64 = 32 << 30;
/// Commands of one build.
pub const BUILD_STEPS_MAX: usize = 100;
/// Files of one build.
pub const BUILD_FILES_MAX: usize = 100;
/// Images that are pulled, imported or built at a time.
pub const IMAGE_JOBS_MAX: usize = 4;
/// Images that are pulled for templates at a time.
pub const TEMPLATE_PULLS_MAX: usize = 2;

// --- Functions --------------------------------------------------------------------------------------------------------

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

// --- Webhooks ---------------------------------------------------------------------------------------------------------

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

// --- Scripts ----------------------------------------------------------------------------------------------------------

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

// --- Collections and items --------------------------------------------------------------------------------------------

/// Collections of one team.
pub const COLLECTIONS_PER_TEAM_MAX: usize = 200;
/// Characters of a collection's slug, of a field's name, and of what a rule calls a role.
pub const COLLECTION_NAME_MAX_CHARS: usize = 63;
/// Fields of one collection.
pub const FIELDS_PER_COLLECTION_MAX: usize = 100;
/// Values that one field may be restricted to.
pub const FIELD_CHOICES_MAX: usize = 100;
/// Permission rules of one collection.
pub const RULES_PER_COLLECTION_MAX: usize = 100;
/// Bytes of the body of a request that makes or changes a collection.
pub const COLLECTION_BODY_MAX_BYTES: usize = 512 << 10;
/// Items of one collection.
pub const ITEMS_PER_COLLECTION_MAX: u64 = 100_000;
/// Bytes of one item's fields as JSON.
pub const ITEM_MAX_BYTES: usize = 256 << 10;
/// Bytes of all items of one team.
pub const ITEMS_PER_TEAM_MAX_BYTES: u64 = 512 << 20;
/// Characters of an item's id.
pub const ITEM_ID_MAX_CHARS: usize = 128;
/// Characters of a field of type `string`, at most and when the field says nothing.
pub const STRING_FIELD_MAX_CHARS: u32 = 4096;
/// How deep a field of type `json` may nest.
pub const JSON_FIELD_DEPTH_MAX: usize = 32;
/// Items that one request can make.
pub const ITEMS_PER_REQUEST_MAX: usize = 100;
/// Bytes of the body of a request that makes or changes items.
pub const ITEMS_BODY_MAX_BYTES: usize = 6 << 20;
/// Items that a change of a collection's fields looks at, and their bytes: with more, only changes that no item can break are
/// made.
pub const ITEMS_REVISED_MAX: u64 = 10_000;
pub const ITEMS_REVISED_MAX_BYTES: u64 = 16 << 20;
/// Items that are deleted at a time when their collection is.
pub const ITEMS_DELETED_AT_ONCE_MAX: usize = 2000;
/// Rows of one query, and when it says nothing.
pub const QUERY_LIMIT_MAX: u32 = 200;
pub const QUERY_LIMIT_DEFAULT: u32 = 50;
/// Rows that a query can skip: more than there can be.
pub const QUERY_OFFSET_MAX: u32 = 1_000_000;
/// Fields that a query sorts by.
pub const QUERY_SORT_MAX: usize = 5;
/// Bytes of the rows that a query finds.
pub const QUERY_ROWS_MAX_BYTES: usize = 6 << 20;
/// Queries of one team that wait for their turn.
pub const QUERIES_WAITING_MAX: usize = 200;
/// Milliseconds that a query may read.
pub const QUERY_MAX_MS: u64 = 2000;
/// How deep a filter may nest, and the conditions in it.
pub const FILTER_DEPTH_MAX: usize = 8;
pub const FILTER_CONDITIONS_MAX: usize = 100;
/// Values in one list of a filter.
pub const FILTER_LIST_MAX: usize = 100;
/// Bytes of the body of a request that holds a query.
pub const QUERY_BODY_MAX_BYTES: usize = 256 << 10;
/// Bytes of one text in a filter.
pub const FILTER_TEXT_MAX_BYTES: usize = 16 << 10;
/// Problems that one refusal names.
pub const VIOLATIONS_NAMED_MAX: usize = 20;
// --- Scripts: events, runs that are owed, schedules ------------------------------------------------------------------------

/// Bytes of a pattern of events, and of channel and event of one.
pub const SCRIPT_PATTERN_MAX_BYTES: usize = 256;
/// Segments of these.
pub const SCRIPT_TARGET_SEGMENTS_MAX: usize = 16;
/// Bytes of the pattern of a schedule.
pub const SCRIPT_CRON_MAX_BYTES: usize = 256;
/// Bytes of the data of an event that a client publishes, as JSON.
pub const SCRIPT_EVENT_DATA_MAX_BYTES: usize = 256 << 10;
/// Scripts that an event came through, from which on no more scripts are told of it: a loop ends here.
pub const SCRIPT_EVENT_DEPTH_MAX: u32 = 8;
/// Runs of one team's scripts that wait, and bytes of their input; what would make more is refused.
pub const SCRIPT_JOBS_WAITING_MAX: usize = 100_000;
pub const SCRIPT_JOBS_WAITING_MAX_BYTES: usize = 256 << 20;
/// Runs that nobody waits for, at once: in all, and of one team.
pub const SCRIPT_JOBS_AT_ONCE_MAX: usize = 64;
pub const SCRIPT_JOBS_AT_ONCE_PER_TEAM_MAX: usize = 16;
/// Tries of one run that may be asked for.
pub const SCRIPT_ATTEMPTS_MAX: u32 = 20;
/// Seconds within which it may be tried again.
pub const SCRIPT_RETRY_AGE_MAX_S: u32 = 7 * 86_400;
/// Milliseconds until a run is tried again for the first time; from there on four times as long each.
pub const SCRIPT_BACKOFF_MS: i64 = 2000;
/// Milliseconds between two tries at most.
pub const SCRIPT_BACKOFF_MAX_MS: i64 = 3_600_000;
/// Times that the end of the server may interrupt one run before it is given up: it may be the cause.
pub const SCRIPT_INTERRUPTIONS_MAX: u32 = 20;
/// Milliseconds that events and what became of runs that were owed can be read; dead letters for longer.
pub const SCRIPT_JOBS_KEPT_MS: i64 = 7 * 86_400_000;
pub const SCRIPT_DEAD_LETTERS_KEPT_MS: i64 = 90 * 86_400_000;
/// Of one script in one state; beyond it the oldest go.
pub const SCRIPT_JOBS_KEPT_MAX: usize = 20_000;
/// Events of one team.
pub const SCRIPT_EVENTS_KEPT_MAX: usize = 100_000;
/// See [`SCRIPT_EVENTS_KEPT_MAX`].
pub const SCRIPT_EVENTS_KEPT_MAX_BYTES: usize = 256 << 20;
/// Ticks of one schedule.
pub const SCRIPT_TICKS_KEPT_MAX: usize = 20_000;
/// Runs of one schedule that wait for the one before.
pub const SCRIPT_SCHEDULE_QUEUE_MAX: usize = 100;
/// Missed ticks that are made up for at once.
pub const SCRIPT_MISSED_RUNS_MAX: u32 = 100;
/// Seconds by which a tick may be put off.
pub const SCRIPT_JITTER_MAX_S: u32 = 3600;
/// Active schedules of a team that come more often than once a minute.
pub const SCRIPT_SCHEDULES_BY_SECONDS_MAX: usize = 50;
/// Milliseconds after which a tick that did not fire counts as missed.
pub const SCRIPT_TICK_GRACE_MS: i64 = 10_000;

// --- What scripts ask of the server ------------------------------------------------------------------------------------

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

/// Calls at an executor at once.
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
