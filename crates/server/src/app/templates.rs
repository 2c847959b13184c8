//! Templates: the built-in ones, for everybody to read, and a team's own.

use std::collections::HashMap;

use sandbar_api::template::{TemplateCondition, TemplateCreateRequest, TemplateCreation, TemplateSpec, TemplateStatus};
use sandbar_core::validate;
use sandbar_node::PoolStatus;
use sandbar_store::{StoreError, TemplateRecord};

use crate::{
    app::{
        App,
        auth::Principal,
        images::Absence,
        sandboxes::{now_ms, spec, store_failure, violations},
    },
    error::ApiError,
    http::time::rfc3339,
};

impl App {
    /// The template that a team means by an id: its own, else the built-in one.
    pub async fn template(&self, who: &Principal, id: &str) -> Result<TemplateRecord, ApiError> {
        let found = self.store.template_get(&who.team_id, id).await.map_err(|e| store_failure("reading the template", &e))?;
        found.ok_or_else(|| ApiError::not_found("template", id))
    }

    /// All that a team can claim from.
    pub async fn templates(&self, who: &Principal) -> Result<Vec<TemplateRecord>, ApiError> {
        self.store.templates_list(&who.team_id).await.map_err(|e| store_failure("listing templates", &e))
    }

    /// How templates stand with a team: their idle runtimes, which all who want such share, and the team's sandboxes.
    pub async fn template_states(&self, who: &Principal, templates: &[TemplateRecord]) -> Result<Vec<TemplateStatus>, ApiError> {
        let active = self.store.sandbox_counts_by_template(&who.team_id).await.map_err(|e| store_failure("counting sandboxes", &e))?;
        let pools: HashMap<String, PoolStatus> = self.node.pools().into_iter().map(|pool| (pool.key.clone(), pool)).collect();
        let state = |template: &TemplateRecord| {
            let base = spec::base_of(&self.node, &template.spec, template.base.as_ref());
            let pool = base.as_ref().ok().and_then(|base| pools.get(&spec::pool_key(&spec::pool_spec(&self.node, &template.spec, base.clone()))));
            let absence = base.as_ref().err().map(|text| self.image_absence(spec::image_of(&template.spec), text.clone()));
            TemplateStatus {
                idle_count: pool.map_or(0, |pool| pool.idle),
                active_count: active.get(&template.id).map_or(0, |count| u32::try_from(*count).unwrap_or(u32::MAX)),
                conditions: conditions(absence.as_ref(), pool),
                last_update_time: Some(rfc3339(template.updated_at_ms)),
                creation: template.creation.clone().or_else(|| absence.map(|absence| creation(absence, template.updated_at_ms))),
            }
        };
        Ok(templates.iter().map(state).collect())
    }

    pub async fn create_template(&self, who: &Principal, request: TemplateCreateRequest) -> Result<TemplateRecord, ApiError> {
        let TemplateCreateRequest { template_id: id, spec } = request;
        if !validate::is_label(&id) {
            return Err(ApiError::bad_request("template_id: must be lower-case letters, digits and inner hyphens, at most 63"));
        }
        check(&spec)?;
        self.check_room()?;
        let now = now_ms();
        let record = TemplateRecord {
            id,
            team_id: Some(who.team_id.clone()),
            user_id: Some(who.user_id.clone()),
            spec,
            base: None,
            creation: None,
            created_at_ms: now,
            updated_at_ms: now,
            version: 1,
        };
        self.insert_template(&record).await?;
        Ok(record)
    }

    pub(crate) async fn insert_template(&self, record: &TemplateRecord) -> Result<(), ApiError> {
        self.store.template_insert(record).await.map_err(|error| failure("saving the template", &record.id, &error))?;
        self.templates_changed.notify_one();
        Ok(())
    }

