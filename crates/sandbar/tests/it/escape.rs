//! Attempts to get out of a sandbox, made from inside it. Every row names what is tried and the refusals that are
//! expected. Probes open and ask; nothing is written that could hurt the machine if a wall had a hole.

use std::{
    collections::HashMap,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::json;

use super::{
    harness::{SECRET, Sandbox, TOKEN, shared},
    http::encode,
    machine,
};

/// Name, Python code, and what may come of it: an error's name or the value of `r`.
type Row = (&'static str, &'static str, &'static [&'static str]);

const REFUSED: &[&str] = &["EPERM", "EACCES"];
const REFUSED_OR_ABSENT: &[&str] = &["EPERM", "EACCES", "ENOENT", "EROFS", "ENXIO"];
/// By the filter, or because the kernel lacks it.
const NO_CALL: &[&str] = &["EPERM", "ENOSYS"];
/// Nothing can be learnt from it: absent, refused, or masked by /dev/null.
const NOTHING_TO_READ: &[&str] = &["EPERM", "EACCES", "ENOENT", "empty"];
/// Writing goes nowhere at best.
const NOTHING_TO_WRITE: &[&str] = &["EPERM", "EACCES", "ENOENT", "EROFS", "null device"];
const NO_SOCKET: &[&str] = &["EAFNOSUPPORT", "EPERM", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EINVAL"];

/// Runs all rows in one sandbox and checks each.
fn check(sandbox: &Sandbox, rows: &[Row]) {
    let listed: Vec<_> = rows.iter().map(|(name, code, _)| json!([name, code])).collect();
    sandbox.write("/workspace/probe.py", include_bytes!("probe.py"));
    sandbox.write("/workspace/rows.json", json!(listed).to_string().as_bytes());
    let done = sandbox.run_with(&["python3", "probe.py"], json!({ "cwd": "/workspace" }));
    assert_eq!(done.code, 0, "the probes ended: {done:?}");
    let got: HashMap<String, String> = done
        .stdout
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            (line["name"].as_str().unwrap().to_owned(), line["got"].as_str().unwrap().to_owned())
        })
        .collect();
    let mut wrong = Vec::new();
    for (name, _, want) in rows {
        match got.get(*name) {
            Some(got) if want.contains(&got.as_str()) => {}
            got => wrong.push(format!("{name}: got {got:?}, want one of {want:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} walls:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// The server answers, a second sandbox works, and so does the first.
fn all_is_well(first: &Sandbox) {
    let second = Sandbox::claim(&first.api, json!({}));
    assert_eq!(second.sh_ok("echo second"), "second\n");
    assert_eq!(first.sh_ok("echo first"), "first\n");
}

#[test]
fn proc_and_sys_show_and_take_nothing_of_the_host() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    check(
        &sandbox,
        &[
            ("sysrq-trigger", "r = opened('/proc/sysrq-trigger', os.O_WRONLY)", NOTHING_TO_WRITE),
            ("core_pattern", "r = opened('/proc/sys/kernel/core_pattern', os.O_WRONLY)", REFUSED_OR_ABSENT),
            ("modprobe", "r = opened('/proc/sys/kernel/modprobe', os.O_WRONLY)", REFUSED_OR_ABSENT),
            ("hostname by sysctl", "r = opened('/proc/sys/kernel/hostname', os.O_WRONLY)", REFUSED_OR_ABSENT),
            ("ip_forward", "r = opened('/proc/sys/net/ipv4/ip_forward', os.O_WRONLY)", REFUSED_OR_ABSENT),
            ("binfmt_misc", "r = opened('/proc/sys/fs/binfmt_misc/register', os.O_WRONLY)", REFUSED_OR_ABSENT),
            (
                "any sysctl writable",
                "r = 'OK'\nfor d, _, fs_ in os.walk('/proc/sys'):\n  for f in fs_:\n    try: opened(d + '/' + f, os.O_WRONLY); r = d + '/' + f\n    except OSError: pass",
                &["OK"],
            ),
            ("kcore", "r = content('/proc/kcore')", NOTHING_TO_READ),
            ("kmsg in proc", "r = content('/proc/kmsg')", NOTHING_TO_READ),
            ("keys", "r = content('/proc/keys')", NOTHING_TO_READ),
            ("key-users", "r = content('/proc/key-users')", NOTHING_TO_READ),
            ("kallsyms", "r = content('/proc/kallsyms')", NOTHING_TO_READ),
            ("timer_list", "r = content('/proc/timer_list')", NOTHING_TO_READ),
            ("interrupts", "r = content('/proc/interrupts')", NOTHING_TO_READ),
            ("kpageflags", "r = content('/proc/kpageflags')", NOTHING_TO_READ),
            ("slabinfo", "r = content('/proc/slabinfo')", NOTHING_TO_READ),
            ("pagemap of init", "r = content('/proc/1/pagemap', 8)", NOTHING_TO_READ),
            ("proc/irq", "r = len(os.listdir('/proc/irq'))", &["0", "ENOENT", "EACCES"]),
            ("proc/bus", "r = len(os.listdir('/proc/bus'))", &["0", "ENOENT", "EACCES"]),
            ("proc/fs", "r = len(os.listdir('/proc/fs'))", &["0", "ENOENT", "EACCES"]),
            ("proc/acpi", "r = len(os.listdir('/proc/acpi'))", &["0", "ENOENT", "EACCES"]),
            ("proc/scsi", "r = len(os.listdir('/proc/scsi'))", &["0", "ENOENT", "EACCES"]),
            ("sysfs", "r = len(os.listdir('/sys'))", &["0", "ENOENT"]),
            ("cgroupfs", "r = opened('/sys/fs/cgroup/cgroup.procs', os.O_WRONLY)", REFUSED_OR_ABSENT),
            ("release_agent", "r = opened('/sys/fs/cgroup/memory/release_agent', os.O_WRONLY)", REFUSED_OR_ABSENT),
            ("uevent_helper", "r = opened('/sys/kernel/uevent_helper', os.O_WRONLY)", REFUSED_OR_ABSENT),
            ("debugfs", "r = opened('/sys/kernel/debug', os.O_RDONLY)", REFUSED_OR_ABSENT),
            ("tracefs", "r = opened('/sys/kernel/tracing', os.O_RDONLY)", REFUSED_OR_ABSENT),
            ("security fs", "r = opened('/sys/kernel/security', os.O_RDONLY)", REFUSED_OR_ABSENT),
            ("efivars", "r = opened('/sys/firmware/efi/efivars', os.O_RDONLY)", REFUSED_OR_ABSENT),
            ("vmcoreinfo", "r = opened('/sys/kernel/vmcoreinfo', os.O_RDONLY)", REFUSED_OR_ABSENT),
        ],
    );
    all_is_well(&sandbox);
}

#[test]
fn devices_are_the_seven_harmless_ones() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    check(
        &sandbox,
        &[
            ("mem", "r = opened('/dev/mem')", REFUSED_OR_ABSENT),
            ("kmem", "r = opened('/dev/kmem')", REFUSED_OR_ABSENT),
            ("port", "r = opened('/dev/port')", REFUSED_OR_ABSENT),
            ("kmsg", "r = opened('/dev/kmsg', os.O_WRONLY)", REFUSED_OR_ABSENT),
            ("vda", "r = opened('/dev/vda')", REFUSED_OR_ABSENT),
            ("sda", "r = opened('/dev/sda')", REFUSED_OR_ABSENT),
            ("loop-control", "r = opened('/dev/loop-control')", REFUSED_OR_ABSENT),
            ("fuse", "r = opened('/dev/fuse', os.O_RDWR)", REFUSED_OR_ABSENT),
            ("kvm", "r = opened('/dev/kvm', os.O_RDWR)", REFUSED_OR_ABSENT),
            ("net/tun", "r = opened('/dev/net/tun', os.O_RDWR)", REFUSED_OR_ABSENT),
            ("vsock", "r = opened('/dev/vsock')", REFUSED_OR_ABSENT),
            ("console", "r = opened('/dev/console', os.O_WRONLY)", REFUSED_OR_ABSENT),
            ("tty1", "r = opened('/dev/tty1')", REFUSED_OR_ABSENT),
            ("userfaultfd device", "r = opened('/dev/userfaultfd')", REFUSED_OR_ABSENT),
            (
                "all there is",
                "r = ' '.join(sorted(n for n in os.listdir('/dev') if stat.S_ISCHR(os.lstat('/dev/' + n).st_mode) or stat.S_ISBLK(os.lstat('/dev/' + n).st_mode)))",
                &["full null random tty urandom zero"],
            ),
            ("mknod of memory", "os.mknod('/tmp/mem', 0o600 | stat.S_IFCHR, os.makedev(1, 1))", REFUSED),
            ("mknod of a disk", "os.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0))", REFUSED),
            ("mknod of null", "os.mknod('/tmp/null', 0o600 | stat.S_IFCHR, os.makedev(1, 3))", REFUSED),
            ("mknod on shm", "os.mknod('/dev/shm/mem', 0o600 | stat.S_IFCHR, os.makedev(1, 1))", REFUSED),
            ("ptmx is of a devpts of its own", "m, s = os.openpty()\nr = len([n for n in os.listdir('/dev/pts') if n != 'ptmx'])", &["1"]),
            ("TIOCSTI", "m, s = os.openpty()\nfcntl.ioctl(s, 0x5412, b'x')", REFUSED),
            ("TIOCLINUX", "m, s = os.openpty()\nfcntl.ioctl(s, 0x541c, b'\\x03')", REFUSED),
            ("TIOCCONS", "m, s = os.openpty()\nfcntl.ioctl(s, 0x541d)", REFUSED),
            ("TIOCSETD", "m, s = os.openpty()\nfcntl.ioctl(s, 0x5423, struct.pack('i', 21))", REFUSED),
            ("reading random works", "r = len(os.read(os.open('/dev/urandom', 0), 8))", &["8"]),
        ],
    );
}

#[test]
fn mounts_cannot_be_made_changed_or_left() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    check(
        &sandbox,
        &[
            ("mount tmpfs", "sc(165, b'none', b'/mnt', b'tmpfs', 0, 0)", NO_CALL),
            ("mount proc", "sc(165, b'proc', b'/mnt', b'proc', 0, 0)", NO_CALL),
            ("bind mount", "sc(165, b'/', b'/mnt', 0, 4096, 0)", NO_CALL),
            ("remount /proc/sys writable", "sc(165, 0, b'/proc/sys', 0, 32 | 4096, 0)", NO_CALL),
            ("remount /usr writable", "sc(165, 0, b'/usr', 0, 32 | 4096, 0)", NO_CALL),
            ("umount2 /proc/sys", "sc(166, b'/proc/sys', 2)", NO_CALL),
            ("umount2 a mask", "sc(166, b'/proc/kcore', 2)", NO_CALL),
            ("pivot_root", "sc(155, b'/', b'/mnt')", NO_CALL),
            ("open_tree", "sc(428, -100, b'/', 1)", NO_CALL),
            ("move_mount", "sc(429, -100, b'/', -100, b'/mnt', 0)", NO_CALL),
            ("fsopen", "sc(430, b'tmpfs', 0)", NO_CALL),
            ("fsconfig", "sc(431, 0, 6, 0, 0, 0)", NO_CALL),
            ("fsmount", "sc(432, 0, 0, 0)", NO_CALL),
            ("fspick", "sc(433, -100, b'/', 0)", NO_CALL),
            ("mount_setattr", "sc(442, -100, b'/', 0, b'\\0' * 32, 32)", NO_CALL),
            ("swapon", "sc(167, b'/tmp/swap', 0)", NO_CALL),
            ("swapoff", "sc(168, b'/tmp/swap')", NO_CALL),
            ("quotactl", "sc(179, 0x80000700, b'/dev/vda', 0, 0)", NO_CALL),
            ("quotactl_fd", "sc(443, 0, 0x80000700, 0, 0)", NO_CALL),
            ("open_by_handle_at", "sc(304, -100, struct.pack('IiQ', 8, 1, 2), 0)", NO_CALL),
            ("name_to_handle_at", "sc(303, -100, b'/', struct.pack('Ii', 128, 0) + b'\\0' * 128, struct.pack('i', 0), 0)", NO_CALL),
            (
                "chroot and out again",
                "os.mkdir('/tmp/jail')\nos.chroot('/tmp/jail')\nfor _ in range(64): os.chdir('..')\nos.chroot('.')\nr = 'procd' in ' '.join(os.listdir('/'))",
                &["True", "EPERM"],
            ),
            ("/usr is read-only", "open('/usr/bin/sandbar-probe', 'w')", &["EROFS", "EACCES"]),
            ("/usr cannot be removed", "os.rename('/usr/bin', '/usr/bin2')", &["EROFS", "EACCES", "EPERM"]),
            (
                "set a file's project id",
                "fd = os.open('/workspace/probe.py', os.O_RDONLY)\nfcntl.ioctl(fd, 0x401c5820, struct.pack('IIIII8x', 0, 0, 0, 4242, 0))",
                &["EPERM", "EACCES", "EOPNOTSUPP", "ENOTTY", "EINVAL"],
            ),
            (
                "immutable flag",
                "fd = os.open('/workspace/probe.py', os.O_RDONLY)\nfcntl.ioctl(fd, 0x40086602, struct.pack('i', 16))",
                &["EPERM", "EACCES", "EOPNOTSUPP", "ENOTTY"],
            ),
            (
                "freeze the filesystem",
                "fd = os.open('/workspace', os.O_RDONLY)\nfcntl.ioctl(fd, 0xc0045877, struct.pack('i', 0))",
                &["EPERM", "EACCES", "EOPNOTSUPP", "ENOTTY"],
            ),
            ("trusted xattr", "os.setxattr('/workspace/probe.py', 'trusted.overlay.opaque', b'y')", &["EPERM", "EACCES", "EOPNOTSUPP"]),
            (
                "all mounts are nosuid",
                "r = 'OK'\nfor l in open('/proc/self/mountinfo'):\n  f = l.split()\n  if 'nosuid' not in f[5].split(',') and f[3] not in ('/null', '/zero', '/full', '/random', '/urandom', '/tty'): r = l",
                &["OK"],
            ),
            (
                "no mount gives devices but /dev",
                "r = 'OK'\nfor l in open('/proc/self/mountinfo'):\n  f = l.split()\n  if 'nodev' not in f[5].split(',') and not f[4].startswith(('/dev', '/proc/')): r = l",
                &["OK"],
            ),
        ],
    );
}

#[test]
fn new_namespaces_and_privileges_cannot_be_had() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    check(
        &sandbox,
        &[
            ("unshare user", "sc(272, 0x10000000)", REFUSED),
            ("unshare mount", "sc(272, 0x00020000)", REFUSED),
            ("unshare pid", "sc(272, 0x20000000)", REFUSED),
            ("unshare net", "sc(272, 0x40000000)", REFUSED),
            ("unshare ipc", "sc(272, 0x08000000)", REFUSED),
            ("unshare uts", "sc(272, 0x04000000)", REFUSED),
            ("unshare cgroup", "sc(272, 0x02000000)", REFUSED),
            ("unshare time", "sc(272, 0x00000080)", REFUSED),
            ("clone user", "if sc(56, 0x10000000 | 17, 0, 0, 0, 0) == 0: os._exit(0)", REFUSED),
            ("clone mount", "if sc(56, 0x00020000 | 17, 0, 0, 0, 0) == 0: os._exit(0)", REFUSED),
            ("clone net", "if sc(56, 0x40000000 | 17, 0, 0, 0, 0) == 0: os._exit(0)", REFUSED),
            ("clone with flags in the high half", "if sc(56, (1 << 32) | 0x10000000 | 17, 0, 0, 0, 0) == 0: os._exit(0)", REFUSED),
            ("clone3", "if sc(435, struct.pack('QQQQQQQQ', 0x10000000, 0, 0, 0, 17, 0, 0, 0), 64) == 0: os._exit(0)", &["ENOSYS"]),
            ("setns by file", "fd = os.open('/proc/self/ns/net', os.O_RDONLY)\nsc(308, fd, 0)", REFUSED),
            ("setns of init's mounts", "fd = os.open('/proc/1/ns/mnt', os.O_RDONLY)\nsc(308, fd, 0)", REFUSED),
            ("setns by pidfd", "fd = os.pidfd_open(1)\nsc(308, fd, 0x20000)", REFUSED),
            ("no new privileges", "r = caps('NoNewPrivs')", &["1"]),
            ("filtered", "r = caps('Seccomp')", &["2"]),
            (
                "no capability over the machine",
                "r = int(caps('CapEff'), 16) & (1 << 12 | 1 << 13 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 19 | 1 << 21 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 27 | 1 << 34 | 1 << 37 | 1 << 38 | 1 << 39 | 1 << 40)",
                &["0"],
            ),
            ("bounding set is no larger", "r = int(caps('CapBnd'), 16) & ~int(caps('CapPrm'), 16)", &["0"]),
            ("nothing inheritable or ambient", "r = int(caps('CapInh'), 16) | int(caps('CapAmb'), 16)", &["0"]),
            ("host root is not mapped", "r = [int(l.split()[1]) >= 1000000 for l in open('/proc/self/uid_map')]", &["[True]"]),
            (
                "uid map cannot be rewritten",
                "r = opened('/proc/self/uid_map', os.O_WRONLY)\nfd = os.open('/proc/self/uid_map', os.O_WRONLY)\nos.write(fd, b'0 0 1')",
                &["EPERM", "EACCES", "EROFS"],
            ),
            (
                "setuid programs give nothing",
                "os.makedirs('/tmp/su', exist_ok=True)\nimport shutil\nshutil.copy('/usr/bin/id' if os.path.exists('/usr/bin/id') else '/bin/id', '/tmp/su/id')\nos.chown('/tmp/su/id', 0, 0)\nos.chmod('/tmp/su/id', 0o4755)\nos.chmod('/tmp/su', 0o755)\nrd, wr = os.pipe()\npid = os.fork()\nif pid == 0:\n  os.setgid(1000); os.setuid(1000); os.dup2(wr, 1); os.execv('/tmp/su/id', ['id', '-u'])\nos.close(wr)\nr = os.read(rd, 100).decode().strip()",
                &["1000"],
            ),
            (
                "su of the host",
                "import glob\npid = os.fork()\nif pid == 0:\n  os.setgid(1000); os.setuid(1000)\n  os.dup2(os.open('/dev/null', os.O_RDWR), 0); os.dup2(0, 1); os.dup2(0, 2)\n  try: os.execvp('su', ['su', '-c', 'true'])\n  except OSError: os._exit(42)\nr = wait_child(pid) != 0",
                &["True"],
            ),
            (
                "mount of the host",
                "pid = os.fork()\nif pid == 0:\n  os.dup2(os.open('/dev/null', os.O_RDWR), 2)\n  try: os.execvp('mount', ['mount', '-t', 'tmpfs', 'none', '/mnt'])\n  except OSError: os._exit(42)\nr = wait_child(pid) != 0",
                &["True"],
            ),
            (
                "file capabilities",
                "import struct as s\nopen('/tmp/caps', 'w').close()\nos.setxattr('/tmp/caps', 'security.capability', s.pack('<IIIII', 0x02000001, 1 << 21, 0, 0, 0))",
                &["EPERM", "EACCES", "EOPNOTSUPP"],
            ),
            ("personality", "sc(135, 0x0400000)", REFUSED),
            ("personality ADDR_COMPAT", "sc(135, 0x0200000 | 0x0040000)", REFUSED),
            ("capset", "sc(126, struct.pack('II', 0x20080522, 0), struct.pack('IIIIII', 0xffffffff, 0xffffffff, 0, 0x1ff, 0x1ff, 0))", REFUSED),
            ("dumpable core stays without the host's handler", "import resource\nr = resource.getrlimit(resource.RLIMIT_CORE)[1] <= 1", &["True"]),
            (
                "32-bit calls",
                "import mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('b814000000cd80c3'))\nf = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\nr = 'got ' + str(f())",
                &["SIGSYS", "SIGSEGV", "SIGKILL", "got -38", "got -1"],
            ),
            ("x32 calls", "r = sc(0x40000000 | 39)", &["SIGSYS", "SIGKILL", "ENOSYS", "EPERM"]),
        ],
    );
}

