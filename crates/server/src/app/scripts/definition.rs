//! Scripts as their owners describe them: made, changed, deleted.

use std::sync::Arc;

use sandbar_core::script::{
    AuthorKind, Draft, Language, Trigger, cron,
    draft::{CodeChange, READ_ONLY},
    module_syntax, pattern,
};
use sandbar_core::validate::Violation;
use sandbar_scripts::{CheckError, StripError, frame::SyntaxError};
use sandbar_store::{ScriptRecord, ScriptVersion, ScriptWhole, StoreError};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::engines;
use crate::{
    app::{
        App,
        auth::Principal,
        collections::changing,
        sandboxes::{now_ms, store_failure, violations},
    },
    error::ApiError,
    http::scripts::render,
};

/// How often a change is tried anew that others were faster than. One of those that are made at once is always the fastest.
const CHANGE_TRIES: usize = 100;

/// Code that can be run.
#[derive(Clone)]
struct Prepared {
    language: Language,
    source: String,
    /// JavaScript, where the source is none.
    code: Option<String>,
    hash: String,
}

impl App {
    /// The team's scripts by name.
    pub(crate) async fn scripts(&self, who: &Principal) -> Result<Vec<ScriptWhole>, ApiError> {
        self.store.scripts_list(&who.team_id).await.map_err(|e| store_failure("listing functions", &e))
    }

    /// A script by id or name.
    pub(crate) async fn script(&self, who: &Principal, id_or_name: &str) -> Result<ScriptWhole, ApiError> {
        let found = self.store.script_find(&who.team_id, id_or_name).await.map_err(|e| store_failure("reading the function", &e))?;
        found.ok_or_else(|| ApiError::not_found("function", id_or_name))
    }

    /// The code that is live.
    pub(crate) async fn live_source(&self, whole: &ScriptWhole) -> Result<Option<String>, ApiError> {
        let Some(live) = whole.live() else { return Ok(None) };
        Ok(Some(self.script_version(whole, live.number).await?.source))
    }

    pub(crate) async fn create_script(self: &Arc<Self>, who: &Principal, fields: &Map<String, Value>) -> Result<ScriptWhole, ApiError> {
        self.check_room()?;
        let mut draft = Draft::new();
        let mut wrong = draft.take(fields, &Draft::new());
        wrong.extend(draft.lacks().into_iter().filter(|lack| !fields.contains_key(&lack.path)));
        if !wrong.iter().any(|violation| violation.path == "pattern") {
            wrong.extend(wrong_pattern(&draft));
        }
        if !wrong.is_empty() {
            return Err(violations(wrong));
        }
        let Draft { name, trigger, pattern, active, spec, code } = draft;
        let CodeChange { source, language, author } = code;
        let prepared = self.prepare_script(&who.team_id, &name, source.unwrap_or_default(), language.unwrap_or_default()).await?;
        let now = now_ms();
        let script = ScriptRecord {
            id: Uuid::new_v4().to_string(),
            team_id: who.team_id.clone(),
            name,
            trigger: trigger.unwrap_or(Trigger::Http),
            pattern,
            active,
            last_version: 1,
            spec,
            created_by: Some(who.user_id.clone()),
            created_at_ms: now,
            updated_at_ms: now,
            generation: 1,
        };
        let version = version_of(&script, prepared, author.flatten(), who, now);
        self.store.script_create(&script, &version).await.map_err(|e| refused("creating the function", &e))?;
        self.script_changed();
        tracing::info!(action = "create", team = script.team_id, script = script.id, name = script.name, by = who.user_id, "a function was created");
        self.script(who, &script.id).await
    }

    /// Changes what a request names. New code is a new version, which is live at once. Of changes at the same time each is made, one
    /// after the other.
    pub(crate) async fn update_script(self: &Arc<Self>, who: &Principal, id_or_name: &str, fields: &Map<String, Value>) -> Result<ScriptWhole, ApiError> {
        // Code is made ready once, however often another change was faster.
        let mut prepared = None;
        for _ in 0..CHANGE_TRIES {
            let whole = self.script(who, id_or_name).await?;
            let (changed, version) = self.changed(who, &whole, fields, &mut prepared).await?;
            match self.store.script_update(&changed, version).await {
                Err(StoreError::Stale { .. }) => continue,
                done => done.map_err(|e| refused("changing the function", &e))?,
            }
            self.script_changed();
            tracing::info!(
                action = "update",
                team = changed.team_id,
                script = changed.id,
                name = changed.name,
                version = changed.last_version,
                by = who.user_id,
                "a function was changed"
            );
            return self.script(who, &changed.id).await;
        }
        Err(changing("function"))
    }

