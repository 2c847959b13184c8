//! Control groups: limits, freezing, killing and counting, on pure v2 and on the hybrid of v1 controllers with a bare v2 tree.
//!
//! In both layouts a sandbox is born into a v2 group (clone3 does that without waiting), and is frozen and killed by it.
//! In the hybrid the limits live in v1 groups of the same name; the child joins those itself before it does anything else.
mod layout;
mod v1;
mod v2;

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags};

use layout::Layout;

/// The smallest memory limit that is ever written. While a sandbox is made it still shares the server's memory, and an
/// out-of-memory kill in its group then would reach the server; making one needs far less than this.
pub const MEMORY_MIN_BYTES: u64 = 8 << 20;

/// How long [`Cgroup::remove`] tries again while the kernel still lets go of dead processes.
pub const REMOVE_PATIENCE: Duration = Duration::from_millis(500);

/// How long [`Cgroup::freeze`] waits for every task to stop. One in an uninterruptible wait can take this long.
pub const FREEZE_PATIENCE: Duration = Duration::from_secs(2);

/// The directory below which every group of this program is.
const OURS: &str = "sandbar";
const NAME_MAX_BYTES: usize = 64;

/// What went wrong with a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No v2 hierarchy is mounted.
    #[error("no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")]
    NoUnified,
    /// A controller that limits need is neither in v2 nor mounted as v1.
    #[error("the cgroup controller {0:?} is not available; limits cannot be held (boot with it enabled, or delegate it to this service)")]
    NoController(&'static str),
    /// Names are letters, digits, `-`, `_` and `.`, at most 64 bytes, and do not begin with a dot.
    #[error("{0:?} is no name for a cgroup")]
    Name(String),
    /// A file or directory operation failed.
    #[error("could not {action} {path}: {source}", path = path.display())]
    Io {
        /// Such as "write" or "remove".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Some task did not stop in time; the group was thawed again.
    #[error("{} did not freeze in time", .0.display())]
    NotFrozen(PathBuf),
}

/// What a sandbox may use. A zero means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory with page cache and kernel memory, in bytes. No swap comes on top.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Share when the machine is busy, 1 to 10000; 100 is usual.
    pub cpu_weight: u64,
}

/// What a group uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory now, in bytes.
    pub memory_bytes: u64,
    /// The most memory so far, in bytes; 0 where the kernel does not tell.
    pub memory_peak_bytes: u64,
    /// Processor time so far, in microseconds.
    pub cpu_usec: u64,
    /// Processes and threads now.
    pub pids: u64,
}

/// Where the groups of one server instance are.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    layout: Layout,
    instance: String,
}

/// The group of one sandbox.
#[derive(Debug, Clone)]
pub struct Cgroup {
    v2: PathBuf,
    /// Whether the limits are in `v2` itself.
    v2_limits: bool,
    v1: v1::Groups,
}

impl Hierarchy {
    /// Looks at what is mounted and, on pure v2 in a delegated service, moves this process out of the way of its sandboxes.
    ///
    /// # Errors
    /// When there is no v2 hierarchy, or the memory, pids or cpu controller is missing.
    pub fn detect(instance: &str) -> Result<Self, CgroupError> {
        check_name(instance)?;
        let read = |path: &str| fs::read_to_string(path).map_err(|e| io_error("read", Path::new(path), e));
        let layout = Layout::read(&read("/proc/self/mounts")?, &read("/proc/self/cgroup")?)?;
        Self::with_layout(layout, instance)
    }

    fn with_layout(layout: Layout, instance: &str) -> Result<Self, CgroupError> {
        if layout.v2_limits {
            v2::prepare(&layout.base, layout.leave_base, &[OURS, instance])?;
        }
        Ok(Self { layout, instance: instance.to_owned() })
    }

    /// One line for people: which layout, and where.
    pub fn describe(&self) -> String {
        let base = self.layout.base.join(OURS).join(&self.instance);
        if self.layout.v2_limits {
            return format!("cgroup v2 at {}", base.display());
        }
        let v1: Vec<String> = self.layout.v1.iter().map(|m| m.controllers.join("+")).collect();
        format!("hybrid: v1 limits ({}), freeze and kill by v2 at {}", v1.join(", "), base.display())
    }

