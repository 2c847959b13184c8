//! Credential sources: written once, sealed, and given to nobody but the egress of the sandboxes that bind them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use sandbar_core::{
    credential::{self, Definition, Kind, Material},
    egress::{self, Policy},
    sandbox::SandboxRecord,
};
use sandbar_node::{
    egress::{Source, Sources, Terms, Version},
    error_text,
};
use sandbar_store::{CredentialRecord, Store, StoreError};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::{
    app::{
        App,
        auth::Principal,
        sandboxes::{now_ms, store_failure, violations},
        seal::{Purpose, Seal},
    },
    error::ApiError,
};

mod usable;

/// Keys with a passphrase that are opened at once: that is slow on purpose.
const CHECKS_MAX: usize = 2;

/// What needs the secrets themselves.
pub struct Credentials {
    store: Store,
    seal: Arc<Seal>,
    /// What runtimes hold now, by team and name: one value for all of them.
    held: Mutex<HashMap<(String, String), Weak<Source>>>,
    /// Those of live runtimes that could not be read when they were adopted.
    missed: Mutex<HashMap<(String, String), Weak<Source>>>,
    checks: Semaphore,
    /// Versions of sources of which it was said that they cannot be opened, by team and name.
    told: Mutex<HashMap<(String, String), i64>>,
}

/// A source as it is listed.
#[derive(Debug)]
pub struct Listed {
    pub source: CredentialRecord,
    /// Whether it was sealed with the key that the server has.
    pub is_readable: bool,
}

impl Credentials {
    pub(crate) fn new(store: Store, seal: Arc<Seal>) -> Arc<Self> {
        Arc::new(Self { store, seal, held: Mutex::default(), missed: Mutex::default(), checks: Semaphore::new(CHECKS_MAX), told: Mutex::default() })
    }

    /// Kinds of sources of which the oldest cannot be opened with the key that the server has.
    pub(crate) async fn closed_kinds(&self) -> Result<Vec<Kind>, StoreError> {
        let oldest = self.store.credentials_oldest().await?;
        Ok(oldest.into_iter().filter(|row| self.open(row).is_none()).map(|row| row.kind).collect())
    }

    /// Whether all that a sandbox binds is there and fits. The store asks again when the row is written.
    pub(crate) async fn check(&self, record: &SandboxRecord) -> Result<(), ApiError> {
        let (template, own) = (record.template.network.as_ref(), record.config.network.as_ref());
        let bindings = credential::bindings(template, own);
        if bindings.is_empty() {
            return Ok(());
        }
        usable::check_bindings(&egress::merge(template.unwrap_or(&Value::Null), own.unwrap_or(&Value::Null))).map_err(violations)?;
        let found = self.store.credentials_bound(&record.team_id, &bindings).await;
        found.map(drop).map_err(|error| store_failure("reading credential sources", &error))
    }

    /// A policy with the secrets that it refers to. One that is not there, or cannot be read, is absent: the policy says
    /// what becomes of what needs it.
    pub(crate) async fn terms(&self, team_id: &str, policy: Policy) -> Result<Terms, StoreError> {
        let sources = self.hold_all(team_id, &policy);
        for (name, source) in &sources {
            self.fill(team_id, name, source).await?;
        }
        Ok(Terms { policy, sources: Sources::from_iter(sources) })
    }

    /// The same for a runtime that lives already, which goes on in any case. What cannot be read now is left to
    /// [`Self::read_missed`].
    pub(crate) async fn terms_of_live(&self, team_id: &str, policy: Policy) -> Terms {
        let sources = self.hold_all(team_id, &policy);
        for (name, source) in &sources {
            if let Err(error) = self.fill(team_id, name, source).await {
                tracing::error!(team = team_id, source = name, error = error_text(&error), "a credential source could not be read; it is tried again");
                self.missed().insert((team_id.to_owned(), name.clone()), Arc::downgrade(source));
            }
        }
        Terms { policy, sources: Sources::from_iter(sources) }
    }

