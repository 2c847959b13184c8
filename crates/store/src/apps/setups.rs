//! What setup commands left, by what they were run on, so that the next build need not run them.

use rusqlite::{Connection, OptionalExtension};
use sandbar_core::{limits::deploys as limits, sandbox::Base};

use super::{base, json};
use crate::{Store, StoreError};

/// What a setup left, and by which key it is found.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAppSetup {
    /// SHA-256 of base, commands and what they read, in lower-case hex.
    pub key: String,
    pub base: Base,
}

impl Store {
    /// What a setup of a team left. It is the app's from now on.
    pub async fn app_setup_find(&self, team_id: &str, app_id: &str, key: &str, now_ms: i64) -> Result<Option<Base>, StoreError> {
        let (team_id, app_id, key) = (team_id.to_owned(), app_id.to_owned(), key.to_owned());
        self.engine
            .write("find what a setup left", move |c| {
                let sql = "UPDATE app_setup SET used_at_ms = ?4, app_id = ?2 WHERE team_id = ?1 AND key = ?3 RETURNING base";
                let found: Option<String> = c.prepare_cached(sql)?.query_row((team_id, app_id, key, now_ms), |row| row.get(0)).optional()?;
                found.as_deref().map(base).transpose()
            })
            .await
    }

    /// Forgets what was not used since a moment. Returns what it named.
    pub async fn app_setups_expire(&self, before_ms: i64) -> Result<Vec<Base>, StoreError> {
        self.engine
            .write("forget what setups left", move |c| {
                let mut statement = c.prepare_cached("DELETE FROM app_setup WHERE used_at_ms < ?1 RETURNING base")?;
                let rows = statement.query_map([before_ms], |row| row.get::<_, String>(0))?;
                rows.map(|row| base(&row?)).collect()
            })
            .await
    }
}

/// Keeps what a setup left in place of what had its key. Returns what rows named that made room.
pub(super) fn put(c: &Connection, team_id: &str, app_id: &str, setup: &NewAppSetup, now_ms: i64) -> Result<Vec<Base>, StoreError> {
    let mut gone = Vec::new();
    let mut take = |sql: &str, param: &dyn rusqlite::ToSql| -> Result<(), StoreError> {
        let mut statement = c.prepare_cached(sql)?;
        let rows = statement.query_map((team_id, param), |row| row.get::<_, String>(0))?;
        for row in rows {
            gone.push(base(&row?)?);
        }
        Ok(())
    };
    take("DELETE FROM app_setup WHERE team_id = ?1 AND key = ?2 RETURNING base", &setup.key)?;
    let kept = limits::APP_SETUPS_PER_TEAM_MAX - 1;
    take(
        "DELETE FROM app_setup WHERE team_id = ?1 AND key IN (SELECT key FROM app_setup WHERE team_id = ?1 ORDER BY used_at_ms DESC, key LIMIT -1 OFFSET ?2) RETURNING base",
        &kept,
    )?;
    let sql = "INSERT INTO app_setup (team_id, key, app_id, base, created_at_ms, used_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?5)";
    c.prepare_cached(sql)?.execute((team_id, &setup.key, app_id, json(&setup.base)?, now_ms))?;
    Ok(gone)
}
