//! Names of hosts, and the patterns of them that rules have.
use std::fmt;
use std::net::IpAddr;

/// Of a name, without the final dot.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// In lower case, without the final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Domain {
    Exact(String),
    /// The name itself and everything below it.
    Tree(String),
}

impl Domain {
    /// `example.com` or `*.example.com`. Names beyond ASCII must be in their `xn--` form, as on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        match text.strip_prefix("*.") {
            Some(below) => normal_name(below).map(Self::Tree),
            None => normal_name(text).map(Self::Exact),
        }
    }

    /// `name` is normal (see [`normal_name`]).
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(domain) => name == domain,
            Self::Tree(domain) => name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(domain) => f.write_str(domain),
            Self::Tree(domain) => write!(f, "*.{domain}"),
        }
    }
}

/// A host's name in the one form in which names are compared: lower case, no final dot. None for what is no name, such
/// as an address.
pub fn normal_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    // What ends in a number is an address in one of its spellings (decimal, octal, short), never a name.
    let is_number =
        |label: &str| label.bytes().all(|b| b.is_ascii_digit()) || label.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let is_name = name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label) && !name.rsplit('.').next().is_none_or(is_number);
    is_name.then_some(name)
}

/// The host of an authority such as `example.com:8080` or `[::1]`, with its port. An address gives `Err` of it; None is
/// for what is neither.
pub fn host_of_authority(authority: &str) -> Option<(Result<String, IpAddr>, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("")),
        },
    };
    let port = match port? {
        "" => None,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    let host = match host.parse::<IpAddr>() {
        Ok(addr) => Err(addr.to_canonical()),
        Err(_) if authority.starts_with('[') => return None,
        Err(_) => Ok(normal_name(host)?),
    };
    Some((host, port))
}
