//! Where `ctx.fetch` may go: the operator's list, and what a script's owner leaves of it.
//!
//! An entry is a host, or a name below which every host is meant, too (`cdn.io` is also `assets.cdn.io`); `*.cdn.io` means those
//! below alone. A port behind it means that port; without one the port is the usual one of the scheme. `*` is any host at any port.
//! Names are compared as they are looked up: lower case, in ASCII, without the dot at the end. An address is compared as a number,
//! however it was spelled; the URL parser does all of that, for entries and for URLs alike.

use std::{fmt, str::FromStr};

use url::{Host, Url};

use crate::limits;

/// Hosts that may be asked. The empty one allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchAllow(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Any,
    Hosts { host: Host<String>, itself: bool, port: Option<u16> },
}

/// An entry that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("{0:?} is no entry of a fetch allow-list: HOST, *.HOST, either with :PORT, or *")]
    Form(String),
    #[error("a fetch allow-list of {0} entries; at most {max} are compared", max = limits::SCRIPT_FETCH_ALLOW_MAX)]
    TooMany(usize),
}

/// Why a URL is not asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Invalid URL: {0}")]
    Invalid(String),
    /// Scheme, host or port are not on the list, or it names a user.
    #[error("URL not in fetch allow-list: {0}")]
    NotAllowed(String),
}

impl FetchAllow {
    /// Reads entries as they stand in a list.
    ///
    /// # Errors
    /// One is malformed, or there are too many.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, EntryError> {
        let entries: Vec<Entry> = entries.into_iter().map(str::parse).collect::<Result<_, _>>()?;
        if entries.len() > limits::SCRIPT_FETCH_ALLOW_MAX {
            return Err(EntryError::TooMany(entries.len()));
        }
        Ok(Self(entries))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the list alone lets a URL pass.
    pub fn allows(&self, url: &Url) -> bool {
        // The scheme first: `file://allowed.host/etc/passwd` has a host, too.
        if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
            return false;
        }
        let Some(host) = url.host().map(normal) else { return false };
        self.0.iter().any(|entry| entry.covers(&host, url))
    }
}

/// Reads a URL that a script asks for, and judges it by the operator's list and by its own. `None` for its own is the operator's;
/// else both have to allow it, so a script's list can only take hosts away.
///
/// # Errors
/// Why it is not asked for.
pub fn judge(text: &str, ceiling: &FetchAllow, own: Option<&FetchAllow>) -> Result<Url, Refusal> {
    let url = Url::parse(text).map_err(|_| Refusal::Invalid(shown(text)))?;
    judge_url(&url, text, ceiling, own)?;
    Ok(url)
}

/// The same for a URL that was read already, as that of a redirect; `text` is how it is called in the refusal.
///
/// # Errors
/// Why it is not asked for.
pub fn judge_url(url: &Url, text: &str, ceiling: &FetchAllow, own: Option<&FetchAllow>) -> Result<(), Refusal> {
    let is_allowed = ceiling.allows(url) && own.is_none_or(|own| own.allows(url));
    is_allowed.then_some(()).ok_or_else(|| Refusal::NotAllowed(shown(text)))
}

impl Entry {
    fn covers(&self, asked: &Host<String>, url: &Url) -> bool {
        let Self::Hosts { host, itself, port } = self else { return true };
        let is_port = match port {
            Some(port) => url.port_or_known_default() == Some(*port),
            // The parser leaves out the port that the scheme has anyway.
            None => url.port().is_none(),
        };
        is_port && ((*itself && asked == host) || is_below(asked, host))
    }
}

/// Whether one name is below another. Nothing is below an address.
fn is_below(name: &Host<String>, above: &Host<String>) -> bool {
    match (name, above) {
        (Host::Domain(name), Host::Domain(above)) => name.strip_suffix(above.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        (Host::Domain(_) | Host::Ipv4(_) | Host::Ipv6(_), _) => false,
    }
}

/// A host as it is compared: without the dot at the end, and an IPv4 address that was dressed up as IPv6 as itself.
fn normal<S: AsRef<str>>(host: Host<S>) -> Host<String> {
    match host {
        Host::Domain(name) => Host::Domain(name.as_ref().strip_suffix('.').unwrap_or(name.as_ref()).to_owned()),
        Host::Ipv4(addr) => Host::Ipv4(addr),
        Host::Ipv6(addr) => addr.to_ipv4_mapped().map_or(Host::Ipv6(addr), Host::Ipv4),
    }
}

/// A URL of a stranger as it stands in a message.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(limits::SCRIPT_URL_SHOWN_MAX_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

impl FromStr for Entry {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let wrong = || EntryError::Form(shown(text));
        let text = text.trim();
        if text == "*" {
            return Ok(Self::Any);
        }
        let (itself, rest) = match text.strip_prefix("*.") {
            Some(rest) => (false, rest),
            None => (true, text),
        };
        let (host, port) = match rest.rsplit_once(':') {
            // Colons of an IPv6 address are within brackets.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = match port {
            None => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
            Some(_) => return Err(wrong()),
        };
        if host.is_empty() || host.contains(['*', '@', '/', '%']) {
            return Err(wrong());
        }
        let host = normal(Host::parse(host).map_err(|_| wrong())?);
        let is_name = matches!(&host, Host::Domain(name) if !name.is_empty() && name.split('.').all(|label| !label.is_empty()));
        let is_address = !matches!(host, Host::Domain(_));
        // Nothing is below an address.
        if !(is_name || (is_address && itself)) {
            return Err(wrong());
        }
        Ok(Self::Hosts { host, itself, port })
    }
}

/// Comma-separated, as in a setting.
impl FromStr for FetchAllow {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        Self::of(text.split(',').map(str::trim).filter(|part| !part.is_empty()))
    }
}

impl fmt::Display for FetchAllow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, entry) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match entry {
                Entry::Any => write!(f, "{comma}*")?,
                Entry::Hosts { host, itself, port } => {
                    write!(f, "{comma}{}{host}", if *itself { "" } else { "*." })?;
                    port.map_or(Ok(()), |port| write!(f, ":{port}"))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
