//! Snapshots of sandboxes' files, restoring and forking them, and templates made of them.

use sandbar_api::{
    sandbox::SandboxConfig,
    snapshot::{ForkConfig, ForkRequest, SnapshotCreateRequest},
    template::{TemplateCreation, TemplateFromSandboxRequest, TemplateSpec},
    volume::VolumeForkRequest,
};
use sandbar_core::{
    lifecycle, limits,
    sandbox::{Base, Mount, SandboxRecord},
    validate::{self, Violation},
    volume::AccessMode,
};
use sandbar_store::{NewEvent, SnapshotRecord, TemplateRecord};

use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{Captured, layers_of, now_ms, store_failure, violations},
    },
    error::ApiError,
    http::time::rfc3339,
};

impl App {
    /// Keeps the files of a sandbox as they are now.
    pub async fn create_snapshot(&self, who: &Principal, sandbox_id: &str, request: SnapshotCreateRequest) -> Result<SnapshotRecord, ApiError> {
        let SnapshotCreateRequest { name, description, expires_at } = request;
        let now = now_ms();
        let mut wrong = texts(&[("name", &name, limits::NAME_MAX_CHARS), ("description", &description, limits::TEXT_MAX_CHARS)]);
        let expires_at_ms = match expires_at.as_deref().map(str::parse::<jiff::Timestamp>) {
            None => None,
            Some(Ok(at)) if at.as_millisecond() > now => Some(at.as_millisecond()),
            Some(Ok(_)) => {
                wrong.push(Violation::new("expires_at", "must be in the future"));
                None
            }
            Some(Err(_)) => {
                wrong.push(Violation::new("expires_at", "must be a time in RFC 3339"));
                None
            }
        };
        if !wrong.is_empty() {
            return Err(violations(wrong));
        }
        self.check_room()?;
        self.get(who, sandbox_id).await?;
        self.store.snapshot_check(&who.team_id, sandbox_id).await.map_err(|e| store_failure("counting snapshots", &e))?;
        // The files are kept until the row names them.
        let Captured { base, record: _, pin: _pin } = self.capture(who, sandbox_id).await?;
        let snapshot = SnapshotRecord {
            id: uuid::Uuid::new_v4().to_string(),
            team_id: who.team_id.clone(),
            user_id: who.user_id.clone(),
            sandbox_id: sandbox_id.to_owned(),
            name: name.filter(|name| !name.is_empty()),
            description: description.filter(|text| !text.is_empty()),
            base,
            expires_at_ms,
            created_at_ms: now,
        };
        if let Err(error) = self.store.snapshot_insert(&snapshot).await {
            self.node.release(layers_of(Some(&snapshot.base)));
            self.collect_soon.notify_one();
            return Err(store_failure("saving the snapshot", &error));
        }
        if expires_at_ms.is_some() {
            self.sandboxes.deadlines_changed.notify_one();
        }
        self.sandboxes.note(sandbox_id, NewEvent::new(now, "sandbox.snapshot_created", format!("snapshot {} keeps its files", snapshot.id)));
        Ok(snapshot)
    }

    /// The snapshots of a sandbox, oldest first. They outlive it, so it may be gone when there are any.
    pub async fn snapshots(&self, who: &Principal, sandbox_id: &str) -> Result<Vec<SnapshotRecord>, ApiError> {
        let found = self.store.snapshots_list(&who.team_id, sandbox_id).await.map_err(|e| store_failure("listing snapshots", &e))?;
        if found.is_empty() {
            self.get(who, sandbox_id).await?;
        }
        Ok(found)
    }

    /// All snapshots of the team, oldest first. How many there can be is bounded where they are made.
    pub async fn team_snapshots(&self, who: &Principal) -> Result<Vec<SnapshotRecord>, ApiError> {
        self.store.snapshots_of_team(&who.team_id).await.map_err(|e| store_failure("listing snapshots", &e))
    }

    /// One snapshot of the team.
    pub async fn snapshot(&self, who: &Principal, id: &str) -> Result<SnapshotRecord, ApiError> {
        let found = self.store.snapshot_get(&who.team_id, id).await.map_err(|e| store_failure("reading the snapshot", &e))?;
        found.ok_or_else(|| ApiError::not_found("snapshot", id))
    }

