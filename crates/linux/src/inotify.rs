//! File system events.
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Create,
    Write,
    Remove,
    /// Moved away from this name.
    MovedFrom,
    /// Moved to this name.
    MovedTo,
    Attributes,
    /// The watched thing itself is gone; its watch has ended.
    Gone,
    /// The kernel's queue overflowed: events were lost.
    Overflow,
}

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    pub watch: i32,
    pub change: Change,
    /// Name within the watched directory; empty for the directory itself.
    pub name: PathBuf,
    pub is_dir: bool,
    /// The same for both halves of a move, 0 for all else.
    pub cookie: u32,
}

/// An inotify instance, nonblocking and closed on exec.
#[derive(Debug)]
pub struct Inotify(OwnedFd);

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl std::os::fd::AsRawFd for Inotify {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl Inotify {
    /// A new instance.
    ///
    /// # Errors
    /// `EMFILE` when the user has too many.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self(inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?))
    }

    /// Watches a directory's direct children and the directory itself.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOSPC` when the user has too many watches.
    pub fn add(&self, directory: &Path) -> Result<i32, Errno> {
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&self.0, directory, flags)
    }

    /// Ends a watch; one that has ended already is no error.
    pub fn remove(&self, watch: i32) {
        let _ = inotify::remove_watch(&self.0, watch);
    }

    /// The events that are there now; empty when there are none.
    ///
    /// # Errors
    /// As read.
    pub fn read(&self) -> Result<Vec<Event>, Errno> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut events = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let flags = event.events();
                    let change = if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                        Change::Overflow
                    } else if flags.intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT | ReadFlags::DELETE_SELF) {
                        Change::Gone
                    } else if flags.contains(ReadFlags::MOVE_SELF) {
                        Change::MovedFrom
                    } else if flags.contains(ReadFlags::CREATE) {
                        Change::Create
                    } else if flags.contains(ReadFlags::DELETE) {
                        Change::Remove
                    } else if flags.contains(ReadFlags::MOVED_FROM) {
                        Change::MovedFrom
                    } else if flags.contains(ReadFlags::MOVED_TO) {
                        Change::MovedTo
                    } else if flags.contains(ReadFlags::ATTRIB) {
                        Change::Attributes
                    } else {
                        Change::Write
                    };
                    let name = event.file_name().map(|n| PathBuf::from(std::ffi::OsStr::from_bytes(n.to_bytes())));
                    events.push(Event {
                        watch: event.wd(),
                        change,
                        name: name.unwrap_or_default(),
                        is_dir: flags.contains(ReadFlags::ISDIR),
                        cookie: event.cookie(),
                    });
                    // One buffer's worth at a time keeps the memory of a busy watch small.
                    if reader.is_buffer_empty() {
                        return Ok(events);
                    }
                }
                Err(Errno::AGAIN) => return Ok(events),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
}
