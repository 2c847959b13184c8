//! The start and the end of a sandbox's processes.

use std::sync::Arc;

use sandbar_api::ErrorCode;
use sandbar_core::{
    lifecycle::Observation,
    sandbox::{SandboxRecord, reason},
};
use sandbar_node::{RuntimeSpec, error_text};

use super::{Actor, spec};
use crate::error::ApiError;

impl Actor {
    pub(super) async fn launch(&mut self, record: &mut SandboxRecord) -> (Option<Observation>, Option<ApiError>) {
        let launched = async {
            let spec = self.runtime_spec(record).await?;
            let terms = self.credentials.terms(&record.team_id, spec::policy(record)?).await.map_err(|error| error_text(&error))?;
            let root = match spec::root_of(record) {
                Some(root) => root,
                None => self.node.create_root().await.map_err(|error| error_text(&error))?,
            };
            record.root_id = Some(root.id.clone());
            record.uid_slot = Some(root.uid_slot);
            let runtime = self.node.launch(&spec, root).await.map_err(|error| error_text(&error))?;
            match spec::make_own(&self.node, &runtime, record, terms).await {
                Ok(warning) => {
                    self.usage.egress.begins(record, &runtime);
                    self.trust_due = None;
                    self.events.extend(warning);
                }
                Err(error) => {
                    // Waited for: the next start is over the same root.
                    if let Err(undead) = runtime.destroy().await {
                        tracing::error!(sandbox = record.id, error = error_text(&undead), "a runtime that did not come up is left to the next start");
                    }
                    return Err(error);
                }
            }
            Ok::<_, String>(runtime)
        };
        match launched.await {
            Ok(runtime) => {
                if let Some(former) = record.runtime_id.take() {
                    record.previous_runtime_id = Some(former);
                }
                spec::set_runtime(record, &runtime);
                self.runtime = Some(runtime);
                (Some(Observation::Started), None)
            }
            Err(text) => {
                tracing::warn!(sandbox = record.id, error = text, "a sandbox could not be started");
                // Whatever was wanted of it, this is what happened.
                self.events.clear();
                self.note("sandbox.failed", reason::LAUNCH_FAILED, &text);
                let error = ApiError::new(ErrorCode::SandboxResumeFailed, format!("the sandbox could not be started: {text}")).retry_after(1);
                (Some(Observation::LaunchFailed { code: reason::LAUNCH_FAILED, text }), Some(error))
            }
        }
    }

    /// What it is launched from; from what its template means now, when it has no files.
    async fn runtime_spec(&mut self, record: &mut SandboxRecord) -> Result<RuntimeSpec, String> {
        if record.base.is_none() {
            let now = self.store.template_get(&record.team_id, &record.template_id).await.map_err(|error| error_text(&error))?;
            let files = now.as_ref().filter(|now| now.spec == record.template).and_then(|now| now.base.as_ref());
            record.base = Some(spec::base_of(&self.node, &record.template, files)?);
        }
        let mut trees = spec::Trees::new();
        for mount in &record.mounts {
            let volume = self.store.volume_get(&record.team_id, &mount.volume_id).await.map_err(|error| error_text(&error))?;
            trees.extend(volume.map(|volume| (volume.id, volume.tree_id)));
        }
        // Only force deletes a volume that somebody has, and whoever has it is to start without.
        let mounts = record.mounts.len();
        record.mounts.retain(|mount| trees.contains_key(&mount.volume_id));
        if record.mounts.len() < mounts {
            self.note("sandbox.volume_detached", reason::VOLUME_DELETED, "a volume that it had mounted was deleted; it starts without it");
        }
        self.launched_on.clone_from(&trees);
        spec::runtime_spec(&self.node, record, record.base.clone().unwrap_or_default(), &trees)
    }

    pub(super) async fn end_runtime(&mut self) -> Result<(), ApiError> {
        if let Some(runtime) = self.runtime.clone() {
            self.hear_out().await;
            self.usage.ends(&Arc::new(self.record.clone()), &runtime);
            runtime.destroy().await.map_err(|error| ApiError::internal("ending the sandbox's processes", &error_text(&error)))?;
            self.runtime = None;
        }
        Ok(())
    }

    pub(super) fn drop_runtime(&mut self, record: &mut SandboxRecord) {
        self.runtime = None;
        record.pid = None;
        record.pid_start = None;
    }
}