    /// Deletes a snapshot. Sandboxes that were made from it keep their files.
    pub async fn delete_snapshot(&self, who: &Principal, id: &str) -> Result<(), ApiError> {
        let base = self.store.snapshot_delete(&who.team_id, id).await.map_err(|e| store_failure("deleting the snapshot", &e))?;
        self.release(&base);
        Ok(())
    }

    /// Puts the files of a snapshot in place of a paused sandbox's own.
    pub async fn restore_snapshot(&self, who: &Principal, sandbox_id: &str, snapshot_id: &str) -> Result<SandboxRecord, ApiError> {
        let snapshot = self.snapshot(who, snapshot_id).await?;
        let _pin = self.node.pin_base(&snapshot.base);
        // Pinned too late, if it was deleted in between.
        self.snapshot(who, snapshot_id).await?;
        let record = self.restore(who, sandbox_id, snapshot.base, format!("its files are those of snapshot {snapshot_id}")).await?;
        self.collect_soon.notify_one();
        Ok(record)
    }

    /// A new sandbox with the files and the configuration of another. It is paused, and has its own copy of each volume
    /// that only one sandbox may have.
    pub async fn fork(&self, who: &Principal, source_id: &str, request: ForkRequest) -> Result<SandboxRecord, ApiError> {
        if request.memory == Some(true) {
            let text = "the memory of processes cannot be forked on this server; fork without memory, which keeps all files";
            return Err(ApiError::conflict(text));
        }
        let asked = request.config.unwrap_or_default();
        self.check_room()?;
        // Refused before anything is copied.
        fork_config(&self.get(who, source_id).await?, &asked)?;
        let Captured { base, record: source, pin: _pin } = self.capture(who, source_id).await?;
        let config = fork_config(&source, &asked)?;
        let mut mounts = source.mounts.clone();
        let mut made = Vec::new();
        if let Err(error) = self.fork_mounts(who, &mut mounts, &mut made).await {
            self.undo_fork(who, made, &base).await;
            return Err(error);
        }
        let record = lifecycle::fork(&source, sandbar_node::random_id("sb-"), who.user_id.clone(), config, base.clone(), mounts, now_ms());
        let event = NewEvent::new(record.created_at_ms, "sandbox.forked", format!("forked from {source_id}"));
        if let Err(error) = self.store.sandbox_insert(&record, &[event]).await {
            self.undo_fork(who, made, &base).await;
            return Err(store_failure("saving the fork", &error));
        }
        if lifecycle::next_deadline(&record).is_some() {
            self.sandboxes.deadlines_changed.notify_one();
        }
        self.sandboxes.note(source_id, NewEvent::new(now_ms(), "sandbox.forked", format!("{} was forked from it", record.id)));
        Ok(record)
    }

    /// Puts a copy in place of each volume that only one sandbox may have, or that is an app's; those go to `made`.
    async fn fork_mounts(&self, who: &Principal, mounts: &mut [Mount], made: &mut Vec<String>) -> Result<(), ApiError> {
        for mount in mounts {
            let volume = self.volume(who, &mount.volume_id).await?;
            let of_app = self.store.app_volume_of(&volume.id).await.map_err(|e| store_failure("reading the app of a volume", &e))?;
            if volume.access_mode == AccessMode::Rwo || of_app.is_some() {
                // Whoever tries something out in a fork does nothing to what an app keeps.
                let mode = of_app.map(|_| AccessMode::Rwo.as_str().to_owned());
                let copy = self.fork_volume(who, &mount.volume_id, VolumeForkRequest { access_mode: mode, ..Default::default() }).await?;
                mount.volume_id.clone_from(&copy.id);
                made.push(copy.id);
            }
        }
        Ok(())
    }

    async fn undo_fork(&self, who: &Principal, made: Vec<String>, base: &Base) {
        for volume in made {
            if let Err(error) = self.delete_volume(who, &volume, false).await {
                tracing::warn!(volume, %error, "a volume of a fork that failed is left");
            }
        }
        self.release(base);
    }