#[test]
fn kernel_interfaces_with_a_record_are_closed() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    check(
        &sandbox,
        &[
            ("io_uring_setup", "sc(425, 8, b'\\0' * 120)", NO_CALL),
            ("io_uring_enter", "sc(426, 0, 0, 0, 0, 0, 0)", NO_CALL),
            ("io_uring_register", "sc(427, 0, 0, 0, 0)", NO_CALL),
            ("bpf", "sc(321, 0, b'\\0' * 48, 48)", NO_CALL),
            ("perf_event_open", "sc(298, b'\\0' * 128, 0, -1, -1, 0)", NO_CALL),
            ("userfaultfd", "sc(323, 0)", NO_CALL),
            ("userfaultfd user mode only", "sc(323, 1)", NO_CALL),
            ("add_key", "sc(248, b'user', b'x', b'y', 1, -3)", NO_CALL),
            ("request_key", "sc(249, b'user', b'x', 0, -3)", NO_CALL),
            ("keyctl", "sc(250, 0, -3, 0)", NO_CALL),
            ("fanotify_init", "sc(300, 0, 0)", NO_CALL),
            ("modify_ldt", "sc(154, 0, b'\\0' * 64, 64)", NO_CALL),
            ("kexec_load", "sc(246, 0, 0, 0, 0)", NO_CALL),
            ("kexec_file_load", "sc(320, -1, -1, 0, 0, 0)", NO_CALL),
            ("init_module", "sc(175, b'', 0, b'')", NO_CALL),
            ("finit_module", "sc(313, -1, b'', 0)", NO_CALL),
            ("delete_module", "sc(176, b'sandbar_none', 0)", NO_CALL),
            // An unknown command: no kernel would do anything for it.
            ("reboot", "sc(169, 0xfee1dead, 672274793, 0x7fffffff, 0)", NO_CALL),
            ("settimeofday", "sc(164, 0, 0)", NO_CALL),
            ("clock_settime", "sc(227, 0, struct.pack('qq', -1, -1))", NO_CALL),
            ("adjtimex", "sc(159, b'\\0' * 208)", NO_CALL),
            ("clock_adjtime", "sc(305, 0, b'\\0' * 208)", NO_CALL),
            ("sethostname", "sc(170, b'x', 1)", NO_CALL),
            ("setdomainname", "sc(171, b'x', 1)", NO_CALL),
            ("iopl", "sc(172, 3)", NO_CALL),
            ("ioperm", "sc(173, 0x80, 1, 1)", NO_CALL),
            ("syslog", "sc(103, 3, 0, 0)", NO_CALL),
            ("acct", "sc(163, 0)", NO_CALL),
            ("vhangup", "sc(153)", NO_CALL),
            ("lookup_dcookie", "sc(212, 0, 0, 0)", NO_CALL),
            ("migrate_pages", "sc(256, 0, 0, 0, 0)", NO_CALL),
            ("an unknown system call", "sc(999)", &["ENOSYS", "EPERM"]),
        ],
    );
}

