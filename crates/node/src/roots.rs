//! Writable roots: the upper layer of each sandbox, below `DATA/roots`, and the trash that empties removed ones.

use std::{
    collections::{HashSet, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

/// Ids that a sandbox's user namespace maps.
pub const UIDS_PER_SANDBOX: u32 = 65_536;
/// The first host uid of the first range. Never 0: a namespace that maps host root can write its `/proc/sys`.
pub const UID_BASE_FIRST: u32 = 1_000_000;
/// Ranges there are: the last one still ends below 2^32 - 1.
pub const UID_SLOTS_MAX: u32 = 60_000;

#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("all {UID_SLOTS_MAX} uid ranges are in use")]
    NoUidRange,
}

/// Folders of one writable root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub id: String,
    pub uid_slot: u32,
}

impl Root {
    /// The host uid that is root inside.
    pub fn uid_base(&self) -> u32 {
        uid_base_of(self.uid_slot)
    }
}

/// The folder of all roots, and who has which uid range.
#[derive(Debug, Clone)]
pub struct Roots {
    dir: PathBuf,
    trash: PathBuf,
    slots: Arc<Mutex<Slots>>,
    trash_count: Arc<AtomicU64>,
    emptying: Arc<Emptying>,
}

/// One empties the trash at a time; who comes meanwhile leaves a note for that one.
#[derive(Debug, Default)]
struct Emptying {
    busy: Mutex<()>,
    wanted: AtomicBool,
}

#[derive(Debug, Default)]
struct Slots {
    used: HashSet<u32>,
    next: u32,
}

impl Roots {
    /// Opens `data_dir/roots`. `used` are the ranges of roots that rows own.
    pub fn open(data_dir: &Path, used: impl IntoIterator<Item = u32>) -> Result<Self, RootError> {
        let dir = data_dir.join("roots");
        let trash = data_dir.join("trash");
        for path in [&dir, &trash] {
            make_private_dir(path)?;
        }
        let mut slots = Slots { used: used.into_iter().collect(), next: 0 };
        // Layers are roots whose rows name no range.
        slots.used.extend(list_names(&dir).iter().filter_map(|id| slot_of(&dir.join(id).join("upper"))));
        Ok(Self { dir, trash, slots: Arc::new(Mutex::new(slots)), trash_count: Arc::default(), emptying: Arc::default() })
    }

    pub fn upper(&self, id: &str) -> PathBuf {
        self.dir.join(id).join("upper")
    }

    pub fn work(&self, id: &str) -> PathBuf {
        self.dir.join(id).join("work")
    }

    /// Makes an empty root with a uid range of its own.
    pub fn create(&self) -> Result<Root, RootError> {
        let uid_slot = self.take_slot()?;
        let root = Root { id: crate::random_id("root-"), uid_slot };
        let owner = root.uid_base();
        let made = make_private_dir(&self.dir.join(&root.id)).and_then(|()| {
            for path in [self.upper(&root.id), self.work(&root.id)] {
                fs::create_dir(&path).map_err(|source| RootError::Io { what: "make", path: path.clone(), source })?;
                std::os::unix::fs::chown(&path, Some(owner), Some(owner)).map_err(|source| RootError::Io { what: "give away", path, source })?;
            }
            Ok(())
        });
        match made {
            Ok(()) => Ok(root),
            Err(error) => {
                self.remove(&root);
                Err(error)
            }
        }
    }

    /// Limits what a root may take on disk, where the filesystem can hold such a limit; `false` means that somebody has
    /// to watch it.
    pub fn limit(&self, root: &Root, bytes: u64) -> bool {
        // The range's number is this machine's own name for the root, and far from ids that people give to projects.
        let project = root.uid_base();
        sandbar_linux::quota::apply(&self.dir.join(&root.id), project, bytes).unwrap_or_else(|error| {
            tracing::warn!(root = root.id, %error, "the filesystem refused a disk limit; it is watched instead");
            false
        })
    }

    /// Takes a root away at once, by a rename; its files are removed by [`Roots::empty_trash`].
    pub fn remove(&self, root: &Root) {
        self.discard(&root.id);
        self.lock().used.remove(&root.uid_slot);
    }

    /// Ids of all roots on disk.
    pub fn list(&self) -> Vec<String> {
        list_names(&self.dir)
    }

    /// The range that a root's files belong to, by what is on disk.
    pub fn slot(&self, id: &str) -> Option<u32> {
        slot_of(&self.upper(id))
    }

    /// Takes a root away whose range only the disk tells.
    pub fn remove_by_id(&self, id: &str) {
        let slot = self.slot(id);
        self.discard(id);
        if let Some(slot) = slot {
            self.lock().used.remove(&slot);
        }
    }

    /// Discards a root that no row owns.
    pub fn discard(&self, id: &str) {
        self.trash(&self.dir.join(id), id);
    }

