//! Volumes, who has them mounted, and their snapshots.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{
    limits,
    quota::Dimension,
    sandbox::{Desired, Observed, SandboxRecord},
    volume::AccessMode,
};

use crate::{Store, StoreError};

/// A volume's row.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeRecord {
    pub id: String,
    pub team_id: String,
    pub user_id: String,
    pub name: Option<String>,
    pub access_mode: AccessMode,
    /// Where its files are now.
    pub tree_id: String,
    pub size_limit_bytes: u64,
    pub uid: u32,
    pub gid: u32,
    pub source_volume_id: Option<String>,
    /// The sandbox that alone has it, and with which it goes; none for a volume of the team.
    pub owner: Option<String>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    pub version: i64,
}

/// A volume snapshot's row.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeSnapshotRecord {
    pub id: String,
    pub volume_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub tree_id: String,
    pub size_bytes: u64,
    pub created_at_ms: i64,
}

/// What a deleted volume leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedVolume {
    /// Trees that its row and its snapshots named.
    pub trees: Vec<String>,
    /// Sandboxes that had it to the end, and have to be told.
    pub holders: Vec<String>,
}

/// A sandbox that has a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub sandbox_id: String,
    pub read_only: bool,
    /// Whether it keeps others from it.
    pub holds: bool,
}

pub(crate) const COLUMNS: &str =
    "id, team_id, user_id, name, access_mode, tree_id, size_limit_bytes, uid, gid, source_volume_id, created_at_ms, updated_at_ms, version, owner";
const SNAPSHOT_COLUMNS: &str = "id, volume_id, name, description, tree_id, size_bytes, created_at_ms";

impl Store {
    /// Stores a new volume. A team may have a limited number.
    pub async fn volume_insert(&self, volume: &VolumeRecord) -> Result<(), StoreError> {
        let volume = volume.clone();
        self.engine
            .write("insert a volume", move |c| {
                check_count(c, &volume.team_id)?;
                insert(c, &volume)
            })
            .await
    }

