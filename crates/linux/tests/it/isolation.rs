//! What can be seen and done from inside.
use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
};

use sandbar_linux::launch::Bind;

use super::room::{LIMITS, Room};

#[test]
fn namespaces_are_its_own_and_ids_are_shifted() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let inside = live.sh(&format!("readlink /proc/self/ns/{kind}"));
        assert!(inside.starts_with(kind), "{inside}");
        assert_ne!(inside, host.to_str().unwrap());
    }
    let map: Vec<u32> = live.sh("cat /proc/self/uid_map").split_whitespace().map(|w| w.parse().unwrap()).collect();
    assert_eq!(map, [0, room.uid_base, 65_536]);
    assert_eq!(live.sh("id -u; id -g; id -G; hostname; pwd; echo $$ > /tmp/x; stat -c %u:%g /tmp/x /usr/bin /etc/passwd"), "0\n0\n0\nbox\n/\n0:0\n0:0\n0:0");
    assert_eq!(fs::metadata(room.dir.join("upper/tmp/x")).unwrap().uid(), room.uid_base);
    // No group's name and nothing of the host's place in the tree.
    assert!(live.sh("cat /proc/self/cgroup").lines().all(|line| line.ends_with(":/") || line.contains("/..")), "{}", live.sh("cat /proc/self/cgroup"));
    assert!(!live.sh("cat /proc/self/cgroup /proc/self/mountinfo").contains("rt-"));
}

#[test]
fn proc_is_masked_and_sysctls_are_read_only() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    assert!(live.sh("ls /proc | grep -c '^[0-9]'").parse::<u32>().unwrap() < 10);
    for file in ["kcore", "keys", "kmsg", "kallsyms", "timer_list", "interrupts", "sysrq-trigger"] {
        assert_eq!(live.sh(&format!("[ -e /proc/{file} ] && wc -c < /proc/{file} || echo 0")), "0", "{file}");
    }
    for dir in ["scsi", "acpi", "irq", "bus", "fs", "pressure"] {
        assert_eq!(live.sh(&format!("ls -A /proc/{dir} 2>/dev/null; touch /proc/{dir}/x 2>/dev/null && echo made")), "", "{dir}");
    }
    // No masked file can be opened for writing, by root inside either.
    let masked = live.python(
        "import errno, os
for n in (\"kcore\", \"keys\", \"key-users\", \"kmsg\", \"kallsyms\", \"timer_list\", \"interrupts\", \"sysrq-trigger\"):
    p = \"/proc/\" + n
    if not os.path.exists(p): continue
    if os.path.getsize(p) or open(p).read(): print(n, \"tells something\")
    for what in (lambda: os.close(os.open(p, os.O_WRONLY)), lambda: os.chmod(p, 0o666), lambda: os.truncate(p, 9)):
        try: what(); print(n, \"can be written\")
        except OSError as e:
            if e.errno not in (errno.EROFS, errno.EACCES): print(n, e)",
    );
    assert_eq!(masked, "");
    for file in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sys/kernel/shmmax"] {
        // Opening is enough to know, and writes nothing.
        let answer = live.sh(&format!("( : >> {file} ) 2>&1"));
        assert!(answer.contains("Read-only") || answer.contains("Permission denied"), "{file}: {answer}");
    }
    assert_eq!(live.sh("grep -c '^[^ ]* /proc/sys [^ ]* ro,' /proc/mounts"), "1");
    let writable = live.python(
        "import os\nfor d, _, fs in os.walk(\"/proc\"):\n  p = d.split(\"/\")\n  if len(p) > 2 and (p[2].isdigit() or p[2] in (\"self\", \"thread-self\", \"sys\")): continue\n  for f in fs:\n    n = d + \"/\" + f\n    try: fd = os.open(n, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)\n    except OSError: continue\n    print(n)\n    os.close(fd)",
    );
    assert_eq!(writable, "");
    assert_eq!(live.sh("ls -A /sys"), "");
}

#[test]
fn devices_are_the_harmless_ones() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    assert_eq!(live.sh("ls -A /dev | tr '\\n' ' '"), "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero");
    assert_eq!(live.sh("head -c 4 /dev/zero | wc -c; echo x > /dev/null && head -c 3 /dev/urandom | wc -c"), "4\n3");
    assert_eq!(live.python("import pty, os; m, s = pty.openpty(); print(os.ttyname(s).startswith(\"/dev/pts/\"))"), "True");
    assert_eq!(live.sh("mknod /tmp/d c 1 3 2>/dev/null || mknod /dev/d b 7 0 2>/dev/null || echo none"), "none");
    assert_eq!(live.sh("mkfifo /tmp/p && echo yes"), "yes");
    assert!(live.sh("dd if=/dev/zero of=/dev/shm/f bs=64k count=32 2>&1").contains("No space left"));
}

