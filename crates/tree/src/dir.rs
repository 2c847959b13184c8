//! One folder: opened without following links, listed, and its extended attributes.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, XattrFlags},
    io::Errno,
};

use crate::{TreeError, failed};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The kernel's own limit for the value of an attribute.
const XATTR_MAX_BYTES: usize = 64 << 10;

/// Opens the top of a tree.
pub fn open_top(path: &Path) -> Result<OwnedFd, TreeError> {
    rustix::fs::open(path, FOLDER, Mode::empty()).map_err(failed("open", path.to_owned()))
}

pub fn open_folder(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, FOLDER, Mode::empty())
}

/// Opens what was a regular file a moment ago; a FIFO or device that took its place is not waited for, and the caller
/// checks again what it holds.
pub fn open_file(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

/// The names in a folder, sorted by bytes.
pub fn names(folder: impl AsFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The extended attributes of an open file or folder, sorted by name.
pub fn xattrs(fd: BorrowedFd<'_>) -> Result<Vec<(CString, Vec<u8>)>, Errno> {
    let mut list = vec![0u8; XATTR_MAX_BYTES];
    let length = match rustix::fs::flistxattr(fd, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP | Errno::NODATA) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    let mut value = vec![0u8; XATTR_MAX_BYTES];
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = CString::new(name) else { continue };
        match rustix::fs::fgetxattr(fd, &name, &mut value[..]) {
            Ok(length) => found.push((name, value[..length].to_vec())),
            // Gone again, or one that only some may read.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort();
    Ok(found)
}

/// Sets attributes; those that the filesystem does not know are left out.
pub fn set_xattrs(fd: BorrowedFd<'_>, xattrs: &[(CString, Vec<u8>)]) -> Result<(), Errno> {
    for (name, value) in xattrs {
        match rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What a name is, without following it. `None` when it is gone.
pub fn stat(parent: BorrowedFd<'_>, name: &CStr) -> Result<Option<rustix::fs::Stat>, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
