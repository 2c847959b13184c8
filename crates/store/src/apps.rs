//! Apps and their versions. A version's row comes before its files, and names them when it is ready; who takes the last row away
//! is told what it named.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_api::template::TemplateSpec;
use sandbar_core::{
    app::{Desired, VersionState, run::Withdrawn},
    limits::deploys as limits,
    sandbox::Base,
};
use serde::Serialize;
use serde_json::Value;

use crate::{Store, StoreError, app_runs, app_schedules, error::taken};

mod env;
mod sandboxes;
mod setups;
mod versions;
mod volumes;

pub use env::AppEnv;
pub use sandboxes::AppSandboxRecord;
pub use setups::NewAppSetup;
pub use versions::{AppVersionRecord, NewAppVersion, Pruned};
pub use volumes::AppVolumeRecord;
pub(crate) use volumes::end_with_sandbox as end_volumes_with_sandbox;

/// An app's row.
#[derive(Debug, Clone, PartialEq)]
pub struct AppRecord {
    pub id: String,
    pub team_id: String,
    pub name: String,
    /// The newest version that there ever was.
    pub last_version: i64,
    /// What is started and run; none as long as nothing could be built.
    pub live_version: Option<i64>,
    pub desired: Desired,
    /// What was asked for at the start. The owner of starts says what it holds.
    pub launch: Value,
    /// How the entrypoint was seen last, for the time when nobody watches it.
    pub seen: Value,
    pub created_by: Option<String>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
    /// Grows with each write.
    pub generation: i64,
}

/// What rows of an app named that is gone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeletedApp {
    pub bases: Vec<Base>,
    /// Their rows say by now that they are to be ended.
    pub sandboxes: Vec<String>,
    /// Volumes that are deleted as soon as no sandbox has them.
    pub volumes_ended: Vec<AppVolumeRecord>,
    /// Volumes that stay.
    pub volumes_left: Vec<AppVolumeRecord>,
}

const COLUMNS: &str = "id, team_id, name, last_version, live_version, desired, launch, seen, created_by, created_at_ms, updated_at_ms, generation";

impl Store {
    /// An app of a team by its name.
    pub async fn app_find(&self, team_id: &str, name: &str) -> Result<Option<AppRecord>, StoreError> {
        let (team_id, name) = (team_id.to_owned(), name.to_owned());
        self.engine.read("read an app", move |c| find(c, &team_id, &name)).await
    }

    /// The id of an app of a team by its name or id. Of one that was deleted: by what is kept of its runs, the last one of that name.
    pub async fn app_id_of(&self, team_id: &str, name_or_id: &str) -> Result<Option<String>, StoreError> {
        let (team_id, name) = (team_id.to_owned(), name_or_id.to_owned());
        self.engine
            .read("find an app", move |c| {
                for sql in [
                    "SELECT id FROM app WHERE team_id = ?1 AND name = ?2",
                    "SELECT app_id FROM app_run WHERE app_id = ?2 AND team_id = ?1 LIMIT 1",
                    "SELECT app_id FROM app_run WHERE team_id = ?1 AND app_name = ?2 ORDER BY created_at_ms DESC LIMIT 1",
                    "SELECT app_id FROM app_receipt WHERE app_id = ?2 AND team_id = ?1 LIMIT 1",
                ] {
                    if let Some(id) = c.prepare_cached(sql)?.query_row((&team_id, &name), |row| row.get(0)).optional()? {
                        return Ok(Some(id));
                    }
                }
                Ok(None)
            })
            .await
    }

    /// An app of whatever team.
    pub async fn app_get(&self, id: &str) -> Result<Option<AppRecord>, StoreError> {
        let id = id.to_owned();
        self.engine.read("read an app", move |c| by_id(c, &id)).await
    }

    /// The team's apps by name.
    pub async fn apps_list(&self, team_id: &str) -> Result<Vec<AppRecord>, StoreError> {
        self.apps("SELECT {COLUMNS} FROM app WHERE team_id = ?1 ORDER BY name", Some(team_id.to_owned())).await
    }

