//! What this machine can do, by doing it: each feature is tried in a process or a sandbox of its own that is thrown away.
use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{fs::CWD, mount::OpenTreeFlags};

use crate::{
    cgroup::{Cgroup, Hierarchy, Limits},
    landlock,
    launch::{self, Bind, LaunchError, LaunchSpec, Step},
    net, pidfd, quota, userns,
};

/// One thing that sandboxes need or profit from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Such as "overlay".
    pub name: &'static str,
    /// Whether it works.
    pub ok: bool,
    /// Whether no sandbox can be made without.
    pub required: bool,
    /// What was seen.
    pub detail: String,
    /// What to do when it does not work; empty when it does.
    pub remedy: String,
}

/// The first kernel whose overlayfs takes idmapped layers; all else that a launch needs is older. The list is at [`crate::launch`].
const KERNEL_MIN: (u32, u32) = (5, 19);

/// Ids for the trial sandbox, above all that are given to real ones in practice.
const TRIAL_UID_BASE: u32 = 4_000_000_000;

const TRIAL_LIMITS: Limits = Limits { memory_bytes: 64 << 20, pids: 16, cpu_millis: 1000, cpu_weight: 100 };

/// Tries everything. `data_dir` exists; a directory is made in it and removed.
pub fn features(data_dir: &Path) -> Vec<Feature> {
    let mut found = vec![root(), kernel(), pid_handles(), detached_mounts(), user_namespaces(), device_nodes()];
    let hierarchy = Hierarchy::detect(&format!("probe-{}", std::process::id()));
    found.push(match &hierarchy {
        Ok(hierarchy) => required("cgroups", Ok(hierarchy.describe()), ""),
        Err(e) => required("cgroups", Err(e.to_string()), "mount the cgroup hierarchies; in a container, run it with its own writable cgroup tree"),
    });
    if let Ok(hierarchy) = &hierarchy
        && found.iter().all(|feature| feature.ok || !feature.required)
    {
        found.extend(trial(hierarchy, data_dir));
        hierarchy.remove_if_empty();
    }
    found.push(landlock_version());
    found.push(disk_limit(data_dir));
    found
}

fn required(name: &'static str, seen: Result<String, String>, remedy: &str) -> Feature {
    let ok = seen.is_ok();
    let (Ok(detail) | Err(detail)) = seen;
    Feature { name, ok, required: true, detail, remedy: if ok { String::new() } else { remedy.to_owned() } }
}

fn root() -> Feature {
    let uid = rustix::process::geteuid().as_raw();
    let seen = if uid == 0 { Ok("uid 0".to_owned()) } else { Err(format!("uid {uid}")) };
    required("root", seen, "run the server as root: it makes namespaces, id ranges and control groups for its sandboxes")
}

fn device_nodes() -> Feature {
    let seen = crate::launch::check_devices().map(|()| "null, zero, full, random, urandom and tty are what they should be".to_owned());
    required("device nodes", seen, "mend the host's device nodes; something has put a file of another kind in their place")
}

fn kernel() -> Feature {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let (major, minor) = KERNEL_MIN;
    let seen = match parse_release(&release) {
        Some(version) if version >= KERNEL_MIN => Ok(release),
        Some(_) | None => Err(release),
    };
    required(
        "kernel",
        seen,
        &format!(
            "Linux {major}.{minor} or later is needed: older ones cannot share the layers of an image between sandboxes whose ids differ (idmapped mounts below overlayfs)"
        ),
    )
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn pid_handles() -> Feature {
    let seen = pidfd::open(std::process::id()).map(|_| "pidfd_open works".to_owned()).map_err(|e| e.to_string());
    required("pidfd", seen, "a system call filter around this process refuses pidfd_open (Linux has it since 5.3)")
}

fn detached_mounts() -> Feature {
    let tree = rustix::mount::open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    let seen = tree.map(|_| "open_tree works".to_owned()).map_err(|e| e.to_string());
    required("mounts", seen, "CAP_SYS_ADMIN is missing, or a filter refuses open_tree: run outside of a container, or in a privileged one")
}

fn user_namespaces() -> Feature {
    let seen = try_user_namespace().map(|()| format!("made one with {} ids", userns::RANGE)).map_err(|e| e.to_string());
    let mut remedy = "user namespaces are off: set user.max_user_namespaces above 0".to_owned();
    let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        remedy.push_str("; AppArmor restricts them here: give this program a profile with \"userns\", or set kernel.apparmor_restrict_unprivileged_userns=0");
    }
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        remedy.push_str("; kernel.unprivileged_userns_clone is 0");
    }
    required("user namespaces", seen, &remedy)
}

