//! A copy of a tree: contents (shared with the original where the filesystem can), holes, hard links, owners, modes,
//! times and extended attributes, also those of overlay filesystems.

use std::{
    collections::HashMap,
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid},
    io::Errno,
};

use crate::{IDS, Trail, TreeError, dir, failed};

/// Bytes of one call to the kernel.
const CHUNK_BYTES: usize = 16 << 20;

/// How to copy.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// The first id of owners in the original.
    pub from_base: u32,
    /// The first id of owners in the copy.
    pub to_base: u32,
    /// Of contents; more is refused.
    pub bytes_max: Option<u64>,
}

/// What a copy has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    pub files: u64,
    /// Of contents, without holes.
    pub bytes: u64,
    /// Whether contents are shared with the original on disk.
    pub shared: bool,
}

/// Copies what is in `from` into the empty folder `to`, which takes over owner, mode, times and attributes of `from`.
///
/// # Errors
/// What could not be read or written; the copy is then worth nothing. Devices are left out, but for the marks of overlay
/// filesystems.
pub fn copy(from: &Path, to: &Path, options: &CopyOptions) -> Result<Copied, TreeError> {
    let (source, target) = (dir::open_top(from)?, dir::open_top(to)?);
    let mut work = Copy::new(*options, target.as_fd())?;
    work.folder(source.as_fd(), target.as_fd())?;
    work.dress(source.as_fd(), target.as_fd())?;
    Ok(work.done)
}

/// A copy under way.
pub(crate) struct Copy {
    options: CopyOptions,
    done: Copied,
    /// Files with several names: where the first one stands in the copy.
    links: HashMap<u64, Vec<CString>>,
    pub trail: Trail,
    can_share: bool,
    top: OwnedFd,
}

impl Copy {
    /// `top` is the top of the copy.
    pub fn new(options: CopyOptions, top: BorrowedFd<'_>) -> Result<Self, TreeError> {
        let top = top.try_clone_to_owned().map_err(|source| TreeError::Io { what: "open", path: ".".into(), source })?;
        Ok(Self { options, done: Copied::default(), links: HashMap::new(), trail: Trail::default(), can_share: true, top })
    }

    fn folder(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), TreeError> {
        let names = dir::names(source).map_err(failed("list", self.trail.path()))?;
        names.iter().try_for_each(|name| self.entry(source, target, name))
    }

    /// Copies one name, with all that is in it.
    pub fn entry(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CString) -> Result<(), TreeError> {
        let Some(stat) = dir::stat(source, name).map_err(failed("look at", self.trail.with(name)))? else { return Ok(()) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.sub_folder(source, target, name),
            FileType::RegularFile => self.file(source, target, name, &stat),
            FileType::Symlink => self.link(source, target, name, &stat),
            // The mark of an overlay: what lies below is not to be seen.
            FileType::CharacterDevice if stat.st_rdev == 0 => {
                rustix::fs::mknodat(target, name, FileType::CharacterDevice, Mode::empty(), 0).map_err(failed("make", self.trail.with(name)))?;
                self.own(target, name, &stat)
            }
            // Left out, they would let shine through what they cover in a layer below.
            kind @ (FileType::Fifo | FileType::Socket) => self.node(target, name, kind, &stat),
            _ => Ok(()),
        }
    }

    /// A name by which processes meet, without those processes.
    fn node(&mut self, target: BorrowedFd<'_>, name: &CString, kind: FileType, stat: &Stat) -> Result<(), TreeError> {
        if stat.st_nlink > 1 && self.again(target, name, stat.st_ino)? {
            return Ok(());
        }
        rustix::fs::mknodat(target, name, kind, Mode::RUSR | Mode::WUSR, 0).map_err(failed("make", self.trail.with(name)))?;
        self.own(target, name, stat)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        rustix::fs::chmodat(target, name, mode, AtFlags::empty()).map_err(failed("set the mode of", self.trail.with(name)))?;
        rustix::fs::utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set the time of", self.trail.with(name)))?;
        self.made(name, stat);
        Ok(())
    }

    /// Counts what was made, and remembers where it stands for its other names.
    fn made(&mut self, name: &CString, stat: &Stat) {
        self.done.files += 1;
        if stat.st_nlink > 1 {
            let mut path = self.trail.0.clone();
            path.push(name.clone());
            self.links.insert(stat.st_ino, path);
        }
    }

    fn sub_folder(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CString) -> Result<(), TreeError> {
        let inner = match dir::open_folder(source, name) {
            Ok(inner) => inner,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(failed("open", self.trail.with(name))(errno)),
        };
        self.trail.enter(name)?;
        rustix::fs::mkdirat(target, name, Mode::RWXU).map_err(failed("make", self.trail.path()))?;
        let made = dir::open_folder(target, name).map_err(failed("open", self.trail.path()))?;
        self.done.files += 1;
        self.folder(inner.as_fd(), made.as_fd())?;
        // Last, since making names in it changes its time.
        self.dress(inner.as_fd(), made.as_fd())?;
        self.trail.leave();
        Ok(())
    }

