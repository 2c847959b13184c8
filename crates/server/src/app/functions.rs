//! Functions: published services. This file keeps their rows and what is known of them in memory; publishing, promoting,
//! serving and the instances that serve are below it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbar_api::function::{FunctionAutoscaling, FunctionUpdateRequest};
use sandbar_core::{
    function::{AliasRecord, Autoscaling, FunctionRecord, RevisionRecord, Split},
    limits,
    validate::Violation,
};
use sandbar_store::{FunctionEvent, FunctionWhole, Released, RevisionRow, StoreError};
use tokio::sync::Notify;

use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{layers_of, now_ms, store_failure, violations},
    },
    error::ApiError,
};

mod instances;
mod pool;
mod promote;
mod publish;
mod reconcile;
mod runtime;
pub(crate) mod serve;
mod source;

pub(crate) use promote::Promotion;
pub(crate) use runtime::{InstanceView, RuntimeView};

/// What is known of functions in memory.
#[derive(Default)]
pub struct Functions {
    known: Mutex<Cache>,
    pools: pool::Pools,
    sources: source::Sources,
    publishing: Mutex<HashSet<String>>,
    /// Instances that are being made, whether anybody waits for them or not.
    making: Ids,
    /// Instances that are being ended.
    removing: Ids,
    /// Woken when instances may have to be started or removed.
    pub(crate) changed: Notify,
}

/// A function with its aliases and the revisions that they name, as last read. Replaced whole when something changes.
#[derive(Debug)]
pub(crate) struct Known {
    pub function: Arc<FunctionRecord>,
    pub aliases: HashMap<String, Split>,
    pub revisions: HashMap<String, Arc<RevisionRecord>>,
    /// The number of the newest revision that was published from a sandbox.
    pub newest_from_source: HashMap<String, i64>,
}

#[derive(Default)]
struct Cache {
    /// With about how many bytes each has.
    by_label: HashMap<String, (Arc<Known>, usize)>,
    labels: HashMap<String, String>,
    bytes: usize,
    /// Advances with each change: what was read before one is not kept after it.
    generation: u64,
}

/// With whom something is being done.
#[derive(Default)]
pub(crate) struct Ids(Arc<Mutex<HashSet<String>>>);

/// One of them; until it is dropped.
pub(crate) struct Busy {
    all: Arc<Mutex<HashSet<String>>>,
    id: String,
}

/// Who publishes a function now; others are refused.
struct Publishing<'a> {
    functions: &'a Functions,
    id: String,
}

impl App {
    /// The team's functions, the last changed first, each with what `production` points to.
    pub async fn functions(&self, who: &Principal) -> Result<Vec<(FunctionRecord, Option<Split>)>, ApiError> {
        let functions = self.store.functions_list(&who.team_id).await.map_err(|e| store_failure("listing functions", &e))?;
        let mut productions = self.store.productions(&who.team_id).await.map_err(|e| store_failure("listing functions", &e))?;
        Ok(functions.into_iter().map(|function| (productions.remove(&function.id), function)).map(|(split, function)| (function, split)).collect())
    }

    /// A function of the team by id or slug.
    pub async fn function(&self, who: &Principal, id: &str) -> Result<FunctionRecord, ApiError> {
        let found = self.store.function_find(&who.team_id, id).await.map_err(|e| store_failure("reading the function", &e))?;
        found.ok_or_else(|| ApiError::not_found("function", id))
    }

    /// What an alias of a function points to.
    pub async fn function_alias(&self, function: &FunctionRecord, alias: &str) -> Result<Option<AliasRecord>, ApiError> {
        Ok(self.function_aliases(function).await?.into_iter().find(|record| record.alias == alias))
    }

    /// The aliases of a function by name.
    pub async fn function_aliases(&self, function: &FunctionRecord) -> Result<Vec<AliasRecord>, ApiError> {
        self.store.aliases_list(&function.id).await.map_err(|e| store_failure("listing aliases", &e))
    }

    /// The revisions of a function, the newest first.
    pub async fn function_revisions(&self, function: &FunctionRecord) -> Result<Vec<RevisionRow>, ApiError> {
        self.store.revisions_list(&function.id).await.map_err(|e| store_failure("listing revisions", &e))
    }

    /// A revision by its number.
    pub async fn function_revision(&self, function: &FunctionRecord, number: i64) -> Result<RevisionRow, ApiError> {
        let found = self.store.revision_find(&function.id, number).await.map_err(|e| store_failure("reading the revision", &e))?;
        found.ok_or_else(|| ApiError::not_found("revision", &number.to_string()))
    }

    /// What happened to a function, the newest first.
    pub async fn function_events(&self, function: &FunctionRecord) -> Result<Vec<FunctionEvent>, ApiError> {
        self.store.function_events(&function.id).await.map_err(|e| store_failure("listing events", &e))
    }

