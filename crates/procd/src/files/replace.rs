//! Writing a file in one step: all of it appears at once, or nothing does.
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

const MODE: u32 = 0o644;
const PARENT_MODE: u32 = 0o755;
/// Links that a target is followed through, as the kernel does.
const LINKS_MAX: usize = 40;

/// A file that is being written beside its target. Dropped without a commit, it leaves nothing behind.
#[derive(Debug)]
pub struct Replacement {
    pub file: File,
    temporary: PathBuf,
    target: PathBuf,
    committed: AtomicBool,
}

impl Replacement {
    /// Makes the temporary file, and the target's parents when they are missing.
    ///
    /// # Errors
    /// `EISDIR` when the target is no regular file, and what the system says.
    pub fn begin(path: &Path, mode: Option<u32>) -> io::Result<Self> {
        let target = follow(path)?;
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(Errno::ISDIR.into());
        }
        let old = match std::fs::metadata(&target) {
            Ok(old) if !old.is_file() => return Err(Errno::ISDIR.into()),
            Ok(old) => Some(old),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("/"));
        let (file, temporary) = match create_beside(parent) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(PARENT_MODE).create(parent)?;
                create_beside(parent)?
            }
            created => created?,
        };
        // From here on, dropping removes the file.
        let new = Self { file, temporary, target, committed: AtomicBool::new(false) };
        if let Some(old) = &old {
            let own = new.file.metadata()?;
            if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
                // Without the right to, the file stays ours.
                let _ = std::os::unix::fs::fchown(&new.file, Some(old.uid()), Some(old.gid()));
            }
        }
        let mode = mode.or(old.map(|o| o.mode() & 0o7777)).unwrap_or(MODE);
        new.file.set_permissions(Permissions::from_mode(mode))?;
        Ok(new)
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// What the system says; the target is then as it was, unless it is a mount point, which cannot be replaced and
    /// is overwritten instead.
    pub fn commit(&self) -> io::Result<()> {
        match std::fs::rename(&self.temporary, &self.target) {
            Ok(()) => {
                self.committed.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::BUSY | Errno::XDEV)) => {
                let mut from = File::open(&self.temporary)?;
                let mut to = OpenOptions::new().write(true).truncate(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32).open(&self.target)?;
                io::copy(&mut from, &mut to).map(drop)
            }
            Err(e) => Err(e),
        }
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed.load(Ordering::Relaxed) {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn create_beside(parent: &Path) -> io::Result<(File, PathBuf)> {
    loop {
        let name: OsString = format!(".sandbar-{}.tmp", crate::context::start::random_hex()).into();
        let temporary = parent.join(name);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|file| (file, temporary)),
        }
    }
}

/// Where a write to `path` would go: links are followed, also to what does not exist yet.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match std::fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::INVAL | Errno::NOENT)) => return Ok(path),
            Err(e) => return Err(e),
        }
    }
    Err(Errno::LOOP.into())
}
