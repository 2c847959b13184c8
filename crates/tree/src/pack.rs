//! A tree as an archive.

use std::{
    collections::HashMap,
    ffi::{CString, OsStr},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{fs::FileType, io::Errno};

use crate::{Trail, TreeError, dir, failed, layer, unpack::Manners};

/// Writes a tree as a tar, sorted by name: files, folders, links and hard links, with modes, owners and times. Sockets,
/// pipes and devices are left out, and so is what vanishes meanwhile.
pub fn pack_tar(tree: &Path, out: impl Write) -> Result<(), TreeError> {
    pack(tree, out, Manners::Archive)
}

pub(crate) fn pack(tree: &Path, out: impl Write, manners: Manners) -> Result<(), TreeError> {
    let top = dir::open_top(tree)?;
    let mut builder = tar::Builder::new(out);
    builder.mode(tar::HeaderMode::Complete);
    let mut pack = Tar { builder, first: HashMap::new(), trail: Trail::default(), manners };
    pack.folder(top.as_fd())?;
    pack.builder.into_inner().and_then(|mut out| out.flush()).map_err(|source| TreeError::Io { what: "write", path: PathBuf::new(), source })
}

struct Tar<W: Write> {
    builder: tar::Builder<W>,
    /// Where files with several names came first.
    first: HashMap<u64, PathBuf>,
    trail: Trail,
    manners: Manners,
}

impl<W: Write> Tar<W> {
    fn folder(&mut self, folder: BorrowedFd<'_>) -> Result<(), TreeError> {
        if self.manners == Manners::Layer && layer::hides_below(folder) {
            self.mark(&layer::opaque_name())?;
        }
        for name in dir::names(folder).map_err(failed("list", self.trail.path()))? {
            self.entry(folder, &name)?;
        }
        Ok(())
    }

    fn entry(&mut self, folder: BorrowedFd<'_>, name: &CString) -> Result<(), TreeError> {
        let path = self.trail.with(name);
        let Some(stat) = dir::stat(folder, name).map_err(failed("look at", path.clone()))? else { return Ok(()) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.manners == Manners::Layer && layer::is_whiteout(&stat) {
            return self.mark(&layer::whiteout_name(name));
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(u64::from(stat.st_uid));
        header.set_gid(u64::from(stat.st_gid));
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(0);
        let place = path.clone();
        let wrote = |source: io::Error| TreeError::Io { what: "pack", path: place, source };
        match kind {
            FileType::Directory => {
                let inner = match dir::open_folder(folder, name) {
                    Ok(inner) => inner,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                    Err(errno) => return Err(failed("open", path)(errno)),
                };
                self.attributes(inner.as_fd(), &path)?;
                header.set_entry_type(tar::EntryType::Directory);
                let mut named = path.into_os_string();
                named.push("/");
                self.builder.append_data(&mut header, &named, io::empty()).map_err(wrote)?;
                self.trail.enter(name)?;
                self.folder(inner.as_fd())?;
                self.trail.leave();
                Ok(())
            }
            FileType::RegularFile | FileType::Symlink if stat.st_nlink > 1 && self.first.contains_key(&stat.st_ino) => {
                header.set_entry_type(tar::EntryType::Link);
                let first = self.first.get(&stat.st_ino).cloned().unwrap_or_default();
                self.builder.append_link(&mut header, &path, first).map_err(wrote)
            }
            FileType::RegularFile => {
                let file = match dir::open_file(folder, name) {
                    Ok(file) => file,
                    Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
                    Err(errno) => return Err(failed("open", path)(errno)),
                };
                let stat = rustix::fs::fstat(&file).map_err(failed("look at", path.clone()))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Ok(());
                }
                self.attributes(file.as_fd(), &path)?;
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(stat.st_size.unsigned_abs());
                // A file that is cut short meanwhile is filled up, so that what follows stays readable.
                let contents = io::Read::take(io::Read::chain(std::fs::File::from(file), io::repeat(0)), stat.st_size.unsigned_abs());
                self.builder.append_data(&mut header, &path, contents).map_err(wrote)?;
                if stat.st_nlink > 1 {
                    self.first.insert(stat.st_ino, path);
                }
                Ok(())
            }
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(folder, name, Vec::new()) {
                    Ok(target) => target,
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    Err(errno) => return Err(failed("read", path)(errno)),
                };
                header.set_entry_type(tar::EntryType::Symlink);
                self.builder.append_link(&mut header, &path, OsStr::from_bytes(target.as_bytes())).map_err(wrote)?;
                // Archives for people have links once more instead, which every tool can unpack.
                if stat.st_nlink > 1 && self.manners == Manners::Layer {
                    self.first.insert(stat.st_ino, path);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// An empty file whose name alone says something.
    fn mark(&mut self, name: &CString) -> Result<(), TreeError> {
        let path = self.trail.with(name);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0);
        header.set_size(0);
        self.builder.append_data(&mut header, &path, io::empty()).map_err(|source| TreeError::Io { what: "pack", path, source })
    }

    /// Writes the attributes that layers keep before the entry that has them.
    fn attributes(&mut self, fd: BorrowedFd<'_>, path: &Path) -> Result<(), TreeError> {
        if self.manners != Manners::Layer {
            return Ok(());
        }
        let all = dir::xattrs(fd).map_err(failed("read attributes of", path.to_owned()))?;
        let kept: Vec<_> = all.iter().filter(|(name, _)| layer::is_kept(name.to_bytes())).map(|(name, value)| (layer::xattr_key(name), value)).collect();
        if kept.is_empty() {
            return Ok(());
        }
        let pairs = kept.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.builder.append_pax_extensions(pairs).map_err(|source| TreeError::Io { what: "pack", path: path.to_owned(), source })
    }
}

/// Writes a tree as a zip, sorted by name: files, folders and links, with modes. Everything else is left out.
pub fn pack_zip(tree: &Path, out: impl Write) -> Result<(), TreeError> {
    let top = dir::open_top(tree)?;
    let mut pack = Zip { writer: zip::ZipWriter::new_stream(out), trail: Trail::default() };
    pack.folder(top.as_fd())?;
    let finished = pack.writer.finish().map_err(io::Error::other).and_then(|out| out.into_inner().flush());
    finished.map_err(|source| TreeError::Io { what: "write", path: PathBuf::new(), source })
}

struct Zip<W: Write> {
    writer: zip::ZipWriter<zip::write::StreamWriter<W>>,
    trail: Trail,
}

impl<W: Write> Zip<W> {
    fn folder(&mut self, folder: BorrowedFd<'_>) -> Result<(), TreeError> {
        for name in dir::names(folder).map_err(failed("list", self.trail.path()))? {
            self.entry(folder, &name)?;
        }
        Ok(())
    }

    fn entry(&mut self, folder: BorrowedFd<'_>, name: &CString) -> Result<(), TreeError> {
        let path = self.trail.with(name);
        let Some(stat) = dir::stat(folder, name).map_err(failed("look at", path.clone()))? else { return Ok(()) };
        // Names are UTF-8 in a zip.
        let shown = path.to_string_lossy().into_owned();
        let options = zip::write::SimpleFileOptions::default().unix_permissions(stat.st_mode & 0o777).large_file(stat.st_size > 0xffff_0000);
        let wrote = |error: io::Error| TreeError::Io { what: "pack", path: path.clone(), source: error };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = match dir::open_folder(folder, name) {
                    Ok(inner) => inner,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                    Err(errno) => return Err(failed("open", path)(errno)),
                };
                self.writer.add_directory(shown, options).map_err(|error| wrote(error.into()))?;
                self.trail.enter(name)?;
                self.folder(inner.as_fd())?;
                self.trail.leave();
            }
            FileType::RegularFile => {
                let file = match dir::open_file(folder, name) {
                    Ok(file) => file,
                    Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
                    Err(errno) => return Err(failed("open", path)(errno)),
                };
                let is_file = rustix::fs::fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
                if is_file {
                    self.writer.start_file(shown, options).map_err(|error| wrote(error.into()))?;
                    io::copy(&mut std::fs::File::from(file), &mut self.writer).map_err(wrote)?;
                }
            }
            FileType::Symlink => {
                let Ok(target) = rustix::fs::readlinkat(folder, name, Vec::new()) else { return Ok(()) };
                self.writer.add_symlink(shown, target.to_string_lossy(), options).map_err(|error| wrote(error.into()))?;
            }
            _ => {}
        }
        Ok(())
    }
}
