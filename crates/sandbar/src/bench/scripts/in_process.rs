//! Calls without a server around them: this process speaks with the engines' processes itself and answers what scripts ask for.

use std::{
    collections::VecDeque,
    path::Path,
    pin::Pin,
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use sandbar_scripts::{
    Call, Host, Limits, Op, OpError, OpResult, User, frame,
    pool::{Workers, WorkersConfig},
    quickjs::Engine,
};
use serde_json::{Value, value::RawValue};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    CLIENTS, DATA, Load, ROUNDS, ROW, Work,
    memory::Memory,
    timed,
    yardsticks::{Kind, Measured, Yardsticks},
};
use crate::bench::{
    rows::Counts,
    stats::{Row, Samples, Target},
};

const TEAM: &str = "bench";
/// What one call may take.
const CALL_MS_MAX: f64 = 0.3;
const WARM_UP: usize = 50;
/// Calls that ask for something have asked by then.
const ASKED_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Each kind of work by us, by the engine alone and by every yardstick, in turns; then by many clients. `folder` is ours.
pub async fn calls(yardsticks: &Yardsticks, folder: &Path, counts: &Counts) -> anyhow::Result<Vec<Row>> {
    // A folder of its own: whatever else lies in that of compiled code is cleaned away.
    let cache = folder.join("compiled");
    std::fs::create_dir_all(&cache)?;
    let workers = Workers::new(WorkersConfig { spare: false, ..WorkersConfig::new(Some(cache.clone())) });
    let measured = measure(&Calls { workers: workers.clone() }, yardsticks, &cache, counts).await;
    workers.shutdown().await;
    measured
}

async fn measure(calls: &Calls, yardsticks: &Yardsticks, cache: &Path, counts: &Counts) -> anyhow::Result<Vec<Row>> {
    let engine = tokio::task::block_in_place(|| Engine::open(Some(cache)))?;
    let mut rows = Vec::new();
    for work in Work::ALL {
        for _ in 0..WARM_UP {
            calls.call(work).await?;
            alone(&engine, work)?;
        }
        let (mut ours, mut floor, mut theirs) = (Samples::default(), Samples::default(), Vec::new());
        let n = counts.requests.div_ceil(ROUNDS);
        for _ in 0..ROUNDS {
            for _ in 0..n {
                ours.push(timed(|| calls.call(work)).await?);
            }
            for _ in 0..n {
                floor.push(timed(async || alone(&engine, work)).await?);
            }
            yardsticks.run(work, n, &mut theirs).await?;
        }
        rows.extend(beside(work, &ours, &floor, &theirs, yardsticks));
    }
    rows.extend(together(calls, counts.sustained).await?);
    rows.extend(memory(calls).await?);
    Ok(rows)
}

/// Our rows, which say how they compare, and one for each yardstick.
fn beside(work: Work, ours: &Samples, floor: &Samples, theirs: &[Measured], yardsticks: &Yardsticks) -> Vec<Row> {
    let (alone, name, target) = match work {
        Work::Trivial => ("script: trivial, engine alone", "script: trivial, in process", Target::AtMost(CALL_MS_MAX)),
        Work::Ops => ("script: 3 ops, engine alone", "script: 3 ops, in process", Target::None),
    };
    let compared = theirs.iter().map(|their| format!("{:.2} of {}", ours.median() / their.samples.median(), their.kind.as_str()));
    let missing = yardsticks.missing().map(|kind| format!("{} not measured: {}", kind.as_str(), kind.hint()));
    let row = Row::times(name, ours, Some((floor.median(), "engine alone")), target).note(compared.chain(missing).collect::<Vec<_>>().join(", "));
    let alone = Row::times(alone, floor, None, Target::None).note("in this process, a fresh instance each, and dropped");
    let rows = theirs.iter().map(|their| {
        let name = match (work, their.kind) {
            (Work::Trivial, Kind::NativeQuickjs) => "script: trivial, native QuickJS",
            (Work::Trivial, Kind::NodeVm) => "script: trivial, node:vm",
            (Work::Trivial, Kind::BunWorker) => "script: trivial, Bun worker",
            (Work::Ops, Kind::NativeQuickjs) => "script: 3 ops, native QuickJS",
            (Work::Ops, Kind::NodeVm) => "script: 3 ops, node:vm",
            (Work::Ops, Kind::BunWorker) => "script: 3 ops, Bun worker",
        };
        Row::times(name, &their.samples, None, Target::None).note(format!("no wall around it; RSS {:.0} MiB", their.rss_bytes as f64 / f64::from(1 << 20)))
    });
    [alone, row].into_iter().chain(rows).collect()
}

async fn together(calls: &Calls, for_time: Duration) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (work, one, many) in [
        (Work::Trivial, "script: trivial, in process, 1 client", "script: trivial, in process, 64 clients"),
        (Work::Ops, "script: 3 ops, in process, 1 client", "script: 3 ops, in process, 64 clients"),
    ] {
        for (clients, name) in [(1, one), (CLIENTS, many)] {
            let calls = calls.clone();
            let call = move || {
                let calls = calls.clone();
                async move { calls.call(work).await }
            };
            rows.push(Load::of(clients, for_time, call).await?.row(name, None));
        }
    }
    Ok(rows)
}

