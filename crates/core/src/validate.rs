//! What clients configure: checked, and normalised to what is stored.
//!
//! Every function collects all violations rather than the first, each with the path of its field (`config.ttl`,
//! `config.services[0].ingress.routes[1].id`).

mod build;
pub mod functions;
mod services;
pub(crate) mod spelling;
mod warm;
mod webhook;

use std::{collections::BTreeMap, fmt};

use sandbar_api::{
    sandbox::{Resources, SandboxConfig, UpdateConfig},
    template::TemplateSpec,
};
use serde_json::{Map, Value};

pub use build::{check as image_build, mode_of};
pub use services::{publish_blockers, services, wants_resume};
pub use warm::name as warm_name;

use crate::{
    egress,
    image::{ImageName, is_digest},
    limits, quantity,
};

/// A field that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    pub path: String,
    pub message: String,
}

impl Violation {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The resources of a sandbox, in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: u64,
    pub cpu_millis: u64,
    pub disk_bytes: u64,
}

/// The words of a refused `resume: true`; clients know them.
const RESUME_WITHOUT_AUTO_RESUME: &str = "cannot set resume=true on public routes when sandbox auto_resume is disabled";

/// Keys of a sandbox's configuration.
const CONFIG_KEYS: &[&str] = &["env_vars", "ttl", "hard_ttl", "network", "webhook", "auto_resume", "services", "resources"];
/// Keys of a template's specification that are looked at.
const TEMPLATE_KEYS: &[&str] =
    &["mainContainer", "warmProcesses", "volumeMounts", "ephemeralMounts", "network", "pool", "lifecycle", "envVars", "description", "displayName", "tags"];

/// Checks the configuration of a claim and returns it normalised. `None` is the empty configuration.
pub fn claim(config: Option<&SandboxConfig>) -> Result<SandboxConfig, Vec<Violation>> {
    let mut out = Vec::new();
    let mut config = config.cloned().unwrap_or_default();
    out.extend(spelling::misspelt(&config.extra, CONFIG_KEYS, "config"));
    ttl_pair(config.ttl, config.hard_ttl, "config", &mut out);
    if let Some(vars) = config.env_vars.take() {
        config.env_vars = Some(keep(env_vars(&vars, "config.env_vars"), &mut out));
    }
    if let Some(webhook) = config.webhook.take() {
        config.webhook = webhook::claimed(webhook, "config.webhook", &mut out);
    }
    config.network = config.network.take().filter(|network| !network.is_null());
    if let Some(network) = &config.network {
        out.extend(network_policy_on_template(network, "config.network"));
    }
    if let Some(asked) = &config.resources {
        out.extend(resources(asked, "config.resources").err().unwrap_or_default());
    }
    config.services = config.services.take().filter(|services| !services.is_null());
    if let Some(sent) = config.services.take() {
        config.services = Some(keep(services(&sent, "config.services"), &mut out));
    }
    resume_needs_auto_resume(&config, &mut out);
    finish(config, out)
}

/// Checks an update against the stored configuration and returns the one that results. Absent fields are kept.
///
/// `services: []` beside other fields is what some SDKs add to every update, so it counts as absent then; alone it clears.
/// The same holds for an empty `webhook` or `null`.
pub fn update(current: &SandboxConfig, update: &UpdateConfig) -> Result<SandboxConfig, Vec<Violation>> {
    let mut out = Vec::new();
    let mut config = current.clone();
    out.extend(spelling::misspelt(&update.extra, CONFIG_KEYS, "config"));
    if update.ttl.is_some() {
        config.ttl = update.ttl;
    }
    if update.hard_ttl.is_some() {
        config.hard_ttl = update.hard_ttl;
    }
    ttl_pair(config.ttl, config.hard_ttl, "config", &mut out);
    if update.auto_resume.is_some() {
        config.auto_resume = update.auto_resume;
    }
    if let Some(network) = update.network.as_ref().filter(|network| !network.is_null()) {
        out.extend(network_policy_on_template(network, "config.network"));
        config.network = Some(network.clone());
    }
    if let Some(asked) = &update.resources {
        out.extend(resources(asked, "config.resources").err().unwrap_or_default());
        let mut merged = config.resources.take().unwrap_or_default();
        for (to, from) in [(&mut merged.memory, &asked.memory), (&mut merged.cpu, &asked.cpu), (&mut merged.ephemeral_storage, &asked.ephemeral_storage)] {
            if from.is_some() {
                to.clone_from(from);
            }
        }
        config.resources = Some(merged);
    }
    let other_fields =
        update.ttl.is_some() || update.hard_ttl.is_some() || update.auto_resume.is_some() || update.network.is_some() || update.resources.is_some();
    if let Some(sent) = update.services.as_ref().filter(|sent| !sent.is_null()) {
        let added_by_sdk = other_fields && sent.as_array().is_some_and(Vec::is_empty);
        if !added_by_sdk {
            config.services = Some(keep(services(sent, "config.services"), &mut out));
        }
    }
    if update.env_vars.as_ref().is_some_and(|value| !is_blank(value)) {
        out.push(Violation::new("config.env_vars", "cannot be changed at runtime; claim a new sandbox to use another"));
    }
    match &update.webhook {
        Some(sent) if !is_blank(sent) => config.webhook = webhook::updated(config.webhook.take(), sent, "config.webhook", &mut out),
        Some(_) if !other_fields && update.services.is_none() && update.env_vars.is_none() => config.webhook = None,
        Some(_) | None => {}
    }
    resume_needs_auto_resume(&config, &mut out);
    finish(config, out)
}

