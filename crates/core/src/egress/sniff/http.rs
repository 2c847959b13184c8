//! The head of a request of HTTP/1, and the greeting of HTTP/2.
//!
//! What some servers take for a request counts as one, also where the standard does not: blank lines before it, line
//! feeds alone, no version. The proxy that reads it after this is stricter.
use super::{Named, Reading};
use crate::egress::host_of_authority;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A longer first line is not waited for.
const LINE_BYTES_MAX: usize = 8 << 10;

pub(super) fn read(bytes: &[u8]) -> Reading {
    let head = without_blanks(bytes);
    let len = head.len().min(PREFACE.len());
    if head[..len] == PREFACE[..len] {
        return if len == PREFACE.len() { Reading::Yes(Named::Later) } else { Reading::More };
    }
    if !is_begun(bytes) {
        // A method may still become one.
        return if head.len() <= LINE_BYTES_MAX && head.iter().all(|byte| is_token(*byte)) { Reading::More } else { Reading::No };
    }
    let Some((line, rest)) = split_line(head) else {
        return if head.len() <= LINE_BYTES_MAX { Reading::More } else { Reading::Yes(Named::Hidden) };
    };
    // Who the connection is from, for servers behind a balancer; a request or a hello follows.
    if line.starts_with(b"PROXY ") {
        return Reading::Yes(Named::Hidden);
    }
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version, more) = (words.next(), words.next(), words.next(), words.next());
    let is_plain = head.len() == bytes.trim_ascii_start().len() && !line.iter().any(|byte| is_blank(*byte) && *byte != b' ') && more.is_none();
    match version {
        Some(version) if is_plain && is_version(version) && method.is_some_and(|method| !method.is_empty()) => {}
        // As before HTTP/1.0.
        None if target.is_some_and(|target| target.starts_with(b"/")) => return Reading::Yes(Named::Absent),
        // Some servers split the line at other white space, too, and so at other places.
        _ if line.split(|byte| is_blank(*byte)).skip(1).any(is_version) => return Reading::Yes(Named::Hidden),
        _ => return Reading::No,
    }
    let mut rest = rest;
    let mut hosts = Vec::new();
    loop {
        let Some((line, after)) = split_line(rest) else {
            return Reading::More;
        };
        if line.is_empty() {
            break;
        }
        // A folded line continues the one before: whatever that was, readers differ about it.
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            hosts.push(None);
        }
        if let Some(colon) = line.iter().position(|byte| *byte == b':')
            && line[..colon].trim_ascii().eq_ignore_ascii_case(b"host")
        {
            hosts.push(std::str::from_utf8(line[colon + 1..].trim_ascii()).ok());
        }
        rest = after;
    }
    if let Some(authority) = target.and_then(authority_of) {
        hosts.push(Some(authority));
    }
    Reading::Yes(named(&hosts))
}

/// All that is said of the host has to be the same.
fn named(hosts: &[Option<&str>]) -> Named {
    let mut names = hosts.iter().map(|host| host.and_then(host_of_authority).map(|(host, _)| host));
    let Some(first) = names.next() else {
        return Named::Absent;
    };
    match first {
        Some(first) if names.all(|other| other.as_ref() == Some(&first)) => first.map_or(Named::Absent, Named::Name),
        _ => Named::Hidden,
    }
}

/// The host in a target such as `http://example.com/x`. Not that of CONNECT: it is not whom the request goes to.
fn authority_of(target: &[u8]) -> Option<&str> {
    let (_, rest) = std::str::from_utf8(target).ok()?.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(authority.rsplit('@').next().unwrap_or(authority))
}

/// Whether these begin like a request: a method and white space.
pub(super) fn is_begun(bytes: &[u8]) -> bool {
    let head = without_blanks(bytes);
    let method = head.iter().take_while(|byte| is_token(**byte)).count();
    method > 0 && head.get(method).is_some_and(|byte| is_blank(*byte))
}

fn is_version(word: &[u8]) -> bool {
    word.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"HTTP/"))
}

fn without_blanks(bytes: &[u8]) -> &[u8] {
    let blank = bytes.iter().take_while(|byte| is_blank(**byte) || **byte == b'\n').count();
    &bytes[blank..]
}

/// All that some language takes for white space, but for the line feed.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c | 0x1c..=0x1f | 0x85 | 0xa0)
}

/// A line without its end, and what follows.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &bytes[end + 1..]))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
