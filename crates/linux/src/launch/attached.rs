//! The root for kernels before 6.15, whose overlayfs takes a layer only by a path in the mount namespace of the thread that mounts it: a layer that is
//! shifted to the sandbox's ids is a mount of its own and so has to be attached somewhere for a moment.
//!
//! That somewhere is a mount namespace with nothing in it but an empty tmpfs. One thread of ours lives there and does nothing else, so nobody on the
//! machine sees these mounts, the host's own mounts are not held by it, and filesystems that were mounted after it began are no trouble, since all
//! layers arrive as detached mounts made by the launching thread. Should the process die, the namespace goes with it.
//!
//! The first refusal is remembered, so that later launches do not try the other way again.
use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use rustix::{
    fs::{CWD, Mode},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
};

use super::{LOWERS_MAX, LaunchSpec, mounts};

/// Launches that may wait for the thread; more wait for a place.
const WAITING_MAX: usize = 64;
const THREAD: &str = "sandbar-layers";
/// Two calls deep at most.
const STACK_BYTES: usize = 256 << 10;

// Names in the thread's own tmpfs. A request's mounts all lie below `BENCH`, so that one unmount takes them all.
const BENCH: &str = "/l";
const WRITABLE: &str = "/l/w";
const ROOT: &str = "/l/o";

/// Whether detached layers were refused.
static NEEDED: AtomicBool = AtomicBool::new(false);
/// For tests on newer kernels.
static REFUSED: AtomicBool = AtomicBool::new(false);
/// To the thread, while there is one.
static THREAD_INBOX: Mutex<Option<SyncSender<Request>>> = Mutex::new(None);

/// One root to make.
struct Request {
    /// Detached and shifted, top first.
    lowers: Vec<OwnedFd>,
    /// The directory that holds the writable layer, detached.
    writable: OwnedFd,
    options: CString,
    reply: SyncSender<io::Result<OwnedFd>>,
}

/// Whether to go this way at once.
pub(super) fn needed() -> bool {
    NEEDED.load(Ordering::Relaxed)
}

/// To be called when this way went well after the other was refused.
pub(super) fn remember() {
    NEEDED.store(true, Ordering::Relaxed);
}

/// Whether a test wants the other way to be refused.
pub(super) fn refused() -> bool {
    REFUSED.load(Ordering::Relaxed)
}

/// Makes this process treat its kernel as one from before 6.15, for tests.
#[doc(hidden)]
pub fn refuse_detached_layers() {
    REFUSED.store(true, Ordering::Relaxed);
}

/// Whether this process has had to attach the layers of a root: it was asked to make one, and the kernel is older than 6.15.
pub fn layers_are_attached() -> bool {
    needed()
}

/// Mounts the overlay from these shifted layers; the result is detached.
pub(super) fn overlay(spec: &LaunchSpec<'_>, lowers: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    let (dir, upper, work) = writable_names(spec.upper, spec.work)?;
    let writable = mounts::clone_tree(dir)?;
    // A clone of a shared mount is shared: what anyone mounts beneath the original would follow it here.
    mounts::keep_private(writable.as_fd())?;
    for lower in &lowers {
        mounts::keep_private(lower.as_fd())?;
    }
    let layers: Vec<String> = (0..lowers.len()).map(layer).collect();
    let options = format!("lowerdir={},upperdir={WRITABLE}/{upper},workdir={WRITABLE}/{work},redirect_dir=on", layers.join(":"));
    let options = CString::new(options).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let (reply, answer) = sync_channel(1);
    send(Request { lowers, writable, options, reply })?;
    answer.recv().map_err(|_| gone())?
}

/// The directory that holds both, and their names, which become part of mount options.
fn writable_names<'a>(upper: &'a Path, work: &'a Path) -> io::Result<(&'a Path, &'a str, &'a str)> {
    let name = |path: &'a Path| match path.components().next_back() {
        Some(Component::Normal(name)) => name.to_str().filter(|name| !name.contains([',', ':', '\\'])),
        _ => None,
    };
    match (upper.parent(), name(upper), name(work)) {
        (Some(dir), Some(upper), Some(work_name)) if work.parent() == Some(dir) => Ok((dir, upper, work_name)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "upper and work must lie in one directory and have plain names")),
    }
}

fn layer(index: usize) -> String {
    format!("{BENCH}/{index}")
}

