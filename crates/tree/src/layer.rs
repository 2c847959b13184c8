//! Layers of images: tars in which names that begin with `.wh.` take away what lies below, and their form on disk, where
//! overlay filesystems have marks of their own for that.
//! Source: OCI image specification, `layer.md`; Linux `Documentation/filesystems/overlayfs.rst`.

use std::{
    ffi::{CStr, CString, OsStr},
    io::{self, BufRead, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, Gid, Mode, Stat, Uid, XattrFlags},
    io::Errno,
};
use sha2::{Digest, Sha256};

use crate::{
    TreeError, copy, dir,
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
    /// Folders that no entry named, only what is in them; those above come first. What they are, layers below say, see
    /// [`adopt_folders`].
    pub implicit: Vec<PathBuf>,
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
    let path = |parts: &Vec<CString>| parts.iter().map(|part| OsStr::from_bytes(part.as_bytes())).collect();
    Ok(UnpackedLayer { unpacked: work.done, diff_sha256: hex::encode(counted.hash.finalize()), implicit: work.implicit.iter().map(path).collect() })
}

/// Gives folders of a layer that it did not name itself the owner, mode, times and attributes that they have in the layers
/// below it (top first): on top of those they would hide them. Returns whether there were such.
///
/// # Errors
/// A folder that is a link or file below, which what is in it would hide.
pub fn adopt_folders(layer: &Path, implicit: &[PathBuf], below: &[PathBuf]) -> Result<bool, ArchiveError> {
    let (top, mut adopted) = (dir::open_top(layer)?, false);
    let lowers = below.iter().map(|lower| dir::open_top(lower)).collect::<Result<Vec<_>, _>>()?;
    for path in implicit {
        let io = |errno: Errno| ArchiveError::Tree(TreeError::Io { what: "open", path: path.clone(), source: errno.into() });
        let Some(original) = lowers.iter().find_map(|lower| look_below(lower.as_fd(), path)).transpose().map_err(io)? else { continue };
        match original {
            Below::Folder(original) => {
                let Some(Below::Folder(own)) = look_below(top.as_fd(), path).transpose().map_err(io)? else { continue };
                dress_like(original.as_fd(), own.as_fd()).map_err(io)?;
                adopted = true;
            }
            Below::Hidden => {}
            Below::Other => {
                let name = path.to_string_lossy().chars().filter(|c| !c.is_control()).take(200).collect();
                return Err(ArchiveError::Refused { name, rule: "is a folder only by what is in it, and a link or file in a layer below" });
            }
        }
    }
    Ok(adopted)
}

/// All but what a folder says about what lies below it.
fn dress_like(original: BorrowedFd<'_>, own: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(original)?;
    rustix::fs::fchown(own, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    let mut xattrs = dir::xattrs(original)?;
    xattrs.retain(|(name, _)| is_kept(name.to_bytes()));
    dir::set_xattrs(own, &xattrs)?;
    rustix::fs::fchmod(own, Mode::from_raw_mode(stat.st_mode))?;
    rustix::fs::futimens(own, &copy::times(&stat))
}

/// What a path is in a layer.
enum Below {
    Folder(OwnedFd),
    /// Taken away, or everything further below is.
    Hidden,
    Other,
}

/// `None` where the layer says nothing about it.
fn look_below(top: BorrowedFd<'_>, path: &Path) -> Option<Result<Below, Errno>> {
    let mut folder = match top.try_clone_to_owned() {
        Ok(folder) => folder,
        Err(error) => return Some(Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
    };
    let mut is_opaque = false;
    for part in path {
        is_opaque |= hides_below(folder.as_fd());
        let name = CString::new(part.as_bytes()).ok()?;
        folder = match dir::open_folder(folder.as_fd(), &name) {
            Ok(inner) => inner,
            Err(Errno::NOENT) if is_opaque => return Some(Ok(Below::Hidden)),
            Err(Errno::NOENT) => return None,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let gone = dir::stat(folder.as_fd(), &name).is_ok_and(|stat| stat.is_some_and(|stat| is_whiteout(&stat)));
                return Some(Ok(if gone { Below::Hidden } else { Below::Other }));
            }
            Err(errno) => return Some(Err(errno)),
        };
    }
    Some(Ok(Below::Folder(folder)))
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

/// What a name says, if it says anything; an error for one that would take away what is no name.
pub(crate) fn mark(parts: &[CString]) -> Result<Option<Mark>, &'static str> {
    let last = parts.last().map(|last| last.to_bytes()).unwrap_or_default();
    if last == OPAQUE {
        return Ok(Some(Mark::Opaque));
    }
    match last.strip_prefix(WHITEOUT) {
        None => Ok(None),
        Some(_) if last.starts_with(RESERVED) => Ok(None),
        // These would lead out of the folder.
        Some(b"" | b"." | b"..") => Err("takes nothing away that has a name"),
        Some(gone) => CString::new(gone).map(|gone| Some(Mark::Gone(gone))).map_err(|_| "has a zero byte in its name"),
    }
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
