//! What scripts ask of their host: the one place where that is allowed or not, whichever engine runs them.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use sandbar_core::script::{
    RunAs,
    capability::{self, Need},
};
use sandbar_scripts::{Host, Op, OpError, OpResult};
use sandbar_store::ScriptRecord;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{Subject, email, fetch, reach::Asker, redact::Redactor};
use crate::{app::SharedApp, http::json};

/// The host of one run.
pub(crate) struct Dispatch {
    app: SharedApp,
    script: Arc<ScriptRecord>,
    run_id: String,
    depth: u32,
    /// In whose name it reads.
    reader: Subject,
    /// Secrets that it was given.
    given: Mutex<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Slug {
    slug: String,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

impl Dispatch {
    pub fn new(app: SharedApp, script: Arc<ScriptRecord>, run_id: &str, depth: u32, caller: &Subject) -> Self {
        let reader = reader(&script.spec.run_as, caller);
        Self { app, script, run_id: run_id.to_owned(), depth, reader, given: Mutex::default() }
    }

    /// What keeps the secrets that this run was given out of what is kept of it.
    pub(super) fn redactor(&self) -> Redactor {
        Redactor::new(self.given.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn dispatch(&self, op: Op, args: &RawValue) -> OpResult {
        let slug = match op {
            Op::DbList | Op::DbOne => read::<Slug>(op, args)?.slug,
            Op::Fetch | Op::EmailSend | Op::SecretsGet | Op::Sleep => String::new(),
        };
        let need = match op {
            Op::Fetch => Need::Fetch,
            Op::DbList | Op::DbOne => Need::DbRead(&slug),
            Op::EmailSend => Need::Email,
            Op::SecretsGet => Need::Secrets,
            // Whoever speaks with the engine answers it, and no other op is one.
            Op::Sleep => return Err(OpError::wrong("sleep is no op of the host")),
        };
        if !capability::allows(self.script.spec.capabilities.as_deref(), need) {
            return Err(OpError::denied(lacking(need)));
        }
        match op {
            Op::Fetch => self.fetch(args).await,
            Op::DbList => self.app.script_db_list(&self.script.team_id, &self.reader, args).await,
            Op::DbOne => self.app.script_db_one(&self.script.team_id, &self.reader, args).await,
            Op::EmailSend => email::send(&self.app, &self.script, &self.run_id, args).await,
            Op::SecretsGet => self.secret(&read::<Name>(op, args)?.name).await,
            Op::Sleep => Err(OpError::wrong("sleep is no op of the host")),
        }
    }

    /// Secrets that are to stand in its headers are put there by the host, if the script may have secrets at all; the script does
    /// not see them, but whoever is asked may send them back.
    async fn fetch(&self, args: &RawValue) -> OpResult {
        let names = fetch::secret_names(args);
        if !names.is_empty() && !capability::allows(self.script.spec.capabilities.as_deref(), Need::Secrets) {
            return Err(OpError::denied(lacking(Need::Secrets)));
        }
        let mut secrets = BTreeMap::new();
        for name in names {
            if let Some(value) = self.app.script_secret(&self.script, &name).await? {
                secrets.insert(name, value);
            }
        }
        self.given.lock().unwrap_or_else(PoisonError::into_inner).extend(secrets.clone());
        let secret = |name: &str| secrets.get(name).cloned();
        let asker = Asker { team_id: &self.script.team_id, script: Some(&self.script), run_id: &self.run_id, depth: self.depth, secret: Some(&secret) };
        fetch::fetch_as(&self.app, asker, args).await
    }

    async fn secret(&self, name: &str) -> OpResult {
        let value = self.app.script_secret(&self.script, name).await?;
        if let Some(value) = &value {
            self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), value.clone());
        }
        serde_json::value::to_raw_value(&value).map_err(|error| OpError::internal(error.to_string()))
    }
}

impl Host for Dispatch {
    fn op<'a>(&'a self, op: Op, args: &'a RawValue) -> Pin<Box<dyn Future<Output = OpResult> + Send + 'a>> {
        Box::pin(self.dispatch(op, args))
    }
}

/// In whose name a script reads that somebody runs.
fn reader(run_as: &RunAs, caller: &Subject) -> Subject {
    match run_as {
        RunAs::Caller => caller.clone(),
        RunAs::System => Subject::default(),
        RunAs::ServiceAccount(name) => Subject { roles: vec![format!("service:{name}")], ..Subject::default() },
    }
}

fn read<T: DeserializeOwned>(op: Op, args: &RawValue) -> Result<T, OpError> {
    json::read(args.get().as_bytes()).map_err(|error| OpError::wrong(format!("{}: {error}", op.as_str())))
}

fn lacking(need: Need<'_>) -> String {
    match need {
        Need::Fetch => "this function lacks the capability fetch".to_owned(),
        Need::DbRead(slug) => format!("No read permission on {slug:?}: this function lacks the capability db:read:{slug}"),
        Need::Email => "this function lacks the capability email".to_owned(),
        Need::Secrets => "this function lacks the capability secrets".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reads_as_its_owner_says() {
        let caller = Subject { user_id: Some("u".to_owned()), email: None, roles: vec!["admin".to_owned()] };
        assert_eq!(reader(&RunAs::Caller, &caller), caller);
        assert_eq!(reader(&RunAs::System, &caller), Subject::default());
        assert_eq!(reader(&RunAs::ServiceAccount("mail".to_owned()), &caller).roles, ["service:mail"]);
    }
}
