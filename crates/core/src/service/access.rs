//! Whether a request shows what its route asks for.

use sha2::{Digest, Sha256};

use super::{Auth, Route};

/// What a request shows.
pub trait Credential {
    /// The value of a header, when it stands there exactly once.
    fn header(&self, name: &str) -> Option<&[u8]>;
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("missing bearer token")]
    MissingBearer,
    #[error("invalid bearer token")]
    InvalidBearer,
    #[error("invalid header credential")]
    InvalidHeader,
}

impl Route {
    /// Compares what is shown with the digest that is stored, in constant time.
    pub fn authorize(&self, shown: &impl Credential) -> Result<(), Denied> {
        match &self.auth {
            Auth::None => Ok(()),
            Auth::Bearer { bearer_token_sha256 } => {
                let token = shown.header("authorization").and_then(|value| value.strip_prefix(b"Bearer ")).ok_or(Denied::MissingBearer)?;
                if is(token, bearer_token_sha256) { Ok(()) } else { Err(Denied::InvalidBearer) }
            }
            Auth::Header { header_name, header_value_sha256 } => match shown.header(header_name) {
                Some(value) if is(value, header_value_sha256) => Ok(()),
                Some(_) | None => Err(Denied::InvalidHeader),
            },
        }
    }

    /// The header that carried the credential: it is the gateway's business and not shown to the code behind.
    pub fn credential_header(&self) -> Option<&str> {
        match &self.auth {
            Auth::None => None,
            Auth::Bearer { .. } => Some("authorization"),
            Auth::Header { header_name, .. } => Some(header_name),
        }
    }
}

fn is(secret: &[u8], sha256_hex: &str) -> bool {
    let digest = Sha256::digest(secret);
    let mut difference = sha256_hex.len() ^ (digest.len() * 2);
    for (byte, expected) in digest.iter().zip(sha256_hex.as_bytes().chunks(2)) {
        let digit = |at: usize| expected.get(at).and_then(|digit| char::from(*digit).to_digit(16)).unwrap_or(256);
        difference |= (digit(0) * 16 + digit(1)) as usize ^ usize::from(*byte);
    }
    difference == 0
}
