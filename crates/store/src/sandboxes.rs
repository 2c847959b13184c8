//! Sandboxes and their events.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use sandbar_api::{sandbox::SandboxConfig, template::TemplateSpec};
use sandbar_core::{
    credential::{self, Binding},
    lifecycle::{self, Status},
    limits,
    sandbox::{Base, Desired, Mount, SandboxRecord},
    validate,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{NewDelivery, Store, StoreError, credentials, error::taken, webhooks};

/// Which sandboxes to list. `None` = any.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    pub team_id: String,
    /// Any of these; an empty list matches nothing. See [`lifecycle::statuses_named`].
    pub statuses: Option<Vec<Status>>,
    pub template_id: Option<String>,
    pub paused: Option<bool>,
    /// Also those that serve functions or build apps.
    pub instances: bool,
    pub limit: u32,
    pub offset: u32,
}

/// Something that happened to a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventRecord {
    /// From 1, without gaps until the oldest are dropped.
    pub seq: i64,
    pub at_ms: i64,
    /// Such as `sandbox.paused`.
    pub kind: String,
    pub message: String,
    pub data: Value,
}

/// An event that is to be appended.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub at_ms: i64,
    pub kind: String,
    pub message: String,
    /// Null when there is nothing to add.
    pub data: Value,
    /// What of it is posted to the sandbox's webhook, if it has one.
    pub deliveries: Vec<NewDelivery>,
}

impl NewEvent {
    pub fn new(at_ms: i64, kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at_ms, kind: kind.into(), message: message.into(), data: Value::Null, deliveries: Vec::new() }
    }
}

/// What of a record has no column of its own.
#[derive(Serialize, Deserialize)]
struct Doc {
    user_id: String,
    template: TemplateSpec,
    config: SandboxConfig,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    mounts: Vec<Mount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<Base>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous_runtime_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pid_start: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    ttl_s: u32,
    hard_ttl_s: u32,
    claimed_at_ms: i64,
}

/// Rows of the first version have null where there were no mounts.
fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Mount>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

const COLUMNS: &str = "id, team_id, template_id, desired, desired_generation, observed, observed_generation, runtime_generation, runtime_id, root_id, uid_slot, expires_at_ms, hard_expires_at_ms, hibernate_at_ms, created_at_ms, updated_at_ms, version, doc";

impl Store {
    /// Stores a new sandbox with its first events. A team may have a limited number.
    pub async fn sandbox_insert(&self, record: &SandboxRecord, events: &[NewEvent]) -> Result<(), StoreError> {
        self.sandbox_insert_on(record, events, HashMap::new()).await
    }

    /// The same for one with a runtime: `trees` are those of its volumes that it was launched on. Refused as stale when a
    /// volume has got other files since.
    pub async fn sandbox_insert_on(&self, record: &SandboxRecord, events: &[NewEvent], trees: HashMap<String, String>) -> Result<(), StoreError> {
        let (record, events) = (record.clone(), events.to_vec());
        self.engine
            .write("insert a sandbox", move |c| {
                // Counts no further than the limit, along an index.
                let sql = "SELECT count(*) FROM (SELECT 1 FROM sandbox WHERE team_id = ?1 LIMIT ?2)";
                let count: usize = c.prepare_cached(sql)?.query_row((&record.team_id, limits::SANDBOXES_PER_TEAM_MAX), |row| row.get(0))?;
                if count >= limits::SANDBOXES_PER_TEAM_MAX {
                    return Err(StoreError::TooMany { what: "sandboxes of this team", max: limits::SANDBOXES_PER_TEAM_MAX });
                }
                let size = validate::effective_resources(&record.template, &record.config);
                let active = record.desired == Desired::Active;
                crate::quotas::check_sandbox(c, &record.team_id, active, size.memory_bytes, size.cpu_millis, size.disk_bytes)?;
                insert(c, &record)?;
                crate::volumes::put_mounts(c, &record, true, &trees)?;
                if record.config.webhook.is_some() {
                    webhooks::put(c, &record)?;
                }
                append(c, &record.id, &events)
            })
            .await
    }

