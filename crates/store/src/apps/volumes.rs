//! The volumes that apps declare. They are volumes of the team like others, and a row here says of which app one is, by the app's name:
//! so they stay when it is deleted, and it has them again when it is deployed again.

use rusqlite::{Connection, Row, params_from_iter};

use crate::{Store, StoreError, VolumeRecord, volumes};

/// A volume of an app.
#[derive(Debug, Clone, PartialEq)]
pub struct AppVolumeRecord {
    pub volume: VolumeRecord,
    pub app_name: String,
    /// In the manifest.
    pub name: String,
    /// Whether it goes with the app's sandbox, and with the app.
    pub with_sandbox: bool,
    /// It is to be deleted as soon as no sandbox has it.
    pub removing: bool,
}

impl Store {
    /// The volume that an app has under a name.
    pub async fn app_volume_find(&self, team_id: &str, app_name: &str, name: &str) -> Result<Option<AppVolumeRecord>, StoreError> {
        let key = (team_id.to_owned(), app_name.to_owned(), name.to_owned());
        self.engine.read("read a volume of an app", move |c| find(c, (&key.0, &key.1, &key.2))).await
    }

    /// The app that a volume is of, if it is one's.
    pub async fn app_volume_of(&self, volume_id: &str) -> Result<Option<AppVolumeRecord>, StoreError> {
        let id = volume_id.to_owned();
        self.engine.read("read the app of a volume", move |c| Ok(list(c, "a.volume_id = ?1", &[&id])?.pop())).await
    }

    /// The volumes of an app by name, without those that are to be deleted.
    pub async fn app_volumes(&self, team_id: &str, app_name: &str) -> Result<Vec<AppVolumeRecord>, StoreError> {
        let (team_id, app_name) = (team_id.to_owned(), app_name.to_owned());
        let sql = "a.team_id = ?1 AND a.app_name = ?2 AND a.state = 'kept'";
        self.engine.read("list volumes of an app", move |c| list(c, sql, &[&team_id, &app_name])).await
    }

    /// The volumes that an app of a name had, and that are to be deleted and are not yet.
    pub async fn app_volumes_ending(&self, team_id: &str, app_name: &str) -> Result<Vec<AppVolumeRecord>, StoreError> {
        let (team_id, app_name) = (team_id.to_owned(), app_name.to_owned());
        let sql = "a.team_id = ?1 AND a.app_name = ?2 AND a.state = 'removing'";
        self.engine.read("list volumes of an app that are to be deleted", move |c| list(c, sql, &[&team_id, &app_name])).await
    }

    /// Stores a new volume of an app, unless the app has one of that name by now: returns that one then. Refused when the app is gone. A
    /// team may have a limited number of volumes.
    pub async fn app_volume_insert(&self, new: &AppVolumeRecord) -> Result<AppVolumeRecord, StoreError> {
        let new = new.clone();
        self.engine
            .write("insert a volume of an app", move |c| {
                if let Some(there) = find(c, (&new.volume.team_id, &new.app_name, &new.name))? {
                    return Ok(there);
                }
                let sql = "SELECT 1 FROM app WHERE team_id = ?1 AND name = ?2";
                if !c.prepare_cached(sql)?.exists((&new.volume.team_id, &new.app_name))? {
                    return Err(StoreError::NotFound { what: "app", id: new.app_name });
                }
                volumes::check_count(c, &new.volume.team_id)?;
                volumes::insert(c, &new.volume)?;
                let sql =
                    "INSERT INTO app_volume (volume_id, team_id, app_name, name, with_sandbox, state, created_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, 'kept', ?6)";
                let volume = &new.volume;
                c.prepare_cached(sql)?.execute((&volume.id, &volume.team_id, &new.app_name, &new.name, new.with_sandbox, volume.created_at_ms))?;
                Ok(new)
            })
            .await
    }

    /// Lets a volume of an app be as another version of the manifest says.
    pub async fn app_volume_set(&self, volume_id: &str, size_limit_bytes: u64, with_sandbox: bool, now_ms: i64) -> Result<(), StoreError> {
        let id = volume_id.to_owned();
        self.engine
            .write("change a volume of an app", move |c| {
                c.prepare_cached("UPDATE app_volume SET with_sandbox = ?2 WHERE volume_id = ?1")?.execute((&id, with_sandbox))?;
                let sql = "UPDATE volume SET size_limit_bytes = ?2, updated_at_ms = ?3 WHERE id = ?1 AND size_limit_bytes <> ?2";
                c.prepare_cached(sql)?.execute((&id, size_limit_bytes, now_ms))?;
                Ok(())
            })
            .await
    }

