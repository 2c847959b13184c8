//! The host's side of the child: starting it, talking to it, and making sure that it is never left behind.
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use super::{
    LaunchError, Step, child,
    mounts::Mounts,
    plan::{ChildPlan, Prepared},
    raw,
};
use crate::pidfd;

/// How long the child may take from clone to execute.
const PATIENCE_S: u64 = 30;

/// After a failure on the host's side the child's own word is waited for this long: one that is dying loses its namespaces a moment before its socket
/// closes and it counts as ended.
const VERDICT_PATIENCE_NS: i64 = 50_000_000;

/// Its use is a few KiB; debug builds take more.
pub(super) const STACK_BYTES: usize = 256 << 10;

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Host to child: your ids are mapped.
pub(super) const IDS: u8 = b'i';
/// Host to child: here are the mounts.
pub(super) const MOUNTS: u8 = b'm';
/// Host to child: execute.
pub(super) const EXECUTE: u8 = b'x';
/// Child to host, instead of a step's number: about to execute.
pub(super) const ABOUT_TO_EXECUTE: u32 = 0;

/// A started child. Dropping it kills and reaps it.
pub(super) struct Child<'a> {
    process: Option<(u32, OwnedFd)>,
    sync: OwnedFd,
    about_to_execute: bool,
    // Both are read by the child until it has executed or died, which is when this is dropped or released.
    _plan: Box<ChildPlan<'a>>,
    _stack: Stack,
}

impl<'a> Child<'a> {
    pub fn start(prepared: &'a Prepared) -> Result<Self, LaunchError> {
        let failed = |e: io::Error| LaunchError::host(Step::Clone, None, e);
        // One at a time, so that no child holds another's end of the socket: its closing tells that the other has executed or died.
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (ours, theirs) = socket_pair().map_err(failed)?;
        let stack = Stack::new().map_err(failed)?;
        let plan = Box::new(prepared.child_plan(theirs.as_raw_fd()));
        let mut pidfd: RawFd = -1;
        // The cgroup namespace comes later, from inside: made here, it would begin at the server's group and show the way to ours.
        let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        let args = libc::clone_args {
            flags: (namespaces | libc::CLONE_VM | libc::CLONE_PIDFD) as u32 as u64 | prepared.v2.as_ref().map_or(0, |_| CLONE_INTO_CGROUP),
            pidfd: ptr::from_mut(&mut pidfd) as u64,
            child_tid: 0,
            parent_tid: 0,
            exit_signal: libc::SIGCHLD as u64,
            stack: stack.base as u64,
            stack_size: STACK_BYTES as u64,
            tls: 0,
            set_tid: 0,
            set_tid_size: 0,
            cgroup: prepared.v2.as_ref().map_or(0, |dir| dir.as_raw_fd().unsigned_abs().into()),
        };
        let blocked = BlockedSignals::new();
        // SAFETY: the stack and the plan, and all it points to, live in `Child` and in `prepared`, which outlive the child's use of them:
        // `Child` waits for its execution or death before either goes. `child::main` keeps to the rules of `raw`.
        let pid = unsafe { raw::clone3(&args, child::main, ptr::from_ref(&*plan) as usize) };
        drop(blocked);
        let pid = pid.map_err(|e| failed(io::Error::from_raw_os_error(e)))?;
        // SAFETY: clone3 succeeded with CLONE_PIDFD, so this is a new descriptor that nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        drop(theirs);
        drop(alone);
        Ok(Self { process: Some((pid as u32, pidfd)), sync: ours, about_to_execute: false, _plan: plan, _stack: stack })
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, |(pid, _)| *pid)
    }

    pub fn send_mounts(&self, mounts: &Mounts) -> Result<(), LaunchError> {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        use std::{io::IoSlice, mem::MaybeUninit, os::fd::AsFd};
        let fds: Vec<_> = mounts.fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(super::BINDS_MAX + 1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.sync, &[IoSlice::new(&[MOUNTS])], &mut control, SendFlags::NOSIGNAL).map_err(talk)?;
        Ok(())
    }

    pub fn execute(&self) -> Result<(), LaunchError> {
        self.tell(EXECUTE)
    }

    pub fn ids_are_mapped(&self) -> Result<(), LaunchError> {
        self.tell(IDS)
    }

    fn tell(&self, what: u8) -> Result<(), LaunchError> {
        rustix::net::send(&self.sync, &[what], rustix::net::SendFlags::NOSIGNAL).map_err(talk)?;
        Ok(())
    }

    /// Waits for the socket to close, which execution does.
    pub fn wait_until_executed(&mut self, prepared: &Prepared) -> Result<(), LaunchError> {
        loop {
            let mut message = [0u8; child::REPORT_BYTES];
            match rustix::net::recv(&self.sync, &mut message[..], rustix::net::RecvFlags::empty()) {
                Ok((_, 0)) if self.about_to_execute => return Ok(()),
                Ok((_, 0)) => return Err(LaunchError::Died { status: self.end() }),
                Ok(_) => {
                    if let Some(error) = self.read_report(&message, prepared) {
                        return Err(error);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Err(LaunchError::Stuck(PATIENCE_S)),
                // It left without reading our last word. What it said before is told next.
                Err(rustix::io::Errno::CONNRESET) => {}
                Err(e) => return Err(talk(e)),
            }
        }
    }

    /// What the child has said so far about its own failure, or that it is dead, without waiting.
    pub fn verdict(&mut self, prepared: &Prepared) -> Option<LaunchError> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let patience = Timespec { tv_sec: 0, tv_nsec: VERDICT_PATIENCE_NS };
        let _ = poll(&mut [PollFd::new(&self.sync, PollFlags::IN)], Some(&patience));
        let mut message = [0u8; child::REPORT_BYTES];
        loop {
            // Asked first: what it said before it ended is there to be read then.
            let ended = self.has_ended();
            let read = rustix::net::recv(&self.sync, &mut message[..], rustix::net::RecvFlags::DONTWAIT);
            return match read {
                Ok((_, n)) if n > 0 => self.read_report(&message, prepared),
                Ok(_) => Some(LaunchError::Died { status: self.end() }),
                // As above.
                Err(rustix::io::Errno::CONNRESET | rustix::io::Errno::INTR) => continue,
                Err(_) if ended => Some(LaunchError::Died { status: self.end() }),
                Err(_) => None,
            };
        }
    }

    /// Fails when it has died, which it can have done so early that nothing was said.
    pub fn check_alive(&self) -> Result<(), LaunchError> {
        if self.has_ended() { Err(LaunchError::Died { status: None }) } else { Ok(()) }
    }

    fn has_ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some((_, pidfd)) = &self.process else { return true };
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready == 1)
    }

    pub fn release(mut self) -> (u32, OwnedFd) {
        // Set by `start`, and only taken here or by Drop.
        match self.process.take() {
            Some(process) => process,
            None => unreachable!("released once"),
        }
    }

    fn read_report(&mut self, message: &[u8; child::REPORT_BYTES], prepared: &Prepared) -> Option<LaunchError> {
        let word = |i: usize| u32::from_ne_bytes([message[i], message[i + 1], message[i + 2], message[i + 3]]);
        let (step, index, errno) = (word(0), word(4), word(8));
        if step == ABOUT_TO_EXECUTE {
            self.about_to_execute = true;
            return None;
        }
        let step = Step::from_number(step).unwrap_or(Step::Talk);
        let source = io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(libc::EIO));
        Some(LaunchError::host(step, prepared.path_of(step, index), source))
    }

    /// Ends and reaps it; the signal that it had died of, unless that is our own.
    fn end(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let (_, pidfd) = self.process.take()?;
        let before = pidfd::reap(&pidfd);
        if let Some(status) = before {
            return status.signal();
        }
        let _ = pidfd::kill(&pidfd);
        // Must end: it shares our memory. ECHILD means that someone else waited for it.
        let options = rustix::process::WaitIdOptions::EXITED;
        let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd));
        while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(id.clone(), options) {}
        None
    }
}

