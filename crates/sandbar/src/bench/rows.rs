//! The rows: one function each, against a running server.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::json;

use super::{
    floors::Floors,
    guests::Guests,
    stats::{Row, Samples, Target},
};
use crate::client::{sandbox_path, segment};

/// Runs of `true` at one time in the sustained row: more than cores, so that none idles.
const WORKERS: usize = 6;
/// Small files on their way at one time.
const FILES_PARALLEL: usize = 8;
/// The budget of an idle sandbox, everything counted.
const IDLE_MEMORY_MIB_MAX: f64 = 0.8;
/// What the kernel gives back late is given this long before memory is read.
const SETTLE: Duration = Duration::from_millis(1500);

/// How often each thing is done.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    pub claims: usize,
    pub cold: usize,
    pub sequential: usize,
    pub burst: usize,
    pub execs: usize,
    pub pauses: usize,
    pub hibernations: usize,
    pub requests: usize,
    pub small_files: usize,
    pub large_files: usize,
    pub sustained: Duration,
    pub events: usize,
    pub event_burst: usize,
    pub ticking: Duration,
}

pub const FULL: Counts = Counts {
    claims: 100,
    cold: 50,
    sequential: 50,
    burst: 100,
    execs: 300,
    pauses: 100,
    hibernations: 30,
    requests: 3000,
    small_files: 10_000,
    large_files: 3,
    sustained: Duration::from_secs(5),
    events: 300,
    event_burst: 1000,
    ticking: Duration::from_secs(15),
};
pub const QUICK: Counts = Counts {
    claims: 20,
    cold: 10,
    sequential: 15,
    burst: 30,
    execs: 50,
    pauses: 20,
    hibernations: 5,
    requests: 500,
    small_files: 1_000,
    large_files: 1,
    sustained: Duration::from_secs(2),
    events: 50,
    event_burst: 200,
    ticking: Duration::from_secs(5),
};

pub async fn claim(guests: &Guests, floors: &Floors, n: usize) -> anyhow::Result<Row> {
    let samples = claims(guests, n).await?;
    Ok(Row::times("claim from the pool", &samples, Some((floors.fdatasync_ms, "fdatasync")), Target::Times { p50: 1.0, p99: 5.0 }))
}

/// Against a server without a pool.
pub async fn cold(guests: &Guests, floors: &Floors, n: usize) -> anyhow::Result<Row> {
    let samples = claims(guests, n).await?;
    Ok(Row::times("create cold, ready", &samples, floors.namespaces_ms.map(|ms| (ms, "namespaces")), Target::Times { p50: 3.0, p99: 15.0 }))
}

async fn claims(guests: &Guests, n: usize) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..n {
        let begun = Instant::now();
        let id = guests.claim().await?;
        samples.push(begun.elapsed());
        guests.delete(&id).await?;
        // Deletion goes on after its answer; the next claim is not to pay for it.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(samples)
}

/// Claim and first command done.
async fn first_command(guests: &Guests) -> anyhow::Result<(String, Duration)> {
    let begun = Instant::now();
    let id = guests.claim().await?;
    let done = guests.command(&id, &["true"]).await?;
    let time = begun.elapsed();
    ensure!(done["exit_code"] == 0, "`true` in {id} ended with {}", done["exit_code"]);
    Ok((id, time))
}

const TTI: Target = Target::Times { p50: 5.0, p99: 15.0 };

