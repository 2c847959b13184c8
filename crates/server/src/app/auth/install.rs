//! The first start: an admin, a team and a key.

use sandbar_core::roles::Role;
use sandbar_store::{ApiKey, Install, Store, StoreError, Team, User};
use uuid::Uuid;

use super::{keys::NEVER_MS, password::Hasher, token};
use crate::http::time::now_ms;

const ADMIN_EMAIL: &str = "admin@localhost";
/// Characters of the generated password.
const PASSWORD_CHARS: usize = 24;

/// Makes what is missing. What is generated is printed here and nowhere else.
pub async fn ensure(store: &Store, hasher: &Hasher, bootstrap_token: Option<&str>) -> Result<(), StoreError> {
    let bootstrap_token = bootstrap_token.map(str::trim).filter(|token| !token.is_empty());
    match store.user_first_admin().await? {
        None => first_start(store, hasher, bootstrap_token).await,
        Some(admin) => match bootstrap_token {
            Some(token) => later_token(store, &admin, token).await,
            None => Ok(()),
        },
    }
}

async fn first_start(store: &Store, hasher: &Hasher, bootstrap_token: Option<&str>) -> Result<(), StoreError> {
    let password: String = token::random_hex()?.chars().take(PASSWORD_CHARS).collect();
    let hash = hasher.hash(&password).await.map_err(|error| StoreError::File(std::sync::Arc::new(std::io::Error::other(error.to_string()))))?;
    let key_text = match bootstrap_token {
        Some(token) => token.to_owned(),
        None => token::new_key()?,
    };
    let now = now_ms();
    let user = User {
        id: Uuid::new_v4().to_string(),
        email: ADMIN_EMAIL.to_owned(),
        name: "Admin".to_owned(),
        avatar_url: None,
        password_hash: Some(hash),
        is_admin: true,
        email_verified: true,
        created_at_ms: now,
        updated_at_ms: now,
    };
    let team = Team {
        id: Uuid::new_v4().to_string(),
        name: "Default".to_owned(),
        slug: "default".to_owned(),
        owner_id: Some(user.id.clone()),
        home_region_id: Some(token::REGION.to_owned()),
        created_at_ms: now,
        updated_at_ms: now,
    };
    let key = admin_key(&team.id, &user.id, now);
    let installed = store.install(Install { user, team, key, key_sha256: token::sha256_hex(&key_text) }).await?;
    if installed {
        let key_line = if bootstrap_token.is_some() { "the one it was started with" } else { key_text.as_str() };
        println!("First start. This is shown once:\n  API key   {key_line}\n  login     {ADMIN_EMAIL}\n  password  {password}");
    }
    Ok(())
}

/// A token that was not there at the first start: one more admin key of the first admin's first team.
async fn later_token(store: &Store, admin: &User, text: &str) -> Result<(), StoreError> {
    let sha256 = token::sha256_hex(text);
    if let Some(known) = store.key_find_by_sha256(&sha256).await? {
        if !known.is_active {
            tracing::warn!(key = known.id, "SANDBAR_BOOTSTRAP_TOKEN is a key that was deactivated; it stays so");
        }
        return Ok(());
    }
    let teams = store.teams_of_user(&admin.id).await?;
    let Some((team, _)) = teams.into_iter().find(|(_, role)| *role == Role::Admin) else {
        tracing::warn!("SANDBAR_BOOTSTRAP_TOKEN is not used: the first admin has no team");
        return Ok(());
    };
    let key = admin_key(&team.id, &admin.id, now_ms());
    tracing::info!(key = key.id, team = team.id, "SANDBAR_BOOTSTRAP_TOKEN became an admin key");
    store.key_insert(&key, &sha256).await
}

fn admin_key(team_id: &str, user_id: &str, now: i64) -> ApiKey {
    ApiKey {
        id: Uuid::new_v4().to_string(),
        team_id: team_id.to_owned(),
        created_by: user_id.to_owned(),
        name: "bootstrap".to_owned(),
        scope: "team".to_owned(),
        roles: vec![Role::Admin],
        is_active: true,
        expires_at_ms: NEVER_MS,
        created_at_ms: now,
        updated_at_ms: now,
        last_used_at_ms: None,
        usage_count: 0,
    }
}
