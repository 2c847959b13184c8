//! Requests and their answers.
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, ReadDir};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, StatVfs, StatVfsMountFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::entry;
use super::wire::{Attributes, DATA_BYTES_MAX, Fields, Malformed, PACKET_BYTES_MAX, Packet, Status, VERSION, kind};

/// Files and folders that are open at once.
const HANDLES_MAX: usize = 512;
/// Room that an answer with names keeps for one more.
const NAME_BYTES: usize = 2 * 4096;
const MODE_BITS: u32 = 0o7777;

/// What clients may ask for beyond the protocol, and in which version.
const EXTENSIONS: [(&str, &str); 8] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

mod open {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const APPEND: u32 = 4;
    pub const CREATE: u32 = 8;
    pub const TRUNCATE: u32 = 16;
    pub const EXCLUSIVE: u32 = 32;
}

enum Handle {
    File(File),
    Folder { path: PathBuf, entries: Box<ReadDir> },
}

/// Open files, by their number.
#[derive(Default)]
pub struct Server {
    handles: HashMap<u32, Handle>,
    next: u32,
    begun: bool,
}

/// Why there is no other answer than a status.
enum Refused {
    Status(Status, &'static str),
    System(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

impl From<Malformed> for Refused {
    fn from(_: Malformed) -> Self {
        Self::Status(Status::BadMessage, "the request is cut short")
    }
}

const NO_HANDLE: Refused = Refused::Status(Status::Failure, "there is no such handle");
const DONE: Refused = Refused::Status(Status::Ok, "");

impl Server {
    /// Answers one packet.
    ///
    /// # Errors
    /// The client does not begin as it has to.
    pub fn answer(&mut self, packet: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let nonsense = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
        let mut fields = Fields(packet);
        let number = fields.byte().map_err(|_| nonsense("an empty packet"))?;
        if !self.begun {
            if number != kind::INIT || fields.u32().map_err(|_| nonsense("no version"))? < VERSION {
                return Err(nonsense("the client does not speak version 3"));
            }
            self.begun = true;
            let mut answer = Packet::begin(out, kind::VERSION).u32(VERSION);
            for (name, version) in EXTENSIONS {
                answer = answer.string(name.as_bytes()).string(version.as_bytes());
            }
            answer.end();
            return Ok(());
        }
        let id = fields.u32().map_err(|_| nonsense("a request without a number"))?;
        if let Err(refused) = self.request(number, id, fields, out) {
            let (status, text) = match refused {
                Refused::Status(status, text) => (status, text.to_owned()),
                Refused::System(error) => (status_of(&error), crate::error::describe(&error)),
            };
            Packet::begin(out, kind::STATUS).u32(id).u32(status as u32).string(text.as_bytes()).string(b"en").end();
        }
        Ok(())
    }

    /// Answers with more than a status, or says which.
    fn request(&mut self, number: u8, id: u32, mut fields: Fields<'_>, out: &mut Vec<u8>) -> Result<(), Refused> {
        match number {
            kind::OPEN => {
                let (path, flags, attributes) = (fields.path()?, fields.u32()?, fields.attributes()?);
                let file = open_file(path, flags, attributes.mode)?;
                self.keep(Handle::File(file), id, out)
            }
            kind::OPENDIR => {
                let path = fields.path()?;
                let entries = Box::new(fs::read_dir(path)?);
                self.keep(Handle::Folder { path: path.to_owned(), entries }, id, out)
            }
            kind::CLOSE => {
                let handle = handle(&mut fields)?;
                self.handles.remove(&handle).map_or(Err(NO_HANDLE), |_| Err(DONE))
            }
            kind::READ => {
                let file = self.file(&mut fields)?;
                let (at, length) = (fields.u64()?, fields.u32()?);
                let max = (length as usize).min(DATA_BYTES_MAX);
                let filled = Packet::begin(out, kind::DATA).u32(id).filled(max, |bytes| read_at(file, bytes, at))?;
                filled.map(Packet::end).ok_or(Refused::Status(Status::Eof, "the end of the file"))
            }
            kind::WRITE => {
                let file = self.file(&mut fields)?;
                let (at, data) = (fields.u64()?, fields.string()?);
                file.write_all_at(data, at)?;
                Err(DONE)
            }
            kind::STAT => attributes(id, &fs::metadata(fields.path()?)?, out),
            kind::LSTAT => attributes(id, &fs::symlink_metadata(fields.path()?)?, out),
            kind::FSTAT => {
                let metadata = match self.handle(&mut fields)? {
                    Handle::File(file) => file.metadata()?,
                    Handle::Folder { path, .. } => fs::metadata(path)?,
                };
                attributes(id, &metadata, out)
            }
            kind::SETSTAT => {
                let path = fields.path()?;
                set(path, &fields.attributes()?, true)
            }
            kind::FSETSTAT => match self.handle(&mut fields)? {
                Handle::File(file) => set_file(file, &fields.attributes()?),
                Handle::Folder { path, .. } => set(path, &fields.attributes()?, true),
            },
            kind::READDIR => self.read_folder(id, &mut fields, out),
            kind::REMOVE => done(fs::remove_file(fields.path()?)),
            kind::MKDIR => {
                let (path, attributes) = (fields.path()?, fields.attributes()?);
                done(DirBuilder::new().mode(attributes.mode.unwrap_or(0o777) & MODE_BITS).create(path))
            }
            kind::RMDIR => done(fs::remove_dir(fields.path()?)),
            kind::REALPATH => name(id, real(fields.path()?)?.as_os_str().as_bytes(), out),
            kind::READLINK => name(id, &fs::read_link(fields.path()?)?.into_os_string().into_vec(), out),
            // In the order of OpenSSH, not of the draft: what it points to comes first.
            kind::SYMLINK => {
                let (target, link) = (fields.path()?, fields.path()?);
                done(std::os::unix::fs::symlink(target, link))
            }
            kind::RENAME => {
                let (from, to) = (fields.path()?, fields.path()?);
                done(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(Into::into))
            }
            kind::EXTENDED => self.extended(id, fields, out),
            _ => Err(Refused::Status(Status::Unsupported, "there is no such request")),
        }
    }

    fn extended(&mut self, id: u32, mut fields: Fields<'_>, out: &mut Vec<u8>) -> Result<(), Refused> {
        match fields.string()? {
            b"posix-rename@openssh.com" => {
                let (from, to) = (fields.path()?, fields.path()?);
                done(fs::rename(from, to))
            }
            b"hardlink@openssh.com" => {
                let (from, to) = (fields.path()?, fields.path()?);
                done(fs::hard_link(from, to))
            }
            b"fsync@openssh.com" => done(self.file(&mut fields)?.sync_all()),
            b"statvfs@openssh.com" => statvfs(id, &rustix::fs::statvfs(fields.path()?)?, out),
            b"fstatvfs@openssh.com" => match self.handle(&mut fields)? {
                Handle::File(file) => statvfs(id, &rustix::fs::fstatvfs(&*file)?, out),
                Handle::Folder { path, .. } => statvfs(id, &rustix::fs::statvfs(&*path)?, out),
            },
            b"lsetstat@openssh.com" => {
                let path = fields.path()?;
                set(path, &fields.attributes()?, false)
            }
            b"limits@openssh.com" => {
                let (packet, data) = (PACKET_BYTES_MAX as u64, DATA_BYTES_MAX as u64);
                Packet::begin(out, kind::EXTENDED_REPLY).u32(id).u64(packet).u64(data).u64(data).u64(HANDLES_MAX as u64).end();
                Ok(())
            }
            b"expand-path@openssh.com" => {
                let path = fields.path()?;
                let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into()));
                let expanded = match path.strip_prefix("~") {
                    Ok(rest) => home().join(rest),
                    Err(_) => path.to_owned(),
                };
                name(id, real(&expanded)?.as_os_str().as_bytes(), out)
            }
            _ => Err(Refused::Status(Status::Unsupported, "there is no such extension")),
        }
    }

    fn keep(&mut self, handle: Handle, id: u32, out: &mut Vec<u8>) -> Result<(), Refused> {
        if self.handles.len() >= HANDLES_MAX {
            return Err(Refused::Status(Status::Failure, "too many files are open; the limit is 512"));
        }
        while self.handles.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.handles.insert(number, handle);
        Packet::begin(out, kind::HANDLE).u32(id).string(&number.to_be_bytes()).end();
        Ok(())
    }

    fn handle(&mut self, fields: &mut Fields<'_>) -> Result<&mut Handle, Refused> {
        self.handles.get_mut(&handle(fields)?).ok_or(NO_HANDLE)
    }

    fn file(&mut self, fields: &mut Fields<'_>) -> Result<&File, Refused> {
        match self.handle(fields)? {
            Handle::File(file) => Ok(file),
            Handle::Folder { .. } => Err(NO_HANDLE),
        }
    }

    fn read_folder(&mut self, id: u32, fields: &mut Fields<'_>, out: &mut Vec<u8>) -> Result<(), Refused> {
        let Handle::Folder { path, entries } = self.handle(fields)? else { return Err(NO_HANDLE) };
        let mut answer = Packet::begin(out, kind::NAME).u32(id).u32(0);
        let mut count = 0;
        while answer.length() + NAME_BYTES < DATA_BYTES_MAX / 4 {
            let Some(found) = entries.next() else { break };
            let file_name = found?.file_name();
            // What vanished meanwhile is not there.
            let Ok(metadata) = fs::symlink_metadata(path.join(&file_name)) else { continue };
            let bytes = file_name.as_bytes();
            answer = answer.string(bytes).string(&entry::line(bytes, &metadata)).attributes(&Attributes::from(&metadata));
            count += 1;
        }
        if count == 0 {
            answer.abandon();
            return Err(Refused::Status(Status::Eof, "the end of the folder"));
        }
        answer.patch(5, count);
        answer.end();
        Ok(())
    }
}

fn handle(fields: &mut Fields<'_>) -> Result<u32, Refused> {
    let bytes = fields.string()?.try_into().map_err(|_| NO_HANDLE)?;
    Ok(u32::from_be_bytes(bytes))
}

fn done(result: io::Result<()>) -> Result<(), Refused> {
    result?;
    Err(DONE)
}

fn attributes(id: u32, metadata: &fs::Metadata, out: &mut Vec<u8>) -> Result<(), Refused> {
    Packet::begin(out, kind::ATTRS).u32(id).attributes(&metadata.into()).end();
    Ok(())
}

fn name(id: u32, name: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
    Packet::begin(out, kind::NAME).u32(id).u32(1).string(name).string(name).attributes(&Attributes::default()).end();
    Ok(())
}

fn statvfs(id: u32, s: &StatVfs, out: &mut Vec<u8>) -> Result<(), Refused> {
    let flags = u64::from(s.f_flag.contains(StatVfsMountFlags::RDONLY)) | u64::from(s.f_flag.contains(StatVfsMountFlags::NOSUID)) << 1;
    let mut answer = Packet::begin(out, kind::EXTENDED_REPLY).u32(id);
    for number in [s.f_bsize, s.f_frsize, s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_favail, s.f_fsid, flags, s.f_namemax] {
        answer = answer.u64(number);
    }
    answer.end();
    Ok(())
}

fn open_file(path: &Path, flags: u32, mode: Option<u32>) -> Result<File, Refused> {
    let has = |flag: u32| flags & flag != 0;
    let write = has(open::WRITE) || has(open::APPEND);
    let mut options = OpenOptions::new();
    options.read(has(open::READ) || !write).write(has(open::WRITE) && !has(open::APPEND)).append(has(open::APPEND));
    if write && has(open::CREATE) {
        if has(open::EXCLUSIVE) {
            options.create_new(true);
        } else if has(open::APPEND) {
            options.create(true);
        } else {
            options.create(true).truncate(has(open::TRUNCATE));
        }
    } else if has(open::TRUNCATE) && has(open::WRITE) && !has(open::APPEND) {
        options.truncate(true);
    }
    Ok(options.mode(mode.unwrap_or(0o666) & MODE_BITS).open(path)?)
}

/// Of what has no places, such as a pipe, what comes next.
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(bytes, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SPIPE) => return io::Read::read(&mut &*file, bytes),
            result => return result,
        }
    }
}

