//! Packets of bytes and bytes of packets, without IO: what came goes into `input`, what is to go stands in `output`.
//!
//! Keys change at the first exchange and from then on when either side asks. While they do, messages of the layers above are
//! held, since none may be sent between our KEXINIT and our NEWKEYS. With the strict exchange, which all newer clients know,
//! nothing but the exchange is let in before the first keys, and the count of packets begins anew with each keys.

use std::{sync::Arc, time::Instant};

use bytes::{Buf, BytesMut};
use ring::rand::SystemRandom;

use crate::{
    HostKey, HostKeys, Settings, SshError,
    cipher::{Cipher, Opening, Sealing},
    exchange::{self, Agreed, Half, Said, Shared, Side},
    key,
    limits::{
        HELD_BYTES_MAX, IDENTIFICATION_BYTES_MAX, LINES_BEFORE_MAX, PACKET_BEFORE_BYTES_MAX, PACKET_BYTES_MAX, REKEY_AFTER, REKEY_AFTER_MIN, REKEY_BYTES,
        REKEY_BYTES_MIN, REKEY_WITHIN,
    },
    message,
    wire::{Reader, Writer},
};

const PACKET_BYTES_MIN: usize = 5;
/// Numbers of packets must not come again with the same keys.
const REKEY_PACKETS: u32 = 1 << 30;

/// Which side of the connection is ours, and what it has for that.
pub enum Role {
    Server(Arc<Settings>),
    Client { software: &'static str, known: HostKeys },
}

impl Role {
    fn side(&self) -> Side {
        match self {
            Self::Server(_) => Side::Server,
            Self::Client { .. } => Side::Client,
        }
    }

    fn other_side(&self) -> Side {
        match self {
            Self::Server(_) => Side::Client,
            Self::Client { .. } => Side::Server,
        }
    }
}

/// How far an exchange of keys is.
enum Exchange {
    Idle,
    /// Our KEXINIT is sent.
    Offered,
    /// The other side's KEXINIT is here too; a client has sent its half.
    Agreed {
        agreed: Agreed,
        half: Option<Box<Half>>,
    },
    /// Our NEWKEYS is sent; with this the other side's packets are opened after its own.
    Keyed(Opening),
}

pub struct Transport {
    role: Role,
    random: SystemRandom,
    pub input: BytesMut,
    pub output: BytesMut,
    said: Said,
    identified: bool,
    /// Lines that a server sent before it said what it is.
    lines_before: usize,
    /// The algorithms of signatures that a server takes, as it says.
    pub signatures: Option<String>,
    sealing: Sealing,
    opening: Opening,
    sent: u32,
    received: u32,
    bytes: (u64, u64),
    packets: u32,
    keyed_at: Instant,
    exchange: Exchange,
    /// When the exchange began that is going on, or was the last.
    offered_at: Instant,
    /// The hash of the first exchange.
    session: Option<Vec<u8>>,
    strict: bool,
    /// The first exchange is not over.
    fresh: bool,
    held: Vec<Vec<u8>>,
    held_bytes: usize,
    /// Packets may be long now.
    pub trusted: bool,
}

impl Transport {
    pub fn new(role: Role) -> Result<Self, SshError> {
        let software = match &role {
            Role::Server(settings) => settings.software,
            Role::Client { software, .. } => software,
        };
        let line = format!("SSH-2.0-{software}");
        let output = BytesMut::from(format!("{line}\r\n").as_bytes());
        let said = match role.side() {
            Side::Client => Said { client: line.into_bytes(), ..Said::default() },
            Side::Server => Said { server: line.into_bytes(), ..Said::default() },
        };
        let mut transport = Self {
            role,
            random: SystemRandom::new(),
            input: BytesMut::new(),
            output,
            said,
            identified: false,
            lines_before: 0,
            signatures: None,
            sealing: Sealing::Clear,
            opening: Opening::Clear,
            sent: 0,
            received: 0,
            bytes: (0, 0),
            packets: 0,
            keyed_at: Instant::now(),
            exchange: Exchange::Idle,
            offered_at: Instant::now(),
            session: None,
            strict: false,
            fresh: true,
            held: Vec::new(),
            held_bytes: 0,
            trusted: false,
        };
        transport.offer()?;
        Ok(transport)
    }

    /// The id of the session, once there is one.
    pub fn session_id(&self) -> &[u8] {
        self.session.as_deref().unwrap_or_default()
    }

    pub fn is_client(&self) -> bool {
        self.role.side() == Side::Client
    }

    /// Whether messages would be held now.
    pub fn is_exchanging(&self) -> bool {
        matches!(self.exchange, Exchange::Offered | Exchange::Agreed { .. })
    }