/// A child in a new user namespace that waits until its maps are written or this end is dropped.
fn try_user_namespace() -> io::Result<()> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: a fork by raw call. The child touches nothing of libc: it blocks in two system calls and ends.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0usize, 0usize, 0usize, 0usize) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pipe = std::os::fd::AsRawFd::as_raw_fd(&ours);
    let other = std::os::fd::AsRawFd::as_raw_fd(&theirs);
    if pid == 0 {
        let mut byte = 0u8;
        // SAFETY: the child's own copies of the descriptors, one byte on its own stack, and the end.
        unsafe {
            libc::syscall(libc::SYS_close, other);
            libc::syscall(libc::SYS_read, pipe, std::ptr::from_mut(&mut byte), 1usize);
            libc::syscall(libc::SYS_exit_group, 0);
        }
        std::process::abort();
    }
    let pid = u32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ECHILD))?;
    let written = userns::write_maps(pid, TRIAL_UID_BASE);
    drop(theirs);
    let id = rustix::process::Pid::from_raw(pid as i32);
    let _ = rustix::process::waitpid(id, rustix::process::WaitOptions::empty());
    written
}

/// A directory and a group that go when this does.
struct Trial {
    dir: PathBuf,
    cgroup: Cgroup,
}

impl Drop for Trial {
    fn drop(&mut self) {
        // Failing to clean up after a probe is no reason to fail the probe.
        let _ = self.cgroup.kill();
        let _ = self.cgroup.remove();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A whole sandbox. Its failing step is the feature that is missing; what comes after it is not known then and not listed.
fn trial(hierarchy: &Hierarchy, data_dir: &Path) -> Vec<Feature> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("probe-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let cgroup = match hierarchy.create(&name, &TRIAL_LIMITS) {
        Ok(cgroup) => cgroup,
        Err(e) => {
            let remedy = "the control groups are not writable, or a controller lacks: run outside of a container or delegate them (Delegate=yes)";
            return vec![required("limits", Err(e.to_string()), remedy)];
        }
    };
    let trial = Trial { dir: data_dir.join(format!(".{name}")), cgroup };
    let mut found = vec![required("limits", Ok("memory, pids and cpu limits were set".to_owned()), "")];
    let agent = match skeleton(&trial.dir) {
        Ok(agent) => agent,
        Err(e) => {
            let remedy = "the data directory must be writable and /usr/bin/sleep must be there";
            found.push(required("data directory", Err(e.to_string()), remedy));
            return found;
        }
    };
    let usr = Bind { source: "/usr".into(), target: "usr".into(), read_only: true, idmap: true };
    let spec = LaunchSpec {
        uid_base: TRIAL_UID_BASE,
        lowers: &[crate::launch::Lower::shared(trial.dir.join("lower"))],
        upper: &trial.dir.join("upper"),
        work: &trial.dir.join("work"),
        binds: &[usr],
        tmpfs: &[],
        hostname: "probe",
        shm_bytes: 4096,
        nofile: 64,
        file_size_max_bytes: 0,
        agent: agent.as_fd(),
        argv: &[c"sleep".into(), c"60".into()],
        env: &[],
        fds: &[],
        cgroup: &trial.cgroup,
    };
    let mut network = None;
    let launched = launch::launch(&spec, &mut |netns| {
        let plan = net::Plan { closed: true, prohibited: Vec::new(), allowed: Vec::new(), udp: false };
        let made = net::setup(netns, &plan).map(|_| "own network namespace with routes and nftables".to_owned()).map_err(|e| e.to_string());
        let remedy = "the kernel needs nf_tables with NAT and TPROXY (modules nf_tables, nft_nat, nft_chain_nat, nft_tproxy) and IPv6 or none";
        network = Some(required("network", made, remedy));
        Ok(())
    });
    found.extend(network);
    match launched {
        Ok(launched) => {
            found.push(required("sandbox", Ok("launched one with overlay, seccomp and all namespaces".to_owned()), ""));
            found.push(shifted_owners(launched.pid));
            found.push(freezer(&trial.cgroup));
            let _ = trial.cgroup.kill();
            // Its zombie is ours to take; the group's removal shows that nothing runs any more.
            let patience = rustix::event::Timespec { tv_sec: 2, tv_nsec: 0 };
            let _ = rustix::event::poll(&mut [rustix::event::PollFd::new(&launched.pidfd, rustix::event::PollFlags::IN)], Some(&patience));
            pidfd::reap(&launched.pidfd);
        }
        Err(e) => found.push(required("sandbox", Err(e.to_string()), remedy_for(&e))),
    }
    found
}

/// A root that holds a program: the host's /usr goes beneath it. Returns the program.
fn skeleton(dir: &Path) -> io::Result<OwnedFd> {
    for part in ["lower/usr", "lower/etc", "upper", "work"] {
        fs::create_dir_all(dir.join(part))?;
    }
    // The host's own links, where it has merged them into /usr.
    for name in ["bin", "lib", "lib32", "lib64", "sbin"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            let target = target.strip_prefix("/").map(Path::to_owned).unwrap_or(target);
            symlink(target, dir.join("lower").join(name))?;
        }
    }
    Ok(fs::File::open("/usr/bin/sleep")?.into())
}

