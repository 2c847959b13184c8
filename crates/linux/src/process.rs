//! Starting processes from a small single agent: in a session of their own, fast, and with nothing inherited but what
//! was named.
//!
//! The child is made by `clone(CLONE_VM | CLONE_VFORK)` on a stack of its own, so its cost does not grow with the
//! memory of the parent; what goes wrong before the exec comes back through the shared memory.
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::{io, mem, ptr};

use rustix::io::Errno;

/// Target numbers of a child's descriptors are below this; sources are moved above it first.
const TARGET_FD_MAX: RawFd = 16;
/// The child runs a dozen system calls and no more.
const CHILD_STACK_BYTES: usize = 64 << 10;

/// A process to be started.
#[derive(Debug)]
pub struct Command<'a> {
    /// The file to execute, already found.
    pub path: &'a CStr,
    pub argv: &'a [CString],
    /// `NAME=value` each.
    pub env: &'a [CString],
    pub cwd: &'a CStr,
    /// Sources and the numbers that they become, the latter ascending from 0 without a gap; nothing else is
    /// inherited.
    pub fds: &'a [(BorrowedFd<'a>, RawFd)],
    /// Make descriptor 0 the controlling terminal of the new session.
    pub terminal: bool,
    /// Written to `/proc/self/oom_score_adj` when it can be.
    pub oom_score_adj: i16,
}

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot prepare the descriptors of a process")]
    Descriptors(#[source] Errno),
    #[error("cannot make a process")]
    Clone(#[source] Errno),
    #[error("cannot enter the working directory")]
    WorkingDirectory(#[source] Errno),
    #[error("cannot execute the file")]
    Exec(#[source] Errno),
}

impl SpawnError {
    /// The system's error number.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Descriptors(e) | Self::Clone(e) | Self::WorkingDirectory(e) | Self::Exec(e) => *e,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Started,
    WorkingDirectory,
    Descriptors,
    Exec,
}

/// What the child needs; it lives on the parent's stack, and the parent sleeps until the child has let go of it.
struct Child {
    path: *const libc::c_char,
    argv: *const *const libc::c_char,
    shell_argv: *const *const libc::c_char,
    env: *const *const libc::c_char,
    cwd: *const libc::c_char,
    fds: *const (RawFd, RawFd),
    fds_len: usize,
    terminal: bool,
    oom_text: *const u8,
    oom_text_len: usize,
    step: Step,
    errno: i32,
}

/// Starts a process in a new session and process group (both numbered as its pid), with an empty signal mask.
/// A script without an interpreter line is given to `/bin/sh`, as a shell would.
///
/// # Errors
/// Says which step failed; the process then does not exist any more.
pub fn spawn(command: &Command<'_>) -> Result<i32, SpawnError> {
    let mut moved = Vec::with_capacity(command.fds.len());
    for (source, target) in command.fds {
        debug_assert!(*target < TARGET_FD_MAX);
        let high = rustix::io::fcntl_dupfd_cloexec(source, TARGET_FD_MAX).map_err(SpawnError::Descriptors)?;
        moved.push((high, *target));
    }
    let fds: Vec<(RawFd, RawFd)> = moved.iter().map(|(fd, target)| (fd.as_raw_fd(), *target)).collect();
    let argv = pointers(command.argv);
    let env = pointers(command.env);
    let mut shell_argv = vec![c"/bin/sh".as_ptr(), command.path.as_ptr()];
    shell_argv.extend(argv.iter().skip(1));
    if shell_argv.last().is_some_and(|last| !last.is_null()) {
        shell_argv.push(ptr::null());
    }
    let oom_text = command.oom_score_adj.to_string();
    let mut child = Child {
        path: command.path.as_ptr(),
        argv: argv.as_ptr(),
        shell_argv: shell_argv.as_ptr(),
        env: env.as_ptr(),
        cwd: command.cwd.as_ptr(),
        fds: fds.as_ptr(),
        fds_len: fds.len(),
        terminal: command.terminal,
        oom_text: oom_text.as_ptr(),
        oom_text_len: oom_text.len(),
        step: Step::Started,
        errno: 0,
    };
    let mut stack: Vec<u128> = Vec::with_capacity(CHILD_STACK_BYTES / 16);
    // SAFETY: the sets are plain data that the calls fill; the stack and `child` outlive the child's use of them,
    // because CLONE_VFORK keeps this thread asleep until the child has called execve or _exit. All signals are
    // blocked meanwhile, so no handler of ours runs in the child. `child_main` does system calls only.
    let pid = unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        let mut old: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        let top = stack.as_mut_ptr().add(stack.capacity());
        let pid = libc::clone(child_main, top.cast(), libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, (&raw mut child).cast());
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN);
        libc::pthread_sigmask(libc::SIG_SETMASK, &old, ptr::null_mut());
        if pid < 0 {
            return Err(SpawnError::Clone(Errno::from_raw_os_error(errno)));
        }
        pid
    };
    // SAFETY: `child` is ours again; the child wrote to it through a raw pointer, hence the volatile reads.
    let (step, errno) = unsafe { (ptr::read_volatile(&child.step), ptr::read_volatile(&child.errno)) };
    if errno == 0 {
        return Ok(pid);
    }
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
    let errno = Errno::from_raw_os_error(errno);
    Err(match step {
        Step::WorkingDirectory => SpawnError::WorkingDirectory(errno),
        Step::Descriptors => SpawnError::Descriptors(errno),
        Step::Started | Step::Exec => SpawnError::Exec(errno),
    })
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

extern "C" fn child_main(argument: *mut libc::c_void) -> libc::c_int {
    let child = argument.cast::<Child>();
    // SAFETY: `argument` is the `Child` that `spawn` keeps alive and does not touch until this process has ended or
    // executed. Only async-signal-safe functions are called; the signal mask is emptied last.
    unsafe {
        let fail = |step: Step| -> ! {
            let errno = *libc::__errno_location();
            ptr::write_volatile(&raw mut (*child).step, step);
            ptr::write_volatile(&raw mut (*child).errno, if errno == 0 { libc::EIO } else { errno });
            libc::_exit(127)
        };
        libc::setsid();
        for i in 0..(*child).fds_len {
            let (from, to) = *(*child).fds.add(i);
            if libc::dup2(from, to) < 0 {
                fail(Step::Descriptors);
            }
        }
        libc::syscall(libc::SYS_close_range, (*child).fds_len as libc::c_uint, libc::c_uint::MAX, 0);
        if (*child).terminal {
            libc::ioctl(0, libc::TIOCSCTTY, 0);
        }
        if libc::chdir((*child).cwd) < 0 {
            fail(Step::WorkingDirectory);
        }
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, (*child).oom_text.cast(), (*child).oom_text_len);
            libc::close(fd);
        }
        let mut default: libc::sigaction = mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGPIPE, &default, ptr::null_mut());
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        libc::execve((*child).path, (*child).argv, (*child).env);
        if *libc::__errno_location() == libc::ENOEXEC {
            libc::execve(c"/bin/sh".as_ptr(), (*child).shell_argv, (*child).env);
        }
        fail(Step::Exec)
    }
}

