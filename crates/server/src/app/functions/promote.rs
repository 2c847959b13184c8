//! Aliases: where they point to. `production` moves only to revisions that were ready once, so that its callers never meet one
//! that is not.

use std::{sync::Arc, time::Duration};

use sandbar_api::function::FunctionAliasUpdateRequest;
use sandbar_core::{
    function::{AliasRecord, FunctionRecord, PRODUCTION, RevisionRecord, check_weights, names, scale::Stage, serves_from_source},
    limits,
};

use super::{event, function_failure, pool::Audience};
use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{now_ms, violations},
    },
    error::ApiError,
};

const PROOF_WITHIN: Duration = Duration::from_secs(limits::FUNCTION_PROOF_MAX_S);

/// What became of the wish to let `production` point to a new revision.
#[derive(Debug, Clone)]
pub(crate) enum Promotion {
    NotAsked,
    Done,
    /// It stays where it was.
    Refused(ApiError),
}

impl App {
    /// Lets an alias point to revisions. `production` moves when those were ready.
    pub async fn put_alias(self: &Arc<Self>, who: &Principal, id: &str, alias: &str, request: FunctionAliasUpdateRequest) -> Result<AliasRecord, ApiError> {
        let function = self.function(who, id).await?;
        if !names::is_alias(alias) {
            return Err(ApiError::bad_request("alias: must be 1 to 63 lower-case letters, digits and inner hyphens, no two of them together"));
        }
        let weights = weights(&request)?;
        let _one_at_a_time = self.functions.begin_publishing(&function.id)?;
        let mut revisions = Vec::with_capacity(weights.len());
        for (number, weight) in &weights {
            let row = self.function_revision(&function, *number).await?;
            if *weight > 0 {
                revisions.push(row);
            }
        }
        self.functions.pools.forgive(&function.id);
        if alias == PRODUCTION {
            for row in revisions {
                self.prove(&function, &Arc::new(row.revision), row.proved_at_ms.is_some()).await?;
            }
        }
        self.set_alias(who, &function, alias, weights, request.sticky.unwrap_or(false)).await
    }

    /// Deletes an alias, but for `production`.
    pub async fn delete_alias(&self, who: &Principal, id: &str, alias: &str) -> Result<(), ApiError> {
        let function = self.function(who, id).await?;
        if alias == PRODUCTION {
            return Err(ApiError::conflict("production is what the function's host stands for; let it point elsewhere, or delete or disable the function"));
        }
        let deleted = self.store.alias_delete(&function.id, alias, event("alias.deleted", format!("alias {alias} was deleted"))).await;
        deleted.map_err(|e| function_failure("deleting the alias", &e))?;
        self.function_changed(&function);
        Ok(())
    }

    /// Deletes a revision that no alias points to, with its files.
    pub async fn delete_revision(&self, who: &Principal, id: &str, number: i64) -> Result<RevisionRecord, ApiError> {
        let function = self.function(who, id).await?;
        let _one_at_a_time = self.functions.begin_publishing(&function.id)?;
        let gone = event("function.revision_deleted", format!("revision {number} was deleted"));
        let (revision, released) = self.store.revision_delete(&function.id, number, gone).await.map_err(|e| function_failure("deleting the revision", &e))?;
        self.function_changed(&function);
        self.release_revisions(released);
        Ok(revision)
    }

    /// Lets `production` point to a new revision once that is ready.
    pub(super) async fn promote(self: &Arc<Self>, who: &Principal, function: &FunctionRecord, revision: &RevisionRecord) -> Promotion {
        let promoted = async {
            self.prove(function, &Arc::new(revision.clone()), false).await?;
            self.set_alias(who, function, PRODUCTION, vec![(revision.number, 1)], false).await
        };
        match promoted.await {
            Ok(_) => Promotion::Done,
            Err(error) => {
                let text = format!("revision {} was not promoted: {}", revision.number, error.message());
                self.note_function(&function.id, sandbar_store::FunctionEvent { revision_number: Some(revision.number), ..event("alias.refused", text) }).await;
                Promotion::Refused(error)
            }
        }
    }