pub async fn tti_sequential(guests: &Guests, floors: &Floors, n: usize) -> anyhow::Result<Row> {
    let mut samples = Samples::default();
    for _ in 0..n {
        let (id, time) = first_command(guests).await?;
        samples.push(time);
        guests.delete(&id).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(Row::times("create + first command, one by one", &samples, Some((floors.spawn_ms, "spawn")), TTI))
}

/// A new one every 20 ms, whether or not the last one is done.
pub async fn tti_staggered(guests: &Guests, floors: &Floors, n: usize) -> anyhow::Result<Row> {
    let begun = Instant::now();
    let starts = (0..n).map(|i| async move {
        tokio::time::sleep_until((begun + Duration::from_millis(20) * i as u32).into()).await;
        first_command(guests).await
    });
    let samples = collect(guests, stream::iter(starts).buffer_unordered(n)).await?;
    Ok(Row::times("create + first command, every 20 ms", &samples, Some((floors.spawn_ms, "spawn")), TTI))
}

pub async fn tti_burst(guests: &Guests, n: usize) -> anyhow::Result<Row> {
    let begun = Instant::now();
    let results: Vec<_> = stream::iter((0..n).map(|_| first_command(guests))).buffer_unordered(n).collect().await;
    let whole = begun.elapsed();
    let samples = collect(guests, stream::iter(results)).await?;
    let target = if n == 100 { Target::Times { p50: 250.0, p99: 250.0 } } else { Target::None };
    Ok(Row::times("create + first command, all at once", &samples, None, target).note(format!("{n} done in {:.0} ms", whole.as_secs_f64() * 1000.0)))
}

async fn collect(guests: &Guests, mut results: impl stream::Stream<Item = anyhow::Result<(String, Duration)>> + Unpin) -> anyhow::Result<Samples> {
    let (mut samples, mut ids) = (Samples::default(), Vec::new());
    while let Some(result) = results.next().await {
        let (id, time) = result?;
        samples.push(time);
        ids.push(id);
    }
    for id in ids {
        guests.delete(&id).await?;
    }
    Ok(samples)
}

pub async fn exec(guests: &Guests, floors: &Floors, n: usize) -> anyhow::Result<Row> {
    let id = guests.claim().await?;
    let mut samples = Samples::default();
    for _ in 0..n {
        let begun = Instant::now();
        let done = guests.command(&id, &["true"]).await?;
        samples.push(begun.elapsed());
        ensure!(done["exit_code"] == 0, "`true` in {id} ended with {}", done["exit_code"]);
    }
    guests.delete(&id).await?;
    Ok(Row::times("exec true", &samples, Some((floors.spawn_ms, "spawn")), Target::Times { p50: 1.5, p99: 5.0 }))
}

pub async fn repl(guests: &Guests, floors: &Floors, n: usize) -> anyhow::Result<Row> {
    let id = guests.claim().await?;
    let contexts = sandbox_path(&id, "/contexts");
    let context = guests.client.post(&contexts, &json!({"type": "repl", "repl": {"alias": "python"}})).await?;
    let path = format!("{contexts}/{}/exec", segment(context["id"].as_str().context("the context has no id")?));
    guests.client.post(&path, &json!({"data": "x = 41 + 1"})).await?;
    let mut samples = Samples::default();
    for _ in 0..n {
        let begun = Instant::now();
        let done = guests.client.post(&path, &json!({"data": "x"})).await?;
        samples.push(begun.elapsed());
        ensure!(done["output_raw"].as_str().is_some_and(|o| o.contains("42")), "the REPL answered {}", done["output_raw"]);
    }
    guests.delete(&id).await?;
    Ok(Row::times("REPL exec x (python)", &samples, Some((floors.ping_ms, "ping")), Target::Times { p50: 1.0, p99: 4.0 }))
}

pub async fn pause_resume(guests: &Guests, floors: &Floors, n: usize) -> anyhow::Result<Vec<Row>> {
    let id = guests.claim().await?;
    let (mut pauses, mut resumes) = (Samples::default(), Samples::default());
    for _ in 0..n {
        pauses.push(timed_post(guests, &id, "/pause").await?);
        resumes.push(timed_post(guests, &id, "/resume").await?);
    }
    guests.delete(&id).await?;
    let floor = Some((floors.fdatasync_ms, "fdatasync"));
    let target = Target::Times { p50: 1.0, p99: 5.0 };
    Ok(vec![Row::times("pause (frozen)", &pauses, floor, target), Row::times("resume (frozen)", &resumes, floor, target)])
}

pub async fn hibernate(guests: &Guests, floors: &Floors, n: usize) -> anyhow::Result<Vec<Row>> {
    let id = guests.claim().await?;
    let (mut hibernations, mut resumes) = (Samples::default(), Samples::default());
    for _ in 0..n {
        timed_post(guests, &id, "/pause").await?;
        hibernations.push(timed_post(guests, &id, "/hibernate").await?);
        resumes.push(timed_post(guests, &id, "/resume").await?);
    }
    ensure!(guests.command(&id, &["true"]).await?["exit_code"] == 0, "{id} does not work after its last resume");
    guests.delete(&id).await?;
    let floor = floors.namespaces_ms.map(|ms| (ms, "namespaces"));
    Ok(vec![
        Row::times("hibernate (of paused)", &hibernations, None, Target::None),
        Row::times("resume (hibernated), ready", &resumes, floor, Target::Times { p50: 5.0, p99: 20.0 }),
    ])
}

async fn timed_post(guests: &Guests, id: &str, verb: &str) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    guests.client.post(&sandbox_path(id, verb), &json!({})).await?;
    Ok(begun.elapsed())
}

pub async fn files(guests: &Guests, counts: &Counts) -> anyhow::Result<Vec<Row>> {
    let id = guests.claim().await?;
    let (up, down) = large(guests, &id, 1_000_000, 30).await?;
    let mut rows = vec![Row::figure("write 1 MB", "MB/s", 30, up, Target::None), Row::figure("read 1 MB", "MB/s", 30, down, Target::None)];
    let (up, down) = large(guests, &id, 100_000_000, counts.large_files).await?;
    rows.push(Row::figure("write 100 MB", "MB/s", counts.large_files, up, Target::None));
    rows.push(Row::figure("read 100 MB", "MB/s", counts.large_files, down, Target::None));
    let (written, read) = small(guests, &id, counts.small_files).await?;
    rows.push(Row::figure("write small files (1 KB)", "/s", counts.small_files, written, Target::None).note(format!("{FILES_PARALLEL} at a time")));
    rows.push(Row::figure("read small files (1 KB)", "/s", counts.small_files, read, Target::None).note(format!("{FILES_PARALLEL} at a time")));
    guests.delete(&id).await?;
    Ok(rows)
}