/// The path without links, dots and relative parts; its last part may be missing.
fn real(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                Ok(fs::canonicalize(parent)?.join(name))
            }
            _ => Err(error),
        },
        result => result,
    }
}

fn times((accessed, changed): (u32, u32)) -> Timestamps {
    let at = |seconds: u32| Timespec { tv_sec: i64::from(seconds), tv_nsec: 0 };
    Timestamps { last_access: at(accessed), last_modification: at(changed) }
}

/// Changes what is named, of a link itself without `follow`.
fn set(path: &Path, to: &Attributes, follow: bool) -> Result<(), Refused> {
    if let Some(size) = to.size {
        if !follow {
            return Err(Refused::Status(Status::Unsupported, "a link has no size to set"));
        }
        OpenOptions::new().write(true).open(path)?.set_len(size)?;
    }
    if let Some((uid, gid)) = to.owner {
        let chown = if follow { std::os::unix::fs::chown::<&Path> } else { std::os::unix::fs::lchown };
        chown(path, Some(uid), Some(gid))?;
    }
    // After the owner, whose change takes bits away.
    if let Some(mode) = to.mode {
        if !follow && fs::symlink_metadata(path)?.is_symlink() {
            return Err(Refused::Status(Status::Unsupported, "a link has no mode to set"));
        }
        fs::set_permissions(path, Permissions::from_mode(mode & MODE_BITS))?;
    }
    if let Some(to) = to.times {
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        rustix::fs::utimensat(CWD, path, &times(to), flags)?;
    }
    Err(DONE)
}

fn set_file(file: &File, to: &Attributes) -> Result<(), Refused> {
    if let Some(size) = to.size {
        file.set_len(size)?;
    }
    if let Some((uid, gid)) = to.owner {
        std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
    }
    if let Some(mode) = to.mode {
        file.set_permissions(Permissions::from_mode(mode & MODE_BITS))?;
    }
    if let Some(to) = to.times {
        rustix::fs::futimens(file, &times(to))?;
    }
    Err(DONE)
}

fn status_of(error: &io::Error) -> Status {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::BADF | Errno::LOOP | Errno::NOTDIR) => Status::NoSuchFile,
        Some(Errno::PERM | Errno::ACCESS | Errno::FAULT | Errno::ROFS) => Status::PermissionDenied,
        Some(Errno::NAMETOOLONG | Errno::INVAL) => Status::BadMessage,
        Some(Errno::NOSYS | Errno::OPNOTSUPP) => Status::Unsupported,
        _ => Status::Failure,
    }
}
