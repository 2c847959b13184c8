//! What has to lie on top of one tree to make another of it, as a layer of an overlay filesystem.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::fs::{AtFlags, FileType, Mode, Stat};

use crate::{
    TreeError,
    copy::{Copy, CopyOptions},
    dir, failed, layer,
};

/// Writes into the empty folder `to` what makes `merged` of `below`. Both are seen with ids from `from_base`; the result has
/// them from `to_base`. What is the same file in both, by time of change, size, mode and owner, is left out.
pub fn difference(below: &Path, merged: &Path, to: &Path, from_base: u32, to_base: u32) -> Result<(), TreeError> {
    let (below, merged, to) = (dir::open_top(below)?, dir::open_top(merged)?, dir::open_top(to)?);
    let options = CopyOptions { from_base, to_base, bytes_max: None };
    let mut copy = Copy::new(options, to.as_fd())?;
    folder(&mut copy, below.as_fd(), merged.as_fd(), to.as_fd())?;
    copy.dress(merged.as_fd(), to.as_fd())
}

/// Returns whether something was written.
fn folder(copy: &mut Copy, below: BorrowedFd<'_>, merged: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<bool, TreeError> {
    let mut wrote = false;
    let now = dir::names(merged).map_err(failed("list", copy.trail.path()))?;
    for name in dir::names(below).map_err(failed("list", copy.trail.path()))? {
        if now.binary_search(&name).is_err() {
            layer::make_whiteout(to, &name).map_err(failed("make", copy.trail.with(&name)))?;
            wrote = true;
        }
    }
    for name in now {
        let path = copy.trail.with(&name);
        let Some(stat) = dir::stat(merged, &name).map_err(failed("look at", path.clone()))? else { continue };
        let before = dir::stat(below, &name).map_err(failed("look at", path.clone()))?;
        let is_folder = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        match before {
            Some(before) if is_folder(&stat) && is_folder(&before) => wrote |= both(copy, below, merged, to, &name, is_same_folder(&before, &stat))?,
            Some(before) if !is_folder(&stat) && is_same(&before, &stat) => {}
            // New, or another thing than before: a file or link covers what is below it, a folder has to say so.
            other => {
                copy.entry(merged, to, &name)?;
                if is_folder(&stat) && other.is_some() {
                    let folder = dir::open_folder(to, &name).map_err(failed("open", path.clone()))?;
                    layer::hide_below(folder.as_fd()).map_err(failed("mark", path))?;
                }
                wrote = true;
            }
        }
    }
    Ok(wrote)
}

/// A folder in both: made for what differs in it, and taken away again when nothing does.
fn both(copy: &mut Copy, below: BorrowedFd<'_>, merged: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CString, is_same: bool) -> Result<bool, TreeError> {
    let path = copy.trail.with(name);
    let open = |parent| dir::open_folder(parent, name).map_err(failed("open", path.clone()));
    let (below, merged) = (open(below)?, open(merged)?);
    rustix::fs::mkdirat(to, name, Mode::RWXU).map_err(failed("make", path.clone()))?;
    let made: OwnedFd = open(to)?;
    copy.trail.enter(name)?;
    let wrote = folder(copy, below.as_fd(), merged.as_fd(), made.as_fd())?;
    copy.trail.leave();
    // Attributes leave no trace in a folder's time.
    let attributes = |folder: &OwnedFd| dir::xattrs(folder.as_fd()).map_err(failed("read attributes of", path.clone()));
    if wrote || !is_same || attributes(&below)? != attributes(&merged)? {
        copy.dress(merged.as_fd(), made.as_fd())?;
        return Ok(true);
    }
    rustix::fs::unlinkat(to, name, AtFlags::REMOVEDIR).map_err(failed("remove", path))?;
    Ok(false)
}

/// A file that was changed has another inode with a later time of change.
fn is_same(before: &Stat, now: &Stat) -> bool {
    let of = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
    of(before) == of(now)
}

fn is_same_folder(before: &Stat, now: &Stat) -> bool {
    let of = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec);
    of(before) == of(now)
}
