//! What a process may call that reads its stream, computes and writes to its stream, with threads that it already has.
use libc::*;

use super::table::{Check, Checked, Group, Verdict};

const fn allow(reason: &'static str, calls: &'static [c_long]) -> Group {
    Group { reason, verdict: Verdict::Allow, calls }
}

pub(super) const GROUPS: &[Group] = &[
    allow("memory that is not executed comes and goes; what is mapped from files was opened before", &[SYS_munmap, SYS_madvise, SYS_mremap, SYS_brk]),
    allow("threads wait for each other, and go to sleep", &[SYS_futex, SYS_sched_yield, SYS_nanosleep, SYS_clock_nanosleep, SYS_restart_syscall]),
    allow("how many processors there are", &[SYS_sched_getaffinity]),
    allow("what WebAssembly does wrong comes as a signal, which is handled on a stack of its own", &[SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_sigaltstack]),
    allow("clocks that the vdso does not have", &[SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday]),
    allow("seeds of hash tables", &[SYS_getrandom]),
    allow("to let go of what is open", &[SYS_close]),
    allow("the end", &[SYS_exit, SYS_exit_group]),
];

/// For the filter that another one follows: the same, and that other one.
pub(super) const CHECKED_BEFORE_LAST: &[Checked] = &{
    let [read, write, fcntl, mmap, mprotect] = ALWAYS;
    [
        Checked {
            reason: "a thread that runs what strangers write has a second, stricter filter; a filter only takes away",
            call: SYS_seccomp,
            checks: &[(&[Check::Equal(0, SECCOMP_SET_MODE_FILTER)], Verdict::Allow)],
            otherwise: Verdict::Kill,
        },
        read,
        write,
        fcntl,
        mmap,
        mprotect,
    ]
};

pub(super) const CHECKED: &[Checked] = &ALWAYS;

const ALWAYS: [Checked; 5] = [
    Checked { reason: "the stream is standard input", call: SYS_read, checks: &[(&[Check::Equal(0, 0)], Verdict::Allow)], otherwise: Verdict::Kill },
    Checked {
        reason: "the stream, and complaints; not the files that memory is mapped from",
        call: SYS_write,
        checks: &[(&[Check::Equal(0, 0)], Verdict::Allow), (&[Check::Equal(0, 1)], Verdict::Allow), (&[Check::Equal(0, 2)], Verdict::Allow)],
        otherwise: Verdict::Kill,
    },
    Checked {
        reason: "programs that check themselves ask whether what they let go of is open",
        call: SYS_fcntl,
        checks: &[(&[Check::Equal(1, F_GETFD as u32)], Verdict::Allow)],
        otherwise: Verdict::Kill,
    },
    Checked {
        reason: "memory is never both written and executed: all code was compiled before",
        call: SYS_mmap,
        checks: &[(&[Check::AnyOf(2, PROT_EXEC as u32)], Verdict::Kill)],
        otherwise: Verdict::Allow,
    },
    Checked { reason: "as above", call: SYS_mprotect, checks: &[(&[Check::AnyOf(2, PROT_EXEC as u32)], Verdict::Kill)], otherwise: Verdict::Allow },
];
