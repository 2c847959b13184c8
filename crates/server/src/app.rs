//! The application: what the API can do, joined from durable state (`store`) and this machine (`node`).
//! One file per resource, named as in `http/`.

use std::sync::Arc;

use sandbar_node::Node;
use sandbar_store::Store;
use tokio::sync::Notify;

use crate::{config::Config, gateway::Gateway, http::Metrics, ssh::Reach};

pub mod apps;
pub mod auth;
pub mod builtin;
pub mod collections;
pub mod contexts;
pub mod credentials;
pub mod egress_meter;
pub mod files;
pub mod flows;
pub mod function_load;
pub mod functions;
pub mod images;
pub mod items;
pub mod logs;
pub mod previews;
pub mod quotas;
pub mod receipts;
pub(crate) mod room;
pub mod sandbox_functions;
pub mod sandboxes;
pub mod script_events;
pub mod script_jobs;
pub mod scripts;
pub mod seal;
pub mod service_functions;
pub mod services;
pub mod snapshots;
pub(crate) mod standing;
pub mod storage;
mod streams;
pub mod templates;
pub mod usage;
pub mod volumes;
pub mod webhooks;

/// Everything a request needs.
pub struct App {
    pub config: Config,
    pub store: Store,
    pub auth: auth::Auth,
    pub node: Node,
    pub metrics: Metrics,
    pub quotas: quotas::Quotas,
    pub usage: Arc<usage::Usage>,
    pub webhooks: Arc<webhooks::Webhooks>,
    pub credentials: Arc<credentials::Credentials>,
    pub sandboxes: Arc<sandboxes::Registry>,
    pub services: services::Services,
    pub previews: previews::Previews,
    pub functions: functions::Functions,
    pub apps: apps::Apps,
    pub app_runs: apps::runs::AppRuns,
    /// Woken when schedules of apps may come sooner than was known.
    pub(crate) app_schedules: Notify,
    pub receipts: receipts::Receipts,
    /// What is kept up in sandboxes of apps.
    pub supervisors: apps::supervise::Supervisors,
    pub(crate) app_turns: apps::online::Turns,
    pub function_load: Arc<function_load::FunctionLoad>,
    pub scripts: scripts::Scripts,
    pub script_jobs: script_jobs::ScriptJobs,
    pub gateway: Gateway,
    /// How SSH is reached, when it listens.
    pub ssh: Option<Reach>,
    /// What scripts reach outside of themselves.
    pub(crate) reach: scripts::reach::Reach,
    pub image_jobs: images::ImageJobs,
    /// Woken when a template changed, and with it perhaps the pools.
    pub templates_changed: Notify,
    /// Woken when something on disk may have lost its last row.
    pub collect_soon: Arc<Notify>,
    /// One collection at a time: each decides by rows that it read itself, and by what was pinned since.
    pub(crate) collecting: tokio::sync::Mutex<()>,
}

/// How handlers and tasks hold the application.
pub type SharedApp = Arc<App>;
