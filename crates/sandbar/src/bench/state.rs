//! Rows about what outlives a runtime: snapshots, forks and layers.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{
    floors::Floors,
    guests::Guests,
    stats::{Row, Samples, Target},
};
use crate::client::{sandbox_path, segment};

/// Files that the changed bytes are spread over.
const FILES: u64 = 200;

/// Snapshot and fork of a stopped sandbox, and snapshot of a running one, by megabytes of changed files.
pub async fn captures(guests: &Guests, floors: &Floors, sizes_mb: &[u64], n: usize) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &size in sizes_mb {
        let (mut snapshots, mut forks, mut running) = (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..n {
            let id = guests.claim().await?;
            let script =
                format!("mkdir -p /workspace/big && for i in $(seq {FILES}); do head -c {} /dev/urandom >/workspace/big/$i; done", size * 1_000_000 / FILES);
            ensure!(guests.command(&id, &["sh", "-c", &script]).await?["exit_code"] == 0, "{id} could not write {size} MB");
            let (time, snapshot) = timed(guests, &id, "/snapshots").await?;
            running.push(time);
            forget(guests, &snapshot).await?;
            guests.client.post(&sandbox_path(&id, "/pause"), &json!({})).await?;
            guests.client.post(&sandbox_path(&id, "/hibernate"), &json!({})).await?;
            let (time, snapshot) = timed(guests, &id, "/snapshots").await?;
            snapshots.push(time);
            let (time, fork) = timed(guests, &id, "/fork").await?;
            forks.push(time);
            let fork = fork["sandbox"]["id"].as_str().context("the fork has no id")?.to_owned();
            let done = guests.command(&fork, &["sh", "-c", "ls /workspace/big | wc -l"]).await?;
            ensure!(done["stdout"] == format!("{FILES}\n"), "the fork has {} files", done["stdout"]);
            guests.delete(&fork).await?;
            forget(guests, &snapshot).await?;
            guests.delete(&id).await?;
        }
        let floor = Some((floors.fdatasync_ms, "fdatasync"));
        let target = Target::Times { p50: 2.0, p99: 15.0 };
        let note = format!("{size} MB changed in {FILES} files");
        rows.push(Row::times("snapshot (stopped)", &snapshots, floor, target).note(note.clone()));
        rows.push(Row::times("fork (stopped)", &forks, floor, target).note(note.clone()));
        rows.push(Row::times("snapshot (running, copied)", &running, None, Target::None).note(note));
    }
    Ok(rows)
}

/// Resume of a hibernated sandbox over so many layers of its own.
pub async fn layers(guests: &Guests, floors: &Floors, depths: &[usize], n: usize) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let id = guests.claim().await?;
    let mut depth = 0;
    for &wanted in depths {
        while depth < wanted {
            guests.command(&id, &["sh", "-c", &format!("echo {depth} >/workspace/layer-{depth}")]).await?;
            stop(guests, &id).await?;
            let (_, snapshot) = timed(guests, &id, "/snapshots").await?;
            forget(guests, &snapshot).await?;
            depth += 1;
        }
        let (mut resumes, mut snapshots, mut forks) = (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..n {
            resumes.push(timed(guests, &id, "/resume").await?.0);
            stop(guests, &id).await?;
            // Nothing was written, so none of these makes a layer.
            let (time, snapshot) = timed(guests, &id, "/snapshots").await?;
            snapshots.push(time);
            forget(guests, &snapshot).await?;
            let (time, fork) = timed(guests, &id, "/fork").await?;
            forks.push(time);
            guests.delete(fork["sandbox"]["id"].as_str().context("the fork has no id")?).await?;
        }
        let commit = Some((floors.fdatasync_ms, "fdatasync"));
        let target = Target::Times { p50: 2.0, p99: 15.0 };
        rows.push(Row::times("snapshot over layers", &snapshots, commit, target).note(format!("{wanted} layers")));
        rows.push(Row::times("fork over layers", &forks, commit, target).note(format!("{wanted} layers")));
        let floor = floors.namespaces_ms.map(|ms| (ms, "namespaces"));
        rows.push(Row::times("resume (hibernated) over layers", &resumes, floor, Target::Times { p50: 5.0, p99: 20.0 }).note(format!("{wanted} layers")));
    }
    let done = guests.command(&id, &["sh", "-c", "ls /workspace/layer-* | wc -l"]).await?;
    ensure!(done["stdout"] == format!("{depth}\n"), "{} of {depth} files are left", done["stdout"]);
    guests.delete(&id).await?;
    Ok(rows)
}

async fn stop(guests: &Guests, id: &str) -> anyhow::Result<()> {
    guests.client.post(&sandbox_path(id, "/pause"), &json!({})).await?;
    guests.client.post(&sandbox_path(id, "/hibernate"), &json!({})).await.map(drop)
}

async fn timed(guests: &Guests, id: &str, verb: &str) -> anyhow::Result<(Duration, serde_json::Value)> {
    let begun = Instant::now();
    let made = guests.client.post(&sandbox_path(id, verb), &json!({})).await?;
    Ok((begun.elapsed(), made))
}

async fn forget(guests: &Guests, snapshot: &serde_json::Value) -> anyhow::Result<()> {
    let id = snapshot["id"].as_str().context("the snapshot has no id")?;
    guests.client.delete(&format!("/api/v1/sandbox-rootfs-snapshots/{}", segment(id))).await.map(drop)
}
