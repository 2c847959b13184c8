//! The command of a run: started once, found again, followed, ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::FutureExt;
use sandbar_core::{
    app::{
        Phase,
        run::{CommandUse, Counters, Ending, Exit, FailureReason, Place, Verdict},
        shell::{self, APP_VAR, INPUT_BASE64_VAR, INPUT_VAR, REPLAY_VAR, RUN_VAR, VERSION_VAR},
    },
    limits::app_runs as limits,
    sandbox::Observed,
};
use sandbar_node::{
    Runtime,
    client::{Attached, AttachedFrame, ProcdError},
};
use sandbar_procd_api::{Context, CreateContext, ErrorCode, Kept, Stream};

use super::{
    execute::{Halt, Runner, Step, ttl_s},
    log::RunLog,
    usage::{self, Meter},
};
use crate::app::{apps::shell::context, sandboxes::now_ms};

/// Where the input of a run lies in the sandbox.
const INPUT_FOLDER: &str = "/run/sandbar/runs";
/// Output that is written in one piece.
const BATCH_BYTES: usize = 256 << 10;
/// How long the agent may take to end a command that it was asked to end, and how long is waited until it is asked again.
const END_WITHIN: Duration = Duration::from_secs(20);
/// How long the end of a command that is gone is still listened for.
const LISTEN_AFTER: Duration = Duration::from_secs(3);
/// Between two tries to reach an agent.
const AGAIN: Duration = Duration::from_millis(250);
/// How often a sandbox is looked at that sleeps with a command in it.
const ASLEEP: Duration = Duration::from_millis(500);
/// How long an agent is tried that does not answer and has not ended.
const REACH_WITHIN: Duration = Duration::from_secs(60);

pub(super) type Begun = Option<(Arc<Runtime>, String)>;

/// What is seen while a command is followed.
enum Seen {
    /// It printed, and perhaps ended.
    Told(Vec<(Stream, String)>, Option<Told>),
    /// The agent told no more; it is attached to anew.
    Broke,
    /// The sandbox ended.
    Lost,
    Due(Ending),
    /// What it has cost so far is to be looked at.
    Look,
    /// The agent was asked to end it, and has.
    Ended,
    ServerStops,
}

/// How a command ended and what it used.
struct Told {
    exit: Exit,
    used: Option<CommandUse>,
}

impl Runner {
    /// Starts the command, unless it was started. What is about to be is written first, so whoever goes on knows where to look.
    pub(super) async fn begin_command(&mut self, sandbox_id: &str) -> Step<Begun> {
        self.load_given(true).await.map_err(|e| Halt::Ends(Verdict::failed(FailureReason::CommandFailed, e.message().to_owned())))?;
        let runtime = self.unless_halted(self.lay_out(sandbox_id)).await?;
        let known = &mut self.run.doc.known;
        known.told_to_begin = true;
        known.runtime_id = Some(runtime.id.clone());
        known.before = Some(match self.run.doc.place {
            Place::App => {
                runtime.egress().flows().begin_anew();
                usage::counters(&runtime)
            }
            Place::Fresh => Counters::default(),
        });
        known.before_by = Some(self.app.app_runs.server_id().to_owned());
        if self.live.cancel.is_cancelled() {
            return Err(Halt::Ends(Verdict::cancelled()));
        }
        if let Err(halt) = self.step(Phase::Commanding).await {
            self.run.doc.known.told_to_begin = false;
            return Err(halt);
        }
        if !self.run.doc.sealed_env.is_empty() {
            self.app.app_env_changed();
        }
        self.start_command(runtime).await
    }