/// What a process used that has ended, with its children that it waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    pub cpu_us: u64,
    /// The most memory that one of them had.
    pub memory_peak_bytes: u64,
    /// What they had written to disks, in blocks of 512 bytes.
    pub written_bytes: u64,
}

impl Used {
    /// Of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_us: self.cpu_us.saturating_add(other.cpu_us),
            memory_peak_bytes: self.memory_peak_bytes.max(other.memory_peak_bytes),
            written_bytes: self.written_bytes.saturating_add(other.written_bytes),
        }
    }
}

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    pub pid: i32,
    /// The session that it was in, which says whose it was when it was left behind.
    pub session: i32,
    pub ended: Ended,
    pub used: Used,
}

/// Ends reaped children, one per call; `None` when no child has ended.
pub fn reap() -> Option<Reaped> {
    loop {
        // SAFETY: all zeroes are a valid siginfo: it holds numbers, and pointers that nobody follows.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        // SAFETY: the pointer is to a local that outlives the call.
        let found = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
        if found < 0 {
            if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) {
                continue;
            }
            return None;
        }
        // SAFETY: waitid has filled in the fields of a child that ended, or left the zeroes.
        let pid = unsafe { info.si_pid() };
        if pid <= 0 {
            return None;
        }
        // SAFETY: getsid takes a number, which is this child's until it is waited for.
        let session = unsafe { libc::getsid(pid) };
        let mut status = 0;
        // SAFETY: all zeroes are a valid rusage: it holds numbers only.
        let mut usage: libc::rusage = unsafe { mem::zeroed() };
        // SAFETY: both pointers are to locals that outlive the call.
        if unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) } != pid {
            return None;
        }
        let used = used(&usage);
        if libc::WIFEXITED(status) {
            return Some(Reaped { pid, session, ended: Ended::Exited(libc::WEXITSTATUS(status)), used });
        }
        if libc::WIFSIGNALED(status) {
            return Some(Reaped { pid, session, ended: Ended::Signaled(libc::WTERMSIG(status)), used });
        }
    }
}

