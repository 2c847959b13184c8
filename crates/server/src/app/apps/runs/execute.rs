//! From a claimed run to its end.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{
    app::{
        AppState, Cleanup, Phase, RunStatus,
        launch::{Asked, SeenApp, SeenEntry},
        manifest::START,
        receipt::check_budget,
        redact::Redactor,
        run::{Ending, FailureReason, Known, Place, Verdict, verdict},
    },
    limits::app_runs as limits,
    sandbox::Observed,
};
use sandbar_node::{Runtime, error_text};
use sandbar_store::{AppRun, AppRunEnd, StoreError};
use tokio_util::sync::CancellationToken;

use super::{
    Live, RunDir,
    log::RunLog,
    usage::{self, Meter},
};
use crate::{
    app::{
        App, SharedApp,
        apps::{
            env::Given,
            manifest_of,
            supervise::{Keeping, NotReady, Supervised},
        },
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

/// Between two tries to keep what came of a run.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a sandbox is asked again that cannot be woken just now.
const WAKE_WITHIN: Duration = Duration::from_secs(60);
/// What is told of the output of an entrypoint that is not ready.
const TAIL_LINES: usize = 20;
const TAIL_LINE_CHARS: usize = 300;

/// Why a run does not go on.
pub(super) enum Halt {
    /// This came of it.
    Ends(Verdict),
    /// The server ends and the next one goes on, or the run's row is gone: nothing is written.
    Left,
}

pub(super) type Step<T> = Result<T, Halt>;

/// A run under way. It is the only one that writes the row.
pub(super) struct Runner {
    pub app: SharedApp,
    pub run: AppRun,
    pub live: Arc<Live>,
    pub stop: CancellationToken,
    pub dir: RunDir,
    /// A server before began with it.
    pub resumed: bool,
    /// What the app was given for the variables that it asks for.
    pub given: Given,
}

/// Brings a run to its end, from wherever it is; or to where the next server goes on when this one ends.
pub(crate) async fn execute(app: SharedApp, run: AppRun, resumed: bool, stop: CancellationToken) {
    let (live, dir) = (app.app_runs.live(&run.id), app.run_dir(&run.id));
    if run.cancel_requested_at_ms.is_some() {
        live.cancel.cancel();
    }
    let mut runner = Runner { app, run, live, stop, dir, resumed, given: Given::default() };
    let verdict = match runner.steps().await {
        Ok(verdict) | Err(Halt::Ends(verdict)) => verdict,
        Err(Halt::Left) => return,
    };
    runner.finish(verdict).await;
}

impl Runner {
    async fn steps(&mut self) -> Step<Verdict> {
        if let Some(why) = &self.run.doc.known.unreadable {
            return Ok(Verdict::unreadable(why));
        }
        let begun = match self.run.phase {
            Phase::Preparing | Phase::Starting if self.is_unpriced() => return Ok(Verdict::unpriced()),
            Phase::Preparing | Phase::Starting => {
                let sandbox_id = self.prepare().await?;
                if self.run.doc.requires_start || !self.run.doc.terms.needs.is_empty() {
                    self.step(Phase::Starting).await?;
                    self.start(&sandbox_id).await?;
                }
                self.begin_command(&sandbox_id).await?
            }
            Phase::Commanding => {
                self.keep_up_again().await;
                self.find_command().await?
            }
            Phase::Collecting => {
                self.keep_up_again().await;
                None
            }
        };
        if let Some((runtime, context_id)) = begun {
            self.run.doc.known.exit = self.follow(&runtime, &context_id).await?;
            self.run.doc.known.full = self.run.doc.known.commanded_at_ms.and_then(|since_ms| runtime.ended_for(since_ms));
        }
        // Collecting takes a while of its own.
        let is_late = self.left().is_some_and(|left| left.is_zero());
        if !self.run.doc.known.collected {
            self.step(Phase::Collecting).await?;
            self.collect().await;
            self.run.doc.known.collected = true;
        }
        let known = &self.run.doc.known;
        let verdict = verdict(known.exit.as_ref(), known.ending, self.run.doc.timeout_s).or_full(known.full.clone());
        Ok(match (verdict.status, self.run.doc.terms.max_duration_s) {
            (RunStatus::TimedOut, Some(max_s)) if is_late => Verdict::took_too_long(max_s),
            _ => verdict,
        })
    }

    /// What is left of the time that the run may take, if that is bounded.
    pub(super) fn left(&self) -> Option<Duration> {
        self.run.doc.terms.left(self.run.started_at_ms.unwrap_or(self.run.created_at_ms), now_ms())
    }

    /// Writes how far the run is.
    pub(super) async fn step(&mut self, phase: Phase) -> Step<()> {
        self.run.phase = phase;
        loop {
            match self.app.store.app_run_step(&self.run.id, phase, self.run.sandbox_id.as_deref(), &self.run.doc).await {
                Ok(()) => return Ok(()),
                Err(StoreError::NotFound { .. } | StoreError::Closed) => return Err(Halt::Left),
                Err(error) => tracing::error!(run = self.run.id, error = error_text(&error), "how far a run is was not recorded; it is tried again"),
            }
            self.unless_halted(async {
                tokio::time::sleep(AGAIN).await;
                Ok(())
            })
            .await?;
        }
    }

    /// Does something before the command runs, and gives it up when the run is not wanted any more or the server ends.
    pub(super) async fn unless_halted<T>(&self, work: impl Future<Output = Step<T>>) -> Step<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Halt::Left),
            () = self.live.cancel.cancelled() => Err(Halt::Ends(Verdict::cancelled())),
            max_s = self.too_long() => Err(Halt::Ends(Verdict::took_too_long(max_s))),
            () = self.too_dear() => Err(Halt::Ends(Verdict::over_budget())),
            done = work => done,
        }
    }

    /// Returns when the run takes longer than it may: how long that is. Never, where it is not bounded.
    async fn too_long(&self) -> u64 {
        match (self.left(), self.run.doc.terms.max_duration_s) {
            (Some(left), Some(max_s)) => {
                tokio::time::sleep(left).await;
                max_s
            }
            _ => std::future::pending().await,
        }
    }

    /// Returns when what goes on in the run's own sandbox before its command costs more than the run may. Never, where it may cost what it
    /// does; in the app's sandbox only the command is the run's.
    async fn too_dear(&self) {
        let (run, app) = (&self.run, &self.app);
        let meter = Meter::new(&app.receipts, &app.app_runs, run.doc.max_spend_micros, None).filter(|_| run.doc.place == Place::Fresh);
        let (Some(mut meter), Some(sandbox_id)) = (meter, &run.sandbox_id) else { return std::future::pending().await };
        loop {
            tokio::time::sleep(usage::LOOK_EVERY).await;
            if let Ok(runtime) = app.app_runtime_awake(sandbox_id).await
                && meter.is_over(&Known::default(), Place::Fresh, &runtime, "").await
            {
                return;
            }
        }
    }

    /// It may cost only so much, and what it costs cannot be told any more.
    pub(super) fn is_unpriced(&self) -> bool {
        self.run.doc.max_spend_micros.is_some_and(|max_micros| check_budget(self.app.receipts.prices().as_deref(), max_micros).is_err())
    }

    /// The sandbox in which it runs, awake.
    async fn prepare(&mut self) -> Step<String> {
        let made = self.unless_halted(self.sandbox()).await?;
        if self.run.sandbox_id.as_deref() != Some(made.as_str()) {
            self.run.sandbox_id = Some(made.clone());
            self.step(Phase::Preparing).await?;
        }
        Ok(made)
    }

    async fn sandbox(&self) -> Step<String> {
        let failed = |error: ApiError| Halt::Ends(Verdict::failed(FailureReason::SandboxFailed, error.message().to_owned()));
        let gone = |what: &str| Halt::Ends(Verdict::failed(FailureReason::VersionGone, format!("the {what} that it was to run is gone")));
        let internal = |error: StoreError| Halt::Ends(Verdict::failed(FailureReason::Internal, error.to_string()));
        let run = &self.run;
        let app = self.app.store.app_get(&run.app_id).await.map_err(internal)?.ok_or_else(|| gone("app"))?;
        let version = self.app.store.app_version(&run.app_id, run.version).await.map_err(internal)?.ok_or_else(|| gone("version"))?;
        match run.doc.place {
            Place::App => {
                let sandbox = self.app.app_sandbox_for(run, &self.live, &self.stop).await.map_err(failed)?;
                let of = self.app.store.app_sandbox_get(&sandbox.id).await.map_err(internal)?;
                match of {
                    Some(of) if of.version != run.version && !self.says_the_same(of.version).await.map_err(internal)? => {
                        let text = format!("version {} of the app is online by now, and it was to run in version {}", of.version, run.version);
                        Err(Halt::Ends(Verdict::failed(FailureReason::VersionGone, text)))
                    }
                    _ => Ok(sandbox.id),
                }
            }
            Place::Fresh => {
                // One that a server before made.
                for of in self.app.store.app_sandboxes_of(&run.app_id).await.map_err(internal)? {
                    if of.run_id.as_deref() != Some(run.id.as_str()) || of.removing {
                        continue;
                    }
                    if self.app.record_of(&of.sandbox_id).await.map_err(failed)?.is_some() {
                        return Ok(of.sandbox_id);
                    }
                    self.app.end_app_sandbox(&of.sandbox_id).await;
                }
                let made = self.app.make_run_sandbox(&app, &version, run).await.map_err(failed)?;
                Ok(made.id)
            }
        }
    }

    /// Whether another version has the same manifest and the same files.
    async fn says_the_same(&self, version: i64) -> Result<bool, StoreError> {
        let other = self.app.store.app_version(&self.run.app_id, version).await?;
        let doc = &self.run.doc;
        Ok(other.is_some_and(|other| (&other.manifest_sha256, &other.source_sha256) == (&doc.manifest_sha256, &doc.source_sha256)))
    }

    /// Starts what the command needs, the entrypoint last, and waits until it is ready; else the command is never run.
    async fn start(&self, sandbox_id: &str) -> Step<()> {
        let needs = self.run.doc.terms.needs.iter().map(String::as_str).chain(self.run.doc.requires_start.then_some(START));
        self.unless_halted(async {
            match self.entry(sandbox_id).await {
                Ok(supervised) => {
                    for name in needs {
                        let within = supervised.launch().entry(name).map_or(0, |entry| entry.ready_within_ms.max(0).unsigned_abs());
                        let ready = supervised.entry_ready(name, Duration::from_millis(within)).await;
                        ready.map_err(|not_ready| not_ready_verdict(&not_ready))?;
                    }
                    Ok(())
                }
                Err(error) => Err(Halt::Ends(Verdict::failed(FailureReason::StartNotReady, error.message().to_owned()))),
            }
        })
        .await
    }

    /// What is kept up in its sandbox, with what it needs on its way up.
    async fn entry(&self, sandbox_id: &str) -> Result<Supervised, ApiError> {
        let (needs, requires_start) = (&self.run.doc.terms.needs, self.run.doc.requires_start);
        let supervised = match (self.run.doc.place, self.app.supervised(sandbox_id)) {
            (_, Some(supervised)) => {
                for name in needs.iter().map(String::as_str).chain(requires_start.then_some(START)) {
                    supervised.start(name);
                }
                supervised
            }
            (Place::App, None) => return Err(ApiError::unavailable("the app went offline")),
            (Place::Fresh, None) => self.app.keep_up_run(&self.run, sandbox_id, Beside::Begin).await?,
        };
        Ok(supervised)
    }

    /// Goes on with what a former server kept up beside the command. The command goes on in any case.
    async fn keep_up_again(&self) {
        let Some(sandbox_id) = &self.run.sandbox_id else { return };
        if let Err(error) = self.app.keep_up_run_again(&self.run, sandbox_id, Beside::GoOn).await {
            tracing::warn!(run = self.run.id, %error, "what a run needs beside its command is not kept up any more");
        }
    }

    /// Learns what the app was given: for its command all that is required, for its log what there is.
    pub(super) async fn load_given(&mut self, needs_all: bool) -> Result<(), ApiError> {
        // Whatever becomes of the rest, these are hidden.
        let said = self.app.unseal_said(&self.run.app_id, &self.run.doc.sealed_env)?;
        self.given.said = said.clone();
        let failed = |e| store_failure("reading the app of a run", &e);
        let app = self.app.store.app_get(&self.run.app_id).await.map_err(failed)?.ok_or_else(|| ApiError::not_found("app", &self.run.app_name))?;
        let version = self.app.store.app_version(&app.id, self.run.version).await.map_err(failed)?;
        let manifest = manifest_of(&version.ok_or_else(|| ApiError::not_found("version", &self.run.version.to_string()))?)?;
        self.given = if needs_all { self.app.app_given_all(&app, &manifest).await? } else { self.app.app_given(&app, &manifest).await? };
        self.given.said = said;
        Ok(())
    }

    /// Ends the run with its receipt, however long it takes to write that.
    async fn finish(mut self, verdict: Verdict) {
        let id = self.run.id.clone();
        let verdict = self.withdrawn_or(verdict).await;
        self.rest().await;
        let verdict = verdict.or_untold(&self.run.doc.known);
        self.run.doc.known.message = verdict.message.clone();
        let (dir, live, last) = (self.dir.clone(), self.live.clone(), verdict.message.clone().filter(|_| verdict.reason != Some(FailureReason::ExitCode)));
        let logged = tokio::task::spawn_blocking(move || {
            let mut log = RunLog::open(&dir, live, Redactor::default())?;
            if let Some(text) = last {
                log.say(&format!("[sandbar: {text}]\n"))?;
            }
            Ok::<_, std::io::Error>((log.length(), log.is_cut()))
        });
        let (log_bytes, log_cut) = match logged.await {
            Ok(Ok(logged)) => logged,
            Ok(Err(error)) => {
                tracing::warn!(run = id, %error, "the end of a run's log was not written");
                (std::fs::metadata(self.dir.log()).map_or(0, |file| file.len()), false)
            }
            Err(_) => (0, false),
        };
        self.run.doc.known.log_cut = log_cut;
        let cleanup = match self.run.doc.place {
            Place::App => None,
            Place::Fresh => Some(Cleanup::Pending),
        };
        let end = AppRunEnd {
            id: id.clone(),
            from: RunStatus::Running,
            status: verdict.status,
            failure_reason: verdict.reason,
            cleanup,
            finished_at_ms: now_ms().max(self.run.started_at_ms.unwrap_or_default()),
            log_bytes,
            artifact_bytes: self.run.doc.known.artifacts.iter().filter(|artifact| artifact.sha256.is_some()).map(|artifact| artifact.size_bytes).sum(),
            doc: self.run.doc.clone(),
        };
        loop {
            match self.app.store.app_run_finish(end.clone(), self.app.receipts.signer()).await {
                Ok(_) | Err(StoreError::Closed) => break,
                Err(error) => tracing::error!(run = id, error = error_text(&error), "the end of a run was not recorded; it is tried again"),
            }
            tokio::select! {
                // The next server ends it.
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
        if !self.run.doc.files.is_empty() {
            self.app.drop_run_files(&id).await;
        }
        self.app.app_runs.ended(&id);
        self.app.rest_app_behind(&self.run);
    }

    /// Of a run that was cancelled because something else ended, that.
    async fn withdrawn_or(&self, verdict: Verdict) -> Verdict {
        if verdict.reason != Some(FailureReason::Cancelled) {
            return verdict;
        }
        match self.app.store.app_run_withdrawn(&self.run.id).await {
            Ok(Some(why)) => Verdict::withdrawn(why),
            Ok(None) => verdict,
            Err(error) => {
                tracing::warn!(run = self.run.id, error = error_text(&error), "why a run was cancelled is not known");
                verdict
            }
        }
    }

    /// Puts the app's sandbox down when it was woken for runs and this is the last one; first it is written that all was fetched.
    async fn rest(&mut self) {
        if self.run.doc.place != Place::App || self.run.phase != Phase::Collecting {
            return;
        }
        let Some(rest) = self.app.app_to_rest_after(&self.run).await else { return };
        if self.step(Phase::Collecting).await.is_ok()
            && let Err(error) = self.app.put_to_rest(rest).await
        {
            tracing::warn!(run = self.run.id, %error, "the sandbox that was woken for a run was not put down; it is tried again");
        }
    }

    /// Ends the command that is under way for a reason, which is written first.
    pub(super) async fn note_ending(&mut self, ending: Ending) -> Step<()> {
        self.run.doc.known.ending = Some(ending);
        self.step(Phase::Commanding).await
    }
}

/// What is to become of the processes that a run needs in its own sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    /// They are started.
    Begin,
    /// A former server started them.
    GoOn,
    /// A former server started them, and they are to be ended.
    Find,
}

