//! Who asks, and what they may do.
//!
//! A bearer token is looked up by its SHA-256: an API key, or the access token of a login. What was found is kept for a
//! while, so that a request costs no read; what is revoked is forgotten at once.

mod attempts;
mod cache;
mod install;
mod keys;
mod logins;
mod password;
mod permission;
mod ssh_keys;
mod teams;
pub(crate) mod token;
mod users;

use std::sync::{Arc, Mutex};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use sandbar_api::ErrorCode;
use sandbar_core::{
    app::run::Caller,
    limits,
    roles::{Permission, Permissions, Role},
};
use sandbar_node::error_text;
use sandbar_store::{Store, StoreError, TokenKind};
use tokio::sync::watch;

pub use keys::NewKey;
pub use logins::Login;
pub use teams::TeamChange;

use crate::{
    app::SharedApp,
    error::ApiError,
    http::{standing::Asker, time::now_ms},
};
use cache::{Cache, Grant, Holder, Seen};

/// Names the team that a login acts for, when its user is in several.
pub(crate) const TEAM_HEADER: &str = "x-team-id";
/// A key's last use is written at most this often.
const TOUCH_EVERY_MS: i64 = 60_000;

/// Who asks: a user for a team, by key or by login.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Empty for a login of somebody who is in no team, and who may do nothing but make or join one.
    pub team_id: String,
    pub user_id: String,
    /// The API key that was used; none for a login.
    pub key_id: Option<String>,
    pub roles: Vec<Role>,
    pub permissions: Permissions,
    /// The login that was used.
    login: Option<String>,
    /// By its hash; none for a connection by SSH key.
    token: Option<token::Sha256>,
}

impl Principal {
    /// Refuses (403) who may not do this.
    pub fn require(&self, permission: Permission) -> Result<(), ApiError> {
        if self.permissions.has(permission) { Ok(()) } else { Err(lacks(permission)) }
    }

    /// Who that is, for what is written down of it.
    pub(crate) fn caller(&self) -> Caller {
        Caller { user_id: self.user_id.clone(), key_id: self.key_id.clone() }
    }

    /// Refuses (403) an API key where only a person may act.
    fn require_login(&self, what: &str) -> Result<(), ApiError> {
        if self.key_id.is_none() { Ok(()) } else { Err(ApiError::new(ErrorCode::Forbidden, format!("an API key cannot {what}; log in"))) }
    }
}

/// Users, teams, keys and logins, and the check of every request.
pub struct Auth {
    store: Store,
    /// Whether strangers can make an account.
    registration: bool,
    verified: Cache,
    attempts: Mutex<attempts::Attempts>,
    hasher: password::Hasher,
}

impl Auth {
    /// Makes the first admin, team and key on a fresh database and prints what was generated, once. A
    /// `bootstrap_token` that is not known yet becomes an admin key.
    pub async fn start(store: &Store, bootstrap_token: Option<&str>, registration: bool) -> Result<Self, StoreError> {
        let hasher = password::Hasher::new();
        install::ensure(store, &hasher, bootstrap_token).await?;
        Ok(Self { store: store.clone(), registration, verified: Cache::new(), attempts: Mutex::default(), hasher })
    }

    /// Who holds this token; 401 for one that is unknown, expired or revoked. `team` is the one that a login wants to
    /// act for.
    pub async fn verify(&self, token: &str, team: Option<&str>) -> Result<Principal, ApiError> {
        self.holder_of(token::sha256(token), team).await
    }

