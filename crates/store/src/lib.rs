//! Durable state behind domain verbs. SQLite now; whatever comes next answers the same verbs and passes the same tests.
//!
//! A verb that changes something returns once the change is on the disk. Every change of a row that depends on its state
//! names the version it saw, and a stale one is refused ([`StoreError::Stale`]).
#![forbid(unsafe_code)]

mod app_launch;
mod app_receipts;
mod app_runs;
mod app_schedules;
mod apps;
mod collections;
mod credentials;
mod engine;
mod error;
mod functions;
mod invocations;
mod items;
mod keys;
mod logins;
mod previews;
mod quotas;
mod sandboxes;
mod schedules;
mod schema;
mod script_events;
mod script_jobs;
mod script_runs;
mod script_schedules;
mod scripts;
mod snapshots;
mod ssh_keys;
mod teams;
mod templates;
mod usage;
mod users;
mod volumes;
mod webhooks;

use std::{path::Path, sync::Arc};

use rusqlite::OptionalExtension;

pub use app_receipts::{ChainPlace, ReceiptPage, ReceiptRecord, ReceiptsGone, ReceiptsKept, SignReceipt, SignedReceipt};
pub use app_runs::{AppRun, AppRunEnd, AppRunFilter, CancelMet, InsertedRun, NewAppRun, PrunedRun, Which};
pub use app_schedules::{
    AppLastRun, AppScheduleRecord, AppStepped, AppTick, fresh as fresh_schedule, resumed as resumed_schedule, retimed as retimed_schedule,
};
pub use apps::{AppEnv, AppRecord, AppSandboxRecord, AppVersionRecord, AppVolumeRecord, DeletedApp, NewAppSetup, NewAppVersion, Pruned};
pub use credentials::CredentialRecord;
pub use error::StoreError;
pub use functions::{FunctionEvent, FunctionWhole, Released, RevisionRow};
pub use invocations::{InvocationRecord, InvocationStatus};
pub use items::{ItemQuery, ItemsFound};
pub use keys::ApiKey;
pub use logins::{LoginToken, Rotation, TokenKind};
pub use quotas::{QuotaRecord, TeamUse};
pub use sandboxes::{EventRecord, ListFilter, NewEvent};
pub use script_events::{DEAD_LETTER_EVENT, NewScriptEvent, ScriptEvent};
pub use script_jobs::{Busy, Claimed, JobEnd, JobFilter, JobKind, JobState, ListedJob, ScriptJob};
pub use script_runs::{RunFilter, RunStatus, ScriptRun};
pub use script_schedules::{ScriptSchedule, ScriptTick, Stepped};
pub use scripts::{Idempotency, KeyUse, Language, ScriptAlias, ScriptKey, ScriptRecord, ScriptSecret, ScriptVersion, ScriptWhole, VersionHead};
pub use snapshots::{Named, SnapshotRecord};
pub use ssh_keys::{SshKey, SshKeyHolder};
pub use teams::{Member, MemberRow, Team};
pub use templates::TemplateRecord;
pub use usage::{UsageAdd, UsageCursor, UsageRecord};
pub use users::{Install, User};
pub use volumes::{DeletedVolume, Holder, VolumeRecord, VolumeSnapshotRecord};
pub use webhooks::{Attempt, DeliveryRecord, DeliveryState, Due, Ended, NewDelivery, Taken, WebhookRecord};

use engine::Engine;

/// The durable state. Cloning shares it; the last clone that is dropped closes it.
#[derive(Clone)]
pub struct Store {
    engine: Arc<Engine>,
    turns: Arc<items::Turns>,
}

impl Store {
    /// Opens the database file, making or migrating it as needed. Blocks for the disk.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { engine: Arc::new(Engine::open(path, engine::SLACK_BYTES)?), turns: Arc::new(items::Turns::new()) })
    }

    /// Lets what was asked for finish, copies the log into the database, and ends the threads. Every verb of every clone
    /// fails from now on. Not calling it loses nothing.
    pub async fn close(&self) -> Result<(), StoreError> {
        let engine = Arc::clone(&self.engine);
        tokio::task::spawn_blocking(move || engine.close()).await.map_err(|_| StoreError::Closed)?
    }

    /// A value that is remembered under a name.
    pub async fn meta_get(&self, key: &str) -> Result<Option<String>, StoreError> {
        let key = key.to_owned();
        self.engine
            .read("read a value", move |c| Ok(c.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()?))
            .await
    }

    /// Remembers a value under a name.
    pub async fn meta_set(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.engine
            .write("write a value", move |c| {
                c.prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value")?
                    .execute([key, value])?;
                Ok(())
            })
            .await
    }

    /// One small write that is waited for: what every durable change costs at least.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.meta_set("probe", "").await
    }
}
