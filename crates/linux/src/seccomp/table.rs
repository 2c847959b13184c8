//! Which system calls, and why.
use libc::*;

/// What happens with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Allow,
    /// It fails with this error number; 0 means that it does nothing and succeeds.
    Errno(i32),
    /// It ends the process.
    Kill,
}

/// Calls with one verdict for one reason.
#[derive(Debug)]
pub struct Group {
    /// Why.
    pub reason: &'static str,
    /// What.
    pub verdict: Verdict,
    /// Which.
    pub calls: &'static [c_long],
}

/// A call whose arguments decide. Checks are tried in order; where none holds, `otherwise` does.
#[derive(Debug)]
pub struct Checked {
    /// Why.
    pub reason: &'static str,
    /// Which.
    pub call: c_long,
    /// Each: all its conditions hold.
    pub checks: &'static [(&'static [Check], Verdict)],
    /// Else.
    pub otherwise: Verdict,
}

/// A condition on the low 32 bits of an argument: the kernel itself looks at no more of these arguments.
#[derive(Debug, Clone, Copy)]
pub enum Check {
    /// Argument is the value.
    Equal(u32, u32),
    /// Argument and mask have a bit in common.
    AnyOf(u32, u32),
    /// The whole 64 bits are not zero: a pointer is given.
    NotNull(u32),
}

const ALLOW: Verdict = Verdict::Allow;
const REFUSE: Verdict = Verdict::Errno(EPERM);

const fn allow(reason: &'static str, calls: &'static [c_long]) -> Group {
    Group { reason, verdict: ALLOW, calls }
}

const fn refuse(reason: &'static str, calls: &'static [c_long]) -> Group {
    Group { reason, verdict: REFUSE, calls }
}

const NAMESPACES: u32 = (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET) as u32;
const NEW_TIME: u32 = 0x80;

// Older or newer than the libc crate.
const SYS_CREATE_MODULE: c_long = 174;
const SYS_GET_KERNEL_SYMS: c_long = 177;
const SYS_QUERY_MODULE: c_long = 178;
const SYS_IO_PGETEVENTS: c_long = 333;
const SYS_CACHESTAT: c_long = 451;
const SYS_FCHMODAT2: c_long = 452;
const SYS_MAP_SHADOW_STACK: c_long = 453;
const SYS_FUTEX_WAKE: c_long = 454;
const SYS_FUTEX_WAIT: c_long = 455;
const SYS_FUTEX_REQUEUE: c_long = 456;
const SYS_STATMOUNT: c_long = 457;
const SYS_LISTMOUNT: c_long = 458;
const SYS_MSEAL: c_long = 462;
const SYS_SETXATTRAT: c_long = 463;
const SYS_GETXATTRAT: c_long = 464;
const SYS_LISTXATTRAT: c_long = 465;
const SYS_REMOVEXATTRAT: c_long = 466;
const SYS_OPEN_TREE_ATTR: c_long = 467;
const SYS_FILE_GETATTR: c_long = 468;
const SYS_FILE_SETATTR: c_long = 469;

