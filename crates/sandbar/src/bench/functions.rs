//! Rows about functions of a sandbox.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{
    guests::Guests,
    stats::{Row, Samples, Target},
};
use crate::client::sandbox_path;

/// What is called: the published example without its imports, so that the row is about us and not about them.
const HANDLER: &str = "def handler(request):\n    return {\"body\": {\"message\": \"hello \" + request[\"path\"]}}\n";
/// A file that changed just now is imported for each call; after this it is old.
const SETTLE: Duration = Duration::from_millis(200);
/// Forks of a Python process that has imported nothing, timed by itself: what the warm path cannot do without.
const FORKS: &str = "import os, time\ntimes = []\nfor _ in range(200):\n    began = time.perf_counter()\n    pid = os.fork()\n    if pid == 0: os._exit(0)\n    os.waitpid(pid, 0)\n    times.append(time.perf_counter() - began)\nprint(sorted(times)[100] * 1000)\n";

/// A call with the module imported already, and one that imports it.
pub async fn invoke(guests: &Guests, n: usize) -> anyhow::Result<Vec<Row>> {
    let id = guests.claim().await?;
    guests.client.put(&sandbox_path(&id, "/functions/bench"), &json!({ "source": HANDLER })).await?;
    tokio::time::sleep(SETTLE).await;
    let path = sandbox_path(&id, "/functions/bench/invoke");
    let calls = async |cold: bool, n: usize| -> anyhow::Result<Samples> {
        let mut samples = Samples::default();
        for _ in 0..n {
            let begun = Instant::now();
            let reply = guests.client.post(&path, &json!({ "path": "/x", "cold": cold })).await?;
            samples.push(begun.elapsed());
            ensure!(reply["status"] == 200 && reply["body_base64"] == "eyJtZXNzYWdlIjoiaGVsbG8gL3gifQ==", "the function answered {reply}");
        }
        Ok(samples)
    };
    calls(false, 2).await?;
    let warm = calls(false, n).await?;
    let cold = calls(true, (n / 5).max(10)).await?;
    guests.delete(&id).await?;
    let (fork, start) = floors()?;
    Ok(vec![
        Row::times("sandbox function, warm", &warm, Some((fork, "fork of Python")), Target::Times { p50: 3.0, p99: 30.0 }),
        Row::times("sandbox function, cold", &cold, Some((start, "start of Python")), Target::Times { p50: 30.0, p99: 60.0 }),
    ])
}

/// Medians in milliseconds on this machine outside of a sandbox: a fork of Python, and its start.
fn floors() -> anyhow::Result<(f64, f64)> {
    let output = Command::new("python3").args(["-c", FORKS]).stdin(Stdio::null()).output().context("cannot run python3")?;
    let fork = String::from_utf8_lossy(&output.stdout).trim().parse().context("python3 did not time its forks")?;
    let mut starts = Samples::default();
    for _ in 0..20 {
        let begun = Instant::now();
        Command::new("python3").args(["-c", "import json"]).stdin(Stdio::null()).status().context("cannot run python3")?;
        starts.push(begun.elapsed());
    }
    Ok((fork, starts.median()))
}
