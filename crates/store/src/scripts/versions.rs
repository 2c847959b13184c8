//! Versions of scripts, which never change, and aliases, which name them.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{
    limits,
    script::{AuthorKind, LIVE, Split},
};

use super::{Language, ScriptAlias, ScriptVersion, VersionHead};
use crate::{Store, StoreError};

const COLUMNS: &str = "script_id, number, hash, language, source, code, author_kind, created_by, created_at_ms";
const HEAD: &str = "number, hash, language, octet_length(source), author_kind, created_by, created_at_ms";

impl Store {
    /// The versions of a script that are kept, the newest first.
    pub async fn script_versions(&self, script_id: &str) -> Result<Vec<VersionHead>, StoreError> {
        let id = script_id.to_owned();
        self.engine
            .read("list versions of a script", move |c| {
                let mut statement = c.prepare_cached(&format!("SELECT {HEAD} FROM script_version WHERE script_id = ?1 ORDER BY number DESC"))?;
                let rows = statement.query_map([id], |row| Ok(head(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    pub async fn script_version(&self, script_id: &str, number: u32) -> Result<Option<ScriptVersion>, StoreError> {
        let id = script_id.to_owned();
        self.engine.read("read a version of a script", move |c| find(c, &id, number)).await
    }

    /// Lets an alias point to versions, which have to be there. A script may have a limited number of aliases.
    pub async fn script_alias_put(&self, script_id: &str, alias: &str, split: &Split, by: Option<&str>, now_ms: i64) -> Result<(), StoreError> {
        let (id, alias, split, by) = (script_id.to_owned(), alias.to_owned(), split.clone(), by.map(str::to_owned));
        self.engine
            .write("set an alias of a script", move |c| {
                for part in split.parts() {
                    let sql = "SELECT 1 FROM script_version WHERE script_id = ?1 AND number = ?2";
                    if !c.prepare_cached(sql)?.exists((&id, part.version))? {
                        return Err(StoreError::NotFound { what: "version", id: part.version.to_string() });
                    }
                }
                let sql = "SELECT count(*) FROM script_alias WHERE script_id = ?1 AND alias <> ?2";
                let others: usize = c.prepare_cached(sql)?.query_row((&id, &alias), |row| row.get(0))?;
                if others >= limits::SCRIPT_ALIASES_MAX {
                    return Err(StoreError::TooMany { what: "aliases of this function", max: limits::SCRIPT_ALIASES_MAX });
                }
                touch(c, &id, now_ms)?;
                put_alias(c, &id, &alias, &split, by.as_deref(), now_ms)
            })
            .await
    }

    /// Deletes an alias; `live` is never deleted.
    pub async fn script_alias_delete(&self, script_id: &str, alias: &str) -> Result<(), StoreError> {
        let (id, alias) = (script_id.to_owned(), alias.to_owned());
        self.engine
            .write("delete an alias of a script", move |c| {
                let changed = c.prepare_cached("DELETE FROM script_alias WHERE script_id = ?1 AND alias = ?2 AND alias <> ?3")?.execute((&id, &alias, LIVE))?;
                if changed == 0 { Err(StoreError::NotFound { what: "alias", id: alias }) } else { Ok(()) }
            })
            .await
    }
}

pub(super) fn insert(c: &Connection, version: &ScriptVersion) -> Result<(), StoreError> {
    let sql = format!("INSERT INTO script_version ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
    c.prepare_cached(&sql)?.execute((
        &version.script_id,
        version.number,
        &version.hash,
        version.language.as_str(),
        &version.source,
        &version.code,
        version.author_kind.map(AuthorKind::as_str),
        &version.created_by,
        version.created_at_ms,
    ))?;
    Ok(())
}

pub(super) fn put_alias(c: &Connection, script_id: &str, alias: &str, split: &Split, by: Option<&str>, now_ms: i64) -> Result<(), StoreError> {
    let split = serde_json::to_string(split).map_err(|e| StoreError::corrupt("alias", &e))?;
    let sql = "INSERT INTO script_alias (script_id, alias, split, updated_by, updated_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT (script_id, alias) DO UPDATE SET split = excluded.split, updated_by = excluded.updated_by, updated_at_ms = excluded.updated_at_ms";
    c.prepare_cached(sql)?.execute((script_id, alias, split, by, now_ms))?;
    Ok(())
}

pub(super) fn aliases(c: &Connection, script_id: &str) -> Result<Vec<ScriptAlias>, StoreError> {
    let mut statement = c.prepare_cached("SELECT alias, split, updated_by, updated_at_ms FROM script_alias WHERE script_id = ?1 ORDER BY alias")?;
    let rows = statement.query_map([script_id], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?)))?;
    rows.map(|row| {
        let (alias, split, updated_by, updated_at_ms) = row?;
        let split = serde_json::from_str(&split).map_err(|e| StoreError::corrupt("alias", &e))?;
        Ok(ScriptAlias { alias, split, updated_by, updated_at_ms })
    })
    .collect()
}

pub(super) fn find(c: &Connection, script_id: &str, number: u32) -> Result<Option<ScriptVersion>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM script_version WHERE script_id = ?1 AND number = ?2");
    c.prepare_cached(&sql)?.query_row((script_id, number), |row| Ok(version(row))).optional()?.transpose()
}

pub(super) fn head_of(c: &Connection, script_id: &str, number: u32) -> Result<Option<VersionHead>, StoreError> {
    let sql = format!("SELECT {HEAD} FROM script_version WHERE script_id = ?1 AND number = ?2");
    c.prepare_cached(&sql)?.query_row((script_id, number), |row| Ok(head(row))).optional()?.transpose()
}

/// Removes versions beyond the newest ones, but for those that an alias names or a job is to run.
pub(super) fn drop_oldest(c: &Connection, script_id: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM script_version WHERE script_id = ?1 AND number <= (SELECT max(number) FROM script_version WHERE script_id = ?1) - ?2
        AND number NOT IN (SELECT json_extract(part.value, '$.version') FROM script_alias a, json_each(a.split) part WHERE a.script_id = ?1)
        AND number NOT IN (SELECT version FROM script_job WHERE script_id = ?1 AND state IN ('pending', 'running', 'dead'))";
    c.prepare_cached(sql)?.execute((script_id, limits::SCRIPT_VERSIONS_MAX))?;
    Ok(())
}

fn touch(c: &Connection, script_id: &str, now_ms: i64) -> Result<(), StoreError> {
    let changed = c.prepare_cached("UPDATE script SET updated_at_ms = ?2, generation = generation + 1 WHERE id = ?1")?.execute((script_id, now_ms))?;
    if changed == 0 { Err(StoreError::NotFound { what: "function", id: script_id.to_owned() }) } else { Ok(()) }
}

fn head(row: &Row<'_>) -> Result<VersionHead, StoreError> {
    Ok(VersionHead {
        number: row.get(0)?,
        hash: row.get(1)?,
        language: language(row.get(2)?)?,
        source_bytes: row.get(3)?,
        author_kind: author(row.get(4)?)?,
        created_by: row.get(5)?,
        created_at_ms: row.get(6)?,
    })
}

fn language(text: String) -> Result<Language, StoreError> {
    Language::named(&text).ok_or_else(|| StoreError::corrupt("version", &format!("language {text:?}")))
}

fn author(text: Option<String>) -> Result<Option<AuthorKind>, StoreError> {
    text.map(|text| AuthorKind::named(&text).ok_or_else(|| StoreError::corrupt("version", &format!("author {text:?}")))).transpose()
}

fn version(row: &Row<'_>) -> Result<ScriptVersion, StoreError> {
    Ok(ScriptVersion {
        script_id: row.get(0)?,
        number: row.get(1)?,
        hash: row.get(2)?,
        language: language(row.get(3)?)?,
        source: row.get(4)?,
        code: row.get(5)?,
        author_kind: author(row.get(6)?)?,
        created_by: row.get(7)?,
        created_at_ms: row.get(8)?,
    })
}
