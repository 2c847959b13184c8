//! Resource use, from /proc.
use std::io;
use std::rc::Rc;
use std::time::Instant;

use sandbar_linux::process::Used;
use sandbar_procd_api::Stats;

use crate::agent::Agent;
use crate::run::Run;
use crate::tree;

/// Whose use is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Of {
    All,
    Session(i32),
    /// All below this keeper, with those that it has waited for.
    Below(i32),
    /// All that is left below this keeper.
    Left(i32),
}

/// Use of what belongs to a context.
pub async fn of_context(agent: &Rc<Agent>, run: &Run) -> Stats {
    let kept = run.keeper.as_ref().filter(|keeper| !keeper.is_gone());
    let of = kept.map_or(Of::Session(run.pid), |keeper| Of::Below(keeper.pid));
    let running = run.end().is_none();
    let (mut stats, ticks) = agent.io.run(move || Ok(sum(of))).await.unwrap_or_default();
    let (at, before) = run.sampled.get().unwrap_or((run.started, 0));
    stats.cpu_percent = percent(at, before, ticks);
    if kept.is_none() {
        stats.cpu_us = stats.cpu_us.map(|us| us.saturating_add(run.others().cpu_us));
    }
    run.sampled.set(Some((Instant::now(), ticks)));
    stats.contexts = 1;
    stats.running_contexts = u64::from(running);
    stats
}

/// What the processes that are left used so far of a command that has ended.
pub fn of_rest(of: Of) -> Used {
    let (stats, _) = sum(of);
    let memory_peak_bytes = match of {
        Of::Left(_) => pids(of).into_iter().filter_map(peak).max().unwrap_or_default(),
        Of::All | Of::Session(_) | Of::Below(_) => stats.memory_rss,
    };
    Used { cpu_us: stats.cpu_us.unwrap_or_default(), memory_peak_bytes, written_bytes: stats.io_write_bytes }
}

/// The most memory that a process has had so far, in bytes.
fn peak(pid: i32) -> Option<u64> {
    let status = read(&format!("/proc/{pid}/status")).ok()?;
    let kib: u64 = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// Use of every process of the sandbox but the agent.
pub async fn of_all(agent: &Rc<Agent>) -> Stats {
    let (mut stats, ticks) = agent.io.run(move || Ok(sum(Of::All))).await.unwrap_or_default();
    if let Some((at, before)) = agent.sampled.get() {
        stats.cpu_percent = percent(at, before, ticks);
    }
    agent.sampled.set(Some((Instant::now(), ticks)));
    stats.contexts = agent.contexts().len() as u64;
    stats.running_contexts = agent.running();
    stats
}

fn percent(since: Instant, before: u64, now: u64) -> f64 {
    let seconds = since.elapsed().as_secs_f64().max(0.001);
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1) as f64;
    (now.saturating_sub(before) as f64 / ticks_per_second / seconds * 1000.0).round() / 10.0
}

fn sum(of: Of) -> (Stats, u64) {
    let mut stats = Stats::default();
    // Of the processes that run, and with those that these have waited for.
    let (mut ticks, mut ticks_of_all) = (0, 0_u64);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let page = rustix::param::page_size() as u64;
    for pid in pids(of).into_iter().filter(|pid| *pid != own) {
        let Ok(text) = read(&format!("/proc/{pid}/stat")) else { continue };
        // The name may hold anything; the fields begin behind its last bracket.
        let Some((_, rest)) = text.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |i: usize| fields.get(i).and_then(|f| f.parse::<i64>().ok()).unwrap_or(0);
        let of_all = |fields: std::ops::RangeInclusive<usize>| fields.map(|i| number(i).max(0) as u64).sum::<u64>();
        match of {
            Of::Session(session) if number(3) != i64::from(session) => continue,
            Of::Below(keeper) if pid == keeper => {
                // Its own time is not the command's.
                ticks_of_all += of_all(13..=14);
                continue;
            }
            Of::All | Of::Session(_) | Of::Below(_) | Of::Left(_) => {}
        }
        if fields.first() == Some(&"Z") {
            // Nobody has waited for it, and so nobody else tells of it.
            if matches!(of, Of::Below(_) | Of::Left(_)) {
                ticks_of_all += of_all(11..=14);
            }
            continue;
        }
        stats.process_count += 1;
        ticks += (number(11) + number(12)).max(0) as u64;
        ticks_of_all += of_all(11..=14);
        stats.thread_count += number(17).max(0) as u64;
        stats.memory_vms += number(20).max(0) as u64;
        stats.memory_rss += number(21).max(0) as u64 * page;
        stats.open_files += std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |d| d.count() as u64);
        for line in read(&format!("/proc/{pid}/io")).unwrap_or_default().lines() {
            match line.split_once(": ") {
                Some(("read_bytes", n)) => stats.io_read_bytes += n.parse().unwrap_or(0),
                Some(("write_bytes", n)) => stats.io_write_bytes += n.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    stats.cpu_us = Some(ticks_of_all.saturating_mul(1_000_000) / rustix::param::clock_ticks_per_second().max(1));
    (stats, ticks)
}

/// The processes to look at: with a keeper it and all below it, else all that there are.
fn pids(of: Of) -> Vec<i32> {
    match of {
        Of::Below(keeper) => pids(Of::Left(keeper)).into_iter().chain([keeper]).collect(),
        Of::Left(keeper) => tree::below(&tree::look(), keeper).iter().map(|process| process.pid).collect(),
        Of::All | Of::Session(_) => {
            let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
            entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).take(tree::PROCESSES_MAX).collect()
        }
    }
}

fn read(path: &str) -> io::Result<String> {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
