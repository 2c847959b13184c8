//! Real worker processes. Needs root for all walls.
//!
//! The program executes itself as a worker, which has to begin with a single thread; so it has a `main` of its own.
#![allow(clippy::unwrap_used)]

mod typescript;

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use sandbar_linux::confine;
use sandbar_scripts::{Call, CheckError, FailureCode, Host, Limits, Op, OpError, OpResult, Ran, User, Workers, WorkersConfig, worker};
use serde_json::value::{RawValue, to_raw_value};
use tokio_util::sync::CancellationToken;
use typescript::*;

const LONG: Duration = Duration::from_secs(120);
const WAIT: &str = "await ctx.db.list('posts')";

type Test = fn(PathBuf) -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), |cache| Box::pin($name(cache)))),*] };
}

const TESTS: &[(&str, Test)] = tests![
    scripts_run,
    scripts_go_deep_and_have_many_timers,
    a_worker_is_confined,
    a_team_has_a_worker_of_its_own,
    a_killed_worker_takes_its_calls_along_and_nothing_else,
    scripts_that_spin_end_and_others_do_not_wait_for_them,
    as_many_scripts_spin_as_there_may_be_calls,
    a_worker_that_stands_still_is_replaced,
    calls_that_are_given_up_are_forgotten,
    more_calls_than_turns_wait,
    a_team_whose_calls_sleep_holds_up_nobody_else,
    a_call_that_is_given_up_has_its_place_until_the_engine_lets_go,
    who_complains_without_end_is_ended,
    what_comes_first_waits_for_the_engine_to_be_compiled,
    idle_workers_end,
    an_engine_that_cannot_start_is_a_failure_of_the_call,
    nothing_is_left_after_shutdown,
    a_replay_sees_the_same_world,
    typescript_loses_its_types,
    a_reader_of_typescript_is_confined,
    typescript_that_takes_too_long_is_given_up_and_nothing_goes_on,
    bad_typescript_of_one_team_is_not_before_that_of_others,
    typescript_that_nests_too_deep_is_an_error_of_the_source,
    strange_typescript_is_never_a_fault_of_ours,
    a_reader_of_typescript_that_cannot_start_says_so,
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|word| word == "script-engine") {
        return if words[2] == "--strip" { worker::strip::main() } else { worker::main(words.get(3).map(Path::new)) };
    }
    let cache = std::env::temp_dir().join(format!("sandbar-workers-{}", std::process::id()));
    fs::create_dir_all(&cache).unwrap();
    for (name, test) in TESTS {
        if words.get(1).is_none_or(|filter| filter.starts_with('-') || name.contains(filter)) {
            // One after the other: they look at the children of this process.
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test(cache.clone()));
            println!("test {name} ... ok");
        }
    }
    fs::remove_dir_all(cache).unwrap();
    ExitCode::SUCCESS
}

fn config(cache: PathBuf) -> WorkersConfig {
    WorkersConfig { spare: false, ..WorkersConfig::new(Some(cache)) }
}

fn call(code: &str, wall: Duration) -> Call {
    Call {
        code: code.into(),
        name: "test".into(),
        data: RawValue::from_string(r#"{"a":1}"#.into()).unwrap(),
        user: User::default(),
        limits: Limits { wall, cpu: wall, memory_bytes: 64 << 20, output_bytes: 1 << 20, log_lines: 1000, log_bytes: 256 << 10, ops_pending: 64, ops: 1000 },
        seed: [9; 32],
        clock: None,
    }
}

/// Answers with numbers, after some turns of the scheduler, and now and then with an error.
#[derive(Default)]
struct Moody(AtomicU64);

impl Host for Moody {
    fn op<'a>(&'a self, op: Op, _: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        Box::pin(async move {
            let x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20;
            for _ in 0..x % 50 {
                tokio::task::yield_now().await;
            }
            if x % 7 == 1 { Err(OpError::denied(format!("no {}", op.as_str()))) } else { Ok(to_raw_value(&serde_json::json!([{ "x": x }])).unwrap()) }
        })
    }
}

/// Never answers.
#[derive(Default)]
struct Silent(AtomicUsize);

impl Host for Silent {
    fn op<'a>(&'a self, _: Op, _: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }
}

impl Silent {
    async fn asked(&self, count: usize) {
        until(|| self.0.load(Ordering::Relaxed) >= count).await;
    }
}

