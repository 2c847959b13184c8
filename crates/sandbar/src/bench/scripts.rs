//! Rows about script functions: calls in process and over HTTP, beside the engine alone and what runs the same calls without
//! us; how soon events and schedules start their runs.

mod in_process;
mod memory;
mod over_http;
mod triggers;
mod yardsticks;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json, value::RawValue};
use tokio::task::JoinSet;

use yardsticks::Yardsticks;

use super::{
    Report, floors, or_interrupted,
    rows::Counts,
    start,
    stats::{Row, Samples, Target},
};
use crate::{cli::BenchArgs, local_server::LocalServer};

const IN_PROCESS: &str = "script call in process";
const OVER_HTTP: &str = "script call over HTTP";
const EVENTS: &str = "script events";
const SCHEDULES: &str = "script schedules";
/// Clients of the rows about many.
const CLIENTS: usize = 64;
/// What is asked for in turns is asked for in so many.
const ROUNDS: usize = 3;
/// What scripts read over HTTP, and how many rows there are.
const COLLECTION: &str = "bench";
const ROWS: usize = 10;
/// `ctx.data`, and what `ctx.db` answers with where there is no server.
const DATA: &str = r#"{"n":41,"id":"p1"}"#;
const ROW: &str = r#"{"id":"p1","title":"hello"}"#;

/// What a script does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Trivial,
    /// Three awaited ops: one, then two at once.
    Ops,
}

impl Work {
    const ALL: [Self; 2] = [Self::Trivial, Self::Ops];

    fn code(self) -> &'static str {
        match self {
            Self::Trivial => "return ctx.data.n + 1;",
            Self::Ops => {
                r#"const a = await ctx.db.one("bench", ctx.data.id);
const [b, c] = await Promise.all([ctx.db.list("bench", { limit: 2 }), ctx.db.one("bench", ctx.data.id)]);
return { n: ctx.data.n + 1, a: a.title, b: b.length, c: c.title };"#
            }
        }
    }

    fn result(self) -> Value {
        match self {
            Self::Trivial => json!(42),
            Self::Ops => json!({"n": 42, "a": "hello", "b": 2, "c": "hello"}),
        }
    }

    fn check(self, returned: Option<Box<RawValue>>) -> anyhow::Result<()> {
        let returned: Value = serde_json::from_str(returned.as_deref().map_or("null", RawValue::get))?;
        ensure!(returned == self.result(), "the script returned {returned}");
        Ok(())
    }
}

/// Against a server of its own.
pub async fn measure(args: &BenchArgs, counts: &Counts, report: &mut Report) -> anyhow::Result<()> {
    let folder = Folder::make(args)?;
    let yardsticks = Yardsticks::find(args, &folder.0)?;
    report.add(IN_PROCESS, async || in_process::calls(&yardsticks, &folder.0, counts).await).await;
    if ![OVER_HTTP, EVENTS, SCHEDULES].iter().any(|name| report.wants(name)) {
        return Ok(());
    }
    let server = start(args, 0, Vec::new()).await?;
    let outcome = or_interrupted(served(&server, args, counts, report)).await;
    server.destroy().await?;
    outcome
}

async fn served(server: &LocalServer, args: &BenchArgs, counts: &Counts, report: &mut Report) -> anyhow::Result<()> {
    let fdatasync_ms = floors::fdatasync(&args.dir, counts.execs)?.median();
    report.add(OVER_HTTP, async || over_http::calls(server, fdatasync_ms, counts).await).await;
    report.add(EVENTS, async || triggers::events(&server.client, fdatasync_ms, counts.events, counts.event_burst).await).await;
    report.add(SCHEDULES, async || triggers::schedule(&server.client, counts.ticking).await).await;
    Ok(())
}

/// Files of the run, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn make(args: &BenchArgs) -> anyhow::Result<Self> {
        let path = args.dir.join(format!("sandbar-bench-scripts-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What several clients came to, each of which makes one call after the other.
struct Load {
    samples: Samples,
    per_second: f64,
}

impl Load {
    async fn of<F, Called>(clients: usize, for_time: Duration, call: F) -> anyhow::Result<Self>
    where
        F: Fn() -> Called + Clone + Send + Sync + 'static,
        Called: Future<Output = anyhow::Result<()>> + Send,
    {
        let begun = Instant::now();
        let mut all = JoinSet::new();
        for _ in 0..clients {
            let call = call.clone();
            all.spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < for_time {
                    times.push(timed(&call).await?);
                }
                anyhow::Ok(times)
            });
        }
        let mut times = Vec::new();
        while let Some(ended) = all.join_next().await {
            times.extend(ended??);
        }
        let per_second = times.len() as f64 / begun.elapsed().as_secs_f64();
        Ok(Self { samples: times.into_iter().collect(), per_second })
    }

    /// Calls per second.
    fn row(&self, name: &'static str, floor: Option<(f64, &'static str)>) -> Row {
        let (p50, p99) = (self.samples.median(), self.samples.percentile(0.99));
        let mut row = Row::figure(name, "/s", self.samples.len(), self.per_second, Target::None).note(format!("each {p50:.1} ms at p50, {p99:.1} ms at p99"));
        row.floor = floor;
        row
    }
}

async fn timed<Called: Future<Output = anyhow::Result<()>>>(call: impl Fn() -> Called) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    call().await?;
    Ok(begun.elapsed())
}
