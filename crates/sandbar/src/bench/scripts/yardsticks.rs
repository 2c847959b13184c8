//! What runs the same calls without us: native QuickJS, node:vm and a Bun worker, each a program of its own that is handed the
//! script and prints how long each call took. None of them keeps a script from its process.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use super::{DATA, ROW, Work};
use crate::{bench::stats::Samples, cli::BenchArgs};

const NODE_VM: &str = include_str!("node_vm.js");
const BUN_WORKER: &str = include_str!("bun_worker.js");
/// A Bun worker takes milliseconds to spawn: as many calls as the others make would take long.
const BUN_PART: usize = 30;

/// Programs that were found.
pub struct Yardsticks(Vec<Yardstick>);

struct Yardstick {
    kind: Kind,
    program: PathBuf,
    /// What the program is told to run, if it is an interpreter.
    source: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NativeQuickjs,
    NodeVm,
    BunWorker,
}

/// What a yardstick came to.
pub struct Measured {
    pub kind: Kind,
    pub samples: Samples,
    /// Of its process, when it had made its calls.
    pub rss_bytes: u64,
}

/// What a program prints.
#[derive(Deserialize)]
struct Printed {
    times_ns: Vec<u64>,
    value: Value,
    rss_bytes: u64,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::NativeQuickjs, Self::NodeVm, Self::BunWorker];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NativeQuickjs => "native QuickJS",
            Self::NodeVm => "node:vm",
            Self::BunWorker => "a Bun worker",
        }
    }

    /// Why it may be missing.
    pub fn hint(self) -> &'static str {
        match self {
            Self::NativeQuickjs => "`make bench` builds it, SANDBAR_BENCH_RQUICKJS says where it is",
            Self::NodeVm => "node is not in PATH",
            Self::BunWorker => "bun is not in PATH, SANDBAR_BENCH_BUN says where it is",
        }
    }

    /// Of `n` calls that we make, how many it makes.
    fn calls(self, n: usize) -> usize {
        match self {
            Self::NativeQuickjs | Self::NodeVm => n,
            Self::BunWorker => n.div_ceil(BUN_PART).max(10),
        }
    }
}

impl Yardsticks {
    /// Those that are there. `folder` is ours.
    pub fn find(args: &BenchArgs, folder: &Path) -> anyhow::Result<Self> {
        let source = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok(Some(path))
        };
        let mut found = Vec::new();
        for kind in Kind::ALL {
            let (program, source) = match kind {
                Kind::NativeQuickjs => (args.rquickjs.clone(), None),
                Kind::NodeVm => (in_path("node"), source("node_vm.js", NODE_VM)?),
                Kind::BunWorker => (args.bun.clone().or_else(|| in_path("bun")), source("bun_worker.js", BUN_WORKER)?),
            };
            found.extend(program.map(|program| Yardstick { kind, program, source }));
        }
        Ok(Self(found))
    }

    /// Has each make about `n` calls, and adds them to what was measured before.
    pub async fn run(&self, work: Work, n: usize, measured: &mut Vec<Measured>) -> anyhow::Result<()> {
        for yardstick in &self.0 {
            let (samples, rss_bytes) = yardstick.run(work, yardstick.kind.calls(n)).await?;
            match measured.iter_mut().find(|former| former.kind == yardstick.kind) {
                Some(former) => {
                    former.samples.append(samples);
                    former.rss_bytes = rss_bytes;
                }
                None => measured.push(Measured { kind: yardstick.kind, samples, rss_bytes }),
            }
        }
        Ok(())
    }

    pub fn missing(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| self.0.iter().all(|found| found.kind != *kind))
    }
}

impl Yardstick {
    /// Times of so many calls, one after the other, and the memory of the process after them.
    async fn run(&self, work: Work, count: usize) -> anyhow::Result<(Samples, u64)> {
        let mut command = Command::new(&self.program);
        command.args(&self.source).args([&count.to_string(), work.code(), DATA, ROW]);
        let done = command.stdin(Stdio::null()).kill_on_drop(true).output().await.with_context(|| format!("cannot run {}", self.program.display()))?;
        ensure!(done.status.success(), "{} ended with {}: {}", self.program.display(), done.status, String::from_utf8_lossy(&done.stderr).trim());
        let printed: Printed = serde_json::from_slice(&done.stdout).with_context(|| format!("{} printed something else", self.program.display()))?;
        ensure!(printed.value == work.result(), "{} says that the script returned {}", self.kind.as_str(), printed.value);
        ensure!(printed.times_ns.len() == count, "{} timed {} of {count} calls", self.kind.as_str(), printed.times_ns.len());
        Ok((printed.times_ns.into_iter().map(Duration::from_nanos).collect(), printed.rss_bytes))
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join(program)).find(|path| path.is_file())
}
