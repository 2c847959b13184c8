//! Secrets of scripts, sealed by whoever hands them in.

use rusqlite::{Connection, OptionalExtension};
use sandbar_core::limits;

use crate::{Store, StoreError};

/// A secret's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptSecret {
    pub name: String,
    pub sealed: String,
    /// Grows with each write.
    pub version: i64,
    pub updated_at_ms: i64,
}

impl Store {
    /// Keeps a secret of a script in place of the former one. A script may have a limited number.
    pub async fn script_secret_put(&self, script_id: &str, name: &str, sealed: &str, now_ms: i64) -> Result<(), StoreError> {
        let (id, name, sealed) = (script_id.to_owned(), name.to_owned(), sealed.to_owned());
        self.engine
            .write("keep a secret of a script", move |c| {
                if !c.prepare_cached("SELECT 1 FROM script WHERE id = ?1")?.exists([&id])? {
                    return Err(StoreError::NotFound { what: "function", id });
                }
                let sql = "SELECT count(*) FROM script_secret WHERE script_id = ?1 AND name <> ?2";
                let others: usize = c.prepare_cached(sql)?.query_row((&id, &name), |row| row.get(0))?;
                if others >= limits::SCRIPT_SECRETS_MAX {
                    return Err(StoreError::TooMany { what: "secrets of this function", max: limits::SCRIPT_SECRETS_MAX });
                }
                let sql = "INSERT INTO script_secret (script_id, name, sealed, version, updated_at_ms) VALUES (?1, ?2, ?3, 1, ?4)
                    ON CONFLICT (script_id, name) DO UPDATE SET sealed = excluded.sealed, version = version + 1, updated_at_ms = excluded.updated_at_ms";
                c.prepare_cached(sql)?.execute((id, name, sealed, now_ms))?;
                Ok(())
            })
            .await
    }

    pub async fn script_secret_get(&self, script_id: &str, name: &str) -> Result<Option<ScriptSecret>, StoreError> {
        let (id, name) = (script_id.to_owned(), name.to_owned());
        self.engine
            .read("read a secret of a script", move |c| {
                let sql = "SELECT name, sealed, version, updated_at_ms FROM script_secret WHERE script_id = ?1 AND name = ?2";
                let read =
                    |row: &rusqlite::Row<'_>| Ok(ScriptSecret { name: row.get(0)?, sealed: row.get(1)?, version: row.get(2)?, updated_at_ms: row.get(3)? });
                Ok(c.prepare_cached(sql)?.query_row((id, name), read).optional()?)
            })
            .await
    }

    /// A script's secrets by name.
    pub async fn script_secrets(&self, script_id: &str) -> Result<Vec<ScriptSecret>, StoreError> {
        let id = script_id.to_owned();
        self.engine
            .read("list secrets of a script", move |c| {
                let mut statement = c.prepare_cached("SELECT name, sealed, version, updated_at_ms FROM script_secret WHERE script_id = ?1 ORDER BY name")?;
                let rows = statement
                    .query_map([id], |row| Ok(ScriptSecret { name: row.get(0)?, sealed: row.get(1)?, version: row.get(2)?, updated_at_ms: row.get(3)? }))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    pub async fn script_secret_delete(&self, script_id: &str, name: &str) -> Result<(), StoreError> {
        let (id, name) = (script_id.to_owned(), name.to_owned());
        self.engine
            .write("delete a secret of a script", move |c| {
                let changed = c.prepare_cached("DELETE FROM script_secret WHERE script_id = ?1 AND name = ?2")?.execute((id, &name))?;
                if changed == 0 { Err(StoreError::NotFound { what: "secret", id: name }) } else { Ok(()) }
            })
            .await
    }
}

pub(super) fn names(c: &Connection, script_id: &str) -> Result<Vec<String>, StoreError> {
    let mut statement = c.prepare_cached("SELECT name FROM script_secret WHERE script_id = ?1 ORDER BY name")?;
    let rows = statement.query_map([script_id], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