/// Of the engines after all that, and with as many calls as there are clients, each of which waits for an answer.
async fn memory(calls: &Calls) -> anyhow::Result<Vec<Row>> {
    let idle = Memory::of_engines_of(process::id())?;
    let (silent, cancel) = (Arc::new(Silent::default()), CancellationToken::new());
    let mut waiting = JoinSet::new();
    for _ in 0..CLIENTS {
        let (workers, silent, cancel) = (calls.workers.clone(), Arc::clone(&silent), cancel.clone());
        let call = Call { limits: Limits { wall: ASKED_WITHIN * 2, ..limits() }, ..of(Work::Ops)? };
        waiting.spawn(async move { workers.run(TEAM, call, &*silent, &cancel).await });
    }
    let begun = Instant::now();
    while silent.asked.load(Ordering::Relaxed) < CLIENTS {
        ensure!(begun.elapsed() < ASKED_WITHIN, "{} of {CLIENTS} calls have asked for something", silent.asked.load(Ordering::Relaxed));
        tokio::time::sleep(POLL).await;
    }
    let busy = Memory::of_engines_of(process::id())?;
    cancel.cancel();
    while waiting.join_next().await.is_some() {}
    let each = (busy.mib() - idle.mib()).max(0.0) / CLIENTS as f64;
    Ok(vec![
        idle.row("script: engines, memory while idle"),
        busy.row("script: engines, memory with 64 calls that wait"),
        Row::figure("script: a call that waits, memory", "MiB", CLIENTS, each, Target::None).note("the difference of the two"),
    ])
}

/// Calls by workers of our own.
#[derive(Clone)]
struct Calls {
    workers: Workers,
}

impl Calls {
    async fn call(&self, work: Work) -> anyhow::Result<()> {
        let ran = self.workers.run(TEAM, of(work)?, &Answering, &CancellationToken::new()).await;
        work.check(ran.outcome.result?)
    }
}

/// The same call by an engine in this process.
fn alone(engine: &Engine, work: Work) -> anyhow::Result<()> {
    let Call { code, name, data, user, limits, seed, clock } = of(work)?;
    let run = frame::Run {
        code,
        name,
        data,
        user,
        timeout_ms: limits.wall.as_millis() as u64,
        cpu_ms: limits.cpu.as_millis() as u64,
        memory_bytes: limits.memory_bytes,
        output_bytes: limits.output_bytes,
        log_lines: limits.log_lines,
        log_bytes: limits.log_bytes,
        ops_pending: limits.ops_pending,
        ops: limits.ops,
        seed: hex::encode(seed),
        clock,
    };
    let (mut instance, mut step) = engine.start(run, Arc::default());
    let mut asked = VecDeque::new();
    loop {
        if let Some(done) = step.done {
            return match done.failure {
                Some(failure) => Err(failure.into()),
                None => work.check(done.value),
            };
        }
        asked.extend(step.ops);
        let (Some(instance), Some(next)) = (&mut instance, asked.pop_front()) else { bail!("the engine waits for nothing") };
        step = instance.settle(frame::Settle { seq: next.seq, value: Some(answer(next.op, &next.args)?), error: None });
    }
}

/// What is asked for is read, as any host has to.
fn answer(op: Op, args: &RawValue) -> serde_json::Result<Box<RawValue>> {
    serde_json::from_str::<Value>(args.get())?;
    RawValue::from_string(if op == Op::DbList { format!("[{ROW},{ROW}]") } else { ROW.to_owned() })
}

fn of(work: Work) -> anyhow::Result<Call> {
    let data = RawValue::from_string(DATA.to_owned())?;
    Ok(Call { code: work.code().to_owned(), name: "bench".to_owned(), data, user: User::default(), limits: limits(), seed: [7; 32], clock: None })
}

/// As scripts have by default.
fn limits() -> Limits {
    use sandbar_core::limits::*;
    Limits {
        wall: Duration::from_millis(SCRIPT_TIMEOUT_DEFAULT_MS.into()),
        cpu: Duration::from_millis(SCRIPT_TIMEOUT_DEFAULT_MS.into()),
        memory_bytes: u64::from(SCRIPT_MEMORY_DEFAULT_MB) << 20,
        output_bytes: SCRIPT_OUTPUT_MAX_BYTES,
        log_lines: SCRIPT_LOG_LINES_MAX,
        log_bytes: SCRIPT_LOG_MAX_BYTES,
        ops_pending: SCRIPT_OPS_PENDING_MAX,
        ops: SCRIPT_OPS_MAX,
    }
}

/// Answers at once.
struct Answering;

impl Host for Answering {
    fn op<'a>(&'a self, op: Op, args: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        Box::pin(async move { answer(op, args).map_err(|error| OpError::internal(error.to_string())) })
    }
}

/// Never answers.
#[derive(Default)]
struct Silent {
    asked: AtomicUsize,
}

impl Host for Silent {
    fn op<'a>(&'a self, _: Op, _: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }
}
