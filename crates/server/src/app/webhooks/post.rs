//! One attempt: what is sent, how it is signed, and what came back.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ring::hmac;
use sandbar_core::{limits, text::cut, webhook::Outcome};
use sandbar_node::outbound::{Answer, OutboundError};
use sandbar_store::Attempt;

use super::Webhooks;
use crate::app::{sandboxes::now_ms, seal::Purpose};

const USER_AGENT: &str = concat!("Sandbar-Webhook/", env!("CARGO_PKG_VERSION"));
/// Of the body alone: what clients of the API know.
const SIGNATURE: HeaderName = HeaderName::from_static("x-sandbox0-signature");
/// Of moment and body, so that what was once sent cannot be sent again later by somebody else.
const TIMED_SIGNATURE: HeaderName = HeaderName::from_static("x-sandbar-signature");
/// Seconds since 1970.
const TIMESTAMP: HeaderName = HeaderName::from_static("x-sandbar-timestamp");
const EVENT_ID: HeaderName = HeaderName::from_static("x-sandbar-event-id");
const ATTEMPT: HeaderName = HeaderName::from_static("x-sandbar-delivery-attempt");

/// What came of an attempt, to decide by and to keep.
#[derive(Debug)]
pub(crate) struct Posted {
    pub outcome: Outcome,
    pub attempt: Attempt,
}

impl Webhooks {
    /// Posts once for a team. `secret` is sealed.
    pub(crate) async fn post(&self, team: &str, url: &str, secret: Option<&str>, event_id: &str, number: u32, body: &str) -> Posted {
        let at_ms = now_ms();
        let secret = match secret.map(|sealed| self.seal.unseal(Purpose::WebhookSecret, sealed)).transpose() {
            Ok(secret) => secret,
            Err(error) => {
                tracing::error!(%error, "a webhook's secret cannot be opened");
                // Never unsigned what is to be signed.
                let error = Some("its secret cannot be opened on this server; set it again".to_owned());
                return Posted { outcome: Outcome::Refused, attempt: Attempt { at_ms, error, ..Attempt::default() } };
            }
        };
        let headers = headers(secret.as_deref(), event_id, number, at_ms / 1000, body);
        let within = Duration::from_millis(limits::WEBHOOK_TRY_MAX_MS);
        let answer = self.outbound.post(team, url, headers, Bytes::copy_from_slice(body.as_bytes()), within).await;
        // The moment at which it is over: waits count from here.
        seen(answer, now_ms())
    }
}

fn seen(answer: Result<Answer, OutboundError>, at_ms: i64) -> Posted {
    match answer {
        Ok(Answer { status, retry_after, body }) => {
            let outcome = Outcome::Answered { status, retry_after_ms: retry_after.and_then(|text| wait_ms(&text, at_ms)) };
            let error = match status {
                200..=299 => None,
                300..=399 => Some(format!("it answered {status}; redirects are not followed")),
                _ => Some(format!("it answered {status}")),
            };
            let answer = String::from_utf8_lossy(&body);
            let answer = Some(cut(&answer, limits::WEBHOOK_ANSWER_MAX_BYTES).to_owned()).filter(|text| !text.is_empty());
            Posted { outcome, attempt: Attempt { at_ms, status: Some(status), error, answer } }
        }
        Err(error) => {
            let outcome = match error {
                OutboundError::Refused(_) => Outcome::Refused,
                OutboundError::Failed(_) => Outcome::Unreached,
            };
            Posted { outcome, attempt: Attempt { at_ms, error: Some(error.to_string()), ..Attempt::default() } }
        }
    }
}

fn headers(secret: Option<&str>, event_id: &str, number: u32, at_s: i64, body: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(ATTEMPT, HeaderValue::from(number));
    headers.insert(TIMESTAMP, HeaderValue::from(at_s));
    // Ids are visible ASCII wherever they come from, and so are signatures.
    let mut put = |name, value: String| headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
    put(EVENT_ID, event_id.to_owned());
    if let Some(secret) = secret {
        put(SIGNATURE, signature(secret, &[body.as_bytes()]));
        put(TIMED_SIGNATURE, format!("t={at_s},v1={}", signature(secret, &[at_s.to_string().as_bytes(), b".", body.as_bytes()])));
    }
    headers
}

/// HMAC-SHA256 in lower-case hexadecimal.
fn signature(secret: &str, parts: &[&[u8]]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
    for part in parts {
        context.update(part);
    }
    hex::encode(context.sign())
}

/// `Retry-After` in either form, as milliseconds from now.
fn wait_ms(text: &str, now_ms: i64) -> Option<i64> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(i64::from(seconds) * 1000);
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(at.timestamp().as_millisecond().saturating_sub(now_ms).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_standard() {
        // RFC 4231, test case 2.
        assert_eq!(signature("Jefe", &[b"what do ya want ", b"for nothing?"]), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let signed = headers(Some("Jefe"), "evt_1", 3, 1700, "{}");
        let of = |name: &HeaderName| signed.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        assert_eq!(of(&SIGNATURE), signature("Jefe", &[b"{}"]));
        assert_eq!(of(&TIMED_SIGNATURE), format!("t=1700,v1={}", signature("Jefe", &[b"1700.{}"])));
        assert_eq!((of(&TIMESTAMP), of(&ATTEMPT), of(&EVENT_ID)), ("1700".to_owned(), "3".to_owned(), "evt_1".to_owned()));
        let plain = headers(None, "evt_1", 1, 1700, "{}");
        assert!(!plain.contains_key(SIGNATURE) && !plain.contains_key(TIMED_SIGNATURE) && plain.contains_key(TIMESTAMP));
    }

    #[test]
    fn a_receiver_says_when_in_two_ways() {
        let now = 784_111_777_000;
        for (text, wanted) in [
            ("120", Some(120_000)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10_000)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(wait_ms(text, now), wanted, "{text:?}");
        }
    }
}
