//! All names of a tree, each with one number for what it is; and a tree of which only some names are left.

use std::{
    ffi::{CStr, CString},
    io::Read,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType},
    io::Errno,
};
use sha2::{Digest, Sha256};

use crate::{Trail, TreeError, dir, failed};

/// One name of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// From the top, without a slash at either end.
    pub path: Vec<u8>,
    pub is_folder: bool,
    /// SHA-256 of type, permissions, contents or target, and `user.` attributes: neither owners nor times.
    pub digest: [u8; 32],
}

/// All names, each folder before what is in it, and names of one folder by their bytes.
pub fn listing(top: &Path) -> Result<Vec<Listed>, TreeError> {
    let mut walk = Walk { found: Vec::new(), trail: Trail::default() };
    walk.folder(dir::open_top(top)?.as_fd())?;
    Ok(walk.found)
}

/// Takes away all but what `keep` says of its path, and folders that are empty then. Nobody else may have the tree.
pub fn prune(top: &Path, keep: &dyn Fn(&[u8]) -> bool) -> Result<(), TreeError> {
    prune_folder(dir::open_top(top)?.as_fd(), keep, &mut Trail::default()).map(drop)
}

/// The bytes of a file right at the top; none when there is no such name.
///
/// # Errors
/// More than `bytes_max`; and what is there but is no regular file.
pub fn read_at_top(top: &Path, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, TreeError> {
    let fail = |what| failed(what, name.into());
    let Ok(name_bytes) = CString::new(name) else { return Ok(None) };
    if name.contains('/') {
        return Ok(None);
    }
    let folder = dir::open_top(top)?;
    let Some(stat) = dir::stat(folder.as_fd(), &name_bytes).map_err(fail("look at"))? else { return Ok(None) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(fail("read")(Errno::LOOP));
    }
    let file = dir::open_file(folder.as_fd(), &name_bytes).map_err(fail("open"))?;
    let mut bytes = Vec::new();
    let read = std::fs::File::from(file).take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(|source| TreeError::Io { what: "read", path: name.into(), source })?;
    if bytes.len() as u64 > bytes_max { Err(TreeError::TooLarge { max: bytes_max }) } else { Ok(Some(bytes)) }
}

struct Walk {
    found: Vec<Listed>,
    trail: Trail,
}

impl Walk {
    fn folder(&mut self, folder: BorrowedFd<'_>) -> Result<(), TreeError> {
        for name in dir::names(folder).map_err(failed("list", self.trail.path()))? {
            let path = self.trail.with(&name);
            let Some(stat) = dir::stat(folder, &name).map_err(failed("look at", path.clone()))? else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let mut hash = Sha256::new();
            hash.update((stat.st_mode & 0o170_777).to_le_bytes());
            let inner = match kind {
                FileType::Directory => {
                    let inner = dir::open_folder(folder, &name).map_err(failed("open", path.clone()))?;
                    attributes(&mut hash, inner.as_fd(), &path)?;
                    Some(inner)
                }
                FileType::RegularFile => {
                    let file = dir::open_file(folder, &name).map_err(failed("open", path.clone()))?;
                    attributes(&mut hash, file.as_fd(), &path)?;
                    let copied = std::io::copy(&mut std::fs::File::from(file), &mut hash);
                    copied.map_err(|source| TreeError::Io { what: "read", path: path.clone(), source })?;
                    None
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(folder, &name, Vec::new()).map_err(failed("read", path.clone()))?;
                    hash.update(target.as_bytes());
                    None
                }
                _ => None,
            };
            let mut bytes: Vec<u8> = Vec::new();
            for part in self.trail.0.iter().chain([&name]) {
                if !bytes.is_empty() {
                    bytes.push(b'/');
                }
                bytes.extend_from_slice(part.as_bytes());
            }
            self.found.push(Listed { path: bytes, is_folder: inner.is_some(), digest: hash.finalize().into() });
            if let Some(inner) = inner {
                self.trail.enter(&name)?;
                self.folder(inner.as_fd())?;
                self.trail.leave();
            }
        }
        Ok(())
    }
}

fn attributes(hash: &mut Sha256, fd: BorrowedFd<'_>, path: &Path) -> Result<(), TreeError> {
    for (name, value) in dir::xattrs(fd).map_err(failed("read attributes of", path.to_owned()))? {
        if name.as_bytes().starts_with(b"user.") {
            for field in [name.as_bytes(), &value] {
                hash.update((field.len() as u64).to_le_bytes());
                hash.update(field);
            }
        }
    }
    Ok(())
}

/// Whether nothing is left in it.
fn prune_folder(folder: BorrowedFd<'_>, keep: &dyn Fn(&[u8]) -> bool, trail: &mut Trail) -> Result<bool, TreeError> {
    let mut is_empty = true;
    for name in dir::names(folder).map_err(failed("list", trail.path()))? {
        let path = trail.with(&name);
        let Some(stat) = dir::stat(folder, &name).map_err(failed("look at", path.clone()))? else { continue };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let is_kept = keep(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
        let goes = if is_folder {
            let inner = dir::open_folder(folder, &name).map_err(failed("open", path.clone()))?;
            trail.enter(&name)?;
            let inner_is_empty = prune_folder(inner.as_fd(), keep, trail)?;
            trail.leave();
            inner_is_empty && !is_kept
        } else {
            !is_kept
        };
        if goes {
            remove(folder, &name, is_folder).map_err(failed("remove", path))?;
        } else {
            is_empty = false;
        }
    }
    Ok(is_empty)
}

fn remove(folder: BorrowedFd<'_>, name: &CStr, is_folder: bool) -> Result<(), Errno> {
    rustix::fs::unlinkat(folder, name, if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn names(top: &Path) -> Vec<String> {
        listing(top).unwrap().into_iter().map(|listed| String::from_utf8(listed.path).unwrap()).collect()
    }

    #[test]
    fn a_tree_is_listed_and_pruned_and_no_link_is_followed() {
        let top = std::env::temp_dir().join(format!("sandbar-listing-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir_all(top.join("empty")).unwrap();
        fs::write(top.join("a/b/one"), "1").unwrap();
        fs::write(top.join("a/two"), "2").unwrap();
        symlink("/etc", top.join("out")).unwrap();
        assert_eq!(names(&top), ["a", "a/b", "a/b/one", "a/two", "empty", "out"]);

        let before = listing(&top).unwrap();
        fs::write(top.join("a/two"), "3").unwrap();
        let changed: Vec<_> = listing(&top).unwrap().into_iter().zip(before).filter(|(now, then)| now.digest != then.digest).map(|(now, _)| now.path).collect();
        assert_eq!(changed, [b"a/two".to_vec()], "what a folder is says nothing of what is in it");

        assert_eq!(read_at_top(&top.join("a"), "two", 1).unwrap(), Some(b"3".to_vec()));
        assert_eq!(read_at_top(&top, "none", 1).unwrap(), None);
        assert_eq!(read_at_top(&top, "a/two", 1).unwrap(), None, "a name, not a path");
        fs::write(top.join("a/two"), "33").unwrap();
        assert!(matches!(read_at_top(&top.join("a"), "two", 1), Err(TreeError::TooLarge { max: 1 })));
        assert!(read_at_top(&top, "out", 100).is_err() && read_at_top(&top, "a", 100).is_err());

        prune(&top, &|path| path == b"a/b/one").unwrap();
        assert_eq!(names(&top), ["a", "a/b", "a/b/one"]);
        fs::remove_dir_all(&top).unwrap();
    }
}
