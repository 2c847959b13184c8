//! A script is called by somebody: who may, which version it is, and what becomes of the call.

use std::sync::Arc;

use axum::body::Body;
use sandbar_api::ErrorCode;
use sandbar_core::{
    limits,
    script::{Access, LIVE, RunTrigger, Trigger},
};
use sandbar_scripts::{JSON_DEPTH_MAX, Outcome, is_too_deep};
use sandbar_store::{Idempotency, JobKind, JobState, KeyUse, RunStatus, ScriptJob, ScriptRecord, ScriptRun, ScriptVersion, ScriptWhole};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Ask, Ran, Subject, engines, record};
use crate::{
    app::{
        App,
        auth::Principal,
        function_load::Calling,
        sandboxes::{now_ms, store_failure},
    },
    error::ApiError,
    http::extract,
};

/// Codes of a 409: the key stands for another call, or for this one, which goes on.
pub(crate) const KEY_REUSED: &str = "idempotency_key_reused";
const KEY_IN_PROGRESS: &str = "idempotency_in_progress";

/// Who calls.
#[derive(Debug, Default)]
pub(crate) struct Caller {
    /// A member of a team, by key or login.
    pub principal: Option<Principal>,
    /// The text of a key of a script.
    pub key: Option<String>,
    /// The team that somebody without a token means.
    pub team: Option<String>,
}

/// How a call is wanted.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    /// Answer at once, run later.
    pub is_async: bool,
    pub alias: Option<String>,
    pub version: Option<u32>,
    /// Calls of the same one go to the same version of a split.
    pub sticky: Option<String>,
    pub idempotency_key: Option<String>,
    /// How many scripts it came through.
    pub depth: u32,
    /// Where the request came to.
    pub origin: Option<String>,
}

/// What became of a call.
pub(crate) enum Invoked {
    /// It ran; what was kept of it, and what is answered. None: what was kept is what is answered.
    Ran { run: Box<ScriptRun>, outcome: Option<Outcome>, replayed: bool, sight: Sight },
    /// It will run.
    Queued { run_id: String, replayed: bool },
}

/// How much of a run somebody is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Of the team's admins.
    Whole,
    /// Of a member: what came of the member's own call.
    Result,
    /// Of whoever is no member: what came of it, and nothing of how.
    Answer,
}

/// What an idempotency key stands for: who called, with what, and which version was asked for.
struct Once {
    key: String,
    fingerprint: String,
}

/// A script that may be called, and in whose name.
struct Target {
    whole: ScriptWhole,
    subject: Subject,
    sight: Sight,
    /// Who it is, as far as splits and idempotency keys are concerned.
    caller: Option<String>,
}

impl App {
    /// Calls a script. Checks in this order: who calls, whether they may, whether there is such a script, its trigger, whether it
    /// is active.
    pub(crate) async fn invoke_script(self: &Arc<Self>, caller: Caller, id_or_name: &str, wish: Wish, body: Body) -> Result<Invoked, ApiError> {
        let target = self.script_target(caller, id_or_name).await?;
        let script = &target.whole.script;
        if script.trigger != Trigger::Http {
            let text = format!("function {:?} has the trigger {}; only functions with the trigger http can be invoked", script.name, script.trigger.as_str());
            return Err(ApiError::bad_request(text));
        }
        if !script.active {
            return Err(ApiError::new(ErrorCode::Forbidden, format!("function {:?} is inactive", script.name)));
        }
        if wish.depth > limits::SCRIPT_EVENT_DEPTH_MAX {
            let text = format!("the call came through {} scripts, and {} is the limit: this looks like a loop", wish.depth, limits::SCRIPT_EVENT_DEPTH_MAX);
            return Err(ApiError::with_status(508, ErrorCode::Conflict, text));
        }
        let version = self.wanted_version(&target, &wish).await?;
        let mut calling = self.function_load.enter(&script.team_id, &script.id, usize::MAX)?;
        let (data, digest) = read_data(body, &mut calling).await?;
        self.check_room()?;
        let once = wish.idempotency_key.clone().map(|key| Once { key, fingerprint: fingerprint(&target, &wish, &digest) });
        let sight = target.sight;
        let ask = Ask {
            script: Arc::new(target.whole.script),
            version: Arc::new(version),
            run_id: Uuid::now_v7().to_string(),
            trigger: if wish.is_async { RunTrigger::Async } else { RunTrigger::Http },
            data,
            subject: target.subject,
            depth: wish.depth,
            attempt: 1,
            job_id: None,
            origin: wish.origin,
            cancel: self.scripts.stop.child_token(),
        };
        match wish.is_async {
            true => self.enqueue_script(ask, once, sight).await,
            false => self.call_script(ask, once, sight, calling).await,
        }
    }