    /// Reads once more what could not be read, for all runtimes that hold it.
    ///
    /// # Errors
    /// It still cannot: what is left is for the next time.
    pub(crate) async fn read_missed(&self) -> Result<(), StoreError> {
        let missed: Vec<_> = self.missed().iter().map(|(key, source)| (key.clone(), source.upgrade())).collect();
        let mut failed = Ok(());
        for (key, source) in missed {
            let filled = match source {
                Some(source) => self.fill(&key.0, &key.1, &source).await,
                None => Ok(()),
            };
            match filled {
                Ok(()) => drop(self.missed().remove(&key)),
                Err(error) => failed = Err(error),
            }
        }
        failed
    }

    /// All sources of a policy, before one of them is read: a rotation after that finds it.
    fn hold_all(&self, team_id: &str, policy: &Policy) -> Vec<(String, Arc<Source>)> {
        let names: BTreeSet<&str> = policy.source_refs().collect();
        names.into_iter().map(|name| (name.to_owned(), self.hold(team_id, name))).collect()
    }

    async fn fill(&self, team_id: &str, name: &str, source: &Source) -> Result<(), StoreError> {
        match self.store.credential_get(team_id, name).await? {
            Some(row) => source.put(version_of(&row), self.open(&row)),
            None => tracing::warn!(team = team_id, source = name, "a credential source that a policy refers to is not there"),
        }
        Ok(())
    }

    /// What all runtimes share of a source.
    fn hold(&self, team_id: &str, name: &str) -> Arc<Source> {
        let mut held = self.lock();
        let key = (team_id.to_owned(), name.to_owned());
        if let Some(source) = held.get(&key).and_then(Weak::upgrade) {
            return source;
        }
        held.retain(|_, source| source.strong_count() > 0);
        let source = Arc::<Source>::default();
        held.insert(key, Arc::downgrade(&source));
        source
    }

    /// Lets all runtimes that hold a source have what it is from now on.
    fn publish(&self, row: &CredentialRecord, material: Option<Material>) {
        self.put(row, version_of(row), material);
    }

    /// Takes it away from whoever holds it. They hold it still: it may be made again.
    fn withdraw(&self, row: &CredentialRecord) {
        let last = version_of(row);
        self.put(row, Version { number: last.number + 1, ..last }, None);
    }

    fn put(&self, row: &CredentialRecord, version: Version, material: Option<Material>) {
        let held = self.lock().get(&(row.team_id.clone(), row.name.clone())).and_then(Weak::upgrade);
        if let Some(source) = held {
            source.put(version, material);
        }
    }

    fn seal(&self, team_id: &str, name: &str, material: &Material) -> Result<String, ApiError> {
        let sealed = self.seal.seal(Purpose::Credential { team_id, name }, &material.to_spec().to_string());
        sealed.map_err(|error| ApiError::internal("sealing the credential source", &error))
    }

