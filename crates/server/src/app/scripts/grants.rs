//! Grants: what an executor shows when it asks back. Each is good for one call, for what that call may ask, until shortly after its
//! deadline. The key lives as long as the server, as the calls do.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::Subject;

/// What every grant begins with.
const PREFIX: &str = "sbg1.";
/// Longer ones are not looked at.
const GRANT_MAX_BYTES: usize = 16 << 10;

/// What a grant says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Claims {
    /// The call.
    pub invocation: String,
    pub team_id: String,
    pub script_id: String,
    pub version: u32,
    pub subject: Subject,
    /// Names of ops.
    pub ops: Vec<String>,
    pub expires_at_ms: i64,
}

pub(super) struct Signer(hmac::Key);

impl Signer {
    /// None when the machine gives no random numbers.
    pub fn new() -> Option<Self> {
        let mut key = [0u8; 32];
        getrandom::fill(&mut key).ok()?;
        Some(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    pub fn sign(&self, claims: &Claims) -> String {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims).unwrap_or_default());
        let tag = hmac::sign(&self.0, payload.as_bytes());
        format!("{PREFIX}{payload}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
    }

    /// What a grant says, when we made it and it has not expired.
    pub fn verify(&self, grant: &str, now_ms: i64) -> Option<Claims> {
        let (payload, tag) = grant.get(..GRANT_MAX_BYTES.min(grant.len())).filter(|text| text.len() == grant.len())?.strip_prefix(PREFIX)?.split_once('.')?;
        let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).ok()?;
        // In the same time for every wrong one.
        hmac::verify(&self.0, payload.as_bytes(), &tag).ok()?;
        let claims: Claims = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        (now_ms < claims.expires_at_ms).then_some(claims)
    }
}

/// Whether a text is the secret, in a time that says nothing about it.
pub(super) fn is_secret(text: &str, secret: &str) -> bool {
    // Of equal lengths whatever they are.
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::verify(&key, text.as_bytes(), hmac::sign(&key, secret.as_bytes()).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            invocation: "i".into(),
            team_id: "t".into(),
            script_id: "s".into(),
            version: 3,
            subject: Subject { user_id: Some("u".into()), email: None, roles: vec!["admin".into()] },
            ops: vec!["fetch".into()],
            expires_at_ms: 1000,
        }
    }

    #[test]
    fn a_grant_says_what_was_signed_until_it_expires() {
        let signer = Signer::new().unwrap();
        let grant = signer.sign(&claims());
        assert_eq!(signer.verify(&grant, 999), Some(claims()));
        assert_eq!(signer.verify(&grant, 1000), None);
        assert_eq!(Signer::new().unwrap().verify(&grant, 1), None, "of another server");
    }

    #[test]
    fn what_was_changed_is_worth_nothing() {
        let signer = Signer::new().unwrap();
        let grant = signer.sign(&claims());
        for at in 0..grant.len() {
            let mut bytes = grant.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last character of base64 has bits that mean nothing.
            let same_tag = at == grant.len() - 1;
            assert!(signer.verify(&changed, 1).is_none() || same_tag, "{at}");
        }
        let (payload, tag) = grant.strip_prefix(PREFIX).unwrap().split_once('.').unwrap();
        let more = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&Claims { ops: vec!["email.send".into()], ..claims() }).unwrap());
        for forged in [
            "",
            PREFIX,
            payload,
            &format!("{PREFIX}{payload}"),
            &format!("{PREFIX}{payload}."),
            &format!("{PREFIX}{more}.{tag}"),
            &format!("sbg2.{payload}.{tag}"),
            &format!("{grant}{}", "A".repeat(20_000)),
        ] {
            assert_eq!(signer.verify(forged, 1), None, "{forged}");
        }
    }

    #[test]
    fn a_secret_is_itself_alone() {
        assert!(is_secret("0123456789abcdef", "0123456789abcdef"));
        for text in ["", "0123456789abcde", "0123456789abcdeF", "0123456789abcdef0"] {
            assert!(!is_secret(text, "0123456789abcdef"), "{text}");
        }
    }
}