    /// Changes what can be changed of a function: never its slug nor its host. A blank name is none.
    pub async fn update_function(&self, who: &Principal, id: &str, request: FunctionUpdateRequest) -> Result<FunctionRecord, ApiError> {
        let function = self.function(who, id).await?;
        let name = request.name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        check_name(name.as_deref())?;
        let autoscaling = request.autoscaling.map(|asked| autoscaling(&asked)).transpose()?;
        let mut what = Vec::new();
        what.extend(name.as_ref().map(|_| "named anew"));
        what.extend(request.enabled.map(|enabled| if enabled { "enabled" } else { "disabled" }));
        what.extend(autoscaling.map(|_| "given other limits of instances"));
        if what.is_empty() {
            return Ok(function);
        }
        let event = event("function.updated", format!("it was {}", what.join(" and ")));
        let updated = self.store.function_update(&function.id, name, request.enabled, autoscaling, event).await;
        let updated = updated.map_err(|e| function_failure("changing the function", &e))?;
        if request.enabled == Some(true) {
            self.functions.pools.forgive(&function.id);
        }
        self.function_changed(&function);
        Ok(updated)
    }

    /// Deletes a function with everything it owned. Its name and its host stay taken.
    pub async fn delete_function(&self, who: &Principal, id: &str) -> Result<FunctionRecord, ApiError> {
        let function = self.function(who, id).await?;
        let deleted = self.store.function_delete(&function.id, now_ms()).await;
        let (deleted, released) = deleted.map_err(|e| function_failure("deleting the function", &e))?;
        self.function_changed(&function);
        self.release_revisions(released);
        Ok(deleted)
    }

    /// Lets what rows named of the disk go, if nobody else names it.
    fn release_revisions(&self, released: Released) {
        self.node.release(released.bases.iter().flat_map(|base| layers_of(Some(base))).chain(released.trees));
        self.collect_soon.notify_one();
    }

    /// Whoever looks at a function from now on sees it as it is stored.
    fn function_changed(&self, function: &FunctionRecord) {
        self.functions.forget(&function.id, &function.domain_label);
        self.functions.changed.notify_one();
    }

    /// What is known of the function that has a label.
    async fn known_by_label(&self, label: &str) -> Result<Option<Arc<Known>>, ApiError> {
        let generation = {
            let cache = self.functions.lock();
            if let Some((known, _)) = cache.by_label.get(label) {
                return Ok(Some(Arc::clone(known)));
            }
            cache.generation
        };
        let whole = self.store.function_by_label(label).await.map_err(|e| store_failure("reading the function", &e))?;
        Ok(whole.map(|whole| self.functions.keep(whole, generation)))
    }

    /// What is known of a function by its id.
    pub(crate) async fn known_function(&self, id: &str) -> Result<Option<Arc<Known>>, ApiError> {
        let generation = {
            let cache = self.functions.lock();
            if let Some((known, _)) = cache.labels.get(id).and_then(|label| cache.by_label.get(label)) {
                return Ok(Some(Arc::clone(known)));
            }
            cache.generation
        };
        let whole = self.store.function_whole(id).await.map_err(|e| store_failure("reading the function", &e))?;
        Ok(whole.map(|whole| self.functions.keep(whole, generation)))
    }

    /// Remembers what happened to a function. What cannot be remembered is only not told.
    async fn note_function(&self, function_id: &str, event: FunctionEvent) {
        if let Err(error) = self.store.function_event(function_id, event).await {
            tracing::warn!(function = function_id, %error, "an event was not recorded");
        }
    }
}

impl Functions {
    fn keep(&self, whole: FunctionWhole, generation: u64) -> Arc<Known> {
        let FunctionWhole { function, aliases, revisions, newest_from_source } = whole;
        let known = Arc::new(Known {
            aliases: aliases.into_iter().map(|alias| (alias.alias, alias.split)).collect(),
            revisions: revisions.into_iter().map(|row| (row.revision.id.clone(), Arc::new(row.revision))).collect(),
            newest_from_source,
            function: Arc::new(function),
        });
        let bytes = known.bytes();
        let mut cache = self.lock();
        if cache.generation == generation {
            cache.keep(&known, bytes, limits::FUNCTIONS_CACHED_MAX_BYTES);
        }
        known
    }

    fn forget(&self, id: &str, label: &str) {
        let mut cache = self.lock();
        cache.generation += 1;
        cache.remove(id, label);
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One at a time publishes or promotes a function.
    fn begin_publishing(&self, id: &str) -> Result<Publishing<'_>, ApiError> {
        let mut publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if !publishing.insert(id.to_owned()) {
            return Err(ApiError::conflict("function revision publish already in progress"));
        }
        Ok(Publishing { functions: self, id: id.to_owned() })
    }
}

