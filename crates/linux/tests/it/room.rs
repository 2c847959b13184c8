//! What the tests launch: a small static agent in C, a skeleton root with the host's /usr, and a group of its own.
use std::{
    ffi::CString,
    fs,
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::symlink, net::UnixStream},
    },
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sandbar_linux::{
    cgroup::{Cgroup, Hierarchy, Limits},
    launch::{Bind, LaunchError, LaunchSpec, Launched, launch},
    pidfd,
};

/// Reads lines from descriptor 3, runs each by /bin/sh, and answers with its output and a zero byte. "exit" and the end of the socket end it.
const AGENT: &str = r#"
#define _GNU_SOURCE
#include <unistd.h>
#include <string.h>
#include <stdlib.h>
#include <errno.h>
#include <sys/wait.h>
static void run(char *line) {
  int pipes[2]; if (pipe(pipes)) _exit(90);
  pid_t p = fork();
  if (!p) { close(pipes[0]); dup2(pipes[1], 1); dup2(pipes[1], 2); if (pipes[1] > 2) close(pipes[1]);
    char *argv[] = {"sh", "-c", line, 0}; char *env[] = {"PATH=/usr/bin:/usr/sbin", "HOME=/tmp", 0}; close(3); execve("/bin/sh", argv, env); _exit(91); }
  close(pipes[1]);
  char b[4096]; int n; while ((n = read(pipes[0], b, sizeof b)) > 0) if (write(3, b, n) < 0) _exit(92);
  close(pipes[0]);
  int st; while (waitpid(p, &st, 0) < 0 && errno == EINTR) {}
  b[0] = 0; if (write(3, b, 1) < 0) _exit(93);
}
int main(void) {
  static char line[1 << 16]; size_t have = 0;
  for (;;) {
    int n = read(3, line + have, sizeof line - have - 1);
    if (n <= 0) return 0;
    have += n;
    char *end = memchr(line, 0, have);
    if (!end) continue;
    if (!strcmp(line, "ping")) { if (write(3, "", 1) < 0) return 1; }
    else run(line);
    have = 0;
  }
}
"#;

static NEXT: AtomicU32 = AtomicU32::new(0);

pub fn agent() -> BorrowedFd<'static> {
    static FD: OnceLock<OwnedFd> = OnceLock::new();
    FD.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("sandbar-agent-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let binary = dir.join("agent");
        let mut cc = Command::new("cc").args(["-static", "-O1", "-x", "c", "-", "-o"]).arg(&binary).stdin(Stdio::piped()).spawn().unwrap();
        cc.stdin.take().unwrap().write_all(AGENT.as_bytes()).unwrap();
        assert!(cc.wait().unwrap().success());
        let fd = fs::File::open(&binary).unwrap().into();
        fs::remove_dir_all(&dir).unwrap();
        fd
    })
    .as_fd()
}

pub fn hierarchy() -> &'static Hierarchy {
    static HIERARCHY: OnceLock<Hierarchy> = OnceLock::new();
    HIERARCHY.get_or_init(|| Hierarchy::detect(&format!("test-{}", std::process::id())).unwrap())
}

pub const LIMITS: Limits = Limits { memory_bytes: 256 << 20, pids: 64, cpu_millis: 0, cpu_weight: 100 };

/// Directories and group of one sandbox; removed when dropped.
pub struct Room {
    pub dir: PathBuf,
    pub name: String,
    pub cgroup: Cgroup,
    pub uid_base: u32,
    pub binds: Vec<Bind>,
    /// Above the first, top first.
    pub lowers_above: Vec<sandbar_linux::launch::Lower>,
    /// Below the first.
    pub more_lowers: Vec<sandbar_linux::launch::Lower>,
    pub tmpfs: Vec<sandbar_linux::launch::Tmpfs>,
    pub nofile: u64,
    pub file_size_max_bytes: u64,
    pub argv: Vec<CString>,
}

pub struct Live {
    pub launched: Launched,
    socket: UnixStream,
}

impl Room {
    pub fn new(limits: &Limits) -> Self {
        crate::prepare();
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rt-{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(format!("sandbar-{name}"));
        for part in ["lower/etc", "lower/proc", "lower/dev", "lower/sys", "lower/usr", "lower/root", "lower/tmp", "upper", "work"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), dir.join("lower").join(link)).unwrap();
        }
        fs::write(dir.join("lower/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        let usr = Bind { source: "/usr".into(), target: "usr".into(), read_only: true, idmap: true };
        Self {
            cgroup: hierarchy().create(&name, limits).unwrap(),
            dir,
            name,
            uid_base: 1_000_000 + n * 65_536,
            binds: vec![usr],
            lowers_above: Vec::new(),
            more_lowers: Vec::new(),
            tmpfs: Vec::new(),
            nofile: 1024,
            file_size_max_bytes: 0,
            argv: vec![c"agent".into()],
        }
    }

    pub fn launch(&self) -> Live {
        self.try_launch(&mut |_| Ok(())).unwrap()
    }

    pub fn try_launch(&self, net: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), String>) -> Result<Live, LaunchError> {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut lowers = self.lowers_above.clone();
        lowers.push(sandbar_linux::launch::Lower::shared(self.dir.join("lower")));
        lowers.extend(self.more_lowers.iter().cloned());
        let spec = LaunchSpec {
            uid_base: self.uid_base,
            lowers: &lowers,
            upper: &self.dir.join("upper"),
            work: &self.dir.join("work"),
            binds: &self.binds,
            tmpfs: &self.tmpfs,
            hostname: "box",
            shm_bytes: 1 << 20,
            nofile: self.nofile,
            file_size_max_bytes: self.file_size_max_bytes,
            agent: agent(),
            argv: &self.argv,
            env: &[c"A=B".into()],
            fds: &[(theirs.as_fd(), 3)],
            cgroup: &self.cgroup,
        };
        Ok(Live { launched: launch(&spec, net)?, socket })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = self.cgroup.kill();
        if let Err(e) = self.cgroup.remove() {
            eprintln!("{}: {e}", self.name);
        }
        let _ = fs::remove_dir_all(&self.dir);
        hierarchy().remove_if_empty();
    }
}

impl Live {
    /// The agent itself answers.
    pub fn ping(&self) {
        self.sh("ping");
    }

    /// Runs a line by /bin/sh inside; its output of both kinds, trimmed.
    pub fn sh(&self, line: &str) -> String {
        self.try_sh(line).unwrap().trim().to_owned()
    }

    pub fn try_sh(&self, line: &str) -> std::io::Result<String> {
        (&self.socket).write_all(line.as_bytes())?;
        (&self.socket).write_all(&[0])?;
        let mut out = Vec::new();
        let mut byte = [0];
        loop {
            if (&self.socket).read(&mut byte)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if byte[0] == 0 {
                return Ok(String::from_utf8_lossy(&out).into_owned());
            }
            out.push(byte[0]);
        }
    }

    pub fn python(&self, code: &str) -> String {
        assert!(!code.contains('\''));
        self.sh(&format!("python3 -I -c '{code}'"))
    }

    pub fn wait(&self) -> Option<std::process::ExitStatus> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.launched.pidfd, PollFlags::IN)], Some(&patience)).unwrap();
        pidfd::reap(&self.launched.pidfd)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = pidfd::kill(&self.launched.pidfd);
        self.wait();
    }
}
