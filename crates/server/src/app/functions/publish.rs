//! Publishing: a service with everything it needs becomes a revision that never changes. All of it is copied first and named
//! by one commit; what a server that ends before has copied is nobody's, and swept.

use std::sync::Arc;

use sandbar_api::{
    ErrorCode,
    function::{FunctionCreateRequest, FunctionMountSource, FunctionRevisionCreateRequest, FunctionRevisionSpec, FunctionSourceRequest},
    sandbox::{Mount as AskedMount, SandboxConfig},
    template::TemplateSpec,
};
use sandbar_core::{
    function::{self, AliasRecord, Autoscaling, FunctionRecord, RevisionMount, RevisionRecord, Source, names},
    limits,
    sandbox::Base,
    service::Service,
    validate::{self, Violation},
};
use sandbar_node::Pin;
use sandbar_store::{Released, VolumeRecord};
use serde_json::Value;

use super::{Promotion, check_name, event, function_failure};
use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{Captured, now_ms, spec, store_failure, violations},
        volumes,
    },
    error::ApiError,
};

/// A revision that no row names yet, with what keeps its files until one does.
struct Draft {
    revision: RevisionRecord,
    _pins: Vec<Pin>,
}

/// Where the files of a mount of a revision come from.
struct Origin {
    volume: VolumeRecord,
    snapshot: Option<(String, String)>,
}

impl App {
    /// Publishes a new function with its first revision.
    pub async fn create_function(
        self: &Arc<Self>,
        who: &Principal,
        request: FunctionCreateRequest,
    ) -> Result<(FunctionRecord, RevisionRecord, AliasRecord), ApiError> {
        let name = request.name.as_deref().map(str::trim).filter(|name| !name.is_empty());
        check_name(name)?;
        let autoscaling = request.autoscaling.as_ref().map(super::autoscaling).transpose()?.unwrap_or_default();
        let id = uuid::Uuid::new_v4().to_string();
        // Before anything is copied.
        if let Some(name) = name {
            self.check_function_name(who, name).await?;
        }
        let draft = self.draft(who, &id, &request.source).await?;
        let service = &draft.revision.service;
        let name = name.or(service.display_name.as_deref().map(str::trim).filter(|name| !name.is_empty())).unwrap_or(&service.id).to_owned();
        let function = new_function(who, id, name, autoscaling);
        let created = event("function.created", format!("published as revision 1 from {}", origin_text(&draft.revision.source)));
        match self.store.function_create(&function, &draft.revision, created).await {
            Ok((revision, alias)) => {
                self.function_changed(&function);
                // Nothing older has to be protected, so it is served as it is; meanwhile its service comes up.
                let (app, first) = (Arc::clone(self), Arc::new(revision.clone()));
                self.sandboxes.tasks.spawn(async move { app.warm_up(&first).await });
                Ok((function, revision, alias))
            }
            Err(error) => {
                self.give_up(draft);
                Err(function_failure("saving the function", &error))
            }
        }
    }

    /// Publishes a new revision of a function, and lets `production` point to it when it is ready.
    pub(crate) async fn create_revision(
        self: &Arc<Self>,
        who: &Principal,
        id: &str,
        request: FunctionRevisionCreateRequest,
    ) -> Result<(RevisionRecord, Promotion), ApiError> {
        let function = self.function(who, id).await?;
        let _one_at_a_time = self.functions.begin_publishing(&function.id)?;
        let draft = self.draft(who, &function.id, &request.source).await?;
        // From the commit on its source does not serve what was published before any more.
        self.warm_before_publish(&function, &draft.revision).await;
        let created = event("function.published", format!("published from {}", origin_text(&draft.revision.source)));
        let revision = match self.store.revision_create(&draft.revision, created).await {
            Ok(revision) => revision,
            Err(error) => {
                self.give_up(draft);
                return Err(function_failure("saving the revision", &error));
            }
        };
        self.functions.pools.forgive(&function.id);
        self.function_changed(&function);
        let promotion = if request.promote.unwrap_or(true) { self.promote(who, &function, &revision).await } else { Promotion::NotAsked };
        Ok((revision, promotion))
    }

    async fn check_function_name(&self, who: &Principal, name: &str) -> Result<(), ApiError> {
        let slug = names::slug(name);
        let label = names::domain_label(&slug, &who.team_id);
        let taken = self.store.function_name_taken(&who.team_id, &slug, &label).await.map_err(|e| store_failure("looking for the name", &e))?;
        if taken { Err(ApiError::conflict("function name already exists: its slug is taken, and slugs of deleted functions stay so")) } else { Ok(()) }
    }