impl Ids {
    /// None when it is one of them already.
    pub(crate) fn begin(&self, id: &str) -> Option<Busy> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        is_new.then(|| Busy { all: Arc::clone(&self.0), id: id.to_owned() })
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.functions.publishing.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Cache {
    fn keep(&mut self, known: &Arc<Known>, bytes: usize, bytes_max: usize) {
        let (id, label) = (&known.function.id, &known.function.domain_label);
        self.remove(id, label);
        if bytes > bytes_max {
            return;
        }
        while self.by_label.len() >= limits::FUNCTIONS_CACHED_MAX || self.bytes + bytes > bytes_max {
            // Whichever: it is only read again.
            let Some((other, _)) = self.by_label.values().next().cloned() else { return };
            self.remove(&other.function.id, &other.function.domain_label);
        }
        self.bytes += bytes;
        self.labels.insert(id.clone(), label.clone());
        self.by_label.insert(label.clone(), (Arc::clone(known), bytes));
    }

    fn remove(&mut self, id: &str, label: &str) {
        self.labels.remove(id);
        if let Some((_, bytes)) = self.by_label.remove(label) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}

impl Known {
    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let mut counted = Counted(0);
        for revision in self.revisions.values() {
            // What cannot be written as JSON came from JSON, so it can.
            let _ = serde_json::to_writer(&mut counted, revision.as_ref());
            // It is kept read too.
            let _ = serde_json::to_writer(&mut counted, &revision.service_snapshot);
        }
        counted.0 + 1024
    }

    /// Whether requests may come to a revision.
    pub fn serves(&self, revision_id: &str) -> bool {
        self.function.enabled && self.aliases.values().any(|split| split.serves(revision_id))
    }
}

/// Counts what is written.
struct Counted(usize);

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An event of now.
fn event(kind: &str, message: impl Into<String>) -> FunctionEvent {
    FunctionEvent { at_ms: now_ms(), kind: kind.to_owned(), message: message.into(), ..FunctionEvent::default() }
}

/// What the client is told when the store refused something with a function.
fn function_failure(operation: &str, error: &StoreError) -> ApiError {
    match error {
        StoreError::Exists { what: "function name" } => {
            ApiError::conflict("function name already exists: its slug is taken, and slugs of deleted functions stay so")
        }
        StoreError::InUse { what: "revision", .. } => ApiError::conflict("an alias points to the revision; let it point to another first"),
        other => store_failure(operation, other),
    }
}

fn check_name(name: Option<&str>) -> Result<(), ApiError> {
    match name {
        Some(name) if name.chars().count() > limits::NAME_MAX_CHARS => {
            Err(violations(vec![Violation::new("name", format!("is longer than {} characters", limits::NAME_MAX_CHARS))]))
        }
        Some(_) | None => Ok(()),
    }
}

fn autoscaling(asked: &FunctionAutoscaling) -> Result<Autoscaling, ApiError> {
    let FunctionAutoscaling { min_warm, max_active, target_concurrency, scale_down_after_seconds } = *asked;
    Autoscaling::check(min_warm, max_active, target_concurrency, scale_down_after_seconds).map_err(violations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str) -> Arc<Known> {
        let function = FunctionRecord {
            id: id.to_owned(),
            team_id: "t".to_owned(),
            domain_label: format!("{id}-label"),
            name: id.to_owned(),
            slug: id.to_owned(),
            enabled: true,
            autoscaling: Autoscaling::default(),
            created_by: None,
            created_at_ms: 0,
            updated_at_ms: 0,
            deleted_at_ms: None,
        };
        Arc::new(Known { function: Arc::new(function), aliases: HashMap::new(), revisions: HashMap::new(), newest_from_source: HashMap::new() })
    }

    #[test]
    fn what_is_known_has_a_bound_in_bytes() {
        let mut cache = Cache::default();
        for id in ["a", "b", "c", "c"] {
            cache.keep(&known(id), 40, 100);
        }
        assert_eq!((cache.by_label.len(), cache.labels.len(), cache.bytes), (2, 2, 80));
        assert!(cache.by_label.contains_key("c-label"), "the newest stays");
        cache.keep(&known("d"), 101, 100);
        assert_eq!((cache.by_label.len(), cache.bytes), (2, 80), "what is too large is read each time");
        cache.keep(&known("e"), 100, 100);
        assert_eq!((cache.by_label.len(), cache.bytes), (1, 100));
        cache.remove("e", "e-label");
        assert_eq!((cache.by_label.len(), cache.labels.len(), cache.bytes), (0, 0, 0));
    }
}
