//! Functions: published services. What is durable of them, and the decisions about them.

use std::sync::Arc;

use sandbar_api::{sandbox::SandboxConfig, template::TemplateSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub mod names;
pub mod scale;
mod split;

pub use split::{Split, Target, check_weights};

use crate::{
    sandbox::{Base, Desired, SandboxRecord},
    service::{Ingress, Service},
    validate::Violation,
    volume::AccessMode,
};

/// The alias that a function's host stands for.
pub const PRODUCTION: &str = "production";

/// A function's row: its identity, which outlives revisions.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionRecord {
    pub id: String,
    pub team_id: String,
    pub name: String,
    /// Unique in the team, never changed.
    pub slug: String,
    /// Unique on this server, never changed: the first label of its host.
    pub domain_label: String,
    pub enabled: bool,
    pub autoscaling: Autoscaling,
    pub created_by: Option<String>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    /// When it was deleted. Its slug and its label stay taken.
    pub deleted_at_ms: Option<i64>,
}

/// How many instances a revision may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autoscaling {
    /// Instances that are kept ready.
    pub min_warm: u32,
    pub max_active: u32,
    /// Requests that one instance serves at once before another is started.
    pub target_concurrency: u32,
    /// Seconds after which an idle instance is removed.
    pub scale_down_after_seconds: u32,
}

impl Default for Autoscaling {
    fn default() -> Self {
        Self { min_warm: 0, max_active: 20, target_concurrency: 80, scale_down_after_seconds: 300 }
    }
}

impl Autoscaling {
    /// Checks what a client asked for.
    pub fn check(min_warm: i64, max_active: i64, target_concurrency: i64, scale_down_after_seconds: i64) -> Result<Self, Vec<Violation>> {
        let mut out = Vec::new();
        let mut within = |field: &str, value: i64, min: i64, max: i64| {
            if !(min..=max).contains(&value) {
                out.push(Violation::new(format!("autoscaling.{field}"), format!("is {value}; it must be from {min} to {max}")));
            }
            u32::try_from(value).unwrap_or_default()
        };
        let checked = Self {
            min_warm: within("min_warm", min_warm, 0, 100),
            max_active: within("max_active", max_active, 1, 1000),
            target_concurrency: within("target_concurrency", target_concurrency, 1, 1000),
            scale_down_after_seconds: within("scale_down_after_seconds", scale_down_after_seconds, 30, 86_400),
        };
        if out.is_empty() && checked.min_warm > checked.max_active {
            out.push(Violation::new("autoscaling.min_warm", format!("is {min_warm}; it must not be more than max_active, which is {max_active}")));
        }
        if out.is_empty() { Ok(checked) } else { Err(out) }
    }
}

/// A revision: all that its instances are made from. Never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RevisionRecord {
    pub id: String,
    pub function_id: String,
    pub team_id: String,
    /// From 1; given by the store.
    pub number: i64,
    pub source: Source,
    pub template_id: String,
    /// The template as it was in the source.
    pub template: TemplateSpec,
    /// Environment, network policy and resources of the source.
    pub config: SandboxConfig,
    /// The files.
    pub base: Base,
    pub mounts: Vec<RevisionMount>,
    /// The service, normalised, as it is stored.
    #[serde(rename = "service")]
    pub service_snapshot: Value,
    /// The same, read.
    #[serde(skip, default = "unread")]
    pub service: Arc<Service>,
    /// What a client that published a specification sent of it and nothing here uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Value>,
    pub created_by: Option<String>,
    pub created_at_ms: i64,
}

impl RevisionRecord {
    /// Reads a stored revision.
    pub fn read(text: &str) -> Result<Self, serde_json::Error> {
        let revision: Self = serde_json::from_str(text)?;
        Ok(Self { service: Arc::new(Service::parse(&revision.service_snapshot)?), ..revision })
    }
}

/// A service that serves nobody: what stands in a revision until its own was read.
fn unread() -> Arc<Service> {
    Arc::new(Service { id: String::new(), display_name: None, port: 0, runtime: None, ingress: Ingress::default(), health_check: None })
}

