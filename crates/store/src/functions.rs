//! Functions, their revisions and aliases. Publishing is one commit: before it nothing of a revision is to be seen, after
//! it all.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{
    credential,
    function::{AliasRecord, Autoscaling, FunctionRecord, PRODUCTION, RevisionRecord, Split, Target},
    limits,
    sandbox::Base,
};
use serde::{Deserialize, Serialize};

use crate::{Store, StoreError, credentials, error::taken};

mod instances;

/// A revision and what became known of it since.
#[derive(Debug, Clone, PartialEq)]
pub struct RevisionRow {
    pub revision: RevisionRecord,
    /// When it was ready for the first time.
    pub proved_at_ms: Option<i64>,
}

/// A function with all that is needed to serve it.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionWhole {
    pub function: FunctionRecord,
    /// By name.
    pub aliases: Vec<AliasRecord>,
    /// Those that aliases name.
    pub revisions: Vec<RevisionRow>,
    /// The number of the newest revision that was published from a sandbox, by sandbox.
    pub newest_from_source: HashMap<String, i64>,
}

/// What rows named of the disk and do not any more.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Released {
    pub bases: Vec<Base>,
    pub trees: Vec<String>,
}

/// Something that happened to a function.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionEvent {
    /// From 1, without gaps until the oldest are dropped. Given by the store.
    #[serde(skip)]
    pub seq: i64,
    #[serde(skip)]
    pub at_ms: i64,
    /// Such as `function.published`.
    pub kind: String,
    pub message: String,
    /// How far an instance is, when it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_number: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_ms: Option<i64>,
}

const COLUMNS: &str = "id, team_id, name, slug, domain_label, enabled, autoscaling, created_by, created_at_ms, updated_at_ms, deleted_at_ms";

impl Store {
    /// Stores a new function with its first revision, to which `production` points. A team may have a limited number. Returns
    /// the revision's number and the alias.
    pub async fn function_create(
        &self,
        function: &FunctionRecord,
        revision: &RevisionRecord,
        event: FunctionEvent,
    ) -> Result<(RevisionRecord, AliasRecord), StoreError> {
        let (function, revision) = (function.clone(), revision.clone());
        self.engine
            .write("create a function", move |c| {
                let sql = "SELECT count(*) FROM function WHERE team_id = ?1 AND deleted_at_ms IS NULL";
                let count: usize = c.prepare_cached(sql)?.query_row([&function.team_id], |row| row.get(0))?;
                if count >= limits::FUNCTIONS_PER_TEAM_MAX {
                    return Err(StoreError::TooMany { what: "functions of this team", max: limits::FUNCTIONS_PER_TEAM_MAX });
                }
                let sql = format!("INSERT INTO function ({COLUMNS}, last_revision) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0)");
                c.prepare_cached(&sql)?
                    .execute((
                        &function.id,
                        &function.team_id,
                        &function.name,
                        &function.slug,
                        &function.domain_label,
                        function.enabled,
                        json(&function.autoscaling)?,
                        &function.created_by,
                        function.created_at_ms,
                        function.updated_at_ms,
                        function.deleted_at_ms,
                    ))
                    .map_err(taken("function name"))?;
                let revision = insert_revision(c, revision)?;
                let alias = AliasRecord {
                    function_id: function.id.clone(),
                    alias: PRODUCTION.to_owned(),
                    split: Split::whole(&revision.id, revision.number),
                    updated_by: function.created_by.clone(),
                    updated_at_ms: function.created_at_ms,
                };
                put_alias(c, &alias)?;
                append(c, &function.id, FunctionEvent { revision_number: Some(revision.number), ..event })?;
                Ok((revision, alias))
            })
            .await
    }

    /// Whether a slug or a label is taken, also by a function that was deleted.
    pub async fn function_name_taken(&self, team_id: &str, slug: &str, domain_label: &str) -> Result<bool, StoreError> {
        let (team_id, slug, label) = (team_id.to_owned(), slug.to_owned(), domain_label.to_owned());
        self.engine
            .read("look for a function's name", move |c| {
                let sql = "SELECT 1 FROM function WHERE (team_id = ?1 AND slug = ?2) OR domain_label = ?3";
                Ok(c.prepare_cached(sql)?.exists((team_id, slug, label))?)
            })
            .await
    }

