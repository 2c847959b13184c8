//! All that the child will read, prepared while there is still an allocator.
use std::{
    ffi::{CStr, CString, c_char},
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
    ptr,
};

use super::{BINDS_MAX, FDS_MAX, LOWERS_MAX, LaunchError, LaunchSpec, Step, TARGET_DEPTH_MAX};
use crate::{landlock, seccomp, userns};

const HOSTNAME_MAX_BYTES: usize = 64;

/// How the child gets into its v2 group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// clone3 makes it there.
    Born,
    /// It moves itself, as into the v1 groups; that can wait for the whole machine to pass a quiet state.
    Joins,
}

/// Owns what [`ChildPlan`] points to.
pub(super) struct Prepared {
    /// This process: a child must not outlive it. The socket does not tell, since children that are made at the same time hold copies
    /// of its other end.
    host: OwnedFd,
    /// For clone3; none when the child joins.
    pub v2: Option<OwnedFd>,
    tasks: Vec<OwnedFd>,
    raw_tasks: Vec<RawFd>,
    binds: Vec<BindTarget>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    hostname: CString,
    shm_options: CString,
    /// Sorted by the number inside.
    fds: Vec<(RawFd, RawFd)>,
    agent: RawFd,
    nofile: u64,
    file_size_max_bytes: u64,
    cgroup_dirs: Vec<PathBuf>,
    targets: Vec<PathBuf>,
    filter: &'static [libc::sock_filter],
}

/// Where a bind goes.
pub(super) struct BindTarget {
    pub components: Vec<CString>,
    pub is_dir: bool,
}

/// What the child sees of it: borrowed, plain data.
pub(super) struct ChildPlan<'a> {
    pub sync: RawFd,
    /// Readable when the server has died.
    pub host: RawFd,
    pub tasks: &'a [RawFd],
    pub binds: &'a [BindTarget],
    pub argv: *const *const c_char,
    pub env: *const *const c_char,
    pub hostname: &'a CStr,
    pub hostname_bytes: usize,
    pub shm_options: &'a CStr,
    pub fds: &'a [(RawFd, RawFd)],
    pub agent: RawFd,
    pub nofile: u64,
    pub file_size_max_bytes: u64,
    pub landlock: Option<landlock::RulesetAttr>,
    pub filter: &'a [libc::sock_filter],
}

impl Prepared {
    pub fn new(spec: &LaunchSpec<'_>, entry: Entry) -> Result<Self, LaunchError> {
        check(spec)?;
        let cgroup = |e: crate::cgroup::CgroupError| LaunchError::host(Step::Cgroup, None, io::Error::other(e.to_string()));
        let mut tasks = spec.cgroup.open_v1_tasks().map_err(cgroup)?;
        let v2 = match entry {
            Entry::Born => Some(spec.cgroup.open_v2().map_err(cgroup)?),
            Entry::Joins => {
                tasks.push(spec.cgroup.open_v2_procs().map_err(cgroup)?);
                None
            }
        };
        let mut fds: Vec<_> = spec.fds.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)).collect();
        fds.sort_unstable_by_key(|(_, number)| *number);
        Ok(Self {
            v2,
            host: crate::pidfd::open(std::process::id()).map_err(|e| LaunchError::host(Step::Prepare, None, e))?,
            raw_tasks: tasks.iter().map(AsRawFd::as_raw_fd).collect(),
            tasks,
            binds: targets(spec).map(|(target, source)| bind_target(target, source)).collect::<Result<_, _>>()?,
            argv: pointers(spec.argv),
            env: pointers(spec.env),
            hostname: c_string(spec.hostname)?,
            shm_options: c_string(&format!("mode=1777,size={}", spec.shm_bytes))?,
            fds,
            agent: spec.agent.as_raw_fd(),
            nofile: spec.nofile.min(hard_nofile()),
            file_size_max_bytes: spec.file_size_max_bytes,
            cgroup_dirs: spec.cgroup.v1_dirs().map(PathBuf::from).collect(),
            targets: targets(spec).map(|(target, _)| target.to_owned()).collect(),
            filter: seccomp::filter(),
        })
    }

    pub fn child_plan(&self, sync: RawFd) -> ChildPlan<'_> {
        debug_assert_eq!(self.tasks.len(), self.raw_tasks.len());
        ChildPlan {
            sync,
            host: self.host.as_raw_fd(),
            tasks: &self.raw_tasks,
            binds: &self.binds,
            argv: self.argv.as_ptr(),
            env: self.env.as_ptr(),
            hostname: &self.hostname,
            hostname_bytes: self.hostname.as_bytes().len(),
            shm_options: &self.shm_options,
            fds: &self.fds,
            agent: self.agent,
            nofile: self.nofile,
            file_size_max_bytes: self.file_size_max_bytes,
            landlock: landlock::ruleset(),
            filter: self.filter,
        }
    }

    /// The path that the `index`th part of a step in the child was about.
    pub fn path_of(&self, step: Step, index: u32) -> Option<PathBuf> {
        let index = index as usize;
        let named = |table: &[(&'static CStr, bool)], dir: &str| {
            let name = table.get(index)?.0.to_str().ok()?;
            Some(PathBuf::from(dir).join(name))
        };
        match step {
            Step::JoinCgroup => self.cgroup_dirs.get(index).cloned(),
            Step::Bind => self.targets.get(index).cloned(),
            Step::Proc => named(super::child::MASKED, "/proc").or_else(|| Some(PathBuf::from("/proc"))),
            Step::Dev => super::devices::DEVICES.get(index).and_then(|d| d.1.to_str().ok()).map(|d| PathBuf::from("/dev").join(d)),
            Step::Prepare
            | Step::Cgroup
            | Step::Clone
            | Step::IdMaps
            | Step::Overlay
            | Step::BindSource
            | Step::Talk
            | Step::Root
            | Step::Ids
            | Step::Pivot
            | Step::Hostname
            | Step::Network
            | Step::Files
            | Step::ResourceLimits
            | Step::Capabilities
            | Step::Landlock
            | Step::Seccomp
            | Step::Execute => None,
        }
    }
}