impl Drop for Child<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Both ends of the socket; ours gives up waiting after [`PATIENCE_S`].
fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(std::time::Duration::from_secs(PATIENCE_S)))?;
    Ok((ours, theirs))
}

fn talk(error: rustix::io::Errno) -> LaunchError {
    LaunchError::host(Step::Talk, None, error.into())
}

/// The child's stack, with a page below it that nobody may touch.
pub(super) struct Stack {
    map: *mut libc::c_void,
    base: *mut libc::c_void,
}

const GUARD_BYTES: usize = 4096;

impl Stack {
    pub fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at a place of the kernel's choice.
        let map = unsafe { libc::mmap(ptr::null_mut(), STACK_BYTES + GUARD_BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the first page lies in the mapping that was just made.
        let (guarded, base) = unsafe { (libc::mprotect(map, GUARD_BYTES, libc::PROT_NONE), map.byte_add(GUARD_BYTES)) };
        let stack = Self { map, base };
        if guarded == 0 { Ok(stack) } else { Err(io::Error::last_os_error()) }
    }

    /// Its lowest address.
    pub fn base(&self) -> *mut libc::c_void {
        self.base
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, made by `new`; the child no longer uses it (see `Child`).
        unsafe { libc::munmap(self.map, STACK_BYTES + GUARD_BYTES) };
    }
}

/// No signal may run a handler of the server in the child.
pub(super) struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    pub fn new() -> Self {
        // SAFETY: sigset_t is plain data that sigfillset and pthread_sigmask fill in; both only touch the two local sets.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: a set that pthread_sigmask gave us.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}