    /// Replaces a template's specification. Sandboxes that exist keep the one they were claimed with.
    pub async fn update_template(&self, who: &Principal, id: &str, spec: TemplateSpec) -> Result<TemplateRecord, ApiError> {
        let mut record = self.own_template(who, id).await?;
        check(&spec)?;
        self.check_room()?;
        // The files of a sandbox belong to the image that they were made on.
        let former = record.base.take_if(|_| record.spec.main_container.image != spec.main_container.image);
        record.spec = spec;
        record.updated_at_ms = now_ms();
        let seen = record.version;
        let stored = self.store.template_update(&record, seen).await.map_err(|error| failure("saving the template", id, &error))?;
        former.iter().for_each(|base| self.release(base));
        self.templates_changed.notify_one();
        Ok(stored)
    }

    pub async fn delete_template(&self, who: &Principal, id: &str) -> Result<(), ApiError> {
        self.own_template(who, id).await?;
        let base = self.store.template_delete(&who.team_id, id).await.map_err(|error| failure("deleting the template", id, &error))?;
        base.iter().for_each(|base| self.release(base));
        self.templates_changed.notify_one();
        Ok(())
    }

    async fn own_template(&self, who: &Principal, id: &str) -> Result<TemplateRecord, ApiError> {
        let record = self.template(who, id).await?;
        if record.team_id.is_none() {
            return Err(ApiError::new(sandbar_api::ErrorCode::Forbidden, format!("template {id:?} is built in and cannot be changed")));
        }
        Ok(record)
    }
}

/// What is true or false of a template now.
fn conditions(absence: Option<&Absence>, pool: Option<&PoolStatus>) -> Vec<TemplateCondition> {
    let condition = |kind: &str, good: bool, reason: &str, message: Option<String>| TemplateCondition {
        kind: kind.to_owned(),
        status: if good { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message,
        last_transition_time: None,
    };
    let mut found = vec![match absence {
        None => condition("ImageReady", true, "Present", None),
        Some(Absence::Pulling) => condition("ImageReady", false, "Pulling", Some("the image is being pulled".to_owned())),
        Some(Absence::Failed(text)) => condition("ImageReady", false, "PullFailed", Some(text.clone())),
        Some(Absence::Missing(text)) => condition("ImageReady", false, "Missing", Some(text.clone())),
    }];
    if let Some(pool) = pool {
        found.push(match &pool.last_error {
            Some(text) => condition("PoolReady", false, "LaunchFailed", Some(text.clone())),
            None if pool.idle >= pool.min_idle => condition("PoolReady", true, "Filled", None),
            None => condition("PoolReady", false, "Filling", Some(format!("{} of {} idle sandboxes are ready", pool.idle, pool.min_idle))),
        });
    }
    found
}

/// How far a template is whose image is not there: clients wait by it.
fn creation(absence: Absence, since_ms: i64) -> TemplateCreation {
    let (state, reason, message) = match absence {
        Absence::Pulling => ("creating", None, None),
        Absence::Failed(text) => ("failed", Some("PullFailed"), Some(text)),
        Absence::Missing(text) => ("failed", Some("ImageMissing"), Some(text)),
    };
    TemplateCreation {
        state: state.to_owned(),
        stage: "publishing".to_owned(),
        started_at: rfc3339(since_ms),
        captured_at: None,
        completed_at: None,
        reason: reason.map(str::to_owned),
        message,
    }
}

fn check(spec: &TemplateSpec) -> Result<(), ApiError> {
    let found = validate::template(spec);
    if found.is_empty() { Ok(()) } else { Err(violations(found)) }
}

fn failure(operation: &str, id: &str, error: &StoreError) -> ApiError {
    match error {
        StoreError::Exists { .. } => ApiError::conflict(format!("template {id:?} exists already")),
        StoreError::Stale { .. } => ApiError::conflict(format!("template {id:?} was changed by somebody else at the same time; try again")),
        StoreError::NotFound { .. } => ApiError::not_found("template", id),
        other => store_failure(operation, other),
    }
}
