//! Public keys of people, each for a team.

use rusqlite::Row;
use sandbar_core::{limits, roles::Role};

use crate::{Store, StoreError, error::taken};

/// A public key of somebody, for the sandboxes of a team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey {
    pub id: String,
    pub team_id: String,
    pub user_id: String,
    /// The API key that added it, without which it opens nothing; none when a login did.
    pub api_key_id: Option<String>,
    pub name: String,
    /// As in a `.pub` file, without the comment.
    pub public_key: String,
    pub key_type: String,
    pub fingerprint: String,
    pub comment: Option<String>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
}

/// Somebody whose key was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKeyHolder {
    pub id: String,
    pub user_id: String,
    /// What they are in the team now.
    pub role: Role,
}

const COLUMNS: &str = "id, team_id, user_id, name, public_key, key_type, fingerprint, comment, created_at_ms, updated_at_ms, api_key_id";
/// Of an API key: it is good for something, after a time that follows.
const LIVES: &str = "is_active AND expires_at_ms > ";

impl Store {
    /// Stores a key that the user does not have in the team yet.
    pub async fn ssh_key_insert(&self, key: &SshKey) -> Result<(), StoreError> {
        let key = key.clone();
        self.engine
            .write("insert an SSH key", move |c| {
                let count: usize = c
                    .prepare_cached("SELECT count(*) FROM ssh_key WHERE team_id = ?1 AND user_id = ?2")?
                    .query_row([&key.team_id, &key.user_id], |row| row.get(0))?;
                if count >= limits::SSH_KEYS_PER_USER_MAX {
                    return Err(StoreError::TooMany { what: "SSH keys of this user", max: limits::SSH_KEYS_PER_USER_MAX });
                }
                // One that ended with its API key is in nobody's way.
                let sql = format!(
                    "DELETE FROM ssh_key WHERE team_id = ?1 AND user_id = ?2 AND fingerprint = ?3 \
                     AND api_key_id IN (SELECT id FROM api_key WHERE NOT ({LIVES} ?4))"
                );
                c.prepare_cached(&sql)?.execute((&key.team_id, &key.user_id, &key.fingerprint, key.created_at_ms))?;
                let sql = format!("INSERT INTO ssh_key ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)");
                c.prepare_cached(&sql)?
                    .execute((
                        &key.id,
                        &key.team_id,
                        &key.user_id,
                        &key.name,
                        &key.public_key,
                        &key.key_type,
                        &key.fingerprint,
                        &key.comment,
                        key.created_at_ms,
                        key.updated_at_ms,
                        &key.api_key_id,
                    ))
                    .map_err(taken("this SSH key"))?;
                Ok(())
            })
            .await
    }

    /// A user's keys in a team, oldest first.
    pub async fn ssh_keys_list(&self, team_id: &str, user_id: &str) -> Result<Vec<SshKey>, StoreError> {
        let (team_id, user_id) = (team_id.to_owned(), user_id.to_owned());
        self.engine
            .read("list SSH keys", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM ssh_key WHERE team_id = ?1 AND user_id = ?2 ORDER BY created_at_ms, id");
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map([team_id, user_id], key)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// All keys of a team, oldest first.
    pub async fn ssh_keys_of_team(&self, team_id: &str) -> Result<Vec<SshKey>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list SSH keys", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM ssh_key WHERE team_id = ?1 ORDER BY created_at_ms, id");
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map([team_id], key)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Deletes a key of a team, of this user if one is given.
    pub async fn ssh_key_delete(&self, team_id: &str, user_id: Option<&str>, id: &str) -> Result<(), StoreError> {
        let (team_id, user_id, id) = (team_id.to_owned(), user_id.map(str::to_owned), id.to_owned());
        self.engine
            .write("delete an SSH key", move |c| {
                let sql = "DELETE FROM ssh_key WHERE id = ?1 AND team_id = ?2 AND user_id = coalesce(?3, user_id)";
                let changed = c.prepare_cached(sql)?.execute((&id, team_id, user_id))?;
                if changed == 0 { Err(StoreError::NotFound { what: "SSH key", id }) } else { Ok(()) }
            })
            .await
    }

    /// Who of a team has this key, unless it ended with what added it.
    pub async fn ssh_key_holders(&self, team_id: &str, fingerprint: &str, now_ms: i64) -> Result<Vec<SshKeyHolder>, StoreError> {
        let (team_id, fingerprint) = (team_id.to_owned(), fingerprint.to_owned());
        self.engine
            .read("look for an SSH key", move |c| {
                let sql = format!(
                    "SELECT ssh_key.id, member.user_id, member.role FROM ssh_key JOIN team_member AS member USING (team_id, user_id) \
                     WHERE ssh_key.fingerprint = ?1 AND ssh_key.team_id = ?2 \
                     AND (api_key_id IS NULL OR api_key_id IN (SELECT id FROM api_key WHERE {LIVES} ?3)) \
                     ORDER BY ssh_key.created_at_ms, ssh_key.id"
                );
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map((fingerprint, team_id, now_ms), |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?)))?;
                rows.map(|row| {
                    let (id, user_id, role) = row?;
                    let role = role.parse().map_err(|e| StoreError::corrupt("member", &e))?;
                    Ok(SshKeyHolder { id, user_id, role })
                })
                .collect()
            })
            .await
    }
}

fn key(row: &Row<'_>) -> rusqlite::Result<SshKey> {
    Ok(SshKey {
        id: row.get(0)?,
        team_id: row.get(1)?,
        user_id: row.get(2)?,
        name: row.get(3)?,
        public_key: row.get(4)?,
        key_type: row.get(5)?,
        fingerprint: row.get(6)?,
        comment: row.get(7)?,
        created_at_ms: row.get(8)?,
        updated_at_ms: row.get(9)?,
        api_key_id: row.get(10)?,
    })
}