#[test]
fn other_processes_cannot_be_traced_read_or_signalled() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    check(
        &sandbox,
        &[
            ("ptrace attach to init", "sc(101, 16, 1, 0, 0)", REFUSED),
            ("ptrace seize of init", "sc(101, 0x4206, 1, 0, 0)", REFUSED),
            (
                "process_vm_readv of init",
                "b = ctypes.create_string_buffer(8)\nv = struct.pack('QQ', ctypes.addressof(b), 8)\nsc(310, 1, v, 1, v, 1, 0)",
                NO_CALL,
            ),
            (
                "process_vm_writev of init",
                "b = ctypes.create_string_buffer(8)\nv = struct.pack('QQ', ctypes.addressof(b), 0)\nsc(311, 1, v, 1, v, 1, 0)",
                NO_CALL,
            ),
            ("process_madvise of init", "fd = os.pidfd_open(1)\nsc(440, fd, 0, 0, 4, 0)", NO_CALL),
            ("pidfd_getfd of init", "fd = os.pidfd_open(1)\nsc(438, fd, 3, 0)", NO_CALL),
            ("kcmp", "sc(312, 1, 1, 0, 0, 0)", NO_CALL),
            ("mem of init", "r = opened('/proc/1/mem')", REFUSED),
            ("mem of init for writing", "r = opened('/proc/1/mem', os.O_RDWR)", REFUSED),
            ("maps of init", "r = content('/proc/1/maps')", REFUSED),
            ("environ of init", "r = content('/proc/1/environ')", NOTHING_TO_READ),
            ("a file of init", "r = os.readlink('/proc/1/fd/3')", REFUSED),
            ("opening init's socket", "r = opened('/proc/1/fd/3', os.O_RDWR)", REFUSED),
            ("opening init's log", "r = opened('/proc/1/fd/4', os.O_RDWR)", REFUSED),
            ("root of init", "r = os.listdir('/proc/1/root')", REFUSED),
            ("cwd of init", "r = os.listdir('/proc/1/cwd')", REFUSED),
            ("program of init", "r = opened('/proc/1/exe')", REFUSED),
            ("map_files of init", "r = os.listdir('/proc/1/map_files')", REFUSED),
            ("stack of init", "r = content('/proc/1/stack')", NOTHING_TO_READ),
            ("syscall of init", "r = content('/proc/1/syscall')", NOTHING_TO_READ),
            ("auxv of init", "r = content('/proc/1/auxv')", NOTHING_TO_READ),
            ("init less killable", "fd = os.open('/proc/1/oom_score_adj', os.O_WRONLY)\nos.write(fd, b'-1000')", REFUSED),
            ("less killable than the rest", "fd = os.open('/proc/self/oom_score_adj', os.O_WRONLY)\nos.write(fd, b'-1000')", REFUSED),
            ("limits of init", "sc(302, 1, 7, struct.pack('QQ', 0, 0), 0)", REFUSED),
            (
                "KILL to init does nothing",
                "os.kill(1, signal.SIGKILL)\nos.kill(1, signal.SIGSTOP)\ntime.sleep(0.05)\nr = os.path.exists('/proc/1/stat')",
                &["True", "EPERM"],
            ),
            (
                "no pid of the host",
                "r = max(int(p) for p in os.listdir('/proc') if p.isdigit()) < 100000 and len([p for p in os.listdir('/proc') if p.isdigit()]) < 30",
                &["True"],
            ),
            ("parent of init", "r = [l.split()[1] for l in open('/proc/1/status') if l.startswith('PPid')]", &["['0']"]),
            ("priority above the host's", "os.setpriority(os.PRIO_PROCESS, 0, -10)", REFUSED),
            ("real-time scheduling", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))", REFUSED),
            (
                "one's own child may be traced",
                "pid = os.fork()\nif pid == 0: time.sleep(5); os._exit(0)\nsc(101, 16, pid, 0, 0)\nos.kill(pid, signal.SIGKILL)\nr = 'OK'",
                &["OK", "EPERM"],
            ),
        ],
    );
    // kill(-1) reaches everything that may be signalled: the caller's own sandbox, and procd lives on.
    let outside = Sandbox::claim(&server.api(), json!({}));
    let sleeper = outside.spawn(&["sleep", "86400"]);
    sandbox.python("import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.kill(-1, signal.SIGTERM)\nos.kill(-1, signal.SIGKILL)");
    assert_eq!(outside.context(&sleeper["id"])["running"], true, "a signal left its sandbox");
    all_is_well(&sandbox);
}

