//! A run once more, with what it was told then: the same answers, clock and chance, under the same version or another.

use std::sync::Arc;

use sandbar_core::script::RunTrigger;
use sandbar_scripts::{Op, Outcome, Recording};
use sandbar_store::{RunStatus, ScriptRun};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Ask, engines,
    places::Entered,
    record::{self, RunDoc},
    redact::Redactor,
    run,
};
use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
};

/// What a replay came to.
pub(crate) struct ReplayedRun {
    pub run: ScriptRun,
    pub outcome: Outcome,
    /// In what it differs from the run that it is of, in sentences; none where it came to the same.
    pub differences: Vec<String>,
}

impl App {
    /// Runs a run again. Nothing goes out: what it asks for that it did not ask for then is refused.
    pub(crate) async fn replay_script(self: &Arc<Self>, who: &Principal, run_id: &str, version: Option<u32>) -> Result<ReplayedRun, ApiError> {
        let before = self.script_run(who, run_id).await?;
        match before.status {
            RunStatus::Succeeded | RunStatus::Failed => {}
            RunStatus::Queued | RunStatus::Running => return Err(ApiError::conflict("the run has not ended yet").retry_after(1)),
        }
        let recorded = record::recording(&before).ok_or_else(|| ApiError::conflict("of this run nothing was recorded, so it cannot be replayed"))?;
        if recorded.incomplete {
            return Err(ApiError::conflict("what this run was told was too much to be kept, so it cannot be replayed"));
        }
        let whole = self.script(who, &before.script_id).await?;
        let version = self.script_version(&whole, version.unwrap_or(before.version)).await?;
        let data = RawValue::from_string(before.input.clone()).map_err(|e| ApiError::internal("reading the run's input", &e))?;
        let doc = RunDoc::read(&before.doc);
        let cancel = CancellationToken::new();
        let ask = Ask {
            script: Arc::new(whole.script),
            version: Arc::new(version),
            run_id: Uuid::new_v4().to_string(),
            trigger: RunTrigger::Replay,
            data,
            subject: doc.subject.clone(),
            depth: doc.depth,
            attempt: 1,
            job_id: None,
            origin: None,
            cancel: cancel.clone(),
        };
        let place = self.script_place(&ask.script).await?;
        let _gone = cancel.drop_guard();
        let (began, began_ms) = (std::time::Instant::now(), now_ms());
        let redactor = self.given_then(&ask, &recorded).await?;
        let recording = redactor.restored_recording(recorded);
        let replayed = self.scripts.engines.replay(&ask.script.team_id, run::call_of(&ask), &recording, &ask.cancel).await;
        engines::begun(&replayed.0)?;
        drop(place);
        let (mut outcome, recording, mut differences) = replayed;
        redactor.outcome(&mut outcome);
        let mut kept =
            run::ended(&ask, &outcome, Some(sandbar_core::script::provider::Provider::QuickJs), began.elapsed(), began_ms, redactor.recording(recording));
        if let Ok(Some(value)) = &outcome.result {
            kept.output = Some(redactor.json(value.clone()).get().to_owned());
        }
        let mut kept_doc = RunDoc::read(&kept.doc);
        kept_doc.replay_of = Some(before.id.clone());
        kept.doc = kept_doc.text();
        for difference in &mut differences {
            *difference = redactor.text(difference).into_owned();
        }
        differences.extend(compare(&before, &kept));
        self.finish_script(kept.clone(), None).await.map_err(|e| store_failure("keeping the run", &e))?;
        tracing::info!(action = "replay", team = kept.team_id, script = kept.script_id, run = kept.id, of = before.id, by = who.user_id, "a run was replayed");
        Ok(ReplayedRun { run: kept, outcome, differences })
    }

    /// The secrets that a run was given, as they are now.
    async fn given_then(&self, ask: &Ask, recorded: &Recording) -> Result<Redactor, ApiError> {
        let mut given = Vec::new();
        for op in recorded.ops.iter().filter(|op| op.op == Op::SecretsGet) {
            let Some(name) = serde_json::from_str::<serde_json::Value>(op.args.get()).ok().and_then(|args| Some(args.get("name")?.as_str()?.to_owned())) else {
                continue;
            };
            if let Ok(Some(value)) = self.script_secret(&ask.script, &name).await {
                given.push((name, value));
            }
        }
        Ok(Redactor::new(given))
    }

    /// A place for a call that somebody waits for; 429 when it would be long.
    pub(super) async fn script_place(&self, script: &sandbar_store::ScriptRecord) -> Result<super::places::Place, ApiError> {
        use sandbar_core::limits;
        let busy = |max: usize| {
            let text = format!("{max} calls of this function are running, which is the most at once, and others wait already");
            ApiError::new(sandbar_api::ErrorCode::FunctionConcurrencyExceeded, text).retry_after(1)
        };
        let max = run::places_of(&script.spec);
        match self.scripts.places.enter(&script.team_id, &script.id, max, limits::SCRIPT_WAITING_MAX) {
            Ok(Entered::At(place)) => Ok(place),
            Ok(Entered::Waiting(turn)) => {
                let within = std::time::Duration::from_millis(limits::SCRIPT_WAITING_MAX_MS);
                let turn = tokio::time::timeout(within, turn).await;
                turn.ok().and_then(Result::ok).ok_or_else(|| {
                    let text = format!("no place among the {max} calls of this function came free within {} ms", limits::SCRIPT_WAITING_MAX_MS);
                    ApiError::new(sandbar_api::ErrorCode::FunctionConcurrencyExceeded, text).retry_after(1)
                })
            }
            Err(full) => Err(busy(full.max)),
        }
    }
}

/// In what the result of a run differs from another's.
fn compare(before: &ScriptRun, now: &ScriptRun) -> Vec<String> {
    let mut differences = Vec::new();
    if before.status != now.status {
        differences.push(format!("it {} then and {} now", before.status.as_str(), now.status.as_str()));
    }
    if before.error_code != now.error_code {
        let word = |code: &Option<String>| code.clone().unwrap_or_else(|| "none".to_owned());
        differences.push(format!("its error was {} then and is {} now", word(&before.error_code), word(&now.error_code)));
    }
    let read = |text: &Option<String>| text.as_deref().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    if read(&before.output) != read(&now.output) {
        differences.push("its value is another".to_owned());
    }
    let texts = |run: &ScriptRun| record::logs(run).into_iter().map(|line| (line.level, line.text)).collect::<Vec<_>>();
    if texts(before) != texts(now) {
        differences.push("its logs are others".to_owned());
    }
    let message = |run: &ScriptRun| RunDoc::read(&run.doc).error.map(|error| error.message);
    if before.error_code == now.error_code && message(before) != message(now) {
        differences.push("the message of its error is another".to_owned());
    }
    differences
}
