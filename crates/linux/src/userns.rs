//! User namespaces: a sandbox's ids are a range of the host's own, never host uid 0.
use std::{fs, io, os::fd::OwnedFd};

use rustix::fs::{Mode, OFlags};

/// How many user and group ids every sandbox gets.
pub const RANGE: u32 = 65_536;

/// The lowest base that is accepted. Ids below belong to the host's people and services.
pub const BASE_MIN: u32 = 100_000;

/// Maps ids 0..65536 of the user namespace of `pid` to `base..base + 65536` of the host.
///
/// # Errors
/// `InvalidInput` when the range would touch the host's ids or overflow; else what the kernel said.
pub fn write_maps(pid: u32, base: u32) -> io::Result<()> {
    check_base(base)?;
    let line = format!("0 {base} {RANGE}");
    fs::write(format!("/proc/{pid}/uid_map"), &line)?;
    fs::write(format!("/proc/{pid}/gid_map"), &line)
}

/// Whether a range that begins at `base` may be given to a sandbox.
///
/// # Errors
/// `InvalidInput` when not.
pub fn check_base(base: u32) -> io::Result<()> {
    // The last id must stay below u32::MAX, which means "no id".
    if base < BASE_MIN || base.checked_add(RANGE).is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the id range {base}+{RANGE} must lie between {BASE_MIN} and 2^32")));
    }
    Ok(())
}

/// Opens a namespace (`user`, `net`, ...) of a process.
///
/// # Errors
/// What the kernel said.
pub fn open_namespace(pid: u32, kind: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(format!("/proc/{pid}/ns/{kind}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Runs `work` with this thread's effective user being the root of the range that begins at `base`, and with all of its rights. User namespaces that it
/// makes are that user's: what the kernel counts for a namespace (inotify, message queues, pending signals) it counts for its owner too, and if all
/// sandboxes had one owner, one of them could use up everybody's share. The process aborts if there is no way back.
pub(crate) fn owned_by<T>(base: u32, work: impl FnOnce() -> T) -> io::Result<T> {
    let own = rustix::process::geteuid().as_raw();
    let capabilities = rustix::thread::capabilities(None)?;
    set_effective_user(base)?;
    let back = Back(own);
    // Leaving user 0 took the effective ones away.
    rustix::thread::set_capabilities(None, capabilities)?;
    let result = work();
    drop(back);
    Ok(result)
}

/// The user to return to, also when the work panics.
struct Back(u32);

impl Drop for Back {
    fn drop(&mut self) {
        if set_effective_user(self.0).is_err() {
            std::process::abort();
        }
    }
}

/// Of this thread alone.
fn set_effective_user(user: u32) -> io::Result<()> {
    const SAME: u32 = u32::MAX;
    // SAFETY: only numbers are passed. The raw call changes this thread and not, as libc's function does, all of them.
    match unsafe { libc::syscall(libc::SYS_setresuid, SAME, user, SAME) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_the_host_are_refused() {
        assert!(check_base(0).is_err());
        assert!(check_base(u32::MAX - 10).is_err());
        assert!(check_base(1_000_000).is_ok());
    }
}