    /// What a script becomes, and its new version if it gets one.
    async fn changed(
        &self,
        who: &Principal,
        whole: &ScriptWhole,
        fields: &Map<String, Value>,
        prepared: &mut Option<Prepared>,
    ) -> Result<(ScriptRecord, Option<ScriptVersion>), ApiError> {
        let script = &whole.script;
        let before = Draft {
            name: script.name.clone(),
            trigger: Some(script.trigger),
            pattern: script.pattern.clone(),
            active: script.active,
            spec: script.spec.clone(),
            code: CodeChange::default(),
        };
        let mut draft = before.clone();
        let mut wrong = draft.take(&without_what_is_so(fields, whole), &before);
        if !wrong.iter().any(|violation| violation.path == "pattern") {
            wrong.extend(wrong_pattern(&draft));
        }
        if !wrong.is_empty() {
            return Err(violations(wrong));
        }
        let now = now_ms();
        let Draft { name, trigger, pattern, active, spec, code } = draft;
        let mut changed = ScriptRecord { name, trigger: trigger.unwrap_or(script.trigger), pattern, active, spec, updated_at_ms: now, ..script.clone() };
        let version = self.changed_code(whole, &mut changed, code, who, prepared).await?;
        if version.is_some() {
            self.check_room()?;
        }
        Ok((changed, version))
    }

    pub(crate) async fn delete_script(self: &Arc<Self>, who: &Principal, id_or_name: &str) -> Result<(), ApiError> {
        let script = self.script(who, id_or_name).await?.script;
        self.store.script_delete(&who.team_id, &script.id).await.map_err(|e| refused("deleting the function", &e))?;
        self.script_changed();
        tracing::info!(action = "delete", team = script.team_id, script = script.id, name = script.name, by = who.user_id, "a function was deleted");
        Ok(())
    }

    /// When a script runs next, if it has a schedule.
    pub(crate) async fn script_next_run(&self, script: &ScriptRecord) -> Result<Option<i64>, ApiError> {
        match script.trigger {
            Trigger::Http | Trigger::Event => Ok(None),
            Trigger::Cron => {
                let schedule = self.store.script_schedule_get(&script.id).await.map_err(|e| store_failure("reading the schedule", &e))?;
                Ok(schedule.and_then(|schedule| schedule.next_tick_ms))
            }
        }
    }

    /// The version that a change of the code makes, if it is another code, or is said to be another's.
    async fn changed_code(
        &self,
        whole: &ScriptWhole,
        changed: &mut ScriptRecord,
        code: CodeChange,
        who: &Principal,
        prepared: &mut Option<Prepared>,
    ) -> Result<Option<ScriptVersion>, ApiError> {
        if code == CodeChange::default() {
            return Ok(None);
        }
        let live = whole.live().ok_or_else(|| ApiError::internal("reading the function", &"its live version is not there"))?;
        let live = self.script_version(whole, live.number).await?;
        let CodeChange { source, language, author } = code;
        let is_written = source.is_some() || language.is_some();
        // Who wrote the code is asked anew with each code.
        let author = author.unwrap_or(if is_written { None } else { live.author_kind });
        let (source, language) = (source.unwrap_or_else(|| live.source.clone()), language.unwrap_or(live.language));
        let hash = hash_of(language, &source);
        if hash == live.hash && (author == live.author_kind || author.is_none() && is_written) {
            return Ok(None);
        }
        let ready = match prepared.take().filter(|prepared| prepared.hash == hash) {
            Some(ready) => ready,
            None => self.prepare_script(&who.team_id, &changed.name, source, language).await?,
        };
        *prepared = Some(ready.clone());
        changed.last_version = whole.script.last_version + 1;
        Ok(Some(version_of(changed, ready, author, who, changed.updated_at_ms)))
    }

