//! The keys by which a server is known, from lines as in `known_hosts` (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
//!
//! Certificates of hosts are not looked at: a server shows its plain key, and a line of `@cert-authority` says nothing of that.

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac;

use crate::{KeyError, PublicKey, wire::Malformed};

/// Of a line that can be read.
const LINE_CHARS_MAX: usize = 16 << 10;
const DEFAULT_PORT: u16 = 22;
/// What a server may sign the exchange with, as far as we can tell.
const ALGORITHMS: [(&str, &str); 4] = [
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ssh-rsa", "rsa-sha2-512,rsa-sha2-256"),
];

/// Why a server's key is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostKeyError {
    #[error("no line of known_hosts that can be used is for the host")]
    NoneKnown,
    #[error("only lines of @cert-authority are for the host; certificates of hosts are not looked at, so it needs a line with its key")]
    OnlyAuthorities,
    #[error("the server's host key ({0}) is not the one of known_hosts")]
    Other(String),
    #[error("the server's host key ({0}) is revoked in known_hosts")]
    Revoked(String),
    #[error("line {0} of known_hosts cannot be read; it has to be hosts and a key as in a .pub file, after @revoked or @cert-authority or neither")]
    Unreadable(usize),
    #[error("the server's host key is of no kind that can be used")]
    Unusable,
}

/// What is known of one server's keys.
#[derive(Debug, Clone, Default)]
pub struct HostKeys {
    known: Vec<PublicKey>,
    revoked: Vec<PublicKey>,
    authorities: bool,
    /// The first line that cannot be read.
    unreadable: Option<usize>,
}

/// What the word at the beginning of a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    None,
    Revoked,
    Authority,
}

impl HostKeys {
    /// From lines, for a server that is called by any of these names or addresses.
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a str>, hosts: &[&str], port: u16) -> Self {
        let plain: Vec<String> = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let with_port: Vec<String> = plain.iter().filter(|_| port != DEFAULT_PORT).map(|host| format!("[{host}]:{port}")).collect();
        let mut keys = Self::default();
        let mut of_host = Vec::new();
        for (at, line) in lines.into_iter().flat_map(str::lines).enumerate() {
            let Ok(line) = split(line) else {
                keys.unreadable.get_or_insert(at + 1);
                continue;
            };
            let Some((marker, patterns, key)) = line else { continue };
            // What excludes a server by one of its names does so by all.
            let is_excluded = plain.iter().chain(&with_port).any(|name| excludes(patterns, name));
            let is_for = |names: &[String]| !is_excluded && names.iter().any(|name| includes(patterns, name));
            let (for_port, for_host) = (is_for(&with_port), is_for(&plain));
            // A revoked key is nobody's.
            if marker != Marker::Revoked && !for_port && !for_host {
                continue;
            }
            match (marker, PublicKey::from_line(key)) {
                (Marker::Authority, _) => keys.authorities = true,
                (Marker::None, Ok((key, _))) if for_port => keys.known.push(key),
                (Marker::None, Ok((key, _))) => of_host.push(key),
                (Marker::Revoked, Ok((key, _))) => keys.revoked.push(key),
                // No server can show us such a key.
                (Marker::None | Marker::Revoked, Err(KeyError::Kind(_) | KeyError::Bits(_))) => {}
                (Marker::None | Marker::Revoked, Err(KeyError::Unreadable | KeyError::Private)) => {
                    keys.unreadable.get_or_insert(at + 1);
                }
            }
        }
        // What is known of a host holds for each of its ports, unless there is more to know of the port.
        if keys.known.is_empty() {
            keys.known = of_host;
        }
        keys
    }

    /// Whether a text can be read as lines of `known_hosts`, and what line cannot: it has to have a key in at least one.
    ///
    /// # Errors
    /// The number of the line, from 1; 0 when all are empty or comments.
    pub fn check_lines(text: &str) -> Result<(), usize> {
        let mut any = false;
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let is_usable = matches!(split(line), Ok(Some((marker, _, key))) if marker == Marker::Authority || PublicKey::from_line(key).is_ok());
            if !is_usable {
                return Err(at + 1);
            }
            any = true;
        }
        if any { Ok(()) } else { Err(0) }
    }

    /// Whether a server could be known at all.
    ///
    /// # Errors
    /// It could not.
    pub fn any(&self) -> Result<(), HostKeyError> {
        match (self.unreadable, self.known.is_empty(), self.authorities) {
            // It might be the one that revokes the key.
            (Some(line), ..) => Err(HostKeyError::Unreadable(line)),
            (None, false, _) => Ok(()),
            (None, true, true) => Err(HostKeyError::OnlyAuthorities),
            (None, true, false) => Err(HostKeyError::NoneKnown),
        }
    }

    /// The key that a server has shown, when it is known.
    ///
    /// # Errors
    /// It is not, or must not be used.
    pub fn check(&self, blob: &[u8]) -> Result<PublicKey, HostKeyError> {
        self.any()?;
        let key = PublicKey::from_blob(blob).map_err(|_| HostKeyError::Unusable)?;
        if self.revoked.contains(&key) {
            return Err(HostKeyError::Revoked(key.fingerprint()));
        }
        if self.known.contains(&key) { Ok(key) } else { Err(HostKeyError::Other(key.fingerprint())) }
    }

    /// Names of algorithms for the exchange: those of keys that are known come first, so that a server that has several shows
    /// one of them.
    pub(crate) fn algorithms(&self) -> String {
        let is_known = |kind: &str| self.known.iter().any(|key| key.kind() == kind);
        let (first, then): (Vec<_>, Vec<_>) = ALGORITHMS.into_iter().partition(|(kind, _)| is_known(kind));
        let names: Vec<&str> = first.into_iter().chain(then).map(|(_, names)| names).collect();
        names.join(",")
    }
}

