//! QUIC as far as a bystander reads it: the ClientHello in a client's first packets (RFC 9000, RFC 9001; version 2 is
//! RFC 9369).
//!
//! Those packets are encrypted with keys that follow from an id in their header. What we read has to be what the
//! server will read, so everything that a server could take differently is [`Step::Hidden`] or [`Step::Drop`]: bytes
//! that are said twice and not alike, datagrams that are too small for a server to look at, packets that no key opens.
use ring::aead::quic::{AES_128, HeaderProtectionKey};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

/// A ClientHello that is longer is not read. With post-quantum keys they are about 2 KiB.
const HELLO_BYTES_MAX: usize = 8 << 10;
/// Connections that are remembered of one flow; clients may use one socket for several.
const CONNECTIONS_MAX: usize = 4;
/// Packets in one datagram; a client's first has three at most.
const PACKETS_MAX: usize = 8;
/// Servers drop an Initial in a smaller datagram (RFC 9000, 14.1).
const INITIAL_DATAGRAM_BYTES_MIN: usize = 1200;
/// RFC 9000, 17.2.
const CONNECTION_ID_BYTES_MAX: usize = 20;
const SAMPLE_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const LONG_HEADER: u8 = 0x80;
const FIXED_BIT: u8 = 0x40;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const HANDSHAKE_HEADER_BYTES: usize = 4;

/// What a datagram of a client tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// It is nothing that begins a connection.
    Pass,
    /// A whole ClientHello, as a handshake message of TLS.
    Hello(Vec<u8>),
    /// A connection begins, and more has to come.
    More,
    /// A connection begins, and to whom cannot be read.
    Hidden,
    /// No server should take it.
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// What was read of one flow's connections.
#[derive(Default)]
pub(super) struct Reader {
    connections: Vec<Connection>,
}

struct Connection {
    version: Version,
    /// The id that the client made up for the server.
    id: Vec<u8>,
    keys: Keys,
    largest_packet: Option<u64>,
    /// The bytes of the CRYPTO stream that were seen.
    stream: Vec<Option<u8>>,
    is_told: bool,
}

/// True when a datagram of a client may belong to the begin of a connection: a long header of a version that we know,
/// or one that looks like an Initial of another version.
pub(super) fn may_begin(datagram: &[u8]) -> bool {
    let Some((first, version)) = head(datagram) else { return false };
    Version::of(version).is_some() || (first & FIXED_BIT != 0 && version != 0 && datagram.len() >= INITIAL_DATAGRAM_BYTES_MIN)
}

fn head(datagram: &[u8]) -> Option<(u8, u32)> {
    let head = datagram.get(..5)?;
    (head[0] & LONG_HEADER != 0).then(|| (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]])))
}

impl Reader {
    /// Reads a datagram of the client.
    pub fn read(&mut self, datagram: &[u8]) -> Step {
        if !may_begin(datagram) {
            return Step::Pass;
        }
        let mut rest = datagram;
        let mut hello = None;
        let mut more = self.is_waiting();
        // Behind the packets may be anything (RFC 9000, 12.2).
        for at in 0.. {
            let Some((_, version)) = head(rest) else { break };
            let Some(version) = Version::of(version) else {
                if at == 0 {
                    return Step::Hidden;
                }
                break;
            };
            let Some(packet) = Packet::parse(version, rest) else { return Step::Drop };
            rest = &rest[packet.len..];
            if at == PACKETS_MAX {
                return Step::Hidden;
            }
            if !packet.is_initial {
                // Data before the handshake or after it; it cannot come first but by chance.
                more |= self.connections.is_empty();
                continue;
            }
            if datagram.len() < INITIAL_DATAGRAM_BYTES_MIN {
                return Step::Drop;
            }
            match self.read_initial(&packet) {
                Step::Pass => {}
                Step::More => more = true,
                Step::Hello(first) if hello.is_none() => hello = Some(first),
                Step::Hello(_) | Step::Hidden => return Step::Hidden,
                Step::Drop => return Step::Drop,
            }
        }
        match hello {
            Some(hello) if !self.is_waiting() => Step::Hello(hello),
            // Two connections begin side by side: whom the datagrams are for cannot be told apart.
            Some(_) => Step::Hidden,
            None if more && (self.is_waiting() || self.connections.is_empty()) => Step::More,
            None => Step::Pass,
        }
    }

    /// A connection has begun and its ClientHello is not complete.
    pub fn is_waiting(&self) -> bool {
        self.connections.iter().any(|connection| !connection.is_told)
    }

