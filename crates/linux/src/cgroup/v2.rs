//! Limits and counters where v2 has the controllers.
use std::{fs, io, path::Path};

use super::{CgroupError, Limits, Usage, io_error, number_after, number_in, write};

/// Name of the group beside the sandboxes that the server moves itself to.
pub(super) const SERVER: &str = "server";
const CPU_PERIOD_USEC: u64 = 100_000;
const CPU_QUOTA_MIN_USEC: u64 = 1_000;

/// Makes `base/below...` with the controllers handed down to its children.
pub(super) fn prepare(base: &Path, leave_base: bool, below: &[&str]) -> Result<(), CgroupError> {
    if leave_base {
        let server = base.join(SERVER);
        ensure_dir(&server)?;
        write(&server.join("cgroup.procs"), &std::process::id().to_string())?;
    }
    let mut dir = base.to_owned();
    hand_down(&dir)?;
    for name in below {
        dir.push(name);
        ensure_dir(&dir)?;
        hand_down(&dir)?;
    }
    Ok(())
}

pub(super) fn set_limits(dir: &Path, limits: &Limits) -> Result<(), CgroupError> {
    let or_max = |value: u64| {
        if value == 0 { "max".to_owned() } else { value.to_string() }
    };
    write(&dir.join("memory.max"), &or_max(limits.memory_bytes))?;
    // Absent without swap accounting.
    let swap = dir.join("memory.swap.max");
    if swap.exists() {
        write(&swap, if limits.memory_bytes == 0 { "max" } else { "0" })?;
    }
    write(&dir.join("pids.max"), &or_max(limits.pids))?;
    let quota = match limits.cpu_millis {
        0 => "max".to_owned(),
        millis => (millis.saturating_mul(CPU_PERIOD_USEC) / 1000).max(CPU_QUOTA_MIN_USEC).to_string(),
    };
    write(&dir.join("cpu.max"), &format!("{quota} {CPU_PERIOD_USEC}"))?;
    write(&dir.join("cpu.weight"), &limits.cpu_weight.clamp(1, 10_000).to_string())
}

pub(super) fn usage(dir: &Path) -> Usage {
    let cpu = fs::read_to_string(dir.join("cpu.stat")).unwrap_or_default();
    Usage {
        memory_bytes: number_in(&dir.join("memory.current")),
        memory_peak_bytes: number_in(&dir.join("memory.peak")),
        cpu_usec: number_after(&cpu, "usage_usec"),
        pids: number_in(&dir.join("pids.current")),
    }
}

fn hand_down(dir: &Path) -> Result<(), CgroupError> {
    let file = dir.join("cgroup.subtree_control");
    let have = fs::read_to_string(&file).map_err(|e| io_error("read", &file, e))?;
    let missing: Vec<String> = ["cpu", "memory", "pids"].into_iter().filter(|c| !have.split_whitespace().any(|h| h == *c)).map(|c| format!("+{c}")).collect();
    if missing.is_empty() { Ok(()) } else { write(&file, &missing.join(" ")) }
}

fn ensure_dir(dir: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io_error("create", dir, e)),
        Ok(()) | Err(_) => Ok(()),
    }
}
