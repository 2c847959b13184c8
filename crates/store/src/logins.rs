//! Access and refresh tokens of people who logged in, by the SHA-256 of their text.

use rusqlite::{Connection, OptionalExtension};

use crate::{Store, StoreError};

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Opens the API.
    Access,
    /// Buys the next pair, once.
    Refresh,
}

impl TokenKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Refresh => "refresh",
        }
    }
}

/// A token's row.
#[derive(Debug, Clone, PartialEq)]
pub struct LoginToken {
    /// Lower-case hex.
    pub sha256: String,
    pub kind: TokenKind,
    /// The login it descends from.
    pub family: String,
    pub user_id: String,
    pub created_at_ms: i64,
    pub expires_at_ms: i64,
}

/// What became of a refresh.
#[derive(Debug, Clone, PartialEq)]
pub enum Rotation {
    /// The new pair is stored, in the same login.
    Done { user_id: String, family: String },
    /// Unknown or expired.
    Unknown,
    /// It was used before, so somebody else may hold it: all of its login was ended.
    Reused { family: String },
}

impl Store {
    /// Stores the tokens of a new login, and drops the ones that expired.
    pub async fn login_insert(&self, tokens: &[LoginToken], now_ms: i64) -> Result<(), StoreError> {
        let tokens = tokens.to_vec();
        self.engine
            .write("insert a login", move |c| {
                c.prepare_cached("DELETE FROM login_token WHERE expires_at_ms <= ?1")?.execute([now_ms])?;
                tokens.iter().try_for_each(|token| insert(c, token))
            })
            .await
    }

    /// A token of this kind that has not expired: whose it is, its login, and when it ends.
    pub async fn login_find(&self, sha256: &str, kind: TokenKind, now_ms: i64) -> Result<Option<LoginToken>, StoreError> {
        let sha256 = sha256.to_owned();
        self.engine
            .read("read a login", move |c| {
                let sql = "SELECT family, user_id, created_at_ms, expires_at_ms FROM login_token WHERE token_sha256 = ?1 AND kind = ?2 AND expires_at_ms > ?3 AND used_at_ms IS NULL";
                let found = c
                    .prepare_cached(sql)?
                    .query_row((&sha256, kind.as_str(), now_ms), |row| {
                        Ok(LoginToken { sha256: sha256.clone(), kind, family: row.get(0)?, user_id: row.get(1)?, created_at_ms: row.get(2)?, expires_at_ms: row.get(3)? })
                    })
                    .optional()?;
                Ok(found)
            })
            .await
    }

    /// Uses a refresh token up and stores the next pair, whose family and user are filled in here.
    pub async fn login_rotate(&self, refresh_sha256: &str, next: Vec<LoginToken>, now_ms: i64) -> Result<Rotation, StoreError> {
        let sha256 = refresh_sha256.to_owned();
        self.engine
            .write("refresh a login", move |c| {
                let sql = "SELECT family, user_id, used_at_ms FROM login_token WHERE token_sha256 = ?1 AND kind = 'refresh' AND expires_at_ms > ?2";
                let found: Option<(String, String, Option<i64>)> =
                    c.prepare_cached(sql)?.query_row((&sha256, now_ms), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
                let Some((family, user_id, used)) = found else { return Ok(Rotation::Unknown) };
                if used.is_some() {
                    c.prepare_cached("DELETE FROM login_token WHERE family = ?1")?.execute([&family])?;
                    return Ok(Rotation::Reused { family });
                }
                c.prepare_cached("UPDATE login_token SET used_at_ms = ?2 WHERE token_sha256 = ?1")?.execute((&sha256, now_ms))?;
                // The access token of the pair before ends with it.
                c.prepare_cached("DELETE FROM login_token WHERE family = ?1 AND kind = 'access'")?.execute([&family])?;
                for token in next {
                    insert(c, &LoginToken { family: family.clone(), user_id: user_id.clone(), ..token })?;
                }
                Ok(Rotation::Done { user_id, family })
            })
            .await
    }

    /// Whether a login can still be renewed.
    pub async fn login_lives(&self, family: &str, now_ms: i64) -> Result<bool, StoreError> {
        let family = family.to_owned();
        self.engine
            .read("read a login", move |c| {
                let sql = "SELECT EXISTS (SELECT 1 FROM login_token WHERE family = ?1 AND expires_at_ms > ?2 AND used_at_ms IS NULL)";
                c.prepare_cached(sql)?.query_row((&family, now_ms), |row| row.get(0)).map_err(Into::into)
            })
            .await
    }

    /// Ends a login.
    pub async fn login_delete(&self, family: &str) -> Result<(), StoreError> {
        let family = family.to_owned();
        self.engine
            .write("end a login", move |c| {
                c.prepare_cached("DELETE FROM login_token WHERE family = ?1")?.execute([family])?;
                Ok(())
            })
            .await
    }
}

fn insert(c: &Connection, token: &LoginToken) -> Result<(), StoreError> {
    c.prepare_cached(
        "INSERT INTO login_token (token_sha256, kind, family, user_id, used_at_ms, created_at_ms, expires_at_ms) VALUES (?1, ?2, ?3, ?4, NULL, ?5, ?6)",
    )?
    .execute((&token.sha256, token.kind.as_str(), &token.family, &token.user_id, token.created_at_ms, token.expires_at_ms))?;
    Ok(())
}
