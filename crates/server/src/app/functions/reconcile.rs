//! One look at all instances of all functions.

use std::sync::Arc;

use sandbar_core::{
    function::{Autoscaling, InstanceState, PRODUCTION},
    sandbox::Desired,
};

use super::instances::about;
use crate::{
    app::{App, sandboxes::store_failure},
    error::ApiError,
};

impl App {
    /// Brings instances to what is wanted of them. Can be repeated at any time. `rows` asks for a look at all rows too: who is to be
    /// warm, whose sandbox is gone, and what is left to be removed.
    pub(crate) async fn reconcile_functions(self: &Arc<Self>, rows: bool) -> Result<(), ApiError> {
        if rows {
            self.want_warm().await?;
            self.finish_removals().await?;
        }
        for pool in self.functions.pools.all() {
            self.drop_gone(&pool).await?;
            let known = self.known_function(&pool.revision.function_id).await?;
            let serves = known.as_ref().is_some_and(|known| known.serves(&pool.revision.id));
            let gone = known.as_ref().is_none_or(|known| !known.function.enabled);
            // Only what production points to is kept warm; others are when somebody looks at them.
            let is_production = known.as_ref().is_some_and(|known| known.aliases.get(PRODUCTION).is_some_and(|split| split.serves(&pool.revision.id)));
            let scaling = known.map_or_else(Autoscaling::default, |known| known.function.autoscaling);
            let scaling = if is_production { scaling } else { Autoscaling { min_warm: 0, ..scaling } };
            let plan = pool.plan(serves, gone, &scaling);
            for id in plan.start {
                self.start_instance(&pool, id);
            }
            if !plan.drain.is_empty() {
                let drained = self.store.instances_set(plan.drain.clone(), InstanceState::Draining).await;
                drained.map_err(|e| store_failure("moving instances on", &e))?;
                for id in &plan.drain {
                    let text = "an instance takes no more requests";
                    self.note_function(&pool.revision.function_id, about(&pool.revision, id, "instance.draining", "draining", text)).await;
                }
            }
            if !plan.remove.is_empty() {
                let app = Arc::clone(self);
                self.sandboxes.tasks.spawn(async move { app.remove_instances(plan.remove).await });
            }
        }
        self.functions.pools.prune();
        self.functions.sources.prune();
        Ok(())
    }

    /// Lets pools be for revisions of which instances are to be warm.
    async fn want_warm(&self) -> Result<(), ApiError> {
        for id in self.store.functions_warm().await.map_err(|e| store_failure("reading functions", &e))? {
            let Some(known) = self.known_function(&id).await? else { continue };
            let Some(split) = known.aliases.get(PRODUCTION) else { continue };
            for target in split.targets.iter().filter(|target| target.weight > 0) {
                if let Some(revision) = known.revisions.get(&target.revision_id) {
                    self.functions.pools.of(revision);
                }
            }
        }
        Ok(())
    }

    /// Goes on with what a former look, or a former server, began to remove.
    async fn finish_removals(&self) -> Result<(), ApiError> {
        let rows = self.store.instances_all().await.map_err(|e| store_failure("reading instances", &e))?;
        let removing: Vec<String> = rows.into_iter().filter(|row| row.state == InstanceState::Removing).map(|row| row.sandbox_id).collect();
        if removing.is_empty() {
            return Ok(());
        }
        for id in removing {
            if let Err(error) = self.end(&id).await {
                tracing::warn!(sandbox = id, %error, "an instance did not end; it will be tried again");
            }
        }
        self.settle_instances().await
    }

    /// Takes instances out of a pool that somebody deleted.
    async fn drop_gone(self: &Arc<Self>, pool: &Arc<super::pool::Pool>) -> Result<(), ApiError> {
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
                self.lose_instance(pool, &slot.sandbox_id, &reason);
            }
        }
        Ok(())
    }
}