    /// A sandbox; with a team, only one of that team.
    pub async fn sandbox_get(&self, team_id: Option<&str>, id: &str) -> Result<Option<SandboxRecord>, StoreError> {
        let (team_id, id) = (team_id.map(str::to_owned), id.to_owned());
        self.engine
            .read("read a sandbox", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM sandbox WHERE id = ?1 AND (?2 IS NULL OR team_id = ?2)");
                let found = c.prepare_cached(&sql)?.query_row((id, team_id), |row| Ok(record(row))).optional()?;
                found.transpose()
            })
            .await
    }

    /// A page of sandboxes, newest first, and how many match in all.
    pub async fn sandbox_list(&self, filter: ListFilter) -> Result<(Vec<SandboxRecord>, u64), StoreError> {
        self.engine
            .read("list sandboxes", move |c| {
                const WHERE: &str = "team_id = :team AND (:status IS NULL OR status IN (SELECT value FROM json_each(:status))) AND (:template IS NULL OR template_id = :template) AND (:paused IS NULL OR paused = :paused) AND (:instances OR NOT EXISTS (SELECT 1 FROM function_instance WHERE sandbox_id = sandbox.id) AND NOT EXISTS (SELECT 1 FROM app_sandbox WHERE sandbox_id = sandbox.id AND kind = 'build'))";
                let status = filter.statuses.as_ref().map(|list| serde_json::json!(list.iter().map(|s| s.as_str()).collect::<Vec<_>>()).to_string());
                // One snapshot for the page and the count.
                let transaction = c.unchecked_transaction()?;
                let total: u64 = transaction.prepare_cached(&format!("SELECT count(*) FROM sandbox WHERE {WHERE}"))?.query_row(
                    named_params! {":team": filter.team_id, ":status": status, ":template": filter.template_id, ":paused": filter.paused, ":instances": filter.instances},
                    |row| row.get(0),
                )?;
                let sql = format!("SELECT {COLUMNS} FROM sandbox WHERE {WHERE} ORDER BY created_at_ms DESC, id LIMIT :limit OFFSET :offset");
                let mut statement = transaction.prepare_cached(&sql)?;
                let rows = statement.query_map(
                    named_params! {":team": filter.team_id, ":status": status, ":template": filter.template_id, ":paused": filter.paused, ":instances": filter.instances, ":limit": filter.limit, ":offset": filter.offset},
                    |row| Ok(record(row)),
                )?;
                let page = rows.map(|row| row?).collect::<Result<Vec<_>, _>>()?;
                Ok((page, total))
            })
            .await
    }

    /// Stores the new state of a sandbox whose stored version must be `seen_version`, and appends events with it. Returns
    /// the version that the row has now, whatever `record` says of it.
    pub async fn sandbox_update(&self, record: &SandboxRecord, seen_version: i64, events: &[NewEvent]) -> Result<i64, StoreError> {
        self.sandbox_update_on(record, seen_version, events, HashMap::new()).await
    }

    /// The same for one whose runtime was launched since: see [`Store::sandbox_insert_on`].
    pub async fn sandbox_update_on(
        &self,
        record: &SandboxRecord,
        seen_version: i64,
        events: &[NewEvent],
        trees: HashMap<String, String>,
    ) -> Result<i64, StoreError> {
        let (mut record, events) = (record.clone(), events.to_vec());
        record.version = seen_version + 1;
        self.engine
            .write("update a sandbox", move |c| {
                crate::quotas::check_growth(c, &record)?;
                update(c, &record, seen_version)?;
                crate::volumes::put_mounts(c, &record, false, &trees)?;
                webhooks::put(c, &record)?;
                if record.desired == Desired::Deleted {
                    // In the same commit, so that whoever makes the next sandbox of the app has volumes of its own.
                    crate::apps::end_volumes_with_sandbox(c, &record.id)?;
                }
                append(c, &record.id, &events)?;
                Ok(record.version)
            })
            .await
    }

    /// Removes a sandbox's row and events.
    pub async fn sandbox_delete(&self, id: &str, seen_version: i64) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.engine
            .write("delete a sandbox", move |c| {
                let changed = c.prepare_cached("DELETE FROM sandbox WHERE id = ?1 AND version = ?2")?.execute((&id, seen_version))?;
                if changed == 0 { Err(stale_or_missing(c, &id)?) } else { Ok(()) }
            })
            .await
    }

    /// Every sandbox of every team, oldest first: what a server that starts has to look after.
    pub async fn sandboxes_all(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        self.engine
            .read("read all sandboxes", |c| {
                let mut statement = c.prepare(&format!("SELECT {COLUMNS} FROM sandbox ORDER BY created_at_ms, id"))?;
                let rows = statement.query_map([], |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// How many sandboxes of all teams are in which state.
    pub async fn sandbox_counts(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.engine
            .read("count sandboxes by state", |c| {
                let mut statement = c.prepare_cached("SELECT status, count(*) FROM sandbox GROUP BY status")?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// How many of a team's sandboxes start or run, by template.
    pub async fn sandbox_counts_by_template(&self, team_id: &str) -> Result<HashMap<String, u64>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("count sandboxes by template", move |c| {
                let mut statement =
                    c.prepare_cached("SELECT template_id, count(*) FROM sandbox WHERE team_id = ?1 AND status IN (?2, ?3) GROUP BY template_id")?;
                let rows = statement.query_map((team_id, Status::Starting.as_str(), Status::Running.as_str()), |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// The moment of the next deadline of any sandbox.
    pub async fn next_deadline(&self) -> Result<Option<i64>, StoreError> {
        self.engine
            .read("read the next deadline", |c| {
                Ok(c.prepare_cached("SELECT min(due_at_ms) FROM sandbox WHERE due_at_ms IS NOT NULL")?.query_row([], |row| row.get(0))?)
            })
            .await
    }

    /// Ids of sandboxes with a deadline that has come, the longest due first.
    pub async fn due(&self, now_ms: i64, limit: u32) -> Result<Vec<String>, StoreError> {
        self.engine
            .read("read due sandboxes", move |c| {
                let mut statement = c.prepare_cached("SELECT id FROM sandbox WHERE due_at_ms IS NOT NULL AND due_at_ms <= ?1 ORDER BY due_at_ms LIMIT ?2")?;
                let rows = statement.query_map((now_ms, limit), |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Appends events without touching the sandbox. Keeps the newest [`limits::EVENTS_PER_SANDBOX_MAX`].
    pub async fn event_append(&self, sandbox_id: &str, events: &[NewEvent]) -> Result<(), StoreError> {
        let (id, events) = (sandbox_id.to_owned(), events.to_vec());
        self.engine
            .write("append an event", move |c| {
                let exists = c.prepare_cached("SELECT 1 FROM sandbox WHERE id = ?1")?.exists([&id])?;
                if !exists {
                    return Err(StoreError::NotFound { what: "sandbox", id });
                }
                append(c, &id, &events)
            })
            .await
    }

    /// Events after a sequence number (0 = from the oldest kept), in order.
    pub async fn events_list(&self, sandbox_id: &str, after_seq: i64, limit: u32) -> Result<Vec<EventRecord>, StoreError> {
        let id = sandbox_id.to_owned();
        self.engine
            .read("list events", move |c| {
                let mut statement =
                    c.prepare_cached("SELECT seq, at_ms, kind, message, data FROM sandbox_event WHERE sandbox_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3")?;
                let rows = statement.query_map((id, after_seq, limit), |row| {
                    let data: String = row.get(4)?;
                    Ok(EventRecord {
                        seq: row.get(0)?,
                        at_ms: row.get(1)?,
                        kind: row.get(2)?,
                        message: row.get(3)?,
                        data: serde_json::from_str(&data).unwrap_or(Value::Null),
                    })
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }
}

fn insert(c: &Connection, record: &SandboxRecord) -> Result<(), StoreError> {
    let sql = "INSERT INTO sandbox (id, team_id, template_id, status, paused, desired, desired_generation, observed, observed_generation, runtime_generation, runtime_id, root_id, uid_slot, expires_at_ms, hard_expires_at_ms, hibernate_at_ms, due_at_ms, created_at_ms, updated_at_ms, version, memory_bytes, cpu_millis, disk_bytes, credentials, doc)
        VALUES (:id, :team_id, :template_id, :status, :paused, :desired, :desired_generation, :observed, :observed_generation, :runtime_generation, :runtime_id, :root_id, :uid_slot, :expires_at_ms, :hard_expires_at_ms, :hibernate_at_ms, :due_at_ms, :created_at_ms, :updated_at_ms, :version, :memory_bytes, :cpu_millis, :disk_bytes, :credentials, :doc)";
    let credentials = credentials::checked(c, &record.team_id, &bindings(&record.template, &record.config), &[])?;
    execute(c, sql, record, credentials.as_deref(), None).map(|_| ())
}

fn update(c: &Connection, record: &SandboxRecord, seen_version: i64) -> Result<(), StoreError> {
    // The team is in the guard so that the row of one team can never become another's.
    let sql = "UPDATE sandbox SET template_id = :template_id, status = :status, paused = :paused, desired = :desired, desired_generation = :desired_generation, observed = :observed, observed_generation = :observed_generation,
        runtime_generation = :runtime_generation, runtime_id = :runtime_id, root_id = :root_id, uid_slot = :uid_slot, expires_at_ms = :expires_at_ms, hard_expires_at_ms = :hard_expires_at_ms, hibernate_at_ms = :hibernate_at_ms,
        due_at_ms = :due_at_ms, created_at_ms = :created_at_ms, updated_at_ms = :updated_at_ms, version = :version, memory_bytes = :memory_bytes, cpu_millis = :cpu_millis, disk_bytes = :disk_bytes, credentials = :credentials, doc = :doc
        WHERE id = :id AND team_id = :team_id AND version = :seen_version";
    let bound = bindings(&record.template, &record.config);
    let before = if bound.is_empty() { Vec::new() } else { bindings_of(c, &record.id)? };
    let credentials = credentials::checked(c, &record.team_id, &bound, &before)?;
    match execute(c, sql, record, credentials.as_deref(), Some(seen_version))? {
        0 => Err(stale_or_missing(c, &record.id)?),
        _ => Ok(()),
    }
}

/// What the network policy of a sandbox binds.
fn bindings(template: &TemplateSpec, config: &SandboxConfig) -> Vec<Binding> {
    credential::bindings(template.network.as_ref(), config.network.as_ref())
}

/// The same of a row as it is stored.
fn bindings_of(c: &Connection, id: &str) -> Result<Vec<Binding>, StoreError> {
    let doc: Option<String> = c.prepare_cached("SELECT doc FROM sandbox WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()?;
    let Some(doc) = doc else { return Ok(Vec::new()) };
    let doc: Doc = serde_json::from_str(&doc).map_err(|e| StoreError::corrupt("sandbox", &e))?;
    Ok(bindings(&doc.template, &doc.config))
}

fn execute(c: &Connection, sql: &str, record: &SandboxRecord, credentials: Option<&str>, seen_version: Option<i64>) -> Result<usize, StoreError> {
    let status = lifecycle::status(record);
    let doc = Doc {
        user_id: record.user_id.clone(),
        template: record.template.clone(),
        config: record.config.clone(),
        mounts: record.mounts.clone(),
        base: record.base.clone(),
        previous_runtime_id: record.previous_runtime_id.clone(),
        pid: record.pid,
        pid_start: record.pid_start,
        reason_code: record.reason_code.clone(),
        reason: record.reason.clone(),
        ttl_s: record.ttl_s,
        hard_ttl_s: record.hard_ttl_s,
        claimed_at_ms: record.claimed_at_ms,
    };
    let doc = serde_json::to_string(&doc).map_err(|e| StoreError::corrupt("sandbox", &e))?;
    let size = validate::effective_resources(&record.template, &record.config);
    let due_at_ms = lifecycle::next_deadline(record).map(|(at, _)| at);
    let (status, paused, desired, observed) = (status.as_str(), lifecycle::is_paused(status), record.desired.as_str(), record.observed.as_str());
    let mut params: Vec<(&str, &dyn rusqlite::ToSql)> = vec![
        (":id", &record.id),
        (":team_id", &record.team_id),
        (":template_id", &record.template_id),
        (":status", &status),
        (":paused", &paused),
        (":desired", &desired),
        (":desired_generation", &record.desired_generation),
        (":observed", &observed),
        (":observed_generation", &record.observed_generation),
        (":runtime_generation", &record.runtime_generation),
        (":runtime_id", &record.runtime_id),
        (":root_id", &record.root_id),
        (":uid_slot", &record.uid_slot),
        (":expires_at_ms", &record.expires_at_ms),
        (":hard_expires_at_ms", &record.hard_expires_at_ms),
        (":hibernate_at_ms", &record.hibernate_at_ms),
        (":due_at_ms", &due_at_ms),
        (":created_at_ms", &record.created_at_ms),
        (":updated_at_ms", &record.updated_at_ms),
        (":version", &record.version),
        (":memory_bytes", &size.memory_bytes),
        (":cpu_millis", &size.cpu_millis),
        (":disk_bytes", &size.disk_bytes),
        (":credentials", &credentials),
        (":doc", &doc),
    ];
    if let Some(seen_version) = &seen_version {
        params.push((":seen_version", seen_version));
    }
    c.prepare_cached(sql)?.execute(params.as_slice()).map_err(taken("sandbox"))
}

fn record(row: &Row<'_>) -> Result<SandboxRecord, StoreError> {
    let doc: String = row.get(17)?;
    let doc: Doc = serde_json::from_str(&doc).map_err(|e| StoreError::corrupt("sandbox", &e))?;
    let (desired, observed): (String, String) = (row.get(3)?, row.get(5)?);
    Ok(SandboxRecord {
        id: row.get(0)?,
        team_id: row.get(1)?,
        user_id: doc.user_id,
        template_id: row.get(2)?,
        template: doc.template,
        config: doc.config,
        mounts: doc.mounts,
        base: doc.base,
        desired: desired.parse().map_err(|e| StoreError::corrupt("sandbox", &e))?,
        desired_generation: row.get(4)?,
        observed: observed.parse().map_err(|e| StoreError::corrupt("sandbox", &e))?,
        observed_generation: row.get(6)?,
        runtime_generation: row.get(7)?,
        runtime_id: row.get(8)?,
        previous_runtime_id: doc.previous_runtime_id,
        root_id: row.get(9)?,
        uid_slot: row.get(10)?,
        pid: doc.pid,
        pid_start: doc.pid_start,
        reason_code: doc.reason_code,
        reason: doc.reason,
        ttl_s: doc.ttl_s,
        hard_ttl_s: doc.hard_ttl_s,
        expires_at_ms: row.get(11)?,
        hard_expires_at_ms: row.get(12)?,
        hibernate_at_ms: row.get(13)?,
        claimed_at_ms: doc.claimed_at_ms,
        created_at_ms: row.get(14)?,
        updated_at_ms: row.get(15)?,
        version: row.get(16)?,
    })
}

fn append(c: &Connection, sandbox_id: &str, events: &[NewEvent]) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let mut seq: i64 = c.prepare_cached("SELECT coalesce(max(seq), 0) FROM sandbox_event WHERE sandbox_id = ?1")?.query_row([sandbox_id], |row| row.get(0))?;
    let mut statement = c.prepare_cached("INSERT INTO sandbox_event (sandbox_id, seq, at_ms, kind, message, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for event in events {
        seq += 1;
        statement.execute((sandbox_id, seq, event.at_ms, &event.kind, &event.message, event.data.to_string()))?;
        webhooks::enqueue(c, sandbox_id, event.at_ms, &event.deliveries)?;
    }
    c.prepare_cached("DELETE FROM sandbox_event WHERE sandbox_id = ?1 AND seq <= ?2")?.execute((sandbox_id, seq - limits::EVENTS_PER_SANDBOX_MAX))?;
    Ok(())
}

fn stale_or_missing(c: &Connection, id: &str) -> Result<StoreError, StoreError> {
    let exists = c.prepare_cached("SELECT 1 FROM sandbox WHERE id = ?1")?.exists([id])?;
    let id = id.to_owned();
    Ok(if exists { StoreError::Stale { what: "sandbox", id } } else { StoreError::NotFound { what: "sandbox", id } })
}