    /// A volume of the team.
    pub async fn volume_get(&self, team_id: &str, id: &str) -> Result<Option<VolumeRecord>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .read("read a volume", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM volume WHERE id = ?1 AND team_id = ?2");
                c.prepare_cached(&sql)?.query_row((id, team_id), |row| Ok(record(row))).optional()?.transpose()
            })
            .await
    }

    /// The team's volumes, oldest first; not those that a sandbox alone has.
    pub async fn volumes_list(&self, team_id: &str) -> Result<Vec<VolumeRecord>, StoreError> {
        let team_id = team_id.to_owned();
        self.engine
            .read("list volumes", move |c| {
                let sql = format!("SELECT {COLUMNS} FROM volume WHERE team_id = ?1 AND owner IS NULL ORDER BY created_at_ms, id");
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map([team_id], |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Lets a volume have other files. Returns the tree it had before.
    pub async fn volume_replace_tree(&self, id: &str, seen_version: i64, tree_id: &str, now_ms: i64) -> Result<String, StoreError> {
        let (id, tree_id) = (id.to_owned(), tree_id.to_owned());
        self.engine
            .write("replace the files of a volume", move |c| {
                let before: Option<(String, i64)> =
                    c.prepare_cached("SELECT tree_id, version FROM volume WHERE id = ?1")?.query_row([&id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
                let Some((before, version)) = before else { return Err(StoreError::NotFound { what: "volume", id }) };
                if version != seen_version {
                    return Err(StoreError::Stale { what: "volume", id });
                }
                if let Some(by) = holders(c, &id)?.into_iter().find(|holder| holder.holds) {
                    return Err(StoreError::Mounted { volume: id, by: by.sandbox_id });
                }
                c.prepare_cached("UPDATE volume SET tree_id = ?2, updated_at_ms = ?3, version = version + 1 WHERE id = ?1")?.execute((&id, tree_id, now_ms))?;
                Ok(before)
            })
            .await
    }

    /// Deletes a volume with its snapshots. With `force` sandboxes that have it lose it.
    pub async fn volume_delete(&self, team_id: &str, id: &str, force: bool) -> Result<DeletedVolume, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .write("delete a volume", move |c| {
                let tree: Option<String> =
                    c.prepare_cached("SELECT tree_id FROM volume WHERE id = ?1 AND team_id = ?2")?.query_row((&id, team_id), |row| row.get(0)).optional()?;
                let Some(tree) = tree else { return Err(StoreError::NotFound { what: "volume", id }) };
                let holders: Vec<String> = holders(c, &id)?.into_iter().map(|holder| holder.sandbox_id).collect();
                if let Some(by) = holders.first().filter(|_| !force) {
                    return Err(StoreError::Mounted { volume: id, by: by.clone() });
                }
                let mut trees = vec![tree];
                let mut statement = c.prepare_cached("SELECT tree_id FROM volume_snapshot WHERE volume_id = ?1")?;
                for row in statement.query_map([&id], |row| row.get(0))? {
                    trees.push(row?);
                }
                c.prepare_cached("DELETE FROM volume_mount WHERE volume_id = ?1")?.execute([&id])?;
                c.prepare_cached("DELETE FROM volume WHERE id = ?1")?.execute([&id])?;
                Ok(DeletedVolume { trees, holders })
            })
            .await
    }

    /// Sandboxes that have a volume, or will when they start.
    pub async fn volume_holders(&self, id: &str) -> Result<Vec<Holder>, StoreError> {
        let id = id.to_owned();
        self.engine.read("read who has a volume", move |c| holders(c, &id)).await
    }

    /// Stores a new snapshot of a volume. A volume may have a limited number.
    pub async fn volume_snapshot_insert(&self, snapshot: &VolumeSnapshotRecord) -> Result<(), StoreError> {
        let snapshot = snapshot.clone();
        self.engine
            .write("insert a volume snapshot", move |c| {
                let exists = c.prepare_cached("SELECT 1 FROM volume WHERE id = ?1")?.exists([&snapshot.volume_id])?;
                if !exists {
                    return Err(StoreError::NotFound { what: "volume", id: snapshot.volume_id });
                }
                let count: usize =
                    c.prepare_cached("SELECT count(*) FROM volume_snapshot WHERE volume_id = ?1")?.query_row([&snapshot.volume_id], |row| row.get(0))?;
                if count >= limits::VOLUME_SNAPSHOTS_MAX {
                    return Err(StoreError::TooMany { what: "snapshots of this volume", max: limits::VOLUME_SNAPSHOTS_MAX });
                }
                let sql = format!("INSERT INTO volume_snapshot ({SNAPSHOT_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
                c.prepare_cached(&sql)?
                    .execute((
                        &snapshot.id,
                        &snapshot.volume_id,
                        &snapshot.name,
                        &snapshot.description,
                        &snapshot.tree_id,
                        snapshot.size_bytes,
                        snapshot.created_at_ms,
                    ))
                    .map_err(crate::error::taken("volume snapshot"))?;
                Ok(())
            })
            .await
    }

    /// A snapshot of any of the team's volumes.
    pub async fn volume_snapshot_get(&self, team_id: &str, id: &str) -> Result<Option<VolumeSnapshotRecord>, StoreError> {
        let (team_id, id) = (team_id.to_owned(), id.to_owned());
        self.engine
            .read("read a volume snapshot", move |c| {
                let sql = format!("SELECT {SNAPSHOT_COLUMNS} FROM volume_snapshot WHERE id = ?1 AND volume_id IN (SELECT id FROM volume WHERE team_id = ?2)");
                Ok(c.prepare_cached(&sql)?.query_row((id, team_id), snapshot).optional()?)
            })
            .await
    }

    /// The snapshots of a volume, oldest first.
    pub async fn volume_snapshots_list(&self, volume_id: &str) -> Result<Vec<VolumeSnapshotRecord>, StoreError> {
        let volume_id = volume_id.to_owned();
        self.engine
            .read("list volume snapshots", move |c| {
                let sql = format!("SELECT {SNAPSHOT_COLUMNS} FROM volume_snapshot WHERE volume_id = ?1 ORDER BY created_at_ms, id");
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map([volume_id], snapshot)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Deletes a snapshot of a volume, if it is there, and returns its tree.
    pub async fn volume_snapshot_delete(&self, volume_id: &str, id: &str) -> Result<Option<String>, StoreError> {
        let (volume_id, id) = (volume_id.to_owned(), id.to_owned());
        self.engine
            .write("delete a volume snapshot", move |c| {
                let sql = "DELETE FROM volume_snapshot WHERE id = ?1 AND volume_id = ?2 RETURNING tree_id";
                Ok(c.prepare_cached(sql)?.query_row((id, volume_id), |row| row.get(0)).optional()?)
            })
            .await
    }
}

impl Store {
    /// Whose each tree is: the id of a volume, or (with `true`) of a volume's snapshot.
    pub async fn volume_snapshot_trees(&self) -> Result<HashMap<String, (String, bool)>, StoreError> {
        let sql = "SELECT tree_id, id, 0 FROM volume UNION ALL SELECT tree_id, id, 1 FROM volume_snapshot
            UNION ALL SELECT json_extract(mount.value, '$.tree_id'), json_extract(mount.value, '$.volume_id'), 0 FROM function_revision, json_each(function_revision.doc, '$.mounts') AS mount";
        self.engine
            .read("read whose trees are", move |c| {
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }
}

/// Refuses one volume more than a team may have.
pub(crate) fn check_count(c: &Connection, team_id: &str) -> Result<(), StoreError> {
    let count: usize = c.prepare_cached("SELECT count(*) FROM volume WHERE team_id = ?1 AND owner IS NULL")?.query_row([team_id], |row| row.get(0))?;
    if count >= limits::VOLUMES_PER_TEAM_MAX {
        return Err(StoreError::TooMany { what: "volumes of this team", max: limits::VOLUMES_PER_TEAM_MAX });
    }
    crate::quotas::check(c, team_id, Dimension::Volumes, count as u64, 1)
}

/// Writes the row of a new volume.
pub(crate) fn insert(c: &Connection, volume: &VolumeRecord) -> Result<(), StoreError> {
    let sql = format!("INSERT INTO volume ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)");
    c.prepare_cached(&sql)?
        .execute((
            &volume.id,
            &volume.team_id,
            &volume.user_id,
            &volume.name,
            volume.access_mode.as_str(),
            &volume.tree_id,
            volume.size_limit_bytes,
            volume.uid,
            volume.gid,
            &volume.source_volume_id,
            volume.created_at_ms,
            volume.updated_at_ms,
            volume.version,
            &volume.owner,
        ))
        .map_err(crate::error::taken("volume"))?;
    Ok(())
}

/// Writes the mounts of a sandbox beside its row. Nothing to do for one without. `trees` are those that its runtime was
/// launched on, by volume: a volume that has got other files since is refused.
pub(crate) fn put_mounts(c: &Connection, record: &SandboxRecord, is_new: bool, trees: &HashMap<String, String>) -> Result<(), StoreError> {
    if record.mounts.is_empty() {
        return Ok(());
    }
    let holds = !matches!(record.desired, Desired::Cleaned | Desired::Deleted) && record.observed != Observed::Cleaned;
    for mount in &record.mounts {
        let volume: Option<(String, String)> = c
            .prepare_cached("SELECT access_mode, tree_id FROM volume WHERE id = ?1 AND team_id = ?2")?
            .query_row((&mount.volume_id, &record.team_id), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((mode, tree)) = volume else {
            if is_new {
                return Err(StoreError::NotFound { what: "volume", id: mount.volume_id.clone() });
            }
            // Deleted by force; its sandboxes are about to be told.
            continue;
        };
        if trees.get(&mount.volume_id).is_some_and(|launched| *launched != tree) {
            return Err(StoreError::Stale { what: "volume", id: mount.volume_id.clone() });
        }
        if holds && mode == AccessMode::Rwo.as_str() {
            let sql = "SELECT sandbox_id FROM volume_mount WHERE volume_id = ?1 AND sandbox_id <> ?2 AND holds LIMIT 1";
            let other: Option<String> = c.prepare_cached(sql)?.query_row((&mount.volume_id, &record.id), |row| row.get(0)).optional()?;
            if let Some(by) = other {
                return Err(StoreError::Mounted { volume: mount.volume_id.clone(), by });
            }
        }
        let sql = "INSERT INTO volume_mount (sandbox_id, volume_id, mount_point, read_only, holds) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (sandbox_id, mount_point) DO UPDATE SET holds = excluded.holds";
        c.prepare_cached(sql)?.execute((&record.id, &mount.volume_id, &mount.mount_point, mount.read_only, holds))?;
    }
    Ok(())
}

fn holders(c: &Connection, id: &str) -> Result<Vec<Holder>, StoreError> {
    let mut statement = c.prepare_cached(
        "SELECT sandbox_id, min(read_only), max(holds) FROM volume_mount JOIN sandbox ON sandbox.id = sandbox_id
        WHERE volume_id = ?1 AND desired <> 'deleted' GROUP BY sandbox_id",
    )?;
    let rows = statement.query_map([id], |row| Ok(Holder { sandbox_id: row.get(0)?, read_only: row.get(1)?, holds: row.get(2)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn record(row: &Row<'_>) -> Result<VolumeRecord, StoreError> {
    let mode: String = row.get(4)?;
    Ok(VolumeRecord {
        id: row.get(0)?,
        team_id: row.get(1)?,
        user_id: row.get(2)?,
        name: row.get(3)?,
        access_mode: AccessMode::named(&mode).ok_or_else(|| StoreError::corrupt("volume", &mode))?,
        tree_id: row.get(5)?,
        size_limit_bytes: row.get(6)?,
        uid: row.get(7)?,
        gid: row.get(8)?,
        source_volume_id: row.get(9)?,
        created_at_ms: row.get(10)?,
        updated_at_ms: row.get(11)?,
        version: row.get(12)?,
        owner: row.get(13)?,
    })
}

fn snapshot(row: &Row<'_>) -> rusqlite::Result<VolumeSnapshotRecord> {
    Ok(VolumeSnapshotRecord {
        id: row.get(0)?,
        volume_id: row.get(1)?,
        name: row.get(2)?,
        description: row.get(3)?,
        tree_id: row.get(4)?,
        size_bytes: row.get(5)?,
        created_at_ms: row.get(6)?,
    })
}