    /// Runs it now. The client may go: then the run is cancelled, and what came of it is kept all the same. One with an idempotency
    /// key goes on, since the client will ask for it again.
    async fn call_script(self: &Arc<Self>, ask: Ask, once: Option<Once>, sight: Sight, calling: Calling) -> Result<Invoked, ApiError> {
        let gone = once.is_none().then(|| ask.cancel.clone().drop_guard());
        let app = Arc::clone(self);
        let task = self.scripts.tasks.spawn(async move {
            let _calling = calling;
            if let Some(once) = &once {
                let claimed = app.store.script_idempotency_claim(&once.key, &once.fingerprint, &record::begun(&ask, RunStatus::Running, now_ms())).await;
                if let Idempotency::Used(used) = claimed.map_err(|e| store_failure("claiming the idempotency key", &e))? {
                    return app.answer_again(&ask, used, once, sight).await;
                }
            }
            let (script, run_id) = (Arc::clone(&ask.script), ask.run_id.clone());
            let began = async {
                let place = app.script_place(&ask.script).await?;
                let ran = app.run_placed(ask, place).await;
                engines::begun(&ran.outcome)?;
                Ok(ran)
            };
            let Ran { mut run, outcome } = match began.await {
                Ok(ran) => ran,
                Err(refusal) => {
                    // It never began, and may be called again.
                    if let Some(once) = &once
                        && let Err(error) = app.store.script_idempotency_release(&script.id, &once.key, &run_id).await
                    {
                        tracing::error!(%error, run = run_id, "an idempotency key stays taken");
                    }
                    return Err(refusal);
                }
            };
            let shown = record::without_texts(&mut run);
            // It has run, so its key stays taken; at least that it ended has to be known.
            let small = once.is_some().then(|| ScriptRun { input: run.input.clone(), ..record::small(shown.clone()) });
            let mut kept = app.finish_script(run, None).await;
            if let (Err(_), Some(small)) = (&kept, small) {
                kept = app.finish_script(small, None).await;
            }
            kept.map_err(|e| store_failure("keeping what came of the call", &e))?;
            Ok(Invoked::Ran { run: Box::new(shown), outcome: Some(outcome), replayed: false, sight })
        });
        let done = task.await.unwrap_or_else(|error| Err(ApiError::internal("running the function", &error)));
        if let Some(gone) = gone {
            gone.disarm();
        }
        done
    }

    /// Keeps a call so that it will run, whatever becomes of the server.
    async fn enqueue_script(self: &Arc<Self>, ask: Ask, once: Option<Once>, sight: Sight) -> Result<Invoked, ApiError> {
        let now = now_ms();
        let run = record::begun(&ask, RunStatus::Queued, now);
        let retry = ask.script.spec.retry;
        let job = ScriptJob {
            id: Uuid::now_v7().to_string(),
            team_id: run.team_id.clone(),
            script_id: run.script_id.clone(),
            version: run.version,
            kind: JobKind::Async,
            source: run.id.clone(),
            state: JobState::Pending,
            run_at_ms: now,
            attempts: 0,
            interruptions: 0,
            give_up_at_ms: now + i64::from(retry.max_age_seconds) * 1000,
            depth: ask.depth,
            input: run.input.clone(),
            subject: serde_json::to_string(&ask.subject).unwrap_or_default(),
            last_run_id: None,
            last_error: None,
            created_at_ms: now,
            finished_at_ms: None,
        };
        let claim = once.as_ref().map(|once| (once.key.clone(), once.fingerprint.clone()));
        let queued = self.store.script_run_enqueue(run, job, claim).await.map_err(|e| store_failure("keeping the call", &e))?;
        if let (Idempotency::Used(used), Some(once)) = (queued, &once) {
            return self.answer_again(&ask, used, once, sight).await;
        }
        self.script_jobs_added();
        tracing::info!(action = "enqueue", team = ask.script.team_id, script = ask.script.id, name = ask.script.name, run = ask.run_id, "a call was queued");
        Ok(Invoked::Queued { run_id: ask.run_id, replayed: false })
    }