    fn read_initial(&mut self, packet: &Packet<'_>) -> Step {
        let by_id = self.connections.iter().position(|known| known.version == packet.version && known.id == packet.id);
        if let Some(index) = by_id {
            let connection = &mut self.connections[index];
            return packet.open(&connection.keys, connection.largest_packet).map_or(Step::Drop, |opened| connection.add(&opened));
        }
        let Ok(keys) = Keys::new(packet.version, packet.id) else { return Step::Hidden };
        if let Some(opened) = packet.open(&keys, None) {
            // The oldest that is done; a client that begins more at once than we remember cannot be followed.
            if self.connections.len() >= CONNECTIONS_MAX {
                let Some(oldest) = self.connections.iter().position(|known| known.is_told) else { return Step::Hidden };
                self.connections.remove(oldest);
            }
            let mut connection = Connection { version: packet.version, id: packet.id.to_vec(), keys, largest_packet: None, stream: Vec::new(), is_told: false };
            let step = connection.add(&opened);
            self.connections.push(connection);
            return step;
        }
        // The server has answered and given the connection an id of its own.
        for connection in &mut self.connections {
            // A version may be changed on the way, the keys then are others from the same id.
            let changed = (connection.version != packet.version).then(|| Keys::new(packet.version, &connection.id).ok()).flatten();
            let keys = changed.as_ref().unwrap_or(&connection.keys);
            if let Some(opened) = packet.open(keys, connection.largest_packet) {
                return connection.add(&opened);
            }
        }
        Step::Drop
    }
}

impl Connection {
    fn add(&mut self, opened: &Opened) -> Step {
        self.largest_packet = self.largest_packet.max(Some(opened.number));
        if self.add_frames(&opened.payload).is_none() {
            return Step::Hidden;
        }
        if self.is_told {
            return Step::Pass;
        }
        let known: Vec<u8> = self.stream.iter().map_while(|byte| *byte).collect();
        let Some(header) = known.get(..HANDSHAKE_HEADER_BYTES) else { return Step::More };
        let len = HANDSHAKE_HEADER_BYTES + u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        if header[0] != HANDSHAKE_CLIENT_HELLO || len > HELLO_BYTES_MAX {
            return Step::Hidden;
        }
        match known.get(..len) {
            Some(hello) => {
                self.is_told = true;
                self.stream.shrink_to_fit();
                Step::Hello(hello.to_vec())
            }
            None => Step::More,
        }
    }

    /// None for what no client sends in an Initial, or what contradicts what was sent before.
    fn add_frames(&mut self, payload: &[u8]) -> Option<()> {
        let mut rest = Input(payload);
        while !rest.0.is_empty() {
            match rest.varint()? {
                // PADDING, PING
                0 | 1 => {}
                // ACK, with or without counts of congestion marks
                kind @ (2 | 3) => {
                    rest.varint()?;
                    rest.varint()?;
                    let ranges = rest.varint()?;
                    rest.varint()?;
                    for _ in 0..ranges {
                        rest.varint()?;
                        rest.varint()?;
                    }
                    for _ in 0..if kind == 3 { 3 } else { 0 } {
                        rest.varint()?;
                    }
                }
                // CRYPTO
                6 => {
                    let offset = usize::try_from(rest.varint()?).ok()?;
                    let len = usize::try_from(rest.varint()?).ok()?;
                    self.add_crypto(offset, rest.take(len)?)?;
                }
                // CONNECTION_CLOSE
                0x1c => {
                    rest.varint()?;
                    rest.varint()?;
                    let len = usize::try_from(rest.varint()?).ok()?;
                    rest.take(len)?;
                }
                _ => return None,
            }
        }
        Some(())
    }

    fn add_crypto(&mut self, offset: usize, bytes: &[u8]) -> Option<()> {
        let end = offset.checked_add(bytes.len()).filter(|end| *end <= HELLO_BYTES_MAX)?;
        if self.stream.len() < end {
            self.stream.resize(end, None);
        }
        for (place, byte) in self.stream[offset..end].iter_mut().zip(bytes) {
            if *place.get_or_insert(*byte) != *byte {
                return None;
            }
        }
        Some(())
    }
}

impl Version {
    fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            0x6b33_43cf => Some(Self::V2),
            _ => None,
        }
    }

    /// RFC 9001, 5.2; RFC 9369, 3.3.1.
    fn salt(self) -> [u8; 20] {
        match self {
            Self::V1 => [0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a],
            Self::V2 => [0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9],
        }
    }

    /// Of key, initialization vector and header protection.
    fn labels(self) -> [&'static str; 3] {
        match self {
            Self::V1 => ["quic key", "quic iv", "quic hp"],
            Self::V2 => ["quicv2 key", "quicv2 iv", "quicv2 hp"],
        }
    }

    fn initial_type(self) -> u8 {
        match self {
            Self::V1 => 0,
            Self::V2 => 1,
        }
    }

    /// The type that has no length field, and is the server's alone.
    fn retry_type(self) -> u8 {
        match self {
            Self::V1 => 3,
            Self::V2 => 0,
        }
    }
}

