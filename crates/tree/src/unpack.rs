//! Archives from strangers, unpacked into a fresh folder. Whatever an entry says, nothing outside that folder is touched:
//! names are taken apart and walked folder by folder without following links, and only files, folders, links and hard
//! links to what the archive itself brought are made. Layers of images are archives with other manners, see `layer.rs`.

use std::{
    collections::BTreeSet,
    ffi::CString,
    io::{self, BufRead, BufReader, Read, Seek},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid},
    io::Errno,
};

pub(crate) mod header;
mod names;

use crate::{
    TreeError, dir,
    layer::{self, Mark},
};
use header::{Extension, small_header};
use names::{PATH_MAX_BYTES, is_a_target, named, parts, stays_inside};

/// What an archive may bring.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub entries_max: u64,
    /// Of contents, unpacked.
    pub bytes_max: u64,
}

/// What an archive brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    pub files: u64,
    pub bytes: u64,
    /// Devices and pipes of a layer.
    pub left_out: u64,
}

/// Why an archive was refused. Nothing of it is to be used then.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the archive cannot be read: {0}")]
    Damaged(String),
    #[error("entry {name:?} {rule}")]
    Refused { name: String, rule: &'static str },
    #[error("the archive has more than the allowed {max} entries")]
    TooMany { max: u64 },
    #[error("the archive unpacks to more than the allowed {max} bytes")]
    TooLarge { max: u64 },
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl ArchiveError {
    /// Whether it would unpack to more than is allowed.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::TooLarge { .. })
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Tree(error) if error.is_disk_full())
    }
}

/// The largest id that an entry's owner may have; what is larger becomes 0.
const ID_MAX: u64 = 65_535;
/// Memory for the times of folders, and what each part of a path costs of it besides its bytes.
const FOLDER_TIMES_MAX_BYTES: usize = 64 << 20;
const FOLDER_OVERHEAD_BYTES: usize = 32;
/// Folders of a layer that are known only by what is in them.
const IMPLICIT_MAX: usize = 100_000;
/// Zeros of this length become a hole.
const BLOCK_BYTES: usize = 4096;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZIP: [u8; 2] = *b"PK";

/// Unpacks a tar, plain or packed by gzip or zstd, or a zip into an empty folder. Owners become the entry's own ids where
/// they are below 65536, else 0. What would give rights on the way (setuid, setgid, capabilities) is left out.
///
/// # Errors
/// The first entry that breaks a rule, with the rule. The folder then holds a part of the archive.
pub fn unpack(archive: impl Read + Seek, into: &Path, limits: &Limits) -> Result<Unpacked, ArchiveError> {
    let mut work = Unpack::new(into, limits, Manners::Archive)?;
    let mut archive = BufReader::new(archive);
    if archive.fill_buf().map_err(damaged)?.starts_with(&ZIP) {
        work.zip(archive)?;
    } else {
        work.tar(plain(archive)?)?;
    }
    Ok(work.done)
}

/// A tar as it was before gzip or zstd, if it was packed by them.
pub fn plain<'a>(mut archive: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>, ArchiveError> {
    let magic = archive.fill_buf().map_err(damaged)?;
    Ok(if magic.starts_with(&GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(archive))
    } else if magic.starts_with(&ZSTD) {
        Box::new(zstd::Decoder::with_buffer(archive).map_err(damaged)?)
    } else {
        Box::new(archive)
    })
}

/// What an archive may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manners {
    /// Files of somebody: whatever is odd is refused.
    Archive,
    /// A layer of an image: links may lead anywhere inside, names may be repeated and those below taken away, what gives
    /// rights inside is kept, and devices are left out.
    Layer,
}

pub(crate) struct Unpack {
    top: OwnedFd,
    limits: Limits,
    manners: Manners,
    pub done: Unpacked,
    entries: u64,
    /// The folder that was written to last: entries of one folder follow each other. A folder is never replaced.
    last: Option<(Vec<CString>, Rc<OwnedFd>)>,
    /// Times of folders, which change until the last entry is in.
    times: Vec<(Vec<CString>, Timestamps)>,
    times_bytes: usize,
    buffer: Vec<u8>,
    /// Folders of a layer that no entry named, only what is in them.
    pub implicit: BTreeSet<Vec<CString>>,
}

