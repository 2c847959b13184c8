//! Script functions: what is kept of them, and one run of one of them, whoever asks for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
};

use sandbar_core::script::RunTrigger;
use sandbar_scripts::{Failure, Outcome};
use sandbar_store::{ScriptRecord, ScriptRun, ScriptVersion, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{now_ms, store_failure},
        seal::Seal,
    },
    error::ApiError,
};

pub(crate) mod aliases;
mod bun;
pub(crate) mod definition;
pub(crate) mod dispatch;
pub(crate) mod engines;
pub(crate) mod invoke;
pub(crate) mod keys;
pub(crate) mod places;
pub(crate) mod record;
mod redact;
pub(crate) mod replay;
mod run;
pub(crate) mod runs;
pub(crate) mod secrets;

pub(crate) mod email;
pub(crate) mod fetch;
mod grants;
mod live;
pub(crate) mod outbox;
pub(crate) mod reach;
pub(crate) mod remote;
mod rpc;

pub use reach::ReachError;

/// In whose name a script runs, and whose rules its reads go by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub user_id: Option<String>,
    pub email: Option<String>,
    /// Of the team, or `service:NAME`; none for the system.
    #[serde(default)]
    pub roles: Vec<String>,
}

/// A run that is wanted.
pub(crate) struct Ask {
    pub script: Arc<ScriptRecord>,
    pub version: Arc<ScriptVersion>,
    pub run_id: String,
    pub trigger: RunTrigger,
    /// What `ctx.data` is.
    pub data: Box<RawValue>,
    pub subject: Subject,
    /// How many scripts it came through.
    pub depth: u32,
    /// Which try of a job, from 1.
    pub attempt: u32,
    /// The job that it is a try of.
    pub job_id: Option<String>,
    /// `http://HOST[:PORT]` of the request that it comes from, if one does.
    pub origin: Option<String>,
    /// The run is told by it that it is not wanted any more.
    pub cancel: CancellationToken,
}

/// What came of a run. Nothing of it is stored yet: `run` is what [`sandbar_store::Store::script_run_finish`] stores, together with
/// the end of its job if it has one.
pub(crate) struct Ran {
    pub outcome: Outcome,
    pub run: ScriptRun,
}

/// What runs of scripts share.
pub struct Scripts {
    pub(crate) engines: engines::Engines,
    pub(crate) seal: Arc<Seal>,
    pub(crate) places: Arc<places::Places>,
    /// Calls of clients, which go on to their end although the client may be gone.
    pub(crate) tasks: TaskTracker,
    /// Everything is to end.
    pub(crate) stop: CancellationToken,
    /// Woken when a run is owed that was not.
    pub(crate) jobs_changed: Notify,
    /// Woken when a script may have another schedule.
    pub(crate) schedules_changed: Notify,
    /// Bytes of runs that were stored since old ones were last looked for.
    pub(crate) stored_bytes: AtomicUsize,
    /// Woken when these are many.
    pub(crate) prune_soon: Notify,
    /// Addresses of users by id, and when they were read.
    emails: Mutex<HashMap<String, (Option<String>, i64)>>,
}

/// A user's address is asked for again after this.
const EMAIL_KEPT_MS: i64 = 30_000;
const EMAILS_MAX: usize = 10_000;

impl Scripts {
    pub(crate) fn new(engines: engines::Engines, seal: Arc<Seal>) -> Self {
        Self {
            engines,
            seal,
            places: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            jobs_changed: Notify::new(),
            schedules_changed: Notify::new(),
            stored_bytes: AtomicUsize::new(0),
            prune_soon: Notify::new(),
            emails: Mutex::default(),
        }
    }

    /// Cancels the calls of clients and waits for their end. The engines go on: others may be using them.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// For a server that starts: nobody goes on with what somebody waited for.
pub(crate) async fn interrupt(store: &Store) -> Result<(), StoreError> {
    let error = serde_json::to_string(&Failure::internal("the server ended while it ran")).unwrap_or_default();
    let interrupted = store.script_runs_interrupt(&error, now_ms()).await?;
    if interrupted > 0 {
        tracing::warn!(interrupted, "runs of scripts were under way when the server ended");
    }
    Ok(())
}

impl App {
    /// A run is owed that was not.
    pub(crate) fn script_jobs_added(&self) {
        self.scripts.jobs_changed.notify_one();
    }

    /// A script may have another schedule.
    pub(crate) fn script_changed(&self) {
        self.scripts.schedules_changed.notify_one();
    }

    /// What scripts know of a member of their team.
    pub(crate) async fn script_subject(&self, who: &Principal) -> Result<Subject, ApiError> {
        let now = now_ms();
        let known = {
            let emails = self.scripts.emails.lock().unwrap_or_else(PoisonError::into_inner);
            emails.get(&who.user_id).filter(|(_, at_ms)| now - at_ms < EMAIL_KEPT_MS).map(|(email, _)| email.clone())
        };
        let email = match known {
            Some(email) => email,
            None => {
                let user = self.store.user_get(&who.user_id).await.map_err(|e| store_failure("reading the user", &e))?;
                let email = user.map(|user| user.email);
                let mut emails = self.scripts.emails.lock().unwrap_or_else(PoisonError::into_inner);
                if emails.len() >= EMAILS_MAX {
                    emails.clear();
                }
                emails.insert(who.user_id.clone(), (email.clone(), now));
                email
            }
        };
        Ok(Subject { user_id: Some(who.user_id.clone()), email, roles: who.roles.iter().map(ToString::to_string).collect() })
    }
}
