//! From a claimed run to its end.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{
    app::{
        Cleanup, Phase, RunStatus, SandboxKind,
        launch::Asked,
        manifest::START,
        redact::Redactor,
        run::{Ending, FailureReason, Place, Verdict, verdict},
    },
    limits::app_runs as limits,
    sandbox::{Desired, SandboxRecord},
};
use sandbar_node::{Runtime, error_text};
use sandbar_store::{AppRun, AppRunEnd, StoreError};
use tokio_util::sync::CancellationToken;

use super::{Live, RunDir, log::RunLog};
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
        let begun = match self.run.phase {
            Phase::Preparing | Phase::Starting => {
                let sandbox_id = self.prepare().await?;
                if self.run.doc.requires_start {
                    self.step(Phase::Starting).await?;
                    self.start(&sandbox_id).await?;
                }
                self.begin_command(&sandbox_id).await?
            }
            Phase::Commanding => self.find_command().await?,
            Phase::Collecting => None,
        };
        if let Some((runtime, context_id)) = begun {
            self.run.doc.known.exit = self.follow(&runtime, &context_id).await?;
        }
        self.step(Phase::Collecting).await?;
        self.collect().await;
        Ok(verdict(self.run.doc.known.exit.as_ref(), self.run.doc.known.ending, self.run.doc.timeout_s))
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
    async fn unless_halted<T>(&self, work: impl Future<Output = Step<T>>) -> Step<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Halt::Left),
            () = self.live.cancel.cancelled() => Err(Halt::Ends(Verdict::cancelled())),
            done = work => done,
        }
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
                // What its start command serves is only there when it is asked for.
                let sandbox = match run.doc.requires_start {
                    true => self.app.ensure_app_online(&run.app_id).await.map_err(failed)?,
                    false => self.app.ensure_app_sandbox(&run.app_id).await.map_err(failed)?,
                };
                let of = self.app.store.app_sandbox_get(&sandbox.id).await.map_err(internal)?;
                match of {
                    Some(of) if of.version != run.version => {
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
                let made = self.app.make_app_sandbox(&app, &version, SandboxKind::Run, Some(&run.id)).await.map_err(failed)?;
                Ok(made.id)
            }
        }
    }

    /// Starts the entrypoint and waits until it is ready; else the command is never run.
    async fn start(&self, sandbox_id: &str) -> Step<()> {
        self.unless_halted(async {
            match self.entry(sandbox_id).await {
                Ok((supervised, within)) => supervised.ready(within).await.map_err(|not_ready| not_ready_verdict(&not_ready)),
                Err(error) => Err(Halt::Ends(Verdict::failed(FailureReason::StartNotReady, error.message().to_owned()))),
            }
        })
        .await
    }

    /// The entrypoint of its sandbox, on its way up, and how long that may take.
    async fn entry(&self, sandbox_id: &str) -> Result<(Supervised, Duration), ApiError> {
        let supervised = match (self.run.doc.place, self.app.supervised(sandbox_id)) {
            (_, Some(supervised)) => {
                supervised.start(START);
                supervised
            }
            (Place::App, None) => return Err(ApiError::unavailable("the app went offline")),
            (Place::Fresh, None) => {
                let failed = |e| store_failure("reading the app of a run", &e);
                let app = self.app.store.app_get(&self.run.app_id).await.map_err(failed)?.ok_or_else(|| ApiError::not_found("app", &self.run.app_name))?;
                let version = self.app.store.app_version(&app.id, self.run.version).await.map_err(failed)?;
                let version = version.ok_or_else(|| ApiError::not_found("version", &self.run.version.to_string()))?;
                let (launch, redactor) = self.app.app_launch(&app, &version, true).await?;
                self.app.supervise(sandbox_id, &launch, &launch.wanted(&Asked::default()), Keeping { redactor, ..Keeping::default() })
            }
        };
        let within = supervised.launch().entry(START).map_or(0, |start| start.ready_within_ms.max(0).unsigned_abs());
        Ok((supervised, Duration::from_millis(within)))
    }

    /// Learns what the app was given: for its command all that is required, for its log what there is.
    pub(super) async fn load_given(&mut self, needs_all: bool) -> Result<(), ApiError> {
        let failed = |e| store_failure("reading the app of a run", &e);
        let app = self.app.store.app_get(&self.run.app_id).await.map_err(failed)?.ok_or_else(|| ApiError::not_found("app", &self.run.app_name))?;
        let version = self.app.store.app_version(&app.id, self.run.version).await.map_err(failed)?;
        let manifest = manifest_of(&version.ok_or_else(|| ApiError::not_found("version", &self.run.version.to_string()))?)?;
        self.given = if needs_all { self.app.app_given_all(&app, &manifest).await? } else { self.app.app_given(&app, &manifest).await? };
        Ok(())
    }

    /// Ends the run with its receipt, however long it takes to write that.
    async fn finish(mut self, verdict: Verdict) {
        let id = self.run.id.clone();
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
    }

    /// Ends the command that is under way for a reason, which is written first.
    pub(super) async fn note_ending(&mut self, ending: Ending) -> Step<()> {
        self.run.doc.known.ending = Some(ending);
        self.step(Phase::Commanding).await
    }
}

impl App {
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

    /// The sandbox of a run as its row says.
    pub(super) async fn run_sandbox(&self, run: &AppRun) -> Result<Option<SandboxRecord>, ApiError> {
        match &run.sandbox_id {
            Some(id) => Ok(self.record_of(id).await?.filter(|record| record.desired != Desired::Deleted)),
            None => Ok(None),
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