#[test]
fn sockets_are_local_or_internet_ones_and_see_nobody_else() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let other = Sandbox::claim(&server.api(), json!({}));
    let code = "import socket, time\ns = socket.socket(socket.AF_UNIX)\ns.bind(b'\\0sandbar-probe')\ns.listen()\nt = socket.create_server(('0.0.0.0', 18099))\nprint('up', flush=True)\ntime.sleep(86400)";
    let listener = other.spawn(&["python3", "-c", code]);
    super::http::eventually("a listener in the other sandbox", Duration::from_secs(20), || {
        let context = other.context(&listener["id"]);
        if context["stdout"] == "up\n" { Ok(()) } else { Err(context.to_string()) }
    });
    check(
        &sandbox,
        &[
            ("raw ICMP", "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)", &["EPERM", "EACCES", "EPROTONOSUPPORT"]),
            ("raw TCP", "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)", &["EPERM", "EACCES", "EPROTONOSUPPORT"]),
            ("raw IP", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)", &["EPERM", "EACCES", "EPROTONOSUPPORT"]),
            ("raw IPv6", "socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)", &["EPERM", "EACCES", "EPROTONOSUPPORT"]),
            ("packet", "socket.socket(17, socket.SOCK_RAW, 0x0300)", NO_SOCKET),
            ("packet datagram", "socket.socket(17, socket.SOCK_DGRAM, 0)", NO_SOCKET),
            ("vsock", "socket.socket(40, socket.SOCK_STREAM)", NO_SOCKET),
            ("alg", "socket.socket(38, socket.SOCK_SEQPACKET)", NO_SOCKET),
            ("bluetooth", "socket.socket(31, socket.SOCK_RAW, 1)", NO_SOCKET),
            ("can", "socket.socket(29, socket.SOCK_RAW, 1)", NO_SOCKET),
            ("tipc", "socket.socket(30, socket.SOCK_STREAM)", NO_SOCKET),
            ("rds", "socket.socket(21, socket.SOCK_SEQPACKET)", NO_SOCKET),
            ("xdp", "socket.socket(44, socket.SOCK_RAW)", NO_SOCKET),
            ("key", "socket.socket(15, socket.SOCK_RAW, 2)", NO_SOCKET),
            ("sctp", "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)", NO_SOCKET),
            ("mptcp", "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)", NO_SOCKET),
            ("smc", "socket.socket(43, socket.SOCK_STREAM)", NO_SOCKET),
            ("netlink audit", "socket.socket(16, socket.SOCK_RAW, 9)", NO_SOCKET),
            ("netlink netfilter", "socket.socket(16, socket.SOCK_RAW, 12)", NO_SOCKET),
            ("netlink generic", "socket.socket(16, socket.SOCK_RAW, 16)", NO_SOCKET),
            ("netlink uevent", "socket.socket(16, socket.SOCK_RAW, 15)", NO_SOCKET),
            ("netlink sock_diag", "socket.socket(16, socket.SOCK_RAW, 4)", NO_SOCKET),
            ("netlink xfrm", "socket.socket(16, socket.SOCK_RAW, 6)", NO_SOCKET),
            // RTM_NEWROUTE and RTM_DELROUTE of a prefix that nobody has; the answer is an NLMSG_ERROR with -EPERM.
            (
                "a new route",
                "s = socket.socket(16, socket.SOCK_RAW, 0)\ns.bind((0, 0))\nbody = struct.pack('BBBBBBBBI', 2, 32, 0, 0, 254, 3, 0, 1, 0) + struct.pack('HH4B', 8, 1, 203, 0, 113, 77)\ns.send(struct.pack('IHHII', 16 + len(body), 24, 0x405, 1, 0) + body)\nd = s.recv(4096)\nr = errno.errorcode.get(-struct.unpack_from('i', d, 16)[0], d.hex())",
                REFUSED,
            ),
            (
                "a route away",
                "s = socket.socket(16, socket.SOCK_RAW, 0)\ns.bind((0, 0))\nbody = struct.pack('BBBBBBBBI', 2, 8, 0, 0, 255, 0, 0, 0, 0) + struct.pack('HH4B', 8, 1, 10, 0, 0, 0)\ns.send(struct.pack('IHHII', 16 + len(body), 25, 5, 1, 0) + body)\nd = s.recv(4096)\nr = errno.errorcode.get(-struct.unpack_from('i', d, 16)[0], d.hex())",
                REFUSED,
            ),
            (
                "lo down",
                "s = socket.socket(16, socket.SOCK_RAW, 0)\ns.bind((0, 0))\nbody = struct.pack('BxHiII', 0, 0, 1, 0, 1)\ns.send(struct.pack('IHHII', 16 + len(body), 16, 5, 1, 0) + body)\nd = s.recv(4096)\nr = errno.errorcode.get(-struct.unpack_from('i', d, 16)[0], d.hex())",
                REFUSED,
            ),
            ("only lo", "r = sorted(n for _, n in socket.if_nameindex())", &["['lo']"]),
            ("interface settings by ioctl", "s = socket.socket()\nfcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'lo', 0))", REFUSED),
            ("iptables by setsockopt", "s = socket.socket()\ns.setsockopt(0, 64, b'\\0' * 96)", &["EPERM", "ENOPROTOOPT", "EACCES"]),
            ("mark", "s = socket.socket()\ns.setsockopt(1, 36, 1)", REFUSED),
            ("transparent proxying", "s = socket.socket()\ns.setsockopt(0, 19, 1)", REFUSED),
            ("bind to a device that is not there", "s = socket.socket()\ns.setsockopt(1, 25, b'eth0\\0')", &["ENODEV", "EPERM", "EACCES"]),
            ("another sandbox's abstract socket", "s = socket.socket(socket.AF_UNIX)\ns.connect(b'\\0sandbar-probe')", &["ECONNREFUSED", "EPERM"]),
            ("another sandbox's port", "s = socket.socket()\ns.settimeout(5)\ns.connect(('127.0.0.1', 18099))", &["ECONNREFUSED"]),
            ("abstract sockets that are seen", "r = len([l for l in open('/proc/net/unix') if '@' in l])", &["0"]),
            ("local sockets work", "a, b = socket.socketpair()\na.send(b'x')\nr = b.recv(1)", &["b'x'"]),
            ("vsock pairs", "socket.socketpair(40, socket.SOCK_STREAM)", NO_SOCKET),
        ],
    );
    // The server's own listener, by the loopback of the machine.
    let port = server.api().addr().port();
    let done = sandbox.python(&format!(
        "import socket\ns = socket.socket()\ns.settimeout(5)\ntry:\n  s.connect(('127.0.0.1', {port})); print('reached')\nexcept OSError as e: print('refused')"
    ));
    assert_eq!(done.stdout, "refused\n", "the server's port is reachable: {done:?}");
    assert_eq!(other.context(&listener["id"])["running"], true);
}

