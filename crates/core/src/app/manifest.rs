//! The manifest of an app, `sandbar.yaml`: what it is made of, how it is started and what can be run in it.
//!
//! [`parse`] reads YAML and tells everything that is wrong with it, each with its place. A [`Manifest`] that it returned is
//! whole and holds together; its JSON, which is what is stored, is read with serde. In both the keys are in camelCase.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::amount::Amount;

/// An enumeration of words without fields: all of them, their texts, and back.
macro_rules! named {
    ($kind:ty: $($variant:ident = $text:literal),+) => {
        impl $kind {
            pub const ALL: &[Self] = &[$(Self::$variant),+];
            pub const NAMES: &[&str] = &[$($text),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            pub fn named(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

mod command;
mod diagnostic;
mod port;
mod rate;
mod read;
mod schedule;
mod schema;
mod yaml;

pub use command::{Action, Block, Concurrency, ConcurrencyPolicy, Launch, LaunchServices, Readiness, Restart, RestartPolicy, Service, Start};
pub use diagnostic::{Code, Diagnostic};
pub use port::{Access, AuthPolicy, Port, Protocol};
pub use rate::Rate;
pub use read::{Parsed, UPLOAD_KEY, is_app_name, is_command_name, locate, name_of_folder, parse, parse_bytes};
pub use schedule::{Budget, Quotas, Retention, RuntimePolicy, Schedule, Target, When};
pub use schema::{ID as SCHEMA_ID, schema};

/// Names under which the manifest is looked for in a folder, in this order.
pub const FILE_NAMES: [&str; 4] = ["sandbar.yaml", "sandbar.yml", "openpond.yaml", "openpond.yml"];
/// What an app that names none is made from.
pub const BASE_DEFAULT: &str = "default";
/// Where the source lies in the sandbox.
pub const WORKSPACE: &str = "/workspace";
/// The name of the start command beside the names of actions and services.
pub const START: &str = "start";

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// 1.
    pub schema_version: u32,
    /// None: that of the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_case: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub runtime: Runtime,
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    #[serde(default, skip_serializing_if = "Setup::is_empty")]
    pub setup: Setup,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// The app's own long-running process, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<Action>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    #[serde(default, skip_serializing_if = "Launch::is_empty")]
    pub launch: Launch,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<Schedule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    #[serde(default, skip_serializing_if = "Inputs::is_empty")]
    pub inputs: Inputs,
    #[serde(default, skip_serializing_if = "Artifacts::is_empty")]
    pub artifacts: Artifacts,
    #[serde(default, skip_serializing_if = "Mcp::is_empty")]
    pub mcp: Mcp,
    #[serde(default)]
    pub network: Network,
    /// Of every command; what a launch, a command or a run says goes before it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// What the root filesystem is made from. Exactly one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Runtime {
    /// The id of a template.
    Base(String),
    /// The id of a snapshot.
    Snapshot(String),
    Image(Image),
}

/// An image of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// `[HOST/]PATH[:TAG][@DIGEST]`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// `sha256:...`; where the reference has one, too, they are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The name of a credential for the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_secret_ref: Option<String>,
}

/// What a sandbox of the app may use; what is absent is the server's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,
    /// GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_gb: Option<Amount>,
    /// GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_gb: Option<Amount>,
}

/// What is done once, when the app is deployed; the files that come of it are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Setup {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// Patterns of the files that the commands read: while these are the same, what came of the commands is used again.
    /// None: the whole source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Vec<String>>,
}

/// What a deployed version has to pass.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Validation {
    /// At least one.
    pub commands: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
}

/// A request that has to be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub port: u16,
    pub path: String,
    pub expected_status: u16,
}

/// Files that outlive the app's sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    pub name: String,
    /// Absolute.
    pub mount_path: String,
    /// GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_gb: Option<Amount>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub delete_on_sandbox_delete: bool,
}

/// What a run can be given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inputs {
    /// A JSON Schema of an object, see [`super::inputs`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvInput>,
}

/// A variable that whoever deploys the app gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvInput {
    pub name: String,
    pub required: bool,
    pub secret: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Artifacts of commands that name none of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifacts {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mcp {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<McpEndpoint>,
}

/// Where the app speaks the Model Context Protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct McpEndpoint {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub port: u16,
    pub path: String,
    /// None: the start command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

impl McpEndpoint {
    pub fn called(&self) -> &str {
        self.name.as_deref().unwrap_or("mcp")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    #[serde(default)]
    pub egress: Egress,
}

/// What the app's sandboxes may connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// As the server's default is.
    #[default]
    Restricted,
    /// Every public address.
    Allow,
    /// Nothing.
    Block,
}

impl Manifest {
    /// The start command, if there is one.
    pub fn start_command(&self) -> Option<&str> {
        self.start.as_ref()?.command.as_deref()
    }

    pub fn find_action(&self, name: &str) -> Option<&Action> {
        self.actions.iter().find(|action| action.name == name)
    }

    pub fn find_service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// Patterns of a command's artifacts: its own, else the app's.
    pub fn artifact_paths<'a>(&'a self, block: &'a Block) -> &'a [String] {
        if block.artifact_paths.is_empty() { &self.artifacts.paths } else { &block.artifact_paths }
    }

    /// The services that a launch starts, with all that they depend on, each after what it depends on.
    pub fn launched_services(&self) -> Vec<&Service> {
        let wanted = self.services.iter().filter(|service| {
            service.auto_start
                || match &self.launch.services {
                    LaunchServices::All => true,
                    LaunchServices::Named(names) => names.contains(&service.name),
                }
        });
        self.in_order(wanted.map(|service| service.name.as_str()))
    }

    /// The named services with all that they depend on, each once and after what it depends on. Names of none are left out.
    pub fn in_order<'a>(&'a self, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a Service> {
        let mut ordered: Vec<&Service> = Vec::new();
        // A service comes a second time when all that it depends on has come.
        let mut left: Vec<(&str, bool)> = names.into_iter().map(|name| (name, false)).collect();
        left.reverse();
        let mut entered: Vec<&str> = Vec::new();
        while let Some((name, done)) = left.pop() {
            let Some(service) = self.find_service(name) else { continue };
            if done {
                ordered.push(service);
            } else if !entered.contains(&name) {
                entered.push(name);
                left.push((name, true));
                left.extend(service.depends_on.iter().rev().map(|name| (name.as_str(), false)));
            }
        }
        ordered
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self::Base(BASE_DEFAULT.to_owned())
    }
}

macro_rules! is_empty_when_default {
    ($($kind:ty),*) => {
        $(impl $kind {
            pub fn is_empty(&self) -> bool {
                *self == Self::default()
            }
        })*
    };
}

is_empty_when_default!(Resources, Setup, Launch, Inputs, Artifacts, Mcp);

named!(Egress: Restricted = "restricted", Allow = "allow", Block = "block");

fn is_false(value: &bool) -> bool {
    !value
}
