//! Script functions: their rows, and what is read with them. Versions, aliases, secrets and keys are in files of their own.

use rusqlite::{Connection, OptionalExtension, Row};
pub use sandbar_core::script::Language;
use sandbar_core::{
    limits,
    script::{AuthorKind, LIVE, ScriptSpec, Split, Trigger},
};

use crate::{Store, StoreError, error::taken, script_schedules::sync_schedule};

mod idempotency;
mod keys;
mod secrets;
mod versions;

pub(crate) use idempotency::claim as claim_key;
pub use idempotency::{Idempotency, KeyUse};
pub use keys::ScriptKey;
pub use secrets::ScriptSecret;

/// A script.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptRecord {
    pub id: String,
    pub team_id: String,
    pub name: String,
    pub trigger: Trigger,
    /// Of an event or a schedule.
    pub pattern: Option<String>,
    pub active: bool,
    pub last_version: u32,
    pub spec: ScriptSpec,
    pub created_by: Option<String>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    pub generation: i64,
}

/// Code that a script had or has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptVersion {
    pub script_id: String,
    pub number: u32,
    pub hash: String,
    pub language: Language,
    pub source: String,
    /// What is run, with lines and columns of the source; none: the source itself.
    pub code: Option<String>,
    pub author_kind: Option<AuthorKind>,
    pub created_by: Option<String>,
    pub created_at_ms: i64,
}

/// A version without its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionHead {
    pub number: u32,
    pub hash: String,
    pub language: Language,
    pub source_bytes: usize,
    pub author_kind: Option<AuthorKind>,
    pub created_by: Option<String>,
    pub created_at_ms: i64,
}

/// What an alias points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptAlias {
    pub alias: String,
    pub split: Split,
    pub updated_by: Option<String>,
    pub updated_at_ms: i64,
}

/// A script with all that belongs to it but code, as of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptWhole {
    pub script: ScriptRecord,
    /// By name; `live` is among them.
    pub aliases: Vec<ScriptAlias>,
    /// Those that aliases name.
    pub versions: Vec<VersionHead>,
    /// Names.
    pub secrets: Vec<String>,
}

const COLUMNS: &str = "id, team_id, name, trigger, pattern, active, last_version, doc, created_by, created_at_ms, updated_at_ms, generation";

impl ScriptVersion {
    /// What is said of it, and its source.
    pub fn into_head(self) -> (VersionHead, String) {
        let Self { script_id: _, number, hash, language, source, code: _, author_kind, created_by, created_at_ms } = self;
        (VersionHead { number, hash, language, source_bytes: source.len(), author_kind, created_by, created_at_ms }, source)
    }
}

impl ScriptWhole {
    pub fn alias(&self, alias: &str) -> Option<&ScriptAlias> {
        self.aliases.iter().find(|found| found.alias == alias)
    }

    /// The version that is run mostly.
    pub fn live(&self) -> Option<&VersionHead> {
        self.version(self.alias(LIVE)?.split.main())
    }

    /// One of those that aliases name.
    pub fn version(&self, number: u32) -> Option<&VersionHead> {
        self.versions.iter().find(|version| version.number == number)
    }
}

impl Store {
    /// Stores a new script with its first version, to which `live` points. A team may have a limited number.
    pub async fn script_create(&self, script: &ScriptRecord, version: &ScriptVersion) -> Result<(), StoreError> {
        let (script, version) = (script.clone(), version.clone());
        self.engine
            .write("create a script", move |c| {
                let count: usize = c.prepare_cached("SELECT count(*) FROM script WHERE team_id = ?1")?.query_row([&script.team_id], |row| row.get(0))?;
                if count >= limits::SCRIPTS_PER_TEAM_MAX {
                    return Err(StoreError::TooMany { what: "functions of this team", max: limits::SCRIPTS_PER_TEAM_MAX });
                }
                let sql = format!("INSERT INTO script ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)");
                c.prepare_cached(&sql)?
                    .execute((
                        &script.id,
                        &script.team_id,
                        &script.name,
                        script.trigger.as_str(),
                        &script.pattern,
                        script.active,
                        script.last_version,
                        doc(&script.spec)?,
                        &script.created_by,
                        script.created_at_ms,
                        script.updated_at_ms,
                        script.generation,
                    ))
                    .map_err(taken("a function of this name"))?;
                versions::insert(c, &version)?;
                sync_schedule(c, &script, script.created_at_ms)?;
                versions::put_alias(c, &script.id, LIVE, &Split::whole(version.number), script.created_by.as_deref(), script.created_at_ms)
            })
            .await
    }

