//! Processes named so that a reused pid is never mistaken for the one that was meant.
use std::{
    fs,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

/// A handle to the process that has this pid now.
///
/// # Errors
/// `NotFound` (ESRCH) when there is none.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// When the process started, in clock ticks since the machine did: field 22 of `/proc/PID/stat`.
pub fn start_time(pid: u32) -> Option<u64> {
    // One read: the whole line is far shorter than this, and growing a buffer to find its end takes six.
    let mut stat = [0; 1024];
    let length = fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
    parse_start_time(&String::from_utf8_lossy(&stat[..length]))
}

/// Whether this pid still is the process that started then, and has not ended: a zombie that nobody has reaped yet is no process
/// any more.
pub fn is_same(pid: u32, start_time_ticks: u64) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit_once(')').and_then(|(_, after)| after.split_whitespace().next());
    parse_start_time(&stat) == Some(start_time_ticks) && !matches!(state, Some("Z" | "X") | None)
}

/// The exit status of our own child, once it has ended; the zombie is gone then.
/// `None` while it runs, when it was reaped before, and when it is not our child (adopted after a restart).
pub fn reap(pidfd: &OwnedFd) -> Option<ExitStatus> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options).ok()??;
    // As wait(2) codes it: an exit code in the second byte, a signal in the first.
    let raw = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal & 0x7f,
        (None, None) => return None,
    };
    Some(ExitStatus::from_raw(raw))
}

/// Sends SIGKILL. A process that has ended already is no error.
///
/// # Errors
/// What the kernel said.
pub fn kill(pidfd: &OwnedFd) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything, so count from its end: the state is field 3.
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_may_hold_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_start_time(stat), Some(4242));
    }

    #[test]
    fn a_child_is_reaped_once_and_a_stranger_never() {
        #[allow(clippy::zombie_processes)] // Waiting is what is tested.
        let child = std::process::Command::new("/bin/sh").args(["-c", "exit 3"]).spawn().expect("spawn");
        let pidfd = open(child.id()).expect("pidfd");
        let status = loop {
            if let Some(status) = reap(&pidfd) {
                break status;
            }
            std::thread::yield_now();
        };
        assert_eq!(status.code(), Some(3));
        assert!(reap(&pidfd).is_none());
        assert!(reap(&open(1).expect("pidfd of init")).is_none());
        assert!(is_same(std::process::id(), start_time(std::process::id()).expect("own start")));
    }
}