/// What is kept of an entry besides its contents.
struct Dress {
    mode: u32,
    uid: u32,
    gid: u32,
    /// Seconds and nanoseconds.
    mtime: (i64, u32),
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl Unpack {
    pub fn new(into: &Path, limits: &Limits, manners: Manners) -> Result<Self, ArchiveError> {
        Ok(Self {
            top: dir::open_top(into)?,
            limits: *limits,
            manners,
            done: Unpacked::default(),
            entries: 0,
            last: None,
            times: Vec::new(),
            times_bytes: 0,
            buffer: vec![0; 64 * BLOCK_BYTES],
            implicit: BTreeSet::new(),
        })
    }

    pub fn tar(&mut self, reader: impl Read) -> Result<(), ArchiveError> {
        let mut archive = tar::Archive::new(reader);
        let mut extension = Extension::default();
        // Raw: what stands before an entry is read here, where its length is bounded.
        for entry in archive.entries().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            self.count_entry()?;
            if small_header(&mut entry, self.manners, &mut extension)? {
                continue;
            }
            let kind = entry.header().entry_type();
            let said = std::mem::take(&mut extension);
            let name = said.path.unwrap_or_else(|| entry.path_bytes().into_owned());
            let link = said.link.or_else(|| entry.link_name_bytes().map(|link| link.into_owned()));
            if said.size.is_some_and(|size| size != entry.size()) {
                return Err(refused(&name, "has a length that only an extended header can say; files up to 8 GiB can be unpacked"));
            }
            let header = entry.header();
            let number = |value: io::Result<u64>| value.unwrap_or(0);
            let id = |value: io::Result<u64>| u32::try_from(number(value)).ok().filter(|id| u64::from(*id) <= ID_MAX).unwrap_or(0);
            let mode_mask = match self.manners {
                Manners::Archive => 0o1777,
                Manners::Layer => 0o7777,
            };
            let dress = Dress {
                mode: header.mode().unwrap_or(0o644) & mode_mask,
                uid: id(header.uid()),
                gid: id(header.gid()),
                mtime: said.mtime.unwrap_or((i64::try_from(number(header.mtime())).unwrap_or(0), 0)),
                xattrs: said.xattrs,
            };
            let parts = self.parts(&name)?;
            if self.manners == Manners::Layer {
                if let Some(mark) = layer::mark(&parts).map_err(|rule| refused(&name, rule))? {
                    self.mark(mark, &parts, &name)?;
                    continue;
                }
                if matches!(kind, tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo) {
                    // A sandbox has a /dev of its own.
                    self.done.left_out += 1;
                    continue;
                }
                self.make_way(&parts, kind == tar::EntryType::Directory, &name)?;
            }
            match kind {
                tar::EntryType::Directory => self.folder(&parts, &dress, &name)?,
                // An older way to write a folder.
                tar::EntryType::Regular | tar::EntryType::Continuous if name.ends_with(b"/") => self.folder(&parts, &dress, &name)?,
                tar::EntryType::Regular | tar::EntryType::Continuous => self.file(&parts, &mut entry, &dress, &name)?,
                tar::EntryType::Symlink => self.symlink(&parts, &link.unwrap_or_default(), &dress, &name)?,
                tar::EntryType::Link => self.hard_link(&parts, &link.unwrap_or_default(), &name)?,
                tar::EntryType::GNUSparse => return Err(refused(&name, "is a sparse file in the old form, which is not unpacked; pack it without --sparse")),
                _ => return Err(refused(&name, "is neither file, folder nor link; devices, pipes and sockets are not unpacked")),
            }
        }
        self.finish()
    }

    fn zip(&mut self, reader: impl Read + Seek) -> Result<(), ArchiveError> {
        let mut archive = zip::ZipArchive::new(reader).map_err(|error| ArchiveError::Damaged(error.to_string()))?;
        for index in 0..archive.len() {
            self.count_entry()?;
            let mut entry = archive.by_index(index).map_err(|error| ArchiveError::Damaged(error.to_string()))?;
            let name = entry.name_raw().to_vec();
            if std::str::from_utf8(&name).is_err() {
                return Err(refused(&name, "has a name that is not UTF-8"));
            }
            let parts = self.parts(&name)?;
            let mode = entry.unix_mode();
            let mode_bits = mode.unwrap_or(if entry.is_dir() { 0o755 } else { 0o644 }) & 0o1777;
            let dress = Dress { mode: mode_bits, uid: 0, gid: 0, mtime: (0, 0), xattrs: Vec::new() };
            let kind = mode.map_or(0, |mode| mode & 0o170_000);
            if entry.is_dir() {
                self.folder(&parts, &dress, &name)?;
            } else if kind == 0o120_000 {
                let mut target = Vec::new();
                (&mut entry).take(PATH_MAX_BYTES as u64 + 1).read_to_end(&mut target).map_err(damaged)?;
                self.symlink(&parts, &target, &dress, &name)?;
            } else if kind == 0 || kind == 0o100_000 {
                self.file(&parts, &mut entry, &dress, &name)?;
            } else {
                return Err(refused(&name, "is neither file, folder nor link; devices, pipes and sockets are not unpacked"));
            }
        }
        Ok(())
    }