    /// The answer to a call that was made before.
    async fn answer_again(&self, ask: &Ask, used: KeyUse, once: &Once, sight: Sight) -> Result<Invoked, ApiError> {
        if used.body_sha256 != once.fingerprint {
            let text = "this Idempotency-Key was used with another body, for another version, or by somebody else; another call needs another key";
            return Err(ApiError::conflict(text).with_code(KEY_REUSED));
        }
        let run = self.store.script_run_get(&ask.script.team_id, &used.run_id).await.map_err(|e| store_failure("reading the run", &e))?;
        let run = run.ok_or_else(|| ApiError::conflict("what came of the call with this Idempotency-Key is no longer kept"))?;
        match run.status {
            _ if run.trigger == RunTrigger::Async => Ok(Invoked::Queued { run_id: run.id, replayed: true }),
            RunStatus::Succeeded | RunStatus::Failed => Ok(Invoked::Ran { run: Box::new(run), outcome: None, replayed: true, sight }),
            RunStatus::Queued | RunStatus::Running => {
                let text = "the call with this Idempotency-Key is still running; send it again later for what came of it";
                Err(ApiError::conflict(text).with_code(KEY_IN_PROGRESS).retry_after(1))
            }
        }
    }

    /// The script that somebody means and may call.
    async fn script_target(&self, caller: Caller, id_or_name: &str) -> Result<Target, ApiError> {
        let Caller { principal, key, team } = caller;
        let key = match key {
            Some(text) => {
                let found = self.script_key(&text).await?;
                Some(found.ok_or_else(|| ApiError::new(ErrorCode::Unauthorized, "the function key is not known"))?)
            }
            None => None,
        };
        let opens = |script: &ScriptRecord| script.spec.access == Access::Key && key.as_ref().is_some_and(|key| key.script_id == script.id);
        if let Some(who) = principal.as_ref().filter(|who| !who.team_id.is_empty()) {
            let is_admin = who.roles.contains(&sandbar_core::roles::Role::Admin);
            let found = self.store.script_find(&who.team_id, id_or_name).await.map_err(|e| store_failure("reading the function", &e))?;
            if let Some(whole) = found {
                let may = is_admin || matches!(whole.script.spec.access, Access::Authenticated | Access::Public) || opens(&whole.script);
                if !may {
                    return Err(ApiError::new(ErrorCode::Forbidden, "only admins of the team may invoke this function"));
                }
                let subject = self.script_subject(who).await?;
                let sight = if is_admin { Sight::Whole } else { Sight::Result };
                return Ok(Target { whole, subject, sight, caller: Some(who.user_id.clone()) });
            }
        }
        let open = match &key {
            // A key opens its own script, whoever has another one of that name.
            Some(key) => {
                let keyed = self.store.script_get(&key.script_id).await.map_err(|e| store_failure("reading the function", &e))?;
                let keyed = keyed.filter(|whole| whole.script.id == id_or_name || whole.script.name == id_or_name);
                Some(keyed.ok_or_else(|| ApiError::not_found("function", id_or_name))?)
            }
            None => self.open_script(id_or_name, team, principal.is_some()).await?,
        };
        match open {
            Some(whole) if whole.script.spec.access == Access::Public || opens(&whole.script) => {
                self.admit_request(&whole.script.team_id)?;
                Ok(Target { whole, subject: Subject::default(), sight: Sight::Answer, caller: key.map(|key| key.id) })
            }
            Some(_) | None => Err(match &principal {
                Some(who) if who.roles.contains(&sandbar_core::roles::Role::Admin) => ApiError::not_found("function", id_or_name),
                Some(_) => ApiError::new(ErrorCode::Forbidden, "only admins of the team may invoke this function"),
                None => ApiError::new(ErrorCode::Unauthorized, "invoking this function needs \"Authorization: Bearer <token>\", or a key of it"),
            }),
        }
    }

    /// The script that somebody without a key may mean: one of whatever team by its id, or one of the team that nobody asks about by
    /// its name. A member who misspells a name must not run a stranger's.
    async fn open_script(&self, id_or_name: &str, team: Option<String>, is_member: bool) -> Result<Option<ScriptWhole>, ApiError> {
        let failed = |error| store_failure("reading the function", &error);
        if let Some(whole) = self.store.script_get(id_or_name).await.map_err(failed)? {
            return Ok(Some(whole));
        }
        if is_member {
            return Ok(None);
        }
        let team_id = self.nobodys_team(team).await?;
        self.store.script_find(&team_id, id_or_name).await.map_err(failed)
    }

    /// The team that somebody without a token asks about: the one that is named, else the only one.
    pub(crate) async fn nobodys_team(&self, named: Option<String>) -> Result<String, ApiError> {
        if let Some(team) = named {
            self.check_team(&team).await?;
            return Ok(team);
        }
        self.store.team_only().await.map_err(|e| store_failure("reading the only team", &e))?.ok_or_else(|| {
            let message =
                "there are several teams here: name one by the header X-Team-Id or the query parameter team, or send \"Authorization: Bearer <token>\"";
            ApiError::new(ErrorCode::Unauthorized, message)
        })
    }

