//! `sandbar bench`: the operations of the product over HTTP, the floors of this machine beside them.

mod apps;
mod egress;
mod floors;
mod functions;
mod gateway;
mod guests;
mod images;
mod published;
mod rows;
mod scripts;
mod state;
mod stats;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use anyhow::Context;
use serde_json::json;

pub use egress::{ClientArgs, client};
pub use floors::fdatasync;
pub use gateway::upstream;
use guests::Guests;
use stats::{HEADER, Row};

use crate::{
    cli::{BenchArgs, Global, Output},
    client::Client,
    local_server::{LocalServer, Options, free_address, new_token},
    output,
};

/// Idle sandboxes that the server of the pooled rows keeps: a burst of 100 and some.
const POOL: u32 = 120;
/// For how long a pool is waited for.
const POOL_TIMEOUT: Duration = Duration::from_secs(60);

/// Measures and prints. Exit code 1 only when a measurement failed, not for a missed target.
pub async fn run(global: &Global, args: &BenchArgs) -> anyhow::Result<u8> {
    let counts = if args.quick { rows::QUICK } else { rows::FULL };
    let mut report = Report { only: args.only.clone(), rows: Vec::new(), failed: Vec::new() };
    let outcome = if global.url.is_some() {
        // Somebody's server: what needs one of our own is left out.
        let guests = Guests::new(Client::from_global(global)?);
        let outcome = or_interrupted(pooled(&guests, args, &counts, &mut report)).await;
        finish(outcome, guests.delete_all().await)
    } else {
        own(args, &counts, &mut report).await
    };
    report.print(global.output);
    outcome.map(|()| u8::from(!report.failed.is_empty()))
}

async fn own(args: &BenchArgs, counts: &rows::Counts, report: &mut Report) -> anyhow::Result<()> {
    for pool in [POOL, 0] {
        let server = start(args, pool, Vec::new()).await?;
        let guests = Guests::new(server.client.clone());
        let outcome =
            if pool > 0 { or_interrupted(pooled(&guests, args, counts, report)).await } else { or_interrupted(unpooled(&guests, args, counts, report)).await };
        let outcome = finish(outcome, guests.delete_all().await);
        server.destroy().await?;
        outcome?;
    }
    scripts::measure(args, counts, report).await?;
    apps::measure(args, counts, report).await?;
    egress::measure(args, counts, report).await
}

/// Ctrl-C ends the measuring; what follows cleans up.
async fn or_interrupted(measuring: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::select! {
        outcome = measuring => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    }
}

fn finish(outcome: anyhow::Result<()>, left: usize) -> anyhow::Result<()> {
    if left > 0 {
        eprintln!("sandbar: {left} sandboxes of the benchmark could not be deleted");
    }
    outcome
}

/// A server of ours in a folder of its own, with such a pool and more settings.
async fn start(args: &BenchArgs, pool: u32, settings: Vec<OsString>) -> anyhow::Result<LocalServer> {
    let data_dir = args.dir.join(format!("sandbar-bench-{}-{pool}", std::process::id()));
    std::fs::create_dir_all(&data_dir).with_context(|| format!("cannot make {}", data_dir.display()))?;
    let options = Options {
        log: Some(data_dir.join("server.log")),
        data_dir,
        listen: free_address()?,
        token: new_token()?,
        args: ["--pool-min-idle".into(), pool.to_string().into(), "--log-level".into(), "warn".into()].into_iter().chain(settings).collect(),
    };
    LocalServer::start(options).await
}