/// Gives the request to the thread, which is started when there is none.
fn send(request: Request) -> io::Result<()> {
    let inbox = {
        let mut place = THREAD_INBOX.lock().unwrap_or_else(PoisonError::into_inner);
        match &*place {
            Some(inbox) => inbox.clone(),
            None => place.insert(start()?).clone(),
        }
    };
    inbox.send(request).map_err(|_| {
        *THREAD_INBOX.lock().unwrap_or_else(PoisonError::into_inner) = None;
        gone()
    })
}

fn gone() -> io::Error {
    io::Error::other("the thread that attaches layers has ended")
}

fn start() -> io::Result<SyncSender<Request>> {
    let (inbox, requests) = sync_channel(WAITING_MAX);
    let (begun, begin) = sync_channel(1);
    thread::Builder::new().name(THREAD.to_owned()).stack_size(STACK_BYTES).spawn(move || {
        let entered = enter();
        let go_on = entered.is_ok();
        // Nobody listens when the starter was cancelled; then the inbox is closed too.
        let _ = begun.send(entered);
        if go_on {
            serve(&requests);
        }
    })?;
    begin.recv().map_err(|_| gone())??;
    Ok(inbox)
}

fn serve(requests: &Receiver<Request>) {
    while let Ok(request) = requests.recv() {
        let reply = request.reply.clone();
        let bench = match Bench::new() {
            Ok(bench) => bench,
            Err(e) => {
                let _ = reply.send(Err(e));
                continue;
            }
        };
        let made = make(&request);
        // Taking mounts away waits for every processor; the sandbox goes on meanwhile.
        let _ = reply.send(made);
        drop(request);
        if bench.clear().is_err() {
            // Mounts that cannot be taken away go with the namespace, and that goes with its only thread.
            break;
        }
    }
    *THREAD_INBOX.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

fn make(request: &Request) -> io::Result<OwnedFd> {
    attach(request.writable.as_fd(), WRITABLE)?;
    for (index, lower) in request.lowers.iter().enumerate() {
        attach(lower.as_fd(), &layer(index))?;
    }
    // Not by fsconfig, which holds each option to 256 bytes and cannot take layers one by one before Linux 6.8.
    rustix::mount::mount("overlay", ROOT, "overlay", MountFlags::NOSUID | MountFlags::NODEV, request.options.as_c_str())?;
    let root = rustix::mount::open_tree(CWD, ROOT, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    mounts::check_writable(root.as_fd())?;
    Ok(root)
}

fn attach(tree: BorrowedFd<'_>, at: &str) -> io::Result<()> {
    Ok(rustix::mount::move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// A second mount of [`BENCH`] on itself, to which the mounts of one request are attached.
struct Bench;

impl Bench {
    fn new() -> io::Result<Self> {
        let tree = rustix::mount::open_tree(CWD, BENCH, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        attach(tree.as_fd(), BENCH)?;
        Ok(Self)
    }

    fn clear(self) -> io::Result<()> {
        Ok(rustix::mount::unmount(BENCH, UnmountFlags::DETACH)?)
    }
}

/// Moves this thread alone into a mount namespace that holds one tmpfs.
fn enter() -> io::Result<()> {
    // SAFETY: neither flag touches file descriptors or memory; the root and working directory that this thread no longer shares with the others are
    // used by nothing but this module's calls.
    if unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "mode", "700")?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "size", "64k")?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tmpfs = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    attach(tmpfs.as_fd(), "/")?;
    rustix::process::fchdir(&tmpfs)?;
    rustix::process::pivot_root(".", ".")?;
    // The copies of the host's mounts; held, they would keep its filesystems busy.
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    let mode = Mode::from_raw_mode(0o700);
    for dir in [BENCH, WRITABLE, ROOT].map(str::to_owned).into_iter().chain((0..LOWERS_MAX).map(layer)) {
        rustix::fs::mkdir(dir, mode)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_become_options() {
        let names = |upper: &'static str, work: &'static str| writable_names(Path::new(upper), Path::new(work)).ok();
        assert_eq!(names("/d/upper", "/d/work"), Some((Path::new("/d"), "upper", "work")));
        assert_eq!(names("/d/upper", "/e/work"), None);
        assert_eq!(names("/d/a,b", "/d/work"), None);
        assert_eq!(names("/d/upper", "/d/a:b"), None);
        assert_eq!(names("/", "/"), None);
        assert_eq!(names("/d/..", "/d/work"), None);
    }
}