impl App {
    /// Keeps up what a run needs in the sandbox that was made for it.
    async fn keep_up_run(self: &SharedApp, run: &AppRun, sandbox_id: &str, how: Beside) -> Result<Supervised, ApiError> {
        let failed = |e| store_failure("reading the app of a run", &e);
        let app = self.store.app_get(&run.app_id).await.map_err(failed)?.ok_or_else(|| ApiError::not_found("app", &run.app_name))?;
        let version = self.store.app_version(&app.id, run.version).await.map_err(failed)?;
        let version = version.ok_or_else(|| ApiError::not_found("version", &run.version.to_string()))?;
        let (launch, redactor) = self.app_launch(&app, &version, how == Beside::Begin).await?;
        let mut wanted = if run.doc.requires_start { launch.wanted(&Asked::default()) } else { Vec::new() };
        wanted.extend(run.doc.terms.needs.iter().filter(|name| !wanted.contains(name)).cloned().collect::<Vec<_>>());
        // What the run is itself is not started a second time.
        wanted.retain(|name| *name != run.action);
        let mut keeping = Keeping { redactor, ..Keeping::default() };
        if how == Beside::GoOn {
            let seen = |name| (name, SeenEntry { state: AppState::Starting, ..SeenEntry::default() });
            keeping.seen = SeenApp { sandbox_id: sandbox_id.to_owned(), entries: wanted.drain(..).map(seen).collect() };
        }
        if how == Beside::Find {
            wanted.clear();
        }
        Ok(self.supervise(sandbox_id, &launch, &wanted, keeping))
    }

