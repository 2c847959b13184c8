//! Address ranges.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address range with zero host bits. IPv4-mapped IPv6 ranges are kept as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

/// Why a text is no CIDR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    #[error("`{0}` is no IP address or CIDR such as 203.0.113.0/24")]
    Address(String),
    #[error("the prefix length of `{text}` must be 0 to {max}")]
    Length { text: String, max: u8 },
}

impl Prefix {
    /// Host bits are cleared. `len` above the family's width counts as that width.
    pub const fn new(addr: IpAddr, len: u8) -> Self {
        match addr {
            IpAddr::V4(v4) => {
                let len = if len > 32 { 32 } else { len };
                let mask = if len == 0 { 0 } else { u32::MAX << (32 - len) };
                Self { addr: IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask)), len }
            }
            IpAddr::V6(v6) => {
                let len = if len > 128 { 128 } else { len };
                let mask = if len == 0 { 0 } else { u128::MAX << (128 - len) };
                if len >= 96
                    && let Some(v4) = v6.to_ipv4_mapped()
                {
                    return Self::new(IpAddr::V4(v4), len - 96);
                }
                Self { addr: IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask)), len }
            }
        }
    }

    /// The range of one address.
    pub const fn host(addr: IpAddr) -> Self {
        Self::new(addr, 128)
    }

    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Bits.
    #[expect(clippy::len_without_is_empty, reason = "a prefix is never empty")]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// True for 0.0.0.0/0 and ::/0.
    pub fn is_everything(&self) -> bool {
        self.len == 0
    }

    pub fn contains(&self, addr: IpAddr) -> bool {
        Self::new(addr.to_canonical(), self.len).addr == self.addr
    }

    /// True when every address of `other` is in this range.
    pub fn covers(&self, other: &Prefix) -> bool {
        self.len <= other.len && self.addr.is_ipv4() == other.addr.is_ipv4() && Self::new(other.addr, self.len) == *self
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// `10.0.0.0/8`, `fc00::/7`, or an address alone.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let text = text.trim();
        let (addr, len) = text.split_once('/').map_or((text, None), |(addr, len)| (addr, Some(len)));
        let addr: IpAddr = addr.parse().map_err(|_| PrefixError::Address(text.to_owned()))?;
        let max = if addr.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => max,
            Some(len) if len.bytes().all(|b| b.is_ascii_digit()) => len.parse().unwrap_or(u8::MAX),
            Some(_) => u8::MAX,
        };
        if len > max {
            return Err(PrefixError::Length { text: text.to_owned(), max });
        }
        Ok(Self::new(addr, len))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}
