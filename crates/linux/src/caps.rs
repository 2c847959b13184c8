//! The capabilities that a sandbox's root user keeps, all of them only over its own user namespace.

/// A capability that is kept, with the reason.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Number, from `linux/capability.h`.
    pub number: u32,
    /// Name without `CAP_`.
    pub name: &'static str,
    /// Why a root user inside a container cannot do without.
    pub reason: &'static str,
}

const fn kept(number: u32, name: &'static str, reason: &'static str) -> Kept {
    Kept { number, name, reason }
}

/// All capabilities that are kept. What is not here is gone from every set, the bounding set too.
///
/// Left out on purpose, although container engines often keep them: AUDIT_WRITE (the audit socket is refused
/// anyway), MKNOD and NET_RAW (no devices and no raw packets in a sandbox), SETFCAP (with no_new_privs a file's
/// capabilities are never used), SYS_PTRACE (one's own children can be traced without).
pub const KEPT: &[Kept] = &[
    kept(0, "CHOWN", "package managers and archives give files to their users"),
    kept(1, "DAC_OVERRIDE", "root inside expects to open every file of its own range"),
    kept(3, "FOWNER", "chmod and utime of files that belong to the sandbox's other users"),
    kept(4, "FSETID", "keep set-group-id bits of directories while unpacking"),
    kept(5, "KILL", "root inside stops processes that it started as another user"),
    kept(6, "SETGID", "drop to a service's group"),
    kept(7, "SETUID", "drop to a service's user"),
    kept(8, "SETPCAP", "lets programs give up even these capabilities"),
    kept(10, "NET_BIND_SERVICE", "servers on ports below 1024 of the sandbox's own network"),
    kept(18, "SYS_CHROOT", "sshd and build tools confine their children; there is nothing outside the root to reach"),
];

/// [`KEPT`] as the bit set that the kernel takes.
pub const KEPT_MASK: u64 = {
    let mut mask = 0;
    let mut i = 0;
    while i < KEPT.len() {
        mask |= 1 << KEPT[i].number;
        i += 1;
    }
    mask
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_administers_the_machine_is_kept() {
        for (name, number) in [("NET_ADMIN", 12), ("NET_RAW", 13), ("SYS_MODULE", 16), ("SYS_PTRACE", 19), ("SYS_ADMIN", 21), ("MKNOD", 27)] {
            assert_eq!(KEPT_MASK & (1 << number), 0, "{name}");
        }
    }
}