async fn until(holds: impl Fn() -> bool) {
    let found = tokio::time::timeout(LONG, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    found.await.unwrap();
}

/// Pids of the workers that this process has, zombies too.
fn workers() -> HashSet<u32> {
    let ours = format!("PPid:\t{}\n", std::process::id());
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains(&ours))).collect()
}

fn kill(pid: u32) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
}

fn value(ran: &Ran) -> &str {
    match &ran.outcome.result {
        Ok(value) => value.as_deref().map_or("undefined", RawValue::get),
        Err(failure) => panic!("{failure:?}"),
    }
}

fn failure(ran: &Ran) -> (FailureCode, &str) {
    match &ran.outcome.result {
        Ok(value) => panic!("{value:?}"),
        Err(failure) => (failure.code, &failure.message),
    }
}

fn is_busy(ran: &Ran) -> bool {
    ran.outcome.result.as_ref().is_err_and(|failure| failure.is_busy())
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

async fn scripts_run(cache: PathBuf) {
    let workers = Workers::new(config(cache));
    let (host, never) = (Moody::default(), never());
    assert_eq!(value(&workers.run("a", call("return ctx.data.a + 1", LONG), &host, &never).await), "2");
    assert_eq!(value(&workers.run("a", call("return null", LONG), &host, &never).await), "null");
    assert_eq!(value(&workers.run("a", call("", LONG), &host, &never).await), "undefined");
    let ran = workers.run("a", call("console.log('x', 1); const r = await ctx.db.list('posts', {}); return r.length", LONG), &Moody::default(), &never).await;
    assert_eq!((value(&ran), ran.outcome.logs[0].text.as_str(), ran.recording.ops.len()), ("1", "x 1", 1));
    assert_eq!(failure(&workers.run("a", call("throw new TypeError('no')", LONG), &host, &never).await), (FailureCode::UserError, "no"));
    assert!(workers.check("a", "return 1", "good").await.is_ok());
    assert!(matches!(workers.check("a", "return (", "bad").await, Err(CheckError::Syntax(_))));
    workers.shutdown().await;
}

/// The walls that a process shows, of all kinds; returns how many threads it has.
fn assert_confined(pid: u32) -> usize {
    let of = |file: &str| format!("/proc/{pid}/{file}");
    let mut threads = 0;
    for task in fs::read_dir(of("task")).unwrap() {
        threads += 1;
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let has = |line: &str| assert!(status.contains(line), "{line:?} in {status}");
        let user = confine::USER_FIRST + pid % confine::USERS;
        has("\nSeccomp:\t2\n");
        has("\nNoNewPrivs:\t1\n");
        has(&format!("\nUid:\t{user}\t{user}\t{user}\t{user}\n"));
        has(&format!("\nGid:\t{user}\t{user}\t{user}\t{user}\n"));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            has(&format!("\n{set}:\t0000000000000000\n"));
        }
    }
    assert_eq!(fs::read_dir(of("root")).unwrap().count(), 0);
    assert_eq!(fs::read(of("environ")).unwrap(), b"");
    for kind in ["net", "ipc", "uts"] {
        assert_ne!(fs::read_link(of(&format!("ns/{kind}"))).unwrap(), fs::read_link(format!("/proc/self/ns/{kind}")).unwrap());
    }
    threads
}

async fn scripts_go_deep_and_have_many_timers(cache: PathBuf) {
    const DEEP: &str = "let n = 0; const f = () => { n++; f() }; try { f() } catch (e) { return e instanceof RangeError && n >= 5000 }";
    const NATIVE: &str = "const f = () => [2, 1].sort(f); try { f() } catch (e) { return e instanceof RangeError }";
    const TICKS: &str = "let n = 0; const t = Date.now(); await new Promise(r => { const i = setInterval(() => { if (++n > 1200) { clearInterval(i); r() } }, 1) }); \
                         await ctx.db.list('posts'); return [n, Date.now() >= t + n]";
    let workers = Workers::new(config(cache));
    let (host, never) = (Moody(AtomicU64::new(7 << 20)), never());
    for code in [DEEP, NATIVE] {
        assert_eq!(value(&workers.run("a", call(code, LONG), &host, &never).await), "true", "{code}");
    }
    let ran = workers.run("a", call(TICKS, LONG), &host, &never).await;
    assert_eq!(value(&ran), "[1201,true]");
    // As an engine writes it that says nothing of its timers and of its clock.
    let mut recording = ran.recording;
    recording.ops.retain(|op| op.op != Op::Sleep);
    recording.clock = None;
    let again = workers.replay("a", call(TICKS, LONG), &recording, &never).await;
    assert_eq!((value(&again.ran), again.diverged), ("[1201,false]", vec![]));
    workers.shutdown().await;
}