fn used(usage: &libc::rusage) -> Used {
    let number = |n: i64| n.max(0).unsigned_abs();
    let micros = |time: libc::timeval| number(time.tv_sec).saturating_mul(1_000_000).saturating_add(number(time.tv_usec));
    Used {
        cpu_us: micros(usage.ru_utime).saturating_add(micros(usage.ru_stime)),
        // In KiB, and in blocks of 512 bytes, whatever the disk's are: getrusage(2).
        memory_peak_bytes: number(usage.ru_maxrss).saturating_mul(1024),
        written_bytes: number(usage.ru_oublock).saturating_mul(512),
    }
}

/// Sends a signal by number to a process group; to the process of that number when there is no such group.
///
/// # Errors
/// `ESRCH` when neither exists, `EINVAL` for a number that is no signal.
pub fn signal_group(pid: i32, signal: i32) -> Result<(), Errno> {
    if pid <= 1 {
        return Err(Errno::SRCH);
    }
    // SAFETY: kill takes numbers only; `pid` is above 1, so that neither everybody nor our own group is meant.
    let sent = unsafe { libc::kill(-pid, signal) == 0 || libc::kill(pid, signal) == 0 };
    if sent { Ok(()) } else { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::SRCH)) }
}

/// Sends a signal by number to a process group, and to nobody when there is no such group.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn signal_group_only(group: i32, signal: i32) -> Result<(), Errno> {
    if group <= 1 {
        return Err(Errno::SRCH);
    }
    // SAFETY: as in `signal_group`.
    let sent = unsafe { libc::kill(-group, signal) == 0 };
    if sent { Ok(()) } else { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::SRCH)) }
}

/// Sends a signal by number to one process.
///
/// # Errors
/// As kill.
pub fn signal_one(pid: i32, signal: i32) -> Result<(), Errno> {
    if pid <= 1 {
        return Err(Errno::SRCH);
    }
    // SAFETY: kill takes numbers only; `pid` is above 1, so that neither a group nor everybody is meant.
    let sent = unsafe { libc::kill(pid, signal) == 0 };
    if sent { Ok(()) } else { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::SRCH)) }
}

/// Whether there is anybody in a process group.
pub fn is_group(group: i32) -> bool {
    signal_group_only(group, 0).is_ok()
}

/// Takes over a descriptor that was inherited under a known number; `None` when it is not open. Once per number.
pub fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl on any number is sound; on success the number is open, and by this function's contract (the
    // caller asks once per number, before it opens anything) nothing else in the process owns it.
    unsafe { (libc::fcntl(fd, libc::F_GETFD) >= 0).then(|| OwnedFd::from_raw_fd(fd)) }
}