    /// Sends a message, or holds it until the new keys are there.
    pub fn send(&mut self, payload: &[u8]) -> Result<(), SshError> {
        let waits = |number: u8| number >= message::FIRST_ABOVE || matches!(number, message::EXT_INFO | message::SERVICE_REQUEST | message::SERVICE_ACCEPT);
        if self.is_exchanging() && payload.first().copied().is_some_and(waits) {
            self.held_bytes += payload.len();
            if self.held_bytes > HELD_BYTES_MAX {
                return Err(SshError::Protocol("too much is asked for while keys change"));
            }
            self.held.push(payload.to_vec());
            return Ok(());
        }
        self.put(payload)
    }

    fn put(&mut self, payload: &[u8]) -> Result<(), SshError> {
        self.sealing.seal(self.sent, payload, &self.random, &mut self.output)?;
        self.sent = self.sent.wrapping_add(1);
        self.packets = self.packets.saturating_add(1);
        self.bytes.1 += payload.len() as u64;
        Ok(())
    }

    /// So many bytes of the output have gone.
    pub fn wrote(&mut self, bytes: usize) {
        self.output.advance(bytes);
        if self.output.is_empty() && self.output.capacity() > crate::limits::OUTPUT_BYTES_MAX / 4 {
            self.output = BytesMut::new();
        }
    }

    /// Tells the other side why it is over.
    pub fn disconnect(&mut self, reason: u32, text: &str) {
        let message = Writer::message(message::DISCONNECT).u32(reason).string(text).string("").done();
        // Nothing can be done for one that cannot be told.
        let _ = self.put(&message);
    }

    /// Asks for new keys when the present ones have served long enough. What we are told meanwhile waits, so it has to end.
    pub fn renew(&mut self) -> Result<(), SshError> {
        if !matches!(self.exchange, Exchange::Idle) && self.offered_at.elapsed() >= REKEY_WITHIN {
            return Err(SshError::Protocol("an exchange of keys took too long"));
        }
        let worn = self.bytes.0.max(self.bytes.1) >= REKEY_BYTES || self.packets >= REKEY_PACKETS || self.keyed_at.elapsed() >= REKEY_AFTER;
        if worn && self.session.is_some() && matches!(self.exchange, Exchange::Idle) { self.offer() } else { Ok(()) }
    }

    pub fn offer(&mut self) -> Result<(), SshError> {
        let init = match &self.role {
            Role::Server(_) => exchange::offer(Side::Server, HostKey::kind(), &self.random)?,
            Role::Client { known, .. } => exchange::offer(Side::Client, &known.algorithms(), &self.random)?,
        };
        self.put(&init)?;
        *self.said.init(self.role.side()) = init;
        self.exchange = Exchange::Offered;
        self.offered_at = Instant::now();
        Ok(())
    }

    /// The next message for the layers above; `None` when more bytes are needed.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>, SshError> {
        if !self.identified && !self.identify()? {
            return Ok(None);
        }
        while let Some(payload) = self.unpack()? {
            if let Some(payload) = self.take(payload)? {
                return Ok(Some(payload));
            }
        }
        Ok(None)
    }