    async fn draft(&self, who: &Principal, function_id: &str, source: &FunctionSourceRequest) -> Result<Draft, ApiError> {
        check_json("source.provenance", source.provenance.as_ref())?;
        let kind = source.kind.as_deref().filter(|kind| !kind.is_empty());
        let is_spec = match kind {
            Some("revision_spec") => true,
            Some("sandbox_service") => false,
            None => source.revision_spec.is_some() && source.sandbox_id.is_none() && source.sandbox_service.is_none(),
            Some(_) => return Err(ApiError::bad_request("source.type: must be sandbox_service or revision_spec")),
        };
        self.check_room()?;
        let mut draft = if is_spec {
            let spec = source.revision_spec.as_ref().ok_or_else(|| ApiError::bad_request("source.revision_spec is required"))?;
            self.draft_of_spec(who, function_id, spec).await?
        } else {
            let nested = source.sandbox_service.as_ref();
            let given = |own: &Option<String>, nested: Option<&String>| own.as_ref().or(nested).map(|id| id.trim().to_owned()).filter(|id| !id.is_empty());
            let sandbox_id = given(&source.sandbox_id, nested.and_then(|nested| nested.sandbox_id.as_ref()));
            let sandbox_id = sandbox_id.ok_or_else(|| ApiError::bad_request("source.sandbox_id is required"))?;
            let service_id = given(&source.service_id, nested.and_then(|nested| nested.service_id.as_ref()));
            let service_id = service_id.ok_or_else(|| ApiError::bad_request("source.service_id is required"))?;
            self.draft_of_sandbox(who, function_id, &sandbox_id, &service_id.to_ascii_lowercase()).await?
        };
        draft.revision.provenance.clone_from(&source.provenance);
        Ok(draft)
    }

