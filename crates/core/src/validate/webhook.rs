//! Where a sandbox's events are posted.

use sandbar_api::sandbox::Webhook;
use serde_json::Value;

use super::Violation;
use crate::limits;

/// A webhook of a claim; `None` when none was set, for which an SDK sends empty fields.
pub(super) fn claimed(webhook: Webhook, path: &str, out: &mut Vec<Violation>) -> Option<Webhook> {
    let Webhook { url, secret, watch_dir } = &webhook;
    let is_set = !url.trim().is_empty() || [secret, watch_dir].into_iter().flatten().any(|text| !text.is_empty());
    is_set.then(|| {
        check_secret(webhook.secret.as_deref(), path, out);
        checked(webhook, path, out)
    })
}

/// A webhook as an update changes it. What is absent stays, `null` and the empty text take a secret or a folder away. The
/// stored secret may be sealed and longer than one that is sent: only the latter is looked at.
pub(super) fn updated(stored: Option<Webhook>, sent: &Value, path: &str, out: &mut Vec<Violation>) -> Option<Webhook> {
    let Some(fields) = sent.as_object() else {
        out.push(Violation::new(path, "must be an object with url, secret and watch_dir"));
        return stored;
    };
    let mut webhook = stored.unwrap_or_default();
    for (name, value) in fields {
        let text = match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                out.push(Violation::new(format!("{path}.{name}"), "must be a text"));
                continue;
            }
        };
        match name.as_str() {
            "url" => webhook.url = text.unwrap_or_default(),
            "secret" => {
                check_secret(text.as_deref(), path, out);
                webhook.secret = text;
            }
            "watch_dir" => webhook.watch_dir = text,
            _ => {}
        }
    }
    Some(checked(webhook, path, out))
}

fn check_secret(secret: Option<&str>, path: &str, out: &mut Vec<Violation>) {
    if secret.is_some_and(|secret| secret.len() > limits::WEBHOOK_SECRET_MAX_BYTES) {
        out.push(Violation::new(format!("{path}.secret"), format!("is longer than {} bytes", limits::WEBHOOK_SECRET_MAX_BYTES)));
    }
}

fn checked(mut webhook: Webhook, path: &str, out: &mut Vec<Violation>) -> Webhook {
    webhook.url = webhook.url.trim().to_owned();
    if let Err(message) = http_url(&webhook.url) {
        out.push(Violation::new(format!("{path}.url"), message));
    }
    webhook.secret = webhook.secret.filter(|secret| !secret.is_empty());
    webhook.watch_dir = webhook.watch_dir.filter(|dir| !dir.is_empty());
    if let Some(dir) = &webhook.watch_dir
        && (!dir.starts_with('/') || dir.contains('\0') || dir.len() > limits::PATH_MAX_BYTES)
    {
        out.push(Violation::new(format!("{path}.watch_dir"), format!("must be an absolute path of at most {} bytes", limits::PATH_MAX_BYTES)));
    }
    webhook
}

/// Enough to refuse what can never be posted to; the sender parses it for good.
pub(super) fn http_url(url: &str) -> Result<(), String> {
    if url.len() > limits::URL_MAX_BYTES {
        return Err(format!("is longer than {} bytes", limits::URL_MAX_BYTES));
    }
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("must not hold spaces or control characters".into());
    }
    let lower = url.to_ascii_lowercase();
    let rest = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://")).ok_or("must be an http or https URL")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must not hold a user or a password; sign with a secret instead".into());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (inner, after) = v6.split_once(']').ok_or("has a host that cannot be read")?;
            inner.parse::<std::net::Ipv6Addr>().map_err(|_| "has a host that cannot be read")?;
            (inner, after.strip_prefix(':').or(if after.is_empty() { None } else { Some("x") }))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("must name a host".into());
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() => Err("has a port that cannot be read".into()),
        Some(_) | None => Ok(()),
    }
}
