//! A script is called by somebody: who may, which version it is, and what becomes of the call.

use std::sync::Arc;

use axum::body::Body;
use sandbar_api::ErrorCode;
use sandbar_core::{
    limits,
    script::{Access, LIVE, RunTrigger, Trigger},
};
use sandbar_scripts::Outcome;
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

/// Who calls.
#[derive(Debug, Default)]
pub(crate) struct Caller {
    /// A member of a team, by key or login.
    pub principal: Option<Principal>,
    /// The text of a key of a script.
    pub key: Option<String>,
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
    Ran { run: Box<ScriptRun>, outcome: Option<Outcome>, replayed: bool },
    /// It will run.
    Queued { run_id: String, replayed: bool },
}

/// A script that may be called, and in whose name.
struct Target {
    whole: ScriptWhole,
    subject: Subject,
    is_admin: bool,
    /// Who it is, as far as splits are concerned.
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
        let data = read_data(body, &mut calling).await?;
        self.check_room()?;
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
            true => self.enqueue_script(ask, wish.idempotency_key).await,
            false => self.call_script(ask, wish.idempotency_key, calling).await,
        }
    }

    /// Runs it now. The client may go: then the run is cancelled, and what came of it is kept all the same.
    async fn call_script(self: &Arc<Self>, ask: Ask, key: Option<String>, calling: Calling) -> Result<Invoked, ApiError> {
        let gone = ask.cancel.clone().drop_guard();
        let app = Arc::clone(self);
        let task = self.scripts.tasks.spawn(async move {
            let _calling = calling;
            if let Some(key) = &key {
                let claimed = app.store.script_idempotency_claim(key, &body_sha256(&ask.data), &record::begun(&ask, RunStatus::Running, now_ms())).await;
                if let Idempotency::Used(used) = claimed.map_err(|e| store_failure("claiming the idempotency key", &e))? {
                    return app.answer_again(&ask, used).await;
                }
            }
            let (script, run_id) = (Arc::clone(&ask.script), ask.run_id.clone());
            let ran = async {
                let place = app.script_place(&ask.script).await?;
                let Ran { mut run, outcome } = app.run_placed(ask, place).await;
                engines::begun(&outcome)?;
                let shown = record::without_texts(&mut run);
                app.finish_script(run, None).await.map_err(|e| store_failure("keeping what came of the call", &e))?;
                Ok(Ran { run: shown, outcome })
            };
            let ran = match (ran.await, &key) {
                (Ok(ran), _) => ran,
                // Nothing came of it that could be answered again.
                (Err(refusal), Some(key)) => {
                    if let Err(error) = app.store.script_idempotency_release(&script.id, key, &run_id).await {
                        tracing::error!(%error, run = run_id, "an idempotency key stays taken");
                    }
                    return Err(refusal);
                }
                (Err(refusal), None) => return Err(refusal),
            };
            Ok(Invoked::Ran { run: Box::new(ran.run), outcome: Some(ran.outcome), replayed: false })
        });
        let done = task.await.unwrap_or_else(|error| Err(ApiError::internal("running the function", &error)));
        gone.disarm();
        done
    }

    /// Keeps a call so that it will run, whatever becomes of the server.
    async fn enqueue_script(self: &Arc<Self>, ask: Ask, key: Option<String>) -> Result<Invoked, ApiError> {
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
        let claim = key.map(|key| (key, body_sha256(&ask.data)));
        let queued = self.store.script_run_enqueue(run, job, claim).await.map_err(|e| store_failure("keeping the call", &e))?;
        if let Idempotency::Used(used) = queued {
            return self.answer_again(&ask, used).await;
        }
        self.script_jobs_added();
        tracing::info!(action = "enqueue", team = ask.script.team_id, script = ask.script.id, name = ask.script.name, run = ask.run_id, "a call was queued");
        Ok(Invoked::Queued { run_id: ask.run_id, replayed: false })
    }

    /// The answer to a call that was made before.
    async fn answer_again(&self, ask: &Ask, used: KeyUse) -> Result<Invoked, ApiError> {
        if used.body_sha256 != body_sha256(&ask.data) {
            return Err(ApiError::conflict("this Idempotency-Key was used with another body"));
        }
        let run = self.store.script_run_get(&ask.script.team_id, &used.run_id).await.map_err(|e| store_failure("reading the run", &e))?;
        let run = run.ok_or_else(|| ApiError::conflict("what came of the call with this Idempotency-Key is no longer kept"))?;
        match run.status {
            _ if run.trigger == RunTrigger::Async => Ok(Invoked::Queued { run_id: run.id, replayed: true }),
            RunStatus::Succeeded | RunStatus::Failed => Ok(Invoked::Ran { run: Box::new(run), outcome: None, replayed: true }),
            RunStatus::Queued | RunStatus::Running => Err(ApiError::conflict("the call with this Idempotency-Key is still running").retry_after(1)),
        }
    }

    /// The script that somebody means and may call.
    async fn script_target(&self, caller: Caller, id_or_name: &str) -> Result<Target, ApiError> {
        let Caller { principal, key } = caller;
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
                return Ok(Target { whole, subject, is_admin, caller: Some(who.user_id.clone()) });
            }
        }
        let is_member = principal.is_some();
        let mut open = self.store.script_find_open(id_or_name).await.map_err(|e| store_failure("reading the function", &e))?;
        if is_member {
            // A member who misspells a name must not run a stranger's.
            open.retain(|whole| whole.script.id == id_or_name);
        }
        if let Some(key) = &key {
            open.retain(|whole| whole.script.id == key.script_id || whole.script.spec.access == Access::Public);
        }
        let is_keyed = |whole: &ScriptWhole| opens(&whole.script);
        if let Some(at) = open.iter().position(is_keyed) {
            open.swap(0, at);
            open.truncate(1);
        }
        let caller = key.as_ref().map(|key| key.id.clone());
        match open.pop() {
            Some(_) if !open.is_empty() => Err(ApiError::conflict(format!("more than one function is called {id_or_name:?}; use its id"))),
            Some(whole) if whole.script.spec.access == Access::Public || is_keyed(&whole) => {
                self.admit_request(&whole.script.team_id)?;
                Ok(Target { whole, subject: Subject::default(), is_admin: false, caller })
            }
            Some(_) | None => Err(match &principal {
                Some(who) if who.roles.contains(&sandbar_core::roles::Role::Admin) => ApiError::not_found("function", id_or_name),
                Some(_) => ApiError::new(ErrorCode::Forbidden, "only admins of the team may invoke this function"),
                None => ApiError::new(ErrorCode::Unauthorized, "invoking this function needs \"Authorization: Bearer <token>\", or a key of it"),
            }),
        }
    }

    /// The version that is asked for, or that is live.
    async fn wanted_version(&self, target: &Target, wish: &Wish) -> Result<ScriptVersion, ApiError> {
        let whole = &target.whole;
        if (wish.version.is_some() || wish.alias.is_some()) && !target.is_admin {
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

/// What `ctx.data` is: the body if it is JSON, else an empty object.
async fn read_data(body: Body, calling: &mut Calling) -> Result<Box<RawValue>, ApiError> {
    let bytes = extract::read_counted(body, limits::SCRIPT_INPUT_MAX_BYTES, |bytes| calling.grow(bytes)).await?;
    if let Ok(data) = serde_json::from_slice::<Box<RawValue>>(&bytes) {
        return Ok(data);
    }
    RawValue::from_string("{}".to_owned()).map_err(|error| ApiError::internal("reading the body", &error))
}

fn body_sha256(data: &RawValue) -> String {
    hex::encode(Sha256::digest(data.get()))
}