    /// A function of the team by id or slug, unless it was deleted.
    pub async fn function_find(&self, team_id: &str, id_or_slug: &str) -> Result<Option<FunctionRecord>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id_or_slug.to_owned());
        self.engine
            .read("read a function", move |c| {
                let sql =
                    format!("SELECT {COLUMNS} FROM function WHERE team_id = ?1 AND (id = ?2 OR slug = ?2) AND deleted_at_ms IS NULL ORDER BY id = ?2 DESC");
                c.prepare_cached(&sql)?.query_row((team_id, id), |row| Ok(record(row))).optional()?.transpose()
            })
            .await
    }

    /// The team's functions, the last changed first.
    pub async fn functions_list(&self, team_id: &str) -> Result<Vec<FunctionRecord>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list functions", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM function WHERE team_id = ?1 AND deleted_at_ms IS NULL ORDER BY updated_at_ms DESC, id");
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map([team_id], |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// The function that has a label, with what is needed to serve it, unless it was deleted.
    pub async fn function_by_label(&self, label: &str) -> Result<Option<FunctionWhole>, StoreError> {
        self.whole("domain_label", label).await
    }

    /// The same by id.
    pub async fn function_whole(&self, id: &str) -> Result<Option<FunctionWhole>, StoreError> {
        self.whole("id", id).await
    }

    async fn whole(&self, column: &'static str, key: &str) -> Result<Option<FunctionWhole>, StoreError> {
        let key = key.to_owned();
        self.engine
            .read("read a function to serve", move |c| {
                // One snapshot of it all.
                let transaction = c.unchecked_transaction()?;
                let sql = format!("SELECT {COLUMNS} FROM function WHERE {column} = ?1 AND deleted_at_ms IS NULL");
                let found = transaction.prepare_cached(&sql)?.query_row([key], |row| Ok(record(row))).optional()?.transpose()?;
                let Some(function) = found else { return Ok(None) };
                let aliases = aliases(&transaction, &function.id)?;
                let mut named: Vec<&str> = aliases.iter().flat_map(|alias| &alias.split.targets).map(|target| target.revision_id.as_str()).collect();
                named.sort_unstable();
                named.dedup();
                let mut revisions = Vec::with_capacity(named.len());
                for id in named {
                    let sql = "SELECT doc, number, proved_at_ms FROM function_revision WHERE id = ?1";
                    revisions.extend(transaction.prepare_cached(sql)?.query_row([id], |row| Ok(revision(row))).optional()?.transpose()?);
                }
                let mut statement = transaction.prepare_cached(
                    "SELECT source_sandbox_id, max(number) FROM function_revision WHERE function_id = ?1 AND source_sandbox_id IS NOT NULL GROUP BY 1",
                )?;
                let rows = statement.query_map([&function.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
                let newest_from_source = rows.collect::<Result<_, _>>()?;
                drop(statement);
                Ok(Some(FunctionWhole { function, aliases, revisions, newest_from_source }))
            })
            .await
    }

    /// What `production` points to, by function of a team.
    pub async fn productions(&self, team_id: &str) -> Result<HashMap<String, Split>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("read production aliases", move |c| {
                let sql = "SELECT function_id, split FROM function_alias WHERE alias = ?2 AND function_id IN (SELECT id FROM function WHERE team_id = ?1)";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map((team_id, PRODUCTION), |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
                rows.map(|row| {
                    let (id, split) = row?;
                    Ok((id, read(&split)?))
                })
                .collect()
            })
            .await
    }

    /// The functions of all teams that want instances kept ready: their ids.
    pub async fn functions_warm(&self) -> Result<Vec<String>, StoreError> {
        self.engine
            .read("read functions with warm instances", |c| {
                let sql = "SELECT id FROM function WHERE deleted_at_ms IS NULL AND enabled AND json_extract(autoscaling, '$.min_warm') > 0 ORDER BY id";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map([], |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Changes what can be changed of a function. Absent fields are kept.
    pub async fn function_update(
        &self,
        id: &str,
        name: Option<String>,
        enabled: Option<bool>,
        autoscaling: Option<Autoscaling>,
        event: FunctionEvent,
    ) -> Result<FunctionRecord, StoreError> {
        let id = id.to_owned();
        self.engine
            .write("update a function", move |c| {
                let autoscaling = autoscaling.map(|autoscaling| json(&autoscaling)).transpose()?;
                let sql = format!(
                    "UPDATE function SET name = coalesce(?2, name), enabled = coalesce(?3, enabled), autoscaling = coalesce(?4, autoscaling), updated_at_ms = ?5
                    WHERE id = ?1 AND deleted_at_ms IS NULL RETURNING {COLUMNS}"
                );
                let updated =
                    c.prepare_cached(&sql)?.query_row((&id, name, enabled, autoscaling, event.at_ms), |row| Ok(record(row))).optional()?.transpose()?;
                let updated = updated.ok_or_else(|| StoreError::NotFound { what: "function", id: id.clone() })?;
                append(c, &id, event)?;
                Ok(updated)
            })
            .await
    }

    /// Deletes a function with its revisions and aliases. Its name and its label stay taken. Returns what it named.
    pub async fn function_delete(&self, id: &str, now_ms: i64) -> Result<(FunctionRecord, Released), StoreError> {
        let id = id.to_owned();
        self.engine
            .write("delete a function", move |c| {
                let sql = format!("UPDATE function SET deleted_at_ms = ?2, updated_at_ms = ?2 WHERE id = ?1 AND deleted_at_ms IS NULL RETURNING {COLUMNS}");
                let deleted = c.prepare_cached(&sql)?.query_row((&id, now_ms), |row| Ok(record(row))).optional()?.transpose()?;
                let deleted = deleted.ok_or_else(|| StoreError::NotFound { what: "function", id: id.clone() })?;
                c.prepare_cached("DELETE FROM function_alias WHERE function_id = ?1")?.execute([&id])?;
                c.prepare_cached("DELETE FROM function_event WHERE function_id = ?1")?.execute([&id])?;
                let mut statement = c.prepare_cached("DELETE FROM function_revision WHERE function_id = ?1 RETURNING doc, number, proved_at_ms")?;
                let mut released = Released::default();
                for row in statement.query_map([&id], |row| Ok(revision(row)))? {
                    released.add(row??.revision);
                }
                Ok((deleted, released))
            })
            .await
    }

    /// Stores a new revision, which no alias names yet. A function may have a limited number. Returns it with its number.
    pub async fn revision_create(&self, revision: &RevisionRecord, event: FunctionEvent) -> Result<RevisionRecord, StoreError> {
        let revision = revision.clone();
        self.engine
            .write("create a revision", move |c| {
                let sql = "SELECT count(*) FROM function_revision WHERE function_id = ?1";
                let count: usize = c.prepare_cached(sql)?.query_row([&revision.function_id], |row| row.get(0))?;
                if count >= limits::REVISIONS_PER_FUNCTION_MAX {
                    return Err(StoreError::TooMany { what: "revisions of this function", max: limits::REVISIONS_PER_FUNCTION_MAX });
                }
                let revision = insert_revision(c, revision)?;
                append(c, &revision.function_id, FunctionEvent { revision_number: Some(revision.number), ..event })?;
                Ok(revision)
            })
            .await
    }

    /// The revisions of a function, the newest first.
    pub async fn revisions_list(&self, function_id: &str) -> Result<Vec<RevisionRow>, StoreError> {
        let id = function_id.to_owned();
        self.engine
            .read("list revisions", move |c| {
                let mut statement = c.prepare_cached("SELECT doc, number, proved_at_ms FROM function_revision WHERE function_id = ?1 ORDER BY number DESC")?;
                let rows = statement.query_map([id], |row| Ok(revision(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// A revision by its number.
    pub async fn revision_find(&self, function_id: &str, number: i64) -> Result<Option<RevisionRow>, StoreError> {
        let id = function_id.to_owned();
        self.engine
            .read("read a revision", move |c| {
                let sql = "SELECT doc, number, proved_at_ms FROM function_revision WHERE function_id = ?1 AND number = ?2";
                c.prepare_cached(sql)?.query_row((id, number), |row| Ok(revision(row))).optional()?.transpose()
            })
            .await
    }

    /// A revision of whatever function by its id.
    pub async fn revision_get(&self, id: &str) -> Result<Option<RevisionRow>, StoreError> {
        let id = id.to_owned();
        self.engine
            .read("read a revision", move |c| {
                let sql = "SELECT doc, number, proved_at_ms FROM function_revision WHERE id = ?1";
                c.prepare_cached(sql)?.query_row([id], |row| Ok(revision(row))).optional()?.transpose()
            })
            .await
    }

    /// Remembers that a revision was ready; the first time counts.
    pub async fn revision_proved(&self, id: &str, now_ms: i64) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.engine
            .write("note that a revision was ready", move |c| {
                c.prepare_cached("UPDATE function_revision SET proved_at_ms = ?2 WHERE id = ?1 AND proved_at_ms IS NULL")?.execute((id, now_ms))?;
                Ok(())
            })
            .await
    }

    /// Deletes a revision that no alias names. Returns what it named.
    pub async fn revision_delete(&self, function_id: &str, number: i64, event: FunctionEvent) -> Result<(RevisionRecord, Released), StoreError> {
        let id = function_id.to_owned();
        self.engine
            .write("delete a revision", move |c| {
                let naming = aliases(c, &id)?.into_iter().filter(|alias| alias.split.targets.iter().any(|target| target.revision_number == number)).count();
                if naming > 0 {
                    return Err(StoreError::InUse { what: "revision", by: vec![("aliases", naming as u64)] });
                }
                let sql = "DELETE FROM function_revision WHERE function_id = ?1 AND number = ?2 RETURNING doc, number, proved_at_ms";
                let deleted = c.prepare_cached(sql)?.query_row((&id, number), |row| Ok(revision(row))).optional()?.transpose()?;
                let deleted = deleted.ok_or_else(|| StoreError::NotFound { what: "revision", id: number.to_string() })?.revision;
                let mut released = Released::default();
                released.add(deleted.clone());
                append(c, &id, event)?;
                Ok((deleted, released))
            })
            .await
    }

    /// The aliases of a function by name.
    pub async fn aliases_list(&self, function_id: &str) -> Result<Vec<AliasRecord>, StoreError> {
        let id = function_id.to_owned();
        self.engine.read("list aliases", move |c| aliases(c, &id)).await
    }

    /// Lets an alias point to revisions: numbers with weights. A function may have a limited number of aliases.
    pub async fn alias_put(
        &self,
        function_id: &str,
        alias: &str,
        weights: Vec<(i64, u32)>,
        sticky: bool,
        by: Option<String>,
        event: FunctionEvent,
    ) -> Result<AliasRecord, StoreError> {
        let (id, alias) = (function_id.to_owned(), alias.to_owned());
        self.engine
            .write("set an alias", move |c| {
                touch(c, &id, event.at_ms)?;
                let present = aliases(c, &id)?;
                if present.len() >= limits::ALIASES_PER_FUNCTION_MAX && !present.iter().any(|other| other.alias == alias) {
                    return Err(StoreError::TooMany { what: "aliases of this function", max: limits::ALIASES_PER_FUNCTION_MAX });
                }
                let mut targets = Vec::with_capacity(weights.len());
                for (number, weight) in weights {
                    let sql = "SELECT id FROM function_revision WHERE function_id = ?1 AND number = ?2";
                    let found: Option<String> = c.prepare_cached(sql)?.query_row((&id, number), |row| row.get(0)).optional()?;
                    let revision_id = found.ok_or_else(|| StoreError::NotFound { what: "revision", id: number.to_string() })?;
                    targets.push(Target { revision_id, revision_number: number, weight });
                }
                let record = AliasRecord { function_id: id.clone(), alias, split: Split { targets, sticky }, updated_by: by, updated_at_ms: event.at_ms };
                put_alias(c, &record)?;
                append(c, &id, event)?;
                Ok(record)
            })
            .await
    }

    /// Deletes an alias.
    pub async fn alias_delete(&self, function_id: &str, alias: &str, event: FunctionEvent) -> Result<(), StoreError> {
        let (id, alias) = (function_id.to_owned(), alias.to_owned());
        self.engine
            .write("delete an alias", move |c| {
                let changed = c.prepare_cached("DELETE FROM function_alias WHERE function_id = ?1 AND alias = ?2")?.execute((&id, &alias))?;
                if changed == 0 {
                    return Err(StoreError::NotFound { what: "alias", id: alias });
                }
                touch(c, &id, event.at_ms)?;
                append(c, &id, event)
            })
            .await
    }

    /// Appends an event. Of a function that is gone nothing is remembered.
    pub async fn function_event(&self, function_id: &str, event: FunctionEvent) -> Result<(), StoreError> {
        let id = function_id.to_owned();
        self.engine
            .write("append an event of a function", move |c| {
                let exists = c.prepare_cached("SELECT 1 FROM function WHERE id = ?1 AND deleted_at_ms IS NULL")?.exists([&id])?;
                if exists { append(c, &id, event) } else { Ok(()) }
            })
            .await
    }

    /// What happened to a function, the newest first.
    pub async fn function_events(&self, function_id: &str) -> Result<Vec<FunctionEvent>, StoreError> {
        let id = function_id.to_owned();
        self.engine
            .read("list events of a function", move |c| {
                let mut statement = c.prepare_cached("SELECT seq, at_ms, doc FROM function_event WHERE function_id = ?1 ORDER BY seq DESC")?;
                let rows = statement.query_map([id], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?)))?;
                rows.map(|row| {
                    let (seq, at_ms, doc) = row?;
                    let event: FunctionEvent = read(&doc)?;
                    Ok(FunctionEvent { seq, at_ms, ..event })
                })
                .collect()
            })
            .await
    }
}

impl Released {
    fn add(&mut self, revision: RevisionRecord) {
        self.bases.push(revision.base);
        self.trees.extend(revision.mounts.into_iter().map(|mount| mount.tree_id));
    }
}

fn insert_revision(c: &Connection, revision: RevisionRecord) -> Result<RevisionRecord, StoreError> {
    let sql = "UPDATE function SET last_revision = last_revision + 1, updated_at_ms = ?2 WHERE id = ?1 AND deleted_at_ms IS NULL RETURNING last_revision";
    let number: Option<i64> = c.prepare_cached(sql)?.query_row((&revision.function_id, revision.created_at_ms), |row| row.get(0)).optional()?;
    let number = number.ok_or_else(|| StoreError::NotFound { what: "function", id: revision.function_id.clone() })?;
    let revision = RevisionRecord { number, ..revision };
    let bindings = credential::bindings(revision.template.network.as_ref(), revision.config.network.as_ref());
    let credentials = credentials::checked(c, &revision.team_id, &bindings, &[])?;
    c.prepare_cached("INSERT INTO function_revision (id, function_id, number, source_sandbox_id, doc, credentials) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute((&revision.id, &revision.function_id, number, revision.source.sandbox_id(), json(&revision)?, credentials))
        .map_err(taken("revision"))?;
    Ok(revision)
}

fn put_alias(c: &Connection, alias: &AliasRecord) -> Result<(), StoreError> {
    let sql = "INSERT INTO function_alias (function_id, alias, split, updated_by, updated_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT (function_id, alias) DO UPDATE SET split = excluded.split, updated_by = excluded.updated_by, updated_at_ms = excluded.updated_at_ms";
    c.prepare_cached(sql)?.execute((&alias.function_id, &alias.alias, json(&alias.split)?, &alias.updated_by, alias.updated_at_ms))?;
    Ok(())
}

fn aliases(c: &Connection, function_id: &str) -> Result<Vec<AliasRecord>, StoreError> {
    let mut statement = c.prepare_cached("SELECT alias, split, updated_by, updated_at_ms FROM function_alias WHERE function_id = ?1 ORDER BY alias")?;
    let rows = statement.query_map([function_id], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?)))?;
    rows.map(|row| {
        let (alias, split, updated_by, updated_at_ms) = row?;
        Ok(AliasRecord { function_id: function_id.to_owned(), alias, split: read(&split)?, updated_by, updated_at_ms })
    })
    .collect()
}

/// Says that a function was changed, if it is still there.
fn touch(c: &Connection, id: &str, now_ms: i64) -> Result<(), StoreError> {
    let changed = c.prepare_cached("UPDATE function SET updated_at_ms = ?2 WHERE id = ?1 AND deleted_at_ms IS NULL")?.execute((id, now_ms))?;
    if changed == 0 { Err(StoreError::NotFound { what: "function", id: id.to_owned() }) } else { Ok(()) }
}

fn append(c: &Connection, function_id: &str, event: FunctionEvent) -> Result<(), StoreError> {
    let sql = "SELECT coalesce(max(seq), 0) + 1 FROM function_event WHERE function_id = ?1";
    let seq: i64 = c.prepare_cached(sql)?.query_row([function_id], |row| row.get(0))?;
    c.prepare_cached("INSERT INTO function_event (function_id, seq, at_ms, doc) VALUES (?1, ?2, ?3, ?4)")?.execute((
        function_id,
        seq,
        event.at_ms,
        json(&event)?,
    ))?;
    c.prepare_cached("DELETE FROM function_event WHERE function_id = ?1 AND seq <= ?2")?.execute((function_id, seq - limits::FUNCTION_EVENTS_MAX))?;
    Ok(())
}

fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::corrupt("function", &e))
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::corrupt("function", &e))
}

fn revision(row: &Row<'_>) -> Result<RevisionRow, StoreError> {
    let doc: String = row.get(0)?;
    let revision = RevisionRecord::read(&doc).map_err(|e| StoreError::corrupt("revision", &e))?;
    Ok(RevisionRow { revision: RevisionRecord { number: row.get(1)?, ..revision }, proved_at_ms: row.get(2)? })
}

fn record(row: &Row<'_>) -> Result<FunctionRecord, StoreError> {
    Ok(FunctionRecord {
        id: row.get(0)?,
        team_id: row.get(1)?,
        name: row.get(2)?,
        slug: row.get(3)?,
        domain_label: row.get(4)?,
        enabled: row.get(5)?,
        autoscaling: read(&row.get::<_, String>(6)?)?,
        created_by: row.get(7)?,
        created_at_ms: row.get(8)?,
        updated_at_ms: row.get(9)?,
        deleted_at_ms: row.get(10)?,
    })
}