    /// Takes the line with which the other side says what it is. A server may say something else before.
    fn identify(&mut self) -> Result<bool, SshError> {
        loop {
            let Some(end) = self.input.iter().take(IDENTIFICATION_BYTES_MAX).position(|byte| *byte == b'\n') else {
                return if self.input.len() >= IDENTIFICATION_BYTES_MAX { Err(SshError::Protocol("it does not speak SSH")) } else { Ok(false) };
            };
            let line = self.input.split_to(end + 1);
            let line = line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\n")).unwrap_or(&line);
            if line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-") {
                *self.said.line(self.role.other_side()) = line.to_vec();
                self.identified = true;
                return Ok(true);
            }
            self.lines_before += 1;
            if !self.is_client() || line.starts_with(b"SSH-") || self.lines_before > LINES_BEFORE_MAX {
                return Err(SshError::Protocol("it does not speak SSH 2"));
            }
        }
    }

    fn unpack(&mut self) -> Result<Option<Vec<u8>>, SshError> {
        let Some(first) = self.input.first_chunk::<4>() else { return Ok(None) };
        let length = self.opening.length(self.received, *first);
        let max = if self.trusted { PACKET_BYTES_MAX } else { PACKET_BEFORE_BYTES_MAX };
        if !(PACKET_BYTES_MIN..=max).contains(&length) {
            return Err(SshError::Protocol("a packet is too long or too short"));
        }
        if !self.opening.is_aligned(length) {
            return Err(SshError::Protocol("a packet is no whole number of blocks"));
        }
        let whole = 4 + length + self.opening.tag_bytes();
        if self.input.len() < whole {
            self.input.reserve(whole - self.input.len());
            return Ok(None);
        }
        let payload = self.opening.open(self.received, &mut self.input[..whole])?;
        self.input.advance(whole);
        self.received = self.received.wrapping_add(1);
        self.bytes.0 += payload.len() as u64;
        Ok(Some(payload))
    }

    /// Does what is the transport's own to do, and hands on the rest.
    fn take(&mut self, payload: Vec<u8>) -> Result<Option<Vec<u8>>, SshError> {
        let number = payload.first().copied().unwrap_or_default();
        if message::KEX.contains(&number) && self.is_wrong_guess() {
            return Ok(None);
        }
        match number {
            message::KEXINIT => self.agree(payload).map(|()| None),
            message::KEX_ECDH_INIT if !self.is_client() => self.answer(&payload).map(|()| None),
            message::KEX_ECDH_REPLY if self.is_client() => self.finish(&payload).map(|()| None),
            message::NEWKEYS => self.rekey(&payload).map(|()| None),
            message::DISCONNECT => Err(SshError::Closed),
            // Without the strict exchange these may come at any time.
            message::IGNORE | message::DEBUG if self.fresh && !self.strict => Ok(None),
            _ if self.fresh => Err(SshError::Protocol("a message before the keys")),
            message::EXT_INFO if self.is_client() => self.extend(&payload).map(|()| None),
            message::IGNORE | message::UNIMPLEMENTED | message::DEBUG | message::EXT_INFO => Ok(None),
            number if number >= message::FIRST_ABOVE || matches!(number, message::SERVICE_REQUEST | message::SERVICE_ACCEPT) => match self.exchange {
                Exchange::Agreed { .. } | Exchange::Keyed(_) => Err(SshError::Protocol("a message while keys change")),
                Exchange::Idle | Exchange::Offered => Ok(Some(payload)),
            },
            _ => self.unimplemented().map(|()| None),
        }
    }

    /// Says that the last message is none that we know.
    pub fn unimplemented(&mut self) -> Result<(), SshError> {
        let unknown = Writer::message(message::UNIMPLEMENTED).u32(self.received.wrapping_sub(1)).done();
        self.send(&unknown)
    }

    /// Whether the other side may ask for new keys now: they cost more than most of what it can send.
    fn may_ask(&self) -> bool {
        let served = self.bytes.0.max(self.bytes.1) >= REKEY_BYTES_MIN || self.keyed_at.elapsed() >= REKEY_AFTER_MIN;
        self.trusted && served
    }

    fn agree(&mut self, init: Vec<u8>) -> Result<(), SshError> {
        match self.exchange {
            Exchange::Idle if !self.may_ask() => return Err(SshError::Protocol("new keys were asked for too soon")),
            Exchange::Idle => self.offer()?,
            Exchange::Offered => {}
            Exchange::Agreed { .. } | Exchange::Keyed(_) => return Err(SshError::Protocol("a key exchange within another")),
        }
        *self.said.init(self.role.other_side()) = init;
        let agreed = exchange::agree(&self.said, self.role.other_side())?;
        if self.session.is_none() {
            self.strict = agreed.strict;
            if self.strict && self.received != 1 {
                return Err(SshError::Protocol("the key exchange did not come first"));
            }
        }
        let half = match self.role.side() {
            Side::Client => Some(Box::new(Half::new(&agreed, &self.random)?)),
            Side::Server => None,
        };
        if let Some(half) = &half {
            self.put(&half.init())?;
        }
        self.exchange = Exchange::Agreed { agreed, half };
        Ok(())
    }

    /// Whether a message of the exchange was sent by a guess that was wrong, whatever method it is of.
    fn is_wrong_guess(&mut self) -> bool {
        let Exchange::Agreed { agreed, .. } = &mut self.exchange else { return false };
        std::mem::take(&mut agreed.skip_guess)
    }

    /// What was agreed on and our half of it.
    fn agreed(&mut self) -> Result<(Agreed, Option<Half>), SshError> {
        let Exchange::Agreed { agreed, half } = &mut self.exchange else { return Err(SshError::Protocol("an answer that was not asked for")) };
        Ok((agreed.clone(), half.take().map(|half| *half)))
    }

    fn answer(&mut self, payload: &[u8]) -> Result<(), SshError> {
        let (agreed, _) = self.agreed()?;
        let Role::Server(settings) = &self.role else { return Ok(()) };
        let (shared, reply) = exchange::answer(&agreed, &self.said, payload, &settings.host_key, &self.random)?;
        self.put(&reply)?;
        let initial = self.session.is_none();
        self.key(&agreed, &shared)?;
        if initial && agreed.extensions {
            let extensions = Writer::message(message::EXT_INFO).u32(1).string("server-sig-algs").string(key::SIGNATURES).done();
            self.put(&extensions)?;
        }
        self.release()
    }

    fn finish(&mut self, payload: &[u8]) -> Result<(), SshError> {
        let (agreed, half) = self.agreed()?;
        let (Role::Client { known, .. }, Some(half)) = (&self.role, half) else { return Err(SshError::Protocol("a second answer")) };
        let shared = exchange::finish(&agreed, &self.said, payload, half, known)?;
        self.key(&agreed, &shared)?;
        self.release()
    }

    /// From here on what we send is sealed with the new keys.
    fn key(&mut self, agreed: &Agreed, shared: &Shared) -> Result<(), SshError> {
        self.put(&[message::NEWKEYS])?;
        let session = self.session.get_or_insert_with(|| shared.hash().to_vec()).clone();
        let derive = |cipher: Cipher, iv, key| (shared.derive(key, &session, cipher.key_bytes()), shared.derive(iv, &session, cipher.iv_bytes()));
        let (from_client, to_client) = agreed.ciphers;
        let from_client = (from_client, derive(from_client, b'A', b'C'));
        let to_client = (to_client, derive(to_client, b'B', b'D'));
        let ((sealing, (sealing_key, sealing_iv)), (opening, (opening_key, opening_iv))) = match self.role.side() {
            Side::Client => (from_client, to_client),
            Side::Server => (to_client, from_client),
        };
        self.sealing = Sealing::new(sealing, &sealing_key, &sealing_iv)?;
        if self.strict {
            self.sent = 0;
        }
        self.exchange = Exchange::Keyed(Opening::new(opening, &opening_key, &opening_iv)?);
        self.bytes = (0, 0);
        self.packets = 0;
        self.keyed_at = Instant::now();
        Ok(())
    }

    /// Sends what was held.
    fn release(&mut self) -> Result<(), SshError> {
        self.held_bytes = 0;
        for held in std::mem::take(&mut self.held) {
            self.put(&held)?;
        }
        Ok(())
    }

    /// What the other side can do besides.
    fn extend(&mut self, payload: &[u8]) -> Result<(), SshError> {
        let mut reader = Reader::new(&payload[1..]);
        for _ in 0..reader.u32()? {
            let (name, value) = (reader.string()?, reader.string()?);
            if name == b"server-sig-algs" {
                self.signatures = Some(String::from_utf8_lossy(value).into_owned());
            }
        }
        Ok(())
    }

    fn rekey(&mut self, payload: &[u8]) -> Result<(), SshError> {
        if payload.len() != 1 {
            return Err(SshError::Protocol("NEWKEYS with something behind"));
        }
        match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::Keyed(opening) => self.opening = opening,
            Exchange::Idle | Exchange::Offered | Exchange::Agreed { .. } => return Err(SshError::Protocol("new keys that nobody agreed on")),
        }
        if self.strict {
            self.received = 0;
        }
        self.fresh = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::HostKey;

    fn transport() -> Transport {
        let host_key = HostKey::from_pkcs8(&HostKey::generate().unwrap()).unwrap();
        Transport::new(Role::Server(Arc::new(Settings { host_key, software: "Test" }))).unwrap()
    }

    /// A packet as it is before there are keys.
    fn clear(payload: &[u8]) -> BytesMut {
        let mut packet = BytesMut::new();
        Sealing::Clear.seal(0, payload, &SystemRandom::new(), &mut packet).unwrap();
        packet
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>, payloads: Vec<Vec<u8>>, number in 0_u8..110) {
            let mut transport = transport();
            transport.input.extend_from_slice(b"SSH-2.0-x\r\n");
            for payload in payloads {
                transport.input.extend_from_slice(&clear(&[&[number], &payload[..]].concat()));
            }
            transport.input.extend_from_slice(&bytes);
            // Nothing is for the layers above before there are keys.
            while let Ok(Some(payload)) = transport.receive() {
                prop_assert!(false, "{payload:?}");
            }
        }
    }

    #[test]
    fn nothing_is_let_in_before_a_strict_exchange() {
        let lists = [
            "curve25519-sha256,kex-strict-c-v00@openssh.com",
            "ssh-ed25519",
            "aes256-gcm@openssh.com",
            "aes256-gcm@openssh.com",
            "",
            "",
            "none",
            "none",
            "",
            "",
        ];
        let mut init = Writer::message(message::KEXINIT).raw(&[0; 16]);
        for list in lists {
            init = init.string(list);
        }
        let init = init.boolean(false).u32(0).done();
        let ignore = Writer::message(message::IGNORE).string("x").done();
        for order in [[&ignore, &init], [&init, &ignore]] {
            let mut transport = transport();
            transport.input.extend_from_slice(b"SSH-2.0-x\n");
            for payload in order {
                transport.input.extend_from_slice(&clear(payload));
            }
            assert!(matches!(transport.receive(), Err(SshError::Protocol(_))));
        }
    }
}