async fn a_worker_is_confined(cache: PathBuf) {
    let pool = Workers::new(config(cache));
    let (silent, never) = (Silent::default(), never());
    let run = pool.run("a", call(WAIT, LONG), &silent, &never);
    let look = async {
        silent.asked(1).await;
        let pid = *workers().iter().next().unwrap();
        let of = |file: &str| format!("/proc/{pid}/{file}");
        let threads = assert_confined(pid);
        assert!(threads > worker::THREADS);
        for entry in fs::read_dir(of("fd")).unwrap() {
            let entry = entry.unwrap();
            let target = fs::read_link(entry.path()).unwrap();
            let target = target.to_str().unwrap();
            // The stream, standard error twice, and what the memory of the engine is mapped from.
            let expected = match entry.file_name().to_str().unwrap() {
                "0" => target.starts_with("socket:"),
                "1" | "2" => target.starts_with("pipe:"),
                _ => target.starts_with("/memfd:") || target.contains("sandbar-workers-"),
            };
            assert!(expected, "{:?} is {target}", entry.file_name());
        }
    };
    tokio::select! { ran = run => panic!("{ran:?}"), () = look => {} }
    pool.shutdown().await;
}

async fn a_team_has_a_worker_of_its_own(cache: PathBuf) {
    let pool = Workers::new(WorkersConfig { workers_max: 2, workers_busy_max: 2, wait_max: LONG, spare: true, ..config(cache) });
    let (silent, host, cancel) = (Silent::default(), Moody::default(), CancellationToken::new());
    let (one, two) = (pool.run("a", call(WAIT, LONG), &silent, &cancel), pool.run("b", call(WAIT, LONG), &silent, &cancel));
    let more = async {
        silent.asked(2).await;
        assert_eq!(pool.count(), 2);
        // Both, and the spare one.
        until(|| workers().len() == 3).await;
        // A third team waits until one of them has nothing to do.
        let cancelled = async {
            tokio::task::yield_now().await;
            cancel.cancel();
        };
        let go_on = never();
        let (ran, ()) = tokio::join!(pool.run("c", call("return 3", LONG), &host, &go_on), cancelled);
        assert_eq!(value(&ran), "3");
        assert_eq!(pool.count(), 2);
    };
    let (one, two, ()) = tokio::join!(one, two, more);
    assert_eq!((failure(&one).0, failure(&two).0), (FailureCode::Cancelled, FailureCode::Cancelled));
    pool.shutdown().await;
}

async fn a_killed_worker_takes_its_calls_along_and_nothing_else(cache: PathBuf) {
    let pool = Workers::new(config(cache));
    let (silent, other, cancel) = (Silent::default(), Silent::default(), CancellationToken::new());
    let theirs = pool.run("b", call(WAIT, LONG), &other, &cancel);
    let load = async {
        other.asked(1).await;
        let bystander = workers();
        let calls = (0..20).map(|n| pool.run("a", call(if n % 4 == 0 { "for (;;) {}" } else { WAIT }, LONG), &silent, &cancel));
        let kill = async {
            silent.asked(15).await;
            let pids: Vec<u32> = workers().difference(&bystander).copied().collect();
            assert_eq!(pids.len(), 1);
            kill(pids[0]);
        };
        let (ran, ()) = tokio::join!(futures_util::future::join_all(calls), kill);
        for ran in ran {
            assert_eq!(failure(&ran).0, FailureCode::Internal);
            assert!(failure(&ran).1.starts_with("the engine ended"), "{}", failure(&ran).1);
        }
        assert_eq!(value(&pool.run("a", call("return 1", LONG), &silent, &cancel).await), "1");
        // The killed one was reaped.
        until(|| workers().len() == 2).await;
        cancel.cancel();
    };
    let (theirs, ()) = tokio::join!(theirs, load);
    assert_eq!(failure(&theirs).0, FailureCode::Cancelled, "another team's goes on");
    pool.shutdown().await;
}

