//! Sources of credentials.

/// Credential sources of one team.
pub const CREDENTIALS_PER_TEAM_MAX: usize = 1000;
/// Characters of the name of a credential source.
pub const CREDENTIAL_NAME_MAX_CHARS: usize = 128;
/// Bytes of the body of a request that holds a credential source.
pub const CREDENTIAL_BODY_MAX_BYTES: usize = 1 << 20;
/// Values of one source of headers.
pub const CREDENTIAL_VALUES_MAX: usize = 64;
/// Characters of the name by which templates know a value.
pub const CREDENTIAL_VALUE_NAME_MAX_CHARS: usize = 64;
/// Bytes of a value, a user's name or a password.
pub const CREDENTIAL_VALUE_MAX_BYTES: usize = 16 << 10;
/// Bytes of a private key.
pub const CREDENTIAL_KEY_MAX_BYTES: usize = 32 << 10;
/// Bytes of a chain of certificates, or of the authorities of a server.
pub const CREDENTIAL_CERTIFICATES_MAX_BYTES: usize = 128 << 10;
/// Bytes of the passphrase of a private key.
pub const CREDENTIAL_PASSPHRASE_MAX_BYTES: usize = 1024;