/// Marker, patterns and key of a line.
type Parts<'a> = (Marker, &'a str, &'a str);

/// The parts of a line; `None` when there is nothing in it.
fn split(line: &str) -> Result<Option<Parts<'_>>, Malformed> {
    fn word(text: &str) -> Result<(&str, &str), Malformed> {
        let (word, rest) = text.split_once([' ', '\t']).ok_or(Malformed)?;
        Ok((word, rest.trim_start()))
    }
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.len() > LINE_CHARS_MAX {
        return Err(Malformed);
    }
    let (first, rest) = word(line)?;
    let marker = match first {
        "@revoked" => Marker::Revoked,
        "@cert-authority" => Marker::Authority,
        _ if first.starts_with('@') => return Err(Malformed),
        _ => return Ok(Some((Marker::None, first, rest))),
    };
    let (patterns, key) = word(rest)?;
    Ok(Some((marker, patterns, key)))
}

/// Whether one of a list of patterns is for a name.
fn includes(patterns: &str, name: &str) -> bool {
    if patterns.starts_with("|1|") {
        return is_hash_of(patterns, name);
    }
    patterns.split(',').any(|pattern| !pattern.starts_with('!') && matches(pattern, name))
}

/// Whether one that is negated is.
fn excludes(patterns: &str, name: &str) -> bool {
    patterns.split(',').filter_map(|pattern| pattern.strip_prefix('!')).any(|pattern| matches(pattern, name))
}

/// `|1|salt|hash`, which hides the name.
fn is_hash_of(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('|').skip(2);
    let (Some(salt), Some(hash), None) = (parts.next(), parts.next(), parts.next()) else { return false };
    let (Ok(salt), Ok(hash)) = (BASE64_STANDARD.decode(salt), BASE64_STANDARD.decode(hash)) else { return false };
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt), name.as_bytes(), &hash).is_ok()
}