async fn scripts_that_spin_end_and_others_do_not_wait_for_them(cache: PathBuf) {
    let pool = Workers::new(config(cache));
    let (host, cancel) = (Moody::default(), CancellationToken::new());
    let spins = (0..8).map(|_| pool.run("a", call("for (;;) {}", Duration::from_secs(1)), &host, &cancel));
    let quick = pool.run("a", call("return 1", LONG), &host, &cancel);
    let (spins, quick) = tokio::join!(futures_util::future::join_all(spins), quick);
    for ran in spins {
        assert_eq!(failure(&ran).0, FailureCode::Timeout);
        assert!(failure(&ran).1.contains("timed out after 1000ms"), "{}", failure(&ran).1);
    }
    assert_eq!(value(&quick), "1");
    pool.shutdown().await;
}

async fn as_many_scripts_spin_as_there_may_be_calls(cache: PathBuf) {
    let pool = Workers::new(config(cache));
    let (host, cancel) = (Moody::default(), CancellationToken::new());
    assert_eq!(value(&pool.run("a", call("return 1", LONG), &host, &cancel).await), "1");
    let before = workers();
    let spins = (0..worker::CALLS_MAX).map(|_| pool.run("a", call("for (;;) {}", Duration::from_millis(300)), &host, &cancel));
    for ran in futures_util::future::join_all(spins).await {
        assert_eq!(failure(&ran).0, FailureCode::Timeout, "{:?}", failure(&ran));
    }
    assert_eq!(workers(), before, "it is the same worker");
    pool.shutdown().await;
}

async fn a_worker_that_stands_still_is_replaced(cache: PathBuf) {
    let pool = Workers::new(config(cache));
    let (silent, cancel) = (Silent::default(), CancellationToken::new());
    let stop = async {
        silent.asked(1).await;
        let pid = *workers().iter().next().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::STOP).unwrap();
        pid
    };
    let (ran, stopped) = tokio::join!(pool.run("a", call(WAIT, Duration::from_secs(1)), &silent, &cancel), stop);
    assert_eq!(failure(&ran), (FailureCode::Timeout, "timed out after 1000ms (waiting for db.list)"));
    assert_eq!(value(&pool.run("a", call("return 1", LONG), &silent, &cancel).await), "1");
    until(|| !workers().contains(&stopped)).await;
    pool.shutdown().await;
}

async fn calls_that_are_given_up_are_forgotten(cache: PathBuf) {
    let pool = Workers::new(config(cache));
    let (silent, cancel) = (Silent::default(), CancellationToken::new());
    {
        let run = pool.run("a", call(WAIT, LONG), &silent, &cancel);
        tokio::select! { ran = run => panic!("{ran:?}"), () = silent.asked(1) => {} }
    }
    let before = workers();
    assert_eq!(value(&pool.run("a", call("return 1", LONG), &silent, &cancel).await), "1");
    assert_eq!(workers(), before);
    pool.shutdown().await;
}

async fn more_calls_than_turns_wait(cache: PathBuf) {
    // Room for two at once by memory, for four by turns.
    let small = WorkersConfig { calls_per_worker_max: 4, waiting_max: 50, memory_bytes_max: 200 << 20, memory_team_part: 2, ..config(cache) };
    let pool = Workers::new(WorkersConfig { wait_max: LONG, ..small });
    let (host, cancel) = (Moody::default(), CancellationToken::new());
    let codes: Vec<String> = (0..60).map(|n| format!("return {n}")).collect();
    let calls = codes.iter().map(|code| pool.run("a", call(code, LONG), &host, &cancel));
    let ran = futures_util::future::join_all(calls).await;
    let (good, refused): (Vec<_>, Vec<_>) = ran.iter().partition(|ran| ran.outcome.result.is_ok());
    assert_eq!((good.len(), refused.len()), (54, 6));
    assert_eq!(failure(refused[0]), (FailureCode::Internal, "50 calls of this team wait already"));
    assert!(refused.iter().all(|ran| is_busy(ran)));
    pool.shutdown().await;
}

