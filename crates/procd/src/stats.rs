//! Resource use, from /proc.
use std::io;
use std::rc::Rc;
use std::time::Instant;

use sandbar_linux::process::Used;
use sandbar_procd_api::Stats;

use crate::agent::Agent;
use crate::run::Run;

/// Processes that are looked at; more are not counted.
const PROCESSES_MAX: usize = 16_384;

/// Use of a context's session.
pub async fn of_context(agent: &Rc<Agent>, run: &Run) -> Stats {
    let session = run.pid;
    let running = run.end().is_none();
    let (mut stats, ticks) = agent.io.run(move || Ok(sum(Some(session)))).await.unwrap_or_default();
    let (at, before) = run.sampled.get().unwrap_or((run.started, 0));
    stats.cpu_percent = percent(at, before, ticks);
    stats.cpu_us = stats.cpu_us.map(|us| us.saturating_add(run.others().cpu_us));
    run.sampled.set(Some((Instant::now(), ticks)));
    stats.contexts = 1;
    stats.running_contexts = u64::from(running);
    stats
}

/// What the processes of a session used so far whose first one has ended.
pub fn of_rest(session: i32) -> Used {
    let (stats, _) = sum(Some(session));
    Used { cpu_us: stats.cpu_us.unwrap_or_default(), memory_peak_bytes: stats.memory_rss, written_bytes: stats.io_write_bytes }
}

/// Use of every process of the sandbox but the agent.
pub async fn of_all(agent: &Rc<Agent>) -> Stats {
    let (mut stats, ticks) = agent.io.run(move || Ok(sum(None))).await.unwrap_or_default();
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

fn sum(session: Option<i32>) -> (Stats, u64) {
    let mut stats = Stats::default();
    // Of the processes that run, and with those that these have waited for.
    let (mut ticks, mut ticks_of_all) = (0, 0_u64);
    let own = std::process::id();
    let page = rustix::param::page_size() as u64;
    let Ok(entries) = std::fs::read_dir("/proc") else { return (stats, 0) };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| *pid != own).take(PROCESSES_MAX) {
        let Ok(text) = read(&format!("/proc/{pid}/stat")) else { continue };
        // The name may hold anything; the fields begin behind its last bracket.
        let Some((_, rest)) = text.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |i: usize| fields.get(i).and_then(|f| f.parse::<i64>().ok()).unwrap_or(0);
        if fields.first() == Some(&"Z") || session.is_some_and(|s| number(3) != i64::from(s)) {
            continue;
        }
        stats.process_count += 1;
        ticks += (number(11) + number(12)).max(0) as u64;
        ticks_of_all += (11..=14).map(|i| number(i).max(0) as u64).sum::<u64>();
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

fn read(path: &str) -> io::Result<String> {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
