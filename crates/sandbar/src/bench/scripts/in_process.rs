//! Calls without a server around them: this process speaks with the engines' processes itself and answers what scripts ask for.

use std::{
    pin::Pin,
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use sandbar_scripts::{
    Call, Host, Limits, Op, OpResult, User,
    pool::{Workers, WorkersConfig},
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

/// Each kind of work, by us and by every yardstick in turns; then by many clients.
pub async fn calls(yardsticks: &Yardsticks, counts: &Counts) -> anyhow::Result<Vec<Row>> {
    let calls = Calls::begin()?;
    for work in Work::ALL {
        for _ in 0..WARM_UP {
            calls.call(work).await?;
        }
    }
    let (mut rows, mut instances) = (Vec::new(), Samples::default());
    for work in Work::ALL {
        let (mut ours, mut theirs) = (Samples::default(), Vec::new());
        let n = counts.requests.div_ceil(ROUNDS);
        for _ in 0..ROUNDS {
            instances.append(tokio::task::block_in_place(|| engine_alone(n))?);
            for _ in 0..n {
                ours.push(timed(|| calls.call(work)).await?);
            }
            yardsticks.run(work, n, &mut theirs).await?;
        }
        rows.extend(beside(work, &ours, &theirs, yardsticks));
    }
    rows.insert(0, Row::times("script: engine alone, instance made and dropped", &instances, None, Target::None));
    rows.extend(together(&calls, counts.sustained).await?);
    rows.extend(memory(&calls).await?);
    Ok(rows)
}

/// Our row, which says how it compares, and one for each yardstick.
fn beside(work: Work, ours: &Samples, theirs: &[Measured], yardsticks: &Yardsticks) -> Vec<Row> {
    let (name, target) = match work {
        Work::Trivial => ("script: trivial, in process", Target::AtMost(CALL_MS_MAX)),
        Work::Ops => ("script: 3 ops, in process", Target::None),
    };
    let compared = theirs.iter().map(|their| format!("{:.2} of {}", ours.median() / their.samples.median(), their.kind.as_str()));
    let missing = yardsticks.missing().map(|kind| format!("not measured: {} ({})", kind.as_str(), kind.hint()));
    let native = theirs.iter().find(|their| their.kind == Kind::NativeQuickjs).map(|their| (their.samples.median(), "native QuickJS"));
    let row = Row::times(name, ours, native, target).note(compared.chain(missing).collect::<Vec<_>>().join(", "));
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
    std::iter::once(row).chain(rows).collect()
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
        let (workers, silent, cancel) = (Arc::clone(&calls.workers), Arc::clone(&silent), cancel.clone());
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
    workers: Arc<Workers>,
}

impl Calls {
    fn begin() -> anyhow::Result<Self> {
        Ok(Self { workers: Arc::new(Workers::new(WorkersConfig::default())) })
    }

    async fn call(&self, work: Work) -> anyhow::Result<()> {
        let ran = self.workers.run(TEAM, of(work)?, &Answering, &CancellationToken::new()).await;
        let Some(returned) = ran.outcome.result? else { bail!("the script returned nothing") };
        let returned: Value = serde_json::from_str(returned.get())?;
        ensure!(returned == work.result(), "the script returned {returned}");
        Ok(())
    }
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

/// Answers at once, after reading what it is asked.
struct Answering;

impl Host for Answering {
    fn op<'a>(&'a self, op: Op, args: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        Box::pin(async move {
            let answer = if op == Op::DbList { format!("[{ROW},{ROW}]") } else { ROW.to_owned() };
            let read = serde_json::from_str::<Value>(args.get()).and_then(|_| RawValue::from_string(answer));
            read.map_err(|error| sandbar_scripts::OpError::internal(error.to_string()))
        })
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
