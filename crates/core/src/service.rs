//! A service as it is served: the typed view of what [`crate::validate::services`] has normalised, and the decisions that
//! are made for each request to it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

mod access;
mod bucket;
mod cors;
mod route;

pub use access::{Credential, Denied};
pub use bucket::Bucket;
pub use cors::{CorsAnswer, CorsAsked};
pub use route::{Matched, matching, percent_decoded, plain_path, unclear};

/// One service. Unknown keys are left out; the stored document keeps them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Service {
    pub id: String,
    #[serde(default)]
    pub display_name: Option<String>,
    pub port: u16,
    /// Absent: as manual, but not restartable by name either.
    #[serde(default)]
    pub runtime: Option<Runtime>,
    pub ingress: Ingress,
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
}

/// What keeps a service up.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Runtime {
    #[serde(flatten)]
    pub kind: RuntimeKind,
    /// Stronger than the sandbox's.
    #[serde(default)]
    pub env_vars: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RuntimeKind {
    /// Whoever made the sandbox starts it.
    Manual,
    /// The first access starts it.
    Cmd {
        command: Vec<String>,
        #[serde(default)]
        cwd: Option<String>,
    },
    /// A process that is started with the sandbox.
    WarmProcess {
        #[serde(default)]
        warm_process_name: String,
    },
    /// A handler, run once for each request.
    Function { function: Function },
}

/// An inline handler.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Function {
    pub handler: String,
    /// Requests at once; 0 = as many as come.
    #[serde(default)]
    pub max_concurrency: u32,
    pub source: Source,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Source {
    Inline { code: String },
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Ingress {
    #[serde(default)]
    pub public: bool,
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// A public way in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Route {
    pub id: String,
    #[serde(default = "root")]
    pub path_prefix: String,
    /// Upper case; empty = every method.
    #[serde(default)]
    pub methods: Vec<String>,
    #[serde(default)]
    pub rewrite_prefix: Option<String>,
    #[serde(default)]
    pub auth: Auth,
    #[serde(default)]
    pub cors: Option<Cors>,
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// 0 = none.
    #[serde(default)]
    pub timeout_seconds: u64,
    /// Whether an access may wake the sandbox.
    #[serde(default)]
    pub resume: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Auth {
    #[default]
    None,
    /// `Authorization: Bearer ...`.
    Bearer { bearer_token_sha256: String },
    /// A header of the owner's choice.
    Header { header_name: String, header_value_sha256: String },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Cors {
    #[serde(default)]
    pub allowed_origins: Vec<String>,
    #[serde(default)]
    pub allowed_methods: Vec<String>,
    #[serde(default)]
    pub allowed_headers: Vec<String>,
    #[serde(default)]
    pub expose_headers: Vec<String>,
    #[serde(default)]
    pub allow_credentials: bool,
    #[serde(default)]
    pub max_age_seconds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct RateLimit {
    /// Requests per second.
    pub rps: f64,
    /// Requests at once after a pause.
    pub burst: f64,
    /// A bucket for each client address instead of one for all.
    #[serde(default)]
    pub per_client: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HealthCheck {
    #[serde(default = "root")]
    pub path: String,
}

impl Service {
    /// Reads one normalised service.
    pub fn parse(value: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(value)
    }

    /// Reads the normalised services of a sandbox. One that cannot be read is served to nobody.
    pub fn list(services: Option<&Value>) -> Vec<Self> {
        services.and_then(Value::as_array).into_iter().flatten().filter_map(|service| Self::parse(service).ok()).collect()
    }

    /// About how many bytes it takes in memory.
    pub fn size(&self) -> usize {
        let code = match self.kind() {
            RuntimeKind::Function { function } => match &function.source {
                Source::Inline { code } => code.len(),
            },
            RuntimeKind::Cmd { command, .. } => command.iter().map(String::len).sum(),
            RuntimeKind::Manual | RuntimeKind::WarmProcess { .. } => 0,
        };
        let env: usize = self.runtime.iter().flat_map(|runtime| &runtime.env_vars).map(|(name, value)| name.len() + value.len()).sum();
        1024 + code + env + self.ingress.routes.len() * 512
    }

    /// What runs for it, with `manual` for nothing.
    pub fn kind(&self) -> &RuntimeKind {
        self.runtime.as_ref().map_or(&RuntimeKind::Manual, |runtime| &runtime.kind)
    }
}

impl Route {
    /// Whether a method is let in at all.
    pub fn allows(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|known| known == "*" || known == method)
    }
}

fn root() -> String {
    "/".to_owned()
}

#[cfg(test)]
mod tests;
