//! Names of hosts, and the patterns of them that rules have.
use std::collections::HashSet;
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
}

/// Those of one rule. A name is looked up, however many there are: every open flow is judged again when a policy changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Domains {
    exact: HashSet<String>,
    trees: HashSet<String>,
}

impl Domains {
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.trees.is_empty()
    }

    /// `name` is normal (see [`normal_name`]).
    pub fn matches(&self, name: &str) -> bool {
        if self.exact.contains(name) {
            return true;
        }
        let mut above = (!self.trees.is_empty()).then_some(name);
        while let Some(tree) = above {
            if self.trees.contains(tree) {
                return true;
            }
            above = tree.split_once('.').map(|(_, rest)| rest);
        }
        false
    }

    /// As they are written, in order.
    pub fn texts(&self) -> Vec<String> {
        let trees = self.trees.iter().map(|tree| format!("*.{tree}"));
        let mut texts: Vec<String> = self.exact.iter().cloned().chain(trees).collect();
        texts.sort();
        texts
    }
}

impl FromIterator<Domain> for Domains {
    fn from_iter<T: IntoIterator<Item = Domain>>(list: T) -> Self {
        let mut domains = Self::default();
        for domain in list {
            match domain {
                Domain::Exact(name) => domains.exact.insert(name),
                Domain::Tree(name) => domains.trees.insert(name),
            };
        }
        domains
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
