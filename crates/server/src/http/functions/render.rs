//! Functions as clients read them: what is flat in one generation of clients and nested in the other is there twice.

use sandbar_api::function::{
    FunctionAliasResponse, FunctionAutoscaling, FunctionInstanceResponse, FunctionMountSource, FunctionResponse, FunctionRestoreMount, FunctionRevisionMount,
    FunctionRevisionResponse, FunctionRevisionSpec, FunctionRuntimeEvent, FunctionRuntimeResponse, FunctionWeight,
};
use sandbar_core::{
    function::{AliasRecord, Autoscaling, FunctionRecord, RevisionMount, RevisionRecord, Split, names, scale::Stage},
    limits,
};
use serde_json::Value;

use crate::{
    app::functions::{InstanceView, RuntimeView},
    config::Config,
    http::time::rfc3339,
};

pub fn function(function: &FunctionRecord, production: Option<&Split>, config: &Config) -> FunctionResponse {
    FunctionResponse {
        id: function.id.clone(),
        team_id: function.team_id.clone(),
        name: function.name.clone(),
        slug: function.slug.clone(),
        domain_label: function.domain_label.clone(),
        active_revision_id: production.and_then(Split::main).map(|target| target.revision_id.clone()),
        enabled: function.enabled,
        autoscaling: autoscaling(&function.autoscaling),
        created_by: function.created_by.clone(),
        created_at: rfc3339(function.created_at_ms),
        updated_at: rfc3339(function.updated_at_ms),
        deleted_at: function.deleted_at_ms.map(rfc3339),
        host: host(&function.domain_label, config),
        url: config.public_url(&function.domain_label),
    }
}

/// `instance` is a sandbox that serves it now, with the moment since when.
pub fn revision(revision: &RevisionRecord, proved_at_ms: Option<i64>, instance: Option<(String, i64)>) -> FunctionRevisionResponse {
    let (runtime_sandbox_id, runtime_updated_at) = instance.map(|(id, at)| (id, rfc3339(at))).unzip();
    let kept = |field: &str| revision.spec.as_ref().and_then(|spec| spec.get(field)).filter(|value| !value.is_null()).cloned();
    FunctionRevisionResponse {
        id: revision.id.clone(),
        function_id: revision.function_id.clone(),
        team_id: revision.team_id.clone(),
        revision_number: revision.number,
        source_type: revision.source.as_str().to_owned(),
        revision_spec: FunctionRevisionSpec {
            template_id: revision.template_id.clone(),
            runtime_service: revision.service_snapshot.clone(),
            mounts: Some(revision.mounts.iter().map(mount).collect()),
            static_assets: Some(kept("static_assets").unwrap_or_else(|| Value::Array(Vec::new()))),
            env_refs: Some(kept("env_refs").unwrap_or_else(|| Value::Array(Vec::new()))),
        },
        provenance: revision.provenance.clone(),
        source_sandbox_id: revision.source.sandbox_id().map(str::to_owned),
        source_service_id: revision.source.service_id().map(str::to_owned),
        source_template_id: revision.template_id.clone(),
        restore_mounts: revision.mounts.iter().map(restore_mount).collect(),
        service_snapshot: revision.service_snapshot.clone(),
        runtime_sandbox_id,
        runtime_updated_at,
        proved_at: proved_at_ms.map(rfc3339),
        created_by: revision.created_by.clone(),
        created_at: rfc3339(revision.created_at_ms),
    }
}

fn mount(mount: &RevisionMount) -> FunctionRevisionMount {
    FunctionRevisionMount {
        name: None,
        mount_point: mount.mount_point.clone(),
        mode: Some(if mount.read_only { "read_only" } else { "read_write" }.to_owned()),
        materialization: None,
        source: FunctionMountSource {
            kind: if mount.snapshot_id.is_some() { "volume_snapshot" } else { "sandbox_volume" }.to_owned(),
            sandboxvolume_id: Some(mount.volume_id.clone()),
            source_sandboxvolume_id: mount.source_volume_id.clone(),
            snapshot_id: mount.snapshot_id.clone(),
        },
    }
}

fn restore_mount(mount: &RevisionMount) -> FunctionRestoreMount {
    FunctionRestoreMount {
        sandboxvolume_id: mount.volume_id.clone(),
        source_sandboxvolume_id: mount.source_volume_id.clone(),
        snapshot_id: mount.snapshot_id.clone(),
        mount_point: mount.mount_point.clone(),
    }
}

pub fn alias(alias: &AliasRecord, function: &FunctionRecord, config: &Config) -> FunctionAliasResponse {
    let main = alias.split.main();
    let label = names::alias_label(&alias.alias, &function.domain_label);
    let weight = |target: &sandbar_core::function::Target| FunctionWeight { revision_number: target.revision_number, weight: i64::from(target.weight) };
    FunctionAliasResponse {
        function_id: alias.function_id.clone(),
        alias: alias.alias.clone(),
        revision_id: main.map(|target| target.revision_id.clone()).unwrap_or_default(),
        revision_number: main.map_or(0, |target| target.revision_number),
        weights: alias.split.targets.iter().map(weight).collect(),
        sticky: alias.split.sticky,
        host: label.as_deref().map(|label| host(label, config)),
        url: label.as_deref().map(|label| config.public_url(label)),
        updated_by: alias.updated_by.clone(),
        updated_at: rfc3339(alias.updated_at_ms),
    }
}

