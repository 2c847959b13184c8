//! What happens without a request: deadlines, webhooks and the watch over live sandboxes. A task takes no input but the rows, can
//! be repeated at any time, and ends when the server stops.

pub(crate) mod app_cleanup;
pub(crate) mod app_runs;
pub(crate) mod app_schedules;
pub(crate) mod apps;
pub(crate) mod collect;
pub(crate) mod credentials;
pub(crate) mod deadlines;
pub(crate) mod egress;
pub(crate) mod functions;
pub(crate) mod pools;
mod schedules;
pub(crate) mod script_jobs;
pub(crate) mod script_runs;
pub(crate) mod script_schedules;
pub(crate) mod usage;
pub(crate) mod watch;
pub(crate) mod webhooks;