/// Where a revision came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    SandboxService { sandbox_id: String, service_id: String },
    RevisionSpec,
}

impl Source {
    /// The name on the wire.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::SandboxService { .. } => "sandbox_service",
            Self::RevisionSpec => "revision_spec",
        }
    }

    pub fn sandbox_id(&self) -> Option<&str> {
        match self {
            Self::SandboxService { sandbox_id, .. } => Some(sandbox_id),
            Self::RevisionSpec => None,
        }
    }

    pub fn service_id(&self) -> Option<&str> {
        match self {
            Self::SandboxService { service_id, .. } => Some(service_id),
            Self::RevisionSpec => None,
        }
    }
}

/// A volume of a revision. Nobody mounts it: each instance has a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionMount {
    pub volume_id: String,
    /// Where its files are.
    pub tree_id: String,
    pub mount_point: String,
    pub read_only: bool,
    pub source_volume_id: Option<String>,
    pub snapshot_id: Option<String>,
    #[serde(with = "access_mode")]
    pub access_mode: AccessMode,
    pub size_limit_bytes: u64,
    pub uid: u32,
    pub gid: u32,
}

mod access_mode {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::volume::AccessMode;

    pub fn serialize<S: Serializer>(mode: &AccessMode, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(mode.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AccessMode, D::Error> {
        let name = String::deserialize(deserializer)?;
        AccessMode::named(&name).ok_or_else(|| serde::de::Error::custom(format!("{name:?} is no access mode")))
    }
}

/// A name that points to revisions.
#[derive(Debug, Clone, PartialEq)]
pub struct AliasRecord {
    pub function_id: String,
    pub alias: String,
    pub split: Split,
    pub updated_by: Option<String>,
    pub updated_at_ms: i64,
}

/// A sandbox that serves a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRecord {
    pub sandbox_id: String,
    pub team_id: String,
    pub function_id: String,
    pub revision_id: String,
    pub state: InstanceState,
    pub created_at_ms: i64,
    pub ready_at_ms: Option<i64>,
    /// Milliseconds from its beginning until it was ready.
    pub startup_ms: Option<i64>,
}

/// How far an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstanceState {
    /// Being made; after a restart of the server it is not any more, and goes.
    Starting,
    /// It was ready once.
    Ready,
    /// To be replaced.
    Retiring,
    /// It goes as soon as nothing runs in it any more.
    Draining,
    /// Its sandbox is being deleted; the row goes last.
    Removing,
}

impl InstanceState {
    const ALL: [Self; 5] = [Self::Starting, Self::Ready, Self::Retiring, Self::Draining, Self::Removing];

    /// The name in storage.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Retiring => "retiring",
            Self::Draining => "draining",
            Self::Removing => "removing",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// Whether requests for a revision go to the sandbox that it was published from: while that exists, nothing newer was
/// published from it, and its service is still the one that was published. In every other case they go to instances of
/// the revision itself.
pub fn serves_from_source(revision: &RevisionRecord, newest_from_source: i64, source: &SandboxRecord) -> bool {
    let Source::SandboxService { sandbox_id, service_id } = &revision.source else { return false };
    source.id == *sandbox_id
        && source.team_id == revision.team_id
        && source.desired != Desired::Cleaned
        && revision.number >= newest_from_source
        && service_of(source, service_id) == Some(&revision.service_snapshot)
}

/// A service of a sandbox by its id.
pub fn service_of<'a>(sandbox: &'a SandboxRecord, id: &str) -> Option<&'a Value> {
    sandbox.config.services.as_ref()?.as_array()?.iter().find(|service| service["id"].as_str() == Some(id))
}

/// The service as an instance has it: reached only through the function's host.
pub fn instance_service(service: &Value) -> Value {
    let mut service = service.clone();
    if let Some(fields) = service.as_object_mut() {
        fields.insert("ingress".to_owned(), serde_json::json!({ "public": false, "routes": [] }));
    }
    service
}

#[cfg(test)]
mod tests;