/// Everything that does not depend on arguments.
pub const GROUPS: &[Group] = &[
    allow(
        "files: open, read, write, and everything about their content",
        &[
            SYS_read,
            SYS_write,
            SYS_open,
            SYS_close,
            SYS_creat,
            SYS_openat,
            SYS_openat2,
            SYS_lseek,
            SYS_pread64,
            SYS_pwrite64,
            SYS_readv,
            SYS_writev,
            SYS_preadv,
            SYS_pwritev,
            SYS_preadv2,
            SYS_pwritev2,
            SYS_sendfile,
            SYS_copy_file_range,
            SYS_splice,
            SYS_tee,
            SYS_vmsplice,
            SYS_readahead,
            SYS_fadvise64,
            SYS_fallocate,
            SYS_ftruncate,
            SYS_truncate,
            SYS_fsync,
            SYS_fdatasync,
            SYS_sync,
            SYS_syncfs,
            SYS_sync_file_range,
            SYS_close_range,
            SYS_flock,
            SYS_fcntl,
            SYS_dup,
            SYS_dup2,
            SYS_dup3,
            SYS_pipe,
            SYS_pipe2,
            SYS_memfd_create,
            SYS_memfd_secret,
            SYS_CACHESTAT,
        ],
    ),
    allow(
        "files: names, modes, owners, times, attributes",
        &[
            SYS_stat,
            SYS_fstat,
            SYS_lstat,
            SYS_newfstatat,
            SYS_statx,
            SYS_statfs,
            SYS_fstatfs,
            SYS_access,
            SYS_faccessat,
            SYS_faccessat2,
            SYS_chmod,
            SYS_fchmod,
            SYS_fchmodat,
            SYS_FCHMODAT2,
            SYS_chown,
            SYS_fchown,
            SYS_lchown,
            SYS_fchownat,
            SYS_umask,
            SYS_utime,
            SYS_utimes,
            SYS_utimensat,
            SYS_futimesat,
            SYS_mkdir,
            SYS_mkdirat,
            SYS_rmdir,
            SYS_rename,
            SYS_renameat,
            SYS_renameat2,
            SYS_link,
            SYS_linkat,
            SYS_unlink,
            SYS_unlinkat,
            SYS_symlink,
            SYS_symlinkat,
            SYS_readlink,
            SYS_readlinkat,
            SYS_getdents,
            SYS_getdents64,
            SYS_getcwd,
            SYS_chdir,
            SYS_fchdir,
            SYS_setxattr,
            SYS_lsetxattr,
            SYS_fsetxattr,
            SYS_getxattr,
            SYS_lgetxattr,
            SYS_fgetxattr,
            SYS_listxattr,
            SYS_llistxattr,
            SYS_flistxattr,
            SYS_removexattr,
            SYS_lremovexattr,
            SYS_fremovexattr,
            SYS_SETXATTRAT,
            SYS_GETXATTRAT,
            SYS_LISTXATTRAT,
            SYS_REMOVEXATTRAT,
            SYS_FILE_GETATTR,
        ],
    ),
    allow("fifos and sockets are made by mknod too; devices are stopped by capability, nodev and Landlock", &[SYS_mknod, SYS_mknodat]),
    allow("chroot: CAP_SYS_CHROOT is kept, and there is nothing outside the root to reach", &[SYS_chroot]),
    allow(
        "watching files and waiting for events",
        &[
            SYS_inotify_init,
            SYS_inotify_init1,
            SYS_inotify_add_watch,
            SYS_inotify_rm_watch,
            SYS_poll,
            SYS_ppoll,
            SYS_select,
            SYS_pselect6,
            SYS_epoll_create,
            SYS_epoll_create1,
            SYS_epoll_ctl,
            SYS_epoll_wait,
            SYS_epoll_pwait,
            SYS_epoll_pwait2,
            SYS_eventfd,
            SYS_eventfd2,
            SYS_signalfd,
            SYS_signalfd4,
            SYS_timerfd_create,
            SYS_timerfd_settime,
            SYS_timerfd_gettime,
            SYS_io_setup,
            SYS_io_submit,
            SYS_io_cancel,
            SYS_io_getevents,
            SYS_IO_PGETEVENTS,
            SYS_io_destroy,
        ],
    ),
    allow(
        "memory; locking is bounded by RLIMIT_MEMLOCK, the rest by the cgroup",
        &[
            SYS_mmap,
            SYS_munmap,
            SYS_mremap,
            SYS_mprotect,
            SYS_madvise,
            SYS_brk,
            SYS_msync,
            SYS_mincore,
            SYS_mlock,
            SYS_mlock2,
            SYS_munlock,
            SYS_mlockall,
            SYS_munlockall,
            SYS_remap_file_pages,
            SYS_pkey_mprotect,
            SYS_pkey_alloc,
            SYS_pkey_free,
            SYS_membarrier,
            SYS_MSEAL,
            SYS_MAP_SHADOW_STACK,
            SYS_process_mrelease,
            SYS_get_mempolicy,
        ],
    ),
    allow(
        "processes and threads: start, wait, end, name, groups and sessions",
        &[
            SYS_fork,
            SYS_vfork,
            SYS_execve,
            SYS_execveat,
            SYS_exit,
            SYS_exit_group,
            SYS_wait4,
            SYS_waitid,
            SYS_kill,
            SYS_tkill,
            SYS_tgkill,
            SYS_pidfd_open,
            SYS_pidfd_send_signal,
            SYS_getpid,
            SYS_getppid,
            SYS_gettid,
            SYS_getpgid,
            SYS_setpgid,
            SYS_getpgrp,
            SYS_getsid,
            SYS_setsid,
            SYS_set_tid_address,
            SYS_set_robust_list,
            SYS_get_robust_list,
            SYS_rseq,
            SYS_futex,
            SYS_futex_waitv,
            SYS_FUTEX_WAKE,
            SYS_FUTEX_WAIT,
            SYS_FUTEX_REQUEUE,
            SYS_prctl,
            SYS_arch_prctl,
            SYS_set_thread_area,
            SYS_get_thread_area,
            SYS_restart_syscall,
            SYS_pause,
        ],
    ),
    allow("tracing one's own children (strace, gdb); the kernel and Landlock allow no others", &[SYS_ptrace]),
    allow("a program may confine itself further", &[SYS_seccomp, SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self]),
    allow(
        "scheduling; what needs a capability fails for want of it",
        &[
            SYS_sched_yield,
            SYS_sched_getparam,
            SYS_sched_setparam,
            SYS_sched_getscheduler,
            SYS_sched_setscheduler,
            SYS_sched_get_priority_max,
            SYS_sched_get_priority_min,
            SYS_sched_rr_get_interval,
            SYS_sched_getaffinity,
            SYS_sched_setaffinity,
            SYS_sched_getattr,
            SYS_sched_setattr,
            SYS_getpriority,
            SYS_setpriority,
            SYS_ioprio_get,
            SYS_ioprio_set,
            SYS_getcpu,
        ],
    ),
    allow(
        "signals",
        &[
            SYS_rt_sigaction,
            SYS_rt_sigprocmask,
            SYS_rt_sigreturn,
            SYS_rt_sigpending,
            SYS_rt_sigsuspend,
            SYS_rt_sigtimedwait,
            SYS_rt_sigqueueinfo,
            SYS_rt_tgsigqueueinfo,
            SYS_sigaltstack,
        ],
    ),
    allow(
        "time: reading and waiting; clocks are set by nobody",
        &[
            SYS_time,
            SYS_times,
            SYS_gettimeofday,
            SYS_clock_gettime,
            SYS_clock_getres,
            SYS_clock_nanosleep,
            SYS_nanosleep,
            SYS_alarm,
            SYS_getitimer,
            SYS_setitimer,
            SYS_timer_create,
            SYS_timer_settime,
            SYS_timer_gettime,
            SYS_timer_getoverrun,
            SYS_timer_delete,
        ],
    ),
    allow(
        "users, groups and capabilities within the sandbox's own user namespace",
        &[
            SYS_getuid,
            SYS_geteuid,
            SYS_getgid,
            SYS_getegid,
            SYS_getgroups,
            SYS_getresuid,
            SYS_getresgid,
            SYS_setuid,
            SYS_setgid,
            SYS_setreuid,
            SYS_setregid,
            SYS_setresuid,
            SYS_setresgid,
            SYS_setfsuid,
            SYS_setfsgid,
            SYS_setgroups,
            SYS_capget,
            SYS_capset,
        ],
    ),
    allow("limits and facts about the machine that programs ask for", &[SYS_getrlimit, SYS_getrusage, SYS_uname, SYS_sysinfo, SYS_getrandom]),
    allow(
        "sockets, once they are made; which ones can be made is checked below",
        &[
            SYS_bind,
            SYS_listen,
            SYS_accept,
            SYS_accept4,
            SYS_connect,
            SYS_shutdown,
            SYS_getsockname,
            SYS_getpeername,
            SYS_getsockopt,
            SYS_setsockopt,
            SYS_sendto,
            SYS_recvfrom,
            SYS_sendmsg,
            SYS_recvmsg,
            SYS_sendmmsg,
            SYS_recvmmsg,
        ],
    ),
    allow(
        "System V and POSIX IPC, in its own namespace",
        &[
            SYS_shmget,
            SYS_shmat,
            SYS_shmdt,
            SYS_shmctl,
            SYS_semget,
            SYS_semop,
            SYS_semtimedop,
            SYS_semctl,
            SYS_msgget,
            SYS_msgsnd,
            SYS_msgrcv,
            SYS_msgctl,
            SYS_mq_open,
            SYS_mq_unlink,
            SYS_mq_timedsend,
            SYS_mq_timedreceive,
            SYS_mq_notify,
            SYS_mq_getsetattr,
        ],
    ),
    refuse(
        "mounts are made before the first instruction of the sandbox and never changed",
        &[
            SYS_mount,
            SYS_umount2,
            SYS_pivot_root,
            SYS_move_mount,
            SYS_open_tree,
            SYS_OPEN_TREE_ATTR,
            SYS_fsopen,
            SYS_fsconfig,
            SYS_fsmount,
            SYS_fspick,
            SYS_mount_setattr,
            SYS_STATMOUNT,
            SYS_LISTMOUNT,
            SYS_swapon,
            SYS_swapoff,
            SYS_quotactl,
            SYS_quotactl_fd,
        ],
    ),
    refuse("entering another namespace", &[SYS_setns]),
    refuse("handles reach files past every path check", &[SYS_open_by_handle_at, SYS_name_to_handle_at]),
    refuse("project ids belong to the disk quota", &[SYS_FILE_SETATTR]),
    refuse(
        "large kernel interfaces with a record of privilege escalations",
        &[
            SYS_io_uring_setup,
            SYS_io_uring_enter,
            SYS_io_uring_register,
            SYS_bpf,
            SYS_perf_event_open,
            SYS_userfaultfd,
            SYS_add_key,
            SYS_request_key,
            SYS_keyctl,
            SYS_fanotify_init,
            SYS_fanotify_mark,
            SYS_modify_ldt,
            SYS_lookup_dcookie,
        ],
    ),
    refuse(
        "other processes' memory and files, beyond what ptrace gives of one's own children",
        &[SYS_process_vm_readv, SYS_process_vm_writev, SYS_process_madvise, SYS_pidfd_getfd, SYS_kcmp],
    ),
    refuse(
        "placing memory on NUMA nodes needs CAP_SYS_NICE elsewhere too",
        &[SYS_mbind, SYS_set_mempolicy, SYS_set_mempolicy_home_node, SYS_move_pages, SYS_migrate_pages],
    ),
    refuse(
        "the machine: kernel, modules, clock, power, ports, log, accounting",
        &[
            SYS_kexec_load,
            SYS_kexec_file_load,
            SYS_init_module,
            SYS_finit_module,
            SYS_delete_module,
            SYS_CREATE_MODULE,
            SYS_QUERY_MODULE,
            SYS_GET_KERNEL_SYMS,
            SYS_reboot,
            SYS_settimeofday,
            SYS_clock_settime,
            SYS_clock_adjtime,
            SYS_adjtimex,
            SYS_iopl,
            SYS_ioperm,
            SYS_syslog,
            SYS_acct,
            SYS_sethostname,
            SYS_setdomainname,
            SYS_vhangup,
            SYS_nfsservctl,
            SYS_uselib,
            SYS_ustat,
            SYS_sysfs,
            SYS__sysctl,
        ],
    ),
    Group {
        reason: "its flags are in memory, where a filter cannot look; C libraries fall back to clone",
        verdict: Verdict::Errno(ENOSYS),
        calls: &[SYS_clone3],
    },
];