    /// Makes the group `name` with these limits. What was made is removed again when a part fails.
    ///
    /// # Errors
    /// When it exists already, or the kernel refuses.
    pub fn create(&self, name: &str, limits: &Limits) -> Result<Cgroup, CgroupError> {
        check_name(name)?;
        let group = self.group(name);
        for dir in group.dirs() {
            if let Err(e) = make_dir(dir) {
                let error = io_error("create", dir, e);
                // An existing group may be someone's: undo only what this call made, which is all before it.
                for made in group.dirs().take_while(|made| *made != dir) {
                    let _ = fs::remove_dir(made);
                }
                return Err(error);
            }
        }
        if let Err(error) = group.set_limits(limits) {
            let _ = group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// The group of that name when it is there: for adoption after a restart.
    pub fn open(&self, name: &str) -> Option<Cgroup> {
        check_name(name).ok()?;
        let group = self.group(name);
        let whole = group.dirs().all(Path::is_dir);
        whole.then_some(group)
    }

    /// Names of all groups of this instance, half-made ones too, sorted.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn list(&self) -> Result<Vec<String>, CgroupError> {
        let mut names = std::collections::BTreeSet::new();
        for parent in self.parents() {
            let entries = match fs::read_dir(&parent) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(io_error("list", &parent, e)),
            };
            for entry in entries {
                let entry = entry.map_err(|e| io_error("list", &parent, e))?;
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    names.insert(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Kills and removes the group of that name, whatever of it is there: for what a crash left behind.
    ///
    /// # Errors
    /// When something in it does not die in time.
    pub fn clear(&self, name: &str) -> Result<(), CgroupError> {
        check_name(name)?;
        let group = self.group(name);
        if group.v2.is_dir() {
            group.kill()?;
        }
        group.remove()
    }

    /// Removes the instance's own directories when no group is left in them. Ones in use are no error.
    pub fn remove_if_empty(&self) {
        for parent in self.parents() {
            if fs::remove_dir(&parent).is_ok()
                && let Some(ours) = parent.parent()
            {
                let _ = fs::remove_dir(ours);
            }
        }
    }

    fn parents(&self) -> Vec<PathBuf> {
        let roots = std::iter::once(&self.layout.base).chain(self.layout.v1.iter().map(|m| &m.dir));
        roots.map(|root| root.join(OURS).join(&self.instance)).collect()
    }

    fn group(&self, name: &str) -> Cgroup {
        let below = |root: &Path| root.join(OURS).join(&self.instance).join(name);
        Cgroup {
            v2: below(&self.layout.base),
            v2_limits: self.layout.v2_limits,
            v1: v1::Groups::new(self.layout.v1.iter().map(|m| (below(&m.dir), m.controllers.clone())).collect()),
        }
    }
}

impl Cgroup {
    /// Writes all limits. Can be done while the sandbox runs.
    ///
    /// # Errors
    /// When the kernel refuses one, for example memory below what is in use and cannot be freed.
    pub fn set_limits(&self, limits: &Limits) -> Result<(), CgroupError> {
        let mut limits = *limits;
        if limits.memory_bytes != 0 {
            limits.memory_bytes = limits.memory_bytes.max(MEMORY_MIN_BYTES);
        }
        if self.v2_limits { v2::set_limits(&self.v2, &limits) } else { self.v1.set_limits(&limits) }
    }

    /// Stops every task and returns when all of them stand still.
    ///
    /// # Errors
    /// [`CgroupError::NotFrozen`] when one did not within [`FREEZE_PATIENCE`].
    pub fn freeze(&self) -> Result<(), CgroupError> {
        write(&self.v2.join("cgroup.freeze"), "1")?;
        // The file's change notice is held back by up to 10 ms, reading it is not.
        let until = Instant::now() + FREEZE_PATIENCE;
        let mut pause = Duration::from_micros(20);
        while !self.is_frozen()? {
            if Instant::now() > until {
                self.thaw()?;
                return Err(CgroupError::NotFrozen(self.v2.clone()));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Lets everything run again.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        write(&self.v2.join("cgroup.freeze"), "0")
    }

    /// Whether every task stands still.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        Ok(number_after(&read(&self.v2.join("cgroup.events"))?, "frozen") == 1)
    }

    /// Sends SIGKILL to all at once, also to frozen ones and to those being forked.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn kill(&self) -> Result<(), CgroupError> {
        write(&self.v2.join("cgroup.kill"), "1")
    }

    /// Removes the group from every hierarchy; what is gone already is no error.
    ///
    /// # Errors
    /// When tasks are left in it after [`REMOVE_PATIENCE`].
    pub fn remove(&self) -> Result<(), CgroupError> {
        let until = Instant::now() + REMOVE_PATIENCE;
        for dir in self.dirs() {
            let mut pause = Duration::from_micros(200);
            loop {
                match fs::remove_dir(dir) {
                    Ok(()) => break,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                        thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(10));
                    }
                    Err(e) => return Err(io_error("remove", dir, e)),
                }
            }
        }
        Ok(())
    }

    /// How many processes the kernel has killed here for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.oom_file().and_then(|path| fs::read_to_string(path).ok()).map_or(0, |text| parse_oom_kills(&text))
    }

    /// The file that [`parse_oom_kills`] reads; it can be kept open and read again from the start. Where limits are v2 it can be polled (POLLPRI).
    ///
    /// # Errors
    /// When the group is gone or has no memory controller.
    pub fn open_oom_counter(&self) -> Result<File, CgroupError> {
        let path = self.oom_file().ok_or(CgroupError::NoController("memory"))?;
        File::open(&path).map_err(|e| io_error("open", &path, e))
    }

    /// What it uses now; zeroes for what is not known.
    pub fn usage(&self) -> Usage {
        if self.v2_limits { v2::usage(&self.v2) } else { self.v1.usage() }
    }

    /// Memory that holds cached files which nobody used lately, in bytes: what the kernel would give back first.
    pub fn inactive_file_bytes(&self) -> u64 {
        let (dir, name) = match self.v1.memory_dir().filter(|_| !self.v2_limits) {
            Some(dir) => (dir, "total_inactive_file"),
            None => (self.v2.as_path(), "inactive_file"),
        };
        number_after(&std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default(), name)
    }

    /// Pids of its processes, as the caller's pid namespace names them.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn procs(&self) -> Result<Vec<u32>, CgroupError> {
        let text = read(&self.v2.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect())
    }

