//! Previews: a private and short-lived way to one port of a sandbox. Its maker gets a URL that works once; who opens it is
//! known by a cookie from then on, and comes to the server inside as if it were on the same machine.

use serde::{Deserialize, Serialize};

use crate::{limits, sandbox::SandboxRecord, validate::Violation};

pub mod origin;
pub mod rewrite;

/// Where the URL that works once leads to, on the host of the port. No service is asked for it.
pub const BOOTSTRAP_PATH: &str = "/.sandbox0/preview/bootstrap";
/// What a browser that opened a preview is known by.
pub const COOKIE: &str = "__Host-sandbox0-preview";
/// The same where the public hosts are served without TLS, for browsers that keep no `Secure` cookie there.
pub const PLAIN_COOKIE: &str = "sandbox0-preview";

/// How the server inside is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Http,
    /// Whatever certificate it shows: it is on the sandbox's own loopback.
    Https,
}

impl Protocol {
    /// The name on the wire and in storage; also the scheme of a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Reads the name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|protocol| protocol.as_str() == text)
    }
}

/// A preview that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPreview {
    pub port: u16,
    pub protocol: Protocol,
    /// What is opened first: a path as in [`same_origin_path`].
    pub path: String,
    pub ttl_ms: i64,
    /// Whether a request through it may wake the sandbox. Then it outlives the sandbox's runtimes, too.
    pub wakes: bool,
}

/// A preview's row. Times are milliseconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewRecord {
    pub id: String,
    pub sandbox_id: String,
    pub team_id: String,
    pub user_id: String,
    /// The API key that it was made by, and ends with; none for a login.
    pub key_id: Option<String>,
    pub port: u16,
    pub protocol: Protocol,
    pub path: String,
    pub wakes: bool,
    /// Of the runtime that it was made for.
    pub runtime_generation: i64,
    /// Of the secret in the URL, in lower-case hex; none once that was used.
    pub bootstrap_sha256: Option<String>,
    /// Of the secret in the cookie; none until it is opened.
    pub session_sha256: Option<String>,
    pub created_at_ms: i64,
    pub opened_at_ms: Option<i64>,
    pub expires_at_ms: i64,
}

/// What becomes of a request through a preview.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The server inside is asked.
    Serve,
    /// The sandbox is woken first, if its owner lets it be woken.
    Wake,
    /// It is not good any more.
    Over(Over),
}

/// Why a preview is not good any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    #[error("the preview has expired")]
    Expired,
    #[error("the sandbox was restarted or resumed since the preview was made")]
    FormerRuntime,
    #[error("the sandbox is not running, and this preview does not wake it")]
    Asleep,
}

impl PreviewRecord {
    /// Decides for a sandbox as it is now; `awake` when it has a runtime that runs.
    pub fn admit(&self, sandbox: &SandboxRecord, awake: bool, now_ms: i64) -> Admission {
        // A sandbox never changes its team; a row that says so is not believed.
        if now_ms >= self.expires_at_ms || sandbox.id != self.sandbox_id || sandbox.team_id != self.team_id {
            Admission::Over(Over::Expired)
        } else if self.wakes {
            if awake { Admission::Serve } else { Admission::Wake }
        } else if sandbox.runtime_generation != self.runtime_generation {
            Admission::Over(Over::FormerRuntime)
        } else if awake {
            Admission::Serve
        } else {
            Admission::Over(Over::Asleep)
        }
    }

    /// Whether it is of this user for this team.
    pub fn is_of(&self, team_id: &str, user_id: &str) -> bool {
        self.team_id == team_id && self.user_id == user_id
    }
}

/// Reads what a client asks for: `port` and, of the rest, what it says.
pub fn wanted(port: i64, protocol: Option<&str>, path: Option<&str>, ttl_seconds: Option<i64>, wakes: bool) -> Result<NewPreview, Vec<Violation>> {
    let mut wrong = Vec::new();
    let port = u16::try_from(port).ok().filter(|port| *port > 0).unwrap_or_else(|| {
        wrong.push(Violation::new("port", "must be from 1 to 65535"));
        0
    });
    let protocol = match protocol.map(str::trim).filter(|text| !text.is_empty()) {
        None => Protocol::Http,
        Some(text) => Protocol::parse(&text.to_ascii_lowercase()).unwrap_or_else(|| {
            wrong.push(Violation::new("protocol", "must be http or https"));
            Protocol::Http
        }),
    };
    let path = match path.filter(|text| !text.is_empty()) {
        None => "/".to_owned(),
        Some(text) => same_origin_path(text).map(str::to_owned).unwrap_or_else(|| {
            let message = format!(
                "must be a path on the same host that begins with one slash: at most {} visible ASCII characters, no backslash, everything else percent-encoded",
                limits::PREVIEW_PATH_MAX_BYTES
            );
            wrong.push(Violation::new("path", message));
            String::new()
        }),
    };
    let ttl_ms = ttl_ms(ttl_seconds).unwrap_or_else(|violation| {
        wrong.push(violation);
        0
    });
    if wrong.is_empty() { Ok(NewPreview { port, protocol, path, ttl_ms, wakes }) } else { Err(wrong) }
}

/// For how long a preview is good, in milliseconds. 0 counts as absent.
pub fn ttl_ms(seconds: Option<i64>) -> Result<i64, Violation> {
    let seconds = seconds.filter(|seconds| *seconds != 0).unwrap_or(limits::PREVIEW_TTL_DEFAULT_S);
    if (limits::PREVIEW_TTL_MIN_S..=limits::PREVIEW_TTL_MAX_S).contains(&seconds) {
        Ok(seconds * 1000)
    } else {
        Err(Violation::new("ttl_seconds", format!("must be from {} to {}", limits::PREVIEW_TTL_MIN_S, limits::PREVIEW_TTL_MAX_S)))
    }
}

/// A path, perhaps with query and fragment, that a browser takes for one on the host that it is on: it begins with one
/// slash, and nothing in it is read as another one or left out by browsers.
pub fn same_origin_path(text: &str) -> Option<&str> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    (plain && text.starts_with('/') && !text.starts_with("//") && text.len() <= limits::PREVIEW_PATH_MAX_BYTES).then_some(text)
}

/// The id of a preview and a secret of it, as they stand in the URL and in the cookie.
pub fn split_credential(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.split_once('.')?;
    let is_plain = |part: &str| (1..=128).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    (is_plain(id) && is_plain(secret)).then_some((id, secret))
}

#[cfg(test)]
mod tests;
