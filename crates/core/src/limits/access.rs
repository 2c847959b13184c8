//! Users, teams and how they show who they are.

/// Characters of a password.
pub const PASSWORD_MIN_CHARS: usize = 8;
/// Bytes of a password, so that hashing one stays cheap.
pub const PASSWORD_MAX_BYTES: usize = 1024;
/// Bytes of a bearer token.
pub const TOKEN_MAX_BYTES: usize = 4096;
/// Templates of one team.
pub const TEMPLATES_PER_TEAM_MAX: usize = 200;
/// API keys of one team.
pub const API_KEYS_PER_TEAM_MAX: usize = 1000;
/// Public keys of one user in one team.
pub const SSH_KEYS_PER_USER_MAX: usize = 100;
/// Bytes of a public key's line, which the longest RSA key fits.
pub const SSH_KEY_MAX_BYTES: usize = 8 << 10;
/// Members of one team.
pub const MEMBERS_PER_TEAM_MAX: usize = 1000;
/// Teams that one user may own.
pub const TEAMS_PER_USER_MAX: usize = 100;
/// Seconds that an access token lives.
pub const ACCESS_TOKEN_TTL_S: i64 = 3600;
/// Seconds that a refresh token lives.
pub const REFRESH_TOKEN_TTL_S: i64 = 30 * 86_400;
/// Login attempts for one account from one network within [`LOGIN_WINDOW_S`].
pub const LOGIN_ATTEMPTS_MAX: u32 = 10;
/// Login attempts that fail from one network within [`LOGIN_WINDOW_S`], for whatever accounts.
pub const LOGIN_ATTEMPTS_PER_NETWORK_MAX: u32 = 100;
/// Seconds over which login attempts are counted.
pub const LOGIN_WINDOW_S: i64 = 60;
