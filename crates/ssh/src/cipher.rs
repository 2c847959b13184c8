//! Packets in their cipher: `chacha20-poly1305@openssh.com` and `aes*-gcm@openssh.com` (RFC 5647, with the length in the clear).

use bytes::{BufMut, BytesMut};
use ring::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey, chacha20_poly1305_openssh as chacha},
    rand::{SecureRandom, SystemRandom},
};

use crate::SshError;

const TAG_BYTES: usize = 16;
const PADDING_BYTES_MIN: usize = 4;

/// A cipher that can be agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    ChaCha20Poly1305,
    Aes256Gcm,
    Aes128Gcm,
}

impl Cipher {
    /// In our order, which does not matter: the client's does.
    pub const ALL: [Self; 3] = [Self::ChaCha20Poly1305, Self::Aes256Gcm, Self::Aes128Gcm];

    pub fn name(self) -> &'static str {
        match self {
            Self::ChaCha20Poly1305 => "chacha20-poly1305@openssh.com",
            Self::Aes256Gcm => "aes256-gcm@openssh.com",
            Self::Aes128Gcm => "aes128-gcm@openssh.com",
        }
    }

    pub fn key_bytes(self) -> usize {
        match self {
            Self::ChaCha20Poly1305 => chacha::KEY_LEN,
            Self::Aes256Gcm => 32,
            Self::Aes128Gcm => 16,
        }
    }

    pub fn iv_bytes(self) -> usize {
        match self {
            Self::ChaCha20Poly1305 => 0,
            Self::Aes256Gcm | Self::Aes128Gcm => 12,
        }
    }
}

/// AES-GCM with the nonce that counts up.
pub struct Gcm {
    key: LessSafeKey,
    iv: [u8; 12],
}

impl Gcm {
    fn new(cipher: Cipher, key: &[u8], iv: &[u8]) -> Result<Self, SshError> {
        let algorithm = if cipher == Cipher::Aes128Gcm { &AES_128_GCM } else { &AES_256_GCM };
        let iv = iv.try_into().map_err(|_| SshError::Protocol("no initial vector"))?;
        Ok(Self { key: LessSafeKey::new(UnboundKey::new(algorithm, key)?), iv })
    }

    fn nonce(&mut self) -> Nonce {
        let nonce = Nonce::assume_unique_for_key(self.iv);
        for byte in self.iv[4..].iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
        nonce
    }
}

/// The cipher of one direction.
pub enum Direction<C> {
    /// Before the first keys.
    Clear,
    ChaCha(Box<C>),
    Gcm(Box<Gcm>),
}

impl<C> Direction<C> {
    /// Bytes of a block, and those at the beginning of a packet that do not count: the length, where it is sealed otherwise.
    fn blocks(&self) -> (usize, usize) {
        match self {
            Self::Clear => (8, 0),
            Self::ChaCha(_) => (8, 4),
            Self::Gcm(_) => (16, 4),
        }
    }
}

pub type Sealing = Direction<chacha::SealingKey>;
pub type Opening = Direction<chacha::OpeningKey>;

fn chacha_key(key: &[u8]) -> Result<&[u8; chacha::KEY_LEN], SshError> {
    key.try_into().map_err(|_| SshError::Protocol("a key of the wrong length"))
}

impl Sealing {
    pub fn new(cipher: Cipher, key: &[u8], iv: &[u8]) -> Result<Self, SshError> {
        Ok(match cipher {
            Cipher::ChaCha20Poly1305 => Self::ChaCha(Box::new(chacha::SealingKey::new(chacha_key(key)?))),
            Cipher::Aes256Gcm | Cipher::Aes128Gcm => Self::Gcm(Box::new(Gcm::new(cipher, key, iv)?)),
        })
    }