#[test]
fn nothing_is_inherited_and_no_secret_or_host_path_shows() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({ "env_vars": { "MINE": "seen" } }));
    let fds = sandbox.python("import os\nd = os.open('/proc/self/fd', os.O_RDONLY)\nfor n in sorted(os.listdir(d), key=int):\n  if int(n) != d: print(n, os.readlink('/proc/self/fd/' + n))");
    let numbers: Vec<_> = fds.stdout.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{}", fds.stdout);
    for line in fds.stdout.lines() {
        let target = line.split_once(' ').unwrap().1;
        assert!(["pipe:", "socket:", "/dev/null"].iter().any(|prefix| target.starts_with(prefix)), "{line}");
    }
    // A REPL has a terminal or pipes and nothing else either.
    let repl = sandbox.api.post(&sandbox.path("/contexts"), json!({ "type": "repl", "repl": { "alias": "bash" } })).ok(201);
    let exec = sandbox.path(&format!("/contexts/{}/exec", repl["id"].as_str().unwrap()));
    let listed = sandbox.api.post(&exec, json!({ "data": "for f in /proc/$$/fd/*; do readlink $f; done" })).ok(200);
    let data = server.data_dir();
    let host_dir = data.parent().unwrap().to_string_lossy().into_owned();
    let listed = listed["output_raw"].as_str().unwrap();
    assert!(!listed.contains(&host_dir), "{listed}");

    let environ = sandbox.sh_ok("cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; env");
    assert!(environ.contains("MINE=seen"));
    for secret in [TOKEN, SECRET, "SANDBAR_DATA_DIR", "SANDBAR_BOOTSTRAP", "HOST_SECRET"] {
        assert!(!environ.contains(secret), "{secret} is in an environment: {environ}");
    }
    let seen = sandbox.sh_ok("cat /proc/self/mountinfo /proc/self/cgroup /proc/self/mounts /proc/1/cgroup /proc/[0-9]*/cmdline /etc/hosts /etc/hostname /etc/resolv.conf /proc/net/unix /proc/swaps /proc/partitions 2>/dev/null | tr '\\0' ' '");
    for secret in [TOKEN, SECRET, host_dir.as_str(), server.instance.as_str(), "sandbar.db"] {
        assert!(!seen.contains(secret), "{secret} shows: {seen}");
    }
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(sandbox.sh_ok("hostname 2>/dev/null || cat /proc/sys/kernel/hostname"), hostname);
    let shadow = sandbox.sh_ok("cat /etc/shadow /etc/passwd");
    let host_users = fs::read_to_string("/etc/passwd").unwrap();
    for user in
        host_users.lines().filter(|line| line.split(':').nth(2).and_then(|uid| uid.parse::<u32>().ok()).is_some_and(|uid| (1001..60_000).contains(&uid)))
    {
        let name = user.split(':').next().unwrap();
        assert!(!shadow.contains(&format!("{name}:")), "the host's user {name} shows");
    }
    // Every namespace is its own.
    for kind in ["pid", "mnt", "net", "ipc", "uts", "user", "cgroup"] {
        let inside = sandbox.sh_ok(&format!("readlink /proc/self/ns/{kind}"));
        let outside = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(inside.trim(), outside.to_string_lossy(), "the {kind} namespace is the host's");
    }
}