    /// Who it is by now that somebody was when something long began: 401 when the key was ended, or the login. A login whose tokens
    /// were renewed meanwhile is the same login still.
    pub async fn verify_again(&self, who: &Principal) -> Result<Principal, ApiError> {
        let Some(hash) = who.token else { return Ok(who.clone()) };
        let team = Some(&*who.team_id).filter(|team| !team.is_empty());
        match (self.holder_of(hash, team).await, &who.login) {
            (Err(error), Some(family)) if error.status() == ErrorCode::Unauthorized.status() => {
                if !self.store.login_lives(family, now_ms()).await.map_err(|e| refused("reading the login", &e))? {
                    return Err(error);
                }
                let teams = self.store.teams_of_user(&who.user_id).await.map_err(|e| refused("reading the login", &e))?;
                let role = teams.into_iter().find(|(team, _)| team.id == who.team_id).map(|(_, role)| role);
                if role.is_none() && team.is_some() {
                    return Err(ApiError::not_found("team", &who.team_id));
                }
                Ok(Principal { roles: role.into_iter().collect(), permissions: role.map(Role::permissions).unwrap_or_default(), ..who.clone() })
            }
            (answer, _) => answer,
        }
    }

    /// Tells of each key, login, membership or role that ends or is changed from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.verified.changes()
    }

    async fn holder_of(&self, hash: token::Sha256, team: Option<&str>) -> Result<Principal, ApiError> {
        let now = now_ms();
        let grant = match self.verified.get(&hash, now) {
            Seen::Known(grant) => grant,
            Seen::Unknown { epoch } => {
                let grant = Arc::new(self.look_up(&hash, now).await?);
                self.verified.put(hash, Arc::clone(&grant), epoch, now);
                grant
            }
        };
        if grant.expires_at_ms <= now {
            return Err(unauthorized("the token has expired"));
        }
        match &grant.holder {
            Holder::Key { principal, .. } => {
                self.touch(&grant, now);
                match team {
                    Some(team) if team != principal.team_id => Err(ApiError::not_found("team", team)),
                    Some(_) | None => Ok(principal.clone()),
                }
            }
            Holder::Login { user_id, family, teams } => {
                let chosen = match team {
                    Some(id) => Some(teams.iter().find(|(team_id, _)| team_id == id).ok_or_else(|| ApiError::not_found("team", id))?),
                    None => teams.first(),
                };
                let (team_id, role) = chosen.map(|(id, role)| (id.clone(), *role)).unzip();
                Ok(Principal {
                    team_id: team_id.unwrap_or_default(),
                    user_id: user_id.clone(),
                    key_id: None,
                    roles: role.into_iter().collect(),
                    permissions: role.map(Role::permissions).unwrap_or_default(),
                    login: Some(family.clone()),
                    token: Some(hash),
                })
            }
        }
    }

    async fn look_up(&self, hash: &token::Sha256, now: i64) -> Result<Grant, ApiError> {
        let text = hex::encode(hash);
        if let Some(key) = self.store.key_find_by_sha256(&text).await.map_err(|e| refused("reading the API key", &e))? {
            if !key.is_active {
                return Err(unauthorized("the API key was deactivated"));
            }
            // A key never outlives its maker's membership, nor does it give more than that.
            let maker = self.store.member_find(&key.team_id, &key.created_by).await.map_err(|e| refused("reading the API key", &e))?;
            let Some(maker) = maker else { return Err(unauthorized("who made the API key is no longer in the team")) };
            let principal = Principal {
                team_id: key.team_id,
                user_id: key.created_by,
                key_id: Some(key.id),
                permissions: Permissions::of_roles(&key.roles) & maker.role.permissions(),
                roles: key.roles.into_iter().filter(|role| maker.role.permissions().covers(role.permissions())).collect(),
                login: None,
                token: Some(*hash),
            };
            return Ok(Grant { expires_at_ms: key.expires_at_ms, holder: Holder::key(principal, key.last_used_at_ms) });
        }
        let login = self.store.login_find(&text, TokenKind::Access, now).await.map_err(|e| refused("reading the login", &e))?;
        let Some(login) = login else { return Err(unauthorized("the token is not known")) };
        let teams = self.store.teams_of_user(&login.user_id).await.map_err(|e| refused("reading the login", &e))?;
        let teams = teams.into_iter().map(|(team, role)| (team.id, role)).collect();
        Ok(Grant { expires_at_ms: login.expires_at_ms, holder: Holder::Login { user_id: login.user_id, family: login.family, teams } })
    }

    /// Notes the use of a key, not more often than [`TOUCH_EVERY_MS`], and lets nobody wait for it.
    fn touch(&self, grant: &Grant, now: i64) {
        let Some(key_id) = grant.due_touch(now, TOUCH_EVERY_MS) else { return };
        let (store, key_id) = (self.store.clone(), key_id.to_owned());
        tokio::spawn(async move {
            if let Err(error) = store.key_touch(&key_id, now).await {
                tracing::warn!(error = error_text(&error), "the use of a key was not noted");
            }
        });
    }
}

