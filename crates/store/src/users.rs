//! Users, and the first ones.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::{ApiKey, Store, StoreError, Team, error::taken, keys, teams};

/// A person who can log in.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    pub id: String,
    pub email: String,
    pub name: String,
    pub avatar_url: Option<String>,
    /// PHC string; none = no login with a password.
    pub password_hash: Option<String>,
    pub is_admin: bool,
    pub email_verified: bool,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
}

/// What a fresh installation begins with.
#[derive(Debug, Clone)]
pub struct Install {
    pub user: User,
    pub team: Team,
    pub key: ApiKey,
    /// Lower-case hex of the key's SHA-256.
    pub key_sha256: String,
}

const COLUMNS: &str = "id, email, name, avatar_url, password_hash, is_admin, email_verified, created_at_ms, updated_at_ms";

impl Store {
    /// Stores the first user, team and key, unless there are users already. Says whether it did.
    pub async fn install(&self, install: Install) -> Result<bool, StoreError> {
        self.engine
            .write("install the first user", move |c| {
                if c.prepare("SELECT 1 FROM user")?.exists([])? {
                    return Ok(false);
                }
                insert(c, &install.user)?;
                teams::insert(c, &install.team, install.team.created_at_ms)?;
                keys::insert(c, &install.key, &install.key_sha256)?;
                Ok(true)
            })
            .await
    }

    /// The first admin: whose team and id a key given at start belongs to.
    pub async fn user_first_admin(&self) -> Result<Option<User>, StoreError> {
        self.engine
            .read("read the first admin", |c| {
                let sql = format!("SELECT {COLUMNS} FROM user WHERE is_admin ORDER BY created_at_ms, id LIMIT 1");
                Ok(c.prepare(&sql)?.query_row([], user).optional()?)
            })
            .await
    }

    pub async fn user_get(&self, id: &str) -> Result<Option<User>, StoreError> {
        let id = id.to_owned();
        self.engine.read("read a user", move |c| find(c, "id", &id)).await
    }

    /// By email, in any case of its letters.
    pub async fn user_find_by_email(&self, email: &str) -> Result<Option<User>, StoreError> {
        let email = email.to_owned();
        self.engine.read("read a user", move |c| find(c, "email", &email)).await
    }

    /// Stores a new user together with the team that is theirs.
    pub async fn user_insert(&self, user: &User, team: &Team) -> Result<(), StoreError> {
        let (user, team) = (user.clone(), team.clone());
        self.engine
            .write("insert a user", move |c| {
                insert(c, &user)?;
                teams::insert(c, &team, team.created_at_ms)
            })
            .await
    }

    /// Changes what users may change about themselves. `None` = keep.
    pub async fn user_update(&self, id: &str, name: Option<&str>, avatar_url: Option<&str>, now_ms: i64) -> Result<User, StoreError> {
        let (id, name, avatar_url) = (id.to_owned(), name.map(str::to_owned), avatar_url.map(str::to_owned));
        self.engine
            .write("update a user", move |c| {
                c.prepare_cached("UPDATE user SET name = coalesce(?2, name), avatar_url = coalesce(?3, avatar_url), updated_at_ms = ?4 WHERE id = ?1")?
                    .execute((&id, name, avatar_url, now_ms))?;
                find(c, "id", &id)?.ok_or(StoreError::NotFound { what: "user", id })
            })
            .await
    }

    /// Replaces a password whose hash is still `seen`, and ends all logins of the user.
    pub async fn user_set_password(&self, id: &str, seen: Option<&str>, password_hash: &str, now_ms: i64) -> Result<(), StoreError> {
        let (id, seen, hash) = (id.to_owned(), seen.map(str::to_owned), password_hash.to_owned());
        self.engine
            .write("set a password", move |c| {
                let changed = c
                    .prepare_cached("UPDATE user SET password_hash = ?3, updated_at_ms = ?4 WHERE id = ?1 AND password_hash IS ?2")?
                    .execute((&id, seen, hash, now_ms))?;
                if changed == 0 {
                    return Err(StoreError::Stale { what: "user", id });
                }
                c.prepare_cached("DELETE FROM login_token WHERE user_id = ?1")?.execute([&id])?;
                Ok(())
            })
            .await
    }
}

fn find(c: &Connection, column: &'static str, value: &str) -> Result<Option<User>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM user WHERE {column} = ?1");
    Ok(c.prepare_cached(&sql)?.query_row([value], user).optional()?)
}

fn insert(c: &Connection, user: &User) -> Result<(), StoreError> {
    let sql = format!("INSERT INTO user ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
    c.prepare_cached(&sql)?
        .execute((
            &user.id,
            &user.email,
            &user.name,
            &user.avatar_url,
            &user.password_hash,
            user.is_admin,
            user.email_verified,
            user.created_at_ms,
            user.updated_at_ms,
        ))
        .map_err(taken("a user with this email"))?;
    Ok(())
}

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        id: row.get(0)?,
        email: row.get(1)?,
        name: row.get(2)?,
        avatar_url: row.get(3)?,
        password_hash: row.get(4)?,
        is_admin: row.get(5)?,
        email_verified: row.get(6)?,
        created_at_ms: row.get(7)?,
        updated_at_ms: row.get(8)?,
    })
}
