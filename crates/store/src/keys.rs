//! API keys. The key's text is stored nowhere, only its SHA-256.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{limits, roles::Role};

use crate::{Store, StoreError, error::taken};

/// A key of a team.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiKey {
    pub id: String,
    pub team_id: String,
    pub created_by: String,
    pub name: String,
    pub scope: String,
    pub roles: Vec<Role>,
    pub is_active: bool,
    pub expires_at_ms: i64,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    pub last_used_at_ms: Option<i64>,
    /// Counted at most once a minute, as `last_used_at_ms` is written.
    pub usage_count: i64,
}

const COLUMNS: &str = "id, team_id, created_by, name, scope, roles, is_active, expires_at_ms, created_at_ms, updated_at_ms, last_used_at_ms, usage_count";

impl Store {
    /// Stores a key by the lower-case hex of its SHA-256.
    pub async fn key_insert(&self, key: &ApiKey, sha256: &str) -> Result<(), StoreError> {
        let (key, sha256) = (key.clone(), sha256.to_owned());
        self.engine
            .write("insert a key", move |c| {
                let count: usize = c.prepare_cached("SELECT count(*) FROM api_key WHERE team_id = ?1")?.query_row([&key.team_id], |row| row.get(0))?;
                if count >= limits::API_KEYS_PER_TEAM_MAX {
                    return Err(StoreError::TooMany { what: "keys of this team", max: limits::API_KEYS_PER_TEAM_MAX });
                }
                insert(c, &key, &sha256)
            })
            .await
    }

    /// The key of this SHA-256, whatever its state.
    pub async fn key_find_by_sha256(&self, sha256: &str) -> Result<Option<ApiKey>, StoreError> {
        let sha256 = sha256.to_owned();
        self.engine
            .read("read a key", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM api_key WHERE token_sha256 = ?1");
                c.prepare_cached(&sql)?.query_row([sha256], |row| Ok(key(row))).optional()?.transpose()
            })
            .await
    }

    /// A team's key.
    pub async fn key_get(&self, team_id: &str, id: &str) -> Result<Option<ApiKey>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .read("read a key", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM api_key WHERE id = ?1 AND team_id = ?2");
                c.prepare_cached(&sql)?.query_row((id, team_id), |row| Ok(key(row))).optional()?.transpose()
            })
            .await
    }

    /// A team's keys, oldest first.
    pub async fn keys_list(&self, team_id: &str) -> Result<Vec<ApiKey>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list keys", move |c| {
                let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM api_key WHERE team_id = ?1 ORDER BY created_at_ms, id"))?;
                let rows = statement.query_map([team_id], |row| Ok(key(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    pub async fn key_delete(&self, team_id: &str, id: &str) -> Result<(), StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .write("delete a key", move |c| {
                let changed = c.prepare_cached("DELETE FROM api_key WHERE id = ?1 AND team_id = ?2")?.execute((&id, team_id))?;
                if changed == 0 { Err(StoreError::NotFound { what: "key", id }) } else { Ok(()) }
            })
            .await
    }

    /// Makes a key useless and keeps its row; previews that it made end. Idempotent.
    pub async fn key_deactivate(&self, team_id: &str, id: &str, now_ms: i64) -> Result<(), StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .write("deactivate a key", move |c| {
                let changed =
                    c.prepare_cached("UPDATE api_key SET is_active = 0, updated_at_ms = ?3 WHERE id = ?1 AND team_id = ?2")?.execute((&id, team_id, now_ms))?;
                if changed == 0 {
                    return Err(StoreError::NotFound { what: "key", id });
                }
                c.prepare_cached("DELETE FROM preview WHERE key_id = ?1")?.execute([id])?;
                Ok(())
            })
            .await
    }

    /// Notes that a key was used. A key that is gone meanwhile is no error.
    pub async fn key_touch(&self, id: &str, now_ms: i64) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.engine
            .write("note the use of a key", move |c| {
                c.prepare_cached("UPDATE api_key SET last_used_at_ms = ?2, usage_count = usage_count + 1 WHERE id = ?1")?.execute((id, now_ms))?;
                Ok(())
            })
            .await
    }
}

pub(crate) fn insert(c: &Connection, key: &ApiKey, sha256: &str) -> Result<(), StoreError> {
    let roles = serde_json::json!(key.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>()).to_string();
    let sql = format!("INSERT INTO api_key ({COLUMNS}, token_sha256) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)");
    c.prepare_cached(&sql)?
        .execute((
            &key.id,
            &key.team_id,
            &key.created_by,
            &key.name,
            &key.scope,
            roles,
            key.is_active,
            key.expires_at_ms,
            key.created_at_ms,
            key.updated_at_ms,
            key.last_used_at_ms,
            key.usage_count,
            sha256,
        ))
        .map_err(taken("this key"))?;
    Ok(())
}

fn key(row: &Row<'_>) -> Result<ApiKey, StoreError> {
    let roles: String = row.get(5)?;
    let roles: Vec<String> = serde_json::from_str(&roles).map_err(|e| StoreError::corrupt("key", &e))?;
    Ok(ApiKey {
        id: row.get(0)?,
        team_id: row.get(1)?,
        created_by: row.get(2)?,
        name: row.get(3)?,
        scope: row.get(4)?,
        roles: roles.iter().map(|role| role.parse().map_err(|e| StoreError::corrupt("key", &e))).collect::<Result<_, _>>()?,
        is_active: row.get(6)?,
        expires_at_ms: row.get(7)?,
        created_at_ms: row.get(8)?,
        updated_at_ms: row.get(9)?,
        last_used_at_ms: row.get(10)?,
        usage_count: row.get(11)?,
    })
}
