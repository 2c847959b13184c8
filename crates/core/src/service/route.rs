//! Which route a path takes, and what the service is asked for then.
//!
//! Paths are compared as most servers read them: percent-decoded, without parameters, with runs of slashes as one. A route that asks for a
//! credential could be gone around by `/%61dmin` or `//admin` otherwise. What is sent on is the path as it came.

use super::{Route, Service};

/// A route and the path that its service is to be asked for, without the query.
#[derive(Debug, PartialEq)]
pub struct Matched<'a> {
    pub service: &'a Service,
    pub route: &'a Route,
    pub path: String,
}

/// The public route for a path on a port: the longest prefix of all services there, the first of equal ones. The method
/// takes no part in it.
pub fn matching<'a>(services: impl IntoIterator<Item = &'a Service>, port: u16, path: &str) -> Option<Matched<'a>> {
    let read = Read::new(path);
    let mut best: Option<(&Service, &Route, usize)> = None;
    for service in services.into_iter().filter(|service| service.port == port && service.ingress.public) {
        for route in &service.ingress.routes {
            let prefix = Read::new(&route.path_prefix);
            if read.is_below(&prefix) && best.is_none_or(|(_, _, length)| prefix.trimmed() > length) {
                best = Some((service, route, prefix.trimmed()));
            }
        }
    }
    let (service, route, length) = best?;
    let path = match &route.rewrite_prefix {
        None => path.to_owned(),
        Some(rewrite) => join(rewrite, &path[read.ends.get(length.wrapping_sub(1)).copied().unwrap_or(0)..]),
    };
    Some(Matched { service, route, path })
}

/// Why no prefix could be relied on for a path, in whatever spelling; none for a path that all servers read alike.
pub fn unclear(path: &str) -> Option<&'static str> {
    // With the parameters, which some servers leave out and others do not.
    let decoded = percent_decoded(path.as_bytes());
    let is_dots = |segment: &[u8]| segment.split(|byte| *byte == b';').next().is_some_and(|name| matches!(name, b"." | b".."));
    // Servers resolve such segments, some before and some after they decode.
    if decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(is_dots) {
        return Some("the path has segments `.` or `..`; send the path that they lead to");
    }
    // Where the parameter ends depends on when a server decodes.
    if path.split('/').filter_map(|segment| segment.split_once(';')).any(|(_, parameter)| percent_decoded(parameter.as_bytes()).contains(&b'/')) {
        return Some("the path has an encoded slash in a parameter");
    }
    // Some take it for a slash.
    if decoded.contains(&b'\\') {
        return Some("the path has a backslash; send a slash");
    }
    // Some end a path at a NUL or a line's end, or leave such characters out.
    if decoded.iter().any(u8::is_ascii_control) {
        return Some("the path has a control character");
    }
    None
}

/// A path as it is compared, without a slash at its end; None for one that servers read in different ways.
pub fn plain_path(path: &str) -> Option<String> {
    if !path.starts_with('/') || unclear(path).is_some() {
        return None;
    }
    let read = Read::new(path);
    let plain = String::from_utf8(read.bytes[..read.trimmed()].to_vec()).ok()?;
    Some(if plain.is_empty() { "/".to_owned() } else { plain })
}

/// A path as it is compared, and where in the text each of its bytes ends.
struct Read {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Read {
    fn new(path: &str) -> Self {
        let text = path.as_bytes();
        let mut read = Self { bytes: Vec::with_capacity(text.len()), ends: Vec::with_capacity(text.len()) };
        let mut at = 0;
        while at < text.len() {
            if text[at] == b';' {
                // Parameters of a segment (RFC 3986, 3.3): some servers look only at what stands before them.
                at += text[at..].iter().position(|byte| *byte == b'/').unwrap_or(text.len() - at);
                if let Some(end) = read.ends.last_mut() {
                    *end = at;
                }
                continue;
            }
            let (byte, length) = decoded(&text[at..]).unwrap_or((text[at], 1));
            at += length;
            match read.ends.last_mut() {
                Some(end) if byte == b'/' && read.bytes.last() == Some(&b'/') => *end = at,
                _ => {
                    read.bytes.push(byte);
                    read.ends.push(at);
                }
            }
        }
        read
    }

    /// Its length without a slash at the end.
    fn trimmed(&self) -> usize {
        self.bytes.strip_suffix(b"/").unwrap_or(&self.bytes).len()
    }

    /// Whether it is `prefix` or lies below it: `/api/x` is below `/api`, `/apix` is not.
    fn is_below(&self, prefix: &Self) -> bool {
        let length = prefix.trimmed();
        self.bytes.starts_with(&prefix.bytes[..length]) && matches!(self.bytes.get(length), None | Some(b'/'))
    }
}

/// A text without its `%41`s.
pub fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let (byte, length) = decoded(&text[at..]).unwrap_or((*byte, 1));
        plain.push(byte);
        at += length;
    }
    plain
}

/// `%41` and its length.
fn decoded(text: &[u8]) -> Option<(u8, usize)> {
    let &[b'%', high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok().map(|byte| (byte, 3))
}

fn join(prefix: &str, rest: &str) -> String {
    let prefix = prefix.trim_end_matches('/');
    if rest.is_empty() {
        return if prefix.is_empty() { "/".to_owned() } else { prefix.to_owned() };
    }
    let slash = if rest.starts_with('/') { "" } else { "/" };
    format!("{prefix}{slash}{rest}")
}
