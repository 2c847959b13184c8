//! One look at all instances of all functions.

use std::{collections::HashSet, sync::Arc};

use sandbar_core::{
    function::{Autoscaling, InstanceRecord, InstanceState, PRODUCTION},
    sandbox::Desired,
};

use super::{instances::about, pool::Pool};
use crate::{
    app::{App, sandboxes::store_failure},
    error::ApiError,
};

impl App {
    /// Brings instances to what is wanted of them. Can be repeated at any time. `rows` asks for a look at all rows too: who is to be
    /// warm, whose sandbox is gone, and what is left to be removed.
    pub(crate) async fn reconcile_functions(self: &Arc<Self>, rows: bool) -> Result<(), ApiError> {
        if rows {
            // What one cannot be done for must not keep others waiting.
            let warm = self.want_warm().await;
            self.finish_removals().await?;
            warm?;
        }
        for pool in self.functions.pools.all() {
            if let Err(error) = self.reconcile_pool(&pool).await {
                tracing::error!(function = pool.revision.function_id, revision = pool.revision.id, %error, "its instances cannot be looked after");
            }
        }
        self.functions.pools.prune();
        self.functions.sources.prune();
        Ok(())
    }

    async fn reconcile_pool(self: &Arc<Self>, pool: &Arc<Pool>) -> Result<(), ApiError> {
        self.drop_gone(pool).await?;
        let known = self.known_function(&pool.revision.function_id).await?;
        let serves = known.as_ref().is_some_and(|known| known.serves(&pool.revision.id));
        let gone = known.as_ref().is_none_or(|known| !known.function.enabled);
        // Only what production points to is kept warm; others are when somebody looks at them.
        let is_production = known.as_ref().is_some_and(|known| known.aliases.get(PRODUCTION).is_some_and(|split| split.serves(&pool.revision.id)));
        let scaling = known.map_or_else(Autoscaling::default, |known| known.function.autoscaling);
        let scaling = if is_production { scaling } else { Autoscaling { min_warm: 0, ..scaling } };
        let plan = pool.plan(serves, gone, &scaling);
        for id in plan.start {
            self.start_instance(pool, id);
        }
        // They have left the pool, so whatever else fails they go now.
        if !plan.remove.is_empty() {
            self.remove_instances(plan.remove).await;
        }
        if !plan.drain.is_empty() {
            let drained = self.store.instances_set(plan.drain.clone(), InstanceState::Draining).await;
            drained.map_err(|e| store_failure("moving instances on", &e))?;
            for id in &plan.drain {
                let text = "an instance takes no more requests";
                self.note_function(&pool.revision.function_id, about(&pool.revision, id, "instance.draining", "draining", text)).await;
            }
        }
        Ok(())
    }

    /// Lets pools be for revisions of which instances are to be warm.
    async fn want_warm(&self) -> Result<(), ApiError> {
        for id in self.store.functions_warm().await.map_err(|e| store_failure("reading functions", &e))? {
            let known = match self.known_function(&id).await {
                Ok(Some(known)) => known,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(function = id, %error, "a function cannot be kept warm");
                    continue;
                }
            };
            let Some(split) = known.aliases.get(PRODUCTION) else { continue };
            for target in split.targets.iter().filter(|target| target.weight > 0) {
                if let Some(revision) = known.revisions.get(&target.revision_id) {
                    self.functions.pools.of(revision);
                }
            }
        }
        Ok(())
    }

    /// Goes on with what a former look, or a former server, began to remove, and with what nobody has any more.
    async fn finish_removals(self: &Arc<Self>) -> Result<(), ApiError> {
        let rows = self.store.instances_all().await.map_err(|e| store_failure("reading instances", &e))?;
        // After the rows: an instance has its place before it has a row, so one without a place has lost it.
        let placed: HashSet<String> = self.functions.pools.all().iter().flat_map(|pool| pool.slots()).map(|slot| slot.sandbox_id).collect();
        let nobodys = |row: &InstanceRecord| !placed.contains(&row.sandbox_id) && !self.functions.making.has(&row.sandbox_id);
        let (mut removing, mut left) = (Vec::new(), Vec::new());
        for row in rows {
            match row.state {
                InstanceState::Removing => removing.push(row.sandbox_id),
                InstanceState::Starting | InstanceState::Ready | InstanceState::Retiring | InstanceState::Draining if nobodys(&row) => {
                    left.push(row.sandbox_id);
                }
                InstanceState::Starting | InstanceState::Ready | InstanceState::Retiring | InstanceState::Draining => {}
            }
        }
        if !left.is_empty() {
            self.remove_instances(left).await;
        }
        if removing.is_empty() {
            return Ok(());
        }
        for id in removing {
            match self.record_of(&id).await {
                Ok(Some(_)) => self.end_instance(id),
                Ok(None) => {}
                Err(error) => tracing::warn!(sandbox = id, %error, "an instance did not end; it will be tried again"),
            }
        }
        self.settle_instances().await
    }

    /// Takes instances out of a pool that somebody deleted.
    async fn drop_gone(self: &Arc<Self>, pool: &Arc<Pool>) -> Result<(), ApiError> {
        for slot in pool.slots() {
            if slot.ready_at_ms.is_none() {
                continue;
            }
            let gone = match self.look(&slot.sandbox_id).await? {
                None => Some("it was deleted".to_owned()),
                // It ended by itself: the next request gets a new one.
                Some((record, None)) if record.desired == Desired::Active && !record.observed.has_runtime() => {
                    Some(record.reason.clone().unwrap_or_else(|| "its processes ended".to_owned()))
                }
                Some(_) => None,
            };
            if let Some(reason) = gone {
                self.lose_instance(pool, &slot.sandbox_id, reason.as_str());
            }
        }
        Ok(())
    }
}
