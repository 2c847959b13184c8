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
    pub name: String,
    /// As in a `.pub` file, without the comment.
    pub public_key: String,
    pub key_type: String,
    pub fingerprint: String,
    pub comment: Option<String>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
}

const COLUMNS: &str = "id, team_id, user_id, name, public_key, key_type, fingerprint, comment, created_at_ms, updated_at_ms";

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
                let sql = format!("INSERT INTO ssh_key ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)");
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

    pub async fn ssh_key_delete(&self, team_id: &str, user_id: &str, id: &str) -> Result<(), StoreError> {
        let (team_id, user_id, id) = (team_id.to_owned(), user_id.to_owned(), id.to_owned());
        self.engine
            .write("delete an SSH key", move |c| {
                let changed = c.prepare_cached("DELETE FROM ssh_key WHERE id = ?1 AND team_id = ?2 AND user_id = ?3")?.execute((&id, team_id, user_id))?;
                if changed == 0 { Err(StoreError::NotFound { what: "SSH key", id }) } else { Ok(()) }
            })
            .await
    }

    /// Who of a team has this key, and what they are in it now.
    pub async fn ssh_key_holders(&self, team_id: &str, fingerprint: &str) -> Result<Vec<(String, Role)>, StoreError> {
        let (team_id, fingerprint) = (team_id.to_owned(), fingerprint.to_owned());
        self.engine
            .read("look for an SSH key", move |c| {
                let mut statement = c.prepare_cached(
                    "SELECT member.user_id, member.role FROM ssh_key JOIN team_member AS member USING (team_id, user_id) \
                     WHERE ssh_key.fingerprint = ?1 AND ssh_key.team_id = ?2 ORDER BY ssh_key.created_at_ms, ssh_key.id",
                )?;
                let rows = statement.query_map([fingerprint, team_id], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
                rows.map(|row| {
                    let (user_id, role) = row?;
                    Ok((user_id, role.parse().map_err(|e| StoreError::corrupt("member", &e))?))
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
    })
}