    /// Appends a payload as a packet.
    pub fn seal(&mut self, sequence: u32, payload: &[u8], random: &SystemRandom, out: &mut BytesMut) -> Result<(), SshError> {
        let (block, unaligned) = self.blocks();
        let aligned = 4 + 1 + payload.len() - unaligned;
        let mut padding = block - aligned % block;
        if padding < PADDING_BYTES_MIN {
            padding += block;
        }
        let length = 1 + payload.len() + padding;
        let begin = out.len();
        out.reserve(4 + length + TAG_BYTES);
        out.put_u32(length as u32);
        out.put_u8(padding as u8);
        out.put_slice(payload);
        out.put_bytes(0, padding);
        let packet = &mut out[begin..];
        random.fill(&mut packet[5 + payload.len()..])?;
        match self {
            Self::Clear => {}
            Self::ChaCha(key) => {
                let mut tag = [0; TAG_BYTES];
                key.seal_in_place(sequence, packet, &mut tag);
                out.put_slice(&tag);
            }
            Self::Gcm(gcm) => {
                let nonce = gcm.nonce();
                let (length, body) = packet.split_at_mut(4);
                let tag = gcm.key.seal_in_place_separate_tag(nonce, Aad::from(&*length), body)?;
                out.put_slice(tag.as_ref());
            }
        }
        Ok(())
    }
}

impl Opening {
    pub fn new(cipher: Cipher, key: &[u8], iv: &[u8]) -> Result<Self, SshError> {
        Ok(match cipher {
            Cipher::ChaCha20Poly1305 => Self::ChaCha(Box::new(chacha::OpeningKey::new(chacha_key(key)?))),
            Cipher::Aes256Gcm | Cipher::Aes128Gcm => Self::Gcm(Box::new(Gcm::new(cipher, key, iv)?)),
        })
    }

    /// What a packet says of its length, which is not proved yet.
    pub fn length(&self, sequence: u32, first: [u8; 4]) -> usize {
        let first = match self {
            Self::Clear | Self::Gcm(_) => first,
            Self::ChaCha(key) => key.decrypt_packet_length(sequence, first),
        };
        u32::from_be_bytes(first) as usize
    }

    /// Whether a packet that says this of its length can be one.
    pub fn is_aligned(&self, length: usize) -> bool {
        let (block, unaligned) = self.blocks();
        (4 + length - unaligned).is_multiple_of(block)
    }

    /// Bytes after the packet that prove it.
    pub fn tag_bytes(&self) -> usize {
        match self {
            Self::Clear => 0,
            Self::ChaCha(_) | Self::Gcm(_) => TAG_BYTES,
        }
    }

    /// The payload of a whole packet, tag included.
    pub fn open(&mut self, sequence: u32, packet: &mut [u8]) -> Result<Vec<u8>, SshError> {
        const WRONG: SshError = SshError::Protocol("a packet is not authentic");
        let (body, tag) = packet.split_at_mut(packet.len() - self.tag_bytes());
        let opened: &[u8] = match self {
            Self::Clear => &body[4..],
            Self::ChaCha(key) => key.open_in_place(sequence, body, (&*tag).try_into().map_err(|_| WRONG)?).map_err(|_| WRONG)?,
            Self::Gcm(gcm) => {
                let nonce = gcm.nonce();
                let (length, sealed) = packet.split_at_mut(4);
                gcm.key.open_in_place(nonce, Aad::from(&*length), sealed).map_err(|_| WRONG)?
            }
        };
        let (padding, rest) = opened.split_first().ok_or(WRONG)?;
        if usize::from(*padding) < PADDING_BYTES_MIN {
            return Err(SshError::Protocol("a packet has too little padding"));
        }
        let payload = rest.len().checked_sub(usize::from(*padding)).filter(|length| *length > 0).ok_or(SshError::Protocol("a packet is all padding"))?;
        Ok(rest[..payload].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_and_changed_ones_do_not() {
        let random = SystemRandom::new();
        for cipher in Cipher::ALL {
            let (key, iv) = (vec![7; cipher.key_bytes()], vec![9; cipher.iv_bytes()]);
            let mut sealing = Sealing::new(cipher, &key, &iv).unwrap();
            let mut opening = Opening::new(cipher, &key, &iv).unwrap();
            for sequence in 0..300_u32 {
                let payload = vec![sequence as u8; 1 + sequence as usize];
                let mut packet = BytesMut::new();
                sealing.seal(sequence, &payload, &random, &mut packet).unwrap();
                let length = opening.length(sequence, packet[..4].try_into().unwrap());
                assert_eq!(packet.len(), 4 + length + opening.tag_bytes());
                assert_eq!(opening.open(sequence, &mut packet).unwrap(), payload);
            }
            for at in [0, 5, 40] {
                let mut packet = BytesMut::new();
                sealing.seal(300, &[1; 40], &random, &mut packet).unwrap();
                packet[at] ^= 1;
                assert!(opening.open(300, &mut packet).is_err());
            }
        }
    }
}