    /// The sandbox of an app was deleted: volumes that are to go with it go, as soon as no other sandbox has them.
    pub async fn app_volumes_end(&self, team_id: &str, app_name: &str) -> Result<(), StoreError> {
        let (team_id, app_name) = (team_id.to_owned(), app_name.to_owned());
        self.engine.write("say that volumes of an app are to be deleted", move |c| end(c, &team_id, &app_name, false).map(drop)).await
    }

    /// Volumes that are to be deleted and that no sandbox has any more: team and id.
    pub async fn app_volumes_removable(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.engine
            .read("list volumes of apps that are to be deleted", |c| {
                let sql = "SELECT team_id, volume_id FROM app_volume AS a WHERE state = 'removing'
                    AND NOT EXISTS (SELECT 1 FROM volume_mount WHERE volume_id = a.volume_id) ORDER BY volume_id";
                let mut statement = c.prepare_cached(sql)?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Stores a volume that only a sandbox of an app has, and which goes with it. After the row of the sandbox.
    pub async fn app_scratch_insert(&self, volume: &VolumeRecord) -> Result<(), StoreError> {
        let volume = volume.clone();
        self.engine
            .write("insert a volume of a sandbox", move |c| {
                let sql = "SELECT 1 FROM app_sandbox WHERE sandbox_id = ?1 AND state = 'wanted'";
                if !c.prepare_cached(sql)?.exists([&volume.owner])? {
                    return Err(StoreError::NotFound { what: "sandbox", id: volume.owner.unwrap_or_default() });
                }
                volumes::insert(c, &volume)
            })
            .await
    }
}

/// Says of an app's volumes that they are to be deleted: of all, or of those that go with its sandbox. Returns those that are, and
/// those that stay.
pub(super) fn end(c: &Connection, team_id: &str, app_name: &str, all: bool) -> Result<(Vec<AppVolumeRecord>, Vec<AppVolumeRecord>), StoreError> {
    let kept = list(c, "a.team_id = ?1 AND a.app_name = ?2 AND a.state = 'kept'", &[team_id, app_name])?;
    let (ended, left): (Vec<_>, Vec<_>) = kept.into_iter().partition(|volume| all || volume.with_sandbox);
    let mut statement = c.prepare_cached("UPDATE app_volume SET state = 'removing' WHERE volume_id = ?1")?;
    for volume in &ended {
        statement.execute([&volume.volume.id])?;
    }
    Ok((ended, left))
}

/// Somebody deletes a sandbox: where it is an app's own, and not one that makes room for another, volumes that are to go with it do, as
/// soon as no run has them.
pub(crate) fn end_with_sandbox(c: &Connection, sandbox_id: &str) -> Result<(), StoreError> {
    let sql = "UPDATE app_volume SET state = 'removing' WHERE state = 'kept' AND with_sandbox AND (team_id, app_name) IN (
        SELECT app.team_id, app.name FROM app_sandbox AS s JOIN app ON app.id = s.app_id WHERE s.sandbox_id = ?1 AND s.kind = 'app' AND s.state = 'wanted')";
    c.prepare_cached(sql)?.execute([sandbox_id])?;
    Ok(())
}

fn find(c: &Connection, (team_id, app_name, name): (&str, &str, &str)) -> Result<Option<AppVolumeRecord>, StoreError> {
    let sql = "a.team_id = ?1 AND a.app_name = ?2 AND a.name = ?3 AND a.state = 'kept'";
    Ok(list(c, sql, &[team_id, app_name, name])?.pop())
}

fn list(c: &Connection, which: &str, params: &[&str]) -> Result<Vec<AppVolumeRecord>, StoreError> {
    let columns = volumes::COLUMNS.split(", ").map(|column| format!("v.{column}")).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT {columns}, a.app_name, a.name, a.with_sandbox, a.state FROM app_volume AS a JOIN volume AS v ON v.id = a.volume_id WHERE {which} ORDER BY a.name"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let rows = statement.query_map(params_from_iter(params), |row| Ok(record(row)))?;
    rows.map(|row| row?).collect()
}

fn record(row: &Row<'_>) -> Result<AppVolumeRecord, StoreError> {
    let state: String = row.get("state")?;
    Ok(AppVolumeRecord { volume: volumes::record(row)?, app_name: row.get(14)?, name: row.get(15)?, with_sandbox: row.get(16)?, removing: state == "removing" })
}
