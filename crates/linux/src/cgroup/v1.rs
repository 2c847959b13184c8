//! The v1 half of the hybrid: limits and counters.
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::{CgroupError, Limits, Usage, io_error, number_in, write};

const CPU_PERIOD_USEC: u64 = 100_000;

/// The kernel refuses a smaller quota.
const CPU_QUOTA_MIN_USEC: u64 = 1_000;

/// A sandbox's group in every v1 hierarchy that we use.
#[derive(Debug, Clone)]
pub(super) struct Groups(Vec<(PathBuf, Vec<&'static str>)>);

impl Groups {
    pub fn new(groups: Vec<(PathBuf, Vec<&'static str>)>) -> Self {
        Self(groups)
    }

    pub fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|(dir, _)| dir.as_path())
    }

    pub fn memory_dir(&self) -> Option<&Path> {
        self.0.iter().find(|(_, controllers)| controllers.contains(&"memory")).map(|(dir, _)| dir.as_path())
    }

    pub fn oom_file(&self) -> Option<PathBuf> {
        Some(self.file("memory", "memory.oom_control"))
    }

    /// `tasks`, not `cgroup.procs`: a thread that writes 0 there moves itself without waiting for the whole machine to pass a quiet state.
    pub fn open_tasks(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let open = |dir: &Path| {
            let path = dir.join("tasks");
            let opened = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            opened.map_err(|e| io_error("open", &path, e.into()))
        };
        self.dirs().map(open).collect()
    }

    pub fn set_limits(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.set_memory(limits.memory_bytes)?;
        let pids = if limits.pids == 0 { "max".to_owned() } else { limits.pids.to_string() };
        write(&self.file("pids", "pids.max"), &pids)?;
        let quota = match limits.cpu_millis {
            0 => "-1".to_owned(),
            millis => (millis.saturating_mul(CPU_PERIOD_USEC) / 1000).max(CPU_QUOTA_MIN_USEC).to_string(),
        };
        write(&self.file("cpu", "cpu.cfs_period_us"), &CPU_PERIOD_USEC.to_string())?;
        write(&self.file("cpu", "cpu.cfs_quota_us"), &quota)?;
        let shares = limits.cpu_weight.clamp(1, 10_000) * 1024 / 100;
        write(&self.file("cpu", "cpu.shares"), &shares.clamp(2, 262_144).to_string())
    }

    pub fn usage(&self) -> Usage {
        Usage {
            memory_bytes: number_in(&self.file("memory", "memory.usage_in_bytes")),
            memory_peak_bytes: number_in(&self.file("memory", "memory.max_usage_in_bytes")),
            cpu_usec: number_in(&self.file("cpuacct", "cpuacct.usage")) / 1000,
            pids: number_in(&self.file("pids", "pids.current")),
        }
    }

    fn set_memory(&self, bytes: u64) -> Result<(), CgroupError> {
        let value = if bytes == 0 { "-1".to_owned() } else { bytes.to_string() };
        let memory = self.file("memory", "memory.limit_in_bytes");
        // Absent when swap accounting is off; there is then no way to hold swap back.
        let with_swap = self.file("memory", "memory.memsw.limit_in_bytes");
        if !with_swap.exists() {
            return write(&memory, &value);
        }
        // Memory may never be above memory with swap, so when growing the second must go first.
        match write(&memory, &value) {
            Ok(()) => write(&with_swap, &value),
            Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                write(&with_swap, &value)?;
                write(&memory, &value)
            }
            Err(e) => Err(e),
        }
    }

    /// A file of the group that has this controller; a path that does not exist when none has.
    fn file(&self, controller: &str, name: &str) -> PathBuf {
        let group = self.0.iter().find(|(_, controllers)| controllers.contains(&controller));
        group.map_or_else(|| PathBuf::from(name), |(dir, _)| dir.join(name))
    }
}
