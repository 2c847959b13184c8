//! A run once more, with what it was told then: the same answers, clock and chance, under the same version or another.

use std::{collections::BTreeSet, sync::Arc};

use sandbar_core::script::{RunTrigger, provider::Provider};
use sandbar_scripts::{Op, Outcome, Recording};
use sandbar_store::{RunStatus, ScriptRun};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Ask, engines, fetch,
    places::Entered,
    record::{self, RunDoc},
    redact::{self, Redactor},
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
    /// The client may go: then it is cancelled, and what came of it is kept all the same.
    pub(crate) async fn replay_script(self: &Arc<Self>, who: &Principal, run_id: &str, version: Option<u32>) -> Result<ReplayedRun, ApiError> {
        let cancel = self.scripts.stop.child_token();
        let gone = cancel.clone().drop_guard();
        let (app, who, run_id) = (Arc::clone(self), who.clone(), run_id.to_owned());
        let task = self.scripts.tasks.spawn(async move { app.replayed(&who, &run_id, version, cancel).await });
        let done = task.await.unwrap_or_else(|error| Err(ApiError::internal("replaying the run", &error)));
        gone.disarm();
        done
    }

    async fn replayed(self: &Arc<Self>, who: &Principal, run_id: &str, version: Option<u32>, cancel: CancellationToken) -> Result<ReplayedRun, ApiError> {
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
        let ask = Ask {
            script: Arc::new(whole.script),
            version: Arc::new(version),
            run_id: Uuid::now_v7().to_string(),
            trigger: RunTrigger::Replay,
            data,
            subject: doc.subject.clone(),
            depth: doc.depth,
            attempt: 1,
            job_id: None,
            origin: None,
            cancel,
        };
        let place = self.script_place(&ask.script).await?;
        let given = self.given_then(&ask, &recorded).await?;
        let restore = tokio::task::spawn_blocking(move || {
            let redactor = Redactor::new(given);
            let restored = redactor.restored(recorded);
            (redactor, restored, place)
        });
        let (redactor, restored, place) = restore.await.map_err(|error| ApiError::internal("restoring the recording", &error))?;
        let recording = restored.ok_or_else(|| ApiError::conflict("with its secrets, what this run was told is too much, so it cannot be replayed"))?;
        let (began, began_ms) = (std::time::Instant::now(), now_ms());
        let replayed = self.scripts.engines.replay(&ask.script.team_id, run::call_of(&ask), &recording, &ask.cancel).await;
        engines::begun(&replayed.0)?;
        let duration = began.elapsed();
        let (outcome, recording, differences) = replayed;
        let mut differences: Vec<String> = differences.into_iter().map(|difference| redactor.sentence(difference)).collect();
        let kept = redactor.keep(outcome, recording, place).await;
        let (mut kept, outcome) = run::ended(&ask, kept, Some(Provider::QuickJs), duration, began_ms);
        let mut kept_doc = RunDoc::read(&kept.doc);
        kept_doc.replay_of = Some(before.id.clone());
        kept.doc = kept_doc.text();
        differences.extend(compare(&before, &kept));
        let shown = record::without_texts(&mut kept);
        self.finish_script(kept, None).await.map_err(|e| store_failure("keeping the run", &e))?;
        tracing::info!(
            action = "replay",
            team = shown.team_id,
            script = shown.script_id,
            run = shown.id,
            of = before.id,
            by = who.user_id,
            "a run was replayed"
        );
        Ok(ReplayedRun { run: shown, outcome, differences })
    }

    /// The secrets that a run was given, as they are now.
    async fn given_then(&self, ask: &Ask, recorded: &Recording) -> Result<Vec<(String, String)>, ApiError> {
        let mut given = Vec::new();
        for name in secrets_of(recorded) {
            match self.script_secret(&ask.script, &name).await {
                Ok(Some(value)) => given.push((name, value)),
                Ok(None) => {}
                // Without it, what is kept of the replay might hold it.
                Err(error) => return Err(ApiError::conflict(format!("the run cannot be replayed: {error}"))),
            }
        }
        Ok(given)
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

/// Names of the secrets that a run asked for itself, and of those that were put into its requests.
fn secrets_of(recorded: &Recording) -> BTreeSet<String> {
    let names = recorded.ops.iter().flat_map(|op| match op.op {
        Op::SecretsGet => redact::secret_name(&op.args).into_iter().collect(),
        Op::Fetch => fetch::secret_names(&op.args),
        Op::DbList | Op::DbOne | Op::EmailSend | Op::Sleep => BTreeSet::new(),
    });
    names.collect()
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

#[cfg(test)]
mod tests {
    use sandbar_scripts::OpRecord;

    use super::*;

    #[test]
    fn secrets_are_given_by_name_and_in_headers() {
        let asked = |op, args: &str| OpRecord { seq: 0, op, args: RawValue::from_string(args.to_owned()).unwrap(), asked_us: 0, answer: None };
        let ops = vec![
            asked(Op::SecretsGet, r#"{"name":"ONE"}"#),
            asked(Op::SecretsGet, r#"{"name":"ONE"}"#),
            asked(Op::Fetch, r#"{"url":"https://a.example/","init":{"headers":{"authorization":"Bearer {{secrets.TWO}}"}}}"#),
            asked(Op::Fetch, r#"{"url":"https://a.example/","init":{"headers":[["x-key","{{secrets.THREE}}"]]}}"#),
            asked(Op::DbOne, r#"{"slug":"a","id":"{{secrets.FOUR}}"}"#),
            asked(Op::SecretsGet, "null"),
        ];
        let names = secrets_of(&Recording { ops, ..Recording::default() });
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["ONE", "THREE", "TWO"]);
    }
}
