//! DNS messages (RFC 1035, 6891), as much of them as a forwarder needs. Everything read here comes from strangers.
use std::net::IpAddr;

pub(super) const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
pub(super) const TYPE_AAAA: u16 = 28;
/// SVCB and HTTPS (RFC 9460), by which a name says how it wants to be reached.
pub(super) const TYPES_SERVICE: std::ops::RangeInclusive<u16> = 64..=65;
const TYPE_OPT: u16 = 41;
/// IXFR, AXFR and the mailbox types before ANY: transfers and other questions for whole zones.
const TYPES_REFUSED: std::ops::RangeInclusive<u16> = 251..=255;
const CLASS_IN: u16 = 1;
const HEADER_BYTES: usize = 12;
const NAME_BYTES_MAX: usize = 255;
/// In one message; more than fit into 64 KiB usefully.
const RECORDS_MAX: u32 = 4096;
/// Aliases from the name that was asked for to the one that has addresses.
const ALIASES_MAX: usize = 16;
/// What we say that we take over UDP; fits into one packet everywhere.
const UDP_BYTES: u16 = 1232;
const UDP_BYTES_MIN: usize = 512;
/// Of answers that we make ourselves.
const LOCAL_TTL_S: u32 = 60;

const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_TRUNCATED: u16 = 0x0200;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
const FLAG_AUTHENTIC: u16 = 0x0020;
const FLAG_CHECKING_DISABLED: u16 = 0x0010;
const OPCODE_MASK: u16 = 0x7800;
const RCODE_MASK: u16 = 0x000f;
const RCODE_NX_DOMAIN: u16 = 3;
const EDNS_DNSSEC_OK: u16 = 0x8000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NotImp = 4,
    Refused = 5,
}

/// A question with one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    id: u16,
    flags: u16,
    /// As sent, not compressed.
    wire_name: Vec<u8>,
    /// Lower case, without the final dot.
    name: String,
    kind: u16,
    class: u16,
    /// The sender's UDP size and flags.
    edns: Option<(u16, u16)>,
}

/// What matters of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Of all A and AAAA records, wherever they stand.
    pub addresses: Vec<IpAddr>,
    /// Those of the name that was asked for, if by way of aliases.
    pub of_name: Vec<IpAddr>,
    /// How long they hold, in seconds.
    pub ttl_s: u32,
    /// The server knows that there is no such name; without it and without addresses, none of this kind.
    pub no_such_name: bool,
    /// It is neither an answer nor the word that there is none.
    pub failed: bool,
    pub truncated: bool,
}

impl Query {
    /// The question, or what to send back instead.
    pub fn parse(packet: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let mut reader = Reader { packet, at: 0 };
        let header = reader.header().ok_or(None)?;
        if header.flags & FLAG_RESPONSE != 0 {
            return Err(None);
        }
        let error = |rcode| Err(Some(bare_reply(header.id, header.flags, rcode)));
        if header.flags & OPCODE_MASK != 0 {
            return error(Rcode::NotImp);
        }
        if (header.questions, header.answers, header.authorities) != (1, 0, 0) {
            return error(Rcode::FormErr);
        }
        let Some((wire_name, kind, class)) = reader.question() else {
            return error(Rcode::FormErr);
        };
        let mut edns = None;
        for _ in 0..header.additionals {
            let Some(record) = reader.record() else {
                return error(Rcode::FormErr);
            };
            if record.kind == TYPE_OPT {
                edns = Some((record.class, record.ttl as u16));
            }
        }
        if TYPES_REFUSED.contains(&kind) || class != CLASS_IN {
            return error(Rcode::NotImp);
        }
        let name = text_of(&wire_name);
        Ok(Self { id: header.id, flags: header.flags, wire_name, name, kind, class, edns })
    }

