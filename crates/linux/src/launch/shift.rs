//! User namespaces that shift one range of ids to another: for layers that were written by another sandbox, whose files have that one's ids on disk.
//!
//! Such a namespace is made with a process in it that does nothing, and stays as long as somebody holds its descriptor. The last ones are kept, since
//! a sandbox that is started again lies over the same layers.
use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    raw::{self, plain},
    spawn::{BlockedSignals, STACK_BYTES, Stack},
};
use crate::{pidfd, userns};

/// Namespaces that are kept. A descriptor each.
const KEPT_MAX: usize = 256;

type Kept = HashMap<(u32, u32), Arc<OwnedFd>>;

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

/// The namespace that shows ids `from..from + 65536` on disk as `to..to + 65536`.
pub(super) fn namespace(from: u32, to: u32) -> io::Result<Arc<OwnedFd>> {
    if let Some(known) = lock().get_or_insert_default().get(&(from, to)) {
        return Ok(Arc::clone(known));
    }
    let made = Arc::new(make(from, to)?);
    let mut kept = lock();
    let kept = kept.get_or_insert_default();
    if kept.len() >= KEPT_MAX {
        kept.clear();
    }
    kept.insert((from, to), Arc::clone(&made));
    Ok(made)
}

/// The namespace of a sandbox whose range begins at `to`: shows ids `0..65536` as its own.
pub(super) fn shared(to: u32) -> io::Result<Arc<OwnedFd>> {
    namespace(0, to)
}

fn lock() -> std::sync::MutexGuard<'static, Option<Kept>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make(from: u32, to: u32) -> io::Result<OwnedFd> {
    if from != 0 {
        userns::check_base(from)?;
    }
    userns::check_base(to)?;
    let stack = Stack::new()?;
    let mut raw_pidfd: RawFd = -1;
    let args = libc::clone_args {
        // With shared files it holds no copies of descriptors whose closing somebody waits for.
        flags: (libc::CLONE_NEWUSER | libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PIDFD) as u32 as u64,
        pidfd: ptr::from_mut(&mut raw_pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.base() as u64,
        stack_size: STACK_BYTES as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    let blocked = BlockedSignals::new();
    // SAFETY: the stack outlives the child, which is killed and reaped below before the stack goes; `wait_for_death` keeps to the rules of `raw`.
    let pid = unsafe { raw::clone3(&args, wait_for_death, 0) };
    drop(blocked);
    let pid = pid.map_err(io::Error::from_raw_os_error)? as u32;
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so this is a new descriptor that nobody else owns.
    let child = Idle { pidfd: unsafe { OwnedFd::from_raw_fd(raw_pidfd) }, _stack: stack };
    let line = format!("{from} {to} {}", userns::RANGE);
    fs::write(format!("/proc/{pid}/uid_map"), &line)?;
    fs::write(format!("/proc/{pid}/gid_map"), &line)?;
    let namespace = userns::open_namespace(pid, "user");
    drop(child);
    namespace
}

/// The process in the namespace; killed and reaped when dropped.
struct Idle {
    pidfd: OwnedFd,
    _stack: Stack,
}

impl Drop for Idle {
    fn drop(&mut self) {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let killed = pidfd::kill(&self.pidfd);
        let ended = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                ended => break ended,
            }
        };
        if killed.is_err() || ended.is_err() {
            // Its stack must not go before it.
            std::process::abort();
        }
    }
}

/// # Safety
/// None but what `raw` asks of a child's first function: no allocation, no thread-local state.
unsafe extern "C" fn wait_for_death(_: usize) -> ! {
    let _ = plain(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0, 0]);
    loop {
        let _ = plain(libc::SYS_pause, [0; 6]);
    }
}
