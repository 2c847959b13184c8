//! What a row says, in the node's terms.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sandbar_api::template::TemplateSpec;
use sandbar_core::{egress::Policy, limits, sandbox::SandboxRecord, validate};
use sandbar_node::{Limits, Root, Runtime, RuntimeSpec, error_text};
use sandbar_procd_api::Assign;

/// Where contexts start when they do not say.
const CWD: &str = "/workspace";
/// A runtime that answered once takes its owner within this time or has failed; whoever owns the sandbox waits.
const ASSIGN_WITHIN: Duration = Duration::from_secs(10);

/// Image and limits of a sandbox.
pub(crate) fn runtime_spec(record: &SandboxRecord) -> Result<RuntimeSpec, String> {
    let asked = validate::effective_resources(&record.template, &record.config);
    Ok(RuntimeSpec { image: image_of(&record.template).to_owned(), limits: node_limits(&asked) })
}

/// What the pool of a template launches.
pub(crate) fn pool_spec(template: &TemplateSpec) -> RuntimeSpec {
    let asked = validate::effective_resources(template, &sandbar_api::sandbox::SandboxConfig::default());
    RuntimeSpec { image: image_of(template).to_owned(), limits: node_limits(&asked) }
}

/// Templates whose idle runtimes are alike share a pool: what differs is assigned at claim.
pub(crate) fn pool_key(template: &TemplateSpec) -> String {
    let spec = pool_spec(template);
    let Limits { memory_bytes, cpu_millis, pids, disk_bytes } = spec.limits;
    format!("{}/{memory_bytes}/{cpu_millis}/{pids}/{disk_bytes}", spec.image)
}

/// The sandbox's writable root, if it has one.
pub(crate) fn root_of(record: &SandboxRecord) -> Option<Root> {
    Some(Root { id: record.root_id.clone()?, uid_slot: record.uid_slot? })
}

/// Notes a runtime in the row.
pub(crate) fn set_runtime(record: &mut SandboxRecord, runtime: &Runtime) {
    record.runtime_id = Some(runtime.id.clone());
    record.root_id = Some(runtime.root.id.clone());
    record.uid_slot = Some(runtime.root.uid_slot);
    record.pid = Some(runtime.pid);
    record.pid_start = Some(runtime.pid_start);
}

/// The network policy that holds: the sandbox's own, else its template's, else everything unprotected.
pub(crate) fn policy(record: &SandboxRecord) -> Result<Policy, String> {
    match record.config.network.as_ref().or(record.template.network.as_ref()) {
        Some(network) => sandbar_core::egress::compile_value(network)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        None => Ok(Policy::allow_all()),
    }
}

/// Makes a runtime the sandbox's own: environment, ids and network policy.
pub(crate) async fn make_own(runtime: &Arc<Runtime>, record: &SandboxRecord) -> Result<(), String> {
    let policy = policy(record)?;
    let assign = Assign {
        sandbox_id: record.id.clone(),
        base_env: base_env(&record.template),
        env: record.config.env_vars.clone().unwrap_or_default(),
        cwd: Some(CWD.to_owned()),
    };
    // Pooled runtimes start with the default policy, so the usual claim has nothing to change.
    if policy != Policy::allow_all() {
        runtime.set_policy(policy).await.map_err(|error| error_text(&error))?;
    }
    match tokio::time::timeout(ASSIGN_WITHIN, runtime.client.assign(&assign)).await {
        Ok(assigned) => assigned.map_err(|error| error_text(&error)),
        Err(_) => Err(format!("its agent did not answer within {} s", ASSIGN_WITHIN.as_secs())),
    }
}

/// Environment of image and template, weakest first: template `envVars`, then the container's `env`.
fn base_env(template: &TemplateSpec) -> BTreeMap<String, String> {
    let mut env = template.env_vars.clone().unwrap_or_default();
    for var in template.main_container.env.iter().flatten() {
        env.insert(var.name.clone(), var.value.clone());
    }
    env
}

/// Name of the image that a template is made from.
pub(crate) fn image_of(template: &TemplateSpec) -> &str {
    template.main_container.image.trim()
}

fn node_limits(asked: &validate::Limits) -> Limits {
    Limits {
        memory_bytes: asked.memory_bytes,
        cpu_millis: asked.cpu_millis,
        pids: limits::PIDS_DEFAULT,
        disk_bytes: asked.disk_bytes,
    }
}