#[test]
fn memory_and_files_of_another_sandbox_cannot_be_seen() {
    let server = shared();
    let first = Sandbox::claim(&server.api(), json!({}));
    let second = Sandbox::claim(&server.api(), json!({}));
    first.write("/workspace/mine", b"only here");
    first.sh_ok("echo shm > /dev/shm/mine; echo tmp > /tmp/mine; python3 -c 'import os; os.mkfifo(\"/tmp/fifo\")'");
    first.python("import mmap, ctypes\nl = ctypes.CDLL(None, use_errno=True)\ni = l.shmget(4242, 4096, 0o1666)\nassert i >= 0");
    assert_eq!(second.sh("cat /workspace/mine || cat /dev/shm/mine || cat /tmp/mine").code, 1);
    let shm = second.python("import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nprint(l.shmget(4242, 4096, 0))");
    assert_eq!(shm.stdout, "-1\n");
    assert_eq!(second.api.get(&second.file("/workspace/mine")).status, 404);
    // Two sandboxes never have a uid of the host in common.
    let base = |sandbox: &Sandbox| sandbox.sh_ok("cat /proc/self/uid_map").split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    assert!(base(&first).abs_diff(base(&second)) >= 65_536);
}

#[test]
fn paths_of_the_files_api_stay_inside_whatever_they_say() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let secret_dir = server.data_dir().parent().unwrap().join("outside");
    fs::create_dir_all(&secret_dir).unwrap();
    let secret = secret_dir.join("secret");
    fs::write(&secret, SECRET).unwrap();
    let target = secret.to_string_lossy().into_owned();
    sandbox.sh_ok(&format!("cd /workspace && ln -s {target} absolute && ln -s ../../../../../../../..{target} relative && ln -s / root && ln -s /proc/self/root procself && ln -s /proc/1/root procone && ln -s loop loop && ln -s {} dir && mkfifo pipe", secret_dir.display()));
    let paths = [
        target.clone(),
        format!("/workspace/../../../../../../..{target}"),
        format!("../../../../../../../..{target}"),
        format!("/workspace/root{target}"),
        format!("/workspace/procself{target}"),
        format!("/workspace/procone{target}"),
        format!("/proc/self/root{target}"),
        format!("/proc/1/root{target}"),
        format!("/proc/1/cwd{target}"),
        format!("/proc/self/cwd/../..{target}"),
        "/workspace/absolute".into(),
        "/workspace/relative".into(),
        "/workspace/dir/secret".into(),
        "/workspace/loop".into(),
        format!("/workspace/%2e%2e/%2e%2e{target}"),
    ];
    for path in &paths {
        let reply = sandbox.api.get(&sandbox.file(path));
        assert!(!reply.text().contains(SECRET), "{path} is the host's file");
        assert!(matches!(reply.status, 400 | 403 | 404 | 409), "{path}: {} {}", reply.status, reply.text());
        for kind in ["stat", "list"] {
            let reply = sandbox.api.get(&sandbox.path(&format!("/files/{kind}?path={}", encode(path))));
            let data = &reply.value()["data"];
            let is_inside = data.is_null() || data["type"] == "symlink" || data["entries"] == json!([]);
            assert!(reply.status < 500 && is_inside, "{kind} {path}: {}", reply.text());
        }
    }
    // Writing through links lands inside; removing a link removes the link.
    for path in ["/workspace/absolute", "/workspace/dir/new", "/workspace/relative"] {
        let reply = sandbox.api.send("POST", &sandbox.file(path), b"overwritten");
        assert!(reply.status < 500, "{path}: {} {}", reply.status, reply.text());
    }
    sandbox.api.delete(&sandbox.file("/workspace/dir")).ok(200);
    sandbox.api.delete(&sandbox.file("/workspace/root")).ok(200);
    let moved = sandbox.api.post(&sandbox.path("/files/move"), json!({ "source": target, "destination": "/workspace/stolen" }));
    assert!(moved.status < 500, "{}", moved.text());
    assert!(!sandbox.api.get(&sandbox.file("/workspace/stolen")).text().contains(SECRET), "the host's file was moved in");
    assert_eq!(fs::read_to_string(&secret).unwrap(), SECRET);
    assert_eq!(fs::read_dir(&secret_dir).unwrap().count(), 1, "something was written outside");
    assert!(sandbox.sh_ok("ls /usr/bin | head -3").lines().count() == 3, "deleting a link to / deleted more than the link");
    // A FIFO is not waited for, a device is not read without end.
    let reply = sandbox.api.get(&sandbox.file("/workspace/pipe"));
    assert!((400..500).contains(&reply.status), "a FIFO: {}", reply.status);
    let zero = sandbox.api.get(&sandbox.file("/dev/zero"));
    assert!((400..500).contains(&zero.status), "a device: {}", zero.status);
    all_is_well(&sandbox);
}

