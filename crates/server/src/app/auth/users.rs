//! One's own user.

use sandbar_api::ErrorCode;
use sandbar_core::{limits, roles::Permission, validate};
use sandbar_store::User;

use super::{Auth, Principal, refused};
use crate::{app::sandboxes::violations, error::ApiError, http::time::now_ms};

impl Auth {
    /// The user behind a request; for a key, who made it.
    pub async fn user(&self, who: &Principal) -> Result<User, ApiError> {
        let found = self.store.user_get(&who.user_id).await.map_err(|e| refused("reading the user", &e))?;
        found.ok_or_else(|| ApiError::not_found("user", &who.user_id))
    }

    /// Refuses (403) everybody but those who run this server: its administrators, with a key or login that has all rights.
    pub async fn require_operator(&self, who: &Principal) -> Result<(), ApiError> {
        who.require(Permission::TeamAdmin)?;
        if self.user(who).await?.is_admin {
            return Ok(());
        }
        Err(ApiError::new(ErrorCode::Forbidden, "this is for the server's administrators only"))
    }

    /// Changes one's name or picture. `None` = keep.
    pub async fn update_user(&self, who: &Principal, name: Option<&str>, avatar_url: Option<&str>) -> Result<User, ApiError> {
        who.require_login("change a user")?;
        let name = name.map(str::trim);
        let mut wrong = name.map(|name| validate::name(name, "name")).unwrap_or_default();
        if avatar_url.is_some_and(|url| url.len() > limits::URL_MAX_BYTES || !(url.is_empty() || url.starts_with("https://") || url.starts_with("http://"))) {
            wrong.push(validate::Violation::new("avatar_url", "must be an http or https URL"));
        }
        if !wrong.is_empty() {
            return Err(violations(wrong));
        }
        self.store.user_update(&who.user_id, name, avatar_url, now_ms()).await.map_err(|e| refused("changing the user", &e))
    }
}