    /// The same after a former server did, unless it is done already.
    pub(super) async fn keep_up_run_again(self: &SharedApp, run: &AppRun, sandbox_id: &str, how: Beside) -> Result<(), ApiError> {
        let has_some = run.doc.requires_start || !run.doc.terms.needs.is_empty();
        if run.doc.place == Place::Fresh && has_some && self.supervised(sandbox_id).is_none() {
            self.keep_up_run(run, sandbox_id, how).await?;
        }
        Ok(())
    }

    /// The runtime of a sandbox of an app that is awake; else why there is none. Does not wake it.
    pub(super) async fn app_runtime_awake(&self, sandbox_id: &str) -> Result<Arc<Runtime>, &'static str> {
        match self.look(sandbox_id).await {
            Ok(Some((_, Some(runtime)))) => Ok(runtime),
            Ok(Some((record, None))) if record.observed == Observed::Frozen => Err("its sandbox was paused just then"),
            Ok(Some((_, None))) => Err("its sandbox does not run any more"),
            Ok(None) => Err("its sandbox is gone"),
            Err(error) => {
                tracing::warn!(sandbox = sandbox_id, %error, "the sandbox of a run was not found");
                Err("its sandbox was not found")
            }
        }
    }

    /// The runtime of a sandbox of an app, to do something inside: woken when it sleeps. None: the sandbox is gone.
    pub(super) async fn app_runtime(&self, sandbox_id: &str) -> Result<Option<Arc<Runtime>>, ApiError> {
        let until = Instant::now() + WAKE_WITHIN;
        loop {
            let Some((record, runtime)) = self.look(sandbox_id).await? else { return Ok(None) };
            if let Some(runtime) = runtime {
                return Ok(Some(runtime));
            }
            match self.wake(&record).await {
                Ok((_, runtime)) => return Ok(Some(runtime)),
                Err(error) if error.status() == 503 && Instant::now() < until => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(error) if error.status() == 404 => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

fn not_ready_verdict(not_ready: &NotReady) -> Halt {
    let mut text = not_ready.text.clone();
    let lines = &not_ready.log_tail;
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        text.push('\n');
        text.extend(line.chars().take(TAIL_LINE_CHARS));
    }
    Halt::Ends(Verdict::failed(FailureReason::StartNotReady, text))
}

/// Whether there is room on the disk for so many bytes besides what is never taken.
pub(super) fn has_room(data_dir: &Path, bytes: u64) -> bool {
    sandbar_node::room::free_bytes(data_dir).is_ok_and(|free| free.saturating_sub(bytes) >= sandbar_node::room::FLOOR_BYTES)
}

/// Seconds after which the agent ends a command by itself.
pub(super) fn ttl_s(timeout_s: u64) -> u64 {
    timeout_s.saturating_add(limits::RUN_TTL_MARGIN_S)
}