    /// Asks for the addresses of a name. None when it is no name of a host.
    pub fn for_addresses(name: &str, ipv6: bool) -> Option<Self> {
        let mut wire_name = Vec::with_capacity(name.len() + 2);
        for label in name.split('.') {
            let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            if label.is_empty() || label.len() > 63 || !plain {
                return None;
            }
            wire_name.push(label.len() as u8);
            wire_name.extend_from_slice(label.as_bytes());
        }
        wire_name.push(0);
        if wire_name.len() > NAME_BYTES_MAX {
            return None;
        }
        let kind = if ipv6 { TYPE_AAAA } else { TYPE_A };
        Some(Self { id: 0, flags: 0, name: text_of(&wire_name), wire_name, kind, class: CLASS_IN, edns: Some((UDP_BYTES, 0)) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// The longest reply that the sender takes over UDP.
    pub fn udp_bytes_max(&self) -> usize {
        self.edns.map_or(UDP_BYTES_MIN, |(size, _)| usize::from(size.min(UDP_BYTES)).max(UDP_BYTES_MIN))
    }

    /// The question for a name server.
    pub fn upstream(&self, id: u16) -> Vec<u8> {
        // Not with checking disabled: the addresses are believed of whoever speaks to them by this name.
        let flags = FLAG_RECURSION_DESIRED | (self.flags & FLAG_AUTHENTIC);
        let mut out = header(id, flags, 1, 0, u16::from(self.edns.is_some()));
        self.write_question(&mut out);
        if let Some((_, flags)) = self.edns {
            write_opt(&mut out, flags & EDNS_DNSSEC_OK);
        }
        out
    }

    /// A reply of our own.
    pub fn reply(&self, rcode: Rcode, addresses: &[IpAddr]) -> Vec<u8> {
        let flags = self.reply_flags() | rcode as u16;
        let mut out = header(self.id, flags, 1, addresses.len() as u16, u16::from(self.edns.is_some()));
        self.write_question(&mut out);
        for addr in addresses {
            let (kind, bytes) = match addr {
                IpAddr::V4(v4) => (TYPE_A, v4.octets().to_vec()),
                IpAddr::V6(v6) => (TYPE_AAAA, v6.octets().to_vec()),
            };
            // The name is the question's.
            out.extend_from_slice(&[0xc0, HEADER_BYTES as u8]);
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&CLASS_IN.to_be_bytes());
            out.extend_from_slice(&LOCAL_TTL_S.to_be_bytes());
            out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            out.extend_from_slice(&bytes);
        }
        if self.edns.is_some() {
            write_opt(&mut out, 0);
        }
        out
    }

    /// "Ask again over TCP."
    pub fn truncated(&self) -> Vec<u8> {
        let mut out = header(self.id, self.reply_flags() | FLAG_TRUNCATED, 1, 0, 0);
        self.write_question(&mut out);
        out
    }

    /// A name server's answer, as the answer to this question.
    pub fn adopt(&self, mut packet: Vec<u8>) -> Vec<u8> {
        if let Some(id) = packet.get_mut(..2) {
            id.copy_from_slice(&self.id.to_be_bytes());
        }
        packet
    }

    /// Reads the answer to [`Self::upstream`]. None when it is for another question or broken anywhere.
    pub fn read_answer(&self, id: u16, packet: &[u8]) -> Option<Answer> {
        let mut reader = Reader { packet, at: 0 };
        let header = reader.header()?;
        if header.id != id || header.flags & FLAG_RESPONSE == 0 || header.flags & OPCODE_MASK != 0 || header.questions != 1 {
            return None;
        }
        let (name, kind, class) = reader.question()?;
        if !name.eq_ignore_ascii_case(&self.wire_name) || (kind, class) != (self.kind, self.class) {
            return None;
        }
        let truncated = header.flags & FLAG_TRUNCATED != 0;
        let records = u32::from(header.answers) + u32::from(header.authorities) + u32::from(header.additionals);
        if records > RECORDS_MAX {
            return None;
        }
        let rcode = header.flags & RCODE_MASK;
        let mut answer = Answer {
            addresses: Vec::new(),
            of_name: Vec::new(),
            ttl_s: u32::MAX,
            no_such_name: rcode == RCODE_NX_DOMAIN,
            failed: rcode != Rcode::NoError as u16 && rcode != RCODE_NX_DOMAIN,
            truncated,
        };
        let mut owned = Vec::new();
        for number in 0..records {
            let Some(record) = reader.record() else {
                // A cut answer may end anywhere; its reader asks again over TCP.
                return truncated.then_some(answer);
            };
            let said = match record.kind {
                TYPE_A => Said::Address(IpAddr::from(<[u8; 4]>::try_from(record.data).ok()?)),
                TYPE_AAAA => Said::Address(IpAddr::from(<[u8; 16]>::try_from(record.data).ok()?)),
                TYPE_CNAME => Said::Alias(Reader { packet, at: record.data_at }.name()?),
                _ => continue,
            };
            if let Said::Address(addr) = said {
                answer.addresses.push(addr);
            }
            if number < u32::from(header.answers) && record.class == self.class {
                owned.push((record.owner, record.ttl, said));
            }
        }
        self.follow(owned, &mut answer);
        // What follows the last record would pass unseen.
        (reader.at == packet.len()).then_some(answer)
    }

    /// From the name that was asked for through its aliases to its addresses.
    fn follow(&self, owned: Vec<(Vec<u8>, u32, Said)>, answer: &mut Answer) {
        let mut name = &self.wire_name;
        for _ in 0..=ALIASES_MAX {
            let mut alias = None;
            for (_, ttl, said) in owned.iter().filter(|(owner, ..)| owner.eq_ignore_ascii_case(name)) {
                answer.ttl_s = answer.ttl_s.min(*ttl);
                match said {
                    Said::Address(addr) => answer.of_name.push(*addr),
                    Said::Alias(target) => alias = Some(target),
                }
            }
            match alias {
                Some(target) if answer.of_name.is_empty() => name = target,
                Some(_) | None => return,
            }
        }
    }

    fn reply_flags(&self) -> u16 {
        let keep = FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED;
        FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | (self.flags & keep)
    }

    fn write_question(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.wire_name);
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&self.class.to_be_bytes());
    }
}