    fn open(&self, row: &CredentialRecord) -> Option<Material> {
        let spec = self.seal.unseal(Purpose::Credential { team_id: &row.team_id, name: &row.name }, &row.sealed);
        let key = (row.team_id.clone(), row.name.clone());
        // Bounded by how many there are. Each of them is asked for again and again.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &spec {
            Ok(_) => drop(told.remove(&key)),
            Err(error) if told.insert(key, row.version) != Some(row.version) => {
                tracing::error!(team = row.team_id, source = row.name, error = error_text(error), "a credential source is of no use");
            }
            Err(_) => {}
        }
        drop(told);
        let spec: Value = serde_json::from_str(&spec.ok()?).ok()?;
        Material::from_spec(row.kind, &spec).ok()
    }

    /// Reads what was sent, and finds out whether it can be used.
    async fn read(&self, body: &Value) -> Result<Definition, ApiError> {
        let Definition { name, material } = Definition::read(body).map_err(violations)?;
        // Never closed.
        let _place = match material.kind() {
            Kind::SshPrivateKey => self.checks.acquire().await.ok(),
            Kind::Headers | Kind::UsernamePassword | Kind::ClientCertificate => None,
        };
        let checked = tokio::task::spawn_blocking(move || usable::checked(material)).await;
        let material = checked.map_err(|error| ApiError::internal("checking the credential source", &error))?.map_err(violations)?;
        Ok(Definition { name, material })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Weak<Source>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missed(&self) -> MutexGuard<'_, HashMap<(String, String), Weak<Source>>> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// The team's sources by name.
    pub async fn credential_sources(&self, who: &Principal) -> Result<Vec<Listed>, ApiError> {
        let sources = self.store.credentials_list(&who.team_id).await.map_err(|e| store_failure("listing credential sources", &e))?;
        Ok(sources.into_iter().map(|source| self.listed(source)).collect())
    }

    pub async fn credential_source(&self, who: &Principal, name: &str) -> Result<Listed, ApiError> {
        let found = self.store.credential_get(&who.team_id, name).await.map_err(|e| store_failure("reading the credential source", &e))?;
        found.map(|source| self.listed(source)).ok_or_else(|| ApiError::not_found("credential source", name))
    }

    pub async fn create_credential_source(&self, who: &Principal, body: &Value) -> Result<Listed, ApiError> {
        self.check_room()?;
        let Definition { name, material } = self.credentials.read(body).await?;
        let now = now_ms();
        let row = CredentialRecord {
            team_id: who.team_id.clone(),
            sealed: self.credentials.seal(&who.team_id, &name, &material)?,
            name,
            kind: material.kind(),
            version: 1,
            created_at_ms: now,
            updated_at_ms: now,
        };
        self.store.credential_insert(&row).await.map_err(|error| match error {
            StoreError::Exists { .. } => ApiError::conflict(format!("credential source {:?} exists already; rotate it with PUT", row.name)),
            error => store_failure("saving the credential source", &error),
        })?;
        self.credentials.publish(&row, Some(material));
        tracing::info!(team = row.team_id, source = row.name, user = who.user_id, version = row.version, "a credential source was made");
        Ok(Listed { source: row, is_readable: true })
    }

    /// Replaces what a source holds. Every runtime that holds it has the new secret when this returns.
    pub async fn rotate_credential_source(&self, who: &Principal, name: &str, mut body: Value) -> Result<Listed, ApiError> {
        let known = self.credential_source(who, name).await?.source;
        self.check_room()?;
        if let Some(fields) = body.as_object_mut() {
            fields.entry("name").or_insert_with(|| name.into());
        }
        let sent = self.credentials.read(&body).await?;
        if sent.name != name {
            return Err(ApiError::bad_request("name: is not the one in the path; a source cannot be renamed"));
        }
        same_kind(known.kind, sent.material.kind())?;
        let sealed = self.credentials.seal(&who.team_id, name, &sent.material)?;
        let rotated = self.store.credential_rotate(&who.team_id, name, known.kind, sealed, now_ms()).await;
        let row = rotated.map_err(|error| store_failure("saving the credential source", &error))?;
        self.credentials.publish(&row, Some(sent.material));
        tracing::info!(team = row.team_id, source = row.name, user = who.user_id, version = row.version, "a credential source was rotated");
        Ok(Listed { source: row, is_readable: true })
    }

    pub async fn delete_credential_source(&self, who: &Principal, name: &str) -> Result<(), ApiError> {
        let deleted = self.store.credential_delete(&who.team_id, name).await;
        let row = deleted.map_err(|error| store_failure("deleting the credential source", &error))?;
        self.credentials.withdraw(&row);
        self.credentials.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&(row.team_id.clone(), row.name.clone()));
        tracing::info!(team = row.team_id, source = row.name, user = who.user_id, version = row.version, "a credential source was deleted");
        Ok(())
    }

    fn listed(&self, source: CredentialRecord) -> Listed {
        let is_readable = self.credentials.open(&source).is_some();
        Listed { source, is_readable }
    }
}

fn version_of(row: &CredentialRecord) -> Version {
    Version { made_at_ms: row.created_at_ms, number: row.version }
}

fn same_kind(known: Kind, sent: Kind) -> Result<(), ApiError> {
    match known == sent {
        true => Ok(()),
        false => Err(ApiError::bad_request(format!("resolverKind: is {known} and cannot be changed to {sent}; make another source"))),
    }
}

#[cfg(test)]
mod tests;