/// Median throughput of writing and reading one file, in megabytes a second.
async fn large(guests: &Guests, id: &str, bytes: usize, n: usize) -> anyhow::Result<(f64, f64)> {
    let body = Bytes::from((0..bytes).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect::<Vec<_>>());
    let (mut ups, mut downs) = (Samples::default(), Samples::default());
    for _ in 0..n {
        let begun = Instant::now();
        write(guests, id, "/tmp/large", body.clone()).await?;
        ups.push(begun.elapsed());
        let begun = Instant::now();
        let got = read(guests, id, "/tmp/large").await?;
        downs.push(begun.elapsed());
        ensure!(got == body, "a file of {bytes} bytes came back different");
    }
    let rate = |samples: &Samples| bytes as f64 / 1e6 / (samples.median() / 1000.0);
    Ok((rate(&ups), rate(&downs)))
}

/// Files written and read a second.
async fn small(guests: &Guests, id: &str, n: usize) -> anyhow::Result<(f64, f64)> {
    let body = Bytes::from(vec![b's'; 1000]);
    let path = |i: usize| format!("/tmp/small/{}/{i}", i % 100);
    let begun = Instant::now();
    let mut writes = stream::iter(0..n)
        .map(|i| {
            let (path, body) = (path(i), body.clone());
            async move { write(guests, id, &path, body).await }
        })
        .buffer_unordered(FILES_PARALLEL);
    while let Some(result) = writes.next().await {
        result?;
    }
    let written = n as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let mut reads = stream::iter(0..n)
        .map(|i| {
            let path = path(i);
            async move { read(guests, id, &path).await }
        })
        .buffer_unordered(FILES_PARALLEL);
    while let Some(result) = reads.next().await {
        ensure!(result?.len() == 1000, "a small file came back with another length");
    }
    Ok((written, n as f64 / begun.elapsed().as_secs_f64()))
}

async fn write(guests: &Guests, id: &str, path: &str, body: Bytes) -> anyhow::Result<()> {
    let request = guests.client.request(Method::POST, &sandbox_path(id, "/files")).query(&[("path", path)]).header("content-type", "application/octet-stream");
    guests.client.data(request.body(body)).await.map(drop)
}

async fn read(guests: &Guests, id: &str, path: &str) -> anyhow::Result<Bytes> {
    let request = guests.client.request(Method::GET, &sandbox_path(id, "/files")).query(&[("path", path)]);
    Ok(guests.client.send(request).await?.bytes().await?)
}

pub async fn sustained(guests: &Guests, time: Duration) -> anyhow::Result<Row> {
    let (done, begun) = (AtomicUsize::new(0), Instant::now());
    let worker = || async {
        while begun.elapsed() < time {
            let (id, _) = first_command(guests).await?;
            guests.delete(&id).await?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    let mut workers = stream::iter((0..WORKERS).map(|_| worker())).buffer_unordered(WORKERS);
    while let Some(result) = workers.next().await {
        result?;
    }
    let n = done.load(Ordering::Relaxed);
    Ok(Row::figure("create + true + delete, sustained", "/s", n, n as f64 / begun.elapsed().as_secs_f64(), Target::AtLeast(300.0))
        .note(format!("{WORKERS} at a time for {} s", time.as_secs())))
}

/// Memory of this machine per idle sandbox, at each of `totals`. Against a server without a pool.
pub async fn idle_memory(guests: &Guests, totals: &[u32]) -> anyhow::Result<Vec<Row>> {
    tokio::time::sleep(SETTLE).await;
    let before = available_mib()?;
    let mut rows = Vec::new();
    for &total in totals {
        let name = match total {
            10 => "idle sandbox, memory at 10",
            100 => "idle sandbox, memory at 100",
            500 => "idle sandbox, memory at 500",
            _ => "idle sandbox, memory",
        };
        guests.claim_up_to(total as usize).await?;
        tokio::time::sleep(SETTLE).await;
        let each = (before - available_mib()?) / f64::from(total.max(1));
        let row = |target| Row::figure(name, "MiB", total as usize, each, target);
        rows.push(if each > 0.0 {
            row(Target::AtMost(IDLE_MEMORY_MIB_MAX)).note("delta of MemAvailable, with its share of the server")
        } else {
            row(Target::None).note("no figure: other programs gave back more memory meanwhile; repeat on a quiet machine")
        });
    }
    Ok(rows)
}

fn available_mib() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|n| n.trim().parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).context("/proc/meminfo has no MemAvailable")
}