    async fn set_alias(
        &self,
        who: &Principal,
        function: &FunctionRecord,
        alias: &str,
        weights: Vec<(i64, u32)>,
        sticky: bool,
    ) -> Result<AliasRecord, ApiError> {
        let parts: Vec<String> = weights.iter().map(|(number, weight)| format!("revision {number} ({weight})")).collect();
        let text = match weights.as_slice() {
            [(number, _)] => format!("{alias} points to revision {number}"),
            _ => format!("{alias} is divided among {}", parts.join(", ")),
        };
        let number = weights.first().map(|(number, _)| *number);
        let set = sandbar_store::FunctionEvent { revision_number: number, ..event("alias.set", text) };
        let record = self.store.alias_put(&function.id, alias, weights, sticky, Some(who.user_id.clone()), set).await;
        let record = record.map_err(|e| function_failure("setting the alias", &e))?;
        self.function_changed(function);
        Ok(record)
    }

    /// Returns when an instance of the revision was ready. One that was once is only warmed up: who goes back to it need not
    /// wait, and whether it can be started now is not asked again.
    async fn prove(self: &Arc<Self>, function: &FunctionRecord, revision: &Arc<RevisionRecord>, proved: bool) -> Result<(), ApiError> {
        if !function.enabled {
            // Nobody is served now, so nobody meets it; who enables it again finds out.
            return Ok(());
        }
        match self.acquire_own((function, revision), &[], Audience::Owner, PROOF_WITHIN).await {
            Ok(_) => {
                self.warm_source(revision).await;
                Ok(())
            }
            Err(error) if proved => {
                tracing::warn!(function = function.id, revision = revision.number, %error, "a revision that was ready before is not warm");
                Ok(())
            }
            Err(error) => {
                let starting = self.starting(revision).await.map_or_else(String::new, |lack| format!(": {lack}"));
                let reason = format!("{}{starting}", error.message());
                let text = format!("revision {} is not ready, so {PRODUCTION} stays where it is: {reason}", revision.number);
                Err(ApiError::conflict(text).with_details(serde_json::json!({
                    "revision_id": revision.id, "revision_number": revision.number, "reason": reason,
                })))
            }
        }
    }

    /// What the instance of a revision lacks that is still being started, where none has failed.
    async fn starting(&self, revision: &RevisionRecord) -> Option<String> {
        let pool = self.functions.pools.find(&revision.id).filter(|pool| pool.failure().is_none())?;
        let slot = pool.slots().into_iter().find(|slot| slot.stage == Stage::Starting)?;
        let runtime = self.look(&slot.sandbox_id).await.ok()??.1?;
        Some(self.why_not_up(&runtime, &revision.service).await)
    }

    /// Lets the service of a function's first revision come up where it is served from.
    pub(super) async fn warm_up(self: Arc<Self>, revision: &Arc<RevisionRecord>) {
        match self.warm_source(revision).await {
            Some(Ok(())) => {
                if let Err(error) = self.store.revision_proved(&revision.id, now_ms()).await {
                    tracing::warn!(revision = revision.id, %error, "that a revision was ready is not remembered");
                }
            }
            Some(Err(error)) => {
                let failed = event("function.not_ready", format!("revision {} is not ready: {}", revision.number, error.message()));
                self.note_function(&revision.function_id, failed).await;
            }
            None => {}
        }
    }

