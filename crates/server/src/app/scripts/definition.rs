//! Scripts as their owners describe them: made, changed, deleted.

use std::sync::Arc;

use sandbar_core::script::{AuthorKind, Draft, Language, Trigger, cron, draft::CodeChange, pattern};
use sandbar_core::validate::Violation;
use sandbar_scripts::{CheckError, StripError, frame::SyntaxError};
use sandbar_store::{ScriptRecord, ScriptVersion, ScriptWhole};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::engines;
use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{now_ms, store_failure, violations},
    },
    error::ApiError,
};

/// Code that can be run.
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
        let mut wrong = draft.take(fields);
        wrong.extend(draft.lacks().into_iter().filter(|lack| !fields.contains_key(&lack.path) || lack.path == "pattern"));
        wrong.extend(wrong_pattern(&draft));
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

    /// Changes what a request names. New code is a new version, which is live at once.
    pub(crate) async fn update_script(self: &Arc<Self>, who: &Principal, id_or_name: &str, fields: &Map<String, Value>) -> Result<ScriptWhole, ApiError> {
        let ScriptWhole { script, aliases, versions, secrets } = self.script(who, id_or_name).await?;
        let mut draft = Draft {
            name: script.name.clone(),
            trigger: Some(script.trigger),
            pattern: script.pattern.clone(),
            active: script.active,
            spec: script.spec.clone(),
            code: CodeChange::default(),
        };
        let mut wrong = draft.take(fields);
        wrong.extend(draft.clashes());
        wrong.extend(wrong_pattern(&draft));
        if !wrong.is_empty() {
            return Err(violations(wrong));
        }
        let now = now_ms();
        let Draft { name, trigger, pattern, active, spec, code } = draft;
        let mut changed = ScriptRecord { name, trigger: trigger.unwrap_or(script.trigger), pattern, active, spec, updated_at_ms: now, ..script.clone() };
        let whole = ScriptWhole { script, aliases, versions, secrets };
        let version = self.changed_code(&whole, &mut changed, code, who, now).await?;
        if version.is_some() {
            self.check_room()?;
        }
        self.store.script_update(&changed, version).await.map_err(|e| refused("changing the function", &e))?;
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
        self.script(who, &changed.id).await
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
        now_ms: i64,
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
        if hash_of(language, &source) == live.hash && (author == live.author_kind || author.is_none() && is_written) {
            return Ok(None);
        }
        let prepared = self.prepare_script(&who.team_id, &changed.name, source, language).await?;
        changed.last_version = whole.script.last_version + 1;
        Ok(Some(version_of(changed, prepared, author, who, now_ms)))
    }

    /// Makes JavaScript of a source, and finds out whether it can be compiled.
    async fn prepare_script(&self, team_id: &str, name: &str, source: String, language: Language) -> Result<Prepared, ApiError> {
        let code = match language {
            Language::JavaScript => None,
            Language::TypeScript => match self.scripts.engines.strip(team_id, &source).await {
                Ok(code) => Some(code),
                Err(StripError::Syntax(error)) => return Err(syntax(&error)),
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
            Err(CheckError::Syntax(error)) => return Err(syntax(&error)),
            Err(CheckError::Busy(why)) => return Err(engines::busy(&why)),
            Err(CheckError::Engine(cause)) => {
                tracing::error!(cause, "a script could not be checked");
                return Err(ApiError::unavailable("the script could not be checked: the engine did not answer").retry_after(1));
            }
        }
        Ok(Prepared { hash: hash_of(language, &source), language, source, code })
    }
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

fn wrong_pattern(draft: &Draft) -> Option<Violation> {
    let text = draft.pattern.as_deref()?;
    let timezone = &draft.spec.schedule.timezone;
    let checked = match draft.trigger? {
        Trigger::Http => return None,
        Trigger::Event => pattern::validate(text),
        Trigger::Cron => cron::Schedule::parse(text, timezone).map(drop),
    };
    checked.err().map(|message| Violation::new("pattern", message))
}

fn syntax(error: &SyntaxError) -> ApiError {
    ApiError::bad_request(format!("code: {error}")).with_details(json!({ "line": error.line, "column": error.column, "message": error.message }))
}

/// A name that is taken is the client's conflict.
fn refused(operation: &str, error: &sandbar_store::StoreError) -> ApiError {
    match error {
        sandbar_store::StoreError::Exists { .. } => ApiError::conflict(error.to_string()),
        other => store_failure(operation, other),
    }
}