    /// Makes JavaScript of a source, and finds out whether it can be compiled.
    async fn prepare_script(&self, team_id: &str, name: &str, source: String, language: Language) -> Result<Prepared, ApiError> {
        let code = match language {
            Language::JavaScript => None,
            Language::TypeScript => match self.scripts.engines.strip(team_id, &source).await {
                Ok(code) => Some(code),
                Err(StripError::Syntax(error)) => return Err(syntax(&error, &source)),
                Err(error @ StripError::TooSlow) => return Err(ApiError::bad_request(format!("code: {error}"))),
                Err(StripError::Engine(cause)) => {
                    tracing::error!(cause, "the TypeScript of a script could not be read");
                    return Err(ApiError::unavailable("the script could not be read: there is no room for its TypeScript now, or its reader did not answer")
                        .retry_after(1));
                }
            },
        };
        match self.scripts.engines.check(team_id, code.as_deref().unwrap_or(&source), name).await {
            Ok(()) => {}
            Err(CheckError::Syntax(error)) => return Err(syntax(&error, &source)),
            Err(CheckError::Busy(why)) => return Err(engines::busy(&why)),
            Err(CheckError::Engine(cause)) => {
                tracing::error!(cause, "a script could not be checked");
                return Err(ApiError::unavailable("the script could not be checked: the engine did not answer").retry_after(1));
            }
        }
        Ok(Prepared { hash: hash_of(language, &source), language, source, code })
    }
}

/// What a request says that is not so already, as far as the server alone sets it: who sends back a function as it was read says nothing
/// by that. When it runs next changes by itself, so that says nothing in any case.
fn without_what_is_so(fields: &Map<String, Value>, whole: &ScriptWhole) -> Map<String, Value> {
    let shown = serde_json::to_value(render::function(whole.clone(), None, None)).unwrap_or_default();
    let is_so = |field: &str, value: &Value| READ_ONLY.contains(&field) && (field == "nextRunAt" || shown.get(field) == Some(value));
    fields.iter().filter(|(field, value)| !is_so(field, value)).map(|(field, value)| (field.clone(), value.clone())).collect()
}

/// SHA-256 of language and source, lower-case hex.
fn hash_of(language: Language, source: &str) -> String {
    hex::encode(Sha256::new().chain_update(language.as_str()).chain_update([b'\n']).chain_update(source).finalize())
}

fn version_of(script: &ScriptRecord, prepared: Prepared, author_kind: Option<AuthorKind>, who: &Principal, now_ms: i64) -> ScriptVersion {
    let Prepared { language, source, code, hash } = prepared;
    ScriptVersion {
        script_id: script.id.clone(),
        number: script.last_version,
        hash,
        language,
        source,
        code,
        author_kind,
        created_by: Some(who.user_id.clone()),
        created_at_ms: now_ms,
    }
}

fn wrong_pattern(draft: &Draft) -> Vec<Violation> {
    let (Some(text), Some(trigger)) = (draft.pattern.as_deref(), draft.trigger) else { return Vec::new() };
    let (pattern, timezone) = match trigger {
        Trigger::Http => (Ok(()), Ok(())),
        Trigger::Event => (pattern::validate(text), Ok(())),
        Trigger::Cron => (cron::Schedule::parse(text, "UTC").map(drop), cron::check_timezone(&draft.spec.schedule.timezone)),
    };
    let wrong = |path, checked: Result<(), String>| checked.err().map(|message| Violation::new(path, message));
    wrong("pattern", pattern).into_iter().chain(wrong("schedule.timezone", timezone)).collect()
}

/// Where code is wrong. What belongs to modules is told in words of its own.
fn syntax(error: &SyntaxError, source: &str) -> ApiError {
    let of_module = module_syntax(source, error.line).map(|(column, message)| SyntaxError { message: message.to_owned(), line: error.line, column });
    let error = of_module.as_ref().unwrap_or(error);
    ApiError::bad_request(format!("code: {error}")).with_details(json!({ "line": error.line, "column": error.column, "message": error.message }))
}

/// A name that is taken is the client's conflict.
fn refused(operation: &str, error: &StoreError) -> ApiError {
    match error {
        StoreError::Exists { .. } => ApiError::conflict(error.to_string()),
        other => store_failure(operation, other),
    }
}
