//! Keys that open one script.

use sandbar_core::{limits, validate::Violation};
use sandbar_store::ScriptKey;
use uuid::Uuid;

use crate::{
    app::{
        App,
        auth::{Principal, token},
        sandboxes::{now_ms, store_failure, violations},
    },
    error::ApiError,
};

/// What the text of every such key begins with; no other token does.
pub(crate) const PREFIX: &str = "sk_";

impl App {
    pub(crate) async fn script_keys(&self, who: &Principal, id_or_name: &str) -> Result<Vec<ScriptKey>, ApiError> {
        let script = self.script(who, id_or_name).await?.script;
        self.store.script_keys(&script.id).await.map_err(|e| store_failure("listing keys", &e))
    }

    /// Makes a key and returns it with its text, which is stored nowhere.
    pub(crate) async fn create_script_key(&self, who: &Principal, id_or_name: &str, name: &str) -> Result<(ScriptKey, String), ApiError> {
        let name = name.trim();
        if name.chars().count() > limits::NAME_MAX_CHARS || name.contains(char::is_control) {
            return Err(violations(vec![Violation::new("name", format!("has at most {} characters, none of them a control", limits::NAME_MAX_CHARS))]));
        }
        let script = self.script(who, id_or_name).await?.script;
        let text = format!("{PREFIX}{}", token::random_hex().map_err(|e| store_failure("making a key", &e))?);
        let key = ScriptKey { id: Uuid::new_v4().to_string(), script_id: script.id.clone(), name: name.to_owned(), created_at_ms: now_ms() };
        self.store.script_key_insert(&key, &token::sha256_hex(&text)).await.map_err(|e| store_failure("storing the key", &e))?;
        tracing::info!(action = "key", team = script.team_id, script = script.id, key = key.id, by = who.user_id, "a key of a function was made");
        Ok((key, text))
    }

    pub(crate) async fn delete_script_key(&self, who: &Principal, id_or_name: &str, id: &str) -> Result<(), ApiError> {
        let script = self.script(who, id_or_name).await?.script;
        self.store.script_key_delete(&script.id, id).await.map_err(|e| store_failure("deleting the key", &e))?;
        tracing::info!(action = "key", team = script.team_id, script = script.id, key = id, by = who.user_id, "a key of a function was deleted");
        Ok(())
    }

    /// The key that a text is, if it is one.
    pub(crate) async fn script_key(&self, text: &str) -> Result<Option<ScriptKey>, ApiError> {
        if !text.starts_with(PREFIX) || text.len() > limits::TOKEN_MAX_BYTES {
            return Ok(None);
        }
        self.store.script_key_find(&token::sha256_hex(text)).await.map_err(|e| store_failure("reading the key", &e))
    }
}