/// 401 with the header that says how to do better.
pub struct Rejection(ApiError);

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let unauthorized = self.0.status() == ErrorCode::Unauthorized.status();
        let mut response = self.0.into_response();
        if unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<ApiError> for Rejection {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

/// Every handler that takes a `Principal` is closed to strangers, and what its method and path ask for is checked here
/// already, so that no route is open because its handler forgot to ask.
impl FromRequestParts<SharedApp> for Principal {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Rejection> {
        let token = bearer(&parts.headers)?;
        let team = parts.headers.get(TEAM_HEADER).and_then(|value| value.to_str().ok()).map(str::trim).filter(|team| !team.is_empty());
        let principal = app.auth.verify(token, team).await?;
        if let Some(permission) = permission::needed(&parts.method, parts.uri.path()) {
            if principal.team_id.is_empty() {
                return Err(ApiError::new(ErrorCode::Forbidden, "you are in no team; make one or ask to be added to one").into());
            }
            principal.require(permission)?;
        }
        app.admit_request(&principal.team_id)?;
        if let Some(asker) = parts.extensions.get::<Asker>() {
            asker.note(&principal);
        }
        Ok(principal)
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(unauthorized("the request has no token; send \"Authorization: Bearer <token>\""));
    };
    let text = value.to_str().map_err(|_| unauthorized("the Authorization header cannot be read"))?;
    let token = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    match token {
        Some(token) if !token.is_empty() && token.len() <= limits::TOKEN_MAX_BYTES => Ok(token),
        Some(_) | None => Err(unauthorized("the Authorization header must be \"Bearer <token>\"")),
    }
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, message)
}

fn lacks(permission: Permission) -> ApiError {
    ApiError::new(ErrorCode::Forbidden, format!("this needs the permission {permission}, which your roles do not have"))
}

/// A failure of the store as the client reads it.
fn refused(operation: &str, error: &StoreError) -> ApiError {
    match error {
        StoreError::NotFound { what, id } => ApiError::not_found(what, id),
        StoreError::Exists { .. } | StoreError::Stale { .. } | StoreError::Mounted { .. } | StoreError::Bound { .. } => ApiError::conflict(error.to_string()),
        StoreError::Duplicate { .. } | StoreError::Unfit(_) => ApiError::conflict(error.to_string()),
        StoreError::Binding(_) | StoreError::Query(_) => ApiError::bad_request(error.to_string()),
        StoreError::InUse { by, .. } => {
            let resources: Vec<_> = by.iter().map(|(category, count)| serde_json::json!({ "category": category, "count": count })).collect();
            ApiError::conflict(error.to_string()).with_details(serde_json::json!({ "blocking_resources": resources }))
        }
        StoreError::TooMany { .. } | StoreError::Quota(_) => ApiError::new(ErrorCode::QuotaExceeded, error.to_string()),
        StoreError::Full => crate::app::room::full(),
        StoreError::Newer { .. } | StoreError::Corrupt { .. } | StoreError::Database { .. } | StoreError::File(_) | StoreError::Closed => {
            ApiError::internal(operation, &error_text(error))
        }
    }
}

#[cfg(test)]
mod tests;