/// A packet with a long header, still protected.
struct Packet<'a> {
    version: Version,
    is_initial: bool,
    id: &'a [u8],
    bytes: &'a [u8],
    /// Where the packet number begins.
    number_at: usize,
    len: usize,
}

struct Opened {
    number: u64,
    payload: Vec<u8>,
}

impl<'a> Packet<'a> {
    fn parse(version: Version, bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Input(bytes);
        let kind = (rest.take(1)?[0] >> 4) & 3;
        rest.take(4)?;
        let id_len = usize::from(rest.take(1)?[0]);
        let id = rest.take(id_len)?;
        let source_len = usize::from(rest.take(1)?[0]);
        rest.take(source_len)?;
        if id_len > CONNECTION_ID_BYTES_MAX || source_len > CONNECTION_ID_BYTES_MAX || kind == version.retry_type() {
            return None;
        }
        let is_initial = kind == version.initial_type();
        if is_initial {
            let token_len = usize::try_from(rest.varint()?).ok()?;
            rest.take(token_len)?;
        }
        let payload_len = usize::try_from(rest.varint()?).ok()?;
        let number_at = bytes.len() - rest.0.len();
        rest.take(payload_len)?;
        Some(Self { version, is_initial, id, bytes, number_at, len: number_at + payload_len })
    }

    /// Removes the protection (RFC 9001, 5.4) when the keys are the right ones.
    fn open(&self, keys: &Keys, largest: Option<u64>) -> Option<Opened> {
        let mut bytes = self.bytes[..self.len].to_vec();
        let sample = bytes.get(self.number_at + 4..self.number_at + 4 + SAMPLE_BYTES)?;
        let mask = keys.header.new_mask(sample).ok()?;
        bytes[0] ^= mask[0] & 0x0f;
        let number_len = usize::from(bytes[0] & 3) + 1;
        let mut cut = 0;
        for (byte, mask) in bytes[self.number_at..self.number_at + number_len].iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
            cut = cut << 8 | u64::from(*byte);
        }
        let number = whole_number(largest, cut, number_len);
        let mut nonce = keys.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        let mut payload = bytes.split_off(self.number_at + number_len);
        keys.payload.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(&bytes), &mut payload).ok()?;
        payload.truncate(payload.len() - TAG_BYTES);
        Some(Opened { number, payload })
    }
}

/// The packet number of which the low bytes were sent (RFC 9000, A.3).
fn whole_number(largest: Option<u64>, cut: u64, len: usize) -> u64 {
    let expected = largest.map_or(0, |largest| largest + 1);
    let window = 1 << (8 * len);
    let candidate = (expected & !(window - 1)) | cut;
    if candidate + window / 2 <= expected && candidate < (1 << 62) - window {
        candidate + window
    } else if candidate > expected + window / 2 && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

/// Of the client, for Initial packets.
struct Keys {
    payload: LessSafeKey,
    iv: [u8; NONCE_LEN],
    header: HeaderProtectionKey,
}

impl Keys {
    /// RFC 9001, 5.2.
    fn new(version: Version, id: &[u8]) -> Result<Self, Unspecified> {
        let initial = Salt::new(HKDF_SHA256, &version.salt()).extract(id);
        let client = Prk::new_less_safe(HKDF_SHA256, &expand::<32>(&initial, "client in")?);
        let [key, iv, header] = version.labels();
        Ok(Self {
            payload: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &expand::<16>(&client, key)?)?),
            iv: expand(&client, iv)?,
            header: HeaderProtectionKey::new(&AES_128, &expand::<16>(&client, header)?)?,
        })
    }
}

/// HKDF-Expand-Label of TLS 1.3 without a context (RFC 8446, 7.1).
fn expand<const LEN: usize>(secret: &Prk, label: &str) -> Result<[u8; LEN], Unspecified> {
    struct Len(usize);
    impl KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    const PREFIX: &str = "tls13 ";
    let head = [0, LEN as u8, (PREFIX.len() + label.len()) as u8];
    let mut out = [0; LEN];
    secret.expand(&[&head, PREFIX.as_bytes(), label.as_bytes(), &[0]], Len(LEN))?.fill(&mut out)?;
    Ok(out)
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// RFC 9000, 16.
    fn varint(&mut self) -> Option<u64> {
        let first = self.take(1)?[0];
        let more = self.take((1 << (first >> 6)) - 1)?;
        Some(more.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
pub(super) mod tests;
