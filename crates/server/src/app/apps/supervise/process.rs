//! The process of an entry inside a sandbox: found, started, asked and ended. All that is known of one is what the agent tells, so a
//! server that starts anew finds what a former one started.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{
    app::{
        launch::{Check, Entry},
        shell::ENTRY_VAR,
        supervise::{self, Ending, Why},
    },
    limits,
    redact::Redactor,
};
use sandbar_node::{
    Runtime,
    client::ProcdError,
    warm::{self, Check as Asked},
};
use sandbar_procd_api::{Context, ContextType, CreateContext, Kept, Signal};
use tokio::sync::watch;

use crate::app::{apps::shell::context, sandboxes::now_ms};

/// One question to a process takes at most so long. The first page of a development server may be built just then.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// A process that has nothing to be asked counts as ready when it has lived so long.
const SETTLE: Duration = Duration::from_millis(100);
/// How often it is looked at whether a process runs when nothing tells that it ended.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The same while its end is waited for.
const END_EVERY: Duration = Duration::from_millis(100);
/// How long the end by SIGKILL is waited for.
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// Whose process it is, and what takes its secrets out of what it printed, before that is cut into lines.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    pub entry: &'a Entry,
    pub redactor: &'a Redactor,
}

/// What came of looking for an entry's process.
pub(super) enum Found {
    Running(Context),
    /// It ended, and nobody saw that.
    Ended(Context),
    None,
}

/// The process that an entry has, if it has one. Others of the same entry are ended; of those that ended, what `keep` does not name is
/// forgotten together with what they left running.
pub(super) async fn find(runtime: &Runtime, entry: &Entry, seen_to_end: Option<&str>) -> Result<Found, ProcdError> {
    let mut contexts: Vec<Context> = runtime.client.list_contexts().await?.into_iter().filter(|context| is_of(context, &entry.name)).collect();
    contexts.sort_by_key(|context| context.created_ms);
    let running = contexts.iter().rposition(|context| context.running && context.command.as_ref() == Some(&entry.command));
    let found = running.map(|at| contexts.remove(at));
    let ended = match &found {
        Some(_) => None,
        None => contexts.pop_if(|context| !context.running),
    };
    for context in contexts {
        forget(runtime, &context.id).await;
    }
    Ok(match (found, ended) {
        (Some(context), _) => Found::Running(context),
        (None, Some(context)) if seen_to_end != Some(&context.id) => Found::Ended(context),
        (None, _) => Found::None,
    })
}

/// Starts an entry's process in place of what is left of former ones.
pub(super) async fn start(runtime: &Runtime, entry: &Entry) -> Result<Context, ProcdError> {
    for context in runtime.client.list_contexts().await?.iter().filter(|context| is_of(context, &entry.name)) {
        // With it goes whatever it left running, which may hold the port.
        forget(runtime, &context.id).await;
    }
    let ttl_s = entry.runs_max_s.map_or(0, u64::from);
    let create = CreateContext { kept: Some(Kept::UntilDeleted), ..context(entry.command.clone(), entry.cwd.clone(), entry.env.clone(), ttl_s) };
    runtime.client.create_context(&create).await
}