async fn a_team_whose_calls_sleep_holds_up_nobody_else(cache: PathBuf) {
    // Room for eight calls, for two of a team; seats for one, and for three when it is taken.
    let seats = WorkersConfig { workers_max: 1, workers_busy_max: 3, calls_per_worker_max: 2, ..config(cache) };
    let pool = Workers::new(WorkersConfig { memory_bytes_max: 256 << 20, wait_max: Duration::from_millis(200), ..seats });
    let (silent, host, cancel) = (Silent::default(), Moody::default(), CancellationToken::new());
    let sleeping = futures_util::future::join_all(["a", "a", "b", "b"].map(|team| pool.run(team, call(WAIT, LONG), &silent, &cancel)));
    let others = async {
        silent.asked(4).await;
        let (go_on, started) = (never(), std::time::Instant::now());
        assert!(is_busy(&pool.run("a", call("return 1", LONG), &host, &go_on).await));
        assert!(started.elapsed() < LONG, "it is told so, and not left waiting");
        assert_eq!(value(&pool.run("c", call("return 3", LONG), &host, &go_on).await), "3");
        for team in ["a", "b", "c"] {
            assert!(pool.check(team, "return 1", "good").await.is_ok(), "{team}");
        }
        assert_eq!(pool.count(), 3);
        // All seats are taken by those who are busy once the third is.
        let third = pool.run("c", call(WAIT, LONG), &silent, &cancel);
        let fourth = async {
            silent.asked(5).await;
            assert!(is_busy(&pool.run("d", call("return 4", LONG), &host, &go_on).await));
            assert!(matches!(pool.check("d", "return 4", "good").await, Err(CheckError::Busy(_))));
            cancel.cancel();
        };
        tokio::join!(third, fourth);
        assert_eq!(value(&pool.run("d", call("return 4", LONG), &host, &go_on).await), "4");
    };
    tokio::join!(sleeping, others);
    pool.shutdown().await;
}

