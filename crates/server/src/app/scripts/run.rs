//! One run of a script.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use sandbar_core::{
    limits,
    script::{
        AuthorKind, ScriptSpec,
        provider::{self, Provider},
    },
};
use sandbar_scripts::{Call, Failure, FailureCode, Host, Limits, Outcome, Recording, User, call::Clock};
use sandbar_store::{JobEnd, RunStatus, ScriptRun, ScriptVersion, StoreError};
use sha2::{Digest, Sha256};

use super::{
    Ask, Ran, Subject,
    dispatch::Dispatch,
    places::{Entered, Place},
    record::{self, RunDoc},
    redact::Kept,
    remote::{self, Remote},
};
use crate::app::{App, sandboxes::now_ms};

/// Bytes of runs after which old ones are looked for at once.
const PRUNE_AFTER_BYTES: usize = 64 << 20;

impl App {
    /// Runs a script for nobody who waits: it takes its turn, however long that is, unless it is cancelled.
    pub(crate) async fn run_script(self: &Arc<Self>, ask: Ask) -> Ran {
        let max = places_of(&ask.script.spec);
        let place = match self.scripts.places.enter(&ask.script.team_id, &ask.script.id, max, usize::MAX) {
            Ok(Entered::At(place)) => Some(place),
            Ok(Entered::Waiting(turn)) => tokio::select! {
                place = turn => place.ok(),
                () = ask.cancel.cancelled() => None,
            },
            Err(_) => None,
        };
        match place {
            Some(place) => self.run_placed(ask, place).await,
            None => {
                let now = now_ms();
                let failure =
                    Failure { code: FailureCode::Cancelled, name: "AbortError".to_owned(), message: "cancelled before it began".to_owned(), stack: None };
                let outcome = Outcome::failed(failure);
                let kept = Kept { outcome, output: None, recording: Recording::default() };
                let (run, outcome) = ended(&ask, kept, None, Duration::ZERO, now);
                Ran { run, outcome }
            }
        }
    }

    /// Runs a script that has its place.
    pub(crate) async fn run_placed(self: &Arc<Self>, ask: Ask, place: Place) -> Ran {
        let (began, began_ms) = (Instant::now(), now_ms());
        let _going = self.scripts.under_way.begin(&ask.run_id, ask.depth);
        let host = Arc::new(Dispatch::new(Arc::clone(self), Arc::clone(&ask.script), &ask.run_id, ask.depth, &ask.subject));
        let chosen = self.script_provider(&ask.version);
        let (outcome, recording) = match &chosen {
            Ok(Provider::RemoteHttp) => {
                let remote = Remote {
                    script: &ask.script,
                    version: ask.version.number,
                    subject: &ask.subject,
                    call: &call_of(&ask),
                    host: Arc::clone(&host) as Arc<dyn Host>,
                    request_origin: ask.origin.as_deref(),
                };
                remote::run(self, remote, &ask.cancel).await
            }
            Ok(provider) => self.scripts.engines.run(*provider, &ask.script.team_id, call_of(&ask), host.as_ref(), &ask.cancel).await,
            Err(cause) => (Outcome::failed(Failure::internal(cause.as_str())), Recording::default()),
        };
        let duration = began.elapsed();
        let provider = chosen.as_ref().map_or("none", |provider| provider.as_str());
        let kept = host.redactor().keep(outcome, recording, place).await;
        let (run, outcome) = ended(&ask, kept, chosen.ok(), duration, began_ms);
        self.metrics.script_ran(ask.trigger, run.error_code.as_deref(), duration);
        tracing::info!(
            action = "invoke",
            team = run.team_id,
            script = run.script_id,
            name = run.script_name,
            version = run.version,
            run = run.id,
            trigger = run.trigger.as_str(),
            provider,
            ok = run.status == RunStatus::Succeeded,
            code = run.error_code,
            duration_ms = duration.as_micros() as f64 / 1e3,
            "a script ran"
        );
        Ran { outcome, run }
    }

