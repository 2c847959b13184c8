//! The memory of the processes that run scripts.

use std::fs;

use anyhow::Context;

use crate::bench::stats::{Row, Target};

/// How this program is told to be an engine's process.
const COMMAND: &[u8] = b"script-engine";

/// Of all of them, in MiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub processes: usize,
    pub rss: f64,
    /// Pages that several processes have are counted in parts; none where that cannot be read.
    pub pss: Option<f64>,
}

impl Memory {
    /// Of the engines' processes among the descendants of `ancestor`.
    pub fn of_engines_of(ancestor: u32) -> anyhow::Result<Self> {
        let mut sum = Self { pss: Some(0.0), ..Self::default() };
        for pid in descendants(ancestor)? {
            // One that ended meanwhile has no memory.
            let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
            if !is_engine(pid) {
                continue;
            }
            sum.processes += 1;
            sum.rss += mib(&status, "VmRSS:").unwrap_or(0.0);
            let pss = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok().and_then(|text| mib(&text, "Pss:"));
            sum.pss = sum.pss.zip(pss).map(|(sum, pss)| sum + pss);
        }
        Ok(sum)
    }

    /// Pages that are counted once where that can be read.
    pub fn mib(&self) -> f64 {
        self.pss.unwrap_or(self.rss)
    }

    pub fn row(&self, name: &'static str) -> Row {
        let pss = self.pss.map_or_else(|| "PSS cannot be read".to_owned(), |pss| format!("PSS {pss:.1} MiB"));
        Row::figure(name, "MiB", self.processes, self.rss, Target::None).note(format!("RSS of {} processes; {pss}", self.processes))
    }
}

fn is_engine(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|b| *b == 0).nth(1) == Some(COMMAND)
}

fn descendants(ancestor: u32) -> anyhow::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name before it is in parentheses and may hold anything.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)).and_then(|parent| parent.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let mut found = vec![ancestor];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.remove(0);
    Ok(found)
}

fn mib(text: &str, field: &str) -> Option<f64> {
    let kib = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(kib.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}