    /// Lets the service of a revision come up in the sandbox that it was published from, so that no request has to wait for that
    /// when production has moved. None = that sandbox does not serve it, or sleeps: nobody asked for it yet.
    async fn warm_source(self: &Arc<Self>, revision: &Arc<RevisionRecord>) -> Option<Result<(), ApiError>> {
        let sandbox_id = revision.source.sandbox_id()?;
        let known = self.known_function(&revision.function_id).await.ok()??;
        let newest = known.newest_from_source.get(sandbox_id).copied().unwrap_or_default();
        let (record, runtime) = self.look(sandbox_id).await.ok()??;
        let runtime = runtime.filter(|_| serves_from_source(revision, newest, &record))?;
        Some(self.ensure_service(&record, &runtime, &revision.service, PROOF_WITHIN).await)
    }

    /// Before a new revision is published from a sandbox that serves an older one: that one gets an instance of its own. Bounded;
    /// what is not up by then is waited for by its requests.
    pub(super) async fn warm_before_publish(self: &Arc<Self>, function: &FunctionRecord, next: &RevisionRecord) {
        let Some(sandbox_id) = next.source.sandbox_id() else { return };
        for revision in self.functions.sources.serving(sandbox_id).0.into_iter().filter(|revision| revision.function_id == function.id) {
            if let Err(error) = self.acquire_own((function, &revision), &[], Audience::Owner, PROOF_WITHIN).await {
                tracing::warn!(function = function.id, revision = revision.number, %error, "a revision has no instance of its own yet");
            }
        }
    }

    /// The revisions that `production` of a function points to, as they are stored now.
    pub(super) async fn production_revision(&self, function: &FunctionRecord) -> Result<Option<Arc<RevisionRecord>>, ApiError> {
        let known = self.known_function(&function.id).await?;
        Ok(known.and_then(|known| {
            let main = known.aliases.get(PRODUCTION)?.main()?;
            known.revisions.get(&main.revision_id).cloned()
        }))
    }
}

/// Revisions and weights of a request.
fn weights(request: &FunctionAliasUpdateRequest) -> Result<Vec<(i64, u32)>, ApiError> {
    let given: Vec<(i64, i64)> = match (&request.weights, request.revision_number) {
        (Some(weights), None) => weights.iter().map(|weight| (weight.revision_number, weight.weight)).collect(),
        (None, Some(number)) if number > 0 => vec![(number, 1)],
        (None, Some(_)) => return Err(ApiError::bad_request("revision_number: must be at least 1")),
        (None, None) => return Err(ApiError::bad_request("revision_number: is required")),
        (Some(_), Some(_)) => return Err(ApiError::bad_request("weights: give either revision_number or weights")),
    };
    check_weights(&given).map_err(violations)?;
    Ok(given.into_iter().map(|(number, weight)| (number, u32::try_from(weight).unwrap_or_default())).collect())
}

#[cfg(test)]
mod tests {
    use sandbar_api::function::FunctionWeight;

    use super::*;

    #[test]
    fn an_alias_points_to_one_or_is_divided() {
        let ask = |number, parts: Option<&[(i64, i64)]>| {
            let weights = parts
                .map(|parts| parts.iter().map(|(revision_number, weight)| FunctionWeight { revision_number: *revision_number, weight: *weight }).collect());
            weights_of(number, weights)
        };
        fn weights_of(revision_number: Option<i64>, parts: Option<Vec<FunctionWeight>>) -> Result<Vec<(i64, u32)>, ApiError> {
            weights(&FunctionAliasUpdateRequest { revision_number, weights: parts, sticky: None })
        }
        assert_eq!(ask(Some(3), None).expect("one"), [(3, 1)]);
        assert_eq!(ask(None, Some(&[(1, 90), (2, 10)])).expect("two"), [(1, 90), (2, 10)]);
        for (number, parts) in
            [(None, None), (Some(0), None), (Some(-1), None), (Some(1), Some(&[(1, 1)][..])), (None, Some(&[][..])), (None, Some(&[(1, 0)][..]))]
        {
            assert_eq!(ask(number, parts).expect_err("refused").status(), 400, "{number:?} {parts:?}");
        }
    }
}
