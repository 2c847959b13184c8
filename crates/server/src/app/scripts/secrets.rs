//! Secrets of scripts: bound to one script each, sealed, and given to nobody but its runs.

use sandbar_core::{limits, script::draft::is_secret_name, validate::Violation};
use sandbar_scripts::OpError;
use sandbar_store::{ScriptRecord, ScriptSecret};

use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{now_ms, store_failure, violations},
        seal::Purpose,
    },
    error::ApiError,
};

impl App {
    /// A script's secrets by name, without what they are.
    pub(crate) async fn script_secrets(&self, who: &Principal, id_or_name: &str) -> Result<Vec<ScriptSecret>, ApiError> {
        let script = self.script(who, id_or_name).await?.script;
        self.store.script_secrets(&script.id).await.map_err(|e| store_failure("listing secrets", &e))
    }

    /// Keeps a secret in place of the former one of the name.
    pub(crate) async fn put_script_secret(&self, who: &Principal, id_or_name: &str, name: &str, value: &str) -> Result<(), ApiError> {
        let mut wrong = Vec::new();
        if !is_secret_name(name) {
            let max = limits::SCRIPT_SECRET_NAME_MAX_CHARS;
            wrong.push(Violation::new("name", format!("must begin with a letter or _, have only letters, digits, _, - and ., and at most {max} characters")));
        }
        if !(limits::SCRIPT_SECRET_MIN_BYTES..=limits::SCRIPT_SECRET_MAX_BYTES).contains(&value.len()) {
            let (min, max) = (limits::SCRIPT_SECRET_MIN_BYTES, limits::SCRIPT_SECRET_MAX_BYTES);
            wrong.push(Violation::new("value", format!("must have {min} to {max} bytes")));
        }
        if !wrong.is_empty() {
            return Err(violations(wrong));
        }
        self.check_room()?;
        let script = self.script(who, id_or_name).await?.script;
        let purpose = Purpose::ScriptSecret { script_id: &script.id, name };
        let sealed = self.scripts.seal.seal(purpose, value).map_err(|e| ApiError::internal("sealing the secret", &e))?;
        self.store.script_secret_put(&script.id, name, &sealed, now_ms()).await.map_err(|e| store_failure("keeping the secret", &e))?;
        tracing::info!(action = "secret", team = script.team_id, script = script.id, secret = name, by = who.user_id, "a secret of a function was set");
        Ok(())
    }

    pub(crate) async fn delete_script_secret(&self, who: &Principal, id_or_name: &str, name: &str) -> Result<(), ApiError> {
        let script = self.script(who, id_or_name).await?.script;
        self.store.script_secret_delete(&script.id, name).await.map_err(|e| store_failure("deleting the secret", &e))?;
        tracing::info!(action = "secret", team = script.team_id, script = script.id, secret = name, by = who.user_id, "a secret of a function was deleted");
        Ok(())
    }

    /// The value of a secret that is bound to a script; none when there is none of the name.
    pub(crate) async fn script_secret(&self, script: &ScriptRecord, name: &str) -> Result<Option<String>, OpError> {
        let found = self.store.script_secret_get(&script.id, name).await.map_err(|error| {
            tracing::error!(%error, script = script.id, "a secret could not be read");
            OpError::internal("the secret could not be read")
        })?;
        let Some(found) = found else { return Ok(None) };
        let opened = self.scripts.seal.unseal(Purpose::ScriptSecret { script_id: &script.id, name: &found.name }, &found.sealed);
        opened.map(Some).map_err(|error| {
            tracing::error!(%error, script = script.id, secret = name, "a secret of a function is of no use");
            OpError::internal(format!("the secret {name:?} cannot be opened; write it anew"))
        })
    }
}
