//! One tree moved into another: folders are joined, files and links take the place of what had their name.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode},
    io::Errno,
};

use crate::{Trail, TreeError, dir, failed};

/// Moves all of `from` into the folder `to` of the same filesystem, below `below`, which is made where it is missing. A
/// folder takes the place of nothing but a folder; a file of nothing but a file or link.
pub fn merge(from: &Path, to: &Path, below: &str) -> Result<(), TreeError> {
    let (from, mut to) = (dir::open_top(from)?, dir::open_top(to)?);
    for part in below.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let name = CString::new(part).map_err(|_| failed("open", part.into())(Errno::INVAL))?;
        match rustix::fs::mkdirat(&to, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("make", part.into())(errno)),
        }
        // `..` would be the only way up, and no folder has that name for itself.
        to = if part == ".." {
            return Err(failed("open", part.into())(Errno::INVAL));
        } else {
            dir::open_folder(to.as_fd(), &name).map_err(failed("open", part.into()))?
        };
    }
    join(from.as_fd(), to.as_fd(), &mut Trail::default())
}

fn join(from: BorrowedFd<'_>, to: BorrowedFd<'_>, trail: &mut Trail) -> Result<(), TreeError> {
    for name in dir::names(from).map_err(failed("list", trail.path()))? {
        let path = trail.with(&name);
        let Some(stat) = dir::stat(from, &name).map_err(failed("look at", path.clone()))? else { continue };
        let there = dir::stat(to, &name).map_err(failed("look at", path.clone()))?;
        let is_folder = |mode| FileType::from_raw_mode(mode) == FileType::Directory;
        if is_folder(stat.st_mode) && there.is_some_and(|there| is_folder(there.st_mode)) {
            let (inner, outer) =
                (dir::open_folder(from, &name).map_err(failed("open", path.clone()))?, dir::open_folder(to, &name).map_err(failed("open", path.clone()))?);
            trail.enter(&name)?;
            join(inner.as_fd(), outer.as_fd(), trail)?;
            trail.leave();
            rustix::fs::unlinkat(from, &name, AtFlags::REMOVEDIR).map_err(failed("remove", path))?;
            continue;
        }
        rustix::fs::renameat(from, &name, to, &name).map_err(failed("put in place", path))?;
    }
    Ok(())
}
