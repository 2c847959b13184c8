//! Packets and attributes (draft-ietf-secsh-filexfer-02).
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// As OpenSSH: a packet of either side is never longer.
pub const PACKET_BYTES_MAX: usize = 256 << 10;
/// Data of one packet.
pub const DATA_BYTES_MAX: usize = PACKET_BYTES_MAX - 1024;

pub const VERSION: u32 = 3;

/// Numbers of packets.
pub mod kind {
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const SETSTAT: u8 = 9;
    pub const FSETSTAT: u8 = 10;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const REALPATH: u8 = 16;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const READLINK: u8 = 19;
    pub const SYMLINK: u8 = 20;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED: u8 = 200;
    pub const EXTENDED_REPLY: u8 = 201;
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

/// A packet is cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Takes values off the front of a packet.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().map_err(|_| Malformed)?))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().map_err(|_| Malformed)?))
    }

    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// A path; an empty one is where the server was started.
    pub fn path(&mut self) -> Result<&'a Path, Malformed> {
        let bytes = self.string()?;
        if bytes.contains(&0) {
            return Err(Malformed);
        }
        Ok(Path::new(OsStr::from_bytes(if bytes.is_empty() { b"." } else { bytes })))
    }

    pub fn attributes(&mut self) -> Result<Attributes, Malformed> {
        let flags = self.u32()?;
        let mut attributes = Attributes::default();
        if flags & flag::SIZE != 0 {
            attributes.size = Some(self.u64()?);
        }
        if flags & flag::OWNER != 0 {
            attributes.owner = Some((self.u32()?, self.u32()?));
        }
        if flags & flag::MODE != 0 {
            attributes.mode = Some(self.u32()?);
        }
        if flags & flag::TIMES != 0 {
            attributes.times = Some((self.u32()?, self.u32()?));
        }
        if flags & flag::EXTENDED != 0 {
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Ok(attributes)
    }
}

mod flag {
    pub const SIZE: u32 = 1;
    pub const OWNER: u32 = 2;
    pub const MODE: u32 = 4;
    pub const TIMES: u32 = 8;
    pub const EXTENDED: u32 = 1 << 31;
}

/// What is known, or to be changed, of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    pub size: Option<u64>,
    pub owner: Option<(u32, u32)>,
    pub mode: Option<u32>,
    /// Of access and of change, in seconds.
    pub times: Option<(u32, u32)>,
}

impl From<&Metadata> for Attributes {
    fn from(m: &Metadata) -> Self {
        let seconds = |time: i64| u32::try_from(time).unwrap_or(if time < 0 { 0 } else { u32::MAX });
        Self { size: Some(m.size()), owner: Some((m.uid(), m.gid())), mode: Some(m.mode()), times: Some((seconds(m.atime()), seconds(m.mtime()))) }
    }
}

/// A packet that is written behind others.
pub struct Packet<'a> {
    out: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> Packet<'a> {
    pub fn begin(out: &'a mut Vec<u8>, kind: u8) -> Self {
        let begin = out.len();
        out.extend_from_slice(&[0; 4]);
        out.push(kind);
        Self { out, begin }
    }

    /// Bytes of it so far.
    pub fn length(&self) -> usize {
        self.out.len() - self.begin - 4
    }

    pub fn u32(self, value: u32) -> Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u64(self, value: u64) -> Self {
        self.out.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn string(self, bytes: &[u8]) -> Self {
        let packet = self.u32(bytes.len() as u32);
        packet.out.extend_from_slice(bytes);
        packet
    }

    pub fn attributes(mut self, attributes: &Attributes) -> Self {
        let set = |present: bool, flag: u32| if present { flag } else { 0 };
        let flags = set(attributes.size.is_some(), flag::SIZE)
            | set(attributes.owner.is_some(), flag::OWNER)
            | set(attributes.mode.is_some(), flag::MODE)
            | set(attributes.times.is_some(), flag::TIMES);
        self = self.u32(flags);
        if let Some(size) = attributes.size {
            self = self.u64(size);
        }
        if let Some((uid, gid)) = attributes.owner {
            self = self.u32(uid).u32(gid);
        }
        if let Some(mode) = attributes.mode {
            self = self.u32(mode);
        }
        if let Some((accessed, changed)) = attributes.times {
            self = self.u32(accessed).u32(changed);
        }
        self
    }

    /// Writes a number where room was left for it.
    pub fn patch(&mut self, at: usize, value: u32) {
        let at = self.begin + 4 + at;
        self.out[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Takes it back.
    pub fn abandon(self) {
        self.out.truncate(self.begin);
    }

    /// Data of at most so many bytes, as far as `read` fills it.
    pub fn filled<E>(self, max: usize, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<Option<Self>, E> {
        let at = self.out.len();
        self.out.resize(at + 4 + max, 0);
        let length = match read(&mut self.out[at + 4..]) {
            Ok(0) => {
                self.out.truncate(self.begin);
                return Ok(None);
            }
            Ok(length) => length,
            Err(error) => {
                self.out.truncate(self.begin);
                return Err(error);
            }
        };
        self.out.truncate(at + 4 + length);
        self.out[at..at + 4].copy_from_slice(&(length as u32).to_be_bytes());
        Ok(Some(self))
    }

    pub fn end(self) {
        let length = self.length() as u32;
        self.out[self.begin..self.begin + 4].copy_from_slice(&length.to_be_bytes());
    }
}