/// `*` is any characters and `?` any one. The name is in lower case.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut of) = (0, 0);
    // The latest star, and how much of the name it stands for.
    let mut star = None;
    while of < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(char) if *char == b'?' || char.eq_ignore_ascii_case(&name[of]) => (at, of) = (at + 1, of + 1),
            Some(_) | None => {
                let Some((star_at, from)) = star else { return false };
                star = Some((star_at, from + 1));
                (at, of) = (star_at + 1, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|char| *char == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGQhJPCh01tAbAxrqyNsbuyLSpWnBH+HvYbLdqXkSxK";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJSHy5347VVwUsuUsaGp4JNk9DOfcdd0Qp1NfoOR/n89";

    fn blob(line: &str) -> Vec<u8> {
        PublicKey::from_line(line).unwrap().0.blob().to_vec()
    }

    #[test]
    fn lines_that_say_nothing_are_found() {
        for (text, want) in [
            (format!("git.test {KEY}\n# more\n\n@revoked * {OTHER}"), Ok(())),
            ("garbage".to_owned(), Err(1)),
            (format!("git.test {KEY}\ngit.test ssh-ed25519 AAAA"), Err(2)),
            (format!("@other git.test {KEY}"), Err(1)),
            ("# nothing".to_owned(), Err(0)),
        ] {
            assert_eq!(HostKeys::check_lines(&text), want, "{text}");
        }
    }

    #[test]
    fn lines_are_for_the_hosts_that_they_name() {
        let hashed = "|1|lnu4q0ygZ0QUrfP3IEuvUwFg6n8=|dwaKvuKXJS8+s8lLQEGmfnJRxgc=";
        for (patterns, host, port, known) in [
            ("git.example", "git.example", 22, true),
            ("git.example", "GIT.example", 22, true),
            ("Git.Example", "git.example", 22, true),
            ("git.example", "other.example", 22, false),
            ("git.example", "git.example", 2222, true),
            ("[git.example]:2222", "git.example", 2222, true),
            ("[git.example]:2222", "git.example", 22, false),
            ("[git.example]:2222", "git.example", 2223, false),
            ("[git.example]:*", "git.example", 2223, true),
            ("a.example,git.example,192.0.2.1", "git.example", 22, true),
            ("*.example", "git.example", 22, true),
            ("*.example", "a.git.example", 22, true),
            ("*.example", "example", 22, false),
            ("g?t.example", "git.example", 22, true),
            ("g?t.example", "gt.example", 22, false),
            ("*a*b*", "xxaxxaxbx", 22, true),
            ("*,!git.example", "git.example", 22, false),
            ("*,!git.example", "hub.example", 22, true),
            ("!git.example", "hub.example", 22, false),
            ("*,!git.example", "git.example", 2222, false),
            ("*,![git.example]:2222", "git.example", 2222, false),
            ("*,![git.example]:2222", "git.example", 22, true),
            (hashed, "git.example", 22, true),
            (hashed, "hub.example", 22, false),
            ("|1|lnu4q0ygZ0QUrfP3IEuvUwFg6n8=", "git.example", 22, false),
            ("", "git.example", 22, false),
        ] {
            let keys = HostKeys::of([format!("{patterns} {KEY} comment").as_str()], &[host], port);
            assert_eq!(keys.check(&blob(KEY)).is_ok(), known, "{patterns} {host} {port}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_a_reason() {
        let check = |lines: &[&str]| HostKeys::of(lines.iter().copied(), &["git.example", "192.0.2.1"], 22).check(&blob(KEY)).map(|_| ());
        let fingerprint = PublicKey::from_line(KEY).unwrap().0.fingerprint();
        let ok = format!("git.example {KEY}");
        let other = format!("git.example {OTHER}");
        let revoked = format!("@revoked * {KEY}");
        let authority = format!("@cert-authority *.example {KEY}");
        assert_eq!(check(&[]), Err(HostKeyError::NoneKnown));
        assert_eq!(check(&["# git.example", "", "git.example ssh-dss AAAAB3NzaC1kc3M=", "hub.example ssh-ed25519 AAAA"]), Err(HostKeyError::NoneKnown));
        for wrong in ["git.example", "git.example ssh-ed25519 AAAA", "@who git.example x y", "@revoked x", "@revoked x y", &"x ".repeat(LINE_CHARS_MAX)] {
            assert_eq!(check(&[&ok, wrong]), Err(HostKeyError::Unreadable(2)), "{wrong:.40}");
        }
        let many = format!("{}@revoked x {KEY}", "# one more\n".repeat(5000));
        assert_eq!(check(&[&ok, &many]), Err(HostKeyError::Revoked(fingerprint.clone())));
        assert_eq!(check(&[&format!("*,!git.example {KEY}")]), Err(HostKeyError::NoneKnown), "not by its address either");
        assert_eq!(check(&[&authority]), Err(HostKeyError::OnlyAuthorities));
        assert_eq!(check(&[&other]), Err(HostKeyError::Other(fingerprint.clone())));
        assert_eq!(check(&[&ok, &revoked]), Err(HostKeyError::Revoked(fingerprint)));
        assert_eq!(check(&[&other, &authority, &ok]), Ok(()));
        assert_eq!(check(&[&format!("{other}\n{ok}\n")]), Ok(()), "a whole file in one text");
        assert_eq!(check(&[&format!("192.0.2.1\t{KEY}")]), Ok(()));
    }

    #[test]
    fn what_is_known_of_the_port_is_all_that_counts_there() {
        let lines = [format!("git.example {KEY}"), format!("[git.example]:2222 {OTHER}")];
        let check = |port| HostKeys::of(lines.iter().map(String::as_str), &["git.example"], port);
        assert!(check(22).check(&blob(KEY)).is_ok() && check(2223).check(&blob(KEY)).is_ok());
        assert!(check(2222).check(&blob(OTHER)).is_ok() && check(2222).check(&blob(KEY)).is_err() && check(22).check(&blob(OTHER)).is_err());
    }

    #[test]
    fn kinds_that_are_known_come_first() {
        let keys = |line: &str| HostKeys::of([line], &["a"], 22).algorithms();
        assert!(keys("").starts_with("ssh-ed25519,"));
        let point = crate::wire::Writer::default().string("ecdsa-sha2-nistp384").string("nistp384").string([4; 97]).done();
        assert!(keys(&format!("a ecdsa-sha2-nistp384 {}", BASE64_STANDARD.encode(point))).starts_with("ecdsa-sha2-nistp384,ssh-ed25519,"));
    }
}
