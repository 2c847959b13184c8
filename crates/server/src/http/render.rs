//! A sandbox's row as clients read it: the union of the fields that the generations of clients want. A profile only
//! changes values.

use sandbar_api::sandbox::{
    ClaimResponse, PauseResponse, RefreshResponse, Resources, ResumeResponse, SandboxResponse, SandboxSsh, SandboxStatusResponse, SandboxSummary, WebhookView,
};
use sandbar_core::{
    lifecycle::{self, Profile, WireStatus},
    public_host, quantity,
    sandbox::SandboxRecord,
    validate,
};
use serde_json::{Value, json};

use super::time::{deadline, rfc3339};
use crate::{app::App, config::Config};

/// This machine, where clients ask for a cluster or a region.
pub const HERE: &str = "default";

pub fn claimed(record: &SandboxRecord, profile: Profile) -> ClaimResponse {
    ClaimResponse {
        sandbox_id: record.id.clone(),
        template: record.template_id.clone(),
        team_id: record.team_id.clone(),
        user_id: record.user_id.clone(),
        status: lifecycle::wire_status(record, profile).status.to_owned(),
        pod_name: runtime_id(record),
        runtime_id: runtime_id(record),
        runtime_generation: record.runtime_generation,
        cluster_id: Some(HERE.to_owned()),
        power_state: lifecycle::power_state(record),
        claimed_at: rfc3339(record.claimed_at_ms),
        created_at: rfc3339(record.created_at_ms),
        updated_at: rfc3339(record.updated_at_ms),
        expires_at: deadline(record.expires_at_ms, profile),
        hard_expires_at: deadline(record.hard_expires_at_ms, profile),
    }
}

pub fn full(record: &SandboxRecord, profile: Profile, app: &App) -> SandboxResponse {
    let WireStatus { status, paused, cleaned } = lifecycle::wire_status(record, profile);
    SandboxResponse {
        id: record.id.clone(),
        template_id: record.template_id.clone(),
        team_id: record.team_id.clone(),
        user_id: record.user_id.clone(),
        status: status.to_owned(),
        paused,
        auto_resume: record.auto_resume(),
        power_state: lifecycle::power_state(record),
        pod_name: runtime_id(record),
        runtime_id: runtime_id(record),
        runtime_generation: record.runtime_generation,
        lifecycle_state: lifecycle_state(cleaned),
        cleaned,
        reason_code: record.reason_code.clone(),
        status_reason: record.reason.clone(),
        services: services(record, profile, &app.config),
        ssh: app.ssh.as_ref().map(|ssh| SandboxSsh { host: app.config.public_domain.clone(), port: ssh.port, username: record.id.clone() }),
        mounts: record
            .mounts
            .iter()
            .map(|m| serde_json::json!({ "sandboxvolume_id": m.volume_id, "mount_point": m.mount_point, "read_only": m.read_only }))
            .collect(),
        webhook: record.config.webhook.as_ref().map(|webhook| WebhookView {
            url: webhook.url.clone(),
            watch_dir: webhook.watch_dir.clone(),
            has_secret: webhook.secret.is_some(),
        }),
        resources: Some(resources(record)),
        ttl: record.ttl_s,
        hard_ttl: record.hard_ttl_s,
        claimed_at: rfc3339(record.claimed_at_ms),
        created_at: rfc3339(record.created_at_ms),
        updated_at: rfc3339(record.updated_at_ms),
        expires_at: deadline(record.expires_at_ms, profile),
        hard_expires_at: deadline(record.hard_expires_at_ms, profile),
    }
}

pub fn summary(record: &SandboxRecord, profile: Profile) -> SandboxSummary {
    let WireStatus { status, paused, cleaned } = lifecycle::listed_status(record, profile);
    SandboxSummary {
        id: record.id.clone(),
        template_id: record.template_id.clone(),
        status: status.to_owned(),
        paused,
        lifecycle_state: lifecycle_state(cleaned),
        cleaned,
        power_state: lifecycle::power_state(record),
        pod_name: runtime_id(record),
        runtime_id: runtime_id(record),
        runtime_generation: record.runtime_generation,
        cluster_id: Some(HERE.to_owned()),
        created_at: rfc3339(record.created_at_ms),
        updated_at: rfc3339(record.updated_at_ms),
        expires_at: deadline(record.expires_at_ms, profile),
        hard_expires_at: deadline(record.hard_expires_at_ms, profile),
    }
}

