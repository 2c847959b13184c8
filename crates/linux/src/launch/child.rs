//! The child, from clone to execute. The order of [`run`] is the order of isolation; read it from top to bottom.
//!
//! Rules: see [`super::raw`]. Every path of the sandbox's own tree is walked with openat2 and without links, since its last owner may have
//! planted some.
use std::{
    ffi::CStr,
    mem::{self, MaybeUninit},
    os::fd::RawFd,
    ptr,
};

use super::{
    BINDS_MAX, Step,
    devices::DEVICES,
    plan::{BindTarget, ChildPlan},
    raw::{Errno, call, plain},
    spawn,
};
use crate::{caps, landlock};

/// A report is three words: step, index within the step, error number.
pub(super) const REPORT_BYTES: usize = 12;

/// Entries of /proc that tell about the host or steer it, and whether they are directories. Ones that a kernel lacks are skipped.
pub(super) const MASKED: &[(&CStr, bool)] = &[
    (c"kcore", false),
    (c"keys", false),
    (c"key-users", false),
    (c"kmsg", false),
    (c"kallsyms", false),
    (c"latency_stats", false),
    (c"timer_list", false),
    (c"timer_stats", false),
    (c"sched_debug", false),
    (c"interrupts", false),
    (c"sysrq-trigger", false),
    (c"scsi", true),
    (c"acpi", true),
    (c"asound", true),
    (c"irq", true),
    (c"bus", true),
    (c"fs", true),
    (c"pressure", true),
];

const DEV_LINKS: &[(&CStr, &CStr)] =
    &[(c"/proc/self/fd", c"fd"), (c"/proc/self/fd/0", c"stdin"), (c"/proc/self/fd/1", c"stdout"), (c"/proc/self/fd/2", c"stderr"), (c"pts/ptmx", c"ptmx")];

/// Bytes of memory that a process may lock.
const MEMLOCK_BYTES: u64 = 1 << 20;

// From linux/mount.h, linux/openat2.h, linux/close_range.h, linux/fsconfig; libc does not have all of them.
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const RESOLVE: u64 = libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_BENEATH;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

const QUIET: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

// Names in /dev that are gone before anything runs.
const MASK_FILE: &CStr = c".mask";
const MASK_DIR: &CStr = c".mask-dir";
const PROC_FOR_NOW: &CStr = c".proc";

/// Where the child stands, for the report.
struct At {
    step: Step,
    index: u32,
    /// The socket to the host, which gets another number on the way.
    sync: RawFd,
}

