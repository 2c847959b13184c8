//! Layers of images: tars in which names that begin with `.wh.` take away what lies below, and their form on disk, where
//! overlay filesystems have marks of their own for that.
//! Source: OCI image specification, `layer.md`; Linux `Documentation/filesystems/overlayfs.rst`.

use std::{
    ffi::{CStr, CString},
    io::{self, BufRead, Read, Write},
    os::fd::BorrowedFd,
    path::Path,
};

use rustix::{
    fs::{FileType, Mode, Stat, XattrFlags},
    io::Errno,
};
use sha2::{Digest, Sha256};

use crate::{
    TreeError, dir,
    unpack::{ArchiveError, Limits, Manners, Unpack, Unpacked, plain},
};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names with this beginning are notes of a filesystem that nobody has any more.
const RESERVED: &[u8] = b".wh..wh.";
const OPAQUE_XATTR: &CStr = c"trusted.overlay.opaque";
const XATTR_KEY: &[u8] = b"SCHILY.xattr.";
/// What a tar has besides contents: headers, padding, and long names.
const OVERHEAD_MAX_BYTES: u64 = 4 << 30;

/// What a layer brought, and the SHA-256 of it as a plain tar, by which it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedLayer {
    pub unpacked: Unpacked,
    pub diff_sha256: String,
}

/// Unpacks a layer (a tar, plain or packed by gzip or zstd) into an empty folder, as an overlay filesystem wants it. Owners
/// become the entry's own ids where they are below 65536, else 0; `user.` attributes and file capabilities are kept; devices
/// and pipes are left out.
///
/// # Errors
/// The first entry that breaks a rule, with the rule. The folder then holds a part of the layer.
pub fn unpack_layer(layer: impl BufRead, into: &Path, limits: &Limits) -> Result<UnpackedLayer, ArchiveError> {
    let max = limits.bytes_max.saturating_add(OVERHEAD_MAX_BYTES);
    let mut counted = Counted { from: plain(layer)?, hash: Sha256::new(), left: max };
    let mut work = Unpack::new(into, limits, Manners::Layer)?;
    work.tar(&mut counted)?;
    // What stands behind the end belongs to what was hashed when the image was made.
    io::copy(&mut counted, &mut io::sink()).map_err(|error| ArchiveError::Damaged(error.to_string()))?;
    Ok(UnpackedLayer { unpacked: work.done, diff_sha256: hex::encode(counted.hash.finalize()) })
}

/// Writes the layer that a folder holds as a tar, the other way round.
pub fn pack_layer(layer: &Path, out: impl Write) -> Result<(), TreeError> {
    crate::pack::pack(layer, out, Manners::Layer)
}

/// What a name in a layer says about what lies below.
pub(crate) enum Mark {
    /// Nothing of the folder below is to be seen.
    Opaque,
    /// This name is not there.
    Gone(CString),
}

pub(crate) fn mark(parts: &[CString]) -> Option<Mark> {
    let last = parts.last()?.to_bytes();
    if last == OPAQUE {
        return Some(Mark::Opaque);
    }
    let name = last.strip_prefix(WHITEOUT).filter(|name| !name.is_empty() && !last.starts_with(RESERVED))?;
    CString::new(name).ok().map(Mark::Gone)
}

/// The name that takes another away.
pub(crate) fn whiteout_name(gone: &CStr) -> CString {
    let name = [WHITEOUT, gone.to_bytes()].concat();
    CString::new(name).unwrap_or_default()
}

pub(crate) fn opaque_name() -> CString {
    CString::new(OPAQUE).unwrap_or_default()
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn make_whiteout(folder: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    rustix::fs::mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), 0)
}

pub(crate) fn hide_below(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsetxattr(folder, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

pub(crate) fn hides_below(folder: BorrowedFd<'_>) -> bool {
    dir::xattrs(folder).is_ok_and(|all| all.iter().any(|(name, value)| name.as_c_str() == OPAQUE_XATTR && value == b"y"))
}

/// The attribute that a key of an extended header names, if it is one that layers keep: what users set, and what programs
/// may do. Those of overlay filesystems are never taken from outside.
pub(crate) fn kept_xattr(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(XATTR_KEY).filter(|name| is_kept(name))
}

pub(crate) fn is_kept(xattr: &[u8]) -> bool {
    xattr.starts_with(b"user.") || xattr == b"security.capability"
}

/// The key of an extended header for an attribute.
pub(crate) fn xattr_key(xattr: &CStr) -> String {
    format!("{}{}", String::from_utf8_lossy(XATTR_KEY), xattr.to_string_lossy())
}

struct Counted<R> {
    from: R,
    hash: Sha256,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other("it unpacks to more than is allowed"))?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
