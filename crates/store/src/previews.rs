//! Previews of sandboxes' ports. They go with their sandbox, with their maker's place in the team, and with the key that made them.

use rusqlite::{OptionalExtension, Row};
use sandbar_core::{
    limits,
    preview::{PreviewRecord, Protocol},
    roles::{Permission, Role},
};

use crate::{Store, StoreError};

const COLUMNS: &str = "id, sandbox_id, team_id, user_id, port, protocol, path, wakes, runtime_generation, bootstrap_sha256, session_sha256, \
                       created_at_ms, opened_at_ms, expires_at_ms, key_id";

impl Store {
    /// Stores a preview of a sandbox that is there; of each only so many are good at once. One by a key is good no longer than that.
    pub async fn preview_insert(&self, preview: &PreviewRecord) -> Result<PreviewRecord, StoreError> {
        let p = preview.clone();
        self.engine
            .write("insert a preview", move |c| {
                // Those of a former runtime are good for nothing either, unless they wake it.
                let over = "DELETE FROM preview WHERE sandbox_id = ?1 AND (expires_at_ms <= ?2 OR (NOT wakes AND runtime_generation < ?3))";
                c.prepare_cached(over)?.execute((&p.sandbox_id, p.created_at_ms, p.runtime_generation))?;
                let count: usize = c.prepare_cached("SELECT count(*) FROM preview WHERE sandbox_id = ?1")?.query_row([&p.sandbox_id], |row| row.get(0))?;
                if count >= limits::PREVIEWS_PER_SANDBOX_MAX {
                    return Err(StoreError::TooMany { what: "previews of this sandbox", max: limits::PREVIEWS_PER_SANDBOX_MAX });
                }
                // The maker's place in the team, and the key, may be gone since they were looked at.
                let sql = "SELECT role FROM team_member WHERE team_id = ?1 AND user_id = ?2";
                let role: Option<String> = c.prepare_cached(sql)?.query_row((&p.team_id, &p.user_id), |row| row.get(0)).optional()?;
                let role = role.map(|role| role.parse::<Role>().map_err(|e| StoreError::corrupt("member", &e))).transpose()?;
                if !role.is_some_and(|role| role.permissions().has(Permission::SandboxWrite)) {
                    return Err(StoreError::NotFound { what: "member", id: p.user_id });
                }
                let sql = "SELECT expires_at_ms FROM api_key WHERE id = ?1 AND team_id = ?2 AND is_active";
                let key_ends_ms: Option<i64> = match &p.key_id {
                    None => None,
                    Some(id) => {
                        let found = c.prepare_cached(sql)?.query_row((id, &p.team_id), |row| row.get(0)).optional()?;
                        Some(found.ok_or_else(|| StoreError::NotFound { what: "key", id: id.clone() })?)
                    }
                };
                let sql = format!(
                    "INSERT INTO preview ({COLUMNS}) SELECT ?1, id, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15 \
                     FROM sandbox WHERE id = ?2 RETURNING {COLUMNS}"
                );
                let inserted = c.prepare_cached(&sql)?.query_row(
                    (
                        &p.id,
                        &p.sandbox_id,
                        &p.team_id,
                        &p.user_id,
                        p.port,
                        p.protocol.as_str(),
                        &p.path,
                        p.wakes,
                        p.runtime_generation,
                        &p.bootstrap_sha256,
                        &p.session_sha256,
                        p.created_at_ms,
                        p.opened_at_ms,
                        p.expires_at_ms.min(key_ends_ms.unwrap_or(i64::MAX)),
                        &p.key_id,
                    ),
                    |row| Ok(record(row)),
                );
                inserted.optional()?.transpose()?.ok_or(StoreError::NotFound { what: "sandbox", id: p.sandbox_id })
            })
            .await
    }

