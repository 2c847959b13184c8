//! A tree made durable by itself, without waiting for what everybody else wrote.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::{fs::FileType, io::Errno};

use crate::{Trail, TreeError, dir, failed};

/// Waits until all files and folders of a tree are on disk.
pub fn sync(top: &Path) -> Result<(), TreeError> {
    let top = dir::open_top(top)?;
    folder(top.as_fd(), &mut Trail::default())
}

fn folder(own: BorrowedFd<'_>, trail: &mut Trail) -> Result<(), TreeError> {
    for name in dir::names(own).map_err(failed("list", trail.path()))? {
        let path = trail.with(&name);
        let Some(stat) = dir::stat(own, &name).map_err(failed("look at", path.clone()))? else { continue };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = dir::open_folder(own, &name).map_err(failed("open", path))?;
                trail.enter(&name)?;
                folder(inner.as_fd(), trail)?;
                trail.leave();
            }
            FileType::RegularFile => {
                let file = dir::open_file(own, &name).map_err(failed("open", path.clone()))?;
                rustix::fs::fsync(&file).map_err(failed("save", path))?;
            }
            // Links and marks are part of their folder.
            _ => {}
        }
    }
    match rustix::fs::fsync(own) {
        // Not every filesystem syncs folders.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(failed("save", trail.path())(errno)),
    }
}
