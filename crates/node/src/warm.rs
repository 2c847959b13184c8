//! Warm processes: started with the runtime, up before anybody gets it, kept up as long as it lives.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use sandbar_procd_api::{Cmd, Context, ContextType, CreateContext, Repl};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::{Runtime, client::ProcdError};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WarmProcess {
    /// What services call it, unique among those of a runtime.
    pub name: String,
    pub start: Start,
    pub cwd: Option<String>,
    /// Of image and template with its own on top.
    pub env: BTreeMap<String, String>,
    pub startup: Option<Probe>,
    pub readiness: Option<Probe>,
    pub liveness: Option<Probe>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Start {
    Cmd(Vec<String>),
    /// By alias.
    Repl(String),
}

/// How it is asked, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Probe {
    pub check: Check,
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    /// So many in a row count as a failure.
    pub failures: u32,
    /// So many in a row count as a success.
    pub successes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Check {
    /// Passes when it exits with 0.
    Exec(Vec<String>),
    /// Passes with one of these statuses.
    Http { port: u16, path: String, headers: Vec<(String, String)>, passing: Range<u16> },
    /// Passes when it accepts.
    Tcp(u16),
}

/// A probe passes with these: success, and redirects.
pub const PASSING: Range<u16> = 200..400;

/// Why a process did not come up, with the last it printed.
#[derive(Debug, thiserror::Error)]
#[error("warm process {name:?} {why}{}", last_lines(output))]
pub struct WarmError {
    pub name: String,
    pub why: String,
    output: String,
}

impl WarmError {
    /// It and those behind it took too long.
    pub(crate) fn late(name: &str) -> Self {
        let why = format!("and those after it did not come up within {} s", UP_WITHIN.as_secs());
        Self { name: name.to_owned(), why, output: String::new() }
    }

    /// The server stops before it is up.
    pub(crate) fn stopped(name: &str) -> Self {
        Self { name: name.to_owned(), why: "did not come up before the server stopped".to_owned(), output: String::new() }
    }
}

/// All of a runtime are up within this time or have failed, whatever their probes would still allow: places and claims
/// wait for them.
pub(crate) const UP_WITHIN: Duration = Duration::from_secs(600);
const CWD: &str = "/workspace";
/// A process without a probe has to live this long to count as up.
const SETTLE: Duration = Duration::from_millis(100);
/// How often it is looked at whether processes still run.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Wait before a process that ended is started again; doubled up to the second figure while it goes on ending.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Of an answer of which the status is known, so much is still taken, within such a time.
const ANSWER_MAX_BYTES: u64 = 256 << 10;
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
const LINES_SHOWN: usize = 10;
const LINE_SHOWN_CHARS: usize = 300;

/// Starts all and waits until each is up.
pub(crate) async fn start(runtime: &Arc<Runtime>, processes: &[WarmProcess]) -> Result<Vec<String>, WarmError> {
    let mut ids = Vec::with_capacity(processes.len());
    for process in processes {
        let made = runtime.client.create_context(&process.context()).await;
        ids.push(made.map_err(|error| process.failed(format!("could not be started: {error}"), String::new()))?.id);
    }
    for (process, id) in processes.iter().zip(&ids) {
        let probes: Vec<&Probe> = process.startup.iter().chain(&process.readiness).collect();
        if probes.is_empty() {
            sleep(SETTLE).await;
        }
        for probe in probes {
            pass(runtime, process, id, probe).await?;
        }
        running(runtime, process, id).await?;
    }
    Ok(ids)
}