/// Checks services that replace all of a sandbox's (`PUT .../services`) and returns the configuration that results.
/// `body` is the whole body: its key `services` must be there.
pub fn replace_services(current: &SandboxConfig, body: &Value) -> Result<SandboxConfig, Vec<Violation>> {
    let Some(sent) = body.get("services").filter(|sent| !sent.is_null()) else {
        return Err(vec![Violation::new("services", "services is required")]);
    };
    let mut out = Vec::new();
    let mut config = current.clone();
    config.services = Some(keep(services(sent, "services"), &mut out));
    if config.auto_resume == Some(false) && wants_resume(config.services.as_ref()) {
        out.push(Violation::new("services", RESUME_WITHOUT_AUTO_RESUME));
    }
    finish(config, out)
}

/// Checks and normalises an environment: names are trimmed; empty ones and ones with `=` are dropped silently.
pub fn env_vars(vars: &BTreeMap<String, String>, path: &str) -> Result<BTreeMap<String, String>, Vec<Violation>> {
    let mut out = Vec::new();
    let mut kept = BTreeMap::new();
    let mut total = 0usize;
    for (name, value) in vars {
        let name = name.trim();
        if name.is_empty() || name.contains('=') {
            continue;
        }
        let at = || format!("{path}.{}", shown(name));
        if name.contains('\0') || value.contains('\0') {
            out.push(Violation::new(at(), "must not hold a NUL byte"));
        }
        if name.len() > limits::ENV_NAME_MAX_BYTES {
            out.push(Violation::new(at(), format!("the name is longer than {} bytes", limits::ENV_NAME_MAX_BYTES)));
        }
        if value.len() > limits::ENV_VALUE_MAX_BYTES {
            out.push(Violation::new(at(), format!("the value is longer than {} bytes", limits::ENV_VALUE_MAX_BYTES)));
        }
        total = total.saturating_add(name.len() + value.len() + 2);
        kept.insert(name.to_owned(), value.clone());
    }
    if kept.len() > limits::ENV_VARS_MAX {
        out.push(Violation::new(path, format!("has {} variables; {} are the limit", kept.len(), limits::ENV_VARS_MAX)));
    }
    if total > limits::ENV_TOTAL_MAX_BYTES {
        out.push(Violation::new(path, format!("holds {total} bytes; {} are the limit", limits::ENV_TOTAL_MAX_BYTES)));
    }
    finish(kept, out)
}

/// Reads the resources that were asked for. What is absent takes its default.
pub fn resources(asked: &Resources, path: &str) -> Result<Limits, Vec<Violation>> {
    let mut out = Vec::new();
    let memory_bytes = amount(
        asked.memory.as_deref(),
        &format!("{path}.memory"),
        limits::MEMORY_DEFAULT_BYTES,
        limits::MEMORY_MIN_BYTES,
        limits::MEMORY_MAX_BYTES,
        quantity::parse_bytes,
        quantity::format_bytes,
        &mut out,
    );
    let cpu_millis = amount(
        asked.cpu.as_deref(),
        &format!("{path}.cpu"),
        limits::CPU_DEFAULT_MILLIS,
        limits::CPU_MIN_MILLIS,
        limits::CPU_MAX_MILLIS,
        quantity::parse_cpu_millis,
        quantity::format_cpu_millis,
        &mut out,
    );
    let disk_bytes = amount(
        asked.ephemeral_storage.as_deref(),
        &format!("{path}.ephemeralStorage"),
        limits::DISK_DEFAULT_BYTES,
        limits::DISK_MIN_BYTES,
        limits::DISK_MAX_BYTES,
        quantity::parse_bytes,
        quantity::format_bytes,
        &mut out,
    );
    finish(Limits { memory_bytes, cpu_millis, disk_bytes }, out)
}