    /// A preview, whoever's it is and whether or not it is good still.
    pub async fn preview_get(&self, id: &str) -> Result<Option<PreviewRecord>, StoreError> {
        let id = id.to_owned();
        self.engine
            .read("read a preview", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM preview WHERE id = ?1");
                c.prepare_cached(&sql)?.query_row([id], |row| Ok(record(row))).optional()?.transpose()
            })
            .await
    }

    /// A user's previews of a sandbox that are good, oldest first.
    pub async fn previews_list(&self, sandbox_id: &str, team_id: &str, user_id: &str, now_ms: i64) -> Result<Vec<PreviewRecord>, StoreError> {
        let key = (sandbox_id.to_owned(), team_id.to_owned(), user_id.to_owned(), now_ms);
        self.engine
            .read("list previews", move |c| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM preview WHERE sandbox_id = ?1 AND team_id = ?2 AND user_id = ?3 AND expires_at_ms > ?4 ORDER BY created_at_ms, id"
                );
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map(key, |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Whether a port of a sandbox has a preview that is good.
    pub async fn preview_is_at(&self, sandbox_id: &str, port: u16, now_ms: i64) -> Result<bool, StoreError> {
        let sandbox_id = sandbox_id.to_owned();
        self.engine
            .read("look for previews", move |c| {
                let sql = "SELECT EXISTS (SELECT 1 FROM preview WHERE sandbox_id = ?1 AND port = ?2 AND expires_at_ms > ?3)";
                Ok(c.prepare_cached(sql)?.query_row((sandbox_id, port, now_ms), |row| row.get(0))?)
            })
            .await
    }

    /// Opens a preview of a port with the secret of its URL, which is good for nothing after that. `None` when it is none, or
    /// was one.
    pub async fn preview_open(
        &self,
        at: (&str, u16),
        id: &str,
        bootstrap_sha256: &str,
        session_sha256: &str,
        now_ms: i64,
    ) -> Result<Option<PreviewRecord>, StoreError> {
        let key = (id.to_owned(), at.0.to_owned(), at.1, bootstrap_sha256.to_owned(), session_sha256.to_owned(), now_ms);
        self.engine
            .write("open a preview", move |c| {
                let sql = format!(
                    "UPDATE preview SET bootstrap_sha256 = NULL, session_sha256 = ?5, opened_at_ms = ?6 \
                     WHERE id = ?1 AND sandbox_id = ?2 AND port = ?3 AND bootstrap_sha256 = ?4 AND expires_at_ms > ?6 RETURNING {COLUMNS}"
                );
                c.prepare_cached(&sql)?.query_row(key, |row| Ok(record(row))).optional()?.transpose()
            })
            .await
    }

    /// Lets a preview that is good be so until another time; one by a key no longer than that is.
    pub async fn preview_renew(&self, id: &str, expires_at_ms: i64, now_ms: i64) -> Result<PreviewRecord, StoreError> {
        let id = id.to_owned();
        self.engine
            .write("renew a preview", move |c| {
                let sql = format!(
                    "UPDATE preview SET expires_at_ms = min(?2, coalesce((SELECT expires_at_ms FROM api_key WHERE api_key.id = key_id), ?2)) \
                     WHERE id = ?1 AND expires_at_ms > ?3 RETURNING {COLUMNS}"
                );
                let renewed = c.prepare_cached(&sql)?.query_row((&id, expires_at_ms, now_ms), |row| Ok(record(row))).optional()?.transpose()?;
                renewed.ok_or(StoreError::NotFound { what: "preview", id })
            })
            .await
    }

    /// Deletes a preview.
    pub async fn preview_delete(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.engine
            .write("delete a preview", move |c| {
                let changed = c.prepare_cached("DELETE FROM preview WHERE id = ?1")?.execute([&id])?;
                if changed == 0 { Err(StoreError::NotFound { what: "preview", id }) } else { Ok(()) }
            })
            .await
    }

    /// Removes at most `max` that have expired. Returns how many there were.
    pub async fn previews_prune(&self, now_ms: i64, max: u32) -> Result<usize, StoreError> {
        self.engine
            .write("remove expired previews", move |c| {
                let sql = "DELETE FROM preview WHERE id IN (SELECT id FROM preview WHERE expires_at_ms <= ?1 ORDER BY expires_at_ms LIMIT ?2)";
                Ok(c.prepare_cached(sql)?.execute((now_ms, max))?)
            })
            .await
    }
}

fn record(row: &Row<'_>) -> Result<PreviewRecord, StoreError> {
    let protocol: String = row.get(5)?;
    Ok(PreviewRecord {
        id: row.get(0)?,
        sandbox_id: row.get(1)?,
        team_id: row.get(2)?,
        user_id: row.get(3)?,
        port: row.get(4)?,
        protocol: Protocol::parse(&protocol).ok_or_else(|| StoreError::corrupt("preview", &format!("protocol {protocol:?}")))?,
        path: row.get(6)?,
        wakes: row.get(7)?,
        runtime_generation: row.get(8)?,
        bootstrap_sha256: row.get(9)?,
        session_sha256: row.get(10)?,
        created_at_ms: row.get(11)?,
        opened_at_ms: row.get(12)?,
        expires_at_ms: row.get(13)?,
        key_id: row.get(14)?,
    })
}
