//! What a row says, in the node's terms.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use sandbar_api::template::{self as api, TemplateSpec};
use sandbar_core::{
    egress::{self, Policy},
    image::HOST,
    limits, quantity,
    sandbox::{Base, Mount, SandboxRecord},
    validate,
};
use sandbar_node::{
    Limits, Node, Root, Runtime, RuntimeSpec, Tmpfs, VolumeMount,
    egress::Terms,
    error_text,
    warm::{Check, PASSING, Probe, Start, WarmProcess},
};
use sandbar_procd_api::{Assign, Trust};
use sandbar_store::NewEvent;
use serde_json::Value;

use super::now_ms;

/// Where contexts start when they do not say.
const CWD: &str = "/workspace";
/// A runtime that answered once takes its owner within this time or has failed; whoever owns the sandbox waits.
const ASSIGN_WITHIN: Duration = Duration::from_secs(10);

/// Where volumes' files are: tree by volume.
pub(crate) type Trees = HashMap<String, String>;

/// What a sandbox is launched from. `base` is its own, or what its template means now.
pub(crate) fn runtime_spec(node: &Node, record: &SandboxRecord, base: Base, trees: &Trees) -> Result<RuntimeSpec, String> {
    let mount = |mount: &Mount| {
        let tree_id = trees.get(&mount.volume_id).ok_or_else(|| format!("its volume {} is gone", mount.volume_id))?;
        Ok::<_, String>(VolumeMount { tree_id: tree_id.clone(), target: inside(&mount.mount_point), read_only: mount.read_only })
    };
    let mounts = record.mounts.iter().map(mount).collect::<Result<_, _>>()?;
    let warm = warm(node, &record.template, Some(&base));
    Ok(RuntimeSpec { base, limits: limits_of(record), mounts, tmpfs: tmpfs(&record.template), warm })
}

/// What a sandbox may use.
pub(crate) fn limits_of(record: &SandboxRecord) -> Limits {
    node_limits(&validate::effective_resources(&record.template, &record.config))
}

/// What the pool of a template launches.
pub(crate) fn pool_spec(node: &Node, template: &TemplateSpec, base: Base) -> RuntimeSpec {
    let asked = validate::effective_resources(template, &sandbar_api::sandbox::SandboxConfig::default());
    let warm = warm(node, template, Some(&base));
    RuntimeSpec { base, limits: node_limits(&asked), mounts: Vec::new(), tmpfs: tmpfs(template), warm }
}

/// Templates whose idle runtimes are alike share a pool: what differs is assigned at claim.
pub(crate) fn pool_key(spec: &RuntimeSpec) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    spec.hash(&mut hasher);
    format!("{}/{:016x}", spec.base.image, hasher.finish())
}

/// What a template is made from now: the files of a sandbox, or an image by its present content.
pub(crate) fn base_of(node: &Node, template: &TemplateSpec, files: Option<&Base>) -> Result<Base, String> {
    match files {
        Some(base) => Ok(base.clone()),
        None => node.images().resolve(image_of(template)).map(|image| Base { image, layers: Vec::new() }).map_err(|error| error_text(&error)),
    }
}

fn tmpfs(template: &TemplateSpec) -> Vec<Tmpfs> {
    let mounts = template.ephemeral_mounts.iter().flatten();
    mounts.map(|mount| Tmpfs { target: inside(&mount.mount_path), bytes: quantity::parse_bytes(&mount.size_limit).unwrap_or(0) }).collect()
}

/// What runs in a template's sandboxes before they are claimed: with the environment of image and template, not with a
/// claim's.
pub(crate) fn warm(node: &Node, template: &TemplateSpec, base: Option<&Base>) -> Vec<WarmProcess> {
    let processes = template.warm_processes.as_deref().unwrap_or_default();
    let image_env = if processes.is_empty() { Vec::new() } else { image_env(node, base) };
    let one = |(index, process): (usize, &api::WarmProcess)| {
        let mut env = with_image(image_env.clone(), base_env(template));
        env.extend(process.env_vars.clone().unwrap_or_default());
        let probes = process.probes.clone().unwrap_or_default();
        WarmProcess {
            name: validate::warm_name(process, index),
            start: match (&process.command, process.kind.as_str()) {
                (Some(command), "cmd") => Start::Cmd(command.clone()),
                _ => Start::Repl(process.alias.clone().unwrap_or_default()),
            },
            cwd: process.cwd.clone(),
            env,
            startup: probes.startup.map(|probe| timed(&probe, 1, 30)),
            readiness: probes.readiness.map(|probe| timed(&probe, 1, 30)),
            liveness: probes.liveness.map(|probe| timed(&probe, 10, 3)),
        }
    };
    processes.iter().enumerate().map(one).collect()
}

fn timed(probe: &api::Probe, period_s: u32, failures: u32) -> Probe {
    let seconds = |given: Option<u32>, default: u32| Duration::from_secs(u64::from(given.unwrap_or(default)));
    let check = match (&probe.exec, &probe.http_get, &probe.tcp_socket) {
        (Some(exec), _, _) => Check::Exec(exec.command.clone()),
        (_, Some(http), _) => {
            let headers = http.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect();
            Check::Http { port: http.port, path: http.path.clone().unwrap_or_else(|| "/".to_owned()), headers, passing: PASSING }
        }
        (_, _, tcp) => Check::Tcp(tcp.as_ref().map_or(0, |tcp| tcp.port)),
    };
    Probe {
        check,
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, period_s),
        timeout: seconds(probe.timeout_seconds, 1),
        failures: probe.failure_threshold.unwrap_or(failures),
        successes: probe.success_threshold.unwrap_or(1),
    }
}