async fn a_call_that_is_given_up_has_its_place_until_the_engine_lets_go(cache: PathBuf) {
    let one = WorkersConfig { calls_per_worker_max: 1, wait_max: Duration::from_millis(200), ..config(cache) };
    let pool = Workers::new(one);
    let (silent, host, go_on) = (Silent::default(), Moody::default(), never());
    let signal = |signal| {
        let pid = rustix::process::Pid::from_raw(*workers().iter().next().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    {
        let run = pool.run("a", call(WAIT, LONG), &silent, &go_on);
        // It stands still before the call is given up, or it might let go of it first.
        let stop = async {
            silent.asked(1).await;
            signal(rustix::process::Signal::STOP);
        };
        tokio::select! { ran = run => panic!("{ran:?}"), () = stop => {} }
    }
    assert!(is_busy(&pool.run("a", call("return 1", LONG), &host, &go_on).await));
    signal(rustix::process::Signal::CONT);
    let ran = loop {
        let ran = pool.run("a", call("return 1", LONG), &host, &go_on).await;
        if !is_busy(&ran) {
            break ran;
        }
    };
    assert_eq!(value(&ran), "1");
    pool.shutdown().await;
}

async fn who_complains_without_end_is_ended(cache: PathBuf) {
    let program = cache.join("loud");
    fs::write(&program, "#!/bin/sh\nprintf '\\000\\000\\000\\005\\020\\000\\000\\000\\000' >&0\nexec yes >&2\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let pool = Workers::new(WorkersConfig { program, ..config(cache) });
    let ran = pool.run("a", call("return 1", LONG), &Moody::default(), &never()).await;
    assert_eq!(failure(&ran), (FailureCode::Internal, "the engine ended unexpectedly"));
    until(|| workers().is_empty()).await;
    pool.shutdown().await;
}

async fn what_comes_first_waits_for_the_engine_to_be_compiled(cache: PathBuf) {
    let cold = cache.join("cold");
    fs::create_dir(&cold).unwrap();
    let pool = Workers::new(WorkersConfig { spare: true, wait_max: Duration::from_millis(1), ..config(cold) });
    pool.warm();
    let (host, go_on) = (Moody::default(), never());
    let (checked, ran) = tokio::join!(pool.check("a", "return 1", "good"), pool.run("b", call("return 1", LONG), &host, &go_on));
    assert!(checked.is_ok(), "{checked:?}");
    assert_eq!(value(&ran), "1");
    pool.shutdown().await;
    assert_eq!(workers().len(), 0);
}

async fn idle_workers_end(cache: PathBuf) {
    let pool = Workers::new(WorkersConfig { idle_max: Duration::from_millis(50), ..config(cache) });
    assert_eq!(value(&pool.run("a", call("return 1", LONG), &Moody::default(), &never()).await), "1");
    until(|| pool.count() == 0 && workers().is_empty()).await;
    assert_eq!(value(&pool.run("a", call("return 2", LONG), &Moody::default(), &never()).await), "2");
    pool.shutdown().await;
}

async fn an_engine_that_cannot_start_is_a_failure_of_the_call(cache: PathBuf) {
    for (config, why) in [
        (WorkersConfig { program: "/nowhere".into(), ..config(cache.clone()) }, "cannot execute it: No such file or directory (os error 2)"),
        (WorkersConfig { program: "/bin/false".into(), ..config(cache.clone()) }, "the engine ended before it was ready"),
        (WorkersConfig { cache_dir: Some("/nowhere/at/all".into()), ..config(cache.clone()) }, "cannot open the folder of the engine"),
    ] {
        let ran = Workers::new(config).run("a", call("return 1", LONG), &Moody::default(), &never()).await;
        assert_eq!(failure(&ran).0, FailureCode::Internal);
        assert!(failure(&ran).1.starts_with("the engine could not be started: ") && failure(&ran).1.contains(why), "{}", failure(&ran).1);
    }
    // No descriptors left: a failure, and good again when there are some.
    let pool = Workers::new(config(cache));
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit { current: Some(3), maximum: limits.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    let ran = pool.run("a", call("return 1", LONG), &Moody::default(), &never()).await;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limits).unwrap();
    assert!(failure(&ran).1.contains("Too many open files"), "{:?}", failure(&ran));
    assert_eq!(value(&pool.run("a", call("return 1", LONG), &Moody::default(), &never()).await), "1");
    pool.shutdown().await;
}

async fn nothing_is_left_after_shutdown(cache: PathBuf) {
    let pool = Workers::new(WorkersConfig { spare: true, ..config(cache) });
    pool.warm();
    let silent = Silent::default();
    let end = async {
        silent.asked(1).await;
        pool.shutdown().await;
    };
    let cancel = never();
    let (ran, ()) = tokio::join!(pool.run("a", call(WAIT, LONG), &silent, &cancel), end);
    assert_eq!(failure(&ran), (FailureCode::Internal, "the server stops"));
    assert_eq!(failure(&pool.run("a", call("return 1", LONG), &silent, &never()).await), (FailureCode::Internal, "the server stops"));
    until(|| workers().is_empty()).await;
}

async fn a_replay_sees_the_same_world(cache: PathBuf) {
    const CODE: &str = r#"
        const seen = [];
        const ask = async (n) => {
            try { seen.push([n, await ctx.db.list('posts', { limit: n }), Date.now()]); } catch (e) { seen.push([n, e.message, e.code]); }
            console.log(n, Math.random());
        };
        await Promise.all([ask(1), ask(2), ask(3), ask(2), new Promise((r) => setTimeout(r, 3)).then(() => ask(4))]);
        for (let i = 0; i < 5; i++) await Promise.race([ask(i), new Promise((r) => setTimeout(r, 1))]);
        return { seen, now: Date.now(), random: Math.random(), id: crypto.randomUUID() };
    "#;
    let pool = Workers::new(config(cache));
    for seed in 0..20 {
        let mut first = call(CODE, LONG);
        first.seed = [seed; 32];
        let ran = pool.run("a", first, &Moody(AtomicU64::new(u64::from(seed))), &never()).await;
        let again = pool.replay("a", call(CODE, LONG), &ran.recording, &never()).await;
        assert_eq!(value(&again.ran), value(&ran));
        // The time of a line is not part of the world that is seen again.
        let logs = |ran: &Ran| ran.outcome.logs.iter().map(|line| (line.level, line.text.clone())).collect::<Vec<_>>();
        assert_eq!(logs(&again.ran), logs(&ran));
        assert_eq!(again.ran.recording.clock, ran.recording.clock);
        assert!(again.diverged.is_empty(), "{:?}", again.diverged);
        let order =
            |ran: &Ran| ran.recording.ops.iter().map(|op| (op.seq, op.op, op.args.get().to_owned(), op.answer.as_ref().map(|a| a.nth))).collect::<Vec<_>>();
        assert_eq!(order(&again.ran), order(&ran));
    }
    pool.shutdown().await;
}