    /// The sandbox, awake, with the input of the run and its files in it. One that is paused meanwhile is woken again: nothing has begun.
    async fn lay_out(&self, sandbox_id: &str) -> Step<Arc<Runtime>> {
        let failed = |text: String| Halt::Ends(Verdict::failed(FailureReason::SandboxFailed, text));
        loop {
            let runtime = self.app.app_runtime(sandbox_id).await.map_err(|e| failed(e.message().to_owned()))?;
            let runtime = runtime.ok_or_else(|| failed("its sandbox is gone".to_owned()))?;
            let laid_out = async {
                self.write_input(&runtime).await.map_err(|e| failed(format!("its input could not be written into the sandbox: {}", told(&e))))?;
                self.write_files(&runtime).await
            };
            let laid_out = tokio::select! {
                laid_out = laid_out => Some(laid_out),
                () = runtime.frozen() => None,
            };
            match laid_out {
                Some(laid_out) => return laid_out.map(|()| runtime),
                None => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    async fn start_command(&mut self, runtime: Arc<Runtime>) -> Step<Begun> {
        let create = self.context();
        let created = match self.answered(runtime.client.create_context(&create)).await? {
            Ok(created) => created,
            Err(error @ ProcdError::Api { .. }) => {
                self.run.doc.known.told_to_begin = false;
                return Err(Halt::Ends(Verdict::failed(FailureReason::CommandFailed, told(&error))));
            }
            // It may have been started all the same.
            Err(_) => match self.find_in(&runtime).await? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        self.begun(&created).await?;
        Ok(Some((runtime, created.id)))
    }

    async fn begun(&mut self, context: &Context) -> Step<()> {
        if self.run.doc.known.context_id.as_deref() != Some(context.id.as_str()) {
            self.run.doc.known.context_id = Some(context.id.clone());
            self.run.doc.known.commanded_at_ms = Some(i64::try_from(context.created_ms).unwrap_or_else(|_| now_ms()));
            self.step(Phase::Commanding).await?;
        }
        Ok(())
    }

    /// The command that a server before started or was about to start. None: it is gone, with how it ended.
    pub(super) async fn find_command(&mut self) -> Step<Begun> {
        let Some(sandbox_id) = self.run.sandbox_id.clone() else { return Ok(None) };
        if let Err(error) = self.load_given(false).await {
            tracing::warn!(run = self.run.id, %error, "what an app was given is not known, and stays in what its run prints");
        }
        let Some(runtime) = self.runtime_of_before(&sandbox_id).await? else { return Ok(None) };
        match self.find_in(&runtime).await? {
            Some(context) => {
                self.begun(&context).await?;
                Ok(Some((runtime, context.id)))
            }
            // It was noted before it was started, and in this runtime it never was.
            None if self.run.doc.known.context_id.is_none() && self.run.doc.known.ending.is_none() => {
                if self.live.cancel.is_cancelled() {
                    self.run.doc.known.told_to_begin = false;
                    return Err(Halt::Ends(Verdict::cancelled()));
                }
                self.start_command(runtime).await
            }
            None => Ok(None),
        }
    }

    /// The runtime in which the command was or was to be started. One that sleeps is waited for, until the run is to end; then it is woken.
    /// None: the sandbox has another one by now, which has no process of before, or none.
    async fn runtime_of_before(&self, sandbox_id: &str) -> Step<Option<Arc<Runtime>>> {
        let known = &self.run.doc.known;
        let begun_ms = known.commanded_at_ms.unwrap_or_else(now_ms);
        let due = tokio::time::sleep(time_left(begun_ms, self.run.doc.timeout_s, now_ms()));
        tokio::pin!(due);
        loop {
            let is_due = known.ending.is_some() || self.live.cancel.is_cancelled() || due.is_elapsed();
            match self.app.look(sandbox_id).await {
                Ok(None) => return Ok(None),
                Ok(Some((record, _))) if record.runtime_id != known.runtime_id => return Ok(None),
                Ok(Some((_, Some(runtime)))) => return Ok(Some(runtime)),
                Ok(Some((record, None))) if record.observed != Observed::Frozen => return Ok(None),
                Ok(Some((_, None))) if is_due => {
                    let woken = self.app.app_runtime(sandbox_id).await.ok().flatten();
                    return Ok(woken.filter(|runtime| Some(&runtime.id) == known.runtime_id.as_ref()));
                }
                Ok(Some((_, None))) => {}
                Err(error) => tracing::warn!(sandbox = sandbox_id, %error, "the sandbox of a run cannot be looked at; it is tried again"),
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(Halt::Left),
                () = self.live.cancel.cancelled(), if !self.live.cancel.is_cancelled() => {}
                () = &mut due, if !due.is_elapsed() => {}
                () = tokio::time::sleep(ASLEEP) => {}
            }
        }
    }

    /// An answer of the agent, which does not come while the sandbox is paused: then it is woken when the run is to end. It is never asked
    /// twice instead, since it may do what it was asked for when it goes on.
    async fn answered<T>(&self, call: impl Future<Output = T>) -> Step<T> {
        tokio::pin!(call);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Halt::Left),
            answer = &mut call => return Ok(answer),
            _ = self.due() => {}
        }
        let woken = async {
            if let Some(sandbox_id) = &self.run.sandbox_id
                && let Err(error) = self.app.app_runtime(sandbox_id).await
            {
                tracing::warn!(run = self.run.id, %error, "the sandbox of a run that is to end cannot be woken");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Halt::Left),
            answer = call => Ok(answer),
            () = woken => Err(Halt::Left),
            () = tokio::time::sleep(REACH_WITHIN) => {
                Err(Halt::Ends(Verdict::failed(FailureReason::SandboxLost, "it was to end, and its sandbox does not answer")))
            }
        }
    }

    /// Returns when the command is to be ended, and for what.
    async fn due(&self) -> Ending {
        if let Some(ending) = self.run.doc.known.ending {
            return ending;
        }
        let left = time_left(self.run.doc.known.commanded_at_ms.unwrap_or_else(now_ms), self.run.doc.timeout_s, now_ms());
        tokio::select! {
            biased;
            () = self.live.cancel.cancelled() => Ending::Cancelled,
            () = tokio::time::sleep(self.left().map_or(left, |all| left.min(all))) => Ending::Timeout,
        }
    }

    /// The context of this run, running or ended; none when the agent knows none, or has ended. Anybody may give a command of his own a
    /// variable with the run's id.
    async fn find_in(&self, runtime: &Runtime) -> Step<Option<Context>> {
        let until = Instant::now() + REACH_WITHIN;
        let command = Some(shell::argv_alone(&self.run.doc.command));
        let is_ours = |context: &Context| match &self.run.doc.known.context_id {
            Some(id) => context.id == *id,
            None => context.env_vars.get(RUN_VAR) == Some(&self.run.id) && context.command == command,
        };
        loop {
            let listed = tokio::select! {
                () = runtime.ended() => return Ok(None),
                listed = self.answered(runtime.client.list_contexts()) => listed?,
            };
            match listed {
                Ok(contexts) => return Ok(contexts.into_iter().filter(is_ours).min_by_key(|context| context.created_ms)),
                Err(error) if Instant::now() > until => {
                    return Err(Halt::Ends(Verdict::failed(FailureReason::SandboxLost, format!("its sandbox does not answer: {}", told(&error)))));
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    fn context(&self) -> CreateContext {
        let run = &self.run;
        let wrapped = format!("{{\"input\":{}}}", run.input);
        let mut own = vec![(APP_VAR, run.app_name.clone()), (VERSION_VAR, run.version.to_string()), (RUN_VAR, run.id.clone()), (INPUT_VAR, self.input_path())];
        if run.input.len() <= limits::RUN_INPUT_ENV_MAX_BYTES {
            own.push((INPUT_BASE64_VAR, BASE64_STANDARD.encode(&run.input)));
            own.push((REPLAY_VAR, BASE64_STANDARD.encode(wrapped)));
        }
        let mut said = run.doc.env.clone();
        said.extend(self.given.said.clone());
        let env = shell::whole(&self.given.env, &said, own);
        // A sandbox of its own ends with all that is in it, and is counted as a whole.
        let kept = (run.doc.place == Place::App).then_some(Kept::UntilEnd);
        let context = context(shell::argv_alone(&run.doc.command), shell::folder(run.doc.cwd.as_deref()), env, ttl_s(run.doc.timeout_s));
        CreateContext { kept, followed: true, ..context }
    }

    fn input_folder(&self) -> String {
        format!("{INPUT_FOLDER}/{}", self.run.id)
    }

    fn input_path(&self) -> String {
        format!("{}/input.json", self.input_folder())
    }

    async fn write_input(&self, runtime: &Runtime) -> Result<(), ProcdError> {
        runtime.client.mkdir(&self.input_folder(), true).await?;
        let bytes = self.run.input.clone().into_bytes();
        let length = bytes.len() as u64;
        runtime.client.write_file(&self.input_path(), Some("0600"), Some(length), Body::from(bytes)).await.map(drop)
    }

    /// Takes the input away again, where the sandbox goes on, and has the agent forget the command, which has ended and of which all is
    /// written down: lists of it would grow with each run. What stays is a nuisance, and no more.
    pub(super) async fn forget_command(&self, runtime: &Runtime) {
        if self.run.doc.place != Place::App {
            return;
        }
        let _ = tokio::time::timeout(END_WITHIN, runtime.client.remove(&self.input_folder())).await;
        if let Some(context_id) = &self.run.doc.known.context_id {
            let _ = tokio::time::timeout(END_WITHIN, runtime.client.delete_context(context_id)).await;
        }
    }

    /// Follows the command to its end, writes down what it prints, and ends it when its time is up or it is not wanted any more.
    /// None: how it ended is not known.
    pub(super) async fn follow(&mut self, runtime: &Arc<Runtime>, context_id: &str) -> Step<Option<Exit>> {
        let Some(mut log) = self.open_log(runtime, context_id).await? else { return Ok(None) };
        let mut attached: Option<Attached> = None;
        let begun_ms = self.run.doc.known.commanded_at_ms.unwrap_or_else(now_ms);
        let left = time_left(begun_ms, self.run.doc.timeout_s, now_ms());
        let deadline = tokio::time::Instant::now() + self.left().map_or(left, |all| left.min(all));
        let app = self.app.clone();
        let sandbox_id = self.run.sandbox_id.clone().unwrap_or_default();
        let ran_ms = self.run.doc.timeout_s.saturating_mul(1000).saturating_sub(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let mut meter = Meter::new(&self.app.receipts, &self.app.app_runs, self.run.doc.max_spend_micros, Some(ran_ms));
        let mut look = tokio::time::interval(usage::LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if self.is_unpriced() && self.run.doc.known.ending.is_none() {
            self.note_ending(Ending::Unpriced).await?;
        }
        let mut ending = None;
        if self.run.doc.known.ending.is_some() {
            ending = Some(Box::pin(end_command(app.clone(), sandbox_id.clone(), Arc::clone(runtime), context_id.to_owned())));
        }
        let mut unreachable_since: Option<Instant> = None;
        loop {
            if attached.is_none() {
                match self.attach(runtime, context_id, &mut unreachable_since).await? {
                    Reached::Attached(fresh) => attached = Some(*fresh),
                    Reached::Unknown => return Ok(None),
                    Reached::NotYet => continue,
                }
                log.told_anew();
            }
            let Some(reader) = attached.as_mut() else { continue };
            let is_ending = ending.is_some() || self.run.doc.known.ending.is_some();
            let seen = tokio::select! {
                biased;
                () = self.stop.cancelled() => Seen::ServerStops,
                () = async { match ending.as_mut() { Some(end) => end.await, None => std::future::pending().await } } => Seen::Ended,
                // Before what it prints, of which there may be no end.
                () = self.live.cancel.cancelled(), if !is_ending => Seen::Due(Ending::Cancelled),
                () = tokio::time::sleep_until(deadline), if !is_ending => Seen::Due(Ending::Timeout),
                _ = look.tick(), if meter.is_some() && !is_ending => Seen::Look,
                seen = next(reader) => seen,
                () = runtime.ended() => Seen::Lost,
            };
            match seen {
                Seen::Told(pieces, told) => {
                    log = self.write(log, pieces, told.is_some()).await?;
                    if let Some(told) = told {
                        return Ok(Some(self.exited(told)));
                    }
                }
                Seen::Broke => attached = None,
                Seen::Look => {
                    if let Some(meter) = &mut meter
                        && meter.is_over(&self.run.doc.known, self.run.doc.place, runtime, context_id).await
                    {
                        self.note_ending(Ending::Budget).await?;
                        ending = Some(Box::pin(end_command(app.clone(), sandbox_id.clone(), Arc::clone(runtime), context_id.to_owned())));
                    }
                }
                Seen::Due(why) => {
                    self.note_ending(why).await?;
                    ending = Some(Box::pin(end_command(app.clone(), sandbox_id.clone(), Arc::clone(runtime), context_id.to_owned())));
                }
                Seen::Ended => {
                    let exit = tokio::time::timeout(LISTEN_AFTER, self.last_words(log, reader)).await;
                    return exit.unwrap_or(Ok(None));
                }
                Seen::Lost => {
                    let exit = tokio::time::timeout(LISTEN_AFTER, self.last_words(log, reader)).await;
                    return exit.unwrap_or(Ok(None));
                }
                Seen::ServerStops => return Err(Halt::Left),
            }
        }
    }

    /// Without a log nobody would see what happens: it is tried until there is one. The agent keeps what is printed meanwhile, and ends
    /// the command when its time is up. None: it was to end before there was one, and has.
    async fn open_log(&mut self, runtime: &Arc<Runtime>, context_id: &str) -> Step<Option<RunLog>> {
        loop {
            let (dir, live, redactor) = (self.dir.clone(), self.live.clone(), self.given.redactor());
            match blocking(move || RunLog::open(&dir, live, redactor)).await {
                Ok(log) => return Ok(Some(log)),
                Err(error) => tracing::error!(run = self.run.id, %error, "the log of a run cannot be opened; it is tried again"),
            }
            let due = tokio::select! {
                () = self.stop.cancelled() => return Err(Halt::Left),
                due = self.due() => due,
                () = tokio::time::sleep(Duration::from_secs(1)) => continue,
            };
            self.note_ending(due).await?;
            let sandbox_id = self.run.sandbox_id.clone().unwrap_or_default();
            tokio::select! {
                () = self.stop.cancelled() => return Err(Halt::Left),
                () = end_command(self.app.clone(), sandbox_id, Arc::clone(runtime), context_id.to_owned()) => return Ok(None),
            }
        }
    }

    async fn attach(&self, runtime: &Runtime, context_id: &str, since: &mut Option<Instant>) -> Step<Reached> {
        let attach = tokio::select! {
            () = runtime.ended() => return Ok(Reached::Unknown),
            attach = self.answered(runtime.client.attach(context_id)) => attach?,
        };
        match attach {
            Ok(attached) => {
                *since = None;
                Ok(Reached::Attached(Box::new(attached)))
            }
            Err(error) if error.is_code(ErrorCode::ContextNotFound) => Ok(Reached::Unknown),
            Err(error) => {
                if since.get_or_insert_with(Instant::now).elapsed() > REACH_WITHIN {
                    return Err(Halt::Ends(Verdict::failed(FailureReason::SandboxLost, format!("its sandbox does not answer: {}", told(&error)))));
                }
                tokio::time::sleep(AGAIN).await;
                Ok(Reached::NotYet)
            }
        }
    }

    /// What a command that has ended still printed, and how it ended.
    async fn last_words(&mut self, mut log: RunLog, reader: &mut Attached) -> Step<Option<Exit>> {
        loop {
            match next(reader).await {
                Seen::Told(pieces, told) => {
                    log = self.write(log, pieces, told.is_some()).await?;
                    if let Some(told) = told {
                        return Ok(Some(self.exited(told)));
                    }
                }
                _ => return Ok(None),
            }
        }
    }

    /// Notes what the agent told of the end.
    fn exited(&mut self, told: Told) -> Exit {
        let known = &mut self.run.doc.known;
        known.exited_at_ms = Some(now_ms());
        known.used = told.used;
        told.exit
    }

    /// Off this thread, since a disk may be slow. What cannot be written is lost, and the run goes on.
    async fn write(&self, log: RunLog, pieces: Vec<(Stream, String)>, is_end: bool) -> Step<RunLog> {
        if pieces.is_empty() && !is_end {
            return Ok(log);
        }
        let (log, written) = blocking(move || {
            let mut log = log;
            let written = log.add(&pieces).and_then(|()| if is_end { log.end() } else { Ok(()) });
            Ok((log, written))
        })
        .await
        .map_err(|_| Halt::Left)?;
        if let Err(error) = written {
            tracing::warn!(run = self.run.id, %error, "a part of a run's log was not written");
        }
        Ok(log)
    }
}

enum Reached {
    Attached(Box<Attached>),
    /// There is no such command any more.
    Unknown,
    NotYet,
}

/// What the agent tells next, with all that is there at once.
async fn next(reader: &mut Attached) -> Seen {
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    let mut frame = Some(reader.next().await);
    while let Some(told) = frame {
        match told {
            Ok(Some(AttachedFrame::Output { stream, data })) => {
                bytes += data.len();
                pieces.push((stream, data));
            }
            Ok(Some(AttachedFrame::Lost(lost))) => pieces.push((lost.stream, lost.line())),
            Ok(Some(AttachedFrame::Ready(_))) => {}
            Ok(Some(AttachedFrame::Done(done))) => {
                let used = done.used.map(|used| CommandUse {
                    duration_ms: used.duration_ms,
                    cpu_us: used.cpu_us,
                    peak_memory_bytes: used.memory_peak_bytes,
                    written_bytes: used.written_bytes,
                });
                return Seen::Told(pieces, Some(Told { exit: Exit::told(done.exit_code, done.reason.as_deref()), used }));
            }
            Ok(None) | Err(_) if pieces.is_empty() => return Seen::Broke,
            // It is found again.
            Ok(None) | Err(_) => break,
        }
        frame = if bytes < BATCH_BYTES { reader.next().now_or_never() } else { None };
    }
    Seen::Told(pieces, None)
}

/// Has the agent end a command and all that it started: SIGTERM, some seconds later SIGKILL. Asks until it is done or its processes are gone;
/// a sandbox that is paused is woken for it.
async fn end_command(app: crate::app::SharedApp, sandbox_id: String, runtime: Arc<Runtime>, context_id: String) {
    loop {
        match app.look(&sandbox_id).await {
            Ok(None) => return,
            Ok(Some((record, _))) if record.runtime_id.as_ref() != Some(&runtime.id) || runtime.has_ended() => return,
            Ok(Some((_, Some(runtime)))) => match tokio::time::timeout(END_WITHIN, runtime.client.delete_context(&context_id)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) if error.is_code(ErrorCode::ContextNotFound) => return,
                Ok(Err(error)) => tracing::warn!(sandbox = sandbox_id, %error, "a command that is to end was not ended; it is tried again"),
                Err(_) => tracing::warn!(sandbox = sandbox_id, "a command that is to end does not end; it is tried again"),
            },
            Ok(Some((_, None))) => match app.app_runtime(&sandbox_id).await {
                Ok(_) => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Err(error) => tracing::warn!(sandbox = sandbox_id, %error, "the sandbox of a command that is to end cannot be woken; it is tried again"),
            },
            Err(error) => tracing::warn!(sandbox = sandbox_id, %error, "the sandbox of a command that is to end cannot be looked at; it is tried again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What is left of the time that a command has. A clock that was set does not make it longer.
fn time_left(begun_ms: i64, timeout_s: u64, now_ms: i64) -> Duration {
    let all = Duration::from_secs(timeout_s);
    let left_ms = i64::try_from(all.as_millis()).unwrap_or(i64::MAX).saturating_sub(now_ms.saturating_sub(begun_ms));
    Duration::from_millis(left_ms.max(0).unsigned_abs()).min(all)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// What the agent said, without what it is to us.
pub(super) fn told(error: &ProcdError) -> String {
    match error {
        ProcdError::Api { status: _, body } => body.message.clone(),
        ProcdError::Gone(_) | ProcdError::Protocol(_) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_gives_no_command_more_time() {
        for (begun_ms, now_ms, left_ms) in [(0, 0, 5_000), (0, 4_000, 1_000), (0, 5_000, 0), (0, i64::MAX, 0), (9_000, 0, 5_000), (i64::MAX, i64::MIN, 5_000)] {
            assert_eq!(time_left(begun_ms, 5, now_ms), Duration::from_millis(left_ms), "{begun_ms} {now_ms}");
        }
        assert_eq!(time_left(0, u64::MAX, 0), Duration::from_millis(i64::MAX.unsigned_abs()).min(Duration::from_secs(u64::MAX)));
    }
}
