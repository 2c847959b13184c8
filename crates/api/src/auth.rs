//! Logins, users, API keys.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /auth/login`.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
pub struct LoginRequest {
    pub email: String,
    pub password: String,
}

/// `POST /auth/register`.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
pub struct RegisterRequest {
    pub email: String,
    pub password: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub home_region_id: Option<String>,
}

/// `POST /auth/refresh`.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
pub struct RefreshTokenRequest {
    pub refresh_token: String,
}

/// `POST /auth/change-password`.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
pub struct ChangePasswordRequest {
    pub old_password: String,
    pub new_password: String,
}

/// A login: its tokens and whose it is.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
pub struct LoginResponse {
    /// Opens the API until `expires_at`.
    pub access_token: String,
    /// Buys the next pair, once.
    pub refresh_token: String,
    /// Unix seconds.
    pub expires_at: i64,
    pub user: User,
}

/// `POST /users/me/ssh-keys`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct CreateSSHPublicKeyRequest {
    pub name: String,
    /// One line as in a `.pub` file.
    pub public_key: String,
}

/// A key with which its owner may come into the team's sandboxes.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct SSHPublicKey {
    pub id: String,
    /// Whose it is.
    pub user_id: String,
    /// The API key that added it, with which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_id: Option<String>,
    pub name: String,
    /// Without its comment.
    pub public_key: String,
    pub key_type: String,
    /// As `ssh-keygen -l` shows it.
    pub fingerprint_sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    pub created_at: String,
    pub updated_at: String,
}

/// `GET /users/me/ssh-keys`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct SSHPublicKeyListResponse {
    pub ssh_keys: Vec<SSHPublicKey>,
}

/// A person.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct User {
    pub id: String,
    pub email: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    pub email_verified: bool,
    pub is_admin: bool,
    pub created_at: String,
    pub updated_at: String,
}

/// `PUT /users/me`. Absent = keep.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct UpdateUserRequest {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub avatar_url: Option<String>,
}

/// A way in which a user can prove who they are.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct Identity {
    pub id: String,
    pub provider: String,
    /// Unix seconds.
    pub created_at: i64,
}

/// `GET /users/me/identities`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct IdentityListResponse {
    pub identities: Vec<Identity>,
}

/// A way to log in.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct AuthProvider {
    pub id: String,
    pub name: String,
    /// `builtin` = email and password.
    #[serde(rename = "type")]
    pub kind: String,
    pub browser_login_enabled: bool,
    pub device_login_enabled: bool,
}

/// `GET /auth/providers`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct AuthProvidersResponse {
    pub providers: Vec<AuthProvider>,
}

/// `POST /api-keys`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct CreateApiKeyRequest {
    pub name: String,
    /// Free text, `team` when absent.
    #[serde(default)]
    pub scope: Option<String>,
    /// Any of admin, builder, developer, viewer; at most what the maker may. `developer` when absent.
    #[serde(default)]
    pub roles: Option<Vec<String>>,
    /// Such as `30d`, `12h` or `never` (the default).
    #[serde(default)]
    pub expires_in: Option<String>,
}

/// The reply to `POST /api-keys`: the only one that holds the key's text.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
pub struct CreateApiKeyResponse {
    pub id: String,
    pub name: String,
    pub scope: String,
    pub roles: Vec<String>,
    pub team_id: String,
    pub key: String,
    pub expires_at: String,
    pub created_at: String,
}

/// An API key without its text.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ApiKey {
    pub id: String,
    pub team_id: String,
    pub created_by: String,
    pub user_id: String,
    pub name: String,
    pub scope: String,
    pub roles: Vec<String>,
    pub is_active: bool,
    pub expires_at: String,
    pub created_at: String,
    pub updated_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
    pub usage_count: i64,
}

/// `GET /api-keys`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ApiKeyListResponse {
    pub api_keys: Vec<ApiKey>,
}

/// The key that the request was made with.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct CurrentApiKey {
    pub id: String,
    pub team_id: String,
    pub created_by: String,
    pub scope: String,
    pub roles: Vec<String>,
    pub permissions: Vec<String>,
    pub is_active: bool,
    pub expires_at: String,
}

/// `GET /api-keys/current`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct CurrentApiKeyResponse {
    pub api_key: CurrentApiKey,
}

/// `GET /metadata`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct GatewayMetadata {
    /// `direct`: this server is the region.
    pub gateway_mode: String,
    pub service: String,
    pub version: String,
    /// How SSH is reached, when it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshMetadata>,
}

/// What an SSH client has to know of the server.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct SshMetadata {
    pub host: String,
    pub port: u16,
    /// As in a `known_hosts` file, without the host's name.
    pub host_key: String,
    /// As clients show it.
    pub fingerprint_sha256: String,
}

/// Where sandboxes can be. This server is one region.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct Region {
    pub id: String,
    pub display_name: String,
    pub regional_gateway_url: String,
    pub enabled: bool,
}

/// `GET /regions`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct RegionListResponse {
    pub regions: Vec<Region>,
}