fn check(spec: &LaunchSpec<'_>) -> Result<(), LaunchError> {
    let bad = |why: String| Err(LaunchError::Spec(why));
    userns::check_base(spec.uid_base).map_err(|e| LaunchError::Spec(e.to_string()))?;
    if spec.lowers.is_empty() || spec.lowers.len() > LOWERS_MAX {
        return bad(format!("it has {} lower layers; 1 to {LOWERS_MAX} are possible", spec.lowers.len()));
    }
    let mounts = spec.binds.len() + spec.tmpfs.len();
    if mounts > BINDS_MAX {
        return bad(format!("it has {mounts} mounts; at most {BINDS_MAX} are possible"));
    }
    if spec.fds.len() > FDS_MAX || spec.fds.iter().any(|(_, n)| !(0..1024).contains(n)) {
        return bad(format!("at most {FDS_MAX} files can be inherited, with numbers below 1024"));
    }
    let mut numbers: Vec<_> = spec.fds.iter().map(|(_, n)| *n).collect();
    numbers.sort_unstable();
    if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
        return bad("two inherited files have the same number".to_owned());
    }
    if spec.hostname.is_empty() || spec.hostname.len() > HOSTNAME_MAX_BYTES {
        return bad(format!("the host name must have 1 to {HOSTNAME_MAX_BYTES} bytes"));
    }
    if spec.argv.is_empty() {
        return bad("the agent has no argv[0]".to_owned());
    }
    if spec.nofile < 64 {
        return bad("fewer than 64 open files are not enough for any program".to_owned());
    }
    Ok(())
}

/// Where mounts go, in the order in which the child gets them, and where they come from when that is on the host.
fn targets<'a>(spec: &LaunchSpec<'a>) -> impl Iterator<Item = (&'a Path, Option<&'a Path>)> {
    let binds = spec.binds.iter().map(|bind| (bind.target.as_path(), Some(bind.source.as_path())));
    binds.chain(spec.tmpfs.iter().map(|tmpfs| (tmpfs.target.as_path(), None)))
}

fn bind_target(target: &Path, source: Option<&Path>) -> Result<BindTarget, LaunchError> {
    let bad = |why: &str| LaunchError::Spec(format!("the mount target {} {why}", target.display()));
    let mut components = Vec::new();
    for component in target.components() {
        let Component::Normal(name) = component else {
            return Err(bad("must be relative and without \"..\""));
        };
        components.push(CString::new(name.as_bytes()).map_err(|_| bad("holds a zero byte"))?);
    }
    match components.first().map(|c| c.as_bytes()) {
        None => return Err(bad("is the root itself")),
        Some(b"proc" | b"sys" | b"dev") => {
            return Err(bad("lies in a directory of the sandbox's own kernel files"));
        }
        Some(_) => {}
    }
    if components.len() > TARGET_DEPTH_MAX {
        return Err(bad("is too deep"));
    }
    let Some(source) = source else { return Ok(BindTarget { components, is_dir: true }) };
    let metadata = fs::metadata(source).map_err(|e| LaunchError::host(Step::BindSource, Some(source.to_owned()), e))?;
    if !metadata.is_dir() && !metadata.is_file() {
        return Err(bad("has a source that is neither directory nor file"));
    }
    Ok(BindTarget { components, is_dir: metadata.is_dir() })
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

fn c_string(text: &str) -> Result<CString, LaunchError> {
    CString::new(text).map_err(|_| LaunchError::Spec(format!("{text:?} holds a zero byte")))
}

fn hard_nofile() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX)
}