/// Whether a lower layer's files belong to root inside.
fn shifted_owners(pid: u32) -> Feature {
    let seen = match fs::symlink_metadata(format!("/proc/{pid}/root/etc")) {
        Ok(metadata) if metadata.uid() == TRIAL_UID_BASE => Ok(if launch::layers_are_attached() {
            "files of shared layers belong to root inside; the layers are attached one by one, as Linux before 6.15 needs it".to_owned()
        } else {
            "files of shared layers belong to root inside".to_owned()
        }),
        Ok(metadata) => Err(format!("files of shared layers belong to host uid {}", metadata.uid())),
        Err(e) => Err(e.to_string()),
    };
    let remedy = "the data directory's filesystem cannot shift owners (idmapped mounts): ext4, xfs and btrfs can, tmpfs from Linux 6.3 on; and the kernel must be 5.19 or later";
    required("idmapped layers", seen, remedy)
}

fn freezer(cgroup: &Cgroup) -> Feature {
    let seen = cgroup.freeze().and_then(|()| cgroup.thaw()).map(|()| "froze and thawed it".to_owned()).map_err(|e| e.to_string());
    required("freezer", seen, "the v2 hierarchy must be mounted writable; freezing and killing groups need Linux 5.14")
}

fn remedy_for(error: &LaunchError) -> &'static str {
    let LaunchError::Step { step, .. } = error else {
        return "see the kernel's log (dmesg); a system call filter or the out-of-memory killer may have ended it";
    };
    match step {
        Step::Clone => "the kernel lacks a namespace kind, or a limit in /proc/sys/user or a container's filter refuses it",
        Step::Cgroup | Step::JoinCgroup => "the control groups are not writable",
        Step::IdMaps => "the id maps were refused: CAP_SETUID and CAP_SETGID over the host are needed",
        Step::Overlay => "the kernel lacks overlayfs (modprobe overlay), or the data directory is itself on overlayfs or on a network filesystem",
        Step::BindSource | Step::Bind => "bind mounts of /usr must be possible",
        Step::Proc => "an own /proc is refused when the one around this process is partly covered: run outside of a container",
        Step::Dev => "tmpfs and devpts are needed, and /dev must hold the usual devices",
        Step::Pivot | Step::Root => "pivot_root was refused: the root must be a real filesystem, not an initramfs",
        Step::Landlock => "Landlock refused its ruleset",
        Step::Seccomp => "the kernel lacks seccomp filters (CONFIG_SECCOMP_FILTER)",
        Step::Prepare => "the data directory must be writable and able to change owners",
        Step::Talk | Step::Ids | Step::Hostname | Step::Network | Step::Files | Step::ResourceLimits | Step::Capabilities | Step::Execute => {
            "this step works on every kernel that is new enough; a container or security module around this process refuses it"
        }
    }
}

fn landlock_version() -> Feature {
    let abi = landlock::abi();
    let (ok, remedy) = match abi {
        0..landlock::ABI_MIN => (false, "a second fence is missing: enable it with lsm=landlock,... on the kernel's command line (Linux 5.19 or later)"),
        landlock::ABI_MIN.. => (true, ""),
    };
    let detail = if ok && abi < landlock::ABI_SCOPES {
        format!("version {abi}; signals and abstract sockets are kept inside by namespaces alone before Linux 6.12")
    } else {
        format!("version {abi}")
    };
    Feature { name: "landlock", ok, required: false, detail, remedy: remedy.to_owned() }
}

fn disk_limit(data_dir: &Path) -> Feature {
    let (ok, detail, remedy) = match quota::kind(data_dir) {
        quota::DiskLimit::ProjectQuota { device, .. } => (true, format!("project quotas on {}", device.display()), ""),
        quota::DiskLimit::Watcher => (
            false,
            "no project quotas: disk use is watched, so a sandbox can go over its limit for a moment".to_owned(),
            "mount the data directory's filesystem (ext4 or xfs) with prjquota",
        ),
    };
    Feature { name: "disk quota", ok, required: false, detail, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_understood() {
        assert_eq!(parse_release("6.18.44-fc"), Some((6, 18)));
        assert_eq!(parse_release("5.15.0-91-generic"), Some((5, 15)));
        assert_eq!(parse_release("odd"), None);
    }
}