/// Returns when a process has ended, with how. `ends` says that some process of the sandbox did.
pub(super) async fn ended(runtime: &Runtime, of: Of<'_>, id: &str, ends: &mut watch::Receiver<u64>) -> Ending {
    loop {
        ends.mark_unchanged();
        if let Some(ending) = has_ended(runtime, of, id).await {
            return ending;
        }
        tokio::select! {
            changed = ends.changed() => if changed.is_err() {
                tokio::time::sleep(LOOK_EVERY).await;
            },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// How a process ended, if it has. One that cannot be asked about counts as running: the end of its sandbox is told otherwise.
pub(super) async fn has_ended(runtime: &Runtime, of: Of<'_>, id: &str) -> Option<Ending> {
    // Without what it printed, which may be much.
    let contexts = runtime.client.list_contexts().await.ok()?;
    match contexts.iter().find(|context| context.id == id) {
        Some(context) if context.running => None,
        Some(_) => Some(ending(runtime, of, id).await),
        None => Some(Ending::of(&of.entry.name, None, None, now_ms(), Vec::new())),
    }
}

/// How a process that ended did, with the last that it printed.
pub(super) async fn ending(runtime: &Runtime, of: Of<'_>, id: &str) -> Ending {
    let context = runtime.client.get_context(id).await.ok();
    let code = context.as_ref().and_then(|context| context.output.exit_code);
    let told = context.as_ref().and_then(|context| context.output.reason.clone());
    let began_ms = context.as_ref().map_or(i64::MAX, |context| i64::try_from(context.created_ms).unwrap_or(i64::MAX));
    let printed = context.and_then(|context| context.output.output_raw).unwrap_or_default();
    let mut ending = Ending::of(&of.entry.name, code, told.as_deref(), now_ms(), tail(&of.redactor.printed(&printed, false)));
    if matches!(ending.why, Why::Signal | Why::ExitCode)
        && let Some(text) = runtime.ended_for(began_ms)
    {
        ending.text = format!("{}: {text}", ending.text);
    }
    ending
}

/// The last lines that a process printed which may go on.
pub(super) async fn printed(runtime: &Runtime, redactor: &Redactor, id: &str) -> Vec<String> {
    let context = runtime.client.get_context(id).await.ok();
    tail(&redactor.printed(&context.and_then(|context| context.output.output_raw).unwrap_or_default(), true))
}

/// Ends a process with all that it started: SIGTERM, and SIGKILL for what is there after `grace`. Returns how it ended.
pub(super) async fn end(runtime: &Runtime, of: Of<'_>, id: &str, grace: Duration) -> Ending {
    signal(runtime, id, "TERM").await;
    // One that was stopped hears nothing else.
    signal(runtime, id, "CONT").await;
    if !gone(runtime, id, grace).await {
        signal(runtime, id, "KILL").await;
        gone(runtime, id, KILL_WITHIN).await;
    }
    let ending = ending(runtime, of, id).await;
    // What it left running has had the same warning.
    forget(runtime, id).await;
    ending
}

/// Waits until neither a process nor anything that it started runs any more.
async fn gone(runtime: &Runtime, id: &str, within: Duration) -> bool {
    let until = Instant::now() + within;
    loop {
        match runtime.client.context_stats(id).await {
            Ok(stats) if stats.running_contexts > 0 || stats.process_count > 0 => {}
            Ok(_) => return true,
            // It is not known any more, or its sandbox has gone.
            Err(_) => return true,
        }
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(END_EVERY).await;
    }
}

async fn signal(runtime: &Runtime, id: &str, name: &str) {
    if let Err(error) = runtime.client.signal(id, &Signal { signal: name.to_owned() }).await {
        tracing::debug!(runtime = runtime.id, %error, "a process of an app was not sent {name}");
    }
}

async fn forget(runtime: &Runtime, id: &str) {
    if let Err(error) = runtime.client.delete_context(id).await {
        tracing::debug!(runtime = runtime.id, %error, "a former process of an app was not there any more");
    }
}

/// Whether a process passes the check of its entry, asked once.
pub(super) async fn passes(runtime: &Arc<Runtime>, entry: &Entry, within: Duration) -> bool {
    let within = within.min(ASK_WITHIN);
    let asked = match &entry.check {
        Check::Runs => {
            tokio::time::sleep(SETTLE).await;
            return true;
        }
        Check::Tcp(port) => Asked::Tcp(*port),
        Check::Http { port, path } => Asked::Http { port: *port, path: path.clone(), headers: Vec::new(), passing: 100..500 },
        Check::Command(command) => return tokio::time::timeout(within, exits_well(runtime, entry, command)).await.unwrap_or(false),
    };
    warm::passes(runtime, &asked, within, &BTreeMap::new()).await
}

async fn exits_well(runtime: &Runtime, entry: &Entry, command: &[String]) -> bool {
    let mut env_vars = entry.env.clone();
    // It is not the entry's own process.
    env_vars.remove(ENTRY_VAR);
    // Nobody waits for it any more by then.
    let ttl_s = ASK_WITHIN.as_secs() + 1;
    let create = CreateContext { wait_until_done: true, untold: true, ..context(command.to_vec(), entry.cwd.clone(), env_vars, ttl_s) };
    let Ok(context) = runtime.client.create_context(&create).await else { return false };
    forget(runtime, &context.id).await;
    context.output.exit_code == Some(0)
}

/// The ports of these on which somebody listens.
pub(super) async fn listening(runtime: &Arc<Runtime>, ports: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut open = Vec::new();
    for port in ports {
        if warm::passes(runtime, &Asked::Tcp(port), Duration::from_secs(1), &BTreeMap::new()).await {
            open.push(port);
        }
    }
    open
}

pub(super) fn is_of(context: &Context, name: &str) -> bool {
    context.kind == ContextType::Cmd && context.env_vars.get(ENTRY_VAR).is_some_and(|entry| entry == name)
}

fn tail(printed: &str) -> Vec<String> {
    supervise::tail(printed, limits::app_launch::LOG_TAIL_LINES_MAX, limits::app_launch::LOG_TAIL_LINE_MAX_CHARS)
}