#[test]
fn a_link_that_is_swapped_all_the_time_never_leads_out() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let outside = server.data_dir().parent().unwrap().join("race");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("f"), SECRET).unwrap();
    // Ends by itself, if the sandbox does not end it.
    let code = format!(
        "import ctypes, os, time\nos.chdir('/workspace')\nos.makedirs('real', exist_ok=True)\nopen('real/f', 'w').write('inside')\nos.symlink({:?}, 'link')\nl = ctypes.CDLL(None)\nprint('up', flush=True)\nend = time.time() + 60\nwhile time.time() < end: l.renameat2(-100, b'real', -100, b'link', 2)",
        outside.to_string_lossy()
    );
    let racer = sandbox.spawn(&["python3", "-c", &code]);
    super::http::eventually("the race", Duration::from_secs(20), || {
        let context = sandbox.context(&racer["id"]);
        if context["stdout"] == "up\n" { Ok(()) } else { Err(context.to_string()) }
    });
    let inside = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for who in 0..2 {
            let (sandbox, inside) = (&sandbox, &inside);
            scope.spawn(move || {
                for i in 0..150 {
                    let path = if (i + who) % 2 == 0 { "/workspace/real/f" } else { "/workspace/link/f" };
                    let reply = sandbox.api.get(&sandbox.file(path));
                    assert!(!reply.text().contains(SECRET), "the host's file was read");
                    assert!(reply.status < 500, "read: {} {}; {:?}", reply.status, reply.text(), sandbox.events());
                    inside.fetch_or(reply.body == b"inside" || reply.body == b"written", Ordering::Relaxed);
                    let wrote = sandbox.api.send("POST", &sandbox.file(path), b"written");
                    assert!(wrote.status < 500 || wrote.text().contains("_failed"), "write: {} {}; {:?}", wrote.status, wrote.text(), sandbox.events());
                    let listed = sandbox.api.get(&sandbox.path("/files/list?path=/workspace/link"));
                    assert!(listed.status < 500, "{} {}", listed.status, listed.text());
                    if i % 25 == 0 {
                        let _ = sandbox.api.delete(&sandbox.file("/workspace/link/none"));
                    }
                }
            });
        }
    });
    assert!(inside.load(Ordering::Relaxed), "nothing was ever read: the race was none");
    assert_eq!(fs::read_to_string(outside.join("f")).unwrap(), SECRET, "the host's file was written");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "something was left outside");
    sandbox.api.post(&sandbox.path(&format!("/contexts/{}/signal", racer["id"].as_str().unwrap())), json!({ "signal": "KILL" })).ok(200);
    all_is_well(&sandbox);
}