/// The child's first function.
///
/// # Safety
/// `plan` is the address of a [`ChildPlan`] that stays as it is until this process has executed or ended.
pub(super) unsafe extern "C" fn main(plan: usize) -> ! {
    // SAFETY: as the caller vouches.
    let plan = unsafe { &*(plan as *const ChildPlan<'_>) };
    let mut at = At { step: Step::JoinCgroup, index: 0, sync: plan.sync };
    let Err(errno) = run(plan, &mut at);
    report(at.sync, at.step as u32, at.index, errno as u32);
    loop {
        let _ = plain(libc::SYS_exit_group, [127, 0, 0, 0, 0, 0]);
    }
}

fn run(plan: &ChildPlan<'_>, at: &mut At) -> Result<std::convert::Infallible, Errno> {
    join_cgroups(plan, at)?;
    at.to(Step::Root);
    call!(libc::SYS_mount, 0, c"/", 0, libc::MS_REC | libc::MS_PRIVATE, 0)?;
    at.to(Step::Hostname);
    call!(libc::SYS_sethostname, plan.hostname, plan.hostname_bytes)?;
    call!(libc::SYS_setsid)?;
    reset_signals()?;

    at.to(Step::Talk);
    wait_for(plan.sync, plan.host, spawn::IDS)?;
    at.to(Step::Ids);
    call!(libc::SYS_setgroups, 0, 0)?;
    call!(libc::SYS_setresgid, 0, 0, 0)?;
    call!(libc::SYS_setresuid, 0, 0, 0)?;

    // Device nodes and the mask need exact modes.
    plain(libc::SYS_umask, [0; 6])?;
    // While the host still makes the root. They are put on top of the host's /proc, which is there and of no use here any more.
    at.to(Step::Dev);
    let dev = make_dev(plan, at)?;
    at.to(Step::Proc);
    let proc = make_proc(at, dev)?;

    at.to(Step::Talk);
    let (mounts, count) = receive_mounts(plan.sync, plan.host)?;
    if count != plan.binds.len() + 1 {
        return Err(libc::EPROTO);
    }
    at.to(Step::Root);
    let root = mounts[0];
    call!(libc::SYS_move_mount, root, c"", libc::AT_FDCWD, c"/", MOVE_MOUNT_F_EMPTY_PATH)?;
    at.to(Step::Proc);
    move_to(proc, root, c"proc")?;
    at.to(Step::Dev);
    call!(libc::SYS_unlinkat, dev, PROC_FOR_NOW, libc::AT_REMOVEDIR)?;
    move_to(dev, root, c"dev")?;
    at.to(Step::Root);
    ensure_dir(root, c"sys", 0o755)?;
    ensure_dir(root, c"tmp", 0o1777)?;

    at.to(Step::Bind);
    for (index, bind) in plan.binds.iter().enumerate() {
        at.index = index as u32;
        let Some(tree) = mounts.get(index + 1) else {
            return Err(libc::EPROTO);
        };
        attach_bind(root, bind, *tree)?;
    }

    at.to(Step::Pivot);
    call!(libc::SYS_fchdir, root)?;
    call!(libc::SYS_pivot_root, c".", c".")?;
    // The host's tree now lies on top of ours at "."; this takes it off.
    call!(libc::SYS_umount2, c".", libc::MNT_DETACH)?;
    call!(libc::SYS_chdir, c"/")?;

    plain(libc::SYS_umask, [0o022, 0, 0, 0, 0, 0])?;

    at.to(Step::Files);
    let (sync, host, agent, first_private) = place_files(plan, at)?;

    at.to(Step::ResourceLimits);
    set_limits(plan)?;

    at.to(Step::Capabilities);
    call!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
    drop_capabilities()?;

    at.to(Step::Landlock);
    if let Some(attr) = &plan.landlock {
        restrict(attr)?;
    }

    at.to(Step::Seccomp);
    let program = libc::sock_fprog { len: plan.filter.len() as u16, filter: plan.filter.as_ptr().cast_mut() };
    call!(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, ptr::from_ref(&program))?;

    at.to(Step::Talk);
    wait_for(sync, host, spawn::EXECUTE)?;

    at.to(Step::Execute);
    call!(libc::SYS_close_range, first_private, u32::MAX, CLOSE_RANGE_CLOEXEC)?;
    report(sync, spawn::ABOUT_TO_EXECUTE, 0, 0);
    let executed = call!(libc::SYS_execveat, agent, c"", plan.argv, plan.env, libc::AT_EMPTY_PATH);
    Err(executed.err().unwrap_or(libc::EIO))
}

impl At {
    fn to(&mut self, step: Step) {
        self.step = step;
        self.index = u32::MAX;
    }
}

/// In the hybrid layout clone3 has put us into the v2 group only. Each file was opened with the host's rights, and a thread that moves itself
/// does not have to wait for anyone.
fn join_cgroups(plan: &ChildPlan<'_>, at: &mut At) -> Result<(), Errno> {
    for (index, tasks) in plan.tasks.iter().enumerate() {
        at.index = index as u32;
        call!(libc::SYS_write, *tasks, c"0", 1)?;
    }
    // Made where we are now, so that all groups look like the root from inside.
    call!(libc::SYS_unshare, libc::CLONE_NEWCGROUP)?;
    Ok(())
}

fn receive_mounts(sync: RawFd, host: RawFd) -> Result<([RawFd; BINDS_MAX + 1], usize), Errno> {
    const SPACE: usize = (mem::size_of::<libc::cmsghdr>() + (BINDS_MAX + 1) * mem::size_of::<RawFd>()).div_ceil(8);
    wait_readable(sync, host)?;
    let mut control = [0u64; SPACE];
    let mut byte = 0u8;
    let mut part = libc::iovec { iov_base: ptr::from_mut(&mut byte).cast(), iov_len: 1 };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control);
    let read = call!(libc::SYS_recvmsg, sync, ptr::from_mut(&mut message), libc::MSG_CMSG_CLOEXEC)?;
    // Nothing read: the host gave up.
    if read != 1 || byte != spawn::MOUNTS || message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(libc::EPROTO);
    }
    let mut fds = [-1; BINDS_MAX + 1];
    // SAFETY: `control` is aligned for and at least as large as a header, which the kernel has written or left zero.
    let header = unsafe { ptr::read(control.as_ptr().cast::<libc::cmsghdr>()) };
    if header.cmsg_level != libc::SOL_SOCKET || header.cmsg_type != libc::SCM_RIGHTS {
        return Err(libc::EPROTO);
    }
    let bytes = header.cmsg_len.saturating_sub(mem::size_of::<libc::cmsghdr>());
    let count = (bytes / mem::size_of::<RawFd>()).min(fds.len());
    // SAFETY: the descriptors follow the header, whose size keeps them aligned; `count` is within both arrays.
    unsafe {
        let data = control.as_ptr().byte_add(mem::size_of::<libc::cmsghdr>()).cast::<RawFd>();
        ptr::copy_nonoverlapping(data, fds.as_mut_ptr(), count);
    }
    Ok((fds, count))
}

