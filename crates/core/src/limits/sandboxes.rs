//! What a sandbox is made of, what it may use, and how it lives.

// --- Sandbox configuration ---

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

// --- Services ---

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

// --- Resources ---

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

// --- Lifecycle ---

/// Seconds that a paused sandbox stays frozen in memory when its template does not say.
pub const HIBERNATE_AFTER_DEFAULT_S: u32 = 600;
/// Idle sandboxes that a template may keep.
pub const POOL_MAX_IDLE: u32 = 1000;
/// Events that are kept of one sandbox.
pub const EVENTS_PER_SANDBOX_MAX: i64 = 1000;
/// Bytes of the text of a reason.
pub const REASON_MAX_BYTES: usize = 2048;

// --- Layers, snapshots, volumes, probes and metrics ---

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
