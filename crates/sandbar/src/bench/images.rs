//! Rows about what sandboxes are made from: unpacking an image, and claims that find their processes running.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    floors::Floors,
    guests::Guests,
    stats::{Row, Samples, Target},
};
use crate::client::{sandbox_path, segment};

const NAME: &str = "bench-unpack";
const WARM: &str = "bench-warm";
/// Idle sandboxes of the template with warm processes.
const WARM_IDLE: usize = 20;
const WARM_WITHIN: Duration = Duration::from_secs(120);
/// Files of the image, of `BYTES / FILES` each.
const FILES: u64 = 5000;
const BYTES: u64 = 200_000_000;

/// Import of a root filesystem, beside what `tar` takes to unpack the same.
pub async fn unpack(guests: &Guests, dir: &Path, n: usize) -> anyhow::Result<Vec<Row>> {
    let work = dir.join(format!("sandbar-bench-image-{}", std::process::id()));
    let result = unpack_in(guests, &work, n).await;
    let _ = std::fs::remove_dir_all(&work);
    result
}

async fn unpack_in(guests: &Guests, work: &Path, n: usize) -> anyhow::Result<Vec<Row>> {
    std::fs::create_dir_all(work)?;
    let archive = work.join("root.tar");
    let path = archive.clone();
    tokio::task::spawn_blocking(move || write_root(&path)).await??;
    let (mut imports, mut floor) = (Samples::default(), Samples::default());
    for round in 0..n {
        let into = work.join(format!("tar-{round}"));
        std::fs::create_dir(&into)?;
        let begun = Instant::now();
        let status = tokio::process::Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&into).stdin(Stdio::null()).status().await?;
        floor.push(begun.elapsed());
        ensure!(status.success(), "tar could not unpack {}", archive.display());
        std::fs::remove_dir_all(&into)?;

        let bytes = tokio::fs::read(&archive).await?;
        let request = guests.client.request(Method::POST, &format!("/api/v1/images/import?name={NAME}")).body(bytes);
        let begun = Instant::now();
        guests.client.data(request).await?;
        imports.push(begun.elapsed());
        guests.client.delete(&format!("/api/v1/images?name={NAME}")).await?;
        guests.client.post("/api/v1/storage/gc", &json!({})).await?;
    }
    let floor = Some((floor.median(), "tar -x"));
    let note = format!("{} MB in {FILES} files, upload and digest included", BYTES / 1_000_000);
    Ok(vec![Row::times("image unpack", &imports, floor, Target::None).note(note)])
}

fn write_root(path: &Path) -> anyhow::Result<()> {
    let mut tar = tar::Builder::new(std::io::BufWriter::new(std::fs::File::create(path)?));
    let mut contents = vec![0u8; usize::try_from(BYTES / FILES)?];
    for file in 0..FILES {
        getrandom::fill(&mut contents).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("usr/{:02}/{file}", file % 50), contents.as_slice())?;
    }
    tar.into_inner()?;
    Ok(())
}

/// Claims from a pool whose sandboxes have a REPL and a server up.
pub async fn warm_claims(guests: &Guests, floors: &Floors, n: usize) -> anyhow::Result<Vec<Row>> {
    let warm = json!([
        { "name": "python", "type": "repl", "alias": "python" },
        { "name": "web", "type": "cmd", "command": ["python3", "-m", "http.server", "8000"], "probes": { "readiness": { "tcpSocket": { "port": 8000 } } } },
    ]);
    let spec = json!({ "mainContainer": { "image": "host", "resources": { "memory": "512Mi" } }, "warmProcesses": warm, "pool": { "minIdle": WARM_IDLE, "maxIdle": WARM_IDLE } });
    guests.client.post("/api/v1/templates", &json!({ "template_id": WARM, "spec": spec })).await?;
    let measured = warm_claims_of(guests, n).await;
    guests.client.delete(&format!("/api/v1/templates/{}", segment(WARM))).await?;
    let floor = Some((floors.fdatasync_ms, "fdatasync"));
    Ok(vec![Row::times("claim with warm processes", &measured?, floor, Target::Times { p50: 1.0, p99: 5.0 }).note("REPL and web server up".to_owned())])
}

async fn warm_claims_of(guests: &Guests, n: usize) -> anyhow::Result<Samples> {
    let mut claims = Samples::default();
    while claims.len() < n {
        let begun = Instant::now();
        while idle(guests).await? < WARM_IDLE as u64 {
            ensure!(begun.elapsed() < WARM_WITHIN, "the pool with warm processes does not fill");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for _ in 0..WARM_IDLE.min(n - claims.len()) {
            let begun = Instant::now();
            let id = guests.claim_from(WARM).await?;
            claims.push(begun.elapsed());
            let contexts = guests.client.get(&sandbox_path(&id, "/contexts")).await?;
            let running = contexts["contexts"].as_array().map_or(0, |all| all.iter().filter(|context| context["running"] == true).count());
            ensure!(running == 2, "{id} came with {running} of 2 processes");
            guests.delete(&id).await?;
        }
    }
    Ok(claims)
}

async fn idle(guests: &Guests) -> anyhow::Result<u64> {
    let template: Value = guests.client.get(&format!("/api/v1/templates/{WARM}")).await?;
    template["status"]["idleCount"].as_u64().context("the template does not say how many are idle")
}