/// Waits for the host's word, or for its death: a child that waited on alone would hold copies of all that the server had open,
/// its lock and its clients' connections among them.
fn wait_readable(sync: RawFd, host: RawFd) -> Result<(), Errno> {
    let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut watched = [watch(sync), watch(host)];
    loop {
        match call!(libc::SYS_ppoll, watched.as_mut_ptr(), 2, 0, 0, 0) {
            Ok(_) if watched[1].revents != 0 => return Err(libc::EOWNERDEAD),
            Ok(_) => return Ok(()),
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn wait_for(sync: RawFd, host: RawFd, wanted: u8) -> Result<(), Errno> {
    wait_readable(sync, host)?;
    let mut byte = 0u8;
    let read = call!(libc::SYS_recvfrom, sync, ptr::from_mut(&mut byte), 1, 0, 0, 0)?;
    if read == 1 && byte == wanted { Ok(()) } else { Err(libc::EPROTO) }
}

fn report(sync: RawFd, step: u32, index: u32, errno: u32) {
    let words = [step, index, errno];
    let _ = call!(libc::SYS_sendto, sync, words.as_ptr(), REPORT_BYTES, libc::MSG_NOSIGNAL, 0, 0);
}

/// /dev on a small tmpfs of our own, with what [`make_proc`] needs for a while. Returns its handle.
fn make_dev(plan: &ChildPlan<'_>, at: &mut At) -> Result<RawFd, Errno> {
    let context = call!(libc::SYS_fsopen, c"tmpfs", FSOPEN_CLOEXEC)?;
    for (key, value) in [(c"mode", c"755"), (c"size", c"64k"), (c"nr_inodes", c"64")] {
        call!(libc::SYS_fsconfig, context, FSCONFIG_SET_STRING, key, value, 0)?;
    }
    call!(libc::SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0)?;
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    let dev = call!(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes)? as RawFd;
    call!(libc::SYS_close, context)?;
    call!(libc::SYS_move_mount, dev, c"", libc::AT_FDCWD, c"/proc", MOVE_MOUNT_F_EMPTY_PATH)?;
    call!(libc::SYS_fchdir, dev)?;
    for (index, (host, name, _)) in DEVICES.iter().enumerate() {
        at.index = index as u32;
        call!(libc::SYS_mknodat, libc::AT_FDCWD, *name, libc::S_IFREG | 0o666, 0)?;
        call!(libc::SYS_mount, *host, *name, 0, libc::MS_BIND, 0)?;
    }
    at.to(Step::Dev);
    for (target, name) in DEV_LINKS {
        call!(libc::SYS_symlinkat, *target, libc::AT_FDCWD, *name)?;
    }
    call!(libc::SYS_mkdirat, libc::AT_FDCWD, c"pts", 0o755)?;
    // All instances share the machine's few thousand terminals: one sandbox must not have them all.
    let pts_options = c"newinstance,ptmxmode=0666,mode=0620,gid=5,max=128";
    call!(libc::SYS_mount, c"devpts", c"pts", c"devpts", libc::MS_NOSUID | libc::MS_NOEXEC, pts_options)?;
    call!(libc::SYS_mkdirat, libc::AT_FDCWD, c"shm", 0o1777)?;
    call!(libc::SYS_mount, c"tmpfs", c"shm", c"tmpfs", libc::MS_NOSUID | libc::MS_NODEV, plan.shm_options)?;
    call!(libc::SYS_mkdirat, libc::AT_FDCWD, MASK_DIR, 0o555)?;
    call!(libc::SYS_mknodat, libc::AT_FDCWD, MASK_FILE, libc::S_IFREG | 0o444, 0)?;
    call!(libc::SYS_mkdirat, libc::AT_FDCWD, PROC_FOR_NOW, 0o555)?;
    Ok(dev)
}

/// /proc of our own pid namespace with its masks, put on a directory of `dev` for now. Returns its handle.
fn make_proc(at: &mut At, dev: RawFd) -> Result<RawFd, Errno> {
    let context = call!(libc::SYS_fsopen, c"proc", FSOPEN_CLOEXEC)?;
    call!(libc::SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0)?;
    let proc = call!(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, QUIET)? as RawFd;
    call!(libc::SYS_close, context)?;
    call!(libc::SYS_move_mount, proc, c"", dev, PROC_FOR_NOW, MOVE_MOUNT_F_EMPTY_PATH)?;
    call!(libc::SYS_fchdir, proc)?;

    // All that is writable in /proc and not about one process: sysctls of our own namespaces are ours to write by ownership.
    call!(libc::SYS_mount, c"sys", c"sys", 0, libc::MS_BIND, 0)?;
    set_read_only(libc::AT_FDCWD, c"sys")?;

    let mut file = Mask::new(dev, MASK_FILE)?;
    let mut dir = Mask::new(dev, MASK_DIR)?;
    for (index, (name, is_dir)) in MASKED.iter().enumerate() {
        at.index = index as u32;
        let mask = if *is_dir { &mut dir } else { &mut file };
        mask.cover(name)?;
    }
    at.to(Step::Proc);
    // What has no name takes no entries and needs no more memory: an empty place that stays empty.
    call!(libc::SYS_unlinkat, dev, MASK_FILE, 0)?;
    call!(libc::SYS_unlinkat, dev, MASK_DIR, libc::AT_REMOVEDIR)?;
    Ok(proc)
}

/// An empty file or directory on a read-only mount, so that opening it for writing fails as it did for what it covers.
struct Mask {
    tree: RawFd,
    /// The first that it covers, from which the others are bound: a detached mount cannot be cloned before Linux 6.15.
    first: Option<&'static CStr>,
}

impl Mask {
    fn new(dev: RawFd, name: &CStr) -> Result<Self, Errno> {
        let clone = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
        let tree = call!(libc::SYS_open_tree, dev, name, clone)? as RawFd;
        set_read_only(tree, c"")?;
        Ok(Self { tree, first: None })
    }

    /// Covers an entry of the working directory, if it is there.
    fn cover(&mut self, name: &'static CStr) -> Result<(), Errno> {
        let covered = match self.first {
            None => call!(libc::SYS_move_mount, self.tree, c"", libc::AT_FDCWD, name, MOVE_MOUNT_F_EMPTY_PATH),
            Some(first) => call!(libc::SYS_mount, first, name, 0, libc::MS_BIND, 0),
        };
        match covered {
            Ok(_) => {
                self.first = self.first.or(Some(name));
                Ok(())
            }
            Err(libc::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// Makes the mount at `name` in `dir`, or `dir` itself for an empty name, read-only and good for nothing else.
fn set_read_only(dir: RawFd, name: &CStr) -> Result<(), Errno> {
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY | QUIET, attr_clr: 0, propagation: 0, userns_fd: 0 };
    call!(libc::SYS_mount_setattr, dir, name, libc::AT_EMPTY_PATH, ptr::from_ref(&attr), mem::size_of::<libc::mount_attr>())?;
    Ok(())
}

/// Moves a mount, and what is mounted on it, to a directory of the root, which is made when missing.
fn move_to(tree: RawFd, root: RawFd, name: &CStr) -> Result<(), Errno> {
    ensure_dir(root, name, 0o755)?;
    let place = open_beneath(root, name, libc::O_PATH | libc::O_DIRECTORY)?;
    call!(libc::SYS_move_mount, tree, c"", place, c"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)?;
    call!(libc::SYS_close, place)?;
    Ok(())
}

fn attach_bind(root: RawFd, bind: &BindTarget, tree: RawFd) -> Result<(), Errno> {
    let Some((name, parents)) = bind.components.split_last() else {
        return Err(libc::EINVAL);
    };
    let mut dir = root;
    for parent in parents {
        ensure_dir(dir, parent, 0o755)?;
        let next = open_beneath(dir, parent, libc::O_PATH | libc::O_DIRECTORY)?;
        if dir != root {
            call!(libc::SYS_close, dir)?;
        }
        dir = next;
    }
    let place = if bind.is_dir {
        ensure_dir(dir, name, 0o755)?;
        open_beneath(dir, name, libc::O_PATH | libc::O_DIRECTORY)?
    } else {
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        match call!(libc::SYS_openat, dir, name.as_c_str(), flags, 0o644) {
            Ok(made) => {
                call!(libc::SYS_close, made)?;
            }
            Err(libc::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        open_beneath(dir, name, libc::O_PATH)?
    };
    call!(libc::SYS_move_mount, tree, c"", place, c"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)?;
    call!(libc::SYS_close, place)?;
    if dir != root {
        call!(libc::SYS_close, dir)?;
    }
    Ok(())
}

fn ensure_dir(dir: RawFd, name: &CStr, mode: u32) -> Result<(), Errno> {
    match call!(libc::SYS_mkdirat, dir, name, mode) {
        Ok(_) | Err(libc::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn open_beneath(dir: RawFd, name: &CStr, flags: i32) -> Result<RawFd, Errno> {
    // open_how cannot be written out as a literal: libc keeps room for more fields.
    // SAFETY: all-zero is a valid open_how.
    let mut how: libc::open_how = unsafe { MaybeUninit::zeroed().assume_init() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = RESOLVE;
    let fd = call!(libc::SYS_openat2, dir, name, ptr::from_ref(&how), mem::size_of::<libc::open_how>())?;
    Ok(fd as RawFd)
}

/// Puts the inherited files at their numbers and closes what lies between. Returns the new numbers of the socket, the host's handle and the
/// agent, and the first number above the inherited ones.
fn place_files(plan: &ChildPlan<'_>, at: &mut At) -> Result<(RawFd, RawFd, RawFd, RawFd), Errno> {
    let first_private = plan.fds.last().map_or(0, |(_, number)| number + 1);
    // Out of the way first, so that no number is overwritten before it was copied.
    let away = |fd: RawFd| call!(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, first_private).map(|fd| fd as RawFd);
    let sync = away(plan.sync)?;
    at.sync = sync;
    let host = away(plan.host)?;
    let agent = away(plan.agent)?;
    let mut copies = [-1; super::FDS_MAX];
    for (copy, (fd, _)) in copies.iter_mut().zip(plan.fds) {
        *copy = away(*fd)?;
    }
    let mut next = 0;
    for (copy, (_, number)) in copies.iter().zip(plan.fds) {
        call!(libc::SYS_dup3, *copy, *number, 0)?;
        if next < *number {
            call!(libc::SYS_close_range, next, *number - 1, 0)?;
        }
        next = *number + 1;
    }
    Ok((sync, host, agent, first_private))
}

fn set_limits(plan: &ChildPlan<'_>) -> Result<(), Errno> {
    set_limit(libc::RLIMIT_NOFILE, plan.nofile)?;
    // Not 0: with a core_pattern that is a pipe, the host's handler runs for a limit of 0, as root and on data of the sandbox. 1 means none at all.
    // The filter keeps it there.
    set_limit(libc::RLIMIT_CORE, 1)?;
    set_limit(libc::RLIMIT_MEMLOCK, MEMLOCK_BYTES)?;
    if plan.file_size_max_bytes != 0 {
        set_limit(libc::RLIMIT_FSIZE, plan.file_size_max_bytes)?;
    }
    Ok(())
}

/// Never above the hard limit that we have: raising needs a capability that even a root server may lack.
fn set_limit(resource: u32, value: u64) -> Result<(), Errno> {
    let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    call!(libc::SYS_prlimit64, 0, resource, 0, ptr::from_mut(&mut now))?;
    let value = if value < now.rlim_max { value } else { now.rlim_max };
    let new = libc::rlimit64 { rlim_cur: value, rlim_max: value };
    call!(libc::SYS_prlimit64, 0, resource, ptr::from_ref(&new), 0)?;
    Ok(())
}

fn drop_capabilities() -> Result<(), Errno> {
    call!(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)?;
    for number in 0..64u32 {
        if caps::KEPT_MASK & (1 << number) != 0 {
            continue;
        }
        match call!(libc::SYS_prctl, libc::PR_CAPBSET_DROP, number, 0, 0, 0) {
            Ok(_) => {}
            // Past the last one that this kernel knows.
            Err(libc::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let (low, high) = (caps::KEPT_MASK as u32, (caps::KEPT_MASK >> 32) as u32);
    // Effective, permitted, inheritable; low words first.
    let sets = [low, low, 0, high, high, 0];
    call!(libc::SYS_capset, header.as_ptr(), sets.as_ptr())?;
    Ok(())
}

fn restrict(attr: &landlock::RulesetAttr) -> Result<(), Errno> {
    const RULE_PATH_BENEATH: u32 = 1;
    let size = mem::size_of::<landlock::RulesetAttr>();
    let ruleset = call!(libc::SYS_landlock_create_ruleset, ptr::from_ref(attr), size, 0)?;
    let root = call!(libc::SYS_openat, libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC, 0)?;
    let rule = landlock::PathBeneathAttr { allowed_access: landlock::REFER, parent_fd: root as i32 };
    call!(libc::SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, ptr::from_ref(&rule), 0)?;
    call!(libc::SYS_landlock_restrict_self, ruleset, 0)?;
    call!(libc::SYS_close, root)?;
    call!(libc::SYS_close, ruleset)?;
    Ok(())
}

/// The agent begins with default actions and nothing blocked: ignored signals (a Rust server ignores SIGPIPE) would survive execution.
fn reset_signals() -> Result<(), Errno> {
    const SIGNALS: i32 = 64;
    // struct kernel_sigaction: handler, flags, restorer, mask; all zero is SIG_DFL.
    let default = [0u64; 4];
    for signal in 1..=SIGNALS {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            call!(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0, 8)?;
        }
    }
    let none = 0u64;
    call!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, ptr::from_ref(&none), 0, 8)?;
    Ok(())
}