    pub(crate) fn trash_dir(&self) -> &Path {
        &self.trash
    }

    /// Moves a folder of this data directory to the trash.
    pub fn trash(&self, from: &Path, id: &str) {
        let to = self.trash.join(format!("{id}-{}", self.trash_count.fetch_add(1, Ordering::Relaxed)));
        if let Err(error) = fs::rename(from, &to)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(id, %error, "a folder could not be moved to the trash");
        }
    }

    /// Deletes everything in the trash. Slow for big trees; runs beside everything else.
    pub fn empty_trash(&self) {
        self.emptying.wanted.store(true, Ordering::SeqCst);
        // Asked again after the lock was given back: a note left in between must not be missed.
        while self.emptying.wanted.load(Ordering::SeqCst) {
            let Ok(_only_one) = self.emptying.busy.try_lock() else { return };
            while self.emptying.wanted.swap(false, Ordering::SeqCst) {
                if let Err(error) = empty_dir_flat(&self.trash) {
                    tracing::warn!(%error, "the trash could not be emptied; it will be tried again");
                }
            }
        }
    }

    fn take_slot(&self) -> Result<u32, RootError> {
        let mut slots = self.lock();
        for _ in 0..UID_SLOTS_MAX {
            let slot = slots.next % UID_SLOTS_MAX;
            slots.next = slot + 1;
            if slots.used.insert(slot) {
                return Ok(slot);
            }
        }
        Err(RootError::NoUidRange)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The range of whoever owns a folder.
fn slot_of(dir: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let uid = fs::symlink_metadata(dir).ok()?.uid();
    uid.checked_sub(UID_BASE_FIRST).map(|ids| ids / UIDS_PER_SANDBOX).filter(|slot| *slot < UID_SLOTS_MAX)
}

/// The host id that is 0 in a range.
pub fn uid_base_of(slot: u32) -> u32 {
    UID_BASE_FIRST + slot * UIDS_PER_SANDBOX
}

/// Makes a folder that only the server's user can enter, unless it is there.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), RootError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(|source| RootError::Io { what: "make", path: path.to_owned(), source })
}

pub(crate) fn list_names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).map(|entries| entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()).unwrap_or_default()
}

/// Deletes all that is below `top` without ever holding more than two folders open and without recursion, so that
/// a tree of any depth, made by a stranger, costs neither stack nor descriptors: each folder that is met is first
/// moved up to `top` under a new name. Links are removed, never followed.
fn empty_dir_flat(top: &Path) -> io::Result<()> {
    let top_fd = rustix::fs::open(top, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let mut queue: VecDeque<std::ffi::CString> = VecDeque::new();
    let mut moved = 0u64;
    let unique = crate::random_id("m");
    for entry in Dir::read_from(&top_fd)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            queue.push_back(name);
        }
    }
    while let Some(name) = queue.pop_front() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = match rustix::fs::openat(&top_fd, &name, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(rustix::io::Errno::NOENT) => continue,
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                rustix::fs::unlinkat(&top_fd, &name, AtFlags::empty())?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let child = entry.file_name();
            if matches!(child.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => {
                    rustix::fs::statat(&dir, child, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
                }
                _ => false,
            };
            if !is_dir {
                rustix::fs::unlinkat(&dir, child, AtFlags::empty())?;
                continue;
            }
            // An empty folder goes at once; others are queued at the top.
            if rustix::fs::unlinkat(&dir, child, AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            moved += 1;
            let up = std::ffi::CString::new(format!("{unique}-{moved}")).map_err(io::Error::other)?;
            rustix::fs::renameat(&dir, child, &top_fd, &up)?;
            queue.push_back(up);
        }
        drop(dir);
        match rustix::fs::unlinkat(&top_fd, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            // Something appeared meanwhile (readdir may miss it): look again.
            Err(rustix::io::Errno::NOTEMPTY) => queue.push_back(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_tree_with_links_is_removed_and_the_links_targets_stay() {
        let top = std::env::temp_dir().join(crate::random_id("sandbar-trash-"));
        let outside = top.join("outside");
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("keep"), b"x").unwrap();
        let roots = Roots::open(&top, []).unwrap();
        let root = roots.create().unwrap();
        let upper = roots.upper(&root.id);
        std::os::unix::fs::symlink(&outside, upper.join("link")).unwrap();
        // Deeper than PATH_MAX allows in one path: built from the inside by relative steps.
        let mut dir = rustix::fs::open(&upper, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = rustix::fs::openat(&dir, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        drop(dir);
        roots.remove(&root);
        assert!(roots.list().is_empty());
        roots.empty_trash();
        assert!(list_names(&top.join("trash")).is_empty());
        assert!(outside.join("keep").exists());
        fs::remove_dir_all(&top).unwrap();
    }
}