    /// Replaces what can be changed of a script, if it is still of the generation that the record has, and gives it the next
    /// one. A new version becomes what `live` points to.
    pub async fn script_update(&self, script: &ScriptRecord, version: Option<ScriptVersion>) -> Result<(), StoreError> {
        let script = script.clone();
        self.engine
            .write("update a script", move |c| {
                let sql = "UPDATE script SET name = ?4, trigger = ?5, pattern = ?6, active = ?7, last_version = ?8, doc = ?9, updated_at_ms = ?10,
                    generation = generation + 1 WHERE id = ?1 AND team_id = ?2 AND generation = ?3";
                let changed = c
                    .prepare_cached(sql)?
                    .execute((
                        &script.id,
                        &script.team_id,
                        script.generation,
                        &script.name,
                        script.trigger.as_str(),
                        &script.pattern,
                        script.active,
                        script.last_version,
                        doc(&script.spec)?,
                        script.updated_at_ms,
                    ))
                    .map_err(taken("a function of this name"))?;
                if changed == 0 {
                    return Err(gone_or_stale(c, &script.id)?);
                }
                sync_schedule(c, &script, script.updated_at_ms)?;
                let Some(version) = version else { return Ok(()) };
                versions::insert(c, &version)?;
                versions::put_alias(c, &script.id, LIVE, &Split::whole(version.number), version.created_by.as_deref(), script.updated_at_ms)?;
                versions::drop_oldest(c, &script.id)
            })
            .await
    }

    /// Deletes a script with its versions, aliases, secrets and keys. Its runs stay.
    pub async fn script_delete(&self, team_id: &str, id: &str) -> Result<(), StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .write("delete a script", move |c| {
                let changed = c.prepare_cached("DELETE FROM script WHERE id = ?1 AND team_id = ?2")?.execute((&id, team_id))?;
                if changed == 0 { Err(StoreError::NotFound { what: "function", id }) } else { Ok(()) }
            })
            .await
    }

    /// A script of the team by id or name.
    pub async fn script_find(&self, team_id: &str, id_or_name: &str) -> Result<Option<ScriptWhole>, StoreError> {
        let (team_id, key) = (team_id.to_owned(), id_or_name.to_owned());
        self.engine
            .read("read a script", move |c| {
                let transaction = c.unchecked_transaction()?;
                let sql = format!("SELECT {COLUMNS} FROM script WHERE team_id = ?1 AND (id = ?2 OR name = ?2) ORDER BY id = ?2 DESC LIMIT 1");
                let found = transaction.prepare_cached(&sql)?.query_row((team_id, key), |row| Ok(record(row))).optional()?.transpose()?;
                found.map(|script| whole(&transaction, script)).transpose()
            })
            .await
    }

    /// A script of whatever team by id.
    pub async fn script_get(&self, id: &str) -> Result<Option<ScriptWhole>, StoreError> {
        let id = id.to_owned();
        self.engine
            .read("read a script", move |c| {
                let transaction = c.unchecked_transaction()?;
                let sql = format!("SELECT {COLUMNS} FROM script WHERE id = ?1");
                let found = transaction.prepare_cached(&sql)?.query_row([id], |row| Ok(record(row))).optional()?.transpose()?;
                found.map(|script| whole(&transaction, script)).transpose()
            })
            .await
    }

    /// The team's scripts by name.
    pub async fn scripts_list(&self, team_id: &str) -> Result<Vec<ScriptWhole>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list scripts", move |c| {
                let transaction = c.unchecked_transaction()?;
                let mut statement = transaction.prepare_cached(&format!("SELECT {COLUMNS} FROM script WHERE team_id = ?1 ORDER BY name"))?;
                let rows = statement.query_map([team_id], |row| Ok(record(row)))?;
                rows.map(|row| whole(&transaction, row??)).collect()
            })
            .await
    }
}

/// A script with what belongs to it.
fn whole(c: &Connection, script: ScriptRecord) -> Result<ScriptWhole, StoreError> {
    let aliases = versions::aliases(c, &script.id)?;
    let mut numbers: Vec<u32> = aliases.iter().flat_map(|alias| alias.split.parts()).map(|part| part.version).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut versions = Vec::with_capacity(numbers.len());
    for number in numbers {
        versions.extend(versions::head_of(c, &script.id, number)?);
    }
    let secrets = secrets::names(c, &script.id)?;
    Ok(ScriptWhole { script, aliases, versions, secrets })
}

fn doc(spec: &ScriptSpec) -> Result<String, StoreError> {
    serde_json::to_string(spec).map_err(|e| StoreError::corrupt("script", &e))
}

fn gone_or_stale(c: &Connection, id: &str) -> Result<StoreError, StoreError> {
    let exists = c.prepare_cached("SELECT 1 FROM script WHERE id = ?1")?.exists([id])?;
    Ok(if exists { StoreError::Stale { what: "function", id: id.to_owned() } } else { StoreError::NotFound { what: "function", id: id.to_owned() } })
}

fn record(row: &Row<'_>) -> Result<ScriptRecord, StoreError> {
    let (trigger, doc): (String, String) = (row.get(3)?, row.get(7)?);
    Ok(ScriptRecord {
        id: row.get(0)?,
        team_id: row.get(1)?,
        name: row.get(2)?,
        trigger: Trigger::named(&trigger).ok_or_else(|| StoreError::corrupt("script", &format!("trigger {trigger:?}")))?,
        pattern: row.get(4)?,
        active: row.get(5)?,
        last_version: row.get(6)?,
        spec: serde_json::from_str(&doc).map_err(|e| StoreError::corrupt("script", &e))?,
        created_by: row.get(8)?,
        created_at_ms: row.get(9)?,
        updated_at_ms: row.get(10)?,
        generation: row.get(11)?,
    })
}
