//! Credential sources. What they hold comes here sealed. A source that a sandbox, a template or a function's revision binds
//! cannot be deleted: who binds one is written in the same transaction in which it is found to be there.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{
    credential::{Binding, Kind},
    limits,
};

use crate::{Store, StoreError, error::taken};

/// A source's row.
#[derive(Debug, Clone, PartialEq)]
pub struct CredentialRecord {
    pub team_id: String,
    pub name: String,
    pub kind: Kind,
    pub sealed: String,
    /// 1 for a new one; each rotation adds 1.
    pub version: i64,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
}

/// Those that are named when a source cannot be deleted.
const NAMED_MAX: usize = 5;

const COLUMNS: &str = "team_id, name, kind, sealed, version, created_at_ms, updated_at_ms";

impl Store {
    /// Stores a new source. A team may have a limited number.
    pub async fn credential_insert(&self, source: &CredentialRecord) -> Result<(), StoreError> {
        let source = source.clone();
        self.engine
            .write("insert a credential source", move |c| {
                let count: usize =
                    c.prepare_cached("SELECT count(*) FROM credential_source WHERE team_id = ?1")?.query_row([&source.team_id], |row| row.get(0))?;
                if count >= limits::CREDENTIALS_PER_TEAM_MAX {
                    return Err(StoreError::TooMany { what: "credential sources of this team", max: limits::CREDENTIALS_PER_TEAM_MAX });
                }
                let sql = format!("INSERT INTO credential_source ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
                c.prepare_cached(&sql)?
                    .execute((&source.team_id, &source.name, source.kind.as_str(), &source.sealed, source.version, source.created_at_ms, source.updated_at_ms))
                    .map_err(taken("credential source"))?;
                Ok(())
            })
            .await
    }

    /// Puts another secret in place of a source's. Its kind stays: one of another kind counts as changed meanwhile. Returns
    /// the record as stored.
    pub async fn credential_rotate(&self, team_id: &str, name: &str, kind: Kind, sealed: String, now_ms: i64) -> Result<CredentialRecord, StoreError> {
        let (team_id, name) = (team_id.to_owned(), name.to_owned());
        self.engine
            .write("rotate a credential source", move |c| {
                let sql = format!(
                    "UPDATE credential_source SET sealed = ?4, version = version + 1, updated_at_ms = ?5 WHERE team_id = ?1 AND name = ?2 AND kind = ?3 RETURNING {COLUMNS}"
                );
                let rotated = c.prepare_cached(&sql)?.query_row((&team_id, &name, kind.as_str(), sealed, now_ms), |row| Ok(record(row))).optional()?;
                match rotated {
                    Some(rotated) => rotated,
                    None if find(c, &team_id, &name)?.is_some() => Err(StoreError::Stale { what: "credential source", id: name }),
                    None => Err(StoreError::NotFound { what: "credential source", id: name }),
                }
            })
            .await
    }

    /// A team's source.
    pub async fn credential_get(&self, team_id: &str, name: &str) -> Result<Option<CredentialRecord>, StoreError> {
        let (team_id, name) = (team_id.to_owned(), name.to_owned());
        self.engine.read("read a credential source", move |c| find(c, &team_id, &name)).await
    }

    /// A team's sources by name.
    pub async fn credentials_list(&self, team_id: &str) -> Result<Vec<CredentialRecord>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list credential sources", move |c| {
                let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM credential_source WHERE team_id = ?1 ORDER BY name"))?;
                let rows = statement.query_map([team_id], |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// The oldest source of each kind, of all teams.
    pub async fn credentials_oldest(&self) -> Result<Vec<CredentialRecord>, StoreError> {
        self.engine
            .read("read the oldest credential sources", |c| {
                // The other columns are of the row that has the least.
                let mut statement = c.prepare(&format!("SELECT {COLUMNS}, min(created_at_ms) FROM credential_source GROUP BY kind"))?;
                let rows = statement.query_map([], |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Those of a team's sources that these bindings name.
    ///
    /// # Errors
    /// [`StoreError::Binding`] for a binding whose source is not there, or does not fit.
    pub async fn credentials_bound(&self, team_id: &str, bindings: &[Binding]) -> Result<Vec<CredentialRecord>, StoreError> {
        let (team_id, bindings) = (team_id.to_owned(), bindings.to_vec());
        self.engine.read("read credential sources", move |c| bound(c, &team_id, &bindings)).await
    }

    /// Deletes a source that nobody binds.
    ///
    /// # Errors
    /// [`StoreError::Bound`] says who does.
    pub async fn credential_delete(&self, team_id: &str, name: &str) -> Result<CredentialRecord, StoreError> {
        let (team_id, name) = (team_id.to_owned(), name.to_owned());
        self.engine
            .write("delete a credential source", move |c| {
                let (by, others) = binders(c, &team_id, &name)?;
                if !by.is_empty() {
                    return Err(StoreError::Bound { name, by, others });
                }
                let sql = format!("DELETE FROM credential_source WHERE team_id = ?1 AND name = ?2 RETURNING {COLUMNS}");
                let gone = c.prepare_cached(&sql)?.query_row((team_id, &name), |row| Ok(record(row))).optional()?;
                gone.unwrap_or(Err(StoreError::NotFound { what: "credential source", id: name }))
            })
            .await
    }
}

/// What is written of a row's bindings, after their sources were found to be there. Those that the row has `before` are
/// not looked at again: whatever is true of them must keep nothing else of the row from being written.
pub(crate) fn checked(c: &Connection, team_id: &str, bindings: &[Binding], before: &[Binding]) -> Result<Option<String>, StoreError> {
    let new: Vec<Binding> = bindings.iter().filter(|binding| !before.contains(binding)).cloned().collect();
    bound(c, team_id, &new)?;
    match bindings {
        [] => Ok(None),
        _ => serde_json::to_string(bindings).map(Some).map_err(|e| StoreError::corrupt("credential binding", &e)),
    }
}

fn bound(c: &Connection, team_id: &str, bindings: &[Binding]) -> Result<Vec<CredentialRecord>, StoreError> {
    let mut found = Vec::new();
    for name in bindings.iter().map(|binding| &binding.source).collect::<BTreeSet<_>>() {
        let source = find(c, team_id, name)?;
        for binding in bindings.iter().filter(|binding| binding.source == *name) {
            binding.check(source.as_ref().map(|source| source.kind)).map_err(StoreError::Binding)?;
        }
        found.extend(source);
    }
    Ok(found)
}

/// Some of those who bind a source, and how many others do.
fn binders(c: &Connection, team_id: &str, name: &str) -> Result<(Vec<String>, usize), StoreError> {
    const BINDS: &str = "credentials IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(credentials) WHERE json_extract(value, '$.source') = ?2)";
    let queries = [
        format!("SELECT 'sandbox ' || id FROM sandbox WHERE team_id = ?1 AND {BINDS} AND desired <> 'deleted' ORDER BY id"),
        format!("SELECT 'template ' || id FROM template WHERE team_id = ?1 AND {BINDS} ORDER BY id"),
        format!(
            "SELECT 'revision ' || r.number || ' of function ' || f.slug FROM function f JOIN function_revision r ON r.function_id = f.id
            WHERE f.team_id = ?1 AND r.{BINDS} ORDER BY f.slug, r.number"
        ),
    ];
    let (mut by, mut others) = (Vec::new(), 0);
    for sql in queries {
        let mut statement = c.prepare_cached(&sql)?;
        for binder in statement.query_map((team_id, name), |row| row.get::<_, String>(0))? {
            match by.len() < NAMED_MAX {
                true => by.push(binder?),
                false => others += 1,
            }
        }
    }
    Ok((by, others))
}

fn find(c: &Connection, team_id: &str, name: &str) -> Result<Option<CredentialRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM credential_source WHERE team_id = ?1 AND name = ?2");
    c.prepare_cached(&sql)?.query_row((team_id, name), |row| Ok(record(row))).optional()?.transpose()
}

fn record(row: &Row<'_>) -> Result<CredentialRecord, StoreError> {
    let kind: String = row.get(2)?;
    Ok(CredentialRecord {
        team_id: row.get(0)?,
        name: row.get(1)?,
        kind: Kind::parse(&kind).ok_or_else(|| StoreError::corrupt("credential source", &format!("{kind:?} is no kind of one")))?,
        sealed: row.get(3)?,
        version: row.get(4)?,
        created_at_ms: row.get(5)?,
        updated_at_ms: row.get(6)?,
    })
}