pub fn status(record: &SandboxRecord, profile: Profile) -> SandboxStatusResponse {
    let WireStatus { status, paused, cleaned } = lifecycle::wire_status(record, profile);
    SandboxStatusResponse {
        sandbox_id: record.id.clone(),
        template_id: record.template_id.clone(),
        team_id: record.team_id.clone(),
        user_id: record.user_id.clone(),
        status: status.to_owned(),
        paused,
        lifecycle_state: lifecycle_state(cleaned),
        cleaned,
        reason_code: record.reason_code.clone(),
        status_reason: record.reason.clone(),
        power_state: lifecycle::power_state(record),
        pod_name: runtime_id(record),
        runtime_id: runtime_id(record),
        runtime_generation: record.runtime_generation,
        claimed_at: rfc3339(record.claimed_at_ms),
        created_at: rfc3339(record.created_at_ms),
        updated_at: rfc3339(record.updated_at_ms),
        expires_at: deadline(record.expires_at_ms, profile),
        hard_expires_at: deadline(record.hard_expires_at_ms, profile),
    }
}

pub fn paused(record: &SandboxRecord, profile: Profile) -> PauseResponse {
    let WireStatus { status, paused, cleaned: _ } = lifecycle::wire_status(record, profile);
    PauseResponse { sandbox_id: record.id.clone(), paused, status: status.to_owned(), power_state: lifecycle::power_state(record) }
}

pub fn resumed(record: &SandboxRecord, profile: Profile) -> ResumeResponse {
    let WireStatus { status, paused, cleaned: _ } = lifecycle::wire_status(record, profile);
    ResumeResponse {
        sandbox_id: record.id.clone(),
        resumed: !paused,
        status: status.to_owned(),
        runtime_generation: record.runtime_generation,
        power_state: lifecycle::power_state(record),
    }
}

pub fn refreshed(record: &SandboxRecord, profile: Profile) -> RefreshResponse {
    RefreshResponse {
        sandbox_id: record.id.clone(),
        expires_at: deadline(record.expires_at_ms, profile),
        hard_expires_at: deadline(record.hard_expires_at_ms, profile),
    }
}

/// The services as views: with whether they can be published, what is in the way, and their public URL.
pub fn services(record: &SandboxRecord, profile: Profile, config: &Config) -> Vec<Value> {
    let stored = record.config.services.as_ref().and_then(Value::as_array);
    stored.into_iter().flatten().filter(|service| is_known(service, profile)).map(|service| view(service, record, config)).collect()
}

fn view(service: &Value, record: &SandboxRecord, config: &Config) -> Value {
    let mut view = service.clone();
    let Some(fields) = view.as_object_mut() else { return view };
    let blockers = validate::publish_blockers(service);
    fields.insert("publishable".to_owned(), blockers.is_empty().into());
    if !blockers.is_empty() {
        fields.insert("publish_blockers".to_owned(), json!(blockers));
    }
    let public = service.pointer("/ingress/public").and_then(Value::as_bool).unwrap_or_default();
    if public && let Some(port) = service.get("port").and_then(Value::as_u64) {
        fields.insert("public_url".to_owned(), config.public_url(&public_host::sandbox_label(&record.id, port)).into());
    }
    view
}

/// The current clients fail on the runtime `warm_process`; its service is whole in the May profile.
fn is_known(service: &Value, profile: Profile) -> bool {
    match profile {
        Profile::May => true,
        Profile::Current => service.pointer("/runtime/type").and_then(Value::as_str) != Some("warm_process"),
    }
}

/// What the sandbox really has, whatever was asked for.
fn resources(record: &SandboxRecord) -> Resources {
    let limits = validate::effective_resources(&record.template, &record.config);
    Resources {
        memory: Some(quantity::format_bytes(limits.memory_bytes)),
        cpu: Some(quantity::format_cpu_millis(limits.cpu_millis)),
        ephemeral_storage: Some(quantity::format_bytes(limits.disk_bytes)),
    }
}

fn runtime_id(record: &SandboxRecord) -> String {
    record.runtime_id.clone().unwrap_or_default()
}

fn lifecycle_state(cleaned: bool) -> Option<String> {
    cleaned.then(|| "cleaned".to_owned())
}