    fn file(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CString, stat: &Stat) -> Result<(), TreeError> {
        if stat.st_nlink > 1 && self.again(target, name, stat.st_ino)? {
            return Ok(());
        }
        let from = match dir::open_file(source, name) {
            Ok(from) => from,
            // Gone, or something else by now.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(failed("open", self.trail.with(name))(errno)),
        };
        let stat = rustix::fs::fstat(&from).map_err(failed("look at", self.trail.with(name)))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed("make", self.trail.with(name)))?;
        self.contents(&from, &to, stat.st_size.unsigned_abs()).map_err(|error| match error {
            Stopped::Errno(errno) => failed("copy", self.trail.with(name))(errno),
            Stopped::TooLarge(max) => TreeError::TooLarge { max },
        })?;
        self.dress(from.as_fd(), to.as_fd())?;
        self.made(name, &stat);
        Ok(())
    }

    /// Gives a file that was copied already its next name.
    fn again(&mut self, target: BorrowedFd<'_>, name: &CString, inode: u64) -> Result<bool, TreeError> {
        let Some(first) = self.links.get(&inode) else { return Ok(false) };
        let fail = |errno| failed("link", self.trail.with(name))(errno);
        let Some((last, folders)) = first.split_last() else { return Ok(false) };
        let mut folder = self.top.try_clone().map_err(|source| TreeError::Io { what: "open", path: self.trail.with(name), source })?;
        for step in folders {
            folder = dir::open_folder(folder.as_fd(), step).map_err(fail)?;
        }
        match rustix::fs::linkat(&folder, last, target, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // Too many names for this filesystem: a copy of its own.
            Err(Errno::MLINK) => Ok(false),
            Err(errno) => Err(fail(errno)),
        }
    }

    fn link(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CString, stat: &Stat) -> Result<(), TreeError> {
        if stat.st_nlink > 1 && self.again(target, name, stat.st_ino)? {
            return Ok(());
        }
        let to = match rustix::fs::readlinkat(source, name, Vec::new()) {
            Ok(to) => to,
            Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(failed("read", self.trail.with(name))(errno)),
        };
        rustix::fs::symlinkat(&to, target, name).map_err(failed("make", self.trail.with(name)))?;
        self.own(target, name, stat)?;
        rustix::fs::utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set the time of", self.trail.with(name)))?;
        self.made(name, stat);
        Ok(())
    }

    fn contents(&mut self, from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Stopped> {
        if size == 0 {
            return Ok(());
        }
        self.count(0)?;
        if self.can_share {
            match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => {
                    self.done.shared = true;
                    return self.count(size);
                }
                Err(_) => self.can_share = false,
            }
        }
        // From data to data; holes stay holes.
        let mut at = 0;
        while at < size {
            let begin = match rustix::fs::seek(from, SeekFrom::Data(at)) {
                Ok(begin) => begin,
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(errno) => return Err(errno.into()),
            };
            let end = rustix::fs::seek(from, SeekFrom::Hole(begin)).unwrap_or(size).min(size);
            if end <= begin {
                break;
            }
            self.range(from, to, begin, end)?;
            at = end;
        }
        rustix::fs::ftruncate(to, size)?;
        Ok(())
    }

    fn range(&mut self, from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> Result<(), Stopped> {
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let (mut read_at, mut write_at) = (at, at);
            let copied = match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length) {
                Ok(copied) => copied,
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => by_hand(from, to, at, length)?,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if copied == 0 {
                // It was cut short meanwhile.
                break;
            }
            self.count(copied as u64)?;
            at += copied as u64;
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), Stopped> {
        self.done.bytes += bytes;
        match self.options.bytes_max {
            Some(max) if self.done.bytes > max => Err(Stopped::TooLarge(max)),
            _ => Ok(()),
        }
    }

    /// Owner, attributes, mode and times of an open file or folder, in the order in which one does not undo the other.
    pub fn dress(&self, source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), TreeError> {
        let path = || self.trail.path();
        let stat = rustix::fs::fstat(source).map_err(failed("look at", path()))?;
        let (uid, gid) = self.owner(&stat);
        rustix::fs::fchown(target, Some(uid), Some(gid)).map_err(failed("give away", path()))?;
        let xattrs = dir::xattrs(source).map_err(failed("read attributes of", path()))?;
        dir::set_xattrs(target, &xattrs).map_err(failed("set attributes of", path()))?;
        rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode)).map_err(failed("set the mode of", path()))?;
        rustix::fs::futimens(target, &times(&stat)).map_err(failed("set the time of", path()))
    }

    fn own(&self, target: BorrowedFd<'_>, name: &CString, stat: &Stat) -> Result<(), TreeError> {
        let (uid, gid) = self.owner(stat);
        rustix::fs::chownat(target, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("give away", self.trail.with(name)))
    }

    /// An id that is not of the tree's range becomes the range's own root: it must not come to mean somebody else.
    fn owner(&self, stat: &Stat) -> (Uid, Gid) {
        let shift = |id: u32| {
            let inside = id.checked_sub(self.options.from_base).filter(|inside| *inside < IDS).unwrap_or(0);
            self.options.to_base + inside
        };
        (Uid::from_raw(shift(stat.st_uid)), Gid::from_raw(shift(stat.st_gid)))
    }
}

enum Stopped {
    Errno(Errno),
    TooLarge(u64),
}

impl From<Errno> for Stopped {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

fn by_hand(from: &OwnedFd, to: &OwnedFd, at: u64, length: usize) -> Result<usize, Errno> {
    let mut buffer = vec![0u8; length.min(1 << 20)];
    let read = rustix::io::pread(from, &mut buffer, at)?;
    let mut written = 0;
    while written < read {
        written += rustix::io::pwrite(to, &buffer[written..read], at + written as u64)?;
    }
    Ok(read)
}

pub(crate) fn times(stat: &Stat) -> Timestamps {
    let time = |sec, nsec| Timespec { tv_sec: sec, tv_nsec: nsec as _ };
    Timestamps { last_access: time(stat.st_atime, stat.st_atime_nsec), last_modification: time(stat.st_mtime, stat.st_mtime_nsec) }
}
