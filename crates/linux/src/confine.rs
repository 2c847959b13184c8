//! Walls around a process of our own that is going to do what strangers tell it, in three steps:
//!
//! ```text
//! detach     no privileges by exec, no environment to speak of, no network, no files but one folder    (one thread)
//!   load what is needed
//! surrender  no user, no capabilities, an empty root, no file at all                                  (threads may be there)
//!   start all threads
//! seal       no system call but those of `seccomp/compute.rs`                                         (all threads)
//! seal_thread  and whoever tries one ends the process                                                 (each that runs what strangers write)
//! ```
//!
//! Threads that a library has started for its own housekeeping are refused what they try, and live.
//!
//! Each wall holds without the others, so that one that this kernel lacks, or that has a hole, is no door. Where not root
//! starts the process, what only root can do is left out, and said.
use std::{
    ffi::CString,
    fs, io, mem,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

use crate::{
    landlock,
    seccomp::{self, Verdict},
};

/// The user and group of a confined process: this and its pid, within [`USERS`]. Sandboxes' ranges begin at
/// [`crate::userns::BASE_MIN`] or above, people and services end below 65,536, and what is between no distribution gives to
/// anybody. So no file and no other process has these ids, and two confined processes seldom have the same.
pub const USER_FIRST: u32 = 65_536;
/// How many there are.
pub const USERS: u32 = 32_768;

const _: () = assert!(USER_FIRST + USERS < crate::userns::BASE_MIN);

/// While it loads what it needs, which somebody waits for.
const NICE_LOADING: i32 = 5;
/// Scripts give way to the server and to sandboxes: as many threads as there are calls may spin at once, and at any better
/// priority they would together outweigh the few threads that answer everybody. They are the first to go when there is no
/// memory left, the largest process of them before the others.
const NICE: i32 = 19;
const OOM_SCORE_ADJ: &str = "500";

// From linux/mount.h, linux/seccomp.h, linux/landlock.h.
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const SECCOMP_FILTER_FLAG_TSYNC: u32 = 1;

/// Of the size that the kernel reads.
const NONE: libc::c_ulong = 0;

/// Which wall could not be put up, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct ConfineError {
    what: &'static str,
    source: io::Error,
}

/// After the first step.
#[derive(Debug)]
#[must_use]
pub struct Detached {
    parent: i32,
    /// An empty file system.
    root: Option<OwnedFd>,
    missing: Vec<&'static str>,
}

/// After the second.
#[derive(Debug)]
#[must_use]
pub struct Surrendered {
    missing: Vec<&'static str>,
}

/// The first step, in the only thread: it ends with its parent, and has nothing of the machine but `stream` (standard input), standard error and, until the second step,
/// the folder `keep`.
///
/// # Errors
/// When there is a wall that should stand and does not.
pub fn detach(stream: impl AsFd, keep: Option<&Path>) -> Result<Detached, ConfineError> {
    let mut missing = Vec::new();
    let parent = end_with_parent(None)?;
    // A parent that died before that is another one by now. Who made the stream is written in it.
    if let Ok(maker) = rustix::net::sockopt::socket_peercred(&stream)
        && maker.pid.as_raw_nonzero().get() != parent
    {
        return Err(ConfineError { what: "serve who did not start this process", source: io::ErrorKind::ConnectionAborted.into() });
    }
    prctl("refuse to be looked into", libc::PR_SET_DUMPABLE, 0)?;
    prctl("give up privileges by exec", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    keep_only_streams()?;
    use_one_heap();
    // SAFETY: numbers only.
    unsafe {
        libc::umask(0o077);
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE_LOADING);
    }
    if fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).is_err() {
        missing.push("being the first to go when memory is short");
    }
    // SAFETY: only flags are passed; this is the only thread, as the contract says.
    let apart = check("leave the machine's network", unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) });
    unless_not_permitted(apart, "namespaces of its own", &mut missing)?;
    let root = unless_not_permitted(empty_root(), "an empty root", &mut missing)?;
    unless_not_permitted(drop_bounding_set(), "an empty bounding set", &mut missing)?;
    if landlock::abi() == 0 {
        missing.push("Landlock");
    } else {
        restrict(keep)?;
    }
    Ok(Detached { parent, root, missing })
}

