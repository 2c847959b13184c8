//! One number for a whole tree: equal when everything that a program inside could tell is equal.

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::fs::FileType;
use sha2::{Digest, Sha256};

use crate::{Trail, TreeError, dir, failed};

/// Names, types, modes, owners above `base`, contents, link targets, shared names and `user.` attributes, in hex. Times
/// are not in it.
pub fn hash(top: &Path, base: u32) -> Result<String, TreeError> {
    let mut walk = Walk { hash: Sha256::new(), base, first: HashMap::new(), trail: Trail::default() };
    let top = dir::open_top(top)?;
    walk.folder(top.as_fd())?;
    Ok(hex::encode(walk.hash.finalize()))
}

struct Walk {
    hash: Sha256,
    base: u32,
    /// Number of the first name of files with several.
    first: HashMap<u64, u64>,
    trail: Trail,
}

impl Walk {
    fn folder(&mut self, folder: BorrowedFd<'_>) -> Result<(), TreeError> {
        self.xattrs(folder)?;
        let names = dir::names(folder).map_err(failed("list", self.trail.path()))?;
        for name in names {
            let path = self.trail.with(&name);
            let Some(stat) = dir::stat(folder, &name).map_err(failed("look at", path.clone()))? else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            self.field(name.as_bytes());
            for number in [u64::from(stat.st_mode), u64::from(stat.st_uid.wrapping_sub(self.base)), u64::from(stat.st_gid.wrapping_sub(self.base))] {
                self.hash.update(number.to_le_bytes());
            }
            if stat.st_nlink > 1 && kind != FileType::Directory {
                let next = self.first.len() as u64 + 1;
                let group = *self.first.entry(stat.st_ino).or_insert(next);
                self.hash.update(group.to_le_bytes());
            }
            match kind {
                FileType::Directory => {
                    let inner = dir::open_folder(folder, &name).map_err(failed("open", path.clone()))?;
                    self.trail.enter(&name)?;
                    self.hash.update(b"(");
                    self.folder(inner.as_fd())?;
                    self.hash.update(b")");
                    self.trail.leave();
                }
                FileType::RegularFile => {
                    let file = dir::open_file(folder, &name).map_err(failed("open", path.clone()))?;
                    self.xattrs(file.as_fd())?;
                    self.hash.update(stat.st_size.to_le_bytes());
                    let mut file = std::fs::File::from(file);
                    std::io::copy(&mut file, &mut self.hash).map_err(|source| TreeError::Io { what: "read", path: path.clone(), source })?;
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(folder, &name, Vec::new()).map_err(failed("read", path.clone()))?;
                    self.field(target.as_bytes());
                }
                _ => self.hash.update(stat.st_rdev.to_le_bytes()),
            }
        }
        Ok(())
    }

    fn xattrs(&mut self, fd: BorrowedFd<'_>) -> Result<(), TreeError> {
        for (name, value) in dir::xattrs(fd).map_err(failed("read attributes of", self.trail.path()))? {
            if name.as_bytes().starts_with(b"user.") {
                self.field(name.as_bytes());
                self.field(&value);
            }
        }
        Ok(())
    }

    fn field(&mut self, bytes: &[u8]) {
        self.hash.update((bytes.len() as u64).to_le_bytes());
        self.hash.update(bytes);
    }
}
