//! After a start: live runtimes are adopted, what the last server left half done is finished, and what no row owns is
//! removed. Nothing is served before.

use std::{collections::HashSet, sync::Arc};

use sandbar_core::sandbox::{Desired, SandboxRecord};
use sandbar_node::{Adoptable, Owned, Runtime, error_text};

use sandbar_store::Named;

use super::{Registry, spec};
use crate::error::ApiError;

/// What a recovery found.
#[derive(Debug, Default, Clone, Copy)]
pub struct Recovered {
    pub sandboxes: usize,
    pub adopted: usize,
    pub lost: usize,
    pub deleted: usize,
    pub swept: usize,
}

impl Registry {
    /// Brings rows and machine together. Only at the start, before anything is claimed.
    pub async fn recover(self: &Arc<Self>, records: Vec<SandboxRecord>, named: Named) -> Result<Recovered, ApiError> {
        let mut found = Recovered { sandboxes: records.len(), ..Recovered::default() };
        let deleted: HashSet<&str> =
            records.iter().filter(|record| record.desired == Desired::Deleted).filter_map(|record| record.root_id.as_deref()).collect();
        let roots = named.roots.iter().filter(|id| !deleted.contains(id.as_str())).cloned().collect();
        let mut owned = Owned { roots, volumes: named.trees, images: named.images, ..Owned::default() };
        let mut kept = Vec::new();
        for record in records {
            if record.desired == Desired::Deleted {
                found.deleted += 1;
                // Its runtime, root and logs are nobody's: the sweep below removes them, the row goes last.
                kept.push((record, None));
                continue;
            }
            let runtime = self.adopt(&record).await;
            match (&runtime, record.observed.has_runtime()) {
                (Some(runtime), _) => {
                    found.adopted += 1;
                    owned.runtimes.insert(runtime.id.clone());
                }
                (None, true) => found.lost += 1,
                (None, false) => {}
            }
            owned.logs.extend(record.runtime_id.iter().chain(&record.previous_runtime_id).cloned());
            kept.push((record, runtime));
        }
        found.swept = self.node.sweep(owned).await.map_err(|error| ApiError::internal("sweeping what no sandbox owns", &error_text(&error)))?;
        for (record, runtime) in kept {
            self.settle(record, runtime).await;
        }
        Ok(found)
    }

    async fn adopt(&self, record: &SandboxRecord) -> Option<Arc<Runtime>> {
        let terms = self.credentials.terms_of_live(&record.team_id, spec::policy(record).ok()?).await;
        let known = Adoptable {
            runtime_id: record.runtime_id.clone()?,
            root: spec::root_of(record)?,
            pid: record.pid?,
            pid_start: record.pid_start?,
            limits: spec::limits_of(record),
            warm: spec::warm(&self.node, &record.template, record.base.as_ref()),
            terms,
        };
        match self.node.adopt(known).await {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(sandbox = record.id, error = error_text(&error), "a runtime could not be adopted and is ended");
                None
            }
        }
    }

    async fn settle(self: &Arc<Self>, record: SandboxRecord, runtime: Option<Arc<Runtime>>) {
        let (mut actor, _) = self.hire(record, runtime);
        if actor.record.desired == Desired::Deleted {
            actor.finish_delete(actor.record.clone()).await;
            return;
        }
        actor.recover().await;
        // Whoever has processes has an owner from here on; the rest get one when they are asked for.
        if let Some(runtime) = actor.runtime {
            self.own(actor.record, Some(runtime));
        }
    }
}
