//! The system call filter: an allow-list as data, each group with its reason, compiled once to a balanced tree of BPF.
//!
//! Calls that are refused on purpose get EPERM, so that programs say what happened; calls that nobody here knows get ENOSYS, so that libraries
//! fall back as on an older kernel. Calls of another architecture kill the process.
mod compile;
mod compute;
mod table;

use std::sync::OnceLock;

pub use table::{CHECKED, Check, Checked, GROUPS, Group, Verdict};

/// The program, compiled on first use.
pub fn filter() -> &'static [libc::sock_filter] {
    static FILTER: OnceLock<Vec<libc::sock_filter>> = OnceLock::new();
    FILTER.get_or_init(|| compile::compile(GROUPS, CHECKED, Verdict::Errno(libc::ENOSYS), Verdict::Kill))
}

/// The program for a process that has all that it needs and computes ([`crate::confine`]): whatever it has no use for gets this verdict.
pub(crate) fn compute_filter(other: Verdict) -> Vec<libc::sock_filter> {
    let checked = match other {
        // It is a thread's last.
        Verdict::Kill => compute::CHECKED,
        _ => compute::CHECKED_BEFORE_LAST,
    };
    compile::compile(compute::GROUPS, checked, other, other)
}
