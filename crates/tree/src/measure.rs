//! How much a tree takes.

use std::{collections::HashSet, os::fd::AsFd, path::Path};

use rustix::fs::{FileType, OFlags};

use crate::{Trail, TreeError, dir, failed};

/// What a tree takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// On disk; each file once.
    pub bytes: u64,
    pub inodes: u64,
}

/// Adds up a tree, without its top folder.
pub fn measure(top: &Path) -> Result<Measured, TreeError> {
    let mut walk = Walk { found: Measured::default(), seen: HashSet::new(), trail: Trail::default() };
    let top = dir::open_top(top)?;
    walk.folder(top.as_fd())?;
    Ok(walk.found)
}

struct Walk {
    found: Measured,
    /// Files with several names.
    seen: HashSet<u64>,
    trail: Trail,
}

impl Walk {
    fn folder(&mut self, folder: std::os::fd::BorrowedFd<'_>) -> Result<(), TreeError> {
        let names = dir::names(folder).map_err(failed("list", self.trail.path()))?;
        for name in names {
            let Some(stat) = dir::stat(folder, &name).map_err(failed("look at", self.trail.with(&name)))? else { continue };
            if stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory && !self.seen.insert(stat.st_ino) {
                continue;
            }
            self.found.inodes += 1;
            self.found.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.trail.enter(&name)?;
                match rustix::fs::openat(folder, &name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, rustix::fs::Mode::empty()) {
                    Ok(inner) => self.folder(inner.as_fd())?,
                    // Gone or replaced meanwhile.
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
                    Err(errno) => return Err(failed("open", self.trail.path())(errno)),
                }
                self.trail.leave();
            }
        }
        Ok(())
    }
}
