//! Keys that open one script. The key's text is stored nowhere, only its SHA-256.

use rusqlite::OptionalExtension;
use sandbar_core::limits;

use crate::{Store, StoreError, error::taken};

/// A key of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptKey {
    pub id: String,
    pub script_id: String,
    pub name: String,
    pub created_at_ms: i64,
}

impl Store {
    /// Stores a key by the lower-case hex of its SHA-256. A script may have a limited number.
    pub async fn script_key_insert(&self, key: &ScriptKey, sha256: &str) -> Result<(), StoreError> {
        let (key, sha256) = (key.clone(), sha256.to_owned());
        self.engine
            .write("insert a key of a script", move |c| {
                if !c.prepare_cached("SELECT 1 FROM script WHERE id = ?1")?.exists([&key.script_id])? {
                    return Err(StoreError::NotFound { what: "function", id: key.script_id });
                }
                let count: usize = c.prepare_cached("SELECT count(*) FROM script_key WHERE script_id = ?1")?.query_row([&key.script_id], |row| row.get(0))?;
                if count >= limits::SCRIPT_KEYS_MAX {
                    return Err(StoreError::TooMany { what: "keys of this function", max: limits::SCRIPT_KEYS_MAX });
                }
                c.prepare_cached("INSERT INTO script_key (id, script_id, name, token_sha256, created_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)")?
                    .execute((&key.id, &key.script_id, &key.name, sha256, key.created_at_ms))
                    .map_err(taken("this key"))?;
                Ok(())
            })
            .await
    }

    /// The id of the script that the key of this SHA-256 opens, and the key's own.
    pub async fn script_key_find(&self, sha256: &str) -> Result<Option<ScriptKey>, StoreError> {
        let sha256 = sha256.to_owned();
        self.engine
            .read("read a key of a script", move |c| {
                let sql = "SELECT id, script_id, name, created_at_ms FROM script_key WHERE token_sha256 = ?1";
                Ok(c.prepare_cached(sql)?.query_row([sha256], key).optional()?)
            })
            .await
    }

    /// A script's keys, oldest first.
    pub async fn script_keys(&self, script_id: &str) -> Result<Vec<ScriptKey>, StoreError> {
        let id = script_id.to_owned();
        self.engine
            .read("list keys of a script", move |c| {
                let sql = "SELECT id, script_id, name, created_at_ms FROM script_key WHERE script_id = ?1 ORDER BY created_at_ms, id";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map([id], key)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    pub async fn script_key_delete(&self, script_id: &str, id: &str) -> Result<(), StoreError> {
        let (script_id, id) = (script_id.to_owned(), id.to_owned());
        self.engine
            .write("delete a key of a script", move |c| {
                let changed = c.prepare_cached("DELETE FROM script_key WHERE id = ?1 AND script_id = ?2")?.execute((&id, script_id))?;
                if changed == 0 { Err(StoreError::NotFound { what: "key", id }) } else { Ok(()) }
            })
            .await
    }
}

fn key(row: &rusqlite::Row<'_>) -> rusqlite::Result<ScriptKey> {
    Ok(ScriptKey { id: row.get(0)?, script_id: row.get(1)?, name: row.get(2)?, created_at_ms: row.get(3)? })
}
