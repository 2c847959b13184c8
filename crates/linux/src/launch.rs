//! How a sandbox is made: one clone3, everything prepared beforehand, the child's steps in [`child`] in the order they happen.
//!
//! ```text
//! host                                        child
//! clone3 into the v2 cgroup ----------------> joins the v1 cgroups, private mounts, host name
//! writes the id maps -----------------------> becomes root of its range, makes /dev and /proc
//! idmapped lowers, overlay, binds
//! sends the mounts -------------------------> puts all in place, pivot_root,
//! configure_net                               limits, capabilities, Landlock, seccomp
//! sends "execute" --------------------------> closes all else, executes the agent
//! sees the socket close: it runs
//! ```
//! The child shares the server's memory until it executes (CLONE_VM), so its cost does not grow with the server; its code is raw system calls only.
//! Whatever fails, the child is killed and reaped before [`launch`] returns; the cgroup is the caller's.
//!
//! # Kernels
//! 5.19 is the oldest: the first whose overlayfs takes layers that are shifted to the sandbox's ids (idmapped mounts). All else is older:
//!
//! | since | what |
//! | --- | --- |
//! | 5.2 | fsopen, fsconfig, fsmount, move_mount, open_tree; cgroup.freeze |
//! | 5.3, 5.4 | clone3, pidfd_open; waitid by pidfd |
//! | 5.6 | openat2 |
//! | 5.7 | clone3 into a cgroup |
//! | 5.9, 5.11 | close_range, and with CLOEXEC |
//! | 5.12 | mount_setattr, idmapped mounts of ext4 and xfs (btrfs 5.15, tmpfs 6.3) |
//! | 5.14 | cgroup.kill |
//! | 5.16 | cgroup files judge a write by who opened them, which lets the child join its v1 groups |
//! | 5.19 | idmapped layers below overlayfs; Landlock version 2; memory.peak |
//!
//! What is newer is used where it is: detached mounts as overlay layers (6.15, else [`attached`]), Landlock's scopes for signals and abstract sockets
//! (6.12, else the namespaces alone keep these apart).
mod attached;
mod child;
mod devices;
mod error;
mod mounts;
mod plan;
mod raw;
mod shift;
mod spawn;

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

pub use attached::layers_are_attached;
#[doc(hidden)]
pub use attached::refuse_detached_layers;
pub use devices::check_devices;
pub use error::{LaunchError, Step};
pub use mounts::overlay_view;

use crate::{cgroup::Cgroup, pidfd, userns};

/// How many bind mounts and folders in memory a sandbox may have; their handles go to the child in one message, and the kernel takes 253 of them.
pub const BINDS_MAX: usize = 64;
/// How many layers may lie below a sandbox's own. The kernel's limit is 500.
pub const LOWERS_MAX: usize = 200;
/// How many file descriptors the agent may inherit.
pub const FDS_MAX: usize = 32;
/// How many components a bind's target may have.
pub const TARGET_DEPTH_MAX: usize = 32;

/// A directory or file of the host that is seen inside. What is mounted below `source` is not carried along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// On the host; absolute, links are followed.
    pub source: PathBuf,
    /// Relative to the sandbox's root; made when missing, and no part of it may be a link or lie in proc, sys or dev.
    pub target: PathBuf,
    /// Whether nothing inside may write to it.
    pub read_only: bool,
    /// Whether owners are shifted to the sandbox's range, so that the host's root appears as root. Where the filesystem cannot, they appear as nobody.
    pub idmap: bool,
}

/// A read-only layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lower {
    pub path: PathBuf,
    /// The first of its 65,536 ids on disk: 0 for those that are nobody's, else the `uid_base` of the sandbox that wrote it.
    pub base: u32,
}

impl Lower {
    /// One that no sandbox wrote.
    pub fn shared(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), base: 0 }
    }
}

/// A folder in memory, empty at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// As of a [`Bind`].
    pub target: PathBuf,
    pub bytes: u64,
}