    /// Every app that is to be online, of every team.
    pub async fn apps_online(&self) -> Result<Vec<AppRecord>, StoreError> {
        self.apps("SELECT {COLUMNS} FROM app WHERE desired = 'online' ORDER BY id", None).await
    }

    async fn apps(&self, sql: &'static str, param: Option<String>) -> Result<Vec<AppRecord>, StoreError> {
        self.engine
            .read("list apps", move |c| {
                let mut statement = c.prepare_cached(&sql.replace("{COLUMNS}", COLUMNS))?;
                let rows = statement.query_map(rusqlite::params_from_iter(param), |row| Ok(record(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Says what is wanted of an app. With the generation that was seen; an app that was changed since is refused as stale.
    pub async fn app_want(&self, id: &str, generation: i64, desired: Desired, launch: &Value, now_ms: i64) -> Result<AppRecord, StoreError> {
        let (id, launch) = (id.to_owned(), json(launch)?);
        self.engine
            .write("say what is wanted of an app", move |c| {
                let sql = format!(
                    "UPDATE app SET desired = ?3, launch = ?4, updated_at_ms = ?5, generation = generation + 1 WHERE id = ?1 AND generation = ?2 RETURNING {COLUMNS}"
                );
                let changed = c.prepare_cached(&sql)?.query_row((&id, generation, desired.as_str(), launch, now_ms), |row| Ok(record(row))).optional()?;
                changed.unwrap_or_else(|| refused(c, id))
            })
            .await
    }

    /// Keeps how an app's entrypoint was seen. Of an app that is gone nothing is kept.
    pub async fn app_seen(&self, id: &str, seen: &Value) -> Result<(), StoreError> {
        let (id, seen) = (id.to_owned(), json(seen)?);
        self.engine
            .write("keep how an app was seen", move |c| {
                c.prepare_cached("UPDATE app SET seen = ?2 WHERE id = ?1")?.execute((id, seen))?;
                Ok(())
            })
            .await
    }

    /// Makes another version the live one: one that is ready.
    pub async fn app_set_live(&self, id: &str, number: i64, now_ms: i64) -> Result<AppRecord, StoreError> {
        let id = id.to_owned();
        self.engine
            .write("set an app's live version", move |c| {
                let sql = "SELECT state FROM app_version WHERE app_id = ?1 AND number = ?2";
                let state: Option<String> = c.prepare_cached(sql)?.query_row((&id, number), |row| row.get(0)).optional()?;
                match state.as_deref().map(VersionState::named) {
                    None => Err(StoreError::NotFound { what: "version", id: number.to_string() }),
                    Some(Some(VersionState::Ready)) => {
                        set_live(c, &id, number, now_ms)?;
                        by_id(c, &id)?.ok_or(StoreError::NotFound { what: "app", id })
                    }
                    Some(_) => Err(StoreError::Unfit(format!("version {number} is not ready, so it cannot be the live one"))),
                }
            })
            .await
    }

    /// Deletes an app with its versions, schedules and variables. Its sandboxes are to be ended from then on, and runs that have not
    /// ended; runs and receipts are kept, and without `volumes` those of its volumes that do not go with its sandbox.
    pub async fn app_delete(&self, id: &str, volumes: bool, now_ms: i64) -> Result<DeletedApp, StoreError> {
        let id = id.to_owned();
        self.engine
            .write("delete an app", move |c| {
                let mut bases = texts(c, "SELECT base FROM app_version WHERE app_id = ?1 AND base IS NOT NULL", &id)?;
                bases.extend(texts(c, "DELETE FROM app_setup WHERE app_id = ?1 RETURNING base", &id)?);
                let sql = "DELETE FROM app WHERE id = ?1 RETURNING team_id, name";
                let deleted = c.prepare_cached(sql)?.query_row([&id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
                let Some((team_id, name)): Option<(String, String)> = deleted else { return Err(StoreError::NotFound { what: "app", id }) };
                let (volumes_ended, volumes_left) = volumes::end(c, &team_id, &name, volumes)?;
                // Whoever asked for one meanwhile, too.
                app_runs::withdraw_all(c, &id, Withdrawn::AppDeleted, now_ms)?;
                let sandboxes = texts(c, "UPDATE app_sandbox SET state = 'removing' WHERE app_id = ?1 RETURNING sandbox_id", &id)?;
                let bases = bases.iter().map(|text| base(text)).collect::<Result<_, _>>()?;
                Ok(DeletedApp { bases, sandboxes, volumes_ended, volumes_left })
            })
            .await
    }
}

fn texts(c: &Connection, sql: &str, id: &str) -> Result<Vec<String>, StoreError> {
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map([id], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn refused<T>(c: &Connection, id: String) -> Result<T, StoreError> {
    let what = "app";
    Err(if c.prepare_cached("SELECT 1 FROM app WHERE id = ?1")?.exists([&id])? { StoreError::Stale { what, id } } else { StoreError::NotFound { what, id } })
}

fn find(c: &Connection, team_id: &str, name: &str) -> Result<Option<AppRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM app WHERE team_id = ?1 AND name = ?2");
    c.prepare_cached(&sql)?.query_row((team_id, name), |row| Ok(record(row))).optional()?.transpose()
}

fn by_id(c: &Connection, id: &str) -> Result<Option<AppRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM app WHERE id = ?1");
    c.prepare_cached(&sql)?.query_row([id], |row| Ok(record(row))).optional()?.transpose()
}

/// Stores a new app. A team may have a limited number.
fn insert(c: &Connection, app: &AppRecord) -> Result<(), StoreError> {
    let count: usize = c.prepare_cached("SELECT count(*) FROM app WHERE team_id = ?1")?.query_row([&app.team_id], |row| row.get(0))?;
    if count >= limits::APPS_PER_TEAM_MAX {
        return Err(StoreError::TooMany { what: "apps of this team", max: limits::APPS_PER_TEAM_MAX });
    }
    let sql = format!("INSERT INTO app ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)");
    c.prepare_cached(&sql)?
        .execute((
            &app.id,
            &app.team_id,
            &app.name,
            app.last_version,
            app.live_version,
            app.desired.as_str(),
            json(&app.launch)?,
            json(&app.seen)?,
            &app.created_by,
            app.created_at_ms,
            app.updated_at_ms,
            app.generation,
        ))
        .map_err(taken("app"))?;
    Ok(())
}

fn set_live(c: &Connection, id: &str, number: i64, now_ms: i64) -> Result<(), StoreError> {
    let sql = "UPDATE app SET live_version = ?2, updated_at_ms = ?3, generation = generation + 1 WHERE id = ?1";
    c.prepare_cached(sql)?.execute((id, number, now_ms))?;
    let sql = "SELECT a.team_id, v.manifest FROM app a JOIN app_version v ON v.app_id = a.id WHERE a.id = ?1 AND v.number = ?2";
    let (team_id, manifest): (String, String) = c.prepare_cached(sql)?.query_row((id, number), |row| Ok((row.get(0)?, row.get(1)?)))?;
    app_schedules::reconcile(c, &team_id, id, &manifest, now_ms)
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::corrupt("app", &e))
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::corrupt("app", &e))
}

fn base(text: &str) -> Result<Base, StoreError> {
    read(text)
}

fn template(text: &str) -> Result<TemplateSpec, StoreError> {
    read(text)
}

fn record(row: &Row<'_>) -> Result<AppRecord, StoreError> {
    let desired: String = row.get(5)?;
    Ok(AppRecord {
        id: row.get(0)?,
        team_id: row.get(1)?,
        name: row.get(2)?,
        last_version: row.get(3)?,
        live_version: row.get(4)?,
        desired: Desired::named(&desired).ok_or_else(|| StoreError::corrupt("app", &desired))?,
        // What was asked for at a start, and how it was seen last: without these an app can be started anew all the same.
        launch: read(&row.get::<_, String>(6)?).unwrap_or_default(),
        seen: read(&row.get::<_, String>(7)?).unwrap_or_default(),
        created_by: row.get(8)?,
        created_at_ms: row.get(9)?,
        updated_at_ms: row.get(10)?,
        generation: row.get(11)?,
    })
}