pub fn runtime(view: &RuntimeView) -> FunctionRuntimeResponse {
    let RuntimeView { function, revision, from_source, instances, failure, events } = view;
    let revision_id = revision.as_ref().map(|revision| revision.id.clone()).unwrap_or_default();
    let own: Vec<&InstanceView> = instances.iter().filter(|instance| instance.revision_id == revision_id).collect();
    let of_stage = |stage: Stage| own.iter().find(|instance| instance.stage == stage);
    let serving = of_stage(Stage::Ready).or_else(|| of_stage(Stage::Retiring));
    let has = |stage: Stage| own.iter().any(|instance| instance.stage == stage);
    let (state, phase, readiness) = if !function.enabled {
        ("disabled", "disabled", "unknown")
    } else if serving.is_some() {
        ("active", "ready", "ready")
    } else if has(Stage::Starting) {
        ("active", "starting", "checking")
    } else if has(Stage::Draining) {
        ("active", "draining", "unknown")
    } else if failure.is_some() {
        ("idle", "failed", "failed")
    } else {
        ("idle", "idle", "unknown")
    };
    let shown = events.iter().filter_map(|event| runtime_event(event, function)).take(limits::FUNCTION_EVENTS_SHOWN);
    FunctionRuntimeResponse {
        function_id: function.id.clone(),
        revision_number: revision.as_ref().map_or(0, |revision| revision.number),
        revision_id,
        state: state.to_owned(),
        phase: phase.to_owned(),
        autoscaling: autoscaling(&function.autoscaling),
        readiness_state: readiness.to_owned(),
        serving: if *from_source { "source" } else { "revision" }.to_owned(),
        runtime_sandbox_id: serving.map(|instance| instance.sandbox_id.clone()),
        runtime_updated_at: serving.and_then(|instance| instance.ready_at_ms).map(rfc3339),
        startup_duration_ms: serving.and_then(|instance| instance.startup_ms),
        last_error: failure.as_ref().map(|(reason, _)| reason.clone()),
        last_error_at: failure.as_ref().map(|(_, at)| rfc3339(*at)),
        instances: instances.iter().map(|instance| rendered(instance, function)).collect(),
        recent_events: shown.collect(),
    }
}

fn rendered(instance: &InstanceView, function: &FunctionRecord) -> FunctionInstanceResponse {
    let (state, readiness) = match instance.stage {
        Stage::Starting => ("starting", "checking"),
        Stage::Ready => ("ready", "ready"),
        Stage::Retiring | Stage::Draining => ("draining", "ready"),
    };
    let updated = [Some(instance.created_at_ms), instance.ready_at_ms, instance.last_used_ms].into_iter().flatten().max().unwrap_or_default();
    FunctionInstanceResponse {
        id: instance.sandbox_id.clone(),
        team_id: function.team_id.clone(),
        function_id: function.id.clone(),
        revision_id: instance.revision_id.clone(),
        revision_number: instance.revision_number,
        sandbox_id: instance.sandbox_id.clone(),
        state: state.to_owned(),
        readiness_state: readiness.to_owned(),
        in_flight: instance.in_flight as u64,
        startup_duration_ms: instance.startup_ms,
        ready_at: instance.ready_at_ms.map(rfc3339),
        last_used_at: instance.last_used_ms.map(rfc3339),
        created_at: rfc3339(instance.created_at_ms),
        updated_at: rfc3339(updated),
    }
}

/// Only what is about an instance: clients know no other.
fn runtime_event(event: &sandbar_store::FunctionEvent, function: &FunctionRecord) -> Option<FunctionRuntimeEvent> {
    let phase = event.phase.clone()?;
    let readiness = match phase.as_str() {
        "starting" | "provisioning" => "checking",
        "ready" | "failed" => &phase,
        _ => "unknown",
    };
    Some(FunctionRuntimeEvent {
        id: format!("{}/{}", function.id, event.seq),
        team_id: function.team_id.clone(),
        function_id: function.id.clone(),
        revision_id: event.revision_id.clone()?,
        readiness_state: readiness.to_owned(),
        phase,
        runtime_sandbox_id: event.sandbox_id.clone(),
        reason: event.kind.clone(),
        message: event.message.clone(),
        startup_duration_ms: event.startup_ms,
        created_at: rfc3339(event.at_ms),
    })
}

fn autoscaling(own: &Autoscaling) -> FunctionAutoscaling {
    FunctionAutoscaling {
        min_warm: own.min_warm.into(),
        max_active: own.max_active.into(),
        target_concurrency: own.target_concurrency.into(),
        scale_down_after_seconds: own.scale_down_after_seconds.into(),
    }
}

fn host(label: &str, config: &Config) -> String {
    format!("{label}.{}", config.public_domain.trim_end_matches('.'))
}