    /// The service, the configuration and all files of a sandbox as they are now.
    async fn draft_of_sandbox(&self, who: &Principal, function_id: &str, sandbox_id: &str, service_id: &str) -> Result<Draft, ApiError> {
        let find = |record: &sandbar_core::sandbox::SandboxRecord| {
            let service = function::service_of(record, service_id).cloned();
            let service = service.ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("sandbox service {service_id:?} does not exist")))?;
            check_publishable(&service, &record.template)?;
            Ok::<_, ApiError>(service)
        };
        // Refused before anything is copied.
        find(&self.get(who, sandbox_id).await?)?;
        let Captured { base, record, pin } = self.capture(who, sandbox_id).await?;
        let made = async {
            let service = find(&record)?;
            let mut origins = Vec::with_capacity(record.mounts.len());
            for mount in &record.mounts {
                let volume = self.volume(who, &mount.volume_id).await?;
                origins.push((mount.mount_point.clone(), mount.read_only, Origin { volume, snapshot: None }));
            }
            let (mounts, pins) = self.copy_mounts(origins).await?;
            Ok::<_, ApiError>((service, mounts, pins))
        };
        let (service, mounts, mut pins) = match made.await {
            Ok(made) => made,
            Err(error) => {
                self.release(&base);
                return Err(error);
            }
        };
        pins.push(pin);
        let config = SandboxConfig {
            env_vars: record.config.env_vars.clone(),
            network: record.config.network.clone(),
            resources: record.config.resources.clone(),
            ..SandboxConfig::default()
        };
        let source = Source::SandboxService { sandbox_id: sandbox_id.to_owned(), service_id: service_id.to_owned() };
        let parts = Parts { source, template_id: record.template_id, template: record.template, config, base, mounts, service, spec: None };
        self.drafted(who, function_id, parts, pins)
    }

    /// What a client specified, on the files of a template.
    async fn draft_of_spec(&self, who: &Principal, function_id: &str, spec: &FunctionRevisionSpec) -> Result<Draft, ApiError> {
        const AT: &str = "source.revision_spec";
        check_json(&format!("{AT}.static_assets"), spec.static_assets.as_ref())?;
        check_json(&format!("{AT}.env_refs"), spec.env_refs.as_ref())?;
        let template = self.template(who, spec.template_id.trim()).await?;
        let normalised = validate::services(&Value::Array(vec![spec.runtime_service.clone()]), &format!("{AT}.runtime_service")).map_err(violations)?;
        let service = normalised.get(0).cloned().unwrap_or_default();
        check_publishable(&service, &template.spec)?;
        let origins = self.spec_mounts(who, spec, &template.spec).await?;
        let base = spec::base_of(&self.node, &template.spec, template.base.as_ref())
            .map_err(|text| ApiError::new(ErrorCode::TemplateNotReady, format!("template {:?} cannot be used: {text}", template.id)))?;
        let pin = self.node.pin_base(&base);
        if template.base.is_some() && self.template(who, &template.id).await?.base != template.base {
            return Err(ApiError::conflict(format!("template {:?} was changed at the same time; try again", template.id)));
        }
        let (mounts, mut pins) = self.copy_mounts(origins).await?;
        pins.push(pin);
        let kept = FunctionRevisionSpec { runtime_service: Value::Null, mounts: None, ..spec.clone() };
        let kept = serde_json::to_value(&kept).map_err(|error| ApiError::internal("keeping the specification", &error))?;
        let config = SandboxConfig::default();
        let parts = Parts { source: Source::RevisionSpec, template_id: template.id, template: template.spec, config, base, mounts, service, spec: Some(kept) };
        self.drafted(who, function_id, parts, pins)
    }

    /// Where the files of a specification's mounts come from, each at a place that the template lets it have.
    async fn spec_mounts(&self, who: &Principal, spec: &FunctionRevisionSpec, template: &TemplateSpec) -> Result<Vec<(String, bool, Origin)>, ApiError> {
        let asked = spec.mounts.as_deref().unwrap_or_default();
        let mut origins = Vec::new();
        for (index, mount) in asked.iter().take(limits::MOUNTS_MAX).enumerate() {
            let at = |field: &str, text: &str| violations(vec![Violation::new(format!("source.revision_spec.mounts[{index}].{field}"), text)]);
            let writes = match mount.mode.as_deref() {
                None | Some("" | "read_write") => true,
                Some("read_only") => false,
                Some(_) => return Err(at("mode", "must be read_only or read_write")),
            };
            let origin = self.origin(who, &mount.source, &at).await?;
            origins.push((mount.mount_point.clone(), !writes, origin));
        }
        let places: Vec<AskedMount> = asked
            .iter()
            .enumerate()
            // By position, since the same volume may be copied twice.
            .map(|(index, mount)| AskedMount { sandboxvolume_id: index.to_string(), mount_point: mount.mount_point.clone(), extra: Default::default() })
            .collect();
        let mode_of = |index: &str| Some(origins.get(index.parse::<usize>().ok()?)?.2.volume.access_mode);
        let planned = sandbar_core::volume::plan(template, &places, mode_of).map_err(violations)?;
        Ok(origins.into_iter().zip(planned).map(|((place, read_only, origin), plan)| (place, read_only || plan.read_only, origin)).collect())
    }

    async fn origin(&self, who: &Principal, source: &FunctionMountSource, at: &impl Fn(&str, &str) -> ApiError) -> Result<Origin, ApiError> {
        let given = |id: &Option<String>| id.clone().filter(|id| !id.is_empty());
        match source.kind.as_str() {
            "sandbox_volume" => {
                let id = given(&source.sandboxvolume_id).ok_or_else(|| at("source.sandboxvolume_id", "is required"))?;
                Ok(Origin { volume: self.volume(who, &id).await?, snapshot: None })
            }
            "volume_snapshot" => {
                let id = given(&source.snapshot_id).ok_or_else(|| at("source.snapshot_id", "is required"))?;
                let snapshot = self.volume_snapshot_of_team(who, &id).await?;
                let volume = self.volume(who, &snapshot.volume_id).await?;
                Ok(Origin { volume, snapshot: Some((snapshot.id, snapshot.tree_id)) })
            }
            "artifact" => Err(at("source.type", "this server keeps no artifacts; give a sandbox_volume or a volume_snapshot")),
            _ => Err(at("source.type", "must be sandbox_volume or volume_snapshot")),
        }
    }

    /// A copy of each volume that only the revision has.
    async fn copy_mounts(&self, origins: Vec<(String, bool, Origin)>) -> Result<(Vec<RevisionMount>, Vec<Pin>), ApiError> {
        let (mut mounts, mut pins) = (Vec::with_capacity(origins.len()), Vec::with_capacity(origins.len()));
        for (mount_point, read_only, Origin { volume, snapshot }) in origins {
            let copied = match &snapshot {
                None => self.copy_still(&volume).await,
                Some((_, tree)) => {
                    let _source = self.node.pin(tree);
                    self.node.volume_copy(tree).await.map_err(|error| volumes::failure("copying the snapshot", &error))
                }
            };
            let (tree_id, _, pin) = match copied {
                Ok(copied) => copied,
                Err(error) => {
                    mounts.into_iter().for_each(|mount: RevisionMount| self.release_tree(mount.tree_id));
                    return Err(error.with_message(|text| format!("volume {:?} could not be copied: {text}", volume.id)));
                }
            };
            pins.push(pin);
            mounts.push(RevisionMount {
                volume_id: sandbar_node::random_id("vol-"),
                tree_id,
                mount_point,
                read_only,
                source_volume_id: Some(volume.id),
                snapshot_id: snapshot.map(|(id, _)| id),
                access_mode: volume.access_mode,
                size_limit_bytes: volume.size_limit_bytes,
                uid: volume.uid,
                gid: volume.gid,
            });
        }
        Ok((mounts, pins))
    }

    fn drafted(&self, who: &Principal, function_id: &str, parts: Parts, pins: Vec<Pin>) -> Result<Draft, ApiError> {
        let Parts { source, template_id, template, config, base, mounts, service, spec } = parts;
        let typed = match Service::parse(&service) {
            Ok(typed) => typed,
            Err(error) => {
                self.release_revisions(Released { bases: vec![base], trees: mounts.into_iter().map(|mount| mount.tree_id).collect() });
                return Err(ApiError::internal("reading the service", &error));
            }
        };
        let revision = RevisionRecord {
            id: uuid::Uuid::new_v4().to_string(),
            function_id: function_id.to_owned(),
            team_id: who.team_id.clone(),
            number: 0,
            source,
            template_id,
            template,
            config,
            base,
            mounts,
            service_snapshot: service,
            service: Arc::new(typed),
            spec,
            provenance: None,
            created_by: Some(who.user_id.clone()),
            created_at_ms: now_ms(),
        };
        Ok(Draft { revision, _pins: pins })
    }

    fn give_up(&self, draft: Draft) {
        let RevisionRecord { base, mounts, .. } = draft.revision;
        self.release_revisions(Released { bases: vec![base], trees: mounts.into_iter().map(|mount| mount.tree_id).collect() });
    }
}