fn header(id: u16, flags: u16, questions: u16, answers: u16, additionals: u16) -> Vec<u8> {
    [id, flags, questions, answers, 0, additionals].iter().flat_map(|field| field.to_be_bytes()).collect()
}

fn bare_reply(id: u16, flags: u16, rcode: Rcode) -> Vec<u8> {
    let keep = OPCODE_MASK | FLAG_RECURSION_DESIRED;
    header(id, FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | (flags & keep) | rcode as u16, 0, 0, 0)
}

/// The root's name, OPT, our UDP size, version 0 with these flags, no options.
fn write_opt(out: &mut Vec<u8>, flags: u16) {
    out.push(0);
    for field in [TYPE_OPT, UDP_BYTES, 0, flags, 0] {
        out.extend_from_slice(&field.to_be_bytes());
    }
}

/// For rules and for the user: bytes that are no letters of a host name become `?`.
fn text_of(wire_name: &[u8]) -> String {
    let mut text = String::with_capacity(wire_name.len());
    let mut rest = wire_name;
    while let Some((&len, after)) = rest.split_first()
        && len > 0
        && let Some((label, after)) = after.split_at_checked(usize::from(len))
    {
        if !text.is_empty() {
            text.push('.');
        }
        let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        text.extend(label.iter().map(|b| if plain(b) { b.to_ascii_lowercase() as char } else { '?' }));
        rest = after;
    }
    text
}

struct Header {
    id: u16,
    flags: u16,
    questions: u16,
    answers: u16,
    authorities: u16,
    additionals: u16,
}

/// What a record says that is of use here.
enum Said {
    Address(IpAddr),
    Alias(Vec<u8>),
}

struct Record<'a> {
    /// Not compressed.
    owner: Vec<u8>,
    kind: u16,
    class: u16,
    ttl: u32,
    /// Where in the packet the data is.
    data_at: usize,
    data: &'a [u8],
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.packet.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn header(&mut self) -> Option<Header> {
        Some(Header { id: self.u16()?, flags: self.u16()?, questions: self.u16()?, answers: self.u16()?, authorities: self.u16()?, additionals: self.u16()? })
    }

    fn question(&mut self) -> Option<(Vec<u8>, u16, u16)> {
        Some((self.name()?, self.u16()?, self.u16()?))
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let owner = self.name()?;
        let (kind, class, ttl) = (self.u16()?, self.u16()?, self.u32()?);
        let len = usize::from(self.u16()?);
        let data_at = self.at;
        Some(Record { owner, kind, class, ttl, data_at, data: self.take(len)? })
    }

    /// The name here, without compression. A pointer must lead to before everything that this name has read so far, so
    /// there are no loops.
    fn name(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        let mut at = self.at;
        let mut end = None;
        let mut before = self.at;
        loop {
            let len = *self.packet.get(at)?;
            match len {
                0 => {
                    name.push(0);
                    self.at = end.unwrap_or(at + 1);
                    return (name.len() <= NAME_BYTES_MAX).then_some(name);
                }
                1..=63 => {
                    let next = at + 1 + usize::from(len);
                    name.extend_from_slice(self.packet.get(at..next)?);
                    if name.len() >= NAME_BYTES_MAX {
                        return None;
                    }
                    at = next;
                }
                64..=191 => return None,
                192.. => {
                    let target = (usize::from(len & 0x3f) << 8) | usize::from(*self.packet.get(at + 1)?);
                    if target >= before {
                        return None;
                    }
                    end.get_or_insert(at + 2);
                    before = target;
                    at = target;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