    /// A template whose sandboxes begin with the files that a sandbox has now. With a `key` the same request can be sent
    /// again.
    pub async fn template_from_sandbox(&self, who: &Principal, request: TemplateFromSandboxRequest, key: Option<&str>) -> Result<TemplateRecord, ApiError> {
        let TemplateFromSandboxRequest { template_id: id, sandbox_id, spec_overrides } = request;
        if !validate::is_label(&id) {
            return Err(ApiError::bad_request("template_id: must be lower-case letters, digits and inner hyphens, at most 63"));
        }
        let marker = key.map(|key| format!("from-sandbox/{}/{key}", who.team_id));
        if let Some(marker) = &marker
            && let Some(before) = self.store.meta_get(marker).await.map_err(|e| store_failure("reading the idempotency key", &e))?
        {
            if before != format!("{id}/{sandbox_id}") {
                return Err(ApiError::conflict("Idempotency-Key: was used for another request"));
            }
            return self.template(who, &id).await;
        }
        self.check_room()?;
        let started_at = rfc3339(now_ms());
        let Captured { base, record, pin: _pin } = self.capture(who, &sandbox_id).await?;
        let captured_at = rfc3339(now_ms());
        let mut spec: TemplateSpec = record.template.clone();
        let overrides = spec_overrides.unwrap_or_default();
        spec.description = overrides.description.or(spec.description);
        spec.display_name = overrides.display_name.or(spec.display_name);
        spec.tags = overrides.tags.or(spec.tags);
        if let Some(resources) = &record.config.resources {
            let own = &mut spec.main_container.resources;
            own.memory = resources.memory.clone().or(own.memory.take());
            own.cpu = resources.cpu.clone().or(own.cpu.take());
            own.ephemeral_storage = resources.ephemeral_storage.clone().or(own.ephemeral_storage.take());
        }
        // Who wants idle ones of it asks for them.
        spec.pool = None;
        let now = now_ms();
        let creation = TemplateCreation {
            state: "ready".into(),
            stage: "publishing".into(),
            started_at,
            captured_at: Some(captured_at),
            completed_at: Some(rfc3339(now)),
            reason: None,
            message: None,
        };
        let template = TemplateRecord {
            id,
            team_id: Some(who.team_id.clone()),
            user_id: Some(who.user_id.clone()),
            spec,
            base: Some(base.clone()),
            creation: Some(creation),
            created_at_ms: now,
            updated_at_ms: now,
            version: 1,
        };
        if let Err(error) = self.insert_template(&template).await {
            self.release(&base);
            return Err(error);
        }
        if let Some(marker) = &marker {
            let value = format!("{}/{sandbox_id}", template.id);
            self.store.meta_set(marker, &value).await.map_err(|e| store_failure("keeping the idempotency key", &e))?;
        }
        Ok(template)
    }

    /// Says that a row named a base and does not any more.
    pub(crate) fn release(&self, base: &Base) {
        self.node.release(layers_of(Some(base)));
        self.collect_soon.notify_one();
    }
}

/// The source's configuration with the fork's own deadlines.
fn fork_config(source: &SandboxRecord, asked: &ForkConfig) -> Result<SandboxConfig, ApiError> {
    let own = SandboxConfig { ttl: asked.ttl.or(source.config.ttl), hard_ttl: asked.hard_ttl.or(source.config.hard_ttl), ..SandboxConfig::default() };
    let checked = validate::claim(Some(&own)).map_err(violations)?;
    Ok(SandboxConfig { ttl: checked.ttl, hard_ttl: checked.hard_ttl, ..source.config.clone() })
}

/// Texts that are longer than allowed.
pub(crate) fn texts(fields: &[(&str, &Option<String>, usize)]) -> Vec<Violation> {
    let long = fields.iter().filter(|(_, text, max)| text.as_ref().is_some_and(|text| text.chars().count() > *max));
    long.map(|(name, _, max)| Violation::new(*name, format!("is longer than {max} characters"))).collect()
}