/// What a draft is put together from.
struct Parts {
    source: Source,
    template_id: String,
    template: TemplateSpec,
    config: SandboxConfig,
    base: Base,
    mounts: Vec<RevisionMount>,
    service: Value,
    spec: Option<Value>,
}

fn new_function(who: &Principal, id: String, name: String, autoscaling: Autoscaling) -> FunctionRecord {
    let slug = names::slug(&name);
    let now = now_ms();
    FunctionRecord {
        id,
        team_id: who.team_id.clone(),
        domain_label: names::domain_label(&slug, &who.team_id),
        name: name.chars().take(limits::NAME_MAX_CHARS).collect(),
        slug,
        enabled: true,
        autoscaling,
        created_by: Some(who.user_id.clone()),
        created_at_ms: now,
        updated_at_ms: now,
        deleted_at_ms: None,
    }
}

fn origin_text(source: &Source) -> String {
    match source {
        Source::SandboxService { sandbox_id, service_id } => format!("service {service_id} of sandbox {sandbox_id}"),
        Source::RevisionSpec => "a specification".to_owned(),
    }
}

/// Refuses what could not be started again by itself.
fn check_publishable(service: &Value, template: &TemplateSpec) -> Result<(), ApiError> {
    let blockers = validate::publish_blockers(service);
    if !blockers.is_empty() {
        let text = format!("sandbox service is not publishable: {}", blockers.join(", "));
        return Err(ApiError::bad_request(text).with_details(serde_json::json!({ "blockers": blockers })));
    }
    let Some(name) = service.pointer("/runtime/warm_process_name").and_then(Value::as_str).filter(|_| service["runtime"]["type"] == "warm_process") else {
        return Ok(());
    };
    let processes = template.warm_processes.as_deref().unwrap_or_default();
    let is_it = |(index, process): &(usize, &sandbar_api::template::WarmProcess)| {
        process.alias.as_deref() == Some(name) || validate::warm_name(process, *index) == name
    };
    match processes.iter().enumerate().find(is_it) {
        Some((_, process)) if process.kind == "cmd" => Ok(()),
        Some(_) => Err(ApiError::bad_request(format!("the service's warm process {name:?} is a REPL; a function needs one of type cmd"))),
        None => Err(ApiError::bad_request(format!("the service's warm process {name:?} is none of its template, so an instance would not have it"))),
    }
}

/// What is kept and not understood has a limit.
fn check_json(field: &str, value: Option<&Value>) -> Result<(), ApiError> {
    let bytes = value.map_or(0, |value| value.to_string().len());
    if bytes <= limits::PROVENANCE_MAX_BYTES {
        return Ok(());
    }
    Err(violations(vec![Violation::new(field, format!("has {bytes} bytes as JSON; {} are the limit", limits::PROVENANCE_MAX_BYTES))]))
}