    /// A call that nobody waited for, and how much of it this caller is shown. Admins see all of their team's, members what they
    /// called, holders of a key what its script was called for; and what nobody called is shown to who knows its id.
    pub(crate) async fn script_invocation(&self, caller: Caller, id: &str) -> Result<(ScriptRun, Sight), ApiError> {
        let Caller { principal, key, .. } = caller;
        let key = match key {
            Some(text) => Some(self.script_key(&text).await?.ok_or_else(|| ApiError::new(ErrorCode::Unauthorized, "the function key is not known"))?),
            None => None,
        };
        let unknown = || ApiError::not_found("run", id);
        let run = self.store.script_run_find(id).await.map_err(|e| store_failure("reading the run", &e))?.ok_or_else(unknown)?;
        let who = principal.filter(|who| who.team_id == run.team_id);
        if who.as_ref().is_some_and(|who| who.roles.contains(&sandbar_core::roles::Role::Admin)) {
            return Ok((run, Sight::Whole));
        }
        if run.trigger != RunTrigger::Async {
            return Err(unknown());
        }
        let called_by = record::RunDoc::read(&run.doc).subject.user_id;
        if who.is_some_and(|who| called_by.as_ref() == Some(&who.user_id)) {
            return Ok((run, Sight::Result));
        }
        if called_by.is_some() && key.is_none_or(|key| key.script_id != run.script_id) {
            return Err(unknown());
        }
        self.admit_request(&run.team_id)?;
        Ok((run, Sight::Answer))
    }

    /// The version that is asked for, or that is live.
    async fn wanted_version(&self, target: &Target, wish: &Wish) -> Result<ScriptVersion, ApiError> {
        let whole = &target.whole;
        if (wish.version.is_some() || wish.alias.is_some()) && target.sight != Sight::Whole {
            return Err(ApiError::new(ErrorCode::Forbidden, "only admins of the team may ask for a version or an alias"));
        }
        let number = match (wish.version, &wish.alias) {
            (Some(_), Some(_)) => return Err(ApiError::bad_request("version and alias exclude each other")),
            (Some(number), None) => number,
            (None, alias) => {
                let alias = alias.as_deref().unwrap_or(LIVE);
                let split = &whole.alias(alias).ok_or_else(|| ApiError::not_found("alias", alias))?.split;
                let sticky = wish.sticky.as_ref().or(target.caller.as_ref());
                split.choose(place_of(&whole.script.id, sticky.map(String::as_str)))
            }
        };
        self.script_version(whole, number).await
    }
}

/// Where in a split a call is: always at the same place for the same text, else anywhere.
fn place_of(script_id: &str, sticky: Option<&str>) -> u64 {
    let mut bytes = [0; 8];
    match sticky {
        Some(text) => bytes.copy_from_slice(&Sha256::new().chain_update(script_id).chain_update([0]).chain_update(text).finalize()[..8]),
        // Without chance all go to the first part.
        None => drop(getrandom::fill(&mut bytes)),
    }
    u64::from_be_bytes(bytes)
}

/// What `ctx.data` is: the body if it is JSON, else an empty object, whatever its content type says; and the SHA-256 of what was sent.
async fn read_data(body: Body, calling: &mut Calling) -> Result<(Box<RawValue>, [u8; 32]), ApiError> {
    let bytes = extract::read_counted(body, limits::SCRIPT_INPUT_MAX_BYTES, |bytes| calling.grow(bytes)).await?;
    let digest = Sha256::digest(&bytes).into();
    // Some programs put a mark before all text that they write.
    if let Ok(data) = serde_json::from_slice::<Box<RawValue>>(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes)) {
        check_depth("the request body", &data)?;
        return Ok((data, digest));
    }
    let empty = RawValue::from_string("{}".to_owned()).map_err(|error| ApiError::internal("reading the body", &error))?;
    Ok((empty, digest))
}

/// Refuses data that scripts could not read, or not send on.
pub(crate) fn check_depth(what: &str, data: &RawValue) -> Result<(), ApiError> {
    match is_too_deep(data.get()) {
        true => Err(ApiError::bad_request(format!("{what} is nested too deep: at most {JSON_DEPTH_MAX} levels of lists and objects are allowed"))),
        false => Ok(()),
    }
}

/// The same for the same call of the same caller: no other gets the answer.
fn fingerprint(target: &Target, wish: &Wish, body: &[u8; 32]) -> String {
    let mut hash = Sha256::new();
    let version = wish.version.map(|number| number.to_string()).unwrap_or_default();
    for text in [target.caller.as_deref().unwrap_or("anonymous"), wish.alias.as_deref().unwrap_or_default(), &version] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex::encode(hash.chain_update(body).finalize())
}
