//! What this machine costs without us: the yardstick beside each row, measured in the same run.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::Context;
use reqwest::Method;

use super::stats::{Row, Samples, Target};
use crate::client::Client;

/// Medians in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Floors {
    /// A program started and awaited.
    pub spawn_ms: f64,
    /// The same in namespaces of all kinds; `None` where `unshare` is missing or refused.
    pub namespaces_ms: Option<f64>,
    /// 4 KiB appended and on the disk.
    pub fdatasync_ms: f64,
    /// An HTTP request that does nothing.
    pub ping_ms: f64,
}

/// Measures the floors, `n` times each. `dir` is on the disk in question.
pub async fn measure(client: &Client, dir: &Path, n: usize) -> anyhow::Result<(Floors, Vec<Row>)> {
    let spawn = spawn(n)?;
    let namespaces = namespaces(n.min(100));
    let fdatasync = fdatasync(dir, n)?;
    let ping = ping(client, n).await?;
    let floors =
        Floors { spawn_ms: spawn.median(), namespaces_ms: namespaces.as_ref().map(Samples::median), fdatasync_ms: fdatasync.median(), ping_ms: ping.median() };
    let mut rows = vec![Row::times("floor: start and await true", &spawn, None, Target::None)];
    rows.extend(
        namespaces
            .map(|samples| Row::times("floor: the same in seven new namespaces", &samples, None, Target::None).note("by unshare(1), which is a program more")),
    );
    rows.push(Row::times("floor: 4 KiB and fdatasync", &fdatasync, None, Target::None));
    rows.push(Row::times("floor: HTTP ping (/healthz)", &ping, None, Target::None));
    Ok((floors, rows))
}

/// 4 KiB appended to a file and made durable, `n` times.
pub fn fdatasync(dir: &Path, n: usize) -> anyhow::Result<Samples> {
    let path = dir.join(format!(".sandbar-fdatasync-{}", std::process::id()));
    let run = || -> std::io::Result<Samples> {
        let mut file = std::fs::File::create(&path)?;
        let mut samples = Samples::default();
        for _ in 0..n {
            let begun = Instant::now();
            file.write_all(&[7; 4096])?;
            file.sync_data()?;
            samples.push(begun.elapsed());
        }
        Ok(samples)
    };
    let samples = run();
    let _ = std::fs::remove_file(&path);
    samples.with_context(|| format!("cannot write in {}", dir.display()))
}

fn spawn(n: usize) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..n {
        let begun = Instant::now();
        Command::new("/bin/true").stdin(Stdio::null()).status().context("cannot run /bin/true")?;
        samples.push(begun.elapsed());
    }
    Ok(samples)
}

fn namespaces(n: usize) -> Option<Samples> {
    let mut samples = Samples::default();
    for _ in 0..n {
        let begun = Instant::now();
        let status = Command::new("unshare")
            .args(["--user", "--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--cgroup", "/bin/true"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !status.is_ok_and(|s| s.success()) {
            return None;
        }
        samples.push(begun.elapsed());
    }
    Some(samples)
}

async fn ping(client: &Client, n: usize) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..n {
        let begun = Instant::now();
        client.send(client.request(Method::GET, "/healthz")).await?.bytes().await?;
        samples.push(begun.elapsed());
    }
    Ok(samples)
}