/// Finds the contexts of processes that a former server started.
pub(crate) async fn find(runtime: &Arc<Runtime>, processes: &[WarmProcess]) -> Result<Vec<String>, ProcdError> {
    let mut contexts = runtime.client.list_contexts().await?;
    // The oldest that is alike; a user may have started the same later.
    contexts.sort_by_key(|context| context.created_ms);
    let is_it = |process: &WarmProcess, context: &Context| match &process.start {
        Start::Cmd(command) => context.command.as_ref() == Some(command),
        Start::Repl(alias) => context.alias.as_ref() == Some(alias),
    };
    let mut ids = Vec::with_capacity(processes.len());
    for process in processes {
        match contexts.iter().position(|context| is_it(process, context)) {
            Some(at) => ids.push(contexts.remove(at).id),
            None => ids.push(runtime.client.create_context(&process.context()).await?.id),
        }
    }
    Ok(ids)
}

/// Keeps a process up until its runtime ends: one that ended or does not pass its liveness probe is started again.
pub(crate) async fn keep(runtime: Arc<Runtime>, process: WarmProcess, mut id: String) {
    let every = process.liveness.as_ref().map_or(LOOK_EVERY, |probe| probe.period);
    let mut backoff = BACKOFF.0;
    let mut failures = 0;
    loop {
        tokio::select! {
            () = runtime.ended() => return,
            () = sleep(every) => {}
        }
        if runtime.is_frozen() {
            continue;
        }
        let why = match runtime.client.get_context(&id).await {
            Ok(context) if context.running => match &process.liveness {
                Some(probe) if !check(&runtime, probe, &process.env).await => {
                    failures += 1;
                    if failures < probe.failures {
                        continue;
                    }
                    "does not pass its liveness probe"
                }
                _ => {
                    failures = 0;
                    backoff = BACKOFF.0;
                    runtime.set_well(true);
                    continue;
                }
            },
            Ok(_) => "has ended",
            Err(_) if runtime.has_ended() || runtime.is_frozen() => continue,
            Err(_) => "is not known any more",
        };
        tracing::info!(runtime = runtime.id, process = process.name, why, "a warm process is started again");
        runtime.set_well(false);
        failures = 0;
        tokio::select! {
            () = runtime.ended() => return,
            () = sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(BACKOFF.1);
        if runtime.client.restart_context(&id).await.is_err()
            && let Ok(context) = runtime.client.create_context(&process.context()).await
        {
            id = context.id;
        }
    }
}

impl WarmProcess {
    fn context(&self) -> CreateContext {
        let (kind, repl, cmd) = match &self.start {
            Start::Cmd(command) => (ContextType::Cmd, None, Some(Cmd { command: command.clone() })),
            Start::Repl(alias) => (ContextType::Repl, Some(Repl { alias: alias.clone(), ..Repl::default() }), None),
        };
        CreateContext {
            kind,
            repl,
            cmd,
            wait_until_done: false,
            cwd: Some(self.cwd.clone().unwrap_or_else(|| CWD.to_owned())),
            env_vars: self.env.clone(),
            pty_size: None,
            idle_timeout_sec: 0,
            ttl_sec: 0,
            untold: false,
            followed: false,
            kept: None,
        }
    }

    fn failed(&self, why: String, output: String) -> WarmError {
        WarmError { name: self.name.clone(), why, output }
    }
}

/// Asks until it passed as often as it has to, or failed as often as it may.
async fn pass(runtime: &Arc<Runtime>, process: &WarmProcess, id: &str, probe: &Probe) -> Result<(), WarmError> {
    sleep(probe.initial_delay).await;
    let (mut failures, mut successes) = (0, 0);
    loop {
        if check(runtime, probe, &process.env).await {
            (failures, successes) = (0, successes + 1);
            if successes >= probe.successes {
                return Ok(());
            }
        } else {
            (failures, successes) = (failures + 1, 0);
            running(runtime, process, id).await?;
            if failures >= probe.failures {
                let output = output_of(runtime, id).await;
                return Err(process.failed(format!("did not pass its probe: {failures} times in a row, {} s apart", probe.period.as_secs()), output));
            }
        }
        sleep(probe.period).await;
    }
}

async fn running(runtime: &Arc<Runtime>, process: &WarmProcess, id: &str) -> Result<(), WarmError> {
    match runtime.client.get_context(id).await {
        Ok(context) if context.running => Ok(()),
        Ok(context) => {
            let code = context.output.exit_code.map_or_else(String::new, |code| format!(" with exit code {code}"));
            Err(process.failed(format!("ended{code}"), context.output.output_raw.unwrap_or_default()))
        }
        Err(error) => Err(process.failed(format!("is not known: {error}"), String::new())),
    }
}

async fn output_of(runtime: &Arc<Runtime>, id: &str) -> String {
    runtime.client.get_context(id).await.ok().and_then(|context| context.output.output_raw).unwrap_or_default()
}

/// One question. Whatever goes wrong is a no.
async fn check(runtime: &Arc<Runtime>, probe: &Probe, env: &BTreeMap<String, String>) -> bool {
    passes(runtime, &probe.check, probe.timeout, env).await
}

/// Whether a check passes within a time.
pub async fn passes(runtime: &Arc<Runtime>, check: &Check, within: Duration, env: &BTreeMap<String, String>) -> bool {
    let asked = async {
        match check {
            Check::Exec(command) => exec(runtime, command, env).await,
            Check::Tcp(port) => runtime.connect(*port).await.is_ok(),
            Check::Http { port, path, headers, passing } => {
                let status = http(runtime, *port, path, headers).await.ok().flatten();
                status.is_some_and(|status| passing.contains(&status))
            }
        }
    };
    timeout(within, asked).await.unwrap_or(false)
}

/// With which status a port answers within a time; or what came instead of an answer.
pub async fn answer(runtime: &Arc<Runtime>, port: u16, path: &str, within: Duration) -> Result<u16, String> {
    match timeout(within, http(runtime, port, path, &[])).await {
        Err(_) => Err(format!("there was no answer within {} s", within.as_secs())),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err("the connection was closed without an answer".to_owned()),
        Ok(Err(error)) => Err(format!("nobody could be asked there: {error}")),
        Ok(Ok(None)) => Err("the answer was not HTTP".to_owned()),
        Ok(Ok(Some(status))) => Ok(status),
    }
}

async fn exec(runtime: &Arc<Runtime>, command: &[String], env: &BTreeMap<String, String>) -> bool {
    let create = CreateContext {
        kind: ContextType::Cmd,
        repl: None,
        cmd: Some(Cmd { command: command.to_vec() }),
        wait_until_done: true,
        cwd: None,
        env_vars: env.clone(),
        pty_size: None,
        idle_timeout_sec: 0,
        ttl_sec: 60,
        untold: true,
        followed: false,
        kept: None,
    };
    let Ok(context) = runtime.client.create_context(&create).await else { return false };
    // Nobody wants to read it.
    let _ = runtime.client.delete_context(&context.id).await;
    context.output.exit_code == Some(0)
}

async fn http(runtime: &Arc<Runtime>, port: u16, path: &str, headers: &[(String, String)]) -> std::io::Result<Option<u16>> {
    let mut stream = runtime.connect(port).await?;
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: sandbar-probe\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200"
    let mut line = [0u8; 12];
    stream.read_exact(&mut line).await?;
    // Who is hung up on while it writes complains in its log, which is what its people read when it does not start.
    let _ = timeout(ANSWER_WITHIN, tokio::io::copy(&mut stream.take(ANSWER_MAX_BYTES), &mut tokio::io::sink())).await;
    Ok(line.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(&rest[2..]).ok()).and_then(|text| text.parse::<u16>().ok()))
}

/// Stands before what a process printed, wherever it is told.
pub const PRINTED: &str = "; it printed last: ";

/// The end of what a process printed, as a clause of an error; empty when it printed nothing.
pub fn last_lines(output: &str) -> String {
    let lines: Vec<String> =
        output.lines().rev().filter(|line| !line.trim().is_empty()).take(LINES_SHOWN).map(|line| line.chars().take(LINE_SHOWN_CHARS).collect()).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!("{PRINTED}{}", lines.into_iter().rev().collect::<Vec<_>>().join(" | "))
}
