//! API keys of a team.

use sandbar_api::ErrorCode;
use sandbar_core::{
    limits,
    roles::{Permission, Permissions, Role},
    validate,
};
use sandbar_store::ApiKey;
use uuid::Uuid;

use super::{Auth, Principal, refused, token};
use crate::{app::sandboxes::violations, error::ApiError, http::time::now_ms};

/// The end of the year 9999, which every client can read: what never expires expires then.
pub const NEVER_MS: i64 = 253_402_300_799_000;

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub name: String,
    pub scope: Option<String>,
    pub roles: Option<Vec<String>>,
    pub expires_in: Option<String>,
}

impl Auth {
    /// Makes a key and returns it with its text. Nobody can make one that may more than they; a key needs to be an
    /// admin's to make others.
    pub async fn create_key(&self, who: &Principal, new: NewKey) -> Result<(ApiKey, String), ApiError> {
        if who.key_id.is_some() {
            who.require(Permission::TeamAdmin)?;
        }
        let mut wrong = validate::name(&new.name, "name");
        let scope = new.scope.map(|scope| scope.trim().to_owned()).filter(|scope| !scope.is_empty()).unwrap_or_else(|| "team".to_owned());
        wrong.extend(validate::name(&scope, "scope"));
        let roles = roles(new.roles, &mut wrong);
        let now = now_ms();
        let expires_at_ms = match lifetime_ms(new.expires_in.as_deref()) {
            Ok(None) => NEVER_MS,
            Ok(Some(ms)) => now.saturating_add(ms).min(NEVER_MS),
            Err(message) => {
                wrong.push(validate::Violation::new("expires_in", message));
                NEVER_MS
            }
        };
        if !wrong.is_empty() {
            return Err(violations(wrong));
        }
        if !who.permissions.covers(Permissions::of_roles(&roles)) {
            return Err(ApiError::new(ErrorCode::Forbidden, "a key cannot have roles that may more than you"));
        }
        let text = token::new_key().map_err(|e| refused("making a key", &e))?;
        let key = ApiKey {
            id: Uuid::new_v4().to_string(),
            team_id: who.team_id.clone(),
            created_by: who.user_id.clone(),
            name: new.name.trim().to_owned(),
            scope,
            roles,
            is_active: true,
            expires_at_ms,
            created_at_ms: now,
            updated_at_ms: now,
            last_used_at_ms: None,
            usage_count: 0,
        };
        self.store.key_insert(&key, &token::sha256_hex(&text)).await.map_err(|e| refused("storing the key", &e))?;
        Ok((key, text))
    }

    /// The team's keys for an admin, one's own for others.
    pub async fn list_keys(&self, who: &Principal) -> Result<Vec<ApiKey>, ApiError> {
        let mut keys = self.store.keys_list(&who.team_id).await.map_err(|e| refused("listing keys", &e))?;
        if !who.permissions.has(Permission::TeamAdmin) {
            keys.retain(|key| key.created_by == who.user_id);
        }
        Ok(keys)
    }

    /// The key that was used for this request.
    pub async fn current_key(&self, who: &Principal) -> Result<ApiKey, ApiError> {
        let Some(id) = &who.key_id else {
            return Err(ApiError::new(ErrorCode::Unauthorized, "the request was made with a login, not with an API key"));
        };
        self.store.key_get(&who.team_id, id).await.map_err(|e| refused("reading the key", &e))?.ok_or_else(|| ApiError::not_found("key", id))
    }

    pub async fn delete_key(&self, who: &Principal, id: &str) -> Result<(), ApiError> {
        self.may_end_key(who, id).await?;
        let done = self.store.key_delete(&who.team_id, id).await;
        self.verified.forget_key(id);
        done.map_err(|e| refused("deleting the key", &e))
    }

    pub async fn deactivate_key(&self, who: &Principal, id: &str) -> Result<(), ApiError> {
        self.may_end_key(who, id).await?;
        let done = self.store.key_deactivate(&who.team_id, id, now_ms()).await;
        self.verified.forget_key(id);
        done.map_err(|e| refused("deactivating the key", &e))
    }

    /// Admins may end every key of the team, a person their own, a key itself.
    async fn may_end_key(&self, who: &Principal, id: &str) -> Result<(), ApiError> {
        let key = self.store.key_get(&who.team_id, id).await.map_err(|e| refused("reading the key", &e))?;
        let key = key.ok_or_else(|| ApiError::not_found("key", id))?;
        let own = match &who.key_id {
            Some(used) => *used == key.id,
            None => key.created_by == who.user_id,
        };
        if own { Ok(()) } else { who.require(Permission::TeamAdmin) }
    }
}

fn roles(given: Option<Vec<String>>, wrong: &mut Vec<validate::Violation>) -> Vec<Role> {
    let Some(given) = given.filter(|roles| !roles.is_empty()) else { return vec![Role::Developer] };
    let mut roles = Vec::new();
    // There are four, so a longer list says nothing more.
    for (index, name) in given.iter().enumerate().take(16) {
        match name.trim().to_ascii_lowercase().parse::<Role>() {
            Ok(role) if roles.contains(&role) => {}
            Ok(role) => roles.push(role),
            Err(error) => wrong.push(validate::Violation::new(format!("roles[{index}]"), error.to_string())),
        }
    }
    roles
}

/// `90m`, `12h`, `30d`, `2w`, `1y`, or several of them; none for `never`, `0` and nothing at all.
fn lifetime_ms(text: Option<&str>) -> Result<Option<i64>, String> {
    let text = text.unwrap_or_default().trim().to_ascii_lowercase();
    if text.is_empty() || text == "never" || text == "0" {
        return Ok(None);
    }
    let wrong = || format!("must be a time such as 12h, 30d or never (at most {} characters)", limits::NAME_MAX_CHARS);
    if text.len() > limits::NAME_MAX_CHARS {
        return Err(wrong());
    }
    let mut total: i64 = 0;
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..digits].parse().map_err(|_| wrong())?;
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ms: i64 = match &rest[digits..digits + letters] {
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "y" => 365 * 86_400_000,
            _ => return Err(wrong()),
        };
        total = number.checked_mul(unit_ms).and_then(|ms| total.checked_add(ms)).ok_or_else(wrong)?;
        rest = &rest[digits + letters..];
    }
    if total > 0 { Ok(Some(total)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        for (text, ms) in [
            ("", None),
            ("never", None),
            ("0", None),
            ("30d", Some(2_592_000_000)),
            ("1h30m", Some(5_400_000)),
            ("720H", Some(2_592_000_000)),
            (" 5s ", Some(5000)),
        ] {
            assert_eq!(lifetime_ms(Some(text)), Ok(ms), "{text}");
        }
        for text in ["5", "d", "-1d", "1.5h", "0s", "10 d", "99999999999999999999d", "999999999999999y", "1é", "é"] {
            assert!(lifetime_ms(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn never_is_the_last_second_of_9999() {
        assert_eq!(crate::http::time::rfc3339(NEVER_MS), "9999-12-31T23:59:59Z");
    }
}
