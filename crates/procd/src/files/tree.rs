//! Removing, renaming and copying whole trees, whatever their depth and whatever happens to them meanwhile. Links are
//! never followed.
use std::ffi::{CString, OsString};
use std::fs::Permissions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::limits::{COPY_DEPTH_MAX, REMOVE_DEPTH_MAX};

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Removes a file, a link, or a directory with all that is in it.
///
/// # Errors
/// What the system says; nothing being there is no error. `EINVAL` for the root.
pub fn remove(path: &Path) -> io::Result<()> {
    let trimmed = path.as_os_str().as_bytes();
    let trimmed = &trimmed[..trimmed.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1)];
    let path = Path::new(std::ffi::OsStr::from_bytes(trimmed));
    // A path of dots has no name to remove; one that is the root must not be emptied.
    if path.file_name().is_none() || std::fs::canonicalize(path).is_ok_and(|p| p == Path::new("/")) && !path.is_symlink() {
        return Err(Errno::INVAL.into());
    }
    match std::fs::remove_file(path) {
        Ok(()) => return Ok(()),
        Err(e) => match Errno::from_io_error(&e) {
            Some(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Some(Errno::ISDIR | Errno::PERM) => {}
            _ => return Err(e),
        },
    }
    match empty(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match std::fs::remove_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// One directory that is being emptied.
struct Level {
    fd: OwnedFd,
    dir: Dir,
    /// Its name in the level above.
    name: CString,
}

impl Level {
    fn open(above: Option<&OwnedFd>, name: &std::ffi::CStr) -> Result<Self, Errno> {
        let fd = match above {
            Some(above) => rustix::fs::openat(above, name, OPEN, Mode::empty())?,
            None => rustix::fs::openat(CWD, name, OPEN, Mode::empty())?,
        };
        let dir = Dir::read_from(&fd)?;
        Ok(Self { fd, dir, name: name.to_owned() })
    }
}

/// Empties a directory. Only a few levels are open at a time: what lies deeper is first moved up to the top.
fn empty(path: &Path) -> Result<(), Errno> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let mut levels = vec![Level::open(None, &name)?];
    let mut lifted = 0_u64;
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.dir.next() else {
            let done = levels.pop();
            if let (Some(done), Some(above)) = (done, levels.last()) {
                match rustix::fs::unlinkat(&above.fd, &done.name, AtFlags::REMOVEDIR) {
                    // Somebody put something in meanwhile: once more from the level above.
                    Err(Errno::NOTEMPTY | Errno::EXIST) => levels.push(Level::open(Some(&above.fd), &done.name)?),
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(e) => return Err(e),
                }
            }
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = entry.file_type();
        if kind != FileType::Directory {
            match rustix::fs::unlinkat(&level.fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) if kind == FileType::Unknown => {}
                Err(e) => return Err(e),
            }
        }
        if levels.len() < REMOVE_DEPTH_MAX {
            let next = levels.last().map(|level| Level::open(Some(&level.fd), name));
            match next {
                Some(Ok(next)) => levels.push(next),
                Some(Err(Errno::NOENT)) | None => {}
                Some(Err(e)) => return Err(e),
            }
            continue;
        }
        let (Some(level), Some(top)) = (levels.last(), levels.first()) else { return Ok(()) };
        loop {
            lifted += 1;
            let target = format!(".sandbar-removed-{lifted}");
            match rustix::fs::renameat_with(&level.fd, name, &top.fd, target.as_str(), rustix::fs::RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                Ok(()) | Err(Errno::NOENT) => break,
                Err(e) => return Err(e),
            }
        }
        // The top has new entries now, and its position may be past them.
        if let Some(top) = levels.first_mut() {
            top.dir.rewind();
        }
    }
    Ok(())
}

/// Renames; across file systems, and where the root's layers do not allow it, copies and removes.
///
/// # Errors
/// What the system says. A copy that fails is removed, the source stays.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(e) if Errno::from_io_error(&e) == Some(Errno::XDEV) => {}
        done => return done,
    }
    let target_is_dir = std::fs::symlink_metadata(to).map(|m| m.is_dir());
    let source_is_dir = std::fs::symlink_metadata(from)?.is_dir();
    match target_is_dir {
        Ok(true) if source_is_dir => std::fs::remove_dir(to)?,
        Ok(true) => return Err(Errno::ISDIR.into()),
        Ok(false) if source_is_dir => return Err(Errno::NOTDIR.into()),
        Ok(false) | Err(_) => {}
    }
    let mut name: OsString = to.file_name().ok_or(Errno::INVAL)?.to_owned();
    name.push(format!(".sandbar-{}.tmp", crate::context::start::random_hex()));
    let temporary: PathBuf = to.with_file_name(name);
    let copied = copy(from, &temporary, 0).and_then(|()| std::fs::rename(&temporary, to));
    if copied.is_err() {
        let _ = remove(&temporary);
    }
    copied?;
    remove(from)
}

fn copy(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    if depth > COPY_DEPTH_MAX {
        return Err(io::Error::other(format!("directories nested deeper than {COPY_DEPTH_MAX}")));
    }
    let metadata = std::fs::symlink_metadata(from)?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        std::os::unix::fs::symlink(std::fs::read_link(from)?, to)?;
    } else if kind.is_dir() {
        std::fs::create_dir(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), depth + 1)?;
        }
    } else if kind.is_file() {
        std::fs::copy(from, to)?;
    } else if kind.is_fifo() {
        rustix::fs::mknodat(CWD, to, FileType::Fifo, Mode::from_raw_mode(metadata.mode() & 0o7777), 0)?;
    } else {
        // Sockets and devices belong to where they are.
        return Ok(());
    }
    let _ = std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid()));
    if !kind.is_symlink() {
        std::fs::set_permissions(to, Permissions::from_mode(metadata.mode() & 0o7777))?;
        let time = |s: i64, ns: i64| rustix::fs::Timespec { tv_sec: s, tv_nsec: ns as _ };
        let times = rustix::fs::Timestamps {
            last_access: time(metadata.atime(), metadata.atime_nsec()),
            last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
        };
        let _ = rustix::fs::utimensat(CWD, to, &times, AtFlags::empty());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_trees_and_links() {
        let base = std::env::temp_dir().join(format!("procd-tree-{}", crate::context::start::random_hex()));
        let outside = base.join("outside");
        let tree = base.join("tree");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(outside.join("keep"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        // Deeper than any path can name.
        let mut fd = rustix::fs::open(&tree, OPEN, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&fd, "deep", Mode::from_raw_mode(0o755)).unwrap();
            rustix::fs::mkdirat(&fd, "side", Mode::from_raw_mode(0o755)).unwrap();
            fd = rustix::fs::openat(&fd, "deep", OPEN, Mode::empty()).unwrap();
        }
        drop(fd);
        remove(&tree).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists() && outside.join("keep").exists());
        assert!(remove(Path::new("/")).is_err() && remove(Path::new("//..")).is_err());
        copy(&outside, &base.join("copy"), 0).unwrap();
        assert!(base.join("copy/keep").exists());
        remove(&base).unwrap();
    }
}
