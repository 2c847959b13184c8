//! What serves a function now, and replacing it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{
    function::{FunctionRecord, InstanceState, RevisionRecord, scale::Stage, serves_from_source},
    limits,
};
use sandbar_store::FunctionEvent;

use super::event;
use crate::{
    app::{App, auth::Principal, sandboxes::store_failure},
    error::ApiError,
};

/// How long a restart waits for what takes over.
const REPLACED_WITHIN: Duration = Duration::from_secs(limits::FUNCTION_START_MAX_S);

/// An instance as it is now.
#[derive(Debug, Clone)]
pub(crate) struct InstanceView {
    pub sandbox_id: String,
    pub revision_id: String,
    pub revision_number: i64,
    pub stage: Stage,
    pub in_flight: usize,
    pub created_at_ms: i64,
    pub ready_at_ms: Option<i64>,
    pub startup_ms: Option<i64>,
    pub last_used_ms: Option<i64>,
}

/// What serves a function now.
#[derive(Debug, Clone)]
pub(crate) struct RuntimeView {
    pub function: FunctionRecord,
    /// What `production` points to, mostly.
    pub revision: Option<Arc<RevisionRecord>>,
    /// Whether that is served by the sandbox that it was published from.
    pub from_source: bool,
    /// Of all its revisions.
    pub instances: Vec<InstanceView>,
    /// Why there is none, and when that was.
    pub failure: Option<(String, i64)>,
    /// The newest first.
    pub events: Vec<FunctionEvent>,
}

impl App {
    /// What serves a function now.
    pub(crate) async fn function_runtime(&self, who: &Principal, id: &str) -> Result<RuntimeView, ApiError> {
        let function = self.function(who, id).await?;
        let revision = self.production_revision(&function).await?;
        let mut instances = Vec::new();
        for pool in self.functions.pools.of_function(&function.id) {
            instances.extend(pool.slots().into_iter().map(|slot| InstanceView {
                sandbox_id: slot.sandbox_id,
                revision_id: pool.revision.id.clone(),
                revision_number: pool.revision.number,
                stage: slot.stage,
                in_flight: slot.in_flight,
                created_at_ms: slot.created_at_ms,
                ready_at_ms: slot.ready_at_ms,
                startup_ms: slot.startup_ms,
                last_used_ms: slot.last_used_ms,
            }));
        }
        instances.sort_by(|a, b| a.created_at_ms.cmp(&b.created_at_ms).then_with(|| a.sandbox_id.cmp(&b.sandbox_id)));
        let pool = revision.as_ref().and_then(|revision| self.functions.pools.find(&revision.id));
        let failure = pool.and_then(|pool| pool.failure()).map(|failure| (failure.why.full, failure.at_ms));
        let from_source = match &revision {
            Some(revision) => self.is_served_from_source(&function, revision).await?,
            None => false,
        };
        let events = self.function_events(&function).await?;
        Ok(RuntimeView { function, revision, from_source, instances, failure, events })
    }

    /// A sandbox that serves a revision now, with the moment since when.
    pub(crate) fn revision_instance(&self, revision_id: &str) -> Option<(String, i64)> {
        let slots = self.functions.pools.find(revision_id)?.slots();
        let of_stage = |stage: Stage| slots.iter().find(|slot| slot.stage == stage);
        let serving = of_stage(Stage::Ready).or_else(|| of_stage(Stage::Retiring))?;
        Some((serving.sandbox_id.clone(), serving.ready_at_ms.unwrap_or(serving.created_at_ms)))
    }

    async fn is_served_from_source(&self, function: &FunctionRecord, revision: &RevisionRecord) -> Result<bool, ApiError> {
        let Some(sandbox_id) = revision.source.sandbox_id() else { return Ok(false) };
        let known = self.known_function(&function.id).await?;
        let newest = known.and_then(|known| known.newest_from_source.get(sandbox_id).copied()).unwrap_or_default();
        Ok(self.look(sandbox_id).await?.is_some_and(|(record, _)| serves_from_source(revision, newest, &record)))
    }

    /// Replaces the instances of a function: others are started, and those that serve now go when these are ready and what they
    /// serve has ended. A failure that was remembered is forgotten. Where the source serves, its service is started anew.
    pub(crate) async fn restart_function(self: &Arc<Self>, who: &Principal, id: &str) -> Result<RuntimeView, ApiError> {
        let function = self.function(who, id).await?;
        self.functions.pools.forgive(&function.id);
        let known = self.known_function(&function.id).await?;
        let until = Instant::now() + REPLACED_WITHIN;
        let mut replacing = Vec::new();
        for pool in self.functions.pools.of_function(&function.id) {
            let retired = pool.retire();
            if retired.is_empty() {
                continue;
            }
            self.store.instances_set(retired, InstanceState::Retiring).await.map_err(|e| store_failure("moving instances on", &e))?;
            if known.as_ref().is_some_and(|known| known.serves(&pool.revision.id)) {
                replacing.push(pool);
            }
        }
        self.note_function(&function.id, event("function.restarted", "its instances are replaced")).await;
        self.functions.changed.notify_one();
        for pool in replacing {
            self.replaced(&pool, until).await?;
        }
        if let Some(revision) = self.production_revision(&function).await?
            && function.enabled
            && self.is_served_from_source(&function, &revision).await?
        {
            self.restart_source(&function, &revision).await?;
        }
        self.functions.changed.notify_one();
        self.function_runtime(who, id).await
    }

    /// Waits until an instance is ready in place of those that retire.
    async fn replaced(&self, pool: &super::pool::Pool, until: Instant) -> Result<(), ApiError> {
        loop {
            let changed = pool.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if pool.has_ready() {
                return Ok(());
            }
            let failed = pool.failure().map(|failure| failure.why.full);
            if failed.is_some() || tokio::time::timeout_at(until.into(), changed).await.is_err() {
                let reason = failed.unwrap_or_else(|| "it is not ready in time".to_owned());
                let text = format!("no new instance of revision {} took over, so the former ones go on: {reason}", pool.revision.number);
                return Err(ApiError::unavailable(text).retry_after(1));
            }
        }
    }
}
