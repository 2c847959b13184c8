//! What a confined process can still do. Needs root.
//!
//! The program runs itself: each attempt is a process of its own, since the filter ends the one that is caught.
#![allow(clippy::unwrap_used)]
use std::{
    fs, io,
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::PathBuf,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    ptr,
    sync::{Arc, Barrier},
    thread,
};

use sandbar_linux::{confine, process};

const ATTEMPT: &str = "attempt";

type Attempt = fn() -> i64;

/// What a sealed process dies of.
const ATTEMPTS: &[(&str, Attempt)] = &[
    ("open a file", || open(c"/etc/passwd")),
    ("open its own environment", || open(c"/proc/self/environ")),
    // SAFETY: C strings, and an attribute of the size that is said.
    ("openat2", || unsafe { libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, c"/".as_ptr(), [0u64; 3].as_ptr(), 24) }),
    // SAFETY: numbers only.
    ("make a socket", || unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into() }),
    // SAFETY: numbers only.
    ("make a unix socket", || unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).into() }),
    // SAFETY: the child would end at once.
    ("fork", || unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::_exit(0);
        }
        pid.into()
    }),
    ("start a thread", || if thread::Builder::new().spawn(|| {}).is_ok() { 0 } else { -1 }),
    ("execute", || {
        // SAFETY: C strings and null pointers end both lists.
        unsafe { libc::execve(c"/proc/self/exe".as_ptr(), [c"x".as_ptr(), ptr::null()].as_ptr(), [ptr::null()].as_ptr()).into() }
    }),
    // SAFETY: numbers only.
    ("signal its parent", || unsafe { libc::kill(libc::getppid(), libc::SIGKILL).into() }),
    // SAFETY: numbers only.
    ("signal everybody", || unsafe { libc::kill(-1, libc::SIGKILL).into() }),
    // SAFETY: numbers only.
    ("trace its parent", || unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, libc::getppid(), 0, 0) }),
    // SAFETY: no memory is read for no vectors.
    ("read its parent's memory", || unsafe { libc::syscall(libc::SYS_process_vm_readv, libc::getppid(), 0, 0, 0, 0, 0) }),
    ("make memory executable", || {
        let page = map(libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a page that is ours.
        unsafe { libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC).into() }
    }),
    ("map executable memory", || map(libc::PROT_READ | libc::PROT_EXEC) as i64),
    // SAFETY: numbers only.
    ("become root", || unsafe { libc::setuid(0).into() }),
    // SAFETY: numbers only.
    ("make namespaces", || unsafe { libc::unshare(libc::CLONE_NEWUSER).into() }),
    // SAFETY: C strings and null pointers.
    ("mount", || unsafe { libc::mount(c"none".as_ptr(), c"/".as_ptr(), c"tmpfs".as_ptr(), 0, ptr::null()).into() }),
    // SAFETY: a C string.
    ("leave its root", || unsafe { libc::chroot(c"..".as_ptr()).into() }),
    // SAFETY: a C string.
    ("make a file in memory", || unsafe { libc::syscall(libc::SYS_memfd_create, c"x".as_ptr(), 0) }),
    // SAFETY: numbers only.
    ("copy a descriptor", || unsafe { libc::dup(0).into() }),
    // SAFETY: the descriptor is not open.
    ("write elsewhere", || unsafe { libc::write(9, c"x".as_ptr().cast(), 1) as i64 }),
    // SAFETY: no parameters are read.
    ("use io_uring", || unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, 0) }),
    // SAFETY: nothing is read.
    ("load a program into the kernel", || unsafe { libc::syscall(libc::SYS_bpf, 0, 0, 0) }),
    // SAFETY: numbers only.
    ("handle page faults", || unsafe { libc::syscall(libc::SYS_userfaultfd, 0) }),
    // SAFETY: numbers only.
    ("open another process", || unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getppid(), 0) }),
    // SAFETY: numbers only.
    ("raise a limit", || unsafe { libc::setrlimit64(libc::RLIMIT_NOFILE, &libc::rlimit64 { rlim_cur: 64, rlim_max: 64 }).into() }),
    // SAFETY: numbers only.
    ("be looked into", || unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into() }),
    // SAFETY: numbers only.
    ("control devices", || unsafe { libc::ioctl(0, libc::FIONREAD, 0).into() }),
];