/// Makes the process fit to be pid 1 of a sandbox: not dumpable, nothing inherited leaks to children, signals at
/// their defaults and unmasked but for SIGPIPE (ignored) and SIGCHLD (blocked, and readable from the returned
/// signalfd), orphans are ours to reap, memory is given back to the system early.
///
/// # Errors
/// When no signalfd can be made.
pub fn become_init() -> Result<OwnedFd, Errno> {
    // SAFETY: called first thing in main, before other threads exist; every call takes plain numbers or pointers to
    // locals that live across it.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        #[cfg(target_env = "gnu")]
        {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
        }
        libc::umask(0o022);
        let mut action: libc::sigaction = mem::zeroed();
        for signal in 1..=64 {
            if signal == libc::SIGSEGV || signal == libc::SIGBUS {
                continue;
            }
            action.sa_sigaction = if signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL };
            libc::sigaction(signal, &action, ptr::null_mut());
        }
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, ptr::null_mut());
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL));
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Holds back all signals that can be; what [`spawn`] starts has none held back.
pub fn block_signals() {
    // SAFETY: the set is plain data that the call fills, and lives across both.
    unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, ptr::null_mut());
    }
}

/// Lets go of what stands behind the first three descriptors: they lead to `/dev/null` then.
///
/// # Errors
/// When that cannot be opened.
pub fn close_standard() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for number in 0..3 {
        // SAFETY: dup2 takes numbers; these three are nobody's to own, and lead to something afterwards as before.
        if unsafe { libc::dup2(null.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A pipe, both ends closed on exec.
///
/// # Errors
/// When the descriptor table is full.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
}

/// Lets reads and writes on this open file fail instead of waiting.
///
/// # Errors
/// As fcntl.
pub fn set_nonblocking(fd: impl AsFd) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(fd, true)
}

/// Takes what lies unread in a pipe whose reader is somebody else, without waiting and without changing the mode
/// of the open file that both share. At most `limit` bytes.
///
/// # Errors
/// As splice; the bytes taken so far are lost then.
pub fn drain_pipe(reader: impl AsFd, limit: usize) -> Result<Vec<u8>, Errno> {
    let reader = reader.as_fd();
    let mut taken = Vec::new();
    let (from, to) = pipe()?;
    while taken.len() < limit {
        let flags = rustix::pipe::SpliceFlags::NONBLOCK | rustix::pipe::SpliceFlags::MOVE;
        let moved = match rustix::pipe::splice(reader, None, &to, None, (limit - taken.len()).min(32 << 10), flags) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(moved) => moved,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
        };
        let start = taken.len();
        taken.resize(start + moved, 0);
        let mut filled = start;
        while filled < taken.len() {
            match rustix::io::read(&from, &mut taken[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        taken.truncate(filled);
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cstrings(of: &[&str]) -> Vec<CString> {
        of.iter().map(|s| CString::new(*s).unwrap()).collect()
    }

    fn run(path: &CStr, argv: &[&str]) -> Result<(String, i32), SpawnError> {
        let (from, to) = pipe().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let argv = cstrings(argv);
        let env = cstrings(&["A=b"]);
        let fds = [(null.as_fd(), 0), (to.as_fd(), 1), (to.as_fd(), 2)];
        let command = Command { path, argv: &argv, env: &env, cwd: c"/", fds: &fds, terminal: false, oom_score_adj: 500 };
        let pid = spawn(&command)?;
        drop(to);
        let mut text = String::new();
        io::Read::read_to_string(&mut std::fs::File::from(from), &mut text).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
        Ok((text, status.exit_status().unwrap()))
    }

    #[test]
    fn a_process_gets_what_was_named_and_no_more() {
        let script = "echo $A; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l; exit 3";
        let (text, code) = run(c"/bin/sh", &["sh", "-c", script]).unwrap();
        assert_eq!((text.as_str(), code), ("b\n500\n4\n", 3));
    }

    #[test]
    fn a_missing_file_is_an_error_of_the_exec() {
        assert!(matches!(run(c"/no/such/file", &["x"]), Err(SpawnError::Exec(Errno::NOENT))));
    }
}