impl Detached {
    /// The second step: whatever is open stays so, and that is all. Threads that are there already lose the same rights, but for the last of
    /// Landlock's, which is a thread's own.
    ///
    /// # Errors
    /// When there is a wall that should stand and does not.
    pub fn surrender(mut self) -> Result<Surrendered, ConfineError> {
        if let Some(root) = self.root.take() {
            // SAFETY: a descriptor that is ours, and a C string.
            check("enter an empty root", unsafe { libc::fchdir(root.as_raw_fd()) })?;
            // SAFETY: as above.
            check("enter an empty root", unsafe { libc::chroot(c".".as_ptr()) })?;
        }
        if rustix::process::geteuid().is_root() {
            give_up_user()?;
        } else {
            self.missing.push("a user of its own");
        }
        give_way()?;
        drop_capabilities()?;
        // Both were taken back by the change of user.
        prctl("refuse to be looked into", libc::PR_SET_DUMPABLE, 0)?;
        end_with_parent(Some(self.parent))?;
        if landlock::abi() > 0 {
            restrict(None)?;
        }
        for (what, resource, most) in [
            ("write no files", libc::RLIMIT_FSIZE, 0),
            // Not 0: see `launch/child.rs`.
            ("leave no core", libc::RLIMIT_CORE, 1),
            ("lock no memory", libc::RLIMIT_MEMLOCK, 0),
            ("have no message queues", libc::RLIMIT_MSGQUEUE, 0),
        ] {
            set_limit(what, resource, most)?;
        }
        Ok(Surrendered { missing: self.missing })
    }
}

impl Surrendered {
    /// The third step, for all threads at once. Returns which walls are missing.
    ///
    /// # Errors
    /// When the filter is refused.
    pub fn seal(self) -> Result<Vec<&'static str>, ConfineError> {
        set_limit("make no more threads", libc::RLIMIT_NPROC, 0)?;
        set_limit("open no more files", libc::RLIMIT_NOFILE, 0)?;
        filter(Verdict::Errno(libc::EPERM), SECCOMP_FILTER_FLAG_TSYNC)?;
        Ok(self.missing)
    }
}

/// The last step, in each thread that is going to run what strangers write, after [`Surrendered::seal`]: it was refused all but what it needs;
/// now it dies of trying, and the process with it.
///
/// # Errors
/// When the filter is refused.
pub fn seal_thread() -> Result<(), ConfineError> {
    filter(Verdict::Kill, 0)
}

fn filter(other: Verdict, flags: u32) -> Result<(), ConfineError> {
    let filter = seccomp::compute_filter(other);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, which is as long as it says and lives until after the call.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, ptr::from_ref(&program)) } {
        0 => Ok(()),
        -1 => Err(last_error("filter system calls")),
        _ => Err(ConfineError { what: "filter the system calls of all threads", source: io::ErrorKind::ResourceBusy.into() }),
    }
}

/// A parent is a process for which there is a signal when it ends; returns its pid.
fn end_with_parent(known: Option<i32>) -> Result<i32, ConfineError> {
    prctl("end with the parent", libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
    // SAFETY: takes nothing.
    let parent = unsafe { libc::getppid() };
    if known.is_some_and(|known| known != parent) {
        return Err(ConfineError { what: "go on without the parent", source: io::ErrorKind::ConnectionAborted.into() });
    }
    Ok(parent)
}

/// What is printed goes to standard error, so that nothing which is opened later has the number of standard output.
fn keep_only_streams() -> Result<(), ConfineError> {
    // SAFETY: numbers only. Whatever is above 2 was inherited: nothing in this process has opened it, as the contract of `detach` says.
    check("redirect standard output", unsafe { libc::dup2(2, 1) })?;
    // SAFETY: as above.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, 0) };
    check("close what was inherited", closed as i32)
}

/// Where threads have heaps of their own, giving memory back looks into /proc, which a sealed process dies of.
fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers only.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// A file system with nothing in it, mounted nowhere.
fn empty_root() -> Result<OwnedFd, ConfineError> {
    const WHAT: &str = "make an empty root";
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    // SAFETY: C strings and null pointers, as fsopen(2), fsconfig(2) and fsmount(2) take them; what they return is new and nobody else's.
    unsafe {
        let context = owned(WHAT, libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC))?;
        let null = ptr::null::<libc::c_void>();
        check(WHAT, libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0) as i32)?;
        owned(WHAT, libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes))
    }
}