    fn parts(&self, name: &[u8]) -> Result<Vec<CString>, ArchiveError> {
        match self.manners {
            Manners::Archive => parts(name),
            // Some tools write the names of layers from the root.
            Manners::Layer => parts(&name[name.iter().take_while(|byte| **byte == b'/').count()..]),
        }
    }

    fn count_entry(&mut self) -> Result<(), ArchiveError> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            return Err(ArchiveError::TooMany { max: self.limits.entries_max });
        }
        Ok(())
    }

    /// The folder that the last part is in, with missing ones made.
    fn parent(&mut self, parts: &[CString], name: &[u8]) -> Result<Rc<OwnedFd>, ArchiveError> {
        let folders = &parts[..parts.len().saturating_sub(1)];
        if let Some((known, folder)) = &self.last
            && known == folders
        {
            return Ok(Rc::clone(folder));
        }
        let mut folder = self.top.try_clone().map_err(|error| tree("open", name, error))?;
        for (depth, part) in folders.iter().enumerate() {
            folder = match dir::open_folder(folder.as_fd(), part) {
                Ok(inner) => inner,
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(0o755)).map_err(|errno| tree("make", name, errno.into()))?;
                    self.note_implicit(&folders[..=depth], name)?;
                    dir::open_folder(folder.as_fd(), part).map_err(|errno| tree("open", name, errno.into()))?
                }
                // Gone below, and here anew by what is in it.
                Err(Errno::NOTDIR) if self.manners == Manners::Layer && is_gone(folder.as_fd(), part) => {
                    rustix::fs::unlinkat(&folder, part, AtFlags::empty())
                        .and_then(|()| rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(0o755)))
                        .map_err(|errno| tree("make", name, errno.into()))?;
                    let made = dir::open_folder(folder.as_fd(), part).map_err(|errno| tree("open", name, errno.into()))?;
                    layer::hide_below(made.as_fd()).map_err(|errno| tree("mark", name, errno.into()))?;
                    made
                }
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(refused(name, "leads through a link or file of the archive")),
                Err(errno) => return Err(tree("open", name, errno.into())),
            };
        }
        let folder = Rc::new(folder);
        self.last = Some((folders.to_vec(), Rc::clone(&folder)));
        Ok(folder)
    }

    fn folder(&mut self, parts: &[CString], dress: &Dress, name: &[u8]) -> Result<(), ArchiveError> {
        let Some(last) = parts.last() else {
            return match self.manners {
                Manners::Archive => Ok(()),
                Manners::Layer => {
                    self.remember_time(parts, dress);
                    put_on(self.top.as_fd(), dress, 0o700, name)
                }
            };
        };
        let parent = self.parent(parts, name)?;
        match rustix::fs::mkdirat(&parent, last, Mode::from_raw_mode(0o755)) {
            Ok(()) => self.done.files += 1,
            // Folders may be named again; what else was named is no folder.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(tree("make", name, errno.into())),
        }
        let made = match dir::open_folder(parent.as_fd(), last) {
            Ok(made) => made,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(refused(name, "was there already and is no folder")),
            Err(errno) => return Err(tree("open", name, errno.into())),
        };
        self.implicit.remove(parts);
        self.remember_time(parts, dress);
        put_on(made.as_fd(), dress, 0o700, name)
    }

    fn file(&mut self, parts: &[CString], contents: &mut dyn Read, dress: &Dress, name: &[u8]) -> Result<(), ArchiveError> {
        let last = named(parts, name)?;
        let parent = self.parent(parts, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&parent, last, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            Err(Errno::EXIST) => return Err(refused(name, "is in the archive twice")),
            Err(errno) => return Err(tree("make", name, errno.into())),
        };
        self.contents(contents, &file, name)?;
        self.done.files += 1;
        put_on(file.as_fd(), dress, 0, name)
    }

    fn contents(&mut self, from: &mut dyn Read, to: &OwnedFd, name: &[u8]) -> Result<(), ArchiveError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let copied = self.copy(from, to, name, &mut buffer);
        self.buffer = buffer;
        copied
    }

    fn copy(&mut self, from: &mut dyn Read, to: &OwnedFd, name: &[u8], buffer: &mut [u8]) -> Result<(), ArchiveError> {
        let mut at = 0u64;
        loop {
            let mut filled = 0;
            while filled < buffer.len() {
                match from.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(damaged(error)),
                }
            }
            if filled == 0 {
                break;
            }
            self.done.bytes += filled as u64;
            if self.done.bytes > self.limits.bytes_max {
                return Err(ArchiveError::TooLarge { max: self.limits.bytes_max });
            }
            for block in buffer[..filled].chunks(BLOCK_BYTES) {
                if block.iter().any(|byte| *byte != 0) {
                    write_at(to, block, at).map_err(|errno| tree("write", name, errno.into()))?;
                }
                at += block.len() as u64;
            }
        }
        rustix::fs::ftruncate(to, at).map_err(|errno| tree("write", name, errno.into()))
    }

    fn symlink(&mut self, parts: &[CString], target: &[u8], dress: &Dress, name: &[u8]) -> Result<(), ArchiveError> {
        let last = named(parts, name)?;
        match self.manners {
            Manners::Archive => stays_inside(parts.len() - 1, target),
            // Nothing of ours ever follows it.
            Manners::Layer => is_a_target(target),
        }
        .map_err(|rule| refused(name, rule))?;
        let parent = self.parent(parts, name)?;
        let target = CString::new(target).map_err(|_| refused(name, "has a target with a zero byte"))?;
        match rustix::fs::symlinkat(&target, &parent, last) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(refused(name, "is in the archive twice")),
            Err(errno) => return Err(tree("make", name, errno.into())),
        }
        self.done.files += 1;
        let owner = (Some(Uid::from_raw(dress.uid)), Some(Gid::from_raw(dress.gid)));
        rustix::fs::chownat(&parent, last, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| tree("give away", name, errno.into()))?;
        let Some(times) = times(dress) else { return Ok(()) };
        rustix::fs::utimensat(&parent, last, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| tree("set the time of", name, errno.into()))
    }

    fn hard_link(&mut self, parts: &[CString], target: &[u8], name: &[u8]) -> Result<(), ArchiveError> {
        let last = named(parts, name)?;
        let to = self.parts(target).map_err(|_| refused(name, "is a hard link to something outside the archive"))?;
        let to_last = to.last().ok_or_else(|| refused(name, "is a hard link to the top of the archive"))?;
        let folder = self.existing(&to).ok_or_else(|| refused(name, "is a hard link to what the archive did not bring before"))?;
        let kind = dir::stat(folder.as_fd(), to_last).ok().flatten().map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Some(FileType::RegularFile) => {}
            Some(FileType::Symlink) if self.manners == Manners::Layer => {}
            _ => return Err(refused(name, "is a hard link to what the archive did not bring as a file before")),
        }
        let parent = self.parent(parts, name)?;
        match rustix::fs::linkat(&folder, to_last, &parent, last, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(refused(name, "is in the archive twice")),
            Err(errno) => return Err(tree("link", name, errno.into())),
        }
        self.done.files += 1;
        Ok(())
    }

    /// Takes away for an entry of a layer what a former one made under its name.
    fn make_way(&mut self, parts: &[CString], for_folder: bool, name: &[u8]) -> Result<(), ArchiveError> {
        let (Some(last), Some(parent)) = (parts.last(), self.existing(parts)) else { return Ok(()) };
        let Some(stat) = dir::stat(parent.as_fd(), last).map_err(|errno| tree("look at", name, errno.into()))? else { return Ok(()) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if for_folder => return Ok(()),
            FileType::Directory => return Err(refused(name, "takes the place of a folder of the same layer")),
            _ => rustix::fs::unlinkat(&parent, last, AtFlags::empty()).map_err(|errno| tree("replace", name, errno.into()))?,
        }
        if for_folder && layer::is_whiteout(&stat) {
            // What it was made to hide stays hidden.
            self.folder(parts, &Dress { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0), xattrs: Vec::new() }, name)?;
            let folder = dir::open_folder(parent.as_fd(), last).map_err(|errno| tree("open", name, errno.into()))?;
            layer::hide_below(folder.as_fd()).map_err(|errno| tree("mark", name, errno.into()))?;
        }
        Ok(())
    }

    /// Hides what lies below a layer.
    fn mark(&mut self, mark: Mark, parts: &[CString], name: &[u8]) -> Result<(), ArchiveError> {
        let parent = self.parent(parts, name)?;
        match mark {
            Mark::Opaque => layer::hide_below(parent.as_fd()),
            Mark::Gone(gone) => match dir::stat(parent.as_fd(), &gone) {
                Ok(None) => layer::make_whiteout(parent.as_fd(), &gone),
                // The layer's own file hides what is below it by itself, and its own folder has to say so.
                Ok(Some(stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    dir::open_folder(parent.as_fd(), &gone).and_then(|folder| layer::hide_below(folder.as_fd()))
                }
                Ok(Some(_)) => Ok(()),
                Err(errno) => Err(errno),
            },
        }
        .map_err(|errno| tree("mark", name, errno.into()))
    }

    fn existing(&self, parts: &[CString]) -> Option<Rc<OwnedFd>> {
        let folders = &parts[..parts.len().saturating_sub(1)];
        if let Some((known, folder)) = &self.last
            && known == folders
        {
            return Some(Rc::clone(folder));
        }
        let mut folder = self.top.try_clone().ok()?;
        for part in folders {
            folder = dir::open_folder(folder.as_fd(), part).ok()?;
        }
        Some(Rc::new(folder))
    }

    /// Gives a folder its time when all is in it. Of an archive that names very many, the last ones keep the present.
    fn remember_time(&mut self, parts: &[CString], dress: &Dress) {
        let Some(times) = times(dress) else { return };
        self.times_bytes += parts.iter().map(|part| part.as_bytes().len() + FOLDER_OVERHEAD_BYTES).sum::<usize>();
        if self.times_bytes <= FOLDER_TIMES_MAX_BYTES {
            self.times.push((parts.to_vec(), times));
        }
    }

    fn note_implicit(&mut self, parts: &[CString], name: &[u8]) -> Result<(), ArchiveError> {
        if self.manners == Manners::Layer {
            self.implicit.insert(parts.to_vec());
        }
        if self.implicit.len() > IMPLICIT_MAX {
            return Err(refused(name, "is in one of more than 100,000 folders that no entry names; pack folders too"));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ArchiveError> {
        for (parts, times) in std::mem::take(&mut self.times) {
            let folder = match (parts.last(), self.existing(&parts)) {
                (Some(last), Some(parent)) => dir::open_folder(parent.as_fd(), last),
                (None, _) => self.top.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
                (Some(_), None) => continue,
            };
            // What took the place of the folder has a time of its own.
            if let Ok(folder) = folder {
                rustix::fs::futimens(&folder, &times).map_err(|errno| tree("set the time of", &path_of(&parts), errno.into()))?;
            }
        }
        Ok(())
    }
}

fn path_of(parts: &[CString]) -> Vec<u8> {
    parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>().join(&b'/')
}

fn put_on(fd: BorrowedFd<'_>, dress: &Dress, at_least: u32, name: &[u8]) -> Result<(), ArchiveError> {
    let dressed = |errno: Errno| tree("set owner, mode or time of", name, errno.into());
    rustix::fs::fchown(fd, Some(Uid::from_raw(dress.uid)), Some(Gid::from_raw(dress.gid))).map_err(dressed)?;
    // After the owner, whose change takes some away. Filesystems say in many ways that they cannot keep one.
    dir::set_xattrs(fd, &dress.xattrs).map_err(|_| refused(name, "has attributes that the filesystem here does not take, such as too large ones"))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(dress.mode | at_least)).map_err(dressed)?;
    match times(dress) {
        Some(times) => rustix::fs::futimens(fd, &times).map_err(dressed),
        None => Ok(()),
    }
}

/// Whether a name takes away what lies below a layer.
fn is_gone(folder: BorrowedFd<'_>, name: &CString) -> bool {
    dir::stat(folder, name).is_ok_and(|stat| stat.is_some_and(|stat| layer::is_whiteout(&stat)))
}

/// The times of an entry that says when it was changed.
fn times(dress: &Dress) -> Option<Timestamps> {
    let (tv_sec, nanoseconds) = dress.mtime;
    let time = Timespec { tv_sec, tv_nsec: nanoseconds.into() };
    (tv_sec > 0).then_some(Timestamps { last_access: time, last_modification: time })
}

fn write_at(to: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(to, bytes, at)?;
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}

fn refused(name: &[u8], rule: &'static str) -> ArchiveError {
    let mut shown: String = String::from_utf8_lossy(name).chars().take(200).collect();
    shown.retain(|c| !c.is_control());
    ArchiveError::Refused { name: shown, rule }
}

fn damaged(error: io::Error) -> ArchiveError {
    ArchiveError::Damaged(error.to_string())
}

fn tree(what: &'static str, name: &[u8], source: io::Error) -> ArchiveError {
    ArchiveError::Tree(TreeError::Io { what, path: PathBuf::from(String::from_utf8_lossy(name).into_owned()), source })
}