/// The resources of a sandbox: its own over its template's over the defaults. Both were checked when they were stored;
/// what is not readable all the same takes its default.
pub fn effective_resources(template: &TemplateSpec, config: &SandboxConfig) -> Limits {
    let own = config.resources.clone().unwrap_or_default();
    let base = &template.main_container.resources;
    let merged = Resources {
        memory: own.memory.or_else(|| base.memory.clone()),
        cpu: own.cpu.or_else(|| base.cpu.clone()),
        ephemeral_storage: own.ephemeral_storage.or_else(|| base.ephemeral_storage.clone()),
    };
    resources(&merged, "resources").unwrap_or(Limits {
        memory_bytes: limits::MEMORY_DEFAULT_BYTES,
        cpu_millis: limits::CPU_DEFAULT_MILLIS,
        disk_bytes: limits::DISK_DEFAULT_BYTES,
    })
}

/// Checks a template's specification.
pub fn template(spec: &TemplateSpec) -> Vec<Violation> {
    let mut out = spelling::misspelt(&spec.extra, TEMPLATE_KEYS, "spec");
    if spec.main_container.image.trim().is_empty() {
        out.push(Violation::new("spec.mainContainer.image", "is required"));
    } else if !is_digest(spec.main_container.image.trim())
        && let Err(error) = spec.main_container.image.trim().parse::<ImageName>()
    {
        out.push(Violation::new("spec.mainContainer.image", error.to_string()));
    }
    out.extend(resources(&spec.main_container.resources, "spec.mainContainer.resources").err().unwrap_or_default());
    if let Some(vars) = &spec.env_vars {
        out.extend(env_vars(vars, "spec.envVars").err().unwrap_or_default());
    }
    if let Some(env) = &spec.main_container.env {
        let vars = env.iter().map(|var| (var.name.clone(), var.value.clone())).collect();
        out.extend(env_vars(&vars, "spec.mainContainer.env").err().unwrap_or_default());
    }
    if let Some(network) = spec.network.as_ref().filter(|network| !network.is_null()) {
        out.extend(network_policy(network, "spec.network"));
    }
    if let Some(pool) = &spec.pool {
        for (name, value) in [("minIdle", pool.min_idle), ("maxIdle", pool.max_idle)] {
            if value > limits::POOL_MAX_IDLE {
                out.push(Violation::new(format!("spec.pool.{name}"), format!("is {value}; {} is the limit", limits::POOL_MAX_IDLE)));
            }
        }
        if pool.max_idle > 0 && pool.min_idle > pool.max_idle {
            out.push(Violation::new("spec.pool.minIdle", format!("is more than maxIdle, which is {}", pool.max_idle)));
        }
    }
    out.extend(template_mounts(spec));
    out.extend(warm::check(spec));
    for (name, text) in [("description", &spec.description), ("displayName", &spec.display_name)] {
        if text.as_ref().is_some_and(|text| text.chars().count() > limits::TEXT_MAX_CHARS) {
            out.push(Violation::new(format!("spec.{name}"), format!("is longer than {} characters", limits::TEXT_MAX_CHARS)));
        }
    }
    out
}

/// Checks where a template's volumes and folders in memory go.
fn template_mounts(spec: &TemplateSpec) -> Vec<Violation> {
    let mut out = Vec::new();
    let mut places: Vec<&str> = Vec::new();
    let volumes = spec.volume_mounts.as_deref().unwrap_or_default();
    let in_memory = spec.ephemeral_mounts.as_deref().unwrap_or_default();
    for (list, count, max) in [("volumeMounts", volumes.len(), limits::MOUNTS_MAX), ("ephemeralMounts", in_memory.len(), limits::EPHEMERAL_MOUNTS_MAX)] {
        if count > max {
            out.push(Violation::new(format!("spec.{list}"), format!("there are {count}; {max} is the limit")));
        }
    }
    let paths = volumes.iter().enumerate().map(|(n, mount)| (format!("spec.volumeMounts[{n}]"), mount.mount_path.as_str()));
    for (field, path) in paths.chain(in_memory.iter().enumerate().map(|(n, mount)| (format!("spec.ephemeralMounts[{n}]"), mount.mount_path.as_str()))) {
        match crate::volume::check_mount_point(path) {
            Err(text) => out.push(Violation::new(format!("{field}.mountPath"), text)),
            Ok(()) => match places.iter().find(|other| crate::volume::overlap(path, other)) {
                Some(other) => out.push(Violation::new(format!("{field}.mountPath"), format!("lies on or in another mount, {other}"))),
                None => places.push(path),
            },
        }
    }
    for (n, mount) in in_memory.iter().enumerate() {
        let fits = |bytes: u64| (limits::EPHEMERAL_MIN_BYTES..=limits::MEMORY_MAX_BYTES).contains(&bytes);
        if !quantity::parse_bytes(&mount.size_limit).is_ok_and(fits) {
            let (min, max) = (quantity::format_bytes(limits::EPHEMERAL_MIN_BYTES), quantity::format_bytes(limits::MEMORY_MAX_BYTES));
            out.push(Violation::new(format!("spec.ephemeralMounts[{n}].sizeLimit"), format!("must be a size from {min} to {max}, such as 64Mi")));
        }
    }
    for (n, mount) in volumes.iter().enumerate() {
        out.extend(name(&mount.name, &format!("spec.volumeMounts[{n}].name")));
    }
    out
}

