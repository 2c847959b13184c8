//! Random texts and their hashes.

use sandbar_store::StoreError;
use sha2::Digest;

/// A SHA-256.
pub type Sha256 = [u8; 32];

/// Random bytes of a token.
const TOKEN_BYTES: usize = 24;
/// The region that this server is, as it stands in the text of its keys.
pub const REGION: &str = "default";

/// The hash by which a token is stored and found. Tokens are random, so one round is enough.
pub fn sha256(token: &str) -> Sha256 {
    sha2::Sha256::digest(token.as_bytes()).into()
}

/// Lower-case hex of the hash.
pub fn sha256_hex(token: &str) -> String {
    hex::encode(sha256(token))
}

/// The text of a new API key: `s0_<region>_<48 hex>`, as clients tell keys by it.
pub fn new_key() -> Result<String, StoreError> {
    Ok(format!("s0_{REGION}_{}", random_hex()?))
}

/// The text of a new access token.
pub fn new_access() -> Result<String, StoreError> {
    Ok(format!("sat_{}", random_hex()?))
}

/// The text of a new refresh token.
pub fn new_refresh() -> Result<String, StoreError> {
    Ok(format!("srt_{}", random_hex()?))
}

/// 48 hex digits from the kernel's generator.
pub fn random_hex() -> Result<String, StoreError> {
    let mut bytes = [0u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::File(std::sync::Arc::new(std::io::Error::other(error.to_string()))))?;
    Ok(hex::encode(bytes))
}