const PROTOCOLS: &[u32] = &[0, IPPROTO_ICMP as u32, IPPROTO_TCP as u32, IPPROTO_UDP as u32, IPPROTO_ICMPV6 as u32];

/// Everything that depends on arguments.
pub const CHECKED: &[Checked] = &[
    Checked {
        reason: "no new namespaces: a new user namespace opens kernel code that root here must not reach",
        call: SYS_clone,
        checks: &[(&[Check::AnyOf(0, NAMESPACES)], REFUSE)],
        otherwise: ALLOW,
    },
    Checked {
        reason: "as clone; without namespace flags it only separates threads' file tables",
        call: SYS_unshare,
        checks: &[(&[Check::AnyOf(0, NAMESPACES | NEW_TIME)], REFUSE)],
        otherwise: ALLOW,
    },
    Checked {
        reason: "local and internet sockets with ordinary protocols; route netlink to list interfaces. No packet, vsock, crypto, bluetooth and so on",
        call: SYS_socket,
        checks: &[
            (&[Check::Equal(0, AF_UNIX as u32)], ALLOW),
            (&[Check::Equal(0, AF_INET as u32), Check::Equal(2, PROTOCOLS[0])], ALLOW),
            (&[Check::Equal(0, AF_INET as u32), Check::Equal(2, PROTOCOLS[1])], ALLOW),
            (&[Check::Equal(0, AF_INET as u32), Check::Equal(2, PROTOCOLS[2])], ALLOW),
            (&[Check::Equal(0, AF_INET as u32), Check::Equal(2, PROTOCOLS[3])], ALLOW),
            (&[Check::Equal(0, AF_INET as u32)], Verdict::Errno(EPROTONOSUPPORT)),
            (&[Check::Equal(0, AF_INET6 as u32), Check::Equal(2, PROTOCOLS[0])], ALLOW),
            (&[Check::Equal(0, AF_INET6 as u32), Check::Equal(2, PROTOCOLS[2])], ALLOW),
            (&[Check::Equal(0, AF_INET6 as u32), Check::Equal(2, PROTOCOLS[3])], ALLOW),
            (&[Check::Equal(0, AF_INET6 as u32), Check::Equal(2, PROTOCOLS[4])], ALLOW),
            (&[Check::Equal(0, AF_INET6 as u32)], Verdict::Errno(EPROTONOSUPPORT)),
            (&[Check::Equal(0, AF_NETLINK as u32), Check::Equal(2, NETLINK_ROUTE as u32)], ALLOW),
        ],
        otherwise: Verdict::Errno(EAFNOSUPPORT),
    },
    Checked {
        reason: "pairs are local",
        call: SYS_socketpair,
        checks: &[(&[Check::Equal(0, AF_UNIX as u32)], ALLOW)],
        otherwise: Verdict::Errno(EAFNOSUPPORT),
    },
    Checked {
        reason: "no typing into a terminal on someone's behalf, no line disciplines, no console redirection",
        call: SYS_ioctl,
        checks: &[
            (&[Check::Equal(1, TIOCSTI as u32)], REFUSE),
            (&[Check::Equal(1, TIOCLINUX as u32)], REFUSE),
            (&[Check::Equal(1, TIOCSETD as u32)], REFUSE),
            (&[Check::Equal(1, TIOCCONS as u32)], REFUSE),
        ],
        otherwise: ALLOW,
    },
    Checked {
        reason: "the usual personality, without address randomisation (debuggers), or asking for it; others switch protections off",
        call: SYS_personality,
        checks: &[(&[Check::Equal(0, 0)], ALLOW), (&[Check::Equal(0, ADDR_NO_RANDOMIZE as u32)], ALLOW), (&[Check::Equal(0, u32::MAX)], ALLOW)],
        otherwise: REFUSE,
    },
    Checked {
        reason: "the core limit stays at 1, which alone keeps the host's core handler from being run; programs that switch cores off are told that they did",
        call: SYS_setrlimit,
        checks: &[(&[Check::Equal(0, RLIMIT_CORE)], Verdict::Errno(0))],
        otherwise: ALLOW,
    },
    Checked {
        reason: "as setrlimit; and nobody takes the agent's (pid 1) files or time away, which would leave the sandbox deaf",
        call: SYS_prlimit64,
        checks: &[(&[Check::Equal(0, 1), Check::NotNull(2)], REFUSE), (&[Check::Equal(1, RLIMIT_CORE), Check::NotNull(2)], Verdict::Errno(0))],
        otherwise: ALLOW,
    },
];
