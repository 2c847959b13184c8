//! Limits of apps: what a manifest may say, and what of a run is kept.

// --- Manifest -------------------------------------------------------------------------------------------------------

/// Bytes of a manifest.
pub const MANIFEST_MAX_BYTES: usize = 256 << 10;
/// Mappings and lists in one another in a manifest.
pub const MANIFEST_DEPTH_MAX: usize = 64;
/// Values of a manifest, those that aliases repeat counted again.
pub const MANIFEST_NODES_MAX: usize = 20_000;
/// Problems that are told of one manifest.
pub const MANIFEST_DIAGNOSTICS_MAX: usize = 200;
/// Characters of an app's name; of its version and its use case; of its description.
pub const APP_NAME_MAX_CHARS: usize = 80;
pub const APP_VERSION_MAX_CHARS: usize = 40;
pub const APP_USE_CASE_MAX_CHARS: usize = 80;
pub const APP_DESCRIPTION_MAX_CHARS: usize = 500;
/// Actions of one app, and services.
pub const APP_ACTIONS_MAX: usize = 20;
pub const APP_SERVICES_MAX: usize = 20;
/// Characters of the name of an action or a service.
pub const APP_COMMAND_NAME_MAX_CHARS: usize = 80;
/// Characters of a command.
pub const APP_COMMAND_MAX_CHARS: usize = 1000;
/// Seconds that a command may be given.
pub const APP_COMMAND_TIMEOUT_MAX_S: u32 = 86_400;
/// Characters of a path or a pattern of paths in a manifest.
pub const APP_PATH_MAX_CHARS: usize = 1000;
/// Ports of one command.
pub const APP_PORTS_MAX: usize = 20;
/// Numbers that a port may have.
pub const APP_PORT_MIN: u16 = 3000;
pub const APP_PORT_MAX: u16 = 9999;
/// Ports that belong to what the platform runs in a sandbox.
pub const APP_PORTS_RESERVED: [u16; 5] = [3108, 5900, 5901, 6080, 7818];
/// Characters of a port's label.
pub const APP_PORT_LABEL_MAX_CHARS: usize = 80;
/// Patterns of artifacts of one command, or of a whole app.
pub const APP_ARTIFACT_PATHS_MAX: usize = 100;
/// Commands that set an app up, probes that validate it, and patterns of the files that setting up reads.
pub const APP_SETUP_COMMANDS_MAX: usize = 50;
pub const APP_SETUP_INPUTS_MAX: usize = 100;
pub const APP_PROBES_MAX: usize = 20;
/// What an app may ask for.
pub const APP_CPU_MAX: u32 = 8;
pub const APP_MEMORY_MAX_GB: u32 = 32;
pub const APP_DISK_MAX_GB: u32 = 100;
/// Volumes of one app, and characters of the name of one.
pub const APP_VOLUMES_MAX: usize = 5;
pub const APP_VOLUME_NAME_MAX_CHARS: usize = 63;
pub const APP_VOLUME_MAX_GB: u32 = 100;
/// Thousandths of a GB that a volume has at least: the smallest there are have 1 MiB.
pub const APP_VOLUME_MIN_GB_MILLIS: u64 = 1;
/// Variables that an app asks for.
pub const APP_INPUT_ENV_MAX: usize = 100;
/// Endpoints of MCP.
pub const APP_MCP_ENDPOINTS_MAX: usize = 10;
/// Seconds that readiness may take, when nothing is said, and at most.
pub const APP_READINESS_TIMEOUT_DEFAULT_S: u32 = 60;
pub const APP_READINESS_TIMEOUT_MAX_S: u32 = 3600;
/// Milliseconds between two looks at readiness.
pub const APP_READINESS_INTERVAL_DEFAULT_MS: u32 = 250;
pub const APP_READINESS_INTERVAL_MIN_MS: u32 = 50;
pub const APP_READINESS_INTERVAL_MAX_MS: u32 = 60_000;
/// Milliseconds before a service that ended is started again: at first, and at most.
pub const APP_RESTART_BACKOFF_MIN_MS: u32 = 100;
pub const APP_RESTART_BACKOFF_DEFAULT_MS: u32 = 1000;
pub const APP_RESTART_BACKOFF_MAX_DEFAULT_MS: u32 = 60_000;
pub const APP_RESTART_BACKOFF_MAX_MS: u32 = 3_600_000;
/// Restarts in a row that may be asked for.
pub const APP_RESTARTS_MAX: u32 = 1000;
/// Runs of an action at once that may be asked for.
pub const APP_CONCURRENCY_MAX: u32 = 100;

// --- Schedules ------------------------------------------------------------------------------------------------------

/// Schedules of one app.
pub const APP_SCHEDULES_MAX: usize = 20;
/// Characters of the name of one.
pub const APP_SCHEDULE_NAME_MAX_CHARS: usize = 120;
/// Seconds from one tick of a rate to the next.
pub const APP_RATE_MIN_S: u32 = 10;
pub const APP_RATE_MAX_S: u32 = 366 * 86_400;
/// Runs after which a schedule may be told to end.
pub const APP_SCHEDULE_RUNS_MAX: u32 = 1_000_000_000;
/// Dollars that a run may be allowed to cost.
pub const APP_BUDGET_MAX_USD: u32 = 1_000_000;

// --- Inputs ---------------------------------------------------------------------------------------------------------

/// Bytes of the schema of an app's inputs, as JSON.
pub const APP_INPUT_SCHEMA_MAX_BYTES: usize = 64 << 10;
/// Objects and lists in one another in such a schema.
pub const APP_INPUT_SCHEMA_DEPTH_MAX: usize = 32;
/// Schemas in a schema, those that `$ref` repeats counted again.
pub const APP_INPUT_SCHEMA_WEIGHT_MAX: usize = 2000;
/// Bytes of the input of a run, as JSON.
pub const APP_INPUT_MAX_BYTES: usize = 1 << 20;
/// Objects and lists in one another in an input.
pub const APP_INPUT_DEPTH_MAX: usize = 64;
/// Values of an input times schemas of its schema: what a validation may cost.
pub const APP_INPUT_COST_MAX: usize = 20_000_000;
/// Problems that are told of one input.
pub const APP_INPUT_PROBLEMS_MAX: usize = 100;

// --- Receipts -------------------------------------------------------------------------------------------------------

/// Artifacts that a receipt names.
pub const RECEIPT_ARTIFACTS_MAX: usize = 1000;
/// Denials of the network that a receipt names; all of them are counted.
pub const RECEIPT_DENIALS_MAX: usize = 100;
/// Characters of a text in a receipt.
pub const RECEIPT_TEXT_MAX_CHARS: usize = 4096;
/// Lines of price in a receipt.
pub const RECEIPT_LINE_ITEMS_MAX: usize = 20;
/// Receipts of a team that are kept, their bytes, and for how long.
pub const RECEIPTS_PER_TEAM_MAX: u64 = 100_000;
pub const RECEIPTS_PER_TEAM_MAX_BYTES: u64 = 1 << 30;
pub const RECEIPT_KEPT_MS: i64 = 400 * 86_400_000;
/// Bytes of one signed receipt, as JSON.
pub const RECEIPT_MAX_BYTES: usize = 16 << 20;
/// Bytes of the receipts of one page, unless its first alone has more.
pub const RECEIPT_PAGE_MAX_BYTES: usize = 8 << 20;
/// Problems of a file of receipts that are told one by one, and checkpoints that are looked at.
pub const RECEIPT_PROBLEMS_MAX: usize = 1000;
pub const RECEIPT_CHECKPOINTS_MAX: usize = 100;
