//! The hello of a TLS client (RFC 8446, 4.1.2).
use super::{Named, Reading};
use crate::egress::normal_name;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Of one record's payload.
const RECORD_BYTES_MAX: usize = 1 << 14;
const RECORD_HEADER_BYTES: usize = 5;
const HANDSHAKE_HEADER_BYTES: usize = 4;
const SERVER_NAME: u16 = 0;
/// draft-ietf-tls-esni; clients send it with random contents, too, when they know no key.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

pub(super) fn read(bytes: &[u8]) -> Reading {
    if !is_begun(bytes) {
        return if bytes.is_empty() { Reading::More } else { Reading::No };
    }
    // A hello may be cut into several records.
    let mut handshake = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(len) = hello_len(&handshake) {
            match len {
                None => return Reading::No,
                Some(len) if handshake.len() >= len => return Reading::Yes(client_hello(&handshake[..len])),
                Some(_) => {}
            }
        }
        let Some(header) = rest.first_chunk::<RECORD_HEADER_BYTES>() else {
            return if is_begun(rest) || rest.is_empty() { Reading::More } else { Reading::Yes(Named::Hidden) };
        };
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if !is_begun(rest) || len == 0 || len > RECORD_BYTES_MAX {
            return Reading::Yes(Named::Hidden);
        }
        let payload = &rest[RECORD_HEADER_BYTES..];
        handshake.extend_from_slice(&payload[..payload.len().min(len)]);
        if payload.len() < len {
            return match hello_len(&handshake) {
                Some(None) => Reading::No,
                _ => Reading::More,
            };
        }
        rest = &payload[len..];
    }
}

/// Whether these can be the first bytes of a handshake's record.
pub(super) fn is_begun(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes[0] == HANDSHAKE_RECORD && bytes.get(1).is_none_or(|major| *major == 3)
}

/// The length of the hello with its header, once it can be read; `Some(None)` when it is no hello.
fn hello_len(handshake: &[u8]) -> Option<Option<usize>> {
    let [kind, high, middle, low] = *handshake.first_chunk::<HANDSHAKE_HEADER_BYTES>()?;
    let len = u32::from_be_bytes([0, high, middle, low]) as usize;
    Some((kind == CLIENT_HELLO).then_some(len + HANDSHAKE_HEADER_BYTES))
}

/// The name in a whole hello, which begins with its handshake header.
pub fn client_hello(hello: &[u8]) -> Named {
    extensions(hello).unwrap_or(Named::Hidden)
}

fn extensions(hello: &[u8]) -> Option<Named> {
    let mut body = Bytes(hello.get(HANDSHAKE_HEADER_BYTES..)?);
    if hello_len(hello)?? != hello.len() {
        return None;
    }
    // Version and random; session id; cipher suites; compression methods.
    body.take(2 + 32)?;
    let session = body.byte()?;
    body.take(usize::from(session))?;
    let suites = body.word()?;
    body.take(usize::from(suites))?;
    let compressions = body.byte()?;
    body.take(usize::from(compressions))?;
    if body.0.is_empty() {
        return Some(Named::Absent);
    }
    let len = body.word()?;
    let mut extensions = Bytes(body.take(usize::from(len))?);
    if !body.0.is_empty() {
        return None;
    }
    let mut name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.word()?;
        let len = extensions.word()?;
        let value = extensions.take(usize::from(len))?;
        match kind {
            SERVER_NAME if name.is_none() => name = Some(server_name(value)?),
            SERVER_NAME | ENCRYPTED_CLIENT_HELLO => return None,
            _ => {}
        }
    }
    Some(name.map_or(Named::Absent, Named::Name))
}

/// The one host name of the extension (RFC 6066, 3).
fn server_name(value: &[u8]) -> Option<String> {
    let mut value = Bytes(value);
    if usize::from(value.word()?) != value.0.len() || value.byte()? != 0 {
        return None;
    }
    let len = value.word()?;
    let name = value.take(usize::from(len))?;
    if !value.0.is_empty() {
        return None;
    }
    normal_name(std::str::from_utf8(name).ok()?)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn word(&mut self) -> Option<u16> {
        self.take(2).map(|word| u16::from_be_bytes([word[0], word[1]]))
    }
}