    /// The v2 directory, for clone3.
    pub(crate) fn open_v2(&self) -> Result<OwnedFd, CgroupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.v2, flags, Mode::empty()).map_err(|e| io_error("open", &self.v2, e.into()))
    }

    /// The v2 `cgroup.procs`, opened with our rights for the child to write itself into.
    pub(crate) fn open_v2_procs(&self) -> Result<OwnedFd, CgroupError> {
        let path = self.v2.join("cgroup.procs");
        let opened = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        opened.map_err(|e| io_error("open", &path, e.into()))
    }

    /// The v1 `tasks` files, opened with our rights for the child to write itself into.
    pub(crate) fn open_v1_tasks(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        self.v1.open_tasks()
    }

    pub(crate) fn v1_dirs(&self) -> impl Iterator<Item = &Path> {
        self.v1.dirs()
    }

    fn oom_file(&self) -> Option<PathBuf> {
        if self.v2_limits { Some(self.v2.join("memory.events")) } else { self.v1.oom_file() }
    }

    fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.v1.dirs().chain(std::iter::once(self.v2.as_path()))
    }
}

/// Makes a group's folder, and those above it when they are not there. They are taken away when they are empty
/// ([`Hierarchy::remove_if_empty`]), which may happen in between, so this is tried a few times.
fn make_dir(dir: &Path) -> io::Result<()> {
    for _ in 0..4 {
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(dir.parent().unwrap_or(dir))?,
            result => return result,
        }
    }
    fs::create_dir(dir)
}

/// The count in `memory.events` (v2) or `memory.oom_control` (v1).
pub fn parse_oom_kills(text: &str) -> u64 {
    number_after(text, "oom_kill")
}

fn check_name(name: &str) -> Result<(), CgroupError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_MAX_BYTES || name.starts_with('.') || !name.bytes().all(good) {
        return Err(CgroupError::Name(name.to_owned()));
    }
    Ok(())
}

fn number_after(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
}

fn number_in(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|e| io_error("read", path, e))
}

/// Writes in one call and never creates: a missing file is a missing feature.
fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    let opened = fs::OpenOptions::new().write(true).open(path);
    opened.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes())).map_err(|e| io_error("write", path, e))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