/// The rows that claim from a pool.
async fn pooled(guests: &Guests, args: &BenchArgs, counts: &rows::Counts, report: &mut Report) -> anyhow::Result<()> {
    let dir: PathBuf = if args.dir.is_dir() { args.dir.clone() } else { std::env::temp_dir() };
    wait_for_pool(guests).await;
    let (floors, floor_rows) = floors::measure(&guests.client, &dir, counts.execs).await?;
    report.rows.extend(floor_rows);
    let floors = &floors;
    report.add("claim", async || Ok(vec![rows::claim(guests, floors, counts.claims).await?])).await;
    wait_for_pool(guests).await;
    report.add("tti sequential", async || Ok(vec![rows::tti_sequential(guests, floors, counts.sequential).await?])).await;
    wait_for_pool(guests).await;
    report.add("tti staggered", async || Ok(vec![rows::tti_staggered(guests, floors, counts.burst).await?])).await;
    wait_for_pool(guests).await;
    report.add("tti burst", async || Ok(vec![rows::tti_burst(guests, counts.burst).await?])).await;
    wait_for_pool(guests).await;
    report.add("exec", async || Ok(vec![rows::exec(guests, floors, counts.execs).await?])).await;
    report.add("sandbox function", async || functions::invoke(guests, counts.execs).await).await;
    report.add("repl", async || Ok(vec![rows::repl(guests, floors, counts.execs).await?])).await;
    report.add("pause", async || rows::pause_resume(guests, floors, counts.pauses).await).await;
    report.add("hibernate", async || rows::hibernate(guests, floors, counts.hibernations).await).await;
    report.add("files", async || rows::files(guests, counts).await).await;
    report.add("gateway", async || gateway::proxying(guests, &dir, counts.requests, counts.sustained).await).await;
    report.add("service start", async || gateway::first_access(guests, floors, counts.pauses).await).await;
    wait_for_pool(guests).await;
    report.add("function", async || published::functions(guests, floors, counts.hibernations, counts.requests).await).await;
    wait_for_pool(guests).await;
    report.add("sustained", async || Ok(vec![rows::sustained(guests, counts.sustained).await?])).await;
    Ok(())
}

/// The rows that a pool would blur.
async fn unpooled(guests: &Guests, args: &BenchArgs, counts: &rows::Counts, report: &mut Report) -> anyhow::Result<()> {
    let (floors, _) = floors::measure(&guests.client, &args.dir, counts.cold).await?;
    report.add("cold", async || Ok(vec![rows::cold(guests, &floors, counts.cold).await?])).await;
    let (sizes, repeats): (&[u64], usize) = if args.quick { (&[10, 200], 3) } else { (&[10, 200, 2000], 5) };
    report.add("snapshot fork", async || state::captures(guests, &floors, sizes, repeats).await).await;
    report.add("layers", async || state::layers(guests, &floors, &[1, 16, 64], counts.hibernations).await).await;
    report.add("image unpack", async || images::unpack(guests, &args.dir, repeats).await).await;
    report.add("warm claim", async || images::warm_claims(guests, &floors, counts.sequential.min(60)).await).await;
    report.add("memory", async || rows::idle_memory(guests, &args.idle).await).await;
    Ok(())
}

/// Waits until the pool has stopped growing; a server that does not say its size is given a moment.
async fn wait_for_pool(guests: &Guests) {
    let begun = std::time::Instant::now();
    let mut before = None;
    while begun.elapsed() < POOL_TIMEOUT {
        let Ok(template) = guests.client.get("/api/v1/templates/default").await else { break };
        let Some(idle) = template["status"]["idleCount"].as_u64() else { break };
        if idle >= u64::from(POOL) || before == Some(idle) {
            return;
        }
        before = Some(idle);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// The rows so far.
struct Report {
    /// Parts of row names that are wanted; empty = all.
    only: Vec<String>,
    rows: Vec<Row>,
    /// What could not be measured, and why.
    failed: Vec<serde_json::Value>,
}

impl Report {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    async fn add(&mut self, name: &str, measure: impl AsyncFnOnce() -> anyhow::Result<Vec<Row>>) {
        if !self.wants(name) {
            return;
        }
        eprintln!("measuring {name} ...");
        // One that fails does not take the others with it, but is not passed over in silence either.
        match measure().await {
            Ok(rows) => self.rows.extend(rows),
            Err(error) => {
                eprintln!("sandbar: {name} could not be measured: {error:#}");
                self.failed.push(json!({"name": name, "error": format!("{error:#}")}));
            }
        }
    }

    fn print(&self, form: Output) {
        if self.rows.is_empty() {
            return;
        }
        let missed: Vec<&Row> = self.rows.iter().filter(|row| row.met() == Some(false)).collect();
        let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        if form == Output::Json {
            output::json(&json!({
                "version": env!("CARGO_PKG_VERSION"),
                "cpus": cpus,
                "load": load,
                "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
                "missed": missed.iter().map(|row| row.name).collect::<Vec<_>>(),
                "failed": self.failed,
            }));
            return;
        }
        output::table(&HEADER, &self.rows.iter().map(Row::cells).collect::<Vec<_>>());
        output::line(&format!("\n{cpus} cores, load {load} at the end (figures hold for a quiet machine)"));
        for row in missed {
            output::line(&format!("missed: {}", row.name));
        }
    }
}