fn inside(path: &str) -> PathBuf {
    PathBuf::from(path.trim_start_matches('/'))
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

/// The network policy that holds: the sandbox's own over its template's, so that rules of the template stay unless one
/// of the same name replaces them; without both, everything unprotected.
pub(crate) fn policy(record: &SandboxRecord) -> Result<Policy, String> {
    let part = |network: &Option<Value>| network.clone().unwrap_or_default();
    egress::compile_value(&egress::merge(&part(&record.template.network), &part(&record.config.network)))
        .map_err(|errors| errors.iter().map(|error| format!("network.{error}")).collect::<Vec<_>>().join("; "))
}

/// Makes a runtime the sandbox's own: environment, ids and network policy. Returns what its owner should read about it.
pub(crate) async fn make_own(node: &Node, runtime: &Arc<Runtime>, record: &SandboxRecord, terms: Terms) -> Result<Option<NewEvent>, String> {
    let image_env = image_env(node, record.base.as_ref());
    let assign = Assign {
        sandbox_id: record.id.clone(),
        base_env: with_image(image_env, base_env(&record.template)),
        env: record.config.env_vars.clone().unwrap_or_default(),
        cwd: Some(CWD.to_owned()),
        publishing: record.config.webhook.is_some(),
    };
    // Pooled runtimes start with the default policy, so the usual claim has nothing to change.
    let mut warning = None;
    if terms.policy != Policy::allow_all() {
        let trust = node.trust_for(&terms.policy);
        runtime.set_policy(terms).await.map_err(|error| error_text(&error))?;
        if let Some(trust) = trust {
            warning = establish(node, runtime, &record.id, trust).await;
        }
    }
    match tokio::time::timeout(ASSIGN_WITHIN, runtime.client.assign(&assign)).await {
        Ok(assigned) => assigned.map(|()| warning).map_err(|error| error_text(&error)),
        Err(_) => Err(format!("its agent did not answer within {} s", ASSIGN_WITHIN.as_secs())),
    }
}

/// Lets programs inside trust what the policy has ended outside. Where that cannot be done they refuse those connections,
/// and all else goes on: the event is for whoever wonders why.
pub(crate) async fn establish(node: &Node, runtime: &Runtime, sandbox_id: &str, trust: Trust) -> Option<NewEvent> {
    let error = node.trust(runtime, trust).await.err()?;
    tracing::warn!(sandbox = sandbox_id, error = error_text(&error), "programs inside do not trust the egress");
    let message = format!("programs inside may refuse connections that the network policy has ended outside: {}", error_text(&error));
    Some(NewEvent::new(now_ms(), "sandbox.egress_untrusted", message))
}

fn image_env(node: &Node, base: Option<&Base>) -> Vec<(String, String)> {
    node.images().env(base.map_or(HOST, |base| &base.image))
}

/// An image's environment with another on top.
fn with_image(image: Vec<(String, String)>, stronger: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = image.into_iter().collect();
    env.extend(stronger);
    env
}

/// Environment of a template, weakest first: its `envVars`, then the container's `env`.
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
    Limits { memory_bytes: asked.memory_bytes, cpu_millis: asked.cpu_millis, pids: limits::PIDS_DEFAULT, disk_bytes: asked.disk_bytes }
}

#[cfg(test)]
mod tests {
    use sandbar_core::{
        egress::{Flow, Protected, Protocol, Said, Seen, judge},
        lifecycle,
    };
    use serde_json::json;

    use super::*;

    fn allows(template: Value, own: Value, addr: &str) -> Result<bool, String> {
        let some = |value: Value| Some(value).filter(|value| !value.is_null());
        let claim = lifecycle::Claim {
            id: "sb-1".into(),
            team_id: "t".into(),
            user_id: "u".into(),
            template_id: "default".into(),
            template: TemplateSpec { network: some(template), ..TemplateSpec::default() },
            config: sandbar_api::sandbox::SandboxConfig { network: some(own), ..Default::default() },
            mounts: Vec::new(),
            base: None,
        };
        let flow = Flow { addr: addr.parse().expect("an address"), port: 443, proto: Protocol::Tcp };
        let seen = Seen { flow, names: &[], said: Said::Nothing };
        Ok(judge(&policy(&lifecycle::claim(claim, 0))?, &Protected::new(Vec::new(), &[], true), &seen).is_allowed())
    }

    #[test]
    fn a_sandbox_keeps_the_rules_of_its_template() {
        let rule = |action: &str, cidr: &str| json!({"egress": {"trafficRules": [{"name": "r", "action": action, "cidrs": [cidr]}]}});
        let template = rule("deny", "1.1.1.1/32");
        assert_eq!(allows(Value::Null, Value::Null, "1.1.1.1"), Ok(true));
        assert_eq!(allows(template.clone(), Value::Null, "1.1.1.1"), Ok(false));
        assert_eq!(allows(template.clone(), json!({"mode": "allow-all"}), "1.1.1.1"), Ok(false), "its mode alone does not lift them");
        assert_eq!(allows(template.clone(), rule("allow", "1.1.1.1/32"), "1.1.1.1"), Ok(true), "a rule of the same name does");
        assert_eq!(allows(json!({"mode": "block-all"}), json!({"egress": {}}), "8.8.8.8"), Ok(false));
        assert_eq!(allows(json!({"mode": "block-all"}), json!({"mode": "allow-all"}), "8.8.8.8"), Ok(true));
        let mixed = allows(template, json!({"mode": "allow-all", "egress": {"deniedCidrs": ["9.9.9.9/32"]}}), "1.1.1.1");
        assert!(mixed.expect_err("rules and lists do not mix").starts_with("network.egress.trafficRules: "));
    }
}
