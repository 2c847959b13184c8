//! Snapshots of sandboxes' files, and what of the disk rows name.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{limits, sandbox::Base};

use crate::{Store, StoreError};

/// A snapshot's row. It outlives its sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRecord {
    pub id: String,
    pub team_id: String,
    pub user_id: String,
    pub sandbox_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub base: Base,
    pub expires_at_ms: Option<i64>,
    pub created_at_ms: i64,
}

/// What rows name of the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Live roots and layers.
    pub roots: HashSet<String>,
    /// Images by content.
    pub images: HashSet<String>,
    /// Trees of volumes and of their snapshots.
    pub trees: HashSet<String>,
    /// Ranges of layers.
    pub slots: HashSet<u32>,
}

const COLUMNS: &str = "id, team_id, user_id, sandbox_id, name, description, base, expires_at_ms, created_at_ms";

impl Store {
    /// Stores a new snapshot. A sandbox and a team may have a limited number.
    pub async fn snapshot_insert(&self, snapshot: &SnapshotRecord) -> Result<(), StoreError> {
        let snapshot = snapshot.clone();
        self.engine
            .write("insert a snapshot", move |c| {
                check_one_more(c, &snapshot.team_id, &snapshot.sandbox_id)?;
                let sql = format!("INSERT INTO snapshot ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
                let base = serde_json::to_string(&snapshot.base).map_err(|e| StoreError::corrupt("snapshot", &e))?;
                c.prepare_cached(&sql)?
                    .execute((
                        &snapshot.id,
                        &snapshot.team_id,
                        &snapshot.user_id,
                        &snapshot.sandbox_id,
                        &snapshot.name,
                        &snapshot.description,
                        base,
                        snapshot.expires_at_ms,
                        snapshot.created_at_ms,
                    ))
                    .map_err(crate::error::taken("snapshot"))?;
                Ok(())
            })
            .await
    }

    /// Whether a sandbox and its team may have one more snapshot now: asked before files are copied for it.
    pub async fn snapshot_check(&self, team_id: &str, sandbox_id: &str) -> Result<(), StoreError> {
        let (team_id, sandbox_id) = (team_id.to_owned(), sandbox_id.to_owned());
        self.engine.read("count snapshots", move |c| check_one_more(c, &team_id, &sandbox_id)).await
    }

    /// A snapshot of the team.
    pub async fn snapshot_get(&self, team_id: &str, id: &str) -> Result<Option<SnapshotRecord>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .read("read a snapshot", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM snapshot WHERE id = ?1 AND team_id = ?2");
                c.prepare_cached(&sql)?.query_row((id, team_id), |row| Ok(record(row))).optional()?.transpose()
            })
            .await
    }

    /// The snapshots of a sandbox, oldest first.
    pub async fn snapshots_list(&self, team_id: &str, sandbox_id: &str) -> Result<Vec<SnapshotRecord>, StoreError> {
        let (team_id, sandbox_id) = (team_id.to_owned(), sandbox_id.to_owned());
        self.engine
            .read("list snapshots", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM snapshot WHERE sandbox_id = ?1 AND team_id = ?2 ORDER BY created_at_ms, id");
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map((sandbox_id, team_id), |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// All snapshots of a team, oldest first; those of sandboxes that are gone, too.
    pub async fn snapshots_of_team(&self, team_id: &str) -> Result<Vec<SnapshotRecord>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list snapshots", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM snapshot WHERE team_id = ?1 ORDER BY created_at_ms, id");
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map([team_id], |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Deletes a snapshot of the team and returns what it named.
    pub async fn snapshot_delete(&self, team_id: &str, id: &str) -> Result<Base, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .write("delete a snapshot", move |c| {
                let sql = "DELETE FROM snapshot WHERE id = ?1 AND team_id = ?2 RETURNING base";
                let found: Option<String> = c.prepare_cached(sql)?.query_row((&id, team_id), |row| row.get(0)).optional()?;
                let base = found.ok_or(StoreError::NotFound { what: "snapshot", id })?;
                serde_json::from_str(&base).map_err(|e| StoreError::corrupt("snapshot", &e))
            })
            .await
    }

    /// Deletes the snapshots whose time has come and returns what they named.
    pub async fn snapshots_expire(&self, now_ms: i64) -> Result<Vec<Base>, StoreError> {
        self.engine
            .write("delete expired snapshots", move |c| {
                let sql = "DELETE FROM snapshot WHERE expires_at_ms IS NOT NULL AND expires_at_ms <= ?1 RETURNING base";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map([now_ms], |row| row.get::<_, String>(0))?;
                rows.map(|row| serde_json::from_str(&row?).map_err(|e| StoreError::corrupt("snapshot", &e))).collect()
            })
            .await
    }

    /// When the next snapshot expires.
    pub async fn next_snapshot_expiry(&self) -> Result<Option<i64>, StoreError> {
        self.engine
            .read("read the next expiry of a snapshot", |c| {
                Ok(c.prepare_cached("SELECT min(expires_at_ms) FROM snapshot WHERE expires_at_ms IS NOT NULL")?.query_row([], |row| row.get(0))?)
            })
            .await
    }

    /// Everything on disk that some row names.
    pub async fn named(&self) -> Result<Named, StoreError> {
        self.engine
            .read("read what rows name", |c| {
                // One snapshot for all of it.
                let transaction = c.unchecked_transaction()?;
                let mut named = Named::default();
                let texts = |sql: &str| -> Result<Vec<String>, StoreError> {
                    let mut statement = transaction.prepare_cached(sql)?;
                    let rows = statement.query_map([], |row| row.get(0))?;
                    Ok(rows.collect::<Result<_, _>>()?)
                };
                named.roots.extend(texts("SELECT root_id FROM sandbox WHERE root_id IS NOT NULL")?);
                named.trees.extend(texts(
                    "SELECT tree_id FROM volume UNION ALL SELECT tree_id FROM volume_snapshot
                    UNION ALL SELECT json_extract(mount.value, '$.tree_id') FROM function_revision, json_each(function_revision.doc, '$.mounts') AS mount",
                )?);
                let bases = "SELECT json_extract(doc, '$.base') FROM sandbox WHERE json_extract(doc, '$.base') IS NOT NULL
                    UNION ALL SELECT base FROM snapshot UNION ALL SELECT base FROM template WHERE base IS NOT NULL
                    UNION ALL SELECT json_extract(doc, '$.base') FROM function_revision
                    UNION ALL SELECT base FROM app_version WHERE base IS NOT NULL UNION ALL SELECT base FROM app_setup";
                for text in texts(bases)? {
                    let base: Base = serde_json::from_str(&text).map_err(|e| StoreError::corrupt("base", &e))?;
                    named.images.insert(base.image);
                    for layer in base.layers {
                        named.roots.insert(layer.root_id);
                        named.slots.insert(layer.uid_slot);
                    }
                }
                Ok(named)
            })
            .await
    }
}

fn check_one_more(c: &Connection, team_id: &str, sandbox_id: &str) -> Result<(), StoreError> {
    let count = |sql: &str, id: &str| c.prepare_cached(sql)?.query_row([id], |row| row.get::<_, usize>(0));
    if count("SELECT count(*) FROM snapshot WHERE sandbox_id = ?1", sandbox_id)? >= limits::SNAPSHOTS_PER_SANDBOX_MAX {
        return Err(StoreError::TooMany { what: "snapshots of this sandbox", max: limits::SNAPSHOTS_PER_SANDBOX_MAX });
    }
    let of_team = count("SELECT count(*) FROM snapshot WHERE team_id = ?1", team_id)?;
    if of_team >= limits::SNAPSHOTS_PER_TEAM_MAX {
        return Err(StoreError::TooMany { what: "snapshots of this team", max: limits::SNAPSHOTS_PER_TEAM_MAX });
    }
    crate::quotas::check(c, team_id, sandbar_core::quota::Dimension::Snapshots, of_team as u64, 1)
}

fn record(row: &Row<'_>) -> Result<SnapshotRecord, StoreError> {
    let base: String = row.get(6)?;
    Ok(SnapshotRecord {
        id: row.get(0)?,
        team_id: row.get(1)?,
        user_id: row.get(2)?,
        sandbox_id: row.get(3)?,
        name: row.get(4)?,
        description: row.get(5)?,
        base: serde_json::from_str(&base).map_err(|e| StoreError::corrupt("snapshot", &e))?,
        expires_at_ms: row.get(7)?,
        created_at_ms: row.get(8)?,
    })
}