#[test]
fn root_is_whole_writable_and_nosuid() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    assert!(live.sh("touch /usr/bin/x 2>&1").contains("Read-only"));
    assert_eq!(live.sh("echo y >> /etc/passwd && tail -1 /etc/passwd && mkdir /root/a && mv /root /root2 && ls /root2"), "y\na");
    assert_eq!(live.sh("ls -A / | tr '\\n' ' '"), "bin dev etc lib lib64 proc root2 sbin sys tmp usr");
    for line in live.sh("cat /proc/self/mountinfo").lines() {
        let options = line.split(' ').nth(5).unwrap();
        assert!(options.contains("nosuid") || line.contains(" /dev/") || line.contains(" /proc/"), "{line}");
    }
    let mounts = live.sh("cat /proc/self/mountinfo");
    let root: Vec<&str> = mounts.lines().filter(|l| l.split(' ').nth(4) == Some("/")).collect();
    assert!(root.len() == 1 && root[0].contains("nosuid,nodev"), "{root:?}");
}

#[test]
fn privileges_are_gone() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    let status = live.sh("cat /proc/self/status");
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(":\t")).unwrap().to_owned();
    let kept = format!("{:016x}", sandbar_linux::caps::KEPT_MASK);
    assert_eq!(
        ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp"].map(field),
        [&kept, &kept, &kept, "0000000000000000", "0000000000000000", "1", "2"]
    );
    let answers = live.python(
        "import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    ctypes.set_errno(0)
    r = libc.syscall(*args)
    print(name, errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno()) if r < 0 else \"OK\")
call(\"mount\", 165, b\"none\", b\"/tmp\", b\"tmpfs\", 0, 0)
call(\"umount\", 166, b\"/proc/kcore\", 2)
call(\"unshare\", 272, 0x10000000)
call(\"unshare_mnt\", 272, 0x20000)
call(\"setns\", 308, 0, 0)
call(\"clone_user\", 56, 0x10000000 | 17, 0, 0, 0, 0)
call(\"clone3\", 435, 0, 0)
call(\"io_uring\", 425, 1, 0)
call(\"bpf\", 321, 0, 0, 0)
call(\"keyctl\", 250, 0, 0)
call(\"userfaultfd\", 323, 0)
call(\"perf\", 298, 0, 0, 0, 0, 0)
call(\"pivot\", 155, b\"/\", b\"/\")
call(\"handle\", 304, 0, 0, 0)
call(\"unknown\", 999)
call(\"raw\", 41, 2, 3, 1)
call(\"packet\", 41, 17, 3, 0)
call(\"alg\", 41, 38, 5, 0)
call(\"vsock\", 41, 40, 1, 0)
call(\"nft\", 41, 16, 3, 12)
call(\"route\", 41, 16, 3, 0)
call(\"tcp\", 41, 2, 1, 0)
call(\"sti\", 16, 0, 0x5412, b\"x\")
call(\"personality\", 135, 0xffffffff)
call(\"chroot\", 161, b\"/tmp\")",
    );
    let want = "mount EPERM\numount EPERM\nunshare EPERM\nunshare_mnt EPERM\nsetns EPERM\nclone_user EPERM\nclone3 ENOSYS\nio_uring EPERM\nbpf EPERM\nkeyctl EPERM\n\
        userfaultfd EPERM\nperf EPERM\npivot EPERM\nhandle EPERM\nunknown ENOSYS\nraw EPERM\npacket EAFNOSUPPORT\nalg EAFNOSUPPORT\nvsock EAFNOSUPPORT\n\
        nft EAFNOSUPPORT\nroute OK\ntcp OK\nsti EPERM\npersonality OK\nchroot OK";
    assert_eq!(answers, want);
    // Chown to an id outside the range, and a file of the host's own /etc.
    assert!(live.sh("chown 70000 /tmp 2>&1").contains("Invalid argument"));
    assert_eq!(live.sh("[ -e /etc/shadow ] || echo none"), "none");
}

#[test]
fn only_listed_files_are_open_and_limits_hold() {
    let mut room = Room::new(&LIMITS);
    room.nofile = 128;
    room.file_size_max_bytes = 1 << 20;
    // A descriptor that every careless fork would inherit.
    let leak = rustix::fs::open("/etc/passwd", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    let live = room.launch();
    let open = fs::read_dir(format!("/proc/{}/fd", live.launched.pid)).unwrap();
    let open: Vec<_> = open.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(open, ["3"]);
    drop(leak);
    assert_eq!(live.sh("ulimit -n; ulimit -Hn; ulimit -c 0; echo $?; ulimit -Hl; ulimit -Hf"), "128\n128\n0\n1024\n2048");
    assert!(
        fs::read_to_string(format!("/proc/{}/limits", live.launched.pid))
            .unwrap()
            .lines()
            .any(|l| { l.starts_with("Max core file size") && l.split_whitespace().skip(4).eq(["1", "1", "bytes"]) })
    );
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", live.launched.pid)).unwrap().to_str(), Some("/"));
    let environment = fs::read(format!("/proc/{}/environ", live.launched.pid)).unwrap();
    assert_eq!(environment, b"A=B\0");
    let status = fs::read_to_string(format!("/proc/{}/status", live.launched.pid)).unwrap();
    assert!(status.contains("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000"), "{status}");
}

#[test]
fn binds_are_made_without_following_links() {
    let mut room = Room::new(&LIMITS);
    let shared = room.dir.join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("f"), "text").unwrap();
    fs::write(room.dir.join("resolv"), "nameserver 127.0.0.1\n").unwrap();
    let bind = |source: &str, target: &str, read_only| Bind { source: room.dir.join(source), target: target.into(), read_only, idmap: true };
    let binds = [bind("shared", "mnt/deep/volume", false), bind("resolv", "etc/resolv.conf", true)];
    room.binds.extend(binds);
    let live = room.launch();
    assert_eq!(live.sh("cat /mnt/deep/volume/f /etc/resolv.conf; stat -c %u /mnt/deep/volume/f"), "textnameserver 127.0.0.1\n0");
    assert!(live.sh("echo new > /mnt/deep/volume/g; (echo x > /etc/resolv.conf) 2>&1").contains("Read-only"));
    // Through the shift, what root inside makes belongs to the host's root.
    assert_eq!(fs::metadata(shared.join("g")).unwrap().uid(), 0);
    drop(live);

    // The owner of the root planted a link where the next launch will mount.
    fs::remove_dir_all(room.dir.join("upper/mnt")).unwrap();
    symlink("/", room.dir.join("upper/mnt")).unwrap();
    let error = room.try_launch(&mut |_| Ok(())).err().unwrap().to_string();
    assert!(error.starts_with("could not attach the bind mount at mnt/deep/volume: "), "{error}");
}

#[test]
fn nothing_follows_the_host_s_mounts() {
    // In a namespace of this thread, where mounts may be made. What systemd does to every machine's root, done to one directory.
    let done = std::thread::spawn(|| {
        use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
        // SAFETY: changes nothing but this thread.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) }, 0);
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let mut room = Room::new(&LIMITS);
        let shared = room.dir.join("shared");
        fs::create_dir(&shared).unwrap();
        mount("tmpfs", &shared, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
        mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
        fs::create_dir(shared.join("later")).unwrap();
        room.binds.push(Bind { source: shared.clone(), target: "mnt".into(), read_only: false, idmap: false });
        room.binds.push(Bind { source: shared.clone(), target: "opt".into(), read_only: true, idmap: true });
        let live = room.launch();
        mount("tmpfs", shared.join("later"), "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
        fs::write(shared.join("later/secret"), "").unwrap();
        assert_eq!(live.sh("ls /mnt; ls -A /mnt/later /opt/later | grep secret; grep -c 'shared:\\|master:' /proc/self/mountinfo"), "later\n0");
        drop(live);
        for at in [shared.join("later"), shared] {
            rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    });
    done.join().unwrap();
}

#[test]
fn usual_programs_work() {
    let room = Room::new(&LIMITS);
    let live = room.launch();
    assert_eq!(live.python("import threading, sqlite3, subprocess, multiprocessing, tempfile; t = threading.Thread(target=print, args=(1,)); t.start(); t.join(); c = sqlite3.connect(\"/tmp/db\"); c.execute(\"create table t (a)\"); c.commit(); print(subprocess.run([\"true\"]).returncode)"), "1\n0");
    assert_eq!(live.sh("cd /tmp && printf '#include <stdio.h>\\nint main(){puts(\"c\");}' > a.c && gcc a.c -o a 2>&1 && ./a"), "c");
    for (program, line, want) in [
        (
            "git",
            "cd /tmp && git init -q r 2>&1 && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m m 2>&1 && git log --oneline | wc -l",
            "1",
        ),
        ("strace", "strace -f -o /tmp/s sh -c true && grep -c exit_group /tmp/s | head -c 1", "1"),
        (
            "node",
            "node -e 'const fs=require(\"fs\");fs.promises.readFile(\"/etc/passwd\").then(()=>console.log(new (require(\"worker_threads\").Worker)(\"1\",{eval:true})&&1))'",
            "1",
        ),
    ] {
        if !live.sh(&format!("command -v {program} || true")).is_empty() {
            assert_eq!(live.sh(line), want, "{program}");
        }
    }
}