/// Checks a network policy by compiling it.
pub fn network_policy(network: &Value, path: &str) -> Vec<Violation> {
    policy_violations(egress::compile_value(network).err().unwrap_or_default(), path)
}

/// The same for one that holds on top of a template's, whose credential bindings it may use.
pub fn network_policy_on_template(network: &Value, path: &str) -> Vec<Violation> {
    policy_violations(egress::check_part(network), path)
}

fn policy_violations(errors: Vec<egress::PolicyError>, path: &str) -> Vec<Violation> {
    errors
        .into_iter()
        .map(|error| Violation::new(if error.path.is_empty() { path.to_owned() } else { format!("{path}.{}", error.path) }, error.message))
        .collect()
}

/// Whether an id can stand as a DNS label: lower-case letters, digits and inner hyphens.
pub fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= limits::LABEL_MAX_CHARS && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Checks a name given by a user, which has already been trimmed.
pub fn name(text: &str, path: &str) -> Vec<Violation> {
    let mut out = Vec::new();
    if text.trim().is_empty() {
        out.push(Violation::new(path, "is required"));
    }
    if text.chars().count() > limits::NAME_MAX_CHARS {
        out.push(Violation::new(path, format!("is longer than {} characters", limits::NAME_MAX_CHARS)));
    }
    if text.chars().any(char::is_control) {
        out.push(Violation::new(path, "must not hold control characters"));
    }
    out
}

fn ttl_pair(ttl: Option<i32>, hard_ttl: Option<i32>, path: &str, out: &mut Vec<Violation>) {
    for (name, value) in [("ttl", ttl), ("hard_ttl", hard_ttl)] {
        if value.is_some_and(|seconds| seconds < 0) {
            out.push(Violation::new(format!("{path}.{name}"), "must be 0 (off) or more seconds"));
        }
    }
    if let (Some(ttl @ 1..), Some(hard_ttl @ 1..)) = (ttl, hard_ttl)
        && ttl > hard_ttl
    {
        out.push(Violation::new(format!("{path}.ttl"), format!("ttl must be <= hard_ttl, and {ttl} s is more than {hard_ttl} s")));
    }
}

fn resume_needs_auto_resume(config: &SandboxConfig, out: &mut Vec<Violation>) {
    if config.auto_resume == Some(false) && wants_resume(config.services.as_ref()) {
        out.push(Violation::new("config.auto_resume", RESUME_WITHOUT_AUTO_RESUME));
    }
}

#[expect(clippy::too_many_arguments, reason = "one line per resource reads better than a struct for three calls")]
fn amount(
    text: Option<&str>,
    path: &str,
    default: u64,
    min: u64,
    max: u64,
    parse: fn(&str) -> Result<u64, quantity::QuantityError>,
    format: fn(u64) -> String,
    out: &mut Vec<Violation>,
) -> u64 {
    // An SDK sends "" for what was not set.
    let Some(text) = text.filter(|text| !text.is_empty()) else { return default };
    match parse(text) {
        Ok(value) if (min..=max).contains(&value) => value,
        Ok(_) => {
            out.push(Violation::new(path, format!("{text:?} is outside {} to {}", format(min), format(max))));
            default
        }
        Err(error) => {
            out.push(Violation::new(path, error.to_string()));
            default
        }
    }
}

/// The value, or its default with the violations noted.
fn keep<T: Default>(result: Result<T, Vec<Violation>>, out: &mut Vec<Violation>) -> T {
    result.unwrap_or_else(|violations| {
        out.extend(violations);
        T::default()
    })
}

fn finish<T>(value: T, out: Vec<Violation>) -> Result<T, Vec<Violation>> {
    if out.is_empty() { Ok(value) } else { Err(out) }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty() || map.values().all(|v| matches!(v, Value::Null) || v.as_str() == Some("")),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => false,
    }
}

/// A client's text in a path, cut so that errors stay short.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// An object in a client's JSON.
type Object = Map<String, Value>;

#[cfg(test)]
mod tests;