/// Everything that [`launch`] needs to know.
#[derive(Debug, Clone, Copy)]
pub struct LaunchSpec<'a> {
    /// The first of its 65,536 ids on the host.
    pub uid_base: u32,
    /// Read-only layers, top first; each idmapped to the range when the filesystem can.
    pub lowers: &'a [Lower],
    /// The writable layer. Exists; given to `uid_base` if it is not yet.
    pub upper: &'a Path,
    /// Overlayfs's own directory, beside `upper` in the same directory. As `upper`. Neither is a mount point, and their names hold no `,`, `:` or backslash.
    pub work: &'a Path,
    /// In this order, after /proc and /dev.
    pub binds: &'a [Bind],
    /// After the binds.
    pub tmpfs: &'a [Tmpfs],
    /// At most 64 bytes.
    pub hostname: &'a str,
    /// Size of /dev/shm.
    pub shm_bytes: u64,
    /// Open files per process; clamped to this process's own hard limit, since raising that needs CAP_SYS_RESOURCE.
    pub nofile: u64,
    /// Largest file, 0 for no limit.
    pub file_size_max_bytes: u64,
    /// The agent, a static program. An unlinked or sealed file keeps the host's copy out of reach of `/proc/1/exe`.
    pub agent: BorrowedFd<'a>,
    /// Its arguments, its name first.
    pub argv: &'a [CString],
    /// Its environment.
    pub env: &'a [CString],
    /// File descriptors and the numbers that they have inside. Everything else is closed.
    pub fds: &'a [(BorrowedFd<'a>, i32)],
    /// Made by the caller, with limits set, and empty.
    pub cgroup: &'a Cgroup,
}

/// A sandbox whose agent runs.
#[derive(Debug)]
pub struct Launched {
    /// Pid of its init on the host.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`; with the pid it names the process for good.
    pub start_time_ticks: u64,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    /// Its network namespace.
    pub netns: OwnedFd,
}

/// Makes a sandbox and starts its agent in it.
///
/// `configure_net` runs on the calling thread with the child's network namespace while the child mounts; the agent is executed only after it returned `Ok`.
/// It is called again, with another namespace, when the child died meanwhile and is made anew, once.
/// The calling thread's signals are blocked for the few microseconds of the clone.
///
/// # Errors
/// A [`LaunchError`] that names the step, the path and the reason. Nothing that this call made is left.
pub fn launch(spec: &LaunchSpec<'_>, configure_net: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), String>) -> Result<Launched, LaunchError> {
    check_devices().map_err(LaunchError::Spec)?;
    mounts::give_to_range(spec.upper, spec.uid_base)?;
    mounts::give_to_range(spec.work, spec.uid_base)?;
    match attempt(spec, plan::Entry::Born, configure_net) {
        // Linux 6.14 and later kill a child at birth in a group that saw a different number of `cgroup.kill`s than our own group did.
        // It can still walk in.
        Err(LaunchError::Died { .. }) => attempt(spec, plan::Entry::Joins, configure_net),
        result => result,
    }
}

fn attempt(spec: &LaunchSpec<'_>, entry: plan::Entry, configure_net: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), String>) -> Result<Launched, LaunchError> {
    let prepared = plan::Prepared::new(spec, entry)?;
    let mut child = userns::owned_by(spec.uid_base, || spawn::Child::start(&prepared)).map_err(|e| LaunchError::host(Step::Clone, None, e))??;
    let made = (|| {
        userns::write_maps(child.pid(), spec.uid_base).map_err(|e| LaunchError::host(Step::IdMaps, None, e))?;
        child.ids_are_mapped()?;
        let ids = userns::open_namespace(child.pid(), "user").map_err(|e| LaunchError::host(Step::IdMaps, None, e))?;
        let mounts = mounts::make(spec, ids.as_fd())?;
        child.send_mounts(&mounts)?;
        let netns = userns::open_namespace(child.pid(), "net").map_err(|e| LaunchError::host(Step::Network, None, e))?;
        // The caller's part is not done for one that was dead at birth.
        child.check_alive()?;
        configure_net(netns.as_fd()).map_err(LaunchError::Network)?;
        child.execute()?;
        Ok(netns)
    })();
    // A child that failed or died first makes our own next step fail in a duller way; its word is the better one.
    let netns = made.map_err(|error| child.verdict(&prepared).unwrap_or(error))?;
    child.wait_until_executed(&prepared)?;
    spare_from_oom(child.pid());

    let start_time_ticks = pidfd::start_time(child.pid()).ok_or(LaunchError::Died { status: None })?;
    let (pid, pidfd) = child.release();
    Ok(Launched { pid, start_time_ticks, pidfd, netns })
}

/// Makes the agent the last that the kernel kills for want of memory, in a way that nothing inside can claim for itself: a process may lower its own
/// score down to the least that one with rights has given it or its parents. The first write makes that least 0; the older file sets the score alone.
/// Without the right to, the agent stays as it is: its children have a higher score until they lower it.
fn spare_from_oom(pid: u32) {
    let write = |file: &str, score: &str| std::fs::write(format!("/proc/{pid}/{file}"), score);
    if write("oom_score_adj", "0").is_ok() {
        let _ = write("oom_adj", "-16");
    }
}
