//! Headers of requests and answers that pass through a preview: the server inside believes that it is asked by a browser on
//! its own machine, and the browser stays on the public host.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{COOKIE, PLAIN_COOKIE};

/// Said by callers for parts of the platform that believe them; nobody here does, and nobody inside shall.
const INTERNAL: [&str; 4] = ["x-sandbox-id", "x-exposure-port", "x-internal-token", "x-team-id"];

/// Whether a header, in lower case, is not passed on to the server inside.
pub fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name) || name.starts_with("x-sandbox0-")
}

/// The value of `Cookie` without those of previews; `None` when none of it is left.
pub fn cookies_without_ours(cookies: &[u8]) -> Option<Vec<u8>> {
    let others: Vec<&[u8]> = cookies.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|cookie| !cookie.is_empty() && !is_ours(cookie)).collect();
    (!others.is_empty()).then(|| others.join(&b"; "[..]))
}

/// The value of a cookie in the value of `Cookie`.
pub fn cookie<'a>(cookies: &'a str, name: &str) -> Option<&'a str> {
    cookies.split(';').find_map(|cookie| cookie.trim().strip_prefix(name)?.strip_prefix('='))
}

/// A `Set-Cookie` as it is passed on: for the public host alone, and kept by browsers also where the preview is shown within
/// another page. `None` for one that would replace ours.
pub fn set_cookie(cookie: &[u8]) -> Option<Vec<u8>> {
    let mut parts = cookie.split(|byte| *byte == b';');
    let pair = parts.next().unwrap_or_default();
    if is_ours(pair.trim_ascii()) {
        return None;
    }
    let ours = |attribute: &[u8]| {
        let name = attribute.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        [&b"domain"[..], b"secure", b"samesite", b"partitioned"].iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    let mut out = pair.to_vec();
    for attribute in parts.filter(|attribute| !attribute.trim_ascii().is_empty() && !ours(attribute)) {
        out.push(b';');
        out.extend_from_slice(attribute);
    }
    out.extend_from_slice(b"; Secure; SameSite=None; Partitioned");
    Some(out)
}

/// A `Location` that leads to the server inside, by a name that only it has, as one on the host that the browser is on.
/// `None` for all others, which are passed on as they are.
pub fn location(value: &str, port: u16) -> Option<String> {
    let (named, path) = on_own_machine(value)?;
    named.is_none_or(|named| named == port).then_some(path)
}

/// The same for who was asked by the public host, and so has no reason to think of its own machine: only where its port is named.
pub fn public_location(value: &str, port: u16) -> Option<String> {
    let (named, path) = on_own_machine(value)?;
    (named == Some(port)).then_some(path)
}

/// The port, if one is named, and the path of a URL that leads to the machine of whoever says it.
fn on_own_machine(value: &str) -> Option<(Option<u16>, String)> {
    // Browsers leave them out of a URL wherever they stand.
    let value = value.replace(['\t', '\n', '\r'], "");
    let value = value.trim();
    let rest = strip_scheme(value)?;
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, named) = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.contains(']') => (host, Some(digits.parse::<u16>().ok()?)),
        Some(_) | None => (authority, None),
    };
    if !is_own_machine(host) {
        return None;
    }
    let path = match path.as_bytes() {
        // Two of them would begin another host.
        [b'/' | b'\\', b'/' | b'\\', ..] => format!("/.{path}"),
        [b'/', ..] => path.to_owned(),
        [b'\\', ..] => format!("/{}", &path[1..]),
        _ => format!("/{path}"),
    };
    Some((named, path))
}

/// A `Content-Security-Policy` without what it says of pages around it; `None` when nothing is left.
pub fn policy(value: &str) -> Option<String> {
    // Several policies may stand in one header.
    let policies = value.split(',').filter_map(|policy| {
        let kept: Vec<&str> = policy
            .split(';')
            .map(str::trim)
            .filter(|directive| directive.split_ascii_whitespace().next().is_some_and(|name| !name.eq_ignore_ascii_case("frame-ancestors")))
            .collect();
        (!kept.is_empty()).then(|| kept.join("; "))
    });
    let policies: Vec<String> = policies.collect();
    (!policies.is_empty()).then(|| policies.join(", "))
}

/// Whether an `Origin` is that of the public host itself.
pub fn is_own_origin(origin: &str, host: &str) -> bool {
    strip_scheme(origin).is_some_and(|rest| rest.eq_ignore_ascii_case(host))
}

/// What follows `http:`, `https:` or no scheme at all, and the slashes.
fn strip_scheme(url: &str) -> Option<&str> {
    let lower = url.get(..8).unwrap_or(url).to_ascii_lowercase();
    let length = ["https://", "http://", "//"].into_iter().find(|scheme| lower.starts_with(scheme))?.len();
    url.get(length..)
}

/// Names of the machine that a program is on.
fn is_own_machine(host: &str) -> bool {
    let v6 = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).and_then(|text| text.parse::<Ipv6Addr>().ok());
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|addr| addr.is_loopback() || addr.is_unspecified())
        || v6.is_some_and(|addr| addr.is_loopback() || addr.is_unspecified())
}

fn is_ours(cookie: &[u8]) -> bool {
    let name = cookie.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
    // The prefix of its name is read without regard to case by some browsers.
    name.eq_ignore_ascii_case(COOKIE.as_bytes()) || name == PLAIN_COOKIE.as_bytes()
}
