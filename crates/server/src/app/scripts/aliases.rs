//! Versions of scripts, and aliases that name them.

use sandbar_core::{
    script::{LIVE, Split, draft::is_name},
    validate::Violation,
};
use sandbar_store::{ScriptAlias, ScriptVersion, ScriptWhole, VersionHead};

use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{now_ms, store_failure, violations},
    },
    error::ApiError,
};

impl App {
    /// The versions of a script that are kept, the newest first.
    pub(crate) async fn script_versions(&self, who: &Principal, id_or_name: &str) -> Result<(ScriptWhole, Vec<VersionHead>), ApiError> {
        let whole = self.script(who, id_or_name).await?;
        let versions = self.store.script_versions(&whole.script.id).await.map_err(|e| store_failure("listing versions", &e))?;
        Ok((whole, versions))
    }

    /// A version with its code.
    pub(crate) async fn script_version(&self, whole: &ScriptWhole, number: u32) -> Result<ScriptVersion, ApiError> {
        let found = self.store.script_version(&whole.script.id, number).await.map_err(|e| store_failure("reading the version", &e))?;
        found.ok_or_else(|| ApiError::not_found("version", &number.to_string()))
    }

    /// Lets an alias point to a version, or divide its calls between two.
    pub(crate) async fn put_script_alias(&self, who: &Principal, id_or_name: &str, alias: &str, split: Split) -> Result<ScriptAlias, ApiError> {
        if !is_name(alias) {
            return Err(violations(vec![Violation::new("alias", "must match ^[a-z][a-z0-9_-]*$ and have at most 64 characters")]));
        }
        let script = self.script(who, id_or_name).await?.script;
        let now = now_ms();
        let put = self.store.script_alias_put(&script.id, alias, &split, Some(&who.user_id), now).await;
        put.map_err(|e| store_failure("setting the alias", &e))?;
        tracing::info!(action = "alias", team = script.team_id, script = script.id, alias, ?split, by = who.user_id, "an alias of a function was set");
        Ok(ScriptAlias { alias: alias.to_owned(), split, updated_by: Some(who.user_id.clone()), updated_at_ms: now })
    }

    pub(crate) async fn delete_script_alias(&self, who: &Principal, id_or_name: &str, alias: &str) -> Result<(), ApiError> {
        if alias == LIVE {
            return Err(ApiError::conflict("the alias live cannot be deleted; let it point to another version instead"));
        }
        let script = self.script(who, id_or_name).await?.script;
        self.store.script_alias_delete(&script.id, alias).await.map_err(|e| store_failure("deleting the alias", &e))?;
        tracing::info!(action = "alias", team = script.team_id, script = script.id, alias, by = who.user_id, "an alias of a function was deleted");
        Ok(())
    }

    /// Makes a former version live: the one named, else the newest one before that which is live.
    pub(crate) async fn roll_back_script(&self, who: &Principal, id_or_name: &str, version: Option<u32>) -> Result<ScriptWhole, ApiError> {
        let (whole, versions) = self.script_versions(who, id_or_name).await?;
        let live = whole.alias(LIVE).map_or(0, |alias| alias.split.main());
        let wanted = match version {
            Some(number) => number,
            None => {
                let before = versions.iter().map(|version| version.number).find(|number| *number < live);
                before.ok_or_else(|| ApiError::conflict(format!("there is no version before {live}, which is live")))?
            }
        };
        self.put_script_alias(who, &whole.script.id, LIVE, Split::whole(wanted)).await?;
        self.script(who, &whole.script.id).await
    }
}