fn drop_bounding_set() -> Result<(), ConfineError> {
    for number in 0..64 {
        match prctl("empty the bounding set", libc::PR_CAPBSET_DROP, number) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(error) if error.source.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// libc's own functions change all threads, and that is what is wanted.
fn give_up_user() -> Result<(), ConfineError> {
    let id = USER_FIRST + std::process::id() % USERS;
    // SAFETY: numbers, and no groups at all.
    unsafe {
        check("leave all groups", libc::setgroups(0, ptr::null()))?;
        check("change the group", libc::setresgid(id, id, id))?;
        check("change the user", libc::setresuid(id, id, id))
    }
}

/// This thread, and those that it makes. They compute, so that one which wakes up need not take the processor from whoever has it.
fn give_way() -> Result<(), ConfineError> {
    // SAFETY: all zero is such a value.
    let none: libc::sched_param = unsafe { mem::zeroed() };
    // SAFETY: numbers, and parameters that live across the calls.
    unsafe {
        check("give way to others", libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none))?;
        check("give way to others", libc::setpriority(libc::PRIO_PROCESS, 0, NICE))?;
        // Threads that were there before have a nice value of their own. Where the user is of this process alone, all it has are meant.
        let user = libc::getuid();
        if (USER_FIRST..USER_FIRST + USERS).contains(&user) {
            check("give way to others", libc::setpriority(libc::PRIO_USER, user, NICE))?;
        }
    }
    Ok(())
}

fn drop_capabilities() -> Result<(), ConfineError> {
    const WHAT: &str = "give up capabilities";
    const VERSION_3: u32 = 0x2008_0522;
    let (header, sets) = ([VERSION_3, 0], [0u32; 6]);
    // SAFETY: numbers only.
    check(WHAT, unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, NONE, NONE, NONE) })?;
    // SAFETY: a header and sets of the size that its version says.
    check(WHAT, unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) } as i32)
}

/// Of this thread and those that it makes: no files but below `keep`, no ports, no signals and no sockets to others.
fn restrict(keep: Option<&Path>) -> Result<(), ConfineError> {
    const WHAT: &str = "restrict itself with Landlock";
    const RULE_PATH_BENEATH: u32 = 1;
    let attr = landlock::everything();
    // SAFETY: the attributes are of the size that is said, and live across the call; the descriptor is new and nobody else's.
    let ruleset = unsafe { owned(WHAT, libc::syscall(libc::SYS_landlock_create_ruleset, ptr::from_ref(&attr), mem::size_of_val(&attr), 0))? };
    if let Some(keep) = keep {
        let path = CString::new(keep.as_os_str().as_bytes()).map_err(|e| ConfineError { what: WHAT, source: e.into() })?;
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: a C string; the descriptor is new and nobody else's.
        let folder = unsafe { owned("open the folder of the engine", i64::from(libc::open(path.as_ptr(), flags)))? };
        let rule = landlock::PathBeneathAttr { allowed_access: landlock::PLAIN_FILES & attr.handled_access_fs, parent_fd: folder.as_raw_fd() };
        // SAFETY: the rule lives across the call and is of the kind that is said.
        let added = unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), RULE_PATH_BENEATH, ptr::from_ref(&rule), 0) };
        check(WHAT, added as i32)?;
    }
    // SAFETY: a descriptor that is ours.
    check(WHAT, unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) } as i32)
}

/// Never above the hard limit, which only root may raise.
fn set_limit(what: &'static str, resource: libc::__rlimit_resource_t, most: u64) -> Result<(), ConfineError> {
    let limit = libc::rlimit64 { rlim_cur: most, rlim_max: most };
    // SAFETY: the limit lives across the call.
    check(what, unsafe { libc::setrlimit64(resource, &raw const limit) })
}

/// What only root can do is left out where somebody else is at it.
fn unless_not_permitted<T>(done: Result<T, ConfineError>, wall: &'static str, missing: &mut Vec<&'static str>) -> Result<Option<T>, ConfineError> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.source.raw_os_error() == Some(libc::EPERM) => {
            missing.push(wall);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn prctl(what: &'static str, option: i32, value: libc::c_ulong) -> Result<(), ConfineError> {
    // SAFETY: the options that are used here take numbers.
    check(what, unsafe { libc::prctl(option, value, NONE, NONE, NONE) })
}

/// # Safety
/// `result` is -1 or a new descriptor that nobody else owns.
unsafe fn owned(what: &'static str, result: libc::c_long) -> Result<OwnedFd, ConfineError> {
    match i32::try_from(result) {
        // SAFETY: as the caller vouches.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(last_error(what)),
    }
}

fn check(what: &'static str, result: i32) -> Result<(), ConfineError> {
    if result < 0 { Err(last_error(what)) } else { Ok(()) }
}

fn last_error(what: &'static str) -> ConfineError {
    ConfineError { what, source: io::Error::last_os_error() }
}