    /// Keeps what came of a run, and with it the end of its job.
    pub(crate) async fn finish_script(&self, run: ScriptRun, job: Option<(String, JobEnd)>) -> Result<(), StoreError> {
        let bytes = run.input.len() + [&run.output, &run.logs, &run.recording].into_iter().flatten().map(String::len).sum::<usize>();
        self.store.script_run_finish(run, job).await?;
        if self.scripts.stored_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > PRUNE_AFTER_BYTES {
            self.scripts.prune_soon.notify_one();
        }
        Ok(())
    }

    /// Who runs a version.
    pub(crate) fn script_provider(&self, version: &ScriptVersion) -> Result<Provider, String> {
        let config = &self.config.scripts;
        let trusted = version.author_kind == Some(AuthorKind::Operator);
        provider::choose(config.provider, config.exec_url.is_some(), trusted, config.trust_all_authors)
    }
}

/// Calls at once of a script.
pub(super) fn places_of(spec: &ScriptSpec) -> usize {
    spec.concurrency.unwrap_or(limits::SCRIPT_CONCURRENCY_DEFAULT) as usize
}

/// The call that an engine is asked for.
pub(super) fn call_of(ask: &Ask) -> Call {
    let (spec, version) = (&ask.script.spec, &ask.version);
    let (seed, clock) = if spec.deterministic {
        let seed = Sha256::new().chain_update(&version.hash).chain_update([0]).chain_update(ask.data.get()).finalize();
        // It stands still at the moment the code was written.
        (seed.into(), Some(Clock(vec![(version.created_at_ms, u32::MAX)])))
    } else {
        let mut seed = [0; 32];
        // What is random in a script is no secret of ours; without it the run is as good, and the machine has worse troubles.
        if getrandom::fill(&mut seed).is_err() {
            seed = Sha256::digest(&ask.run_id).into();
        }
        (seed, None)
    };
    Call {
        code: version.code.as_ref().unwrap_or(&version.source).clone(),
        name: ask.script.name.clone(),
        data: ask.data.clone(),
        user: user_of(&ask.subject),
        limits: limits_of(spec),
        seed,
        clock,
    }
}

fn user_of(subject: &Subject) -> User {
    User { id: subject.user_id.clone(), email: subject.email.clone(), roles: subject.roles.clone() }
}

fn limits_of(spec: &ScriptSpec) -> Limits {
    let wall = Duration::from_millis(spec.timeout_ms.unwrap_or(limits::SCRIPT_TIMEOUT_DEFAULT_MS).into());
    let memory = spec.memory_mb.unwrap_or(limits::SCRIPT_MEMORY_DEFAULT_MB);
    Limits::of(wall, spec.cpu_ms.map(|ms| Duration::from_millis(ms.into())), u64::from(memory) << 20)
}

/// The row of a run that has ended, and what is answered.
pub(super) fn ended(ask: &Ask, kept: Kept, provider: Option<Provider>, duration: Duration, began_ms: i64) -> (ScriptRun, Outcome) {
    let Kept { outcome, output, recording } = kept;
    let mut run = record::begun(ask, RunStatus::Running, began_ms);
    let mut doc = RunDoc::of(ask);
    doc.in_flight = recording.ops.iter().filter(|op| op.answer.is_none()).map(|op| op.op.as_str().to_owned()).collect();
    match &outcome.result {
        Ok(_) => run.status = RunStatus::Succeeded,
        Err(failure) => {
            run.status = RunStatus::Failed;
            run.error_code = Some(failure.code.as_str().to_owned());
            doc.error = Some(failure.clone());
        }
    }
    run.output = output;
    run.provider = provider.map(|provider| provider.as_str().to_owned());
    run.finished_at_ms = Some(began_ms + duration.as_millis() as i64);
    run.duration_us = Some(duration.as_micros() as i64);
    run.cpu_us = Some(outcome.usage.cpu_us as i64);
    run.peak_memory_bytes = Some(outcome.usage.peak_memory_bytes as i64);
    run.logs = (!outcome.logs.is_empty()).then(|| serde_json::to_string(&outcome.logs).unwrap_or_default());
    // Without even a seed there was no run.
    run.recording = (!recording.seed.is_empty() || recording.incomplete).then(|| serde_json::to_string(&recording).ok()).flatten();
    run.doc = doc.text();
    (run, outcome)
}
