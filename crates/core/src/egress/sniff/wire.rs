//! Protocols that a few fixed bytes tell apart.
use super::{Named, Reading};

const HEADER_BYTES: usize = 12;
const QUESTION_BYTES_MAX: usize = 512;

/// Compares as far as there are bytes.
fn literal(bytes: &[u8], want: &[u8]) -> Reading {
    let len = bytes.len().min(want.len());
    match bytes[..len] == want[..len] {
        true if len == want.len() => Reading::Yes(Named::Absent),
        true => Reading::More,
        false => Reading::No,
    }
}

pub(super) fn ssh(bytes: &[u8]) -> Reading {
    literal(bytes, b"SSH-")
}

pub(super) fn amqp(bytes: &[u8]) -> Reading {
    literal(bytes, b"AMQP")
}

/// CONNECT: a type, a length of one to four bytes, the protocol's name.
pub(super) fn mqtt(bytes: &[u8]) -> Reading {
    match bytes.first() {
        None => return Reading::More,
        Some(0x10) => {}
        Some(_) => return Reading::No,
    }
    let continued = bytes[1..].iter().take_while(|byte| **byte & 0x80 != 0).count();
    if continued > 3 {
        return Reading::No;
    }
    let name = bytes.get(2 + continued..).unwrap_or_default();
    match literal(name, b"\0\x04MQTT") {
        Reading::No => literal(name, b"\0\x06MQIsdp"),
        other => other,
    }
}

/// An array of bulk strings: `*2\r\n$4\r\n`.
pub(super) fn redis(bytes: &[u8]) -> Reading {
    match bytes.first() {
        None => return Reading::More,
        Some(b'*') => {}
        Some(_) => return Reading::No,
    }
    let digits = bytes[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits > 7 {
        return Reading::No;
    }
    match bytes.get(1 + digits) {
        None => Reading::More,
        Some(_) if digits == 0 => Reading::No,
        Some(_) => literal(&bytes[1 + digits..], b"\r\n$"),
    }
}

/// The header of a message (little endian): length, id, id of what it answers (0), and a client's operation.
pub(super) fn mongodb(bytes: &[u8]) -> Reading {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    if word(0).is_some_and(|len| !(16..48 << 20).contains(&len)) || word(8).is_some_and(|to| to != 0) {
        return Reading::No;
    }
    match word(12) {
        None => Reading::More,
        Some(2004 | 2012 | 2013) => Reading::Yes(Named::Absent),
        Some(_) => Reading::No,
    }
}

/// The greeting: version, count, methods.
pub(super) fn socks5(bytes: &[u8]) -> Reading {
    match bytes {
        [] | [5] => Reading::More,
        [5, count, methods @ ..] if *count > 0 && methods.len() <= usize::from(*count) => {
            if methods.len() < usize::from(*count) {
                Reading::More
            } else {
                Reading::Yes(Named::Absent)
            }
        }
        _ => Reading::No,
    }
}

/// A question with its length before it.
pub(super) fn dns(bytes: &[u8]) -> Reading {
    let Some(len) = bytes.first_chunk().copied().map(u16::from_be_bytes) else {
        return Reading::More;
    };
    // The shortest name is one byte and the longest 255, its type and class are four, and options are few.
    if !(HEADER_BYTES + 5..=QUESTION_BYTES_MAX).contains(&usize::from(len)) {
        return Reading::No;
    }
    let message = &bytes[2..];
    match message.first_chunk::<HEADER_BYTES>() {
        None if message.get(2).is_some_and(|flags| flags & 0xf8 != 0) => Reading::No,
        None => Reading::More,
        Some(header) if is_question_header(header) => Reading::Yes(Named::Absent),
        Some(_) => Reading::No,
    }
}

pub(super) fn is_dns_question(datagram: &[u8]) -> bool {
    datagram.len() >= 17 && datagram.first_chunk().is_some_and(is_question_header)
}

/// A standard query with one question and no answers.
fn is_question_header(header: &[u8; 12]) -> bool {
    header[2] & 0xf8 == 0 && header[4..8] == [0, 1, 0, 0]
}
