//! Logging in and out.

use std::{net::IpAddr, sync::PoisonError};

use sandbar_api::ErrorCode;
use sandbar_core::{limits, validate};
use sandbar_store::{LoginToken, Rotation, Team, TokenKind, User};
use uuid::Uuid;

use super::{Auth, Principal, password, refused, token, unauthorized};
use crate::{app::sandboxes::violations, error::ApiError, http::time::now_ms};

/// A new pair of tokens and whose it is.
pub struct Login {
    pub access_token: String,
    pub refresh_token: String,
    /// When the access token ends.
    pub expires_at_ms: i64,
    pub user: User,
}

impl Auth {
    /// `from` is the network that the request came from.
    pub async fn login(&self, email: &str, given: &str, from: IpAddr) -> Result<Login, ApiError> {
        let email = email.trim();
        if email.is_empty() || email.len() > limits::TEXT_MAX_CHARS || given.len() > limits::PASSWORD_MAX_BYTES {
            return Err(wrong_login());
        }
        self.count_attempt(email, from)?;
        let user = self.store.user_find_by_email(email).await.map_err(|e| refused("reading the user", &e))?;
        let hash = user.as_ref().and_then(|user| user.password_hash.as_deref());
        let right = self.hasher.verify(given, hash).await?;
        let Some(user) = user.filter(|_| right) else { return Err(wrong_login()) };
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clear(email, from);
        self.begin(user).await
    }

    /// The next pair for a refresh token, which is used up. One that was used before ends its whole login.
    pub async fn refresh_login(&self, refresh_token: &str) -> Result<Login, ApiError> {
        let now = now_ms();
        let (access, refresh, tokens) = pair("", "", now)?;
        let expires_at_ms = tokens[0].expires_at_ms;
        let rotation = self.store.login_rotate(&token::sha256_hex(refresh_token), tokens, now).await.map_err(|e| refused("refreshing the login", &e))?;
        let user_id = match rotation {
            Rotation::Done { user_id, family } => {
                self.verified.forget_tokens(&family);
                user_id
            }
            Rotation::Unknown => return Err(unauthorized("the refresh token is not known or has expired; log in again")),
            Rotation::Reused { family } => {
                self.verified.forget_login(&family);
                tracing::warn!(login = family, "a refresh token was used twice; its login was ended");
                return Err(unauthorized("the refresh token was used before; log in again"));
            }
        };
        let user = self.store.user_get(&user_id).await.map_err(|e| refused("reading the user", &e))?;
        let user = user.ok_or_else(|| unauthorized("the user does not exist any more"))?;
        Ok(Login { access_token: access, refresh_token: refresh, expires_at_ms, user })
    }

    /// Ends the login that was used. An API key has none to end, which is no error.
    pub async fn logout(&self, who: &Principal) -> Result<(), ApiError> {
        let Some(family) = &who.login else { return Ok(()) };
        let done = self.store.login_delete(family).await;
        self.verified.forget_login(family);
        done.map_err(|e| refused("ending the login", &e))
    }

    /// Changes one's password and ends all of one's logins, this one too.
    pub async fn change_password(&self, who: &Principal, old: &str, new: &str, from: IpAddr) -> Result<(), ApiError> {
        who.require_login("change a password")?;
        password::check(new, "new_password")?;
        let user = self.user(who).await?;
        self.count_attempt(&user.email, from)?;
        if old.len() > limits::PASSWORD_MAX_BYTES || !self.hasher.verify(old, user.password_hash.as_deref()).await? {
            return Err(ApiError::bad_request("old_password: is not right"));
        }
        let hash = self.hasher.hash(new).await?;
        let done = self.store.user_set_password(&user.id, user.password_hash.as_deref(), &hash, now_ms()).await;
        self.verified.forget_user(&user.id);
        done.map_err(|e| refused("changing the password", &e))
    }

    /// Makes an account with a team of its own, where the operator allows it.
    pub async fn register(&self, email: &str, given: &str, name: Option<&str>, from: IpAddr) -> Result<Login, ApiError> {
        if !self.registration {
            return Err(ApiError::new(ErrorCode::Forbidden, "registration is not open on this server; ask its operator for an account"));
        }
        let email = email.trim();
        let name = name.map(str::trim).filter(|name| !name.is_empty()).unwrap_or(email);
        let mut wrong = validate::name(name, "name");
        if !looks_like_email(email) {
            wrong.push(validate::Violation::new("email", "is no email address"));
        }
        if !wrong.is_empty() {
            return Err(violations(wrong));
        }
        password::check(given, "password")?;
        self.count_attempt(email, from)?;
        let now = now_ms();
        let user = User {
            id: Uuid::new_v4().to_string(),
            email: email.to_owned(),
            name: name.to_owned(),
            avatar_url: None,
            password_hash: Some(self.hasher.hash(given).await?),
            is_admin: false,
            email_verified: false,
            created_at_ms: now,
            updated_at_ms: now,
        };
        let id = Uuid::new_v4().to_string();
        let team = Team {
            slug: format!("team-{}", id.split('-').next().unwrap_or_default()),
            id,
            name: name.to_owned(),
            owner_id: Some(user.id.clone()),
            home_region_id: Some(token::REGION.to_owned()),
            created_at_ms: now,
            updated_at_ms: now,
        };
        self.store.user_insert(&user, &team).await.map_err(|e| refused("storing the user", &e))?;
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clear(email, from);
        self.begin(user).await
    }

    async fn begin(&self, user: User) -> Result<Login, ApiError> {
        let now = now_ms();
        let (access_token, refresh_token, tokens) = pair(&Uuid::new_v4().to_string(), &user.id, now)?;
        let expires_at_ms = tokens[0].expires_at_ms;
        self.store.login_insert(&tokens, now).await.map_err(|e| refused("storing the login", &e))?;
        Ok(Login { access_token, refresh_token, expires_at_ms, user })
    }

    fn count_attempt(&self, account: &str, from: IpAddr) -> Result<(), ApiError> {
        let counted = self.attempts.lock().unwrap_or_else(PoisonError::into_inner).take(account, from, now_ms());
        counted.map_err(|seconds| ApiError::new(ErrorCode::QuotaExceeded, format!("too many attempts; try again in {seconds} s")).retry_after(seconds))
    }
}

fn wrong_login() -> ApiError {
    unauthorized("the email or the password is not right")
}

/// An access and a refresh token: their texts and their rows, in that order.
fn pair(family: &str, user_id: &str, now: i64) -> Result<(String, String, Vec<LoginToken>), ApiError> {
    let access = token::new_access().map_err(|e| refused("making a token", &e))?;
    let refresh = token::new_refresh().map_err(|e| refused("making a token", &e))?;
    let row = |text: &str, kind, ttl_s: i64| LoginToken {
        sha256: token::sha256_hex(text),
        kind,
        family: family.to_owned(),
        user_id: user_id.to_owned(),
        created_at_ms: now,
        expires_at_ms: now.saturating_add(ttl_s * 1000),
    };
    let rows = vec![row(&access, TokenKind::Access, limits::ACCESS_TOKEN_TTL_S), row(&refresh, TokenKind::Refresh, limits::REFRESH_TOKEN_TTL_S)];
    Ok((access, refresh, rows))
}

fn looks_like_email(text: &str) -> bool {
    let parts = text.split_once('@');
    text.len() <= 254
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
        && parts.is_some_and(|(local, host)| !local.is_empty() && !host.is_empty() && !host.contains('@'))
}