/// What the other walls do about it where there is no filter, and with which error.
const WITHOUT_FILTER: &[(&str, &[i32])] = &[
    ("open a file", &[libc::EACCES, libc::ENOENT]),
    ("open its own environment", &[libc::EACCES, libc::ENOENT]),
    ("execute", &[libc::EACCES, libc::ENOENT]),
    ("signal its parent", &[libc::EPERM]),
    ("trace its parent", &[libc::EPERM]),
    ("become root", &[libc::EPERM]),
    ("mount", &[libc::EPERM]),
    ("leave its root", &[libc::EPERM]),
    ("connect to the machine", &[libc::ENETUNREACH, libc::EACCES]),
    ("bind a port", &[libc::EACCES]),
    ("make a folder", &[libc::EROFS, libc::EACCES]),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|word| word == ATTEMPT) {
        return attempt(&words[2], words[3] == "sealed");
    }
    let tests: [(&str, fn()); 6] = [
        ("what_is_not_on_the_list_ends_it", what_is_not_on_the_list_ends_it),
        ("each_wall_holds_without_the_filter", each_wall_holds_without_the_filter),
        ("it_computes", it_computes),
        ("it_looks_confined_from_outside", it_looks_confined_from_outside),
        ("its_folder_is_there_until_it_surrenders", its_folder_is_there_until_it_surrenders),
        ("it_ends_with_its_parent", it_ends_with_its_parent),
    ];
    for (name, test) in tests {
        if words.get(1).is_none_or(|filter| filter.starts_with('-') || name.contains(filter)) {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

fn what_is_not_on_the_list_ends_it() {
    for (what, _) in ATTEMPTS {
        let (status, said) = run(what, true);
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{what}: {status:?} {said}");
    }
}

fn each_wall_holds_without_the_filter() {
    for (what, errors) in WITHOUT_FILTER {
        let (status, said) = run(what, false);
        let errno = said.trim().rsplit(' ').next().and_then(|word| word.parse::<i32>().ok());
        assert!(errno.is_some_and(|errno| errors.contains(&errno)), "{what}: {status:?} {said}");
    }
}

fn it_computes() {
    let (status, said) = run("compute", true);
    assert!(status.success() && said.contains("done 0"), "{status:?} {said}");
}

fn it_looks_confined_from_outside() {
    let (mut child, mut stream) = start("wait", true);
    stream.read_exact(&mut [0]).unwrap();
    let of = |file: &str| format!("/proc/{}/{file}", child.id());
    for task in fs::read_dir(of("task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("{name} in {status}")).split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!((field("Seccomp"), field("NoNewPrivs")), ("2".into(), "1".into()));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        let user = confine::USER_FIRST + child.id() % confine::USERS;
        assert_eq!(field("Uid"), format!("{user} {user} {user} {user}"));
        assert_eq!(field("Gid"), format!("{user} {user} {user} {user}"));
        assert_eq!(field("Groups"), "");
    }
    // Its nice value and policy: fields 19 and 41, counted from behind the name.
    let policies = fs::read_dir(of("task")).unwrap().map(|task| {
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        assert_eq!(fields[16], "19", "{stat}");
        fields[38].to_owned()
    });
    // Those that were there before keep theirs.
    assert!(policies.collect::<Vec<_>>().contains(&libc::SCHED_BATCH.to_string()));
    for kind in ["net", "ipc", "uts"] {
        assert_ne!(fs::read_link(of(&format!("ns/{kind}"))).unwrap(), fs::read_link(format!("/proc/self/ns/{kind}")).unwrap());
    }
    let mut fds: Vec<String> = fs::read_dir(of("fd")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    fds.sort();
    assert_eq!(fds, ["0", "1", "2"]);
    assert_eq!(fs::read_dir(of("root")).unwrap().count(), 0);
    assert_eq!(fs::read(of("environ")).unwrap(), b"");
    assert_eq!(fs::read_to_string(of("oom_score_adj")).unwrap().trim(), "500");
    drop(stream);
    let status = child.wait().unwrap();
    assert!(status.success(), "{status:?}");
}

fn its_folder_is_there_until_it_surrenders() {
    let (child, stream) = start("folder", true);
    // A process cannot remove the folder that it may keep.
    let folder = folder_of(child.id());
    let output = child.wait_with_output().unwrap();
    drop(stream);
    fs::remove_dir(folder).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("done 0"), "{said}");
}

fn folder_of(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("sandbar-confined-{pid}"))
}

/// A parent that dies takes it along: the parent here is one more process of this program.
fn it_ends_with_its_parent() {
    let (mut middle, mut stream) = start("parent", false);
    let mut pid = [0; 4];
    stream.read_exact(&mut pid).unwrap();
    let pid = u32::from_ne_bytes(pid);
    let pidfd = sandbar_linux::pidfd::open(pid).unwrap();
    middle.kill().unwrap();
    middle.wait().unwrap();
    let mut watched = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut watched, Some(&rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap(), 1);
}

fn start(what: &str, sealed: bool) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new("/proc/self/exe");
    command.arg0("confined").args([ATTEMPT, what, if sealed { "sealed" } else { "open" }]).env_clear();
    if let Some(dir) = std::env::var_os("TMPDIR").filter(|_| what == "folder") {
        command.env("TMPDIR", dir);
    }
    let child = command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    (child, ours)
}

fn run(what: &str, sealed: bool) -> (ExitStatus, String) {
    let (child, stream) = start(what, sealed);
    let output = child.wait_with_output().unwrap();
    drop(stream);
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// In a process of its own: the walls, and then what is not to be done.
fn attempt(what: &str, sealed: bool) -> ExitCode {
    let stream = process::inherited(0).unwrap();
    if what == "parent" {
        return parent(stream);
    }
    let folder = (what == "folder").then(|| folder_of(std::process::id()));
    if let Some(folder) = &folder {
        fs::create_dir(folder).unwrap();
    }
    let detached = confine::detach(&stream, folder.as_deref()).unwrap();
    // A thread that was there before most walls.
    let (early, meet) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let thread = {
        let (early, meet) = (Arc::clone(&early), Arc::clone(&meet));
        thread::spawn(move || {
            early.wait();
            meet.wait();
            // One of a library's own: it is refused, and nobody dies of it.
            let refused = open(c"/etc/passwd") < 0;
            let errno = io::Error::last_os_error();
            meet.wait();
            assert!(refused && (!sealed || errno.raw_os_error() == Some(libc::EPERM)), "{errno}");
        })
    };
    if let Some(folder) = &folder {
        fs::write(folder.join("new"), "x").unwrap();
        fs::rename(folder.join("new"), folder.join("kept")).unwrap();
        assert_eq!(fs::read(folder.join("kept")).unwrap(), b"x");
        fs::remove_file(folder.join("kept")).unwrap();
        assert_eq!(fs::read("/etc/passwd").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(fs::write(folder.with_extension("beside"), "x").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(fs::remove_dir(folder).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
    early.wait();
    let surrendered = detached.surrender().unwrap();
    if sealed {
        let missing = surrendered.seal().unwrap();
        eprintln!("missing {missing:?}");
        meet.wait();
        meet.wait();
        confine::seal_thread().unwrap();
    }
    let tried = match what {
        "compute" | "folder" => compute(),
        "wait" => {
            let mut stream = fs::File::from(stream);
            stream.write_all(b"!").unwrap();
            let _ = stream.read(&mut [0]);
            0
        }
        // SAFETY: an address of the size that is said.
        "connect to the machine" => unsafe { libc::connect(tcp(), ptr::from_ref(&loopback()).cast(), 16).into() },
        // SAFETY: as above.
        "bind a port" => unsafe { libc::bind(tcp(), ptr::from_ref(&loopback()).cast(), 16).into() },
        // SAFETY: a C string.
        "make a folder" => unsafe { libc::mkdir(c"/x".as_ptr(), 0o777).into() },
        _ => ATTEMPTS.iter().find(|(name, _)| *name == what).unwrap().1(),
    };
    let errno = if tried < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 };
    eprintln!("done {errno}");
    if !sealed {
        meet.wait();
        meet.wait();
    }
    thread.join().unwrap();
    // SAFETY: ends the process, threads and all.
    unsafe { libc::_exit(0) }
}

fn parent(stream: OwnedFd) -> ExitCode {
    let (mut child, mut ready) = start("wait", true);
    ready.read_exact(&mut [0]).unwrap();
    fs::File::from(stream).write_all(&child.id().to_ne_bytes()).unwrap();
    child.wait().unwrap();
    ExitCode::SUCCESS
}

/// What every program does all the time.
fn compute() -> i64 {
    let mut blocks: Vec<Vec<u8>> = (1..200usize).map(|n| vec![1; n << 12]).collect();
    blocks.retain(|block| block.len() % 3 == 0);
    let map: std::collections::HashMap<usize, usize> = blocks.iter().map(|block| (block.len(), 1)).collect();
    thread::sleep(std::time::Duration::from_micros(10));
    let caught = std::panic::catch_unwind(|| {
        std::panic::set_hook(Box::new(|_| {}));
        panic!("caught")
    });
    -i64::from(map.is_empty() || caught.is_ok())
}

fn open(path: &std::ffi::CStr) -> i64 {
    // SAFETY: a C string.
    unsafe { libc::open(path.as_ptr(), libc::O_RDONLY).into() }
}

fn map(protection: i32) -> *mut libc::c_void {
    // SAFETY: a new mapping at a place of the kernel's choice.
    unsafe { libc::mmap(ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) }
}

fn tcp() -> i32 {
    // SAFETY: numbers only.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    assert!(socket >= 0);
    socket
}

fn loopback() -> libc::sockaddr_in {
    let address = libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) };
    libc::sockaddr_in { sin_family: libc::AF_INET as u16, sin_port: 8700u16.to_be(), sin_addr: address, sin_zero: [0; 8] }
}