#[test]
fn what_runs_inside_is_held_by_a_cgroup_and_a_uid_range() {
    let server = shared();
    let sandbox = Sandbox::claim(&server.api(), json!({}));
    let context = sandbox.spawn(&["sh", "-c", "setsid sleep 86399 & sleep 86398"]);
    let runtime = sandbox.get()["runtime_id"].as_str().unwrap().to_owned();
    let processes = super::http::eventually("the processes", Duration::from_secs(20), || {
        let found: Vec<_> = machine::processes(&server.instance).into_iter().filter(|process| process.runtime_id == runtime).collect();
        if found.iter().filter(|process| process.command.starts_with("sleep 8639")).count() == 2 { Ok(found) } else { Err(format!("{found:?}")) }
    });
    for process in &processes {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
        let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
        assert!(uids.split_whitespace().skip(1).all(|uid| uid.parse::<u32>().unwrap() >= 1_000_000), "{process:?}: {uids}");
    }
    assert_eq!(sandbox.context(&context["id"])["running"], true);
    let id = sandbox.id.clone();
    drop(sandbox);
    super::http::eventually("the end of all its processes", Duration::from_secs(20), || {
        let left: Vec<_> = machine::processes(&server.instance).into_iter().filter(|process| process.runtime_id == runtime).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{id}: {left:?}")) }
    });
}
